"""Look-ahead: each task in turn takes the side that quick rules, deciding all the rest, make the most of.

Parallel rollout (Chang, Givan and Chong, 2004): the HEFT-based rule looks only at the task it decides, so it is run
with different tolls on offloading, and the best of what comes out speaks for a side.
"""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.config import CANDIDATES
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import check_type
from mrlato_jax.mec import latency, mdp
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.priority import priority_order
from mrlato_jax.mec.system import System
from mrlato_jax.planners.greedy import place_sooner
from mrlato_jax.planners.plan import SearchedPlan, placement_of, simulated_plan

# What a rule charges for offloading: so many times the DAG's mean T_ue, and so many times the task's T_ul. The first is
# the HEFT-based rule; each one after it did most beside those before it, on fresh DAGs of Experiment 1's and 3's
# training families.
TOLLS = ((0.0, 0.0), (-0.4, -0.5), (0.0, -0.5), (0.0, 1.0), (-1.0, -0.25))


def outcomes(
    channel: str,
    rules: int,
    tasks: latency.Task,
    scale: jax.Array,
    queues: latency.Queues,
    left: jax.Array,
    task: latency.Task,
    steps: tuple[jax.Array | int, jax.Array | int] | None = None,
) -> jax.Array:
    """The best makespan that any of the rules reaches from either decision about one task.

    Args:
        channel: the channel rules.
        rules: how many of `TOLLS` are tried.
        tasks: `latency.tasks` of the DAG.
        scale: `mdp.time_scale` of the DAG.
        queues: what the placed tasks left behind.
        left: bool[N], what is not placed, `task` among it; no parent of a placed one is. Decided by position.
        task: the one to be decided.
        steps: (first, last + 1), positions between which all lies that is left beside `task`; by default any.

    Returns:
        float[2], seconds: run locally, offloaded.
    """
    ends = latency.candidate_ends(channel, queues, task)
    others = left & tasks.valid & (tasks.position != task.position)
    tolls = jnp.asarray(TOLLS[:rules], scale.dtype)
    first, end = (0, others.shape[0]) if steps is None else steps

    def completed(queues: latency.Queues, toll: jax.Array) -> jax.Array:
        def body(position: jax.Array, queues: latency.Queues) -> latency.Queues:
            task = jax.tree.map(lambda leaf: leaf[position], tasks)._replace(valid=others[position])
            return place_sooner(channel, queues, task, toll[0] * scale + toll[1] * task.uplink)[0]

        return jax.lax.fori_loop(first, end, body, queues).makespan

    def outcome(action: jax.Array) -> jax.Array:
        after, _ = latency.place(channel, queues, task, ends, action)
        return jax.vmap(completed, in_axes=(None, 0))(after, tolls).min()

    return jax.vmap(outcome)(jnp.array([latency.LOCAL, latency.OFFLOAD]))


@jax.jit
def best_outcome(dag: DagArrays) -> tuple[jax.Array, jax.Array]:
    """Places the tasks of one DAG one by one, each where `outcomes` is less; ties offload.

    Args:
        dag: one DAG, no leading axes.

    Returns:
        int32[N] actions in scheduling order, and their makespan, seconds.
    """
    tasks, scale = latency.tasks(dag), mdp.time_scale(dag)

    def body(queues: latency.Queues, task: latency.Task) -> tuple[latency.Queues, jax.Array]:
        left = tasks.valid & (tasks.position >= task.position)
        steps = (task.position + 1, tasks.valid.sum(dtype=jnp.int32))
        local, offloaded = outcomes(dag.channel, len(TOLLS), tasks, scale, queues, left, task, steps)
        action = jnp.where(offloaded <= local, latency.OFFLOAD, latency.LOCAL)
        return latency.step(dag.channel, queues, task, action)[0], action

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
    tasks, scale, size = latency.tasks(dag), mdp.time_scale(dag), dag.mask.shape[0]

    def body(state: tuple[latency.Queues, jax.Array], _: None) -> tuple[Any, tuple[jax.Array, ...]]:
        queues, placed = state
        ready = mdp.ready(tasks, placed)
        positions = mdp.candidates(ready, candidates)
        compared = jax.tree.map(lambda leaf: leaf[positions], tasks)
        left = tasks.valid & ~placed
        each = jax.vmap(partial(outcomes, dag.channel, len(TOLLS), tasks, scale, queues, left))(compared)
        least = jnp.argmin(jnp.where(ready[positions][:, None], each, jnp.inf)[:, ::-1])
        # Padding is placed once nothing is ready, and changes nothing.
        position = jnp.where(ready.any(), positions[least // 2], jnp.argmin(placed)).astype(jnp.int32)
        action = jnp.where(least % 2 == 0, latency.OFFLOAD, latency.LOCAL)
        task = jax.tree.map(lambda leaf: leaf[position], tasks)
        after = latency.step(dag.channel, queues, task, action)[0]
        return (after, placed.at[position].set(True)), (position, action, ready[positions].sum())

    start = latency.empty_queues(dag), jnp.zeros(size, bool)
    (queues, _), chosen = jax.lax.scan(body, start, None, length=size)
    positions, actions, compared = chosen
    return FreePlan(positions, actions, compared, queues.makespan)


@cache
def evaluations(rules: int, num_tasks: int, candidates: int = 1) -> int:
    """Plans that `outcomes` simulates along one DAG, by their steps.

    In the given order each rule completes 2 (n - 1), then 2 (n - 2), ... further tasks: as many as n - 1 plans have.

    Args:
        rules: that are tried.
        num_tasks: n.
        candidates: the most tasks that are compared at each step; as many as are left are taken to be.
    """
    steps = sum(min(candidates, left) * 2 * rules * (left - 1) for left in range(1, num_tasks + 1))
    return math.ceil(steps / num_tasks)


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
