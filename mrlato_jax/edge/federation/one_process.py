"""The same training in one process, for comparison."""

from __future__ import annotations

import jax

from mrlato_jax.config import ExecutionConfig
from mrlato_jax.edge.federation.local_trainer import TASK_AXIS
from mrlato_jax.edge.federation.settings import Federation
from mrlato_jax.learning.learning_task import stack, take
from mrlato_jax.learning.meta_batch import TaskPool
from mrlato_jax.learning.outer import LearnerState, init_state, iteration_program
from mrlato_jax.training.experiments import training_pools


def in_one_process(federation: Federation, rounds: int | None = None) -> LearnerState:
    """Returns the learner after all rounds, or after `rounds`, by `meta_iteration` on one device."""
    config = federation.config
    pool = training_pools(federation.dataset(), config.network, config.channel)[0]
    own = jax.tree.map(lambda leaf: leaf[: federation.ues], pool.learning_tasks)
    pool = TaskPool(own, pool.sizes[: federation.ues])
    execution = ExecutionConfig(parallel="single", num_devices=1, task_axis=TASK_AXIS, metrics_every=1)
    program = iteration_program(config.network, config.learning, execution)
    states = stack([init_state(config.network, config.learning, config.seed)])
    for _ in range(config.iterations if rounds is None else rounds):
        states, _ = program(states, pool)
    return take(jax.block_until_ready(states), 0)
