"""A run whose theta is first learned from demonstrations: one run to its users, resumable in either stage."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run

from mrlato_jax.config import LearningConfig, NetworkConfig, TrainConfig
from mrlato_jax.errors import InputError
from mrlato_jax.learning.outer import LearnerState
from mrlato_jax.methods import learned_method
from mrlato_jax.training import checkpoint, demonstrations
from mrlato_jax.training.run_folder import RunFolder, read_metrics
from mrlato_jax.training.stages import WARM_START, check_demonstrations, train_stages
from mrlato_jax.training.stopping import GracefulStop

POLICY = NetworkConfig(decoder_input="task_sim", units=16, heads=2, layers=1, neighbours="pooled")
WARM = LearningConfig(
    learn_from="optimum", meta_update="joint", inner_steps=1, inner_lr=0.01, inner_lr_decay=4, meta_batch=2,
    graphs_per_task=2, rollouts=1,
)  # fmt: skip
CONFIG = TrainConfig(
    iterations=2, seed=3, network=POLICY, learning=tiny_run.LEARNING, warm_start=WARM, warm_start_iterations=4
)
DATASET = tiny_run.dataset()


class StopAt(GracefulStop):
    """Asks for a stop once a file has so many lines."""

    def __init__(self, path: Path, lines: int) -> None:
        self._file, self._lines = path, lines

    @property
    def requested(self) -> bool:
        return self._file.exists() and self._file.read_bytes().count(b"\n") >= self._lines


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    places = [place for place in demonstrations.wanted("exp2", 2) if place[0] < 2]
    found = [demonstrations.demonstrate("exp2", *place, time_limit_s=5.0) for place in places]
    demonstrations.save(demonstrations.find("exp2", folder), "exp2", found)
    return folder


def run(
    path: Path,
    data: Path,
    stop: GracefulStop | None = None,
    config: TrainConfig = CONFIG,
    begin: Callable[..., RunFolder] = RunFolder.create,
) -> LearnerState | None:
    with begin(path, config, DATASET.content_hash) as folder:
        states = train_stages([folder], [config], DATASET, stop or GracefulStop(), 2, data_folder=data)
    return None if states is None else states[0]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LearnerState]:
    path = tmp_path_factory.mktemp("whole") / "run"
    state = run(path, data)
    assert state is not None
    return path, state


def same(ours: LearnerState | None, theirs: LearnerState) -> bool:
    assert ours is not None
    pairs = zip(jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def test_the_second_stage_begins_where_the_first_ended(whole: tuple[Path, LearnerState], data: Path) -> None:
    path, state = whole
    warm = RunFolder.open(path / WARM_START)
    assert warm.config == CONFIG.warm_start_config
    assert [line["iteration"] for line in read_metrics(warm.metrics)] == [1, 2, 3, 4]
    assert [line["iteration"] for line in read_metrics(path / "metrics.jsonl")] == [1, 2]
    shown = [line["latency_ms"] for line in read_metrics(warm.metrics)]
    best = [1e3 * entry.cost for entry in demonstrations.load(demonstrations.find("exp2", data), "exp2")]
    assert shown == pytest.approx([np.mean(best)] * 4, rel=1e-5)  # of the plans that are imitated
    theta = checkpoint.read_params(warm.checkpoints).tree
    moved = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), theta, state.params)
    most = 2 * CONFIG.learning.inner_steps * CONFIG.learning.outer_lr  # two iterations, each step at most alpha
    assert 0 < max(jax.tree.leaves(moved)) < 1.5 * most


@pytest.mark.parametrize("where", [(WARM_START, 3), (".", 1)], ids=["warm start", "meta-training"])
def test_stopped_in_either_stage_it_goes_on_to_the_same(
    where: tuple[str, int], whole: tuple[Path, LearnerState], data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    assert run(path, data, StopAt(path / where[0] / "metrics.jsonl", where[1])) is None
    assert same(run(path, data, begin=RunFolder.resume), whole[1])
    for name in ("metrics.jsonl", f"{WARM_START}/metrics.jsonl"):
        assert (path / name).read_bytes() == (whole[0] / name).read_bytes()


def test_once_begun_the_second_stage_needs_no_demonstrations(whole: tuple[Path, LearnerState], tmp_path: Path) -> None:
    path = Path(shutil.copytree(whole[0], tmp_path / "run"))
    assert same(run(path, tmp_path / "nothing", begin=RunFolder.resume), whole[1])


class Counted:
    """In place of a validation: the gap is how often one was asked for."""

    def __init__(self) -> None:
        self.gaps, self.seconds = 0, 0.5

    def go_on_from(self, seconds: float) -> None:
        self.seconds = seconds + 1

    def gap(self, params: object) -> float:
        self.gaps += 1
        return float(self.gaps)


def test_each_checkpoint_is_validated(data: Path, tmp_path: Path) -> None:
    """In both stages; what came after the checkpoint that a run goes on from is measured again."""
    path, counted = tmp_path / "run", Counted()

    def validated(begin: Callable[..., RunFolder], stop: GracefulStop) -> None:
        with begin(path, CONFIG, DATASET.content_hash) as folder:
            train_stages([folder], [CONFIG], DATASET, stop, 2, data_folder=data, validation=counted)  # type: ignore[arg-type]

    def lines(stage: str) -> list[tuple[int, float, float]]:
        return [(line["iteration"], line["gap"], line["seconds"]) for line in read_metrics(path / stage)]

    validated(RunFolder.create, StopAt(path / WARM_START / "metrics.jsonl", 2))
    assert lines(f"{WARM_START}/validation.jsonl") == [(2, 1.0, 0.5)]
    with open(path / WARM_START / "validation.jsonl", "a") as file:
        file.write('{"iteration": 4, "gap": 9.0, "seconds": 0.5}\n')  # as if killed before its checkpoint was saved
    validated(RunFolder.resume, StopAt(path / WARM_START / "metrics.jsonl", 3))  # where nothing is validated
    assert lines(f"{WARM_START}/validation.jsonl") == [(2, 1.0, 0.5)]
    validated(RunFolder.resume, GracefulStop())  # its clock goes on from that stop
    assert lines(f"{WARM_START}/validation.jsonl") == [(2, 1.0, 0.5), (4, 2.0, 2.5)]
    assert lines("validation.jsonl") == [(2, 3.0, 2.5)]


def test_what_is_imitated_throughout_is_demonstrations(data: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, learning=WARM, warm_start=None, warm_start_iterations=0)
    assert run(tmp_path / "run", data, config=config) is not None
    shown = [line["latency_ms"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    best = [1e3 * entry.cost for entry in demonstrations.load(demonstrations.find("exp2", data), "exp2")]
    assert shown == pytest.approx([np.mean(best)] * 2, rel=1e-5)


def test_without_a_warm_start_nothing_is_imitated(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, warm_start_iterations=0, iterations=1)
    assert run(tmp_path / "run", tmp_path / "nothing", config=config) is not None
    assert not (tmp_path / "run" / WARM_START).exists()


def test_other_demonstrations_are_not_gone_on_with(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert run(path, data, StopAt(path / WARM_START / "metrics.jsonl", 2)) is None
    file = demonstrations.find("exp2", tmp_path)
    demonstrations.save(file, "exp2", demonstrations.load(demonstrations.find("exp2", data), "exp2")[::-1])
    with pytest.raises(InputError, match=r"warm_start cannot be resumed: data_hash"):
        run(path, tmp_path, begin=RunFolder.resume)


def test_a_set_of_ones_own_has_no_demonstrations() -> None:
    check_demonstrations(TrainConfig(experiment="mine"))
    with pytest.raises(InputError, match=r"experiment is mine, .* for method mrlato_plus; .*mj\.train\(sets, system, "):
        check_demonstrations(dataclasses.replace(learned_method("mrlato_plus").config(iterations=1), experiment="mine"))
