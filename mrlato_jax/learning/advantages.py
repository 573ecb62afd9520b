"""Returns and advantages of one trajectory; `jax.vmap` makes batches."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp


def discounted_suffix_sums(values: jax.Array, discount: float) -> jax.Array:
    """Returns `y_k = sum_{l >= 0} discount^l x_{k+l}` along axis 0.

    Args:
        values: [N].
        discount: in [0, 1].
    """

    def body(total: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = value + discount * total
        return total, total

    return jax.lax.scan(body, jnp.zeros_like(values[0]), values, reverse=True)[1]


def gae(rewards: jax.Array, values: jax.Array, mask: jax.Array, gamma: float, gae_lambda: float) -> jax.Array:
    """Generalised advantage estimation (25); the sum ends at n - k, and `V = 0` after the last task.

    `A_k = sum_{l=0}^{n-k} (gamma lambda)^l (r_{k+l} + gamma V_{k+l+1} - V_{k+l})`; 0 on padding.

    Args:
        rewards: [N].
        values: [N], of the sampling policy.
        mask: bool[N], padding last.
        gamma: discount.
        gae_lambda: lambda.
    """
    chex.assert_rank(rewards, 1)
    chex.assert_equal_shape([rewards, values, mask])
    rewards, values = jnp.where(mask, rewards, 0), jnp.where(mask, values, 0)
    next_values = jnp.append(values[1:], 0)
    return discounted_suffix_sums(rewards + gamma * next_values - values, gamma * gae_lambda)


def returns_to_go(rewards: jax.Array, mask: jax.Array, gamma: float) -> jax.Array:
    """Returns the value target of (26), `sum_{l=0}^{n-k} gamma^l r_{k+l}`; 0 on padding. Shapes as in `gae`."""
    return discounted_suffix_sums(jnp.where(mask, rewards, 0), gamma)


def normalise(advantages: jax.Array, mask: jax.Array) -> jax.Array:
    """Normalises to zero mean and unit variance over the valid steps of a whole batch; 0 on padding.

    Args:
        advantages: any shape.
        mask: bool, broadcastable to `advantages`.
    """
    valid = jnp.broadcast_to(mask, advantages.shape)
    mean = advantages.mean(where=valid)
    centred = jnp.where(valid, advantages - mean, 0)
    return centred / (jnp.sqrt(jnp.square(centred).mean(where=valid)) + 1e-8)
