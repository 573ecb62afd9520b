"""`references.py`: what is planned, kept and refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run
from tiny_run import Workplace, run_here

from mrlato_jax.dag.dataset import save
from mrlato_jax.errors import InputError
from mrlato_jax.methods import SearchBudget, planned_methods
from mrlato_jax.results.references import References
from mrlato_jax.training import experiments

SMALL = ["--experiment=exp2", "--annealing_steps=50", "--local_search_evaluations=20"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("references"))
    save(tiny_run.dataset(), place.data)
    return place


@pytest.fixture(scope="module")
def stored(place: Workplace) -> Path:
    path = place.path / "record.json"
    ran = place.run("references.py", *SMALL, f"--data={place.data}", f"--out={path}")
    assert ran.returncode == 0, ran.stderr
    assert "test0: 4 of 4 optima proven" in ran.stdout
    assert "| optimum " in ran.stdout
    return path


def means(rows: dict[str, Any]) -> dict[str, float]:
    return {name: float(np.mean(row["makespan_ms"])) for name, row in rows.items()}


def test_every_planner_on_every_dag(stored: Path) -> None:
    rows = json.loads(stored.read_text())["rows"]
    assert set(rows) == {"test0", "test1"}
    for planners in rows.values():
        assert set(planners) == set(planned_methods(SearchBudget(evaluations=(20,))))
        assert {len(row["makespan_ms"]) for row in planners.values()} == {tiny_run.GRAPHS}
        mean = means(planners)
        assert mean["optimum"] <= mean["local search"] <= mean["local search, 20 evaluations"] <= mean["HEFT-based"]
        assert mean["order search"] <= mean["local search"]
        assert max(planners["local search, 20 evaluations"]["evaluations"]) <= 20
        assert planners["optimum"]["lower_bound_ms"] == planners["optimum"]["makespan_ms"]
        assert "order" in planners["order search"]


def test_it_goes_on_where_it_stopped(place: Workplace, stored: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(stored, tmp_path))
    whole = json.loads(path.read_text())
    part = json.loads(path.read_text())
    del part["rows"]["test1"]["HEFT-based"], part["rows"]["test0"]["order search"]
    path.write_text(json.dumps(part))
    ran = run_here("references.py", *SMALL, f"--data={place.data}", f"--out={path}", cwd=place.path)
    assert ran.returncode == 0, ran.stderr
    assert "order search on test0" in ran.stderr
    assert "optimum on" not in ran.stderr
    again = json.loads(path.read_text())
    for test_set, planners in whole["rows"].items():
        for name, row in planners.items():
            assert again["rows"][test_set][name]["placement"] == row["placement"]
            assert again["rows"][test_set][name]["makespan_ms"] == row["makespan_ms"]


def test_a_record_of_something_else_is_refused(place: Workplace, stored: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(stored, tmp_path))
    other = place.refused("references.py", SMALL[0], f"--data={place.data}", f"--out={path}")
    assert "has annealing_steps 50; accepted: 10000" in other
    record = json.loads(path.read_text())
    record["rows"]["test1"]["greedy"]["makespan_ms"][2] *= 1.001
    path.write_text(json.dumps(record))
    before = path.read_bytes()
    tampered = place.refused("references.py", *SMALL, f"--data={place.data}", f"--out={path}")
    assert "greedy on test1, DAG 2, and the simulator" in tampered
    assert path.read_bytes() == before
    assert "--out is missing" in place.refused("references.py", *SMALL)


def _not_a_number(rows: Any) -> None:
    rows["test0"]["random"]["makespan_ms"][1] = float("nan")


def _bound_too_high(rows: Any) -> None:
    rows["test0"]["optimum"]["lower_bound_ms"][0] *= 1.5


def _too_few(rows: Any) -> None:
    rows["test0"]["HEFT-based"]["placement"].pop()


def _other_planner(rows: Any) -> None:
    rows["test0"]["tabu"] = rows["test0"]["greedy"]


@pytest.mark.parametrize(
    ("damage", "phrase"),
    [
        (_not_a_number, "random on test0, DAG 1, and the simulator"),
        (_bound_too_high, "DAG 0, and the optimum is at least"),
        (_too_few, "HEFT-based on test0: ValueError"),
        (_other_planner, "has 'tabu' on 'test0'; accepted: all-local"),
        (lambda rows: rows.update(test9={}), "has plans on 'test9'"),
    ],
)
def test_a_damaged_record_is_refused(place: Workplace, stored: Path, tmp_path: Path, damage: Any, phrase: str) -> None:
    record = json.loads(stored.read_text())
    damage(record["rows"])
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record))
    test_sets = experiments.unseen_sets(tiny_run.dataset(), "paper")
    with pytest.raises(InputError, match=re.escape(phrase)):
        References(path, record["identity"], test_sets)
    References(stored, record["identity"], test_sets)
