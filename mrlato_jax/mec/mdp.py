"""Offloading one DAG as a Markov decision process: state (12), reward (14).

The state is the encoded DAG and the decisions so far. Queue ends and candidate finish times are functions of exactly
that, so a policy may be shown them (`simulator_features`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.errors import InputError
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays

TASK_FEATURES = 5
SIMULATOR_FEATURES = 7


def check_neighbour_width(arrays: DagArrays, width: int) -> None:
    """Raises InputError where a task of the (host-side) batch has more than `width` parents or children."""
    parents = np.asarray(arrays.parents)
    for kind, axis in (("parents", -1), ("children", -2)):
        counts = parents.sum(axis=axis)
        if counts.max() > width:
            where = np.unravel_index(counts.argmax(), counts.shape)
            raise InputError(
                f"graph {where[0] if len(where) > 1 else 0} has a task with {counts.max()} {kind}; "
                f"accepted: at most neighbour_width = {width} (set when the policy is trained)"
            )


def encode(dag: DagArrays, neighbour_width: int) -> jax.Array:
    """The embedding of each task (IV-B): position, the four times, parents' and children's positions.

    Times are divided by the DAG's mean `T_ue` (by its mean total time where no task computes): one scalar, so that
    ratios between computing and channel stay visible. Positions are (1-based) divided by n; an absent neighbour is 0.
    Nothing depends on padding or on other DAGs.

    Args:
        dag: one DAG, no leading axes.
        neighbour_width: W, room for that many parents and as many children. `check_neighbour_width` refuses what does
            not fit; where that was not called, the features of such a task are NaN, never silently cut.

    Returns:
        float[N, 5 + 2 W], 0 on padding.
    """
    n = jnp.maximum(dag.mask.sum(), 1)
    own_position = ((jnp.arange(dag.mask.shape[0]) + 1) / n).astype(dag.ue.dtype)
    times = jnp.stack([dag.ue, dag.uplink, dag.vm, dag.downlink], axis=-1) / time_scale(dag)
    features = jnp.concatenate(
        [
            own_position[:, None],
            times,
            _neighbour_positions(dag.parents, own_position, neighbour_width),
            _neighbour_positions(dag.parents.T, own_position, neighbour_width),
        ],
        axis=-1,
    )
    return jnp.where(dag.mask[:, None], features, 0)


def _neighbour_positions(adjacent: jax.Array, own_position: jax.Array, width: int) -> jax.Array:
    """Scaled positions of each row's neighbours in ascending order, then 0: [N, width]."""
    found = jnp.sort(jnp.where(adjacent, own_position[None, :], jnp.inf), axis=-1)[:, :width]
    found = jnp.where(jnp.isinf(found), 0, found)
    found = jnp.pad(found, ((0, 0), (0, width - found.shape[-1])))
    return jnp.where(adjacent.sum(axis=-1, keepdims=True) > width, jnp.nan, found)


def time_scale(dag: DagArrays) -> jax.Array:
    """The scalar that divides a DAG's times: its mean `T_ue`, seconds."""
    n = jnp.maximum(dag.mask.sum(), 1)
    compute, total = dag.ue.sum(), (dag.ue + dag.uplink + dag.vm + dag.downlink).sum()
    scale = jnp.where(compute > 0, compute, total) / n
    return jnp.where(scale > 0, scale, 1)


def all_local_makespan(dag: DagArrays) -> jax.Array:
    """The scale of a DAG's rewards: the UE runs one task after the other, so the sum of `T_ue`; 1 where that is 0."""
    total = dag.ue.sum()
    return jnp.where(total > 0, total, 1)


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
    now = [queues.uplink, queues.vm, queues.downlink, queues.ue, ends.upload, ends.download, ends.ue]
    return (jnp.stack(now) - queues.makespan) / scale


def reward(before: latency.Queues, after: latency.Queues) -> jax.Array:
    """(14) with its sign mended: minus the growth of the makespan, seconds. Sums to minus the makespan."""
    return before.makespan - after.makespan
