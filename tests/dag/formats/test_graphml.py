"""GraphML, GML and node-link JSON: what networkx writes is read again, and what other tools write as it is meant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import pytest

from mrlato_jax.dag.formats.graphml import MAX_GML_BYTES, read_gml, read_graphml
from mrlato_jax.dag.formats.node_link import read_node_link
from mrlato_jax.dag.formats.reading import MAX_TAGS
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError

GRAPH = TaskGraph.from_edges(
    cycles=[4e7, 9e7, 5],
    upload_bytes=[20000, 40000.5, 0],
    download_bytes=[20000, 40000, 1e-300],
    edges=[(0, 2), (1, 2)],
    names=["detect", "träck", "<a & b>"],
    pins=["ue", "any", "server"],
)
Reader = Callable[..., TaskGraph]
HEAD = '<?xml version="1.0"?><graphml xmlns="http://graphml.graphdrawing.org/xmlns">'
CYCLES = '<key id="c" for="node" attr.name="cycles" attr.type="double"/>'


def write_node_link(graph: nx.DiGraph, path: Path) -> None:
    path.write_text(json.dumps(nx.node_link_data(graph, edges="links")))


WAYS: dict[str, tuple[Any, Reader]] = {
    "GraphML": (nx.write_graphml, read_graphml),
    "GML": (nx.write_gml, read_gml),
    "node-link": (write_node_link, read_node_link),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_networkx_writes_is_the_same_graph(tmp_path: Path, way: str) -> None:
    write, read = WAYS[way]
    write(GRAPH.to_networkx(), tmp_path / "g")
    assert read(tmp_path / "g") == GRAPH


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [nx.DiGraph, nx.MultiDiGraph])
def test_bytes_of_edges_and_units_of_weights(tmp_path: Path, way: str, kind: Any) -> None:
    write, read = WAYS[way]
    graph = kind()
    graph.add_node("a", weight=4.0)
    graph.add_node("b", weight=3)
    graph.add_edge("a", "b", weight=2.5)
    write(graph, tmp_path / "g")
    found = read(tmp_path / "g", cycles_per_unit=1e6, bytes_per_unit=1000)
    assert found == TaskGraph.from_edges(
        cycles=[4e6, 3e6], upload_bytes=[0, 2500], download_bytes=[2500, 0], edges=[(0, 1)], names=["a", "b"]
    )
    with pytest.raises(InputError, match=r"g: has weight of every node and edge, and bytes_per_unit is missing; accep"):
        read(tmp_path / "g", cycles_per_unit=1e6)


@pytest.mark.parametrize("way", WAYS)
def test_undirected_graphs_are_refused(tmp_path: Path, way: str) -> None:
    write, read = WAYS[way]
    write(nx.Graph([("a", "b")]), tmp_path / "g")
    with pytest.raises(
        InputError, match=r"g: .*(edgedefault is 'undirected'|no 'directed 1'|directed is False); accepted: "
    ):
        read(tmp_path / "g")


def graphml(text: str, keys: str = CYCLES, direction: str = "directed") -> str:
    return f'{HEAD}{keys}<graph edgedefault="{direction}">{text}</graph></graphml>'


def node(name: str, cycles: str = "") -> str:
    data = f'<data key="c">{cycles}</data>' if cycles else ""
    return f'<node id="{name}">{data}</node>'


EDGE = '<edge source="a" target="b"/>'


@pytest.mark.parametrize(
    "text",
    [
        graphml(node("a", "4e7") + node("b", "3") + EDGE),
        graphml(node("a", " 40000000.0\n") + node("b") + EDGE, CYCLES.replace("/>", "><default>3</default></key>")),
        # Nodes within a group, as yEd and Gephi write them; what is only drawn has elements within.
        graphml(
            f'<node id="g"><graph edgedefault="directed">{node("a", "4e7")}{EDGE}</graph></node>'
            '<node id="b"><data key="c">3</data><data key="d"><y:Shape xmlns:y="u"/></data><port name="p"/></node>',
            CYCLES + '<key id="d" yfiles.type="nodegraphics"/>',
        ),
        "\ufeff" + graphml(node("a", "4e7") + node("b", "3") + EDGE + EDGE).replace("?><", "?>\n<!-- <x> --><", 1),
        graphml(node("a", "4e7") + node("b", "3") + EDGE).replace(' xmlns="http://graphml.graphdrawing.org/xmlns"', ""),
    ],
    ids=["plain", "defaults", "groups", "an edge twice", "no namespace"],
)
def test_graphml_of_others(tmp_path: Path, text: str) -> None:
    (tmp_path / "g.graphml").write_text(text)
    assert read_graphml(tmp_path / "g.graphml", result_bytes=7) == TaskGraph.from_edges(
        cycles=[4e7, 3], upload_bytes=[7, 7], download_bytes=[7, 7], edges=[(0, 1)], names=["a", "b"]
    )


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (graphml(node("a", "1")).replace("?>", "?>" + BOMB, 1), "has a DOCTYPE; accepted: a GraphML file of one"),
        (graphml("<node/>" * MAX_TAGS)[: 8 * 2**20], "has more than 1000000 tags"),
        (graphml(node("a", "1"))[:-5], "line 1, no XML"),
        ("hello", "line 1, no XML"),
        ("<svg/>", "is <svg> with 0 <graph>; accepted: a GraphML file"),
        (graphml(node("a", "1")).replace("</graphml>", "<graph/></graphml>"), "with 2 <graph>"),
        (graphml(node("a", "1"), direction="undirected"), "edgedefault is 'undirected'; accepted: 'directed'"),
        (graphml(node("a", "1") + node("b", "1") + EDGE.replace("/>", ' directed="false"/>')), "has no direction"),
        (graphml(node("a", "1") + "<hyperedge/>"), "has a hyperedge; accepted: edges between two nodes"),
        (graphml(node("a", "1") + EDGE), "an edge ends at 'b'; accepted: the id of a node"),
        (graphml(node("a", "1") + node("a", "1")), "node 'a' stands twice; accepted: each id once"),
        (graphml("<node/>"), "a <node> lacks id; accepted"),
        (graphml(""), "has 0 tasks; accepted: 1 to 20000"),
        (graphml(node("a", "x")), "node 'a': cycles is 'x'; accepted: a finite number >= 0"),
        (graphml(node("a", "-1")), "node 'a': cycles is '-1'; accepted: a finite number >= 0"),
        (graphml(node("a", "1") + node("b")), "node 'b': node 'b' has no attributes; accepted: cycles of every node"),
        (graphml(node("a", "1") + '<edge source="a" target="a"/>'), "task 'a' depends on itself; accepted"),
        (graphml(node("a", "1"), keys=""), "nodes have 'c', edges no attributes; accepted: cycles, upload_bytes"),
    ],
)
def test_graphml_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "g.graphml").write_text(text)
    with pytest.raises(InputError, match=rf"g\.graphml:? .*{message}"):
        read_graphml(tmp_path / "g.graphml", result_bytes=1)


GML = """\
Creator "someone"
graph [
  directed 1
  node [ id 7 label "first &#228;" cycles 4.0E7 graphics [ x 1.0 ] ]
  node [ id 3 label "second" cycles 3 ]
  edge [ source 7 target 3 bytes 20000 ]
]
"""


def test_gml_of_others(tmp_path: Path) -> None:
    (tmp_path / "g.gml").write_text(GML)
    assert read_gml(tmp_path / "g.gml") == TaskGraph.from_edges(
        cycles=[4e7, 3], upload_bytes=[0, 20000], download_bytes=[20000, 0], edges=[(0, 1)], names=["first ä", "second"]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GML.replace("directed 1", "directed 0"), "has no 'directed 1'; accepted: a GML file of one directed graph"),
        (GML.replace("id 3", "id 7"), "duplicated.*; accepted: a GML file"),
        (GML.replace("target 3", "target 4"), "undefined target.*; accepted: a GML file"),
        (GML.replace("]\n]", "]"), "expected.*; accepted: a GML file"),
        ("graph [" + "a [" * 5000, "recursion.*; accepted: a GML file"),
        ("hello", "accepted: a GML file"),
        ("graph 5", "accepted: a GML file"),
        (GML.replace("20000", "[ x 1 ]"), r"edge '7' -> '3': bytes is .*; accepted: a finite number"),
        (GML.replace("4.0E7", '"4 s"'), "node '7': cycles is '4 s'; accepted: a finite number >= 0"),
        ("#" * (MAX_GML_BYTES + 1), "has 1048577 bytes; accepted: at most 1048576"),
    ],
)
def test_gml_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "g.gml").write_text(text)
    with pytest.raises(InputError, match=rf"g\.gml: .*{message}"):
        read_gml(tmp_path / "g.gml")


LINKS: dict[str, Any] = {
    "directed": True,
    "nodes": [{"id": 1, "cycles": 4e7, "label": "x"}, {"id": "b", "cycles": 3, "label": "x"}],
    "edges": [{"source": 1, "target": "b", "bytes": "20000"}],
}


def test_node_links_of_others(tmp_path: Path) -> None:
    (tmp_path / "g.json").write_text(json.dumps(LINKS))
    found = read_node_link(tmp_path / "g.json")
    assert (found.names, found.upload_bytes.tolist()) == (("1", "b"), [0, 20000])  # two nodes have one label


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (["directed"], False, "directed is False; accepted: true, edges from parent to child"),
        (["nodes"], [], r"edges\[0\].source is 1; accepted: the id of a node"),
        (["nodes", 0, "id"], None, r"nodes\[0\].id is None; accepted: a string or an integer"),
        (["nodes", 0, "id"], "b", r"nodes\[1\].id is 'b'; accepted: each id once"),
        (["nodes", 0], 3, r"nodes\[0\] is 3; accepted: an object"),
        (["edges", 0, "source"], "c", r"edges\[0\].source is 'c'; accepted: the id of a node"),
        (["edges", 0], [1, "b"], r"edges\[0\] is \[1, 'b'\]; accepted: an object"),
        (["edges", 0, "bytes"], True, "edge '1' -> 'b': bytes is True; accepted: a finite number"),
        (["edges"], {}, "edges is {}; accepted: a list"),
    ],
)
def test_node_links_that_are_wrong(tmp_path: Path, where: list[Any], value: Any, message: str) -> None:
    top = json.loads(json.dumps(LINKS))
    place = top
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    (tmp_path / "g.json").write_text(json.dumps(top))
    with pytest.raises(InputError, match=rf"g\.json:? .*{message}"):
        read_node_link(tmp_path / "g.json")
