"""How fast the machine runs the parts that matter, each with the machine's own matmul rate read in the same run."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.config import LearningConfig, PolicyConfig
from mrlato_jax.dag.daggen import daggen
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.learning.outer import TaskPool, init_state, meta_iteration
from mrlato_jax.learning.tasks import learning_task, stack
from mrlato_jax.mec.arrays import pack
from mrlato_jax.mec.latency import makespan
from mrlato_jax.mec.system import System


def matmul() -> dict[str, float]:
    """Rate of float32 matrix products of 1000 x 256 by 256 x 512, the shape of a decoder step."""
    left, right = jnp.ones((1000, 256)), jnp.ones((256, 512))
    multiply = jax.jit(jnp.matmul)
    seconds = _best(lambda: multiply(left, right), repeats=30, calls=20)
    return {"gflop_per_second": 2e-9 * 1000 * 256 * 512 / seconds}


def simulator(batch: int = 1000, num_tasks: int = 20) -> dict[str, float]:
    """Rate of `makespan`: a fresh placement of every DAG each call, real tasks counted, the result awaited."""
    graphs = _graphs(batch, num_tasks, seed=0)
    arrays = jax.tree.map(jnp.asarray, pack(graphs, System()))
    rng = np.random.default_rng(1)
    placements = iter([rng.integers(0, 2, (batch, num_tasks), np.int32) for _ in range(10 * 50 + 1)])
    seconds = _best(lambda: makespan(arrays, next(placements)), repeats=10, calls=50)
    return {"batch": batch, "num_tasks": num_tasks, "task_steps_per_second": batch * num_tasks / seconds}


def iteration(meta_batch: int = 10, graphs: int = 100, rollouts: int = 10, num_tasks: int = 20) -> dict[str, float]:
    """One meta-iteration of MRLCO's workload with our policy at Table I size: one collection, one gradient step."""
    policy = PolicyConfig()
    learning = LearningConfig(inner_steps=1, meta_batch=meta_batch, graphs_per_task=graphs, rollouts=rollouts)
    sets = [learning_task(_graphs(graphs, num_tasks, seed), System(), policy) for seed in range(meta_batch)]
    pool = TaskPool(jax.tree.map(lambda leaf: leaf[:, None], stack(sets)), (num_tasks,) * meta_batch)
    state = init_state(policy, learning, seed=0)
    started = time.perf_counter()
    compiled = meta_iteration.lower(policy, learning, state, pool).compile()
    compile_seconds = time.perf_counter() - started
    times = []
    for _ in range(3):
        started = time.perf_counter()
        state, metrics = compiled(state, pool)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - started)
    return {
        "meta_batch": meta_batch,
        "graphs": graphs,
        "rollouts": rollouts,
        "num_tasks": num_tasks,
        "seconds": min(times),
        "compile_seconds": compile_seconds,
    }


SECTIONS: dict[str, Callable[[], dict[str, float]]] = {
    "matmul": matmul,
    "simulator": simulator,
    "meta_iteration": iteration,
}


def environment() -> dict[str, Any]:
    """The device, the cores that this process may use, and its largest memory so far."""
    device = jax.devices()[0]
    in_bytes = 1 if sys.platform == "darwin" else 1024
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "jax": jax.__version__,
        "peak_memory_gb": 1e-9 * in_bytes * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def _graphs(count: int, num_tasks: int, seed: int) -> list[TaskGraph]:
    rng = np.random.default_rng(seed)
    return [daggen(num_tasks=num_tasks, fat=0.6, density=0.6, rng=rng) for _ in range(count)]


def _best(call: Callable[[], jax.Array], repeats: int, calls: int) -> float:
    """Seconds a call, compilation apart: the fastest of `repeats` means over `calls`."""
    call().block_until_ready()
    means = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(calls):
            call().block_until_ready()
        means.append((time.perf_counter() - started) / calls)
    return min(means)
