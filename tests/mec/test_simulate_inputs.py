"""Every rejected input is an InputError that names the field and the value."""

from __future__ import annotations

import math
from collections.abc import Callable

import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import dags, to_graph
from hypothesis import given, settings

import mrlato_jax as mj
from mrlato_jax.config import CHANNEL_NAMES
from mrlato_jax.errors import InputError, shorten
from mrlato_jax.mec.system import CHANNELS

RATES = ("ue_hz", "vm_hz", "uplink_bps", "downlink_bps")
NOT_POSITIVE = st.one_of(st.floats(max_value=0.0), st.integers(max_value=0))
NOT_FINITE = st.sampled_from([math.nan, math.inf, -math.inf])
NOT_A_NUMBER = st.one_of(st.booleans(), st.text(max_size=8), st.none(), st.just({7e6}), st.just(7e6 + 0j))
CHAIN = mj.TaskGraph.from_edges(
    cycles=[1e7] * 3, upload_bytes=[1e4] * 3, download_bytes=[1e4] * 3, edges=[(0, 1), (1, 2)]
)
SYSTEM = mj.System()


def message(call) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    text = str(caught.value)
    assert "\n" not in text
    return text


@given(st.sampled_from(RATES), st.one_of(NOT_POSITIVE, NOT_FINITE, NOT_A_NUMBER))
def test_system_rejects_what_is_no_positive_finite_number(field: str, value: object) -> None:
    text = message(lambda: mj.System(**{field: value}))
    assert field in text
    assert repr(value)[:20] in text


@pytest.mark.parametrize("value", [10**400, -(10**400), 5e-324 / 2, "7e6", b"7", {}, object, np.nan], ids=shorten)
def test_system_rejects_extremes(value: object) -> None:
    assert "uplink_bps" in message(lambda: mj.System(uplink_bps=value))


@given(st.sampled_from(RATES), st.one_of(st.floats(1e-3, 1e15), st.integers(1, 10**12)))
def test_system_accepts_positive_finite_numbers(field: str, value: float) -> None:
    assert getattr(mj.System(**{field: value}), field) == value


@given(st.one_of(st.text(max_size=12).filter(lambda s: s not in oracle.CHANNELS), st.none(), st.integers()))
def test_system_rejects_unknown_channels(value: object) -> None:
    text = message(lambda: mj.System(channel=value))
    assert "channel" in text
    assert repr(value)[:50] in text  # a longer one is cut
    assert all(name in text for name in oracle.CHANNELS)


@pytest.mark.parametrize("value", [np.float64(7e6), np.float32(7e6), np.int64(7e6)], ids=lambda v: type(v).__name__)
def test_system_accepts_numpy_numbers(value: np.number) -> None:
    """A rate drawn from an array of rates is a number."""
    assert mj.System(uplink_bps=value) == mj.System(uplink_bps=7e6)


def test_system_defaults_are_the_papers() -> None:
    assert mj.System() == mj.System(ue_hz=1e9, vm_hz=10e9, uplink_bps=7e6, downlink_bps=7e6, channel="paper")
    with pytest.raises(AttributeError):
        mj.System().ue_hz = 2e9


@settings(max_examples=60)
@given(st.lists(st.integers(-3, 5), min_size=3, max_size=3).filter(lambda p: not set(p) <= {0, 1}))
def test_placement_values(placement: list[int]) -> None:
    text = message(lambda: mj.simulate(CHAIN, SYSTEM, placement))
    assert "placement" in text
    assert any(str(value) in text for value in placement if value not in (0, 1))


@given(st.lists(st.integers(0, 1), max_size=8).filter(lambda p: len(p) != 3))
def test_placement_length(placement: list[int]) -> None:
    text = message(lambda: mj.simulate(CHAIN, SYSTEM, placement))
    assert "placement" in text
    assert "3" in text
    assert str(len(placement)) in text or repr(placement) in text


@pytest.mark.parametrize(
    "placement",
    [
        [0.0, 1.0, 0.5],
        [0.0, 1.0, 0.0],
        [0.0, 1.0, math.nan],
        ["0", "1", "0"],
        "010",
        [None, 0, 1],
        None,
        1,
        {0: 1, 1: 0, 2: 1},
        [[0, 1, 0]],
        [[0], [1], [0]],
        [[0, 1], [1], [0]],
        np.zeros((3, 3), int),
        np.array([0, 1, 0], dtype=object),
        np.array([0.0, 1.0, 1.0], np.float32),
        [0j, 1, 0],
    ],
    ids=repr,
)
def test_placement_type_and_rank(placement: object) -> None:
    assert "placement" in message(lambda: mj.simulate(CHAIN, SYSTEM, placement))


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int32, np.int64])
def test_placements_in_any_integer_type(dtype: type) -> None:
    want = mj.simulate(CHAIN, SYSTEM, [0, 1, 1]).makespan
    assert mj.simulate(CHAIN, SYSTEM, np.array([0, 1, 1], dtype)).makespan == want
    assert mj.simulate(CHAIN, SYSTEM, (0, 1, 1)).makespan == want
    assert mj.simulate(CHAIN, SYSTEM, jnp.array([0, 1, 1])).makespan == want


@settings(max_examples=100)
@given(st.data(), dags())
def test_orders_that_are_no_linear_extension(data: st.DataObject, dag: oracle.Dag) -> None:
    num_tasks = dag.num_tasks
    ids = st.lists(st.integers(-1, num_tasks), min_size=num_tasks, max_size=num_tasks)
    order = data.draw(st.one_of(st.permutations(range(num_tasks)), ids))
    graph, placement = to_graph(dag), [0] * num_tasks
    if oracle.is_linear_extension(dag, order):
        assert mj.simulate(graph, SYSTEM, placement, order=order).makespan >= 0
    else:
        assert "order" in message(lambda: mj.simulate(graph, SYSTEM, placement, order=order))


def test_order_message_names_the_edge() -> None:
    text = message(lambda: mj.simulate(CHAIN, SYSTEM, [0, 0, 0], order=[0, 2, 1]))
    assert "order" in text
    assert "1" in text
    assert "2" in text


@pytest.mark.parametrize(
    "order",
    [
        [0, 1],
        [0, 1, 2, 2],
        [0.0, 1.0, 2.0],
        [[0, 1, 2]],
        "012",
        ["0", "1", "2"],
        0,
        [True, False, True],
        [None] * 3,
        [[0, 1], [2]],
    ],
    ids=repr,
)
def test_order_type_and_length(order: object) -> None:
    assert "order" in message(lambda: mj.simulate(CHAIN, SYSTEM, [0, 0, 0], order=order))


@pytest.mark.parametrize("call", [mj.priority_order, mj.greedy, mj.heft, mj.all_local, mj.all_offload])
def test_swapped_or_foreign_arguments(call) -> None:
    for arguments in ((SYSTEM, CHAIN), (None, SYSTEM), (CHAIN, None), (CHAIN, {"ue_hz": 1e9})):
        message(lambda arguments=arguments: call(*arguments))


def test_pack_rejects_what_is_no_graph() -> None:
    for graphs in ([], CHAIN, [CHAIN, None], None):
        message(lambda graphs=graphs: mj.pack(graphs, SYSTEM))
    message(lambda: mj.pack([CHAIN], None))


def test_pack_rejects_bad_orders_and_sizes() -> None:
    for orders in ([], [[0, 1, 2]] * 2, [[0, 2, 1]], [[0, 1]], 5):
        assert "order" in message(lambda orders=orders: mj.pack([CHAIN], SYSTEM, orders=orders))
    for size in (0, 2, -1, 7.5, "7", math.nan):
        text = message(lambda size=size: mj.pack([CHAIN], SYSTEM, num_positions=size))
        assert "num_positions" in text
        assert str(size) in text


def test_pack_refuses_to_fill_the_memory() -> None:
    text = message(lambda: mj.pack([CHAIN] * 4, SYSTEM, num_positions=2**14 + 1))
    assert text == "num_positions is 16385 for 4 graphs (largest 3); accepted: at most 16384"


@pytest.mark.parametrize("dtype", [np.int32, bool, "nonsense", object])
def test_pack_packs_floats(dtype: object) -> None:
    assert "accepted: float32 or float64" in message(lambda: mj.pack([CHAIN], SYSTEM, dtype=dtype))


def test_core_rejects_actions_of_the_wrong_shape_or_type() -> None:
    """Shapes and types are known when tracing; values are not, so the host side checks them."""
    arrays = mj.pack([CHAIN, CHAIN], SYSTEM)
    wrong_shapes = [np.zeros(shape, int) for shape in ((2, 4), (1, 3), (3,), (2, 3, 1))]
    wrong_types = [np.zeros((2, 3)), np.zeros((2, 3), np.float16), np.zeros((2, 3), complex)]
    for actions in wrong_shapes + wrong_types:
        assert "actions" in message(lambda actions=actions: mj.makespan(arrays, actions))


@pytest.mark.parametrize("actions", [[[0, 2, 1]], [[0, 1, -1]]])
def test_core_rejects_other_values(actions: list[list[int]]) -> None:
    arrays = mj.pack([CHAIN], SYSTEM, num_positions=3)
    assert "; accepted: integers 0 or 1 of shape (1, 3)" in message(lambda: mj.makespan(arrays, actions))
    padded = mj.pack([CHAIN], SYSTEM, num_positions=4)
    want = mj.makespan(arrays, [[0, 1, 1]])
    assert mj.makespan(padded, [[0, 1, 1, 7]]) == want  # padding may hold anything


@pytest.mark.parametrize("actions", [None, "010", [[0, 1], [1]], [[None, 0, 1]]])
def test_core_rejects_what_is_no_array(actions: object) -> None:
    assert "actions" in message(lambda: mj.makespan(mj.pack([CHAIN], SYSTEM), actions))


def test_times_beyond_the_dtype_are_refused() -> None:
    huge = mj.TaskGraph.from_edges(cycles=[1e38] * 2, upload_bytes=[0.0] * 2, download_bytes=[0.0] * 2, edges=[])
    text = message(lambda: mj.pack([huge], mj.System(ue_hz=1e-3)))
    assert "overflow float32" in text
    assert mj.simulate(huge, mj.System(ue_hz=1e-3), [0, 0]).makespan == 2e41  # the public simulator has float64


def graph_of(*cycles: float) -> mj.TaskGraph:
    none = [0.0] * len(cycles)
    return mj.TaskGraph.from_edges(cycles=cycles, upload_bytes=none, download_bytes=none, edges=[])


def test_times_that_would_be_zero_in_the_dtype_are_refused() -> None:
    system = mj.System(ue_hz=1.0, vm_hz=1.0)
    text = message(lambda: mj.pack([graph_of(1.0), graph_of(0.0, 1e-39)], system))
    assert text.startswith("graphs[1] under System(")
    assert "a time is 1e-39 s; accepted: 0, or at least 1.17549" in text
    assert mj.pack([graph_of(0.0, 1.2e-38)], system).ue.max() > 0
    assert mj.simulate(graph_of(1e-39), system, [0]).makespan == 1e-39
    assert "a time is 1e-310 s; accepted: 0, or at least 2.22" in message(
        lambda: mj.simulate(graph_of(1e-310), system, [0])
    )


@pytest.mark.parametrize(
    "call", [lambda *a: mj.simulate(*a, [0, 0]), mj.optimum, mj.heft, mj.order_search, mj.all_local]
)
def test_sums_beyond_float64_are_refused(call: Callable[[mj.TaskGraph, mj.System], object]) -> None:
    """Each time is finite, and the makespan of the plan that is all local is not."""
    assert "the times overflow float64, together inf s; accepted: at most 1.797" in message(
        lambda: call(graph_of(1e308, 1e308), mj.System(ue_hz=1.0))
    )
    assert "the times overflow float32, together 4.4e+38 s" in message(
        lambda: mj.pack([graph_of(2e38, 2e38)], mj.System(ue_hz=1.0, vm_hz=10.0))
    )


def test_core_rejects_what_is_not_packed() -> None:
    assert "arrays" in message(lambda: mj.makespan(CHAIN, np.zeros((1, 3), int)))


def test_settings_know_the_simulators_channels() -> None:
    assert tuple(CHANNELS) == CHANNEL_NAMES
