"""The reward (14) of a decision."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.latency import Queues, cost


def reward(dag: DagArrays, before: Queues, after: Queues) -> jax.Array:
    """Returns (14) with the corrected sign: minus the growth of the makespan (of the cost), seconds.

    The rewards of a plan sum to minus its makespan (its cost).
    """
    return cost(dag, before) - cost(dag, after)


def all_local_cost(dag: DagArrays) -> jax.Array:
    """Returns the scale of a DAG's rewards: the cost of all tasks on the UE, which is the sum of `T_ue` at its price.

    The scale is 1 where this cost is 0.
    """
    total = dag.ue.sum()
    if dag.prices is not None:
        total = total * (dag.prices.makespan + dag.prices.compute)
    return jnp.where(total > 0, total, 1)
