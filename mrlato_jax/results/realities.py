"""What executes plans where the real system differs from the model: a simulated reality, or the testbed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.config import NetworkConfig
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.edge.calibrate import calibrate
from mrlato_jax.edge.simulated import simulated_run
from mrlato_jax.edge.ue import Run
from mrlato_jax.errors import InputError, shorten
from mrlato_jax.learning.executions import Executions
from mrlato_jax.learning.learning_task import LearningTask, executed_under, executions_of, learning_task, stack, take
from mrlato_jax.mec.arrays import DagArrays, pack
from mrlato_jax.mec.disturbance import Disturbance, World, seen_from, world_of
from mrlato_jax.mec.execution import execution, result_at_ue
from mrlato_jax.mec.latency import Schedule
from mrlato_jax.mec.system import QUANTITIES, System
from mrlato_jax.planners.plan import actions_of

MOST_TRIES = 3  # of a run on the testbed in which something fails


class Placed(NamedTuple):
    """A plan without its simulated schedule."""

    placement: np.ndarray  # int32[n] by task id
    order: np.ndarray  # int64[n], task ids


class Chosen(Protocol):
    """A plan: a `Plan`, or `Placed`."""

    @property
    def placement(self) -> np.ndarray:
        """Sites by task id."""

    @property
    def order(self) -> np.ndarray:
        """Task ids in scheduling order."""


class Reality(Protocol):
    """Executes plans for one system, as the planners know it."""

    @property
    def system(self) -> System:
        """The system as the planners know it."""

    def run(self, graph: TaskGraph, plan: Chosen, number: int) -> Run:
        """Executes a plan once; `number` tells the executions of a calibration apart."""

    def makespans(
        self, graphs: Sequence[TaskGraph], plans: Sequence[Sequence[Chosen]], draws: int, stream: int | None = None
    ) -> list[float]:
        """Executes plans of all graphs by several methods.

        Args:
            graphs: the applications.
            plans: for each method, a plan of each application.
            draws: number of executions of each plan.
            stream: tells the random draws of executions apart.

        Returns:
            The mean makespan of each method, seconds.
        """

    def learning_task(
        self, graphs: Sequence[TaskGraph], known: System, network: NetworkConfig
    ) -> tuple[LearningTask, Executions | None]:
        """Returns applications whose policy sees the system `known`, with what executes its plans outside JAX."""


def calibrated(graphs: Sequence[TaskGraph], runs: Sequence[Run], system: System) -> System:
    """Returns the system that runs of several applications show: the median of their `calibrate`d clocks and rates."""
    estimates = [calibrate([run], graph, system).system for graph, run in zip(graphs, runs, strict=True)]
    changes: dict[str, Any] = {}
    for name in QUANTITIES:
        nominal = getattr(system, name)
        seen = [value for one in estimates if (value := getattr(one, name)) != nominal]
        changes[name] = float(np.median(seen)) if seen else nominal
    return dataclasses.replace(system, **changes)


@dataclasses.dataclass(frozen=True)
class Simulated:
    """A simulated reality.

    Attributes:
        system: the system as the planners know it.
        disturbance: how the reality differs.
        seed: seed of the executions.
    """

    system: System
    disturbance: Disturbance
    seed: int

    @cached_property
    def world(self) -> World:
        """The world of one DAG."""
        return world_of(self.disturbance, self.system.num_servers)

    @property
    def key(self) -> jax.Array:
        """The key of the executions that score."""
        return jax.random.fold_in(jax.random.key(self.seed), 1)

    def run(self, graph: TaskGraph, plan: Chosen, number: int) -> Run:
        """Executes a plan once."""
        seed = 1000 * self.seed + number
        return simulated_run(graph, self.system, plan.placement, self.disturbance, seed, plan.order)

    def makespans(
        self, graphs: Sequence[TaskGraph], plans: Sequence[Sequence[Chosen]], draws: int, stream: int | None = None
    ) -> list[float]:
        """Executes plans; all methods meet the same draws."""
        key = self.key if stream is None else jax.random.fold_in(self.key, stream)
        return [float(measured_s(*self.packed(graphs, one), key, draws).mean()) for one in plans]

    def learning_task(
        self,
        graphs: Sequence[TaskGraph],
        known: System,
        network: NetworkConfig,
        num_positions: int | None = None,
    ) -> tuple[LearningTask, None]:
        """Returns applications whose policy sees the system `known`."""
        task = learning_task(graphs, known, network, num_positions)
        return executed_under(task, network, seen_from(self.world, self.system, known)), None

    def packed(self, graphs: Sequence[TaskGraph], plans: Sequence[Chosen]) -> tuple[DagArrays, jax.Array, World]:
        """Returns applications in the orders of their plans, the plans' actions, and the worlds."""
        dags = pack(graphs, self.system, orders=[plan.order for plan in plans])
        actions = np.stack([actions_of(take(dags, row), plan.placement) for row, plan in enumerate(plans)])
        return jax.tree.map(jnp.asarray, dags), jnp.asarray(actions), stack([self.world] * len(plans))


@dataclasses.dataclass(frozen=True)
class Tested:
    """The testbed.

    Attributes:
        system: the system as the planners know it.
        execute: runs a plan once, of `Bed.executing`.
    """

    system: System
    execute: Callable[[TaskGraph, np.ndarray, np.ndarray], Run]

    def run(self, graph: TaskGraph, plan: Chosen, number: int) -> Run:
        """Executes a plan once, and again if something failed: then part of the plan may have run elsewhere.

        Raises:
            InputError: something failed `MOST_TRIES` times.
        """
        for _ in range(MOST_TRIES):
            run = self.execute(graph, plan.placement, plan.order)
            if not run.events:
                return run
        raise InputError(f"run has events {shorten(run.events)} for the {MOST_TRIES}. time; accepted: none")

    def makespans(
        self, graphs: Sequence[TaskGraph], plans: Sequence[Sequence[Chosen]], draws: int, stream: int | None = None
    ) -> list[float]:
        """Executes plans of all methods in turn, so that changes of the machine affect all methods."""
        seconds = np.zeros((len(plans), draws, len(graphs)))
        for draw in range(draws):
            for number, graph in enumerate(graphs):
                for method, of_method in enumerate(plans):
                    seconds[method, draw, number] = self.run(graph, of_method[number], 0).makespan
        return [float(mean) for mean in seconds.mean(axis=(1, 2))]

    def learning_task(
        self, graphs: Sequence[TaskGraph], known: System, network: NetworkConfig
    ) -> tuple[LearningTask, Executions]:
        """Returns applications whose policy sees the system `known`, and what executes its plans."""

        def execute(graph: TaskGraph, placement: np.ndarray, order: np.ndarray) -> Schedule:
            return self.run(graph, Placed(placement, order), 0).measured

        task = learning_task(graphs, known, network)
        return task, executions_of(task, network, graphs, execute)


@partial(jax.jit, static_argnames="draws")
def measured_s(dags: DagArrays, actions: jax.Array, worlds: World, key: jax.Array, draws: int) -> jax.Array:
    """Executes one plan of each DAG `draws` times; returns the mean makespans [G], seconds.

    Args:
        dags: leading axis G.
        actions: int32[G, N], sites in scheduling order.
        worlds: leading axis G.
        key: consumed.
        draws: number of executions of each DAG.
    """
    keys = jax.random.split(key, (actions.shape[0], draws))

    def once(dag: DagArrays, sites: jax.Array, world: World, key: jax.Array) -> jax.Array:
        return result_at_ue(execution(dag, sites, world, key)).max()

    of_dag = jax.vmap(once, in_axes=(None, None, None, 0))
    return jax.vmap(of_dag)(dags, actions, worlds, keys).mean(axis=1)


@jax.jit
def descend(dags: DagArrays, actions: jax.Array, worlds: World, keys: jax.Array) -> jax.Array:
    """Improves plans on the real system until no other site of one task is better; returns the actions.

    Args:
        dags: leading axis G.
        actions: int32[G, N], where the search begins.
        worlds: leading axis G.
        keys: [E], of the executions with which every plan is measured.
    """

    def of_dag(dag: DagArrays, begin: jax.Array, world: World) -> jax.Array:
        def seconds(sites: jax.Array) -> jax.Array:
            times = jax.vmap(lambda key: result_at_ue(execution(dag, sites, world, key)).max())(keys)
            return times.mean()

        def improve(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            sites, best, _ = state
            others = jnp.where(jnp.eye(sites.shape[0], dtype=bool), 1 - sites[None], sites[None])
            reached = jax.vmap(seconds)(others)
            least = jnp.argmin(reached)
            better = reached[least] < best * (1 - 1e-6)
            return jnp.where(better, others[least], sites), jnp.minimum(best, reached[least]), better

        begin_s = seconds(begin)
        return jax.lax.while_loop(lambda state: state[2], improve, (begin, begin_s, begin_s > 0))[0]

    return jax.vmap(of_dag)(dags, actions, worlds)
