"""Measures the general policy on real applications: gap of its plans to the best plan of any planner.

    python launch/real_graphs.py --files=FOLDER

Plans every .onnx and WfFormat .json file of a folder, coarsened to --num_tasks, on two systems each, with the policy's
modes and with all planners. If the package onnx is installed, its nine networks are planned, too. Prints a table and
writes OUT/real-graphs.json and .md. Of the files, the record has only names and hashes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from _cli import LAUNCH, run
from absl import flags

import mrlato_jax as mj
from mrlato_jax.errors import InputError, check_number
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.inference.offloader import MODES
from mrlato_jax.planners import Plan, look_ahead
from mrlato_jax.progress import Progress, format_table
from mrlato_jax.results.reproduction import params_hash
from mrlato_jax.training.run_folder import session

# Networks: a phone at 1 GHz with 2 multiply-accumulates per cycle, and two wireless links. Workflows have gigabytes of
# data: the same clocks, and two wired links.
CYCLES_PER_MAC = 0.5
MACHINE_HZ = 2.4e9
LINKS_MBPS = {".onnx": (100, 400), ".json": (100, 1000)}

FLAGS = flags.FLAGS
flags.DEFINE_string("files", None, "Folder of .onnx and WfFormat .json files.")
flags.DEFINE_integer("num_tasks", 30, "Coarsen to at most this number of tasks.")
flags.DEFINE_string("policy", "general", "Packaged weights, or a run folder.")
flags.DEFINE_string("out", str(LAUNCH.parent / "data" / "results"), "Folder of the record and the table.")


def main(_: list[str]) -> int:
    check_number("num_tasks", FLAGS.num_tasks, low=1, integer=True)
    out = Path(FLAGS.out).absolute()
    check_writable(out)
    if FLAGS.files and not Path(FLAGS.files).is_dir():
        raise InputError(f"--files is {FLAGS.files}; accepted: a folder")
    own = Path(FLAGS.files).glob("*") if FLAGS.files else ()
    files = bundled() + sorted(path for path in own if path.suffix in LINKS_MBPS)
    if not files:
        raise InputError(
            "--files has no .onnx or .json files, and neither has the package onnx; accepted: a folder with some"
        )
    policy, rows = mj.load_offloader(FLAGS.policy), []
    with Progress(len(files), "planning real graphs") as progress:
        for number, path in enumerate(files, start=1):
            rows += [measured(path, rate, policy) for rate in LINKS_MBPS[path.suffix]]
            progress.update(number, file=path.name)
    table = format_table(*graphs_table(rows))
    print(table)
    named = {"policy": policy.label, "params_sha256": params_hash(policy.params), "num_tasks": FLAGS.num_tasks}
    record = {**named, **session(), "rows": rows}
    write_atomically(out / "real-graphs.json", json.dumps(record, indent=1).encode() + b"\n")
    write_atomically(out / "real-graphs.md", f"{table}\n".encode())
    return 0


def bundled() -> list[Path]:
    """Returns the networks in the package onnx."""
    spec = importlib.util.find_spec("onnx")
    if spec is None or spec.origin is None:
        return []
    return sorted((Path(spec.origin).parent / "backend" / "test" / "data" / "light").glob("light_*.onnx"))


def measured(path: Path, rate_mbps: float, policy: mj.Offloader) -> dict[str, Any]:
    """Plans one application on one system; returns makespans in milliseconds."""
    system = mj.System(uplink_bps=1e6 * rate_mbps, downlink_bps=1e6 * rate_mbps)
    if path.suffix == ".onnx":
        graph = mj.read_onnx(path, cycles_per_mac=CYCLES_PER_MAC, num_tasks=FLAGS.num_tasks)
    else:
        graph = mj.read_wfformat(path, machine_hz=MACHINE_HZ, num_tasks=FLAGS.num_tasks)
    planners: dict[str, Callable[[], Plan]] = {
        "all-local": lambda: mj.all_local(graph, system),
        "all-offload": lambda: mj.all_offload(graph, system),
        "greedy": lambda: mj.greedy(graph, system),
        "HEFT-based": lambda: mj.heft(graph, system),
        "look-ahead": lambda: look_ahead(graph, system),
        "optimum": lambda: mj.optimum(graph, system, time_limit_s=5.0),
        "order search": lambda: mj.order_search(graph, system),
        **{mode: partial(policy.plan, graph, system, mode) for mode in MODES},
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", mj.OutsideTrainingWarning)
        spans = {name: 1e3 * planner().makespan for name, planner in planners.items()}
    return {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "mbps": rate_mbps,
        "tasks": graph.num_tasks,
        "edges": len(graph.edges),
        "warning": next((str(w.message) for w in caught if w.category is mj.OutsideTrainingWarning), ""),
        "makespan_ms": spans,
    }


def graphs_table(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Makes header and cells: percent above the best plan of any planner; the last line has means."""
    planners = ("all-local", "all-offload", "HEFT-based", "look-ahead", *MODES, "optimum", "order search")
    gaps = [
        [100 * (row["makespan_ms"][name] / min(row["makespan_ms"].values()) - 1) for name in planners] for row in rows
    ]
    cells = [
        [row["file"], str(row["tasks"]), f"{row['mbps']}", *(f"{gap:.1f}" for gap in gaps_of_row), _unlike(row)]
        for row, gaps_of_row in zip(rows, gaps, strict=True)
    ]
    means = [f"{mean:.1f}" for mean in np.mean(gaps, axis=0)]
    header = ["% above the best found", "tasks", "Mbit/s", *planners, "unlike training"]
    return header, [*cells, ["mean", "", "", *means, ""]]


def _unlike(row: dict[str, Any]) -> str:
    return "yes" if row["warning"] else ""


if __name__ == "__main__":
    run(main)
