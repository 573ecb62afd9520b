"""Plans that do not look at the application."""

from __future__ import annotations

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import check_type
from mrlato_jax.mec.latency import LOCAL, OFFLOAD
from mrlato_jax.mec.system import System
from mrlato_jax.planners.plan import Plan, simulated_plan


def all_local(graph: TaskGraph, system: System) -> Plan:
    """Every task on the UE.

    Args:
        graph: the application.
        system: the system it runs on.

    Raises:
        InputError: an argument of another type.
    """
    return _same_side(graph, system, LOCAL)


def all_offload(graph: TaskGraph, system: System) -> Plan:
    """Every task on the MEC host. Arguments and errors as `all_local`."""
    return _same_side(graph, system, OFFLOAD)


def random_placement(graph: TaskGraph, system: System, rng: np.random.Generator) -> Plan:
    """Each task on either side with probability 1/2, drawn from `rng`. Errors as `all_local`."""
    check_type("graph", graph, TaskGraph)
    check_type("rng", rng, np.random.Generator)
    return simulated_plan(graph, system, rng.integers(0, 2, graph.num_tasks))


def _same_side(graph: TaskGraph, system: System, side: int) -> Plan:
    check_type("graph", graph, TaskGraph)
    return simulated_plan(graph, system, np.full(graph.num_tasks, side))
