"""Any `TaskGraph` as an application: its tasks use their cycles of processor time and send their bytes.

A result begins with a mark that depends on the task and on the marks of its parents. So a wrong or missing result shows
in the returned results.
"""

from __future__ import annotations

import hashlib
import time

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.edge.application import Application, Call, Constant, Program, Result, Several
from mrlato_jax.errors import check_number, check_type

MARK_BYTES = 8

app = Application("dag")


@app.task
def burn(task: int, seconds: float, size: int, inputs: list[bytes]) -> bytes:
    """Uses `seconds` of processor time and returns `size` bytes.

    Args:
        task: id of the task, part of its mark.
        seconds: processor time at the full clock of the machine.
        size: bytes of the result, at least `MARK_BYTES`.
        inputs: results of the parents, or one input with their common mark.
    """
    until = time.process_time() + seconds
    result = marked(hashlib.sha256(task.to_bytes(8) + common_mark(inputs)).digest(), size)
    while time.process_time() < until:
        pass
    return result


def common_mark(inputs: list[bytes]) -> bytes:
    """Combines the marks of several inputs; a single mark is returned unchanged."""
    mark = 0
    for entry in inputs:
        mark ^= int.from_bytes(entry[:MARK_BYTES])
    return mark.to_bytes(MARK_BYTES)


def marked(mark: bytes, size: int) -> bytes:
    """Returns `size` bytes that begin with a mark."""
    return mark[:MARK_BYTES].ljust(max(MARK_BYTES, size), b"\0")


def program_of(graph: TaskGraph, machine_hz: float) -> Program:
    """Converts a DAG to a program that returns the results of the tasks without children.

    Args:
        graph: the DAG.
        machine_hz: full clock of the machines: a task uses its cycles divided by this clock. A slower machine has a
            quota of processor time.

    Raises:
        InputError: the clock is not a positive number.
    """
    check_type("graph", graph, TaskGraph)
    check_number("machine_hz", machine_hz, low=0.0, open_low=True)
    calls = []
    for task in range(graph.num_tasks):
        parents = tuple(Result(int(parent)) for parent in graph.parents(task))
        constants = (
            Constant(task),
            Constant(float(graph.cycles[task]) / machine_hz),
            Constant(round(float(graph.download_bytes[task]))),
        )
        fills = round(float(graph.upload_bytes[task]))
        calls.append(Call(graph.names[task], "burn", (*constants, Several(parents)), graph.pins[task], fills))
    parents_of_others = set(graph.edges[:, 0].tolist())
    last = tuple(Result(task) for task in range(graph.num_tasks) if task not in parents_of_others)
    return Program(app.name, tuple(calls), (), Several(last))


def marks(graph: TaskGraph) -> list[bytes]:
    """Computes the mark of each task's result without running the tasks."""
    known: dict[int, bytes] = {}
    for task in graph.topological_order().tolist():
        common = common_mark([known[int(parent)] for parent in graph.parents(task)])
        known[task] = hashlib.sha256(task.to_bytes(8) + common).digest()[:MARK_BYTES]
    return [known[task] for task in range(graph.num_tasks)]
