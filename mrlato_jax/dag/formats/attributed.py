"""Graphs whose nodes and edges have attributes: DOT, GraphML, GML and networkx's node-link JSON.

The names of the attributes determine their meaning. A graph is read by the first row of `CONVENTIONS` whose attributes
all occur in the graph:

    nodes                                 edges    meaning
    cycles, upload_bytes, download_bytes           the costs of a `TaskGraph`
    size, expect_size                              bytes up and down, as MRLCO's daggen writes; cycles = size x
                                                   cycles_per_byte
    cycles                                bytes    bytes that pass along each edge
    size                                  size     FLOP and bytes, as daggen's own --dot writes and SimGrid reads;
                                                   cycles = size x cycles_per_flop
    weight                                weight   units of work and of data, as in SAGA; cycles_per_unit and
                                                   bytes_per_unit give the size of a unit

A graph whose nodes have only cycles is read with `result_bytes`, the size of each result. Where edges have the bytes, a
task's download is the results that it passes on, and its upload is the results that it gets; then tasks without parents
send nothing. A node's `pin` says where a task must run. All other attributes are ignored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mrlato_jax.dag.dataflow import Dataflow
from mrlato_jax.dag.formats.reading import check_count, number_of
from mrlato_jax.dag.task_graph import PINS, TaskGraph
from mrlato_jax.errors import InputError, check_number, shorten

DAGGEN_CYCLES_PER_BYTE = 1000.0
_MOST_NAMED = 6  # most attributes that a message names


@dataclasses.dataclass(frozen=True)
class Scales:
    """Scales of a graph's numbers. A graph takes the scales that its convention names.

    Attributes:
        cycles_per_byte: CPU cycles per byte of `size`, > 0.
        cycles_per_flop: CPU cycles per FLOP of `size`, > 0.
        cycles_per_unit: CPU cycles per unit of a node's `weight`, > 0.
        bytes_per_unit: bytes per unit of an edge's `weight`, >= 0.
        result_bytes: bytes of each task's result, and of the input of tasks without parents, >= 0.

    Raises:
        InputError: a number is out of range.
    """

    cycles_per_byte: float = DAGGEN_CYCLES_PER_BYTE
    cycles_per_flop: float = 1.0
    cycles_per_unit: float | None = None
    bytes_per_unit: float | None = None
    result_bytes: float | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                check_number(field.name, value, low=0.0, open_low=field.name.startswith("cycles"))

    def said(self) -> list[str]:
        """Returns the names of the scales that differ from their defaults."""
        return [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]


SCALES = tuple(field.name for field in dataclasses.fields(Scales))


@dataclasses.dataclass(frozen=True)
class Convention:
    """The meaning of attributes.

    Attributes:
        words: the attributes, for messages.
        cycles: attribute of nodes that gives the cycles.
        cycles_scale: field of `Scales`, cycles per unit of `cycles`; None where the unit is cycles.
        upload: attribute of nodes, bytes of the upload; None where edges have the bytes.
        download: attribute of nodes, bytes of the download; None where edges have the bytes.
        passed: attribute of edges that gives the bytes; None where nodes have the bytes.
        passed_scale: field of `Scales`, bytes per unit of `passed`; None where the unit is bytes.
        order_only: whether an edge without bytes, or with fewer than 0, is an order without data.
        edgeless: attribute of nodes that identifies the convention in a graph without edges; None: the convention does
            not apply to such graphs.
    """

    words: str
    cycles: str
    cycles_scale: str | None = None
    upload: str | None = None
    download: str | None = None
    passed: str | None = None
    passed_scale: str | None = None
    order_only: bool = False
    edgeless: str | None = None

    def occurs(self, of_nodes: set[str], of_edges: set[str] | None) -> bool:
        """Returns whether all attributes of the convention are among these; None: the graph has no edges."""
        if not {self.cycles, self.upload, self.download} - {None} <= of_nodes:
            return False
        return self.passed is None or (self.edgeless in of_nodes if of_edges is None else self.passed in of_edges)


CONVENTIONS = (
    Convention(
        "cycles, upload_bytes and download_bytes of every node",
        cycles="cycles", upload="upload_bytes", download="download_bytes",
    ),
    Convention(
        "size and expect_size (bytes) of every node",
        cycles="size", cycles_scale="cycles_per_byte", upload="size", download="expect_size",
    ),
    Convention("cycles of every node and bytes of every edge", cycles="cycles", passed="bytes"),
    Convention(
        "size of every node (FLOP) and of edges (bytes)",
        cycles="size", cycles_scale="cycles_per_flop", passed="size", order_only=True, edgeless="alpha",
    ),
    Convention(
        "weight of every node and edge",
        cycles="weight", cycles_scale="cycles_per_unit", passed="weight", passed_scale="bytes_per_unit",
        edgeless="weight",
    ),
)  # fmt: skip
WITHOUT_BYTES = Convention("cycles of every node", cycles="cycles")
_READ = {
    name
    for row in CONVENTIONS
    for name in (row.cycles, row.upload, row.download, row.passed, row.edgeless, "pin", "name")
}
_MOST_OTHERS = 16  # most other attributes of defaults: many attributes at many nodes would fill the memory


def set_defaults(defaults: dict[str, str], values: Mapping[str, str]) -> None:
    """Updates default attributes; of the attributes that no convention reads, keeps only a few."""
    for name, value in values.items():
        if name in _READ or name in defaults or len(defaults) < _MOST_OTHERS:
            defaults[name] = value


@dataclasses.dataclass(frozen=True)
class AttributedGraph:
    """A directed graph with the attributes of its file.

    Attributes:
        path: path of the file, for messages.
        nodes: attributes by the node's id, in the order of tasks.
        edges: (parent, child, attributes) by the ids of existing nodes.
        node_place: returns a node's place in the file, for messages; by default its id.
        edge_place: returns the place of an edge by its number; by default its ends.
        name_attributes: attributes whose values become the tasks' names, if all nodes have one and all differ; else ids
            are the names.
    """

    path: str
    nodes: Mapping[str, Mapping[str, Any]]
    edges: Sequence[tuple[str, str, Mapping[str, Any]]]
    node_place: Callable[[str], str] | None = None
    edge_place: Callable[[int], str] | None = None
    name_attributes: tuple[str, ...] = ()

    def to_task_graph(self, scales: Scales) -> TaskGraph:
        """Returns the application, read by the graph's convention.

        Raises:
            InputError: attributes fit no convention, are missing or have wrong values; scales are missing or not taken
                by the convention; or `TaskGraph` refuses the graph.
        """
        check_count(self.path, len(self.nodes))
        convention = self._convention()
        self._check_scales(convention, scales)
        pins = [self._pin(node) for node in self.nodes]
        cycles = self._costs(convention, convention.cycles, _factor(convention.cycles_scale, scales))
        index = {node: task for task, node in enumerate(self.nodes)}
        edges = [(index[parent], index[child]) for parent, child, _ in self.edges]
        names = self._names()
        columns = [self._costs(convention, name) for name in (convention.upload, convention.download) if name]
        passed = self._passed(convention, _factor(convention.passed_scale, scales)) if convention.passed else []
        try:
            if columns:
                upload, download = columns
                return TaskGraph.from_edges(
                    cycles=cycles, upload_bytes=upload, download_bytes=download, edges=sorted(set(edges)), names=names,
                    pins=pins,
                )  # fmt: skip
            if convention.passed:
                sized = ((*ends, size) for ends, size in zip(edges, passed, strict=True))
                flow = Dataflow.of_edges(names, cycles, sized)
            else:
                flow = Dataflow.of_results(names, cycles, edges, scales.result_bytes or 0.0)
            return dataclasses.replace(flow.to_task_graph(), pins=tuple(pins))
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None

    def _convention(self) -> Convention:
        of_nodes, of_edges = _names_of(self.nodes.values()), _names_of(edge[2] for edge in self.edges)
        for convention in (*CONVENTIONS, WITHOUT_BYTES):
            if convention.occurs(of_nodes, of_edges if self.edges else None):
                return convention
        raise InputError(
            f"{self.path}: nodes have {_listed(of_nodes)}, edges {_listed(of_edges)}; accepted: "
            + "; ".join(convention.words for convention in CONVENTIONS)
        )

    def _check_scales(self, convention: Convention, scales: Scales) -> None:
        takes = {convention.cycles_scale, convention.passed_scale} - {None}
        if convention is WITHOUT_BYTES:
            takes = {"result_bytes"}
        for name in scales.said():
            if name not in takes:
                raise InputError(
                    f"{self.path}: {name} is {getattr(scales, name)}, which does not apply to a graph with "
                    f"{convention.words}; accepted: {', '.join(sorted(map(str, takes))) or 'no such argument'}"
                )
        for name in sorted(map(str, takes)):
            if getattr(scales, name) is None and (self.edges or name != convention.passed_scale):
                more = ""
                if name == "result_bytes":
                    more = f", upload_bytes and download_bytes of every node, or bytes of every edge{self._not_read()}"
                raise InputError(
                    f"{self.path}: has {convention.words}, and {name} is missing; accepted: a number for {name}{more}"
                )

    def _not_read(self) -> str:
        """Returns a note of the attributes that a graph with cycles alone has beside them; some may be misspelt."""
        of_nodes = _names_of(self.nodes.values()) - {WITHOUT_BYTES.cycles, "pin", "name", "label"}
        of_edges = _names_of(edge[2] for edge in self.edges)
        notes = [f"{_listed(names)} of {what}" for what, names in (("nodes", of_nodes), ("edges", of_edges)) if names]
        return f" (not read: {'; '.join(notes)})" if notes else ""

    def _names(self) -> list[str]:
        for attribute in self.name_attributes:
            names = [values.get(attribute) for values in self.nodes.values()]
            texts = [name for name in names if isinstance(name, str) and name]
            if len(set(texts)) == len(names):
                return texts
        return list(self.nodes)

    def _costs(self, convention: Convention, attribute: str, factor: float = 1.0) -> list[float]:
        costs = []
        for node, values in self.nodes.items():
            if attribute not in values:
                found = f"{attribute} is missing" if values else f"node {shorten(node)} has no attributes"
                raise InputError(f"{self._node_at(node)}: {found}; accepted: {convention.words}")
            number = number_of(values[attribute])
            if number is None or number < 0:
                found = f"{attribute} is {shorten(values[attribute])}"
                raise InputError(f"{self._node_at(node)}: {found}; accepted: a finite number >= 0")
            costs.append(number * factor)
        return costs

    def _passed(self, convention: Convention, factor: float) -> list[float | None]:
        attribute = str(convention.passed)
        sizes: list[float | None] = []
        for place, (_, _, values) in enumerate(self.edges):
            if attribute not in values:
                if not convention.order_only:
                    raise InputError(f"{self._edge_at(place)}: {attribute} is missing; accepted: {convention.words}")
                sizes.append(None)
                continue
            number = number_of(values[attribute])
            if number is None or (number < 0 and not convention.order_only):
                raise InputError(
                    f"{self._edge_at(place)}: {attribute} is {shorten(values[attribute])}; accepted: a finite number"
                )
            sizes.append(None if number < 0 else number * factor)
        return sizes

    def _pin(self, node: str) -> str:
        pin = self.nodes[node].get("pin", PINS[0])
        if pin in ("true", "false", True, False):  # Graphviz's own meaning: whether a node may be moved
            return PINS[0]
        if pin not in PINS:
            raise InputError(f"{self._node_at(node)}: pin is {shorten(pin)}; accepted: {', '.join(PINS)}")
        return str(pin)

    def _node_at(self, node: str) -> str:
        return self.node_place(node) if self.node_place else f"{self.path}: node {shorten(node)}"

    def _edge_at(self, number: int) -> str:
        if self.edge_place:
            return self.edge_place(number)
        parent, child, _ = self.edges[number]
        return f"{self.path}: edge {shorten(parent)} -> {shorten(child)}"


def _factor(name: str | None, scales: Scales) -> float:
    value = 1.0 if name is None else getattr(scales, name)
    return 0.0 if value is None else float(value)  # None where no edge needs the scale


def _names_of(elements: Iterable[Mapping[str, Any]]) -> set[str]:
    return {name for values in elements for name in values}


def _listed(names: set[str]) -> str:
    """Returns some of the names, for a message."""
    shown = [shorten(name, 20) for name in sorted(names)[:_MOST_NAMED]]
    return ", ".join(shown + ["..."] * (len(names) > _MOST_NAMED)) or "no attributes"
