"""Evaluation: adapts a meta-policy to unseen applications and compares the result with planners."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import jax
import numpy as np

from mrlato_jax.config import TrainConfig
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError
from mrlato_jax.learning.adaptation import MILLISECONDS, Adaptation, OnRound, adapt, ignore, marks
from mrlato_jax.learning.learning_task import learning_task
from mrlato_jax.mec.system import System
from mrlato_jax.methods import QUICK_PLANNERS, planned_methods
from mrlato_jax.planners import optimum
from mrlato_jax.training.experiments import TestSet

Watch = Callable[[str, float], AbstractContextManager[OnRound]]


def evaluation_key(config: TrainConfig, setting_index: int) -> jax.Array:
    """Returns the random key of one test set's adaptation; independent of training and of other test sets."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 2**31 - 1), setting_index)


def baseline_latencies(graphs: Sequence[TaskGraph], system: System) -> dict[str, float]:
    """Returns the mean makespan over `graphs` of each planner in `QUICK_PLANNERS`, milliseconds, by name."""
    rows = planned_methods()
    return {
        name: MILLISECONDS * float(np.mean([plan.makespan for plan in rows[name].plan(graphs, system)]))
        for name in QUICK_PLANNERS
    }


def optimum_latency(
    graphs: Sequence[TaskGraph],
    system: System,
    time_limit_s: float,
    on_proof: Callable[[int], None] = lambda done: None,
) -> tuple[float, int]:
    """Returns the mean optimum over `graphs` in the priority order, milliseconds, and the number of unproven ones.

    Each proof has a limit of `time_limit_s` seconds. Unproven optima count with their lower bounds. After each DAG,
    `on_proof` is called with the number of finished DAGs.
    """
    plans = []
    for graph in graphs:
        plans.append(optimum(graph, system, time_limit_s=time_limit_s))
        on_proof(len(plans))
    return MILLISECONDS * float(np.mean([plan.lower_bound for plan in plans])), sum(not plan.proven for plan in plans)


@dataclasses.dataclass(frozen=True)
class AdaptationRecord:
    """An `Adaptation` in milliseconds, for records and tables.

    Attributes:
        latency_ms: [updates + 1], mean argmax-decoded makespan of the measured DAGs; entry k is L(k), after k updates.
        latency_ms_by_dag: the same for each DAG, [G], by number of updates: those of `MARKS` and the last.
        sampled_ms: one entry per collection, mean makespan of the sampled trajectories.
        entropy, value_explained, simulator_evaluations: as in `Adaptation`.
    """

    latency_ms: list[float]
    latency_ms_by_dag: dict[int, list[float]]
    sampled_ms: list[float]
    entropy: list[float]
    value_explained: list[float]
    simulator_evaluations: int

    @classmethod
    def of(cls, adaptation: Adaptation) -> Self:
        """Makes the record of an adaptation."""
        latencies = MILLISECONDS * adaptation.latency_s_by_dag
        return cls(
            latency_ms=latencies.mean(axis=1).tolist(),
            latency_ms_by_dag={mark: np.round(latencies[mark], 3).tolist() for mark in marks(len(latencies) - 1)},
            sampled_ms=[MILLISECONDS * value for value in adaptation.sampled_s],
            entropy=adaptation.entropy,
            value_explained=adaptation.value_explained,
            simulator_evaluations=adaptation.simulator_evaluations,
        )


@dataclasses.dataclass(frozen=True)
class SetResult:
    """All results on one test set.

    Attributes:
        setting: name of the test set.
        baselines_ms: mean latencies by the names of `QUICK_PLANNERS`.
        adaptation: adaptation to and measurement on all DAGs, the paper's protocol.
        held_out: adaptation to the first half and measurement on the second; None if not requested.
        held_out_baselines_ms: `baselines_ms` of the second half.
        optimum_ms: mean optimum in the priority order, unproven ones with their lower bound; None if not requested.
        unproven: number of unproven optima.
    """

    setting: str
    baselines_ms: dict[str, float]
    adaptation: AdaptationRecord
    held_out: AdaptationRecord | None = None
    held_out_baselines_ms: dict[str, float] | None = None
    optimum_ms: float | None = None
    unproven: int = 0


def adapt_to_all(
    config: TrainConfig, params: Any, test_set: TestSet, index: int, updates: int, on_round: OnRound = ignore
) -> AdaptationRecord:
    """Adapts to and measures on all DAGs of a test set, as in the paper; arguments as in `evaluate_set`."""
    task = learning_task(test_set.graphs, test_set.system, config.network)
    key, _ = jax.random.split(evaluation_key(config, index))
    return AdaptationRecord.of(adapt(config.network, config.learning, params, task, task, updates, key, on_round)[1])


def adapt_to_half(
    config: TrainConfig, params: Any, test_set: TestSet, index: int, updates: int, on_round: OnRound = ignore
) -> AdaptationRecord:
    """Adapts to the first half of a test set's DAGs and measures on the second; arguments as in `evaluate_set`.

    Raises:
        InputError: the test set has a single DAG.
    """
    _check_halves(test_set)
    half, size = len(test_set.graphs) // 2, max(graph.num_tasks for graph in test_set.graphs)
    first, second = (
        learning_task(graphs, test_set.system, config.network, size)
        for graphs in (test_set.graphs[:half], test_set.graphs[half:])
    )
    _, key = jax.random.split(evaluation_key(config, index))
    return AdaptationRecord.of(adapt(config.network, config.learning, params, first, second, updates, key, on_round)[1])


def evaluate_set(
    config: TrainConfig,
    params: Any,
    test_set: TestSet,
    index: int,
    updates: int,
    *,
    held_out: bool = False,
    watch: Watch = lambda name, heft_ms: nullcontext(ignore),
) -> SetResult:
    """Evaluates a meta-policy on one test set.

    Args:
        config: settings of the run that trained `params`.
        params: the meta-policy.
        test_set: the test set to adapt to.
        index: index of the test set in its experiment, which determines its random key.
        updates: number of Adam steps.
        held_out: also adapt to half of the DAGs and measure on the other half.
        watch: called before each adaptation with its name and the mean latency of the measured DAGs' HEFT-based plans.
            Returns the context of the adaptation, which yields the argument `on_round` of `adapt`.

    Raises:
        InputError: the policy cannot take a DAG, or a single DAG would have to be halved.
    """
    if held_out:
        _check_halves(test_set)
    baselines = baseline_latencies(test_set.graphs, test_set.system)
    with watch(test_set.name, baselines["HEFT-based"]) as on_round:
        adaptation = adapt_to_all(config, params, test_set, index, updates, on_round)
    if not held_out:
        return SetResult(test_set.name, baselines, adaptation)
    half_baselines = baseline_latencies(test_set.graphs[len(test_set.graphs) // 2 :], test_set.system)
    with watch(f"{test_set.name}, held out", half_baselines["HEFT-based"]) as on_round:
        halves = adapt_to_half(config, params, test_set, index, updates, on_round)
    return SetResult(test_set.name, baselines, adaptation, halves, half_baselines)


def _check_halves(test_set: TestSet) -> None:
    if len(test_set.graphs) < 2:
        raise InputError(
            f"held_out is true, but set {test_set.name} has 1 DAG; accepted: at least 2, or held_out false"
        )
