"""Searches for the best plans of fresh DAGs of an experiment's training families, for warm starts of policies.

    python launch/make_demonstrations.py --experiment=exp1 --graphs_per_family=400

Writes OUT/demonstrations-EXPERIMENT.npz from time to time. After an interruption, the same command continues. Uses one
process per core, since a proof uses one core.
"""

from __future__ import annotations

import itertools
import multiprocessing
import operator
import signal
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from _cli import run
from absl import flags

from mrlato_jax.dag.families import FAMILIES
from mrlato_jax.errors import check_number
from mrlato_jax.files import check_writable
from mrlato_jax.learning.devices import cores, drop_programs
from mrlato_jax.processes import end_with_parent
from mrlato_jax.progress import Progress
from mrlato_jax.training.demonstrations import Demonstration, demonstrate, find, load, save, wanted
from mrlato_jax.training.stopping import GracefulStop

AT_ONCE = 64  # DAGs of one family that a worker plans between two reports

FLAGS = flags.FLAGS
flags.DEFINE_enum("experiment", "exp1", list(FAMILIES), "Experiment with the training families.")
flags.DEFINE_integer("graphs_per_family", 400, "Number of DAGs of each family at each training rate.")
flags.DEFINE_float("proof_s", 1.0, "Time limit of each proof, seconds; without a proof, the best plan found counts.")
flags.DEFINE_string("out", str(Path(__file__).resolve().parents[1] / "data"), "Folder to write to.")


def main(_: list[str]) -> int:
    check_number("proof_s", FLAGS.proof_s, low=0.0)
    everything = list(wanted(FLAGS.experiment, FLAGS.graphs_per_family))
    path = find(FLAGS.experiment, Path(FLAGS.out).absolute())
    check_writable(path.parent)
    known = {}
    if path.exists():
        known = {(entry.set_index, entry.graph_index, entry.rate_bps): entry for entry in load(path, FLAGS.experiment)}
    missing = sorted(place for place in everything if place not in known)
    # Each chunk has one family, so that its programs serve the whole chunk.
    by_family = [list(places) for _, places in itertools.groupby(missing, key=operator.itemgetter(0))]
    chunks = [places[i : i + AT_ONCE] for places in by_family for i in range(0, len(places), AT_ONCE)]
    chunks.sort(key=lambda places: places[0][1])  # keeps the families balanced after an interruption
    done = len(everything) - len(missing)
    # Spawned, since a forked process may hang if JAX's threads are running.
    with (
        GracefulStop() as stop,
        Progress(len(everything), f"planning {FLAGS.experiment}", start=done) as progress,
        ProcessPoolExecutor(cores(), multiprocessing.get_context("spawn"), begin) as workers,
    ):
        running = [workers.submit(plan, FLAGS.experiment, chunk, FLAGS.proof_s) for chunk in chunks]
        for number, finished in enumerate(as_completed(running), start=1):
            for entry in finished.result():
                known[entry.set_index, entry.graph_index, entry.rate_bps] = entry
                done += 1
            if number % 4 == 0 or number == len(chunks) or stop.requested:
                save(path, FLAGS.experiment, [known[place] for place in sorted(known)])
            progress.update(done, proven=str(sum(entry.proven for entry in known.values())))
            if stop.requested:
                workers.shutdown(cancel_futures=True)
                print(f"stopped; the same command continues. {path}")
                return 0
    proven = sum(entry.proven for entry in known.values())
    print(f"{path}: {len(known)} plans, {proven} proven")
    return 0


def begin() -> None:
    """Prepares a worker."""
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # signals reach all processes; the parent decides
        signal.signal(number, signal.SIG_IGN)


def plan(experiment: str, places: Sequence[tuple[int, int, float]], proof_s: float) -> list[Demonstration]:
    """Plans a chunk in a worker."""
    drop_programs()  # of other families
    return [demonstrate(experiment, *place, proof_s) for place in places]


if __name__ == "__main__":
    run(main)
