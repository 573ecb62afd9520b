"""Applications whose data have names: which task makes each item, which use it, and how large it is.

What files of workflows and networks say. A `TaskGraph` has bytes by task instead: a task sends every item that it uses
and gets back every item that it makes for others or for the user. Merging tasks is exact here: what is made and used
within one is sent nowhere.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterable, Sequence

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number

OUTSIDE = -1  # maker of what is there before any task runs
MOST_COARSENED = 3000  # tasks: each merge looks at all edges, so these take a minute
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
            InputError: a number below 1, a cycle, or more than `MOST_COARSENED` tasks.
        """
        check_number("num_tasks", num_tasks, low=1, integer=True)
        if len(self.names) > MOST_COARSENED:
            raise InputError(f"{len(self.names)} tasks are to be coarsened; accepted: at most {MOST_COARSENED}")
        self.to_task_graph()
        members = {task: [task] for task in range(len(self.names))}
        work = dict(enumerate(self.cycles))
        children: dict[int, dict[int, float]] = {task: {} for task in members}
        for parent, child in self.edges:
            children[parent][child] = 0.0
        for item in self.items:
            for user in item.users - {item.maker} if item.maker != OUTSIDE else ():
                children[item.maker][user] += item.size
        most = BALANCE * sum(self.cycles) / num_tasks
        while len(members) > num_tasks:
            rank = {task: place for place, task in enumerate(_topological(children))}
            pair = _to_merge(children, work, rank, most)
            if pair is None:  # nothing but parts without edges
                first, second = sorted(heapq.nsmallest(2, work, key=lambda task: (work[task], rank[task])))
                pair = first, second
            _merge(pair, members, work, children)
        clusters = sorted(members.values(), key=min)
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
    found: dict[str, int] = {}  # to the number that is tried next
    for name in names:
        unique, number = name, found.get(name, 2)
        while unique in found:
            unique, number = f"{name} #{number}", number + 1
        found[name] = number
        found.setdefault(unique, 2)
    return tuple(found)


def _topological(children: dict[int, dict[int, float]]) -> list[int]:
    waiting = dict.fromkeys(children, 0)
    for ends in children.values():
        for child in ends:
            waiting[child] += 1
    ready = [task for task, parents in waiting.items() if not parents]
    heapq.heapify(ready)
    order = []
    while ready:
        order.append(heapq.heappop(ready))
        for child in children[order[-1]]:
            waiting[child] -= 1
            if not waiting[child]:
                heapq.heappush(ready, child)
    return order


def _to_merge(
    children: dict[int, dict[int, float]], work: dict[int, float], rank: dict[int, int], most: float
) -> tuple[int, int] | None:
    """The edge whose ends are merged next; None where there is no edge."""
    edges = [(parent, child, size) for parent, ends in children.items() for child, size in ends.items()]

    def preference(edge: tuple[int, int, float]) -> tuple[bool, float, int, int]:
        parent, child, size = edge
        together = work[parent] + work[child]
        return together > most, -size if together <= most else together, rank[parent], rank[child]

    for parent, child, _ in sorted(edges, key=preference):
        if not _another_way(children, rank, parent, child):
            return parent, child
    return None


def _another_way(children: dict[int, dict[int, float]], rank: dict[int, int], parent: int, child: int) -> bool:
    """Whether a path leads from one to the other beside the edge between them."""
    stack, seen = [task for task in children[parent] if task != child], set()
    while stack:
        task = stack.pop()
        if task == child:
            return True
        if task not in seen and rank[task] < rank[child]:
            seen.add(task)
            stack.extend(children[task])
    return False


def _merge(
    pair: tuple[int, int], members: dict[int, list[int]], work: dict[int, float], children: dict[int, dict[int, float]]
) -> None:
    kept, gone = pair
    members[kept] += members.pop(gone)
    work[kept] += work.pop(gone)
    for child, size in children.pop(gone).items():
        children[kept][child] = children[kept].get(child, 0.0) + size
    for ends in children.values():
        if gone in ends:
            size = ends.pop(gone)
            ends[kept] = ends.get(kept, 0.0) + size
    children[kept].pop(kept, None)
