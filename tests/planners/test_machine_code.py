"""The planners' machine code against the oracle and against the planners in JAX."""

from __future__ import annotations

import itertools
import re
from functools import partial
from inspect import getsource
from pathlib import Path
from typing import Any

import jax
import numpy as np
import oracle
import pytest
from wider import KINDS, Case, Kind, random_case, random_sites

import mrlato_jax as mj
from mrlato_jax.mec import latency
from mrlato_jax.planners import engine
from mrlato_jax.planners.descent import descend
from mrlato_jax.planners.descent import random_sites as random_starts

code: Any = None


@pytest.fixture(scope="module", autouse=True)
def _machine_code() -> None:
    global code
    pytest.importorskip("numba")
    code = engine.machine_code()


def test_machine_code_is_kept_for_these_sources_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """numba itself does not notice a change of another file whose functions a function contains."""
    assert list(Path(code.CACHE_FOLDER).rglob("*.nbc"))
    for module in (code, engine.machine_orders()):
        imported = re.findall(r"^from mrlato_jax\.(\w+)\.(\w+) import", getsource(module), re.MULTILINE)
        own = module.__name__.rsplit(".", 1)[1]
        assert {f"{package}/{name}.py" for package, name in [*imported, ("planners", own)]} <= set(code.SOURCES)
    monkeypatch.setattr(code, "SOURCES", code.SOURCES[1:])
    assert code._cache_folder() != code.CACHE_FOLDER


def workspace(case: Case, objective: mj.Objective | None = None) -> Any:
    return code.Workspace(latency.pack_float64(case.graph, case.system, case.order, objective))


def in_order(case: Case, sites: list[int]) -> np.ndarray:
    return np.array(sites)[np.array(case.order)]


@pytest.mark.parametrize("kind", [*KINDS, Kind(1, "paper"), Kind(1, "mrlco"), Kind(1, "mrlco_code")], ids=str)
def test_plans_cost_what_the_oracle_says(kind: Kind) -> None:
    """Whole plans, and the rest of a plan from every depth, by each objective."""
    rng = np.random.default_rng(3)
    for number in range(12):
        case = random_case(rng, kind, int(rng.integers(1, 12)), exact=number % 2 == 0)
        sites = random_sites(rng, case.pins, kind.servers)
        want = oracle.outcome(case.dag, case.edge, sites, case.order)
        goals = [mj.Objective(), mj.Objective(energy_weight=float(rng.uniform(0.1, 2)))]
        for goal in goals:
            work, actions = workspace(case, goal), in_order(case, sites)
            cost = goal.cost(want.makespan, want.energy)
            assert work.cost_of(actions) == pytest.approx(cost, rel=1e-12, abs=1e-300)
            for depth in range(len(actions) + 1):
                rest = code.run(work.problem, work.trail, actions, depth, len(actions), False, np.inf)
                assert rest == pytest.approx(cost, rel=1e-12, abs=1e-300)
                if cost > 0:
                    assert code.run(work.problem, work.trail, actions, 0, len(actions), True, 0.99 * cost) == np.inf
                    work.cost_of(actions)
        order = np.array(case.order)
        found = code.schedule(work.problem, actions, order, case.system)
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-300),
            found,
            mj.simulate(case.graph, case.system, np.array(sites), order),
        )
        late = workspace(case, mj.Objective(deadline_s=max(0.9 * want.makespan, 1e-9)))
        met = workspace(case, mj.Objective(deadline_s=max(1.1 * want.makespan, 1e-9)))
        if want.makespan > 0:
            assert late.cost_of(actions) > late.problem.numbers[code.DEAREST] > met.cost_of(actions)
        assert met.cost_of(actions) == pytest.approx(want.energy, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("kind", [KINDS[1], KINDS[4]], ids=str)
def test_it_is_the_local_search_of_jax(kind: Kind) -> None:
    """The same start, the same changes, the same number of plans; the same HEFT-based plan."""
    rng = np.random.default_rng(4)
    for number in range(6):
        case = random_case(rng, kind, int(rng.integers(2, 9)))
        goal = mj.Objective(energy_weight=0.0 if number % 2 else 0.7)
        with latency.one_by_one():
            dag = latency.pack_float64(case.graph, case.system, case.order, goal)
            start = random_starts(dag, rng.random(dag.mask.size))
            want = descend(dag, start, 0, 2**62)
            work = code.Workspace(dag)
            assert work.improve(work.unpadded(start)) == pytest.approx(float(want.cost), rel=1e-12)
            np.testing.assert_array_equal(work.actions, work.unpadded(want.actions))
            assert work.evaluations == want.evaluations
            ranked = case._replace(order=mj.priority_order(case.graph, case.system).tolist())
            heft = mj.heft(case.graph, case.system, objective=goal)
            np.testing.assert_array_equal(
                workspace(ranked, goal).earliest_finish(), in_order(ranked, heft.placement.tolist())
            )


@pytest.mark.parametrize("kind", KINDS[:4], ids=str)
def test_kicks_keep_pins_and_only_improve(kind: Kind) -> None:
    rng = np.random.default_rng(5)
    improved = 0
    for _ in range(8):
        case = random_case(rng, kind, 12)
        work, actions = workspace(case), in_order(case, random_sites(rng, case.pins, kind.servers))
        before = work.cost_of(actions)
        current = actions.copy()
        rng_of_moves = np.random.default_rng(0)
        last, after, count = code.kick(work.problem, work.trail, current, before, actions, before, 500, rng_of_moves)
        assert after <= min(before, last)
        assert work.cost_of(current) == pytest.approx(last, rel=1e-12)
        assert 500 <= count <= 502
        assert work.cost_of(actions) == pytest.approx(after, rel=1e-12)
        sites = dict(zip(case.order, actions.tolist(), strict=True))
        assert all(sites[task] in oracle.allowed_sites(case.edge, case.pins[task]) for task in case.order)
        improved += after < before
    assert improved


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_bounds_hold_at_every_node(kind: Kind) -> None:
    """The bound of each partial plan against the cheapest of its completions."""
    rng, n = np.random.default_rng(6), 5
    for number in range(4):
        case = random_case(rng, kind, n, exact=number % 2 == 0)
        work = workspace(case, mj.Objective(energy_weight=0.5 * (number % 2)))
        proof = code.Proof(work)  # no plan is known: nothing is pruned
        problem, trail, bounds, search = proof._data
        choices = [list(oracle.allowed_sites(case.edge, case.pins[task])) for task in case.order]
        best = {
            sites: min(work.cost_of(np.array([*sites, *rest])) for rest in itertools.product(*choices[len(sites) :]))
            for depth in range(1, n + 1)
            for sites in itertools.product(*choices[:depth])
        }
        for depth in range(n):
            for sites in itertools.product(*choices[:depth]):
                search.actions[:depth] = sites
                code.run(problem, trail, search.actions, 0, depth, True, np.inf)
                code._expand(problem, trail, bounds, search, depth, 0.0, np.inf)
                count = search.counts[depth, 0]
                assert count == len(choices[depth])
                for bound, site in zip(search.bounds[depth, :count], search.sites[depth, :count], strict=True):
                    assert bound <= best[*sites, int(site)] * (1 + 1e-12)
                assert (np.diff(search.bounds[depth, :count]) >= 0).all()


def test_a_proof_that_is_continued_is_the_same_proof() -> None:
    graph = mj.daggen(num_tasks=22, fat=0.7, density=0.5, rng=np.random.default_rng(2))
    whole, pieces = (code.Workspace(latency.pack_float64(graph, mj.System())) for _ in range(2))
    proofs = []
    for work, nodes in ((whole, 10**9), (pieces, 7)):
        work.improve(work.earliest_finish())
        proof = code.Proof(work)
        bounds = []
        while not proof.over:
            bounds.append(proof.bound)
            proof.advance(nodes)
            work.improve(np.zeros(22, np.int64))  # another search in between
        assert (np.diff(bounds) >= 0).all()
        proofs.append(proof)
    assert proofs[0].nodes == proofs[1].nodes > 100
    assert proofs[0].cost == proofs[1].cost == proofs[0].bound
    np.testing.assert_array_equal(proofs[0].actions, proofs[1].actions)


def test_costs_of_zero_end() -> None:
    """Nothing is better than nothing: the search ends after one look at all changes."""
    nothing = mj.TaskGraph.from_edges(
        cycles=[0, 0, 0], upload_bytes=[0, 0, 0], download_bytes=[0, 0, 0], edges=[(0, 1), (1, 2)]
    )
    plan = mj.local_search(nothing, mj.System())
    assert plan.makespan == 0
    assert plan.evaluations <= 21 * (1 + 3 + 3)
    idle = mj.System(power=mj.Power(0, 0, 0, 0))
    graph = mj.daggen(num_tasks=8, fat=0.7, density=0.5, rng=np.random.default_rng(0))
    free = mj.local_search(graph, idle, objective=mj.Objective(deadline_s=10.0))
    assert free.evaluations <= 21 * (1 + 8 + 28)


def test_a_limit_of_evaluations_is_kept() -> None:
    """Also within a pass over many tasks; what is found until then is a plan of the cost that is said."""
    graph = mj.daggen(num_tasks=200, fat=0.7, density=0.1, rng=np.random.default_rng(0))
    work = code.Workspace(latency.pack_float64(graph, mj.System()))
    whole = np.zeros(200, np.int64)
    _, every = code.settle(work.problem, work.trail, whole, 2**62)
    for most in (1, 50, 150):
        assert most < every
        actions = np.zeros(200, np.int64)
        cost, count = code.settle(work.problem, work.trail, actions, most)
        assert count == most
        assert work.cost_of(actions) == cost


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[3], KINDS[5]], ids=str)
def test_orders_cost_what_the_oracle_says(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every plan of an annealing, in its order, and the best of a long one against all orders and sites."""
    orders, rng, moved = engine.machine_orders(), np.random.default_rng(8), 0
    for number in range(4):
        monkeypatch.undo()
        case = random_case(rng, kind, 4, exact=number % 2 == 0)
        goal = mj.Objective(energy_weight=0.5 * (number % 2))
        work = workspace(case, goal)
        work.keep(start := in_order(case, random_sites(rng, case.pins, kind.servers)), work.cost_of(start))
        search, ids = orders.OrderSearch(work, seed=number), np.array(case.order)

        def cost_of(order: tuple[int, ...], sites: Any, case: Case = case, goal: mj.Objective = goal) -> float:
            found = oracle.outcome(case.dag, case.edge, sites, order)
            return goal.cost(found.makespan, found.energy)

        for _ in range(5):
            search.anneal(40)
            order, sites = ids[search.order].tolist(), np.empty(4, int)
            sites[order] = search.actions
            assert search.cost == pytest.approx(cost_of(tuple(order), sites.tolist()), rel=1e-12)
            assert all(sites[task] in oracle.allowed_sites(case.edge, case.pins[task]) for task in order)
            assert search.cost <= work.cost
        choices = [list(oracle.allowed_sites(case.edge, pin)) for pin in case.pins]
        monkeypatch.setattr(orders, "HOT", 1.0)
        search.anneal(20_000)
        best = min(
            cost_of(order, list(sites))
            for order in itertools.permutations(range(4))
            if all(order.index(parent) < order.index(child) for parent, child in case.graph.edges.tolist())
            for sites in itertools.product(*choices)
        )
        assert search.cost == pytest.approx(best, rel=1e-9)
        moved += search.order.tolist() != list(range(4))
    assert moved
