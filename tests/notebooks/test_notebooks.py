"""The notebooks are what their sources say, run at their tiny sizes, and end with numbers that can be right."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
NAMES = (
    "1_latency_and_optimum",
    "2_meta_train_and_adapt",
    "3_does_the_win_survive",
    "4_ablations",
    "5_energy_and_several_servers",
    "6_measured",
)
TIMEOUT_S = 300  # of a cell: minutes more than any needs, compilation on a busy core included
LARGEST = 400_000  # bytes of a notebook

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("jupytext")
pytest.importorskip("matplotlib")


def load_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_build", FOLDER / "_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()


def committed(name: str) -> Any:
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook


def execute(name: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Runs a notebook's source at tiny size and one more cell, which prints `found`, an expression, as JSON."""
    monkeypatch.setenv("MRLATO_NOTEBOOK_TINY", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = build.read_source(FOLDER / f"{name}.py")
    notebook.cells.append(
        nbformat.v4.new_code_cell(f"import json\n\nimport jax\n\nprint(json.dumps({found}, default=float))")
    )
    build.execute(notebook, tmp_path, TIMEOUT_S)
    drawn = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(drawn) == sum("plt.show()" in cell.source or "display(" in cell.source for cell in notebook.cells)
    # At tiny sizes a policy may warn, on standard error, that an application is unlike those of its training.
    (last,) = [output for output in notebook.cells[-1].outputs if output.get("name") == "stdout"]
    return json.loads(last.text)


def test_all_are_here() -> None:
    assert {path.stem for path in build.SOURCES} == {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_its_source(name: str) -> None:
    source, notebook = build.read_source(FOLDER / f"{name}.py"), committed(name)
    for number, (want, got) in enumerate(zip(source.cells, notebook.cells, strict=True)):
        assert (got.cell_type, got.source) == (want.cell_type, want.source), f"cell {number}: run `make notebooks`"
    assert notebook.metadata == source.metadata  # nothing of the machine that ran it


@pytest.mark.parametrize("name", NAMES)
def test_set_up(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package is missing, the first cell says what to do or installs it; no address is made up."""
    cells = committed(name).cells
    first = next(cell for cell in cells if cell.cell_type == "markdown")
    assert "`REPOSITORY`" in first.source
    assert "OWNER" not in json.dumps(cells)
    set_up = next(cell for cell in cells if cell.cell_type == "code").source
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    exec(set_up, {})
    assert commands == []  # it is installed
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(SystemExit, match="mrlato_jax is not installed here: set REPOSITORY above"):
        exec(set_up, {})
    exec(set_up.replace('REPOSITORY = ""', 'REPOSITORY = "https://example.org/r.git"'), {})
    assert commands[0][-1].endswith("] @ git+https://example.org/r.git")
    assert (
        "MRLATO_NOTEBOOK_TINY"
        in next(cell for cell in cells if cell.cell_type == "code" and "TINY" in cell.source).source
    )


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_fit_to_commit(name: str) -> None:
    path = FOLDER / f"{name}.ipynb"
    assert path.stat().st_size < LARGEST
    outputs = [output for cell in committed(name).cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    text = "\n".join(output.get("text", "") for output in outputs)
    assert not re.search(r"(^|[\s'\"])/\w+/", text)  # no path of the machine that ran it
    assert not re.search(r"\bnan\b|\binf\b", text)


def test_latency_and_optimum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = execute(
        NAMES[0],
        """{
            "plans": {name: MS * plan.makespan for name, plan in plans.items()},
            "proven": plans["optimum"].proven,
            "enumerated": latencies.min(),
            "orders": best_of_order.tolist(),
            "replayed": replayed,
            "gaps": {name: gap.tolist() for name, gap in gaps.items()},
            "resident": (resident / optima).tolist(),
        }""",
        tmp_path,
        monkeypatch,
    )
    plans, gaps = found["plans"], found["gaps"]
    assert found["proven"]
    assert max(found["resident"]) < 1.1
    assert plans["optimum"] == pytest.approx(found["enumerated"], rel=1e-5)  # by two ways, one of them in float32
    assert plans["order search"] <= plans["optimum"] <= plans["HEFT-based"] < plans["all-local"]
    assert min(found["orders"]) > 0
    assert min(found["replayed"]) > 0
    for name in ("all-local", "all-offload", "HEFT-based", "local search"):  # in the order of the optimum
        assert min(gaps[name]) >= -1e-9
    assert max(gaps["order search"]) <= 1e-9


@pytest.mark.slow
def test_energy_and_several_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = execute(
        NAMES[4],
        """{
            "pipeline": {name: [plan.makespan, *plan.placement.tolist()] for name, plan in pipeline_plans.items()},
            "fronts": [[[plan.makespan, plan.energy, plan.proven] for plan in front] for front in fronts.values()],
            "others": {name: [plan.makespan, plan.energy] for name, plan in others.items()},
            "gaps": gaps,
        }""",
        tmp_path,
        monkeypatch,
    )
    returned, stays, two = found["pipeline"].values()
    assert two[0] <= stays[0] < returned[0]
    assert all(plan[1] == plan[-1] == 0 for plan in (returned, stays, two))  # the camera and the screen
    for front in found["fronts"]:
        spans, joules, proven = zip(*front, strict=True)
        assert all(proven)
        assert list(spans) == sorted(spans)
        assert list(joules) == sorted(joules, reverse=True)
    for span, energy in found["others"].values():  # of the second rule, in the order of its front
        assert span >= spans[0] * (1 - 1e-9)
        assert energy >= joules[-1] * (1 - 1e-9)
    assert all(gap >= -1e-9 for row in found["gaps"].values() for gap in row)


@pytest.mark.slow
def test_meta_train_and_adapt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = execute(
        NAMES[1],
        """{
            "curves": {name: values.tolist() for name, values in curves.items()},
            "iterations": ITERATIONS,
            "marks": MARKS,
            "adapted_ms": curve_ms,
            "before_ms": MS * np.mean([plan.makespan for plan in trained.plan(unseen, system)]),
            "optimum_ms": optimum_ms,
            "heft_ms": heft_ms,
            "local_ms": MS * np.mean([mj.all_local(graph, system).makespan for graph in unseen]),
            "moved": float(max(
                np.abs(a - b).max()
                for a, b in zip(
                    jax.tree.leaves(trained.params), jax.tree.leaves(adapted[max(MARKS)].params), strict=True
                )
            )),
            "label": trained.label,
        }""",
        tmp_path,
        monkeypatch,
    )
    for values in found["curves"].values():
        assert len(values) == found["iterations"]
        assert all(map(math.isfinite, values))
    assert all(0 < entropy <= math.log(2) + 1e-6 for entropy in found["curves"]["entropy"])
    assert found["optimum_ms"] <= found["heft_ms"] < found["local_ms"]
    assert len(found["adapted_ms"]) == len(found["marks"])
    assert all(found["optimum_ms"] * (1 - 1e-9) <= value < 2 * found["local_ms"] for value in found["adapted_ms"])
    assert found["adapted_ms"][0] == pytest.approx(found["before_ms"])  # no update changes nothing
    assert found["moved"] > 0
    assert found["label"].startswith("mrlato+task_sim")


@pytest.mark.slow
def test_does_the_win_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = execute(
        NAMES[2],
        """{
            "above": above,
            "own": {name: {channel: v.tolist() for channel, v in of.items()} for name, of in own.items()},
            "matrix": [[name, *pair, v] for name, of in against_heft.items() for pair, v in of.items()],
            "offloaded": offloaded,
            "unproven": unproven,
            "trained_under": TRAINED_UNDER,
        }""",
        tmp_path,
        monkeypatch,
    )
    own, matrix = found["own"], {(name, made, run): value for name, made, run, value in found["matrix"]}
    assert found["unproven"] == 0
    for name, by_channel in own.items():
        for channel, values in by_channel.items():
            assert all(math.isfinite(value) and value > 0 for value in values)
            if name != "greedy":  # whose order is its own
                assert all(v >= o * (1 - 1e-9) for v, o in zip(values, own["optimum"][channel], strict=True))
    assert own["all-local"]["paper"] == pytest.approx(own["all-local"]["mrlco_code"])  # the channel is not used
    for relaxed, strict in (("mrlco", "paper"), ("mrlco_code", "mrlco")):  # less queueing, never later
        for name in ("all-offload", "optimum"):
            assert all(a <= b * (1 + 1e-9) for a, b in zip(own[name][relaxed], own[name][strict], strict=True))
    for channel in ("paper", "mrlco", "mrlco_code"):
        assert matrix["HEFT-based", channel, channel] == pytest.approx(0)
        best = matrix["optimum", channel, channel]
        assert all(value >= best - 1e-9 for (_, _, run), value in matrix.items() if run == channel)
    assert {made for name, made, _ in matrix if name == "policy, seed 0"} == set(found["trained_under"])
    for by_channel in found["offloaded"].values():
        assert all(0 <= share <= 1 for shares in by_channel.values() for share in shares)


@pytest.mark.slow
def test_ablations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = execute(
        NAMES[3],
        """{
            "measured": measured,
            "heft": heft_gap,
            "adapted": list(adapted.values()),
            "ranks": {**ranks, "searched": searched},
        }""",
        tmp_path,
        monkeypatch,
    )
    assert [len(results) for results in found["measured"].values()] == [1, 2, 2, 2]
    gaps = [gap for results in found["measured"].values() for gap in results.values()]
    assert len(found["adapted"]) == 2
    assert found["measured"]["attention heads"]["8 heads"] == found["measured"]["alone"]["base"]  # the same training
    assert min(*gaps, *found["adapted"], found["heft"]) > -1e-3  # nothing in this order is below the optimum
    assert found["measured"]["left out"]["nothing left out"] < found["measured"]["alone"]["base"]  # it looks ahead
    assert 0 < found["ranks"]["searched"] <= min(found["ranks"].values()) * (1 + 1e-9)


@pytest.mark.slow
def test_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for needed in ("cryptography", "grpc", "msgpack"):
        pytest.importorskip(needed)
    found = execute(
        NAMES[5], """{"rows": rows, "after": rows_after, "modes": MODES, "runs": RUNS}""", tmp_path, monkeypatch
    )
    for rows in (found["rows"], found["after"]):
        assert [row["mode"] for row in rows] == found["modes"] * found["runs"]
        assert all(0.5 < row["measured_s"] / row["predicted_s"] < 3 for row in rows)  # also on a busy machine
        assert not any(row["events"] for row in rows)
