"""The adversarial search: its instances stay within their ranges, and its gaps are true."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.planners.any_order import TOLERANCE
from mrlato_jax.results import adversarial
from mrlato_jax.results.adversarial import RANGES, begun, changed, worst

RESULTS = Path(__file__).resolve().parents[2] / "data" / "results"


def test_changes_stay_within_the_ranges() -> None:
    rng = np.random.default_rng(0)
    case = begun(rng, 0)
    seen = set()
    for _ in range(300):
        other = changed(case, rng)
        seen |= {
            name
            for name in ("cycles", "results", "inputs", "edges", "system")
            if not np.array_equal(getattr(case, name), getattr(other, name))
        }
        case = other
        for name, values in (("cycles", case.cycles), ("bytes", case.results), ("bytes", case.inputs)):
            assert RANGES[name][0] <= values.min()
            assert values.max() <= RANGES[name][1]
        assert all(RANGES[name][0] <= value <= RANGES[name][1] for name, value in case.system.items())
        assert len(case.edges) <= adversarial.MOST_EDGES
        assert case.problem.graph.num_tasks == adversarial.NUM_TASKS
    assert seen == {"cycles", "results", "inputs", "edges", "system"}


def test_a_search_makes_a_method_worse() -> None:
    pytest.importorskip("ortools")
    found = worst(lambda problem: mj.heft(problem.graph, problem.system), seed=0, steps=15, restarts=1)
    first = worst(lambda problem: mj.heft(problem.graph, problem.system), seed=0, steps=1, restarts=1)
    assert found.tried == 15
    assert found.gap > first.gap
    assert found.best.proven
    assert found.cost == mj.heft(*found.case.problem[:2]).makespan
    assert found.gap == pytest.approx(found.cost / found.best.plan.makespan - 1)


def test_the_record_can_be_checked() -> None:
    """Each stored instance has the best plan that the record says; the plan's cost is the simulator's."""
    rows = json.loads((RESULTS / "adversarial.json").read_text())["rows"]["worst"]
    assert len(rows) >= 8
    for name, row in rows.items():
        graph = mj.read_json(RESULTS / row["application"])
        system = mj.System(ue_hz=1e9, channel="resident", **row["system"])
        span = mj.simulate(graph, system, row["placement"], row["order"]).makespan
        assert span == pytest.approx(row["best_known"], rel=1e-9), name
        assert row["gap"] == pytest.approx(row["cost"] / span - 1, abs=1e-9)
        assert row["proven"]
        assert row["lower_bound"] >= span * (1 - TOLERANCE)
    row = rows["HEFT-based"]
    graph = mj.read_json(RESULTS / row["application"])
    system = mj.System(ue_hz=1e9, channel="resident", **row["system"])
    assert mj.heft(graph, system).makespan == pytest.approx(row["cost"], rel=1e-9)
