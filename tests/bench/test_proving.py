"""The times of proofs are of every kind of system."""

from __future__ import annotations

import pytest

from mrlato_jax.bench import proving


def test_a_row_for_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {name: proving.KINDS[name] for name in ("n=15, K=3, return", "n=15, K=3, return, energy")}
    monkeypatch.setattr(proving, "KINDS", kinds)
    told = []
    record = proving.proving(graphs=2, tick=lambda done, total, now: told.append((done, total, now)))
    assert [now for _, _, now in told] == list(kinds) == list(record["kind"])
    for row in record["kind"].values():
        assert 0 < row["median_seconds"] <= row["longest_seconds"]
        assert row["proven_fraction"] == 1
        assert row["heft_above_fraction"] >= 0
