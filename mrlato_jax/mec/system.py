"""The edge system of paper III-C: clocks, channel rates, channel rules, and the four times of a task."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_choice, check_number, check_type

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


@dataclasses.dataclass(frozen=True)
class System:
    """One user equipment (UE), one virtual machine (VM) at the MEC host, and the channel between them.

    Attributes:
        ue_hz: UE clock, cycles per second (paper: 1 GHz).
        vm_hz: VM clock, cycles per second (paper: 4 cores x 2.5 GHz).
        uplink_bps: uplink rate `U_r`, bit/s.
        downlink_bps: downlink rate `D_r`, bit/s.
        channel: "paper" (MRLATO's rules), "mrlco" (of MRLCO's text) or "mrlco_code" (of its public code): `CHANNELS`.

    Raises:
        InputError: a clock or rate that is not a positive finite number, or an unknown channel.
    """

    ue_hz: float = 1e9
    vm_hz: float = 10e9
    uplink_bps: float = 7e6
    downlink_bps: float = 7e6
    channel: str = "paper"

    def __post_init__(self) -> None:
        for name in ("ue_hz", "vm_hz", "uplink_bps", "downlink_bps"):
            check_number(f"System.{name}", getattr(self, name), low=0.0, open_low=True)
        check_choice("System.channel", self.channel, tuple(CHANNELS))


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
        InputError: arguments of other types (swapped, say), or a time beyond float64's range.
    """
    check_type("graph", graph, TaskGraph)
    check_type("system", system, System)
    with np.errstate(over="ignore"):
        times = TaskTimes(
            ue=graph.cycles / system.ue_hz,
            uplink=BITS_PER_BYTE * graph.upload_bytes / system.uplink_bps,
            vm=graph.cycles / system.vm_hz,
            downlink=BITS_PER_BYTE * graph.download_bytes / system.downlink_bps,
        )
        total = sum(values.sum() for values in times)
    for name, values in times._asdict().items() if not np.isfinite(total) else ():
        if not np.isfinite(values).all():
            task = int(np.argmin(np.isfinite(values)))
            raise InputError(f"time {name} of task {task} is {values[task]} s under {system}; accepted: finite times")
    return times
