"""Our own file format of one application: JSON with every unit in a name.

    {
     "format": "mrlato_jax.task_graph", "version": 1,
     "tasks": [
      {"name": "detect", "cycles": 4e7, "upload_bytes": 20000, "download_bytes": 20000},
      {"name": "track", "cycles": 9e7, "upload_bytes": 40000, "download_bytes": 40000}
     ],
     "edges": [["detect", "track"]]
    }

`cycles` are CPU cycles. `upload_bytes` are the bytes that a task sends when it is offloaded, `download_bytes` those of
its result. Edges are [parent, child] by name. All members are required, and other members are refused, so a misspelt
member is an error. Version 2 adds one optional member of a task: `"pin": "ue"` or `"pin": "server"`, where the task
must run. Both versions are read; a graph without pins is written as version 1, which older readers know.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mrlato_jax.dag.formats.reading import Node, check_count, json_file
from mrlato_jax.dag.task_graph import PINS, TaskGraph
from mrlato_jax.errors import InputError, check_type
from mrlato_jax.files import write_atomically

FORMAT, VERSIONS = "mrlato_jax.task_graph", (1, 2)
KIND = f"a JSON file of format {FORMAT}"
MAX_FILE_BYTES = 64 * 2**20
_COSTS = ("cycles", "upload_bytes", "download_bytes")
OTHERS = {
    "schemaVersion": "WfFormat",
    "task_graph": "SAGA",
    "dependencies": "SAGA",
    "nodes": "node-link JSON",
    "elements": "Cytoscape JSON",
    "adjacency": "networkx's adjacency JSON",
    "graph": "JSON Graph Format",
}
READERS = {"WfFormat": "read_wfformat", "SAGA": "read_saga", "node-link JSON": "read_node_link"}
OURS = "mj.write_json(mj.TaskGraph.from_networkx(graph), PATH) of a DiGraph with cycles, upload_bytes, download_bytes"


def other_kind(keys: Collection[str]) -> str | None:
    """Returns the format of a JSON object with these members; None for our own format and unknown formats."""
    if "format" in keys:
        return None
    return next((kind for key, kind in OTHERS.items() if key in keys), None)


def read_json(path: str | os.PathLike[str]) -> TaskGraph:
    """Reads one application from a file of our own format; tasks have the order of the file.

    Args:
        path: the file, UTF-8, at most 64 MiB and a million values.

    Raises:
        InputError: there is no such file, or the file has a fault; the message names the place and the accepted values.
    """
    top = json_file(path, KIND, MAX_FILE_BYTES)
    other = other_kind(top.value) if isinstance(top.value, dict) else None
    if other:
        instead = f"mj.{READERS[other]}(...)" if other in READERS else f"a file of {OURS}"
        raise InputError(f"{path}: is {other}; accepted: {KIND}; for this file {instead}")
    top.only("format", "version", "tasks", "edges")
    if top["format"].value != FORMAT:
        raise top["format"].refuse(repr(FORMAT))
    version = top["version"].value
    if isinstance(version, bool) or version not in VERSIONS:
        raise top["version"].refuse(f"{' or '.join(map(str, VERSIONS))}; later versions need a later mrlato_jax")
    entries = top["tasks"].items()
    check_count(top["tasks"].place, len(entries))
    ids: dict[str, int] = {}
    costs: dict[str, list[float]] = {field: [] for field in _COSTS}
    pins: list[str] = []
    for entry in entries:
        entry.only("name", *_COSTS, *(["pin"] if version > 1 else []))
        pin = entry.get("pin")
        if pin is not None and pin.value not in PINS:
            raise pin.refuse(" or ".join(PINS))
        pins.append(PINS[0] if pin is None else pin.value)
        name = entry["name"].text()
        if name in ids:
            raise entry["name"].refuse("names that differ")
        ids[name] = len(ids)
        for field in _COSTS:
            costs[field].append(entry[field].number())
    edges = [_edge(entry, ids) for entry in top["edges"].items()]
    try:
        return TaskGraph.from_edges(**costs, edges=edges, names=list(ids), pins=pins)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _edge(entry: Node, ids: dict[str, int]) -> tuple[int, int]:
    ends = entry.items()
    if len(ends) != 2:
        raise entry.refuse("[parent, child]")
    for end in ends:
        if end.text() not in ids:
            raise end.refuse("the name of a task")
    return ids[ends[0].value], ids[ends[1].value]


def write_json(graph: TaskGraph, path: str | os.PathLike[str]) -> None:
    """Writes one application atomically; `read_json` gives an equal application.

    Raises:
        InputError: `graph` is no `TaskGraph`, or the file cannot be written.
    """
    check_type("graph", graph, TaskGraph)
    columns = zip(graph.names, *(getattr(graph, field).tolist() for field in _COSTS), strict=True)
    tasks: list[dict[str, Any]] = [dict(zip(("name", *_COSTS), row, strict=True)) for row in columns]
    for task, pin in zip(tasks, graph.pins, strict=True):
        if pin != PINS[0]:
            task["pin"] = pin
    version = VERSIONS[any("pin" in task for task in tasks)]
    edges = [[graph.names[parent], graph.names[child]] for parent, child in graph.edges.tolist()]
    value = {"format": FORMAT, "version": version, "tasks": tasks, "edges": edges}
    try:
        write_atomically(Path(path), (json.dumps(value, indent=1) + "\n").encode())
    except OSError as error:
        raise InputError(f"path is {path}: {error.strerror}; accepted: a path to write to") from None
