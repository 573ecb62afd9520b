"""Compares the time of `plan` in this checkout with another revision, in alternating calls in one process.

    taskset -c 0 python launch/against.py --revision=HEAD~1
    taskset -c 0 python launch/against.py --revision=21ff47f --policy=exp1 --rounds=40

Both plan the same 64 applications of `mj.daggen(20, 0.6, 0.6)` on the paper's system, each with its own shipped weights
of --policy. The two alternate in going first, so that changes of the machine's speed affect both equally. Each row has
the medians and their ratio, new over old: first for one application per call, then for all 64 in one call.
"""

from __future__ import annotations

import gc
import importlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _cli import LAUNCH, run
from absl import flags

import mrlato_jax
from mrlato_jax.errors import InputError, check_number

OTHER = "mrlato_other"  # module name of the other revision's package
GRAPHS = 64
FIELDS = ("cycles", "upload_bytes", "download_bytes", "edges")

_Planner = tuple[Callable[[Any], Any], list[Any]]  # the timed function and its argument

FLAGS = flags.FLAGS
flags.DEFINE_string("revision", None, "The other revision: a commit, tag or branch.", required=True)
flags.DEFINE_string("policy", "exp2", "Shipped weights for planning.")
flags.DEFINE_integer(
    "rounds",
    20,
    "Number of times that each application is planned alone. All in one call are planned three times as often.",
)


def main(_: list[str]) -> int:
    check_number("--rounds", FLAGS.rounds, low=1, integer=True)
    with tempfile.TemporaryDirectory() as folder:
        here = _planner(mrlato_jax)
        planners = [_other(Path(folder)), here]
        for plan, graphs in planners:
            plan(graphs[0])
            plan(graphs)
        gc.collect()
        gc.freeze()
        alone = _seconds(planners, FLAGS.rounds)
        together = _seconds([(plan, [graphs]) for plan, graphs in planners], 3 * FLAGS.rounds)
    print(f"{'ms a plan':<22} {FLAGS.revision:>10} {'here':>10} {'ratio':>7}")
    for name, (old, new) in (("one application", alone), (f"{GRAPHS} in one call", together / GRAPHS)):
        print(f"{name:<22} {1e3 * old:>10.3f} {1e3 * new:>10.3f} {new / old:>7.3f}")
    return 0


def _unpacked(revision: str, folder: Path) -> Any:
    """Imports the package of another revision under another module name."""
    archive = subprocess.run(
        ["git", "archive", "--end-of-options", revision, "mrlato_jax", "data"],
        cwd=LAUNCH.parent,
        capture_output=True,
        check=False,
    )
    if archive.returncode:
        said = archive.stderr.decode(errors="replace").strip()
        raise InputError(
            f"--revision is {revision!r}; accepted: a commit, tag or branch that has mrlato_jax and data ({said})"
        )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    (folder / "mrlato_jax").rename(folder / OTHER)
    for source in (folder / OTHER).rglob("*.py"):
        source.write_text(re.sub(r"\bmrlato_jax\b", OTHER, source.read_text(encoding="utf-8")), encoding="utf-8")
    sys.path.insert(0, str(folder))
    return importlib.import_module(OTHER)


def _other(folder: Path) -> _Planner:
    try:
        return _planner(_unpacked(FLAGS.revision, folder))
    except ValueError as error:  # includes the InputError of the other package
        raise error if isinstance(error, InputError) else InputError(f"{FLAGS.revision}: {error}") from None


def _planner(package: Any) -> _Planner:
    """Returns the timed call, and the applications in the package's own type."""
    rng, system = np.random.default_rng(0), package.System()
    policy = package.load_offloader(FLAGS.policy)
    drawn = [mrlato_jax.daggen(20, 0.6, 0.6, rng) for _ in range(GRAPHS)]
    graphs = [package.TaskGraph.from_edges(**{name: getattr(graph, name) for name in FIELDS}) for graph in drawn]
    return lambda graphs: policy.plan(graphs, system), graphs


def _seconds(planners: list[_Planner], rounds: int) -> np.ndarray:
    """Measures the median seconds per call of both planners, which alternate for each argument."""
    (_, arguments), _ = planners
    taken = np.empty((2, rounds, len(arguments)))
    for turn in range(rounds):
        for i in range(len(arguments)):
            for which in (0, 1) if (turn + i) % 2 else (1, 0):
                plan, arguments = planners[which]
                begin = time.perf_counter()
                plan(arguments[i])
                taken[which, turn, i] = time.perf_counter() - begin
    return np.median(taken, axis=(1, 2))


if __name__ == "__main__":
    run(main)
