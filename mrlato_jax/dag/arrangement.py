"""Positions of tasks and edges in a picture of an application, in inches: columns in rows, or blocks of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mrlato_jax.dag.layered import Knot, Lane, Layered, layered
from mrlato_jax.dag.task_graph import TaskGraph, levels

WIDEST = 15.0  # greatest width of a row of columns, inches
TALLEST = 9.0  # greatest height of dots with lanes, inches; taller drawings have no lanes
MOST_ACROSS = 48  # most dots in a column of a block, where edges have no lanes
MOST_BETWEEN = 1.2  # inches between blocks
Line = list[tuple[float, float]]
"""A piece of an edge: its start, the end of its column, a Bezier curve (two control points and an end), its end."""


class Box(NamedTuple):
    """The box of a task; inches from the upper left corner."""

    left: float
    top: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Middle of the box, inches from the top."""
        return self.top + self.height / 2


class Sizes(NamedTuple):
    """Sizes of tasks and edges in a picture, inches."""

    height: float  # height of a task
    gap: float  # gap between two tasks of a column
    lane: float  # width of the lane of an edge that passes a column
    between: float  # gap between columns
    below: float  # gap below a row of columns
    head: float  # length of an arrowhead


NAMED, DOTS = Sizes(0.23, 0.11, 0.05, 0.42, 0.4, 0.07), Sizes(0.11, 0.04, 0.02, 0.2, 0.25, 0.04)


class Arrangement(NamedTuple):
    """A drawing of an application; inches from its upper left corner.

    Attributes:
        width: width of the drawing.
        height: height of the drawing.
        boxes: boxes of the tasks.
        lines: pieces of edges.
        breaks: pieces of edges that leave a row at its end or enter the next row at its beginning.
    """

    width: float
    height: float
    boxes: list[Box]
    lines: list[Line]
    breaks: list[Line]


def arranged(graph: TaskGraph, widths: Sequence[float], sizes: Sizes) -> Arrangement:
    """Places tasks and edges. Edges run in lanes where there is room, else straight.

    Args:
        graph: the application.
        widths: widths of the tasks, inches.
        sizes: the other sizes.
    """
    layout = layered(graph, [sizes.height] * graph.num_tasks, sizes.lane, sizes.gap)
    crowded = max(layout.across.values()) > TALLEST or np.bincount(levels(graph)).max() > MOST_ACROSS
    return _in_blocks(graph, layout, sizes) if sizes is DOTS and crowded else _in_rows(layout, widths, sizes)


def _in_rows(layout: Layered, widths: Sequence[float], sizes: Sizes) -> Arrangement:
    """Places columns from left to right; a column beyond `WIDEST` begins a new row."""
    wide = [max(widths[knot] for knot in column if not isinstance(knot, Lane)) for column in layout.columns]
    left, row, at, number = [], [], 0.0, 0
    for width in wide:
        if at and at + width > WIDEST:
            at, number = 0.0, number + 1
        left.append(at)
        row.append(number)
        at += width + sizes.between
    end = max(begin + width for begin, width in zip(left, wide, strict=True))
    tops, top = [], 0.0
    for number in range(row[-1] + 1):
        across = [layout.across[knot] for c, column in enumerate(layout.columns) if row[c] == number for knot in column]
        tops.append(top - min(across) + sizes.height / 2)
        top += max(across) - min(across) + sizes.height + sizes.below
    height = top - sizes.below

    def middle(knot: Knot) -> float:
        return tops[row[layout.column[knot]]] + layout.across[knot]

    def span(knot: Knot) -> tuple[float, float]:
        """Returns the ends of lines at the left and at the right of a task or lane."""
        column = layout.column[knot]
        width = wide[column] if isinstance(knot, Lane) else widths[knot]
        begin = left[column] + (wide[column] - width) / 2
        return begin, begin + width

    boxes = [
        Box(span(task)[0], middle(task) - sizes.height / 2, width, sizes.height) for task, width in enumerate(widths)
    ]
    lines: list[Line] = []
    breaks: list[Line] = []
    for first, second in layout.links:
        c, d = layout.column[first], layout.column[second]
        begin, finish = span(first)[1], span(second)[0] - (0 if isinstance(second, Lane) else sizes.head)
        here, there = middle(first), middle(second)
        edge = left[c] + wide[c]
        if row[c] == row[d]:
            half, stop = (edge + left[d]) / 2, left[d] - sizes.head
            bend = [(half, here), (half, there), (stop, there)]
            lines.append([(begin, here), (edge, here), *bend, (finish, there)])
        else:
            breaks.append([(begin, here), *[(edge + sizes.between, here)] * 5])
            breaks.append([(left[d] - sizes.between, there), *[(finish, there)] * 5])
    for lane in (knot for knot in layout.column if isinstance(knot, Lane)):
        begin, finish = span(lane)
        lines.append([(begin, middle(lane)), *[(finish, middle(lane))] * 5])
    if breaks:  # room for edges that leave or enter a row
        boxes = [box._replace(left=box.left + sizes.between) for box in boxes]
        lines, breaks = (_moved(kind, sizes.between) for kind in (lines, breaks))
        end += 2 * sizes.between
    return Arrangement(end, height, boxes, lines, breaks)


def _moved(lines: Sequence[Line], right: float) -> list[Line]:
    return [[(x + right, y) for x, y in line] for line in lines]


def _in_blocks(graph: TaskGraph, layout: Layered, sizes: Sizes) -> Arrangement:
    """Places a block of tasks for each level, and straight edges between blocks."""
    pitch = sizes.height + sizes.gap
    boxes: dict[int, Box] = {}
    left = 0.0
    blocks = [[knot for knot in column if not isinstance(knot, Lane)] for column in layout.columns]
    ranks = [-(-len(block) // MOST_ACROSS) for block in blocks]
    deep = [-(-len(block) // wide) for block, wide in zip(blocks, ranks, strict=True)]
    room = (WIDEST - sum(ranks) * pitch) / max(1, len(blocks) - 1)
    between = float(np.clip(room, sizes.between, MOST_BETWEEN))
    for block, wide, down in zip(blocks, ranks, deep, strict=True):
        for i, task in enumerate(block):
            top = (i // wide + (max(deep) - down) / 2) * pitch
            boxes[task] = Box(left + i % wide * pitch, top, sizes.height, sizes.height)
        left += wide * pitch + between
    placed = [boxes[task] for task in range(graph.num_tasks)]
    lines = []
    for parent, child in graph.edges.tolist():
        first, second = placed[parent], placed[child]
        lines.append([(first.left + first.width, first.middle)] * 3 + [(second.left, second.middle)] * 3)
    return Arrangement(left - between, max(deep) * pitch, placed, lines, [])
