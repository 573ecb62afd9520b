"""A link of given rates between a UE and an MEC server, as two network namespaces of the kernel. It needs root.

Each namespace has one end of a virtual Ethernet cable, with a token bucket (tbf) of one frame before it. The kernel
does all the work, so no packet waits for a process.

The cable differs from the formula 8 n / rate in three ways:

- Frames have headers, which a bucket counts. The nominal rate counts payload, so the bucket's rate is higher by the
  headers of full frames.
- A full bucket passes one frame at once. So each message that enters an idle link arrives earlier by the time of one
  frame, 1.7 ms at 7 Mbit/s.
- Acknowledgements take 2 % of a direction while the other direction is sending.
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
from typing import Literal

from mrlato_jax.edge.link import Rates
from mrlato_jax.errors import InputError, check_choice, check_number

MTU = 1500  # largest IP packet on the cable, bytes
ETHERNET_BYTES = 14  # header of a frame
TCP_BYTES = 52  # headers of an IP packet: IPv4, TCP and its time stamps
QUEUE = "500kb"  # queue before each bucket

_SIDES = ("ue", "mec")
_PREFIX = "mrlato"
_NAME = re.compile(r"[a-z0-9]{1,20}")
_OURS = re.compile(rf"{_PREFIX}-([0-9]+)-(?:[a-z0-9]+-)?(?:ue|mec)")
_DEVICE = "radio"  # name of both ends, each in its namespace
_ADDRESSES = {"ue": "10.213.77.1", "mec": "10.213.77.2"}  # a network only between these two namespaces
_NETWORK = "10.213.77.0/30"
_FIRST_WINDOW = "64"  # initial congestion window, packets
_MOST_AT_ONCE = "8192"  # bytes of packets that the kernel handles as one
# The capacity of a bucket beyond one frame decides how late the kernel may be without loss of rate. Up to 7 Mbit/s a
# bucket holds 1540 bytes in all; at 50 Mbit/s a margin of 26 bytes would lose a tenth of the rate.
_LEAST_MARGIN, _LATE_S = 26, 28e-6
_LONGEST_S = 30.0  # time limit of a command
# These settings leave only the applications' own traffic, and senders wait only for the link: no slow start after a
# pause, short queues, so that acknowledgements and other connections wait little, and wide windows.
_SETTINGS = {
    "net/ipv6/conf/all/disable_ipv6": ("1",),
    "net/ipv4/tcp_slow_start_after_idle": ("0",),
    "net/ipv4/tcp_no_metrics_save": ("1",),
    "net/ipv4/tcp_limit_output_bytes": ("16384",),
    "net/ipv4/tcp_rmem": ("4096 1048576 33554432",),
    "net/ipv4/tcp_congestion_control": ("cubic", "reno"),
}
_count = itertools.count(1)


def available() -> str | None:
    """Returns None if a `ShapedLink` can be made here, otherwise the reason why not."""
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

    Leaving the context removes the namespaces and kills all processes in them. Namespaces of killed owners are removed
    when the next link is made.

    Attributes:
        ue: name of the UE's namespace.
        mec: name of the MEC server's namespace.
        ue_address: IPv4 address of the UE.
        mec_address: IPv4 address of the MEC server.
        congestion_control: congestion control of TCP in both namespaces.
    """

    def __init__(self, rates: Rates, name: str = "", *, mtu: int = MTU) -> None:
        """Describes a link; entering the context makes it.

        Args:
            rates: rates of the link; they count payload. A delay is not supported, since kernels often lack netem.
            name: part of the namespaces' names, if this process has several links.
            mtu: largest IP packet, bytes. A smaller MTU gives a smaller head start and needs more work per byte.

        Raises:
            InputError: the name is not valid, the MTU is out of range, or there is a delay.
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

    def command(self, side: Literal["ue", "mec"], argv: Sequence[str]) -> list[str]:
        """Returns the command that runs a program in one of the namespaces."""
        check_choice("side", side, _SIDES)
        return ["ip", "netns", "exec", self.ue if side == "ue" else self.mec, *argv]

    def set_rates(self, rates: Rates) -> None:
        """Changes the rates, also for queued packets.

        Raises:
            InputError: `rates` has a delay.
            OSError: the link does not exist.
        """
        _check_rates(rates)
        self.rates = rates
        self._shape("change")

    def cut(self) -> None:
        """Disconnects the cable until `mend`: bytes stop, connections stay open, and new connections fail."""
        for namespace in (self.ue, self.mec):
            _run("ip", "-n", namespace, "link", "set", _DEVICE, "down")

    def mend(self) -> None:
        """Reconnects the cable. TCP continues at its next retry, which may take as long as the cut lasted."""
        for namespace in (self.ue, self.mec):
            _run("ip", "-n", namespace, "link", "set", _DEVICE, "up")
            way = (_NETWORK, "dev", _DEVICE, "scope", "link", "initcwnd", _FIRST_WINDOW)
            _run("ip", "-n", namespace, "route", "replace", *way)

    def _bucket(self, rate: float) -> tuple[int, int]:
        """Returns the bucket for a payload rate: its rate in bit/s of frames, and its size in bytes."""
        frame = self.mtu + ETHERNET_BYTES
        wire_bps = max(round(rate * frame / (self.mtu - TCP_BYTES)), 8)
        return wire_bps, frame + max(round(wire_bps / 8 * _LATE_S), _LEAST_MARGIN)

    def _shape(self, verb: Literal["add", "change"]) -> None:
        for namespace, rate in ((self.ue, self.rates.uplink_bps), (self.mec, self.rates.downlink_bps)):
            wire_bps, holds = self._bucket(rate)
            bucket = ("tbf", "rate", f"{wire_bps}bit", "burst", str(holds), "limit", QUEUE)
            _run("tc", "-n", namespace, "qdisc", verb, "dev", _DEVICE, "root", *bucket)

    def _set_up(self, namespace: str) -> None:
        with contextlib.suppress(OSError):  # an old `ip` does not know this option
            _run("ip", "-n", namespace, "link", "set", _DEVICE, "gso_max_size", _MOST_AT_ONCE)
        lines = []
        for setting, values in _SETTINGS.items():
            tries = (
                f'echo "{value}" > /proc/sys/{setting}' for value in values
            )  # the first value that the kernel accepts
            lines.append(f"if [ -e /proc/sys/{setting} ]; then {' || '.join(tries)}; fi")
        lines.append("cat /proc/sys/net/ipv4/tcp_congestion_control")
        self.congestion_control = _run("ip", "netns", "exec", namespace, "sh", "-c", "\n".join(lines)).strip()


def remove_leftovers() -> list[str]:
    """Removes the namespaces of ended owners and kills all processes in them; returns the names."""
    gone = [name for name, owner in _namespaces() if _has_ended(owner)]
    for name in gone:
        _remove(name)
    return gone


def _check_rates(rates: Rates) -> None:
    if rates.delay_s:
        raise InputError(f"delay_s is {rates.delay_s!r}; accepted: 0 (a paced link has delays)")


def _namespaces() -> Iterator[tuple[str, int]]:
    """Yields this package's namespaces with the process ids of their owners."""
    for line in _run("ip", "netns", "list").splitlines():
        name = line.split()[0] if line.split() else ""
        ours = _OURS.fullmatch(name)
        if ours:
            yield name, int(ours[1])


def _remove(namespace: str) -> None:
    """Removes a namespace and the cable; kills all processes in the namespace."""
    with contextlib.suppress(OSError):  # the namespace may be incomplete, or another process may be removing it
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
    """Lists the processes of a namespace, except this one."""
    processes = (int(word) for word in _run("ip", "netns", "pids", namespace).split())
    return [process for process in processes if process != os.getpid() and not _has_ended(process)]


def _has_ended(process: int) -> bool:
    """Returns whether a process does not exist or is a zombie."""
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def _run(*words: str) -> str:
    """Runs a command and returns its standard output."""
    try:
        ran = subprocess.run(words, capture_output=True, text=True, timeout=_LONGEST_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise OSError(f"{' '.join(words)} did not end") from None
    if ran.returncode:
        raise OSError(f"{' '.join(words)}: {ran.stderr.strip() or f'status {ran.returncode}'}")
    return ran.stdout
