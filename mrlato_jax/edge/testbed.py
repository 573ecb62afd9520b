"""A testbed on one machine: a UE and an MEC host with a link of given rates between them.

As root, each end has its own network namespace, and the kernel shapes the link. Otherwise both ends are on loopback,
and a proxy paces their traffic. On two or more cores, the UE has one core and the MEC host with its VMs another; the
proxy may use either. A quota of processor time sets the UE's clock; if quotas cannot be set, the UE waits after each
task.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from mrlato_jax.edge import certificates, namespaces, sandbox
from mrlato_jax.edge.cases import Case, Place, apart, case, deployed, one
from mrlato_jax.edge.host_process import HostProcess
from mrlato_jax.edge.link import LinkProcess, Rates, start_process
from mrlato_jax.edge.namespaces import ShapedLink
from mrlato_jax.edge.ue import Run, Ue
from mrlato_jax.errors import InputError, check_choice, check_type
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
        link: one of `LINKS`; by default namespaces if this machine supports them.
        vm: isolation of the VMs, one of `sandbox.KINDS`; by default bubblewrap if this machine supports it.

    Attributes:
        link: kind of the link.
        vm: isolation of the VMs.
        clock: how the UE's clock is set, one of `CLOCKS`.
        cores: processor cores of the UE and of the MEC host with its VMs; None with fewer than two cores.

    Raises:
        InputError: there are several servers, the VM is slower than the UE, or this machine lacks the link or the
            isolation.
    """

    def __init__(self, system: System, names: Sequence[str], *, link: str | None = None, vm: str | None = None) -> None:
        check_type("system", system, System)
        if system.num_servers != 1:
            raise InputError(f"system has {system.num_servers} servers; accepted: 1")
        self._system, self._share = system, one(system.ue_hz) / one(system.vm_hz)
        if self._share > 1:
            raise InputError(
                f"system has a UE at {system.ue_hz} Hz; accepted: at most the VM's clock, {system.vm_hz} Hz"
            )
        self._rates = Rates(one(system.uplink_bps), one(system.downlink_bps))
        missing = namespaces.available()
        if link == "netns" and missing:
            raise InputError(f"link is netns, but {missing}; accepted: paced")
        self.link = link or ("paced" if missing else "netns")
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
        self._port = 0

    def case(self, name: str, arguments: Mapping[str, Any] | None = None) -> Case:
        """Measures one of the applications with the cores and clocks of both ends.

        Args:
            name: name of the application.
            arguments: its arguments; by default those of its example.

        Raises:
            InputError: as in `cases.case`.
        """
        ue_core, vm_core = self.cores or (None, None)
        return case(name, self._system, arguments, ue=Place(self._share, ue_core), vm=Place(1.0, vm_core))

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
                self._paced = self._stack.enter_context(start_process(("127.0.0.1", self._port), self._rates))
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
