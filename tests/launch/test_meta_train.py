"""`meta_train.py` as a user meets it: the table it ends with, stopping, killing, resuming, and what it refuses."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_run
from tiny_run import CONFIG, REFERENCE_ITERATIONS, Workplace, run_here

import mrlato_jax
from mrlato_jax import methods
from mrlato_jax.config import TrainConfig
from mrlato_jax.dag import dataset
from mrlato_jax.learning.outer import init_state
from mrlato_jax.training import checkpoint
from mrlato_jax.training.run_folder import checkpoint_meta, read_metrics

QUICK_PLANNERS = ("all-local", "all-offload", "random", "greedy", "HEFT-based")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return tiny_run.make_workplace(tmp_path_factory)


GOLDEN = [  # of the reference run, whose decisions differ from the first iteration on
    {"latency_ms": 396.181, "entropy": 0.693144, "policy_objective": 0.218599, "value_loss": 0.109593,
     "approx_kl": 0.0115437, "value_explained": -2.15060, "update_norm": 0.952577},
    {"latency_ms": 394.135, "entropy": 0.693018, "policy_objective": 0.367319, "value_loss": 0.681702,
     "approx_kl": 0.0136384, "value_explained": 0.733275, "update_norm": 0.782486},
]  # fmt: skip


def test_numbers_are_those_of_this_version(place: Workplace) -> None:
    """Records are of a version of the package: whoever must change these numbers raises it."""
    assert mrlato_jax.__version__ == "0.1.0"
    for line, golden in zip(read_metrics(place.reference / "metrics.jsonl"), GOLDEN, strict=False):
        assert {name: line[name] for name in golden} == pytest.approx(golden, rel=2e-3)


@pytest.fixture
def run(place: Workplace, tmp_path: Path) -> Path:
    """A copy of the reference run."""
    return shutil.copytree(place.reference, tmp_path / "run")


def metrics(run: Path) -> bytes:
    return (run / "metrics.jsonl").read_bytes()


def wait_for_lines(run: Path, lines: int, process: subprocess.Popen[str], timeout: float = 300) -> None:
    """Until `metrics.jsonl` has so many, or the process has ended."""
    deadline = time.monotonic() + timeout
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if metrics(run).count(b"\n") >= lines:
                return
        time.sleep(0.002)


# The main job.


def test_ends_with_a_table_and_files(place: Workplace) -> None:
    out = (place.path / "reference.out").read_text()
    table = (place.reference / "adaptation.md").read_text()
    assert table in out
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert rows[0] == ["mean latency, ms", "test0", "test1", "vs HEFT-based"]
    learned = [f"{methods.label(CONFIG)}, {when}" for when in ("before any update", "after 1", "after 4")]
    assert [row[0] for row in rows[2:]] == [*QUICK_PLANNERS, *learned]
    assert all(50 < float(cell) < 3000 for row in rows[2:] for cell in row[1:3])
    record = json.loads((place.reference / "adaptation.json").read_text())
    assert record["updates"] == 4
    assert record["data_hash"] == tiny_run.dataset().content_hash
    for column, setting in enumerate(record["settings"], start=1):
        assert [float(row[column]) for row in rows[7:]] == [
            round(setting["adaptation"]["latency_ms"][update], 1) for update in (0, 1, 4)
        ]
    assert (place.reference / "adaptation.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert f"in {place.reference}: adaptation.json, adaptation.md, adaptation.png" in out
    assert re.search(r"total time \d", out)


def test_says_what_it_verified_and_where_it_writes(place: Workplace) -> None:
    data, run, *_ = (place.path / "reference.out").read_text().splitlines()
    digest = tiny_run.dataset().content_hash
    assert data == f"data: exp2 verified, 3 training, 2 test sets of 4 DAGs, sha256 {digest[:12]}"
    assert run == f"run: {place.reference}, method {methods.label(CONFIG)}, seed 3"


def test_piped_output_is_plain_lines(place: Workplace) -> None:
    out, err = ((place.path / f"reference.{stream}").read_bytes() for stream in ("out", "err"))
    assert b"\r" not in out + err
    assert b"\x1b" not in out + err
    lines = err.decode().splitlines()
    assert any(f"{REFERENCE_ITERATIONS}/{REFERENCE_ITERATIONS} 100%" in line for line in lines)
    assert any(line.startswith("adapting to test1 4/4 100%") for line in lines)
    training = [line for line in lines if line.startswith("meta-training")]
    assert all(
        re.search(r"(it/s|ETA) .*latency_ms [\d.]+ +vs_heft [+-][\d.]+% +entropy [\d.]+", line) for line in training
    )
    assert "ETA ?" in training[0]
    assert "it/s" in training[-1]


def test_the_run_folder(place: Workplace) -> None:
    names = {path.name for path in place.reference.iterdir()} - {".lock"}
    figures = {"adaptation.json", "adaptation.md", "adaptation.png"}
    assert names == {"config.json", "metrics.jsonl", "timing.jsonl", "ranges.json", "checkpoints", *figures}
    record = json.loads((place.reference / "config.json").read_text())
    assert TrainConfig.from_json(record["config"]) == dataclasses.replace(CONFIG, iterations=REFERENCE_ITERATIONS)
    assert record["data_hash"] == tiny_run.dataset().content_hash
    assert len(read_metrics(place.reference / "metrics.jsonl")) == REFERENCE_ITERATIONS


@pytest.mark.slow
def test_the_shipped_flag_files_on_the_shipped_sizes(place: Workplace, tmp_path: Path) -> None:
    """The README's command but for its size: every family of Experiment 2, four DAGs a set."""
    dataset.save(dataset.build("exp2", graphs_per_set=4), tmp_path / "data")
    less = ["--units=16", "--heads=2", "--layers=1", "--graphs_per_task=2", "--rollouts=2", "--meta_batch=2"]
    ran = place.run(
        "meta_train.py", "--flagfile=exp2.flags", "--flagfile=cpu.flags", *less, "--iterations=2", "--updates=3",
        f"--data={tmp_path / 'data'}", cwd=tmp_path, timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "| n20" in " ".join(ran.stdout.split())
    assert re.search(r"mean latency, ms +\| +n20 \| +n30 \| +n40 \| vs HEFT-based", ran.stdout)
    (run,) = (tmp_path / "runs").iterdir()  # named after the time, the experiment and the method
    assert re.fullmatch(r"\d{8}-\d{6}-exp2-mrlato", run.name)
    assert {path.name for path in run.glob("adaptation.*")} == {f"adaptation.{end}" for end in ("json", "md", "png")}


# Stopped, killed, resumed.


def test_sigterm_saves_and_says_how_to_continue_then_a_torn_checkpoint(place: Workplace, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with place.start("meta_train.py", *place.flags, f"--run={run}", "--checkpoint_every=1") as process:
        wait_for_lines(run, 3, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    done = len(read_metrics(run / "metrics.jsonl"))
    assert 3 <= done < REFERENCE_ITERATIONS
    assert f"stopped after iteration {done}; checkpoint saved" in err
    newest = run / "checkpoints" / f"step_{done:08d}.npz"
    assert newest.exists()
    assert place.reference.joinpath("metrics.jsonl").read_bytes().startswith(metrics(run))
    assert not list(run.glob("adaptation.*"))
    (advice,) = re.findall(r"^continue with: (.*)$", out, re.MULTILINE)
    program, script, *words = shlex.split(advice)
    assert Path(program).samefile(sys.executable)
    assert Path(script).name == "meta_train.py"
    assert f"--run={run}" in words

    newest.write_bytes(newest.read_bytes()[:-5])
    ran = place.run("meta_train.py", *words, "--updates=0")  # as it stands: it knows of --data
    assert ran.returncode == 0, ran.stderr
    assert [str(newest) in line for line in ran.stderr.splitlines() if "broken" in line] == [True]
    assert metrics(run) == metrics(place.reference)
    assert final_checkpoint(run) == final_checkpoint(place.reference)


def wait_for_word(process: subprocess.Popen[str], word: str) -> None:
    """Until a line of standard error has it."""
    assert process.stderr is not None
    for line in process.stderr:
        if word in line:
            return


@pytest.mark.slow
def test_sigterm_while_compiling_ends_at_once(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was computed yet: what would be saved is there already."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))  # an empty one
    run = tmp_path / "run"
    with place.start("meta_train.py", *place.flags, f"--run={run}", "--checkpoint_every=1") as process:
        wait_for_word(process, "compiling the meta-iteration")
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert err.endswith("stopped before iteration 1\n")
    assert f"--run={run}" in re.findall(r"^continue with: (.*)$", out, re.MULTILINE)[0]
    assert metrics(run) == b""
    assert not list(run.glob("checkpoints/*"))


def final_checkpoint(run: Path) -> bytes:
    """Parameters, optimiser, key, step and settings: equal files are equal runs."""
    return (run / "checkpoints" / f"step_{REFERENCE_ITERATIONS:08d}.npz").read_bytes()


def kill_until_done(place: Workplace, run: Path, kills: int, longest: float, seed: int) -> int:
    """Kills the run so many times at moments of no plan, then lets it end; how often it was caught at work."""
    rng = random.Random(seed)
    caught = 0
    for _ in range(kills):
        begun = (run / "config.json").exists()
        lines = metrics(run).count(b"\n") if (run / "metrics.jsonl").exists() else 0
        arguments = ["--resume"] if begun else place.flags
        data = [f"--data={place.data}", "--checkpoint_every=1", "--updates=0", f"--run={run}"]
        with place.start("meta_train.py", *arguments, *data) as process:
            wait_for_lines(run, lines + 1, process)
            time.sleep(rng.uniform(0, longest))
            process.kill()
            process.communicate()
        caught += process.returncode == -signal.SIGKILL
        if len(read_metrics(run / "metrics.jsonl")) == REFERENCE_ITERATIONS:
            break
    ran = place.run("meta_train.py", "--resume", *data)
    assert ran.returncode == 0, ran.stderr
    return caught


@pytest.mark.slow
def test_killed_and_resumed_is_the_same_run(place: Workplace, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert kill_until_done(place, run, kills=2, longest=0.15, seed=0) == 2
    assert metrics(run) == metrics(place.reference)
    assert final_checkpoint(run) == final_checkpoint(place.reference)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_many_times_is_the_same_run(place: Workplace, tmp_path: Path, seed: int) -> None:
    run = tmp_path / "run"
    assert kill_until_done(place, run, kills=12, longest=0.12, seed=seed) >= 3
    assert metrics(run) == metrics(place.reference)
    assert final_checkpoint(run) == final_checkpoint(place.reference)


@pytest.mark.slow
def test_a_finished_run_is_only_evaluated(place: Workplace, run: Path) -> None:
    before = tiny_run.hashes(run)
    ran = place.run("meta_train.py", "--resume", f"--run={run}", f"--data={place.data}", "--updates=4")
    assert ran.returncode == 0, ran.stderr
    assert "meta-training" not in ran.stderr
    after = tiny_run.hashes(run)
    assert {name for name in after if after[name] != before.get(name)} <= {"config.json", "adaptation.png"}
    assert after.keys() == before.keys()


def test_training_alone(place: Workplace, run: Path) -> None:
    """Settings are chosen without a look at the test sets."""
    for path in run.glob("adaptation.*"):
        path.unlink()
    before = tiny_run.hashes(run)
    ran = run_here("meta_train.py", "--resume", f"--run={run}", f"--data={place.data}", "--on=none", cwd=place.path)
    assert ran.returncode == 0, ran.stderr
    assert "adapting" not in ran.stderr
    assert "continue with" not in ran.stdout
    assert tiny_run.hashes(run).keys() == before.keys()


# Refused: one line, exit status 2, and nothing changed.


def test_data_that_there_is_not(place: Workplace, tmp_path: Path) -> None:
    message = place.refused("meta_train.py", "--experiment=exp9", f"--run={tmp_path / 'run'}")
    assert "experiment is 'exp9'; accepted: exp1, exp2, exp3, general" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["--resume", "--units=32"], "policy.units: stored 16, wanted 32"),
        (["--resume", "--data={other}"], "data_hash"),
        ([*tiny_run.flags_of(CONFIG)], "accepted: a folder that is new or empty, or --resume"),
    ],
    ids=["network", "data", "no --resume"],
)
def test_a_run_of_another_kind_is_refused(
    place: Workplace, run: Path, tmp_path: Path, arguments: list[str], phrase: str
) -> None:
    dataset.save(tiny_run.dataset(seed=1), tmp_path / "other")
    given = [argument.format(other=tmp_path / "other") for argument in arguments]
    before = tiny_run.hashes(run)
    assert phrase in place.refused("meta_train.py", f"--data={place.data}", f"--run={run}", *given)
    assert tiny_run.hashes(run) == before


def change(config: TrainConfig, name: str, value: Any) -> TrainConfig:
    return dataclasses.replace(config, network=dataclasses.replace(config.network, **{name: value}))


@pytest.mark.parametrize(
    ("config", "data_hash", "phrase"),
    [
        (change(CONFIG, "layers", 2), None, "config.policy.layers: stored 2, wanted 1"),
        (CONFIG, "cd" * 32, "data_hash"),
    ],
    ids=["network", "data"],
)
def test_a_checkpoint_of_another_run_is_refused(
    place: Workplace, run: Path, config: TrainConfig, data_hash: str | None, phrase: str
) -> None:
    state = init_state(config.network, config.learning, config.seed)
    meta = checkpoint_meta(config, data_hash or tiny_run.dataset().content_hash)
    checkpoint.save(run / "checkpoints", REFERENCE_ITERATIONS + 1, state._asdict(), meta)
    before = tiny_run.hashes(run)
    message = place.refused(
        "meta_train.py", "--resume", f"--run={run}", f"--data={place.data}", f"--iterations={REFERENCE_ITERATIONS + 9}"
    )
    assert phrase in message
    assert tiny_run.hashes(run) == before


def test_a_second_writer_is_refused(place: Workplace, run: Path) -> None:
    before = tiny_run.hashes(run)
    with open(run / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = place.refused("meta_train.py", "--resume", f"--run={run}", f"--data={place.data}")
    assert "is being written by another process" in message
    assert tiny_run.hashes(run) == before


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["--itertions=3"], "unknown flag --itertions; did you mean --iterations?"),
        (["--updates=-1"], "updates is -1; accepted: an integer in [0, inf)"),
        (["--flagfile=none.flags"], "--flagfile=none.flags not found; searched: "),
        (["--resume"], "--resume needs --run"),
        (["--meta_batch=4"], "meta_batch is 4; accepted: at most 3"),
        (["--data=none"], "none/manifest.json: "),
        (["--neighbour_width=1"], "neighbour_width"),
        (["--graphs_per_task=5"], "graphs_per_task is 5; accepted: an integer in [1, 4]"),
        (["--on=validation"], "was not drawn by make_data.py"),
        (["--on=all"], "--on is 'all'; accepted: test, validation, none"),
        (["--run={file}/run"], "file"),
    ],
)
def test_bad_input_leaves_nothing(place: Workplace, tmp_path: Path, arguments: list[str], phrase: str) -> None:
    (tmp_path / "file").touch()
    given = [argument.format(file=tmp_path / "file") for argument in arguments]
    run = [] if any(argument.startswith(("--run", "--resume")) for argument in arguments) else ["--run=run"]
    assert phrase in place.refused("meta_train.py", *place.flags, *run, *given, cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("script", ["meta_train.py", "evaluate.py", "bench.py", "make_data.py"])
def test_help(tmp_path: Path, script: str) -> None:
    ran = run_here(script, "--help", cwd=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert f"python launch/{script}" in ran.stdout
    assert "\nflags:\n" in ran.stdout
    assert max(map(len, ran.stdout.splitlines())) <= 120
    assert list(tmp_path.iterdir()) == []
