"""Intervals, gaps, ratios and duels by hand."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
import pytest

from mrlato_jax.drawing import png
from mrlato_jax.errors import InputError
from mrlato_jax.results import comparison, figures
from mrlato_jax.results.comparison import Panel, estimate
from mrlato_jax.results.paper import PAPER_MS

UPDATES = 100


def row(makespans: list[float], **more: Any) -> dict[str, Any]:
    return {"makespan_ms": makespans, "seconds": [0.25] * len(makespans), **more}


REFERENCES = {
    "n20": {
        "greedy": row([111.0, 222.0]),
        "HEFT-based": row([110.0, 220.0]),
        "look-ahead": row([108.0, 215.0], evaluations=[95, 95]),
        "look-ahead, order too": row([108.0, 214.0], evaluations=[400, 400]),
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


PLANNERS = list(REFERENCES["n20"])


def made(
    records: dict[str, Any] = RECORDS,
    references: dict[str, Any] = REFERENCES,
    updates: int = UPDATES,
    own_order: Collection[str] = (),
) -> list[Panel]:
    return comparison.panels("exp2", references, PLANNERS, records, updates, dict.fromkeys(records, 3), own_order)


@pytest.fixture
def panels() -> list[Panel]:
    return made()


def test_students_intervals() -> None:
    stats = pytest.importorskip("scipy.stats")
    for count in (2, 3, 5, 12, 31):
        values = np.random.default_rng(count).normal(size=count)
        low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
        found = estimate(values)
        assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high), rel=2e-3)
    assert str(estimate([3.0])) == "3.0"
    assert not estimate([3.0]).clearly_positive  # one seed says nothing of noise
    assert str(estimate([1.0, 3.0])) == "2.0 ± 12.7"
    assert estimate([2.9, 3.1]).clearly_positive
    assert not estimate([-2.9, -3.1]).clearly_positive


def test_gaps_count_unproven_dags_at_their_bound(panels: list[Panel]) -> None:
    (panel,) = panels
    assert panel.optimum_ms == 150.0
    assert panel.unproven == 1
    assert panel.best_order_ms == (90.0 + 202.0) / 2
    _, _, cells = comparison.whole_table(panels)
    table = {line[0]: line[1:] for line in cells}
    assert table["optimum (1 unproven)"][0] == "151.0 (+0.7, +3.4)"
    assert table["HEFT-based"] == ["165.0 (+10.0, +13.0)", "", "250.0"]
    assert table["local search"][1] == "400"
    assert table["order search"][0] == "147.5 (-1.7, +1.0)"
    assert table["mrlato, after 100"] == ["162.0 (+8.0, +11.0)", "340", "5.0"]
    assert table["mrlato, before any update"][1] == "0"
    assert table["mrlato, after 1"][1] == "10"  # one collection of the 34
    assert table["mrlato, after 30"][1] == "100"


def test_what_planning_simulates_is_counted() -> None:
    """Once for a plan before any update, and once more after the collections of an adaptation."""
    seen = [{"n20": {**each["n20"], "planning": {"seconds": [0.004], "evaluations": 95.0}}} for each in RECORDS["drl"]]
    (panel,) = made({"drl": seen})
    assert [panel.evaluations("drl", updates) for updates in (0, 1, 100)] == [95, 10 + 95, 340 + 95]


def test_planners_are_shown_in_the_order_asked_for(panels: list[Panel]) -> None:
    """Records list them as they came, and may have more of them on one setting than on another."""
    other = {name: REFERENCES["n20"][name] for name in reversed(PLANNERS)}
    other["local search, 9 evaluations"] = row([1.0, 2.0], evaluations=[9, 9])
    records = {name: [{**seed, "n30": seed["n20"]} for seed in seeds] for name, seeds in RECORDS.items()}
    both = made(records, {"n20": REFERENCES["n20"], "n30": other})
    _, header, cells = comparison.whole_table(both)
    assert header == ["method", "n20", "n30", "evaluations", "ms a DAG"]
    assert [line[0].removesuffix(" (2 unproven)") for line in cells][: len(PLANNERS)] == PLANNERS
    assert both[1].best_order_ms == both[0].best_order_ms


def test_table_three(panels: list[Panel]) -> None:
    title, header, cells = comparison.table_three(panels)
    assert "95 % interval over seeds" in title
    assert header == [
        "setting", "mrlato, 0", "mrlato, 1", "mrlato, 30", "mrlato, 100", "drl, 0", "drl, 1", "drl, 30", "drl, 100",
        "mrlato, paper, 100", "drl, paper, 100", "HEFT-based", "optimum",
    ]  # fmt: skip
    assert cells == [
        ["n20", "204.0 ± 25.4", "202.0 ± 25.4", "173.0 ± 38.1", "162.0 ± 25.4", "222.0 ± 0.0", "220.0 ± 0.0",
         "199.5 ± 6.4", "191.0 ± 12.7", "520", "674", "165.0", "150.0"]
    ]  # fmt: skip
    foreign = made({"mrlato": [{"mine": RECORDS["mrlato"][0]["n20"]}]}, {"mine": REFERENCES["n20"]})
    assert not [name for name in comparison.table_three(foreign)[1] if "paper" in name]  # of sets it does not have


def test_efficiency_ratio(panels: list[Panel]) -> None:
    """(202 - 173) / (202 - 162); a gain within the seeds' noise is no ratio, nor is a loss."""
    assert comparison.efficiency(panels, "mrlato") == pytest.approx({"n20": 29 / 40})
    _, _, cells = comparison.efficiency_table(panels)
    assert cells[0] == ["mrlato", "0.72 (1)", "0.74 (1)", "0.77 (1)", "0.77 (1)"]  # (589 - 536) / (589 - 520)
    noisy = made({"mrlato": [record((200.0, 190.0, 199.0), 40.0), record((200.0, 180.0, 190.0), 40.0)]})
    assert comparison.efficiency_table(noisy)[2][0] == ["mrlato", "(0)", "(0)", "(0)", "0.77 (1)"]
    worse = made({"mrlato": [record((160.0, 163.0, 170.0), 0.0), record((164.0, 168.0, 174.0), 0.0)]}, {"n20": FREE})
    assert comparison.efficiency(worse, "mrlato") == {}


FREE = {**REFERENCES["n20"], "optimum": row([100.0, 100.0], lower_bound_ms=[100.0, 100.0], proven=[True, True])}


def test_the_papers_ratios_follow_from_its_table() -> None:
    """The figures were typed from the paper: its text has the nine ratios of MRLATO, and the means of all methods."""
    by_method = {
        method: [(a - b) / (a - c) for a, b, c in (setting[method] for setting in PAPER_MS.values())]
        for method in ("mrlato", "mrlco", "drl")
    }
    listed = [0.77, 0.76, 0.77, 0.77, 0.66, 0.74, 0.62, 0.71, 0.79]
    assert by_method["mrlato"] == pytest.approx(listed, abs=0.011)
    means = {method: np.mean(ratios) for method, ratios in by_method.items()}
    assert means == pytest.approx({"mrlato": 0.73, "mrlco": 0.68, "drl": 0.64}, abs=0.011)


def test_duels_are_paired_by_dag_and_seed(panels: list[Panel]) -> None:
    found = comparison.duel(panels, "mrlato", "drl", UPDATES)
    assert found is not None
    assert found[0].mean == pytest.approx(100 * np.mean([160 / 190 - 1, 164 / 192 - 1]))
    assert found[1] == (1.0, 0.0)
    _, header, cells = comparison.duel_table(panels)
    table = {line[0]: line[1:] for line in cells}
    assert header == ["methods", "before any update", "after 1", "after 30", "after 100", "DAGs won / lost"]
    # Of two seeds the interval is 12.706 times half their difference, here 100 (160/190 - 164/192).
    assert table["mrlato / drl"][3] == "-15.2 ± 7.7 %"
    assert table["mrlato / HEFT-based"][3:] == ["-1.8 ± 15.4 %", "50 % / 50 %"]  # 122 > 110 and 202 < 220


def test_equal_plans_are_neither_won_nor_lost() -> None:
    heft = np.array([110.0, 220.0004])
    assert comparison.won(np.round(heft.astype(np.float32), 3).astype(float), heft) == (0.0, 0.0)
    assert comparison.won(heft - [0.5, -0.5], heft) == (0.5, 0.5)


def test_held_out_is_measured_by_its_own_half(panels: list[Panel]) -> None:
    _, header, cells = comparison.held_out_table(panels)
    table = {line[0]: line[1] for line in cells}
    assert header == ["method", "n20"]
    # 163 against the second DAG's HEFT-based 220 and bound 200.
    assert table["mrlato, after 100"] == "-25.9 ± 11.6 % (-18.5)"


def test_long_form(panels: list[Panel]) -> None:
    header, cells = comparison.long_form(panels)
    lines = {(line[2], line[3]): dict(zip(header, line, strict=True)) for line in cells}
    assert lines["mrlato", "30"]["held_out_ms"] == "174.000"
    assert lines["mrlato", "30"]["held_out_gap_percent"] == "-13.000"
    assert float(lines["mrlato", "100"]["latency_half_width_ms"]) == pytest.approx(12.706 * 2, rel=1e-3)
    assert lines["optimum", ""]["latency_half_width_ms"] == ""
    # 120 and 124 over 100, 200 and 204 over 200: quantiles of 0, 2, 20 and 24 %.
    for name, at in (("gap_p10_percent", 0.3), ("gap_p90_percent", 2.7)):
        assert float(lines["mrlato", "100"][name]) == pytest.approx(np.interp(at, range(4), (0, 2, 20, 24)))
    assert float(lines["optimum", ""]["gap_p50_percent"]) == pytest.approx(0.5)
    assert lines["local search", ""]["evaluations_a_dag"] == "400.0"
    assert len(cells) == len(PLANNERS) + 2 * 5


def test_a_latency_below_the_proven_optimum_is_refused() -> None:
    with pytest.raises(InputError, match=r"record of mrlato has latencies on n20 after 100 updates .* proven optimum"):
        made({"mrlato": [record((200.0, 170.0, 160.0), 61.0)]})


def test_one_seed_has_no_interval() -> None:
    panels = made({"mrlato": RECORDS["mrlato"][:1]})
    assert comparison.table_three(panels)[2][0][2] == "200.0"
    assert math.isnan(estimate([1.0]).half_width)
    assert comparison.efficiency(panels, "mrlato") == {}


@pytest.mark.parametrize("updates", [0, 1, 10])
def test_short_adaptations_have_tables_too(updates: int) -> None:
    values = np.linspace(200.0, 190.0, updates + 1)
    part = {
        "latency_ms": values.tolist(),
        "latency_ms_by_dag": {str(k): [values[k], values[k] + 60] for k in (0, 1, 10) if k <= updates},
        "simulator_evaluations": 20 if updates else 0,
    }
    seed = {"n20": {"all": part, "half": part, "planning": {"seconds": [0.004]}}}
    panels = made({"mrlato": [seed, seed]}, updates=updates)
    for table in (
        comparison.table_three, comparison.whole_table, comparison.efficiency_table, comparison.duel_table,
        comparison.held_out_table,
    ):  # fmt: skip
        title, header, cells = table(panels)
        assert title
        assert all(len(line) == len(header) for line in cells)
        assert not any("nan" in cell for line in cells for cell in line)
    assert comparison.efficiency_table(panels)[2][0][1] == "(0)"


def test_a_set_of_one_dag_has_numbers_but_no_other_half() -> None:
    references = {"n20": {name: {k: v[:1] for k, v in r.items()} for name, r in REFERENCES["n20"].items()}}
    part = record((200.0, 170.0, 160.0))["n20"]["all"]
    part = {**part, "latency_ms_by_dag": {k: v[:1] for k, v in part["latency_ms_by_dag"].items()}}
    alone = {"n20": {"all": part, "planning": {"seconds": [0.005]}}}
    panels = made({"mrlato": [alone]}, references)
    header, cells = comparison.long_form(panels)
    line = dict(zip(header, cells[-1], strict=True))
    assert line["held_out_ms"] == ""
    assert float(line["gap_percent"]) == pytest.approx(60.0)
    assert comparison.held_out_table(panels)[2] == [["mrlato, before any update", ""], ["mrlato, after 100", ""]]


def test_figures_show_what_was_measured(panels: list[Panel]) -> None:
    """The lines' data and names; what they look like is for eyes."""
    pytest.importorskip("matplotlib")
    figure = figures.adaptation_panels(panels)
    (axis,) = figure.axes
    lines = {line.get_label(): np.asarray(line.get_ydata(), float) for line in axis.lines}
    for label in ("mrlato", "drl"):
        want = panels[0].learned[label].latency_ms.mean(axis=0)
        np.testing.assert_array_equal(lines[f"{label} (2 seeds)"], want)
    for planner, value in (("HEFT-based", 165.0), ("local search", 157.5), ("optimum", 151.0), ("order search", 147.5)):
        np.testing.assert_array_equal(lines[planner], [value, value])
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == set(lines)
    assert png(figure).startswith(b"\x89PNG")


def test_training_curves_are_drawn_a_line_a_seed() -> None:
    pytest.importorskip("matplotlib")
    names = ("latency_ms", "entropy", "value_explained", "approx_kl")
    curves = [{"iteration": [5, 9], "heft_ms": [2.0, 4.0], **{name: [k, 3 * k] for name in names}} for k in (0.2, 0.3)]
    figure = figures.training_panels({"mrlato": curves, "drl": curves[:1]})
    latency, entropy, explained, _ = figure.axes
    np.testing.assert_allclose([line.get_ydata() for line in latency.lines[:2]], [[0.1, 0.15], [0.15, 0.225]])
    np.testing.assert_allclose(entropy.lines[1].get_ydata(), [0.3, 0.9])
    np.testing.assert_allclose(explained.lines[2].get_xdata(), [5, 9])


def test_values_that_nothing_learns_are_not_drawn() -> None:
    rows = {"training": {"summary": {"curve": {"iteration": [1], "value_explained": [0.5], "entropy": [0.1]}}}}
    curves = comparison.training_curves({"ours": [rows], "theirs": [rows]}, unjudged=["ours"])
    assert curves["ours"] == [{"iteration": [1], "entropy": [0.1]}]
    assert curves["theirs"] == [{"iteration": [1], "value_explained": [0.5], "entropy": [0.1]}]


def test_near_the_optimum_what_is_far_is_named(panels: list[Panel]) -> None:
    """1.1 times the optimum of 150 ms."""
    pytest.importorskip("matplotlib")
    (axis,) = figures.adaptation_panels(panels, near=1.1).axes
    labels = {line.get_label() for line in axis.lines}
    assert "optimum" in labels
    assert "HEFT-based" in labels  # 165 ms
    assert "greedy" not in labels  # 166.5 ms
    (note,) = axis.texts
    assert "greedy 166 ms" in note.get_text().replace("\n", " ")
    for label in ("mrlato", "drl"):
        lowest = panels[0].learned[label].latency_ms.min()
        assert (f"{label} (2 seeds)" in labels) == (lowest <= 1.1 * 150)
        assert (label in note.get_text()) == (lowest > 1.1 * 150)


def test_plans_in_orders_of_their_own_may_be_below_the_optimum() -> None:
    short = record((100.0, 100.0, 100.0))
    with pytest.raises(InputError, match="below the proven optimum"):
        made({"ours": [short]})
    (panel,) = made({"ours": [short]}, own_order=["ours"])
    assert panel.learned["ours"].latency_ms[0, -1] == 100.0


def test_in_short_methods_that_the_readme_lacks_come_last() -> None:
    """The mean of the bounds is 150 ms: HEFT-based's 165 are 10 % above, 191 of the drl are 27.3."""
    panels = made({"mrlato+tf32": RECORDS["mrlato"], "drl": RECORDS["drl"]})
    _, header, cells = comparison.short_table(panels)
    assert header == ["plan", "exp2", "evaluations"]
    assert cells[:2] == [["HEFT-based", "10.0", ""], ["drl, 100 updates", "27.3", "340"]]
    assert [line[0] for line in cells[2:]] == ["look-ahead", "mrlato+tf32, no update", "mrlato+tf32, 100 updates"]
    assert cells[2] == ["look-ahead", "7.7", "95"]
