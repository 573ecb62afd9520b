"""The latency recurrence (7)-(11), extended to K servers and to results that stay where they were computed.

FIFO resources serve the tasks of a DAG in scheduling order: the UE, the servers, the uplinks, the downlinks and the
backhaul between servers. `step` places one task, and `run` scans `step` over a DAG. Greedy planning, the decision
process, `makespan` and `simulate` all use these two.

The code is written in jnp for one DAG. Batches come from `jax.vmap`, or from trailing axes after N, along which all
operations are elementwise. Devices compute in float32; `simulate` runs the same code in float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, as_array, check_type, shorten
from mrlato_jax.mec.arrays import DagArrays, pack, stacked_prices
from mrlato_jax.mec.objective import Objective, joules
from mrlato_jax.mec.system import CHANNELS, System
from mrlato_jax.processes import about_to_compute

LOCAL, OFFLOAD = 0, 1  # sites: the UE, and the first server; site k is server k


class Task(NamedTuple):
    """The task at one position, the input of `step`; `tasks` stacks all tasks of a DAG for `lax.scan`."""

    position: jax.Array  # int32
    ue: jax.Array  # T_ue, seconds
    uplink: jax.Array  # [K], T_ul
    vm: jax.Array  # [K], T_m
    downlink: jax.Array  # [K], T_dl
    parents: jax.Array  # bool[N]
    valid: jax.Array  # bool, False on padding
    comes_home: jax.Array | None  # bool, no task needs the result, so it goes to the UE; None unless results stay
    allowed: jax.Array | None  # bool[K + 1], the sites that a pin allows; None if no task is pinned


class Results(NamedTuple):
    """Locations of the placed tasks' results, for channel rules under which results stay.

    The arrival time of a result at a site is not stored. The task that needed the result there has waited for it, and
    every later task of the site waits for that task.
    """

    backhaul: jax.Array  # A_bh: when the link between servers is free, seconds
    site: jax.Array  # int32[N], where each result was computed; 0 for tasks not placed
    ended: jax.Array  # [N], ET_ue or ET_m of each placed task, else 0
    at_ue: jax.Array  # bool[N], whether each result is at the UE, or already being sent there
    at_server: jax.Array  # bool[N, K], the same for each server


class Queues(NamedTuple):
    """State of the resources after the placed tasks; times in seconds."""

    uplink: jax.Array  # [L], A_ul: when each uplink is free
    vm: jax.Array  # [K], A_m
    downlink: jax.Array  # [L], A_dl
    ue: jax.Array  # A_ue
    makespan: jax.Array  # (11) over the tasks placed so far
    result_at_ue: jax.Array  # [N], max(ET_ue, ET_dl) of each placed task, else 0; where results stay, see `Schedule`
    data_at_sender: jax.Array | None  # [N], max(ET_ue, ET_ul); only for channels whose uploads wait for uploads
    computed: jax.Array | None  # [N], ET_m; only for these channels with several servers
    results: Results | None  # only where results stay
    spent: jax.Array | None  # cost of computing and transfers so far, by `DagArrays.prices`


class Moves(NamedTuple):
    """Transfers that placing a task causes where results stay, for each server and for the UE as its site."""

    uplink: jax.Array  # [K], when the server's uplink is free afterwards
    backhaul: jax.Array  # [K], when the backhaul is free afterwards
    downlink: jax.Array  # [L], when the downlinks are free afterwards, if the task runs on the UE
    homeward: jax.Array  # bool[N], the tasks whose results are sent to the UE in that case
    sending: jax.Array  # [K], seconds that uplinks are busy
    receiving: jax.Array  # seconds that downlinks are busy, if the task runs on the UE


class TaskEnds(NamedTuple):
    """End times of a task on each resource, seconds; 0 for unused resources.

    In `candidate_ends`, `upload`, `vm` and `download` have one entry for each server, [K].
    """

    upload: jax.Array  # ET_ul; where results stay, the arrival of the last input at the server
    vm: jax.Array  # ET_m
    download: jax.Array  # ET_dl; where results stay and another task needs this one's, ET_m
    ue: jax.Array  # ET_ue
    moves: Moves | None = None


def tasks(dag: DagArrays) -> Task:
    """Returns the tasks of one DAG stacked along axis 0, by position."""
    positions = jnp.arange(dag.mask.shape[0], dtype=jnp.int32)
    home = ~dag.parents.any(axis=0) if CHANNELS[dag.channel].results_stay else None
    return Task(positions, dag.ue, dag.uplink, dag.vm, dag.downlink, dag.parents, dag.mask, home, dag.allowed)


def empty_queues(dag: DagArrays) -> Queues:
    """Returns the state before the first task: all resources are free at time 0."""
    rules, dtype = CHANNELS[dag.channel], dag.ue.dtype
    zero, zeros = jnp.zeros(dag.ue.shape[1:], dtype), jnp.zeros(dag.ue.shape, dtype)
    servers = jnp.zeros(dag.vm.shape[1:], dtype)
    radios = servers[:1] if dag.radio == "shared" else servers
    results = None
    if rules.results_stay:
        nowhere = jnp.zeros(dag.vm.shape, bool)
        results = Results(zero, jnp.zeros(dag.ue.shape, jnp.int32), zeros, jnp.zeros(dag.ue.shape, bool), nowhere)
    return Queues(
        uplink=radios,
        vm=servers,
        downlink=radios,
        ue=zero,
        makespan=zero,
        result_at_ue=zeros,
        data_at_sender=None if rules.upload_waits_for_download else zeros,
        computed=None if rules.upload_waits_for_download or dag.vm.shape[1] == 1 else zeros,
        results=results,
        spent=None if dag.prices is None else zero,
    )


def cost(dag: DagArrays, queues: Queues) -> jax.Array:
    """Returns the cost of the tasks placed so far: their makespan, or the cost by `DagArrays.prices`.

    A plan that misses the deadline costs more than every plan that meets it; its cost grows with its makespan.
    """
    if dag.prices is None:
        return queues.makespan
    assert queues.spent is not None
    paid = dag.prices.makespan * queues.makespan + queues.spent
    if dag.deadline is None:
        return paid
    return jnp.where(queues.makespan <= dag.deadline.latest, paid, dag.deadline.dearest + queues.makespan)


def candidate_ends(dag: DagArrays, queues: Queues, task: Task) -> TaskEnds:
    """Computes (7)-(10) for one task at every site: `ue` for the UE, the other three fields for each server.

    The term `max_j ET_m_j` of (8) is implied for parents on the same server: a VM serves in scheduling order, so `A_m`
    already is the largest end time of all earlier tasks there. For parents elsewhere the term is implied if uploads
    wait for downloads. In the same way, the parents' uploads are implied if uploads of entry tasks queue.
    """
    rules = CHANNELS[dag.channel]
    if rules.results_stay:
        return _ends_where_results_stay(dag, queues, task)
    ready = jnp.max(jnp.where(task.parents, queues.result_at_ue, 0), axis=0)
    sendable = ready
    if queues.data_at_sender is not None:
        sendable = jnp.max(jnp.where(task.parents, queues.data_at_sender, 0), axis=0)
    upload = jnp.maximum(queues.uplink, sendable[None]) + task.uplink
    begin = jnp.maximum(queues.vm, upload)
    if queues.computed is not None:
        begin = jnp.maximum(begin, jnp.max(jnp.where(task.parents, queues.computed, 0), axis=0)[None])
    vm = begin + task.vm
    download = (jnp.maximum(queues.downlink, vm) if rules.downloads_queue else vm) + task.downlink
    ue = jnp.maximum(queues.ue, ready) + task.ue
    return TaskEnds(upload, vm, download, ue)


def _ends_where_results_stay(dag: DagArrays, queues: Queues, task: Task) -> TaskEnds:
    """`candidate_ends` where results stay, with the transfers: each missing parent result comes from its own site."""
    results = queues.results
    assert results is not None
    assert task.comes_home is not None
    parents, entry = task.parents, ~task.parents.any(axis=0)
    on_ue, ended = (results.site == LOCAL)[:, None], results.ended[:, None]

    # Results reach a server from the UE over its uplink, and from another server over the backhaul.
    missing = parents[:, None] & ~results.at_server
    to_send, to_pass = missing & on_ue, missing & ~on_ue
    uplink = _served(queues.uplink + jnp.where(entry[None], task.uplink, 0), to_send, ended, dag.forward)
    backhaul = _served(results.backhaul[None], to_pass, ended, dag.backhaul[:, None])
    sent = entry[None] | to_send.any(axis=0)
    upload = jnp.maximum(jnp.where(sent, uplink, 0), jnp.where(to_pass.any(axis=0), backhaul, 0))
    vm = jnp.maximum(queues.vm, upload) + task.vm
    download = jnp.where(task.comes_home[None], jnp.maximum(queues.downlink, vm) + task.downlink, vm)

    # Results reach the UE over the downlink of the server that computed them.
    homeward = parents & ~results.at_ue
    computed_at = results.site[:, None] == _servers(dag)[None]  # [N, K]
    took, through = jnp.where(computed_at, dag.downlink, 0), homeward[:, None] & computed_at
    if dag.radio == "shared":
        took, through = took.sum(axis=1, keepdims=True), homeward[:, None]
    downlink = _served(queues.downlink, through, ended, took)
    received = jnp.where(through.any(axis=0), downlink, 0).max(axis=0)
    ue = jnp.maximum(queues.ue, received) + task.ue
    moves = Moves(
        uplink=uplink,
        backhaul=backhaul,
        downlink=downlink,
        homeward=homeward,
        sending=jnp.where(to_send, dag.forward, 0).sum(axis=0) + jnp.where(entry[None], task.uplink, 0),
        receiving=jnp.where(through, took, 0).sum(axis=(0, 1)),
    )
    return TaskEnds(upload, vm, download, ue, moves)


def _served(free: jax.Array, needed: jax.Array, ready: jax.Array, duration: jax.Array) -> jax.Array:
    """Returns when a FIFO queue is free after it served the `needed` entries in the order of axis 0.

    This is the recurrence `free = max(free, ready) + duration`, unrolled: the maximum over all entries of `ready` plus
    all durations from that entry on. The sums are a product with a triangle of ones, faster than a prefix sum.
    """
    taken = jnp.where(needed, duration, 0)
    triangle = jnp.triu(jnp.ones((taken.shape[0], taken.shape[0]), taken.dtype))
    remaining = jnp.tensordot(triangle, taken, axes=1, precision=jax.lax.Precision.HIGHEST)
    latest = jnp.where(needed, ready + remaining, 0).max(axis=0)
    return jnp.maximum(free + remaining[0], latest)


def _servers(dag: DagArrays) -> jax.Array:
    """Returns the sites of the servers, int32[K, 1, ...], with one axis fewer than `DagArrays.vm`."""
    count, trailing = dag.vm.shape[1], dag.vm.ndim - 2
    return jnp.arange(1, count + 1, dtype=jnp.int32).reshape(count, *(1,) * trailing)


def place(dag: DagArrays, queues: Queues, task: Task, ends: TaskEnds, action: jax.Array) -> tuple[Queues, TaskEnds]:
    """Places `task` at the site `action`, given its `candidate_ends`. Placing padding has no effect.

    Returns:
        The queues afterwards, and the task's end times with 0 for unused resources.
    """
    rules = CHANNELS[dag.channel]
    offloaded = task.valid[None] & (action[None] == _servers(dag))  # [K]
    away = offloaded.any(axis=0)
    local = task.valid & ~away
    at_servers = [jnp.where(offloaded, end, 0) for end in ends[:3]]
    upload, vm, download = (end.max(axis=0) for end in at_servers)
    ue = jnp.where(local, ends.ue, 0)
    result = jnp.maximum(ue, download)
    after = queues._replace(
        vm=jnp.maximum(queues.vm, at_servers[1]),
        ue=jnp.maximum(queues.ue, ue),
        makespan=jnp.maximum(queues.makespan, result),
    )
    if ends.moves is not None:
        after = _move(dag, after, task, ends, offloaded, local, result)
        assert task.comes_home is not None
        download = jnp.where(task.comes_home, download, 0)
    else:
        occupies = at_servers[0]
        if not rules.entry_uploads_queue:
            occupies = jnp.where(task.parents.any(axis=0)[None], occupies, 0)
        after = after._replace(
            uplink=jnp.maximum(queues.uplink, _of_radios(dag, occupies)),
            downlink=jnp.maximum(queues.downlink, _of_radios(dag, at_servers[2])),
        )
        after = with_results(after, task.position, result, jnp.maximum(ue, upload), task.valid)
        if queues.computed is not None:
            after = after._replace(computed=_put(queues.computed, task.position, vm, task.valid))
    if queues.spent is not None:
        after = after._replace(spent=queues.spent + _spent(dag, task, ends, offloaded, local))
    return after, TaskEnds(upload, vm, download, ue)


def _of_radios(dag: DagArrays, of_servers: jax.Array) -> jax.Array:
    """Returns the maximum over the servers of each radio: [K] -> [L]."""
    return of_servers.max(axis=0, keepdims=True) if dag.radio == "shared" else of_servers


def _move(
    dag: DagArrays,
    queues: Queues,
    task: Task,
    ends: TaskEnds,
    offloaded: jax.Array,
    local: jax.Array,
    result: jax.Array,
) -> Queues:
    """Updates the queues where results stay: moves the inputs to the task's site and leaves its result there."""
    moves, results = ends.moves, queues.results
    assert moves is not None
    assert results is not None
    assert task.comes_home is not None
    away, position = offloaded.any(axis=0), task.position
    brought = jnp.where(offloaded & task.comes_home[None], ends.download, 0)
    downlink = jnp.where(local[None], moves.downlink, jnp.maximum(queues.downlink, _of_radios(dag, brought)))
    homeward = local[None] & moves.homeward
    ended = jnp.where(away, jnp.where(offloaded, ends.vm, 0).max(axis=0), ends.ue)
    from_there = (results.site[:, None] == _servers(dag)[None]) | (dag.radio == "shared")
    at_ue = jnp.where(homeward, jnp.where(from_there, downlink[None], 0).max(axis=1), queues.result_at_ue)
    return queues._replace(
        uplink=jnp.maximum(queues.uplink, _of_radios(dag, jnp.where(offloaded, moves.uplink, 0))),
        downlink=downlink,
        result_at_ue=_put(at_ue, position, jnp.where(away & ~task.comes_home, 0, result), task.valid),
        results=Results(
            backhaul=jnp.where(away, jnp.where(offloaded, moves.backhaul, 0).max(axis=0), results.backhaul),
            site=_put(results.site, position, jnp.where(offloaded, _servers(dag), 0).max(axis=0), task.valid),
            ended=_put(results.ended, position, ended, task.valid),
            at_ue=_put(results.at_ue | homeward, position, local | (away & task.comes_home), task.valid),
            at_server=_put(
                results.at_server | (offloaded[None] & task.parents[:, None]), position, offloaded, task.valid[None]
            ),
        ),
    )


def _put(array: jax.Array, position: jax.Array, value: jax.Array, valid: jax.Array | bool) -> jax.Array:
    """Returns `array` with `value` at `position` of axis 0 if `valid`; XLA replaces the one entry in place."""
    before = jax.lax.dynamic_index_in_dim(array, position, axis=0, keepdims=False)
    return jax.lax.dynamic_update_index_in_dim(array, jnp.where(valid, value, before), position, axis=0)


def site_costs(dag: DagArrays, task: Task, ends: TaskEnds) -> tuple[jax.Array, jax.Array]:
    """Returns the cost of the task's computing and transfers by `DagArrays.prices`: on the UE, on each server [K]."""
    prices, moves = dag.prices, ends.moves
    assert prices is not None
    send, receive = jnp.asarray(prices.send)[None], jnp.asarray(prices.receive)[None]
    if moves is None:
        return prices.compute * task.ue, send * task.uplink + receive * task.downlink
    assert task.comes_home is not None
    home = jnp.where(task.comes_home[None], task.downlink, 0)
    return (
        prices.compute * task.ue + prices.receive * moves.receiving,
        send * moves.sending + receive * home,
    )


def _spent(dag: DagArrays, task: Task, ends: TaskEnds, offloaded: jax.Array, local: jax.Array) -> jax.Array:
    on_ue, on_servers = site_costs(dag, task, ends)
    return jnp.where(local, on_ue, jnp.where(offloaded, on_servers, 0).sum(axis=0))


def with_results(
    queues: Queues, position: jax.Array, result: jax.Array, sent: jax.Array, valid: jax.Array | bool = True
) -> Queues:
    """Stores when the task at `position` has its result at the UE and its data at the sender, if it is `valid`.

    No queue changes.
    """
    data_at_sender = None if queues.data_at_sender is None else _put(queues.data_at_sender, position, sent, valid)
    return queues._replace(
        result_at_ue=_put(queues.result_at_ue, position, result, valid), data_at_sender=data_at_sender
    )


def step(dag: DagArrays, queues: Queues, task: Task, action: jax.Array) -> tuple[Queues, TaskEnds]:
    """Places one task by (7)-(10)."""
    return place(dag, queues, task, candidate_ends(dag, queues, task), action)


def run(dag: DagArrays, actions: jax.Array) -> tuple[Queues, TaskEnds]:
    """Places every task of one DAG.

    Args:
        dag: one DAG, no leading axes.
        actions: int[N], sites in scheduling order; or bool[N], whether a task runs on the first server.

    Returns:
        The final queues with the makespan (11), and the end times, each [N].
    """

    def body(queues: Queues, inputs: tuple[Task, jax.Array]) -> tuple[Queues, TaskEnds]:
        return step(dag, queues, *inputs)

    return jax.lax.scan(body, empty_queues(dag), (tasks(dag), actions))


def makespan(arrays: DagArrays, actions: jax.Array | np.ndarray) -> jax.Array:
    """Computes the makespan (11) of each DAG of a batch, jitted. Also takes one DAG without a batch axis.

    Args:
        arrays: result of `pack`, leading axis B.
        actions: [B, N] sites in scheduling order: integers (0 is the UE, 1 to K are the servers), or bool if K is 1.
            Padding is ignored.

    Returns:
        float[B], seconds.

    Raises:
        InputError: `arrays` is no result of `pack`, or `actions` has a wrong shape, a float dtype or a wrong value. The
            values of a `jax.Array` are not checked, since that would wait for the device.
    """
    about_to_compute()
    check_type("arrays", arrays, DagArrays)
    sites = arrays.num_sites
    values = "0 or 1" if sites == 2 else f"0 to {sites - 1}"
    accepted = f"accepted: integers {values} of shape {arrays.mask.shape}, as arrays has"
    if not isinstance(actions, jax.Array):
        actions = as_array("actions", actions, accepted.removeprefix("accepted: "))
    discrete = np.issubdtype(actions.dtype, np.integer) or actions.dtype == bool
    if actions.shape != arrays.mask.shape or arrays.mask.ndim not in (1, 2) or not discrete:
        raise InputError(f"actions has shape {actions.shape} and dtype {actions.dtype}; {accepted}")
    known = isinstance(actions, np.ndarray) and not isinstance(arrays.mask, jax.core.Tracer)
    if known and actions.size and (actions.min() < LOCAL or actions.max() >= sites):
        wrong = (((actions < LOCAL) | (actions >= sites)) & np.asarray(arrays.mask)).nonzero()
        if wrong[0].size:
            where = [int(index[0]) for index in wrong]
            raise InputError(f"actions{where} is {actions[tuple(where)]}; {accepted}")
    if known and isinstance(arrays.allowed, np.ndarray):
        index = np.clip(actions.astype(np.int32), 0, sites - 1)[..., None]
        forbidden = ~np.take_along_axis(arrays.allowed, index, axis=-1)[..., 0] & np.asarray(arrays.mask)
        if forbidden.any():
            where = [int(index[0]) for index in forbidden.nonzero()]
            raise InputError(
                f"actions{where} is {actions[tuple(where)]}, against the task's pin; accepted: a site it allows"
            )
    return _makespan(arrays, actions)


@jax.jit
def _makespan(arrays: DagArrays, actions: jax.Array) -> jax.Array:
    if actions.ndim == 1:
        return run(arrays, actions)[0].makespan
    batch, size = actions.shape
    if batch < size:
        return jax.vmap(run)(arrays, actions)[0].makespan
    # Short rows vectorise poorly, so the batch axis goes last.
    return run(*jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), (arrays, actions)))[0].makespan


def costs(dag: DagArrays, actions: jax.Array) -> jax.Array:
    """Returns the costs [M] of many plans of one DAG; for use inside `jax.jit`.

    Args:
        dag: one DAG, no leading axes.
        actions: int or bool[N, M], as `run` takes them.
    """
    shared = wide(dag)
    begin = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (*leaf.shape[:-1], actions.shape[1])), empty_queues(shared)
    )

    def body(queues: Queues, inputs: tuple[Task, jax.Array]) -> tuple[Queues, None]:
        return step(shared, queues, *inputs)[0], None

    return cost(shared, jax.lax.scan(body, begin, (tasks(shared), actions))[0])


def wide(dag: DagArrays) -> DagArrays:
    """Prepares one DAG for many plans: adds to each leaf a trailing axis of size 1, which broadcasts over the plans."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[..., None], dag)


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """A simulated plan: the end times of each task on each resource. A pytree of all its fields.

    Attributes:
        makespan: (11), seconds.
        upload_end, vm_end, download_end, ue_end: float64[n] by task id, seconds; 0 for unused resources. Where results
            stay ("resident"), `upload_end` is the arrival of the last moved input at the task's server. `download_end`
            is then the arrival of the result at the UE, with all results sent there for the same task. Both are 0 if
            there is no such transfer.
        energy: energy of the UE, joules.
    """

    makespan: float
    upload_end: np.ndarray
    vm_end: np.ndarray
    download_end: np.ndarray
    ue_end: np.ndarray
    energy: float


jax.tree_util.register_dataclass(
    Schedule,
    data_fields=["makespan", "upload_end", "vm_end", "download_end", "ue_end", "energy"],
    meta_fields=[],
)


def check_placement(graph: TaskGraph, placement: Any, field: str = "placement", num_sites: int = 2) -> np.ndarray:
    """Checks a placement and returns it as int32[n]. Errors name it `field`.

    Raises:
        InputError: a wrong dtype, length or value, or a site that a pin forbids.
    """
    n = graph.num_tasks
    kind = "0 (local) or 1 (offload)" if num_sites == 2 else f"0 (local) to {num_sites - 1} (server {num_sites - 1})"
    values = f"{n} integers {kind}, or bool, by task id" if num_sites == 2 else f"{n} integers {kind} by task id"
    array, accepted = as_array(field, placement, values), f"accepted: {values}"
    if array.shape != (n,) or not (np.issubdtype(array.dtype, np.integer) or array.dtype == bool):
        raise InputError(f"{field} is {shorten(placement)} ({array.dtype}, shape {array.shape}); {accepted}")
    wrong = np.flatnonzero((array < LOCAL) | (array >= num_sites))
    if wrong.size:
        raise InputError(f"{field}[{wrong[0]}] is {array[wrong[0]]}; {accepted}")
    for task, (site, pin) in enumerate(zip(array.tolist(), graph.pins, strict=True)) if graph.is_pinned else ():
        if (pin == "ue") if site else (pin == "server"):
            where = "0, the UE" if pin == "ue" else f"a server, 1 to {num_sites - 1}"
            raise InputError(f"{field}[{task}] is {site}, but pins[{task}] is {pin!r}; accepted: {where}")
    return array.astype(np.int32)


def padded_size(num_tasks: int) -> int:
    """Returns the padded size to compile for, a multiple of 8, 32, 128, ...; graphs of similar size share a program."""
    step_size = 8
    while num_tasks > 8 * step_size:
        step_size *= 4
    return -(-num_tasks // step_size) * step_size


def power_of_two(count: int) -> int:
    """Returns the least power of two >= `count`. Batches of these sizes need few compiled programs."""
    return 1 << (count - 1).bit_length()


def pack_float64(graph: TaskGraph, system: System, order: Any = None, objective: Objective | None = None) -> DagArrays:
    """Packs one DAG (no leading axis) in float64, for use inside `one_by_one`."""
    orders = None if order is None else [order]
    size = padded_size(graph.num_tasks)
    batch = pack([graph], system, orders=orders, num_positions=size, dtype=np.float64, objective=objective)
    return jax.tree.map(lambda leaf: leaf[0], batch)


def in_joules(dags: DagArrays, systems: Sequence[System]) -> DagArrays:
    """Returns DAGs of leading axis B, each with its system, with the UE's energy in joules as their cost."""
    prices = stacked_prices([joules(system.power) for system in systems], dags.ue.dtype)
    return dataclasses.replace(dags, prices=prices, deadline=None)


@contextmanager
def one_by_one() -> Iterator[None]:
    """Context in which JAX computes in float64 on the host, in this thread.

    For single DAGs: each step of the recurrence computes a few numbers, and an accelerator would be slower.

    Raises:
        RuntimeError: the process was forked after its parent had used JAX; JAX would hang.
    """
    about_to_compute()
    host = None if jax.default_backend() == "cpu" else jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), nullcontext() if host is None else jax.default_device(host):
        yield


def simulate(graph: TaskGraph, system: System, placement: Any, order: Any = None) -> Schedule:
    """Simulates one plan in float64.

    Args:
        graph: the application.
        system: the system it runs on.
        placement: the site of each task by its id: 0 the UE, 1 to K the servers (or bool if K is 1).
        order: scheduling order, task ids; by default `priority_order(graph, system)`.

    Returns:
        The `Schedule`, by task id.

    Raises:
        InputError: the placement is not an allowed site for each task, or the order is not a linear extension.
    """
    check_type("graph", graph, TaskGraph)
    check_type("system", system, System)
    placed = check_placement(graph, placement, num_sites=system.num_sites)
    size = padded_size(graph.num_tasks)
    orders = None if order is None else [order]
    dags = in_joules(pack([graph], system, orders=orders, num_positions=size, dtype=np.float64), [system])
    return simulate_arrays(dags, np.where(dags.mask, placed[dags.order], LOCAL)[:, None])[0][0]


class _Timed(NamedTuple):
    """The values of a schedule in two arrays, since each array costs a transfer."""

    ends: jax.Array  # [4, N], end times of uploads, servers, downloads and the UE
    totals: jax.Array  # [2], makespan and energy


@jax.jit
@jax.vmap
@partial(jax.vmap, in_axes=(None, 0))
def _run_all(dag: DagArrays, actions: jax.Array) -> _Timed:
    queues, ends = run(dag, actions)
    upload, vm, download, ue = ends[:4]
    if queues.results is not None:  # a later task may have brought the result to the UE
        download = jnp.where(queues.results.site > LOCAL, queues.result_at_ue, 0)
    assert queues.spent is not None
    return _Timed(jnp.stack([upload, vm, download, ue]), jnp.stack([queues.makespan, queues.spent]))


def simulate_arrays(dags: DagArrays, actions: np.ndarray) -> list[list[Schedule]]:
    """Simulates K plans of each of many DAGs in float64; the schedules are by task id.

    Args:
        dags: result of `pack` in float64, then `in_joules`; leading axis B.
        actions: int32[B, K, N], sites in scheduling order.
    """
    with one_by_one():
        timed = jax.device_get(_run_all(dags, actions))
    assert dags.prices is not None
    schedules = []
    for i, n in enumerate(dags.mask.sum(axis=1).tolist()):
        by_id = np.empty((len(actions[i]), 4, n))
        by_id[..., dags.order[i, :n]] = timed.ends[i, ..., :n]
        price = float(dags.prices.makespan[i])
        schedules.append(
            [
                Schedule(makespan, upload, vm, download, ue, price * makespan + spent)
                for (upload, vm, download, ue), (makespan, spent) in zip(by_id, timed.totals[i].tolist(), strict=True)
            ]
        )
    return schedules
