"""What a policy has been trained on, in numbers that decide how an application looks to it.

All are ratios or counts: the policy sees times relative to one another, so that an application of ten times the cycles
on a system of ten times the clocks is the same one to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph, levels
from mrlato_jax.errors import InputError, shorten
from mrlato_jax.mec.objective import Objective, goal_of
from mrlato_jax.mec.system import BITS_PER_BYTE, CHANNELS, OF_SERVERS, System, host_number, of_servers

SLACK = 0.1  # of either end: what is hardly beyond it is no news
NO_TIME = 1e-3  # of the local time: what takes less in all looks to a policy as if it took none

NAMES = (
    "tasks",
    "tasks a level",
    "edges a task",
    "upload time / local time",
    "download time / local time",
    "VM time / local time",
    "longest local time / mean",
    "servers",
    "radios",
    "results that stay",
    "pinned tasks / tasks",
    "price of a second's energy / price of a second",
)
# What policies that say nothing of these were trained on. Pins are no news to any policy: they are masked.
ASSUMED = {NAMES[7]: (1.0, 1.0), NAMES[8]: (1.0, 1.0), NAMES[9]: (0.0, 0.0), NAMES[11]: (0.0, 0.0)}

Ranges = tuple[tuple[str, float, float], ...]
"""(name, lowest, highest) of each number that `measure` gives."""


class OutsideTrainingWarning(UserWarning):
    """A plan for an application or a system unlike those that the policy was trained on."""


def measure(graph: TaskGraph, system: System, objective: Objective | None = None) -> dict[str, float]:
    """The numbers of one application on one system by `NAMES`.

    Ratios of times are at least `NO_TIME`, and infinite where nothing computes; of several servers the fastest counts.
    Each ratio is of the sums over all tasks, so that no time of a single task is needed.
    """
    prices = goal_of(objective).prices(system.power)
    vm_hz, uplink_bps, downlink_bps = (of_servers(system, name).max() for name in OF_SERVERS)
    with np.errstate(over="ignore"):
        cycles, sent, received = (float(a.sum()) for a in (graph.cycles, graph.upload_bytes, graph.download_bytes))
    local = cycles / float(host_number("System.ue_hz", system.ue_hz))
    computes = 0 < local < math.inf
    energy = 0.0 if prices is None else prices.compute + prices.send + prices.receive
    waiting = 1.0 if prices is None else prices.makespan

    def to_local(amount: float, rate: float) -> float:
        return max(amount / float(rate) / local, NO_TIME) if computes else math.inf

    values = (
        float(graph.num_tasks),
        graph.num_tasks / float(levels(graph).max() + 1),
        len(graph.edges) / graph.num_tasks,
        to_local(BITS_PER_BYTE * sent, uplink_bps),
        to_local(BITS_PER_BYTE * received, downlink_bps),
        to_local(cycles, vm_hz),
        float(graph.cycles.max()) / (cycles / graph.num_tasks) if computes else math.inf,
        float(system.num_servers),
        float(1 if system.radio == "shared" else system.num_servers),
        float(CHANNELS[system.channel].results_stay),
        sum(pin != "any" for pin in graph.pins) / graph.num_tasks if graph.is_pinned else 0.0,
        energy / waiting if waiting else float("inf"),
    )
    return dict(zip(NAMES, values, strict=True))


def ranges_of(examples: Iterable[tuple[TaskGraph, System, Objective]]) -> Ranges:
    """The ranges of what a policy is trained on."""
    measured = [measure(*example) for example in examples]
    return tuple((name, min(m[name] for m in measured), max(m[name] for m in measured)) for name in measured[0])


def outside(ranges: Ranges, examples: Sequence[tuple[TaskGraph, System, Objective]]) -> str | None:
    """What is out of range in any of the examples, as a warning says it; None where nothing is.

    Of several examples the first is named that is out of a range.
    """
    found: dict[str, str] = {}
    named = {name for name, *_ in ranges}
    ranges = (*ranges, *((name, *ends) for name, ends in ASSUMED.items() if name not in named))
    for i, example in enumerate(examples):
        measured, where = measure(*example), f" of graph[{i}]" if len(examples) > 1 else ""
        for name, low, high in ranges:
            if name not in found and not low * (1 - SLACK) <= measured[name] <= high * (1 + SLACK):
                found[name] = f"{name}{where} is {measured[name]:.3g} ({low:.3g} to {high:.3g} in training)"
    return f"outside the training range; plans may be poor: {', '.join(found.values())}" if found else None


def to_json(ranges: Ranges) -> dict[str, tuple[float, float]]:
    """{name: [lowest, highest]}, as a file has them."""
    return {name: (low, high) for name, low, high in ranges}


def from_json(values: Any) -> Ranges:
    """What `to_json` gave, read again.

    Raises:
        InputError: no mapping of some of `NAMES` to a lowest and a highest number.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"ranges is {shorten(values)}; accepted: a JSON object")
    ranges = []
    for name, pair in values.items():
        if name not in NAMES:
            raise InputError(f"ranges has {shorten(name)}; accepted: {', '.join(NAMES)}")
        try:
            usable = isinstance(pair, Sequence) and len(pair) == 2 and all(type(end) in (int, float) for end in pair)
            low, high = (float(end) for end in pair) if usable else (math.nan, math.nan)
        except OverflowError:  # an integer beyond float range
            low = high = math.nan
        if not -math.inf < low <= high:
            raise InputError(f"ranges has {name} from {shorten(pair)}; accepted: the lowest and the highest number")
        ranges.append((name, low, high))
    return tuple(ranges)
