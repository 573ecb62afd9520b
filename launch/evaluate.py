"""Adapts the meta-policy of a run to each test set of its experiment and records the curves.

    python launch/evaluate.py --run=runs/20260101-120000-exp2-mrlato --updates=100

An update is one Adam step on one test set, starting from a fresh optimiser. New trajectories of all its DAGs are drawn
every --inner_steps of the run. Writes evaluation-<updates>.json, .md and .png into the run folder. SIGTERM or Ctrl-C
ends the script without output, exit status 1.

--on=fresh uses other DAGs of the test sets' families, which have not been used for anything. To choose settings, use
--on=validation: fresh DAGs of the training families. Settings chosen on the test sets would bias the results on unseen
applications. The files are fresh-<updates>.* and validation-<updates>.*.
"""

from __future__ import annotations

from pathlib import Path

import jax
from _cli import run
from _test_flags import RECORDS, data_of, define_measuring_flags, sets_on
from absl import flags

from mrlato_jax.errors import InputError, check_number
from mrlato_jax.files import check_writable
from mrlato_jax.inference.load import load_offloader
from mrlato_jax.methods import label
from mrlato_jax.results import reporting
from mrlato_jax.training.run_folder import RunFolder
from mrlato_jax.training.stopping import GracefulStop

STOPPED = 1  # exit status

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "Run folder of meta_train.py. Required.")
define_measuring_flags()
flags.DEFINE_float(
    "optimum_s",
    None,
    "Also prove the optima, each within this time limit in seconds, and show every row's gap to them.",
)
flags.DEFINE_bool(
    "held_out", True, "With updates, also adapt to half of each set's DAGs and measure on the other half."
)


def main(_: list[str]) -> int:
    if FLAGS.run is None:
        raise InputError("--run is missing; accepted: the folder of a run")
    check_number("updates", FLAGS.updates, low=0, integer=True)
    if FLAGS.optimum_s is not None:
        check_number("optimum_s", FLAGS.optimum_s, low=0.0)
    folder = RunFolder.open(Path(FLAGS.run))
    config = folder.config
    dataset = data_of(folder)
    name, test_sets = f"{RECORDS[FLAGS.on]}-{FLAGS.updates}", sets_on(FLAGS.on, dataset, config.channel)
    policy = load_offloader(folder.path)
    print(f"data: {dataset.summary()}", flush=True)
    print(
        f"run: {folder.path}, method {label(config)}, after {policy.iteration} of {config.iterations} meta-iterations, "
        f"on {jax.devices()[0].device_kind}",
        flush=True,
    )
    check_writable(folder.path)
    held_out = FLAGS.held_out and FLAGS.updates > 0  # without updates, both halves are measured already
    with GracefulStop(lambda: STOPPED) as stop:
        results = reporting.evaluate(
            config, policy.params, test_sets, FLAGS.updates, stop, held_out=held_out, time_limit_s=FLAGS.optimum_s
        )
    if results is None:
        return STOPPED
    print(f"\n{reporting.evaluation_table(label(config), results)}\n", flush=True)
    origin = reporting.provenance(config, dataset, policy.iteration, FLAGS.updates, held_out)
    print(reporting.write(folder.path, name, label(config), results, origin), flush=True)
    return 0


if __name__ == "__main__":
    run(main)
