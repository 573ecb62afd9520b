"""Settings: each is one field that says all that is known of it, and checks itself."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from mrlato_jax import methods
from mrlato_jax.config import (
    BY_NAME,
    BY_VALUE,
    UNSAID,
    ExecutionConfig,
    LearningConfig,
    NetworkConfig,
    TrainConfig,
    completed,
    settings_of,
)
from mrlato_jax.errors import InputError
from mrlato_jax.mec.system import CHANNELS
from mrlato_jax.results.studies import STUDIES, UNLEARNED

DATA = Path(__file__).resolve().parents[1] / "data"
RECORDS = (TrainConfig, NetworkConfig, LearningConfig, ExecutionConfig)
ALL = [(record, name) for record in RECORDS for name in settings_of(record)]


@pytest.mark.parametrize(("record", "name"), ALL)
def test_a_setting_says_all_that_is_known_of_it(record: Any, name: str) -> None:
    known = settings_of(record)[name]
    assert known.help.endswith(".")
    assert known.source
    assert known.label in (BY_NAME, BY_VALUE, UNSAID)
    assert type(getattr(record, name)) is known.kind
    if known.label == BY_VALUE:  # what it is can be told from the value alone
        assert known.choices
    if known.unread_with is not None:
        other, value = known.unread_with
        assert value in settings_of(record)[other].choices


def test_all_fields_but_the_records_within_are_settings() -> None:
    fields = [(record, field.name) for record in RECORDS for field in dataclasses.fields(record)]
    assert [entry for entry in fields if entry not in ALL] == [
        (TrainConfig, "network"), (TrainConfig, "learning"), (TrainConfig, "warm_start"),
    ]  # fmt: skip
    names = [name for _, name in ALL]
    assert len(set(names)) == len(names)  # each has a flag


def test_a_choice_by_value_is_of_one_setting() -> None:
    """Else a label would not say which."""
    said = [
        choice
        for record, name in ALL
        for choice in settings_of(record)[name].choices
        if settings_of(record)[name].label == BY_VALUE and choice != getattr(record, name)
    ]
    assert len(set(said)) == len(said)


def test_channels_are_those_of_the_simulator() -> None:
    assert list(settings_of(TrainConfig)["channel"].choices) == list(CHANNELS)


@pytest.mark.parametrize(
    ("record", "values", "message"),
    [
        (NetworkConfig, {"decides": "all"}, "decides is 'all'; accepted: placement, order"),
        (NetworkConfig, {"decides": None}, "decides is None; accepted: placement, order"),
        (NetworkConfig, {"lookahead_rules": 6}, "lookahead_rules is 6; accepted: an integer in [1, 5]"),
        (NetworkConfig, {"units": 0}, "units is 0; accepted: an integer in [1, inf)"),
        (NetworkConfig, {"layers": 1.0}, "layers is 1.0; accepted: an integer in [1, inf)"),
        (NetworkConfig, {"heads": -1}, "heads is -1; accepted: an integer in [0, inf)"),
        (LearningConfig, {"inner_lr": 0.0}, "inner_lr is 0.0; accepted: a finite number in (0, inf)"),
        (LearningConfig, {"gamma": 1.5}, "gamma is 1.5; accepted: a finite number in [0, 1]"),
        (LearningConfig, {"clip_epsilon": 0}, "clip_epsilon is 0; accepted: a finite number in (0, 1]"),
        (LearningConfig, {"rollouts": True}, "rollouts is True; accepted: an integer in [1, inf)"),
        (LearningConfig, {"normalise_advantages": 1}, "normalise_advantages is 1; accepted: true, false"),
        (LearningConfig, {"learn_from": "luck"}, "learn_from is 'luck'; accepted: samples, deviations, optimum"),
        (ExecutionConfig, {"task_axis": "loop"}, "task_axis is 'loop'; accepted: auto, map, vmap"),
        (TrainConfig, {"experiment": 3}, "experiment is 3; accepted: a str"),
        (TrainConfig, {"seed": 2**32}, "seed is 4294967296; accepted: an integer in [0, 4294967295]"),
        # Rules across fields, each of which is within its own.
        (NetworkConfig, {"heads": 3}, "heads is 3; accepted: 0, or a divisor of units (128)"),
        (
            NetworkConfig,
            {"units": 9, "heads": 0, "encoder": "bidirectional"},
            "units is 9 with encoder=bidirectional; accepted: an even number",
        ),
        (
            NetworkConfig,
            {"neighbours": "pooled", "neighbour_width": 8},
            "neighbour_width is 8 with neighbours=pooled, which has no width; accepted: the default, 32",
        ),
        (
            LearningConfig,
            {"rollouts": 1, "baseline": "leave_one_out"},
            "rollouts is 1 with baseline=leave_one_out; accepted: at least 2",
        ),
        (
            LearningConfig,
            {"rollouts": 1, "learn_from": "deviations"},
            "rollouts is 1 with learn_from=deviations; accepted: at least 2, the own plan and another",
        ),
        (
            LearningConfig,
            {"learn_from": "optimum", "baseline": "leave_one_out"},
            "baseline is leave_one_out with learn_from=optimum; accepted: value",
        ),
        (
            ExecutionConfig,
            {"parallel": "single", "num_devices": 2},
            "num_devices is 2; accepted with parallel single: 0 or 1",
        ),
        (
            TrainConfig,
            {"channel": "mrlco", "warm_start": LearningConfig(), "warm_start_iterations": 1},
            "channel is mrlco with a warm start; accepted: paper, as in demonstrations",
        ),
        (
            TrainConfig,
            {"learning": LearningConfig(outer_lr_decay=5)},
            "outer_lr_decay is 5, after which the learning rate is 0; accepted: 0, or at least 2000, the number of "
            "iterations",
        ),
    ],
)
def test_what_is_refused(record: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        record(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize(("record", "name"), ALL)
def test_what_a_setting_says_is_accepted_is_what_it_accepts(record: Any, name: str) -> None:
    known = settings_of(record)[name]
    for choice in known.choices:
        known.check(name, choice)
    if known.kind in (int, float):
        known.check(name, known.high if known.high < float("inf") else 10**6)
        below = known.low if known.open_low else known.low - 1
        with pytest.raises(InputError) as caught:
            known.check(name, below)
    else:
        with pytest.raises(InputError) as caught:
            known.check(name, 7)
    if known.kind is not str or known.choices:
        assert str(caught.value).endswith(f"; accepted: {known.accepted}")


def test_json_and_back() -> None:
    config = methods.learned_method("mrlato_plus_order").config(seed=3)
    values = json.loads(json.dumps(config.to_json()))
    assert TrainConfig.from_json(values) == config
    assert completed(values) == values
    assert values["policy"]["decides"] == "order"


# Settings that are no more.


def test_a_removed_setting_is_read_at_the_value_that_is_still_done() -> None:
    config = methods.learned_method("mrlato_plus_order").config()
    values = config.to_json()
    older = {**values, "policy": {**values["policy"], "candidates": 6}}
    assert TrainConfig.from_json(older) == config
    assert completed(older) == values
    other = {**values, "policy": {**values["policy"], "candidates": 4}}
    assert completed(other) != values
    with pytest.raises(InputError, match="candidates is 4, a removed setting; accepted: 6"):
        TrainConfig.from_json(other)
    with pytest.raises(InputError, match="TrainConfig has unknown names"):
        TrainConfig.from_json({**values, "candidates": 6})  # of the network alone


def stored() -> list[tuple[str, str, dict[str, Any]]]:
    """The configurations in all records and weights, with the labels that stand beside them."""
    entries = []
    for path in sorted(DATA.glob("weights/*.json")):
        values = json.loads(path.read_text())
        entries.append((path.stem, values["method"], values["config"]))
    for path in sorted((DATA / "results" / "cpu").glob("*.json")):
        entries.append((path.stem, path.stem.split("-")[1], json.loads(path.read_text())["identity"]["config"]))
    for path in sorted((DATA / "results").glob("fresh/*.json")):
        values = json.loads(path.read_text())
        entries.append((path.stem, values["method"], values["config"]))
    for path in sorted((DATA / "results").glob("exp2-*.json")):
        values = json.loads(path.read_text())
        values["config"]["learning"].pop("task_axis", None)  # of a layout by now, which no settings have
        entries.append((path.stem, values["method"], values["config"]))
    return entries


@pytest.mark.parametrize(("name", "label", "values"), stored(), ids=lambda value: value if type(value) is str else "")
def test_what_is_stored_is_read_and_keeps_its_label(name: str, label: str, values: dict[str, Any]) -> None:
    config = TrainConfig.from_json(values)
    assert methods.label(config) == label
    assert TrainConfig.from_json(completed(values)) == config


@pytest.mark.parametrize("name", STUDIES)
def test_recorded_studies_are_read_and_are_what_they_were(name: str) -> None:
    rows = json.loads((DATA / "results" / "studies" / f"{name}.json").read_text())["rows"]
    trained = {variant: seeds for variant, seeds in rows.items() if variant not in UNLEARNED}
    assert trained.keys() == STUDIES[name].variants.keys()
    for variant, seeds in trained.items():
        for seed, row in seeds.items():
            assert TrainConfig.from_json(completed(row["config"])) == STUDIES[name].config(variant, int(seed))
