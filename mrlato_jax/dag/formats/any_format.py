"""Application files of any format, for commands: the format of a file, and the values that the file leaves open."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from mrlato_jax.dag.dataflow import Dataflow
from mrlato_jax.dag.formats.attributed import SCALES
from mrlato_jax.dag.formats.dax import dax_dataflow
from mrlato_jax.dag.formats.dot import read_dot
from mrlato_jax.dag.formats.graphml import read_gml, read_graphml
from mrlato_jax.dag.formats.json_graph import MAX_FILE_BYTES, OURS, READERS, other_kind, read_json
from mrlato_jax.dag.formats.node_link import read_node_link
from mrlato_jax.dag.formats.onnx_model import MAX_SIZE, onnx_dataflow
from mrlato_jax.dag.formats.reading import MissingValuesError, in_tasks, json_file, read_text
from mrlato_jax.dag.formats.saga import saga_dataflow
from mrlato_jax.dag.formats.stg import stg_dataflow
from mrlato_jax.dag.formats.wfformat import RECORDED, wfformat_dataflow
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number, shorten


@dataclasses.dataclass(frozen=True)
class Format:
    """The reader of a format and its options.

    Attributes:
        read: the reader; takes the file, and options by name; returns a `Dataflow` where the file has items of data.
        takes: names of the options; every format also takes `num_tasks`.
        needs: names of the required options.
    """

    read: Callable[..., TaskGraph | Dataflow]
    takes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


FORMATS = {
    "DOT": Format(read_dot, SCALES),
    "GraphML": Format(read_graphml, SCALES),
    "GML": Format(read_gml, SCALES),
    "node-link JSON": Format(read_node_link, SCALES),
    "JSON": Format(read_json),
    "SAGA": Format(saga_dataflow, ("cycles_per_unit", "bytes_per_unit"), ("cycles_per_unit", "bytes_per_unit")),
    "STG": Format(stg_dataflow, ("cycles_per_unit", "bytes_per_unit", "result_bytes"), ("cycles_per_unit",)),
    "WfFormat": Format(wfformat_dataflow, ("machine_hz",), ("machine_hz",)),
    "DAX": Format(dax_dataflow, ("machine_hz",), ("machine_hz",)),
    "ONNX": Format(onnx_dataflow, ("cycles_per_mac", "dimension", "operator_cost"), ("cycles_per_mac",)),
}
ENDINGS = {
    ".dot": "DOT", ".gv": "DOT", ".graphml": "GraphML", ".gml": "GML", ".json": "JSON", ".stg": "STG", ".dax": "DAX",
    ".xml": "XML", ".onnx": "ONNX",
}  # fmt: skip
ROOTS = {"adag": "DAX", "graphml": "GraphML"}  # formats of XML files, by the name of the outermost element
_TABLE = "rows of a table, which say nothing of the bytes between tasks", f"{OURS}, made of one job's rows"
_NETWORK = "a network in another framework's format", "the same network exported as .onnx"
_DRAWN = "a graph that networkx reads", OURS
CONVERTED = {
    ".csv": _TABLE, ".tsv": _TABLE, ".parquet": _TABLE, ".xlsx": _TABLE,
    ".pb": _NETWORK, ".tflite": _NETWORK, ".h5": _NETWORK, ".keras": _NETWORK, ".pt": _NETWORK, ".pth": _NETWORK,
    ".gexf": _DRAWN, ".net": _DRAWN, ".adjlist": _DRAWN, ".edgelist": _DRAWN,
    ".yml": ("a workflow in YAML", "its run as WfFormat (WfCommons converts Pegasus and Nextflow runs)"),
    ".yaml": ("a workflow in YAML", "its run as WfFormat (WfCommons converts Pegasus and Nextflow runs)"),
    ".tgff": ("a graph of TGFF", OURS),
}  # fmt: skip
"""For other endings, the contents of the file and a format to convert it to."""

# The outermost element after declarations and comments. All loops are possessive, so no input causes backtracking.
_ROOT = re.compile(r"(?:[\s\ufeff]++|<\?(?:(?!\?>).)*+\?>|<!--(?:(?!-->).)*+-->)*+<(?:[\w.-]++:)?([\w.-]++)", re.DOTALL)
MOST_BEFORE_ROOT = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class Unsaid:
    """Values that a file leaves open; errors name each value as a command's option.

    Attributes:
        cycles_per_byte: cycles per byte of a graph with sizes in bytes; by default daggen's.
        cycles_per_flop: cycles per FLOP of a graph with sizes in FLOP; by default 1.
        cycles_per_unit: cycles per unit of costs in a file's own units (SAGA, STG, weights of graphs); required there.
        bytes_per_unit: bytes per unit of sizes in a file's own units; required where a file has such sizes.
        result_bytes: bytes of each result of graphs without bytes; required there.
        machine_hz: WfFormat, DAX: clock of the machines of the recorded run, a number, or for WfFormat "recorded";
            required there.
        cycles_per_mac: ONNX: cycles per multiply-accumulate; required there.
        dimension: ONNX: NAME=SIZE or INPUT:AXIS=SIZE for dimensions that the file leaves open.
        operator_cost: ONNX: OPERATOR=MACS for operators whose work is unknown.
        num_tasks: most tasks; the application is merged into at most this number.
    """

    cycles_per_byte: float | None = None
    cycles_per_flop: float | None = None
    cycles_per_unit: float | None = None
    bytes_per_unit: float | None = None
    result_bytes: float | None = None
    machine_hz: str | None = None
    cycles_per_mac: float | None = None
    dimension: tuple[str, ...] = ()
    operator_cost: tuple[str, ...] = ()
    num_tasks: int | None = None

    @classmethod
    def of_options(cls, value: Callable[[str], Any]) -> Self:
        """Takes the values from a command's options of the same names."""
        given = {name: value(name) for name in TAKEN_BY}
        return cls(**{**given, **{name: tuple(given[name]) for name in ("dimension", "operator_cost")}})

    def said(self) -> set[str]:
        """Returns the names of the values that are given."""
        return {name for name in TAKEN_BY if getattr(self, name) not in (None, ())}

    def of(self, kind: str) -> Unsaid:
        """Returns the given values that files of a format take."""
        return Unsaid(**{name: getattr(self, name) for name in self.said() if kind in TAKEN_BY[name]})

    def arguments(self) -> dict[str, Any]:
        """Returns the given values as arguments of readers.

        Raises:
            InputError: a clock, a dimension or a cost has another form.
        """
        given = {name: getattr(self, name) for name in self.said()}
        if given.get("machine_hz", RECORDED) != RECORDED:
            given["machine_hz"] = _number("machine_hz", str(given["machine_hz"]))
        if "dimension" in given:
            given["dimensions"] = sizes_of(given.pop("dimension"))
        if "operator_cost" in given:
            given["operator_costs"] = costs_of(given.pop("operator_cost"))
        return given


TAKEN_BY = {
    field.name: tuple(kind for kind, form in FORMATS.items() if field.name in (*form.takes, "num_tasks"))
    for field in dataclasses.fields(Unsaid)
}
OPTIONS = {"dimensions": "dimension", "operator_costs": "operator_cost"}  # options by the arguments of readers
MOST_DIGITS = 19  # most digits of a size


def read_any(path: Path, unsaid: Unsaid) -> TaskGraph:
    """Reads an application in at most `num_tasks` tasks; raises InputError as `parsed_any`, or as `coarsened`."""
    return in_tasks(parsed_any(path, unsaid), unsaid.num_tasks, path)


def parsed_any(path: Path, unsaid: Unsaid) -> TaskGraph | Dataflow:
    """Reads all tasks of an application with the reader of the file's format; merging a `Dataflow` is exact.

    Raises:
        InputError: the ending is unknown, a required value is missing, a value is given that the format does not take,
            or as the readers.
    """
    kind, said = kind_of(path), unsaid.said()
    for name in sorted(said):
        if kind not in TAKEN_BY[name]:
            raise InputError(
                f"--{name} is given with {path.name}, {kind}; accepted: with {' or '.join(TAKEN_BY[name])}"
            )
    missing = [f"--{name}" for name in FORMATS[kind].needs if name not in said]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise InputError(
            f"{' and '.join(missing)} {verb} missing; accepted: a number > 0, which {path.name}, {kind}, does not say"
        )
    given = unsaid.arguments()
    given.pop("num_tasks", None)
    try:
        return FORMATS[kind].read(path, **given)
    except MissingValuesError as error:
        raise error.in_words(f"--{OPTIONS[error.argument]}={{}}") from None


def kind_of(path: Path) -> str:
    """Returns the format of a file, a key of `FORMATS`.

    Raises:
        InputError: the ending or the contents are unknown.
    """
    ending = path.suffix.lower()
    if ending in CONVERTED:
        contents, instead = CONVERTED[ending]
        raise InputError(f"file is {path}, {contents}; accepted: {instead}")
    kind = ENDINGS.get(ending)
    if kind is None:
        *most, last = ENDINGS
        raise InputError(f"file is {path}; accepted: a file that ends in {', '.join(most)} or {last}, or {OURS}")
    if kind == "XML":
        root = _ROOT.match(read_text(path, "an XML file", MOST_BEFORE_ROOT))
        if root is None or root[1] not in ROOTS:
            raise InputError(
                f"{path}: is no XML of {' or '.join(f'<{name}>' for name in ROOTS)}; accepted: DAX, GraphML"
            )
        return ROOTS[root[1]]
    if kind == "JSON":
        value = json_file(path, "a JSON file", MAX_FILE_BYTES).value
        other = other_kind(value) if isinstance(value, dict) else None
        return other if other in READERS else kind
    return kind


def sizes_of(texts: Sequence[str]) -> dict[str, int]:
    """Returns the sizes of dimensions in an option's texts; raises InputError for another form."""
    sizes: dict[str, int] = {}
    for text in texts:
        name, _, size = text.rpartition("=")
        if not name or not size.isdecimal() or len(size) > MOST_DIGITS or name in sizes:
            raise InputError(f"--dimension is {shorten(text)}; accepted: NAME=SIZE with an integer, each NAME once")
        check_number(f"--dimension={name}", int(size), low=1, high=MAX_SIZE, integer=True)
        sizes[name] = int(size)
    return sizes


def costs_of(texts: Sequence[str]) -> dict[str, float]:
    """Returns the costs of operators in an option's texts; raises InputError for another form."""
    costs: dict[str, float] = {}
    for text in texts:
        name, _, cost = text.rpartition("=")
        if not name or name in costs:
            raise InputError(f"--operator_cost is {shorten(text)}; accepted: OPERATOR=MACS, each OPERATOR once")
        costs[name] = _number(f"operator_cost={name}", cost)
        check_number(f"--operator_cost={name}", costs[name], low=0.0)
    return costs


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"--{name} is {text!r}; accepted: a number") from None
