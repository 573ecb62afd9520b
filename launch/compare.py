"""Sets runs beside each other on the same applications: seeds together, differences paired by DAG.

    python launch/compare.py --runs=runs/base,runs/mine --reference=runs/base
    python launch/compare.py --runs=runs/base,runs/mine --updates=0 --on=fresh

A run is a folder of meta_train.py, of one seed or of several (--num_seeds). Runs that differ in the seed alone are one
method. All must be trained on one data set, which may be one of yours. What evaluate.py or meta_train.py has measured
already is read from the run folders; what is missing is measured and recorded there.

Writes compare.md, compare.csv and compare.tex into --out. A SIGTERM or Ctrl-C ends it, exit status 1; what was measured
until then stays recorded.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _cli import run
from _reference_flags import define_reference_flags, search_budget
from _test_flags import RECORDS, data_of, define_measuring_flags, sets_on
from absl import flags

from mrlato_jax.dag.dataset import DagDataset
from mrlato_jax.errors import InputError, check_choice, check_number
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.inference.load import load_offloader
from mrlato_jax.methods import label, planned_methods
from mrlato_jax.progress import Progress, format_table
from mrlato_jax.results import paired, reporting
from mrlato_jax.results.latex import latex_tables
from mrlato_jax.results.paired import Measured
from mrlato_jax.results.references import Row, bound_ms, known_optima, run_planner
from mrlato_jax.training.experiments import TestSet
from mrlato_jax.training.run_folder import RunFolder, seed_path, stored_seeds
from mrlato_jax.training.stopping import GracefulStop, StoppedError

ENDED_TRAINING = "adaptation"  # the record that meta_train.py ends with, on the test sets
STOPPED = 1  # exit status

FLAGS = flags.FLAGS
flags.DEFINE_list("runs", None, "Run folders, as meta_train.py leaves them. Required.")
flags.DEFINE_string("reference", "HEFT-based", "What the others are compared with: one of --runs or of --planners.")
flags.DEFINE_list(
    "planners",
    ["greedy", "HEFT-based", "look-ahead"],
    f"Plans without learning beside the runs, of {'; '.join(planned_methods())}. With optimum, gaps to it are shown.",
)
flags.DEFINE_string("out", "comparison", "Folder of the tables.")
define_measuring_flags()
define_reference_flags()


@dataclasses.dataclass(frozen=True)
class Learned:
    """Runs that differ in the seed alone, and the folders of --runs that they are in."""

    name: str
    folders: tuple[str, ...]
    runs: tuple[RunFolder, ...]


def main(_: list[str]) -> int:
    if not FLAGS.runs:
        raise InputError("--runs is missing; accepted: folders of runs, with commas between them")
    check_number("updates", FLAGS.updates, low=0, integer=True)
    planners = planned_methods(search_budget())
    for name in FLAGS.planners:
        check_choice("planners", name, planners)
    check_choice("reference", FLAGS.reference, (*FLAGS.runs, *FLAGS.planners))
    methods = learned_methods(FLAGS.runs)
    first = methods[0].runs[0]
    dataset = data_of(first)
    test_sets = sets_on(FLAGS.on, dataset, first.config.channel)
    out = Path(FLAGS.out)
    check_writable(out)
    print(f"data: {dataset.summary()}", flush=True)
    records: dict[str, list[dict[str, Any]]] = {method.name: [] for method in methods}
    rows: dict[str, dict[str, Row]] = {test_set.name: {} for test_set in test_sets}
    with GracefulStop(lambda: STOPPED) as stop:
        for method in methods:
            for opened in method.runs:
                record = recorded(opened, dataset, test_sets, stop)
                if record is None:
                    return STOPPED
                records[method.name].append(record)
        try:
            with stop.unburdened("stopped; nothing of the comparison was written"):
                for name in FLAGS.planners:
                    for test_set in test_sets:
                        rows[test_set.name][name] = plans_of(name, test_set, stop)
        except StoppedError:
            return STOPPED
    reference = next((method.name for method in methods if FLAGS.reference in method.folders), FLAGS.reference)
    planned = [
        Measured(name, {on: np.asarray([planners[name]["makespan_ms"]]) for on, planners in rows.items()})
        for name in FLAGS.planners
    ]
    optima_ms = optima(dataset, first.config.channel, test_sets, rows)
    compared = {
        mark: [*planned, *(after(mark, name, of_seeds) for name, of_seeds in records.items())]
        for mark in dict.fromkeys((0, FLAGS.updates))
    }
    write(out, compared, reference, methods, optima_ms)
    return 0


def learned_methods(folders: Sequence[str]) -> list[Learned]:
    """The runs in all folders, together where they differ in the seed alone.

    Raises:
        InputError: a folder without a run, a seed twice, or runs of different data or channel rules.
    """
    groups: dict[str, list[tuple[str, RunFolder]]] = {}
    for folder in dict.fromkeys(folders):
        seeds = stored_seeds(Path(folder))
        for path in [Path(folder)] if seeds is None else [seed_path(Path(folder), seed) for seed in seeds]:
            opened = RunFolder.open(path)
            settings = {name: value for name, value in opened.config.to_json().items() if name != "seed"}
            groups.setdefault(json.dumps(settings, sort_keys=True), []).append((folder, opened))
    first, *others = [opened for group in groups.values() for _, opened in group]
    for other in others:
        for what, ours, theirs in (
            ("data hash", first.record["data_hash"][:12], other.record["data_hash"][:12]),
            ("channel", first.config.channel, other.config.channel),
        ):
            if ours != theirs:
                raise InputError(f"run {other.path} has {what} {theirs}; accepted: {ours}, as run {first.path} has")
    labels = [label(group[0][1].config) for group in groups.values()]
    methods = []
    for text, group in zip(labels, groups.values(), strict=True):
        seeds = [opened.config.seed for _, opened in group]
        if len(set(seeds)) < len(seeds):
            raise InputError(f"--runs has seed {max(seeds, key=seeds.count)} of {text} twice; accepted: each seed once")
        name = text if labels.count(text) == 1 else f"{text} ({Path(group[0][0]).name})"
        methods.append(Learned(name, tuple(folder for folder, _ in group), tuple(opened for _, opened in group)))
    return methods


def recorded(
    opened: RunFolder, dataset: DagDataset, test_sets: Sequence[TestSet], stop: GracefulStop
) -> dict[str, Any] | None:
    """The record of a run's adaptation, measured now where there is none; None where a stop was requested."""
    policy, config, updates = load_offloader(opened.path), opened.config, FLAGS.updates
    origin = reporting.provenance(config, dataset, policy.iteration, updates, held_out=False)
    names = [RECORDS[FLAGS.on], *([ENDED_TRAINING] if FLAGS.on == "test" else [])]
    found = [record for name in names if (record := reporting.find(opened.path, name, test_sets, origin)) is not None]
    if found:
        return found[0]
    print(f"{label(config)}, seed {config.seed}: {opened.path}", flush=True)
    check_writable(opened.path)
    results = reporting.evaluate(config, policy.params, test_sets, updates, stop)
    if results is None:
        return None
    print(reporting.write(opened.path, f"{names[0]}-{updates}", label(config), results, origin), flush=True)
    return reporting.find(opened.path, names[0], test_sets, origin)


def plans_of(name: str, test_set: TestSet, stop: GracefulStop) -> Row:
    """What a planner gives on a test set, with progress."""
    with Progress(len(test_set.graphs), f"{name} on {test_set.name}") as progress:

        def show(done: int, makespan_ms: float) -> None:
            progress.update(done, latency_ms=makespan_ms)
            if stop.requested:
                raise StoppedError

        return run_planner(planned_methods(search_budget())[name], test_set, show)


def optima(
    dataset: DagDataset, channel: str, test_sets: Sequence[TestSet], rows: dict[str, dict[str, Row]]
) -> dict[str, float] | None:
    """Mean optimum of each test set, milliseconds, proven now or on record; None where one is not known."""
    if all("optimum" in planners for planners in rows.values()):
        return {name: bound_ms(planners) for name, planners in rows.items()}
    known = known_optima(dataset, channel, test_sets) if FLAGS.on == "test" else {}
    return {name: mean for name, (mean, _) in known.items()} if len(known) == len(test_sets) else None


def after(mark: int, name: str, records: Sequence[dict[str, Any]]) -> Measured:
    """What so many updates made of a learned method."""
    latency_ms = {
        setting["setting"]: np.asarray([
            record["settings"][index]["adaptation"]["latency_ms_by_dag"][str(mark)] for record in records
        ])
        for index, setting in enumerate(records[0]["settings"])
    }  # fmt: skip
    return Measured(name, latency_ms)


def write(
    out: Path,
    compared: dict[int, list[Measured]],
    reference: str,
    methods: Sequence[Learned],
    optima_ms: dict[str, float] | None,
) -> None:
    """Prints the tables; writes them for people, for a paper and for programs."""
    tables, lines = [], io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    for mark, rows in compared.items():
        against = next(row for row in rows if row.name == reference)
        when = f"After {mark} updates" if mark else "Before any update"
        for title, header, cells in (paired.latency_table(rows, optima_ms), paired.difference_table(rows, against)):
            tables.append((f"{when}. {title}", header, cells))
        header, cells = paired.long_form(rows, against, optima_ms)
        if not lines.tell():
            writer.writerow(["updates", *header])
        writer.writerows([str(mark), *line] for line in cells)
    runs = "\n".join(
        f"- {method.name}: seed {opened.config.seed}, {opened.config.iterations} iterations, {opened.path}"
        for method in methods
        for opened in method.runs
    )
    sections = [f"{title}\n\n{format_table(header, cells)}" for title, header, cells in tables]
    text = "\n\n".join([f"# Compared on {FLAGS.on} sets", runs, *sections])
    print(f"\n{text}\n", flush=True)
    files = {"compare.md": f"{text}\n", "compare.csv": lines.getvalue(), "compare.tex": latex_tables(tables)}
    for file, contents in files.items():
        write_atomically(out / file, contents.encode())
    print(f"in {out}: {', '.join(files)}", flush=True)


if __name__ == "__main__":
    run(main)
