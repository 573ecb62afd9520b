"""A host that does not start: its last words are in the error, and no process is left."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny_run import wait_until_gone

from mrlato_jax.edge import host_process
from mrlato_jax.edge.host_process import HostProcess
from mrlato_jax.errors import InputError


@pytest.mark.parametrize("then", ["exit 3", "exec sleep 60"], ids=["ends", "says nothing"])
def test_a_host_that_does_not_start_is_refused_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    program, pid = tmp_path / "python", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\necho $$ > {pid}\necho no room >&2\n{then}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(host_process, "START_S", 0.5)
    with pytest.raises(InputError, match=r"MEC host does not start \(no room\); accepted: "):
        HostProcess(["room:app"], tmp_path, vm="process")
    wait_until_gone([int(pid.read_text())], 1.0)
