"""Plans without learning: one signature, `planner(graph, system) -> Plan`."""

from mrlato_jax.planners.fixed import all_local, all_offload, random_placement
from mrlato_jax.planners.greedy import earliest_finish, greedy, heft
from mrlato_jax.planners.plan import Plan, simulated_plan

__all__ = [
    "Plan",
    "all_local",
    "all_offload",
    "earliest_finish",
    "greedy",
    "heft",
    "random_placement",
    "simulated_plan",
]
