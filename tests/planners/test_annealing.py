"""Order search against every order there is."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import numpy as np
import oracle
import pytest
from helpers import (
    SOME_CHANNELS,
    assert_consistent,
    interrupted_soon,
    random_dag,
    random_mec,
    random_order,
    random_placement,
    to_graph,
    to_system,
)
from oracle import CHANNELS, Dag

import mrlato_jax as mj
from mrlato_jax.errors import InputError
from mrlato_jax.mec import latency
from mrlato_jax.planners import annealing


def best_of_all(dag: Dag, mec: oracle.Mec) -> float:
    every = (list(order) for order in itertools.permutations(range(dag.num_tasks)))
    linear = [order for order in every if oracle.is_linear_extension(dag, order)]
    return min(oracle.best_placement(dag, mec, order).makespan for order in linear)


@pytest.mark.parametrize("channel", SOME_CHANNELS)
def test_it_finds_the_best_of_all_orders_of_small_graphs(channel: str) -> None:
    rng = np.random.default_rng(2)
    fixed = 0
    for _ in range(8):
        dag, mec = random_dag(rng, 5, free=0.0), random_mec(rng, channel)
        plan = mj.order_search(to_graph(dag), to_system(mec), steps=400, chains=16)
        assert plan.makespan == pytest.approx(best_of_all(dag, mec), rel=1e-9)
        assert_consistent(dag, mec, plan)
        fixed += mj.optimum(to_graph(dag), to_system(mec)).makespan > plan.makespan * (1 + 1e-9)
    assert fixed  # the order mattered


def test_below_the_optimum_of_the_priority_order() -> None:
    graph = mj.daggen(num_tasks=20, fat=0.6, density=0.5, rng=np.random.default_rng(8))
    system = mj.System()
    plan = mj.order_search(graph, system, steps=3000)
    assert plan.makespan < mj.optimum(graph, system).makespan * 0.995
    again = mj.order_search(graph, system, steps=3000)
    np.testing.assert_array_equal(again.order, plan.order)
    np.testing.assert_array_equal(again.placement, plan.placement)
    assert plan.evaluations == 3000 * 32


@pytest.mark.parametrize("channel", CHANNELS)
def test_every_change_is_a_plan_in_a_linear_extension(channel: str) -> None:
    """What the chains believe of themselves, after each step, against the oracle."""
    rng = np.random.default_rng(5)
    dag, mec = random_dag(rng, 7), random_mec(rng, channel)
    graph, system = to_graph(dag), to_system(mec)
    with jax.enable_x64(True):
        arrays = jax.tree.map(jax.numpy.asarray, latency.pack_float64(graph, system))
        size = arrays.mask.size
        ids = np.asarray(arrays.order)
        begin = np.repeat(np.arange(size, dtype=np.int32)[:, None], 4, axis=1)
        chains = annealing.Chains(begin, begin, np.zeros((size, 4), np.int32), np.full(4, np.inf))
        change = jax.jit(annealing._change)
        moved: set[Any] = set()
        for step in range(60):
            chains = change(arrays, chains, jax.random.key(step), 1e9)  # so hot that all is accepted
            order, actions = np.asarray(chains.order), np.asarray(chains.actions)
            for c in range(4):
                by_id = ids[order[:7, c]].tolist()
                assert oracle.is_linear_extension(dag, by_id)
                np.testing.assert_array_equal(np.asarray(chains.position)[order[:, c], c], np.arange(size))
                placement = np.zeros(7, int)
                placement[ids[:7]] = actions[:7, c]
                want = oracle.simulate(dag, mec, placement.tolist(), by_id).makespan
                assert float(chains.cost[c]) == pytest.approx(want, rel=1e-12)
                moved.add((tuple(by_id), tuple(placement)))
        assert len(moved) > 50
        assert len({order for order, _ in moved}) > 3


def test_tasks_in_another_order_are_the_graph_packed_in_it() -> None:
    rng = np.random.default_rng(6)
    dag, mec = random_dag(rng, 9), random_mec(rng, "paper")
    graph, system = to_graph(dag), to_system(mec)
    packed = mj.pack([graph], system, dtype=np.float64)
    arrays = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf[0]), packed)
    position = np.argsort(packed.order[0])
    every = [random_order(rng, dag) for _ in range(3)]
    moved = annealing.in_order(arrays, np.stack([position[order] for order in every], axis=-1).astype(np.int32))
    for c, order in enumerate(every):
        want = mj.pack([graph], system, orders=[order], dtype=np.float64)
        for name in ("ue", "uplink", "vm", "downlink", "mask", "order", "parents"):
            np.testing.assert_array_equal(
                np.asarray(getattr(moved, name))[..., c], np.asarray(getattr(want, name)[0], getattr(moved, name).dtype)
            )
        placement = random_placement(rng, 9)
        spans = latency.run(moved, np.asarray(placement)[np.asarray(order)][:, None].repeat(3, axis=1))[0].makespan
        want_span = oracle.simulate(dag, mec, placement, order).makespan
        assert float(spans[c]) == pytest.approx(want_span, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "phrase"),
    [
        ("steps", 0, "steps is 0; accepted: an integer in"),
        ("chains", 0, "chains is 0; accepted: an integer in"),
        ("steps", 2**31, r"steps is 2147483648; accepted: an integer in \[1, 2147483647\]"),
        ("chains", 2**31, r"chains is 2147483648; accepted: an integer in \[1, 2097152\]"),
        ("seed", 2**64, "seed is 18446744073709551616; accepted: an integer in"),
        ("time_limit_s", -1, "time_limit_s is -1; accepted: a finite number in"),
    ],
)
def test_refused(name: str, value: float, phrase: str) -> None:
    graph = mj.daggen(num_tasks=3, fat=0.5, density=0.5, rng=np.random.default_rng(0))
    with pytest.raises(InputError, match=phrase):
        mj.order_search(graph, mj.System(), **{name: value})


def test_pieces_of_the_annealing_make_up_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = mj.daggen(9, 0.6, 0.6, np.random.default_rng(5))
    start = mj.all_local(graph, mj.System())
    whole = mj.order_search(graph, mj.System(), start=start, steps=100, chains=4)
    monkeypatch.setattr(annealing, "AT_ONCE", 16 * 16 * 4 * 7)  # 7 steps at a time
    again = mj.order_search(graph, mj.System(), start=start, steps=100, chains=4)
    np.testing.assert_array_equal(again.order, whole.order)
    np.testing.assert_array_equal(again.placement, whole.placement)
    assert again.evaluations == whole.evaluations


def test_a_long_search_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annealing, "AT_ONCE", 2**20)
    graph = mj.daggen(9, 0.6, 0.6, np.random.default_rng(5))
    start = mj.all_local(graph, mj.System())
    with interrupted_soon():
        mj.order_search(graph, mj.System(), start=start, steps=2**31 - 1, chains=4)


def test_many_chains_of_a_large_graph_do_not_fit() -> None:
    graph = mj.daggen(600, 0.6, 0.1, np.random.default_rng(5))
    with pytest.raises(mj.InputError, match=r"chains is 1000; accepted: an integer in \[1, 327\]"):
        mj.order_search(graph, mj.System(), chains=1000)


def test_a_start_is_timed_anew() -> None:
    """It may be of another system, and its own makespan far too good."""
    graph = mj.daggen(8, 0.6, 0.6, np.random.default_rng(3))
    start = mj.all_local(graph, mj.System(ue_hz=1e12))
    found = mj.order_search(graph, mj.System(), start=start, steps=50)
    assert found.makespan == mj.simulate(graph, mj.System(), found.placement, found.order).makespan
    assert found.makespan <= mj.all_local(graph, mj.System()).makespan
    assert found.evaluations > 50 * 32
    for wrong in ("x", start.placement):
        with pytest.raises(mj.InputError, match=r"start is .*; accepted: a Plan"):
            mj.order_search(graph, mj.System(), start=wrong)  # type: ignore[arg-type]
    other = mj.daggen(5, 0.6, 0.6, np.random.default_rng(4))
    with pytest.raises(mj.InputError, match=r"start.placement is array.*; accepted: 5 integers"):
        mj.order_search(other, mj.System(), start=start)
