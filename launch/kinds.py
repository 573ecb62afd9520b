"""Measures the general policy on fresh systems of every kind: up to three servers, pins, results that stay.

    python launch/kinds.py
    python launch/kinds.py --kind="K=1, results stay" --graphs=200 --out=FOLDER

For each kind, HEFT-based, the look-ahead and the modes of the policy plan fresh applications on fresh systems. The
results are mean gaps to the proven optimum. Then 10,000 plans with pins are checked for forbidden sites. Takes half an
hour on one core. Writes OUT/kinds.json, .md and .png. After a stop, the same command continues.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from _cli import LAUNCH, run, write_figure
from absl import flags

from mrlato_jax.errors import check_choice, check_number
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.inference.load import load_offloader
from mrlato_jax.learning.devices import drop_programs
from mrlato_jax.progress import Progress, format_table
from mrlato_jax.results import kinds
from mrlato_jax.results.record import GrowingRecord
from mrlato_jax.results.reproduction import params_hash
from mrlato_jax.training.run_folder import session

FORBIDDEN, PLANS = "forbidden", "plans of pinned applications"

FLAGS = flags.FLAGS
flags.DEFINE_string("policy", "general", "Packaged weights, or a run folder.")
flags.DEFINE_multi_string("kind", [], "Name of a kind in the table; can be repeated. By default all.")
flags.DEFINE_integer("graphs", 20, "Number of applications of each kind.")
flags.DEFINE_integer("plans", 10_000, "Number of plans to check for forbidden sites.")
flags.DEFINE_float("optimum_s", 2.0, "Time limit of each proof, seconds.")
flags.DEFINE_string("out", str(LAUNCH.parent / "data" / "results"), "Folder of the record, the table and the figure.")


def main(_: list[str]) -> int:
    check_number("graphs", FLAGS.graphs, low=1, integer=True)
    check_number("plans", FLAGS.plans, low=0, integer=True)
    check_number("optimum_s", FLAGS.optimum_s, low=0.0)
    names = [kind.name for kind in kinds.KINDS]
    for name in FLAGS.kind:
        check_choice("kind", name, names)
    wanted = [kind for kind in kinds.KINDS if not FLAGS.kind or kind.name in FLAGS.kind]
    out = Path(FLAGS.out).absolute()
    check_writable(out)
    policy = load_offloader(FLAGS.policy)
    identity = {
        "policy": policy.label,
        "params_sha256": params_hash(policy.params),
        "graphs": FLAGS.graphs,
        "optimum_s": FLAGS.optimum_s,
        "version": session()["versions"]["mrlato_jax"],
    }
    record = GrowingRecord(out / "kinds.json", identity)
    with Progress(len(wanted), "planning for each kind") as progress:
        for number, kind in enumerate(wanted, start=1):
            if kind.name not in record.rows:
                asked = list(islice(kinds.drawn(kind), FLAGS.graphs))
                record.add(kind.name, "measured", kinds.measured(policy, asked, FLAGS.optimum_s))
                drop_programs()  # other kinds do not use them
            progress.update(number, kind=kind.name)
    pinned = [kind for kind in wanted if kind.pinned and not kind.energy]
    if pinned:
        with Progress(len(pinned), "checking for forbidden sites") as progress:
            for number, kind in enumerate(pinned, start=1):
                each = -(-FLAGS.plans // len(pinned))
                if record.rows.get(FORBIDDEN, {}).get(kind.name, {}).get(PLANS) != each:
                    wrong = kinds.forbidden(policy, kind, each)
                    record.add(FORBIDDEN, kind.name, {PLANS: each, FORBIDDEN: wrong})
                    drop_programs()
                progress.update(number, kind=kind.name)
    rows = {name: row["measured"] for name, row in record.rows.items() if name != FORBIDDEN}
    looked = record.rows.get(FORBIDDEN, {}).values()
    total, wrong = (sum(row[field] for row in looked) for field in (PLANS, FORBIDDEN))
    shown = format_table(*kinds.table(rows))
    if total:
        shown += f"\n\n{total} {PLANS}: {wrong} with a forbidden site."
    print(shown, flush=True)
    write_atomically(out / "kinds.md", f"{shown}\n".encode())
    write_figure(out / "kinds.png", lambda: kinds.figure(rows))
    return 0


if __name__ == "__main__":
    run(main)
