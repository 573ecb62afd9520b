"""Application files of any format, for commands: which format a file has, and what it leaves to be said."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from mrlato_jax.dag.formats.dot import read_dot
from mrlato_jax.dag.formats.json_graph import MAX_FILE_BYTES, read_json
from mrlato_jax.dag.formats.onnx_model import read_onnx
from mrlato_jax.dag.formats.reading import json_file
from mrlato_jax.dag.formats.wfformat import RECORDED, read_wfformat
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError

DAGGEN_CYCLES_PER_BYTE = 1000.0
TAKEN_BY = {
    "cycles_per_byte": ("DOT",),
    "machine_hz": ("WfFormat",),
    "cycles_per_mac": ("ONNX",),
    "dimension": ("ONNX",),
    "num_tasks": ("WfFormat", "ONNX"),
}


@dataclasses.dataclass(frozen=True)
class Unsaid:
    """What a file does not say of its application; errors call each as a command's option.

    Attributes:
        cycles_per_byte: DOT: of its sizes; by default daggen's.
        machine_hz: WfFormat: clock of the machines that it was recorded on, a number or "recorded"; required there.
        cycles_per_mac: ONNX: cycles for a multiply-accumulate; required there.
        dimension: ONNX: NAME=SIZE, of dimensions known by name.
        num_tasks: WfFormat, ONNX: coarsened to at most so many.
    """

    cycles_per_byte: float | None = None
    machine_hz: str | None = None
    cycles_per_mac: float | None = None
    dimension: tuple[str, ...] = ()
    num_tasks: int | None = None

    @classmethod
    def of_options(cls, value: Callable[[str], Any]) -> Self:
        """From a command's options, by their names."""
        given = {name: value(name) for name in TAKEN_BY}
        return cls(**{**given, "dimension": tuple(given["dimension"])})

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
        return read_dot(path, cycles_per_byte=size_in_cycles)
    if kind == "JSON":
        return read_json(path)
    needed = {"WfFormat": "machine_hz", "ONNX": "cycles_per_mac"}[kind]
    if needed not in said:
        raise InputError(f"--{needed} is missing; accepted: a number > 0, which {path.name}, {kind}, does not say")
    if kind == "WfFormat":
        clock = RECORDED if unsaid.machine_hz == RECORDED else _number("machine_hz", str(unsaid.machine_hz))
        return read_wfformat(path, machine_hz=clock, num_tasks=unsaid.num_tasks)
    assert unsaid.cycles_per_mac is not None
    dimensions: dict[str, int] = {}
    for text in unsaid.dimension:
        name, _, size = text.partition("=")
        if not size.isdecimal() or name in dimensions:
            raise InputError(f"--dimension is {text!r}; accepted: NAME=SIZE with an integer, each NAME once")
        dimensions[name] = int(size)
    return read_onnx(path, cycles_per_mac=unsaid.cycles_per_mac, num_tasks=unsaid.num_tasks, dimensions=dimensions)


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
