"""The decision process of one DAG: `reset`, `step`, and the actions that are `allowed`.

Pure functions for one DAG, safe under `jax.jit` and `jax.vmap`: a DAG without leading axes, as `mj.arrays` of one
packed graph gives it, or `jax.vmap` over those of `mj.pack`. Where `in_order` is true, the tasks are placed in the
priority order (13) and an action is a site; where it is false, an action chooses one of the ready tasks as well
(`actions`). The state (12) is the DAG and the decisions so far, as the simulator's queues hold them.
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
    """One DAG between two decisions: what `reset` and `step` return. A pytree.

    Attributes:
        queues: what the placed tasks leave behind, seconds; `queues.makespan` is that of the tasks placed so far.
        placed: bool[N], by position in the priority order.
    """

    queues: latency.Queues
    placed: jax.Array


def reset(dag: DagArrays) -> State:
    """The state before the first decision.

    Args:
        dag: one DAG, no leading axes.

    Raises:
        InputError: something else.
    """
    _check_one(dag)
    return State(latency.empty_queues(dag), jnp.zeros(dag.mask.shape, bool))


def _check_one(dag: DagArrays) -> None:
    check_type("dag", dag, DagArrays)
    if len(dag.mask.shape) != 1:
        raise InputError(f"dag has leading axes {dag.mask.shape[:-1]}; accepted: none (jax.vmap takes many DAGs)")


def is_done(dag: DagArrays, state: State) -> jax.Array:
    """Whether every task is placed: bool[], of one DAG without leading axes. Errors as `reset`."""
    _check_one(dag)
    return (state.placed | ~dag.mask).all()


def step(dag: DagArrays, state: State, action: jax.Array, *, in_order: bool = True) -> tuple[State, jax.Array]:
    """Places one task; once all are placed, nothing changes.

    Args:
        dag: one DAG, no leading axes.
        state: before the decision.
        action: int32, as `actions` packs it; one that is not `allowed` is not refused.
        in_order: whether the next task of the priority order is placed, and the action is its site.

    Returns:
        The state afterwards, and the reward (14): minus the growth of the makespan (of the cost), seconds.

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
    """Which actions may be taken: bool[A], A = K + 1 or, with a free order, (K + 1) N.

    All of them once every task is placed.

    Args:
        dag: one DAG, no leading axes.
        state: before the decision.
        in_order: as `step` takes it.
        candidates: of the ready tasks, so many of the highest priority may be next; with a free order only.

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
    """The one transition: places `task` at `site`; the queues afterwards and the reward (14)."""
    after, _ = latency.step(dag, queues, task, site)
    return after, reward(dag, queues, after)


def place_at(
    dag: DagArrays, tasks: latency.Task, state: State, position: jax.Array, site: jax.Array
) -> tuple[State, jax.Array]:
    """`place_next` of the task at `position`; nothing changes where it is placed already."""
    task = jax.tree.map(lambda leaf: leaf[position], tasks)
    task = task._replace(valid=task.valid & ~state.placed[position])
    after, earned = place_next(dag, state.queues, task, site)
    return State(after, state.placed.at[position].set(True)), earned


def makespan_of(dag: DagArrays, actions: jax.Array, *, in_order: bool = True) -> jax.Array:
    """Makespan of a whole plan, seconds, whatever `DagArrays.prices` say.

    Args:
        dag: one DAG, no leading axes.
        actions: int32[N], as `step` takes them one by one.
        in_order: as `step` takes it.
    """
    return jax.lax.scan(partial(step, dag, in_order=in_order), reset(dag), actions)[0].queues.makespan


def allowed_tasks(tasks: latency.Task, state: State, candidates: int) -> jax.Array:
    """`allowed` with a free order, from `latency.tasks` of the DAG."""
    can_be_next = ready(tasks, state.placed)
    positions = most_urgent(can_be_next, candidates)
    compared = jnp.zeros(state.placed.shape, bool).at[positions].set(can_be_next[positions])
    sites = jnp.ones((compared.shape[0], tasks.vm.shape[1] + 1), bool) if tasks.allowed is None else tasks.allowed
    # Once all are placed, padding is met.
    return (jnp.where(compared[:, None], sites, False) | ~can_be_next.any()).reshape(-1)


def ready(tasks: latency.Task, placed: jax.Array) -> jax.Array:
    """Which tasks of one DAG may be placed next: bool[N], those that are not `placed`, bool[N], but whose parents are.

    Args:
        tasks: `latency.tasks` of the DAG.
        placed: by position in the priority order.
    """
    waiting = tasks.parents & ~placed[None, :]
    return tasks.valid & ~placed & ~waiting.any(axis=1)


def most_urgent(ready: jax.Array, most: int) -> jax.Array:
    """Positions of the ready tasks of the highest priority: int32[min(most, N)].

    Where fewer are ready, positions of others fill up.

    Args:
        ready: bool[N], by position in the priority order.
        most: at least 1.
    """
    return jnp.argsort(~ready, stable=True)[:most].astype(jnp.int32)
