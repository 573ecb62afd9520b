"""The testbed with a disturbance: what it refuses, what changes over time, and real runs where the model is wrong."""

from __future__ import annotations

import itertools
import math
import time
from concurrent.futures import wait

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mrlato_jax as mj
from mrlato_jax.edge.testbed import Bed, cannot_make, changes, factors, real_system
from mrlato_jax.mec.disturbance import world_of

FAST = mj.System(ue_hz=1e10, vm_hz=1e11, uplink_bps=70e6, downlink_bps=70e6)
SLOWER = mj.System(ue_hz=4e9, vm_hz=4e10, uplink_bps=28e6, downlink_bps=28e6)
NAMES = ["exp2:n10:0"]


def test_the_testbed_refuses_a_disturbance_that_it_cannot_make() -> None:
    for name, phrase in (
        ("jitter", "disturbance.jitter is 0.4"),
        ("VM slows under load", "disturbance.vm_slowdown is"),
    ):
        with pytest.raises(mj.InputError, match=f"{phrase}.*; accepted on the testbed: "):
            Bed(FAST, NAMES, disturbance=mj.DISTURBANCES[name])
    with pytest.raises(mj.InputError, match=r"link is netns, but disturbance\.half_duplex is True; accepted: paced"):
        Bed(FAST, NAMES, link="netns", disturbance=mj.DISTURBANCES["half-duplex link"])
    with pytest.raises(mj.InputError, match="disturbance is 'jitter'; accepted: a Disturbance"):
        Bed(FAST, NAMES, disturbance="jitter")  # type: ignore[arg-type]
    slow_vm = next(seed for seed in range(50) if world_of(mj.Disturbance(clocks_within=30.0, seed=seed), 1).vm[0] > 20)
    with pytest.raises(mj.InputError, match="Hz; accepted: at most the VM's clock"):
        Bed(FAST, NAMES, disturbance=mj.Disturbance(clocks_within=30.0, seed=slow_vm))
    assert [name for name, one in mj.DISTURBANCES.items() if not cannot_make(one)] == [
        "unknown clocks", "unknown rates", "half-duplex link", "shared link", "changing rate",
    ]  # fmt: skip


def test_the_real_system_has_the_clocks_and_rates_of_the_world() -> None:
    disturbance = mj.Disturbance(clocks_within=3.0, rates_within=2.0, seed=3)
    real, world = real_system(FAST, disturbance), world_of(disturbance, 1)
    assert FAST.ue_hz / real.ue_hz == pytest.approx(float(world.ue))
    assert FAST.vm_hz / real.vm_hz == pytest.approx(float(world.vm[0]))
    assert FAST.uplink_bps / real.uplink_bps == pytest.approx(float(world.uplink[0]))
    assert FAST.downlink_bps / real.downlink_bps == pytest.approx(float(world.downlink[0]))
    graph = mj.daggen(8, 0.6, 0.6, np.random.default_rng(0))
    sites = np.arange(8) % 2
    order = mj.priority_order(graph, FAST)
    assert mj.simulate(graph, real, sites, order).makespan == pytest.approx(
        mj.execute(graph, FAST, sites, disturbance, order=order).makespan, rel=1e-5
    )


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([1.0, 0.3]), st.sampled_from([1.0, 3.0]), st.floats(0.1, 5), st.integers(0, 99))
def test_rates_change_as_the_disturbance_says(share: float, within: float, period: float, seed: int) -> None:
    one = mj.Disturbance(share=share, share_s=0.2, rate_changes_within=within, rate_period_s=period, seed=seed)
    pieces = list(itertools.islice(factors(one), 1 if not changes(one) else 200))
    ends, values = (np.array(column) for column in zip(*pieces, strict=True))
    assert (np.diff(ends) > 0).all()
    assert ((values >= share / within * (1 - 1e-9)) & (values <= within)).all()
    if within > 1:
        changed = ends[np.isclose(ends / period, np.round(ends / period))]
        assert len(changed) >= ends[-2] // period if share < 1 else len(changed) == len(ends)
    if share < 1 and within == 1:
        assert set(values.tolist()) == {1.0, share}
        assert (values[1:] != values[:-1]).all()  # others use the link and pause, by turns
        assert 0.1 < np.diff(ends).mean() < 0.35  # 0.2 s in the mean
    if not changes(one):
        assert pieces == [(math.inf, 1.0)]


def test_runs_on_a_half_duplex_link_take_what_the_simulation_says() -> None:
    """All results cross the same medium as all inputs. After a bad plan the testbed goes on."""
    disturbance = mj.DISTURBANCES["half-duplex link"]
    rng = np.random.default_rng(0)
    graphs = [mj.daggen(10, 0.7, 0.5, rng) for _ in range(2)]
    with (
        Bed(SLOWER, NAMES, link="paced", vm="process", disturbance=disturbance) as bed,
        bed.executing() as run,
    ):
        assert bed.link == "paced"
        for graph in graphs:
            plan = mj.all_offload(graph, SLOWER)
            half, full = (
                mj.execute(graph, SLOWER, plan.placement, one, order=plan.order).makespan
                for one in (disturbance, mj.Disturbance())
            )
            least = min(run(graph, plan.placement, plan.order).makespan for _ in range(3))
            assert 1.2 * full < 0.9 * half < least < 1.3 * half + 0.05
        for wrong in (graphs[0], "a graph"):
            with pytest.raises(mj.InputError, match="placement" if wrong is graphs[0] else "graph is 'a graph'"):
                run(wrong, np.full(10, 7), plan.order)  # type: ignore[arg-type]
        assert run(graphs[0], plan.placement, mj.heft(graphs[0], SLOWER).order).events == ()
    with pytest.raises(mj.InputError, match="run is called after the end of its context"):
        run(graphs[0], plan.placement, plan.order)


def test_only_a_host_with_a_dag_executes_dags() -> None:
    bed = Bed(FAST, ["ar"], link="paced", vm="process")
    with pytest.raises(mj.InputError, match="accepted for executing: a DAG among them"), bed.executing():
        pass


def test_rates_change_while_applications_run() -> None:
    """While others use the link, a plan takes many times as long as while they pause."""
    disturbance = mj.Disturbance(share=0.02, share_s=0.5, seed=2)
    graph = mj.daggen(10, 0.7, 0.5, np.random.default_rng(0))
    plan, seconds, until = mj.all_offload(graph, FAST), list[float](), time.monotonic() + 30
    with Bed(FAST, NAMES, vm="process", disturbance=disturbance) as bed, bed.executing() as run:
        assert bed.link == "paced"
        run(graph, plan.placement, plan.order)  # the first run is slower
        while time.monotonic() < until and (len(seconds) < 2 or max(seconds) < 4 * min(seconds)):
            seconds.append(run(graph, plan.placement, plan.order).makespan)
    assert max(seconds) > 4 * min(seconds)
    assert min(seconds) < 2 * plan.makespan + 0.05


def test_a_fault_of_the_link_ends_the_next_run() -> None:
    disturbance = mj.Disturbance(share=0.5, share_s=0.02)
    graph = mj.daggen(10, 0.7, 0.5, np.random.default_rng(0))
    plan = mj.all_local(graph, FAST)
    with Bed(FAST, NAMES, vm="process", disturbance=disturbance) as bed, bed.executing() as run:
        run(graph, plan.placement, plan.order)
        assert bed._paced is not None
        assert bed._changed is not None
        bed._paced.process.kill()
        wait([bed._changed], timeout=10)
        with pytest.raises(ConnectionError, match="the link's process has ended"):
            run(graph, plan.placement, plan.order)
