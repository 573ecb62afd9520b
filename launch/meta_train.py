"""Meta-trains an offloading policy on one experiment's training sets, then adapts it to the sets it has never seen.

    python launch/meta_train.py --flagfile=exp2.flags                        the paper's settings, for a GPU
    python launch/meta_train.py --flagfile=exp2.flags --flagfile=cpu.flags   smaller, for a laptop

Ends with a table of mean latencies in milliseconds and a figure of the adaptation curves, both also in the run folder.
SIGTERM or Ctrl-C saves a checkpoint and ends, exit status 0; --resume --run=FOLDER continues.
"""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

from _cli import run
from _test_flags import define_test_flags, settings_on
from _train_flags import define_train_flags, train_config
from absl import flags

from mrlato_jax.dag import dataset as datasets
from mrlato_jax.errors import InputError, check_number
from mrlato_jax.experiments import reporting
from mrlato_jax.experiments.progress import format_duration
from mrlato_jax.experiments.run_folder import GracefulStop, RunFolder, new_run_path
from mrlato_jax.experiments.settings import check_room, training_pool
from mrlato_jax.experiments.training import train
from mrlato_jax.learning.outer import check_meta_batch

FLAGS = flags.FLAGS
define_train_flags()
flags.DEFINE_string("run", None, "Run folder. Default: runs/<date>-<time>-<experiment>-<method>, made anew.")
flags.DEFINE_bool("resume", False, "Continue the run in --run; it must have the same settings.")
flags.DEFINE_string("data", None, "Folder of the data sets. Default: the ones that come with the package.")
flags.DEFINE_integer("checkpoint_every", 25, "Iterations from one checkpoint to the next.")
flags.DEFINE_integer("updates", 30, "Gradient steps of the adaptation to each unseen set; 0 only measures.")
flags.DEFINE_enum(
    "on",
    "test",
    ["test", "validation", "none"],
    "What to adapt to in the end: the unseen sets; or, to choose settings by, fresh DAGs of the training families.",
)
define_test_flags()


def main(_: list[str]) -> int:
    started = time.monotonic()
    check_number("updates", FLAGS.updates, low=0, integer=True)
    check_number("checkpoint_every", FLAGS.checkpoint_every, low=1, integer=True)
    if FLAGS.resume and FLAGS.run is None:
        raise InputError("--resume needs --run; accepted: the folder of the run to continue")
    base = RunFolder.open(Path(FLAGS.run)).config if FLAGS.resume else None
    config = train_config(base)
    dataset = datasets.load(config.experiment, FLAGS.data and Path(FLAGS.data))
    check_meta_batch(config.learning.meta_batch, len(dataset.train_sets))
    check_number("graphs_per_task", config.learning.graphs_per_task, low=1, high=dataset.graphs_per_set, integer=True)
    check_room(dataset, config.policy)
    settings = settings_on(FLAGS.on, dataset, config.channel)
    print(f"data: {dataset.summary()}", flush=True)
    if FLAGS.resume:
        folder = RunFolder.resume(Path(FLAGS.run), config, dataset.content_hash)
    else:
        path = Path(FLAGS.run) if FLAGS.run else new_run_path(Path("runs"), config)
        folder = RunFolder.create(path, config, dataset.content_hash)
    with folder, GracefulStop() as stop:
        print(f"run: {folder.path}, method {config.label}, seed {config.seed}", flush=True)
        pool = training_pool(dataset, config.policy, config.channel)
        state = train(folder, config, dataset.content_hash, pool, stop, FLAGS.checkpoint_every)
        results = None if state is None else reporting.evaluate(config, state.params, settings, FLAGS.updates, stop)
        if results:
            print(f"\n{reporting.table(config.label, results)}\n", flush=True)
            name = {"test": "adaptation", "validation": f"validation-{FLAGS.updates}"}[FLAGS.on]
            origin = reporting.provenance(config, dataset, config.iterations, FLAGS.updates, held_out=False)
            print(reporting.write(folder.path, name, config.label, results, origin), flush=True)
    if results is None:
        kept = ("data", "on", "test_rates_mbps", "updates", "checkpoint_every")
        given = [FLAGS[name].serialize() for name in kept if FLAGS[name].present]
        words = [sys.executable, sys.argv[0], "--resume", f"--run={folder.path}", *given]
        print(f"continue with: {shlex.join(words)}", flush=True)
    print(f"total time {format_duration(time.monotonic() - started)}", flush=True)
    return 0


if __name__ == "__main__":
    run(main)
