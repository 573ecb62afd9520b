"""Training without an inner loop: m gradient steps of shared parameters on the whole meta-batch at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.learning.flat import flat, flat_state, unflat, unflat_state
from mrlato_jax.learning.inner import (
    InnerMetrics,
    InnerState,
    adam,
    descend,
    draw,
    draw_collection,
    gradient,
    no_batch,
)
from mrlato_jax.learning.learning_task import LearningTask, drawn_anew
from mrlato_jax.learning.losses import Batch
from mrlato_jax.learning.meta_batch import MetaBatch, TaskPool, mean_by_seed, over_tasks


def joint_steps(
    network: NetworkConfig,
    learning: LearningConfig,
    task_axis: str,
    axis: str | None,
    states: InnerState,
    pool: TaskPool,
    batch: MetaBatch,
) -> tuple[InnerState, InnerMetrics]:
    """Makes one collection from each learning task and takes m full-batch Adam steps on all of them together.

    Advantages are normalised over each learning task's steps, as in the inner loop. All DAGs have equal weight,
    whatever their size: each contributes its own mean over steps.

    Args:
        network: the network's settings.
        learning: the learning settings.
        task_axis: "map" or "vmap", as in `over_tasks`.
        axis: name of the axis of devices that share the learning tasks; None for one device.
        states: states of the seeds, leading axis S; the optimiser's state lasts from iteration to iteration.
        pool: the learning tasks.
        batch: this device's learning tasks of this iteration.

    Returns:
        The states afterwards, and the metrics of each task, leading axis J.
    """
    num_seeds, full = jax.tree.leaves(states.params)[0].shape[0], pool.learning_tasks.num_positions

    def step(states: InnerState, gradients: jax.Array, sizes: jax.Array) -> InnerState:
        means = mean_by_seed((gradients, sizes), batch, num_seeds, learning.meta_batch, axis)
        return jax.vmap(partial(descend, adam(learning)))(states, jax.vmap(jnp.multiply)(*means))

    def body(carry: tuple[InnerState, Batch], number: jax.Array) -> tuple[tuple[InnerState, Batch], InnerMetrics]:
        states, collected = carry

        def visit(params: Any, learning_task: LearningTask, key: jax.Array, earlier: Batch) -> tuple[Any, ...]:
            return _visit(network, learning, params, learning_task, key, earlier, number == 0, full)

        slopes, sizes, collected, metrics = over_tasks(
            visit, task_axis, unflat(states.params, given.params, 1), pool, batch, collected
        )
        return (step(states, slopes, sizes), collected), metrics

    sets, graphs = batch.set.shape[0], min(learning.graphs_per_task, pool.learning_tasks.num_graphs)
    given = states
    vectors = InnerState(flat(given.params, 1), flat_state(given.opt_state, given.params, 1))
    start = vectors, no_batch(learning, sets, graphs, num_positions=full, dtype=pool.learning_tasks.features.dtype)
    (moved, _), metrics = jax.lax.scan(body, start, jnp.arange(learning.inner_steps))
    first = jax.tree.map(lambda leaf: leaf[0], metrics)
    after = InnerState(
        unflat(moved.params, given.params, 1), unflat_state(moved.opt_state, given.opt_state, given.params, 1)
    )
    return after, first._replace(loss=jax.tree.map(lambda leaf: leaf[-1], metrics.loss))


def _visit(
    network: NetworkConfig,
    learning: LearningConfig,
    params: Any,
    learning_task: LearningTask,
    key: jax.Array,
    earlier: Batch,
    first: jax.Array,
    full: int,
) -> tuple[Any, jax.Array, Batch, InnerMetrics]:
    """Computes one learning task's share of a gradient step.

    Returns:
        The gradient divided by the mean number of decisions per DAG, that number, the batch, and metrics.
    """
    learning_task, rollout_key = draw(learning, learning_task, key)
    learning_task = drawn_anew(learning_task, rollout_key)
    drawn = partial(draw_collection, network, learning, params, learning_task, rollout_key)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(drawn))
    draws = jax.lax.cond(first, drawn, lambda: nothing)
    earlier = _padded(earlier, learning_task.num_positions)
    slope, loss, collected, cost = gradient(network, learning, params, learning_task, draws, earlier, first)
    metrics = InnerMetrics(cost, learning_task.heft.mean(), loss, loss.explained_variance, loss.entropy)
    return *_by_step(slope, learning_task), _padded(collected, full), metrics


def _by_step(slope: Any, learning_task: LearningTask) -> tuple[jax.Array, jax.Array]:
    """Returns the gradient as a vector, divided by the mean number of decisions per DAG, and that number."""
    size = learning_task.dags.mask.sum(axis=-1).mean(dtype=learning_task.features.dtype)
    return flat(slope) / size, size


def _padded(batch: Batch, num_positions: int) -> Batch:
    """Adds or removes padding, so that the batch has `num_positions` positions."""

    def fit(leaf: jax.Array) -> jax.Array:
        missing = max(0, num_positions - leaf.shape[-1])
        return jnp.pad(leaf, [*[(0, 0)] * (leaf.ndim - 1), (0, missing)])[..., :num_positions]

    return jax.tree.map(fit, batch)
