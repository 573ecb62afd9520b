"""What the decoder of a policy is told by the simulator before a decision."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mrlato_jax.config import CANDIDATES, NetworkConfig
from mrlato_jax.environment import features, rules
from mrlato_jax.mec import latency


def num_observed(network: NetworkConfig) -> int:
    """How many numbers the decoder is told by the simulator; where servers may be any, of each option."""
    if network.any_servers:
        ahead = features.OPTION_LOOKAHEAD_FEATURES if network.decoder_input == "lookahead" else 0
        return features.OPTION_FEATURES + ahead
    ahead = features.LOOKAHEAD_FEATURES if network.decoder_input == "lookahead" else 0
    return (features.SIMULATOR_FEATURES if network.sees_simulator else 0) + ahead


def lookahead_evaluations(network: NetworkConfig, num_tasks: int, num_sites: int, channel: str) -> int:
    """Plans that are simulated to tell the decoder of one trajectory what its decisions lead to."""
    if network.decoder_input != "lookahead":
        return 0
    candidates = 1 if network.in_order else CANDIDATES
    return rules.evaluations(rules.tried(network.lookahead_rules, channel), num_tasks, candidates, num_sites)


def quantities(
    network: NetworkConfig,
    basis: rules.Basis,
    queues: latency.Queues,
    left: jax.Array,
    task: latency.Task,
    steps: tuple[jax.Array, jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """What a decoder that sees the simulator may be told of `task`: `network` says what, the rest is `rules.outcomes`'.

    Returns:
        `features.simulator_features`, or where servers may be any `features.option_features`; and what each site leads
        to, float[K + 1], 0 for a decoder that does not look ahead.
    """
    dag, scale = basis.dag, basis.scale
    ends = latency.candidate_ends(dag, queues, task)
    if network.any_servers:
        simulated = features.option_features(dag, scale, queues, task, ends)
    else:
        simulated = features.simulator_features(scale, queues, ends)
    if network.decoder_input == "task_sim":
        return simulated, jnp.zeros(dag.num_sites, scale.dtype)
    return simulated, rules.outcomes(basis, network.lookahead_rules, queues, left, task, steps)
