"""Local search: ends where no change of one or two tasks helps, and spends what it may."""

from __future__ import annotations

import itertools

import numpy as np
import oracle
import pytest
from helpers import assert_consistent, interrupted_soon, random_dag, random_mec, random_order, to_graph, to_system
from oracle import CHANNELS

import mrlato_jax as mj
from mrlato_jax.errors import InputError
from mrlato_jax.planners import descent


@pytest.mark.usefixtures("either_engine")
@pytest.mark.parametrize("channel", CHANNELS)
def test_no_change_of_one_or_two_tasks_helps(channel: str) -> None:
    rng = np.random.default_rng(1)
    improved = 0
    for _ in range(4):
        dag, mec = random_dag(rng, 9), random_mec(rng, channel)
        order = random_order(rng, dag)
        plan = mj.local_search(to_graph(dag), to_system(mec), order=order, restarts=2)
        assert_consistent(dag, mec, plan)
        assert np.asarray(plan.order).tolist() == order
        for tasks in [*itertools.combinations(range(9), 1), *itertools.combinations(range(9), 2)]:
            changed = np.asarray(plan.placement).copy()
            changed[list(tasks)] ^= 1
            assert plan.makespan <= oracle.simulate(dag, mec, changed.tolist(), order).makespan * (1 + 1e-9)
        heft = mj.heft(to_graph(dag), to_system(mec))
        found = mj.local_search(to_graph(dag), to_system(mec), restarts=0)
        assert found.makespan <= heft.makespan
        improved += found.makespan < heft.makespan
    assert improved


def test_it_begins_where_it_is_told() -> None:
    graph = mj.daggen(num_tasks=20, fat=0.7, density=0.5, rng=np.random.default_rng(0))
    system = mj.System()
    best = mj.local_search(graph, system)
    again = mj.local_search(graph, system, start=best, restarts=0)
    np.testing.assert_array_equal(again.placement, best.placement)
    assert again.evaluations == 1 + 20 + 190  # nothing helps: one look at all changes
    local = mj.local_search(graph, system, start=mj.all_local(graph, system), restarts=0, max_evaluations=1)
    assert local.makespan == mj.all_local(graph, system).makespan


def test_a_start_has_its_order_and_may_be_given_another() -> None:
    graph = mj.daggen(num_tasks=12, fat=0.7, density=0.5, rng=np.random.default_rng(1))
    system, greedy = mj.System(), mj.greedy(graph, mj.System())
    assert greedy.order.tolist() != mj.priority_order(graph, system).tolist()
    kept = mj.local_search(graph, system, start=greedy, restarts=0, max_evaluations=1)
    assert kept.makespan == greedy.makespan
    np.testing.assert_array_equal(kept.order, greedy.order)
    order = mj.priority_order(graph, system)
    moved = mj.local_search(graph, system, start=greedy, order=order, restarts=0, max_evaluations=1)
    assert moved.makespan == mj.simulate(graph, system, greedy.placement, order).makespan
    np.testing.assert_array_equal(moved.order, order)
    other = mj.daggen(num_tasks=5, fat=0.7, density=0.5, rng=np.random.default_rng(1))
    with pytest.raises(InputError, match=r"start.placement is array.*; accepted: 5 integers"):
        mj.local_search(other, system, start=greedy, order=np.arange(5))


def test_more_restarts_are_no_worse_and_a_seed_gives_one_answer() -> None:
    graph = mj.daggen(num_tasks=25, fat=0.8, density=0.6, rng=np.random.default_rng(3))
    system = mj.System()
    spans = [mj.local_search(graph, system, restarts=restarts).makespan for restarts in (0, 5, 40)]
    assert spans[0] >= spans[1] >= spans[2]
    assert spans[0] > spans[2]
    first, second = (mj.local_search(graph, system, restarts=3, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.placement, second.placement)
    assert first.evaluations == second.evaluations


@pytest.mark.parametrize("most", [None, 900])
def test_pieces_of_the_restarts_make_up_the_whole(monkeypatch: pytest.MonkeyPatch, most: int | None) -> None:
    graph = mj.daggen(num_tasks=12, fat=0.8, density=0.6, rng=np.random.default_rng(3))
    whole = mj.local_search(graph, mj.System(), restarts=8, seed=5, max_evaluations=most)
    monkeypatch.setattr(descent, "STARTS_AT_ONCE", 3)
    again = mj.local_search(graph, mj.System(), restarts=8, seed=5, max_evaluations=most)
    np.testing.assert_array_equal(again.placement, whole.placement)
    assert again.evaluations == whole.evaluations


def test_restarts_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """They end with the evaluations, or where they are interrupted, and take no memory."""
    graph = mj.daggen(num_tasks=12, fat=0.8, density=0.6, rng=np.random.default_rng(3))
    plan = mj.local_search(graph, mj.System(), restarts=2**62, max_evaluations=500)
    assert plan.evaluations <= 500
    monkeypatch.setattr(descent, "STARTS_AT_ONCE", 3)
    with interrupted_soon():
        mj.local_search(graph, mj.System(), restarts=2**62)


@pytest.mark.usefixtures("either_engine")
@pytest.mark.parametrize("most", [1, 30, 340, 5000])
def test_a_budget_is_kept(most: int) -> None:
    graph = mj.daggen(num_tasks=25, fat=0.8, density=0.6, rng=np.random.default_rng(4))
    system = mj.System()
    plan = mj.local_search(graph, system, max_evaluations=most)
    assert most - 325 < plan.evaluations <= most  # no whole neighbourhood was left
    assert plan.makespan <= mj.heft(graph, system).makespan
    if most == 1:
        assert plan.makespan == mj.heft(graph, system).makespan


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"restarts": -1}, "restarts is -1; accepted: an integer in"),
        ({"seed": 0.5}, "seed is 0.5; accepted: an integer in"),
        ({"seed": 2**64}, "seed is 18446744073709551616; accepted: an integer in"),
        ({"max_evaluations": 0}, "max_evaluations is 0; accepted: an integer in"),
        ({"start": [0, 1, 0]}, r"start is \[0, 1, 0\]; accepted: a Plan"),
        ({"start": "x"}, "start is 'x'; accepted: a Plan"),
        ({"order": [1, 1, 1]}, "order is"),
    ],
)
def test_refused(options: dict[str, object], phrase: str) -> None:
    graph = mj.daggen(num_tasks=3, fat=0.5, density=0.5, rng=np.random.default_rng(0))
    with pytest.raises(InputError, match=phrase):
        mj.local_search(graph, mj.System(), **options)
