"""The outer loop of Algorithm 1: (28)-(29) and the iteration that ties both loops together.

`meta_update` says what a task hands to it: theta' (reptile, reptile_adam), a gradient at theta' (fomaml, maml), or with
`joint` a gradient at theta itself, and there is no inner loop.
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
    """Everything that meta-training carries from one iteration to the next; of several seeds, stacked along axis 0."""

    params: Any  # theta
    opt_state: optax.OptState  # of the outer update
    iteration: jax.Array  # int32, iterations done
    key: jax.Array  # of the run; never consumed: iteration i uses fold_in(key, i)


class MetaMetrics(NamedTuple):
    """Means over the learning tasks of one meta-iteration; each [S]."""

    inner: InnerMetrics
    update_norm: jax.Array  # of the step from theta to the next


REPTILE = ("reptile", "reptile_adam")


def outer_optimizer(learning: LearningConfig) -> optax.GradientTransformation:
    """SGD(beta) for `reptile`; Adam(beta), but for `joint`, whose only optimiser is Adam(alpha).

    beta falls where `outer_lr_decay` says so.
    """
    if learning.meta_update == "joint":
        return adam(learning)
    return (optax.sgd if learning.meta_update == "reptile" else optax.adam)(
        falling(learning.outer_lr, learning.outer_lr_decay)
    )


def meta_gradient(
    params: Any, adapted: Any, batch: MetaBatch, learning: LearningConfig, axis: str | None = None
) -> Any:
    """(29) for each seed: `g = mean_i (theta_i' - theta) / (alpha m)`.

    Args:
        params: theta, leading axis S; a tree, or `flat`.
        adapted: theta_i' likewise, leading axis J.
        batch: the learning tasks; this device's, where `axis` names the devices that have them together.
        learning: alpha, m, and the number of learning tasks of a seed.
        axis: of the devices.
    """
    moved = jax.tree.map(lambda a, p: a - p[batch.seed], adapted, params)
    means = mean_by_seed(moved, batch, jax.tree.leaves(params)[0].shape[0], learning.meta_batch, axis)
    return jax.tree.map(lambda mean: mean / (learning.inner_lr * learning.inner_steps), means)


def init_state(network: NetworkConfig, learning: LearningConfig, seed: int, params: Any = None) -> LearnerState:
    """The learner before its first iteration.

    Args:
        network: the network's settings.
        learning: the learning settings.
        seed: decides the parameters and every draw of the run.
        params: parameters to begin with, in place of random ones.
    """
    init_key, run_key = jax.random.split(jax.random.key(seed))
    params = init_params(network, init_key) if params is None else params
    return LearnerState(params, outer_optimizer(learning).init(params), jnp.zeros((), jnp.int32), run_key)


def init_states(network: NetworkConfig, learning: LearningConfig, seeds: Sequence[int]) -> LearnerState:
    """The learners of several seeds before their first iteration, stacked along axis 0."""
    return stack([init_state(network, learning, seed) for seed in seeds])


def visit(
    network: NetworkConfig, learning: LearningConfig, params: Any, learning_task: LearningTask, key: jax.Array
) -> tuple[jax.Array, InnerMetrics]:
    """What the outer step needs of a learning task: theta', or a gradient, `flat`; and metrics; see `inner_adapt`."""
    run = inner_adapt if learning.meta_update in REPTILE else adapted_gradient
    result, metrics = run(network, learning, params, learning_task, key)
    return flat(result), metrics


def adapt_tasks(
    network: NetworkConfig, learning: LearningConfig, task_axis: str, params: Any, pool: TaskPool, batch: MetaBatch
) -> tuple[jax.Array, InnerMetrics]:
    """`visit` of each learning task; arguments as `over_tasks`, results with leading axis J."""
    return over_tasks(partial(visit, network, learning), task_axis, params, pool, batch)


def outer_update(
    learning: LearningConfig, states: LearnerState, visited: jax.Array, batch: MetaBatch, axis: str | None = None
) -> tuple[Any, optax.OptState]:
    """Algorithm 1, line 9, for each seed: theta afterwards, and the optimiser's state.

    Args:
        learning: the learning settings.
        states: leading axis S.
        visited: of each learning task theta' or the gradient, `flat`: [J, P].
        batch: the learning tasks; this device's, where `axis` names the devices that have them together.
        axis: of the devices.
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
    """One iteration of Algorithm 1, lines 3-9, for each seed: what each device runs.

    Args:
        network: the network's settings.
        learning: the learning settings.
        task_axis: "map" or "vmap", as in `over_tasks`.
        axis: name of the devices that share the learning tasks, None where there is one.
        states: theta and what belongs to it, leading axis S.
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
    """`iterate` as one program, on one device or, with shard_map, on all.

    Args:
        network: the network's settings.
        learning: the learning settings.
        execution: resolved; `parallel` single or shard_map.
        states: one learner a seed, stacked, as `devices.place` puts them; given away, so they cannot be used again.
        pool: the learning tasks to draw from, as `devices.place` puts them.

    Returns:
        The states after the iteration, and its metrics.
    """
    if execution.parallel == "single":
        return iterate(network, learning, execution.task_axis, None, states, pool)
    body = partial(iterate, network, learning, execution.task_axis, devices.AXIS)
    # Without `check_vma=False` JAX would sum over devices the gradients of whatever derives from replicated parameters,
    # those of the inner loop included, where every device has its own learning tasks.
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
    """`iterate` under `jax.pmap`; states and pool have a leading axis of devices, as `devices.place` gives them."""
    body = partial(iterate, network, learning, execution.task_axis, devices.AXIS)
    return jax.pmap(body, axis_name=devices.AXIS, donate_argnums=0, devices=devices.pmap_devices(execution))


def iteration_program(
    network: NetworkConfig, learning: LearningConfig, execution: ExecutionConfig
) -> Callable[[LearnerState, TaskPool], tuple[LearnerState, MetaMetrics]]:
    """The meta-iteration as `execution` (resolved) wants it run; inputs from `devices.place`, states given away."""
    execution = dataclasses.replace(execution, metrics_every=1)  # the host's matter: nothing is compiled anew for it
    if execution.parallel == "pmap":
        return pmapped_iteration(network, learning, execution)
    return partial(meta_iteration, network, learning, execution)
