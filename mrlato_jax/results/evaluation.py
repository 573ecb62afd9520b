"""Adapting a meta-policy to applications it has never seen, and what it is compared with."""

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
    """The key of one test set's adaptation: apart from those of training, the same whatever else is evaluated."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 2**31 - 1), setting_index)


def baseline_latencies(graphs: Sequence[TaskGraph], system: System) -> dict[str, float]:
    """Mean makespan of each unlearned plan over `graphs`, milliseconds, by the names of `QUICK_PLANNERS`."""
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
    """Mean optimum over `graphs` in the priority order, milliseconds, and how many of them are not proven.

    Each proof may take `time_limit_s` seconds; those that are not proven count at their lower bounds. `on_proof` is
    told after each DAG how many are done.
    """
    plans = []
    for graph in graphs:
        plans.append(optimum(graph, system, time_limit_s=time_limit_s))
        on_proof(len(plans))
    return MILLISECONDS * float(np.mean([plan.lower_bound for plan in plans])), sum(not plan.proven for plan in plans)


@dataclasses.dataclass(frozen=True)
class AdaptationRecord:
    """An `Adaptation` as records and tables have it, in milliseconds.

    Attributes:
        latency_ms: [updates + 1], mean argmax-decoded makespan of the measured DAGs: entry k is L(k), after k updates.
        latency_ms_by_dag: the same for each DAG, [G], after as many updates as its key in `MARKS` says, and at the end.
        sampled_ms: one entry a collection, mean makespan of the sampled trajectories.
        entropy, value_explained, simulator_evaluations: as `Adaptation` has them.
    """

    latency_ms: list[float]
    latency_ms_by_dag: dict[int, list[float]]
    sampled_ms: list[float]
    entropy: list[float]
    value_explained: list[float]
    simulator_evaluations: int

    @classmethod
    def of(cls, adaptation: Adaptation) -> Self:
        """The record of an adaptation."""
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
    """Everything measured on one test set.

    Attributes:
        setting: its name.
        baselines_ms: by the names of `QUICK_PLANNERS`.
        adaptation: adapting to and measuring on all of its DAGs, the paper's protocol.
        held_out: adapting to the first half and measuring on the second; None where that was not asked for.
        held_out_baselines_ms: `baselines_ms` of that second half.
        optimum_ms: mean optimum in the priority order, an unproven one at its lower bound; None where not asked for.
        unproven: how many of those are not proven.
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
    """Adapts to and measures on all DAGs of a test set, as the paper does; arguments as `evaluate_set`."""
    task = learning_task(test_set.graphs, test_set.system, config.network)
    key, _ = jax.random.split(evaluation_key(config, index))
    return AdaptationRecord.of(adapt(config.network, config.learning, params, task, task, updates, key, on_round)[1])


def adapt_to_half(
    config: TrainConfig, params: Any, test_set: TestSet, index: int, updates: int, on_round: OnRound = ignore
) -> AdaptationRecord:
    """Adapts to the first half of a test set's DAGs and measures on the second; arguments as `evaluate_set`.

    Raises:
        InputError: a single DAG.
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
    """Measures one test set.

    Args:
        config: of the run that trained `params`.
        params: the meta-policy.
        test_set: what to adapt to.
        index: the test set's place among its experiment's, which gives its random key.
        updates: Adam steps.
        held_out: also adapt to half of the DAGs and measure on the other half.
        watch: called before each adaptation with its name and the mean latency of the measured DAGs' HEFT-based plans;
            gives the context in which it runs and the `on_round` that `adapt` is given.

    Raises:
        InputError: a DAG that the policy has no room for, or a single DAG to be halved.
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
