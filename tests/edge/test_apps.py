"""The applications that come with the project: what they give, their DAGs, and their sizes and times."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import networkx as nx
import numpy as np
import pytest
from in_process import measured

from mrlato_jax.edge.apps import ar, map_reduce, navigate
from mrlato_jax.edge.codec import packed
from mrlato_jax.edge.installed import load
from mrlato_jax.edge.parser import Measured

APPS = ("ar", "map_reduce", "navigate", "network")
SMALL_MESSAGES = ("navigate",)
MACHINE_HZ = 10e9


@functools.cache
def ran(name: str) -> Measured:
    if name == "network":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
    app = load(f"mrlato_jax.edge.apps.{name}")
    return measured(app, app.example_arguments(), machine_hz=MACHINE_HZ)


def named(name: str) -> set[tuple[str, str]]:
    calls = ran(name).program.calls
    return {(calls[parent].name, calls[child].name) for parent, child in ran(name).program.edges}


def pinned(name: str) -> dict[str, str]:
    return {call.name: call.pin for call in ran(name).program.calls if call.pin != "any"}


@pytest.mark.parametrize("name", APPS)
def test_sizes_and_times_are_those_of_real_applications(name: str) -> None:
    graph = ran(name).graph
    assert 8 <= graph.num_tasks <= 20
    seconds = graph.cycles / MACHINE_HZ
    assert 0.015 < seconds.sum() < 3.0
    assert 0.002 < seconds.max() < 1.0
    assert np.count_nonzero(seconds > 0.0005) >= 5
    given = graph.download_bytes
    assert given.max() < 120e3
    assert np.count_nonzero(given > 7e3) >= 5 or name in SMALL_MESSAGES


@pytest.mark.parametrize("name", APPS)
def test_results_are_equal_each_time_and_inputs_stay_as_they_are(name: str) -> None:
    first = ran(name)  # whose inputs were read-only
    app = load(f"mrlato_jax.edge.apps.{name}")
    again = measured(app, app.example_arguments(), machine_hz=MACHINE_HZ)
    assert packed(again.returned) == packed(first.returned)
    assert again.graph.download_bytes.tolist() == first.graph.download_bytes.tolist()


def test_ar_has_the_tasks_of_a_frame() -> None:
    assert named("ar") == {
        ("seed", "capture"), ("capture", "grey"), ("capture", "shrink"), ("capture", "display"), ("grey", "corners"),
        ("grey", "denoised"), ("corners", "describe"), ("denoised", "describe"), ("describe", "match"),
        ("corners", "pose"), ("match", "pose"), ("shrink", "correlate"), ("shrink", "recognise"),
        ("correlate", "recognise"), ("pose", "render"), ("recognise", "render"), ("pose", "display"),
        ("recognise", "display"), ("render", "display"),
    }  # fmt: skip
    assert pinned("ar") == {"seed": "ue", "capture": "ue", "match": "server", "display": "ue"}


def frame_by_hand(seed: int) -> tuple[Any, Any, Any]:
    seen = ar.capture(seed)
    image = ar.grey(seen)
    found = ar.corners(image)
    where = ar.pose(found, ar.match(ar.describe(ar.denoised(image), found)))
    small = ar.shrink(seen)
    thing = ar.recognise(small, ar.correlate(small))
    return where, thing, ar.display(seen, ar.render(where, thing), where, thing)


def test_ar_gives_what_its_functions_give() -> None:
    shown = ran("ar").returned
    where, thing, expected = frame_by_hand(ar.example()["seed"])
    assert packed(shown) == packed(expected)
    assert shown["object"] == thing
    np.testing.assert_array_equal(shown["pose"], where)
    assert shown["drawn"] > 1000


@pytest.mark.parametrize("seed", [0, 4, 10, 15])
def test_ar_finds_what_is_in_the_scene(seed: int) -> None:
    where, thing, _ = frame_by_hand(seed)
    scene = ar.scene(seed)
    assert abs(complex(where[0], where[1]) - scene.turn) < 0.01
    assert abs(complex(where[2], where[3]) - scene.shift) < 0.5
    assert where[4] > 30
    assert (thing["shape"], thing["colour"]) == (scene.shape, scene.colour)
    assert abs(complex(*thing["at"]) - scene.place) < 5


def test_ar_goes_on_where_there_is_nothing_to_see() -> None:
    blank = np.full((ar.ROWS, ar.COLUMNS, 3), 90, np.uint8)
    image = ar.grey(blank)
    found = ar.corners(image)
    where = ar.pose(found[:0], ar.match(ar.describe(ar.denoised(image), found[:0])))
    assert where.tolist() == [1, 0, ar.COLUMNS / 2, ar.ROWS / 2, 0]
    small = ar.shrink(blank)
    thing = ar.recognise(small, ar.correlate(small))
    assert ar.display(blank, ar.render(where, thing), where, thing)["drawn"] > 1000


def test_map_reduce_has_a_map_for_each_piece_and_a_share_for_each_reduce() -> None:
    def numbered(name: str, number: int) -> str:
        return f"{name}_{number}" if number > 1 else name

    pieces = range(1, map_reduce.PIECES + 1)
    shares = range(1, map_reduce.SHARES + 1)
    assert named("map_reduce") == (
        {("seed", numbered("read", piece)) for piece in pieces}
        | {(numbered("read", piece), numbered("count", piece)) for piece in pieces}
        | {(numbered("count", piece), numbered("add", share)) for piece in pieces for share in shares}
        | {(numbered("add", share), "merge") for share in shares}
    )
    assert pinned("map_reduce") == {"seed": "ue"} | {numbered("read", piece): "ue" for piece in pieces}


def test_map_reduce_counts_every_word() -> None:
    seed = map_reduce.example()["seed"]
    words = [
        word.strip(".").lower() for piece in range(map_reduce.PIECES) for word in map_reduce.read(seed, piece).split()
    ]
    counts = Counter(word if word in map_reduce._KNOWN else map_reduce.mended(word) for word in words)
    found = ran("map_reduce").returned
    assert found["words"] == len(words) == map_reduce.PIECES * map_reduce.WORDS
    assert found["different"] == len(counts)
    expected = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[: map_reduce.TOP]
    assert [tuple(entry) for entry in found["top"]] == expected
    assert 0 < found["everywhere"] < found["different"]


def test_misspelt_words_are_mended() -> None:
    word = map_reduce._WORDS[0]
    for wrong in (word[1:], word + "q", f"{word[1]}{word[0]}{word[2:]}", "q" + word[1:]):
        assert map_reduce.mended(wrong) == word
    assert map_reduce.mended("qqqqqqqq") == "qqqqqqqq"


def test_navigate_weighs_in_two_rounds() -> None:
    edges = named("navigate")
    rounds = [["weigh", "weigh_2", "weigh_3", "weigh_4"], ["weigh_5", "weigh_6", "weigh_7", "weigh_8"]]
    for pieces, before, after in zip(rounds, ("believe", "locate"), ("locate", "locate_2"), strict=True):
        assert {child for parent, child in edges if parent == before} >= set(pieces)
        assert {parent for parent, child in edges if child == after} == {before, *pieces}
    assert pinned("navigate") == {"seed": "ue", "believe": "ue", "scan": "ue", "drive": "ue"}


@pytest.mark.parametrize("seed", [1, 5, 8, 14])
def test_navigate_finds_where_it_is_and_the_cheapest_way(seed: int) -> None:
    begin, seen = navigate.start(seed), navigate.scan(seed)
    where, off = begin.guess, [np.hypot(*(begin.guess - begin.pose)[:2])]
    for narrower in (1.0, navigate.NARROWER):
        weighed = [navigate.weigh(seen, where, piece, narrower) for piece in range(navigate.PIECES)]
        where = navigate.locate(where, weighed)
        off.append(np.hypot(*(where - begin.pose)[:2]))
    assert off[2] < 0.06 < off[0]
    assert off[1] < off[0]
    assert abs(where[2] - begin.pose[2]) < 0.03
    blocked = navigate.obstacles(where, seen)
    path = [tuple(place) for place in navigate.way(where, blocked).tolist()]
    assert path[0] == (int(where[1] / navigate.CELL), int(where[0] / navigate.CELL))
    assert path[-1] == navigate.GOAL
    clear = navigate.clearance(blocked)
    grid = nx.DiGraph()
    for row, column in zip(*np.nonzero(~blocked), strict=True):
        price = 1.0 + 2.0 * (navigate.KEEP - clear[row, column])
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                if down or right:
                    length = price * (1.4142 if down and right else 1.0)
                    grid.add_edge((row - down, column - right), (row, column), weight=length)
    cheapest = nx.dijkstra_path_length(grid, path[0], path[-1])
    assert nx.path_weight(grid, path, "weight") == pytest.approx(cheapest)


def test_navigate_says_where_there_is_no_way() -> None:
    pose = navigate.start(1).pose
    path = navigate.way(pose, np.ones((navigate.SIDE, navigate.SIDE), bool))
    assert path.shape == (0, 2)
    assert navigate.drive(pose, path)["metres"] == 0


def test_network_has_two_blocks_of_four_branches() -> None:
    stem, neck, head = "part_0", "part_5", "part_10"
    blocks = [[f"part_{number}" for number in numbers] for numbers in (range(1, 5), range(6, 10))]
    assert named("network") == (
        {("picture", stem)}
        | {(stem, branch) for branch in blocks[0]}
        | {(branch, neck) for branch in blocks[0]}
        | {(neck, branch) for branch in blocks[1]}
        | {(branch, head) for branch in blocks[1]}
    )
    assert pinned("network") == {"picture": "ue"}


def test_network_gives_what_the_whole_network_gives() -> None:
    found = ran("network").returned
    import onnxruntime

    from mrlato_jax.edge.apps import network

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        network.model().SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (expected,) = session.run(None, network.example())
    assert len(found) == 1
    np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-5)
    assert found[0].sum() == pytest.approx(1.0, abs=1e-5)
    assert found[0].max() < 0.9  # the weights let the picture through
    other = {"picture": network.example()["picture"][:, ::-1].copy()}
    (elsewhere,) = session.run(None, other)
    assert np.abs(elsewhere - expected).max() > 1e-3
