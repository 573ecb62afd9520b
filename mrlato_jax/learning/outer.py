"""The outer loop of Algorithm 1: (28)-(29) and the meta-iteration, which runs both loops.

`meta_update` defines what the outer loop takes from each task: theta' (reptile, reptile_adam) or a gradient at theta'
(fomaml, maml). With `joint` there is no inner loop, and the gradient is at theta.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from mrlato_jax.config import ExecutionConfig, LearningConfig, NetworkConfig
from mrlato_jax.learning import devices
from mrlato_jax.learning.flat import flat, flat_state, unflat, unflat_state
from mrlato_jax.learning.inner import InnerMetrics, InnerState, adam, falling, inner_adapt
from mrlato_jax.learning.joint import joint_steps
from mrlato_jax.learning.learning_task import LearningTask, stack
from mrlato_jax.learning.maml import adapted_gradient
from mrlato_jax.learning.meta_batch import MetaBatch, TaskPool, mean_by_seed, meta_batches, over_tasks
from mrlato_jax.learning.rollout import init_params


class LearnerState(NamedTuple):
    """State of meta-training between iterations; several seeds are stacked along axis 0."""

    params: Any  # theta
    opt_state: optax.OptState  # state of the outer optimiser
    iteration: jax.Array  # int32, iterations done
    key: jax.Array  # key of the run; never consumed: iteration i uses fold_in(key, i)


class MetaMetrics(NamedTuple):
    """Means over the learning tasks of one meta-iteration; each [S]."""

    inner: InnerMetrics
    update_norm: jax.Array  # norm of the change of theta


REPTILE = ("reptile", "reptile_adam")


def outer_optimizer(learning: LearningConfig) -> optax.GradientTransformation:
    """Returns SGD(beta) for `reptile`, Adam(alpha) for `joint` (its only optimiser), and otherwise Adam(beta).

    beta decays if `outer_lr_decay` is set.
    """
    if learning.meta_update == "joint":
        return adam(learning)
    return (optax.sgd if learning.meta_update == "reptile" else optax.adam)(
        falling(learning.outer_lr, learning.outer_lr_decay)
    )


def meta_gradient(
    params: Any, adapted: Any, batch: MetaBatch, learning: LearningConfig, axis: str | None = None
) -> Any:
    """Computes (29) for each seed: `g = mean_i (theta_i' - theta) / (alpha m)`.

    Args:
        params: theta, leading axis S; a tree, or `flat`.
        adapted: theta_i' in the same form, leading axis J.
        batch: the learning tasks; with `axis`, this device's share.
        learning: alpha, m, and the number of learning tasks of a seed.
        axis: name of the axis of devices that share the learning tasks; None for one device.
    """
    moved = jax.tree.map(lambda a, p: a - p[batch.seed], adapted, params)
    means = mean_by_seed(moved, batch, jax.tree.leaves(params)[0].shape[0], learning.meta_batch, axis)
    return jax.tree.map(lambda mean: mean / (learning.inner_lr * learning.inner_steps), means)


def init_state(network: NetworkConfig, learning: LearningConfig, seed: int, params: Any = None) -> LearnerState:
    """Returns the learner before its first iteration.

    Args:
        network: the network's settings.
        learning: the learning settings.
        seed: seed of the parameters and of every draw of the run.
        params: initial parameters; random by default.
    """
    init_key, run_key = jax.random.split(jax.random.key(seed))
    params = init_params(network, init_key) if params is None else params
    return LearnerState(params, outer_optimizer(learning).init(params), jnp.zeros((), jnp.int32), run_key)


def init_states(network: NetworkConfig, learning: LearningConfig, seeds: Sequence[int]) -> LearnerState:
    """Returns the learners of several seeds before their first iteration, stacked along axis 0."""
    return stack([init_state(network, learning, seed) for seed in seeds])


def visit(
    network: NetworkConfig, learning: LearningConfig, params: Any, learning_task: LearningTask, key: jax.Array
) -> tuple[jax.Array, InnerMetrics]:
    """Computes a learning task's input to the outer step, theta' or a gradient, as a vector; and its metrics."""
    run = inner_adapt if learning.meta_update in REPTILE else adapted_gradient
    result, metrics = run(network, learning, params, learning_task, key)
    return flat(result), metrics


def adapt_tasks(
    network: NetworkConfig, learning: LearningConfig, task_axis: str, params: Any, pool: TaskPool, batch: MetaBatch
) -> tuple[jax.Array, InnerMetrics]:
    """Calls `visit` for each learning task; arguments as in `over_tasks`, results with leading axis J."""
    return over_tasks(partial(visit, network, learning), task_axis, params, pool, batch)


def outer_update(
    learning: LearningConfig, states: LearnerState, visited: jax.Array, batch: MetaBatch, axis: str | None = None
) -> tuple[Any, optax.OptState]:
    """Takes the outer step of each seed (Algorithm 1, line 9); returns the new theta and the optimiser's state.

    Args:
        learning: the learning settings.
        states: the learners, leading axis S.
        visited: theta' or the gradient of each learning task as a vector, [J, P].
        batch: the learning tasks; with `axis`, this device's share.
        axis: name of the axis of devices that share the learning tasks; None for one device.
    """
    theta, count = flat(states.params, 1), states.iteration.shape[0]
    if learning.meta_update in REPTILE:
        slope = -meta_gradient(theta, visited, batch, learning, axis)
    else:
        slope = mean_by_seed(visited, batch, count, learning.meta_batch, axis)
    before = flat_state(states.opt_state, states.params, 1)
    updates, after = jax.vmap(outer_optimizer(learning).update)(slope, before)
    params = unflat(theta + updates, states.params, 1)
    return params, unflat_state(after, states.opt_state, states.params, 1)


def iterate(
    network: NetworkConfig,
    learning: LearningConfig,
    task_axis: str,
    axis: str | None,
    states: LearnerState,
    pool: TaskPool,
) -> tuple[LearnerState, MetaMetrics]:
    """Runs one iteration of Algorithm 1, lines 3-9, for each seed; every device runs this program.

    Args:
        network: the network's settings.
        learning: the learning settings.
        task_axis: "map" or "vmap", as in `over_tasks`.
        axis: name of the axis of devices that share the learning tasks; None for one device.
        states: the learners, leading axis S.
        pool: the learning tasks to draw from.

    Returns:
        The states after the iteration, and its metrics.
    """
    keys = jax.vmap(jax.random.fold_in)(states.key, states.iteration)
    batch, valid = devices.share(meta_batches(pool, learning, keys), axis)
    batch = batch._replace(valid=valid)
    if learning.meta_update == "joint":
        start = InnerState(states.params, states.opt_state)
        (params, opt_states), metrics = joint_steps(network, learning, task_axis, axis, start, pool, batch)
    else:
        visited, metrics = adapt_tasks(network, learning, task_axis, states.params, pool, batch)
        params, opt_states = outer_update(learning, states, visited, batch, axis)
    means = mean_by_seed(metrics, batch, keys.shape[0], learning.meta_batch, axis)
    moved = jax.tree.map(jnp.subtract, params, states.params)
    after = LearnerState(params, opt_states, states.iteration + 1, states.key)
    return after, MetaMetrics(means, jax.vmap(optax.tree.norm)(moved))


@partial(jax.jit, static_argnames=("network", "learning", "execution"), donate_argnames=("states",))
def meta_iteration(
    network: NetworkConfig, learning: LearningConfig, execution: ExecutionConfig, states: LearnerState, pool: TaskPool
) -> tuple[LearnerState, MetaMetrics]:
    """Runs `iterate` as one program, on one device or, with shard_map, on all.

    Args:
        network: the network's settings.
        learning: the learning settings.
        execution: resolved settings; `parallel` is single or shard_map.
        states: one learner per seed, stacked, placed by `devices.place`; donated, so they cannot be used again.
        pool: the learning tasks to draw from, placed by `devices.place`.

    Returns:
        The states after the iteration, and its metrics.
    """
    if execution.parallel == "single":
        return iterate(network, learning, execution.task_axis, None, states, pool)
    body = partial(iterate, network, learning, execution.task_axis, devices.AXIS)
    # Without `check_vma=False`, JAX would sum the gradients with respect to replicated parameters over all devices. In
    # the inner loop that is wrong, since every device has its own learning tasks.
    spread = jax.shard_map(
        body,
        mesh=devices.mesh(execution.num_devices),
        in_specs=PartitionSpec(),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return spread(states, pool)


@cache
def pmapped_iteration(
    network: NetworkConfig, learning: LearningConfig, execution: ExecutionConfig
) -> Callable[[LearnerState, TaskPool], tuple[LearnerState, MetaMetrics]]:
    """Returns `iterate` under `jax.pmap`; states and pool have a leading axis of devices, from `devices.place`."""
    body = partial(iterate, network, learning, execution.task_axis, devices.AXIS)
    return jax.pmap(body, axis_name=devices.AXIS, donate_argnums=0, devices=devices.pmap_devices(execution))


def iteration_program(
    network: NetworkConfig, learning: LearningConfig, execution: ExecutionConfig
) -> Callable[[LearnerState, TaskPool], tuple[LearnerState, MetaMetrics]]:
    """Returns the meta-iteration for `execution` (resolved). Inputs are from `devices.place`; states are donated."""
    execution = dataclasses.replace(execution, metrics_every=1)  # only the host uses it; avoids a second compilation
    if execution.parallel == "pmap":
        return pmapped_iteration(network, learning, execution)
    return partial(meta_iteration, network, learning, execution)
