"""Comparison of an experiment's records: latencies with intervals, gaps, efficiency, and paired comparisons."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit  # scipy comes with JAX

from mrlato_jax.errors import InputError
from mrlato_jax.learning.adaptation import marks
from mrlato_jax.results.paper import PAPER_MS
from mrlato_jax.results.references import Row, bound_ms
from mrlato_jax.results.reproduction import ALL, HALF, PLANNING, TRAINING, measured_of

FLOAT32 = 1e-5  # relative: tolerance between a latency in float32 and in float64
WRITTEN = 1e-3  # milliseconds: resolution of a DAG's latency in records
STEPS = (1, 30, 100)  # numbers of updates in Table III
SHORT = (  # rows of the README's table; {} is the last number of updates
    "HEFT-based", "mrlato, {} updates", "mrlco, {} updates", "drl, {} updates", "look-ahead", "mrlato_plus, no update",
    "local search, 340 evaluations", "mrlato_plus, {} updates", "local search, 41260 evaluations",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds and half the width of its 95 % interval (Student's t); NaN for a single seed."""

    mean: float
    half_width: float

    def __str__(self) -> str:
        """Formats as `612.3 ± 4.1`, or as the mean alone."""
        return f"{self.mean:.1f}" if math.isnan(self.half_width) else f"{self.mean:.1f} ± {self.half_width:.1f}"

    @property
    def percent(self) -> str:
        """The estimate as `+4.3 ± 0.2 %`."""
        spread = "" if math.isnan(self.half_width) else f" ± {self.half_width:.1f}"
        return f"{self.mean:+.1f}{spread} %"

    @property
    def clearly_positive(self) -> bool:
        """Whether the whole interval is above zero; False for a single seed."""
        return self.mean > self.half_width


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    """Computes the mean and the interval of one value per seed."""
    values = np.asarray(values, float)
    freedom = len(values) - 1
    if not freedom:
        return Estimate(float(values[0]), math.nan)
    quantile = round(float(stdtrit(freedom, 0.975)), 3)  # Student's t, rounded as in printed tables
    return Estimate(float(values.mean()), quantile * float(values.std(ddof=1)) / math.sqrt(len(values)))


@dataclasses.dataclass(frozen=True)
class Learned:
    """Results of one learned method on one test set, with several seeds.

    Attributes:
        latency_ms: [seeds, updates + 1], mean over the DAGs adapted to.
        by_dag_ms: [seeds, DAGs] by number of updates.
        held_out_ms: [seeds, updates + 1], mean over the half not adapted to; None for a single DAG.
        evaluations: simulated plans per DAG, for the whole adaptation.
        plan_evaluations: simulated plans per DAG, to plan it once.
        plan_ms: median time to plan one DAG.
    """

    latency_ms: np.ndarray
    by_dag_ms: Mapping[int, np.ndarray]
    held_out_ms: np.ndarray | None
    evaluations: float
    plan_evaluations: float
    plan_ms: float


@dataclasses.dataclass(frozen=True)
class Panel:
    """Results of planners and learned methods on one test set.

    Attributes:
        experiment: name of the experiment.
        name: name of the test set.
        planners: rows of the references, in the order of tables.
        learned: results of learned methods by label.
        updates: number of updates of the adaptations.
        inner_steps: updates on one collection, by label.
    """

    experiment: str
    name: str
    planners: Mapping[str, Row]
    learned: Mapping[str, Learned]
    updates: int
    inner_steps: Mapping[str, int]

    @property
    def optimum_ms(self) -> float:
        """Mean optimum of the priority order; unproven DAGs count with their lower bound."""
        return bound_ms(self.planners)

    @property
    def unproven(self) -> int:
        """Number of DAGs whose optimum is not proven."""
        return self.planners["optimum"]["proven"].count(False)

    @property
    def best_order_ms(self) -> float:
        """Mean of the best known plan of each DAG, in any order."""
        return float(np.min([row["makespan_ms"] for row in self.planners.values()], axis=0).mean())

    def planned_ms(self, name: str) -> float:
        """Returns the mean makespan of one planner."""
        return float(np.mean(self.planners[name]["makespan_ms"]))

    def other_half_ms(self, values: Sequence[float]) -> float:
        """Returns the mean over the held-out DAGs, given one value per DAG."""
        return float(np.mean(measured_of(HALF, values)))

    def evaluations(self, label: str, updates: int) -> float:
        """Returns the simulated plans per DAG of `updates` updates of a learned method and of planning afterwards."""
        steps = self.inner_steps[label]
        rounds = [-(-count // steps) for count in (updates, self.updates)]
        adapting = self.learned[label].evaluations * rounds[0] / rounds[1] if rounds[1] else 0.0
        return adapting + self.learned[label].plan_evaluations


Table = tuple[str, list[str], list[list[str]]]
"""Title with reading instructions, header, cells."""


def panels(
    experiment: str,
    references: Mapping[str, Mapping[str, Row]],
    planners: Sequence[str],
    records: Mapping[str, Sequence[Mapping[str, Mapping[str, Any]]]],
    updates: int,
    inner_steps: Mapping[str, int],
    own_order: Collection[str] = (),
) -> list[Panel]:
    """Builds the panels of one experiment's test sets.

    Args:
        experiment: its name.
        references: rows of its references, by test set.
        planners: planners to show, in order.
        records: complete rows of each seed's record, by label.
        updates: number of updates of the adaptations.
        inner_steps: updates on one collection, by label.
        own_order: labels of methods that choose the order; bounds of the priority order do not hold for them.

    Raises:
        InputError: a latency is below the proven bound of its DAG, so the records are of different data or code.
    """
    found = []
    for name, rows in references.items():
        bound = np.asarray(rows["optimum"]["lower_bound_ms"])
        learned = {}
        for label, seeds in records.items():
            parts = [stored[name] for stored in seeds]
            by_dag = {
                mark: np.array([part[ALL]["latency_ms_by_dag"][str(mark)] for part in parts]) for mark in marks(updates)
            }
            for mark, values in by_dag.items():
                if label not in own_order and (values < bound * (1 - FLOAT32) - WRITTEN).any():
                    raise InputError(
                        f"the record of {label} has latencies on {name} after {mark} updates that lie below the proven "
                        "optimum; accepted: records of the same data and simulator as the references"
                    )
            learned[label] = Learned(
                latency_ms=np.array([part[ALL]["latency_ms"] for part in parts]),
                by_dag_ms=by_dag,
                held_out_ms=np.array([part[HALF]["latency_ms"] for part in parts]) if len(bound) > 1 else None,
                evaluations=parts[0][ALL]["simulator_evaluations"] / len(bound),
                plan_evaluations=parts[0][PLANNING].get("evaluations", 0.0),
                plan_ms=1e3 * float(np.median(np.concatenate([part[PLANNING]["seconds"] for part in parts]))),
            )
        shown = {planner: rows[planner] for planner in planners}
        found.append(Panel(experiment, name, shown, learned, updates, inner_steps))
    return found


def labels_of(panels: Sequence[Panel]) -> list[str]:
    """Returns the labels of learned methods in all panels, in the order of their first appearance."""
    return list(dict.fromkeys(label for panel in panels for label in panel.learned))


def table_three(panels: Sequence[Panel]) -> Table:
    """Makes the paper's Table III with intervals, the latency before any update, and references to compare with."""
    steps = [step for step in (0, *STEPS) if step <= panels[0].updates]
    labels = labels_of(panels)
    published = [label for label in labels if any(label in PAPER_MS.get(panel.name, {}) for panel in panels)]
    title = (
        f"Table III: mean latency in ms after {', '.join(map(str, steps))} updates, measured on the DAGs adapted to, "
        "as in the paper; ± is a 95 % interval over seeds (Student's t)."
    )
    header = ["setting", *(f"{label}, {step}" for label in labels for step in steps)]
    header += [*(f"{label}, paper, 100" for label in published), "HEFT-based", "optimum"]
    cells = []
    for panel in panels:
        line = [panel.name]
        for label in labels:
            learned = panel.learned.get(label)
            line += [str(estimate(learned.latency_ms[:, step])) if learned else "" for step in steps]
        for label in published:
            printed = PAPER_MS.get(panel.name, {}).get(label)
            line.append("" if printed is None else str(printed[-1]))
        cells.append([*line, f"{panel.planned_ms('HEFT-based'):.1f}", f"{panel.optimum_ms:.1f}"])
    return title, header, cells


def whole_table(panels: Sequence[Panel]) -> Table:
    """Makes a table of every method on every test set, with its gaps and its cost."""
    title = (
        "Every method: mean latency in ms (% above the proven optimum of the priority order, % above the best known "
        "plan in any order); simulated plans per DAG without training; and median ms to plan one DAG without "
        "adaptation, as measured for the record: between records of different sessions, only large differences are "
        "meaningful. Local search starts from HEFT-based's plan."
    )
    header = ["method", *(panel.name for panel in panels), "evaluations", "ms a DAG"]

    def cell(panel: Panel, value: float) -> str:
        gaps = [100 * (value / best - 1) for best in (panel.optimum_ms, panel.best_order_ms)]
        return f"{value:.1f} ({gaps[0]:+.1f}, {gaps[1]:+.1f})"

    cells = []
    for name in panels[0].planners:
        rows = [panel.planners[name] for panel in panels]
        spent = [float(np.mean(row["evaluations"])) for row in rows if "evaluations" in row]
        each = 1e3 * float(np.median(np.concatenate([row["seconds"] for row in rows])))
        unproven = sum(panel.unproven for panel in panels)
        note = f" ({unproven} unproven)" if name == "optimum" and unproven else ""
        line = [name + note, *(cell(panel, panel.planned_ms(name)) for panel in panels)]
        cells.append([*line, f"{np.mean(spent):.0f}" if spent else "", f"{each:.1f}"])
    for label in labels_of(panels):
        for mark in marks(panels[0].updates):
            have = [panel for panel in panels if label in panel.learned]
            line = [f"{label}, {f'after {mark}' if mark else 'before any update'}"]
            for panel in panels:
                known = panel.learned.get(label)
                line.append(cell(panel, float(known.latency_ms[:, mark].mean())) if known else "")
            spent = [panel.evaluations(label, mark) for panel in have]
            each = float(np.median([panel.learned[label].plan_ms for panel in have]))
            cells.append([*line, f"{np.mean(spent):.0f}", f"{each:.1f}"])
    return title, header, cells


def short_table(panels: Sequence[Panel]) -> Table:
    """Makes the table of the README: the mean gap of each experiment, and the cost of a plan.

    Learned methods that the README does not have follow, before any update and after the last.
    """
    title = (
        "In short: mean latency in % above the proven optimum of the priority order, mean over the settings and seeds; "
        "and simulated plans per DAG without training."
    )
    experiments = list(dict.fromkeys(panel.experiment for panel in panels))
    updates = panels[0].updates
    gaps: dict[str, dict[str, list[float]]] = {}
    evaluations: dict[str, list[float]] = {}

    def add(name: str, panel: Panel, latency_ms: float, spent: Sequence[float]) -> None:
        of_row = gaps.setdefault(name, {experiment: [] for experiment in experiments})
        of_row[panel.experiment].append(100 * (latency_ms / panel.optimum_ms - 1))
        evaluations.setdefault(name, []).extend(spent)

    more = []
    for panel in panels:
        for name, row in panel.planners.items():
            add(
                name,
                panel,
                panel.planned_ms(name),
                [float(np.mean(row["evaluations"]))] if "evaluations" in row else [],
            )
        for label, learned in panel.learned.items():
            for mark in sorted({0, updates}):
                name = f"{label}, {mark} updates" if mark else f"{label}, no update"
                add(name, panel, float(learned.latency_ms[:, mark].mean()), [panel.evaluations(label, mark)])
                if not any(known.startswith(f"{label}, ") for known in SHORT):
                    more.append(name)
    cells = []
    for name in dict.fromkeys([*(known.format(updates) for known in SHORT), *more]):
        if name in gaps:
            spent = dict.fromkeys(f"{pick(evaluations[name], default=0):,.0f}" for pick in (min, max))
            shown = [f"{np.mean(values):.1f}" if values else "" for values in gaps[name].values()]
            cells.append([name, *shown, " to ".join(spent) if evaluations[name] else ""])
    return title, ["plan", *experiments, "evaluations"], cells


def efficiency(panels: Sequence[Panel], label: str, first: int = 1) -> dict[str, float]:
    """Computes the paper's optimisation efficiency ratio `(L_first - L_30) / (L_first - L_100)` of each test set.

    A test set is left out if its gain from `first` to 100 updates is within the noise between seeds.

    Args:
        panels: the test sets.
        label: label of the learned method.
        first: number of updates at which the gain starts: 1 as in the paper, or 0.

    Returns:
        Ratios by test set.
    """
    ratios = {}
    for panel in panels:
        learned = panel.learned.get(label)
        if learned is None or panel.updates < STEPS[-1]:
            continue
        curve = learned.latency_ms
        if estimate(curve[:, first] - curve[:, STEPS[2]]).clearly_positive:
            means = curve.mean(axis=0)
            ratios[panel.name] = float((means[first] - means[STEPS[1]]) / (means[first] - means[STEPS[2]]))
    return ratios


def efficiency_table(panels: Sequence[Panel]) -> Table:
    """Makes a table of efficiency ratios from L1, as in the paper, and from L0, each with its number of settings."""
    title = (
        "Efficiency ratio: share of the gain of 100 updates that 30 updates reach; mean over the settings whose gain "
        "exceeds the noise between seeds (their number). From L1, as in the paper, the gain includes any loss by the "
        "first step of a fresh Adam; from L0 it does not."
    )
    header = ["method", "from L1", "from L0", "paper, settings of ours from L1", "paper, all"]
    cells = []
    for label in labels_of(panels):
        ours = [efficiency(panels, label, first) for first in (1, 0)]
        printed = {panel.name: PAPER_MS[panel.name][label] for panel in panels if label in PAPER_MS.get(panel.name, {})}
        paper = {name: (values[0] - values[1]) / (values[0] - values[2]) for name, values in printed.items()}
        same = {name: ratio for name, ratio in paper.items() if name in ours[0]}
        cells.append([label, *(_mean_of(ratios) for ratios in (*ours, same)), _mean_of(paper) if paper else ""])
    return title, header, cells


def _mean_of(ratios: Mapping[str, float]) -> str:
    return f"{np.mean(list(ratios.values())):.2f} ({len(ratios)})" if ratios else "(0)"


def won(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Returns the shares of DAGs on which `ours` is lower, and higher, by more than rounding."""
    slack = FLOAT32 * theirs + WRITTEN
    return float((ours < theirs - slack).mean()), float((ours > theirs + slack).mean())


def duel(panels: Sequence[Panel], ours: str, theirs: str, updates: int) -> tuple[Estimate, tuple[float, float]] | None:
    """Compares two learned methods, paired by DAG.

    Returns:
        Percent by which the mean latency of `ours` exceeds that of `theirs`, mean over the common test sets, with an
        interval over seeds (equal seeds are paired); and the shares of DAGs won and lost, by latencies averaged over
        seeds. None if no test set has both methods.
    """
    by_seed, means = [], []
    for panel in panels:
        if ours not in panel.learned or theirs not in panel.learned:
            continue
        a, b = (panel.learned[label].by_dag_ms[updates] for label in (ours, theirs))
        by_seed.append(100 * (a.mean(axis=1) / b.mean(axis=1) - 1))
        means.append((a.mean(axis=0), b.mean(axis=0)))
    if not means:
        return None
    mine, other = (np.concatenate(side) for side in zip(*means, strict=True))
    return estimate(np.mean(by_seed, axis=0)), won(mine, other)


def duel_table(panels: Sequence[Panel]) -> Table:
    """Compares each learned method with each later one and with HEFT-based, at Table III's numbers of updates."""
    updates = panels[0].updates
    shown = [mark for mark in marks(updates) if mark in (0, *STEPS, updates)]
    title = (
        "Who is ahead: mean latency of the first relative to the second, mean over the settings, ± a 95 % interval "
        f"over seeds; and the DAGs on which the first is lower / higher after {updates} updates (means over seeds)."
    )
    header = ["methods", *(f"after {mark}" if mark else "before any update" for mark in shown), "DAGs won / lost"]
    labels = labels_of(panels)
    cells = []
    for i, ours in enumerate(labels):
        for theirs in labels[i + 1 :]:
            found = [result for mark in shown if (result := duel(panels, ours, theirs, mark)) is not None]
            if len(found) == len(shown):
                cells.append([f"{ours} / {theirs}", *(result[0].percent for result in found), shares(found[-1][1])])
        have = [panel for panel in panels if ours in panel.learned]
        ratios = [
            [100 * (panel.learned[ours].latency_ms[:, mark] / panel.planned_ms("HEFT-based") - 1) for panel in have]
            for mark in shown
        ]
        mine = np.concatenate([panel.learned[ours].by_dag_ms[updates].mean(axis=0) for panel in have])
        heft = np.concatenate([panel.planners["HEFT-based"]["makespan_ms"] for panel in have])
        percents = [estimate(np.mean(values, axis=0)).percent for values in ratios]
        cells.append([f"{ours} / HEFT-based", *percents, shares(won(mine, heft))])
    return title, header, cells


def shares(parts: tuple[float, float]) -> str:
    """Shares of DAGs as a table shows them: `94 % / 6 %`."""
    return " / ".join(f"{100 * part:.0f} %" for part in parts)


def held_out_table(panels: Sequence[Panel]) -> Table:
    """Makes a table of the effect of adaptation on DAGs not used for it."""
    updates = panels[0].updates
    title = (
        "Held out: adapted to half of the DAGs, measured on the other half: % above the HEFT-based plans of that half "
        "(% above its proven optimum)."
    )
    header = ["method", *(panel.name for panel in panels)]
    cells = []
    for label in labels_of(panels):
        for mark in sorted({0, updates}):
            line = [f"{label}, {f'after {mark}' if mark else 'before any update'}"]
            for panel in panels:
                half = panel.learned[label].held_out_ms if label in panel.learned else None
                if half is None:
                    line.append("")
                    continue
                heft = panel.other_half_ms(panel.planners["HEFT-based"]["makespan_ms"])
                optimum = panel.other_half_ms(panel.planners["optimum"]["lower_bound_ms"])
                gaps = [100 * (half[:, mark] / best - 1) for best in (heft, optimum)]
                line.append(f"{estimate(gaps[0]).percent} ({gaps[1].mean():+.1f})")
            cells.append(line)
    return title, header, cells


def long_form(panels: Sequence[Panel]) -> tuple[list[str], list[list[str]]]:
    """Makes a machine-readable table: one line for each test set, method and number of updates.

    A line has latencies, intervals, gaps and quantiles of gaps. Quantiles are over DAGs; for learned methods, over DAGs
    and seeds.
    """
    header = [
        "experiment", "setting", "method", "updates", "seeds", "latency_ms", "latency_half_width_ms", "gap_percent",
        "gap_p10_percent", "gap_p50_percent", "gap_p90_percent", "gap_best_order_percent", "held_out_ms",
        "held_out_gap_percent", "evaluations_a_dag", "plan_ms", "unproven_dags",
    ]  # fmt: skip
    cells = []
    for panel in panels:
        bound = np.asarray(panel.planners["optimum"]["lower_bound_ms"])
        half_bound = panel.other_half_ms(bound.tolist())

        def gaps(latency: Estimate, by_dag: np.ndarray, panel: Panel = panel, bound: np.ndarray = bound) -> list[str]:
            """Returns the cells from the latency to the gap to the best order."""
            means = [100 * (latency.mean / best - 1) for best in (panel.optimum_ms, panel.best_order_ms)]
            quantiles = np.quantile(100 * (by_dag / bound - 1), (0.1, 0.5, 0.9))
            width = "" if math.isnan(latency.half_width) else f"{latency.half_width:.3f}"
            shown = [f"{value:.3f}" for value in (means[0], *quantiles, means[1])]
            return [f"{latency.mean:.3f}", width, *shown]

        for name, row in panel.planners.items():
            by_dag = np.asarray(row["makespan_ms"])
            spent = f"{np.mean(row['evaluations']):.1f}" if "evaluations" in row else ""
            each = f"{1e3 * np.median(row['seconds']):.3f}"
            latency = Estimate(float(by_dag.mean()), math.nan)
            line = [panel.experiment, panel.name, name, "", "", *gaps(latency, by_dag), "", "", spent, each]
            cells.append([*line, str(panel.unproven)])
        for label, learned in panel.learned.items():
            for mark in marks(panel.updates):
                half = ["", ""]
                if learned.held_out_ms is not None:
                    mean = float(learned.held_out_ms[:, mark].mean())
                    half = [f"{mean:.3f}", f"{100 * (mean / half_bound - 1):.3f}"]
                line = [panel.experiment, panel.name, label, str(mark), str(len(learned.latency_ms))]
                line += [*gaps(estimate(learned.latency_ms[:, mark]), learned.by_dag_ms[mark]), *half]
                line += [f"{panel.evaluations(label, mark):.1f}", f"{learned.plan_ms:.3f}", str(panel.unproven)]
                cells.append(line)
    return header, cells


Curves = Mapping[str, Sequence[Mapping[str, Any]]]
"""For each label and seed, the metrics of a training by name, averaged over intervals, and `iteration`."""


def training_curves(records: Mapping[str, Sequence[Mapping[str, Any]]], unjudged: Collection[str] = ()) -> Curves:
    """Returns each seed's training curve by label; leaves out `value_explained` of methods that learn no values."""

    def curve(label: str, rows: Mapping[str, Any]) -> dict[str, Any]:
        left_out = ("value_explained",) if label in unjudged else ()
        return {name: values for name, values in rows[TRAINING]["summary"]["curve"].items() if name not in left_out}

    return {label: [curve(label, rows) for rows in seeds] for label, seeds in records.items()}
