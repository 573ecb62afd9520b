"""What a host holds its users to, in runs through real processes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import gc
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, cast

import grpc
import numpy as np
import pytest

from mrlato_jax.edge import certificates, mec
from mrlato_jax.edge.application import Call, Constant, Result
from mrlato_jax.edge.codec import framed, packed, unframed, unpacked
from mrlato_jax.edge.machine import Machine, local_executor
from mrlato_jax.edge.mec import Mec
from mrlato_jax.edge.traffic import Rules
from mrlato_jax.edge.ue import Connection, ServerLostError
from mrlato_jax.edge.vm import Order
from mrlato_jax.errors import InputError

APPS = [str(Path(__file__).with_name("sums.py"))]
LIMIT_S = 60.0  # of one test


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    certificates.make(folder, ["alice", "bob"])
    return folder


def go(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, LIMIT_S))


@contextlib.asynccontextmanager
async def serving(keys: Path, **rules: Any) -> AsyncIterator[tuple[Mec, str]]:
    """A host and its address. It ends with its test: gRPC waits for ever for a host whose event loop is gone."""
    host = Mec(APPS, keys, kind="process", rules=Rules(**rules))
    try:
        yield host, f"127.0.0.1:{await host.start()}"
    finally:
        await host.stop(0)


@contextlib.asynccontextmanager
async def connected(address: str, keys: Path, user: str = "alice") -> AsyncIterator[Connection]:
    connection = await Connection.open(address, keys, user)
    try:
        yield connection
    finally:
        await connection.close()


def additions(count: int) -> bytes:
    """An order of tasks that wait for nothing."""
    calls = [Call(f"both_{task}", "both", (Constant(1), Constant(task))) for task in range(count)]
    return Order.of("sums", calls, range(count), frozenset(), [count - 1]).packed()


async def said(connection: Connection, body: bytes) -> tuple[list[list[Any]], grpc.StatusCode, str]:
    """What the host says to an order, and how it ends the run."""
    call = connection.call()
    await call.write(framed(["begin"], body))
    headers = []
    with contextlib.suppress(grpc.aio.AioRpcError):
        while (data := await call.read()) is not grpc.aio.EOF:
            headers.append(unframed(data)[0])
    return headers, await call.code(), await call.details()


def test_no_run_has_more_tasks_than_the_rules_say(keys: Path) -> None:
    async def work() -> None:
        async with serving(keys, most_tasks=3) as (host, address), connected(address, keys) as connection:
            headers, code, text = await said(connection, additions(3))
            assert [header[0] for header in headers] == ["begun", "done", "done", "done", "finished"]
            assert code == grpc.StatusCode.OK
            headers, code, text = await said(connection, additions(500))
            assert [header[0] for header in headers] == ["begun", "done", "done", "done"]
            assert (code, text) == (
                grpc.StatusCode.INVALID_ARGUMENT, "run has more than 3 tasks; accepted: at most this number"
            )  # fmt: skip
            assert host.counts["tasks"] == 6

    go(work())


@pytest.mark.parametrize("number", [float("inf"), float("nan"), 1.0, "9" * 30, "1", True, -1, 2**31, None], ids=str)
def test_an_order_whose_numbers_are_none_is_refused(number: object) -> None:
    for order in (
        ["sums", [[number, "both", [], False]], [0]],
        ["sums", [[0, "both", [[0, number]], False]], [0]],
        ["sums", [[0, "both", [[number, 0]], False]], [0]],
        ["sums", [[0, "both", [], False]], [number]],
    ):
        with pytest.raises(
            InputError, match=r"order cannot be read \(.* is .*accepted: an integer in \[0, 2147483647\]"
        ):
            Order.unpacked(packed(order))


def test_an_array_is_no_list_of_numbers() -> None:
    with pytest.raises(InputError, match="sent task is"):
        Order.unpacked(packed(["sums", [], np.arange(3)]))


def test_an_order_that_cannot_be_read_fails_alone(keys: Path) -> None:
    async def work() -> None:
        async with serving(keys) as (host, address), connected(address, keys) as connection:
            waiting = connection.call()
            calls = [Call("add", "add", (Result(0),))]
            await waiting.write(framed(["begin"], Order.of("sums", calls, [0], frozenset([0]), [0]).packed()))
            assert unframed(await waiting.read())[0] == ["begun"]
            for number in (float("inf"), "9" * 30):
                headers, code, _ = await said(connection, packed(["sums", [[number, "both", [], False]], []]))
                assert [header[:2] for header in headers] == [["begun"], ["failed", -1]]
                assert code == grpc.StatusCode.OK
            await waiting.write(framed(["own", 0], packed([[1, 2]])))
            header, body = unframed(await waiting.read())
            assert (header[0], unpacked(body)) == ("done", 3)
            waiting.cancel()
            assert (host.counts["lost"], host.counts["machines"]) == (0, 1)

    go(work())


def clock(connection: Connection, body: bytes = b"") -> grpc.aio.UnaryUnaryCall:
    return connection._clock(body, timeout=10)


def test_who_asks_for_the_time_is_held_to_the_rules(keys: Path) -> None:
    async def work() -> None:
        async with serving(keys, users=["alice"], messages_per_s=20.0) as (host, address):
            with pytest.raises(ServerLostError, match="unknown user"):
                await Connection.open(address, keys, "bob")
            assert host.refused() == {"unknown user": 1}
            async with connected(address, keys) as connection:
                begin = time.monotonic()
                await asyncio.gather(*(clock(connection) for _ in range(30)))  # ten of twenty that may come at once
                assert time.monotonic() - begin > 0.5
                call = clock(connection, bytes(1000))
                assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
                assert await call.details() == "request has 1000 bytes; accepted: none"

    go(work())


def test_a_refused_body_is_paid_for(keys: Path) -> None:
    async def work() -> None:
        async with serving(keys, bytes_per_s=1000.0) as (_, address), connected(address, keys) as connection:
            begin = time.monotonic()
            assert await clock(connection, bytes(2000)).code() == grpc.StatusCode.INVALID_ARGUMENT
            await said(connection, additions(1))
            assert time.monotonic() - begin > 0.9

    go(work())


def test_a_user_without_a_vm_keeps_no_place(keys: Path) -> None:
    async def work() -> None:
        async with (
            serving(keys, most_users=1) as (host, address),
            connected(address, keys) as alice,
            connected(address, keys, "bob") as bob,
        ):
            call = alice.call()
            await call.write(framed(["nothing"]))
            assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert (await said(bob, additions(1)))[1] == grpc.StatusCode.OK
            assert list(host._users) == ["bob"]
            assert (await said(alice, additions(1)))[2] == "too many users"
            machine = host.machine("bob")
            assert machine is not None
            await machine.stop("lost")
            call = bob.call()
            await call.write(framed(["nothing"]))
            assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert not host._users
            assert (await said(alice, additions(1)))[1] == grpc.StatusCode.OK

    go(work())


def test_the_time_of_a_first_frame_is_that_of_its_way(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who waits for the meter is not late."""
    monkeypatch.setattr(mec, "BEGIN_S", 0.6)

    async def work() -> None:
        async with serving(keys, bytes_per_s=1000.0) as (host, address), connected(address, keys) as connection:
            host._meters.of("alice", now := time.monotonic()).charge(1, 2000, now)
            begin = time.monotonic()
            assert (await said(connection, additions(1)))[1] == grpc.StatusCode.OK
            assert time.monotonic() - begin > 0.8
            call = connection.call()
            assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert await call.details() == "no frame in 0.6 s; accepted: ['begin']"

    go(work())


class SlowMachine:
    """One whose end waits for what nobody else refers to."""

    lost = ""

    async def stop(self, reason: str = "") -> None:
        self.lost = reason
        await asyncio.get_running_loop().create_future()


def test_a_vm_that_stops_is_not_collected_before(keys: Path) -> None:
    async def work() -> None:
        said: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context["message"]))
        async with serving(keys) as (host, _):
            host._users["alice"] = user = mec._User()
            user.machine = cast("Machine", SlowMachine())
            host._forget("alice")
            del user
            await asyncio.sleep(0.01)
            gc.collect()
            assert said == []
            (stopping,) = host._stopping
            stopping.cancel()
            await asyncio.wait([stopping])
            await asyncio.sleep(0)
            assert not host._stopping

    go(work())


def test_a_task_beyond_its_time_ends_its_machine_by_what_the_machine_keeps() -> None:
    async def work() -> None:
        machine = await local_executor(APPS, 1.0)
        try:
            before = asyncio.all_tasks()
            machine._clock(0.01)
            while not machine.lost:
                await asyncio.sleep(0.001)
            assert machine.lost == "a task took longer than 0.01 s"
            assert machine._ending in asyncio.all_tasks() - before
            assert "Machine._end" not in {str(task.get_coro()).split()[2] for task in asyncio.all_tasks()}
        finally:
            await machine.stop()

    go(work())


def test_a_vm_that_is_not_used_is_stopped_once_and_its_place_is_free(keys: Path) -> None:
    async def work() -> None:
        async with serving(keys, most_users=1, idle_s=1.0) as (host, address), connected(address, keys) as connection:
            await said(connection, additions(1))
            machine = host.machine("alice")
            assert machine is not None
            await asyncio.sleep(0.3)
            begin = time.monotonic()
            await said(connection, additions(1))
            while host._users:
                await asyncio.sleep(0.01)
            assert machine.lost == "stopped, since it was not used"
            assert time.monotonic() - begin >= 1.0  # its time began again
            async with connected(address, keys, "bob") as other:
                assert (await said(other, additions(1)))[1] == grpc.StatusCode.OK

    go(work())


def test_a_certificate_that_ends_on_an_open_connection_begins_no_run(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with serving(keys) as (_, address), connected(address, keys) as connection:
            assert (await said(connection, additions(1)))[1] == grpc.StatusCode.OK
            later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=31)
            monkeypatch.setattr(certificates, "_now", lambda: later)
            _, code, text = await said(connection, additions(1))
            assert code == grpc.StatusCode.PERMISSION_DENIED
            assert text.startswith("peer's certificate ended at ")

    go(work())
