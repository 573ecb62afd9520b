"""The graph record: what it holds, and that nothing invalid gets in."""

from __future__ import annotations

import copy
import itertools
import pickle
import time
from typing import Any, NamedTuple

import hypothesis.strategies as st
import networkx as nx
import numpy as np
import pytest
from hypothesis import given

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError

DIAMOND = {
    "cycles": [4.0, 3.0, 2.0, 1.0],
    "upload_bytes": [10, 20, 30, 40],
    "download_bytes": [5, 6, 7, 0],
    "edges": [(2, 3), (0, 2), (0, 1), (1, 3)],
}


def diamond(**changes: Any) -> TaskGraph:
    return TaskGraph.from_edges(**{**DIAMOND, **changes})


class Arguments(NamedTuple):
    """Arguments of `from_edges` for a random valid graph."""

    costs: dict[str, list[float]]
    edges: list[tuple[int, int]]
    order: list[int]  # a linear extension

    def build(self, **changes: Any) -> TaskGraph:
        return TaskGraph.from_edges(**{**self.costs, "edges": self.edges, **changes})


@st.composite
def arguments(draw: st.DrawFn, min_tasks: int = 1) -> Arguments:
    """Ids in no particular order: an edge goes from an earlier to a later place of a random order."""
    order = draw(st.integers(min_tasks, 12).flatmap(lambda n: st.permutations(range(n))))
    pairs = [(order[i], order[j]) for i in range(len(order)) for j in range(i + 1, len(order))]
    edges = [pair for pair in draw(st.permutations(pairs)) if draw(st.booleans())] if pairs else []
    cost = st.lists(st.floats(0, 1e12), min_size=len(order), max_size=len(order))
    return Arguments({field: draw(cost) for field in ("cycles", "upload_bytes", "download_bytes")}, edges, order)


def test_fields_of_a_diamond() -> None:
    graph = diamond(names=["a", "b", "c", "d"])
    assert graph.num_tasks == 4
    assert graph.names == ("a", "b", "c", "d")
    assert graph.edges.tolist() == [[0, 1], [0, 2], [1, 3], [2, 3]]
    assert graph.edges.dtype == np.int64
    assert graph.upload_bytes.dtype == np.float64
    assert graph.children(0).tolist() == [1, 2]
    assert graph.parents(np.int64(3)).tolist() == [1, 2]
    assert graph.parents(0).size == 0
    expected = np.zeros((4, 4), dtype=bool)
    expected[[0, 0, 1, 2], [1, 2, 3, 3]] = True
    assert (graph.adjacency == expected).all()


def test_names_are_ids_by_default() -> None:
    assert diamond().names == ("0", "1", "2", "3")


def test_arrays_are_read_only_copies() -> None:
    cycles = np.array(DIAMOND["cycles"])
    graph = diamond(cycles=cycles)
    cycles[0] = 99.0
    assert graph.cycles[0] == 4.0
    for again in (graph, copy.deepcopy(graph), pickle.loads(pickle.dumps(graph))):
        for array in (again.cycles, again.upload_bytes, again.download_bytes, again.edges, again.adjacency):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


def test_equal_by_value() -> None:
    graph = diamond()
    same = diamond(edges=sorted(DIAMOND["edges"]), download_bytes=[5, 6, 7, -0.0])
    assert graph == same
    assert hash(graph) == hash(same)
    assert graph == copy.copy(graph)
    assert graph != diamond(names=["a", "b", "c", "d"])
    assert graph != diamond(cycles=[4.0, 3.0, 2.0, 1.5])
    assert graph != diamond(edges=[(0, 1)])
    assert graph != "graph"


@pytest.mark.parametrize(
    "edges",
    [
        [],
        np.empty((0, 2)),
        {(0, 1), (1, 2)},
        iter([(0, 1)]),
        np.array([[0, 1]], dtype=np.uint8),
        nx.path_graph(3).edges,
    ],
    ids=["empty", "empty array", "set", "iterator", "uint8", "edge view"],
)
def test_accepted_forms_of_edges(edges: Any) -> None:
    assert diamond(edges=edges).edges.shape[1] == 2


@pytest.mark.parametrize("field", ["cycles", "upload_bytes", "download_bytes"])
@pytest.mark.parametrize(
    "values",
    [
        ["1", "2", "3", "4"],
        [True, True, False, True],
        [1.0, True, 2.0, 3.0],
        np.ones(4, dtype=bool),
        np.ones(4, dtype=complex),
        np.ones(4, dtype=object),
        [1.0, None, 2.0, 3.0],
        [1.0, 10**400, 2.0, 3.0],
        [[1.0], [2.0, 3.0]],
        np.ones((4, 1)),
        1.0,
        None,
        "1234",
        {"a": 1},
        [],
        np.array(["2020-01-01"] * 4, dtype="datetime64[D]"),
    ],
    ids=str,
)
def test_refuses_costs_of_wrong_type_or_shape(field: str, values: Any) -> None:
    with pytest.raises(InputError, match=rf"^{field} .*accepted: "):
        diamond(**{field: values})


@pytest.mark.parametrize("field", ["cycles", "upload_bytes", "download_bytes"])
@pytest.mark.parametrize("num_values", [3, 5])
def test_refuses_costs_of_unequal_length(field: str, num_values: int) -> None:
    with pytest.raises(InputError, match=r"_bytes has \d values; accepted: one per task, as cycles has \(\d\)"):
        diamond(**{field: [1.0] * num_values})


@pytest.mark.parametrize(
    ("edges", "found"),
    [
        ([(0.0, 1.0)], "float64"),
        ([("0", "1")], "<U1"),
        ([(0, True)], "bool"),
        (np.zeros((1, 2), dtype=bool), "bool"),
        (np.zeros((1, 2), dtype=complex), "complex"),
        ([(0, None)], "object"),
        ([(0, 1, 2)], r"\(1, 3\)"),
        ([0, 1], r"\(2,\)"),
        ([[(0, 1)]], r"\(1, 1, 2\)"),
        ([(0, 1), (2,)], "accepted"),
        ("", "accepted"),
        (None, "accepted"),
        (3, "accepted"),
        ([(0, 4)], "missing task"),
        ([(-1, 0)], "missing task"),
        (np.array([[0, 2**64 - 1]], dtype=np.uint64), "missing task"),
        ([(0, 10**30)], "accepted"),
        ([(0, 1), (2, 2)], r"\(2, 2\), a self-loop"),
        ([(0, 1), (0, 2), (0, 1)], r"\(0, 1\) more than once"),
    ],
)
def test_refuses_edges(edges: Any, found: str) -> None:
    with pytest.raises(InputError, match=f"edges.*{found}"):
        diamond(edges=edges)


@pytest.mark.parametrize(
    "names", [["a", "b", "c"], ["a", "b", "c", "a"], ["a", "b", "c", 3], ["a", "b", "c", None], "abcd", 4]
)
def test_refuses_names(names: Any) -> None:
    with pytest.raises(InputError, match=r"names.*accepted: "):
        diamond(names=names)


def test_constructor_is_as_strict_as_from_edges() -> None:
    good = (np.ones(2), np.ones(2), np.ones(2), np.array([[0, 1]]), ("a", "b"))
    assert TaskGraph(*good).num_tasks == 2
    for place, bad in enumerate([[-1.0, 1.0], ["a", "b"], [np.nan, 1.0], [[0, 1], [1, 0]], ["a", "b"]]):
        with pytest.raises(InputError):
            TaskGraph(*good[:place], bad, *good[place + 1 :])


def test_a_cycle_is_named() -> None:
    with pytest.raises(InputError, match="cycle of 3 tasks") as caught:
        diamond(edges=[(0, 1), (1, 2), (2, 3), (3, 1)], names=["in", "x", "y", "z"])
    path = str(caught.value).split("tasks: ")[1].split(";")[0].replace("'", "").split(" -> ")
    assert path[0] == path[-1]
    assert set(itertools.pairwise(path)) == {("x", "y"), ("y", "z"), ("z", "x")}


def test_a_long_cycle_gives_a_short_message() -> None:
    ones = np.ones(1000)
    edges = [(i, (i + 1) % 1000) for i in range(1000)]
    with pytest.raises(InputError, match="cycle of 1000 tasks") as caught:
        TaskGraph.from_edges(cycles=ones, upload_bytes=ones, download_bytes=ones, edges=edges)
    assert len(str(caught.value)) < 300


@given(arguments(min_tasks=2), st.data())
def test_refuses_any_corruption(args: Arguments, data: st.DataObject) -> None:
    n = len(args.order)
    kind = data.draw(st.sampled_from(["cost", "length", "missing", "loop", "repeat", "cycle"]))
    field = data.draw(st.sampled_from(sorted(args.costs)))
    task = data.draw(st.integers(0, n - 1))
    if kind == "cost":
        bad = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, -1.0, -5e-324]))
        costs = [*args.costs[field][:task], bad, *args.costs[field][task + 1 :]]
        changes, message = {field: costs}, rf"{field}\[{task}\] is"
    elif kind == "length":
        changes, message = {field: args.costs[field][:-1]}, "accepted: "
    elif kind == "missing":
        wrong = data.draw(st.integers(n, 2**62) | st.integers(-(2**62), -1))
        changes, message = {"edges": [*args.edges, (task, wrong)]}, "missing task"
    elif kind == "loop":
        changes, message = {"edges": [*args.edges, (task, task)]}, "self-loop"
    elif kind == "repeat":
        edge = data.draw(st.sampled_from(args.edges or [(args.order[0], args.order[1])]))
        changes, message = {"edges": [edge, *args.edges, edge]}, "more than once"
    else:
        first, last = args.order[0], args.order[-1]
        changes = {"edges": [*(set(args.edges) | {(first, last)}), (last, first)]}
        message = "cycle"
    with pytest.raises(InputError, match=message):
        args.build(**changes)


@given(arguments())
def test_topological_order_is_the_smallest_first_one(args: Arguments) -> None:
    graph = args.build()
    as_networkx = nx.DiGraph(args.edges)
    as_networkx.add_nodes_from(range(graph.num_tasks))
    assert graph.topological_order().tolist() == list(nx.lexicographical_topological_sort(as_networkx))
    assert graph.topological_order().dtype == np.int64


@given(arguments())
def test_networkx_round_trip(args: Arguments) -> None:
    graph = args.build(names=[f"task {i}" for i in range(len(args.order))])
    as_networkx = graph.to_networkx()
    assert sorted(as_networkx.edges) == sorted(args.edges)
    assert TaskGraph.from_networkx(as_networkx) == graph


@given(arguments())
def test_neighbours_agree_with_the_adjacency(args: Arguments) -> None:
    graph = args.build()
    assert graph.adjacency.sum() == len(args.edges)
    for task in range(graph.num_tasks):
        assert graph.children(task).tolist() == np.flatnonzero(graph.adjacency[task]).tolist()
        assert graph.parents(task).tolist() == np.flatnonzero(graph.adjacency[:, task]).tolist()


def test_from_networkx_numbers_nodes_as_they_stand() -> None:
    graph = nx.DiGraph()
    for node, cycles in (("sink", 1.0), (7, 2.0)):
        graph.add_node(node, cycles=cycles, upload_bytes=3, download_bytes=4)
    graph.add_edge(7, "sink")
    assert TaskGraph.from_networkx(graph) == TaskGraph.from_edges(
        cycles=[1.0, 2.0], upload_bytes=[3, 3], download_bytes=[4, 4], edges=[(1, 0)], names=["sink", "7"]
    )


def test_from_networkx_refuses() -> None:
    good = diamond().to_networkx()
    for wrong in (nx.Graph(good), nx.MultiDiGraph(good), None, [(0, 1)]):
        with pytest.raises(InputError, match=r"graph is .*accepted: a networkx\.DiGraph"):
            TaskGraph.from_networkx(wrong)
    del good.nodes[2]["upload_bytes"]
    with pytest.raises(InputError, match="node 2 lacks upload_bytes"):
        TaskGraph.from_networkx(good)
    with pytest.raises(InputError, match="cycles"):
        TaskGraph.from_networkx(nx.DiGraph())
    clash = nx.relabel_nodes(diamond().to_networkx(), {0: "1"})
    for node in clash.nodes:
        del clash.nodes[node]["name"]
    with pytest.raises(InputError, match=r"names\[\d\] is '1', used before"):
        TaskGraph.from_networkx(clash)


@pytest.mark.parametrize("task", [-1, 4, 1.0, "0", None, True])
def test_refuses_task_ids(task: Any) -> None:
    for method in (diamond().parents, diamond().children):
        with pytest.raises(InputError, match=r"task is .*\[0, 3\]"):
            method(task)


def test_thousand_tasks_and_a_hundred_thousand_edges_take_no_time() -> None:
    rng = np.random.default_rng(0)
    edges = np.argwhere(np.triu(rng.random((1000, 1000)) < 0.2, 1))
    relabelled = rng.permutation(1000)[edges]
    ones = np.ones(1000)
    start = time.process_time()
    graph = TaskGraph.from_edges(cycles=ones, upload_bytes=ones, download_bytes=ones, edges=relabelled)
    assert graph.adjacency.sum() == len(edges) > 95_000
    assert time.process_time() - start < 2.0  # measured: 0.02 s
