"""The simulator's quantities that the decoder of a policy sees before a decision."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mrlato_jax.config import CANDIDATES, NetworkConfig
from mrlato_jax.environment import features, rules
from mrlato_jax.mec import latency


def num_observed(network: NetworkConfig) -> int:
    """Returns the number of quantities that the decoder sees; with any_servers, their number for each option."""
    if network.any_servers:
        ahead = features.OPTION_LOOKAHEAD_FEATURES if network.decoder_input == "lookahead" else 0
        return features.OPTION_FEATURES + ahead
    ahead = features.LOOKAHEAD_FEATURES if network.decoder_input == "lookahead" else 0
    return (features.SIMULATOR_FEATURES if network.sees_simulator else 0) + ahead


def lookahead_evaluations(network: NetworkConfig, num_tasks: int, num_sites: int, channel: str) -> int:
    """Returns the number of plans simulated for the look-ahead quantities of one trajectory."""
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
    """Returns the simulator's quantities of `task` that a decoder sees.

    The settings of the network select the quantities. The other arguments are those of `rules.outcomes`.

    Returns:
        `features.simulator_features`, or with any_servers `features.option_features`; and the outcomes of the sites,
        float[K + 1], 0 for a decoder that does not look ahead.
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
