"""A run folder becomes a planner that other programs call."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run

import mrlato_jax as mj
from mrlato_jax import methods
from mrlato_jax.config import PolicyConfig
from mrlato_jax.experiments import checkpoint
from mrlato_jax.experiments.run_folder import RunFolder, checkpoint_meta
from mrlato_jax.learning import rollout
from mrlato_jax.learning.outer import LearnerState, init_state
from mrlato_jax.learning.tasks import learning_task
from mrlato_jax.methods import learned

CONFIG = tiny_run.CONFIG
SYSTEM = mj.System(uplink_bps=9e6, downlink_bps=5e6)


def make_run(path: Path, *steps: int) -> dict[int, LearnerState]:
    """A run with a checkpoint, of other parameters, at each of `steps`."""
    states = {step: init_state(CONFIG.policy, CONFIG.learning, seed=step) for step in steps}
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
        assert policy.policy == CONFIG.policy
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
    actions, spans = decode(policy.policy, policy.params, learning_task(several, SYSTEM, policy.policy))
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
    large = PolicyConfig(decoder_input="task_sim", units=16, heads=2, layers=1, neighbours="pooled")
    shapes = jax.eval_shape(partial(rollout.init_params, large), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0.1, 0.5, leaf.shape).astype(np.float32), shapes)
    policy = mj.Offloader(large, params, "mrlato+pooled")
    several = [star(299), *graphs(300, 90)]
    plans = policy.plan(several, SYSTEM)
    for graph, plan in zip(several, plans, strict=True):
        alone = policy.plan(graph, SYSTEM)
        np.testing.assert_array_equal(plan.placement, alone.placement)
        assert plan.makespan == mj.simulate(graph, SYSTEM, plan.placement).makespan
        assert 0 < plan.placement.sum() < graph.num_tasks


# Speed: what is compiled once stays compiled.


def test_similar_sizes_share_one_program(policy: mj.Offloader) -> None:
    policy.plan(graphs(8, 8, 8), SYSTEM)
    before = learned._decode._cache_size()
    for sizes in ((8, 8, 8, 8), (2, 3, 8), (5, 6, 7)):
        policy.plan(graphs(*sizes, seed=4), SYSTEM)
    policy.plan(graphs(7, 2, 4), mj.System(uplink_bps=1e7))
    assert learned._decode._cache_size() == before
    policy.plan(graphs(9, 9, 9), SYSTEM)
    assert learned._decode._cache_size() == before + 1


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
    with pytest.raises(mj.InputError, match=r"source is 'exp9'; accepted: exp1, .*or the path of a run folder"):
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
        ("ab", r"graph\[0\] is 'a'; accepted: a TaskGraph"),
        ([star(1), "b"], r"graph\[1\] is 'b'; accepted: a TaskGraph"),
        ([star(1), [star(1)]], r"graph\[1\] is \[.*accepted: a TaskGraph"),
        (star(9), "graph 0 has a task with 9 children; accepted: at most neighbour_width = 8"),
        ([star(8), star(2), star(9)], "graph 2 has a task with 9 children"),
    ],
)
def test_wrong_graphs(policy: mj.Offloader, monkeypatch: pytest.MonkeyPatch, wrong: Any, phrase: str) -> None:
    monkeypatch.setattr(learned, "_decode", None)  # refused before any computation
    with pytest.raises(mj.InputError, match=phrase):
        policy.plan(wrong, SYSTEM)


@pytest.mark.parametrize("mode", ["sampled", "ARGMAX", "", None, 1])
def test_unknown_mode(policy: mj.Offloader, mode: Any) -> None:
    with pytest.raises(mj.InputError, match=r"mode is .*; accepted: argmax"):
        policy.plan(star(1), SYSTEM, mode=mode)


def test_wrong_system(policy: mj.Offloader) -> None:
    with pytest.raises(mj.InputError, match="system is None; accepted: a System"):
        policy.plan(star(1), None)
