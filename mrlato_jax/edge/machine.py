"""A machine that runs tasks, with its runs: a VM at the server, or the UE's local executor. It is one process."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from mrlato_jax.edge import sandbox
from mrlato_jax.edge.codec import LENGTH, framed, unframed
from mrlato_jax.edge.sandbox import Ending, Quota
from mrlato_jax.edge.vm import LONGEST_TEXT, MOST_FRAME_BYTES
from mrlato_jax.errors import InputError, shorten

PACKAGE = Path(__file__).resolve().parents[1]
START_S = 30.0  # time limit for loading the applications, seconds at full clock
MOST_WAITING = 4  # unread messages of one run; beyond that, the machine waits
ENDED = "machine ended"
# Runs before a program's imports: registers the package without its `__init__`, which would load JAX.
FACELESS = (
    "import sys, types; face = types.ModuleType('mrlato_jax'); face.__path__ = [sys.argv.pop(1)]; "
    "sys.modules['mrlato_jax'] = face; "
)
_BOOT = FACELESS + "from mrlato_jax.edge.vm import main; main(sys.argv[1:])"
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


class MachineLostError(Exception):
    """A machine ended, or was stopped, with runs on it; the text says why."""


class Writer(Protocol):
    """The part of `StreamWriter` that a machine uses."""

    def write(self, data: bytes) -> None:
        """Queues bytes to write."""

    async def drain(self) -> None:
        """Waits until there is room for more; raises ConnectionError if nobody reads."""


class Program(Protocol):
    """A started program on any machine: a `Sandbox`, or a program on another machine."""

    @property
    def stdin(self) -> Writer:
        """Standard input of the program."""

    @property
    def stdout(self) -> asyncio.StreamReader:
        """Standard output of the program."""

    @property
    def said(self) -> str:
        """The end of its standard error, in one printable line."""

    async def stop(self) -> Ending:
        """Ends the program, if it has not ended yet."""


class Launch(Protocol):
    """A function that starts a machine's program."""

    async def __call__(
        self,
        apps: Sequence[str],
        *,
        kind: str,
        quota: Quota,
        pace: float,
        watched: bool,
        readable: Sequence[Path],
    ) -> Program:
        """Starts the program, with the arguments of `launch`."""


async def launch(
    apps: Sequence[str], *, kind: str, quota: Quota, pace: float, watched: bool, readable: Sequence[Path]
) -> sandbox.Sandbox:
    """Starts the program of `vm` on this machine.

    Args:
        apps: location of each application, as in `installed.load`; files have absolute paths.
        kind: kind of isolation, one of `sandbox.KINDS`.
        quota: quota of the process.
        pace: factor >= 1 by which tasks take longer than their processor time.
        watched: whether the program reports the start of each task.
        readable: files and folders that the applications need, in addition to Python and this package.

    Raises:
        InputError: this machine lacks the isolation, or a path does not exist.
    """
    words = [sys.executable, "-c", _BOOT, str(PACKAGE), json.dumps(list(apps)), repr(float(pace)), str(int(watched))]
    files = [Path(place) for place in (spec.partition(":")[0] for spec in apps) if _is_file(place)]
    return await sandbox.start(
        words, kind=kind, quota=quota, readable=[PACKAGE, *files, *readable], environment=_ENVIRONMENT
    )


def _is_file(place: str) -> bool:
    return place.endswith((".py", ".onnx"))


class RunOnMachine:
    """One run on a machine."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.number, self._machine = number, machine
        self._arrived: asyncio.Queue[tuple[list[Any], bytes] | Exception] = asyncio.Queue(MOST_WAITING)

    async def send(self, kind: str, *rest: Any, body: bytes = b"") -> None:
        """Sends a message of the protocol in `vm`, without the run's number.

        Raises:
            MachineLostError: the machine has ended.
        """
        await self._machine._write([kind, self.number, *rest], body)

    async def messages(self) -> AsyncIterator[tuple[list[Any], bytes]]:
        """Yields the machine's messages of this run, without the run's number, until the run is over.

        Raises:
            MachineLostError: the machine ended before the run.
        """
        while True:
            if self._machine.lost and self._arrived.empty():
                raise MachineLostError(self._machine.lost)
            entry = await self._arrived.get()
            if isinstance(entry, Exception):
                raise entry
            (kind, _, *rest), body = entry
            yield [kind, *rest], body
            if kind in ("finished", "failed"):
                return

    def abandon(self, error: Exception) -> None:
        """Ends `messages` with an error."""
        self._drop()
        self._arrived.put_nowait(error)

    def _drop(self) -> None:
        """Drops the waiting messages."""
        while not self._arrived.empty():
            self._arrived.get_nowait()

    async def close(self) -> None:
        """Tells the machine to forget the run; the machine reads this after its current task."""
        there = self._machine._runs.pop(self.number, None) is not None
        self._drop()  # the reader may be waiting for room
        if there and not self._machine.lost:
            self._machine._hand_over(["end", self.number], b"")


class Machine:
    """A worker process, on this or another machine; `Machine.start` makes one.

    Attributes:
        lost: reason for its end; empty while it runs.
    """

    def __init__(self, process: Program, task_s: float | None, most_bytes: int = MOST_FRAME_BYTES) -> None:
        self.process, self.lost, self._task_s, self._most_bytes = process, "", task_s, most_bytes
        self._ending: asyncio.Task[None] | None = None
        self._running: list[Any] | None = None  # run and task that have started
        self._runs: dict[int, RunOnMachine] = {}
        self._next = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = asyncio.create_task(self._read())
        self._writing = asyncio.Lock()

    @classmethod
    async def start(
        cls,
        apps: Sequence[str],
        *,
        kind: str,
        quota: Quota,
        pace: float = 1.0,
        task_s: float | None = None,
        most_bytes: int = MOST_FRAME_BYTES,
        readable: Sequence[Path] = (),
        start: Launch = launch,
    ) -> Machine:
        """Starts a process and loads the applications in it.

        Args:
            apps: location of each application, as in `installed.load`.
            kind: kind of isolation, one of `sandbox.KINDS`.
            quota: quota of the process.
            pace: factor >= 1 by which tasks take longer than their processor time.
            task_s: time limit of one task, seconds; a longer task ends the machine.
            most_bytes: size limit of one message of the machine; a larger message ends it.
            readable: folders and files that the applications need, in addition to Python and this package.
            start: function that starts the process, on this or another machine.

        Raises:
            InputError: an application cannot be loaded, or this machine lacks the isolation.
        """
        split = [spec.partition(":") for spec in apps]
        installed = [f"{Path(place).resolve() if _is_file(place) else place}:{name}" for place, _, name in split]
        process = await start(
            installed, kind=kind, quota=quota, pace=pace, watched=task_s is not None, readable=readable
        )
        machine = cls(process, task_s, most_bytes)
        try:
            await asyncio.wait_for(asyncio.shield(machine._ready), START_S / min(1.0, quota.cpus))
        except (MachineLostError, TimeoutError):
            late = "" if machine.lost else "it takes too long"
            await machine.stop()
            raise InputError(
                f"apps are {shorten(list(apps))}, which a machine of kind {kind} does not load "
                f"({late or process.said or machine.lost}); accepted: applications installed there"
            ) from None
        except BaseException:
            await asyncio.shield(machine.stop())
            raise
        return machine

    @property
    def is_busy(self) -> bool:
        """Whether a task has started and has not ended; only a machine with a time limit of tasks reports starts."""
        return not self.lost and self._running is not None

    def open(self) -> RunOnMachine:
        """Opens a new run.

        Raises:
            MachineLostError: the machine has ended.
        """
        if self.lost:
            raise MachineLostError(self.lost)
        self._next += 1
        run = self._runs[self._next] = RunOnMachine(self, self._next)
        return run

    async def stop(self, reason: str = "stopped") -> None:
        """Ends the process and all processes that it started."""
        await self._end(reason)
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _end(self, reason: str) -> None:
        """Ends the machine and waits until it has ended."""
        await asyncio.shield(self._begin_end(reason))

    def _begin_end(self, reason: str) -> asyncio.Task[None]:
        """Starts the end of the machine at the first call; all calls return the same task."""
        if self._ending is None:
            self.lost = reason
            self._ending = asyncio.create_task(self._ended())
        return self._ending

    async def _ended(self) -> None:
        self._clock(None)
        ending = await self.process.stop()
        if self.lost == ENDED:
            self.lost = f"{ENDED} ({ending.reason})"
        if not self._ready.done():
            self._ready.set_exception(MachineLostError(self.lost))
            self._ready.exception()
        for run in self._runs.values():
            run.abandon(MachineLostError(self.lost))
        self._runs.clear()

    async def _write(self, header: list[Any], body: bytes) -> None:
        if self.lost:
            raise MachineLostError(self.lost)
        try:
            async with self._writing:
                self._hand_over(header, body)
                await self.process.stdin.drain()
        except (ConnectionError, OSError):
            await self._end(ENDED)
            raise MachineLostError(self.lost) from None

    def _hand_over(self, header: list[Any], body: bytes) -> None:
        frame = framed(header, body)
        self.process.stdin.write(LENGTH.pack(len(frame)) + frame)

    def _clock(self, seconds: float | None) -> None:
        """Starts the timer of a task, or stops it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            reason = f"a task took longer than {seconds:g} s"
            self._timer = asyncio.get_running_loop().call_later(seconds, self._begin_end, reason)

    async def _read(self) -> None:
        """Passes each message to its run. A machine is not trusted: an invalid message ends it."""
        reason = ENDED
        try:
            while True:
                (length,) = LENGTH.unpack(await self.process.stdout.readexactly(LENGTH.size))
                if length > self._most_bytes:
                    reason = f"machine sent {length} bytes at once"
                    break
                header, body = unframed(await self.process.stdout.readexactly(length))
                if header == ["ready"]:
                    if not self._ready.done():
                        self._ready.set_result(None)
                    continue
                kind, number = header[0], header[1]
                if kind == "started":
                    self._running = header[1:3]
                    self._clock(self._task_s)
                    continue
                if kind == "exhausted":  # leftovers of its tasks may disturb other tasks
                    reason = f"machine is exhausted ({str(header[3])[:LONGEST_TEXT]})"
                    break
                if kind in ("done", "failed") and header[1:3] == self._running:
                    self._running = None
                    self._clock(None)
                run = self._runs.get(number) if isinstance(number, int) else None
                if run is not None:
                    if kind in ("finished", "failed"):
                        self._runs.pop(number)
                    if run._arrived.full():  # the reader is slow, not the task
                        self._clock(None)
                    await run._arrived.put((header, body))
                    if self._timer is None and self._running is not None:
                        self._clock(self._task_s)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception as error:  # an invalid message can raise any error
            reason = f"machine sent what is no message ({shorten(str(error))})"
        await self._end(reason)


async def local_executor(apps: Sequence[str], share: float, core: int | None = None) -> Machine:
    """Starts a UE's machine: a plain process that is slower than this machine.

    Args:
        apps: as in `Machine.start`.
        share: share of a core's processor time, in (0, 1]. If no quota can be set, the process waits after each task.
        core: processor core; None for any.

    Raises:
        InputError: an application cannot be loaded, or `share` or `core` is out of range.
    """
    waits = sandbox.limits() == "rlimit"
    quota = Quota(cpus=1.0 if waits else share, core=core)
    return await Machine.start(apps, kind="process", quota=quota, pace=1 / share if waits else 1.0)
