"""The inner loop of Algorithm 1: collects trajectories on one learning task and takes m Adam steps on them."""

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
from mrlato_jax.learning.learning_task import LearningTask, drawn_anew, take
from mrlato_jax.learning.losses import Batch, LossMetrics, inner_loss
from mrlato_jax.learning.rollout import Trajectories
from mrlato_jax.policy import decode
from mrlato_jax.policy.decode import Decisions

ROUNDING = 1e-6  # share of a plan's cost: plans that differ by less count as equally good
MOST_AT_STAKE = 0.1  # share of a plan's cost: weight limit of a single decision, so that a few do not dominate


class InnerMetrics(NamedTuple):
    """Scalars of one inner loop."""

    latency: jax.Array  # mean cost of the collection's plans, seconds: their makespan if it alone counts
    heft: jax.Array  # mean cost of the HEFT-based plans of the same DAGs
    loss: LossMetrics  # of the last gradient step, computed before the step
    value_explained: jax.Array  # explained variance before the first step, on trajectories new to the value head
    entropy: jax.Array  # of the sampling policy


def adam(learning: LearningConfig) -> optax.GradientTransformation:
    """Returns Adam(alpha); alpha decays if `inner_lr_decay` is set."""
    # maml differentiates through Adam; without `eps_root`, a second moment of zero has an infinite derivative.
    return optax.adam(
        falling(learning.inner_lr, learning.inner_lr_decay), eps_root=1e-16 if learning.meta_update == "maml" else 0.0
    )


def inner_optimizer(learning: LearningConfig) -> optax.GradientTransformation:
    """Returns `adam` with its moments as vectors, which needs fewer operations to compile."""
    return optax.flatten(adam(learning))


def falling(rate: float, steps: int) -> optax.ScalarOrSchedule:
    """Returns a learning rate that decays to 0 over `steps` along half a cosine; with 0 steps it is constant."""
    return optax.cosine_decay_schedule(rate, steps) if steps else rate


def evaluations(network: NetworkConfig, learning: LearningConfig, num_tasks: int, num_sites: int, channel: str) -> int:
    """Returns how many plans of one DAG a collection simulates, including those of the look-ahead.

    Args:
        network: defines whether the decoder looks ahead.
        learning: defines which trajectories are collected.
        num_tasks: n.
        num_sites: K + 1.
        channel: name of the channel rules.
    """
    return plans(learning, num_tasks) * (1 + lookahead_evaluations(network, num_tasks, num_sites, channel))


def plans(learning: LearningConfig, num_tasks: int) -> int:
    """Returns the number of trajectories in a collection for a DAG of `num_tasks` tasks."""
    if learning.learn_from == "optimum":
        return 1
    return min(learning.rollouts, num_tasks + 1) if learning.learn_from == "deviations" else learning.rollouts


def draw_graphs(learning_task: LearningTask, key: jax.Array, num_graphs: int) -> LearningTask:
    """Draws `num_graphs` DAGs of the learning task without replacement; returns all in order if there are no more."""
    if num_graphs >= learning_task.num_graphs:
        return learning_task
    return take(learning_task, draw_numbers(learning_task.num_graphs, key, num_graphs))


def draw_numbers(total: int, key: jax.Array, num_graphs: int) -> jax.Array:
    """Returns the numbers of the DAGs, of `total`, that `draw_graphs` draws with the same key, int32[num_graphs]."""
    return jax.random.permutation(key, total)[:num_graphs] if num_graphs < total else jnp.arange(total)


def draw(learning: LearningConfig, learning_task: LearningTask, key: jax.Array) -> tuple[LearningTask, jax.Array]:
    """Draws `graphs_per_task` DAGs for one collection, and the key of its trajectories; consumes `key`."""
    graphs_key, rollout_key = jax.random.split(key)
    return draw_graphs(learning_task, graphs_key, learning.graphs_per_task), rollout_key


class Noise(NamedTuple):
    """Random draws of a collection of sampled trajectories."""

    gumbel: jax.Array  # [G, R, N, A], from `decode.sampling_noise`


class Plans(NamedTuple):
    """Actions of a collection with one given plan per DAG."""

    actions: jax.Array  # int32[G, 1, N], actions taken
    judged: jax.Array  # int32[G, 1, N], actions to make likelier
    advantages: jax.Array  # [G, 1, N], weight of each judged action; 0 on padding
    cost: jax.Array | None  # mean cost of the policy's own plans, seconds; None to take that of the given plans


Draws = Noise | Plans


def draw_collection(
    network: NetworkConfig, learning: LearningConfig, params: Any, learning_task: LearningTask, key: jax.Array
) -> Draws:
    """Draws the trajectories or plans that a collection learns from; consumes `key`.

    `learn_from` is one of:

        samples      `rollouts` trajectories of each DAG, sampled from the policy.
        optimum      The best known plan of each DAG, with advantage 1 at each step. (23) is then its likelihood.
        deviations   The policy's own plan. For `rollouts` - 1 of its decisions, mostly the least certain ones, the next
                     likeliest action is tried, too. The better of the two actions is learned at that step, with the
                     cost difference as its advantage. This is policy iteration by cost-sensitive classification
                     (Lagoudakis and Parr, 2003). The clip of (23) limits the change of a decision per collection.

    Raises:
        InputError: `learn_from` is "optimum", and the learning task has no plans.
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


@partial(jax.jit, static_argnames=("network", "learning"))
def collected_plans(
    network: NetworkConfig, learning: LearningConfig, params: Any, learning_task: LearningTask, key: jax.Array
) -> jax.Array:
    """Returns the plans that `update` will collect with the same arguments, so that a program can execute them first.

    Returns:
        int32[G, P, N], actions of `plans` of each DAG.
    """
    model = learning_task._replace(real=None)
    if learning.learn_from == "deviations":
        tried = rollout.deviate(network, params, model, key, learning.rollouts - 1)
        return jnp.concatenate([tried.own.decisions.actions, tried.others.decisions.actions], axis=1)
    draws = draw_collection(network, learning, params, model, key)
    if isinstance(draws, Plans):
        return draws.actions
    return rollout.rollout(network, params, model, decode.sampled(draws.gumbel)).decisions.actions


def _improved_plans(
    network: NetworkConfig, learning: LearningConfig, params: Any, learning_task: LearningTask, key: jax.Array
) -> Plans:
    """Returns the policy's own plan of each DAG, with the better action at each step where another one was tried."""
    tried = rollout.deviate(network, jax.lax.stop_gradient(params), learning_task, key, learning.rollouts - 1)
    own, mask = tried.own.costs, learning_task.dags.mask
    actions = tried.own.decisions.actions[:, 0]

    def by_position(values: jax.Array, untried: jax.Array) -> jax.Array:
        return jax.vmap(lambda row, where, value: row.at[where].set(value))(untried, tried.positions, values)

    loses = by_position(tried.others.costs - own, jnp.zeros(mask.shape))  # extra cost of the other action, seconds
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
    """Runs the trajectories of a collection; after the first step, runs the same trajectories again.

    Args:
        network: the network's settings.
        learning: the learning settings.
        params: parameters of the deciding policy.
        learning_task: the DAGs.
        draws: result of `draw_collection`.
        earlier: the batch of the collection's first step; None if this is statically the first step.
        first: whether this is the first step.

    Returns:
        The batch, constant under differentiation; after the first step this is `earlier`. The decisions, which are
        differentiable. The mean cost of the policy's trajectories, seconds.
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
    """Computes the batch of a collection: advantages, value targets (26), and all else fixed during gradient steps.

    With the baseline `value`, advantages are (25). With `leave_one_out`, an advantage is the return-to-go minus the
    mean return-to-go of the same DAG's other trajectories at the same position (Kool et al., 2019).
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
    """Differentiates (27) at one step of a collection. At the first step, one forward pass samples and scores.

    Arguments are those of `collect`.

    Returns:
        The gradient, the metrics of the loss, and the batch and mean cost from `collect`.
    """

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[LossMetrics, Batch, jax.Array]]:
        batch, decisions, cost = collect(network, learning, params, learning_task, draws, earlier, first)
        loss, metrics = inner_loss(learning, batch, decisions)
        return loss, (metrics, batch, cost)

    slope, (metrics, batch, cost) = jax.grad(loss_fn, has_aux=True)(params)
    return slope, metrics, batch, cost


def no_batch(learning: LearningConfig, *leading: int, num_positions: int, dtype: DTypeLike) -> Batch:
    """Returns a batch of zeros, the placeholder before a collection's first step.

    Args:
        learning: defines the number of trajectories of each DAG.
        *leading: sizes of the leading axes, G last.
        num_positions: N.
        dtype: dtype of the real-valued arrays.
    """
    shape = (*leading, learning.rollouts if learning.learn_from == "samples" else 1, num_positions)
    actions, numbers = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, dtype)
    return Batch(actions, actions, numbers, numbers, numbers, jnp.zeros((*shape[:-2], 1, shape[-1]), bool))


class InnerState(NamedTuple):
    """State carried from one gradient step to the next."""

    params: Any
    opt_state: optax.OptState


def descend(optimizer: optax.GradientTransformation, state: InnerState, slope: Any) -> InnerState:
    """Takes one optimiser step with the gradient `slope`."""
    updates, opt_state = optimizer.update(slope, state.opt_state)
    return InnerState(optax.apply_updates(state.params, updates), opt_state)


class Updates(NamedTuple):
    """The m gradient steps on one collection; leading axis m."""

    params: Any  # after each step
    loss: LossMetrics  # before each step


def update(
    network: NetworkConfig,
    learning: LearningConfig,
    state: InnerState,
    learning_task: LearningTask,
    key: jax.Array,
    taken: jax.Array | int | None = None,
) -> tuple[InnerState, Updates, jax.Array]:
    """Makes one collection from all DAGs of a task and takes up to m full-batch Adam steps on it.

    Args:
        network: the network's settings.
        learning: the learning settings; `graphs_per_task` is ignored.
        state: parameters of the sampling policy, and the optimiser's state.
        learning_task: the DAGs.
        key: consumed.
        taken: number of the m steps that take effect, at least 1; by default all.

    Returns:
        The state afterwards, the m steps, and the mean cost of the collection's plans in seconds.
    """
    learning_task = drawn_anew(learning_task, key)
    draws = draw_collection(network, learning, state.params, learning_task, key)

    # One scan body for all steps, so that the program contains the network's forward and backward pass once.
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


@partial(jax.jit, static_argnames=("network", "learning"))  # traced once for each size
def inner_adapt(
    network: NetworkConfig, learning: LearningConfig, params: Any, learning_task: LearningTask, key: jax.Array
) -> tuple[Any, InnerMetrics]:
    """Adapts `params` to one learning task: one collection, then m gradient steps from a fresh Adam state.

    Args:
        network: the network's settings.
        learning: the learning settings.
        params: theta; also theta_old, the sampling policy.
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
    """Metrics of one round of adaptation: one collection and m updates."""

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
    """Takes up to m updates on one collection from all DAGs of a task; the Adam state lasts from round to round.

    An update is one Adam step. Adaptation to a test set is a sequence of these rounds.

    Args:
        network: the network's settings.
        learning: the learning settings; `graphs_per_task` is ignored.
        params: the current policy, which samples.
        opt_state: state of `inner_optimizer`.
        learning_task: the DAGs to adapt to.
        measured: the DAGs to measure after each update; in the paper's protocol, the same DAGs.
        key: consumed.
        updates: number of the m updates to take, at least 1; by default all. The value is traced, so a shorter round
            does not compile again.
    """
    taken = learning.inner_steps if updates is None else updates
    state, steps, sampled_latency = update(network, learning, InnerState(params, opt_state), learning_task, key, taken)
    latencies = jax.lax.map(lambda params: rollout.decode_greedily(network, params, measured)[1], steps.params)
    last = jnp.minimum(taken, learning.inner_steps) - 1
    return *state, AdaptationMetrics(latencies, sampled_latency, jax.tree.map(lambda x: x[last], steps.loss))
