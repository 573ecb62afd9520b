"""A link of given rates between a UE and an MEC server, as two network namespaces of the kernel: it needs root.

Each namespace has one end of a virtual Ethernet cable, and a token bucket (tbf) before it that holds one frame. The
kernel does all the work: nothing on the way waits for a process.

Three things distinguish the cable from the formula 8 n / rate:

- Frames have headers. A bucket counts them, and its rate is higher by what full frames need: the nominal rate counts
  payload.
- A full bucket lets one frame through at once. Each message that enters an idle link arrives earlier by
  `ShapedLink.head_start`, 1.7 ms at 7 Mbit/s.
- Acknowledgements take 2 % of a direction while the other one is sending.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from mrlato_jax.edge.link import Rates
from mrlato_jax.errors import InputError, check_choice, check_number

MTU = 1500  # bytes of an IP packet on the cable
ETHERNET_BYTES = 14  # of a frame, beside its IP packet
TCP_BYTES = 52  # of an IP packet, beside its payload: IPv4, TCP and its time stamps
QUEUE = "500kb"  # before each bucket

_SIDES = ("ue", "mec")
_PREFIX = "mrlato"
_NAME = re.compile(r"[a-z0-9]{1,20}")
_OURS = re.compile(rf"{_PREFIX}-([0-9]+)-(?:[a-z0-9]+-)?(?:ue|mec)")
_DEVICE = "radio"  # both ends' name, each in its namespace
_ADDRESSES = {"ue": "10.213.77.1", "mec": "10.213.77.2"}  # of a network that only these two namespaces see
_NETWORK = "10.213.77.0/30"
_FIRST_WINDOW = "64"  # packets that a sender may have under way when it begins
_MOST_AT_ONCE = "8192"  # bytes of packets that the kernel handles as one
# What a bucket holds beyond a frame is how late the kernel may be without loss of rate: 1540 bytes in all up to 7
# Mbit/s, as 26 bytes at 50 Mbit/s lose a tenth.
_LEAST_MARGIN, _LATE_S = 26, 28e-6
_LONGEST_S = 30.0  # for a command of ours
# Nothing but the applications' own traffic, and no sender that waits for more than its turn: none starts again slowly
# after a pause, each queues little, so that acknowledgements and other connections wait little, and has wide windows.
_SETTINGS = {
    "net/ipv6/conf/all/disable_ipv6": ("1",),
    "net/ipv4/tcp_slow_start_after_idle": ("0",),
    "net/ipv4/tcp_no_metrics_save": ("1",),
    "net/ipv4/tcp_limit_output_bytes": ("16384",),
    "net/ipv4/tcp_rmem": ("4096 1048576 33554432",),
    "net/ipv4/tcp_congestion_control": ("cubic", "reno"),
}
_count = itertools.count(1)


class HeadStart(NamedTuple):
    """By how many seconds a message that enters an idle link arrives earlier than 8 n / rate after it.

    Attributes:
        up_s: from the UE to the MEC server.
        down_s: from the MEC server to the UE.
    """

    up_s: float
    down_s: float


def available() -> str | None:
    """Whether a `ShapedLink` can be made here: None, or else the reason why not."""
    if os.name != "posix" or not Path("/proc/self/ns/net").exists():
        return "this system has no network namespaces"
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            return f"the program {program} (of iproute2) is missing"
    try:
        with ShapedLink(Rates(1e7, 1e7), f"trial{next(_count)}"):
            return None
    except OSError as error:
        return str(error)


class ShapedLink:
    """Two network namespaces, joined by a cable of given rates; a context manager.

    Leaving the context removes them and kills what still runs in them. What an owner that was killed has left is
    removed when the next link is made.

    Attributes:
        ue: name of the UE's namespace.
        mec: name of the MEC server's namespace.
        ue_address: IPv4 address of the UE.
        mec_address: IPv4 address of the MEC server.
        congestion_control: of TCP in both namespaces.
    """

    def __init__(self, rates: Rates, name: str = "", *, mtu: int = MTU) -> None:
        """Describes a link; entering the context makes it.

        Args:
            rates: of the link; they count payload. A delay is refused: the kernel's means for it are often missing.
            name: a part of the namespaces' names, where this process has several links.
            mtu: bytes of an IP packet. A smaller one makes the head start smaller and needs more work a byte.

        Raises:
            InputError: a name that cannot be one, an MTU out of range, or a delay.
        """
        _check_rates(rates)
        check_number("mtu", mtu, low=576, high=MTU, integer=True)
        if name and not _NAME.fullmatch(name):
            raise InputError(f"name is {name!r:.60}; accepted: 1 to 20 of a-z and 0-9")
        self.rates = rates
        self.mtu = mtu
        parts = [_PREFIX, str(os.getpid()), *([name] if name else [])]
        self.ue, self.mec = ("-".join([*parts, side]) for side in _SIDES)
        self.ue_address, self.mec_address = (_ADDRESSES[side] for side in _SIDES)
        self.congestion_control = ""

    def __enter__(self) -> ShapedLink:
        remove_leftovers()
        made = []
        try:
            for namespace in (self.ue, self.mec):
                _run("ip", "netns", "add", namespace)
                made.append(namespace)
            _run(
                *("ip", "link", "add", _DEVICE, "mtu", str(self.mtu), "netns", self.ue, "type", "veth"),
                *("peer", "name", _DEVICE, "mtu", str(self.mtu), "netns", self.mec),
            )
            for namespace, address in ((self.ue, self.ue_address), (self.mec, self.mec_address)):
                self._set_up(namespace)
                _run("ip", "-n", namespace, "address", "add", f"{address}/30", "dev", _DEVICE)
                _run("ip", "-n", namespace, "link", "set", "lo", "up")
            self._shape("add")
            self.mend()
        except BaseException:
            for namespace in made:
                _remove(namespace)
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        for namespace in (self.ue, self.mec):
            _remove(namespace)

    @property
    def head_start(self) -> HeadStart:
        """What the full buckets of an idle link let through at once."""
        buckets = (self._bucket(rate) for rate in (self.rates.uplink_bps, self.rates.downlink_bps))
        return HeadStart(*(8 * holds / wire_bps for wire_bps, holds in buckets))

    def command(self, side: Literal["ue", "mec"], argv: Sequence[str]) -> list[str]:
        """The words that run a program in one of the namespaces."""
        check_choice("side", side, _SIDES)
        return ["ip", "netns", "exec", self.ue if side == "ue" else self.mec, *argv]

    def set_rates(self, rates: Rates) -> None:
        """Changes the rates from now on, also of what is queued.

        Raises:
            InputError: a delay.
            OSError: the link is not there.
        """
        _check_rates(rates)
        self.rates = rates
        self._shape("change")

    def cut(self) -> None:
        """Takes the cable off until `mend`: bytes stop, connections stay, and a new one finds no way."""
        for namespace in (self.ue, self.mec):
            _run("ip", "-n", namespace, "link", "set", _DEVICE, "down")

    def mend(self) -> None:
        """Puts the cable back. TCP goes on when it next tries, which may be as long after as the cut lasted."""
        for namespace in (self.ue, self.mec):
            _run("ip", "-n", namespace, "link", "set", _DEVICE, "up")
            way = (_NETWORK, "dev", _DEVICE, "scope", "link", "initcwnd", _FIRST_WINDOW)
            _run("ip", "-n", namespace, "route", "replace", *way)

    def _bucket(self, rate: float) -> tuple[int, int]:
        """The bucket for a rate of payload: bits of frames a second, and bytes that it holds."""
        frame = self.mtu + ETHERNET_BYTES
        wire_bps = max(round(rate * frame / (self.mtu - TCP_BYTES)), 8)
        return wire_bps, frame + max(round(wire_bps / 8 * _LATE_S), _LEAST_MARGIN)

    def _shape(self, verb: Literal["add", "change"]) -> None:
        for namespace, rate in ((self.ue, self.rates.uplink_bps), (self.mec, self.rates.downlink_bps)):
            wire_bps, holds = self._bucket(rate)
            bucket = ("tbf", "rate", f"{wire_bps}bit", "burst", str(holds), "limit", QUEUE)
            _run("tc", "-n", namespace, "qdisc", verb, "dev", _DEVICE, "root", *bucket)

    def _set_up(self, namespace: str) -> None:
        with contextlib.suppress(OSError):  # an old `ip` cannot
            _run("ip", "-n", namespace, "link", "set", _DEVICE, "gso_max_size", _MOST_AT_ONCE)
        lines = []
        for setting, values in _SETTINGS.items():
            tries = (f'echo "{value}" > /proc/sys/{setting}' for value in values)  # the first that the kernel takes
            lines.append(f"if [ -e /proc/sys/{setting} ]; then {' || '.join(tries)}; fi")
        lines.append("cat /proc/sys/net/ipv4/tcp_congestion_control")
        self.congestion_control = _run("ip", "netns", "exec", namespace, "sh", "-c", "\n".join(lines)).strip()


def remove_leftovers() -> list[str]:
    """Removes the namespaces of owners that live no more, and kills what still runs in them; returns their names."""
    gone = [name for name, owner in _namespaces() if _has_ended(owner)]
    for name in gone:
        _remove(name)
    return gone


def _check_rates(rates: Rates) -> None:
    if rates.delay_s:
        raise InputError(f"delay_s is {rates.delay_s!r}; accepted: 0 (a paced link has delays)")


def _namespaces() -> Iterator[tuple[str, int]]:
    """Ours, with the numbers of the processes that own them."""
    for line in _run("ip", "netns", "list").splitlines():
        name = line.split()[0] if line.split() else ""
        ours = _OURS.fullmatch(name)
        if ours:
            yield name, int(ours[1])


def _remove(namespace: str) -> None:
    """Removes a namespace, its end of the cable and with that the other end; kills what runs there."""
    with contextlib.suppress(OSError):  # it may be half made, or half removed by another
        _run("ip", "-n", namespace, "link", "delete", _DEVICE)
    until = time.monotonic() + _LONGEST_S
    with contextlib.suppress(OSError):
        while (inside := _inside(namespace)) and time.monotonic() < until:
            for process in inside:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.01)
    with contextlib.suppress(OSError):
        _run("ip", "netns", "delete", namespace)


def _inside(namespace: str) -> list[int]:
    """The processes of a namespace, this one left out."""
    processes = (int(word) for word in _run("ip", "netns", "pids", namespace).split())
    return [process for process in processes if process != os.getpid() and not _has_ended(process)]


def _has_ended(process: int) -> bool:
    """Whether there is no such process, or only its exit status."""
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def _run(*words: str) -> str:
    """Runs a command to its end; returns what it printed."""
    try:
        ran = subprocess.run(words, capture_output=True, text=True, timeout=_LONGEST_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise OSError(f"{' '.join(words)} did not end") from None
    if ran.returncode:
        raise OSError(f"{' '.join(words)}: {ran.stderr.strip() or f'status {ran.returncode}'}")
    return ran.stdout
