"""Random applications, placements and orders against the event-driven oracle."""

from __future__ import annotations

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import (
    actions_of,
    assert_schedule,
    dags,
    mecs,
    placement_of,
    random_dag,
    random_mec,
    random_order,
    random_placement,
    relabel,
    to_graph,
    to_system,
)
from hypothesis import given, settings
from oracle import CHANNELS

import mrlato_jax as mj

SIZES = (1, 2, 3, 5, 8, 12, 16, 20)
WIDTH = 20


def sample(seed: int, count: int, **options: float) -> list[oracle.Dag]:
    """`count` random DAGs of mixed sizes; the first has the largest, so that every batch has one width."""
    rng = np.random.default_rng(seed)
    return [random_dag(rng, SIZES[-1] if i == 0 else int(rng.choice(SIZES)), **options) for i in range(count)]


@pytest.mark.parametrize("channel", CHANNELS)
def test_schedules_in_any_order(channel: str) -> None:
    """Float64 end times of every task, in random linear extensions and in the default order."""
    rng = np.random.default_rng(11)
    for i, dag in enumerate(sample(12, 160)):
        mec = random_mec(rng, channel)
        placement = random_placement(rng, dag.num_tasks)
        order = None if i % 4 == 0 else random_order(rng, dag)
        got = mj.simulate(to_graph(dag), to_system(mec), placement, order=order)
        in_order = oracle.priority_order(dag, mec) if order is None else order
        assert_schedule(got, oracle.simulate(dag, mec, placement, in_order))


@settings(max_examples=150)
@given(st.data(), dags(), mecs)
def test_schedules_with_ties_and_free_tasks(data: st.DataObject, dag: oracle.Dag, mec: oracle.Mec) -> None:
    """Every time is exact here, so the two simulators must agree to the last bit."""
    placement = data.draw(st.lists(st.integers(0, 1), min_size=dag.num_tasks, max_size=dag.num_tasks))
    order = oracle.take_ready(dag, data.draw(st.permutations(range(dag.num_tasks))))
    got = mj.simulate(to_graph(dag), to_system(mec), placement, order=order)
    assert_schedule(got, oracle.simulate(dag, mec, placement, order), rtol=0)


@pytest.mark.parametrize("channel", CHANNELS)
def test_batched_core(channel: str) -> None:
    """1200 DAGs x 4 placements a channel, float32, padded to a common width; in priority and in random orders."""
    rng = np.random.default_rng(21)
    everything = sample(22, 1200)
    for part in range(4):
        chunk, mec = everything[part::4], random_mec(rng, channel)
        if part:
            chunk[0] = everything[0]
        graphs, system = [to_graph(dag) for dag in chunk], to_system(mec)
        by_rank = [oracle.priority_order(dag, mec) for dag in chunk]
        at_random = [random_order(rng, dag) for dag in chunk]
        batches = (mj.pack(graphs, system), by_rank), (mj.pack(graphs, system, orders=at_random), at_random)
        for arrays, orders in batches * 2:
            actions = (rng.random((len(chunk), WIDTH)) < rng.random((len(chunk), 1))).astype(np.int32)
            got = mj.makespan(arrays, actions)
            assert got.dtype == jnp.float32
            assert got.shape == (len(chunk),)
            want = [
                oracle.simulate(dag, mec, placement_of(order, row), order).makespan
                for dag, order, row in zip(chunk, orders, actions, strict=True)
            ]
            np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(31)
    dags, mec = sample(32, 64), random_mec(rng, "paper")
    graphs, system = [to_graph(dag) for dag in dags], to_system(mec)
    orders = [mj.priority_order(graph, system).tolist() for graph in graphs]
    placements = [random_placement(rng, dag.num_tasks) for dag in dags]
    actions = np.array([actions_of(o, p, WIDTH) for o, p in zip(orders, placements, strict=True)], np.int32)
    return dags, graphs, mec, system, placements, actions


def test_core_equals_public_simulate(batch) -> None:
    _, graphs, _, system, placements, actions = batch
    want = [mj.simulate(g, system, p).makespan for g, p in zip(graphs, placements, strict=True)]
    np.testing.assert_allclose(mj.makespan(mj.pack(graphs, system), actions), want, rtol=1e-5)


def test_padding_changes_nothing(batch) -> None:
    """Neither the actions under the padding nor its width (alone against beside a larger DAG) are seen."""
    dags, graphs, _, system, _, actions = batch
    together = mj.makespan(mj.pack(graphs, system), actions)
    inverted = actions.copy()
    for row, dag in zip(inverted, dags, strict=True):
        row[dag.num_tasks :] = 1
    np.testing.assert_array_equal(mj.makespan(mj.pack(graphs, system), inverted), together)
    for size in (1, 5, 20):
        same = [i for i, dag in enumerate(dags) if dag.num_tasks == size][:8]
        alone = mj.makespan(mj.pack([graphs[i] for i in same], system), actions[same, :size])
        np.testing.assert_array_equal(alone, together[np.array(same)])


def test_batch_rows_are_independent(batch) -> None:
    _, graphs, _, system, _, actions = batch
    together = mj.makespan(mj.pack(graphs, system), actions)
    shuffle = np.random.default_rng(33).permutation(len(graphs))
    shuffled = mj.makespan(mj.pack([graphs[i] for i in shuffle], system), actions[shuffle])
    np.testing.assert_array_equal(shuffled, np.asarray(together)[shuffle])
    other = actions.copy()
    other[1:] = 1 - other[1:]  # every row but the first decides otherwise
    assert mj.makespan(mj.pack(graphs, system), other)[0] == together[0]


def test_core_under_jit_vmap_and_grad(batch) -> None:
    _, graphs, _, system, _, actions = batch
    arrays = mj.pack(graphs, system)
    want = mj.makespan(arrays, actions)
    np.testing.assert_array_equal(jax.jit(mj.makespan)(arrays, actions), want)
    several = jnp.stack([actions, 1 - actions, jnp.zeros_like(actions)])
    got = jax.vmap(mj.makespan, in_axes=(None, 0))(arrays, several)
    np.testing.assert_array_equal(got, [mj.makespan(arrays, row) for row in several])

    def total(scale: jax.Array) -> jax.Array:
        scaled = jax.tree.map(lambda x: x * scale if jnp.issubdtype(x.dtype, jnp.floating) else x, arrays)
        return mj.makespan(scaled, actions).sum()

    # A makespan is the sum of the task times along a critical path: its derivative by their common scale is itself.
    assert jax.grad(total)(1.0) == pytest.approx(float(want.sum()), rel=1e-5)


@pytest.mark.parametrize("channel", CHANNELS)
def test_relabelling_changes_nothing_but_the_labels(channel: str) -> None:
    """With distinct ranks: priority order, schedule and both rank variants follow the labels."""
    rng = np.random.default_rng(41)
    for dag in sample(42, 25, free=0.0):
        mec = random_mec(rng, channel)
        new_id = rng.permutation(dag.num_tasks)
        placement = np.array(random_placement(rng, dag.num_tasks))
        new_placement = np.empty_like(placement)
        new_placement[new_id] = placement
        graph, moved, system = to_graph(dag), to_graph(relabel(dag, new_id)), to_system(mec)
        for rank in ("total", "min"):
            order = mj.priority_order(graph, system, rank=rank)
            np.testing.assert_array_equal(mj.priority_order(moved, system, rank=rank), new_id[order])
        before, after = mj.simulate(graph, system, placement), mj.simulate(moved, system, new_placement)
        assert after.makespan == before.makespan
        np.testing.assert_array_equal(after.download_end[new_id], before.download_end)


@pytest.mark.parametrize("channel", CHANNELS)
def test_scaling_all_times_scales_the_schedule(channel: str) -> None:
    rng = np.random.default_rng(51)
    for dag in sample(52, 20):
        mec = random_mec(rng, channel)
        slower = oracle.Mec(*(value / 4.0 for value in mec[:4]), channel)
        graph, placement = to_graph(dag), random_placement(rng, dag.num_tasks)
        before = mj.simulate(graph, to_system(mec), placement)
        after = mj.simulate(graph, to_system(slower), placement)
        np.testing.assert_array_equal(after.upload_end, 4.0 * before.upload_end)
        assert after.makespan == 4.0 * before.makespan


def test_presets_are_ordered() -> None:
    """Each preset relaxes the one before it: with the same plan and order it is never slower."""
    rng = np.random.default_rng(61)
    strictly_faster = np.zeros(2, int)
    for dag in sample(62, 30):
        mec, graph = random_mec(rng, "paper"), to_graph(dag)
        placement, order = random_placement(rng, dag.num_tasks), random_order(rng, dag)
        spans = [
            mj.simulate(graph, to_system(mec._replace(channel=c)), placement, order=order).makespan for c in CHANNELS
        ]
        assert spans[0] >= spans[1] >= spans[2]
        strictly_faster += np.diff(spans) < 0
    assert (strictly_faster > 0).all()
