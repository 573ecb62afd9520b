"""One program in an isolated process, the VM of a user; or on request in a plain process.

bubblewrap isolates the program: it has its own namespaces without a network, a read-only system, and no files of the
host except those that Python needs. Control groups of version 1 or 2 limit memory, processes and processor time. If
they are not writable, resource limits bound the memory of each process and, unless the user is root, the number of
processes of a VM; then processor time has no limit.

The kernel kills a started program when the thread that started it ends for any reason (`PR_SET_PDEATHSIG`). With a VM's
first process, all its other processes end. Children of a plain program may survive until the next start finds that the
owner of their control group has ended.
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

KINDS = ("bubblewrap", "process")  # "process": no isolation
GROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 10_000  # period of CPU quotas; short, so that a slow clock is still smooth
LEAST_US = 1_000  # least quota per period that the kernel accepts; smaller shares need a longer period
TEMPORARY_BYTES = 2**26  # size of /tmp, and of /dev/shm, in a VM; at most a quarter of its memory
STOP_S = 5.0  # time limit for killed processes to disappear
END_S = 0.1  # time limit for a program to end after the end of its output
PIECE = 2**20  # bytes read ahead
SAID_BYTES = 2000  # bytes of standard error that are kept
SAID_BYTES_PER_S = 2**20  # read rate of standard error; reading more would slow down others
_TRY_S = 30.0  # time limit of the trial start, once in each process
_OURS = "mrlato"
_count = itertools.count()

# Runs outside the VM and then becomes the program. Restores the signals that Python ignores, since they are inherited.
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
# Runs in the VM, where the kernel counts only the VM's processes; outside, it would count all processes of the user.
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
    """The limits of a VM.

    Attributes:
        memory_bytes: memory of all its processes together, including the files in its /tmp.
        processes: number of processes and threads at a time, without bubblewrap's own two.
        cpus: share of a core's time; 0.1 makes a clock ten times slower.
        core: processor core that it is pinned to; None for any. The program can change the core.

    Raises:
        InputError: a number is out of range.
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

    status: int  # as in `Sandbox.wait`
    reason: str  # "stopped", "memory", "exit N" or "signal N"


class Usage(NamedTuple):
    """Resources used by a program and its processes; None if no control group counts them."""

    memory_bytes: int | None  # the peak
    cpu_s: float | None


def limits() -> str:
    """Returns what enforces quotas on this machine: "cgroup v1", "cgroup v2" or "rlimit"."""
    return _parents()[0]


def check_kind(kind: str) -> None:
    """Raises InputError if `kind` is unknown or not available on this machine."""
    check_choice("vm", kind, KINDS)
    if kind == "bubblewrap" and (missing := lacks()):
        raise InputError(f"vm is bubblewrap, but {missing}; accepted: process, by name, which isolates nothing")


class Sandbox:
    """A started program; `start` makes one. At its end, its remaining processes are ended, too.

    Attributes:
        stdin, stdout: standard input and output of the program.
        pid: id of the started process.
    """

    def __init__(self, process: asyncio.subprocess.Process, kind: str, group: _Group | None) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.stdin, self.stdout, self.pid = process.stdin, process.stdout, process.pid
        self._process, self._kind, self._group = process, kind, group
        self._asked = False
        self._usage = Usage(None, None)
        self._said = b""
        self._listening = asyncio.create_task(self._listen(SAID_BYTES_PER_S))
        self._over = asyncio.create_task(self._watch())

    @property
    def said(self) -> str:
        """The end of the program's standard error, in one printable line."""
        return escaped(" | ".join(self._said.decode("utf-8", "replace").split("\n")).strip(" |"))

    def usage(self) -> Usage:
        """Returns the resources used so far."""
        return self._group.usage() if self._group is not None and not self._over.done() else self._usage

    async def wait(self) -> int:
        """Waits for the end; returns the exit status, or minus the number of the signal that ended the program."""
        return (await asyncio.shield(self._over)).status

    async def stop(self) -> Ending:
        """Kills all its processes, if it has not ended yet."""
        if self.stdout.at_eof():  # the program is about to end with its own status
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
            with contextlib.suppress(TimeoutError):  # a plain program's children may still have the pipe open
                await asyncio.wait_for(self._listen(math.inf), END_S)
        except asyncio.CancelledError:  # the event loop ends
            self._kill()
            if self._group is not None:
                self._group.vanish_now()
            raise
        finally:
            self._listening.cancel()
            self.stdin.close()
        if self._kind == "bubblewrap" and status > 128:  # bubblewrap's status for a signal
            status = 128 - status
        killed = status == -signal.SIGKILL
        ended = f"exit {status}" if status >= 0 else f"signal {-status}"
        return Ending(status, "memory" if killed and memory else "stopped" if killed and self._asked else ended)

    async def _listen(self, bytes_per_s: float) -> None:
        """Reads standard error, so that the pipe never fills; the rate is limited."""
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
    """Starts a program with pipes as its standard input and output.

    Args:
        argv: the program and its arguments.
        kind: one of `KINDS`.
        quota: the limits of the program.
        readable: files and folders that a VM may read in addition to Python, each at its own path. The VM can also
            connect to sockets in these folders.
        environment: environment variables. A VM has these with PATH, HOME and LANG; a plain process inherits ours, too.

    Raises:
        InputError: the isolation is not available on this machine, or a path does not exist.
    """
    check_kind(kind)
    places = [_readable(path) for path in readable]
    if not argv or any("\0" in word for word in (*argv, *environment, *environment.values())):
        raise InputError(f"argv is {shorten(list(argv))}; accepted: a program and its arguments, without NUL")
    held = limits() != "rlimit"
    if kind == "bubblewrap":
        inner = [sys.executable, "-I", "-S", "-c", _HOLD_PROCESSES, str(quota.processes + 1)]  # one of bubblewrap's
        words = [*_bubblewrap(quota, places, environment), *([] if held else inner), *argv]
        own = {"PATH": os.defpath}  # the VM can read bubblewrap's own environment
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
    """Returns a command that applies the quota and then becomes the program."""
    core = "" if quota.core is None else str(quota.core)
    memory = str(quota.memory_bytes) if group is None else ""
    files = ":".join(group.entrances()) if group is not None else ""
    return [sys.executable, "-I", "-S", "-c", _ENTER, str(os.getpid()), core, memory, files, *words]


def _readable(path: Path) -> Path:
    place = Path(os.path.abspath(path))
    own = place in (Path("/"), Path("/tmp")) or place.is_relative_to("/proc") or place.is_relative_to("/dev")
    if own or not place.exists():  # a VM has its own folders of these names
        accepted = "files and folders that are there, other than /, /tmp, /proc and /dev"
        raise InputError(f"readable has {shorten(str(path))}; accepted: {accepted}")
    return place


@functools.cache
def lacks() -> str:
    """Returns what this machine lacks for bubblewrap; empty if nothing."""
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
    """Returns whether bubblewrap can forbid nested user namespaces, in which programs would have capabilities."""
    asked = subprocess.run(["bwrap", "--help"], capture_output=True, text=True, timeout=_TRY_S, check=False)
    return "--disable-userns" in asked.stdout + asked.stderr


def _bubblewrap(quota: Quota, readable: Sequence[Path], environment: Mapping[str, str]) -> list[str]:
    """Returns the command prefix that runs a program in a VM."""
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
    # If the host runs as root, its VMs do, too. They have no capabilities, but root owns the files of /proc/sys.
    words += ["--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/"]
    return [*words, "--chdir", "/tmp", "--"]


def _python() -> Iterator[Path]:
    """Yields the paths of Python's installation, with the links to its program."""
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
    """Returns what enforces quotas, as in `limits`, and the folders in which the groups of VMs are made."""
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
    """Yields the folders in which groups might be made."""
    first = [GROUPS / kind for kind in ("cpu", "memory", "pids")]
    if all((folder / "cgroup.procs").exists() for folder in first):
        counts = [GROUPS / "cpuacct"] if (GROUPS / "cpuacct" / "cgroup.procs").exists() else []
        folders = dict.fromkeys(
            folder.resolve() for folder in (*first, *counts)
        )  # cpu and cpuacct may be the same folder
        yield "cgroup v1", tuple(folder / _OURS for folder in folders)
    # If the root is not writable, a folder above our own group may be: the folder of a user's services.
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
        quota: the limits of its processes.
        beside: number of additional processes allowed.
        within: folders in which to make the group; by default those of this machine.

    Raises:
        OSError: the group cannot be made.
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
        """Returns the files to which a process writes to join the group."""
        return [str(folder / "cgroup.procs") for folder in self._folders]

    def usage(self) -> Usage:
        """Returns the resources that the group has counted."""
        memory = self._first("memory.max_usage_in_bytes") or self._first("memory.peak")
        nanoseconds, microseconds = self._first("cpuacct.usage"), self._counts("cpu.stat").get("usage_usec")
        seconds = int(nanoseconds) / 1e9 if nanoseconds else None if microseconds is None else microseconds / 1e6
        return Usage(int(memory) if memory else None, seconds)

    def out_of_memory(self) -> bool:
        """Returns whether a process was killed for lack of memory."""
        return any(self._counts(file).get("oom_kill") for file in ("memory.oom_control", "memory.events"))

    def kill(self) -> None:
        """Kills the processes of the group and lifts the CPU quota, so that they end quickly."""
        for file, text in (("cpu.cfs_quota_us", "-1"), ("cpu.max", "max"), ("cgroup.kill", "1")):
            for folder in self._folders:
                if (folder / file).exists():
                    with contextlib.suppress(OSError):
                        (folder / file).write_text(text)
        for folder in self._folders:
            _kill_all(folder)

    async def vanish(self) -> None:
        """Removes the group after its killed processes have ended."""
        until = time.monotonic() + STOP_S
        while not self._remove() and time.monotonic() < until:
            await asyncio.sleep(0.002)
            self.kill()

    def vanish_now(self) -> None:
        """Removes the group without an event loop; see `vanish`."""
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
    """Returns the settings of a group by file, for both versions, in order of writing; missing files are skipped."""
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
    """Returns the identity of a process: PID namespace, number, and start time, which is empty for an ended process."""
    namespace = os.stat("/proc/self/ns/pid").st_ino
    words = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return str(namespace), str(pid), words[19] if len(words) > 19 and words[0] not in ("Z", "X") else ""


def _remove_stale(parent: Path) -> None:
    """Removes groups whose owner has ended. Groups of other containers stay, since their owners are not visible."""
    for folder in parent.iterdir():
        words = folder.name.split("-")
        if len(words) == 4 and words[1].isdecimal():
            namespace, _, began = _owner(int(words[1]))
            if words[0] == namespace and words[2] != began:
                _kill_all(folder)
                _removed(folder)


def _kill_all(folder: Path) -> None:
    for pid in _read(folder / "cgroup.procs").split():
        if int(pid) > 0:  # processes of another PID namespace have number 0
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
