"""Merges the tasks of an application into a few parts.

The tasks stand in a row, each after its parents, and cuts divide the row into parts. So the parts form no cycle. The
bytes that a part sends and gets back depend on this part alone, so dynamic programming finds the best cuts of a row.
The best cuts have the fewest bytes, plus a price on uneven parts; `BALANCE` and `SPAN` bound the parts. Two depth-first
rows are tried. The row from the ends of the application keeps in-trees together, the row from its beginnings keeps
out-trees together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from mrlato_jax.errors import InputError, check_number

OUTSIDE = -1  # maker of data that exist before any task runs
MOST_COARSENED = 3000  # most tasks to merge
MOST_EDGES = 200_000  # most edges between them
BALANCE = 1.5  # most cycles of a part, as a multiple of the mean, where single tasks allow it
SPAN = 4  # most tasks of a part, as a multiple of the mean
EVENNESS = 0.02  # price on uneven work, as a share of the bytes of all tasks when none are merged
ROUNDING = 1e-9  # relative difference below which sums count as equal
HALVINGS = 40  # bisection steps for the least bound on work


class Traffic(NamedTuple):
    """Items of data, and the tasks that use them. A use is a pair of an item and a task that does not make the item.

    Attributes:
        maker: int64[items], ids of tasks, or `OUTSIDE`.
        sent: float64[items], bytes that a part sends once if it uses the item and does not make it.
        returned: float64[items], bytes that the part which makes the item gets back, if another part or the user needs
            the item.
        delivered: bool[items], whether the user needs the item.
        item: int64[uses], item of each use.
        user: int64[uses], task id of each use.
    """

    maker: NDArray[np.int64]
    sent: NDArray[np.float64]
    returned: NDArray[np.float64]
    delivered: NDArray[np.bool_]
    item: NDArray[np.int64]
    user: NDArray[np.int64]

    def bytes_of(self, part: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Returns the bytes that each part sends and gets back, float64[parts] each; `part` is int64[n], by task."""
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
    """Returns the items that `TaskGraph.coarsened` assumes for tasks with known sums of bytes."""
    tasks = np.arange(len(upload_bytes))
    parent, child = edges.T
    scale = download_bytes.max() or 1.0  # sums stay within float64
    results = sums(child, download_bytes[parent] / scale, len(tasks))
    share = np.minimum(1.0, np.divide(upload_bytes / scale, results, out=np.zeros(len(tasks)), where=results > 0))
    share[share >= 1 - ROUNDING] = 1.0
    rest = np.where((results > 0) & (share < 1), 0.0, np.maximum(upload_bytes - scale * results, 0.0))
    whole, in_part = np.flatnonzero(share[child] == 1), np.flatnonzero(share[child] < 1)
    nothing, n = np.zeros(len(tasks)), len(tasks)
    # Four groups of items: results that come back, results sent whole, shares of results, and data from the UE.
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
    """Returns the ids of each part's tasks, ascending; parts in the order of their first ids.

    Args:
        cycles: float64[n].
        edges: int64[m, 2], rows (parent, child) in lexicographic order, without cycles.
        traffic: the data between the tasks.
        num_tasks: most parts, at least 1; with n or more, every task is a part.
        pins: n strings; tasks with different strings are not merged. By default all strings are equal.

    Raises:
        InputError: `num_tasks` is below 1 or below the number of parts that pins keep apart, or there are more than
            `MOST_COARSENED` tasks or `MOST_EDGES` edges.
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
    _, best = min((row.cut(num_tasks) for row in rows if row.fewest <= num_tasks), key=lambda cut: cut[0])
    return sorted((sorted(part) for part in best), key=min)


def sums(index: NDArray[np.int64], amounts: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Returns the sum of the amounts of each index: float64[count]."""
    return np.bincount(index, amounts, minlength=count).astype(np.float64)


def names_of(names: Sequence[str], merged: Iterable[Sequence[int]]) -> tuple[str, ...]:
    """Returns a distinct name for each part: the name of its first task and the number of its other tasks."""
    return distinct(names[part[0]] + (f" (+{len(part) - 1})" if len(part) > 1 else "") for part in merged)


def distinct(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names, with a number appended to each name that has occurred before."""
    next_number: dict[str, int] = {}  # by name, the number to try next
    for name in names:
        unique, number = name, next_number.get(name, 2)
        while unique in next_number:
            unique, number = f"{name} #{number}", number + 1
        next_number[name] = number
        next_number.setdefault(unique, 2)
    return tuple(next_number)


def _bytes_of_edges(n: int, edges: NDArray[np.int64], traffic: Traffic) -> NDArray[np.float64]:
    """Returns the bytes of each edge as a share of the largest item: float64[m]."""
    inside = traffic.maker[traffic.item] != OUTSIDE
    item, user = traffic.item[inside], traffic.user[inside]
    edge = np.searchsorted(edges[:, 0] * n + edges[:, 1], traffic.maker[item] * n + user)
    return sums(edge, (traffic.sent[item] + traffic.returned[item]) / _largest(traffic), len(edges))


def _largest(traffic: Traffic) -> float:
    return max(traffic.sent.max(initial=0.0), traffic.returned.max(initial=0.0)) or 1.0


def depth_first(n: int, edges: NDArray[np.int64], size: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the tasks in a row, each after its parents and close to the parent that sends it most bytes."""
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
        else:  # the parent of fewest bytes lies on top; the parent of most bytes comes last before the task
            pile += [(task, True), *((-parent, False) for _, parent in sorted(parents[task]))]
    return np.array(list(row), np.int64)


class Row:
    """Tasks in a row, at places 0 to n - 1. A part [begin, end) has the places from `begin` to `end` - 1.

    Attributes:
        fewest: the fewest parts that the row can be cut into.
    """

    def __init__(
        self, tasks: NDArray[np.int64], cycles: NDArray[np.float64], traffic: Traffic, kinds: NDArray[np.int64]
    ) -> None:
        self._tasks, self._traffic = tasks, traffic
        work = cycles[tasks] / (cycles.max() or 1.0)
        self._until = np.concatenate([[0.0], np.cumsum(work if work.any() else np.ones(len(tasks)))])
        # For each place, the end of the run of tasks of its kind.
        changes = np.append(np.flatnonzero(np.diff(kinds[tasks])) + 1, len(tasks))
        self._kind_ends = changes[np.searchsorted(changes, np.arange(len(tasks)), side="right")]
        self.fewest = len(changes)

    def cut(self, num_parts: int) -> tuple[float, list[list[int]]]:
        """Returns the cost of the best cuts into `num_parts` parts, and the tasks of each part along the row."""
        n = len(self._tasks)
        longest = min(n, -(-SPAN * n // num_parts))
        cost = self._costs(num_parts, longest)
        cheapest, chosen = np.append(0.0, np.full(n, np.inf)), []  # by the end of the last part
        for _ in range(num_parts):
            before = sliding_window_view(np.concatenate([np.full(longest, np.inf), cheapest[:-1]]), longest)
            total = before + cost
            chosen.append(total.argmin(axis=1))
            cheapest = np.take_along_axis(total, chosen[-1][:, None], axis=1)[:, 0]
        cut_parts, end = [], n
        for choice in reversed(chosen):
            begin = end - longest + int(choice[end])
            cut_parts.append(self._tasks[begin:end].tolist())
            end = begin
        return float(cheapest[n]), cut_parts[::-1]

    def _costs(self, num_parts: int, longest: int) -> NDArray[np.float64]:
        """Returns [n + 1, longest]: at [end, k], the cost of the part from end - longest + k; infinite for no part."""
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
        """Returns the least bound on a part's work, at least `wanted`, with which `num_parts` parts hold all tasks."""
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
    """Returns [n + 1, n + 1]: at [begin, end], the part's bytes sent and got back, as a share of the largest item."""
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
    total = np.zeros((n + 2, n + 2))  # differences between neighbours; the cumulative sums below give the totals

    def add(
        begin: NDArray[np.int64], to: NDArray[np.int64], end: NDArray[np.int64], till: NDArray[np.int64],
        size: NDArray[np.float64],
    ) -> None:  # fmt: skip
        """Adds to every part that begins in [begin, to) and ends in [end, till)."""
        for row, column, sign in ((begin, end, 1), (begin, till, -1), (to, end, -1), (to, till, 1)):
            np.add.at(total, (row, column), sign * size)

    largest = _largest(traffic)
    # A part sends an item for the first use within the part. It gets back an item of its own, unless the item's last
    # use is within the part, too.
    add(before + 1, user + 1, user + 1, np.full(len(user), n + 1), traffic.sent[item] / largest)
    made = (maker != OUTSIDE) & (last > maker)
    add(np.zeros(made.sum(), int), maker[made] + 1, maker[made] + 1, last[made] + 1, traffic.returned[made] / largest)
    np.cumsum(total, axis=0, out=total)
    np.cumsum(total, axis=1, out=total)
    total[total < ROUNDING] = 0.0  # rounding errors
    return total[: n + 1, : n + 1]
