"""Ending on SIGTERM and Ctrl-C: between two steps, and at once where there is nothing to save."""

from __future__ import annotations

import os
import signal

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
