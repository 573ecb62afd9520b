"""A testbed on one machine: a UE and an MEC host with a link of given rates between them.

As root, each end has a network namespace of its own and the kernel shapes the link. Otherwise both are on loopback, and
a proxy of ours paces what they send. Where there are two cores, the UE has one and the MEC host with its VMs has the
other; the proxy may use either. The UE's clock is set by a quota of processor time, or by waiting after each
task where quotas cannot be set.
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
    """Both ends and what is between them.

    Args:
        system: one server; its rates are the link's, and its clocks have the ratio that the ends are given.
        names: the applications that the host has, as `cases.case` takes them.
        link: one of `LINKS`; None: namespaces where this machine can have them.
        vm: isolation of the VMs, one of `sandbox.KINDS`; None: bubblewrap where this machine can have it.

    Attributes:
        link: what the link is.
        vm: what isolates the VMs.
        clock: how the UE's clock is set, one of `CLOCKS`.
        cores: processor cores of the UE and of the MEC host with its VMs; None where there are not two.

    Raises:
        InputError: several servers, a VM that is slower than the UE, or a link or isolation that this machine has not.
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
        """One of the applications, measured here and now at both ends' cores and clocks.

        Args:
            name: of the application.
            arguments: of it; None: those of its example.

        Raises:
            InputError: as `cases.case` does.
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
        """Where the UE finds the MEC host."""
        if self._shaped is not None:
            return f"{self._shaped.mec_address}:{self._port}"
        assert self._paced is not None
        return f"127.0.0.1:{self._paced.port}"

    def ue(self, app: str, **more: Any) -> Ue:
        """The UE; to be entered within `at_ue`.

        Args:
            app: the application that it runs: loading others would take long at its clock.
            more: further arguments of `Ue`.
        """
        core = self.cores[0] if self.cores else None
        return Ue([app], self.address, self._credentials, USER, share=self._share, core=core, **more)

    @contextlib.contextmanager
    def at_ue(self) -> Iterator[None]:
        """This thread, and those that it starts, on the UE's side of the link and on its core."""
        with _at(self.cores and self.cores[0], self._shaped.ue if self._shaped else None):
            yield

    def runs(self, case: Case, system: System, plans: Mapping[str, Plan], count: int) -> list[tuple[str, int, Run]]:
        """Runs an application under each plan in turns, so that what disturbs the machine disturbs all.

        Args:
            case: the application.
            system: that it is planned for, with the rule of the runs.
            plans: by name.
            count: runs of each, after one of the first plan that wakes both ends up and is not counted.

        Returns:
            (name of the plan, number of the run, run) in the order of the runs.

        Raises:
            InputError, TaskFailedError, ServerLostError, LocalLostError: as `Ue.run` does.
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
        """Starts the MEC host, at the port that it had where it is started again.

        Raises:
            InputError: it does not serve; the error has its last words.
        """
        name = "127.0.0.1" if self._shaped is None else self._shaped.mec_address
        core = self.cores and self.cores[1]
        # Not by `ip netns exec`, which hides the control groups.
        with _at(core, self._shaped.mec if self._shaped else None):
            self._host = HostProcess(
                self._apps, self._credentials, listen=f"{name}:{self._port}", vm=self.vm, core=core
            )
        self._port = self._host.port

    def kill_host(self) -> None:
        """Ends the MEC host as a failure would."""
        if self._host is not None:
            self._host.kill()
            self._host = None


@contextlib.contextmanager
def _at(core: int | None, namespace: str | None) -> Iterator[None]:
    """This thread, and what it starts, on a core and in a network namespace; None: where it is."""
    with contextlib.ExitStack() as stack:
        if core is not None:
            stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
            os.sched_setaffinity(0, {core})
        if namespace is not None:
            stack.enter_context(_inside(namespace))
        yield


@contextlib.contextmanager
def _inside(namespace: str) -> Iterator[None]:
    """This thread, and those that it starts, in a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{namespace}") as target:
        if libc.setns(target.fileno(), _NEW_NETWORK):
            raise OSError(ctypes.get_errno(), f"network namespace {namespace} cannot be entered")
        try:
            yield
        finally:
            libc.setns(before.fileno(), _NEW_NETWORK)
