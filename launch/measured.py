"""Compares adaptation from measured makespans with calibration, where the real system differs from the model.

    taskset -c 0 python launch/measured.py
    python launch/measured.py --disturbance="half-duplex link" --seeds=3 --out=FOLDER

For each disturbance of mj.DISTURBANCES and each seed, methods plan applications that nobody has executed before. They
may execute others: to calibrate the model, or to adapt the packaged policy. Every execution is simulated and counted.
Takes half an hour on a busy core. Writes OUT/measured.json, .md and .png. After a stop, the same command continues.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from _cli import LAUNCH, run, write_figure
from absl import flags

from mrlato_jax.errors import check_choice, check_number
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.inference.load import load_offloader
from mrlato_jax.mec.disturbance import DISTURBANCES
from mrlato_jax.progress import Progress, format_table
from mrlato_jax.results import measured
from mrlato_jax.results.record import GrowingRecord
from mrlato_jax.results.reproduction import params_hash
from mrlato_jax.training.run_folder import session

FLAGS = flags.FLAGS
flags.DEFINE_string("policy", measured.EXPERIMENT, "Packaged weights, or a run folder.")
flags.DEFINE_multi_string("disturbance", [], "Name of a disturbance; can be repeated. By default all.")
flags.DEFINE_integer("seeds", measured.Sizes().seeds, "Number of worlds of each disturbance.")
flags.DEFINE_integer("iterations", measured.Sizes().iterations, "Meta-iterations on disturbances, from the policy.")
flags.DEFINE_string("out", str(LAUNCH.parent / "data" / "results"), "Folder of the record, the table and the figure.")


def main(_: list[str]) -> int:
    check_number("seeds", FLAGS.seeds, low=1, integer=True)
    check_number("iterations", FLAGS.iterations, low=1, integer=True)
    for name in FLAGS.disturbance:
        check_choice("disturbance", name, DISTURBANCES)
    out = Path(FLAGS.out).absolute()
    check_writable(out)
    policy = load_offloader(FLAGS.policy)
    sizes = measured.Sizes(seeds=FLAGS.seeds, iterations=FLAGS.iterations)
    given = dataclasses.asdict(sizes)
    given.pop("seeds")  # a record can get further seeds
    identity = {
        "policy": policy.label,
        "params_sha256": params_hash(policy.params),
        "sizes": given,
        "disturbances": {name: dataclasses.asdict(one) for name, one in DISTURBANCES.items()},
        "version": session()["versions"]["mrlato_jax"],
    }
    record = GrowingRecord(out / "measured.json", identity)
    names = FLAGS.disturbance or list(DISTURBANCES)
    for seed in range(sizes.seeds):
        missing = [name for name in names if f"seed {seed}" not in record.rows.get(name, {})]
        if not missing:
            continue
        with Progress(len(missing) + 2, f"seed {seed}") as progress:
            trained = {}
            for number, (name, method) in enumerate(measured.TRAINED.items(), start=1):
                trained[name] = measured.trained_on_disturbances(policy, method, sizes, seed)
                progress.update(number, trained=method)
            for number, name in enumerate(missing, start=3):
                bench = measured.bench(name, seed, sizes)
                record.add(name, f"seed {seed}", measured.curves_of(bench, policy, trained, sizes, seed))
                progress.update(number, measured=name)
    rows = {name: record.rows[name] for name in DISTURBANCES if name in record.rows}
    shown = "\n\n".join(format_table(*table) for table in measured.tables(rows))
    print(shown, flush=True)
    write_atomically(out / "measured.md", f"{shown}\n".encode())
    write_figure(out / "measured.png", lambda: measured.figure(rows))
    return 0


if __name__ == "__main__":
    run(main)
