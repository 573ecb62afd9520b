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
from mrlato_jax.environment.actions import NUM_SIDES
from mrlato_jax.environment.features import Told, check_neighbour_width, encode_all, told
from mrlato_jax.errors import InputError
from mrlato_jax.mec.arrays import DagArrays, alike, out_of_range, pack, trimmed
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import System
from mrlato_jax.planners import earliest_finish

Tree = TypeVar("Tree")

# What a policy that knows one server accepts.
ONE_SERVER = "1 ('general', policies trained with servers=any_servers, and mj.look_ahead plan for several)"


class LearningTask(NamedTuple):
    """One learning task (or several, stacked along leading axes)."""

    dags: DagArrays  # [G, ...]
    features: jax.Array  # [G, N, F], `environment.features.encode` of each
    heft: jax.Array  # [G], cost of each one's HEFT-based plan, seconds; nothing learns from it, progress shows it
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
    objective: Objective | Sequence[Objective] | None = None,
) -> LearningTask:
    """Packs and encodes one set of DAGs; runs on the host.

    Args:
        graphs: the DAGs.
        system: the system that all of them run on, or one for each.
        network: says how neighbours are encoded, and how many there may be.
        num_positions: N to pad to; by default the largest DAG's.
        objective: what is to be minimised, or one objective for each; by default the makespan.

    Raises:
        InputError: a task with more neighbours, or several servers where the policy has room for one.
    """
    arrays = pack(graphs, system, num_positions=num_positions, objective=objective)
    check_servers(arrays, network)
    check_neighbour_width(graphs, network.neighbour_limit)
    return encoded(arrays, network)


def encoded(arrays: DagArrays, network: NetworkConfig) -> LearningTask:
    """What `pack` gives, in float32, with its encoding; may be traced.

    Raises:
        InputError: as `check_times`.
    """
    check_times(arrays)
    dags = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32 if leaf.dtype == np.float64 else None), arrays)
    return LearningTask(dags, *_encode_all(dags, told(network)))


def check_servers(arrays: DagArrays, network: NetworkConfig) -> None:
    """Raises InputError where a network that knows one server is to decide among several."""
    if not network.any_servers and arrays.num_sites != NUM_SIDES:
        raise InputError(f"the systems have {arrays.num_sites - 1} servers; accepted: {ONE_SERVER}")


def check_times(arrays: DagArrays) -> None:
    """Raises InputError for times on the host that float32 does not hold; traced ones are not looked at."""
    returned = (arrays.ue, arrays.uplink, arrays.vm, arrays.downlink)
    times = (*returned, *(column for column in (arrays.forward, arrays.backhaul) if column is not None))
    if all(isinstance(column, np.ndarray) for column in times) and (wrong := out_of_range(times, np.float32)):
        raise InputError(f"graphs: {wrong}")


@partial(jax.jit, static_argnames="told")
def _encode_all(dags: DagArrays, told: Told) -> tuple[jax.Array, jax.Array]:
    return encode_all(dags, told), jax.vmap(earliest_finish)(dags)[1]


def stack(trees: Sequence[Tree]) -> Tree:
    """Stacks trees of equal shapes, learning tasks or learners, along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def stack_alike(learning_tasks: Sequence[LearningTask]) -> LearningTask:
    """`stack` of learning tasks of one kind of system, some of which have pins or prices."""
    filled = alike([one.dags for one in learning_tasks])
    return stack([one._replace(dags=dags) for one, dags in zip(learning_tasks, filled, strict=True)])


def trim(learning_task: LearningTask, num_positions: int) -> LearningTask:
    """The same DAGs with fewer padded positions; `num_positions` must hold the largest of them."""
    dags, features, heft, optimum = learning_task
    features, size = features[..., :num_positions, :], num_positions
    return LearningTask(trimmed(dags, size), features, heft, None if optimum is None else optimum[..., :size])


def take(tree: Tree, index: jax.Array | int) -> Tree:
    """Indexes the leading axis of every array; the inverse of `stack` where the index is a number."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
