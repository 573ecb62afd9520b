"""The Standard Task Graph Set, and SAGA's JSON: units of work and of data, which have to be said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mrlato_jax.dag.formats.saga import read_saga
from mrlato_jax.dag.formats.stg import read_stg
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError

STG = """\
          4
          0          0          0
          1          4          1          0
          2          3          1          0
          3          0          2          1          2
          4         10          1          1
          5          0          2          3          4
# Standard Task Graph Set Project
#   Tasks             : 4 (+dummy tasks : 2)
"""
COSTS = """\
2
0 0 0
1 4 1
  0 2
2 3 1
  1 0.5
3 0 2
  1 5
  2 7
"""


@pytest.fixture
def stg(tmp_path: Path) -> Any:
    def read(text: str, **given: Any) -> TaskGraph:
        (tmp_path / "g.stg").write_text(text)
        return read_stg(tmp_path / "g.stg", **({"cycles_per_unit": 1e6} | given))

    return read


def test_dummies_stand_for_the_user(stg: Any) -> None:
    assert stg(STG, result_bytes=100) == TaskGraph.from_edges(
        cycles=[4e6, 3e6, 0, 1e7],
        upload_bytes=[100, 100, 200, 100],
        download_bytes=[100] * 4,
        edges=[(0, 2), (1, 2), (0, 3)],
        names=["1", "2", "3", "4"],
    )


def test_communication_costs_are_units_of_bytes(stg: Any) -> None:
    assert stg(COSTS, bytes_per_unit=1000) == TaskGraph.from_edges(
        cycles=[4e6, 3e6], upload_bytes=[2000, 500], download_bytes=[5500, 7000], edges=[(0, 1)], names=["1", "2"]
    )


def test_merged_tasks_send_what_crosses(stg: Any) -> None:
    merged = stg(STG, result_bytes=100, num_tasks=1)
    assert (merged.cycles.tolist(), merged.upload_bytes.tolist()) == ([1.7e7], [200])


@pytest.mark.parametrize(
    ("text", "given", "message"),
    [
        (STG, {}, "has no communication costs; accepted: only result_bytes"),
        (STG, {"bytes_per_unit": 1}, "has no communication costs; accepted: only result_bytes"),
        (COSTS, {}, "has communication costs; accepted: only bytes_per_unit"),
        (COSTS, {"result_bytes": 1}, "has communication costs; accepted: only bytes_per_unit"),
        (COSTS.replace("2 3 1\n  1 0.5", "2 3 1 1"), {"bytes_per_unit": 1}, "costs for 3 of 4 edges; accepted: for"),
        ("10 3\n1 2 0\n", {}, "line 1 has 2 words; accepted: one, the number of tasks"),
        ("# nothing\n", {}, "line 1 has 0 words"),
        ("x\n", {}, "line 1: the number of tasks is 'x'; accepted: an integer >= 0"),
        ("30000\n", {}, "has 30000 tasks; accepted: 1 to 20000"),
        (STG.replace("          3          0  ", "          7          0  "), {}, "line 5 is '7 0 2 1 2'"),
        (STG.replace("          2          3  ", "          2         -3  "), {}, "line 4: a cost is '-3'"),
        (STG.replace("2          1          2", "3          1          2"), {}, "line 5 names 2 parents of 3"),
        (STG.replace("1          1\n", "1          9\n"), {}, "line 6: task 9 is a parent of 4; accepted: 0 to 4"),
        (STG.replace("1          1\n", "1          5\n"), {}, "line 6: task 5 is a parent of 4; accepted: 0 to 4"),
        (STG.replace("1          1\n", "1          4\n"), {}, "task '4' depends on itself"),
        (STG.replace("1          0\n", "1          4\n", 1), {}, "edges hold a cycle of 2 tasks"),
        (STG.replace("          5          0", "          5          1"), {}, "has 6 tasks; accepted: 4, as"),
        (STG[: STG.index("          5")], {}, "has 5 tasks; accepted: 4, as it states"),
        (COSTS[: COSTS.index("  2 7")], {}, "line 7 names none of 2 parents"),
        (COSTS.replace("0.5", "x"), {}, "line 6: a cost is 'x'"),
        (STG, {"cycles_per_unit": 0}, "^cycles_per_unit is 0; accepted: a finite number in"),
        (STG, {"result_bytes": -1}, "^result_bytes is -1; accepted: a finite number in"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(stg: Any, text: str, given: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        stg(text, **({"result_bytes": 1} if not given and text not in (STG, COSTS) else given))


SAGA = {
    "name": "app",
    "task_graph": {
        "tasks": [{"name": "a", "cost": 4.0}, {"name": "b", "cost": 2.0}, {"name": "c", "cost": 1}],
        "dependencies": [
            {"source": "a", "target": "b", "size": 3.0},
            {"source": "a", "target": "c", "size": 3.0},
            {"source": "b", "target": "c", "size": 0.5},
        ],
    },
    "network": {"nodes": [{"name": "phone", "speed": 1.0}], "edges": []},
}


@pytest.mark.parametrize("top", [SAGA, SAGA["task_graph"]], ids=["problem", "task graph"])
def test_sagas_units(tmp_path: Path, top: Any) -> None:
    (tmp_path / "g.json").write_text(json.dumps(top))
    assert read_saga(tmp_path / "g.json", cycles_per_unit=1e6, bytes_per_unit=1000) == TaskGraph.from_edges(
        cycles=[4e6, 2e6, 1e6],
        upload_bytes=[0, 3000, 3500],
        download_bytes=[3000, 500, 0],
        edges=[(0, 1), (0, 2), (1, 2)],
        names=["a", "b", "c"],
    )


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (["tasks"], None, r"tasks is None; accepted: a list"),
        (["tasks", 0, "cost"], "4 s", r"tasks\[0\].cost is '4 s'; accepted: a finite number >= 0"),
        (["tasks", 0, "name"], "b", r"tasks\[1\].name is 'b'; accepted: names that differ"),
        (["dependencies", 1, "target"], "d", r"dependencies\[1\].target is 'd'; accepted: the name of a task"),
        (["dependencies", 1, "size"], -1, r"dependencies\[1\].size is -1; accepted: a finite number >= 0"),
        (["dependencies", 1, "target"], "a", "task 'a' depends on itself"),
        (["tasks"], [], "tasks has 0 tasks; accepted: 1 to 20000"),
    ],
)
def test_what_is_wrong_with_saga_is_named(tmp_path: Path, where: list[Any], value: Any, message: str) -> None:
    top = json.loads(json.dumps(SAGA))
    place = top["task_graph"]
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    (tmp_path / "g.json").write_text(json.dumps(top))
    with pytest.raises(InputError, match=rf"g\.json: .*{message}"):
        read_saga(tmp_path / "g.json", cycles_per_unit=1, bytes_per_unit=1)
