"""Runs a study: small trainings that each change one aspect, to find why the paper's method stalls and what ours needs.

    python launch/study.py --study=stall                     two hours on one core without any records
    python launch/study.py --study=parts --variants=base,outlook --seeds=3
    python launch/study.py --study=stall --smaller           takes seconds; only tests that the script runs

Each variant is trained on one device, with the study's base settings and the change that its name describes. It is
validated on fresh DAGs of the training families against their proven optima. Writes OUT/STUDY.json, .md and .png. After
a stop, the same command continues; recorded variants are not trained again. Several processes may share OUT and RUNS if
they train different variants.
"""

from __future__ import annotations

import time
from pathlib import Path

from _cli import LAUNCH, run, write_figure
from absl import flags

from mrlato_jax.dag import dataset as datasets
from mrlato_jax.errors import InputError, check_choice, check_number
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.learning.devices import drop_programs
from mrlato_jax.progress import format_duration, format_table
from mrlato_jax.results import figures
from mrlato_jax.results.studies import STUDIES, StudyRecord, run_variant, study_table
from mrlato_jax.training.stopping import GracefulStop
from mrlato_jax.training.validation import Validation, validation_set

SMALLER = {
    "iterations": 2,
    "network.units": 16,
    "network.layers": 1,
    "learning.meta_batch": 1,
    "learning.graphs_per_task": 2,
    "learning.rollouts": 2,
}

FLAGS = flags.FLAGS
flags.DEFINE_enum("study", "stall", list(STUDIES), "Study to run.")
flags.DEFINE_list("variants", [], "Variants to train, including base; by default all.")
flags.DEFINE_integer("seeds", 1, "Number of seeds, 0, 1, ..., of each variant.")
flags.DEFINE_integer("validate", 10, "Number of validation DAGs of each training family.")
flags.DEFINE_bool("smaller", False, "Run two iterations of a tiny network, as a test; needs its own --out.")
flags.DEFINE_string("out", str(LAUNCH.parent / "data" / "results" / "studies"), "Folder of records and figures.")
flags.DEFINE_string("runs", "runs", "Folder of the run folders: RUNS/study-STUDY/VARIANT/seed<number>.")


def main(_: list[str]) -> int:
    started = time.monotonic()
    study = STUDIES[FLAGS.study]
    check_number("seeds", FLAGS.seeds, low=1, integer=True)
    variants = FLAGS.variants or list(study.variants)
    for name in variants:
        check_choice("variants", name, study.variants)
    if FLAGS.smaller and not FLAGS["out"].present:
        raise InputError("--smaller is given without --out; accepted: an --out without the real studies")
    smaller = SMALLER if FLAGS.smaller else {}
    if smaller and study.base.warm_start_iterations:
        smaller = {**smaller, "warm_start_iterations": 2}
    out, root = Path(FLAGS.out).absolute(), Path(FLAGS.runs) / f"study-{FLAGS.study}"
    check_writable(out)
    dataset = datasets.load(study.base.experiment)
    record = StudyRecord(out / f"{FLAGS.study}.json", FLAGS.study, study, dataset, smaller, FLAGS.validate)
    missing = record.missing(variants, range(FLAGS.seeds))
    check_number("validate", FLAGS.validate, low=1, high=dataset.graphs_per_set, integer=True)
    incomplete = bool(missing) or not record.has_unlearned
    fresh = validation_set(dataset, study.base.channel, FLAGS.validate) if incomplete else None
    if fresh is not None:
        record.add_unlearned(fresh)

    def closing() -> int:
        print("stopped; the same command continues")
        return 0

    with GracefulStop(closing) as stop:
        for number, (variant, seed) in enumerate(missing, start=1):
            assert fresh is not None
            config = study.config(variant, seed, smaller)
            print(f"{number} of {len(missing)}: {variant}, seed {seed}", flush=True)
            row = run_variant(
                config, root / variant.replace(" ", "-"), dataset, Validation(fresh, config.network), stop
            )
            if row is None:
                return closing()
            record.add(variant, str(seed), row)
            drop_programs()
    shown = format_table(*study_table(study, record.rows))
    print(f"\n{study.question}\n\n{shown}\n\ntotal time {format_duration(time.monotonic() - started)}", flush=True)
    write_atomically(out / f"{FLAGS.study}.md", f"# {study.question}\n\n{shown}\n".encode())
    write_figure(out / f"{FLAGS.study}.png", lambda: figures.study_panels(study, record.rows))
    return 0


if __name__ == "__main__":
    run(main)
