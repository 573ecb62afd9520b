"""`reproduce.py`: from nothing to tables and figures, goes on where it stopped, computes nothing twice."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_run
from tiny_run import Workplace, run_here

from mrlato_jax import methods
from mrlato_jax.methods import SearchBudget, planned_methods

LABEL = methods.label(tiny_run.CONFIG)
DRL = methods.label(
    dataclasses.replace(
        tiny_run.CONFIG, method="drl", learning=dataclasses.replace(tiny_run.LEARNING, meta_update="joint")
    )
)
OWN_ORDER = {name for name, planner in planned_methods().items() if planner.own_order}
UPDATES = 4
RECORDS = [f"exp2-{LABEL}-seed{seed}.json" for seed in (0, 1)]
TABLES = ["exp2.md", "exp2.tex", "exp2.csv"]


class Case:
    """One finished reproduction of the smallest kind, and the command that makes it."""

    def __init__(self, place: Workplace, folder: Path) -> None:
        self.place, self.folder = place, folder
        self.out = folder / "out"
        settings = folder / "tiny.flags"
        wanted = [flag for flag in tiny_run.flags_of(tiny_run.CONFIG) if not flag.startswith("--seed")]
        settings.write_text("\n".join(wanted) + "\n")
        self.flags = [
            "--experiment=exp2", "--preset=cpu", "--methods=mrlato", f"--settings={settings}", f"--data={place.data}",
            "--annealing_steps=50", "--local_search_evaluations=20", f"--updates={UPDATES}",
        ]  # fmt: skip

    def run(self, out: Path, *more: str, seeds: int = 2, here: bool = False) -> str:
        """Runs `reproduce.py` in a process of its own or, `here`, in this one."""
        start = partial(run_here, cwd=self.folder) if here else self.place.run
        runs = f"--runs={self.folder / 'runs'}"
        ran = start("reproduce.py", *self.flags, runs, f"--out={out}", f"--seeds={seeds}", *more)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout + ran.stderr


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return tiny_run.make_workplace(tmp_path_factory)


@pytest.fixture(scope="module")
def case(place: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Case:
    case = Case(place, tmp_path_factory.mktemp("reproduce"))
    printed = case.run(case.out)
    assert "meta-training 6/6 100%" in printed
    return case


def rows(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())["rows"]


def test_records_tables_and_figures(case: Case) -> None:
    found = sorted(path.name for path in (case.out / "cpu").iterdir())
    assert [name for name in found if not name.endswith(".png")] == sorted([*RECORDS, *TABLES])
    for name in RECORDS:
        record = rows(case.out / "cpu" / name)
        assert set(record) == {"training", "test0", "test1"}
        summary = record["training"]["summary"]
        assert summary["trajectories"] == 6 * 2 * 2 * 2
        assert summary["curve"]["iteration"] == [1, 2, 3, 4, 5, 6]
        assert len(summary["params_sha256"]) == 64
        for setting in ("test0", "test1"):
            parts = record[setting]
            assert len(parts["all"]["latency_ms"]) == len(parts["half"]["latency_ms"]) == UPDATES + 1
            assert parts["all"]["simulator_evaluations"] == 2 * tiny_run.GRAPHS * 2  # two collections, two rollouts
            assert parts["half"]["simulator_evaluations"] == parts["all"]["simulator_evaluations"] / 2
            assert all(seconds > 0 for seconds in parts["planning"]["seconds"])
    assert rows(case.out / "cpu" / RECORDS[0])["test0"] != rows(case.out / "cpu" / RECORDS[1])["test0"]
    with open(case.out / "cpu" / "exp2.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    names = {line["method"] for line in lines}
    assert names == {LABEL, *planned_methods(SearchBudget(evaluations=(20,)))}
    for line in lines:
        assert float(line["gap_percent"]) >= -1e-3 or line["method"] in OWN_ORDER


def test_the_tables_say_how_to_be_read(case: Case) -> None:
    text = (case.out / "cpu" / "exp2.md").read_text()
    assert "preset cpu, 2 seeds each, trained with" in text
    assert f"- {LABEL} on exp2: 6 iterations x 2 sets x 2 DAGs x 2 trajectories" in text
    for title in ("Table III", "Every method", "Who is ahead", "Efficiency ratio", "Held out"):
        assert f"\n{title}: " in text
    assert "nan" not in text


def test_run_twice_it_computes_nothing(case: Case, tmp_path: Path) -> None:
    out = Path(shutil.copytree(case.out, tmp_path / "out"))
    before = {name: tiny_run.hashes(out)[f"cpu/{name}"] for name in [*RECORDS, *TABLES]}
    printed = case.run(out, f"--runs={tmp_path / 'runs'}", here=True)  # what is recorded needs no run
    assert "meta-training" not in printed
    assert f"adapting {LABEL}" not in printed
    assert "on test0" not in printed  # no planner
    assert {name: tiny_run.hashes(out)[f"cpu/{name}"] for name in before} == before
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.slow
def test_it_goes_on_where_it_stopped_and_takes_more_seeds(case: Case, tmp_path: Path) -> None:
    """One part of one record is missing, and a third seed is wanted: those are computed, to the same numbers."""
    out = Path(shutil.copytree(case.out, tmp_path / "out"))
    path = out / "cpu" / RECORDS[1]
    record = json.loads(path.read_text())
    taken = record["rows"]["test1"].pop("all")
    path.write_text(json.dumps(record))
    untouched = (out / "cpu" / RECORDS[0]).read_bytes()
    printed = case.run(out, seeds=3)
    assert f"{LABEL} on exp2, seeds 1, 2" in printed
    assert f"adapting {LABEL} 20/20 100%" in printed  # the part, and four of the third seed
    again = rows(path)["test1"]["all"]
    assert again["latency_ms"] == pytest.approx(taken["latency_ms"], rel=1e-5)
    assert (out / "cpu" / RECORDS[0]).read_bytes() == untouched
    assert set(rows(out / "cpu" / RECORDS[0].replace("seed0", "seed2"))["test1"]) == {"all", "half", "planning"}


@pytest.mark.slow
def test_stopped_while_a_second_method_adapts_it_goes_on_and_compares_both(case: Case, tmp_path: Path) -> None:
    out = Path(shutil.copytree(case.out, tmp_path / "out"))
    name = f"exp2-{DRL}-seed0.json"
    wanted = ["--methods=mrlato,drl", "--seeds=2", "--num_devices=1"]
    arguments = [*case.flags, *wanted, f"--out={out}", f"--runs={tmp_path / 'runs'}"]
    with case.place.start("reproduce.py", *arguments) as process:
        try:
            deadline = time.monotonic() + 200
            while not parts(out / "cpu" / name):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.terminate()
            printed, errors = process.communicate(timeout=100)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert "stopped; the same command continues" in printed
    assert "stopped; the unfinished measurement is dropped, all finished ones are written" in errors
    stopped = parts(out / "cpu" / name)
    assert 0 < len(stopped) < 6
    untouched = (out / "cpu" / RECORDS[0]).read_bytes()
    ran = case.place.run("reproduce.py", *arguments)
    assert ran.returncode == 0, ran.stderr
    assert "meta-training" not in ran.stderr
    whole = parts(out / "cpu" / name)
    assert len(whole) == 6
    assert stopped.items() <= whole.items()
    assert (out / "cpu" / RECORDS[0]).read_bytes() == untouched
    text = (out / "cpu" / "exp2.md").read_text()
    assert f"{LABEL} / {DRL}" in text  # who is ahead
    with open(out / "cpu" / "exp2.csv", newline="") as file:
        latencies = {line["method"]: line["latency_ms"] for line in csv.DictReader(file) if line["updates"] == "0"}
    assert latencies[LABEL] != latencies[DRL]


def parts(path: Path) -> dict[str, str]:
    """What a record has measured, by setting and part."""
    if not path.exists():
        return {}
    return {
        f"{setting} {part}": json.dumps(row)
        for setting, found in rows(path).items()
        if setting != "training"
        for part, row in found.items()
    }


def test_a_foreign_record_is_refused_by_name(case: Case, tmp_path: Path) -> None:
    out = Path(shutil.copytree(case.out, tmp_path / "out"))
    path = out / "cpu" / RECORDS[1]
    record = json.loads(path.read_text())
    record["identity"]["config"].update(iterations=7)
    path.write_text(json.dumps(record))
    before = tiny_run.hashes(out)
    wanted = [*case.flags, f"--out={out}", f"--runs={tmp_path}", "--seeds=2"]
    said = case.place.refused("reproduce.py", *wanted)
    assert said.startswith(f"record {path} has config: iterations {{'iterations': 7}}; accepted: {{'iterations': 6}}")
    assert tiny_run.hashes(out) == before


def test_settings_of_a_run_are_refused_in_a_settings_file(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "mine.flags"
    file.write_text("--seed=7\n")
    said = case.place.refused(
        "reproduce.py", *case.flags, f"--out={tmp_path}", f"--runs={tmp_path}", f"--settings={file}"
    )
    assert said == f"--settings={file} has --seed; accepted: settings of methods and learning"


def test_the_methods_compared_come_with_their_records(place: Workplace, tmp_path: Path) -> None:
    """Nothing is trained, and the tables are made again as they are."""
    committed = Path(__file__).resolve().parents[2] / "data" / "results"
    out, runs = tmp_path / "results", tmp_path / "runs"
    shutil.copytree(committed / "cpu", out / "cpu", ignore=shutil.ignore_patterns("*.png"))
    shutil.copy(committed / "references-exp1.json", out)
    before = {path.name: path.read_bytes() for path in (out / "cpu").iterdir()}
    wanted = ["--experiment=exp1", "--preset=cpu", "--seeds=3", f"--out={out}", f"--runs={runs}"]
    ran = run_here("reproduce.py", *wanted, cwd=place.path)
    assert ran.returncode == 0, ran.stderr
    assert not list(runs.rglob("config.json"))
    after = {path.name: path.read_bytes() for path in (out / "cpu").iterdir()}
    assert {name: after[name] for name in before} == before
    with open(out / "cpu" / "exp1.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["method"] == "mrlato_plus"]
    gaps = {(row["setting"], row["updates"]): float(row["gap_percent"]) for row in rows}
    assert len({setting for setting, _ in gaps}) == 3
    assert all(gap < 2 for (_, updates), gap in gaps.items() if updates == "0")
    assert all(0 < gap < 1 for (_, updates), gap in gaps.items() if updates == "100")


@pytest.mark.parametrize(
    ("given", "phrase"),
    [
        ("--experiment=exp4", "--experiment is 'exp4'; accepted: all, exp1, exp2, exp3"),
        ("--preset=gpu", "--preset is 'gpu'; accepted: paper, cpu"),
        ("--methods=mrlato,ppo", "methods is 'ppo'; accepted: mrlato, mrlco, drl, mrlato_plus, mrlato_plus_order"),
        ("--settings=exp1.flags", "--settings=exp1.flags is for exp1; accepted: nothing of an experiment"),
        ("--num_devices=99", "num_devices is 99; accepted: at most"),
        ("--local_search_evaluations=20,x", "local_search_evaluations is 'x'; accepted: an integer"),
    ],
)
def test_unknown_names_are_told_the_known_ones(case: Case, given: str, phrase: str, tmp_path: Path) -> None:
    said = case.place.refused("reproduce.py", *case.flags, f"--out={tmp_path}", f"--runs={tmp_path}", given)
    assert phrase in said
    assert not list(tmp_path.iterdir())
