"""The inputs of a policy: the encoded DAG, and quantities of the simulator (state (12)).

The state of the decision process is the encoded DAG and the decisions so far. Queue ends and candidate finish times are
functions of this state alone, so a policy may see them (`simulator_features`).
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

FOUR_TIMES, SIX_TIMES = 4, 6  # times of a task: with one server, and with any_servers, where results may stay
SYSTEM_FEATURES = 9  # features of pins (two) and of the system, with any_servers
OUTLOOK_FEATURES = 3  # in addition, one for each time
POOLED_FEATURES = 4  # for a task's parents, and again for its children; in addition, two for each time
SIMULATOR_FEATURES = 7
LOOKAHEAD_FEATURES = 2
OPTION_FEATURES = 9
OPTION_LOOKAHEAD_FEATURES = 2
ENCODING_BYTES = 2**26  # limit of one float[N, N] for all DAGs encoded side by side


class FeatureSettings(NamedTuple):
    """Which features `encode` returns: three settings of the network."""

    neighbour_width: int | None = None  # W, room for W parents and W children; None: summaries
    outlook: bool = False  # whether `task_outlook` is included
    any_servers: bool = False  # whether features cover several servers, results that stay, pins and energy


def feature_settings(network: NetworkConfig) -> FeatureSettings:
    """Returns the feature settings of a network."""
    return FeatureSettings(network.neighbour_limit, network.outlook, network.any_servers)


def num_features(settings: FeatureSettings) -> int:
    """Returns F, the number of features of a task in `encode`."""
    times = SIX_TIMES if settings.any_servers else FOUR_TIMES
    pooled = POOLED_FEATURES + 2 * times
    neighbours = 2 * (pooled if settings.neighbour_width is None else settings.neighbour_width)
    more = SYSTEM_FEATURES if settings.any_servers else 0
    return 1 + times + neighbours + (OUTLOOK_FEATURES + times if settings.outlook else 0) + more


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


def encode(dag: DagArrays, settings: FeatureSettings) -> jax.Array:
    """Returns the features of each task (IV-B): its position, its times, and features of its parents and children.

    With a width, a neighbour's feature is its position, as in the paper. Without a width, summaries stand for any
    number of neighbours: `log(1 + count)`, mean, nearest and farthest position, and mean and maximum of each time.
    One scalar divides all times: the DAG's mean `T_ue` (its mean total time where no task computes). So the ratios
    between computing and channel stay visible. Positions are 1-based and divided by n; an absent neighbour is 0.
    The features do not depend on padding or on other DAGs.

    Args:
        dag: one DAG, no leading axes.
        settings: selects the features. The features of a task with more than W neighbours are NaN, never silently cut;
            `check_neighbour_width` refuses such tasks.

    Returns:
        float[N, F], F = 5 + 2 W, or 29 with summaries, and 7 more with the outlook; further features with any_servers
        (`num_features`); 0 on padding.
    """
    n = jnp.maximum(dag.mask.sum(), 1)
    own_position = ((jnp.arange(dag.mask.shape[0]) + 1) / n).astype(dag.ue.dtype)
    times = _times(dag, settings.any_servers) / time_scale(dag)
    if settings.neighbour_width is None:
        parents = _pooled_neighbours(dag.parents, own_position, times, nearest_is_last=True)
        children = _pooled_neighbours(dag.parents.T, own_position, times, nearest_is_last=False)
    else:
        parents = _neighbour_positions(dag.parents, own_position, settings.neighbour_width)
        children = _neighbour_positions(dag.parents.T, own_position, settings.neighbour_width)
    features_of_tasks = [own_position[:, None], times, parents, children]
    if settings.outlook:
        features_of_tasks.append(task_outlook(dag, settings.any_servers))
    if settings.any_servers:
        features_of_tasks.append(system_features(dag))
    features = jnp.concatenate(features_of_tasks, axis=-1)
    return jnp.where(dag.mask[:, None], features, 0)


def system_features(dag: DagArrays) -> jax.Array:
    """Returns features that are no times: pins, whether results stay, the radio, the number of servers, the prices.

    Args:
        dag: one DAG, no leading axes.

    Returns:
        float[N, 9]: 1 where the UE is forbidden; 1 where every server is forbidden; then features of the system, the
        same for each task: 1 where results stay; 1 where each server has its own radio; 1 / K; the shares of the
        makespan, of computing, sending and receiving in `DagArrays.prices`.
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
    """Returns the longest path from each task's result to the end, and the work of later tasks.

    The path is measured three times, without waiting for queues: with all tasks local, with all tasks offloaded (the
    rank (13) minus the task's own time), and with each task where it takes less time. The work of later tasks is the
    sum of each of the times over the tasks later in the scheduling order. All values are shares of the DAG's sum of
    `T_ue` (of all times where no task computes).

    Args:
        dag: one DAG, no leading axes.
        any_servers: whether all servers count; a task is offloaded to the quickest server.

    Returns:
        float[N, 7]; with any_servers float[N, 9].
    """
    times_of_each = _times(dag, any_servers)
    offloaded = times_of_each[:, 1:4].sum(axis=1) if any_servers else (dag.uplink + dag.vm + dag.downlink)[:, 0]
    times = jnp.stack([dag.ue, offloaded, jnp.minimum(dag.ue, offloaded)], axis=-1)
    positions = jnp.arange(dag.mask.shape[0])

    def body(paths: jax.Array, step: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        position, children, own = step  # paths: of the tasks after `position`, with their own times
        after = jnp.max(jnp.where(children[:, None], paths, 0), axis=0)
        return paths.at[position].set(after + own), after

    _, after = jax.lax.scan(body, jnp.zeros_like(times), (positions, dag.parents.T, times), reverse=True)
    left = jnp.cumsum(times_of_each[::-1], axis=0)[::-1] - times_of_each
    total = time_scale(dag) * jnp.maximum(dag.mask.sum(), 1)
    return jnp.concatenate([after, left], axis=-1) / total


def encode_all(dags: DagArrays, settings: FeatureSettings) -> jax.Array:
    """Returns `encode` of each of G DAGs; encodes a number of them side by side within `ENCODING_BYTES`.

    Args:
        dags: DAGs with leading axis G.
        settings: as in `encode`.

    Returns:
        float[G, N, F].
    """
    graphs, size = dags.mask.shape
    at_once = max(1, ENCODING_BYTES // (size * size * dags.ue.dtype.itemsize))
    if graphs <= at_once:
        return jax.vmap(lambda dag: encode(dag, settings))(dags)
    return jax.lax.map(lambda dag: encode(dag, settings), dags, batch_size=at_once)


def _neighbour_positions(adjacent: jax.Array, own_position: jax.Array, width: int) -> jax.Array:
    """Returns the scaled positions of each row's neighbours in ascending order, then 0: [N, width]."""
    positions = jnp.sort(jnp.where(adjacent, own_position[None, :], jnp.inf), axis=-1)[:, :width]
    positions = jnp.where(jnp.isinf(positions), 0, positions)
    positions = jnp.pad(positions, ((0, 0), (0, width - positions.shape[-1])))
    return jnp.where(adjacent.sum(axis=-1, keepdims=True) > width, jnp.nan, positions)


def _pooled_neighbours(
    adjacent: jax.Array, own_position: jax.Array, times: jax.Array, *, nearest_is_last: bool
) -> jax.Array:
    """Returns summaries of each row's neighbours, of any number and in any order; 0 where there are none.

    Args:
        adjacent: bool[N, N].
        own_position: float[N].
        times: float[N, T], scaled.
        nearest_is_last: whether the last neighbour is the nearest (true for parents, false for children).

    Returns:
        float[N, 4 + 2 T]: log(1 + count); mean, nearest and farthest position; mean and maximum of each time.
    """
    dtype = times.dtype
    count = adjacent.sum(axis=-1).astype(dtype)
    columns = jnp.concatenate([own_position[:, None], times], axis=-1)
    # Without full precision, accelerators would round the operands, which are inputs of the network.
    sums = jnp.matmul(adjacent.astype(dtype), columns, precision=jax.lax.Precision.HIGHEST)
    means = sums / jnp.maximum(count, 1)[:, None]
    # One column at a time: XLA does not store the [N, N] of a reduction, but would store [N, N, 4].
    last, *largest = (jnp.where(adjacent, column[None, :], 0).max(axis=-1) for column in columns.T)
    first = jnp.where(adjacent, own_position[None, :], jnp.inf).min(axis=-1)
    first = jnp.where(count > 0, first, 0)
    nearest, farthest = (last, first) if nearest_is_last else (first, last)
    own = [jnp.log1p(count), means[:, 0], nearest, farthest]
    return jnp.concatenate([jnp.stack(own, axis=-1), means[:, 1:], jnp.stack(largest, axis=-1)], axis=-1)


def _times(dag: DagArrays, any_servers: bool) -> jax.Array:
    """Returns the times of each task: `_four_times`, or with `any_servers` six times: [N, 4 or 6].

    The six are T_ue; T_ul, T_m and T_dl of the server with the least sum of these three; the time of the result up to
    that server, and between two servers. The last two are 0 where results return.
    """
    if not any_servers:
        return _four_times(dag)
    quickest = jnp.argmin(dag.uplink + dag.vm + dag.downlink, axis=1)[:, None]
    nothing = jnp.zeros(dag.vm.shape, dag.ue.dtype)
    forward = nothing if dag.forward is None else dag.forward
    of_server = [
        jnp.take_along_axis(times, quickest, axis=1)[:, 0] for times in (dag.uplink, dag.vm, dag.downlink, forward)
    ]
    return jnp.stack([dag.ue, *of_server, nothing[:, 0] if dag.backhaul is None else dag.backhaul], axis=-1)


def _four_times(dag: DagArrays) -> jax.Array:
    """Returns `T_ue`, and `T_ul`, `T_m`, `T_dl` of the one server: [N, 4]."""
    return jnp.stack([dag.ue, dag.uplink[:, 0], dag.vm[:, 0], dag.downlink[:, 0]], axis=-1)


def time_scale(dag: DagArrays) -> jax.Array:
    """Returns the scalar that divides a DAG's times: its mean `T_ue`, seconds.

    Where no task computes, the scalar is the mean sum of the least times on any server.
    """
    n = jnp.maximum(dag.mask.sum(), 1)
    least = (times.min(axis=1) for times in (dag.uplink, dag.vm, dag.downlink))
    compute, total = dag.ue.sum(), jnp.stack([dag.ue, *least], axis=-1).sum()
    scale = jnp.where(compute > 0, compute, total) / n
    return jnp.where(scale > 0, scale, 1)


def cost_scale(dag: DagArrays, scale: jax.Array) -> jax.Array:
    """Returns the scalar that divides a DAG's costs: the mean cost per task of computing on the UE, with the makespan.

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
    """Returns the simulator's quantities before a decision: when resources become free and when the task would end.

    Times are relative to the makespan so far, in units of `time_scale`. A positive end is the loss of reward.

    Args:
        scale: `time_scale` of the DAG.
        queues: state before the decision.
        ends: `latency.candidate_ends` of the task.

    Returns:
        float[7]: when uplink, VM, downlink and UE become free; end of the upload, of the download, and on the UE.
    """
    of_server = [queues.uplink, queues.vm, queues.downlink, ends.upload, ends.download]
    uplink, vm, downlink, upload, download = (value[0] for value in of_server)
    now = [uplink, vm, downlink, queues.ue, upload, download, ends.ue]
    return (jnp.stack(now) - queues.makespan) / scale


def option_features(
    dag: DagArrays, scale: jax.Array, queues: latency.Queues, task: latency.Task, ends: latency.TaskEnds
) -> jax.Array:
    """Returns the simulator's quantities of each site for a task: the same quantities of the UE and of every server.

    Times are relative to the makespan so far, in units of `time_scale`; times of links are 0 for the UE.

    Args:
        dag: one DAG, no leading axes.
        scale: its `time_scale`.
        queues: state before the decision.
        task: the task.
        ends: its `latency.candidate_ends`.

    Returns:
        float[K + 1, 9]: 1 for the UE, else 0; 1 where the site is allowed; when the uplink, the processor and the
        downlink become free; when the upload, the processing and the result are done; the cost of computing and
        transfers, in units of `cost_scale`.
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
    """Returns look-ahead features of each option, where a rule decides the later tasks.

    The first is log(1 + 100 x / scale), where x is the cost above the best option. It is 0 for the best option, and
    already clearly above 0 where a choice costs a thousandth of the whole. The second is the best outcome relative to
    the cost so far, in units of the scale, the same for all options.

    Args:
        scale: `cost_scale`.
        cost: cost of the decisions so far.
        best: the least outcome of any option.
        outcomes: [K + 1], cost that each site leads to; infinite where the site is forbidden.

    Returns:
        float[K + 1, 2]; 0 in the first column where the site is forbidden.
    """
    possible = jnp.isfinite(outcomes)
    worse = jnp.where(possible, jnp.log1p(100 * (jnp.where(possible, outcomes, best) - best) / scale), 0)
    return jnp.stack([worse, jnp.broadcast_to((best - cost) / scale, outcomes.shape)], axis=-1)


def lookahead_features(scale: jax.Array, queues: latency.Queues, local: jax.Array, offloaded: jax.Array) -> jax.Array:
    """Returns look-ahead features of a decision, where a rule decides the later tasks.

    The first is the better outcome relative to the makespan so far, in units of `time_scale`. The second is the
    advantage of local over offloaded, mostly a hundredth of the whole, in tenths of `time_scale`; 0 where a pin leaves
    one site.

    Args:
        scale: `time_scale` of the DAG.
        queues: state before the decision.
        local: makespan if the task runs locally, seconds.
        offloaded: makespan if the task is offloaded, seconds.

    Returns:
        float[2].
    """
    best = jnp.minimum(local, offloaded) - queues.makespan
    difference = offloaded - local
    return jnp.stack([best, jnp.where(jnp.isfinite(difference), 10 * difference, 0)]) / scale


def candidate_features(scale: jax.Array, outcomes: jax.Array, ready: jax.Array) -> jax.Array:
    """Returns look-ahead features of the candidates for the next task, where actions choose the order.

    Each is log(1 + 100 x / scale), where x is the makespan above the best of all decisions. It is 0 for the best
    decision, and already clearly above 0 where a choice costs a thousandth of the makespan. It is also 0 for tasks that
    are not ready and for sites that pins forbid.

    Args:
        scale: `time_scale` of the DAG.
        outcomes: [K, 2], makespan if a candidate runs locally, and if it is offloaded, seconds.
        ready: bool[K], whether each entry is a ready task.

    Returns:
        float[K, 2].
    """
    best = jnp.where(ready.any(), jnp.where(ready[:, None], outcomes, jnp.inf).min(), 0)
    possible = ready[:, None] & jnp.isfinite(outcomes)
    return jnp.where(possible, jnp.log1p(100 * (jnp.where(possible, outcomes, best) - best) / scale), 0)
