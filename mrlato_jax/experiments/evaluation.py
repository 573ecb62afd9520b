"""Adapting a meta-policy to applications it has never seen, and what it is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import jax
import numpy as np

from mrlato_jax.config import LearningConfig, PolicyConfig, TrainConfig
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError
from mrlato_jax.experiments.settings import TestSetting
from mrlato_jax.learning import rollout
from mrlato_jax.learning.inner import adaptation_round, inner_optimizer
from mrlato_jax.learning.tasks import LearningTask, learning_task
from mrlato_jax.mec.system import System
from mrlato_jax.planners import baselines

MILLISECONDS = 1e3
MARKS = (0, 1, 10, 30, 100)  # numbers of updates that tables show
BASELINES = tuple(baselines(np.random.default_rng(0)))


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """What adapting to one set of DAGs did.

    Attributes:
        latency_ms: [updates + 1], mean argmax-decoded makespan of the measured DAGs: entry k is L(k), after k updates.
        latency_ms_by_dag: the same for each DAG, [G], after as many updates as its key in `MARKS` says, and at the end.
        sampled_ms: one entry a collection, mean makespan of the sampled trajectories.
        entropy: one entry a collection, nats per decision at its last update.
        value_explained: one entry a collection, variance of the value targets explained at its last update.
        simulator_evaluations: trajectories simulated to adapt (the measuring not counted).
    """

    latency_ms: list[float]
    latency_ms_by_dag: dict[int, list[float]]
    sampled_ms: list[float]
    entropy: list[float]
    value_explained: list[float]
    simulator_evaluations: int


OnRound = Callable[[int, float, float], None]  # (updates done, latency in ms, entropy), after each collection
Watch = Callable[[str, float], AbstractContextManager[OnRound]]


def _ignore(update: int, latency_ms: float, entropy: float) -> None:
    pass


@partial(jax.jit, static_argnames="policy")
def _measure(policy: PolicyConfig, params: Any, task: LearningTask) -> jax.Array:
    return rollout.decode_greedily(policy, params, task)[1]


def adapt(
    policy: PolicyConfig,
    learning: LearningConfig,
    params: Any,
    task: LearningTask,
    measured: LearningTask,
    updates: int,
    key: jax.Array,
    on_round: OnRound = _ignore,
) -> tuple[Any, Adaptation]:
    """Adapts from `params` by `updates` Adam steps, trajectories resampled every `inner_steps` of them.

    Args:
        policy: the network's settings.
        learning: the learning settings (alpha, m, rollouts, ...).
        params: the meta-policy; kept.
        task: the DAGs adapted to.
        measured: the DAGs measured after each update.
        updates: how many; 0 only measures.
        key: consumed.
        on_round: told `(updates done, latency in ms, entropy)` after each collection.

    Returns:
        The adapted parameters and the record.

    Raises:
        InputError: the policy became NaN.
    """
    opt_state = inner_optimizer(learning).init(params)
    by_dag = [np.asarray(_measure(policy, params, measured))]
    sampled, entropy, explained = [], [], []
    rounds = -(-updates // learning.inner_steps)
    for index in range(rounds):
        round_key = jax.random.fold_in(key, index)
        left = updates - index * learning.inner_steps
        params, opt_state, metrics = adaptation_round(
            policy, learning, params, opt_state, task, measured, round_key, left
        )
        metrics = jax.device_get(metrics)
        if not np.isfinite(metrics.loss.entropy):
            raise InputError(
                f"adaptation diverged: entropy is {metrics.loss.entropy} after {updates - left} of {updates} updates; "
                "accepted: finite values (try a run with a lower inner_lr)"
            )
        by_dag.extend(metrics.latencies)
        sampled.append(MILLISECONDS * float(metrics.sampled_latency))
        entropy.append(float(metrics.loss.entropy))
        explained.append(float(metrics.loss.explained_variance))
        done = min((index + 1) * learning.inner_steps, updates)
        on_round(done, MILLISECONDS * float(by_dag[done].mean()), entropy[-1])
    latencies = MILLISECONDS * np.stack(by_dag[: updates + 1]).astype(np.float64)
    return params, Adaptation(
        latency_ms=latencies.mean(axis=1).tolist(),
        latency_ms_by_dag={mark: np.round(latencies[mark], 3).tolist() for mark in marks(updates)},
        sampled_ms=sampled,
        entropy=entropy,
        value_explained=explained,
        simulator_evaluations=rounds * task.num_graphs * learning.rollouts,
    )


def marks(updates: int) -> list[int]:
    """Those of `MARKS` that `updates` reaches, and `updates` itself."""
    return sorted({mark for mark in MARKS if mark <= updates} | {updates})


def evaluation_key(config: TrainConfig, setting_index: int) -> jax.Array:
    """The key of one setting's adaptation: apart from those of training, the same whatever else is evaluated."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(config.seed), 2**31 - 1), setting_index)


def baseline_latencies(graphs: Sequence[TaskGraph], system: System, seed: int) -> dict[str, float]:
    """Mean makespan of each unlearned plan over `graphs`, milliseconds, by the names of `BASELINES`."""
    return {
        name: MILLISECONDS * float(np.mean([planner(graph, system).makespan for graph in graphs]))
        for name, planner in baselines(np.random.default_rng(seed)).items()
    }


@dataclasses.dataclass(frozen=True)
class SettingResult:
    """Everything measured on one setting.

    Attributes:
        setting: its name.
        baselines_ms: by the names of `BASELINES`.
        adaptation: adapting to and measuring on all of its DAGs, the paper's protocol.
        held_out: adapting to the first half and measuring on the second; None where that was not asked for.
        held_out_baselines_ms: `baselines_ms` of that second half.
    """

    setting: str
    baselines_ms: dict[str, float]
    adaptation: Adaptation
    held_out: Adaptation | None = None
    held_out_baselines_ms: dict[str, float] | None = None


def evaluate_setting(
    config: TrainConfig,
    params: Any,
    setting: TestSetting,
    index: int,
    updates: int,
    *,
    held_out: bool = False,
    watch: Watch = lambda name, heft_ms: nullcontext(_ignore),
) -> SettingResult:
    """Measures one setting.

    Args:
        config: of the run that trained `params`.
        params: the meta-policy.
        setting: what to adapt to.
        index: the setting's place among its experiment's, which gives its random key.
        updates: Adam steps.
        held_out: also adapt to half of the DAGs and measure on the other half.
        watch: called before each adaptation with its name and the mean latency of the measured DAGs' HEFT-based plans;
            gives the context in which it runs and the `on_round` that `adapt` is given.

    Raises:
        InputError: a DAG that the policy has no room for, or a single DAG to be halved.
    """
    if held_out and len(setting.graphs) < 2:
        raise InputError(f"held_out is true, but set {setting.name} has 1 DAG; accepted: at least 2, or held_out false")
    task = learning_task(setting.graphs, setting.system, config.policy)
    key, other_key = jax.random.split(evaluation_key(config, index))
    baselines = baseline_latencies(setting.graphs, setting.system, seed=index)
    with watch(setting.name, baselines["HEFT-based"]) as on_round:
        _, adaptation = adapt(config.policy, config.learning, params, task, task, updates, key, on_round)
    if not held_out:
        return SettingResult(setting.name, baselines, adaptation)
    half, size = len(setting.graphs) // 2, task.num_positions
    first = learning_task(setting.graphs[:half], setting.system, config.policy, size)
    second = learning_task(setting.graphs[half:], setting.system, config.policy, size)
    half_baselines = baseline_latencies(setting.graphs[half:], setting.system, index)
    with watch(f"{setting.name}, held out", half_baselines["HEFT-based"]) as on_round:
        _, halves = adapt(config.policy, config.learning, params, first, second, updates, other_key, on_round)
    return SettingResult(setting.name, baselines, adaptation, halves, half_baselines)
