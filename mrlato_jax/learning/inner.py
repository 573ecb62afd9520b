"""The inner loop of Algorithm 1: collect trajectories on one learning task, take m Adam steps on them."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.environment.observation import lookahead_evaluations
from mrlato_jax.environment.reward import all_local_cost
from mrlato_jax.errors import InputError
from mrlato_jax.learning import advantages as adv
from mrlato_jax.learning import rollout
from mrlato_jax.learning.learning_task import LearningTask, take
from mrlato_jax.learning.losses import Batch, LossMetrics, inner_loss
from mrlato_jax.learning.rollout import Trajectories
from mrlato_jax.policy import decode
from mrlato_jax.policy.decode import Decisions

ROUNDING = 1e-6  # of a plan's cost: plans that differ by less are equally good
MOST_AT_STAKE = 0.1  # of a plan's cost: a decision that costs more counts no more, lest a few decide everything


class InnerMetrics(NamedTuple):
    """Scalars of one inner loop."""

    latency: jax.Array  # mean cost of the collection's plans, seconds: their makespan where nothing else has a price
    heft: jax.Array  # the same of the HEFT-based plans of the same DAGs
    loss: LossMetrics  # of the last gradient step, before it was taken
    value_explained: jax.Array  # explained variance before the first step: the values on unseen trajectories
    entropy: jax.Array  # of the sampling policy


def adam(learning: LearningConfig) -> optax.GradientTransformation:
    """Adam(alpha), alpha falling where `inner_lr_decay` says so."""
    # maml differentiates it, and the square root of a second moment of zero has no derivative.
    return optax.adam(
        falling(learning.inner_lr, learning.inner_lr_decay), eps_root=1e-16 if learning.meta_update == "maml" else 0.0
    )


def inner_optimizer(learning: LearningConfig) -> optax.GradientTransformation:
    """`adam` with its moments as vectors: fewer operations to compile."""
    return optax.flatten(adam(learning))


def falling(rate: float, steps: int) -> optax.ScalarOrSchedule:
    """A learning rate that falls to 0 over so many steps along half a cosine; 0 steps: that stays."""
    return optax.cosine_decay_schedule(rate, steps) if steps else rate


def evaluations(network: NetworkConfig, learning: LearningConfig, num_tasks: int, num_sites: int, channel: str) -> int:
    """Plans of one DAG that a collection simulates, those of the look-ahead included.

    Args:
        network: says whether the decoder looks ahead.
        learning: says which trajectories are collected.
        num_tasks: n.
        num_sites: K + 1.
        channel: which channel rules hold.
    """
    return plans(learning, num_tasks) * (1 + lookahead_evaluations(network, num_tasks, num_sites, channel))


def plans(learning: LearningConfig, num_tasks: int) -> int:
    """Trajectories in a collection of a DAG of so many tasks."""
    if learning.learn_from == "optimum":
        return 1
    return min(learning.rollouts, num_tasks + 1) if learning.learn_from == "deviations" else learning.rollouts


def draw_graphs(learning_task: LearningTask, key: jax.Array, num_graphs: int) -> LearningTask:
    """`num_graphs` of the learning task's DAGs without replacement; all of them, in place, where it has no more."""
    if num_graphs >= learning_task.num_graphs:
        return learning_task
    return take(learning_task, jax.random.permutation(key, learning_task.num_graphs)[:num_graphs])


def draw(learning: LearningConfig, learning_task: LearningTask, key: jax.Array) -> tuple[LearningTask, jax.Array]:
    """The DAGs of one collection, `graphs_per_task` of them, and the key of its trajectories; consumes `key`."""
    graphs_key, rollout_key = jax.random.split(key)
    return draw_graphs(learning_task, graphs_key, learning.graphs_per_task), rollout_key


class Noise(NamedTuple):
    """Settles a collection of sampled trajectories."""

    gumbel: jax.Array  # [G, R, N, A], of `decode.sampling_noise`


class Plans(NamedTuple):
    """Settles a collection of one given plan a DAG."""

    actions: jax.Array  # int32[G, 1, N], taken
    judged: jax.Array  # int32[G, 1, N], those that are to become likelier
    advantages: jax.Array  # [G, 1, N], how much each of them counts; 0 on padding
    cost: jax.Array | None  # mean of the policy's own plans, seconds; None where the given plans say so


Draws = Noise | Plans


def draw_collection(
    network: NetworkConfig, learning: LearningConfig, params: Any, learning_task: LearningTask, key: jax.Array
) -> Draws:
    """Settles what a collection learns from; consumes `key`.

    `learn_from` says what:

        samples      `rollouts` trajectories that the policy samples of each DAG
        optimum      the best plan known of each DAG, alone and with an advantage of 1 at each step: (23) then is its
                     likelihood
        deviations   the policy's own plan. For `rollouts` - 1 of its actions, mostly those that it is least sure of,
                     the next likeliest is tried as well, and the better of both is what is learned at that step, with
                     the difference as its advantage: policy iteration by cost-sensitive classification (Lagoudakis and
                     Parr, 2003). The clip of (23) says how far one collection may move a decision

    Raises:
        InputError: no plans to imitate in the task.
    """
    if learning.learn_from == "samples":
        trajectories = (learning_task.num_graphs, learning.rollouts)
        size, sites = learning_task.num_positions, learning_task.dags.num_sites
        return Noise(decode.sampling_noise(key, trajectories, size, network.in_order, sites))
    if learning.learn_from == "deviations":
        return _improved_plans(network, learning, params, learning_task, key)
    if learning_task.optimum is None:
        raise InputError("learn_from is 'optimum' on learning tasks without plans; accepted: demonstrations")
    best = learning_task.optimum[:, None]
    return Plans(best, best, learning_task.dags.mask[:, None].astype(learning_task.features.dtype), None)


def _improved_plans(
    network: NetworkConfig, learning: LearningConfig, params: Any, learning_task: LearningTask, key: jax.Array
) -> Plans:
    """The policy's own plan of each DAG, and what is better at those of its steps that are tried."""
    tried = rollout.deviate(network, jax.lax.stop_gradient(params), learning_task, key, learning.rollouts - 1)
    own, mask = tried.own.costs, learning_task.dags.mask
    actions = tried.own.decisions.actions[:, 0]

    def by_position(values: jax.Array, untried: jax.Array) -> jax.Array:
        return jax.vmap(lambda row, where, value: row.at[where].set(value))(untried, tried.positions, values)

    loses = by_position(tried.others.costs - own, jnp.zeros(mask.shape))  # seconds that the other action costs
    taken = jnp.take_along_axis(tried.others.decisions.actions, tried.positions[..., None], axis=2)[..., 0]
    better = jnp.where(loses < 0, by_position(taken, actions), actions)
    share = jnp.abs(loses) / jnp.where(own > 0, own, 1)
    weights = jnp.where(share > ROUNDING, jnp.minimum(share, MOST_AT_STAKE), 0)
    weights = weights / jnp.maximum(weights.mean(where=mask), 1e-8)
    return Plans(actions[:, None], better[:, None], jnp.where(mask, weights, 0)[:, None], own.mean())


def collect(
    network: NetworkConfig,
    learning: LearningConfig,
    params: Any,
    learning_task: LearningTask,
    draws: Draws,
    earlier: Batch | None = None,
    first: jax.Array | bool = True,
) -> tuple[Batch, Decisions, jax.Array]:
    """Runs the trajectories of a collection, or those that it ran at an earlier step again.

    Args:
        network: the network's settings.
        learning: the learning settings.
        params: of the policy that decides.
        learning_task: the DAGs.
        draws: `draw_collection`'s.
        earlier: the batch of the collection's first step; None where this is known to be that step.
        first: whether it is.

    Returns:
        The batch, which is constant to differentiation: `earlier` after the first step. The decisions, which are not
        constant. The mean cost of the policy's trajectories, seconds.
    """
    if isinstance(draws, Plans):
        actions, judged = draws.actions, draws.judged
        if earlier is not None:
            actions, judged = jnp.where(first, actions, earlier.actions), jnp.where(first, judged, earlier.judged)
        trajectories = rollout.rollout(network, params, learning_task, decode.given(actions), judged=judged)
        batch = estimate(learning, learning_task, trajectories)._replace(judged=judged, advantages=draws.advantages)
        own = draws.cost
    else:
        sampled = decode.sampled(draws.gumbel)
        if earlier is not None:
            sampled = decode.sampled_at_first(draws.gumbel, earlier.actions, first)
        trajectories = rollout.rollout(network, params, learning_task, sampled)
        batch, own = estimate(learning, learning_task, trajectories), None
    if earlier is not None:
        batch = jax.tree.map(lambda new, old: jnp.where(first, new, old), batch, earlier)
    return batch, trajectories.decisions, trajectories.costs.mean() if own is None else own


def estimate(learning: LearningConfig, learning_task: LearningTask, trajectories: Trajectories) -> Batch:
    """Advantages and value targets (26) of a collection, and all else of it that the gradient steps hold fixed.

    Advantages are (25) with the baseline `value`; with `leave_one_out` the return-to-go less the mean of the other
    trajectories' of the same DAG at the same position (Kool et al., 2019).
    """
    actions, log_probs, values, _ = jax.lax.stop_gradient(trajectories.decisions)
    mask = learning_task.dags.mask[:, None, :]
    rewards = trajectories.rewards
    if learning.reward_scale == "all_local":
        rewards = rewards / jax.vmap(all_local_cost)(learning_task.dags)[:, None, None]

    def of_rollout(rewards: jax.Array, values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        advantages = adv.gae(rewards, values, mask, learning.gamma, learning.gae_lambda)
        return advantages, adv.returns_to_go(rewards, mask, learning.gamma)

    per_rollout = jax.vmap(of_rollout, in_axes=(0, 0, None))
    advantages, returns = jax.vmap(per_rollout)(rewards, values, learning_task.dags.mask)
    if learning.baseline == "leave_one_out":
        count = returns.shape[1]
        advantages = (returns - returns.mean(axis=1, keepdims=True)) * count / max(count - 1, 1)
    if learning.normalise_advantages:
        advantages = adv.normalise(advantages, mask)
    return Batch(actions, actions, log_probs, advantages, returns, mask)


def gradient(
    network: NetworkConfig,
    learning: LearningConfig,
    params: Any,
    learning_task: LearningTask,
    draws: Draws,
    earlier: Batch | None = None,
    first: jax.Array | bool = True,
) -> tuple[Any, LossMetrics, Batch, jax.Array]:
    """Differentiates (27) at one step of a collection; at the first, the forward pass that samples serves both.

    Arguments as `collect`.

    Returns:
        The gradient, the loss's metrics, and the batch and mean cost of `collect`.
    """

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[LossMetrics, Batch, jax.Array]]:
        batch, decisions, cost = collect(network, learning, params, learning_task, draws, earlier, first)
        loss, metrics = inner_loss(learning, batch, decisions)
        return loss, (metrics, batch, cost)

    slope, (metrics, batch, cost) = jax.grad(loss_fn, has_aux=True)(params)
    return slope, metrics, batch, cost


def no_batch(learning: LearningConfig, *leading: int, num_positions: int, dtype: DTypeLike) -> Batch:
    """What stands for the batch before a collection's first step: zeros.

    Args:
        learning: says how many trajectories the batch has of each DAG.
        *leading: axes before, G the last of them.
        num_positions: N.
        dtype: of the numbers.
    """
    shape = (*leading, learning.rollouts if learning.learn_from == "samples" else 1, num_positions)
    actions, numbers = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, dtype)
    return Batch(actions, actions, numbers, numbers, numbers, jnp.zeros((*shape[:-2], 1, shape[-1]), bool))


class InnerState(NamedTuple):
    """What one gradient step hands to the next."""

    params: Any
    opt_state: optax.OptState


def descend(optimizer: optax.GradientTransformation, state: InnerState, slope: Any) -> InnerState:
    """One step of the optimiser along minus `slope`."""
    updates, opt_state = optimizer.update(slope, state.opt_state)
    return InnerState(optax.apply_updates(state.params, updates), opt_state)


class Updates(NamedTuple):
    """The m gradient steps on one collection; leading axis m."""

    params: Any  # after each step
    loss: LossMetrics  # before it


def update(
    network: NetworkConfig,
    learning: LearningConfig,
    state: InnerState,
    learning_task: LearningTask,
    key: jax.Array,
    taken: jax.Array | int | None = None,
) -> tuple[InnerState, Updates, jax.Array]:
    """One collection from all DAGs of a task and m full-batch Adam steps on it, of which the first `taken` count.

    Args:
        network: the network's settings.
        learning: the learning settings; `graphs_per_task` does not apply.
        state: the parameters, which sample, and the optimiser's state.
        learning_task: the DAGs.
        key: consumed.
        taken: at least 1; all by default.

    Returns:
        The state afterwards, its way there, and the mean cost of the collection's plans in seconds.
    """
    draws = draw_collection(network, learning, state.params, learning_task, key)

    # One body for all steps: a program has the network's forward and backward pass once.
    def body(carry: tuple[InnerState, Batch], step: jax.Array) -> tuple[Any, tuple[Updates, jax.Array]]:
        state, earlier = carry
        slope, loss, batch, cost = gradient(network, learning, state.params, learning_task, draws, earlier, step == 0)
        after = descend(inner_optimizer(learning), state, slope)
        if taken is not None:
            after = jax.tree.map(lambda new, old: jnp.where(step < taken, new, old), after, state)
        return (after, batch), (Updates(after.params, loss), cost)

    size, dtype = learning_task.num_positions, learning_task.features.dtype
    start = state, no_batch(learning, learning_task.num_graphs, num_positions=size, dtype=dtype)
    (state, _), (steps, costs) = jax.lax.scan(body, start, jnp.arange(learning.inner_steps))
    return state, steps, costs[0]


@partial(jax.jit, static_argnames=("network", "learning"))  # traced once for each size, however often it is used
def inner_adapt(
    network: NetworkConfig, learning: LearningConfig, params: Any, learning_task: LearningTask, key: jax.Array
) -> tuple[Any, InnerMetrics]:
    """Adapts `params` to one learning task: one collection, then m gradient steps from a fresh Adam state.

    Args:
        network: the network's settings.
        learning: the learning settings.
        params: theta; also theta_old, which samples.
        learning_task: one learning task.
        key: consumed.

    Returns:
        theta' and metrics.
    """
    learning_task, rollout_key = draw(learning, learning_task, key)
    start = InnerState(params, inner_optimizer(learning).init(params))
    state, steps, latency = update(network, learning, start, learning_task, rollout_key)
    first, last = jax.tree.map(lambda leaf: leaf[0], steps.loss), jax.tree.map(lambda leaf: leaf[-1], steps.loss)
    return state.params, InnerMetrics(latency, learning_task.heft.mean(), last, first.explained_variance, first.entropy)


class AdaptationMetrics(NamedTuple):
    """One round of adaptation: one collection and m updates."""

    latencies: jax.Array  # [m, G], cost of each measured DAG's argmax plan after each update, seconds
    sampled_latency: jax.Array  # mean cost of the collection's plans, seconds
    loss: LossMetrics  # of the last update


@partial(jax.jit, static_argnames=("network", "learning"))
def adaptation_round(
    network: NetworkConfig,
    learning: LearningConfig,
    params: Any,
    opt_state: optax.OptState,
    learning_task: LearningTask,
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
        learning_task: the DAGs that are adapted to.
        measured: the DAGs whose latency is measured after each update; the same ones in the paper's protocol.
        key: consumed.
        updates: how many of the m are taken, at least 1, by default all; traced, so that a shorter round compiles
            nothing anew.
    """
    taken = learning.inner_steps if updates is None else updates
    state, steps, sampled_latency = update(network, learning, InnerState(params, opt_state), learning_task, key, taken)
    latencies = jax.lax.map(lambda params: rollout.decode_greedily(network, params, measured)[1], steps.params)
    last = jnp.minimum(taken, learning.inner_steps) - 1
    return *state, AdaptationMetrics(latencies, sampled_latency, jax.tree.map(lambda x: x[last], steps.loss))
