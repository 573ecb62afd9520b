"""Compares adaptation from measured makespans with calibration, where the real system differs from the model.

    taskset -c 0 python launch/measured.py
    python launch/measured.py --disturbance="half-duplex link" --seeds=3 --out=FOLDER
    python launch/measured.py --testbed --disturbance="half-duplex link"
    python launch/measured.py --testbed --notrained --disturbance="unknown rates" --disturbance="shared link"

For each disturbance of mj.DISTURBANCES and each seed, methods plan applications that nobody has executed before. They
may execute others: to calibrate the model, or to adapt the packaged policy. Every execution is counted. Executions are
simulated, which takes half an hour on a busy core. With --testbed they are real, by a device and a server on this
machine; this takes a quarter of an hour on two quiet cores for a disturbance and a seed (3 to 8 min with --notrained).
Writes OUT/measured.json, .md and .png, or OUT/measured-testbed.*. After a stop, the same command continues.
"""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from _cli import LAUNCH, run, write_figure
from absl import flags

from mrlato_jax.edge.testbed import Bed, cannot_make
from mrlato_jax.errors import InputError, check_choice, check_number
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.inference.load import load_offloader
from mrlato_jax.mec.disturbance import DISTURBANCES
from mrlato_jax.mec.system import System
from mrlato_jax.progress import Progress, format_table
from mrlato_jax.results import measured
from mrlato_jax.results.realities import Reality
from mrlato_jax.results.record import GrowingRecord
from mrlato_jax.results.reproduction import params_hash
from mrlato_jax.training.run_folder import session

FLAGS = flags.FLAGS
flags.DEFINE_string("policy", measured.EXPERIMENT, "Packaged weights, or a run folder.")
flags.DEFINE_multi_string("disturbance", [], "Name of a disturbance; can be repeated. By default all.")
flags.DEFINE_integer("seeds", None, "Number of worlds of each disturbance. Default: 5, on the testbed 3.")
flags.DEFINE_integer("iterations", measured.Sizes().iterations, "Meta-iterations on disturbances, from the policy.")
flags.DEFINE_bool("testbed", False, "Execute on the testbed, with fewer methods, executions and seeds.")
flags.DEFINE_bool("trained", True, "Also train policies on disturbances in simulation, and adapt these.")
flags.DEFINE_string("out", str(LAUNCH.parent / "data" / "results"), "Folder of the record, the table and the figure.")


def reality_of(name: str, seed: int) -> AbstractContextManager[Reality]:
    """Returns a context of what executes plans."""
    return measured.tested(name, seed) if FLAGS.testbed else nullcontext(measured.simulated(name, seed))


def main(_: list[str]) -> int:
    if FLAGS.seeds is not None:
        check_number("seeds", FLAGS.seeds, low=1, integer=True)
    check_number("iterations", FLAGS.iterations, low=1, integer=True)
    for name in FLAGS.disturbance:
        check_choice("disturbance", name, DISTURBANCES)
    if FLAGS.testbed:
        for name in FLAGS.disturbance:
            if wrong := cannot_make(DISTURBANCES[name]):
                raise InputError(wrong)
    out = Path(FLAGS.out).absolute()
    check_writable(out)
    policy = load_offloader(FLAGS.policy)
    sizes = measured.TESTBED_SIZES if FLAGS.testbed else measured.Sizes()
    sizes = dataclasses.replace(sizes, seeds=FLAGS.seeds or sizes.seeds, iterations=FLAGS.iterations)
    left_out = {*(measured.NOT_TESTED if FLAGS.testbed else ()), *(() if FLAGS.trained else measured.TRAINED)}
    methods = [name for name in measured.METHOD_NAMES if name not in left_out]
    given = dataclasses.asdict(sizes)
    given.pop("seeds")  # a record can get further seeds
    identity: dict[str, Any] = {
        "policy": policy.label,
        "params_sha256": params_hash(policy.params),
        "sizes": given,
        "disturbances": {name: dataclasses.asdict(one) for name, one in DISTURBANCES.items()},
        "version": session()["versions"]["mrlato_jax"],
    }
    if FLAGS.testbed:
        bed = Bed(System(), [measured.APPLICATION])
        of_bed = {name: getattr(bed, name) for name in ("link", "vm", "clock", "cores")}
        identity["bed"] = {**of_bed, "speed": measured.SPEED}
    stem = "measured-testbed" if FLAGS.testbed else "measured"
    record = GrowingRecord(out / f"{stem}.json", identity)
    makeable = [name for name, one in DISTURBANCES.items() if not (FLAGS.testbed and cannot_make(one))]
    names = FLAGS.disturbance or makeable
    for seed in range(sizes.seeds):
        missing = [name for name in names if f"seed {seed}" not in record.rows.get(name, {})]
        if not missing:
            continue
        training = {name: method for name, method in measured.TRAINED.items() if name in methods}
        with Progress(len(missing) + len(training), f"seed {seed}") as progress:
            trained = {}
            for number, (name, method) in enumerate(training.items(), start=1):
                trained[name] = measured.trained_on_disturbances(policy, method, sizes, seed)
                progress.update(number, trained=method)
            for number, name in enumerate(missing, start=1 + len(training)):
                with reality_of(name, seed) as reality:
                    bench = measured.bench(seed, sizes, reality)
                    curves = measured.curves_of(bench, policy, trained, sizes, seed, methods)
                record.add(name, f"seed {seed}", curves)
                progress.update(number, measured=name)
    rows = {name: record.rows[name] for name in DISTURBANCES if name in record.rows}
    shown = "\n\n".join(format_table(*table) for table in measured.tables(rows))
    print(shown, flush=True)
    write_atomically(out / f"{stem}.md", f"{shown}\n".encode())
    write_figure(out / f"{stem}.png", lambda: measured.figure(rows))
    return 0


if __name__ == "__main__":
    run(main)
