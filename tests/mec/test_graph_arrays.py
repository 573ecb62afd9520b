"""`arrays` of a packed graph is `pack` of the graph, also where the system is traced."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import dags, mecs, random_dag, random_mec, random_order, to_graph, to_system
from hypothesis import given, settings

import mrlato_jax as mj
from mrlato_jax.config import NetworkConfig
from mrlato_jax.learning import rollout
from mrlato_jax.mec import latency
from mrlato_jax.mec.latency import one_by_one

FIELDS = [field.name for field in dataclasses.fields(mj.DagArrays) if field.name not in ("channel", "radio")]


def assert_same(got: mj.DagArrays, want: mj.DagArrays, rtol: float = 1e-6) -> None:
    assert got.channel == want.channel
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for name in FIELDS:
        if getattr(want, name) is not None:
            ours, theirs = np.asarray(getattr(got, name)), np.asarray(getattr(want, name))
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=0, err_msg=name)


def first(arrays: mj.DagArrays) -> mj.DagArrays:
    return jax.tree.map(lambda leaf: leaf[0], arrays)


@settings(max_examples=60)
@given(dags(), mecs)
def test_equal_to_pack_also_where_priorities_are_equal(dag: oracle.Dag, mec: oracle.Mec) -> None:
    """The times are exact numbers here, and many are 0 or alike."""
    graph, system = to_graph(dag), to_system(mec)
    packed = mj.pack_graph(graph, num_positions=6)
    assert_same(mj.arrays(packed, system), first(mj.pack([graph], system, num_positions=6)), rtol=0)


@pytest.mark.parametrize("channel", oracle.CHANNELS)
def test_equal_to_pack_in_float64(channel: str) -> None:
    rng = np.random.default_rng(1)
    graphs = [to_graph(random_dag(rng, n)) for n in (1, 7, 20, 12)]
    systems = [to_system(random_mec(rng, channel)) for _ in graphs]
    with one_by_one():
        packed = mj.pack_graph(graphs, dtype=np.float64)
        each = jax.tree.map(lambda *values: np.array(values), *systems)
        assert_same(mj.arrays(packed, each), mj.pack(graphs, systems, dtype=np.float64), rtol=1e-15)
        for system in systems:
            assert_same(mj.arrays(packed, system), mj.pack(graphs, system, dtype=np.float64), rtol=1e-15)


def test_under_vmap_over_systems_and_jit() -> None:
    rng = np.random.default_rng(2)
    graph = to_graph(random_dag(rng, 15))
    systems = [to_system(random_mec(rng, "paper")) for _ in range(8)]
    many = jax.tree.map(lambda *values: np.array(values), *systems)
    packed = mj.pack_graph(graph, num_positions=16)
    got = jax.jit(jax.vmap(mj.arrays, in_axes=(None, 0)))(packed, many)
    assert_same(got, mj.pack([graph] * 8, systems, num_positions=16))
    assert len({tuple(order) for order in np.asarray(got.order).tolist()}) > 1  # the order is the system's
    spans = jax.vmap(lambda system: mj.makespan(mj.arrays(packed, system), jnp.ones(16, int)))(many)
    want = [mj.all_offload(graph, system).makespan for system in systems]
    np.testing.assert_allclose(spans, want, rtol=1e-5)


def test_a_policy_decides_on_what_it_gives() -> None:
    network = NetworkConfig(decoder_input="task_sim", units=16, heads=2, layers=1, neighbour_width=16)
    policy = mj.Offloader(network, rollout.init_params(network, jax.random.key(0)), "random")
    rng = np.random.default_rng(3)
    graphs = [to_graph(random_dag(rng, n)) for n in (5, 8)]  # padded alike
    systems = [to_system(random_mec(rng, "paper")) for _ in range(3)]
    packed, many = mj.pack_graph(graphs), jax.tree.map(lambda *values: np.array(values), *systems)
    decided = jax.jit(jax.vmap(lambda policy, system: policy.decide(mj.arrays(packed, system)), in_axes=(None, 0)))
    spans = np.asarray(decided(policy, many).makespan)
    assert spans.shape == (3, 2)
    for row, system in zip(spans, systems, strict=True):
        assert row.tolist() == pytest.approx([plan.makespan for plan in policy.plan(graphs, system)], rel=1e-5)


def test_a_rates_gradient() -> None:
    graph = mj.TaskGraph.from_edges(cycles=[1e7], upload_bytes=[1e5], download_bytes=[0.0], edges=[])
    packed = mj.pack_graph(graph)
    slope = jax.jit(jax.grad(lambda system: mj.makespan(mj.arrays(packed, system), np.array([1]))))(mj.System())
    assert float(slope.uplink_bps) == pytest.approx(-8e5 / 7e6**2, rel=1e-5)
    assert float(slope.vm_hz) == pytest.approx(-1e7 / 1e20, rel=1e-5)
    assert float(slope.ue_hz) == 0


@pytest.mark.parametrize("on_device", [False, True])
def test_in_an_order_that_is_given(on_device: bool) -> None:
    rng = np.random.default_rng(4)
    dag = random_dag(rng, 8)
    graph, order = to_graph(dag), random_order(rng, dag)
    given_order = jnp.array(order) if on_device else order
    want = mj.pack([graph], mj.System(), orders=[order], num_positions=10)
    assert_same(mj.arrays(mj.pack_graph(graph, num_positions=10), mj.System(), given_order), first(want))
    both = mj.arrays(mj.pack_graph([graph, graph]), mj.System(), [order, order])
    assert_same(both, mj.pack([graph] * 2, mj.System(), orders=[order, order]))


CHAIN = mj.TaskGraph.from_edges(cycles=[1e7] * 3, upload_bytes=[1.0] * 3, download_bytes=[1.0] * 3, edges=[(0, 1)])
PACKED = mj.pack_graph(CHAIN)


def test_weights_of_energy_may_be_traced() -> None:
    """Costs under vmap over weights are those of `pack` with each objective."""
    system = mj.System(power=mj.Power(1.0, 2.0, 3.0, 0.5))
    weights, sites = jnp.array([0.25, 4.0]), jnp.array([1, 0, 1])

    def cost(weight: jax.Array) -> jax.Array:
        dag = mj.arrays(PACKED, system, energy_weight=weight)
        return latency.cost(dag, latency.run(dag, sites)[0])

    for weight, found in zip(weights.tolist(), jax.vmap(cost)(weights), strict=True):
        dag = first(mj.pack([CHAIN], system, objective=mj.Objective(energy_weight=weight)))
        assert float(found) == pytest.approx(float(latency.cost(dag, latency.run(dag, sites)[0])), rel=1e-6)
    for wrong, phrase in ((-1.0, "energy_weight is -1.0; accepted"), ([1.0, 2.0], r"energy_weight has shape \(2,\)")):
        with pytest.raises(mj.InputError, match=phrase):
            mj.arrays(PACKED, system, energy_weight=wrong)


@pytest.mark.parametrize(
    ("order", "phrase"),
    [
        ([1, 0, 2], r"order is \[1, 0, 2\]; accepted: each task id from 0 to 2 once, every parent before"),
        ([0, 0, 2], r"order is \[0, 0, 2\]; accepted: each task id"),
        ([0, 1], r"order is \[0, 1\]; accepted: each task id"),
        ([0, 1, 2, 3], r"order has shape \(4,\) and dtype int64; accepted: integers of shape \(3,\)"),
        ([[0, 1, 2]], r"order has shape \(1, 3\)"),
        ([0.0, 1.0, 2.0], "order has shape .* dtype float64"),
        (jnp.zeros(3), "order has shape .* dtype float32"),
        ([[0], [1, 2]], r"order is \[\[0\], \[1, 2\]\]; accepted: integers of shape"),
        (3, r"order has shape \(\)"),
    ],
)
def test_wrong_orders(order: object, phrase: str) -> None:
    with pytest.raises(mj.InputError, match=phrase):
        mj.arrays(PACKED, mj.System(), order)


def test_other_bad_input() -> None:
    with pytest.raises(mj.InputError, match=r"graph is TaskGraph.*; accepted: a GraphArrays"):
        mj.arrays(CHAIN, mj.System())  # type: ignore[arg-type]
    with pytest.raises(mj.InputError, match="system is 3; accepted: a System"):
        mj.arrays(PACKED, 3)  # type: ignore[arg-type]
    rates = np.array([1e6, 2e6])
    with pytest.raises(mj.InputError, match=r"System.uplink_bps has shape \(2,\); accepted: a number \(jax.vmap"):
        mj.arrays(PACKED, mj.System(uplink_bps=rates))  # type: ignore[arg-type]
    with pytest.raises(mj.InputError, match=r"System.uplink_bps has shape \(2,\); accepted: a number, or \(3,\)"):
        mj.arrays(mj.pack_graph([CHAIN] * 3), mj.System(uplink_bps=rates))  # type: ignore[arg-type]
    with pytest.raises(mj.InputError, match=r"graph is \[\]; accepted: a sequence of at least one TaskGraph"):
        mj.pack_graph([])
    with pytest.raises(mj.InputError, match=r"graph\[1\] is 'x'; accepted: a TaskGraph"):
        mj.pack_graph([CHAIN, "x"])  # type: ignore[list-item]
    with pytest.raises(mj.InputError, match="num_positions is 2; accepted: an integer in"):
        mj.pack_graph(CHAIN, num_positions=2)
    with pytest.raises(mj.InputError, match=r"dtype is .*int"):
        mj.pack_graph(CHAIN, dtype=int)
    huge = mj.TaskGraph.from_edges(cycles=[1e39], upload_bytes=[1.0], download_bytes=[1.0], edges=[])
    with pytest.raises(mj.InputError, match=r"cycles of graph\[0\] reach 1e\+39; accepted: what float32 holds"):
        mj.pack_graph(huge)
    stacked = jax.tree.map(lambda leaf: leaf[None, None], PACKED)
    with pytest.raises(mj.InputError, match=r"graph has leading axes \(1, 1\); accepted: none or one"):
        mj.arrays(stacked, mj.System())
