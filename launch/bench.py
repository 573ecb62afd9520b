"""Times the simulator, training, compiling and planning, beside the machine's own matmul rate.

    python launch/bench.py                                  all sections, a few minutes
    python launch/bench.py --full                           also what takes long: 1000 tasks a DAG, 10,000 DAGs
    taskset -c 0 python launch/bench.py --only=simulator    one section, on one core
    python launch/bench.py --record=bench.json              the first run writes the record, later ones compare with it

Sections: matmul, the machine's rate of matrix products; simulator, beside plain Python; episodes, the environment's
decisions side by side and one by one; meta_iteration, the workload of MRLCO's public code, whole and in parts;
compile, cold and with a persistent cache, each in a fresh process; planning, by the argmax policy; offloader, the call
that other programs make, its first one included; growth, against n, DAGs, rollouts, learning tasks and devices, with a
figure beside the JSON.

Where several sections run, each has a process of its own, so that peak_memory_gb (resident memory of the host,
getrusage) is the section's alone. Every section also has the matmul rate that its process met right after it: absolute
times mean something only beside that, and records are compared both as they are and at equal matmul rate.
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
flags.DEFINE_list("only", list(SECTIONS), "Sections to run, comma-separated.")
flags.DEFINE_string("json", None, "File for the record; - prints it as the last line of standard output.")
flags.DEFINE_string(
    "record",
    None,
    "File of a stored record. Where there is none yet, this run's is written there; else the figures are shown as "
    "ratios to it, and it stays as it is.",
)
flags.DEFINE_bool("overwrite", False, "After comparing, put this run's record in the place of the one in --record.")
flags.DEFINE_bool(
    "full",
    False,
    "Also measure what takes long: 1000 tasks a DAG, plans of 10,000 DAGs, 500 tasks in each mode (half an hour).",
)
flags.DEFINE_string(
    "peer",
    None,
    "Folder of a checkout of MRLCO's public code (github.com/linkpark/metarl-offloading), whose own simulator is then "
    "imported and timed beside ours.",
)


def main(_: list[str]) -> int:
    for name in FLAGS.only:
        check_choice("--only", name, tuple(SECTIONS))
    output = None if FLAGS.json in (None, "-") else _output("json")
    record_file = None if FLAGS.record is None else _output("record")
    if FLAGS.overwrite and record_file is None:
        raise InputError("--overwrite has no --record beside it; accepted: with the file of the record to replace")
    if output is not None and output == record_file:
        raise InputError(f"--json and --record both name {output}; accepted: two files, or --record alone")
    stored = read_record(record_file) if record_file is not None and record_file.exists() else None
    peer = None if FLAGS.peer is None else load_peer(Path(FLAGS.peer))
    oracle = ORACLE if ORACLE.is_file() else None
    if oracle is None and "simulator" in FLAGS.only:
        print(f"plain Python is not timed: {ORACLE} is not here", file=sys.stderr)

    failed: list[str] = []
    if len(FLAGS.only) == 1:
        make_planner = lambda policy, params: partial(Offloader(policy, params, "bench").plan, system=System())  # noqa: E731
        load_planner = lambda: partial(load_offloader().plan, system=System())  # noqa: E731
        record = run_section(FLAGS.only[0], Options(make_planner, load_planner, FLAGS.full, oracle, peer))
    else:
        record, failed = _run_apart(FLAGS.only)
    print(bench_table(record), flush=True)
    if stored is not None:
        ratios, warnings = compare(stored, record)
        print(f"\nbeside {record_file}:\n{ratios}")
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
        print(f"error: no figures of {', '.join(failed)}: what ended it stands above", file=sys.stderr)
    return 1 if failed else 0


def _output(flag: str) -> Path:
    """The file that a flag names, once it is known that it can be written."""
    name = FLAGS[flag].value
    path = Path(name).absolute()
    if path.is_dir() or not path.parent.is_dir():
        raise InputError(f"--{flag} is {name!r}; accepted: a file in an existing folder{', or -' * (flag == 'json')}")
    check_writable(path.parent)
    return path


def _run_apart(names: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Each section in a process of its own; this one never touches a device, which may admit one process only.

    Returns:
        The record of the sections that ended well, and the names of the others with how they ended.
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
        raise OSError(f"no figures of {', '.join(failed)}: what ended it stands above")
    return {**record, "environment": environment}, failed


def _draw(record: dict[str, Any], files: list[Path]) -> str:
    """Writes growth.png beside the record; a line on where it is, or why it is not."""
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
