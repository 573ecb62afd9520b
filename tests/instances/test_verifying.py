"""The verifier: costs beside the oracle, what a plan is worth, and the first rule that a plan breaks."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import oracle
import pytest
from test_stored_benchmark import INSTANCES, oracles

import mrlato_jax as mj
from mrlato_jax.instances.verifying import read_plans

PHONE = INSTANCES["facebook-3g-near"]
PHONE_ON_ITS_SYSTEM = PHONE.graph, PHONE.system, PHONE.placement, PHONE.order
NAMES = ("facebook-3g-near", "facebook-wifi-both", "facebook-3g-near-energy", "navigator-5g-near", "job12-wifi-near")


@pytest.mark.parametrize("name", NAMES)
def test_cost_is_the_oracles(name: str) -> None:
    one, rng = INSTANCES[name], np.random.default_rng(1)
    dag, edge = oracles(one)
    for _ in range(4):
        sites = [int(rng.choice(list(oracle.allowed_sites(edge, pin)))) for pin in one.graph.pins]
        order = oracle.take_ready(dag, rng.random(dag.num_tasks).tolist())
        want = oracle.outcome(dag, edge, sites, order)
        cost = want.makespan + one.objective.energy_weight * want.energy
        found = mj.verify(one, {"placement": sites, "order": order, "cost": cost})
        assert found.cost == pytest.approx(cost, rel=1e-9)
        assert (found.makespan, found.energy) == pytest.approx((want.makespan, want.energy), rel=1e-9)
        assert found.gap_to_best == pytest.approx(cost / one.best_known - 1, abs=1e-9)
        assert found.gap_to_bound == pytest.approx(cost / one.lower_bound - 1, abs=1e-9)
        assert found.optimal == (one.proven and cost <= one.best_known * (1 + 1e-6))


def test_optimal_is_what_is_within_the_proofs_tolerance() -> None:
    plan = mj.Plan(PHONE.placement, PHONE.order, PHONE.best_known, mj.simulate(*PHONE_ON_ITS_SYSTEM))
    for excess, optimal in ((0.9e-5, True), (1.1e-5, False), (1.9e-5, False)):
        one = dataclasses.replace(PHONE, lower_bound=PHONE.best_known / (1 + excess), proven=optimal)
        assert mj.verify(one, plan).optimal == optimal


def test_each_form_of_a_plan() -> None:
    plan = mj.heft(PHONE.graph, PHONE.system)
    want = mj.verify(PHONE, plan)
    assert want.cost == pytest.approx(plan.makespan, rel=1e-12)
    assert mj.verify(PHONE, plan.placement.tolist()) == want  # without an order: the priority order
    assert mj.verify(PHONE, {"placement": plan.placement.tolist(), "order": plan.order.tolist()}) == want
    best = mj.verify(PHONE, {"placement": PHONE.placement, "order": PHONE.order})
    assert best.optimal
    assert best.gap_to_best == pytest.approx(0, abs=1e-12)


def test_the_first_rule_that_is_broken_is_named() -> None:
    sites, order = PHONE.placement.tolist(), PHONE.order.tolist()
    swapped = [order[1], order[0], *order[2:]]
    wrong_pin = [1 - site if place == 0 else site for place, site in enumerate(sites)]
    for plan, said in (
        (sites[:-1], "placement is .* accepted: 7 integers"),
        ([2, *sites[1:]], re.escape("placement[0] is 2; accepted")),
        (wrong_pin, re.escape("placement[0] is 1, but pins[0] is 'ue'; accepted: 0, the UE")),
        ({"placement": wrong_pin, "order": swapped}, "placement"),
        ({"placement": sites, "order": order[:-1]}, "order is .* accepted: 7 integers"),
        ({"placement": sites, "order": [0] * 7}, "accepted: each task id from 0 to 6 once"),
        ({"placement": sites, "order": swapped, "cost": 1.0}, "order places task .* before its parent"),
        ({"placement": sites, "order": order, "cost": 1.0}, "cost is 1.0 s; accepted: 1.09"),
        ({"placement": sites, "cost": "cheap"}, "cost is 'cheap'; accepted: a finite number"),
        ({"placement": sites, "speed": 1}, "plan has 'speed'; accepted: placement, order, cost"),
        ({"order": order}, "plan lacks placement"),
    ):
        with pytest.raises(mj.InputError, match=said) as refused:
            mj.verify(PHONE, plan)
        assert str(refused.value).startswith("facebook-3g-near: ")
    with pytest.raises(mj.InputError, match=r"instance is 3; accepted"):
        mj.verify(3, sites)  # type: ignore[arg-type]


def test_a_plan_that_claims_too_much() -> None:
    """A plan for another system has another cost than it says."""
    plan = mj.all_local(PHONE.graph, mj.System(ue_hz=2e9))
    with pytest.raises(mj.InputError, match=r"accepted: 2.4 s, the cost of this plan"):
        mj.verify(PHONE, plan)


def test_a_file_of_plans(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"method": "mine", "plans": {"facebook-3g-near": [0] * 7}}))
    assert read_plans(path) == ("mine", {"facebook-3g-near": [0] * 7})
    for content, said in (
        ({"plans": {}}, "has the members .* accepted: a JSON file"),
        ({"method": 3, "plans": {}}, "method is 3; accepted: a str"),
        ({"method": "mine", "plans": []}, r"plans is \[\]; accepted: a dict"),
    ):
        path.write_text(json.dumps(content))
        with pytest.raises(mj.InputError, match=said):
            read_plans(path)
