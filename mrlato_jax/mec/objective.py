"""Objectives of planning: makespan, energy or both; and the prices that express them in the recurrence."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

from mrlato_jax.errors import InputError, check_number, check_type
from mrlato_jax.mec.system import Power

SLACK = 1e-12  # relative: two programs may round a makespan differently


class Prices(NamedTuple):
    """Cost per second of the makespan and of each activity; the cost of a plan is the sum of all four."""

    makespan: Any
    compute: Any  # the UE computes
    send: Any  # an uplink is busy
    receive: Any  # a downlink is busy


@dataclasses.dataclass(frozen=True)
class Objective:
    """The cost to minimise: makespan + `energy_weight` x energy; with a deadline, the energy of plans that meet it.

    Attributes:
        energy_weight: seconds per joule, >= 0.
        deadline_s: seconds; if no plan meets it, planners return the plan of least makespan.

    Raises:
        InputError: a weight that is negative or not finite, a deadline that is not positive and finite, or a deadline
            with a weight.
    """

    energy_weight: float = 0.0
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        check_number("Objective.energy_weight", self.energy_weight, low=0.0)
        if self.deadline_s is not None:
            check_number("Objective.deadline_s", self.deadline_s, low=0.0, open_low=True)
            if self.energy_weight:
                raise InputError(
                    f"Objective.energy_weight is {self.energy_weight} with a deadline; accepted: 0, since then energy "
                    "alone is minimised"
                )

    def prices(self, power: Power) -> Prices | None:
        """Returns the prices for a UE of this power; None if the makespan alone counts. A deadline prices in joules."""
        if self.deadline_s is not None:
            return joules(power)
        weight = self.energy_weight
        if not weight or not any(dataclasses.astuple(power)):
            return None
        return Prices(
            1 + weight * power.idle_w, weight * power.compute_w, weight * power.send_w, weight * power.receive_w
        )

    def cost(self, makespan: float, energy: float) -> float:
        """Returns the cost of a plan in seconds; with a deadline, its energy in joules."""
        return energy if self.deadline_s is not None else makespan + self.energy_weight * energy

    @property
    def latest_s(self) -> float:
        """The deadline plus a margin for rounding, seconds; infinite without a deadline."""
        return math.inf if self.deadline_s is None else self.deadline_s * (1 + SLACK)

    def meets_deadline(self, makespan: float) -> bool:
        """Returns whether a plan with this makespan (seconds) meets the deadline; true without a deadline."""
        return makespan <= self.latest_s

    def key(self, makespan: float, energy: float) -> tuple[bool, float]:
        """Returns the sort key of a plan: every plan that meets the deadline sorts before all that miss it."""
        late = not self.meets_deadline(makespan)
        return late, makespan if late else self.cost(makespan, energy)


def goal_of(objective: Objective | None) -> Objective:
    """Returns the objective, by default the makespan; raises InputError for another type."""
    if objective is None:
        return Objective()
    check_type("objective", objective, Objective)
    return objective


def joules(power: Power) -> Prices:
    """Returns prices under which the cost of a plan is its energy in joules."""
    return Prices(power.idle_w, power.compute_w, power.send_w, power.receive_w)
