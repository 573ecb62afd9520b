"""What the decoder of a policy is told by the simulator before a decision."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mrlato_jax.config import CANDIDATES, NetworkConfig
from mrlato_jax.environment import features, rules
from mrlato_jax.environment.actions import NUM_SIDES
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays


def num_observed(network: NetworkConfig) -> int:
    """How many numbers the decoder is told by the simulator."""
    ahead = features.LOOKAHEAD_FEATURES if network.decoder_input == "lookahead" else 0
    return (features.SIMULATOR_FEATURES if network.sees_simulator else 0) + ahead


def lookahead_evaluations(network: NetworkConfig, num_tasks: int) -> int:
    """Plans that are simulated to tell the decoder of one trajectory what its decisions lead to."""
    if network.decoder_input != "lookahead":
        return 0
    return rules.evaluations(network.lookahead_rules, num_tasks, 1 if network.in_order else CANDIDATES)


def quantities(
    network: NetworkConfig,
    dag: DagArrays,
    tasks: latency.Task,
    left: jax.Array,
    scale: jax.Array,
    queues: latency.Queues,
    task: latency.Task,
    steps: tuple[jax.Array, jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """What a decoder that sees the simulator may be told of `task`, where bool[N] `left` of all are not placed yet.

    `steps` is as `rules.outcomes` takes it.

    Returns:
        `features.simulator_features`, and what either decision leads to, float[2]; 0 for a decoder that does not look
        ahead.
    """
    simulated = features.simulator_features(scale, queues, latency.candidate_ends(dag, queues, task))
    if network.decoder_input == "task_sim":
        return simulated, jnp.zeros(NUM_SIDES, scale.dtype)
    return simulated, rules.outcomes(dag, network.lookahead_rules, tasks, scale, queues, left, task, steps)
