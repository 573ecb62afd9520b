"""A link of given rates between a UE and an MEC server, as a TCP proxy on loopback. It does not need root.

The data of all connections wait in one queue per direction, as at one radio, and leave it in packets at the link's
rate. The rate counts payload: n bytes that enter an idle link have all arrived 8 n / rate + delay seconds later. Each
packet has a scheduled time, so a late wake-up delays one packet but does not lower the link's rate. On a half-duplex
link both directions share one medium, which carries one packet at a time: the packet that entered first goes first.

The link runs in the event loop that opens it. Other work in that process makes the link late; `start_process` runs the
link in its own process. This file imports only the standard library and runs as a program by its path:

    python link.py --target=127.0.0.1:50051 --uplink_mbps=7 --downlink_mbps=7

The program prints `{"port": N}`. Each line of its standard input is one JSON object with an order:
`{"rates": {"uplink_bps": 7e5, ...}}`, `{"cut": true}`, `{"cut": "silent"}`, `{"mend": true}` or `{"moved": true}`. The
program answers each order with one line, `{"moved": {...}}` or `{"error": "..."}`, and ends at the end of its input.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import errno
import json
import math
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

PACKET = 1448  # bytes of payload of a full Ethernet frame
AHEAD_S = 0.01  # seconds of traffic read ahead; a wake-up this late does not lower the rate
LEAST_AHEAD, MOST_AHEAD = 4 * PACKET, 2**16  # bytes read ahead
KERNEL_BYTES = 2**14  # size of each socket's buffers

_ONE_READ = 4 * PACKET  # bytes read from a connection before the next one's turn
_TOGETHER_S = 0.001  # packets within this time are delivered together
_NEVER_S = 1e9  # stands for infinity; must stay below 2**63 nanoseconds
_LATER_S = 0.1  # pause after a failed accept


@dataclass(frozen=True)
class Rates:
    """The rates of a link; they count payload.

    Attributes:
        uplink_bps: rate from the UE to the MEC server, bit/s.
        downlink_bps: rate from the MEC server to the UE, bit/s.
        delay_s: propagation delay, seconds.
    """

    uplink_bps: float
    downlink_bps: float
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        for name, accepted, open_low in (
            ("uplink_bps", "a finite number in (0, inf)", True),
            ("downlink_bps", "a finite number in (0, inf)", True),
            ("delay_s", "a finite number in [0, inf)", False),
        ):
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value) or value < 0 or (open_low and value == 0):
                raise _input_error(f"{name} is {value!r:.60}; accepted: {accepted}")


class Moved(NamedTuple):
    """The traffic of a link so far.

    Attributes:
        up_bytes: bytes of payload from the UE to the MEC server.
        down_bytes: bytes of payload from the MEC server to the UE.
        up_busy_s: seconds in which the uplink was sending.
        down_busy_s: seconds in which the downlink was sending.
    """

    up_bytes: int
    down_bytes: int
    up_busy_s: float
    down_busy_s: float


class PacedLink:
    """A link that listens on 127.0.0.1 and forwards to `target`; an asynchronous context manager.

    For each connection to `port` the link opens one to the target. Opening a connection takes no time on the link.
    """

    port: int

    def __init__(self, target: tuple[str, int], rates: Rates, half_duplex: bool = False) -> None:
        """Describes a link; entering the context opens it.

        Args:
            target: host and port to forward to.
            rates: rates of the link.
            half_duplex: whether both directions share one medium.
        """
        self._target = target
        self._rates = rates
        self._half_duplex = half_duplex
        self._state = "closed"

    async def __aenter__(self) -> PacedLink:
        self._loop = asyncio.get_running_loop()
        self._connections: set[_Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._reserve = socket.socket()  # keeps the port while nothing listens on it
        self._reserve.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserve.bind(("127.0.0.1", 0))
        self.port = self._reserve.getsockname()[1]
        first = _Medium(self._loop)
        self._media = [first] if self._half_duplex else [first, _Medium(self._loop)]
        self._up = _Way(self._media[0], self._rates.uplink_bps, self._rates.delay_s)
        self._down = _Way(self._media[-1], self._rates.downlink_bps, self._rates.delay_s)
        try:
            self._listen()
        except BaseException:
            await self.__aexit__()
            raise
        self._state = "open"
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._state = "closed"
        self._deafen()
        for task in self._connecting:
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for connection in list(self._connections):
            connection.abort()
        self._reserve.close()
        for medium in self._media:
            medium.close()

    @property
    def rates(self) -> Rates:
        """The current rates of the link."""
        return self._rates

    @property
    def moved(self) -> Moved:
        """The traffic so far."""
        up, down = self._up, self._down
        return Moved(up.moved_bytes, down.moved_bytes, up.busy_s, down.busy_s)

    @property
    def connections(self) -> int:
        """The current number of connections."""
        return len(self._connections)

    def set_rates(self, rates: Rates) -> None:
        """Changes the rates, also for queued packets. A new delay applies to packets sent from now on."""
        self._rates = rates
        if self._state == "closed":
            return
        self._up.set_rate(rates.uplink_bps, rates.delay_s)
        self._down.set_rate(rates.downlink_bps, rates.delay_s)

    def cut(self, silent: bool = False) -> None:
        """Cuts the link until `mend`.

        Args:
            silent: bytes stop, and connections stay open; new connections are accepted, but no bytes pass. Otherwise
                every connection is reset at both ends, bytes on the way are lost, and new connections are refused.
        """
        if self._state == "closed" or self._state == "cut":
            return
        if silent:
            self._state = "silent"
            self._pause()
            return
        self._deafen()
        for connection in list(self._connections):
            connection.abort()
        for task in self._connecting:
            task.cancel()
        if self._state == "silent":
            self._resume()  # nothing is left to send
        self._state = "cut"

    def mend(self) -> None:
        """Ends a cut. After a silent cut, the bytes on the way continue from where they stopped."""
        if self._state == "cut":
            self._state = "open"
            self._listen()
        elif self._state == "silent":
            self._state = "open"
            self._resume()

    def _pause(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
        for medium in self._media:
            medium.pause()

    def _resume(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener, self._accept)
        for medium in self._media:
            medium.resume()

    def _listen(self) -> None:
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _make_small(listener)
            listener.setblocking(False)
            listener.bind(("127.0.0.1", self.port))
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
        self._listener = listener
        self._loop.add_reader(listener, self._accept)

    def _deafen(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _accept(self) -> None:
        listener = self._listener
        if listener is None:
            return
        try:
            client, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # no descriptor is free: the connection waits for one
            self._loop.remove_reader(listener)
            self._loop.call_later(_LATER_S, self._accept_again, listener)
            return
        client.setblocking(False)
        task = self._loop.create_task(self._connect(client))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def _accept_again(self, listener: socket.socket) -> None:
        if listener is self._listener and self._state == "open":
            self._loop.add_reader(listener, self._accept)

    async def _connect(self, client: socket.socket) -> None:
        server = None
        try:
            host, port = self._target
            family, kind, protocol, _, address = (await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
            server = socket.socket(family, kind, protocol)
            server.setblocking(False)
            _make_small(server)
            await self._loop.sock_connect(server, address)
        except BaseException as error:
            for end in (client, server):
                if end is not None:
                    _reset(end)
            if not isinstance(error, OSError):  # the target is unreachable: the client sees a reset
                raise
            return
        _Connection(client, server, self._up, self._down, self._connections)


class _Medium:
    """What carries packets, one at a time: of one direction, or of both directions of a half-duplex link."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.ways = loop, list[_Way]()
        self.free_at = 0.0  # when the next packet may start, or started
        self.paused_at: float | None = None
        self.alarm = _Alarm(loop, self.advance)

    @property
    def now(self) -> float:
        """The time at which the packets are: the present, or the start of the pause."""
        return time.monotonic() if self.paused_at is None else self.paused_at

    @property
    def next_way(self) -> _Way | None:
        """The direction whose first packet is sent now or next; None if no packet waits."""
        waiting = [way for way in self.ways if way.queue]
        return min(waiting, key=lambda way: way.queue[0].entered) if waiting else None

    def transmit(self, now: float) -> None:
        """Moves the packets that have left their queues by `now` to those on the way."""
        while (way := self.next_way) is not None:
            piece = way.queue[0]
            takes = 8 * len(piece.data) / way.rate
            ends = max(self.free_at, piece.entered) + takes
            if ends > now:
                return
            self.free_at = ends
            way.leave(ends, takes)

    def advance(self) -> None:
        """Handles all due events and sets the alarm for the next one."""
        if self.paused_at is not None:
            return
        now = time.monotonic()
        self.transmit(now)
        for way in self.ways:
            way.arrive(now)
        self.alarm.set(self._next(now))

    def _next(self, now: float) -> float | None:
        """Returns the time of the next event; packets close together share one event each millisecond."""
        travelling = [way.travelling for way in self.ways if way.travelling]
        first = min((packets[0][0] for packets in travelling), default=math.inf)
        last = max((packets[-1][0] for packets in travelling), default=math.inf)
        if (way := self.next_way) is not None:
            begins = max(self.free_at, way.queue[0].entered)
            first = min(first, begins + 8 * len(way.queue[0].data) / way.rate)
            last = min(last, begins + sum(8 * way.queued_bytes / way.rate for way in self.ways))
        return None if first == math.inf else max(first, min(last, now + _TOGETHER_S))

    def pause(self) -> None:
        """Stops all packets where they are."""
        if self.paused_at is None:
            self.advance()
            self.paused_at = time.monotonic()
            self.alarm.set(None)
            for way in self.ways:
                way.read_or_wait()

    def resume(self) -> None:
        """Continues; all times shift by the length of the pause."""
        if self.paused_at is None:
            return
        pause = time.monotonic() - self.paused_at
        self.paused_at = None
        self.free_at += pause
        for way in self.ways:
            way.shift(pause)
        self.advance()
        for way in self.ways:
            way.read_or_wait()

    def close(self) -> None:
        self.alarm.close()


class _Way:
    """One direction of a link: its queue, and the packets on the way."""

    def __init__(self, medium: _Medium, rate: float, delay: float) -> None:
        self.loop, self.rate, self.delay = medium.loop, rate, delay
        self.flows: set[_Flow] = set()
        self.moved_bytes, self.busy_s = 0, 0.0
        self.queue: deque[_Piece] = deque()
        self.queued_bytes = 0
        self.travelling: deque[tuple[float, _Piece]] = deque()  # with their arrival times
        self._last_arrival = 0.0
        self._full = False
        self._medium = medium
        medium.ways.append(self)

    @property
    def _most_ahead(self) -> int:
        return int(min(max(self.rate * AHEAD_S / 8, LEAST_AHEAD), MOST_AHEAD))

    def room(self) -> int:
        """Bytes that may be read now."""
        stopped = self._full or self._medium.paused_at is not None
        return 0 if stopped else max(self._most_ahead - self.queued_bytes, PACKET)

    def push(self, flow: _Flow, data: bytes) -> None:
        """Queues data of a flow; empty data mark its end."""
        now = time.monotonic()
        for start in range(0, max(len(data), 1), PACKET):
            self.queue.append(_Piece(flow, data[start : start + PACKET], now))
        self.queued_bytes += len(data)
        if self.queued_bytes >= self._most_ahead:
            self._full = True
            self.read_or_wait()
        if self._medium.alarm.when is None or not data or self._full:
            self._medium.advance()

    def set_rate(self, rate: float, delay: float) -> None:
        """Changes the rate from now on; for a packet being sent, the rate of its remaining part."""
        now = self._medium.now
        self._medium.transmit(now)
        if self._medium.next_way is self:
            piece = self.queue[0]
            began = max(self._medium.free_at, piece.entered)
            if began < now:
                self._medium.free_at = now - (now - began) * self.rate / rate
                piece.entered = min(piece.entered, self._medium.free_at)
        self.rate, self.delay = rate, delay
        self._medium.advance()

    def shift(self, seconds: float) -> None:
        """Moves all packets to later times."""
        self._last_arrival += seconds
        for piece in self.queue:
            piece.entered += seconds
        self.travelling = deque((arrives + seconds, piece) for arrives, piece in self.travelling)

    def forget(self, flow: _Flow) -> None:
        """Drops the remaining packets of an ended flow."""
        self.flows.discard(flow)
        now = self._medium.now
        self._medium.transmit(now)
        if self._medium.next_way is self and self.queue[0].flow is flow:
            self._medium.free_at = max(self._medium.free_at, now)
        self.queue = deque(piece for piece in self.queue if piece.flow is not flow)
        self.queued_bytes = sum(len(piece.data) for piece in self.queue)
        self.travelling = deque(pair for pair in self.travelling if pair[1].flow is not flow)
        self._medium.advance()

    def leave(self, ends: float, takes: float) -> None:
        """Moves the first packet from the queue to those on the way."""
        piece = self.queue.popleft()
        self.queued_bytes -= len(piece.data)
        self._last_arrival = max(self._last_arrival, ends + self.delay)
        self.travelling.append((self._last_arrival, piece))
        self.moved_bytes += len(piece.data)
        self.busy_s += takes

    def arrive(self, now: float) -> None:
        """Delivers the packets that have arrived, and reads on if the queue has room."""
        while self.travelling and self.travelling[0][0] <= now:
            _, piece = self.travelling.popleft()
            piece.flow.deliver(piece.data)
        if self._full and self.queued_bytes <= self._most_ahead // 2:
            self._full = False
            self.read_or_wait()

    def read_or_wait(self) -> None:
        """Starts or stops reading the sources."""
        for flow in self.flows:
            flow.read_or_wait()


class _Piece:
    """A packet in a queue; empty data mark the end of its flow."""

    __slots__ = ("data", "entered", "flow")

    def __init__(self, flow: _Flow, data: bytes, entered: float) -> None:
        self.flow, self.data, self.entered = flow, data, entered


class _Flow:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, sink: socket.socket, way: _Way, connection: _Connection) -> None:
        self.finished = False  # its end has been delivered
        self._source, self._sink, self._way, self._connection = source, sink, way, connection
        self._loop = way.loop
        self._unsent = bytearray()  # delivered, but the sink's buffers are full
        self._reads = self._ends = self._closed = False
        way.flows.add(self)
        self.read_or_wait()

    def read_or_wait(self) -> None:
        """Reads the source if the link has room and the sink has taken all delivered data; otherwise waits."""
        wanted = not (self._ends or self._closed or self._unsent) and self._way.room() > 0
        if wanted and not self._reads:
            self._loop.add_reader(self._source, self._readable)
        elif self._reads and not wanted:
            self._loop.remove_reader(self._source)
        self._reads = wanted

    def deliver(self, data: bytes) -> None:
        """Delivers a packet to the sink."""
        if self._closed:
            return
        if not data:
            self.finished = True
        if self._unsent:
            self._unsent += data
            return
        self._send(data)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.read_or_wait()
            self._loop.remove_writer(self._sink)
            self._way.forget(self)

    def _readable(self) -> None:
        room = self._way.room()
        if not room:
            return
        try:
            data = self._source.recv(min(room, _ONE_READ))
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._connection.abort()
            return
        if not data:
            self._ends = True
            self.read_or_wait()
        self._way.push(self, data)

    def _send(self, data: bytes | bytearray) -> None:
        try:
            sent = self._sink.send(data) if data else 0
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._connection.abort()
            return
        if sent < len(data):
            if not self._unsent:
                self._loop.add_writer(self._sink, self._writable)
            self._unsent = bytearray(data[sent:])
            self.read_or_wait()
        elif self.finished:
            try:
                self._sink.shutdown(socket.SHUT_WR)
            except OSError:
                self._connection.abort()
                return
            self._connection.close_if_finished()

    def _writable(self) -> None:
        unsent, self._unsent = self._unsent, bytearray()
        self._loop.remove_writer(self._sink)
        self._send(unsent)
        self.read_or_wait()


class _Connection:
    """A client's connection and its connection to the target."""

    def __init__(
        self, client: socket.socket, server: socket.socket, up: _Way, down: _Way, among: set[_Connection]
    ) -> None:
        self._ends, self._among = (client, server), among
        among.add(self)
        self._flows = (_Flow(client, server, up, self), _Flow(server, client, down, self))

    def abort(self) -> None:
        """Resets both ends."""
        self._close(_reset)

    def close_if_finished(self) -> None:
        """Closes both ends if both directions have ended."""
        if all(flow.finished for flow in self._flows):
            self._close(socket.socket.close)

    def _close(self, how: Callable[[socket.socket], None]) -> None:
        if self not in self._among:
            return
        self._among.discard(self)
        for flow in self._flows:
            flow.close()
        for end in self._ends:
            how(end)


class _Alarm:
    """Calls back at a time of `time.monotonic`. On Linux it is exact to microseconds; the event loop is 1 ms late."""

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self.when: float | None = None
        self._loop, self._callback = loop, callback
        self._handle: asyncio.TimerHandle | None = None
        self._timer = _timer()
        if self._timer is not None:
            loop.add_reader(self._timer, self._ring)

    def set(self, when: float | None) -> None:
        """Replaces the time; None is never."""
        if when == self.when:
            return
        self.when = when
        if self._timer is not None:
            nanoseconds = 0 if when is None else max(int(min(when, _NEVER_S) * 1e9), 1)  # zero disarms
            _set_timer(self._timer, nanoseconds)
            return
        if self._handle is not None:
            self._handle.cancel()
        wait = min(when, _NEVER_S) - time.monotonic() if when is not None else 0.0
        self._handle = None if when is None else self._loop.call_later(wait, self._ring)

    def close(self) -> None:
        self.set(None)
        if self._timer is not None:
            self._loop.remove_reader(self._timer)
            os.close(self._timer)
            self._timer = None

    def _ring(self) -> None:
        if self.when is None:
            return
        if self._timer is not None:
            try:
                os.read(self._timer, 8)
            except BlockingIOError:  # the alarm was set again meanwhile
                return
        self.when = None
        self._callback()


class _Time(ctypes.Structure):
    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("s", ctypes.c_long),
        ("ns", ctypes.c_long),
    )


_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _timer() -> int | None:
    """Returns a descriptor that becomes readable at a time of `time.monotonic`; None if unsupported."""
    if _libc is None:
        return None
    clock_monotonic, nonblocking_cloexec = 1, os.O_NONBLOCK | os.O_CLOEXEC
    timer = _libc.timerfd_create(clock_monotonic, nonblocking_cloexec)
    return timer if timer >= 0 else None


def _set_timer(timer: int, nanoseconds: int) -> None:
    assert _libc is not None
    absolute = 1
    when = _Time(0, 0, *divmod(nanoseconds, 10**9))
    if _libc.timerfd_settime(timer, absolute, ctypes.byref(when), None):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _make_small(end: socket.socket) -> None:
    """Limits the kernel's buffers, and the segments to one packet, sent at once; loopback's defaults are larger.

    Connections that a listener accepts inherit this.
    """
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BYTES)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BYTES)
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, PACKET)


def _reset(end: socket.socket) -> None:
    """Closes a connection so that its peer sees a reset."""
    with contextlib.suppress(OSError):  # already closed
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def _input_error(text: str) -> ValueError:
    """Returns an InputError; when run as a program, its base class ValueError, since the package loads JAX."""
    if __name__ == "__main__":
        return ValueError(text)
    from mrlato_jax.errors import InputError

    return InputError(text)


@dataclass
class LinkProcess:
    """A `PacedLink` in its own process; a context manager. Each call returns when the link has carried out the order.

    Attributes:
        process: the process of the link.
        port: the port on 127.0.0.1 that it listens on.
    """

    process: subprocess.Popen[str]
    port: int
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __enter__(self) -> LinkProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def moved(self) -> Moved:
        """Returns the traffic so far."""
        return self._order({"moved": True})

    def set_rates(self, rates: Rates) -> None:
        """Calls `PacedLink.set_rates`."""
        self._order({"rates": asdict(rates)})

    def cut(self, silent: bool = False) -> None:
        """Calls `PacedLink.cut`."""
        self._order({"cut": "silent" if silent else True})

    def mend(self) -> None:
        """Calls `PacedLink.mend`."""
        self._order({"mend": True})

    def close(self) -> None:
        """Ends the process; every connection is reset."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):  # the process has ended
            self.process.stdin.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def _order(self, order: dict[str, Any]) -> Moved:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with self._lock:
            try:
                self.process.stdin.write(json.dumps(order) + "\n")
                self.process.stdin.flush()
                line = self.process.stdout.readline()
            except (OSError, ValueError):  # a closed pipe
                line = ""
        if not line:
            raise ConnectionError("the link's process has ended")
        answer = json.loads(line)
        if "error" in answer:
            raise _input_error(answer["error"])
        return Moved(**answer["moved"])


def start_process(target: tuple[str, int], rates: Rates, half_duplex: bool = False) -> LinkProcess:
    """Opens a link in its own process, which ends with this one.

    Args:
        target: host and port to forward to.
        rates: rates of the link.
        half_duplex: whether both directions share one medium.

    Raises:
        OSError: the process does not start.
    """
    # By its path, isolated and without site-packages, it starts in some 0.1 s; the package would load JAX.
    words = [sys.executable, "-I", "-S", os.path.abspath(__file__), f"--target={target[0]}:{target[1]}"]
    flags = [
        f"--uplink_mbps={float(rates.uplink_bps) / 1e6!r}",
        f"--downlink_mbps={float(rates.downlink_bps) / 1e6!r}",
        f"--delay_ms={float(rates.delay_s) * 1e3!r}",
        *(["--half_duplex"] if half_duplex else []),
    ]
    process = subprocess.Popen(words + flags, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    link = LinkProcess(process, json.loads(line)["port"] if line else 0)
    if not line:
        link.close()
        raise ConnectionError(errno.ECONNABORTED, f"the link's process ended with status {process.returncode}")
    return link


def obey(link: PacedLink, order: Any) -> None:
    """Carries out one order from the program's input.

    Raises:
        ValueError: `order` is not a valid order.
    """
    orders = "rates, cut, mend or moved, alone in an object"
    if not isinstance(order, Mapping) or len(order) != 1:
        raise ValueError(f"order is {order!r:.60}; accepted: {orders}")
    ((name, value),) = order.items()
    if name == "rates":
        names = [entry.name for entry in fields(Rates)]
        if not isinstance(value, Mapping) or not set(value) <= set(names) or not set(names[:2]) <= set(value):
            raise ValueError(f"rates is {value!r:.60}; accepted: an object of {', '.join(names)}")
        link.set_rates(Rates(**value))
    elif name == "cut" and (value is True or value == "silent"):
        link.cut(silent=value == "silent")
    elif name == "mend" and value is True:
        link.mend()
    elif name != "moved" or value is not True:
        raise ValueError(f"order is {order!r:.60}; accepted: {orders}, with true, or cut with 'silent'")


async def _serve(target: tuple[str, int], rates: Rates, half_duplex: bool) -> None:
    async with PacedLink(target, rates, half_duplex) as link:
        print(json.dumps({"port": link.port}), flush=True)
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        async def answer(line: str) -> str:
            try:
                obey(link, json.loads(line))
            except ValueError as error:
                return json.dumps({"error": str(error)})
            return json.dumps({"moved": link.moved._asdict()})

        def listen() -> None:  # in a thread, so that a caller who does not read answers blocks only the orders
            try:
                for line in sys.stdin:
                    print(asyncio.run_coroutine_threadsafe(answer(line), loop).result(), flush=True)
            except (OSError, ValueError):  # nobody reads the answers, or the input is not text
                pass
            loop.call_soon_threadsafe(ended.set)

        threading.Thread(target=listen, daemon=True).start()
        await ended.wait()


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise argparse.ArgumentTypeError(f"target is {text!r:.60}; accepted: HOST:PORT")
    return host.strip("[]"), int(port)


def main(arguments: list[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", type=_address, required=True, help="HOST:PORT to forward to")
    parser.add_argument("--uplink_mbps", type=float, required=True, help="payload rate to the target, Mbit/s")
    parser.add_argument("--downlink_mbps", type=float, required=True, help="payload rate from the target, Mbit/s")
    parser.add_argument("--delay_ms", type=float, default=0.0, help="propagation delay, ms")
    parser.add_argument("--half_duplex", action="store_true", help="both directions share one medium")
    options = parser.parse_args(arguments)
    try:
        rates = Rates(options.uplink_mbps * 1e6, options.downlink_mbps * 1e6, options.delay_ms / 1e3)
    except ValueError as error:
        parser.error(str(error))
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(options.target, rates, options.half_duplex))
    return 0


if __name__ == "__main__":
    sys.exit(main())
