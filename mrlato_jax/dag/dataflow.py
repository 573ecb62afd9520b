"""Applications with named data: the task that makes each item, the tasks that use it, and its size.

Files of workflows and neural networks have such data. A `TaskGraph` has bytes by task instead: a task sends every item
that it uses, and gets back every item that it makes for other tasks or for the user. So merging is exact here: an item
made and used within a merged task is not sent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np

from mrlato_jax.dag.coarsening import OUTSIDE as OUTSIDE
from mrlato_jax.dag.coarsening import Traffic, names_of, parts
from mrlato_jax.dag.coarsening import distinct as distinct
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number, shorten


@dataclasses.dataclass(frozen=True)
class Item:
    """One piece of data.

    Attributes:
        size: bytes.
        maker: task id, or `OUTSIDE`.
        users: ids of the tasks that read the item.
        delivered: whether the user gets the item.
    """

    size: float
    maker: int
    users: frozenset[int]
    delivered: bool = False


@dataclasses.dataclass(frozen=True)
class Dataflow:
    """Tasks and the items of data between them.

    Attributes:
        names: distinct names of the tasks.
        cycles: CPU cycles of each task.
        items: the items of data.
        after: pairs (parent, child) of tasks that have an order and no data between them.
    """

    names: tuple[str, ...]
    cycles: tuple[float, ...]
    items: tuple[Item, ...]
    after: frozenset[tuple[int, int]] = frozenset()

    @classmethod
    def of_edges(
        cls,
        names: Iterable[str],
        cycles: Iterable[float],
        edges: Iterable[tuple[int, int, float | None]],
    ) -> Self:
        """Builds a dataflow from edges with bytes.

        Edges of one task with equal bytes pass the same result; edges with other bytes pass other results.

        Args:
            names: distinct names of the tasks.
            cycles: CPU cycles of each task.
            edges: (parent, child, bytes). An edge from `OUTSIDE` is an input of its own, an edge to `OUTSIDE` a result
                for the user. None for bytes means an order without data. A repeated edge counts once.

        Raises:
            InputError: an edge goes from a task to itself.
        """
        names = tuple(names)
        users: dict[tuple[int, float, int], set[int]] = {}  # by maker, size, and for an input the task that takes it
        after: set[tuple[int, int]] = set()
        for parent, child, size in edges:
            if parent == child:
                raise InputError(f"task {shorten(names[parent])} depends on itself; accepted: two different tasks")
            if size is None:
                after.add((parent, child))
            else:
                users.setdefault((parent, size, child if parent == OUTSIDE else OUTSIDE), set()).add(child)
        items = [
            Item(size, maker, frozenset(takers - {OUTSIDE}), delivered=OUTSIDE in takers)
            for (maker, size, _), takers in users.items()
        ]
        return cls(names, tuple(cycles), tuple(items), frozenset(after))

    @classmethod
    def of_results(
        cls,
        names: Iterable[str],
        cycles: Iterable[float],
        edges: Iterable[tuple[int, int]],
        result_bytes: float,
    ) -> Self:
        """Builds a dataflow from edges without bytes: all results, and the inputs of first tasks, have equal size.

        Args:
            names: distinct names of the tasks.
            cycles: CPU cycles of each task.
            edges: pairs (parent, child).
            result_bytes: bytes of each result and input, >= 0.

        Raises:
            InputError: an edge goes from a task to itself, or the size is out of range.
        """
        check_number("result_bytes", result_bytes, low=0.0)
        names, edges = tuple(names), list(edges)
        tasks, parents, children = range(len(names)), {edge[0] for edge in edges}, {edge[1] for edge in edges}
        inputs = [(OUTSIDE, task) for task in tasks if task not in children]
        outputs = [(task, OUTSIDE) for task in tasks if task not in parents]
        return cls.of_edges(names, cycles, ((*edge, result_bytes) for edge in (*edges, *inputs, *outputs)))

    @property
    def edges(self) -> set[tuple[int, int]]:
        """Pairs (parent, child) of tasks, with data or with an order only."""
        by_data = {(item.maker, user) for item in self.items if item.maker != OUTSIDE for user in item.users}
        return {(parent, child) for parent, child in by_data | self.after if parent != child}

    def to_task_graph(self) -> TaskGraph:
        """Converts to a graph with bytes by task.

        A task uploads the items that it uses and does not make. It downloads the items that it makes and that other
        tasks or the user need.

        Raises:
            InputError: there is a cycle, or bytes or cycles are beyond float64.
        """
        upload, download = [0.0] * len(self.names), [0.0] * len(self.names)
        for item in self.items:
            for user in item.users:
                if user != item.maker:
                    upload[user] += item.size
            if item.maker != OUTSIDE and (item.delivered or item.users - {item.maker}):
                download[item.maker] += item.size
        return TaskGraph.from_edges(
            cycles=self.cycles,
            upload_bytes=upload,
            download_bytes=download,
            edges=sorted(self.edges),
            names=self.names,
        )

    def coarsened(self, num_tasks: int) -> Dataflow:
        """Returns the same work and data in at most `num_tasks` tasks.

        Merging leaves no cycle and few bytes between the tasks. A merged task has at most `BALANCE` times the mean
        work, or the mean and a third plus the work of the heaviest task, if that is more. It has the name of the first
        of its tasks. `mrlato_jax.dag.coarsening` has the algorithm.

        Args:
            num_tasks: most tasks, at least 1.

        Raises:
            InputError: `num_tasks` is below 1, there is a cycle, or there are more than `MOST_COARSENED` tasks or
                `MOST_EDGES` edges.
        """
        self.to_task_graph()
        edges = np.array(sorted(self.edges), np.int64).reshape(-1, 2)
        merged = parts(np.array(self.cycles, np.float64), edges, self._traffic(), num_tasks)
        return self if len(merged) == len(self.names) else self._merged(merged)

    def _traffic(self) -> Traffic:
        uses = [(number, user) for number, item in enumerate(self.items) for user in item.users if user != item.maker]
        item, user = np.array(uses, np.int64).reshape(-1, 2).T
        size = np.array([item.size for item in self.items], np.float64)
        return Traffic(
            maker=np.array([item.maker for item in self.items], np.int64),
            sent=size,
            returned=size,
            delivered=np.array([item.delivered for item in self.items], bool),
            item=item,
            user=user,
        )

    def _merged(self, clusters: Sequence[Sequence[int]]) -> Dataflow:
        place = {task: number for number, cluster in enumerate(clusters) for task in cluster}
        items = [
            dataclasses.replace(
                item,
                maker=item.maker if item.maker == OUTSIDE else place[item.maker],
                users=frozenset(place[user] for user in item.users),
            )
            for item in self.items
        ]
        return Dataflow(
            names=names_of(self.names, clusters),
            cycles=tuple(float(sum(self.cycles[task] for task in cluster)) for cluster in clusters),
            items=tuple(items),
            after=frozenset((place[a], place[b]) for a, b in self.after if place[a] != place[b]),
        )
