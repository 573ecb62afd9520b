"""Where pictures put tasks and edges: by what a drawing must hold, and small ones by hand."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.dag import arrangement
from mrlato_jax.dag.arrangement import DOTS, NAMED, arranged
from mrlato_jax.dag.layered import Lane, layered, spaced
from mrlato_jax.dag.task_graph import levels


def graph_of(num_tasks: int, edges: list[tuple[int, int]]) -> mj.TaskGraph:
    ones = [1.0] * num_tasks
    return mj.TaskGraph.from_edges(cycles=ones, upload_bytes=ones, download_bytes=ones, edges=edges)


SKIPS = graph_of(4, [(0, 1), (1, 2), (2, 3), (0, 2), (0, 3), (1, 3)])
DRAWN = [
    SKIPS,
    graph_of(1, []),
    mj.daggen(30, 0.6, 0.6, np.random.default_rng(0)),
    graph_of(40, [(i, i + 1) for i in range(39)] + [(i, i + 4) for i in range(0, 36, 3)]),
]


@pytest.mark.parametrize("graph", DRAWN)
def test_columns_are_levels_and_nothing_overlaps(graph: mj.TaskGraph) -> None:
    sizes = np.random.default_rng(0).uniform(0.1, 2.0, graph.num_tasks).tolist()
    drawing = layered(graph, sizes, lane=0.25, gap=0.5)
    assert [drawing.column[task] for task in range(graph.num_tasks)] == levels(graph).tolist()
    assert sorted(knot for column in drawing.columns for knot in column if not isinstance(knot, Lane)) == list(
        range(graph.num_tasks)
    )
    for column in drawing.columns:
        for first, second in pairwise(column):
            room = sum(0.25 if isinstance(knot, Lane) else sizes[knot] for knot in (first, second)) / 2 + 0.5
            assert drawing.across[second] - drawing.across[first] >= room - 1e-9


@pytest.mark.parametrize("graph", DRAWN)
def test_links_lead_each_edge_from_column_to_column(graph: mj.TaskGraph) -> None:
    drawing = layered(graph, [1.0] * graph.num_tasks, lane=0.25, gap=0.5)
    after: dict = {}
    for first, second in drawing.links:
        assert drawing.column[second] == drawing.column[first] + 1
        after.setdefault(first, []).append(second)

    def reached(knot: object) -> set[int]:
        ends: set[int] = set()
        for other in after.get(knot, []):
            ends |= reached(other) if isinstance(other, Lane) else {other}
        return ends

    for task in range(graph.num_tasks):
        assert reached(task) == set(graph.children(task).tolist())


def test_crossings_that_need_not_be_are_not() -> None:
    """Two chains whose ids cross, and a fork whose children are the wrong way round."""
    drawing = layered(graph_of(4, [(0, 3), (1, 2)]), [1.0] * 4, 0.25, 0.5)
    assert (drawing.across[0] < drawing.across[1]) == (drawing.across[3] < drawing.across[2])
    assert drawing.across[0] == pytest.approx(drawing.across[3])  # and they are straight


def test_spaced_by_hand() -> None:
    np.testing.assert_allclose(spaced(np.array([0.0, 5.0]), [1, 1], 0.5), [0, 5])
    np.testing.assert_allclose(spaced(np.array([1.0, 1.0]), [1, 1], 0.5), [0.25, 1.75])
    np.testing.assert_allclose(spaced(np.array([3.0, 0.0, 9.0]), [1, 3, 1], 0.0), [0.5, 2.5, 9.0])


def through(line: list[tuple[float, float]]) -> np.ndarray:
    """Points along a piece of an edge, its curve a cubic one."""
    start, end, first, second, stop, finish = np.array(line)
    t = np.linspace(0, 1, 20)[:, None]
    curve = (1 - t) ** 3 * end + 3 * (1 - t) ** 2 * t * first + 3 * (1 - t) * t**2 * second + t**3 * stop
    return np.concatenate([start + t * (end - start), curve, stop + t * (finish - stop)])


@pytest.mark.parametrize("graph", DRAWN)
@pytest.mark.parametrize("sizes", [NAMED, DOTS])
def test_no_edge_passes_a_task_and_no_two_tasks_overlap(graph: mj.TaskGraph, sizes: arrangement.Sizes) -> None:
    widths = np.random.default_rng(1).uniform(0.3, 1.2, graph.num_tasks).tolist()
    if sizes is DOTS:
        widths = [DOTS.height] * graph.num_tasks
    drawing = arranged(graph, widths, sizes)
    boxes = np.array(drawing.boxes)
    low, high = boxes[:, :2] + 1e-6, boxes[:, :2] + boxes[:, 2:] - 1e-6
    assert (low > 0).all()
    assert (high < (drawing.width, drawing.height)).all()
    for i in range(graph.num_tasks):
        apart = (low > high[i]).any(axis=1) | (high < low[i]).any(axis=1)
        assert apart.sum() == graph.num_tasks - 1
    for line in drawing.lines + drawing.breaks:
        points = through(line)[:, None]
        assert not ((points > low) & (points < high)).all(axis=2).any()
    assert drawing.width <= arrangement.WIDEST + 3 * sizes.between


def test_what_has_no_room_in_a_row_goes_on_below() -> None:
    chain = graph_of(60, [(i, i + 1) for i in range(59)])
    drawing = arranged(chain, [1.0] * 60, NAMED)
    tops = [box.top for box in drawing.boxes]
    assert len(set(tops)) == 6
    assert tops == sorted(tops)
    assert len(drawing.breaks) == 2 * 5  # one leaves and one enters each row but the last and first
    for before, after in pairwise(drawing.boxes):
        assert after.top > before.top or after.left > before.left + before.width


def test_many_tasks_of_one_level_are_a_block() -> None:
    wide = graph_of(901, [(i, 900) for i in range(900)])
    drawing = arranged(wide, [DOTS.height] * 901, DOTS)
    assert drawing.height <= arrangement.MOST_ACROSS * (DOTS.height + DOTS.gap)
    assert len({box[:2] for box in drawing.boxes}) == 901
    assert len(drawing.lines) == 900
