"""Validation while training: of whom, by what, and on whose clock."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.config import NetworkConfig
from mrlato_jax.dag import dataset as datasets
from mrlato_jax.errors import InputError
from mrlato_jax.learning import rollout
from mrlato_jax.training.experiments import TestSet, validation_sets
from mrlato_jax.training.validation import Validation, ValidationSet, validation_set

POLICY = NetworkConfig(decoder_input="task_sim", units=16, heads=2, layers=1, neighbours="pooled")


@pytest.fixture(scope="module")
def chosen() -> ValidationSet:
    return validation_set(datasets.load("exp3"), "paper", 1)


def test_the_set_is_of_fresh_dags_of_every_training_system(chosen: ValidationSet) -> None:
    data = datasets.load("exp3")
    expected = validation_sets(data, "paper")
    assert [test_set.name for test_set in chosen.test_sets] == [test_set.name for test_set in expected]
    assert [test_set.graphs for test_set in chosen.test_sets] == [test_set.graphs[:1] for test_set in expected]
    known = {graph for index in range(len(data.set_names)) for graph in data.graphs(index)}
    assert not known & {graph for test_set in chosen.test_sets for graph in test_set.graphs}
    best = [mj.optimum(test_set.graphs[0], test_set.system) for test_set in chosen.test_sets]
    assert all(plan.proven for plan in best)
    assert chosen.unproven == 0
    assert chosen.optimum_s == pytest.approx(np.mean([plan.makespan for plan in best]))


def test_a_gap_is_that_of_the_policys_plans(chosen: ValidationSet) -> None:
    params = rollout.init_params(POLICY, jax.random.key(1))
    policy = mj.Offloader(POLICY, params, "random")
    spans = [policy.plan(test_set.graphs[0], test_set.system).makespan for test_set in chosen.test_sets]
    gap = Validation(chosen, POLICY).gap(params)
    assert gap > 0.05
    assert gap == pytest.approx(np.mean(spans) / chosen.optimum_s - 1, rel=1e-4)


@pytest.mark.slow
def test_sets_of_several_kinds_are_measured_by_what_is_minimised() -> None:
    """Two servers whose results return, and one where results stay and energy has a weight, in one mean."""
    rng, weighted = np.random.default_rng(0), mj.Objective(energy_weight=0.5)
    systems = [mj.System(vm_hz=[8e9, 20e9]), mj.System(channel="resident")]
    goals = [mj.Objective(), weighted]
    test_sets = tuple(
        TestSet(str(number), tuple(mj.daggen(6 + number, 0.6, 0.6, rng) for _ in range(2)), *pair)
        for number, pair in enumerate(zip([*systems, systems[0]], [*goals, goals[0]], strict=True))
    )
    network = dataclasses.replace(POLICY, servers="any_servers")
    params = rollout.init_params(network, jax.random.key(1))
    policy, costs = mj.Offloader(network, params, "random"), []
    for test_set in test_sets:
        for plan in policy.plan(list(test_set.graphs), test_set.system, objective=test_set.objective):
            costs.append(test_set.objective.cost(plan.makespan, plan.energy))
    gap = Validation(ValidationSet(test_sets, 1.0, 0), network).gap(params)
    assert gap == pytest.approx(np.mean(costs) - 1, rel=1e-5)


def test_the_clock_stands_still_while_measuring(chosen: ValidationSet) -> None:
    times = iter([0.0, 7.0, 10.0, 100.0, 200.0, 210.0])
    first = dataclasses.replace(chosen, test_sets=chosen.test_sets[:1])
    validation = Validation(first, POLICY, clock=lambda: next(times))  # which took from 0 to 7
    assert validation.seconds == 3.0
    validation.gap(rollout.init_params(POLICY, jax.random.key(1)))  # from 100 to 200
    assert validation.seconds == 210.0 - 107.0


def test_the_clock_goes_on_from_sessions_before(chosen: ValidationSet) -> None:
    times = iter([0.0, 7.0, 10.0])
    first = dataclasses.replace(chosen, test_sets=chosen.test_sets[:1])
    validation = Validation(first, POLICY, clock=lambda: next(times))
    validation.go_on_from(50.0)
    validation.go_on_from(40.0)  # another seed's, which was trained with it
    assert validation.seconds == 53.0


@pytest.mark.parametrize("number", [0, 101, 1.5])
def test_numbers_of_dags_that_there_are_not(number: float) -> None:
    with pytest.raises(InputError, match=f"validate is {number}; accepted: an integer in"):
        validation_set(datasets.load("exp3"), "paper", number)  # type: ignore[arg-type]
