"""The reward (14) of a decision."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.latency import Queues, cost


def reward(dag: DagArrays, before: Queues, after: Queues) -> jax.Array:
    """(14) with its sign mended: minus the growth of the makespan (of the cost), seconds. Sums to minus the whole."""
    return cost(dag, before) - cost(dag, after)


def all_local_cost(dag: DagArrays) -> jax.Array:
    """The scale of a DAG's rewards: the UE runs one task after the other, so the sum of `T_ue`, at its price.

    1 where that is 0.
    """
    total = dag.ue.sum()
    if dag.prices is not None:
        total = total * (dag.prices.makespan + dag.prices.compute)
    return jnp.where(total > 0, total, 1)
