"""Plans without learning: one signature, `planner(graph, system) -> Plan`."""

from mrlato_jax.planners.annealing import order_search
from mrlato_jax.planners.baselines import baselines
from mrlato_jax.planners.branch_and_bound import optimum
from mrlato_jax.planners.descent import local_search
from mrlato_jax.planners.fixed import all_local, all_offload, random_placement
from mrlato_jax.planners.greedy import earliest_finish, greedy, heft
from mrlato_jax.planners.lookahead import look_ahead, look_ahead_order
from mrlato_jax.planners.plan import Plan, ProvenPlan, SearchedPlan, placement_of, plans_of_arrays, simulated_plan

__all__ = [
    "Plan",
    "ProvenPlan",
    "SearchedPlan",
    "all_local",
    "all_offload",
    "baselines",
    "earliest_finish",
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
