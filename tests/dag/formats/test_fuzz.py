"""No file, however damaged, does more to a reader than be refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import FORMATS


def fuzz(kind: str, count: int, seed: int) -> dict[str, int]:
    """In a process of its own: a crash of a reader's C code, or of its memory, would otherwise end the tests."""
    if kind == "onnx":
        pytest.importorskip("onnx")
    command = [sys.executable, str(Path(__file__).with_name("fuzzing.py")), kind, str(count), str(seed)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-4000:]
    return json.loads(ran.stdout)


@pytest.mark.parametrize("kind", FORMATS)
def test_some_damaged_files(kind: str) -> None:
    found = fuzz(kind, 400, seed=1)
    assert found["read"] >= 8  # changes that do no harm
    assert found["refused"] >= 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_hundred_thousand_damaged_files(kind: str) -> None:
    """All formats together."""
    found = fuzz(kind, 25_000, seed=2)
    assert sum(found.values()) == 25_000
