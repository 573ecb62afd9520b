"""What the progress line writes on a terminal and into a pipe."""

from __future__ import annotations

import io
import os
import pty
import select
import termios
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mrlato_jax import progress as module
from mrlato_jax.errors import InputError
from mrlato_jax.progress import (
    Attended,
    OutOfTimeError,
    Progress,
    format_duration,
    format_table,
    table_head,
    table_line,
)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        """The lines as a person sees them: each carriage return goes back to the line's beginning."""
        lines = []
        for written in self.getvalue().split("\n"):
            line = ""
            for part in written.split("\r"):
                line = part + line[len(part) :]
            lines.append(line.rstrip())
        return lines


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("COLUMNS", "60")
    return Terminal()


def test_one_line_redrawn_in_place(clock: Clock, terminal: Terminal) -> None:
    with Progress(40, "exp2", stream=terminal, clock=clock) as progress:
        for step in range(1, 41):
            clock.now += 0.5
            progress.update(step, latency="612.3 ms", entropy=0.123456)
            if step == 10:
                assert terminal.screen() == ["exp2 10/40 25%  2 it/s  ETA 15s  latency 612.3 ms  entropy"]
    assert terminal.screen() == ["exp2 40/40 100%  2 it/s  latency 612.3 ms  entropy 0.1235", ""]


def test_never_wider_than_the_terminal(clock: Clock, terminal: Terminal) -> None:
    with Progress(3, "long" * 40, stream=terminal, clock=clock) as progress:
        progress.update(1)
    assert all(len(part) <= 59 for line in terminal.getvalue().split("\n") for part in line.split("\r"))


def test_asks_the_terminal_for_its_width(clock: Clock) -> None:
    master, slave = pty.openpty()
    try:
        termios.tcsetwinsize(slave, (24, 33))
        with os.fdopen(slave, "w", closefd=False) as stream, Progress(3, "x" * 99, stream=stream, clock=clock) as shown:
            shown.update(1)
        os.set_blocking(master, False)
        written = b""
        while not written.endswith(b"\n"):  # a terminal may hand over what was written in parts
            assert select.select([master], [], [], 10)[0], written
            written += os.read(master, 1000)
        assert written == b"\r" + b"x" * 32 + b"\r\n"
    finally:
        os.close(master)
        os.close(slave)


def test_redraws_no_faster_than_the_eye(clock: Clock, terminal: Terminal) -> None:
    with Progress(1000, "exp2", stream=terminal, clock=clock) as progress:
        for step in range(1, 1001):
            clock.now += 0.001
            progress.update(step)
    assert 10 <= terminal.getvalue().count("\r") <= 13
    assert "1000/1000 100%" in terminal.screen()[0]


def test_print_leaves_the_line_whole(clock: Clock, terminal: Terminal) -> None:
    progress = Progress(10, "exp2", stream=terminal, clock=clock)
    clock.now += 1
    progress.update(1)
    progress.print("checkpoint saved")
    assert terminal.screen() == ["checkpoint saved", "exp2 1/10 10%  ETA ?"]
    progress.close()
    progress.close()
    progress.print("done")
    assert terminal.screen() == ["checkpoint saved", "exp2 1/10 10%  ETA ?", "done", ""]


def test_pipe_gets_first_last_and_a_few_between(clock: Clock) -> None:
    pipe = io.StringIO()
    with Progress(100, "exp2", stream=pipe, interval=15, clock=clock) as progress:
        for step in range(1, 101):
            clock.now += 1
            progress.update(step, loss=-0.5)
            if step == 5:
                progress.print("a note")
    lines = pipe.getvalue().splitlines()
    assert lines[0] == "exp2 1/100 1%  ETA ?  loss -0.5"
    assert lines[1].startswith("exp2 5/100 5%")  # what led to the note stands before it
    assert lines[2] == "a note"
    assert [line.split()[1].split("/")[0] for line in lines[3:]] == ["20", "35", "50", "65", "80", "95", "100"]
    assert "\r" not in pipe.getvalue()


def test_pipe_gets_the_last_update_of_a_run_that_stops_early(clock: Clock) -> None:
    pipe = io.StringIO()
    progress = Progress(100, "exp2", stream=pipe, clock=clock)
    progress.update(1)
    progress.update(2)
    progress.close()
    assert [line.split()[1] for line in pipe.getvalue().splitlines()] == ["1/100", "2/100"]


def test_rate_is_of_this_session_and_forgets_compilation(clock: Clock) -> None:
    pipe = io.StringIO()
    with Progress(2000, "exp2", start=1500, stream=pipe, interval=0, clock=clock) as progress:
        clock.now += 100
        progress.update(1501)
        for step in range(1502, 1600):
            clock.now += 0.25 if step < 1560 else 0.5
            progress.update(step)
    assert "it/s" not in pipe.getvalue().splitlines()[0]
    rates = [line.split()[3] for line in pipe.getvalue().splitlines()[1:]]
    assert rates[:2] == ["4", "4"]
    assert rates[-1] == "2"
    assert "1599/2000 79%" in pipe.getvalue().splitlines()[-1]
    assert "ETA 3m20s" in pipe.getvalue().splitlines()[-1]


def test_no_time_passed_no_rate(clock: Clock) -> None:
    pipe = io.StringIO()
    with Progress(2, "exp2", stream=pipe, clock=clock) as progress:
        progress.update(1)
        progress.update(2)
    assert pipe.getvalue() == "exp2 1/2 50%  ETA ?\nexp2 2/2 100%  0 it/s\n"


def test_writes_to_standard_error_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(1, "exp2") as progress:
        progress.update(1)
    assert capsys.readouterr().err.startswith("exp2 1/1 100%")


@pytest.mark.parametrize(("total", "start"), [(0, 0), (5, 6), (5, -1)])
def test_progress_out_of_range(total: int, start: int) -> None:
    with pytest.raises(InputError, match="accepted"):
        Progress(total, "exp2", start=start)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (59.4, "59s"), (59.6, "1m00s"), (3599.4, "59m59s"),
        (3599.6, "1h00m"), (86369, "23h59m"), (86371, "1d00h"), (273600, "3d04h"),
    ],
)  # fmt: skip
def test_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(0, 1e9))
def test_duration_has_no_sixtieth_minute(seconds: float) -> None:
    text = format_duration(seconds)
    assert not any(part in text for part in ("60s", "60m", "d24h"))
    assert text != "24h00m"


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_duration_of_nothing(seconds: float) -> None:
    with pytest.raises(InputError, match="seconds is"):
        format_duration(seconds)


def test_table() -> None:
    table = format_table(["method", "n"], [["HEFT-based", "586.1"], ["a|b", "7"]])
    assert table.splitlines() == [
        "| method     |     n |",
        "| ---------- | ----: |",
        "| HEFT-based | 586.1 |",
        r"| a\|b       |     7 |",
    ]


def test_table_with_a_ragged_row() -> None:
    with pytest.raises(InputError, match=r"row is \['x'\]; accepted: 2 cells"):
        format_table(["a", "b"], [["x"]])


# Work in a thread that another one attends to.


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at the clock a thousand times a second."""
    monkeypatch.setattr(module, "_REDRAW_SECONDS", 0.001)


class Ticking(Clock):
    """A clock that goes on by a second each time that it is looked at."""

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class Work:
    """Work that ends once the clock has gone so far; an hour of it is a moment here."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.until = clock, clock.now + seconds

    def __call__(self) -> str:
        while self.clock.now < self.until:
            threading.Event().wait(0.0005)
        return "done"


def test_work_gives_its_result_or_its_error() -> None:
    attended = Attended(stream=io.StringIO())
    assert attended.do("sum", lambda: 1 + 1) == 2
    with pytest.raises(InputError, match="bad"):
        attended.do("bad", lambda: (_ for _ in ()).throw(InputError("bad")))
    assert not attended.left_behind
    assert attended.left_s == float("inf")


def test_time_ends_work_that_goes_on_behind(fast: None) -> None:
    free, stream = threading.Event(), io.StringIO()
    attended = Attended(0.05, stream=stream)
    with pytest.raises(OutOfTimeError):
        attended.do("long", free.wait)
    assert attended.left_behind
    assert attended.left_s == 0
    with pytest.raises(OutOfTimeError):
        attended.do("next", lambda: pytest.fail("it was begun"))
    free.set()


def test_long_work_is_told_of_before_and_during_it_and_short_work_is_not(fast: None) -> None:
    clock, stream = Ticking(), io.StringIO()
    attended = Attended(stream=stream, interval=30.0, clock=clock)
    attended.do("short", lambda: None, 1.0)
    assert stream.getvalue() == ""
    attended.do("long", Work(clock, 100), 90.0)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "long: 1.0s of about 1m30s"
    assert 3 <= len(lines) <= 5
    assert lines[-1].endswith(" so far") or lines[-1].endswith(" of about 1m30s")
    attended.do("unknown", Work(clock, 20))
    assert "unknown: " in stream.getvalue().splitlines()[-1]
    assert stream.getvalue().endswith(" so far\n")


def test_estimates_follow_the_pace_of_the_machine(fast: None) -> None:
    clock, stream = Ticking(), io.StringIO()
    attended = Attended(stream=stream, clock=clock)
    attended.do("first", Work(clock, 40), 10.0)
    attended.do("second", Work(clock, 40), 10.0)
    (line,) = [line for line in stream.getvalue().splitlines() if line.startswith("second: 1.0s")]
    about = line.removeprefix("second: 1.0s of about ").removesuffix("s")
    assert 38 <= float(about) <= 50


def test_the_line_of_work_is_gone_behind_it(fast: None, terminal: Terminal) -> None:
    clock = Ticking()
    attended = Attended(stream=terminal, clock=clock)
    work, seen = Work(clock, 50), []

    def noting() -> str:
        while clock.now < work.until - 20:
            threading.Event().wait(0.0005)
        seen.extend(terminal.screen())
        attended.say("a note")
        return work()

    assert attended.do("work", noting, 60.0) == "done"
    assert seen[-1].startswith("work: ")
    assert seen[-1].endswith("of about 1m00s")
    assert terminal.screen() == ["a note", ""]


def test_a_table_line_by_line_is_the_table() -> None:
    header, rows = ["plan", "ms"], [["all|local", "1"], ["b", "1234"]]
    widths = [10, 4]
    assert [*table_head(header, widths), *(table_line(row, widths) for row in rows)] == format_table(
        header, rows
    ).splitlines()
