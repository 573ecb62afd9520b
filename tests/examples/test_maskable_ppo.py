"""`examples/maskable_ppo.py`: all of it but the training, which needs a library that the tests do not install."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import mrlato_jax as mj

pytest.importorskip("gymnasium")
pytest.importorskip("matplotlib")
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "maskable_ppo.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_measures_as_the_planners_are(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """A policy that keeps all tasks on the UE is all-local; one that offloads all is all-offload."""
    graphs = example.held_out(4)
    known = example.references(graphs)
    assert "plans without learning 16/16 100%" in capsys.readouterr().err
    assert known["optimum"] <= known["look-ahead"] <= known["HEFT-based"] < known["all-local"]
    mean_latency = example.measurement(graphs)
    planners = (mj.all_local, mj.all_offload)
    for site, planner in enumerate(planners):
        seen: list[np.ndarray] = []

        def decide(observations: np.ndarray, masks: np.ndarray, site: int = site, seen: list[Any] = seen) -> Any:
            assert masks.all()
            seen.append(observations)
            return np.full(len(observations), site)

        want = np.mean([planner(graph, example.SYSTEM).makespan for graph in graphs])
        assert mean_latency(decide) == pytest.approx(want, rel=1e-5)
        assert len(seen) == example.NUM_TASKS


def test_the_last_update_does_not_climb(example: ModuleType) -> None:
    """The last rollout may end after --steps; a negative rate would undo what was learned."""
    rate = example.PPO["learning_rate"]
    assert rate(1.0) > rate(0.5) > 0
    assert rate(1 - 10_240 / 8_192) == 0


@pytest.mark.parametrize(
    ("given", "phrase"),
    [
        (["--steps", "-5"], "--steps is -5; accepted: an integer in [1, inf)"),
        (["--every", "0"], "--every is 0"),
        (["--held_out", "0"], "--held_out is 0"),
        (["--seeds", "3", "-1"], "--seeds is -1; accepted: an integer in [0, 4294967295]"),
    ],
)
def test_refuses(example: ModuleType, given: list[str], phrase: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        example.arguments(given)
    assert phrase in capsys.readouterr().err


def test_help_has_rollouts_and_defaults(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert example.arguments(["--steps", "30720"]).steps == 30_720 == 12 * example.ROLLOUT
    with pytest.raises(SystemExit):
        example.arguments(["--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "rounded up to rollouts of 2,560" in words
    assert "(default: 120000)" in words


def test_table_and_figure(example: ModuleType) -> None:
    record = {
        "held_out": 4,
        "references": {"all-local": 1.0, "HEFT-based": 0.53, "look-ahead": 0.51, "optimum": 0.5},
        "curves": {
            "0": [
                {"steps": 0, "latency_s": 0.9, "training_s": 0.0},
                {"steps": 9000, "latency_s": 0.52, "training_s": 7.0},
            ]
        },
    }
    lines = example.table(record).splitlines()
    assert [line.split("|")[3].strip() for line in lines[2:]] == [
        "+100.0 %", "+6.0 %", "+2.0 %", "+0.0 %", "+80.0 %", "+4.0 %"
    ]  # fmt: skip
    assert "seed 0, after training, 9,000 decisions" in lines[-1]
    assert example.figure(record).startswith(b"\x89PNG")


def test_the_page_has_the_table_of_the_record(example: ModuleType) -> None:
    record = json.loads((ROOT / "data" / "results" / "maskable_ppo.json").read_text(encoding="utf-8"))
    assert example.table(record) in (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    best = record["references"]
    for curve in record["curves"].values():  # it learned
        assert curve[-1]["latency_s"] < best["HEFT-based"] < curve[0]["latency_s"] < best["all-local"]
