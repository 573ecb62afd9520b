"""Planners that ignore the application: all tasks local, all offloaded, or random sites."""

from __future__ import annotations

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import check_type
from mrlato_jax.mec.latency import LOCAL
from mrlato_jax.mec.system import System
from mrlato_jax.planners.plan import Plan, simulated_plan


def all_local(graph: TaskGraph, system: System) -> Plan:
    """Places every task on the UE. Tasks pinned to a server all run on the server that gives the least makespan.

    Args:
        graph: the application.
        system: the system it runs on.

    Raises:
        InputError: an argument has a wrong type.
    """
    return _same_site(graph, system, offload=False)


def all_offload(graph: TaskGraph, system: System) -> Plan:
    """Places every task that is not pinned to the UE on one server, the one that gives the least makespan.

    Arguments and errors are those of `all_local`.
    """
    return _same_site(graph, system, offload=True)


def random_placement(graph: TaskGraph, system: System, rng: np.random.Generator) -> Plan:
    """Draws the site of each task from `rng`, all allowed sites equally likely. Errors are those of `all_local`."""
    check_type("graph", graph, TaskGraph)
    check_type("system", system, System)
    check_type("rng", rng, np.random.Generator)
    sites = rng.integers(0, system.num_sites, graph.num_tasks)
    if graph.is_pinned:
        pins = np.array(graph.pins)
        sites = np.where(pins == "ue", LOCAL, sites)
        sites = np.where(pins == "server", rng.integers(1, system.num_sites, graph.num_tasks), sites)
    return simulated_plan(graph, system, sites)


def _same_site(graph: TaskGraph, system: System, *, offload: bool) -> Plan:
    """Returns the best of the plans that use one server."""
    check_type("graph", graph, TaskGraph)
    check_type("system", system, System)
    away = np.array([pin == "server" or (offload and pin != "ue") for pin in graph.pins])
    servers = range(1, system.num_sites) if away.any() else (1,)
    plans = [simulated_plan(graph, system, np.where(away, server, LOCAL)) for server in servers]
    return min(plans, key=lambda plan: plan.makespan)
