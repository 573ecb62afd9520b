"""Graphs whose nodes and edges have attributes: DOT, GraphML, GML and networkx's node-link JSON.

The names of the attributes say what they mean. The first line of `CONVENTIONS` whose attributes all occur in a graph is
how it is read:

    nodes                                 edges    what they are
    cycles, upload_bytes, download_bytes           the costs of a `TaskGraph`
    size, expect_size                              bytes up and down, as MRLCO's daggen writes; cycles = size x
                                                   cycles_per_byte
    cycles                                bytes    bytes that pass along each edge
    size                                  size     FLOP and bytes, as daggen's own --dot writes and SimGrid reads;
                                                   cycles = size x cycles_per_flop
    weight                                weight   units of work and of data, as SAGA has them; cycles_per_unit and
                                                   bytes_per_unit say how large these are

A graph with cycles of its nodes alone is read where `result_bytes` says how large each result is. Where edges have the
bytes, a task's download is the results that it passes on, and its upload those that are passed to it; tasks without
parents send nothing then. A node's `pin` says where a task must run. All other attributes are left out.
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
_MOST_NAMED = 6  # attributes, in a message


@dataclasses.dataclass(frozen=True)
class Scales:
    """What the numbers of such a graph leave to be said; a graph takes what its convention names.

    Attributes:
        cycles_per_byte: CPU cycles for a byte of `size`, > 0.
        cycles_per_flop: CPU cycles for a FLOP of `size`, > 0.
        cycles_per_unit: CPU cycles for a unit of a node's `weight`, > 0.
        bytes_per_unit: bytes for a unit of an edge's `weight`, >= 0.
        result_bytes: bytes of each task's result, and of the input of tasks without parents, >= 0.

    Raises:
        InputError: a number out of range.
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
        """Names of what differs from its default."""
        return [field.name for field in dataclasses.fields(self) if getattr(self, field.name) != field.default]


SCALES = tuple(field.name for field in dataclasses.fields(Scales))


@dataclasses.dataclass(frozen=True)
class Convention:
    """Which attributes say what.

    Attributes:
        words: the attributes, for messages.
        cycles: a node's, from which cycles are computed.
        cycles_scale: of `Scales`, cycles for one of it; none where it is cycles.
        upload: a node's, bytes; none where edges have them.
        download: likewise.
        passed: an edge's, from which bytes are computed; none where nodes have them.
        passed_scale: of `Scales`, bytes for one of it; none where it is bytes.
        order_only: whether an edge without bytes, or with fewer than 0, is an order without data.
        edgeless: a node's, by which the convention is known where a graph has no edges; none: it is not then.
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
        """Whether all of its attributes are among these; None for edges: there are none."""
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
    for found in CONVENTIONS
    for name in (found.cycles, found.upload, found.download, found.passed, found.edgeless, "pin", "name")
}
_MOST_OTHERS = 16  # attributes that defaults have beside these: many, at many nodes, would fill the memory


def set_defaults(defaults: dict[str, str], values: Mapping[str, str]) -> None:
    """Updates what elements have that state nothing, so that it stays small: others than are read only while few."""
    for name, value in values.items():
        if name in _READ or name in defaults or len(defaults) < _MOST_OTHERS:
            defaults[name] = value


@dataclasses.dataclass(frozen=True)
class AttributedGraph:
    """A directed graph as a file has it.

    Attributes:
        path: of the file, for messages.
        nodes: attributes by the node's id, in the order of tasks.
        edges: (parent, child, attributes) by the ids of nodes that are there.
        node_place: where in the file a node is, for messages; by default its id.
        edge_place: where the edge of that number is; by default its ends.
        name_attributes: whose values are the tasks' names, where all nodes have one and all differ; else ids are.
    """

    path: str
    nodes: Mapping[str, Mapping[str, Any]]
    edges: Sequence[tuple[str, str, Mapping[str, Any]]]
    node_place: Callable[[str], str] | None = None
    edge_place: Callable[[int], str] | None = None
    name_attributes: tuple[str, ...] = ()

    def to_task_graph(self, scales: Scales) -> TaskGraph:
        """The application, by the convention that the graph follows.

        Raises:
            InputError: attributes that are none of a convention, or are missing, or of wrong values; scales that are
                missing or not taken; or a graph that is no `TaskGraph`.
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
                    f"{self.path}: {name} is {getattr(scales, name)}, which is not taken where a graph has "
                    f"{convention.words}; accepted: {', '.join(sorted(map(str, takes))) or 'nothing to be said'}"
                )
        for name in sorted(map(str, takes)):
            if getattr(scales, name) is None and (self.edges or name != convention.passed_scale):
                more = "" if name != "result_bytes" else ", or bytes of every edge"
                raise InputError(
                    f"{self.path}: has {convention.words}, and {name} is missing; accepted: a number for {name}{more}"
                )

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
        if pin in ("true", "false", True, False):  # Graphviz's own: whether a node may be moved
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
    return 0.0 if value is None else float(value)  # None where no edge needs it


def _names_of(elements: Iterable[Mapping[str, Any]]) -> set[str]:
    return {name for values in elements for name in values}


def _listed(names: set[str]) -> str:
    """Some of the names, for a message."""
    shown = [shorten(name, 20) for name in sorted(names)[:_MOST_NAMED]]
    return ", ".join(shown + ["..."] * (len(names) > _MOST_NAMED)) or "no attributes"
