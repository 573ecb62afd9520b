"""Searches, for each method, for the instance on which its plan is farthest above the optimum over all orders.

    python launch/adversarial.py
    python launch/adversarial.py --method=HEFT-based --steps=1000 --out=FOLDER

Annealing changes applications of 10 tasks and their system within stated ranges (`mrlato_jax/results/adversarial.py`);
every optimum is proven. Needs ortools (extra `exact`). Takes a quarter of an hour on one core. Writes
OUT/adversarial.json, .md, and an application for each method into OUT/adversarial/. After a stop, the same command
continues with the next method.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _cli import LAUNCH, file_name, run
from absl import flags

import mrlato_jax as mj
from mrlato_jax.errors import check_choice, check_number
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.progress import Progress, format_table
from mrlato_jax.results import adversarial, benchmark
from mrlato_jax.results.record import GrowingRecord
from mrlato_jax.results.reproduction import params_hash
from mrlato_jax.training.run_folder import session

ROWS = "worst"

FLAGS = flags.FLAGS
flags.DEFINE_string("policy", "general", "Packaged weights, or a run folder.")
flags.DEFINE_multi_string("method", [], "Method, by its name in the benchmark's table; can be repeated. Default: all.")
flags.DEFINE_integer("steps", adversarial.STEPS, "Number of changes of each restart.")
flags.DEFINE_integer("restarts", adversarial.RESTARTS, "Number of first instances.")
flags.DEFINE_integer("seed", 0, "Seed of the search.")
flags.DEFINE_string(
    "out", str(LAUNCH.parent / "data" / "results"), "Folder of the record, the table and the instances."
)


def main(_: list[str]) -> int:
    for name in ("steps", "restarts"):
        check_number(name, getattr(FLAGS, name), low=1, integer=True)
    check_number("seed", FLAGS.seed, low=0, integer=True)
    out = Path(FLAGS.out).absolute()
    check_writable(out)
    policy = mj.load_offloader(FLAGS.policy)
    ways = benchmark.ways(policy, policy)
    del ways[f"{benchmark.PAPER}: search"]  # such weights do not know where results stay
    for name in FLAGS.method:
        check_choice("method", name, ways)
    identity = {
        "policy": policy.label,
        "params_sha256": params_hash(policy.params),
        "steps": FLAGS.steps,
        "restarts": FLAGS.restarts,
        "seed": FLAGS.seed,
        "version": session()["versions"]["mrlato_jax"],
    }
    record = GrowingRecord(out / "adversarial.json", identity)
    (out / "adversarial").mkdir(exist_ok=True)
    for name, way in ways.items():
        if name in record.rows.get(ROWS, {}) or (FLAGS.method and name not in FLAGS.method):
            continue
        with Progress(FLAGS.steps * FLAGS.restarts, f"against {name}") as progress:

            def show(tried: int, gap: float, progress: Progress = progress) -> None:
                progress.update(tried, gap=f"{100 * gap:.1f} %")

            found = adversarial.worst(way, FLAGS.seed, FLAGS.steps, FLAGS.restarts, show)
        file = f"adversarial/{file_name(name)}.json"
        mj.write_json(found.case.problem.graph, out / file)
        record.add(ROWS, name, described(found, file))
    rows = {name: record.rows[ROWS][name] for name in ways if name in record.rows.get(ROWS, {})}
    shown = format_table(*table(rows))
    print(shown, flush=True)
    write_atomically(out / "adversarial.md", f"{shown}\n".encode())
    return 0


def described(found: adversarial.Worst, file: str) -> dict[str, Any]:
    """Returns the entry of a method in the record."""
    plan, case = found.best.plan, found.case
    return {
        "gap": found.gap,
        "cost": found.cost,
        "best_known": plan.makespan,
        "lower_bound": found.best.lower_bound,
        "proven": found.best.proven,
        "tried": found.tried,
        "application": file,
        "system": case.system,
        "placement": plan.placement.tolist(),
        "order": plan.order.tolist(),
    }


def table(rows: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Makes header and cells: the worst gap of each method and the system of that instance."""
    header = [
        "method",
        "worst gap, %",
        "proven",
        "edges",
        "VM GHz",
        "up Mbit/s",
        "down Mbit/s",
        "on the server, best plan",
    ]
    cells = []
    for name, row in rows.items():
        system = row["system"]
        edges = len(mj.read_json(Path(FLAGS.out).absolute() / row["application"]).edges)
        cells.append(
            [
                name,
                f"{100 * row['gap']:.1f}",
                "yes" if row["proven"] else "no",
                str(edges),
                f"{system['vm_hz'] / 1e9:.1f}",
                f"{system['uplink_bps'] / 1e6:.1f}",
                f"{system['downlink_bps'] / 1e6:.1f}",
                f"{sum(site > 0 for site in row['placement'])} of {len(row['placement'])}",
            ]
        )
    return header, cells


if __name__ == "__main__":
    run(main)
