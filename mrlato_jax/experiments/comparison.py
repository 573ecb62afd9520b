"""What the records of an experiment say together: latencies with intervals, gaps, efficiency, who is ahead."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrlato_jax.errors import InputError
from mrlato_jax.experiments.paper import PAPER_EFFICIENCY, PAPER_MS
from mrlato_jax.experiments.references import Row, floor
from mrlato_jax.experiments.reproduction import ALL, HALF, PLANNING, TRAINING
from mrlato_jax.learning.adaptation import marks

FLOAT32 = 1e-5  # relative: by so much may a latency in float32 lie below a bound in float64
STEPS = (1, 30, 100)  # of Table III
# 97.5 % quantiles of Student's t by degrees of freedom, from 1 (Fisher & Yates, Table III); the normal one beyond.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds and half the width of its 95 % interval (Student's t); NaN for a single seed."""

    mean: float
    half_width: float

    def __str__(self) -> str:
        """`612.3 ± 4.1`, or the mean alone."""
        return f"{self.mean:.1f}" if math.isnan(self.half_width) else f"{self.mean:.1f} ± {self.half_width:.1f}"

    @property
    def clear_of_zero(self) -> bool:
        """Whether the interval leaves out zero; False for a single seed."""
        return abs(self.mean) > self.half_width


def estimate(values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean and interval of one value a seed."""
    values = np.asarray(values, float)
    freedom = len(values) - 1
    if not freedom:
        return Estimate(float(values[0]), math.nan)
    quantile = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 1.96
    return Estimate(float(values.mean()), quantile * float(values.std(ddof=1)) / math.sqrt(len(values)))


@dataclasses.dataclass(frozen=True)
class Learned:
    """One learned method on one setting, of several seeds.

    Attributes:
        latency_ms: [seeds, updates + 1], mean over the DAGs adapted to.
        by_dag_ms: by number of updates, [seeds, DAGs].
        held_out_ms: [seeds, updates + 1], mean over the half not adapted to; None where there is a single DAG.
        evaluations: a DAG, of the whole adaptation.
        plan_ms: to plan one DAG, median.
    """

    latency_ms: np.ndarray
    by_dag_ms: Mapping[int, np.ndarray]
    held_out_ms: np.ndarray | None
    evaluations: float
    plan_ms: float


@dataclasses.dataclass(frozen=True)
class Panel:
    """One setting: what is known of it, planned and learned.

    Attributes:
        experiment: its name.
        place: of the setting in its experiment.
        name: the setting's.
        planners: rows of the references.
        learned: by label.
        updates: of the adaptations.
        inner_steps: updates on one collection, by label.
    """

    experiment: str
    place: int
    name: str
    planners: Mapping[str, Row]
    learned: Mapping[str, Learned]
    updates: int
    inner_steps: Mapping[str, int]

    @property
    def optimum_ms(self) -> float:
        """Mean fixed-order optimum; unproven DAGs count at their lower bound."""
        return floor(self.planners)

    @property
    def unproven(self) -> int:
        """DAGs whose optimum is not proven."""
        return self.planners["optimum"]["proven"].count(False)

    @property
    def best_order_ms(self) -> float:
        """Mean of the best plan known of each DAG, whatever its order."""
        return float(np.min([row["makespan_ms"] for row in self.planners.values()], axis=0).mean())

    def planned_ms(self, name: str) -> float:
        """Mean makespan of one planner."""
        return float(np.mean(self.planners[name]["makespan_ms"]))

    def evaluations(self, label: str, updates: int) -> float:
        """Simulated plans a DAG that so many updates of a learned method spend."""
        steps = self.inner_steps[label]
        rounds = [-(-count // steps) for count in (updates, self.updates)]
        return self.learned[label].evaluations * rounds[0] / rounds[1] if rounds[1] else 0.0


def panels(
    experiment: str,
    references: Mapping[str, Mapping[str, Row]],
    records: Mapping[str, Sequence[Mapping[str, Mapping[str, Any]]]],
    updates: int,
    inner_steps: Mapping[str, int],
) -> list[Panel]:
    """The settings of one experiment.

    Args:
        experiment: its name.
        references: rows of its references, by setting.
        records: complete rows of each seed's record, by label.
        updates: of the adaptations.
        inner_steps: updates on one collection, by label.

    Raises:
        InputError: a latency below the bound that is proven for its DAG: the records are of different data or code.
    """
    found = []
    for place, (name, planners) in enumerate(references.items()):
        bound = np.asarray(planners["optimum"]["lower_bound_ms"])
        learned = {}
        for label, seeds in records.items():
            parts = [rows[name] for rows in seeds]
            by_dag = {
                mark: np.array([part[ALL]["latency_ms_by_dag"][str(mark)] for part in parts]) for mark in marks(updates)
            }
            for mark, values in by_dag.items():
                if values.shape[1:] != bound.shape or (values < bound * (1 - FLOAT32) - 1e-3).any():
                    raise InputError(
                        f"the record of {label} has latencies on {name} after {mark} updates that lie below the proven "
                        "optimum; accepted: records of the same data and simulator as the references"
                    )
            learned[label] = Learned(
                latency_ms=np.array([part[ALL]["latency_ms"] for part in parts]),
                by_dag_ms=by_dag,
                held_out_ms=np.array([part[HALF]["latency_ms"] for part in parts]) if len(bound) > 1 else None,
                evaluations=parts[0][ALL]["simulator_evaluations"] / len(bound),
                plan_ms=1e3 * float(np.median(np.concatenate([part[PLANNING]["seconds"] for part in parts]))),
            )
        found.append(Panel(experiment, place, name, planners, learned, updates, inner_steps))
    return found


def labels_of(panels: Sequence[Panel]) -> list[str]:
    """Learned methods of all panels, in the order of their first appearance."""
    return list(dict.fromkeys(label for panel in panels for label in panel.learned))


def table_three(panels: Sequence[Panel]) -> tuple[list[str], list[list[str]]]:
    """The paper's Table III: latency after 1, 30 and 100 updates with intervals over seeds, and what it is measured by.

    Returns:
        Header and cells; a column of the paper's own figure after the last update where it has one.
    """
    steps = [step for step in STEPS if step <= panels[0].updates] or [panels[0].updates]
    labels = labels_of(panels)
    header = ["mean latency, ms", *(f"{label}, {step}" for label in labels for step in steps)]
    published = [label for label in labels if label in PAPER_EFFICIENCY and steps[-1] == STEPS[-1]]
    header += [*(f"{label}, paper, 100" for label in published), "HEFT-based", "optimum"]
    cells = []
    for panel in panels:
        line = [panel.name]
        for label in labels:
            learned = panel.learned.get(label)
            line += [str(estimate(learned.latency_ms[:, step])) if learned else "" for step in steps]
        for label in published:
            line.append(f"{PAPER_MS[panel.experiment][label][panel.place][-1]}")
        cells.append([*line, f"{panel.planned_ms('HEFT-based'):.1f}", f"{panel.optimum_ms:.1f}"])
    return header, cells


def whole_table(panels: Sequence[Panel]) -> tuple[list[str], list[list[str]]]:
    """Every method on every setting: `latency (gap to the optimum, gap to the best order known)`, in ms and percent.

    Then simulated plans spent on a DAG, and milliseconds to plan one, adapting apart; means over the settings.
    """
    header = ["ms (% above optimum, best order)", *(panel.name for panel in panels), "evaluations", "ms a DAG"]

    def cell(panel: Panel, value: float) -> str:
        gaps = [100 * (value / best - 1) for best in (panel.optimum_ms, panel.best_order_ms)]
        return f"{value:.1f} ({gaps[0]:+.1f}, {gaps[1]:+.1f})"

    cells = []
    for name in panels[0].planners:
        rows = [panel.planners[name] for panel in panels]
        spent = [float(np.mean(row["evaluations"])) for row in rows if "evaluations" in row]
        each = 1e3 * np.mean([np.mean(row["seconds"]) for row in rows])
        proven = sum(panel.unproven for panel in panels)
        note = f" ({proven} unproven)" if name == "optimum" and proven else ""
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
            each = np.mean([panel.learned[label].plan_ms for panel in have])
            cells.append([*line, f"{np.mean(spent):.0f}", f"{each:.1f}"])
    return header, cells


def efficiency(panels: Sequence[Panel], label: str, first: int = 1) -> Estimate | None:
    """The paper's optimisation efficiency ratio `(L_first - L_30) / (L_first - L_100)`, mean over the settings.

    A setting whose whole gain is within its seeds' interval of zero is left out, as noise over noise; the interval here
    is over settings. None where no setting is left, or the adaptations are shorter than 100 updates.

    Args:
        panels: the settings.
        label: of the learned method.
        first: updates before the gain counts: the paper's 1, or 0.
    """
    ratios = []
    for panel in panels:
        learned = panel.learned.get(label)
        if learned is None or panel.updates < STEPS[-1]:
            continue
        curve = learned.latency_ms
        if estimate(curve[:, first] - curve[:, STEPS[2]]).clear_of_zero:
            means = curve.mean(axis=0)
            ratios.append((means[first] - means[STEPS[1]]) / (means[first] - means[STEPS[2]]))
    return estimate(ratios) if ratios else None


def efficiency_table(panels: Sequence[Panel]) -> tuple[list[str], list[list[str]]]:
    """Efficiency ratios from L1, as the paper's, and from L0; and of how many settings."""
    header = ["efficiency ratio", "from L1", "from L0", "paper, from L1", "settings with a clear gain"]
    cells = []
    for label in labels_of(panels):
        found = [efficiency(panels, label, first) for first in (1, 0)]
        clear = sum(
            estimate(panel.learned[label].latency_ms[:, 1] - panel.learned[label].latency_ms[:, -1]).clear_of_zero
            for panel in panels
            if label in panel.learned
        )
        count = sum(label in panel.learned for panel in panels)
        paper = PAPER_EFFICIENCY.get(label)
        shown = ["" if ratio is None else f"{ratio.mean:.2f}" for ratio in found]
        cells.append([label, *shown, "" if paper is None else f"{paper:.2f}", f"{clear} of {count}"])
    return header, cells


def duel(panels: Sequence[Panel], ours: str, theirs: str, updates: int) -> tuple[Estimate, float] | None:
    """How far one learned method is below another, paired by DAG.

    Returns:
        Percent by which the mean latency of `ours` exceeds that of `theirs`, mean over the settings that both have,
        with an interval over seeds (each pairs with the same number of the other); and the share of DAGs on which the
        mean over seeds of `ours` is lower. None where no setting has both, equally often.
    """
    shared = [panel for panel in panels if ours in panel.learned and theirs in panel.learned]
    by_seed, better = [], []
    for panel in shared:
        a, b = (panel.learned[label].by_dag_ms[updates] for label in (ours, theirs))
        seeds = min(len(a), len(b))
        by_seed.append(100 * (a[:seeds].mean(axis=1) / b[:seeds].mean(axis=1) - 1))
        better.append((a.mean(axis=0) < b.mean(axis=0)).mean())
    if not shared or len({len(values) for values in by_seed}) > 1:
        return None
    return estimate(np.mean(by_seed, axis=0)), float(np.mean(better))


def duel_table(panels: Sequence[Panel]) -> tuple[list[str], list[list[str]]]:
    """Each learned method against each one after it, before any update and after the last; and against HEFT-based."""
    updates = panels[0].updates
    header = ["mean latency against", *(f"after {mark}" if mark else "before any" for mark in sorted({0, updates}))]
    header.append(f"DAGs won after {updates}")
    labels = labels_of(panels)
    cells = []
    for i, ours in enumerate(labels):
        for theirs in labels[i + 1 :]:
            found = [duel(panels, ours, theirs, mark) for mark in sorted({0, updates})]
            if all(found):
                shown = [_percent(result[0]) for result in found if result is not None]
                won = found[-1][1] if found[-1] else math.nan
                cells.append([f"{ours} / {theirs}", *shown, f"{100 * won:.0f} %"])
        have = [panel for panel in panels if ours in panel.learned]
        shown = []
        for mark in sorted({0, updates}):
            ratios = [
                100 * (panel.learned[ours].latency_ms[:, mark] / panel.planned_ms("HEFT-based") - 1) for panel in have
            ]
            shown.append(_percent(estimate(np.mean(ratios, axis=0))))
        won = float(
            np.mean(
                [
                    panel.learned[ours].by_dag_ms[updates].mean(axis=0)
                    < np.asarray(panel.planners["HEFT-based"]["makespan_ms"])
                    for panel in have
                ]
            )
        )
        cells.append([f"{ours} / HEFT-based", *shown, f"{100 * won:.0f} %"])
    return header, cells


def _percent(value: Estimate) -> str:
    spread = "" if math.isnan(value.half_width) else f" ± {value.half_width:.1f}"
    return f"{value.mean:+.1f}{spread} %"


def long_form(panels: Sequence[Panel]) -> tuple[list[str], list[list[str]]]:
    """A line a setting, method and number of updates, for programs: latencies, intervals, gaps and their quantiles."""
    header = [
        "experiment", "setting", "method", "updates", "seeds", "latency_ms", "latency_half_width_ms", "held_out_ms",
        "gap_percent", "gap_p10_percent", "gap_p50_percent", "gap_p90_percent", "gap_best_order_percent",
        "evaluations_a_dag", "plan_ms", "unproven_dags",
    ]  # fmt: skip
    cells = []
    for panel in panels:
        bound = np.asarray(panel.planners["optimum"]["lower_bound_ms"])

        def line(
            method: str,
            updates: str,
            seeds: str,
            latency: Estimate,
            held_out: str,
            by_dag: np.ndarray,
            spent: str,
            plan_ms: float,
            panel: Panel = panel,
            bound: np.ndarray = bound,
        ) -> list[str]:
            quantiles = np.quantile(100 * (by_dag / bound - 1), (0.1, 0.5, 0.9))
            gaps = [100 * (latency.mean / best - 1) for best in (panel.optimum_ms, panel.best_order_ms)]
            return [
                panel.experiment, panel.name, method, updates, seeds, f"{latency.mean:.3f}",
                "" if math.isnan(latency.half_width) else f"{latency.half_width:.3f}", held_out, f"{gaps[0]:.3f}",
                *(f"{value:.3f}" for value in quantiles), f"{gaps[1]:.3f}", spent, f"{plan_ms:.3f}",
                str(panel.unproven),
            ]  # fmt: skip

        for name, row in panel.planners.items():
            by_dag = np.asarray(row["makespan_ms"])
            spent = f"{np.mean(row['evaluations']):.1f}" if "evaluations" in row else ""
            alone = Estimate(float(by_dag.mean()), math.nan)
            cells.append(line(name, "", "", alone, "", by_dag, spent, 1e3 * float(np.mean(row["seconds"]))))
        for label, learned in panel.learned.items():
            for mark in marks(panel.updates):
                held_out = "" if learned.held_out_ms is None else f"{learned.held_out_ms[:, mark].mean():.3f}"
                cells.append(
                    line(
                        label, str(mark), str(len(learned.latency_ms)), estimate(learned.latency_ms[:, mark]), held_out,
                        learned.by_dag_ms[mark].mean(axis=0), f"{panel.evaluations(label, mark):.1f}", learned.plan_ms,
                    )
                )  # fmt: skip
    return header, cells


def training_curves(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[Mapping[str, Any]]]:
    """The curve of each seed's training, by label."""
    return {label: [rows[TRAINING]["summary"]["curve"] for rows in seeds] for label, seeds in records.items()}
