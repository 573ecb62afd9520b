"""Processes that this one starts, which end when it does, however that ends: SIGKILL leaves no orphans.

Each holds the read end of a pipe whose write end its parent alone has. The kernel closes that with the parent, and a
thread of the child that waits for it ends the child.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import wait
from pathlib import Path

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
    words = [_WATCH + _SCRIPT + _RUN, str(program)] if isinstance(program, Path) else [_WATCH + program]
    with subprocess.Popen(
        [sys.executable, "-c", *words, *arguments],
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
