"""DAGs as arrays without a system, and a traceable counterpart of `pack` that adds the system.

`pack_graph` runs on the host, once for each application. `arrays` works inside `jax.jit`, `jax.vmap` and `jax.grad`:

    packed = pack_graph(graph)
    spans = jax.vmap(lambda system: makespan(arrays(packed, system), actions))(systems)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, as_array, check_number, check_type, shorten
from mrlato_jax.mec.arrays import DagArrays, check_floating, padded_to
from mrlato_jax.mec.objective import Prices, joules
from mrlato_jax.mec.system import BITS_PER_BYTE, CHANNELS, QUANTITIES, System


@dataclasses.dataclass(frozen=True)
class GraphArrays:
    """One DAG (or a batch of them, with a leading axis), by task id.

    Attributes:
        cycles, upload_bytes, download_bytes: float[..., N], as in `TaskGraph`; 0 on padding.
        parents: bool[..., N, N], `parents[i, j]`: task j is a parent of task i.
        mask: bool[..., N], True for tasks, False for padding.
        at_ue, at_server: bool[..., N], whether pins let a task run there; None if no task is pinned.
        topological: int32[..., N], task ids, every parent before its children; padding last.
    """

    cycles: Any
    upload_bytes: Any
    download_bytes: Any
    parents: Any
    mask: Any
    topological: Any
    at_ue: Any = None
    at_server: Any = None


jax.tree_util.register_dataclass(
    GraphArrays,
    data_fields=["cycles", "upload_bytes", "download_bytes", "parents", "mask", "topological", "at_ue", "at_server"],
    meta_fields=[],
)


def pack_graph(
    graph: TaskGraph | Sequence[TaskGraph], *, num_positions: int | None = None, dtype: Any = np.float32
) -> GraphArrays:
    """Packs an application without a system; runs on the host.

    Args:
        graph: one DAG, or a sequence of them, any sizes.
        num_positions: N; by default the (largest) number of tasks.
        dtype: floating-point dtype of cycles and bytes. `arrays` computes in this dtype; float64 needs JAX's x64 mode.

    Returns:
        numpy-backed `GraphArrays`, without leading axes for one DAG, with a leading axis B for a sequence.

    Raises:
        InputError: no graph, a graph of more than `num_positions` tasks, more than `MAX_PARENTS_BYTES` of parents, a
            `dtype` that is not floating-point, or cycles or bytes beyond its range.
    """
    if isinstance(graph, TaskGraph):
        return jax.tree.map(lambda leaf: leaf[0], pack_graph([graph], num_positions=num_positions, dtype=dtype))
    size = padded_to("graph", graph, num_positions)
    check_floating(dtype)
    batch = len(graph)
    cycles, upload_bytes, download_bytes = (np.zeros((batch, size), dtype) for _ in range(3))
    parents, mask = np.zeros((batch, size, size), bool), np.zeros((batch, size), bool)
    at_ue, at_server = np.ones((batch, size), bool), np.ones((batch, size), bool)
    topological = np.tile(np.arange(size, dtype=np.int32), (batch, 1))
    for b, one in enumerate(graph):
        n = one.num_tasks
        for name, column in (
            ("cycles", cycles), ("upload_bytes", upload_bytes), ("download_bytes", download_bytes)
        ):  # fmt: skip
            values = getattr(one, name)
            if values.max() > np.finfo(dtype).max:
                raise InputError(f"{name} of graph[{b}] reach {values.max()}; accepted: what {np.dtype(dtype)} holds")
            column[b, :n] = values
        parents[b, one.edges[:, 1], one.edges[:, 0]] = True
        mask[b, :n], topological[b, :n] = True, one.topological_order()
        if one.is_pinned:
            pins = np.array(one.pins)
            at_ue[b, :n], at_server[b, :n] = pins != "server", pins != "ue"
    pinned = (at_ue, at_server) if not (at_ue.all() and at_server.all()) else (None, None)
    return GraphArrays(cycles, upload_bytes, download_bytes, parents, mask, topological, *pinned)


def arrays(graph: GraphArrays, system: System, order: Any = None, *, energy_weight: Any = None) -> DagArrays:
    """Computes the `DagArrays` of packed DAGs on a system; may be traced.

    Times and priorities are computed in the dtype of `graph`, float32 by default; `pack` uses float64. So times differ
    from those of `pack` by rounding, and tasks of nearly equal priority may swap places. Overflowing times become
    infinite; no error is raised, since traced values cannot be checked.

    Args:
        graph: result of `pack_graph`, of one DAG or with a leading axis B.
        system: the system. Its clocks and rates may be traced. Each is a number, or [B] with a leading axis B; with
            several servers, a sequence of these. For many systems and one DAG use `jax.vmap`.
        order: int[..., k >= n], task ids in scheduling order; by default the priority order (13) on that system. The
            order is checked only if both the order and `graph` are on the host.
        energy_weight: seconds per joule, as in `Objective`; a number or [B], may be traced. By default the makespan
            alone counts.

    Returns:
        `DagArrays`, with a leading axis B if `graph` has one. The times are differentiable in clocks and rates.

    Raises:
        InputError: an argument has a wrong type or shape; or, for values on the host, the order is not a linear
            extension, or the weight is negative or not finite.
    """
    check_type("graph", graph, GraphArrays)
    check_type("system", system, System)
    batch, dtype = graph.mask.shape[:-1], jax.dtypes.canonicalize_dtype(graph.cycles.dtype)
    if graph.mask.ndim not in (1, 2):
        raise InputError(f"graph has leading axes {batch}; accepted: none or one (jax.vmap takes more)")
    values: dict[str, Any] = {}
    for name in QUANTITIES:
        of_one = getattr(system, name)
        of_each = [jnp.asarray(value, dtype) for value in (of_one if isinstance(of_one, tuple) else (of_one,))]
        for value in of_each:
            if value.shape not in ((), batch):
                many = f", or {batch}, one for each graph" if batch else " (jax.vmap takes many)"
                raise InputError(f"System.{name} has shape {value.shape}; accepted: a number{many}")
        of_each = [jnp.broadcast_to(value, batch) for value in of_each]
        servers = 1 if name == "ue_hz" else system.num_servers
        values[name] = of_each[0] if name == "ue_hz" else tuple(of_each * (servers if len(of_each) == 1 else 1))
    if order is not None:
        order = _padded_order(graph, order)
    packed = _arrays(graph, dataclasses.replace(system, **values), order)
    if energy_weight is None:
        return packed
    if not isinstance(energy_weight, jax.Array):
        for weight in np.ravel(as_array("energy_weight", energy_weight, "numbers")).tolist():
            check_number("energy_weight", weight, low=0.0)
    weight = jnp.asarray(energy_weight, dtype)
    if weight.shape not in ((), batch):
        raise InputError(f"energy_weight has shape {weight.shape}; accepted: a number, or {batch}, one for each graph")
    second, *watts = joules(system.power)
    return dataclasses.replace(
        packed,
        prices=Prices(
            *(jnp.broadcast_to(price, batch) for price in (1 + weight * second, *(weight * w for w in watts)))
        ),
    )


def _padded_order(graph: GraphArrays, order: Any) -> jax.Array:
    """Returns `order` as int32[..., N]; on the host, checks first that it is a linear extension."""
    size = graph.mask.shape[-1]
    accepted = f"accepted: integers of shape {(*graph.mask.shape[:-1], size)}, task ids in scheduling order"
    traced = isinstance(order, jax.Array)
    array = order if traced else as_array("order", order, accepted.removeprefix("accepted: "))
    if (
        array.shape[:-1] != graph.mask.shape[:-1]
        or array.ndim != graph.mask.ndim
        or array.shape[-1] > size
        or not np.issubdtype(array.dtype, np.integer)
    ):
        raise InputError(f"order has shape {array.shape} and dtype {array.dtype}; {accepted}")
    if not traced and isinstance(graph.mask, np.ndarray) and isinstance(graph.parents, np.ndarray):
        for b in np.ndindex(graph.mask.shape[:-1]):
            n, parents = int(graph.mask[b].sum()), graph.parents[b]
            ids = array[b][:n]
            if not np.array_equal(np.sort(ids), np.arange(n)) or np.triu(parents[ids][:, ids]).any():
                raise InputError(
                    f"order is {shorten(ids.tolist())}; accepted: each task id from 0 to {n - 1} once, every parent "
                    "before its children"
                )
    padding = [(0, 0)] * (array.ndim - 1) + [(0, size - array.shape[-1])]
    return jnp.pad(jnp.asarray(array, jnp.int32), padding, constant_values=-1)


@jax.jit
def _arrays(graph: GraphArrays, system: System, order: jax.Array | None) -> DagArrays:
    if graph.mask.ndim == 2:
        return jax.vmap(_of_one, in_axes=(0, 0, None if order is None else 0))(graph, system, order)
    return _of_one(graph, system, order)


def _of_one(graph: GraphArrays, system: System, order: jax.Array | None) -> DagArrays:
    uplink_bps, vm_hz, downlink_bps = (jnp.stack(getattr(system, f)) for f in ("uplink_bps", "vm_hz", "downlink_bps"))
    ue = graph.cycles / system.ue_hz
    uplink = BITS_PER_BYTE * graph.upload_bytes[:, None] / uplink_bps[None]
    vm = graph.cycles[:, None] / vm_hz[None]
    result = BITS_PER_BYTE * graph.download_bytes
    downlink = result[:, None] / downlink_bps[None]
    if order is None:
        order = _priority_order(graph, (uplink + vm + downlink).min(axis=1))
    valid = jnp.arange(graph.mask.shape[0]) < graph.mask.sum()
    order = jnp.where(valid, order, -1)
    ids = jnp.where(valid, order, 0)

    def in_order(times: jax.Array) -> jax.Array:
        return jnp.where(valid.reshape(-1, *(1,) * (times.ndim - 1)), times[ids], 0)

    stays, allowed = CHANNELS[system.channel].results_stay, None
    if graph.at_ue is not None:
        at_server = jnp.broadcast_to(graph.at_server[ids][:, None], (len(ids), system.num_servers))
        allowed = jnp.concatenate([graph.at_ue[ids][:, None], at_server], axis=1) | ~valid[:, None]
    parents = jnp.asarray(graph.parents)[ids][:, ids] & valid[:, None] & valid[None, :]
    return DagArrays(
        ue=in_order(ue),
        uplink=in_order(uplink),
        vm=in_order(vm),
        downlink=in_order(downlink),
        parents=parents,
        mask=valid,
        order=order,
        allowed=allowed,
        forward=in_order(result[:, None] / uplink_bps[None]) if stays else None,
        backhaul=in_order(result / system.backhaul_bps) if stays else None,
        channel=system.channel,
        radio=system.radio,
    )


def _priority_order(graph: GraphArrays, own: jax.Array) -> jax.Array:
    """Computes `priority_order` of one DAG, int32[N], -1 on padding, from the tasks' `t_i` of (13), `own` float[N]."""

    def rank(ranks: jax.Array, task: jax.Array) -> tuple[jax.Array, None]:
        of_children = jnp.where(graph.parents[:, task], ranks, 0)
        return ranks.at[task].set(own[task] + of_children.max()), None

    ranks = jax.lax.scan(rank, jnp.zeros_like(own), graph.topological, reverse=True)[0]

    def take(carry: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        waiting_for, left = carry
        ready = left & (waiting_for == 0)
        task = jnp.argmax(jnp.where(ready, ranks, -jnp.inf)).astype(jnp.int32)  # a tie goes to the lowest id
        taken = (waiting_for - graph.parents[:, task], left.at[task].set(False))
        return taken, jnp.where(ready.any(), task, -1)

    begin = (graph.parents.sum(axis=1, dtype=jnp.int32), graph.mask)
    return jax.lax.scan(take, begin, None, length=graph.mask.shape[0])[1]
