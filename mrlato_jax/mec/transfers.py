"""What a plan sends over which link, and when: the simulator's queues told transfer by transfer.

The recurrence in `mec/latency.py` keeps of each link only when the link is free. `Schedule` has all that is needed to
say more, but where results stay the queues of the links are followed here once more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.mec.latency import LOCAL, Schedule
from mrlato_jax.mec.system import CHANNELS, System, move_times, task_times


class Transfer(NamedTuple):
    """A task's input or result on its way from one site to another; seconds."""

    task: int  # whose input or result is sent
    needed_by: int  # for which task; `task` itself for its input, and for a result that is sent home once computed
    source: int  # site
    target: int  # site
    start: float
    end: float

    @property
    def server(self) -> int:
        """The server at the far end; between two servers the one that is sent to."""
        return self.source if self.target == LOCAL else self.target


def link_of(system: System, source: int, target: int) -> str:
    """The link between two sites: "backhaul", "uplink" or "downlink"; separate radios have the number of the server."""
    if LOCAL not in (source, target):
        return "backhaul"
    kind = "uplink" if source == LOCAL else "downlink"
    return kind if system.radio == "shared" or system.num_servers == 1 else f"{kind} {max(source, target)}"


def transfers(
    graph: TaskGraph, system: System, placement: np.ndarray, order: np.ndarray, schedule: Schedule
) -> list[Transfer]:
    """The transfers of a simulated plan, in scheduling order of the tasks that they are for.

    Where transfers queue, a link serves its own in this order. Under "mrlco" and "mrlco_code" downloads overlap; under
    "mrlco_code" uploads of tasks without parents do, too.

    Args:
        graph: the application.
        system: the system it runs on.
        placement: int[n], sites by task id.
        order: int[n], task ids in scheduling order.
        schedule: `simulate`'s of this plan.
    """
    sites, sequence = placement.tolist(), order.tolist()
    if CHANNELS[system.channel].results_stay:
        return _where_results_stay(graph, system, sites, sequence, schedule)
    times, sent = task_times(graph, system), []
    for task in sequence:
        if (site := sites[task]) != LOCAL:
            for source, target, end, seconds in (
                (LOCAL, site, schedule.upload_end[task], times.uplink[task, site - 1]),
                (site, LOCAL, schedule.download_end[task], times.downlink[task, site - 1]),
            ):
                sent.append(Transfer(task, task, source, target, float(end - seconds), float(end)))
    return sent


def _where_results_stay(
    graph: TaskGraph, system: System, sites: list[int], sequence: list[int], schedule: Schedule
) -> list[Transfer]:
    """`transfers` under "resident": a result goes once to each other site that needs it."""
    times, moves = task_times(graph, system), move_times(graph, system)
    place = {task: position for position, task in enumerate(sequence)}
    computed = np.where(np.array(sites) == LOCAL, schedule.ue_end, schedule.vm_end)
    there = set(enumerate(sites))
    free: dict[str, float] = {}
    sent: list[Transfer] = []

    def send(task: int, needed_by: int, source: int, target: int, ready: float, seconds: float) -> None:
        link = link_of(system, source, target)
        start = max(free.get(link, 0.0), float(ready))
        free[link] = start + float(seconds)
        sent.append(Transfer(task, needed_by, source, target, start, free[link]))

    for task in sequence:
        site, parents = sites[task], sorted(graph.parents(task).tolist(), key=place.__getitem__)
        if site != LOCAL and not parents:
            send(task, task, LOCAL, site, 0.0, times.uplink[task, site - 1])
        for parent in parents:
            if (parent, site) in there:
                continue
            there.add((parent, site))
            source = sites[parent]
            if source == LOCAL:
                seconds = moves.forward[parent, site - 1]
            else:
                seconds = times.downlink[parent, source - 1] if site == LOCAL else moves.backhaul[parent]
            send(parent, task, source, site, computed[parent], seconds)
        if site != LOCAL and not graph.children(task).size:
            send(task, task, site, LOCAL, computed[task], times.downlink[task, site - 1])
    return sent
