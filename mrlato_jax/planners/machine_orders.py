"""Order search in machine code: one long simulated annealing over sites and orders; needs numba (extra `fast`).

`annealing` runs many chains side by side in JAX. For a few milliseconds one chain is better: its steps take a
microsecond, and all of the time goes into one descent.
"""

from __future__ import annotations

import math
import time

import numpy as np

from mrlato_jax.planners.machine_code import (
    SERVERS,
    Problem,
    Trail,
    Workspace,
    compiled,
    empty_trail,
    run,
    two_tasks,
)  # fmt: skip

HOT, COLD = 0.02, 2e-3  # first and last temperature, relative to the cost of the first plan
FIRST_STEPS = 2500  # times tasks, before the first look at the clock
CHUNKS = 30  # parts of the cooling; the clock is looked at between them


@compiled
def reorder(source: Problem, target: Problem, order: np.ndarray, position: np.ndarray, begin: int) -> None:
    """Writes the tasks from position `begin` on into `target`, in another order.

    Args:
        source: n tasks in their first order, which names them.
        target: the same tasks in another order; ends in the order of `order`.
        order: int[n], the task at each position, a linear extension.
        position: int[n], ends as the inverse of `order`.
        begin: first position that has changed.
    """
    n, at = len(order), int(target.edges[begin])
    for place in range(begin, n):
        position[order[place]] = place
    for place in range(begin, n):
        task, first = order[place], at
        for column in range(source.times.shape[1]):
            target.times[place, column] = source.times[task, column]
        for column in range(source.allowed.shape[1]):
            target.allowed[place, column] = source.allowed[task, column]
        target.edges[place] = at
        for e in range(source.edges[task], source.edges[task + 1]):
            parent, slot = position[source.edges[e]], at
            while slot > first and target.edges[slot - 1] > parent:
                target.edges[slot] = target.edges[slot - 1]
                slot -= 1
            target.edges[slot] = parent
            at += 1
    target.edges[n] = at


@compiled
def _move(order: np.ndarray, sites: np.ndarray, source: int, target: int) -> None:
    """Moves the task at one position to another; the tasks between them shift by one."""
    task, site, step = order[source], sites[source], 1 if target > source else -1
    for place in range(source, target, step):
        order[place], sites[place] = order[place + step], sites[place + step]
    order[target], sites[target] = task, site


@compiled
def anneal(
    source: Problem,
    target: Problem,
    trail: Trail,
    children: np.ndarray,
    plan: np.ndarray,
    best: np.ndarray,
    costs: np.ndarray,
    steps: int,
    hot: float,
    cold: float,
    rng: np.random.Generator,
) -> int:
    """Makes Metropolis steps. Each changes the site of one task, or moves the task between its parents and children.

    Args:
        source: n tasks on K + 1 sites, in their first order, which names them.
        target: the same tasks in the order of `plan`.
        trail: room for a plan in progress.
        children: int[n + 1 + E]; those of task i are `children[children[i] : children[i + 1]]`.
        plan: int[3, n], the current plan: the task at each position, its site, and the position of each task.
        best: int[2, n], the first two rows of the best plan so far.
        costs: [2], of the current plan and of the best.
        steps: number of steps.
        hot: first temperature, in units of the cost.
        cold: last temperature.
        rng: draws the steps.

    Returns:
        The number of plans compared.
    """
    order, sites, position = plan[0], plan[1], plan[2]
    n, servers, count = len(order), source.rules[SERVERS], 0
    known = 0  # the rows of the trail up to this one belong to the current plan
    for step in range(steps):
        temperature = hot * (cold / hot) ** (step / steps)
        at, site = rng.integers(0, n), 0
        task, here = order[at], sites[at]
        to = at
        if rng.random() < 0.5:
            low, high = 0, n - 1
            for e in range(source.edges[task], source.edges[task + 1]):
                low = max(low, position[source.edges[e]] + 1)
            for e in range(children[task], children[task + 1]):
                high = min(high, position[children[e]] - 1)
            if low == high:
                continue
            to = rng.integers(low, high)
            to += to >= at
        else:
            site = (here + rng.integers(1, servers + 1)) % (servers + 1)
            if not target.allowed[at, site]:
                continue
        begin = int(min(at, to))
        if known < begin:
            run(target, trail, sites, known, begin, True, np.inf)
        if to == at:
            sites[at] = site
        else:
            _move(order, sites, at, to)
            reorder(source, target, order, position, begin)
        enough = costs[0] - temperature * math.log(1 - rng.random())
        cost = run(target, trail, sites, begin, n, True, enough)
        known, count = n, count + 1
        if cost <= enough:
            costs[0] = cost
            if cost < costs[1]:
                costs[1] = cost
                for place in range(n):
                    best[0, place], best[1, place] = order[place], sites[place]
            continue
        known = begin
        if to == at:
            sites[at] = here
        else:
            _move(order, sites, to, at)
            reorder(source, target, order, position, begin)
    return count


class OrderSearch:
    """An annealing that begins with the best plan of a workspace and can be continued.

    Attributes:
        order: int64[n], the order of the best plan so far, as positions in the order of the workspace.
        actions: int64[n], its sites, in `order`.
        evaluations: number of complete plans compared so far.
    """

    def __init__(self, work: Workspace, seed: int = 0) -> None:
        self._source, n = work.problem, len(work.actions)
        parents, children = np.nonzero(work.dag.parents.T)
        children = np.concatenate([np.searchsorted(parents, np.arange(n + 1)) + n + 1, children])
        self.order, self.actions = self._best = np.stack([np.arange(n), work.actions])
        self._costs, self._first = np.full(2, work.cost), work.cost
        plan = np.stack([np.arange(n), work.actions, np.arange(n)])
        trail, rng = empty_trail(work.problem), np.random.default_rng(seed)
        self._data = (self._source, _copy(self._source), trail, children, plan, self._best, self._costs), rng
        self.evaluations = 0

    @property
    def cost(self) -> float:
        """The cost of the best plan."""
        return float(self._costs[1])

    @property
    def problem(self) -> Problem:
        """The tasks in `order`."""
        problem = _copy(self._source)
        reorder(self._source, problem, self.order, np.empty_like(self.order), 0)
        return problem

    def anneal(self, steps: int, begin: float = 0.0, end: float = 1.0) -> None:
        """Makes steps, between two fractions of the cooling."""
        hot, cold = (self._first * HOT * (COLD / HOT) ** share for share in (begin, end))
        data, rng = self._data
        self.evaluations += anneal(*data, steps, hot, cold, rng)

    def run(self, end: float, enough: float = 0.0) -> None:
        """Anneals until a time on the monotonic clock, or until a plan costs at most `enough`."""
        began = now = time.monotonic()
        steps, whole = max(1, FIRST_STEPS // len(self.order)), end - began
        while now < end and self.cost > enough:
            share = (now - began) / whole
            self.anneal(steps, share, min(1.0, share + 1 / CHUNKS))
            before, now = now, time.monotonic()
            pace = steps / max(now - before, 1e-7)
            steps = max(1, int(min(4 * steps, pace * whole / CHUNKS, pace * (end - now))))


def _copy(problem: Problem) -> Problem:
    return problem._replace(times=problem.times.copy(), edges=problem.edges.copy(), allowed=problem.allowed.copy())


def warm_up() -> None:
    """Compiles every function, or loads it from numba's cache."""
    OrderSearch(two_tasks()).anneal(4)
