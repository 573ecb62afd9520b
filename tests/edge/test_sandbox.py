"""A VM sees and reaches nothing of the host, is held at its quota, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from mrlato_jax.edge import sandbox
from mrlato_jax.edge.sandbox import KINDS, Ending, Quota, Sandbox, check_kind, limits, start
from mrlato_jax.errors import InputError

LACKS = sandbox.lacks()
isolated = pytest.mark.skipif(bool(LACKS), reason=LACKS)
held = pytest.mark.skipif(limits() == "rlimit", reason="no control group can be written")
HOLDS = ["rlimit", pytest.param("groups", marks=held)]
BOTH = [pytest.param("bubblewrap", marks=isolated), "process"]
PYTHON = [sys.executable, "-I", "-S", "-c"]
ECHO = "import sys\nfor line in sys.stdin: print(line.strip(), flush=True)\n"
SOON = 10.0  # seconds: how long anything may take on a busy machine
SMALL = Quota(memory_bytes=2**26)
# Three generations, each in a session of its own, in each of which `sys.argv[1]` can be found.
FAMILY = """
import os, sys, time
for _ in range(2):
    if os.fork() == 0: os.setsid()
    else: break
else: print("up", flush=True)
time.sleep(60)
"""


def groups_of(pid: int) -> list[Path]:
    return [folder for parent in sandbox._parents()[1] for folder in parent.glob(f"*-{pid}-*")]


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    assert groups_of(os.getpid()) == []


def run(work: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(work, 2 * SOON)

    return asyncio.run(bounded())


async def ended(code: str, *words: str, kind: str = "bubblewrap", quota: Quota = SMALL, **rest: Any) -> tuple[str, Any]:
    """What a Python program prints, and its sandbox, which has ended."""
    box = await start([*PYTHON, code, *words], kind=kind, quota=quota, **rest)
    output = (await box.stdout.read()).decode()
    await box.wait()
    return output, box


def printed(code: str, *words: str, **rest: Any) -> str:
    """What a Python program prints; it ends well."""
    output, box = run(ended(code, *words, **rest))
    assert box.said == ""
    return output


async def answers(box: Sandbox, text: str) -> bool:
    box.stdin.write(f"{text}\n".encode())
    return (await box.stdout.readline()).decode() == f"{text}\n"


def alive(mark: str) -> int:
    """How many processes have that word in their command lines."""
    count = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            count += mark in (folder / "cmdline").read_text()
    return count


def gone(mark: str) -> bool:
    until = time.monotonic() + SOON
    while alive(mark) and time.monotonic() < until:
        time.sleep(0.01)
    return not alive(mark)


def test_it_is_isolated_where_bubblewrap_works() -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bwrap is not installed")
    words = ["bwrap", "--unshare-all", "--unshare-user", "--proc", "/proc", "--ro-bind", "/usr", "/usr"]
    words += ["--ro-bind", "/lib", "/lib", "--ro-bind-try", "/lib64", "/lib64", "/usr/bin/true"]
    tried = subprocess.run(words, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(tried.stderr)
    assert LACKS == ""


WALK = """
import os, sys
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in sys.argv[1:]]
    for name in files: print(os.path.join(folder, name))
"""


@isolated
def test_a_vm_sees_no_file_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    known = {"/proc", "/dev", "/usr", "/etc/alternatives", *map(str, sandbox._python())}
    known |= {place for place in ("/lib", "/lib32", "/lib64", "/bin", "/sbin") if not Path(place).is_symlink()}
    assert "/etc" not in known
    assert not any(home == place for home in ("/", "/root", "/home", os.path.expanduser("~")) for place in known)
    seen = {file for file in printed(WALK, *known).split("\n") if file and file not in known}
    assert seen <= {"/etc/ld.so.cache"}


@isolated
@pytest.mark.parametrize("place", ["/etc/passwd", "/etc/shadow", "/home", "/var", "/run", "/sys", __file__])
def test_well_known_places_are_not_there(place: str) -> None:
    if not Path(place).exists():
        pytest.skip(f"{place} is not on this machine")
    assert printed("import os, sys; print(os.path.exists(sys.argv[1]))", place) == "False\n"


@isolated
def test_what_is_readable_is_at_its_place_alone_and_not_writable(tmp_path: Path) -> None:
    for name in ("shown", "hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    code = """
import os, sys
shown, folder = sys.argv[1:]
print(open(shown + "/file").read(), os.listdir(folder))
for place in (shown + "/file", shown + "/new", folder + "/new"):
    try: open(place, "w"); print("written", place)
    except OSError as error: print(error.errno == 30)
"""
    output = printed(code, str(tmp_path / "shown"), str(tmp_path), readable=[tmp_path / "shown"])
    # The folders above it are of the VM's own /tmp, if the test's are in /tmp.
    first, *rest = output.splitlines()
    assert first == "shown ['shown']"
    assert rest[:2] == ["True", "True"]
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["file", "file", "hidden", "shown"]
    assert (tmp_path / "shown" / "file").read_text() == "shown"


# Where Python itself lies in a temporary folder, the folders above it are in the VM's own.
ON_THE_WAY = {
    str(folder) for folder in Path(sys.prefix).parents if folder.is_relative_to("/tmp") and folder != Path("/tmp")
}


@isolated
def test_only_temporary_files_can_be_written() -> None:
    code = """
import os, sys
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/proc", "/usr/share", "/usr/lib")]
    try: os.close(os.open(folder + "/new", os.O_CREAT | os.O_WRONLY)); print(folder)
    except OSError: pass
for file in ("/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches",
             "/proc/sysrq-trigger", "/proc/self/oom_score_adj", sys.executable):
    try: os.close(os.open(file, os.O_WRONLY)); print(file)
    except OSError: pass
"""
    assert set(printed(code).split()) - ON_THE_WAY == {"/dev/shm", "/tmp"}


@isolated
def test_two_vms_share_no_file() -> None:
    async def work() -> None:
        write = "[open(f + '/of-one-vm', 'w') for f in ('/tmp', '/dev/shm')]; print('written', flush=True); input()"
        box = await start([*PYTHON, write], kind="bubblewrap", quota=SMALL)
        assert await box.stdout.readline() == b"written\n"
        look = "import os; print(*(os.path.join(f, n) for f in ('/tmp', '/dev/shm') for n in os.listdir(f)))"
        assert set((await ended(look))[0].split()) <= ON_THE_WAY
        await box.stop()

    run(work())
    assert not Path("/tmp/of-one-vm").exists()


@isolated
def test_no_connection_is_opened() -> None:
    name = f"\0mrlato-{uuid.uuid4()}"
    code = """
import socket, sys
port, datagrams, name = int(sys.argv[1]), int(sys.argv[2]), chr(0) + sys.argv[3]
for family, address in ((socket.AF_INET, ("127.0.0.1", port)), (socket.AF_UNIX, name)):
    try: socket.socket(family).connect(address); print("connected", address)
    except OSError: print("refused")
try: socket.socket(type=socket.SOCK_DGRAM).sendto(b"out", ("127.0.0.1", datagrams))
except OSError: pass
print(sorted(name for _, name in socket.if_nameindex()))
"""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(name)
        abstract.listen()
        datagrams = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        datagrams.bind(("127.0.0.1", 0))
        ports = [str(one.getsockname()[1]) for one in (server, datagrams)]
        for kind, said, arrives in (("bubblewrap", "refused", False), ("process", "connected", True)):
            lines = printed(code, *ports, name[1:], kind=kind).splitlines()
            assert [line.split()[0] for line in lines[:2]] == [said, said]
            assert kind != "bubblewrap" or lines[2] == "['lo']"
            datagrams.settimeout(SOON if arrives else 0.1)
            with contextlib.nullcontext() if arrives else pytest.raises(TimeoutError):
                datagrams.recv(10)


@isolated
def test_it_sees_its_own_processes_alone() -> None:
    code = """
import os, sys
pids = [int(name) for name in os.listdir("/proc") if name.isdecimal()]
print(len(pids), os.uname().nodename)
try: os.kill(int(sys.argv[1]), 0); print("killed")
except ProcessLookupError: print("not there")
"""
    assert printed(code, str(os.getpid())) == "2 mrlato-vm\nnot there\n"


@isolated
def test_it_has_no_variable_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MRLATO_SECRET", "secret")
    code = "import os; print(sorted(os.environ)); print(b'SECRET' in open('/proc/1/environ', 'rb').read())"
    names, leaked = printed(code, environment={"GIVEN": "1"}).splitlines()
    assert names in ("['GIVEN', 'HOME', 'LANG', 'PATH', 'PWD']", "['GIVEN', 'HOME', 'LANG', 'PATH']")
    assert leaked == "False"
    output = printed(
        "import os; print(os.environ['MRLATO_SECRET'], os.environ['GIVEN'])", kind="process", environment={"GIVEN": "1"}
    )
    assert output == "secret 1\n"


@isolated
@pytest.mark.parametrize("holds", HOLDS)
def test_it_has_no_power(holds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if holds == "rlimit":
        monkeypatch.setattr(sandbox, "_parents", lambda: ("rlimit", ()))

    async def work() -> None:
        box = await start(["cat", "/proc/self/status"], kind="bubblewrap", quota=SMALL)
        lines = dict(line.split(":\t", 1) for line in (await box.stdout.read()).decode().splitlines() if ":\t" in line)
        assert (await box.stop()).reason == "exit 0"
        assert {int(lines[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert lines["NoNewPrivs"] == "1"

    run(work())
    if sandbox._can_disable_nesting():
        assert printed("import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))") == "-1\n"


@isolated
@held
def test_memory_stops_it_without_harm_to_another() -> None:
    async def work() -> None:
        other = await start([*PYTHON, ECHO], kind="bubblewrap", quota=SMALL)
        assert await answers(other, "before")
        code = "print('up', flush=True)\nparts = [bytearray(2**20) for _ in range(300)]\nprint('too much')"
        box = await start([*PYTHON, code], kind="bubblewrap", quota=SMALL)
        assert await box.stdout.readline() == b"up\n"
        assert await answers(other, "while")
        assert await box.stdout.read() == b""
        ending = await box.stop()
        assert ending == Ending(-signal.SIGKILL, "memory")
        assert 0.9 * SMALL.memory_bytes < box.usage().memory_bytes <= SMALL.memory_bytes
        assert await answers(other, "after")
        assert (await other.stop()).reason == "stopped"

    run(work())


@isolated
@held
def test_memory_is_of_all_processes_together() -> None:
    code = """
import os, sys, time
for _ in range(4):
    if os.fork() == 0:
        part = bytearray(30 * 2**20); os.write(1, b"x"); time.sleep(60)
while True:
    if os.wait()[1] == 9: os.kill(os.getpid(), 9)
"""
    output, box = run(ended(code))
    assert len(output) < 4
    assert run_ending(box).reason == "memory"


@isolated
@pytest.mark.skipif(limits() != "cgroup v1", reason="version 2 ends all processes at once")
def test_a_child_that_is_killed_for_its_memory_is_no_end() -> None:
    code = "import os\nif os.fork() == 0: bytearray(2**27)\nelse: print(os.wait()[1])"
    output, box = run(ended(code))
    assert output == "9\n"
    assert run_ending(box).reason == "exit 0"


def run_ending(box: Sandbox) -> Ending:
    """Of one that has ended."""
    return box._over.result()


@isolated
@held
@pytest.mark.parametrize("most", [1, 8])
def test_processes_are_held(most: int) -> None:
    code = """
import os, time
made = 0
for _ in range(200):
    try: child = os.fork()
    except BlockingIOError: break
    if child == 0: time.sleep(60); os._exit(0)
    made += 1
print(made)
"""
    assert printed(code, quota=Quota(memory_bytes=2**27, processes=most)) == f"{most - 1}\n"


@held
@pytest.mark.parametrize("kind", BOTH)
def test_processor_time_is_held(kind: str) -> None:
    code = """
import time
began, used = time.monotonic(), time.process_time()
while time.monotonic() < began + 1: pass
print(time.process_time() - used, time.monotonic() - began)
"""
    output, box = run(ended(code, kind=kind, quota=Quota(cpus=0.2)))
    used_s, wall_s = map(float, output.split())
    assert 0 < used_s < 0.27 * wall_s  # less than 0.2 on a busy machine
    assert box.usage().cpu_s == pytest.approx(used_s, abs=0.15)


@pytest.mark.parametrize(("cpus", "period"), [(1.0, 10_000), (0.3, 10_000), (0.1, 10_000), (0.02, 50_000)])
def test_a_slow_clock_is_as_slow_as_it_is_said_to_be(cpus: float, period: int) -> None:
    settings = sandbox._settings(Quota(cpus=cpus), 0)
    assert settings["cpu.cfs_period_us"] == str(period)
    share = int(settings["cpu.cfs_quota_us"])
    assert share >= 1000
    assert share / period == pytest.approx(cpus)
    assert settings["cpu.max"] == f"{share} {period}"


@isolated
@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
def test_temporary_files_are_bounded(place: str) -> None:
    name = f"mrlato-{uuid.uuid4()}"
    code = """
import os, sys
file, written = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY), 0
try:
    for _ in range(100): written += os.write(file, bytes(2**20))
except OSError as error: print(written, error.strerror)
"""
    assert printed(code, f"{place}/{name}") == f"{SMALL.memory_bytes // 4} No space left on device\n"
    assert not Path(place, name).exists()


@pytest.mark.parametrize("kind", BOTH)
def test_the_end_is_said_as_it_was(kind: str) -> None:
    async def reason(code: str, close: bool) -> str:
        box = await start([*PYTHON, code], kind=kind, quota=SMALL)
        if close:
            assert await box.stdout.read() == b""
        else:
            assert await box.stdout.readline() == b"up\n"
        first, second = await asyncio.gather(box.stop(), box.stop())
        assert first == second == await box.stop()
        assert await box.wait() == first.status
        return first.reason

    async def work() -> None:
        assert await reason("import sys; sys.exit(3)", True) == "exit 3"
        assert await reason("pass", True) == "exit 0"
        assert await reason("import os; os.kill(os.getpid(), 15)", True) == "signal 15"
        assert await reason("import os; os.kill(os.getpid(), 9)", True) == "signal 9"
        assert await reason("import time; print('up', flush=True); time.sleep(60)", False) == "stopped"
        if kind == "process":  # bubblewrap itself has it open until the end
            assert (
                await reason("import os, time; os.close(1); os.close(2); time.sleep(0.03); os._exit(3)", True)
                == "exit 3"
            )
            assert await reason("import os, time; os.close(1); os.close(2); time.sleep(60)", True) == "stopped"

    run(work())


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("holds", HOLDS)
def test_stopping_ends_the_children_too(kind: str, holds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mark, family = uuid.uuid4().hex, FAMILY
    if holds == "rlimit":
        monkeypatch.setattr(sandbox, "_parents", lambda: ("rlimit", ()))
        if kind == "process":  # nothing else holds together what it starts
            family = family.replace("os.setsid()", "pass")

    async def work() -> None:
        box = await start([*PYTHON, family, mark], kind=kind, quota=Quota(memory_bytes=2**28))
        assert await box.stdout.readline() == b"up\n"
        assert alive(mark) >= 3
        began = time.monotonic()
        assert (await box.stop()).reason == "stopped"
        assert time.monotonic() - began < SOON

    run(work())
    assert gone(mark)


@held
@pytest.mark.parametrize("kind", BOTH)
def test_what_a_program_leaves_behind_ends_with_it(kind: str) -> None:
    mark = uuid.uuid4().hex
    run(
        ended(
            "import os, time\nif os.fork() == 0: os.setsid(); os.close(1); os.close(2); time.sleep(60)", mark, kind=kind
        )
    )
    assert groups_of(os.getpid()) == []
    assert gone(mark)


@pytest.mark.parametrize("kind", BOTH)
def test_nothing_stays_of_an_event_loop_that_ends(kind: str) -> None:
    mark = uuid.uuid4().hex

    async def work() -> None:
        box = await start([*PYTHON, FAMILY.replace("os.setsid()", "pass"), mark], kind=kind, quota=SMALL)
        assert await box.stdout.readline() == b"up\n"

    run(work())
    assert groups_of(os.getpid()) == []
    assert gone(mark)


OWNER = """
import asyncio, sys, types
face = types.ModuleType("mrlato_jax")
face.__path__ = [sys.argv[1]]
sys.modules["mrlato_jax"] = face
from mrlato_jax.edge.sandbox import Quota, start
async def main():
    box = await start([sys.executable, "-I", "-S", "-c", sys.argv[4], sys.argv[3]], kind=sys.argv[2], quota=Quota())
    print((await box.stdout.readline()).decode(), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.parametrize("kind", BOTH)
def test_it_ends_with_an_owner_that_is_killed_and_its_group_at_the_next_start(kind: str) -> None:
    mark = uuid.uuid4().hex
    package = str(Path(sandbox.__file__).parents[1])
    code = FAMILY if kind == "bubblewrap" else "import time; print('up', flush=True); time.sleep(60)"
    words = [sys.executable, "-c", OWNER, package, kind, mark, code]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        assert bool(groups_of(owner.pid)) == (limits() != "rlimit")
        owner.kill()
    assert gone(mark)
    until = time.monotonic() + SOON
    run(ended("pass", kind=kind))
    while groups_of(owner.pid) and time.monotonic() < until:  # the last of its processes may end a moment later
        run(ended("pass", kind=kind))
    assert groups_of(owner.pid) == []


@held
def test_groups_of_those_who_live_and_of_other_containers_stay() -> None:
    namespace, _, began = sandbox._owner(os.getpid())
    names = [f"{namespace}-{os.getppid()}-{sandbox._owner(os.getppid())[2]}-0", f"{int(namespace) + 1}-{2**30}-1-0"]
    stale = f"{namespace}-{os.getppid()}-1-0"  # of an earlier process of that number
    parent = sandbox._parents()[1][0]
    try:
        for name in (*names, stale):
            (parent / name).mkdir()
        assert began
        run(ended("pass", kind="process"))
        assert [(parent / name).exists() for name in (*names, stale)] == [True, True, False]
    finally:
        for name in (*names, stale):
            with contextlib.suppress(FileNotFoundError):
                (parent / name).rmdir()


@pytest.mark.parametrize("kind", BOTH)
def test_standard_error_is_read_and_its_end_kept(kind: str) -> None:
    code = "import sys; sys.stderr.write('a' * 200_000 + chr(27) + 'x\\nthe end\\n')"
    _, box = run(ended(code, kind=kind))
    assert box.said.endswith("a\\x1bx | the end")
    assert len(box.said) < 3000


@pytest.mark.parametrize("kind", BOTH)
def test_it_is_pinned_to_its_core(kind: str) -> None:
    core = max(os.sched_getaffinity(0))
    output = printed("import os; print(os.sched_getaffinity(0))", kind=kind, quota=Quota(core=core))
    assert output == f"{{{core}}}\n"


@pytest.mark.parametrize("kind", BOTH)
def test_without_groups_resource_limits_hold(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_parents", lambda: ("rlimit", ()))
    code = (
        "import resource; print(resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_NPROC)[0])"
    )
    output, box = run(ended(code, kind=kind, quota=Quota(memory_bytes=2**28, processes=10)))
    assert output.startswith(f"({2**28}, {2**28})")
    assert kind == "process" or output.endswith(" 11\n")
    assert (limits(), box.usage()) == ("rlimit", (None, None))


FILES_OF_V2 = (
    "cgroup.procs",
    "cgroup.kill",
    "cpu.max",
    "memory.max",
    "memory.swap.max",
    "memory.oom.group",
    "pids.max",
)


@pytest.fixture
def version_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tree of files as version 2 has them; the kernel is not behind it."""
    make, removed = Path.mkdir, []

    def mkdir(folder: Path, *arguments: Any, **named: Any) -> None:
        make(folder, *arguments, **named)
        if folder.is_relative_to(tmp_path):
            for name in FILES_OF_V2:
                (folder / name).write_text("")
            (folder / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
            (folder / "memory.peak").write_text("4096\n")
            (folder / "memory.events").write_text("oom 0\noom_kill 1\n")

    def rmdir(folder: Path) -> None:
        assert folder.is_relative_to(tmp_path)
        removed.append({file.name: file.read_text() for file in folder.iterdir()})
        shutil.rmtree(folder)

    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory hugetlb pids\n")
    with monkeypatch.context() as patched:
        patched.setattr(sandbox, "GROUPS", tmp_path)
        patched.setattr(Path, "mkdir", mkdir)
        patched.setattr(Path, "rmdir", rmdir)
        sandbox._parents.cache_clear()
        yield tmp_path
        assert removed
    sandbox._parents.cache_clear()


@pytest.mark.parametrize("kind", BOTH)
def test_groups_of_version_2(kind: str, version_2: Path) -> None:
    assert limits() == "cgroup v2"
    wanted = "+cpu +memory +pids"
    assert [(version_2 / name / "cgroup.subtree_control").read_text() for name in ("", "mrlato")] == [wanted, wanted]

    async def work() -> None:
        box = await start([*PYTHON, ECHO], kind=kind, quota=Quota(memory_bytes=2**27, processes=7, cpus=0.5))
        assert await answers(box, "entered")
        (folder,) = groups_of(os.getpid())
        names = ("cgroup.procs", "cpu.max", "memory.max", "memory.swap.max", "memory.oom.group", "pids.max")
        processes = "9" if kind == "bubblewrap" else "7"
        assert [(folder / name).read_text() for name in names] == ["0", "5000 10000", str(2**27), "0", "1", processes]
        (folder / "cgroup.procs").write_text("")
        assert box.usage() == (4096, 1.5)
        box._group._folders, left = [], box._group._folders  # nothing is killed by a file without a kernel
        assert (await box.stop()).reason == "stopped"
        box._group._folders = left
        assert box._group.out_of_memory()
        box._group.kill()
        assert [(folder / name).read_text() for name in ("cgroup.kill", "cpu.max")] == ["1", "max"]
        await box._group.vanish()

    run(work())


def test_a_tree_of_version_2_without_all_quotas_is_not_used(version_2: Path) -> None:
    (version_2 / "mrlato").mkdir()  # so that something has been removed
    (version_2 / "mrlato").rmdir()
    (version_2 / "cgroup.controllers").write_text("cpu memory\n")
    assert limits() == "rlimit"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"memory_bytes": 2**20}, "Quota.memory_bytes is 1048576; accepted: an integer in [16777216, "),
        ({"memory_bytes": 1e9}, "Quota.memory_bytes is 1000000000.0; accepted: an integer"),
        ({"processes": 0}, "Quota.processes is 0; accepted: an integer in [1, "),
        ({"cpus": 0}, "Quota.cpus is 0; accepted: a finite number in [0.01, "),
        ({"cpus": float("nan")}, "Quota.cpus is nan"),
        ({"cpus": 10_000}, "Quota.cpus is 10000"),
        ({"core": -1}, "Quota.core is -1"),
        ({"core": 10_000}, "Quota.core is 10000; accepted: one of ["),
        ({"core": True}, "Quota.core is True"),
    ],
)
def test_a_wrong_quota_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        Quota(**changes)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("argv", "rest", "said"),
    [
        (["true"], {"kind": "docker"}, "vm is 'docker'; accepted: bubblewrap, process"),
        ([], {}, "argv is []; accepted: a program and its arguments, without NUL"),
        (["a\0b"], {}, "argv is ['a\\x00b']"),
        (["true"], {"readable": [Path("/nowhere")]}, "readable has '/nowhere'; accepted: files and folders"),
        (["true"], {"readable": [Path("/")]}, "readable has '/'; accepted: files and folders"),
        (["true"], {"readable": [Path("/proc/self/root")]}, "readable has '/proc/self/root'"),
    ],
)
def test_a_wrong_start_is_refused(argv: list[str], rest: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        run(start(argv, **{"kind": KINDS[1], "quota": SMALL, **rest}))
    assert str(caught.value).startswith(said)


def test_a_program_that_is_not_there_ends_at_once() -> None:
    async def work() -> None:
        box = await start(["mrlato-nonsense"], kind="process", quota=SMALL)
        assert await box.wait() == 1
        assert "No such file" in box.said

    run(work())


@pytest.mark.parametrize("how", ["absent", "refused", "in a home folder"])
def test_without_isolation_a_vm_is_refused_by_name(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"absent": "bwrap is not installed", "refused": "bwrap does not start (no namespaces)"}
    if how == "in a home folder":
        monkeypatch.setattr(sandbox.shutil, "which", lambda name: name)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setattr(sys, "base_prefix", str(tmp_path.parent))
        said[how] = f"Python is installed in {tmp_path.parent}, and VMs would see all of {tmp_path}"
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
        if how == "refused":
            (tmp_path / "bwrap").write_text("#!/bin/sh\necho no namespaces >&2; exit 1\n")
            (tmp_path / "bwrap").chmod(0o700)
    for cached in (sandbox.lacks, sandbox._can_disable_nesting):
        cached.cache_clear()
    try:
        with pytest.raises(InputError) as caught:
            run(start(["true"], kind="bubblewrap", quota=SMALL))
        wanted = f"vm is bubblewrap, but {said[how]}; accepted: process, by name, which isolates nothing"
        assert str(caught.value) == wanted
        check_kind("process")
    finally:
        for cached in (sandbox.lacks, sandbox._can_disable_nesting):
            cached.cache_clear()
