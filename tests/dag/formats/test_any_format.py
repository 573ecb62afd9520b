"""Which format a file has, what it leaves to be said, and what becomes of formats that are not read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mrlato_jax.dag.formats.any_format import FORMATS, TAKEN_BY, Unsaid, kind_of, read_any
from mrlato_jax.dag.formats.json_graph import read_json
from mrlato_jax.errors import InputError

GRAPHML = (
    '<?xml version="1.0"?>\n<!-- <adag> -->\n<graphml><graph edgedefault="directed"><node id="a"/></graph></graphml>'
)
OTHERS = {
    "WfFormat": {"schemaVersion": "1.5"},
    "SAGA": {"task_graph": {"tasks": [{"name": "a", "cost": 1}], "dependencies": []}},
    "node-link JSON": {"directed": True, "nodes": [{"id": "a", "cycles": 3}], "links": []},
    "Cytoscape JSON": {"data": [], "directed": True, "elements": {"nodes": []}},
    "networkx's adjacency JSON": {"directed": True, "adjacency": []},
    "JSON Graph Format": {"graph": {"nodes": {}, "edges": []}},
}


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("a.dot", "", "DOT"), ("a.GV", "", "DOT"), ("a.graphml", "", "GraphML"), ("a.gml", "", "GML"),
        ("a.stg", "", "STG"), ("a.dax", "", "DAX"), ("a.onnx", "", "ONNX"), ("a.xml", GRAPHML, "GraphML"),
        ("a.xml", '\ufeff<p:adag xmlns:p="u"/>', "DAX"), ("a.json", "{}", "JSON"),
        *(("a.json", json.dumps(value), kind) for kind, value in OTHERS.items() if kind in FORMATS),
        *(("a.json", json.dumps(value), "JSON") for kind, value in OTHERS.items() if kind not in FORMATS),
    ],
)  # fmt: skip
def test_kinds(tmp_path: Path, name: str, text: str, kind: str) -> None:
    (tmp_path / name).write_text(text)
    assert kind_of(tmp_path / name) == kind
    assert kind in FORMATS


@pytest.mark.parametrize("kind", OTHERS)
def test_the_reader_of_our_json_names_others(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(OTHERS[kind]))
    instead = r"mj\.read_\w+" if kind in FORMATS else r"a file of mj\.write_json\(mj\.TaskGraph\.from_networkx"
    with pytest.raises(
        InputError, match=rf"a\.json: is {kind}; accepted: a JSON file of format .*; for this file {instead}"
    ):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "M1,1,j_1", "rows of a table, which say nothing of the bytes .*; accepted: mj.write_json"),
        ("a.pt", "", "a network in another framework's format; accepted: the same network exported as .onnx"),
        ("a.gexf", "", "a graph that networkx reads; accepted: mj.write_json"),
        ("a.yml", "", "a workflow in YAML; accepted: its run as WfFormat"),
        ("a", "", r"file is .*a; accepted: a file that ends in \.dot, .* or \.onnx, or mj\.write_json"),
        ("a.xml", "<svg/>", r"a\.xml: is no XML of <adag> or <graphml>; accepted: DAX, GraphML"),
        ("a.xml", "<!-- " * 100_000, r"a\.xml: is no XML of"),
        ("a.xml", "<?" * 100_000 + "<" * 100_000, r"a\.xml: is no XML of"),
    ],
)
def test_what_is_not_read_is_named_with_what_to_do(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        kind_of(tmp_path / name)


def write(tmp_path: Path, kind: str) -> Path:
    name, text = {
        "DOT": ("a.dot", "digraph { a [size=3, expect_size=2] }"),
        "GraphML": ("a.graphml", GRAPHML.replace("<graphml>", '<graphml><key id="cycles"><default>3</default></key>')),
        "GML": ("a.gml", "graph [ directed 1 node [ id 1 cycles 3 ] ]"),
        "STG": ("a.stg", "1\n0 0 0\n1 3 1 0\n2 0 1 1\n"),
        "DAX": ("a.dax", '<adag><job id="a" runtime="3"/></adag>'),
    }.get(kind) or ("a.json", json.dumps(OTHERS[kind]))
    (tmp_path / name).write_text(text)
    return tmp_path / name


@pytest.mark.parametrize(
    ("kind", "said", "cycles"),
    [
        ("DOT", {}, 3000),
        ("DOT", {"cycles_per_byte": 2.0}, 6),
        ("GraphML", {"result_bytes": 1.0}, 3),
        ("GML", {"result_bytes": 1.0}, 3),
        ("node-link JSON", {"result_bytes": 1.0}, 3),
        ("SAGA", {"cycles_per_unit": 5.0, "bytes_per_unit": 1.0, "num_tasks": 1}, 5),
        ("STG", {"cycles_per_unit": 5.0, "result_bytes": 1.0}, 15),
        ("DAX", {"machine_hz": "2e9", "num_tasks": 1}, 6e9),
    ],
)
def test_what_is_said_reaches_the_reader(tmp_path: Path, kind: str, said: Any, cycles: float) -> None:
    assert read_any(write(tmp_path, kind), Unsaid(**said)).cycles.tolist() == [cycles]


@pytest.mark.parametrize(
    ("kind", "said", "message"),
    [
        (
            "SAGA",
            {},
            "--cycles_per_unit and --bytes_per_unit are missing; accepted: a number > 0, which a.json, SAGA, does",
        ),
        ("STG", {"result_bytes": 1.0}, "--cycles_per_unit is missing; accepted"),
        ("DAX", {}, "--machine_hz is missing; accepted: a number > 0, which a.dax, DAX, does not say"),
        ("DAX", {"machine_hz": "fast"}, "--machine_hz is 'fast'; accepted: a number"),
        ("DAX", {"machine_hz": "recorded"}, "machine_hz is 'recorded'; accepted: a finite number"),
        (
            "DAX",
            {"machine_hz": "1e9", "cycles_per_flop": 3.0},
            "--cycles_per_flop is given with a.dax, DAX; accepted: with DOT",
        ),
    ],
)
def test_what_is_missing_or_not_taken_is_named(tmp_path: Path, kind: str, said: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_any(write(tmp_path, kind), Unsaid(**said))


def test_every_option_is_taken_by_a_format() -> None:
    assert all(TAKEN_BY.values())
    assert all(name in TAKEN_BY for found in FORMATS.values() for name in (*found.takes, *found.needs))
