"""Applications whose data have names: which task makes each item, which use it, and how large it is.

What files of workflows and networks say. A `TaskGraph` has bytes by task instead: a task sends every item that it uses
and gets back every item that it makes for others or for the user. Merging tasks is exact here: what is made and used
within one is sent nowhere.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number, shorten

OUTSIDE = -1  # maker of what is there before any task runs
MOST_COARSENED = 3000  # tasks
MOST_EDGES = 200_000  # between them
MOST_STEPS = 15_000_000  # looks at a task or an edge that merging may take: a second or two
AT_ONCE = 8  # looks that numpy, or a set, takes in the time of one of ours
BALANCE = 1.5  # times the mean: most cycles of a task that merging makes where it can choose


@dataclasses.dataclass(frozen=True)
class Item:
    """One piece of data.

    Attributes:
        size: bytes.
        maker: task id, or `OUTSIDE`.
        users: ids of the tasks that read it.
        delivered: whether the user gets it in the end.
    """

    size: float
    maker: int
    users: frozenset[int]
    delivered: bool = False


@dataclasses.dataclass(frozen=True)
class Dataflow:
    """Tasks and the items between them.

    Attributes:
        names: of the tasks, distinct.
        cycles: CPU cycles of each.
        items: the data.
        after: pairs (parent, child) of tasks in order without data between them.
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
        """Of edges that say how many bytes pass along them.

        Edges of one task that pass equally many bytes pass the same result; those that pass others, other results.

        Args:
            names: of the tasks, distinct.
            cycles: CPU cycles of each.
            edges: (parent, child, bytes); from `OUTSIDE` come inputs, each of its own, and to it goes what the user
                gets; None for bytes: an order without data. An edge that is stated again counts once.

        Raises:
            InputError: an edge from a task to itself.
        """
        names = tuple(names)
        users: dict[tuple[int, float, int], set[int]] = {}  # by maker, size, and of an input the task that takes it
        after: set[tuple[int, int]] = set()
        for parent, child, size in edges:
            if parent == child:
                raise InputError(f"task {shorten(names[parent])} depends on itself; accepted: two different tasks")
            if size is None:
                after.add((parent, child))
            else:
                users.setdefault((parent, size, child if parent == OUTSIDE else OUTSIDE), set()).add(child)
        items = [
            Item(size, maker, frozenset(found - {OUTSIDE}), delivered=OUTSIDE in found)
            for (maker, size, _), found in users.items()
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
        """Of edges that say nothing of bytes: all results are equally large, and so is the input of a first task.

        Args:
            names: of the tasks, distinct.
            cycles: CPU cycles of each.
            edges: (parent, child).
            result_bytes: of each result and input, >= 0.

        Raises:
            InputError: an edge from a task to itself, or a size out of range.
        """
        check_number("result_bytes", result_bytes, low=0.0)
        names, edges = tuple(names), list(edges)
        tasks, parents, children = range(len(names)), {edge[0] for edge in edges}, {edge[1] for edge in edges}
        inputs = [(OUTSIDE, task) for task in tasks if task not in children]
        outputs = [(task, OUTSIDE) for task in tasks if task not in parents]
        return cls.of_edges(names, cycles, ((*edge, result_bytes) for edge in (*edges, *inputs, *outputs)))

    @property
    def edges(self) -> set[tuple[int, int]]:
        """(parent, child) of tasks, whether by data or by order alone."""
        by_data = {(item.maker, user) for item in self.items if item.maker != OUTSIDE for user in item.users}
        return {(parent, child) for parent, child in by_data | self.after if parent != child}

    def to_task_graph(self) -> TaskGraph:
        """Bytes by task: up goes what it uses of others' and of the outside's, down comes what others or the user need.

        Raises:
            InputError: a cycle, or bytes or cycles beyond float64.
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
        """The same work and data in at most `num_tasks` tasks.

        Tasks are merged two at a time along an edge that no other way leads around, so that no cycle arises: first the
        edge of most bytes whose ends have at most `BALANCE` times the mean work together, where there is none the
        one whose ends have the least. Parts that no edge connects are merged last. A merged task is called after the
        first of its tasks.

        Args:
            num_tasks: at least 1.

        Raises:
            InputError: a number below 1, a cycle, more than `MOST_COARSENED` tasks or `MOST_EDGES` edges, or merging
                that takes more than `MOST_STEPS` steps.
        """
        check_number("num_tasks", num_tasks, low=1, integer=True)
        if len(self.names) > MOST_COARSENED:
            raise InputError(f"{len(self.names)} tasks are to be coarsened; accepted: at most {MOST_COARSENED}")
        self.to_task_graph()
        if num_tasks >= len(self.names):
            return self
        edges = sorted(self.edges)
        if len(edges) > MOST_EDGES:
            raise InputError(f"tasks with {len(edges)} edges are to be coarsened; accepted: at most {MOST_EDGES}")
        merging = _Merging(self, edges, BALANCE * sum(self.cycles) / num_tasks)
        while len(merging.members) > num_tasks:
            merging.merge()
            if merging.steps > MOST_STEPS:
                raise InputError(
                    f"num_tasks is {num_tasks}, which takes more than {MOST_STEPS} steps of merging {len(self.names)} "
                    f"tasks with {len(edges)} edges; accepted: a larger number, or fewer edges"
                )
        clusters = sorted(merging.members.values(), key=min)
        return self._merged([sorted(cluster) for cluster in clusters])

    def _merged(self, clusters: Sequence[Sequence[int]]) -> Dataflow:
        place = {task: number for number, cluster in enumerate(clusters) for task in cluster}
        names = [
            self.names[cluster[0]] + (f" (+{len(cluster) - 1})" if len(cluster) > 1 else "") for cluster in clusters
        ]
        items = [
            dataclasses.replace(
                item,
                maker=item.maker if item.maker == OUTSIDE else place[item.maker],
                users=frozenset(place[user] for user in item.users),
            )
            for item in self.items
        ]
        return Dataflow(
            names=distinct(names),
            cycles=tuple(float(sum(self.cycles[task] for task in cluster)) for cluster in clusters),
            items=tuple(items),
            after=frozenset((place[a], place[b]) for a, b in self.after if place[a] != place[b]),
        )


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """The names, each that has come before with a number behind it."""
    next_number: dict[str, int] = {}  # to the number that is tried next
    for name in names:
        unique, number = name, next_number.get(name, 2)
        while unique in next_number:
            unique, number = f"{name} #{number}", number + 1
        next_number[name] = number
        next_number.setdefault(unique, 2)
    return tuple(next_number)


class _Merging:
    """Tasks on their way to being merged; a merged task has the id of the parent of the edge that went.

    Attributes:
        members: the tasks merged into each that is left.
        steps: looks at a task or an edge so far.
    """

    def __init__(self, flow: Dataflow, edges: Sequence[tuple[int, int]], most: float) -> None:
        """Begins with all tasks apart; edges whose ends have at most `most` cycles together come first."""
        self.members = {task: [task] for task in range(len(flow.names))}
        self.steps = 0
        self._most = most
        self._work = np.array(flow.cycles, np.float64)
        self._parent, self._child = np.array(edges, np.int64).reshape(-1, 2).T
        self._size = np.zeros(len(edges))
        # Of each task the numbers of the edges to its children, and to its parents.
        self._children: list[dict[int, int]] = [{} for _ in flow.names]
        self._parents: list[dict[int, int]] = [{} for _ in flow.names]
        for number, (parent, child) in enumerate(edges):
            self._children[parent][child] = self._parents[child][parent] = number
        for item in flow.items:
            for user in item.users - {item.maker} if item.maker != OUTSIDE else ():
                self._size[self._children[item.maker][user]] += item.size
        # Edges that are left, and that no other way is known to lead around: ways stay until one of their ends merges.
        self._open = np.ones(len(edges), bool)

    def merge(self) -> None:
        """Merges the two tasks that come next."""
        edge = self._next_edge()
        if edge is not None:
            self._join(int(self._parent[edge]), int(self._child[edge]))
            return
        rank, work = self._rank(), self._work  # nothing but parts without edges
        first, second = sorted(heapq.nsmallest(2, self.members, key=lambda task: (work[task], rank[task])))
        self._join(first, second)

    def _next_edge(self) -> int | None:
        """The edge whose ends are merged next; None where there is no edge."""
        while True:
            left = np.flatnonzero(self._open)
            self.steps += len(self._open) // (8 * AT_ONCE) + len(left) // AT_ONCE
            if not len(left):
                return None
            value = self._work[self._parent[left]] + self._work[self._child[left]]
            within = value <= self._most
            if within.any():
                value = np.where(within, -self._size[left], np.inf)
            tied = left[value == value.min()]
            if len(tied) > 1:
                rank = self._rank()
                tied = tied[np.lexsort((rank[self._child[tied]], rank[self._parent[tied]]))]
            for edge in tied.tolist():
                if not self._another_way(int(self._parent[edge]), int(self._child[edge])):
                    return edge
                self._open[edge] = False
                if self.steps > MOST_STEPS:
                    return edge  # whatever it is: nothing comes of this

    def _rank(self) -> NDArray[np.int64]:
        """The place of each task in the topological order that takes the smallest id first."""
        waiting = [len(parents) for parents in self._parents]
        ready = [task for task in self.members if not waiting[task]]
        heapq.heapify(ready)
        rank = np.zeros(len(waiting), np.int64)
        for place in range(len(self.members)):
            task = heapq.heappop(ready)
            rank[task] = place
            for child in self._children[task]:
                waiting[child] -= 1
                if not waiting[child]:
                    heapq.heappush(ready, child)
            self.steps += 1 + len(self._children[task])
        return rank

    def _another_way(self, parent: int, child: int) -> bool:
        """Whether a path leads from one to the other beside the edge between them."""
        if len(self._children[parent]) < 2 or len(self._parents[child]) < 2:
            return False
        if not self._children[parent].keys().isdisjoint(self._parents[child]):
            return True
        # From both ends by turns, a level at a time: what is near one end is not far from it on the way from the other.
        ahead, behind = set(self._children[parent]) - {child}, set(self._parents[child]) - {parent}
        seen_ahead, seen_behind = set(ahead), set(behind)
        self.steps += (len(ahead) + len(behind)) // AT_ONCE
        while ahead and behind:
            if not seen_ahead.isdisjoint(seen_behind):
                return True
            nearer = len(ahead) <= len(behind)
            front, seen, further = (
                (ahead, seen_ahead, self._children) if nearer else (behind, seen_behind, self._parents)
            )
            reached: set[int] = set()
            for task in front:
                reached.update(further[task])
                self.steps += 1 + len(further[task]) // AT_ONCE
            reached -= seen
            seen |= reached
            if nearer:
                ahead = reached
            else:
                behind = reached
        return not seen_ahead.isdisjoint(seen_behind)

    def _join(self, kept: int, gone: int) -> None:
        self.members[kept] += self.members.pop(gone)
        self._work[kept] += self._work[gone]
        between = self._children[kept].pop(gone, None)
        if between is not None:
            del self._parents[gone][kept]
            self._open[between] = False
        self._redirect(self._children, self._parents, self._parent, kept, gone)
        self._redirect(self._parents, self._children, self._child, kept, gone)
        beside = [*self._children[kept].values(), *self._parents[kept].values()]
        self._open[beside] = True
        self.steps += len(beside) // AT_ONCE

    def _redirect(
        self,
        ends: list[dict[int, int]],
        back: list[dict[int, int]],
        column: NDArray[np.int64],
        kept: int,
        gone: int,
    ) -> None:
        """Edges from `gone` become edges from `kept`, or add to one that is there; alike of edges to it."""
        for other, edge in ends[gone].items():
            del back[other][gone]
            there = ends[kept].get(other)
            if there is None:
                ends[kept][other] = back[other][kept] = edge
                column[edge] = kept
            else:
                self._size[there] += self._size[edge]
                self._open[edge] = False
        self.steps += len(ends[gone])
        ends[gone] = {}
