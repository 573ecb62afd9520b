"""The program that makes the data, run as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_run import run_here

import mrlato_jax as mj
from mrlato_jax.config import NetworkConfig
from mrlato_jax.dag.dataset import build, load, save
from mrlato_jax.training.experiments import systems_of, training_pools

ROOT = Path(__file__).resolve().parents[2]


def make_data(*flags: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, str(ROOT / "launch" / "make_data.py"), *flags],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.slow
def test_makes_what_is_committed_and_checks_it(tmp_path: Path) -> None:
    made = make_data("--experiment=exp2", f"--out={tmp_path}")
    assert made.returncode == 0, made.stderr
    committed = load("exp2", ROOT / "data")
    assert load("exp2", tmp_path).content_hash == committed.content_hash
    header, _, row = ([cell.strip() for cell in line.split("|")[1:-1]] for line in made.stdout.splitlines()[:3])
    assert header[0] == "experiment"
    assert row[:4] == ["exp2", "9", "900", "27000"]
    assert row[-1] == committed.content_hash[:12]
    assert "drawing exp2 9/9 100%" in made.stderr

    save(build("exp2", graphs_per_set=1), tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    unlike = make_data("--experiment=exp2", f"--out={tmp_path}", "--check")
    assert unlike.returncode == 1
    assert f"drawn anew {committed.content_hash[:12]}" in unlike.stdout
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before

    refused = make_data("--experiment=exp2", f"--out={tmp_path}")
    assert refused.returncode == 2
    assert "accepted: another --out, or --overwrite" in refused.stderr
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert make_data("--experiment=exp2", f"--out={tmp_path}", "--overwrite").returncode == 0
    assert load("exp2", tmp_path).content_hash == committed.content_hash


def test_check_of_the_committed_data() -> None:
    checked = make_data("--experiment=exp2", "--check")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "same as stored" in checked.stdout


def test_refuses_to_put_megabytes_in_place_of_the_committed_data() -> None:
    refused = make_data("--data_unit=MB")
    assert refused.returncode == 2
    assert [line for line in refused.stderr.splitlines() if line.startswith("error: ")] == [
        "error: data_unit is MB; accepted with the checkout's data/: KB (give --out)"
    ]


# Of files of a user's.

LINK = ("--uplink_mbps=20", "--downlink_mbps=60")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two training sets and a test set of two applications each, one of them a workflow whose ids are out of order."""
    rng = np.random.default_rng(0)
    for number, place in enumerate(("train/a", "train/b", "test/c")):
        folder = tmp_path / "files\x1b[2J" / place
        folder.mkdir(parents=True)
        mj.write_json(mj.daggen(4 + number, 0.6, 0.6, rng), folder / "1\x1b[1m.json")
        tasks = [{"name": "b", "runtimeInSeconds": 1, "parents": ["a"]}, {"name": "a", "runtimeInSeconds": 2}]
        (folder / "2.json").write_text(json.dumps({"schemaVersion": "1.4", "workflow": {"tasks": tasks}}))
    return tmp_path / "files\x1b[2J"


def test_a_data_set_of_files(files: Path, tmp_path: Path) -> None:
    ran = make_data(f"--from={files}", "--name=mine", f"--out={tmp_path / 'out'}", *LINK, "--machine_hz=1e9")
    assert ran.returncode == 0, ran.stderr
    assert "reading " in ran.stderr
    assert r"files\x1b[2J" in ran.stderr
    assert (ran.stdout + ran.stderr).replace("\n", "").isprintable()
    data = load("mine", tmp_path / "out")
    assert data.set_names == ("train_a", "train_b", "test_c")
    assert data.splits == ("train", "train", "test")
    assert data.graph(0, 1).cycles.tolist() == [2e9, 1e9]  # in topological order
    assert data.graph(2, 0).num_tasks == 6
    (system,) = systems_of(data, 1, "paper")
    assert system == mj.System(uplink_bps=20e6, downlink_bps=60e6)
    (pool,) = training_pools(data, NetworkConfig(units=16, heads=2, layers=1), "paper")
    assert pool.learning_tasks.dags.ue.shape == (2, 1, 2, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name=mine", *LINK], "--out is missing"),
        (["--name=mine", "--out={out}"], "--uplink_mbps is missing"),
        (["--name=exp1", "--out={out}", *LINK], "--name is exp1; accepted: none of exp1"),
        (["--name=mine", "--out={out}", *LINK], "--machine_hz is missing"),
        (["--name=mine", "--out={out}", *LINK, "--from={out}"], "has no folder in"),
    ],
)
def test_files_that_make_none(files: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    given = [argument.format(out=tmp_path / "out") for argument in arguments]
    ran = run_here("make_data.py", f"--from={files}", *given, cwd=tmp_path)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert not list((tmp_path / "out").glob("*.npz"))
