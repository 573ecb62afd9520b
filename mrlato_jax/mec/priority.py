"""Scheduling orders: the priority (13) and a check for linear extensions."""

from __future__ import annotations

from typing import Any

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph, children_of, smallest_first
from mrlato_jax.errors import InputError, as_array, check_choice, shorten
from mrlato_jax.mec.system import System, TaskTimes, task_times

RANKS = ("total", "min")


def ranks(graph: TaskGraph, system: System, rank: str = "total") -> np.ndarray:
    """Computes the priority (13): a task's own time plus the highest rank among its children.

    Args:
        graph: the application.
        system: the system it runs on.
        rank: own time of a task: "total" is `t_i = T_ul + T_m + T_dl` (paper); "min" is `min(T_ue, T_ul + T_m + T_dl)`
            (MRLCO).

    Returns:
        float64[n], seconds, by task id.

    Raises:
        InputError: `rank` is unknown.
    """
    check_choice("rank", rank, RANKS)
    return _ranks(graph, task_times(graph, system), rank)


def _ranks(graph: TaskGraph, times: TaskTimes, rank: str) -> np.ndarray:
    own = times.offloaded if rank == "total" else np.minimum(times.ue, times.offloaded)
    result, children = own.tolist(), children_of(graph)
    for task in reversed(graph.topological_order().tolist()):
        result[task] += max((result[child] for child in children[task]), default=0.0)
    return np.array(result)


def priority_order(graph: TaskGraph, system: System, rank: str = "total") -> np.ndarray:
    """Returns the scheduling order: next is always the ready task of highest rank; a tie goes to the lowest id.

    A task is ready when its parents are placed. So the order is a linear extension even if tasks cost nothing. Ranks
    never increase along the order.

    Args:
        graph: the application.
        system: the system it runs on.
        rank: "total" or "min", as in `ranks`.

    Returns:
        int64[n], task ids in scheduling order.

    Raises:
        InputError: an argument has a wrong type, or `rank` is unknown.
    """
    priority = ranks(graph, system, rank)  # also checks the arguments
    return smallest_first(graph.edges, -priority)


def order_by_times(graph: TaskGraph, times: TaskTimes) -> np.ndarray:
    """Returns the `priority_order` of a graph from its task times."""
    return smallest_first(graph.edges, -_ranks(graph, times, "total"))


def check_order(graph: TaskGraph, order: Any) -> np.ndarray:
    """Checks that `order` is a linear extension of `graph` and returns it as int64[n].

    Raises:
        InputError: a wrong dtype or length, no permutation of the task ids, or a child before its parent.
    """
    n = graph.num_tasks
    array = as_array("order", order, f"{n} integers, each task id once")
    if array.shape != (n,) or not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            f"order is {shorten(order)} ({array.dtype}, shape {array.shape}); accepted: {n} integers, each task id once"
        )
    if not np.array_equal(np.sort(array), np.arange(n)):
        raise InputError(f"order is {shorten(array.tolist())}; accepted: each task id from 0 to {n - 1} once")
    position = np.empty(n, np.int64)
    position[array] = np.arange(n)
    parent, child = graph.edges[:, 0], graph.edges[:, 1]
    late = np.flatnonzero(position[parent] > position[child])
    if late.size:
        p, c = graph.edges[late[0]].tolist()
        raise InputError(
            f"order places task {c} (position {position[c]}) before its parent {p} (position {position[p]}); "
            "accepted: a linear extension, every parent before its children"
        )
    return array.astype(np.int64)
