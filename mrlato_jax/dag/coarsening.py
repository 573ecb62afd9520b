"""Merges the tasks of an application into a few parts.

The tasks stand in a row, each behind its parents, and the row is cut into parts: no cycle can arise between them. What
a part sends and gets back depends on that part alone, so dynamic programming finds the best cuts of a row: those of
least bytes, among parts that `BALANCE` and `SPAN` bound, with a price on uneven ones. Two rows are tried, both depth
first: one from the ends of the application, where trees that grow together stay together, and one from its beginnings,
where trees that branch out do.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mrlato_jax.errors import InputError, check_number

OUTSIDE = -1  # maker of what is there before any task runs
MOST_COARSENED = 3000  # tasks
MOST_EDGES = 200_000  # between them
BALANCE = 1.5  # times the mean: most cycles of a part, where single tasks allow it
SPAN = 4  # times the mean: most tasks of a part
EVENNESS = 0.02  # what parts of equal work are worth: a share of the bytes of all tasks apart
ROUNDING = 1e-9  # relative: sums that differ by less are the same
HALVINGS = 40  # of the range in which the least bound of work is sought


class Traffic(NamedTuple):
    """Items of data, and which tasks use them.

    Attributes:
        maker: int64[items], ids of tasks, or `OUTSIDE`.
        sent: float64[items], bytes that a part sends once if it uses the item and does not make it.
        returned: float64[items], bytes that the part which makes it gets back, if another part or the user needs it.
        delivered: bool[items], whether the user needs it.
        item: int64[uses], of each use by a task that does not make it.
        user: int64[uses], ids of tasks.
    """

    maker: NDArray[np.int64]
    sent: NDArray[np.float64]
    returned: NDArray[np.float64]
    delivered: NDArray[np.bool_]
    item: NDArray[np.int64]
    user: NDArray[np.int64]

    def bytes_of(self, part: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """float64[parts] twice, what each part sends and what it gets back; `part` is int64[n], of each task."""
        home = np.append(part, OUTSIDE)[self.maker]
        away = part[self.user] != home[self.item]
        item, user = np.unique(np.stack([self.item[away], part[self.user[away]]]), axis=1)
        count = int(part.max()) + 1
        needed = self.delivered.copy()
        needed[item] = True
        needed &= home != OUTSIDE
        return (
            sums(user, self.sent[item], count),
            sums(home[needed], self.returned[needed], count),
        )


def traffic_by_task(
    upload_bytes: NDArray[np.float64], download_bytes: NDArray[np.float64], edges: NDArray[np.int64]
) -> Traffic:
    """Items of tasks of which only the bytes in sum are known, as `TaskGraph.coarsened` assumes them."""
    tasks = np.arange(len(upload_bytes))
    parent, child = edges.T
    scale = download_bytes.max() or 1.0  # sums stay within float64
    results = sums(child, download_bytes[parent] / scale, len(tasks))
    share = np.minimum(1.0, np.divide(upload_bytes / scale, results, out=np.zeros(len(tasks)), where=results > 0))
    share[share >= 1 - ROUNDING] = 1.0
    rest = np.where((results > 0) & (share < 1), 0.0, np.maximum(upload_bytes - scale * results, 0.0))
    whole, in_part = np.flatnonzero(share[child] == 1), np.flatnonzero(share[child] < 1)
    nothing, n = np.zeros(len(tasks)), len(tasks)
    # Results as they come back, results as they are sent whole, shares of results, and what comes from the UE.
    return Traffic(
        maker=np.concatenate([tasks, tasks, parent[in_part], np.full(n, OUTSIDE)]),
        sent=np.concatenate([nothing, download_bytes, (download_bytes[parent] * share[child])[in_part], rest]),
        returned=np.concatenate([download_bytes, nothing, np.zeros(len(in_part)), nothing]),
        delivered=np.concatenate([~np.isin(tasks, parent), np.zeros(2 * n + len(in_part), bool)]),
        item=np.concatenate([parent, n + parent[whole], 2 * n + np.arange(len(in_part)), 2 * n + len(in_part) + tasks]),
        user=np.concatenate([child, child[whole], child[in_part], tasks]),
    )


def parts(
    cycles: NDArray[np.float64],
    edges: NDArray[np.int64],
    traffic: Traffic,
    num_tasks: int,
    pins: Sequence[str] = (),
) -> list[list[int]]:
    """The ids of each part's tasks, ascending; parts in the order of their first ids.

    Args:
        cycles: float64[n].
        edges: int64[m, 2], rows (parent, child) in lexicographic order, without cycles.
        traffic: what the tasks need of each other.
        num_tasks: of parts, at least 1; with n or more every task is one.
        pins: n strings; tasks whose strings differ are not merged. By default all are alike.

    Raises:
        InputError: a number below 1, or one of fewer parts than pins allow; more than `MOST_COARSENED` tasks or
            `MOST_EDGES` edges.
    """
    check_number("num_tasks", num_tasks, low=1, integer=True)
    n = len(cycles)
    if n > MOST_COARSENED:
        raise InputError(f"{n} tasks are to be coarsened; accepted: at most {MOST_COARSENED}")
    if num_tasks >= n:
        return [[task] for task in range(n)]
    if num_tasks == 1 and len(set(pins)) <= 1:
        return [list(range(n))]
    if len(edges) > MOST_EDGES:
        raise InputError(f"tasks with {len(edges)} edges are to be coarsened; accepted: at most {MOST_EDGES}")
    size = _bytes_of_edges(n, edges, traffic)
    last = n - 1
    orders = [depth_first(n, edges, size), last - depth_first(n, last - edges[:, ::-1], size)[::-1]]
    kinds = np.unique(list(pins) or [""] * n, return_inverse=True)[1]
    rows = [Row(order, cycles, traffic, kinds) for order in orders]
    fewest = min(row.fewest for row in rows)
    if num_tasks < fewest:
        raise InputError(
            f"num_tasks is {num_tasks}, where tasks with other pins keep {fewest} parts apart; accepted: at least "
            f"{fewest}"
        )
    _, found = min((row.cut(num_tasks) for row in rows if row.fewest <= num_tasks), key=lambda cut: cut[0])
    return sorted((sorted(part) for part in found), key=min)


def sums(index: NDArray[np.int64], amounts: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """float64[count], the amounts that have each index."""
    return np.bincount(index, amounts, minlength=count).astype(np.float64)


def names_of(names: Sequence[str], merged: Iterable[Sequence[int]]) -> tuple[str, ...]:
    """Of each part the name of its first task and how many others there are; distinct."""
    return distinct(names[part[0]] + (f" (+{len(part) - 1})" if len(part) > 1 else "") for part in merged)


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


def _bytes_of_edges(n: int, edges: NDArray[np.int64], traffic: Traffic) -> NDArray[np.float64]:
    """float64[m], as a share of the largest item."""
    inside = traffic.maker[traffic.item] != OUTSIDE
    item, user = traffic.item[inside], traffic.user[inside]
    edge = np.searchsorted(edges[:, 0] * n + edges[:, 1], traffic.maker[item] * n + user)
    return sums(edge, (traffic.sent[item] + traffic.returned[item]) / _largest(traffic), len(edges))


def _largest(traffic: Traffic) -> float:
    return max(traffic.sent.max(initial=0.0), traffic.returned.max(initial=0.0)) or 1.0


def depth_first(n: int, edges: NDArray[np.int64], size: NDArray[np.float64]) -> NDArray[np.int64]:
    """The tasks, each behind its parents and as near as can be to the one that it gets most bytes from."""
    parents: list[list[tuple[float, int]]] = [[] for _ in range(n)]
    for (parent, child), share in zip(edges.tolist(), size.tolist(), strict=True):
        parents[child].append((-share, -parent))
    ends = np.setdiff1d(np.arange(n), edges[:, 0])
    row: dict[int, None] = {}
    pile = [(task, False) for task in ends[::-1].tolist()]
    while pile:
        task, is_ready = pile.pop()
        if task in row:
            continue
        if is_ready:
            row[task] = None
        else:  # the parent of least bytes lies on top, that of most is the last before the task
            pile += [(task, True), *((-parent, False) for _, parent in sorted(parents[task]))]
    return np.array(list(row), np.int64)


class Row:
    """Tasks in a row, by their places 0 to n - 1. A part [begin, end) has the places from `begin` to `end` - 1.

    Attributes:
        fewest: parts into which the row can be cut.
    """

    def __init__(
        self, tasks: NDArray[np.int64], cycles: NDArray[np.float64], traffic: Traffic, kinds: NDArray[np.int64]
    ) -> None:
        self._tasks, self._traffic = tasks, traffic
        work = cycles[tasks] / (cycles.max() or 1.0)
        self._until = np.concatenate([[0.0], np.cumsum(work if work.any() else np.ones(len(tasks)))])
        # Of each place the end of the tasks of its kind.
        changes = np.append(np.flatnonzero(np.diff(kinds[tasks])) + 1, len(tasks))
        self._kind_ends = changes[np.searchsorted(changes, np.arange(len(tasks)), side="right")]
        self.fewest = len(changes)

    def cut(self, num_parts: int) -> tuple[float, list[list[int]]]:
        """What the best cuts into so many parts cost, and the tasks of each part along the row."""
        n = len(self._tasks)
        longest = min(n, -(-SPAN * n // num_parts))
        cost = self._costs(num_parts, longest)
        cheapest, chosen = np.append(0.0, np.full(n, np.inf)), []  # by the end of the last part
        for _ in range(num_parts):
            before = sliding_window_view(np.concatenate([np.full(longest, np.inf), cheapest[:-1]]), longest)
            total = before + cost
            chosen.append(total.argmin(axis=1))
            cheapest = np.take_along_axis(total, chosen[-1][:, None], axis=1)[:, 0]
        found, end = [], n
        for choice in reversed(chosen):
            begin = end - longest + int(choice[end])
            found.append(self._tasks[begin:end].tolist())
            end = begin
        return float(cheapest[n]), found[::-1]

    def _costs(self, num_parts: int, longest: int) -> NDArray[np.float64]:
        """[n + 1, longest]: at [end, k] of the part that begins at end - longest + k; infinite where there is none."""
        until, n = self._until, len(self._tasks)
        mean = until[-1] / num_parts
        end = np.arange(n + 1)[:, None]
        begin = end - np.arange(longest, 0, -1)
        absent = begin < 0
        begin[absent] = 0
        cost = _bytes_of_parts(self._tasks, self._traffic)
        apart = float(np.diagonal(cost, 1).sum()) or 1.0
        cost = cost[begin, end] / apart
        work = until[end] - until[begin]
        absent |= work > self._most_work(num_parts, longest, BALANCE * mean) * (1 + ROUNDING)
        absent |= end > self._kind_ends[np.minimum(begin, n - 1)]
        cost += EVENNESS / num_parts * np.square(work / mean)
        cost[absent] = np.inf
        return cost

    def _most_work(self, num_parts: int, longest: int, wanted: float) -> float:
        """The least bound on a part's work, `wanted` or more, within which so many parts take all tasks."""
        until, kind_ends = self._until.tolist(), self._kind_ends.tolist()

        def suffices(most: float) -> bool:
            place = 0
            for _ in range(num_parts):
                end = bisect_right(until, until[place] + most * (1 + ROUNDING)) - 1
                place = min(end, place + longest, kind_ends[place])
                if place == len(kind_ends):
                    return True
            return False

        if suffices(wanted):
            return wanted
        low, high = wanted, until[-1]
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (low, middle) if suffices(middle) else (middle, high)
        return high


def _bytes_of_parts(tasks: NDArray[np.int64], traffic: Traffic) -> NDArray[np.float64]:
    """[n + 1, n + 1], at [begin, end] what that part sends and gets back, as a share of the largest item."""
    n = len(tasks)
    place = np.full(n + 1, OUTSIDE)
    place[tasks] = np.arange(n)
    maker = place[traffic.maker]
    by_place = np.lexsort((place[traffic.user], traffic.item))
    item, user = traffic.item[by_place], place[traffic.user[by_place]]
    is_first = np.diff(item, prepend=-1) > 0
    before = np.where(is_first, maker[item], np.append(0, user[:-1]))
    last = np.copy(maker)
    last[item] = user
    last[traffic.delivered] = n
    total = np.zeros((n + 2, n + 2))  # differences between neighbours, until they are summed

    def add(
        begin: NDArray[np.int64], to: NDArray[np.int64], end: NDArray[np.int64], till: NDArray[np.int64],
        size: NDArray[np.float64],
    ) -> None:  # fmt: skip
        """Adds to every part that begins in [begin, to) and ends in [end, till)."""
        for row, column, sign in ((begin, end, 1), (begin, till, -1), (to, end, -1), (to, till, 1)):
            np.add.at(total, (row, column), sign * size)

    largest = _largest(traffic)
    # A part sends an item for the first use in it, and gets back what it makes unless the last use is in it, too.
    add(before + 1, user + 1, user + 1, np.full(len(user), n + 1), traffic.sent[item] / largest)
    made = (maker != OUTSIDE) & (last > maker)
    add(np.zeros(made.sum(), int), maker[made] + 1, maker[made] + 1, last[made] + 1, traffic.returned[made] / largest)
    np.cumsum(total, axis=0, out=total)
    np.cumsum(total, axis=1, out=total)
    total[total < ROUNDING] = 0.0  # what rounding leaves of nothing
    return total[: n + 1, : n + 1]
