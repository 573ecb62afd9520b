"""`bench.py`: a table for people and one JSON object for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import Workplace


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("bench"))  # nothing of the shared one is needed


def test_last_line_is_one_object(place: Workplace) -> None:
    ran = place.run("bench.py", "--only=matmul", "--json=-")
    assert ran.returncode == 0, ran.stderr
    *table, last = ran.stdout.splitlines()
    record = json.loads(last)
    assert record.keys() == {"matmul", "environment"}
    assert 0.1 < record["matmul"]["gflop_per_second"] < 1e6
    assert record["environment"].keys() == {"device", "platform", "cores", "jax", "peak_memory_gb"}
    assert [line.split("|")[1].strip() for line in table[2:]] == ["matmul", *["environment"] * 5]
    assert record["environment"]["cores"] >= 1
    assert "\r" not in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["--only=matmul,simulate"], "--only is 'simulate'; accepted: matmul, simulator, meta_iteration"),
        (["--only=matmul", "--json=none/bench.json"], "none"),
    ],
)
def test_refused(place: Workplace, tmp_path: Path, arguments: list[str], phrase: str) -> None:
    assert phrase in place.refused("bench.py", *arguments, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
