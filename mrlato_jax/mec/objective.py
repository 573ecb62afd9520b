"""What a plan is to be good at: makespan, energy or both; and the prices that say so in the recurrence."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

from mrlato_jax.errors import InputError, check_number, check_type
from mrlato_jax.mec.system import Power

SLACK = 1e-12  # relative: two programs may round a makespan differently


class Prices(NamedTuple):
    """What a second of each costs; the cost of a plan is the sum over all four."""

    makespan: Any
    compute: Any  # the UE computes
    send: Any  # an uplink is busy
    receive: Any  # a downlink is busy


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimised: makespan + `energy_weight` x energy; or with a deadline the energy of plans that meet it.

    Attributes:
        energy_weight: seconds that a joule is worth, >= 0.
        deadline_s: seconds; where no plan meets it, the plan of least makespan is the answer.

    Raises:
        InputError: a weight that is negative or not finite, a deadline that is not positive and finite, or both.
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
        """Of a UE of such power; None where the makespan alone counts. With a deadline the cost is in joules."""
        if self.deadline_s is not None:
            return joules(power)
        weight = self.energy_weight
        if not weight or not any(dataclasses.astuple(power)):
            return None
        return Prices(
            1 + weight * power.idle_w, weight * power.compute_w, weight * power.send_w, weight * power.receive_w
        )

    def cost(self, makespan: float, energy: float) -> float:
        """Of a plan, in seconds; with a deadline its energy in joules."""
        return energy if self.deadline_s is not None else makespan + self.energy_weight * energy

    @property
    def latest_s(self) -> float:
        """The deadline with the slack that rounding needs, seconds; infinite without one."""
        return math.inf if self.deadline_s is None else self.deadline_s * (1 + SLACK)

    def meets_deadline(self, makespan: float) -> bool:
        """Whether a plan of so many seconds ends in time; true without a deadline."""
        return makespan <= self.latest_s

    def key(self, makespan: float, energy: float) -> tuple[bool, float]:
        """By which plans are ordered: any that meets the deadline before all that miss it."""
        late = not self.meets_deadline(makespan)
        return late, makespan if late else self.cost(makespan, energy)


def goal_of(objective: Objective | None) -> Objective:
    """An objective, by default the makespan; raises InputError for something else."""
    if objective is None:
        return Objective()
    check_type("objective", objective, Objective)
    return objective


def joules(power: Power) -> Prices:
    """Prices under which the cost of a plan is its energy in joules."""
    return Prices(power.idle_w, power.compute_w, power.send_w, power.receive_w)
