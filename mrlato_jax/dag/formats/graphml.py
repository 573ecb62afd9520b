"""GraphML and GML: graphs whose attributes `attributed` knows.

GraphML has a reader of our own, since networkx silently drops a key's default values and the nodes of nested graphs. A
node that holds a graph is a group, like a cluster of DOT; the nodes in the group are the tasks. networkx reads GML.

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
MAX_GML_BYTES = 2**20  # networkx reads it in a second or two
_NAMES = ("name", "label")


def read_graphml(path: str | os.PathLike[str], **scales: float) -> TaskGraph:
    """Reads one application from a GraphML file; tasks have the order of its nodes.

    A task's name is its node's `name` or `label` if all nodes have one and all differ, else the node's id.

    Args:
        path: the file, UTF-8, at most 8 MiB and a million tags, without a DOCTYPE.
        **scales: scales that the attributes need, as in `read_dot`.

    Raises:
        InputError: there is no such file; the file has a fault (the message names the place and the accepted values);
            or a scale is out of range, missing, or not taken by the file.
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
    """Returns the names of attributes by the ids of their keys, and the default attributes of nodes and edges."""
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
    """Returns the attributes that are text. Attributes with elements, as yEd's, are only for drawing."""
    texts = (child for child in element if local_name(child) == "data" and not len(child))
    return {keys.get(key, key): (data.text or "").strip() for data in texts if (key := data.get("key"))}


def _attribute(element: Element, name: str, path: str | os.PathLike[str]) -> str:
    value = element.get(name)
    if not value:
        raise InputError(f"{path}: a <{local_name(element)}> lacks {name}; accepted: an element with {name}")
    return value


def read_gml(path: str | os.PathLike[str], **scales: float) -> TaskGraph:
    """Reads one application from a GML file; tasks have the order of its nodes.

    A task's name is its node's `name` or `label` if all nodes have one and all differ, else the node's id.

    Args:
        path: the file, UTF-8, at most 1 MiB.
        **scales: scales that the attributes need, as in `read_dot`.

    Raises:
        InputError: as `read_graphml`.
    """
    import networkx as nx  # imported here, since it is a fifth of this package's import time

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
