"""Stress tests of an MEC host: throughput and overhead, growth over many tasks, injected faults, hostile messages.

Host and UEs run in this process, on loopback without a paced link; VMs and local executors are separate processes. For
hostile messages the host is a separate process, too, so its memory can be measured apart from the attacker's.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.edge import certificates, dags, ue
from mrlato_jax.edge.cases import DAGS
from mrlato_jax.edge.codec import framed
from mrlato_jax.edge.host_process import HostProcess
from mrlato_jax.edge.link import LinkProcess, Rates, start_process
from mrlato_jax.edge.machine import FACELESS, PACKAGE, Machine
from mrlato_jax.edge.mec import Mec
from mrlato_jax.edge.sandbox import Sandbox
from mrlato_jax.edge.traffic import Rules
from mrlato_jax.edge.ue import Connection, Run, Ue
from mrlato_jax.edge.vm import Order

HZ = 10e9
READ_S = 0.2  # time that an attacker waits for an answer
CLUSTER_S = 60.0  # time limit for the start of a cluster with all workers
# Runs a module of Dask. The process ends with the thread that started it.
_DASK = FACELESS + (
    "import ctypes, runpy, signal; ctypes.CDLL(None).prctl(1, signal.SIGKILL); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def chain(tasks: int, milliseconds: float, size: float) -> TaskGraph:
    """Returns a chain of tasks; each takes `milliseconds` and sends `size` bytes in each direction."""
    return TaskGraph.from_edges(
        cycles=[HZ * milliseconds / 1e3] * tasks, upload_bytes=[size] * tasks, download_bytes=[size] * tasks,
        edges=[(task, task + 1) for task in range(tasks - 1)],
    )  # fmt: skip


def wide(tasks: int, milliseconds: float, size: float) -> TaskGraph:
    """Returns a fork-join DAG: a first and a last task, and all others in parallel between them."""
    edges = [(0, task) for task in range(1, tasks - 1)] + [(task, tasks - 1) for task in range(1, tasks - 1)]
    return TaskGraph.from_edges(
        cycles=[HZ * milliseconds / 1e3] * tasks, upload_bytes=[size] * tasks, download_bytes=[size] * tasks,
        edges=edges,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def serving(folder: Path, users: int, **more: Any) -> AsyncIterator[tuple[Mec, str]]:
    """Context with a host and its address; the users are named u0, u1, ..."""
    certificates.make(folder, [f"u{number}" for number in range(users)])
    host = Mec([DAGS], folder, **more)
    try:
        yield host, f"127.0.0.1:{await host.start()}"
    finally:
        await host.stop(0)


def is_right(run: Run, graph: TaskGraph) -> bool:
    """Returns whether each result has the mark of its task and of the task's ancestors."""
    marks, parents = dags.marks(graph), set(graph.edges[:, 0].tolist())
    wanted = [marks[task] for task in range(graph.num_tasks) if task not in parents]
    return [result[: dags.MARK_BYTES] for result in run.returned] == wanted


async def _offload(equipment: Ue, graph: TaskGraph, **more: Any) -> Run:
    order = graph.topological_order()
    return await equipment.run(
        dags.program_of(graph, HZ), graph, np.ones(graph.num_tasks, int), order, channel="paper", **more
    )


async def overhead(folder: Path, kind: str, runs: int = 20, **more: Any) -> dict[str, float]:
    """Measures the overhead of an offloaded task, milliseconds: one user, 20 kB in each direction on loopback.

    Args:
        folder: folder for the certificates.
        kind: isolation of the VM.
        runs: number of runs of twenty tasks.
        more: further arguments of `Mec`.
    """
    graph = chain(20, 2.0, 20e3)
    async with serving(folder, 1, kind=kind, **more) as (_, address), Ue([DAGS], address, folder, "u0") as equipment:
        await _offload(equipment, graph)
        spans = [(await _offload(equipment, graph)).makespan for _ in range(runs)]
    each = 1e3 * (np.array(spans) - graph.cycles.sum() / HZ) / graph.num_tasks
    return {
        "tasks": runs * graph.num_tasks,
        "median_ms": float(np.median(each)),
        "p95_ms": float(np.percentile(each, 95)),
    }


class DaskCluster(NamedTuple):
    """The processes of a cluster on this machine."""

    address: str  # address of the scheduler
    scheduler: subprocess.Popen[bytes]
    workers: dict[str, subprocess.Popen[bytes]]  # by address


@contextlib.contextmanager
def started_cluster(folder: Path, workers: int = 2) -> Iterator[DaskCluster]:
    """Context with a Dask cluster on loopback.

    Args:
        folder: folder for the files of its processes; created.
        workers: number of workers.
    """
    from distributed import Client  # only needed here

    folder.mkdir(parents=True)
    file, log = folder / "scheduler.json", folder / "log.txt"
    common = ["--host=127.0.0.1", f"--scheduler-file={file}", "--no-dashboard"]
    lone = ["--no-nanny", "--nthreads=1", "--memory-limit=0", f"--local-directory={folder}"]

    def start(kind: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _DASK, str(PACKAGE), f"distributed.cli.dask_{kind}", *common, *words]
        with log.open("ab") as target:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=target, stderr=target)
        started.append(process)
        return process

    until, started = time.monotonic() + CLUSTER_S, list[subprocess.Popen[bytes]]()
    try:
        scheduler = start("scheduler", "--port=0")
        while not file.exists():
            if time.monotonic() > until:
                raise TimeoutError(f"no scheduler after {CLUSTER_S:g} s: {log.read_text()[-500:]}")
            time.sleep(0.02)
        address = json.loads(file.read_text())["address"]
        named = {f"worker-{number}": start("worker", *lone, f"--name=worker-{number}") for number in range(workers)}
        with Client(address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=CLUSTER_S)
            known = client.scheduler_info(n_workers=-1)["workers"]
        yield DaskCluster(address, scheduler, {place: named[worker["name"]] for place, worker in known.items()})
    finally:
        for process in started:
            process.kill()
        for process in started:
            process.wait()


async def cluster(folder: Path, kind: str, runs: int = 20) -> dict[str, float]:
    """Measures the overhead with the VM on a local Dask worker, and for comparison with the VM on the host."""
    with started_cluster(folder / "dask") as dask:
        here = await overhead(folder / "here", kind, runs)
        there = await overhead(folder / "there", kind, runs, dask=dask.address)
    figures = {"tasks": here["tasks"]}
    for name in ("median_ms", "p95_ms"):
        figures |= {f"host_{name}": here[name], f"dask_{name}": there[name]}
    return figures


async def throughput(folder: Path, kind: str, users: int = 8, seconds: float = 10.0) -> dict[str, float]:
    """Measures the tasks per second of one host: 5 kB in each direction, almost no work, all users at once."""
    graph = wide(50, 0.1, 5e3)
    async with serving(folder, users, kind=kind, rules=Rules(most_users=users)) as (_, address):
        all_there = asyncio.Barrier(users)

        async def user(number: int) -> int:
            """Counts the runs that began and ended while all users were active."""
            async with Ue([DAGS], address, folder, f"u{number}") as equipment:
                await _offload(equipment, graph)
                await all_there.wait()
                until, count = time.monotonic() + seconds, 0
                while True:
                    right = is_right(await _offload(equipment, graph), graph)
                    assert right
                    if time.monotonic() > until:
                        return count
                    count += 1

        tasks = graph.num_tasks * sum(await asyncio.gather(*(user(number) for number in range(users))))
    return {"users": users, "tasks": tasks, "tasks_per_s": tasks / seconds}


async def growth(
    folder: Path, kind: str, tasks: int = 100_000, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Measures memory and open files of host and UE, and the VM's memory, after a tenth of the tasks and after all."""
    graph = wide(100, 0.05, 2e3)
    counts = []
    async with serving(folder, 1, kind=kind) as (host, address), Ue([DAGS], address, folder, "u0") as equipment:
        runs = max(10, tasks // graph.num_tasks)
        for number in range(runs):
            assert is_right(await _offload(equipment, graph), graph)
            progress((number + 1) * graph.num_tasks)
            if number + 1 in (runs // 10, runs):
                machine = host.machine("u0")
                assert machine is not None
                counts.append({
                    "tasks": (number + 1) * graph.num_tasks,
                    "host_and_ue_mib": _resident("self") / 2**20,
                    "vm_mib": (_here(machine).usage().memory_bytes or 0) / 2**20,
                    "open_files": len(os.listdir("/proc/self/fd")),
                    "asyncio_tasks": len(asyncio.all_tasks()),
                })  # fmt: skip
    return {"after_a_tenth": counts[0], "after_all": counts[-1]}


def _resident(process: str) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


LINK = Rates(50e6, 50e6)
SLOW_S = 0.3  # patience of a caller over a slow link


@dataclasses.dataclass
class _Ground:
    """The setting of faults: one host behind a paced link, one UE, and the affected run."""

    folder: Path
    kind: str
    host: Mec
    port: int
    link: LinkProcess
    equipment: Ue
    rng: random.Random
    running: asyncio.Task[Run] = dataclasses.field(init=False)
    is_down: bool = False  # whether the host was killed

    async def any_moment(self) -> None:
        """Waits for a random fraction of a run's time."""
        await asyncio.sleep(self.rng.uniform(0.0, 0.06))

    async def vm_at_work(self) -> None:
        """Waits until the VM has started a task, since the VM may finish long before the run."""
        while not self.running.done():
            machine = self.host.machine("u0")
            if machine is not None and machine.is_busy:
                return
            await asyncio.sleep(0.001)

    async def kill_vm(self) -> None:
        machine = self.host.machine("u0")
        assert machine is not None
        _kill(_here(machine).pid)

    async def kill_host(self) -> None:
        self.is_down = True
        await self.host.stop(0)

    async def cut_link(self) -> None:
        self.link.cut()

    async def cut_link_silently(self) -> None:
        self.link.cut(silent=True)

    async def slow_link(self) -> None:
        self.link.set_rates(Rates(LINK.uplink_bps / 10, LINK.downlink_bps / 10))

    async def kill_local_executor(self) -> None:
        if self.equipment.local is not None:
            _kill(_here(self.equipment.local).pid)

    async def nothing(self) -> None:
        """Does nothing; the fault is in the application."""

    async def mend(self) -> None:
        """Restores the link, and starts the host again if it was killed."""
        if self.is_down:
            self.host, self.is_down = _host(self.folder, self.kind), False
            await self.host.start(f"127.0.0.1:{self.port}")
        self.link.mend()
        self.link.set_rates(LINK)


class _Fault(NamedTuple):
    """One kind of fault."""

    strike: Callable[[_Ground], Awaitable[None]]
    moment: Callable[[_Ground], Awaitable[None]] = _Ground.any_moment
    patience_s: float | None = None  # patience of the caller
    stuck: bool = False  # whether one task of the application exceeds the host's time limit


FAULTS = {
    "VM killed": _Fault(_Ground.kill_vm, _Ground.vm_at_work),
    "host killed": _Fault(_Ground.kill_host),
    "link cut": _Fault(_Ground.cut_link),
    "link cut without a word": _Fault(_Ground.cut_link_silently),
    "link slowed to a tenth": _Fault(_Ground.slow_link, patience_s=SLOW_S),
    "local executor killed": _Fault(_Ground.kill_local_executor),
    "task beyond its time": _Fault(_Ground.nothing, stuck=True),
}
_TASK_S = 0.4  # the host's time limit of a task


def _host(folder: Path, kind: str) -> Mec:
    return Mec([DAGS], folder, kind=kind, rules=Rules(task_s=_TASK_S))


async def faults(
    folder: Path, kind: str, count: int = 200, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Makes runs with one fault each, at a random moment, and counts the correct results.

    The link is paced at 50 Mbit/s. Half of the applications are small, and computing dominates; in the others transfers
    dominate. If the fault comes before the start or after the end of a run, the run is repeated with another moment.
    With a slow link, the caller waits for `SLOW_S` and then continues alone.

    Returns:
        The number of injected faults, of correct results, of runs whose events report the fault (by kind), and of runs
        with tasks that did not run where planned.
    """
    certificates.make(folder, ["u0"])
    host = _host(folder, kind)
    port = await host.start()
    right, happened, elsewhere, number = 0, Counter[str](), 0, 0
    with start_process(("127.0.0.1", port), LINK) as link:
        async with Ue([DAGS], f"127.0.0.1:{link.port}", folder, "u0") as equipment:
            ground = _Ground(folder, kind, host, port, link, equipment, random.Random(0))
            try:
                while number < count:
                    name = list(FAULTS)[number % len(FAULTS)]
                    run, graph, moved = await _struck(ground, FAULTS[name])
                    if run is not None:
                        number += 1
                        right += is_right(run, graph)
                        happened[name] += bool(run.events)
                        elsewhere += moved
                    await ground.mend()
                    progress(number)
            finally:
                await ground.host.stop(0)
    return {"injected": count, "right": right, "noticed": dict(happened), "ran_elsewhere": elsewhere}


async def _struck(ground: _Ground, fault: _Fault) -> tuple[Run | None, TaskGraph, bool]:
    """Makes a run with a fault.

    Returns:
        The run (None if the fault came too late), its DAG, and whether tasks did not run where planned.
    """
    rng = ground.rng
    graph = rng.choice((wide(8, 4.0, 3e3), wide(200, 0.2, 3e3)))
    n = graph.num_tasks
    if fault.stuck:
        cycles = np.where(np.arange(n) == rng.randrange(1, n // 2), 1.5 * _TASK_S * HZ, graph.cycles)
        graph = dataclasses.replace(graph, cycles=cycles)
    placement = np.array([rng.randrange(2) for _ in range(n)])
    placement[1 : n // 2] = 1
    begun = ground.host.counts["runs"]
    ground.running = asyncio.create_task(
        ground.equipment.run(
            dags.program_of(graph, HZ), graph, placement, graph.topological_order(), channel=rng.choice(ue.RULES),
            patience_s=fault.patience_s,
        )
    )  # fmt: skip
    while ground.host.counts["runs"] == begun and not ground.running.done():
        await asyncio.sleep(0.002)
    await fault.moment(ground)
    met = not ground.running.done()
    if met:
        await fault.strike(ground)
    run = await ground.running
    return run if met else None, graph, bool((run.placement != placement).any())


def _here(machine: Machine) -> Sandbox:
    assert isinstance(machine.process, Sandbox)
    return machine.process


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


async def hostility(
    folder: Path, kind: str, messages: int = 10_000, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Sends hostile messages of one user with a certificate while the same host serves an honest user.

    The host is a separate process.

    Returns:
        The numbers of messages, of honest runs and of failures among them, and the host's memory and open files after
        each tenth.
    """
    rng, graph = random.Random(1), wide(10, 0.5, 2e3)
    begin = framed(["begin"], _order(graph))
    certificates.make(folder, ["u0", "u1"])
    sent = served = wrong = 0
    memory: list[float] = []
    files: list[int] = []

    async def attack(address: str) -> None:
        nonlocal sent
        connection = await Connection.open(address, folder, "u1")
        while sent < messages:
            call = connection.call()
            try:
                for frame in hostile(rng, begin):
                    sent += 1
                    await call.write(frame)
                await call.done_writing()
                while await asyncio.wait_for(call.read(), READ_S) is not grpc.aio.EOF:
                    pass
            except (grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError):
                pass
            finally:
                call.cancel()
            progress(min(sent, messages))
        await connection.close()

    with HostProcess([DAGS], folder, vm=kind) as host:
        address = f"127.0.0.1:{host.port}"

        def look() -> None:
            memory.append(_resident(str(host.pid)) / 2**20)
            files.append(len(os.listdir(f"/proc/{host.pid}/fd")))

        async with Ue([DAGS], address, folder, "u0") as equipment:
            for _ in range(20):
                await _offload(equipment, graph)
            attacking = asyncio.create_task(attack(address))
            while not attacking.done():
                run = await _offload(equipment, graph)
                served += 1
                wrong += not is_right(run, graph) or bool(run.events)
                if len(memory) < 9 and sent > messages * (len(memory) + 1) // 10:
                    look()
            await attacking
            await asyncio.sleep(0.2)
            look()
    return {
        "messages": sent,
        "honest_runs": served,
        "honest_runs_wrong": wrong,
        "host_mib_after_each_tenth": memory,
        "host_files_after_each_tenth": files,
    }


def _order(graph: TaskGraph) -> bytes:
    program = dags.program_of(graph, HZ)
    return Order.of(program.app, program.calls, [0], frozenset([0]), [0]).packed()


def hostile(rng: random.Random, begin: bytes) -> Sequence[bytes]:
    """Returns the frames of a run with a fault in them.

    Args:
        rng: generator that chooses the fault.
        begin: a valid first frame.
    """
    ruined = bytearray(begin)
    ruined[rng.randrange(len(ruined))] ^= 1 << rng.randrange(8)
    return rng.choice(
        [
            [rng.randbytes(rng.randrange(2000))],
            [bytes(ruined)],
            [begin[: rng.randrange(len(begin))]],
            [framed(["begin"], rng.randbytes(50))],
            [framed([rng.choice(["end", "own", "", 7, None]), *range(rng.randrange(4))])],
            [begin, rng.randbytes(40)],
            [begin, framed(["own", 0], rng.randbytes(30))],
            [begin, framed(["own", "0"])],
            [begin, framed(["result", 0])],
            [begin, framed(["done", 0, 0, 0, 0, 0, True])],
            [begin, framed(["own", -1])],
            [begin, begin],
            [],
        ]
    )
