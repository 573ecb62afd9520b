"""The outer loop of Algorithm 1: (28)-(29) and the iteration that ties both loops together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mrlato_jax.config import LearningConfig, PolicyConfig
from mrlato_jax.errors import InputError
from mrlato_jax.learning.inner import InnerMetrics, inner_adapt
from mrlato_jax.learning.rollout import init_params
from mrlato_jax.learning.tasks import LearningTask, trim


class TaskPool(NamedTuple):
    """The learning tasks that training draws from.

    A set of DAGs may be met under several systems (Experiment 3's rates): those are its variants, and one is drawn
    each time the set enters a meta-batch.
    """

    tasks: LearningTask  # leading axes [sets, variants]
    sizes: tuple[int, ...]  # of each set's largest DAG


jax.tree_util.register_pytree_node(
    TaskPool, lambda pool: ((pool.tasks,), pool.sizes), lambda sizes, children: TaskPool(children[0], sizes)
)


class LearnerState(NamedTuple):
    """Everything that meta-training carries from one iteration to the next."""

    params: Any  # theta
    opt_state: optax.OptState  # of the outer update
    iteration: jax.Array  # int32, iterations done
    key: jax.Array  # of the run; never consumed: iteration i uses fold_in(key, i)


class MetaMetrics(NamedTuple):
    """Scalars of one meta-iteration; means over its tasks."""

    inner: InnerMetrics
    update_norm: jax.Array  # of the outer step


def outer_optimizer(learning: LearningConfig) -> optax.GradientTransformation:
    """SGD(beta) for `reptile`, Adam(beta) for `reptile_adam`."""
    return {"reptile": optax.sgd, "reptile_adam": optax.adam}[learning.meta_update](learning.outer_lr)


def meta_gradient(params: Any, adapted: Any, inner_lr: float, inner_steps: int) -> Any:
    """(29): `g = mean_i (theta_i' - theta) / (alpha m)`.

    Args:
        params: theta.
        adapted: theta_i', stacked along axis 0.
        inner_lr: alpha.
        inner_steps: m.
    """
    return jax.tree.map(lambda a, p: (a - p[None]).mean(axis=0) / (inner_lr * inner_steps), adapted, params)


def init_state(policy: PolicyConfig, learning: LearningConfig, seed: int) -> LearnerState:
    """The learner before its first iteration.

    Args:
        policy: the network's settings.
        learning: the learning settings.
        seed: decides the parameters and every draw of the run.
    """
    init_key, run_key = jax.random.split(jax.random.key(seed))
    params = init_params(policy, init_key)
    return LearnerState(params, outer_optimizer(learning).init(params), jnp.zeros((), jnp.int32), run_key)


def check_meta_batch(meta_batch: int, num_sets: int) -> None:
    """Raises InputError where more tasks are to be drawn without replacement than there are training sets."""
    if meta_batch > num_sets:
        raise InputError(f"meta_batch is {meta_batch}; accepted: at most {num_sets}, the number of training sets")


def draw_meta_batch(pool: TaskPool, key: jax.Array, meta_batch: int) -> tuple[jax.Array, jax.Array]:
    """Draws sets without replacement, and a variant of each.

    Returns:
        int32[meta_batch] each: set and variant indices.

    Raises:
        InputError: more tasks asked for than the pool has sets.
    """
    num_sets, num_variants = pool.tasks.features.shape[:2]
    check_meta_batch(meta_batch, num_sets)
    set_key, variant_key = jax.random.split(key)
    sets = jax.random.permutation(set_key, num_sets)[:meta_batch]
    draw = jax.vmap(lambda index: jax.random.randint(jax.random.fold_in(variant_key, index), (), 0, num_variants))
    return sets, draw(sets)  # a set's variant derives from the set, not from its place in the batch


def adapt_tasks(
    policy: PolicyConfig,
    learning: LearningConfig,
    params: Any,
    pool: TaskPool,
    sets: jax.Array,
    variants: jax.Array,
    key: jax.Array,
) -> tuple[Any, InnerMetrics]:
    """Runs the inner loop on each task of a meta-batch.

    A task's key derives from its set's index, so the order of the batch changes nothing. With `task_axis` map, one
    task runs at a time, compiled at a few of the pool's sizes so that small DAGs do not pay for large ones; with vmap
    all run side by side at the largest.

    Args:
        policy: the network's settings.
        learning: the learning settings.
        params: theta.
        pool: the learning tasks that the indices point into.
        sets: int32[B], each set once.
        variants: int32[B], of each set.
        key: consumed.

    Returns:
        theta_i' and metrics, stacked along axis 0 in the order of `sets`.
    """

    def adapt(set_index: jax.Array, variant: jax.Array) -> tuple[Any, InnerMetrics]:
        task = jax.tree.map(lambda leaf: leaf[set_index, variant], pool.tasks)
        task_key = jax.random.fold_in(key, set_index)
        if task_axis(learning) == "vmap":
            return inner_adapt(policy, learning, params, task, task_key)
        sizes, size_of_set = padded_sizes(pool.sizes)
        at_size = [lambda task, key, n=n: inner_adapt(policy, learning, params, trim(task, n), key) for n in sizes]
        return jax.lax.switch(jnp.asarray(size_of_set)[set_index], at_size, task, task_key)

    if task_axis(learning) == "vmap":
        return jax.vmap(adapt)(sets, variants)
    return jax.lax.map(lambda pair: adapt(*pair), (sets, variants))


def padded_sizes(sizes: Sequence[int], ratio: float = 1.5) -> tuple[list[int], list[int]]:
    """Few sizes to compile for, such that none of `sizes` is padded to more than `ratio` times itself.

    Returns:
        The sizes to pad to, and for each entry of `sizes` the index of its own.
    """
    tops: list[int] = []
    for size in sorted(set(sizes), reverse=True):
        if not tops or size * ratio < tops[-1]:
            tops.append(size)
    return tops, [max(i for i, top in enumerate(tops) if top >= size) for size in sizes]


def task_axis(learning: LearningConfig) -> str:
    """`learning.task_axis`, with auto resolved: map on CPU, where batched matmuls are slower, else vmap."""
    if learning.task_axis != "auto":
        return learning.task_axis
    return "map" if jax.default_backend() == "cpu" else "vmap"


@partial(jax.jit, static_argnames=("policy", "learning"), donate_argnames=("state",))
def meta_iteration(
    policy: PolicyConfig, learning: LearningConfig, state: LearnerState, pool: TaskPool
) -> tuple[LearnerState, MetaMetrics]:
    """One iteration of Algorithm 1, lines 3-9.

    Args:
        policy: the network's settings.
        learning: the learning settings.
        state: theta and what belongs to it; its buffers are given away, so it cannot be used again.
        pool: the learning tasks to draw from.

    Returns:
        The state after the iteration, and its metrics.
    """
    key = jax.random.fold_in(state.key, state.iteration)
    draw_key, task_key = jax.random.split(key)
    sets, variants = draw_meta_batch(pool, draw_key, learning.meta_batch)
    adapted, metrics = adapt_tasks(policy, learning, state.params, pool, sets, variants, task_key)
    ascent = meta_gradient(state.params, adapted, learning.inner_lr, learning.inner_steps)
    descent = jax.tree.map(jnp.negative, ascent)
    updates, opt_state = outer_optimizer(learning).update(descent, state.opt_state, state.params)
    after = LearnerState(optax.apply_updates(state.params, updates), opt_state, state.iteration + 1, state.key)
    means = jax.tree.map(jnp.mean, metrics)
    return after, MetaMetrics(means, optax.tree.norm(updates))
