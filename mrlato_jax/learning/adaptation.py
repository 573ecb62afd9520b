"""Adaptation of a policy to a set of DAGs: gradient steps on fresh trajectories, with a measurement after each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.errors import InputError
from mrlato_jax.learning import rollout
from mrlato_jax.learning.executions import Executions
from mrlato_jax.learning.inner import adaptation_round, collected_plans, evaluations, inner_optimizer, plans
from mrlato_jax.learning.learning_task import LearningTask

MILLISECONDS = 1e3
MARKS = (0, 1, 10, 30, 100)  # numbers of updates shown in tables


@dataclasses.dataclass(frozen=True, eq=False)
class Adaptation:
    """Record of an adaptation to one set of DAGs.

    Attributes:
        latency_s_by_dag: float64[updates + 1, G], cost of each measured DAG's argmax plan after k updates in row k,
            seconds (the makespan if energy has no weight).
        sampled_s: one entry per collection, mean cost of the sampled plans, seconds.
        entropy: one entry per collection, nats per decision at its last update.
        value_explained: one entry per collection, explained variance of the value targets at its last update.
        simulator_evaluations: plans simulated for the adaptation (see `inner.evaluations`), without the measurements.
        executions: plans executed for the adaptation, where rewards are measured; 0 where they are those of the model.
    """

    latency_s_by_dag: np.ndarray
    sampled_s: list[float]
    entropy: list[float]
    value_explained: list[float]
    simulator_evaluations: int
    executions: int = 0

    @property
    def latency_s(self) -> np.ndarray:
        """float64[updates + 1], mean over the measured DAGs, seconds: entry k is L(k), the mean after k updates."""
        return self.latency_s_by_dag.mean(axis=1)


OnRound = Callable[[int, float, float], None]  # (updates done, latency in ms, entropy), after each collection


def ignore(update: int, latency_ms: float, entropy: float) -> None:
    """Does nothing; the default of `on_round`."""


@partial(jax.jit, static_argnames="network")
def _measure(network: NetworkConfig, params: Any, learning_task: LearningTask) -> jax.Array:
    return rollout.decode_greedily(network, params, learning_task)[1]


@partial(jax.jit, static_argnames="learning")
def _fresh(learning: LearningConfig, params: Any) -> optax.OptState:
    return inner_optimizer(learning).init(params)


def adapt(
    network: NetworkConfig,
    learning: LearningConfig,
    params: Any,
    learning_task: LearningTask,
    measured: LearningTask,
    updates: int,
    key: jax.Array,
    on_round: OnRound = ignore,
    executions: Executions | None = None,
) -> tuple[Any, Adaptation]:
    """Adapts `params` by `updates` Adam steps, with new trajectories every `inner_steps` steps.

    Args:
        network: the network's settings.
        learning: the learning settings (alpha, m, rollouts, ...).
        params: the meta-policy; not changed.
        learning_task: the DAGs to adapt to.
        measured: the DAGs to measure after each update.
        updates: number of Adam steps; 0 only measures.
        key: consumed.
        executions: executes the plans of each collection, if a program outside JAX measures the rewards.
        on_round: called with `(updates done, latency in ms, entropy)` after each collection.

    Returns:
        The adapted parameters and the record.

    Raises:
        InputError: the entropy or the parameters became NaN or infinite.
        Exception: what `executions` raised.
    """
    opt_state = _fresh(learning, params)
    by_dag = [np.asarray(_measure(network, params, measured))]
    sampled, entropy, explained = [], [], []
    rounds = -(-updates // learning.inner_steps)
    for index in range(rounds):
        round_key = jax.random.fold_in(key, index)
        left = updates - index * learning.inner_steps
        executed = learning_task
        if executions is not None:
            wanted = collected_plans(network, learning, params, learning_task, round_key)
            executed = learning_task._replace(real=executions.record(np.asarray(wanted)))
        params, opt_state, metrics = adaptation_round(
            network, learning, params, opt_state, executed, measured, round_key, left
        )
        metrics = jax.device_get(metrics)
        if not np.isfinite(metrics.loss.entropy):
            raise InputError(
                f"adaptation diverged: entropy is {metrics.loss.entropy} after {updates - left} of {updates} updates; "
                "accepted: finite values (try a run with a lower inner_lr)"
            )
        by_dag.extend(metrics.latencies)
        sampled.append(float(metrics.sampled_latency))
        entropy.append(float(metrics.loss.entropy))
        explained.append(float(metrics.loss.explained_variance))
        done = min((index + 1) * learning.inner_steps, updates)
        on_round(done, MILLISECONDS * float(by_dag[done].mean()), entropy[-1])
    if not np.isfinite(optax.tree.norm(params)):  # the last loss was computed before the last step
        raise InputError(
            f"adaptation diverged: parameters are not finite after {updates} updates; accepted: finite values (try a "
            "run with a lower inner_lr)"
        )
    dags, sizes = learning_task.dags, np.asarray(learning_task.dags.mask).sum(axis=-1).tolist()
    if executions is not None:
        count = executions.count
    else:
        count = rounds * sum(plans(learning, size) for size in sizes) if learning_task.real is not None else 0
    evaluated = partial(evaluations, network, learning, num_sites=dags.num_sites, channel=dags.channel)
    return params, Adaptation(
        latency_s_by_dag=np.stack(by_dag[: updates + 1]).astype(np.float64),
        sampled_s=sampled,
        entropy=entropy,
        value_explained=explained,
        simulator_evaluations=rounds * sum(evaluated(num_tasks=size) for size in sizes),
        executions=count,
    )


def marks(updates: int) -> list[int]:
    """Returns the entries of `MARKS` up to `updates`, and `updates` itself."""
    return sorted({mark for mark in MARKS if mark <= updates} | {updates})
