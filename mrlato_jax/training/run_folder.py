"""The folder of one run: what was asked, on what it ran, what each iteration gave, and its checkpoints.

    config.json     settings, data hash, and for each session of the run: versions, commit, device
    metrics.jsonl   one line an iteration and nothing of the clock: a run that was interrupted and resumed has the
                    same lines, bit for bit, as one that was not
    timing.jsonl    the clock's side of the same iterations
    validation.jsonl   where training was validated: at each checkpoint, the gap to the optimum on fresh DAGs
    ranges.json     of what was trained on, see `learning.ranges`
    events.out.tfevents.*   the same curves for TensorBoard, where that was asked for
    checkpoints/    see `checkpoint`
    .lock           held by the process that writes the run

Figures and tables of the run go beside these.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np

from mrlato_jax.config import ExecutionConfig, TrainConfig, completed
from mrlato_jax.errors import InputError, check_number, check_type, shorten
from mrlato_jax.files import check_writable, load_json, parse_json, write_atomically
from mrlato_jax.learning import ranges
from mrlato_jax.training import checkpoint
from mrlato_jax.training.checkpoint import differing_fields, newest_meta
from mrlato_jax.training.events import EventLog, check_events

_CONFIG, _METRICS, _TIMING, _CHECKPOINTS, _LOCK = "config.json", "metrics.jsonl", "timing.jsonl", "checkpoints", ".lock"
_SEEDS = "seeds.json"
_VALIDATION, _RANGES = "validation.jsonl", "ranges.json"
_RECORD_FIELDS = {"config": dict, "data_hash": str, "sessions": list}
_LINE_NUMBERS = ("seconds", "iterations_per_second", "checkpoint", "clock_s", "gap")  # where a line has them
_WRITTEN = "what the run wrote"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_log = logging.getLogger(__name__)


class RunFolder:
    """One run on the disk. `create` and `resume` give a writer, which locks the run until closed; `open` a reader.

    Attributes:
        path: the folder.
        record: the contents of `config.json`.
    """

    def __init__(self, path: Path, record: dict[str, Any], lock: int | None = None) -> None:
        self.path = path
        self.record = record
        self._lock = lock  # file descriptor; the kernel frees the lock when the process ends, however it ends
        self._events: EventLog | None = None

    @classmethod
    def create(
        cls,
        path: Path,
        config: TrainConfig,
        data_hash: str,
        execution: ExecutionConfig | None = None,
        data_folder: Path | None = None,
    ) -> RunFolder:
        """Starts a run in a folder that is missing or empty.

        Args:
            path: the folder.
            config: the settings of the run.
            data_hash: of the data set that it is trained on.
            execution: how the work is laid out, as it was resolved; goes into the record.
            data_folder: where the data set is, if not among those that come with the package; goes into the record.

        Raises:
            InputError: the folder holds something, another process is at it, or event files are asked for that cannot
                be written.
        """
        path = Path(path)
        check_events(execution)
        if path.exists() and not path.is_dir():
            raise InputError(f"run folder is {path}, which is a file; accepted: a folder that is new or empty")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"run folder is {path}: {error.strerror}; accepted: a folder to write in") from None
        _check_empty(path)
        record = {
            "config": config.to_json(),
            "data_hash": data_hash,
            "sessions": [session(execution)],
            **({} if data_folder is None else {"data_folder": str(Path(data_folder).absolute())}),
        }
        run = cls(path, record, _acquire(path))
        try:
            _check_empty(path)  # nobody else can have filled it from here on
            run._write_record()
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Reads an existing run, which may be in progress.

        Raises:
            InputError: no such folder, or no `config.json` in it that can be used.
        """
        path = Path(path)
        if not path.is_dir():
            what = "is a file" if path.exists() else "does not exist"
            raise InputError(f"run folder is {path}, which {what}; accepted: the folder of an existing run")
        try:
            record = load_json(path / _CONFIG, _WRITTEN)
        except FileNotFoundError:
            raise InputError(f"run folder is {path}, which has no {_CONFIG}; accepted: a folder of a run") from None
        for name, kind in _RECORD_FIELDS.items():
            if not isinstance(record.get(name), kind):
                raise InputError(f"{path / _CONFIG} has no usable {name}; accepted: {_WRITTEN}")
        if not all(isinstance(entry, dict) for entry in record["sessions"]):
            raise InputError(f"{path / _CONFIG} has no usable sessions; accepted: {_WRITTEN}")
        run = cls(path, record)
        try:
            _ = run.config
        except InputError as error:
            raise InputError(f"{path / _CONFIG}: {error}") from None
        return run

    @classmethod
    def resume(
        cls, path: Path, config: TrainConfig, data_hash: str, execution: ExecutionConfig | None = None
    ) -> RunFolder:
        """Continues an existing run under `config`, which `check_resumable` must accept, and records the session.

        Raises:
            InputError: as `open` and `check_resumable`, another process is at the run, or event files that are asked
                for cannot be written.
        """
        check_events(execution)
        run = cls.open(path)  # also keeps the lock file out of a folder that is no run
        run._lock = _acquire(run.path)
        try:
            run.record = cls.open(path).record  # as the last writer left it
            run.check_resumable(config, data_hash)
            current, last = session(execution), run.record["sessions"][-1:]
            changes = differing_fields(last[0], current) if last else []
            if changes:
                _log.warning("run %s continues elsewhere, bits may differ: %s", run.path, "; ".join(changes))
            run.record = {**run.record, "config": config.to_json(), "sessions": [*run.record["sessions"], current]}
            run._write_record()
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def begin(
        cls,
        path: Path,
        config: TrainConfig,
        data_hash: str,
        execution: ExecutionConfig | None = None,
        data_folder: Path | None = None,
    ) -> RunFolder:
        """`resume` where a run was begun, else `create`; raises as they do."""
        if cls.begun(path):
            return cls.resume(path, config, data_hash, execution)
        return cls.create(path, config, data_hash, execution, data_folder)

    @staticmethod
    def begun(path: Path) -> bool:
        """Whether `create` came to its end there."""
        return (Path(path) / _CONFIG).exists()

    @property
    def config(self) -> TrainConfig:
        """The settings of the run."""
        return TrainConfig.from_json(self.record["config"])

    @property
    def data_folder(self) -> Path | None:
        """Where the data set was that the run began with; None where it came with the package."""
        stored = self.record.get("data_folder")
        return None if stored is None else Path(stored)

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.path / _CHECKPOINTS

    @property
    def metrics(self) -> Path:
        """File of the run's metrics, for `read_metrics`; missing before the first iteration."""
        return self.path / _METRICS

    @property
    def timing(self) -> Path:
        """File of the run's times, for `read_metrics`; missing before the first iteration."""
        return self.path / _TIMING

    @property
    def validation(self) -> Path:
        """File of the run's gaps on fresh DAGs, for `read_metrics`; missing where it was not validated."""
        return self.path / _VALIDATION

    @property
    def trained_ranges(self) -> ranges.Ranges | None:
        """What `store_ranges` wrote; None in a run that has none.

        Raises:
            InputError: the file is not what `store_ranges` writes.
        """
        path = self.path / _RANGES
        try:
            stored = load_json(path, _WRITTEN)
        except FileNotFoundError:
            return None
        try:
            return ranges.from_json(stored)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    def store_ranges(self, known: ranges.Ranges) -> None:
        """Writes the ranges of what the run is trained on, for the policies that come of it.

        Raises:
            InputError: as `check_writing`.
        """
        self.check_writing()
        write_atomically(self.path / _RANGES, json.dumps(ranges.to_json(known), indent=1).encode() + b"\n")

    def save(self, iteration: int, tree: Any, meta: Mapping[str, Any]) -> None:
        """Writes a checkpoint, as `checkpoint.save` does; raises as that and `check_writing`."""
        self.check_writing()
        checkpoint.save(self.checkpoints, iteration, tree, meta)

    def check_writing(self) -> None:
        """Raises InputError unless this is the run's writer, and `path` still leads to the folder that it locked.

        A folder that is renamed keeps its lock, and what is written under its old name would begin another run.
        """
        if self._lock is None:
            raise InputError(f"run {self.path} is open for reading; accepted: one from RunFolder.create or .resume")
        try:
            in_place = os.path.samestat(os.stat(self.path / _LOCK), os.fstat(self._lock))
        except FileNotFoundError:
            in_place = False
        if not in_place:
            raise InputError(
                f"run folder {self.path} was renamed, replaced or lost its {_LOCK} while this process wrote it; "
                "accepted: a folder that stays. What was saved last is in it: continue with --resume and its present "
                "name as --run"
            )

    def check_resumable(self, config: TrainConfig, data_hash: str) -> None:
        """Raises InputError unless the run can go on under `config`: the same settings, or more iterations.

        A run of another version of this package cannot: what it computed may be computed otherwise now.
        """
        ours = _package_version()
        for entry in self.record["sessions"]:
            versions = entry.get("versions")
            theirs = versions.get("mrlato_jax") if isinstance(versions, dict) else None
            if theirs != ours:
                raise InputError(
                    f"run {self.path} was trained by version {shorten(theirs)} of this package; accepted: {ours!r}"
                )
        stored, wanted = completed(self.record["config"]), config.to_json()
        if wanted["iterations"] >= stored["iterations"]:
            stored = {**stored, "iterations": wanted["iterations"]}
        differences = differing_fields(stored, wanted)
        differences += differing_fields({"data_hash": self.record["data_hash"]}, {"data_hash": data_hash})
        if differences:
            raise InputError(
                f"run {self.path} cannot be resumed: {'; '.join(differences)}; accepted: the run's own settings, "
                "only iterations may be raised"
            )
        stored_meta = newest_meta(self.checkpoints)
        if stored_meta is not None:
            differences = differing_fields(completed_meta(stored_meta), checkpoint_meta(config, data_hash))
            if differences:
                raise InputError(
                    f"{self.checkpoints} was saved under other settings: {'; '.join(differences)}; accepted: the run's"
                )

    def metrics_log(self, resume_step: int = 0, tensorboard: bool = False) -> MetricsLog:
        """Opens the run's metrics for appending, first dropping what came after the checkpoint at `resume_step`.

        Iterations after the checkpoint are computed again, to the same lines. With `tensorboard` the metrics, and the
        gaps of `log_validation`, also go into an event file.

        Raises:
            InputError: as `check_writing`; or a line other than the last is malformed, an iteration up to
                `resume_step` has no line, or that is 0 although a checkpoint was saved, so that all lines would be
                dropped.
        """
        self.check_writing()
        for path in (self.metrics, self.timing):
            _check_gapless(path, resume_step)
        saved = max((record.get("checkpoint", 0) for _, record in _whole_lines(self.timing)), default=0)
        if saved and not resume_step:
            raise InputError(
                f"{self.checkpoints} holds no checkpoint, though one was saved after iteration {saved}; accepted: a "
                "run with its checkpoints, or a new run in another folder"
            )
        for path in (self.metrics, self.timing, self.validation):
            _truncate(path, resume_step)
        self._events = EventLog(self.path, resume_step + 1) if tensorboard else None
        return MetricsLog(self.metrics, self.timing, self._events)

    def log_validation(self, iteration: int, gap: float, seconds: float) -> None:
        """Appends one line to `validation`.

        Args:
            iteration: after which it was measured.
            gap: to the optimum, a fraction of it.
            seconds: of training until then, in all sessions.

        Raises:
            InputError: as `check_writing`.
        """
        self.check_writing()
        with open(self.validation, "ab") as file:
            file.write(_line({"iteration": iteration, "gap": gap, "seconds": seconds}))
        if self._events is not None:
            self._events.add(iteration, {"gap": gap})

    def close(self) -> None:
        """Lets other processes write the run."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _write_record(self) -> None:
        write_atomically(self.path / _CONFIG, json.dumps(self.record, indent=2).encode() + b"\n")


def checkpoint_meta(config: TrainConfig, data_hash: str) -> dict[str, Any]:
    """What a checkpoint must agree with to be continued: everything but how long the run is to last."""
    settings = config.to_json()
    del settings["iterations"]
    return {"config": settings, "data_hash": data_hash}


def completed_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's metadata with the settings that were added since it was written.

    Raises:
        InputError: they are not of a run.
    """
    check_type("meta.config of the checkpoint", meta.get("config"), dict)
    settings = completed(meta["config"])
    del settings["iterations"]
    return {**meta, "config": settings}


class MetricsLog:
    """Appends one line an iteration to each of two files; each line is out of the process before `append` returns.

    An event file, where there is one, follows within seconds.
    """

    def __init__(self, metrics: Path, timing: Path, events: EventLog | None = None) -> None:
        self._metrics = open(metrics, "ab")  # noqa: SIM115 - closed by close()
        self._timing = open(timing, "ab")  # noqa: SIM115
        self._events = events

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def append(
        self,
        iteration: int,
        metrics: Mapping[str, Any],
        seconds: float,
        checkpoint: int = 0,
        clock_s: float | None = None,
    ) -> None:
        """Writes what iteration number `iteration` gave.

        Args:
            iteration: of the run, as the checkpoints count.
            metrics: JSON values, numpy or jax arrays, all finite; nothing that depends on the clock or the machine.
            seconds: wall-clock time that the iteration took, > 0.
            checkpoint: iteration of the last checkpoint that is on the disk, 0 without one.
            clock_s: seconds of training until then, where that is measured.
        """
        timing = {"iteration": iteration, "seconds": seconds, "iterations_per_second": 1.0 / seconds}
        timing["checkpoint"] = checkpoint
        if clock_s is not None:
            timing["clock_s"] = clock_s
        for file, record in ((self._timing, timing), (self._metrics, {"iteration": iteration, **metrics})):
            file.write(_line(record))
            file.flush()
        if self._events is not None:
            scalars = {name: float(value) for name, value in metrics.items() if np.ndim(value) == 0}
            self._events.add(iteration, {**scalars, "seconds": seconds})

    def sync(self) -> None:
        """Returns when all lines are on the disk: before a checkpoint, which must not outlive them in a power cut."""
        for file in (self._timing, self._metrics):
            os.fsync(file.fileno())

    def close(self) -> None:
        """Closes the files."""
        self._metrics.close()
        self._timing.close()
        if self._events is not None:
            self._events.close()


def read_metrics(path: Path, names: Iterable[str] | None = ()) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl` or `timing.jsonl`, oldest first, without the torn last line of a killed writer.

    Args:
        path: the file.
        names: of numbers that every line must have; with None those of the first line, and there must be one.

    Raises:
        InputError: no such file, a line other than the last that is malformed, or one that lacks one of `names`.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"metrics file is {path}, which does not exist; accepted: a file that a run wrote")
    records = [record for _, record in _whole_lines(path)]
    if names is None:
        if not records:
            raise InputError(f"metrics file {path} has no line; accepted: {_WRITTEN}")
        names = list(records[0])
    for number, record in enumerate(records, start=1):
        for name in names:
            check_number(f"{path}, line {number}, {name}", record.get(name))
    return records


def seed_path(root: Path, seed: int) -> Path:
    """Folder of one seed's run where several are trained together."""
    return root / f"seed{seed}"


def stored_seeds(root: Path) -> list[int] | None:
    """Which seeds are trained together below `root`; None where it is a run of its own, or none.

    Raises:
        InputError: a list that cannot be used.
    """
    path = root / _SEEDS
    if not path.exists():
        return None
    seeds: list[int] = load_json(path, _WRITTEN, list)
    if not seeds or not all(type(seed) is int for seed in seeds):
        raise InputError(f"{path} holds {shorten(seeds)}, no list of seeds; accepted: {_WRITTEN}")
    return seeds


def store_seeds(root: Path, seeds: Sequence[int]) -> None:
    """Starts a training of several seeds: from here on `stored_seeds` knows them, whichever of their runs exist.

    Raises:
        InputError: `root` holds something, or cannot be written to.
    """
    if root.is_dir():
        _check_empty(root)
    check_writable(root)
    write_atomically(root / _SEEDS, json.dumps(list(seeds)).encode() + b"\n")


def new_run_path(root: Path, config: TrainConfig) -> Path:
    """Makes an empty folder `root/<date>-<time>-<experiment>-<method>` for a run.

    Runs that start in the same second get `-2`, `-3` and so on.

    Raises:
        InputError: the folder cannot be made.
    """
    root = Path(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"folder of runs is {root}: {error.strerror}; accepted: a folder to write in") from None
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{config.experiment}-{config.method}"
    attempt = 1
    while True:
        path = root / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            path.mkdir()  # made here: making a folder is the one test that two processes cannot both pass
        except FileExistsError:
            attempt += 1
        except OSError as error:
            raise InputError(f"run folder is {path}: {error.strerror}; accepted: a folder to write in") from None
        else:
            return path


def _check_empty(path: Path) -> None:
    left_by_killed = re.compile(rf"{re.escape(_LOCK)}|\.{re.escape(_CONFIG)}\.\d+\.tmp")
    entries = sorted(entry.name for entry in path.iterdir() if not left_by_killed.fullmatch(entry.name))
    if entries:
        raise InputError(
            f"run folder is {path}, which holds {shorten(entries)}; accepted: a folder that is new or empty, "
            + ("or --resume to continue its run" if _CONFIG in entries else "for example another --run")
        )


def _acquire(path: Path) -> int:
    import fcntl  # not on every system; those without can still read runs

    try:
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"run folder is {path}: {error.strerror}; accepted: a folder to write in") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"run {path} is being written by another process; accepted: a run that is at rest") from None
    return descriptor


def session(execution: ExecutionConfig | None = None) -> dict[str, Any]:
    """What rounding may depend on beside the settings: versions, commit, devices, and the layout of the work."""
    versions = {"python": platform.python_version(), "mrlato_jax": _package_version()}
    versions |= {name: metadata.version(name) for name in _PACKAGES}
    device = jax.devices()[0]
    return {
        "versions": versions,
        "commit": _commit_at_start(),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "processes": jax.process_count(),
        **({"execution": execution.to_json()} if execution else {}),
    }


def _package_version() -> str:
    """That of the code that runs, whatever an installation recorded."""
    version: str = sys.modules["mrlato_jax"].__version__
    return version


@functools.cache
def _commit_at_start() -> str | None:
    """Asked once: what the checkout becomes while a program runs is not what runs."""
    return _commit()


def _commit() -> str | None:
    """Commit of the package's code, with `-dirty` if changed since; None if git does not track the code."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an environment may lie in another project's checkout
        package = str(Path(__file__).parents[1])
        changed = git("status", "--porcelain", "--untracked-files=no", "--", package)  # records are no code
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, default=lambda value: np.asarray(value).tolist(), allow_nan=False).encode() + b"\n"


def _whole_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Each line with its record. Only the last can be torn, when its writer was killed; it is left out."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    whole = []
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line, f"{path}, line {number}", _WRITTEN)
            usable = type(record.get("iteration")) is int and line.endswith(b"\n")
            for name in _LINE_NUMBERS:
                check_number(name, record.get(name, 0))
        except InputError:
            usable = False
        if usable:
            whole.append((line, record))
        elif number < len(lines):
            raise InputError(f"{path}, line {number} is {shorten(line)}; accepted: a JSON object with an iteration")
    return whole


def _check_gapless(path: Path, last_iteration: int) -> None:
    iterations = [record["iteration"] for _, record in _whole_lines(path) if record["iteration"] <= last_iteration]
    if iterations != list(range(1, last_iteration + 1)):
        raise InputError(
            f"{path} has {len(iterations)} of the {last_iteration} iterations before the checkpoint; accepted: what "
            "the run wrote"
        )


def _truncate(path: Path, last_iteration: int) -> None:
    if not path.exists():
        return
    kept = b"".join(line for line, record in _whole_lines(path) if record["iteration"] <= last_iteration)
    if len(kept) != path.stat().st_size:
        write_atomically(path, kept)
