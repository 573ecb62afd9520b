"""Times the simulator, training, compilation and planning, and measures the machine's matmul rate.

    python launch/bench.py                                  all sections, a few minutes
    python launch/bench.py --full                           also long measurements: 1000 tasks per DAG, 10,000 DAGs
    taskset -c 0 python launch/bench.py --only=simulator    one section, on one core
    python launch/bench.py --record=bench.json              the first run writes the record, later ones compare with it

Sections: matmul, the machine's rate of matrix products; simulator, compared with plain Python; episodes, the
environment's decisions, side by side and one by one; meta_iteration, the workload of MRLCO's public code, whole and in
parts; compile, with an empty and with a filled persistent cache, each in a fresh process; planning, argmax plans;
offloader, calls of the public `plan`, including the first one; growth, over n, DAGs, rollouts, learning tasks and
devices, with a figure next to the JSON file.

With several sections, each runs in its own process, so that peak_memory_gb (resident memory of the host, getrusage)
belongs to that section alone. Every section also has the matmul rate of its process, measured right after it. Absolute
times depend on that rate, so records are compared both directly and scaled to equal matmul rates.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from _cli import run
from absl import flags

from mrlato_jax.bench.figure import growth_figure
from mrlato_jax.bench.peer import load_peer
from mrlato_jax.bench.report import bench_table, compare, read_record
from mrlato_jax.bench.sections import SECTIONS, Options, run_section
from mrlato_jax.errors import InputError, check_choice
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.inference.load import load_offloader
from mrlato_jax.inference.offloader import Offloader
from mrlato_jax.mec.system import System
from mrlato_jax.processes import run_python

ORACLE = Path(__file__).resolve().parents[1] / "tests" / "oracle.py"

FLAGS = flags.FLAGS
flags.DEFINE_list("only", [], "Sections to run, comma-separated; by default all.")
flags.DEFINE_string("json", None, "File for the record; - prints it as the last line of standard output.")
flags.DEFINE_string(
    "record",
    None,
    "File of a stored record. If the file does not exist, this run's record is written to it. Otherwise this run is "
    "compared with the stored record, which is kept.",
)
flags.DEFINE_bool("overwrite", False, "After the comparison, replace the record in --record by this run's.")
flags.DEFINE_bool(
    "full",
    False,
    "Also run long measurements: 1000 tasks per DAG, plans of 10,000 DAGs, 500 tasks in each mode (half an hour).",
)
flags.DEFINE_string(
    "peer",
    None,
    "Folder of a checkout of MRLCO's public code (github.com/linkpark/metarl-offloading). Its simulator is imported "
    "and timed, too.",
)


def main(_: list[str]) -> int:
    chosen = FLAGS.only or list(SECTIONS)
    for name in chosen:
        check_choice("--only", name, tuple(SECTIONS))
    output = None if FLAGS.json in (None, "-") else _output("json")
    record_file = None if FLAGS.record is None else _output("record")
    if FLAGS.overwrite and record_file is None:
        raise InputError("--overwrite is given without --record; accepted: with the file of the record to replace")
    if output is not None and output == record_file:
        raise InputError(f"--json and --record both name {output}; accepted: two files, or --record alone")
    stored = read_record(record_file) if record_file is not None and record_file.exists() else None
    peer = None if FLAGS.peer is None else load_peer(Path(FLAGS.peer))
    oracle = ORACLE if ORACLE.is_file() else None
    if oracle is None and "simulator" in chosen:
        print(f"plain Python is not timed: {ORACLE} is missing", file=sys.stderr)

    failed: list[str] = []
    if len(chosen) == 1:
        make_planner = lambda policy, params: partial(Offloader(policy, params, "bench").plan, system=System())  # noqa: E731
        load_planner = lambda: partial(load_offloader().plan, system=System())  # noqa: E731
        record = run_section(chosen[0], Options(make_planner, load_planner, FLAGS.full, oracle, peer))
    else:
        record, failed = _run_apart(chosen)
    print(bench_table(record), flush=True)
    if stored is not None:
        ratios, warnings = compare(stored, record)
        print(f"\ncompared with {record_file}:\n{ratios}")
        for warning in warnings:
            print(f"warning: {warning}")
    files = [output] if output else []
    if record_file is not None and (stored is None or FLAGS.overwrite):
        files.append(record_file)
    for path in files:
        write_atomically(path, json.dumps(record).encode() + b"\n")
    if "growth" in record:
        print(_draw(record, files), flush=True)
    if FLAGS.json == "-":
        print(json.dumps(record), flush=True)
    if failed:
        print(f"error: no results of {', '.join(failed)}; the reason is above", file=sys.stderr)
    return 1 if failed else 0


def _output(flag: str) -> Path:
    """Returns the file that a flag names, after checking that it can be written."""
    name = FLAGS[flag].value
    path = Path(name).absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"--{flag} is {name!r}; accepted: a file in an existing folder{', or -' * (flag == 'json')}")
    check_writable(path.parent)
    return path


def _run_apart(names: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Runs each section in its own process. This process uses no device, since a device may admit only one process.

    Returns:
        The record of the successful sections, and the names of the others with their exit status.
    """
    record: dict[str, Any] = {}
    environment: dict[str, Any] = {}
    failed = []
    for name in names:
        passed = [f"--{flag}={FLAGS[flag].value}" for flag in ("peer",) if FLAGS[flag].value is not None]
        ran = run_python(Path(__file__), f"--only={name}", "--json=-", *passed, *(["--full"] * FLAGS.full))
        if ran.returncode:
            failed.append(f"{name} (exit status {ran.returncode})")
            continue
        part = json.loads(ran.stdout.splitlines()[-1])
        record[name] = part[name]
        peak = max(part["environment"]["peak_memory_gb"], environment.get("peak_memory_gb", 0.0))
        environment = {**part["environment"], "peak_memory_gb": peak}
    if not record:
        raise OSError(f"no results of {', '.join(failed)}; the reason is above")
    return {**record, "environment": environment}, failed


def _draw(record: dict[str, Any], files: list[Path]) -> str:
    """Writes growth.png next to the record; returns a line of text with its path, or why there is none."""
    if not files:
        return "no figure of growth: name a file for the record (--json, --record)"
    environment = record["environment"]
    subtitle = f"{environment['device']}, {environment['cores']} cores, JAX {environment['jax']}"
    try:
        image = growth_figure(record["growth"], subtitle)
    except ImportError:
        return "no figure of growth: matplotlib is not installed (pip install 'mrlato-jax[plots]')"
    path = files[0].with_name("growth.png")
    write_atomically(path, image)
    return f"figure of growth: {path}"


if __name__ == "__main__":
    run(main)
