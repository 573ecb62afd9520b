"""Latency against energy: plans that no other beats in both, each the proven optimum of a deadline of its own."""

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
MOST_TIES = 20  # plans of equal energy that are looked at for a faster one
SAME = 1e-9  # relative: makespans or energies that differ by less are the same


def front(
    graph: TaskGraph, system: System, points: int = 11, *, order: Any = None, time_limit_s: float = 10.0
) -> list[ProvenPlan]:
    """Plans in a given order that no other plan beats in both makespan and energy, by ascending makespan.

    The first is the fastest plan, the last the one of least energy. Between them, deadlines at equal distances each
    give the plan of least energy that meets the deadline and, of those, the fastest.

    Args:
        graph: the application.
        system: the system it runs on; its `power` says what energy is.
        points: deadlines, the two ends among them, at least 2; plans that are met twice are there once.
        order: scheduling order, task ids; by default `priority_order(graph, system)`.
        time_limit_s: seconds that each proof may take.

    Returns:
        At most `points` plans, by ascending makespan. One that is `proven` has the least energy of all plans that are
        no slower; one that is not may be beaten by a plan that the time did not suffice to find.

    Raises:
        InputError: an argument of another type or out of its range, or an order that is no linear extension.
    """
    check_type("graph", graph, TaskGraph)
    check_type("system", system, System)
    check_number("points", points, low=2, high=MOST_POINTS, integer=True)
    check_number("time_limit_s", time_limit_s, low=0.0)

    fastest = optimum(graph, system, order, time_limit_s)
    if not any(dataclasses.astuple(system.power)):
        return [fastest]  # no plan takes energy

    def within(deadline_s: float) -> ProvenPlan:
        return cheapest_in_time(graph, system, fastest, Objective(deadline_s=deadline_s), time_limit_s)

    def thriftiest(deadline_s: float) -> ProvenPlan:
        """Of the plans that meet the deadline the one of least energy, and of those the fastest."""
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
    """Seconds that no plan takes longer than: every task uses everything, and its result goes to every site."""
    columns = (*task_times(graph, system), *move_times(graph, system))
    return system.num_sites * float(sum(column.sum() for column in columns)) + 1


def _unbeaten(plans: list[ProvenPlan]) -> list[ProvenPlan]:
    """Those that no other is at least as good as in both, by ascending makespan; of equals one."""
    kept: list[ProvenPlan] = []
    for plan in sorted(plans, key=lambda plan: (plan.makespan, plan.energy)):
        if not kept or plan.energy < kept[-1].energy * (1 - SAME):
            kept.append(plan)
    return kept
