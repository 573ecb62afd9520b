"""What a policy is told: the encoded DAG, and the quantities of the simulator (state (12)).

The state of the decision process is the encoded DAG and the decisions so far. Queue ends and candidate finish times are
functions of exactly that, so a policy may be shown them (`simulator_features`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.config import NetworkConfig
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.system import CHANNELS

FOUR_TIMES, SIX_TIMES = 4, 6  # of a task: on one server, and on any with results that may stay
SYSTEM_FEATURES = 9  # of the two sides of a pin and of the system, where servers may be any
OUTLOOK_FEATURES = 3  # beside one for each time
POOLED_FEATURES = 4  # of a task's parents, and as many of its children, beside two for each time
SIMULATOR_FEATURES = 7
LOOKAHEAD_FEATURES = 2
OPTION_FEATURES = 9
OPTION_LOOKAHEAD_FEATURES = 2
ENCODING_BYTES = 2**26  # of one float[N, N] for each of the DAGs that are encoded side by side


class Told(NamedTuple):
    """What `encode` tells of a DAG: three settings of the network."""

    neighbour_width: int | None = None  # W, room for that many parents and as many children; None takes summaries
    outlook: bool = False  # `task_outlook`, too
    any_servers: bool = False  # of any number of servers, of results that stay, pins and energy


def told(network: NetworkConfig) -> Told:
    """What a network is told."""
    return Told(network.neighbour_limit, network.outlook, network.any_servers)


def num_features(told: Told) -> int:
    """F, the features of a task as `encode` gives them."""
    times = SIX_TIMES if told.any_servers else FOUR_TIMES
    pooled = POOLED_FEATURES + 2 * times
    neighbours = 2 * (pooled if told.neighbour_width is None else told.neighbour_width)
    more = SYSTEM_FEATURES if told.any_servers else 0
    return 1 + times + neighbours + (OUTLOOK_FEATURES + times if told.outlook else 0) + more


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


def encode(dag: DagArrays, told: Told) -> jax.Array:
    """The embedding of each task (IV-B): position, its times, and what is told of parents and of children.

    That is their positions up to a width, as in the paper; or, without a width, summaries that hold any number of them:
    `log(1 + count)`, their mean, nearest and farthest position, and mean and maximum of each of their times.
    Times are divided by the DAG's mean `T_ue` (by its mean total time where no task computes): one scalar, so that
    ratios between computing and channel stay visible. Positions are (1-based) divided by n; an absent neighbour is 0.
    Nothing depends on padding or on other DAGs.

    Args:
        dag: one DAG, no leading axes.
        told: what is told. `check_neighbour_width` refuses tasks with more neighbours than W; where that was not
            called, the features of such a task are NaN, never silently cut.

    Returns:
        float[N, F], F = 5 + 2 W, or 29 with summaries, and 7 with the outlook; more where servers may be any
        (`num_features`); 0 on padding.
    """
    n = jnp.maximum(dag.mask.sum(), 1)
    own_position = ((jnp.arange(dag.mask.shape[0]) + 1) / n).astype(dag.ue.dtype)
    times = _times(dag, told.any_servers) / time_scale(dag)
    if told.neighbour_width is None:
        parents = _pooled_neighbours(dag.parents, own_position, times, nearest_is_last=True)
        children = _pooled_neighbours(dag.parents.T, own_position, times, nearest_is_last=False)
    else:
        parents = _neighbour_positions(dag.parents, own_position, told.neighbour_width)
        children = _neighbour_positions(dag.parents.T, own_position, told.neighbour_width)
    features_of_tasks = [own_position[:, None], times, parents, children]
    if told.outlook:
        features_of_tasks.append(task_outlook(dag, told.any_servers))
    if told.any_servers:
        features_of_tasks.append(system_features(dag))
    features = jnp.concatenate(features_of_tasks, axis=-1)
    return jnp.where(dag.mask[:, None], features, 0)


def system_features(dag: DagArrays) -> jax.Array:
    """What no time says: which sites pins leave, whether results stay, the radio, servers, and what is paid for.

    Args:
        dag: one DAG, no leading axes.

    Returns:
        float[N, 9]: 1 where the UE, and where every server, is forbidden; then of the system, for each task the same:
        1 where results stay; 1 where each server has a radio of its own; 1 / K; the shares of the makespan, of
        computing, sending and receiving in `DagArrays.prices`.
    """
    size, dtype = dag.mask.shape[0], dag.ue.dtype
    pins = jnp.zeros((size, 2), dtype)
    if dag.allowed is not None:
        allowed = jnp.asarray(dag.allowed)
        pins = jnp.stack([~allowed[:, 0], ~allowed[:, 1:].any(axis=1)], axis=-1).astype(dtype)
    kind = [float(CHANNELS[dag.channel].results_stay), float(dag.radio != "shared"), 1 / dag.vm.shape[1]]
    prices = jnp.asarray([1.0, 0, 0, 0] if dag.prices is None else jnp.stack(list(dag.prices)), dtype)
    total = prices.sum()
    of_system = jnp.concatenate([jnp.asarray(kind, dtype), prices / jnp.where(total > 0, total, 1)])
    return jnp.concatenate([pins, jnp.broadcast_to(of_system, (size, len(of_system)))], axis=-1)


def task_outlook(dag: DagArrays, any_servers: bool = False) -> jax.Array:
    """What comes after each task: how long the longest way from its result to the end is, and how much work is left.

    The way is measured three times: with all its tasks local, all offloaded (the rank (13), less the task's own time),
    and each where it takes less; no queue is waited for. The work left is the sum of each of the times over the tasks
    later in the scheduling order. All in shares of the DAG's sum of `T_ue` (as in `encode`, of all times where no
    task computes).

    Args:
        dag: one DAG, no leading axes.
        any_servers: whether all servers are looked at; a task is offloaded to the quickest.

    Returns:
        float[N, 7], or [N, 9].
    """
    times_of_each = _times(dag, any_servers)
    offloaded = times_of_each[:, 1:4].sum(axis=1) if any_servers else (dag.uplink + dag.vm + dag.downlink)[:, 0]
    times = jnp.stack([dag.ue, offloaded, jnp.minimum(dag.ue, offloaded)], axis=-1)
    positions = jnp.arange(dag.mask.shape[0])

    def body(ways: jax.Array, step: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        position, children, own = step  # ways: with the tasks' own times, of those after `position`
        after = jnp.max(jnp.where(children[:, None], ways, 0), axis=0)
        return ways.at[position].set(after + own), after

    _, after = jax.lax.scan(body, jnp.zeros_like(times), (positions, dag.parents.T, times), reverse=True)
    left = jnp.cumsum(times_of_each[::-1], axis=0)[::-1] - times_of_each
    total = time_scale(dag) * jnp.maximum(dag.mask.sum(), 1)
    return jnp.concatenate([after, left], axis=-1) / total


def encode_all(dags: DagArrays, told: Told) -> jax.Array:
    """`encode` of each of G DAGs, so many at a time that what is made between costs `ENCODING_BYTES` at most.

    Args:
        dags: leading axis G.
        told: as `encode` takes it.

    Returns:
        float[G, N, F].
    """
    graphs, size = dags.mask.shape
    at_once = max(1, ENCODING_BYTES // (size * size * dags.ue.dtype.itemsize))
    if graphs <= at_once:
        return jax.vmap(lambda dag: encode(dag, told))(dags)
    return jax.lax.map(lambda dag: encode(dag, told), dags, batch_size=at_once)


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
        times: float[N, T], scaled.
        nearest_is_last: the nearest of parents is the last of them, of children the first.

    Returns:
        float[N, 4 + 2 T]: log(1 + count); mean, nearest and farthest position; mean and maximum of each time.
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


def _times(dag: DagArrays, any_servers: bool) -> jax.Array:
    """`_four_times`; or the times of each task, the quickest server's among them, and of its result: [N, 4 or 6].

    T_ue; T_ul, T_m and T_dl of the server with the least sum of these; how long the result takes up to that server, and
    between two, both 0 where results return.
    """
    if not any_servers:
        return _four_times(dag)
    quickest = jnp.argmin(dag.uplink + dag.vm + dag.downlink, axis=1)[:, None]
    nothing = jnp.zeros(dag.vm.shape, dag.ue.dtype)
    forward = nothing if dag.forward is None else dag.forward
    there = [
        jnp.take_along_axis(times, quickest, axis=1)[:, 0] for times in (dag.uplink, dag.vm, dag.downlink, forward)
    ]
    return jnp.stack([dag.ue, *there, nothing[:, 0] if dag.backhaul is None else dag.backhaul], axis=-1)


def _four_times(dag: DagArrays) -> jax.Array:
    """`T_ue`, and `T_ul`, `T_m`, `T_dl` of the one server that the paper's network knows: [N, 4]."""
    return jnp.stack([dag.ue, dag.uplink[:, 0], dag.vm[:, 0], dag.downlink[:, 0]], axis=-1)


def time_scale(dag: DagArrays) -> jax.Array:
    """The scalar that divides a DAG's times: its mean `T_ue`; where nothing computes, all least times, seconds."""
    n = jnp.maximum(dag.mask.sum(), 1)
    least = (times.min(axis=1) for times in (dag.uplink, dag.vm, dag.downlink))
    compute, total = dag.ue.sum(), jnp.stack([dag.ue, *least], axis=-1).sum()
    scale = jnp.where(compute > 0, compute, total) / n
    return jnp.where(scale > 0, scale, 1)


def cost_scale(dag: DagArrays, scale: jax.Array) -> jax.Array:
    """The scalar that divides a DAG's costs: what computing on the UE, and waiting for it, costs a task in the mean.

    Args:
        dag: one DAG, no leading axes.
        scale: its `time_scale`; the result where the makespan alone counts.
    """
    if dag.prices is None:
        return scale
    local, all_of_them = dag.prices.makespan + dag.prices.compute, jnp.stack(list(dag.prices)).sum()
    price = jnp.where(local > 0, local, all_of_them)
    return scale * jnp.where(price > 0, price, 1)


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


def option_features(
    dag: DagArrays, scale: jax.Array, queues: latency.Queues, task: latency.Task, ends: latency.TaskEnds
) -> jax.Array:
    """What the simulator knows of each site for a task: the same quantities of the UE and of every server.

    Times are relative to the makespan so far, in units of `time_scale`; those of links are 0 for the UE.

    Args:
        dag: one DAG, no leading axes.
        scale: its `time_scale`.
        queues: state before the decision.
        task: the task.
        ends: its `latency.candidate_ends`.

    Returns:
        float[K + 1, 9]: 1 for the UE, else 0; 1 where the site is allowed; when the uplink, the processor and the
        downlink are free; when the upload, the processing and the result are done; what computing and transfers cost,
        in units of `cost_scale`.
    """
    servers, dtype = dag.vm.shape[1], scale.dtype
    ahead = -queues.makespan / scale

    def of_sites(on_ue: jax.Array | float, on_servers: jax.Array) -> jax.Array:
        return jnp.concatenate([jnp.reshape(jnp.asarray(on_ue, dtype), 1), jnp.broadcast_to(on_servers, (servers,))])

    def time(on_ue: jax.Array | None, on_servers: jax.Array) -> jax.Array:
        return of_sites(0.0 if on_ue is None else on_ue / scale + ahead, on_servers / scale + ahead)

    paid = jnp.zeros(servers + 1, dtype)
    if dag.prices is not None:
        paid = of_sites(*latency.site_costs(dag, task, ends)) / cost_scale(dag, scale)
    columns = [
        of_sites(1.0, jnp.zeros(servers, dtype)),
        jnp.ones(servers + 1, dtype) if task.allowed is None else task.allowed.astype(dtype),
        time(None, queues.uplink),
        time(queues.ue, queues.vm),
        time(None, queues.downlink),
        time(None, ends.upload),
        time(ends.ue, ends.vm),
        time(ends.ue, ends.download),
        paid,
    ]
    return jnp.stack(columns, axis=-1)


def option_lookahead_features(scale: jax.Array, cost: jax.Array, best: jax.Array, outcomes: jax.Array) -> jax.Array:
    """What comes of each option if a rule decides all others: how much worse than the best, and the best itself.

    The first is the logarithm of 1 and that many hundredths of the scale: 0 of the best, and already far from it where
    a choice costs a thousandth of the whole. The second, the same of all options, is relative to the cost so far.

    Args:
        scale: `cost_scale`.
        cost: of the decisions so far.
        best: the least outcome of any option.
        outcomes: [K + 1], cost that each site leads to; infinite where it is forbidden.

    Returns:
        float[K + 1, 2]; 0 in the first column where the site is forbidden.
    """
    told = jnp.isfinite(outcomes)
    worse = jnp.where(told, jnp.log1p(100 * (jnp.where(told, outcomes, best) - best) / scale), 0)
    return jnp.stack([worse, jnp.broadcast_to((best - cost) / scale, outcomes.shape)], axis=-1)


def lookahead_features(scale: jax.Array, queues: latency.Queues, local: jax.Array, offloaded: jax.Array) -> jax.Array:
    """What comes of a decision if a rule decides all others: the better outcome, and by how much local is better.

    Relative to the makespan so far, in units of `time_scale`; the difference, mostly a hundredth of the whole, in
    tenths of it, and 0 where a pin leaves no choice.

    Args:
        scale: `time_scale` of the DAG.
        queues: state before the decision.
        local: makespan if the task is run locally, seconds.
        offloaded: makespan if it is offloaded, seconds.

    Returns:
        float[2].
    """
    best = jnp.minimum(local, offloaded) - queues.makespan
    difference = offloaded - local
    return jnp.stack([best, jnp.where(jnp.isfinite(difference), 10 * difference, 0)]) / scale


def candidate_features(scale: jax.Array, outcomes: jax.Array, ready: jax.Array) -> jax.Array:
    """Where the next task is chosen, too: how much worse each candidate's decisions end than the best of all.

    The logarithm of 1 and that many hundredths of `time_scale`: 0 of the best, and already far from it where a choice
    costs a thousandth of the makespan. 0, too, of tasks that are not ready and of sites that pins forbid.

    Args:
        scale: `time_scale` of the DAG.
        outcomes: [K, 2], makespan if a candidate is run locally, and if it is offloaded, seconds.
        ready: bool[K], which of them are candidates.

    Returns:
        float[K, 2].
    """
    best = jnp.where(ready.any(), jnp.where(ready[:, None], outcomes, jnp.inf).min(), 0)
    told = ready[:, None] & jnp.isfinite(outcomes)
    return jnp.where(told, jnp.log1p(100 * (jnp.where(told, outcomes, best) - best) / scale), 0)
