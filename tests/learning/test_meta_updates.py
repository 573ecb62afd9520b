"""The other outer steps: fomaml and maml, taken after adapting, and joint training, which has no inner loop."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import random_dag, to_graph

import mrlato_jax as mj
from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.learning import inner, maml, meta_batch, outer, rollout
from mrlato_jax.learning.learning_task import LearningTask, learning_task, stack
from mrlato_jax.learning.losses import inner_loss
from mrlato_jax.learning.meta_batch import TaskPool

POLICY = NetworkConfig(decoder_input="task", units=8, heads=2, layers=1, neighbour_width=8)
LEARNING = LearningConfig(inner_lr=2e-2, outer_lr=1e-2, inner_steps=3, meta_batch=3, graphs_per_task=2, rollouts=4)
SIZES = (6, 3, 6, 4)
KEY = jax.random.key(5)


def with_update(meta_update: str, **changes: Any) -> LearningConfig:
    return dataclasses.replace(LEARNING, meta_update=meta_update, **changes)


@pytest.fixture(scope="module")
def pool() -> TaskPool:
    rng = np.random.default_rng(1)
    sets = []
    for size in SIZES:
        graphs = [to_graph(random_dag(rng, n, free=0.0)) for n in (size, *rng.integers(1, size, 2))]
        systems = [mj.System(uplink_bps=rate, downlink_bps=rate) for rate in (4e6, 12e6)]
        sets.append(stack([learning_task(graphs, system, POLICY, num_positions=max(SIZES)) for system in systems]))
    return TaskPool(stack(sets), SIZES)


@pytest.fixture(scope="module")
def task(pool: TaskPool) -> LearningTask:
    return jax.tree.map(lambda leaf: leaf[0, 1], pool.learning_tasks)


@pytest.fixture(scope="module")
def params() -> Any:
    return rollout.init_params(POLICY, jax.random.key(0))


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


gradient_after = jax.jit(maml.adapted_gradient, static_argnames=("network", "learning"))


@pytest.mark.slow
def test_fomaml_is_the_gradient_at_theta_prime_on_trajectories_of_its_own(params: Any, task: LearningTask) -> None:
    learning = with_update("fomaml", inner_steps=1)
    gradient, metrics = gradient_after(POLICY, learning, params, task, KEY)
    graphs_key, adapt_key, fresh_key = jax.random.split(KEY, 3)
    drawn = inner.draw_graphs(task, graphs_key, 2)
    adapted, expected = inner.inner_adapt(POLICY, learning, params, drawn, adapt_key)
    batch, _, latency = jax.jit(partial(by_hand.collect, POLICY, LEARNING))(adapted, drawn, fresh_key)

    def loss(params: Any) -> jax.Array:
        return inner_loss(LEARNING, batch, by_hand.score(POLICY, params, drawn, batch.actions))[0]

    want = jax.jit(jax.grad(loss))(adapted)
    np.testing.assert_allclose(flat(gradient), flat(want), rtol=1e-3, atol=2e-6)
    assert metrics.latency == pytest.approx(float(expected.latency), rel=1e-5)
    assert latency != pytest.approx(float(expected.latency), rel=1e-6)
    at_theta = jax.jit(jax.grad(loss))(params)
    assert np.abs(flat(gradient) - flat(at_theta)).max() > 1e-2  # the place matters


@pytest.mark.slow
def test_maml_differentiates_through_the_adam_steps(params: Any, task: LearningTask) -> None:
    """Against central differences of (what is sampled held fixed) loss after m steps, along random directions."""
    with jax.enable_x64(True):
        learning = with_update("maml", inner_steps=2)
        params, task = (jax.tree.map(_double, tree) for tree in (params, task))
        graphs_key, adapt_key, fresh_key = jax.random.split(KEY, 3)
        drawn = inner.draw_graphs(task, graphs_key, 2)
        collect = jax.jit(partial(by_hand.collect, POLICY, learning))
        first, _, _ = collect(params, drawn, jax.random.split(adapt_key)[1])
        adapted, _ = inner.inner_adapt(POLICY, learning, params, drawn, adapt_key)
        second, _, _ = collect(adapted, drawn, fresh_key)
        optimizer = optax.adam(learning.inner_lr, eps_root=1e-16)

        def loss_on(batch: Any, params: Any) -> jax.Array:
            return inner_loss(learning, batch, by_hand.score(POLICY, params, drawn, batch.actions))[0]

        @jax.jit
        def after_adapting(params: Any) -> jax.Array:
            state = optimizer.init(params)
            for _ in range(2):
                updates, state = optimizer.update(jax.grad(partial(loss_on, first))(params), state)
                params = optax.apply_updates(params, updates)
            return loss_on(second, params)

        gradient, _ = gradient_after(POLICY, learning, params, task, KEY)
        assert np.isfinite(flat(gradient)).all()
        slope = jax.jit(jax.grad(partial(loss_on, first)))(params)
        rng = np.random.default_rng(2)
        for _ in range(3):
            direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)
            # Not where Adam's first step flips a sign: only parameters that have a clear gradient are moved.
            direction = jax.tree.map(lambda d, s: jnp.where(jnp.abs(s) > 1e-3, d, 0), direction, slope)
            step = 1e-6
            ahead, behind = (
                after_adapting(jax.tree.map(lambda p, d, t=t: p + t * d, params, direction)) for t in (step, -step)
            )
            along = sum(float((g * d).sum()) for g, d in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True))
            assert along == pytest.approx(float(ahead - behind) / (2 * step), rel=1e-3, abs=1e-5)


def _double(leaf: jax.Array) -> jax.Array:
    return leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf


def test_maml_takes_the_gradient_back_to_theta_and_fomaml_does_not(
    task: LearningTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An inner loop and a loss that can be differentiated by hand: theta' = theta - theta^2 / 10, loss = theta'^2."""
    seen: dict[str, Any] = {}

    def adapt(_: Any, __: Any, theta: jax.Array, drawn: LearningTask, key: jax.Array) -> tuple[jax.Array, str]:
        seen["adapted on"] = drawn.heft
        return theta - theta**2 / 10, 3.0 * theta

    def slope(_: Any, __: Any, theta: jax.Array, drawn: LearningTask, draws: inner.Draws) -> tuple[jax.Array]:
        seen["measured on"] = drawn.heft
        return (2 * theta,)

    monkeypatch.setattr(maml, "inner_adapt", adapt)
    monkeypatch.setattr(maml, "gradient", slope)
    theta = jnp.array([1.0, -2.0, 0.0])
    adapted = theta - theta**2 / 10
    past, metrics = maml.adapted_gradient(POLICY, with_update("fomaml"), theta, task, KEY)
    through, same = maml.adapted_gradient(POLICY, with_update("maml"), theta, task, KEY)
    np.testing.assert_allclose(past, 2 * adapted, rtol=1e-6)
    np.testing.assert_allclose(through, 2 * adapted * (1 - theta / 5), rtol=1e-6)
    np.testing.assert_array_equal(metrics, 3.0 * theta)
    np.testing.assert_array_equal(same, metrics)
    assert len(seen["adapted on"]) == 2  # of three DAGs
    np.testing.assert_array_equal(seen["adapted on"], seen["measured on"])


def test_adams_derivative_is_finite_where_a_gradient_is_zero() -> None:
    def step(slope: jax.Array, meta_update: str) -> jax.Array:
        optimizer = inner.inner_optimizer(with_update(meta_update))
        return optimizer.update(slope, optimizer.init(slope))[0]

    slope = jnp.array([0.0, 1e-3, -2.0])
    assert np.isfinite(jax.jacobian(partial(step, meta_update="maml"))(slope)).all()
    assert not np.isfinite(jax.jacobian(partial(step, meta_update="reptile"))(slope)).all()  # so the guard is needed
    np.testing.assert_allclose(step(slope, "maml"), step(slope, "reptile"), rtol=1e-4)


@pytest.mark.parametrize("meta_update", ["fomaml", "maml"])
def test_the_mean_gradient_goes_through_adam(meta_update: str, pool: TaskPool, monkeypatch: pytest.MonkeyPatch) -> None:
    learning = with_update(meta_update)
    theta = {"w": jnp.array([[0.3, -0.2]])}

    def cheap(_: Any, __: Any, params: Any, task: LearningTask, key: jax.Array) -> tuple[Any, jax.Array]:
        return jax.tree.map(lambda leaf: leaf * task.features.mean(), params), task.features.mean()

    monkeypatch.setattr(outer, "adapted_gradient", cheap)
    optimizer = optax.adam(learning.outer_lr)
    state = outer.LearnerState(theta, jax.vmap(optimizer.init)(theta), jnp.zeros(1, jnp.int32), KEY[None])
    after, _ = outer.iterate(POLICY, learning, "vmap", None, state, pool)
    sets, variants = meta_batch.draw_meta_batch(pool, jax.random.split(jax.random.fold_in(KEY, 0))[0], 3)
    visits = [float(pool.learning_tasks.features[s, v].mean()) for s, v in zip(sets, variants, strict=True)]
    single = theta["w"][0]
    updates, _ = optimizer.update({"w": single * np.mean(visits)}, optimizer.init({"w": single}))
    np.testing.assert_allclose(after.params["w"][0], single + updates["w"], rtol=1e-5)


@pytest.mark.slow
def test_on_the_network_both_gradients_are_finite_and_not_the_same(params: Any, task: LearningTask) -> None:
    """One inner step, so that it compiles in seconds; Adam's first is almost a sign, so little comes through it."""
    found = {}
    for meta_update in ("fomaml", "maml"):
        learning = with_update(meta_update, inner_steps=1)
        gradient, metrics = gradient_after(POLICY, learning, params, task, KEY)
        found[meta_update] = flat(gradient)
        assert np.isfinite(found[meta_update]).all()
        assert np.isfinite(flat(metrics)).all()
    past, through = found["fomaml"], found["maml"]
    assert np.abs(past).max() > 1e-2
    assert 1e-4 < np.abs(past - through).max() < np.abs(past).max()


@pytest.mark.parametrize("task_axis", ["vmap", pytest.param("map", marks=pytest.mark.slow)])
def test_joint_steps_are_those_of_one_pooled_batch(task_axis: str, pool: TaskPool) -> None:
    """Two iterations of two seeds, sizes mixed, beside Adam on one batch that holds the DAGs of all tasks."""
    learning = with_update("joint")
    states = outer.init_states(POLICY, learning, [0, 1])
    step = jax.jit(lambda states: outer.iterate(POLICY, learning, task_axis, None, states, pool))
    optimizer = optax.adam(learning.inner_lr)
    theta = [jax.tree.map(lambda leaf, s=s: leaf[s], states.params) for s in (0, 1)]
    moments = [optimizer.init(params) for params in theta]
    update = jax.jit(optimizer.update)
    collect = jax.jit(partial(by_hand.collect, POLICY, learning))
    gradient = jax.jit(partial(by_hand.scoring_gradient, POLICY, learning))

    def pad(leaf: jax.Array) -> jax.Array:  # of a batch
        return jnp.pad(leaf, [*[(0, 0)] * (leaf.ndim - 1), (0, max(SIZES) - leaf.shape[-1])])

    for iteration in range(2):
        states, metrics = step(states)
        for s in (0, 1):
            key = jax.random.fold_in(outer.init_state(POLICY, learning, s).key, iteration)
            draw_key, task_key = jax.random.split(key)
            sets, variants = meta_batch.draw_meta_batch(pool, draw_key, 3)
            tasks, batches, latencies = [], [], []
            for i, v in zip(sets.tolist(), variants.tolist(), strict=True):
                graphs_key, rollout_key = jax.random.split(jax.random.fold_in(task_key, i))
                whole = jax.tree.map(lambda leaf, i=i, v=v: leaf[i, v], pool.learning_tasks)
                drawn = inner.draw_graphs(whole, graphs_key, 2)
                sizes, index = meta_batch.padded_sizes(SIZES)
                # What is drawn depends on the size that is padded to.
                met = meta_batch.trim(drawn, sizes[index[i]]) if task_axis == "map" else drawn
                batch, _, latency = collect(theta[s], met, rollout_key)
                tasks.append(drawn)
                batches.append(jax.tree.map(pad, batch))
                latencies.append(float(latency))
            pooled_task, pooled_batch = (
                jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *trees) for trees in (tasks, batches)
            )
            for _ in range(3):
                slope, _ = gradient(theta[s], pooled_task, pooled_batch)
                updates, moments[s] = update(slope, moments[s])
                theta[s] = optax.apply_updates(theta[s], updates)
            assert metrics.inner.latency[s] == pytest.approx(np.mean(latencies), rel=1e-4)
            got = jax.tree.map(lambda leaf, s=s: leaf[s], states.params)
            # Adam's first steps amplify what rounding leaves of vanishing gradients.
            assert np.quantile(np.abs(flat(got) - flat(theta[s])), 0.99) < 1e-4
    assert int(states.opt_state[0].count[0]) == 6  # kept from one iteration to the next
    assert np.abs(flat(theta[0]) - flat(theta[1])).max() > 1e-2


def test_optimisers_of_the_outer_step(params: Any) -> None:
    """beta where there is an inner loop; alpha for joint, which has only that one."""
    slope = jax.tree.map(jnp.ones_like, params)
    steps = {}
    for meta_update in ("reptile", "reptile_adam", "fomaml", "maml", "joint"):
        optimizer = outer.outer_optimizer(with_update(meta_update))
        updates, _ = optimizer.update(slope, optimizer.init(params), params)
        steps[meta_update] = float(jax.tree.leaves(updates)[0].ravel()[0])
    assert steps == pytest.approx({**dict.fromkeys(steps, -1e-2), "joint": -2e-2}, rel=1e-4)
