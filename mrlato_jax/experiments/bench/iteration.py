"""A meta-iteration: whole, and split into the parts of Algorithm 1."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from mrlato_jax.config import LearningConfig, PolicyConfig
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.experiments.bench import flops
from mrlato_jax.experiments.bench.parts import parts_of
from mrlato_jax.experiments.bench.timing import Tick, best, largest_degree, matmul_peak, quiet, random_graphs
from mrlato_jax.learning.outer import LearnerState, TaskPool, init_state, meta_iteration
from mrlato_jax.learning.tasks import learning_task, stack
from mrlato_jax.mec.system import System


@dataclasses.dataclass(frozen=True)
class Workload:
    """The size of one meta-iteration; by default that of MRLCO's public code, with our policy at Table I size."""

    meta_batch: int = 10  # tasks
    graphs: int = 100  # DAGs of each
    rollouts: int = 10  # trajectories of each DAG
    num_tasks: int = 20  # of each DAG
    inner_steps: int = 1  # gradient steps on one collection
    policy: PolicyConfig = dataclasses.field(default_factory=PolicyConfig)

    @property
    def learning(self) -> LearningConfig:
        """The learning settings of that size."""
        return LearningConfig(
            inner_steps=self.inner_steps,
            meta_batch=self.meta_batch,
            graphs_per_task=self.graphs,
            rollouts=self.rollouts,
        )

    @property
    def decisions(self) -> int:
        """Decided tasks in one collection of the whole meta-batch."""
        return self.meta_batch * self.graphs * self.rollouts * self.num_tasks

    def sizes(self) -> dict[str, float]:
        """What a record says of the workload."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "policy"}


class Prepared(NamedTuple):
    """A workload's data and settings, ready to run."""

    policy: PolicyConfig
    learning: LearningConfig
    state: LearnerState
    pool: TaskPool


def prepare(workload: Workload) -> Prepared:
    """Draws the DAGs, packs them, and sets up the learner; a policy too narrow for the DAGs is widened."""
    sets = [random_graphs(workload.graphs, workload.num_tasks, seed) for seed in range(workload.meta_batch)]
    policy = wide_enough(workload.policy, [graph for graphs in sets for graph in graphs])
    tasks = stack([learning_task(graphs, System(), policy) for graphs in sets])
    pool = TaskPool(jax.tree.map(lambda leaf: leaf[:, None], tasks), (workload.num_tasks,) * workload.meta_batch)
    return Prepared(policy, workload.learning, init_state(policy, workload.learning, seed=0), pool)


def wide_enough(policy: PolicyConfig, graphs: list[TaskGraph]) -> PolicyConfig:
    """`policy` with room for the neighbours of every task of `graphs`."""
    return dataclasses.replace(policy, neighbour_width=max(policy.neighbour_width, largest_degree(graphs)))


Iteration = Callable[[LearnerState], tuple[LearnerState, Any]]


def compile_iteration(prepared: Prepared) -> Iteration:
    """The one call of `meta_iteration`: compiled, and bound to the pool."""
    policy, learning, state, pool = prepared
    compiled = meta_iteration.lower(policy, learning, state, pool).compile()
    return lambda state: compiled(state, pool)


def iteration_seconds(run: Iteration, state: LearnerState, repeats: int) -> tuple[float, LearnerState]:
    """The fastest of `repeats` iterations, and the state after them; no call is left out, so `run` is compiled."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        state, metrics = run(state)
        jax.block_until_ready((state, metrics))
        times.append(time.perf_counter() - started)
    return min(times), state


def iteration(workload: Workload | None = None, repeats: int = 2, tick: Tick = quiet) -> dict[str, float]:
    """Times one meta-iteration and its parts, and sets the gradient steps and the whole beside the matmul peak.

    The parts are programs of their own: what a whole iteration gains by fusing across them is the difference between
    their sum and `seconds`. An iteration's matmul FLOPs are those of one forward pass for the sampling and of
    `inner_steps` gradient steps (`flops`).

    Args:
        workload: by default MRLCO's.
        repeats: the fastest of so many counts.
        tick: shows progress.
    """
    workload = workload or Workload()
    tick(0, 4, "compiling")
    prepared = prepare(workload)
    params, opt_state = jax.tree.map(lambda leaf: leaf.copy(), (prepared.state.params, prepared.state.opt_state))
    started = time.perf_counter()
    run = compile_iteration(prepared)
    compile_seconds = time.perf_counter() - started
    tick(1, 4, "whole iterations")
    seconds, _ = iteration_seconds(run, prepared.state, repeats + 1)  # the first one also allocates
    tick(2, 4, "the parts")
    parts = part_seconds(prepared, params, opt_state, repeats)
    tick(3, 4, "the matmul peak")
    peak = matmul_peak()
    features = prepared.pool.tasks.features
    size = (workload.graphs, workload.rollouts, *features.shape[-2:])
    gradient = 1e-9 * workload.meta_batch * workload.inner_steps * flops.gradient(prepared.policy, *size)
    whole = gradient + 1e-9 * workload.meta_batch * flops.forward(prepared.policy, *size)
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


def part_seconds(prepared: Prepared, params: Any, opt_state: Any, repeats: int) -> dict[str, float]:
    """Seconds of each part for the whole meta-batch."""
    policy, learning, _, pool = prepared
    run = parts_of(policy, learning)
    tasks = jax.tree.map(lambda leaf: leaf[:, 0], pool.tasks)
    keys = jax.random.split(jax.random.key(1), learning.meta_batch)
    trajectories = run.sampling(params, tasks, keys)
    batches = run.advantages(params, tasks, trajectories)
    adapted = run.gradient_steps(params, tasks, batches)
    calls: dict[str, Callable[[], Any]] = {
        "sampling": lambda: run.sampling(params, tasks, keys),
        "advantages": lambda: run.advantages(params, tasks, trajectories),
        "gradient_steps": lambda: run.gradient_steps(params, tasks, batches),
        "outer_update": lambda: run.outer_update(params, opt_state, adapted),
    }
    return {name: best(call, repeats) for name, call in calls.items()}
