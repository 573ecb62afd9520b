"""The proven optimum against every placement there is."""

from __future__ import annotations

import sys

import jax
import numpy as np
import oracle
import pytest
from helpers import (
    SOME_CHANNELS,
    assert_consistent,
    dags,
    mecs,
    random_dag,
    random_mec,
    random_order,
    to_graph,
    to_system,
)
from hypothesis import HealthCheck, given, settings
from oracle import CHANNELS, Dag

import mrlato_jax as mj
from mrlato_jax.errors import InputError
from mrlato_jax.mec import latency
from mrlato_jax.planners import bounds, branch_and_bound


def best_of_all(graph: mj.TaskGraph, system: mj.System, order: list[int]) -> float:
    """The least makespan of all 2^n placements, by the jitted simulator in float64."""
    n = graph.num_tasks
    with jax.enable_x64(True):
        dag = latency.pack_float64(graph, system, order)
        actions = np.zeros((dag.mask.size, 2**n), bool)
        actions[:n] = (np.arange(2**n)[None, :] >> np.arange(n)[:, None]) & 1
        return float(jax.jit(latency.costs)(dag, actions).min())


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dags(), mecs)
@pytest.mark.usefixtures("either_engine")
def test_no_placement_is_better(dag: Dag, mec: oracle.Mec) -> None:
    """Exact times with many ties, tasks that cost nothing, all channels."""
    plan = mj.optimum(to_graph(dag), to_system(mec))
    want = oracle.best_placement(dag, mec, oracle.priority_order(dag, mec))
    assert plan.makespan == pytest.approx(want.makespan, rel=1e-9)
    assert plan.proven
    assert plan.lower_bound == plan.makespan
    assert_consistent(dag, mec, plan)


@pytest.mark.usefixtures("either_engine")
@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("num_tasks", [1, 9, 13, 16])
def test_no_placement_of_larger_graphs_is_better(num_tasks: int, channel: str) -> None:
    rng = np.random.default_rng(num_tasks)
    for _ in range(3):
        dag, mec = random_dag(rng, num_tasks), random_mec(rng, channel)
        graph, system, order = to_graph(dag), to_system(mec), random_order(rng, dag)
        plan = mj.optimum(graph, system, order=order)
        assert np.asarray(plan.order).tolist() == order
        assert plan.proven
        assert plan.makespan == pytest.approx(best_of_all(graph, system, order), rel=1e-9)


@pytest.mark.usefixtures("either_engine")
@pytest.mark.parametrize("channel", CHANNELS)
def test_the_search_needs_no_good_start(channel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the plan that local search would never return."""
    rng = np.random.default_rng(7)
    monkeypatch.setattr(branch_and_bound, "local_search", lambda graph, system, **_: mj.all_local(graph, system))
    for _ in range(5):
        dag, mec = random_dag(rng, 14), random_mec(rng, channel)
        graph, system = to_graph(dag), to_system(mec)
        order = mj.priority_order(graph, system).tolist()
        plan = mj.optimum(graph, system)
        assert plan.makespan == pytest.approx(best_of_all(graph, system, order), rel=1e-9)
        assert plan.nodes >= 14


def test_a_task_that_is_pinned_by_its_size() -> None:
    """Nobody would upload 10^18 bytes: the sums that bound the others must not round to that."""
    rng = np.random.default_rng(12)
    for channel in CHANNELS:
        dag, mec = random_dag(rng, 12, free=0.0), random_mec(rng, channel)
        uploads = [1e18 if i in (2, 7) else size for i, size in enumerate(dag.upload_bytes)]
        pinned = dag._replace(upload_bytes=uploads)
        graph, system = to_graph(pinned), to_system(mec)
        order = mj.priority_order(graph, system).tolist()
        want = best_of_all(graph, system, order)
        for solver in ("branch_and_bound", "cp_sat"):
            plan = mj.optimum(graph, system, solver=solver)
            assert plan.makespan == pytest.approx(want, rel=1e-6 if solver == "cp_sat" else 1e-9)
            assert plan.proven
            assert 0.99 * want < plan.lower_bound <= want * (1 + 1e-10)


@pytest.mark.slow
@pytest.mark.usefixtures("without_numba")
def test_the_search_compiles_once(caplog: pytest.LogCaptureFixture) -> None:
    graph = mj.daggen(num_tasks=40, fat=0.7, density=0.5, rng=np.random.default_rng(0))
    jax.clear_caches()
    with jax.log_compiles():
        assert not mj.optimum(graph, mj.System(), time_limit_s=0.5).proven
    compiled = [
        record.message for record in caplog.records if "Finished XLA compilation of jit(_advance)" in record.message
    ]
    assert len(compiled) == 1


def test_what_is_left_is_split_as_suits_best() -> None:
    """Against the linear program's optimum, by trying every split at every task."""
    rng = np.random.default_rng(4)
    with jax.enable_x64(True):
        for _ in range(20):
            ue, link = rng.uniform(0, 2, 6), rng.uniform(0, 2, 6)
            free_ue, free_link = rng.uniform(0, 8, 2)
            split = jax.tree.map(lambda leaf: leaf[2], bounds._split(ue, link))
            got = float(branch_and_bound._both_end(split, free_ue, np.asarray([free_link]))[0])
            by = 2 + np.argsort(ue[2:] / (ue[2:] + link[2:]))
            kept = np.linspace(0, 4, 400_001)  # how many tasks, and which fraction of the next, stay
            whole = np.minimum(kept[:, None] - np.arange(4), 1).clip(0)
            ue_end, link_end = free_ue + whole @ ue[by], free_link + (1 - whole) @ link[by]
            ue_end[0], link_end[-1] = 0, 0  # who has none of the work
            ends = np.maximum(ue_end, link_end)
            assert got == pytest.approx(ends.min(), rel=1e-4)


@pytest.mark.parametrize("channel", CHANNELS)
def test_bounds_hold_at_every_node(channel: str) -> None:
    """The bound of a partial plan against the best of its completions."""
    rng = np.random.default_rng(3)
    n = 7  # padded to 8
    step, lower_bound = jax.jit(latency.step), jax.jit(branch_and_bound._lower_bound)
    plans = np.zeros((8, 2**n), bool)
    plans[:n] = (np.arange(2**n)[None, :] >> np.arange(n)[:, None]) & 1
    for _ in range(4):
        dag, mec = random_dag(rng, n), random_mec(rng, channel)
        with jax.enable_x64(True):
            packed = latency.pack_float64(to_graph(dag), to_system(mec))
            arrays, left = jax.tree.map(jax.numpy.asarray, packed), bounds.work_left(packed)
            wide = latency.wide(arrays)
            tasks = latency.tasks(wide)
            spans = np.asarray(jax.jit(latency.costs)(arrays, plans))
            queues = jax.tree.map(lambda leaf: np.zeros((*leaf.shape, 2**n)), latency.empty_queues(arrays))
            for depth in range(n):
                bound = np.asarray(lower_bound(arrays, left, depth, queues))
                best = spans.reshape(-1, 2**depth).min(axis=0)  # over the tasks that are left
                assert (bound <= np.tile(best, 2 ** (n - depth))).all()
                assert bound.max() > 0.3 * spans.min()  # and they say something
                queues, _ = step(wide, queues, branch_and_bound._at(tasks, depth), plans[depth].astype(int))


@pytest.mark.usefixtures("either_engine")
def test_out_of_time_it_says_how_good_a_plan_could_be() -> None:
    graph = mj.daggen(num_tasks=40, fat=0.7, density=0.5, rng=np.random.default_rng(0))
    system = mj.System()
    plan = mj.optimum(graph, system, time_limit_s=0)
    assert not plan.proven
    assert 0.5 * plan.makespan < plan.lower_bound < plan.makespan
    assert plan.makespan == mj.local_search(graph, system).makespan
    longer = mj.optimum(graph, system, time_limit_s=1)
    assert longer.nodes > plan.nodes
    assert plan.lower_bound <= longer.lower_bound <= longer.makespan <= plan.makespan


@pytest.mark.usefixtures("without_numba")
def test_more_nodes_than_wait_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The narrowest search there is finds the same."""
    graph = mj.daggen(num_tasks=14, fat=0.7, density=0.5, rng=np.random.default_rng(1))
    want = mj.optimum(graph, mj.System())
    monkeypatch.setattr(branch_and_bound, "_width", lambda dag: 2)
    narrow = mj.optimum(graph, mj.System())
    assert narrow.proven
    assert narrow.makespan == pytest.approx(want.makespan, rel=1e-9)


def test_a_large_graph_is_bounded_in_little_memory() -> None:
    chains = [mj.daggen(n, 0.1, 0.1, np.random.default_rng(0)) for n in (40, 1024)]
    small, large = (latency.pack_float64(chain, mj.System()) for chain in chains)
    assert branch_and_bound._width(small) == branch_and_bound.WIDTH
    assert 8 <= branch_and_bound._width(large) < 64
    graph = mj.daggen(num_tasks=150, fat=0.5, density=0.3, rng=np.random.default_rng(0))
    plan = mj.optimum(graph, mj.System(), time_limit_s=0)
    assert plan.makespan < mj.heft(graph, mj.System()).makespan
    assert 0.5 * plan.makespan < plan.lower_bound < plan.makespan


def test_nothing_costs_nothing() -> None:
    graph = mj.TaskGraph.from_edges(cycles=[0, 0], upload_bytes=[0, 0], download_bytes=[0, 0], edges=[(0, 1)])
    plan = mj.optimum(graph, mj.System())
    assert (plan.makespan, plan.lower_bound, plan.proven) == (0.0, 0.0, True)


# CP-SAT, which states the recurrence a second time.


@pytest.mark.parametrize("channel", SOME_CHANNELS)
def test_cp_sat_proves_the_same(channel: str) -> None:
    pytest.importorskip("ortools")
    rng = np.random.default_rng(11)
    for num_tasks in (1, 6, 12, 18):
        dag, mec = random_dag(rng, num_tasks), random_mec(rng, channel)
        graph, system, order = to_graph(dag), to_system(mec), random_order(rng, dag)
        ours = mj.optimum(graph, system, order=order)
        theirs = mj.optimum(graph, system, order=order, solver="cp_sat")
        assert ours.proven
        assert theirs.proven
        assert theirs.makespan == pytest.approx(ours.makespan, rel=1e-6)
        assert theirs.lower_bound == pytest.approx(ours.makespan, rel=1e-5)
        assert theirs.lower_bound <= ours.makespan
        assert theirs.nodes == 0
        assert_consistent(dag, mec, theirs)


def test_without_or_tools_cp_sat_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mrlato_jax.planners.cp_sat", None)
    graph = mj.daggen(num_tasks=3, fat=0.5, density=0.5, rng=np.random.default_rng(0))
    with pytest.raises(InputError, match=r"pip install 'mrlato-jax\[exact\]'"):
        mj.optimum(graph, mj.System(), solver="cp_sat")


def test_refused() -> None:
    graph, system = mj.daggen(num_tasks=3, fat=0.5, density=0.5, rng=np.random.default_rng(0)), mj.System()
    with pytest.raises(InputError, match="time_limit_s is -1; accepted: a finite number in"):
        mj.optimum(graph, system, time_limit_s=-1)
    with pytest.raises(InputError, match="order"):
        mj.optimum(graph, system, order=[0, 0, 1])
    with pytest.raises(InputError, match="solver is 'gurobi'; accepted: branch_and_bound, cp_sat"):
        mj.optimum(graph, system, solver="gurobi")
    with pytest.raises(InputError, match="graph is 3; accepted: a TaskGraph"):
        mj.optimum(3, system)
