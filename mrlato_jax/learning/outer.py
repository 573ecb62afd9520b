"""The outer loop of Algorithm 1: (28)-(29) and the iteration that ties both loops together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from mrlato_jax.config import ExecutionConfig, LearningConfig, PolicyConfig
from mrlato_jax.errors import InputError
from mrlato_jax.learning import devices
from mrlato_jax.learning.inner import InnerMetrics, inner_adapt
from mrlato_jax.learning.rollout import init_params
from mrlato_jax.learning.tasks import LearningTask, stack, take, trim


class TaskPool(NamedTuple):
    """The learning tasks that training draws from.

    A set of DAGs may be met under several systems (Experiment 3's rates): those are its variants, and one is drawn
    each time the set enters a meta-batch.
    """

    tasks: LearningTask  # leading axes [sets, variants]
    sizes: tuple[int, ...]  # of each set's largest DAG


jax.tree_util.register_pytree_node(
    TaskPool, lambda pool: ((pool.tasks,), pool.sizes), lambda sizes, children: TaskPool(children[0], sizes)
)


class LearnerState(NamedTuple):
    """Everything that meta-training carries from one iteration to the next; of several seeds, stacked along axis 0."""

    params: Any  # theta
    opt_state: optax.OptState  # of the outer update
    iteration: jax.Array  # int32, iterations done
    key: jax.Array  # of the run; never consumed: iteration i uses fold_in(key, i)


class MetaBatch(NamedTuple):
    """Tasks of one meta-iteration, of all seeds or one device's share of them; each [J]."""

    seed: jax.Array  # int32, which learner
    set: jax.Array  # int32, index into the pool
    variant: jax.Array  # int32
    key: jax.Array  # of the inner loop
    valid: jax.Array  # bool, False on what only fills up a device's share


class MetaMetrics(NamedTuple):
    """Means over the tasks of one meta-iteration; each [S]."""

    inner: InnerMetrics
    update_norm: jax.Array  # of the outer step


def outer_optimizer(learning: LearningConfig) -> optax.GradientTransformation:
    """SGD(beta) for `reptile`, Adam(beta) for `reptile_adam`."""
    return {"reptile": optax.sgd, "reptile_adam": optax.adam}[learning.meta_update](learning.outer_lr)


def meta_gradient(
    params: Any, adapted: Any, batch: MetaBatch, learning: LearningConfig, axis: str | None = None
) -> Any:
    """(29) for each seed: `g = mean_i (theta_i' - theta) / (alpha m)`.

    Args:
        params: theta, leading axis S.
        adapted: theta_i', leading axis J.
        batch: the tasks; this device's, where `axis` names the devices that have them together.
        learning: alpha, m, and the number of tasks of a seed.
        axis: of the devices.
    """
    moved = jax.tree.map(lambda a, p: a - p[batch.seed], adapted, params)
    means = mean_by_seed(moved, batch, jax.tree.leaves(params)[0].shape[0], learning.meta_batch, axis)
    return jax.tree.map(lambda mean: mean / (learning.inner_lr * learning.inner_steps), means)


def mean_by_seed(values: Any, batch: MetaBatch, num_seeds: int, meta_batch: int, axis: str | None = None) -> Any:
    """Mean of each seed's tasks, wherever they are: [J, ...] -> [S, ...]."""

    def partial_sum(leaf: jax.Array) -> jax.Array:
        valid = batch.valid.reshape(-1, *[1] * (leaf.ndim - 1))
        return jax.ops.segment_sum(jnp.where(valid, leaf, 0), batch.seed, num_seeds)

    sums = devices.total(jax.tree.map(partial_sum, values), axis)
    return jax.tree.map(lambda leaf: leaf / meta_batch, sums)


def init_state(policy: PolicyConfig, learning: LearningConfig, seed: int) -> LearnerState:
    """The learner before its first iteration.

    Args:
        policy: the network's settings.
        learning: the learning settings.
        seed: decides the parameters and every draw of the run.
    """
    init_key, run_key = jax.random.split(jax.random.key(seed))
    params = init_params(policy, init_key)
    return LearnerState(params, outer_optimizer(learning).init(params), jnp.zeros((), jnp.int32), run_key)


def init_states(policy: PolicyConfig, learning: LearningConfig, seeds: Sequence[int]) -> LearnerState:
    """The learners of several seeds before their first iteration, stacked along axis 0."""
    return stack([init_state(policy, learning, seed) for seed in seeds])


def check_meta_batch(meta_batch: int, num_sets: int) -> None:
    """Raises InputError where more tasks are to be drawn without replacement than there are training sets."""
    if meta_batch > num_sets:
        raise InputError(f"meta_batch is {meta_batch}; accepted: at most {num_sets}, the number of training sets")


def draw_meta_batch(pool: TaskPool, key: jax.Array, meta_batch: int) -> tuple[jax.Array, jax.Array]:
    """Draws sets without replacement, and a variant of each.

    Returns:
        int32[meta_batch] each: set and variant indices.

    Raises:
        InputError: more tasks asked for than the pool has sets.
    """
    num_sets, num_variants = pool.tasks.features.shape[:2]
    check_meta_batch(meta_batch, num_sets)
    set_key, variant_key = jax.random.split(key)
    sets = jax.random.permutation(set_key, num_sets)[:meta_batch]
    draw = jax.vmap(lambda index: jax.random.randint(jax.random.fold_in(variant_key, index), (), 0, num_variants))
    return sets, draw(sets)  # a set's variant derives from the set, not from its place in the batch


def meta_batches(pool: TaskPool, learning: LearningConfig, keys: jax.Array) -> MetaBatch:
    """Draws the tasks of every seed's meta-batch; those of seed s are entries s B to s B + B - 1.

    A task's key derives from its set's index, so neither its place in the batch nor its device changes anything.

    Args:
        pool: the learning tasks to draw from.
        learning: B.
        keys: [S], of the iteration.
    """

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        draw_key, task_key = jax.random.split(key)
        sets, variants = draw_meta_batch(pool, draw_key, learning.meta_batch)
        return sets, variants, jax.vmap(partial(jax.random.fold_in, task_key))(sets)

    sets, variants, task_keys = jax.tree.map(lambda leaf: leaf.reshape(-1), jax.vmap(draw)(keys))
    seeds = jnp.repeat(jnp.arange(keys.shape[0]), learning.meta_batch)
    return MetaBatch(seeds, sets, variants, task_keys, jnp.ones(sets.shape, bool))


def adapt_tasks(
    policy: PolicyConfig, learning: LearningConfig, task_axis: str, params: Any, pool: TaskPool, batch: MetaBatch
) -> tuple[Any, InnerMetrics]:
    """Runs the inner loop on each task.

    With `task_axis` map, one task runs at a time, compiled at a few of the pool's sizes so that small DAGs do not pay
    for large ones; with vmap all run side by side at the largest.

    Args:
        policy: the network's settings.
        learning: the learning settings.
        task_axis: "map" or "vmap".
        params: theta of each seed, leading axis S.
        pool: the learning tasks that the indices point into.
        batch: J tasks.

    Returns:
        theta_i' and metrics, leading axis J; of entries that are not valid, anything.
    """

    def adapt(entry: MetaBatch) -> tuple[Any, InnerMetrics]:
        theta = take(params, entry.seed)
        task = jax.tree.map(lambda leaf: leaf[entry.set, entry.variant], pool.tasks)
        if task_axis == "vmap":
            return inner_adapt(policy, learning, theta, task, entry.key)
        sizes, size_of_set = padded_sizes(pool.sizes)
        at_size = [lambda p, t, k, n=n: inner_adapt(policy, learning, p, trim(t, n), k) for n in sizes]
        nothing = jax.eval_shape(at_size[0], theta, task, entry.key)
        idle = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), nothing)
        branch = jnp.where(entry.valid, jnp.asarray(size_of_set)[entry.set], len(sizes))
        return jax.lax.switch(branch, [*at_size, lambda *_: idle], theta, task, entry.key)

    return jax.vmap(adapt)(batch) if task_axis == "vmap" else jax.lax.map(adapt, batch)


def padded_sizes(sizes: Sequence[int], ratio: float = 1.5) -> tuple[list[int], list[int]]:
    """Few sizes to compile for, such that none of `sizes` is padded to more than `ratio` times itself.

    Returns:
        The sizes to pad to, and for each entry of `sizes` the index of its own.
    """
    tops: list[int] = []
    for size in sorted(set(sizes), reverse=True):
        if not tops or size * ratio < tops[-1]:
            tops.append(size)
    return tops, [max(i for i, top in enumerate(tops) if top >= size) for size in sizes]


def outer_update(
    learning: LearningConfig, states: LearnerState, adapted: Any, batch: MetaBatch, axis: str | None = None
) -> tuple[Any, optax.OptState, Any]:
    """Algorithm 1, line 9, for each seed: theta afterwards, the optimiser's state, and the step that was taken."""
    descent = jax.tree.map(jnp.negative, meta_gradient(states.params, adapted, batch, learning, axis))
    updates, opt_states = jax.vmap(outer_optimizer(learning).update)(descent, states.opt_state, states.params)
    return optax.apply_updates(states.params, updates), opt_states, updates


def iterate(
    policy: PolicyConfig,
    learning: LearningConfig,
    task_axis: str,
    axis: str | None,
    states: LearnerState,
    pool: TaskPool,
) -> tuple[LearnerState, MetaMetrics]:
    """One iteration of Algorithm 1, lines 3-9, for each seed: what each device runs.

    Args:
        policy: the network's settings.
        learning: the learning settings.
        task_axis: "map" or "vmap", as in `adapt_tasks`.
        axis: name of the devices that share the tasks, None where there is one.
        states: theta and what belongs to it, leading axis S.
        pool: the learning tasks to draw from.

    Returns:
        The states after the iteration, and its metrics.
    """
    keys = jax.vmap(jax.random.fold_in)(states.key, states.iteration)
    batch, valid = devices.share(meta_batches(pool, learning, keys), axis)
    batch = batch._replace(valid=valid)
    adapted, metrics = adapt_tasks(policy, learning, task_axis, states.params, pool, batch)
    params, opt_states, updates = outer_update(learning, states, adapted, batch, axis)
    means = mean_by_seed(metrics, batch, keys.shape[0], learning.meta_batch, axis)
    after = LearnerState(params, opt_states, states.iteration + 1, states.key)
    return after, MetaMetrics(means, jax.vmap(optax.tree.norm)(updates))


@partial(jax.jit, static_argnames=("policy", "learning", "execution"), donate_argnames=("states",))
def meta_iteration(
    policy: PolicyConfig, learning: LearningConfig, execution: ExecutionConfig, states: LearnerState, pool: TaskPool
) -> tuple[LearnerState, MetaMetrics]:
    """`iterate` as one program, on one device or, with shard_map, on all.

    Args:
        policy: the network's settings.
        learning: the learning settings.
        execution: resolved; `parallel` single or shard_map.
        states: one learner a seed, stacked, as `devices.place` puts them; given away, so they cannot be used again.
        pool: the learning tasks to draw from, as `devices.place` puts them.

    Returns:
        The states after the iteration, and its metrics.
    """
    if execution.parallel == "single":
        return iterate(policy, learning, execution.task_axis, None, states, pool)
    body = partial(iterate, policy, learning, execution.task_axis, devices.AXIS)
    # Without `check_vma=False` JAX would sum over devices the gradients of whatever derives from replicated parameters,
    # those of the inner loop included, where every device has its own tasks.
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
    policy: PolicyConfig, learning: LearningConfig, execution: ExecutionConfig
) -> Callable[[LearnerState, TaskPool], tuple[LearnerState, MetaMetrics]]:
    """`iterate` under `jax.pmap`; states and pool have a leading axis of devices, as `devices.place` gives them."""
    body = partial(iterate, policy, learning, execution.task_axis, devices.AXIS)
    return jax.pmap(body, axis_name=devices.AXIS, donate_argnums=0, devices=devices.pmap_devices(execution))


def iteration_program(
    policy: PolicyConfig, learning: LearningConfig, execution: ExecutionConfig
) -> Callable[[LearnerState, TaskPool], tuple[LearnerState, MetaMetrics]]:
    """The meta-iteration as `execution` (resolved) wants it run; inputs from `devices.place`, states given away."""
    execution = dataclasses.replace(execution, metrics_every=1)  # the host's matter: nothing is compiled anew for it
    if execution.parallel == "pmap":
        return pmapped_iteration(policy, learning, execution)
    return partial(meta_iteration, policy, learning, execution)
