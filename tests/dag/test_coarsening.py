"""Merging tasks: the cuts against all cuts, what every shape becomes, bytes by task, time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrlato_jax.dag.coarsening import BALANCE, EVENNESS, OUTSIDE, SPAN, Row, Traffic, depth_first, distinct, parts
from mrlato_jax.dag.daggen import daggen
from mrlato_jax.dag.dataflow import Dataflow, Item
from mrlato_jax.dag.formats.any_format import Unsaid, read_any
from mrlato_jax.dag.formats.json_graph import write_json
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError

NOTHING = Traffic(*(np.zeros(0, kind) for kind in (np.int64, float, float, bool, np.int64, np.int64)))


def bytes_of(part: set[int], traffic: Traffic) -> float:
    """What a part sends and gets back, said in sets."""
    total = 0.0
    for number, maker in enumerate(traffic.maker.tolist()):
        users = set(traffic.user[traffic.item == number].tolist())
        if maker not in part and users & part:
            total += traffic.sent[number]
        if maker in part and (traffic.delivered[number] or users - part):
            total += traffic.returned[number]
    return total


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, Traffic, list[str], int]:
    """Cycles of tasks in a row, what they send, their pins, and a number of parts."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 8))
    makers = rng.integers(OUTSIDE, n, draw(st.integers(0, 12)))
    uses = [(number, user) for number, maker in enumerate(makers) for user in range(maker + 1, n) if rng.random() < 0.4]
    item, user = np.array(uses, np.int64).reshape(-1, 2).T
    sizes = rng.integers(0, 9, (2, len(makers))).astype(float)
    traffic = Traffic(makers, sizes[0], sizes[1], rng.random(len(makers)) < 0.3, item, user)
    pins = [str(pin) for pin in (rng.random(n) < draw(st.sampled_from((0.0, 0.3)))).cumsum()]
    return rng.integers(0, 9, n).astype(float), traffic, pins, draw(st.integers(len(set(pins)), n))


@settings(max_examples=150, deadline=None)
@given(rows())
def test_no_cuts_of_a_row_are_better(drawn: tuple[np.ndarray, Traffic, list[str], int]) -> None:
    cycles, traffic, pins, num_parts = drawn
    n = len(cycles)
    work = (cycles if cycles.any() else np.ones(n)) * num_parts / (cycles.sum() or n)  # mean 1
    longest = -(-SPAN * n // num_parts)

    def cuts(most: int) -> Iterable[list[range]]:
        for count in range(1, most + 1):
            for inner in itertools.combinations(range(1, n), count - 1):
                ends = [0, *inner, n]
                found = [range(a, b) for a, b in itertools.pairwise(ends)]
                if all(len(part) <= longest and len({pins[task] for task in part}) == 1 for part in found):
                    yield found

    def heaviest(found: list[range]) -> float:
        return max(sum(work[task] for task in part) for part in found)

    bound = max(BALANCE, min(map(heaviest, cuts(num_parts)))) + 1e-9
    apart = sum(bytes_of({task}, traffic) for task in range(n)) or 1.0
    least = min(
        sum(
            bytes_of(set(part), traffic) / apart + EVENNESS / num_parts * sum(work[task] for task in part) ** 2
            for part in found
        )
        for found in cuts(num_parts)
        if len(found) == num_parts and heaviest(found) <= bound
    )
    row = Row(np.arange(n), cycles, traffic, np.unique(pins, return_inverse=True)[1])
    cost, found = row.cut(num_parts)
    assert row.fewest == len(set(pins))
    assert cost == pytest.approx(least)
    assert list(itertools.chain.from_iterable(found)) == list(range(n))
    assert len(found) == num_parts


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_a_row_has_parents_first(seed: int, num_tasks: int) -> None:
    graph = daggen(num_tasks, 0.6, 0.4, np.random.default_rng(seed))
    edges = np.random.default_rng(seed).permutation(num_tasks)[graph.edges]
    row = depth_first(num_tasks, edges, np.ones(len(edges))).tolist()
    assert sorted(row) == list(range(num_tasks))
    assert all(row.index(parent) < row.index(child) for parent, child in edges.tolist())


def flow_of(cycles: Iterable[float], edges: Iterable[tuple[int, int]], size: Callable[[int], float]) -> Dataflow:
    """Each task makes one item for all its children, or for the user."""
    cycles = tuple(cycles)
    users: dict[int, set[int]] = {task: set() for task in range(len(cycles))}
    for parent, child in edges:
        users[parent].add(child)
    items = tuple(Item(size(maker), maker, frozenset(readers), not readers) for maker, readers in users.items())
    return Dataflow(tuple(map(str, range(len(cycles)))), cycles, items)


def layered(num_tasks: int, width: int) -> list[tuple[int, int]]:
    """Each task needs up to three of the layer before."""
    drawn = np.random.default_rng(0).integers(0, width, (num_tasks, 3))
    return sorted(
        {(task - task % width - width + int(a), task) for task in range(width, num_tasks) for a in drawn[task]}
    )


def shapes(n: int) -> dict[str, list[tuple[int, int]]]:
    """Edges of n tasks, n a multiple of 10."""
    ten = [(task, task + 1) for task in range(1, n - 1) if task % 10]
    ends = [(0, 1), *((0, task + 1) for task in range(10, n - 10, 10))]
    return {
        "star out": [(0, leaf) for leaf in range(1, n)],
        "star in": [(leaf, n - 1) for leaf in range(n - 1)],
        "fork-join": [*((0, task) for task in range(1, n - 1)), *((task, n - 1) for task in range(1, n - 1))],
        "chains": [*ten, *ends, *((task, n - 1) for task in range(10, n - 1, 10))],
        "chain": [(task, task + 1) for task in range(n - 1)],
        "tree out": [((task - 1) // 2, task) for task in range(1, n)],
        "tree in": [(task, n - 1 - (n - 2 - task) // 2) for task in range(n - 1)],
        "layers": layered(n, n // 10),
        "fan": [(parent, child) for parent in range(n // 4) for child in range(n // 4, n // 2)],
        "parts": [(task, task + 1) for task in range(n - 1) if task % 5 != 4],
        "nothing": [],
    }


def is_even(merged: Dataflow, heaviest: float) -> bool:
    mean = sum(merged.cycles) / len(merged.cycles)
    return max(merged.cycles) <= max(BALANCE * mean, 4 / 3 * mean + heaviest) * (1 + 1e-9)


@pytest.mark.parametrize("shape", shapes(200))
def test_every_shape_comes_out_even(shape: str) -> None:
    rng = np.random.default_rng(3)
    sizes, some = rng.integers(1, 100, 200).astype(float), rng.exponential(1.0, 200)
    for cycles in ([1.0] * 200, some, np.where(np.arange(200) % 7 > 4, some, 0.0), [*some[:-1], 90.0]):
        flow = flow_of(cycles, shapes(200)[shape], sizes.__getitem__)
        for num_tasks in (1, 2, 7, 20, 150, 199):
            merged = flow.coarsened(num_tasks)
            graph = merged.to_task_graph()  # which refuses cycles
            assert graph.num_tasks == num_tasks
            assert graph.cycles.sum() == pytest.approx(sum(cycles))
            assert is_even(merged, max(cycles))


@pytest.mark.parametrize("shape", ["star out", "nothing"])
def test_leaves_are_shared_out(shape: str) -> None:
    """All cuts send the same bytes, so nothing but evenness counts."""
    merged = flow_of([1.0] * 100, shapes(100)[shape], lambda _: 7.0).coarsened(8)
    assert sorted(merged.cycles) == [12, 12, 12, 12, 13, 13, 13, 13]


def test_a_star_keeps_its_heaviest_leaves() -> None:
    """The task in the middle takes the leaves that send it most, as far as the bound on its work goes."""
    merged = flow_of([1.0] * 21, shapes(20)["star in"] + [(19, 20)], lambda task: 100.0 + task).coarsened(4)
    last = merged.cycles.index(7.0)  # 1.5 times 21/4 is 7.9
    assert merged.names[last].startswith("14 ")
    assert sorted(merged.cycles) in ([4, 5, 5, 7], [4, 4, 6, 7])


def test_chains_are_cut_out_whole() -> None:
    """Four chains of five between a fork and a join, with ids across them."""
    edges = [(task, task + 4) for task in range(16)]
    merged = flow_of([1.0] * 20, edges, lambda _: 10.0).coarsened(4)
    assert merged.names == ("0 (+4)", "1 (+4)", "2 (+4)", "3 (+4)")
    assert not merged.edges


def test_a_chain_is_cut_where_least_is_sent() -> None:
    small = {4, 9, 14}
    flow = flow_of([1.0] * 20, shapes(20)["chain"], lambda task: 1.0 if task in small else 50.0)
    assert flow.coarsened(4).names == ("0 (+4)", "5 (+4)", "10 (+4)", "15 (+4)")


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_units_do_not_matter(scale: float) -> None:
    rng = np.random.default_rng(5)
    sizes, cycles = rng.integers(1, 100, 40), rng.integers(1, 9, 40)
    edges = shapes(40)["layers"]
    usual = flow_of(map(float, cycles), edges, lambda task: float(sizes[task])).coarsened(7)
    other = flow_of(scale * cycles, edges, lambda task: scale * float(sizes[task])).coarsened(7)
    assert other.names == usual.names


def seconds_of(work: Callable[[], object]) -> float:
    """Of processor time."""
    began = time.process_time()
    work()
    return time.process_time() - began


@pytest.mark.parametrize("shape", ["star in", "layers", "fan"])
def test_two_thousand_tasks_take_less_than_two_seconds(shape: str) -> None:
    edges = shapes(2000)[shape] if shape != "fan" else shapes(800)["fan"]
    flow = flow_of([1.0] * 2000, edges, lambda task: float(task % 13))
    assert seconds_of(lambda: flow.coarsened(20)) < 2  # measured: 0.2 s, the fan 0.4


@pytest.mark.parametrize(
    ("num_tasks", "edges", "message"),
    [
        (650, np.argwhere(np.triu(np.ones((650, 650)), 1)), "tasks with 210925 edges .*at most 200000"),
        (3001, np.zeros((0, 2), np.int64), "3001 tasks are to be coarsened; accepted: at most 3000"),
    ],
    ids=["dense", "many"],
)
def test_what_is_too_large(num_tasks: int, edges: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parts(np.ones(num_tasks), edges, NOTHING, 20)


# Bytes by task. 0 gives to 1 and 2, which give to 3. What 1 and 3 send is more than what they get from others, by 10
# and by 45; 2 sends half of what 0 makes.
BY_TASK = TaskGraph.from_edges(
    cycles=[1, 2, 3, 4], upload_bytes=[100, 30, 10, 60], download_bytes=[20, 10, 5, 1],
    edges=[(0, 1), (0, 2), (1, 3), (2, 3)], names=["in", "left", "right", "out"],
)  # fmt: skip


@pytest.mark.parametrize(
    ("cycles", "num_tasks", "expected"),
    [
        # Nothing between them: what the UE has is sent, the last result comes back.
        ([1, 2, 3, 4], 1, ([10], [155], [1])),
        # 0, 1 and 2 against 3.
        ([3, 3, 3, 9], 2, ([9, 9], [110, 60], [15, 1])),
        # 0 against the others: 1 takes its result whole, 2 a half of its own.
        ([9, 3, 3, 3], 2, ([9, 9], [100, 85], [20, 1])),
    ],
)
def test_bytes_by_task_by_hand(cycles: list[float], num_tasks: int, expected: tuple[list[float], ...]) -> None:
    graph = TaskGraph.from_edges(
        cycles=cycles, upload_bytes=BY_TASK.upload_bytes, download_bytes=BY_TASK.download_bytes, edges=BY_TASK.edges
    )
    merged = graph.coarsened(num_tasks)
    assert (merged.cycles.tolist(), merged.upload_bytes.tolist(), merged.download_bytes.tolist()) == expected
    assert merged.edges.tolist() == [[0, 1]][: num_tasks - 1]


def test_a_result_that_is_taken_whole_is_sent_once() -> None:
    graph = TaskGraph.from_edges(
        cycles=[4, 2, 2], upload_bytes=[100, 20, 20], download_bytes=[20, 3, 4], edges=[(0, 1), (0, 2)]
    )
    merged = graph.coarsened(2)
    assert merged.names == ("0", "1 (+1)")
    assert merged.upload_bytes.tolist() == [100, 20]
    assert merged.download_bytes.tolist() == [20, 7]


def test_commands_coarsen_files_of_every_format(tmp_path: Path) -> None:
    write_json(BY_TASK, tmp_path / "g.json")
    assert read_any(tmp_path / "g.json", Unsaid(num_tasks=2)) == BY_TASK.coarsened(2)
    (tmp_path / "g.gv").write_text("digraph { 0 [size=9, expect_size=2] 1 [size=9, expect_size=2] 0 -> 1 }")
    merged = read_any(tmp_path / "g.gv", Unsaid(num_tasks=1))
    assert (merged.cycles.tolist(), merged.upload_bytes.tolist()) == ([18000], [16])  # 9, and what the first lacks of 9


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 30))
def test_a_graph_loses_no_work_and_gains_no_bytes(seed: int, size: int, num_tasks: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = daggen(size, 0.6, 0.4, rng)
    graph = TaskGraph(
        drawn.cycles, rng.integers(0, 5, size) * 10.0, rng.integers(0, 5, size) * 10.0, drawn.edges, drawn.names
    )
    merged = graph.coarsened(num_tasks)
    assert merged.num_tasks == min(num_tasks, size)
    assert merged.cycles.sum() == pytest.approx(graph.cycles.sum())
    assert merged.upload_bytes.sum() <= graph.upload_bytes.sum() + 1e-6
    assert merged.download_bytes.sum() <= graph.download_bytes.sum() + 1e-6
    assert graph.coarsened(size) is graph
    # What is delivered still is: the results of tasks without children.
    assert merged.download_bytes.sum() >= graph.download_bytes[~np.isin(np.arange(size), graph.edges[:, 0])].sum()


def test_tasks_of_different_pins_stay_apart() -> None:
    pins = ["ue", "any", "any", "server", "any", "ue"]
    graph = TaskGraph.from_edges(
        cycles=[1.0] * 6, upload_bytes=[5.0] * 6, download_bytes=[5.0] * 6, edges=[(a, a + 1) for a in range(5)],
        pins=pins,
    )  # fmt: skip
    merged = graph.coarsened(5)
    assert merged.pins == ("ue", "any", "server", "any", "ue")
    assert merged.names == ("0", "1 (+1)", "3", "4", "5")
    with pytest.raises(InputError, match="num_tasks is 4, where tasks with other pins keep 5 parts apart; accepted"):
        graph.coarsened(4)


def test_equal_choices_are_made_in_the_order_of_the_file() -> None:
    assert parts(np.ones(6), np.zeros((0, 2), np.int64), NOTHING, 3) == [[0, 1], [2, 3], [4, 5]]


def test_nothing_is_sent_exactly() -> None:
    """Items that nobody uses leave no rounding behind, by which cuts would be chosen."""
    items = (*(Item(size, 3, frozenset()) for size in (0.7, 0.1, 0.3)), Item(0.0, 1, frozenset({2})))
    flow = Dataflow(tuple("abcdefgh"), (1.0,) * 8, items)
    assert flow.coarsened(4).cycles == (2.0,) * 4


def test_names_become_distinct() -> None:
    assert distinct(["a", "a", "a #2", "a"]) == ("a", "a #2", "a #2 #2", "a #3")
