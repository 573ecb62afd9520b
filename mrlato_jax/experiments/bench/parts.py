"""The parts of a meta-iteration, each jitted apart; run one after the other they give what `meta_iteration` gives.

This module follows `learning.inner` and `learning.outer`, which have no seams where a clock could stand; a test holds
the two together.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import optax

from mrlato_jax.config import LearningConfig, PolicyConfig
from mrlato_jax.learning import advantages as adv
from mrlato_jax.learning import inner, rollout
from mrlato_jax.learning.losses import Batch
from mrlato_jax.learning.outer import meta_gradient, outer_optimizer, task_axis
from mrlato_jax.learning.rollout import Trajectories
from mrlato_jax.learning.tasks import LearningTask
from mrlato_jax.mec import mdp


class Parts(NamedTuple):
    """Jitted functions; but for the last, of theta and of a meta-batch stacked along axis 0."""

    sampling: Callable[..., Any]  # (theta, tasks, keys) -> trajectories
    advantages: Callable[..., Any]  # (theta, tasks, trajectories) -> batches; theta is not read
    gradient_steps: Callable[..., Any]  # (theta, tasks, batches) -> theta_i'
    outer_update: Callable[..., Any]  # (theta, outer optimizer's state, theta_i') -> theta


@functools.cache
def parts_of(policy: PolicyConfig, learning: LearningConfig) -> Parts:
    """The parts under these settings, batched over tasks as the iteration does it; cached, so as to compile once."""
    return Parts(
        _over_tasks(learning, lambda p, task, key: rollout.sample(policy, p, task, key, learning.rollouts)),
        _over_tasks(learning, lambda _, task, trajectories: _estimate(learning, task, trajectories)),
        _over_tasks(learning, lambda p, task, batch: _gradient_steps(policy, learning, p, task, batch)),
        jax.jit(partial(_outer_update, learning)),
    )


def _over_tasks(learning: LearningConfig, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(params, task, more)` for each task of a meta-batch: side by side, or one after the other."""
    if task_axis(learning) == "vmap":
        return jax.jit(jax.vmap(function, in_axes=(None, 0, 0)))
    return jax.jit(lambda params, *stacked: jax.lax.map(lambda pair: function(params, *pair), stacked))


def _estimate(learning: LearningConfig, task: LearningTask, trajectories: Trajectories) -> Batch:
    """What `inner.collect` does after sampling."""
    rewards, mask = trajectories.rewards, task.dags.mask[:, None, :]
    if learning.reward_scale == "all_local":
        rewards = rewards / jax.vmap(mdp.all_local_makespan)(task.dags)[:, None, None]
    decisions = trajectories.decisions
    each = jax.vmap(jax.vmap(partial(adv.gae, gamma=learning.gamma, gae_lambda=learning.gae_lambda), (0, 0, None)))
    advantages = each(rewards, decisions.values, task.dags.mask)
    returns = jax.vmap(jax.vmap(partial(adv.returns_to_go, gamma=learning.gamma), (0, None)))(rewards, task.dags.mask)
    if learning.normalise_advantages:
        advantages = adv.normalise(advantages, mask)
    return Batch(decisions.actions, decisions.log_probs, advantages, returns, mask)


def _gradient_steps(
    policy: PolicyConfig, learning: LearningConfig, params: Any, task: LearningTask, batch: Batch
) -> Any:
    """The m Adam steps of one task from a fresh state: theta'."""

    def body(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        params, opt_state, _metrics = inner.gradient_step(policy, learning, *carry, task, batch)
        return (params, opt_state), None

    start = (params, inner.inner_optimizer(learning).init(params))
    return jax.lax.scan(body, start, None, length=learning.inner_steps)[0][0]


def _outer_update(learning: LearningConfig, params: Any, opt_state: Any, adapted: Any) -> Any:
    """(29): theta after one iteration."""
    ascent = meta_gradient(params, adapted, learning.inner_lr, learning.inner_steps)
    descent = jax.tree.map(lambda leaf: -leaf, ascent)
    updates, _ = outer_optimizer(learning).update(descent, opt_state, params)
    return optax.apply_updates(params, updates)
