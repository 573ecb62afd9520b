"""A run folder becomes a planner that other programs call."""

from __future__ import annotations

import dataclasses
import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from helpers import interrupted_soon, quickly

import mrlato_jax as mj
from mrlato_jax import methods
from mrlato_jax.config import NetworkConfig
from mrlato_jax.inference import offloader
from mrlato_jax.learning import ranges, rollout
from mrlato_jax.learning.learning_task import encoded, learning_task
from mrlato_jax.learning.outer import LearnerState, init_state
from mrlato_jax.training import checkpoint
from mrlato_jax.training.run_folder import RunFolder, checkpoint_meta

CONFIG = tiny_run.CONFIG
SYSTEM = mj.System(uplink_bps=9e6, downlink_bps=5e6)


def make_run(path: Path, *steps: int) -> dict[int, LearnerState]:
    """A run with a checkpoint, of other parameters, at each of `steps`."""
    states = {step: init_state(CONFIG.network, CONFIG.learning, seed=step) for step in steps}
    with RunFolder.create(path, CONFIG, "ab") as run:
        for step, state in states.items():
            checkpoint.save(run.checkpoints, step, state._asdict(), checkpoint_meta(CONFIG, "ab"))
    return states


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    make_run(path, 1, 2)
    return path


@pytest.fixture(scope="module")
def policy(run: Path) -> mj.Offloader:
    return mj.load_offloader(run)


def graphs(*sizes: int, seed: int = 0) -> list[mj.TaskGraph]:
    """Ids in any order, not a topological one."""
    rng = np.random.default_rng(seed)
    found = []
    for size in sizes:
        drawn, new = mj.daggen(size, 0.6, 0.6, rng), rng.permutation(size)
        costs = {}
        for field in ("cycles", "upload_bytes", "download_bytes"):
            costs[field] = np.empty(size)
            costs[field][new] = getattr(drawn, field)
        edges = [(int(new[p]), int(new[c])) for p, c in drawn.edges]
        found.append(mj.TaskGraph.from_edges(**costs, edges=edges))
    return found


def test_newest_checkpoint_of_a_run(tmp_path: Path) -> None:
    states = make_run(tmp_path, 1, 2)
    for source in (tmp_path, str(tmp_path)):
        policy = mj.load_offloader(source)
        jax.tree.map(np.testing.assert_array_equal, policy.params, states[2].params)
        assert policy.network == CONFIG.network
        assert policy.label == methods.label(CONFIG)


def test_torn_newest_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    states = make_run(tmp_path, 1, 2)
    newest = tmp_path / "checkpoints" / "step_00000002.npz"
    newest.write_bytes(newest.read_bytes()[:-1])
    jax.tree.map(np.testing.assert_array_equal, mj.load_offloader(tmp_path).params, states[1].params)
    (line,) = caplog.messages
    assert str(newest) in line


# Plans.


def test_plan_is_timed_by_the_simulator_in_its_order(policy: mj.Offloader) -> None:
    (graph,) = graphs(7)
    plan = policy.plan(graph, SYSTEM)
    np.testing.assert_array_equal(plan.order, mj.priority_order(graph, SYSTEM))
    assert plan.makespan == mj.simulate(graph, SYSTEM, plan.placement).makespan == plan.schedule.makespan
    assert plan.placement.dtype == np.int32
    assert plan.placement.shape == (7,)
    assert type(plan.makespan) is float


def test_placement_is_by_task_id(policy: mj.Offloader) -> None:
    several = graphs(5, 6, 7, 8, seed=1)
    decode = jax.jit(rollout.decode_greedily, static_argnums=0)
    actions, spans = decode(policy.network, policy.params, learning_task(several, SYSTEM, policy.network))
    told_apart = 0
    for graph, row, span in zip(several, actions, spans, strict=True):
        plan = policy.plan(graph, SYSTEM)
        in_order = [plan.placement[task] for task in mj.priority_order(graph, SYSTEM)]
        assert in_order == row[: graph.num_tasks].tolist()
        assert plan.makespan == pytest.approx(float(span), rel=1e-5)
        told_apart += plan.placement.tolist() != in_order
    assert told_apart  # else ids and positions could be mixed up unseen


def test_several_at_once_as_each_alone(policy: mj.Offloader) -> None:
    several = graphs(3, 8, 1, 14, 5, seed=2)
    plans = policy.plan(several, SYSTEM)
    assert isinstance(plans, list)
    assert len(plans) == 5
    for graph, plan in zip(several, plans, strict=True):
        alone = policy.plan(graph, SYSTEM, mode="argmax")
        np.testing.assert_array_equal(plan.placement, alone.placement)
        np.testing.assert_array_equal(plan.order, alone.order)
        assert plan.makespan == alone.makespan
    assert len({tuple(plan.placement) for plan in plans}) > 2
    (only,) = policy.plan((several[0],), SYSTEM)  # a tuple, of one
    assert only.makespan == plans[0].makespan


def test_the_system_matters(policy: mj.Offloader) -> None:
    (graph,) = graphs(8, seed=3)
    for system in (mj.System(), mj.System(channel="mrlco"), mj.System(uplink_bps=1e5, downlink_bps=1e5)):
        plan = policy.plan(graph, system)
        assert plan.makespan == mj.simulate(graph, system, plan.placement).makespan


# Applications larger than any in the data.


def test_three_hundred_tasks_of_any_degree() -> None:
    """A task with 299 children, and a DAG that daggen draws: each as alone, so also padded to another size."""
    large = NetworkConfig(decoder_input="task_sim", units=16, heads=2, layers=1, neighbours="pooled")
    shapes = jax.eval_shape(partial(rollout.init_params, large), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0.1, 0.5, leaf.shape).astype(np.float32), shapes)
    policy = mj.Offloader(large, params, "mrlato+pooled")
    several = [star(299), *graphs(300)]
    plans = policy.plan(several, SYSTEM)
    for graph, plan in zip(several, plans, strict=True):
        alone = policy.plan(graph, SYSTEM)
        np.testing.assert_array_equal(plan.placement, alone.placement)
        assert plan.makespan == mj.simulate(graph, SYSTEM, plan.placement).makespan
        assert 0 < plan.placement.sum() < graph.num_tasks


# Speed: what is compiled once stays compiled.


def test_similar_sizes_share_one_program(policy: mj.Offloader) -> None:
    policy.plan(graphs(8, 8, 8), SYSTEM)
    before = offloader._decode._cache_size()
    for sizes in ((8, 8, 8, 8), (2, 3, 8), (5, 6, 7)):
        policy.plan(graphs(*sizes, seed=4), SYSTEM)
    policy.plan(graphs(7, 2, 4), mj.System(uplink_bps=1e7))
    assert offloader._decode._cache_size() == before
    policy.plan(graphs(9, 9, 9), SYSTEM)
    assert offloader._decode._cache_size() == before + 1


def test_nothing_at_all_is_compiled_for_similar_graphs(policy: mj.Offloader) -> None:
    compiled: list[str] = []
    counting = True

    def listen(name: str, *_: Any, **__: Any) -> None:
        if counting and name == "/jax/core/compile/backend_compile_duration":
            compiled.append(name)

    policy.plan(graphs(8, 8), SYSTEM)
    jax.monitoring.register_event_duration_secs_listener(listen)  # for good: older jax cannot unregister
    policy.plan(graphs(8, 8, seed=5), SYSTEM)
    assert compiled == []
    jax.jit(lambda x: x + 1)(np.zeros(3))
    assert compiled  # the event still has this name
    counting = False


# Bad input.


def test_no_run() -> None:
    with pytest.raises(mj.InputError, match=r"source is 'exp9'; accepted: exp1, .*a run folder, or NAME.safetensors"):
        mj.load_offloader("exp9")


def test_a_run_without_checkpoints(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG, "ab").close()
    with pytest.raises(mj.InputError, match="checkpoints does not exist; accepted: a checkpoint"):
        mj.load_offloader(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(mj.InputError, match=r"has no config\.json"):
        mj.load_offloader(tmp_path / "empty")


def test_only_torn_checkpoints(tmp_path: Path) -> None:
    make_run(tmp_path, 1)
    (tmp_path / "checkpoints" / "step_00000001.npz").write_bytes(b"")
    with pytest.raises(mj.InputError, match="all 1 are broken"):
        mj.load_offloader(tmp_path)


@pytest.mark.parametrize(
    ("at", "value", "phrase"),
    [
        (("config", "policy", "layers"), 2, "config.policy.layers: stored 1, wanted 2"),
        (("config", "seed"), 4, "config.seed: stored 3, wanted 4"),
        (("data_hash",), "cd", "data_hash"),
    ],
    ids=["network", "config", "data"],
)
def test_checkpoint_of_another_run(tmp_path: Path, at: tuple[str, ...], value: Any, phrase: str) -> None:
    make_run(tmp_path, 1)
    record = json.loads((tmp_path / "config.json").read_text())
    inner = record
    for name in at[:-1]:
        inner = inner[name]
    inner[at[-1]] = value
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(mj.InputError, match="saved under other settings") as caught:
        mj.load_offloader(tmp_path)
    assert phrase in str(caught.value)
    assert "\n" not in str(caught.value)


def star(children: int) -> mj.TaskGraph:
    costs = [1e4] * (children + 1)
    edges = [(0, child) for child in range(1, children + 1)]
    return mj.TaskGraph.from_edges(cycles=costs, upload_bytes=costs, download_bytes=costs, edges=edges)


@pytest.mark.parametrize(
    ("wrong", "phrase"),
    [
        ([], r"graph is \[\]; accepted: a TaskGraph or a sequence of at least one"),
        (None, "graph is None; accepted"),
        (3, "graph is 3; accepted"),
        ("app.json", "graph is 'app.json'; accepted: a TaskGraph"),
        (["a"], r"graph\[0\] is 'a'; accepted: a TaskGraph"),
        ([star(1), "b"], r"graph\[1\] is 'b'; accepted: a TaskGraph"),
        ([star(1), [star(1)]], r"graph\[1\] is \[.*accepted: a TaskGraph"),
        (star(9), "graph 0 has a task with 9 children; accepted: at most neighbour_width = 8"),
        ([star(8), star(2), star(9)], "graph 2 has a task with 9 children"),
    ],
)
def test_wrong_graphs(policy: mj.Offloader, monkeypatch: pytest.MonkeyPatch, wrong: Any, phrase: str) -> None:
    monkeypatch.setattr(offloader, "_decode", None)  # refused before any computation
    with pytest.raises(mj.InputError, match=phrase):
        policy.plan(wrong, SYSTEM)


@pytest.mark.parametrize("mode", ["sampled", "ARGMAX", "", None, 1])
def test_unknown_mode(policy: mj.Offloader, mode: Any) -> None:
    with pytest.raises(mj.InputError, match=r"mode is .*; accepted: argmax, sample, search, search_order"):
        policy.plan(star(1), SYSTEM, mode=mode)


def test_wrong_system(policy: mj.Offloader) -> None:
    with pytest.raises(mj.InputError, match="system is None; accepted: a System"):
        policy.plan(star(1), None)


@pytest.mark.parametrize(
    ("systems", "phrase"),
    [
        ([SYSTEM], "system has 1 entries; accepted: a System, or 2, one for each graph"),
        ([SYSTEM, None], r"system\[1\] is None; accepted: a System"),
        (7, "system is 7; accepted: a System, or 2, one for each graph"),
    ],
)
def test_wrong_systems(policy: mj.Offloader, systems: Any, phrase: str) -> None:
    with pytest.raises(mj.InputError, match=phrase):
        policy.plan(graphs(3, 4), systems)


def test_one_graph_has_one_system(policy: mj.Offloader) -> None:
    with pytest.raises(mj.InputError, match=r"system is \[.*; accepted: a System"):
        policy.plan(star(1), [SYSTEM])  # type: ignore[call-overload]


@pytest.mark.parametrize(("size", "samples", "most"), [(30, 2**31, 65_536), (3, 2**20 + 1, 2**20), (600, 164, 163)])
def test_more_samples_than_fit(policy: mj.Offloader, size: int, samples: int, most: int) -> None:
    narrow = mj.daggen(size, 0.1, 0.1, np.random.default_rng(0))
    with pytest.raises(
        mj.InputError, match=f"samples is {samples} for a graph of {size} tasks; accepted: at most {most}$"
    ):
        policy.plan([star(1), narrow], SYSTEM, "sample", samples=samples)


def test_more_updates_than_are_counted(policy: mj.Offloader) -> None:
    with pytest.raises(mj.InputError, match=r"updates is 2147483648; accepted: an integer in \[0, 2147483647\]"):
        policy.adapt(graphs(3), SYSTEM, updates=2**31)


def test_a_long_adaptation_can_be_interrupted(policy: mj.Offloader) -> None:
    with interrupted_soon():
        policy.adapt(graphs(3), SYSTEM, updates=2**31 - 1)


@pytest.mark.parametrize(("option", "value"), [("samples", 0), ("samples", 1.5), ("seed", -1), ("seed", True)])
def test_wrong_options(policy: mj.Offloader, option: str, value: Any) -> None:
    with pytest.raises(mj.InputError, match=f"{option} is {value}; accepted: an integer in"):
        policy.plan(star(1), SYSTEM, "sample", **{option: value})


# What is spent on a plan.


def ordering(seed: int = 0) -> mj.Offloader:
    """A policy, not trained, that chooses the order too."""
    settings = NetworkConfig(
        decides="order", decoder_input="task_sim", units=16, heads=2, layers=1, neighbours="pooled"
    )
    return mj.Offloader(settings, rollout.init_params(settings, jax.random.key(seed)), "orders")


@pytest.mark.parametrize("orders", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_each_mode_is_no_worse_than_the_one_before(policy: mj.Offloader, orders: bool) -> None:
    """And from `sample` on no worse than what needs no learning. An untrained policy shows it: much is to be gained."""
    mine, several = ordering() if orders else policy, graphs(1, 6, 8, 12, seed=6)
    plans = {mode: mine.plan(several, SYSTEM, mode, samples=4, seed=1) for mode in offloader.MODES}
    for i, graph in enumerate(several):
        spans = [plans[mode][i].makespan for mode in offloader.MODES]
        assert spans == sorted(spans, reverse=True)
        simple = (mj.heft, mj.greedy, mj.all_local, mj.all_offload, mj.look_ahead)
        assert spans[1] <= min(planner(graph, SYSTEM).makespan for planner in simple)
        spent = [plans[mode][i].evaluations for mode in offloader.MODES]
        assert spent == sorted(spent)
        assert spent[0] == 0
        assert spent[1] == 4 + 4 + mj.look_ahead(graph, SYSTEM).evaluations  # drawn, simple, and what that one tries
        assert spent[3] >= offloader.ORDER_STEPS
        for found in plans.values():
            again = mj.simulate(graph, SYSTEM, found[i].placement, found[i].order)
            assert again.makespan == found[i].makespan
    sums = [sum(plan.makespan for plan in plans[mode]) for mode in offloader.MODES]
    assert sums[0] > sums[1] > sums[3]


def test_proposals_are_the_policys_own_plans(policy: mj.Offloader) -> None:
    graph = graphs(8, seed=6)[0]
    plans = policy.propose(graph, SYSTEM, samples=4, seed=1)
    spans = [plan.makespan for plan in plans]
    assert spans == sorted(spans)
    assert len({tuple(plan.placement) for plan in plans}) == len(plans) > 2
    likeliest = policy.plan(graph, SYSTEM)
    assert tuple(likeliest.placement) in {tuple(plan.placement) for plan in plans}
    assert {plan.evaluations for plan in plans} == {1 + 4}  # this policy does not look ahead
    for plan in plans:
        assert mj.simulate(graph, SYSTEM, plan.placement, plan.order).makespan == plan.makespan
    more = policy.propose(graph, SYSTEM, samples=64, seed=1)
    assert len(more) <= 17
    assert more[0].makespan < plans[0].makespan  # an untrained policy's draws differ much
    with pytest.raises(mj.InputError, match="samples is 0; accepted"):
        policy.propose(graph, SYSTEM, samples=0)
    with pytest.raises(mj.InputError, match=r"graph is .* accepted: .*TaskGraph"):
        policy.propose([graph], SYSTEM)  # type: ignore[arg-type]


def test_search_finds_what_no_change_of_one_task_betters(policy: mj.Offloader) -> None:
    (graph,) = graphs(9, seed=7)
    plan = policy.plan(graph, SYSTEM, "search")
    for task in range(9):
        changed = plan.placement.copy()
        changed[task] ^= 1
        assert mj.simulate(graph, SYSTEM, changed, plan.order).makespan >= plan.makespan * (1 - 1e-9)


def test_draws_are_the_seeds(policy: mj.Offloader) -> None:
    (graph,) = graphs(8, seed=8)
    first, again = (policy.plan(graph, SYSTEM, "sample", samples=2, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.placement, again.placement)
    best = [policy.plan(graph, SYSTEM, "sample", samples=count).makespan for count in (1, 64)]
    assert best[1] <= best[0]


# Many at once.


def test_every_graph_has_its_own_system(policy: mj.Offloader) -> None:
    """Of other rates, clocks and channels, and of sizes far apart."""
    several = graphs(3, 30, 8, 3, 14, seed=9)
    systems = [
        SYSTEM, mj.System(ue_hz=2e9), mj.System(channel="mrlco"), mj.System(uplink_bps=1e5), mj.System(channel="mrlco")
    ]  # fmt: skip
    plans = policy.plan(several, systems)
    for graph, system, plan in zip(several, systems, plans, strict=True):
        alone = policy.plan(graph, system)
        np.testing.assert_array_equal(plan.placement, alone.placement)
        assert plan.makespan == alone.makespan == mj.simulate(graph, system, plan.placement).makespan


def test_more_than_fit_at_once(policy: mj.Offloader, monkeypatch: pytest.MonkeyPatch) -> None:
    several = graphs(*[5] * 7, seed=10)
    together = policy.plan(several, SYSTEM)
    monkeypatch.setattr(offloader, "MOST_AT_ONCE", 3)
    assert [plan.makespan for plan in policy.plan(several, SYSTEM)] == [plan.makespan for plan in together]


def test_sizes_and_numbers_that_were_seen_are_not_traced_again(policy: mj.Offloader) -> None:
    for mode in ("argmax", "sample"):
        policy.plan(graphs(3, 7), SYSTEM, mode)
    traced = offloader._decode._cache_size(), offloader._sampled._cache_size()
    for mode in ("argmax", "sample"):
        policy.plan(graphs(5, 2, seed=11), mj.System(ue_hz=2e9), mode)
    assert (offloader._decode._cache_size(), offloader._sampled._cache_size()) == traced


def test_threads_get_what_one_gets(policy: mj.Offloader) -> None:
    several = graphs(*range(1, 9), *range(1, 9), seed=12)
    alone = [policy.plan(graph, SYSTEM, "sample", samples=2).makespan for graph in several]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda graph: policy.plan(graph, SYSTEM, "sample", samples=2).makespan, several * 2))
    assert found == alone * 2


# In JAX code of others.


@pytest.mark.parametrize("decoder_input", quickly(["task_sim", "lookahead"], "task_sim"))
def test_the_makespans_gradient_is_that_of_the_plan(decoder_input: str) -> None:
    """A longer time lengthens the policy's own plan by 1 where it is critical, else by 0."""
    network = dataclasses.replace(CONFIG.network, decoder_input=decoder_input, lookahead_rules=2)
    policy = mj.Offloader(network, rollout.init_params(network, jax.random.key(1)), "random")
    arrays = mj.pack(graphs(5, 8, seed=13), SYSTEM)
    decide = jax.jit(lambda policy: policy.decide(arrays))
    actions = decide(policy).placement

    def decided(ue: jax.Array) -> jax.Array:
        return policy.decide(dataclasses.replace(arrays, ue=ue)).makespan.sum()

    def fixed(ue: jax.Array) -> jax.Array:
        return mj.makespan(dataclasses.replace(arrays, ue=ue), actions).sum()

    ours = jax.jit(jax.grad(decided))(jnp.asarray(arrays.ue))
    np.testing.assert_allclose(ours, jax.jit(jax.grad(fixed))(jnp.asarray(arrays.ue)), atol=1e-6)
    assert float(ours.sum()) > 0


def test_inside_other_jitted_code(policy: mj.Offloader) -> None:
    """The policy is an argument; rates are traced by way of the times."""
    several = graphs(5, 8, seed=13)
    arrays = mj.pack(several, SYSTEM)

    @jax.jit
    def slower(policy: mj.Offloader, arrays: mj.DagArrays, factor: jax.Array) -> offloader.Decision:
        return policy.decide(dataclasses.replace(arrays, uplink=arrays.uplink * factor))

    for factor in (1.0, 5.0):
        system = dataclasses.replace(SYSTEM, uplink_bps=SYSTEM.uplink_bps / factor)
        # In the order of the faster link: only where both have the same order are they the same.
        orders = [mj.priority_order(graph, SYSTEM) for graph in several]
        decision = slower(policy, arrays, factor)
        np.testing.assert_array_equal(decision.order, arrays.order)
        for graph, order, row, span in zip(several, orders, decision.placement, decision.makespan, strict=True):
            placement = np.empty(graph.num_tasks, int)
            placement[order] = np.asarray(row)[: graph.num_tasks]
            assert mj.simulate(graph, system, placement, order).makespan == pytest.approx(float(span), rel=1e-5)
    plans = policy.plan(several, SYSTEM)
    assert [plan.makespan for plan in plans] == pytest.approx(slower(policy, arrays, 1.0).makespan.tolist(), rel=1e-5)
    assert slower._cache_size() == 1


def test_as_a_pytree_it_is_its_parameters(policy: mj.Offloader) -> None:
    leaves, structure = jax.tree.flatten(policy)
    assert len(leaves) == len(jax.tree.leaves(policy.params))
    again = jax.tree.unflatten(structure, leaves)
    for name in ("network", "label", "iteration", "learning", "ranges", "curve"):
        assert getattr(again, name) == getattr(policy, name)


def test_another_checkpoint_is_not_traced_again(policy: mj.Offloader) -> None:
    """With another label, iteration and ranges, and adapted; but other settings are another program."""
    arrays, traced = mj.pack(graphs(4, seed=16), SYSTEM), []

    @jax.jit
    def decided(policy: mj.Offloader) -> jax.Array:
        traced.append(policy.label)
        return rollout.decode_greedily(policy.network, policy.params, encoded(arrays, policy.network))[1]

    others = init_state(CONFIG.network, CONFIG.learning, seed=8).params
    later = dataclasses.replace(
        policy,
        params=others,
        label="later",
        iteration=99,
        ranges=ranges.ranges_of([(graphs(4)[0], SYSTEM, mj.Objective())]),
    )
    adapted = policy.adapt(graphs(5, 6, seed=14), SYSTEM, updates=1)
    spans = [float(decided(checkpoint)[0]) for checkpoint in (policy, later, adapted)]
    assert traced == [policy.label]
    assert spans == pytest.approx(
        [checkpoint.plan(graphs(4, seed=16), SYSTEM)[0].makespan for checkpoint in (policy, later, adapted)], rel=1e-5
    )
    assert jax.tree.structure(policy) == jax.tree.structure(later) == jax.tree.structure(adapted)
    assert hash(jax.tree.structure(policy)) == hash(jax.tree.structure(later))
    back = jax.tree.map(lambda leaf: leaf, later)
    assert (back.label, back.iteration, back.ranges) == ("later", 99, later.ranges)
    quicker = dataclasses.replace(policy, learning=dataclasses.replace(policy.learning, inner_lr=0.5))
    assert jax.tree.structure(quicker) != jax.tree.structure(policy)


def test_checkpoints_side_by_side(policy: mj.Offloader) -> None:
    """Policies of one network stack into one that `vmap` runs all at once."""
    arrays = mj.pack(graphs(6, 5, seed=17), SYSTEM)
    checkpoints = [
        dataclasses.replace(policy, params=jax.tree.map(lambda p, k=k: p * k, policy.params), label=str(k))
        for k in (1, -1)
    ]
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *checkpoints)
    decided = jax.jit(lambda policy: policy.decide(arrays).makespan)
    spans = jax.jit(jax.vmap(lambda policy: policy.decide(arrays).makespan))(both)
    np.testing.assert_allclose(spans, [decided(policy) for policy in checkpoints], rtol=1e-6)


def test_decisions_of_a_policy_that_orders_are_of_the_same_kind() -> None:
    mine, several = ordering(), graphs(5, 8, seed=18)
    arrays = mj.pack(several, SYSTEM)
    decision = jax.jit(lambda policy: policy.decide(arrays))(mine)
    moved = 0
    for b, (graph, plan) in enumerate(zip(several, mine.plan(several, SYSTEM), strict=True)):
        n = graph.num_tasks
        np.testing.assert_array_equal(decision.order[b, :n], plan.order)
        np.testing.assert_array_equal(decision.placement[b, :n], plan.placement[plan.order])
        assert float(decision.makespan[b]) == pytest.approx(plan.makespan, rel=1e-5)
        assert np.asarray(decision.order[b, n:]).tolist() == [-1] * (8 - n)
        assert not np.asarray(decision.placement[b, n:]).any()
        moved += plan.order.tolist() != arrays.order[b, :n].tolist()
    assert moved


def test_decide_takes_a_batch(policy: mj.Offloader) -> None:
    one = mj.arrays(mj.pack_graph(graphs(4)[0]), SYSTEM)
    with pytest.raises(mj.InputError, match=r"arrays has a mask of shape \(4,\); accepted: \[B, N\]"):
        policy.decide(one)


# Adapting.


def test_adapting_gives_a_policy_and_its_curve(policy: mj.Offloader) -> None:
    several = graphs(5, 6, seed=14)
    before = jax.tree.map(np.asarray, policy.params)
    adapted = policy.adapt(several, SYSTEM, updates=3)
    curve = adapted.curve
    assert policy.curve is None
    assert curve is not None
    assert curve.latency_s_by_dag.shape == (4, 2)
    assert curve.latency_s.shape == (4,)
    assert curve.latency_s[0] == pytest.approx(np.mean([p.makespan for p in policy.plan(several, SYSTEM)]))
    assert curve.latency_s[-1] == pytest.approx(np.mean([p.makespan for p in adapted.plan(several, SYSTEM)]))
    jax.tree.map(np.testing.assert_array_equal, policy.params, before)
    moved = jax.tree.map(lambda new, old: np.abs(new - old).max(), adapted.params, before)
    assert max(jax.tree.leaves(moved)) > 0


# Saving.


def test_what_is_saved_is_loaded_again(policy: mj.Offloader, tmp_path: Path) -> None:
    ranged = dataclasses.replace(
        policy, iteration=7, label="mine+x", ranges=ranges.ranges_of([(graphs(5)[0], SYSTEM, mj.Objective())]),
        learning=dataclasses.replace(policy.learning, inner_lr=0.125),
    )  # fmt: skip
    path = ranged.save(tmp_path / "new" / "mine.v2")
    assert path == tmp_path / "new" / "mine.v2.safetensors"
    assert sorted(file.name for file in path.parent.iterdir()) == ["mine.v2.json", "mine.v2.safetensors"]
    again = mj.load_offloader(path)
    jax.tree.map(np.testing.assert_array_equal, again.params, policy.params)
    for name in ("network", "label", "iteration", "learning", "ranges"):
        assert getattr(again, name) == getattr(ranged, name)
    assert policy.save(str(path)) == path  # with the ending; and in place of what was there
    assert mj.load_offloader(path).label == policy.label


@pytest.mark.parametrize("name", ["exp2", "general"])
def test_a_shipped_policy_is_saved_and_loaded(name: str, tmp_path: Path) -> None:
    """Its learning rate ends with its training, which the file of a saved policy does not describe."""
    shipped = mj.load_offloader(name)
    assert shipped.learning.outer_lr_decay > 0
    again = mj.load_offloader(shipped.save(tmp_path / "mine"))
    assert again.learning == shipped.learning
    assert again.iteration == shipped.iteration
    jax.tree.map(np.testing.assert_array_equal, again.params, shipped.params)


def test_an_adapted_policy_is_saved_too(policy: mj.Offloader, tmp_path: Path) -> None:
    several = graphs(5, 6, seed=14)
    adapted = policy.adapt(several, SYSTEM, updates=1)
    again = mj.load_offloader(adapted.save(tmp_path / "adapted"))
    assert again.curve is None
    assert [plan.makespan for plan in again.plan(several, SYSTEM)] == [
        plan.makespan for plan in adapted.plan(several, SYSTEM)
    ]


def test_what_cannot_be_saved(policy: mj.Offloader, tmp_path: Path) -> None:
    for wrong in (3, None, "", "/"):
        with pytest.raises(mj.InputError, match=f"stem is {wrong!r}; accepted: a path"):
            policy.save(wrong)  # type: ignore[arg-type]
    (tmp_path / "file").write_text("")
    with pytest.raises(mj.InputError, match=r"folder is .*file: .*; accepted: a folder to write in"):
        policy.save(tmp_path / "file" / "mine")
    broken = dataclasses.replace(policy, params=jax.tree.map(lambda leaf: leaf * np.nan, policy.params))
    with pytest.raises(
        mj.InputError, match=r"params has NaN or infinite numbers in params/.*; accepted: finite numbers"
    ):
        broken.save(tmp_path / "nan")
    assert not list(tmp_path.glob("nan*"))


# Applications unlike those of training.


def test_what_is_out_of_range_is_named(policy: mj.Offloader) -> None:
    known = [(graph, SYSTEM, mj.Objective()) for graph in graphs(5, 8, 12, seed=15)]
    ranged = dataclasses.replace(policy, ranges=ranges.ranges_of(known))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranged.plan([graph for graph, *_ in known], SYSTEM)
        policy.plan(graphs(40), SYSTEM)  # of which nothing is known
    with pytest.warns(mj.OutsideTrainingWarning) as caught:
        plan = ranged.plan(graphs(40, seed=15)[0], SYSTEM)
    (warning,) = caught
    assert "tasks is 40 (5 to 12 in training), tasks a level is" in str(warning.message)
    assert warning.filename == __file__
    assert plan.makespan > 0
    with pytest.warns(
        mj.OutsideTrainingWarning, match="outside the training range; plans may be poor: upload time / local time is"
    ):
        ranged.plan([known[0][0]], dataclasses.replace(SYSTEM, uplink_bps=1e3))
    with pytest.warns(mj.OutsideTrainingWarning, match=r"tasks of graph\[1\] is 40 \(5 to 12 in training\)"):
        ranged.plan([known[0][0], graphs(40, seed=15)[0]], SYSTEM)
    nothing = mj.TaskGraph.from_edges(cycles=[0.0] * 6, upload_bytes=[1.0] * 6, download_bytes=[1.0] * 6, edges=[])
    with pytest.warns(mj.OutsideTrainingWarning, match="local time is inf"):
        ranged.plan(nothing, SYSTEM)


def test_ranges_by_hand() -> None:
    graph = mj.TaskGraph.from_edges(
        cycles=[1e9, 3e9, 2e9], upload_bytes=[0, 7e6 / 8, 0], download_bytes=[0, 0, 7e6], edges=[(0, 1), (0, 2)]
    )
    assert ranges.measure(graph, mj.System()) == pytest.approx(
        {
            "tasks": 3, "tasks a level": 1.5, "edges a task": 2 / 3, "upload time / local time": 1 / 6,
            "download time / local time": 8 / 6, "VM time / local time": 0.1, "longest local time / mean": 1.5,
            "servers": 1, "radios": 1, "results that stay": 0, "pinned tasks / tasks": 0,
            "price of a second's energy / price of a second": 0,
        }
    )  # fmt: skip


def test_what_takes_hardly_any_time_is_not_unlike_training() -> None:
    """Data of a few bytes beside gigacycles, as workflows have them; a link that is in fact slow still is."""
    known = (("upload time / local time", 0.001, 2.0), ("download time / local time", 0.001, 2.0))
    graph = mj.TaskGraph.from_edges(cycles=[3e12] * 2, upload_bytes=[9.0] * 2, download_bytes=[0.0] * 2, edges=[(0, 1)])
    assert ranges.outside(known, [(graph, mj.System(), mj.Objective())]) is None
    slow = ranges.outside(known, [(graph, mj.System(uplink_bps=1e-3), mj.Objective())])
    assert slow is not None
    assert "upload time / local time is 24 (0.001 to 2 in training)" in slow


def test_draws_do_not_depend_on_the_other_graphs(policy: mj.Offloader) -> None:
    several = graphs(8, 8, 7, seed=16)
    together = policy.plan(several, SYSTEM, "sample", samples=8, seed=5)
    for graph, plan in zip(several, together, strict=True):
        np.testing.assert_array_equal(policy.plan(graph, SYSTEM, "sample", samples=8, seed=5).placement, plan.placement)


@pytest.mark.parametrize(
    ("cycles", "phrase"), [(1e50, r"the times overflow float32, together 1\.1e\+41 s"), (1e-30, r"a time is .*e-40 s")]
)
def test_times_that_float32_does_not_hold(policy: mj.Offloader, cycles: float, phrase: str) -> None:
    graph = mj.TaskGraph.from_edges(cycles=[cycles], upload_bytes=[1.0], download_bytes=[1.0], edges=[])
    for call in (policy.plan, lambda graph, system: policy.decide(mj.pack([graph], system, dtype=np.float64))):
        with pytest.raises(mj.InputError, match=phrase):
            call(graph, mj.System())
