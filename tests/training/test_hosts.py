"""How processes of one run meet, and how they learn that one of them is gone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from mrlato_jax.errors import InputError
from mrlato_jax.training import hosts

ROOT = str(Path(__file__).resolve().parents[2])
JOIN = """
import sys
from mrlato_jax.training import hosts
hosts.join(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), join_timeout_s=int(sys.argv[4]))
"""


def start(coordinator: str, num_processes: int, process_id: int, timeout_s: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", JOIN, coordinator, str(num_processes), str(process_id), str(timeout_s)],
        env={**os.environ, "PYTHONPATH": ROOT},
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_who_waits_in_vain_says_for_whom_and_ends() -> None:
    port = free_port()
    with socket.socket() as first:  # answers, as a first process that waits for a third one does
        first.bind(("127.0.0.1", 0))
        first.listen()
        coordinators = [f"127.0.0.1:{number}" for number in (port, first.getsockname()[1], free_port())]
        processes = [start(coordinators[0], 3, 0, 2), start(coordinators[1], 3, 1, 1), start(coordinators[2], 3, 1, 1)]
        try:
            until = time.monotonic() + 60
            while not answers("127.0.0.1", port):
                assert processes[0].poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
            assert not answers("127.0.0.2", port)  # it listens where it was told to, and nowhere else
            said = [process.communicate(timeout=60)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
    assert [process.returncode for process in processes] == [hosts.LOST_PEER] * 3, said
    assert f"waiting for all 3 processes at {coordinators[0]}, at most 2 s\n" in said[0]
    assert f"error: all 3 processes at {coordinators[0]} did not come within 2 s; start every process again" in said[0]
    assert f"error: process 0 answers at {coordinators[1]}, but not all 3 processes came within 1 s" in said[1]
    assert f"waiting for process 0 at {coordinators[2]}, at most 1 s\n" in said[2]
    assert f"error: process 0 at {coordinators[2]} did not come within 1 s" in said[2]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_is_in_use_is_refused_by_the_first_process(host: str) -> None:
    with socket.socket() as other:
        other.bind((host, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=f"coordinator is 127.0.0.1:{port}, a port that is in use; accepted: a f"):
            hosts.join(f"127.0.0.1:{port}", 2, 0)


def test_where_the_first_process_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    def known_as(address: str) -> None:
        entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [entry])

    port = free_port()
    everywhere = "[::]" if socket.has_dualstack_ipv6() else "0.0.0.0"
    assert hosts._listen_at("127.0.0.1", port) == "127.0.0.1"
    known_as("127.0.1.1")
    assert hosts._listen_at("node0", port) == everywhere  # the others know it by another address
    known_as("192.0.2.1")
    assert hosts._listen_at("node0", port) == everywhere  # of no machine
    known_as("127.0.0.1")
    assert hosts._listen_at("localhost", port) == "127.0.0.1"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (jax.errors.JaxRuntimeError("UNAVAILABLE: Connection reset by peer"), hosts.LOST_PEER),
        (ValueError("UNKNOWN: Gloo AllGather failed: [pair.cc:547] Connection closed by peer"), hosts.LOST_PEER),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), 1),
        (ValueError("too many values to unpack"), 1),
        (InputError("label is 'Gloo'; accepted: others"), 2),
    ],
)
def test_what_ends_a_process_tells_whether_another_is_lost(
    error: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hosts._tell(error) == status
    assert ("this or another process of the run ended" in capsys.readouterr().err) == (status == hosts.LOST_PEER)
