"""MRLATO with what brings it near the optimum: every setting here is one that any method may have.

Warm-started by imitating the best plans known of fresh DAGs of the training families, then meta-trained by Algorithm 1
on the policy's own plans and what each of their decisions is worth. The decoder sees the task that it decides, the
simulator's queues, and what either decision leads to if quick rules decide the rest; the encoder reads the
order both ways and is told what comes after each task.

`mrlato_plus_order` also chooses which of the ready tasks is next.
"""

import dataclasses

from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.methods.learned import LearnedMethod

WARM_START_ITERATIONS = 1000

WARM_START = LearningConfig(
    learn_from="optimum",
    inner_lr=1e-3,
    inner_lr_decay=WARM_START_ITERATIONS,
    inner_steps=1,
    meta_batch=2,
    graphs_per_task=64,
    value_coef=0.0,
    meta_update="joint",
)

METHOD = LearnedMethod(
    "mrlato_plus",
    network=NetworkConfig(
        decoder_input="lookahead", neighbours="pooled", task_features="outlook", encoder="bidirectional"
    ),
    learning=LearningConfig(
        learn_from="deviations",
        inner_lr=2e-4,
        outer_lr=1e-4,
        value_coef=0.0,
        meta_update="reptile_adam",
    ),
    warm_start=WARM_START,
    warm_start_iterations=WARM_START_ITERATIONS,
)

ORDER_WARM_START_ITERATIONS = 150  # its looking ahead costs several times as much

METHOD_THAT_ORDERS = dataclasses.replace(
    METHOD,
    name="mrlato_plus_order",
    network=dataclasses.replace(METHOD.network, decides="order"),
    warm_start=dataclasses.replace(WARM_START, inner_lr_decay=ORDER_WARM_START_ITERATIONS),
    warm_start_iterations=ORDER_WARM_START_ITERATIONS,
)
