"""The folder of one run: settings, environment, metrics of each iteration, and checkpoints.

    config.json     settings, data hash, and for each session of the run: versions, commit, device
    metrics.jsonl   one line per iteration, without times: an interrupted and resumed run has the same lines, bit for
                    bit, as an uninterrupted one
    timing.jsonl    the times of the same iterations
    validation.jsonl   with validation: at each checkpoint, the gap to the optimum on fresh DAGs
    ranges.json     the training range, see `learning.ranges`
    events.out.tfevents.*   the same curves for TensorBoard, with `--tensorboard`
    checkpoints/    see `checkpoint`
    .lock           held by the process that writes the run

Figures and tables of the run are written to the same folder.
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
_LINE_NUMBERS = ("seconds", "iterations_per_second", "checkpoint", "clock_s", "gap")  # optional numbers of a line
_WRITTEN = "what the run wrote"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
_log = logging.getLogger(__name__)


class RunFolder:
    """One run on the disk. `create` and `resume` return a writer, which locks the run until closed; `open` a reader.

    Attributes:
        path: the folder.
        record: the contents of `config.json`.
    """

    def __init__(self, path: Path, record: dict[str, Any], lock: int | None = None) -> None:
        self.path = path
        self.record = record
        self._lock = lock  # file descriptor; the kernel releases the lock at the end of the process in any case
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
        """Starts a run in a folder that is missing or empty; records the resolved `execution`.

        Args:
            path: the folder.
            config: the settings of the run.
            data_hash: hash of the training data.
            execution: the resolved layout of the work on devices, for the record.
            data_folder: folder of the data set, for the record; None for data that come with the package.

        Raises:
            InputError: the folder is not empty, another process uses it, or event files are asked for and cannot be
                written.
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
            _check_empty(path)  # under the lock, no other run can start here
            run._write_record()
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Reads an existing run, which may be in progress.

        Raises:
            InputError: the folder does not exist, or it has no usable `config.json`.
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
            InputError: as in `open` and `check_resumable`, another process writes the run, or event files are asked for
                and cannot be written.
        """
        check_events(execution)
        run = cls.open(path)  # first, so that a folder without a run gets no lock file
        run._lock = _acquire(run.path)
        try:
            run.record = cls.open(path).record  # includes the changes of the last writer
            run.check_resumable(config, data_hash)
            current, last = session(execution), run.record["sessions"][-1:]
            changes = differing_fields(last[0], current) if last else []
            if changes:
                _log.warning("run %s resumes in another environment; bits may differ: %s", run.path, "; ".join(changes))
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
        """Calls `resume` if the run exists, otherwise `create`; raises the same errors."""
        if cls.begun(path):
            return cls.resume(path, config, data_hash, execution)
        return cls.create(path, config, data_hash, execution, data_folder)

    @staticmethod
    def begun(path: Path) -> bool:
        """Returns whether `create` has completed there."""
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
        """File of the run's gaps on fresh DAGs, for `read_metrics`; missing without validation."""
        return self.path / _VALIDATION

    @property
    def trained_ranges(self) -> ranges.Ranges | None:
        """Reads the ranges that `store_ranges` wrote; None if there are none.

        Raises:
            InputError: the file is not one of `store_ranges`.
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
        """Writes the training range of the run, for its policies.

        Raises:
            InputError: as in `check_writing`.
        """
        self.check_writing()
        write_atomically(self.path / _RANGES, json.dumps(ranges.to_json(known), indent=1).encode() + b"\n")

    def save(self, iteration: int, tree: Any, meta: Mapping[str, Any]) -> None:
        """Writes a checkpoint by `checkpoint.save`; raises the errors of that and of `check_writing`."""
        self.check_writing()
        checkpoint.save(self.checkpoints, iteration, tree, meta)

    def check_writing(self) -> None:
        """Raises InputError unless this is the run's writer and `path` is still the locked folder.

        A renamed folder keeps its lock, and files written under its old name would start another run.
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
                "accepted: a folder that stays. The last checkpoint is in the folder: continue with --resume and its "
                "present name as --run"
            )

    def check_resumable(self, config: TrainConfig, data_hash: str) -> None:
        """Raises InputError unless the run can continue under `config`: the same settings, or more iterations.

        Runs of other versions of this package cannot continue, since this version may compute other numbers.
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
        """Opens the run's metrics for appending; first drops all lines after the checkpoint at `resume_step`.

        The dropped iterations are computed again and give the same lines. With `tensorboard` the metrics, and the gaps
        of `log_validation`, also go into an event file.

        Raises:
            InputError: as in `check_writing`; or a line other than the last is malformed, or an iteration up to
                `resume_step` has no line, or `resume_step` is 0 although a checkpoint was saved, so all lines would be
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
            iteration: the last iteration before the measurement.
            gap: gap to the optimum, as a fraction of the optimum.
            seconds: seconds of training so far, in all sessions.

        Raises:
            InputError: as in `check_writing`.
        """
        self.check_writing()
        with open(self.validation, "ab") as file:
            file.write(_line({"iteration": iteration, "gap": gap, "seconds": seconds}))
        if self._events is not None:
            self._events.add(iteration, {"gap": gap})

    def close(self) -> None:
        """Releases the lock, so that other processes can write the run."""
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
    """Returns the metadata that must agree to continue from a checkpoint: all settings except the run's length."""
    settings = config.to_json()
    del settings["iterations"]
    return {"config": settings, "data_hash": data_hash}


def completed_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Adds to a checkpoint's metadata the settings that are newer than the checkpoint.

    Raises:
        InputError: the metadata are not those of a run.
    """
    check_type("meta.config of the checkpoint", meta.get("config"), dict)
    settings = completed(meta["config"])
    del settings["iterations"]
    return {**meta, "config": settings}


class MetricsLog:
    """Appends one line per iteration to each of two files; `append` returns when the system has the lines.

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
        """Writes the metrics and the time of one iteration.

        Args:
            iteration: number of the iteration, as in the names of checkpoints.
            metrics: JSON values, numpy or jax arrays, all finite, independent of clock and machine.
            seconds: wall-clock time of the iteration, > 0.
            checkpoint: iteration of the last checkpoint on the disk, 0 without one.
            clock_s: seconds of training so far, if measured.
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
        """Writes all lines to the disk. Call this before saving a checkpoint, which needs its lines."""
        for file in (self._timing, self._metrics):
            os.fsync(file.fileno())

    def close(self) -> None:
        """Closes the files."""
        self._metrics.close()
        self._timing.close()
        if self._events is not None:
            self._events.close()


def read_metrics(path: Path, names: Iterable[str] | None = ()) -> list[dict[str, Any]]:
    """Reads the lines of a `metrics.jsonl` or `timing.jsonl`, oldest first.

    An incomplete last line of a killed writer is left out.

    Args:
        path: the file.
        names: names of the numbers that every line must have. With None, the names of the first line, which must exist.

    Raises:
        InputError: the file does not exist, a line other than the last is malformed, or a line lacks one of `names`.
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
    """Returns the folder of one seed's run when several seeds are trained together."""
    return root / f"seed{seed}"


def stored_seeds(root: Path) -> list[int] | None:
    """Returns the seeds that are trained together below `root`; None if `root` is a single run or no run.

    Raises:
        InputError: the stored list is not usable.
    """
    path = root / _SEEDS
    if not path.exists():
        return None
    seeds: list[int] = load_json(path, _WRITTEN, list)
    if not seeds or not all(type(seed) is int for seed in seeds):
        raise InputError(f"{path} holds {shorten(seeds)}, no list of seeds; accepted: {_WRITTEN}")
    return seeds


def store_seeds(root: Path, seeds: Sequence[int]) -> None:
    """Starts a training of several seeds; afterwards `stored_seeds` returns them even if not all their runs exist.

    Raises:
        InputError: `root` is not empty or not writable.
    """
    if root.is_dir():
        _check_empty(root)
    check_writable(root)
    write_atomically(root / _SEEDS, json.dumps(list(seeds)).encode() + b"\n")


def new_run_path(root: Path, config: TrainConfig) -> Path:
    """Creates an empty folder `root/<date>-<time>-<experiment>-<method>` for a run.

    Runs that start in the same second get `-2`, `-3` and so on.

    Raises:
        InputError: the folder cannot be created.
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
            path.mkdir()  # atomic: of two processes, only one can create the folder
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
    import fcntl  # not available on every system; without it, runs can still be read

    try:
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"run folder is {path}: {error.strerror}; accepted: a folder to write in") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"run {path} is being written by another process; accepted: a run without a writer") from None
    return descriptor


def session(execution: ExecutionConfig | None = None) -> dict[str, Any]:
    """Describes the environment, on which rounding may depend: versions, commit, devices, `execution`."""
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
    """Returns the version of the running code, not that of an installed distribution."""
    version: str = sys.modules["mrlato_jax"].__version__
    return version


@functools.cache
def _commit_at_start() -> str | None:
    """Returns the commit at the first call, since the checkout may change while the program runs."""
    return _commit()


def _commit() -> str | None:
    """Returns the commit of the package's code, with `-dirty` if changed since; None if git does not track the code."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git(
            "ls-files", "--error-unmatch", Path(__file__).name
        )  # the package may be installed inside another project's checkout
        package = str(Path(__file__).parents[1])
        changed = git(
            "status", "--porcelain", "--untracked-files=no", "--", package
        )  # changes outside the package do not count
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, default=lambda value: np.asarray(value).tolist(), allow_nan=False).encode() + b"\n"


def _whole_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Lists each line with its record, without an incomplete last line, which a killed writer can leave."""
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
