"""The edge system of paper III-C, extended to K servers: clocks, rates, channel rules, power and task times."""

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
    """Rules of the channels: where results are, what an upload waits for, and which transfers queue."""

    upload_waits_for_download: bool  # an upload waits until the parents' results are at the UE; else for their uploads
    downloads_queue: bool  # one download at a time; else each starts when its task is computed
    entry_uploads_queue: bool  # a task without parents occupies the uplink
    results_stay: bool = False  # a result stays where it was computed until a task elsewhere needs it


CHANNELS = {
    "paper": ChannelRules(True, True, True),  # MRLATO (7)-(10)
    "mrlco": ChannelRules(False, False, True),  # MRLCO's text
    "mrlco_code": ChannelRules(False, False, False),  # MRLCO's public code, with its entry-task fault
    "resident": ChannelRules(True, True, True, results_stay=True),  # for applications whose data stay with their tasks
}
RADIOS = ("shared", "separate")

QUANTITIES = ("ue_hz", "vm_hz", "uplink_bps", "downlink_bps")  # the clocks and rates of a `System`
OF_SERVERS = QUANTITIES[1:]  # the quantities of each server


@dataclasses.dataclass(frozen=True)
class Power:
    """Power of the UE, in watts, above its power when off.

    Energy is the sum over activities of power times duration: computing, sending (while the uplink is busy), receiving
    (while the downlink is busy), and idle power (during the whole makespan, in addition).

    Attributes:
        compute_w: `kappa f^3` with kappa = 10^-27 and f = 1 GHz (Mao et al., IEEE COMST 2017, section III-A).
        send_w: power of a WLAN device (Kumar and Lu, IEEE Computer 43(4), 2010: some 1.3 W).
        receive_w: 1.181 W (sending 1.258 W) in the code of Wang et al., IEEE Transactions on Computers 71(10), 2022.
        idle_w: 0, so only the plan's own activities count.

    Raises:
        InputError: a power is negative or not a finite number.
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

    Site 0 is the UE, sites 1 to K are the servers. A field of the servers takes one number for all of them, or a
    sequence of K numbers.

    A `System` is a pytree: clocks and rates are leaves, the rest is static. In JAX code the leaves may be traced, or
    arrays with one system per entry. `mj.arrays` takes such systems, with or without `jax.vmap`. Functions that run on
    the host take systems of numbers.

    Attributes:
        ue_hz: UE clock, cycles per second (paper: 1 GHz).
        vm_hz: clocks of the servers' virtual machines (VM), cycles per second (paper: 4 cores x 2.5 GHz).
        uplink_bps: uplink rates `U_k`, bit/s.
        downlink_bps: downlink rates `D_k`, bit/s.
        channel: name of the channel rules in `CHANNELS`: "paper" (MRLATO's rules), "mrlco" (MRLCO's text),
            "mrlco_code" (MRLCO's public code) or "resident" (results stay where they were computed).
        radio: "shared" (the transfers of all servers queue on one uplink and one downlink) or "separate" (each server
            has its own uplink and downlink).
        backhaul_bps: rate of the one link between servers, bit/s; only for channel "resident".
        power: power of the UE.

    Raises:
        InputError: a clock or rate is not a positive finite number (or an array of these; traced values are not
            checked), there is no server, fields have different numbers of servers, or channel or radio is unknown.
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
    """Raises InputError unless all entries are positive and finite; checks only the dtype of traced arrays."""
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
    """Rebuilds a system without checks, since JAX may put placeholders in place of numbers."""
    system = object.__new__(System)
    for name, value in (*zip(QUANTITIES, leaves, strict=True), *zip(_STATIC, static, strict=True)):
        object.__setattr__(system, name, value)
    return system


jax.tree_util.register_pytree_with_keys(System, _flatten_with_keys, _unflatten, _flatten)


class TaskTimes(NamedTuple):
    """Time of each task on each resource, seconds; float64, by task id and server."""

    ue: np.ndarray  # [n], T_ue = C / f_ue
    uplink: np.ndarray  # [n, K], T_ul = 8 send / U_k
    vm: np.ndarray  # [n, K], T_m = C / f_k
    downlink: np.ndarray  # [n, K], T_dl = 8 recv / D_k

    @property
    def offloaded(self) -> np.ndarray:
        """[n], remote execution time without waiting, T_ul + T_m + T_dl, least over the servers."""
        return (self.uplink + self.vm + self.downlink).min(axis=1)


def task_times(graph: TaskGraph, system: System) -> TaskTimes:
    """Computes the times of every task of `graph` under `system` (paper III-C.1).

    Raises:
        InputError: an argument has a wrong type (swapped arguments, for example), a clock or rate of the system is not
            a number, or a time exceeds float64's range.
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
    """Time to send a task's result between sites where results stay, seconds; float64, by task id."""

    forward: np.ndarray  # [n, K], up to each server: 8 recv / U_k
    backhaul: np.ndarray  # [n], from one server to another: 8 recv / backhaul


def move_times(graph: TaskGraph, system: System) -> MoveTimes:
    """Computes the transfer times of results; `TaskTimes.downlink` has those to the UE. Errors as in `task_times`."""
    bits = BITS_PER_BYTE * graph.download_bytes
    with np.errstate(over="ignore"):
        times = MoveTimes(bits[:, None] / of_servers(system, "uplink_bps"), bits / system.backhaul_bps)
    check_finite_times(times._asdict(), system)
    return times


def check_finite_times(times: dict[str, np.ndarray], system: System) -> None:
    """Raises InputError if a time is not finite; `times` maps names to float64[n] or [n, K]."""
    with np.errstate(over="ignore"):
        if np.isfinite(sum(values.sum() for values in times.values())):
            return
    for name, values in times.items():
        if not np.isfinite(values).all():
            place = np.argwhere(~np.isfinite(values))[0]
            at = f"time {name} of task {place[0]}" + (f" on server {place[1] + 1}" if len(place) > 1 else "")
            raise InputError(f"{at} is {values[tuple(place)]} s under {system}; accepted: finite times")


def of_servers(system: System, name: str) -> np.ndarray:
    """Returns a clock or rate of the servers of one system on the host, float64[K].

    Raises:
        InputError: a traced value, or an array of several numbers.
    """
    value = getattr(system, name)
    if isinstance(value, tuple):
        return np.array([host_number(f"System.{name}[{server}]", one) for server, one in enumerate(value)], np.float64)
    return np.array([host_number(f"System.{name}", value)] * system.num_servers, np.float64)


def host_number(field: str, value: Any) -> Any:
    """Returns a clock or rate of one system on the host; raises InputError for a traced value or for several."""
    if isinstance(value, numbers.Real):
        return value
    if isinstance(value, jax.Array | np.ndarray) and value.ndim == 0 and not isinstance(value, jax.core.Tracer):
        return value.item()
    raise InputError(f"{field} is {shorten(value)}; accepted here: a number, or a list of one for each server")
