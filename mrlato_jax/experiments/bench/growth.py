"""How cost grows with the number of tasks, DAGs, rollouts, learning tasks and devices."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mrlato_jax.experiments.bench.iteration import (
    Workload,
    compile_iteration,
    iteration_seconds,
    prepare,
    wide_enough,
)
from mrlato_jax.experiments.bench.planning import decode_seconds
from mrlato_jax.experiments.bench.simulator import makespan_seconds
from mrlato_jax.experiments.bench.timing import Tick, quiet, random_graphs
from mrlato_jax.learning import rollout

BASE = Workload(meta_batch=1, graphs=10, rollouts=10, num_tasks=50)
"""Where all axes meet; each axis changes one of its fields."""

AXES: dict[str, tuple[int, ...]] = {
    "num_tasks": (10, 50, 200),
    "graphs": (1, 10, 100),
    "rollouts": (1, 10, 100),
    "meta_batch": (1, 8),
}
FULL_AXES: dict[str, tuple[int, ...]] = {
    "num_tasks": (10, 20, 50, 100, 200, 500, 1000),
    "graphs": (1, 10, 100, 1000, 10_000),
    "rollouts": (1, 10, 100, 1000),
    "meta_batch": (1, 2, 4, 8, 16, 32),
}
_ALSO_WITHOUT_LEARNING = ("num_tasks", "graphs")  # axes that the simulator and the planner have too
_MOST_DECISIONS = 250_000  # in one measured iteration; beyond, its memory is the measurement


def growth(
    axes: Mapping[str, Sequence[int]] = AXES, base: Workload = BASE, tick: Tick = quiet
) -> dict[str, dict[str, Any]]:
    """Seconds of one simulation, one argmax decoding and one meta-iteration, along each axis.

    Args:
        axes: values of each field of `Workload` that is varied, the others as in `base`.
        base: where the axes meet.
        tick: shows progress.

    Returns:
        For each axis, for each value, `simulator_seconds` and `planning_seconds` (of `graphs` DAGs together, where the
        axis is one of DAGs) and `training_seconds` (of one meta-iteration).
    """
    points = {axis: [_at(base, axis, value) for value in values] for axis, values in axes.items()}
    total, done = sum(map(len, points.values())), 0
    trained: dict[Workload, float] = {}  # the axes share a point
    figures: dict[str, dict[str, Any]] = {"base": base.sizes()}
    for axis, workloads in points.items():
        figures[axis] = {}
        for workload in workloads:
            value = getattr(workload, axis)
            tick(done, total, f"{axis} {value}")
            done += 1
            row = without_learning(workload) if axis in _ALSO_WITHOUT_LEARNING else {}
            if workload.decisions <= _MOST_DECISIONS:
                if workload not in trained:
                    trained[workload] = _training_seconds(workload)
                row["training_seconds"] = trained[workload]
            figures[axis][str(value)] = row
    return figures


def _at(base: Workload, axis: str, value: int) -> Workload:
    changed: dict[str, Any] = {axis: value}
    return dataclasses.replace(base, **changed)


def without_learning(workload: Workload) -> dict[str, float]:
    """Seconds of simulating a plan of each DAG, and of planning them."""
    graphs = random_graphs(workload.graphs, workload.num_tasks, seed=0)
    policy = wide_enough(workload.policy, graphs)
    params = rollout.init_params(policy, jax.random.key(0))
    calls = max(1, min(50, 50_000 // (workload.graphs * workload.num_tasks)))
    return {
        "simulator_seconds": makespan_seconds(graphs, repeats=5, calls=calls),
        "planning_seconds": decode_seconds(policy, params, graphs, repeats=3),
    }


def _training_seconds(workload: Workload) -> float:
    prepared = prepare(workload)
    return iteration_seconds(compile_iteration(prepared), prepared.state, repeats=3)[0]


def over_devices(counts: Sequence[int], command: Sequence[str]) -> dict[str, dict[str, float]]:
    """Runs `command` once for each number of devices, which the host's cores stand in for.

    Args:
        counts: numbers of devices.
        command: a program whose last line of output is a JSON object of figures.

    Returns:
        For each count, the figures.
    """
    figures = {}
    for count in counts:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}".strip()
        ran = subprocess.run(
            command, env={**os.environ, "XLA_FLAGS": flags}, stdout=subprocess.PIPE, text=True, check=True
        )
        figures[str(count)] = json.loads(ran.stdout.splitlines()[-1])
    return figures
