"""The smallest run that is still one: a data set, settings and the scripts that take them. Shared by the run tests."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import io
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from absl import app, flags

from mrlato_jax.config import LearningConfig, NetworkConfig, TrainConfig
from mrlato_jax.dag.daggen import daggen
from mrlato_jax.dag.dataset import DagDataset, save
from mrlato_jax.learning import devices

ROOT = Path(__file__).resolve().parents[1]
GRAPHS = 4  # in each set

# Large steps and a decoder that sees the simulator: decisions differ from the first iteration on.
POLICY = NetworkConfig(decoder_input="task_sim", units=16, heads=2, layers=1, neighbour_width=8)
LEARNING = LearningConfig(inner_lr=0.02, outer_lr=0.02, meta_batch=2, graphs_per_task=2, rollouts=2)
CONFIG = TrainConfig(iterations=6, seed=3, network=POLICY, learning=LEARNING)
REFERENCE_ITERATIONS = 150


def dataset(seed: int = 0, num_tasks: int = 6, train: int = 3) -> DagDataset:
    """Training and two test sets under the name and system of Experiment 2."""
    rng = np.random.default_rng(seed)
    names = (*(f"train{i}" for i in range(train)), "test0", "test1")
    sets = {name: [daggen(num_tasks, 0.6, 0.6, rng) for _ in range(GRAPHS)] for name in names}
    return DagDataset.from_graphs("exp2", sets, ("train",) * train + ("test",) * 2, {"tests": seed})


def flags_of(config: TrainConfig) -> list[str]:
    """The flags that give `config`: every setting that is not the default."""

    def differing(ours: Any, plain: Any) -> dict[str, Any]:
        values = {field.name: getattr(ours, field.name) for field in dataclasses.fields(ours)}
        return {name: value for name, value in values.items() if value != getattr(plain, name)}

    plain = TrainConfig()
    given = differing(config, plain) | differing(config.learning, plain.learning)
    given |= differing(config.network, plain.network)
    return [f"--{name}={value}" for name, value in given.items() if name not in ("network", "learning")]


def hashes(folder: Path) -> dict[str, str]:
    """Every file below `folder` by name, with the hash of its contents."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run_here(script: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs `launch/<script>` in this process, which is afterwards as before: for refusals and short computations."""
    path = ROOT / "launch" / script
    command = [str(path), *map(str, arguments)]
    known, code = set(flags.FLAGS), 0
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as changes:
        for change in (
            contextlib.chdir(cwd),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.dict(os.environ),
            mock.patch.object(sys, "argv", command),
            mock.patch.object(sys, "path", [str(path.parent), *sys.path]),
            mock.patch.object(app, "run", lambda main, flags_parser: sys.exit(main(flags_parser(sys.argv)))),
            mock.patch.object(devices, "use_cores"),  # too late here
        ):
            changes.enter_context(change)
        try:
            runpy.run_path(str(path), run_name="__main__")
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            for name in set(flags.FLAGS) - known:
                delattr(flags.FLAGS, name)
            flags.FLAGS.unparse_flags()
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended, and that nobody has waited for, does not. Reads /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: Sequence[int], seconds: float) -> None:
    """Fails where one of the processes still runs after so long; then it is ended."""
    until = time.monotonic() + seconds
    while left := [pid for pid in pids if alive(pid)]:
        if time.monotonic() > until:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"processes {left} outlive their parent")
        time.sleep(0.05)


@dataclasses.dataclass(frozen=True)
class Workplace:
    """Where scripts are run: data, and one finished run to compare with."""

    path: Path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def reference(self) -> Path:
        """A run of REFERENCE_ITERATIONS that nothing interrupted, made by `meta_train.py`; to be copied, not used."""
        return self.path / "reference"

    @property
    def flags(self) -> list[str]:
        """Of the reference run, but for `--run`."""
        config = dataclasses.replace(CONFIG, iterations=REFERENCE_ITERATIONS)
        return [*flags_of(config), f"--data={self.data}"]

    def start(self, script: str, *arguments: object, cwd: Path | None = None) -> subprocess.Popen[str]:
        """Starts `launch/<script>`, output piped."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, str(ROOT / "launch" / script), *map(str, arguments)]
        return subprocess.Popen(
            command, env=environment, cwd=cwd or self.path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(
        self, script: str, *arguments: object, cwd: Path | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Runs `launch/<script>` to its end."""
        with self.start(script, *arguments, cwd=cwd) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def refused(self, script: str, *arguments: object, cwd: Path | None = None, alone: bool = False) -> str:
        """Runs what must end with exit status 2 and one line on standard error, which it returns.

        In this process, where JAX is loaded already; `alone`, in one of its own, as a user does: for a script that no
        other test starts.
        """
        ran = self.run(script, *arguments, cwd=cwd) if alone else run_here(script, *arguments, cwd=cwd or self.path)
        assert ran.returncode == 2, ran.stderr
        assert ran.stderr.startswith("error: "), ran.stderr
        assert ran.stderr.count("\n") == 1, ran.stderr
        return ran.stderr.removeprefix("error: ").rstrip("\n")


def make_workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """The session's one workplace; with pytest-xdist the workers share it, and the first to come makes it."""
    base = tmp_path_factory.getbasetemp()
    path = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "workplace"
    path.mkdir(exist_ok=True)
    place = Workplace(path)
    with _locked(path / "lock"):
        if not (path / "made").exists():
            save(dataset(), place.data)
            # A cold cache: this one compiles everything, which is most of its time.
            ran = place.run("meta_train.py", *place.flags, f"--run={place.reference}", "--updates=4", timeout=600)
            assert ran.returncode == 0, ran.stderr
            (path / "reference.out").write_text(ran.stdout)
            (path / "reference.err").write_text(ran.stderr)
            (path / "made").touch()
    return place


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
