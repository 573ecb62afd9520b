"""The offloading decision process: encoding, simulator features, rewards."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import placement_of, random_dag, random_mec, random_order, relabel, to_graph, to_system
from oracle import CHANNELS, Dag, Mec

import mrlato_jax as mj
from mrlato_jax.environment import features
from mrlato_jax.environment.features import FeatureSettings
from mrlato_jax.environment.reward import all_local_cost, reward
from mrlato_jax.errors import InputError
from mrlato_jax.mec import latency

WIDTH = 32
TIMES = {"ue": 1, "uplink": 2, "vm": 3, "downlink": 4}  # columns; 0 is the task's own position


POOLED = None  # no width: summaries
both_encodings = pytest.mark.parametrize("width", [WIDTH, POOLED], ids=["listed", "pooled"])

# Compiled once for each padded size.
encode_told = jax.jit(features.encode_all, static_argnums=1)


def encode_batch(arrays: mj.DagArrays, width: int | None) -> jax.Array:
    return encode_told(arrays, FeatureSettings(width))


def encode_alone(
    graph: mj.TaskGraph, system: mj.System, width: int | None = WIDTH, num_positions: int = 40, **options: object
) -> np.ndarray:
    arrays = mj.pack([graph], system, num_positions=num_positions, **options)
    return np.asarray(encode_batch(arrays, width))[0, : graph.num_tasks]


def encode_plainly(dag: Dag, mec: Mec, order: list[int], width: int | None = WIDTH) -> np.ndarray:
    """IV-B task by task; positions count from 1, so that 0 can say "no neighbour"."""
    n, times = dag.num_tasks, oracle.task_times(dag, mec)
    place = {task: (position + 1) / n for position, task in enumerate(order)}
    mean = sum(times.ue) / n
    parents, children = dag.parents(), dag.children()
    four = np.array([times.ue, times.upload, times.vm, times.download]).T / mean
    rows = []
    for task in order:
        own = [place[task], *four[task]]
        if width is None:
            told = [summary(parents[task], place, four, max, min), summary(children[task], place, four, min, max)]
        else:
            listed = [sorted(place[other] for other in group[task]) for group in (parents, children)]
            told = [group + [0.0] * (width - len(group)) for group in listed]
        rows.append([*own, *told[0], *told[1]])
    return np.array(rows)


def summary(group: list[int], place: dict[int, float], four: np.ndarray, nearest: Any, farthest: Any) -> list[float]:
    """What is told of a group of neighbours of any size; `nearest` and `farthest` choose among positions."""
    if not group:
        return [0.0] * 12
    positions = [place[other] for other in group]
    theirs = four[group]
    told = [math.log(1 + len(group)), sum(positions) / len(group), nearest(positions), farthest(positions)]
    return [*told, *theirs.mean(axis=0), *theirs.max(axis=0)]


def trace(dag_arrays: mj.DagArrays, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and simulator features of one DAG, [N] and [N, 7]."""
    scale = features.time_scale(dag_arrays)

    def body(queues, inputs):
        task, action = inputs
        ends = latency.candidate_ends(dag_arrays, queues, task)
        after, _ = latency.place(dag_arrays, queues, task, ends, action)
        return after, (reward(dag_arrays, queues, after), features.simulator_features(scale, queues, ends))

    _, out = jax.lax.scan(body, latency.empty_queues(dag_arrays), (latency.tasks(dag_arrays), actions))
    return out


trace_batch = jax.jit(jax.vmap(trace))


@both_encodings
def test_encoding_matches_the_text(width: int | None) -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        dag, mec = random_dag(rng, int(rng.integers(1, 25))), random_mec(rng, str(rng.choice(CHANNELS)))
        dag.cycles[0] = 1e8  # some task computes
        got = encode_alone(to_graph(dag), to_system(mec), width)
        assert (
            got.shape
            == (dag.num_tasks, 69 if width else 29)
            == (dag.num_tasks, features.num_features(FeatureSettings(width)))
        )
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, encode_plainly(dag, mec, oracle.priority_order(dag, mec), width), rtol=2e-6)


@both_encodings
def test_encoding_follows_a_given_order(width: int | None) -> None:
    rng = np.random.default_rng(2)
    dag, mec = random_dag(rng, 15, free=0.0), random_mec(rng, "paper")
    order = random_order(rng, dag)
    got = encode_alone(to_graph(dag), to_system(mec), width, orders=[order])
    np.testing.assert_allclose(got, encode_plainly(dag, mec, order, width), rtol=2e-6)


def test_encoding_of_a_diamond_by_hand() -> None:
    # T_ue 8, 12, 4, 16 (mean 10); T_ul 3, 5, 2, 4; T_m 2, 3, 1, 4; T_dl 1, 2, 3, 1; order 0, 1, 2, 3.
    graph = mj.TaskGraph.from_edges(
        cycles=[8, 12, 4, 16],
        upload_bytes=[3, 5, 2, 4],
        download_bytes=[2, 4, 6, 2],
        edges=[(0, 1), (0, 2), (1, 3), (2, 3)],
    )
    system = mj.System(ue_hz=1.0, vm_hz=4.0, uplink_bps=8.0, downlink_bps=16.0)
    got = encode_alone(graph, system)
    own = [[0.25, 0.8, 0.3, 0.2, 0.1], [0.5, 1.2, 0.5, 0.3, 0.2], [0.75, 0.4, 0.2, 0.1, 0.3], [1.0, 1.6, 0.4, 0.4, 0.1]]
    np.testing.assert_allclose(got[:, :5], own, rtol=1e-6)
    np.testing.assert_allclose(got[:, 5:8], [[0, 0, 0], [0.25, 0, 0], [0.25, 0, 0], [0.5, 0.75, 0]])
    np.testing.assert_allclose(got[:, 37:40], [[0.5, 0.75, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]])
    assert not got[:, 8:37].any()
    assert not got[:, 40:].any()
    pooled = encode_alone(graph, system, POOLED)
    np.testing.assert_allclose(pooled[:, :5], own, rtol=1e-6)
    # log(1 + count); mean, nearest, farthest position; means, then maxima, of T_ue, T_ul, T_m, T_dl.
    middle = [0.8, 0.35, 0.2, 0.25, 1.2, 0.5, 0.3, 0.3]
    np.testing.assert_allclose(pooled[3, 5:17], [math.log(3), 0.625, 0.75, 0.5, *middle], rtol=1e-6)
    np.testing.assert_allclose(pooled[0, 17:], [math.log(3), 0.625, 0.5, 0.75, *middle], rtol=1e-6)
    np.testing.assert_allclose(pooled[1, 5:17], [math.log(2), 0.25, 0.25, 0.25, *own[0][1:], *own[0][1:]], rtol=1e-6)
    np.testing.assert_allclose(pooled[1, 17:], [math.log(2), 1, 1, 1, *own[3][1:], *own[3][1:]], rtol=1e-6)
    assert not pooled[0, 5:17].any()
    assert not pooled[3, 17:].any()


@both_encodings
def test_encoding_sees_neither_padding_nor_other_graphs(width: int | None) -> None:
    rng = np.random.default_rng(3)
    sizes = [20, 3, 1, 20, 3, 3]
    graphs, system = [to_graph(random_dag(rng, n, free=0.0)) for n in sizes], to_system(random_mec(rng, "paper"))
    batch = encode_batch(mj.pack(graphs, system), width)
    wide = encode_batch(mj.pack(graphs[::-1], system, num_positions=29), width)[::-1]
    assert wide.shape == (6, 29, features.num_features(FeatureSettings(width)))
    for row, wide_row, graph, n in zip(batch, wide, graphs, sizes, strict=True):
        np.testing.assert_allclose(row[:n], encode_alone(graph, system, width, num_positions=n), rtol=1e-6)
        np.testing.assert_allclose(wide_row[:n], row[:n], rtol=1e-6)
        assert not row[n:].any()
        assert not wide_row[n:].any()


@both_encodings
def test_many_graphs_are_encoded_a_few_at_a_time(width: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as room allows, and the rest that remain; each as if it were alone."""
    rng = np.random.default_rng(11)
    arrays = mj.pack([to_graph(random_dag(rng, 12, free=0.0)) for _ in range(7)], mj.System())
    want = features.encode_all(arrays, FeatureSettings(width))

    def holds(graphs: int) -> bool:
        """Whether a float[N, N] for so many graphs at once occurs."""
        encode = partial(features.encode_all, settings=FeatureSettings(width))
        return f":f32[{graphs},12,12]" in str(jax.make_jaxpr(encode)(arrays))

    assert holds(7)
    monkeypatch.setattr(features, "ENCODING_BYTES", 3 * 12 * 12 * 4)
    assert holds(3)
    assert not holds(7)
    np.testing.assert_allclose(features.encode_all(arrays, FeatureSettings(width)), want, rtol=1e-6)


@both_encodings
@pytest.mark.parametrize(("factor", "rtol"), [(4.0, 0.0), (3.0, 1e-5), (1e3, 1e-5), (1e-3, 1e-5)])
def test_scaling_all_times_alike_changes_no_encoding(factor: float, rtol: float, width: int | None) -> None:
    rng = np.random.default_rng(4)
    for _ in range(5):
        dag, mec = random_dag(rng, 20, free=0.0), random_mec(rng, "paper")
        slower = Mec(*(value / factor for value in mec[:4]), "paper")
        heavier = Dag(*([value * factor for value in costs] for costs in dag[:3]), dag.edges)
        want = encode_alone(to_graph(dag), to_system(mec), width)
        np.testing.assert_allclose(encode_alone(to_graph(dag), to_system(slower), width), want, rtol=rtol)
        np.testing.assert_allclose(encode_alone(to_graph(heavier), to_system(mec), width), want, rtol=rtol)


@both_encodings
@pytest.mark.parametrize(("field", "column"), [("uplink_bps", "uplink"), ("downlink_bps", "downlink"), ("vm_hz", "vm")])
def test_one_rate_changes_its_own_columns_only(field: str, column: str, width: int | None) -> None:
    """In a chain, whose order no rate can change. (The device's clock is the unit, so it changes the other three.)"""
    rng = np.random.default_rng(5)
    dag, mec = random_dag(rng, 10, free=0.0), random_mec(rng, "paper")
    graph = to_graph(dag._replace(edges=[(i, i + 1) for i in range(9)]))
    before = encode_alone(graph, to_system(mec), width)
    after = encode_alone(graph, to_system(mec._replace(**{field: getattr(mec, field) / 2.0})), width)
    own = TIMES[column]
    columns = [own] if width else [own, own + 8, own + 12, own + 20, own + 24]  # and its means and maxima
    assert np.flatnonzero((before != after).any(axis=0)).tolist() == columns
    np.testing.assert_array_equal(after[:, columns], 2.0 * before[:, columns])


def test_the_devices_clock_is_the_unit() -> None:
    rng = np.random.default_rng(6)
    dag, mec = random_dag(rng, 10, free=0.0), random_mec(rng, "paper")
    graph = to_graph(dag._replace(edges=[(i, i + 1) for i in range(9)]))
    before = encode_alone(graph, to_system(mec))
    after = encode_alone(graph, to_system(mec._replace(ue_hz=mec.ue_hz / 2.0)))
    assert np.flatnonzero((before != after).any(axis=0)).tolist() == [2, 3, 4]
    np.testing.assert_allclose(after[:, 2:5], before[:, 2:5] / 2.0, rtol=1e-6)
    np.testing.assert_allclose(before[:, 1].mean(), 1.0, rtol=1e-6)


@both_encodings
def test_encoding_does_not_see_labels(width: int | None) -> None:
    rng = np.random.default_rng(7)
    for _ in range(10):
        dag, mec = random_dag(rng, 18, free=0.0), random_mec(rng, "paper")
        moved = relabel(dag, rng.permutation(18))
        np.testing.assert_array_equal(
            encode_alone(to_graph(moved), to_system(mec), width), encode_alone(to_graph(dag), to_system(mec), width)
        )


@both_encodings
@pytest.mark.parametrize("costs", [(0.0, 0.0, 0.0), (0.0, 1e4, 1e4), (1e7, 0.0, 0.0)])
def test_encoding_and_rewards_are_finite_where_costs_are_zero(
    costs: tuple[float, float, float], width: int | None
) -> None:
    graph = mj.TaskGraph.from_edges(
        cycles=[costs[0]] * 3, upload_bytes=[costs[1]] * 3, download_bytes=[costs[2]] * 3, edges=[(0, 2)]
    )
    arrays = mj.pack([graph], mj.System())
    assert np.isfinite(encode_alone(graph, mj.System(), width)).all()
    rewards, features = trace_batch(arrays, np.array([[0, 1, 1]], np.int32))
    assert np.isfinite(rewards).all()
    assert np.isfinite(features).all()


def test_neighbours_beyond_the_width_are_an_error() -> None:
    """A task with 33 parents, and its mirror image with 33 children; 32 fit."""
    for count, fits in ((32, True), (33, False)):
        for kind, edges in (
            ("parents", [(i, count) for i in range(count)]),
            ("children", [(count, i) for i in range(count)]),
        ):
            costs = [1e4] * (count + 1)
            graph = mj.TaskGraph.from_edges(cycles=costs, upload_bytes=costs, download_bytes=costs, edges=edges)
            small = mj.TaskGraph.from_edges(cycles=[1.0], upload_bytes=[1.0], download_bytes=[1.0], edges=[])
            if fits:
                features.check_neighbour_width([small, graph], WIDTH)
                column = 5 if kind == "parents" else 5 + WIDTH
                assert (encode_alone(graph, mj.System())[:, column : column + WIDTH] > 0).all(axis=1).sum() == 1
            else:
                with pytest.raises(InputError, match=rf"graph 1.*33 {kind}.*neighbour_width.*32"):
                    features.check_neighbour_width([small, graph], WIDTH)
                features.check_neighbour_width([small, graph], POOLED)
                assert np.isnan(encode_alone(graph, mj.System())).any()  # unchecked, it is not cut either
                told = encode_alone(graph, mj.System(), POOLED)[:, 5 if kind == "parents" else 17]
                assert told.max() == pytest.approx(math.log(34), rel=1e-6)


@pytest.mark.parametrize("channel", CHANNELS)
def test_rewards_sum_to_minus_the_makespan(channel: str) -> None:
    rng = np.random.default_rng(8)
    sizes = [20, *rng.choice([1, 2, 5, 10, 20], 199)]
    dags, mec = [random_dag(rng, int(n)) for n in sizes], random_mec(rng, channel)
    arrays = mj.pack([to_graph(dag) for dag in dags], to_system(mec))
    actions = rng.integers(0, 2, (200, 20)).astype(np.int32)
    rewards, _ = trace_batch(arrays, actions)
    assert (rewards <= 0).all()
    assert not rewards[~arrays.mask].any()
    np.testing.assert_allclose(rewards.sum(axis=1), -mj.makespan(arrays, actions), rtol=2e-6)
    # Each reward is the growth of the makespan of the tasks decided so far.
    for dag, row, order, earned in zip(dags[:10], actions, arrays.order, rewards, strict=False):
        ids = order[: dag.num_tasks].tolist()
        placement = placement_of(ids, row)
        spans = [0.0] + [oracle.simulate(dag, mec, placement, ids[: k + 1]).makespan for k in range(len(ids))]
        np.testing.assert_allclose(earned[: len(ids)], -np.diff(spans), atol=1e-6 * max(spans[-1], 1e-9))


@pytest.mark.parametrize("channel", CHANNELS)
def test_simulator_features_are_what_the_oracle_says(channel: str) -> None:
    """Queue ends before the decision and both candidate finishes, against simulations of the decided prefix."""
    rng = np.random.default_rng(9)
    dags, mec = [random_dag(rng, 12, free=0.0) for _ in range(6)], random_mec(rng, channel)
    arrays = mj.pack([to_graph(dag) for dag in dags], to_system(mec))
    actions = rng.integers(0, 2, (6, 12)).astype(np.int32)
    _, features = trace_batch(arrays, actions)
    for dag, row, ids, feature in zip(dags, actions, arrays.order.tolist(), features, strict=True):
        placement, parents = placement_of(ids, row), dag.parents()
        mean = sum(oracle.task_times(dag, mec).ue) / 12
        for position, task in enumerate(ids):
            done = oracle.simulate(dag, mec, placement, ids[:position])
            tried = dict(enumerate(placement))
            tried[task] = 0
            local = oracle.simulate(dag, mec, tried, ids[: position + 1]).ue_end[task]
            tried[task] = 1
            remote = oracle.simulate(dag, mec, tried, ids[: position + 1])
            entry_free = channel == "mrlco_code"
            uplink = max([e for t, e in enumerate(done.upload_end) if parents[t] or not entry_free] + [0.0])
            ends = [uplink, max(done.vm_end), max(done.download_end), max(done.ue_end)]
            ends += [remote.upload_end[task], remote.download_end[task], local]
            np.testing.assert_allclose(feature[position], (np.array(ends) - done.makespan) / mean, atol=2e-5)


def test_all_local_scale_of_rewards() -> None:
    rng = np.random.default_rng(10)
    dag, mec = random_dag(rng, 9), random_mec(rng, "paper")
    arrays = mj.pack([to_graph(dag)], to_system(mec), num_positions=13)
    local = mj.all_local(to_graph(dag), to_system(mec)).makespan
    np.testing.assert_allclose(jax.vmap(all_local_cost)(arrays), [local], rtol=1e-6)
    assert jnp.isfinite(jax.vmap(all_local_cost)(arrays)).all()


def outlook_plainly(dag: Dag, mec: Mec, order: list[int]) -> np.ndarray:
    """Recursion over children and sums over later tasks, task by task."""
    times, children = oracle.task_times(dag, mec), dag.children()
    offloaded = [sum(parts) for parts in zip(times.upload, times.vm, times.download, strict=True)]
    fastest = [min(pair) for pair in zip(times.ue, offloaded, strict=True)]

    def way(task: int, own: list[float]) -> float:
        return max((own[child] + way(child, own) for child in children[task]), default=0.0)

    rows = []
    for place, task in enumerate(order):
        later = order[place + 1 :]
        left = [sum(column[other] for other in later) for column in (times.ue, times.upload, times.vm, times.download)]
        rows.append([way(task, times.ue), way(task, offloaded), way(task, fastest), *left])
    return np.array(rows) / sum(times.ue)


def test_outlook_matches_its_text_whatever_the_padding() -> None:
    rng = np.random.default_rng(12)
    for _ in range(30):
        dag, mec = random_dag(rng, int(rng.integers(1, 15))), random_mec(rng, str(rng.choice(CHANNELS)))
        dag.cycles[0] = 1e8  # some task computes
        order = random_order(rng, dag)
        arrays = mj.pack([to_graph(dag)], to_system(mec), num_positions=20, orders=[order])
        got = np.asarray(encode_told(arrays, FeatureSettings(POOLED, outlook=True)))[0]
        assert got.shape == (20, 36) == (20, features.num_features(FeatureSettings(POOLED, outlook=True)))
        assert not got[dag.num_tasks :].any()
        np.testing.assert_array_equal(got[:, :29], encode_batch(arrays, POOLED)[0])
        np.testing.assert_allclose(got[: dag.num_tasks, 29:], outlook_plainly(dag, mec, order), rtol=2e-5, atol=1e-6)


def test_outlook_of_a_chain_by_hand() -> None:
    # T_ue 4, 2, 2 (sum 8); T_ul 1, 3, 1; T_m 1, 0.5, 0.5; T_dl 1, 1, 1.
    graph = mj.TaskGraph.from_edges(
        cycles=[4, 2, 2], upload_bytes=[1, 3, 1], download_bytes=[1, 1, 1], edges=[(0, 1), (1, 2)]
    )
    system = mj.System(ue_hz=1.0, vm_hz=4.0, uplink_bps=8.0, downlink_bps=8.0)
    arrays = jax.tree.map(lambda leaf: leaf[0], mj.pack([graph], system))
    want = [[4, 7, 4, 4, 4, 1, 2], [2, 2.5, 2, 2, 1, 0.5, 1], [0] * 7]
    np.testing.assert_allclose(jax.jit(features.task_outlook)(arrays) * 8, want, rtol=1e-6)
