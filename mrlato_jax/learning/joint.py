"""Training without an inner loop: m gradient steps of shared parameters on all tasks of a meta-batch at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.learning.inner import InnerMetrics, InnerState, descend, draw, sampling_gradient, scoring_gradient
from mrlato_jax.learning.learning_task import LearningTask
from mrlato_jax.learning.losses import Batch, LossMetrics
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
    """One collection from each task, pooled, and m full-batch Adam steps on it.

    Advantages are normalised over each task's steps, as in the inner loop; in the pool each DAG counts by its own mean
    over steps, whatever its task's size.

    Args:
        network: the network's settings.
        learning: the learning settings.
        task_axis: "map" or "vmap", as in `over_tasks`.
        axis: of the devices that share the tasks, or None.
        states: of each seed, leading axis S; the optimiser's state lasts from iteration to iteration.
        pool: the learning tasks.
        batch: those of this iteration; this device's.

    Returns:
        The states afterwards, and metrics of each task, leading axis J.
    """
    num_seeds, full = jax.tree.leaves(states.params)[0].shape[0], pool.tasks.num_positions

    def step(states: InnerState, gradients: Any, sizes: jax.Array) -> InnerState:
        means = mean_by_seed((gradients, sizes), batch, num_seeds, learning.meta_batch, axis)
        pooled = jax.tree.map(lambda leaf: jax.vmap(jnp.multiply)(leaf, means[1]), means[0])
        return jax.vmap(partial(descend, learning))(states, pooled)

    def collect(params: Any, task: LearningTask, key: jax.Array) -> tuple[Any, jax.Array, Batch, InnerMetrics]:
        task, rollout_key = draw(learning, task, key)
        gradient, loss, collected, latency = sampling_gradient(network, learning, params, task, rollout_key)
        metrics = InnerMetrics(latency, task.heft.mean(), loss, loss.explained_variance, loss.entropy)
        return *_by_step(gradient, task), _padded(collected, full), metrics

    def score(params: Any, task: LearningTask, key: jax.Array, collected: Batch) -> tuple[Any, jax.Array, LossMetrics]:
        task, _ = draw(learning, task, key)
        collected = _padded(collected, task.num_positions)
        gradient, loss = scoring_gradient(network, learning, params, task, collected)
        return *_by_step(gradient, task), loss

    gradients, sizes, collected, metrics = over_tasks(collect, task_axis, states.params, pool, batch)
    states = step(states, gradients, sizes)
    if learning.inner_steps == 1:
        return states, metrics

    def body(states: InnerState, _: None) -> tuple[InnerState, LossMetrics]:
        gradients, sizes, loss = over_tasks(score, task_axis, states.params, pool, batch, collected)
        return step(states, gradients, sizes), loss

    states, losses = jax.lax.scan(body, states, length=learning.inner_steps - 1)
    return states, metrics._replace(loss=jax.tree.map(lambda leaf: leaf[-1], losses))


def _by_step(gradient: Any, task: LearningTask) -> tuple[Any, jax.Array]:
    """The gradient for each step of a mean DAG, and the mean number of steps."""
    size = task.dags.mask.sum(axis=-1).mean(dtype=task.features.dtype)
    return jax.tree.map(lambda leaf: leaf / size, gradient), size


def _padded(batch: Batch, num_positions: int) -> Batch:
    """The collection with as many positions, padding added or removed."""

    def fit(leaf: jax.Array) -> jax.Array:
        missing = max(0, num_positions - leaf.shape[-1])
        return jnp.pad(leaf, [*[(0, 0)] * (leaf.ndim - 1), (0, missing)])[..., :num_positions]

    return jax.tree.map(fit, batch)
