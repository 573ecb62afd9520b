"""Stress tests of an MEC host on this machine: overhead, a Dask cluster, throughput, growth, faults, hostile messages.

    python launch/stress.py
    python launch/stress.py --part=faults --faults=200 --out=FOLDER

Host and UEs share this process and an unpaced loopback; VMs and local executors are separate processes. All parts at
their full sizes take some ten minutes. Writes OUT/stress.json; recorded parts are not repeated.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from _cli import run
from absl import flags

from mrlato_jax.edge import sandbox, stress
from mrlato_jax.errors import check_choice, check_number
from mrlato_jax.files import check_writable
from mrlato_jax.progress import Progress, format_table
from mrlato_jax.results.record import GrowingRecord
from mrlato_jax.training.run_folder import session

PARTS = ("overhead", "cluster", "throughput", "growth", "faults", "hostility")

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("part", list(PARTS), f"Parts to run: {', '.join(PARTS)}.")
flags.DEFINE_enum("vm", "bubblewrap", sandbox.KINDS, "Isolation of the VMs.")
flags.DEFINE_float("seconds", 10.0, "Duration of the throughput part, seconds.")
flags.DEFINE_integer("users", 8, "Number of UEs in the throughput part.")
flags.DEFINE_integer("tasks", 100_000, "Number of tasks in the growth part.")
flags.DEFINE_integer("faults", 200, "Number of injected faults.")
flags.DEFINE_integer("messages", 10_000, "Number of hostile messages.")
flags.DEFINE_string("out", None, "Folder of the record. By default nothing is written.")


def main(_: list[str]) -> int:
    for part in FLAGS.part:
        check_choice("part", part, PARTS)
    check_number("seconds", FLAGS.seconds, low=0.0, open_low=True)
    for name in ("users", "tasks", "faults", "messages"):
        check_number(name, getattr(FLAGS, name), low=1, integer=True)
    sandbox.check_kind(FLAGS.vm)
    out = Path(FLAGS.out).absolute() if FLAGS.out else None
    record = None
    if out is not None:
        check_writable(out)
        sizes = {name: getattr(FLAGS, name) for name in ("vm", "seconds", "users", "tasks", "faults", "messages")}
        identity = {**sizes, "limits": sandbox.limits(), "version": session()["versions"]["mrlato_jax"]}
        record = GrowingRecord(out / "stress.json", identity)
    figures: dict[str, dict[str, Any]] = {}
    for part in FLAGS.part:
        known = record.rows.get(part, {}) if record is not None else {}
        row = known.get("measured") or measured(part)
        if record is not None and not known:
            record.add(part, "measured", row)
        figures[part] = row
    lines = [(part, name, str(value)) for part, row in figures.items() for name, value in row.items()]
    print(format_table(("part", "what", "figure"), lines))
    return 0


def measured(part: str) -> dict[str, Any]:
    """Runs one part; shows progress."""
    totals = {"growth": FLAGS.tasks, "faults": FLAGS.faults, "hostility": FLAGS.messages}
    with (
        tempfile.TemporaryDirectory(prefix="mrlato-stress-") as folder,
        Progress(totals.get(part, 1), part) as progress,
    ):
        parts: dict[str, Callable[[], Coroutine[Any, Any, dict[str, Any]]]] = {
            "overhead": lambda: stress.overhead(Path(folder), FLAGS.vm),
            "cluster": lambda: stress.cluster(Path(folder), FLAGS.vm),
            "throughput": lambda: stress.throughput(Path(folder), FLAGS.vm, FLAGS.users, FLAGS.seconds),
            "growth": lambda: stress.growth(Path(folder), FLAGS.vm, FLAGS.tasks, progress.update),
            "faults": lambda: stress.faults(Path(folder), FLAGS.vm, FLAGS.faults, progress.update),
            "hostility": lambda: stress.hostility(Path(folder), FLAGS.vm, FLAGS.messages, progress.update),
        }
        return asyncio.run(parts[part]())


if __name__ == "__main__":
    run(main)
