"""An MEC host in its own process, for the testbed and the stress test."""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from mrlato_jax.errors import InputError, escaped

START_S = 60.0  # time limit for the start of a host


class HostProcess:
    """A running `mrlato-mec serve`; a context manager that kills it. It also ends with the process that started it.

    Args:
        apps: applications of the host, as in `Mec`.
        credentials: folder that `certificates.make` wrote.
        listen: HOST:PORT; port 0 takes a free one.
        vm: isolation of its VMs, one of `sandbox.KINDS`.
        core: processor core of its VMs; None for any.

    Attributes:
        port: the port that it listens on.
        pid: id of the process.

    Raises:
        InputError: the host does not start; the message has its last output.
    """

    def __init__(
        self, apps: Sequence[str], credentials: Path, *, listen: str = "127.0.0.1:0", vm: str, core: int | None = None
    ) -> None:
        words = [
            sys.executable, "-m", "mrlato_jax.edge.command", "serve", f"--credentials={credentials}",
            f"--listen={listen}", f"--vm={vm}", "--json=-", "--until-input-ends", *(f"--app={app}" for app in apps),
            *([f"--core={core}"] if core is not None else []),
        ]  # fmt: skip
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )
        try:
            self.port = self._started()
        except BaseException:
            self.kill()
            raise
        self.pid = self._process.pid

    def _started(self) -> int:
        """Waits for the start; returns the port, or raises InputError with the host's last output."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            line = self._process.stdout.readline() if selector.select(START_S) else ""
        if not line:
            self._said.seek(0)
            last = escaped(" | ".join(self._said.read()[-500:].split("\n")).strip(" |"))
            raise InputError(f"MEC host does not start ({last}); accepted: applications that it can load")
        return int(json.loads(line)["port"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Kills the host, like a failure."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                stream.close()
