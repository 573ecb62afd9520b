"""Output for people: a progress line, durations, and plain-text tables."""

from __future__ import annotations

import math
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from types import TracebackType
from typing import Self, TextIO, TypeVar

from mrlato_jax.errors import InputError, check_number, shorten

_WINDOW = 30  # number of updates in the moving average of the rate
_REDRAW_SECONDS = 0.1
WORTH_SAYING_S = 5.0  # what takes less needs no line where it cannot be redrawn
MOST_PACE = 10.0  # how far an estimate is believed to be wrong by

T = TypeVar("T")


class _Line:
    """The last line of a stream: redrawn in place on a terminal, printed anew elsewhere. Any thread may write.

    Attributes:
        on_terminal: whether the stream is a terminal.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self.on_terminal = self._stream.isatty()
        self._text = ""
        self._lock = threading.RLock()  # held while something is written; `print` also shows

    def show(self, text: str) -> None:
        """Shows `text` in place of the text before, at most as wide as the terminal; "" erases the line."""
        with self._lock:
            if text == self._text:
                return
            if self.on_terminal:
                width = _columns(self._stream)
                self._write("\r" + text[:width].ljust(width) + ("" if text else "\r"))
            elif text:
                self._write(text + "\n")
            self._text = text

    def print(self, text: str) -> None:
        """Writes `text` on its own line, above the last line."""
        with self._lock:
            shown = self._text
            if self.on_terminal:
                self.show("")
            self._write(text + "\n")
            if self.on_terminal:
                self.show(shown)

    def end(self) -> None:
        """Leaves the line as it is; the next text starts a new line."""
        with self._lock:
            if self.on_terminal and self._text:
                self._write("\n")
            self._text = ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class Progress:
    """A progress line: redrawn in place on a terminal, printed from time to time to a pipe or file.

    On a terminal the line never exceeds the width. Elsewhere a line is printed for the first and the last update, and
    between them at most every `interval` seconds.
    """

    def __init__(
        self,
        total: int,
        label: str,
        *,
        start: int = 0,
        stream: TextIO | None = None,
        interval: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts the clock.

        Args:
            total: number of steps of the whole run, at least 1.
            label: first words of the line.
            start: steps done by earlier sessions of the run; they count in the fraction, not in the rate.
            stream: output stream; by default standard error.
            interval: seconds between lines if the stream is not a terminal.
            clock: monotonic clock, seconds.
        """
        check_number("total", total, low=1, integer=True)
        check_number("start", start, low=0, high=total, integer=True)
        self._total, self._label = total, label
        self._line = _Line(stream)
        self._every = _REDRAW_SECONDS if self._line.on_terminal else interval
        self._clock = clock
        self._marks = deque([(clock(), start)], maxlen=_WINDOW + 1)  # (time, step)
        self._compiling = True  # only the start is marked
        self._latest = ""
        self._shown_at: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def update(self, step: int, **metrics: float | str) -> None:
        """Reports that `step` steps of the run are done.

        Args:
            step: number of steps since the beginning of the run, not of this session.
            metrics: shown after the rate in the given order; numbers with four digits, text unchanged.
        """
        now = self._clock()
        if len(self._marks) > 1 and self._compiling:
            self._marks.popleft()  # the first update included compilation, so its time does not predict the others
            self._compiling = False
        self._marks.append((now, step))
        self._latest = self._describe(step, metrics)
        if self._shown_at is None or step >= self._total or now - self._shown_at >= self._every:
            self._show(now)

    def print(self, text: str) -> None:
        """Writes `text` on its own line, above the progress line."""
        if self._latest:
            self._show(self._clock())
        self._line.print(text)

    def close(self) -> None:
        """Shows the last update, if not yet shown, and ends the line."""
        self._line.show(self._latest)
        self._line.end()
        self._latest = ""

    def _describe(self, step: int, metrics: dict[str, float | str]) -> str:
        (since, first), (now, last) = self._marks[0], self._marks[-1]
        rate = (last - first) / (now - since) if now > since else 0.0
        remaining = self._total - step
        pace = [f"{rate:.3g} it/s"]
        if remaining > 0:  # the first update's rate is dominated by compilation
            pace = ["ETA ?"] if self._compiling or rate <= 0 else [*pace, f"ETA {format_duration(remaining / rate)}"]
        shown = [
            f"{name} {value if isinstance(value, str) else format(value, '.4g')}" for name, value in metrics.items()
        ]
        share = f"{step}/{self._total} {100 * step // self._total}%"
        return "  ".join([f"{self._label} {share}", *pace, *shown])

    def _show(self, now: float) -> None:
        self._line.show(self._latest)
        self._shown_at = now


class OutOfTimeError(Exception):
    """The time that all work together was given has ended before a piece of it."""


class Attended:
    """Does one piece of work after another in a thread, while the calling one tells of it and watches the time.

    What takes long gets a line on standard error: how long it has taken, and about how long it will. On a terminal the
    line is redrawn in place; elsewhere one is printed as the work begins, and then now and then. Signals are heard at
    once, whatever the thread does: Ctrl-C raises KeyboardInterrupt out of `do`.

    Attributes:
        left_behind: whether a thread still works on what nobody waits for. Only the end of the process ends it.
    """

    def __init__(
        self,
        seconds: float | None = None,
        *,
        stream: TextIO | None = None,
        interval: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts the clock.

        Args:
            seconds: that all work together may take; None: as long as it takes.
            stream: where to write; standard error by default.
            interval: seconds between lines where the stream is no terminal.
            clock: seconds, monotonic.
        """
        self.left_behind = False
        self._line, self._clock = _Line(stream), clock
        self._ends = None if seconds is None else clock() + seconds
        self._interval = interval
        self._pace = 1.0  # of this machine: how much longer work has taken than was estimated

    @property
    def left_s(self) -> float:
        """Seconds that are left; infinite where no time was given."""
        return math.inf if self._ends is None else max(0.0, self._ends - self._clock())

    def do(self, label: str, work: Callable[[], T], estimate_s: float = 0.0) -> T:
        """The result of `work`; its exceptions are raised here.

        Args:
            label: what begins its line.
            work: is done in a thread of its own.
            estimate_s: about how long it takes; 0 where that is not known.

        Raises:
            OutOfTimeError: no time was left, or the time ended first; `work` is then left behind.
        """
        if not self.left_s:
            raise OutOfTimeError(label)
        began = self._clock()
        future = _begun(work)
        expected = estimate_s * self._pace
        shown_at = -math.inf if expected >= WORTH_SAYING_S else began + WORTH_SAYING_S - self._interval
        try:
            while not wait([future], _REDRAW_SECONDS).done:
                now = self._clock()
                if not self.left_s:
                    raise OutOfTimeError(label)
                is_due = max(expected, now - began) >= 1 if self._line.on_terminal else now - shown_at >= self._interval
                if is_due:
                    self._line.show(_taking(label, now - began, expected))
                    shown_at = now
        finally:
            self.left_behind = self.left_behind or not future.done()
            self._line.show("")
        took = self._clock() - began
        if estimate_s >= 1:
            self._pace = min(max(took / estimate_s, 1 / MOST_PACE), MOST_PACE)
        return future.result()

    def say(self, text: str) -> None:
        """Writes `text` on a line of its own, above the line that tells of the work; any thread may."""
        self._line.print(text)


def _begun(work: Callable[[], T]) -> Future[T]:
    """What comes of `work`, which a thread does that does not keep the process."""
    future: Future[T] = Future()

    def do() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=do, daemon=True).start()
    return future


def _taking(label: str, took: float, expected: float) -> str:
    """How long it has taken, and about how long it will."""
    about = f"about {format_duration(expected)}" if expected >= 1 else ""
    if took < 1:
        return f"{label}: {about}"
    return f"{label}: {format_duration(took)}" + (f" of {about}" if about and took < expected else " so far")


def _columns(stream: TextIO) -> int:
    """Columns that can be written without wrapping."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # a terminal in name only
        columns = 0
    columns = columns or shutil.get_terminal_size().columns  # some say 0
    return max(columns, 2) - 1  # some terminals wrap when the last column is filled


def format_duration(seconds: float) -> str:
    """Formats a duration with at most two units: 0.8s, 1m00s, 9m48s, 1h02m, 3d04h.

    Args:
        seconds: finite, not negative.
    """
    check_number("seconds", seconds, low=0.0)
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    hours = round(seconds / 3600)
    return f"{hours // 24}d{hours % 24:02d}h"


def percent(fraction: float) -> str:
    """Formats a signed relative change: +3.7%."""
    return f"{100 * fraction:+.1f}%"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats an aligned table, which is also Markdown. The first column is left-aligned, the others are right-aligned.

    Args:
        header: names of the columns.
        rows: rows of formatted cells, one cell for each column.

    Raises:
        InputError: a row has another length.
    """
    for row in rows:
        if len(row) != len(header):
            raise InputError(f"table row is {shorten(list(row))}; accepted: {len(header)} cells")
    lines = [[cell.replace("|", r"\|") for cell in line] for line in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join([*table_head(header, widths), *(table_line(row, widths) for row in rows)])


def table_head(header: Sequence[str], widths: Sequence[int]) -> tuple[str, str]:
    """The first two lines of `format_table`, where rows follow one by one.

    Args:
        header: names of the columns.
        widths: letters of each column, at least 3.
    """
    rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return table_line(header, widths), table_line(rule, widths)


def table_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """A row of such a table; a cell that is longer than its column makes the row longer."""
    escaped = [cell.replace("|", r"\|") for cell in cells]
    padded = [
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(escaped, widths, strict=True))
    ]
    return "| " + " | ".join(padded) + " |"
