"""Text files of the Standard Task Graph Set: tasks in units of processing time.

    2
    0 0 0
    1 4 1 0
    2 3 1 1
    3 0 1 2

The first line has the number of tasks. Each other line has a task: its number, its processing time, the number of its
parents, and its parents. The first and the last task take no time. These dummies stand for the user, who gives the
inputs of tasks without parents and gets the results of tasks without children. In files with communication costs, a
line ends with the number of parents, and a line `task cost` follows for each parent.

Source: https://www.kasahara.cs.waseda.ac.jp/schedule/format_e.html.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator

from mrlato_jax.dag.dataflow import OUTSIDE, Dataflow
from mrlato_jax.dag.formats.reading import check_count, in_tasks, number_of, read_text
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number, shorten

KIND = "a file of the Standard Task Graph Set"
MAX_FILE_BYTES = 16 * 2**20
MAX_NUMBERS = 400_000  # reading takes a second or two


def read_stg(
    path: str | os.PathLike[str],
    *,
    cycles_per_unit: float,
    result_bytes: float | None = None,
    bytes_per_unit: float | None = None,
    num_tasks: int | None = None,
) -> TaskGraph:
    """Reads one application without the two dummies; tasks have their numbers as names.

    Args:
        path: the file, UTF-8, at most 16 MiB and 400,000 numbers.
        cycles_per_unit: CPU cycles per unit of processing time, > 0.
        result_bytes: bytes of each result, and of the input of tasks without parents, >= 0; required for files without
            communication costs.
        bytes_per_unit: bytes per unit of communication cost, >= 0; required for files with communication costs.
        num_tasks: merge into at most this number of tasks (`Dataflow.coarsened`); by default no merging.

    Raises:
        InputError: there is no such file; the file has a fault (the message names the line and the accepted values); or
            an argument is out of range, missing, or not taken by the file.
    """
    flow = stg_dataflow(path, cycles_per_unit=cycles_per_unit, result_bytes=result_bytes, bytes_per_unit=bytes_per_unit)
    return in_tasks(flow, num_tasks, path)


def stg_dataflow(
    path: str | os.PathLike[str],
    *,
    cycles_per_unit: float,
    result_bytes: float | None = None,
    bytes_per_unit: float | None = None,
) -> Dataflow:
    """Returns the tasks and data that `read_stg` reads."""
    check_number("cycles_per_unit", cycles_per_unit, low=0.0, open_low=True)
    for name, value in (("result_bytes", result_bytes), ("bytes_per_unit", bytes_per_unit)):
        if value is not None:
            check_number(name, value, low=0.0)
    times, edges = _parsed(read_text(path, KIND, MAX_FILE_BYTES), str(path))
    costs = [cost for _, _, cost in edges if cost is not None]
    if 0 < len(costs) < len(edges):
        raise InputError(
            f"{path}: has communication costs for {len(costs)} of {len(edges)} edges; accepted: for all or none"
        )
    size, other = (bytes_per_unit, result_bytes) if costs else (result_bytes, bytes_per_unit)
    if size is None or other is not None:
        article, needed = ("", "bytes_per_unit") if costs else ("no ", "result_bytes")
        raise InputError(f"{path}: has {article}communication costs; accepted: only {needed} for the bytes of edges")
    last = len(times) - 1
    names = [str(task) for task in range(1, last)]
    cycles = [time * cycles_per_unit for time in times[1:-1]]
    task = {number: number - 1 for number in range(1, last)}  # task id by number, without the dummies
    try:
        if costs:
            sized = [
                (task.get(parent, OUTSIDE), task.get(child, OUTSIDE), (cost or 0.0) * size)
                for parent, child, cost in edges
                if parent in task or child in task
            ]
            return Dataflow.of_edges(names, cycles, sized)
        inner = [(task[parent], task[child]) for parent, child, _ in edges if parent in task and child in task]
        return Dataflow.of_results(names, cycles, inner, size)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _parsed(text: str, path: str) -> tuple[list[float], list[tuple[int, int, float | None]]]:
    """Returns the times of all tasks, with dummies, and edges (parent, child, communication cost or None)."""
    lines = _lines(text, path)
    number, words = next(lines, (1, []))
    if len(words) != 1:
        raise InputError(f"{path}: line {number} has {len(words)} words; accepted: one, the number of tasks of {KIND}")
    count = _integer(words[0], f"{path}: line {number}: the number of tasks")
    check_count(path, count)
    times: list[float] = []
    edges: list[tuple[int, int, float | None]] = []
    for number, words in lines:
        place = f"{path}: line {number}"
        task = len(times)
        if len(words) < 3 or _integer(words[0], f"{place}: task") != task or task > count + 1:
            raise InputError(
                f"{place} is {shorten(' '.join(words))}; accepted: tasks 0 to {count + 1} in order, each with its time,"
                " the number of its parents, and its parents"
            )
        before = _integer(words[2], f"{place}: the number of parents")
        times.append(_time(words[1], place))
        if before != len(words) - 3 and len(words) > 3:
            raise InputError(f"{place} names {len(words) - 3} parents of {task}; accepted: {before}, as it states")
        pairs: list[tuple[str, str, float | None]] = [(place, word, None) for word in words[3:]]
        if before and not pairs:
            pairs = list(_costs(lines, before, place))
        for place, word, cost in pairs:
            parent = _integer(word, f"{place}: a parent of {task}")
            if parent > count or task == 0:
                raise InputError(
                    f"{place}: task {parent} is a parent of {task}; accepted: 0 to {count}, and no parents of 0"
                )
            edges.append((parent, task, cost))
    if len(times) != count + 2 or times[0] or times[-1]:
        raise InputError(
            f"{path}: has {len(times)} tasks; accepted: {count}, as it states, and a first and a last task without time"
        )
    return times, edges


def _lines(text: str, path: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the number and the words of each line that is not empty and no comment."""
    left = MAX_NUMBERS
    for number, line in enumerate(io.StringIO(text), start=1):
        words = line.split()
        if words and not words[0].startswith("#"):
            left -= len(words)
            if left < 0:
                raise InputError(f"{path}: has more than {MAX_NUMBERS} numbers; accepted: a smaller graph")
            yield number, words


def _costs(lines: Iterator[tuple[int, list[str]]], count: int, place: str) -> Iterator[tuple[str, str, float | None]]:
    """Yields place, task and communication cost of `count` lines."""
    path = place.rpartition(": line")[0]
    for _ in range(count):
        number, words = next(lines, (0, []))
        if len(words) != 2:
            raise InputError(
                f"{place} names none of {count} parents; accepted: the parents in the line, or {count} lines after it"
            )
        yield f"{path}: line {number}", words[0], _time(words[1], f"{path}: line {number}")


def _integer(word: str, place: str) -> int:
    if not (word.isascii() and word.isdecimal() and len(word) <= 9):
        raise InputError(f"{place} is {shorten(word)}; accepted: an integer >= 0")
    return int(word)


def _time(word: str, place: str) -> float:
    number = number_of(word)
    if number is None or number < 0:
        raise InputError(f"{place}: a cost is {shorten(word)}; accepted: a finite number >= 0")
    return number
