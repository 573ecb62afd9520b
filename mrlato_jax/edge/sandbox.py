"""One program in an isolated process, the VM of a user; or, where that is asked for by name, in a plain process.

Isolation is bubblewrap's: namespaces of its own without a network, a read-only system, and nothing of the host's files
beside what Python needs. Control groups of version 1 or 2 hold memory, processes and processor time. Where those cannot
be written, resource limits hold the memory of each process and, in a VM of a user who is not root, the number of
processes; nothing holds processor time then.

A started program ends with the thread that started it, however that ends: the kernel kills it (`PR_SET_PDEATHSIG`), and
with a VM's first process go all others in it. A plain program's children may live on, until the next start finds that
the owner of their control group is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from mrlato_jax.errors import InputError, check_choice, check_number, escaped, shorten

KINDS = ("bubblewrap", "process")  # "process": nothing is isolated
GROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 10_000  # of quotas of processor time: short, so that a slow clock is not a coarse one
LEAST_US = 1_000  # of processor time in a period that the kernel accepts; a longer period makes smaller shares
TEMPORARY_BYTES = 2**26  # of /tmp, and of /dev/shm, in a VM; at most a quarter of its memory
STOP_S = 5.0  # that what was killed may take to be gone
END_S = 0.1  # that a program may take to end after its output has ended
PIECE = 2**20  # bytes that are read ahead
SAID_BYTES = 2000  # of standard error that are kept
SAID_BYTES_PER_S = 2**20  # of standard error that are read: more would take time from others
_TRY_S = 30.0  # that a first program may take to start, once in each process
_OURS = "mrlato"
_count = itertools.count()

# Runs before the program, outside of the VM, and becomes it. What Python ignores, the program would ignore, too.
_ENTER = """
import ctypes, os, resource, signal, sys
parent, core, memory, groups, *program = sys.argv[1:]
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(parent):
    sys.exit("parent has ended")
for group in groups.split(":") if groups else ():
    with open(group, "w") as file:
        file.write("0")
if core:
    os.sched_setaffinity(0, {int(core)})
if memory:
    resource.setrlimit(resource.RLIMIT_AS, (int(memory), int(memory)))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
for number in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
os.execvp(program[0], program)
"""
# Runs in the VM: only there does the kernel count the VM's processes alone, and not all that its user has.
_HOLD_PROCESSES = """
import os, resource, signal, sys
most, *program = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_NPROC, (int(most), int(most)))
for number in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(number, signal.SIG_DFL)
os.execvp(program[0], program)
"""


@dataclasses.dataclass(frozen=True)
class Quota:
    """What a VM may take.

    Attributes:
        memory_bytes: of all its processes together, with what is in its /tmp.
        processes: at a time, threads counted; bubblewrap's own two are not.
        cpus: share of a core's time; 0.1 makes a clock ten times slower.
        core: processor core that it is pinned to; None: any. The program can change that.

    Raises:
        InputError: a number out of range.
    """

    memory_bytes: int = 2**29
    processes: int = 64
    cpus: float = 1.0
    core: int | None = None

    def __post_init__(self) -> None:
        check_number("Quota.memory_bytes", self.memory_bytes, low=2**24, high=2**50, integer=True)
        check_number("Quota.processes", self.processes, low=1, high=2**22, integer=True)
        check_number("Quota.cpus", self.cpus, low=0.01, high=os.cpu_count() or 1)
        if self.core is not None:
            check_number("Quota.core", self.core, low=0, integer=True)
            if self.core not in os.sched_getaffinity(0):
                raise InputError(f"Quota.core is {self.core}; accepted: one of {sorted(os.sched_getaffinity(0))}")


class Ending(NamedTuple):
    """How a program ended."""

    status: int  # as `Sandbox.wait` has it
    reason: str  # "stopped", "memory", "exit N" or "signal N"


class Usage(NamedTuple):
    """What a program and its processes have taken; None where no control group counts it."""

    memory_bytes: int | None  # the most at a time
    cpu_s: float | None


def limits() -> str:
    """What holds quotas on this machine: "cgroup v1", "cgroup v2" or "rlimit"."""
    return _parents()[0]


def check_kind(kind: str) -> None:
    """Raises InputError where `kind` is none, or one that this machine cannot have."""
    check_choice("vm", kind, KINDS)
    if kind == "bubblewrap" and (missing := lacks()):
        raise InputError(f"vm is bubblewrap, but {missing}; accepted: process, by name, which isolates nothing")


class Sandbox:
    """A started program; `start` makes one.

    When it ends, what it has left behind is ended, too.

    Attributes:
        stdin, stdout: of the program.
        pid: of the process that was started.
        holds: what holds its quotas, as `limits` says.
    """

    def __init__(self, process: asyncio.subprocess.Process, kind: str, group: _Group | None) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.stdin, self.stdout, self.pid, self.holds = process.stdin, process.stdout, process.pid, limits()
        self._process, self._kind, self._group = process, kind, group
        self._asked = False
        self._usage = Usage(None, None)
        self._said = b""
        self._listening = asyncio.create_task(self._listen(SAID_BYTES_PER_S))
        self._over = asyncio.create_task(self._watch())

    @property
    def cpus_held(self) -> bool:
        """Whether `Quota.cpus` is held."""
        return self._group is not None

    @property
    def said(self) -> str:
        """The end of what the program has written to standard error, in one printable line."""
        return escaped(" | ".join(self._said.decode("utf-8", "replace").split("\n")).strip(" |"))

    def usage(self) -> Usage:
        """What it has taken so far."""
        return self._group.usage() if self._group is not None and not self._over.done() else self._usage

    async def wait(self) -> int:
        """Its exit status, once it has ended; a signal's number below zero where that ended it."""
        return (await asyncio.shield(self._over)).status

    async def stop(self) -> Ending:
        """Ends all its processes at once, if it has not ended yet."""
        if self.stdout.at_eof():  # it is about to end, and then says itself how
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), END_S)
        if self._process.returncode is None:
            self._asked = True
            self._kill()
        return await asyncio.shield(self._over)

    async def _watch(self) -> Ending:
        """Cleans up after the program's end."""
        memory = False
        try:
            status = await self._process.wait()
            self._kill()
            if self._group is not None:
                self._usage, memory = self._group.usage(), self._group.out_of_memory()
                await self._group.vanish()
            self._listening.cancel()
            await asyncio.wait([self._listening])
            with contextlib.suppress(TimeoutError):  # a plain program's children may still have it open
                await asyncio.wait_for(self._listen(math.inf), END_S)
        except asyncio.CancelledError:  # the event loop ends
            self._kill()
            if self._group is not None:
                self._group.vanish_now()
            raise
        finally:
            self._listening.cancel()
            self.stdin.close()
        if self._kind == "bubblewrap" and status > 128:  # it says so of a signal
            status = 128 - status
        killed = status == -signal.SIGKILL
        ended = f"exit {status}" if status >= 0 else f"signal {-status}"
        return Ending(status, "memory" if killed and memory else "stopped" if killed and self._asked else ended)

    async def _listen(self, bytes_per_s: float) -> None:
        """Reads standard error, so that it never fills, and not faster than is harmless."""
        assert self._process.stderr is not None
        while piece := await self._process.stderr.read(2**16):
            self._said = (self._said + piece)[-SAID_BYTES:]
            await asyncio.sleep(len(piece) / bytes_per_s)

    def _kill(self) -> None:
        if self._group is not None:
            self._group.kill()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


async def start(
    argv: Sequence[str],
    *,
    kind: str,
    quota: Quota,
    readable: Sequence[Path] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Sandbox:
    """Starts a program whose standard input and output are ours.

    Args:
        argv: the program and its arguments.
        kind: one of `KINDS`.
        quota: what it may take.
        readable: files and folders that a VM may read beside Python, each at its own place. A socket in one of them can
            be connected to.
        environment: variables; a VM has no other beside PATH, HOME and LANG, a plain process also has ours.

    Raises:
        InputError: an isolation that this machine cannot have, or paths that are not there.
    """
    check_kind(kind)
    places = [_readable(path) for path in readable]
    if not argv or any("\0" in word for word in (*argv, *environment, *environment.values())):
        raise InputError(f"argv is {shorten(list(argv))}; accepted: a program and its arguments, without NUL")
    held = limits() != "rlimit"
    if kind == "bubblewrap":
        inner = [sys.executable, "-I", "-S", "-c", _HOLD_PROCESSES, str(quota.processes + 1)]  # one of bubblewrap's
        words = [*_bubblewrap(quota, places, environment), *([] if held else inner), *argv]
        own = {"PATH": os.defpath}  # a VM can read the environment of bubblewrap itself
    else:
        words, own = list(argv), {**os.environ, **environment}
    group = _Group(quota, beside=2 if kind == "bubblewrap" else 0) if held else None
    try:
        process = await asyncio.create_subprocess_exec(
            *_entering(words, quota, group),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=own,
            limit=PIECE,
            start_new_session=True,
        )
    except BaseException:
        if group is not None:
            group.vanish_now()
        raise
    return Sandbox(process, kind, group)


def _entering(words: Sequence[str], quota: Quota, group: _Group | None) -> list[str]:
    """A command that takes on the quota before it becomes the program."""
    core = "" if quota.core is None else str(quota.core)
    memory = str(quota.memory_bytes) if group is None else ""
    files = ":".join(group.entrances()) if group is not None else ""
    return [sys.executable, "-I", "-S", "-c", _ENTER, str(os.getpid()), core, memory, files, *words]


def _readable(path: Path) -> Path:
    place = Path(os.path.abspath(path))
    own = place in (Path("/"), Path("/tmp")) or place.is_relative_to("/proc") or place.is_relative_to("/dev")
    if own or not place.exists():  # a VM has its own of those
        accepted = "files and folders that are there, other than /, /tmp, /proc and /dev"
        raise InputError(f"readable has {shorten(str(path))}; accepted: {accepted}")
    return place


@functools.cache
def lacks() -> str:
    """What this machine lacks for bubblewrap; empty where it lacks nothing."""
    if shutil.which("bwrap") is None:
        return "bwrap is not installed"
    home = Path(os.path.expanduser("~")).resolve()
    for prefix in (sys.prefix, sys.base_prefix):
        if home.is_relative_to(Path(prefix).resolve()) and home != Path("/"):
            return f"Python is installed in {prefix}, and VMs would see all of {home}"
    try:
        words = [*_bubblewrap(Quota(), (), {}), sys.executable, "-I", "-c", ""]
        tried = subprocess.run(words, capture_output=True, text=True, timeout=_TRY_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bwrap does not start ({shorten(str(error), 200)})"
    return f"bwrap does not start ({tried.stderr.strip()[-200:]})" if tried.returncode else ""


@functools.cache
def _can_disable_nesting() -> bool:
    """Whether bubblewrap is able to keep programs from making user namespaces in which they have capabilities."""
    asked = subprocess.run(["bwrap", "--help"], capture_output=True, text=True, timeout=_TRY_S, check=False)
    return "--disable-userns" in asked.stdout + asked.stderr


def _bubblewrap(quota: Quota, readable: Sequence[Path], environment: Mapping[str, str]) -> list[str]:
    """The command in front of a program in a VM."""
    size = str(min(TEMPORARY_BYTES, quota.memory_bytes // 4))
    words = [
        shutil.which("bwrap") or "bwrap", "--unshare-all", "--unshare-user", "--unshare-cgroup", "--die-with-parent",
        "--new-session", "--cap-drop", "ALL", "--hostname", "mrlato-vm", "--clearenv",
    ]  # fmt: skip
    if _can_disable_nesting():
        words.append("--disable-userns")
    for name, value in {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", **environment}.items():
        words += ["--setenv", name, value]
    words += ["--proc", "/proc", "--dev", "/dev"]
    for folder in ("/dev/shm", "/tmp"):
        words += ["--size", size, "--tmpfs", folder]
    for place in (Path("/bin"), Path("/sbin"), Path("/lib"), Path("/lib32"), Path("/lib64")):
        if place.is_symlink():
            words += ["--symlink", os.readlink(place), str(place)]
        elif place.is_dir():
            words += ["--ro-bind", str(place), str(place)]
    bound: list[Path] = []
    for place in (Path("/usr"), Path("/etc/ld.so.cache"), Path("/etc/alternatives"), *_python(), *readable):
        if place.exists() and not any(place.is_relative_to(above) for above in bound):
            words += ["--ro-bind", str(place), str(place)]
            bound.append(place)
    # A host's root is root in its VMs, too: without capabilities, but the files of /proc/sys are its own.
    words += ["--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/"]
    return [*words, "--chdir", "/tmp", "--"]


def _python() -> Iterator[Path]:
    """Where Python is, with the links that lead to its program."""
    for prefix in (sys.prefix, sys.base_prefix):
        yield Path(os.path.abspath(prefix))
        yield Path(prefix).resolve()
    program = Path(os.path.abspath(sys.executable))
    for _ in range(40):
        yield program
        if not program.is_symlink():
            break
        program = Path(os.path.normpath(program.parent / os.readlink(program)))


@functools.cache
def _parents() -> tuple[str, tuple[Path, ...]]:
    """What holds quotas, as `limits` says, and the folders in which groups of VMs are made."""
    for name, parents in _candidates():
        try:
            for parent in parents:
                parent.mkdir(exist_ok=True)
            if name == "cgroup v2":
                (parents[0] / "cgroup.subtree_control").write_text("+cpu +memory +pids")
            group = _Group(Quota(), within=parents)
        except OSError:
            continue
        words = _entering(["/bin/sh", "-c", ""], Quota(), group)
        try:
            entered = subprocess.run(words, capture_output=True, timeout=_TRY_S, check=False).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            entered = False
        group.vanish_now()
        if entered:
            return name, parents
    return "rlimit", ()


def _candidates() -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Where groups may perhaps be made."""
    first = [GROUPS / kind for kind in ("cpu", "memory", "pids")]
    if all((folder / "cgroup.procs").exists() for folder in first):
        counts = [GROUPS / "cpuacct"] if (GROUPS / "cpuacct" / "cgroup.procs").exists() else []
        folders = dict.fromkeys(folder.resolve() for folder in (*first, *counts))  # cpu and cpuacct may be one
        yield "cgroup v1", tuple(folder / _OURS for folder in folders)
    # Where the root is not ours, a folder above our own group may be: that of a user's services.
    own = next((line[3:] for line in _read(Path("/proc/self/cgroup")).splitlines() if line.startswith("0::")), "/")
    here = GROUPS / own.strip("/")
    for folder in (GROUPS, here, *(above for above in here.parents if above.is_relative_to(GROUPS))):
        if {"cpu", "memory", "pids"} <= set(_read(folder / "cgroup.controllers").split()):
            with contextlib.suppress(OSError):
                (folder / "cgroup.subtree_control").write_text("+cpu +memory +pids")
                yield "cgroup v2", (folder / _OURS,)


class _Group:
    """The control group of one VM: a folder for each kind of quota, or one for all.

    Args:
        quota: what its processes may take.
        beside: processes that they may be more.
        within: folders in which it is made; None: those of this machine.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, quota: Quota, *, beside: int = 0, within: Sequence[Path] | None = None) -> None:
        name = "-".join([*_owner(os.getpid()), str(next(_count))])
        self._folders: list[Path] = []
        try:
            for parent in _parents()[1] if within is None else within:
                _remove_stale(parent)
                (parent / name).mkdir()
                self._folders.append(parent / name)
            held = set()
            for file, text in _settings(quota, beside).items():
                for folder in self._folders:
                    if (folder / file).exists():
                        (folder / file).write_text(text)
                        held.add(file.partition(".")[0])
            if held != {"cpu", "memory", "pids"}:
                raise OSError(f"{self._folders} hold {held}")
        except OSError:
            self._remove()
            raise

    def entrances(self) -> list[str]:
        """Files that let a process in."""
        return [str(folder / "cgroup.procs") for folder in self._folders]

    def usage(self) -> Usage:
        """What it counts."""
        memory = self._first("memory.max_usage_in_bytes") or self._first("memory.peak")
        nanoseconds, microseconds = self._first("cpuacct.usage"), self._counts("cpu.stat").get("usage_usec")
        seconds = int(nanoseconds) / 1e9 if nanoseconds else None if microseconds is None else microseconds / 1e6
        return Usage(int(memory) if memory else None, seconds)

    def out_of_memory(self) -> bool:
        """Whether a process was killed for its memory."""
        return any(self._counts(file).get("oom_kill") for file in ("memory.oom_control", "memory.events"))

    def kill(self) -> None:
        """Kills its processes; they may end at full speed."""
        for file, text in (("cpu.cfs_quota_us", "-1"), ("cpu.max", "max"), ("cgroup.kill", "1")):
            for folder in self._folders:
                if (folder / file).exists():
                    with contextlib.suppress(OSError):
                        (folder / file).write_text(text)
        for folder in self._folders:
            _kill_all(folder)

    async def vanish(self) -> None:
        """Removes it, once its killed processes are gone."""
        until = time.monotonic() + STOP_S
        while not self._remove() and time.monotonic() < until:
            await asyncio.sleep(0.002)
            self.kill()

    def vanish_now(self) -> None:
        """As `vanish`, where the event loop does not run."""
        until = time.monotonic() + STOP_S
        while not self._remove() and time.monotonic() < until:
            self.kill()
            time.sleep(0.002)

    def _remove(self) -> bool:
        self._folders = [folder for folder in self._folders if not _removed(folder)]
        return not self._folders

    def _first(self, file: str) -> str:
        return next((text for folder in self._folders if (text := _read(folder / file).strip())), "")

    def _counts(self, file: str) -> dict[str, int]:
        pairs = [line.split() for line in self._first(file).splitlines()]
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _settings(quota: Quota, beside: int) -> dict[str, str]:
    """What is written into files of a group where they are; of both versions, in this order."""
    period = max(PERIOD_US, math.ceil(LEAST_US / quota.cpus))
    share = max(LEAST_US, round(quota.cpus * period))
    return {
        "cpu.cfs_period_us": str(period),
        "cpu.cfs_quota_us": str(share),
        "cpu.max": f"{share} {period}",
        "memory.limit_in_bytes": str(quota.memory_bytes),
        "memory.memsw.limit_in_bytes": str(quota.memory_bytes),
        "memory.max": str(quota.memory_bytes),
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "pids.max": str(quota.processes + beside),
    }


def _owner(pid: int) -> tuple[str, str, str]:
    """What tells a process from all others: namespace, number, and when it began; that is empty where it is gone."""
    namespace = os.stat("/proc/self/ns/pid").st_ino
    words = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return str(namespace), str(pid), words[19] if len(words) > 19 and words[0] not in ("Z", "X") else ""


def _remove_stale(parent: Path) -> None:
    """Removes groups whose owner is gone. Those of other containers are left alone: their owners cannot be seen."""
    for folder in parent.iterdir():
        words = folder.name.split("-")
        if len(words) == 4 and words[1].isdecimal():
            namespace, _, began = _owner(int(words[1]))
            if words[0] == namespace and words[2] != began:
                _kill_all(folder)
                _removed(folder)


def _kill_all(folder: Path) -> None:
    for pid in _read(folder / "cgroup.procs").split():
        if int(pid) > 0:  # those of another namespace of processes are called 0
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(pid), signal.SIGKILL)


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:  # a process is still in it
        return False
    return True


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
