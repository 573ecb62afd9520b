"""Applications with named data: bytes by task, and that merging tasks loses neither work nor bytes of the cut."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrlato_jax.dag.coarsening import OUTSIDE
from mrlato_jax.dag.dataflow import Dataflow, Item
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
    """Two tasks that read the same picture: together they send it once."""
    merged = FLOW.coarsened(3)
    graph = merged.to_task_graph()
    assert graph.names == ("boxes (+1)", "join", "count")
    assert graph.cycles.tolist() == [11, 7, 8]
    assert graph.upload_bytes.tolist() == [100, 30, 10]
    assert graph.download_bytes.tolist() == [37, 1, 0]
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


def test_parts_without_edges() -> None:
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
