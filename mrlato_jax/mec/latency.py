"""The latency recurrence (7)-(11): the only one in the project.

Four FIFO resources serve the tasks of a DAG in scheduling order. `step` places one task; `run` scans it over a DAG;
greedy planning, the decision process, `makespan` and `simulate` are all built on these.

Everything here is written for one DAG in jnp; `jax.vmap` makes batches, and so do axes that follow N, since all is
elementwise along them. float32 on devices; `simulate` runs the same code in float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, as_array, check_type, shorten
from mrlato_jax.mec.arrays import DagArrays, pack
from mrlato_jax.mec.system import CHANNELS, System
from mrlato_jax.processes import about_to_compute

LOCAL, OFFLOAD = 0, 1


class Task(NamedTuple):
    """The task at one position, as `step` sees it; `tasks` stacks all of a DAG for `lax.scan`."""

    position: jax.Array  # int32
    ue: jax.Array  # T_ue, seconds
    uplink: jax.Array  # T_ul
    vm: jax.Array  # T_m
    downlink: jax.Array  # T_dl
    parents: jax.Array  # bool[N]
    valid: jax.Array  # bool, False on padding


class Queues(NamedTuple):
    """What the placed tasks leave behind; seconds."""

    uplink: jax.Array  # A_ul: when the uplink is free
    vm: jax.Array  # A_m
    downlink: jax.Array  # A_dl
    ue: jax.Array  # A_ue
    makespan: jax.Array  # (11) over the tasks placed so far
    result_at_ue: jax.Array  # [N], max(ET_ue, ET_dl) of each placed task, else 0
    data_at_sender: jax.Array | None  # [N], max(ET_ue, ET_ul); kept only by channels whose uploads wait for uploads


class TaskEnds(NamedTuple):
    """When a task leaves each resource; 0 for one that it does not use. Seconds."""

    upload: jax.Array  # ET_ul
    vm: jax.Array  # ET_m
    download: jax.Array  # ET_dl
    ue: jax.Array  # ET_ue


def tasks(dag: DagArrays) -> Task:
    """The positions of one DAG, stacked along axis 0."""
    positions = jnp.arange(dag.mask.shape[0], dtype=jnp.int32)
    return Task(positions, dag.ue, dag.uplink, dag.vm, dag.downlink, dag.parents, dag.mask)


def empty_queues(dag: DagArrays) -> Queues:
    """All resources free at time 0, nothing placed."""
    zero, zeros = jnp.zeros(dag.ue.shape[1:], dag.ue.dtype), jnp.zeros(dag.ue.shape, dag.ue.dtype)
    waits_for_download = CHANNELS[dag.channel].upload_waits_for_download
    return Queues(zero, zero, zero, zero, zero, zeros, None if waits_for_download else zeros)


def candidate_ends(channel: str, queues: Queues, task: Task) -> TaskEnds:
    """(7)-(10) for one task under both actions: `ue` if it ran locally, the other three if it were offloaded.

    (8)'s `max_j ET_m_j` needs no term of its own: the VM serves in scheduling order, so `A_m` already is the largest
    end time of any earlier task there. The same holds for the parents' uploads where entry tasks queue.
    """
    rules = CHANNELS[channel]
    ready = jnp.max(jnp.where(task.parents, queues.result_at_ue, 0), axis=0)
    sendable = ready
    if queues.data_at_sender is not None:
        sendable = jnp.max(jnp.where(task.parents, queues.data_at_sender, 0), axis=0)
    upload = jnp.maximum(queues.uplink, sendable) + task.uplink
    vm = jnp.maximum(queues.vm, upload) + task.vm
    download = (jnp.maximum(queues.downlink, vm) if rules.downloads_queue else vm) + task.downlink
    ue = jnp.maximum(queues.ue, ready) + task.ue
    return TaskEnds(upload, vm, download, ue)


def place(channel: str, queues: Queues, task: Task, ends: TaskEnds, action: jax.Array) -> tuple[Queues, TaskEnds]:
    """Commits `action` (0 local, 1 offload) for `task`, given its `candidate_ends`; padding changes nothing.

    Returns:
        The queues afterwards and the task's end times with the unused ones 0.
    """
    offloaded = task.valid & (action == OFFLOAD)
    local = task.valid & (action != OFFLOAD)
    upload, vm, download = (jnp.where(offloaded, end, 0) for end in ends[:3])
    ue = jnp.where(local, ends.ue, 0)
    result = jnp.maximum(ue, download)
    occupies_uplink = upload
    if not CHANNELS[channel].entry_uploads_queue:
        occupies_uplink = jnp.where(task.parents.any(axis=0), upload, 0)
    after = with_results(queues, task.position, result, jnp.maximum(ue, upload), task.valid)._replace(
        uplink=jnp.maximum(queues.uplink, occupies_uplink),
        vm=jnp.maximum(queues.vm, vm),
        downlink=jnp.maximum(queues.downlink, download),
        ue=jnp.maximum(queues.ue, ue),
        makespan=jnp.maximum(queues.makespan, result),
    )
    return after, TaskEnds(upload, vm, download, ue)


def with_results(
    queues: Queues, position: jax.Array, result: jax.Array, sent: jax.Array, valid: jax.Array | bool = True
) -> Queues:
    """Notes when a `valid` task at `position` has its result at the UE and its data at the sender; no queue changes."""

    def put(array: jax.Array, value: jax.Array) -> jax.Array:
        # One number is kept or replaced, not a whole array: so it is replaced in place.
        before = jax.lax.dynamic_index_in_dim(array, position, axis=0, keepdims=False)
        return jax.lax.dynamic_update_index_in_dim(array, jnp.where(valid, value, before), position, axis=0)

    data_at_sender = None if queues.data_at_sender is None else put(queues.data_at_sender, sent)
    return queues._replace(result_at_ue=put(queues.result_at_ue, result), data_at_sender=data_at_sender)


def step(channel: str, queues: Queues, task: Task, action: jax.Array) -> tuple[Queues, TaskEnds]:
    """Places one task: (7)-(10)."""
    return place(channel, queues, task, candidate_ends(channel, queues, task), action)


def run(dag: DagArrays, actions: jax.Array) -> tuple[Queues, TaskEnds]:
    """Places every task of one DAG.

    Args:
        dag: one DAG, no leading axes.
        actions: int or bool[N] in scheduling order.

    Returns:
        The final queues, whose `makespan` is (11), and the end times, each [N].
    """

    def body(queues: Queues, inputs: tuple[Task, jax.Array]) -> tuple[Queues, TaskEnds]:
        return step(dag.channel, queues, *inputs)

    return jax.lax.scan(body, empty_queues(dag), (tasks(dag), actions))


def makespan(arrays: DagArrays, actions: jax.Array | np.ndarray) -> jax.Array:
    """Makespan (11) of each DAG of a batch, jitted; of a single one where arrays have no batch axis (`jax.vmap`).

    Args:
        arrays: `pack`'s, leading axis B.
        actions: integers 0 (local) or 1 (offload), or bool, [B, N] in scheduling order; padding is ignored.

    Returns:
        float[B], seconds.

    Raises:
        InputError: `arrays` that are not `pack`'s, or `actions` of another shape, a float dtype or other values; the
            values of a `jax.Array` are not looked at, which would wait for the device.
    """
    about_to_compute()
    check_type("arrays", arrays, DagArrays)
    accepted = f"accepted: integers 0 or 1 of shape {arrays.mask.shape}, as arrays has"
    if not isinstance(actions, jax.Array):
        actions = as_array("actions", actions, accepted.removeprefix("accepted: "))
    discrete = np.issubdtype(actions.dtype, np.integer) or actions.dtype == bool
    if actions.shape != arrays.mask.shape or arrays.mask.ndim not in (1, 2) or not discrete:
        raise InputError(f"actions has shape {actions.shape} and dtype {actions.dtype}; {accepted}")
    known = isinstance(actions, np.ndarray) and not isinstance(arrays.mask, jax.core.Tracer)
    if known and actions.size and (actions.min() < LOCAL or actions.max() > OFFLOAD):
        wrong = ((actions != LOCAL) & (actions != OFFLOAD) & np.asarray(arrays.mask)).nonzero()
        if wrong[0].size:
            where = [int(index[0]) for index in wrong]
            raise InputError(f"actions{where} is {actions[tuple(where)]}; {accepted}")
    return _makespan(arrays, actions)


@jax.jit
def _makespan(arrays: DagArrays, actions: jax.Array) -> jax.Array:
    if actions.ndim == 1:
        return run(arrays, actions)[0].makespan
    batch, size = actions.shape
    if batch < size:
        return jax.vmap(run)(arrays, actions)[0].makespan
    # Short rows make poor vectors: the batch goes last instead.
    return run(*jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -1), (arrays, actions)))[0].makespan


def makespans(dag: DagArrays, actions: jax.Array) -> jax.Array:
    """Makespans [M] of many plans of one DAG; for use inside `jax.jit`.

    Args:
        dag: one DAG, no leading axes.
        actions: int or bool[N, M] in scheduling order.
    """
    wide = jax.tree.map(lambda leaf: leaf[..., None], dag)  # one DAG for all: only what plans change has M entries
    begin = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*leaf.shape[:-1], actions.shape[1])), empty_queues(wide))

    def body(queues: Queues, inputs: tuple[Task, jax.Array]) -> tuple[Queues, None]:
        return step(dag.channel, queues, *inputs)[0], None

    return jax.lax.scan(body, begin, (tasks(wide), actions))[0].makespan


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """A simulated plan: when each task leaves each resource. A pytree of all its values.

    Attributes:
        makespan: (11), seconds.
        upload_end, vm_end, download_end, ue_end: float64[n] by task id, seconds; 0 where the resource is not used.
    """

    makespan: float
    upload_end: np.ndarray
    vm_end: np.ndarray
    download_end: np.ndarray
    ue_end: np.ndarray


jax.tree_util.register_dataclass(
    Schedule, data_fields=["makespan", "upload_end", "vm_end", "download_end", "ue_end"], meta_fields=[]
)


def check_placement(graph: TaskGraph, placement: Any, field: str = "placement") -> np.ndarray:
    """`placement` as int32[n], once it is known to hold one 0 or 1 (or bool) for each task; errors call it `field`.

    Raises:
        InputError: wrong dtype, length or value.
    """
    n = graph.num_tasks
    values = f"{n} integers 0 (local) or 1 (offload), or bool, by task id"
    array, accepted = as_array(field, placement, values), f"accepted: {values}"
    if array.shape != (n,) or not (np.issubdtype(array.dtype, np.integer) or array.dtype == bool):
        raise InputError(f"{field} is {shorten(placement)} ({array.dtype}, shape {array.shape}); {accepted}")
    wrong = np.flatnonzero((array != LOCAL) & (array != OFFLOAD))
    if wrong.size:
        raise InputError(f"{field}[{wrong[0]}] is {array[wrong[0]]}; {accepted}")
    return array.astype(np.int32)


def padded_size(num_tasks: int) -> int:
    """Positions to compile for, so that graphs of similar size share one program: multiples of 8, 32, 128, ..."""
    step_size = 8
    while num_tasks > 8 * step_size:
        step_size *= 4
    return -(-num_tasks // step_size) * step_size


def power_of_two(count: int) -> int:
    """The least one that is no less than `count`: batches of such sizes, so that few programs serve all."""
    return 1 << (count - 1).bit_length()


def pack_float64(graph: TaskGraph, system: System, order: Any = None) -> DagArrays:
    """One DAG (no leading axis) in float64, for use inside `one_by_one`."""
    orders = None if order is None else [order]
    batch = pack([graph], system, orders=orders, num_positions=padded_size(graph.num_tasks), dtype=np.float64)
    return jax.tree.map(lambda leaf: leaf[0], batch)


@contextmanager
def one_by_one() -> Iterator[None]:
    """Within the context, in this thread, JAX computes in float64 and on the host.

    For single DAGs: a recurrence of a few numbers a step keeps no accelerator busy and waits for it at each step.

    Raises:
        RuntimeError: the process was forked after its parent had computed; JAX would hang.
    """
    about_to_compute()
    host = None if jax.default_backend() == "cpu" else jax.local_devices(backend="cpu")[0]
    with jax.enable_x64(True), nullcontext() if host is None else jax.default_device(host):
        yield


_run = jax.jit(run)


def simulate(graph: TaskGraph, system: System, placement: Any, order: Any = None) -> Schedule:
    """Simulates one plan in float64.

    Args:
        graph: the application.
        system: the system it runs on.
        placement: 0 (local) or 1 (offload), or bool, for each task id.
        order: scheduling order, task ids; by default `priority_order(graph, system)`.

    Returns:
        The `Schedule`, by task id.

    Raises:
        InputError: a placement that is not one 0 or 1 for each task, or an order that is no linear extension.
    """
    check_type("graph", graph, TaskGraph)
    placed = check_placement(graph, placement)
    dag = pack_float64(graph, system, order)
    actions = np.where(dag.mask, placed[dag.order], LOCAL)
    with one_by_one():
        queues, ends = jax.device_get(_run(dag, actions))
    return schedule(dag.order[: graph.num_tasks], queues.makespan, ends)


_run_all = jax.jit(jax.vmap(jax.vmap(run, in_axes=(None, 0))))


def simulate_arrays(dags: DagArrays, actions: np.ndarray) -> tuple[Queues, TaskEnds]:
    """`run` of K plans of each of many DAGs in float64; results on the host, leading axes [B, K].

    Args:
        dags: `pack`'s in float64, leading axis B.
        actions: int32[B, K, N] in scheduling order.
    """
    with one_by_one():
        return jax.device_get(_run_all(dags, actions))


def schedule(order: np.ndarray, makespan: Any, ends: TaskEnds) -> Schedule:
    """The result of `run`, put back from positions to task ids.

    Args:
        order: int[n], task ids in scheduling order.
        makespan: (11), seconds.
        ends: each [N >= n] in scheduling order, on the host.
    """
    by_id = np.empty((len(ends), len(order)))
    by_id[:, order] = np.stack(ends)[:, : len(order)]
    return Schedule(float(makespan), *by_id)
