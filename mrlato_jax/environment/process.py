"""The decision process of one DAG: `reset`, `step`, and the actions that are `allowed`.

The functions are pure, take one DAG, and are safe under `jax.jit` and `jax.vmap`. One DAG has no leading axes:
`mj.arrays` of one packed graph, or an entry of `mj.pack` under `jax.vmap`. With `in_order`, the tasks are placed in the
priority order (13) and an action is a site. Without `in_order`, an action also chooses one of the ready tasks
(`actions`). The state (12) is the DAG and the decisions so far, which the simulator's queues hold.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrlato_jax.config import CANDIDATES
from mrlato_jax.environment import actions as coding
from mrlato_jax.environment.reward import reward
from mrlato_jax.errors import InputError, check_type
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays


class State(NamedTuple):
    """State of one DAG between two decisions, from `reset` and `step`. A pytree.

    Attributes:
        queues: state of the resources after the tasks placed so far, seconds; `queues.makespan` is the makespan of
            these tasks.
        placed: bool[N], whether each task is placed, by position in the priority order.
    """

    queues: latency.Queues
    placed: jax.Array


def reset(dag: DagArrays) -> State:
    """Returns the state before the first decision.

    Args:
        dag: one DAG, no leading axes.

    Raises:
        InputError: `dag` is no `DagArrays` or has leading axes.
    """
    _check_one(dag)
    return State(latency.empty_queues(dag), jnp.zeros(dag.mask.shape, bool))


def _check_one(dag: DagArrays) -> None:
    check_type("dag", dag, DagArrays)
    if len(dag.mask.shape) != 1:
        raise InputError(f"dag has leading axes {dag.mask.shape[:-1]}; accepted: none (jax.vmap takes many DAGs)")


def is_done(dag: DagArrays, state: State) -> jax.Array:
    """Returns whether every task is placed: bool[], for one DAG without leading axes. Errors as `reset`."""
    _check_one(dag)
    return (state.placed | ~dag.mask).all()


def step(dag: DagArrays, state: State, action: jax.Array, *, in_order: bool = True) -> tuple[State, jax.Array]:
    """Places one task. After the last task, nothing changes.

    Args:
        dag: one DAG, no leading axes.
        state: state before the decision.
        action: int32, encoded as in `actions`. An action that is not `allowed` is not refused.
        in_order: whether the next task of the priority order is placed and the action is its site.

    Returns:
        The state after the decision, and the reward (14): minus the growth of the makespan (of the cost), seconds.

    Raises:
        InputError: as `reset`.
    """
    _check_one(dag)
    if in_order:
        position, site = jnp.argmin(state.placed), jnp.asarray(action)
    else:
        position = coding.position_of(action, dag.num_sites)
        site = jnp.asarray(coding.site_of(action, dag.num_sites))
    tasks = jax.tree.map(jnp.asarray, latency.tasks(dag))  # a traced position does not index arrays of the host
    return place_at(dag, tasks, state, position, site)


def allowed(dag: DagArrays, state: State, *, in_order: bool = True, candidates: int = CANDIDATES) -> jax.Array:
    """Returns the allowed actions: bool[A], A = K + 1 or, with a free order, (K + 1) N.

    After the last task, all actions are allowed.

    Args:
        dag: one DAG, no leading axes.
        state: state before the decision.
        in_order: as in `step`.
        candidates: number of ready tasks, those of the highest priority, that may be next; with a free order only.

    Raises:
        InputError: as `reset`.
    """
    _check_one(dag)
    if in_order:
        if dag.allowed is None:
            return jnp.ones(dag.num_sites, bool)
        return jnp.asarray(dag.allowed)[jnp.argmin(state.placed)] | is_done(dag, state)
    return allowed_tasks(latency.tasks(dag), state, candidates)


def place_next(
    dag: DagArrays, queues: latency.Queues, task: latency.Task, site: jax.Array
) -> tuple[latency.Queues, jax.Array]:
    """Places `task` at `site` and returns the queues after it and the reward (14). All transitions call it."""
    after, _ = latency.step(dag, queues, task, site)
    return after, reward(dag, queues, after)


def place_at(
    dag: DagArrays, tasks: latency.Task, state: State, position: jax.Array, site: jax.Array
) -> tuple[State, jax.Array]:
    """Places the task at `position` as `place_next`; changes nothing where the task is already placed."""
    task = jax.tree.map(lambda leaf: leaf[position], tasks)
    task = task._replace(valid=task.valid & ~state.placed[position])
    after, earned = place_next(dag, state.queues, task, site)
    return State(after, state.placed.at[position].set(True)), earned


def makespan_of(dag: DagArrays, actions: jax.Array, *, in_order: bool = True) -> jax.Array:
    """Returns the makespan of a whole plan, seconds, independent of `DagArrays.prices`.

    Args:
        dag: one DAG, no leading axes.
        actions: int32[N], the actions for `step`, one after the other.
        in_order: as in `step`.
    """
    return jax.lax.scan(partial(step, dag, in_order=in_order), reset(dag), actions)[0].queues.makespan


def allowed_tasks(tasks: latency.Task, state: State, candidates: int) -> jax.Array:
    """Returns `allowed` with a free order, from `latency.tasks` of the DAG."""
    can_be_next = ready(tasks, state.placed)
    positions = most_urgent(can_be_next, candidates)
    compared = jnp.zeros(state.placed.shape, bool).at[positions].set(can_be_next[positions])
    sites = jnp.ones((compared.shape[0], tasks.vm.shape[1] + 1), bool) if tasks.allowed is None else tasks.allowed
    # After the last task, a decoder goes on over padding.
    return (jnp.where(compared[:, None], sites, False) | ~can_be_next.any()).reshape(-1)


def ready(tasks: latency.Task, placed: jax.Array) -> jax.Array:
    """Returns the tasks of one DAG that may be placed next: bool[N], unplaced tasks whose parents are placed.

    Args:
        tasks: `latency.tasks` of the DAG.
        placed: bool[N], by position in the priority order.
    """
    waiting = tasks.parents & ~placed[None, :]
    return tasks.valid & ~placed & ~waiting.any(axis=1)


def most_urgent(ready: jax.Array, most: int) -> jax.Array:
    """Returns the positions of the ready tasks of the highest priority: int32[min(most, N)].

    Where fewer tasks are ready, positions of other tasks fill the array.

    Args:
        ready: bool[N], by position in the priority order.
        most: number of positions, at least 1.
    """
    return jnp.argsort(~ready, stable=True)[:most].astype(jnp.int32)
