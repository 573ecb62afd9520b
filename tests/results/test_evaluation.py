"""Adapting to unseen sets: what an update is, what is measured, and that nothing else leaks in."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run

import mrlato_jax as mj
from mrlato_jax.errors import InputError
from mrlato_jax.inference.offloader import Offloader
from mrlato_jax.learning import adaptation, rollout
from mrlato_jax.learning.adaptation import adapt
from mrlato_jax.learning.learning_task import LearningTask, learning_task
from mrlato_jax.learning.outer import init_state
from mrlato_jax.methods import QUICK_PLANNERS
from mrlato_jax.planners import random_placement
from mrlato_jax.results import evaluation
from mrlato_jax.results.evaluation import AdaptationRecord, baseline_latencies, evaluate_set
from mrlato_jax.training import experiments
from mrlato_jax.training.experiments import TestSet

CONFIG, POLICY, LEARNING = tiny_run.CONFIG, tiny_run.POLICY, tiny_run.LEARNING
GRAPHS, STEPS = tiny_run.GRAPHS, LEARNING.inner_steps
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def params() -> Any:
    return init_state(POLICY, LEARNING, 0).params


@pytest.fixture(scope="module")
def unseen() -> list[TestSet]:
    return experiments.unseen_sets(tiny_run.dataset(), "paper")


@pytest.fixture(scope="module")
def task(unseen: list[TestSet]) -> LearningTask:
    return learning_task(unseen[0].graphs, unseen[0].system, POLICY)


def run(
    params: Any, task: LearningTask, updates: int, key: jax.Array = KEY, **options: Any
) -> tuple[Any, AdaptationRecord]:
    adapted, curve = adapt(POLICY, LEARNING, params, task, task, updates, key, **options)
    return adapted, AdaptationRecord.of(curve)


@pytest.fixture(scope="module")
def longest(params: Any, task: LearningTask) -> AdaptationRecord:
    return run(params, task, 6)[1]


def planned_ms(params: Any, test_set: TestSet) -> list[float]:
    plans = Offloader(POLICY, params, "").plan(list(test_set.graphs), test_set.system)
    return [1e3 * plan.makespan for plan in plans]


# The curve.


def test_before_any_update_is_the_argmax_of_the_meta_policy(
    params: Any, unseen: list[TestSet], longest: AdaptationRecord
) -> None:
    want = planned_ms(params, unseen[0])
    assert len(set(want)) == GRAPHS
    np.testing.assert_allclose(longest.latency_ms_by_dag[0], want, rtol=1e-5, atol=6e-4)
    assert longest.latency_ms[0] == pytest.approx(np.mean(want), rel=1e-5)


@pytest.mark.parametrize("updates", [0, 1, 3, 4])
def test_fewer_updates_are_the_beginning_of_more(
    params: Any, task: LearningTask, longest: AdaptationRecord, updates: int
) -> None:
    record = run(params, task, updates)[1]
    rounds = -(-updates // STEPS)
    assert len(record.latency_ms) == updates + 1
    assert record.latency_ms == longest.latency_ms[: updates + 1]
    assert set(record.latency_ms_by_dag) == {mark for mark in (0, 1) if mark <= updates} | {updates}
    for mark in record.latency_ms_by_dag.keys() & longest.latency_ms_by_dag.keys():
        assert record.latency_ms_by_dag[mark] == longest.latency_ms_by_dag[mark]
    assert record.sampled_ms == longest.sampled_ms[:rounds]
    for field in ("entropy", "value_explained"):  # at a collection's last update, of which the last has fewer
        complete = updates // STEPS
        assert getattr(record, field)[:complete] == getattr(longest, field)[:complete]
        assert len(getattr(record, field)) == rounds
    assert record.simulator_evaluations == rounds * GRAPHS * LEARNING.rollouts


def test_every_update_is_measured(longest: AdaptationRecord) -> None:
    assert len(set(longest.latency_ms)) > 3
    assert set(longest.latency_ms_by_dag) == {0, 1, 6}
    for mark, each in longest.latency_ms_by_dag.items():
        assert len(each) == GRAPHS
        assert longest.latency_ms[mark] == pytest.approx(np.mean(each), abs=1e-3)


@pytest.mark.parametrize("updates", [0, 3, 4, 6])
def test_adapted_parameters_are_those_after_the_last_update(
    params: Any, unseen: list[TestSet], task: LearningTask, updates: int
) -> None:
    adapted, record = run(params, task, updates)
    want = planned_ms(adapted, unseen[0])
    np.testing.assert_allclose(record.latency_ms_by_dag[updates], want, rtol=1e-5, atol=6e-4)


def test_the_meta_policy_is_kept(params: Any, task: LearningTask) -> None:
    before = jax.tree.map(lambda leaf: np.array(leaf), params)
    adapted = run(params, task, 3)[0]
    jax.tree.map(np.testing.assert_array_equal, before, params)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), adapted, params)
    assert any(jax.tree.leaves(moved))


def test_adam_is_fresh_for_each_set_and_kept_between_collections(
    params: Any, task: LearningTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, sampled_from = [], []
    original = adaptation.adaptation_round

    def spy(policy: Any, learning: Any, params: Any, opt_state: Any, *rest: Any) -> Any:
        taken.append(opt_state)
        sampled_from.append(params)
        return original(policy, learning, params, opt_state, *rest)

    monkeypatch.setattr(adaptation, "adaptation_round", spy)
    adapted, _ = run(params, task, 6)
    run(adapted, task, 3)
    assert [int(state[0].count) for state in taken] == [0, STEPS, 0]
    for state in (taken[0], taken[2]):
        assert not any(leaf.any() for leaf in jax.tree.leaves((state[0].mu, state[0].nu)))
    assert any(leaf.any() for leaf in jax.tree.leaves(taken[1][0].mu))
    # Trajectories of the second collection come from the current policy, not the meta-policy.
    assert all((a == b).all() for a, b in zip(*map(jax.tree.leaves, (sampled_from[0], params)), strict=True))
    assert any(bool((a != b).any()) for a, b in zip(*map(jax.tree.leaves, sampled_from[:2]), strict=True))


def test_each_collection_has_a_key_of_its_own(params: Any, task: LearningTask, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    original = adaptation.adaptation_round

    def spy(*arguments: Any) -> Any:
        keys.append(jax.random.key_data(arguments[6]).tolist())
        return original(*arguments)

    monkeypatch.setattr(adaptation, "adaptation_round", spy)
    run(params, task, 9)
    assert len(keys) == 3
    assert len(set(map(tuple, keys))) == 3


def test_progress_is_told_after_each_collection(params: Any, task: LearningTask, longest: AdaptationRecord) -> None:
    told: list[tuple[int, float, float]] = []
    _, record = run(params, task, 4, on_round=lambda *arguments: told.append(arguments))
    assert [update for update, _, _ in told] == [3, 4]
    assert [ms for _, ms, _ in told] == pytest.approx([longest.latency_ms[3], longest.latency_ms[4]], rel=1e-6)
    assert [entropy for _, _, entropy in told] == record.entropy


def test_adaptation_learns(params: Any) -> None:
    """Two links, one so fast that offloading all is best, one so slow that nothing should be: each is found."""
    rng = np.random.default_rng(11)
    graphs = [mj.daggen(6, 0.6, 0.6, rng) for _ in range(GRAPHS)]
    falls = []
    for rate in (1e9, 1e5):
        system = mj.System(uplink_bps=rate, downlink_bps=rate)
        task = learning_task(graphs, system, POLICY)
        _, record = run(params, task, 60)
        means = [np.mean([plan(graph, system).makespan for graph in graphs]) for plan in (mj.all_offload, mj.all_local)]
        assert record.latency_ms[-1] <= 1.02 * 1e3 * min(means)
        falls.append(record.latency_ms[-1] / record.latency_ms[0])
    assert min(falls) < 0.8  # what was best on one link before any update was bad on the other


# A setting.


@pytest.fixture(scope="module")
def results(params: Any, unseen: list[TestSet]) -> list[evaluation.SetResult]:
    return [evaluate_set(CONFIG, params, test_set, index, 4, held_out=True) for index, test_set in enumerate(unseen)]


def test_a_result_does_not_depend_on_what_else_is_evaluated(
    params: Any, unseen: list[TestSet], results: list[evaluation.SetResult]
) -> None:
    alone = evaluate_set(CONFIG, params, unseen[1], 1, 4, held_out=True)
    assert alone == results[1]
    without_halves = evaluate_set(CONFIG, params, unseen[1], 1, 4)
    assert without_halves == dataclasses.replace(alone, held_out=None, held_out_baselines_ms=None)


def test_random_draws_belong_to_the_seed_and_the_setting(
    params: Any, unseen: list[TestSet], results: list[evaluation.SetResult]
) -> None:
    reseeded = dataclasses.replace(CONFIG, seed=CONFIG.seed + 1)
    assert (
        evaluate_set(reseeded, params, unseen[1], 1, 1).adaptation.sampled_ms[0]
        != (results[1].adaptation.sampled_ms[0])
    )
    elsewhere = evaluate_set(CONFIG, params, unseen[1], 0, 1)
    assert elsewhere.adaptation.sampled_ms[0] != results[1].adaptation.sampled_ms[0]
    assert elsewhere.adaptation.latency_ms[0] == results[1].adaptation.latency_ms[0]


def test_the_other_half_has_baselines_of_its_own(unseen: list[TestSet], results: list[evaluation.SetResult]) -> None:
    for test_set, result in zip(unseen, results, strict=True):
        second = test_set.graphs[GRAPHS // 2 :]
        want = 1e3 * np.mean([mj.heft(graph, test_set.system).makespan for graph in second])
        assert result.held_out_baselines_ms is not None
        assert result.held_out_baselines_ms["HEFT-based"] == pytest.approx(want, rel=1e-9)
        assert result.held_out_baselines_ms["HEFT-based"] != result.baselines_ms["HEFT-based"]


def test_a_policy_of_nan_is_named(params: Any, task: LearningTask) -> None:
    broken = jax.tree.map(lambda leaf: leaf * np.nan, params)
    with pytest.raises(InputError, match="adaptation diverged: entropy is nan"):
        run(broken, task, 3)


def test_parameters_that_the_last_update_broke_are_named(params: Any, task: LearningTask) -> None:
    """Its loss, taken before it, is finite."""
    learning = dataclasses.replace(LEARNING, inner_lr=1e38)
    with pytest.raises(InputError, match="adaptation diverged: parameters are not finite after 1 updates"):
        adaptation.adapt(POLICY, learning, params, task, task, 1, jax.random.key(0))


def test_measured_halves_are_the_second(results: list[evaluation.SetResult]) -> None:
    for result in results:
        assert result.held_out is not None
        assert result.held_out.latency_ms_by_dag[0] == result.adaptation.latency_ms_by_dag[0][GRAPHS // 2 :]
        assert len(result.held_out.latency_ms) == 5
        assert result.held_out.simulator_evaluations == 2 * (GRAPHS // 2) * LEARNING.rollouts
        assert result.adaptation.simulator_evaluations == 2 * GRAPHS * LEARNING.rollouts


def test_adaptation_never_sees_the_measured_half(
    params: Any, unseen: list[TestSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    returned = []

    def spy(*arguments: Any, **options: Any) -> Any:
        returned.append(adapt(*arguments, **options))
        return returned[-1]

    monkeypatch.setattr(evaluation, "adapt", spy)
    half = GRAPHS // 2
    strangers = experiments.unseen_sets(tiny_run.dataset(seed=9), "paper")[0].graphs[half:]
    for measured in (unseen[0].graphs[half:], strangers):
        test_set = dataclasses.replace(unseen[0], graphs=(*unseen[0].graphs[:half], *measured))
        evaluate_set(CONFIG, params, test_set, 0, 6, held_out=True)
    (adapted, record), (adapted_again, record_again) = returned[1], returned[3]
    jax.tree.map(np.testing.assert_array_equal, adapted, adapted_again)
    assert record.sampled_s == record_again.sampled_s
    assert record.latency_s[0] != record_again.latency_s[0]
    # The control: what it does see changes it.
    strange_half = dataclasses.replace(unseen[0], graphs=(*strangers, *unseen[0].graphs[half:]))
    evaluate_set(CONFIG, params, strange_half, 0, 6, held_out=True)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), adapted, returned[5][0])
    assert not all(jax.tree.leaves(same))


def test_each_adaptation_is_watched_with_its_own_reference(params: Any, unseen: list[TestSet]) -> None:
    told: list[tuple[str, float, int]] = []

    @contextmanager
    def watch(name: str, heft_ms: float) -> Iterator[adaptation.OnRound]:
        yield lambda update, latency_ms, entropy: told.append((name, heft_ms, update))

    result = evaluate_set(CONFIG, params, unseen[0], 0, 4, held_out=True, watch=watch)
    assert result.held_out_baselines_ms is not None
    name, ours, other = unseen[0].name, result.baselines_ms["HEFT-based"], result.held_out_baselines_ms["HEFT-based"]
    assert ours != other
    assert told == [(name, ours, 3), (name, ours, 4), *((f"{name}, held out", other, done) for done in (3, 4))]


def test_one_dag_has_no_other_half(params: Any, unseen: list[TestSet]) -> None:
    single = dataclasses.replace(unseen[0], graphs=unseen[0].graphs[:1])
    with pytest.raises(mj.InputError, match=r"held_out is true, but set .* has 1 DAG; accepted"):
        evaluate_set(CONFIG, params, single, 0, 1, held_out=True)
    assert evaluate_set(CONFIG, params, single, 0, 0).held_out is None


def test_baselines_are_the_planners_means(unseen: list[TestSet], results: list[evaluation.SetResult]) -> None:
    planners = {
        "all-local": lambda graph, system, _: mj.all_local(graph, system),
        "all-offload": lambda graph, system, _: mj.all_offload(graph, system),
        "random": lambda graph, system, index: random_placement(graph, system, np.random.default_rng(index)),
        "greedy": lambda graph, system, _: mj.greedy(graph, system),
        "HEFT-based": lambda graph, system, _: mj.heft(graph, system),
    }
    for test_set, result in zip(unseen, results, strict=True):
        assert tuple(result.baselines_ms) == tuple(planners) == QUICK_PLANNERS
        for name, planner in planners.items():
            spans = [
                mj.simulate(graph, test_set.system, plan.placement, plan.order).makespan
                for index, graph in enumerate(test_set.graphs)
                for plan in [planner(graph, test_set.system, index)]
            ]
            assert result.baselines_ms[name] == pytest.approx(1e3 * sum(spans) / len(spans), rel=1e-12)
        assert result.setting == test_set.name


def test_random_baseline_is_the_same_every_time(unseen: list[TestSet]) -> None:
    graphs, system = unseen[0].graphs, unseen[0].system
    assert baseline_latencies(graphs, system) == baseline_latencies(graphs, system)


def test_a_graph_beyond_the_policys_width_is_refused_before_anything_is_measured(
    params: Any, unseen: list[TestSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = [1e4] * 11
    star = mj.TaskGraph.from_edges(
        cycles=costs, upload_bytes=costs, download_bytes=costs, edges=[(0, child) for child in range(1, 11)]
    )
    monkeypatch.setattr(rollout, "decode_greedily", None)
    with pytest.raises(mj.InputError, match="10 children; accepted: at most neighbour_width = 8"):
        evaluate_set(CONFIG, params, dataclasses.replace(unseen[0], graphs=(star,)), 0, 1)
