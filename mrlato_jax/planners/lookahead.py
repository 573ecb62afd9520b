"""Look-ahead: each task in turn takes the side that quick rules, deciding all the rest, make the most of.

Parallel rollout (Chang, Givan and Chong, 2004): the HEFT-based rule looks only at the task it decides, so it is run
with different tolls on offloading, and the best of what comes out speaks for a side.
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
from mrlato_jax.environment import features
from mrlato_jax.environment.process import State, most_urgent, place_at, place_next, ready, reset
from mrlato_jax.environment.rules import TOLLS, evaluations, outcomes
from mrlato_jax.errors import check_type
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.priority import priority_order
from mrlato_jax.mec.system import System
from mrlato_jax.planners.plan import SearchedPlan, placement_of, simulated_plan


@jax.jit
def best_outcome(dag: DagArrays) -> tuple[jax.Array, jax.Array]:
    """Places the tasks of one DAG one by one, each where `outcomes` is less; ties offload.

    Args:
        dag: one DAG, no leading axes.

    Returns:
        int32[N] actions in scheduling order, and their makespan, seconds.
    """
    tasks, scale = latency.tasks(dag), features.time_scale(dag)

    def body(queues: latency.Queues, task: latency.Task) -> tuple[latency.Queues, jax.Array]:
        left = tasks.valid & (tasks.position >= task.position)
        steps = (task.position + 1, tasks.valid.sum(dtype=jnp.int32))
        local, offloaded = outcomes(dag.channel, len(TOLLS), tasks, scale, queues, left, task, steps)
        action = jnp.where(offloaded <= local, latency.OFFLOAD, latency.LOCAL)
        return place_next(dag.channel, queues, task, action)[0], action

    queues, actions = jax.lax.scan(body, latency.empty_queues(dag), tasks)
    return actions, queues.makespan


class FreePlan(NamedTuple):
    """A plan in an order of its own, by the place in that order."""

    positions: jax.Array  # int32[N], of the tasks in the scheduling order
    actions: jax.Array  # int32[N], the side of each
    compared: jax.Array  # int32[N], how many tasks were candidates for it
    makespan: jax.Array  # seconds


@partial(jax.jit, static_argnames="candidates")
def best_outcome_of_ready(dag: DagArrays, candidates: int = CANDIDATES) -> FreePlan:
    """As `best_outcome`, but of the tasks whose parents are placed that one is next that has the least outcome.

    The rules decide the rest by position, as before. Of equals the first by position, offloaded, is taken.

    Args:
        dag: one DAG, no leading axes.
        candidates: so many of them, those of the highest priority, are compared.
    """
    tasks, scale = latency.tasks(dag), features.time_scale(dag)

    def body(state: State, _: None) -> tuple[State, tuple[jax.Array, jax.Array, jax.Array]]:
        can_be_next = ready(tasks, state.placed)
        positions = most_urgent(can_be_next, candidates)
        compared = jax.tree.map(lambda leaf: leaf[positions], tasks)
        left = tasks.valid & ~state.placed
        of_task = partial(outcomes, dag.channel, len(TOLLS), tasks, scale, state.queues, left)
        spans = jnp.where(can_be_next[positions][:, None], jax.vmap(of_task)(compared), jnp.inf)
        least = jnp.argmin(spans[:, ::-1])  # sides the other way round: of equals, offloaded comes first
        # Padding is placed once nothing is ready, and changes nothing.
        most_promising = positions[coding.position_of(least)]
        position = jnp.where(can_be_next.any(), most_promising, jnp.argmin(state.placed)).astype(jnp.int32)
        side = jnp.where(coding.side_of(least) == 0, latency.OFFLOAD, latency.LOCAL)
        after = place_at(dag.channel, tasks, state, position, side)[0]
        return after, (position, side, can_be_next[positions].sum())

    end, steps = jax.lax.scan(body, reset(dag), None, length=dag.mask.shape[0])
    positions, sides, compared = steps
    return FreePlan(positions, sides, compared, end.queues.makespan)


def look_ahead(graph: TaskGraph, system: System) -> SearchedPlan:
    """`best_outcome` in `priority_order` (13): never worse than the HEFT-based plan.

    Args:
        graph: the application.
        system: the system it runs on.

    Returns:
        A `SearchedPlan`, timed in float64.

    Raises:
        InputError: an argument of another type.
    """
    check_type("graph", graph, TaskGraph)
    order = priority_order(graph, system)
    with latency.one_by_one():
        actions = np.asarray(best_outcome(latency.pack_float64(graph, system, order))[0])
    plan = simulated_plan(graph, system, placement_of(order, actions), order)
    return SearchedPlan.of(plan, evaluations=evaluations(len(TOLLS), graph.num_tasks))


def look_ahead_order(graph: TaskGraph, system: System) -> SearchedPlan:
    """`best_outcome_of_ready`: chooses the order as well, each time among the tasks whose parents are placed.

    Arguments, result and errors as `look_ahead`.
    """
    check_type("graph", graph, TaskGraph)
    with latency.one_by_one():
        dag = latency.pack_float64(graph, system)
        found = jax.device_get(best_outcome_of_ready(dag))
    n = graph.num_tasks
    order = np.asarray(dag.order)[found.positions[:n]]
    left = n - 1 - np.arange(n)
    spent = math.ceil(2 * len(TOLLS) * float((found.compared[:n] * left).sum()) / n)
    return SearchedPlan.of(simulated_plan(graph, system, placement_of(order, found.actions), order), evaluations=spent)
