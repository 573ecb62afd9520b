"""Learning tasks as arrays for the jitted functions: a set of DAGs under one system, packed and encoded."""

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
from mrlato_jax.environment.features import FeatureSettings, check_neighbour_width, encode_all, feature_settings
from mrlato_jax.errors import InputError
from mrlato_jax.learning.executions import Executions, Recorded
from mrlato_jax.mec.arrays import DagArrays, alike, out_of_range, pack, trimmed
from mrlato_jax.mec.disturbance import World
from mrlato_jax.mec.execution import Executor, check_disturbed
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import System
from mrlato_jax.planners import earliest_finish

Tree = TypeVar("Tree")

# The number of servers that a policy for one server accepts, in error messages.
ONE_SERVER = "1 ('general', policies trained with servers=any_servers, and mj.look_ahead plan for several)"


class Real(NamedTuple):
    """What simulated executions of the plans of G DAGs meet, where rewards are measured."""

    world: World  # each [G, ...]
    draws: jax.Array  # uint32[G, 2], data of the key of each DAG's executions; `drawn_anew` replaces them


class LearningTask(NamedTuple):
    """One learning task (or several, stacked along leading axes)."""

    dags: DagArrays  # [G, ...]
    features: jax.Array  # [G, N, F], `environment.features.encode` of each
    heft: jax.Array  # [G], cost of each DAG's HEFT-based plan, seconds; only for progress lines, not for learning
    optimum: jax.Array | None = None  # int32[G, N], actions of the best known plan, if the policy learns from it
    real: Real | Recorded | None = None  # if rewards are those of executions; otherwise rewards are those of the model

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
        network: defines how neighbours are encoded, and their largest number.
        num_positions: N, the padded size; by default the size of the largest DAG.
        objective: the cost to minimise, or one objective for each; by default the makespan.

    Raises:
        InputError: a task has too many neighbours, or the system has several servers and the policy takes one.
    """
    arrays = pack(graphs, system, num_positions=num_positions, objective=objective)
    check_servers(arrays, network)
    check_neighbour_width(graphs, network.neighbour_limit)
    return encoded(arrays, network)


def encoded(arrays: DagArrays, network: NetworkConfig) -> LearningTask:
    """Encodes the result of `pack` in float32; may be traced.

    Raises:
        InputError: as in `check_times`.
    """
    check_times(arrays)
    dags = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32 if leaf.dtype == np.float64 else None), arrays)
    return LearningTask(dags, *_encode_all(dags, feature_settings(network)))


def executed_under(task: LearningTask, network: NetworkConfig, worlds: World | Sequence[World]) -> LearningTask:
    """Returns the learning task with rewards from executions: the policy sees the model, its plans the disturbance.

    Args:
        task: one learning task.
        network: settings of the network, which decides in the priority order.
        worlds: the world of all DAGs, or one for each (`mec.disturbance.world_of`).

    Raises:
        InputError: the policy chooses the order, the channel rules are not "paper", or energy has a weight.
    """
    _check_measurable(task, network)
    graphs = task.num_graphs
    each = [worlds] * graphs if isinstance(worlds, World) else worlds
    if len(each) != graphs:
        raise InputError(f"worlds has {len(each)} entries; accepted: one, or {graphs}, one for each graph")
    return task._replace(real=Real(stack(each), jnp.zeros((graphs, 2), jnp.uint32)))


def executions_of(
    task: LearningTask, network: NetworkConfig, graphs: Sequence[TaskGraph], execute: Executor
) -> Executions:
    """Returns the executions of a learning task's plans by a program outside JAX.

    Args:
        task: one learning task.
        network: settings of the network, which decides in the priority order.
        graphs: its applications.
        execute: executes a plan once.

    Raises:
        InputError: as in `executed_under`.
    """
    _check_measurable(task, network)
    return Executions(graphs, orders_of(task), execute)


def orders_of(task: LearningTask) -> list[np.ndarray]:
    """Returns the scheduling order of each DAG on the host, task ids int64[n]."""
    order, mask = np.asarray(task.dags.order), np.asarray(task.dags.mask)
    return [row[used].astype(np.int64) for row, used in zip(order, mask, strict=True)]


def _check_measurable(task: LearningTask, network: NetworkConfig) -> None:
    """Raises InputError for a learning task whose rewards cannot be measured."""
    check_disturbed(task.dags.channel)
    if not network.in_order:
        raise InputError("the policy chooses the order; accepted with measured makespans: decides='placement'")
    if task.dags.prices is not None:
        raise InputError("the objective has an energy weight; accepted with measured makespans: the makespan alone")


def drawn_anew(task: LearningTask, key: jax.Array) -> LearningTask:
    """Returns the learning task with new draws for its executions, if executions are simulated."""
    if not isinstance(task.real, Real):
        return task
    draws = jax.random.key_data(jax.random.split(jax.random.fold_in(key, 1), task.num_graphs))
    return task._replace(real=task.real._replace(draws=draws))


def check_servers(arrays: DagArrays, network: NetworkConfig) -> None:
    """Raises InputError if the systems have several servers and the network is for one server."""
    if not network.any_servers and arrays.num_sites != NUM_SIDES:
        raise InputError(f"the systems have {arrays.num_sites - 1} servers; accepted: {ONE_SERVER}")


def check_times(arrays: DagArrays) -> None:
    """Raises InputError for times on the host out of float32's range; traced times are not checked."""
    returned = (arrays.ue, arrays.uplink, arrays.vm, arrays.downlink)
    times = (*returned, *(column for column in (arrays.forward, arrays.backhaul) if column is not None))
    if all(isinstance(column, np.ndarray) for column in times) and (wrong := out_of_range(times, np.float32)):
        raise InputError(f"graphs: {wrong}")


@partial(jax.jit, static_argnames="settings")
def _encode_all(dags: DagArrays, settings: FeatureSettings) -> tuple[jax.Array, jax.Array]:
    return encode_all(dags, settings), jax.vmap(earliest_finish)(dags)[1]


def stack(trees: Sequence[Tree]) -> Tree:
    """Stacks trees of equal shapes, learning tasks or learners, along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def stack_alike(learning_tasks: Sequence[LearningTask]) -> LearningTask:
    """Stacks learning tasks of one kind of system; only some of them may have pins or prices."""
    filled = alike([one.dags for one in learning_tasks])
    return stack([one._replace(dags=dags) for one, dags in zip(learning_tasks, filled, strict=True)])


def trim(learning_task: LearningTask, num_positions: int) -> LearningTask:
    """Returns the DAGs with fewer padded positions; the largest DAG must fit into `num_positions`."""
    dags, features, heft, optimum, real = learning_task
    features, size = features[..., :num_positions, :], num_positions
    return LearningTask(trimmed(dags, size), features, heft, None if optimum is None else optimum[..., :size], real)


def take(tree: Tree, index: jax.Array | int) -> Tree:
    """Indexes the leading axis of every array. With a number as index, this is the inverse of `stack`."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
