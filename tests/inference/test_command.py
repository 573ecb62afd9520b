"""The command `mrlato-offload`: tables, JSON and pictures for a file, and one line for what is wrong."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.dag.formats import any_format
from mrlato_jax.inference import command, comparing

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
    if find_spec("numba") is not None:
        assert float(table["order search"][0]) <= float(table["optimum"][0])
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


@pytest.mark.parametrize(
    ("flag", "channel"),
    [("--results=return", "paper"), pytest.param("--channel=mrlco", "mrlco", marks=pytest.mark.slow)],
)
def test_the_papers_rule_is_one_flag_away(
    flag: str, channel: str, app: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = mj.read_json(app)
    quick = ["--nofigures", "--mode=argmax", "--policy=exp2", "--optimum_s=0"]
    status, out, _ = run(capsys, f"--graph={app}", *LINK, flag, *quick)
    assert status == 0
    assert f"results return ({channel}): all results are sent back to the device" in out
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
    assert "2 servers, radio shared; best is the least makespan + 0.25 s/J x energy" in out
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
        (["--server=10,7"], "server[1] is '10,7'; accepted: numbers GHZ,UP,DOWN"),
        (
            ["--server=10,7,5", "--uplink_mbps=3"],
            "uplink_mbps is 3.0 with --server; accepted: --server=GHZ,UP,DOWN alone",
        ),
        (["--server=10,7,5", "--server=0,7,5"], "System.vm_hz[1] is 0.0; accepted"),
        (["--uplink_mbps=3"], "downlink_mbps is missing; accepted: a rate in Mbit/s, or --server=GHZ,UP,DOWN"),
        ([*LINK, "--pin=nothing=ue"], "pin is 'nothing=ue'; accepted: TASK=SITE with the name of a task in the graph"),
        ([*LINK, "--pin=0=phone"], "pin of '0' is 'phone'; accepted: any, ue, server"),
        ([*LINK, "--power=1,2"], "power is '1,2'; accepted: numbers C,S,R,I"),
        ([*LINK, "--power=1,2,3,-1"], "Power.idle_w is -1.0; accepted"),
        ([*LINK, "--energy_weight=-1"], "Objective.energy_weight is -1.0; accepted"),
        ([*LINK, "--deadline_ms=0"], "Objective.deadline_s is 0.0; accepted"),
        ([*LINK, "--channel=paper", "--results=resident"], "channel is paper with --results=resident; accepted"),
        (
            [*LINK, "--channel=resident"],
            "channel is 'resident'; accepted: paper, mrlco, mrlco_code, or --results=resident",
        ),
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
    shared = [*LINK, "--json", "--mode=argmax", "--policy=exp2"]
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
    arguments += ["--policy=exp2"]
    status, out, _ = run(capsys, *arguments, "--dimension=batch=5")
    assert status == 0
    assert json.loads(out)["plans"]["all-local"]["makespan_s"] == pytest.approx(0.02)
    status, _, err = run(capsys, *arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert err.endswith("accepted: --dimension=batch=SIZE\n")
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
        (["--graph=app.txt"], "file is app.txt; accepted: a file that ends in .dot, .gv, .graphml, .gml, .json,"),
        (["--graph={app}", "--uplink_mbps=0"], "System.uplink_bps is 0.0; accepted: a finite number in (0, inf)"),
        (["--graph={app}", "--machine_hz=1e9"], "--machine_hz is given with app.json, JSON; accepted: with WfFormat"),
        (
            ["--graph={app}", "--cycles_per_byte=3"],
            "--cycles_per_byte is given with app.json, JSON; accepted: with DOT",
        ),
        (["--graph={app}", "--policy=exp9"], "source is 'exp9'; accepted: exp1, exp2, exp3, general"),
        (["--graph={app}", "--samples=0"], "samples is 0; accepted: an integer in [1, inf)"),
        (["--graph={app}", "--optimum_s=-1"], "optimum_s is -1.0; accepted: a finite number in [0, inf)"),
        (["--graph={app}", "--orders_s=nan"], "orders_s is nan; accepted: a finite number in [0, inf)"),
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


def test_what_formats_take_is_what_may_be_said() -> None:
    assert [field.name for field in dataclasses.fields(any_format.Unsaid)] == list(any_format.TAKEN_BY)


# What is called the best.


def wanted(goal: mj.Objective | None = None, system: mj.System = SYSTEM) -> comparing.Wanted:
    return comparing.Wanted(system, goal or mj.Objective(), cast(Any, None), "search", 64, 0, 5.0, 0.1)


def found(plan: mj.Plan, graph: mj.TaskGraph) -> comparing.Found:
    return comparing.Found(plan, 0.0, graph)


def test_a_plan_is_called_what_it_is() -> None:
    """An optimum only where it is proven; and who finds the same is named beside the best."""
    graph = mj.daggen(8, 0.6, 0.6, np.random.default_rng(2))
    proven, plan = mj.optimum(graph, SYSTEM), mj.heft(graph, SYSTEM)
    guess = dataclasses.replace(proven, proven=False, lower_bound=0.5 * proven.makespan)
    assert comparing.as_found("optimum", proven) == "optimum"
    assert comparing.as_found("optimum", guess) == "branch and bound, not proven"
    case = comparing.Case(Path("app.json"), graph)
    case.found = {"all-local": found(mj.all_local(graph, SYSTEM), graph), "optimum": found(guess, graph)}
    said = command.conclusion(case, wanted(), "optimum")
    assert f"not proven: no plan in priority order is below {500 * proven.makespan:.1f} ms" in said
    assert "optimum: proven" not in said
    worse = dataclasses.replace(plan, makespan=1.1 * proven.makespan)
    plans = {**case.found, "HEFT-based": found(worse, graph)}
    assert comparing.as_good_as("optimum", plans, wanted()) == []
    case.found["HEFT-based"] = found(proven, graph)
    assert "the best is HEFT-based; as good: branch and bound, not proven:" in command.conclusion(
        case, wanted(), "HEFT-based"
    )


@pytest.mark.parametrize("order", [1, -1])
def test_of_equal_plans_the_simplest_is_the_best(order: int) -> None:
    graph = mj.daggen(8, 0.6, 0.6, np.random.default_rng(2))
    local = mj.all_local(graph, SYSTEM)
    rounded = dataclasses.replace(local, makespan=local.makespan * (1 - 1e-12))
    plans = {"all-local": local, "HEFT-based": rounded, "optimum": rounded, "learned (search)": rounded}
    case = {name: found(plan, graph) for name, plan in list(plans.items())[::order]}
    assert comparing.best_of(case, wanted()) == "all-local"
    better = dataclasses.replace(local, makespan=0.999 * local.makespan)
    case |= {"learned (search)": found(better, graph), "HEFT-based": found(better, graph)}
    assert comparing.best_of(case, wanted()) == "HEFT-based"
    assert comparing.as_good_as("HEFT-based", case, wanted()) == ["learned (search)"]
    late = wanted(mj.Objective(deadline_s=0.9995 * local.makespan))
    thrifty = dataclasses.replace(better, schedule=dataclasses.replace(better.schedule, energy=0.0))
    assert comparing.best_of({"all-local": found(local, graph), "optimum": found(thrifty, graph)}, late) == "optimum"


# Several numbers of tasks, and the whole application at once.


def workflow(path: Path, num_tasks: int) -> None:
    """A chain whose tasks pass on much more than comes in and goes out."""
    tasks = []
    for i in range(num_tasks):
        files = [{"link": "output", "name": f"f{i}", "sizeInBytes": 1e6 if i < num_tasks - 1 else 1e3}]
        files.append(
            {"link": "input", "name": f"f{i - 1}", "sizeInBytes": 1e6}
            if i
            else {"link": "input", "name": "in", "sizeInBytes": 1e3}
        )
        parents = [f"t{i - 1}"] if i else []
        tasks.append({"name": f"t{i}", "runtimeInSeconds": 0.5, "files": files, "parents": parents})
    path.write_text(json.dumps({"schemaVersion": "1.4", "workflow": {"tasks": tasks}}))


def test_the_whole_application_at_once_is_a_row_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where every result returns, a chain is best sent once: by hand 1 kB up, 12 x 0.5 s at a tenth, 1 kB down."""
    parsed: list[Path] = []
    monkeypatch.setattr(
        comparing, "parsed_any", lambda *given: parsed.append(given[0]) or any_format.parsed_any(*given)
    )
    workflow(tmp_path / "w.json", 12)
    arguments = [f"--graph={tmp_path / 'w.json'}", "--machine_hz=1e9", *LINK, "--results=return", "--mode=argmax"]
    arguments += ["--policy=exp2", "--optimum_s=0"]
    status, out, _ = run(capsys, *arguments, "--json")
    assert status == 0
    told = json.loads(out)
    assert [size["tasks"] for size in told["sizes"]] == [12, 10]
    assert parsed == [tmp_path / "w.json"]  # once, in whatever numbers of tasks it is planned
    assert told["best"] == "whole application at once"
    whole = told["plans"]["whole application at once"]
    assert whole["makespan_s"] == pytest.approx(8e3 / 7e6 + 0.6 + 8e3 / 5e6)
    assert (len(whole["tasks"]), len(told["tasks"])) == (1, 12)
    status, out, _ = run(capsys, *arguments, "--nofigures")
    assert "12 tasks are planned; --num_tasks=N plans N" in out
    assert "the best is whole application at once" in out
    status, out, _ = run(capsys, *arguments, "--json", "--num_tasks=4")
    told = json.loads(out)
    assert (told["sizes"], len(told["tasks"])) == ([], 4)
    assert told["best"] == "whole application at once"


# A folder.


def test_a_folder_is_planned_file_by_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    apps, out = tmp_path / "apps", tmp_path / "out"
    apps.mkdir()
    for seed, name in enumerate(("a.json", "b.json")):
        mj.write_json(mj.daggen(8, 0.6, 0.6, np.random.default_rng(seed)), apps / name)
    (apps / "b.gv").write_text(
        'digraph G { 1 [size="4000", expect_size="2000"] 2 [size="6000", expect_size="1"] 1 -> 2 }'
    )
    (apps / "notes.txt").write_text("not an application")
    (apps / "broken.json").write_text("{")
    (apps / "sub").mkdir()
    arguments = [f"--graph={apps}", *LINK, "--mode=argmax", "--policy=exp2", "--optimum_s=0", "--cycles_per_byte=1e4"]
    status, printed, err = run(capsys, *arguments, f"--out={out}")
    assert status == 0
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()[4:7]]
    assert [row[0] for row in rows] == ["a.json", "b.gv", "b.json"]
    assert [row[1] for row in rows] == ["8", "2", "8"]
    assert "3 planned, " in printed
    assert "3 skipped" in printed
    skipped = [line.split(": ")[1] for line in err.splitlines() if line.startswith("skipped: ")]
    assert skipped == ["broken.json", "notes.txt", "sub"]
    drawn = sorted(path.name for path in out.iterdir())
    assert drawn == [f"{stem}-{what}.png" for stem in ("a", "b.gv", "b.json") for what in ("dag", "schedule")]
    status, printed, _ = run(capsys, *arguments, "--json")
    told = json.loads(printed)
    assert [each["file"] for each in told["files"]] == ["a.json", "b.gv", "b.json"]
    best = [each["plans"][each["best"]]["makespan_s"] for each in told["files"]]
    assert [f"{1e3 * seconds:.1f}" for seconds in best] == [row[3] for row in rows]
    assert list(told["skipped"]) == skipped


def test_a_folder_without_an_application(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("x")
    status, out, err = run(capsys, f"--graph={tmp_path}", *LINK, "--json")
    assert (status, out, err.count("\n")) == (2, "", 2)
    assert err.startswith("skipped: notes.txt: not an application (.txt)\n")
    assert "a folder without an application; accepted: a folder with files that end in .dot, .gv" in err


# Time, signals and pipes.


def test_time_ends_planning_with_the_best_plan_so_far(
    app: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The policy takes for ever; the process would end at once, since its thread is left behind."""
    free = threading.Event()

    class Slow:
        def plan(self, graph: mj.TaskGraph, system: mj.System, mode: str, **_: object) -> mj.Plan:
            return mj.greedy(graph, system) if mode == "argmax" else free.wait() and mj.greedy(graph, system)

    ended: list[int] = []
    monkeypatch.setattr(command, "load_offloader", lambda _: Slow())
    monkeypatch.setattr(command.os, "_exit", ended.append)
    arguments = [f"--graph={app}", *LINK, "--optimum_s=0", "--nofigures"]
    run(capsys, *arguments, "--mode=argmax")  # what the simple planners compile
    began = time.monotonic()
    status, out, _ = run(capsys, *arguments, "--seconds=3")
    assert time.monotonic() - began < 60  # and not for ever
    assert (status, ended) == (0, [0])
    assert "| learned (argmax)" in out
    assert "| learned (search)" not in out
    assert "time ended (--seconds=3) before: learned (search)" in out
    assert "the best so far is " in out
    free.set()


def test_the_line_of_long_work_says_what_is_quicker(app: Path) -> None:
    said: list[str] = []

    class Waiting:
        left_s = float("inf")

        def do(self, label: str, work: Callable[[], mj.Plan], estimate_s: float) -> mj.Plan:
            said.append(label)
            return work()

    graph = mj.read_json(app)

    class Policy:
        def plan(self, graph: mj.TaskGraph, system: mj.System, mode: str, **_: object) -> mj.Plan:
            return mj.all_local(graph, system)

    for mode in ("argmax", "search"):
        asked = dataclasses.replace(wanted(), policy=cast(Any, Policy()), mode=mode, optimum_s=0.0)
        case, attended = comparing.Case(app, graph), cast(Any, Waiting())
        assert [name for name, _ in comparing.find(case, comparing.long_planners(graph, asked, attended), attended)]
        without = comparing.long_planners(graph, dataclasses.replace(asked, orders_s=0.0), attended)
        assert comparing.ORDERED not in {planner.name for planner in without}
    longer = dataclasses.replace(wanted(), policy=cast(Any, Policy()), orders_s=0.3)
    timed = {planner.name: planner for planner in comparing.long_planners(graph, longer, attended)}
    if find_spec("numba") is not None:
        assert 0.2 < timed[comparing.ORDERED].find().seconds < 3
    learned = [line for line in said if "learned" in line]
    assert learned == ["app.json: learned (argmax)", "app.json: learned (search), --mode=argmax is quicker"]


def test_too_little_time_for_any_plan_is_one_line(app: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(command.os, "_exit", lambda status: None)
    status, out, err = run(capsys, f"--graph={app}", *LINK, "--seconds=1e-6", "--json")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "seconds is 1e-06, which is too short to read app.json" in err


COMPILES = """
import hashlib, sys
from mrlato_jax.inference import command, comparing


def compiling(*_, **__):  # as XLA does: for a minute the thread that it is in hears no signal
    print("compiling", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2 * 10**8)


comparing.all_local = compiling
sys.exit(command.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, -signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_ends_the_command_while_it_compiles(app: Path, number: signal.Signals, status: int) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    process = subprocess.Popen(
        [sys.executable, "-c", COMPILES, f"--graph={app}", *LINK, "--nofigures", "--json"], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    assert process.stdout.readline() == "compiling\n"
    began = time.monotonic()
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 20
    assert process.returncode == status
    assert "Traceback" not in err
    assert err.endswith("stopped\n") == (number == signal.SIGINT)


def test_head_ends_the_command_quietly(app: Path) -> None:
    flags = [f"--graph={app}", *LINK, "--nofigures", "--mode=argmax", "--policy=exp2"]
    words = [sys.executable, "launch/offload.py", *flags]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith(str(app))
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=60)
    assert process.returncode == 141
    assert "Error" not in err


# What is compiled is kept.


def test_programs_are_kept_for_the_next_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: dict[str, object] = {}
    monkeypatch.setattr(command.jax.config, "update", lambda name, value: set_to.update({name: value}))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    command.keep_compiled()
    assert set_to == {}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command.keep_compiled()
    folder = Path(str(set_to["jax_compilation_cache_dir"]))
    assert folder.parent == tmp_path / "mrlato_jax"
    assert folder.is_dir()
    assert set_to["jax_persistent_cache_min_compile_time_secs"] == 0
    assert "jax_persistent_cache_min_entry_size_bytes" not in set_to  # the environment says it
    set_to.clear()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/proc/nowhere")
    command.keep_compiled()
    assert set_to == {}


def test_help_defines_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for first, meaning in (("makespan", "is the time from"), ("UE", "(user equipment)"), ("VM", "(virtual machine)")):
        where = re.search(rf"\b{first}\b", text)
        assert where is not None
        assert meaning in text[where.start() : where.start() + 80]
