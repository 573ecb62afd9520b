"""A testbed on one machine: a UE and an MEC host with a link of given rates between them.

As root, each end has its own network namespace, and the kernel shapes the link. Otherwise both ends are on loopback,
and a proxy paces their traffic. On two or more cores, the UE has one core and the MEC host with its VMs another; the
proxy may use either. A quota of processor time sets the UE's clock; if quotas cannot be set, the UE waits after each
task.

A `Disturbance` makes the testbed differ from the system for which applications are planned: other clocks and rates, a
half-duplex link, rates that change while applications run.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import dataclasses
import math
import os
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.edge import certificates, namespaces, sandbox
from mrlato_jax.edge.cases import DAGS, Case, Place, apart, case, deployed, one
from mrlato_jax.edge.dags import program_of
from mrlato_jax.edge.host_process import HostProcess
from mrlato_jax.edge.link import LinkProcess, Rates, start_process
from mrlato_jax.edge.namespaces import ShapedLink
from mrlato_jax.edge.ue import Run, Ue
from mrlato_jax.errors import InputError, check_choice, check_type, shorten
from mrlato_jax.mec.disturbance import Disturbance, world_of
from mrlato_jax.mec.execution import UNDISTURBED
from mrlato_jax.mec.system import System
from mrlato_jax.planners import Plan

LINKS = ("netns", "paced")
CLOCKS = ("quota", "waiting")
USER = "ue"
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET


class Bed:
    """The testbed: a UE, an MEC host, and the link between them.

    Args:
        system: a system with one server. The link has its rates; the clocks of the two ends have its ratio.
        names: the applications of the host, as in `cases.case`.
        link: one of `LINKS`; by default namespaces if this machine supports them and the rates do not change.
        vm: isolation of the VMs, one of `sandbox.KINDS`; by default bubblewrap if this machine supports it.
        disturbance: how the testbed differs from the system, without jitter and slow VMs. A half-duplex link needs the
            proxy; there, packets go in the order in which they come, in whichever direction.

    Attributes:
        link: kind of the link.
        vm: isolation of the VMs.
        clock: how the UE's clock is set, one of `CLOCKS`.
        cores: processor cores of the UE and of the MEC host with its VMs; None with fewer than two cores.

    Raises:
        InputError: there are several servers, the VM is slower than the UE, the testbed cannot make the disturbance, or
            this machine lacks the link or the isolation.
    """

    def __init__(
        self,
        system: System,
        names: Sequence[str],
        *,
        link: str | None = None,
        vm: str | None = None,
        disturbance: Disturbance = UNDISTURBED,
    ) -> None:
        check_type("system", system, System)
        check_type("disturbance", disturbance, Disturbance)
        if system.num_servers != 1:
            raise InputError(f"system has {system.num_servers} servers; accepted: 1")
        if wrong := cannot_make(disturbance):
            raise InputError(wrong)
        self._system, self._disturbance = system, disturbance
        self._real = real_system(system, disturbance)
        self._share = one(self._real.ue_hz) / one(self._real.vm_hz)
        if self._share > 1:
            where, hertz = "system" if self._real == system else "disturbed system", self._real.ue_hz
            raise InputError(
                f"{where} has a UE at {hertz:g} Hz; accepted: at most the VM's clock, {self._real.vm_hz:g} Hz"
            )
        self._rates = Rates(one(self._real.uplink_bps), one(self._real.downlink_bps))
        missing = "disturbance.half_duplex is True" if disturbance.half_duplex else namespaces.available()
        if link == "netns" and missing:
            raise InputError(f"link is netns, but {missing}; accepted: paced")
        # Each change of the rates in namespaces starts two processes, beside those that are measured.
        self.link = link or ("paced" if missing or changes(disturbance) else "netns")
        check_choice("link", self.link, LINKS)
        self.vm = vm or ("process" if sandbox.lacks() else "bubblewrap")
        sandbox.check_kind(self.vm)
        self.clock = CLOCKS[sandbox.limits() == "rlimit"]
        allowed = sorted(os.sched_getaffinity(0))
        self.cores = (allowed[0], allowed[-1]) if len(allowed) > 1 else None
        self._apps = sorted({deployed(name) for name in names})
        self._stack = contextlib.ExitStack()
        self._host: HostProcess | None = None
        self._shaped: ShapedLink | None = None
        self._paced: LinkProcess | None = None
        self._changed: Future[None] | None = None
        self._port = 0

    def case(self, name: str, arguments: Mapping[str, Any] | None = None) -> Case:
        """Measures one of the applications with the cores and clocks of both ends.

        Args:
            name: name of the application.
            arguments: its arguments; by default those of its example.

        Returns:
            The application. Its system is the one to plan for: without the disturbance, the UE's clock as measured.

        Raises:
            InputError: as in `cases.case`.
        """
        ue_core, vm_core = self.cores or (None, None)
        found = case(name, self._real, arguments, ue=Place(self._share, ue_core), vm=Place(1.0, vm_core))
        slower = one(found.system.ue_hz) / one(self._real.ue_hz)
        return found._replace(system=dataclasses.replace(self._system, ue_hz=one(self._system.ue_hz) * slower))

    def __enter__(self) -> Self:
        try:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mrlato-testbed-")))
            self._credentials = folder
            hosts = ["localhost", "127.0.0.1"]
            if self.link == "netns":
                self._shaped = self._stack.enter_context(ShapedLink(self._rates))
                hosts.append(self._shaped.mec_address)
            certificates.make(folder, [USER], hosts)
            self._stack.callback(self.kill_host)
            self.start_host()
            if self.link == "paced":
                target = "127.0.0.1", self._port
                paced = start_process(target, self._rates, self._disturbance.half_duplex)
                self._paced = self._stack.enter_context(paced)
            if changes(self._disturbance):
                self._stack.enter_context(self._changing())
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def address(self) -> str:
        """The address at which the UE reaches the MEC host."""
        if self._shaped is not None:
            return f"{self._shaped.mec_address}:{self._port}"
        assert self._paced is not None
        return f"127.0.0.1:{self._paced.port}"

    def ue(self, app: str, **more: Any) -> Ue:
        """Returns the UE; enter its context within `at_ue`.

        Args:
            app: the application that it runs; loading others would take long at the UE's clock.
            more: further arguments of `Ue`.
        """
        core = self.cores[0] if self.cores else None
        return Ue([app], self.address, self._credentials, USER, share=self._share, core=core, **more)

    @contextlib.contextmanager
    def at_ue(self) -> Iterator[None]:
        """Context that moves this thread, and threads that it starts, to the UE's side of the link and to its core."""
        with _at(self.cores and self.cores[0], self._shaped.ue if self._shaped else None):
            yield

    def runs(self, case: Case, system: System, plans: Mapping[str, Plan], count: int) -> list[tuple[str, int, Run]]:
        """Runs an application with all plans in turn, so that disturbances of the machine affect all plans.

        Args:
            case: the application.
            system: the system used for the plans, with the channel rules of the runs.
            plans: plans by name.
            count: number of runs of each plan; one warm-up run of the first plan is not counted.

        Returns:
            (name of the plan, number of the run, run) in the order of the runs.

        Raises:
            InputError, TaskFailedError, ServerLostError, LocalLostError: as in `Ue.run`.
        """

        async def every() -> list[tuple[str, int, Run]]:
            async with self.ue(case.app) as ue:

                async def once(plan: Plan) -> Run:
                    return await ue.run(
                        case.program, case.graph, plan.placement, plan.order, case.arguments, channel=system.channel,
                        power=system.power,
                    )  # fmt: skip

                await once(next(iter(plans.values())))
                return [(name, number, await once(plan)) for number in range(count) for name, plan in plans.items()]

        def there() -> list[tuple[str, int, Run]]:
            with self.at_ue():
                return asyncio.run(every())

        return apart(there)

    @contextlib.contextmanager
    def executing(self) -> Iterator[Callable[[TaskGraph, np.ndarray, np.ndarray], Run]]:
        """Context of a function that runs a plan of a DAG once: `run(graph, placement, order)`.

        A run in which something failed has `events`; its placement may be another one. The function raises what
        `Ue.run` raises, and InputError after the end of the context.

        Raises:
            InputError: no application of the host is a DAG, such as exp2:n20:0; with one, the host runs any DAG.
        """
        if DAGS not in self._apps:
            raise InputError(f"names are {shorten(self._apps)}; accepted for executing: a DAG among them")
        machine_hz = one(self._real.vm_hz)

        async def serve(calls: queue.SimpleQueue[_Call | None]) -> None:
            async with self.ue(DAGS) as ue:
                while (call := await asyncio.to_thread(calls.get)) is not None:
                    try:
                        program = program_of(call.graph, machine_hz)
                        run = await ue.run(
                            program, call.graph, call.placement, call.order, channel=self._system.channel,
                            power=self._system.power,
                        )  # fmt: skip
                        call.result.set_result(run)
                    except Exception as error:
                        call.result.set_exception(error)

        def there(calls: queue.SimpleQueue[_Call | None]) -> None:
            with self.at_ue():
                asyncio.run(serve(calls))

        calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        with ThreadPoolExecutor(1) as pool:
            served = pool.submit(there, calls)

            def run(graph: TaskGraph, placement: np.ndarray, order: np.ndarray) -> Run:
                call = _Call(graph, placement, order, Future())
                calls.put(call)
                both: tuple[Future[Any], ...] = call.result, served
                wait(both, return_when=FIRST_COMPLETED)
                if self._changed is not None and self._changed.done():
                    self._changed.result()  # raises what ended the changes of the rates
                if served.done() and not call.result.done():
                    served.result()  # raises what ended the UE
                    raise InputError("run is called after the end of its context; accepted: calls within the context")
                return call.result.result()

            try:
                yield run
            finally:
                calls.put(None)
        served.result()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Context in which the rates change as the disturbance says."""
        over = threading.Event()

        def change() -> None:
            begin = time.monotonic()
            for until, factor in factors(self._disturbance):
                if begin + until < time.monotonic():
                    continue
                rates = Rates(self._rates.uplink_bps * factor, self._rates.downlink_bps * factor)
                (self._shaped or self._paced).set_rates(rates)  # type: ignore[union-attr]
                if over.wait(max(0.0, begin + until - time.monotonic())):
                    return

        with ThreadPoolExecutor(1) as pool:
            self._changed = pool.submit(change)
            try:
                yield
            finally:
                over.set()

    def start_host(self) -> None:
        """Starts the MEC host; after a kill, at the same port.

        Raises:
            InputError: the host does not start; the message has its last output.
        """
        name = "127.0.0.1" if self._shaped is None else self._shaped.mec_address
        core = self.cores and self.cores[1]
        # Without `ip netns exec`, which hides the control groups.
        with _at(core, self._shaped.mec if self._shaped else None):
            self._host = HostProcess(
                self._apps, self._credentials, listen=f"{name}:{self._port}", vm=self.vm, core=core
            )
        self._port = self._host.port

    def kill_host(self) -> None:
        """Kills the MEC host, like a failure."""
        if self._host is not None:
            self._host.kill()
            self._host = None


class _Call(NamedTuple):
    graph: TaskGraph
    placement: np.ndarray
    order: np.ndarray
    result: Future[Run]


def cannot_make(disturbance: Disturbance) -> str | None:
    """Returns what the testbed cannot make of a disturbance; None if it makes all."""
    for name in ("jitter", "vm_slowdown"):
        value, none = getattr(disturbance, name), getattr(UNDISTURBED, name)
        if value != none:
            return f"disturbance.{name} is {value!r}; accepted on the testbed: {none!r}"
    return None


def real_system(system: System, disturbance: Disturbance) -> System:
    """Returns the system with the clocks and rates of the disturbance's world, one server."""
    world = world_of(disturbance, 1, np.float64)
    return dataclasses.replace(
        system,
        ue_hz=one(system.ue_hz) / float(world.ue),
        vm_hz=one(system.vm_hz) / float(world.vm[0]),
        uplink_bps=one(system.uplink_bps) / float(world.uplink[0]),
        downlink_bps=one(system.downlink_bps) / float(world.downlink[0]),
    )


def changes(disturbance: Disturbance) -> bool:
    """Returns whether the rates change while applications run."""
    return disturbance.share < 1 or disturbance.rate_changes_within > 1


def factors(disturbance: Disturbance) -> Iterator[tuple[float, float]]:
    """Yields the factor of the rates over time, without end: pairs of an end, in seconds, and the factor until then."""
    rng = np.random.default_rng([disturbance.seed, 1])
    widest = math.log(disturbance.rate_changes_within)
    is_shared, share_until, factor, factor_until = bool(rng.integers(2)), 0.0, 1.0, 0.0
    while True:
        now = min(share_until, factor_until)
        if share_until <= now:
            is_shared = not is_shared and disturbance.share < 1
            share_until = now + (rng.exponential(disturbance.share_s) if disturbance.share < 1 else math.inf)
        if factor_until <= now:
            factor = math.exp(rng.uniform(-widest, widest))
            factor_until = now + (disturbance.rate_period_s if widest else math.inf)
        yield min(share_until, factor_until), factor * (disturbance.share if is_shared else 1.0)


@contextlib.contextmanager
def _at(core: int | None, namespace: str | None) -> Iterator[None]:
    """Context that moves this thread, and all that it starts, to a core and a network namespace; None: no move."""
    with contextlib.ExitStack() as stack:
        if core is not None:
            stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
            os.sched_setaffinity(0, {core})
        if namespace is not None:
            stack.enter_context(_inside(namespace))
        yield


@contextlib.contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """Context that moves this thread, and threads that it starts, into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{namespace}") as target:
        if libc.setns(target.fileno(), _NEW_NETWORK):
            raise OSError(ctypes.get_errno(), f"network namespace {namespace} cannot be entered")
        try:
            yield
        finally:
            libc.setns(before.fileno(), _NEW_NETWORK)
