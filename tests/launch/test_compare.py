"""`compare.py` on finished runs: seeds together, records read and made, refusals."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from tiny_run import Workplace

from mrlato_jax.training import checkpoint

UPDATES = 4  # as the reference run was adapted


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return tiny_run.make_workplace(tmp_path_factory)


def copied(place: Workplace, to: Path, **changes: object) -> Path:
    """The reference run with other settings in its record: a run that another seed, say, might have given."""
    shutil.copytree(place.reference, to)
    for path in (to / "config.json", to / "adaptation.json"):
        record = json.loads(path.read_text())
        record["config"] |= changes
        path.write_text(json.dumps(record))
    return to


def slowed(run: Path, factor: float) -> None:
    """Makes the recorded latencies of a run others."""
    path = run / "adaptation.json"
    record = json.loads(path.read_text())
    for setting in record["settings"]:
        by_dag = setting["adaptation"]["latency_ms_by_dag"]
        setting["adaptation"]["latency_ms_by_dag"] = {k: [factor * ms for ms in values] for k, values in by_dag.items()}
    path.write_text(json.dumps(record))


def checkpoint_of(run: Path) -> None:
    """Makes the newest checkpoint of a copied run that of its settings, whose parameters nobody asks for."""
    config = json.loads((run / "config.json").read_text())["config"]
    newest = checkpoint.steps(run / "checkpoints")[-1]
    stored = checkpoint.read_params(run / "checkpoints")
    del config["iterations"]
    meta = {**stored.meta, "config": config}
    checkpoint.save(run / "checkpoints", newest, {"params": stored.tree}, meta)


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "compare.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_seeds_are_one_row_and_differences_are_paired(place: Workplace, tmp_path: Path) -> None:
    """From records alone: nothing is measured again."""
    runs = [copied(place, tmp_path / "base"), copied(place, tmp_path / "again", seed=4)]
    mine = copied(place, tmp_path / "mine", iterations=200)
    slowed(mine, 0.9)
    for run in (*runs, mine):
        checkpoint_of(run)
    before = tiny_run.hashes(tmp_path)
    given = ",".join(map(str, (*runs, mine)))
    ran = tiny_run.run_here(
        "compare.py", f"--runs={given}", f"--reference={runs[0]}", f"--updates={UPDATES}",
        "--planners=HEFT-based,optimum", cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    after = tiny_run.hashes(tmp_path)
    assert after.keys() - before.keys() == {f"comparison/compare.{end}" for end in ("md", "csv", "tex")}
    found = rows(tmp_path / "comparison")
    by_name = {(row["updates"], row["method"], row["setting"]): row for row in found}
    names = {row["method"] for row in found}
    base, ours = sorted(names - {"HEFT-based", "optimum"}, key=lambda name: "mine" in name)
    assert by_name["0", base, "all sets"]["seeds"] == "2"
    for updates in ("0", str(UPDATES)):
        row = by_name[updates, ours, "all sets"]
        assert float(row["percent"]) == pytest.approx(-10.0, abs=1e-3)
        assert float(row["percent_low"]) == pytest.approx(-10.0, abs=1e-3)  # the same factor on every DAG
        assert (float(row["dags_won"]), float(row["dags_lost"])) == (1.0, 0.0)
        assert float(by_name[updates, "optimum", "test0"]["gap_percent"]) == pytest.approx(0.0, abs=1e-3)
        assert float(by_name[updates, "HEFT-based", "test0"]["gap_percent"]) >= -1e-3
    record = json.loads((runs[0] / "adaptation.json").read_text())
    (heft,) = [setting["baselines_ms"]["HEFT-based"] for setting in record["settings"] if setting["setting"] == "test0"]
    assert float(by_name["0", "HEFT-based", "test0"]["latency_ms"]) == pytest.approx(heft, rel=1e-6)
    text = (tmp_path / "comparison" / "compare.md").read_text()
    assert text in ran.stdout + "\n"
    assert "seed 4" in text
    assert r"\toprule" in (tmp_path / "comparison" / "compare.tex").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--runs is missing; accepted: folders of runs, with commas between them"),
        (["--runs=none"], "run folder is none, which does not exist"),
        (["--runs={run}", "--reference=other"], "reference is 'other'; accepted: "),
        (["--runs={run}", "--planners=best"], "planners is 'best'; accepted: 'all-local', "),
        (["--runs={run}", "--updates=-1"], "updates is -1; accepted: an integer in [0, inf)"),
        (["--runs={run},{twin}"], "--runs has seed 3 of mrlato"),
        (["--runs={run},{other}"], "has channel mrlco; accepted: paper, as run"),
    ],
)
def test_refused(place: Workplace, tmp_path: Path, arguments: list[str], said: str) -> None:
    names = {"run": place.reference, "twin": tmp_path / "twin", "other": tmp_path / "other"}
    copied(place, tmp_path / "twin")
    copied(place, tmp_path / "other", channel="mrlco")
    assert said in place.refused("compare.py", *(given.format(**names) for given in arguments), cwd=tmp_path)


@pytest.mark.slow
def test_what_is_missing_is_measured_and_recorded(place: Workplace, tmp_path: Path) -> None:
    run = shutil.copytree(place.reference, tmp_path / "run")
    (run / "adaptation.json").unlink()
    ran = place.run("compare.py", f"--runs={run}", "--updates=2", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    record = json.loads((run / "evaluation-2.json").read_text())
    latency = {
        setting["setting"]: np.mean(setting["adaptation"]["latency_ms_by_dag"]["2"]) for setting in record["settings"]
    }
    for row in rows(tmp_path / "comparison"):
        if row["updates"] == "2" and row["setting"] in latency and row["method"].startswith("mrlato"):
            assert float(row["latency_ms"]) == pytest.approx(latency[row["setting"]], abs=1e-3)
    before = (run / "evaluation-2.json").read_bytes()
    again = place.run("compare.py", f"--runs={run}", "--updates=2", cwd=tmp_path)
    assert "adapting" not in again.stderr
    assert (run / "evaluation-2.json").read_bytes() == before
