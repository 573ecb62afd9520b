"""The record of one application: a directed acyclic graph (DAG) of tasks.

An edge (parent, child) means that the child needs the parent's result. Costs are in CPU cycles and bytes. Clocks and
rates belong to the system, in `mrlato_jax.mec`.
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
    import networkx as nx  # functions import it when they run, since it is a fifth of this package's import time

_COSTS = ("cycles", "upload_bytes", "download_bytes")
PINS = ("any", "ue", "server")  # where a task may run
_TASKS_NAMED = 8  # most tasks of a cycle that a message names


@dataclasses.dataclass(frozen=True, eq=False)
class TaskGraph:
    """A DAG of n tasks (ids 0..n-1) with m edges. Equal by value and hashable; its arrays are read-only.

    The constructor takes values that `numpy.asarray` turns into the stated shapes, copies them and checks them.

    Attributes:
        cycles: float64[n], CPU cycles of each task (paper III-C: C_i), finite and >= 0.
        upload_bytes: float64[n], bytes sent to the edge server when a task is offloaded (send_i), finite and >= 0.
        download_bytes: float64[n], bytes of its result sent back (recv_i), finite and >= 0.
        edges: int64[m, 2], rows (parent, child) in lexicographic order, each once.
        names: n distinct strings; by default the ids.
        pins: n strings: "any", "ue" (the task runs only on the UE: a camera, a screen, private data) or "server" (only
            on a server: its code or model is only there); by default "any".

    Raises:
        InputError: a dtype, shape or range is wrong; an edge names a missing task, is a self-loop or is repeated; there
            is a cycle (the message names its tasks); names are not n distinct strings; or a pin is unknown.
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
        """Builds a graph from costs by task and (parent, child) pairs in any order.

        Args:
            cycles: n numbers, CPU cycles.
            upload_bytes: n numbers, bytes.
            download_bytes: n numbers, bytes.
            edges: m pairs of task ids: an int[m, 2] array or an iterable of pairs; may be empty.
            names: n distinct strings; by default the ids.
            pins: n strings "any", "ue" or "server"; by default every task may run anywhere.

        Raises:
            InputError: as `TaskGraph`.
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
        """Whether any task has a pin other than "any"."""
        return any(pin != PINS[0] for pin in self.pins)

    @cached_property
    def adjacency(self) -> NDArray[np.bool_]:
        """bool[n, n], true at [parent, child]; read-only."""
        adjacency = np.zeros((self.num_tasks, self.num_tasks), dtype=bool)
        adjacency[self.edges[:, 0], self.edges[:, 1]] = True
        return _read_only(adjacency)

    def parents(self, task: int) -> NDArray[np.int64]:
        """Returns the ascending ids of the tasks whose results `task` needs."""
        return self.edges[self.edges[:, 1] == check_index("task", task, self.num_tasks), 0]

    def children(self, task: int) -> NDArray[np.int64]:
        """Returns the ascending ids of the tasks that need the result of `task`."""
        return self.edges[self.edges[:, 0] == check_index("task", task, self.num_tasks), 1]

    def topological_order(self) -> NDArray[np.int64]:
        """Returns int64[n], every parent before its children; the smallest id whose parents are placed comes next."""
        return self._kahn

    def coarsened(self, num_tasks: int) -> Self:
        """Returns the same work in at most `num_tasks` tasks; tasks with different pins stay apart.

        A graph has bytes by task, so the bytes that merged tasks need not send are an assumption. A task's result, its
        `download_bytes`, is one piece of data. All children need the result, or the user if there are no children. A
        task with parents sends their results: all of each result if its `upload_bytes` suffice, else the same share of
        each. Its remaining bytes come from the UE. Merged tasks send a result once if they need all of it. Files of
        workflows and networks name the data of each task, so `num_tasks=` of their readers needs no assumption.

        The algorithm is that of `Dataflow.coarsened`: it leaves no cycle and few bytes between tasks of similar work. A
        merged task has the name of the first of its tasks.

        Args:
            num_tasks: most tasks, at least 1; a graph with no more tasks stays the same.

        Raises:
            InputError: `num_tasks` is below 1 or below the number of parts that pins keep apart, or the graph is too
                large.
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
        """Returns a DiGraph on nodes 0..n-1 with cycles, upload_bytes, download_bytes, name, and the pin if any."""
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

        The order of the nodes in `graph` gives the ids. A task's name is the node's attribute `name` if there is one
        (so `to_networkx` loses nothing), else the node as a string. A task's pin is the attribute `pin`, else "any".

        Raises:
            InputError: `graph` is no DiGraph, a node lacks an attribute, or `TaskGraph` refuses the values.
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
        # The constructor checks the arrays and makes them read-only; a plain copy or unpickling would not.
        return type(self), tuple(getattr(self, field.name) for field in dataclasses.fields(self))

    @cached_property
    def _kahn(self) -> NDArray[np.int64]:
        if (self.edges[:, 0] < self.edges[:, 1]).all():
            return _read_only(np.arange(self.num_tasks))  # already topological: the smallest ready id comes next
        return _read_only(smallest_first(self.edges, np.arange(self.num_tasks)))


def levels(graph: TaskGraph) -> NDArray[np.int64]:
    """Returns the level of each task: the most edges on a path to the task, int64[n]."""
    level, children = [0] * graph.num_tasks, children_of(graph)
    for task in graph.topological_order().tolist():
        for child in children[task]:
            level[child] = max(level[child], level[task] + 1)
    return np.array(level, np.int64)


def children_of(graph: TaskGraph) -> list[list[int]]:
    """Returns for every task the ascending ids of the tasks that need its result."""
    children: list[list[int]] = [[] for _ in range(graph.num_tasks)]
    for parent, child in graph.edges.tolist():
        children[parent].append(child)
    return children


def check_index(field: str, value: Any, size: int) -> int:
    """Returns `value`, a Python or numpy integer in [0, size), as an int; raises InputError for other values."""
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
    """Returns `values` as an array with a dtype of one of `kinds`; an empty array may have any dtype."""
    try:
        array = np.asarray(values)
        # numpy reads [1, True] as two integers; an array needs no look at its entries.
        has_bool = not hasattr(values, "__array__") and any(
            isinstance(value, (bool, np.bool_)) for value in np.asarray(values, dtype=object).flat
        )
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{field} is {shorten(values)}; accepted: {accepted}") from None
    if has_bool or (array.size and array.dtype.kind not in kinds):
        dtype = "bool" if has_bool else array.dtype
        raise InputError(f"{field} has values of type {dtype} ({shorten(values)}); accepted: {accepted}")
    return array


def _cost_vector(field: str, values: Any) -> NDArray[np.float64]:
    """Returns a checked read-only copy of `values`."""
    accepted = "a vector of finite numbers >= 0, one per task"
    array = _number_array(field, values, "iuf", accepted)
    if array.ndim != 1 or not array.size:
        raise InputError(f"{field} has shape {array.shape}; accepted: {accepted} (at least one task)")
    with np.errstate(over="ignore"):  # a long double beyond float64 becomes inf, which is refused below
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
    """Returns a checked, sorted, read-only copy of `values`."""
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
    """Returns a topological order by Kahn's algorithm with a heap, O(m + n log n).

    Of the tasks whose parents are placed, the task of smallest key comes next; on ties, the smallest id.

    Args:
        edges: int64[m, 2], rows (parent, child) in lexicographic order.
        keys: [n], one for each task.

    Returns:
        int64[n] task ids; fewer than n if there is a cycle.
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
    """Returns the tasks of one cycle along its edges; `placed` are the tasks that Kahn's algorithm could order."""
    left = edges[~np.isin(edges, placed).any(axis=1)]
    # Every unplaced task has an unplaced parent, so a walk from parent to parent comes back to a task seen before.
    parent_of = dict(left[:, ::-1].tolist())
    task = next(iter(parent_of))
    walk: dict[int, int] = {}
    while task not in walk:
        walk[task] = len(walk)
        task = parent_of[task]
    return list(walk)[walk[task] :][::-1]
