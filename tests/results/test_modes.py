"""What the modes are worth: the rows, what is kept of them, and what the table and the figure say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.config import NetworkConfig
from mrlato_jax.errors import InputError
from mrlato_jax.learning import rollout
from mrlato_jax.results import modes
from mrlato_jax.results.record import GrowingRecord
from mrlato_jax.training.experiments import TestSet
from mrlato_jax.training.stopping import GracefulStop

POLICY = NetworkConfig(decoder_input="task_sim", units=16, heads=2, layers=1, neighbours="pooled")
ROWS = {
    "n20": {"learned: argmax": {"makespan_ms": [101.0, 101.0], "evaluations": [3, 5], "seconds": [0.01, 0.03]}},
    "n30": {"learned: argmax": {"makespan_ms": [204.0, 212.0], "evaluations": [8, 8], "seconds": [0.02, 0.02]}},
}


@pytest.fixture(scope="module")
def policy() -> mj.Offloader:
    return mj.Offloader(POLICY, rollout.init_params(POLICY, jax.random.key(0)), "random")


def test_points_by_hand() -> None:
    found = modes.points(ROWS, {"n20": 100.0, "n30": 200.0})
    (point,) = found.values()
    assert point.gaps == pytest.approx({"n20": 1.0, "n30": 4.0})
    assert (point.gap, point.evaluations, point.ms) == pytest.approx((2.5, 6.0, 20.0))
    header, cells = modes.modes_table(found)
    assert header == ["% above the optimum", "n20", "n30", "plans simulated", "ms a DAG"]
    assert cells == [["learned: argmax", "+1.00", "+4.00", "6", "20.0"]]


def test_a_row_that_a_setting_lacks_is_no_point() -> None:
    assert modes.points({**ROWS, "n40": {}}, {"n20": 100.0, "n30": 200.0, "n40": 1.0}) == {}


@pytest.mark.parametrize("row", [5, {}, {**ROWS["n20"]["learned: argmax"], "seconds": ["x"]}])
def test_a_damaged_row_is_refused(row: Any) -> None:
    with pytest.raises(InputError, match=r"record has .* as learned: argmax on n20; accepted: a record as it was"):
        modes.points({**ROWS, "n20": {"learned: argmax": row}}, {"n20": 100.0, "n30": 200.0})


def test_searches_spend_what_they_may(policy: mj.Offloader) -> None:
    graph, system = mj.daggen(7, 0.6, 0.6, np.random.default_rng(0)), mj.System()
    for name, row in modes.rows(policy).items():
        if name.endswith((" 300", " 1,000")):
            plan = row.planner(graph, system, 0)
            assert plan.evaluations <= int(name.rsplit(" ", 1)[1].replace(",", ""))
    starts = {modes._searched(1, random, graph, system, 0).makespan for random in (True, False)}
    assert starts == {mj.heft(graph, system).makespan, max(starts)}
    assert len(starts) == 2


def test_what_is_recorded_is_not_planned_again(
    policy: mj.Offloader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = mj.daggen(5, 0.6, 0.6, np.random.default_rng(1))
    test_set, chosen = (
        TestSet("five", (graph,), mj.System()),
        ("learned: argmax", "HEFT-based and local search, 300"),
    )
    everything = modes.rows(policy)
    monkeypatch.setattr(modes, "rows", lambda _: {name: everything[name] for name in chosen})
    record = GrowingRecord(tmp_path / "modes.json", {"a": 1})
    assert modes.complete(record, [test_set], policy, GracefulStop())
    assert list(record.rows["five"]) == list(chosen)
    assert record.rows["five"][chosen[0]]["makespan_ms"] == [1e3 * policy.plan(graph, mj.System()).makespan]
    before = (tmp_path / "modes.json").read_bytes()
    assert modes.complete(GrowingRecord(tmp_path / "modes.json", {"a": 1}), [test_set], policy, GracefulStop())
    assert (tmp_path / "modes.json").read_bytes() == before


def test_the_figure_has_a_line_for_each_way_of_searching() -> None:
    pytest.importorskip("matplotlib")
    names = ("learned: argmax", "learned: sample, 4", "learned: search, 4", "random and local search, 300")
    found = {name: modes.Point({"n20": 1.0 + i}, 10.0 * (i + 1), 1.0 + i) for i, name in enumerate(names)}
    axes = modes.figure(found, "title").axes
    lines = {line.get_label(): line for line in axes[0].lines}
    assert list(lines["learned: sample"].get_ydata()) == [1.0, 2.0]
    assert list(lines["learned: search"].get_xdata()) == [30.0]
    assert list({line.get_label(): line for line in axes[1].lines}["random and local search"].get_xdata()) == [4.0]
