"""Methods that are configurations of `learning`, and the policy that comes of training one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, Self, overload

import jax
import numpy as np

from mrlato_jax.config import BUDGET, LearningConfig, PolicyConfig, TrainConfig
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_choice, check_number, check_type, shorten
from mrlato_jax.learning import rollout
from mrlato_jax.learning.adaptation import adapt
from mrlato_jax.learning.tasks import LearningTask, learning_task
from mrlato_jax.mec.latency import padded_size
from mrlato_jax.mec.system import System
from mrlato_jax.methods.face import Prepared, Train
from mrlato_jax.planners import Plan, placement_of, simulated_plan
from mrlato_jax.policy.seq2seq import NUM_SIDES

MODES = ("argmax",)
SPOKEN = (  # settings whose values say what they are
    "decides", "decoder_input", "neighbours", "task_features", "encoder", "matmul", "baseline", "learn_from",
    "meta_update",
)  # fmt: skip
WITHOUT_EFFECT = {"joint": ("outer_lr",)}  # settings that an outer step does not look at


@dataclasses.dataclass(frozen=True)
class LearnedMethod:
    """A method whose policy is trained.

    Attributes:
        name: as tables and `--method` have it.
        policy: the network's settings.
        learning: the learning settings.
        warm_start: how the first theta is learned from demonstrations; None where it is random.
        warm_start_iterations: for how long.
    """

    name: str
    policy: PolicyConfig = dataclasses.field(default_factory=PolicyConfig)
    learning: LearningConfig = dataclasses.field(default_factory=LearningConfig)
    warm_start: LearningConfig | None = None
    warm_start_iterations: int = 0

    def config(self, **run: Any) -> TrainConfig:
        """The settings of a training run of this method; `run` has those that no method decides (seed, ...)."""
        settings: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return TrainConfig(method=settings.pop("name"), **{**settings, **run})

    def label(self, config: TrainConfig) -> str:
        """The method's name with everything that a run's settings add to it, as its row in a table says it.

        How much is spent (iterations, rollouts, ...) is no part of it: the run's record has that. Nor is a setting
        that the run does not look at.
        """
        additions = [
            str(value) if name in SPOKEN else f"{name}={value}"
            for given, own in ((config.policy, self.policy), (config.learning, self.learning))
            for name, value in given.to_json().items()
            if name not in (*BUDGET, *WITHOUT_EFFECT.get(config.learning.meta_update, ()))
            and value != getattr(own, name)
        ]
        if config.warm_start_iterations != self.warm_start_iterations:
            additions.append(f"warm_start_iterations={config.warm_start_iterations}")
        return "+".join([self.name, *additions])

    def prepare(self, train: Train) -> Prepared:
        """The policy that `train` makes of it."""
        return train(self)


@dataclasses.dataclass(frozen=True, eq=False)
class Offloader:
    """A trained policy.

    Attributes:
        policy: the network's settings.
        params: its parameters.
        label: the method that trained it.
        iteration: how many meta-iterations did.
        learning: the learning settings, by which it adapts.
    """

    policy: PolicyConfig
    params: Any = dataclasses.field(repr=False)
    label: str
    iteration: int = 0
    learning: LearningConfig = dataclasses.field(default_factory=LearningConfig)

    @overload
    def plan(self, graph: TaskGraph, system: System, mode: str = "argmax") -> Plan: ...

    @overload
    def plan(self, graph: Sequence[TaskGraph], system: System, mode: str = "argmax") -> list[Plan]: ...

    def plan(self, graph: TaskGraph | Sequence[TaskGraph], system: System, mode: str = "argmax") -> Plan | list[Plan]:
        """Decides every task of one application, or of each of several.

        The network is compiled once for each padded size and batch size (a power of two), so a program that plans
        similar applications again and again compiles once.

        Args:
            graph: one graph or a sequence of them, any sizes.
            system: the system they run on; the further it is from the one of training, the less the plan is worth.
            mode: "argmax", the likeliest action at each step.

        Returns:
            A `Plan` for each graph, timed in float64 by the one simulator.

        Raises:
            InputError: no graph, an unknown mode, or a task with more parents or children than the policy has room for.
        """
        check_choice("mode", mode, MODES)
        check_type("system", system, System)
        if isinstance(graph, TaskGraph):
            return self.plan([graph], system, mode)[0]
        graphs = _graphs("graph", graph)
        batch = [*graphs, *[graphs[-1]] * (_power_of_two(len(graphs)) - len(graphs))]
        size = padded_size(max(entry.num_tasks for entry in graphs))
        task = learning_task(batch, system, self.policy, size)
        actions = np.asarray(_decode(self.policy, self.params, task))
        orders = np.asarray(task.dags.order)
        places = _in_order if self.policy.in_order else _free
        return [
            simulated_plan(entry, system, *places(order[: entry.num_tasks], row[: entry.num_tasks]))
            for entry, order, row in zip(graphs, orders, actions, strict=False)
        ]

    def adapt(self, graphs: TaskGraph | Sequence[TaskGraph], system: System, updates: int = 30, seed: int = 0) -> Self:
        """The policy after gradient steps on applications like the ones it is to plan.

        Args:
            graphs: one application or several, any sizes.
            system: the system they run on.
            updates: Adam steps, from a fresh optimiser; trajectories of every graph are drawn anew after each
                `learning.inner_steps` of them. 0 changes nothing.
            seed: of those draws.

        Returns:
            The adapted policy; this one stays as it is.

        Raises:
            InputError: no graph, one that the policy has no room for, or a policy that became NaN.
        """
        check_number("updates", updates, low=0, integer=True)
        check_number("seed", seed, low=0, high=2**32 - 1, integer=True)
        check_type("system", system, System)
        graphs = _graphs("graphs", [graphs] if isinstance(graphs, TaskGraph) else graphs)
        task = learning_task(graphs, system, self.policy)
        params, _ = adapt(self.policy, self.learning, self.params, task, task, updates, jax.random.key(seed))
        return dataclasses.replace(self, params=params)


def _graphs(name: str, graphs: Any) -> list[TaskGraph]:
    if not isinstance(graphs, Sequence) or not graphs:
        kind = (
            "a TaskGraph or a sequence of at least one" if name == "graph" else "a sequence of at least one TaskGraph"
        )
        raise InputError(f"{name} is {shorten(graphs)}; accepted: {kind}")
    for i, entry in enumerate(graphs):
        check_type(f"{name}[{i}]", entry, TaskGraph)
    return list(graphs)


@partial(jax.jit, static_argnames="policy")
def _decode(policy: PolicyConfig, params: Any, task: LearningTask) -> jax.Array:
    return rollout.decode_greedily(policy, params, task)[0]


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _in_order(order: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Placement and order, by task id, of a policy that places tasks in the priority order."""
    return placement_of(order, actions), order


def _free(order: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Placement and order, by task id, of a policy that also chooses the order."""
    chosen = order[actions // NUM_SIDES]
    return placement_of(chosen, actions % NUM_SIDES), chosen
