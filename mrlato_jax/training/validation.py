"""Validation during training: the policy's gap to the optimum on DAGs not used for training, over training time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from mrlato_jax.config import NetworkConfig
from mrlato_jax.dag.dataset import DagDataset
from mrlato_jax.errors import check_number
from mrlato_jax.learning import rollout
from mrlato_jax.learning.devices import drop_programs
from mrlato_jax.learning.learning_task import LearningTask, learning_task, stack_alike
from mrlato_jax.planners import optimum
from mrlato_jax.progress import Progress
from mrlato_jax.training.experiments import TestSet, by_kind, kind_of, validation_sets


@dataclasses.dataclass(frozen=True)
class ValidationSet:
    """Fresh DAGs of an experiment's training families (`validation_sets`), with their mean optimum.

    Attributes:
        test_sets: the DAGs and their systems.
        optimum_s: mean cost of the optima in the priority order, seconds; unproven ones count with their lower bound.
        unproven: number of unproven optima.
    """

    test_sets: tuple[TestSet, ...]
    optimum_s: float
    unproven: int


def validation_set(
    dataset: DagDataset, channel: str, graphs_per_setting: int, time_limit_s: float = 2.0
) -> ValidationSet:
    """Draws the DAGs and proves their optima; shows progress.

    Args:
        dataset: data set of the experiment.
        channel: channel rules.
        graphs_per_setting: number of DAGs of each family (in Experiment 3, at each rate).
        time_limit_s: time limit of each proof, seconds.

    Raises:
        InputError: a number is out of range, or the data set was not drawn by this package.
    """
    check_number("validate", graphs_per_setting, low=1, high=dataset.graphs_per_set, integer=True)
    test_sets = [
        dataclasses.replace(test_set, graphs=test_set.graphs[:graphs_per_setting])
        for test_set in validation_sets(dataset, channel)
    ]
    plans = []
    with Progress(len(test_sets), "optima to validate by") as progress:
        for number, test_set in enumerate(test_sets, start=1):
            if number > 1 and kind_of(test_set.system) != kind_of(test_sets[number - 2].system):
                drop_programs()  # of other kinds of systems
            prove = partial(optimum, system=test_set.system, time_limit_s=time_limit_s, objective=test_set.objective)
            plans += [prove(graph) for graph in test_set.graphs]
            progress.update(number, set=test_set.name)
        unproven = sum(not plan.proven for plan in plans)
        if unproven:
            progress.print(
                f"{unproven} of {len(plans)} optima, not proven in {time_limit_s:g} s, count with their lower bounds"
            )
    return ValidationSet(tuple(test_sets), float(np.mean([plan.lower_bound for plan in plans])), unproven)


class Validation:
    """Measures policies of one network on a validation set; its clock excludes the time of measurements."""

    def __init__(
        self, chosen: ValidationSet, network: NetworkConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Starts the clock.

        Args:
            chosen: the validation set.
            network: settings of the network whose parameters are measured.
            clock: monotonic clock, seconds.
        """
        began = clock()
        size = max(graph.num_tasks for test_set in chosen.test_sets for graph in test_set.graphs)

        def encoded(test_set: TestSet) -> LearningTask:
            return learning_task(test_set.graphs, test_set.system, network, size, test_set.objective)

        kinds = by_kind(chosen.test_sets, lambda test_set: test_set.system)
        self._tasks = [_joined([encoded(test_set) for test_set in alike]) for alike in kinds]
        self._optimum_s, self._policy, self._clock = chosen.optimum_s, network, clock
        self._started, self._measuring, self._before = began, clock() - began, 0.0

    def gap(self, params: Any) -> float:
        """Returns the mean cost of argmax decoding over the mean optimum, minus 1."""
        began = self._clock()
        costs = [np.asarray(_decoded(self._policy, params, task), np.float64) for task in self._tasks]
        gap = float(np.concatenate(costs).mean()) / self._optimum_s - 1
        self._measuring += self._clock() - began
        return gap

    @property
    def seconds(self) -> float:
        """Returns the seconds of training, including earlier sessions, without the time of measurements."""
        return self._before + self._clock() - self._started - self._measuring

    def go_on_from(self, seconds: float) -> None:
        """Adds the `seconds` that earlier sessions needed up to the checkpoint from which training continues."""
        self._before = max(self._before, seconds)


def _joined(tasks: list[LearningTask]) -> LearningTask:
    """Joins the DAGs of learning tasks of one kind of system into one learning task."""
    joined = stack_alike(tasks)
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:]), joined)


@partial(jax.jit, static_argnames="network")
def _decoded(network: NetworkConfig, params: Any, task: LearningTask) -> jax.Array:
    return rollout.decode_greedily(network, params, task)[1]
