"""It learns: meta-training on small DAGs comes close to the proven optimum on DAGs that it has never seen."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.config import ExecutionConfig, LearningConfig, NetworkConfig
from mrlato_jax.learning import devices, rollout
from mrlato_jax.learning.learning_task import LearningTask, learning_task, stack
from mrlato_jax.learning.meta_batch import TaskPool
from mrlato_jax.learning.outer import LearnerState, init_states, meta_iteration

NUM_TASKS, NUM_GRAPHS, NUM_SETS = 6, 40, 4
POLICY = NetworkConfig(decoder_input="task_sim", units=32, heads=2, layers=1, neighbour_width=8)
LEARNING = LearningConfig(inner_lr=3e-3, outer_lr=9e-3, meta_batch=3, graphs_per_task=12, gamma=1.0)
EXECUTION = devices.resolve(ExecutionConfig(parallel="single", task_axis="map"), LEARNING.meta_batch)
LONG = (120, 130, 140, 150, 160)  # iterations after which the policy is measured
SHORT = (60, 65, 70, 75, 80)


def draw_task(rng: np.random.Generator) -> LearningTask:
    graphs = [
        mj.daggen(num_tasks=NUM_TASKS, fat=0.6, density=0.6, ccr=float(rng.choice([0.3, 0.4, 0.5])), rng=rng)
        for _ in range(NUM_GRAPHS)
    ]
    return learning_task(graphs, mj.System(), POLICY)


def mean_optimum(task: LearningTask) -> float:
    """Over all 2^n placements of each DAG, in its scheduling order."""
    placements = jnp.array(list(itertools.product((0, 1), repeat=NUM_TASKS)), jnp.int32)
    each = [mj.makespan(task.dags, jnp.broadcast_to(row, (NUM_GRAPHS, NUM_TASKS))) for row in placements]
    return float(jnp.stack(each).min(axis=0).mean())


@jax.jit
def mean_greedy_makespan(states: LearnerState, task: LearningTask) -> jax.Array:
    params = jax.tree.map(lambda leaf: leaf[0], states.params)
    return rollout.decode_greedily(POLICY, params, task)[1].mean()


@pytest.mark.parametrize(
    ("seed", "rollouts", "measured_after"),
    [(1, 8, SHORT), *(pytest.param(seed, 16, LONG, marks=pytest.mark.slow) for seed in (0, 2))],
)
def test_meta_training_comes_within_two_percent_of_the_optimum(
    seed: int, rollouts: int, measured_after: tuple[int, ...]
) -> None:
    """From over 8 % above it to the median of five measurements below 2 %.

    With LONG and 16 rollouts it is 0.5 to 0.9 % for seeds 0 to 5; with SHORT and 8 rollouts it is 0.8 % for seed 1.
    """
    learning = dataclasses.replace(LEARNING, rollouts=rollouts)
    rng = np.random.default_rng(1000 + seed)
    sets = [draw_task(rng) for _ in range(NUM_SETS)]
    pool = TaskPool(jax.tree.map(lambda leaf: leaf[:, None], stack(sets)), (NUM_TASKS,) * NUM_SETS)
    unseen = draw_task(rng)
    optimum = mean_optimum(unseen)
    states = init_states(POLICY, learning, [seed])
    before = float(mean_greedy_makespan(states, unseen)) / optimum - 1
    compiled, gaps = meta_iteration._cache_size(), []
    for iteration in range(1, max(measured_after) + 1):
        states, _ = meta_iteration(POLICY, learning, EXECUTION, states, pool)
        if iteration in measured_after:
            gaps.append(float(mean_greedy_makespan(states, unseen)) / optimum - 1)
    assert meta_iteration._cache_size() == compiled + 1  # no iteration is compiled again
    assert min(gaps) > -1e-6  # an optimum is an optimum
    assert before > 0.08
    assert np.median(gaps) < 0.02, gaps
