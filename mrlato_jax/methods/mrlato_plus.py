"""MRLATO with extensions that bring it near the optimum. Each extension is a setting that every method can use.

A warm start imitates the best known plans of fresh DAGs of the training families. Then Algorithm 1 meta-trains on the
policy's own plans and on the effect of single changed decisions. The decoder sees the task being decided, the
simulator's queues, and the outcome of each decision if quick rules decide the rest. The encoder reads the order in both
directions, and its features describe what follows each task.

`mrlato_plus_order` also chooses the next task among the ready ones.
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

ORDER_WARM_START_ITERATIONS = 150  # fewer, since its look-ahead costs several times as much

METHOD_THAT_ORDERS = dataclasses.replace(
    METHOD,
    name="mrlato_plus_order",
    network=dataclasses.replace(METHOD.network, decides="order"),
    warm_start=dataclasses.replace(WARM_START, inner_lr_decay=ORDER_WARM_START_ITERATIONS),
    warm_start_iterations=ORDER_WARM_START_ITERATIONS,
)
