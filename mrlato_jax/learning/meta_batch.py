"""The learning tasks of one meta-iteration: draws them from the pool, visits them and averages their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from mrlato_jax.config import LearningConfig
from mrlato_jax.errors import InputError
from mrlato_jax.learning import devices
from mrlato_jax.learning.learning_task import LearningTask, take, trim

Tree = TypeVar("Tree")


class TaskPool(NamedTuple):
    """The learning tasks that training draws from.

    A set of DAGs may have several systems (Experiment 3's rates), its variants. Each time the set enters a meta-batch,
    one variant is drawn.
    """

    learning_tasks: LearningTask  # leading axes [sets, variants]
    sizes: tuple[int, ...]  # size of each set's largest DAG


jax.tree_util.register_pytree_node(
    TaskPool, lambda pool: ((pool.learning_tasks,), pool.sizes), lambda sizes, children: TaskPool(children[0], sizes)
)


class MetaBatch(NamedTuple):
    """The learning tasks of one meta-iteration, of all seeds, or one device's share; each [J]."""

    seed: jax.Array  # int32, index of the learner
    set: jax.Array  # int32, index into the pool
    variant: jax.Array  # int32, index of the set's system
    key: jax.Array  # key of the inner loop
    valid: jax.Array  # bool, False on padding of a device's share


def check_meta_batch(meta_batch: int, num_sets: int) -> None:
    """Raises InputError if `meta_batch` exceeds the number of training sets; draws are without replacement."""
    if meta_batch > num_sets:
        raise InputError(f"meta_batch is {meta_batch}; accepted: at most {num_sets}, the number of training sets")


def draw_meta_batch(pool: TaskPool, key: jax.Array, meta_batch: int) -> tuple[jax.Array, jax.Array]:
    """Draws sets without replacement, and one variant of each.

    Returns:
        Set and variant indices, each int32[meta_batch].

    Raises:
        InputError: `meta_batch` exceeds the number of sets in the pool.
    """
    num_sets, num_variants = pool.learning_tasks.features.shape[:2]
    check_meta_batch(meta_batch, num_sets)
    set_key, variant_key = jax.random.split(key)
    sets = jax.random.permutation(set_key, num_sets)[:meta_batch]
    draw = jax.vmap(lambda index: jax.random.randint(jax.random.fold_in(variant_key, index), (), 0, num_variants))
    return sets, draw(sets)  # a set's variant depends on the set, not on its place in the batch


def meta_batches(pool: TaskPool, learning: LearningConfig, keys: jax.Array) -> MetaBatch:
    """Draws the learning tasks of every seed's meta-batch; seed s has entries s B to s B + B - 1.

    The key of a learning task derives from its set's index, so the result does not depend on its place in the batch or
    on its device.

    Args:
        pool: the learning tasks to draw from.
        learning: defines B.
        keys: [S], each seed's key of the iteration.
    """

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        draw_key, task_key = jax.random.split(key)
        sets, variants = draw_meta_batch(pool, draw_key, learning.meta_batch)
        return sets, variants, jax.vmap(partial(jax.random.fold_in, task_key))(sets)

    sets, variants, task_keys = jax.tree.map(lambda leaf: leaf.reshape(-1), jax.vmap(draw)(keys))
    seeds = jnp.repeat(jnp.arange(keys.shape[0]), learning.meta_batch)
    return MetaBatch(seeds, sets, variants, task_keys, jnp.ones(sets.shape, bool))


def over_tasks(
    visit: Callable[..., Tree], task_axis: str, params: Any, pool: TaskPool, batch: MetaBatch, *held: Any
) -> Tree:
    """Calls `visit(theta, learning_task, key, *held)` for each learning task of a batch.

    With `task_axis` map, the tasks run one after the other, compiled for a few of the pool's sizes, so that small DAGs
    do not pay for large ones. With vmap, all run in parallel at the largest size.

    Args:
        visit: function of one learning task, with theta of its seed. The shapes of its results must not depend on the
            size of the DAGs.
        task_axis: "map" or "vmap".
        params: theta of each seed, leading axis S.
        pool: the learning tasks to which the indices of `batch` refer.
        batch: J learning tasks.
        *held: further arguments for each learning task, leading axis J.

    Returns:
        The results of `visit`, leading axis J; arbitrary for entries that are not valid.
    """

    def one(entry: MetaBatch, *held: Any) -> Tree:
        theta = take(params, entry.seed)
        learning_task = jax.tree.map(lambda leaf: leaf[entry.set, entry.variant], pool.learning_tasks)
        if task_axis == "vmap":
            return visit(theta, learning_task, entry.key, *held)
        sizes, size_of_set = padded_sizes(pool.sizes)
        at_size = [lambda p, t, *rest, n=n: visit(p, trim(t, n), *rest) for n in sizes]
        arguments = (theta, learning_task, entry.key, *held)
        nothing = jax.eval_shape(at_size[0], *arguments)
        idle = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nothing)
        branch = jnp.where(entry.valid, jnp.asarray(size_of_set)[entry.set], len(sizes))
        return jax.lax.switch(branch, [*at_size, lambda *_: idle], *arguments)

    if task_axis == "vmap":
        return jax.vmap(one)(batch, *held)
    return jax.lax.map(lambda entries: one(*entries), (batch, *held))


def padded_sizes(sizes: Sequence[int], ratio: float = 1.5) -> tuple[list[int], list[int]]:
    """Chooses a few padded sizes to compile for; none of `sizes` grows to more than `ratio` times itself.

    Returns:
        The padded sizes, and for each entry of `sizes` the index of its padded size.
    """
    tops: list[int] = []
    for size in sorted(set(sizes), reverse=True):
        if not tops or size * ratio < tops[-1]:
            tops.append(size)
    return tops, [max(i for i, top in enumerate(tops) if top >= size) for size in sizes]


def mean_by_seed(values: Any, batch: MetaBatch, num_seeds: int, meta_batch: int, axis: str | None = None) -> Any:
    """Averages over each seed's learning tasks on all devices: [J, ...] -> [S, ...]."""

    def partial_sum(leaf: jax.Array) -> jax.Array:
        valid = batch.valid.reshape(-1, *[1] * (leaf.ndim - 1))
        return jax.ops.segment_sum(jnp.where(valid, leaf, 0), batch.seed, num_seeds)

    sums = devices.total(jax.tree.map(partial_sum, values), axis)
    return jax.tree.map(lambda leaf: leaf / meta_batch, sums)
