"""Greedy planners: each task in turn takes the site where it finishes first, or costs least."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.environment.rules import place_sooner
from mrlato_jax.errors import check_type
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.priority import priority_order
from mrlato_jax.mec.system import System
from mrlato_jax.planners.plan import Plan, placement_of, simulated_plan


@jax.jit
def earliest_finish(dag: DagArrays) -> tuple[jax.Array, jax.Array]:
    """Places the tasks of one DAG one by one, each at the site of its least own cost (`place_sooner`).

    A tie between the UE and a server goes to the server.

    Args:
        dag: one DAG, no leading axes.

    Returns:
        int32[N] sites in scheduling order, and the plan's cost: the makespan in seconds, unless `DagArrays.prices`
        defines another cost.
    """
    body = partial(place_sooner, dag)
    queues, actions = jax.lax.scan(body, latency.empty_queues(dag), latency.tasks(dag))
    return actions, latency.cost(dag, queues)


def greedy(graph: TaskGraph, system: System, *, objective: Objective | None = None) -> Plan:
    """Runs `earliest_finish` in topological order of the task ids (smallest ready id first).

    Args:
        graph: the application.
        system: the system it runs on.
        objective: the cost by which each task's site is chosen; by default the time of its result.

    Returns:
        A `Plan` in that order, timed in float64.

    Raises:
        InputError: an argument has a wrong type.
    """
    check_type("graph", graph, TaskGraph)
    return _plan_in_order(graph, system, graph.topological_order(), objective)


def heft(graph: TaskGraph, system: System, *, objective: Objective | None = None) -> Plan:
    """HEFT-based planner: runs `earliest_finish` in `priority_order` (13), after Topcuoglu et al., IEEE TPDS 2002.

    Arguments, result and errors are those of `greedy`.
    """
    return _plan_in_order(graph, system, priority_order(graph, system), objective)


def _plan_in_order(graph: TaskGraph, system: System, order: np.ndarray, objective: Objective | None) -> Plan:
    with latency.one_by_one():
        actions = np.asarray(earliest_finish(latency.pack_float64(graph, system, order, objective))[0])
    return simulated_plan(graph, system, placement_of(order, actions), order)
