"""Exports the policy of a run as weights: NAME.safetensors, and NAME.json with its description and scores.

    python launch/export_weights.py --run=runs/reproduce-cpu/exp1-mrlato_plus/seed0 --name=exp1

--programs=32,64 also writes NAME-32.jax and NAME-64.jax, programs of `jax.export` for DAGs of at most 32 and 64 tasks.
Weights in the default folder are part of the package: `mrlato_jax.load_offloader("exp1")`.
"""

from __future__ import annotations

from pathlib import Path

from _cli import LAUNCH, run
from absl import flags

from mrlato_jax.dag import dataset as datasets
from mrlato_jax.errors import InputError, check_number
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.inference import exported, weights
from mrlato_jax.inference.load import load_offloader
from mrlato_jax.inference.trained_run import save_weights
from mrlato_jax.training.experiments import unseen_sets
from mrlato_jax.training.run_folder import RunFolder

FLAGS = flags.FLAGS
flags.DEFINE_string("run", None, "Run folder of meta_train.py. Required.")
flags.DEFINE_string("name", None, "Name of the files. Required.")
flags.DEFINE_list("programs", [], "Also write programs of jax.export, for DAGs of at most these numbers of tasks.")
flags.DEFINE_string("out", str(LAUNCH.parent / "data" / weights.SHIPPED), "Folder to write to.")


def main(_: list[str]) -> int:
    for name in ("run", "name"):
        if not FLAGS[name].value:
            raise InputError(f"--{name} is missing; accepted: {FLAGS[name].help}")
    if Path(FLAGS.name).name != FLAGS.name:
        raise InputError(f"--name is {FLAGS.name}; accepted: a name without a folder")
    folder = RunFolder.open(Path(FLAGS.run))
    config = folder.config
    dataset = datasets.load(config.experiment, folder.data_folder)
    if dataset.content_hash != folder.record["data_hash"]:
        raise InputError(f"run {folder.path} was trained on other data than {config.experiment} now has; accepted: it")
    for size in FLAGS.programs:
        check_number("programs", int(size) if size.isdecimal() else size, low=1, integer=True)
    out = Path(FLAGS.out).absolute()
    check_writable(out)
    written = save_weights(out, FLAGS.name, folder, unseen_sets(dataset, config.channel))
    scores = ", ".join(f"{name} {span:.1f} ms" for name, span in written["makespan_ms"].items())
    print(f"{out / FLAGS.name}{weights.TENSORS}: {written['method']}, mean latency before any update: {scores}")
    for size in map(int, FLAGS.programs):
        data = exported.to_program(load_offloader(out / f"{FLAGS.name}{weights.TENSORS}"), size, config.channel)
        write_atomically(out / f"{FLAGS.name}-{size}.jax", data)
        print(f"{out / FLAGS.name}-{size}.jax: {len(data)} bytes")
    return 0


if __name__ == "__main__":
    run(main)
