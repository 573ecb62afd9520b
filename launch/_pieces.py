"""Long work in pieces: each call continues the work for a limited time, then stops the running piece and saves."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrlato_jax.errors import InputError, shorten
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.progress import format_duration, format_table
from mrlato_jax.training.stopping import GracefulStop

LEFT, DONE, FAILED = "left", "done", "failed"
LEDGER, TABLE, RESULTS, RUNS, CACHE, LOGS = "pieces.json", "progress.md", "results", "runs", "cache", "logs"
GRACE_S = 60.0  # time from the request to stop to the end of the call
RESERVE_S = 15.0  # time from the kill to the end of the call
NEARLY = 0.9  # share of a call's time: a piece without progress in this time counts as failed
PART_BYTES = 15 * 2**20  # size of a carried file; transfers may be limited to small files
_PART = "state.tar.gz."
_POLL_S = 0.1
_ERROR_CHARACTERS = 1500


@dataclasses.dataclass(frozen=True)
class Step:
    """One command of a piece. After SIGTERM or SIGKILL, the same command continues or starts again.

    Attributes:
        command: returns the command line.
        environment: environment variables in addition to this process's.
        needs_s: seconds that must be left to start the step, unless no call has as many.
        excuse: text on standard error for which a failure means that this machine lacks a feature.
        after: called after success with an empty text, or after an excused failure with the last line of output.
    """

    command: Callable[[], Sequence[str]]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    needs_s: float = 0.0
    excuse: str = ""
    after: Callable[[str], None] = lambda excuse: None


@dataclasses.dataclass(frozen=True)
class Piece:
    """A unit of work with records as its result.

    Attributes:
        name: name of the piece; the part before the first - is its group.
        what: description for people.
        estimate_s: rough total time, seconds.
        steps: its steps, run one after the other.
        records: patterns of its records in the folder of results.
    """

    name: str
    what: str
    estimate_s: float
    steps: tuple[Step, ...]
    records: tuple[str, ...]

    @property
    def group(self) -> str:
        """The part of the name before the first -."""
        return self.name.partition("-")[0]


class Ledger:
    """The state of all pieces, in a file that is written atomically.

    Attributes:
        entries: entries by the names of pieces: `status`, `steps` done, `seconds` and `calls` spent, `last` line or
            error.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any]) -> None:
        """Opens the ledger in `out`, or starts a new one.

        Raises:
            InputError: the ledger is of other work, or cannot be read.
        """
        self.path, self._identity = out / LEDGER, dict(identity)
        self.entries: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            try:
                stored = json.loads(self.path.read_bytes())
                theirs, self.entries = dict(stored["identity"]), dict(stored["pieces"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{self.path} cannot be read ({shorten(error)}); accepted: one that this script wrote"
                ) from None
            if theirs != self._identity:
                raise InputError(f"{self.path} is of {theirs}; accepted: {self._identity}, or another --out")

    def of(self, piece: Piece) -> dict[str, Any]:
        """Returns the entry of a piece."""
        new = {"status": LEFT, "steps": 0, "seconds": 0.0, "calls": 0, "last": ""}
        return self.entries.setdefault(piece.name, new)

    def write(self) -> None:
        """Writes the file."""
        record = {"identity": self._identity, "pieces": self.entries}
        write_atomically(self.path, json.dumps(record, indent=1).encode() + b"\n")

    def left(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Returns the pieces that are neither done nor failed."""
        return [piece for piece in pieces if self.of(piece)["status"] == LEFT]

    def table(self, pieces: Sequence[Piece]) -> str:
        """Formats one row for each piece."""
        rows = []
        for piece in pieces:
            entry = self.of(piece)
            spent = format_duration(entry["seconds"]) if entry["calls"] else ""
            last = entry["last"].splitlines()[-1][:100] if entry["last"] else ""
            steps = f"{entry['steps']}/{len(piece.steps)}"
            rows.append([piece.name, entry["status"], steps, spent, format_duration(piece.estimate_s), last])
        return format_table(["piece", "status", "steps", "spent", "estimate", "last line"], rows)


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status (negative: minus the signal), and whether it was asked to stop."""

    status: int
    stopped: bool


def supervise(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    stop_at: float,
    kill_at: float,
    stop: GracefulStop,
) -> Ended:
    """Runs a command in its own process group, with all output in `log`.

    Args:
        command: the command line.
        environment: the complete environment.
        log: output file.
        stop_at: time of `time.monotonic` at which the command gets SIGTERM; after a request of `stop`, at once.
        kill_at: time at which its process group gets SIGKILL.
        stop: a request to stop.
    """
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        stopped = False
        try:
            while process.poll() is None:
                now = time.monotonic()
                if not stopped and (stop.requested or now >= stop_at):
                    stopped = True
                    kill_at = min(kill_at, now + max(kill_at - stop_at, 0.0))
                    process.send_signal(signal.SIGTERM)
                if now >= kill_at:
                    break
                time.sleep(_POLL_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the command and all processes that it has started
            process.wait()
    return Ended(process.returncode, stopped)


def work(pieces: Sequence[Piece], ledger: Ledger, out: Path, budget_s: float, started: float) -> None:
    """Continues the pieces in their order until all are done or the time is over.

    A failed piece is recorded with its error, and the next piece starts. A piece without progress in nearly the whole
    time of a call counts as failed, too.

    Args:
        pieces: the pieces to do.
        ledger: their state; written after every step.
        out: the folder of all output.
        budget_s: seconds from `started` to the end of the call.
        started: start of the call, on `time.monotonic`.
    """
    (out / LOGS).mkdir(exist_ok=True)
    grace, reserve = min(GRACE_S, budget_s / 6), min(RESERVE_S, budget_s / 24)
    stop_at, kill_at = started + budget_s - grace, started + budget_s - reserve
    whole = NEARLY * (budget_s - grace)
    with GracefulStop() as stop:
        for piece in pieces:
            entry = ledger.of(piece)
            while entry["status"] == LEFT:
                step = piece.steps[entry["steps"]]
                begun = time.monotonic()
                given = stop_at - begun
                if stop.requested or given <= 0:
                    return
                if given < min(step.needs_s, whole):
                    print(f"{piece.name}: {format_duration(given)} is too short to continue it", flush=True)
                    break
                print(f"{piece.name}, step {entry['steps'] + 1} of {len(piece.steps)}: {piece.what}", flush=True)
                before = holdings(out)
                log = out / LOGS / f"{piece.name}.log"
                environment = {**os.environ, "PYTHONUNBUFFERED": "1", **step.environment}
                ended = supervise(step.command(), environment, log, stop_at, kill_at, stop)
                _enter(entry, piece, step, ended, log, time.monotonic() - begun)
                if ended.stopped and not stop.requested and given >= whole and holdings(out) == before:
                    entry |= {"status": FAILED, "last": f"no progress in {format_duration(given)}: {entry['last']}"}
                ledger.write()
                print(f"{piece.name}: {entry['status']} after {format_duration(entry['seconds'])}", flush=True)
                if ended.stopped:
                    return


def _enter(entry: dict[str, Any], piece: Piece, step: Step, ended: Ended, log: Path, seconds: float) -> None:
    """Updates a piece's entry after a step."""
    text = log.read_text(encoding="utf-8", errors="replace").strip()
    entry["calls"] += 1
    entry["seconds"] = round(entry["seconds"] + seconds, 1)
    entry["last"] = text.splitlines()[-1][:_ERROR_CHARACTERS] if text else ""
    if ended.stopped:
        return  # even if the command has succeeded: running it again will notice that
    if ended.status and not (step.excuse and step.excuse in text):
        entry |= {"status": FAILED, "last": f"exit status {ended.status}: {text[-_ERROR_CHARACTERS:]}"}
        return
    excuse = f"not on this machine: {entry['last']}" if ended.status else ""
    entry["last"] = excuse or entry["last"]
    try:
        step.after(excuse)
    except (OSError, ValueError, KeyError) as error:  # a record is missing or malformed
        entry |= {"status": FAILED, "last": f"its records are not usable: {shorten(error, 300)}"}
        return
    entry["steps"] += 1
    if entry["steps"] == len(piece.steps):
        entry["status"] = DONE


def holdings(out: Path) -> set[tuple[str, int]]:
    """Returns evidence of progress: checkpoints, records and compiled programs, by name and time of writing."""
    patterns = (f"{RUNS}/**/*.npz", f"{RESULTS}/**/*.json", f"{CACHE}/**/*-cache")
    return {(str(path), path.stat().st_mtime_ns) for pattern in patterns for path in out.glob(pattern)}


def carried(out: Path) -> Iterator[Path]:
    """Yields the files needed to continue on another machine, without the cache of compiled programs.

    Of a run's checkpoints, only the newest that its seeds have in common is needed. Finished warm starts need no
    checkpoints, and recorded runs need no files at all.
    """
    yield out / LEDGER
    yield from sorted(path for path in (out / RESULTS).rglob("*") if path.is_file() and not path.name.startswith("."))
    recorded = set(_recorded_runs(out))
    for path in sorted((out / RUNS).rglob("*")):
        if not path.is_file() or path.name == ".lock" or path.name.endswith(".tmp"):
            continue
        if not recorded.intersection(path.parents) and (path.suffix != ".npz" or _needed(path)):
            yield path


def _needed(path: Path) -> bool:
    """Returns whether a checkpoint is the newest of all seeds of a training, in the current stage."""
    run = path.parent.parent
    over = run.name == "warm_start" and any((run.parent / path.parent.name).glob("*.npz"))
    seed = run.parent if run.name == "warm_start" else run
    alike = [run] if not seed.name.startswith("seed") else list(seed.parent.glob(f"seed*/{run.relative_to(seed)}"))
    common = set.intersection(*({file.name for file in (one / path.parent.name).glob("*.npz")} for one in alike))
    return not over and path.name == max(common, default=path.name)


def _recorded_runs(out: Path) -> Iterator[Path]:
    """Yields the runs of reproduce.py, `reproduce-PRESET/METHOD/seedN`, that have a complete record."""
    for path in (out / RESULTS).glob("*/*-seed*.json"):
        record = json.loads(path.read_bytes())
        parts = [set(record["rows"].get(setting, {})) for setting in record["identity"]["settings"]]
        if "training" in record["rows"] and all({"all", "half", "planning"} <= have for have in parts):
            method, _, seed = path.stem.rpartition("-")
            yield out / RUNS / f"reproduce-{path.parent.name}" / method / seed


def pack(out: Path, folder: Path, limit_bytes: int) -> str:
    """Packs the files of `carried`, and the newest compiled programs that fit, into a few files in `folder`.

    Returns:
        A line of text on the sizes.
    """
    check_writable(folder)
    needed = _archive(out, list(carried(out)))
    compiled = [path for path in (out / CACHE).rglob("*") if path.is_file()]
    compiled.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    room, taken = limit_bytes - len(needed), []
    for path in compiled:
        room -= path.stat().st_size
        if room < 0:
            break
        taken.append(path)
    contents = _archive(out, [*carried(out), *taken]) if taken else needed
    for stale in folder.glob(f"{_PART}*"):
        stale.unlink()
    for number, start in enumerate(range(0, len(contents), PART_BYTES)):
        write_atomically(folder / f"{_PART}{number:02d}", contents[start : start + PART_BYTES])
    if (out / TABLE).exists():
        shutil.copyfile(out / TABLE, folder / TABLE)
    too_much = f", more than --carry_mb={limit_bytes / 2**20:g}" if len(contents) > limit_bytes else ""
    return (
        f"carried: {len(contents) / 2**20:.1f} MiB in {folder}{too_much}; {len(needed) / 2**20:.1f} MiB of it are "
        f"records and runs, with {len(taken)} of {len(compiled)} files of the cache"
    )


def unpack(folder: Path, out: Path) -> bool:
    """Unpacks the files of `pack` into `out`, which must have no ledger; returns False if there are none.

    Raises:
        InputError: the files are incomplete or damaged.
    """
    parts = sorted(folder.glob(f"{_PART}*"))
    if not parts or (out / LEDGER).exists():
        return False
    contents = b"".join(part.read_bytes() for part in parts)
    try:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(contents))) as archive:
            archive.extractall(out, filter="data")
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise InputError(f"{folder} has carried files that cannot be read ({error}); accepted: all of them") from None
    return True


def _archive(out: Path, files: Sequence[Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for path in files:
            if path.exists():
                archive.add(path, str(path.relative_to(out)), recursive=False)
    return buffer.getvalue()
