"""Trajectories of a policy on a learning task. `rollout` runs them, with one of the `Choice`s of `policy.decode`.

The choices are: sampled, likeliest, given, or the likeliest except at one position.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mrlato_jax.config import NetworkConfig
from mrlato_jax.environment import features
from mrlato_jax.environment.actions import NUM_SIDES
from mrlato_jax.environment.observation import num_observed
from mrlato_jax.environment.surroundings import surroundings
from mrlato_jax.learning.executions import Recorded
from mrlato_jax.learning.learning_task import LearningTask, drawn_anew
from mrlato_jax.mec.execution import execution, measured_rewards
from mrlato_jax.policy import decode
from mrlato_jax.policy.decode import Choice, Decisions
from mrlato_jax.policy.seq2seq import Memory, Seq2SeqPolicy

DOUBT = 0.01  # `deviate` adds this to each decision's chance of deviating, so that every decision is tried


class Trajectories(NamedTuple):
    """R rollouts of each of G DAGs."""

    decisions: Decisions  # each [G, R, N], under the policy that sampled them
    rewards: jax.Array  # [G, R, N], (14), seconds
    costs: jax.Array  # [G, R], seconds: the makespans if they alone count (`DagArrays.prices`)


@partial(jax.jit, static_argnames="network")
def init_params(network: NetworkConfig, key: jax.Array) -> Any:
    """Returns random parameters of the policy."""
    inputs = jnp.zeros((1, 1, features.num_features(features.feature_settings(network))))
    of_sites = (NUM_SIDES,) if network.any_servers else ()
    observations = jnp.zeros((1, *(() if network.in_order else (1,)), *of_sites, num_observed(network)))
    return Seq2SeqPolicy(network).init(key, inputs, jnp.ones((1, 1), bool), observations)


def encode(network: NetworkConfig, params: Any, learning_task: LearningTask) -> Memory:
    """Runs the encoder once for each DAG; all rollouts of the DAG share the result."""
    return Seq2SeqPolicy(network).apply(params, learning_task.features, learning_task.dags.mask, method="encode")


def rollout(
    network: NetworkConfig,
    params: Any,
    learning_task: LearningTask,
    choice: Choice,
    *,
    memory: Memory | None = None,
    judged: jax.Array | None = None,
    length: jax.Array | None = None,
) -> Trajectories:
    """Runs R trajectories of each DAG through the decision process.

    Args:
        network: the network's settings.
        params: parameters of the deciding policy.
        learning_task: G DAGs padded to N positions.
        choice: rule that chooses the actions, for R trajectories of each DAG.
        memory: result of `encode`, if the caller has it.
        judged: as in `decode.decode`.
        length: as in `decode.decode`.
    """
    memory = encode(network, params, learning_task) if memory is None else memory
    decided_in = surroundings(network, learning_task.dags, choice.rollouts)
    decisions, rewards = decode.decode(network, params, memory, decided_in, choice, judged, length)
    if learning_task.real is not None:
        rewards = measured(learning_task, decisions.actions)
    return Trajectories(decisions, rewards, -rewards.sum(axis=-1))


def measured(learning_task: LearningTask, actions: jax.Array) -> jax.Array:
    """Executes R plans of each DAG once, and returns their rewards [G, R, N] (`mec.execution.measured_rewards`).

    Args:
        learning_task: G DAGs, with `real`.
        actions: int32[G, R, N], sites in the priority order.
    """
    assert learning_task.real is not None
    if isinstance(learning_task.real, Recorded):
        return learning_task.real.of(actions).astype(learning_task.features.dtype)

    def of_plan(dag: Any, world: Any, draws: jax.Array, number: jax.Array, sites: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.wrap_key_data(draws), number)
        return measured_rewards(execution(dag, sites, world, key))

    of_dag = jax.vmap(of_plan, in_axes=(None, None, None, 0, 0))
    numbers = jnp.arange(actions.shape[1])
    rewards = jax.vmap(of_dag, in_axes=(0, 0, 0, None, 0))(learning_task.dags, *learning_task.real, numbers, actions)
    return jax.lax.stop_gradient(rewards)


def sample(
    network: NetworkConfig,
    params: Any,
    learning_task: LearningTask,
    key: jax.Array,
    rollouts: int,
    temperatures: jax.Array | None = None,
    alike: bool = False,
) -> Trajectories:
    """Samples trajectories of each DAG.

    Args:
        network: the network's settings.
        params: parameters of the sampling policy.
        learning_task: G DAGs padded to N positions.
        key: consumed.
        rollouts: R, trajectories of each DAG.
        temperatures: [R], divisor of each trajectory's logits; by default 1, the policy itself.
        alike: whether all DAGs share their draws; then a DAG's draws do not depend on the number of DAGs.
    """
    graphs = 1 if alike else learning_task.num_graphs
    size, sites = learning_task.num_positions, learning_task.dags.num_sites
    noise = decode.sampling_noise(key, (graphs, rollouts), size, network.in_order, sites)
    noise = jnp.broadcast_to(noise, (learning_task.num_graphs, *noise.shape[1:]))
    if temperatures is not None:
        noise = temperatures[None, :, None, None] * noise
    return rollout(network, params, learning_task, decode.sampled(noise))


class Deviations(NamedTuple):
    """The policy's own plan of each of G DAGs, and D plans that each deviate from it at a different position."""

    own: Trajectories  # [G, 1, N]
    others: Trajectories  # [G, D, N]
    positions: jax.Array  # int32[G, D]


def deviate(
    network: NetworkConfig, params: Any, learning_task: LearningTask, key: jax.Array, deviations: int
) -> Deviations:
    """Runs the policy's own plan of each DAG, and plans that deviate from it at one position.

    A deviating plan takes the second likeliest action at its position; afterwards it takes the likeliest actions again,
    given what it has done. Positions are drawn without replacement. The weight of a position is `DOUBT` plus the
    probability that the policy does not take its likeliest action there.

    Args:
        network: the network's settings.
        params: parameters of the deciding policy.
        learning_task: G DAGs padded to N positions.
        key: consumed.
        deviations: D; N if there are fewer positions.
    """
    size, count = learning_task.num_positions, min(deviations, learning_task.num_positions)
    memory = encode(network, params, learning_task)
    nowhere = jnp.zeros((learning_task.num_graphs, 1, size), bool)
    own = rollout(network, params, learning_task, decode.deviating(nowhere), memory=memory)
    otherwise = jnp.log(DOUBT - jnp.expm1(own.decisions.log_probs[:, 0]))
    drawn = otherwise + decode.sampling_noise(key, (learning_task.num_graphs,), size)[..., 0]
    _, positions = jax.lax.top_k(jnp.where(learning_task.dags.mask, drawn, -jnp.inf), count)
    elsewhere = jax.nn.one_hot(positions, size, dtype=bool)
    again = drawn_anew(learning_task, jax.random.fold_in(key, 1))  # executions of other plans do not share the draws
    others = rollout(network, params, again, decode.deviating(elsewhere), memory=memory)
    return Deviations(own, others, positions)


def decode_greedily(
    network: NetworkConfig, params: Any, learning_task: LearningTask, length: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Takes the likeliest decisions for each DAG.

    Args:
        network: the network's settings.
        params: parameters of the deciding policy.
        learning_task: G DAGs padded to N positions.
        length: as in `decode.decode`.

    Returns:
        Actions int32[G, N] in scheduling order and costs [G], seconds.
    """
    choice = decode.likeliest(learning_task.num_graphs, learning_task.num_positions)
    likeliest = rollout(network, params, learning_task, choice, length=length)
    return likeliest.decisions.actions[:, 0], likeliest.costs[:, 0]
