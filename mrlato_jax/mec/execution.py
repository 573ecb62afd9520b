"""Executions of plans on a system that differs from the model by a `Disturbance`.

The recurrence in `mec.latency` serves each resource in scheduling order, at constant speed. An execution keeps this
order on each resource, too, but follows the events in time, since speeds change with time and load, and a half-duplex
link serves whichever transfer is ready first. Without a disturbance both give the same schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number, check_type, shorten
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.disturbance import Disturbance, World, world_of
from mrlato_jax.mec.latency import LOCAL, Schedule, check_placement, one_by_one, pack_float64
from mrlato_jax.mec.system import Power, System

UE, UPLINK, VM, DOWNLINK = range(4)  # the kinds of work
UNDISTURBED = Disturbance()
Executor = Callable[[TaskGraph, np.ndarray, np.ndarray], Schedule]  # (graph, placement, order): executes a plan once
CHANGES = 64  # changes of the link that an execution draws, of each sort; afterwards the link stays as it is


class Rate(NamedTuple):
    """The rate of a link over time, as a factor of its own rate: piecewise constant, without end after the last."""

    begin: jax.Array  # [M], seconds; the first is 0
    factor: jax.Array  # [M]
    sent: jax.Array  # [M], seconds at full rate that are worth what was sent until `begin`


class Execution(NamedTuple):
    """An execution of a plan; seconds, 0 for unused resources."""

    start: Any  # [4, N], by kind of work and position; on the host also by task
    end: Any  # [4, N]


class _Progress(NamedTuple):
    free: jax.Array  # [Q], when each queue's resource is free
    start: jax.Array  # [4, N], seconds; infinite before the work
    end: jax.Array  # [4, N]
    computed: jax.Array  # [Q], seconds of work that a VM has done


def rate_of(world: World, key: jax.Array) -> Rate:
    """Draws the rate of the link during one execution.

    Args:
        world: one world, no leading axes.
        key: consumed.
    """
    waits_key, busy_key, factor_key, phase_key = jax.random.split(key, 4)
    dtype = world.share.dtype
    waits = world.share_s * jax.random.exponential(waits_key, (CHANGES,), dtype)
    others = jnp.concatenate([jnp.zeros(1, dtype), jnp.cumsum(waits)])
    phase = jax.random.uniform(phase_key, (), dtype)
    periods = jnp.maximum(world.rate_period_s * (jnp.arange(CHANGES + 1) - phase), 0)
    shares = jnp.where((jnp.arange(CHANGES + 1) + jax.random.bernoulli(busy_key)) % 2 == 1, world.share, 1)
    factors = jnp.exp(world.rate_changes * jax.random.uniform(factor_key, (CHANGES + 1,), dtype, -1, 1))
    begin = jnp.sort(jnp.concatenate([others, periods]))
    piece = jax.vmap(_piece, in_axes=(None, 0))
    factor = shares[piece(others, begin)] * factors[piece(periods, begin)]
    return rate_table(begin, factor)


def rate_table(begin: jax.Array, factor: jax.Array) -> Rate:
    """Returns the `Rate` with these pieces; `begin` ascends from 0."""
    sent = jnp.cumsum(jnp.diff(begin) * factor[:-1])
    return Rate(begin, factor, jnp.concatenate([jnp.zeros(1, sent.dtype), sent]))


def _piece(begin: jax.Array, at: jax.Array) -> jax.Array:
    """Returns the last entry of the ascending `begin` that is not after the time `at`."""
    return (begin <= at).sum() - 1  # fewer operations than a binary search, within the loop over events


def transferred_at(rate: Rate, start: jax.Array, seconds: jax.Array) -> jax.Array:
    """Returns when a transfer ends that begins at `start` and takes `seconds` at full rate."""
    first = _piece(rate.begin, start)
    worth = rate.sent[first] + rate.factor[first] * (start - rate.begin[first]) + seconds
    last = _piece(rate.sent, worth)
    return jnp.maximum(rate.begin[last] + (worth - rate.sent[last]) / rate.factor[last], start)


def execution(dag: DagArrays, sites: jax.Array, world: World, key: jax.Array) -> Execution:
    """Executes a plan once; for use inside `jax.jit`.

    Args:
        dag: one DAG, no leading axes, under the channel rules "paper".
        sites: int32[N], sites in scheduling order.
        world: one world, no leading axes.
        key: key of the execution's draws; consumed.
    """
    jitter_key, rate_key = jax.random.split(key)
    size, servers = dag.vm.shape
    radios = 1 if dag.radio == "shared" else servers
    kinds = np.array([UE] + [UPLINK] * radios + [VM] * servers + [DOWNLINK] * radios)
    rate = rate_of(world, rate_key)
    drawn = jax.random.normal(jitter_key, (4, size), dag.ue.dtype)
    jitter = jnp.exp(world.jitter * drawn - world.jitter**2 / 2)

    # Queues: the UE, the uplinks, the VMs, the downlinks. Each serves its work in scheduling order.
    at_server = dag.mask[:, None] & (sites[:, None] == np.arange(1, servers + 1)[None])  # [N, K]
    through = at_server.any(axis=1, keepdims=True) if radios == 1 else at_server
    local = dag.mask & ~at_server.any(axis=1)

    def on_radios(seconds: jax.Array) -> jax.Array:
        taken = jnp.where(at_server, seconds, 0)
        return taken.sum(axis=1, keepdims=True) if radios == 1 else taken

    needed = jnp.concatenate([local[:, None], through, at_server, through], axis=1).T  # [Q, N]
    work = jnp.concatenate(
        [
            (dag.ue * world.ue)[:, None],
            on_radios(dag.uplink * world.uplink[None]),
            dag.vm * world.vm[None],
            on_radios(dag.downlink * world.downlink[None]),
        ],
        axis=1,
    ).T  # [Q, N], seconds at full speed
    work = work * jitter[kinds]
    # Under half-duplex, a transfer occupies the uplink and the downlink of its radio.
    alone, both = np.eye(len(kinds), dtype=bool), np.eye(len(kinds), dtype=bool)
    for radio in range(radios):
        up, down = 1 + radio, 1 + radios + servers + radio
        both[up, down] = both[down, up] = True
    occupied = jnp.where(world.half_duplex, both, alone)

    def serve(_: int, done: _Progress) -> _Progress:
        home = jnp.minimum(done.end[UE], done.end[DOWNLINK])
        inputs = jnp.max(jnp.where(dag.parents, home[None], 0), axis=1)
        ready = jnp.stack([inputs, inputs, done.end[UPLINK], done.end[VM]])[kinds]  # [Q, N]
        waiting = needed & jnp.isinf(done.end)[kinds]
        first = waiting & (jnp.cumsum(waiting, axis=1) == 1)
        begins = jnp.where(first, jnp.maximum(done.free[:, None], ready), jnp.inf)
        # The next event is the earliest start; of several on a half-duplex link, what was ready first.
        start = begins.min()
        chosen = jnp.argmin(jnp.where(begins == start, ready, jnp.inf))
        queue, position = chosen // size, chosen % size
        seconds, kind = work[queue, position], jnp.asarray(kinds)[queue]
        credit = jnp.clip(world.vm_burst_s - done.computed[queue], 0, seconds)
        slowed = start + credit + (seconds - credit) * world.vm_slowdown
        on_link = (kind == UPLINK) | (kind == DOWNLINK)
        end = jnp.where(on_link, transferred_at(rate, start, seconds), jnp.where(kind == VM, slowed, start + seconds))
        one = jnp.isfinite(start) & (np.arange(4)[:, None] == kind) & (jnp.arange(size)[None] == position)
        served = jnp.isfinite(start) & (np.arange(len(kinds)) == queue)
        return _Progress(
            free=jnp.where(jnp.isfinite(start) & occupied[queue], end, done.free),
            start=jnp.where(one, start, done.start),
            end=jnp.where(one, end, done.end),
            computed=jnp.where(served, done.computed + seconds, done.computed),
        )

    nothing, later = jnp.zeros(len(kinds), dag.ue.dtype), jnp.full((4, size), jnp.inf, dag.ue.dtype)
    _, start, end, _ = jax.lax.fori_loop(0, 3 * size, serve, _Progress(nothing, later, later, nothing))
    return Execution(jnp.where(jnp.isinf(start), 0, start), jnp.where(jnp.isinf(end), 0, end))


def result_at_ue(executed: Execution) -> jax.Array:
    """Returns when the result of each position is at the UE, [..., N] seconds; 0 on padding."""
    return jnp.maximum(executed.end[..., UE, :], executed.end[..., DOWNLINK, :])


def measured_rewards(executed: Execution) -> jax.Array:
    """Returns (14) of an execution, [..., N]: minus the growth of the measured makespan with each task, seconds."""
    makespans = jax.lax.cummax(result_at_ue(executed), axis=executed.end.ndim - 2)
    return -jnp.diff(makespans, axis=-1, prepend=0)


def rewards_of(measured: Schedule, order: np.ndarray) -> np.ndarray:
    """Returns `measured_rewards` of a measured schedule on the host, float64[n] in scheduling order.

    Raises:
        InputError: `measured` is not a schedule of as many tasks with finite times, the last of which is the makespan.
    """
    check_type("measured schedule", measured, Schedule)
    at_ue = np.maximum(measured.ue_end, measured.download_end)
    if at_ue.shape != (len(order),) or not np.isfinite(at_ue).all() or (at_ue < 0).any():
        raise InputError(
            f"measured schedule has results at the UE at {shorten(at_ue.tolist())} s; accepted: {len(order)} finite "
            "times from 0 on, one for each task"
        )
    last = float(at_ue.max())
    if not math.isclose(last, measured.makespan, rel_tol=1e-6):
        raise InputError(
            f"measured schedule has the makespan {measured.makespan} s; accepted: {last} s, when the UE has all results"
        )
    return -np.diff(np.maximum.accumulate(at_ue[order]), prepend=0.0)


def check_disturbed(channel: str) -> None:
    """Raises InputError for channel rules under which executions are not simulated."""
    if channel != "paper":
        raise InputError(f"the system has channel {channel!r}; accepted with measured makespans: 'paper'")


@jax.jit
def _execute(dag: DagArrays, sites: jax.Array, world: World, key: jax.Array) -> Execution:
    return execution(dag, sites, world, key)


def executed(
    graph: TaskGraph, system: System, placement: Any, disturbance: Disturbance, seed: int = 0, order: Any = None
) -> Execution:
    """Executes a plan once and returns all times by task id, float64[4, n]; arguments and errors as in `execute`."""
    check_type("graph", graph, TaskGraph)
    check_type("system", system, System)
    check_type("disturbance", disturbance, Disturbance)
    check_number("seed", seed, low=0, high=2**32 - 1, integer=True)
    check_disturbed(system.channel)
    placed = check_placement(graph, placement, num_sites=system.num_sites)
    dag = pack_float64(graph, system, order)
    sites = np.where(dag.mask, placed[dag.order], LOCAL).astype(np.int32)
    with one_by_one():
        world = world_of(disturbance, system.num_servers, np.float64)
        times = jax.device_get(_execute(dag, sites, world, jax.random.key(seed)))
    return by_task(times, dag)


def by_task(times: Execution, dag: DagArrays) -> Execution:
    """Returns an execution of one DAG on the host by task id, without padding."""
    return Execution(*(np.asarray(leaf)[:, dag.mask][:, np.argsort(dag.order[dag.mask])] for leaf in times))


def execute(
    graph: TaskGraph,
    system: System,
    placement: Any,
    disturbance: Disturbance = UNDISTURBED,
    seed: int = 0,
    order: Any = None,
) -> Schedule:
    """Executes a plan once on a system that differs from `system` by a disturbance, in float64.

    Each resource serves its tasks and transfers in scheduling order. Without a disturbance the result is that of
    `simulate`.

    Args:
        graph: the application.
        system: the system as the planner knows it, with the channel rules "paper".
        placement: the site of each task by its id, as in `simulate`.
        disturbance: how the real system differs; by default in nothing.
        seed: seed of the execution: of jitter, of others' transfers and of changes of the rate.
        order: scheduling order, task ids; by default `priority_order(graph, system)`.

    Returns:
        The measured `Schedule`, by task id.

    Raises:
        InputError: the channel rules are not "paper", the placement is not an allowed site for each task, or the order
            is not a linear extension.
    """
    return measured_schedule(executed(graph, system, placement, disturbance, seed, order), system.power)


def measured_schedule(times: Execution, power: Power) -> Schedule:
    """Returns the schedule of an execution by task id, on the host."""
    start, end = times
    busy, makespan = (end - start).sum(axis=1), float(end.max(initial=0.0))
    active = power.compute_w * busy[UE] + power.send_w * busy[UPLINK] + power.receive_w * busy[DOWNLINK]
    energy = float(active + power.idle_w * makespan)
    return Schedule(makespan, end[UPLINK], end[VM], end[DOWNLINK], end[UE], energy)
