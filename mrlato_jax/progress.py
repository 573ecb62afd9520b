"""Output for people: a progress line, durations, and plain-text tables."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self, TextIO

from mrlato_jax.errors import InputError, check_number, shorten

_WINDOW = 30  # number of updates in the moving average of the rate
_REDRAW_SECONDS = 0.1


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
        self._stream = sys.stderr if stream is None else stream
        self._on_terminal = self._stream.isatty()
        self._every = _REDRAW_SECONDS if self._on_terminal else interval
        self._clock = clock
        self._marks = deque([(clock(), start)], maxlen=_WINDOW + 1)  # (time, step)
        self._compiling = True  # only the start is marked
        self._line = ""
        self._shown_line = ""
        self._shown_at: float | None = None
        self._closed = False

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
        self._line = self._describe(step, metrics)
        if self._shown_at is None or step >= self._total or now - self._shown_at >= self._every:
            self._show(now)

    def print(self, text: str) -> None:
        """Writes `text` on its own line, above the progress line."""
        if self._on_terminal and self._shown_line:
            self._stream.write("\r" + " " * self._width() + "\r" + text + "\n")
            self._draw(self._shown_line)
        else:
            if self._line != self._shown_line:
                self._show(self._clock())
            self._stream.write(text + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Shows the last update, if not yet shown, and ends the line."""
        if self._closed:
            return
        self._closed = True
        if self._line != self._shown_line:
            self._show(self._clock())
        if self._on_terminal and self._shown_line:
            self._stream.write("\n")
            self._stream.flush()
        self._line = self._shown_line = ""

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
        if self._on_terminal:
            self._draw(self._line)
        else:
            self._stream.write(self._line + "\n")
        self._stream.flush()
        self._shown_at, self._shown_line = now, self._line

    def _draw(self, line: str) -> None:
        width = self._width()
        self._stream.write("\r" + line[:width].ljust(width))

    def _width(self) -> int:
        """Returns the number of columns that can be written without wrapping."""
        try:
            columns = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):  # the stream only claims to be a terminal
            columns = 0
        columns = columns or shutil.get_terminal_size().columns  # some terminals report 0
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
    rule = [("-" * width if i == 0 else "-" * (width - 1) + ":") for i, width in enumerate(widths)]
    padded = [
        [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])
