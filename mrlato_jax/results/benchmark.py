"""Every method on the benchmark: the gaps of their plans to the best known, as tables and as a figure."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mrlato_jax.drawing import COLOURS, LINES, legend_below
from mrlato_jax.errors import check_choice
from mrlato_jax.inference.offloader import ORDER_STEPS, Offloader
from mrlato_jax.instances.benchmark import Instance
from mrlato_jax.instances.references import SAME, Problem
from mrlato_jax.instances.verifying import verify
from mrlato_jax.learning.ranges import ASSUMED, OutsideTrainingWarning, measure
from mrlato_jax.planners import (
    Plan,
    all_local,
    all_offload,
    greedy,
    heft,
    local_search,
    look_ahead,
    look_ahead_order,
    optimum,
)
from mrlato_jax.progress import Progress
from mrlato_jax.results.modes import order_searched

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Planner = Callable[[Problem], Plan]
Row = dict[str, float]
"""The cost of a method's plan in seconds, by instance."""

LEARNED = "learned: {}"
PAPER = "exp2"
IN_TIME_S = (0.01, 0.1)
OPTIMUM_S = 5.0  # time limit of the optimum of the priority order
WITHIN = 1e-5  # relative: a plan that is no farther from the best known counts as it
FLEXDO = (3.9, 8.9)  # % above the optimum, arXiv 2306.09458
PROFILED = (
    "all-local", "all-offload", "HEFT-based", "look-ahead", "HEFT-based and local search", "learned: argmax",
    "learned: search", "optimum", "order search", "plan in 100 ms, order too",
)  # fmt: skip
NOT_PLANNED = "-"


def ways(policy: Offloader, paper: Offloader) -> dict[str, Planner]:
    """Returns every method by its name, in the order of tables.

    Args:
        policy: the policy that plans for every instance.
        paper: the weights `PAPER`, for the paper's kind of system: one server, results that return, no energy.
    """

    def simple(planner: Callable[..., Plan], **more: Any) -> Planner:
        return lambda one: planner(one.graph, one.system, objective=one.objective, **more)

    def fixed(planner: Callable[..., Plan]) -> Planner:
        return lambda one: planner(one.graph, one.system)

    def learned(mode: str, of: Offloader = policy) -> Planner:
        return lambda one: of.plan(one.graph, one.system, mode, objective=one.objective)

    def in_time(limit_s: float, mode: str = "argmax") -> Planner:
        return lambda one: policy.plan(one.graph, one.system, mode, time_limit_s=limit_s, objective=one.objective)

    return {
        "all-local": fixed(all_local),
        "all-offload": fixed(all_offload),
        "greedy": simple(greedy),
        "HEFT-based": simple(heft),
        "look-ahead": simple(look_ahead),
        "look-ahead, order too": simple(look_ahead_order),
        "HEFT-based and local search": simple(local_search, restarts=0),
        "local search": simple(local_search),
        "order search": partial(order_searched, ORDER_STEPS),
        LEARNED.format("argmax"): learned("argmax"),
        LEARNED.format("sample"): learned("sample"),
        LEARNED.format("search"): learned("search"),
        **{f"plan in {1e3 * limit:g} ms": in_time(limit) for limit in IN_TIME_S},
        **{f"plan in {1e3 * limit:g} ms, order too": in_time(limit, "search_order") for limit in IN_TIME_S},
        f"{PAPER}: search": learned("search", paper),
        "optimum": simple(optimum, time_limit_s=OPTIMUM_S),
    }


def plans_for(name: str, one: Problem) -> bool:
    """Returns whether a method of `ways` can plan for a problem: the weights `PAPER` know the paper's systems."""
    if name.startswith(PAPER):
        numbers = measure(*one)
        return all(low <= numbers[of] <= high for of, (low, high) in ASSUMED.items())
    return True


def measured(name: str, way: Planner, instances: Mapping[str, Instance]) -> tuple[Row, dict[str, dict[str, list[int]]]]:
    """Plans every instance with a method; the verifier gives the costs.

    Returns:
        The row, and the plans that are better than the best known, by instance.
    """
    row: Row = {}
    better = {}
    with Progress(len(instances), name) as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideTrainingWarning)
        for number, one in enumerate(instances.values(), start=1):
            if plans_for(name, one.problem):
                plan = way(one.problem)
                row[one.name] = verify(one, plan).cost
                if row[one.name] < one.best_known * (1 - SAME):
                    better[one.name] = {"placement": plan.placement.tolist(), "order": plan.order.tolist()}
            progress.update(number, instance=one.name)
    return row, better


def entered(plans: Mapping[str, Any], instances: Mapping[str, Instance]) -> Row:
    """Verifies the plans of a file, by instance.

    Raises:
        InputError: an instance is unknown, or a plan breaks a rule.
    """
    for name in plans:
        check_choice("instance", name, tuple(instances))
    return {name: verify(instances[name], plan).cost for name, plan in plans.items()}


def gaps(row: Row, instances: Mapping[str, Instance]) -> dict[str, float]:
    """Returns percent above the best known cost, by instance."""
    return {name: 100 * (cost / instances[name].best_known - 1) for name, cost in row.items()}


def methods_table(rows: Mapping[str, Row], instances: Mapping[str, Instance]) -> tuple[list[str], list[list[str]]]:
    """Makes header and cells: mean percent above the best known for each group, and over all instances."""
    groups = list(dict.fromkeys(one.group for one in instances.values()))
    header = ["% above the best known", *groups, "all", "median", "worst", "on", "best known"]
    cells = []
    for name, row in rows.items():
        found = gaps(row, instances)
        means = [_mean([gap for key, gap in found.items() if instances[key].group == group]) for group in groups]
        worst = max(found, key=lambda key: found[key], default="")
        cells.append(
            [
                name,
                *means,
                _mean(list(found.values())),
                f"{np.median(list(found.values())):.2f}" if found else NOT_PLANNED,
                f"{found[worst]:.0f}" if worst else NOT_PLANNED,
                worst,
                f"{sum(gap <= 100 * WITHIN for gap in found.values())} of {len(found)}",
            ]
        )
    return header, cells


def instances_table(
    rows: Mapping[str, Row], instances: Mapping[str, Instance], methods: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Makes header and cells of every instance: its best known cost, the bound, and gaps of some methods in percent."""
    header = ["instance", "tasks", "edges", "best known (s)", "bound", *methods]
    found = {name: gaps(rows[name], instances) for name in methods if name in rows}
    cells = [
        [
            name,
            str(one.graph.num_tasks),
            str(len(one.graph.edges)),
            f"{one.best_known:.5g}",
            "proven" if one.proven else f"-{100 * (1 - one.lower_bound / one.best_known):.1f} %",
            *(_mean([found[method][name]] if name in found.get(method, {}) else [], 1) for method in methods),
        ]
        for name, one in instances.items()
    ]
    return header, cells


def _mean(values: Sequence[float], digits: int = 2) -> str:
    return f"{np.round(np.mean(values), digits) + 0.0:.{digits}f}" if values else NOT_PLANNED  # + 0.0: no "-0.0"


def beside_flexdo(rows: Mapping[str, Row], instances: Mapping[str, Instance]) -> tuple[list[str], list[list[str]]]:
    """Makes header and cells: mean percent above the best known on jobs of a cluster, for each system of several jobs.

    FlexDO's published range is of its own jobs and systems: `docs/benchmark.md` names the differences.
    """
    jobs = {name: one for name, one in instances.items() if one.group == "job"}
    systems = [name.split("-", 1)[1] for name in jobs]
    several = [system for system in dict.fromkeys(systems) if systems.count(system) > 1]
    cells = []
    for name, row in rows.items():
        found = gaps({key: cost for key, cost in row.items() if key in jobs}, instances)
        if not found:
            continue
        means = [_mean([gap for key, gap in found.items() if key.split("-", 1)[1] == system], 1) for system in several]
        cells.append([name, *means, _mean(list(found.values()), 1)])
    cells.append(["FlexDO, as published", *[NOT_PLANNED] * len(several), f"{FLEXDO[0]} to {FLEXDO[1]}"])
    return ["% above the best known", *several, "all jobs"], cells


def figure(rows: Mapping[str, Row], instances: Mapping[str, Instance], own: Sequence[str] = ()) -> Figure:
    """Draws for each method the share of the instances whose plans are within a gap of the best known.

    Args:
        rows: rows by method.
        instances: the benchmark.
        own: further methods to draw beside `PROFILED`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8.5, 4.8), layout="constrained")
    axis = drawn.add_subplot()
    ticks = [0, 0.1, 1, 10, 100, 1000]
    colours = iter(COLOURS)
    for name in [name for name in (*PROFILED, *own) if name in rows]:
        found = np.sort(np.maximum(list(gaps(rows[name], instances).values()), 0.0))
        shares = 100 * np.arange(1, len(found) + 1) / len(found)
        known = name.removeprefix("HEFT-based and ")
        colour, style = LINES[known] if known in LINES else (next(colours), "-")
        right = 2.0 * ticks[-1]
        axis.step([0, *found, right], [0, *shares, 100], where="post", color=colour, linestyle=style, label=name)
    axis.set_xscale("symlog", linthresh=0.1, linscale=0.5)
    axis.set_xticks(ticks, [f"{tick:g} %" for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.set_xlim(0, 2 * ticks[-1])
    axis.set_ylim(0, 101)
    axis.set_xlabel("above the best known cost")
    axis.set_ylabel("instances within, %")
    axis.grid(alpha=0.25)
    legend_below(drawn, [axis])
    return drawn
