"""The commands `mrlato-mec` and `mrlato-ue`: an MEC host, and a UE that runs applications with it.

mrlato-mec certify --credentials=keys --user=alice --host=192.0.2.7
mrlato-mec serve --credentials=keys --listen=0.0.0.0:7000 --app=mrlato_jax.edge.apps.ar:app
mrlato-ue run --app=mrlato_jax.edge.apps.ar:app --mec=192.0.2.7:7000 --credentials=keys --user=alice
mrlato-mec revoke --credentials=keys --user=alice
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from mrlato_jax.dag.formats.json_graph import write_json
from mrlato_jax.edge import certificates, sandbox
from mrlato_jax.edge.cases import Case, Place, case
from mrlato_jax.edge.comparison import as_row
from mrlato_jax.edge.mec import Mec
from mrlato_jax.edge.scheduler import HOW, Scheduler
from mrlato_jax.edge.traffic import Rules
from mrlato_jax.edge.ue import RULES, LocalLostError, Run, ServerLostError, TaskFailedError, Ue
from mrlato_jax.errors import check_number, escaped, shorten
from mrlato_jax.files import parse_json
from mrlato_jax.inference.command import OneLineParser, reported
from mrlato_jax.inference.load import GENERAL
from mrlato_jax.mec.system import System


def mec(arguments: Sequence[str] | None = None) -> int:
    """Runs the command `mrlato-mec`; returns its exit status, 2 for bad input.

    Args:
        arguments: command-line arguments without the program's name; by default those of this process.
    """
    made = _parser("mrlato-mec")
    actions = made.add_subparsers(dest="action", required=True, metavar="ACTION")
    serve = actions.add_parser("serve", help="run an MEC host until it is interrupted", allow_abbrev=False)
    serve.add_argument(
        "--app", action="append", required=True, metavar="APP", help="package.module:name or file.py:name"
    )
    serve.add_argument("--credentials", required=True, metavar="FOLDER", help="folder that `certify` wrote")
    serve.add_argument("--listen", default="127.0.0.1:7000", metavar="HOST:PORT", help="port 0 takes a free one")
    serve.add_argument("--rules", metavar="FILE", help="JSON file with the users and limits [all users]")
    serve.add_argument(
        "--vm", choices=sandbox.KINDS, default=sandbox.KINDS[0], help="isolation of the VMs; `process` has none"
    )
    serve.add_argument("--core", type=int, metavar="N", help="processor core of the VMs")
    serve.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="scheduler of a Dask cluster whose workers run the VMs [this machine runs them]",
    )
    serve.add_argument("--json", metavar="-", choices=["-"], help="print the port as a line of JSON")
    serve.add_argument("--until-input-ends", action="store_true", help="end at the end of standard input")
    serve.set_defaults(run=_serve)
    certify = actions.add_parser("certify", help="make an authority and certificates", allow_abbrev=False)
    certify.add_argument("--credentials", required=True, metavar="FOLDER", help="folder to write to")
    certify.add_argument("--user", action="append", default=[], metavar="NAME", help="name of a user; can be repeated")
    certify.add_argument(
        "--host", action="append", default=[], metavar="NAME", help="name or address of the host; can be repeated"
    )
    certify.add_argument(
        "--renew", action="store_true", help="replace the users' certificates, and the host's with --host"
    )
    certify.set_defaults(run=_certify)
    revoke = actions.add_parser("revoke", help="revoke a user's certificates", allow_abbrev=False)
    revoke.add_argument("--credentials", required=True, metavar="FOLDER", help="folder that `certify` wrote")
    revoke.add_argument("--user", required=True, metavar="NAME", help="name of the user")
    revoke.set_defaults(run=_revoke)
    options = made.parse_args(arguments)
    return reported(lambda: options.run(options))


def ue(arguments: Sequence[str] | None = None) -> int:
    """Runs the command `mrlato-ue`; returns its exit status, 2 for bad input.

    Args:
        arguments: command-line arguments without the program's name; by default those of this process.
    """
    made = _parser("mrlato-ue")
    actions = made.add_subparsers(dest="action", required=True, metavar="ACTION")
    parse = actions.add_parser("parse", help="measure an application and write its DAG", allow_abbrev=False)
    run = actions.add_parser("run", help="run an application partly at an MEC host", allow_abbrev=False)
    system = System()
    for action in (parse, run):
        action.add_argument(
            "--app", required=True, metavar="APP", help="package.module:name, file.py:name, or a file of a DAG"
        )
        action.add_argument("--arguments", metavar="JSON", help="the application's arguments by name [its example's]")
        for end, hertz in (("ue", system.ue_hz), ("vm", system.vm_hz)):
            text = f"clock of the {end.upper()} [{hertz / 1e9:g}]"
            action.add_argument(f"--{end}_ghz", type=float, default=hertz / 1e9, metavar="X", help=text)
        share = "share of a core's time for tasks here; 1 on a device with the UE's clock [ue_ghz / vm_ghz]"
        action.add_argument("--share", type=float, metavar="X", help=share)
    parse.add_argument("--out", required=True, metavar="FILE", help="JSON file for mrlato-offload")
    parse.set_defaults(run=_parse)
    run.add_argument("--mec", metavar="HOST:PORT", help="the MEC host; without it, all tasks run here")
    run.add_argument("--credentials", metavar="FOLDER", help="folder with the user's certificate")
    run.add_argument("--user", default="ue", metavar="NAME", help="name of the user [ue]")
    run.add_argument("--mode", default="search", choices=HOW, help="method of planning [search]")
    run.add_argument("--policy", default=GENERAL, help="packaged weights, or a run folder [general]")
    run.add_argument("--channel", default="resident", choices=RULES, help="whether results stay or return [resident]")
    run.add_argument("--uplink_mbps", type=float, default=7.0, metavar="X", help="uplink rate, Mbit/s [7]")
    run.add_argument("--downlink_mbps", type=float, default=7.0, metavar="X", help="downlink rate, Mbit/s [7]")
    run.add_argument("--patience_s", type=float, metavar="X", help="after this time, the rest runs here [no limit]")
    run.add_argument("--runs", type=int, default=1, metavar="N", help="number of runs [1]")
    run.add_argument("--trace", action="store_true", help="print what each resource did, and when")
    run.add_argument("--json", metavar="-", choices=["-"], help="print a line of JSON at the end")
    run.set_defaults(run=_run)
    options = made.parse_args(arguments)
    return reported(lambda: options.run(options))


def _parse(options: argparse.Namespace) -> int:
    chosen = _case(options, System(ue_hz=1e9 * options.ue_ghz, vm_hz=1e9 * options.vm_ghz))
    write_json(chosen.graph, Path(options.out))
    print(f"{options.out}: {chosen.graph.num_tasks} tasks, {len(chosen.graph.edges)} edges")
    return 0


def _case(options: argparse.Namespace, system: System) -> Case:
    """Measures the application and returns its case; sets `options.share` to the UE's share if it is None."""
    if options.share is None:
        check_number("ue_ghz", options.ue_ghz, low=0.0, high=options.vm_ghz, open_low=True)
        options.share = options.ue_ghz / options.vm_ghz
    check_number("share", options.share, low=0.0, high=1.0, open_low=True)
    given = None
    if options.arguments is not None:
        given = parse_json(options.arguments.encode(), "arguments", "a JSON object of the application's arguments")
    return case(options.app, system, given, ue=Place(options.share))


def _run(options: argparse.Namespace) -> int:
    check_number("runs", options.runs, low=1, integer=True)
    if options.patience_s is not None:
        check_number("patience_s", options.patience_s, low=0.0, open_low=True)
    system = System(
        ue_hz=1e9 * options.ue_ghz, vm_hz=1e9 * options.vm_ghz, uplink_bps=1e6 * options.uplink_mbps,
        downlink_bps=1e6 * options.downlink_mbps, channel=options.channel,
    )  # fmt: skip
    chosen = _case(options, system)
    _say(f"planning {chosen.graph.num_tasks} tasks by {options.mode}")
    plan = Scheduler(options.policy).plan(chosen.graph, system, options.mode)

    async def runs() -> list[Run]:
        credentials = Path(options.credentials) if options.credentials else None
        equipment = Ue([chosen.app], options.mec, credentials, options.user, share=options.share, say=_say)
        async with equipment as ue:
            return [
                await ue.run(
                    chosen.program, chosen.graph, plan.placement, plan.order, chosen.arguments, channel=options.channel,
                    power=system.power, patience_s=options.patience_s,
                )
                for _ in range(options.runs)
            ]  # fmt: skip

    try:
        measured = asyncio.run(runs())
    except (TaskFailedError, ServerLostError, LocalLostError) as error:
        print(f"error: {escaped(str(error))}", file=sys.stderr)
        return 1
    rows = [as_row(chosen, system, options.mode, number, run) for number, run in enumerate(measured)]
    names = chosen.graph.names
    for row, run in zip(rows, measured, strict=True):
        model = row["predicted_s"]
        print(f"predicted {1e3 * model:.1f} ms, measured {1e3 * run.makespan:.1f} ms, {run.placement.sum()} offloaded")
        for seconds, event in run.events:
            print(f"  {1e3 * seconds:8.1f} ms  {escaped(event)}")
        for span in run.spans if options.trace else ():
            print(
                f"  {1e3 * span.start:8.1f} to {1e3 * span.end:8.1f} ms  {span.resource:8}  {escaped(names[span.task])}"
            )
    print(f"returned {shorten(measured[-1].returned, 300)}")
    if options.json:
        print(json.dumps({"app": chosen.name, "runs": rows}))
    return 0


def _say(line: str) -> None:
    print(escaped(line), file=sys.stderr, flush=True)


def _parser(name: str) -> OneLineParser:
    return OneLineParser(
        prog=name, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def _certify(options: argparse.Namespace) -> int:
    certificates.make(Path(options.credentials), options.user, options.host or None, renew=options.renew)
    print(f"{options.credentials} has certificates of {', '.join([*(options.host or ['the host']), *options.user])}")
    return 0


def _revoke(options: argparse.Namespace) -> int:
    certificates.revoke(Path(options.credentials), options.user)
    print(f"the certificate of {options.user} is revoked")
    return 0


def _serve(options: argparse.Namespace) -> int:
    rules = Rules.read(Path(options.rules)) if options.rules else Rules()
    asyncio.run(_serving(options, rules))
    return 0


async def _serving(options: argparse.Namespace, rules: Rules) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    host = Mec(
        options.app, Path(options.credentials), rules=rules, kind=options.vm, core=options.core, say=_say,
        dask=options.dask,
    )  # fmt: skip
    port = await host.start(options.listen)
    try:
        if options.json:
            print(json.dumps({"port": port}), flush=True)
        name = options.listen.rpartition(":")[0]
        where = f"on the workers of {options.dask}" if options.dask else f"with {sandbox.limits()}"
        _say(f"serving {', '.join(options.app)} at {name}:{port}, VMs by {options.vm} {where}")
        if options.until_input_ends:

            def watch() -> None:
                with contextlib.suppress(OSError):
                    while os.read(0, 4096):  # a buffered read could block Python's exit
                        pass
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(over.set)

            threading.Thread(target=watch, daemon=True).start()
        await over.wait()
    finally:
        await host.stop()
        counts = ", ".join(f"{count} {name}" for name, count in [*host.counts.items(), *host.refused().items()])
        _say(f"served {counts or 'nobody'}")


if __name__ == "__main__":
    sys.exit(mec())
