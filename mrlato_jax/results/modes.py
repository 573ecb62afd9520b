"""Ways of planning compared: how good a plan each finds in how much time, and from how many simulated plans.

A study has settings, the columns of its table, and every way plans the applications of every setting one by one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mrlato_jax.config import EXPERIMENTS
from mrlato_jax.dag import dataset
from mrlato_jax.dag.daggen import daggen
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.drawing import LINES
from mrlato_jax.errors import InputError, shorten
from mrlato_jax.inference.in_time import shape_of
from mrlato_jax.inference.offloader import MODES, Offloader
from mrlato_jax.instances.references import Problem
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import CHANNELS, System
from mrlato_jax.planners import (
    Plan,
    SearchedPlan,
    heft,
    local_search,
    look_ahead,
    look_ahead_order,
    optimum,
    order_search,
    random_placement,
)  # fmt: skip
from mrlato_jax.progress import Progress
from mrlato_jax.results.kinds import KINDS, drawn
from mrlato_jax.results.record import AS_WRITTEN, GrowingRecord
from mrlato_jax.training.experiments import unseen_sets
from mrlato_jax.training.stopping import GracefulStop, StoppedError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDER, LARGE = "wider", "large"
STUDIES = (*EXPERIMENTS, WIDER, LARGE)
WIDER_KINDS = (
    "K=1, results stay, energy", "K=2, results return, pins", "K=3, results stay", "K=3, results stay, pins, energy",
)  # fmt: skip
LARGE_SIZES = {50: ("paper", "resident"), 100: ("paper", "resident"), 200: ("paper", "resident"), 500: ("paper",)}
FIRST, BOUND = "HEFT-based", "optimum"  # the rows that others are compared with
BEST_S = {LARGE: 10.0}  # time limit of the row `BOUND`, seconds; elsewhere `PROOF_S`
PROOF_S = 30.0
SAMPLES = (4, 16, 64)
PROPOSALS = (4, 16, 64, 256)
BUDGETS = (300, 1_000, 3_000, 10_000, 30_000)  # evaluations of searches without a policy
STEPS = (30, 300, 3_000)  # of each chain of order search
LIMITS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
CP_SAT_S = (0.1, 1.0)
TIMED, ORDERED = "in a given time", "in a given time, order too"
PROPOSED = "learned: proposals"
LOOKS: Mapping[str, tuple[str, Any, str]] = {  # colour, line and marker of the lines of a figure
    PROPOSED: ("C9", "-", "o"),
    "learned: sample": ("C0", "-", "o"),
    "learned: search": ("C4", "-", "o"),
    TIMED: ("C3", "-", "o"),
    ORDERED: ("C3", (0, (4, 2)), "D"),
    "HEFT-based and local search": ("black", "-", "s"),
    "random and local search": ("0.7", ":", "^"),
    "order search": ("tab:green", (0, (4, 2)), "D"),
    "proof": ("tab:green", "-", "s"),
    "CP-SAT": ("tab:brown", "-", "v"),
    "look-ahead": ("tab:brown", ":", "P"),
}


class Setting(NamedTuple):
    """One column of a table: applications, each with its system and objective."""

    name: str
    asked: tuple[Problem, ...]


def settings(study: str, graphs: int) -> list[Setting]:
    """Returns the settings of a study, each with its first `graphs` applications.

    Args:
        study: one of `STUDIES`: an experiment's unseen sets, wider systems, or large applications.
        graphs: number of applications of each setting.

    Raises:
        InputError: an experiment has fewer applications in a set.
    """
    if study == WIDER:
        kinds = {kind.name: kind for kind in KINDS}
        return [Setting(name, tuple(islice(drawn(kinds[name]), graphs))) for name in WIDER_KINDS]
    if study == LARGE:
        return [
            Setting(
                f"n = {size}, {'stay' if CHANNELS[channel].results_stay else 'return'}",
                tuple(Problem(large(size, number), System(channel=channel), Objective()) for number in range(graphs)),
            )
            for size, channels in LARGE_SIZES.items()
            for channel in channels
        ]
    data = dataset.load(study)
    if graphs > data.graphs_per_set:
        raise InputError(f"graphs is {graphs}; accepted: 1 to {data.graphs_per_set}")
    return [
        Setting(one.name, tuple(Problem(graph, one.system, one.objective) for graph in one.graphs[:graphs]))
        for one in unseen_sets(data, "paper")
    ]


def large(num_tasks: int, number: int) -> TaskGraph:
    """Draws an application of many tasks, as daggen does, with the paper's ranges of cycles and bytes."""
    rng = np.random.default_rng([num_tasks, number])
    return daggen(num_tasks, float(rng.uniform(0.5, 0.8)), float(rng.uniform(0.1, 0.8)), rng)


@dataclasses.dataclass(frozen=True)
class Way:
    """A way of planning.

    Attributes:
        name: name of the row.
        plan: `(application, its index)` -> plan; the index is the random seed.
        takes: whether it can plan an application.
    """

    name: str
    plan: Callable[[Problem, int], Plan]
    takes: Callable[[Problem], bool] = lambda asked: True


def ways(policy: Offloader, study: str) -> dict[str, Way]:
    """Returns every way by its name, in the order of tables; the first two are `BOUND` and `FIRST`."""

    def learned(mode: str, number: int) -> Callable[[Problem, int], Plan]:
        return lambda asked, seed: policy.plan(
            asked.graph, asked.system, mode, samples=number, seed=seed, objective=asked.objective
        )

    def proposed(number: int) -> Callable[[Problem, int], Plan]:
        return lambda asked, seed: policy.propose(
            asked.graph, asked.system, samples=number, seed=seed, objective=asked.objective
        )[0]  # fmt: skip

    def in_time(mode: str, limit: float) -> Callable[[Problem, int], Plan]:
        return lambda asked, seed: policy.plan(
            asked.graph, asked.system, mode, time_limit_s=limit, seed=seed, objective=asked.objective
        )

    def rule(planner: Callable[..., Plan]) -> Callable[[Problem, int], Plan]:
        return lambda asked, seed: planner(asked.graph, asked.system, objective=asked.objective)

    def proof(limit: float, solver: str = "branch_and_bound") -> Callable[[Problem, int], Plan]:
        return lambda asked, seed: optimum(asked.graph, asked.system, None, limit, solver, objective=asked.objective)

    def argmax(asked: Problem) -> bool:
        return policy.network.any_servers or asked.objective == Objective()

    found = [
        Way(BOUND, proof(BEST_S.get(study, PROOF_S))),
        Way(FIRST, rule(heft)),
        Way("look-ahead", rule(look_ahead)),
        Way("learned: argmax", learned(MODES[0], 1), argmax),
    ]
    few = study == LARGE
    if not few:
        found.append(Way("look-ahead, order too", rule(look_ahead_order)))
    for mode in MODES[1:3]:
        found += [Way(f"learned: {mode}, {n}", learned(mode, n)) for n in (SAMPLES[:1] if few else SAMPLES)]
    if not few:
        found.append(Way(f"learned: {MODES[3]}, 64", learned(MODES[3], 64)))
        found += [Way(f"{PROPOSED}, {n}", proposed(n), argmax) for n in PROPOSALS]
    for mode, name in ((MODES[0], TIMED), (MODES[3], ORDERED)):
        found += [Way(f"{name}, {1e3 * limit:g} ms", in_time(mode, limit)) for limit in LIMITS_S]
    found += [Way(f"HEFT-based and local search, {most:,}", partial(_searched, most, False)) for most in BUDGETS]
    if not few:
        found += [Way(f"random and local search, {most:,}", partial(_searched, most, True)) for most in BUDGETS]
    found += [
        Way(f"order search, {steps:,} steps", partial(order_searched, steps, most=max(BUDGETS)))
        for steps in STEPS[: 1 if few else None]
    ]
    found += [Way(f"proof, {1e3 * limit:g} ms", proof(limit)) for limit in LIMITS_S]
    found += [Way(f"CP-SAT, {1e3 * limit:g} ms", proof(limit, "cp_sat"), _by_cp_sat) for limit in CP_SAT_S]
    return {way.name: way for way in found}


def _searched(most: int, from_random: bool, asked: Problem, seed: int) -> SearchedPlan:
    """Local search from HEFT-based's plan or a random plan, then from random plans, with up to `most` evaluations."""
    graph, system, objective = asked
    start = random_placement(graph, system, np.random.default_rng([seed, 1])) if from_random else None
    restarts = most // (graph.num_tasks + 1) + 1
    return local_search(
        graph, system, start=start, restarts=restarts, seed=seed, max_evaluations=most, objective=objective
    )


def order_searched(steps: int, asked: Problem, seed: int = 0, most: int | None = None) -> SearchedPlan:
    """Order search, with `steps` of each chain, from the HEFT-based plan that local search improved."""
    graph, system, objective = asked
    start = local_search(graph, system, restarts=0, max_evaluations=most, objective=objective)
    searched = order_search(graph, system, start=start, steps=steps, seed=seed, objective=objective)
    return SearchedPlan.of(searched, evaluations=searched.evaluations + start.evaluations)


def _by_cp_sat(asked: Problem) -> bool:
    """Whether CP-SAT takes the problem and is installed (extra `exact`)."""
    try:
        cp_sat = import_module("mrlato_jax.planners.cp_sat")
    except ImportError:
        return False
    return bool(cp_sat.can(asked.graph, asked.system, asked.objective))


def measured(way: Way, asked: Sequence[Problem], on_plan: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """Plans each application.

    Returns:
        For each application `cost` (seconds) and `seconds` of planning; where plans have them, `evaluations`, `proven`,
        `lower_bound` and `source`.
    """
    for first in {shape_of(*one): one for one in reversed(asked)}.values():
        way.plan(first, 0)  # compiles, so that compilation is not timed
    rows: list[dict[str, Any]] = []
    for index, one in enumerate(asked):
        began = time.perf_counter()
        plan = way.plan(one, index)
        row = {"cost": one.cost(plan), "seconds": time.perf_counter() - began}
        rows.append(row)
        for name in ("evaluations", "proven", "lower_bound", "source"):
            if hasattr(plan, name):
                row[name] = getattr(plan, name)
        on_plan(index + 1)
    return {name: [row[name] for row in rows] for name in rows[0]}


def complete(record: GrowingRecord, study: Sequence[Setting], every: Mapping[str, Way], stop: GracefulStop) -> bool:
    """Computes the missing rows of the record; shows progress. Returns False after a stop."""
    for setting in study:
        missing = [way for way in every.values() if way.name not in record.rows.get(setting.name, {})]
        for way in missing:
            if not all(way.takes(asked) for asked in setting.asked):
                continue
            with Progress(len(setting.asked), f"{way.name} on {setting.name}") as progress:

                def show(done: int, progress: Progress = progress) -> None:
                    progress.update(done)
                    if stop.requested:
                        raise StoppedError

                try:
                    with stop.unburdened("stopped; the unfinished row is dropped, all finished ones are written"):
                        row = measured(way, setting.asked, show)
                except StoppedError:
                    return False
            record.add(setting.name, way.name, row)
    return True


@dataclasses.dataclass(frozen=True)
class Point:
    """One way over the settings of a study.

    Attributes:
        gaps: mean percent above the row that the study compares with, by setting.
        ms: mean time for an application by setting, milliseconds.
        evaluations: mean number of simulated plans for an application; None where a way has none.
        proven: fraction of the plans that are proven; None where a way proves none.
    """

    gaps: dict[str, float]
    ms: dict[str, float]
    evaluations: float | None
    proven: float | None

    @property
    def gap(self) -> float:
        """Mean over the settings."""
        return float(np.mean(list(self.gaps.values())))

    @property
    def mean_ms(self) -> float:
        """Mean over the settings."""
        return float(np.mean(list(self.ms.values())))


def points(rows: Mapping[str, Mapping[str, Any]], against: str) -> dict[str, Point]:
    """Returns the points of all rows that exist for every setting.

    Args:
        rows: rows of the record, by setting and name.
        against: name of the row that all are compared with: `FIRST`, or `BOUND`, whose lower bounds then count.

    Raises:
        InputError: a row lacks its numbers.
    """
    base: dict[str, np.ndarray] = {}
    for setting, measured_rows in rows.items():
        for name, row in measured_rows.items():
            try:
                usable = np.isfinite([*row["cost"], *row["seconds"]]).all() and len(row["cost"]) > 0
                if name == against:
                    base[setting] = np.asarray(row["lower_bound" if name == BOUND else "cost"], float)
            except (KeyError, TypeError, ValueError):
                usable = False
            if not usable:
                raise InputError(f"record has {shorten(row)} as {name} on {setting}; accepted: {AS_WRITTEN}")
    if set(base) != set(rows):
        return {}
    names = [name for name in next(iter(rows.values())) if all(name in of for of in rows.values())]

    def mean(name: str, field: str) -> float | None:
        if not all(field in of[name] for of in rows.values()):
            return None
        return float(np.mean([np.mean(of[name][field]) for of in rows.values()]))

    return {
        name: Point(
            {s: 100 * float(np.mean(np.asarray(of[name]["cost"]) / base[s]) - 1) for s, of in rows.items()},
            {s: 1e3 * float(np.mean(of[name]["seconds"])) for s, of in rows.items()},
            mean(name, "evaluations"),
            mean(name, "proven"),
        )
        for name in names
    }


def table(points: Mapping[str, Point], against: str) -> tuple[list[str], list[list[str]]]:
    """Makes header and cells: the gap in each setting; against `FIRST` with the time for an application in brackets."""
    first = next(iter(points.values()))
    header = [f"% against {against}" if against == FIRST else "% above the optimum", *first.gaps]
    cells = []
    for name, point in points.items():
        times = [f" ({ms:,.3g} ms)" if against == FIRST else "" for ms in point.ms.values()]
        gaps = [f"{gap:+.2f}{time}" for gap, time in zip(point.gaps.values(), times, strict=True)]
        evaluations = "" if point.evaluations is None else f"{point.evaluations:,.0f}"
        proven = "" if point.proven is None else f"{100 * point.proven:.0f} %"
        cells.append([name, *gaps, proven, evaluations, f"{point.mean_ms:,.1f}"])
    return [*header, "proven", "plans simulated", "ms each"], cells


def bounds(rows: Mapping[str, Mapping[str, Any]], against: str) -> list[str]:
    """Makes a further line of the table: the lower bounds, which no plan in the priority order beats."""
    gaps = [
        100 * float(np.mean(np.asarray(of[BOUND]["lower_bound"]) / np.asarray(of[against]["cost"])) - 1)
        for of in rows.values()
    ]
    return ["lower bound, priority order", *(f"{gap:+.2f}" for gap in gaps), "", "", ""]


def figure(points: Mapping[str, Point], title: str, against: str) -> Figure:
    """Draws the gap over time and over simulated plans; against `FIRST` over time alone, one panel for each setting.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib import figure as plots
    from matplotlib import ticker

    panels = _panels(points, against)
    rows, across = (1, 2) if len(panels) < 3 else (2, (len(panels) + 1) // 2)
    drawn = plots.Figure(figsize=(5.5 * across, 4.8) if rows == 1 else (3.4 * across, 7), layout="constrained")
    axes = drawn.subplots(rows, across, sharey=True, squeeze=False).T.ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes, panels, strict=False):
        for kind, (colour, style, marker) in LOOKS.items():
            line = [point for name, point in points.items() if name == kind or _is_of(name, kind)]
            if kind in (PROPOSED, "learned: sample") and line and "learned: argmax" in points:
                line = [points["learned: argmax"], *line]
            seen = [(spent, panel.gap(point)) for point in line if (spent := panel.spent(point))]  # the axis has no 0
            if seen:
                look = {"color": colour, "linestyle": style, "marker": marker, "markersize": 4}
                axis.plot(*zip(*seen, strict=True), label=kind, **look)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.axhline(0, color=LINES[FIRST if against == FIRST else "optimum"][0], linewidth=1.6)
        axis.grid(alpha=0.25)
        axis.set_xlabel(panel.label)
    axes[0].set_yscale("symlog", linthresh=1)
    name = "HEFT-based" if against == FIRST else "the optimum of the priority order"
    drawn.supylabel(f"% above {name}", fontsize=10)
    axes[0].yaxis.set_major_locator(ticker.FixedLocator([-10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20]))
    axes[0].yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    handles, labels = axes[0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    drawn.suptitle(title, fontsize=12)
    return drawn


class _Panel(NamedTuple):
    label: str
    spent: Callable[[Point], float | None]
    gap: Callable[[Point], float]


def _panels(points: Mapping[str, Point], against: str) -> list[_Panel]:
    if against != FIRST:
        return [
            _Panel("ms for a plan, one core", lambda point: point.mean_ms, lambda point: point.gap),
            _Panel("plans simulated for an application", lambda point: point.evaluations, lambda point: point.gap),
        ]

    def of(setting: str) -> _Panel:
        return _Panel(f"ms for a plan, {setting}", lambda point: point.ms[setting], lambda point: point.gaps[setting])

    return [of(setting) for setting in next(iter(points.values())).gaps]


def _is_of(name: str, kind: str) -> bool:
    """Whether a row is a point of a line: its name is the line's, and a budget."""
    rest = name.removeprefix(f"{kind}, ")
    return rest != name and rest[0].isdigit()
