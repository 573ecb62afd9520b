"""What a policy is told: the encoded DAG, and the quantities of the simulator (state (12)).

The state of the decision process is the encoded DAG and the decisions so far. Queue ends and candidate finish times are
functions of exactly that, so a policy may be shown them (`simulator_features`).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays

OWN_FEATURES = 5  # of a task: its position and its four times
OUTLOOK_FEATURES = 7
POOLED_FEATURES = 12  # of a task's parents, and as many of its children
SIMULATOR_FEATURES = 7
LOOKAHEAD_FEATURES = 2
ENCODING_BYTES = 2**26  # of one float[N, N] for each of the DAGs that are encoded side by side


def num_features(neighbour_width: int | None, outlook: bool = False) -> int:
    """F, the features of a task as `encode` gives them."""
    neighbours = 2 * (POOLED_FEATURES if neighbour_width is None else neighbour_width)
    return OWN_FEATURES + neighbours + (OUTLOOK_FEATURES if outlook else 0)


def check_neighbour_width(graphs: Sequence[TaskGraph], width: int | None) -> None:
    """Raises InputError where a task of one of the graphs has more than `width` parents or children."""
    if width is None:
        return
    for index, graph in enumerate(graphs):
        for kind, column in (("parents", 1), ("children", 0)):
            most = np.bincount(graph.edges[:, column], minlength=1).max()
            if most > width:
                raise InputError(
                    f"graph {index} has a task with {most} {kind}; "
                    f"accepted: at most neighbour_width = {width} (set when the policy is trained)"
                )


def encode(dag: DagArrays, neighbour_width: int | None, outlook: bool = False) -> jax.Array:
    """The embedding of each task (IV-B): position, the four times, and what is told of parents and of children.

    That is their positions up to a width, as in the paper; or, without a width, summaries that hold any number of them:
    `log(1 + count)`, their mean, nearest and farthest position, and mean and maximum of each of their four times.
    Times are divided by the DAG's mean `T_ue` (by its mean total time where no task computes): one scalar, so that
    ratios between computing and channel stay visible. Positions are (1-based) divided by n; an absent neighbour is 0.
    Nothing depends on padding or on other DAGs.

    Args:
        dag: one DAG, no leading axes.
        neighbour_width: W, room for that many parents and as many children. `check_neighbour_width` refuses what does
            not fit; where that was not called, the features of such a task are NaN, never silently cut. None takes
            summaries.
        outlook: whether `task_outlook` is told too.

    Returns:
        float[N, F], F = 5 + 2 W, or 29 with summaries, and 7 with the outlook (`num_features`); 0 on padding.
    """
    n = jnp.maximum(dag.mask.sum(), 1)
    own_position = ((jnp.arange(dag.mask.shape[0]) + 1) / n).astype(dag.ue.dtype)
    times = _four_times(dag) / time_scale(dag)
    if neighbour_width is None:
        parents = _pooled_neighbours(dag.parents, own_position, times, nearest_is_last=True)
        children = _pooled_neighbours(dag.parents.T, own_position, times, nearest_is_last=False)
    else:
        parents = _neighbour_positions(dag.parents, own_position, neighbour_width)
        children = _neighbour_positions(dag.parents.T, own_position, neighbour_width)
    features_of_tasks = [own_position[:, None], times, parents, children]
    if outlook:
        features_of_tasks.append(task_outlook(dag))
    features = jnp.concatenate(features_of_tasks, axis=-1)
    return jnp.where(dag.mask[:, None], features, 0)


def task_outlook(dag: DagArrays) -> jax.Array:
    """What comes after each task: how long the longest way from its result to the end is, and how much work is left.

    The way is measured three times: with all its tasks local, all offloaded (the rank (13), less the task's own time),
    and each where it takes less; no queue is waited for. The work left is the sum of each of the four times over the
    tasks later in the scheduling order. All in shares of the DAG's sum of `T_ue` (as in `encode`, of all times where no
    task computes).

    Args:
        dag: one DAG, no leading axes.

    Returns:
        float[N, 7].
    """
    offloaded = (dag.uplink + dag.vm + dag.downlink)[:, 0]
    times = jnp.stack([dag.ue, offloaded, jnp.minimum(dag.ue, offloaded)], axis=-1)
    positions = jnp.arange(dag.mask.shape[0])

    def body(ways: jax.Array, step: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        position, children, own = step  # ways: with the tasks' own times, of those after `position`
        after = jnp.max(jnp.where(children[:, None], ways, 0), axis=0)
        return ways.at[position].set(after + own), after

    _, after = jax.lax.scan(body, jnp.zeros_like(times), (positions, dag.parents.T, times), reverse=True)
    times_of_each = _four_times(dag)
    left = jnp.cumsum(times_of_each[::-1], axis=0)[::-1] - times_of_each
    total = time_scale(dag) * jnp.maximum(dag.mask.sum(), 1)
    return jnp.concatenate([after, left], axis=-1) / total


def encode_all(dags: DagArrays, neighbour_width: int | None, outlook: bool = False) -> jax.Array:
    """`encode` of each of G DAGs, so many at a time that what is made between costs `ENCODING_BYTES` at most.

    Args:
        dags: leading axis G.
        neighbour_width: as `encode` takes it.
        outlook: as `encode` takes it.

    Returns:
        float[G, N, F].
    """
    graphs, size = dags.mask.shape
    at_once = max(1, ENCODING_BYTES // (size * size * dags.ue.dtype.itemsize))
    if graphs <= at_once:
        return jax.vmap(lambda dag: encode(dag, neighbour_width, outlook))(dags)
    return jax.lax.map(lambda dag: encode(dag, neighbour_width, outlook), dags, batch_size=at_once)


def _neighbour_positions(adjacent: jax.Array, own_position: jax.Array, width: int) -> jax.Array:
    """Scaled positions of each row's neighbours in ascending order, then 0: [N, width]."""
    positions = jnp.sort(jnp.where(adjacent, own_position[None, :], jnp.inf), axis=-1)[:, :width]
    positions = jnp.where(jnp.isinf(positions), 0, positions)
    positions = jnp.pad(positions, ((0, 0), (0, width - positions.shape[-1])))
    return jnp.where(adjacent.sum(axis=-1, keepdims=True) > width, jnp.nan, positions)


def _pooled_neighbours(
    adjacent: jax.Array, own_position: jax.Array, times: jax.Array, *, nearest_is_last: bool
) -> jax.Array:
    """Summaries of each row's neighbours, of any number and in any order; 0 where there are none.

    Args:
        adjacent: bool[N, N].
        own_position: float[N].
        times: float[N, 4], scaled.
        nearest_is_last: the nearest of parents is the last of them, of children the first.

    Returns:
        float[N, 12]: log(1 + count); mean, nearest and farthest position; mean and maximum of each time.
    """
    dtype = times.dtype
    count = adjacent.sum(axis=-1).astype(dtype)
    columns = jnp.concatenate([own_position[:, None], times], axis=-1)
    # Full precision: accelerators round the operands of products otherwise, and these are inputs.
    sums = jnp.matmul(adjacent.astype(dtype), columns, precision=jax.lax.Precision.HIGHEST)
    means = sums / jnp.maximum(count, 1)[:, None]
    # One column at a time: a reduction of [N, N] that is never stored, where [N, N, 4] would be.
    last, *largest = (jnp.where(adjacent, column[None, :], 0).max(axis=-1) for column in columns.T)
    first = jnp.where(adjacent, own_position[None, :], jnp.inf).min(axis=-1)
    first = jnp.where(count > 0, first, 0)
    nearest, farthest = (last, first) if nearest_is_last else (first, last)
    own = [jnp.log1p(count), means[:, 0], nearest, farthest]
    return jnp.concatenate([jnp.stack(own, axis=-1), means[:, 1:], jnp.stack(largest, axis=-1)], axis=-1)


def _four_times(dag: DagArrays) -> jax.Array:
    """`T_ue`, and `T_ul`, `T_m`, `T_dl` of the one server that the paper's network knows: [N, 4]."""
    return jnp.stack([dag.ue, dag.uplink[:, 0], dag.vm[:, 0], dag.downlink[:, 0]], axis=-1)


def time_scale(dag: DagArrays) -> jax.Array:
    """The scalar that divides a DAG's times: its mean `T_ue`, seconds."""
    n = jnp.maximum(dag.mask.sum(), 1)
    compute, total = dag.ue.sum(), _four_times(dag).sum()
    scale = jnp.where(compute > 0, compute, total) / n
    return jnp.where(scale > 0, scale, 1)


def simulator_features(scale: jax.Array, queues: latency.Queues, ends: latency.TaskEnds) -> jax.Array:
    """What the simulator knows as a task is decided: when resources are free and when the task would finish.

    Relative to the makespan so far (a positive finish is what the reward would lose), in units of `time_scale`.

    Args:
        scale: `time_scale` of the DAG.
        queues: state before the decision.
        ends: `latency.candidate_ends` of the task.

    Returns:
        float[7].
    """
    of_server = [queues.uplink, queues.vm, queues.downlink, ends.upload, ends.download]
    uplink, vm, downlink, upload, download = (value[0] for value in of_server)
    now = [uplink, vm, downlink, queues.ue, upload, download, ends.ue]
    return (jnp.stack(now) - queues.makespan) / scale


def lookahead_features(scale: jax.Array, queues: latency.Queues, local: jax.Array, offloaded: jax.Array) -> jax.Array:
    """What comes of a decision if a rule decides all others: the better outcome, and by how much local is better.

    Relative to the makespan so far, in units of `time_scale`; the difference, mostly a hundredth of the whole, in
    tenths of it.

    Args:
        scale: `time_scale` of the DAG.
        queues: state before the decision.
        local: makespan if the task is run locally, seconds.
        offloaded: makespan if it is offloaded, seconds.

    Returns:
        float[2].
    """
    best = jnp.minimum(local, offloaded) - queues.makespan
    return jnp.stack([best, 10 * (offloaded - local)]) / scale


def candidate_features(scale: jax.Array, outcomes: jax.Array, ready: jax.Array) -> jax.Array:
    """Where the next task is chosen, too: how much worse each candidate's decisions end than the best of all.

    The logarithm of 1 and that many hundredths of `time_scale`: 0 of the best, and already far from it where a choice
    costs a thousandth of the makespan. 0, too, of tasks that are not ready.

    Args:
        scale: `time_scale` of the DAG.
        outcomes: [K, 2], makespan if a candidate is run locally, and if it is offloaded, seconds.
        ready: bool[K], which of them are candidates.

    Returns:
        float[K, 2].
    """
    best = jnp.where(ready.any(), jnp.where(ready[:, None], outcomes, jnp.inf).min(), 0)
    return jnp.where(ready[:, None], jnp.log1p(100 * (outcomes - best) / scale), 0)
