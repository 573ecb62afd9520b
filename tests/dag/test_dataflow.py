"""Applications with named data: bytes by task, and that merging tasks loses neither work nor bytes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrlato_jax.dag.dataflow import BALANCE, OUTSIDE, Dataflow, Item, distinct
from mrlato_jax.errors import InputError

# A camera's picture is read by two tasks; both make one thing for a third, and the first a log that nobody reads.
PICTURE = Item(100.0, OUTSIDE, frozenset({0, 1}))
LOG = Item(7.0, 0, frozenset(), delivered=True)
SCRATCH = Item(9.0, 0, frozenset())
BOXES, MASK = Item(10.0, 0, frozenset({2, 3})), Item(20.0, 1, frozenset({2}))
ANSWER = Item(1.0, 2, frozenset(), delivered=True)
FLOW = Dataflow(
    ("boxes", "mask", "join", "count"), (5.0, 6.0, 7.0, 8.0), (PICTURE, LOG, SCRATCH, BOXES, MASK, ANSWER),
    frozenset({(2, 3)}),
)  # fmt: skip


def test_bytes_by_task_by_hand() -> None:
    graph = FLOW.to_task_graph()
    assert graph.upload_bytes.tolist() == [100, 100, 30, 10]
    assert graph.download_bytes.tolist() == [17, 20, 1, 0]  # what nobody reads or gets costs nothing
    assert graph.edges.tolist() == [[0, 2], [0, 3], [1, 2], [2, 3]]
    assert graph.cycles.tolist() == [5, 6, 7, 8]
    assert graph.names == FLOW.names


def test_merged_by_hand() -> None:
    """Along the edge of most bytes: the mask stays within; boxes still go to two."""
    merged = FLOW.coarsened(3)
    graph = merged.to_task_graph()
    assert graph.names == ("boxes", "mask (+1)", "count")
    assert graph.cycles.tolist() == [5, 13, 8]
    assert graph.upload_bytes.tolist() == [100, 110, 10]
    assert graph.download_bytes.tolist() == [17, 1, 0]
    assert graph.edges.tolist() == [[0, 1], [0, 2], [1, 2]]
    one = FLOW.coarsened(1).to_task_graph()
    assert (one.cycles.tolist(), one.upload_bytes.tolist(), one.download_bytes.tolist()) == ([26], [100], [8])


def test_few_enough_tasks_stay() -> None:
    assert FLOW.coarsened(4) == FLOW
    assert FLOW.coarsened(9) == FLOW


def test_an_edge_that_another_way_leads_around_is_not_merged() -> None:
    """0 -> 2 holds most bytes, but 0 -> 1 -> 2 would become a cycle."""
    items = (Item(50.0, 0, frozenset({2})), Item(1.0, 0, frozenset({1})), Item(2.0, 1, frozenset({2})))
    merged = Dataflow(("a", "b", "c"), (1.0, 1.0, 1.0), items).coarsened(2)
    assert merged.to_task_graph().edges.tolist() == [[0, 1]]


def test_parts_without_edges_are_merged_last() -> None:
    flow = Dataflow(("a", "b", "c"), (1.0, 2.0, 9.0), ())
    assert flow.coarsened(2).cycles == (3.0, 9.0)
    assert flow.coarsened(1).cycles == (12.0,)


@st.composite
def flows(draw: st.DrawFn) -> Dataflow:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(1, 25))
    items = []
    for _ in range(draw(st.integers(0, 40))):
        maker = int(rng.integers(-1, n))
        later = np.arange(maker + 1, n)
        users = frozenset(rng.choice(later, rng.integers(0, min(4, len(later)) + 1), replace=False).tolist())
        items.append(Item(float(rng.integers(0, 100)), maker, users, bool(rng.integers(2))))
    number = int(rng.integers(0, 5)) if n > 1 else 0
    pairs = {tuple(sorted(rng.choice(n, 2, replace=False).tolist())) for _ in range(number)}
    cycles = tuple(map(float, rng.integers(0, 50, n)))
    return Dataflow(tuple(map(str, range(n))), cycles, tuple(items), frozenset(pairs))


@settings(max_examples=150, deadline=None)
@given(flows(), st.integers(1, 25))
def test_merging_keeps_work_and_cut_bytes(flow: Dataflow, num_tasks: int) -> None:
    merged = flow.coarsened(num_tasks)
    graph = merged.to_task_graph()  # which refuses cycles
    assert graph.num_tasks == min(num_tasks, len(flow.names))
    assert graph.cycles.sum() == pytest.approx(sum(flow.cycles))
    assert [(item.size, item.delivered) for item in merged.items] == [(i.size, i.delivered) for i in flow.items]
    # Each task's bytes, said again in sets: what enters it and what leaves it.
    for task in range(graph.num_tasks):
        enters = sum(item.size for item in merged.items if task in item.users and item.maker != task)
        made = [item for item in merged.items if item.maker == task]
        leaves = sum(item.size for item in made if item.delivered or item.users - {task})
        assert graph.upload_bytes[task] == pytest.approx(enters)
        assert graph.download_bytes[task] == pytest.approx(leaves)
    before, after = flow.to_task_graph(), graph
    assert after.upload_bytes.sum() <= before.upload_bytes.sum() + 1e-9
    assert after.download_bytes.sum() <= before.download_bytes.sum() + 1e-9
    assert nx.is_directed_acyclic_graph(after.to_networkx())


def test_a_cycle_is_refused() -> None:
    items = (Item(1.0, 0, frozenset({1})), Item(1.0, 1, frozenset({0})))
    flow = Dataflow(("a", "b"), (1.0, 1.0), items)
    for make in (flow.to_task_graph, lambda: flow.coarsened(1)):
        with pytest.raises(InputError, match="edges hold a cycle of 2 tasks"):
            make()


@pytest.mark.parametrize("number", [0, -1, 1.5, True])
def test_numbers_of_tasks_that_there_are_not(number: float) -> None:
    with pytest.raises(InputError, match=f"num_tasks is {number}; accepted: an integer in"):
        FLOW.coarsened(number)  # type: ignore[arg-type]


def test_names_become_distinct() -> None:
    assert distinct(["a", "a", "a #2", "a"]) == ("a", "a #2", "a #2 #2", "a #3")


def seconds_of(work: Callable[[], object]) -> float:
    """Of processor time."""
    began = time.process_time()
    work()
    return time.process_time() - began


def even(num_tasks: int, edges: Iterable[tuple[int, int]]) -> Dataflow:
    """Tasks of one cycle and items of one byte: every choice is a tie."""
    users: dict[int, set[int]] = {}
    for parent, child in edges:
        users.setdefault(parent, set()).add(child)
    items = tuple(Item(1.0, maker, frozenset(readers)) for maker, readers in users.items())
    return Dataflow(tuple(map(str, range(num_tasks))), (1.0,) * num_tasks, items)


def test_three_thousand_tasks_are_merged_soon() -> None:
    flow = even(3000, ((task, task + 1) for task in range(2999)))
    merged = []
    assert seconds_of(lambda: merged.append(flow.coarsened(20))) < 15  # 1.1 s on a quiet core, 5.6 s on a busy one
    assert len(merged[0].names) == 20


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        # Every pair that is merged closes all the others off.
        (even(800, ((a, b) for a in range(400) for b in range(400, 800))), "takes more than 15000000 steps"),
        (even(700, ((a, b) for b in range(700) for a in range(b))), "tasks with 244650 edges .*at most 200000"),
        (even(3001, ()), "3001 tasks are to be coarsened; accepted: at most 3000"),
    ],
    ids=["fan", "dense", "many"],
)
def test_what_takes_long_to_merge_is_refused_soon(flow: Dataflow, message: str) -> None:
    def refused() -> None:
        with pytest.raises(InputError, match=message):
            flow.coarsened(20)

    assert seconds_of(refused) < 8  # measured: below 2 s


def plainly_merged(flow: Dataflow, num_tasks: int) -> set[frozenset[int]]:
    """The tasks merged together, by the words of `coarsened`: all edges are looked at anew for each merge."""
    members = {task: frozenset({task}) for task in range(len(flow.names))}
    most = BALANCE * sum(flow.cycles) / num_tasks
    while len(members) > num_tasks:
        graph = nx.DiGraph()
        graph.add_nodes_from(members)
        home = {task: kept for kept, tasks in members.items() for task in tasks}
        graph.add_edges_from((home[a], home[b]) for a, b in flow.edges if home[a] != home[b])
        size = dict.fromkeys(graph.edges, 0.0)
        for item in flow.items:
            for user in item.users if item.maker != OUTSIDE else ():
                if home[user] != home[item.maker]:
                    size[home[item.maker], home[user]] += item.size
        rank = {task: place for place, task in enumerate(nx.lexicographical_topological_sort(graph))}
        work = {kept: sum(flow.cycles[task] for task in tasks) for kept, tasks in members.items()}

        def preference(edge: tuple[int, int]) -> tuple[bool, float, int, int]:
            together = work[edge[0]] + work[edge[1]]  # noqa: B023 - used within this turn
            within = together <= most
            return not within, -size[edge] if within else together, rank[edge[0]], rank[edge[1]]  # noqa: B023

        for parent, child in sorted(graph.edges, key=preference):
            if len(list(itertools.islice(nx.all_simple_paths(graph, parent, child), 2))) == 1:
                kept, gone = parent, child
                break
        else:
            kept, gone = sorted(sorted(members, key=lambda task: (work[task], rank[task]))[:2])
        members[kept] |= members.pop(gone)
    return set(members.values())


@settings(max_examples=100, deadline=None)
@given(flows(), st.integers(1, 25))
def test_the_merges_are_those_that_the_words_say(flow: Dataflow, num_tasks: int) -> None:
    clusters = plainly_merged(flow, num_tasks)
    merged = flow.coarsened(num_tasks)
    expected = sorted((min(cluster), sum(flow.cycles[task] for task in sorted(cluster))) for cluster in clusters)
    assert merged.cycles == tuple(work for _, work in expected)
    assert [name.split(" ")[0] for name in merged.names] == [flow.names[first] for first, _ in expected]
