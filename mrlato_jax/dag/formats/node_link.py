"""networkx's node-link JSON: `{"directed": true, "nodes": [{"id": "a", ..}], "links": [{"source": "a", ..}]}`.

`networkx.node_link_data` gives such data, with the edges as `links` or as `edges`. `attributed` describes the
attributes of nodes and edges.
"""

from __future__ import annotations

import os
from typing import Any

from mrlato_jax.dag.formats.attributed import AttributedGraph, Scales
from mrlato_jax.dag.formats.reading import Node, json_file
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError

KIND = "a node-link JSON file of one directed graph"
MAX_FILE_BYTES = 64 * 2**20
_EDGES = ("links", "edges")


def read_node_link(path: str | os.PathLike[str], **scales: float) -> TaskGraph:
    """Reads one application from a node-link JSON file; tasks have the order of its nodes.

    A task's name is its node's `name` or `label` if all nodes have one and all differ, else the node's id.

    Args:
        path: the file, UTF-8, at most 64 MiB and a million values.
        **scales: scales that the attributes need, as in `read_dot`.

    Raises:
        InputError: there is no such file; the file has a fault (the message names the place and the accepted values);
            or a scale is out of range, missing, or not taken by the file.
    """
    given = Scales(**scales)
    top = json_file(path, KIND, MAX_FILE_BYTES)
    directed = top.get("directed")
    if directed is not None and directed.value is not True:
        raise directed.refuse("true, edges from parent to child")
    nodes: dict[str, dict[str, Any]] = {}
    for entry in top["nodes"].items():
        own = _id(entry["id"])
        if own in nodes:
            raise entry["id"].refuse("each id once")
        nodes[own] = {key: value for key, value in entry.value.items() if key != "id"}
    named = next((key for key in _EDGES if top.get(key)), _EDGES[0])
    edges = []
    for entry in top[named].items():
        ends = [_id(entry[end]) for end in ("source", "target")]
        for end, name in zip(ends, ("source", "target"), strict=True):
            if end not in nodes:
                raise entry[name].refuse("the id of a node")
        edges.append((ends[0], ends[1], entry.value))
    return AttributedGraph(str(path), nodes, edges, name_attributes=("name", "label")).to_task_graph(given)


def _id(node: Node) -> str:
    if isinstance(node.value, bool) or not isinstance(node.value, (str, int)):
        raise node.refuse("a string or an integer")
    try:
        return str(node.value)
    except ValueError:  # an integer with more digits than Python converts
        raise InputError(f"{node.place} is an integer of too many digits; accepted: a shorter integer") from None
