"""The outer loop (28)-(29): its gradient, its draws, and what a meta-iteration must not depend on."""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import random_dag, to_graph
from hypothesis import given

import mrlato_jax as mj
from mrlato_jax.config import ExecutionConfig, LearningConfig, NetworkConfig
from mrlato_jax.errors import InputError
from mrlato_jax.learning import devices, meta_batch, outer
from mrlato_jax.learning.flat import flat
from mrlato_jax.learning.learning_task import learning_task, stack
from mrlato_jax.learning.meta_batch import MetaBatch, TaskPool, padded_sizes
from mrlato_jax.learning.outer import LearnerState

POLICY = NetworkConfig(decoder_input="task_sim", units=16, heads=2, layers=1, neighbour_width=8)
LEARNING = LearningConfig(meta_batch=3, graphs_per_task=2, rollouts=3)
EXECUTION = devices.resolve(ExecutionConfig(parallel="single"), LEARNING.meta_batch)
SIZES = (6, 3, 6, 4)  # of each set's largest DAG
RATES = (4e6, 12e6)


def make_pool(sizes: tuple[int, ...] = SIZES, num_graphs: int = 3, *, free: float = 0.0) -> TaskPool:
    """Sets of DAGs of several sizes, each under two rates, padded alike; `free` = 1 makes every cost zero."""
    rng = np.random.default_rng(1)
    sets = []
    for size in sizes:
        graphs = [to_graph(random_dag(rng, n, free=free)) for n in (size, *rng.integers(1, size, num_graphs - 1))]
        systems = [mj.System(uplink_bps=rate, downlink_bps=rate) for rate in RATES]
        sets.append(stack([learning_task(graphs, system, POLICY, num_positions=max(SIZES)) for system in systems]))
    return TaskPool(stack(sets), sizes)


@pytest.fixture(scope="module")
def pool() -> TaskPool:
    return make_pool()


@pytest.fixture(scope="module")
def params() -> Any:
    return jax.device_get(outer.init_states(POLICY, LEARNING, [0]).params)


adapt_side_by_side = jax.jit(partial(outer.adapt_tasks, POLICY, LEARNING, "vmap"))
adapt_in_turn = jax.jit(partial(outer.adapt_tasks, POLICY, LEARNING, "map"))
KEY = jax.random.key(7)


def distance(a: Any, b: Any) -> float:
    """Largest absolute difference of two trees."""
    return max(
        float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


def rows(tree: Any, index: list[int] | int) -> Any:
    return jax.tree.map(lambda leaf: leaf[np.array(index)], tree)


def batch_of(sets: list[int], variants: list[int] | None = None, seeds: list[int] | None = None) -> MetaBatch:
    """Tasks as a meta-batch has them: keys derive from the sets."""
    nothing = [0] * len(sets)
    index = [jnp.array(values, jnp.int32) for values in (seeds or nothing, sets, variants or nothing)]
    keys = jax.vmap(partial(jax.random.fold_in, KEY))(index[1])
    return MetaBatch(*index, keys, jnp.ones(len(sets), bool))


def meta_gradient(params: Any, adapted: Any, batch: MetaBatch, learning: LearningConfig = LEARNING) -> Any:
    return outer.meta_gradient(params, adapted, batch, dataclasses.replace(learning, meta_batch=len(batch.seed)))


def adapt(axis: str, params: Any, pool: TaskPool, sets: list[int], variants: list[int]) -> Any:
    run = {"vmap": adapt_side_by_side, "map": adapt_in_turn}[axis]
    return run(params, pool, batch_of(sets, variants))


def test_meta_gradient_by_hand() -> None:
    learning = LearningConfig(inner_lr=0.1, inner_steps=4, meta_batch=2)
    theta = {"w": jnp.array([[1.0, -2.0]]), "b": jnp.array([0.5])}
    adapted = {"w": jnp.array([[1.5, -2.0], [1.3, -2.6]]), "b": jnp.array([0.5, 0.1])}
    gradient = outer.meta_gradient(theta, adapted, batch_of([0, 1]), learning)
    # Mean displacements (0.4, -0.3) and -0.2, over 0.1 x 4.
    np.testing.assert_allclose(gradient["w"], [[1.0, -0.75]], rtol=1e-5)
    np.testing.assert_allclose(gradient["b"], [-0.5], rtol=1e-5)
    still = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), theta)
    nothing = outer.meta_gradient(theta, still, batch_of([0, 1]), learning)
    assert not any(leaf.any() for leaf in jax.tree.leaves(nothing))


def test_meta_gradient_of_two_seeds_in_any_order() -> None:
    """Each seed's own tasks, its own theta; what only fills up a device's share does not count, not even as NaN."""
    learning = LearningConfig(inner_lr=0.5, inner_steps=1, meta_batch=2)
    theta = jnp.array([1.0, 10.0])
    batch = batch_of([0, 1, 2, 3, 0], seeds=[1, 0, 1, 0, 0])._replace(valid=jnp.array([True] * 4 + [False]))
    adapted = jnp.array([11.0, 1.5, 13.0, 2.5, jnp.nan])
    np.testing.assert_allclose(outer.meta_gradient(theta, adapted, batch, learning), [2.0, 4.0], rtol=1e-6)


def step_of_task_and_key(_: Any, __: Any, params: Any, task: Any, key: jax.Array) -> tuple[Any, jax.Array]:
    """An inner loop that costs nothing to compile: theta' depends on theta, the task and its key."""
    step = 1e-3 * (task.features.mean() + jax.random.normal(key))
    return jax.tree.map(lambda leaf: leaf + step * jnp.cos(7 * leaf), params), step


def small_state(learning: LearningConfig) -> LearnerState:
    theta = {"w": jnp.array([[0.3, -0.2, 1.0]]), "b": jnp.array([[0.1]])}
    optimizer = outer.outer_optimizer(learning)
    return LearnerState(theta, jax.vmap(optimizer.init)(theta), jnp.zeros(1, jnp.int32), KEY[None])


def test_the_outer_rate_falls_along_half_a_cosine() -> None:
    learning = dataclasses.replace(LEARNING, meta_update="reptile", outer_lr=0.5, outer_lr_decay=4)
    optimizer, gradient = outer.outer_optimizer(learning), jnp.ones(())
    state, steps = optimizer.init(gradient), []
    for _ in range(6):
        step, state = optimizer.update(gradient, state)
        steps.append(-float(step))
    np.testing.assert_allclose(steps, [0.5 * (1 + np.cos(np.pi * min(i, 4) / 4)) / 2 for i in range(6)], atol=1e-7)


@pytest.mark.parametrize("meta_update", ["reptile", "reptile_adam"])
def test_iterations_by_hand(meta_update: str, pool: TaskPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three iterations: a third of the mean displacement at Table I's values, or Adam on the negated gradient."""
    learning = dataclasses.replace(LEARNING, meta_update=meta_update)
    assert (learning.inner_lr, learning.outer_lr, learning.inner_steps) == (5e-4, 5e-4, 3)
    monkeypatch.setattr(outer, "inner_adapt", step_of_task_and_key)
    optimizer, state = optax.adam(5e-4), small_state(learning)
    theta = jax.tree.map(lambda leaf: leaf[0], state.params)
    moments = optimizer.init(theta)
    iterate = jax.jit(lambda state: outer.iterate(POLICY, learning, "vmap", None, state, pool))
    for iteration in range(3):
        draw_key, task_key = jax.random.split(jax.random.fold_in(KEY, iteration))
        sets, variants = meta_batch.draw_meta_batch(pool, draw_key, 3)
        moved, steps = [], []
        for s, v in zip(sets.tolist(), variants.tolist(), strict=True):
            task = jax.tree.map(lambda leaf, s=s, v=v: leaf[s, v], pool.learning_tasks)
            adapted, step = step_of_task_and_key(None, None, theta, task, jax.random.fold_in(task_key, s))
            moved.append(adapted)
            steps.append(float(step))
        displacement = jax.tree.map(lambda t, *m: sum(m) / 3 - t, theta, *moved)
        updates = jax.tree.map(lambda d: d / 3, displacement)
        if meta_update == "reptile_adam":
            descent = jax.tree.map(lambda d: -d / (3 * 5e-4), displacement)
            updates, moments = optimizer.update(descent, moments)
        theta = optax.apply_updates(theta, updates)
        state, metrics = iterate(state)
        assert distance(rows(state.params, 0), theta) < 1e-6
        assert state.iteration.tolist() == [iteration + 1]
        assert metrics.inner[0] == pytest.approx(np.mean(steps), rel=1e-4)
        norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(updates)))
        assert metrics.update_norm[0] == pytest.approx(norm, rel=1e-3)


@pytest.mark.parametrize("axis", [pytest.param("vmap", marks=pytest.mark.slow), "map"])
def test_a_task_depends_neither_on_its_place_nor_on_the_others(axis: str, pool: TaskPool, params: Any) -> None:
    adapted, metrics = adapt(axis, params, pool, [0, 1, 2], [0, 1, 0])
    turned, turned_metrics = adapt(axis, params, pool, [2, 0, 1], [0, 0, 1])
    assert distance(rows(turned, [1, 2, 0]), adapted) < 1e-6
    assert distance(rows(turned_metrics, [1, 2, 0]), metrics) < 1e-5
    # (29) divides by alpha m, and batched products round as their place in the batch has it.
    gradients = [
        meta_gradient(flat(params, 1), tree, batch_of(sets))
        for tree, sets in ((adapted, [0, 1, 2]), (turned, [2, 0, 1]))
    ]
    assert distance(*gradients) < {"map": 1e-6, "vmap": 3e-5}[axis]
    others, _ = adapt(axis, params, pool, [3, 1, 0], [1, 1, 1])
    assert distance(rows(others, [1]), rows(adapted, [1])) < 1e-6
    # The same set at another rate is another task.
    assert distance(rows(others, [2]), rows(adapted, [0])) > 1e-4


def test_both_ways_of_batching_tasks_agree_on_mixed_sizes(pool: TaskPool, params: Any) -> None:
    """map trims the padding of small sets; vmap runs all at the largest size."""
    for sets in ([0, 1, 2], [3, 1, 0]):
        side_by_side, in_turn = (adapt(axis, params, pool, sets, [0, 1, 1]) for axis in ("vmap", "map"))
        assert distance(side_by_side[0], in_turn[0]) < 1e-5
        assert distance(side_by_side[1], in_turn[1]) < 1e-4
        assert distance(side_by_side[0], jnp.concatenate([flat(params, 1)] * 3)) > 1e-4


def test_tasks_are_trimmed_to_their_size(pool: TaskPool, params: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def spy(policy: NetworkConfig, learning: LearningConfig, params: Any, task: Any, key: Any) -> Any:
        compiled.append(task.num_positions)
        assert task.dags.parents.shape[-2:] == (task.num_positions,) * 2
        return params, ()

    monkeypatch.setattr(outer, "inner_adapt", spy)
    jax.eval_shape(partial(outer.adapt_tasks, POLICY, LEARNING, "map"), params, pool, batch_of([0, 0, 0]))
    assert set(compiled) == {6, 3}
    assert set(compiled) == set(padded_sizes(SIZES)[0])


@given(st.lists(st.integers(1, 200), min_size=1, max_size=12), st.sampled_from([1.0, 1.25, 1.5, 3.0]))
def test_padded_sizes_are_few_and_tight(sizes: list[int], ratio: float) -> None:
    tops, index = padded_sizes(sizes, ratio)
    own = [tops[i] for i in index]
    assert set(tops) <= set(sizes)
    assert set(own) == set(tops)  # none compiled for nothing
    assert all(size <= top <= ratio * size for size, top in zip(sizes, own, strict=True))
    assert all(larger > ratio * smaller for larger, smaller in itertools.pairwise(tops))
    assert all(top == min(t for t in tops if t >= size) for size, top in zip(sizes, own, strict=True))


def test_padded_sizes_of_experiment_two() -> None:
    assert padded_sizes((10, 15, 25, 35, 45, 50)) == ([50, 25, 15], [2, 2, 1, 0, 0, 0])


def test_meta_batches_are_drawn_without_replacement(pool: TaskPool) -> None:
    draw = jax.jit(lambda key: meta_batch.draw_meta_batch(pool, key, 3))
    counts, batches = np.zeros((4, 2), int), set()
    for seed in range(400):
        sets, variants = (np.asarray(x) for x in draw(jax.random.key(seed)))
        assert len(set(sets.tolist())) == 3
        counts[sets, variants] += 1
        batches.add(tuple(sets.tolist()))
    assert len(batches) == 24  # every ordered choice of 3 of 4
    assert abs(counts - 150).max() < 5 * np.sqrt(150)
    sets, _ = meta_batch.draw_meta_batch(pool, KEY, 4)
    assert sorted(sets.tolist()) == [0, 1, 2, 3]


def test_a_sets_variant_does_not_depend_on_its_place(pool: TaskPool) -> None:
    for seed in range(20):
        key = jax.random.key(seed)
        sets, variants = (np.asarray(x) for x in meta_batch.draw_meta_batch(pool, key, 4))
        variant_key = jax.random.split(key)[1]
        for index, variant in zip(sets, variants, strict=True):
            assert variant == jax.random.randint(jax.random.fold_in(variant_key, index), (), 0, 2)


def test_a_meta_batch_larger_than_the_pool_is_refused(pool: TaskPool) -> None:
    with pytest.raises(InputError, match=r"meta_batch is 5.*at most 4"):
        meta_batch.draw_meta_batch(pool, KEY, 5)
    with pytest.raises(InputError, match=r"meta_batch is 5.*at most 4"):
        meta_batch.check_meta_batch(5, 4)
    meta_batch.check_meta_batch(4, 4)


def test_iterations_are_compiled_once_donate_their_state_and_repeat(
    pool: TaskPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outer, "inner_adapt", step_of_task_and_key)
    learning = dataclasses.replace(LEARNING, inner_lr=4e-4)  # a compilation of its own
    before = outer.meta_iteration._cache_size()
    ends = []
    for _ in range(2):
        state, draws = small_state(learning), []
        for _ in range(3):
            given_away = state
            state, metrics = outer.meta_iteration(POLICY, learning, EXECUTION, state, pool)
            draws.append(float(metrics.inner[0]))
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given_away.params))
        ends.append(jax.device_get(state.params))
        assert len(set(draws)) == 3  # every iteration has keys of its own
    assert outer.meta_iteration._cache_size() == before + 1
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_theta_stays_where_no_inner_step_moves(params: Any) -> None:
    """Nothing costs anything and the values are exact: advantages, gradients and the outer step are zero."""
    worthless = make_pool(free=1.0)
    assert not worthless.learning_tasks.dags.ue.any()
    still = {"params": {**params["params"], "value_head": jax.tree.map(np.zeros_like, params["params"]["value_head"])}}
    adapted, metrics = adapt("vmap", still, worthless, [0, 1, 3], [0, 1, 0])
    assert not metrics.latency.any()
    assert not any(leaf.any() for leaf in jax.tree.leaves(meta_gradient(flat(still, 1), adapted, batch_of([0, 1, 3]))))
