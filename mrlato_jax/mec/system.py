"""The edge system of paper III-C: clocks, channel rates, channel rules, and the four times of a task."""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_choice, check_number, check_type, shorten

BITS_PER_BYTE = 8.0


class ChannelRules(NamedTuple):
    """What an upload waits for and which transfers queue."""

    upload_waits_for_download: bool  # parents' results must be back at the UE; else parents' uploads suffice
    downloads_queue: bool  # one download at a time; else each starts as its task's processing ends
    entry_uploads_queue: bool  # a task without parents occupies the uplink


CHANNELS = {
    "paper": ChannelRules(True, True, True),  # MRLATO (7)-(10)
    "mrlco": ChannelRules(False, False, True),  # MRLCO's text
    "mrlco_code": ChannelRules(False, False, False),  # MRLCO's public code, with its entry-task fault
}


QUANTITIES = ("ue_hz", "vm_hz", "uplink_bps", "downlink_bps")  # the clocks and rates of a `System`


@dataclasses.dataclass(frozen=True)
class System:
    """One user equipment (UE), one virtual machine (VM) at the MEC host, and the channel between them.

    A pytree: its clocks and rates are leaves, its channel is static. In JAX code they may be arrays, one system an
    entry, and traced; then `mj.arrays` takes the system, under `jax.vmap` or not. Functions that run on the host take
    systems of numbers.

    Attributes:
        ue_hz: UE clock, cycles per second (paper: 1 GHz).
        vm_hz: VM clock, cycles per second (paper: 4 cores x 2.5 GHz).
        uplink_bps: uplink rate `U_r`, bit/s.
        downlink_bps: downlink rate `D_r`, bit/s.
        channel: "paper" (MRLATO's rules), "mrlco" (of MRLCO's text) or "mrlco_code" (of its public code): `CHANNELS`.

    Raises:
        InputError: a clock or rate that is not a positive finite number (or an array of them; what is traced is not
            looked at), or an unknown channel.
    """

    ue_hz: float = 1e9
    vm_hz: float = 10e9
    uplink_bps: float = 7e6
    downlink_bps: float = 7e6
    channel: str = "paper"

    def __post_init__(self) -> None:
        for name in QUANTITIES:
            value = getattr(self, name)
            if isinstance(value, jax.Array | np.ndarray):
                _check_array(f"System.{name}", value)
            else:
                check_number(f"System.{name}", value, low=0.0, open_low=True)
        check_choice("System.channel", self.channel, tuple(CHANNELS))


def _check_array(field: str, value: jax.Array | np.ndarray) -> None:
    """Raises InputError where a number of the array is not positive and finite; a traced one has only a dtype."""
    accepted = "accepted: positive finite numbers"
    if not (np.issubdtype(value.dtype, np.floating) or np.issubdtype(value.dtype, np.integer)):
        raise InputError(f"{field} is an array of {value.dtype}; {accepted}")
    if isinstance(value, jax.core.Tracer):
        return
    flat = np.asarray(value).reshape(-1)
    wrong = np.flatnonzero(~(np.isfinite(flat) & (flat > 0)))
    if wrong.size:
        raise InputError(f"{field} has an entry {flat[wrong[0]]}; {accepted}")


_Path = tuple[tuple[jax.tree_util.GetAttrKey, Any], ...]


def _flatten(system: System) -> tuple[tuple[Any, ...], str]:
    return tuple(getattr(system, name) for name in QUANTITIES), system.channel


def _flatten_with_keys(system: System) -> tuple[_Path, str]:
    leaves, channel = _flatten(system)
    return tuple((jax.tree_util.GetAttrKey(name), leaf) for name, leaf in zip(QUANTITIES, leaves, strict=True)), channel


def _unflatten(channel: str, leaves: Iterable[Any]) -> System:
    """Unchecked: JAX puts placeholders of its own where numbers were."""
    system = object.__new__(System)
    for name, value in (*zip(QUANTITIES, leaves, strict=True), ("channel", channel)):
        object.__setattr__(system, name, value)
    return system


jax.tree_util.register_pytree_with_keys(System, _flatten_with_keys, _unflatten, _flatten)


class TaskTimes(NamedTuple):
    """How long each task occupies each resource, seconds; float64[n] by task id."""

    ue: np.ndarray  # T_ue = C / f_ue
    uplink: np.ndarray  # T_ul = 8 send / U_r
    vm: np.ndarray  # T_m = C / f_vm
    downlink: np.ndarray  # T_dl = 8 recv / D_r

    @property
    def offloaded(self) -> np.ndarray:
        """T_ul + T_m + T_dl, the whole remote execution without waiting."""
        return self.uplink + self.vm + self.downlink


def task_times(graph: TaskGraph, system: System) -> TaskTimes:
    """The four times of every task of `graph` under `system` (paper III-C.1).

    Raises:
        InputError: arguments of other types (swapped, say), a system whose clocks and rates are no numbers, or a time
            beyond float64's range.
    """
    check_type("graph", graph, TaskGraph)
    check_type("system", system, System)
    ue_hz, vm_hz, uplink_bps, downlink_bps = (_number(system, name) for name in QUANTITIES)
    with np.errstate(over="ignore"):
        times = TaskTimes(
            ue=graph.cycles / ue_hz,
            uplink=BITS_PER_BYTE * graph.upload_bytes / uplink_bps,
            vm=graph.cycles / vm_hz,
            downlink=BITS_PER_BYTE * graph.download_bytes / downlink_bps,
        )
        total = sum(values.sum() for values in times)
    for name, values in times._asdict().items() if not np.isfinite(total) else ():
        if not np.isfinite(values).all():
            task = int(np.argmin(np.isfinite(values)))
            raise InputError(f"time {name} of task {task} is {values[task]} s under {system}; accepted: finite times")
    return times


def _number(system: System, name: str) -> Any:
    """A clock or rate of one system on the host; raises InputError for a traced one and for several."""
    value = getattr(system, name)
    if isinstance(value, numbers.Real):
        return value
    if isinstance(value, jax.Array | np.ndarray) and value.ndim == 0 and not isinstance(value, jax.core.Tracer):
        return value.item()
    raise InputError(f"System.{name} is {shorten(value)}; accepted here: a number (mj.arrays takes arrays)")
