"""Look-ahead planners: each task in turn takes the site from which quick rules reach the best complete plan.

This is parallel rollout (Chang, Givan and Chong, 2004). For each site of the task, the HEFT-based rule completes the
plan once with each of several tolls. The best of these plans is the score of the site.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.config import CANDIDATES
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.environment import actions as coding
from mrlato_jax.environment.process import State, most_urgent, place_at, place_next, ready, reset
from mrlato_jax.environment.rules import TOLLS, basis_of, evaluations, outcomes, tried
from mrlato_jax.errors import check_type
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.priority import priority_order
from mrlato_jax.mec.system import System
from mrlato_jax.planners.plan import SearchedPlan, placement_of, simulated_plan


@jax.jit
def best_outcome(dag: DagArrays) -> tuple[jax.Array, jax.Array]:
    """Places the tasks of one DAG one by one, each at the site with the least of `outcomes`.

    A tie between the UE and a server goes to the server.

    Args:
        dag: one DAG, no leading axes.

    Returns:
        int32[N] sites in scheduling order, and the plan's makespan in seconds.
    """
    basis = basis_of(dag)
    tasks = basis.tasks

    def body(queues: latency.Queues, task: latency.Task) -> tuple[latency.Queues, jax.Array]:
        left = tasks.valid & (tasks.position >= task.position)
        steps = (task.position + 1, tasks.valid.sum(dtype=jnp.int32))
        reached = outcomes(basis, len(TOLLS), queues, left, task, steps)
        server = jnp.argmin(reached[1:]).astype(jnp.int32) + latency.OFFLOAD
        action = jnp.where(reached[1:].min() <= reached[0], server, latency.LOCAL)
        return place_next(dag, queues, task, action)[0], action

    queues, actions = jax.lax.scan(body, latency.empty_queues(dag), tasks)
    return actions, queues.makespan


class FreePlan(NamedTuple):
    """A plan whose order was chosen with it. Axis N follows the chosen order."""

    positions: jax.Array  # int32[N], position of each task in the scheduling order of the `DagArrays`
    actions: jax.Array  # int32[N], the site of each task
    compared: jax.Array  # int32[N], number of candidate tasks compared at this step
    makespan: jax.Array  # seconds


@partial(jax.jit, static_argnames="candidates")
def best_outcome_of_ready(dag: DagArrays, candidates: int = CANDIDATES) -> FreePlan:
    """Chooses the next task, too: among the tasks whose parents are placed, the one with the least outcome.

    The quick rules place the remaining tasks by position, as in `best_outcome`. A tie goes to the first task by
    position, and to a server.

    Args:
        dag: one DAG, no leading axes.
        candidates: number of ready tasks to compare, those of the highest priority.
    """
    basis = basis_of(dag)
    tasks = basis.tasks

    def body(state: State, _: None) -> tuple[State, tuple[jax.Array, jax.Array, jax.Array]]:
        can_be_next = ready(tasks, state.placed)
        positions = most_urgent(can_be_next, candidates)
        compared = jax.tree.map(lambda leaf: leaf[positions], tasks)
        left = tasks.valid & ~state.placed
        of_task = partial(outcomes, basis, len(TOLLS), state.queues, left)
        spans = jnp.where(can_be_next[positions][:, None], jax.vmap(of_task)(compared), jnp.inf)
        least = jnp.argmin(jnp.roll(spans, -1, axis=1))  # servers come first, so a tie goes to a server
        # When no task is ready, padding is placed. Placing padding has no effect.
        most_promising = positions[coding.position_of(least, dag.num_sites)]
        position = jnp.where(can_be_next.any(), most_promising, jnp.argmin(state.placed)).astype(jnp.int32)
        site = (coding.site_of(least, dag.num_sites).astype(jnp.int32) + 1) % dag.num_sites
        after = place_at(dag, tasks, state, position, site)[0]
        return after, (position, site, can_be_next[positions].sum())

    end, steps = jax.lax.scan(body, reset(dag), None, length=dag.mask.shape[0])
    positions, sides, compared = steps
    return FreePlan(positions, sides, compared, end.queues.makespan)


def look_ahead(graph: TaskGraph, system: System, *, objective: Objective | None = None) -> SearchedPlan:
    """Runs `best_outcome` in `priority_order` (13). The plan is never worse than the HEFT-based plan.

    Args:
        graph: the application.
        system: the system it runs on.
        objective: the cost to minimise; by default the makespan.

    Returns:
        A `SearchedPlan`, timed in float64.

    Raises:
        InputError: an argument has a wrong type.
    """
    check_type("graph", graph, TaskGraph)
    order = priority_order(graph, system)
    with latency.one_by_one():
        actions = np.asarray(best_outcome(latency.pack_float64(graph, system, order, objective))[0])
    plan = simulated_plan(graph, system, placement_of(order, actions), order)
    spent = evaluations(tried(len(TOLLS), system.channel), graph.num_tasks, num_sites=system.num_sites)
    return SearchedPlan.of(plan, evaluations=spent)


def look_ahead_order(graph: TaskGraph, system: System, *, objective: Objective | None = None) -> SearchedPlan:
    """Runs `best_outcome_of_ready`, which also chooses the order. The next task is one whose parents are placed.

    Arguments, result and errors are those of `look_ahead`.
    """
    check_type("graph", graph, TaskGraph)
    with latency.one_by_one():
        dag = latency.pack_float64(graph, system, objective=objective)
        found = jax.device_get(best_outcome_of_ready(dag))
    n = graph.num_tasks
    order = np.asarray(dag.order)[found.positions[:n]]
    left = n - 1 - np.arange(n)
    spent = math.ceil(dag.num_sites * tried(len(TOLLS), system.channel) * float((found.compared[:n] * left).sum()) / n)
    return SearchedPlan.of(simulated_plan(graph, system, placement_of(order, found.actions), order), evaluations=spent)
