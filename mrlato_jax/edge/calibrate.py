"""Calibration: estimates a `TaskGraph` and a `System` from measured runs, for better plans.

The time of a task on a resource counts from the moment when the task could have started: its inputs were there, and the
resource had finished its earlier work. So effects that the model lacks (wake-up, copies, message headers) count as part
of the task or transfer that they delay.
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

SIZES_APART = 2.0  # least ratio of largest to smallest transfer for which a time per message is estimated


class Taken(NamedTuple):
    """The time that a resource took for a task or a transfer, seconds."""

    resource: str  # of ue.RESOURCES
    task: int
    needed_by: int
    seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """The result of a calibration.

    Attributes:
        graph: estimated cycles and bytes, under which the model takes as long as the runs did.
        system: estimated clocks and rates.
        runs: number of runs used; runs with a failure are left out.
        spread: for each resource, the interquartile range of repeated times over their median; the median over all
            tasks or transfers that occur several times.
    """

    graph: TaskGraph
    system: System
    runs: int
    spread: Mapping[str, float]


def calibrate(runs: Sequence[Run], graph: TaskGraph, system: System) -> Calibration:
    """Estimates the graph and the system from measured runs.

    The clock of a site is the median, over the tasks that ran there, of their cycles in `graph` over their seconds.
    Then the cycles of a task are the median of its seconds times the clock of its site. A rate and a time per message
    come from a line through the seconds of transfers over their bytes (Theil and Sen: the median of the slopes); the
    time per message is added to the bytes. Medians are robust against delays by other programs on the machine.

    Args:
        runs: runs of this application, with any plans and channel rules.
        graph: the graph used for their plans.
        system: the system used for their plans, with one server.

    Raises:
        InputError: all runs have failures, a run is of another application, or the system has several servers.
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
    more = float(np.mean(both)) if both else 0.0  # results can use either link
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
    """Returns the time of each task and transfer of a run on its resource, in scheduling order.

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
        if end is None:  # a task without work: an argument, or the gathering task
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
    """Returns the bytes of a transfer."""
    own = entry.resource == "uplink" and entry.task == entry.needed_by
    return float((graph.upload_bytes if own else graph.download_bytes)[entry.task])


def _line(points: Sequence[tuple[float, float]], nominal: float) -> tuple[float, float]:
    """Estimates the rate in bit/s and the seconds per message, from points (bytes, seconds)."""
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
