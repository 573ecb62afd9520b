"""Plans in a given time are measured on every unseen set, beside their parts alone."""

from __future__ import annotations

import pytest

from mrlato_jax.bench import in_time


@pytest.mark.slow
def test_a_row_for_each_way_on_each_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_time, "EXPERIMENTS", ("exp1",))
    monkeypatch.setattr(in_time, "BEST_S", 1.0)
    record = in_time.in_time(graphs=2, limits_s=(0.5,))
    assert len(record["way"]) == 3 * 4
    for way, row in record["way"].items():
        assert row["above_fraction"] >= -1e-9
        assert 0 < row["mean_seconds"] <= row["longest_seconds"]
        if way.endswith("500 ms"):
            assert row["proven_fraction"] == 1
            assert row["above_fraction"] == pytest.approx(0, abs=1e-9)
            assert sum(row[f"by_{source}_fraction"] for source in in_time.SOURCES) == 1
