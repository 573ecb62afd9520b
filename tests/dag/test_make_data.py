"""The program that makes the data, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mrlato_jax.dag.dataset import build, load, save

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
