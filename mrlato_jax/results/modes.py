"""Comparison of an offloader's modes with other searches: gap to the optimum over simulated plans and time.

Every row plans the DAGs of a test set one by one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.drawing import LINES
from mrlato_jax.errors import InputError, shorten
from mrlato_jax.inference.offloader import MODES, ORDER_STEPS, Offloader
from mrlato_jax.mec.system import System
from mrlato_jax.methods import PlannedMethod
from mrlato_jax.planners import Plan, SearchedPlan, local_search, order_search, random_placement
from mrlato_jax.progress import Progress
from mrlato_jax.results.record import AS_WRITTEN, GrowingRecord
from mrlato_jax.results.references import run_planner
from mrlato_jax.training.experiments import TestSet
from mrlato_jax.training.stopping import GracefulStop, StoppedError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = (4, 16, 64)
BUDGETS = (300, 1_000, 3_000, 10_000, 30_000)  # evaluations of searches without a policy
KEPT = ("makespan_ms", "seconds", "evaluations")


def rows(policy: Offloader) -> dict[str, PlannedMethod]:
    """Returns every row by its name, in the order of tables."""

    def learned(mode: str, samples: int) -> Callable[[TaskGraph, System, int], Plan]:
        return lambda graph, system, index: policy.plan(graph, system, mode, samples=samples, seed=index)

    methods = [PlannedMethod("learned: argmax", learned(MODES[0], 1))]
    for mode in MODES[1:3]:
        for number in SAMPLES:
            methods.append(PlannedMethod(f"learned: {mode}, {number}", learned(mode, number), own_order=True))
    methods.append(PlannedMethod(f"learned: {MODES[3]}, 64", learned(MODES[3], 64), own_order=True))
    for most in BUDGETS:
        methods.append(PlannedMethod(f"HEFT-based and local search, {most:,}", partial(_searched, most, False)))
    for most in BUDGETS:
        methods.append(PlannedMethod(f"random and local search, {most:,}", partial(_searched, most, True)))
    methods.append(PlannedMethod("HEFT-based and order search", _order_searched, own_order=True))
    return {row.name: row for row in methods}


def _searched(most: int, from_random: bool, graph: TaskGraph, system: System, index: int) -> SearchedPlan:
    """Local search from HEFT-based's plan or a random plan, then from random plans, with up to `most` evaluations."""
    start = random_placement(graph, system, np.random.default_rng([index, 1])) if from_random else None
    restarts = most // (graph.num_tasks + 1) + 1
    return local_search(graph, system, start=start, restarts=restarts, seed=index, max_evaluations=most)


def _order_searched(graph: TaskGraph, system: System, index: int) -> SearchedPlan:
    """Searches like `search_order`, but from HEFT-based's improved plan in place of the policy's."""
    start = local_search(graph, system, restarts=0)
    searched = order_search(graph, system, start=start, steps=ORDER_STEPS, seed=index)
    return SearchedPlan.of(searched, evaluations=searched.evaluations + start.evaluations)


def first(test_set: TestSet, graphs: int) -> TestSet:
    """Returns the test set with its first `graphs` DAGs."""
    return dataclasses.replace(test_set, graphs=test_set.graphs[:graphs])


def complete(record: GrowingRecord, test_sets: Sequence[TestSet], policy: Offloader, stop: GracefulStop) -> bool:
    """Computes the missing rows of the record; shows progress. Returns False after a stop."""
    for test_set in test_sets:
        for name, row in rows(policy).items():
            if name in record.rows.get(test_set.name, {}):
                continue
            with Progress(len(test_set.graphs), f"{name} on {test_set.name}") as progress:

                def show(done: int, makespan_ms: float, progress: Progress = progress) -> None:
                    progress.update(done, latency_ms=makespan_ms)
                    if stop.requested:
                        raise StoppedError

                try:
                    with stop.unburdened("stopped; the unfinished row is dropped, all finished ones are written"):
                        measured = run_planner(row, test_set, show)
                except StoppedError:
                    return False
            record.add(test_set.name, name, {key: measured[key] for key in KEPT})
    return True


@dataclasses.dataclass(frozen=True)
class Point:
    """One row over all test sets of an experiment.

    Attributes:
        gaps: percent above the optimum, by test set.
        evaluations: mean number of simulated plans per DAG.
        ms: mean time per DAG, milliseconds.
    """

    gaps: dict[str, float]
    evaluations: float
    ms: float

    @property
    def gap(self) -> float:
        """Mean over the test sets."""
        return float(np.mean(list(self.gaps.values())))


def points(rows: Mapping[str, Mapping[str, Any]], optima_ms: Mapping[str, float]) -> dict[str, Point]:
    """Returns the points of all rows that exist for every test set.

    Args:
        rows: rows of the record, by test set and name.
        optima_ms: mean optimum of each test set, milliseconds.

    Raises:
        InputError: a row lacks the numbers named in `KEPT`.
    """
    for test_set, measured in rows.items():
        for name, row in measured.items():
            try:
                usable = all(np.isfinite(np.mean(row[key])) for key in KEPT)
            except (KeyError, TypeError, ValueError):
                usable = False
            if not usable:
                raise InputError(f"record has {shorten(row)} as {name} on {test_set}; accepted: {AS_WRITTEN}")
    names = [name for name in next(iter(rows.values())) if all(name in measured for measured in rows.values())]
    return {
        name: Point(
            {
                s: 100 * (float(np.mean(measured[name]["makespan_ms"])) / optima_ms[s] - 1)
                for s, measured in rows.items()
            },
            float(np.mean([np.mean(measured[name]["evaluations"]) for measured in rows.values()])),
            1e3 * float(np.mean([np.mean(measured[name]["seconds"]) for measured in rows.values()])),
        )
        for name in names
    }


def modes_table(points: Mapping[str, Point]) -> tuple[list[str], list[list[str]]]:
    """Makes header and cells of a table."""
    test_sets = list(next(iter(points.values())).gaps)
    header = ["% above the optimum", *test_sets, "plans simulated", "ms a DAG"]
    cells = [
        [name, *(f"{gap:+.2f}" for gap in point.gaps.values()), f"{point.evaluations:,.0f}", f"{point.ms:.1f}"]
        for name, point in points.items()
    ]
    return header, cells


def figure(points: Mapping[str, Point], title: str) -> Figure:
    """Draws the gap over simulated plans, and over time, one line for each search method.

    Methods that choose their own order are left out, since their gaps can be below 0.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib import figure as plots
    from matplotlib import ticker

    drawn = plots.Figure(figsize=(11, 4.2), layout="constrained")
    axes = drawn.subplots(1, 2, sharey=True)
    kinds = {
        "learned: sample": ("C0", "o"),
        "learned: search": ("C3", "o"),
        "HEFT-based and local search": (LINES["HEFT-based"][0], "s"),
        "random and local search": (LINES["random"][0], "^"),
    }
    for axis, of in zip(axes, ("evaluations", "ms"), strict=True):
        for kind, (colour, marker) in kinds.items():
            line = [point for name, point in points.items() if name.startswith(f"{kind},")]
            if kind == "learned: sample" and "learned: argmax" in points:
                line = [points["learned: argmax"], *line]
            spent = [max(getattr(point, of), 1e-3) for point in line]
            axis.plot(spent, [point.gap for point in line], colour, marker=marker, label=kind, markersize=4)
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.axhline(0, color=LINES["optimum"][0], linewidth=1.6)
        axis.grid(alpha=0.25)
    axes[0].set_xlabel("plans simulated for a DAG")
    axes[1].set_xlabel("ms for a DAG, one core")
    axes[0].set_ylabel("% above the optimum of the priority order")
    axes[0].set_yscale("symlog", linthresh=1)
    axes[0].set_yticks([0, 0.5, 1, 2, 5, 10], labels=["0", "0.5", "1", "2", "5", "10"])
    axes[0].set_ylim(bottom=-0.3)
    axes[1].legend(fontsize=9, frameon=False)
    drawn.suptitle(title, fontsize=12)
    return drawn
