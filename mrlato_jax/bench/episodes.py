"""How many decisions a second the environment takes: side by side in one program, and one call at a time."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.bench.timing import Tick, best, quiet
from mrlato_jax.environment.generator import Applications
from mrlato_jax.environment.offloading import EpisodeState, Observation, Offloading

Known = tuple[EpisodeState, Observation]


def episodes(batch: int = 1024, num_tasks: int = 20, tick: Tick = quiet) -> dict[str, float]:
    """Rate of decisions at random, each episode with an application of its own, drawn, encoded and observed.

    Args:
        batch: episodes side by side.
        num_tasks: of each application, so as many decisions in each episode.
        tick: shows progress.

    Returns:
        `steps_per_second` of `jax.vmap` over whole episodes in one jitted program; `python_loop_steps_per_second` of
        one episode at a time, each `reset` and `step` a jitted call from Python; and how many times the first is the
        second.
    """
    env = Offloading(Applications(num_tasks=(num_tasks, num_tasks)))
    keys = iter(jax.random.split(jax.random.key(0), 1000))

    @jax.jit
    def side_by_side(key: jax.Array) -> jax.Array:
        return jax.vmap(partial(random_episode, env))(jax.random.split(key, batch)).sum()

    tick(0, 2, "side by side")
    together = best(lambda: side_by_side(next(keys)), repeats=5)
    tick(1, 2, "one call at a time")
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    rng = np.random.default_rng(0)

    def one_by_one() -> None:
        state, observation = reset(next(keys))
        done = False
        while not done:
            state, observation, _, done = step(state, rng.choice(np.flatnonzero(observation.action_mask)))

    alone = best(one_by_one, repeats=5, calls=5)
    rate, in_python = batch * num_tasks / together, num_tasks / alone
    return {
        "batch": batch,
        "num_tasks": num_tasks,
        "steps_per_second": rate,
        "python_loop_steps_per_second": in_python,
        "speedup_over_python_loop": rate / in_python,
    }


def random_episode(env: Offloading, key: jax.Array) -> jax.Array:
    """The sum of the rewards of one episode whose allowed actions are equally likely."""
    reset_key, key = jax.random.split(key)

    def body(carry: Known, key: jax.Array) -> tuple[Known, jax.Array]:
        state, observation = carry
        action = jax.random.categorical(key, jnp.where(observation.action_mask, 0.0, -jnp.inf))
        state, observation, reward, _ = env.step(state, action)
        return (state, observation), reward

    keys = jax.random.split(key, env.num_tasks)
    return jax.lax.scan(body, env.reset(reset_key), keys)[1].sum()
