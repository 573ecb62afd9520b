"""Every row of a table has one face, and the learned ones differ in configuration alone."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
from helpers import random_dag, to_graph

import mrlato_jax as mj
from mrlato_jax import methods, planners
from mrlato_jax.config import NetworkConfig, TrainConfig
from mrlato_jax.errors import InputError
from mrlato_jax.inference.offloader import Offloader
from mrlato_jax.learning.rollout import init_params
from mrlato_jax.methods import METHODS, LearnedMethod, Method, Prepared, SearchBudget, planned_methods

SYSTEM = mj.System()
TINY = NetworkConfig(units=8, heads=1, layers=1, neighbour_width=8)


@pytest.fixture(scope="module")
def graphs() -> list[mj.TaskGraph]:
    rng = np.random.default_rng(0)
    return [to_graph(random_dag(rng, n, free=0.0)) for n in (5, 3, 1)]


def untrained(method: Method) -> Prepared:
    """What a training of no iterations gives, of a network that compiles quickly."""
    assert isinstance(method, LearnedMethod)
    policy = dataclasses.replace(TINY, decoder_input=method.network.decoder_input, encoder=method.network.encoder)
    params = init_params(policy, jax.random.key(0))
    return Offloader(policy, params, method.name, learning=dataclasses.replace(method.learning, rollouts=2))


def test_all_methods_prepare_adapt_and_plan(graphs: list[mj.TaskGraph]) -> None:
    rows: dict[str, Method] = {**METHODS, **planned_methods(SearchBudget(annealing_steps=20, evaluations=(9,)))}
    spans = {}
    for name, method in rows.items():
        assert method.name == name
        ready = method.prepare(untrained)
        plans = ready.adapt(graphs, SYSTEM, 0).plan(graphs, SYSTEM)
        assert [len(plan.placement) for plan in plans] == [graph.num_tasks for graph in graphs]
        for graph, plan in zip(graphs, plans, strict=True):
            assert plan.makespan == mj.simulate(graph, SYSTEM, plan.placement, plan.order).makespan
        spans[name] = np.array([plan.makespan for plan in plans])
    own_order = {name for name, method in planned_methods().items() if method.own_order}
    for name in spans.keys() - own_order:
        assert (spans[name] >= spans["optimum"] - 1e-12).all(), name
    assert (spans["order search"] <= spans["optimum"]).all()


def test_what_is_drawn_derives_from_the_place_in_the_set(graphs: list[mj.TaskGraph]) -> None:
    planner = planned_methods()["random"]
    first, again = (planner.plan([graphs[0]] * 6, SYSTEM) for _ in range(2))
    placements = {tuple(plan.placement.tolist()) for plan in first}
    assert len(placements) > 1
    assert placements == {tuple(plan.placement.tolist()) for plan in again}


def test_learned_methods_are_configurations() -> None:
    assert list(METHODS) == ["mrlato", "mrlco", "drl", "mrlato_plus", "mrlato_plus_order"]
    assert METHODS["mrlato"].config() == TrainConfig()
    assert {name: (m.network.heads, m.learning.meta_update) for name, m in METHODS.items()} == {
        "mrlato": (8, "reptile"),
        "mrlco": (1, "reptile"),
        "drl": (1, "joint"),
        "mrlato_plus": (8, "reptile_adam"),
        "mrlato_plus_order": (8, "reptile_adam"),
    }
    for name, method in METHODS.items():
        assert methods.label(method.config(seed=3, iterations=9)) == name


@pytest.mark.parametrize(
    ("method", "network", "learning", "run", "label"),
    [
        ("mrlato", {}, {}, {}, "mrlato"),
        ("mrlato", {}, {"outer_lr": 1.5e-3}, {}, "mrlato+outer_lr=0.0015"),
        ("mrlato", {"decoder_input": "task_sim"}, {"outer_lr": 1.5e-3}, {}, "mrlato+task_sim+outer_lr=0.0015"),
        (
            "mrlato",
            {"decoder_input": "task_sim"},
            {"meta_update": "reptile_adam", "outer_lr": 7e-4, "entropy_coef": 0.01},
            {"iterations": 900, "experiment": "exp3", "channel": "mrlco"},
            "mrlato+task_sim+outer_lr=0.0007+entropy_coef=0.01+reptile_adam",
        ),
        ("mrlato", {"units": 64, "layers": 1}, {}, {}, "mrlato+units=64+layers=1"),
        ("mrlato", {"matmul": "tf32", "neighbours": "pooled"}, {}, {}, "mrlato+pooled+tf32"),
        ("mrlato", {"heads": 0, "neighbour_width": 8}, {}, {}, "mrlato+heads=0+neighbour_width=8"),
        ("mrlato", {"lookahead_rules": 1}, {"inner_steps": 1}, {}, "mrlato+lookahead_rules=1+inner_steps=1"),
        (
            "mrlato",
            {},
            {"baseline": "leave_one_out", "gamma": 1.0, "normalise_advantages": False, "reward_scale": "none"},
            {},
            "mrlato+gamma=1.0+leave_one_out+reward_scale=none+normalise_advantages=False",
        ),
        # What is spent is not said, nor what is not looked at.
        ("mrlato", {}, {"meta_batch": 1, "graphs_per_task": 2, "rollouts": 3, "outer_lr_decay": 10**6}, {}, "mrlato"),
        ("mrlato", {}, {"meta_update": "joint", "outer_lr": 0.1}, {}, "mrlato+joint"),
        ("drl", {}, {"outer_lr": 0.1}, {}, "drl"),
        ("drl", {"heads": 8}, {"meta_update": "maml", "outer_lr": 0.1}, {}, "drl+heads=8+outer_lr=0.1+maml"),
        ("mrlco", {"encoder": "bidirectional", "task_features": "outlook"}, {}, {}, "mrlco+outlook+bidirectional"),
        ("mrlato_plus", {}, {}, {"warm_start_iterations": 0}, "mrlato_plus+warm_start_iterations=0"),
        (
            "mrlato_plus",
            {"decides": "order", "decoder_input": "paper", "neighbours": "listed"},
            {"learn_from": "samples", "value_coef": 0.5, "inner_lr_decay": 9, "inner_lr": 5e-4},
            {"warm_start_iterations": 7},
            "mrlato_plus+order+paper+listed+samples+inner_lr=0.0005+inner_lr_decay=9+value_coef=0.5"
            "+warm_start_iterations=7",
        ),
        ("mrlato_plus_order", {"decides": "placement"}, {}, {}, "mrlato_plus_order+placement"),
    ],
)  # fmt: skip
def test_labels_say_what_settings_add(
    method: str, network: dict[str, Any], learning: dict[str, Any], run: dict[str, Any], label: str
) -> None:
    own = METHODS[method]
    changed = {
        "network": dataclasses.replace(own.network, **network),
        "learning": dataclasses.replace(own.learning, **learning),
    }
    assert methods.label(own.config(**changed, **run)) == label


def test_only_ours_are_warm_started_and_learn_from_deviations() -> None:
    ours = ["mrlato_plus", "mrlato_plus_order"]
    begun = {name: method.config().warm_start_config for name, method in METHODS.items()}
    assert [name for name, warm in begun.items() if warm is not None] == ours
    for name in ours:
        warm = begun[name]
        assert warm is not None
        assert (warm.learning.learn_from, warm.learning.meta_update) == ("optimum", "joint")
        assert warm.learning.inner_lr_decay == warm.iterations == METHODS[name].warm_start_iterations
    assert [name for name, method in METHODS.items() if method.learning.learn_from == "deviations"] == ours
    plain, free = (METHODS[name].network for name in ours)
    assert free == dataclasses.replace(plain, decides="order")


@pytest.mark.slow
def test_learning_from_deviations_adapts(graphs: list[mj.TaskGraph]) -> None:
    """A random policy comes to the plans of the look-ahead that it is shown; every decision is tried."""
    policy = untrained(METHODS["mrlato_plus"])
    assert isinstance(policy, Offloader)
    quick = dataclasses.replace(policy, learning=dataclasses.replace(policy.learning, inner_lr=3e-3, rollouts=10))
    adapted = quick.adapt(graphs, SYSTEM, 30)
    before, after = (sum(plan.makespan for plan in ready.plan(graphs, SYSTEM)) for ready in (quick, adapted))
    ahead = sum(planners.look_ahead(graph, SYSTEM).makespan for graph in graphs)
    assert before > 1.1 * ahead
    assert after == pytest.approx(ahead)


def test_adapting_draws_by_seed_and_leaves_the_policy_alone(graphs: list[mj.TaskGraph]) -> None:
    policy = untrained(METHODS["mrlato"])
    assert isinstance(policy, Offloader)
    before = jax.device_get(policy.params)
    first, again, other = (policy.adapt(graphs, SYSTEM, updates=2, seed=seed) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, policy.params, before)
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    moved = [jax.tree.map(lambda a, b: float(abs(a - b).max()), first.params, p.params) for p in (policy, other)]
    assert all(max(jax.tree.leaves(tree)) > 1e-5 for tree in moved)
    assert (first.label, first.network) == (policy.label, policy.network)


@pytest.mark.parametrize("num_graphs", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_lone_tasks_and_equal_dags_give_numbers(num_graphs: int) -> None:
    """One DAG of one task, or several that are alike: every advantage may be zero, and nothing becomes NaN."""
    lone = mj.TaskGraph.from_edges(cycles=[4e7], upload_bytes=[2e4], download_bytes=[2e4], edges=[])
    policy = untrained(METHODS["mrlato"])
    assert isinstance(policy, Offloader)
    adapted = policy.adapt([lone] * num_graphs, SYSTEM, updates=4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(adapted.params))
    assert np.isfinite(adapted.plan(lone, SYSTEM).makespan)


@pytest.mark.parametrize(
    ("call", "phrase"),
    [
        (lambda p, g: p.adapt([], SYSTEM), r"graphs is \[\]; accepted"),
        (lambda p, g: p.adapt(g, SYSTEM, updates=-1), r"updates is -1; accepted: an integer in \[0"),
        (lambda p, g: p.adapt(g, SYSTEM, seed="x"), "seed is 'x'; accepted"),
        (lambda p, g: p.adapt(g, None), "system is None; accepted"),
        (lambda p, g: methods.learned_method("ppo"), "method is 'ppo'; accepted: mrlato, mrlco, drl"),
    ],
)
def test_wrong_input(graphs: list[mj.TaskGraph], call: object, phrase: str) -> None:
    with pytest.raises(InputError, match=phrase):
        call(untrained(METHODS["drl"]), graphs)  # type: ignore[operator]
