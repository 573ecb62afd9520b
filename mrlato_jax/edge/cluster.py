"""VMs on the workers of a Dask cluster, instead of on the host itself.

The cluster belongs to the host and is in a trusted network. An actor on a worker starts a VM there. The actor forwards
the messages between host and VM as bytes, without reading them.

| method of the actor | meaning |
| --- | --- |
| `start` | starts the VM in a sandbox of the worker's machine |
| `write` | writes bytes to the VM's standard input |
| `read` | waits a limited time for bytes of its standard output; an empty answer still shows that the worker is there |
| `stop` | ends the VM; returns how it ended |

A worker that does not answer for `ANSWER_S` counts as lost. A worker ends a VM whose host is lost: then Dask drops the
client's actor, or no `read` arrives for `LEASE_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time
import uuid
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import distributed

from mrlato_jax.edge import machine, sandbox
from mrlato_jax.edge.codec import packed, unpacked
from mrlato_jax.edge.machine import START_S
from mrlato_jax.edge.sandbox import Ending, Quota
from mrlato_jax.errors import InputError, shorten

CONNECT_S = 3.0  # time limit for the answer of a scheduler
POLL_S = 3.0  # a `read` without bytes returns after this time
ANSWER_S = 15.0  # time limit for the answer of a worker
LEASE_S = 30.0  # a VM ends after this time without a `read`
LOOK_S = 1.0  # interval at which a worker checks whether a VM is still needed
MOST_CONNECTIONS = 2**18  # at a time; a VM has one for its output and one for its input
PIECE = 2**21  # bytes of one read
AHEAD = 2**16  # bytes that may wait to be written; beyond that, the writer waits
LOST = "worker lost"


class Vm:
    """The actor: a program in a sandbox on the actor's worker."""

    def __init__(self) -> None:
        self._program: sandbox.Sandbox | None = None
        self._asked = 0.0
        self._guarding: asyncio.Task[None] | None = None

    async def start(
        self,
        apps: Sequence[str],
        kind: str,
        quota: dict[str, Any],
        pace: float,
        watched: bool,
        readable: Sequence[str],
    ) -> str:
        """Starts the program; returns the worker's address.

        Raises:
            InputError: as in `machine.launch`.
        """
        places = [Path(path) for path in readable]
        self._program = await machine.launch(
            apps, kind=kind, quota=Quota(**quota), pace=pace, watched=watched, readable=places
        )
        self._asked = time.monotonic()
        self._guarding = asyncio.create_task(_guard(self._program, weakref.ref(self)))
        return str(distributed.get_worker().address)

    async def write(self, data: bytes) -> None:
        """Writes bytes to the program; waits until it takes them.

        Raises:
            OSError: the program has ended.
        """
        assert self._program is not None
        self._program.stdin.write(data)
        await self._program.stdin.drain()

    async def read(self, most: int, wait_s: float) -> bytes:
        """Reads up to `most` bytes of the program's output; none if `most` is 0 or after `wait_s` seconds of silence.

        Raises:
            EOFError: the output has ended.
        """
        assert self._program is not None
        self._asked = time.monotonic()
        if not most:
            return b""
        try:
            data = await asyncio.wait_for(self._program.stdout.read(most), wait_s)
        except TimeoutError:
            return b""
        if not data:
            raise EOFError
        return data

    async def stop(self) -> bytes:
        """Ends the program; returns its status, the reason and its standard error, packed."""
        assert self._program is not None
        if self._guarding is not None:
            self._guarding.cancel()
        ending = await self._program.stop()
        return packed([ending.status, ending.reason, self._program.said])


async def _guard(program: sandbox.Sandbox, actor: weakref.ref[Vm]) -> None:
    """Ends a program when Dask has dropped its actor, or when no reads arrive."""
    while (vm := actor()) is not None and time.monotonic() < vm._asked + LEASE_S:
        del vm
        await asyncio.sleep(LOOK_S)
    await program.stop()


class Cluster:
    """A connected cluster on which VMs run; `connect` makes one.

    Args:
        address: address of the scheduler.
        client: a client connected to the scheduler.
    """

    def __init__(self, address: str, client: distributed.Client) -> None:
        self._address, self._client = address, client
        self._connecting = asyncio.Lock()

    @classmethod
    async def connect(cls, address: str, kind: str) -> Cluster:
        """Connects to the scheduler and checks that each worker can run VMs.

        Args:
            address: for example tcp://192.0.2.8:8786. With tls://, Dask's configuration has the certificates.
            kind: kind of isolation, one of `sandbox.KINDS`.

        Raises:
            InputError: the scheduler does not answer, it has no workers, or a worker lacks this package or the
                isolation.
        """
        client = await _client(address)
        try:
            try:
                looked = client.run(sandbox.check_kind, kind, on_error="return")
                answers = await asyncio.wait_for(looked, START_S)
            except Exception as error:
                raise _unusable(address, f"whose workers do not answer ({_text(error)})") from None
            if not answers:
                raise _unusable(address, "a cluster without workers")
            for worker, answer in answers.items():
                if isinstance(answer, Exception):
                    raise _unusable(address, f"whose worker {worker} has no VMs ({_text(answer)})")
        except BaseException:
            await client.close()
            raise
        return cls(address, client)

    async def close(self) -> None:
        """Disconnects; the cluster goes on. VMs end by `stop`."""
        await self._client.close()

    async def launch(
        self,
        apps: Sequence[str],
        *,
        kind: str,
        quota: Quota,
        pace: float,
        watched: bool,
        readable: Sequence[Path],
    ) -> VmOnWorker:
        """Starts a VM on the worker with the fewest VMs; arguments are those of `machine.launch`.

        Raises:
            InputError: as in `machine.launch`; or no worker starts the VM within `START_S`.
        """
        client = await self._connected()
        places = [os.path.abspath(path) for path in readable]
        # Dask treats keys of one group as tasks of one kind and queues them; the group of a tuple is its first entry.
        key = (f"mrlato-vm-{uuid.uuid4().hex}", 0)
        future = client.submit(Vm, actor=True, key=key, pure=False)
        try:
            async with asyncio.timeout(START_S):
                with client.as_current():  # an actor's methods use the current client
                    actor = await future
                    worker = await actor.start(list(apps), kind, dataclasses.asdict(quota), pace, watched, places)
        except BaseException as error:
            future.release()
            if isinstance(error, InputError) or not isinstance(error, Exception):
                raise
            raise _unusable(self._address, f"where no VM starts ({_text(error)})") from None
        return VmOnWorker(actor, future, worker)

    async def _connected(self) -> distributed.Client:
        """Returns the client; connects again if the scheduler was lost."""
        async with self._connecting:
            if self._client.status != "running":
                await self._client.close()
                self._client = await _client(self._address)
            return self._client


class VmOnWorker:
    """The host's handle of a VM on a worker; implements `machine.Program`.

    Attributes:
        stdin, stdout: standard input and output of the VM.
        said: the end of its standard error, available once it has ended.
        worker: address of the worker.
    """

    def __init__(self, actor: Any, future: distributed.Future, worker: str) -> None:
        self.said, self.worker = "", worker
        self._actor, self._future = actor, future
        self._room = _Room()
        self.stdout = asyncio.StreamReader(limit=PIECE)
        self.stdout.set_transport(self._room)
        self.stdin = _Writer(actor)
        self._is_lost = False
        self._fetching = asyncio.create_task(self._fetch())
        self._ending: asyncio.Task[Ending] | None = None

    async def stop(self) -> Ending:
        """Ends the VM, if it has not ended yet."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        return await asyncio.shield(self._ending)

    async def _end(self) -> Ending:
        ending = Ending(-1, LOST)
        if not self._is_lost:
            with contextlib.suppress(Exception):
                status, reason, self.said = unpacked(await asyncio.wait_for(self._actor.stop(), ANSWER_S))
                ending = Ending(status, reason)
        self.stdin.end()
        self._fetching.cancel()
        await asyncio.wait([self._fetching])
        self._future.release()
        return ending

    async def _fetch(self) -> None:
        """Fetches the VM's output until the VM ends or its worker is lost."""
        try:
            while True:
                most = PIECE if await self._room.wait(POLL_S) else 0
                data = await asyncio.wait_for(self._actor.read(most, POLL_S), ANSWER_S)
                self.stdout.feed_data(bytes(data))
        except EOFError:
            pass
        except Exception:  # Dask raises various errors for a lost worker
            self._is_lost = True
        finally:
            self.stdin.end()
            self.stdout.feed_eof()


class _Room(asyncio.ReadTransport):
    """Tracks whether a reader has room for more bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._there = asyncio.Event()
        self._there.set()

    def pause_reading(self) -> None:
        self._there.clear()

    def resume_reading(self) -> None:
        self._there.set()

    async def wait(self, seconds: float) -> bool:
        """Waits at most `seconds` for room; returns whether there is room."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._there.wait(), seconds)
        return self._there.is_set()


class _Writer:
    """The standard input of a VM on a worker. Waiting bytes are sent together, one message after the other."""

    def __init__(self, actor: Any) -> None:
        self._actor, self._waiting, self._is_over = actor, bytearray(), False
        self._more, self._room = asyncio.Event(), asyncio.Event()
        self._room.set()
        self._pushing = asyncio.create_task(self._push())

    def write(self, data: bytes) -> None:
        """Queues bytes, like `StreamWriter.write`."""
        self._waiting += data
        self._more.set()
        if len(self._waiting) > AHEAD:
            self._room.clear()

    async def drain(self) -> None:
        """Waits until there is room for more.

        Raises:
            ConnectionError: the VM has ended, or its worker is lost.
        """
        await self._room.wait()
        if self._is_over:
            raise ConnectionResetError("VM has ended")

    def end(self) -> None:
        """Wakes all waiting writers, since the VM has ended."""
        self._is_over = True
        self._room.set()
        self._pushing.cancel()

    async def _push(self) -> None:
        try:
            while True:
                await self._more.wait()
                data, self._waiting = bytes(self._waiting), bytearray()
                self._more.clear()
                self._room.set()
                await self._actor.write(data)
        except Exception:  # Dask raises various errors for a lost worker
            self.end()


async def _client(address: str) -> distributed.Client:
    """Connects a client."""
    client = None
    try:
        client = distributed.Client(
            address, asynchronous=True, direct_to_workers=True, set_as_default=False, timeout=CONNECT_S,
            connection_limit=MOST_CONNECTIONS,
        )  # fmt: skip
        return await client
    except BaseException as error:
        if client is not None:
            await client.close()
        if not isinstance(error, Exception):
            raise
        raise _unusable(address, f"where no scheduler answers ({_text(error)})") from None


def _unusable(address: str, why: str) -> InputError:
    return InputError(f"dask is {shorten(address)}, {why}; accepted: the address of a scheduler with workers")


def _text(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {error}", 200)
