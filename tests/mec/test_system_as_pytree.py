"""A `System` in JAX code: its clocks and rates are leaves, which may be arrays and traced."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mrlato_jax as mj

RATES = ("ue_hz", "vm_hz", "uplink_bps", "downlink_bps")
GRAPH = mj.TaskGraph.from_edges(cycles=[1e7, 2e7], upload_bytes=[1e4, 2e4], download_bytes=[3e4, 1e4], edges=[(0, 1)])


def offloaded(system: mj.System) -> jax.Array:
    """The time that 1 MB takes up and down."""
    return 8e6 / system.uplink_bps + 8e6 / system.downlink_bps


def test_its_leaves_are_its_clocks_and_rates() -> None:
    system = mj.System(1e9, 2e9, 3e6, 4e6, "mrlco")
    leaves, structure = jax.tree.flatten(system)
    assert leaves == [1e9, 2e9, 3e6, 4e6]
    assert jax.tree.unflatten(structure, leaves) == system
    assert structure != jax.tree.structure(mj.System(1e9, 2e9, 3e6, 4e6))  # of another channel
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(system)]
    assert paths == [f".{name}" for name in RATES]


def test_many_systems_under_vmap_and_one_under_jit() -> None:
    uplinks = np.array([1e6, 2e6, 4e6])
    system = mj.System(downlink_bps=8e6)
    each = jax.vmap(lambda rate: offloaded(dataclasses.replace(system, uplink_bps=rate)))(uplinks)
    np.testing.assert_allclose(each, [9.0, 5.0, 3.0], rtol=1e-6)
    many = mj.System(np.full(3, 1e9), np.full(3, 1e10), uplinks, np.array([8e6, 4e6, 2e6]))
    np.testing.assert_allclose(jax.vmap(offloaded)(many), [9.0, 6.0, 6.0], rtol=1e-6)
    traced = []

    @jax.jit
    def compiled(system: mj.System) -> jax.Array:
        traced.append(system.channel)
        return offloaded(system)

    assert float(compiled(mj.System(uplink_bps=8e6, downlink_bps=8e6))) == pytest.approx(2.0)
    assert float(compiled(mj.System(uplink_bps=4e6, downlink_bps=2e6))) == pytest.approx(6.0)
    assert traced == ["paper"]
    slope = jax.grad(lambda system: offloaded(system))(mj.System(uplink_bps=2e6))
    assert float(slope.uplink_bps) == pytest.approx(-2e-6)


@pytest.mark.parametrize(
    ("value", "phrase"),
    [
        (np.array([7e6, 0.0]), r"System.uplink_bps has an entry 0.0; accepted: positive finite numbers"),
        (np.array([[7e6, -1.0]]), "has an entry -1.0"),
        (np.array([np.nan]), "has an entry nan"),
        (jnp.array([7e6, jnp.inf]), "has an entry inf"),
        (np.array([True]), "is an array of bool"),
        (np.array(["7e6"]), "is an array of <U3"),
        (np.array([7j]), "is an array of complex128"),
        (np.array([7e6], object), "is an array of object"),
    ],
)
def test_wrong_arrays(value: object, phrase: str) -> None:
    with pytest.raises(mj.InputError, match=phrase):
        mj.System(uplink_bps=value)  # type: ignore[arg-type]


def test_a_traced_value_has_a_dtype_of_numbers() -> None:
    with pytest.raises(mj.InputError, match="uplink_bps is an array of bool"):
        jax.jit(lambda rate: mj.System(uplink_bps=rate).uplink_bps)(True)


@pytest.mark.parametrize(
    "call",
    [
        lambda system: mj.simulate(GRAPH, system, [0, 1]),
        lambda system: mj.pack([GRAPH], system),
        lambda system: mj.heft(GRAPH, system),
        lambda system: mj.priority_order(GRAPH, system),
    ],
    ids=["simulate", "pack", "heft", "priority_order"],
)
def test_functions_of_the_host_take_one_system_of_numbers(call: Callable[[mj.System], object]) -> None:
    with pytest.raises(mj.InputError, match=r"System.vm_hz is array\(.*; accepted here: a number"):
        call(mj.System(vm_hz=np.array([1e9, 2e9])))
    with pytest.raises(mj.InputError, match=r"System.ue_hz is .*float32\[\].*; accepted here: a number"):
        jax.jit(call)(mj.System())
    call(mj.System(vm_hz=jnp.float32(2e9)))  # an array of one number


def test_a_number_that_comes_back_from_jit_is_the_number() -> None:
    system = jax.jit(lambda system: system)(mj.System())
    assert mj.simulate(GRAPH, system, [1, 1]).makespan == mj.simulate(GRAPH, mj.System(), [1, 1]).makespan


def test_plans_are_pytrees() -> None:
    searched = mj.local_search(GRAPH, mj.System(), restarts=0)
    for plan in (mj.heft(GRAPH, mj.System()), searched, mj.optimum(GRAPH, mj.System())):
        leaves, structure = jax.tree.flatten(plan)
        again = jax.tree.unflatten(structure, leaves)
        assert type(again) is type(plan)
        assert jax.tree.structure(plan.schedule).num_leaves == 6
        assert structure.num_leaves == len(dataclasses.fields(plan)) - 1 + 6
        assert again.makespan == plan.makespan
        np.testing.assert_array_equal(again.schedule.ue_end, plan.schedule.ue_end)
    both = jax.tree.map(lambda *values: np.stack(values), mj.all_local(GRAPH, mj.System()), mj.heft(GRAPH, mj.System()))
    assert both.placement.shape == both.schedule.ue_end.shape == (2, 2)
    assert both.makespan.shape == (2,)
