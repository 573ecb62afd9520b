"""Several processes that train one run: how they find each other, agree, and learn that one of them is gone.

Every process runs the same program on the same settings and data; the first one alone reads and writes the
run's folder.
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

SAY_AFTER_S = 3  # seconds without a word while processes meet
LOST_PEER = 75  # exit status, EX_TEMPFAIL: start all processes again
_GONE = (
    "error: this or another process of the run ended or cannot be reached, so all end. What was saved last stays: "
    "start every process again with --resume"
)


def join(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    heartbeat_timeout_s: int = 100,
    join_timeout_s: int = 100,
) -> None:
    """Meets the run's other processes; call it before anything else of JAX.

    Where they do not all come in time, one line says who is missing and the process ends, exit status `LOST_PEER`. The
    first process listens at the coordinator's host alone, where that is an address of its machine and
    JAX_COORDINATOR_BIND_ADDRESS does not say otherwise.

    Args:
        coordinator: host:port of the first process. With this and the two below None, a scheduler (SLURM, Open MPI,
            ...) is asked.
        num_processes: how many there are.
        process_id: this one's number, from 0.
        heartbeat_timeout_s: seconds of silence after which a process counts as lost.
        join_timeout_s: seconds that they may take to meet.

    Raises:
        InputError: some but not all of the three given, a value out of range, no scheduler that tells, or a port that
            is in use.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if missing and len(missing) < len(given):
        raise InputError(
            f"{', '.join(missing)} not given; accepted: coordinator, num_processes and process_id together, or none of "
            "them where a scheduler such as SLURM tells"
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
                initialization_timeout=join_timeout_s + 60,  # where that passes, JAX aborts the process
                coordinator_bind_address=bind_address,
                heartbeat_timeout_seconds=heartbeat_timeout_s,
            )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"cannot join the other processes ({reason}); accepted: a reachable coordinator, num_processes and "
            "process_id, or a scheduler that tells them"
        ) from None


def _host_and_port(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"coordinator is {shorten(coordinator)}; accepted: host:port, the port from 1 to 65535")
    return host, int(port)


def _listen_at(host: str, port: int) -> str:
    """The host that the coordinator listens at: the one given, if it is of this machine; else all of them.

    A name that stands for this machine itself (as 127.0.1.1 does in some machines' own tables) is not what the others
    know it by, so all are listened at.

    Raises:
        InputError: something else listens there, which JAX would end in a segmentation fault for.
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
    except OSError:  # an address of another machine, or one that is translated to this one's
        return _everywhere(host, port)
    return f"[{address[0]}]" if family == socket.AF_INET6 else str(address[0])


def _everywhere(host: str, port: int) -> str:
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    _probe(family, ("", port), host, port)
    return "[::]" if family == socket.AF_INET6 else "0.0.0.0"


def _probe(family: int, address: Any, host: str, port: int) -> None:
    """Raises InputError where something listens there already, OSError where this machine cannot listen there."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that was closed a moment ago is free
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
    """Within, says what is waited for, and ends the process where that takes too long: JAX says nothing, and aborts."""
    others = "the other processes" if num_processes is None else f"all {num_processes} processes"
    where = "" if coordinator is None else f" at {coordinator}"
    waits_for = others + where if not process_id else f"process 0{where}"

    def say() -> None:
        print(f"waiting for {waits_for}, at most {timeout_s} s", file=sys.stderr, flush=True)

    def give_up() -> None:
        missing = f"{waits_for} did not come"
        if process_id and coordinator is not None:
            missing = f"process 0 answers{where}, and not {others} came" if _answers(coordinator) else missing
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
    """Whether this process reads and writes for all."""
    return jax.process_index() == 0


def any_of_all(flag: bool) -> bool:
    """Whether `flag` is true in any process; all must ask."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))


def from_first(tree: Any) -> Any:
    """The first process's values, in every process: arrays of the same shapes everywhere, typed keys included."""
    if jax.process_count() == 1:
        return tree
    plain, typed = devices.without_keys(tree)
    return typed(jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(plain)))


def text_from_first(text: str) -> str:
    """The first process's text, in every process."""
    if jax.process_count() == 1:
        return text
    data = np.frombuffer(text.encode(), np.uint8)
    size = int(from_first(np.asarray(data.size)))
    return from_first(np.resize(data, size) if data.size else np.zeros(size, np.uint8)).tobytes().decode()


@contextmanager
def agreed() -> Iterator[None]:
    """For a step that may fail in one process, the first's own work included: where it does, every process fails.

    Raises:
        InputError: in the processes that did not fail themselves.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        failure = error
    if any_of_all(failure is not None):
        raise failure or InputError("another process of this run could not go on; its own output says why")


class _Alarm:
    """A small child that says `_GONE` when this process ends without having told it that all is well.

    JAX may abort a process from outside Python when another is gone.
    """

    def __init__(self) -> None:
        script = f'read line || echo "{_GONE}" >&2'
        self._child = subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.PIPE, start_new_session=True)

    def off(self) -> None:
        """Ends the child; more than once changes nothing."""
        if self._child.stdin is not None and not self._child.stdin.closed:
            with suppress(BrokenPipeError):
                self._child.stdin.write(b"ended\n")
                self._child.stdin.close()
        self._child.wait()


_alarm: _Alarm | None = None


def leave_without_alarm() -> None:
    """For a process that ends at once and says why itself: the line on a lost process is not said for it."""
    if _alarm is not None:
        _alarm.off()


@contextmanager
def watched() -> Iterator[None]:
    """For all that processes do together: at its end they part, and where one ends before, all end with a clear line.

    What ends a process by itself gives the exit status that it has in a single one; the loss of another `LOST_PEER`.
    """
    global _alarm
    if jax.process_count() == 1:
        yield
        return
    _alarm = _Alarm()
    try:
        yield
        jax.distributed.shutdown()  # nothing is computed together any more
    except BaseException as error:
        # The others wait for this process in a computation; leaving at once is how they hear of it.
        status = _tell(error)
        _alarm.off()
        sys.stdout.flush()
        os._exit(status)
    _alarm.off()


def _tell(error: BaseException) -> int:
    """Says what ended this process, and returns its exit status."""
    if _is_loss(error):
        print(f"{_GONE} ({str(error).splitlines()[0]})", file=sys.stderr, flush=True)
        return LOST_PEER
    if isinstance(error, (InputError, OSError)):
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, InputError) else 1
    traceback.print_exception(error)
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _is_loss(error: BaseException) -> bool:
    """Whether another process is gone, as XLA says it or Gloo, which exchanges arrays between hosts without GPUs."""
    if isinstance(error, jax.errors.JaxRuntimeError):
        return "RESOURCE_EXHAUSTED" not in str(error)
    return isinstance(error, ValueError) and not isinstance(error, InputError) and "Gloo" in str(error)
