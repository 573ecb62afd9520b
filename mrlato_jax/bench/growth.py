"""Growth of the cost with the number of tasks, DAGs, rollouts, learning tasks and devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mrlato_jax.bench.fresh import run_fresh, written_workload
from mrlato_jax.bench.iteration import (
    ONE_DEVICE,
    Workload,
    compile_iteration,
    iteration_seconds,
    prepare,
)
from mrlato_jax.bench.planning import decode_seconds
from mrlato_jax.bench.simulator import makespan_seconds
from mrlato_jax.bench.timing import Tick, quiet, random_graphs
from mrlato_jax.config import ExecutionConfig, NetworkConfig
from mrlato_jax.learning import devices, rollout

# Pooled neighbours, since no list is wide enough for DAGs of 1000 tasks.
BASE = Workload(meta_batch=1, graphs=10, rollouts=10, num_tasks=50, network=NetworkConfig(neighbours="pooled"))
"""The common point of all axes; each axis changes one field."""

DEVICES = "devices"  # the axis that is not a field of `Workload`; all its points have SHARED learning tasks
SHARED = 8

AXES: dict[str, tuple[int, ...]] = {
    "num_tasks": (10, 50, 200),
    "graphs": (10, 100),
    "rollouts": (10, 100),
    "meta_batch": (1, 8),
    DEVICES: (1, 2),
}
FULL_AXES: dict[str, tuple[int, ...]] = {
    "num_tasks": (10, 20, 50, 100, 200, 500, 1000),
    "graphs": (1, 10, 100, 300, 1000, 10_000),
    "rollouts": (1, 3, 10, 30, 100, 300),
    "meta_batch": (1, 2, 4, 8, 16, 32),
    DEVICES: (1, 2, 4, 8),
}
_ALSO_WITHOUT_LEARNING = ("num_tasks", "graphs")  # axes that also apply to the simulator and the planner
_MOST_DECISIONS = 250_000  # limit for one measured iteration; beyond it, memory would dominate the time


def axes(full: bool) -> dict[str, tuple[int, ...]]:
    """Returns the default axes, or all with `full`, with at most the available devices (or cores)."""
    chosen = FULL_AXES if full else AXES
    most = devices.cores() if jax.default_backend() == "cpu" else jax.device_count()
    return {**chosen, DEVICES: tuple(count for count in chosen[DEVICES] if count <= most)}


def growth(
    axes: Mapping[str, Sequence[int]] = AXES, base: Workload = BASE, tick: Tick = quiet
) -> dict[str, dict[str, Any]]:
    """Measures the seconds of one simulation, one argmax decoding and one meta-iteration along each axis.

    Args:
        axes: values of each varied field of `Workload`, with all other fields as in `base`; and numbers of devices.
        base: the common point of the axes.
        tick: shows progress.

    Returns:
        For each axis and value, `training_seconds` of one meta-iteration, and on axes about DAGs `simulator_seconds`
        and `planning_seconds` of all `graphs` DAGs together. Also `base`, the sizes of the common point.
    """
    points = [(axis, value) for axis, values in axes.items() for value in values]
    trained: dict[Workload, float] = {}  # the axes have a common point
    figures: dict[str, dict[str, Any]] = {axis: {} for axis in axes}
    figures["base"] = {**base.sizes(), "meta_batch_on_devices": SHARED}
    for done, (axis, value) in enumerate(points):
        tick(done, len(points), f"{axis} {value}")
        row = figures[axis].setdefault(str(value), {})
        if axis == DEVICES:
            row["training_seconds"] = seconds_on_devices(dataclasses.replace(base, meta_batch=SHARED), value)
            continue
        workload = _at(base, axis, value)
        if axis in _ALSO_WITHOUT_LEARNING:
            row |= without_learning(workload)
        if workload.decisions <= _MOST_DECISIONS:
            if workload not in trained:
                trained[workload] = training_seconds(workload)
            row["training_seconds"] = trained[workload]
    return figures


def _at(base: Workload, axis: str, value: int) -> Workload:
    changed: dict[str, Any] = {axis: value}
    return dataclasses.replace(base, **changed)


def without_learning(workload: Workload) -> dict[str, float]:
    """Measures the seconds to simulate one plan of each DAG, and to plan all DAGs."""
    graphs = random_graphs(workload.graphs, workload.num_tasks, seed=0)
    params = rollout.init_params(workload.network, jax.random.key(0))
    calls = max(1, min(50, 50_000 // (workload.graphs * workload.num_tasks)))
    return {
        "simulator_seconds": makespan_seconds(graphs, repeats=5, calls=calls),
        "planning_seconds": decode_seconds(workload.network, params, graphs, repeats=3),
    }


def training_seconds(workload: Workload, execution: ExecutionConfig = ONE_DEVICE) -> float:
    """Measures the seconds of one meta-iteration without compilation."""
    prepared = prepare(workload, execution)
    return iteration_seconds(compile_iteration(prepared), prepared.states, repeats=3)


_ON_CORES = """
import json, os, sys
count = int(os.environ["JAX_NUM_CPU_DEVICES"])
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
from mrlato_jax.config import ExecutionConfig
from mrlato_jax.bench import fresh, growth
from mrlato_jax.learning import devices
devices.use_cores()
workload = fresh.read_workload(sys.argv[1])
"""
_MEASURE = """
seconds = growth.training_seconds(workload, ExecutionConfig(num_devices=count))
print(json.dumps({"seconds": seconds}))
"""


def seconds_on_devices(workload: Workload, count: int) -> float:
    """Measures `training_seconds` on `count` devices; without accelerators, on the cores of a separate process.

    If the system supports it, that process is bound to `count` cores.
    """
    if jax.default_backend() != "cpu":
        return training_seconds(workload, ExecutionConfig(num_devices=count))
    return run_fresh(_ON_CORES + _MEASURE, written_workload(workload), {"JAX_NUM_CPU_DEVICES": str(count)})["seconds"]
