"""Plans without learning on the unseen sets of an experiment, the proven optimum among them, and records every plan.

    python launch/references.py --experiment=exp1 --out=results/references-exp1.json

The optimum is that of the priority order, proven where --optimum_s suffices; order search looks for better orders too.
Interrupted, it goes on with the planner and set at which it stopped. A record of other data, settings or another
version of this package is refused; the plans in it are simulated again, and must take what it says.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

from _cli import run
from _test_flags import define_test_flags, settings_on
from absl import flags

from mrlato_jax.config import EXPERIMENTS
from mrlato_jax.dag import dataset as datasets
from mrlato_jax.errors import InputError, check_number
from mrlato_jax.experiments.progress import Progress, format_table
from mrlato_jax.experiments.references import References, run_planner, summary
from mrlato_jax.experiments.run_folder import session
from mrlato_jax.files import check_writable
from mrlato_jax.mec.system import CHANNELS
from mrlato_jax.methods import SearchBudget, planned_methods

_BUDGET = SearchBudget()

FLAGS = flags.FLAGS
flags.DEFINE_enum("experiment", "exp1", list(EXPERIMENTS), "Whose unseen sets.")
flags.DEFINE_enum("channel", "paper", list(CHANNELS), "Channel rules of the simulator.")
flags.DEFINE_string("out", None, "File of the record. Required.")
flags.DEFINE_string("data", None, "Folder of the data sets. Default: the ones that come with the package.")
flags.DEFINE_float("optimum_s", _BUDGET.optimum_s, "Seconds that a DAG's optimum may take to be proven.")
flags.DEFINE_integer("annealing_steps", _BUDGET.annealing_steps, "Changes that each of order search's chains tries.")
flags.DEFINE_integer(
    "adaptation_evaluations",
    _BUDGET.adaptation_evaluations,
    "Simulated plans a DAG of `local search, as many`: as many as 100 updates of a policy spend with 10 rollouts.",
)
define_test_flags()


def main(_: list[str]) -> int:
    if FLAGS.out is None:
        raise InputError("--out is missing; accepted: the file of the record")
    check_number("optimum_s", FLAGS.optimum_s, low=0.0)
    check_number("annealing_steps", FLAGS.annealing_steps, low=1, integer=True)
    check_number("adaptation_evaluations", FLAGS.adaptation_evaluations, low=1, integer=True)
    budget = SearchBudget(FLAGS.optimum_s, FLAGS.annealing_steps, FLAGS.adaptation_evaluations)
    dataset = datasets.load(FLAGS.experiment, FLAGS.data and Path(FLAGS.data))
    settings = settings_on("test", dataset, FLAGS.channel)
    identity = {
        "experiment": FLAGS.experiment,
        "data_hash": dataset.content_hash,
        "channel": FLAGS.channel,
        "version": session()["versions"]["mrlato_jax"],
        **dataclasses.asdict(budget),
    }
    path = Path(FLAGS.out).absolute()
    check_writable(path.parent)
    print(f"data: {dataset.summary()}", flush=True)
    record, planners = References(path, identity, settings), planned_methods(budget)
    for setting, name in record.missing(settings, planners):
        with Progress(len(setting.graphs), f"{name} on {setting.name}") as progress:
            show = partial(_show, progress)
            row = run_planner(planners[name], setting, show)
        record.add(setting.name, name, row)
    print(f"\n{format_table(*summary(record.rows))}\n", flush=True)
    for name, rows in record.rows.items():
        proven = rows["optimum"]["proven"]
        print(f"{name}: {sum(proven)} of {len(proven)} optima proven")
    print(f"record: {path}")
    return 0


def _show(progress: Progress, done: int, makespan_ms: float) -> None:
    progress.update(done, latency_ms=makespan_ms)


if __name__ == "__main__":
    run(main)
