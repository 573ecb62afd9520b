"""Measures each mode of the offloader on an experiment's unseen sets: gap to the optimum, simulated plans, time.

    taskset -c 0 python launch/modes.py --experiment=exp2

For comparison, the same searches start from HEFT-based's plan and from random plans. The DAGs are planned one by one,
which takes a quarter of an hour per experiment on one core; recorded rows are not computed again. Writes
OUT/modes-EXPERIMENT.json, .md and .png. The optima come from OUT/references-EXPERIMENT.json (launch/references.py).
After a stop, the same command continues.
"""

from __future__ import annotations

from pathlib import Path

from _cli import LAUNCH, run
from _reference_flags import define_reference_flags, search_budget
from absl import flags

from mrlato_jax.config import EXPERIMENTS
from mrlato_jax.dag import dataset as datasets
from mrlato_jax.drawing import png
from mrlato_jax.errors import InputError
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.inference.load import load_offloader
from mrlato_jax.progress import format_table
from mrlato_jax.results import modes
from mrlato_jax.results.record import GrowingRecord
from mrlato_jax.results.references import bound_ms, reference_record
from mrlato_jax.results.reproduction import params_hash
from mrlato_jax.training.experiments import unseen_sets
from mrlato_jax.training.run_folder import session
from mrlato_jax.training.stopping import GracefulStop

CHANNEL = "paper"

FLAGS = flags.FLAGS
flags.DEFINE_enum("experiment", "exp1", list(EXPERIMENTS), "Experiment with the unseen sets.")
flags.DEFINE_string("policy", None, "Packaged weights, or a run folder. Default: the experiment's weights.")
flags.DEFINE_integer("graphs", 100, "Number of DAGs of each set, the first ones.")
flags.DEFINE_string("out", str(LAUNCH.parent / "data" / "results"), "Folder of the record, the table and the figure.")
define_reference_flags()


def main(_: list[str]) -> int:
    name = FLAGS.experiment
    out = Path(FLAGS.out).absolute()
    check_writable(out)
    policy = load_offloader(FLAGS.policy or name)
    dataset = datasets.load(name)
    everything = unseen_sets(dataset, CHANNEL)
    if not 1 <= FLAGS.graphs <= dataset.graphs_per_set:
        raise InputError(f"graphs is {FLAGS.graphs}; accepted: 1 to {dataset.graphs_per_set}")
    test_sets = [modes.first(test_set, FLAGS.graphs) for test_set in everything]
    path = out / f"references-{name}.json"
    references = reference_record(path, dataset, CHANNEL, everything, search_budget())
    missing = [test_set.name for test_set in everything if "optimum" not in references.rows.get(test_set.name, {})]
    if missing:
        raise InputError(f"{path} has no optima of {', '.join(missing)}; accepted: a record of references.py")
    optima = {s.name: bound_ms(references.rows[s.name], FLAGS.graphs) for s in everything}
    identity = {
        "experiment": name,
        "data_hash": dataset.content_hash,
        "policy": policy.label,
        "params_sha256": params_hash(policy.params),
        "graphs": FLAGS.graphs,
        "version": session()["versions"]["mrlato_jax"],
    }
    suffix = "" if FLAGS.policy is None else f"+{Path(FLAGS.policy).name}"
    stem = out / f"modes-{name}{suffix}"
    record = GrowingRecord(stem.with_name(f"{stem.name}.json"), identity)

    def closing() -> int:
        print("stopped; the same command continues")
        return 0

    with GracefulStop(closing) as stop:
        if not modes.complete(record, test_sets, policy, stop):
            return closing()
    found = modes.points(record.rows, optima)
    shown = format_table(*modes.modes_table(found))
    print(shown, flush=True)
    write_atomically(stem.with_name(f"{stem.name}.md"), f"{shown}\n".encode())
    try:
        drawn = png(modes.figure(found, f"{FLAGS.policy or name} on {name}'s unseen sets, mean of three"))
    except ImportError:
        print("no figure: matplotlib is not installed (pip install 'mrlato-jax[plots]')", flush=True)
        return 0
    write_atomically(stem.with_name(f"{stem.name}.png"), drawn)
    return 0


if __name__ == "__main__":
    run(main)
