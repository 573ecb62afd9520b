"""`make_demonstrations.py`: plans what is missing, and only that."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tiny_run import Workplace, wait_until_gone

from mrlato_jax.learning.devices import cores
from mrlato_jax.training import demonstrations


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("demonstrations"))


@pytest.mark.slow
def test_what_is_missing_is_planned(place: Workplace, tmp_path: Path) -> None:
    arguments = ["--experiment=exp1", "--graphs_per_family=1", "--proof_s=1", f"--out={tmp_path}"]
    ran = place.run("make_demonstrations.py", *arguments)
    assert ran.returncode == 0, ran.stderr
    path = demonstrations.find("exp1", tmp_path)
    found = demonstrations.load(path, "exp1")
    assert [(entry.set_index, entry.graph_index) for entry in found] == sorted(
        (set_index, graph_index) for set_index, graph_index, _ in demonstrations.wanted("exp1", 1)
    )
    assert f"{path}: 22 plans, " in ran.stdout
    demonstrations.save(path, "exp1", found[:-1])
    again = place.run("make_demonstrations.py", *arguments)
    assert again.returncode == 0, again.stderr
    assert "planning exp1 22/22" in again.stderr
    assert demonstrations.load(path, "exp1") == found
    before = path.read_bytes()
    assert place.run("make_demonstrations.py", *arguments).returncode == 0
    assert path.read_bytes() == before


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_workers_of_a_killed_program_end(place: Workplace, tmp_path: Path) -> None:
    arguments = ["--experiment=exp1", "--graphs_per_family=1", "--proof_s=0.01", f"--out={tmp_path}"]
    with place.start("make_demonstrations.py", *arguments) as program:
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children")
        until = time.monotonic() + 60
        try:
            # multiprocessing's resource tracker comes first, and ends by itself
            while len(workers := [int(pid) for pid in children.read_text().split()][1:]) < cores():
                assert program.poll() is None
                assert time.monotonic() < until
                time.sleep(0.05)
            time.sleep(2)
        finally:
            program.kill()
        wait_until_gone(workers, seconds=60)


@pytest.mark.parametrize(
    ("given", "phrase"),
    [
        ("--experiment=exp4", "--experiment is 'exp4'; accepted: exp1, exp2, exp3"),
        ("--graphs_per_family=0", "graphs_per_family is 0; accepted: an integer in [1, inf)"),
        ("--proof_s=-1", "proof_s is -1.0; accepted:"),
    ],
)
def test_bad_values_are_named(place: Workplace, given: str, phrase: str, tmp_path: Path) -> None:
    said = place.refused("make_demonstrations.py", f"--out={tmp_path}", given, alone=given.startswith("--experiment"))
    assert phrase in said
    assert not list(tmp_path.iterdir())
