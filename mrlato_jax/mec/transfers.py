"""What a plan sends over which link, one transfer after the other: for pictures, and for those who carry it out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.mec.latency import LOCAL, Schedule
from mrlato_jax.mec.system import CHANNELS, System, move_times, task_times


class Transfer(NamedTuple):
    """A task's input or result on its way between two sites; seconds."""

    task: int  # whose input or result is sent
    needed_by: int  # the task that waits for it; `task` itself for its input, and for a result that comes home last
    source: int  # site
    target: int  # site
    start: float
    end: float

    @property
    def link(self) -> str:
        """The kind of link."""
        return "uplink" if self.source == LOCAL else "downlink" if self.target == LOCAL else "backhaul"


def transfers(
    graph: TaskGraph, system: System, placement: np.ndarray, order: np.ndarray, schedule: Schedule
) -> list[Transfer]:
    """The transfers of a simulated plan, as the links begin them: each link serves them in this order.

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
    times, found = task_times(graph, system), []
    for task in sequence:
        if (site := sites[task]) != LOCAL:
            sent, received = schedule.upload_end[task], schedule.download_end[task]
            start, back = sent - times.uplink[task, site - 1], received - times.downlink[task, site - 1]
            found.append(Transfer(task, task, LOCAL, site, float(start), float(sent)))
            found.append(Transfer(task, task, site, LOCAL, float(back), float(received)))
    return found


def _where_results_stay(
    graph: TaskGraph, system: System, sites: list[int], sequence: list[int], schedule: Schedule
) -> list[Transfer]:
    """`transfers` under "resident": a result goes once to each other site that needs it."""
    times, moves = task_times(graph, system), move_times(graph, system)
    place = {task: position for position, task in enumerate(sequence)}
    done = np.where(np.array(sites) == LOCAL, schedule.ue_end, schedule.vm_end)
    there = {(task, site) for task, site in enumerate(sites)}
    free: dict[tuple[str, int], float] = {}
    found: list[Transfer] = []

    def send(task: int, needed_by: int, source: int, target: int, ready: float, seconds: float) -> None:
        one = Transfer(task, needed_by, source, target, 0.0, 0.0)
        radio = 0 if system.radio == "shared" or one.link == "backhaul" else max(source, target)
        start = max(free.get((one.link, radio), 0.0), ready)
        free[one.link, radio] = start + seconds
        found.append(one._replace(start=start, end=start + seconds))

    for task in sequence:
        site, parents = sites[task], sorted(graph.parents(task).tolist(), key=place.__getitem__)
        if site != LOCAL and not parents:
            send(task, task, LOCAL, site, 0.0, float(times.uplink[task, site - 1]))
        for parent in parents:
            if (parent, site) in there:
                continue
            there.add((parent, site))
            source = sites[parent]
            if source == LOCAL:
                seconds = moves.forward[parent, site - 1]
            else:
                seconds = times.downlink[parent, source - 1] if site == LOCAL else moves.backhaul[parent]
            send(parent, task, source, site, float(done[parent]), float(seconds))
        if site != LOCAL and not graph.children(task).size:
            send(task, task, site, LOCAL, float(done[task]), float(times.downlink[task, site - 1]))
    return found
