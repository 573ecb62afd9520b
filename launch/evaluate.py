"""Adapts the meta-policy of a run to each test set of its experiment and records the curves.

    python launch/evaluate.py --run=runs/20260101-120000-exp2-mrlato --updates=100

An update is one Adam gradient step on one test set, from a fresh optimiser; trajectories of all its DAGs are drawn
anew every --inner_steps of the run. Writes evaluation-<updates>.json, .md and .png into the run folder.
"""

from __future__ import annotations

from pathlib import Path

import jax
from _cli import run
from _evaluate import evaluate_run
from absl import flags

from mrlato_jax.dag import dataset as datasets
from mrlato_jax.errors import InputError, check_number
from mrlato_jax.experiments.run_folder import GracefulStop, RunFolder
from mrlato_jax.offloader import load_offloader

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "Run folder, as meta_train.py leaves it. Required.")
flags.DEFINE_integer("updates", 100, "Gradient steps of the adaptation to each test set; 0 only measures.")
flags.DEFINE_bool("held_out", True, "Also adapt to half of each set's DAGs and measure on the other half.")
flags.DEFINE_string("data", None, "Folder of the data sets. Default: the ones that come with the package.")


def main(_: list[str]) -> int:
    if FLAGS.run is None:
        raise InputError("--run is missing; accepted: the folder of a run")
    check_number("updates", FLAGS.updates, low=0, integer=True)
    folder = RunFolder.open(Path(FLAGS.run))
    config = folder.config
    dataset = datasets.load(config.experiment, FLAGS.data and Path(FLAGS.data))
    stored = folder.record["data_hash"]
    if stored != dataset.content_hash:
        raise InputError(f"run {folder.path} was trained on data {stored[:12]}, this is {dataset.content_hash[:12]}")
    params = load_offloader(folder.path).params
    print(f"run: {folder.path}, method {config.label}, on {jax.devices()[0].device_kind}", flush=True)
    with GracefulStop() as stop:
        evaluate_run(
            folder.path,
            config,
            params,
            dataset,
            FLAGS.updates,
            name=f"evaluation-{FLAGS.updates}",
            held_out=FLAGS.held_out,
            stop=stop,
        )
    return 0


if __name__ == "__main__":
    run(main)
