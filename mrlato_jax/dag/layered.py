"""Layered layout of an application: a column for each level, and a lane for each edge that passes a column.

The method is that of Sugiyama, Tagawa and Toda (1981). An edge that skips levels passes each column between in a lane.
A lane takes room as a task does, so no edge runs behind a task. All edges of one task share its lanes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrlato_jax.dag.task_graph import TaskGraph, children_of, levels

SWEEPS = 8  # sweeps forward and back over all columns


class Lane(NamedTuple):
    """A lane in which the edges of a task pass a column."""

    parent: int  # task id
    column: int


Knot = int | Lane
"""A point of an edge: a task by its id, or a lane."""


class Layered(NamedTuple):
    """A layered drawing; `across` is the position along a column, from 0."""

    columns: list[list[Knot]]  # tasks and lanes of each column, in the order of `across`
    column: dict[Knot, int]
    across: dict[Knot, float]  # middles of tasks and lanes
    links: list[tuple[Knot, Knot]]  # pieces of edges, each between two adjacent columns


def layered(graph: TaskGraph, sizes: Sequence[float], lane: float, gap: float) -> Layered:
    """Places tasks and lanes so that few edges cross and most are straight.

    Args:
        graph: the application.
        sizes: room that each task takes in its column.
        lane: room that a lane takes.
        gap: gap between two neighbours of a column.
    """
    level, children = levels(graph).tolist(), children_of(graph)
    column: dict[Knot, int] = dict(enumerate(level))
    before: dict[Knot, list[Knot]] = {task: [] for task in range(graph.num_tasks)}
    links: list[tuple[Knot, Knot]] = []
    for parent, own in enumerate(children):
        path: list[Knot] = [parent]
        for place in range(level[parent] + 1, max((level[child] for child in own), default=0)):
            path.append(Lane(parent, place))
            column[path[-1]] = place
            before[path[-1]] = [path[-2]]
            links.append((path[-2], path[-1]))
        for child in own:
            last = path[level[child] - level[parent] - 1]
            before[child].append(last)
            links.append((last, child))
    after: dict[Knot, list[Knot]] = {knot: [] for knot in column}
    for first, second in links:
        after[first].append(second)
    columns: list[list[Knot]] = [[] for _ in range(max(level) + 1)]
    for knot, place in column.items():
        columns[place].append(knot)
    columns = _ordered(columns, before, after)

    def size(knot: Knot) -> float:
        return lane if isinstance(knot, Lane) else sizes[knot]

    across = _straightened(columns, before, after, {knot: size(knot) for knot in column}, gap)
    least = min(middle - size(knot) / 2 for knot, middle in across.items())
    return Layered(columns, column, {knot: middle - least for knot, middle in across.items()}, links)


def _ordered(
    columns: list[list[Knot]], before: dict[Knot, list[Knot]], after: dict[Knot, list[Knot]]
) -> list[list[Knot]]:
    """Returns the columns in an order with few crossings: sorts each by the mean place of its neighbours."""
    place = {knot: float(i) for column in columns for i, knot in enumerate(column)}

    def sort(column: list[Knot], neighbours: dict[Knot, list[Knot]]) -> list[Knot]:
        def wanted(knot: Knot) -> float:
            beside = neighbours[knot]
            return sum(place[other] for other in beside) / len(beside) if beside else place[knot]

        ordered = sorted(column, key=wanted)
        place.update({knot: float(i) for i, knot in enumerate(ordered)})
        return ordered

    best, fewest = columns, _crossings(columns, after, place)
    for _ in range(SWEEPS):
        columns = [columns[0], *(sort(column, before) for column in columns[1:])]
        columns = [columns[-1], *(sort(column, after) for column in columns[-2::-1])][::-1]
        crossings = _crossings(columns, after, place)
        if crossings < fewest:
            best, fewest = columns, crossings
    return best


def _crossings(columns: list[list[Knot]], after: dict[Knot, list[Knot]], place: dict[Knot, float]) -> int:
    """Returns the number of pairs of links that cross."""
    crossings = 0
    for column in columns:
        met: list[float] = []
        for knot in column:
            ends = sorted(place[other] for other in after[knot])
            crossings += sum(len(met) - bisect_left(met, end + 0.5) for end in ends)
            for end in ends:
                insort(met, end)
    return crossings


def _straightened(
    columns: list[list[Knot]],
    before: dict[Knot, list[Knot]],
    after: dict[Knot, list[Knot]],
    sizes: dict[Knot, float],
    gap: float,
) -> dict[Knot, float]:
    """Returns the middles of tasks and lanes, as near to their neighbours' as the order of the column permits."""
    across: dict[Knot, float] = {}
    for column in columns:
        middles = spaced(np.zeros(len(column)), [sizes[knot] for knot in column], gap)
        across.update(zip(column, middles.tolist(), strict=True))

    def settle(column: list[Knot], *neighbours: dict[Knot, list[Knot]]) -> None:
        wanted = []
        for knot in column:
            beside = [across[other] for of_knot in neighbours for other in of_knot[knot]]
            wanted.append(sum(beside) / len(beside) if beside else across[knot])
        middles = spaced(np.array(wanted), [sizes[knot] for knot in column], gap)
        across.update(zip(column, middles.tolist(), strict=True))

    for _ in range(SWEEPS):
        for column in columns[1:]:
            settle(column, before)
        for column in columns[-2::-1]:
            settle(column, after)
    for column in columns:
        settle(column, before, after)
    return across


def spaced(wanted: NDArray[np.float64], sizes: Sequence[float], gap: float) -> NDArray[np.float64]:
    """Returns middles in the given order, at least `gap` apart, with least squared distances from `wanted`.

    Args:
        wanted: float64[n], wanted middles, in the order of the result.
        sizes: size of each entry.
        gap: gap between two neighbours.
    """
    half = np.asarray(sizes, np.float64) / 2
    offsets = np.concatenate([[0.0], np.cumsum(half[:-1] + half[1:] + gap)])
    pools: list[tuple[float, int]] = []  # isotonic regression: sums and counts of touching neighbours
    for value in (wanted - offsets).tolist():
        pool = (value, 1)
        while pools and pools[-1][0] * pool[1] > pool[0] * pools[-1][1]:
            total, count = pools.pop()
            pool = (total + pool[0], count + pool[1])
        pools.append(pool)
    return np.concatenate([np.full(count, total / count) for total, count in pools]) + offsets
