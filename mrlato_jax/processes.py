"""Child processes that end with this process, and a check for forked processes.

Processes started here end with their parent, even after SIGKILL. Each has the read end of a pipe, and only its parent
has the write end. The kernel closes the pipe when the parent ends; a thread of the child waits for this and ends the
child.
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
    "this process was forked after its parent had used JAX, and JAX's threads do not survive a fork, so JAX would hang "
    "here; fork before the first plan, or start processes by spawn or forkserver"
)
_computes, _forked = False, False
_ORPHANED = 1  # exit status
_WATCH = "import os, threading\nthreading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()\n"
_SCRIPT = "import runpy, sys\nsys.argv.pop(0)\nsys.path[0] = os.path.dirname(sys.argv[0])\n"
_RUN = "runpy.run_path(sys.argv[0], run_name='__main__')\n"


def end_with_parent() -> None:
    """Makes a process of `multiprocessing` end with its parent. Call this first in the process."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(_ORPHANED)

    threading.Thread(target=watch, daemon=True).start()


def end_with_input() -> None:
    """Makes this process end with the one that holds the write end of its standard input.

    Use this in a process that inherited its standard input from a parent started by `start_python`.
    """
    exec(_WATCH, {})


def run_python(
    program: str | Path, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a Python program in a fresh interpreter to its end.

    Args:
        program: source text, or file, of the program; it must not read standard input.
        arguments: `sys.argv[1:]` of the program.
        environment: environment variables in addition to this process's.

    Returns:
        Its exit status and standard output. It writes to this process's standard error.
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
            output = child.stdout.read()  # `communicate` would close the pipe that shows that the parent lives
            status = child.wait()
        except BaseException:
            child.kill()
            raise
    return subprocess.CompletedProcess(child.args, status, output)


def start_python(
    program: str | Path, *arguments: str, log: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Starts a Python program in a fresh interpreter in the background; `end` ends it.

    Args:
        program: source text, or file, of the program; it must not read standard input.
        arguments: `sys.argv[1:]` of the program.
        log: file to which its output is appended; its folder is the working directory of the program.
        environment: environment variables in addition to this process's.
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
    """Ends a process of `start_python` at once."""
    child.kill()
    child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _words(program: str | Path, arguments: Sequence[str]) -> list[str]:
    words = [_WATCH + _SCRIPT + _RUN, str(program)] if isinstance(program, Path) else [_WATCH + program]
    return [sys.executable, "-c", *words, *arguments]


def free_port(host: str = "127.0.0.1") -> int:
    """Returns a free port, for a program that needs a port number."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def about_to_compute() -> None:
    """Checks that JAX can be used here. Call this before using JAX.

    Raises:
        RuntimeError: this process was forked after its parent had called this function, so JAX would hang.
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
