"""Disturbances: how the real system differs from the model that plans are made with.

A `Disturbance` names what differs and by how much. `world_of` draws its constants: the clocks and rates that nobody
knows. Each execution then draws the rest anew: jitter, others' transfers, changes of the rate (`mec.execution`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from mrlato_jax.errors import check_number, check_type
from mrlato_jax.mec.system import System, of_servers


@dataclasses.dataclass(frozen=True)
class Disturbance:
    """How the real system differs from the `System` that plans are made with. The default differs in nothing.

    A factor "within r" is drawn log-uniformly from 1/r to r.

    Attributes:
        clocks_within: each clock has a factor within this, drawn once from `seed`.
        rates_within: each rate has a factor within this, drawn once from `seed`.
        half_duplex: whether uplink and downlink share one medium. The medium carries one transfer at a time, and the
            transfer that was ready first goes first.
        share: share of the rate that is left while others use the link; 1 if nobody does.
        share_s: mean time for which others use the link, and for which they pause, seconds; exponential. An execution
            has 64 such times, afterwards the link stays as it is: choose more than a 64th of the makespan.
        jitter: each task and transfer has a log-normal factor of mean 1; this is the deviation of its logarithm.
        vm_burst_s: time of computing for which a VM has its full clock in an execution, seconds.
        vm_slowdown: factor by which the VM is slower afterwards.
        rate_changes_within: the rate has a factor within this, which is drawn anew every `rate_period_s`.
        rate_period_s: seconds between two changes of the rate; an execution begins anywhere between two changes, and
            has 64 of them.
        seed: seed of the clocks and rates. Executions have seeds of their own.

    Raises:
        InputError: a number is out of its range.
    """

    clocks_within: float = 1.0
    rates_within: float = 1.0
    half_duplex: bool = False
    share: float = 1.0
    share_s: float = 0.1
    jitter: float = 0.0
    vm_burst_s: float = 0.0
    vm_slowdown: float = 1.0
    rate_changes_within: float = 1.0
    rate_period_s: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("clocks_within", "rates_within", "vm_slowdown", "rate_changes_within"):
            check_number(f"Disturbance.{name}", getattr(self, name), low=1.0)
        for name in ("jitter", "vm_burst_s"):
            check_number(f"Disturbance.{name}", getattr(self, name), low=0.0)
        for name in ("share_s", "rate_period_s"):
            check_number(f"Disturbance.{name}", getattr(self, name), low=0.0, open_low=True)
        check_number("Disturbance.share", self.share, low=0.0, high=1.0, open_low=True)
        check_number("Disturbance.seed", self.seed, low=0, high=2**32 - 1, integer=True)
        check_type("Disturbance.half_duplex", self.half_duplex, bool)


DISTURBANCES: Mapping[str, Disturbance] = MappingProxyType(
    {
        "unknown clocks": Disturbance(clocks_within=3.0),
        "unknown rates": Disturbance(rates_within=3.0),
        "half-duplex link": Disturbance(half_duplex=True),
        "shared link": Disturbance(share=0.3),
        "jitter": Disturbance(jitter=0.4),
        "VM slows under load": Disturbance(vm_burst_s=0.01, vm_slowdown=10.0),
        "changing rate": Disturbance(rate_changes_within=3.0),
        "all of these": Disturbance(3.0, 3.0, True, 0.3, 0.1, 0.4, 0.01, 10.0, 3.0),
    }
)
"""Named disturbances, of the size of Experiment 2's applications, which take half a second."""


class World(NamedTuple):
    """A `Disturbance` with its constants, for one DAG. A pytree; several are stacked along leading axes."""

    ue: Any  # factor of the time of tasks on the UE
    uplink: Any  # [K], factor of the time of uploads
    vm: Any  # [K]
    downlink: Any  # [K]
    half_duplex: Any  # bool
    share: Any
    share_s: Any
    jitter: Any
    vm_burst_s: Any
    vm_slowdown: Any
    rate_changes: Any  # logarithm of `rate_changes_within`
    rate_period_s: Any


def world_of(disturbance: Disturbance, num_servers: int, dtype: Any = np.float32) -> World:
    """Draws the constants of a disturbance; runs on the host."""
    rng = np.random.default_rng(disturbance.seed)

    def within(limit: float, *shape: int) -> np.ndarray:
        return np.exp(math.log(limit) * rng.uniform(-1, 1, shape)).astype(dtype)

    ue, vm = within(disturbance.clocks_within), within(disturbance.clocks_within, num_servers)
    uplink, downlink = within(disturbance.rates_within, 2, num_servers)
    others = (getattr(disturbance, name) for name in ("share", "share_s", "jitter", "vm_burst_s", "vm_slowdown"))
    changes = (math.log(disturbance.rate_changes_within), disturbance.rate_period_s)
    numbers = [np.asarray(value, dtype) for value in (*others, *changes)]
    return World(ue, uplink, vm, downlink, np.asarray(disturbance.half_duplex), *numbers)


def seen_from(world: World, system: System, known: System) -> World:
    """Returns a world for times under another system: the same reality, for a planner that knows better.

    Args:
        world: factors of the times under `system`.
        system: the system that the disturbance disturbs.
        known: the system that the planner knows, with the same number of servers.
    """

    def ratio(name: str) -> np.ndarray:
        return (of_servers(known, name) / of_servers(system, name)).astype(world.vm.dtype)

    return world._replace(
        ue=(world.ue * (known.ue_hz / system.ue_hz)).astype(world.ue.dtype),
        vm=world.vm * ratio("vm_hz"),
        uplink=world.uplink * ratio("uplink_bps"),
        downlink=world.downlink * ratio("downlink_bps"),
    )
