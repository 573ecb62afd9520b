"""Executions under a disturbance, against the simulator and against a plain simulation of events."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.mec import execution
from mrlato_jax.mec.disturbance import World, seen_from, world_of

FIELDS = ("makespan", "upload_end", "vm_end", "download_end", "ue_end", "energy")
SYSTEM = mj.System(vm_hz=2e9, uplink_bps=5e6, downlink_bps=9e6)
TWO_SERVERS = {"vm_hz": [2e9, 3e9], "uplink_bps": [5e6, 7e6], "downlink_bps": [9e6, 8e6]}


def drawn(rng: np.random.Generator, system: mj.System = SYSTEM, most: int = 12) -> tuple[mj.TaskGraph, np.ndarray]:
    graph = mj.daggen(int(rng.integers(1, most + 1)), 0.6, 0.6, rng)
    return graph, rng.integers(0, system.num_sites, graph.num_tasks)


@pytest.mark.parametrize(
    "system", [SYSTEM, mj.System(**TWO_SERVERS), mj.System(**TWO_SERVERS, radio="separate")], ids=["1", "2", "radios"]
)
def test_undisturbed_execution_is_the_simulated_one(system: mj.System) -> None:
    rng = np.random.default_rng(0)
    for seed in range(10):
        graph, sites = drawn(rng, system)
        expected, got = mj.simulate(graph, system, sites), mj.execute(graph, system, sites, mj.Disturbance(), seed)
        for field in FIELDS:
            np.testing.assert_allclose(getattr(got, field), getattr(expected, field), rtol=1e-9, atol=1e-12)


def test_constants_are_those_of_another_system() -> None:
    """With clocks and rates off, an execution is the simulation under the system that the world stands for."""
    disturbance = mj.Disturbance(clocks_within=4.0, rates_within=2.0, seed=3)
    world = world_of(disturbance, 1, np.float64)
    real = mj.System(
        ue_hz=SYSTEM.ue_hz / world.ue,
        vm_hz=SYSTEM.vm_hz / world.vm[0],
        uplink_bps=SYSTEM.uplink_bps / world.uplink[0],
        downlink_bps=SYSTEM.downlink_bps / world.downlink[0],
    )
    factors = np.array([world.ue, *world.vm, *world.uplink, *world.downlink])
    assert len({*factors}) == 4
    assert (abs(np.log(factors)) <= np.log([4, 4, 2, 2])).all()
    graph, sites = drawn(np.random.default_rng(1))
    order = mj.priority_order(graph, SYSTEM)
    got = mj.execute(graph, SYSTEM, sites, disturbance)
    assert got.makespan == pytest.approx(mj.simulate(graph, real, sites, order).makespan, rel=1e-9)
    # A planner that knows the real system is in an undisturbed world.
    known = seen_from(world, SYSTEM, real)
    np.testing.assert_allclose([known.ue, *known.vm, *known.uplink, *known.downlink], 1)


def pieces_sent(rate: execution.Rate, begin: float, end: float) -> float:
    """Seconds at full rate that a link is worth between two times, piece by piece."""
    edges, worth = [*rate.begin.tolist(), np.inf], 0.0
    for first, last, factor in zip(edges[:-1], edges[1:], rate.factor.tolist(), strict=True):
        worth += factor * max(0.0, min(end, last) - max(begin, first))
    return worth


def by_events(
    graph: mj.TaskGraph, system: mj.System, sites: np.ndarray, disturbance: mj.Disturbance, rate: execution.Rate
) -> np.ndarray:
    """When each result is at the UE: work that can begin begins, one event after the other.

    The next work to begin is the one with the earliest start; on a half-duplex link, then the one ready first.
    """
    parents = [graph.parents(task).tolist() for task in range(graph.num_tasks)]
    todo: dict[str, list[int]] = {"UE": [], "uplink": [], "VM": [], "downlink": []}
    for task in mj.priority_order(graph, system).tolist():
        for queue in ("uplink", "VM", "downlink") if sites[task] else ("UE",):
            todo[queue].append(task)
    free, ended, busy = dict.fromkeys(todo, 0.0), {}, 0.0

    def ready(queue: str, task: int) -> float | None:
        if queue in ("UE", "uplink"):
            needed = [("downlink" if sites[parent] else "UE", parent) for parent in parents[task]]
        else:
            needed = [("uplink" if queue == "VM" else "VM", task)]
        return max((ended[one] for one in needed), default=0.0) if all(one in ended for one in needed) else None

    while any(todo.values()):
        heads = [(queue, tasks[0], ready(queue, tasks[0])) for queue, tasks in todo.items() if tasks]
        start, _, queue, task = min(
            (max(free[queue], at), at, queue, task) for queue, task, at in heads if at is not None
        )
        todo[queue].pop(0)
        if queue == "UE":
            end = start + graph.cycles[task] / system.ue_hz
        elif queue == "VM":
            work = graph.cycles[task] / system.vm_hz
            fast = min(max(disturbance.vm_burst_s - busy, 0.0), work)
            busy, end = busy + work, start + fast + disturbance.vm_slowdown * (work - fast)
        else:
            up = queue == "uplink"
            seconds = 8 * (graph.upload_bytes if up else graph.download_bytes)[task]
            seconds /= system.uplink_bps if up else system.downlink_bps
            low, high = start, start + 100 * seconds
            for _ in range(60):  # no closed form: bisection
                end = (low + high) / 2
                low, high = (end, high) if pieces_sent(rate, start, end) < seconds else (low, end)
            assert pieces_sent(rate, start, end) == pytest.approx(seconds, rel=1e-9)
        both = disturbance.half_duplex and queue in ("uplink", "downlink")
        for one in ("uplink", "downlink") if both else (queue,):
            free[one] = end
        ended[queue, task] = end
    return np.array([ended["downlink" if sites[task] else "UE", task] for task in range(graph.num_tasks)])


@pytest.mark.parametrize(
    "changes",
    [
        {"half_duplex": True},
        {"vm_burst_s": 0.05, "vm_slowdown": 4.0},
        {"share": 0.3, "share_s": 0.02},
        {"rate_changes_within": 3.0, "rate_period_s": 0.05},
        {"half_duplex": True, "vm_burst_s": 0.05, "vm_slowdown": 4.0, "share": 0.3, "rate_changes_within": 3.0},
    ],
    ids=lambda changes: next(iter(changes)) if len(changes) < 5 else "all",
)
def test_execution_against_plain_events(changes: dict[str, Any]) -> None:
    rng, disturbance = np.random.default_rng(2), mj.Disturbance(**changes)
    world = jax.tree.map(np.asarray, world_of(disturbance, 1, np.float64))
    for seed in range(8):
        graph, sites = drawn(rng)
        with jax.enable_x64(True):
            rate = jax.device_get(execution.rate_of(world, jax.random.split(jax.random.key(seed))[1]))
        expected = by_events(graph, SYSTEM, sites, disturbance, rate)
        got = mj.execute(graph, SYSTEM, sites, disturbance, seed)
        np.testing.assert_allclose(np.maximum(got.ue_end, got.download_end), expected, rtol=1e-8)


def test_links_are_never_faster_when_they_share_a_medium() -> None:
    rng, slower = np.random.default_rng(3), 0
    for _ in range(20):
        graph, sites = drawn(rng)
        full, half = (mj.execute(graph, SYSTEM, sites, mj.Disturbance(half_duplex=half)) for half in (False, True))
        for field in FIELDS[1:5]:
            assert (getattr(half, field) >= getattr(full, field) - 1e-12).all()
        slower += half.makespan > full.makespan
    assert slower > 5


def test_rates_are_what_the_disturbance_says() -> None:
    """Others use the link half of the time; factors stay within their limits; the first change is within a period."""
    disturbance = mj.Disturbance(share=0.25, share_s=0.1, rate_changes_within=2.0, rate_period_s=0.5)
    world = world_of(disturbance, 1)
    rates = jax.jit(jax.vmap(execution.rate_of, in_axes=(None, 0)))(world, jax.random.split(jax.random.key(0), 200))
    assert (rates.begin[:, 0] == 0).all()
    assert (np.diff(rates.begin) >= 0).all()
    assert float(rates.factor.max()) <= 2.0 + 1e-5
    assert float(rates.factor.min()) >= 0.25 / 2.0 - 1e-5
    worth = [pieces_sent(jax.tree.map(lambda leaf, i=i: leaf[i], rates), 0.0, 4.0) / 4.0 for i in range(200)]
    expected = (1 + 0.25) / 2 * (2.0 - 0.5) / np.log(4.0)  # mean of the share times mean of the factor
    assert np.mean(worth) == pytest.approx(expected, rel=0.05)


def test_jitter_is_of_mean_one_and_seeded() -> None:
    graph = mj.TaskGraph.from_edges(cycles=[1e9], upload_bytes=[1e6], download_bytes=[1e6], edges=[])
    disturbance = mj.Disturbance(jitter=0.5)
    ends = np.array([mj.execute(graph, SYSTEM, [0], disturbance, seed).ue_end[0] for seed in range(300)])
    assert ends[7] == mj.execute(graph, SYSTEM, [0], disturbance, 7).ue_end[0]
    assert len({*ends}) == 300
    assert ends.mean() == pytest.approx(1.0, abs=0.1)
    assert np.log(ends).std() == pytest.approx(0.5, abs=0.07)
    other = mj.execute(graph, SYSTEM, [0], dataclasses.replace(disturbance, seed=1), 7)
    assert other.ue_end[0] == ends[7]  # its seed is that of clocks and rates alone


def test_order_is_that_of_the_caller() -> None:
    graph = mj.TaskGraph.from_edges(cycles=[1e9, 2e9], upload_bytes=[1e6, 1e6], download_bytes=[1e6, 1e6], edges=[])
    for order in ([0, 1], [1, 0]):
        got = mj.execute(graph, SYSTEM, [0, 0], mj.Disturbance(), order=order)
        np.testing.assert_allclose(got.ue_end, mj.simulate(graph, SYSTEM, [0, 0], order).ue_end)


@pytest.mark.parametrize("name", list(mj.DISTURBANCES))
def test_named_disturbances_change_executions(name: str) -> None:
    graph = mj.daggen(12, 0.6, 0.6, np.random.default_rng(4))
    plan = mj.heft(graph, mj.System())
    times = {mj.execute(graph, mj.System(), plan.placement, mj.DISTURBANCES[name], s).makespan for s in range(2)}
    assert all(abs(one - plan.makespan) > 1e-3 * plan.makespan for one in times)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": 0.0}, "Disturbance.share is 0.0; accepted: a finite number in (0, 1]"),
        ({"clocks_within": 0.5}, "Disturbance.clocks_within is 0.5; accepted: a finite number in [1, inf)"),
        ({"half_duplex": 1}, "half_duplex"),
        ({"rate_period_s": 0.0}, "Disturbance.rate_period_s is 0.0; accepted: a finite number in (0, inf)"),
    ],
)
def test_bad_disturbances_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(mj.InputError, match=re.escape(message)):
        mj.Disturbance(**changes)


def test_executions_follow_the_rules_of_the_paper_alone() -> None:
    graph = mj.daggen(3, 0.6, 0.6, np.random.default_rng(5))
    with pytest.raises(mj.InputError, match="channel 'mrlco'; accepted with measured makespans: 'paper'"):
        mj.execute(graph, mj.System(channel="mrlco"), [0, 0, 0], mj.Disturbance())


def test_world_is_a_record_of_numbers() -> None:
    worlds = [world_of(one, 2) for one in mj.DISTURBANCES.values()]
    assert all(isinstance(world, World) and world.vm.shape == (2,) for world in worlds)
    assert len({jax.tree.structure(world) for world in worlds}) == 1  # so they can be stacked
