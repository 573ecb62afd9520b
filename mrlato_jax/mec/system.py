"""The edge system of paper III-C, widened to K servers: clocks, rates, channel rules, power, times of tasks."""

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
MOST_SERVERS = 64


class ChannelRules(NamedTuple):
    """Where results are, what an upload waits for and which transfers queue."""

    upload_waits_for_download: bool  # parents' results must be back at the UE; else parents' uploads suffice
    downloads_queue: bool  # one download at a time; else each starts as its task's processing ends
    entry_uploads_queue: bool  # a task without parents occupies the uplink
    results_stay: bool = False  # a result stays where it was computed and moves when it is needed elsewhere


CHANNELS = {
    "paper": ChannelRules(True, True, True),  # MRLATO (7)-(10)
    "mrlco": ChannelRules(False, False, True),  # MRLCO's text
    "mrlco_code": ChannelRules(False, False, False),  # MRLCO's public code, with its entry-task fault
    "resident": ChannelRules(True, True, True, results_stay=True),  # of applications whose data stay with their tasks
}
RADIOS = ("shared", "separate")

QUANTITIES = ("ue_hz", "vm_hz", "uplink_bps", "downlink_bps")  # the clocks and rates of a `System`
OF_SERVERS = QUANTITIES[1:]  # those that each server has


@dataclasses.dataclass(frozen=True)
class Power:
    """What the UE draws, in watts, beside what it draws when it is off.

    Energy is the sum of each power times the seconds that it is drawn: computing, sending (while the uplink is busy),
    receiving (while the downlink is busy), and idle (the whole makespan, beside the others).

    Attributes:
        compute_w: `kappa f^3` with kappa = 10^-27 and f = 1 GHz (Mao et al., IEEE COMST 2017, section III-A).
        send_w: of a WLAN device (Kumar and Lu, IEEE Computer 43(4), 2010: some 1.3 W).
        receive_w: 1.181 W (sending 1.258 W) in the code of Wang et al., IEEE Transactions on Computers 71(10), 2022.
        idle_w: 0, so that only what a plan decides counts.

    Raises:
        InputError: a power that is no finite number, or negative.
    """

    compute_w: float = 1.0
    send_w: float = 1.3
    receive_w: float = 1.2
    idle_w: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check_number(f"Power.{field.name}", getattr(self, field.name), low=0.0)


@dataclasses.dataclass(frozen=True)
class System:
    """One user equipment (UE), K >= 1 servers at the edge or beyond, and the channels between them.

    Site 0 is the UE, sites 1 to K are the servers. A field of the servers takes a number, which holds for all of them,
    or a sequence of K numbers.

    A pytree: its clocks and rates are leaves, the rest is static. In JAX code they may be arrays, one system an entry,
    and traced; then `mj.arrays` takes the system, under `jax.vmap` or not. Functions that run on the host take systems
    of numbers.

    Attributes:
        ue_hz: UE clock, cycles per second (paper: 1 GHz).
        vm_hz: clocks of the servers' virtual machines (VM), cycles per second (paper: 4 cores x 2.5 GHz).
        uplink_bps: uplink rates `U_k`, bit/s.
        downlink_bps: downlink rates `D_k`, bit/s.
        channel: "paper" (MRLATO's rules), "mrlco" (of MRLCO's text), "mrlco_code" (of its public code) or "resident"
            (results stay where they were computed): `CHANNELS`.
        radio: "shared" (the transfers of all servers queue on one uplink and one downlink) or "separate" (on one of
            each for each server).
        backhaul_bps: rate of the one link among the servers, bit/s; with channel "resident" only.
        power: of the UE.

    Raises:
        InputError: a clock or rate that is not a positive finite number (or an array of them; what is traced is not
            looked at), no server, fields of different numbers of servers, or an unknown channel or radio.
    """

    ue_hz: Any = 1e9
    vm_hz: Any = 10e9
    uplink_bps: Any = 7e6
    downlink_bps: Any = 7e6
    channel: str = "paper"
    radio: str = "shared"
    backhaul_bps: float = 1e9
    power: Power = Power()

    def __post_init__(self) -> None:
        _check_quantity("System.ue_hz", self.ue_hz)
        for name in OF_SERVERS:
            value = getattr(self, name)
            if isinstance(value, list | tuple):
                if not 1 <= len(value) <= MOST_SERVERS:
                    accepted = f"accepted: a number, or 1 to {MOST_SERVERS} of them, one for each server"
                    raise InputError(f"System.{name} has {len(value)} values; {accepted}")
                for server, one in enumerate(value):
                    _check_quantity(f"System.{name}[{server}]", one)
                object.__setattr__(self, name, tuple(value))
            else:
                _check_quantity(f"System.{name}", value)
        counts = {name: len(getattr(self, name)) for name in OF_SERVERS if isinstance(getattr(self, name), tuple)}
        if len(set(counts.values())) > 1:
            lengths = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise InputError(f"System has values for different numbers of servers: {lengths}; accepted: equally many")
        check_choice("System.channel", self.channel, tuple(CHANNELS))
        check_choice("System.radio", self.radio, RADIOS)
        check_number("System.backhaul_bps", self.backhaul_bps, low=0.0, open_low=True)
        check_type("System.power", self.power, Power)

    @property
    def num_servers(self) -> int:
        """K, at least 1."""
        for name in OF_SERVERS:
            value = getattr(self, name)
            if isinstance(value, tuple):
                return len(value)
        return 1

    @property
    def num_sites(self) -> int:
        """K + 1: the UE and the servers."""
        return self.num_servers + 1


def _check_quantity(field: str, value: Any) -> None:
    if isinstance(value, jax.Array | np.ndarray):
        _check_array(field, value)
    else:
        check_number(field, value, low=0.0, open_low=True)


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
_STATIC = ("channel", "radio", "backhaul_bps", "power")


def _flatten(system: System) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    return tuple(getattr(system, name) for name in QUANTITIES), tuple(getattr(system, name) for name in _STATIC)


def _flatten_with_keys(system: System) -> tuple[_Path, tuple[Any, ...]]:
    leaves, static = _flatten(system)
    return tuple((jax.tree_util.GetAttrKey(name), leaf) for name, leaf in zip(QUANTITIES, leaves, strict=True)), static


def _unflatten(static: tuple[Any, ...], leaves: Iterable[Any]) -> System:
    """Unchecked: JAX puts placeholders of its own where numbers were."""
    system = object.__new__(System)
    for name, value in (*zip(QUANTITIES, leaves, strict=True), *zip(_STATIC, static, strict=True)):
        object.__setattr__(system, name, value)
    return system


jax.tree_util.register_pytree_with_keys(System, _flatten_with_keys, _unflatten, _flatten)


class TaskTimes(NamedTuple):
    """How long each task occupies each resource, seconds; float64, by task id and server."""

    ue: np.ndarray  # [n], T_ue = C / f_ue
    uplink: np.ndarray  # [n, K], T_ul = 8 send / U_k
    vm: np.ndarray  # [n, K], T_m = C / f_k
    downlink: np.ndarray  # [n, K], T_dl = 8 recv / D_k

    @property
    def offloaded(self) -> np.ndarray:
        """[n], the least T_ul + T_m + T_dl of any server, the whole remote execution without waiting."""
        return (self.uplink + self.vm + self.downlink).min(axis=1)


def task_times(graph: TaskGraph, system: System) -> TaskTimes:
    """The times of every task of `graph` under `system` (paper III-C.1).

    Raises:
        InputError: arguments of other types (swapped, say), a system whose clocks and rates are no numbers, or a time
            beyond float64's range.
    """
    check_type("graph", graph, TaskGraph)
    check_type("system", system, System)
    ue_hz = host_number("System.ue_hz", system.ue_hz)
    vm_hz, uplink_bps, downlink_bps = (of_servers(system, name) for name in OF_SERVERS)
    with np.errstate(over="ignore"):
        times = TaskTimes(
            ue=graph.cycles / ue_hz,
            uplink=BITS_PER_BYTE * graph.upload_bytes[:, None] / uplink_bps,
            vm=graph.cycles[:, None] / vm_hz,
            downlink=BITS_PER_BYTE * graph.download_bytes[:, None] / downlink_bps,
        )
    check_finite_times(times._asdict(), system)
    return times


class MoveTimes(NamedTuple):
    """How long a task's result takes from site to site where results stay, seconds; float64, by task id."""

    forward: np.ndarray  # [n, K], up to each server: 8 recv / U_k
    backhaul: np.ndarray  # [n], from one server to another: 8 recv / backhaul


def move_times(graph: TaskGraph, system: System) -> MoveTimes:
    """The times that results take; down to the UE it is `TaskTimes.downlink`. Errors as `task_times`."""
    bits = BITS_PER_BYTE * graph.download_bytes
    with np.errstate(over="ignore"):
        times = MoveTimes(bits[:, None] / of_servers(system, "uplink_bps"), bits / system.backhaul_bps)
    check_finite_times(times._asdict(), system)
    return times


def check_finite_times(times: dict[str, np.ndarray], system: System) -> None:
    """Raises InputError where a time, float64[n] or [n, K] by its name, is not finite."""
    with np.errstate(over="ignore"):
        if np.isfinite(sum(values.sum() for values in times.values())):
            return
    for name, values in times.items():
        if not np.isfinite(values).all():
            place = np.argwhere(~np.isfinite(values))[0]
            at = f"time {name} of task {place[0]}" + (f" on server {place[1] + 1}" if len(place) > 1 else "")
            raise InputError(f"{at} is {values[tuple(place)]} s under {system}; accepted: finite times")


def of_servers(system: System, name: str) -> np.ndarray:
    """A clock or rate of the servers of one system on the host: float64[K].

    Raises:
        InputError: traced values, or arrays of more than a number.
    """
    value = getattr(system, name)
    if isinstance(value, tuple):
        return np.array([host_number(f"System.{name}[{server}]", one) for server, one in enumerate(value)], np.float64)
    return np.array([host_number(f"System.{name}", value)] * system.num_servers, np.float64)


def host_number(field: str, value: Any) -> Any:
    """A clock or rate of one system on the host; raises InputError for a traced one and for several."""
    if isinstance(value, numbers.Real):
        return value
    if isinstance(value, jax.Array | np.ndarray) and value.ndim == 0 and not isinstance(value, jax.core.Tracer):
        return value.item()
    raise InputError(f"{field} is {shorten(value)}; accepted here: a number, or a list of one for each server")
