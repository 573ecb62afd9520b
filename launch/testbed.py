"""Runs applications on a real UE and a real MEC host on this machine, and compares measured with predicted times.

    python launch/testbed.py --app=ar --runs=5
    python launch/testbed.py --app=exp2:n20:5 --app=app.json --channel=paper --channel=resident --out=FOLDER
    python launch/testbed.py --app=map_reduce --runs=3 --json=-

An application is a packaged example (ar, map_reduce, navigate, network), EXPERIMENT:SET:NUMBER (a DAG of data/), a file
of a DAG (.json, .dot), or your own application (package.module:name, file.py:name) with an example of its arguments. As
root, both ends get network namespaces with a shaped link between them. Without root, the link is loopback, paced by a
proxy.

Writes OUT/testbed.json, .md and a picture of both schedules for each application. After a stop, the same command
continues.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _cli import run
from absl import flags

from mrlato_jax.drawing import png
from mrlato_jax.edge import cases, comparison, sandbox, testbed
from mrlato_jax.edge.calibrate import calibrate
from mrlato_jax.edge.cases import Case
from mrlato_jax.edge.comparison import as_row
from mrlato_jax.edge.scheduler import HOW, Scheduler
from mrlato_jax.edge.testbed import Bed
from mrlato_jax.edge.ue import RULES
from mrlato_jax.errors import check_choice, check_number
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.mec.system import System
from mrlato_jax.progress import Progress, format_table
from mrlato_jax.results.record import GrowingRecord
from mrlato_jax.training.run_folder import session

ALONE = ("all_local", "all_offload")  # plans to compare with
CALIBRATED = " (calibrated)"

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("app", ["ar"], "An application; can be repeated.")
flags.DEFINE_integer("runs", 5, "Number of runs of each application with each plan.")
flags.DEFINE_multi_string("mode", [*ALONE, "heft", "search"], f"Methods of planning: {', '.join(HOW)}.")
flags.DEFINE_multi_string("channel", ["resident"], f"Channel rules of the plans: {', '.join(RULES)}.")
flags.DEFINE_string("policy", "general", "Packaged weights, or a run folder.")
flags.DEFINE_float("ue_ghz", 1.0, "Clock of the UE.")
flags.DEFINE_float("vm_ghz", 10.0, "Clock of the VM: the full clock of this machine counts as this.")
flags.DEFINE_float("uplink_mbps", 7.0, "Rate of the uplink.")
flags.DEFINE_float("downlink_mbps", 7.0, "Rate of the downlink.")
flags.DEFINE_enum("link", None, testbed.LINKS, "Kind of link. Default: namespaces if this machine supports them.")
flags.DEFINE_enum("vm", None, sandbox.KINDS, "Isolation of the VMs. Default: bubblewrap if this machine supports it.")
flags.DEFINE_bool("calibrate", True, "Also plan and run with the calibrated graph and system.")
flags.DEFINE_string("out", None, "Folder of the record, the table and the pictures. By default nothing is written.")
flags.DEFINE_enum("json", None, ["-"], "Print one line of JSON at the end.")


def main(_: list[str]) -> int:
    check_number("runs", FLAGS.runs, low=1, integer=True)
    for mode in FLAGS.mode:
        check_choice("mode", mode, HOW)
    for channel in FLAGS.channel:
        check_choice("channel", channel, RULES)
    hertz = {"ue_hz": 1e9 * FLAGS.ue_ghz, "vm_hz": 1e9 * FLAGS.vm_ghz}
    system = System(**hertz, uplink_bps=1e6 * FLAGS.uplink_mbps, downlink_bps=1e6 * FLAGS.downlink_mbps)
    out = Path(FLAGS.out).absolute() if FLAGS.out else None
    if out is not None:
        check_writable(out)
    bed = Bed(system, FLAGS.app, link=FLAGS.link, vm=FLAGS.vm)
    identity = {
        **{name: getattr(FLAGS, name) for name in ("runs", "mode", "channel", "policy", "calibrate", "link", "vm")},
        **{field: getattr(system, field) for field in ("ue_hz", "vm_hz", "uplink_bps", "downlink_bps")},
        "bed": {"link": bed.link, "vm": bed.vm, "clock": bed.clock, "cores": bed.cores},
        "version": session()["versions"]["mrlato_jax"],
    }
    record = GrowingRecord(out / "testbed.json", identity) if out is not None else None
    rows: list[dict[str, Any]] = []
    scheduler = Scheduler(FLAGS.policy)
    steps = len(FLAGS.app) * len(FLAGS.channel)
    with bed, Progress(steps, f"running on {bed.link}, clocks by {bed.clock}") as progress:
        for number, (app, channel) in enumerate(((a, k) for a in FLAGS.app for k in FLAGS.channel), start=1):
            done = record.rows.get(app, {}) if record is not None else {}
            if channel not in done:
                case = bed.case(app)
                row, shown = measured(bed, case, dataclasses.replace(case.system, channel=channel), scheduler)
                done = {channel: row}
                if record is not None and out is not None:
                    record.add(app, channel, row)
                    name = "".join(letter if letter.isalnum() else "-" for letter in case.name)
                    write_atomically(out / f"testbed-{name}-{channel}.png", png(shown))
            rows += done[channel]["runs"]
            off = comparison.errors(done[channel]["runs"])
            progress.update(number, app=app, **{"error %": off["median"]} if off else {})
    text = table(rows, bed)
    print(text)
    if out is not None:
        write_atomically(out / "testbed.md", f"# Measured beside predicted\n\n```\n{text}\n```\n".encode())
    if FLAGS.json:
        print(json.dumps({"link": bed.link, "vm": bed.vm, "clock": bed.clock, "runs": rows}))
    return 0


def measured(bed: Bed, case: Case, system: System, scheduler: Scheduler) -> tuple[dict[str, Any], Any]:
    """Runs one application under one channel rule; returns all runs and a picture of one."""
    plans = {mode: scheduler.plan(case.graph, system, mode) for mode in FLAGS.mode}
    named_runs = bed.runs(case, system, plans, FLAGS.runs)
    rows = [as_row(case, system, *run) for run in named_runs]
    every = [run for _, _, run in named_runs]
    row: dict[str, Any] = {"runs": rows, "lateness": comparison.lateness(every, case.graph, system)}
    if FLAGS.calibrate:
        known = calibrate(every, case.graph, system)
        again = {f"{mode}{CALIBRATED}": scheduler.plan(known.graph, known.system, mode) for mode in FLAGS.mode}
        more = bed.runs(case, known.system, again, FLAGS.runs)
        rows += [as_row(case._replace(graph=known.graph), known.system, *run) for run in more]
        fields = ("ue_hz", "vm_hz", "uplink_bps", "downlink_bps")
        row["calibration"] = {
            "runs": known.runs,
            "spread": dict(known.spread),
            **{field: cases.one(getattr(known.system, field)) for field in fields},
        }
    chosen = FLAGS.mode[-1]
    of_chosen = sorted((run for mode, _, run in named_runs if mode == chosen), key=lambda run: run.makespan)
    middle = of_chosen[len(of_chosen) // 2]
    model = comparison.predicted(middle, case.graph, system)
    title = f"{case.name}, {chosen}, {system.channel}"
    return row, comparison.both_schedules(middle, model, case.graph.names, title)


def table(rows: Sequence[Mapping[str, Any]], bed: Bed) -> str:
    """Makes a table of medians by application, rule and mode, and the errors of all runs."""
    header = ("application", "rule", "plan", "offloaded", "predicted ms", "measured ms", "off %")
    lines: list[tuple[str, ...]] = []
    seen = dict.fromkeys((row["app"], row["channel"], row["mode"]) for row in rows)
    for app, channel, mode in seen:
        of = [row for row in rows if (row["app"], row["channel"], row["mode"]) == (app, channel, mode)]
        model, real = (float(np.median([row[name] for row in of])) for name in ("predicted_s", "measured_s"))
        share = f"{of[0]['offloaded']}/{of[0]['tasks']}"
        off = f"{100 * (real / model - 1):+.1f}" if model else "-"
        lines.append((app, channel, mode, share, f"{1e3 * model:.1f}", f"{1e3 * real:.1f}", off))
    parts = [format_table(header, lines)]
    for after in (False, True):
        of = [row for row in rows if row["mode"].endswith(CALIBRATED) == after]
        errors = comparison.errors(of)
        if errors:
            name = "after calibration" if after else "as planned"
            parts.append(
                f"{name}: the absolute error of predictions is {errors['median']:.1f} % in the median, "
                f"{errors['p95']:.1f} % at the 95th percentile, over {errors['runs']} runs"
            )
    planned = [mode for mode in FLAGS.mode if mode not in ALONE]
    if planned and set(ALONE) <= set(FLAGS.mode):
        kept, asked = comparison.promises_kept(rows, planned[-1], ALONE)
        parts.append(
            f"{planned[-1]} was faster than {' and '.join(ALONE)} in {kept} of {asked} runs for which the model "
            f"predicts an advantage of at least {100 * comparison.CLEARLY:.0f} %"
        )
    parts.append(f"link: {bed.link}; VMs: {bed.vm}; the UE's clock: by {bed.clock}; cores of UE and VMs: {bed.cores}")
    return "\n".join(parts)


if __name__ == "__main__":
    run(main)
