"""The floating-point operations of the policy's matrix products, counted from its equations.

A count is the work that (16)-(22) and their gradient require. It omits elementwise work and does not depend on how a
program trades memory for recomputation, so fractions of the matmul peak are comparable between programs for the same
task. XLA's own count cannot replace it, since XLA counts the body of a loop once. On an unrolled case the two agree,
as a test checks. (The product of the pooled encoding is not counted: it runs once, when data are packed.)
"""

from __future__ import annotations

from mrlato_jax.config import NetworkConfig
from mrlato_jax.environment.actions import NUM_SIDES
from mrlato_jax.environment.observation import num_observed
from mrlato_jax.policy.cells import GATES


def forward(network: NetworkConfig, graphs: int, rollouts: int, num_positions: int, num_features: int) -> float:
    """Counts the FLOPs of encoding G DAGs once and of deciding every position of R trajectories of each.

    Args:
        network: the network's settings; with `any_servers`, the count is for one server.
        graphs: G.
        rollouts: R.
        num_positions: N, including padding, which is also computed.
        num_features: F, number of the encoder's input features.
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
    if network.any_servers:  # each option's share and logit; the tasks' share and the value
        encoder += units * units
        heads = NUM_SIDES * units * (observed + 1) + units * (units + 1)
    encoded, decided = graphs * num_positions, graphs * rollouts * num_positions
    return 2.0 * (encoded * (embedding + encoder) + decided * (cells + attention + heads))


def gradient(network: NetworkConfig, graphs: int, rollouts: int, num_positions: int, num_features: int) -> float:
    """Counts the FLOPs of one gradient step: the forward pass, and two backward products for each forward product.

    The embedding needs only one backward product, since features need no gradient. Arguments are those of `forward`.
    """
    once = forward(network, graphs, rollouts, num_positions, num_features)
    return 3 * once - 2.0 * graphs * num_positions * num_features * network.units
