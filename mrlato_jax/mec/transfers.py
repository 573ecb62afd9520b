"""The transfers of a plan: what is sent over which link, and when.

The recurrence in `mec/latency.py` stores for each link only when the link is free. `Schedule` holds enough to compute
the transfer times, except where results stay: there the queues of the links are simulated here once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.mec.latency import LOCAL, Schedule
from mrlato_jax.mec.system import CHANNELS, System, move_times, task_times


class Movement(NamedTuple):
    """The transfer of a task's input or result from one site to another, without times."""

    task: int  # the task whose input or result is sent
    needed_by: int  # the task that needs it; `task` itself for its input, and for a result sent to the UE at once
    source: int  # site
    target: int  # site


class Transfer(NamedTuple):
    """The transfer of a task's input or result from one site to another; times in seconds."""

    task: int  # the task whose input or result is sent
    needed_by: int  # the task that needs it; `task` itself for its input, and for a result sent to the UE at once
    source: int  # site
    target: int  # site
    start: float
    end: float

    @property
    def server(self) -> int:
        """The server of the transfer; between two servers, the target."""
        return self.source if self.target == LOCAL else self.target


def link_of(system: System, source: int, target: int) -> str:
    """Names the link between two sites: "backhaul", "uplink" or "downlink"; with separate radios, also the server."""
    if LOCAL not in (source, target):
        return "backhaul"
    kind = "uplink" if source == LOCAL else "downlink"
    return kind if system.radio == "shared" or system.num_servers == 1 else f"{kind} {max(source, target)}"


def movements(graph: TaskGraph, results_stay: bool, sites: Sequence[int], sequence: Sequence[int]) -> list[Movement]:
    """Lists the transfers of a plan, in the scheduling order of the tasks that need them. Each link keeps this order.

    Args:
        graph: the application.
        results_stay: whether a result stays where it was computed and is sent once to each other site that needs it.
        sites: site of each task, by its id.
        sequence: task ids in scheduling order.
    """
    place = {task: position for position, task in enumerate(sequence)}
    there, sent = set(enumerate(sites)), []
    for task in sequence:
        site, parents = sites[task], sorted(graph.parents(task).tolist(), key=place.__getitem__)
        if site != LOCAL and (not results_stay or not parents):
            sent.append(Movement(task, task, LOCAL, site))
        for parent in parents if results_stay else ():
            if (parent, site) not in there:
                there.add((parent, site))
                sent.append(Movement(parent, task, sites[parent], site))
        if site != LOCAL and (not results_stay or not graph.children(task).size):
            sent.append(Movement(task, task, site, LOCAL))
    return sent


def transfers(
    graph: TaskGraph, system: System, placement: np.ndarray, order: np.ndarray, schedule: Schedule
) -> list[Transfer]:
    """Returns the `movements` of a simulated plan with their times.

    Where transfers queue, each link serves them in this order. Under "mrlco" and "mrlco_code" downloads overlap. Under
    "mrlco_code" uploads of tasks without parents overlap, too.

    Args:
        graph: the application.
        system: the system it runs on.
        placement: int[n], sites by task id.
        order: int[n], task ids in scheduling order.
        schedule: result of `simulate` for this plan.
    """
    stay, sites = CHANNELS[system.channel].results_stay, placement.tolist()
    sent = movements(graph, stay, sites, order.tolist())
    if stay:
        return _where_results_stay(graph, system, sites, sent, schedule)
    times, timed = task_times(graph, system), []
    for task, needed_by, source, target in sent:
        up = source == LOCAL
        end = (schedule.upload_end if up else schedule.download_end)[task]
        seconds = times.uplink[task, target - 1] if up else times.downlink[task, source - 1]
        timed.append(Transfer(task, needed_by, source, target, float(end - seconds), float(end)))
    return timed


def _where_results_stay(
    graph: TaskGraph, system: System, sites: list[int], sent: list[Movement], schedule: Schedule
) -> list[Transfer]:
    """Computes `transfers` under "resident"."""
    times, moves = task_times(graph, system), move_times(graph, system)
    computed = np.where(np.array(sites) == LOCAL, schedule.ue_end, schedule.vm_end)
    free: dict[str, float] = {}
    timed = []
    for task, needed_by, source, target in sent:
        ready = float(computed[task])
        if target == LOCAL:
            seconds = times.downlink[task, source - 1]
        elif source != LOCAL:
            seconds = moves.backhaul[task]
        elif task == needed_by:
            seconds, ready = times.uplink[task, target - 1], 0.0
        else:
            seconds = moves.forward[task, target - 1]
        link = link_of(system, source, target)
        start = max(free.get(link, 0.0), ready)
        free[link] = start + float(seconds)
        timed.append(Transfer(task, needed_by, source, target, start, free[link]))
    return timed
