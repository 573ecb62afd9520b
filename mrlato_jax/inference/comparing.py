"""Which plans the command compares, about how long each takes to find, and which of them is best."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mrlato_jax.dag.dataflow import Dataflow
from mrlato_jax.dag.formats.any_format import Unsaid, parsed_any
from mrlato_jax.dag.formats.reading import in_tasks
from mrlato_jax.dag.task_graph import PINS, TaskGraph
from mrlato_jax.errors import InputError, check_choice, escaped, shorten
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
MEANINGS = {  # of the rows, simplest plans first
    "all-local": "every task on the device",
    "all-offload": "every task on a server",
    AT_ONCE: "all-offload with all tasks merged into one: only its input and its results are sent",
    "greedy": "each task, in the file's order, where its own result is ready first",
    "HEFT-based": "the same in priority order: the task with the longest way to the end first",
    "look-ahead": "each task in priority order where the application ends first, the rest by rules like HEFT-based's",
    "local search": "HEFT-based, and random plans, improved by changing one or two tasks",
    "optimum": "proven: in priority order no placement is better (other orders may be)",
    LEARNED: "the trained policy's plan, or the best of its plans and those above, improved (--mode)",
}
SAME = 1e-9  # relative: costs that differ by less are the same
MOST_PROVEN = 100  # tasks of which an optimum is looked for: of more, none is proven in seconds
PROVING = 0.25  # of the time that is left: what a proof may take
COARSE = (30, 10)  # tasks that large applications are merged into
LESS_COARSE = 60  # alike, of those with more than `MOST_PROVEN`
TRIED = ("all-local", "all-offload", "HEFT-based")  # in each number of tasks
AT_ONCE_PLAN = "all-offload"
MERGING_S = 1.0  # of the tasks of a file


class Estimate(NamedTuple):
    """About how long a plan takes to find, on one core of a machine of today."""

    compiling_s: float
    of_hundred_s: float  # seconds for 100 tasks, once compiled
    growth: float  # exponent of the number of tasks

    def seconds(self, num_tasks: int) -> float:
        """For so many tasks, the first time."""
        return self.compiling_s + self.of_hundred_s * (num_tasks / 100) ** self.growth


ESTIMATES = {  # the policy's from data/results/bench-offloader.json, one core; compiling without stored programs
    "quick": Estimate(1.0, 0.01, 1.0),
    "look-ahead": Estimate(2.0, 0.02, 2.0),
    "local search": Estimate(3.0, 1.0, 2.5),
    "optimum": Estimate(5.0, 0.0, 0.0),  # beside the time of the proof
    "argmax": Estimate(5.0, 0.02, 2.0),
    "sample": Estimate(12.0, 0.3, 2.5),
    "search": Estimate(15.0, 0.3, 2.5),
    "search_order": Estimate(20.0, 1.0, 2.2),
}


class Planner(NamedTuple):
    """A way to a plan."""

    name: str
    find: Callable[[], Plan]
    estimate_s: float


class Found(NamedTuple):
    """A plan, and how it was found."""

    plan: Plan
    seconds: float
    graph: TaskGraph  # what it plans: the application, or the same with its tasks merged


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is planned for, and how.

    Attributes:
        system: the system.
        goal: what is minimised.
        policy: that plans.
        mode: of its plan.
        samples: plans that it draws.
        seed: of these.
        optimum_s: seconds for the proof of the optimum; 0: none is asked for.
    """

    system: System
    goal: Objective
    policy: Offloader
    mode: str
    samples: int
    seed: int
    optimum_s: float

    def key(self, plan: Plan) -> tuple[bool, float]:
        """By which plans are ordered."""
        return self.goal.key(plan.makespan, plan.energy)


@dataclasses.dataclass
class Case:
    """An application, and the plans that were found for it so far.

    Attributes:
        path: its file.
        graph: what is planned, perhaps with tasks merged.
        file_tasks: how many tasks the file has, where that is known to be more.
        sizes: best quick plans of the application merged into fewer tasks, by the name of the plan.
        found: the plans by their names.
        unfinished: names of those that the time did not suffice for.
    """

    path: Path
    graph: TaskGraph
    file_tasks: int | None = None
    sizes: list[tuple[str, Found]] = dataclasses.field(default_factory=list)
    found: dict[str, Found] = dataclasses.field(default_factory=dict)
    unfinished: list[str] = dataclasses.field(default_factory=list)


def quick_planners(graph: TaskGraph, wanted: Wanted) -> list[Planner]:
    """Those that take a moment once compiled."""
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
    """Those that take longer: the proof, and the policy; first its quickest plan where time is limited."""
    system, goal, policy = wanted.system, wanted.goal, wanted.policy
    planners = []
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
            Planner(f"{LEARNED} ({mode})", partial(plan, mode), ESTIMATES[mode].seconds(graph.num_tasks))
            for mode in ([MODES[0]] if hurried else []) + [wanted.mode]
        ]
    else:
        seconds = ESTIMATES["local search"].seconds(graph.num_tasks)
        planners.append(Planner("local search", lambda: local_search(graph, system, objective=goal), seconds))
    return planners


def find(case: Case, planners: Sequence[Planner], attended: Attended) -> Iterator[tuple[str, Found]]:
    """Adds a plan of each planner to the case, and says so; those that the time does not suffice for are noted."""
    for planner in planners:
        began = time.perf_counter()
        try:
            plan = attended.do(f"{escaped(case.path.name)}: {planner.name}", planner.find, planner.estimate_s)
        except OutOfTimeError:
            case.unfinished.append(planner.name)
            continue
        case.found[planner.name] = Found(plan, time.perf_counter() - began, case.graph)
        yield planner.name, case.found[planner.name]


def names_of(graph: TaskGraph, wanted: Wanted, attended: Attended) -> list[str]:
    """What the plans of a case may be called."""
    planners = [*quick_planners(graph, wanted), *long_planners(graph, wanted, attended)]
    return [AT_ONCE, *(planner.name for planner in planners)]


def read_case(path: Path, unsaid: Unsaid, pins: Sequence[str], wanted: Wanted, attended: Attended) -> Case:
    """The application of a file. Where tasks can be merged, in as many as quick plans are best for, and as one.

    Args:
        path: the file.
        unsaid: what it does not say. A number of tasks that is said is kept.
        pins: words like NAME=ue; tasks that have pins are not merged by themselves.
        wanted: what is planned for.
        attended: does the work.

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
        """The best of few quick plans."""
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
    if case.sizes:  # the finest of the best: more may be gained there
        least = min(wanted.key(found.plan) for _, found in case.sizes)
        case.graph = next(
            found.graph for _, found in case.sizes if wanted.key(found.plan) <= (least[0], least[1] * (1 + SAME))
        )
        case.file_tasks = graph.num_tasks
    return case


def pinned(graph: TaskGraph, pins: Sequence[str]) -> TaskGraph:
    """The graph with tasks pinned as words like NAME=ue say.

    Raises:
        InputError: another form, or a name that no task has.
    """
    sites = dict(zip(graph.names, graph.pins, strict=True))
    for word in pins:
        name, _, site = word.rpartition("=")
        if name not in sites:
            raise InputError(f"pin is {shorten(word)}; accepted: TASK=SITE with the name of a task of the graph")
        check_choice(f"pin of {shorten(name)}", site, PINS)
        sites[name] = site
    return dataclasses.replace(graph, pins=tuple(sites.values()))


def best_of(found: Mapping[str, Found], wanted: Wanted) -> str:
    """The name of the best plan; of equal ones the simplest, which is the first in `MEANINGS`."""
    late, least = min(wanted.key(each.plan) for each in found.values())
    return min(
        (name for name, each in found.items() if wanted.key(each.plan) <= (late, least * (1 + SAME))), key=simplicity
    )


def simplicity(name: str) -> int:
    """The place of a plan's name in `MEANINGS`."""
    return list(MEANINGS).index(name.split(" (")[0])


def as_good_as(best: str, found: Mapping[str, Found], wanted: Wanted) -> list[str]:
    """Names of the other plans that are as good as the best, simplest first."""
    late, least = wanted.key(found[best].plan)
    return sorted(
        (name for name, each in found.items()
         if name != best and wanted.key(each.plan) <= (late, least * (1 + SAME))),
        key=simplicity,
    )  # fmt: skip


def as_found(name: str, plan: Plan) -> str:
    """A plan's name for people: an optimum that is not proven is none."""
    return "branch and bound, not proven" if isinstance(plan, ProvenPlan) and not plan.proven else name
