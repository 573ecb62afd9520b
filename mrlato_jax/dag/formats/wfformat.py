"""WfCommons' WfFormat, versions 1.0 to 1.6: recorded runs of scientific workflows.

A task's cycles are its measured run time times a clock, as if the task had kept one core busy. Numbers of cores and
their recorded average use are not read. A task sends the files that it reads and gets back the files that it writes,
each with its recorded size; a file that no task reads is a result. Up to version 1.4, files are within tasks; later
versions list files apart.

Each task that writes a file makes a version of the file. A task that reads the file reads the version of the last
earlier task that writes it. A task that reads and writes a file rewrites it. An `AssumptionWarning` is given where the
record does not determine which version is read, and where values that the model needs are missing.

Source: https://github.com/wfcommons/WfFormat.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections import Counter
from typing import NamedTuple

import numpy as np

from mrlato_jax.dag.dataflow import OUTSIDE, Dataflow, Item
from mrlato_jax.dag.formats.reading import AssumptionWarning, Node, check_count, in_tasks, json_file
from mrlato_jax.dag.task_graph import TaskGraph, smallest_first
from mrlato_jax.errors import InputError, check_number, escaped, shorten

KIND = "a WfFormat file of version 1.0 to 1.6"
# Versions with files within tasks, and their names of the tasks, of a task's seconds and of a file's bytes.
INLINE = {
    "1.0": ("jobs", "runtime", "size"),
    "1.1": ("jobs", "runtime", "size"),
    "1.2": ("jobs", "runtime", "size"),
    "1.3": ("tasks", "runtime", "size"),
    "1.4": ("tasks", "runtimeInSeconds", "sizeInBytes"),
}
VERSIONS = (*INLINE, "1.5", "1.6")
RECORDED = "recorded"
MAX_FILE_BYTES = 64 * 2**20
MHZ = 1e6
MOST_PAIRS = 300_000  # most pairs of writer and reader, over the files that several tasks write


def read_wfformat(path: str | os.PathLike[str], *, machine_hz: float | str, num_tasks: int | None = None) -> TaskGraph:
    """Reads one workflow.

    Args:
        path: the file, UTF-8, at most 64 MiB and a million values.
        machine_hz: clock of the machine that ran the workflow, cycles per second, > 0; or "recorded": the clock that
            the file records for each task's machine (which may be the clock of an idle core when it was queried).
        num_tasks: merge into at most this number of tasks (`Dataflow.coarsened`); by default no merging.

    Raises:
        InputError: there is no such file, the file has a fault (the message names the place and the accepted values),
            or an argument is out of range.

    Warns:
        AssumptionWarning: the file lacks run times, files or edges, several tasks write one file in no order, or sizes
            have no unit; the message says what is assumed.
    """
    return in_tasks(wfformat_dataflow(path, machine_hz=machine_hz), num_tasks, path)


def wfformat_dataflow(path: str | os.PathLike[str], *, machine_hz: float | str) -> Dataflow:
    """Returns the tasks and data that `read_wfformat` reads."""
    if not (isinstance(machine_hz, str) and machine_hz == RECORDED):
        check_number("machine_hz", machine_hz, low=0.0, open_low=True)
    flow, assumed = _dataflow(json_file(path, KIND, MAX_FILE_BYTES), machine_hz)
    if assumed:
        warnings.warn(AssumptionWarning(escaped(f"{path}: {'; '.join(assumed)}")), stacklevel=3)
    return flow


def _dataflow(top: Node, machine_hz: float | str) -> tuple[Dataflow, list[str]]:
    """Returns the workflow and the assumptions."""
    version = top["schemaVersion"]
    if version.value not in VERSIONS:
        raise version.refuse(" or ".join(VERSIONS))
    workflow = top["workflow"]
    entries, seconds, size_in = INLINE.get(version.value, ("tasks", "runtimeInSeconds", "sizeInBytes"))
    ran: dict[str, Node] = {}
    sizes: dict[str, float] = {}
    if version.value in INLINE:
        tasks, machines = workflow[entries].items(), workflow.get("machines")
        check_count(workflow[entries].place, len(tasks))
    else:
        specification, execution = workflow["specification"], workflow["execution"]
        tasks = specification["tasks"].items()
        check_count(specification["tasks"].place, len(tasks))
        ran = _by_id(execution["tasks"], "id")
        machines = execution.get("machines")
        files = specification.get("files")
        sizes = {name: entry[size_in].number() for name, entry in _by_id(files, "id").items()}
    ids: dict[str, int] = {}
    for task in tasks:
        own = task.get("id") or task["name"]
        if own.text() in ids:
            raise own.refuse("a different id for each task")
        ids[own.text()] = len(ids)
    names = [task["name"].text() for task in tasks]
    uses = Counter(names)
    # Parents and children may be given by name.
    known = {name: number for number, name in enumerate(names) if uses[name] == 1} | ids
    clocks = _clocks(machines) if machine_hz == RECORDED else {}
    cycles, after, untimed = [], set(), 0
    writers: dict[str, list[int]] = {}
    readers: dict[str, list[int]] = {}
    for (name, number), task in zip(ids.items(), tasks, strict=True):
        if ran and name not in ran:
            raise InputError(f"{task.place} is {name!r}, which did not run; accepted: a task of execution.tasks")
        record = ran.get(name, task)
        if version.value in INLINE and record.get(seconds) is None:
            untimed += 1
            cycles.append(0.0)
        else:
            hz = _clock(record, clocks) if isinstance(machine_hz, str) else machine_hz
            cycles.append(record[seconds].number() * hz)
        after |= {(parent, number) for parent in _others(task, "parents", known, number)}
        after |= {(number, child) for child in _others(task, "children", known, number)}
        for reads, file, size in _files(task, sizes, size_in):
            if sizes.setdefault(file, size) != size:
                other = sizes[file]
                raise InputError(f"{task.place} has {file!r} with {size} bytes, another {other}; accepted: one size")
            tasks_of_file = (readers if reads else writers).setdefault(file, [])
            if tasks_of_file[-1:] != [number]:
                tasks_of_file.append(number)
    pairs = {file: len(makers) * len(readers.get(file, ())) for file, makers in writers.items() if len(makers) > 1}
    if sum(pairs.values()) > MOST_PAIRS:
        worst = max(pairs, key=pairs.__getitem__)
        raise InputError(
            f"{workflow.place} has {len(writers[worst])} tasks that write {shorten(worst)} and {len(readers[worst])} "
            f"that read it; accepted: at most {MOST_PAIRS} pairs of them, over all files with several writers"
        )
    versions, assumed = _versions(len(ids), writers, readers, after)
    items = [Item(sizes[made.file], made.maker, made.readers, delivered=not made.readers) for made in versions]
    flow = Dataflow(tuple(ids), tuple(cycles), tuple(items), frozenset(after))
    assumed += _gaps(flow, untimed)
    if size_in == "size" and any(sizes.values()):
        assumed.append(
            f"version {version.value} has sizes without a unit; bytes are assumed, as in WfCommons' own conversion; "
            "the schema says KB"
        )
    return flow, assumed


def _gaps(flow: Dataflow, untimed: int) -> list[str]:
    """Returns sentences on the missing values of a workflow and the values assumed for them."""
    total = len(flow.names)
    has_files = {task for item in flow.items for task in (*item.users, item.maker)}
    without = total - len(has_files - {OUTSIDE})
    gaps = []
    if untimed:
        gaps.append(f"{untimed} of {total} tasks have no run time; 0 s are assumed")
    if without:
        gaps.append(f"{without} of {total} tasks have no files; they are assumed to send nothing")
    if total > 1 and not flow.edges:
        gaps.append(f"no edge or file connects the {total} tasks; they are assumed to be independent")
    return gaps


class _Version(NamedTuple):
    """The version of a file that one task makes, or that exists before any task runs."""

    file: str
    maker: int
    readers: frozenset[int]


def _versions(
    num_tasks: int, writers: dict[str, list[int]], readers: dict[str, list[int]], after: set[tuple[int, int]]
) -> tuple[list[_Version], list[str]]:
    """Returns all versions of all files, and the assumptions; adds to `after` the other writers before each reader."""
    rewritten = [
        file for file in sorted(writers) if len(writers[file]) > 1 or set(writers[file]) & set(readers.get(file, ()))
    ]
    versions = [
        _Version(file, writers.get(file, [OUTSIDE])[0], frozenset(readers.get(file, ())))
        for file in sorted({*writers, *readers} - set(rewritten))
    ]
    order = after | {(made.maker, user) for made in versions if made.maker != OUTSIDE for user in made.readers}
    for_reading = {
        (maker, user)
        for file in rewritten
        for user in set(readers.get(file, ())) - set(writers[file])
        for maker in writers[file]
    }
    # A task that only reads a file comes after all tasks that write it, unless the recorded order differs.
    rank, before = _ordered(num_tasks, order | for_reading) or _ordered(num_tasks, order) or ([], [])
    shared, own = [], []
    for file in rewritten if rank else ():  # without ranks there is a cycle, which is refused later
        users: dict[int, set[int]] = {maker: set() for maker in (OUTSIDE, *writers[file])}
        in_order = sorted(writers[file], key=rank.__getitem__)
        for user in readers.get(file, ()):
            earlier = [maker for maker in in_order if before[user] >> maker & 1]
            read = earlier[-1] if earlier else OUTSIDE
            users[read].add(user)
            after |= {(maker, user) for maker in earlier if maker != read and not before[read] >> maker & 1}
        if not all(users[maker] and before[later] >> maker & 1 for maker, later in itertools.pairwise(in_order)):
            shared.append(file)
        if users[OUTSIDE] & set(writers[file]):
            own.append(file)
        versions += [
            _Version(file, maker, frozenset(tasks)) for maker, tasks in users.items() if tasks or maker != OUTSIDE
        ]
    assumed = []
    if shared:
        assumed.append(
            f"several tasks write {_first_of(shared)}; each is assumed to make a file of the recorded size, and each "
            "reader to read the file of the last writer before it"
        )
    if own:
        assumed.append(f"a task reads and writes {_first_of(own)}; the file is assumed to exist before")
    return versions, assumed


def _ordered(num_tasks: int, edges: set[tuple[int, int]]) -> tuple[list[int], list[int]] | None:
    """Returns each task's place in an order and, as bits, all tasks before it by edges; None if there is a cycle."""
    pairs = np.array(sorted(edges), np.int64).reshape(-1, 2)
    order = smallest_first(pairs, np.arange(num_tasks)).tolist()
    if len(order) < num_tasks:
        return None
    parents: list[list[int]] = [[] for _ in range(num_tasks)]
    for parent, child in pairs.tolist():
        parents[child].append(parent)
    rank, before = [0] * num_tasks, [0] * num_tasks
    for place, task in enumerate(order):
        rank[task] = place
        for parent in parents[task]:
            before[task] |= before[parent] | 1 << parent
    return rank, before


def _first_of(files: list[str]) -> str:
    others = f" and {len(files) - 1} other files" if len(files) > 1 else ""
    return f"{shorten(files[0])}{others}"


def _by_id(entries: Node | None, key: str) -> dict[str, Node]:
    """Returns the entries of a list by their ids, which must differ."""
    entries_by_id: dict[str, Node] = {}
    for entry in entries.items() if entries else []:
        if entry[key].text() in entries_by_id:
            raise entry[key].refuse("each id once")
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


def _files(task: Node, sizes: dict[str, float], size_in: str) -> list[tuple[bool, str, float]]:
    """Returns (whether the task reads the file, else writes; name; bytes) for each file of a task."""
    files = []
    inline = task.get("files")
    for entry in inline.items() if inline else []:
        link = entry["link"]
        if link.value not in ("input", "output"):
            raise link.refuse("input or output")
        folder = entry.get("path")
        name = (folder.text() if folder else "") + entry["name"].text()
        files.append((link.value == "input", name, entry[size_in].number()))
    for field in ("inputFiles", "outputFiles"):
        names = task.get(field)
        for entry in names.items() if names else []:
            if entry.text() not in sizes:
                raise entry.refuse("the id of a file of specification.files")
            files.append((field == "inputFiles", entry.value, sizes[entry.value]))
    return files


def _clocks(machines: Node | None) -> dict[str, float]:
    """Returns the recorded clocks in Hz, by machine."""
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
        return next(iter(clocks.values()))  # the only machine ran all tasks
    for machine in named[:1]:
        if machine.text() in clocks:
            return clocks[machine.value]
    raise InputError(f"{record.place} ran on a machine whose clock is not recorded; accepted: machine_hz as a number")
