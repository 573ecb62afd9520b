"""The inner objective: clipped surrogate (23)-(24), value loss (26) and their sum (27)."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from mrlato_jax.config import LearningConfig
from mrlato_jax.policy.decode import Decisions


class Batch(NamedTuple):
    """The data of one collection that stay fixed during the gradient steps."""

    actions: jax.Array  # int32[G, R, N], actions taken
    judged: jax.Array  # int32[G, R, N], actions whose probabilities the loss changes: those taken, or better ones
    log_probs: jax.Array  # [G, R, N], of `judged` under the sampling policy
    advantages: jax.Array  # [G, R, N]
    returns: jax.Array  # [G, R, N], value targets
    mask: jax.Array  # bool[G, 1, N]


class LossMetrics(NamedTuple):
    """Metrics of the loss; scalars, means over valid steps unless said otherwise."""

    policy_objective: jax.Array  # L_P (23)
    value_loss: jax.Array  # L_V (26)
    entropy: jax.Array  # nats per decision
    approx_kl: jax.Array  # KL divergence of the sampling from the current policy (Schulman's k3), nats per decision
    clip_fraction: jax.Array  # share of decisions whose ratio left the clip range
    explained_variance: jax.Array  # share of the value targets' variance that the values explain: 1 is perfect


def per_dag_sum(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Sums over a DAG's tasks and averages over trajectories and DAGs.

    In a batch of mixed sizes, each DAG counts with its mean over steps, times the mean size in the batch. For equal
    sizes this is the plain sum.

    Args:
        values: [G, R, N].
        mask: bool[G, 1, N].
    """
    sizes = mask.sum(axis=-1)
    means = jnp.where(mask, values, 0).sum(axis=-1) / sizes
    return means.mean() * sizes.mean(dtype=values.dtype)


def clipped_surrogate(
    log_probs: jax.Array, old_log_probs: jax.Array, advantages: jax.Array, clip_epsilon: float
) -> jax.Array:
    """Returns `min(Pr A, clip(Pr, 1 - eps, 1 + eps) A)` of each decision; `Pr` is the probability ratio (24)."""
    ratio = jnp.exp(log_probs - old_log_probs)
    clipped = jnp.clip(ratio, 1 - clip_epsilon, 1 + clip_epsilon)
    return jnp.minimum(ratio * advantages, clipped * advantages)


def inner_loss(learning: LearningConfig, batch: Batch, decisions: Decisions) -> tuple[jax.Array, LossMetrics]:
    """Returns `-(L_P - c1 L_V + c_H H)`: (27) negated, with an entropy bonus if `entropy_coef` is set.

    Args:
        learning: the coefficients.
        batch: the collection.
        decisions: `batch.judged`, scored by the current parameters.
    """
    mask = batch.mask
    chex.assert_equal_shape([batch.actions, batch.log_probs, batch.advantages, batch.returns, *decisions])
    chex.assert_shape(mask, (batch.actions.shape[0], 1, batch.actions.shape[-1]))
    surrogate = clipped_surrogate(decisions.log_probs, batch.log_probs, batch.advantages, learning.clip_epsilon)
    policy_objective = per_dag_sum(surrogate, mask)
    value_loss = per_dag_sum(jnp.square(decisions.values - batch.returns), mask)
    entropy_bonus = per_dag_sum(decisions.entropies, mask)
    loss = -policy_objective + learning.value_coef * value_loss - learning.entropy_coef * entropy_bonus

    valid = jnp.broadcast_to(mask, batch.returns.shape)
    log_ratio = decisions.log_probs - batch.log_probs
    ratio = jnp.exp(log_ratio)
    residual = jnp.square(batch.returns - decisions.values).mean(where=valid)
    variance = batch.returns.var(where=valid)
    metrics = LossMetrics(
        policy_objective=policy_objective,
        value_loss=value_loss,
        entropy=decisions.entropies.mean(where=valid),
        approx_kl=(ratio - 1 - log_ratio).mean(where=valid),
        clip_fraction=(jnp.abs(ratio - 1) > learning.clip_epsilon).mean(where=valid),
        explained_variance=1 - residual / jnp.maximum(variance, 1e-12),
    )
    return loss, metrics
