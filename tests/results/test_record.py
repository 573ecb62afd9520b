"""A record grows by one result at a time, and belongs to one set of data, settings and code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrlato_jax.errors import InputError
from mrlato_jax.results.record import GrowingRecord

IDENTITY = {"data_hash": "ab" * 32, "config": {"iterations": 6, "learning": {"rollouts": 2}}, "version": "0.1.0"}


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    first = GrowingRecord(path, IDENTITY)
    first.add("n20", "all", {"latency_ms": (1.5, 2.5), "by": {0: [1.0]}})
    first.add("n30", "all", [3])
    again = GrowingRecord(path, IDENTITY)
    assert (
        again.rows
        == first.rows
        == {"n20": {"all": {"latency_ms": [1.5, 2.5], "by": {"0": [1.0]}}}, "n30": {"all": [3]}}
    )
    again.add("n20", "half", None)
    stored = json.loads(path.read_text())
    assert list(stored["rows"]["n20"]) == ["all", "half"]
    assert len(stored["sessions"]) == 1  # of the same software


@pytest.mark.parametrize(
    ("damage", "phrase"),
    [
        (lambda r: r["identity"].update(data_hash="00"), "has data_hash '00'; accepted: 'abab"),
        (lambda r: r["identity"].update(version="0.0.1"), "has version '0.0.1'; accepted: '0.1.0'"),
        (lambda r: r["identity"].pop("version"), "has version None; accepted: '0.1.0'"),
        (lambda r: r["identity"].update(updates=30), "has updates 30; accepted: None, or another file"),
        (
            lambda r: r["identity"]["config"].update(iterations=7),
            "has config: iterations {'iterations': 7}; accepted: {'iterations': 6}",
        ),
        (lambda r: r.pop("rows"), "cannot be read (rows is None"),
        (lambda r: r.update(rows=[1]), "cannot be read (rows is [1]"),
        (lambda r: r.update(rows={"n20": [1]}), "cannot be read (rows.n20 is [1]"),
        (lambda r: r.update(identity=None), "cannot be read (identity is None"),
        (lambda r: r.update(sessions={}), "cannot be read (sessions is {}"),
    ],
)
def test_a_record_of_something_else_is_refused(tmp_path: Path, damage: Callable[[Any], None], phrase: str) -> None:
    path = tmp_path / "record.json"
    GrowingRecord(path, IDENTITY).add("n20", "all", 1)
    record = json.loads(path.read_text())
    damage(record)
    path.write_text(json.dumps(record))
    before = path.read_bytes()
    with pytest.raises(InputError, match=re.escape(phrase)):
        GrowingRecord(path, IDENTITY)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 100_000, '{"identity": ' + "[" * 99 + "]" * 99 + "}"])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"record\.json .*; accepted: a record as it was written"):
        GrowingRecord(path, IDENTITY)


def test_nothing_that_is_no_number_is_written(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record = GrowingRecord(path, IDENTITY)
    record.add("n20", "all", 1.0)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        record.add("n20", "half", float("nan"))
    assert path.read_bytes() == before
    assert record.rows == {"n20": {"all": 1.0}}
