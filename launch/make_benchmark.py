"""Makes the stored benchmark: its problems from published facts, then the best known plans and bounds.

    python launch/make_benchmark.py --wfinstances=FOLDER --out=OUT   # a checkout of github.com/wfcommons/WfInstances
    python launch/make_benchmark.py --check                          # derives all but the workflows; writes nothing
    python launch/make_benchmark.py --proof_s=300                    # goes on with plans and bounds that are not proven
    python launch/make_benchmark.py --plans=better-plans.json --proof_s=20   # plans that benchmark.py found

Each instance is written at once: after a stop, the command without --wfinstances continues.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from _cli import LAUNCH, run
from absl import flags

import mrlato_jax as mj
from mrlato_jax.dag.dataset import MANIFEST
from mrlato_jax.errors import InputError, check_choice, check_number
from mrlato_jax.files import check_writable, load_json
from mrlato_jax.instances import benchmark, catalog
from mrlato_jax.instances.references import Problem, reference
from mrlato_jax.instances.verifying import read_plans, recomputed
from mrlato_jax.planners.plan import Plan
from mrlato_jax.progress import Progress

FLAGS = flags.FLAGS
flags.DEFINE_string("wfinstances", None, "Folder of WfInstances: makes new problems, and begins their plans anew.")
flags.DEFINE_bool("check", False, "Derive the applications anew and compare them; write nothing.")
flags.DEFINE_string("plans", None, "File of plans, as of benchmark.py: only its instances go on, from these plans.")
flags.DEFINE_bool("missing", False, "Leave instances as they are that have a plan, proven or not.")
flags.DEFINE_float("search_s", 10.0, "Time limit of each optimum of an order, seconds.")
flags.DEFINE_float("proof_s", 20.0, "Time limit of each bound for all orders, seconds.")
flags.DEFINE_integer("workers", 2, "Threads of a bound.")
flags.DEFINE_string("out", str(LAUNCH.parent / "data"), "Folder with manifest.json.")


def main(_: list[str]) -> int:
    for name in ("search_s", "proof_s"):
        check_number(name, getattr(FLAGS, name), low=0.0, open_low=True)
    check_number("workers", FLAGS.workers, low=1, integer=True)
    root = Path(FLAGS.out).absolute()
    if FLAGS.check:
        return compared(root)
    check_writable(root)
    try:
        load_json(root / MANIFEST, benchmark.AS_WRITTEN)
    except FileNotFoundError:
        raise InputError(f"out is {root}, which has no {MANIFEST}; accepted: a folder of data sets") from None
    place = root / benchmark.FOLDER
    if FLAGS.plans is not None and FLAGS.wfinstances is not None:
        raise InputError(f"plans is {FLAGS.plans} with --wfinstances; accepted: plans of the stored problems")
    if FLAGS.wfinstances is not None:
        graphs = {**catalog.derived_applications(), **workflows(Path(FLAGS.wfinstances))}
        benchmark.write_problems(root, problems(), graphs)
        (place / benchmark.REFERENCES).unlink(missing_ok=True)  # of other problems
    stored = load_json(place / benchmark.PROBLEMS, benchmark.AS_WRITTEN)
    asked = {name: problem_of(place, stored, fields) for name, fields in stored["instances"].items()}
    known: dict[str, dict[str, Plan]] = {}
    if FLAGS.plans is not None:
        method, plans = read_plans(FLAGS.plans)
        for name, plan in plans.items():
            check_choice("instance", name, asked)
            known[name] = {method: recomputed(name, asked[name], plan)}
    path = place / benchmark.REFERENCES
    rows: dict[str, Any] = load_json(path, benchmark.AS_WRITTEN)["instances"] if path.exists() else {}
    if FLAGS.missing:
        asked = {name: problem for name, problem in asked.items() if name not in rows}
    if FLAGS.plans is not None:
        asked = {name: problem for name, problem in asked.items() if name in known}
    with Progress(max(1, len(asked)), "plans and bounds") as progress:
        for number, (name, problem) in enumerate(asked.items(), start=1):
            limits = FLAGS.search_s, FLAGS.proof_s, FLAGS.workers
            rows[name] = reference(problem, rows.get(name), *limits, known.get(name, {}))
            benchmark.write_references(root, {key: rows[key] for key in stored["instances"] if key in rows})
            progress.update(number, instance=name, proven=rows[name]["proven"])
    proven = sum(row["proven"] for row in rows.values())
    print(f"{len(rows)} instances, {proven} of them proven optimal over all orders: {place}")
    return 0


def problem_of(place: Path, stored: dict[str, Any], fields: dict[str, Any]) -> Problem:
    """Returns the problem of an instance in problems.json."""
    return Problem(
        mj.read_json(place / benchmark.APPLICATIONS / f"{fields['application']}.json"),
        benchmark.system_of(stored["systems"][fields["system"]]),
        mj.Objective(energy_weight=fields["energy_weight"]),
    )


def problems() -> dict[str, Any]:
    """Returns the contents of problems.json."""
    instances = {}
    for application, meetings in catalog.MEETINGS.items():
        for meeting in meetings.split():
            system = meeting.removesuffix("-energy")
            weight = catalog.ENERGY_WEIGHT if meeting != system else 0.0
            instances[f"{application}-{meeting}"] = {
                "application": application, "system": system, "energy_weight": weight
            }  # fmt: skip
    used = {fields["system"] for fields in instances.values()}
    return {
        "format": benchmark.FORMAT,
        "version": catalog.VERSION,
        "sources": dict(catalog.SOURCES),
        "applications": {name: catalog.group_of(name) for name in catalog.MEETINGS},
        "systems": {
            name: benchmark.fields_of(mj.System(**fields)) for name, fields in catalog.SYSTEMS.items() if name in used
        },
        "instances": instances,
    }


def workflows(folder: Path) -> dict[str, mj.TaskGraph]:
    """Reads the workflows; their numbers become whole, and their names numbers."""
    graphs = {}
    for name, file in catalog.WORKFLOWS.items():
        graph = mj.read_wfformat(folder / file, machine_hz=catalog.MACHINE_HZ)
        whole = {
            field: np.round(getattr(graph, field)) for field in ("cycles", "upload_bytes", "download_bytes")
        }  # fmt: skip
        graphs[name] = dataclasses.replace(graph, **whole, names=tuple(map(str, range(graph.num_tasks))))
    return graphs


def compared(root: Path) -> int:
    """Compares the stored problems and applications with newly derived ones."""
    path = root / benchmark.FOLDER / benchmark.PROBLEMS
    if load_json(path, benchmark.AS_WRITTEN) != problems():
        raise InputError(f"{path}: is not what the catalogue gives; accepted: the published file")
    derived = catalog.derived_applications()
    for name, graph in derived.items():
        path = root / benchmark.FOLDER / benchmark.APPLICATIONS / f"{name}.json"
        if mj.read_json(path) != graph:
            raise InputError(f"{path}: is not the application that the facts give; accepted: the published file")
    print(f"{len(derived)} applications are as their facts say")
    return 0


if __name__ == "__main__":
    run(main)
