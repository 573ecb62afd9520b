"""Planners under the interface of a method; preparation and adaptation do nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Self

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.mec.system import System
from mrlato_jax.methods.face import Train
from mrlato_jax.planners import Plan, baselines, local_search, look_ahead, look_ahead_order, optimum, order_search

COUNTED_SEARCH = "local search, {} evaluations"
QUICK_PLANNERS = tuple(baselines(np.random.default_rng(0)))


@dataclasses.dataclass(frozen=True)
class PlannedMethod:
    """A planner as a row of a table.

    Attributes:
        name: name of the row.
        planner: `(graph, system, index of the DAG in its set) -> plan`; the index is the random seed.
        own_order: whether it chooses its own order instead of the priority order.
    """

    name: str
    planner: Callable[[TaskGraph, System, int], Plan]
    own_order: bool = False

    def prepare(self, train: Train | None = None) -> Self:
        """Returns the planner unchanged."""
        return self

    def adapt(self, graphs: Sequence[TaskGraph], system: System, updates: int) -> Self:
        """Returns the planner unchanged."""
        return self

    def plan(self, graphs: Sequence[TaskGraph], system: System) -> list[Plan]:
        """Returns a plan for each application."""
        return [self.planner(graph, system, index) for index, graph in enumerate(graphs)]


@dataclasses.dataclass(frozen=True)
class SearchBudget:
    """The budget of the searching planners for one DAG.

    Attributes:
        time_limit_s: seconds of branch and bound, without compilation.
        annealing_steps: number of changes that each chain of order search tries.
        evaluations: numbers of simulated plans, one local search for each. They equal the budgets of adaptation with 5
            and 10 trajectories, and of `mrlato_plus` with 25 and with 40 tasks per DAG.
    """

    time_limit_s: float = 60.0
    annealing_steps: int = 10_000
    evaluations: tuple[int, ...] = (170, 340, 41_260, 66_835)


def planned_methods(budget: SearchBudget | None = None) -> dict[str, PlannedMethod]:
    """Returns every planner by the name of its row, in the order of tables."""
    budget = SearchBudget() if budget is None else budget
    rows = [
        *(PlannedMethod(name, partial(_baseline, name), own_order=name == "greedy") for name in QUICK_PLANNERS),
        PlannedMethod("look-ahead", lambda graph, system, _: look_ahead(graph, system)),
        PlannedMethod(
            "look-ahead, order too", lambda graph, system, _: look_ahead_order(graph, system), own_order=True
        ),
        *(
            PlannedMethod(COUNTED_SEARCH.format(most), partial(_local_search, max_evaluations=most))
            for most in budget.evaluations
        ),
        PlannedMethod("local search", _local_search),
        PlannedMethod("optimum", lambda graph, system, _: optimum(graph, system, time_limit_s=budget.time_limit_s)),
        PlannedMethod(
            "order search",
            lambda graph, system, index: order_search(graph, system, steps=budget.annealing_steps, seed=index),
            own_order=True,
        ),
    ]
    return {row.name: row for row in rows}


def _local_search(graph: TaskGraph, system: System, index: int, max_evaluations: int | None = None) -> Plan:
    if max_evaluations is None:
        return local_search(graph, system, seed=index)
    enough = max_evaluations // (graph.num_tasks + 1) + 1  # each descent tries every single change at least once
    return local_search(graph, system, seed=index, max_evaluations=max_evaluations, restarts=enough)


def _baseline(name: str, graph: TaskGraph, system: System, index: int) -> Plan:
    return baselines(np.random.default_rng(index))[name](graph, system)
