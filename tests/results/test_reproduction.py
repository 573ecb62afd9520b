"""What a record refuses, and how jobs are spread over devices."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run

import mrlato_jax as mj
from mrlato_jax.errors import InputError
from mrlato_jax.inference.offloader import Offloader
from mrlato_jax.results import reproduction
from mrlato_jax.results.reproduction import LearnedRecord, params_hash, spread
from mrlato_jax.training.experiments import TestSet, unseen_sets
from mrlato_jax.training.run_folder import RunFolder
from mrlato_jax.training.stopping import GracefulStop

UPDATES = 1


def test_jobs_are_spread_each_once_one_at_a_time_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda: ["a", "b", "c"])
    done, at_work, lock = [], {"a": 0, "b": 0, "c": 0}, threading.Lock()

    def run(number: int, device: Any) -> None:
        with lock:
            at_work[device] += 1
            assert at_work[device] == 1
        time.sleep(0.01)
        with lock:
            at_work[device] -= 1
            done.append((number, device))

    spread(run, 10)
    assert sorted(number for number, _ in done) == list(range(10))
    assert {device for _, device in done} == {"a", "b", "c"}
    done.clear()
    spread(run, 4, num_devices=1)
    assert [number for number, _ in done] == [0, 1, 2, 3]
    spread(run, 0)


def test_the_first_error_ends_what_has_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "local_devices", lambda: ["a", "b"])
    begun, failed = [], threading.Event()

    def run(number: int, device: Any) -> None:
        begun.append(number)
        if number == 1:
            failed.set()
            raise InputError("first")
        failed.wait(10)
        time.sleep(0.05)
        raise InputError("later")

    with pytest.raises(InputError, match="first"):
        spread(run, 8)
    assert sorted(begun) == [0, 1]


@pytest.fixture
def unseen() -> list[TestSet]:
    return unseen_sets(tiny_run.dataset(), "paper")


def open_record(path: Path, unseen: list[TestSet]) -> LearnedRecord:
    return LearnedRecord(path, tiny_run.CONFIG, tiny_run.dataset(), unseen, UPDATES)


def part(num_graphs: int) -> dict[str, Any]:
    by_dag = {str(mark): [3.0] * num_graphs for mark in range(UPDATES + 1)}
    return {"latency_ms": [3.0] * (UPDATES + 1), "latency_ms_by_dag": by_dag, "simulator_evaluations": 8}


def test_what_is_missing(unseen: list[TestSet], tmp_path: Path) -> None:
    record = open_record(tmp_path / "record.json", unseen)
    assert record.missing() == [(index, name) for index in (0, 1) for name in ("all", "half", "planning")]
    record.add("test0", "all", part(tiny_run.GRAPHS))
    record.add("test0", "half", part(tiny_run.GRAPHS // 2))
    record.add("test1", "planning", {"seconds": [0.1]})
    again = open_record(tmp_path / "record.json", unseen)
    assert again.missing() == [(0, "planning"), (1, "all"), (1, "half")]
    assert not again.complete
    lone = mj.TaskGraph.from_edges(cycles=[1e7], upload_bytes=[1e4], download_bytes=[1e4], edges=[])
    single = open_record(tmp_path / "single.json", [TestSet("one", (lone,), mj.System())])
    assert single.missing() == [(0, "all"), (0, "planning")]  # one DAG has no halves


@pytest.mark.parametrize(
    ("damage", "phrase"),
    [
        (lambda p: p["latency_ms"].pop(), "1 latencies of 4 DAGs"),
        (lambda p: p["latency_ms_by_dag"].pop("1"), "KeyError('1')"),
        (lambda p: p["latency_ms_by_dag"]["1"].pop(), "2 latencies of 4 DAGs"),
        (lambda p: p["latency_ms"].__setitem__(0, "x"), "TypeError"),
        (lambda p: p.pop("simulator_evaluations"), "KeyError('simulator_evaluations')"),
        (
            lambda p: p["latency_ms"].__setitem__(1, 3.01),
            "a mean of 3.01 ms after 1 updates of DAGs whose mean is another",
        ),
    ],
)
def test_a_damaged_part_is_refused(
    unseen: list[TestSet], tmp_path: Path, damage: Callable[[Any], None], phrase: str
) -> None:
    path = tmp_path / "record.json"
    broken = part(tiny_run.GRAPHS)
    damage(broken)
    open_record(path, unseen).add("test0", "all", broken)
    with pytest.raises(InputError, match=re.escape(f"record {path}, all of test0: ") + ".*" + re.escape(phrase)):
        open_record(path, unseen)


@pytest.mark.parametrize(
    "training", [{}, {"summary": {"curve": {}}}, {"summary": {"params_sha256": "aa", "curve": {"entropy": ["x"]}}}]
)
def test_a_damaged_training_or_an_unknown_part_is_refused(
    unseen: list[TestSet], tmp_path: Path, training: dict[str, Any]
) -> None:
    path = tmp_path / "record.json"
    open_record(path, unseen).add("test0", "quarter", part(1))
    with pytest.raises(InputError, match="quarter of test0: KeyError"):
        open_record(path, unseen)
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "rows": {"training": training}}))
    with pytest.raises(InputError, match=re.escape(f"record {path}, training: ")):
        open_record(path, unseen)


def test_progress_compares_a_half_with_its_own_heft(
    unseen: list[TestSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Latencies of 3 ms beside HEFT-based plans that are twice as long in the half that is measured."""
    record = open_record(tmp_path / "record.json", unseen[:1])
    record.add("test0", "all", part(tiny_run.GRAPHS))
    record.add("test0", "planning", {"seconds": [0.1]})

    def adapted(policy: Any, config: Any, test_set: Any, index: int, which: str, updates: int, on_round: Any) -> Any:
        on_round(updates, 3.0, 0.5)
        return part(tiny_run.GRAPHS // 2)

    monkeypatch.setattr(reproduction, "adapt_part", adapted)
    policy = Offloader(tiny_run.POLICY, {}, "mrlato")
    heft = {"test0": [0.0, 0.0, 6.0, 6.0]}
    assert reproduction.adapt_missing([record], [policy], unseen[:1], heft, UPDATES, GracefulStop(), num_devices=1)
    assert "vs_heft -50.0%" in capsys.readouterr().err


def test_a_record_is_of_one_policy(unseen: list[TestSet], tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record = open_record(path, unseen)
    record.add_training({"params_sha256": "aa", "curve": {}})
    before = path.read_bytes()
    record.add_training({"params_sha256": "aa", "curve": {"other": []}})  # the same one: nothing to add
    with pytest.raises(InputError, match="is of a policy with parameters aa, and the run folder has bb"):
        open_record(path, unseen).add_training({"params_sha256": "bb", "curve": {}})
    assert path.read_bytes() == before


def test_hashes_of_parameters() -> None:
    params = {"a": np.arange(6.0).reshape(2, 3), "b": {"c": np.zeros(2, np.float32)}}
    same = {"b": {"c": np.zeros(2, np.float32)}, "a": np.arange(6.0).reshape(2, 3)}
    assert params_hash(params) == params_hash(same) == params_hash(jax.tree.map(np.copy, params))
    others = [
        {**params, "a": np.arange(6.0).reshape(3, 2)},
        {**params, "b": {"d": np.zeros(2, np.float32)}},
        {**params, "b": {"c": np.full(2, 1e-30, np.float32)}},
    ]
    assert len({params_hash(tree) for tree in (params, *others)}) == 4


@pytest.mark.parametrize("config", [None, [], 3])
def test_a_record_without_settings_is_refused(unseen: list[TestSet], tmp_path: Path, config: Any) -> None:
    path = tmp_path / "record.json"
    open_record(path, unseen).add("test0", "all", part(tiny_run.GRAPHS))
    stored = json.loads(path.read_text())
    stored["identity"]["config"] = config
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"cannot be read \(identity\.config is"):
        open_record(path, unseen)


def test_a_run_of_other_settings_or_code_is_refused(unseen: list[TestSet], tmp_path: Path) -> None:
    dataset = tiny_run.dataset()
    path = tmp_path / "seed3"
    record = open_record(tmp_path / "record.json", unseen)
    reproduction.check_run(path, record, dataset)  # there is none
    RunFolder.create(path, tiny_run.CONFIG, dataset.content_hash).close()
    reproduction.check_run(path, record, dataset)
    with pytest.raises(InputError, match=r"cannot be resumed: .*data_hash"):
        reproduction.check_run(path, record, tiny_run.dataset(seed=1))
    stored = json.loads((path / "config.json").read_text())
    stored["sessions"][0]["versions"]["mrlato_jax"] = "0.0.1"
    (path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"was trained by version '0.0.1' of this package"):
        reproduction.check_run(path, record, dataset)


def test_a_begun_record_whose_run_is_gone_is_refused_before_anything_is_trained(
    unseen: list[TestSet], tmp_path: Path
) -> None:
    record = open_record(tmp_path / "record.json", unseen)
    record.add_training({"params_sha256": "aa", "curve": {}})
    with pytest.raises(InputError, match=r"lacks parts, and the run .*seed3 whose policy they are to be of is gone"):
        reproduction.check_run(tmp_path / "seed3", record, tiny_run.dataset())
