"""The steps of a collection one by one, as the tests of the inner loop put them together."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.environment.interface import Surroundings
from mrlato_jax.learning import inner, rollout
from mrlato_jax.learning.learning_task import LearningTask
from mrlato_jax.learning.losses import Batch, LossMetrics, inner_loss
from mrlato_jax.policy import decode
from mrlato_jax.policy.decode import Decisions


def follow(
    network: NetworkConfig, params: Any, task: LearningTask, actions: jax.Array, judged: jax.Array | None = None
) -> rollout.Trajectories:
    """The trajectories of given actions, int32[G, R, N]; `judged` as `decode.decode` takes it."""
    return rollout.rollout(network, params, task, decode.given(actions), judged=judged)


def blind(graphs: int, rollouts: int, num_positions: int) -> Surroundings:
    """Surroundings of decoders that see nothing of them and act on nothing."""
    state, inputs = (jnp.zeros((graphs, size, 0), jnp.float32) for size in (rollouts, num_positions))
    return Surroundings(state, inputs, lambda state, _: state, lambda state, _, actions: (state, ()))


def score(
    network: NetworkConfig, params: Any, task: LearningTask, actions: jax.Array, judged: jax.Array | None = None
) -> Decisions:
    """What the policy thinks of given actions; without the simulator where it does not see it."""
    if network.sees_simulator or not network.in_order:
        return follow(network, params, task, actions, judged).decisions
    unseen = blind(task.num_graphs, actions.shape[1], task.num_positions)
    memory = rollout.encode(network, params, task)
    return decode.decode(network, params, memory, unseen, decode.given(actions), judged)[0]


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
        return inner_loss(learning, batch, score(network, params, task, batch.actions, batch.judged))

    return jax.grad(loss, has_aux=True)(params)
