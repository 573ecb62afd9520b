"""The verifier: recomputes the cost of a plan for an instance, and says how far it is from the best known."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mrlato_jax.errors import InputError, check_number, check_type, shorten
from mrlato_jax.files import load_json
from mrlato_jax.instances.benchmark import Instance
from mrlato_jax.instances.references import Problem
from mrlato_jax.mec.latency import check_placement
from mrlato_jax.mec.priority import check_order
from mrlato_jax.planners.any_order import TOLERANCE
from mrlato_jax.planners.plan import Plan, simulated_plan

SAME = 1e-6  # relative: a claimed cost may differ by less
PLANS = 'a JSON file {"method": NAME, "plans": {INSTANCE: {"placement": [...], "order": [...], "cost": SECONDS}}}'
_FIELDS = ("placement", "order", "cost")


class Verified(NamedTuple):
    """What a plan is worth.

    Attributes:
        makespan: seconds.
        energy: joules of the UE.
        cost: the instance's objective, seconds.
        gap_to_best: relative excess over the best known cost; negative if the plan is better.
        gap_to_bound: relative excess over the lower bound.
        optimal: whether the plan is proven optimal over all placements and orders.
    """

    makespan: float
    energy: float
    cost: float
    gap_to_best: float
    gap_to_bound: float
    optimal: bool


def verify(instance: Instance, plan: Plan | Mapping[str, Any] | Any) -> Verified:
    """Checks a plan against the rules and recomputes its cost in float64, whatever the plan says of itself.

    Args:
        instance: one of `load_benchmark()`.
        plan: a `Plan`; a mapping with "placement" and optionally "order" and "cost" (the claimed cost, seconds); or a
            placement alone, n sites by task id (0 the UE, 1 to K the servers). Without an order, the plan is in the
            priority order.

    Raises:
        InputError: names the first rule that the plan breaks: a placement of another length, a site that is not there
            or against a pin, an order that is no permutation or has a child before its parent, or a claimed cost that
            differs from the recomputed cost.
    """
    check_type("instance", instance, Instance)
    if isinstance(plan, Plan):
        cost = instance.objective.cost(plan.makespan, plan.energy)
        plan = {"placement": plan.placement, "order": plan.order, "cost": cost}
    found = recomputed(instance.name, instance.problem, plan)
    cost = instance.problem.cost(found)
    return Verified(
        found.makespan,
        found.energy,
        cost,
        cost / instance.best_known - 1,
        cost / instance.lower_bound - 1 if instance.lower_bound > 0 else float("inf"),
        cost * (1 - TOLERANCE) <= instance.lower_bound,
    )


def recomputed(name: str, problem: Problem, plan: Mapping[str, Any] | Any) -> Plan:
    """Checks a plan as `verify` does, and simulates it anew.

    Args:
        name: name of the instance, for messages.
        problem: the problem of the instance.
        plan: a mapping or a placement, as in `verify`.

    Raises:
        InputError: as `verify`.
    """
    if not isinstance(plan, Mapping):
        plan = {"placement": plan}
    unknown = sorted(set(plan) - set(_FIELDS))
    if unknown or "placement" not in plan:
        found = f"lacks {_FIELDS[0]}" if not unknown else f"has {shorten(unknown[0])}"
        raise InputError(f"{name}: plan {found}; accepted: {', '.join(_FIELDS)}, of which placement is needed")
    graph, system, _ = problem
    order, claimed = plan.get("order"), plan.get("cost")
    try:
        placement = check_placement(graph, plan["placement"], num_sites=system.num_sites)
        if order is not None:
            order = check_order(graph, order)
        if claimed is not None:
            check_number("cost", claimed, low=0.0)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    again = simulated_plan(graph, system, placement, order)
    cost = problem.cost(again)
    if claimed is not None and abs(claimed - cost) > SAME * cost:
        raise InputError(f"{name}: cost is {claimed} s; accepted: {cost:.9g} s, the cost of this plan")
    return again


def read_plans(path: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
    """Reads a file of plans: the name of the method, and a plan for some instances, each as `verify` takes it.

    Raises:
        InputError: the file cannot be read or has another form than `PLANS`.
    """
    try:
        content = load_json(Path(path), PLANS)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; accepted: {PLANS}") from None
    if sorted(content) != ["method", "plans"]:
        raise InputError(f"{path}: has the members {shorten(sorted(content))}; accepted: {PLANS}")
    check_type(f"{path}: method", content["method"], str)
    check_type(f"{path}: plans", content["plans"], dict)
    return content["method"], content["plans"]
