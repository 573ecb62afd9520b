"""GraphML and GML: graphs whose attributes `attributed` knows.

GraphML is read here and not by networkx, which drops a key's default values and the nodes of nested graphs without a
word. A node that holds a graph is a group, like a cluster of DOT: the nodes within are the tasks. networkx reads GML.

Source: http://graphml.graphdrawing.org/specification.html, and networkx's `read_gml`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from mrlato_jax.dag.formats.attributed import AttributedGraph, Scales, set_defaults
from mrlato_jax.dag.formats.reading import local_name, read_text, xml_file
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, shorten

GRAPHML, GML = "a GraphML file of one directed graph", "a GML file of one directed graph"
MAX_GRAPHML_BYTES = 8 * 2**20
MAX_GML_BYTES = 2**20  # which networkx takes a second or two to read
_NAMES = ("name", "label")


def read_graphml(path: str | os.PathLike[str], **scales: float) -> TaskGraph:
    """Reads one application from a GraphML file; tasks have the order of the nodes in it.

    A task is called by its node's `name` or `label` where all nodes have one and all differ, else by its id.

    Args:
        path: the file, UTF-8, at most 8 MiB and a million tags, without a DOCTYPE.
        **scales: as `read_dot` takes them, those that the attributes need.

    Raises:
        InputError: no such file, or naming the place in it and what is accepted there; or scales that are out of range,
            missing, or not taken by such a file.
    """
    given = Scales(**scales)
    root = xml_file(path, GRAPHML, MAX_GRAPHML_BYTES)
    graphs = [element for element in root if local_name(element) == "graph"]
    if local_name(root) != "graphml" or len(graphs) != 1:
        raise InputError(f"{path}: is <{local_name(root)}> with {len(graphs)} <graph>; accepted: {GRAPHML}")
    keys, defaults = _keys(root, path)
    nodes: dict[str, Mapping[str, Any]] = {}
    edges = []
    for element in graphs[0].iter():
        kind = local_name(element)
        if kind == "graph" and element.get("edgedefault") != "directed":
            found = shorten(element.get("edgedefault"))
            raise InputError(f"{path}: edgedefault is {found}; accepted: 'directed', edges from parent to child")
        if kind == "hyperedge":
            raise InputError(f"{path}: has a hyperedge; accepted: edges between two nodes")
        if kind == "node" and not any(local_name(child) == "graph" for child in element):
            node = _attribute(element, "id", path)
            if node in nodes:
                raise InputError(f"{path}: node {shorten(node)} stands twice; accepted: each id once")
            nodes[node] = defaults["node"] | _data(element, keys)
        if kind == "edge":
            if element.get("directed") == "false":
                raise InputError(f"{path}: an edge has no direction; accepted: edges from parent to child")
            ends = _attribute(element, "source", path), _attribute(element, "target", path)
            edges.append((*ends, defaults["edge"] | _data(element, keys)))
    for end in (end for edge in edges for end in edge[:2]):
        if end not in nodes:
            raise InputError(
                f"{path}: an edge ends at {shorten(end)}; accepted: the id of a node without a graph in it"
            )
    return AttributedGraph(str(path), nodes, edges, name_attributes=_NAMES).to_task_graph(given)


def _keys(root: Element, path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Names of attributes by the ids of their keys, and what nodes and edges have where they state nothing."""
    names: dict[str, str] = {}
    defaults: dict[str, dict[str, str]] = {"node": {}, "edge": {}}
    for key in root:
        if local_name(key) == "key":
            own = _attribute(key, "id", path)
            names[own] = key.get("attr.name") or own
            for child in key:
                if local_name(child) == "default":
                    for kind in defaults:
                        if key.get("for", "all") in (kind, "all"):
                            set_defaults(defaults[kind], {names[own]: (child.text or "").strip()})
    return names, defaults


def _data(element: Element, keys: Mapping[str, str]) -> dict[str, str]:
    """Attributes that are text; those of other elements, as yEd's, are drawn only."""
    found = (child for child in element if local_name(child) == "data" and not len(child))
    return {keys.get(key, key): (data.text or "").strip() for data in found if (key := data.get("key"))}


def _attribute(element: Element, name: str, path: str | os.PathLike[str]) -> str:
    value = element.get(name)
    if not value:
        raise InputError(f"{path}: a <{local_name(element)}> lacks {name}; accepted: one that has it")
    return value


def read_gml(path: str | os.PathLike[str], **scales: float) -> TaskGraph:
    """Reads one application from a GML file; tasks have the order of the nodes in it.

    A task is called by its node's `name` or `label` where all nodes have one and all differ, else by its id.

    Args:
        path: the file, UTF-8, at most 1 MiB.
        **scales: as `read_dot` takes them, those that the attributes need.

    Raises:
        InputError: as `read_graphml`.
    """
    import networkx as nx  # where it is used: a fifth of this package's import

    given = Scales(**scales)
    text = read_text(path, GML, MAX_GML_BYTES).removeprefix("\ufeff")
    lines = [line for line in map(str.rstrip, text.splitlines()) if line]
    try:
        graph = nx.parse_gml(lines, label="id")
    except (nx.NetworkXException, ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        raise InputError(f"{path}: {shorten(str(error), 100)}; accepted: {GML}") from None
    if not graph.is_directed():
        raise InputError(f"{path}: has no 'directed 1'; accepted: {GML}")
    nodes = {str(node): values for node, values in graph.nodes.items()}
    if len(nodes) < len(graph):
        raise InputError(f"{path}: two nodes have the same id as text; accepted: each id once")
    edges = [(str(parent), str(child), values) for parent, child, values in graph.edges(data=True)]
    return AttributedGraph(str(path), nodes, edges, name_attributes=_NAMES).to_task_graph(given)
