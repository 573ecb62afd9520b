"""Workers of a pool end when the process that started them is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from mrlato_jax.children import end_with_parent

if __name__ == "__main__":
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), initializer=end_with_parent) as workers:
        workers.submit(time.sleep, 600), workers.submit(time.sleep, 600)
        while len(multiprocessing.active_children()) < 2:
            time.sleep(0.05)
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        time.sleep(600)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        try:
            assert len(workers) == 2
            assert all(map(is_running, workers))
            parent.kill()
            parent.wait()
            until = time.monotonic() + 20
            while any(map(is_running, workers)) and time.monotonic() < until:
                time.sleep(0.05)
            assert not any(map(is_running, workers))
        finally:
            parent.kill()
            for pid in filter(is_running, workers):
                os.kill(pid, signal.SIGKILL)
