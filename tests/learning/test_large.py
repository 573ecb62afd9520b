"""Applications of a thousand tasks, none of which is too wide."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.config import ExecutionConfig, LearningConfig, NetworkConfig
from mrlato_jax.learning.devices import resolve
from mrlato_jax.learning.learning_task import learning_task, stack
from mrlato_jax.learning.meta_batch import TaskPool
from mrlato_jax.learning.outer import init_states, meta_iteration

POLICY = NetworkConfig(decoder_input="task_sim", units=16, heads=2, layers=1, neighbours="pooled")
LEARNING = LearningConfig(inner_steps=1, meta_batch=2, graphs_per_task=2, rollouts=2)
EXECUTION = resolve(ExecutionConfig(parallel="single"), LEARNING.meta_batch)


def pool_of(num_tasks: int) -> tuple[list[mj.TaskGraph], TaskPool]:
    """Two training sets of two DAGs each."""
    rng = np.random.default_rng(0)
    graphs = [mj.daggen(num_tasks, 0.7, 0.7, rng) for _ in range(4)]
    tasks = [learning_task(pair, mj.System(), POLICY) for pair in (graphs[:2], graphs[2:])]
    return graphs, TaskPool(stack([stack([task]) for task in tasks]), (num_tasks, num_tasks))


@pytest.mark.slow
def test_training_on_a_thousand_tasks() -> None:
    state, memory = init_states(POLICY, LEARNING, [0]), {}
    for num_tasks in (500, 1000):
        graphs, pool = pool_of(num_tasks)
        program = meta_iteration.lower(POLICY, LEARNING, EXECUTION, state, pool).compile()
        memory[num_tasks] = program.memory_analysis().temp_size_in_bytes
    assert memory[1000] < 2.5 * memory[500]  # the edges alone grow with the square
    assert max(graph.adjacency.sum(axis=0).max() for graph in graphs) > 32  # no list of 32 would do
    before = jax.tree.map(np.asarray, state.params)
    after, metrics = meta_iteration(POLICY, LEARNING, EXECUTION, state, pool)
    hefts = [mj.heft(graph, mj.System()).makespan for graph in graphs]
    assert float(metrics.inner.heft[0]) == pytest.approx(np.mean(hefts), rel=1e-4)
    # An untrained policy decides about at random: worse than HEFT-based, better than all on one side.
    sides = [min(plan(graph, mj.System()).makespan for plan in (mj.all_local, mj.all_offload)) for graph in graphs]
    assert np.mean(hefts) < float(metrics.inner.latency[0]) < 1.2 * np.mean(sides)
    assert 0 < float(metrics.inner.entropy[0]) <= np.log(2)
    moved = jax.tree.map(lambda new, old: float(abs(new - old).max()), after.params, before)
    assert all(by < 1e-3 for by in jax.tree.leaves(moved))
    assert all(by > 0 for by, old in zip(jax.tree.leaves(moved), jax.tree.leaves(before), strict=True) if old.ndim > 2)
