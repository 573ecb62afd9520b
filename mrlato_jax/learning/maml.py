"""Outer gradients at the adapted parameters: first-order MAML and MAML (Finn et al., ICML 2017)."""

from __future__ import annotations

from typing import Any

import jax

from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.learning.inner import InnerMetrics, draw_collection, draw_graphs, gradient, inner_adapt
from mrlato_jax.learning.learning_task import LearningTask, drawn_anew


def adapted_gradient(
    network: NetworkConfig, learning: LearningConfig, params: Any, learning_task: LearningTask, key: jax.Array
) -> tuple[Any, InnerMetrics]:
    """Computes the gradient of the loss, (27) negated, at theta', on new trajectories from the same DAGs.

    With `meta_update` fomaml, the gradient is with respect to theta'. With maml, it is with respect to theta, through
    the m Adam steps; the actions that theta sampled and their advantages are constants. This omits their score-function
    term, so the estimate of MAML's gradient is biased (Al-Shedivat et al., ICLR 2018).

    Args:
        network: the network's settings.
        learning: the learning settings.
        params: theta.
        learning_task: one learning task.
        key: consumed.

    Returns:
        The gradient of the loss, and the inner loop's metrics.
    """
    graphs_key, adapt_key, key = jax.random.split(key, 3)
    learning_task = draw_graphs(learning_task, graphs_key, learning.graphs_per_task)

    def adapt(params: Any) -> tuple[Any, InnerMetrics]:
        return inner_adapt(network, learning, params, learning_task, adapt_key)

    def slope_at(adapted: Any) -> Any:
        task = drawn_anew(learning_task, key)
        draws = draw_collection(network, learning, adapted, task, key)
        return gradient(network, learning, adapted, task, draws)[0]

    if learning.meta_update == "fomaml":
        adapted, metrics = adapt(params)
        return slope_at(adapted), metrics
    adapted, through_steps, metrics = jax.vjp(adapt, params, has_aux=True)
    return through_steps(slope_at(adapted))[0], metrics
