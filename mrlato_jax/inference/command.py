"""The command `mrlato-offload`: reads an application from a file, prints plans with makespans, and draws pictures."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import platform
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import jax

from mrlato_jax.dag.formats.any_format import CONVERTED, ENDINGS, Unsaid, kind_of
from mrlato_jax.dag.formats.wfformat import RECORDED
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.drawing import check_matplotlib, png
from mrlato_jax.errors import InputError, check_number, escaped, shorten
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.inference import pictures
from mrlato_jax.inference.comparing import (
    AT_ONCE,
    MEANINGS,
    MOST_PROVEN,
    Case,
    Wanted,
    as_found,
    as_good_as,
    best_of,
    find,
    long_planners,
    names_of,
    quick_planners,
    read_case,
)
from mrlato_jax.inference.load import GENERAL, load_offloader
from mrlato_jax.inference.offloader import MODES, check_decides
from mrlato_jax.mec.latency import LOCAL
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import CHANNELS, RADIOS, Power, System
from mrlato_jax.planners import Plan, ProvenPlan, SearchedPlan, front
from mrlato_jax.planners.front import MOST_POINTS
from mrlato_jax.progress import Attended, OutOfTimeError, format_table, table_head, table_line

HELP = """Decides which tasks of an application to run on a device and which to offload to an edge server.

An application is a set of tasks, some of which need results of others. The command reads the application from a file,
compares plans, and prints where the best plan runs each task:

    mrlato-offload --graph=app.json --uplink_mbps=7 --downlink_mbps=7

Files: our own JSON, WfCommons' WfFormat, networkx's node-link data and SAGA's graphs (.json), DOT (.dot, .gv), GraphML,
GML, the Standard Task Graph Set (.stg), Pegasus DAX (.dax, .xml), ONNX models (.onnx). Given a folder, the command
plans every application in the folder and names the other files.

A plan's makespan is the time from the start until the last result is at the device. UE (user equipment) is the device.
VM (virtual machine) is the machine that runs tasks on a server.
"""
EXAMPLES = """examples:
  a neural network; the device takes 0.25 cycles for a multiply-accumulate
    mrlato-offload --graph=model.onnx --cycles_per_mac=0.25 --uplink_mbps=100 --downlink_mbps=100
  a recorded workflow; prints JSON
    mrlato-offload --graph=workflow.json --machine_hz=2.4e9 --uplink_mbps=100 --downlink_mbps=100 --json
  two servers, a task that stays on the device, energy, and nine plans from the fastest to that of least energy
    mrlato-offload --graph=app.json --server=10,20,60 --server=40,8,8 --pin=camera=ue --energy_weight=0.5 --front=9
  a folder of applications, in at most a minute
    mrlato-offload --graph=apps --uplink_mbps=7 --downlink_mbps=7 --seconds=60

The command keeps compiled programs in ~/.cache/mrlato_jax, so that the next command starts sooner. The environment
variable JAX_COMPILATION_CACHE_DIR=FOLDER names another folder. JAX_ENABLE_COMPILATION_CACHE=false keeps no programs.
"""
BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 2, 130, 141  # exit statuses; the last two are those of shells
RESULTS = ("resident", "return")
RETURNING = tuple(name for name, rules in CHANNELS.items() if not rules.results_stay)  # accepted by --channel
FOLDER = f"a folder with files that end in {', '.join(ENDINGS)}"
MOST_SHOWN = 60  # tasks, in the table of placements
HEADER = ("plan", "makespan, ms", "vs all-local", "energy, J", "offloaded", "plans simulated", "found in, s")
SUMMARY = ("file", "tasks", "best plan", "makespan, ms", "vs all-local", "energy, J", "offloaded")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status.

    Bad input gives status 2 and one line on standard error. After the end of `--seconds` or Ctrl-C, a thread may still
    compute a plan that is no longer needed. Then this function ends the process.

    Args:
        arguments: words of the command line, without the program's name; by default those of this process.
    """
    options = parser().parse_args(arguments)
    attended = Attended(options.seconds)
    warnings.showwarning = lambda message, *_, **__: attended.say(f"note: {escaped(str(message))}")
    keep_compiled()
    status = reported(lambda: offload(options, attended))
    if attended.left_behind:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def reported(work: Callable[[], int]) -> int:
    """Runs a command's work and returns the exit status.

    Bad input, an unreadable file and Ctrl-C each give one line on standard error and their status. A closed output
    pipe, as behind `| head`, gives a status and no line.
    """
    try:
        status = work()
        sys.stdout.flush()
        return status
    except (InputError, ImportError) as error:
        print(f"error: {escaped(str(error))}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes stdout at exit
        return PIPE_CLOSED
    except OSError as error:
        print(f"error: {escaped(str(error))}", file=sys.stderr)
        return 1


def keep_compiled() -> None:
    """Makes JAX keep compiled programs in the user's cache folder.

    Does nothing where the environment names a folder, or where the cache folder cannot be written to. Each kind of
    processor has its own folder, since a program compiled for one kind may not run on another kind that shares the home
    folder.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "mrlato_jax" / f"xla-{processor()}"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home folder, or no permission to write
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        for name, least in (("min_compile_time_secs", 0), ("min_entry_size_bytes", -1)):
            if f"JAX_PERSISTENT_CACHE_{name.upper()}" not in os.environ:
                jax.config.update(f"jax_persistent_cache_{name}", least)


def processor() -> str:
    """Returns a short name of this kind of processor: eight hexadecimal digits of the hash of its feature list."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return hashlib.sha256(f"{platform.machine()} {features}".encode()).hexdigest()[:8]


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one printable line, whatever words it was given."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with the message."""
        self.exit(BAD_INPUT, f"error: {escaped(message)}\n")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command's options."""
    command_parser = OneLineParser(
        prog="mrlato-offload", description=HELP, epilog=EXAMPLES, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    system = System()
    app = command_parser.add_argument_group("the application")
    app.add_argument("--graph", required=True, metavar="FILE", help="the application, or a folder of applications")
    app.add_argument(
        "--pin", action="append", default=[], metavar="TASK=SITE",
        help="where the named task must run: ue (on the device), server, or any; may be repeated",
    )  # fmt: skip
    app.add_argument(
        "--num_tasks", type=int, metavar="N",
        help="merge tasks until at most N are left [where merging is exact: tries several N and plans the best]",
    )  # fmt: skip
    app.add_argument(
        "--cycles_per_byte", type=float, metavar="X", help="graphs with sizes in bytes: cycles per byte [1000]"
    )
    app.add_argument(
        "--cycles_per_flop", type=float, metavar="X", help="graphs with sizes in FLOP: cycles per FLOP [1]"
    )
    app.add_argument("--cycles_per_unit", type=float, metavar="X", help="STG, SAGA, weights: cycles per unit of work")
    app.add_argument("--bytes_per_unit", type=float, metavar="X", help="SAGA, weights: bytes per unit of data")
    app.add_argument(
        "--result_bytes", type=float, metavar="X", help="STG, graphs without bytes: bytes of each result and input"
    )
    app.add_argument(
        "--machine_hz", metavar="X",
        help="WfFormat, DAX: clock in Hz of the machine that ran the workflow; "
        f"WfFormat: or '{RECORDED}', the clock in the file",
    )  # fmt: skip
    app.add_argument("--cycles_per_mac", type=float, metavar="X", help="ONNX: processor cycles per multiply-accumulate")
    app.add_argument(
        "--dimension", action="append", default=[], metavar="NAME=SIZE",
        help="ONNX: size of a dimension that the model leaves open; NAME is the dimension's name or INPUT:AXIS; may be "
        "repeated",
    )  # fmt: skip
    app.add_argument(
        "--operator_cost", action="append", default=[], metavar="OPERATOR=MACS",
        help="ONNX: multiply-accumulates per element of the result of an operator whose work is unknown; may be "
        "repeated",
    )  # fmt: skip

    edge = command_parser.add_argument_group("the device, the server and the links between them")
    edge.add_argument("--uplink_mbps", type=float, metavar="X", help="rate from the device to the server, Mbit/s")
    edge.add_argument("--downlink_mbps", type=float, metavar="X", help="rate from the server to the device, Mbit/s")
    edge.add_argument("--ue_ghz", type=float, default=system.ue_hz / 1e9, metavar="X", help="device's clock, GHz [1]")
    edge.add_argument("--vm_ghz", type=float, metavar="X", help="server's clock, GHz [10]")
    edge.add_argument(
        "--server", action="append", default=[], metavar="GHZ,UP,DOWN",
        help="clock (GHz), uplink and downlink rate (Mbit/s) of one of several servers, in place of the two rates and "
        "--vm_ghz; repeat for each server",
    )  # fmt: skip
    edge.add_argument(
        "--radio", choices=RADIOS, default=system.radio,
        help="whether all servers share one uplink and one downlink [shared]",
    )  # fmt: skip
    edge.add_argument(
        "--backhaul_mbps", type=float, default=1000.0, metavar="X", help="rate between servers, Mbit/s [1000]"
    )
    edge.add_argument(
        "--results", choices=RESULTS,
        help="resident: a result stays where it was computed until a task elsewhere needs it; return: every result is "
        "sent back to the device, as in the paper [resident, or return with --channel]",
    )  # fmt: skip
    edge.add_argument(
        "--channel", metavar=f"{{{','.join(RETURNING)}}}",
        help="what transfers wait for where results return; docs/offloader.md has the rules [paper]",
    )  # fmt: skip
    edge.add_argument(
        "--power", metavar="C,S,R,I",
        help="power of the device in watts: computing, sending, receiving, and idle power all the time [1,1.3,1.2,0]",
    )  # fmt: skip

    goal = command_parser.add_argument_group("objective of the best plan")
    goal.add_argument(
        "--energy_weight", type=float, default=0.0, metavar="X",
        help="least makespan + X seconds per joule of the device's energy [0: least makespan]",
    )  # fmt: skip
    goal.add_argument(
        "--deadline_ms", type=float, metavar="X", help="least energy among plans with at most this makespan"
    )
    goal.add_argument(
        "--front", type=int, default=0, metavar="N",
        help="also show up to N plans, from the fastest to that of least energy [0]",
    )  # fmt: skip

    effort = command_parser.add_argument_group("effort")
    effort.add_argument(
        "--seconds", type=float, metavar="X",
        help="end planning after X seconds with the best plan so far [no limit]",
    )  # fmt: skip
    effort.add_argument(
        "--mode", choices=MODES, default="search",
        help="the trained policy's plan: the likeliest (argmax); the best of many (sample); those improved by local "
        "search (search); also in improved order (search_order) [search]",
    )  # fmt: skip
    effort.add_argument("--samples", type=int, default=64, metavar="N", help="plans to draw, except by argmax [64]")
    effort.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the random draws [0]")
    effort.add_argument(
        "--policy", default=GENERAL, help="trained policy: the name of shipped weights, or a run folder [general]"
    )
    effort.add_argument(
        "--optimum_s", type=float, default=5.0, metavar="X",
        help=f"seconds for a proof that no plan in the same order is better; 0: no proof; with more than "
        f"{MOST_PROVEN} tasks no proof is tried [5]",
    )  # fmt: skip

    effort.add_argument(
        "--orders_s", type=float, default=0.1, metavar="X",
        help="seconds for a search of plans in other orders; 0: no search; needs numba (extra `fast`) [0.1]",
    )  # fmt: skip

    output = command_parser.add_argument_group("output")
    output.add_argument("--out", default=".", metavar="DIR", help="folder of the pictures [.]")
    output.add_argument("--nofigures", action="store_true", help="draw no pictures")
    output.add_argument("--json", action="store_true", help="print JSON and nothing else, and draw no pictures")
    return command_parser


def offload(options: argparse.Namespace, attended: Attended) -> int:
    """Does the work of `main` with parsed options and returns the exit status."""
    system, goal = system_of(options), objective_of(options)
    check_options(options)
    path = Path(options.graph)
    unsaid = Unsaid.of_options(partial(getattr, options))
    if not path.is_dir():
        kind_of(path)  # an unknown ending is reported before the policy is loaded
    drawing = not (options.json or options.nofigures)
    if drawing:
        check_writable(Path(options.out))
        try:
            check_matplotlib()
        except ImportError as error:
            attended.say(f"note: no pictures: {error}")
            drawing = False
    policy = load_offloader(options.policy)
    check_decides(policy, options.mode, goal)
    wanted = Wanted(
        system, goal, policy, options.mode, options.samples, options.seed, options.optimum_s, options.orders_s
    )
    if path.is_dir():
        return offload_folder(path, unsaid, options, wanted, attended, drawing)
    try:
        case = read_case(path, unsaid, options.pin, wanted, attended)
    except OutOfTimeError:
        raise InputError(f"seconds is {options.seconds}, which is too short to read {path.name}") from None
    if not options.json:
        print(f"{about(case)}\n{rule_of(system)}; {aim_of(goal)}\n", flush=True)
    plan_one(case, wanted, attended, show=not options.json)
    trade_off = plans_of_front(case, wanted, options.front, attended)
    best = best_of(case.found, wanted)
    if options.json:
        print(json.dumps(described(case, wanted, best, trade_off)))
        return 0
    print(conclusion(case, wanted, best, options.seconds), end="\n\n")
    chosen = case.found[best]
    print(placements(chosen.graph, chosen.plan, system.num_servers > 1))
    if not goal.meets_deadline(chosen.plan.makespan):
        print(f"\nno plan was found that meets the deadline of {1e3 * (goal.deadline_s or 0):g} ms")
    if trade_off:
        print(f"\n{front_table(trade_off)}")
    if drawing:
        print(flush=True)
        draw(case, wanted, best, trade_off, Path(options.out) / path.stem)
    return 0


def check_options(options: argparse.Namespace) -> None:
    """Raises InputError for numbers out of their range, before any computation."""
    check_number("optimum_s", options.optimum_s, low=0.0)
    check_number("orders_s", options.orders_s, low=0.0)
    check_number("samples", options.samples, low=1, integer=True)
    check_number("seed", options.seed, low=0, high=2**32 - 1, integer=True)
    if options.seconds is not None:
        check_number("seconds", options.seconds, low=0.0, open_low=True)
    if options.front and options.optimum_s == 0:
        raise InputError(f"front is {options.front} with --optimum_s=0; accepted: seconds for each proof")
    if options.front:
        check_number("front", options.front, low=2, high=MOST_POINTS, integer=True)


def plan_one(case: Case, wanted: Wanted, attended: Attended, *, show: bool) -> None:
    """Finds the plans of a case, and with `show` prints a row for each plan when it is found.

    Raises:
        InputError: the time did not suffice for any plan.
    """
    if show and case.sizes:
        print(sizes_table(case, wanted), end="\n\n", flush=True)
    widths = [max(map(len, names_of(case.graph, wanted, attended))), *(max(len(name), 8) for name in HEADER[1:])]
    if show:
        print(*table_head(HEADER, widths), sep="\n", flush=True)

    def row(name: str) -> None:
        if show:
            print(table_line(cells(name, case, wanted), widths), flush=True)

    for planners in (quick_planners, partial(long_planners, attended=attended)):
        for name, _ in find(case, planners(case.graph, wanted), attended):
            row(name)
            if name == "all-offload" and AT_ONCE in case.found:
                row(AT_ONCE)
    if show:
        print()
    if not case.found:
        raise InputError("seconds is too few for any plan; accepted: more seconds")


def plans_of_front(case: Case, wanted: Wanted, points: int, attended: Attended) -> list[ProvenPlan]:
    """Returns up to `points` plans from the fastest to that of least energy; none where the time does not suffice."""
    if not points:
        return []
    search = partial(front, case.graph, wanted.system, points, time_limit_s=wanted.optimum_s)
    try:
        return attended.do("plans from the fastest to that of least energy", search, points * wanted.optimum_s)
    except OutOfTimeError:
        case.unfinished.append("front")
        return []


def offload_folder(
    folder: Path, unsaid: Unsaid, options: argparse.Namespace, wanted: Wanted, attended: Attended, drawing: bool
) -> int:
    """Plans every application of a folder and returns the exit status.

    Finds the quick plans of all applications first, then the other plans.
    """
    cases: list[Case] = []
    skipped: dict[str, str] = {}
    not_reached: list[str] = []
    for path in sorted(folder.iterdir()):
        try:
            if path.is_dir():
                raise InputError("a folder; accepted: files")
            if path.suffix.lower() not in (*ENDINGS, *CONVERTED):
                raise InputError(f"not an application ({path.suffix or 'no ending'})")
            case = read_case(path, unsaid.of(kind_of(path)), options.pin, wanted, attended)
            for _ in find(case, quick_planners(case.graph, wanted), attended):
                pass
            cases.append(case)
        except InputError as error:
            skipped[path.name] = str(error)
            attended.say(f"skipped: {escaped(path.name)}: {error}")
        except OutOfTimeError:
            not_reached.append(path.name)
            attended.say(f"not reached: {escaped(path.name)}")
    cases = [case for case in cases if case.found]
    if not cases:
        raise InputError(f"graph is {folder}, a folder without an application; accepted: {FOLDER}")
    ambiguous_stems = {stem for stem, uses in Counter(case.path.stem for case in cases).items() if uses > 1}
    widths = [max(len(escaped(case.path.name)) for case in cases), *(max(len(name), 8) for name in SUMMARY[1:])]
    widths[2] = max(map(len, MEANINGS))
    if not options.json:
        print(f"{rule_of(wanted.system)}; {aim_of(wanted.goal)}\n")
        print(*table_head(SUMMARY, widths), sep="\n", flush=True)
    entries, faster = [], 0
    for case in cases:
        for _ in find(case, long_planners(case.graph, wanted, attended), attended):
            pass
        trade_off = plans_of_front(case, wanted, options.front, attended)
        best = best_of(case.found, wanted)
        faster += wanted.key(case.found[best].plan) < wanted.key(case.found.get("all-local", case.found[best]).plan)
        if options.json:
            entries.append({"file": case.path.name, **described(case, wanted, best, trade_off)})
            continue
        print(table_line(summary(case, wanted, best), widths), flush=True)
        if drawing:
            name = case.path.name if case.path.stem in ambiguous_stems else case.path.stem
            draw(case, wanted, best, trade_off, Path(options.out) / name, tell=False)
    if options.json:
        print(json.dumps({"files": entries, "skipped": skipped, "not_reached": not_reached}))
        return 0
    print(f"\n{len(cases)} planned, {faster} of them better than all-local; {len(skipped)} skipped", end="")
    print(f"; {len(not_reached)} not reached in {options.seconds:g} s" if not_reached else "")
    unfinished = sum(bool(case.unfinished) for case in cases)
    if unfinished:
        print(f"time ended (--seconds={options.seconds:g}) before {unfinished} of them had all plans")
    if drawing:
        print(f"drawn: pictures of each application in {escaped(str(options.out))}")
    print("(with one file in place of a folder, or with --json, the command prints where each task runs)")
    return 0


def system_of(options: argparse.Namespace) -> System:
    """Returns the system that the options describe.

    Raises:
        InputError: rates are missing or given twice, a server or powers are not numbers, or rules contradict each
            other.
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
    if options.channel not in (None, *RETURNING):
        raise InputError(
            f"channel is {shorten(options.channel)}; accepted: {', '.join(RETURNING)}, or --results=resident"
        )
    if options.channel is not None and options.results == RESULTS[0]:
        raise InputError(f"channel is {options.channel} with --results=resident; accepted: --results=return")
    results_stay = options.channel is None and options.results != RESULTS[1]
    power = Power() if options.power is None else Power(*numbers_of("power", options.power, "C,S,R,I"))
    return System(
        ue_hz=1e9 * options.ue_ghz,
        channel="resident" if results_stay else options.channel or "paper",
        radio=options.radio,
        backhaul_bps=1e6 * options.backhaul_mbps,
        power=power,
        **given,
    )


def numbers_of(field: str, text: str, form: str) -> list[float]:
    """Returns the numbers of a text of the form `form`; raises InputError for any other text."""
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    if len(values) != len(form.split(",")):
        raise InputError(f"{field} is {shorten(text)}; accepted: numbers {form}")
    return values


def objective_of(options: argparse.Namespace) -> Objective:
    """Returns the objective that the options describe; raises InputError as `Objective`."""
    deadline_s = None if options.deadline_ms is None else options.deadline_ms / 1e3
    return Objective(options.energy_weight, deadline_s)


def rule_of(system: System) -> str:
    """Returns the line that says which rule for results the plans follow."""
    if CHANNELS[system.channel].results_stay:
        rule = "resident: a result stays where it was computed until a task elsewhere needs it"
    else:
        rule = f"return ({system.channel}): all results are sent back to the device"
    servers = f"; {system.num_servers} servers, radio {system.radio}" if system.num_servers > 1 else ""
    return f"results {rule}{servers}"


def aim_of(goal: Objective) -> str:
    """Returns the line that says which plan is best."""
    if goal.deadline_s is not None:
        return f"best is the least energy within {1e3 * goal.deadline_s:g} ms"
    return f"best is the least makespan{f' + {goal.energy_weight:g} s/J x energy' if goal.energy_weight else ''}"


def about(case: Case) -> str:
    """Returns the line that describes the application."""
    graph = case.graph
    up, down = graph.upload_bytes.sum() / 1e6, graph.download_bytes.sum() / 1e6
    merged = f" (the file has {case.file_tasks})" if case.file_tasks not in (None, graph.num_tasks) else ""
    return (
        f"{escaped(str(case.path))}: {graph.num_tasks} tasks{merged}, {len(graph.edges)} edges, "
        f"{graph.cycles.sum() / 1e9:.4g} Gcycles; all offloaded, with all results returned: {up:.4g} MB up, "
        f"{down:.4g} MB down"
    )


def sizes_table(case: Case, wanted: Wanted) -> str:
    """Returns a table of the best quick plan for each number of tasks that the application can be merged into."""
    rows = [(found.graph.num_tasks, name, found) for name, found in case.sizes]
    rows += [(1, AT_ONCE, case.found[AT_ONCE])] if AT_ONCE in case.found else []
    table = format_table(
        ["tasks", "best quick plan", "makespan, ms", "energy, J"],
        [[str(size), name, f"{1e3 * found.plan.makespan:.1f}", f"{found.plan.energy:.3g}"]
         for size, name, found in rows],
    )  # fmt: skip
    planned = f"{case.graph.num_tasks} tasks are planned; --num_tasks=N plans N"
    return f"{table}\n(tasks are merged until at most this number is left; {planned})"


def cells(name: str, case: Case, wanted: Wanted) -> list[str]:
    """Returns a row of the table of plans."""
    plan, seconds, _ = case.found[name]
    local = case.found["all-local"].plan.makespan if "all-local" in case.found else 0.0
    return [
        as_found(name, plan),
        f"{1e3 * plan.makespan:.1f}",
        f"{100 * (plan.makespan / local - 1):+.1f} %" if local > 0 else "",
        f"{plan.energy:.3g}",
        f"{int((plan.placement > 0).sum())} of {len(plan.placement)}",
        f"{plan.evaluations:,}" if isinstance(plan, SearchedPlan) else "",
        f"{seconds:.2f}",
    ]


def summary(case: Case, wanted: Wanted, best: str) -> list[str]:
    """Returns a row of the table of files."""
    row = cells(best, case, wanted)
    return [escaped(case.path.name), str(len(case.found[best].plan.placement)), *row[:5]]


def conclusion(case: Case, wanted: Wanted, best: str, seconds: float | None = None) -> str:
    """Returns the lines below the table: what the rows mean, which plans time left out, and which plan is best."""
    bound = unproven(case, wanted)
    lines = ["makespan: from the start until the last result is at the device; found in: time with compiling"]
    known = [name for name in MEANINGS if any(row.split(" (")[0] == name for row in case.found)]
    lines += [f"{name}: {MEANINGS[name]}" for name in known if not (bound and name == "optimum")]
    if bound:
        lines.append(bound)
    if case.unfinished:
        lines.append(f"\ntime ended (--seconds={seconds:g}) before: {', '.join(case.unfinished)}")
    equal = [as_found(name, case.found[name].plan) for name in as_good_as(best, case.found, wanted)]
    others = f"; as good: {', '.join(equal)}" if equal else ""
    lines.append(
        f"\nthe best{' so far' if case.unfinished else ''} is {as_found(best, case.found[best].plan)}{others}:"
    )
    return "\n".join(lines)


def unproven(case: Case, wanted: Wanted) -> str:
    """Returns the lower bound that an unfinished proof gave; empty after a proof or where none was tried."""
    plan = case.found["optimum"].plan if "optimum" in case.found else None
    if not isinstance(plan, ProvenPlan) or plan.proven:
        return ""
    bound = f"{1e3 * plan.lower_bound:.1f} ms" if wanted.goal == Objective() else f"cost {plan.lower_bound:.4g}"
    return f"branch and bound, not proven: no plan in priority order is below {bound} (--optimum_s gives more time)"


def placements(graph: TaskGraph, plan: Plan, several: bool = False) -> str:
    """Returns a table of where each task runs and when it ends, in scheduling order; at most `MOST_SHOWN` rows."""
    done = plan.schedule.ue_end + plan.schedule.download_end
    rows = [
        [str(place), str(task), escaped(graph.names[task]), where(plan.placement[task], several),
         f"{1e3 * done[task]:.1f}" if done[task] or not plan.placement[task] else ""]
        for place, task in enumerate(plan.order[:MOST_SHOWN].tolist(), start=1)
    ]  # fmt: skip
    table = format_table(["place", "task", "name", "where", "result at the device, ms"], rows)
    left = graph.num_tasks - len(rows)
    return table + (f"\n... and {left} more (--json prints all)" if left else "")


def where(site: int, several: bool) -> str:
    """Returns the name of a site."""
    return "local" if site == LOCAL else f"server {site}" if several else "offload"


def front_table(plans: Sequence[ProvenPlan]) -> str:
    """Returns a table of makespan and energy with a row for each plan."""
    rows = [
        [f"{1e3 * plan.makespan:.1f}", f"{plan.energy:.4g}", f"{int((plan.placement > 0).sum())}",
         "yes" if plan.proven else "no"]
        for plan in plans
    ]  # fmt: skip
    return format_table(["makespan, ms", "energy, J", "offloaded", "proven"], rows)


def described(case: Case, wanted: Wanted, best: str, trade_off: Sequence[Plan]) -> dict[str, Any]:
    """Returns the JSON output of a case: seconds, joules, and task ids that index `tasks`."""
    goal = wanted.goal

    def entry(plan: Plan, seconds: float | None = None, graph: TaskGraph = case.graph) -> dict[str, Any]:
        values: dict[str, Any] = {
            "makespan_s": plan.makespan,
            "energy_j": plan.energy,
            "meets_deadline": goal.meets_deadline(plan.makespan),
            "placement": plan.placement.tolist(),
            "order": plan.order.tolist(),
        }
        if graph is not case.graph:
            values["tasks"] = list(graph.names)
        if seconds is not None:
            values["found_in_s"] = seconds
        if isinstance(plan, SearchedPlan):
            values["evaluations"] = plan.evaluations
        if isinstance(plan, ProvenPlan):
            bound = "lower_bound_s" if goal.deadline_s is None or not plan.meets_deadline else "lower_bound_j"
            values |= {"proven": plan.proven, bound: plan.lower_bound}
        return values

    schedule = case.found[best].plan.schedule
    ends = ("upload_end", "vm_end", "download_end", "ue_end")
    return {
        "tasks": list(case.graph.names),
        "pins": list(case.graph.pins),
        "system": dataclasses.asdict(wanted.system),
        "objective": dataclasses.asdict(goal),
        "plans": {name: entry(*found) for name, found in case.found.items()},
        "best": best,
        "schedule_of_best_s": {name: getattr(schedule, name).tolist() for name in ends},
        "sizes": [
            {"tasks": found.graph.num_tasks, "plan": name, "makespan_s": found.plan.makespan}
            for name, found in case.sizes
        ],
        "unfinished": case.unfinished,
        "front": [entry(plan) for plan in trade_off],
    }


def draw(
    case: Case, wanted: Wanted, best: str, trade_off: Sequence[ProvenPlan], stem: Path, *, tell: bool = True
) -> None:
    """Writes STEM-dag.png, STEM-schedule.png and, for a front, STEM-front.png; with `tell`, prints their paths."""
    plan, _, graph = case.found[best]
    title = f"{escaped(case.path.name)}, {as_found(best, plan)}: {1e3 * plan.makespan:.1f} ms, {plan.energy:.3g} J"
    figures = {"dag": lambda: pictures.dag_figure(graph, plan, title)}
    figures["schedule"] = lambda: pictures.schedule_figure(graph, wanted.system, plan, title)
    if trade_off:
        named = {as_found(other, found.plan): found.plan for other, found in case.found.items()}
        figures["front"] = lambda: pictures.front_figure(trade_off, named)
    for kind, figure in figures.items():
        path = stem.with_name(f"{stem.name}-{kind}.png")
        write_atomically(path, png(figure()))
        if tell:
            print(f"drawn: {escaped(str(path))}", flush=True)
