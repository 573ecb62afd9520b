"""Planners without learning; all share the signature `planner(graph, system) -> Plan`."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.mec.system import System
from mrlato_jax.planners.annealing import order_search
from mrlato_jax.planners.baselines import baselines
from mrlato_jax.planners.branch_and_bound import optimum
from mrlato_jax.planners.descent import local_search
from mrlato_jax.planners.fixed import all_local, all_offload, random_placement
from mrlato_jax.planners.front import front
from mrlato_jax.planners.greedy import earliest_finish, greedy, heft
from mrlato_jax.planners.lookahead import look_ahead, look_ahead_order
from mrlato_jax.planners.plan import Plan, ProvenPlan, SearchedPlan, placement_of, plans_of_arrays, simulated_plan

PLANNERS: Mapping[str, Callable[[TaskGraph, System], Plan]] = MappingProxyType(
    {
        planner.__name__: planner
        for planner in (
            all_local, all_offload, greedy, heft, look_ahead, look_ahead_order, local_search, order_search, optimum
        )
    }
)  # fmt: skip
"""Every planner by its name in `mrlato_jax`; each takes a graph and a system. Their docstrings describe them."""

__all__ = [
    "PLANNERS",
    "Plan",
    "ProvenPlan",
    "SearchedPlan",
    "all_local",
    "all_offload",
    "baselines",
    "earliest_finish",
    "front",
    "greedy",
    "heft",
    "local_search",
    "look_ahead",
    "look_ahead_order",
    "optimum",
    "order_search",
    "placement_of",
    "plans_of_arrays",
    "random_placement",
    "simulated_plan",
]
