"""Processes that this one starts, and one that was forked.

Those that are started here end when this one does, however that ends: SIGKILL leaves no orphans. Each holds the read
end of a pipe whose write end its parent alone has. The kernel closes that with the parent, and a thread of the child
that waits for it ends the child.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path

_FORKED = (
    "this process was forked from one that had computed, and JAX's threads do not survive a fork: computing "
    "here would wait for ever; fork before the first plan, or start processes by spawn or forkserver"
)
_computes, _forked = False, False
_ORPHANED = 1  # exit status
_WATCH = "import os, threading\nthreading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()\n"
_SCRIPT = "import runpy, sys\nsys.argv.pop(0)\nsys.path[0] = os.path.dirname(sys.argv[0])\n"
_RUN = "runpy.run_path(sys.argv[0], run_name='__main__')\n"


def end_with_parent() -> None:
    """For a process that `multiprocessing` started: ends it as soon as its parent has ended. Call it first."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(_ORPHANED)

    threading.Thread(target=watch, daemon=True).start()


def end_with_input() -> None:
    """Ends this process with the one that has the write end of its standard input.

    For a process whose parent was started by `start_python` and gave it its own standard input.
    """
    exec(_WATCH, {})


def run_python(
    program: str | Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a Python program in a fresh interpreter to its end.

    Args:
        program: its text, or the file that it is in; it must not read standard input.
        arguments: from `sys.argv[1]` on.
        environment: variables beside this process's.

    Returns:
        Its exit status and standard output; standard error is this process's.
    """
    with subprocess.Popen(
        _words(program, arguments),
        env={**os.environ, **(environment or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        try:
            output = child.stdout.read()  # `communicate` would close the pipe that says that we are there
            status = child.wait()
        except BaseException:
            child.kill()
            raise
    return subprocess.CompletedProcess(child.args, status, output)


def start_python(
    program: str | Path, *arguments: str, log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a Python program in a fresh interpreter, which runs beside this one; `end` ends it.

    Args:
        program: its text, or the file that it is in; it must not read standard input.
        arguments: from `sys.argv[1]` on.
        log: the file that it writes to, behind what is there; its folder is where the program runs.
        environment: variables beside this process's.
    """
    with open(log, "ab") as file:
        return subprocess.Popen(
            _words(program, arguments),
            env={**os.environ, **(environment or {})},
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            cwd=log.parent,
        )


def end(child: subprocess.Popen[bytes]) -> None:
    """Ends a process that `start_python` started, at once."""
    child.kill()
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _words(program: str | Path, arguments: Sequence[str]) -> list[str]:
    words = [_WATCH + _SCRIPT + _RUN, str(program)] if isinstance(program, Path) else [_WATCH + program]
    return [sys.executable, "-c", *words, *arguments]


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens at, for a program that takes one by its number."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def about_to_compute() -> None:
    """For what leads to JAX: raises in a process that was forked after its parent had called this, where JAX hangs.

    Raises:
        RuntimeError: this is such a process.
    """
    global _computes
    if _forked:
        raise RuntimeError(_FORKED)
    _computes = True


def _after_fork() -> None:
    global _forked
    _forked = _forked or _computes


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
