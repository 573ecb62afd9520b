"""The Pareto front of latency and energy. Each plan on it is the proven optimum for one deadline."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import check_number, check_type
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import System, move_times, task_times
from mrlato_jax.planners.branch_and_bound import cheapest_in_time, optimum
from mrlato_jax.planners.plan import ProvenPlan

MOST_POINTS = 1000
MOST_TIES = 20  # limit of the search for a faster plan of equal energy
SAME = 1e-9  # relative: makespans or energies that differ by less count as equal


def front(
    graph: TaskGraph, system: System, points: int = 11, *, order: Any = None, time_limit_s: float = 10.0
) -> list[ProvenPlan]:
    """Returns the plans of a given order that no other plan beats in both makespan and energy.

    The first is the fastest plan, the last the plan of least energy. Between them lie equally spaced deadlines. Each
    deadline gives the plan of least energy that meets it; among several of equal energy, the fastest.

    Args:
        graph: the application.
        system: the system it runs on; `system.power` defines the energy.
        points: number of deadlines with both ends, at least 2. A plan found for several deadlines is returned once.
        order: scheduling order, task ids; by default `priority_order(graph, system)`.
        time_limit_s: time limit of each proof, seconds.

    Returns:
        At most `points` plans, by ascending makespan. A plan with `proven` true has the least energy of all plans that
        are no slower. Without a proof, a better plan may exist that was not found within the time limit.

    Raises:
        InputError: an argument has a wrong type or is out of range, or the order is not a linear extension.
    """
    check_type("graph", graph, TaskGraph)
    check_type("system", system, System)
    check_number("points", points, low=2, high=MOST_POINTS, integer=True)
    check_number("time_limit_s", time_limit_s, low=0.0)

    fastest = optimum(graph, system, order, time_limit_s)
    if not any(dataclasses.astuple(system.power)):
        return [fastest]  # every plan uses zero energy

    def within(deadline_s: float) -> ProvenPlan:
        return cheapest_in_time(graph, system, fastest, Objective(deadline_s=deadline_s), time_limit_s)

    def thriftiest(deadline_s: float) -> ProvenPlan:
        """Returns the plan of least energy that meets the deadline; among several, the fastest."""
        best = within(deadline_s)
        for _ in range(MOST_TIES):
            sooner = within(best.makespan * (1 - SAME))
            if not sooner.meets_deadline or sooner.energy > best.energy * (1 + SAME):
                break
            best = sooner
        return best

    if fastest.makespan == 0:
        return [fastest]
    slowest = thriftiest(_all_one_by_one(graph, system))
    deadlines = np.linspace(fastest.makespan, max(slowest.makespan, fastest.makespan), points)[:-1]
    met = [thriftiest(deadline * (1 + SAME)) for deadline in deadlines]
    return _unbeaten([*met, slowest])


def _all_one_by_one(graph: TaskGraph, system: System) -> float:
    """Returns an upper bound of every makespan, seconds: each task uses all resources and sends to all sites."""
    columns = (*task_times(graph, system), *move_times(graph, system))
    return system.num_sites * float(sum(column.sum() for column in columns)) + 1


def _unbeaten(plans: list[ProvenPlan]) -> list[ProvenPlan]:
    """Drops each plan that another one equals or beats in both makespan and energy; keeps one of equal plans.

    The result is sorted by ascending makespan.
    """
    kept: list[ProvenPlan] = []
    for plan in sorted(plans, key=lambda plan: (plan.makespan, plan.energy)):
        if not kept or plan.energy < kept[-1].energy * (1 - SAME):
            kept.append(plan)
    return kept
