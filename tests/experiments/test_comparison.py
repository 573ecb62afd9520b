"""Intervals, gaps, ratios and duels by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.errors import InputError
from mrlato_jax.experiments import comparison, figures, reproduction
from mrlato_jax.experiments.comparison import Panel, estimate
from mrlato_jax.experiments.paper import PAPER_EFFICIENCY, PAPER_MS
from mrlato_jax.experiments.settings import TestSetting

UPDATES = 100


def row(makespans: list[float], **more: Any) -> dict[str, Any]:
    return {"makespan_ms": makespans, "seconds": [0.25] * len(makespans), **more}


REFERENCES = {
    "n20": {
        "greedy": row([111.0, 222.0]),
        "HEFT-based": row([110.0, 220.0]),
        "local search": row([105.0, 210.0], evaluations=[300, 500]),
        "optimum": row([100.0, 202.0], lower_bound_ms=[100.0, 200.0], proven=[True, False], nodes=[3, 9]),
        "order search": row([90.0, 205.0]),
    }
}


def curve(start: float, at_30: float, end: float) -> np.ndarray:
    return np.interp(np.arange(UPDATES + 1), [0, 1, 30, 100], [start + 2, start, at_30, end])


def record(curves: tuple[float, float, float], spread: float = 20.0) -> dict[str, Any]:
    """Two DAGs that lie `spread` around the mean."""
    values = curve(*curves)
    by_dag = {str(k): [values[k] - spread, values[k] + spread] for k in (0, 1, 10, 30, 100)}
    part = {"latency_ms": values.tolist(), "latency_ms_by_dag": by_dag, "simulator_evaluations": 680}
    half = {**part, "latency_ms": (values + 1).tolist()}
    return {"n20": {"all": part, "half": half, "planning": {"seconds": [0.004, 0.006]}}}


RECORDS = {
    "mrlato": [record((200.0, 170.0, 160.0), 40.0), record((204.0, 176.0, 164.0), 40.0)],
    "drl": [record((220.0, 200.0, 190.0), 40.0), record((220.0, 199.0, 192.0), 40.0)],
}


@pytest.fixture
def panels() -> list[Panel]:
    return comparison.panels("exp2", REFERENCES, RECORDS, UPDATES, {"mrlato": 3, "drl": 3})


def test_students_intervals() -> None:
    stats = pytest.importorskip("scipy.stats")
    for count in (2, 3, 5, 12, 31):
        values = np.random.default_rng(count).normal(size=count)
        low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
        found = estimate(values)
        assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high), rel=2e-3)
    assert str(estimate([3.0])) == "3.0"
    assert not estimate([3.0]).clear_of_zero  # one seed says nothing of noise
    assert str(estimate([1.0, 3.0])) == "2.0 ± 12.7"
    assert estimate([2.9, 3.1]).clear_of_zero


def test_gaps_count_unproven_dags_at_their_bound(panels: list[Panel]) -> None:
    (panel,) = panels
    assert panel.optimum_ms == 150.0
    assert panel.unproven == 1
    assert panel.best_order_ms == (90.0 + 202.0) / 2
    _, cells = comparison.whole_table(panels)
    table = {line[0]: line[1:] for line in cells}
    assert table["optimum (1 unproven)"][0] == "151.0 (+0.7, +3.4)"
    assert table["HEFT-based"] == ["165.0 (+10.0, +13.0)", "", "250.0"]
    assert table["local search"][1] == "400"
    assert table["order search"][0] == "147.5 (-1.7, +1.0)"
    assert table["mrlato, after 100"] == ["162.0 (+8.0, +11.0)", "340", "5.0"]
    assert table["mrlato, before any update"][1] == "0"
    assert table["mrlato, after 1"][1] == "10"  # one collection of the 34
    assert table["mrlato, after 30"][1] == "100"


def test_table_three(panels: list[Panel]) -> None:
    header, cells = comparison.table_three(panels)
    assert header == [
        "mean latency, ms", "mrlato, 1", "mrlato, 30", "mrlato, 100", "drl, 1", "drl, 30", "drl, 100",
        "mrlato, paper, 100", "drl, paper, 100", "HEFT-based", "optimum",
    ]  # fmt: skip
    assert cells == [
        ["n20", "202.0 ± 25.4", "173.0 ± 38.1", "162.0 ± 25.4", "220.0 ± 0.0", "199.5 ± 6.4", "191.0 ± 12.7",
         "520", "674", "165.0", "150.0"]
    ]  # fmt: skip


def test_efficiency_ratio(panels: list[Panel]) -> None:
    """(202 - 173) / (202 - 162); a gain within the seeds' noise is no ratio."""
    found = comparison.efficiency(panels, "mrlato")
    assert found is not None
    assert found.mean == pytest.approx(29 / 40)
    noisy = {"mrlato": [record((200.0, 190.0, 199.0), 40.0), record((200.0, 180.0, 190.0), 40.0)]}
    blank = comparison.panels("exp2", REFERENCES, noisy, UPDATES, {"mrlato": 3})
    assert comparison.efficiency(blank, "mrlato") is None
    _, cells = comparison.efficiency_table([*panels])
    assert cells[0] == ["mrlato", "0.72", "0.74", "0.73", "1 of 1"]
    assert comparison.efficiency_table(blank)[1][0] == ["mrlato", "", "", "0.73", "0 of 1"]


def test_the_papers_ratios_follow_from_its_table() -> None:
    """The figures were typed from the paper: its text has the nine ratios of MRLATO, and the means of all methods."""
    by_method = {
        method: [(a - b) / (a - c) for experiment in PAPER_MS.values() for a, b, c in experiment[method]]
        for method in PAPER_EFFICIENCY
    }
    listed = [0.77, 0.76, 0.77, 0.77, 0.66, 0.74, 0.62, 0.71, 0.79]
    assert by_method["mrlato"] == pytest.approx(listed, abs=0.011)
    for method, ratios in by_method.items():
        assert np.mean(ratios) == pytest.approx(PAPER_EFFICIENCY[method], abs=0.011), method


def test_duels_are_paired_by_dag_and_seed(panels: list[Panel]) -> None:
    found = comparison.duel(panels, "mrlato", "drl", UPDATES)
    assert found is not None
    assert found[0].mean == pytest.approx(100 * np.mean([160 / 190 - 1, 164 / 192 - 1]))
    assert found[1] == 1.0
    header, cells = comparison.duel_table(panels)
    table = {line[0]: line[1:] for line in cells}
    assert header[-1] == "DAGs won after 100"
    assert table["mrlato / drl"][1].startswith("-15.2 ± ")
    assert table["mrlato / HEFT-based"][1:] == ["-1.8 ± 15.4 %", "50 %"]  # 122 > 110 and 202 < 220


def test_long_form(panels: list[Panel]) -> None:
    header, cells = comparison.long_form(panels)
    lines = {(line[2], line[3]): dict(zip(header, line, strict=True)) for line in cells}
    assert lines["mrlato", "30"]["held_out_ms"] == "174.000"
    assert float(lines["optimum", ""]["gap_p50_percent"]) == pytest.approx(0.5)
    assert lines["local search", ""]["evaluations_a_dag"] == "400.0"
    assert len(cells) == len(REFERENCES["n20"]) + 2 * 5


def test_a_latency_below_the_proven_optimum_is_refused() -> None:
    impossible = {"mrlato": [record((200.0, 170.0, 160.0), 61.0)]}
    with pytest.raises(InputError, match=r"record of mrlato has latencies on n20 after 100 updates .* proven optimum"):
        comparison.panels("exp2", REFERENCES, impossible, UPDATES, {"mrlato": 3})


def test_one_seed_has_no_interval() -> None:
    alone = {"mrlato": RECORDS["mrlato"][:1]}
    panels = comparison.panels("exp2", REFERENCES, alone, UPDATES, {"mrlato": 3})
    assert comparison.table_three(panels)[1][0][1] == "200.0"
    assert math.isnan(estimate([1.0]).half_width)
    assert comparison.efficiency(panels, "mrlato") is None


def test_a_set_of_one_dag_has_numbers_but_no_other_half() -> None:
    references = {"n20": {name: {k: v[:1] for k, v in r.items()} for name, r in REFERENCES["n20"].items()}}
    part = record((200.0, 170.0, 160.0))["n20"]["all"]
    part = {**part, "latency_ms_by_dag": {k: v[:1] for k, v in part["latency_ms_by_dag"].items()}}
    alone = {"n20": {"all": part, "planning": {"seconds": [0.005]}}}
    panels = comparison.panels("exp2", references, {"mrlato": [alone]}, UPDATES, {"mrlato": 3})
    header, cells = comparison.long_form(panels)
    line = dict(zip(header, cells[-1], strict=True))
    assert line["held_out_ms"] == ""
    assert float(line["gap_percent"]) == pytest.approx(60.0)
    setting = TestSetting(
        "n20", (mj.TaskGraph.from_edges(cycles=[1e7], upload_bytes=[1e4], download_bytes=[1e4], edges=[]),), mj.System()
    )
    whole = SimpleNamespace(rows={"n20": alone["n20"]})
    assert reproduction.missing(whole, [setting]) == []
    assert reproduction.missing(SimpleNamespace(rows={}), [setting]) == [(0, "all"), (0, "planning")]


def test_figures_show_what_was_measured(panels: list[Panel]) -> None:
    """Whole PNG files; what they look like is for eyes."""
    pytest.importorskip("matplotlib")
    image = figures.adaptation_panels(panels)
    assert image.startswith(b"\x89PNG")
    names = ("latency_ms", "heft_ms", "entropy", "value_explained", "approx_kl")
    curve = {"iteration": [1, 2], **{name: [0.5, 0.25] for name in names}}
    assert figures.training_panels({"mrlato": [curve, curve], "drl": [curve]}).startswith(b"\x89PNG")
