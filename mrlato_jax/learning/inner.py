"""The inner loop of Algorithm 1: collect trajectories on one learning task, take m Adam steps on them."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.environment.observation import lookahead_evaluations
from mrlato_jax.environment.reward import all_local_makespan
from mrlato_jax.errors import InputError
from mrlato_jax.learning import advantages as adv
from mrlato_jax.learning import rollout
from mrlato_jax.learning.learning_task import LearningTask, take
from mrlato_jax.learning.losses import Batch, LossMetrics, inner_loss
from mrlato_jax.learning.rollout import Trajectories
from mrlato_jax.policy.decode import Decisions

ROUNDING = 1e-6  # of a makespan: plans that differ by less are equally long
MOST_AT_STAKE = 0.1  # of a makespan: a decision that costs more counts no more, lest a few decide everything


class InnerMetrics(NamedTuple):
    """Scalars of one inner loop."""

    latency: jax.Array  # mean sampled makespan of the collection, seconds
    heft: jax.Array  # mean makespan of the HEFT-based plans of the same DAGs, seconds
    loss: LossMetrics  # of the last gradient step, before it was taken
    value_explained: jax.Array  # explained variance before the first step: the values on unseen trajectories
    entropy: jax.Array  # of the sampling policy


def inner_optimizer(learning: LearningConfig) -> optax.GradientTransformation:
    """Adam(alpha), alpha falling where `inner_lr_decay` says so."""
    # maml differentiates it, and the square root of a second moment of zero has no derivative.
    return optax.adam(
        falling(learning.inner_lr, learning.inner_lr_decay), eps_root=1e-16 if learning.meta_update == "maml" else 0.0
    )


def falling(rate: float, steps: int) -> optax.ScalarOrSchedule:
    """A learning rate that falls to 0 over so many steps along half a cosine; 0 steps: that stays."""
    return optax.cosine_decay_schedule(rate, steps) if steps else rate


def evaluations(network: NetworkConfig, learning: LearningConfig, num_tasks: int) -> int:
    """Plans of one DAG that a collection simulates, those of the look-ahead included.

    Args:
        network: says whether the decoder looks ahead.
        learning: says which trajectories are collected.
        num_tasks: n.
    """
    return plans(learning, num_tasks) * (1 + lookahead_evaluations(network, num_tasks))


def plans(learning: LearningConfig, num_tasks: int) -> int:
    """Trajectories in a collection of a DAG of so many tasks."""
    if learning.learn_from == "optimum":
        return 1
    return min(learning.rollouts, num_tasks + 1) if learning.learn_from == "deviations" else learning.rollouts


def draw_graphs(task: LearningTask, key: jax.Array, num_graphs: int) -> LearningTask:
    """`num_graphs` of the task's DAGs without replacement; all of them, in place, where it has no more."""
    if num_graphs >= task.num_graphs:
        return task
    return take(task, jax.random.permutation(key, task.num_graphs)[:num_graphs])


def draw(learning: LearningConfig, task: LearningTask, key: jax.Array) -> tuple[LearningTask, jax.Array]:
    """The DAGs of one collection, `graphs_per_task` of them, and the key of its trajectories; consumes `key`."""
    graphs_key, rollout_key = jax.random.split(key)
    return draw_graphs(task, graphs_key, learning.graphs_per_task), rollout_key


def collect(
    network: NetworkConfig, learning: LearningConfig, params: Any, task: LearningTask, key: jax.Array
) -> tuple[Batch, Decisions, jax.Array]:
    """Trajectories of each DAG with their advantages; consumes `key`.

    They are `rollouts` samples of the policy; or, where `learn_from` says so:

        optimum      the best plan known of each DAG, alone and with an advantage of 1 at each step: (23) then is its
                     likelihood
        deviations   the policy's own plan. For `rollouts` - 1 of its actions, mostly those that it is least sure of,
                     the next likeliest is tried as well, and the better of both is what is learned at that step, with
                     the difference as its advantage: policy iteration by cost-sensitive classification (Lagoudakis and
                     Parr, 2003). The clip of (23) says how far one collection may move a decision

    Returns:
        The batch, which is constant to differentiation; the decisions, which are not; and the mean sampled makespan in
        seconds.
    """
    if learning.learn_from == "optimum":
        if task.optimum is None:
            raise InputError("learn_from is 'optimum' on learning tasks without plans; accepted: demonstrations")
        return _taught(network, learning, params, task, task.optimum)
    if learning.learn_from == "deviations":
        return _improved(network, learning, params, task, key)
    trajectories = rollout.sample(network, params, task, key, learning.rollouts)
    return estimate(learning, task, trajectories), trajectories.decisions, trajectories.makespans.mean()


def _taught(
    network: NetworkConfig, learning: LearningConfig, params: Any, task: LearningTask, actions: jax.Array
) -> tuple[Batch, Decisions, jax.Array]:
    """`collect` of one given plan a DAG, [G, N]."""
    followed = rollout.follow(network, params, task, actions[:, None])
    batch = estimate(learning, task, followed)
    advantages = jnp.broadcast_to(task.dags.mask[:, None], batch.advantages.shape).astype(batch.advantages.dtype)
    return batch._replace(advantages=advantages), followed.decisions, followed.makespans.mean()


def _improved(
    network: NetworkConfig, learning: LearningConfig, params: Any, task: LearningTask, key: jax.Array
) -> tuple[Batch, Decisions, jax.Array]:
    """`collect` of the policy's own plan and what is better at those of its steps that are tried."""
    tried = rollout.deviate(network, jax.lax.stop_gradient(params), task, key, learning.rollouts - 1)
    own, mask = tried.own.makespans, task.dags.mask
    actions = tried.own.decisions.actions[:, 0]

    def by_position(values: jax.Array, untried: jax.Array) -> jax.Array:
        return jax.vmap(lambda row, where, value: row.at[where].set(value))(untried, tried.positions, values)

    loses = by_position(tried.others.makespans - own, jnp.zeros(mask.shape))  # seconds that the other action costs
    taken = jnp.take_along_axis(tried.others.decisions.actions, tried.positions[..., None], axis=2)[..., 0]
    better = jnp.where(loses < 0, by_position(taken, actions), actions)
    share = jnp.abs(loses) / jnp.where(own > 0, own, 1)
    weights = jnp.where(share > ROUNDING, jnp.minimum(share, MOST_AT_STAKE), 0)
    weights = weights / jnp.maximum(weights.mean(where=mask), 1e-8)
    followed = rollout.follow(network, params, task, actions[:, None], better[:, None])
    batch = estimate(learning, task, followed)
    batch = batch._replace(judged=better[:, None], advantages=jnp.where(mask, weights, 0)[:, None])
    return batch, followed.decisions, own.mean()


def estimate(learning: LearningConfig, task: LearningTask, trajectories: Trajectories) -> Batch:
    """Advantages and value targets (26) of a collection, and all else of it that the gradient steps hold fixed.

    Advantages are (25) with the baseline `value`; with `leave_one_out` the return-to-go less the mean of the other
    trajectories' of the same DAG at the same position (Kool et al., 2019).
    """
    actions, log_probs, values, _ = jax.lax.stop_gradient(trajectories.decisions)
    mask = task.dags.mask[:, None, :]
    rewards = trajectories.rewards
    if learning.reward_scale == "all_local":
        rewards = rewards / jax.vmap(all_local_makespan)(task.dags)[:, None, None]

    def of_rollout(rewards: jax.Array, values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        advantages = adv.gae(rewards, values, mask, learning.gamma, learning.gae_lambda)
        return advantages, adv.returns_to_go(rewards, mask, learning.gamma)

    per_rollout = jax.vmap(of_rollout, in_axes=(0, 0, None))
    advantages, returns = jax.vmap(per_rollout)(rewards, values, task.dags.mask)
    if learning.baseline == "leave_one_out":
        count = returns.shape[1]
        advantages = (returns - returns.mean(axis=1, keepdims=True)) * count / max(count - 1, 1)
    if learning.normalise_advantages:
        advantages = adv.normalise(advantages, mask)
    return Batch(actions, actions, log_probs, advantages, returns, mask)


def sampling_gradient(
    network: NetworkConfig, learning: LearningConfig, params: Any, task: LearningTask, key: jax.Array
) -> tuple[Any, LossMetrics, Batch, jax.Array]:
    """Collects, and differentiates (27) at the parameters that sample: their forward pass serves both.

    Returns:
        The gradient, the loss's metrics, and the batch and mean makespan of `collect`.
    """

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[LossMetrics, Batch, jax.Array]]:
        batch, decisions, latency = collect(network, learning, params, task, key)
        loss, metrics = inner_loss(learning, batch, decisions)
        return loss, (metrics, batch, latency)

    gradient, collected = jax.grad(loss_fn, has_aux=True)(params)
    return gradient, *collected


def scoring_gradient(
    network: NetworkConfig, learning: LearningConfig, params: Any, task: LearningTask, batch: Batch
) -> tuple[Any, LossMetrics]:
    """Differentiates (27) on a batch; the encoder runs once for each DAG, forward and backward."""

    def loss_fn(params: Any) -> tuple[jax.Array, LossMetrics]:
        return inner_loss(learning, batch, rollout.score(network, params, task, batch.actions, batch.judged))

    return jax.grad(loss_fn, has_aux=True)(params)


class InnerState(NamedTuple):
    """What one gradient step hands to the next."""

    params: Any
    opt_state: optax.OptState  # of `inner_optimizer`


def descend(learning: LearningConfig, state: InnerState, gradient: Any) -> InnerState:
    """One step of `inner_optimizer`."""
    updates, opt_state = inner_optimizer(learning).update(gradient, state.opt_state, state.params)
    return InnerState(optax.apply_updates(state.params, updates), opt_state)


class Updates(NamedTuple):
    """The m gradient steps on one collection; leading axis m."""

    params: Any  # after each step
    loss: LossMetrics  # before it


def update(
    network: NetworkConfig,
    learning: LearningConfig,
    state: InnerState,
    task: LearningTask,
    key: jax.Array,
    taken: jax.Array | int,
) -> tuple[InnerState, Updates, jax.Array]:
    """One collection from all DAGs of a task and m full-batch Adam steps on it, of which the first `taken` count.

    Args:
        network: the network's settings.
        learning: the learning settings; `graphs_per_task` does not apply.
        state: the parameters, which sample, and the optimiser's state.
        task: the DAGs.
        key: consumed.
        taken: at least 1.

    Returns:
        The state afterwards, its way there, and the mean sampled makespan in seconds.
    """
    gradient, loss, batch, latency = sampling_gradient(network, learning, state.params, task, key)
    state = descend(learning, state, gradient)
    first = jax.tree.map(lambda leaf: leaf[None], Updates(state.params, loss))
    if learning.inner_steps == 1:
        return state, first, latency
    state, others = further_steps(network, learning, state, task, batch, taken)
    return state, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), first, others), latency


def further_steps(
    network: NetworkConfig,
    learning: LearningConfig,
    state: InnerState,
    task: LearningTask,
    batch: Batch,
    taken: jax.Array | int,
) -> tuple[InnerState, Updates]:
    """The m - 1 steps of `update` after its first, on the batch that was collected before it."""

    def body(state: InnerState, step: jax.Array) -> tuple[InnerState, Updates]:
        gradient, loss = scoring_gradient(network, learning, state.params, task, batch)
        after = descend(learning, state, gradient)
        state = jax.tree.map(lambda new, old: jnp.where(step < taken, new, old), after, state)
        return state, Updates(state.params, loss)

    return jax.lax.scan(body, state, jnp.arange(1, learning.inner_steps))


@partial(jax.jit, static_argnames=("network", "learning"))  # traced once for each size, however often it is used
def inner_adapt(
    network: NetworkConfig, learning: LearningConfig, params: Any, task: LearningTask, key: jax.Array
) -> tuple[Any, InnerMetrics]:
    """Adapts `params` to one learning task: one collection, then m gradient steps from a fresh Adam state.

    Args:
        network: the network's settings.
        learning: the learning settings.
        params: theta; also theta_old, which samples.
        task: one learning task.
        key: consumed.

    Returns:
        theta' and metrics.
    """
    task, rollout_key = draw(learning, task, key)
    start = InnerState(params, inner_optimizer(learning).init(params))
    state, steps, latency = update(network, learning, start, task, rollout_key, learning.inner_steps)
    first, last = jax.tree.map(lambda leaf: leaf[0], steps.loss), jax.tree.map(lambda leaf: leaf[-1], steps.loss)
    return state.params, InnerMetrics(latency, task.heft.mean(), last, first.explained_variance, first.entropy)


class AdaptationMetrics(NamedTuple):
    """One round of adaptation: one collection and m updates."""

    latencies: jax.Array  # [m, G], argmax-decoded makespan of each measured DAG after each update, seconds
    sampled_latency: jax.Array  # mean makespan of the collection, seconds
    loss: LossMetrics  # of the last update


@partial(jax.jit, static_argnames=("network", "learning"))
def adaptation_round(
    network: NetworkConfig,
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
        network: the network's settings.
        learning: the learning settings; `graphs_per_task` does not apply.
        params: the current policy, which samples.
        opt_state: of `inner_optimizer`.
        task: the DAGs that are adapted to.
        measured: the DAGs whose latency is measured after each update; the same ones in the paper's protocol.
        key: consumed.
        updates: how many of the m are taken, at least 1, by default all; traced, so that a shorter round compiles
            nothing anew.
    """
    taken = learning.inner_steps if updates is None else updates
    state, steps, sampled_latency = update(network, learning, InnerState(params, opt_state), task, key, taken)
    latencies = jax.lax.map(lambda params: rollout.decode_greedily(network, params, measured)[1], steps.params)
    last = jnp.minimum(taken, learning.inner_steps) - 1
    return *state, AdaptationMetrics(latencies, sampled_latency, jax.tree.map(lambda x: x[last], steps.loss))
