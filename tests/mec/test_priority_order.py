"""Scheduling orders, equation (13)."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from helpers import dags, mecs, random_dag, random_mec, to_graph, to_system
from hypothesis import given, settings
from oracle import Dag

import mrlato_jax as mj


@pytest.mark.parametrize("rank", ["total", "min"])
def test_random_orders_match_the_oracle(rank: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        dag, mec = random_dag(rng, int(rng.integers(1, 25))), random_mec(rng, "paper")
        order = mj.priority_order(to_graph(dag), to_system(mec), rank=rank)
        assert np.issubdtype(order.dtype, np.integer)
        assert order.shape == (dag.num_tasks,)
        assert order.tolist() == oracle.priority_order(dag, mec, rank)


@settings(max_examples=300)
@given(dags(), mecs)
def test_orders_with_ties_and_free_tasks(dag: Dag, mec: oracle.Mec) -> None:
    """A parent and its free child have the same rank, and ids need not be topological: still a linear extension."""
    for rank in ("total", "min"):
        order = mj.priority_order(to_graph(dag), to_system(mec), rank=rank).tolist()
        assert oracle.is_linear_extension(dag, order)
        assert order == oracle.priority_order(dag, mec, rank)


def test_free_child_with_a_smaller_id() -> None:
    dag = Dag([0.0, 0.0, 1.0], [0.0] * 3, [0.0] * 3, edges=[(1, 0), (2, 1)])
    assert mj.priority_order(to_graph(dag), to_system(oracle.Mec())).tolist() == [2, 1, 0]


def test_ties_go_to_the_lowest_id() -> None:
    dag = Dag([5.0] * 4, [1.0] * 4, [1.0] * 4, edges=[])
    assert mj.priority_order(to_graph(dag), to_system(oracle.Mec())).tolist() == [0, 1, 2, 3]


def test_descending_rank_where_ranks_differ() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        dag, mec = random_dag(rng, 20, free=0.0), random_mec(rng, "paper")
        ranks = np.array(oracle.ranks(dag, mec))
        assert (np.diff(ranks[mj.priority_order(to_graph(dag), to_system(mec))]) <= 0).all()


def test_both_ranks_agree_on_the_papers_data() -> None:
    """With one ccr a DAG and recv = send both weights are the same multiple of the data size."""
    rng = np.random.default_rng(3)
    for num_tasks in (10, 25, 50):
        for rate in (4e6, 7e6, 22e6):
            graph = mj.daggen(num_tasks=num_tasks, fat=0.6, density=0.5, rng=rng)
            system = mj.System(uplink_bps=rate, downlink_bps=rate)
            total, least = (mj.priority_order(graph, system, rank=rank) for rank in ("total", "min"))
            np.testing.assert_array_equal(total, least)


def test_ranks_disagree_where_ccr_is_per_task() -> None:
    rng = np.random.default_rng(4)
    cases = [(to_graph(random_dag(rng, 20)), to_system(random_mec(rng, "paper"))) for _ in range(10)]
    assert any((mj.priority_order(*c) != mj.priority_order(*c, rank="min")).any() for c in cases)


def test_order_ignores_the_channel() -> None:
    rng = np.random.default_rng(5)
    dag, mec = random_dag(rng, 20), random_mec(rng, "paper")
    orders = [mj.priority_order(to_graph(dag), to_system(mec._replace(channel=c))).tolist() for c in oracle.CHANNELS]
    assert orders[0] == orders[1] == orders[2]


def test_unknown_rank_is_named() -> None:
    graph = to_graph(random_dag(np.random.default_rng(6), 3))
    with pytest.raises(mj.errors.InputError, match=r"rank.*'upward'"):
        mj.priority_order(graph, mj.System(), rank="upward")
