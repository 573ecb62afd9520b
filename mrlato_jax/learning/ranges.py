"""What a policy has been trained on, in numbers that decide how an application looks to it.

All are ratios or counts: the policy sees times relative to one another, so that an application of ten times the cycles
on a system of ten times the clocks is the same one to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph, levels
from mrlato_jax.mec.system import System, task_times

SLACK = 0.1  # of either end: what is hardly beyond it is no news
NO_TIME = 1e-3  # of the local time: what takes less in all looks to a policy as if it took none

Ranges = tuple[tuple[str, float, float], ...]
"""(name, lowest, highest) of each number that `measure` gives."""


class OutsideTrainingWarning(UserWarning):
    """A plan for an application or a system unlike those that the policy was trained on."""


def measure(graph: TaskGraph, system: System) -> dict[str, float]:
    """The numbers of one application on one system; infinite where nothing is to be computed, at least `NO_TIME`."""
    times = task_times(graph, system)
    local = times.ue.sum()

    def to_local(other: np.ndarray) -> float:
        return max(float(other.sum() / local), NO_TIME) if local > 0 else float("inf")

    return {
        "tasks": float(graph.num_tasks),
        "tasks a level": graph.num_tasks / float(levels(graph).max() + 1),
        "edges a task": len(graph.edges) / graph.num_tasks,
        "upload time / local time": to_local(times.uplink),
        "download time / local time": to_local(times.downlink),
        "VM time / local time": to_local(times.vm),
        "longest local time / mean": float(times.ue.max() / times.ue.mean()) if local > 0 else float("inf"),
    }


def ranges_of(examples: Iterable[tuple[TaskGraph, System]]) -> Ranges:
    """The ranges of what a policy is trained on."""
    measured = [measure(graph, system) for graph, system in examples]
    return tuple((name, min(m[name] for m in measured), max(m[name] for m in measured)) for name in measured[0])


def outside(ranges: Ranges, examples: Sequence[tuple[TaskGraph, System]]) -> str | None:
    """What is out of range in any of the examples, as a warning says it; None where nothing is.

    Of several examples the first is named that is out of a range.
    """
    found: dict[str, str] = {}
    for i, example in enumerate(examples):
        measured, where = measure(*example), f" of graph[{i}]" if len(examples) > 1 else ""
        for name, low, high in ranges:
            if name not in found and not low * (1 - SLACK) <= measured[name] <= high * (1 + SLACK):
                found[name] = f"{name}{where} is {measured[name]:.3g} ({low:.3g} to {high:.3g} in training)"
    return f"plans may be poor, for they are not of what was trained on: {', '.join(found.values())}" if found else None


def to_json(ranges: Ranges) -> dict[str, tuple[float, float]]:
    """{name: [lowest, highest]}, as a file has them."""
    return {name: (low, high) for name, low, high in ranges}


def from_json(values: Mapping[str, tuple[float, float]]) -> Ranges:
    """What `to_json` gave, read again."""
    return tuple((str(name), float(low), float(high)) for name, (low, high) in values.items())
