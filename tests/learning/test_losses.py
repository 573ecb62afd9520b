"""The inner objective (23)-(27) and its metrics against numbers worked out by hand."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrlato_jax.config import LearningConfig
from mrlato_jax.learning import losses
from mrlato_jax.learning.losses import Batch, clipped_surrogate, per_dag_sum
from mrlato_jax.policy.decode import Decisions

LOG = math.log
inner_loss = jax.jit(losses.inner_loss, static_argnames="learning")

# Two DAGs of 1 and 3 tasks, two trajectories each; what stands on padding is rubbish.
JUNK = 1e3
MASK = jnp.array([[[True, False, False]], [[True, True, True]]])
OLD = jnp.log(jnp.array([[[0.5, 1, 1], [0.5, 1, 1]], [[0.5, 0.25, 0.5], [0.25, 0.5, 0.8]]]))
NEW = jnp.log(jnp.array([[[0.75, 1, 1], [0.5, 1, 1]], [[0.25, 0.275, 0.5], [0.5, 0.5, 0.4]]]))
ADVANTAGES = jnp.array([[[2.0, JUNK, JUNK], [1.0, JUNK, JUNK]], [[-1.0, 4.0, 1.0], [-3.0, 2.0, 2.0]]])
RETURNS = jnp.array([[[-1.0, JUNK, JUNK], [-2.0, JUNK, JUNK]], [[-3.0, -2.0, -1.0], [-6.0, -4.0, 0.0]]])
VALUES = jnp.array([[[-2.0, -JUNK, -JUNK], [-2.0, JUNK, JUNK]], [[-3.0, -3.0, -1.0], [-3.0, -4.0, 2.0]]])
ENTROPIES = jnp.array([[[0.6, JUNK, JUNK], [0.2, JUNK, JUNK]], [[0.3, 0.3, 0.3], [0.6, 0.6, 0.0]]])

BATCH = Batch(jnp.zeros((2, 2, 3), jnp.int32), jnp.zeros((2, 2, 3), jnp.int32), OLD, ADVANTAGES, RETURNS, MASK)
DECISIONS = Decisions(BATCH.actions, NEW, VALUES, ENTROPIES)

# Ratios: 1.5, 1 | 0.5, 1.1, 1 | 2, 1, 0.5; with eps = 0.2:
# min(3, 2.4) = 2.4; 1 | min(-0.5, -0.8) = -0.8, 4.4, 1 | min(-6, -3.6) = -6, 2, min(1, 1.6) = 1.
# Means over steps: 2.4, 1, 4.6/3, -1; their mean 59/60; times the mean size 2.
OBJECTIVE = 2 * (2.4 + 1 + 4.6 / 3 - 1) / 4
# Squared errors: 1, 0 | 0, 1, 0 | 9, 0, 4.
VALUE_LOSS = 2 * (1 + 0 + 1 / 3 + 13 / 3) / 4
ENTROPY = 2 * (0.6 + 0.2 + 0.3 + 0.4) / 4


@pytest.mark.parametrize(
    ("ratio", "advantage", "want", "slope"),
    [
        (1.0, 2.0, 2.0, 2.0),
        (1.1, 2.0, 2.2, 2.2),
        (1.5, 2.0, 2.4, 0.0),  # above the range and rewarded: clipped, no gradient
        (1.5, -2.0, -3.0, -3.0),  # above the range and punished: not clipped
        (0.5, 2.0, 1.0, 1.0),  # below the range and rewarded: not clipped
        (0.5, -2.0, -1.6, 0.0),  # below the range and punished: clipped
    ],
)
def test_clipped_surrogate_on_every_side(ratio: float, advantage: float, want: float, slope: float) -> None:
    """`slope` is the derivative by the new log-probability, `ratio * advantage` where not clipped."""
    value, gradient = jax.value_and_grad(clipped_surrogate)(LOG(ratio * 0.3), LOG(0.3), advantage, 0.2)
    assert value == pytest.approx(want, rel=1e-5)
    assert gradient == pytest.approx(slope, rel=1e-5)


def test_clip_range_is_the_settings() -> None:
    assert clipped_surrogate(LOG(2.0), 0.0, 1.0, 0.5) == pytest.approx(1.5)
    assert clipped_surrogate(LOG(0.3), 0.0, -1.0, 0.5) == pytest.approx(-0.5)


def test_every_dag_counts_by_its_own_mean_over_steps() -> None:
    # Means over steps: 1 | 5 -> 3 for the first DAG; 2 | 4 -> 3 for the second; times the mean size 2.
    values = jnp.array([[[1.0, JUNK, JUNK], [5.0, JUNK, JUNK]], [[1.0, 2.0, 3.0], [6.0, 6.0, 0.0]]])
    assert per_dag_sum(values, MASK) == pytest.approx(6.0)
    gradient = jax.grad(per_dag_sum)(values, MASK)
    np.testing.assert_allclose(gradient[0], [[0.5, 0, 0]] * 2, rtol=1e-6)  # 2 / (4 trajectories x 1 step)
    np.testing.assert_allclose(gradient[1], np.full((2, 3), 0.5 / 3), rtol=1e-6)


def test_equal_sizes_are_summed_over_tasks_and_averaged_over_trajectories() -> None:
    values = jnp.arange(24.0).reshape(2, 3, 4)
    assert per_dag_sum(values, jnp.ones((2, 1, 4), bool)) == pytest.approx(np.arange(24).sum() / 6)


def test_objective_by_hand() -> None:
    learning = LearningConfig(clip_epsilon=0.2, value_coef=0.5)
    loss, metrics = inner_loss(learning, BATCH, DECISIONS)
    assert metrics.policy_objective == pytest.approx(OBJECTIVE, rel=1e-5)
    assert metrics.value_loss == pytest.approx(VALUE_LOSS, rel=1e-5)
    assert loss == pytest.approx(-(OBJECTIVE - 0.5 * VALUE_LOSS), rel=1e-5)


def test_coefficients_enter_with_the_right_sign() -> None:
    """More entropy and less value error make the loss smaller."""
    loss, _ = inner_loss(LearningConfig(value_coef=0.25, entropy_coef=0.125), BATCH, DECISIONS)
    assert loss == pytest.approx(-(OBJECTIVE - 0.25 * VALUE_LOSS + 0.125 * ENTROPY), rel=1e-5)


def test_metrics_by_hand() -> None:
    _, metrics = inner_loss(LearningConfig(), BATCH, DECISIONS)
    ratios = np.array([1.5, 1, 0.5, 1.1, 1, 2, 1, 0.5])
    assert metrics.approx_kl == pytest.approx((ratios - 1 - np.log(ratios)).mean(), rel=1e-5)
    assert metrics.clip_fraction == pytest.approx(4 / 8)
    assert metrics.entropy == pytest.approx((0.6 + 0.2 + 3 * 0.3 + 1.2) / 8, rel=1e-5)
    # Returns -1, -2, -3, -2, -1, -6, -4, 0: mean -19/8, mean square 71/8; mean squared error 15/8.
    assert metrics.explained_variance == pytest.approx(1 - (15 / 8) / (71 / 8 - (19 / 8) ** 2), rel=1e-5)


def test_explained_variance_of_perfect_and_of_constant_values() -> None:
    mean = RETURNS.mean(where=jnp.broadcast_to(MASK, RETURNS.shape))
    for values, want in ((RETURNS, 1.0), (jnp.full_like(RETURNS, mean), 0.0)):
        _, metrics = inner_loss(LearningConfig(), BATCH, DECISIONS._replace(values=values))
        assert metrics.explained_variance == pytest.approx(want, abs=1e-6)


def test_before_the_first_step_the_objective_is_the_mean_advantage() -> None:
    loss, metrics = inner_loss(LearningConfig(value_coef=0.0), BATCH, DECISIONS._replace(log_probs=OLD))
    assert metrics.approx_kl == metrics.clip_fraction == 0
    assert loss == pytest.approx(-2 * (2 + 1 + 4 / 3 + 1 / 3) / 4, rel=1e-5)


def test_padding_reaches_neither_loss_nor_gradient() -> None:
    learning = LearningConfig(entropy_coef=0.1)

    def loss_of(log_probs: jax.Array, values: jax.Array, entropies: jax.Array) -> jax.Array:
        return inner_loss(learning, BATCH, Decisions(BATCH.actions, log_probs, values, entropies))[0]

    gradients = jax.jit(jax.grad(loss_of, argnums=(0, 1, 2)))(NEW, VALUES, ENTROPIES)
    for gradient in gradients:
        assert not gradient[0, :, 1:].any()
        assert jnp.isfinite(gradient).all()
    bare = Batch(*(leaf[:1, :, :1] for leaf in BATCH))
    alone = inner_loss(learning, bare, Decisions(*(leaf[:1, :, :1] for leaf in DECISIONS)))
    padded = inner_loss(learning, Batch(*(leaf[:1] for leaf in BATCH)), Decisions(*(leaf[:1] for leaf in DECISIONS)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), padded, alone)
