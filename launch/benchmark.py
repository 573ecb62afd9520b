"""Runs every method on the benchmark of real applications; puts plans from other programs beside them.

    python launch/benchmark.py                      # half an hour on one core, most of it compiling
    python launch/benchmark.py --plans=mine.json    # scores the plans of a file, beside what is recorded

Writes OUT/benchmark.json, .md and .png. After a stop, the same command continues with the next method. Plans that are
better than the best known go into OUT/better-METHOD.json, for make_benchmark.py. With --plans it measures nothing,
prints the tables and writes none. `docs/benchmark.md` has the instances and the form of a file of
plans.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from _cli import LAUNCH, file_name, run, write_figure
from absl import flags

import mrlato_jax as mj
from mrlato_jax.dag.dataset import MANIFEST, data_folder
from mrlato_jax.errors import InputError, check_choice, shorten
from mrlato_jax.files import check_writable, load_json, write_atomically
from mrlato_jax.instances import benchmark as stored
from mrlato_jax.instances.verifying import read_plans
from mrlato_jax.learning.devices import drop_programs
from mrlato_jax.progress import format_table
from mrlato_jax.results import benchmark
from mrlato_jax.results.record import GrowingRecord
from mrlato_jax.results.reproduction import params_hash
from mrlato_jax.training.run_folder import session

ROWS, RECORD = "methods", "benchmark.json"
RESULTS = LAUNCH.parent / "data" / "results"
SHOWN = ("HEFT-based", "look-ahead", "learned: argmax", "learned: search", "optimum", "order search")

FLAGS = flags.FLAGS
flags.DEFINE_string("policy", "general", "Packaged weights, or a run folder.")
flags.DEFINE_multi_string("plans", [], "File of plans to verify and to show beside the methods; can be repeated.")
flags.DEFINE_multi_string("method", [], "Method to measure; can be repeated. Default: all, but none with --plans.")
flags.DEFINE_string("out", str(RESULTS), "Folder of the record, the tables and the figure.")


def main(_: list[str]) -> int:
    out = Path(FLAGS.out).absolute()
    check_writable(out)
    instances = mj.load_benchmark()
    given = [(file, *read_plans(file)) for file in FLAGS.plans]
    own = {name: benchmark.entered(plans, instances) for _file, name, plans in given}
    policy = mj.load_offloader(FLAGS.policy)
    paper = mj.load_offloader(benchmark.PAPER)
    ways = benchmark.ways(policy, paper)
    for number, (file, name, _plans) in enumerate(given):
        if name in ways or name in [other for _file, other, _plans in given[:number]]:
            raise InputError(f"{file}: method is {shorten(name)}; accepted: a name that no other row has")
    for name in FLAGS.method:
        check_choice("method", name, ways)
    identity = {
        "benchmark": load_json(data_folder() / MANIFEST, stored.AS_WRITTEN)[stored.FOLDER][stored.PROBLEMS],
        "policy": policy.label,
        "params_sha256": params_hash(policy.params),
        "paper_sha256": params_hash(paper.params),
        "version": session()["versions"]["mrlato_jax"],
    }
    wanted = FLAGS.method or ([] if own else list(ways))
    if wanted:
        record = GrowingRecord(out / RECORD, identity)
        for name, way in ways.items():
            if name in wanted and name not in record.rows.get(ROWS, {}):
                row, better = benchmark.measured(name, way, instances)
                if better:
                    content = {"method": name, "plans": better}
                    write_atomically(out / f"better-{file_name(name)}.json", (json.dumps(content) + "\n").encode())
                record.add(ROWS, name, row)
                drop_programs()  # other methods do not use them
        recorded = record.rows.get(ROWS, {})
    else:
        recorded = rows_beside(out, identity)
    rows = {name: recorded[name] for name in ways if name in recorded}
    proven = sum(one.proven for one in instances.values())
    shown = "\n\n".join(
        [
            f"{len(instances)} instances, {proven} of them proven optimal over all orders.",
            format_table(*benchmark.methods_table({**rows, **own}, instances)),
            "Jobs of a cluster, beside FlexDO:",
            format_table(*benchmark.beside_flexdo({**rows, **own}, instances)),
        ]
    )
    print(shown, flush=True)
    if own:
        return 0
    each = format_table(*benchmark.instances_table(rows, instances, [name for name in SHOWN if name in rows]))
    write_atomically(out / "benchmark.md", f"{shown}\n\nEach instance, % above the best known:\n\n{each}\n".encode())
    write_figure(out / "benchmark.png", lambda: benchmark.figure(rows, instances))
    return 0


def rows_beside(out: Path, identity: dict[str, Any]) -> dict[str, benchmark.Row]:
    """Returns the recorded rows of the folder, or else the project's; none if they are of other problems or weights."""
    folder = out if (out / RECORD).exists() else RESULTS
    try:
        found: dict[str, benchmark.Row] = GrowingRecord(folder / RECORD, identity).rows.get(ROWS, {})
    except InputError as error:
        print(f"without the other methods: {error}")
        return {}
    return found


if __name__ == "__main__":
    run(main)
