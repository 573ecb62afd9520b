"""VMs on the workers of a Dask cluster: a real scheduler and real workers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributed
import numpy as np
import psutil
import pytest
from distributed.protocol import pickle as dask_pickle

import mrlato_jax as mj
from mrlato_jax.edge import certificates, cluster, command, sandbox, stress
from mrlato_jax.edge.cases import DAGS
from mrlato_jax.edge.cluster import VmOnWorker
from mrlato_jax.edge.machine import FACELESS, PACKAGE
from mrlato_jax.edge.mec import Mec
from mrlato_jax.edge.sandbox import Quota
from mrlato_jax.edge.stress import DaskCluster, is_right, started_cluster, wide
from mrlato_jax.edge.ue import Run, Ue
from mrlato_jax.errors import InputError

LIMIT_S = 60.0  # of one test
APPS = [DAGS, str(Path(__file__).with_name("sums.py"))]
MIXED = [0, 1, 1, 0, 1, 0, 1, 1]
KINDS = [
    "process",
    pytest.param("bubblewrap", marks=pytest.mark.skipif(bool(sandbox.lacks()), reason=sandbox.lacks())),
]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    certificates.make(folder, ["alice", "bob"])
    return folder


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    with started_cluster(tmp_path_factory.mktemp("dask") / "dask") as started:
        yield started


def worker_of(host: Mec, user: str) -> str:
    machine = host.machine(user)
    assert machine is not None
    assert isinstance(machine.process, VmOnWorker)
    return machine.process.worker


async def when_offloading(host: Mec, user: str = "alice") -> None:
    """Waits until the user's VM is in the middle of a task."""
    machine = None
    while machine is None or machine.lost or not machine._runs:
        await asyncio.sleep(0.005)
        machine = host.machine(user)
    await asyncio.sleep(0.1)


def programs(dask: DaskCluster) -> list[psutil.Process]:
    """The VMs' first processes, as the workers have started them."""
    return [child for process in dask.workers.values() for child in psutil.Process(process.pid).children()]


async def run(equipment: Ue, graph: mj.TaskGraph, placement: list[int]) -> Run:
    program = stress.dags.program_of(graph, stress.HZ)
    return await equipment.run(program, graph, np.array(placement), graph.topological_order())


def go(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, LIMIT_S))


@contextlib.asynccontextmanager
async def serving(keys: Path, dask: str, **more: Any) -> AsyncIterator[tuple[Mec, str]]:
    host = Mec(APPS, keys, dask=dask, **{"kind": "process", **more})
    try:
        yield host, f"127.0.0.1:{await host.start()}"
    finally:
        await host.stop(0)


@pytest.mark.parametrize("kind", KINDS)
def test_vms_spread_over_the_workers_and_give_right_results(kind: str, keys: Path, dask: DaskCluster) -> None:
    graph = wide(8, 4.0, 3e3)

    async def work() -> None:
        async with (
            serving(keys, dask.address, kind=kind) as (host, address),
            Ue(APPS, address, keys, "alice") as alice,
            Ue(APPS, address, keys, "bob") as bob,
        ):
            for placement in (MIXED, [1] * 8):
                for equipment in (alice, bob):
                    found = await run(equipment, graph, placement)
                    assert is_right(found, graph)
                    assert found.events == ()
                    assert found.placement.tolist() == placement
            assert {worker_of(host, "alice"), worker_of(host, "bob")} == set(dask.workers)
            assert len(programs(dask)) == 2
        assert programs(dask) == []
        assert host.counts["lost"] == 0

    go(work())


def test_large_messages_arrive_whole(keys: Path, dask: DaskCluster) -> None:
    graph = wide(5, 0.1, 9e6)

    async def work() -> None:
        async with serving(keys, dask.address) as (_, address), Ue(APPS, address, keys, "alice") as equipment:
            found = await run(equipment, graph, [1] * 5)
            assert is_right(found, graph)
            assert [len(result) for result in found.returned] == [9_000_000]
            assert found.events == ()

    go(work())


@pytest.mark.slow
def test_a_vm_that_ends_and_a_worker_without_answer_are_replaced(
    keys: Path, dask: DaskCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "POLL_S", 0.1)
    monkeypatch.setattr(cluster, "ANSWER_S", 0.6)
    graph = wide(6, 40.0, 3e3)

    async def work() -> None:
        async with serving(keys, dask.address) as (host, address), Ue(APPS, address, keys, "alice") as equipment:
            running = asyncio.create_task(run(equipment, graph, [1] * 6))
            await when_offloading(host)
            (program,) = programs(dask)
            os.kill(program.pid, signal.SIGKILL)
            found = await running
            assert is_right(found, graph)
            assert [text for _, text in found.events] == ["VM: machine ended (signal 9)"]
            running = asyncio.create_task(run(equipment, graph, [1] * 6))
            await when_offloading(host)
            first = worker_of(host, "alice")
            dask.workers[first].send_signal(signal.SIGSTOP)
            try:
                found = await running
            finally:
                dask.workers[first].send_signal(signal.SIGCONT)
            assert is_right(found, graph)
            assert found.events[0][1].startswith("VM: machine ended")  # a worker may end its VM before it goes
        while programs(dask):  # the worker hears that the VM is not wanted any more
            await asyncio.sleep(0.05)

    go(work())


def test_a_vm_without_its_host_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "LEASE_S", 0.6)
    monkeypatch.setattr(cluster, "LOOK_S", 0.05)
    monkeypatch.setattr(cluster.distributed, "get_worker", lambda: SimpleNamespace(address="here"))

    async def work() -> None:
        vm = cluster.Vm()
        assert await vm.start([DAGS], "process", dataclasses.asdict(Quota()), 1.0, False, []) == "here"
        for _ in range(4):
            await asyncio.sleep(0.2)
            await vm.read(0, 0.0)
        assert vm._program is not None
        assert vm._program._process.returncode is None
        assert await asyncio.wait_for(vm._program.wait(), 10.0) == -signal.SIGKILL

    go(work())


@pytest.mark.parametrize(
    ("apps", "more", "phrase"),
    [
        (["no.such.module"], {}, "apps are .*, which a machine of kind process does not load .*no.such.module"),
        (["/no/such/file.py"], {}, "readable has '/no/such/file.py'"),
        ([DAGS], {"core": 0}, "core is 0, and VMs run on the workers of .*; accepted: None"),
        ([DAGS], {"kind": "wishes"}, "vm is 'wishes'"),
    ],
)
def test_what_no_worker_can_have_is_refused(
    apps: list[str], more: dict[str, Any], phrase: str, keys: Path, dask: DaskCluster
) -> None:
    async def work() -> None:
        with pytest.raises(InputError, match=phrase):
            await Mec(apps, keys, dask=dask.address, **{"kind": "process", **more}).start()
        assert programs(dask) == []

    go(work())


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "", "nonsense", "gopher://127.0.0.1:1", "tcp://:0", "a b"])
def test_an_address_without_a_scheduler_is_refused(
    address: str, keys: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 0.3)
    words = [
        "serve",
        f"--credentials={keys}",
        f"--app={DAGS}",
        "--vm=process",
        "--listen=127.0.0.1:0",
        f"--dask={address}",
    ]
    assert command.mec(words) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"error: dask is .*; accepted: the address of a scheduler .*\n", said), said


def test_a_cluster_without_workers_is_refused(keys: Path) -> None:
    async def work() -> None:
        async with distributed.Scheduler(host="127.0.0.1", port=0, dashboard_address="127.0.0.1:0") as scheduler:
            with pytest.raises(InputError, match=r"dask is 'tcp://.*', a cluster without workers; accepted: "):
                await Mec(APPS, keys, kind="process", dask=scheduler.address).start()

    go(work())


def test_what_crosses_is_not_pickled(keys: Path, dask: DaskCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results come to the host, and orders go to the VM, in none of the messages that Dask pickles or unpickles."""
    pickled: list[bytes] = []
    dumps, loads = dask_pickle.dumps, dask_pickle.loads

    def spied_dumps(value: Any, **more: Any) -> bytes:
        data: bytes = dumps(value, **more)
        pickled.append(data)
        return data

    def spied_loads(data: Any, **more: Any) -> Any:
        pickled.append(bytes(data))
        return loads(data, **more)

    monkeypatch.setattr(dask_pickle, "dumps", spied_dumps)
    monkeypatch.setattr(dask_pickle, "loads", spied_loads)
    graph = wide(8, 4.0, 3e3)

    async def work() -> None:
        async with serving(keys, dask.address) as (_, address), Ue(APPS, address, keys, "alice") as alice:
            found = await run(alice, graph, [1] * 8)
            assert is_right(found, graph)

    go(work())
    marks = stress.dags.marks(graph)
    assert pickled  # how the actor is made and called
    assert not [data for data in pickled if any(mark in data for mark in marks)]


def test_a_host_without_a_cluster_does_not_load_dask() -> None:
    program = FACELESS + "import mrlato_jax.edge.mec; print('distributed' in sys.modules)"
    words = [sys.executable, "-c", program, str(PACKAGE)]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "False\n"


def test_what_a_lost_worker_and_a_lost_scheduler_had_is_done_again(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_S", 0.2)
    graph = wide(8, 30.0, 3e3)

    async def work(dask: DaskCluster) -> None:
        async with serving(keys, dask.address) as (host, place), Ue(APPS, place, keys, "alice") as equipment:
            running = asyncio.create_task(run(equipment, graph, [1] * 8))
            await when_offloading(host)
            first = worker_of(host, "alice")
            dask.workers[first].kill()
            found = await running
            assert is_right(found, graph)
            assert [text for _, text in found.events] == ["VM: machine ended (worker lost)"]
            assert found.placement.tolist() == [1] * 8
            assert {first, worker_of(host, "alice")} == set(dask.workers)
            running = asyncio.create_task(run(equipment, graph, [1] * 8))
            await when_offloading(host)
            dask.scheduler.kill()
            found = await running
            assert is_right(found, graph)
            assert found.events[0][1].startswith("VM: machine ended")  # a worker may end its VM before it goes
            assert found.events[1][1] == "VM: no VM starts"  # the user hears no address of the cluster
            assert 0 in found.placement

    with started_cluster(tmp_path / "dask") as started:
        go(work(started))
