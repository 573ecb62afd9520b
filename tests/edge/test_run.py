"""Runs through real processes on loopback: right results, measured schedules, and what becomes of failures."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, ClassVar

import grpc
import numpy as np
import pytest
from helpers import quickly
from tiny_run import wait_until_gone

import mrlato_jax as mj
from mrlato_jax.edge import certificates, dags, mec, ue
from mrlato_jax.edge.calibrate import calibrate, took
from mrlato_jax.edge.cases import case
from mrlato_jax.edge.codec import framed, packed, unframed
from mrlato_jax.edge.installed import load
from mrlato_jax.edge.link import Rates, start_process
from mrlato_jax.edge.machine import Machine, local_executor
from mrlato_jax.edge.mec import Mec
from mrlato_jax.edge.sandbox import lacks
from mrlato_jax.edge.stress import hostile
from mrlato_jax.edge.traffic import Rules
from mrlato_jax.edge.ue import Connection, Run, ServerLostError, TaskFailedError, Ue
from mrlato_jax.edge.vm import Order
from mrlato_jax.errors import InputError
from mrlato_jax.mec.transfers import movements

MACHINE_HZ = 10e9
APPS = ["mrlato_jax.edge.dags:app", *(str(Path(__file__).with_name(name)) for name in ("sums.py", "room.py"))]
ALL_LOCAL, MIXED, ALL_OFFLOAD = [0] * 6, [0, 1, 1, 0, 1, 0], [1] * 6
LIMIT_S = 60.0  # of one test
HOSTILE_RUNS = 150


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    certificates.make(folder, ["alice", "bob", "eve"])
    return folder


def graph(milliseconds: float = 4.0) -> mj.TaskGraph:
    """0 -> (1, 2) -> 3 -> 4, and 5 alone; a task takes so long on the VM."""
    return mj.TaskGraph.from_edges(
        cycles=[MACHINE_HZ * milliseconds / 1e3] * 6, upload_bytes=[3e3, 4e3, 5e3, 6e3, 7e3, 8e3],
        download_bytes=[8e3, 7e3, 6e3, 5e3, 4e3, 3e3], edges=[(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)],
    )  # fmt: skip


class Host(Mec):
    """One that ends with its test, however that ends: gRPC waits for ever for a host whose event loop is gone."""

    started: ClassVar[list[Mec]] = []

    async def start(self, address: str = "127.0.0.1:0") -> int:
        self.started.append(self)
        return await super().start(address)


def go(work: Coroutine[Any, Any, Any]) -> None:
    async def whole() -> None:
        try:
            await asyncio.wait_for(work, LIMIT_S)
        finally:
            while Host.started:
                await Host.started.pop().stop(0)

    asyncio.run(whole())


async def run(equipment: Ue, dag: mj.TaskGraph, placement: list[int], channel: str = "paper", **more: Any) -> Run:
    program = dags.program_of(dag, MACHINE_HZ)
    order = mj.priority_order(dag, mj.System(channel=channel))
    return await equipment.run(program, dag, np.array(placement), order, channel=channel, **more)


def check_result(found: Run, dag: mj.TaskGraph) -> None:
    """The marks at the beginning of each result are those of its task and of all that it came from."""
    last = sorted(set(range(dag.num_tasks)) - set(dag.edges[:, 0].tolist()))
    marks = dags.marks(dag)
    assert [result[: dags.MARK_BYTES] for result in found.returned] == [marks[task] for task in last]
    assert [len(result) for result in found.returned] == [round(dag.download_bytes[task]) for task in last]


def check_schedule(found: Run, dag: mj.TaskGraph) -> None:
    """Each resource does one thing at a time, in scheduling order, and nothing before its inputs are there."""
    place = {task: position for position, task in enumerate(found.order.tolist())}
    for resource in ue.RESOURCES:
        spans = [span for span in found.spans if span.resource == resource]
        assert [place[span.needed_by] for span in spans] == sorted(place[span.needed_by] for span in spans)
        assert all(a.end <= b.start + 1e-6 for a, b in itertools.pairwise(spans))
        assert all(span.start <= span.end for span in spans)
    computed = {span.task: span for span in found.spans if span.resource in ("UE", "VM")}
    assert sorted(computed) == list(range(dag.num_tasks))
    for parent, child in dag.edges.tolist():
        assert computed[parent].end <= computed[child].start + 1e-6
    assert found.placement.tolist() == [int(computed[task].resource == "VM") for task in range(dag.num_tasks)]
    measured, local = found.measured, found.placement == 0
    assert (measured.ue_end > 0).tolist() == local.tolist()
    assert (measured.vm_end > 0).tolist() == (~local).tolist()
    assert found.makespan == max(span.end for span in found.spans if span.resource in ("UE", "downlink"))


@pytest.mark.parametrize("channel", ue.RULES)
def test_any_placement_gives_the_right_result_and_a_schedule(channel: str, keys: Path) -> None:
    async def work() -> None:
        host = Host(APPS, keys, kind="process")
        address = f"127.0.0.1:{await host.start()}"
        async with Ue(APPS, address, keys, "alice") as equipment:
            for placement in (ALL_LOCAL, MIXED, ALL_OFFLOAD):
                found = await run(equipment, graph(), placement, channel)
                check_result(found, graph())
                check_schedule(found, graph())
                assert found.events == ()
                assert found.placement.tolist() == placement
                moved = movements(graph(), channel == "resident", placement, found.order.tolist())
                links = [span for span in found.spans if span.resource.endswith("link")]
                assert sorted((span.task, span.needed_by) for span in links) == sorted(move[:2] for move in moved)
                assert {entry.resource for entry in took(found, graph())} == {span.resource for span in found.spans}
        assert host.counts["runs"] == 2
        assert host.counts["tasks"] == 3 + 6

    go(work())


def test_what_is_measured_is_what_the_model_says_and_closer_once_calibrated(keys: Path) -> None:
    """On a paced link of 2 Mbit/s, with a UE of a quarter of the clock, to a period of its quota."""
    dag = graph(8.0)
    system = mj.System(ue_hz=MACHINE_HZ / 4, vm_hz=MACHINE_HZ, uplink_bps=2e6, downlink_bps=2e6)

    def model(one: Run) -> float:
        return mj.simulate(dag, system, one.placement, order=one.order).makespan

    async def work() -> None:
        host = Host(APPS, keys, kind="process")
        port = await host.start()
        with start_process(("127.0.0.1", port), Rates(2e6, 2e6)) as link:
            async with Ue(APPS, f"127.0.0.1:{link.port}", keys, "alice", share=0.25) as equipment:
                for _ in range(8):  # until the machine leaves some runs alone
                    found = [await run(equipment, dag, placement) for placement in (MIXED, ALL_OFFLOAD, ALL_LOCAL) * 3]
                    ratios = [one.makespan / model(one) for one in found]
                    known = calibrate(found, dag, system)
                    if min(ratios) < 1.15 and known.system.ue_hz < 0.7 * known.system.vm_hz:
                        break
        await host.stop()
        assert 0.9 < min(ratios) < 1.15
        assert known.runs == 9
        assert known.system.uplink_bps == pytest.approx(2e6, rel=0.1)
        assert known.system.downlink_bps == pytest.approx(2e6, rel=0.1)
        assert 0.1 < known.system.ue_hz / known.system.vm_hz < 0.7  # the VM shares its core with whatever else runs
        spans = [mj.simulate(known.graph, known.system, one.placement, order=one.order).makespan for one in found]
        off = [abs(one.makespan / span - 1) for one, span in zip(found, spans, strict=True)]
        assert np.percentile(off, 25) < 0.1  # a busy machine holds some runs up

    go(work())


def test_functions_get_their_arguments_and_the_caller_what_they_return(keys: Path) -> None:
    chosen = case(f"{APPS[1]}:app", mj.System(), {"first": 3, "second": [1.0, 2.0]})
    everywhere = {"ue": [0], "server": [1], "any": [0, 1]}

    async def work() -> None:
        host = Host(APPS, keys, kind="process")
        address = f"127.0.0.1:{await host.start()}"
        async with Ue(APPS, address, keys, "alice") as equipment:
            for channel in ue.RULES:
                for side in (0, -1):
                    placement = np.array([everywhere[pin][side] for pin in chosen.graph.pins])
                    order = mj.priority_order(chosen.graph, mj.System(channel=channel))
                    found = await equipment.run(
                        chosen.program, chosen.graph, placement, order, chosen.arguments, channel=channel
                    )
                    assert found.returned == [24.0, [3.0, 6.0]]
                    assert found.events == ()
            with pytest.raises(InputError, match=r"arguments are \['first'\]; accepted: \['first', 'second'\]"):
                await equipment.run(chosen.program, chosen.graph, placement, order, {"first": 1})
            with pytest.raises(TaskFailedError, match="times: TypeError"):
                await equipment.run(chosen.program, chosen.graph, placement, order, {"first": None, "second": [1.0]})
            found = await equipment.run(chosen.program, chosen.graph, placement, order, chosen.arguments)
            assert found.returned == [24.0, [3.0, 6.0]]

    go(work())


async def _when_offloading(host: Mec, user: str, task_s: float = 0.05) -> int:
    """The process of the user's VM, once it is in the middle of a task."""
    while host.machine(user) is None or not host.counts["runs"]:
        await asyncio.sleep(0.005)
    await asyncio.sleep(task_s)
    machine = host.machine(user)
    assert machine is not None
    return machine.process.pid


@pytest.mark.parametrize("channel", quickly(ue.RULES, "resident"))
def test_a_vm_that_is_killed_is_replaced_and_the_rest_is_done_again(channel: str, keys: Path) -> None:
    async def work() -> None:
        host = Host(APPS, keys, kind="process")
        address = f"127.0.0.1:{await host.start()}"
        async with Ue(APPS, address, keys, "alice") as equipment:
            await run(equipment, graph(), ALL_OFFLOAD, channel)
            running = asyncio.create_task(run(equipment, graph(40.0), ALL_OFFLOAD, channel))
            os.killpg(await _when_offloading(host, "alice", 0.1), signal.SIGKILL)
            found = await running
            check_result(found, graph())
            assert len(found.events) == 1
            assert "VM: machine ended" in found.events[0][1]
            assert found.placement.tolist() == ALL_OFFLOAD
            again = await run(equipment, graph(), ALL_OFFLOAD, channel)
            assert again.events == ()
        assert host.counts["lost"] == 1

    go(work())


def test_without_a_host_the_rest_runs_at_the_ue(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ue, "CONNECT_S", 0.3)

    async def work() -> None:
        host = Host(APPS, keys, kind="process")
        address = f"127.0.0.1:{await host.start()}"
        said: list[str] = []
        async with Ue(APPS, address, keys, "alice", say=said.append) as equipment:
            running = asyncio.create_task(run(equipment, graph(40.0), ALL_OFFLOAD))
            await _when_offloading(host, "alice", 0.1)
            await host.stop(0)
            found = await running
            check_result(found, graph())
            assert found.events
            assert said
            assert 0 in found.placement
            check_result(await run(equipment, graph(), ALL_OFFLOAD), graph())
        async with Ue(APPS, address, keys, "alice") as equipment:  # and nobody was there from the beginning
            found = await run(equipment, graph(), MIXED)
            check_result(found, graph())
            assert found.placement.tolist() == ALL_LOCAL
        async with Ue(APPS) as equipment:
            check_result(await run(equipment, graph(), ALL_LOCAL), graph())

    go(work())


def test_a_certificate_that_is_gone_when_it_is_needed_again_does_not_cost_the_result(tmp_path: Path) -> None:
    certificates.make(tmp_path, ["alice"])

    async def work() -> None:
        host = Host(APPS, tmp_path, kind="process")
        async with Ue(APPS, f"127.0.0.1:{await host.start()}", tmp_path, "alice") as equipment:
            running = asyncio.create_task(run(equipment, graph(40.0), ALL_OFFLOAD))
            await _when_offloading(host, "alice", 0.1)
            (tmp_path / "users" / "alice.pem").unlink()
            await host.stop(0)
            found = await running
            check_result(found, graph())
            assert any("alice.pem" in text for _, text in found.events)
        with pytest.raises(InputError, match=r"alice\.pem"):
            await Ue(APPS, "127.0.0.1:1", tmp_path, "alice").__aenter__()

    go(work())


def test_what_only_a_server_may_run_waits_for_one_and_then_says_so(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ue, "CONNECT_S", 0.2)
    monkeypatch.setattr(ue, "GIVE_UP_S", 1.0)
    chosen = case(f"{APPS[1]}:app", mj.System(), {"first": 3, "second": [1.0, 2.0]})
    placement = np.array([int(pin == "server") for pin in chosen.graph.pins])
    order = mj.priority_order(chosen.graph, mj.System())

    async def work() -> None:
        host = Host(APPS, keys, kind="process")
        port = await host.start()
        await host.stop()
        async with Ue(APPS) as equipment:
            with pytest.raises(InputError, match="mec is None, and add runs at a server only; accepted"):
                await equipment.run(chosen.program, chosen.graph, placement, order, chosen.arguments)
        async with Ue(APPS, f"127.0.0.1:{port}", keys, "alice") as equipment:
            with pytest.raises(ServerLostError, match="add runs at a server only: "):
                await equipment.run(chosen.program, chosen.graph, placement, order, chosen.arguments)
            running = asyncio.create_task(
                equipment.run(chosen.program, chosen.graph, placement, order, chosen.arguments)
            )
            await asyncio.sleep(0.3)
            again = Host(APPS, keys, kind="process")
            await again.start(f"127.0.0.1:{port}")
            found = await running
            assert found.returned == [24.0, [3.0, 6.0]]

    go(work())


def test_a_run_that_ends_leaves_the_others_of_its_machine_alone() -> None:
    """Also where the machine is in the middle of a task, and takes no message."""

    async def work() -> None:
        machine = await local_executor(APPS[:1], 1.0)
        try:
            program = dags.program_of(graph(1000.0), MACHINE_HZ)
            order = Order.of("dag", program.calls, [0], frozenset(), [0]).packed()
            stays, ends = machine.open(), machine.open()
            begun = time.monotonic()
            await stays.send("begin", body=order)
            await ends.send("begin", body=order)
            sending = asyncio.create_task(stays.send("result", 1, body=bytes(3 * 2**20)))  # more than a pipe holds
            await asyncio.sleep(0.2)
            await ends.close()
            # The message waits for the task to end; a busy machine may come here after that.
            assert not sending.done() or time.monotonic() - begun > 0.9
            kinds = [header[0] async for header, _ in stays.messages()]
            assert kinds == ["done", "finished"]
            await sending
        finally:
            await machine.stop()

    go(work())


def test_a_lost_local_executor_and_a_task_beyond_its_time(keys: Path) -> None:
    async def work() -> None:
        host = Host(APPS, keys, kind="process", rules=Rules(task_s=0.6))
        address = f"127.0.0.1:{await host.start()}"
        async with Ue(APPS, address, keys, "alice") as equipment:
            running = asyncio.create_task(run(equipment, graph(60.0), ALL_LOCAL))
            while equipment.local is None:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.1)
            os.killpg(equipment.local.process.pid, signal.SIGKILL)
            found = await running
            check_result(found, graph())
            assert len(found.events) == 1
            lengthy = dataclasses.replace(graph(), cycles=np.array([0.8, *[0.004] * 5]) * MACHINE_HZ)
            found = await run(equipment, lengthy, ALL_OFFLOAD[:1] + ALL_LOCAL[1:])
            check_result(found, graph())
            assert "a task took longer than 0.6 s" in found.events[0][1]
            assert found.placement.tolist() == ALL_LOCAL

    go(work())


@pytest.mark.parametrize(
    ("kind", "mebibytes", "site"),
    [
        ("process", 1, 1),  # full once, in a folder of the test
        pytest.param("bubblewrap", 40, 0, marks=pytest.mark.skipif(bool(lacks()), reason=lacks())),
    ],
)
def test_a_task_without_room_runs_elsewhere(kind: str, mebibytes: int, site: int, keys: Path, tmp_path: Path) -> None:
    """A VM has a quarter of its memory as storage; what does not fit runs at the UE."""
    arguments = {"folder": str(tmp_path) if kind == "process" else "", "mebibytes": mebibytes}
    program = load(APPS[2]).program
    dag = mj.TaskGraph.from_edges(
        cycles=[0, 0, 1e6], upload_bytes=[0, 0, 100], download_bytes=[100, 10, 10], edges=[(0, 2), (1, 2)],
        pins=("ue", "ue", "any"),
    )  # fmt: skip

    async def work() -> None:
        host = Host(APPS, keys, kind=kind, rules=Rules(memory_bytes=2**27), readable=[Path(APPS[1]).parent])
        address = f"127.0.0.1:{await host.start()}"
        async with Ue(APPS, address, keys, "alice") as equipment:
            found = await equipment.run(program, dag, np.array([0, 0, 1]), np.arange(3), arguments)
        assert found.returned == mebibytes * 2**20
        assert found.placement.tolist() == [0, 0, site]
        assert len(found.events) == (ue.MOST_TRIES if site == 0 else 1)
        assert all("machine is exhausted (OSError: [Errno 28]" in text for _, text in found.events)

    go(work())


def test_a_device_that_is_killed_leaves_nothing_and_comes_back(keys: Path) -> None:
    """Its local executor ends with it, the host forgets its run, its VM serves the same user's next process."""
    program = "import sys\nfrom mrlato_jax.edge.command import ue\nsys.exit(ue(sys.argv[1:]))\n"

    async def start(address: str, runs: int) -> asyncio.subprocess.Process:
        words = ["run", "--app=exp2:n10:0", "--mode=heft", "--ue_ghz=5", f"--mec={address}", f"--runs={runs}"]
        words += [f"--credentials={keys}", "--user=alice", "--json=-"]
        return await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )

    async def work() -> None:
        host = Host(APPS, keys, kind="process")
        address = f"127.0.0.1:{await host.start()}"
        killed = await start(address, 100_000)
        vm = await _when_offloading(host, "alice")
        while host.counts["runs"] < 3:
            await asyncio.sleep(0.005)
        below = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
        assert below
        killed.kill()
        await killed.wait()
        machine = host.machine("alice")
        while machine is not None and machine._runs:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(wait_until_gone, [int(pid) for pid in below], 10.0)
        again = await start(address, 1)
        said, _ = await again.communicate()
        assert again.returncode == 0
        (row,) = json.loads(said.decode().splitlines()[-1])["runs"]
        assert row["measured_s"] > 0
        machine = host.machine("alice")
        assert machine is not None
        assert machine.process.pid == vm

    go(work())


def test_a_link_that_is_cut_or_slow_does_not_keep_the_result(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ue, "CONNECT_S", 0.3)

    async def work() -> None:
        host = Host(APPS, keys, kind="process")
        port = await host.start()
        with start_process(("127.0.0.1", port), Rates(4e6, 4e6)) as link:
            async with Ue(APPS, f"127.0.0.1:{link.port}", keys, "alice") as equipment:
                running = asyncio.create_task(run(equipment, graph(40.0), ALL_OFFLOAD))
                await _when_offloading(host, "alice", 0.1)
                link.cut()
                found = await running
                check_result(found, graph())
                assert found.events
                link.mend()
                check_result(await run(equipment, graph(), ALL_OFFLOAD), graph())  # connects again
                link.set_rates(Rates(2e4, 2e4))
                found = await run(equipment, graph(), ALL_OFFLOAD, patience_s=1.0)
                check_result(found, graph())
                assert "not done after 1.0 s" in found.events[0][1]

    go(work())


def test_patience_counts_from_the_call_and_leaves_other_runs_alone(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        host = Host(APPS, keys, kind="process")
        address = f"127.0.0.1:{await host.start()}"
        async with Ue(APPS, address, keys, "alice") as equipment:
            calm = asyncio.create_task(run(equipment, graph(100.0), ALL_OFFLOAD))
            await _when_offloading(host, "alice")
            hasty = await run(equipment, graph(), ALL_OFFLOAD, patience_s=0.2)  # behind the other on their one VM
            check_result(hasty, graph())
            assert re.search("not (begun|done) after 0.2 s", hasty.events[0][1])  # begun, unless the machine is busy
            found = await calm
            check_result(found, graph())
            assert found.events == ()

            async def slow(name: str) -> Machine:
                await asyncio.sleep(30.0)
                raise AssertionError(name)

            monkeypatch.setattr(host, "_machine_of", slow)
            began = time.monotonic()
            hasty = await run(equipment, graph(), ALL_OFFLOAD, patience_s=0.3)
            assert time.monotonic() - began < 10.0
            check_result(hasty, graph())
            assert "not begun after 0.3 s" in hasty.events[0][1]

    go(work())


def test_a_link_that_is_cut_without_a_word_is_noticed(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the connection's own questions, although both ends wait for a long task and send nothing."""
    sooner = [(name, ms // 4) for name, ms in mec.KEEPALIVE]
    for module in (mec, ue):
        monkeypatch.setattr(module, "KEEPALIVE", sooner)

    async def work() -> None:
        host = Host(APPS, keys, kind="process")
        port = await host.start()
        with start_process(("127.0.0.1", port), Rates(4e6, 4e6)) as link:
            async with Ue(APPS, f"127.0.0.1:{link.port}", keys, "alice") as equipment:
                lengthy = dataclasses.replace(graph(), cycles=np.array([30.0, 1, 1, 1, 1, 1]) * MACHINE_HZ)
                running = asyncio.create_task(
                    run(equipment, lengthy, [1, 0, 0, 0, 0, 0], patience_s=25.0)  # else task 0 would run for 30 s
                )
                await _when_offloading(host, "alice", 0.5)
                link.cut(silent=True)
                begin = time.monotonic()
                while equipment.server is not None and time.monotonic() - begin < 20:
                    await asyncio.sleep(0.05)
                assert time.monotonic() - begin < 4
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    go(work())


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_host_that_goes_while_the_uplink_is_busy(times: int, keys: Path) -> None:
    many = 200
    dag = mj.TaskGraph.from_edges(
        cycles=[MACHINE_HZ * 1e-4] * many, upload_bytes=[2e3] * many, download_bytes=[1e3] * many, edges=[(0, 1)]
    )
    rng = random.Random(5)

    async def work() -> None:
        host = Host(APPS, keys, kind="process")
        address = f"127.0.0.1:{await host.start()}"
        async with Ue(APPS, address, keys, "alice") as equipment:
            for _ in range(times):
                running = asyncio.create_task(run(equipment, dag, [1] * many))
                await asyncio.sleep(rng.uniform(0.01, 0.05))
                os.killpg(await _when_offloading(host, "alice", 0.0), signal.SIGKILL)
                check_result(await running, dag)

    go(work())


def test_a_caller_who_does_not_read_is_out_when_its_time_is_over(keys: Path) -> None:
    async def work() -> None:
        host = Host(APPS, keys, kind="process", rules=Rules(run_s=0.5))
        address = f"127.0.0.1:{await host.start()}"
        connection = await Connection.open(address, keys, "alice")
        big = dataclasses.replace(graph(1.0), download_bytes=np.full(6, 20e6))
        program = dags.program_of(big, MACHINE_HZ)
        call = connection.call()
        order = Order.of("dag", program.calls, range(6), frozenset([0]), range(6))
        await call.write(framed(["begin"], order.packed()))
        await call.write(framed(["own", 0], packed([[bytes(8)]])))
        while not host._admission.runs("alice"):
            await asyncio.sleep(0.01)
        while host._admission.runs("alice"):
            await asyncio.sleep(0.01)
        call.cancel()
        await connection.close()

    go(work())


@pytest.mark.parametrize(
    ("given", "phrase"),
    [
        ({"placement": [0, 1, 7, 0, 1, 0]}, "placement[2] is 7"),
        ({"placement": [0, 1]}, "placement is [0, 1]"),
        ({"placement": [1, 0, 0, 0, 0, 0]}, "placement[0] is 1, but pins[0] is 'ue'"),
        ({"order": [3, 0, 1, 2, 4, 5]}, "order places task 3"),
        ({"order": [0, 0, 1, 2, 3, 4]}, "order is [0, 0, 1, 2, 3, 4]"),
        ({"patience_s": 0.0}, "patience_s is 0"),
        (
            {"graph": mj.TaskGraph.from_edges(cycles=[1.0], upload_bytes=[1.0], download_bytes=[1.0], edges=[])},
            "graph has 1",
        ),
    ],
)
def test_a_plan_that_is_none_is_refused_before_anything_runs(given: dict[str, Any], phrase: str) -> None:
    dag = dataclasses.replace(graph(), pins=("ue", *["any"] * 5))
    program = dags.program_of(dag, MACHINE_HZ)
    wanted = {"graph": dag, "placement": ALL_LOCAL, "order": list(range(6)), **given}

    async def work() -> None:
        with pytest.raises(InputError, match=re.escape(phrase)):
            await Ue(APPS).run(program, **wanted)

    asyncio.run(work())


@pytest.mark.parametrize("lie", ["a task of the UE", "no message", "no result"])
def test_a_host_that_lies_is_left_and_the_result_is_right(
    lie: str, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Task 2 runs at the UE; a host that brings its result, or what is none, is not believed."""

    def lied(header: list[Any], body: bytes = b"") -> bytes:
        if header[0] == "done" and header[1] == 1:
            match lie:
                case "a task of the UE":
                    return framed(["home", 2], packed(b"forged"))
                case "no message":
                    return framed([*header[:-2], True, header[-1]], b"\xc1")
                case "no result":
                    return framed(["finished"])
        return framed(header, body)

    monkeypatch.setattr(mec, "framed", lied)

    async def work() -> None:
        host = Host(APPS, keys, kind="process")
        address = f"127.0.0.1:{await host.start()}"
        async with Ue(APPS, address, keys, "alice") as equipment:
            found = await run(equipment, graph(), MIXED)
            check_result(found, graph())
            assert len(found.events) == ue.MOST_TRIES
            assert all("no message of a host" in text for _, text in found.events)
            assert found.placement.tolist() == ALL_LOCAL

    go(work())


def test_strangers_and_revoked_users_are_refused(keys: Path, tmp_path: Path) -> None:
    certificates.make(tmp_path, ["alice"])

    async def work() -> None:
        host = Host(APPS, keys, kind="process", rules=Rules(users=("alice", "bob")))
        address = f"127.0.0.1:{await host.start()}"
        with pytest.raises(ServerLostError, match="no answer"):
            await Connection.open(address, tmp_path, "alice", timeout_s=0.5)
        certificates.revoke(keys, "bob")
        with pytest.raises(ServerLostError, match="revoked"):
            await Connection.open(address, keys, "bob")
        with pytest.raises(ServerLostError, match="unknown user"):
            await Connection.open(address, keys, "eve")
        assert host.refused() == {"unknown user": 1, "revoked": 1}
        async with Ue(APPS, address, keys, "alice") as equipment:
            check_result(await run(equipment, graph(), MIXED), graph())

    go(work())


def test_an_open_run_ends_with_its_users_certificate_or_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mec, "LOOK_S", 0.05)
    certificates.make(tmp_path, ["alice", "bob"])

    async def work() -> None:
        host = Host(APPS, tmp_path, kind="process", rules=Rules(run_s=1.5))
        address = f"127.0.0.1:{await host.start()}"
        for user, code, text in (
            ("alice", grpc.StatusCode.DEADLINE_EXCEEDED, "run took longer than 1.5 s"),
            ("bob", grpc.StatusCode.PERMISSION_DENIED, "revoked"),
        ):
            connection = await Connection.open(address, tmp_path, user)
            program = dags.program_of(graph(), MACHINE_HZ)
            order = Order.of("dag", program.calls, [0], frozenset([0]), [0])  # whose input never comes
            call = connection.call()
            await call.write(framed(["begin"], order.packed()))
            assert unframed(await call.read())[0] == ["begun"]
            if user == "bob":
                certificates.revoke(tmp_path, user)
            assert (await call.code(), await call.details()) == (code, text)
            await connection.close()
        assert host.refused() == {"revoked": 1}
        while any(user.machine and user.machine._runs for user in host._users.values()):
            await asyncio.sleep(0.01)
        assert all(user.machine for user in host._users.values())

    go(work())


def test_hostile_frames_end_their_own_run_and_nobody_elses(keys: Path) -> None:
    program, rng = dags.program_of(graph(), MACHINE_HZ), random.Random(3)
    begin = framed(["begin"], Order.of("dag", program.calls, [0], frozenset([0]), [0]).packed())

    async def attack(address: str) -> None:
        connection = await Connection.open(address, keys, "eve")
        for _ in range(HOSTILE_RUNS):
            call = connection.call()
            try:
                for frame in hostile(rng, begin):
                    await call.write(frame)
                await call.done_writing()
                while (data := await asyncio.wait_for(call.read(), 0.2)) is not grpc.aio.EOF:
                    unframed(data)
            except (grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError):
                pass
            finally:
                call.cancel()
        await connection.close()

    async def work() -> None:
        host = Host(APPS, keys, kind="process")
        address = f"127.0.0.1:{await host.start()}"
        attacking = asyncio.create_task(attack(address))
        async with Ue(APPS, address, keys, "alice") as equipment:
            served = 0
            while not attacking.done():
                found = await run(equipment, graph(1.0), MIXED)
                check_result(found, graph())
                assert found.events == ()
                served += 1
        await attacking
        assert served > 3
        while any(user.machine and user.machine._runs for user in host._users.values()):
            await asyncio.sleep(0.01)

    go(work())
