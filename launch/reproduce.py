"""The paper's Table III and Figures 4 to 6, with every method it compares and the proven optimum, in one command.

    python launch/reproduce.py --experiment=all --preset=cpu --seeds=3        hours on two cores
    python launch/reproduce.py --experiment=exp2 --preset=paper --seeds=5     the paper's settings, for a GPU

Trains what is missing, adapts each learned method to each unseen set, plans with everything else, and writes records,
tables and figures into OUT/PRESET. Interrupted (Ctrl-C, SIGTERM, or killed) the same command goes on where it stopped;
run twice it computes nothing again, and the records that come with the project count. A record of other settings, data
or another version of this package is refused by name.

--preset=paper is EXPERIMENT.flags, Table I in full; --preset=cpu adds cpu_table.flags, which has fewer iterations and
trajectories and is otherwise the same.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _cli import LAUNCH, parse, run
from _reference_flags import define_reference_flags, search_budget
from _test_flags import define_test_flags, settings_on
from _train_flags import define_train_flags, train_config
from absl import flags

from mrlato_jax.config import EXPERIMENTS, TrainConfig
from mrlato_jax.dag import dataset as datasets
from mrlato_jax.errors import check_choice, check_number
from mrlato_jax.experiments import comparison, figures, reproduction
from mrlato_jax.experiments.comparison import Panel
from mrlato_jax.experiments.progress import format_duration, format_table
from mrlato_jax.experiments.record import GrowingRecord
from mrlato_jax.experiments.references import complete, reference_record
from mrlato_jax.experiments.run_folder import GracefulStop, RunFolder, seed_path
from mrlato_jax.experiments.settings import TestSetting, check_room
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.learning.devices import use_cores
from mrlato_jax.learning.meta_batch import check_meta_batch
from mrlato_jax.methods import LEARNED, label

PRESETS = {"paper": [], "cpu": ["cpu_table.flags"]}  # flag files after EXPERIMENT.flags
ROOT = LAUNCH.parent

FLAGS = flags.FLAGS
flags.DEFINE_enum("experiment", "all", ["all", *EXPERIMENTS], "What is reproduced.")
flags.DEFINE_enum("preset", "cpu", list(PRESETS), "How much is trained.")
flags.DEFINE_integer("seeds", 3, "Seeds 0, 1, ... of each learned method.")
flags.DEFINE_list("methods", list(LEARNED), f"Learned methods, of {', '.join(LEARNED)}; planners are always there.")
flags.DEFINE_integer("updates", 100, "Gradient steps of the adaptation to each unseen set.")
flags.DEFINE_string("out", str(ROOT / "data" / "results"), "Folder of records, tables and figures.")
flags.DEFINE_string("runs", "runs", "Folder of the run folders: RUNS/reproduce-PRESET/EXPERIMENT-METHOD/seed<number>.")
flags.DEFINE_string("data", None, "Folder of the data sets. Default: the ones that come with the package.")
flags.DEFINE_string("settings", None, "One more flag file, behind the preset's: settings of your own, with --out.")
define_reference_flags()
define_test_flags()


def main(_: list[str]) -> int:
    started = time.monotonic()
    check_number("seeds", FLAGS.seeds, low=1, integer=True)
    check_number("updates", FLAGS.updates, low=0, integer=True)
    for method in FLAGS.methods:
        check_choice("methods", method, LEARNED)
    search_budget()  # refused before anything is made
    use_cores()
    experiments = EXPERIMENTS if FLAGS.experiment == "all" else (FLAGS.experiment,)
    out = Path(FLAGS.out).absolute() / FLAGS.preset
    configs = {(name, method): seeds_of(name, method) for name in experiments for method in FLAGS.methods}
    check_writable(out)
    panels: list[Panel] = []
    with GracefulStop() as stop:
        for name in experiments:
            found = reproduce(name, [configs[name, method] for method in FLAGS.methods], out, stop)
            if found is None:
                print(f"stopped; the same command goes on. total time {format_duration(time.monotonic() - started)}")
                return 0
            panels += found
    if len(experiments) > 1:
        write_tables(out, "all", panels)
    print(f"total time {format_duration(time.monotonic() - started)}")
    return 0


def seeds_of(experiment: str, method: str) -> list[TrainConfig]:
    """The settings of each seed, from the flag files that people train with."""
    values = flags.FlagValues()
    define_train_flags(values)
    files = [f"{experiment}.flags", *PRESETS[FLAGS.preset]]
    if FLAGS.settings:
        files.append(FLAGS.settings)
    parse(["reproduce.py", *(f"--flagfile={file}" for file in files), f"--method={method}"], values)
    first = train_config(flag_values=values)
    return [dataclasses.replace(first, seed=seed) for seed in range(FLAGS.seeds)]


def record_path(out: Path, config: TrainConfig) -> Path:
    """Where a method and seed have their record."""
    return out / f"{config.experiment}-{label(config)}-seed{config.seed}.json"


def reproduce(
    experiment: str, methods: Sequence[Sequence[TrainConfig]], out: Path, stop: GracefulStop
) -> list[Panel] | None:
    """One experiment, to its tables and figures; None where a stop was requested before the end."""
    dataset = datasets.load(experiment, FLAGS.data and Path(FLAGS.data))
    channel = methods[0][0].channel
    settings = settings_on("test", dataset, channel)
    print(f"data: {dataset.summary()}", flush=True)
    for configs in methods:
        check_meta_batch(configs[0].learning.meta_batch, len(dataset.train_sets))
        check_room(dataset, configs[0].policy)
    budget = search_budget()
    references = reference_record(out.parent / f"references-{experiment}.json", dataset, channel, settings, budget)
    records = {
        label(configs[0]): [
            reproduction.learned_record(record_path(out, config), config, dataset, settings, FLAGS.updates)
            for config in configs
        ]
        for configs in methods
    }
    if not complete(references, settings, budget, stop):
        return None
    heft = {name: float(np.mean(rows["HEFT-based"]["makespan_ms"])) for name, rows in references.rows.items()}
    for configs in methods:
        if not complete_method(dataset, configs, records[label(configs[0])], settings, heft, stop):
            return None
    rows = {name: [record.rows for record in seeds] for name, seeds in records.items()}
    steps = {label(configs[0]): configs[0].learning.inner_steps for configs in methods}
    panels = comparison.panels(experiment, references.rows, rows, FLAGS.updates, steps)
    write_tables(out, experiment, panels)
    write_figures(out, experiment, panels, rows)
    return panels


def complete_method(
    dataset: datasets.DagDataset,
    configs: Sequence[TrainConfig],
    records: Sequence[GrowingRecord],
    settings: Sequence[TestSetting],
    heft: dict[str, float],
    stop: GracefulStop,
) -> bool:
    """Trains and adapts the seeds whose records are not complete; False where a stop was requested before the end."""
    lacking = [i for i, record in enumerate(records) if reproduction.missing(record, settings)]
    if not lacking:
        return True
    configs, records = [configs[i] for i in lacking], [records[i] for i in lacking]
    root = Path(FLAGS.runs) / f"reproduce-{FLAGS.preset}" / f"{dataset.name}-{label(configs[0])}"
    print(f"{label(configs[0])} on {dataset.name}, seeds {', '.join(str(c.seed) for c in configs)}: {root}", flush=True)
    policies = reproduction.trained(root, configs, dataset, stop)
    if policies is None:
        return False
    for config, record in zip(configs, records, strict=True):
        summary = reproduction.training_summary(RunFolder.open(seed_path(root, config.seed)), config)
        record.add(reproduction.TRAINING, "summary", summary)
    return reproduction.adapt_missing(records, policies, configs, settings, heft, FLAGS.updates, stop)


def write_tables(out: Path, name: str, panels: Sequence[Panel]) -> None:
    """Prints the tables; writes them as `name`.md, and for programs as `name`.csv."""
    tables = [
        comparison.table_three(panels),
        comparison.whole_table(panels),
        comparison.efficiency_table(panels),
        comparison.duel_table(panels),
    ]
    text = "\n\n".join(format_table(*table) for table in tables)
    print(f"\n{name}\n\n{text}\n", flush=True)
    write_atomically(out / f"{name}.md", f"{text}\n".encode())
    lines = io.StringIO()
    header, cells = comparison.long_form(panels)
    csv.writer(lines, lineterminator="\n").writerows([header, *cells])
    write_atomically(out / f"{name}.csv", lines.getvalue().encode())
    print(f"in {out}: {name}.md, {name}.csv", flush=True)


def write_figures(
    out: Path, experiment: str, panels: Sequence[Panel], rows: dict[str, list[dict[str, dict[str, Any]]]]
) -> None:
    """The adaptation and what the trainings looked like, where matplotlib is installed."""
    try:
        images = {
            f"{experiment}.png": figures.adaptation_panels(panels),
            f"{experiment}-training.png": figures.training_panels(comparison.training_curves(rows)),
        }
    except ImportError:
        print("no figures: matplotlib is not installed (pip install 'mrlato-jax[plots]')", flush=True)
        return
    for name, image in images.items():
        write_atomically(out / name, image)
    print(f"in {out}: {', '.join(images)}", flush=True)


if __name__ == "__main__":
    run(main)
