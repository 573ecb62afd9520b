"""From measured runs to the `TaskGraph` and the `System` that they imply, so that the next plan knows better.

How long a resource took for a task is counted from when the task could have begun: when its inputs were there and the
resource had done what came before. So what the model does not have (waking up, copying, headers of messages) counts
with the task or the transfer that it delays.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.edge.cases import one
from mrlato_jax.edge.ue import Run
from mrlato_jax.errors import InputError, check_type
from mrlato_jax.mec.latency import LOCAL
from mrlato_jax.mec.system import BITS_PER_BYTE, CHANNELS, System
from mrlato_jax.mec.transfers import movements

SIZES_APART = 2.0  # the largest transfer over the smallest from which on a time for each message can be told apart


class Taken(NamedTuple):
    """How long a resource took for a task or a transfer, seconds."""

    resource: str  # of ue.RESOURCES
    task: int
    needed_by: int
    seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """What runs imply.

    Attributes:
        graph: cycles and bytes with which the model takes as long as the runs did.
        system: clocks and rates.
        runs: how many runs it comes from; those in which something failed are left out.
        spread: of each resource, the middle half of what it took, over the median, where the same was done several
            times: the median over all that it did.
    """

    graph: TaskGraph
    system: System
    runs: int
    spread: Mapping[str, float]


def calibrate(runs: Sequence[Run], graph: TaskGraph, system: System) -> Calibration:
    """The graph and system that measured runs imply.

    A clock is the median, over the tasks that ran there, of the cycles that `graph` says over the seconds that they
    took; then a task's cycles are the median of its seconds times the clock of where it ran. A rate, and a time for
    each message, are a line through the seconds of transfers over their bytes (Theil and Sen's, the median of the
    slopes); the time for each message is added to the bytes. Medians, since a machine in use by others is late now and
    then.

    Args:
        runs: of this application, under any plans and under either rule.
        graph: by which they were planned.
        system: that they were planned for, one server.

    Raises:
        InputError: no run without a failure, runs of another application, or several servers.
    """
    check_type("graph", graph, TaskGraph)
    check_type("system", system, System)
    if system.num_servers != 1:
        raise InputError(f"system has {system.num_servers} servers; accepted: 1, as a run has")
    whole = [run for run in runs if not run.events]
    if not whole:
        raise InputError(f"runs are {len(runs)}, none without a failure; accepted: at least one")
    taken = [entry for run in whole for entry in took(run, graph)]
    seconds: dict[tuple[str, int], list[float]] = defaultdict(list)
    for entry in taken:
        seconds[entry.resource, entry.task].append(entry.seconds)
    clocks = {}
    for resource, nominal in (("UE", one(system.ue_hz)), ("VM", one(system.vm_hz))):
        ratios = [
            graph.cycles[task] / np.median(values)
            for (where, task), values in seconds.items()
            if where == resource and graph.cycles[task] > 0 and np.median(values) > 0
        ]
        clocks[resource] = float(np.median(ratios)) if ratios else nominal
    cycles = graph.cycles.copy()
    for task in range(graph.num_tasks):
        met = [value * clocks[where] for where in clocks for value in seconds.get((where, task), ())]
        if met:
            cycles[task] = np.median(met)
    rates, extra = {}, {}
    for resource, nominal in (("uplink", one(system.uplink_bps)), ("downlink", one(system.downlink_bps))):
        points = [(size_of(graph, entry), entry.seconds) for entry in taken if entry.resource == resource]
        rates[resource], each_s = _line(points, nominal)
        extra[resource] = each_s * rates[resource] / BITS_PER_BYTE
    both = [value for value in extra.values() if value]
    more = float(np.mean(both)) if both else 0.0  # results go over either link
    moved = graph.download_bytes > 0
    return Calibration(
        dataclasses.replace(
            graph,
            cycles=cycles,
            upload_bytes=graph.upload_bytes + np.where(graph.upload_bytes > 0, extra["uplink"], 0.0),
            download_bytes=graph.download_bytes + np.where(moved, more, 0.0),
        ),
        dataclasses.replace(
            system,
            ue_hz=clocks["UE"],
            vm_hz=clocks["VM"],
            uplink_bps=rates["uplink"],
            downlink_bps=rates["downlink"],
        ),
        len(whole),
        _spread(seconds),
    )


def took(run: Run, graph: TaskGraph) -> list[Taken]:
    """How long each resource took for each task and transfer of a run, in scheduling order.

    Raises:
        InputError: the run is of another application.
    """
    if len(run.placement) != graph.num_tasks:
        raise InputError(f"run has {len(run.placement)} tasks; accepted: {graph.num_tasks}, as the graph has")
    ends = {(span.resource, span.task, span.needed_by): span.end for span in run.spans}
    sites, order = run.placement.tolist(), run.order.tolist()
    at: dict[tuple[int, int], float] = {}  # when a result is at a site
    input_there: dict[int, float] = defaultdict(float)
    free: dict[str, float] = defaultdict(float)
    durations = []

    def take(resource: str, task: int, needed_by: int, ready: float) -> float:
        end = ends.get((resource, task, needed_by))
        if end is None:  # no work: an argument, or what is gathered
            return ready
        durations.append(Taken(resource, task, needed_by, end - max(ready, free[resource])))
        free[resource] = end
        return end

    moves = defaultdict(list)
    for move in movements(graph, CHANNELS[run.channel].results_stay, sites, order):
        moves[move.needed_by].append(move)
    for task in order:
        parents = graph.parents(task).tolist()
        for move in moves[task]:
            if move.source == LOCAL:
                own = move.task == task
                ready = max((at.get((p, LOCAL), 0.0) for p in parents), default=0.0) if own else at[move.task, LOCAL]
                end = take("uplink", move.task, task, ready)
                at[move.task, move.target] = at.get((move.task, move.target), end)
                input_there[task] = max(input_there[task], end)
            elif move.task != task:
                at[move.task, LOCAL] = take("downlink", move.task, task, at[move.task, move.source])
        site = sites[task]
        ready = max((at.get((parent, site), 0.0) for parent in parents), default=0.0)
        at[task, site] = take("UE" if site == LOCAL else "VM", task, task, max(ready, input_there[task]))
        for move in moves[task]:
            if move.target == LOCAL and move.task == task:
                at[task, LOCAL] = take("downlink", task, task, at[task, site])
    return durations


def size_of(graph: TaskGraph, entry: Taken) -> float:
    """Bytes of a transfer."""
    own = entry.resource == "uplink" and entry.task == entry.needed_by
    return float((graph.upload_bytes if own else graph.download_bytes)[entry.task])


def _line(points: Sequence[tuple[float, float]], nominal: float) -> tuple[float, float]:
    """Rate in bit/s and seconds for each message, from (bytes, seconds)."""
    sizes, seconds = np.array([point for point in points if min(point) > 0]).reshape(-1, 2).T
    if not len(sizes):
        return nominal, 0.0
    if len(sizes) > 2 and sizes.max() > SIZES_APART * sizes.min():
        i, j = np.triu_indices(len(sizes), 1)
        apart = sizes[i] != sizes[j]
        slope = float(np.median((seconds[i] - seconds[j])[apart] / (sizes[i] - sizes[j])[apart]))
        each = float(np.median(seconds - slope * sizes))
        if slope > 0 and each >= 0:
            return BITS_PER_BYTE / slope, each
    return float(np.median(BITS_PER_BYTE * sizes / seconds)), 0.0


def _spread(seconds: Mapping[tuple[str, int], Sequence[float]]) -> dict[str, float]:
    spreads: dict[str, list[float]] = defaultdict(list)
    for (resource, _), values in seconds.items():
        low, middle, high = np.percentile(values, (25, 50, 75))
        if len(values) > 1 and middle > 0:
            spreads[resource].append((high - low) / middle)
    return {resource: float(np.median(values)) for resource, values in spreads.items()}
