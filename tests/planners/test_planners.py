"""Greedy, HEFT-based, all-local and all-offload plans against the oracle and the exhaustive optimum."""

from __future__ import annotations

import math
from functools import partial

import jax
import numpy as np
import oracle
import pytest
from helpers import (
    assert_consistent,
    dags,
    mecs,
    random_dag,
    random_mec,
    relabel,
    to_graph,
    to_system,
)
from hypothesis import given, settings
from oracle import CHANNELS, Dag

import mrlato_jax as mj
from mrlato_jax import planners
from mrlato_jax.config import LOOKAHEAD_RULES
from mrlato_jax.environment.rules import TOLLS, basis_of, outcomes
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.planners import random_placement
from mrlato_jax.planners.greedy import earliest_finish

PLANNERS = {"greedy": mj.greedy, "heft": mj.heft, "all_local": mj.all_local, "all_offload": mj.all_offload}
ORACLES = {"greedy": oracle.greedy, "heft": oracle.heft}


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("name", ORACLES)
def test_random_plans_match_the_oracle(name: str, channel: str) -> None:
    rng = np.random.default_rng(1)
    for _ in range(25):
        dag, mec = random_dag(rng, int(rng.choice([1, 4, 8, 16, 20]))), random_mec(rng, channel)
        plan, want = PLANNERS[name](to_graph(dag), to_system(mec)), ORACLES[name](dag, mec)
        assert np.asarray(plan.order).tolist() == want.order
        assert np.asarray(plan.placement).tolist() == want.placement
        assert plan.makespan == pytest.approx(want.makespan, rel=1e-12)
        assert_consistent(dag, mec, plan)


@settings(max_examples=60)
@given(dags(), mecs)
def test_ties_offload_and_the_optimum_bounds_every_plan(dag: Dag, mec: oracle.Mec) -> None:
    """Exact times with many ties; 2^n placements in the plan's own order are never worse than the optimum."""
    for name, planner in PLANNERS.items():
        plan = planner(to_graph(dag), to_system(mec))
        if name in ORACLES:
            want = ORACLES[name](dag, mec)
            assert np.asarray(plan.placement).tolist() == want.placement
            assert np.asarray(plan.order).tolist() == want.order
        best = oracle.best_placement(dag, mec, np.asarray(plan.order).tolist())
        assert best.makespan <= plan.makespan


def test_optimum_bounds_the_plans_of_random_graphs() -> None:
    rng = np.random.default_rng(2)
    strictly = 0
    for channel in CHANNELS:
        for _ in range(3):
            dag, mec = random_dag(rng, 8, free=0.0), random_mec(rng, channel)
            for planner in PLANNERS.values():
                plan = planner(to_graph(dag), to_system(mec))
                best = oracle.best_placement(dag, mec, np.asarray(plan.order).tolist())
                assert best.makespan <= plan.makespan * (1 + 1e-12)
                strictly += best.makespan < plan.makespan
    assert strictly


@pytest.mark.parametrize("channel", CHANNELS)
def test_all_local_and_all_offload(channel: str) -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        dag, mec = random_dag(rng, 12), random_mec(rng, channel)
        for name, side in (("all_local", 0), ("all_offload", 1)):
            plan = PLANNERS[name](to_graph(dag), to_system(mec))
            assert np.asarray(plan.placement).tolist() == [side] * dag.num_tasks
            assert_consistent(dag, mec, plan)
        local = mj.all_local(to_graph(dag), to_system(mec))
        assert local.makespan == pytest.approx(sum(dag.cycles) / mec.ue_hz, rel=1e-12)


@pytest.mark.parametrize("channel", CHANNELS)
def test_greedys_own_time_is_the_simulators(channel: str) -> None:
    """What its queues said while it chose, against the plan simulated afterwards."""
    rng = np.random.default_rng(4)
    for _ in range(10):
        dag, mec = random_dag(rng, 12), random_mec(rng, channel)
        graph, system = to_graph(dag), to_system(mec)
        for planner in (mj.greedy, mj.heft):
            plan = planner(graph, system)
            with jax.enable_x64(True):
                own = float(earliest_finish(latency.pack_float64(graph, system, plan.order))[1])
            assert own == plan.makespan


def test_a_tie_offloads() -> None:
    # T_ue = 4 s; T_ul + T_m + T_dl = 1 + 2 + 1 = 4 s.
    system = mj.System(ue_hz=1.0, vm_hz=2.0, uplink_bps=8.0, downlink_bps=8.0)
    graph = mj.TaskGraph.from_edges(cycles=[4.0], upload_bytes=[1.0], download_bytes=[1.0], edges=[])
    for planner in (mj.greedy, mj.heft):
        assert np.asarray(planner(graph, system).placement).tolist() == [1]


def test_greedy_goes_by_id_and_heft_by_rank() -> None:
    # Independent tasks with T_ue = 2, 6 s and T_ul = 1, 2 s (T_m = 0.2, 0.6; T_dl = 0).
    # greedy, by id: task 0 offloads (1.2 < 2), then task 1: upload 1..3, VM 3.6 < 6: offloads. Makespan 3.6.
    # heft takes task 1 first (rank 2.6 > 1.2): 2.6 < 6: offloads; task 0: upload 2..3, VM 3.2 > 2: local. 2.6.
    system = mj.System(ue_hz=1.0, vm_hz=10.0, uplink_bps=8.0, downlink_bps=8.0)
    graph = mj.TaskGraph.from_edges(cycles=[2.0, 6.0], upload_bytes=[1.0, 2.0], download_bytes=[0.0, 0.0], edges=[])
    greedy, heft = mj.greedy(graph, system), mj.heft(graph, system)
    assert (np.asarray(greedy.order).tolist(), np.asarray(greedy.placement).tolist()) == ([0, 1], [1, 1])
    assert (np.asarray(heft.order).tolist(), np.asarray(heft.placement).tolist()) == ([1, 0], [0, 1])
    assert greedy.makespan == pytest.approx(3.6, rel=1e-12)
    assert heft.makespan == pytest.approx(2.6, rel=1e-12)


def test_greedy_makes_ids_topological() -> None:
    # Edges 3 -> 1 and 2 -> 0: ready {2, 3} -> 2, then 0 is ready and smaller than 3.
    dag = Dag([1e7] * 4, [1e4] * 4, [1e4] * 4, edges=[(3, 1), (2, 0)])
    assert np.asarray(mj.greedy(to_graph(dag), mj.System()).order).tolist() == [2, 0, 3, 1]


@pytest.mark.parametrize("channel", CHANNELS)
def test_look_ahead_takes_the_side_that_the_rules_make_most_of(channel: str) -> None:
    """Against the oracle, task by task; and never worse than any of the rules alone."""
    rng = np.random.default_rng(6)
    better = 0
    for num_tasks in (1, 5, 9, 12, 14, 16):
        dag, mec = random_dag(rng, num_tasks, free=0.0), random_mec(rng, channel)
        plan = planners.look_ahead(to_graph(dag), to_system(mec))
        order = oracle.priority_order(dag, mec)
        taken: list[int] = []
        for _ in order:
            local, offloaded = (
                min(oracle.own_finish_rule(dag, mec, order, [*taken, side], toll).makespan for toll in TOLLS)
                for side in (0, 1)
            )
            taken.append(int(offloaded <= local * (1 + 1e-12)))
        assert np.asarray(plan.order).tolist() == order
        assert np.asarray(plan.placement)[order].tolist() == taken
        assert plan.evaluations == 5 * (dag.num_tasks - 1)
        assert_consistent(dag, mec, plan)
        alone = [oracle.own_finish_rule(dag, mec, order, (), toll).makespan for toll in TOLLS]
        assert plan.makespan <= min(alone) * (1 + 1e-12)
        better += plan.makespan < min(alone) * (1 - 1e-9)
    assert better


@pytest.mark.parametrize("channel", CHANNELS)
def test_where_the_look_ahead_may_stop_changes_nothing(channel: str) -> None:
    """Neither do padding and placed tasks, which a loop over all positions meets, in DAGs of several sizes."""
    rng, step = np.random.default_rng(11), jax.jit(latency.step)

    @jax.jit
    def ahead(dag: DagArrays, queues: latency.Queues, position: int, end: int) -> tuple[jax.Array, jax.Array]:
        known = basis_of(dag)
        task = jax.tree.map(lambda leaf: leaf[position], known.tasks)
        of_task = partial(outcomes, known, len(TOLLS), queues, known.tasks.position >= position, task)
        return of_task(), of_task(steps=(position + 1, end))

    for num_tasks in (1, 4, 9):
        dag = latency.pack_float64(to_graph(random_dag(rng, num_tasks)), to_system(random_mec(rng, channel)))
        with latency.one_by_one():
            dag = jax.device_put(dag)
            tasks, queues = jax.jit(latency.tasks)(dag), latency.empty_queues(dag)
            for position in range(num_tasks):
                np.testing.assert_array_equal(*ahead(dag, queues, position, num_tasks))
                task = jax.tree.map(lambda leaf: leaf[position], tasks)  # noqa: B023 - used at once
                queues, _ = step(dag, queues, task, rng.integers(2))
            padding = jax.tree.map(lambda leaf: leaf[-1], tasks)
            assert not padding.valid
            again = jax.tree.map(lambda leaf: leaf[0], tasks)._replace(valid=np.bool_(False))
            for nothing in (padding, again):
                after, _ = step(dag, queues, nothing, np.int32(1))
                jax.tree.map(np.testing.assert_array_equal, after, queues)


@pytest.mark.parametrize("channel", CHANNELS)
def test_look_ahead_chooses_the_ready_task_that_promises_most(channel: str) -> None:
    """Against the oracle, step by step."""
    rng = np.random.default_rng(8)
    elsewhere = 0
    for num_tasks in (1, 5, 8):
        dag, mec = random_dag(rng, num_tasks, free=0.0), random_mec(rng, channel)
        plan = planners.look_ahead_order(to_graph(dag), to_system(mec))
        order, placement = np.asarray(plan.order).tolist(), np.asarray(plan.placement).tolist()
        priority, parents, spent = oracle.priority_order(dag, mec), dag.parents(), 0
        assert oracle.is_linear_extension(dag, order)
        for step, chosen in enumerate(order):
            before = order[:step]
            ready = [task for task in priority if task not in before and set(parents[task]) <= set(before)]
            spans = {}
            for task in ready:
                rest = [other for other in priority if other not in before and other != task]
                for side in (1, 0):
                    decided = [*(placement[done] for done in before), side]
                    ways = (
                        oracle.own_finish_rule(dag, mec, [*before, task, *rest], decided, toll).makespan
                        for toll in TOLLS
                    )
                    spans[task, side] = min(ways)
            assert spans[chosen, placement[chosen]] <= min(spans.values()) * (1 + 1e-12)
            spent += 2 * len(TOLLS) * len(ready) * (num_tasks - 1 - step)
        assert plan.evaluations == math.ceil(spent / num_tasks)
        elsewhere += order != priority
        assert_consistent(dag, mec, plan)
    assert elsewhere


def test_there_are_as_many_rules_as_settings_may_ask_for() -> None:
    assert len(TOLLS) == LOOKAHEAD_RULES
    assert TOLLS[0] == (0, 0)  # the HEFT-based rule


def test_relabelling_does_not_change_heft() -> None:
    rng = np.random.default_rng(4)
    for _ in range(10):
        dag, mec = random_dag(rng, 15, free=0.0), random_mec(rng, "paper")
        new_id = rng.permutation(15)
        before = mj.heft(to_graph(dag), to_system(mec))
        after = mj.heft(to_graph(relabel(dag, new_id)), to_system(mec))
        assert after.makespan == before.makespan
        np.testing.assert_array_equal(np.asarray(after.placement)[new_id], before.placement)


def test_random_placement_wants_a_generator() -> None:
    graph = mj.daggen(num_tasks=3, fat=0.5, density=0.5, rng=np.random.default_rng(0))
    with pytest.raises(mj.InputError, match="rng is 3; accepted: a Generator"):
        random_placement(graph, mj.System(), rng=3)
