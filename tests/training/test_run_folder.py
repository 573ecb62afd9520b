"""A run folder says what was run, is written by one process, and forgets nothing but what will be computed again."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import math
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mrlato_jax
from mrlato_jax.config import ExecutionConfig, LearningConfig, NetworkConfig, TrainConfig
from mrlato_jax.errors import InputError
from mrlato_jax.training import checkpoint, run_folder
from mrlato_jax.training.run_folder import RunFolder, new_run_path, read_metrics

CONFIG = TrainConfig(experiment="exp1", iterations=50, seed=7, network=NetworkConfig(units=16))
HASH = "d1" * 32


def test_create_says_what_is_run(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "runs" / "a", CONFIG, HASH) as run:
        assert run.config == CONFIG
        assert run.checkpoints == run.path / "checkpoints"
    record = json.loads((run.path / "config.json").read_text())
    assert TrainConfig.from_json(record["config"]) == CONFIG
    assert record["config"]["seed"] == 7
    assert record["data_hash"] == HASH
    (session,) = record["sessions"]
    assert session["versions"].keys() == {"python", "mrlato_jax", "jax", "jaxlib", "flax", "optax", "numpy"}
    assert session["versions"]["mrlato_jax"] == mrlato_jax.__version__
    assert session["versions"]["python"] == sys.version.split()[0]
    assert session["device"]["count"] >= 1
    assert session["device"].keys() == {"platform", "kind", "count"}
    assert session["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", session["commit"])


def test_commit_is_that_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    package = tmp_path / "package"
    package.mkdir()
    module = package / "run_folder.py"
    module.write_text("a = 1\n")
    monkeypatch.setattr(run_folder, "__file__", str(module))
    assert run_folder._commit() is None
    subprocess.run([*git, "init", "-q"], check=True)
    assert run_folder._commit() is None  # an untracked package, as in an environment inside some checkout
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x", "--no-verify"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert run_folder._commit() == head
    module.write_text("a = 2\n")
    assert run_folder._commit() == f"{head}-dirty"
    monkeypatch.setenv("PATH", "")
    assert run_folder._commit() is None


def test_create_refuses_what_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").touch()
    with pytest.raises(InputError, match=r"holds \['precious.txt'\]; accepted: .* empty, for example another --run"):
        RunFolder.create(tmp_path, CONFIG, HASH)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]
    with pytest.raises(InputError, match="is a file"):
        RunFolder.create(tmp_path / "precious.txt", CONFIG, HASH)


def test_create_refuses_a_run(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG, HASH).close()
    with pytest.raises(InputError, match="--resume"):
        RunFolder.create(tmp_path, CONFIG, HASH)


def test_create_where_another_creation_was_killed(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.123.tmp").write_text("{")
    RunFolder.create(tmp_path, CONFIG, HASH).close()
    assert RunFolder.open(tmp_path).config == CONFIG


def test_where_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    with pytest.raises(InputError, match=r"runs: .*accepted: a folder to write in"):
        run_folder.new_run_path(tmp_path / "runs", CONFIG)


def test_a_run_of_before_a_setting_was_added_goes_on(tmp_path: Path) -> None:
    """What its record lacks has the default, in config.json and in checkpoints."""
    RunFolder.create(tmp_path, CONFIG, HASH).close()
    record = json.loads((tmp_path / "config.json").read_text())
    del record["config"]["warm_start"], record["config"]["policy"]["encoder"], record["config"]["learning"]["baseline"]
    (tmp_path / "config.json").write_text(json.dumps(record))
    meta = run_folder.checkpoint_meta(CONFIG, HASH)
    del meta["config"]["learning"]["baseline"]
    checkpoint.save(tmp_path / "checkpoints", 1, {"a": np.zeros(1)}, meta)
    assert RunFolder.open(tmp_path).config == CONFIG
    RunFolder.resume(tmp_path, CONFIG, HASH).close()
    other = dataclasses.replace(CONFIG, network=dataclasses.replace(CONFIG.network, encoder="bidirectional"))
    with pytest.raises(InputError, match=r"config\.policy\.encoder|policy\.encoder: stored 'forward'"):
        RunFolder.resume(tmp_path, other, HASH)


def test_open_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        RunFolder.open(tmp_path / "none")
    with pytest.raises(InputError, match=r"has no config\.json"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("{", "is not JSON"),
        ("\xff", "is not JSON"),
        ("[]", r"holds \[\], no JSON object"),
        ("[" * 100_000, "nests too deeply"),
        ('{"config": ' + "[" * 80 + "]" * 80 + "}", "nests more than 64 levels"),
        ('{"config": {}, "sessions": []}', "no usable data_hash"),
        ('{"config": {"sede": 1}, "data_hash": "", "sessions": []}', r"unknown names \['sede'\]"),
        (
            json.dumps({"config": CONFIG.to_json() | {"iterations": 0}, "data_hash": "", "sessions": []}),
            "iterations is",
        ),
        *(
            (
                json.dumps({"config": {name: value}, "data_hash": "", "sessions": []}),
                f"{name} is .*; accepted: a JSON object",
            )
            for name, value in (("policy", 3), ("policy", []), ("learning", None), ("warm_start", []))
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_open_with_a_bad_config(tmp_path: Path, text: str, phrase: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=phrase) as caught:
        RunFolder.open(tmp_path)
    assert "config.json" in str(caught.value)


def test_resume_takes_more_iterations_and_records_the_session(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    RunFolder.create(tmp_path, CONFIG, HASH).close()
    longer = dataclasses.replace(CONFIG, iterations=80)
    with caplog.at_level(logging.WARNING), RunFolder.resume(tmp_path, longer, HASH) as run:
        assert run.config.iterations == 80
    assert RunFolder.open(tmp_path).config == longer
    assert len(RunFolder.open(tmp_path).record["sessions"]) == 2
    assert caplog.text == ""


def test_resume_elsewhere_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    RunFolder.create(tmp_path, CONFIG, HASH).close()
    record = json.loads((tmp_path / "config.json").read_text())
    record["sessions"][0]["versions"]["numpy"] = "1.0"
    (tmp_path / "config.json").write_text(json.dumps(record))
    with caplog.at_level(logging.WARNING):
        RunFolder.resume(tmp_path, CONFIG, HASH).close()
    assert "versions.numpy: stored '1.0', wanted" in caplog.text


def test_a_run_of_another_version_is_not_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One session of another version is enough, whichever came last."""
    ours = mrlato_jax.__version__
    monkeypatch.setattr(mrlato_jax, "__version__", "0.0.9")
    RunFolder.create(tmp_path, CONFIG, HASH).close()
    path = tmp_path / "config.json"
    monkeypatch.undo()
    record = json.loads(path.read_text())
    for sessions in (record["sessions"], [*record["sessions"], run_folder.session()], [{"versions": "0.0.9"}]):
        path.write_text(json.dumps({**record, "sessions": sessions}))
        before = path.read_bytes()
        theirs = None if sessions[0]["versions"] == "0.0.9" else "0.0.9"
        with pytest.raises(InputError, match=f"trained by version {theirs!r} of this package; accepted: {ours!r}"):
            RunFolder.resume(tmp_path, CONFIG, HASH)
        assert path.read_bytes() == before
    assert RunFolder.open(tmp_path).config == CONFIG  # to be read it may be of any


@pytest.mark.parametrize(
    ("changes", "data_hash", "phrases"),
    [
        ({"iterations": 49}, HASH, ["iterations: stored 50, wanted 49"]),
        ({"seed": 8}, HASH, ["seed: stored 7, wanted 8"]),
        ({"network": NetworkConfig(units=32)}, HASH, ["policy.units: stored 16, wanted 32"]),
        ({"learning": LearningConfig(gamma=0.9, rollouts=4)}, HASH, ["learning.gamma", "learning.rollouts"]),
        ({}, "00", ["data_hash", "wanted '00'"]),
    ],
)
def test_resume_refuses_other_settings(tmp_path: Path, changes: dict, data_hash: str, phrases: list[str]) -> None:
    RunFolder.create(tmp_path, CONFIG, HASH).close()
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(InputError, match="cannot be resumed") as caught:
        RunFolder.resume(tmp_path, dataclasses.replace(CONFIG, **changes), data_hash)
    assert all(phrase in str(caught.value) for phrase in phrases)
    assert (tmp_path / "config.json").read_bytes() == before
    RunFolder.resume(tmp_path, CONFIG, HASH).close()  # the refusal left no lock


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, CONFIG, HASH):
        with pytest.raises(InputError, match=re.escape(f"run {tmp_path} is being written by another process")):
            RunFolder.resume(tmp_path, CONFIG, HASH)
        assert RunFolder.open(tmp_path).config == CONFIG
    RunFolder.resume(tmp_path, CONFIG, HASH).close()


def test_lock_ends_with_its_process(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG, HASH).close()
    code = (
        "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path / ".lock")], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(InputError, match="another process"):
            RunFolder.resume(tmp_path, CONFIG, HASH)
        other.kill()
        other.wait()
        RunFolder.resume(tmp_path, CONFIG, HASH).close()


def log_iterations(run: RunFolder, first: int, last: int, resume_step: int = 0) -> None:
    with run.metrics_log(resume_step) as log:
        for i in range(first, last + 1):
            log.append(i, {"latency_s": jnp.float32(0.1) * i, "gaps": np.arange(2), "n": np.int64(i)}, seconds=0.5)


def test_lines_are_complete_at_once(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, CONFIG, HASH) as run, run.metrics_log() as log:
        log.append(1, {"latency_s": 0.5}, seconds=0.25)
        assert run.metrics.read_bytes() == b'{"iteration": 1, "latency_s": 0.5}\n'
        log.append(2, {"latency_s": 0.5}, seconds=0.5, checkpoint=1)
        assert read_metrics(run.timing) == [
            {"iteration": 1, "seconds": 0.25, "iterations_per_second": 4.0, "checkpoint": 0},
            {"iteration": 2, "seconds": 0.5, "iterations_per_second": 2.0, "checkpoint": 1},
        ]


def events_in(folder: Path) -> list[tuple[int, dict[str, float], bool]]:
    """Step, scalars and whether a session begins, of each event in a folder's files, read as TensorBoard does."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for file in sorted(folder.glob("events.out.tfevents.*"), key=lambda file: file.stat().st_mtime_ns):
        contents = file.read_bytes()
        while contents:  # length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", contents)
            event = event_pb2.Event.FromString(contents[12 : 12 + length])
            values = {value.tag: value.simple_value for value in event.summary.value}
            found.append((event.step, values, event.HasField("session_log")))
            contents = contents[12 + length + 4 :]
    return found


def test_curves_for_tensorboard(tmp_path: Path) -> None:
    """Two sessions: what the first one wrote after the checkpoint is purged by the second one's start."""
    pytest.importorskip("tensorboardX")
    watched = ExecutionConfig(tensorboard=True)
    with RunFolder.create(tmp_path, CONFIG, HASH, watched) as run, run.metrics_log(tensorboard=True) as log:
        for i in (1, 2, 3):
            log.append(i, {"latency_ms": 10.5 - i, "entropy": np.float32(0.5)}, seconds=0.25)
        run.log_validation(2, gap=0.125, seconds=3.0)
    scalars = [(step, values) for step, values, _ in events_in(tmp_path) if values]
    assert scalars.count((2, {"latency_ms": 8.5})) == scalars.count((3, {"entropy": 0.5})) == 1
    assert (2, {"gap": 0.125}) in scalars
    assert {name for _, values in scalars for name in values} == {"latency_ms", "entropy", "seconds", "gap"}
    first = len(events_in(tmp_path))
    with RunFolder.resume(tmp_path, CONFIG, HASH, watched) as run, run.metrics_log(2, tensorboard=True) as log:
        log.append(3, {"latency_ms": 1.5}, seconds=0.25)
    later = events_in(tmp_path)[first:]
    assert [step for step, _, begins in later if begins] == [3]
    assert (3, {"latency_ms": 1.5}) in [(step, values) for step, values, _ in later]
    assert [line["iteration"] for line in read_metrics(run.metrics)] == [1, 2, 3]


def test_without_the_writer_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="tensorboard is True, and tensorboardX is not installed; accepted: False, or"):
        RunFolder.create(tmp_path / "run", CONFIG, HASH, ExecutionConfig(tensorboard=True))
    assert not (tmp_path / "run").exists()


def test_it_knows_where_its_data_are(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "a", CONFIG, HASH, data_folder=Path("mine")) as run:
        assert run.data_folder == Path("mine").absolute()
    assert RunFolder.open(tmp_path / "a").data_folder == Path("mine").absolute()
    RunFolder.create(tmp_path / "b", CONFIG, HASH).close()
    assert RunFolder.open(tmp_path / "b").data_folder is None


@pytest.mark.parametrize("lost", ["metrics", "timing"])
def test_lines_that_are_missing_before_the_checkpoint(tmp_path: Path, lost: str) -> None:
    with RunFolder.create(tmp_path, CONFIG, HASH) as run:
        log_iterations(run, 1, 4)
        path = getattr(run, lost)
        for kept in ([1, 2, 4], [1, 2]):
            lines = path.read_bytes().splitlines(keepends=True)
            path.write_bytes(b"".join(line for line in lines if json.loads(line)["iteration"] in kept))
            before = run.metrics.read_bytes(), run.timing.read_bytes()
            with pytest.raises(InputError, match=f"{path.name} has {len(kept) - (4 in kept)} of the 3 iterations"):
                run.metrics_log(3)
            assert (run.metrics.read_bytes(), run.timing.read_bytes()) == before


def test_a_value_that_is_no_number_is_never_written(tmp_path: Path) -> None:
    with (
        RunFolder.create(tmp_path, CONFIG, HASH) as run,
        run.metrics_log() as log,
        pytest.raises(ValueError, match="JSON"),
    ):
        log.append(1, {"latency_s": math.nan}, seconds=0.5)


@settings(max_examples=60)
@given(done=st.integers(0, 6), step=st.integers(0, 6), torn=st.integers(0, 40))
def test_an_interrupted_run_has_the_same_lines(
    tmp_path_factory: pytest.TempPathFactory, done: int, step: int, torn: int
) -> None:
    step = min(step, done)
    path = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        here = {"versions": {"mrlato_jax": mrlato_jax.__version__}}
        patch.setattr(run_folder, "session", lambda config: here)  # git is slow, and not what is tested
        with RunFolder.create(path / "whole", CONFIG, HASH) as whole:
            log_iterations(whole, 1, 8)
        with RunFolder.create(path / "killed", CONFIG, HASH) as killed:
            log_iterations(killed, 1, done)
            for file in (killed.metrics, killed.timing):
                with open(file, "ab") as tail:
                    tail.write(whole.metrics.read_bytes().splitlines()[done][:torn])
        assert [line["iteration"] for line in read_metrics(killed.metrics)] == [*range(1, done + 1)]
        with RunFolder.resume(path / "killed", CONFIG, HASH) as resumed:
            log_iterations(resumed, step + 1, 8, resume_step=step)
    assert resumed.metrics.read_bytes() == whole.metrics.read_bytes()
    assert resumed.timing.read_bytes() == whole.timing.read_bytes()


def test_zeros_after_a_power_cut_are_a_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"iteration": 1}\n' + bytes(30))
    assert read_metrics(file) == [{"iteration": 1}]


def test_a_malformed_line_that_is_not_the_last(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, CONFIG, HASH) as run:
        for bad in (b'{"iterat', b"3", b'{"step": 3}', b"[" * 100_000, b'{"iteration": 2, "seconds": "0.1"}'):
            contents = b'{"iteration": 1}\n' + bad + b'\n{"iteration": 3}\n'
            run.metrics.write_bytes(contents)
            for use in (lambda: read_metrics(run.metrics), lambda: run.metrics_log(3)):
                with pytest.raises(InputError, match=r"metrics\.jsonl, line 2 is"):
                    use()
            assert run.metrics.read_bytes() == contents


def test_lines_that_lack_what_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "timing.jsonl"
    path.write_text('{"iteration": 1, "seconds": 0.5}\n{"iteration": 2}\n')
    assert len(read_metrics(path)) == 2
    for names in (["seconds"], None):
        with pytest.raises(InputError, match=r"timing\.jsonl, line 2, seconds is None; accepted: a finite number"):
            read_metrics(path, names)
    path.write_text("")
    with pytest.raises(InputError, match="has no line"):
        read_metrics(path, None)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("5", "holds 5, no JSON object"),
        ('{"task": [1, 2]}', "ranges has 'task'; accepted: tasks, "),
        ('{"tasks": 5}', "ranges has tasks from 5; accepted"),
        ('{"tasks": [2, 1]}', r"ranges has tasks from \[2, 1\]"),
        ('{"tasks": [NaN, 1]}', "ranges has tasks from"),
        ('{"tasks": ["1", "2"]}', "ranges has tasks from"),
        ('{"tasks": [1, 1' + "0" * 400 + "]}", "ranges has tasks from"),
        ("[" * 100_000, "nests too deeply"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_ranges_that_are_none(tmp_path: Path, text: str, phrase: str) -> None:
    with RunFolder.create(tmp_path, CONFIG, HASH) as run:
        assert run.trained_ranges is None
        run.store_ranges((("tasks", 1.0, math.inf),))
        assert run.trained_ranges == (("tasks", 1.0, math.inf),)
        (tmp_path / "ranges.json").write_text(text)
        with pytest.raises(InputError, match=phrase) as caught:
            _ = run.trained_ranges
    assert "ranges.json" in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "3", "[true]", '["1"]', "[" * 100_000], ids=lambda text: text[:9])
def test_seeds_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "seeds.json").write_text(text)
    with pytest.raises(InputError, match=r"seeds\.json .*; accepted: what the run wrote"):
        run_folder.stored_seeds(tmp_path)


def test_a_folder_that_is_renamed_is_not_split(tmp_path: Path) -> None:
    """Nothing more is written under the old name, and all that was saved goes on under the new one."""
    old, new, tree = tmp_path / "old", tmp_path / "new", {"w": np.zeros(2)}
    meta = run_folder.checkpoint_meta(CONFIG, HASH)
    run = RunFolder.create(old, CONFIG, HASH)
    with run.metrics_log() as log:
        log.append(1, {"latency_s": 0.5}, seconds=0.5)
        run.save(1, tree, meta)
        old.rename(new)
        log.append(2, {"latency_s": 0.5}, seconds=0.5)
        for write in (
            lambda: run.save(2, tree, meta),
            lambda: run.log_validation(2, 0.1, 1.0),
            lambda: run.store_ranges(()),
            lambda: run.metrics_log(1),
        ):
            with pytest.raises(InputError, match=f"run folder {re.escape(str(old))} was renamed, replaced or lost its"):
                write()
        assert not old.exists()
        with RunFolder.create(old, CONFIG, HASH), pytest.raises(InputError, match="was renamed, replaced"):
            run.save(2, tree, meta)  # into a run of another process
        assert not (old / "checkpoints").exists()
    run.close()
    with RunFolder.resume(new, CONFIG, HASH) as run, run.metrics_log(1):
        assert [line["iteration"] for line in read_metrics(run.metrics)] == [1]
        assert checkpoint.steps(run.checkpoints) == [1]


def test_a_reader_writes_nothing(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG, HASH).close()
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(InputError, match="open for reading"):
        RunFolder.open(tmp_path).save(1, {"w": np.zeros(2)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_checkpoint_of_no_run_is_refused(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, CONFIG, HASH) as run:
        for meta in ({}, {"config": None}, {"config": []}):
            run.save(1, {"w": np.zeros(2)}, meta)
            with pytest.raises(InputError, match=r"meta\.config of the checkpoint is"):
                run.check_resumable(CONFIG, HASH)


def test_metrics_that_cannot_be_had(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG, HASH).close()
    run = RunFolder.open(tmp_path)
    with pytest.raises(InputError, match="open for reading"):
        run.metrics_log()
    with pytest.raises(InputError, match="does not exist"):
        read_metrics(run.metrics)


def test_names_never_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "20261123-195000")
    names = [new_run_path(tmp_path / "runs", CONFIG).name for _ in range(3)]
    assert names == [f"20261123-195000-exp1-mrlato{suffix}" for suffix in ("", "-2", "-3")]
    monkeypatch.undo()
    path = new_run_path(tmp_path, TrainConfig())
    assert re.fullmatch(r"\d{8}-\d{6}-exp2-mrlato", path.name)
    RunFolder.create(path, TrainConfig(), HASH).close()
