"""The command `mrlato-offload`: tables, JSON and pictures for a file, and one line for what is wrong."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.dag.formats import any_format
from mrlato_jax.dag.task_graph import levels
from mrlato_jax.drawing import png
from mrlato_jax.inference import command, pictures
from mrlato_jax.mec.system import task_times
from mrlato_jax.mec.transfers import link_of, transfers

ROOT = Path(__file__).resolve().parents[2]
LINK = ["--uplink_mbps=7", "--downlink_mbps=5"]
SYSTEM = mj.System(uplink_bps=7e6, downlink_bps=5e6, channel="resident")
RETURNS = dataclasses.replace(SYSTEM, channel="paper")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("app") / "app.json"
    mj.write_json(mj.daggen(8, 0.6, 0.6, np.random.default_rng(0)), path)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = command.main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_table_placements_and_two_pictures(app: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, f"--graph={app}", *LINK, f"--out={tmp_path}", "--samples=2", "--policy=exp2")
    assert status == 0
    graph = mj.read_json(app)
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    table = {line[0]: line[1:] for line in lines}
    for name, planner in {"HEFT-based": mj.heft, "greedy": mj.greedy, "all-local": mj.all_local}.items():
        assert table[name][0] == f"{1e3 * planner(graph, SYSTEM).makespan:.1f}"
    optimum = mj.optimum(graph, SYSTEM)
    assert optimum.proven
    assert table["optimum"][0] == f"{1e3 * optimum.makespan:.1f}"
    assert float(table["learned (search)"][0]) <= min(float(table[name][0]) for name in ("HEFT-based", "greedy"))
    places = [line for line in lines if line[0].isdecimal()]
    assert sorted(int(line[1]) for line in places) == list(range(8))
    assert {line[3] for line in places} <= {"local", "offload"}
    for what in ("dag", "schedule"):
        assert (tmp_path / f"app-{what}.png").read_bytes().startswith(PNG)


def test_json_is_all_that_is_printed(app: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"--graph={app}", "--json", f"--out={tmp_path}", "--mode=argmax", "--policy=exp2"]
    status, out, _ = run(capsys, *LINK, *arguments)
    assert status == 0
    assert not list(tmp_path.iterdir())
    found, graph = json.loads(out), mj.read_json(app)
    assert found["tasks"] == list(graph.names)
    assert found["system"]["uplink_bps"] == 7e6
    for plan in found["plans"].values():
        again = mj.simulate(graph, SYSTEM, plan["placement"], plan["order"])
        assert again.makespan == pytest.approx(plan["makespan_s"], rel=1e-12)
    assert found["plans"]["optimum"]["proven"] is True
    best = found["plans"][found["best"]]
    least = min(plan["makespan_s"] for plan in found["plans"].values())
    assert best["makespan_s"] == pytest.approx(least)
    assert best is next(
        plan for plan in found["plans"].values() if plan["makespan_s"] <= least * (1 + 1e-9)
    )  # the simplest
    ends = found["schedule_of_best_s"]
    assert max(max(values) for values in ends.values()) == pytest.approx(best["makespan_s"])


def test_the_papers_rule_is_one_flag_away(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = mj.read_json(app)
    for flag, channel in (("--results=return", "paper"), ("--channel=mrlco", "mrlco")):
        status, out, _ = run(capsys, f"--graph={app}", *LINK, flag, "--nofigures", "--mode=argmax", "--optimum_s=0")
        assert status == 0
        assert f"results return ({channel}): all results are sent back to the UE" in out
        want = mj.heft(graph, dataclasses.replace(SYSTEM, channel=channel)).makespan
        assert f"| HEFT-based      | {1e3 * want:>12.1f} |".replace(" ", "") in out.replace(" ", "")


def test_servers_pins_energy_and_a_front(app: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = mj.read_json(app)
    wide = ["--server=10,7,5", "--server=40,3,3", "--backhaul_mbps=100", "--power=1,2,3,0.5", "--energy_weight=0.25"]
    arguments = [f"--graph={app}", *wide, f"--pin={graph.names[0]}=ue", f"--pin={graph.names[1]}=server", "--front=4"]
    arguments += ["--mode=argmax"]
    status, out, _ = run(capsys, *arguments, "--json")
    assert status == 0
    told = json.loads(out)
    system = mj.System(
        1e9, [10e9, 40e9], [7e6, 3e6], [5e6, 3e6], "resident", backhaul_bps=100e6, power=mj.Power(1, 2, 3, 0.5)
    )
    pinned = dataclasses.replace(graph, pins=("ue", "server", *["any"] * 6))
    best = mj.optimum(pinned, system, objective=mj.Objective(0.25))
    assert told["plans"]["optimum"]["energy_j"] == pytest.approx(best.energy)
    assert told["plans"]["optimum"]["makespan_s"] == pytest.approx(best.makespan)
    assert told["pins"] == list(pinned.pins)
    assert told["objective"] == {"energy_weight": 0.25, "deadline_s": None}
    assert any(name.startswith("learned") for name in told["plans"])
    for plan in [*told["plans"].values(), *told["front"]]:
        assert plan["placement"][0] == 0 < plan["placement"][1]
        again = mj.simulate(pinned, system, plan["placement"], plan["order"])
        assert (again.makespan, again.energy) == pytest.approx((plan["makespan_s"], plan["energy_j"]))
    want = mj.front(pinned, system, points=4)
    assert [plan["energy_j"] for plan in told["front"]] == pytest.approx([plan.energy for plan in want])
    status, out, _ = run(capsys, *arguments, f"--out={tmp_path}")
    assert status == 0
    assert "results resident: a result stays where it was computed" in out
    assert "2 servers, radio shared; least makespan + 0.25 s/J x energy" in out
    for what in ("dag", "schedule", "front"):
        assert (tmp_path / f"app-{what}.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_a_deadline_that_no_plan_meets_is_answered(app: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, f"--graph={app}", *LINK, "--deadline_ms=1", "--json", "--mode=sample", "--samples=2")
    assert status == 0
    best = json.loads(out)["plans"]["optimum"]
    assert best["meets_deadline"] is False
    assert best["lower_bound_s"] == pytest.approx(best["makespan_s"])
    assert best["makespan_s"] == pytest.approx(mj.optimum(mj.read_json(app), SYSTEM).makespan)


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["--server=10,7"], "server[1] is '10,7'; accepted: GHZ,UP,DOWN, numbers"),
        (
            ["--server=10,7,5", "--uplink_mbps=3"],
            "uplink_mbps is 3.0 with --server; accepted: --server=GHZ,UP,DOWN alone",
        ),
        (["--server=10,7,5", "--server=0,7,5"], "System.vm_hz[1] is 0.0; accepted"),
        (["--uplink_mbps=3"], "downlink_mbps is missing; accepted: a rate in Mbit/s, or --server=GHZ,UP,DOWN"),
        ([*LINK, "--pin=nothing=ue"], "pin is 'nothing=ue'; accepted: TASK=SITE with the name of a task of the graph"),
        ([*LINK, "--pin=0=phone"], "pin of '0' is 'phone'; accepted: any, ue, server"),
        ([*LINK, "--power=1,2"], "power is '1,2'; accepted: C,S,R,I, numbers"),
        ([*LINK, "--power=1,2,3,-1"], "Power.idle_w is -1.0; accepted"),
        ([*LINK, "--energy_weight=-1"], "Objective.energy_weight is -1.0; accepted"),
        ([*LINK, "--deadline_ms=0"], "Objective.deadline_s is 0.0; accepted"),
        ([*LINK, "--channel=paper", "--results=resident"], "channel is paper with --results=resident; accepted"),
        ([*LINK, "--front=1"], "front is 1; accepted: an integer in [2, 1000]"),
        (
            [*LINK, "--energy_weight=1", "--mode=argmax", "--policy=exp2"],
            "objective is Objective(energy_weight=1.0, deadline_s=None) with mode 'argmax'; accepted: the makespan",
        ),
    ],
)
def test_what_is_wrong_with_a_wider_system(
    app: Path, arguments: list[str], phrase: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, f"--graph={app}", "--json", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {phrase}")
    assert err.count("\n") == 1


@pytest.mark.parametrize("num_tasks", [1, pytest.param(110, marks=pytest.mark.slow)])
def test_the_smallest_and_larger_ones(num_tasks: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mj.write_json(mj.daggen(num_tasks, 0.5, 0.3, np.random.default_rng(1)), tmp_path / "g.json")
    arguments = [f"--graph={tmp_path / 'g.json'}", *LINK, "--mode=argmax", f"--out={tmp_path}", "--policy=exp2"]
    status, out, err = run(capsys, *arguments)
    assert status == 0
    assert ("| optimum" in out) == (num_tasks == 1)
    assert ("... and 50 more" in out) == (num_tasks == 110)
    assert ("tasks is 110 (10 to 50 in training)" in err) == (num_tasks == 110)
    assert (tmp_path / "g-schedule.png").exists()


def test_other_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "g.gv").write_text(
        'digraph G { 1 [size="4000", expect_size="2000"] 2 [size="6000", expect_size="1"] 1 -> 2 }'
    )
    tasks = [{"name": "a", "runtimeInSeconds": 2}, {"name": "b", "runtimeInSeconds": 1, "parents": ["a"]}]
    workflow = {"schemaVersion": "1.4", "workflow": {"tasks": tasks}}
    (tmp_path / "w.json").write_text(json.dumps(workflow))
    shared = [*LINK, "--json", "--mode=argmax"]
    status, out, _ = run(capsys, f"--graph={tmp_path / 'g.gv'}", "--cycles_per_byte=1e4", *shared)
    assert status == 0
    assert json.loads(out)["plans"]["all-local"]["makespan_s"] == pytest.approx(0.1)
    status, out, _ = run(capsys, f"--graph={tmp_path / 'w.json'}", "--machine_hz=2e9", *shared)
    assert status == 0
    assert json.loads(out)["plans"]["all-local"]["makespan_s"] == pytest.approx(6.0)


def test_an_onnx_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    shape = [helper.make_tensor_value_info(name, kind, ["batch", 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", shape[:1], shape[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "m.onnx"))
    arguments = [f"--graph={tmp_path / 'm.onnx'}", *LINK, "--json", "--mode=argmax", "--cycles_per_mac=1e6"]
    status, out, _ = run(capsys, *arguments, "--dimension=batch=5")
    assert status == 0
    assert json.loads(out)["plans"]["all-local"]["makespan_s"] == pytest.approx(0.02)
    status, _, err = run(capsys, *arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert "has a dimension 'batch'" in err
    for wrong in ("batch", "batch=2.9", "batch=inf"):
        status, _, err = run(capsys, *arguments, f"--dimension={wrong}")
        assert (status, err) == (
            2,
            f"error: --dimension is '{wrong}'; accepted: NAME=SIZE with an integer, each NAME once\n",
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--graph=none.json"], "none.json"),
        (["--graph=app.txt"], "file is app.txt; accepted: a file that ends in .dot, .gv, .json or .onnx"),
        (["--graph={app}", "--uplink_mbps=0"], "System.uplink_bps is 0.0; accepted: a finite number in (0, inf)"),
        (["--graph={app}", "--machine_hz=1e9"], "--machine_hz is given with app.json, JSON; accepted: with WfFormat"),
        (
            ["--graph={app}", "--cycles_per_byte=3"],
            "--cycles_per_byte is given with app.json, JSON; accepted: with DOT",
        ),
        (["--graph={app}", "--policy=exp9"], "source is 'exp9'; accepted: exp1, exp2, exp3, general"),
        (["--graph={app}", "--samples=0"], "samples is 0; accepted: an integer in [1, inf)"),
        (["--graph={app}", "--optimum_s=-1"], "optimum_s is -1.0; accepted: a finite number in [0, inf)"),
    ],
)
def test_what_is_wrong_is_one_line(
    app: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [argument.format(app=app) for argument in arguments]
    status, _, err = run(capsys, *LINK, *given, "--nofigures")
    assert (status, err.count("\n")) == (2, 1)
    assert message in err


def test_an_onnx_model_needs_its_cycles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.onnx").write_bytes(b"x")
    status, _, err = run(capsys, f"--graph={tmp_path / 'm.onnx'}", *LINK)
    assert status == 2
    assert "--cycles_per_mac is missing; accepted: a number > 0, which m.onnx, ONNX, does not say" in err


def test_the_script_and_its_help() -> None:
    ran = subprocess.run(
        [sys.executable, "launch/offload.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    for word in ("--uplink_mbps", "Mbit/s", "mrlato-offload", "--cycles_per_mac"):
        assert word in ran.stdout


# Pictures, by what is drawn.


def drawn(graph: mj.TaskGraph, plan: mj.Plan, system: mj.System) -> Any:
    pytest.importorskip("matplotlib")
    return pictures.schedule_figure(graph, system, plan).axes[0]


def test_a_schedule_of_several_servers_has_a_row_for_each() -> None:
    graph = mj.daggen(8, 0.6, 0.6, np.random.default_rng(2))
    system = mj.System(vm_hz=[10e9, 20e9], channel="resident")
    plan = mj.optimum(graph, system)
    axes = drawn(graph, plan, system)
    rows = ["UE", "uplink", "server 1", "server 2", "backhaul", "downlink"]
    assert [label.get_text() for label in axes.get_yticklabels()] == rows
    wanted = [
        (rows.index(link_of(system, one.source, one.target)), one.start, one.end)
        for one in transfers(graph, system, plan.placement, plan.order, plan.schedule)
    ]
    times = task_times(graph, system)
    for task, site in enumerate(plan.placement.tolist()):
        end = (plan.schedule.vm_end if site else plan.schedule.ue_end)[task]
        wanted.append(((0, 2, 3)[site], end - (times.vm[task, site - 1] if site else times.ue[task]), end))
    shown = [(middle(bar), bar.get_x() / 1e3, (bar.get_x() + bar.get_width()) / 1e3) for bar in axes.patches]
    np.testing.assert_allclose(sorted(shown), sorted(wanted), atol=1e-9)
    assert max(end for *_, end in shown) == pytest.approx(plan.makespan)
    apart = dataclasses.replace(system, radio="separate")
    labels = [label.get_text() for label in drawn(graph, mj.heft(graph, apart), apart).get_yticklabels()]
    assert labels == [
        "UE", "uplink 1", "uplink 2", "server 1", "server 2", "backhaul", "downlink 1", "downlink 2"
    ]  # fmt: skip


def test_the_schedule_has_a_bar_for_each_use_of_a_resource() -> None:
    graph = mj.daggen(8, 0.6, 0.6, np.random.default_rng(2))
    plan = mj.heft(graph, RETURNS)
    offloaded = int(plan.placement.sum())
    assert 0 < offloaded < 8
    bars = drawn(graph, plan, RETURNS).patches
    assert len(bars) == 8 - offloaded + 3 * offloaded
    last = max(bar.get_x() + bar.get_width() for bar in bars)
    assert last == pytest.approx(1e3 * plan.makespan)
    assert {middle(bar) for bar in bars} == {0, 1, 2, 3}
    for row in range(4):  # each resource serves one task at a time
        spans = sorted((bar.get_x(), bar.get_width()) for bar in bars if middle(bar) == row)
        for (start, width), (following, _) in pairwise(spans):
            assert start + width <= following + 1e-6


def middle(bar: Any) -> int:
    """The row that a bar is in."""
    return round(bar.get_y() + bar.get_height() / 2)


def test_levels_by_hand() -> None:
    ones = [1.0] * 5
    graph = mj.TaskGraph.from_edges(
        cycles=ones, upload_bytes=ones, download_bytes=ones, edges=[(0, 1), (1, 2), (0, 2), (3, 2)]
    )
    assert levels(graph).tolist() == [0, 1, 2, 0, 0]


def test_a_plan_is_called_what_it_is() -> None:
    """An optimum only where it is proven; and who finds the same is named beside the best."""
    graph = mj.daggen(8, 0.6, 0.6, np.random.default_rng(2))
    proven, plan = mj.optimum(graph, SYSTEM), mj.heft(graph, SYSTEM)
    guess = dataclasses.replace(proven, proven=False, lower_bound=0.5 * proven.makespan)
    assert command.as_found("optimum", proven) == "optimum"
    assert command.as_found("optimum", guess) == "branch and bound, not proven"
    plans = {"all-local": (mj.all_local(graph, SYSTEM), 0.0), "HEFT-based": (plan, 0.0), "optimum": (guess, 0.0)}
    assert f"not proven: at least {500 * proven.makespan:.1f} ms" in command.plans_table(plans)
    worse = dataclasses.replace(plan, makespan=1.1 * proven.makespan)
    assert command.tied_with(mj.Objective(), {**plans, "HEFT-based": (worse, 0.0)}, "optimum") == ""
    same = {**plans, "HEFT-based": (proven, 0.0)}
    assert command.tied_with(mj.Objective(), same, "HEFT-based") == "; as good: branch and bound, not proven"


def test_edges_of_a_large_picture_are_drawn_at_once() -> None:
    pytest.importorskip("matplotlib")
    graph = mj.daggen(120, 0.6, 0.9, np.random.default_rng(0))
    assert len(graph.edges) > pictures.MOST_ARROWS
    axes = pictures.dag_figure(graph, mj.all_local(graph, SYSTEM)).axes[0]
    lines, dots = axes.collections
    assert len(lines.get_segments()) == len(graph.edges)
    assert not axes.texts
    places = np.asarray(dots.get_offsets())
    for (parent, child), (start, end) in zip(graph.edges, lines.get_segments(), strict=True):
        assert (start == places[parent]).all()
        assert (end == places[child]).all()


def test_what_formats_take_is_what_may_be_said() -> None:
    assert [field.name for field in dataclasses.fields(any_format.Unsaid)] == list(any_format.TAKEN_BY)


def test_names_are_drawn_as_they_are() -> None:
    pytest.importorskip("matplotlib")
    ones = [1e7, 1e7]
    graph = mj.TaskGraph.from_edges(
        cycles=ones, upload_bytes=ones, download_bytes=ones, edges=[], names=["a$\\q$", "\ud800\x1b[2J"]
    )
    assert png(pictures.dag_figure(graph, mj.all_local(graph, SYSTEM))).startswith(PNG)
    assert command.placements(graph, mj.all_local(graph, SYSTEM)).isascii()
