"""The inner loop of Algorithm 1: collect trajectories on one learning task, take m Adam steps on them."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mrlato_jax.config import LearningConfig, PolicyConfig
from mrlato_jax.learning import advantages as adv
from mrlato_jax.learning import rollout
from mrlato_jax.learning.losses import Batch, LossMetrics, inner_loss
from mrlato_jax.learning.tasks import LearningTask, take
from mrlato_jax.mec import mdp


class InnerMetrics(NamedTuple):
    """Scalars of one inner loop."""

    latency: jax.Array  # mean sampled makespan of the collection, seconds
    heft: jax.Array  # mean makespan of the HEFT-based plans of the same DAGs, seconds
    loss: LossMetrics  # of the last gradient step, before it was taken
    value_explained: jax.Array  # explained variance before the first step: the values on unseen trajectories
    entropy: jax.Array  # of the sampling policy


def inner_optimizer(learning: LearningConfig) -> optax.GradientTransformation:
    """Adam(alpha)."""
    return optax.adam(learning.inner_lr)


def draw_graphs(task: LearningTask, key: jax.Array, num_graphs: int) -> LearningTask:
    """`num_graphs` of the task's DAGs without replacement; all of them, in place, where it has no more."""
    if num_graphs >= task.num_graphs:
        return task
    return take(task, jax.random.permutation(key, task.num_graphs)[:num_graphs])


def collect(
    policy: PolicyConfig, learning: LearningConfig, params: Any, task: LearningTask, key: jax.Array
) -> tuple[Batch, jax.Array]:
    """Samples `rollouts` trajectories of each DAG and estimates their advantages; consumes `key`.

    Returns:
        The batch, and the mean sampled makespan in seconds.
    """
    trajectories = rollout.sample(policy, params, task, key, learning.rollouts)
    mask = task.dags.mask[:, None, :]
    rewards = trajectories.rewards
    if learning.reward_scale == "all_local":
        rewards = rewards / jax.vmap(mdp.all_local_makespan)(task.dags)[:, None, None]

    def estimate(rewards: jax.Array, values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        advantages = adv.gae(rewards, values, mask, learning.gamma, learning.gae_lambda)
        return advantages, adv.returns_to_go(rewards, mask, learning.gamma)

    per_rollout = jax.vmap(estimate, in_axes=(0, 0, None))
    values = trajectories.decisions.values
    advantages, returns = jax.vmap(per_rollout)(rewards, values, task.dags.mask)
    if learning.normalise_advantages:
        advantages = adv.normalise(advantages, mask)
    decisions = trajectories.decisions
    return Batch(decisions.actions, decisions.log_probs, advantages, returns, mask), trajectories.makespans.mean()


def gradient_step(
    policy: PolicyConfig,
    learning: LearningConfig,
    params: Any,
    opt_state: optax.OptState,
    task: LearningTask,
    batch: Batch,
) -> tuple[Any, optax.OptState, LossMetrics]:
    """One full-batch Adam step on (27); the encoder runs once for each DAG, forward and backward."""

    def loss_fn(params: Any) -> tuple[jax.Array, LossMetrics]:
        return inner_loss(learning, batch, rollout.score(policy, params, task, batch.actions))

    gradient, metrics = jax.grad(loss_fn, has_aux=True)(params)
    updates, opt_state = inner_optimizer(learning).update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, metrics


def inner_adapt(
    policy: PolicyConfig, learning: LearningConfig, params: Any, task: LearningTask, key: jax.Array
) -> tuple[Any, InnerMetrics]:
    """Adapts `params` to one learning task: one collection, then m gradient steps from a fresh Adam state.

    Args:
        policy: the network's settings.
        learning: the learning settings.
        params: theta; also theta_old, which samples.
        task: one learning task.
        key: consumed.

    Returns:
        theta' and metrics.
    """
    graphs_key, rollout_key = jax.random.split(key)
    task = draw_graphs(task, graphs_key, learning.graphs_per_task)
    batch, latency = collect(policy, learning, params, task, rollout_key)

    def body(carry: Any, _: None) -> tuple[Any, LossMetrics]:
        params, opt_state = carry
        params, opt_state, metrics = gradient_step(policy, learning, params, opt_state, task, batch)
        return (params, opt_state), metrics

    start = (params, inner_optimizer(learning).init(params))
    (adapted, _), steps = jax.lax.scan(body, start, None, length=learning.inner_steps)
    first, last = jax.tree.map(lambda leaf: leaf[0], steps), jax.tree.map(lambda leaf: leaf[-1], steps)
    return adapted, InnerMetrics(latency, task.heft.mean(), last, first.explained_variance, first.entropy)


class AdaptationMetrics(NamedTuple):
    """One round of adaptation: one collection and m updates."""

    latencies: jax.Array  # [m, G], argmax-decoded makespan of each measured DAG after each update, seconds
    sampled_latency: jax.Array  # mean makespan of the collection, seconds
    loss: LossMetrics  # of the last update


@partial(jax.jit, static_argnames=("policy", "learning"))
def adaptation_round(
    policy: PolicyConfig,
    learning: LearningConfig,
    params: Any,
    opt_state: optax.OptState,
    task: LearningTask,
    measured: LearningTask,
    key: jax.Array,
    updates: jax.Array | int | None = None,
) -> tuple[Any, optax.OptState, AdaptationMetrics]:
    """Takes up to m updates on one collection from all DAGs of a task, the Adam state kept from round to round.

    An update is one Adam gradient step; a test set's adaptation is a sequence of these rounds.

    Args:
        policy: the network's settings.
        learning: the learning settings; `graphs_per_task` does not apply.
        params: the current policy, which samples.
        opt_state: of `inner_optimizer`.
        task: the DAGs that are adapted to.
        measured: the DAGs whose latency is measured after each update; the same ones in the paper's protocol.
        key: consumed.
        updates: how many of the m are taken, by default all; traced, so that a shorter round compiles nothing anew.
    """
    taken = learning.inner_steps if updates is None else updates
    batch, sampled_latency = collect(policy, learning, params, task, key)

    def body(carry: Any, step: jax.Array) -> tuple[Any, tuple[jax.Array, LossMetrics]]:
        *after, loss = gradient_step(policy, learning, carry[0], carry[1], task, batch)
        params, opt_state = jax.tree.map(lambda new, old: jnp.where(step < taken, new, old), tuple(after), carry)
        return (params, opt_state), (rollout.decode_greedily(policy, params, measured)[1], loss)

    (params, opt_state), (latencies, losses) = jax.lax.scan(body, (params, opt_state), jnp.arange(learning.inner_steps))
    last = jnp.minimum(taken, learning.inner_steps) - 1
    return params, opt_state, AdaptationMetrics(latencies, sampled_latency, jax.tree.map(lambda x: x[last], losses))
