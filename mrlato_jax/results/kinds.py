"""Gap of a policy's plans to the optimum on fresh systems of every kind: servers, channel rules, pins, energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mrlato_jax.dag.families import StagedFamily, WideFamily, draw_system, draw_weight
from mrlato_jax.drawing import LINES
from mrlato_jax.inference.offloader import Offloader
from mrlato_jax.instances.references import Problem
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import System
from mrlato_jax.planners import Plan, heft, look_ahead, optimum

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = (10, 24)  # least and largest number of tasks
MODES = ("argmax", "sample", "search")
PLANNERS = ("HEFT-based", "look-ahead", *MODES)
LOOKS = {  # colour and marker
    "HEFT-based": (LINES["HEFT-based"][0], "s"),
    "look-ahead": (LINES["look-ahead"][0], "D"),
    "argmax": ("C0", "o"),
    "search": ("C3", "*"),
}


class Kind(NamedTuple):
    """One kind of system and objective."""

    servers: int
    channel: str
    radio: str
    pinned: bool
    energy: bool

    @property
    def name(self) -> str:
        """Name in tables."""
        results = "stay" if self.channel == "resident" else "return"
        more = [word for word, holds in (("pins", self.pinned), ("energy", self.energy)) if holds]
        radios = ["separate radios"] if self.radio != "shared" else []
        return ", ".join([f"K={self.servers}", f"results {results}", *radios, *more])


KINDS = (
    *(
        Kind(servers, channel, "shared", pinned, energy)
        for servers in (1, 2, 3)
        for channel in ("paper", "resident")
        for pinned, energy in ((False, False), (True, False), (False, True))
    ),
    *(Kind(3, channel, "shared", True, True) for channel in ("paper", "resident")),
    *(Kind(3, channel, "separate", False, False) for channel in ("paper", "resident")),
)


def drawn(kind: Kind, seed: int = 0) -> Iterator[Problem]:
    """Yields random applications and systems of a kind without end; none is in a data set.

    Every third application is a workflow of stages, the others are layered. Each has its own system and energy weight.
    """
    rng = np.random.default_rng([seed, 2**20, *(int(value) for value in kind[:1] + kind[3:]), len(kind.channel)])
    number = 0
    while True:
        fields = draw_system(rng, kind.servers, kind.channel, kind.radio)
        size = SIZES[0] + int((SIZES[1] - SIZES[0] + 1) * rng.random())
        shape: dict[str, Any] = {
            "set_name": "", "split": "test", "num_tasks": size, "system": fields, "pinned": kind.pinned
        }  # fmt: skip
        staged = number % 3 == 2
        family = StagedFamily(**shape) if staged else WideFamily(**shape, fat=(0.2, 0.9), density=(0.1, 0.9))
        weight = draw_weight(rng) if kind.energy else 0.0
        yield Problem(family.sample(rng), System(**fields), Objective(energy_weight=weight))
        number += 1


def measured(policy: Offloader, asked: Sequence[Problem], time_limit_s: float) -> dict[str, Any]:
    """Measures how far plans are above the proven optimum.

    Args:
        policy: the policy, which plans in each of `MODES`.
        asked: applications, systems and objectives.
        time_limit_s: time limit of each proof, seconds.

    Returns:
        The number of cases and of proven optima; and for each planner, the relative excess cost of its plans over the
        proven optima.
    """
    above: dict[str, list[float]] = {name: [] for name in PLANNERS}
    for one in asked:
        graph, system, objective = one
        best = optimum(graph, system, time_limit_s=time_limit_s, objective=objective)
        if not best.proven:
            continue
        planners: dict[str, Callable[[], Plan]] = {
            "HEFT-based": partial(heft, graph, system, objective=objective),
            "look-ahead": partial(look_ahead, graph, system, objective=objective),
            **{mode: partial(policy.plan, graph, system, mode, objective=objective) for mode in MODES},
        }
        for name, planner in planners.items():
            above[name].append(one.cost(planner()) / one.cost(best) - 1)
    return {"asked": len(asked), "proven": len(above["argmax"]), "above_optimum": above}


def forbidden(policy: Offloader, kind: Kind, plans: int, batch: int = 250) -> int:
    """Counts the plans, among `plans` argmax plans of a pinned kind, that violate a pin."""
    count, source = 0, drawn(kind, seed=1)
    for begin in range(0, plans, batch):
        asked = [next(source) for _ in range(min(batch, plans - begin))]
        # A batch has one objective; the mask of allowed actions does not depend on it.
        found = policy.plan([one.graph for one in asked], [one.system for one in asked])
        for one, plan in zip(asked, found, strict=True):
            wrong = [
                (pin == "ue" and site != 0) or (pin == "server" and site == 0)
                for pin, site in zip(one.graph.pins, plan.placement.tolist(), strict=True)
            ]
            count += any(wrong)
    return count


def table(rows: dict[str, dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Makes header and cells of `measured` by kind: mean percent above the optimum. The last line is over all kinds."""
    cells = [
        [
            name,
            f"{row['proven']} / {row['asked']}",
            *(f"{100 * np.mean(row['above_optimum'][planner]):.1f}" if row["proven"] else "" for planner in PLANNERS),
        ]
        for name, row in rows.items()
    ]
    everything = {name: [gap for row in rows.values() for gap in row["above_optimum"][name]] for name in PLANNERS}
    proven, asked = (sum(row[field] for row in rows.values()) for field in ("proven", "asked"))
    means = [f"{100 * np.mean(gaps):.1f}" if gaps else "" for gaps in everything.values()]
    cells.append(["all", f"{proven} / {asked}", *means])
    return ["kind", "proven", *PLANNERS], cells


def figure(rows: dict[str, dict[str, Any]]) -> Figure:
    """Draws the mean percent above the optimum, one line for each kind.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    drawn_rows = [(name, row) for name, row in rows.items() if row["proven"]]
    picture = Figure(figsize=(8, 1.6 + 0.28 * len(drawn_rows)), layout="constrained")
    axis = picture.add_subplot()
    places = np.arange(len(drawn_rows))[::-1]
    for planner, (colour, marker) in LOOKS.items():
        means = [100 * float(np.mean(row["above_optimum"][planner])) for _, row in drawn_rows]
        shown = [max(mean, 0.0) for mean in means]
        axis.plot(shown, places, marker, color=colour, label=planner, markersize=9 if marker == "*" else 6, zorder=3)
    axis.set_yticks(places, [name for name, _ in drawn_rows], fontsize=8)
    axis.set_xscale("symlog", linthresh=1, linscale=0.6)
    ticks = [0, 0.5, 1, 2, 3, 5, 10, 20, 50, 100]
    last = max(axis.get_xlim()[1], 3)
    axis.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set_xlim(-0.1, math.ceil(last))
    axis.axvline(0, color=LINES["optimum"][0], linewidth=2)
    axis.grid(axis="both", alpha=0.3)
    axis.set_xlabel("above the proven optimum, mean")
    picture.legend(loc="outside upper center", ncols=len(LOOKS), frameon=False)
    return picture
