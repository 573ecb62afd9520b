"""The parts of a meta-iteration as separate programs.

Run one after the other, they give the result of `meta_iteration`, as a test checks. There the sampling pass is also the
forward pass of the first gradient step. Here `jax.vjp` splits that step in two, and the residuals for the backward half
are passed in memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax

from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.learning import inner, rollout
from mrlato_jax.learning.inner import InnerState, Plans
from mrlato_jax.learning.learning_task import LearningTask
from mrlato_jax.learning.losses import Batch, inner_loss
from mrlato_jax.learning.outer import outer_update
from mrlato_jax.learning.rollout import Trajectories
from mrlato_jax.policy.decode import Decisions

Pullback = Callable[[Any], Any]
"""Maps the gradient of log-probabilities, values and entropies to the gradient of theta."""


class Parts(NamedTuple):
    """Jitted parts. All but the last take one task or, if batched, several stacked along axis 0 (but one theta)."""

    sampling: Callable[..., tuple[Trajectories, Pullback]]  # (theta, learning_task, key)
    advantages: Callable[..., Batch]  # (learning_task, trajectories)
    gradient_steps: Callable[..., Any]  # (theta, learning_task, trajectories, pullback, batch) -> theta'
    outer_update: Callable[..., Any]  # (learner states, theta_i' `flat` along axis 0, MetaBatch) -> theta of each seed


@functools.cache
def parts_of(network: NetworkConfig, learning: LearningConfig, *, batched: bool) -> Parts:
    """Returns the parts under these settings; cached, so that they compile once."""
    sampling, gradient_steps = partial(_sampling, network, learning), partial(_gradient_steps, network, learning)
    advantages = partial(inner.estimate, learning)
    if batched:
        sampling, advantages = jax.vmap(sampling, in_axes=(None, 0, 0)), jax.vmap(advantages)
        gradient_steps = jax.vmap(gradient_steps, in_axes=(None, 0, 0, 0, 0))
    update = partial(outer_update, learning)
    return Parts(
        jax.jit(sampling),
        jax.jit(advantages),
        jax.jit(gradient_steps),
        jax.jit(lambda *arguments: update(*arguments)[0]),
    )


def _sampling(
    network: NetworkConfig, learning: LearningConfig, params: Any, learning_task: LearningTask, key: jax.Array
) -> tuple[Trajectories, Pullback]:
    def forward(params: Any) -> tuple[Any, Trajectories]:
        trajectories = rollout.sample(network, params, learning_task, key, learning.rollouts)
        _, *differentiable = trajectories.decisions  # actions are not
        return differentiable, trajectories

    _, pullback, trajectories = jax.vjp(forward, params, has_aux=True)
    return trajectories, pullback


def _gradient_steps(
    network: NetworkConfig,
    learning: LearningConfig,
    params: Any,
    learning_task: LearningTask,
    trajectories: Trajectories,
    pullback: Pullback,
    batch: Batch,
) -> Any:
    actions, *differentiable = trajectories.decisions
    cotangents = jax.grad(lambda values: inner_loss(learning, batch, Decisions(actions, *values))[0])(differentiable)
    (gradient,) = pullback(cotangents)
    optimizer = inner.inner_optimizer(learning)
    state = inner.descend(optimizer, InnerState(params, optimizer.init(params)), gradient)
    plans = Plans(batch.actions, batch.judged, batch.advantages, None)

    def body(state: InnerState, _: None) -> tuple[InnerState, None]:
        slope = inner.gradient(network, learning, state.params, learning_task, plans, batch, False)[0]
        return inner.descend(optimizer, state, slope), None

    return jax.lax.scan(body, state, length=learning.inner_steps - 1)[0].params
