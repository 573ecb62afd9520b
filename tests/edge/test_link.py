"""A paced link: bytes arrive when the formula says, whole and in order, and a cut is what a cut is."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import itertools
import json
import math
import os
import random
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mrlato_jax.edge import link as module
from mrlato_jax.edge.link import PACKET, LinkProcess, PacedLink, Rates, obey, start_process
from mrlato_jax.errors import InputError

FAST = Rates(20e6, 20e6)
SOON = 10.0  # seconds: how long anything may take on a busy machine


@contextlib.contextmanager
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(SOON)
        yield server


def joined(server: socket.socket, port: int) -> tuple[socket.socket, socket.socket]:
    """The client's and the server's end of a connection through the link."""
    ends = socket.create_connection(("127.0.0.1", port), SOON), server.accept()[0]
    for end in ends:
        end.settimeout(SOON)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return ends


@contextlib.contextmanager
def linked(
    rates: Rates = FAST, half_duplex: bool = False
) -> Iterator[tuple[LinkProcess, socket.socket, socket.socket, socket.socket]]:
    with listening() as server, start_process(server.getsockname(), rates, half_duplex) as link:
        client, far = joined(server, link.port)
        with client, far:
            yield link, server, client, far


def received(end: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = end.recv(min(count - len(data), 2**16))
        assert part, f"{len(data)} of {count} bytes"
        data += part
    return bytes(data)


def carried_s(sender: socket.socket, receiver: socket.socket, count: int) -> float:
    """Seconds from the first byte's departure to the last one's arrival."""
    thread = threading.Thread(target=sender.sendall, args=(bytes(count),))
    began = time.monotonic()
    thread.start()
    received(receiver, count)
    took = time.monotonic() - began
    thread.join()
    return took


def quickest(measure: Callable[[], float], wanted: float) -> float:
    """The least of some tries, as a busy machine only adds; ends early with one that is good."""
    least, until = math.inf, time.monotonic() + SOON
    while least >= wanted and time.monotonic() < until:
        least = min(least, measure())
    return least


def bounds(ideal: float) -> tuple[float, float]:
    return ideal - 2e-4, 1.05 * ideal + 3e-3


def descriptors() -> int:
    """How many this process has open, where the system says."""
    folder = Path("/proc/self/fd")
    return len(os.listdir(folder)) if folder.exists() else 0


def first_byte(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), SOON) as client:
        return client.recv(1)


def is_open(end: socket.socket, seconds: float) -> bool:
    """Whether nothing comes for so long, no end and no reset either."""
    return not select.select([end], [], [], seconds)[0]


@pytest.mark.parametrize(
    ("values", "phrase"),
    [
        ((0, 1), r"uplink_bps is 0; accepted: a finite number in \(0, inf\)"),
        ((1, -1), "downlink_bps is -1"),
        ((1, math.inf), "downlink_bps is inf"),
        ((math.nan, 1), "uplink_bps is nan"),
        (("7e6", 1), "uplink_bps is '7e6'"),
        ((True, 1), "uplink_bps is True"),
        ((1, 1, -0.1), r"delay_s is -0.1; accepted: a finite number in \[0, inf\)"),
    ],
)
def test_rates_that_cannot_be(values: tuple[Any, ...], phrase: str) -> None:
    with pytest.raises(InputError, match=phrase):
        Rates(*values)


def test_the_last_byte_arrives_when_the_rate_says() -> None:
    count = 100_000
    with linked(Rates(20e6, 40e6)) as (link, _, client, far):
        for sender, receiver, rate in ((client, far, 20e6), (far, client, 40e6)):
            least, most = bounds(8 * count / rate)
            assert least < quickest(lambda s=sender, r=receiver: carried_s(s, r, count), most) < most
        moved = link.moved
        assert moved.up_bytes % count == moved.down_bytes % count == 0
        assert moved.up_busy_s == pytest.approx(8 * moved.up_bytes / 20e6)
        assert moved.down_busy_s == pytest.approx(8 * moved.down_bytes / 40e6)


def test_messages_one_after_another_and_both_ways_at_once_keep_the_rate() -> None:
    with linked() as (_, _, client, far):

        def both() -> float:
            thread = threading.Thread(target=lambda: [carried_s(client, far, 20_000) for _ in range(10)])
            began = time.monotonic()
            thread.start()
            carried_s(far, client, 200_000)
            thread.join()
            return time.monotonic() - began

        ideal = 8 * 200_000 / 20e6
        most = 1.15 * ideal + 0.01
        assert ideal < quickest(both, most) < most  # ten messages wait for each other


def test_a_half_duplex_link_carries_one_packet_at_a_time() -> None:
    """Each way alone has the rate; both ways at once take the sum of times, and neither waits for the other's end."""
    count, (up_s, down_s) = 100_000, (8 * 100_000 / 20e6, 8 * 100_000 / 40e6)
    with linked(Rates(20e6, 40e6), half_duplex=True) as (link, _, client, far):
        for sender, receiver, ideal in ((client, far, up_s), (far, client, down_s)):
            least, most = bounds(ideal)
            assert least < quickest(lambda s=sender, r=receiver: carried_s(s, r, count), most) < most

        def both() -> float:
            took: list[float] = []
            thread = threading.Thread(target=lambda: took.append(carried_s(far, client, count)))
            began = time.monotonic()
            thread.start()
            took.append(carried_s(client, far, count))
            thread.join()
            return time.monotonic() - began if min(took) > 1.2 * down_s else math.inf

        least, most = up_s + down_s - 2e-4, 1.1 * (up_s + down_s) + 0.01
        assert least < quickest(both, most) < most
        moved = link.moved
        assert moved.up_busy_s == pytest.approx(8 * moved.up_bytes / 20e6)


def test_a_packet_on_a_half_duplex_link_waits_for_the_other_way() -> None:
    """Also where the rates change, and where the connection of the packet that is being sent ends."""

    async def arrivals(reset: bool) -> list[float]:
        with listening() as server:
            async with PacedLink(server.getsockname(), Rates(8 * PACKET, 8 * PACKET), half_duplex=True) as link:
                loop = asyncio.get_running_loop()
                ends = [await asyncio.to_thread(joined, server, link.port) for _ in range(2)]
                (client, _), (_, far) = ends
                began = loop.time()
                client.sendall(bytes(PACKET))  # takes a second
                await asyncio.sleep(0.1)
                far.sendall(bytes(PACKET))  # begins after the first one
                await asyncio.sleep(0.4)
                if reset:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.close()
                    await asyncio.sleep(0.05)
                link.set_rates(Rates(80 * PACKET, 80 * PACKET))  # a tenth of a second a packet
                arrived = []
                for end in [ends[0][1]] * (not reset) + [ends[1][0]]:
                    await asyncio.to_thread(received, end, PACKET)
                    arrived.append(loop.time() - began)
                for end in itertools.chain(*ends):
                    end.close()
                return arrived

    first, second = asyncio.run(arrivals(reset=False))
    assert 0.54 < first < 0.75  # half of the first packet goes at the old rate
    assert first + 0.05 < second < first + 0.3
    (alone,) = asyncio.run(arrivals(reset=True))
    assert 0.6 < alone < 0.9  # the link is free from the reset on


def test_a_half_duplex_link_changes_pauses_and_forgets() -> None:
    """While both ways are full: other rates, a silent cut, and a connection that ends; every other byte arrives."""
    count = 60_000
    data = [random.Random(name).randbytes(count) for name in range(4)]
    with linked(Rates(8e6, 8e6), half_duplex=True) as (link, server, client, far):
        other, other_far = joined(server, link.port)
        with other, other_far:
            threads = [
                threading.Thread(target=end.sendall, args=(data[name],))
                for name, end in enumerate((client, far, other, other_far))
            ]
            began = time.monotonic()
            for thread in threads:
                thread.start()
            time.sleep(0.02)
            link.set_rates(Rates(16e6, 4e6))
            time.sleep(0.02)
            link.cut(silent=True)
            time.sleep(0.05)
            link.mend()
            link.set_rates(FAST)
            for name, end in ((3, other), (1, client), (0, far), (2, other_far)):
                assert received(end, count) == data[name]
            for thread in threads:
                thread.join()
            assert time.monotonic() - began > 0.12
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            far.sendall(bytes(20_000))
            other.sendall(bytes(20_000))
        received(client, 20_000)


def test_a_delay_comes_once_and_takes_no_rate() -> None:
    with linked(Rates(20e6, 20e6, 0.03)) as (_, _, client, far):
        for count in (1, 100_000):
            least, most = bounds(8 * count / 20e6 + 0.03)
            assert least < quickest(lambda n=count: carried_s(client, far, n), most) < most


def test_connections_share_a_direction() -> None:
    with linked() as (link, server, client, far):
        other, other_far = joined(server, link.port)
        with other, other_far:

            def each() -> tuple[float, float]:
                """Seconds that the quicker one takes, and both together."""
                times: list[float] = []
                pairs = ((client, far), (other, other_far))
                threads = [
                    threading.Thread(target=lambda p=pair: times.append(carried_s(*p, 100_000))) for pair in pairs
                ]
                began = time.monotonic()
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                return min(times), time.monotonic() - began

            ideal = 8 * 200_000 / 20e6
            until = time.monotonic() + SOON
            while time.monotonic() < until:
                first, last = each()
                assert last > ideal - 2e-4
                if last < bounds(ideal)[1] and first > 0.75 * ideal:
                    return
            pytest.fail(f"two of 100 kB took {first} and {last} s; ideal: {ideal} s both")


def test_rates_change_for_what_is_queued() -> None:
    with linked(Rates(1e5, 1e5)) as (link, _, client, far):
        client.sendall(bytes(25_000))  # two seconds
        time.sleep(0.02)
        link.set_rates(Rates(100e6, 1e5))
        began = time.monotonic()
        received(far, 25_000)
        assert time.monotonic() - began < 1.5
        link.set_rates(Rates(20e6, 1e5))

        def slowed() -> tuple[float, float]:
            """When the rate was a fifth, and when all had arrived."""
            began = time.monotonic()
            client.sendall(bytes(100_000))  # 40 ms
            time.sleep(0.005)
            link.set_rates(Rates(4e6, 1e5))
            changed = time.monotonic() - began
            received(far, 100_000)
            ended = time.monotonic() - began
            link.set_rates(Rates(20e6, 1e5))
            return changed, ended

        until = time.monotonic() + SOON
        while time.monotonic() < until:
            changed, ended = slowed()
            assert ended > changed + 5 * (0.04 - changed) - 2e-3
            if changed < 0.02 and ended < 5 * 0.04:
                return
        pytest.fail(f"it took until {ended} s after a change at {changed} s")


def test_a_rate_that_changes_within_a_packet_holds_for_the_rest_of_it() -> None:
    async def run() -> float:
        with listening() as server:
            async with PacedLink(server.getsockname(), Rates(1e5, 1e5)) as link:
                _, writer = await asyncio.open_connection("127.0.0.1", link.port)
                far, _ = await asyncio.to_thread(server.accept)
                with far:
                    began = time.monotonic()
                    writer.write(bytes(1250))  # 100 ms
                    await asyncio.sleep(0.05)
                    link.set_rates(Rates(2e5, 1e5))  # the second half in 25
                    assert len(await asyncio.to_thread(received, far, 1250)) == 1250
                    took = time.monotonic() - began
                    writer.close()
                    return took

    assert 0.0745 < quickest(lambda: asyncio.run(run()), 0.085) < 0.085


def test_a_rate_of_next_to_nothing_stops_no_program() -> None:
    with linked(Rates(1e-300, 1e-300)) as (link, _, client, far):
        client.sendall(b"word")
        far.sendall(b"word")
        assert is_open(client, 0.01)
        link.set_rates(FAST)
        assert received(far, 4) == received(client, 4) == b"word"


def test_a_cut_resets_connections_and_refuses_new_ones_until_it_is_mended() -> None:
    with linked() as (link, server, client, far):
        client.sendall(bytes(100_000))
        link.cut()
        for end in (client, far):
            with pytest.raises(ConnectionResetError):
                received(end, 10**6)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", link.port), SOON)
        link.cut(silent=True)  # it is cut already
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", link.port), SOON)
        link.mend()
        link.mend()
        again, again_far = joined(server, link.port)
        with again, again_far:
            again.sendall(b"again")
            assert received(again_far, 5) == b"again"


def test_a_silent_cut_holds_everything_back_and_loses_nothing() -> None:
    with linked(Rates(1e6, 1e6, 0.01)) as (link, server, client, far):
        data = random.Random(0).randbytes(12_500)  # 100 ms
        client.sendall(data)
        first = received(far, 1000)
        link.cut(silent=True)
        while not is_open(far, 0):
            first += far.recv(2**16)
        far.sendall(b"answer")
        client.shutdown(socket.SHUT_WR)
        late = socket.create_connection(("127.0.0.1", link.port), SOON)
        assert is_open(far, 0.15)
        assert is_open(client, 0)
        moved = link.moved
        assert moved.up_bytes < 12_500
        assert moved.down_bytes == 0
        link.set_rates(Rates(20e6, 20e6))  # a change meanwhile holds afterwards
        assert is_open(far, 0.02)
        link.mend()
        assert first + received(far, 12_500 - len(first)) == data
        assert far.recv(1) == b""
        assert received(client, 6) == b"answer"
        with late, server.accept()[0] as late_far:
            late.sendall(b"late")
            late_far.settimeout(SOON)
            assert received(late_far, 4) == b"late"
        link.cut(silent=True)
        link.cut()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_sender_feels_the_link_and_a_slow_receiver_stops_nobody_else() -> None:
    with listening() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**13)
        with start_process(server.getsockname(), Rates(1e5, 1e5)) as link:
            client, far = joined(server, link.port)
            other, other_far = joined(server, link.port)
            with client, far, other, other_far:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**13)

                def taken(seconds: float) -> int:
                    client.setblocking(False)
                    count, until = 0, time.monotonic() + seconds
                    while time.monotonic() < until:
                        if select.select([], [client], [], 0.02)[1]:
                            count += client.send(bytes(2**16))
                    return count

                assert taken(0.3) < 80_000  # 4 kB of them have crossed
                link.set_rates(Rates(200e6, 200e6))
                assert taken(0.3) < 300_000  # nobody reads
                assert quickest(lambda: carried_s(other, other_far, 100_000), 0.03) < 0.03


def test_ends_and_resets_pass_through() -> None:
    with linked() as (link, server, client, far):
        client.sendall(bytes(50_000))
        client.shutdown(socket.SHUT_WR)
        received(far, 50_000)
        assert far.recv(1) == b""
        far.sendall(bytes(50_000))
        far.close()
        received(client, 50_000)
        assert client.recv(1) == b""
        again, again_far = joined(server, link.port)
        with again, again_far:
            module._reset(again)
            with pytest.raises(ConnectionResetError):
                again_far.recv(1)
    with listening() as server:
        nobody = server.getsockname()
    with start_process(nobody, FAST) as link:
        for _ in range(3):
            with pytest.raises(ConnectionError):  # also while it is being made
                first_byte(link.port)


def test_many_connections_keep_their_bytes_apart_and_nothing_stays_open() -> None:
    before = descriptors()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):  # the link's end resets what is open
            while data := await reader.read(3000):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def talk(port: int, seed: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        dice = random.Random(seed)
        for _ in range(4):
            data = dice.randbytes(dice.choice((1, 1447, 1448, 1449, 9000, 20_000)))
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()

    async def run() -> None:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server, PacedLink(server.sockets[0].getsockname(), Rates(200e6, 200e6, 0.001)) as link:
            async with asyncio.timeout(30):
                await asyncio.gather(*(talk(link.port, seed) for seed in range(20)))
                while link.connections:
                    await asyncio.sleep(0.01)
            moved = link.moved
            assert moved.up_bytes == moved.down_bytes > 0
            port = link.port
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    asyncio.run(run())
    assert descriptors() <= before


def test_without_a_timer_of_the_kernel_the_loop_keeps_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_libc", None)

    async def run() -> float:
        with listening() as server:
            async with PacedLink(server.getsockname(), FAST) as link:
                client, far = await asyncio.to_thread(joined, server, link.port)
                with client, far:
                    return await asyncio.to_thread(carried_s, client, far, 100_000)

    assert 0.0398 < quickest(lambda: asyncio.run(run()), 0.05) < 0.05


def test_orders_that_are_none_are_answered_and_change_nothing() -> None:
    link = PacedLink(("127.0.0.1", 1), FAST)
    for order in (
        None, [], {}, {"cut": False}, {"cut": "loud"}, {"mend": 1.5}, {"halt": True}, {"moved": False},
        {"cut": True, "mend": True}, {"rates": {"uplink_bps": 1}}, {"rates": {"uplink_bps": 0, "downlink_bps": 1}},
        {"rates": {"uplink_bps": 1, "downlink_bps": 1, "loss": 1}}, {"rates": 7},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="accepted: "):
            obey(link, order)
    assert link.rates == FAST
    obey(link, {"rates": {"uplink_bps": 1, "downlink_bps": 2}})
    assert link.rates == Rates(1, 2)


def test_the_program_obeys_its_input_and_ends_with_it() -> None:
    words = [sys.executable, "-I", "-S", module.__file__, "--uplink_mbps=20", "--downlink_mbps=20"]
    with listening() as server:
        host, port = server.getsockname()
        orders = '{"mend": true}\nnothing\n{"cut": 7}\n{"rates": {"uplink_bps": 1e6, "downlink_bps": 2e6}}\n'
        ran = subprocess.run([*words, f"--target={host}:{port}"], input=orders, capture_output=True, text=True)
        first, *answers = [json.loads(line) for line in ran.stdout.splitlines()]
        assert (ran.returncode, ran.stderr, list(first)) == (0, "", ["port"])
        assert [list(answer) for answer in answers] == [["moved"], ["error"], ["error"], ["moved"]]
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", first["port"]), SOON)
    for wrong in ("--target=here", "--target=here:0", f"--target={host}:1 --delay_ms=-1"):
        ran = subprocess.run([*words, *wrong.split()], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert "accepted: " in ran.stderr


def test_a_link_whose_process_was_killed_says_so() -> None:
    with linked() as (link, _, client, _):
        link.process.kill()
        link.process.wait()
        with pytest.raises(ConnectionError, match="the link's process has ended"):
            link.cut()
        with contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""


def test_the_file_imports_the_standard_library_alone() -> None:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    heads = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            heads |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            heads.add((node.module or "").split(".")[0])
    assert heads <= sys.stdlib_module_names
