"""Pictures of a plan, by what is drawn: texts, boxes, lines and bars."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.dag.task_graph import levels
from mrlato_jax.drawing import LINK_COLOURS, png
from mrlato_jax.inference import command, pictures
from mrlato_jax.mec.system import task_times
from mrlato_jax.mec.transfers import link_of, transfers
from mrlato_jax.planners.plan import simulated_plan

pytest.importorskip("matplotlib")

SYSTEM = mj.System(uplink_bps=7e6, downlink_bps=5e6, channel="resident")
RETURNS = dataclasses.replace(SYSTEM, channel="paper")
PNG = b"\x89PNG\r\n\x1a\n"
LONG = [f"/model/encoder/layer.{i}/attention/self/query_and_key_and_value/MatMul_{i % 2}" for i in range(12)]


def graph_of(edges: list[tuple[int, int]], names: list[str]) -> mj.TaskGraph:
    n = len(names)
    return mj.TaskGraph.from_edges(
        cycles=[4e7] * n, upload_bytes=[2e4] * n, download_bytes=[1e4] * n, edges=edges, names=names
    )


def texts_of(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize("num_tasks", [1, 2, 30, 60])
def test_every_task_has_its_name_and_none_covers_another(num_tasks: int) -> None:
    graph = mj.daggen(num_tasks, 0.7, 0.5, np.random.default_rng(num_tasks))
    figure = pictures.dag_figure(graph, mj.all_local(graph, SYSTEM))
    assert texts_of(figure) == list(graph.names)
    png(figure)
    renderer = figure.canvas.get_renderer()
    axes = figure.axes[0]
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))
    page = figure.bbox
    for box in boxes:
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1  # noqa: PT018
    frames = [patch.get_window_extent(renderer) for patch in axes.patches if patch.get_fill()]
    assert len(frames) == num_tasks
    for box, frame in zip(boxes, frames, strict=True):
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
    legend = figure.legends[0].get_window_extent(renderer)
    assert page.x0 <= legend.x0
    assert legend.x1 <= page.x1
    assert not any(legend.overlaps(frame) for frame in frames)


def test_edges_that_skip_tasks_are_seen() -> None:
    """A residual network's: three of the six edges skip, and none is drawn behind a task."""
    names = ["stem", "block1", "block2", "head"]
    graph = graph_of([(0, 1), (1, 2), (2, 3), (0, 2), (0, 3), (1, 3)], names)
    axes = pictures.dag_figure(graph, mj.all_local(graph, SYSTEM)).axes[0]
    frames = [patch.get_extents() for patch in axes.patches if patch.get_fill()]
    lines = axes.transData.transform(axes.patches[0].get_path().interpolated(20).vertices)
    for frame in frames:
        inside = (lines > np.array(frame.min) + 1).all(axis=1) & (lines < np.array(frame.max) - 1).all(axis=1)
        assert not inside.any()
    rows = {round(frame.y0 + frame.height / 2) for frame in frames}
    beside = {round(y) for y in lines[:, 1]} - rows
    assert len(beside) >= 2


def test_both_pictures_name_tasks_alike() -> None:
    graph = graph_of([(i, i + 1) for i in range(11)], LONG)
    plan = mj.all_offload(graph, RETURNS)
    names = texts_of(pictures.dag_figure(graph, plan))
    assert len(set(names)) == 12
    assert names[3].startswith("3/")
    figure = pictures.schedule_figure(graph, RETURNS, plan)
    bars = [name for name in texts_of(figure) if "busy" not in name]
    assert sorted(set(bars)) == sorted(names)
    assert "/model/encoder/layer." in figure.texts[0].get_text()


def test_resources_differ_in_colour_and_servers_too() -> None:
    graph = mj.daggen(8, 0.6, 0.6, np.random.default_rng(2))
    axes = pictures.schedule_figure(graph, RETURNS, mj.heft(graph, RETURNS)).axes[0]
    colours = {middle(bar): bar.get_facecolor()[:3] for bar in axes.patches}
    assert len(colours) == len(set(colours.values())) == 4
    assert len({*LINK_COLOURS.values(), *(pictures.colour_of(site) for site in range(6))}) == 9


def test_a_large_application_is_dots_without_names() -> None:
    """A caption below each level says how many they are."""
    graph = mj.daggen(900, 0.6, 0.2, np.random.default_rng(0))
    plan = mj.all_local(graph, SYSTEM)
    figure = pictures.dag_figure(graph, dataclasses.replace(plan, placement=np.arange(900, dtype=np.int32) % 2))
    (axes,) = figure.axes
    counts = [int(text.get_text().removesuffix(" tasks")) for text in axes.texts]
    assert counts == np.bincount(levels(graph)).tolist()
    dots = axes.collections[-1]
    places, colours = np.asarray(dots.get_offsets()), dots.get_facecolors()
    assert len({tuple(place) for place in places}) == 900
    assert (colours[::2] == colours[0]).all()
    assert (colours[1::2] == colours[1]).all()
    assert (colours[0] != colours[1]).any()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[:2] == ["on the device: 450 tasks", "on the server: 450 tasks"]
    order = np.lexsort((places[:, 0], levels(graph)))
    assert (np.diff(places[order, 0]) >= 0).all()  # columns are levels


def test_levels_are_called_by_what_their_names_begin_with() -> None:
    names = [f"{stage}_{i:03}" for stage, count in (("split", 1), ("align", 70), ("merge", 2)) for i in range(count)]
    edges = [(0, i) for i in range(1, 71)] + [(i, 71 + i % 2) for i in range(1, 71)]
    figure = pictures.dag_figure(graph_of(edges, names), mj.all_local(graph_of(edges, names), SYSTEM))
    assert texts_of(figure) == ["1 task", "align: 70", "merge: 2"]


def test_a_schedule_of_several_servers_has_a_row_for_each() -> None:
    graph = mj.daggen(8, 0.6, 0.6, np.random.default_rng(2))
    system = mj.System(vm_hz=[10e9, 20e9], channel="resident")
    plan = mj.optimum(graph, system)
    axes = pictures.schedule_figure(graph, system, plan).axes[0]
    rows = ["device (UE)", "uplink", "server 1", "server 2", "backhaul", "downlink"]
    assert [label.get_text() for label in axes.get_yticklabels()] == rows
    names = ["UE", *rows[1:]]
    sent = transfers(graph, system, plan.placement, plan.order, plan.schedule)
    wanted = [(names.index(link_of(system, one.source, one.target)), one.start, one.end) for one in sent]
    times = task_times(graph, system)
    for task, site in enumerate(plan.placement.tolist()):
        end = (plan.schedule.vm_end if site else plan.schedule.ue_end)[task]
        wanted.append(((0, 2, 3)[site], end - (times.vm[task, site - 1] if site else times.ue[task]), end))
    shown = [(middle(bar), bar.get_x() / 1e3, (bar.get_x() + bar.get_width()) / 1e3) for bar in axes.patches]
    np.testing.assert_allclose(sorted(shown), sorted(wanted), atol=1e-9)
    assert max(end for *_, end in shown) == pytest.approx(plan.makespan)
    stripes = sum(len(lines.get_segments()) for lines in axes.collections)
    assert stripes == len(sent)
    apart = dataclasses.replace(system, radio="separate")
    axes = pictures.schedule_figure(graph, apart, mj.heft(graph, apart)).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "device (UE)", "uplink 1", "uplink 2", "server 1", "server 2", "backhaul", "downlink 1", "downlink 2"
    ]  # fmt: skip


def test_the_schedule_has_a_bar_for_each_use_of_a_resource() -> None:
    graph = mj.daggen(8, 0.6, 0.6, np.random.default_rng(2))
    plan = mj.heft(graph, RETURNS)
    offloaded = int(plan.placement.sum())
    assert 0 < offloaded < 8
    axes = pictures.schedule_figure(graph, RETURNS, plan).axes[0]
    bars = axes.patches
    assert len(bars) == 8 - offloaded + 3 * offloaded
    last = max(bar.get_x() + bar.get_width() for bar in bars)
    assert last == pytest.approx(1e3 * plan.makespan)
    assert {middle(bar) for bar in bars} == {0, 1, 2, 3}
    busy, nouns = [], ("tasks", "transfers", "tasks", "transfers")
    for row in range(4):  # each resource serves one task at a time
        spans = sorted((bar.get_x(), bar.get_width()) for bar in bars if middle(bar) == row)
        for (start, width), (following, _) in pairwise(spans):
            assert start + width <= following + 1e-6
        share = 100 * sum(width for _, width in spans) / last
        busy.append(f"{len(spans)} {nouns[row]},\nbusy {share:.0f} %")
    assert [text.get_text() for text in axes.texts if "busy" in text.get_text()] == busy


def test_bars_without_room_for_a_name_are_named_below() -> None:
    graph = mj.TaskGraph.from_edges(
        cycles=[9e8, 1e5, 1e5], upload_bytes=[2e5] * 3, download_bytes=[1e2] * 3, edges=[(0, 1)], names=["a", "b", "c"]
    )
    figure = pictures.schedule_figure(graph, RETURNS, simulated_plan(graph, RETURNS, [1, 0, 0]))
    assert "too short for a name: device (UE): b, c; downlink: a" in [text.get_text() for text in figure.texts]
    crowd = mj.daggen(90, 0.6, 0.6, np.random.default_rng(2))
    figure = pictures.schedule_figure(crowd, RETURNS, mj.heft(crowd, RETURNS))
    assert pictures.ROOMY in [text.get_text() for text in figure.texts]


def middle(bar: Any) -> int:
    """The row that a bar is in."""
    return round(bar.get_y() + bar.get_height() / 2)


def test_levels_by_hand() -> None:
    ones = [1.0] * 5
    graph = mj.TaskGraph.from_edges(
        cycles=ones, upload_bytes=ones, download_bytes=ones, edges=[(0, 1), (1, 2), (0, 2), (3, 2)]
    )
    assert levels(graph).tolist() == [0, 1, 2, 0, 0]


def test_the_axes_fit_the_front_and_far_plans_are_words() -> None:
    graph = graph_of([(0, 1)], ["a", "b"])
    local = mj.all_local(graph, SYSTEM)

    def plan(makespan: float, energy: float) -> mj.Plan:
        schedule = dataclasses.replace(local.schedule, energy=energy)
        return dataclasses.replace(local, makespan=makespan, schedule=schedule)

    front = [plan(0.42, 1.5), plan(0.45, 1.3)]
    figure = pictures.front_figure(front, {"near": plan(0.46, 1.4), "far": plan(2.371, 2.0)})
    left, right = figure.axes[0].get_xlim()
    low, high = figure.axes[0].get_ylim()
    assert 410 < left < 420 < 460 < right < 470
    assert 1.2 < low < 1.3 < 1.5 < high < 1.6
    assert [text.get_text() for text in figure.legends[0].get_texts()][1:] == ["near"]
    assert [text.get_text() for text in figure.texts] == ["outside the picture: far (2371.0 ms, 2 J)"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png(pictures.front_figure([plan(0.0, 0.0)], {}))


def test_without_matplotlib_the_extra_is_named_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = graph_of([(0, 1)], ["a", "b"])
    plan = mj.all_local(graph, SYSTEM)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # the import fails as if it were not installed
    for draw in (
        lambda: pictures.dag_figure(graph, plan),
        lambda: pictures.schedule_figure(graph, SYSTEM, plan),
        lambda: pictures.front_figure([plan], {}),
    ):
        with pytest.raises(ImportError, match=r"pip install 'mrlato-jax\[plots\]'"):
            draw()
    mj.write_json(graph, tmp_path / "app.json")
    monkeypatch.setattr(command, "long_planners", lambda *_, **__: [])
    options = ["--uplink_mbps=7", "--downlink_mbps=5", f"--out={tmp_path}"]
    assert command.main([f"--graph={tmp_path / 'app.json'}", *options]) == 0
    out, err = capsys.readouterr()
    assert err.startswith("note: no pictures: pictures need the package matplotlib")
    assert "drawn" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["app.json"]


def test_names_are_drawn_as_they_are() -> None:
    graph = graph_of([(0, 1)], ["a$\\q$", "\ud800\x1b[2J"])
    plan = mj.all_local(graph, SYSTEM)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (pictures.dag_figure(graph, plan, "$\\q \u76f8"), pictures.schedule_figure(graph, SYSTEM, plan)):
            assert png(figure).startswith(PNG)
            assert texts_of(figure)[:2] == ["a$\\q$", "\\ud800\\x1b[2J"]
    assert command.placements(graph, plan).isascii()
