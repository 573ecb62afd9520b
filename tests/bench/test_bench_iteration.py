"""The parts of a meta-iteration are the whole of it, and their FLOPs are what XLA counts."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from functools import partial
from typing import Any

import by_hand
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quickly

from mrlato_jax.bench import flops, growth, iteration, startup
from mrlato_jax.bench.iteration import Workload
from mrlato_jax.bench.parts import Parts, parts_of
from mrlato_jax.bench.timing import random_graphs
from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.learning import devices, rollout
from mrlato_jax.learning.flat import flat
from mrlato_jax.learning.learning_task import learning_task
from mrlato_jax.learning.losses import Batch, inner_loss
from mrlato_jax.learning.meta_batch import meta_batches
from mrlato_jax.mec.system import System

TINY = NetworkConfig(units=8, heads=2, layers=1, neighbour_width=4)
SMALL = Workload(meta_batch=2, graphs=2, rollouts=2, num_tasks=5, inner_steps=2, network=TINY)


@pytest.fixture(scope="module")
def prepared() -> iteration.Prepared:
    return iteration.prepare(SMALL)


@pytest.fixture(scope="module")
def compiled(prepared: iteration.Prepared) -> iteration.Iteration:
    return iteration.compile_iteration(prepared)


@pytest.mark.slow
def test_the_parts_are_the_iteration(prepared: iteration.Prepared, compiled: iteration.Iteration) -> None:
    """Run one after the other, on the tasks and with the keys that the iteration draws, they give its theta."""
    policy, learning, _, states, pool = prepared
    batch = meta_batches(pool, learning, jax.vmap(jax.random.fold_in)(states.key, states.iteration))
    params = jax.tree.map(lambda leaf: leaf[0], states.params)
    parts = parts_of(policy, learning, batched=False)
    adapted = []
    for index, key in zip(batch.set, batch.key, strict=True):
        task = jax.tree.map(lambda leaf, index=index: leaf[index, 0], pool.learning_tasks)
        trajectories, pullback = parts.sampling(params, task, jax.random.split(key)[1])
        advantages = parts.advantages(task, trajectories)
        adapted.append(parts.gradient_steps(params, task, trajectories, pullback, advantages))
    stacked = jnp.stack([flat(params) for params in adapted])
    expected = parts.outer_update(states, stacked, batch)

    before = jax.tree.map(np.asarray, states.params)
    after, _ = compiled(jax.tree.map(jnp.copy, states))
    moved, wanted = (jax.tree.map(lambda new, old: new - old, theta, before) for theta in (after.params, expected))
    chex.assert_trees_all_close(moved, wanted, rtol=2e-3, atol=2e-6)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(wanted)) > 1e-4  # it moved


@pytest.mark.slow
def test_figures_of_an_iteration(
    prepared: iteration.Prepared, compiled: iteration.Iteration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iteration, "matmul_peak", lambda: 50.0)
    monkeypatch.setattr(iteration, "compile_iteration", lambda _: compiled)
    figures = iteration.iteration(SMALL, repeats=1)
    parts = [figures[f"{name}_seconds"] for name in Parts._fields]  # gradient steps are the third
    assert min(parts) > 0
    assert figures["parts_fraction_of_whole"] == pytest.approx(sum(parts) / figures["seconds"])
    assert 0.1 < figures["parts_fraction_of_whole"] < 10  # so small a case measures the calls, not the work
    assert figures["decisions_per_second"] == pytest.approx(2 * 2 * 2 * 5 / figures["seconds"])
    size = (TINY, 2, 2, 5, prepared.pool.learning_tasks.features.shape[-1])
    whole = 2 * 2 * flops.gradient(*size) / 1e9  # two tasks, two steps
    gradient = whole - 2 * flops.forward(*size) / 1e9  # the sampling is the first one's forward pass
    assert figures["matmul_gflop"] == pytest.approx(whole)
    assert figures["gradient_steps_matmul_gflop"] == pytest.approx(gradient)
    assert figures["fraction_of_matmul_peak"] == pytest.approx(figures["matmul_gflop"] / figures["seconds"] / 50)
    assert figures["gradient_steps_fraction_of_matmul_peak"] == pytest.approx(gradient / parts[2] / 50)
    assert (figures["meta_batch"], figures["graphs"], figures["rollouts"], figures["num_tasks"]) == (2, 2, 2, 5)


def counts(what: str, units: int, num_tasks: int, decoder_input: str) -> np.ndarray:
    """FLOPs of the forward pass or of a gradient as XLA counts them, loops unrolled, and as we do."""
    graphs = rollouts = 8
    policy = NetworkConfig(units=units, heads=1, neighbour_width=8, decoder_input=decoder_input)
    task = learning_task(random_graphs(graphs, num_tasks, seed=0), System(), policy)
    params = jax.eval_shape(partial(rollout.init_params, policy), jax.random.key(0))
    values = jnp.ones((graphs, rollouts, num_tasks))
    actions = values.astype(jnp.int32)
    batch = Batch(actions, actions, values, values, values, task.dags.mask[:, None])

    def loss(params: Any) -> jax.Array:
        return inner_loss(LearningConfig(), batch, by_hand.score(policy, params, task, batch.actions))[0]

    def sample(params: Any) -> Any:
        return rollout.sample(policy, params, task, jax.random.key(0), rollouts)

    size = (policy, graphs, rollouts, num_tasks, task.features.shape[-1])
    function, ours = {"forward": (sample, flops.forward), "gradient": (jax.grad(loss), flops.gradient)}[what]
    return np.array([jax.jit(function).lower(params).cost_analysis()["flops"], ours(*size)])


@pytest.fixture
def unrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA counts the body of a loop once, and what a checkpoint computes twice twice."""
    scan = jax.lax.scan
    monkeypatch.setattr(jax.lax, "scan", lambda *args, **kwargs: scan(*args, **{**kwargs, "unroll": True}))
    monkeypatch.setattr(jax, "checkpoint", lambda function, **_: function)


@pytest.mark.usefixtures("unrolled")
@pytest.mark.parametrize("decoder_input", quickly(["paper", "task_sim"], "paper"))
def test_flops_are_what_xla_counts(decoder_input: str) -> None:
    small, wide = (counts("gradient", units, 2, decoder_input) for units in (64, 128))
    # All of it: elementwise work, which is not counted, comes to a few per cent of the products at 128 units.
    for xla, ours in (wide, counts("forward", 128, 2, decoder_input)):
        assert 1 < xla / ours < 1.04
    # What grows with the square of the width has no elementwise part: the kernels, to half a per cent.
    xla, ours = wide - 2 * small
    assert xla == pytest.approx(ours, rel=5e-3)


@pytest.mark.usefixtures("unrolled")
def test_flops_of_attention_are_what_xla_counts() -> None:
    short, long = (counts("gradient", 64, num_tasks, "paper") for num_tasks in (2, 4))
    xla, ours = long - 2 * short  # what grows with the square of n: its two products, and the softmax of one head
    assert xla == pytest.approx(ours, rel=0.1)


def test_flops_grow_with_each_size_as_the_equations_say() -> None:
    size = (NetworkConfig(), 3, 4, 5, 69)
    encoded = 3 * 5 * (69 * 128 + 2 * 2 * 128 * 512 + 2 * 128 * 128)
    decided = 3 * 4 * 5 * ((3 + 128) * 512 + 3 * 128 * 512 + 2 * 128 * 128 + 2 * 128 * 5 + 128 * 3)
    assert flops.forward(*size) == 2 * (encoded + decided)
    assert flops.gradient(*size) == 6 * (encoded + decided) - 2 * 3 * 5 * 69 * 128


def test_growth_measures_each_axis_and_shared_points_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Workload] = []

    def train(workload: Workload) -> float:
        trained.append(workload)
        return float(workload.decisions)

    monkeypatch.setattr(growth, "training_seconds", train)
    monkeypatch.setattr(growth, "seconds_on_devices", lambda workload, count: workload.meta_batch / count)
    monkeypatch.setattr(growth, "without_learning", lambda workload: {"simulator_seconds": float(workload.graphs)})
    monkeypatch.setattr(growth, "_MOST_DECISIONS", 100)
    base = dataclasses.replace(SMALL, meta_batch=1)
    figures = growth.growth({"num_tasks": (5, 7), "rollouts": (2, 3, 1000), "devices": (1, 2)}, base)
    sizes = {"meta_batch": 1, "graphs": 2, "rollouts": 2, "num_tasks": 5, "inner_steps": 2}
    assert figures == {
        "base": sizes | {"meta_batch_on_devices": 8},
        "num_tasks": {
            "5": {"simulator_seconds": 2.0, "training_seconds": 20.0},
            "7": {"simulator_seconds": 2.0, "training_seconds": 28.0},
        },
        "rollouts": {"2": {"training_seconds": 20.0}, "3": {"training_seconds": 30.0}, "1000": {}},
        "devices": {"1": {"training_seconds": 8.0}, "2": {"training_seconds": 4.0}},
    }
    assert len(trained) == len(set(trained)) == 3


@pytest.mark.parametrize("full", [False, True])
def test_axes_name_sizes_of_a_workload(full: bool) -> None:
    for axis, values in growth.axes(full).items():
        assert axis == "devices" or hasattr(growth.BASE, axis)
        assert list(values) == sorted(set(values))
        assert min(values) >= 1


@pytest.mark.slow
def test_devices_are_cores_of_a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = "[jax.device_count(), devices.cores(), workload.graphs]"
    monkeypatch.setattr(growth, "_MEASURE", f'import jax; print(json.dumps({{"seconds": {counted}}}))')
    for count in (1, devices.cores()):
        assert growth.seconds_on_devices(SMALL, count) == [count, count, SMALL.graphs]


@pytest.mark.slow
def test_growth_of_the_real_thing() -> None:
    policy = dataclasses.replace(growth.BASE.network, units=8, heads=2, layers=1)
    base = dataclasses.replace(SMALL, meta_batch=1, network=policy)
    figures = growth.growth({"num_tasks": (30,), "devices": (min(2, devices.cores()),)}, base)
    assert set(figures["num_tasks"]["30"]) == {"simulator_seconds", "planning_seconds", "training_seconds"}
    assert min(figures["num_tasks"]["30"].values()) > 0
    assert [row["training_seconds"] > 0 for row in figures["devices"].values()] == [True]


def test_startup_subtracts_the_right_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    caches: list[str] = []

    def start(workload: Workload, cache: str) -> dict[str, float]:
        caches.append(cache)
        clocks = {"launched": 0.0, "started": 1.0, "jax": 3.0, "package": 6.0, "prepared": 10.0}
        return (
            {**clocks, "compiled": 30.0, "done": 31.0} if len(caches) == 1 else {**clocks, "compiled": 11, "done": 12}
        )

    monkeypatch.setattr(startup, "_start", start)
    figures = startup.startup(SMALL)
    assert figures.pop("cold") == {"compile_seconds": 20.0, "first_iteration_seconds": 31.0}
    assert figures.pop("cached") == {"compile_seconds": 1.0, "first_iteration_seconds": 12.0}
    assert (figures["import_jax_seconds"], figures["import_mrlato_jax_seconds"]) == (2.0, 3.0)
    assert caches[0] == caches[1] != tempfile.gettempdir()  # filled by the first, read by the second


@pytest.mark.slow
def test_startup_is_colder_without_a_cache() -> None:
    figures = json.loads(json.dumps(startup.startup(SMALL)))
    assert 0 < figures["cached"]["compile_seconds"] < figures["cold"]["compile_seconds"]
    assert 0.01 < figures["import_jax_seconds"] < figures["cold"]["first_iteration_seconds"]
    assert figures["import_mrlato_jax_seconds"] > 0
    cold = figures["cold"]
    assert cold["compile_seconds"] + figures["import_jax_seconds"] < cold["first_iteration_seconds"] < 300
