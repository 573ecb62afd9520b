"""The training range of a policy: the numbers that describe an application and a system to the policy.

All are ratios or counts, since the policy sees times only relative to one another. An application of ten times the
cycles on a system of ten times the clocks is the same input.
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

SLACK = 0.1  # relative margin at both ends of a range
NO_TIME = 1e-3  # share of the local time: a policy cannot tell smaller times from none

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
# Training ranges of policies that do not state them. Pins, which mask actions, are in range for every policy.
ASSUMED = {NAMES[7]: (1.0, 1.0), NAMES[8]: (1.0, 1.0), NAMES[9]: (0.0, 0.0), NAMES[11]: (0.0, 0.0)}

Ranges = tuple[tuple[str, float, float], ...]
"""(name, lowest, highest) of each number from `measure`."""


class OutsideTrainingWarning(UserWarning):
    """The application or the system is outside the training range of the policy; its plans may be poor."""


def measure(graph: TaskGraph, system: System, objective: Objective | None = None) -> dict[str, float]:
    """Computes the numbers `NAMES` of one application on one system.

    Ratios of times are at least `NO_TIME`, and infinite if no task computes. Among several servers the fastest counts.
    Each ratio is of sums over all tasks.
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
    """Computes the ranges over all training examples."""
    measured = [measure(*example) for example in examples]
    return tuple((name, min(m[name] for m in measured), max(m[name] for m in measured)) for name in measured[0])


def outside(ranges: Ranges, examples: Sequence[tuple[TaskGraph, System, Objective]]) -> str | None:
    """Returns a warning text about the numbers out of range; None if all are in range.

    For each number, the text names the first example that is out of range.
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
    """Converts ranges to {name: [lowest, highest]} for a JSON file."""
    return {name: (low, high) for name, low, high in ranges}


def from_json(values: Any) -> Ranges:
    """Inverse of `to_json`.

    Raises:
        InputError: `values` does not map some of `NAMES` to a lowest and a highest number.
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
        except OverflowError:  # an integer beyond float's range
            low = high = math.nan
        if not -math.inf < low <= high:
            raise InputError(f"ranges has {name} from {shorten(pair)}; accepted: the lowest and the highest number")
        ranges.append((name, low, high))
    return tuple(ranges)
