"""Draws the paper's DAG sets and stores them as padded arrays with a manifest (see mrlato_jax/dag/dataset.py).

python launch/make_data.py --experiment=exp1
python launch/make_data.py --check
"""

from __future__ import annotations

import functools
from pathlib import Path

from _cli import run
from absl import flags

from mrlato_jax.dag.daggen import DATA_UNITS
from mrlato_jax.dag.dataset import FAMILIES, DagDataset, build, load, save
from mrlato_jax.errors import InputError
from mrlato_jax.experiments.progress import Progress, format_table
from mrlato_jax.files import check_writable

_CHECKOUT_DATA = Path(__file__).resolve().parents[1] / "data"

FLAGS = flags.FLAGS
flags.DEFINE_enum("experiment", "all", [*FAMILIES, "all"], "Which data sets to make.")
flags.DEFINE_string("out", None, "Folder to write to, or to check; by default the checkout's data/.")
flags.DEFINE_enum(
    "data_unit", "KB", list(DATA_UNITS), "A task sends 5 to 50 of these (1 KB = 1000 bytes); MB is the paper's text."
)
flags.DEFINE_bool("overwrite", False, "Replace a stored data set of other contents.")
flags.DEFINE_bool("check", False, "Draw anew, compare with what is stored, write nothing; exit 1 if unlike.")


def main(_: list[str]) -> int:
    folder = Path(FLAGS.out) if FLAGS.out else _CHECKOUT_DATA
    if FLAGS.data_unit != "KB" and folder.resolve() == _CHECKOUT_DATA:
        raise InputError(f"data_unit is {FLAGS.data_unit}; accepted with the checkout's data/: KB (give --out)")
    if not FLAGS.check:
        check_writable(folder)
    rows, unlike = [], []
    for name in FAMILIES if FLAGS.experiment == "all" else (FLAGS.experiment,):
        path = folder / f"{name}.npz"
        stored = load(name, folder) if FLAGS.check or (path.exists() and not FLAGS.overwrite) else None
        with Progress(len(FAMILIES[name]), f"drawing {name}") as progress:
            dataset = build(name, FLAGS.data_unit, progress=functools.partial(_show, progress))
        difference = ""
        if stored is not None and stored.content_hash != dataset.content_hash:
            difference = f"stored {stored.content_hash[:12]}, drawn anew {dataset.content_hash[:12]}"
        if FLAGS.check:
            unlike += [f"{name}: {difference}"] if difference else []
        elif difference:
            raise InputError(f"{path} holds other data: {difference}; accepted: another --out, or --overwrite")
        else:
            save(dataset, folder)
        rows.append(_row(stored or dataset, path))
    print(format_table(["experiment", "sets", "DAGs", "tasks", "edges", "KiB", "content hash"], rows))
    if unlike:
        print("unlike what is stored:", *unlike, sep="\n")
        return 1
    print(f"{'same as stored' if FLAGS.check else 'written'}: {folder}")
    return 0


def _show(progress: Progress, done: int, total: int) -> None:
    progress.update(done)


def _row(dataset: DagDataset, path: Path) -> tuple[str, ...]:
    size = f"{path.stat().st_size / 1024:.0f}"
    return (dataset.name, *map(str, dataset.counts.values()), size, dataset.content_hash[:12])


if __name__ == "__main__":
    run(main)
