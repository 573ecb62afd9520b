"""Several processes that train one run: they connect, agree on values, and detect the loss of a process.

Every process runs the same program on the same settings and data. Only the first process reads and writes the run
folder.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from mrlato_jax.errors import InputError, check_number, shorten
from mrlato_jax.learning import devices

SAY_AFTER_S = 3  # seconds of waiting before the first message
LOST_PEER = 75  # exit status EX_TEMPFAIL: all processes can be started again
_GONE = (
    "error: this or another process of the run ended or cannot be reached, so all end. The last checkpoint is kept: "
    "start every process again with --resume"
)


def join(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    heartbeat_timeout_s: int = 100,
    join_timeout_s: int = 100,
) -> None:
    """Connects to the run's other processes. Call this before any other use of JAX.

    If not all connect in time, the process prints who is missing and exits with status `LOST_PEER`. The first process
    listens only at the coordinator's host if that is an address of its machine, unless JAX_COORDINATOR_BIND_ADDRESS is
    set.

    Args:
        coordinator: host:port of the first process. If this and the next two are None, a scheduler (SLURM, Open MPI,
            ...) provides all three.
        num_processes: number of processes.
        process_id: number of this process, from 0.
        heartbeat_timeout_s: seconds of silence after which a process counts as lost.
        join_timeout_s: seconds within which all processes must connect.

    Raises:
        InputError: only some of the first three are given, a value is out of range, no scheduler provides them, or the
            port is in use.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise InputError(
            f"{', '.join(missing)} not given; accepted: coordinator, num_processes and process_id together, or none of "
            "them under a scheduler such as SLURM"
        )
    if num_processes is not None and process_id is not None:
        check_number("num_processes", num_processes, low=1, integer=True)
        check_number("process_id", process_id, low=0, high=num_processes - 1, integer=True)
    check_number("heartbeat_timeout_s", heartbeat_timeout_s, low=1, integer=True)
    check_number("join_timeout_s", join_timeout_s, low=1, high=24 * 3600, integer=True)
    bind_address = None
    if coordinator is not None:
        host, port = _host_and_port(coordinator)
        if process_id == 0 and "JAX_COORDINATOR_BIND_ADDRESS" not in os.environ:
            bind_address = f"{_listen_at(host, port)}:{port}"
    try:
        with _impatience(coordinator, num_processes, process_id, join_timeout_s):
            jax.distributed.initialize(
                coordinator,
                num_processes,
                process_id,
                initialization_timeout=join_timeout_s + 60,  # after this time, JAX aborts the process
                coordinator_bind_address=bind_address,
                heartbeat_timeout_seconds=heartbeat_timeout_s,
            )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"cannot join the other processes ({reason}); accepted: a reachable coordinator, num_processes and "
            "process_id, or a scheduler that provides them"
        ) from None


def _host_and_port(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"coordinator is {shorten(coordinator)}; accepted: host:port, the port from 1 to 65535")
    return host, int(port)


def _listen_at(host: str, port: int) -> str:
    """Returns the address to listen at: that of `host` if it belongs to this machine, otherwise all addresses.

    If the machine resolves the name to a loopback address (127.0.1.1 in some hosts files), the other processes cannot
    reach that address, so all addresses are used.

    Raises:
        InputError: the port is in use; JAX would end with a segmentation fault.
    """
    plain = host.removeprefix("[").removesuffix("]")
    try:
        family, _, _, _, address = socket.getaddrinfo(plain, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        return _everywhere(host, port)
    given_as_address = plain in ("localhost", address[0])
    if ipaddress.ip_address(address[0]).is_loopback and not given_as_address:
        return _everywhere(host, port)
    try:
        _probe(family, address, host, port)
    except OSError:  # an address of another machine, or one that a NAT translates to this machine's
        return _everywhere(host, port)
    return f"[{address[0]}]" if family == socket.AF_INET6 else str(address[0])


def _everywhere(host: str, port: int) -> str:
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    _probe(family, ("", port), host, port)
    return "[::]" if family == socket.AF_INET6 else "0.0.0.0"


def _probe(family: int, address: Any, host: str, port: int) -> None:
    """Raises InputError if the port is in use or not allowed, OSError if this machine lacks the address."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just closed counts as free
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            why = "in use" if error.errno == errno.EADDRINUSE else "not allowed"
            raise InputError(f"coordinator is {host}:{port}, a port that is {why}; accepted: a free port") from None


@contextmanager
def _impatience(
    coordinator: str | None, num_processes: int | None, process_id: int | None, timeout_s: int
) -> Iterator[None]:
    """Context that prints who is missing and ends the process after the timeout; JAX would abort without a message."""
    others = "the other processes" if num_processes is None else f"all {num_processes} processes"
    where = "" if coordinator is None else f" at {coordinator}"
    waits_for = others + where if not process_id else f"process 0{where}"

    def say() -> None:
        print(f"waiting for {waits_for}, at most {timeout_s} s", file=sys.stderr, flush=True)

    def give_up() -> None:
        missing = f"{waits_for} did not come"
        if process_id and coordinator is not None:
            missing = f"process 0 answers{where}, but not {others} came" if _answers(coordinator) else missing
        print(
            f"error: {missing} within {timeout_s} s; start every process again, with the same coordinator and "
            "num_processes, or a higher join_timeout_s",
            file=sys.stderr,
            flush=True,
        )
        os._exit(LOST_PEER)

    timers = [threading.Timer(min(SAY_AFTER_S, timeout_s / 2), say), threading.Timer(timeout_s, give_up)]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def _answers(coordinator: str) -> bool:
    host, port = _host_and_port(coordinator)
    try:
        socket.create_connection((host.removeprefix("[").removesuffix("]"), port), timeout=2).close()
    except OSError:
        return False
    return True


def is_first() -> bool:
    """Returns whether this is the process that reads and writes files."""
    return jax.process_index() == 0


def any_of_all(flag: bool) -> bool:
    """Returns whether `flag` is true in any process. All processes must call this."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def from_first(tree: Any) -> Any:
    """Returns the first process's values in every process; shapes must agree, and typed keys are supported."""
    if jax.process_count() == 1:
        return tree
    plain, typed = devices.without_keys(tree)
    return typed(jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(plain)))


def text_from_first(text: str) -> str:
    """Returns the first process's text in every process."""
    if jax.process_count() == 1:
        return text
    data = np.frombuffer(text.encode(), np.uint8)
    size = int(from_first(np.asarray(data.size)))
    return from_first(np.resize(data, size) if data.size else np.zeros(size, np.uint8)).tobytes().decode()


@contextmanager
def agreed() -> Iterator[None]:
    """Context for a step that may fail in one process, such as the first one: then every process fails.

    Raises:
        InputError: in the processes that did not fail themselves.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    if any_of_all(failure is not None):
        raise failure or InputError("another process of this run failed; its own output says why")


class _Alarm:
    """A child process that prints `_GONE` if this process ends without calling `off`.

    JAX may abort this process outside Python after the loss of another one.
    """

    def __init__(self) -> None:
        script = f'read line || echo "{_GONE}" >&2'
        self._child = subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True)

    def off(self) -> None:
        """Ends the child; further calls have no effect."""
        if self._child.stdin is not None and not self._child.stdin.closed:
            with suppress(BrokenPipeError):
                self._child.stdin.write(b"ended\n")
                self._child.stdin.close()
        self._child.wait()


_alarm: _Alarm | None = None


def leave_without_alarm() -> None:
    """Suppresses the message on a lost process, for a process that ends at once and prints its own reason."""
    if _alarm is not None:
        _alarm.off()


@contextmanager
def watched() -> Iterator[None]:
    """Context for all work of several processes. If one ends early, all end with a clear message.

    After its own failure a process exits with the same status as a single process would; after the loss of another
    process, with `LOST_PEER`. At the end of the context the processes disconnect.
    """
    global _alarm
    if jax.process_count() == 1:
        yield
        return
    _alarm = _Alarm()
    try:
        yield
        jax.distributed.shutdown()  # no joint computation follows
    except BaseException as error:
        # The others wait for this process in a computation; they notice when it exits.
        status = _tell(error)
        _alarm.off()
        sys.stdout.flush()
        os._exit(status)
    _alarm.off()


def _tell(error: BaseException) -> int:
    """Prints what ended this process and returns its exit status."""
    if _is_loss(error):
        print(f"{_GONE} ({str(error).splitlines()[0]})", file=sys.stderr, flush=True)
        return LOST_PEER
    if isinstance(error, (InputError, OSError)):
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, InputError) else 1
    traceback.print_exception(error)
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _is_loss(error: BaseException) -> bool:
    """Returns whether an error of XLA, or of Gloo (which connects hosts without GPUs), means a lost process."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return "RESOURCE_EXHAUSTED" not in str(error)
    return isinstance(error, ValueError) and not isinstance(error, InputError) and "Gloo" in str(error)
