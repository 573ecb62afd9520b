"""The floating-point operations of the policy's matrix products, counted from its equations.

A count says what (16)-(22) and their gradient ask for. Elementwise work is left out, and so is whatever a program
computes twice to save memory or once to save time: a fraction of the matmul peak then compares programs that do the
same task. XLA's own count is no substitute, since it counts the body of a loop once; on an unrolled case the two
agree, which a test holds. (The pooled encoding's product is none of the policy's: it is done once, as data are packed.)
"""

from __future__ import annotations

from mrlato_jax.config import NetworkConfig
from mrlato_jax.environment.actions import NUM_SIDES
from mrlato_jax.environment.observation import num_observed
from mrlato_jax.policy.cells import GATES


def forward(network: NetworkConfig, graphs: int, rollouts: int, num_positions: int, num_features: int) -> float:
    """FLOPs of encoding G DAGs once and of deciding every position of R trajectories of each.

    Args:
        network: the network's settings; where servers may be any, on one server.
        graphs: G.
        rollouts: R.
        num_positions: N, padding included: it is computed too.
        num_features: F, of the encoder's input.
    """
    units, layers = network.units, network.layers
    gates = units * GATES * units  # multiply-adds of one kernel [units, 4 units]
    shown = network.decoder_input != "paper"
    embedding = num_features * units
    encoder = layers * 2 * gates + 2 * units * units + shown * gates  # cells, keys and values, the tasks' share
    observed = num_observed(network)
    first_input = (NUM_SIDES + 1 + units + (units if network.any_servers else observed)) * GATES * units
    cells = first_input + (layers - 1) * gates + layers * gates  # input kernels, recurrent kernels
    attention = 2 * units * units + 2 * units * num_positions  # query and output kernels; scores and weighted values
    heads = units * (NUM_SIDES + 1)
    if network.any_servers:  # options' share of each site and its logit; the judge and the value
        encoder += units * units
        heads = NUM_SIDES * units * (observed + 1) + units * (units + 1)
    encoded, decided = graphs * num_positions, graphs * rollouts * num_positions
    return 2.0 * (encoded * (embedding + encoder) + decided * (cells + attention + heads))


def gradient(network: NetworkConfig, graphs: int, rollouts: int, num_positions: int, num_features: int) -> float:
    """FLOPs of one gradient step: forward, and two products backward for each; arguments as of `forward`.

    The embedding needs only one of the two, since nothing asks for the gradient of the features.
    """
    once = forward(network, graphs, rollouts, num_positions, num_features)
    return 3 * once - 2.0 * graphs * num_positions * num_features * network.units
