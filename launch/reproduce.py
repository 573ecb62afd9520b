"""Reproduces the paper's Table III and Figures 4 to 6, with all of its methods and the proven optimum, in one command.

    python launch/reproduce.py --experiment=all --preset=cpu --seeds=3       4 hours on two cores without any records
    python launch/reproduce.py --experiment=exp2 --preset=paper --seeds=5     the paper's settings, for a GPU

Trains missing runs, adapts each learned method to each unseen set, plans with all planners, and writes records, tables
and figures into OUT/PRESET. After an interruption (Ctrl-C, SIGTERM, or a kill), the same command in the same folder
continues. Recorded results, including those that come with the project, are not computed again. The last table that it
prints is the README's. A record of other
settings, data or another version of this package is refused by name.

--preset=paper is EXPERIMENT.flags, Table I in full. --preset=cpu adds cpu_table.flags, which has only fewer iterations
and trajectories. A method with its own flag file (mrlato_plus, mrlato_plus_order) uses that file with both presets.
Names of tables and figures include all methods that are not in the default of --methods.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import time
from collections.abc import Sequence
from pathlib import Path

from _cli import LAUNCH, parse, run
from _reference_flags import define_reference_flags, search_budget
from _test_flags import define_test_flags, sets_on
from _train_flags import LAYOUT_FLAGS, define_train_flags, train_config
from absl import flags

from mrlato_jax.config import EXPERIMENTS, ExecutionConfig, TrainConfig
from mrlato_jax.dag import dataset as datasets
from mrlato_jax.dag.dataset import DagDataset
from mrlato_jax.drawing import png
from mrlato_jax.errors import InputError, check_choice, check_number
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.learning.devices import drop_programs, resolve, use_cores
from mrlato_jax.learning.meta_batch import check_meta_batch
from mrlato_jax.methods import METHODS, SearchBudget, label, planned_methods
from mrlato_jax.progress import format_duration, format_table
from mrlato_jax.results import comparison, figures, reproduction
from mrlato_jax.results.comparison import Panel
from mrlato_jax.results.latex import latex_tables
from mrlato_jax.results.references import References, complete, reference_record
from mrlato_jax.results.reproduction import LearnedRecord
from mrlato_jax.training.experiments import TestSet, check_room, sets_by_kind
from mrlato_jax.training.run_folder import RunFolder, seed_path
from mrlato_jax.training.stages import check_demonstrations
from mrlato_jax.training.stopping import GracefulStop

COMPARED = ("mrlato", "mrlco", "drl", "mrlato_plus")  # the learned methods of Table III, and ours
PRESETS = {"paper": [], "cpu": ["cpu_table.flags"]}  # flag files after EXPERIMENT.flags
NEAR = 1.08  # limit of an experiment's second figure, relative to the optimum
ROOT = LAUNCH.parent

FLAGS = flags.FLAGS
flags.DEFINE_enum("experiment", "all", ["all", *EXPERIMENTS], "Experiment to reproduce.")
flags.DEFINE_enum("preset", "cpu", list(PRESETS), "Amount of training.")
flags.DEFINE_integer("seeds", 3, "Seeds 0, 1, ... of each learned method.")
flags.DEFINE_list("methods", list(COMPARED), f"Learned methods, of {', '.join(METHODS)}; planners are always included.")
flags.DEFINE_integer("updates", 100, "Gradient steps of the adaptation to each unseen set.")
flags.DEFINE_string("out", str(ROOT / "data" / "results"), "Folder of records, tables and figures.")
flags.DEFINE_string("runs", "runs", "Folder of the run folders: RUNS/reproduce-PRESET/EXPERIMENT-METHOD/seed<number>.")
flags.DEFINE_string("data", None, "Folder of the data sets. Default: the packaged ones.")
flags.DEFINE_integer("num_devices", 0, "Number of devices; on a host without a GPU, its cores. 0: all.")
flags.DEFINE_string(
    "settings",
    None,
    "One more flag file after the preset's, for your own settings; needs its own --out and --runs.",
)
define_reference_flags()
define_test_flags()


@dataclasses.dataclass(frozen=True)
class Work:
    """One experiment, checked before any computation.

    Attributes:
        dataset: its data set.
        test_sets: the test sets to adapt to.
        budget: budget of the searching planners.
        references: the record of all planners.
        records: records of each seed, by the label of the method.
    """

    dataset: DagDataset
    test_sets: list[TestSet]
    budget: SearchBudget
    references: References
    records: dict[str, list[LearnedRecord]]


def main(_: list[str]) -> int:
    started = time.monotonic()
    check_number("seeds", FLAGS.seeds, low=1, integer=True)
    check_number("updates", FLAGS.updates, low=0, integer=True)
    for method in FLAGS.methods:
        check_choice("methods", method, METHODS)
    own = [name for name in ("out", "runs") if not FLAGS[name].present]
    if FLAGS.settings and own:
        raise InputError(f"--settings without --{own[0]}; accepted: --out and --runs that are not the preset's")
    budget = search_budget()
    use_cores()
    resolve(ExecutionConfig(num_devices=FLAGS.num_devices), FLAGS.seeds)  # reports missing devices
    experiments = EXPERIMENTS if FLAGS.experiment == "all" else (FLAGS.experiment,)
    configs = {name: [seeds_of(name, method) for method in FLAGS.methods] for name in experiments}
    out = Path(FLAGS.out).absolute() / FLAGS.preset
    check_writable(out)
    check_writable(Path(FLAGS.runs))
    works = [look_through(name, configs[name], budget, out) for name in experiments]
    panels: list[Panel] = []

    def closing() -> int:
        print(f"stopped; the same command continues. total time {format_duration(time.monotonic() - started)}")
        return 0

    with GracefulStop(closing) as stop:
        for work in works:
            found = reproduce(work, out, stop)
            if found is None:
                return closing()
            panels += found
    if len(experiments) > 1:
        write_tables(out, named("all"), panels, [record for work in works for record in first_seeds(work)])
    title, header, cells = comparison.short_table(panels)
    print(f"\n{title}\n\n{format_table(header, cells)}\n")
    print(f"total time {format_duration(time.monotonic() - started)}")
    return 0


def seeds_of(experiment: str, method: str) -> list[TrainConfig]:
    """Returns the settings of each seed, from the flag files of meta_train.py."""
    values = flags.FlagValues()
    define_train_flags(values)
    files = [f"{experiment}.flags", *PRESETS[FLAGS.preset]]
    if (LAUNCH / f"{method}.flags").exists():
        files.append(f"{method}.flags")
    if FLAGS.settings:
        files.append(FLAGS.settings)
    parse(["reproduce.py", *(f"--flagfile={file}" for file in files), f"--method={method}"], values)
    for name in ("seed", *LAYOUT_FLAGS):
        if values[name].present:
            raise InputError(f"--settings={FLAGS.settings} has --{name}; accepted: settings of methods and learning")
    first = train_config(flag_values=values)
    if first.experiment != experiment:
        raise InputError(f"--settings={FLAGS.settings} is for {first.experiment}; accepted: nothing of an experiment")
    return [dataclasses.replace(first, seed=seed) for seed in range(FLAGS.seeds)]


def run_root(config: TrainConfig) -> Path:
    """Returns the folder of a method's run folders."""
    return Path(FLAGS.runs) / f"reproduce-{FLAGS.preset}" / f"{config.experiment}-{label(config)}"


def look_through(experiment: str, methods: Sequence[Sequence[TrainConfig]], budget: SearchBudget, out: Path) -> Work:
    """Opens data, records and run folders of an experiment and checks that they fit the settings."""
    dataset = datasets.load(experiment, FLAGS.data and Path(FLAGS.data))
    channel = methods[0][0].channel
    test_sets = sets_on("test", dataset, channel)
    print(f"data: {dataset.summary()}", flush=True)
    records = {}
    for configs in methods:
        learning = configs[0].learning
        check_meta_batch(learning.meta_batch, min(map(len, sets_by_kind(dataset, channel))))
        check_number("graphs_per_task", learning.graphs_per_task, low=1, high=dataset.graphs_per_set, integer=True)
        check_room(dataset, configs[0].network)
        name = label(configs[0])
        records[name] = [
            LearnedRecord(
                out / f"{experiment}-{name}-seed{config.seed}.json", config, dataset, test_sets, FLAGS.updates
            )
            for config in configs
        ]
        for record in records[name]:
            if not record.complete:
                check_demonstrations(record.config, FLAGS.data and Path(FLAGS.data))
                reproduction.check_run(seed_path(run_root(record.config), record.config.seed), record, dataset)
    path = out.parent / f"references-{experiment}.json"
    if path.exists():
        print(f"simulating the plans of {path} again ...", flush=True)
    references = reference_record(path, dataset, channel, test_sets, budget)
    return Work(dataset, test_sets, budget, references, records)


def reproduce(work: Work, out: Path, stop: GracefulStop) -> list[Panel] | None:
    """Reproduces one experiment, with tables and figures; returns None after a stop."""
    if not complete(work.references, work.test_sets, work.budget, stop):
        return None
    for records in work.records.values():
        if not complete_method(work, [record for record in records if not record.complete], stop):
            return None
    rows = {name: [record.rows for record in records] for name, records in work.records.items()}
    steps = {name: records[0].config.learning.inner_steps for name, records in work.records.items()}
    experiment, planners = work.dataset.name, list(planned_methods(work.budget))
    free = {name for name, records in work.records.items() if not records[0].config.network.in_order}
    panels = comparison.panels(experiment, work.references.rows, planners, rows, FLAGS.updates, steps, free)
    write_tables(out, named(experiment), panels, first_seeds(work))
    unjudged = {name for name, records in work.records.items() if not records[0].config.learning.value_coef}
    write_figures(out, named(experiment), panels, comparison.training_curves(rows, unjudged))
    return panels


def named(subject: str) -> str:
    """Returns the name of tables and figures, which includes methods that are not compared by default."""
    return "+".join([subject, *(method for method in FLAGS.methods if method not in COMPARED)])


def first_seeds(work: Work) -> list[LearnedRecord]:
    """Returns one record of each method."""
    return [records[0] for records in work.records.values()]


def complete_method(work: Work, records: Sequence[LearnedRecord], stop: GracefulStop) -> bool:
    """Trains and adapts these seeds of a method; returns False after a stop."""
    if not records:
        return True
    configs = [record.config for record in records]
    root, name = run_root(configs[0]), label(configs[0])
    seeds = ", ".join(str(config.seed) for config in configs)
    print(f"{name} on {work.dataset.name}, seeds {seeds}: {root}", flush=True)
    layout, data_folder = ExecutionConfig(num_devices=FLAGS.num_devices), FLAGS.data and Path(FLAGS.data)
    policies = reproduction.trained(root, configs, work.dataset, stop, layout, data_folder=data_folder)
    if policies is None:
        return False
    for record, policy in zip(records, policies, strict=True):
        run = RunFolder.open(seed_path(root, record.config.seed))
        record.add_training(reproduction.training_summary(run, record.config, policy, work.dataset))
    rows = work.references.rows
    heft = {name: planners["HEFT-based"]["makespan_ms"] for name, planners in rows.items()}
    done = reproduction.adapt_missing(records, policies, work.test_sets, heft, FLAGS.updates, stop, FLAGS.num_devices)
    drop_programs()
    return done


def caption(records: Sequence[LearnedRecord]) -> str:
    """Describes the amount of training, which readers need to interpret the rows of learned methods."""
    lines = [
        f"Learned methods, preset {FLAGS.preset}, {FLAGS.seeds} seed{'s' if FLAGS.seeds > 1 else ''} each, trained with"
    ]
    for record in records:
        config, learning = record.config, record.config.learning
        each = f"{learning.rollouts} {'plans' if learning.learn_from == 'deviations' else 'trajectories'}"
        lines.append(
            f"- {label(config)} on {config.experiment}: {config.iterations} iterations x {learning.meta_batch} sets x "
            f"{learning.graphs_per_task} DAGs x {each}; adapted with all DAGs of a set x "
            f"{each}, drawn anew every {learning.inner_steps} updates"
        )
    return "\n".join(lines)


def write_tables(out: Path, name: str, panels: Sequence[Panel], records: Sequence[LearnedRecord]) -> None:
    """Prints the tables; writes them as `name`.md, for papers as `name`.tex, and for programs as `name`.csv."""
    tables = [
        comparison.table_three(panels),
        comparison.whole_table(panels),
        comparison.duel_table(panels),
        comparison.efficiency_table(panels),
        comparison.held_out_table(panels),
    ]
    sections = [f"{title}\n\n{format_table(header, cells)}" for title, header, cells in tables]
    text = "\n\n".join([f"# {name}", caption(records), *sections])
    print(f"\n{text}\n", flush=True)
    write_atomically(out / f"{name}.md", f"{text}\n".encode())
    write_atomically(out / f"{name}.tex", latex_tables(tables).encode())
    lines = io.StringIO()
    header, cells = comparison.long_form(panels)
    csv.writer(lines, lineterminator="\n").writerows([header, *cells])
    write_atomically(out / f"{name}.csv", lines.getvalue().encode())
    print(f"in {out}: {name}.md, {name}.tex, {name}.csv", flush=True)


def write_figures(out: Path, name: str, panels: Sequence[Panel], curves: comparison.Curves) -> None:
    """Draws the adaptation and the training curves, if matplotlib is installed."""
    try:
        images = {
            f"{name}.png": png(figures.adaptation_panels(panels)),
            f"{name}-near.png": png(figures.adaptation_panels(panels, NEAR)),
            f"{name}-training.png": png(figures.training_panels(curves)),
        }
    except ImportError:
        print("no figures: matplotlib is not installed (pip install 'mrlato-jax[plots]')", flush=True)
        return
    for file, image in images.items():
        write_atomically(out / file, image)
    print(f"in {out}: {', '.join(images)}", flush=True)


if __name__ == "__main__":
    run(main)
