"""The UE: runs a planned application partly at the UE and partly at the MEC host.

A plan defines the site of each task and the order; `movements` lists the transfers. As in the model, each resource
works in scheduling order: the uplink sends, the VM computes, the downlink returns results, the local executor computes.
Every run records its measured schedule in the type of a plan's schedule.

After a failure, the results at the UE become arguments of the remaining program (`parser.remaining`). That program runs
again, with the MEC host if the host answers, otherwise without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.edge import certificates
from mrlato_jax.edge.application import Call, Program, resolved
from mrlato_jax.edge.codec import MOST_BYTES, framed, packed, unframed, unpacked
from mrlato_jax.edge.dags import common_mark, marked
from mrlato_jax.edge.machine import Machine, MachineLostError, RunOnMachine, local_executor
from mrlato_jax.edge.mec import KEEPALIVE, SERVICE
from mrlato_jax.edge.parser import remaining
from mrlato_jax.edge.vm import Order, parts
from mrlato_jax.errors import InputError, check_choice, check_number, shorten
from mrlato_jax.mec.latency import LOCAL, Schedule, check_placement
from mrlato_jax.mec.priority import check_order
from mrlato_jax.mec.system import CHANNELS, Power
from mrlato_jax.mec.transfers import movements

CLOCK_CALLS = 9  # calls that compare clocks; the call with the shortest round trip counts
COMPARED_S = 60.0  # validity of a comparison of clocks
CONNECT_S = 2.0  # time limit of a connection
BEGIN_S = 32.0  # time limit for the start of a run at the host, which may have to start a VM
MOST_TRIES = 3  # attempts at the MEC host in one run; then the rest runs at the UE
MOST_SAID_BYTES = 2**22  # size limit of a header from the host, with the arrival times of a wide task's inputs
GIVE_UP_S = 60.0  # waiting time for a server, for tasks pinned to a server
RESOURCES = ("UE", "uplink", "VM", "downlink")
RULES = ("paper", "resident")  # channel rules that machines can follow


class Span(NamedTuple):
    """The time of a task, or of a transfer, on a resource; seconds from the beginning of the run."""

    task: int
    resource: str  # of RESOURCES
    start: float
    end: float
    needed_by: int  # on a link, the task that needs the transfer; otherwise the task itself


class TaskFailedError(Exception):
    """A task raised an exception; it would do so at every site."""


class ServerLostError(Exception):
    """The MEC host, its VM, or the connection was lost; the text says which."""


class PatienceError(ServerLostError):
    """The MEC host takes longer than the caller's patience."""


class VmLostError(ServerLostError):
    """The user's VM was lost; the host continues."""


class LocalLostError(Exception):
    """The local executor has ended."""


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run of an application.

    Attributes:
        returned: value returned by the application.
        measured: the measured schedule, in the type of a plan's schedule.
        spans: times of all tasks and transfers, by start.
        placement: int32[n], the site where each task finally ran.
        order: int64[n], task ids in scheduling order.
        channel: channel rules of the run.
        events: deviations from the plan, with seconds; empty without deviations.
        setup_s: seconds before the beginning, in which both ends received the order.
    """

    returned: Any
    measured: Schedule
    spans: tuple[Span, ...]
    placement: np.ndarray
    order: np.ndarray
    channel: str
    events: tuple[tuple[float, str], ...]
    setup_s: float

    @property
    def makespan(self) -> float:
        """Seconds until the UE has all its results."""
        return self.measured.makespan


class Connection:
    """A connection to an MEC host; `Connection.open` makes one.

    Attributes:
        ahead_s: seconds by which the host's monotonic clock is ahead of ours.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel, self.ahead_s, self._compared = channel, 0.0, float("-inf")
        self._run = channel.stream_stream(f"/{SERVICE}/Run")
        self._clock = channel.unary_unary(f"/{SERVICE}/Clock")

    @classmethod
    async def open(cls, address: str, credentials: Path, user: str, timeout_s: float | None = None) -> Connection:
        """Connects and compares clocks.

        Args:
            address: HOST:PORT.
            credentials: folder with the user's certificate.
            user: name of the user.
            timeout_s: time limit, seconds; by default `CONNECT_S`.

        Raises:
            ServerLostError: nobody answers, or the host refuses us.
        """
        timeout_s = CONNECT_S if timeout_s is None else timeout_s
        options = [
            ("grpc.max_receive_message_length", MOST_BYTES + MOST_SAID_BYTES),
            ("grpc.max_send_message_length", -1),
            *KEEPALIVE,
            ("grpc.enable_retries", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        channel = grpc.aio.secure_channel(address, certificates.channel_credentials(credentials, user), options)
        connection = cls(channel)
        try:
            await asyncio.wait_for(channel.channel_ready(), timeout_s)
            await connection.compare(timeout_s)
        except (grpc.aio.AioRpcError, TimeoutError, InputError, ValueError, TypeError) as error:
            await channel.close()
            text = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error) or "no answer"
            raise ServerLostError(f"MEC host at {address}: {text}") from None
        except BaseException:
            await asyncio.shield(channel.close())
            raise
        return connection

    async def compare(self, timeout_s: float = CONNECT_S) -> None:
        """Compares clocks, which drift apart, unless a recent comparison exists.

        Args:
            timeout_s: time limit of a call, seconds.

        Raises:
            grpc.aio.AioRpcError: the host does not answer.
            InputError, ValueError, TypeError: its answer is not a time.
        """
        if time.monotonic() - self._compared < COMPARED_S:
            return
        best = float("inf")
        for _ in range(CLOCK_CALLS):
            begin = time.monotonic()
            theirs = float(unpacked(await self._clock(b"", timeout=timeout_s)))
            end = time.monotonic()
            if end - begin < best:
                best, self.ahead_s = end - begin, theirs - (begin + end) / 2
        self._compared = end

    def call(self) -> grpc.aio.StreamStreamCall:
        """Opens a new run at the host.

        Raises:
            ServerLostError: the connection was closed.
        """
        try:
            return self._run()
        except grpc.aio.UsageError:
            raise ServerLostError("connection was closed") from None

    async def close(self) -> None:
        """Closes the connection with all runs on it."""
        await self._channel.close()


class _Attempt:
    """One attempt to run a program: the orders for both ends, their messages, and the results."""

    def __init__(
        self, program: Program, graph: TaskGraph, stays: bool, placement: np.ndarray, order: np.ndarray
    ) -> None:
        self.program, self.graph = program, graph
        sites, self.order = placement.tolist(), order.tolist()
        self.sites = sites
        sent = movements(graph, stays, sites, self.order)
        self.up = [move for move in sent if move.source == LOCAL]
        self.down = [move.task for move in sent if move.target == LOCAL]
        self.expected = frozenset(self.down)
        self.needed_by = {move.task: move.needed_by for move in sent if move.target == LOCAL}
        own = frozenset(move.task for move in self.up if move.task == move.needed_by)
        calls = program.calls
        here = [task for task in self.order if sites[task] == LOCAL and calls[task].function is not None]
        there = [task for task in self.order if sites[task] != LOCAL]
        self.there = frozenset(there)
        self.local_order = Order.of(program.app, calls, here, frozenset(), here) if here else None
        self.server_order = Order.of(program.app, calls, there, own, self.down) if there else None
        self.gathered = [task for task in self.order if calls[task].function is None and task not in program.given]
        needed = dict.fromkeys(parent for task in here for parent in calls[task].parents)
        self.brought = [task for task in needed if task not in set(here)]  # results sent to the local executor
        self.results: dict[int, bytes] = {}
        self.spans: list[Span] = []
        self.at_ue: dict[int, asyncio.Event] = {task: asyncio.Event() for task in range(len(calls))}
        self._handed: dict[tuple[int, int], float] = {}  # when each message was passed to the uplink
        self.begin = self.setup_s = 0.0

    async def go(
        self, given: Mapping[int, bytes], local: Machine | None, server: Connection | None, patience_s: float | None
    ) -> None:
        """Runs the program; `results` holds all results that reached the UE, also after a failure.

        Raises:
            TaskFailedError, ServerLostError, LocalLostError: see these classes.
        """
        asked = time.monotonic()
        run, call = None, None
        try:
            async with contextlib.AsyncExitStack() as stack:
                if self.server_order is not None:
                    if server is None:
                        raise ServerLostError("no MEC host")
                    await server.compare()
                    call = server.call()
                    stack.callback(call.cancel)
                    await self._begin_there(call, patience_s)
                if self.local_order is not None:
                    if local is None or local.lost:
                        raise LocalLostError(local.lost if local else "no local executor")
                    run = local.open()
                    stack.push_async_callback(run.close)
                self.begin = time.monotonic()
                self.setup_s = self.begin - asked
                if run is not None and self.local_order is not None:
                    await run.send("begin", body=self.local_order.packed())
                for task, body in given.items():
                    self._arrive(task, body)
                jobs = [self._gather()]
                if call is not None and server is not None:
                    jobs += [self._uplink(call), self._downlink(call, server.ahead_s)]
                if run is not None:
                    jobs += [self._executor(run), self._bring(run)]
                await _together(jobs, patience_s if call is not None else None)
        except MachineLostError as lost:
            raise LocalLostError(str(lost)) from None
        except grpc.aio.AioRpcError as error:
            raise _as_lost(error) from None

    async def _begin_there(self, call: grpc.aio.StreamStreamCall, patience_s: float | None) -> None:
        assert self.server_order is not None
        try:
            async with asyncio.timeout(BEGIN_S if patience_s is None else patience_s):
                await _said(call.write(framed(["begin"], self.server_order.packed())))
                data = await _said(call.read())
        except TimeoutError:
            if patience_s is not None:
                raise PatienceError(f"not begun after {patience_s:.1f} s") from None
            raise ServerLostError("the host does not begin the run") from None
        if data is grpc.aio.EOF:
            raise ServerLostError(await call.details() or "the host closed the run")
        with _heard():
            header, _ = unframed(data, MOST_SAID_BYTES)
            self._check(header)
            if header != ["begun"]:
                raise ValueError(f"{shorten(header)}")

    def _check(self, header: list[Any]) -> None:
        """Raises an error if the other end reports the end of the run."""
        if header[0] == "failed":
            _, task, text = header
            name = self.graph.names[task] if 0 <= task < self.graph.num_tasks else "the run"
            raise TaskFailedError(f"{name}: {text}")
        if header[0] == "lost":
            raise VmLostError(f"VM: {header[1]}")

    def _arrive(self, task: int, body: bytes) -> float:
        """Stores a result; returns the time.

        Raises:
            ValueError: the program has no such task.
        """
        if type(task) is not int or task not in self.at_ue:
            raise ValueError(f"task {shorten(task)}")
        self.results[task] = body
        self.at_ue[task].set()
        return time.monotonic()

    async def _uplink(self, call: grpc.aio.StreamStreamCall) -> None:
        for move in self.up:
            if move.task == move.needed_by:
                body = await self._own(self.program.calls[move.task])
                frame = framed(["own", move.task], body)
            else:
                await self.at_ue[move.task].wait()
                frame = framed(["result", move.task, move.needed_by], self.results[move.task])
            self._handed[move.task, move.needed_by] = time.monotonic()
            await _said(call.write(frame))
        await _said(call.done_writing())

    async def _own(self, call: Call) -> bytes:
        """Packs the inputs of a task as one message."""
        for parent in call.parents:
            await self.at_ue[parent].wait()
        values = {parent: unpacked(self.results[parent]) for parent in call.parents}
        inputs = [resolved(source, values) for source in parts(call.inputs)]
        if call.fills is not None:
            inputs = [[marked(common_mark(inputs[0]), call.fills)]]
        return packed(inputs)

    async def _downlink(self, call: grpc.aio.StreamStreamCall, ahead_s: float) -> None:
        free = {"uplink": 0.0, "downlink": 0.0}
        computed: dict[int, float] = {}
        while True:
            data = await _said(call.read())
            if data is grpc.aio.EOF:
                code = await call.code()
                raise ServerLostError(f"the host ended the run ({code.name}: {await call.details()})")
            with _heard():
                header, body = unframed(data, MOST_SAID_BYTES)
                self._check(header)
                if header[0] == "finished":
                    if not self.results.keys() >= self.expected:
                        raise ValueError("finished without all results")
                    return
                self._take_in(header, body, ahead_s, free, computed)

    def _take_in(
        self, header: list[Any], body: bytes, ahead_s: float, free: dict[str, float], computed: dict[int, float]
    ) -> None:
        """Handles a "done" or "home" of the host: records its spans and its result.

        Args:
            header: header of the frame.
            body: body of the frame.
            ahead_s: seconds by which the host's clock is ahead.
            free: end of the last use of each link; updated.
            computed: when the VM had each result; updated.
        """
        kind, task = header[:2]
        if kind == "done":
            _, _, start, end, _, sent, arrived = header
            if task not in self.there or task in computed:
                raise ValueError(f"task {shorten(task)}")
            computed[task] = end - ahead_s
            for source, needed_by, when in arrived:
                at = when - ahead_s
                begun = max(self._handed[source, needed_by], free["uplink"])
                free["uplink"] = max(at, begun)
                self.spans.append(Span(source, "uplink", min(begun, at), at, needed_by))
            self.spans.append(Span(task, "VM", start - ahead_s, end - ahead_s, task))
            if not sent:
                return
        elif kind != "home":
            raise ValueError(f"{shorten(header)}")
        if task not in self.expected or task not in computed or task in self.results:
            raise ValueError(f"result of task {shorten(task)}, which was not asked for")
        unpacked(body)  # an unreadable result is a fault of the host, not of a task
        now = self._arrive(task, body)
        begun = min(now, max(free["downlink"], computed[task]))
        self.spans.append(Span(task, "downlink", begun, now, self.needed_by.get(task, task)))
        free["downlink"] = now

    async def _executor(self, run: RunOnMachine) -> None:
        async for header, body in run.messages():
            self._check(header)
            if header[0] == "done":
                _, task, start, end, *_ = header
                self._arrive(task, body)
                self.spans.append(Span(task, "UE", start, end, task))

    async def _bring(self, run: RunOnMachine) -> None:
        """Passes results of the server to the local executor, in the order in which it needs them."""
        for task in self.brought:
            await self.at_ue[task].wait()
            await run.send("result", task, body=self.results[task])

    async def _gather(self) -> None:
        for task in self.gathered:
            for parent in self.program.calls[task].parents:
                await self.at_ue[parent].wait()
            self._arrive(task, b"")


async def _said(step: Awaitable[Any]) -> Any:
    """Awaits a step of a call. After a closed connection gRPC raises CancelledError, although nobody cancelled.

    Raises:
        ServerLostError: the connection was closed.
    """
    try:
        return await step
    except asyncio.CancelledError:
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
        raise ServerLostError("connection was closed") from None
    except asyncio.InvalidStateError:  # a write after the end
        raise ServerLostError("the host ended the run") from None


@contextlib.contextmanager
def _heard() -> Iterator[None]:
    """Context for handling the host's messages: any error counts as a fault of the host.

    Raises:
        ServerLostError: an error occurred in the context.
    """
    try:
        yield
    except (InputError, ValueError, TypeError, LookupError) as error:
        raise ServerLostError(f"no message of a host: {shorten(str(error))}") from None


async def _together(jobs: Sequence[Any], patience_s: float | None) -> None:
    """Runs all jobs to their end; if one fails, the others are cancelled."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        done, waiting = await asyncio.wait(tasks, timeout=patience_s, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()
        if waiting:
            raise PatienceError(f"not done after {patience_s:.1f} s")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _as_lost(error: grpc.aio.AioRpcError) -> ServerLostError:
    return ServerLostError(f"{error.code().name}: {error.details()}")


class Ue:
    """A user's equipment: the local executor and the connection to an MEC host, for any number of runs.

    Args:
        apps: the deployed applications, as in `installed.load`.
        mec: HOST:PORT of the MEC host; None runs everything here.
        credentials: folder with the user's certificate.
        user: name of the user.
        share: share of a core's processor time for local tasks, in (0, 1], which makes the UE slower than the server.
            If no quota can be set, the local executor waits after each task.
        core: processor core of the local executor; None for any.
        say: called with a line of text on each event, such as a host that does not answer.

    Use it with `async with`.
    """

    def __init__(
        self,
        apps: Sequence[str],
        mec: str | None = None,
        credentials: Path | None = None,
        user: str = "",
        *,
        share: float = 1.0,
        core: int | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        if mec is not None and credentials is None:
            raise InputError("credentials is None; accepted: the folder with the certificate for the MEC host")
        check_number("share", share, low=0.0, high=1.0, open_low=True)
        self._apps, self._mec, self._credentials, self._user = tuple(apps), mec, credentials, user
        self._share, self._core, self._say = share, core, say
        self.local: Machine | None = None
        self.server: Connection | None = None
        self._starting, self._connecting = (
            asyncio.Lock(),
            asyncio.Lock(),
        )  # concurrent runs share the executor and the connection

    async def __aenter__(self) -> Self:
        """Starts the local executor and connects."""
        try:
            await self._ensure_local()
            if self._mec is not None and self._credentials is not None:
                certificates.channel_credentials(self._credentials, self._user)  # reports unusable files early
                try:
                    await self._ensure_connected()
                except ServerLostError as lost:
                    self._say(str(lost))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.server is not None:
            await self.server.close()
        if self.local is not None:
            await self.local.stop()

    async def _ensure_local(self) -> None:
        async with self._starting:
            if self.local is None or self.local.lost:
                self.local = await local_executor(self._apps, self._share, self._core)

    async def _ensure_connected(self) -> None:
        async with self._connecting:
            if self._mec is None or self._credentials is None:
                raise ServerLostError("no MEC host")
            if self.server is None:
                try:
                    self.server = await Connection.open(self._mec, self._credentials, self._user)
                except InputError as error:  # the certificate has ended in the meantime, or files are missing
                    raise ServerLostError(str(error)) from None

    async def _leave(self, server: Connection | None) -> None:
        """Closes a failed connection, unless another one has replaced it."""
        async with self._connecting:
            if server is not None and self.server is server:
                await server.close()
                self.server = None

    async def run(
        self,
        program: Program,
        graph: TaskGraph,
        placement: np.ndarray,
        order: np.ndarray,
        arguments: Mapping[str, Any] | None = None,
        *,
        channel: str = "resident",
        power: Power | None = None,
        patience_s: float | None = None,
    ) -> Run:
        """Runs an application as planned.

        Args:
            program: its tasks.
            graph: its DAG.
            placement: int[n], 0 or 1: the planned site of each task. It must respect the pins.
            order: int[n], task ids in scheduling order, every parent before its children.
            arguments: values for the program's arguments.
            channel: channel rules of the plan: with "paper" results return, with "resident" they stay.
            power: power of the UE, for the measured energy.
            patience_s: seconds after which the rest runs without the MEC host; None for no limit.

        Raises:
            InputError: the arguments do not fit the program, the graph has another size, the placement or the order
                does not fit the graph, machines cannot follow the channel rules, `patience_s` is out of range, or a
                task is pinned to a server and there is no MEC host.
            TaskFailedError: a task raised an exception.
            ServerLostError: tasks pinned to a server found no server within `GIVE_UP_S`.
            LocalLostError: the local executor ended `MOST_TRIES` times without a new result.
        """
        check_choice("channel", channel, RULES)
        program.check_arguments(arguments or {})
        if graph.num_tasks != len(program.calls):
            raise InputError(f"graph has {graph.num_tasks} tasks; accepted: {len(program.calls)}, as the program")
        placement, order = check_placement(graph, placement), check_order(graph, order)
        if patience_s is not None:
            check_number("patience_s", patience_s, low=0.0, open_low=True)
        deadline = None if patience_s is None else time.monotonic() + patience_s
        if self._mec is None and (alone := [call.name for call in program.calls if call.pin == "server"]):
            raise InputError(f"mec is None, and {alone[0]} runs at a server only; accepted: the address of an MEC host")
        stays = CHANNELS[channel].results_stay
        there = {place: packed((arguments or {})[name]) for place, name in enumerate(program.arguments)}
        original = list(range(len(program.calls)))  # ids in the whole program, by id in the rest
        left, left_graph, sites, sequence = program, graph, placement, _arguments_first(program, order)
        began, setup_s, tries, lost, impatient = 0.0, 0.0, 0, 0, False
        spans: list[Span] = []
        events: list[tuple[float, str]] = []
        ran = np.zeros(len(program.calls), np.int32)
        pinned_since: float | None = None
        while True:
            attempt = _Attempt(left, left_graph, stays, sites, sequence)
            given = {task: there[original[task]] for task in left.given}
            failure: Exception | None = None
            answers = True
            server = self.server
            try:
                if attempt.server_order is not None:
                    answers = False
                    await self._ensure_connected()
                    answers, server = True, self.server
                await self._ensure_local()
                patient_s = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                await attempt.go(given, self.local, server, patient_s)
            except (ServerLostError, LocalLostError) as error:
                failure = error
            if attempt.begin:
                setup_s = setup_s or attempt.setup_s
                began = began or attempt.begin
            for span in attempt.spans:
                ran[original[span.task]] = {"UE": 0, "VM": 1}.get(span.resource, ran[original[span.task]])
                task, needed_by = original[span.task], original[span.needed_by]
                spans.append(Span(task, span.resource, span.start, span.end, needed_by))
            known = len(there)
            there |= {original[task]: body for task, body in attempt.results.items()}
            if failure is None:
                break
            began = began or time.monotonic()
            events.append((time.monotonic() - began, str(failure)))
            self._say(str(failure))
            rest, part, places = remaining(program, graph, there)
            original = sorted(places, key=places.__getitem__)
            is_new = len(there) > known
            if isinstance(failure, LocalLostError):
                lost = 1 if is_new else lost + 1
                if lost == MOST_TRIES:
                    raise failure
            else:
                tries += 1
                if not isinstance(failure, PatienceError | VmLostError):  # other runs use that connection
                    await self._leave(server)
            if isinstance(failure, PatienceError):
                impatient, deadline = True, None  # tasks pinned to a server have no time limit
            must = [call.pin == "server" for call in rest.calls]
            wants_server = answers and not impatient and tries < MOST_TRIES
            reachable = (wants_server or any(must)) and await self._reachable(events, began)
            if any(must) and not (reachable and tries < MOST_TRIES):
                pinned_since = time.monotonic() if is_new or pinned_since is None else pinned_since
                if time.monotonic() - pinned_since > GIVE_UP_S:
                    raise ServerLostError(
                        f"{rest.calls[must.index(True)].name} runs at a server only: {failure}"
                    ) from None
                await asyncio.sleep(0.5)
            wanted = np.array([placement[task] for task in original])
            sites = np.where(must, 1, np.where(wants_server and reachable, wanted, LOCAL))
            sites[: len(rest.given)] = LOCAL
            sites[[call.pin == "ue" for call in rest.calls]] = LOCAL
            sequence = _arguments_first(rest, [places[int(task)] for task in order if int(task) in places])
            left, left_graph = rest, part
        relative = sorted(
            (span._replace(start=span.start - began, end=span.end - began) for span in spans),
            key=lambda span: (span.start, span.end),
        )
        returned = resolved(program.returned, {task: unpacked(there[task]) for task in program.delivered})
        measured = _schedule(relative, graph.num_tasks, power or Power())
        return Run(
            returned, measured, tuple(relative), ran, _arguments_first(program, order), channel, tuple(events), setup_s
        )

    async def _reachable(self, events: list[tuple[float, str]], began: float) -> bool:
        """Returns whether the MEC host answers."""
        try:
            await self._ensure_connected()
        except ServerLostError as lost:
            if self._mec is not None:
                events.append((time.monotonic() - began, str(lost)))
            return False
        return True


def _schedule(spans: Sequence[Span], num_tasks: int, power: Power) -> Schedule:
    """Converts measured spans to a schedule."""
    ends = {resource: np.zeros(num_tasks) for resource in RESOURCES}
    busy = dict.fromkeys(RESOURCES, 0.0)
    for span in spans:
        task = span.needed_by if span.resource == "uplink" else span.task
        ends[span.resource][task] = max(ends[span.resource][task], span.end)
        busy[span.resource] += span.end - span.start
    makespan = max((span.end for span in spans if span.resource in ("UE", "downlink")), default=0.0)
    energy = power.compute_w * busy["UE"] + power.send_w * busy["uplink"] + power.receive_w * busy["downlink"]
    energy += power.idle_w * makespan
    return Schedule(makespan, ends["uplink"], ends["VM"], ends["downlink"], ends["UE"], energy)


def _arguments_first(program: Program, order: Any) -> np.ndarray:
    """Returns the order with the tasks of arguments first, since these are at the UE from the beginning."""
    given = len(program.arguments)
    return np.array([*range(given), *(int(task) for task in order if int(task) >= given)], np.int64)
