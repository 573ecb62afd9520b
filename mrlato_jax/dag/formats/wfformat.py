"""WfCommons' WfFormat, versions 1.4 to 1.6: recorded runs of scientific workflows.

A task's cycles are its measured run time at a clock, as if it had kept one core busy: times on several cores, and the
recorded average use of them, are not read. It sends the files that it reads and gets back those that it writes, each at
its recorded size; a file that nothing reads is a result. Version 1.4 has files within tasks, later ones apart.

Source: https://github.com/wfcommons/WfFormat.
"""

from __future__ import annotations

import os
from collections import Counter

from mrlato_jax.dag.dataflow import OUTSIDE, Dataflow, Item
from mrlato_jax.dag.formats.reading import Node, check_count, json_file
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number

KIND = "a WfFormat file of version 1.4, 1.5 or 1.6"
VERSIONS = ("1.4", "1.5", "1.6")
RECORDED = "recorded"
MAX_FILE_BYTES = 64 * 2**20
MHZ = 1e6


def read_wfformat(path: str | os.PathLike[str], *, machine_hz: float | str, num_tasks: int | None = None) -> TaskGraph:
    """Reads one workflow.

    Args:
        path: the file, UTF-8, at most 64 MiB and a million values.
        machine_hz: clock of the machine that it ran on, cycles per second, > 0; or "recorded": of each task's machine,
            what the file says (which may be what an idle core was clocked at as it was asked).
        num_tasks: coarsen to at most so many (`Dataflow.coarsened`); by default all tasks as they are.

    Raises:
        InputError: no such file, or naming the place in it and what is accepted there; or an argument out of range.
    """
    if not (isinstance(machine_hz, str) and machine_hz == RECORDED):
        check_number("machine_hz", machine_hz, low=0.0, open_low=True)
    flow = _dataflow(json_file(path, KIND, MAX_FILE_BYTES), machine_hz)
    try:
        return (flow if num_tasks is None else flow.coarsened(num_tasks)).to_task_graph()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _dataflow(top: Node, machine_hz: float | str) -> Dataflow:
    version = top["schemaVersion"]
    if version.value not in VERSIONS:
        raise version.refuse(" or ".join(VERSIONS))
    workflow = top["workflow"]
    if version.value == VERSIONS[0]:
        tasks, machines = workflow["tasks"].items(), workflow.get("machines")
        ran: dict[str, Node] = {}
        check_count(workflow["tasks"].place, len(tasks))
        sizes: dict[str, float] = {}
    else:
        specification, execution = workflow["specification"], workflow["execution"]
        tasks = specification["tasks"].items()
        check_count(specification["tasks"].place, len(tasks))
        ran = _by_id(execution["tasks"], "id")
        machines = execution.get("machines")
        files = specification.get("files")
        sizes = {name: entry["sizeInBytes"].number() for name, entry in _by_id(files, "id").items()}
    ids: dict[str, int] = {}
    for task in tasks:
        own = task.get("id") or task["name"]
        if own.text() in ids:
            raise own.refuse("an id of its own for each task")
        ids[own.text()] = len(ids)
    names = [task["name"].text() for task in tasks]
    uses = Counter(names)
    known = {name: number for number, name in enumerate(names) if uses[name] == 1} | ids  # links may be by name
    clocks = _clocks(machines) if machine_hz == RECORDED else {}
    cycles, after = [], set()
    makers: dict[str, int] = {}
    users: dict[str, set[int]] = {}
    for (name, number), task in zip(ids.items(), tasks, strict=True):
        if ran and name not in ran:
            raise InputError(f"{task.place} is {name!r}, which has not run; accepted: a task of execution.tasks")
        record = ran.get(name, task)
        hz = _clock(record, clocks) if isinstance(machine_hz, str) else machine_hz
        cycles.append(record["runtimeInSeconds"].number() * hz)
        after |= {(parent, number) for parent in _others(task, "parents", known, number)}
        after |= {(number, child) for child in _others(task, "children", known, number)}
        for reads, file, size in _files(task, sizes):
            if sizes.setdefault(file, size) != size:
                there = sizes[file]
                raise InputError(f"{task.place} has {file!r} at {size} bytes, another at {there}; accepted: one size")
            if reads:
                users.setdefault(file, set()).add(number)
            elif makers.setdefault(file, number) != number:
                raise InputError(
                    f"{task.place} writes {file!r}, which another task writes, too; accepted: one writer of each file"
                )
    items = []
    for file in sorted({*makers, *users}):
        readers = frozenset(users.get(file, ())) - {makers.get(file, OUTSIDE)}
        items.append(Item(sizes[file], makers.get(file, OUTSIDE), readers, delivered=not readers))
    return Dataflow(tuple(ids), tuple(cycles), tuple(items), frozenset(after))


def _by_id(entries: Node | None, key: str) -> dict[str, Node]:
    """Entries of a list by their ids; none twice."""
    entries_by_id: dict[str, Node] = {}
    for entry in entries.items() if entries else []:
        if entry[key].text() in entries_by_id:
            raise entry[key].refuse("each once")
        entries_by_id[entry[key].value] = entry
    return entries_by_id


def _others(task: Node, field: str, known: dict[str, int], own: int) -> list[int]:
    entries = task.get(field)
    ids = []
    for entry in entries.items() if entries else []:
        if known.get(entry.text(), own) == own:
            raise entry.refuse("the id of another task")
        ids.append(known[entry.value])
    return ids


def _files(task: Node, sizes: dict[str, float]) -> list[tuple[bool, str, float]]:
    """What a task reads (True) and writes, and how large it is."""
    files = []
    inline = task.get("files")
    for entry in inline.items() if inline else []:
        link = entry["link"]
        if link.value not in ("input", "output"):
            raise link.refuse("input or output")
        files.append((link.value == "input", entry["name"].text(), entry["sizeInBytes"].number()))
    for field in ("inputFiles", "outputFiles"):
        names = task.get(field)
        for entry in names.items() if names else []:
            if entry.text() not in sizes:
                raise entry.refuse("the id of a file of specification.files")
            files.append((field == "inputFiles", entry.value, sizes[entry.value]))
    return files


def _clocks(machines: Node | None) -> dict[str, float]:
    """Hz by machine, of those whose clock is recorded."""
    clocks = {}
    for name, machine in _by_id(machines, "nodeName").items():
        cpu = machine.get("cpu")
        speed = cpu and (cpu.get("speedInMHz") or cpu.get("speed"))
        if speed:
            if not speed.number():
                raise speed.refuse("a number > 0")
            clocks[name] = speed.number() * MHZ
    return clocks


def _clock(record: Node, clocks: dict[str, float]) -> float:
    one, several = record.get("machine"), record.get("machines")
    named = [one] if one else several.items() if several else []
    if not named and len(clocks) == 1:
        return next(iter(clocks.values()))  # all that ran ran there
    for machine in named[:1]:
        if machine.text() in clocks:
            return clocks[machine.value]
    raise InputError(f"{record.place} ran on a machine whose clock is not recorded; accepted: machine_hz as a number")
