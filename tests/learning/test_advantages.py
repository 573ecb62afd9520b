"""Returns, advantages and their normalisation against numbers worked out by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrlato_jax.learning import advantages as adv

# Three tasks and two positions of padding, whose rubbish must not matter.
REWARDS = jnp.array([-1.0, -2.0, -4.0, 50.0, jnp.nan])
VALUES = jnp.array([-6.0, -5.0, -2.0, 70.0, jnp.nan])
MASK = jnp.array([True, True, True, False, False])


@pytest.mark.parametrize(
    ("gamma", "want"),
    [
        (1.0, [-7.0, -6.0, -4.0]),
        (0.5, [-3.0, -4.0, -4.0]),  # -1 - 2/2 - 4/4, -2 - 4/2, -4
        (0.0, [-1.0, -2.0, -4.0]),
    ],
)
def test_returns_to_go_by_hand(gamma: float, want: list[float]) -> None:
    np.testing.assert_allclose(adv.returns_to_go(REWARDS, MASK, gamma), [*want, 0, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("gamma", "gae_lambda", "want"),
    [
        # delta at gamma 1: -1 - 5 + 6 = 0, -2 - 2 + 5 = 1, -4 - 0 + 2 = -2.
        (1.0, 1.0, [-1.0, -1.0, -2.0]),  # return - value
        (1.0, 0.0, [0.0, 1.0, -2.0]),  # delta
        (1.0, 0.5, [0.0, 0.0, -2.0]),  # 0 + 1/2 - 2/4, 1 - 2/2, -2
        # delta at gamma 1/2: -1 - 2.5 + 6 = 2.5, -2 - 1 + 5 = 2, -4 + 2 = -2.
        (0.5, 1.0, [3.0, 1.0, -2.0]),  # 2.5 + 2/2 - 2/4, 2 - 2/2, -2
        (0.5, 0.5, [2.875, 1.5, -2.0]),  # 2.5 + 2/4 - 2/16, 2 - 2/4, -2
        (0.0, 1.0, [5.0, 3.0, -2.0]),  # reward - value
        (0.0, 0.0, [5.0, 3.0, -2.0]),
    ],
)
def test_gae_by_hand(gamma: float, gae_lambda: float, want: list[float]) -> None:
    got = adv.gae(REWARDS, VALUES, MASK, gamma, gae_lambda)
    np.testing.assert_allclose(got, [*want, 0, 0], rtol=1e-6, atol=1e-6)


def test_gae_of_a_single_task_and_of_an_unpadded_trajectory() -> None:
    one = jnp.array([True])
    np.testing.assert_allclose(adv.gae(jnp.array([-3.0]), jnp.array([-1.0]), one, 0.99, 0.95), [-2.0], rtol=1e-6)
    bare = adv.gae(REWARDS[:3], VALUES[:3], MASK[:3], 0.99, 0.95)
    np.testing.assert_allclose(adv.gae(REWARDS, VALUES, MASK, 0.99, 0.95)[:3], bare, rtol=1e-6)


def test_advantages_carry_no_gradient_beyond_the_trajectory() -> None:
    """A value enters only its own step and the steps before it."""
    jacobian = jax.jacobian(lambda values: adv.gae(REWARDS[:3], values, MASK[:3], 0.5, 0.5))(VALUES[:3])
    np.testing.assert_allclose(jacobian, [[-1.0, 0.25, 0.0625], [0.0, -1.0, 0.25], [0.0, 0.0, -1.0]], atol=1e-6)


def test_normalise_by_hand() -> None:
    got = adv.normalise(jnp.array([1.0, 3.0, 5.0, 7.0]), jnp.ones(4, bool))
    np.testing.assert_allclose(got, np.array([-3, -1, 1, 3]) / np.sqrt(5.0), rtol=1e-6)
    assert not adv.normalise(jnp.full(4, 7.0), jnp.ones(4, bool)).any()


def test_normalise_of_a_masked_batch_is_that_of_its_valid_steps() -> None:
    rng = np.random.default_rng(0)
    sizes = [4, 7, 1]
    mask = jnp.array([[[position < n for position in range(7)]] for n in sizes])  # [G, 1, N], as the loss has it
    values = jnp.asarray(rng.normal(2.0, 3.0, (3, 5, 7)), jnp.float32)
    values = jnp.where(mask, values, 1e6)
    got = adv.normalise(values, mask)
    valid = np.broadcast_to(mask, values.shape)
    sliced = np.asarray(values, np.float64)[valid]
    np.testing.assert_allclose(got[valid], (sliced - sliced.mean()) / sliced.std(), rtol=1e-5, atol=1e-6)
    assert not got[~valid].any()
