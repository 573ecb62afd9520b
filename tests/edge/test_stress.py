"""Many faults and many hostile messages; `launch/stress.py` has the full numbers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mrlato_jax.edge import stress


@pytest.mark.slow
def test_every_fault_ends_in_the_right_result(tmp_path: Path) -> None:
    found = asyncio.run(stress.faults(tmp_path, "process", 40))
    assert found["right"] == found["injected"] == 40
    assert set(stress.FAULTS) == {kind for kind, count in found["noticed"].items() if count}


@pytest.mark.slow
def test_hostile_messages_neither_stop_nor_grow_a_host(tmp_path: Path) -> None:
    found = asyncio.run(stress.hostility(tmp_path, "process", 1500))
    assert found["honest_runs_wrong"] == found["runs_left"] == 0
    assert found["honest_runs"] > 20
    memory = found["mib_after_each_tenth"]
    assert len(memory) == 10
    assert memory[-1] - memory[0] < 48  # what a leak of 40 kB a message would take


def test_an_offloaded_task_costs_little_and_many_users_are_served(tmp_path: Path) -> None:
    """Far from what a quiet machine does, so that a busy one passes."""
    one = asyncio.run(stress.overhead(tmp_path / "one", "process", 3))
    assert one["median_ms"] < 30
    many = asyncio.run(stress.throughput(tmp_path / "many", "process", 2, 0.5))
    assert many["tasks_per_s"] > 30
