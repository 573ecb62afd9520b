"""Many faults and many hostile messages; `launch/stress.py` has the full numbers."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import grpc
import pytest

from mrlato_jax.edge import stress
from mrlato_jax.edge.codec import framed
from mrlato_jax.edge.ue import Connection


@pytest.mark.slow
def test_every_fault_ends_in_the_right_result(tmp_path: Path) -> None:
    found = asyncio.run(stress.faults(tmp_path, "process", 40))
    assert found["right"] == found["injected"] == 40
    assert set(stress.FAULTS) == {kind for kind, count in found["noticed"].items() if count}


@pytest.mark.slow
def test_hostile_messages_neither_stop_nor_grow_a_host(tmp_path: Path) -> None:
    found = asyncio.run(stress.hostility(tmp_path, "process", 3000))
    assert found["honest_runs_wrong"] == 0
    assert found["honest_runs"] > 20
    memory, files = found["host_mib_after_each_tenth"], found["host_files_after_each_tenth"]
    assert len(memory) == len(files) == 10
    assert memory[-1] - memory[0] < 8  # what a leak of 3 kB a message would take
    assert files[-1] - files[0] < 10


def test_hostile_messages_leave_no_run_on_a_machine(tmp_path: Path) -> None:
    graph, rng = stress.wide(10, 0.5, 2e3), random.Random(2)
    begin = framed(["begin"], stress._order(graph))

    async def attacked() -> int:
        async with stress.serving(tmp_path, 1, kind="process") as (host, address):
            connection = await Connection.open(address, tmp_path, "u0")
            try:
                for _ in range(60):
                    call = connection.call()
                    with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError):
                        for frame in stress.hostile(rng, begin):
                            await call.write(frame)
                        await call.done_writing()
                        await asyncio.wait_for(call.read(), stress.READ_S)
                    call.cancel()
            finally:
                await connection.close()
            while (machine := host.machine("u0")) is not None and machine._runs:
                await asyncio.sleep(0.01)
            return host.counts["runs"]

    assert asyncio.run(asyncio.wait_for(attacked(), 60)) > 10


def test_an_offloaded_task_costs_little_and_many_users_are_served(tmp_path: Path) -> None:
    """Far from what a quiet machine does, so that a busy one passes."""
    one = asyncio.run(stress.overhead(tmp_path / "one", "process", 3))
    assert one["median_ms"] < 30
    many = asyncio.run(stress.throughput(tmp_path / "many", "process", 2, 0.5))
    assert many["tasks_per_s"] > 30
