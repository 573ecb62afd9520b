"""The benchmark counts what it says it counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from mrlato_jax.experiments import bench


@pytest.fixture
def half_a_second(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every call takes half a second; the list says how many times it would have been called."""
    calls: list[int] = []

    def best(call: Callable[[], jax.Array], repeats: int, calls_each: int = 0, **options: int) -> float:
        calls.append(1 + repeats * (calls_each or options["calls"]))
        for _ in range(calls[-1]):
            call()
        return 0.5

    monkeypatch.setattr(bench, "_best", best)
    return calls


def test_matmul_counts_two_operations_a_product(half_a_second: list[int]) -> None:
    assert bench.matmul()["gflop_per_second"] == pytest.approx(2 * 1000 * 256 * 512 / 0.5 / 1e9)
    assert half_a_second[0] > 100


def test_simulator_counts_real_tasks_and_draws_every_placement_anew(
    half_a_second: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    makespan = bench.makespan

    def spy(arrays: Any, actions: np.ndarray) -> jax.Array:
        seen.append(np.array(actions))
        assert np.asarray(arrays.mask).all()
        return makespan(arrays, actions)

    monkeypatch.setattr(bench, "makespan", spy)
    figures = bench.simulator(batch=8, num_tasks=5)
    assert figures == {"batch": 8, "num_tasks": 5, "task_steps_per_second": 8 * 5 / 0.5}
    assert len(seen) == half_a_second[0]
    assert len({actions.tobytes() for actions in seen}) == len(seen)
    assert {actions.shape for actions in seen} == {(8, 5)}


def test_best_leaves_compilation_out_and_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    class Result:
        waited = 0

        def block_until_ready(self) -> None:
            Result.waited += 1

    clock = {"now": 0.0}
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock["now"])
    durations = iter([100.0, 3.0, 5.0, 1.0, 2.0])  # the first call compiles

    def call() -> Any:
        clock["now"] += next(durations)
        return Result()

    assert bench._best(call, repeats=2, calls=2) == 1.5
    assert Result.waited == 5


def test_environment() -> None:
    found = bench.environment()
    assert found["jax"] == jax.__version__
    assert found["platform"] == jax.default_backend()
    assert 0.05 < found["peak_memory_gb"] < 1000  # this process, in gigabytes


@pytest.mark.slow
def test_iteration_at_table_1_size() -> None:
    figures = bench.iteration(meta_batch=2, graphs=2, rollouts=2, num_tasks=5)
    assert 0 < figures["seconds"] < figures["compile_seconds"]
    assert (figures["meta_batch"], figures["graphs"], figures["rollouts"], figures["num_tasks"]) == (2, 2, 2, 5)
