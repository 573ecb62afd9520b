"""Processes of ours end when the one that started them does, also by SIGKILL."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_run import wait_until_gone

from mrlato_jax.processes import end, run_python, start_python

PARENT = """
import multiprocessing, os, sys, threading, time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from mrlato_jax.processes import end_with_parent, run_python
asleep = "import os, sys, time; print(os.getpid(), file=open(sys.argv[1], 'w'), flush=True); time.sleep(600)"
Path("script.py").write_text(asleep)
threading.Thread(target=run_python, args=(asleep, "text.pid")).start()
threading.Thread(target=run_python, args=(Path("script.py"), "script.pid")).start()
if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), end_with_parent)
    print(pool.submit(os.getpid).result(), file=open("pool.pid", "w"), flush=True)
    time.sleep(600)
"""
NAMES = ("text.pid", "script.pid", "pool.pid")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_children_of_a_killed_process_end(tmp_path: Path) -> None:
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    with subprocess.Popen([sys.executable, "-c", PARENT], cwd=tmp_path, env=environment) as parent:
        until = time.monotonic() + 60
        try:
            while not all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in NAMES):
                assert parent.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
        finally:
            parent.kill()
    wait_until_gone([int((tmp_path / name).read_text()) for name in NAMES], seconds=10)


def test_a_program_gets_its_arguments_and_gives_its_output(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("WORD = 'beside'")
    script = tmp_path / "script.py"
    script.write_text("import os, sys, beside; print(__name__, beside.WORD, sys.argv, os.environ['A']); sys.exit(3)")
    ran = run_python(script, "--x", environment={"A": "a"})
    assert (ran.returncode, ran.stdout) == (3, f"__main__ beside {[str(script), '--x']} a\n")
    ran = run_python("import sys; print(sys.argv[1])", "x")
    assert (ran.returncode, ran.stdout) == (0, "x\n")


FORKING = """
import os, signal, sys
import mrlato_jax as mj
graph = mj.TaskGraph.from_edges(cycles=[1e8], upload_bytes=[1e4], download_bytes=[1e4], edges=[])
policy = mj.load_offloader("exp1") if sys.argv[1] == "after" else None
for use in (
    lambda: (policy or mj.load_offloader("exp1")).plan(graph, mj.System()),
    lambda: policy.adapt(graph, mj.System()),
    lambda: mj.load_offloader("exp1"),
):
    child = os.fork()
    if not child:
        signal.alarm(60)  # ends it where it waits for ever
        try:
            use()
            print("planned", flush=True)
        except RuntimeError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    if sys.argv[1] == "before":
        break
"""


def test_a_process_forked_before_anything_was_loaded_plans_and_one_forked_after_says_why_not() -> None:
    environment = {"PYTHONPATH": str(Path(__file__).resolve().parents[1]), "PYTHONWARNINGS": "ignore"}
    assert run_python(FORKING, "before", environment=environment).stdout == "planned\n"
    lines = run_python(FORKING, "after", environment=environment).stdout.splitlines()
    assert len(lines) == 3
    assert all("this process was forked after its parent had used JAX" in line for line in lines)


def test_a_program_beside_this_one_writes_to_its_log_and_is_ended(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    program = "import os, sys, time; print(sys.argv[1], os.environ['A'], os.getcwd(), flush=True); time.sleep(600)"
    child = start_python(program, "x", log=log, environment={"A": "a"})
    until = time.monotonic() + 60
    while log.read_text().count("\n") < 2:
        assert child.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    assert log.read_text() == f"before\nx a {tmp_path}\n"
    end(child)
    assert child.returncode == -9
