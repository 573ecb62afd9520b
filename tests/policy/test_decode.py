"""How actions are chosen, apart from any network: frequencies of sampling, argmax, forcing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.policy import decode


def test_sampling_follows_the_softmax_of_the_logits() -> None:
    """20,000 draws at each of three positions; four standard errors."""
    draws, logits = 20_000, jnp.array([[0.0, 0.0], [1.5, -0.5], [-2.0, 1.0]])
    noise = decode.sampling_noise(jax.random.key(0), (draws,), 3)
    actions = decode.sampled(noise).choose(jnp.broadcast_to(logits, (draws, 3, 2)), noise)
    want = jax.nn.softmax(logits)[:, 1]
    np.testing.assert_array_less(abs(actions.mean(axis=0) - want), 4 * np.sqrt(want * (1 - want) / draws))
    # Neither positions nor trajectories share a draw.
    first = np.asarray(noise[:200]).reshape(-1)
    assert np.unique(first).size > 0.99 * first.size  # float32 numbers coincide now and then


def test_noise_of_a_position_does_not_see_how_many_positions_follow() -> None:
    short, long = (decode.sampling_noise(jax.random.key(1), (3, 4), size) for size in (5, 9))
    assert short.shape == (3, 4, 5, 2)
    np.testing.assert_array_equal(long[:, :, :5], short)


def test_argmax_takes_the_likeliest_and_given_takes_what_it_is_given() -> None:
    logits = jnp.array([[[0.2, 0.1], [-3.0, -2.0]]])
    assert decode.likeliest(1, 2).choose(logits, None).tolist() == [[0, 1]]
    assert decode.given(jnp.zeros((1, 2, 1), int)).choose(logits, jnp.array([[1, 0]])).tolist() == [[1, 0]]
