"""A run that was stopped, killed or damaged goes on to the same result, bit for bit, or refuses and changes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run
from wider import Kind, random_case

import mrlato_jax as mj
from mrlato_jax.config import STORED_AS, ExecutionConfig, LearningConfig, NetworkConfig, TrainConfig
from mrlato_jax.errors import InputError
from mrlato_jax.learning.learning_task import learning_task, stack, stack_alike
from mrlato_jax.learning.meta_batch import TaskPool
from mrlato_jax.learning.outer import LearnerState, init_state
from mrlato_jax.training import checkpoint, loop, run_folder
from mrlato_jax.training.experiments import training_pools
from mrlato_jax.training.loop import begun_together, train
from mrlato_jax.training.run_folder import MetricsLog, RunFolder, checkpoint_meta, read_metrics
from mrlato_jax.training.stopping import GracefulStop

CONFIG = tiny_run.CONFIG  # of 6 iterations
HASH = "ab" * 32
FIELDS = {
    "iteration", "latency_ms", "heft_ms", "entropy", "value_explained", "policy_objective", "value_loss", "approx_kl",
    "clip_fraction", "explained_variance", "update_norm",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """A hundred runs start here: initialisation is compiled once, and git is not asked."""
    made: dict[TrainConfig, LearnerState] = {}

    def init(policy: NetworkConfig, learning: LearningConfig, seed: int, params: Any = None) -> LearnerState:
        assert params is None
        key = TrainConfig(network=policy, learning=learning, seed=seed)
        if key not in made:
            made[key] = init_state(policy, learning, seed)
        return jax.tree.map(jax.numpy.copy, made[key])  # training gives its buffers away

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "init_state", init)
        patch.setattr(run_folder, "_commit", lambda: None)
        yield


@pytest.fixture(scope="module")
def pool() -> TaskPool:
    return training_pools(tiny_run.dataset(), CONFIG.network, CONFIG.channel)[0]


@dataclasses.dataclass
class Outcome:
    path: Path
    state: LearnerState

    @property
    def metrics(self) -> bytes:
        return (self.path / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def whole(pool: TaskPool, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Six iterations that nothing interrupted."""
    path = tmp_path_factory.mktemp("whole") / "run"
    state = start(path, pool, checkpoint_every=2)
    assert state is not None
    return Outcome(path, state)


class StopAfter(GracefulStop):
    """Asks for a stop once `metrics.jsonl` has so many lines, as a signal that arrives then would."""

    def __init__(self, path: Path, lines: int) -> None:
        self._file, self._lines = path / "metrics.jsonl", lines

    @property
    def requested(self) -> bool:
        return self._file.read_bytes().count(b"\n") >= self._lines


def start(path: Path, pool: TaskPool, stop: GracefulStop | None = None, **options: Any) -> LearnerState | None:
    with RunFolder.create(path, CONFIG, HASH) as run:
        return only(train([run], [CONFIG], HASH, [pool], stop or GracefulStop(), **options))


def resume(
    path: Path, pool: TaskPool, config: TrainConfig = CONFIG, data_hash: str = HASH, **options: Any
) -> LearnerState | None:
    with RunFolder.resume(path, config, data_hash) as run:
        return only(train([run], [config], data_hash, [pool], GracefulStop(), **options))


def only(states: list[LearnerState] | None) -> LearnerState | None:
    """The learner of a run of one seed."""
    return None if states is None else states[0]


def assert_alike(got: Any, want: Any) -> None:
    """Parameters of runs whose programs round differently, as those of one and of two seeds do.

    Adam's steps, of a length of 0.02 here, amplify what rounding leaves of small gradients.
    """
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def assert_same(got: LearnerState | None, want: LearnerState) -> None:
    assert got is not None
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if jax.numpy.issubdtype(ours.dtype, jax.dtypes.prng_key):
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def test_kinds_of_systems_are_met_in_turn(pool: TaskPool, whole: Outcome, tmp_path: Path) -> None:
    """What an iteration draws from is its pool's, also in a run that goes on after an interruption."""
    (other,) = training_pools(tiny_run.dataset(seed=1), CONFIG.network, CONFIG.channel)

    def run(path: Path, stop: GracefulStop) -> LearnerState | None:
        with RunFolder.create(path, CONFIG, HASH) as folder:
            return only(train([folder], [CONFIG], HASH, [pool, other], stop))

    want = run(tmp_path / "whole", GracefulStop())
    assert want is not None
    assert run(tmp_path / "stopped", StopAfter(tmp_path / "stopped", 3)) is None
    with RunFolder.resume(tmp_path / "stopped", CONFIG, HASH) as folder:
        assert_same(only(train([folder], [CONFIG], HASH, [pool, other], GracefulStop())), want)
    found, alone = (
        [json.loads(line)["heft_ms"] for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (tmp_path / "whole", whole.path)
    )
    same = [ours == theirs for ours, theirs in zip(found, alone, strict=True)]
    assert same == [True, False] * 3


@pytest.mark.slow
def test_kinds_of_different_numbers_of_servers(tmp_path: Path) -> None:
    """One policy, one server and four by turns: each iteration measures HEFT-based plans of its own kind."""
    network = dataclasses.replace(CONFIG.network, servers="any_servers")
    learning = dataclasses.replace(CONFIG.learning, graphs_per_task=tiny_run.GRAPHS)
    config = dataclasses.replace(CONFIG, network=network, learning=learning, iterations=4)
    rng, pools, hefts = np.random.default_rng(0), [], []
    for kind in (Kind(1, "paper"), Kind(4, "resident", "separate", pinned=True)):
        sets = [[random_case(rng, kind, 6) for _ in range(tiny_run.GRAPHS)] for _ in range(2)]
        system = sets[0][0].system
        graphs = [[case.graph for case in cases] for cases in sets]
        tasks = [stack([learning_task(of_set, system, network, 6)]) for of_set in graphs]
        pools.append(TaskPool(stack_alike(tasks), (6, 6)))
        hefts.append(1e3 * np.mean([mj.heft(graph, system).makespan for of_set in graphs for graph in of_set]))
    with RunFolder.create(tmp_path / "run", config, HASH) as folder:
        (state,) = train([folder], [config], HASH, pools, GracefulStop())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["heft_ms"] for line in lines] == pytest.approx(2 * hefts, rel=1e-4)
    begun = init_state(network, learning, config.seed).params
    for before, after in zip(jax.tree.leaves(begun), jax.tree.leaves(state.params), strict=True):
        assert np.isfinite(after).all()
        assert not np.array_equal(before, after)


def test_too_many_kinds_for_a_host_are_said_before(tmp_path: Path) -> None:
    limit = tmp_path / "max_map_count"
    limit.write_text("65530\n")
    assert loop._too_few_maps(6, limit) is None
    assert loop._too_few_maps(8, tmp_path / "nowhere") is None
    said = loop._too_few_maps(8, limit)
    assert said is not None
    assert "this host allows 65530" in said
    assert said.endswith("sysctl -w vm.max_map_count=160000")


def test_a_stop_before_the_first_iteration_computes_nothing(pool: TaskPool, tmp_path: Path) -> None:
    stop = GracefulStop()
    stop.requested = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "iteration_program", None)
        assert start(tmp_path / "run", pool, stop) is None
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == b""
    assert resume(tmp_path / "run", pool) is not None


def diverge_at(diverging: int, patch: pytest.MonkeyPatch) -> None:
    """Makes that iteration's metric of the last seed NaN."""
    make_program = loop.iteration_program

    def make_diverging(*settings: Any) -> Any:
        program = make_program(*settings)

        def iterate(states: LearnerState, pool: TaskPool) -> Any:
            iteration = int(states.iteration[0]) + 1
            after, metrics = program(states, pool)
            norm = metrics.update_norm
            return after, metrics._replace(update_norm=norm.at[-1].set(np.nan) if iteration == diverging else norm)

        return iterate

    patch.setattr(loop, "iteration_program", make_diverging)


def test_divergence_ends_the_run_and_leaves_what_was_saved(
    pool: TaskPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverge_at(4, monkeypatch)
    with pytest.raises(InputError, match="training diverged: update_norm is nan at iteration 4 of seed 3"):
        start(tmp_path / "run", pool, checkpoint_every=2)
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 3
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == ["step_00000002.npz"]


# What a run leaves.


def test_a_line_for_each_iteration(whole: Outcome) -> None:
    lines = read_metrics(whole.path / "metrics.jsonl")
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert line.keys() == FIELDS
        assert all(math.isfinite(value) for value in line.values())
        assert 50 < line["latency_ms"] < 2000  # not seconds: six tasks of 10 to 167 ms each
        assert 0 < line["entropy"] <= math.log(2) + 1e-6
        assert line["update_norm"] > 0
    assert len({line["latency_ms"] for line in lines}) == 6
    assert len({line["update_norm"] for line in lines}) == 6


def test_the_clock_is_kept_apart(whole: Outcome) -> None:
    lines = read_metrics(whole.path / "timing.jsonl")
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line["seconds"] > 0 for line in lines)
    assert not any("second" in name or "time" in name for name in read_metrics(whole.path / "metrics.jsonl")[0])


def test_config_is_resolved(whole: Outcome) -> None:
    record = json.loads((whole.path / "config.json").read_text())
    assert TrainConfig.from_json(record["config"]) == CONFIG
    assert set(record["config"]["learning"]) == {field.name for field in dataclasses.fields(LearningConfig)}
    assert set(record["config"]["policy"]) == {field.name for field in dataclasses.fields(NetworkConfig)}
    assert record["data_hash"] == HASH


def test_the_last_iteration_is_saved_whatever_the_interval(whole: Outcome, pool: TaskPool, tmp_path: Path) -> None:
    assert sorted(path.name for path in (whole.path / "checkpoints").iterdir()) == [
        f"step_{step:08d}.npz" for step in (2, 4, 6)
    ]
    assert start(tmp_path / "run", pool, checkpoint_every=4) is not None
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        f"step_{step:08d}.npz" for step in (4, 6)
    ]
    found = checkpoint.read_params(tmp_path / "run" / "checkpoints")
    assert found.step == 6
    assert {name: found.meta[name] for name in ("config", "data_hash")} == checkpoint_meta(CONFIG, HASH)
    assert found.meta["versions"]["jax"] == jax.__version__
    for ours, theirs in zip(jax.tree.leaves(found.tree), jax.tree.leaves(whole.state.params), strict=True):
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


def test_the_seed_is_what_makes_it_the_same(whole: Outcome, pool: TaskPool, tmp_path: Path) -> None:
    assert_same(start(tmp_path / "again", pool), whole.state)
    assert (tmp_path / "again" / "metrics.jsonl").read_bytes() == whole.metrics
    other = dataclasses.replace(CONFIG, seed=CONFIG.seed + 1)
    with RunFolder.create(tmp_path / "other", other, HASH) as run:
        train([run], [other], HASH, [pool], GracefulStop())
    assert (tmp_path / "other" / "metrics.jsonl").read_bytes() != whole.metrics


# Stopped and resumed.


@pytest.mark.parametrize("after", [1, 3, 5])
def test_stopped_and_resumed_is_the_same_run(
    whole: Outcome, pool: TaskPool, tmp_path: Path, after: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run"
    assert start(path, pool, StopAfter(path, after)) is None
    assert f"stopped after iteration {after}; checkpoint saved" in capsys.readouterr().err
    assert (path / "checkpoints" / f"step_{after:08d}.npz").exists()
    assert len(read_metrics(path / "metrics.jsonl")) == after
    assert_same(resume(path, pool), whole.state)
    assert (path / "metrics.jsonl").read_bytes() == whole.metrics


def test_a_stop_during_the_last_iteration_finishes(whole: Outcome, pool: TaskPool, tmp_path: Path) -> None:
    assert_same(start(tmp_path / "run", pool, StopAfter(tmp_path / "run", 6)), whole.state)


def test_a_finished_run_is_read_not_trained(
    whole: Outcome, pool: TaskPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(whole.path, tmp_path / "run")
    before = tiny_run.hashes(path)
    monkeypatch.setattr(loop, "iteration_program", None)
    assert_same(resume(path, pool), whole.state)
    after = tiny_run.hashes(path)
    assert {name for name in after if after[name] != before.get(name)} <= {"config.json"}  # one more session
    assert after.keys() == before.keys()


def test_more_iterations_continue(whole: Outcome, pool: TaskPool, tmp_path: Path) -> None:
    path = shutil.copytree(whole.path, tmp_path / "run")
    state = resume(path, pool, dataclasses.replace(CONFIG, iterations=9))
    lines = (path / "metrics.jsonl").read_bytes()
    assert lines.startswith(whole.metrics)
    assert [line["iteration"] for line in read_metrics(path / "metrics.jsonl")] == list(range(1, 10))
    assert RunFolder.open(path).config.iterations == 9
    longer = dataclasses.replace(CONFIG, iterations=9)
    with RunFolder.create(tmp_path / "at once", longer, HASH) as run:
        assert_same(state, only(train([run], [longer], HASH, [pool], GracefulStop())))
    assert (tmp_path / "at once" / "metrics.jsonl").read_bytes() == lines


@pytest.mark.parametrize("metrics_every", [4, 100])
def test_metrics_fetched_now_and_then_are_the_same(
    whole: Outcome, pool: TaskPool, tmp_path: Path, metrics_every: int
) -> None:
    """Also before every checkpoint and at the end, so that no checkpoint outlives its metrics."""
    execution = ExecutionConfig(metrics_every=metrics_every)
    assert_same(start(tmp_path / "run", pool, checkpoint_every=5, execution=execution), whole.state)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == whole.metrics
    lines = read_metrics(tmp_path / "run" / "timing.jsonl")
    assert [line["checkpoint"] for line in lines] == [0, 0, 0, 0, 0, 5]


def test_divergence_between_two_fetches_is_found_at_its_iteration(
    pool: TaskPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flatten = loop.flatten
    calls = iter(range(1, 7))
    monkeypatch.setattr(
        loop, "flatten", lambda metrics: flatten(metrics) | ({"entropy": math.inf} if next(calls) == 3 else {})
    )
    with pytest.raises(InputError, match="entropy is inf at iteration 3 of seed 3"):
        start(tmp_path / "run", pool, execution=ExecutionConfig(metrics_every=6))
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 2
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


# Several seeds.


SEEDS = [dataclasses.replace(CONFIG, seed=seed) for seed in (3, 4)]


def train_seeds(root: Path, pool: TaskPool, begin: Any = RunFolder.create, **options: Any) -> list[LearnerState] | None:
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(begin(root / f"seed{c.seed}", c, HASH)) for c in SEEDS]
        return train(runs, SEEDS, HASH, [pool], options.pop("stop", None) or GracefulStop(), **options)


@pytest.fixture(scope="module")
def both(pool: TaskPool, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[LearnerState]]:
    root = tmp_path_factory.mktemp("seeds")
    states = train_seeds(root, pool, checkpoint_every=2)
    assert states is not None
    return root, states


def test_seeds_trained_together_are_the_seeds_trained_alone(
    whole: Outcome, both: tuple[Path, list[LearnerState]]
) -> None:
    root, states = both
    assert_alike(states[0].params, whole.state.params)
    for ours, theirs in zip(
        read_metrics(root / "seed3" / "metrics.jsonl"), read_metrics(whole.path / "metrics.jsonl"), strict=True
    ):
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-2, atol=1e-3)
    assert (root / "seed4" / "metrics.jsonl").read_bytes() != (root / "seed3" / "metrics.jsonl").read_bytes()
    assert checkpoint.read_params(root / "seed4" / "checkpoints").meta["config"]["seed"] == 4


@pytest.mark.parametrize(
    ("steps", "groups"),
    [
        ({}, []),
        ({0: [], 1: [], 2: []}, [[0, 1, 2]]),
        ({0: [50, 75, 100], 1: [50, 75, 100], 2: []}, [[2], [0, 1]]),  # a seed more than last time
        ({0: [50, 75, 100], 1: [25, 50, 75]}, [[0, 1]]),  # killed between the checkpoints of two seeds
        ({0: [150, 175, 200], 1: [50, 75, 100]}, [[1], [0]]),  # nothing in common
        ({0: [50, 75], 1: [75, 100], 2: [100, 125]}, [[0, 1], [2]]),  # together all three have nothing in common
    ],
)
def test_seeds_go_on_together_from_a_checkpoint_of_all(steps: dict[int, list[int]], groups: list[list[int]]) -> None:
    assert begun_together(steps) == groups


def test_seeds_whose_checkpoints_differ_go_on_from_the_last_common_one(
    both: tuple[Path, list[LearnerState]], pool: TaskPool, tmp_path: Path
) -> None:
    """As when the process was killed between writing one seed's checkpoint and the other's."""
    root = shutil.copytree(both[0], tmp_path / "runs")
    for seed, step in ((3, 6), (4, 6), (4, 4)):
        (root / f"seed{seed}" / "checkpoints" / f"step_{step:08}.npz").unlink()
    states = train_seeds(root, pool, RunFolder.resume)
    assert states is not None
    for seed, ours, theirs in zip((3, 4), states, both[1], strict=True):
        assert_same(ours, theirs)
        name = f"seed{seed}/metrics.jsonl"
        assert (root / name).read_bytes() == (both[0] / name).read_bytes()
        assert (root / f"seed{seed}" / "checkpoints" / "step_00000006.npz").exists()


def test_a_seed_that_was_ahead_can_go_on_alone_after_a_second_kill(
    both: tuple[Path, list[LearnerState]], whole: Outcome, pool: TaskPool, tmp_path: Path
) -> None:
    """Killed once, the seeds go back to the second iteration; killed there again, one is resumed without the other."""
    root = shutil.copytree(both[0], tmp_path / "runs")
    for seed, step in ((3, 6), (4, 6), (4, 4)):
        (root / f"seed{seed}" / "checkpoints" / f"step_{step:08}.npz").unlink()

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "iteration_program", killed)
        with pytest.raises(KeyboardInterrupt):
            train_seeds(root, pool, RunFolder.resume)
    assert checkpoint.steps(root / "seed3" / "checkpoints") == [2]
    state = resume(root / "seed3", pool)
    assert state is not None
    assert_alike(state.params, whole.state.params)


def test_a_seed_with_no_checkpoint_in_common_is_trained_in_turn(
    both: tuple[Path, list[LearnerState]], pool: TaskPool, tmp_path: Path
) -> None:
    """One seed has ended, of the other there is the second iteration: the first is not begun again."""
    root = shutil.copytree(both[0], tmp_path / "runs")
    for step in (4, 6):
        (root / "seed4" / "checkpoints" / f"step_{step:08}.npz").unlink()
    for step in (2, 4):
        (root / "seed3" / "checkpoints" / f"step_{step:08}.npz").unlink()
    before = tiny_run.hashes(root / "seed3" / "checkpoints")
    states = train_seeds(root, pool, RunFolder.resume)
    assert states is not None
    assert_same(states[0], both[1][0])
    assert tiny_run.hashes(root / "seed3" / "checkpoints") == before
    assert_alike(states[1].params, both[1][1].params)
    assert len(read_metrics(root / "seed4" / "metrics.jsonl")) == CONFIG.iterations


def test_checkpoints_are_kept_where_the_common_one_is_broken(
    both: tuple[Path, list[LearnerState]], pool: TaskPool, tmp_path: Path
) -> None:
    root = shutil.copytree(both[0], tmp_path / "runs")
    for seed, step in ((3, 6), (3, 2), (4, 6), (4, 2)):
        (root / f"seed{seed}" / "checkpoints" / f"step_{step:08}.npz").unlink()
    shutil.copy(both[0] / "seed3/checkpoints/step_00000002.npz", root / "seed3/checkpoints/step_00000002.npz")
    (root / "seed3" / "checkpoints" / "step_00000004.npz").write_bytes(b"broken")
    before = {seed: tiny_run.hashes(root / f"seed{seed}" / "checkpoints") for seed in (3, 4)}
    with pytest.raises(InputError, match="have no whole checkpoint in common; accepted: each continued alone"):
        train_seeds(root, pool, RunFolder.resume)
    assert {seed: tiny_run.hashes(root / f"seed{seed}" / "checkpoints") for seed in (3, 4)} == before


def test_where_one_seed_diverges_the_other_can_go_on(whole: Outcome, pool: TaskPool, tmp_path: Path) -> None:
    message = "at iteration 4 of seed 4;.* the other seeds can continue, each by meta_train.py --resume with its folder"
    with pytest.MonkeyPatch.context() as patch:
        diverge_at(4, patch)
        with pytest.raises(InputError, match=message):
            train_seeds(tmp_path, pool, checkpoint_every=2)
    state = resume(tmp_path / "seed3", pool)
    assert state is not None
    assert_alike(state.params, whole.state.params)


# Killed. A process that dies between two of its writes leaves what had been written: here each write in turn is the
# last. `tests/launch/test_meta_train.py` kills real processes.


class KilledError(BaseException):
    """No code under test may catch it, as none can catch SIGKILL."""


class Countdown:
    """Lets so many writes happen, then dies at the next: before it, or halfway through."""

    def __init__(self, patch: pytest.MonkeyPatch, writes: int) -> None:
        self.left = writes
        replace, fsync, unlink, append = os.replace, os.fsync, Path.unlink, MetricsLog.append

        def torn_append(log: MetricsLog, iteration: int, metrics: Any, *rest: float) -> None:
            if self._over():
                for file in (log._timing, log._metrics):
                    file.write(json.dumps({"iteration": iteration, **metrics}).encode()[:37])
                    file.flush()
                raise KilledError
            append(log, iteration, metrics, *rest)

        patch.setattr(os, "replace", self._guard(replace))
        patch.setattr(os, "fsync", self._guard(fsync))
        patch.setattr(Path, "unlink", self._guard(unlink))
        patch.setattr(MetricsLog, "append", torn_append)

    def _over(self) -> bool:
        self.left -= 1
        return self.left < 0

    def _guard(self, function: Any) -> Any:
        def guarded(*arguments: Any, **options: Any) -> Any:
            if self._over():
                raise KilledError
            return function(*arguments, **options)

        return guarded


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_killed_at_any_write_is_the_same_run(step: int, whole: Outcome, pool: TaskPool, tmp_path: Path) -> None:
    """At each write, or at every third of them, of which an iteration has four."""
    writes = 0
    while True:
        path = tmp_path / f"killed at {writes}"
        with pytest.MonkeyPatch.context() as patch:
            Countdown(patch, writes)
            try:
                start(path, pool, checkpoint_every=1)
                break
            except KilledError:
                pass
        if (path / "config.json").exists():
            state = resume(path, pool, checkpoint_every=1)
        else:
            state = start(path, pool, checkpoint_every=1)  # killed before there was a run
        assert_same(state, whole.state)
        assert (path / "metrics.jsonl").read_bytes() == whole.metrics, f"killed at write {writes}"
        assert [line["iteration"] for line in read_metrics(path / "timing.jsonl")] == [1, 2, 3, 4, 5, 6]
        shutil.rmtree(path)
        writes += step
    assert writes > 6 * 4  # a line, two fsyncs and a rename an iteration


def test_killed_again_and_again(whole: Outcome, pool: TaskPool, tmp_path: Path) -> None:
    path = tmp_path / "run"
    state, kills = None, 0
    while state is None:
        with pytest.MonkeyPatch.context() as patch:
            Countdown(patch, 20 + kills % 6)  # a resume alone takes up to fifteen
            try:
                begin = resume if (path / "config.json").exists() else start
                state = begin(path, pool, checkpoint_every=1)
            except KilledError:
                kills += 1
                assert kills < 30, "no progress"
    assert kills >= 3
    assert_same(state, whole.state)
    assert (path / "metrics.jsonl").read_bytes() == whole.metrics


# Damaged, or another's.


@pytest.mark.parametrize("damage", ["cut", "empty", "bit"])
def test_a_torn_checkpoint_is_named_and_the_previous_one_used(
    whole: Outcome, pool: TaskPool, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path = shutil.copytree(whole.path, tmp_path / "run")
    newest = path / "checkpoints" / "step_00000006.npz"
    contents = newest.read_bytes()
    flipped = bytearray(contents)
    flipped[len(contents) // 2] ^= 1
    newest.write_bytes({"cut": contents[:-100], "empty": b"", "bit": bytes(flipped)}[damage])
    with caplog.at_level(logging.WARNING):
        state = resume(path, pool)
    (line,) = caplog.messages
    assert str(newest) in line
    assert "\n" not in line
    assert_same(state, whole.state)
    assert (path / "metrics.jsonl").read_bytes() == whole.metrics
    assert newest.read_bytes() == contents


def test_all_checkpoints_torn_is_no_fresh_start(whole: Outcome, pool: TaskPool, tmp_path: Path) -> None:
    path = shutil.copytree(whole.path, tmp_path / "run")
    for file in (path / "checkpoints").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="all 3 are broken"):
        resume(path, pool)
    assert (path / "metrics.jsonl").read_bytes() == whole.metrics


def test_lost_checkpoints_are_no_fresh_start(whole: Outcome, pool: TaskPool, tmp_path: Path) -> None:
    path = shutil.copytree(whole.path, tmp_path / "run")
    shutil.rmtree(path / "checkpoints")
    with pytest.raises(InputError, match="holds no checkpoint, though one was saved after iteration 4"):
        resume(path, pool)
    assert (path / "metrics.jsonl").read_bytes() == whole.metrics


OTHER_POLICY = dataclasses.replace(CONFIG, network=dataclasses.replace(CONFIG.network, layers=2))
OTHER_LEARNING = dataclasses.replace(CONFIG, learning=dataclasses.replace(CONFIG.learning, gamma=0.5))
OTHER_SEED = dataclasses.replace(CONFIG, seed=99)


@pytest.mark.parametrize(
    ("config", "data_hash", "phrase"),
    [
        (OTHER_POLICY, HASH, "config.policy.layers: stored 2, wanted 1"),
        (OTHER_LEARNING, HASH, "config.learning.gamma: stored 0.5, wanted 0.99"),
        (OTHER_SEED, HASH, "config.seed: stored 99, wanted 3"),
        (CONFIG, "cd" * 32, "data_hash"),
    ],
    ids=["network", "learning", "seed", "data"],
)
def test_a_checkpoint_of_another_run_is_refused(
    whole: Outcome, pool: TaskPool, tmp_path: Path, config: TrainConfig, data_hash: str, phrase: str
) -> None:
    path = shutil.copytree(whole.path, tmp_path / "run")
    state = init_state(config.network, config.learning, config.seed)
    checkpoint.save(path / "checkpoints", 7, state._asdict(), checkpoint_meta(config, data_hash))
    longer = dataclasses.replace(CONFIG, iterations=9)
    run = RunFolder(path, RunFolder.open(path).record)
    before = tiny_run.hashes(path)
    with pytest.raises(InputError) as caught:
        train([run], [longer], HASH, [pool], GracefulStop())
    assert phrase in str(caught.value)
    assert "step_00000007.npz" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert tiny_run.hashes(path) == before


def test_only_the_length_of_a_run_may_change() -> None:
    longer = dataclasses.replace(CONFIG, iterations=100)
    assert checkpoint_meta(longer, HASH) == checkpoint_meta(CONFIG, HASH)
    names = {STORED_AS.get(field.name, field.name) for field in dataclasses.fields(CONFIG)}
    assert set(checkpoint_meta(CONFIG, HASH)["config"]) == names - {"iterations"}
