"""Times the simulator and a meta-iteration, beside the machine's own matmul rate.

    python launch/bench.py                                  all sections
    taskset -c 0 python launch/bench.py --only=simulator    one section, on one core

Absolute times mean something only beside the matmul rate of the same run.
"""

from __future__ import annotations

import json
from pathlib import Path

from _cli import run
from absl import flags

from mrlato_jax.errors import InputError, check_choice
from mrlato_jax.experiments import bench
from mrlato_jax.experiments.progress import format_table
from mrlato_jax.files import check_writable, write_atomically

FLAGS = flags.FLAGS
flags.DEFINE_list("only", list(bench.SECTIONS), "Sections to run, comma-separated.")
flags.DEFINE_string("json", None, "File for the record; - prints it as the last line of standard output.")


def main(_: list[str]) -> int:
    for name in FLAGS.only:
        check_choice("--only", name, tuple(bench.SECTIONS))
    if FLAGS.json and FLAGS.json != "-":
        path = Path(FLAGS.json).absolute()
        if path.is_dir() or not path.parent.is_dir():
            raise InputError(f"--json is {FLAGS.json!r}; accepted: a file in an existing folder, or -")
        check_writable(path.parent)
    record = {name: bench.SECTIONS[name]() for name in FLAGS.only}
    record["environment"] = bench.environment()
    rows = [[section, name, f"{value:.4g}"] for section in FLAGS.only for name, value in record[section].items()]
    rows += [["environment", name, f"{value}"] for name, value in record["environment"].items()]
    print(format_table(["section", "figure", "value"], rows), flush=True)
    text = json.dumps(record)
    if FLAGS.json == "-":
        print(text, flush=True)
    elif FLAGS.json:
        write_atomically(Path(FLAGS.json), text.encode() + b"\n")
    return 0


if __name__ == "__main__":
    run(main)
