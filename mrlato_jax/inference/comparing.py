"""The plans that the command compares, estimates of the time to find each, and the choice of the best."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from mrlato_jax.dag.dataflow import Dataflow
from mrlato_jax.dag.formats.any_format import Unsaid, parsed_any
from mrlato_jax.dag.formats.reading import in_tasks
from mrlato_jax.dag.task_graph import PINS, TaskGraph
from mrlato_jax.errors import InputError, check_choice, escaped, shorten
from mrlato_jax.inference.in_time import plan_in_time, shape_of
from mrlato_jax.inference.offloader import MODES, Offloader
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import System
from mrlato_jax.planners import (
    Plan,
    ProvenPlan,
    all_local,
    all_offload,
    greedy,
    heft,
    local_search,
    look_ahead,
    optimum,
)
from mrlato_jax.progress import Attended, OutOfTimeError

AT_ONCE = "whole application at once"
LEARNED = "learned"
ORDERED = "order search"
MEANINGS = {  # meanings of the rows, simplest plans first
    "all-local": "every task on the device",
    "all-offload": "every task on a server",
    AT_ONCE: "all-offload with all tasks merged into one; only the input and the results are sent",
    "greedy": "in the file's order, each task runs where its own result is ready first",
    "HEFT-based": "greedy in priority order: the task with the longest path to the end comes first",
    "look-ahead": "in priority order, each task runs where the application ends first; rules like HEFT-based's place "
    "the later tasks",
    "local search": "HEFT-based and random plans, improved by changing one or two tasks",
    "optimum": "proven: no placement in priority order is better; plans in other orders may be",
    ORDERED: "any order: sites and order are changed at random for --orders_s, from the best plan in priority order",
    LEARNED: "the trained policy's plan, or the best of its plans and those above, improved (--mode)",
}
SAME = 1e-9  # relative difference below which costs count as equal
MOST_PROVEN = 100  # tasks; for more tasks no optimum is proven in seconds
PROVING = 0.25  # a proof's share of the remaining time
COARSE = (30, 10)  # numbers of tasks to merge an application into
LESS_COARSE = 60  # a further number, in place of an application's own number above `MOST_PROVEN`
TRIED = ("all-local", "all-offload", "HEFT-based")  # plans tried for each number of tasks
AT_ONCE_PLAN = "all-offload"
MERGING_S = 1.0  # seconds to merge the tasks of a file


class Estimate(NamedTuple):
    """An estimate of the time to find a plan, on one core of a machine of today."""

    compiling_s: float
    of_hundred_s: float  # seconds for 100 tasks, once compiled
    growth: float  # exponent of the number of tasks

    def seconds(self, num_tasks: int) -> float:
        """Returns the seconds for `num_tasks` tasks, with compiling."""
        return self.compiling_s + self.of_hundred_s * (num_tasks / 100) ** self.growth


ESTIMATES = {  # those of the policy's modes: data/results/bench-offloader.json, one core, no stored programs
    "quick": Estimate(1.0, 0.01, 1.0),
    "look-ahead": Estimate(2.0, 0.02, 2.0),
    "local search": Estimate(3.0, 1.0, 2.5),
    ORDERED: Estimate(3.0, 0.2, 1.0),
    "optimum": Estimate(5.0, 0.0, 0.0),  # the time of the proof comes in addition
    "argmax": Estimate(5.0, 0.02, 2.0),
    "sample": Estimate(12.0, 0.3, 2.5),
    "search": Estimate(15.0, 0.3, 2.5),
    "search_order": Estimate(20.0, 1.0, 2.2),
}


class Planner(NamedTuple):
    """A named way to find a plan."""

    name: str
    find: Callable[[], Plan]
    estimate_s: float
    advice: str = ""  # how to wait for less time


class Found(NamedTuple):
    """A plan, the time to find it, and the graph that it plans."""

    plan: Plan
    seconds: float
    graph: TaskGraph  # the application, or the application with merged tasks


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What to plan for, and how.

    Attributes:
        system: the system.
        goal: the objective to minimise.
        policy: the policy that plans.
        mode: the policy's mode, one of `MODES`.
        samples: number of plans that the policy draws.
        seed: seed of the draws.
        optimum_s: seconds for the proof of the optimum; 0: no proof.
        orders_s: seconds for the search of other orders; 0: no search.
    """

    system: System
    goal: Objective
    policy: Offloader
    mode: str
    samples: int
    seed: int
    optimum_s: float
    orders_s: float

    def key(self, plan: Plan) -> tuple[bool, float]:
        """Returns the sorting key of a plan; a better plan has a smaller key."""
        return self.goal.key(plan.makespan, plan.energy)


@dataclasses.dataclass
class Case:
    """An application and the plans found so far.

    Attributes:
        path: the application's file.
        graph: the graph to plan; its tasks may be merged.
        file_tasks: number of tasks in the file, where several numbers of tasks were tried.
        sizes: (name of the plan, plan) of the best quick plan for each number of tasks that was tried.
        found: the plans, by name.
        unfinished: names of the plans for which the time did not suffice.
    """

    path: Path
    graph: TaskGraph
    file_tasks: int | None = None
    sizes: list[tuple[str, Found]] = dataclasses.field(default_factory=list)
    found: dict[str, Found] = dataclasses.field(default_factory=dict)
    unfinished: list[str] = dataclasses.field(default_factory=list)


def quick_planners(graph: TaskGraph, wanted: Wanted) -> list[Planner]:
    """Returns the planners that take a moment once compiled."""
    system, goal = wanted.system, wanted.goal
    quick, ahead = (ESTIMATES[name].seconds(graph.num_tasks) for name in ("quick", "look-ahead"))
    return [
        Planner("all-local", lambda: all_local(graph, system), quick),
        Planner("all-offload", lambda: all_offload(graph, system), quick),
        Planner("greedy", lambda: greedy(graph, system, objective=goal), quick),
        Planner("HEFT-based", lambda: heft(graph, system, objective=goal), quick),
        Planner("look-ahead", lambda: look_ahead(graph, system, objective=goal), ahead),
    ]


def long_planners(graph: TaskGraph, wanted: Wanted, attended: Attended) -> list[Planner]:
    """Returns the planners that take longer: order search (with numba), the proof, and the policy or local search.

    Where time is limited, the policy's quickest mode comes before the wanted mode. Local search takes the place of a
    policy that does not know several servers.
    """
    system, goal, policy = wanted.system, wanted.goal, wanted.policy
    planners = []
    if wanted.orders_s > 0 and find_spec("numba") is not None:
        program = ("without a policy", *shape_of(graph, system, goal))
        searched = partial(plan_in_time, graph, system, goal, wanted.orders_s, None, program, wanted.seed, orders=True)
        planners.append(Planner(ORDERED, searched, ESTIMATES[ORDERED].seconds(graph.num_tasks) + wanted.orders_s))
    if wanted.optimum_s > 0 and graph.num_tasks <= MOST_PROVEN:

        def proven() -> Plan:
            limit_s = min(wanted.optimum_s, PROVING * attended.left_s)
            return optimum(graph, system, time_limit_s=limit_s, objective=goal)

        planners.append(Planner("optimum", proven, ESTIMATES["optimum"].seconds(graph.num_tasks)))
    if system.num_servers == 1 or policy.network.any_servers:
        plan = partial(policy.plan, graph, system, samples=wanted.samples, seed=wanted.seed, objective=goal)
        knows = goal == Objective() or policy.network.any_servers
        hurried = attended.left_s < math.inf and wanted.mode != MODES[0] and knows
        planners += [
            Planner(
                f"{LEARNED} ({mode})", partial(plan, mode), ESTIMATES[mode].seconds(graph.num_tasks),
                "" if mode == MODES[0] else f"--mode={MODES[0]} is quicker",
            )
            for mode in ([MODES[0]] if hurried else []) + [wanted.mode]
        ]  # fmt: skip
    else:
        seconds = ESTIMATES["local search"].seconds(graph.num_tasks)
        planners.append(Planner("local search", lambda: local_search(graph, system, objective=goal), seconds))
    return planners


def find(case: Case, planners: Sequence[Planner], attended: Attended) -> Iterator[tuple[str, Found]]:
    """Adds the plan of each planner to `case.found` and yields it.

    The names of planners for which the time does not suffice go to `case.unfinished`.
    """
    for planner in planners:
        began = time.perf_counter()
        try:
            label = ", ".join(filter(None, [planner.name, planner.advice]))
            plan = attended.do(f"{escaped(case.path.name)}: {label}", planner.find, planner.estimate_s)
        except OutOfTimeError:
            case.unfinished.append(planner.name)
            continue
        case.found[planner.name] = Found(plan, time.perf_counter() - began, case.graph)
        yield planner.name, case.found[planner.name]


def names_of(graph: TaskGraph, wanted: Wanted, attended: Attended) -> list[str]:
    """Returns the names that the plans of a case may have."""
    planners = [*quick_planners(graph, wanted), *long_planners(graph, wanted, attended)]
    return [AT_ONCE, *(planner.name for planner in planners)]


def read_case(path: Path, unsaid: Unsaid, pins: Sequence[str], wanted: Wanted, attended: Attended) -> Case:
    """Reads the application of a file.

    Where the format allows merging, the case takes the number of tasks with the best quick plan, and also has the plan
    of the application merged into one task.

    Args:
        path: the file.
        unsaid: values that the file leaves open. A given number of tasks is kept.
        pins: words like NAME=ue; with pins, no other number of tasks is tried.
        wanted: what to plan for.
        attended: does the work within the time.

    Raises:
        InputError: as `read_any`, or a pin of another form.
        OutOfTimeError: the time ended.
    """
    name = escaped(path.name)

    def read() -> tuple[TaskGraph | Dataflow, TaskGraph]:
        source = parsed_any(path, unsaid)
        return source, in_tasks(source, unsaid.num_tasks, path)

    source, graph = attended.do(f"reading {name}", read)
    case = Case(path, pinned(graph, pins))
    if pins or graph.num_tasks == 1 or not isinstance(source, Dataflow):
        return case

    def merged(num_tasks: int) -> tuple[str, Found]:
        """Returns the best of the plans in `TRIED` for this number of tasks, with its name."""
        coarse = in_tasks(source, num_tasks, path)
        found = {}
        for planner in quick_planners(coarse, wanted):
            if planner.name in ((AT_ONCE_PLAN,) if num_tasks == 1 else TRIED):
                began = time.perf_counter()
                found[planner.name] = Found(planner.find(), time.perf_counter() - began, coarse)
        best = best_of(found, wanted)
        return best, found[best]

    sizes = []
    if unsaid.num_tasks is None:
        own = graph.num_tasks
        sizes = [own if own <= MOST_PROVEN else LESS_COARSE, *(size for size in COARSE if size < own)]
    try:
        for size in [*sizes, 1]:
            estimate = ESTIMATES["quick"].seconds(size) + MERGING_S
            label = f"{name} in {size} task{'s' * (size > 1)}"
            found = attended.do(label, partial(merged, size), estimate)
            if size == 1:
                case.found[AT_ONCE] = found[1]
            else:
                case.sizes.append(found)
    except InputError as error:
        attended.say(f"note: {name} is planned as it is: {error}")
    except OutOfTimeError:
        case.unfinished.append("other numbers of tasks")
    if case.sizes:  # of equally good numbers the largest, where other planners may gain more
        least = min(wanted.key(found.plan) for _, found in case.sizes)
        case.graph = next(
            found.graph for _, found in case.sizes if wanted.key(found.plan) <= (least[0], least[1] * (1 + SAME))
        )
        case.file_tasks = graph.num_tasks
    return case


def pinned(graph: TaskGraph, pins: Sequence[str]) -> TaskGraph:
    """Returns the graph with the pins of words like NAME=ue.

    Raises:
        InputError: a word of another form, or a name that no task has.
    """
    sites = dict(zip(graph.names, graph.pins, strict=True))
    for word in pins:
        name, _, site = word.rpartition("=")
        if name not in sites:
            raise InputError(f"pin is {shorten(word)}; accepted: TASK=SITE with the name of a task in the graph")
        check_choice(f"pin of {shorten(name)}", site, PINS)
        sites[name] = site
    return dataclasses.replace(graph, pins=tuple(sites.values()))


def best_of(found: Mapping[str, Found], wanted: Wanted) -> str:
    """Returns the name of the best plan; of equally good plans the simplest, which comes first in `MEANINGS`."""
    late, least = min(wanted.key(entry.plan) for entry in found.values())
    return min(
        (name for name, entry in found.items() if wanted.key(entry.plan) <= (late, least * (1 + SAME))), key=simplicity
    )


def simplicity(name: str) -> int:
    """Returns the place of a plan's name in `MEANINGS`."""
    return list(MEANINGS).index(name.split(" (")[0])


def as_good_as(best: str, found: Mapping[str, Found], wanted: Wanted) -> list[str]:
    """Returns the names of the other plans that are as good as the best, simplest first."""
    late, least = wanted.key(found[best].plan)
    return sorted(
        (name for name, entry in found.items()
         if name != best and wanted.key(entry.plan) <= (late, least * (1 + SAME))),
        key=simplicity,
    )  # fmt: skip


def as_found(name: str, plan: Plan) -> str:
    """Returns the name to print for a plan; an unproven optimum is called "branch and bound, not proven"."""
    return "branch and bound, not proven" if isinstance(plan, ProvenPlan) and not plan.proven else name
