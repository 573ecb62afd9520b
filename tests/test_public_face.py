"""The names that other programs call (`import mrlato_jax as mj`) and what each does in its simplest use."""

from __future__ import annotations

import types
from collections.abc import Mapping

import numpy as np
import pytest

import mrlato_jax as mj

NAMES = (
    "System", "TaskGraph", "read_dot", "daggen", "priority_order", "simulate", "greedy", "heft", "pack", "makespan",
    "load_offloader",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_name_is_public(name: str) -> None:
    assert name in mj.__all__
    assert callable(getattr(mj, name))


def test_all_is_true() -> None:
    assert sorted(set(mj.__all__)) == sorted(mj.__all__)
    assert all(hasattr(mj, name) for name in mj.__all__)
    undeclared = {
        name
        for name, value in vars(mj).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType) and name not in mj.__all__
    }
    assert undeclared <= {"annotations"}


def test_every_public_object_is_documented() -> None:
    assert mj.__doc__
    for name in mj.__all__:
        value = getattr(mj, name)
        assert isinstance(value, Mapping) or value.__doc__, name  # a list of others has no docstring of its own


def test_planners_and_methods_are_listed() -> None:
    graph = mj.daggen(num_tasks=4, fat=0.5, density=0.5, rng=np.random.default_rng(0))
    assert {"greedy", "heft", "look_ahead", "local_search", "order_search", "optimum"} <= set(mj.PLANNERS)
    for name, planner in mj.PLANNERS.items():
        assert getattr(mj, name) is planner
        assert planner.__doc__
    for name in ("heft", "look_ahead", "optimum"):
        assert isinstance(mj.PLANNERS[name](graph, mj.System()), mj.Plan)
    assert list(mj.METHODS) == ["mrlato", "mrlco", "drl", "mrlato_plus", "mrlato_plus_order"]
    assert all(method.name == name for name, method in mj.METHODS.items())
    with pytest.raises(TypeError):
        mj.METHODS["mine"] = mj.METHODS["mrlato"]  # type: ignore[index]


def test_version_is_a_version() -> None:
    assert mj.__version__.split(".")[0].isdigit()


def test_every_public_name_in_one_program() -> None:
    """An application and a system through orders, schedules, plans and batches."""
    system = mj.System(ue_hz=1e9, vm_hz=10e9, uplink_bps=7e6, downlink_bps=7e6, channel="paper")
    graph = mj.TaskGraph.from_edges(
        cycles=[1e8, 5e7, 2e7], upload_bytes=[5e4, 2e4, 1e4], download_bytes=[5e4, 2e4, 1e4], edges=[(0, 1), (0, 2)]
    )
    order = mj.priority_order(graph, system)
    assert order.tolist() == [0, 1, 2]
    schedule = mj.simulate(graph, system, [0, 1, 0], order=None)
    assert schedule.makespan == pytest.approx(0.1 + 8 * 2e4 / 7e6 + 5e7 / 10e9 + 8 * 2e4 / 7e6, rel=1e-12)
    for field in ("upload_end", "vm_end", "download_end", "ue_end"):
        assert getattr(schedule, field).shape == (3,)
        assert getattr(schedule, field).dtype == np.float64
    assert (schedule.upload_end[[0, 2]] == 0).all()
    assert schedule.ue_end[1] == 0
    for plan in (mj.greedy(graph, system), mj.heft(graph, system)):
        assert plan.makespan == plan.schedule.makespan
        assert plan.makespan <= 0.17
        assert plan.placement.shape == plan.order.shape == (3,)
    arrays = mj.pack([graph, graph], system)
    spans = mj.makespan(arrays, np.array([[0, 0, 0], [0, 1, 0]]))
    np.testing.assert_allclose(spans, [0.17, schedule.makespan], rtol=1e-6)
    drawn = mj.daggen(num_tasks=25, fat=0.7, density=0.4, rng=np.random.default_rng(0))
    assert mj.simulate(drawn, system, [0] * 25).makespan > 0.1


def test_read_dot(tmp_path) -> None:
    """Ids sorted as numbers (10 after 9) become 0..n-1; `.names` keeps them."""
    path = tmp_path / "app.gv"
    lines = [f'  {i} [size="{1000 * i}", alpha="0.1", expect_size="{10 * i}"]' for i in (10, 2, 9)]
    path.write_text("digraph G {\n" + "\n".join([*lines, '  2 -> 10 [size="20"]', '  9 -> 10 [size="90"]']) + "\n}\n")
    graph = mj.read_dot(path, cycles_per_byte=1000.0)
    assert list(graph.names) == ["2", "9", "10"]
    system = mj.System(ue_hz=1e6, vm_hz=4e6, uplink_bps=8e3, downlink_bps=8e2)
    assert mj.simulate(graph, system, [0, 0, 0], order=[0, 1, 2]).ue_end.tolist() == [2.0, 11.0, 21.0]
    # Task 1: upload 2 + 9 s, VM 9e6 / 4e6 = 2.25 s, download 8 * 90 / 800 = 0.9 s; then task 2 uploads for 10 s.
    schedule = mj.simulate(graph, system, [1, 1, 1], order=[0, 1, 2])
    np.testing.assert_allclose(schedule.upload_end, [2.0, 11.0, 24.15], rtol=1e-12)
    assert mj.read_dot(str(path), cycles_per_byte=1000.0).num_tasks == 3


def test_64_bit_is_never_switched_on_globally() -> None:
    import jax

    graph = mj.daggen(num_tasks=10, fat=0.5, density=0.5, rng=np.random.default_rng(1))
    mj.simulate(graph, mj.System(), [1] * 10)
    mj.heft(graph, mj.System())
    assert not jax.config.jax_enable_x64
    assert jax.numpy.zeros(1).dtype == np.float32


def test_inputs_are_not_modified_or_kept() -> None:
    cycles = np.array([1e8, 5e7])
    graph = mj.TaskGraph.from_edges(cycles=cycles, upload_bytes=[1e4, 1e4], download_bytes=[1e4, 1e4], edges=[(0, 1)])
    before = mj.simulate(graph, mj.System(), [0, 0]).makespan
    cycles[:] = 0.0
    assert mj.simulate(graph, mj.System(), [0, 0]).makespan == before
    placement = np.array([0, 1])
    mj.simulate(graph, mj.System(), placement)
    assert placement.tolist() == [0, 1]
