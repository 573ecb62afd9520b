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


# The wider system: several servers, pins, results that stay, energy. Written from its equations, one task after another
# and one transfer after another; with one server it must give what the event-driven simulator above gives.


class Edge(NamedTuple):
    """Site 0 is the UE, sites 1 to K are servers, with a clock in Hz and rates in bit/s each. Power in watts."""

    ue_hz: float
    vm_hz: tuple[float, ...]
    uplink_bps: tuple[float, ...]
    downlink_bps: tuple[float, ...]
    channel: str = "resident"
    radio: str = "shared"
    backhaul_bps: float = 1e9
    power: tuple[float, float, float, float] = (1.0, 1.3, 1.2, 0.0)  # computing, sending, receiving, idle


class Outcome(NamedTuple):
    makespan: float
    energy: float
    result_end: list[float]  # of each task: when its computing ends, or its download where it is brought home at once


def outcome(dag: Dag, edge: Edge, sites: Sequence[int], order: Sequence[int]) -> Outcome:
    """Takes the tasks in order through the queues of `edge`."""
    return (_results_stay if edge.channel == "resident" else _results_return)(dag, edge, sites, order)


def _radio(edge: Edge, site: int) -> int:
    return 0 if edge.radio == "shared" else site


def _energy(edge: Edge, computing: float, sending: float, receiving: float, makespan: float) -> float:
    compute_w, send_w, receive_w, idle_w = edge.power
    return compute_w * computing + send_w * sending + receive_w * receiving + idle_w * makespan


def _results_return(dag: Dag, edge: Edge, sites: Sequence[int], order: Sequence[int]) -> Outcome:
    up: dict[int, float] = {}
    down: dict[int, float] = {}
    vm: dict[int, float] = {}
    ue_free = computing = sending = receiving = 0.0
    at_ue, sent, computed = [0.0] * dag.num_tasks, [0.0] * dag.num_tasks, [0.0] * dag.num_tasks
    parents = dag.parents()
    for task in order:
        site = sites[task]
        ready = max([at_ue[p] for p in parents[task]], default=0.0)
        if site == 0:
            took = dag.cycles[task] / edge.ue_hz
            ue_free = max(ue_free, ready) + took
            at_ue[task] = sent[task] = ue_free
            computing += took
            continue
        radio, k = _radio(edge, site), site - 1
        sendable = ready if edge.channel == "paper" else max([sent[p] for p in parents[task]], default=0.0)
        took = 8 * dag.upload_bytes[task] / edge.uplink_bps[k]
        uploaded = max(up.get(radio, 0.0), sendable) + took
        sending += took
        if parents[task] or edge.channel != "mrlco_code":
            up[radio] = max(up.get(radio, 0.0), uploaded)
        begin = max([vm.get(site, 0.0), uploaded, *(computed[p] for p in parents[task])])
        vm[site] = computed[task] = begin + dag.cycles[task] / edge.vm_hz[k]
        took = 8 * dag.download_bytes[task] / edge.downlink_bps[k]
        downloaded = (max(down.get(radio, 0.0), vm[site]) if edge.channel == "paper" else vm[site]) + took
        down[radio] = max(down.get(radio, 0.0), downloaded)
        receiving += took
        at_ue[task], sent[task] = downloaded, uploaded
    makespan = max([at_ue[task] for task in order], default=0.0)
    return Outcome(makespan, _energy(edge, computing, sending, receiving, makespan), at_ue)


def _results_stay(dag: Dag, edge: Edge, sites: Sequence[int], order: Sequence[int]) -> Outcome:
    up: dict[int, float] = {}
    down: dict[int, float] = {}
    vm: dict[int, float] = {}
    ue_free = backhaul_free = computing = sending = receiving = 0.0
    at: dict[tuple[int, int], float] = {}
    ended = [0.0] * dag.num_tasks
    latest = 0.0
    place = {task: position for position, task in enumerate(order)}
    parents, children = dag.parents(), dag.children()
    for task in order:
        site = sites[task]
        moved = sorted((p for p in parents[task] if (p, site) not in at), key=place.__getitem__)
        if site > 0 and not parents[task]:
            took = 8 * dag.upload_bytes[task] / edge.uplink_bps[site - 1]
            radio = _radio(edge, site)
            up[radio] = up.get(radio, 0.0) + took
            sending += took
            given = up[radio]
        else:
            given = 0.0
        for parent in moved:
            size = 8 * dag.download_bytes[parent]
            if site == 0:
                took, radio = size / edge.downlink_bps[sites[parent] - 1], _radio(edge, sites[parent])
                down[radio] = at[parent, 0] = max(down.get(radio, 0.0), ended[parent]) + took
                receiving += took
            elif sites[parent] == 0:
                took, radio = size / edge.uplink_bps[site - 1], _radio(edge, site)
                up[radio] = at[parent, site] = max(up.get(radio, 0.0), at[parent, 0]) + took
                sending += took
            else:
                backhaul_free = at[parent, site] = max(backhaul_free, ended[parent]) + size / edge.backhaul_bps
        ready = max([given, *(at[p, site] for p in parents[task])])
        if site == 0:
            took = dag.cycles[task] / edge.ue_hz
            ended[task] = ue_free = max(ue_free, ready) + took
            computing += took
        else:
            ended[task] = vm[site] = max(vm.get(site, 0.0), ready) + dag.cycles[task] / edge.vm_hz[site - 1]
        at[task, site] = ended[task]
        if site > 0 and not children[task]:
            took, radio = 8 * dag.download_bytes[task] / edge.downlink_bps[site - 1], _radio(edge, site)
            down[radio] = at[task, 0] = max(down.get(radio, 0.0), ended[task]) + took
            receiving += took
        latest = max(latest, at.get((task, 0), 0.0) if not children[task] else 0.0)
    ends = [max(end, at.get((task, 0), 0.0) if not children[task] else 0.0) for task, end in enumerate(ended)]
    return Outcome(latest, _energy(edge, computing, sending, receiving, latest), ends)


def allowed_sites(edge: Edge, pin: str) -> range:
    every = len(edge.vm_hz) + 1
    return {"any": range(every), "ue": range(1), "server": range(1, every)}[pin]


def onward(dag: Dag, edge: Edge, pins: Sequence[str], energy_weight: float = 0.0) -> list[list[float]]:
    """PEFT's table where results stay: what comes after each task from each site, if nothing ever waits."""
    compute_w, send_w, receive_w, idle_w = (energy_weight * watts for watts in edge.power)
    second, children = 1 + idle_w, dag.children()
    table: list[list[float]] = [[] for _ in range(dag.num_tasks)]

    def work(task: int, site: int) -> float:
        if site == 0:
            return (second + compute_w) * dag.cycles[task] / edge.ue_hz
        home = 0.0 if children[task] else 8 * dag.download_bytes[task] / edge.downlink_bps[site - 1]
        return second * dag.cycles[task] / edge.vm_hz[site - 1] + (second + receive_w) * home

    def move(task: int, source: int, target: int) -> float:
        bits = 8 * dag.download_bytes[task]
        if source == target:
            return 0.0
        if source == 0:
            return (second + send_w) * bits / edge.uplink_bps[target - 1]
        return (
            (second + receive_w) * bits / edge.downlink_bps[source - 1]
            if target == 0
            else second * bits / edge.backhaul_bps
        )

    for task in reversed(topological_order(dag)):
        for site in range(len(edge.vm_hz) + 1):
            after = [
                min(
                    move(task, site, to) + work(child, to) + table[child][to] for to in allowed_sites(edge, pins[child])
                )
                for child in children[task]
            ]
            table[task].append(max(after, default=0.0))
    return table


def rule_where_results_stay(
    dag: Dag,
    edge: Edge,
    pins: Sequence[str],
    order: Sequence[int],
    decided: Sequence[int],
    toll: tuple[float, float, float],
    energy_weight: float = 0.0,
) -> float:
    """What a plan costs whose first tasks go where `decided` says, each other one where its own result costs least.

    Servers cost so many mean UE times and so many times the task's upload more, and each site so many times what
    `onward` says of it; ties offload.
    """
    second = 1 + energy_weight * edge.power[3]
    mean, later = sum(dag.cycles) / edge.ue_hz / dag.num_tasks, onward(dag, edge, pins, energy_weight)
    sites = [0] * dag.num_tasks
    for position, task in enumerate(order):
        if position < len(decided):
            sites[task] = decided[position]
            continue
        costs = {}
        for site in allowed_sites(edge, pins[task]):
            sites[task] = site
            found = outcome(dag, edge, sites, order[: position + 1])
            spent = energy_weight * (found.energy - edge.power[3] * found.makespan)
            charged = toll[2] * later[task][site]
            if site:
                upload = 8 * dag.upload_bytes[task] / edge.uplink_bps[site - 1]
                charged += second * (toll[0] * mean + toll[1] * upload)
            costs[site] = second * found.result_end[task] + spent + charged
        servers = [site for site in costs if site]
        best = min(servers, key=lambda site: costs[site], default=0)
        sites[task] = best if 0 not in costs or (servers and costs[best] <= costs[0]) else 0
    found = outcome(dag, edge, sites, order)
    return found.makespan + energy_weight * found.energy


def best_outcome(
    dag: Dag,
    edge: Edge,
    order: Sequence[int],
    pins: Sequence[str],
    energy_weight: float = 0.0,
    deadline: float | None = None,
) -> tuple[bool, float]:
    """Over all placements that the pins allow: whether the deadline is missed, and the least cost (makespan, if so)."""
    keys = []
    for sites in itertools.product(*(allowed_sites(edge, pin) for pin in pins)):
        makespan, energy, _ = outcome(dag, edge, sites, order)
        late = deadline is not None and makespan > deadline
        cost = makespan + energy_weight * energy if deadline is None else energy
        keys.append((late, makespan if late else cost))
    return min(keys)
