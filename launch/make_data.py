"""Draws the paper's DAG sets and stores them as padded arrays with a manifest (see mrlato_jax/dag/dataset.py).

    python launch/make_data.py --experiment=exp1
    python launch/make_data.py --check
    python launch/make_data.py --from=DIR --name=mine --out=OUT --uplink_mbps=20 --downlink_mbps=60

The last command makes a data set from your own files, in any format that `mrlato-offload` reads: DIR/train/SET/*, with
the same number of files in each SET, and DIR/test/SET/* for test sets. `meta_train.py --experiment=mine --data=OUT`
trains on it.
"""

from __future__ import annotations

import functools
from pathlib import Path

from _cli import run
from absl import flags

from mrlato_jax.dag.daggen import DATA_UNITS
from mrlato_jax.dag.dataset import SPLITS, DagDataset, build, in_topological_order, load, save
from mrlato_jax.dag.families import FAMILIES
from mrlato_jax.dag.formats.any_format import Unsaid, kind_of, read_any
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, escaped
from mrlato_jax.files import check_writable
from mrlato_jax.mec.system import System
from mrlato_jax.progress import Progress, format_table

_CHECKOUT_DATA = Path(__file__).resolve().parents[1] / "data"

FLAGS = flags.FLAGS
flags.DEFINE_enum("experiment", "all", [*FAMILIES, "all"], "Data sets to make.")
flags.DEFINE_string("out", None, "Folder to write to, or to check; by default the checkout's data/.")
flags.DEFINE_enum(
    "data_unit",
    "KB",
    list(DATA_UNITS),
    "Unit of data: a task sends 5 to 50 of it (1 KB = 1000 bytes). MB is from the paper's text.",
)
flags.DEFINE_bool("overwrite", False, "Replace a stored data set that differs.")
flags.DEFINE_string("from", None, "Folder of your files, DIR/train/SET/* and DIR/test/SET/*; with --out, --name.")
flags.DEFINE_string("name", None, "Name of the data set made --from files.")
flags.DEFINE_float("uplink_mbps", None, "Uplink rate of the system for your files; required with --from.")
flags.DEFINE_float("downlink_mbps", None, "Alike.")
flags.DEFINE_float("ue_ghz", 1.0, "Clock of the system's UE.")
flags.DEFINE_float("vm_ghz", 10.0, "Clock of the system's VM.")
flags.DEFINE_float("cycles_per_byte", None, "For graphs with sizes in bytes: cycles per byte; by default 1000.")
flags.DEFINE_float("cycles_per_flop", None, "For graphs with sizes in FLOP: cycles per FLOP; by default 1.")
flags.DEFINE_float("cycles_per_unit", None, "For STG files, SAGA files and weights: cycles per unit of work.")
flags.DEFINE_float("bytes_per_unit", None, "For SAGA files and weights: bytes per unit of data.")
flags.DEFINE_float("result_bytes", None, "For STG files and graphs without bytes: bytes of each result and input.")
flags.DEFINE_multi_string("dimension", [], "For ONNX files: NAME=SIZE or INPUT:AXIS=SIZE of symbolic dimensions.")
flags.DEFINE_multi_string(
    "operator_cost", [], "For ONNX files: OPERATOR=MACS, multiply-accumulates per output element of unknown operators."
)
flags.DEFINE_string("machine_hz", None, "For WfFormat and DAX files: the clock of their machines, or `recorded`.")
flags.DEFINE_float("cycles_per_mac", None, "For ONNX files: cycles per multiply-accumulate.")
flags.DEFINE_integer("num_tasks", None, "Coarsen files to at most this number of tasks.")
flags.DEFINE_bool(
    "check", False, "Draw again, compare with the stored data, write nothing; exit status 1 if they differ."
)


def main(_: list[str]) -> int:
    if FLAGS["from"].value is not None:
        return from_files(Path(FLAGS["from"].value))
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
        print("different from the stored data:", *unlike, sep="\n")
        return 1
    print(f"{'same as stored' if FLAGS.check else 'written'}: {escaped(str(folder))}")
    return 0


def from_files(source: Path) -> int:
    """Makes a data set of a user's files."""
    for name in ("check", "experiment", "data_unit"):
        if FLAGS[name].present:
            raise InputError(f"--{name} is given with --from; accepted: without it")
    for name in ("out", "name", "uplink_mbps", "downlink_mbps"):
        if FLAGS[name].value is None:
            raise InputError(f"--{name} is missing; accepted: a value, with --from")
    if FLAGS.name in FAMILIES:
        raise InputError(f"--name is {FLAGS.name}; accepted: none of {', '.join(FAMILIES)}")
    system = System(
        ue_hz=1e9 * FLAGS.ue_ghz, vm_hz=1e9 * FLAGS.vm_ghz, uplink_bps=1e6 * FLAGS.uplink_mbps,
        downlink_bps=1e6 * FLAGS.downlink_mbps,
    )  # fmt: skip
    folder = Path(FLAGS.out)
    check_writable(folder)
    files = {
        (split, place.name): sorted(path for path in place.glob("[!.]*") if path.is_file())
        for split in SPLITS
        for place in sorted((source / split).glob("*"))
        if place.is_dir()
    }
    if not any(split == SPLITS[0] for split, _ in files):
        raise InputError(f"--from is {source}, which has no folder in {source / SPLITS[0]}; accepted: DIR/train/SET/*")
    unsaid = Unsaid.of_options(lambda name: FLAGS[name].value)
    sets: dict[str, list[TaskGraph]] = {f"{split}_{name}": [] for split, name in files}
    with Progress(sum(map(len, files.values())) or 1, f"reading {escaped(str(source))}") as progress:
        for done, ((split, name), path) in enumerate(
            ((place, path) for place, found in files.items() for path in found), start=1
        ):
            # One folder may hold several formats, so flags that a file's format does not take are ignored.
            sets[f"{split}_{name}"].append(in_topological_order(read_any(path, unsaid.of(kind_of(path)))))
            progress.update(done, file=escaped(path.name))
    numbers = {name: getattr(system, name) for name in ("ue_hz", "vm_hz", "uplink_bps", "downlink_bps")}
    settings = {"made_from": "files", "systems": [numbers] * len(sets)}
    splits = tuple(name.partition("_")[0] for name in sets)
    dataset = DagDataset.from_graphs(FLAGS.name, sets, splits, settings)
    stored = folder / f"{FLAGS.name}.npz"
    if stored.exists() and not FLAGS.overwrite and load(FLAGS.name, folder).content_hash != dataset.content_hash:
        raise InputError(f"{stored} holds other data; accepted: another --out or --name, or --overwrite")
    save(dataset, folder)
    print(f"data: {dataset.summary()}\nwritten: {escaped(str(folder))}")
    return 0


def _show(progress: Progress, done: int, total: int) -> None:
    progress.update(done)


def _row(dataset: DagDataset, path: Path) -> tuple[str, ...]:
    size = f"{path.stat().st_size / 1024:.0f}"
    return (dataset.name, *map(str, dataset.counts.values()), size, dataset.content_hash[:12])


if __name__ == "__main__":
    run(main)
