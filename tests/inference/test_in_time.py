"""`Offloader.plan(time_limit_s=)`: the parts, what each may take, and what the plan says of itself."""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from itertools import islice
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run

import mrlato_jax as mj
from mrlato_jax.errors import InputError
from mrlato_jax.inference import in_time
from mrlato_jax.inference.in_time import TimedPlan, plan_in_time
from mrlato_jax.learning.rollout import init_params
from mrlato_jax.mec import latency
from mrlato_jax.planners import engine
from mrlato_jax.results.kinds import KINDS, drawn

SYSTEM = mj.System()


@pytest.fixture(scope="module")
def policy() -> mj.Offloader:
    network = tiny_run.CONFIG.network
    return mj.Offloader(network=network, params=init_params(network, jax.random.key(0)), label="untrained")


def graph(num_tasks: int, seed: int = 0) -> mj.TaskGraph:
    return mj.daggen(num_tasks=num_tasks, fat=0.7, density=0.5, rng=np.random.default_rng(seed))


def in_seconds(app: mj.TaskGraph, seconds: float, propose: Any, program: Any, **options: Any) -> TimedPlan:
    goal = options.pop("objective", mj.Objective())
    return plan_in_time(app, options.pop("system", SYSTEM), goal, seconds, propose, program, 0)


def as_proposal(plan: mj.Plan) -> mj.SearchedPlan:
    return mj.SearchedPlan.of(plan, evaluations=7)


@pytest.mark.parametrize("numba", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_small_applications_are_proven(policy: mj.Offloader, numba: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not numba:
        monkeypatch.setattr(engine, "machine_code", lambda: None)
    apps = [graph(6, seed) for seed in range(3)]
    plans = policy.plan(apps, SYSTEM, time_limit_s=5.0)
    for app, plan in zip(apps, plans, strict=True):
        best = mj.optimum(app, SYSTEM)
        assert isinstance(plan, TimedPlan)
        assert plan.proven
        assert plan.makespan == pytest.approx(best.makespan, rel=1e-9)
        assert plan.lower_bound == pytest.approx(plan.makespan, rel=1e-9)
        assert plan.makespan == mj.simulate(app, SYSTEM, plan.placement, plan.order).makespan
        assert plan.source in ("heft", "one_site", "local_search", "policy", "proof")
        assert plan.seconds < 5.0
        assert plan.evaluations > 0
    assert isinstance(policy.plan(apps[0], SYSTEM, time_limit_s=5.0), TimedPlan)


def test_a_policy_that_knows_more_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its plan is taken if the others have not found it, also in another order; and is improved in the same."""
    app = graph(60)
    good = mj.local_search(app, SYSTEM, restarts=3)
    code = engine.machine_code()
    monkeypatch.setattr(code.Workspace, "kick", lambda *_: None)
    monkeypatch.setattr(code.Workspace, "settle", lambda self, actions, most: None)
    monkeypatch.setattr(code.Proof, "run", lambda self, seconds: None)
    same = in_seconds(app, 0.5, lambda: as_proposal(good), "same order")
    assert same.source == "policy"
    assert same.makespan == good.makespan
    assert 0 < same.lower_bound < same.makespan
    other = mj.order_search(app, SYSTEM, start=good, steps=200)
    assert other.order.tolist() != good.order.tolist()
    elsewhere = in_seconds(app, 0.5, lambda: as_proposal(other), "other order")
    assert elsewhere.source == "policy"
    assert not elsewhere.proven
    np.testing.assert_array_equal(elsewhere.order, other.order)


def test_a_policy_that_takes_too_long_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    app, asked = graph(60), []
    perfect = as_proposal(mj.local_search(app, SYSTEM, restarts=3))

    def propose() -> mj.SearchedPlan:
        asked.append(1)
        return perfect

    in_time._loaded(0)
    monkeypatch.setitem(in_time._seconds, ("policy", "slow"), 10.0)
    plan = in_seconds(app, 0.05, propose, "slow")
    assert not asked
    assert plan.source != "policy"
    assert plan.makespan <= mj.heft(app, SYSTEM).makespan


def test_the_policy_has_its_turn_where_a_deadline_is_met_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The makespan needs no search there, and the plan of least energy is the policy's."""
    app = graph(30)
    goal = mj.Objective(deadline_s=1.05 * mj.heft(app, SYSTEM).makespan)
    frugal = mj.local_search(app, SYSTEM, restarts=2, objective=goal)
    assert frugal.energy < mj.heft(app, SYSTEM).energy
    code = engine.machine_code()
    monkeypatch.setattr(code.Workspace, "kick", lambda *_: None)
    monkeypatch.setattr(code.Workspace, "settle", lambda self, actions, most: None)
    monkeypatch.setattr(code.Proof, "run", lambda self, seconds: None)
    plan = in_seconds(app, 0.2, lambda: as_proposal(frugal), "frugal", objective=goal)
    assert plan.source == "policy"
    assert plan.energy == frugal.energy


def test_a_limit_holds_where_compiled_programs_were_dropped() -> None:
    app, compiled = graph(60), jax.jit(lambda number: number + 1)

    def propose() -> mj.SearchedPlan:
        if not compiled._cache_size():
            time.sleep(0.5)  # compiles
            compiled(0)
        return as_proposal(mj.all_local(app, SYSTEM))

    spent = []
    for dropped in (False, True):
        if dropped:
            jax.clear_caches()
        spent.append(in_seconds(app, 0.05, propose, "dropped").seconds)
    assert max(spent) < 0.3


def test_energy_and_deadlines() -> None:
    app = graph(8)
    propose = partial(as_proposal, mj.all_local(app, SYSTEM))
    least = mj.optimum(app, SYSTEM).makespan
    for number, goal in enumerate(
        (mj.Objective(energy_weight=0.7), mj.Objective(deadline_s=1.2 * least), mj.Objective(deadline_s=0.5 * least))
    ):
        plan = in_seconds(app, 5.0, propose, f"goal {number}", objective=goal)
        best = mj.optimum(app, SYSTEM, objective=goal)
        assert plan.proven
        assert plan.meets_deadline == best.meets_deadline == (number < 2)
        assert goal.key(plan.makespan, plan.energy) == (
            not best.meets_deadline,
            pytest.approx(goal.key(best.makespan, best.energy)[1], rel=1e-9),
        )
        assert plan.lower_bound == pytest.approx(goal.key(best.makespan, best.energy)[1], rel=1e-9)


@pytest.mark.parametrize("numba", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_orders_are_searched_where_the_mode_says_so(
    policy: mj.Offloader, numba: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not numba:
        monkeypatch.setattr(engine, "machine_code", lambda: None)
        monkeypatch.setattr(engine, "machine_orders", lambda: None)
    monkeypatch.setattr(in_time, "_seconds", {})  # compiles anew before the time begins
    app, limit, resident = graph(20), 0.3 if numba else 3.0, dataclasses.replace(SYSTEM, channel="resident")
    ask = mj.Offloader._plan
    asked = []
    monkeypatch.setattr(mj.Offloader, "_plan", lambda *words: asked.append(1) or ask(*words))
    for system in (SYSTEM, resident):
        within = policy.plan(app, system, time_limit_s=limit)
        assert asked
        asked.clear()
        plan = policy.plan(app, system, "search_order", time_limit_s=limit)
        assert not asked  # the policy
        assert within.order.tolist() == mj.priority_order(app, system).tolist() != plan.order.tolist()
        assert plan.makespan < within.makespan
        assert (plan.source, plan.proven, plan.lower_bound) == ("order_search", False, 0.0)
        mended = mj.simulate(app, system, plan.placement, plan.order)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), plan.schedule, mended)
    least = plan.makespan
    goal = mj.Objective(deadline_s=1.05 * least)  # no plan in the priority order meets it, and energy is left to save
    saving = policy.plan(app, resident, "search_order", time_limit_s=2 * limit, objective=goal)
    assert goal.meets_deadline(saving.makespan)
    assert saving.energy < plan.energy


def test_a_longer_time_is_no_worse_and_no_time_is_heft_or_better() -> None:
    app = graph(100)
    propose = partial(as_proposal, mj.all_local(app, SYSTEM))
    plans = [in_seconds(app, seconds, propose, "all-local") for seconds in (1e-6, 1.0)]
    assert plans[1].makespan <= plans[0].makespan <= mj.heft(app, SYSTEM).makespan
    assert plans[1].makespan < mj.heft(app, SYSTEM).makespan
    assert plans[0].lower_bound == 0
    assert not plans[0].proven


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"time_limit_s": 0}, "time_limit_s is 0"),
        ({"time_limit_s": float("nan")}, "time_limit_s is nan"),
        ({"time_limit_s": "1"}, "time_limit_s is '1'"),
        ({"time_limit_s": 1.0, "mode": "search"}, "mode is 'search' with time_limit_s; accepted: argmax, search_order"),
    ],
)
def test_refused(policy: mj.Offloader, options: dict[str, Any], phrase: str) -> None:
    with pytest.raises(InputError, match=phrase):
        policy.plan(graph(6), SYSTEM, **options)


def test_it_is_a_pytree() -> None:
    app = graph(6)
    plan = in_seconds(app, 1.0, lambda: as_proposal(mj.heft(app, SYSTEM)), "pytree")
    doubled = jax.jit(lambda one: jax.tree.map(lambda leaf: 2 * leaf, one))(plan)
    assert (doubled.source, float(doubled.makespan)) == (plan.source, pytest.approx(2 * plan.makespan))


def test_nothing_is_compiled_within_the_time() -> None:
    """Also not where pins or prices make another program."""
    app = graph(9)
    pinned = dataclasses.replace(app, pins=("ue", *["any"] * 8))
    propose = partial(as_proposal, mj.all_local(app, SYSTEM))
    code = engine.machine_code()
    for one, goal in ((app, mj.Objective()), (pinned, mj.Objective()), (pinned, mj.Objective(deadline_s=10.0))):
        in_seconds(one, 0.02, propose, (one.is_pinned, goal), objective=goal)
        before = len(code.run.signatures), len(code.settle.signatures), latency._run_all._cache_size()
        again = in_seconds(one, 0.02, propose, (one.is_pinned, goal), objective=goal)
        assert (len(code.run.signatures), len(code.settle.signatures), latency._run_all._cache_size()) == before
        assert again.seconds < 1.0
    assert again.placement[0] == 0


def test_a_warning_does_not_wait_for_the_policy() -> None:
    """An application outside the training range is named whether or not the policy has its turn; and only once."""
    policy = mj.load_offloader("exp2")
    for _ in range(2):
        with pytest.warns(mj.OutsideTrainingWarning) as warned:
            policy.plan(graph(3), SYSTEM, time_limit_s=1e-3)
        assert len(warned) == 1
        assert warned[0].filename == __file__


def test_random_plans_leave_a_local_optimum_where_results_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = next(kind for kind in KINDS if kind.name == "K=3, results stay")
    app, system, _ = next(islice(drawn(kind), 3, None))
    code = engine.machine_code()
    monkeypatch.setattr(code.Workspace, "kick", lambda *_: None)
    monkeypatch.setattr(code.Proof, "fits", lambda *_: False)
    least = mj.optimum(app, system).makespan
    assert mj.local_search(app, system, restarts=0).makespan > 1.3 * least
    plan = in_seconds(app, 1.0, lambda: as_proposal(mj.all_local(app, system)), "stuck", system=system)
    assert plan.makespan == pytest.approx(least, rel=1e-6)


def test_a_chain_that_pays_as_a_whole_is_offloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No task of it pays alone, so the HEFT-based plan and its local search keep all tasks on the UE."""
    n = 12
    app = mj.TaskGraph.from_edges(
        cycles=[1e8] * n, upload_bytes=[2e5] * n, download_bytes=[2e5] * n, edges=[(i, i + 1) for i in range(n - 1)]
    )  # fmt: skip
    system = mj.System(channel="resident")
    assert not mj.local_search(app, system, restarts=0).placement.any()
    code = engine.machine_code()
    monkeypatch.setattr(code.Workspace, "kick", lambda *_: None)
    monkeypatch.setattr(code.Proof, "fits", lambda *_: False)
    plan = in_seconds(app, 0.01, lambda: as_proposal(mj.all_local(app, system)), "chain", system=system)
    assert plan.source == "one_site"
    assert plan.placement.all()
    assert plan.makespan < 0.5 * mj.heft(app, system).makespan


def test_all_tasks_at_one_site_count_by_their_energy_under_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The UE is faster and dearer than the server; no single task saves energy there."""
    n = 12
    app = mj.TaskGraph.from_edges(
        cycles=[1e8] * n, upload_bytes=[5e5] * n, download_bytes=[5e5] * n, edges=[(i, i + 1) for i in range(n - 1)]
    )  # fmt: skip
    system = mj.System(channel="resident", power=mj.Power(compute_w=3.0))
    assert mj.all_local(app, system).makespan < mj.all_offload(app, system).makespan < 1.5
    code = engine.machine_code()
    monkeypatch.setattr(code.Workspace, "kick", lambda *_: None)
    monkeypatch.setattr(code.Workspace, "settle", lambda self, actions, most: None)
    monkeypatch.setattr(code.Proof, "fits", lambda *_: False)
    goal = mj.Objective(deadline_s=1.5)
    plan = in_seconds(app, 0.05, lambda: as_proposal(mj.all_local(app, system)), "dear", system=system, objective=goal)
    assert plan.source == "one_site"
    assert plan.placement.all()
    assert plan.meets_deadline
