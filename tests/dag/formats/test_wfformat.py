"""WfFormat: small files written here in the versions' own shapes, and what is wrong in them."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrlato_jax.dag.formats.reading import MAX_VALUES
from mrlato_jax.dag.formats.wfformat import read_wfformat
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError

# split reads one file and writes two; each half makes one thing; join makes the result, and waits for a logger.
V15: dict[str, Any] = {
    "name": "w",
    "schemaVersion": "1.5",
    "workflow": {
        "specification": {
            "tasks": [
                {"name": "split", "id": "s", "parents": [], "children": ["a", "b"], "inputFiles": ["in"],
                 "outputFiles": ["x", "y"]},
                {"name": "half", "id": "a", "parents": ["s"], "children": ["j"], "inputFiles": ["x"],
                 "outputFiles": ["u"]},
                {"name": "half", "id": "b", "parents": ["s"], "children": ["j"], "inputFiles": ["y"],
                 "outputFiles": ["v"]},
                {"name": "log", "id": "l", "parents": [], "children": ["j"]},
                {"name": "join", "id": "j", "parents": ["a", "b", "l"], "children": [], "inputFiles": ["u", "v", "x"],
                 "outputFiles": ["out"]},
            ],
            "files": [
                {"id": name, "sizeInBytes": size}
                for name, size in {"in": 100, "x": 30, "y": 40, "u": 5, "v": 6, "out": 1}.items()
            ],
        },
        "execution": {
            "makespanInSeconds": 9,
            "executedAt": "2026-01-01",
            "tasks": [
                {"id": name, "runtimeInSeconds": seconds, "machines": [machine]}
                for name, seconds, machine in [
                    ("s", 1, "one"), ("a", 2.5, "two"), ("b", 3, "one"), ("l", 0, "two"), ("j", 4, "two")
                ]
            ],
            "machines": [
                {"nodeName": "one", "cpu": {"speedInMHz": 1000}}, {"nodeName": "two", "cpu": {"speedInMHz": 2000}}
            ],
        },
    },
}  # fmt: skip
GRAPH = TaskGraph.from_edges(
    cycles=[3e9, 7.5e9, 9e9, 0, 12e9],
    upload_bytes=[100, 30, 40, 0, 41],
    download_bytes=[70, 5, 6, 0, 1],
    edges=[(0, 1), (0, 2), (0, 4), (1, 4), (2, 4), (3, 4)],
    names=["s", "a", "b", "l", "j"],
)


def v14() -> dict[str, Any]:
    """The same workflow as version 1.4 has it."""
    specification, execution = (V15["workflow"][part] for part in ("specification", "execution"))
    sizes = {file["id"]: file["sizeInBytes"] for file in specification["files"]}
    tasks = []
    for task, ran in zip(specification["tasks"], execution["tasks"], strict=True):
        files = [
            {"name": name, "sizeInBytes": sizes[name], "link": link}
            for link in ("input", "output")
            for name in task.get(f"{link}Files", [])
        ]
        tasks.append(
            {"name": task["id"], "type": "compute", "parents": task["parents"], "children": task["children"],
             "files": files, "runtimeInSeconds": ran["runtimeInSeconds"], "machine": ran["machines"][0]}
        )  # fmt: skip
    workflow = {"makespanInSeconds": 9, "machines": execution["machines"], "tasks": tasks}
    return {"name": "w", "schemaVersion": "1.4", "workflow": workflow}


def read(tmp_path: Path, value: Any, **options: Any) -> TaskGraph:
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(value))
    return read_wfformat(path, **{"machine_hz": 3e9, **options})


@pytest.mark.parametrize("value", [v14(), V15, V15 | {"schemaVersion": "1.6"}], ids=["1.4", "1.5", "1.6"])
def test_reads(tmp_path: Path, value: Any) -> None:
    assert read(tmp_path, value) == GRAPH
    recorded = read(tmp_path, value, machine_hz="recorded")
    assert recorded.cycles.tolist() == [1e9, 5e9, 3e9, 0, 8e9]
    assert recorded.upload_bytes.tolist() == GRAPH.upload_bytes.tolist()


def test_coarsened(tmp_path: Path) -> None:
    merged = read(tmp_path, V15, num_tasks=2)
    assert merged.num_tasks == 2
    assert merged.cycles.sum() == GRAPH.cycles.sum()


def test_one_machine_is_that_of_all(tmp_path: Path) -> None:
    value = copy.deepcopy(V15)
    execution = value["workflow"]["execution"]
    execution["machines"] = execution["machines"][:1]
    for task in execution["tasks"]:
        del task["machines"]
    assert read(tmp_path, value, machine_hz="recorded").cycles.tolist() == [1e9, 2.5e9, 3e9, 0, 4e9]


@pytest.mark.parametrize(
    ("where", "what", "message"),
    [
        (["schemaVersion"], "1.3", "schemaVersion is '1.3'; accepted: 1.4 or 1.5 or 1.6"),
        (["workflow"], [], r"workflow is \[\]; accepted: an object"),
        (["workflow", "specification", "tasks", 0, "id"], "a", r"tasks\[1\].id is 'a'; accepted: an id of its own"),
        (["workflow", "specification", "tasks", 0, "children", 0], "z", r"n\[0\] is 'z'; accepted: the id of a"),
        (["workflow", "specification", "tasks", 0, "inputFiles", 0], "z", "'z'; accepted: the id of a file of specifi"),
        (["workflow", "specification", "tasks", 2, "outputFiles"], ["u"], "writes 'u', which another task writes, too"),
        (["workflow", "specification", "tasks", 0, "parents"], ["j"], "edges hold a cycle"),
        (["workflow", "specification", "files", 0, "sizeInBytes"], -1, "sizeInBytes is -1; accepted: a finite number"),
        (["workflow", "specification", "tasks", 0, "parents"], ["s"], "is 's'; accepted: the id of another"),
        (["workflow", "specification", "files", 1, "id"], "in", "id is 'in'; accepted: each once"),
        (["workflow", "execution", "tasks", 1, "id"], "s", "id is 's'; accepted: each once"),
        (["workflow", "execution", "tasks", 0, "id"], "z", "is 's', which has not run"),
        (["workflow", "execution", "tasks", 0, "runtimeInSeconds"], None, "Seconds is None; accepted: a finite"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, where: list[Any], what: Any, message: str) -> None:
    place = value = copy.deepcopy(V15)
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = what
    with pytest.raises(InputError, match=message) as raised:
        read(tmp_path, value)
    assert "workflow.json" in str(raised.value)


def test_clocks_that_are_not_recorded(tmp_path: Path) -> None:
    value = copy.deepcopy(V15)
    del value["workflow"]["execution"]["machines"][1]["cpu"]
    with pytest.raises(InputError, match=r"tasks\[1\] ran on a machine whose clock is not recorded; accepted: m"):
        read(tmp_path, value, machine_hz="recorded")


@pytest.mark.parametrize("clock", [0, -1.0, float("inf"), "3 GHz", None, np.ones(2), [1e9], np.array(["recorded"] * 2)])
def test_clocks_that_there_are_not(tmp_path: Path, clock: Any) -> None:
    with pytest.raises(InputError, match=r"machine_hz is .*; accepted: a finite number in"):
        read(tmp_path, V15, machine_hz=clock)


def test_a_clock_of_nothing_is_none(tmp_path: Path) -> None:
    value = copy.deepcopy(V15)
    value["workflow"]["execution"]["machines"][0]["cpu"]["speedInMHz"] = 0
    with pytest.raises(InputError, match="speedInMHz is 0; accepted: a number > 0"):
        read(tmp_path, value, machine_hz="recorded")


def test_sizes_that_differ_are_refused(tmp_path: Path) -> None:
    value = v14()
    value["workflow"]["tasks"][1]["files"][0]["sizeInBytes"] = 31
    with pytest.raises(InputError, match=r"has 'x' at 31.0 bytes, another at 30.0; accepted: one size"):
        read(tmp_path, value)


def test_links_may_be_by_name(tmp_path: Path) -> None:
    value = copy.deepcopy(V15)
    value["workflow"]["specification"]["tasks"][0]["parents"] = []
    value["workflow"]["specification"]["tasks"][4]["parents"] = ["a", "b", "log"]
    assert read(tmp_path, value) == GRAPH


def test_many_long_names_are_read_soon(tmp_path: Path) -> None:
    """Names may be equal: that each is looked for among all would take minutes."""
    tasks = [{"name": "n" * 1000, "id": str(number), "runtimeInSeconds": 1} for number in range(8000)]
    value = {"schemaVersion": "1.4", "workflow": {"tasks": tasks}}
    began = time.process_time()
    assert read(tmp_path, value).num_tasks == 8000
    assert time.process_time() - began < 3  # measured: 0.15 s; by counting each name 4 s


def test_files_of_too_many_values_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "workflow.json"
    path.write_text('{"schemaVersion": [' + "[]," * MAX_VALUES + '[],"')  # no JSON, which nobody finds out
    with pytest.raises(InputError, match=r"workflow.json: has more than 1000000 values; accepted: a WfFormat file"):
        read_wfformat(path, machine_hz=1e9)
