"""Random applications with the logic of the daggen tool (Suter and Hunold), written anew for numpy.

A graph is built level by level. `fat` sets the width of a level, `density` the number of tasks of the level above that
a task depends on. The sizes are those of the paper's section V-A, in KB instead of MB (see `DATA_UNITS`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_choice, check_number, shorten

GENERATOR_VERSION = 1  # raised when a change makes the same seed give another graph
CCR_CHOICES = (0.3, 0.4, 0.5)
SEND_KB = (5.0, 50.0)  # range of a task's data
DATA_UNITS = {"KB": 1e3, "MB": 1e6}  # bytes; the paper's text says MB, its results agree with KB
CYCLES_PER_BYTE = 1e3  # at ccr 1 and with KB: 5 KB at ccr 0.5 are 1e7 cycles
MAX_TASKS = 100_000


def daggen(
    num_tasks: int,
    fat: float,
    density: float,
    rng: np.random.Generator,
    ccr: float | None = None,
    regularity: float = 0.5,
    jump: int = 1,
    data_unit: str = "KB",
) -> TaskGraph:
    """Draws one application.

    A level has `max(1, int(x * (1 + r)))` tasks with `x = int(num_tasks**fat)` and r uniform in +-regularity; the last
    level is cut. A task below the first level draws `min(1 + int(U(0, density * w)), w)` parents, where w is the width
    of the level above. Each parent's level is drawn uniformly 1..jump levels above (beyond the first level: the first).
    Within a level the parents are a uniform subset. If more parents are drawn for a level than it has tasks, all its
    tasks are parents. Ids ascend level by level, so every edge goes from a lower to a higher id.

    A task's data is uniform in [5, 50] KB in whole bytes, `download_bytes = upload_bytes`, and
    `cycles = 1000 * upload_bytes / ccr`. With "MB" the data is 1000 times larger and the cycles stay the same.

    Only `rng.random` is used (its stream is the same in every numpy), in the order topology, data, ccr. So the same
    seed gives the same topology and data for every `ccr` and `data_unit`.

    Args:
        num_tasks: number of tasks, in [1, 100000].
        fat: width, in [0, 1]: 0 is a chain; with 1, a level is about as wide as there are tasks.
        density: share of the level above that a task may depend on, in [0, 1].
        rng: source of randomness; advanced.
        ccr: communication-to-computation ratio of the graph, > 0; None draws one of 0.3, 0.4, 0.5.
        regularity: greatest deviation of a level's width, in [0, 1]; 0 gives levels of equal width. (The tool's own
            argument is 1 minus this; at the default both are the same.)
        jump: most levels that an edge may span, >= 1.
        data_unit: "KB" or "MB".

    Raises:
        InputError: an argument is out of its range.

    Source: the paper's section V-A; daggen's `generateTasks` and `generateDependencies`.
    """
    check_number("num_tasks", num_tasks, low=1, high=MAX_TASKS, integer=True)
    for field, value in (("fat", fat), ("density", density), ("regularity", regularity)):
        check_number(field, value, low=0.0, high=1.0)
    check_number("jump", jump, low=1, integer=True)
    check_choice("data_unit", data_unit, tuple(DATA_UNITS))
    if ccr is not None:
        check_number("ccr", ccr, low=0.0, open_low=True)
    if not isinstance(rng, np.random.Generator):
        raise InputError(f"rng is {shorten(rng)}; accepted: a numpy.random.Generator")

    widths = _draw_level_widths(num_tasks, fat, regularity, rng)
    edges = _draw_edges(widths, density, jump, rng)
    low, high = SEND_KB
    kilobytes = low + (high - low) * rng.random(num_tasks)
    send = np.rint(kilobytes * DATA_UNITS["KB"])
    if ccr is None:
        ccr = CCR_CHOICES[int(rng.random() * len(CCR_CHOICES))]
    data = send * (DATA_UNITS[data_unit] / DATA_UNITS["KB"])
    return TaskGraph.from_edges(
        cycles=CYCLES_PER_BYTE * send / ccr,
        upload_bytes=data,
        download_bytes=data,
        edges=edges,
    )


def _draw_level_widths(num_tasks: int, fat: float, regularity: float, rng: np.random.Generator) -> list[int]:
    mean_width = int(num_tasks**fat)
    widths: list[int] = []
    left = num_tasks
    while left:
        deviation = regularity * (2.0 * rng.random() - 1.0)
        widths.append(min(max(1, int(mean_width * (1.0 + deviation))), left))
        left -= widths[-1]
    return widths


def _draw_edges(widths: list[int], density: float, jump: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draws edges: int64[m, 2], rows (parent, child)."""
    starts = np.concatenate([[0], np.cumsum(widths)])
    parents, children = [], []
    for level in range(1, len(widths)):
        width = widths[level - 1]
        for child in range(starts[level], starts[level + 1]):
            count = min(1 + int(rng.random() * density * width), width)
            spans = 1 + (jump * rng.random(count)).astype(np.int64) if jump > 1 else np.ones(count, dtype=np.int64)
            sources, counts = np.unique(np.maximum(level - spans, 0), return_counts=True)
            for source, drawn in zip(sources, counts, strict=True):
                subset = np.argsort(rng.random(widths[source]), kind="stable")[:drawn]
                parents.append(starts[source] + subset)
                children.append(np.full(len(subset), child))
    if not parents:
        return np.empty((0, 2), dtype=np.int64)
    return np.stack([np.concatenate(parents), np.concatenate(children)], axis=1)
