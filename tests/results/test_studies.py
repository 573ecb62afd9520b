"""Studies: what differs, that it is trained and recorded once, and what the table and the figure say of it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run

import mrlato_jax as mj
from mrlato_jax.config import LearningConfig, TrainConfig
from mrlato_jax.dag import dataset as datasets
from mrlato_jax.errors import InputError
from mrlato_jax.results import figures, studies
from mrlato_jax.results.studies import BASE, STUDIES, Study, StudyRecord, changed
from mrlato_jax.training.stopping import GracefulStop
from mrlato_jax.training.validation import validation_set

DATASET = tiny_run.dataset()
STUDY = Study(
    "Which?",
    dataclasses.replace(tiny_run.CONFIG, iterations=4),
    {"outer step": {"longer": {"iterations": 6}, "Adam": {"learning.meta_update": "reptile_adam"}}},
)


class Measured:
    """In place of a validation: each policy is a little better than the one before."""

    def __init__(self) -> None:
        self._gap, self.seconds = 1.0, 0.0

    def go_on_from(self, seconds: float) -> None:
        self.seconds += seconds

    def gap(self, params: Any) -> float:
        self._gap, self.seconds = self._gap / 2, self.seconds + 1.5
        return self._gap


@pytest.mark.parametrize("name", STUDIES)
def test_each_variant_differs_from_the_base_in_what_it_says(name: str) -> None:
    study = STUDIES[name]
    base = study.config(BASE)
    assert base == study.base
    assert len(study.variants) == 1 + sum(map(len, study.groups.values()))  # no name twice
    configs = {variant: study.config(variant, seed=3) for variant in study.variants}
    for variant, config in configs.items():
        assert config.seed == 3
        assert (config == dataclasses.replace(base, seed=3)) == (variant == BASE), variant
    assert len(set(map(str, configs.values()))) == len(configs)
    assert not any("," in variant for variant in configs)  # which --variants divides at
    assert base.experiment == "exp1"  # whose training families alone are drawn from


def test_changes_go_where_they_say() -> None:
    config = changed(TrainConfig(), {"iterations": 3, "network.heads": 4, "learning.inner_lr": 0.5})
    assert (config.iterations, config.network.heads, config.learning.inner_lr) == (3, 4, 0.5)
    assert changed(config, {}) == config


@pytest.mark.parametrize("name", ["heads", "network.inner_lr", "nothing.heads", "warm_start.inner_lr", "seed.heads"])
def test_settings_that_there_are_not(name: str) -> None:
    with pytest.raises(InputError, match=f"change of '{name}'; accepted: settings of a run"):
        changed(TrainConfig(), {name: 1})


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> StudyRecord:
    """Of all but one variant."""
    folder = tmp_path_factory.mktemp("study")
    record = StudyRecord(folder / "study.json", "mine", STUDY, DATASET, {}, 5)
    for variant in (BASE, "longer"):
        config = STUDY.config(variant)
        row = studies.run_variant(config, folder / variant, DATASET, Measured(), GracefulStop(), points=2)  # type: ignore[arg-type]
        record.add(variant, "0", row)
    return record


def test_a_row_says_what_was_trained_and_what_came_of_it(record: StudyRecord) -> None:
    row = record.rows[BASE]["0"]
    assert row["config"] == STUDY.config(BASE).to_json()
    assert row["curve"] == {"iteration": [2, 4], "gap_percent": [50.0, 25.0], "seconds": [0.0, 1.5]}
    assert row["lately"].keys() >= {"entropy", "value_explained", "latency_ms"}
    assert record.rows["longer"]["0"]["params_sha256"] != row["params_sha256"]


def test_what_is_recorded_is_not_trained_again(record: StudyRecord) -> None:
    again = StudyRecord(record.path, "mine", STUDY, DATASET, {}, 5)
    assert again.missing([BASE, "longer", "Adam"], range(2)) == [(BASE, 1), ("longer", 1), ("Adam", 0), ("Adam", 1)]


def test_a_record_of_other_settings_is_refused(record: StudyRecord) -> None:
    other = dataclasses.replace(STUDY, base=changed(STUDY.base, {"iterations": 5}))
    with pytest.raises(InputError, match="has base, seed 0, of other settings"):
        StudyRecord(record.path, "mine", other, DATASET, {}, 5)
    with pytest.raises(InputError, match="has study 'mine'; accepted: 'yours'"):
        StudyRecord(record.path, "yours", STUDY, DATASET, {}, 5)
    with pytest.raises(InputError, match="has validated_by 5; accepted: 6"):
        StudyRecord(record.path, "mine", STUDY, DATASET, {}, 6)


def test_a_record_lacks_settings_that_were_added_since(record: StudyRecord, tmp_path: Path) -> None:
    """They have their defaults; of a variant that there is no more, it is told."""
    text = record.path.read_text()
    assert text.count('"lookahead_rules":5,') == 2
    older = tmp_path / "study.json"
    older.write_text(text.replace('"lookahead_rules":5,', ""))
    assert StudyRecord(older, "mine", STUDY, DATASET, {}, 5).missing([BASE], [0]) == []
    older.write_text(text.replace('"longer"', '"farther"'))
    with pytest.raises(InputError, match="has farther, seed 0, of other settings"):
        StudyRecord(older, "mine", STUDY, DATASET, {}, 5)


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda row: row.clear(), "KeyError('curve')"),
        (lambda row: row["curve"]["seconds"].pop(), "ValueError"),
        (lambda row: row["curve"]["gap_percent"].__setitem__(0, "x"), "TypeError"),
        (lambda row: row["lately"].update(entropy=float("nan")), "values that are not finite"),
        (lambda row: row.update(config=[]), "AttributeError"),
    ],
)
def test_a_damaged_row_is_refused(
    record: StudyRecord, tmp_path: Path, change: Callable[[Any], Any], phrase: str
) -> None:
    stored = json.loads(record.path.read_text())
    change(stored["rows"][BASE]["0"])
    path = tmp_path / "study.json"
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=re.escape(f"record {path}, base, 0: ") + ".*" + re.escape(phrase)):
        StudyRecord(path, "mine", STUDY, DATASET, {}, 5)


def test_a_stage_before_counts_in_the_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here that stage has been trained already: its curve is read."""
    warm = LearningConfig(learn_from="optimum", meta_update="joint", inner_steps=1, meta_batch=1, graphs_per_task=2)
    config = dataclasses.replace(STUDY.base, warm_start=warm, warm_start_iterations=6)

    def trained(runs: Any, configs: Any, dataset: Any, stop: Any, every: int, *rest: Any) -> Any:
        (tmp_path / "seed3" / studies.WARM_START).mkdir()
        lines = b'{"iteration": 6, "gap": 0.5, "seconds": 2.0}\n'
        (tmp_path / "seed3" / studies.WARM_START / "validation.jsonl").write_bytes(lines)
        return original(runs, [dataclasses.replace(config, warm_start_iterations=0)], dataset, stop, every, *rest)

    original = studies.train_stages
    monkeypatch.setattr(studies, "train_stages", trained)
    row = studies.run_variant(config, tmp_path, DATASET, Measured(), GracefulStop(), points=3)  # type: ignore[arg-type]
    assert row is not None
    assert row["curve"]["iteration"] == [6, 8, 10]
    assert row["curve"]["gap_percent"] == [50.0, 50.0, 25.0]


@pytest.mark.slow
def test_what_is_not_learned_stands_beside_the_variants(record: StudyRecord) -> None:
    again = StudyRecord(record.path.with_name("compared.json"), "mine", STUDY, DATASET, {}, 5)
    for variant, seeds in record.rows.items():
        for seed, row in seeds.items():
            again.add(variant, seed, row)
    chosen = validation_set(datasets.load("exp1"), "paper", 1)
    assert not again.has_unlearned
    again.add_unlearned(chosen)
    assert again.has_unlearned
    compared = StudyRecord(again.path, "mine", STUDY, DATASET, {}, 5)
    spans = [mj.heft(test_set.graphs[0], test_set.system).makespan for test_set in chosen.test_sets]
    heft, ahead = (compared.rows[name]["all"]["gap_percent"] for name in studies.UNLEARNED)
    assert heft == pytest.approx(100 * (np.mean(spans) / chosen.optimum_s - 1), abs=1e-3)
    assert 0 <= ahead < heft
    _, cells = studies.study_table(STUDY, compared.rows)
    assert [line[1] for line in cells] == [*studies.UNLEARNED, BASE, "longer"]
    assert cells[0][4] == f"{heft:.1f}"
    pytest.importorskip("matplotlib")
    (axis,) = figures.study_panels(STUDY, compared.rows).axes
    assert [line.get_label() for line in axis.lines] == [BASE, "longer", *studies.UNLEARNED]
    assert [line.get_ydata()[0] for line in axis.lines[2:]] == [heft, ahead]


def test_the_table_has_a_line_for_each_that_was_trained(record: StudyRecord) -> None:
    header, cells = studies.study_table(STUDY, record.rows)
    assert [line[:3] for line in cells] == [[BASE, BASE, "1"], ["outer step", "longer", "1"]]
    assert cells[0][3:5] == ["25.0", "25.0"]
    assert len(header) == len(cells[0])


def test_the_figure_draws_each_that_was_trained(record: StudyRecord) -> None:
    pytest.importorskip("matplotlib")
    figure = figures.study_panels(STUDY, record.rows)
    (axis,) = figure.axes
    assert [line.get_label() for line in axis.lines] == [BASE, "longer"]
    assert list(axis.lines[0].get_xdata()) == [2, 4]
