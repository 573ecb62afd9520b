"""The benchmark's clock, and the rates that it counts with it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.bench import episodes, offloading, planning, sections, simulator, timing
from mrlato_jax.bench.peer import load_peer
from mrlato_jax.config import NetworkConfig
from mrlato_jax.errors import InputError

ORACLE = Path(__file__).resolve().parents[1] / "oracle.py"
TINY = NetworkConfig(units=8, heads=2, layers=1, neighbour_width=8)

# A stand-in for the peer's module: it imports what that one does, and computes by the oracle.
PEER_CODE = """
from env.base import MetaEnv
from samplers.vectorized_env_executor import MetaIterativeEnvExecutor
import graphviz, pydotplus, oracle

class Resources:
    def __init__(self, mec, mobile, bandwidth_up=7.0, bandwidth_dl=7.0):
        self.mec = oracle.Mec(mobile, mec, bandwidth_up * 2**20, bandwidth_dl * 2**20, "{channel}")

class OffloadingEnvironment(MetaEnv):
    def __init__(self):
        raise AssertionError("this would read hundreds of files")

    def get_scheduling_cost_step_by_step(self, plan, task_graph):
        size = [task.processing_data_size for task in task_graph.task_list]
        result = [task.transmission_data_size for task in task_graph.task_list]
        edges = [(parent, child) for child, parents in enumerate(task_graph.pre_task_sets) for parent in parents]
        placement = [dict(plan)[task] for task in range(task_graph.task_number)]
        order = [task for task, _ in plan]
        dag = oracle.Dag(size, size, result, edges)
        return [], oracle.simulate(dag, self.resource_cluster.mec, placement, order).makespan
"""


def write_peer(folder: Path, code: str) -> Path:
    package = folder / "env" / "mec_offloaing_envs"
    package.mkdir(parents=True)
    (folder / "env" / "base.py").write_text("from gym.core import Env\nclass MetaEnv(Env):\n    pass\n")
    (package / "offloading_env.py").write_text(code)
    return folder


@pytest.fixture
def half_a_second(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every call takes half a second; the list says how many times each was called."""
    calls: list[int] = []

    def best(call: Callable[[], Any], repeats: int, calls_each: int = 1, **options: int) -> float:
        calls.append(1 + repeats * options.get("calls", calls_each))
        for _ in range(calls[-1]):
            call()
        return 0.5

    for module in (timing, simulator, episodes, planning, offloading):
        monkeypatch.setattr(module, "best", best)
    return calls


def test_matmul_counts_two_operations_a_product(half_a_second: list[int]) -> None:
    figures = timing.matmul()
    assert figures["gflop_per_second"] == pytest.approx(2 * 1000 * 256 * 512 / 0.5 / 1e9)
    assert figures["peak_gflop_per_second"] == pytest.approx(2 * 1024**3 / 0.5 / 1e9)
    assert half_a_second[0] > 100


def test_simulator_counts_real_tasks_and_draws_every_placement_anew(
    half_a_second: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []
    makespan = simulator.makespan

    def spy(arrays: Any, actions: np.ndarray) -> jax.Array:
        seen.append(np.array(actions))
        assert np.asarray(arrays.mask).all()
        return makespan(arrays, actions)

    monkeypatch.setattr(simulator, "makespan", spy)
    figures = simulator.simulator(batch=8, num_tasks=5)
    assert figures == {"batch": 8, "num_tasks": 5, "task_steps_per_second": 8 * 5 / 0.5}
    assert len(seen) == half_a_second[0]
    assert len({actions.tobytes() for actions in seen}) == len(seen)
    assert {actions.shape for actions in seen} == {(8, 5)}


def test_plain_python_and_the_peer_stand_beside_it(half_a_second: list[int], tmp_path: Path) -> None:
    peer = load_peer(write_peer(tmp_path, PEER_CODE.format(channel="mrlco_code")))
    shown: list[str] = []
    figures = simulator.simulator(200, 5, ORACLE, peer, lambda done, total, now: shown.append(f"{done}/{total} {now}"))
    assert figures["oracle_task_steps_per_second"] == figures["peer_task_steps_per_second"] == 100 * 5 / 0.5
    assert figures["speedup_over_oracle"] == figures["speedup_over_peer"] == 2.0
    assert shown == ["0/3 makespan", "1/3 plain Python", "2/3 the peer"]


def test_decisions_are_counted_side_by_side_and_one_by_one(half_a_second: list[int]) -> None:
    figures = episodes.episodes(batch=3, num_tasks=2)
    assert figures["steps_per_second"] == 3 * 2 / 0.5
    assert figures["python_loop_steps_per_second"] == 2 / 0.5
    assert figures["speedup_over_python_loop"] == 3


def test_peer_leaves_no_trace_among_the_modules(tmp_path: Path) -> None:
    before, path = dict(sys.modules), list(sys.path)
    load_peer(write_peer(tmp_path, PEER_CODE.format(channel="mrlco_code")))
    assert {name for name in sys.modules if name not in before and not name.startswith("mrlato_jax")} <= {"oracle"}
    assert sys.path == path


@pytest.mark.parametrize(
    ("code", "phrase"),
    [
        (None, "which has no env/mec_offloaing_envs/offloading_env.py; accepted: a checkout of MRLCO's public code"),
        ("import nothing_of_that_name", "fails (ModuleNotFoundError"),
        ("class Resources: pass", "fails (AttributeError"),
        (PEER_CODE.format(channel="paper"), "whose makespans are not those of the mrlco_code rules"),
    ],
)
def test_wrong_peer_is_one_clear_line(tmp_path: Path, code: str | None, phrase: str) -> None:
    if code is not None:
        write_peer(tmp_path, code)
    with pytest.raises(InputError) as caught:
        load_peer(tmp_path)
    assert phrase in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_best_leaves_compilation_out_and_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    class Result:
        waited = 0

        def block_until_ready(self) -> None:
            Result.waited += 1

    clock = {"now": 0.0}
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock["now"])
    durations = iter([100.0, 3.0, 5.0, 1.0, 2.0])  # the first call compiles

    def call() -> Any:
        clock["now"] += next(durations)
        return Result()

    assert timing.best(call, repeats=2, calls=2) == 1.5
    assert Result.waited == 5


def test_environment() -> None:
    found = timing.environment()
    assert found["jax"] == jax.__version__
    assert found["mrlato_jax"] == mj.__version__
    assert found["platform"] == jax.default_backend()
    assert 0.05 < found["peak_memory_gb"] < 1000  # this process, in gigabytes


def test_planning_divides_by_the_batch(half_a_second: list[int]) -> None:
    planned: list[int] = []

    def make_planner(policy: NetworkConfig, params: Any) -> Callable[[list[mj.TaskGraph]], None]:
        assert policy.units == 8
        return lambda graphs: planned.append(len(graphs))

    figures = planning.planning(make_planner, batches=(1, 4), planned=1, num_tasks=5, network=TINY)
    assert figures == {
        "num_tasks": 5,
        "batch": {
            "1": {"decode_seconds_per_dag": 0.5, "plan_seconds_per_dag": 0.5},
            "4": {"decode_seconds_per_dag": 0.5 / 4},
        },
    }
    assert set(planned) == {1}


def test_offloader_is_timed_warm_and_from_the_start(half_a_second: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[tuple[int, int, str]] = []
    starts: list[tuple[str, str]] = []

    def run_fresh(program: str, argument: str, environment: dict[str, str]) -> dict[str, float]:
        """Each import takes a second more than the one before; the first plan 8 s, then 2 s."""
        starts.append((argument, environment.get("JAX_COMPILATION_CACHE_DIR", "")))
        compile(program, "program", "exec")
        late = float(len(starts))
        jax_at, package_at = 10 + late, 10 + 3 * late
        marks = {"started": 10.0, "jax": jax_at, "package": package_at}
        if "plan(" in program:
            marks |= {"loaded": 100.0, "planned": 102.0 if starts[-1][1] == starts[-2][1] else 108.0}
        return marks

    def plan(graphs: list[mj.TaskGraph], mode: str = "argmax") -> None:
        planned.append((len(graphs), graphs[0].num_tasks, mode))

    monkeypatch.setattr(offloading, "run_fresh", run_fresh)
    monkeypatch.setattr(offloading.time, "time", lambda: 90.0)
    figures = offloading.offloading(lambda: plan, num_tasks=5, many=4, large=40, modes=("argmax", "search"))
    assert figures == {
        "num_tasks": 5, "many": 4, "one_dag_seconds": 0.5, "many_seconds_per_dag": 0.125,
        "import_jax_seconds": 1.0, "import_mrlato_jax_seconds": 2.0,
        "cold": {"first_plan_seconds": 8.0, "until_first_plan_seconds": 18.0},
        "cached": {"first_plan_seconds": 2.0, "until_first_plan_seconds": 12.0},
        "large_num_tasks": 40, "large_argmax_seconds": 0.5, "large_search_seconds": 0.5,
    }  # fmt: skip
    assert [argument for argument, _ in starts] == [""] * offloading.STARTS + ["5", "5"]
    assert set(planned) == {(1, 5, "argmax"), (4, 5, "argmax"), (1, 40, "argmax"), (1, 40, "search")}


@pytest.mark.slow
def test_a_filled_cache_shortens_the_first_plan() -> None:
    figures = offloading.offloading(lambda: lambda graphs: None, num_tasks=5, many=4)
    cold, cached = figures["cold"], figures["cached"]
    assert 0 < cached["first_plan_seconds"] < cold["first_plan_seconds"] < cold["until_first_plan_seconds"]


@pytest.fixture
def options() -> sections.Options:
    return sections.Options(lambda policy, params: lambda graphs: None, lambda: lambda graphs: None)


def test_every_section_has_the_matmul_rate_and_memory_beside_it(
    options: sections.Options, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def section(_: sections.Options, tick: timing.Tick) -> dict[str, Any]:
        tick(0, 2, "first")
        tick(1, 2, "second")
        return {"seconds": 3.0}

    monkeypatch.setitem(sections.SECTIONS, "growth", section)
    monkeypatch.setattr(sections, "matmul", lambda: {"gflop_per_second": 70.0})
    record = sections.run_section("growth", options)
    assert record.keys() == {"growth", "environment"}
    figures = record["growth"]
    assert (figures["seconds"], figures["matmul_gflop_per_second"]) == (3.0, 70.0)
    assert 0.05 < figures["peak_memory_gb"] <= record["environment"]["peak_memory_gb"]
    assert "growth 0/2" in capsys.readouterr().err
