"""`evaluate.py` on a finished run."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import tiny_run
from tiny_run import Workplace, run_here

from mrlato_jax.dag import dataset
from mrlato_jax.errors import InputError
from mrlato_jax.files import check_writable


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return tiny_run.make_workplace(tmp_path_factory)


@pytest.fixture
def run(place: Workplace, tmp_path: Path) -> Path:
    return shutil.copytree(place.reference, tmp_path / "run")


@pytest.mark.slow
def test_writes_beside_what_is_there(place: Workplace, run: Path) -> None:
    before = tiny_run.hashes(run)
    ran = place.run("evaluate.py", f"--run={run}", f"--data={place.data}", "--updates=2", "--noheld_out")
    assert ran.returncode == 0, ran.stderr
    after = tiny_run.hashes(run)
    assert after.keys() - before.keys() == {f"evaluation-2.{end}" for end in ("json", "md", "png")}
    assert {name: after[name] for name in before} == before
    assert (run / "evaluation-2.md").read_text() in ran.stdout
    assert "\r" not in ran.stdout + ran.stderr

    record, trained = (json.loads((run / name).read_text()) for name in ("evaluation-2.json", "adaptation.json"))
    assert record["updates"] == 2
    assert [setting["setting"] for setting in record["settings"]] == ["test0", "test1"]
    for ours, theirs in zip(record["settings"], trained["settings"], strict=True):
        # The same run adapted by the same keys: the beginning of what training ended with, whichever script asked.
        assert ours["adaptation"]["latency_ms"] == theirs["adaptation"]["latency_ms"][:3]
        assert ours["baselines_ms"] == theirs["baselines_ms"]
        assert ours["held_out"] is theirs["held_out"] is None
    assert "other half" not in ran.stdout


@pytest.mark.slow
def test_optima_are_proven_where_that_is_asked_for(place: Workplace, run: Path) -> None:
    """The run knows where its data are."""
    ran = place.run("evaluate.py", f"--run={run}", "--updates=0", "--optimum_s=5")
    assert ran.returncode == 0, ran.stderr
    for setting in json.loads((run / "evaluation-0.json").read_text())["settings"]:
        assert 0 < setting["optimum_ms"] <= min(*setting["baselines_ms"].values(), *setting["adaptation"]["latency_ms"])
    assert "| optimum " in ran.stdout


def test_sigterm_ends_it_at_once_with_nothing_written(place: Workplace, run: Path) -> None:
    before = tiny_run.hashes(run)
    with place.start("evaluate.py", f"--run={run}", f"--data={place.data}", "--updates=1000000") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "measuring test0" in line:
                break
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert err.endswith("stopped; nothing of the evaluation was written\n")
    assert tiny_run.hashes(run) == before


@pytest.mark.slow
def test_also_measures_the_other_half(place: Workplace, run: Path) -> None:
    ran = place.run("evaluate.py", f"--run={run}", f"--data={place.data}", "--updates=4")
    assert ran.returncode == 0, ran.stderr
    record = json.loads((run / "evaluation-4.json").read_text())
    for setting in record["settings"]:
        assert len(setting["adaptation"]["latency_ms"]) == len(setting["held_out"]["latency_ms"]) == 5
        measured = setting["adaptation"]["latency_ms_by_dag"]["0"][tiny_run.GRAPHS // 2 :]
        assert setting["held_out"]["latency_ms_by_dag"]["0"] == measured
    assert "the other half: HEFT-based" in ran.stdout


def test_without_updates_there_is_no_other_half(place: Workplace, run: Path) -> None:
    ran = run_here("evaluate.py", f"--run={run}", f"--data={place.data}", "--updates=0", cwd=place.path)
    assert ran.returncode == 0, ran.stderr
    record = json.loads((run / "evaluation-0.json").read_text())
    assert record["held_out"] is False
    assert [len(setting["adaptation"]["latency_ms"]) for setting in record["settings"]] == [1, 1]
    assert "other half" not in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "phrase"),
    [
        (["--updates=-1"], "updates is -1; accepted: an integer in [0, inf)"),
        (["--run=none"], "none, which does not exist"),
        (["--data={other}"], "was trained on"),
    ],
)
def test_refused(place: Workplace, run: Path, tmp_path: Path, arguments: list[str], phrase: str) -> None:
    dataset.save(tiny_run.dataset(seed=1), tmp_path / "other")
    before = tiny_run.hashes(tmp_path)
    given = [argument.format(other=tmp_path / "other") for argument in arguments]
    assert phrase in place.refused("evaluate.py", f"--run={run}", f"--data={place.data}", *given, cwd=tmp_path)
    assert tiny_run.hashes(tmp_path) == before


def test_run_is_asked_for(place: Workplace, tmp_path: Path) -> None:
    said = place.refused("evaluate.py", cwd=tmp_path)
    assert said.startswith("--run is missing; accepted: the folder of a run")


def test_a_run_without_a_checkpoint(place: Workplace, run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    before = tiny_run.hashes(run)
    message = place.refused("evaluate.py", f"--run={run}", f"--data={place.data}", "--updates=2")
    assert "checkpoints does not exist; accepted: a checkpoint" in message
    assert tiny_run.hashes(run) == before


def test_a_folder_that_cannot_be_written_is_refused_before_adapting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)  # root, who may run this, can write anywhere
    with pytest.raises(InputError, match="Permission denied; accepted: a folder to write in"):
        check_writable(tmp_path)
    monkeypatch.undo()
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
