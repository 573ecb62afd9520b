"""Policies that know several servers, results that stay, pins and energy, as other programs call them."""

from __future__ import annotations

import dataclasses
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quickly
from wider import Case, Kind, allowed, random_case

import mrlato_jax as mj
from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.inference import offloader
from mrlato_jax.inference.offloader import DEADLINE_PRICES
from mrlato_jax.learning import ranges, rollout
from mrlato_jax.planners import SearchedPlan

LEARNING = LearningConfig(learn_from="deviations", rollouts=4, value_coef=0.0)
WEIGHTED = mj.Objective(energy_weight=0.5)
TWO = Kind(2, "resident", pinned=True)


SEEDS = {"task_sim": 10, "lookahead": 3}  # of parameters with which a weight of energy changes a plan


@pytest.fixture(scope="module", params=quickly(SEEDS, "task_sim"))
def policy(request: pytest.FixtureRequest) -> mj.Offloader:
    network = NetworkConfig(
        servers="any_servers", decoder_input=request.param, neighbours="pooled", units=16, heads=2, layers=1
    )
    like = jax.eval_shape(partial(rollout.init_params, network), jax.random.key(0))
    rng = np.random.default_rng(SEEDS[request.param])
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.5, leaf.shape), jnp.float32), like)
    return mj.Offloader(network, params, "random", learning=LEARNING)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    rng = np.random.default_rng(4)
    return [random_case(rng, TWO, n) for n in (5, 8, 8, 7)]


def split(cases: list[Case]) -> tuple[list[mj.TaskGraph], list[mj.System]]:
    return [case.graph for case in cases], [case.system for case in cases]


def test_what_is_decided_is_what_is_planned(policy: mj.Offloader, cases: list[Case]) -> None:
    """By `decide` on packed arrays, under vmap, and by `plan`; without a weight of energy the plans are others."""
    graphs, systems = split(cases)
    plans = policy.plan(graphs, systems, objective=WEIGHTED)
    arrays = mj.pack(graphs, systems, objective=WEIGHTED)
    decision = jax.jit(policy.decide)(arrays)
    one_by_one = jax.jit(jax.vmap(lambda dag: policy.decide(jax.tree.map(lambda leaf: leaf[None], dag))))(arrays)
    for b, (case, plan) in enumerate(zip(cases, plans, strict=True)):
        assert allowed(plan, case.pins)
        n = case.graph.num_tasks
        assert np.asarray(decision.order)[b, :n].tolist() == plan.order.tolist()
        np.testing.assert_array_equal(np.asarray(decision.placement)[b, :n], plan.placement[plan.order])
        assert float(decision.makespan[b]) == pytest.approx(plan.makespan, rel=1e-5)
        np.testing.assert_array_equal(np.asarray(one_by_one.placement)[b, 0], np.asarray(decision.placement)[b])
    fastest = policy.plan(graphs, systems)
    assert any((a.placement != b.placement).any() for a, b in zip(plans, fastest, strict=True))


def test_more_is_never_worse_by_what_is_asked_for(policy: mj.Offloader, cases: list[Case]) -> None:
    graph, system = cases[1].graph, cases[1].system
    argmax, sample, search = (
        policy.plan(graph, system, mode, samples=4, objective=WEIGHTED) for mode in ("argmax", "sample", "search")
    )
    costs = [WEIGHTED.cost(plan.makespan, plan.energy) for plan in (argmax, sample, search)]
    assert costs == sorted(costs, reverse=True)
    best = mj.optimum(graph, system, objective=WEIGHTED)
    assert costs[-1] >= WEIGHTED.cost(best.makespan, best.energy) * (1 - 1e-9)
    assert search.evaluations > sample.evaluations > argmax.evaluations


def test_search_improves_random_plans_where_results_stay(cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    graph, stays = cases[1].graph, cases[1].system
    found = {}
    for restarts in (offloader.RESTARTS, 0):
        monkeypatch.setattr(offloader, "RESTARTS", restarts)
        for system in (stays, dataclasses.replace(stays, channel="paper")):
            decoded = [SearchedPlan.of(mj.all_local(graph, system), evaluations=1)]
            best = offloader._best_of(graph, system, decoded, "search", 0, mj.Objective())
            found[restarts, system.channel] = best
    more, none = found[5, "resident"], found[0, "resident"]
    assert more.makespan <= none.makespan
    assert more.evaluations > none.evaluations
    assert found[5, "paper"].evaluations == found[0, "paper"].evaluations
    assert found[5, "paper"].placement.tolist() == found[0, "paper"].placement.tolist()


@pytest.mark.slow
def test_a_deadline_is_met_with_the_least_energy_of_several_weights(policy: mj.Offloader, cases: list[Case]) -> None:
    graph, system = cases[1].graph, cases[1].system
    watts = sum((system.power.compute_w, system.power.send_w, system.power.receive_w))
    weights = [price / watts for price in DEADLINE_PRICES]
    weighted = [policy.plan(graph, system, objective=mj.Objective(energy_weight=weight)) for weight in weights]
    spans = sorted(plan.makespan for plan in weighted)
    loose = policy.plan(graph, system, objective=mj.Objective(deadline_s=2 * spans[-1]))
    assert loose.energy == min(plan.energy for plan in weighted)
    middle = mj.Objective(deadline_s=spans[len(spans) // 2])
    tight = policy.plan(graph, system, objective=middle)
    in_time = [plan.energy for plan in weighted if middle.meets_deadline(plan.makespan)]
    assert middle.meets_deadline(tight.makespan)
    assert tight.energy == min(in_time)
    assert tight.evaluations == len(DEADLINE_PRICES) * weighted[0].evaluations
    in_milliwatts = mj.Power(*(1e3 * watts for watts in dataclasses.astuple(system.power)))
    again = policy.plan(graph, dataclasses.replace(system, power=in_milliwatts), objective=middle)
    assert again.placement.tolist() == tight.placement.tolist()  # no plan depends on the unit of power
    drawn = policy.plan(graph, system, "sample", samples=12, objective=middle)  # two under each weight
    assert middle.meets_deadline(drawn.makespan)
    assert drawn.energy <= tight.energy
    late = policy.plan(graph, system, objective=mj.Objective(deadline_s=1e-9))
    assert late.makespan == spans[0]  # no plan is in time: the fastest


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["lookahead"], indirect=True)
def test_adapting_lowers_the_cost_that_is_asked_for(policy: mj.Offloader, cases: list[Case]) -> None:
    graphs = [case.graph for case in cases[1:3]]
    adapted = policy.adapt(graphs, cases[1].system, updates=6, objective=WEIGHTED)
    assert adapted.curve is not None
    before = policy.plan(graphs, cases[1].system, objective=WEIGHTED)
    assert adapted.curve.latency_s[0] == pytest.approx(
        np.mean([WEIGHTED.cost(plan.makespan, plan.energy) for plan in before]), rel=1e-5
    )
    assert adapted.curve.latency_s.min() < adapted.curve.latency_s[0]


def test_what_a_policy_does_not_know_is_refused(policy: mj.Offloader, cases: list[Case]) -> None:
    graph, system = cases[0].graph, cases[0].system
    late = mj.Objective(deadline_s=1.0)
    with pytest.raises(mj.InputError, match="arrays have a deadline; accepted: an energy weight"):
        policy.decide(mj.pack([graph], system, objective=late))
    with pytest.raises(mj.InputError, match=r"objective is .*deadline_s=1\.0.*; accepted: an energy weight, no deadl"):
        policy.adapt([graph], system, objective=late)
    old = mj.load_offloader("exp2")
    with pytest.raises(mj.InputError, match=r"system\[0\] has 2 servers; accepted: 1 \('general'"):
        old.plan(graph, system)
    with pytest.raises(mj.InputError, match=r"the systems have 2 servers; accepted: 1 \('general'"):
        old.decide(mj.pack([graph], system))
    with pytest.raises(mj.InputError, match=r"objective is .*; accepted: the makespan, which this policy knows"):
        old.adapt([graph], mj.System(), objective=WEIGHTED)
    with pytest.raises(mj.InputError, match=r"objective is .* with mode 'argmax'; accepted: the makespan"):
        old.plan(graph, mj.System(), objective=WEIGHTED)


def test_systems_unlike_training_are_named() -> None:
    """Also of policies that say nothing of servers: they were trained on one."""
    graph = mj.daggen(6, 0.5, 0.5, np.random.default_rng(0))
    known = [(graph, mj.System(), mj.Objective()), (graph, mj.System(vm_hz=[1e10, 1e10]), WEIGHTED)]
    measured = ranges.ranges_of(known)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ranges.outside(measured, known) is None
    wide = mj.System(vm_hz=[1e10] * 3, channel="resident", radio="separate")
    said = ranges.outside(measured, [(graph, wide, mj.Objective(energy_weight=9.0))])
    assert said is not None
    for phrase in (
        "servers is 3 (1 to 2 in training)",
        "radios is 3 (1 to 1 in training)",
        "results that stay is 1 (0 to 0 in training)",
        "price of a second's energy / price of a second is 31.5 (0 to 1.75 in training)",
    ):
        assert phrase in said
    old = [entry for entry in measured if entry[0] not in ranges.ASSUMED]
    said = ranges.outside(tuple(old), [(graph, wide, mj.Objective())])
    assert said is not None
    assert "servers is 3 (1 to 1 in training)" in said


def test_a_deadline_is_news_to_a_policy_that_never_met_a_price(policy: mj.Offloader, cases: list[Case]) -> None:
    """It decides for deadlines by prices of energy, so these are what is compared with its training."""
    graph, system = cases[0].graph, cases[0].system
    late = mj.Objective(deadline_s=1e3)
    for weight, warned in ((0.0, True), (30.0, False)):
        examples = [(graph, system, mj.Objective(energy_weight=each)) for each in (0.0, weight)]
        trained = dataclasses.replace(policy, ranges=ranges.ranges_of(examples))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trained.plan(graph, system, objective=late)
        said = [str(one.message) for one in caught if one.category is mj.OutsideTrainingWarning]
        assert ["price of a second's energy" in each for each in said] == [True] * warned
