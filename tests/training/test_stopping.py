"""Ending on SIGTERM and Ctrl-C: between two steps, and at once where there is nothing to save."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mrlato_jax.training.stopping import GracefulStop


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_asks_for_a_stop(number: signal.Signals) -> None:
    before = [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)]
    with GracefulStop() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGTERM)  # asking again changes nothing
    assert [signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)] == before


def test_second_interrupt_stops_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupted_twice() -> None:
        with GracefulStop() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupted_twice()
    assert signal.getsignal(signal.SIGINT) == before


BUSY = """
import ctypes, os, signal, sys, threading, time
from contextlib import nullcontext
from mrlato_jax.training.stopping import GracefulStop

def closing():
    print("continue with this")
    return 7

def busy():  # as while XLA compiles: no handler of Python's is run in the main thread
    print("busy", flush=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    ctypes.CDLL(None).sleep(1 if sys.argv[1] in ("after", "request") else 60)

def write():
    with stop.writing():
        print("writing", flush=True)
        time.sleep(1)
        print("written", flush=True)

with GracefulStop(closing if sys.argv[1] != "request" else None) as stop:
    if sys.argv[1] == "before":
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
    if sys.argv[1] == "after":
        with stop.unburdened("stopped at once"):
            pass
    if sys.argv[1] == "writing":
        threading.Timer(0.5, write).start()
    with stop.unburdened("stopped at once") if sys.argv[1] != "after" else nullcontext():
        busy()
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
print("requested", stop.requested)
"""


@pytest.mark.parametrize(
    ("case", "status", "out", "err"),
    [
        ("at once", 7, "busy\ncontinue with this\n", "stopped at once\n"),
        ("before", 7, "continue with this\n", "stopping"),
        ("writing", 7, "busy\nwriting\nwritten\ncontinue with this\n", "stopped at once\n"),
        ("after", 0, "busy\nrequested True\n", "stopping"),
        ("request", 0, "busy\nrequested True\n", "stopping"),
    ],
)
def test_where_nothing_is_to_be_saved_a_stop_ends_the_process_at_once(
    case: str, status: int, out: str, err: str
) -> None:
    root = str(Path(__file__).resolve().parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, case],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = ""
        if case != "before":
            while not said.endswith("writing\n" if case == "writing" else "busy\n"):
                said += process.stdout.readline()
                assert process.poll() is None
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        rest, errors = process.communicate(timeout=60)
    assert (process.returncode, said + rest) == (status, out)
    assert err in errors
    if status:
        assert time.monotonic() - began < 30  # and not when what keeps the main thread busy is done


def test_a_stop_leaves_no_thread_and_no_file_descriptor() -> None:
    before = threading.active_count(), signal.set_wakeup_fd(-1)
    with GracefulStop():
        assert threading.active_count() == before[0] + 1
    assert (threading.active_count(), signal.set_wakeup_fd(-1)) == before
