"""A meta-iteration: whole, and split into the parts of Algorithm 1."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mrlato_jax.bench import flops
from mrlato_jax.bench.parts import parts_of
from mrlato_jax.bench.timing import Tick, best, matmul_peak, quiet, random_graphs
from mrlato_jax.config import ExecutionConfig, LearningConfig, NetworkConfig
from mrlato_jax.learning import devices
from mrlato_jax.learning.flat import flat
from mrlato_jax.learning.learning_task import learning_task, stack
from mrlato_jax.learning.meta_batch import TaskPool, meta_batches
from mrlato_jax.learning.outer import LearnerState, init_states, meta_iteration
from mrlato_jax.mec.system import System

ONE_DEVICE = ExecutionConfig(parallel="single")


@dataclasses.dataclass(frozen=True)
class Workload:
    """The size of one meta-iteration; by default that of MRLCO's public code, with our policy at Table I size."""

    meta_batch: int = 10  # learning tasks
    graphs: int = 100  # DAGs of each learning task
    rollouts: int = 10  # trajectories of each DAG
    num_tasks: int = 20  # tasks of each DAG
    inner_steps: int = 1  # gradient steps on one collection
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)

    @property
    def learning(self) -> LearningConfig:
        """Returns learning settings of this size."""
        return LearningConfig(
            inner_steps=self.inner_steps,
            meta_batch=self.meta_batch,
            graphs_per_task=self.graphs,
            rollouts=self.rollouts,
        )

    @property
    def decisions(self) -> int:
        """Number of decisions in one collection of the whole meta-batch."""
        return self.meta_batch * self.graphs * self.rollouts * self.num_tasks

    def sizes(self) -> dict[str, float]:
        """Returns the sizes for a record."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "network"}


class Prepared(NamedTuple):
    """A workload's data and settings, ready to run."""

    network: NetworkConfig
    learning: LearningConfig
    execution: ExecutionConfig
    states: LearnerState  # of one seed
    pool: TaskPool


def prepare(workload: Workload, execution: ExecutionConfig = ONE_DEVICE) -> Prepared:
    """Draws and packs the DAGs, makes the learner, and places all on the devices.

    Raises:
        InputError: a task has too many neighbours for the policy.
    """
    network, learning = workload.network, workload.learning
    execution = devices.resolve(execution, workload.meta_batch)
    tasks = stack(
        [
            learning_task(random_graphs(workload.graphs, workload.num_tasks, seed), System(), network)
            for seed in range(workload.meta_batch)
        ]
    )
    pool = TaskPool(jax.tree.map(lambda leaf: leaf[:, None], tasks), (workload.num_tasks,) * workload.meta_batch)
    states = init_states(network, learning, [0])
    return Prepared(network, learning, execution, devices.place(states, execution), devices.place(pool, execution))


Iteration = Callable[[LearnerState], tuple[LearnerState, Any]]


def compile_iteration(prepared: Prepared) -> Iteration:
    """Compiles `meta_iteration` and binds it to the pool."""
    network, learning, execution, states, pool = prepared
    compiled = meta_iteration.lower(network, learning, execution, states, pool).compile()
    return lambda states: compiled(states, pool)


def iteration_seconds(run: Iteration, states: LearnerState, repeats: int) -> float:
    """Returns the seconds of the fastest of `repeats` iterations of a compiled program; `states` are donated."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        states, metrics = run(states)
        jax.block_until_ready((states, metrics))
        times.append(time.perf_counter() - started)
    return min(times)


def iteration(workload: Workload | None = None, repeats: int = 2, tick: Tick = quiet) -> dict[str, float]:
    """Times one meta-iteration and its parts, and compares the gradient steps and the whole with the matmul peak.

    The parts are separate programs. The difference between their sum and `seconds` is the gain of the whole iteration
    by fusion across parts. The matmul FLOPs of an iteration are those of `inner_steps` gradients (`flops`). Sampling is
    the forward pass of the first gradient and counts as sampling.

    Args:
        workload: by default MRLCO's.
        repeats: number of runs, of which the fastest counts.
        tick: shows progress.
    """
    workload = workload or Workload()
    tick(0, 4, "compiling")
    prepared = prepare(workload)
    kept = prepared._replace(states=jax.tree.map(jnp.copy, prepared.states))  # an iteration donates its states
    started = time.perf_counter()
    run = compile_iteration(prepared)
    compile_seconds = time.perf_counter() - started
    tick(1, 4, "whole iterations")
    seconds = iteration_seconds(run, prepared.states, repeats + 1)  # the first one also allocates
    tick(2, 4, "the parts")
    parts = part_seconds(kept, repeats)
    tick(3, 4, "the matmul peak")
    peak = matmul_peak()
    features = prepared.pool.learning_tasks.features
    size = (workload.graphs, workload.rollouts, *features.shape[-2:])
    sampling = 1e-9 * workload.meta_batch * flops.forward(prepared.network, *size)
    whole = 1e-9 * workload.meta_batch * workload.inner_steps * flops.gradient(prepared.network, *size)
    gradient = whole - sampling
    return {
        **workload.sizes(),
        "seconds": seconds,
        "decisions_per_second": workload.decisions / seconds,
        "compile_seconds": compile_seconds,
        **{f"{name}_seconds": value for name, value in parts.items()},
        "parts_fraction_of_whole": sum(parts.values()) / seconds,
        "matmul_gflop": whole,
        "gradient_steps_matmul_gflop": gradient,
        "peak_gflop_per_second": peak,
        "fraction_of_matmul_peak": whole / seconds / peak,
        "gradient_steps_fraction_of_matmul_peak": gradient / parts["gradient_steps"] / peak,
    }


def part_seconds(prepared: Prepared, repeats: int) -> dict[str, float]:
    """Measures the seconds of each part for the whole meta-batch, on one device.

    If an iteration handles one task at a time, one task is timed and multiplied by the number of tasks, since all have
    the same size.
    """
    network, learning, execution, states, pool = prepared
    batched = execution.task_axis == "vmap"
    run = parts_of(network, learning, batched=batched)
    params = jax.tree.map(lambda leaf: leaf[0], states.params)
    tasks = jax.tree.map(lambda leaf: leaf[:, 0], pool.learning_tasks)
    batch = meta_batches(pool, learning, states.key)
    task, keys = (tasks, batch.key) if batched else jax.tree.map(lambda leaf: leaf[0], (tasks, batch.key))
    trajectories, pullback = run.sampling(params, task, keys)
    advantages = run.advantages(task, trajectories)
    adapted = run.gradient_steps(params, task, trajectories, pullback, advantages)
    moved = flat(adapted, 1) if batched else jnp.repeat(flat(adapted)[None], learning.meta_batch, axis=0)
    times = 1 if batched else learning.meta_batch
    return {
        "sampling": times * best(lambda: run.sampling(params, task, keys), repeats, times),
        "advantages": times * best(lambda: run.advantages(task, trajectories), repeats, times),
        "gradient_steps": times
        * best(lambda: run.gradient_steps(params, task, trajectories, pullback, advantages), repeats, times),
        "outer_update": best(lambda: run.outer_update(states, moved, batch), repeats),
    }
