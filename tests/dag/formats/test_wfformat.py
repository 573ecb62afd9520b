"""WfFormat: small files written here in the versions' own shapes, and what is wrong in them."""

from __future__ import annotations

import copy
import json
import re
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrlato_jax.dag.formats.reading import MAX_VALUES, AssumptionWarning
from mrlato_jax.dag.formats.wfformat import read_wfformat
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::mrlato_jax.dag.formats.reading.AssumptionWarning")

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


def older(version: str) -> dict[str, Any]:
    """The same as versions before 1.4 have it."""
    value = v14()
    workflow = value["workflow"]
    for task in workflow["tasks"]:
        task["runtime"] = task.pop("runtimeInSeconds")
        for file in task["files"]:
            file["size"] = file.pop("sizeInBytes")
    if version < "1.3":
        workflow["jobs"] = workflow.pop("tasks")
    return value | {"schemaVersion": version}


def of_files(*tasks: tuple[str, str, str, str]) -> dict[str, Any]:
    """A workflow of tasks: (name, its parents, what it reads, what it writes), a letter each; files of 10 bytes."""
    entries = [
        {"name": name, "id": name, "parents": [*parents], "inputFiles": [*reads], "outputFiles": [*writes]}
        for name, parents, reads, writes in tasks
    ]
    names = sorted({file for _, _, reads, writes in tasks for file in reads + writes})
    ran = [{"id": name, "runtimeInSeconds": 1} for name, *_ in tasks]
    files = [{"id": name, "sizeInBytes": 10} for name in names]
    specification, execution = {"tasks": entries, "files": files}, {"tasks": ran}
    return {"schemaVersion": "1.5", "workflow": {"specification": specification, "execution": execution}}


def read(tmp_path: Path, value: Any, **options: Any) -> TaskGraph:
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(value))
    return read_wfformat(path, **{"machine_hz": 3e9, **options})


NO_FILES = "1 of 5 tasks have no files; they are assumed to send nothing"


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
        (["schemaVersion"], "0.9", "schemaVersion is '0.9'; accepted: 1.0 or .* or 1.6"),
        (["workflow"], [], r"workflow is \[\]; accepted: an object"),
        (["workflow", "specification", "tasks", 0, "id"], "a", r"tasks\[1\].id is 'a'; accepted: a different id"),
        (["workflow", "specification", "tasks", 0, "children", 0], "z", r"n\[0\] is 'z'; accepted: the id of a"),
        (["workflow", "specification", "tasks", 0, "inputFiles", 0], "z", "'z'; accepted: the id of a file of specifi"),
        (["workflow", "specification", "tasks", 0, "parents"], ["j"], "edges hold a cycle"),
        (["workflow", "specification", "files", 0, "sizeInBytes"], -1, "sizeInBytes is -1; accepted: a finite number"),
        (["workflow", "specification", "tasks", 0, "parents"], ["s"], "is 's'; accepted: the id of another"),
        (["workflow", "specification", "files", 1, "id"], "in", "id is 'in'; accepted: each id once"),
        (["workflow", "execution", "tasks", 1, "id"], "s", "id is 's'; accepted: each id once"),
        (["workflow", "execution", "tasks", 0, "id"], "z", "is 's', which did not run"),
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
    with pytest.raises(InputError, match=r"has 'x' with 31.0 bytes, another 30.0; accepted: one size"):
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


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.3"])
def test_older_versions_have_no_units(tmp_path: Path, version: str) -> None:
    with pytest.warns(AssumptionWarning, match=rf"version {version} has sizes without a unit; bytes are assumed"):
        assert read(tmp_path, older(version)) == GRAPH


def test_a_task_may_have_no_run_time_where_the_schema_has_none(tmp_path: Path) -> None:
    value = older("1.3")
    del value["workflow"]["tasks"][3]["runtime"]
    with pytest.warns(AssumptionWarning, match="1 of 5 tasks have no run time; 0 s are assumed; 1 of 5 tasks have no"):
        assert read(tmp_path, value) == GRAPH
    value = copy.deepcopy(V15)
    del value["workflow"]["execution"]["tasks"][3]["runtimeInSeconds"]
    with pytest.raises(InputError, match=r"tasks\[3\] lacks 'runtimeInSeconds'"):
        read(tmp_path, value)


def test_files_of_two_folders_are_two(tmp_path: Path) -> None:
    value = v14()
    for task, folder, size in ((1, "left/", 5), (2, "right/", 6)):
        value["workflow"]["tasks"][task]["files"][1] |= {"path": folder, "name": "half", "sizeInBytes": size}
    inputs = [{"link": "input", "path": folder, "name": "half", "sizeInBytes": size}
              for folder, size in (("left/", 5), ("right/", 6))]  # fmt: skip
    value["workflow"]["tasks"][4]["files"][:2] = inputs
    with pytest.warns(AssumptionWarning, match=NO_FILES):
        assert read(tmp_path, value) == GRAPH


@pytest.mark.parametrize(
    ("tasks", "upload", "download", "edges", "assumed"),
    [
        # Nothing connects them, and nothing is known of what they send.
        ([("a", "", "", ""), ("b", "", "", "")], [0, 0], [0, 0], [],
         "2 of 2 tasks have no files.*; no edge or file connects the 2 tasks; they are assumed to be independent"),
        # Files, but none from one to the other.
        ([("a", "", "x", "y"), ("b", "", "z", "w")], [10, 10], [10, 10], [], "no edge or file connects the 2 tasks"),
        ([("a", "", "x", "y"), ("b", "a", "", "")], [10, 0], [10, 0], [[0, 1]], "1 of 2 tasks have no files"),
        # A file that is rewritten in place is sent before, and comes back after.
        ([("a", "", "x", "x")], [10], [10], [], "a task reads and writes 'x'; the file is assumed to exist before"),
        # a makes it, b rewrites it, c reads what b has made of it; the order of the entries does not matter.
        ([("a", "", "", "x"), ("b", "a", "x", "x"), ("c", "b", "x", "")], [0, 10, 10], [10, 10, 0],
         [[0, 1], [1, 2]], None),
        ([("c", "b", "x", ""), ("b", "a", "x", "x"), ("a", "", "", "x")], [10, 10, 0], [0, 10, 10],
         [[1, 0], [2, 1]], None),
        # b reads what a has made, before c rewrites that.
        ([("a", "", "", "x"), ("b", "a", "x", ""), ("c", "b", "x", "x")], [0, 10, 10], [10, 0, 10],
         [[0, 1], [0, 2], [1, 2]], None),
        # Two write what a third one reads: each makes the whole file, which is read once.
        ([("a", "", "", "x"), ("b", "", "", "x"), ("c", "ab", "x", "")], [0, 0, 10], [10, 10, 0], [[0, 2], [1, 2]],
         "several tasks write 'x'; each is assumed to make a file of the recorded size"),
        # The same where files alone say so: the reader waits for both.
        ([("c", "", "x", ""), ("a", "", "", "x"), ("b", "", "", "x")], [10, 0, 0], [0, 10, 10], [[1, 0], [2, 0]],
         "several tasks write 'x'"),
        # What a makes is overwritten, and read by nobody.
        ([("a", "", "", "x"), ("b", "a", "", "x"), ("c", "b", "x", "")], [0, 0, 10], [10, 10, 0], [[0, 1], [1, 2]],
         "several tasks write 'x'"),
        # Two rewrite a file in no order.
        ([("a", "", "", "x"), ("b", "a", "x", "x"), ("c", "a", "x", "x")], [0, 10, 10], [10, 10, 10],
         [[0, 1], [0, 2]], "several tasks write 'x'"),
    ],
)  # fmt: skip
def test_what_a_record_leaves_open(
    tmp_path: Path, tasks: Any, upload: list[int], download: list[int], edges: list[list[int]], assumed: str | None
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        graph = read(tmp_path, of_files(*tasks))
    assert graph.upload_bytes.tolist() == upload
    assert graph.download_bytes.tolist() == download
    assert graph.edges.tolist() == edges
    found = [str(warning.message) for warning in caught if warning.category is AssumptionWarning]
    assert len(found) == (assumed is not None)
    assert all(re.search(f"workflow.json: {assumed or ''}", message) for message in found)


def test_a_cycle_is_refused_whoever_writes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="edges hold a cycle of 2 tasks"):
        read(tmp_path, of_files(("a", "b", "", "x"), ("b", "a", "", "x")))


def test_files_of_very_many_writers_and_readers_are_refused_soon(tmp_path: Path) -> None:
    tasks = [
        {"name": str(number), "runtimeInSeconds": 1, "files": [{"name": "log", "sizeInBytes": 1, "link": link}]}
        for number in range(1200)
        for link in [("input", "output")[number % 2]]
    ]
    value = {"schemaVersion": "1.4", "workflow": {"tasks": tasks}}
    with pytest.raises(
        InputError, match="has 600 tasks that write 'log' and 600 that read it; accepted: at most 30000"
    ):
        read(tmp_path, value)
    value["workflow"]["tasks"] = tasks[:500]
    began = time.process_time()
    with pytest.warns(AssumptionWarning, match="several tasks write 'log'"):
        assert read(tmp_path, value).num_tasks == 500
    assert time.process_time() - began < 3  # measured: 0.6 s
