"""Graceful end on SIGTERM or Ctrl-C: between two steps, or at once if there is nothing to save.

Python runs signal handlers only between two bytecode instructions of the main thread. While the main thread compiles or
waits for a device, that can take minutes. But the signal is also written to a pipe at once (`signal.set_wakeup_fd`); a
thread reads the pipe and can end the process.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StoppedError(Exception):
    """A stop was requested during work whose partial result is useless."""


class GracefulStop:
    """Context in which SIGTERM and SIGINT set `requested`, so that a loop can save and end between steps.

    With `closing`, these signals end the process at once inside `unburdened`. A SIGINT after a request raises
    KeyboardInterrupt, so Ctrl-C twice aborts. Use this in the main thread, which receives the signals.

    Attributes:
        requested: whether a stop was requested.
    """

    _closing: Callable[[], int] | None = None

    def __init__(self, closing: Callable[[], int] | None = None) -> None:
        """`closing` prints the last lines of a stopped program, in any thread, and returns its exit status."""
        self.requested = False
        self._closing = closing
        self._previous: dict[signal.Signals, Any] = {}
        self._line: str | None = None  # last message if the process may end at once; None if it must not
        self._lock = threading.RLock()  # held while `_line` changes, while the process ends, and during `writing`

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._previous_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._handle)
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._write)
        self._watcher.join()
        os.close(self._read)

    @contextmanager
    def unburdened(self, line: str) -> Iterator[None]:
        """Context in which nothing needs saving: a stop prints `line` on standard error and ends the process at once.

        Without `closing`, a stop only sets `requested`, as elsewhere.
        """
        if self._closing is None:
            yield
            return
        with self._lock:
            before, self._line = self._line, line
            if self.requested:
                self._leave()
        try:
            yield
        finally:
            with self._lock:
                self._line = before

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Context inside `unburdened` for writing a file: the process ends only afterwards. Threads take turns."""
        if self._closing is None:
            yield
            return
        with self._lock:
            yield

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        if not self.requested and self._line is None:
            os.write(
                2, b"\nstopping at the next safe point; Ctrl-C again aborts\n"
            )  # print is not safe in a signal handler
        self.requested = True

    def _watch(self) -> None:
        while numbers := os.read(self._read, 1):  # empty once the other end is closed
            if numbers[0] in _SIGNALS:
                with self._lock:
                    if self._line is not None:
                        self._leave()

    def _leave(self) -> None:
        assert self._closing is not None
        print("\n" * sys.stderr.isatty() + str(self._line), file=sys.stderr, flush=True)
        status = self._closing()
        sys.stdout.flush()
        os._exit(status)
