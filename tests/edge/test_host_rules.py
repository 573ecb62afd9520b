"""What a host holds its users to, in runs through real processes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest

from mrlato_jax.edge import certificates
from mrlato_jax.edge.application import Call, Constant
from mrlato_jax.edge.codec import framed, packed, unframed
from mrlato_jax.edge.mec import Mec
from mrlato_jax.edge.traffic import Rules
from mrlato_jax.edge.ue import Connection
from mrlato_jax.edge.vm import Order

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
                grpc.StatusCode.INVALID_ARGUMENT, "tasks of the run are more than 3; accepted: at most so many"
            )  # fmt: skip
            assert host.counts["tasks"] == 6

    go(work())
