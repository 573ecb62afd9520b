"""What an MEC host bears: throughput and overhead, growth over many tasks, injected faults, hostile messages.

Host and UEs are in this process, on loopback without a pace; VMs and local executors are processes of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.edge import certificates, dags, ue
from mrlato_jax.edge.cases import DAGS
from mrlato_jax.edge.codec import framed
from mrlato_jax.edge.link import Rates, start_process
from mrlato_jax.edge.machine import FACELESS, PACKAGE, Machine
from mrlato_jax.edge.mec import Mec
from mrlato_jax.edge.sandbox import Sandbox
from mrlato_jax.edge.traffic import Rules
from mrlato_jax.edge.ue import Connection, Run, Ue
from mrlato_jax.edge.vm import Order

HZ = 10e9
READ_S = 0.2  # that an attacker waits for an answer
CLUSTER_S = 60.0  # that a cluster may take until all its workers are there
# Runs a module of Dask. It ends with the thread that started it, however that ends.
_DASK = FACELESS + (
    "import ctypes, runpy, signal; ctypes.CDLL(None).prctl(1, signal.SIGKILL); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def chain(tasks: int, milliseconds: float, size: float) -> TaskGraph:
    """Tasks one after the other, each with so much work and so many bytes either way."""
    return TaskGraph.from_edges(
        cycles=[HZ * milliseconds / 1e3] * tasks, upload_bytes=[size] * tasks, download_bytes=[size] * tasks,
        edges=[(task, task + 1) for task in range(tasks - 1)],
    )  # fmt: skip


def wide(tasks: int, milliseconds: float, size: float) -> TaskGraph:
    """A first and a last task, and the others between them side by side."""
    edges = [(0, task) for task in range(1, tasks - 1)] + [(task, tasks - 1) for task in range(1, tasks - 1)]
    return TaskGraph.from_edges(
        cycles=[HZ * milliseconds / 1e3] * tasks, upload_bytes=[size] * tasks, download_bytes=[size] * tasks,
        edges=edges,
    )  # fmt: skip


@contextlib.asynccontextmanager
async def serving(folder: Path, users: int, **more: Any) -> AsyncIterator[tuple[Mec, str]]:
    """A host and its address; users are called u0, u1, ..."""
    certificates.make(folder, [f"u{number}" for number in range(users)])
    host = Mec([DAGS], folder, **more)
    try:
        yield host, f"127.0.0.1:{await host.start()}"
    finally:
        await host.stop(0)


def is_right(run: Run, graph: TaskGraph) -> bool:
    """Whether each result has the mark of its task and of all that it came from."""
    marks, parents = dags.marks(graph), set(graph.edges[:, 0].tolist())
    wanted = [marks[task] for task in range(graph.num_tasks) if task not in parents]
    return [result[: dags.MARK_BYTES] for result in run.returned] == wanted


async def _offload(equipment: Ue, graph: TaskGraph, **more: Any) -> Run:
    order = graph.topological_order()
    return await equipment.run(
        dags.program_of(graph, HZ), graph, np.ones(graph.num_tasks, int), order, channel="paper", **more
    )


async def overhead(folder: Path, kind: str, runs: int = 20, **more: Any) -> dict[str, float]:
    """What an offloaded task takes beyond its work, one user alone: milliseconds, with 20 kB either way on loopback.

    Args:
        folder: for the certificates.
        kind: isolation of the VM.
        runs: of twenty tasks.
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

    address: str  # of the scheduler
    scheduler: subprocess.Popen[bytes]
    workers: dict[str, subprocess.Popen[bytes]]  # by their addresses


@contextlib.contextmanager
def started_cluster(folder: Path, workers: int = 2) -> Iterator[DaskCluster]:
    """A Dask cluster on loopback, while it is entered.

    Args:
        folder: where its processes write their files; it is made.
        workers: how many.
    """
    from distributed import Client  # which no other part needs

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
    """The overhead with the VM on a worker of a Dask cluster on this machine, beside that with the VM of the host."""
    with started_cluster(folder / "dask") as dask:
        here = await overhead(folder / "here", kind, runs)
        there = await overhead(folder / "there", kind, runs, dask=dask.address)
    found = {"tasks": here["tasks"]}
    for name in ("median_ms", "p95_ms"):
        found |= {f"host_{name}": here[name], f"dask_{name}": there[name]}
    return found


async def throughput(folder: Path, kind: str, users: int = 8, seconds: float = 10.0) -> dict[str, float]:
    """Tasks a second through one host, 5 kB either way and next to no work, all users at once."""
    graph = wide(50, 0.1, 5e3)
    async with serving(folder, users, kind=kind, rules=Rules(most_users=users)) as (_, address):
        all_there = asyncio.Barrier(users)

        async def user(number: int) -> int:
            """Runs that began and ended while all users were at it."""
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
    """Memory and open files of host and UE, and the VM's memory, after a tenth of the tasks and after all."""
    graph = wide(100, 0.05, 2e3)
    found = []
    async with serving(folder, 1, kind=kind) as (host, address), Ue([DAGS], address, folder, "u0") as equipment:
        runs = max(10, tasks // graph.num_tasks)
        for number in range(runs):
            assert is_right(await _offload(equipment, graph), graph)
            progress((number + 1) * graph.num_tasks)
            if number + 1 in (runs // 10, runs):
                machine = host._users["u0"].machine
                assert machine is not None
                found.append({
                    "tasks": (number + 1) * graph.num_tasks,
                    "host_and_ue_mib": _resident("self") / 2**20,
                    "vm_mib": (_here(machine).usage().memory_bytes or 0) / 2**20,
                    "open_files": len(os.listdir("/proc/self/fd")),
                    "asyncio_tasks": len(asyncio.all_tasks()),
                })  # fmt: skip
    return {"after_a_tenth": found[0], "after_all": found[-1]}


def _resident(process: str) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _held_mib() -> float:
    """This process's memory in MiB, without what `malloc` keeps of what was given back (with glibc)."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return _resident("self") / 2**20


FAULTS = (
    "VM killed", "host killed", "link cut", "link cut without a word", "link slowed to a tenth",
    "local executor killed", "task beyond its time",
)  # fmt: skip
LINK = Rates(50e6, 50e6)
SLOW_S = 0.3  # that a caller waits over a slow link


async def faults(
    folder: Path, kind: str, count: int = 200, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Runs with a fault in each, at a random moment of its work: how many gave the right result, and what it met.

    The link is a paced one of 50 Mbit/s. Half of the applications are small and wait for their machines; in the others
    the links are busy. A fault that came before the run had begun or after its end is none: the run is done again, with
    another moment. Where the link is slow, the caller waits for `SLOW_S` and then goes on alone.

    Returns:
        Faults that met a run, right results among them, runs that said so in their events by kind, and runs of which
        tasks ran elsewhere than planned.
    """
    rng, graphs = random.Random(0), (wide(8, 4.0, 3e3), wide(200, 0.2, 3e3))
    certificates.make(folder, ["u0"])
    rules = Rules(task_s=0.4)
    host = Mec([DAGS], folder, kind=kind, rules=rules)
    right, happened, elsewhere = 0, Counter[str](), 0
    try:
        port = await host.start()
        with start_process(("127.0.0.1", port), LINK) as link:
            async with Ue([DAGS], f"127.0.0.1:{link.port}", folder, "u0") as equipment:
                number = 0
                while number < count:
                    fault, graph = FAULTS[number % len(FAULTS)], rng.choice(graphs)
                    n = graph.num_tasks
                    if fault == "task beyond its time":
                        cycles = np.where(np.arange(n) == rng.randrange(1, n // 2), HZ * 0.6, graph.cycles)
                        graph = dataclasses.replace(graph, cycles=cycles)
                    placement = np.array([rng.randrange(2) for _ in range(n)])
                    placement[1 : n // 2] = 1
                    program, order = dags.program_of(graph, HZ), graph.topological_order()
                    begun = host.counts["runs"]
                    patience_s = SLOW_S if fault == "link slowed to a tenth" else None
                    running = asyncio.create_task(
                        equipment.run(
                            program, graph, placement, order, channel=rng.choice(ue.RULES), patience_s=patience_s
                        )
                    )
                    while host.counts["runs"] == begun and not running.done():
                        await asyncio.sleep(0.002)
                    await asyncio.sleep(rng.uniform(0.0, 0.06) if fault != "VM killed" else 0.0)
                    machine = None
                    while fault == "VM killed" and not running.done():  # its part may be over long before the run is
                        machine = host._users["u0"].machine
                        if machine is not None and not machine.lost and machine._running:
                            break
                        await asyncio.sleep(0.001)
                    met = not running.done()
                    if fault == "VM killed" and machine is not None:
                        _kill(_here(machine).pid)
                    elif fault == "host killed":
                        await host.stop(0)
                    elif fault.startswith("link cut"):
                        link.cut(silent=fault != "link cut")
                    elif fault == "link slowed to a tenth":
                        link.set_rates(Rates(LINK.uplink_bps / 10, LINK.downlink_bps / 10))
                    elif fault == "local executor killed" and equipment.local is not None:
                        _kill(_here(equipment.local).pid)
                    found = await running
                    if met:
                        number += 1
                        right += is_right(found, graph)
                        happened[fault] += bool(found.events)
                        elsewhere += bool((found.placement != placement).any())
                    if fault == "host killed":
                        host = Mec([DAGS], folder, kind=kind, rules=rules)
                        await host.start(f"127.0.0.1:{port}")
                    link.mend()
                    link.set_rates(LINK)
                    progress(number)
    finally:
        await host.stop(0)
    return {"injected": count, "right": right, "noticed": dict(happened), "ran_elsewhere": elsewhere}


def _here(machine: Machine) -> Sandbox:
    assert isinstance(machine.process, Sandbox)
    return machine.process


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


async def hostility(
    folder: Path, kind: str, messages: int = 10_000, progress: Callable[[int], None] = lambda done: None
) -> dict[str, Any]:
    """Hostile messages of a user with a certificate, while another is served; then memory beside that before."""
    rng, graph = random.Random(1), wide(10, 0.5, 2e3)
    begin = framed(["begin"], _order(graph))
    async with serving(folder, 2, kind=kind) as (host, address), Ue([DAGS], address, folder, "u0") as equipment:
        sent = served = wrong = 0
        memory: list[float] = []  # after each tenth of the messages

        async def attack() -> None:
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

        for _ in range(20):
            await _offload(equipment, graph)
        attacking = asyncio.create_task(attack())
        while not attacking.done():
            run = await _offload(equipment, graph)
            served += 1
            wrong += not is_right(run, graph) or bool(run.events)
            if len(memory) < 9 and sent > messages * (len(memory) + 1) // 10:
                memory.append(_held_mib())
        await attacking
        await asyncio.sleep(0.2)
        memory.append(_held_mib())
        left = sum(len(user.machine._runs) for user in host._users.values() if user.machine)
        return {
            "messages": sent,
            "honest_runs": served,
            "honest_runs_wrong": wrong,
            "runs_left": left,
            "mib_after_each_tenth": memory,
        }


def _order(graph: TaskGraph) -> bytes:
    program = dags.program_of(graph, HZ)
    return Order.of(program.app, program.calls, [0], frozenset([0]), [0]).packed()


def hostile(rng: random.Random, begin: bytes) -> Sequence[bytes]:
    """The frames of a run, of which something is wrong.

    Args:
        rng: that chooses it.
        begin: a right first frame.
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
