"""No file, however damaged, does more to a reader than be refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import FORMATS

TEXTS = ",".join(kind for kind in FORMATS if kind != "onnx")


def fuzz(kinds: str, count: int, seed: int) -> dict[str, dict[str, int]]:
    """In a process of its own: a crash of a reader's C code, or of its memory, would otherwise end the tests."""
    if kinds == "onnx":
        pytest.importorskip("onnx")
    command = [sys.executable, str(Path(__file__).with_name("fuzzing.py")), kinds, str(count), str(seed)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return json.loads(ran.stdout)


@pytest.mark.parametrize("count", [80, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kinds", ["onnx", TEXTS])
def test_some_damaged_files(kinds: str, count: int) -> None:
    for kind, found in fuzz(kinds, count, seed=1).items():
        assert found["read"] >= count / 50, kind  # changes that do no harm
        assert found["refused"] >= 3 / 8 * count, kind


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_tens_of_thousands_of_damaged_files(kind: str) -> None:
    assert sum(fuzz(kind, 25_000, seed=2)[kind].values()) == 25_000
