"""The MEC host: traffic management in front of the users' VMs, over gRPC with TLS.

One call of `Run` is one run of an application. Frames go both ways as in `vm`, but without the run's number. The last
entry of the host's `done` has the arrival times of the messages before it: [task, needed_by, seconds] by this host's
monotonic clock. The host does not decode bodies; the user's VM and UE do.

| from the UE | meaning |
| --- | --- |
| `["begin"]` | the `vm.Order` of the VM; the first frame |
| `["own", task]`, `["result", task, needed_by]` | the inputs of a task; a result from the UE |

| to the UE | meaning |
| --- | --- |
| `["begun"]` | the VM has the order |
| `["lost", text]` | the VM has ended; the run is over |
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from mrlato_jax.edge import certificates, sandbox
from mrlato_jax.edge.certificates import Identity
from mrlato_jax.edge.codec import framed, packed, unframed
from mrlato_jax.edge.machine import Launch, Machine, MachineLostError, RunOnMachine, launch
from mrlato_jax.edge.sandbox import Quota
from mrlato_jax.edge.traffic import Admission, Meters, RefusedError, Rules
from mrlato_jax.errors import InputError, check_choice, shorten

if TYPE_CHECKING:
    from mrlato_jax.edge.cluster import Cluster

SERVICE = "mrlato.Edge"
KEEPALIVE = (  # of both ends: each notices a cut within five seconds, even without other messages
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.ping_timeout_ms", 3000),
    ("grpc.http2.max_pings_without_data", 0),
)
STOP_S = 2.0  # time for calls to end when the host stops
BEGIN_S = 10.0  # time limit for the first frame of a call
LOOK_S = 1.0  # interval at which the host checks whether a user with a run is still admitted


class _User:
    """The host's state of an admitted user."""

    def __init__(self) -> None:
        self.machine: Machine | None = None
        self.starting = asyncio.Lock()
        self.idle: asyncio.TimerHandle | None = None


class Mec:
    """An MEC host.

    Args:
        apps: the deployed applications, as in `installed.load`.
        credentials: folder that `certificates.make` wrote.
        rules: admitted users and their limits.
        kind: isolation of the VMs, one of `sandbox.KINDS`.
        core: processor core that the VMs are pinned to; None for any.
        say: called with a line of text on each event, such as the loss of a VM.
        readable: files and folders that the applications need, in addition to Python and this package.
        dask: address of the scheduler of a Dask cluster whose workers run the VMs; None runs them here.

    Raises:
        InputError: this host lacks the isolation, or `core` is given with `dask`.
    """

    def __init__(
        self,
        apps: Sequence[str],
        credentials: Path,
        *,
        rules: Rules | None = None,
        kind: str = "bubblewrap",
        core: int | None = None,
        say: Callable[[str], None] = lambda line: None,
        readable: Sequence[Path] = (),
        dask: str | None = None,
    ) -> None:
        if dask is None:
            sandbox.check_kind(kind)
        else:
            check_choice("vm", kind, sandbox.KINDS)  # `start` checks whether the workers have the isolation
            if core is not None:
                raise InputError(f"core is {core}, and VMs run on the workers of {shorten(dask)}; accepted: None")
        self._apps, self._credentials, self._kind, self._core = tuple(apps), credentials, kind, core
        self._rules, self._say, self._readable = rules or Rules(), say, tuple(readable)
        self._admission, self._meters = Admission(self._rules), Meters(self._rules)
        self._users: dict[str, _User] = {}
        self._stopping: set[asyncio.Task[None]] = set()  # tasks that stop VMs
        self._dask = dask
        self._cluster: Cluster | None = None
        self._launch: Launch = launch
        self._spare: Machine | None = None  # for the next user without a VM
        self._server: grpc.aio.Server | None = None
        self.counts: Counter[str] = Counter()  # numbers of runs, tasks and lost VMs

    async def start(self, address: str = "127.0.0.1:0") -> int:
        """Starts to serve; returns the port.

        Args:
            address: host and port; port 0 takes a free one.

        Raises:
            InputError: a VM cannot load an application, a certificate is missing, the address is in use, or the cluster
                cannot run VMs.
        """
        options = [
            ("grpc.max_receive_message_length", self._rules.most_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", max(16, 2 * self._rules.most_users * self._rules.most_runs)),
            *KEEPALIVE,
            ("grpc.keepalive_permit_without_calls", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 1000),
            ("grpc.so_reuseport", 0),
        ]
        credentials = certificates.server_credentials(self._credentials)
        try:
            if self._dask is not None:
                from mrlato_jax.edge.cluster import Cluster  # needs distributed; hosts without a cluster do not

                self._cluster = await Cluster.connect(self._dask, self._kind)
                self._launch = self._cluster.launch
            self._spare = await self._new_machine()  # reports errors of applications at once
            self._server = grpc.aio.server(options=options)
            handlers = {
                "Run": grpc.stream_stream_rpc_method_handler(self._run),
                "Clock": grpc.unary_unary_rpc_method_handler(self._clock),
            }
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
            try:
                port = self._server.add_secure_port(address, credentials)
            except RuntimeError as error:
                raise InputError(f"address is {shorten(address)} ({error}); accepted: HOST:PORT that is free") from None
            await self._server.start()
        except BaseException:
            await asyncio.shield(self.stop(0))
            raise
        return int(port)

    async def stop(self, grace_s: float = STOP_S) -> None:
        """Ends all runs and VMs, and disconnects from the cluster.

        Args:
            grace_s: seconds for runs to end by themselves.
        """
        if self._server is not None:
            await self._server.stop(grace_s)
        users, self._users = list(self._users.values()), {}
        machines = [self._spare, *(user.machine for user in users)]
        for user in users:
            if user.idle is not None:
                user.idle.cancel()
        stops = (machine.stop() for machine in machines if machine is not None)
        await asyncio.gather(*stops, *self._stopping, return_exceptions=True)
        if self._cluster is not None:
            await self._cluster.close()

    def refused(self) -> dict[str, int]:
        """Returns the number of refused calls by reason."""
        return dict(self._admission.refused)

    def machine(self, user: str) -> Machine | None:
        """Returns the VM of a user; None if the user has none."""
        return self._users[user].machine if user in self._users else None

    async def _new_machine(self) -> Machine:
        rules = self._rules
        quota = Quota(rules.memory_bytes, rules.processes, rules.cpus, self._core)
        return await Machine.start(
            self._apps,
            kind=self._kind,
            quota=quota,
            task_s=rules.task_s,
            most_bytes=rules.most_message_bytes + 2**16,
            readable=self._readable,
            start=self._launch,
        )

    async def _machine_of(self, name: str) -> Machine:
        user = self._users[name]
        async with user.starting:
            if user.machine is None or user.machine.lost:
                spare, self._spare = self._spare, None
                try:
                    user.machine = spare if spare is not None and not spare.lost else await self._new_machine()
                except InputError as error:  # the user cannot mend this
                    self._say(str(error))
                    raise MachineLostError("no VM starts") from None
                self.counts["machines"] += 1
            return user.machine

    @contextlib.asynccontextmanager
    async def _entered(self, name: str) -> AsyncIterator[None]:
        """Admits a user for one run.

        Raises:
            RefusedError: the rules do not allow the run.
        """
        self._admission.enter(name, time.monotonic())
        user = self._users.setdefault(name, _User())
        if user.idle is not None:
            user.idle.cancel()
        try:
            yield
        finally:
            is_kept = user.machine is not None and not user.machine.lost
            self._admission.leave(name, time.monotonic() if is_kept else None)
            if not self._admission.runs(name):
                if is_kept:
                    user.idle = asyncio.get_running_loop().call_later(self._rules.idle_s, self._forget, name)
                else:
                    self._forget(name)

    def _forget(self, name: str) -> None:
        """Stops the VM of a user without a run, if there is a VM."""
        user = self._users.pop(name, None)
        if user is not None and user.machine is not None:
            stopping = asyncio.create_task(user.machine.stop("stopped, since it was not used"))
            self._stopping.add(stopping)  # the event loop keeps only weak references
            stopping.add_done_callback(self._stopping.discard)

    def _known(self, context: grpc.aio.ServicerContext) -> Identity:
        """Returns the identity of the caller.

        Raises:
            RefusedError: the rules do not name the caller.
            InputError: the certificate is not valid.
        """
        identity = certificates.identity(context.auth_context())
        self._check_not_revoked(identity)
        self._admission.check_known(identity.user)
        return identity

    def _check_not_revoked(self, identity: Identity) -> None:
        if identity.serial in certificates.revoked(self._credentials):
            self._admission.refuse("revoked")

    async def _clock(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        try:
            user, now = self._known(context).user, time.monotonic()
            if request:
                self._meters.of(user, now).charge(1, len(request), now)
                raise ValueError(f"request has {len(request)} bytes; accepted: none")
            await self._metered(user, 0)
        except (RefusedError, InputError) as refused:
            _end(context, grpc.StatusCode.PERMISSION_DENIED, str(refused))
        except ValueError as error:
            _end(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return packed(time.monotonic())

    async def _metered(self, user: str, size: int) -> None:
        """Waits until the rules allow a message of `size` bytes."""
        while (seconds := self._meters.of(user, now := time.monotonic()).wait_s(1, size, now)) > 0:
            await asyncio.sleep(seconds)

    async def _run(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        ended = grpc.StatusCode.PERMISSION_DENIED
        try:
            identity = self._known(context)
            async with self._entered(identity.user), self._limited(identity):
                ended = grpc.StatusCode.INVALID_ARGUMENT
                return await self._followed(requests, context, identity.user)
        except RefusedError as refused:
            ended, text = grpc.StatusCode.PERMISSION_DENIED, refused.reason
        except TimeoutError as error:
            ended, text = grpc.StatusCode.DEADLINE_EXCEEDED, str(error)
        except InputError as error:
            text = str(error)
        _end(context, ended, text)

    @contextlib.asynccontextmanager
    async def _limited(self, identity: Identity) -> AsyncIterator[None]:
        """Context that ends its body with an error after the time limit of a run, or when its user loses admission."""
        why: list[Exception] = []

        async def look() -> None:
            while True:
                await asyncio.sleep(LOOK_S)
                try:
                    self._check_not_revoked(identity)
                except (RefusedError, InputError) as error:
                    why.append(error)
                    limit.reschedule(asyncio.get_running_loop().time())
                    return

        try:
            async with asyncio.timeout(self._rules.run_s) as limit:
                looking = asyncio.create_task(look())
                try:
                    yield
                finally:
                    looking.cancel()
        except TimeoutError:
            if why:
                raise why[0] from None
            raise TimeoutError(f"run took longer than {self._rules.run_s:g} s") from None

    async def _followed(self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext, name: str) -> None:
        """Handles one run from its first frame to its end."""
        self.counts["runs"] += 1
        arrived: list[list[Any]] = []
        run, upward, tasks = None, None, 0
        try:
            try:
                data = await asyncio.wait_for(anext(requests, None), BEGIN_S)
            except TimeoutError:
                raise InputError(f"no frame in {BEGIN_S:g} s; accepted: ['begin']") from None
            header, body = await self._passed(data, name) or ([], b"")
            if header != ["begin"]:
                raise InputError(f"first frame is {shorten(header)}; accepted: ['begin']")
            machine = await self._machine_of(name)
            run = machine.open()
            await run.send("begin", body=body)
            await context.write(framed(["begun"]))
            upward = asyncio.create_task(self._upward(requests, name, run, arrived))
            upward.add_done_callback(lambda task: _abandon(run, task))
            async for header, body in run.messages():
                if header[0] == "done":
                    tasks += 1
                    if tasks > self._rules.most_tasks:
                        raise InputError(f"run has more than {tasks - 1} tasks; accepted: at most this number")
                    self.counts["tasks"] += 1
                    header = [*header, arrived.copy()]
                    arrived.clear()
                await context.write(framed(header, body))
        except MachineLostError as lost:
            self.counts["lost"] += 1
            self._say(f"VM of {name} is lost: {lost}")
            await context.write(framed(["lost", str(lost)]))
        finally:
            if upward is not None:
                upward.cancel()
            if run is not None:
                await run.close()

    async def _upward(
        self, requests: AsyncIterator[bytes], name: str, run: RunOnMachine, arrived: list[list[Any]]
    ) -> None:
        """Forwards frames from the UE to the VM until the UE has finished."""
        count = 0
        while frame := await self._passed(await anext(requests, None), name):
            header, body = frame
            now = time.monotonic()
            count += 1
            if count > 2 * self._rules.most_tasks:
                raise InputError(f"run has more than {count - 1} messages; accepted: two for each of its tasks")
            match header:
                case ["own", int(task)]:
                    arrived.append([task, task, now])
                    await run.send("own", task, body=body)
                case ["result", int(task), int(needed_by)]:
                    arrived.append([task, needed_by, now])
                    await run.send("result", task, body=body)
                case _:
                    raise InputError(
                        f"frame is {shorten(header)}; accepted: ['own', task], ['result', task, needed_by]"
                    )

    async def _passed(self, data: bytes | None, name: str) -> tuple[list[Any], bytes] | None:
        """Returns a frame of a user when the rules let it pass; None at the end of the user's frames."""
        if data is None:
            return None
        await self._metered(name, len(data))
        return unframed(data)


def _end(context: grpc.aio.ServicerContext, code: grpc.StatusCode, text: str) -> None:
    """Sets the status of a call, which then returns. gRPC's `abort` would leak 0.7 kB per call (grpcio 1.85)."""
    context.set_code(code)
    context.set_details(text)


def _abandon(run: RunOnMachine, upward: asyncio.Task[None]) -> None:
    """Ends a run after an invalid frame of the UE."""
    if not upward.cancelled() and (error := upward.exception()) is not None:
        run.abandon(error if isinstance(error, Exception) else MachineLostError(str(error)))
