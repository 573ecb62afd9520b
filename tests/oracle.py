"""Plain-Python oracle of the offloading model: written from the model's text, sharing nothing with the package.

The simulator is event driven: four first-in-first-out servers, each with its own queue of jobs and one heap of
completions. The package computes the same end times by the recurrence (7)-(10) of the paper, so an error in either
shows as a disagreement.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

UPLINK, VM, DOWNLINK, UE = "uplink", "vm", "downlink", "ue"
CHANNELS = ("paper", "mrlco", "mrlco_code")


class Dag(NamedTuple):
    """An application; `edges` are (parent, child) pairs of task ids, which need not be topological."""

    cycles: list[float]
    upload_bytes: list[float]
    download_bytes: list[float]
    edges: list[tuple[int, int]]

    @property
    def num_tasks(self) -> int:
        return len(self.cycles)

    def parents(self) -> list[list[int]]:
        return [sorted(p for p, c in self.edges if c == task) for task in range(self.num_tasks)]

    def children(self) -> list[list[int]]:
        return [sorted(c for p, c in self.edges if p == task) for task in range(self.num_tasks)]


class Mec(NamedTuple):
    """Clocks in Hz, rates in bit/s."""

    ue_hz: float = 1e9
    vm_hz: float = 10e9
    uplink_bps: float = 7e6
    downlink_bps: float = 7e6
    channel: str = "paper"


class Times(NamedTuple):
    """Seconds that each task holds each server."""

    upload: list[float]
    vm: list[float]
    download: list[float]
    ue: list[float]


class Result(NamedTuple):
    """End times by task id; 0 where a task does not use the server (or is not part of `order`)."""

    upload_end: list[float]
    vm_end: list[float]
    download_end: list[float]
    ue_end: list[float]
    makespan: float


class Plan(NamedTuple):
    placement: list[int]
    order: list[int]
    makespan: float


def task_times(dag: Dag, mec: Mec) -> Times:
    return Times(
        upload=[8.0 * size / mec.uplink_bps for size in dag.upload_bytes],
        vm=[cycles / mec.vm_hz for cycles in dag.cycles],
        download=[8.0 * size / mec.downlink_bps for size in dag.download_bytes],
        ue=[cycles / mec.ue_hz for cycles in dag.cycles],
    )


def simulate(dag: Dag, mec: Mec, placement: Sequence[int], order: Sequence[int]) -> Result:
    """Runs the tasks of `order` (all of them, or any prefix of a linear extension) through the four servers."""
    times = task_times(dag, mec)
    seconds = {UPLINK: times.upload, VM: times.vm, DOWNLINK: times.download, UE: times.ue}
    parents = dag.parents()
    queues: dict[str, deque[int]] = {server: deque() for server in seconds}
    for task in order:
        for server in (UPLINK, VM, DOWNLINK) if placement[task] else (UE,):
            queues[server].append(task)
    end = {server: [0.0] * dag.num_tasks for server in seconds}
    finished: set[tuple[str, int]] = set()
    busy = dict.fromkeys(seconds, False)
    completions: list[tuple[float, int, str, int, bool]] = []
    serial = itertools.count()

    def result_on_device(task: int) -> bool:
        return (DOWNLINK if placement[task] else UE, task) in finished

    def sent_or_on_device(task: int) -> bool:
        return (UPLINK if placement[task] else UE, task) in finished

    def may_start(server: str, task: int) -> bool:
        if server == UE:
            return all(result_on_device(parent) for parent in parents[task])
        if server == UPLINK:
            available = result_on_device if mec.channel == "paper" else sent_or_on_device
            return all(available(parent) for parent in parents[task])
        if server == VM:
            computed = all((VM, parent) in finished for parent in parents[task] if placement[parent])
            return (UPLINK, task) in finished and computed
        return (VM, task) in finished

    def occupies(server: str, task: int) -> bool:
        if server == DOWNLINK:
            return mec.channel == "paper"  # MRLCO has no downlink queue
        return not (server == UPLINK and mec.channel == "mrlco_code" and not parents[task])

    def start_whatever_can(now: float) -> None:
        for server, queue in queues.items():
            while queue and not busy[server] and may_start(server, queue[0]):
                task = queue.popleft()
                busy[server] = occupies(server, task)
                job = (now + seconds[server][task], next(serial), server, task, busy[server])
                heapq.heappush(completions, job)

    start_whatever_can(0.0)
    while completions:
        now, _, server, task, occupied = heapq.heappop(completions)
        end[server][task] = now
        finished.add((server, task))
        if occupied:
            busy[server] = False
        start_whatever_can(now)
    if any(queues.values()):
        raise ValueError(f"{list(order)} is not a prefix of a linear extension: some task never starts")
    makespan = max([*end[UE], *end[DOWNLINK]])
    return Result(end[UPLINK], end[VM], end[DOWNLINK], end[UE], makespan)


def is_linear_extension(dag: Dag, order: Sequence[int]) -> bool:
    place = {int(task): position for position, task in enumerate(order)}
    return sorted(place) == list(range(dag.num_tasks)) == sorted(map(int, order)) and all(
        place[p] < place[c] for p, c in dag.edges
    )


def ranks(dag: Dag, mec: Mec, rank: str = "total") -> list[float]:
    """Equation (13): own weight plus the largest rank of a child."""
    times, children = task_times(dag, mec), dag.children()
    weight = [u + m + d for u, m, d in zip(times.upload, times.vm, times.download, strict=True)]
    if rank == "min":
        weight = [min(local, remote) for local, remote in zip(times.ue, weight, strict=True)]
    value: list[float] = [0.0] * dag.num_tasks
    for task in reversed(topological_order(dag)):
        value[task] = weight[task] + max((value[child] for child in children[task]), default=0.0)
    return value


def take_ready(dag: Dag, key: Sequence[float]) -> list[int]:
    """Repeatedly takes, among tasks whose parents are placed, the one of smallest (key, id)."""
    parents, placed = dag.parents(), []
    left = set(range(dag.num_tasks))
    while left:
        ready = [task for task in left if all(parent in placed for parent in parents[task])]
        task = min(ready, key=lambda t: (key[t], t))
        placed.append(task)
        left.remove(task)
    return placed


def topological_order(dag: Dag) -> list[int]:
    """Smallest ready id first."""
    return take_ready(dag, [0.0] * dag.num_tasks)


def priority_order(dag: Dag, mec: Mec, rank: str = "total") -> list[int]:
    return take_ready(dag, [-value for value in ranks(dag, mec, rank)])


def own_finish_rule(
    dag: Dag, mec: Mec, order: list[int], decided: Sequence[int] = (), toll: tuple[float, float] = (0.0, 0.0)
) -> Plan:
    """Each task takes the side with its own smaller finish time given the tasks before it; a tie offloads.

    The first tasks of the order go where `decided` says. Offloading costs a toll: so many mean UE times and so many
    times its own upload.
    """
    times = task_times(dag, mec)
    mean = sum(times.ue) / dag.num_tasks
    placement = [0] * dag.num_tasks
    for position, task in enumerate(order):
        if position < len(decided):
            placement[task] = decided[position]
            continue
        prefix = order[: position + 1]
        placement[task] = 0
        local = simulate(dag, mec, placement, prefix).ue_end[task]
        placement[task] = 1
        offloaded = simulate(dag, mec, placement, prefix).download_end[task]
        charged = toll[0] * mean + toll[1] * times.upload[task]
        placement[task] = int(offloaded + charged <= local)
    return Plan(placement, order, simulate(dag, mec, placement, order).makespan)


def greedy(dag: Dag, mec: Mec) -> Plan:
    return own_finish_rule(dag, mec, topological_order(dag))


def heft(dag: Dag, mec: Mec) -> Plan:
    return own_finish_rule(dag, mec, priority_order(dag, mec))


def best_placement(dag: Dag, mec: Mec, order: list[int]) -> Plan:
    """The optimum over all 2^n placements in one fixed order."""
    plans = itertools.product((0, 1), repeat=dag.num_tasks)
    best = min(plans, key=lambda placement: simulate(dag, mec, placement, order).makespan)
    return Plan(list(best), order, simulate(dag, mec, best, order).makespan)
