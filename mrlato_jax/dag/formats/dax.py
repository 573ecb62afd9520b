"""Pegasus DAX: workflows in XML whose jobs state run times and files, as those of the workflow generator do.

A task's cycles are its run time times a clock. A task sends the files that it reads and gets back the files that it
writes; a file that no job reads is a result. The size of a file is the size that its writer states, since published
files state other sizes at readers. For a file that no job writes, each reader's own size counts. Several jobs that
write files of one name write different files; a job reads the files of its parents.

Source: https://pegasus.isi.edu/schema/dax-2.1.xsd; published files: the workflow generator's Montage, CyberShake,
Epigenomics, Inspiral and Sipht.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from mrlato_jax.dag.dataflow import OUTSIDE, Dataflow, Item
from mrlato_jax.dag.formats.reading import check_count, in_tasks, local_name, number_of, xml_file
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number, shorten

KIND = "a Pegasus DAX file"
MAX_FILE_BYTES = 64 * 2**20
MAX_READS = 300_000  # reading takes a second or two
_READS, _WRITES = ("input", "inout"), ("output", "inout")


def read_dax(path: str | os.PathLike[str], *, machine_hz: float, num_tasks: int | None = None) -> TaskGraph:
    """Reads one workflow; tasks have the ids of their jobs as names, in the file's order.

    Args:
        path: the file, UTF-8, at most 64 MiB and a million tags, without a DOCTYPE.
        machine_hz: clock of the machine that `runtime` was measured on, cycles per second, > 0.
        num_tasks: merge into at most this number of tasks (`Dataflow.coarsened`); by default no merging.

    Raises:
        InputError: there is no such file, the file has a fault (the message names the job or file and the accepted
            values), or an argument is out of range.
    """
    return in_tasks(dax_dataflow(path, machine_hz=machine_hz), num_tasks, path)


def dax_dataflow(path: str | os.PathLike[str], *, machine_hz: float) -> Dataflow:
    """Returns the tasks and data that `read_dax` reads."""
    check_number("machine_hz", machine_hz, low=0.0, open_low=True)
    root = xml_file(path, KIND, MAX_FILE_BYTES)
    try:
        return _dataflow(root, machine_hz)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _dataflow(root: Element, machine_hz: float) -> Dataflow:
    if local_name(root) != "adag":
        raise InputError(f"is <{local_name(root)}>; accepted: <adag>, {KIND}")
    for element in root:
        if local_name(element) in ("dag", "dax"):
            raise InputError(f"holds <{local_name(element)}>, a workflow within; accepted: jobs")
    jobs = _named(root, "job")
    check_count("the workflow", len(jobs))
    ids: dict[str, int] = {}
    for job in jobs:
        name = _attribute(job, "id", "a <job>")
        if name in ids:
            raise InputError(f"job {shorten(name)} stands twice; accepted: each id once")
        ids[name] = len(ids)
    cycles = [
        _number(job, "runtime", f"job {shorten(name)}", "seconds of the recorded run") * machine_hz
        for name, job in zip(ids, jobs, strict=True)
    ]
    after = set(_order(root, ids))
    return Dataflow(tuple(ids), tuple(cycles), tuple(_items(jobs, list(ids), after)), frozenset(after))


def _order(root: Element, ids: dict[str, int]) -> Iterator[tuple[int, int]]:
    """Yields the stated pairs (parent, child) of jobs."""
    for child in _named(root, "child"):
        for parent in _named(child, "parent"):
            ends = _attribute(parent, "ref", "a <parent>"), _attribute(child, "ref", "a <child>")
            for end in ends:
                if end not in ids:
                    raise InputError(f"ref is {shorten(end)}; accepted: the id of a job")
            if ends[0] == ends[1]:
                raise InputError(f"job {shorten(ends[0])} is its own parent; accepted: two different jobs")
            yield ids[ends[0]], ids[ends[1]]


def _items(jobs: list[Element], ids: list[str], after: set[tuple[int, int]]) -> list[Item]:
    """Returns the files; each has one writer or comes from outside."""
    sizes: dict[tuple[str, int], float] = {}  # by file and writer
    writers: dict[str, set[int]] = {}
    readers: list[tuple[int, str, float]] = []
    for task, job in enumerate(jobs):
        for use in _named(job, "uses"):
            file, place = use.get("file") or use.get("name"), f"job {shorten(ids[task])}"
            if not file:
                raise InputError(f"{place} uses a file without a name; accepted: file or name")
            link = use.get("link")
            if link not in (*_READS, *_WRITES, "none"):
                raise InputError(f"{place} has {shorten(file)} with link {shorten(link)}; accepted: input or output")
            size = 0.0 if link == "none" else _number(use, "size", f"{place}: file {shorten(file)}", "bytes")
            if link in _WRITES and (file, task) not in sizes:
                writers.setdefault(file, set()).add(task)
                sizes[file, task] = size
            if link in _READS:
                readers.append((task, file, size))
    users: dict[tuple[str, int, float], set[int]] = {(*key, size): set() for key, size in sizes.items()}
    parents: dict[int, set[int]] = {}
    for parent, child in after:
        parents.setdefault(child, set()).add(parent)
    reads = 0
    for task, file, size in readers:
        made_by = writers.get(file, set())
        others = len(made_by) - (task in made_by)
        makers = made_by & parents.get(task, set()) if others > 1 else made_by - {task}
        if others > 1 and not makers:
            raise InputError(
                f"job {shorten(ids[task])} reads {shorten(file)}, which {others} jobs write; accepted: one of them as"
                " its parent"
            )
        reads += len(makers)
        if reads > MAX_READS:
            raise InputError(f"jobs read more than {MAX_READS} files of others; accepted: a smaller workflow")
        for writer in makers:
            users[file, writer, sizes[file, writer]].add(task)
        if not makers:
            users.setdefault((file, OUTSIDE, size), set()).add(task)
    return [
        Item(size, writer, frozenset(tasks), delivered=writer != OUTSIDE and not tasks)
        for (_, writer, size), tasks in users.items()
    ]


def _named(element: Element, name: str) -> list[Element]:
    return [child for child in element if local_name(child) == name]


def _attribute(element: Element, name: str, place: str) -> str:
    value = element.get(name)
    if not value:
        raise InputError(f"{place} lacks {name}; accepted: an element with {name}")
    return value


def _number(element: Element, name: str, place: str, unit: str) -> float:
    number = number_of(element.get(name, "")) if name in element.attrib else None
    if number is None or number < 0:
        found = shorten(element.get(name)) if name in element.attrib else "missing"
        raise InputError(f"{place}: {name} is {found}; accepted: a number >= 0, {unit}")
    return number
