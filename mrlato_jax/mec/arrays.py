"""DAGs as padded arrays in scheduling order, the input of every jitted function.

Letters used for shapes throughout the project:
    B  DAGs in a batch          G  DAGs of one learning task      R  rollouts (trajectories) of one DAG
    N  positions of a padded DAG (N >= n, its number of tasks)    T  learning tasks        F  features
    K  servers; site 0 is the UE, site k server k                 L  radios: 1 where they are shared, else K
A *position* is a place in the scheduling order; padding comes after the last task.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number, check_type, shorten
from mrlato_jax.mec.objective import Objective, Prices, goal_of
from mrlato_jax.mec.priority import check_order, order_by_times
from mrlato_jax.mec.system import CHANNELS, MoveTimes, System, TaskTimes, move_times, task_times

MAX_PARENTS_BYTES = 2**30  # size limit of `DagArrays.parents`: one DAG of 32,768 positions, or 2.7 million of 20


class Deadline(NamedTuple):
    """A deadline, and an upper bound of the cost of every plan that meets it."""

    latest: Any  # seconds, the deadline
    dearest: Any  # joules, the bound


@dataclasses.dataclass(frozen=True)
class DagArrays:
    """One DAG under one system (or a batch of them, with leading axes), in scheduling order.

    Attributes:
        ue: float[..., N], `T_ue` in seconds; 0 on padding.
        uplink, vm, downlink: float[..., N, K], `T_ul`, `T_m`, `T_dl` on each server, seconds; 0 on padding.
        parents: bool[..., N, N], `parents[i, j]`: the task at position j is a parent of the one at i (so j < i).
        mask: bool[..., N], True for tasks, False for padding.
        order: int32[..., N], task id at each position; -1 on padding.
        allowed: bool[..., N, K + 1], the sites that pins allow to each task; None if no task is pinned.
        forward: float[..., N, K], seconds to send a task's result up to each server; only with "resident".
        backhaul: float[..., N], seconds to send a task's result between servers; only with "resident".
        prices: prices of the makespan and of energy, each float[...]; None if the makespan alone counts.
        deadline: deadline of the makespan; None without one.
        channel: name of the channel rules; a static field, so each name compiles its own program.
        radio: "shared" or "separate"; a static field, too.
    """

    ue: Any
    uplink: Any
    vm: Any
    downlink: Any
    parents: Any
    mask: Any
    order: Any
    channel: str = "paper"
    radio: str = "shared"
    allowed: Any = None
    forward: Any = None
    backhaul: Any = None
    prices: Prices | None = None
    deadline: Deadline | None = None

    @property
    def num_sites(self) -> int:
        """K + 1; K is the size of the last axis of `vm`."""
        return self.vm.shape[-1] + 1


jax.tree_util.register_dataclass(
    DagArrays,
    data_fields=[
        "ue", "uplink", "vm", "downlink", "parents", "mask", "order", "allowed", "forward", "backhaul", "prices",
        "deadline",
    ],
    meta_fields=["channel", "radio"],
)  # fmt: skip


def trimmed(dags: DagArrays, num_positions: int) -> DagArrays:
    """Returns the DAGs with fewer padded positions; the largest DAG must fit into `num_positions`."""
    size = num_positions
    short = {name: getattr(dags, name)[..., :size] for name in ("ue", "mask", "order")}
    by_server = {
        name: leaf[..., :size, :]
        for name in ("uplink", "vm", "downlink", "allowed", "forward")
        if (leaf := getattr(dags, name)) is not None
    }
    backhaul = None if dags.backhaul is None else dags.backhaul[..., :size]
    return dataclasses.replace(dags, **short, **by_server, parents=dags.parents[..., :size, :size], backhaul=backhaul)


def pack(
    graphs: Sequence[TaskGraph],
    system: System | Sequence[System],
    *,
    orders: Sequence[Any] | None = None,
    num_positions: int | None = None,
    dtype: Any = np.float32,
    objective: Objective | Sequence[Objective] | None = None,
) -> DagArrays:
    """Packs graphs into arrays for the jitted functions; runs on the host.

    Args:
        graphs: the DAGs, any sizes.
        system: the system they run on, or one for each; all have the same channel, radio and number of servers.
        orders: a scheduling order for each graph; by default `priority_order`.
        num_positions: N; by default the largest number of tasks.
        dtype: floating-point dtype of the times.
        objective: the cost to minimise, or one objective for each; by default the makespan.

    Returns:
        numpy-backed `DagArrays` with leading axis B = len(graphs).

    Raises:
        InputError: no graphs, a graph of more than `num_positions` tasks, more than `MAX_PARENTS_BYTES` of parents, an
            order that is not a linear extension, a `dtype` that is not floating-point, times beyond its range
            (`out_of_range`), or a deadline for only some of the graphs.
    """
    size = padded_to("graphs", graphs, num_positions)
    check_floating(dtype)
    objectives = _objective_of_each(objective, len(graphs))
    systems = one_for_each(system, len(graphs))
    for i, one in enumerate(systems):
        for name in ("channel", "radio", "num_servers") if one is not systems[0] else ():
            value, first = getattr(one, name), getattr(systems[0], name)
            if value != first:
                raise InputError(f"system[{i}] has {name} {value!r}; accepted: {first!r}, as system[0]")
    times_of = [task_times(graph, one) for graph, one in zip(graphs, systems, strict=True)]
    if orders is None:
        checked = [order_by_times(graph, times) for graph, times in zip(graphs, times_of, strict=True)]
    elif not isinstance(orders, Sequence):
        raise InputError(f"orders is {shorten(orders)}; accepted: a sequence, one order for each graph")
    elif len(orders) != len(graphs):
        raise InputError(f"orders has {len(orders)} entries; accepted: {len(graphs)}, one for each graph")
    else:
        checked = [check_order(graph, order) for graph, order in zip(graphs, orders, strict=True)]
    batch, servers, stays = len(graphs), systems[0].num_servers, CHANNELS[systems[0].channel].results_stay
    ue, (uplink, vm, downlink) = np.zeros((batch, size), dtype), np.zeros((3, batch, size, servers), dtype)
    forward = np.zeros((batch, size, servers), dtype) if stays else None
    backhaul = np.zeros((batch, size), dtype) if stays else None
    dearest: list[float] = []
    parents = np.zeros((batch, size, size), bool)
    mask = np.zeros((batch, size), bool)
    order = np.full((batch, size), -1, np.int32)
    for b, (graph, o, one, times) in enumerate(zip(graphs, checked, systems, times_of, strict=True)):
        n = graph.num_tasks
        moves = move_times(graph, one) if stays else None
        if wrong := out_of_range([*times, *(moves or ())], dtype):
            raise InputError(f"graphs[{b}] under {one}: {wrong}")
        ue[b, :n], uplink[b, :n] = times.ue[o], times.uplink[o]
        vm[b, :n], downlink[b, :n] = times.vm[o], times.downlink[o]
        if moves is not None:
            assert forward is not None
            assert backhaul is not None
            forward[b, :n], backhaul[b, :n] = moves.forward[o], moves.backhaul[o]
        position = np.empty(n, np.int64)
        position[o] = np.arange(n)
        parents[b, position[graph.edges[:, 1]], position[graph.edges[:, 0]]] = True
        mask[b, :n], order[b, :n] = True, o
        if objectives[b].deadline_s is not None:
            dearest.append(most_joules(one, times, moves))
    deadline = None
    if dearest:
        latest = [goal.latest_s for goal in objectives]
        deadline = Deadline(*np.array(list(zip(latest, dearest, strict=True)), dtype).T.copy())
    return DagArrays(
        ue, uplink, vm, downlink, parents, mask, order,
        allowed=_allowed(graphs, checked, (batch, size, servers + 1)),
        forward=forward,
        backhaul=backhaul,
        prices=stacked_prices([goal.prices(one.power) for goal, one in zip(objectives, systems, strict=True)], dtype),
        deadline=deadline,
        channel=systems[0].channel,
        radio=systems[0].radio,
    )  # fmt: skip


def _allowed(
    graphs: Sequence[TaskGraph], orders: Sequence[np.ndarray], shape: tuple[int, int, int]
) -> np.ndarray | None:
    """Returns the sites that pins allow, bool[B, N, K + 1]; None if no task is pinned."""
    if not any(graph.is_pinned for graph in graphs):
        return None
    allowed = np.ones(shape, bool)
    for row, graph, order in zip(allowed, graphs, orders, strict=True):
        pins = np.array(graph.pins)[order]
        row[: len(pins), 0], row[: len(pins), 1:] = pins != "server", (pins != "ue")[:, None]
    return allowed


def _objective_of_each(objective: Objective | Sequence[Objective] | None, count: int) -> list[Objective]:
    """Returns one objective for each of `count` graphs.

    Raises:
        InputError: a sequence of another length, an entry of another type, or a deadline for only some of the graphs.
    """
    if not isinstance(objective, Sequence):
        return [goal_of(objective)] * count
    if len(objective) != count:
        raise InputError(f"objective has {len(objective)} entries; accepted: an Objective, or {count}, one a graph")
    objectives = [goal_of(one) for one in objective]
    if len({one.deadline_s is None for one in objectives}) > 1:
        raise InputError("objective has a deadline for some graphs alone; accepted: for all of them, or for none")
    return objectives


def alike(batches: Sequence[DagArrays]) -> list[DagArrays]:
    """Makes batches stackable: if one has pins or prices, the others get neutral ones. All else must agree already."""

    def filled(dags: DagArrays) -> DagArrays:
        allowed, prices = dags.allowed, dags.prices
        if allowed is None and any(other.allowed is not None for other in batches):
            allowed = np.ones((*dags.mask.shape, dags.num_sites), bool)
        if prices is None and any(other.prices is not None for other in batches):
            ones = np.ones(dags.mask.shape[:-1], dags.ue.dtype)
            prices = Prices(ones, *[np.zeros_like(ones)] * 3)
        return dataclasses.replace(dags, allowed=allowed, prices=prices)

    return [filled(dags) for dags in batches]


def most_joules(system: System, times: TaskTimes, moves: MoveTimes | None) -> float:
    """Returns an upper bound of the energy of every plan, joules: all tasks use all resources one after the other."""
    seconds = [column.sum() for column in (*times, *(moves or ()))]
    return 2 * system.num_sites * sum(dataclasses.astuple(system.power)) * float(sum(seconds)) + 1


def priced(dags: DagArrays, prices: Sequence[Prices | None]) -> DagArrays:
    """Returns DAGs of leading axis B with new prices, one for each DAG."""
    stacked = stacked_prices(prices, dags.ue.dtype)
    return dags if stacked is dags.prices is None else dataclasses.replace(dags, prices=stacked)


def stacked_prices(prices: Sequence[Prices | None], dtype: Any) -> Prices | None:
    """Stacks the prices of a batch of DAGs, each [B]; None if the makespan alone counts for all of them."""
    if all(one is None for one in prices):
        return None
    filled = [Prices(1.0, 0.0, 0.0, 0.0) if one is None else one for one in prices]
    return Prices(*np.array(filled, dtype).T.copy())


def padded_to(field: str, graphs: Any, num_positions: int | None) -> int:
    """Returns N: `num_positions`, or the largest number of tasks. Errors name the graphs `field`.

    Raises:
        InputError: not a sequence of at least one graph, or an N that is too small or beyond `MAX_PARENTS_BYTES`.
    """
    if not isinstance(graphs, Sequence) or not graphs:
        raise InputError(f"{field} is {shorten(graphs)}; accepted: a sequence of at least one TaskGraph")
    for i, graph in enumerate(graphs):
        check_type(f"{field}[{i}]", graph, TaskGraph)
    largest = max(graph.num_tasks for graph in graphs)
    size = largest if num_positions is None else num_positions
    check_number("num_positions", size, low=largest, integer=True)
    most = math.isqrt(MAX_PARENTS_BYTES // len(graphs))
    if size > most:
        raise InputError(
            f"num_positions is {size} for {len(graphs)} graphs (largest {largest}); accepted: at most {most}"
        )
    return size


def out_of_range(times: Sequence[np.ndarray], dtype: Any) -> str | None:
    """Returns a message about times out of the range of `dtype`; None if all are in range.

    In range, no positive time rounds to zero, and every plan's makespan is finite, since it is at most the sum of all
    times.

    Args:
        times: times of each resource, [..., N] or [..., N, K], seconds, in float64.
        dtype: a floating-point dtype.
    """
    limits, batch = np.finfo(dtype), times[0].ndim - 1
    each = np.concatenate([column.reshape(*column.shape[:batch], -1) for column in times], axis=-1)
    least = each[each > 0].min(initial=np.inf)
    if least < limits.tiny:
        return f"a time is {least} s; accepted: 0, or at least {limits.tiny} s, the least of {limits.dtype}"
    with np.errstate(over="ignore"):
        total = each.sum(axis=-1).max()
    if not total <= limits.max:
        return f"the times overflow {limits.dtype}, together {total} s; accepted: at most {limits.max} s"
    return None


def check_floating(dtype: Any) -> None:
    """Raises InputError unless `dtype` is a floating-point dtype."""
    try:
        floating = np.issubdtype(np.dtype(dtype), np.floating)
    except TypeError:
        floating = False
    if not floating:
        raise InputError(f"dtype is {shorten(dtype)}; accepted: float32 or float64")


def one_for_each(system: Any, count: int) -> list[System]:
    """Returns a list of `count` systems, from one system or from a sequence of `count`.

    Raises:
        InputError: `system` is neither.
    """
    accepted = f"accepted: a System, or {count}, one for each graph"
    if isinstance(system, System):
        return [system] * count
    if not isinstance(system, Sequence):
        raise InputError(f"system is {shorten(system)}; {accepted}")
    if len(system) != count:
        raise InputError(f"system has {len(system)} entries; {accepted}")
    for i, one in enumerate(system):
        check_type(f"system[{i}]", one, System)
    return list(system)
