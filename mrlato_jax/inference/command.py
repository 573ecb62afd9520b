"""The command `mrlato-offload`: a file of an application in, plans, their makespans and pictures out.

    mrlato-offload --graph=app.json --uplink_mbps=7 --downlink_mbps=7
    mrlato-offload --graph=model.onnx --cycles_per_mac=0.25 --num_tasks=30 --uplink_mbps=100 --downlink_mbps=100
    mrlato-offload --graph=workflow.json --machine_hz=2.4e9 --num_tasks=30 --uplink_mbps=100 --downlink_mbps=100 --json

Reads daggen's DOT (.dot, .gv), our own JSON and WfCommons' WfFormat (.json), and ONNX models (.onnx). Prints a table of
plans and where the best of them runs each task, and draws NAME-dag.png and NAME-schedule.png into --out.

Most of the time goes into compiling; JAX_COMPILATION_CACHE_DIR=FOLDER in the environment keeps what is compiled.
"""

from __future__ import annotations

import argparse
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
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number, escaped
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.inference import pictures
from mrlato_jax.inference.load import GENERAL, load_offloader
from mrlato_jax.inference.offloader import MODES
from mrlato_jax.mec.latency import OFFLOAD
from mrlato_jax.mec.system import CHANNELS, System
from mrlato_jax.planners import Plan, ProvenPlan, SearchedPlan, all_local, all_offload, greedy, heft, optimum
from mrlato_jax.progress import format_table

BAD_INPUT = 2  # exit status
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
    try:
        return offload(options)
    except (InputError, ImportError) as error:
        print(f"error: {escaped(str(error))}", file=sys.stderr)
        return BAD_INPUT
    except OSError as error:
        print(f"error: {escaped(str(error))}", file=sys.stderr)
        return 1


class _Parser(argparse.ArgumentParser):
    """One whose errors are one printable line, whatever words it was given."""

    def error(self, message: str) -> NoReturn:
        self.exit(BAD_INPUT, f"error: {escaped(message)}\n")


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    made = _Parser(
        prog="mrlato-offload", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    system = System()
    made.add_argument("--graph", required=True, metavar="FILE", help="the application")
    made.add_argument("--uplink_mbps", type=float, required=True, metavar="X", help="uplink rate, Mbit/s")
    made.add_argument("--downlink_mbps", type=float, required=True, metavar="X", help="downlink rate, Mbit/s")
    made.add_argument("--ue_ghz", type=float, default=system.ue_hz / 1e9, metavar="X", help="clock of the UE [1]")
    made.add_argument("--vm_ghz", type=float, default=system.vm_hz / 1e9, metavar="X", help="clock of the VM [10]")
    made.add_argument("--channel", choices=list(CHANNELS), default=system.channel, help="rules of the links [paper]")
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
    system = System(
        ue_hz=1e9 * options.ue_ghz, vm_hz=1e9 * options.vm_ghz, uplink_bps=1e6 * options.uplink_mbps,
        downlink_bps=1e6 * options.downlink_mbps, channel=options.channel,
    )  # fmt: skip
    graph = read_any(Path(options.graph), Unsaid.of_options(partial(getattr, options)))
    drawing = not (options.json or options.nofigures)
    if drawing:
        check_writable(Path(options.out))
    policy = load_offloader(options.policy)
    plans = compared(graph, system, options, policy.plan)
    best = min(plans, key=lambda name: (plans[name][0].makespan, not name.startswith("learned")))
    if options.json:
        print(json.dumps(described(graph, system, plans, best)))
        return 0
    up, down = graph.upload_bytes.sum() / 1e6, graph.download_bytes.sum() / 1e6
    print(
        f"{escaped(options.graph)}: {graph.num_tasks} tasks, {len(graph.edges)} edges, "
        f"{graph.cycles.sum() / 1e9:.4g} Gcycles; if all is offloaded {up:.4g} MB up, {down:.4g} MB down\n"
    )
    print(plans_table(plans), end="\n\n")
    title = as_found(best, plans[best][0])
    print(f"the best is {title}{tied_with(plans, best)}:\n")
    print(placements(graph, plans[best][0]))
    if drawing:
        print()
        draw(graph, system, plans[best][0], title, Path(options.out) / Path(options.graph).stem)
    return 0


Timed = tuple[Plan, float]
"""A plan, and the seconds that it took to find."""


def compared(
    graph: TaskGraph, system: System, options: argparse.Namespace, learned: Callable[..., SearchedPlan]
) -> dict[str, Timed]:
    """Every plan by its name; the optimum only where that can be asked for."""
    planners: dict[str, Callable[[], Plan]] = {
        "all-local": lambda: all_local(graph, system),
        "all-offload": lambda: all_offload(graph, system),
        "greedy": lambda: greedy(graph, system),
        "HEFT-based": lambda: heft(graph, system),
        f"learned ({options.mode})": lambda: learned(
            graph, system, options.mode, samples=options.samples, seed=options.seed
        ),
    }
    if options.optimum_s > 0 and graph.num_tasks <= MOST_PROVEN:
        planners["optimum"] = lambda: optimum(graph, system, time_limit_s=options.optimum_s)
    found = {}
    for name, planner in planners.items():
        began = time.perf_counter()
        plan = planner()
        found[name] = plan, time.perf_counter() - began
    return found


def plans_table(plans: dict[str, Timed]) -> str:
    """A line a plan."""
    local = plans["all-local"][0].makespan
    rows = []
    for name, (plan, seconds) in plans.items():
        name = as_found(name, plan)
        if isinstance(plan, ProvenPlan) and not plan.proven:
            name += f": at least {1e3 * plan.lower_bound:.1f} ms"
        share = f"{100 * (plan.makespan / local - 1):+.1f} %" if local > 0 else ""
        tried = f"{plan.evaluations:,}" if isinstance(plan, SearchedPlan) else ""
        offloaded = f"{int(plan.placement.sum())} of {len(plan.placement)}"
        rows.append([name, f"{1e3 * plan.makespan:.1f}", share, offloaded, tried, f"{seconds:.2f}"])
    header = ["plan", "makespan, ms", "vs all-local", "offloaded", "plans simulated", "found in, s"]
    return format_table(header, rows) + "\n(seconds with what is compiled first)"


def as_found(name: str, plan: Plan) -> str:
    """A plan's name for people: an optimum that is not proven is none."""
    return "branch and bound, not proven" if isinstance(plan, ProvenPlan) and not plan.proven else name


def tied_with(plans: dict[str, Timed], best: str) -> str:
    """Which others are as good, as a sentence goes on."""
    span = plans[best][0].makespan
    names = [name for name, (plan, _) in plans.items() if name != best and plan.makespan <= span * (1 + SAME)]
    return f"; as good: {', '.join(as_found(name, plans[name][0]) for name in names)}" if names else ""


def placements(graph: TaskGraph, plan: Plan) -> str:
    """Where each task runs and when it is done, in scheduling order; of many tasks the first."""
    done = plan.schedule.ue_end + plan.schedule.download_end
    rows = [
        [str(place), str(task), escaped(graph.names[task]), "offload" if plan.placement[task] == OFFLOAD else "local",
         f"{1e3 * done[task]:.1f}"]
        for place, task in enumerate(plan.order[:MOST_SHOWN].tolist(), start=1)
    ]  # fmt: skip
    table = format_table(["place", "task", "name", "where", "result at the UE, ms"], rows)
    left = graph.num_tasks - len(rows)
    return table + (f"\n... and {left} more (--json has all)" if left else "")


def described(graph: TaskGraph, system: System, plans: dict[str, Timed], best: str) -> dict[str, Any]:
    """All of it for machines; seconds, task ids in the order of the file."""

    def entry(plan: Plan, seconds: float) -> dict[str, Any]:
        found: dict[str, Any] = {
            "makespan_s": plan.makespan,
            "placement": plan.placement.tolist(),
            "order": plan.order.tolist(),
            "found_in_s": seconds,
        }
        if isinstance(plan, SearchedPlan):
            found["evaluations"] = plan.evaluations
        if isinstance(plan, ProvenPlan):
            found |= {"proven": plan.proven, "lower_bound_s": plan.lower_bound}
        return found

    schedule = plans[best][0].schedule
    ends = ("upload_end", "vm_end", "download_end", "ue_end")
    return {
        "tasks": list(graph.names),
        "system": vars(system),
        "plans": {name: entry(*timed) for name, timed in plans.items()},
        "best": best,
        "schedule_of_best_s": {name: getattr(schedule, name).tolist() for name in ends},
    }


def draw(graph: TaskGraph, system: System, plan: Plan, name: str, stem: Path) -> None:
    """Writes both pictures, STEM-dag.png and STEM-schedule.png, or says what to install."""
    title = f"{name}: {1e3 * plan.makespan:.1f} ms"
    made = {"dag": lambda: pictures.dag_figure(graph, plan, title)}
    made["schedule"] = lambda: pictures.schedule_figure(graph, system, plan, title)
    for what, figure in made.items():
        path = stem.with_name(f"{stem.name}-{what}.png")
        try:
            write_atomically(path, pictures.png(figure()))
        except ImportError:
            print("no pictures: matplotlib is not installed (pip install 'mrlato-jax[plots]')")
            return
        print(f"drawn: {escaped(str(path))}")
