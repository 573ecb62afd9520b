"""References for learned methods: the plans of all planners on each DAG, including the proven optimum."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrlato_jax.dag.dataset import DagDataset, data_folder
from mrlato_jax.errors import InputError, shorten
from mrlato_jax.mec.latency import simulate
from mrlato_jax.methods import COUNTED_SEARCH, PlannedMethod, SearchBudget, planned_methods
from mrlato_jax.planners import Plan, ProvenPlan, SearchedPlan
from mrlato_jax.progress import Progress
from mrlato_jax.results.record import AS_WRITTEN, GrowingRecord
from mrlato_jax.training.experiments import TestSet
from mrlato_jax.training.run_folder import session
from mrlato_jax.training.stopping import GracefulStop, StoppedError

COUNTED = re.compile(COUNTED_SEARCH.format(r"\d+"))  # rows of `local search` with a limit of evaluations
SAME = 1e-9  # relative: a larger difference of a stored makespan means other code or other data


Row = dict[str, Any]
"""Results of one planner on one test set, lists with one entry per DAG: `makespan_ms`, `placement` (0s and 1s by task
id) and `seconds`; `order` unless it is the priority order; `evaluations`, or `proven`, `lower_bound_ms` and `nodes`, if
the plan has them."""


def plan_entry(plan: Plan, seconds: float, in_priority_order: bool) -> Row:
    """Returns one DAG's entries of a `Row`."""
    entry: Row = {
        "makespan_ms": 1e3 * plan.makespan,
        "placement": "".join(map(str, plan.placement.tolist())),
        "seconds": round(seconds, 5),
    }
    if not in_priority_order:
        entry["order"] = plan.order.tolist()
    if isinstance(plan, SearchedPlan):
        entry["evaluations"] = plan.evaluations
    if isinstance(plan, ProvenPlan):
        entry |= {"proven": plan.proven, "lower_bound_ms": 1e3 * plan.lower_bound, "nodes": plan.nodes}
    return entry


def run_planner(
    method: PlannedMethod,
    test_set: TestSet,
    on_plan: Callable[[int, float], None] = lambda done, makespan_ms: None,
) -> Row:
    """Plans every DAG of a test set.

    Args:
        method: the planner as a row. With `own_order`, the orders are stored, too.
        test_set: the DAGs and their system.
        on_plan: called after each DAG with the number of planned DAGs and the mean makespan so far.
    """
    method.planner(test_set.graphs[0], test_set.system, 0)  # compiles, so that compilation is not timed
    entries: list[Row] = []
    for index, graph in enumerate(test_set.graphs):
        began = time.perf_counter()
        plan = method.planner(graph, test_set.system, index)
        entries.append(plan_entry(plan, time.perf_counter() - began, not method.own_order))
        on_plan(index + 1, float(np.mean([entry["makespan_ms"] for entry in entries])))
    return {name: [entry[name] for entry in entries] for name in entries[0]}


class References(GrowingRecord):
    """The record of an experiment, which grows by one planner on one test set at a time."""

    def __init__(self, path: Path, identity: Mapping[str, Any], test_sets: Sequence[TestSet]) -> None:
        """Opens the record, or starts a new one.

        Args:
            path: the file, in an existing folder.
            identity: everything that determines the results: experiment, data hash, channel, budget, the package's
                version.
            test_sets: the DAGs of the rows.

        Raises:
            InputError: the file is malformed or has another identity; or a stored makespan differs from the simulator's
                or is below the lower bound of the optimum.
        """
        super().__init__(path, identity)
        known, named = planned_methods(), {test_set.name: test_set for test_set in test_sets}
        for test_set, planners in self.rows.items():
            unknown = [name for name in planners if name not in known and not COUNTED.fullmatch(name)]
            if test_set not in named or unknown:
                raise InputError(
                    f"record {path} has {', '.join(map(repr, unknown)) or 'plans'} on {test_set!r}; accepted: "
                    f"{', '.join(known)}, on {', '.join(map(repr, named))}"
                )
            for name, row in planners.items():
                try:
                    self._check(f"{name} on {test_set}", row, planners.get("optimum"), named[test_set])
                except (KeyError, ValueError, TypeError, AttributeError) as error:
                    raise InputError(
                        f"record {path}, {name} on {test_set}: {shorten(error, 300)}; accepted: {AS_WRITTEN}"
                    ) from None

    def _check(self, what: str, row: Row, best: Row | None, test_set: TestSet) -> None:
        """Simulates the stored plans again and compares them with the bounds of the optimum."""
        count = len(test_set.graphs)
        orders = row.get("order", [None] * count)
        bounds = best["lower_bound_ms"] if best is not None and "order" not in row else [0.0] * count
        seconds, proven = row["seconds"], row.get("proven", [False] * count)
        for index, (graph, placement, order, stored, bound, _, is_proven) in enumerate(
            zip(test_set.graphs, row["placement"], orders, row["makespan_ms"], bounds, seconds, proven, strict=True)
        ):
            again = 1e3 * simulate(graph, test_set.system, [int(side) for side in placement], order).makespan
            where = f"record {self.path} says {stored} ms of {what}, DAG {index}"
            if not abs(again - stored) <= SAME * again:
                raise ValueError(f"{where}, and the simulator {again}")
            if not bound <= stored * (1 + SAME) or (is_proven and bound != stored):
                raise ValueError(f"{where}, and the optimum is at least {bound}")

    def missing(self, test_sets: Sequence[TestSet], planners: Mapping[str, Any]) -> list[tuple[TestSet, str]]:
        """Lists the rows still to compute."""
        return [
            (test_set, name)
            for test_set in test_sets
            for name in planners
            if name not in self.rows.get(test_set.name, {})
        ]


def summary(rows: Mapping[str, Mapping[str, Row]], planners: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Makes header and cells of a table: mean latency and gap to the optimum of each planner on each test set.

    All of `planners` must exist. The gap, in brackets, compares means; unproven DAGs count with their lower bound. The
    last columns are evaluations and milliseconds per DAG, means over all test sets.
    """
    header = ["mean latency, ms (gap)", *rows, "evaluations a DAG", "ms a DAG"]
    cells = []
    for name in planners:
        measured = [row[name] for row in rows.values()]
        means = [float(np.mean(row["makespan_ms"])) for row in measured]
        gaps = [100 * (mean / bound_ms(row) - 1) for mean, row in zip(means, rows.values(), strict=True)]
        line = [name, *(f"{mean:.1f} ({gap:+.1f} %)" for mean, gap in zip(means, gaps, strict=True))]
        spent = [float(np.mean(row["evaluations"])) for row in measured if "evaluations" in row]
        line.append(f"{np.mean(spent):.0f}" if spent else "")
        line.append(f"{1e3 * np.mean([np.mean(row['seconds']) for row in measured]):.1f}")
        cells.append(line)
    return header, cells


def bound_ms(planners: Mapping[str, Row], first: int | None = None) -> float:
    """Returns the mean lower bound in the priority order over a test set's (first) DAGs, milliseconds."""
    return float(np.mean(planners["optimum"]["lower_bound_ms"][:first]))


def known_optima(dataset: DagDataset, channel: str, test_sets: Sequence[TestSet]) -> dict[str, tuple[float, int]]:
    """Reads the optima in the priority order from the record that comes with a data set.

    Returns:
        For each recorded test set, the mean optimum in milliseconds (unproven ones with their lower bound) and the
        number of unproven ones. Empty if the record is missing or of other data, channel rules or DAGs.
    """
    path = data_folder() / "results" / f"references-{dataset.name}.json"
    try:
        stored = json.loads(path.read_bytes())
        identity, rows = stored["identity"], stored["rows"]
        if (identity["data_hash"], identity["channel"]) != (dataset.content_hash, channel):
            return {}
        optima = {test_set.name: rows[test_set.name]["optimum"] for test_set in test_sets if test_set.name in rows}
        if any(len(optima[s.name]["proven"]) != len(s.graphs) for s in test_sets if s.name in optima):
            return {}
        return {name: (bound_ms({"optimum": row}), row["proven"].count(False)) for name, row in optima.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def reference_record(
    path: Path, dataset: DagDataset, channel: str, test_sets: Sequence[TestSet], budget: SearchBudget
) -> References:
    """Opens or starts the record of an experiment's planners at `path`; raises as `References`."""
    identity = {
        "experiment": dataset.name,
        "data_hash": dataset.content_hash,
        "channel": channel,
        "version": session()["versions"]["mrlato_jax"],
        "optimum_s": budget.time_limit_s,
        "annealing_steps": budget.annealing_steps,
    }
    return References(path, identity, test_sets)


def complete(record: References, test_sets: Sequence[TestSet], budget: SearchBudget, stop: GracefulStop) -> bool:
    """Computes the missing rows of the record; shows progress. Returns False after a stop.

    Each row, one planner on one test set, is written when it is complete.
    """
    planners = planned_methods(budget)
    for test_set, name in record.missing(test_sets, planners):
        with Progress(len(test_set.graphs), f"{name} on {test_set.name}") as progress:
            total = len(test_set.graphs)

            def show(done: int, makespan_ms: float, progress: Progress = progress, total: int = total) -> None:
                progress.update(done, latency_ms=makespan_ms)
                if stop.requested and done < total:
                    raise StoppedError

            try:
                with stop.unburdened("stopped; the unfinished row is dropped, all finished ones are written"):
                    row = run_planner(planners[name], test_set, show)
            except StoppedError:
                return False
        record.add(test_set.name, name, row)
    return True
