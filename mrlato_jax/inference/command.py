"""The command `mrlato-offload`: a file of an application in, plans, their makespans and pictures out.

    mrlato-offload --graph=app.json --uplink_mbps=7 --downlink_mbps=7
    mrlato-offload --graph=app.json --server=10,20,60 --server=40,8,8 --pin=camera=ue --energy_weight=0.5 --front=9
    mrlato-offload --graph=model.onnx --cycles_per_mac=0.25 --num_tasks=30 --uplink_mbps=100 --downlink_mbps=100
    mrlato-offload --graph=workflow.json --machine_hz=2.4e9 --num_tasks=30 --uplink_mbps=100 --downlink_mbps=100 --json

A result stays where it was computed until it is needed elsewhere (--results=resident); --results=return sends all of
them back to the UE, as the paper has it.

Reads daggen's DOT (.dot, .gv), our own JSON and WfCommons' WfFormat (.json), and ONNX models (.onnx). Prints a table of
plans and where the best of them runs each task, and draws NAME-dag.png and NAME-schedule.png into --out.

Most of the time goes into compiling; JAX_COMPILATION_CACHE_DIR=FOLDER in the environment keeps what is compiled.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from mrlato_jax.dag.formats.any_format import Unsaid, read_any
from mrlato_jax.dag.formats.wfformat import RECORDED
from mrlato_jax.dag.task_graph import PINS, TaskGraph
from mrlato_jax.drawing import png
from mrlato_jax.errors import InputError, check_choice, check_number, escaped, shorten
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.inference import pictures
from mrlato_jax.inference.load import GENERAL, load_offloader
from mrlato_jax.inference.offloader import MODES, Offloader
from mrlato_jax.mec.latency import LOCAL
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import CHANNELS, RADIOS, Power, System
from mrlato_jax.planners import (
    Plan,
    ProvenPlan,
    SearchedPlan,
    all_local,
    all_offload,
    front,
    greedy,
    heft,
    local_search,
    look_ahead,
    optimum,
)
from mrlato_jax.planners.front import MOST_POINTS
from mrlato_jax.progress import format_table

BAD_INPUT = 2  # exit status
RESULTS = ("resident", "return")
MOST_SHOWN = 60  # tasks, in the table of placements
SAME = 1e-9  # relative: makespans that differ by less are the same
MOST_PROVEN = 100  # tasks of which an optimum is looked for: of more, none is proven in seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; its exit status: 2 for bad input, which is one line on standard error.

    Args:
        arguments: words of the command line, without the program's name; by default those of this process.
    """
    options = parser().parse_args(arguments)
    warnings.showwarning = lambda message, *_, **__: print(f"note: {escaped(str(message))}", file=sys.stderr)
    return reported(lambda: offload(options))


def reported(work: Callable[[], int]) -> int:
    """The exit status of a command's work; bad input, and a file that cannot be read, become one line and a status."""
    try:
        return work()
    except (InputError, ImportError) as error:
        print(f"error: {escaped(str(error))}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"error: {escaped(str(error))}", file=sys.stderr)
        return 1


class OneLineParser(argparse.ArgumentParser):
    """One whose errors are one printable line, whatever words it was given."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with the message."""
        self.exit(BAD_INPUT, f"error: {escaped(message)}\n")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = OneLineParser(
        prog="mrlato-offload", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    system = System()
    made.add_argument("--graph", required=True, metavar="FILE", help="the application")
    made.add_argument("--uplink_mbps", type=float, metavar="X", help="uplink rate, Mbit/s")
    made.add_argument("--downlink_mbps", type=float, metavar="X", help="downlink rate, Mbit/s")
    made.add_argument("--ue_ghz", type=float, default=system.ue_hz / 1e9, metavar="X", help="clock of the UE [1]")
    made.add_argument("--vm_ghz", type=float, metavar="X", help="clock of the server's VM [10]")
    made.add_argument(
        "--server", action="append", default=[], metavar="GHZ,UP,DOWN",
        help="one of several servers, in place of the three above: clock, uplink and downlink rate in Mbit/s",
    )  # fmt: skip
    made.add_argument(
        "--radio", choices=RADIOS, default=system.radio, help="whether servers share up- and downlink [shared]"
    )
    made.add_argument("--backhaul_mbps", type=float, default=1000.0, metavar="X", help="between servers [1000]")
    made.add_argument(
        "--results", choices=RESULTS,
        help="resident: a result stays where it was computed until it is needed elsewhere; return: all results are "
        "sent back to the UE, as the paper has it [resident, or return with --channel]",
    )  # fmt: skip
    made.add_argument(
        "--channel", choices=[name for name, rules in CHANNELS.items() if not rules.results_stay],
        help="rules of the links where results return [paper]",
    )  # fmt: skip
    made.add_argument(
        "--pin", action="append", default=[], metavar="TASK=SITE", help="task by its name: ue, server or any"
    )
    made.add_argument(
        "--power", metavar="C,S,R,I", help="watts of the UE: computing, sending, receiving, idle [1,1.3,1.2,0]"
    )
    made.add_argument("--energy_weight", type=float, default=0.0, metavar="X", help="seconds that a joule is worth [0]")
    made.add_argument("--deadline_ms", type=float, metavar="X", help="least energy of the plans that meet it")
    made.add_argument(
        "--front", type=int, default=0, metavar="N", help="also N plans from the fastest to that of least energy [0]"
    )
    made.add_argument("--policy", default=GENERAL, help="shipped weights by name, or a run folder [general]")
    made.add_argument("--mode", choices=MODES, default="search", help="what is spent on the learned plan [search]")
    made.add_argument("--samples", type=int, default=64, metavar="N", help="plans drawn, but by argmax [64]")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws [0]")
    made.add_argument(
        "--optimum_s", type=float, default=5.0, metavar="X",
        help=f"seconds for the proof of the optimum; 0, or more than {MOST_PROVEN} tasks: none is asked for [5]",
    )  # fmt: skip
    made.add_argument("--cycles_per_byte", type=float, metavar="X", help="DOT: of a file's sizes [1000]")
    made.add_argument("--machine_hz", metavar="X", help=f"WfFormat: clock of the machines it ran on, or {RECORDED}")
    made.add_argument("--cycles_per_mac", type=float, metavar="X", help="ONNX: cycles for a multiply-accumulate")
    made.add_argument(
        "--dimension",
        action="append",
        default=[],
        metavar="NAME=SIZE",
        help="ONNX: of a dimension known by name",
    )
    made.add_argument("--num_tasks", type=int, metavar="N", help="WfFormat, ONNX: coarsen to at most so many tasks")
    made.add_argument("--out", default=".", metavar="DIR", help="folder of the pictures [.]")
    made.add_argument("--nofigures", action="store_true", help="draw none")
    made.add_argument("--json", action="store_true", help="print JSON and nothing else, and draw no pictures")
    return made


def offload(options: argparse.Namespace) -> int:
    """What `main` does, once options are parsed."""
    check_number("optimum_s", options.optimum_s, low=0.0)
    system, goal = system_of(options), objective_of(options)
    if options.front and options.optimum_s == 0:
        raise InputError(f"front is {options.front} with --optimum_s=0; accepted: seconds for each proof")
    if options.front:
        check_number("front", options.front, low=2, high=MOST_POINTS, integer=True)
    graph = pinned(read_any(Path(options.graph), Unsaid.of_options(partial(getattr, options))), options.pin)
    drawing = not (options.json or options.nofigures)
    if drawing:
        check_writable(Path(options.out))
    policy = load_offloader(options.policy)
    plans = compared(graph, system, goal, options, policy)
    trade_off = front(graph, system, options.front, time_limit_s=options.optimum_s) if options.front else []
    late, least = min(key_of(goal, plan) for plan, _ in plans.values())
    best = next(name for name, (plan, _) in plans.items() if key_of(goal, plan) <= (late, least * (1 + SAME)))
    if options.json:
        print(json.dumps(described(graph, system, goal, plans, best, trade_off)))
        return 0
    up, down = graph.upload_bytes.sum() / 1e6, graph.download_bytes.sum() / 1e6
    print(
        f"{escaped(options.graph)}: {graph.num_tasks} tasks, {len(graph.edges)} edges, "
        f"{graph.cycles.sum() / 1e9:.4g} Gcycles; if all results return and all is offloaded {up:.4g} MB up, "
        f"{down:.4g} MB down"
    )
    print(f"{rule_of(system)}; {aim_of(goal)}\n")
    print(plans_table(plans, goal), end="\n\n")
    title = as_found(best, plans[best][0])
    print(f"the best is {title}{tied_with(goal, plans, best)}:\n")
    print(placements(graph, plans[best][0], system.num_servers > 1))
    if not goal.meets_deadline(plans[best][0].makespan):
        print(f"\nno plan was found that meets the deadline of {1e3 * (goal.deadline_s or 0):g} ms")
    if trade_off:
        print(f"\n{front_table(trade_off)}")
    if drawing:
        print()
        draw(graph, system, plans, best, title, trade_off, Path(options.out) / Path(options.graph).stem)
    return 0


def system_of(options: argparse.Namespace) -> System:
    """The system that the options describe.

    Raises:
        InputError: rates that are missing or given twice, a server or powers that are not numbers, or rules that do not
            go together.
    """
    given: dict[str, Any]
    if options.server:
        for name in ("uplink_mbps", "downlink_mbps", "vm_ghz"):
            if getattr(options, name) is not None:
                raise InputError(
                    f"{name} is {getattr(options, name)} with --server; accepted: --server=GHZ,UP,DOWN alone"
                )
        rows = [numbers_of(f"server[{k}]", text, "GHZ,UP,DOWN") for k, text in enumerate(options.server, start=1)]
        clocks, ups, downs = (tuple(1e6 * value for value in column) for column in zip(*rows, strict=True))
        given = {"vm_hz": tuple(1e3 * clock for clock in clocks), "uplink_bps": ups, "downlink_bps": downs}
    else:
        for name in ("uplink_mbps", "downlink_mbps"):
            if getattr(options, name) is None:
                raise InputError(f"{name} is missing; accepted: a rate in Mbit/s, or --server=GHZ,UP,DOWN")
        clock = 10.0 if options.vm_ghz is None else options.vm_ghz
        given = {
            "vm_hz": 1e9 * clock,
            "uplink_bps": 1e6 * options.uplink_mbps,
            "downlink_bps": 1e6 * options.downlink_mbps,
        }
    if options.channel is not None and options.results == RESULTS[0]:
        raise InputError(f"channel is {options.channel} with --results=resident; accepted: --results=return")
    stays = options.channel is None and options.results != RESULTS[1]
    power = Power() if options.power is None else Power(*numbers_of("power", options.power, "C,S,R,I"))
    return System(
        ue_hz=1e9 * options.ue_ghz,
        channel="resident" if stays else options.channel or "paper",
        radio=options.radio,
        backhaul_bps=1e6 * options.backhaul_mbps,
        power=power,
        **given,
    )


def numbers_of(field: str, text: str, form: str) -> list[float]:
    """The numbers of a text like `form`; raises InputError for another."""
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    if len(values) != len(form.split(",")):
        raise InputError(f"{field} is {shorten(text)}; accepted: {form}, numbers")
    return values


def objective_of(options: argparse.Namespace) -> Objective:
    """What the options ask for; raises InputError as `Objective`."""
    deadline_s = None if options.deadline_ms is None else options.deadline_ms / 1e3
    return Objective(options.energy_weight, deadline_s)


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


def rule_of(system: System) -> str:
    """Which rule for results the plans follow, for people."""
    if CHANNELS[system.channel].results_stay:
        rule = "resident: a result stays where it was computed until it is needed elsewhere"
    else:
        rule = f"return ({system.channel}): all results are sent back to the UE"
    servers = f"; {system.num_servers} servers, radio {system.radio}" if system.num_servers > 1 else ""
    return f"results {rule}{servers}"


def aim_of(goal: Objective) -> str:
    """What the best plan is, for people."""
    if goal.deadline_s is not None:
        return f"least energy within {1e3 * goal.deadline_s:g} ms"
    return f"least makespan + {goal.energy_weight:g} s/J x energy" if goal.energy_weight else "least makespan"


def key_of(goal: Objective, plan: Plan) -> tuple[bool, float]:
    """By which plans are ordered."""
    return goal.key(plan.makespan, plan.energy)


Timed = tuple[Plan, float]
"""A plan, and the seconds that it took to find."""


def compared(
    graph: TaskGraph,
    system: System,
    goal: Objective,
    options: argparse.Namespace,
    policy: Offloader,
) -> dict[str, Timed]:
    """Every plan by its name; the optimum, and the learned plan, only where they can be asked for."""
    planners: dict[str, Callable[[], Plan]] = {
        "all-local": lambda: all_local(graph, system),
        "all-offload": lambda: all_offload(graph, system),
        "greedy": lambda: greedy(graph, system, objective=goal),
        "HEFT-based": lambda: heft(graph, system, objective=goal),
        "look-ahead": lambda: look_ahead(graph, system, objective=goal),
    }
    if system.num_servers == 1 or policy.network.any_servers:
        planners[f"learned ({options.mode})"] = lambda: policy.plan(
            graph, system, options.mode, samples=options.samples, seed=options.seed, objective=goal
        )
    else:
        planners["local search"] = lambda: local_search(graph, system, objective=goal)
    if options.optimum_s > 0 and graph.num_tasks <= MOST_PROVEN:
        planners["optimum"] = lambda: optimum(graph, system, time_limit_s=options.optimum_s, objective=goal)
    timed = {}
    for name, planner in planners.items():
        began = time.perf_counter()
        plan = planner()
        timed[name] = plan, time.perf_counter() - began
    return timed


def plans_table(plans: dict[str, Timed], goal: Objective | None = None) -> str:
    """A line a plan."""
    local = plans["all-local"][0].makespan
    rows = []
    for name, (plan, seconds) in plans.items():
        name = as_found(name, plan)
        if isinstance(plan, ProvenPlan) and not plan.proven:
            bound = (
                f"{1e3 * plan.lower_bound:.1f} ms" if goal in (None, Objective()) else f"cost {plan.lower_bound:.4g}"
            )
            name += f": at least {bound}"
        share = f"{100 * (plan.makespan / local - 1):+.1f} %" if local > 0 else ""
        tried = f"{plan.evaluations:,}" if isinstance(plan, SearchedPlan) else ""
        offloaded = f"{int((plan.placement > 0).sum())} of {len(plan.placement)}"
        rows.append(
            [name, f"{1e3 * plan.makespan:.1f}", share, f"{plan.energy:.3g}", offloaded, tried, f"{seconds:.2f}"]
        )
    header = ["plan", "makespan, ms", "vs all-local", "energy, J", "offloaded", "plans simulated", "found in, s"]
    return format_table(header, rows) + "\n(seconds with what is compiled first)"


def as_found(name: str, plan: Plan) -> str:
    """A plan's name for people: an optimum that is not proven is none."""
    return "branch and bound, not proven" if isinstance(plan, ProvenPlan) and not plan.proven else name


def tied_with(goal: Objective, plans: dict[str, Timed], best: str) -> str:
    """Which others are as good, as a sentence goes on."""
    late, least = key_of(goal, plans[best][0])
    names = [
        name for name, (plan, _) in plans.items() if name != best and key_of(goal, plan) <= (late, least * (1 + SAME))
    ]
    return f"; as good: {', '.join(as_found(name, plans[name][0]) for name in names)}" if names else ""


def placements(graph: TaskGraph, plan: Plan, several: bool = False) -> str:
    """Where each task runs and when it is done, in scheduling order; of many tasks the first."""
    done = plan.schedule.ue_end + plan.schedule.download_end
    rows = [
        [str(place), str(task), escaped(graph.names[task]), where(plan.placement[task], several),
         f"{1e3 * done[task]:.1f}" if done[task] or not plan.placement[task] else ""]
        for place, task in enumerate(plan.order[:MOST_SHOWN].tolist(), start=1)
    ]  # fmt: skip
    table = format_table(["place", "task", "name", "where", "result at the UE, ms"], rows)
    left = graph.num_tasks - len(rows)
    return table + (f"\n... and {left} more (--json has all)" if left else "")


def where(site: int, several: bool) -> str:
    """A site, for people."""
    return "local" if site == LOCAL else f"server {site}" if several else "offload"


def front_table(plans: Sequence[ProvenPlan]) -> str:
    """Makespan against energy, a line for each plan."""
    rows = [
        [f"{1e3 * plan.makespan:.1f}", f"{plan.energy:.4g}", f"{int((plan.placement > 0).sum())}",
         "yes" if plan.proven else "no"]
        for plan in plans
    ]  # fmt: skip
    return format_table(["makespan, ms", "energy, J", "offloaded", "proven"], rows)


def described(
    graph: TaskGraph, system: System, goal: Objective, plans: dict[str, Timed], best: str, trade_off: Sequence[Plan]
) -> dict[str, Any]:
    """All of it for machines; seconds, joules, task ids in the order of the file."""

    def entry(plan: Plan, seconds: float | None = None) -> dict[str, Any]:
        values: dict[str, Any] = {
            "makespan_s": plan.makespan,
            "energy_j": plan.energy,
            "meets_deadline": goal.meets_deadline(plan.makespan),
            "placement": plan.placement.tolist(),
            "order": plan.order.tolist(),
        }
        if seconds is not None:
            values["found_in_s"] = seconds
        if isinstance(plan, SearchedPlan):
            values["evaluations"] = plan.evaluations
        if isinstance(plan, ProvenPlan):
            bound = "lower_bound_s" if goal.deadline_s is None or not plan.meets_deadline else "lower_bound_j"
            values |= {"proven": plan.proven, bound: plan.lower_bound}
        return values

    schedule = plans[best][0].schedule
    ends = ("upload_end", "vm_end", "download_end", "ue_end")
    return {
        "tasks": list(graph.names),
        "pins": list(graph.pins),
        "system": dataclasses.asdict(system),
        "objective": dataclasses.asdict(goal),
        "plans": {name: entry(*timed) for name, timed in plans.items()},
        "best": best,
        "schedule_of_best_s": {name: getattr(schedule, name).tolist() for name in ends},
        "front": [entry(plan) for plan in trade_off],
    }


def draw(
    graph: TaskGraph,
    system: System,
    plans: dict[str, Timed],
    best: str,
    name: str,
    trade_off: Sequence[ProvenPlan],
    stem: Path,
) -> None:
    """Writes STEM-dag.png, STEM-schedule.png and of a front STEM-front.png, or says what to install."""
    plan = plans[best][0]
    title = f"{name}: {1e3 * plan.makespan:.1f} ms, {plan.energy:.3g} J"
    made = {"dag": lambda: pictures.dag_figure(graph, plan, title)}
    made["schedule"] = lambda: pictures.schedule_figure(graph, system, plan, title)
    if trade_off:
        named = {as_found(other, timed[0]): timed[0] for other, timed in plans.items()}
        made["front"] = lambda: pictures.front_figure(trade_off, named)
    for what, figure in made.items():
        path = stem.with_name(f"{stem.name}-{what}.png")
        try:
            write_atomically(path, png(figure()))
        except ImportError:
            print("no pictures: matplotlib is not installed (pip install 'mrlato-jax[plots]')")
            return
        print(f"drawn: {escaped(str(path))}")
