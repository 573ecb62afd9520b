"""The steps of a collection one by one, as the tests of the inner loop put them together."""

from __future__ import annotations

from typing import Any

import jax

from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.learning import inner, rollout
from mrlato_jax.learning.learning_task import LearningTask
from mrlato_jax.learning.losses import Batch, LossMetrics, inner_loss


def collect(
    network: NetworkConfig, learning: LearningConfig, params: Any, task: LearningTask, key: jax.Array
) -> tuple[Batch, Any, jax.Array]:
    draws = inner.draw_collection(network, learning, params, task, key)
    return inner.collect(network, learning, params, task, draws)


def sampling_gradient(
    network: NetworkConfig, learning: LearningConfig, params: Any, task: LearningTask, key: jax.Array
) -> tuple[Any, LossMetrics, Batch, jax.Array]:
    draws = inner.draw_collection(network, learning, params, task, key)
    return inner.gradient(network, learning, params, task, draws)


def scoring_gradient(
    network: NetworkConfig, learning: LearningConfig, params: Any, task: LearningTask, batch: Batch
) -> tuple[Any, LossMetrics]:
    """Of (27) on a batch that was collected before: no trajectory is run for it."""

    def loss(params: Any) -> tuple[jax.Array, LossMetrics]:
        return inner_loss(learning, batch, rollout.score(network, params, task, batch.actions, batch.judged))

    return jax.grad(loss, has_aux=True)(params)
