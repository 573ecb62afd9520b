"""Compares ways of planning: the modes of the offloader, plans in a given time, searches and the proof.

    taskset -c 0 python launch/modes.py --study=exp2

A study is an experiment's unseen sets ("exp1" to "exp3"), wider systems ("wider") or applications of 50 to 500 tasks
("large"). Every way plans the applications one by one, which takes a quarter of an hour a study on one core; recorded
rows are not computed again. The gaps are those to the optimum of the priority order, in "large" those to the HEFT-based
plan. Writes OUT/modes-STUDY.json, .md and .png. After a stop, the same command continues.
"""

from __future__ import annotations

from pathlib import Path

from _cli import LAUNCH, run, write_figure
from absl import flags

from mrlato_jax.config import EXPERIMENTS
from mrlato_jax.dag import dataset as datasets
from mrlato_jax.errors import check_number
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.inference.load import load_offloader
from mrlato_jax.progress import format_table
from mrlato_jax.results import modes
from mrlato_jax.results.record import GrowingRecord
from mrlato_jax.results.reproduction import params_hash
from mrlato_jax.training.run_folder import session
from mrlato_jax.training.stopping import GracefulStop

TITLES = {modes.WIDER: "on wider systems, mean of four kinds", modes.LARGE: "on large applications"}

FLAGS = flags.FLAGS
flags.DEFINE_enum("study", "exp1", modes.STUDIES, "What is planned.")
flags.DEFINE_string("policy", None, "Packaged weights, or a run folder. Default: the experiment's weights, or general.")
flags.DEFINE_integer("graphs", 20, "Number of applications of each setting, the first ones.")
flags.DEFINE_string("out", str(LAUNCH.parent / "data" / "results"), "Folder of the record, the table and the figure.")


def main(_: list[str]) -> int:
    study = FLAGS.study
    check_number("graphs", FLAGS.graphs, low=1, integer=True)
    out = Path(FLAGS.out).absolute()
    check_writable(out)
    policy = load_offloader(FLAGS.policy or (study if study in EXPERIMENTS else "general"))
    settings = modes.settings(study, FLAGS.graphs)
    identity = {
        "study": study,
        "data_hash": datasets.load(study).content_hash if study in EXPERIMENTS else None,
        "policy": policy.label,
        "params_sha256": params_hash(policy.params),
        "graphs": FLAGS.graphs,
        "version": session()["versions"]["mrlato_jax"],
    }
    suffix = "" if FLAGS.policy is None else f"+{Path(FLAGS.policy).name}"
    stem = out / f"modes-{study}{suffix}"
    record = GrowingRecord(stem.with_name(f"{stem.name}.json"), identity)

    def closing() -> int:
        print("stopped; the same command continues")
        return 0

    with GracefulStop(closing) as stop:
        if not modes.complete(record, settings, modes.ways(policy, study), stop):
            return closing()
    against = modes.FIRST if study == modes.LARGE else modes.BOUND
    found = modes.points(record.rows, against)
    header, cells = modes.table(found, against)
    if against == modes.FIRST:
        cells.append(modes.bounds(record.rows, against))
    shown = format_table(header, cells)
    print(shown, flush=True)
    write_atomically(stem.with_name(f"{stem.name}.md"), f"{shown}\n".encode())
    title = Path(FLAGS.policy or ("general" if study in TITLES else study)).name
    where = TITLES.get(study, f"on {study}'s unseen sets, mean of three")
    write_figure(stem.with_name(f"{stem.name}.png"), lambda: modes.figure(found, f"{title} {where}", against))
    return 0


if __name__ == "__main__":
    run(main)
