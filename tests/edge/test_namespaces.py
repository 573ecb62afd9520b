"""A link of two network namespaces: the payload moves at the nominal rate, and nothing of it stays behind."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mrlato_jax.edge.link import Rates
from mrlato_jax.edge.namespaces import ShapedLink, available, remove_leftovers
from mrlato_jax.errors import InputError

REASON = available()
needs_root = pytest.mark.skipif(REASON is not None, reason=str(REASON))
NEW_NETWORK = 0x40000000  # Linux's CLONE_NEWNET
UP, DOWN = 20e6, 40e6
SOON = 10.0  # seconds: how long anything may take on a busy machine


def within(namespace: str, act: Callable[[], Any]) -> Any:
    """What `act` returns in a thread that has entered a namespace; sockets made there stay there."""
    results: list[Any] = []

    def enter() -> None:
        with open(f"/var/run/netns/{namespace}") as file:
            assert ctypes.CDLL(None).setns(file.fileno(), NEW_NETWORK) == 0
        try:
            results.append(act())
        except OSError as error:
            results.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(results[0], OSError):
        raise results[0]
    return results[0]


@contextlib.contextmanager
def joined(link: ShapedLink) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The UE's and the server's end of a connection."""
    with within(link.mec, lambda: socket.create_server((link.mec_address, 0))) as server:
        port = server.getsockname()[1]
        client = within(link.ue, lambda: socket.create_connection((link.mec_address, port), 10))
        far, (address, _) = server.accept()
    assert address == link.ue_address
    with client, far:
        for end in (client, far):
            end.settimeout(10)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client, far


def carried_s(sender: socket.socket, receiver: socket.socket, count: int) -> float:
    """Seconds from the first byte's departure to the last one's arrival."""
    thread = threading.Thread(target=sender.sendall, args=(bytes(count),))
    began = time.monotonic()
    thread.start()
    left = count
    while left:
        left -= len(receiver.recv(min(left, 2**16)))
    took = time.monotonic() - began
    thread.join()
    return took


def quickest(measure: Callable[[], float], wanted: float) -> float:
    """The least of some tries, as a busy machine only adds; ends early with one that is good."""
    least, until = math.inf, time.monotonic() + SOON
    while least >= wanted and time.monotonic() < until:
        least = min(least, measure())
    return least


def names() -> list[str]:
    return [line.split()[0] for line in subprocess.check_output(["ip", "netns", "list"], text=True).splitlines()]


@pytest.fixture(scope="module")
def link() -> Iterator[ShapedLink]:
    if REASON is not None:
        pytest.skip(REASON)
    with ShapedLink(Rates(UP, DOWN), "tested") as made:
        yield made


@pytest.fixture
def pair(link: ShapedLink) -> Iterator[tuple[socket.socket, socket.socket]]:
    with joined(link) as ends:
        yield ends


Pair = tuple[socket.socket, socket.socket]


def head_start_s(link: ShapedLink, rate: float) -> float:
    """By which a message that enters an idle link arrives earlier: the time of a full bucket."""
    wire_bps, holds = link._bucket(rate)
    return 8 * holds / wire_bps


def test_the_payload_moves_at_the_nominal_rate(link: ShapedLink, pair: Pair) -> None:
    client, far = pair
    for sender, receiver, rate in ((client, far, UP), (far, client, DOWN)):
        for count in (20_000, 200_000):
            ideal = 8 * count / rate - head_start_s(link, rate)
            most = 1.05 * ideal + 3e-3
            took = quickest(lambda n=count, s=sender, r=receiver: carried_s(s, r, n), most)
            assert 0.98 * ideal - 2e-4 < took < most


def test_both_ways_at_once_and_after_a_pause(pair: Pair) -> None:
    client, far = pair

    def both() -> float:
        thread = threading.Thread(target=carried_s, args=(far, client, 400_000))
        thread.start()
        took = carried_s(client, far, 200_000)
        thread.join()
        time.sleep(0.3)
        return max(took, carried_s(client, far, 200_000))

    ideal = 8 * 200_000 / UP
    most = 1.1 * ideal + 3e-3
    assert 0.95 * ideal < quickest(both, most) < most


def test_the_head_start_is_one_frame(link: ShapedLink) -> None:
    assert head_start_s(link, UP) == pytest.approx(8 * 1514 / (UP * 1514 / 1448), rel=0.1)
    assert head_start_s(link, DOWN) == pytest.approx(head_start_s(link, UP) / 2, rel=0.1)
    assert link._bucket(7e6) == (round(7e6 * 1514 / 1448), 1540)
    small = ShapedLink(Rates(UP, DOWN), "small", mtu=576)
    assert head_start_s(small, UP) < 0.5 * head_start_s(link, UP)


def test_rates_change_for_what_is_under_way(link: ShapedLink, pair: Pair) -> None:
    client, far = pair

    def changed(factor: float, count: int) -> tuple[float, float]:
        """When the rates were so many times the nominal ones, and when all had arrived."""
        began = time.monotonic()
        client.sendall(bytes(count))
        link.set_rates(Rates(factor * UP, factor * DOWN))
        since = time.monotonic() - began
        left = count
        while left:
            left -= len(far.recv(min(left, 2**16)))
        return since, time.monotonic() - began

    since, ended = changed(0.1, 100_000)  # 40 ms
    assert ended > since + 9 * (0.04 - since)
    assert ended < SOON
    assert quickest(lambda: changed(1, 100_000)[1], 0.25) < 0.25
    assert link.rates == Rates(UP, DOWN)


def test_a_cut_stops_bytes_and_keeps_connections(link: ShapedLink, pair: Pair) -> None:
    client, far = pair
    link.cut()
    try:
        client.sendall(b"word")
        far.settimeout(0.05)
        with pytest.raises(TimeoutError):
            far.recv(1)
        with pytest.raises(OSError, match="Network is unreachable"):
            within(link.ue, lambda: socket.create_connection((link.mec_address, 1), 1))
    finally:
        link.mend()
    far.settimeout(10)
    assert far.recv(4) == b"word"
    most = 1.05 * 8 * 100_000 / UP + 3e-3
    assert quickest(lambda: carried_s(client, far, 100_000), most) < most


def test_programs_run_in_the_namespaces_and_see_nothing_else(link: ShapedLink) -> None:
    program = "import os, socket; print(*sorted(name for _, name in socket.if_nameindex()))"
    for side in ("ue", "mec"):
        words = link.command(side, [sys.executable, "-I", "-S", "-c", program])
        shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert {"lo", "radio"} == set(shown.split()) & {"lo", "radio", "eth0"}
    for namespace in (link.ue, link.mec):  # loopback is up

        def own() -> None:
            with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5):
                pass

        within(namespace, own)
        with pytest.raises(OSError, match="Network is unreachable"):
            within(namespace, lambda: socket.create_connection(("192.0.2.1", 9), 1))
    with pytest.raises(InputError, match="side is 'vm'; accepted: ue, mec"):
        link.command("vm", [])  # type: ignore[arg-type]


@needs_root
def test_nothing_stays_after_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), ShapedLink(Rates(UP, DOWN), "gone") as link:  # noqa: PT012
        sleeper = subprocess.Popen(link.command("mec", ["sleep", "600"]))
        other = ShapedLink(Rates(UP, DOWN), "gone")
        with pytest.raises(OSError, match="File exists"):
            other.__enter__()
        assert {link.ue, link.mec} <= set(names())
        while not subprocess.check_output(["ip", "netns", "pids", link.mec]).split():
            time.sleep(0.01)
        raise ZeroDivisionError
    assert sleeper.wait(10) == -9
    assert not {link.ue, link.mec} & set(names())


@needs_root
def test_what_a_dead_owner_left_is_removed() -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    left, foreign, alive = f"mrlato-{dead.pid}-ue", f"mrlatox-{dead.pid}-ue", f"mrlato-{os.getpid()}-left-ue"
    try:
        for name in (left, foreign, alive):
            subprocess.run(["ip", "netns", "add", name], check=True)
        remove_leftovers()
        assert set(names()) & {left, foreign, alive} == {foreign, alive}
    finally:
        for name in (left, foreign, alive):
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("make", "phrase"),
    [
        (lambda: ShapedLink(Rates(1, 1, 0.1)), "delay_s is 0.1; accepted: 0"),
        (lambda: ShapedLink(Rates(1, 1)).set_rates(Rates(1, 1, 0.1)), "delay_s is 0.1; accepted: 0"),
        (lambda: ShapedLink(Rates(1, 1), "A-b"), "name is 'A-b'; accepted: 1 to 20 of a-z and 0-9"),
        (lambda: ShapedLink(Rates(1, 1), mtu=1501), r"mtu is 1501; accepted: an integer in \[576, 1500\]"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], phrase: str) -> None:
    with pytest.raises(InputError, match=phrase):
        make()


def test_the_reason_is_given_where_it_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "name", "nt")
    assert available() == "this system has no network namespaces"
    monkeypatch.undo()
    if os.path.exists("/proc/self/ns/net"):
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert available() == "network namespaces need root"
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(shutil, "which", lambda name: None if name == "tc" else f"/sbin/{name}")
        assert available() == "the program tc (of iproute2) is missing"
