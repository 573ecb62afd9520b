"""Ending where SIGTERM or Ctrl-C asks for it: between two steps, or at once where nothing is to be saved.

Python runs a signal's handler between two instructions of its main thread. While that compiles, or waits for a device,
there is none for minutes. The kernel's part of a signal also writes to a pipe (`signal.set_wakeup_fd`); a thread reads
it and can end the process meanwhile.
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
    """A stop was requested in the middle of something whose first part is worth nothing."""


class GracefulStop:
    """Within the context SIGTERM and SIGINT set `requested`, so that a loop can save and end between steps.

    Where the program says how it ends (`closing`), they end the process at once wherever it is `unburdened`. A SIGINT
    when a stop is already requested raises KeyboardInterrupt: who presses Ctrl-C twice means it. For the main thread,
    which alone receives signals.

    Attributes:
        requested: whether a stop was.
    """

    _closing: Callable[[], int] | None = None

    def __init__(self, closing: Callable[[], int] | None = None) -> None:
        """`closing` prints the last lines of a stopped program, in whichever thread, and returns its exit status."""
        self.requested = False
        self._closing = closing
        self._previous: dict[signal.Signals, Any] = {}
        self._line: str | None = None  # what is said where the process ends at once; None where it must not
        self._lock = threading.RLock()  # held while that changes, while it ends, and while a part is written

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
        """Within, nothing is worth saving: a stop ends the process at once, after `line` on standard error.

        Without `closing` a stop stays a request here too.
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
        """Within an unburdened stretch: what is written here is whole before the process ends. Threads take turns."""
        if self._closing is None:
            yield
            return
        with self._lock:
            yield

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        if not self.requested and self._line is None:
            os.write(2, b"\nstopping at the next safe point; Ctrl-C again aborts\n")  # print is not for handlers
        self.requested = True

    def _watch(self) -> None:
        while numbers := os.read(self._read, 1):  # nothing once the other end is closed
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
