"""Inference for other programs: a trained policy that plans applications.

policy = load_offloader("runs/20260101-120000-exp2-mrlato")
plan = policy.plan(graph, system)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import jax
import numpy as np

from mrlato_jax.config import PolicyConfig
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_choice, check_type, shorten
from mrlato_jax.experiments import checkpoint
from mrlato_jax.experiments.run_folder import RunFolder, checkpoint_meta
from mrlato_jax.learning import rollout
from mrlato_jax.learning.tasks import LearningTask, learning_task
from mrlato_jax.mec.latency import padded_size
from mrlato_jax.mec.system import System
from mrlato_jax.planners import Plan, placement_of, simulated_plan

MODES = ("argmax",)


@dataclasses.dataclass(frozen=True, eq=False)
class Offloader:
    """A trained policy.

    Attributes:
        policy: the network's settings.
        params: its parameters.
        label: the method that trained it.
        iteration: how many meta-iterations did.
    """

    policy: PolicyConfig
    params: Any = dataclasses.field(repr=False)
    label: str
    iteration: int = 0

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
        if not isinstance(graph, Sequence) or not graph:
            raise InputError(f"graph is {shorten(graph)}; accepted: a TaskGraph or a sequence of at least one")
        graphs = list(graph)
        for i, entry in enumerate(graphs):
            check_type(f"graph[{i}]", entry, TaskGraph)
        batch = [*graphs, *[graphs[-1]] * (_power_of_two(len(graphs)) - len(graphs))]
        size = padded_size(max(entry.num_tasks for entry in graphs))
        task = learning_task(batch, system, self.policy, size)
        actions = np.asarray(_decode(self.policy, self.params, task))
        orders = np.asarray(task.dags.order)
        return [_plan(entry, system, *rows) for entry, *rows in zip(graphs, orders, actions, strict=False)]


def load_offloader(source: str | Path) -> Offloader:
    """A policy that plans, from the newest whole checkpoint of a run.

    Args:
        source: a run folder, as `launch/meta_train.py` leaves it.

    Raises:
        InputError: no run there, no whole checkpoint in it, or one of other settings or data.
    """
    if not isinstance(source, (str, Path)):
        raise InputError(f"source is {shorten(source)}; accepted: the path of a run folder")
    run = RunFolder.open(Path(source))
    found = checkpoint.read_params(run.checkpoints)
    config = run.config
    differences = checkpoint.differing_fields(found.meta, checkpoint_meta(config, run.record["data_hash"]))
    if differences:
        raise InputError(
            f"{run.checkpoints} was saved under other settings than config.json: {'; '.join(differences)}; accepted: a "
            "run folder as it was written"
        )
    params = jax.tree.map(jax.numpy.asarray, found.tree)
    return Offloader(config.policy, params, config.label, found.step)


@partial(jax.jit, static_argnames="policy")
def _decode(policy: PolicyConfig, params: Any, task: LearningTask) -> jax.Array:
    return rollout.decode_greedily(policy, params, task)[0]


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def _plan(graph: TaskGraph, system: System, order: np.ndarray, actions: np.ndarray) -> Plan:
    order = order[: graph.num_tasks]
    return simulated_plan(graph, system, placement_of(order, actions), order)
