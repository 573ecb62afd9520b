"""Several processes that train one run, as a cluster starts them, here on one machine."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from tiny_run import Workplace

from mrlato_jax.training.run_folder import read_metrics

ITERATIONS = 8
ENDLESS = 100_000
LOST_PEER = 75
ABORTED = -signal.SIGABRT  # by JAX, from outside Python


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return tiny_run.make_workplace(tmp_path_factory)


def start_two(place: Workplace, *arguments: object, runs: tuple[Path, Path]) -> list[subprocess.Popen[str]]:
    """Starts two processes that meet, process 0 first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    together = ["--distributed", f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    return [
        place.start("meta_train.py", *place.flags, *together, f"--process_id={i}", f"--run={runs[i]}", *arguments)
        for i in range(2)
    ]


def end(processes: list[subprocess.Popen[str]], timeout: float = 240) -> list[tuple[int, str, str]]:
    """Exit status and output of each."""
    ended = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=timeout)
            ended.append((process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return ended


def newest(run: Path) -> int:
    """Iteration of the newest checkpoint."""
    return max(int(path.stem.removeprefix("step_")) for path in run.glob("checkpoints/step_*.npz"))


def wait_for_checkpoint(run: Path, processes: list[subprocess.Popen[str]]) -> None:
    until = time.monotonic() + 240
    while not list(run.glob("checkpoints/step_*.npz")):
        assert all(process.poll() is None for process in processes), [process.communicate() for process in processes]
        assert time.monotonic() < until
        time.sleep(0.1)


def test_two_processes_train_the_run_of_one(place: Workplace, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    first, second = end(start_two(place, f"--iterations={ITERATIONS}", "--on=none", runs=(run, other)))
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    lines = read_metrics(run / "metrics.jsonl")
    reference = read_metrics(place.reference / "metrics.jsonl")[:ITERATIONS]
    for ours, theirs in zip(lines, reference, strict=True):
        assert ours.keys() == theirs.keys()
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-4, atol=1e-5)
    session = json.loads((run / "config.json").read_text())["sessions"][0]
    assert (session["processes"], session["device"]["count"]) == (2, 2)
    assert session["execution"]["parallel"] == "shard_map"
    # Only process 0 writes, and only it speaks.
    assert not other.exists()
    assert "data: exp2 verified" in first[1]
    assert "data:" not in second[1] + second[2]
    assert "meta-training" not in second[1] + second[2]


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_run_which_can_be_resumed(place: Workplace, tmp_path: Path, lost: int) -> None:
    run = tmp_path / "run"
    processes = start_two(
        place, f"--iterations={ENDLESS}", "--checkpoint_every=3", "--heartbeat_timeout_s=10", runs=(run, run)
    )
    wait_for_checkpoint(run, processes)
    processes[lost].kill()
    code, _, err = end(processes)[1 - lost]
    assert code in (LOST_PEER, ABORTED)
    assert "error: this or another process of the run ended or cannot be reached" in err
    assert "start every process again with --resume" in err

    saved = newest(run)
    again = [place.start("meta_train.py", "--resume", f"--run={run}", f"--data={place.data}", "--checkpoint_every=3")]
    until = time.monotonic() + 240
    while newest(run) <= saved:
        assert again[0].poll() is None, again[0].communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    again[0].send_signal(signal.SIGTERM)
    code, _, err = end(again)[0]
    assert code == 0
    assert f"continuing after iteration {saved}" in err


@pytest.mark.slow
def test_a_stop_of_one_process_stops_all_with_a_checkpoint(place: Workplace, tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = start_two(place, f"--iterations={ENDLESS}", "--checkpoint_every=3", runs=(run, run))
    wait_for_checkpoint(run, processes)
    processes[1].send_signal(signal.SIGTERM)
    first, second = end(processes)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    done = len(read_metrics(run / "metrics.jsonl"))
    assert f"stopped after iteration {done}; checkpoint saved" in first[2]
    assert (run / "checkpoints" / f"step_{done:08d}.npz").exists()
    assert "continue with: " in first[1]


def test_what_the_first_process_refuses_all_refuse(place: Workplace, tmp_path: Path) -> None:
    run = shutil.copytree(place.reference, tmp_path / "run")
    before = sorted(path.name for path in run.iterdir())
    first, second = end(start_two(place, runs=(run, run)))
    assert (first[0], second[0]) == (2, 2), first[2] + second[2]
    assert "accepted: a folder that is new or empty" in first[2]
    assert "error: " in second[2]
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.parametrize(
    ("given", "phrase"),
    [
        (["--num_processes=2"], "--num_processes given without --distributed; accepted: both, or neither"),
        (["--distributed", "--num_processes=2"], "coordinator, process_id not given; accepted: coordinator, num_p"),
        (
            ["--distributed", "--num_processes=2", "--coordinator=a:1", "--process_id=2"],
            "process_id is 2; accepted: an integer in [0, 1]",
        ),
        (
            ["--distributed", "--num_processes=2", "--coordinator=a", "--process_id=0"],
            "coordinator is 'a'; accepted: host:port",
        ),
        (
            ["--distributed", "--num_processes=2", "--coordinator=8476", "--process_id=0"],
            "coordinator is '8476'; accepted: host:port",
        ),
        (
            ["--distributed", "--num_processes=2", "--coordinator=a:99999", "--process_id=0"],
            "coordinator is 'a:99999'; accepted: host:port, the port from 1 to 65535",
        ),
        (["--distributed"], "cannot join the other processes"),
        (["--num_devices=999"], "num_devices is 999; accepted: at most"),
        (["--num_seeds=0"], "num_seeds is 0; accepted: an integer in [1, inf)"),
    ],
)
def test_refused(place: Workplace, tmp_path: Path, given: list[str], phrase: str) -> None:
    alone = given == ["--distributed"]  # which asks JAX
    assert phrase in place.refused("meta_train.py", *place.flags, *given, f"--run={tmp_path / 'run'}", alone=alone)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_several_seeds_in_one_program_stopped_and_resumed(place: Workplace, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    flags = [f"--data={place.data}", "--on=none", f"--run={root}"]
    started = place.run("meta_train.py", *place.flags, *flags, "--num_seeds=2", "--iterations=2")
    assert started.returncode == 0, started.stderr
    shutil.rmtree(root / "seed4")  # as if the process had been killed while it made it: nothing of it is lost
    (root / "seed4").mkdir()
    shutil.rmtree(root / "seed3" / "checkpoints")
    for name in ("metrics.jsonl", "timing.jsonl"):
        (root / "seed3" / name).unlink()
    resumed = place.run("meta_train.py", *flags, "--resume", "--iterations=3")
    assert resumed.returncode == 0, resumed.stderr
    lines = {seed: read_metrics(root / f"seed{seed}" / "metrics.jsonl") for seed in (3, 4)}
    assert [len(found) for found in lines.values()] == [3, 3]
    assert lines[3][2]["latency_ms"] != lines[4][2]["latency_ms"]
    reference = read_metrics(place.reference / "metrics.jsonl")[:3]
    for ours, theirs in zip(lines[3], reference, strict=True):
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stored", [1, 2])
def test_the_number_of_seeds_of_a_run_stays(place: Workplace, tmp_path: Path, stored: int) -> None:
    root = tmp_path / "runs"
    shutil.copytree(place.reference, root if stored == 1 else root / "seed3")
    if stored == 2:
        (root / "seeds.json").write_text("[3, 4]")
    before = tiny_run.hashes(root)
    arguments = ["--resume", f"--run={root}", f"--data={place.data}", f"--num_seeds={stored + 1}"]
    message = place.refused("meta_train.py", *arguments)
    assert f"num_seeds is {stored + 1}; accepted: {stored}, as run" in message
    assert tiny_run.hashes(root) == before
    if stored == 2:
        assert "accepted: a folder that is new or empty" in place.refused(
            "meta_train.py", *place.flags, f"--run={root}", "--num_seeds=2"
        )
