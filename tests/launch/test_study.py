"""`study.py`: trains what is missing, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_run import Workplace

from mrlato_jax.results.studies import UNLEARNED


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("study"))


@pytest.mark.slow
def test_a_smaller_study_runs_and_is_not_run_again(place: Workplace, tmp_path: Path) -> None:
    arguments = [
        "--smaller",
        "--variants=base,none",
        "--validate=1",
        f"--out={tmp_path}",
        f"--runs={tmp_path / 'runs'}",
    ]
    ran = place.run("study.py", *arguments)
    assert ran.returncode == 0, ran.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "stall.json", "stall.md", "stall.png"}
    assert (tmp_path / "stall.md").read_text().splitlines()[0] == "# What holds the paper's method back?"
    rows = json.loads((tmp_path / "stall.json").read_text())["rows"]
    heads = {name: row["0"]["config"]["policy"]["heads"] for name, row in rows.items() if name not in UNLEARNED}
    assert heads == {"base": 8, "none": 0}
    assert set(UNLEARNED) < set(rows)
    before = (tmp_path / "stall.json").read_bytes()
    again = place.run("study.py", *arguments)
    assert again.returncode == 0, again.stderr
    assert "1 of" not in again.stdout
    assert (tmp_path / "stall.json").read_bytes() == before


@pytest.mark.parametrize(
    ("given", "phrase"),
    [
        ("--study=all", "--study is 'all'; accepted: stall, imitation, parts"),
        ("--variants=base,bse", "variants is 'bse'; accepted: base, "),
        ("--seeds=0", "seeds is 0; accepted: an integer in [1, inf)"),
        ("--smaller", "--smaller is given without --out; accepted: an --out without the real studies"),
    ],
)
def test_bad_values_are_named(place: Workplace, given: str, phrase: str) -> None:
    assert phrase in place.refused("study.py", given, alone=given.startswith("--study"))
