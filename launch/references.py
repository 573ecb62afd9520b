"""Plans the unseen sets of an experiment with all planners, including the proven optimum, and records every plan.

    python launch/references.py --experiment=exp1 --out=references-exp1.json

The optimum is for the priority order, proven if --optimum_s suffices; order search also tries other orders. After an
interruption, the same command continues with the same planner and set. A record of other data, settings or another
version of this package is refused. Recorded plans are simulated again and must have the recorded makespans.
"""

from __future__ import annotations

from pathlib import Path

from _cli import run
from _reference_flags import define_reference_flags, search_budget
from _test_flags import define_test_flags, sets_on
from absl import flags

from mrlato_jax.config import EXPERIMENTS
from mrlato_jax.dag import dataset as datasets
from mrlato_jax.errors import InputError
from mrlato_jax.files import check_writable
from mrlato_jax.mec.system import CHANNELS
from mrlato_jax.methods import planned_methods
from mrlato_jax.progress import format_table
from mrlato_jax.results.references import complete, reference_record, summary
from mrlato_jax.training.stopping import GracefulStop

FLAGS = flags.FLAGS
flags.DEFINE_enum("experiment", "exp1", list(EXPERIMENTS), "Experiment with the unseen sets.")
flags.DEFINE_enum("channel", "paper", list(CHANNELS), "Channel rules of the simulator.")
flags.DEFINE_string("out", None, "File of the record. Required.")
flags.DEFINE_string("data", None, "Folder of the data sets. Default: the packaged ones.")
define_reference_flags()
define_test_flags()


def main(_: list[str]) -> int:
    if FLAGS.out is None:
        raise InputError("--out is missing; accepted: the file of the record")
    budget = search_budget()
    dataset = datasets.load(FLAGS.experiment, FLAGS.data and Path(FLAGS.data))
    test_sets = sets_on("test", dataset, FLAGS.channel)
    path = Path(FLAGS.out).absolute()
    check_writable(path.parent)
    print(f"data: {dataset.summary()}", flush=True)
    record = reference_record(path, dataset, FLAGS.channel, test_sets, budget)

    def closing() -> int:
        print(f"stopped; the same command continues. record: {path}")
        return 0

    with GracefulStop(closing) as stop:
        if not complete(record, test_sets, budget, stop):
            return closing()
    print(f"\n{format_table(*summary(record.rows, list(planned_methods(budget))))}\n", flush=True)
    for name, rows in record.rows.items():
        proven = rows["optimum"]["proven"]
        print(f"{name}: {sum(proven)} of {len(proven)} optima proven")
    print(f"record: {path}")
    return 0


if __name__ == "__main__":
    run(main)
