"""Ending between two steps when SIGTERM or Ctrl-C asks for it."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self


class StoppedError(Exception):
    """A stop was requested in the middle of something whose first part is worth nothing."""


class GracefulStop:
    """Within the context SIGTERM and SIGINT only set `requested`, so that a loop can save and end between steps.

    A SIGINT when a stop is already requested raises KeyboardInterrupt: who presses Ctrl-C twice means it. For the
    main thread, which alone receives signals.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        if not self.requested:
            os.write(2, b"\nstopping when metrics are fetched next; Ctrl-C again aborts\n")  # print is not for handlers
        self.requested = True
