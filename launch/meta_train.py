"""Meta-trains an offloading policy on one experiment's training sets, then adapts it to the unseen test sets.

    python launch/meta_train.py --flagfile=exp2.flags                        the paper's settings, for a GPU
    python launch/meta_train.py --flagfile=exp2.flags --flagfile=cpu.flags   smaller, for a laptop
    python launch/meta_train.py --flagfile=exp2.flags --num_seeds=3          seeds 0, 1, 2 in one program
    srun python launch/meta_train.py --flagfile=exp2.flags --distributed     several processes, here under SLURM

All devices share the tasks of a meta-batch (--parallel). The results are the same on any number of devices.

Prints a table of mean latencies in milliseconds at the end, and writes it with a figure of the adaptation curves into
the run folder. SIGTERM or Ctrl-C saves a checkpoint and ends with exit status 0; during compilation or adaptation
nothing needs saving, and the script ends at once. --resume --run=FOLDER continues. If one of several processes is lost,
the others print a message and end with exit status 75 (134 if JAX aborts them).
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from _cli import run
from _host_flags import HOST_FLAGS, define_host_flags, join
from _test_flags import define_test_flags, sets_on
from _train_flags import LAYOUT_FLAGS, define_train_flags, execution_config, train_config
from absl import flags

from mrlato_jax.config import ExecutionConfig, TrainConfig
from mrlato_jax.dag import dataset as datasets
from mrlato_jax.errors import InputError, check_number
from mrlato_jax.learning.devices import resolve, use_cores
from mrlato_jax.learning.meta_batch import check_meta_batch
from mrlato_jax.methods import label
from mrlato_jax.progress import format_duration
from mrlato_jax.results import reporting
from mrlato_jax.results.references import known_optima
from mrlato_jax.training import hosts
from mrlato_jax.training.experiments import check_room, sets_by_kind
from mrlato_jax.training.run_folder import RunFolder, new_run_path, seed_path, store_seeds, stored_seeds
from mrlato_jax.training.stages import BEFORE_TRAINING, check_demonstrations, train_stages
from mrlato_jax.training.stopping import GracefulStop
from mrlato_jax.training.validation import Validation, validation_set

FLAGS = flags.FLAGS
define_train_flags()
flags.DEFINE_integer("num_seeds", 1, "Train seeds --seed, --seed + 1, ... in one program, each in RUN/seed<number>.")
flags.DEFINE_string("run", None, "Run folder. Default: a new folder runs/<date>-<time>-<experiment>-<method>.")
flags.DEFINE_bool("resume", False, "Continue the run in --run; it must have the same settings.")
flags.DEFINE_string("data", None, "Folder of the data sets. Default: the packaged ones.")
flags.DEFINE_integer("checkpoint_every", 25, "Iterations between checkpoints.")
flags.DEFINE_integer(
    "validate",
    0,
    "Number of validation DAGs of each training family. Each checkpoint's gap to the optimum on these fresh DAGs is "
    "written to RUN/validation.jsonl, with the seconds of training. 0: no validation.",
)
flags.DEFINE_integer("updates", 30, "Gradient steps of the adaptation to each unseen set; 0 only measures.")
flags.DEFINE_enum(
    "on",
    "test",
    ["test", "validation", "none"],
    "Sets for the final adaptation: test, the unseen sets; validation, fresh DAGs of the training families, for the "
    "choice of settings; or none.",
)
define_test_flags()
define_host_flags()


def main(_: list[str]) -> int:
    started = time.monotonic()
    check_number("updates", FLAGS.updates, low=0, integer=True)
    check_number("checkpoint_every", FLAGS.checkpoint_every, low=1, integer=True)
    check_number("num_seeds", FLAGS.num_seeds, low=1, integer=True)
    check_number("validate", FLAGS.validate, low=0, integer=True)
    if FLAGS.resume and FLAGS.run is None:
        raise InputError("--resume needs --run; accepted: the folder of the run to continue")
    layout = execution_config()
    if not FLAGS.distributed:  # with several processes on a host, each stays one device
        use_cores()
    join()
    say = partial(print, flush=True) if hosts.is_first() else _ignore
    where: Path | None = None  # the run's folder, once it exists

    def closing() -> int:
        """Prints the last lines of a stopped run."""
        hosts.leave_without_alarm()
        if where is not None:
            kept = ("data", "on", "validate", "test_rates_mbps", "updates", "checkpoint_every")
            given = [FLAGS[name].serialize() for name in (*kept, *LAYOUT_FLAGS, *HOST_FLAGS) if FLAGS[name].present]
            say(f"continue with: {shlex.join([sys.executable, sys.argv[0], '--resume', f'--run={where}', *given])}")
        say(f"total time {format_duration(time.monotonic() - started)}")
        return 0

    with GracefulStop(closing) as stop, ExitStack() as folders:
        with hosts.watched():
            configs, execution, checkpoint_every = _settings(layout)
            config = configs[0]
            with hosts.agreed():
                dataset = datasets.load(config.experiment, FLAGS.data and Path(FLAGS.data))
                check_demonstrations(config, FLAGS.data and Path(FLAGS.data))
                check_meta_batch(config.learning.meta_batch, min(map(len, sets_by_kind(dataset, config.channel))))
                check_number(
                    "graphs_per_task", config.learning.graphs_per_task, low=1, high=dataset.graphs_per_set, integer=True
                )
                check_room(dataset, config.network)
                if config.learning.learn_from == "optimum" and FLAGS.on != "none" and FLAGS.updates:
                    raise InputError(
                        f"updates is {FLAGS.updates} with learn_from=optimum; accepted: 0, since there are no plans of "
                        "the test sets to imitate"
                    )
                test_sets = sets_on(FLAGS.on, dataset, config.channel)
            expected = hosts.text_from_first(dataset.content_hash)
            with hosts.agreed():
                if dataset.content_hash != expected:
                    raise InputError(
                        f"data has hash {dataset.content_hash[:12]}; accepted: {expected[:12]}, the first process's"
                    )
            say(f"data: {dataset.summary()}")
            runs: list[RunFolder] = []
            validation = None
            with hosts.agreed():
                if hosts.is_first():
                    runs = _open_runs(configs, dataset.content_hash, execution, folders)
                    where = runs[0].path if len(runs) == 1 else runs[0].path.parent
            for folder, config in zip(runs, configs, strict=False):
                say(f"run: {folder.path}, method {label(config)}, seed {config.seed}")
            with hosts.agreed():
                if hosts.is_first() and FLAGS.validate:
                    with stop.unburdened(BEFORE_TRAINING):
                        chosen = validation_set(dataset, config.channel, FLAGS.validate)
                    validation = Validation(chosen, config.network)
            states = train_stages(
                runs, configs, dataset, stop, checkpoint_every, execution, FLAGS.data and Path(FLAGS.data), validation
            )
        if not hosts.is_first():
            return 0
        finished, optima = states is not None, known_optima(dataset, configs[0].channel, test_sets)
        for folder, config, state in zip(runs, configs, states or [], strict=False):
            results = reporting.evaluate(config, state.params, test_sets, FLAGS.updates, stop, optima=optima)
            if results is None:
                finished = False
                break
            if results:
                say(f"\n{reporting.evaluation_table(label(config), results)}\n")
                name = {"test": "adaptation", "validation": f"validation-{FLAGS.updates}"}[FLAGS.on]
                origin = reporting.provenance(config, dataset, config.iterations, FLAGS.updates, held_out=False)
                say(reporting.write(folder.path, name, label(config), results, origin))
    if not finished:
        return closing()
    say(f"total time {format_duration(time.monotonic() - started)}")
    return 0


def _ignore(text: str) -> None:
    """Prints nothing; only the first process prints."""


def _settings(layout: ExecutionConfig) -> tuple[list[TrainConfig], ExecutionConfig, int]:
    """Returns each seed's settings, the layout and the interval of checkpoints, as in the first process."""
    text = ""
    with hosts.agreed():
        if hosts.is_first():
            configs = _seeds_of_run(Path(FLAGS.run)) if FLAGS.resume else _seeds(train_config(), FLAGS.num_seeds)
            values = [config.to_json() for config in configs], layout.to_json(), FLAGS.checkpoint_every
            text = json.dumps(values)
    configs_json, layout_json, every = json.loads(hosts.text_from_first(text))
    configs = [TrainConfig.from_json(values) for values in configs_json]
    with hosts.agreed():  # reports missing devices
        num_tasks = len(configs) * configs[0].learning.meta_batch
        execution = resolve(ExecutionConfig.from_json(layout_json), num_tasks)
    return configs, execution, every


def _seeds(first: TrainConfig, number: int) -> list[TrainConfig]:
    check_number("seed", first.seed + number - 1, low=0, high=2**32 - 1, integer=True)
    return [dataclasses.replace(first, seed=first.seed + i) for i in range(number)]


def _seeds_of_run(root: Path) -> list[TrainConfig]:
    """Returns the settings of the run at `root`, or of each seed trained there."""
    seeds = stored_seeds(root)
    first = train_config(RunFolder.open(root if seeds is None else seed_path(root, seeds[0])).config)
    stored = 1 if seeds is None else len(seeds)
    if FLAGS["num_seeds"].present and FLAGS.num_seeds != stored:
        raise InputError(f"num_seeds is {FLAGS.num_seeds}; accepted: {stored}, as run {root} was started")
    return _seeds(first, stored)


def _open_runs(
    configs: Sequence[TrainConfig], data_hash: str, execution: ExecutionConfig, folders: ExitStack
) -> list[RunFolder]:
    """Opens a folder for each seed: RUN itself, or RUN/seed<number> with several seeds."""
    root = Path(FLAGS.run) if FLAGS.run else new_run_path(Path("runs"), configs[0])
    paths = [root]
    if stored_seeds(root) is not None or len(configs) > 1:
        paths = [seed_path(root, config.seed) for config in configs]
        if not FLAGS.resume:
            store_seeds(root, [config.seed for config in configs])
    runs = []
    data_folder = Path(FLAGS.data) if FLAGS.data else None
    # A killed process may not have made all folders. `begin` makes the others now, since training starts after that.
    begin = RunFolder.begin if FLAGS.resume else RunFolder.create
    for config, path in zip(configs, paths, strict=True):
        runs.append(folders.enter_context(begin(path, config, data_hash, execution, data_folder)))
    return runs


if __name__ == "__main__":
    run(main)
