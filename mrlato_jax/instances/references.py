"""The best plan known for an instance, and a bound for all orders."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import System
from mrlato_jax.planners.annealing import order_search
from mrlato_jax.planners.any_order import TOLERANCE, bounded
from mrlato_jax.planners.branch_and_bound import optimum
from mrlato_jax.planners.plan import Plan, simulated_plan

ORDER_STEPS = 3000  # of annealing
SAME = 1e-9  # relative: a plan that is better by less leaves the known plan as it is


class Problem(NamedTuple):
    """An application on a system with an objective."""

    graph: TaskGraph
    system: System
    objective: Objective

    def cost(self, plan: Plan) -> float:
        """Returns the cost of a plan, seconds."""
        return self.objective.cost(plan.makespan, plan.energy)


def reference(
    problem: Problem,
    before: dict[str, Any] | None,
    search_s: float,
    proof_s: float,
    workers: int,
    known: Mapping[str, Plan] = MappingProxyType({}),
) -> dict[str, Any]:
    """Searches for the best plan in any order and bounds all orders; returns the instance's entry of references.json.

    First comes the optimum of the priority order, then CP-SAT's bound, which may find a better plan. Where that proves
    nothing, orders are annealed, and the bound is sought again. A better bound or plan of an earlier entry stays.

    Args:
        problem: the problem.
        before: the entry so far, if any; if proven, it is returned as it is.
        search_s: time limit of each optimum, seconds.
        proof_s: time limit of the proof, seconds.
        workers: threads of the proof.
        known: further plans, by who found them.
    """
    if before is not None and before["proven"]:
        return before
    graph, system, objective = problem
    found: list[tuple[str, Plan]] = []  # of equal plans the first one counts
    if before is not None:
        found.append((before["found_by"], simulated_plan(graph, system, before["placement"], before["order"])))
    found.append(("optimum", optimum(graph, system, time_limit_s=search_s, objective=objective)))
    found += known.items()
    by, best = min(found, key=lambda entry: problem.cost(entry[1]))
    bound = 0.0 if before is None else before["lower_bound"]
    for annealed in (False, True):
        if annealed:
            searched = order_search(graph, system, start=best, steps=ORDER_STEPS, objective=objective)
            by, best = min((by, best), ("order search", searched), key=lambda entry: problem.cost(entry[1]))
        proof = bounded(graph, system, best, objective, proof_s, workers)
        bound = max(bound, proof.lower_bound)
        if problem.cost(proof.plan) < problem.cost(best) * (1 - SAME):
            by, best = "CP-SAT", proof.plan
        if proof.proven:
            break
    cost = problem.cost(best)
    bound = min(bound, cost)
    return {
        "cost": cost,
        "lower_bound": bound,
        "proven": bound >= cost * (1 - TOLERANCE),
        "found_by": by,
        "placement": best.placement.tolist(),
        "order": best.order.tolist(),
    }
