"""A trained policy with NumPy and the standard library only, without JAX and without the rest of this package.

It is for machines without JAX, and the tests compare the JAX policy with it. The file stands alone and may be copied:

    policy = load("general")                       # general.safetensors and general.json
    times = task_times(cycles, upload_bytes, download_bytes, ue_hz=1e9, vm_hz=10e9, uplink_bps=7e6, downlink_bps=7e6)
    placement, order, makespan = policy.plan(times, edges=[(0, 1), (0, 2)])

A policy that was trained with servers=any_servers also plans for several servers and for the cost of energy:

    times = task_times(..., vm_hz=[10e9, 30e9], uplink_bps=[20e6, 8e6], downlink_bps=[20e6, 8e6])
    policy.plan(times, edges, "resident", pins=["ue", "any", "any"], radio="separate", prices=prices(0.5))

The code plans one application at a time and is meant to be read beside the paper; `mrlato_jax.Offloader` is fast.
Deadlines are not supported.
"""

from __future__ import annotations

import copy
import hashlib
import heapq
import json
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Array = Any  # numpy.ndarray
LOCAL = 0  # the site of the UE; those of the servers are 1 to K
FLOAT32 = "F32"
SIZE_BYTES = 8  # width of the length field of a safetensors header, little-endian
MOST_HEADER_BYTES = 2**20
DECODER_INPUTS = {  # numbers of the simulator's quantities that the decoder sees
    "paper": 0,
    "task": 0,
    "task_sim": 7,
    "lookahead": 9,
}
OPTION_INPUTS = {"task_sim": 9, "lookahead": 11}  # the same for each option of a policy with any_servers
TOLLS = ((0.0, 0.0), (-0.4, -0.5), (0.0, -0.5), (0.0, 1.0), (-1.0, -0.25))  # tolls of the look-ahead's rules
ONWARD_TOLLS = (1.0, 0.5, 2.0)  # tolls of the further rules where results stay
PINS = ("any", "ue", "server")
RADIOS = ("shared", "separate")


class Rules(NamedTuple):
    """Rules of the channels: where results are, what an upload waits for, and which transfers queue."""

    upload_waits_for_download: bool  # an upload waits until the parents' results are at the UE; else for their uploads
    downloads_queue: bool  # one download at a time; else each starts when its task is computed
    entry_uploads_queue: bool  # a task without parents occupies the uplink
    results_stay: bool  # a result stays where it was computed until a task elsewhere needs it


CHANNELS = {
    "paper": Rules(True, True, True, False),
    "mrlco": Rules(False, False, True, False),
    "mrlco_code": Rules(False, False, False, False),
    "resident": Rules(True, True, True, True),
}


class Prices(NamedTuple):
    """Costs of a second of each quantity; the cost of a plan is the sum over all four."""

    makespan: float
    compute: float  # the UE computes
    send: float  # an uplink is busy
    receive: float  # a downlink is busy


MAKESPAN = Prices(1.0, 0.0, 0.0, 0.0)  # the makespan alone counts


def prices(
    energy_weight: float,
    compute_w: float = 1.0,
    send_w: float = 1.3,
    receive_w: float = 1.2,
    idle_w: float = 0.0,
) -> Prices | None:
    """Returns the prices under which a plan costs its makespan + `energy_weight` x the UE's energy.

    Args:
        energy_weight: seconds per joule, >= 0.
        compute_w: power of the UE while it computes, watts.
        send_w: power of the UE while an uplink is busy, watts.
        receive_w: power of the UE while a downlink is busy, watts.
        idle_w: power of the UE all the time, in addition to the others, watts.

    Returns:
        The `Prices`; None where the makespan alone counts.

    Raises:
        ValueError: a number is negative or not finite.
    """
    arguments = {
        "energy_weight": energy_weight,
        "compute_w": compute_w,
        "send_w": send_w,
        "receive_w": receive_w,
        "idle_w": idle_w,
    }
    for name, value in arguments.items():
        if not (isinstance(value, numbers.Real) and math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {_short(value)}; accepted: a finite number >= 0")
    if not energy_weight or not any((compute_w, send_w, receive_w, idle_w)):
        return None
    return Prices(
        1 + energy_weight * idle_w, energy_weight * compute_w, energy_weight * send_w, energy_weight * receive_w
    )


class Times(NamedTuple):
    """Seconds of each task on each resource, by task id.

    Times of servers are [n, K] for K servers, or [n] where all servers are alike or there is one server.
    """

    ue: Array  # [n], to compute the task on the UE
    uplink: Array  # to send its input to a server
    vm: Array  # to compute the task on a server
    downlink: Array  # to send its result from a server to the UE
    forward: Array = None  # to send its result from the UE up to a server; needed with "resident" only
    backhaul: Array = None  # [n], to send its result from one server to another; needed with "resident" only


def task_times(
    cycles: Sequence[float],
    upload_bytes: Sequence[float],
    download_bytes: Sequence[float],
    *,
    ue_hz: float,
    vm_hz: float | Sequence[float],
    uplink_bps: float | Sequence[float],
    downlink_bps: float | Sequence[float],
    backhaul_bps: float = 1e9,
) -> Times:
    """Computes the times of every task under a system. Measured times may take their place.

    Args:
        cycles: cycles of each task, by task id.
        upload_bytes: bytes of each task's input; where results stay, used only for tasks without parents.
        download_bytes: bytes of each task's result.
        ue_hz: clock of the UE, cycles per second.
        vm_hz: clocks of the servers, cycles per second; one number, or one for each server.
        uplink_bps: rates to the servers, bit/s; one number, or one for each server.
        downlink_bps: rates from the servers, bit/s; one number, or one for each server.
        backhaul_bps: rate of the link between servers, bit/s; used with "resident" only.
    """
    work, up, down = (np.asarray(values, float) for values in (cycles, upload_bytes, download_bytes))

    def by_server(amounts: Array, rates: float | Sequence[float]) -> Array:
        return amounts[:, None] / np.asarray(rates, float) if np.ndim(rates) else amounts / rates

    return Times(
        ue=work / ue_hz,
        uplink=by_server(8 * up, uplink_bps),
        vm=by_server(work, vm_hz),
        downlink=by_server(8 * down, downlink_bps),
        forward=by_server(8 * down, uplink_bps),
        backhaul=8 * down / backhaul_bps,
    )


def checked(times: Times, results_stay: bool = False) -> Times:
    """Returns the times as arrays, [n] or [n, K]; `forward` and `backhaul` are 0 where results return.

    Raises:
        ValueError: times are missing, are not finite numbers >= 0, or have different lengths.
    """
    fields = times._asdict()
    n = len(np.atleast_1d(times.ue))
    if not results_stay:
        fields |= dict.fromkeys(("forward", "backhaul"), np.zeros(n))
    arrays = {}
    for name, values in fields.items():
        if values is None:
            raise ValueError(f"times.{name} is None; accepted: finite seconds >= 0, one for each task")
        array = arrays[name] = np.asarray(values, float)
        shapes = [(n,)] if name in ("ue", "backhaul") else [(n,), (n, *array.shape[1:2])]
        if array.shape not in shapes or not array.size or not (np.isfinite(array) & (array >= 0)).all():
            accepted = "finite seconds >= 0, one for each task"
            accepted += "" if len(shapes) == 1 else ", or for each task and server"
            raise ValueError(f"times.{name} is {_short(array.tolist())}; accepted: {accepted}")
    servers = {name: array.shape[1] for name, array in arrays.items() if array.ndim == 2}
    if len(set(servers.values())) > 1:
        raise ValueError(f"times has different numbers of servers, {servers}; accepted: equally many")
    shape = (n, *set(servers.values())) if servers else (n, 1)
    for name in ("uplink", "vm", "downlink", "forward"):
        array = arrays[name]
        arrays[name] = np.broadcast_to(array if array.ndim == 2 else array[:, None], shape)
    return Times(**arrays)


def priority_order(times: Times, edges: Iterable[tuple[int, int]]) -> list[int]:
    """Returns the priority order (13).

    Of the tasks whose parents are placed, the task with the longest offloaded path to the end comes first; on ties, the
    lowest id. Each task on the path counts with its time on the server where it takes least.

    Raises:
        ValueError: the edges have a cycle, an edge occurs twice, or an edge names an unknown task.
    """
    times, edges = checked(times), list(edges)
    n = len(times.ue)
    if len(set(edges)) < len(edges):
        raise ValueError("edges hold an edge twice; accepted: each edge once")
    children: list[list[int]] = [[] for _ in range(n)]
    waiting = [0] * n
    for parent, child in edges:
        if not (0 <= parent < n and 0 <= child < n):
            raise ValueError(f"edge ({parent}, {child}) names an unknown task; accepted: 0 to {n - 1}")
        children[parent].append(child)
        waiting[child] += 1

    def kahn(keys: Sequence[float]) -> list[int]:
        left = list(waiting)
        ready = [(keys[task], task) for task in range(n) if not left[task]]
        heapq.heapify(ready)
        ordered = []
        while ready:
            _, task = heapq.heappop(ready)
            ordered.append(task)
            for child in children[task]:
                left[child] -= 1
                if not left[child]:
                    heapq.heappush(ready, (keys[child], child))
        return ordered

    topological = kahn([0.0] * n)
    if len(topological) < n:
        raise ValueError("edges hold a cycle; accepted: an application without cycles")
    rank = [0.0] * n
    own = (times.uplink + times.vm + times.downlink).min(axis=1)
    for task in reversed(topological):
        rank[task] = own[task] + max((rank[child] for child in children[task]), default=0.0)
    return kahn([-value for value in rank])


class Problem(NamedTuple):
    """An application on its system, in scheduling order; K servers."""

    order: list[int]  # task ids
    times: Times  # [n] and [n, K], by position, as all fields below
    parents: list[list[int]]  # positions, ascending
    children: list[list[int]]
    allowed: Array  # bool[n, K + 1], the sites that pins allow
    rules: Rules
    radio: str
    prices: Prices

    @property
    def num_sites(self) -> int:
        """K + 1."""
        return int(self.allowed.shape[1])

    @property
    def scale(self) -> float:
        """Divisor of times: the mean local time, or if all are 0 the mean of the least times on any server."""
        times = self.times
        total = times.ue.sum() or sum(values.min(axis=1).sum() for values in (times.uplink, times.vm, times.downlink))
        return float(total) / len(times.ue) or 1.0

    @property
    def cost_scale(self) -> float:
        """Divisor of costs: the mean cost per task of computing on the UE, with the cost of the makespan."""
        price = self.prices.makespan + self.prices.compute or sum(self.prices) or 1.0
        return self.scale * price


def problem(
    times: Times,
    edges: Iterable[tuple[int, int]],
    channel: str = "paper",
    *,
    pins: Sequence[str] | None = None,
    radio: str = "shared",
    prices: Sequence[float] | None = None,
) -> Problem:
    """Returns the application on its system; arguments and errors as of `Portable.plan`."""
    _one_of("channel", channel, tuple(CHANNELS))
    _one_of("radio", radio, RADIOS)
    edges = [(int(parent), int(child)) for parent, child in edges]
    times = checked(times, CHANNELS[channel].results_stay)
    order = priority_order(times, edges)
    n, position = len(order), {task: k for k, task in enumerate(order)}
    parents: list[list[int]] = [[] for _ in range(n)]
    children: list[list[int]] = [[] for _ in range(n)]
    for parent, child in sorted((position[parent], position[child]) for parent, child in edges):
        parents[child].append(parent)
        children[parent].append(child)
    pins = ["any"] * n if pins is None else pins
    if len(pins) != n:
        raise ValueError(f"pins has {len(pins)} entries; accepted: {n}, one for each task")
    for task, pin in enumerate(pins):
        _one_of(f"pins[{task}]", pin, PINS)
    allowed = np.ones((n, times.vm.shape[1] + 1), bool)
    for k, task in enumerate(order):
        allowed[k, LOCAL], allowed[k, 1:] = pins[task] != "server", pins[task] != "ue"
    paid = np.asarray(MAKESPAN if prices is None else prices, float)
    if paid.shape != (len(MAKESPAN),) or not (np.isfinite(paid) & (paid >= 0)).all():
        raise ValueError(f"prices is {_short(prices)}; accepted: None, or four finite numbers >= 0, as `Prices`")
    ordered = Times(*(values[order] for values in times))
    return Problem(order, ordered, parents, children, allowed, CHANNELS[channel], radio, Prices(*paid.tolist()))


class Ends(NamedTuple):
    """End times of a task in each of M plans; seconds, [M]."""

    upload: Array  # its input is at its server; 0 where nothing had to be sent there
    done: Array  # the task is computed
    result: Array  # its result is at the UE, or where the result stays


class Queues:
    """State of M plans side by side after the tasks placed so far: (7)-(11), for any number of servers.

    Each plan chooses its own sites. Arrays have an entry for each plan on their last axis.

    Attributes:
        uplink, downlink: [K + 1, M], seconds at which the links become free; `radio` maps sites to links.
        processor: [K + 1, M], seconds at which the UE and the servers become free.
        backhaul: [1, M], seconds at which the link between servers becomes free.
        makespan: [M], (11) over the tasks placed so far.
        spent: [M], cost of computing and transfers so far.
        onward: [n, K + 1], least cost after each task from each site (`_onward`); 0 where results return.
        done: [n, M], `Ends.done` of each placed task.
        result, sent: [n, M], `Ends.result` of each placed task, and the time at which its data were at the sender; kept
            where results return.
        site: int[n, M], the site of each placed task; kept where results stay.
        there: bool[n, K + 1, M], the sites that have the result of each placed task, or will get the result; kept where
            results stay.
    """

    def __init__(self, problem: Problem) -> None:
        """One plan, with all resources free."""
        n, sites, times = len(problem.order), problem.num_sites, problem.times
        nothing = np.zeros((n, 1))  # the UE's times on links
        self.problem = problem
        self.onward = _onward(problem) if problem.rules.results_stay else np.zeros((n, sites))
        self.compute = np.hstack([times.ue[:, None], times.vm])
        self.up, self.down, self.forward = (
            np.hstack([nothing, values]) for values in (times.uplink, times.downlink, times.forward)
        )
        self.radio = np.zeros(sites, int) if problem.radio == "shared" else np.arange(sites)
        self.uplink, self.downlink, self.processor = (np.zeros((sites, 1)) for _ in range(3))
        self.backhaul, self.makespan, self.spent = np.zeros((1, 1)), np.zeros(1), np.zeros(1)
        self.done, self.result, self.sent = (np.zeros((n, 1)) for _ in range(3))
        self.site, self.there = np.zeros((n, 1), int), np.zeros((n, sites, 1), bool)

    @property
    def cost(self) -> Array:
        """[M], cost of the tasks placed so far."""
        return self.problem.prices.makespan * self.makespan + self.spent

    def take(self, plans: Array) -> Queues:
        """Returns copies of the plans of these indices; an index may occur several times."""
        other, stays = copy.copy(self), self.problem.rules.results_stay
        of_tasks = ("site", "done", "there") if stays else ("done", "result", "sent")
        for name in ("uplink", "downlink", "processor", "backhaul", "makespan", "spent", *of_tasks):
            setattr(other, name, getattr(self, name).take(plans, axis=-1))
        return other

    def tried(self, k: int) -> tuple[Queues, Ends]:
        """Returns each plan with task k at each site: (K + 1) x M plans, those with the task on the UE first."""
        plans, sites = len(self.makespan), self.problem.num_sites
        other = self.take(np.tile(np.arange(plans), sites))
        return other, other.place(k, np.repeat(np.arange(sites), plans))

    def place(self, k: int, site: Array) -> Ends:
        """Places task k of each plan at a site, int[M], and returns its end times."""
        rules, paid, away = self.problem.rules, self.problem.prices, site != LOCAL
        plans = np.arange(len(site))
        upload, begin = (self._gather if rules.results_stay else self._upload)(k, site)
        done = np.maximum(self.processor[site, plans], begin) + self.compute[k][site]
        self.processor[site, plans] = done
        self.spent = self.spent + np.where(away, 0, paid.compute * self.compute[k][LOCAL])
        result = done
        if not rules.results_stay or not self.problem.children[k]:
            radio, seconds = self.radio[site], self.down[k][site]
            downloaded = self._serve(
                self.downlink, radio, done, seconds, away, paid.receive, waits=rules.downloads_queue
            )
            result = np.where(away, downloaded, done)
        self.done[k] = done
        if rules.results_stay:
            self.site[k], self.there[k, site, plans] = site, True
        else:
            self.result[k], self.sent[k] = result, np.where(away, upload, done)
        self.makespan = np.maximum(self.makespan, result)
        return Ends(upload, done, result)

    def _upload(self, k: int, site: Array) -> tuple[Array, Array]:
        """(7) where results return: the times at which the input is at the server and the task may be computed."""
        rules, parents, away = self.problem.rules, self.problem.parents[k], site != LOCAL
        ready, sent, done = (values[parents].max(axis=0, initial=0) for values in (self.result, self.sent, self.done))
        upload = self._serve(
            self.uplink,
            self.radio[site],
            ready if rules.upload_waits_for_download else sent,
            self.up[k][site],
            away,
            self.problem.prices.send,
            occupies=rules.entry_uploads_queue or bool(parents),
        )
        return upload, np.where(away, np.maximum(upload, done), ready)

    def _gather(self, k: int, site: Array) -> tuple[Array, Array]:
        """As `_upload` where results stay: missing results of parents come from the sites that computed them."""
        paid, away, plans = self.problem.prices, site != LOCAL, np.arange(len(site))
        upload = begin = np.zeros(len(site))
        if not self.problem.parents[k]:
            upload = begin = self._serve(self.uplink, self.radio[site], begin, self.up[k][site], away, paid.send)
        for parent in self.problem.parents[k]:
            source, ready = self.site[parent], self.done[parent]
            missing = ~self.there[parent, site, plans]
            sent = missing & away & (source == LOCAL)
            passed, brought = missing & away & ~sent, missing & ~away
            up, across, down = self.forward[parent], self.problem.times.backhaul[parent], self.down[parent]
            arrivals = (
                self._serve(self.uplink, self.radio[site], ready, up[site], sent, paid.send),
                self._serve(self.backhaul, 0, ready, across, passed),
                self._serve(self.downlink, self.radio[source], ready, down[source], brought, paid.receive),
            )
            self.there[parent, site, plans] = True
            upload, begin = np.maximum.reduce([upload, *arrivals[:2]]), np.maximum.reduce([begin, *arrivals])
        return upload, begin

    def _serve(
        self,
        link: Array,
        radio: Array | int,
        ready: Array,
        seconds: Array,
        used: Array,
        price: float = 0.0,
        *,
        waits: bool = True,
        occupies: bool = True,
    ) -> Array:
        """Returns the end of a transfer that is `ready` and takes `seconds` of a link; 0 in plans where not `used`.

        Links are first in, first out: each transfer waits for the earlier transfers.
        """
        plans = np.arange(len(used))
        free = link[radio, plans]
        end = (np.maximum(free, ready) if waits else ready) + seconds
        if occupies:
            link[radio, plans] = np.where(used, np.maximum(free, end), free)
        if price:
            self.spent = self.spent + np.where(used, price * seconds, 0)
        return np.where(used, end, 0)


class Portable:
    """A policy that places tasks in the priority order.

    Attributes:
        settings: settings of the network, `config.policy` of NAME.json.
        any_servers: whether the policy knows any number of servers and energy, or one server and only the makespan.
        weights: arrays by their names in NAME.safetensors.
    """

    def __init__(self, settings: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
        """Keeps float64 copies of the weights.

        Raises:
            ValueError: the policy chooses the order, which is not supported; the settings cannot be read; or the
                weights do not fit the settings.
        """
        decides = settings.get("decides", "placement")
        if decides != "placement":
            raise ValueError(
                f"decides is {_short(decides)}; accepted: 'placement', a policy that decides only placements"
            )
        self.settings = settings
        self.any_servers = settings.get("servers", "one_server") == "any_servers"
        self.weights = {name.removeprefix("params/"): np.asarray(array, float) for name, array in weights.items()}
        layers = sum(name.startswith("decoder_") and name.endswith("/cell_scale") for name in self.weights)
        stated = settings.get("layers")
        if type(stated) is not int or stated != layers or not layers:  # before arrays of that size are made
            raise ValueError(f"layers is {_short(stated)} and the weights have {layers}; accepted: as many, at least 1")
        for name, shape in _shapes(settings).items():
            array = self.weights.get(name)
            if array is None or array.shape != shape:
                has = "missing" if array is None else f"of shape {array.shape}"
                raise ValueError(f"{name} is {has}; accepted: shape {shape}, which follows from the settings")

    def plan(
        self,
        times: Times,
        edges: Iterable[tuple[int, int]],
        channel: str = "paper",
        *,
        pins: Sequence[str] | None = None,
        radio: str = "shared",
        prices: Sequence[float] | None = None,
    ) -> tuple[list[int], list[int], float]:
        """Returns the likeliest plan.

        Args:
            times: times of each task, by task id.
            edges: pairs (parent, child) of task ids.
            channel: a name in `CHANNELS`.
            pins: where each task may run, by task id: "any" (everywhere), "ue" (only the UE) or "server" (only a
                server); by default "any".
            radio: "shared" (one uplink and one downlink for all servers) or "separate".
            prices: four costs in the order of `Prices`; by default the makespan alone counts.

        Returns:
            Placement by task id (0 the UE, 1 to K the servers), the scheduling order, and the makespan in seconds.

        Raises:
            ValueError: times or prices are no numbers, edges have a cycle or name an unknown task, the channel, the
                radio or a pin is unknown, or a task has more neighbours than the policy has room for. For a policy that
                knows one server and only the makespan: there are several servers or prices.
        """
        given = problem(times, edges, channel, pins=pins, radio=radio, prices=prices)
        if not self.any_servers and given.num_sites > 2:
            raise ValueError(f"times has {given.num_sites - 1} servers; accepted: 1, which this policy knows")
        if not self.any_servers and prices is not None:
            raise ValueError(f"prices is {_short(prices)}; accepted: None, since this policy knows only the makespan")
        outputs, states = self._encode(self._features(given))
        queues, placement = Queues(given), [LOCAL] * len(given.order)
        previous, hidden = 2, np.zeros(self.settings["units"])  # the start symbol, and d_0
        for k, task in enumerate(given.order):
            tried, ends = queues.tried(k)
            seen = self._quantities(queues, k, tried, ends)
            if self.any_servers:
                options = seen @ self.weights["outcome/kernel"]
                seen = np.tanh(options).mean(axis=0)
            inputs = np.concatenate([np.eye(3)[previous], self._attend(hidden, outputs), seen])
            gates = inputs @ self.weights["decoder_0/input_kernel/kernel"]
            if self.settings["decoder_input"] != "paper":
                gates = gates + outputs[k] @ self.weights["task_input/kernel"]
            for layer in range(self.settings["layers"]):
                name = f"decoder_{layer}"
                if layer:
                    gates = hidden @ self.weights[f"{name}/input_kernel/kernel"]
                states[layer] = self._cell(name, *states[layer], gates)
                hidden = states[layer][1]
            judged = hidden
            if self.any_servers:
                of_task = outputs[k] @ self.weights["candidate/kernel"] + self.weights["candidate/bias"]
                judged = np.tanh(options + of_task + hidden @ self.weights["judge/kernel"])
            logits = (judged @ self.weights["logits_head/kernel"] + self.weights["logits_head/bias"]).reshape(-1)
            placement[task] = int(np.argmax(np.where(given.allowed[k], logits, -np.inf)))
            queues = tried.take([placement[task]])
            previous = min(placement[task], 1)  # one symbol stands for all servers
        return placement, given.order, float(queues.makespan[0])

    def _features(self, given: Problem) -> Array:
        n = len(given.order)
        position = np.arange(1, n + 1) / n
        times = _times(given, self.any_servers) / given.scale
        rows = []
        for k in range(n):
            row = [position[k], *times[k]]
            for near, kind in ((given.parents[k], max), (given.children[k], min)):
                if self.settings.get("neighbours", "listed") == "pooled":
                    row += _pooled(near, position, times, kind)
                else:
                    width = self.settings["neighbour_width"]
                    if len(near) > width:
                        raise ValueError(f"a task has {len(near)} neighbours; accepted: at most {width}")
                    row += [*position[near], *[0.0] * (width - len(near))]
            rows.append(row)
        blocks = [np.array(rows)]
        if self.settings.get("task_features", "paper") == "outlook":
            blocks.append(_outlook(given, self.any_servers))
        if self.any_servers:
            blocks.append(_of_system(given))
        return np.concatenate(blocks, axis=1)

    def _encode(self, features: Array) -> tuple[Array, list[tuple[Array, Array]]]:
        outputs = np.tanh(features @ self.weights["embedding/kernel"] + self.weights["embedding/bias"])
        states = []
        for layer in range(self.settings["layers"]):
            halves = [self._read(f"encoder_{layer}", outputs)]
            if self.settings.get("encoder", "forward") == "bidirectional":
                rows, cell, hidden = self._read(f"backward_encoder_{layer}", outputs[::-1])
                halves.append((rows[::-1], cell, hidden))
            outputs, cell, hidden = (np.concatenate(parts, axis=-1) for parts in zip(*halves, strict=True))
            states.append((cell, hidden))
        return outputs, states

    def _read(self, name: str, inputs: Array) -> tuple[Array, Array, Array]:
        cell = hidden = np.zeros(len(self.weights[f"{name}/cell_scale"]))
        rows = []
        for given in inputs @ self.weights[f"{name}/input_kernel/kernel"]:
            cell, hidden = self._cell(name, cell, hidden, given)
            rows.append(hidden)
        return np.array(rows), cell, hidden

    def _cell(self, name: str, cell: Array, hidden: Array, given: Array) -> tuple[Array, Array]:
        gates = (given + hidden @ self.weights[f"{name}/recurrent_kernel/kernel"]).reshape(4, -1)
        gates = _normalised(gates) * self.weights[f"{name}/gate_scale"] + self.weights[f"{name}/gate_bias"]
        write, candidate, forget, read = gates
        cell = cell * _sigmoid(forget + 1) + _sigmoid(write) * np.tanh(candidate)
        cell = _normalised(cell) * self.weights[f"{name}/cell_scale"] + self.weights[f"{name}/cell_bias"]
        return cell, np.tanh(cell) * _sigmoid(read)

    def _attend(self, query: Array, outputs: Array) -> Array:
        heads = self.settings["heads"]
        if not heads:
            return np.zeros_like(query)
        q, k, v = (
            (x @ self.weights[f"{name}/kernel"]).reshape(-1, heads, len(query) // heads)
            for x, name in ((query, "query"), (outputs, "key"), (outputs, "value"))
        )
        scores = np.einsum("hw,nhw->hn", q[0], k) / np.sqrt(len(query) // heads)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return np.einsum("hn,nhw->hw", shares, v).reshape(-1) @ self.weights["context/kernel"]

    def _quantities(self, queues: Queues, k: int, tried: Queues, ends: Ends) -> Array:
        """Returns the simulator's quantities of task k, from the plans that tried the task at each site.

        Returns:
            [O]; with any_servers [K + 1, O], quantities of each site.
        """
        decoder_input, given = self.settings["decoder_input"], queues.problem
        if decoder_input not in ("task_sim", "lookahead"):
            return np.zeros(0)
        free = [queues.uplink[queues.radio], queues.processor, queues.downlink[queues.radio]]
        now = [*(times[:, 0] for times in free), ends.upload, ends.done, ends.result]
        seen = (np.stack(now, axis=1) - queues.makespan) / given.scale
        if self.any_servers:
            seen[LOCAL, [0, 2, 3]] = 0  # the UE has no links
            kind = np.arange(given.num_sites) == LOCAL, given.allowed[k]
            seen = np.column_stack([*kind, seen, (tried.spent - queues.spent) / given.cost_scale])
        else:
            (_, ue, _, _, _, local), (uplink, vm, downlink, upload, _, download) = seen
            seen = np.array([uplink, vm, downlink, ue, upload, download, local])
        if decoder_input == "task_sim":
            return seen
        outcomes = _outcomes(tried, k, self.settings["lookahead_rules"])
        best, possible = outcomes.min() - queues.cost, np.isfinite(outcomes)
        if self.any_servers:
            worse = np.log1p(100 * (outcomes - outcomes.min()) / given.cost_scale)
            ahead = np.where(possible, worse, 0), np.repeat(best, given.num_sites) / given.cost_scale
            return np.column_stack([seen, *ahead])
        better = outcomes[1] - outcomes[LOCAL] if possible.all() else 0.0  # a pinned task has no second site
        return np.concatenate([seen, np.array([best[0], 10 * better]) / given.scale])


def _outcomes(tried: Queues, k: int, rules: int) -> Array:
    """Returns the least cost that any rule reaches from each site of task k in `tried`; infinite where forbidden."""
    given = tried.problem
    tolls, onward = [(*toll, 0.0) for toll in TOLLS[:rules]], tried.onward
    if given.rules.results_stay:
        tolls += [(0.0, 0.0, toll) for toll in ONWARD_TOLLS]
    share, own, after = np.tile(tolls, (given.num_sites, 1)).T
    of_servers = np.where(np.arange(given.num_sites) == LOCAL, 0, given.scale)[:, None] * share
    queues = tried.take(np.repeat(np.arange(given.num_sites), len(tolls)))
    for later in range(k + 1, len(given.order)):
        seconds = of_servers + queues.up[later][:, None] * own
        costs = given.prices.makespan * seconds + onward[later][:, None] * after
        queues = _placed_sooner(queues, later, costs)
    reached = queues.cost.reshape(given.num_sites, len(tolls)).min(axis=1)
    return np.where(given.allowed[k], reached, np.inf)


def _onward(given: Problem) -> Array:
    """Returns the least cost after each task from each site where results stay and nothing waits: [n, K + 1].

    Each child takes the site with the least cost of moving, computing and the tasks after it. The child of greatest
    cost counts.
    """
    n, sites = given.allowed.shape
    times, paid = given.times, given.prices
    sending, receiving = paid.makespan + paid.send, paid.makespan + paid.receive
    computing = np.column_stack([(paid.makespan + paid.compute) * times.ue, paid.makespan * times.vm])
    ending = np.where(given.allowed, computing, np.inf)
    table = np.zeros((n, sites))
    for k in reversed(range(n)):
        if not given.children[k]:
            ending[k, 1:] += receiving * times.downlink[k]  # the result goes to the UE
            continue
        moving = np.full((sites, sites), paid.makespan * times.backhaul[k])
        moving[LOCAL, 1:], moving[1:, LOCAL] = sending * times.forward[k], receiving * times.downlink[k]
        np.fill_diagonal(moving, 0)
        after = (table + ending)[given.children[k]][:, None] + moving  # [children, from, to]
        table[k] = after.min(axis=-1).max(axis=0)
    return table


def _placed_sooner(queues: Queues, k: int, tolls: Array) -> Queues:
    """Places task k of each plan where its own result costs least, with `tolls` [K + 1, M] added; ties at a server."""
    given = queues.problem
    tried, ends = queues.tried(k)
    paid = tried.spent.reshape(tolls.shape) - queues.spent
    costs = given.prices.makespan * ends.result.reshape(tolls.shape) + tolls + paid
    local, servers = np.split(np.where(given.allowed[k][:, None], costs, np.inf), [1])
    site = np.where(servers.min(axis=0) <= local[0], servers.argmin(axis=0) + 1, LOCAL)
    return tried.take(site * len(site) + np.arange(len(site)))


def _times(given: Problem, any_servers: bool) -> Array:
    """Returns the times of each task on the UE and on the server where it takes least: [n, 4].

    With `any_servers` also the times of its result up to that server and between two servers: [n, 6].
    """
    times = given.times
    quickest = (times.uplink + times.vm + times.downlink).argmin(axis=1)
    of_server = (times.uplink, times.vm, times.downlink, times.forward)
    least = [values[np.arange(len(quickest)), quickest] for values in of_server]
    return np.stack([times.ue, *least, times.backhaul] if any_servers else [times.ue, *least[:3]], axis=1)


def _of_system(given: Problem) -> Array:
    """Returns the sides that pins forbid, whether results stay, the radio, 1 / K and the shares of prices: [n, 9]."""
    pins = np.stack([~given.allowed[:, LOCAL], ~given.allowed[:, 1:].any(axis=1)], axis=1)
    paid = np.array(given.prices) / (sum(given.prices) or 1.0)
    kind = [given.rules.results_stay, given.radio != "shared", 1 / (given.num_sites - 1), *paid]
    return np.concatenate([pins, np.tile(np.array(kind, float), (len(pins), 1))], axis=1)


def _pooled(near: list[int], position: Array, times: Array, nearest: Any) -> list[float]:
    """Returns log(1 + count); mean, nearest and farthest position; mean and maximum of each time."""
    if not near:
        return [0.0] * (4 + 2 * times.shape[1])
    places = position[near]
    farthest = min if nearest is max else max
    own = [np.log1p(len(near)), places.mean(), nearest(places), farthest(places)]
    return [*own, *times[near].mean(axis=0), *times[near].max(axis=0)]


def _outlook(given: Problem, any_servers: bool) -> Array:
    """Returns the longest paths from each task's result to the end, and the later work, in shares of all local work."""
    n, times = len(given.order), _times(given, any_servers)
    offloaded = times[:, 1:4].sum(axis=1)
    own = np.stack([given.times.ue, offloaded, np.minimum(given.times.ue, offloaded)], axis=1)
    after, paths = np.zeros((n, 3)), np.zeros((n, 3))
    for k in reversed(range(n)):
        after[k] = paths[given.children[k]].max(axis=0, initial=0)
        paths[k] = after[k] + own[k]
    left = np.cumsum(times[::-1], axis=0)[::-1] - times
    return np.concatenate([after, left], axis=1) / (given.scale * n)


def _normalised(values: Array) -> Array:
    centred = values - values.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)


def _sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))


def _one_of(field: str, value: Any, accepted: Sequence[str]) -> None:
    if value not in accepted:
        raise ValueError(f"{field} is {_short(value)}; accepted: {', '.join(accepted)}")


def _setting(settings: Mapping[str, Any], name: str, accepted: range | Sequence[str], default: Any = None) -> Any:
    value = settings.get(name, default)
    if type(value) is not (int if isinstance(accepted, range) else str) or value not in accepted:
        choices = f"{accepted[0]} to {accepted[-1]}" if isinstance(accepted, range) else ", ".join(accepted)
        raise ValueError(f"{name} is {_short(value)}; accepted: {choices}")
    return value


def _shapes(settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the arrays that planning reads, by name; raises ValueError for unreadable settings."""
    counts = range(1, 2**20)
    units = _setting(settings, "units", counts)
    any_servers = _setting(settings, "servers", ["one_server", "any_servers"], "one_server") == "any_servers"
    inputs = OPTION_INPUTS if any_servers else DECODER_INPUTS
    seen = inputs[_setting(settings, "decoder_input", list(inputs))]
    encoder = _setting(settings, "encoder", ["forward", "bidirectional"], "forward")
    heads = _setting(settings, "heads", range(units + 1))
    if settings["decoder_input"] == "lookahead":
        _setting(settings, "lookahead_rules", range(1, len(TOLLS) + 1))
    if (heads and units % heads) or (encoder == "bidirectional" and units % 2):
        raise ValueError(f"units is {units}; accepted: a multiple of heads ({heads}), even where encoder=bidirectional")
    times = 6 if any_servers else 4
    neighbours = 4 + 2 * times
    if _setting(settings, "neighbours", ["listed", "pooled"], "listed") == "listed":
        neighbours = _setting(settings, "neighbour_width", counts)
    more = 9 if any_servers else 0  # features of the system
    if _setting(settings, "task_features", ["paper", "outlook"], "paper") == "outlook":
        more += 3 + times
    shapes: dict[str, tuple[int, ...]] = {
        "embedding/kernel": (1 + times + 2 * neighbours + more, units),
        "embedding/bias": (units,),
        "logits_head/kernel": (units, 1 if any_servers else 2),
        "logits_head/bias": (1 if any_servers else 2,),
    }
    if any_servers:
        shapes |= {"outcome/kernel": (seen, units), "candidate/bias": (units,)}
        shapes |= {f"{name}/kernel": (units, units) for name in ("candidate", "judge")}
    if settings["decoder_input"] != "paper":
        shapes["task_input/kernel"] = (units, 4 * units)
    for name in ("query", "key", "value", "context") if heads else ():
        shapes[f"{name}/kernel"] = (units, units)
    half = units // 2 if encoder == "bidirectional" else units
    simulated = units if any_servers else seen
    for layer in range(settings["layers"]):
        cells = {"encoder": (units, half), "decoder": (units if layer else 3 + units + simulated, units)}
        if encoder == "bidirectional":
            cells["backward_encoder"] = cells["encoder"]
        for cell, (inputs, width) in cells.items():
            shapes[f"{cell}_{layer}/input_kernel/kernel"] = (inputs, 4 * width)
            shapes[f"{cell}_{layer}/recurrent_kernel/kernel"] = (width, 4 * width)
            for kind in ("scale", "bias"):
                shapes[f"{cell}_{layer}/gate_{kind}"] = (4, width)
                shapes[f"{cell}_{layer}/cell_{kind}"] = (width,)
    return shapes


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _json_object(data: bytes, what: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            raise ValueError(f"{what} has a name twice in one object; accepted: each name once")
        return values

    try:
        value = json.loads(data, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError(f"{what} nests too deeply; accepted: files of export_weights.py") from None
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {_short(value)}; accepted: a JSON object")
    return value


def _sizes(name: str, numbers: Any) -> list[int]:
    """Returns `numbers` as a list of integers that NumPy accepts as a shape."""
    usable = isinstance(numbers, list) and len(numbers) <= 64
    if not usable or not all(type(number) is int and 0 <= number < 2**62 for number in numbers):
        raise ValueError(f"{_short(name)} has {_short(numbers)}; accepted: up to 64 whole numbers >= 0")
    return list(numbers)


def read_tensors(data: bytes) -> dict[str, Array]:
    """Returns the float32 arrays of a safetensors file, by name.

    The format (https://github.com/huggingface/safetensors) is a length, a JSON header and plain bytes.

    Args:
        data: the file's contents.

    Raises:
        ValueError: the file has other content than float32 arrays of finite numbers, or the arrays leave a gap or
            overlap.
    """
    size = int.from_bytes(data[:SIZE_BYTES], "little")
    if len(data) < SIZE_BYTES + size or size > MOST_HEADER_BYTES:
        raise ValueError(f"header has {size} bytes in a file of {len(data)}; accepted: at most {MOST_HEADER_BYTES}")
    header = _json_object(data[SIZE_BYTES : SIZE_BYTES + size], "header")
    header.pop("__metadata__", None)
    body, tensors = data[SIZE_BYTES + size :], {}
    places: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.get("dtype") != FLOAT32:
            raise ValueError(f"{_short(name)} is {_short(entry)}; accepted: an array of type {FLOAT32}")
        shape, offsets = (_sizes(name, entry.get(field)) for field in ("shape", "data_offsets"))
        if len(offsets) != 2 or not offsets[0] <= offsets[1] <= len(body):
            raise ValueError(f"{_short(name)} has offsets {_short(offsets)}; accepted: within {len(body)} bytes")
        if offsets[1] - offsets[0] != 4 * math.prod(shape):
            raise ValueError(
                f"{_short(name)} of shape {_short(shape)} has {offsets[1] - offsets[0]} bytes; accepted: 4 each"
            )
        places.append((offsets[0], offsets[1], name))
        tensors[name] = np.frombuffer(body[offsets[0] : offsets[1]], "<f4").reshape(shape).astype(np.float32)
        if not np.isfinite(tensors[name]).all():
            raise ValueError(f"{_short(name)} holds NaN or infinite numbers; accepted: finite numbers")
    end = 0
    for begin, after, name in sorted(places):
        if begin != end:
            raise ValueError(f"{_short(name)} begins at byte {begin}; accepted: {end}, the end of the array before")
        end = after
    if end != len(body):
        raise ValueError(f"arrays end at byte {end} of {len(body)}; accepted: arrays that fill the file")
    return tensors


def load(stem: str | Path) -> Portable:
    """Loads the policy in STEM.safetensors and STEM.json, files of `launch/export_weights.py`.

    Raises:
        OSError: one of the two files is missing.
        ValueError: the files have another form, were not written together, or hold a policy that chooses the order.
    """
    stem = Path(stem)
    paths = [stem.with_name(stem.name + ending) for ending in (".json", ".safetensors")]
    for path in paths:
        if path.exists() and not path.is_file():  # reading a pipe or a device may never end
            raise ValueError(f"{path.name} is not a regular file; accepted: files of export_weights.py")
    description, data = _json_object(paths[0].read_bytes(), paths[0].name), paths[1].read_bytes()
    if hashlib.sha256(data).hexdigest() != description.get("sha256"):
        raise ValueError(
            f"{stem.name}.safetensors is not what {stem.name}.json describes; accepted: files written together"
        )
    config = description.get("config")
    settings = config.get("policy") if isinstance(config, dict) else None
    if not isinstance(settings, dict):
        raise ValueError(f"config.policy of {stem.name}.json is {_short(settings)}; accepted: a JSON object")
    return Portable(settings, read_tensors(data))
