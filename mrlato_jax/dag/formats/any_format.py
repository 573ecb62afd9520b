"""Application files of any format, for commands: which format a file has, and what it leaves to be said."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from mrlato_jax.dag.formats.dot import read_dot
from mrlato_jax.dag.formats.json_graph import MAX_FILE_BYTES, read_json
from mrlato_jax.dag.formats.onnx_model import MAX_SIZE, read_onnx
from mrlato_jax.dag.formats.reading import MissingValuesError, json_file
from mrlato_jax.dag.formats.wfformat import RECORDED, read_wfformat
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number, shorten

DAGGEN_CYCLES_PER_BYTE = 1000.0
TAKEN_BY = {
    "cycles_per_byte": ("DOT",),
    "machine_hz": ("WfFormat",),
    "cycles_per_mac": ("ONNX",),
    "dimension": ("ONNX",),
    "operator_cost": ("ONNX",),
    "num_tasks": ("DOT", "JSON", "WfFormat", "ONNX"),
}
OPTIONS = {"dimensions": "dimension", "operator_costs": "operator_cost"}  # by the arguments of readers
MOST_DIGITS = 19  # of a size


@dataclasses.dataclass(frozen=True)
class Unsaid:
    """What a file does not say of its application; errors call each as a command's option.

    Attributes:
        cycles_per_byte: DOT: of its sizes; by default daggen's.
        machine_hz: WfFormat: clock of the machines that it was recorded on, a number or "recorded"; required there.
        cycles_per_mac: ONNX: cycles for a multiply-accumulate; required there.
        dimension: ONNX: NAME=SIZE or INPUT:AXIS=SIZE, of dimensions that the file leaves open.
        operator_cost: ONNX: OPERATOR=MACS, of operators whose work is not known.
        num_tasks: coarsened to at most so many.
    """

    cycles_per_byte: float | None = None
    machine_hz: str | None = None
    cycles_per_mac: float | None = None
    dimension: tuple[str, ...] = ()
    operator_cost: tuple[str, ...] = ()
    num_tasks: int | None = None

    @classmethod
    def of_options(cls, value: Callable[[str], Any]) -> Self:
        """From a command's options, by their names."""
        given = {name: value(name) for name in TAKEN_BY}
        return cls(**{**given, **{name: tuple(given[name]) for name in ("dimension", "operator_cost")}})

    def said(self) -> set[str]:
        """Names of what is said after all."""
        return {name for name in TAKEN_BY if getattr(self, name) not in (None, ())}

    def of(self, kind: str) -> Unsaid:
        """What files of that format take of it."""
        return Unsaid(**{name: getattr(self, name) for name in self.said() if kind in TAKEN_BY[name]})


def read_any(path: Path, unsaid: Unsaid) -> TaskGraph:
    """The application, by its file's ending.

    Raises:
        InputError: an ending that is not known, what its format needs and is not said or does not take and is, or as
            the readers.
    """
    kind, said = kind_of(path), unsaid.said()
    for name in sorted(said):
        if kind not in TAKEN_BY[name]:
            raise InputError(
                f"--{name} is given with {path.name}, {kind}; accepted: with {' or '.join(TAKEN_BY[name])}"
            )
    if kind == "DOT":
        size_in_cycles = DAGGEN_CYCLES_PER_BYTE if unsaid.cycles_per_byte is None else unsaid.cycles_per_byte
        return _coarsened(read_dot(path, cycles_per_byte=size_in_cycles), unsaid)
    if kind == "JSON":
        return _coarsened(read_json(path), unsaid)
    needed = {"WfFormat": "machine_hz", "ONNX": "cycles_per_mac"}[kind]
    if needed not in said:
        raise InputError(f"--{needed} is missing; accepted: a number > 0, which {path.name}, {kind}, does not say")
    if kind == "WfFormat":
        clock = RECORDED if unsaid.machine_hz == RECORDED else _number("machine_hz", str(unsaid.machine_hz))
        return read_wfformat(path, machine_hz=clock, num_tasks=unsaid.num_tasks)
    assert unsaid.cycles_per_mac is not None
    try:
        return read_onnx(
            path,
            cycles_per_mac=unsaid.cycles_per_mac,
            num_tasks=unsaid.num_tasks,
            dimensions=sizes_of(unsaid.dimension),
            operator_costs=costs_of(unsaid.operator_cost),
        )
    except MissingValuesError as error:
        raise error.in_words(f"--{OPTIONS[error.argument]}={{}}") from None


def sizes_of(texts: Sequence[str]) -> dict[str, int]:
    """The sizes of dimensions that an option says; raises InputError for another form."""
    sizes: dict[str, int] = {}
    for text in texts:
        name, _, size = text.rpartition("=")
        if not name or not size.isdecimal() or len(size) > MOST_DIGITS or name in sizes:
            raise InputError(f"--dimension is {shorten(text)}; accepted: NAME=SIZE with an integer, each NAME once")
        check_number(f"--dimension={name}", int(size), low=1, high=MAX_SIZE, integer=True)
        sizes[name] = int(size)
    return sizes


def costs_of(texts: Sequence[str]) -> dict[str, float]:
    """The costs of operators that an option says; raises InputError for another form."""
    costs: dict[str, float] = {}
    for text in texts:
        name, _, cost = text.rpartition("=")
        if not name or name in costs:
            raise InputError(f"--operator_cost is {shorten(text)}; accepted: OPERATOR=MACS, each OPERATOR once")
        costs[name] = _number(f"operator_cost={name}", cost)
        check_number(f"--operator_cost={name}", costs[name], low=0.0)
    return costs


def _coarsened(graph: TaskGraph, unsaid: Unsaid) -> TaskGraph:
    return graph if unsaid.num_tasks is None else graph.coarsened(unsaid.num_tasks)


def kind_of(path: Path) -> str:
    """The format of a file: DOT, ONNX, JSON (ours) or WfFormat.

    Raises:
        InputError: an unknown ending, or a file that ends in .json and holds no JSON.
    """
    kind = {".dot": "DOT", ".gv": "DOT", ".onnx": "ONNX", ".json": "JSON"}.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"file is {path}; accepted: a file that ends in .dot, .gv, .json or .onnx")
    return "WfFormat" if kind == "JSON" and "schemaVersion" in _keys(path) else kind


def _keys(path: Path) -> Sequence[str]:
    value = json_file(path, "a JSON file", MAX_FILE_BYTES).value
    return list(value) if isinstance(value, dict) else []


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--{name} is {text!r}; accepted: a number") from None
