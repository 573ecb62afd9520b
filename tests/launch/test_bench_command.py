"""`bench.py`: a table for people and one JSON object for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import quickly
from tiny_run import Workplace, run_here

SECTIONS = "matmul, simulator, episodes, meta_iteration, compile, planning, offloader, optimum, growth"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("bench"))  # nothing of the shared one is needed


@pytest.fixture(scope="module")
def stored(place: Workplace) -> Path:
    """A record that `--record` made."""
    path = place.path / "bench.json"
    ran = place.run("bench.py", "--only=matmul", f"--record={path}")
    assert ran.returncode == 0, ran.stderr
    assert "compared with" not in ran.stdout
    return path


@pytest.mark.parametrize("sections", quickly([["matmul"], ["matmul", "simulator"]], ["matmul"]), ids=str)
def test_last_line_is_one_object(place: Workplace, sections: list[str]) -> None:
    ran = place.run("bench.py", f"--only={','.join(sections)}", "--json=-")
    assert ran.returncode == 0, ran.stderr
    *table, last = ran.stdout.splitlines()
    record = json.loads(last)
    assert record.keys() == {*sections, "environment"}
    assert 0.1 < record["matmul"]["gflop_per_second"] <= record["matmul"]["peak_gflop_per_second"] < 1e6
    if simulator := record.get("simulator"):
        assert simulator["task_steps_per_second"] > simulator["oracle_task_steps_per_second"] > 1000
    for section in sections:
        assert 0.1 < record[section]["matmul_gflop_per_second"] < 1e6
        assert 0.05 < record[section]["peak_memory_gb"] <= record["environment"]["peak_memory_gb"]
    assert record["environment"]["cores"] >= 1
    shown = [line.split("|")[1].strip() for line in table[2:]]
    assert list(dict.fromkeys(shown)) == [*sections, "environment"]
    assert "\r" not in ran.stdout + ran.stderr
    assert f"{sections[-1]} 1/2" in ran.stderr


@pytest.mark.slow
def test_record_is_compared_with_and_stays(place: Workplace, stored: Path) -> None:
    before = stored.read_bytes()
    assert json.loads(before).keys() == {"matmul", "environment"}
    ran = run_here("bench.py", "--only=matmul", f"--record={stored}", "--json=-", cwd=place.path)
    assert ran.returncode == 0, ran.stderr
    now: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    (row,) = [line for line in ran.stdout.splitlines() if line.startswith("| matmul.gflop_per_second")]
    ratio = now["matmul"]["gflop_per_second"] / json.loads(before)["matmul"]["gflop_per_second"]
    assert float(row.split("|")[4]) == pytest.approx(ratio, abs=0.006)
    assert "warning" not in ran.stdout
    assert stored.read_bytes() == before


@pytest.mark.slow
def test_record_is_overwritten_when_asked(place: Workplace, stored: Path, tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    record = json.loads(stored.read_bytes())
    record["environment"]["cores"] = 1000
    path.write_text(json.dumps(record))
    ran = run_here("bench.py", "--only=matmul", f"--record={path}", "--overwrite", cwd=place.path)
    assert ran.returncode == 0, ran.stderr
    assert "warning: cores differs: 1000 in the stored record" in ran.stdout
    assert json.loads(path.read_bytes())["environment"]["cores"] < 1000


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["--only=matmul,simulate"], f"--only is 'simulate'; accepted: {SECTIONS}"),
        (["--only=matmul", "--json=none/bench.json"], "none"),
        (["--only=matmul", "--record=none/bench.json"], "--record is 'none/bench.json'"),
        (["--only=matmul", "--overwrite"], "--overwrite is given without --record"),
        (["--only=matmul", "--json=b.json", "--record=b.json"], "--json and --record both name"),
        (["--only=simulator", "--peer=none"], "peer is 'none', which has no env/mec_offloaing_envs/offloading_env.py"),
    ],
)
def test_refused(place: Workplace, tmp_path: Path, arguments: list[str], phrase: str) -> None:
    assert phrase in place.refused("bench.py", *arguments, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_record_is_refused_and_stays(place: Workplace, tmp_path: Path) -> None:
    path = tmp_path / "notes.json"
    path.write_text('{"title": "mine"}')
    said = place.refused("bench.py", "--only=matmul", f"--record={path}", "--overwrite")
    assert str(path) in said
    assert path.read_text() == '{"title": "mine"}'
