"""The page of all settings, which is made from their fields."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mrlato_jax.config import ExecutionConfig, LearningConfig, NetworkConfig, TrainConfig, settings_of
from mrlato_jax.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "launch"))

import settings_page  # noqa: E402


def rows(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]


def test_the_committed_page_is_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_page, "PAGE", tmp_path / "settings.md")
    assert settings_page.main(["settings_page.py"]) == 0
    committed = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert (tmp_path / "settings.md").read_text(encoding="utf-8") == committed, "run launch/settings_page.py"


def test_every_setting_and_method_has_a_row() -> None:
    records = (TrainConfig, NetworkConfig, LearningConfig, ExecutionConfig)
    lines = rows(settings_page.page())
    names = [f"`--{name}`" for record in records for name in settings_of(record)]
    assert [row[0] for row in lines] == [*names, *(f"`{name}`" for name in METHODS)]
    assert {len(row) for row in lines[: len(names)]} == {len(settings_page.COLUMNS)}


def test_a_row_says_what_the_field_says() -> None:
    by_name = {row[0]: row[1:] for row in rows(settings_page.page())}
    assert by_name["`--gamma`"] == [
        "`0.99`",
        "a finite number in [0, 1]",
        "Discount per step.",
        "Table I",
        "name=value",
    ]
    assert by_name["`--encoder`"][1] == "`forward`, `bidirectional`"
    assert by_name["`--rollouts`"][-1] == "no"
    assert by_name["`--method`"][1] == ", ".join(f"`{name}`" for name in METHODS)
    assert by_name["`mrlato`"] == ["none"]
    assert by_name["`drl`"] == ["`heads=1`; `meta_update=joint`"]
    assert "warm start: `learn_from=optimum`" in by_name["`mrlato_plus`"][0]
