"""JSON of SAGA, a collection of schedulers, and of DAGBench: tasks with costs, dependencies with sizes.

Costs and sizes are in the file's own units: a task takes cost / speed on a node, a dependency size / speed on a link.
The caller gives the cycles and bytes per unit. The file's network is not read: a `System` takes its place. Tasks
without parents send nothing, and tasks without children return nothing.

Source: https://github.com/ANRGUSC/saga, `TaskGraph` and `ProblemInstance`; https://github.com/ANRGUSC/dagbench.
"""

from __future__ import annotations

import os

from mrlato_jax.dag.dataflow import Dataflow
from mrlato_jax.dag.formats.reading import check_count, in_tasks, json_file
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number

KIND = "a task graph or problem of SAGA in JSON"
MAX_FILE_BYTES = 64 * 2**20


def read_saga(
    path: str | os.PathLike[str], *, cycles_per_unit: float, bytes_per_unit: float, num_tasks: int | None = None
) -> TaskGraph:
    """Reads one application; tasks have the order in which the file lists them.

    Args:
        path: the file, UTF-8, at most 64 MiB and a million values: an object with `tasks` and `dependencies`, or an
            object that has such an object as `task_graph`.
        cycles_per_unit: CPU cycles per unit of a task's cost, > 0.
        bytes_per_unit: bytes per unit of a dependency's size, >= 0.
        num_tasks: merge into at most this number of tasks (`Dataflow.coarsened`); by default no merging.

    Raises:
        InputError: there is no such file, the file has a fault (the message names the place and the accepted values),
            or an argument is out of range.
    """
    flow = saga_dataflow(path, cycles_per_unit=cycles_per_unit, bytes_per_unit=bytes_per_unit)
    return in_tasks(flow, num_tasks, path)


def saga_dataflow(path: str | os.PathLike[str], *, cycles_per_unit: float, bytes_per_unit: float) -> Dataflow:
    """Returns the tasks and data that `read_saga` reads."""
    check_number("cycles_per_unit", cycles_per_unit, low=0.0, open_low=True)
    check_number("bytes_per_unit", bytes_per_unit, low=0.0)
    top = json_file(path, KIND, MAX_FILE_BYTES)
    graph = top.get("task_graph") or top
    tasks = graph["tasks"].items()
    check_count(graph["tasks"].place, len(tasks))
    ids: dict[str, int] = {}
    for task in tasks:
        if task["name"].text() in ids:
            raise task["name"].refuse("names that differ")
        ids[task["name"].value] = len(ids)
    cycles = [task["cost"].number() * cycles_per_unit for task in tasks]
    edges = []
    for entry in graph["dependencies"].items():
        ends = [entry["source"], entry["target"]]
        for end in ends:
            if end.text() not in ids:
                raise end.refuse("the name of a task")
        edges.append((ids[ends[0].value], ids[ends[1].value], entry["size"].number() * bytes_per_unit))
    try:
        return Dataflow.of_edges(ids, cycles, edges)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
