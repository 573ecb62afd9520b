"""Our own file format: what is written is read again, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrlato_jax.dag.daggen import daggen
from mrlato_jax.dag.formats.json_graph import read_json, write_json
from mrlato_jax.dag.formats.reading import MAX_TASKS
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError

GRAPH = TaskGraph.from_edges(
    cycles=[4e7, 9e7, 1 / 3],
    upload_bytes=[20000, 40000.5, 0],
    download_bytes=[20000, 40000, 1e-300],
    edges=[(0, 2), (1, 2)],
    names=["detect", "träck", "a: b"],
)


@pytest.fixture
def value(tmp_path: Path) -> Any:
    write_json(GRAPH, tmp_path / "app.json")
    return json.loads((tmp_path / "app.json").read_bytes())


def test_the_file_says_units_and_names(value: Any) -> None:
    assert value["tasks"][0] == {"name": "detect", "cycles": 4e7, "upload_bytes": 20000.0, "download_bytes": 20000.0}
    assert value["edges"] == [["detect", "a: b"], ["träck", "a: b"]]
    assert (value["format"], value["version"]) == ("mrlato_jax.task_graph", 1)


def test_written_and_read_it_is_the_same(tmp_path: Path) -> None:
    write_json(GRAPH, tmp_path / "app.json")
    assert read_json(tmp_path / "app.json") == GRAPH


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 40), st.integers(0, 10**6))
def test_any_graph_comes_back(tmp_path: Path, num_tasks: int, seed: int) -> None:
    graph = daggen(num_tasks, 0.6, 0.5, np.random.default_rng(seed))
    write_json(graph, tmp_path / "app.json")
    assert read_json(tmp_path / "app.json") == graph


@pytest.mark.parametrize(
    ("where", "what", "message"),
    [
        (["format"], "dot", "format is 'dot'; accepted: 'mrlato_jax.task_graph'"),
        (["version"], 3, "version is 3; accepted: 1 or 2"),
        (["tasks"], {}, "tasks is {}; accepted: a list"),
        (["tasks"], [], "tasks has 0 tasks; accepted: 1 to 20000"),
        (["tasks", 1], 7, r"tasks\[1\] is 7; accepted: an object"),
        (["tasks", 1, "cycles"], -1, r"tasks\[1\].cycles is -1; accepted: a finite number >= 0"),
        (["tasks", 1, "cycles"], True, r"tasks\[1\].cycles is True; accepted: a finite number >= 0"),
        (["tasks", 1, "cycles"], 10**400, r"tasks\[1\].cycles is 1000.*; accepted: a finite number >= 0"),
        (["tasks", 0, "upload_bytes"], "2 KB", r"tasks\[0\].upload_bytes is '2 KB'; accepted: a finite number >= 0"),
        (["tasks", 0, "name"], "", r"tasks\[0\].name is ''; accepted: a string that is not empty"),
        (["tasks", 2, "name"], "detect", r"tasks\[2\].name is 'detect'; accepted: names that differ"),
        (
            ["tasks", 2, "upload_byte"],
            1,
            r"tasks\[2\] has 'upload_byte'; accepted: name, cycles, upload_bytes, download",
        ),
        (["edges", 0], ["detect"], r"edges\[0\] is \['detect'\]; accepted: \[parent, child\]"),
        (["edges", 0, 1], "x", r"edges\[0\]\[1\] is 'x'; accepted: the name of a task"),
        (["edges", 0], ["a: b", "träck"], "edges hold a cycle of 2 tasks"),
        (["edges", 0], ["träck", "a: b"], "more than once"),
        (["deadline"], 1, "has 'deadline'; accepted: format, version, tasks, edges"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, value: Any, where: list[Any], what: Any, message: str) -> None:
    place = value
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = what
    path = tmp_path / "app.json"
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match=message) as raised:
        read_json(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("missing", ["tasks", "edges", "version", "format"])
def test_nothing_has_a_default(tmp_path: Path, value: Any, missing: str) -> None:
    del value[missing]
    (tmp_path / "app.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=f"lacks '{missing}'"):
        read_json(tmp_path / "app.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 1,\n "version" 2}', "line 2, Expecting ':' delimiter"),
        ("[" * 100_000, "recursion"),
        ('{"version": 1, "version": 2}', "'version' stands twice"),
        ('{"format": NaN}', "NaN is no number of JSON"),
        ("[]", "is \\[\\]; accepted: an object"),
        ("", "is empty"),
        ("\ufeff{}", "has|lacks"),
    ],
)
def test_text_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "app.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_json(tmp_path / "app.json")


def test_so_many_tasks_are_refused_before_they_are_read(tmp_path: Path, value: Any) -> None:
    value["tasks"] = [{}] * (MAX_TASKS + 1)  # none of which is a task
    (tmp_path / "app.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match="has 20001 tasks"):
        read_json(tmp_path / "app.json")


def test_a_graph_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="accepted: a path to write to"):
        write_json(GRAPH, tmp_path / "none" / "app.json")
    with pytest.raises(InputError, match="graph is 3; accepted: a TaskGraph"):
        write_json(3, tmp_path / "app.json")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
