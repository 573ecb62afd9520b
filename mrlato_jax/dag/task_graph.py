"""The record of one application: a directed acyclic graph of tasks.

An edge (parent, child) says that the child needs the parent's result. Costs are in SI units: CPU cycles and bytes.
Nothing here knows a system: clocks and rates belong to `mrlato_jax.mec`.
"""

from __future__ import annotations

import dataclasses
import heapq
import operator
from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from mrlato_jax.dag.coarsening import names_of, parts, sums, traffic_by_task
from mrlato_jax.errors import InputError, check_choice, shorten

if TYPE_CHECKING:
    import networkx as nx  # at run time where it is used: a fifth of this package's import

_COSTS = ("cycles", "upload_bytes", "download_bytes")
PINS = ("any", "ue", "server")  # where a task may run
_TASKS_NAMED = 8  # at most so many tasks of a cycle are named in a message


@dataclasses.dataclass(frozen=True, eq=False)
class TaskGraph:
    """A DAG of n tasks (ids 0..n-1) with m edges. Equal by value, hashable, its arrays read-only.

    The constructor takes anything `numpy.asarray` turns into the stated shapes, copies it and checks all of it.

    Attributes:
        cycles: float64[n], CPU cycles of each task (paper III-C: C_i), finite and >= 0.
        upload_bytes: float64[n], bytes sent to the edge server when a task is offloaded (send_i), finite and >= 0.
        download_bytes: float64[n], bytes of its result sent back (recv_i), finite and >= 0.
        edges: int64[m, 2], rows (parent, child) in lexicographic order, each once.
        names: n distinct strings; the ids as strings where a graph is given without names.
        pins: n of "any", "ue" (the task runs on the UE alone: a camera, a screen, private data) and "server" (on a
            server alone: its code or model is only there); by default "any".

    Raises:
        InputError: for a wrong dtype, shape or range, an edge to a missing task, a self-loop, a repeated edge, a
            cycle (its tasks are named), names that are not n distinct strings, or unknown pins.
    """

    cycles: NDArray[np.float64]
    upload_bytes: NDArray[np.float64]
    download_bytes: NDArray[np.float64]
    edges: NDArray[np.int64]
    names: tuple[str, ...]
    pins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in _COSTS:
            object.__setattr__(self, field, _cost_vector(field, getattr(self, field)))
        for field in _COSTS[1:]:
            if len(getattr(self, field)) != self.num_tasks:
                raise InputError(
                    f"{field} has {len(getattr(self, field))} values; accepted: one per task, as cycles has"
                    f" ({self.num_tasks})"
                )
        object.__setattr__(self, "names", _check_names(self.names, self.num_tasks))
        object.__setattr__(self, "pins", _check_pins(self.pins, self.num_tasks))
        object.__setattr__(self, "edges", _edge_array(self.edges, self.num_tasks))
        if len(self.topological_order()) < self.num_tasks:
            cycle = [self.names[task] for task in _find_cycle(self.edges, self._kahn)]
            path = " -> ".join(shorten(name) for name in cycle[:_TASKS_NAMED])
            path += " -> ..." if len(cycle) > _TASKS_NAMED else f" -> {shorten(cycle[0])}"
            raise InputError(f"edges hold a cycle of {len(cycle)} tasks: {path}; accepted: a graph without cycles")

    @classmethod
    def from_edges(
        cls,
        *,
        cycles: Any,
        upload_bytes: Any,
        download_bytes: Any,
        edges: Any,
        names: Iterable[str] | None = None,
        pins: Iterable[str] = (),
    ) -> Self:
        """Builds a graph from per-task costs and (parent, child) pairs in any order.

        Args:
            cycles: n numbers, CPU cycles.
            upload_bytes: n numbers, bytes.
            download_bytes: n numbers, bytes.
            edges: m pairs of task ids: an int[m, 2] array or an iterable of pairs; may be empty.
            names: n distinct strings, by default the ids.
            pins: n of "any", "ue" and "server"; by default every task may run anywhere.

        Raises:
            InputError: as the class says.
        """
        if names is None:
            names = map(str, range(len(_cost_vector("cycles", cycles))))
        elif isinstance(names, str) or not isinstance(names, Iterable):
            raise InputError(f"names is {shorten(names)}; accepted: distinct strings, one per task")
        if isinstance(pins, str) or not isinstance(pins, Iterable):
            raise InputError(f"pins is {shorten(pins)}; accepted: one of {', '.join(PINS)} for each task")
        return cls(cycles, upload_bytes, download_bytes, edges, tuple(names), tuple(pins))

    @property
    def num_tasks(self) -> int:
        """Number of tasks n, at least 1."""
        return len(self.cycles)

    @cached_property
    def is_pinned(self) -> bool:
        """Whether any task may not run everywhere."""
        return any(pin != PINS[0] for pin in self.pins)

    @cached_property
    def adjacency(self) -> NDArray[np.bool_]:
        """bool[n, n], true at [parent, child]; read-only."""
        adjacency = np.zeros((self.num_tasks, self.num_tasks), dtype=bool)
        adjacency[self.edges[:, 0], self.edges[:, 1]] = True
        return _read_only(adjacency)

    def parents(self, task: int) -> NDArray[np.int64]:
        """Ascending ids of the tasks whose results `task` needs."""
        return self.edges[self.edges[:, 1] == check_index("task", task, self.num_tasks), 0]

    def children(self, task: int) -> NDArray[np.int64]:
        """Ascending ids of the tasks that need the result of `task`."""
        return self.edges[self.edges[:, 0] == check_index("task", task, self.num_tasks), 1]

    def topological_order(self) -> NDArray[np.int64]:
        """int64[n], every parent before its children: repeatedly the smallest id whose parents are all placed."""
        return self._kahn

    def coarsened(self, num_tasks: int) -> Self:
        """The same work in at most `num_tasks` tasks; tasks of different pins stay apart.

        A graph has bytes by task, so that what merged tasks need not send is an assumption. A task's result, its
        `download_bytes`, is one piece of data: all children need it, and the user does where there are none. What a
        task with parents sends are their results, all of each where its `upload_bytes` suffice, and else the same
        share of each; what is left over comes from the UE. Tasks that are merged send a result once that they take
        whole. Files of workflows and networks say which task uses what: `num_tasks=` of their readers assumes nothing.

        How tasks are merged is that of `Dataflow.coarsened`: without cycles, even, with few bytes between them. A
        merged task is called after the first of its tasks.

        Args:
            num_tasks: at least 1; a graph of no more tasks stays as it is.

        Raises:
            InputError: a number below 1, or one of fewer tasks than pins allow; a graph that is too large.
        """
        traffic = traffic_by_task(self.upload_bytes, self.download_bytes, self.edges)
        merged = parts(self.cycles, self.edges, traffic, num_tasks, self.pins)
        if len(merged) == self.num_tasks:
            return self
        home = np.empty(self.num_tasks, np.int64)
        for number, part in enumerate(merged):
            home[part] = number
        upload_bytes, download_bytes = traffic.bytes_of(home)
        edges = np.unique(home[self.edges], axis=0)
        return type(self)(
            sums(home, self.cycles, len(merged)),
            upload_bytes,
            download_bytes,
            edges[edges[:, 0] != edges[:, 1]],
            names_of(self.names, merged),
            tuple(self.pins[part[0]] for part in merged),
        )

    def to_networkx(self) -> nx.DiGraph:
        """A DiGraph on nodes 0..n-1 with attributes cycles, upload_bytes, download_bytes, name, and the pin if any."""
        import networkx as nx

        graph = nx.DiGraph()
        rows = zip(*(getattr(self, field).tolist() for field in _COSTS), self.names, strict=True)
        graph.add_nodes_from((task, dict(zip((*_COSTS, "name"), row, strict=True))) for task, row in enumerate(rows))
        for task, pin in enumerate(self.pins):
            if pin != PINS[0]:
                graph.nodes[task]["pin"] = pin
        graph.add_edges_from(self.edges.tolist())
        return graph

    @classmethod
    def from_networkx(cls, graph: nx.DiGraph) -> Self:
        """Builds a graph from a DiGraph whose nodes carry cycles, upload_bytes and download_bytes.

        The order of the nodes in `graph` gives the ids. A task's name is its node's attribute `name` where there is
        one (so that `to_networkx` loses nothing), else the node itself as a string; its pin is the attribute `pin`,
        else "any".

        Raises:
            InputError: if `graph` is no DiGraph, a node lacks an attribute, or the graph is none the class accepts.
        """
        import networkx as nx

        if not isinstance(graph, nx.DiGraph) or graph.is_multigraph():
            raise InputError(f"graph is {shorten(graph)}; accepted: a networkx.DiGraph")
        for node, attributes in graph.nodes.items():
            missing = [field for field in _COSTS if field not in attributes]
            if missing:
                raise InputError(f"node {shorten(node)} lacks {', '.join(missing)}; accepted: {', '.join(_COSTS)}")
        ids = {node: task for task, node in enumerate(graph.nodes)}
        return cls.from_edges(
            **{field: [attributes[field] for attributes in graph.nodes.values()] for field in _COSTS},
            edges=[(ids[parent], ids[child]) for parent, child in graph.edges],
            names=[attributes.get("name", str(node)) for node, attributes in graph.nodes.items()],
            pins=[attributes.get("pin", PINS[0]) for attributes in graph.nodes.values()],
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TaskGraph):
            return NotImplemented
        return (self.names, self.pins) == (other.names, other.pins) and all(
            np.array_equal(getattr(self, field), getattr(other, field)) for field in (*_COSTS, "edges")
        )

    def __hash__(self) -> int:
        return hash((self.names, self.pins, *(getattr(self, field).tobytes() for field in (*_COSTS, "edges"))))

    def __reduce__(self) -> tuple[Any, ...]:
        # Through the constructor: a plain copy or unpickling would give writable, unchecked arrays.
        return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    @cached_property
    def _kahn(self) -> NDArray[np.int64]:
        if (self.edges[:, 0] < self.edges[:, 1]).all():
            return _read_only(np.arange(self.num_tasks))  # already topological: the smallest ready id is the next one
        return _read_only(smallest_first(self.edges, np.arange(self.num_tasks)))


def levels(graph: TaskGraph) -> NDArray[np.int64]:
    """int64[n], the most edges on a way to each task."""
    level, children = [0] * graph.num_tasks, children_of(graph)
    for task in graph.topological_order().tolist():
        for child in children[task]:
            level[child] = max(level[child], level[task] + 1)
    return np.array(level, np.int64)


def children_of(graph: TaskGraph) -> list[list[int]]:
    """Of every task the ascending ids of those that need its result."""
    children: list[list[int]] = [[] for _ in range(graph.num_tasks)]
    for parent, child in graph.edges.tolist():
        children[parent].append(child)
    return children


def check_index(field: str, value: Any, size: int) -> int:
    """`value`, a Python or numpy integer in [0, size), as an int; raises InputError for anything else."""
    try:
        index = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        index = -1
    if not 0 <= index < size:
        raise InputError(f"{field} is {shorten(value)}; accepted: an integer in [0, {size - 1}]")
    return index


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


def _number_array(field: str, values: Any, kinds: str, accepted: str) -> NDArray[Any]:
    """`values` as an array whose dtype is of one of `kinds`; an empty one may have any dtype."""
    try:
        array = np.asarray(values)
        # numpy reads [1, True] as two integers; an array's own dtype says what its values are.
        has_bool = not hasattr(values, "__array__") and any(
            isinstance(value, (bool, np.bool_)) for value in np.asarray(values, dtype=object).flat
        )
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{field} is {shorten(values)}; accepted: {accepted}") from None
    if has_bool or (array.size and array.dtype.kind not in kinds):
        type_found = "bool" if has_bool else array.dtype
        raise InputError(f"{field} has values of type {type_found} ({shorten(values)}); accepted: {accepted}")
    return array


def _cost_vector(field: str, values: Any) -> NDArray[np.float64]:
    """A checked read-only copy of `values`."""
    accepted = "a vector of finite numbers >= 0, one per task"
    array = _number_array(field, values, "iuf", accepted)
    if array.ndim != 1 or not array.size:
        raise InputError(f"{field} has shape {array.shape}; accepted: {accepted} (at least one task)")
    with np.errstate(over="ignore"):  # a long double beyond float64 becomes inf, and is refused as such
        costs = array.astype(np.float64) + 0.0  # -0.0 becomes 0.0, so that equal graphs have equal bytes
    wrong = ~(np.isfinite(costs) & (costs >= 0))
    if wrong.any():
        task = int(np.argmax(wrong))
        raise InputError(f"{field}[{task}] is {costs[task]}; accepted: a finite number >= 0")
    return _read_only(costs)


def _check_names(names: Any, num_tasks: int) -> tuple[str, ...]:
    if not isinstance(names, tuple) or len(names) != num_tasks:
        raise InputError(f"names is {shorten(names)}; accepted: {num_tasks} distinct strings, one per task")
    seen: set[str] = set()
    for task, name in enumerate(names):
        if not isinstance(name, str):
            raise InputError(f"names[{task}] is {shorten(name)}; accepted: a string")
        if name in seen:
            raise InputError(f"names[{task}] is {shorten(name)}, used before; accepted: distinct strings")
        seen.add(name)
    return names


def _check_pins(pins: Any, num_tasks: int) -> tuple[str, ...]:
    if pins == ():
        return (PINS[0],) * num_tasks
    if not isinstance(pins, tuple) or len(pins) != num_tasks:
        raise InputError(f"pins is {shorten(pins)}; accepted: {num_tasks} of {', '.join(PINS)}, one per task")
    for task, pin in enumerate(pins):
        check_choice(f"pins[{task}]", pin, PINS)
    return pins


def _edge_array(values: Any, num_tasks: int) -> NDArray[np.int64]:
    """A checked, sorted, read-only copy of `values`."""
    accepted = f"(parent, child) pairs of integers in [0, {num_tasks - 1}]"
    if isinstance(values, Iterable) and not isinstance(values, (str, bytes)) and not hasattr(values, "__array__"):
        values = list(values)  # a set, a generator, a networkx edge view
    array = _number_array("edges", values, "iu", accepted)
    if array.shape == (0,):
        array = array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2:
        raise InputError(f"edges has shape {array.shape}; accepted: {accepted}")
    outside = ((array < 0) | (array >= num_tasks)).any(axis=1)
    if outside.any():
        row = int(np.argmax(outside))
        raise InputError(f"edges[{row}] is {tuple(array[row].tolist())}, a missing task; accepted: {accepted}")
    edges = array.astype(np.int64)
    loops = edges[:, 0] == edges[:, 1]
    if loops.any():
        row = int(np.argmax(loops))
        raise InputError(f"edges[{row}] is {tuple(edges[row].tolist())}, a self-loop; accepted: two different tasks")
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
    repeated = (edges[1:] == edges[:-1]).all(axis=1)
    if repeated.any():
        pair = tuple(edges[int(np.argmax(repeated))].tolist())
        raise InputError(f"edges hold {pair} more than once; accepted: each edge once")
    return _read_only(edges)


def smallest_first(edges: NDArray[np.int64], keys: NDArray[Any]) -> NDArray[np.int64]:
    """Kahn's algorithm with a heap: of the tasks whose parents are placed, the one of smallest key, then smallest id.

    Args:
        edges: int64[m, 2], rows (parent, child) in lexicographic order.
        keys: [n], one for each task.

    Returns:
        int64[n] task ids, fewer if there is a cycle. O(m + n log n).
    """
    num_tasks, keys = len(keys), keys.tolist()
    starts = np.searchsorted(edges[:, 0], np.arange(num_tasks + 1)).tolist()
    children = edges[:, 1].tolist()
    waiting = np.bincount(edges[:, 1], minlength=num_tasks).tolist()
    ready = [(keys[task], task) for task, parents in enumerate(waiting) if not parents]
    heapq.heapify(ready)
    order = []
    while ready:
        _, task = heapq.heappop(ready)
        order.append(task)
        for child in children[starts[task] : starts[task + 1]]:
            waiting[child] -= 1
            if not waiting[child]:
                heapq.heappush(ready, (keys[child], child))
    return np.array(order, dtype=np.int64)


def _find_cycle(edges: NDArray[np.int64], placed: NDArray[np.int64]) -> list[int]:
    """The tasks of one cycle in the direction of its edges; `placed` are those that Kahn's algorithm could order."""
    left = edges[~np.isin(edges, placed).any(axis=1)]
    # Every task left over has a parent that is left over, so walking up must come back to a task seen before.
    parent_of = dict(left[:, ::-1].tolist())
    task = next(iter(parent_of))
    walk: dict[int, int] = {}
    while task not in walk:
        walk[task] = len(walk)
        task = parent_of[task]
    return list(walk)[walk[task] :][::-1]
