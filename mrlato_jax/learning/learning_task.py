"""Learning tasks as the jitted core takes them: a set of DAGs under one system, packed and encoded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.config import NetworkConfig
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.environment.features import check_neighbour_width, encode_all
from mrlato_jax.errors import InputError
from mrlato_jax.mec.arrays import DagArrays, out_of_range, pack, trimmed
from mrlato_jax.mec.system import System
from mrlato_jax.planners import earliest_finish

Tree = TypeVar("Tree")


class LearningTask(NamedTuple):
    """One learning task (or several, stacked along leading axes)."""

    dags: DagArrays  # [G, ...]
    features: jax.Array  # [G, N, F], `environment.features.encode` of each
    heft: jax.Array  # [G], makespan of each one's HEFT-based plan, seconds; nothing learns from it, progress shows it
    optimum: jax.Array | None = None  # int32[G, N], actions of the best plan known, where it is to be learned from

    @property
    def num_graphs(self) -> int:
        """G."""
        return self.features.shape[-3]

    @property
    def num_positions(self) -> int:
        """N."""
        return self.features.shape[-2]


def learning_task(
    graphs: Sequence[TaskGraph],
    system: System | Sequence[System],
    network: NetworkConfig,
    num_positions: int | None = None,
) -> LearningTask:
    """Packs and encodes one set of DAGs; runs on the host.

    Args:
        graphs: the DAGs.
        system: the system that all of them run on, or one for each.
        network: says how neighbours are encoded, and how many there may be.
        num_positions: N to pad to; by default the largest DAG's.

    Raises:
        InputError: a task with more neighbours than the policy has room for.
    """
    arrays = pack(graphs, system, num_positions=num_positions)
    check_neighbour_width(graphs, network.neighbour_limit)
    return encoded(arrays, network)


def encoded(arrays: DagArrays, network: NetworkConfig) -> LearningTask:
    """What `pack` gives, in float32, with its encoding; may be traced.

    Raises:
        InputError: as `check_times`.
    """
    check_times(arrays)
    dags = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32 if leaf.dtype == np.float64 else None), arrays)
    return LearningTask(dags, *_encode_all(dags, network.neighbour_limit, network.outlook))


def check_times(arrays: DagArrays) -> None:
    """Raises InputError for times on the host that float32 does not hold; traced ones are not looked at."""
    times = (arrays.ue, arrays.uplink, arrays.vm, arrays.downlink)
    if all(isinstance(column, np.ndarray) for column in times) and (wrong := out_of_range(times, np.float32)):
        raise InputError(f"graphs: {wrong}")


@partial(jax.jit, static_argnames=("neighbour_width", "outlook"))
def _encode_all(dags: DagArrays, neighbour_width: int | None, outlook: bool) -> tuple[jax.Array, jax.Array]:
    return encode_all(dags, neighbour_width, outlook), jax.vmap(earliest_finish)(dags)[1]


def stack(trees: Sequence[Tree]) -> Tree:
    """Stacks trees of equal shapes, learning tasks or learners, along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def trim(learning_task: LearningTask, num_positions: int) -> LearningTask:
    """The same DAGs with fewer padded positions; `num_positions` must hold the largest of them."""
    dags, features, heft, optimum = learning_task
    features, size = features[..., :num_positions, :], num_positions
    return LearningTask(trimmed(dags, size), features, heft, None if optimum is None else optimum[..., :size])


def take(tree: Tree, index: jax.Array | int) -> Tree:
    """Indexes the leading axis of every array; the inverse of `stack` where the index is a number."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
