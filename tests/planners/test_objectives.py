"""Planners on several servers, with pins, results that stay, energy and deadlines."""

from __future__ import annotations

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import quickly
from wider import KINDS, Kind, allowed, random_case

import mrlato_jax as mj
from mrlato_jax.environment import rules
from mrlato_jax.environment.rules import ONWARD_TOLLS, TOLLS
from mrlato_jax.mec import latency
from mrlato_jax.planners import bounds, branch_and_bound

PLANNERS = (mj.greedy, mj.heft, mj.look_ahead, mj.look_ahead_order, mj.local_search)


def goals(rng: np.random.Generator, kind: Kind, graph: mj.TaskGraph, system: mj.System) -> list[mj.Objective]:
    """The makespan, a weight of energy, and a deadline that some plans meet, or none."""
    least = mj.optimum(graph, system).makespan
    deadline = mj.Objective(deadline_s=max(least * float(rng.uniform(0.5, 1.5)), 1e-9))
    return [mj.Objective(), mj.Objective(float(rng.uniform(0, 2))), deadline][: 3 if kind in KINDS[1:4:2] else 1]


@pytest.mark.usefixtures("either_engine")
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_optimum_is_brute_forces(kind: Kind) -> None:
    rng = np.random.default_rng(1)
    missed = 0
    for number in range(8):
        case = random_case(rng, kind, int(rng.integers(1, 6)), exact=number % 2 == 0)
        graph, system = case.graph, case.system
        for goal in goals(rng, kind, graph, system):
            plan = mj.optimum(graph, system, case.order, objective=goal)
            late, least = oracle.best_outcome(
                case.dag, case.edge, case.order, case.pins, goal.energy_weight, goal.deadline_s
            )
            assert plan.proven
            assert allowed(plan, case.pins)
            assert plan.meets_deadline is not late
            assert goal.key(plan.makespan, plan.energy) == (late, pytest.approx(least, rel=1e-9, abs=1e-300))
            assert plan.lower_bound == pytest.approx(least, rel=1e-9, abs=1e-300)
            missed += late
    if kind == KINDS[1]:
        assert missed  # deadlines that no plan meets were among them


RESIDENT = (KINDS[1], KINDS[2])


@pytest.mark.parametrize("kind", RESIDENT, ids=str)
@pytest.mark.parametrize("weight", quickly([0.0, 0.5], 0.5))
def test_the_look_ahead_takes_the_site_that_the_rules_make_most_of(kind: Kind, weight: float) -> None:
    """Where results stay: against the oracle's rules, step by step, along the plan that was made."""
    rng, goal, differ = np.random.default_rng(7), mj.Objective(energy_weight=weight), 0
    charged = [*((*toll, 0.0) for toll in TOLLS), *((0.0, 0.0, toll) for toll in ONWARD_TOLLS)]
    for num_tasks in (1, 4, *range(5, 9), *range(5, 9)):
        case = random_case(rng, kind, num_tasks)
        dear = [10 * size for size in case.dag.download_bytes]  # to move results costs more than to compute elsewhere
        case = case._replace(dag=case.dag._replace(download_bytes=dear))
        plan = mj.look_ahead(case.graph, case.system, objective=goal)
        order = plan.order.tolist()
        taken = plan.placement[plan.order].tolist()
        rule = partial(oracle.rule_where_results_stay, case.dag, case.edge, case.pins, order, energy_weight=weight)
        for position, chosen in enumerate(taken):
            reached = {
                site: [rule([*taken[:position], site], toll) for toll in charged]
                for site in oracle.allowed_sites(case.edge, case.pins[order[position]])
            }
            least = min(map(min, reached.values()))
            assert min(reached[chosen]) <= least * (1 + 1e-9)
            differ += least < min(by_rule[0] for by_rule in reached.values()) * (1 - 1e-9)
        assert goal.cost(plan.makespan, plan.energy) == pytest.approx(least, rel=1e-9)
        assert plan.evaluations == rules.evaluations(len(charged), num_tasks, num_sites=kind.servers + 1)
    assert differ  # HEFT's rule alone would have said otherwise


@pytest.mark.parametrize("kind", RESIDENT, ids=str)
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_what_comes_after_a_task_is_exact_in_a_chain(kind: Kind, weight: float) -> None:
    """There nothing waits: the table against brute force over all that is left, and against the oracle's in any DAG."""
    rng, table = np.random.default_rng(2), jax.jit(rules.onward)
    for number in range(6):
        case = random_case(rng, kind, 4)
        chain = case.dag._replace(edges=[(0, 1), (1, 2), (2, 3)]) if number < 3 else case.dag
        case = case._replace(dag=chain)
        arrays = mj.pack([case.graph], case.system, dtype=np.float32, objective=mj.Objective(energy_weight=weight))
        found = np.asarray(table(jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), arrays)))
        want = np.array(oracle.onward(chain, case.edge, case.pins, weight))
        np.testing.assert_allclose(found[:4], want[arrays.order[0, :4]], rtol=1e-5, atol=1e-7)
        if number >= 3:
            continue
        first = list(oracle.allowed_sites(case.edge, case.pins[0]))
        rest = itertools.product(*(oracle.allowed_sites(case.edge, pin) for pin in case.pins[1:]))
        costs: dict[int, list[float]] = {site: [] for site in first}
        for sites, site in itertools.product(rest, first):
            whole = oracle.outcome(chain, case.edge, [site, *sites], [0, 1, 2, 3])
            begun = oracle.outcome(chain, case.edge, [site, *sites], [0])
            idle = case.edge.power[3]
            begun_energy = begun.energy - idle * begun.makespan + idle * begun.result_end[0]
            costs[site].append(whole.makespan - begun.result_end[0] + weight * (whole.energy - begun_energy))
        for site in first:
            assert want[0, site] == pytest.approx(min(costs[site]), rel=1e-9)


@pytest.mark.parametrize("kind", quickly(KINDS, KINDS[4]), ids=str)
@pytest.mark.parametrize("weight", quickly([0.0, 0.5], 0.5))
def test_bounds_hold_at_every_node(kind: Kind, weight: float) -> None:
    """The bound of a partial plan against the cheapest of its completions."""
    rng, n, sites = np.random.default_rng(9), 5, kind.servers + 1
    every = np.array([[number // sites**i % sites for number in range(sites**n)] for i in range(n)])
    plans = np.concatenate([every, np.zeros((3, sites**n), int)])  # padded to 8
    step, lower_bound = jax.jit(latency.step), jax.jit(branch_and_bound._lower_bound)
    for number in range(6):
        case = random_case(rng, kind._replace(pinned=False), n, exact=number % 2 == 0)
        with latency.one_by_one():
            packed = latency.pack_float64(case.graph, case.system, case.order, mj.Objective(weight))
            dag = jax.tree.map(jnp.asarray, packed)
            left, wide = bounds.work_left(packed), latency.wide(dag)
            costs = np.asarray(jax.jit(latency.costs)(dag, jnp.asarray(plans)))
            empty = latency.empty_queues(dag)
            queues = jax.tree.map(lambda leaf: jnp.repeat(leaf[..., None], sites**n, axis=-1), empty)
            for depth in range(n):
                bound = np.asarray(lower_bound(dag, left, depth, queues))
                best = np.tile(costs.reshape(-1, sites**depth).min(axis=0), sites ** (n - depth))
                assert (bound <= best * (1 + 1e-12)).all()
                task = branch_and_bound._at(latency.tasks(wide), depth)
                queues, _ = step(wide, queues, task, jnp.asarray(plans[depth]))


def test_a_link_that_none_uses_bounds_nothing() -> None:
    """Two cases in which a link is busy that no task left needs: the optimum is found from any start."""
    stays = mj.System(0.01, [1.0, 1.0], [8.0, 8.0], [8.0, 8.0], "resident")
    graph = mj.TaskGraph.from_edges(
        cycles=[1.0, 0.0, 5.0], upload_bytes=[1.0, 9.0, 0.0], download_bytes=[0.0] * 3, edges=[(0, 2)]
    )
    assert mj.optimum(graph, stays, [0, 1, 2]).makespan == pytest.approx(oracle_best(graph, stays, [0, 1, 2]))
    returns = mj.System(0.01, [1.0, 1.0], [72.0, 8.0], [72.0, 8.0], radio="separate")
    graph = mj.TaskGraph.from_edges(
        cycles=[0.0, 5.0], upload_bytes=[90.0, 9.0], download_bytes=[0.0] * 2, edges=[], pins=["server"] * 2
    )
    assert mj.optimum(graph, returns, [0, 1]).makespan == pytest.approx(oracle_best(graph, returns, [0, 1]))


def oracle_best(graph: mj.TaskGraph, system: mj.System, order: list[int]) -> float:
    dag = oracle.Dag(*(getattr(graph, name).tolist() for name in oracle.Dag._fields[:3]), graph.edges.tolist())
    edge = oracle.Edge(system.ue_hz, system.vm_hz, system.uplink_bps, system.downlink_bps, system.channel, system.radio)
    return oracle.best_outcome(dag, edge, order, graph.pins)[1]


def test_a_deadline_at_the_least_makespan_is_met() -> None:
    rng = np.random.default_rng(10)
    for kind in (KINDS[1], KINDS[4]):
        case = random_case(rng, kind, 6)
        fastest = mj.optimum(case.graph, case.system)
        plan = mj.optimum(case.graph, case.system, objective=mj.Objective(deadline_s=fastest.makespan))
        assert plan.meets_deadline
        assert plan.proven
        assert plan.makespan == pytest.approx(fastest.makespan, rel=1e-9)
        late = mj.optimum(
            case.graph, case.system, objective=mj.Objective(deadline_s=0.9 * fastest.makespan), time_limit_s=0
        )
        assert not late.meets_deadline
        assert 0 <= late.lower_bound <= late.makespan


@pytest.mark.parametrize("kind", [KINDS[1], KINDS[4]], ids=str)
def test_no_planner_is_better_and_all_keep_the_pins(kind: Kind) -> None:
    rng = np.random.default_rng(2)
    for _ in range(4):
        case = random_case(rng, kind, 7)
        graph, system, goal = case.graph, case.system, mj.Objective(0.5)
        best = mj.optimum(graph, system, objective=goal)
        assert best.proven
        for planner in PLANNERS:
            plan = planner(graph, system, objective=goal)
            assert allowed(plan, case.pins)
            want = oracle.outcome(case.dag, case.edge, plan.placement.tolist(), plan.order.tolist())
            assert (plan.makespan, plan.energy) == pytest.approx(want[:2], rel=1e-9)
            if planner not in (mj.greedy, mj.look_ahead_order):  # which have orders of their own
                assert goal.cost(plan.makespan, plan.energy) >= goal.cost(best.makespan, best.energy) * (1 - 1e-9)
        searched = mj.order_search(graph, system, objective=goal, steps=100, time_limit_s=1)
        assert goal.cost(searched.makespan, searched.energy) <= goal.cost(best.makespan, best.energy) * (1 + 1e-9)
        assert allowed(searched, case.pins)
        for planner in (mj.all_local, mj.all_offload):
            assert allowed(planner(graph, system), case.pins)


def test_no_change_of_two_tasks_helps_after_local_search() -> None:
    rng = np.random.default_rng(3)
    case = random_case(rng, KINDS[1], 6)
    plan = mj.local_search(case.graph, case.system, order=case.order, restarts=0)
    choices = {"any": range(4), "ue": range(1), "server": range(1, 4)}
    for i in range(6):
        for j in range(i, 6):
            for a in choices[case.pins[i]]:
                for b in choices[case.pins[j]]:
                    sites = plan.placement.tolist()
                    sites[j], sites[i] = b, a
                    other = oracle.outcome(case.dag, case.edge, sites, case.order).makespan
                    assert other >= plan.makespan * (1 - 1e-9)


@pytest.mark.parametrize("exact", [False, True])
def test_no_plan_beats_the_front(exact: bool) -> None:
    rng = np.random.default_rng(4)
    for _ in range(3):
        case = random_case(rng, Kind(2, "resident"), 5, exact=exact)
        plans = mj.front(case.graph, case.system, points=5)
        order = mj.priority_order(case.graph, case.system).tolist()
        assert 1 <= len(plans) <= 6
        assert all(plan.proven for plan in plans)
        spans, joules = [plan.makespan for plan in plans], [plan.energy for plan in plans]
        assert spans == sorted(spans)
        assert joules == sorted(joules, reverse=True)
        every = [
            oracle.outcome(case.dag, case.edge, [number // 3**i % 3 for i in range(5)], order)[:2]
            for number in range(3**5)
        ]
        for span, energy in every:
            for plan in plans:
                better = span <= plan.makespan * (1 - 1e-6) and energy <= plan.energy * (1 + 1e-12)
                thriftier = span <= plan.makespan * (1 + 1e-12) and energy <= plan.energy * (1 - 1e-6)
                assert not better
                assert not thriftier
        assert min(span for span, _ in every) == pytest.approx(spans[0])
        assert min(energy for _, energy in every) == pytest.approx(joules[-1])


def test_a_chain_cut_into_tasks_is_no_slower_than_the_whole_at_once() -> None:
    """Where results stay: the first input goes up once, and the last result comes down once."""
    rng = np.random.default_rng(8)
    for rate in (1e5, 1e6, 2e7):
        system = mj.System(uplink_bps=rate, downlink_bps=rate, channel="resident")
        cycles, sizes = rng.uniform(1e7, 1e8, 6), rng.uniform(1e4, 1e6, 7)
        chain = mj.TaskGraph.from_edges(
            cycles=cycles, upload_bytes=sizes[:-1], download_bytes=sizes[1:], edges=[(i, i + 1) for i in range(5)]
        )
        whole = mj.TaskGraph.from_edges(
            cycles=[cycles.sum()], upload_bytes=sizes[:1], download_bytes=sizes[-1:], edges=[]
        )
        assert mj.optimum(chain, system).makespan <= mj.optimum(whole, system).makespan * (1 + 1e-12)


def test_cp_sat_says_what_it_takes() -> None:
    case = random_case(np.random.default_rng(5), Kind(2, "paper"), 3)
    with pytest.raises(mj.InputError, match="accepted: the makespan, one server"):
        mj.optimum(case.graph, case.system, solver="cp_sat")


def test_the_paper_s_policy_knows_one_server_and_the_makespan() -> None:
    policy, case = mj.load_offloader("exp2"), random_case(np.random.default_rng(6), Kind(2, "paper"), 3)
    with pytest.raises(mj.InputError, match=r"system\[0\] has 2 servers; accepted: 1 \('general'"):
        policy.plan(case.graph, case.system)
    one = mj.System(channel="resident")
    with pytest.raises(mj.InputError, match=r"objective is Objective\(energy_weight=0.5.*mode 'argmax'; accepted"):
        policy.plan(case.graph, one, objective=mj.Objective(0.5))


@pytest.mark.slow
def test_a_policy_keeps_pins() -> None:
    policy, rng = mj.load_offloader("exp2"), np.random.default_rng(7)
    for _ in range(6):
        case = random_case(rng, Kind(1, "paper", pinned=True), 7)
        with pytest.warns(mj.OutsideTrainingWarning):
            plan = policy.plan(case.graph, case.system)
        assert allowed(plan, case.pins)
        assert allowed(policy.plan(case.graph, case.system, mode="search", samples=4), case.pins)


def test_an_objective_is_one() -> None:
    case = random_case(np.random.default_rng(11), KINDS[0], 3)
    for planner in (mj.optimum, mj.heft, mj.local_search, mj.look_ahead, mj.order_search):
        with pytest.raises(mj.InputError, match=r"objective is 0\.5; accepted: a Objective"):
            planner(case.graph, case.system, objective=0.5)
