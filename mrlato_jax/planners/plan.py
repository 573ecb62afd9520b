"""The plan types that planners return: `Plan`, `SearchedPlan` and `ProvenPlan`."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import jax
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.latency import LOCAL, Schedule, simulate, simulate_arrays
from mrlato_jax.mec.priority import priority_order
from mrlato_jax.mec.system import System


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A site for every task, the order, and the simulated schedule. All plan types are pytrees of all their fields.

    Attributes:
        placement: int32[n] by task id: 0 the UE, 1 to K the servers.
        order: int64[n], task ids in the scheduling order of the plan.
        makespan: seconds, float64, simulated in `order`.
        schedule: end times of the tasks.
    """

    placement: np.ndarray
    order: np.ndarray
    makespan: float
    schedule: Schedule

    @property
    def energy(self) -> float:
        """Energy of the UE, joules."""
        return self.schedule.energy

    @classmethod
    def of(cls, plan: Plan, **more: Any) -> Self:
        """Returns `plan` as this type, with the type's further fields in `more`."""
        return cls(plan.placement, plan.order, plan.makespan, plan.schedule, **more)


def placement_of(order: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Converts sites in scheduling order, padded or not, to int32[n] by task id.

    Args:
        order: int[n], task ids in scheduling order.
        actions: int or bool[N >= n].
    """
    placement = np.empty(len(order), np.int32)
    placement[order] = actions[: len(order)]
    return placement


def actions_of(dag: DagArrays, placement: np.ndarray) -> np.ndarray:
    """Converts a placement by task id to int32[N] in the scheduling order of one (host-side) DAG; 0 on padding."""
    return np.where(dag.mask, placement[dag.order], LOCAL).astype(np.int32)


def simulated_plan(graph: TaskGraph, system: System, placement: Any, order: Any = None) -> Plan:
    """Simulates a placement and returns its `Plan`.

    Args:
        graph: the application.
        system: the system it runs on.
        placement: the site of each task id.
        order: task ids in scheduling order; by default `priority_order`.
    """
    order = priority_order(graph, system) if order is None else order
    result = simulate(graph, system, placement, order)
    return Plan(np.asarray(placement, np.int32), np.asarray(order, np.int64), result.makespan, result)


def plans_of_arrays(dags: DagArrays, actions: np.ndarray) -> list[list[Plan]]:
    """Returns the `simulated_plan` of K placements of each packed DAG, in the packed scheduling order.

    Args:
        dags: result of `pack` in float64, then `in_joules`; leading axis B.
        actions: int32[B, K, N], sites in scheduling order.
    """
    plans = []
    for i, schedules in enumerate(simulate_arrays(dags, actions)):
        order = dags.order[i, : dags.mask[i].sum()].astype(np.int64)
        rows = zip(actions[i], schedules, strict=True)
        plans.append([Plan(placement_of(order, row), order, result.makespan, result) for row, result in rows])
    return plans


@dataclasses.dataclass(frozen=True, eq=False)
class SearchedPlan(Plan):
    """A plan found by a search.

    Attributes:
        evaluations: number of complete plans that the search simulated.
    """

    evaluations: int


@dataclasses.dataclass(frozen=True, eq=False)
class ProvenPlan(Plan):
    """The best plan found in its order, with a lower bound for that order.

    Attributes:
        proven: whether no placement in this order is better (by more than `branch_and_bound.TOLERANCE`).
        lower_bound: lower bound, within that tolerance, of the cost of every placement in this order: seconds, or
            joules with a deadline that can be met. Equals the cost if branch and bound proved the plan optimal.
        nodes: number of partial plans expanded.
        meets_deadline: whether the plan ends by the deadline; true without a deadline.
    """

    proven: bool
    lower_bound: float
    nodes: int
    meets_deadline: bool = True


for _kind in (Plan, SearchedPlan, ProvenPlan):
    _names = [field.name for field in dataclasses.fields(_kind)]
    jax.tree_util.register_dataclass(_kind, data_fields=_names, meta_fields=[])
