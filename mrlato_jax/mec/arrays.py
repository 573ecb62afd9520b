"""DAGs as padded arrays in scheduling order: the form that every jitted function takes.

Letters used for shapes throughout the project:
    B  DAGs in a batch          G  DAGs of one learning task      R  rollouts (trajectories) of one DAG
    N  positions of a padded DAG (N >= n, its number of tasks)    T  learning tasks        F  features
A *position* is a place in the scheduling order; padding comes after the last task.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number, check_type, shorten
from mrlato_jax.mec.priority import check_order, priority_order
from mrlato_jax.mec.system import System, task_times

MAX_PARENTS_BYTES = 2**30  # of `DagArrays.parents`: one DAG of 32,768 positions, or 2.7 million of 20


@dataclasses.dataclass(frozen=True)
class DagArrays:
    """One DAG under one system (or a batch of them, with leading axes), in scheduling order.

    Attributes:
        ue, uplink, vm, downlink: float[..., N], `T_ue`, `T_ul`, `T_m`, `T_dl` in seconds; 0 on padding.
        parents: bool[..., N, N], `parents[i, j]`: the task at position j is a parent of the one at i (so j < i).
        mask: bool[..., N], True for tasks, False for padding.
        order: int32[..., N], task id at each position; -1 on padding.
        channel: name of the channel rules; static, so each is compiled apart.
    """

    ue: Any
    uplink: Any
    vm: Any
    downlink: Any
    parents: Any
    mask: Any
    order: Any
    channel: str = "paper"


jax.tree_util.register_dataclass(
    DagArrays,
    data_fields=["ue", "uplink", "vm", "downlink", "parents", "mask", "order"],
    meta_fields=["channel"],
)


def pack(
    graphs: Sequence[TaskGraph],
    system: System | Sequence[System],
    *,
    orders: Sequence[Any] | None = None,
    num_positions: int | None = None,
    dtype: Any = np.float32,
) -> DagArrays:
    """Packs graphs for the jittable core; runs on the host.

    Args:
        graphs: the DAGs, any sizes.
        system: the system they run on, or one for each, all of one channel.
        orders: a scheduling order for each graph; by default `priority_order`.
        num_positions: N; by default the largest number of tasks.
        dtype: of the times, a floating-point one.

    Returns:
        numpy-backed `DagArrays` with leading axis B = len(graphs).

    Raises:
        InputError: no graphs, a graph of more than `num_positions` tasks, more than `MAX_PARENTS_BYTES` of parents, an
            order that is no linear extension, a `dtype` of integers, or times beyond its range (`out_of_range`).
    """
    size = padded_to("graphs", graphs, num_positions)
    check_floating(dtype)
    systems = one_for_each(system, len(graphs))
    for i, one in enumerate(systems):
        if one.channel != systems[0].channel:
            accepted = f"accepted: {systems[0].channel!r}, as system[0]"
            raise InputError(f"system[{i}] has channel {one.channel!r}; {accepted}")
    if orders is None:
        checked = [priority_order(graph, one) for graph, one in zip(graphs, systems, strict=True)]
    elif not isinstance(orders, Sequence):
        raise InputError(f"orders is {shorten(orders)}; accepted: a sequence, one order for each graph")
    elif len(orders) != len(graphs):
        raise InputError(f"orders has {len(orders)} entries; accepted: {len(graphs)}, one for each graph")
    else:
        checked = [check_order(graph, order) for graph, order in zip(graphs, orders, strict=True)]
    batch = len(graphs)
    ue, uplink, vm, downlink = (np.zeros((batch, size), dtype) for _ in range(4))
    parents = np.zeros((batch, size, size), bool)
    mask = np.zeros((batch, size), bool)
    order = np.full((batch, size), -1, np.int32)
    for b, (graph, o, one) in enumerate(zip(graphs, checked, systems, strict=True)):
        n, times = graph.num_tasks, task_times(graph, one)
        if wrong := out_of_range(times, dtype):
            raise InputError(f"graphs[{b}] under {one}: {wrong}")
        ue[b, :n], uplink[b, :n] = times.ue[o], times.uplink[o]
        vm[b, :n], downlink[b, :n] = times.vm[o], times.downlink[o]
        position = np.empty(n, np.int64)
        position[o] = np.arange(n)
        parents[b, position[graph.edges[:, 1]], position[graph.edges[:, 0]]] = True
        mask[b, :n], order[b, :n] = True, o
    return DagArrays(ue, uplink, vm, downlink, parents, mask, order, channel=systems[0].channel)


def padded_to(field: str, graphs: Any, num_positions: int | None) -> int:
    """N: `num_positions`, or the largest number of tasks; errors call the graphs `field`.

    Raises:
        InputError: no sequence of at least one graph, or an N that is too small, or too large for `MAX_PARENTS_BYTES`.
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
    """What of these times is out of the range of `dtype`, as a message says it; None where nothing is.

    Where times are in range, no positive time rounds to zero, and every plan's makespan is finite: it is at most their
    sum.

    Args:
        times: of each resource, [..., N], seconds, in float64.
        dtype: a floating-point one.
    """
    limits, together = np.finfo(dtype), np.stack(times)
    least = together.min(where=together > 0, initial=np.inf)
    if least < limits.tiny:
        return f"a time is {least} s; accepted: 0, or at least {limits.tiny} s, the least of {limits.dtype}"
    with np.errstate(over="ignore"):
        total = together.sum(axis=(0, -1)).max()
    if not total <= limits.max:
        return f"the times overflow {limits.dtype}, together {total} s; accepted: at most {limits.max} s"
    return None


def check_floating(dtype: Any) -> None:
    """Raises InputError unless `dtype` is one of floating-point numbers."""
    try:
        floating = np.issubdtype(np.dtype(dtype), np.floating)
    except TypeError:
        floating = False
    if not floating:
        raise InputError(f"dtype is {shorten(dtype)}; accepted: float32 or float64")


def one_for_each(system: Any, count: int) -> list[System]:
    """A system, or a sequence of as many as there are graphs, as a list of so many.

    Raises:
        InputError: neither.
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
