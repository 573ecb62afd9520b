"""Local search and proof in machine code, for plans within milliseconds; needs numba (extra `fast`).

`mec.latency` holds the recurrence for JAX, which computes many plans side by side. The recurrence below computes one
plan, in some 10 ns a task, where a step of a compiled JAX loop takes microseconds. The tests hold both equal.

All functions work on one DAG without padding (`Problem`); positions and letters are those of `mec.arrays`. A plan in
progress is a `Trail`, from whose row d a search can continue after the first d tasks. A call costs as much as ten
tasks, by its many arguments: so `run` places a range of tasks, and both records have few arrays.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import config, njit

from mrlato_jax.mec.arrays import DagArrays, trimmed
from mrlato_jax.mec.latency import LOCAL, Schedule
from mrlato_jax.mec.objective import joules
from mrlato_jax.mec.system import CHANNELS, System
from mrlato_jax.planners.bounds import ROUNDING, TOLERANCE, work_left
from mrlato_jax.planners.descent import BETTER, MOST_PAIRS, UNLIMITED

LEAST_MOVES, MOST_MOVES = 3, 6  # tasks that a kick moves
NEAR = 10  # positions among which a kick moves tasks
WORSE = 0.15  # how much worse, relative and times n, a plan may be that kicks continue from
MOST_BYTES = 2**28  # memory limit of the data of a proof
CHUNK_S = 0.05  # seconds between two looks at the clock
WAITS, DOWNLOADS_QUEUE, ENTRIES_QUEUE, STAYS, RADIOS, SERVERS = range(6)  # indices of `Problem.rules`
SECOND, COMPUTE, SEND, RECEIVE, LATEST, DEAREST = range(6)  # indices of `Problem.numbers`
HOME, SENT, ENDED = range(3)  # columns of `Trail.ends`
ON_ITS_WAY = -1.0  # an end that is not known yet

# Machine code contains functions and constants of these files.
SOURCES = ("planners/machine_code.py", "planners/machine_orders.py", "planners/bounds.py", "planners/descent.py",
           "mec/arrays.py", "mec/latency.py", "mec/objective.py", "mec/system.py")  # fmt: skip


def _cache_folder() -> str:
    """Returns the folder of the machine code of these sources: numba looks only at the file of a function itself.

    It is in the folder that the user sets (NUMBA_CACHE_DIR), beside the sources, or in the user's cache.
    """
    package = Path(__file__).parents[1]
    sources = hashlib.sha256(b"".join((package / name).read_bytes() for name in SOURCES)).hexdigest()
    own = package / "planners" / "__pycache__"
    if not os.access(own if own.exists() else own.parent, os.W_OK):
        own = Path.home() / ".cache" / "mrlato_jax"
    return str(Path(config.CACHE_DIR or own) / f"machine-code-{sources[:16]}")


CACHE_FOLDER = _cache_folder()


def compiled(function: Callable[..., Any]) -> Any:
    """Compiles a function when it is called, and keeps the machine code in `CACHE_FOLDER`. A decorator."""
    users, config.CACHE_DIR = config.CACHE_DIR, CACHE_FOLDER
    try:
        # `nnan`, `nsz`: no number is NaN, and the sign of 0 does not matter. Neither changes a sum.
        return njit(cache=True, nogil=True, error_model="numpy", fastmath={"nnan", "nsz"})(function)
    finally:
        config.CACHE_DIR = users


class Problem(NamedTuple):
    """One DAG under one system and objective.

    Attributes:
        times: [n, 4 K + 2], seconds by position: `T_ue`, then for each server `T_ul`, `T_m`, `T_dl` and the time to
            send the result there, then the time to send it between servers. The last K + 1 are 0 unless results stay.
        edges: int[n + 1 + E]; the parents of task i are `edges[edges[i] : edges[i + 1]]`, ascending.
        allowed: bool[n, K + 2], the sites that pins allow, then whether the task has no children.
        numbers: prices of a second of makespan, computing, sending and receiving; the deadline, infinite without one,
            and the bound of `arrays.Deadline`.
        rules: the fields of `ChannelRules`, then L and K.
    """

    times: np.ndarray
    edges: np.ndarray
    allowed: np.ndarray
    numbers: np.ndarray
    rules: np.ndarray


class Trail(NamedTuple):
    """A plan in progress.

    Attributes:
        free: [n + 2, 2 L + K + 4], row d after the first d tasks: when each uplink, server and downlink is free, then
            when the UE and the backhaul are, the makespan, and the cost of computing and transfers. The last row is
            for plans that are only compared.
        ends: [n, 3], when each result is at the UE, when its data are at the sender, and when it was computed by a
            server. Where results stay: when the result is at the UE, or computed if no task needed it there; when the
            last moved input was at the task's server; and when the result was computed by whichever site.
        site: int[n]. Entries of tasks that are not placed have no meaning, here and in `ends`.
        there: bool[n + 2, n, K + 1], where results stay: whether a result is at a site or on its way; else empty.
    """

    free: np.ndarray
    ends: np.ndarray
    site: np.ndarray
    there: np.ndarray


def problem_of(dag: DagArrays) -> Problem:
    """Converts one DAG in float64 that is backed by NumPy and has no padding."""
    n, servers = dag.vm.shape
    children, parents = np.nonzero(dag.parents)
    rules, prices, deadline = CHANNELS[dag.channel], dag.prices, dag.deadline
    times = np.zeros((n, 4 * servers + 2))
    times[:, 0] = dag.ue
    times[:, 1 : 3 * servers + 1] = np.concatenate([dag.uplink, dag.vm, dag.downlink], axis=1)
    if rules.results_stay:
        times[:, 3 * servers + 1 : -1], times[:, -1] = dag.forward, dag.backhaul
    allowed = np.ones((n, servers + 2), bool)
    if dag.allowed is not None:
        allowed[:, :-1] = dag.allowed
    allowed[:, -1] = ~dag.parents.any(axis=0)
    return Problem(
        times,
        np.concatenate([np.searchsorted(children, np.arange(n + 1)) + n + 1, parents]),
        allowed,
        np.array(
            [
                *((1.0, 0.0, 0.0, 0.0) if prices is None else prices),
                *((np.inf, 0.0) if deadline is None else deadline),
            ],
            float,
        ),
        np.array([*rules, 1 if dag.radio == "shared" else servers, servers]),
    )


def empty_trail(problem: Problem) -> Trail:
    """Returns the trail of the empty plan: all resources are free at time 0."""
    n, (radios, servers) = len(problem.times), problem.rules[RADIOS:]
    rows = n + 2 if problem.rules[STAYS] else 0
    free = np.zeros((n + 2, 2 * radios + servers + 4))
    return Trail(free, np.zeros((n, 3)), np.zeros(n, np.int64), np.zeros((rows, n, servers + 1), bool))


@compiled
def run(problem: Problem, trail: Trail, actions: np.ndarray, begin: int, end: int, keep: bool, enough: float) -> float:
    """Places the tasks from `begin` to before `end`, after the tasks before them: the recurrence (7)-(11).

    Args:
        problem: n tasks on K + 1 sites.
        trail: has placed the tasks before `begin`.
        actions: int[n], sites.
        begin: position of the first of them.
        end: position after the last of them.
        keep: whether each task's state becomes a row of the trail; else all go into the last row.
        enough: the cost beyond which the plan is of no interest.

    Returns:
        The cost (`latency.cost`) of all placed tasks, or infinity once it exceeds `enough`.
    """
    if problem.rules[STAYS]:
        return _run_where_results_stay(problem, trail, actions, begin, end, keep, enough)
    times, edges, numbers = problem.times, problem.edges, problem.numbers
    free, ends, site_of = trail.free, trail.ends, trail.site
    waits, queue, entries = problem.rules[WAITS], problem.rules[DOWNLOADS_QUEUE], problem.rules[ENTRIES_QUEUE]
    radios, servers = problem.rules[RADIOS], problem.rules[SERVERS]
    ue, makespan, spent = 2 * radios + servers, 2 * radios + servers + 2, 2 * radios + servers + 3
    columns, row = spent + 1, begin
    if not keep:
        row = len(free) - 1
        for column in range(columns):
            free[row, column] = free[begin, column]
    paid = _cost(numbers, free[row, makespan], free[row, spent])
    for i in range(begin, end):
        if keep:
            row = i + 1
            for column in range(columns):
                free[row, column] = free[i, column]
        site = actions[i]
        home = sent = ended = 0.0
        for e in range(edges[i], edges[i + 1]):
            parent = edges[e]
            home = max(home, ends[parent, HOME])
            if not waits:
                sent, ended = max(sent, ends[parent, SENT]), max(ended, ends[parent, ENDED])
        if site == LOCAL:
            home = sent = max(free[row, ue], home) + times[i, 0]
            ended = 0.0
            free[row, ue] = home
            free[row, spent] += numbers[COMPUTE] * times[i, 0]
        else:
            up = 0 if radios == 1 else site - 1
            vm, down = radios + site - 1, radios + servers + up
            upload, download = times[i, site], times[i, 2 * servers + site]
            sent = max(free[row, up], home if waits else sent) + upload
            if entries or edges[i + 1] > edges[i]:
                free[row, up] = sent
            ended = max(free[row, vm], max(sent, ended)) + times[i, servers + site]
            free[row, vm] = ended
            home = (max(free[row, down], ended) if queue else ended) + download
            free[row, down] = max(free[row, down], home)
            free[row, spent] += numbers[SEND] * upload + numbers[RECEIVE] * download
        free[row, makespan] = max(free[row, makespan], home)
        ends[i, HOME], ends[i, SENT], ends[i, ENDED], site_of[i] = home, sent, ended, site
        paid = _cost(numbers, free[row, makespan], free[row, spent])
        if paid > enough:
            return np.inf
    return paid


@compiled
def _cost(numbers: np.ndarray, makespan: float, spent: float) -> float:
    if makespan > numbers[LATEST]:
        return numbers[DEAREST] + makespan
    return numbers[SECOND] * makespan + spent


@compiled
def _run_where_results_stay(
    problem: Problem, trail: Trail, actions: np.ndarray, begin: int, end: int, keep: bool, enough: float
) -> float:
    """`run` where results stay: inputs that are missing at a task's site are moved there, in the parents' order."""
    times, edges, numbers = problem.times, problem.edges, problem.numbers
    free, ends, site_of, there = trail.free, trail.ends, trail.site, trail.there
    radios, servers = problem.rules[RADIOS], problem.rules[SERVERS]
    ue, backhaul = 2 * radios + servers, 2 * radios + servers + 1
    makespan, spent = ue + 2, ue + 3
    row, source, last = begin, begin, len(free) - 1
    for i in range(begin, end):
        if keep or i == begin:
            row, source = (i + 1 if keep else last), i
            for column in range(spent + 1):
                free[row, column] = free[source, column]
            for j in range(i):
                for k in range(servers + 1):
                    there[row, j, k] = there[source, j, k]
        for k in range(servers + 1):
            there[row, i, k] = False
        site, arrival = actions[i], 0.0
        radio = 0 if radios == 1 else max(site - 1, 0)
        if site != LOCAL and edges[i] == edges[i + 1]:
            free[row, radio] += times[i, site]
            free[row, spent] += numbers[SEND] * times[i, site]
            arrival = free[row, radio]
        for e in range(edges[i], edges[i + 1]):
            parent = edges[e]
            if there[row, parent, site]:
                continue
            there[row, parent, site] = True
            came = site_of[parent]
            if site == LOCAL:
                ends[parent, HOME] = ON_ITS_WAY
                link = radios + servers + (0 if radios == 1 else came - 1)
                took, price = times[parent, 2 * servers + came], numbers[RECEIVE]
            elif came == LOCAL:
                link, took, price = radio, times[parent, 3 * servers + site], numbers[SEND]
            else:
                link, took, price = backhaul, times[parent, 4 * servers + 1], 0.0
            free[row, link] = max(free[row, link], ends[parent, ENDED]) + took
            free[row, spent] += price * took
            arrival = max(arrival, free[row, link])
        for e in range(edges[i], edges[i + 1]):
            parent = edges[e]
            if site == LOCAL and ends[parent, HOME] == ON_ITS_WAY:
                ends[parent, HOME] = free[row, radios + servers + (0 if radios == 1 else site_of[parent] - 1)]
        queue = ue if site == LOCAL else radios + site - 1
        took = times[i, 0] if site == LOCAL else times[i, servers + site]
        ended = result = max(free[row, queue], arrival) + took
        free[row, queue] = ended
        there[row, i, site] = True
        if site == LOCAL:
            free[row, spent] += numbers[COMPUTE] * took
        elif problem.allowed[i, servers + 1]:
            down, took = radios + servers + radio, times[i, 2 * servers + site]
            result = max(free[row, down], ended) + took
            free[row, down] = result
            free[row, spent] += numbers[RECEIVE] * took
            there[row, i, LOCAL] = True
        free[row, makespan] = max(free[row, makespan], result)
        sent = 0.0 if site == LOCAL else arrival
        ends[i, HOME], ends[i, SENT], ends[i, ENDED], site_of[i] = result, sent, ended, site
        if _cost(numbers, free[row, makespan], free[row, spent]) > enough:
            return np.inf
    return _cost(numbers, free[row, makespan], free[row, spent])


def schedule(problem: Problem, actions: np.ndarray, order: np.ndarray, system: System) -> Schedule:
    """Computes the `Schedule` of a plan, as `latency.simulate` does.

    Args:
        problem: n tasks in scheduling order, for any objective.
        actions: int64[n], sites in scheduling order.
        order: int[n], task ids in scheduling order.
        system: the system of `problem`.
    """
    n, prices = len(actions), joules(system.power)
    problem = problem._replace(numbers=np.array([*prices, np.inf, 0.0], float))
    trail = empty_trail(problem)
    run(problem, trail, actions, 0, n, True, np.inf)
    home, sent, ended = trail.ends.T
    away = actions > LOCAL
    came = away & trail.there[n, :, LOCAL] if problem.rules[STAYS] else away
    ends = np.empty((4, n))  # of uploads, servers, downloads and the UE
    ends[:, order] = np.where([away, away, came, ~away], [sent, ended, home, home], 0.0)
    makespan, spent = trail.free[n, -2:].tolist()
    return Schedule(makespan, ends[0], ends[1], ends[2], ends[3], prices.makespan * makespan + spent)


@compiled
def earliest_finish(problem: Problem, trail: Trail, actions: np.ndarray) -> float:
    """Fills `actions`, int[n], as `greedy.earliest_finish` does; returns the cost."""
    n, cost = len(actions), 0.0
    spent = trail.free.shape[1] - 1
    for i in range(n):
        least, chosen = np.inf, LOCAL
        for site in range(problem.rules[SERVERS] + 1):
            if problem.allowed[i, site]:
                actions[i] = site
                run(problem, trail, actions, i, i + 1, True, np.inf)
                own = problem.numbers[SECOND] * trail.ends[i, HOME] + trail.free[i + 1, spent] - trail.free[i, spent]
                # a server wins a tie against the UE; the first server wins a tie among servers
                if own < least or (own == least and chosen == LOCAL):
                    least, chosen = own, site
        actions[i] = chosen
        cost = run(problem, trail, actions, i, i + 1, True, np.inf)
    return cost


@compiled
def descend(problem: Problem, trail: Trail, other: Trail, actions: np.ndarray, most: int) -> tuple[float, int]:
    """`descent.descend`: changes `actions` by the best change of one task, else of two, until none helps.

    Args:
        problem: n tasks on K + 1 sites.
        trail: room for a plan in progress.
        other: room for another.
        actions: int[n], an allowed start; ends as the result.
        most: limit of evaluations.

    Returns:
        The cost, and the number of plans compared.
    """
    n, ways = len(actions), problem.rules[SERVERS]
    best, count, wide = run(problem, trail, actions, 0, n, True, np.inf), 1, False
    pairs = n * (n - 1) // 2 * ways * ways
    while True:
        more = pairs if wide else n * ways
        if count + more > most or more > MOST_PAIRS:
            return best, count
        count += more
        reached, change = best * BETTER, (-1, 0, -1, 0)
        run(problem, trail, actions, 0, n, True, np.inf)
        for i in range(n - 1, -1, -1):  # row i of the trail still belongs to `actions`
            here = actions[i]
            for shift in range(ways, 0, -1):
                site = (here + shift) % (ways + 1)
                if not problem.allowed[i, site]:
                    continue
                actions[i] = site
                if wide:
                    run(problem, trail, actions, i, n, True, np.inf)
                    reached, change = _best_second(problem, trail, other, actions, i, reached, change)
                else:
                    value = run(problem, trail, actions, i, n, False, reached)
                    if value <= reached:
                        reached, change = value, (i, site, -1, 0)
            actions[i] = here
        if change[0] >= 0 and reached < best * BETTER:
            best, wide = reached, False
            actions[change[0]] = change[1]
            if change[2] >= 0:
                actions[change[2]] = change[3]
        elif wide:
            return best, count
        else:
            wide = True


@compiled
def _best_second(
    problem: Problem,
    trail: Trail,
    other: Trail,
    actions: np.ndarray,
    first: int,
    reached: float,
    change: tuple[int, int, int, int],
) -> tuple[float, tuple[int, int, int, int]]:
    """The best change so far, or a better one that moves a later task beside `first`, which `actions` has moved."""
    n, ways = len(actions), problem.rules[SERVERS]
    _copy(trail, other)
    for j in range(n - 1, first, -1):
        here = actions[j]
        for shift in range(ways, 0, -1):
            site = (here + shift) % (ways + 1)
            if problem.allowed[j, site]:
                actions[j] = site
                value = run(problem, other, actions, j, n, False, reached)
                if value <= reached:
                    reached, change = value, (first, actions[first], j, site)
        actions[j] = here
    return reached, change


@compiled
def _copy(source: Trail, target: Trail) -> None:
    """Copies a trail by loops, which compile in a tenth of the time of array assignments."""
    for i in range(len(source.free)):
        for column in range(source.free.shape[1]):
            target.free[i, column] = source.free[i, column]
    for i in range(len(source.site)):
        target.site[i] = source.site[i]
        for column in range(3):
            target.ends[i, column] = source.ends[i, column]
    for i in range(len(source.there)):
        for j in range(source.there.shape[1]):
            for k in range(source.there.shape[2]):
                target.there[i, j, k] = source.there[i, j, k]


@compiled
def settle(problem: Problem, trail: Trail, actions: np.ndarray, most: int) -> tuple[float, int]:
    """Local search by one task at a time, the last task first, that takes every change that helps.

    Args:
        problem: n tasks on K + 1 sites.
        trail: room for a plan in progress.
        actions: int[n], an allowed start; ends as the result.
        most: limit of the plans compared, beside the first of each pass over the tasks.

    Returns:
        The cost of `actions`, and the number of plans compared.
    """
    n, sites, count, cost, helped = len(actions), problem.rules[SERVERS] + 1, 0, 0.0, True
    while helped and (count < most or count == 0):
        helped = False
        cost, count = run(problem, trail, actions, 0, n, True, np.inf), count + 1
        for i in range(n - 1, -1, -1):  # row i of the trail does not depend on later tasks
            here = actions[i]
            for shift in range(1, sites):
                site = (here + shift) % sites
                if count >= most:
                    return cost, count
                if not problem.allowed[i, site]:
                    continue
                actions[i], count = site, count + 1
                value = run(problem, trail, actions, i, n, False, cost * BETTER)
                if value < cost * BETTER:
                    cost, here, helped = value, site, True
                actions[i] = here
    return cost, count


@compiled
def kick(
    problem: Problem,
    trail: Trail,
    current: np.ndarray,
    cost: float,
    actions: np.ndarray,
    best: float,
    most: int,
    rng: np.random.Generator,
) -> tuple[float, float, int]:
    """Iterated local search: moves a few tasks near each other at random and settles, from the current plan.

    The result becomes the current plan if it costs at most `WORSE` / n more. Accepting slightly worse plans more than
    halves the gap to the optimum that is left after 10 ms (Experiments 1 and 2).

    Args:
        problem: n tasks on K + 1 sites.
        trail: room for a plan in progress.
        current: int[n], the current plan; ends as the last one accepted.
        cost: its cost.
        actions: int[n], the best plan; ends as the best plan found.
        best: its cost.
        most: limit of the plans compared.
        rng: draws the moves.

    Returns:
        The costs of `current` and of `actions`, and the number of plans compared.
    """
    n, sites, count = len(actions), problem.rules[SERVERS] + 1, 0
    trial = current.copy()
    while count < most:
        trial[:] = current
        first = rng.integers(0, n)
        for _ in range(rng.integers(LEAST_MOVES, MOST_MOVES + 1)):
            i, site = (first + rng.integers(0, NEAR)) % n, rng.integers(0, sites - 1)
            site += site >= trial[i]
            if problem.allowed[i, site]:
                trial[i] = site
        reached, more = settle(problem, trail, trial, most - count)
        count += more
        if reached <= cost * (1 + WORSE / n):
            cost = reached
            current[:] = trial
        if reached < best:
            best = reached
            actions[:] = trial
    return cost, best, count


class Bounds(NamedTuple):
    """`bounds.Left` as arrays: up to three kinds of resources that share the remaining work with the UE.

    Attributes:
        splits: [3, 2, n, n + 1], of uplinks, downlinks and servers: `Split.kept` and `Split.ahead` at each depth.
        least: [3, n], `Shared.least`.
        weights: [3, max(L, K)], `Shared.weights`; 0 for a kind that is not used.
        cheapest: [n + 1], the total cost of the remaining tasks at their cheapest sites.
        arrival: [n, K + 1], room for each result's earliest arrival at each site.
    """

    splits: np.ndarray
    least: np.ndarray
    weights: np.ndarray
    cheapest: np.ndarray
    arrival: np.ndarray


class Depths(NamedTuple):
    """A depth-first search that can be stopped and continued.

    Attributes:
        bounds: [n, K + 1], lower bounds of the promising children at each depth, ascending.
        sites: int[n, K + 1], their sites.
        counts: int[n + 1, 2], the number of these children, and of those that were searched. The last row is the number
            of tasks placed, -1 once the search is over.
        actions: int[n], the sites of the node that is searched.
    """

    bounds: np.ndarray
    sites: np.ndarray
    counts: np.ndarray
    actions: np.ndarray


@compiled
def _by_workload(problem: Problem, trail: Trail, bounds: Bounds, depth: int) -> float:
    """Lower bound of the makespan: the UE and the resources of one kind share the remaining tasks in the best way."""
    free, splits, least, weights = trail.free, bounds.splits, bounds.least, bounds.weights
    radios, servers, stays = problem.rules[RADIOS], problem.rules[SERVERS], problem.rules[STAYS]
    ue, latest = free[depth, 2 * radios + servers], free[depth, 2 * radios + servers + 2]
    # An unused link delays nothing, so its free time counts only up to the makespan so far.
    most = np.inf if radios == 1 and not stays else latest
    for kind in range(3):
        if weights[kind, 0] == 0:
            continue
        begin = 0.0
        for k in range(servers if kind == 2 else radios):
            if kind == 0:
                one = free[depth, k] + least[0, depth]
            elif kind == 1:
                one = free[depth, radios + servers + k]
                if not stays:
                    one = max(one, free[depth, k] + least[1, depth])
            else:
                one = free[depth, radios + k]
            begin += min(one, most) * weights[kind, k]
        lead, low, high = begin - ue, 0, splits.shape[3] - 1
        if lead <= splits[kind, 1, depth, 0]:
            together = begin - splits[kind, 1, depth, 0]
        elif lead >= splits[kind, 1, depth, high]:
            together = ue + splits[kind, 0, depth, high]
        else:
            while high - low > 1:
                middle = (low + high) // 2
                if splits[kind, 1, depth, middle] <= lead:
                    low = middle
                else:
                    high = middle
            kept, ahead = splits[kind, 0, depth, low], splits[kind, 1, depth, low]
            share = (lead - ahead) / (splits[kind, 1, depth, high] - ahead)
            together = ue + kept + share * (splits[kind, 0, depth, high] - kept)
        latest = max(latest, together)
    return latest


@compiled
def _by_precedence(problem: Problem, trail: Trail, depth: int, enough: float) -> float:
    """Lower bound of the makespan: each remaining task at its best site, with the queues as they are now.

    Ends once the bound reaches `enough`. Overwrites `Trail.ends` of the remaining tasks.
    """
    times, edges, allowed, free, ends = problem.times, problem.edges, problem.allowed, trail.free, trail.ends
    waits, queue = problem.rules[WAITS], problem.rules[DOWNLOADS_QUEUE]
    radios, servers = problem.rules[RADIOS], problem.rules[SERVERS]
    ue, latest = free[depth, 2 * radios + servers], free[depth, 2 * radios + servers + 2]
    for i in range(depth, len(times)):
        home = sent = ended = 0.0
        for e in range(edges[i], edges[i + 1]):
            parent = edges[e]
            home = max(home, ends[parent, HOME])
            if not waits:
                sent, ended = max(sent, ends[parent, SENT]), max(ended, ends[parent, ENDED])
        sendable = home if waits else sent
        result = sent = max(ue, home) + times[i, 0] if allowed[i, LOCAL] else np.inf
        if allowed[i, 1]:
            for k in range(servers):
                radio = 0 if radios == 1 else k
                upload = max(free[depth, radio], sendable) + times[i, 1 + k]
                vm = max(free[depth, radios + k], max(upload, ended)) + times[i, servers + 1 + k]
                down = (max(free[depth, radios + servers + radio], vm) if queue else vm) + times[i, 2 * servers + 1 + k]
                sent, result = min(sent, upload), min(result, down)
        ends[i, HOME], ends[i, SENT], ends[i, ENDED] = result, sent, 0.0
        latest = max(latest, result)
        if latest >= enough:
            break
    return latest


@compiled
def _by_precedence_at_sites(problem: Problem, trail: Trail, bounds: Bounds, depth: int, enough: float) -> float:
    """`_by_precedence` where results stay: follows each result's earliest arrival at each site."""
    times, edges, allowed, arrival = problem.times, problem.edges, problem.allowed, bounds.arrival
    free, there = trail.free, trail.there
    radios, servers = problem.rules[RADIOS], problem.rules[SERVERS]
    ue, backhaul = 2 * radios + servers, 2 * radios + servers + 1
    latest = free[depth, ue + 2]
    for i in range(len(times)):
        if i < depth:
            for site in range(servers + 1):
                arrival[i, site] = trail.ends[i, ENDED] if site == trail.site[i] else np.inf
        else:
            for site in range(servers + 1):
                ready = 0.0
                for e in range(edges[i], edges[i + 1]):
                    ready = max(ready, arrival[edges[e], site])
                if site == LOCAL:
                    arrival[i, LOCAL] = max(free[depth, ue], ready) + times[i, 0]
                else:
                    if edges[i] == edges[i + 1]:
                        ready = free[depth, 0 if radios == 1 else site - 1] + times[i, site]
                    arrival[i, site] = max(free[depth, radios + site - 1], ready) + times[i, servers + site]
                if not allowed[i, site]:
                    arrival[i, site] = np.inf
        # from where each site can have computed the result to where it can have arrived
        on_ue, on_server, home = arrival[i, LOCAL], np.inf, np.inf
        for k in range(servers):
            radio = 0 if radios == 1 else k
            on_server = min(on_server, arrival[i, k + 1])
            sent_home = max(free[depth, radios + servers + radio], arrival[i, k + 1]) + times[i, 2 * servers + 1 + k]
            home = min(home, sent_home)
        over = max(free[depth, backhaul], on_server) + times[i, 4 * servers + 1]
        for k in range(servers):
            up = max(free[depth, 0 if radios == 1 else k], on_ue) + times[i, 3 * servers + 1 + k]
            arrival[i, k + 1] = min(arrival[i, k + 1], min(up, over))
        arrival[i, LOCAL] = min(on_ue, home)
        if i < depth:
            for site in range(servers + 1):
                if there[depth, i, site]:
                    arrival[i, site] = 0.0  # it delays a task no more than the queues do
        else:
            latest = max(latest, arrival[i, LOCAL] if allowed[i, servers + 1] else min(on_ue, on_server))
            if latest >= enough:
                break
    return latest


@compiled
def _expand(
    problem: Problem, trail: Trail, bounds: Bounds, search: Depths, depth: int, parent_bound: float, best: float
) -> None:
    """Finds the promising children of the node at `depth` and sorts them by their bounds."""
    n, number, numbers = len(problem.times), 0, problem.numbers
    margin, spent_column = 1 - ROUNDING, trail.free.shape[1] - 1
    for site in range(problem.rules[SERVERS] + 1):
        if not problem.allowed[depth, site]:
            continue
        search.actions[depth] = site
        bound = run(problem, trail, search.actions, depth, depth + 1, True, np.inf)
        if depth + 1 < n:
            spent = trail.free[depth + 1, spent_column] + bounds.cheapest[depth + 1] * margin
            enough = np.inf  # the makespan from which no completion pays; a deadline makes costs jump
            if numbers[SECOND] > 0 and numbers[LATEST] == np.inf:
                enough = (best - spent) / numbers[SECOND] / margin
            latest = _by_workload(problem, trail, bounds, depth + 1)
            if latest < enough:
                if problem.rules[STAYS]:
                    latest = max(latest, _by_precedence_at_sites(problem, trail, bounds, depth + 1, enough))
                else:
                    latest = max(latest, _by_precedence(problem, trail, depth + 1, enough))
            bound = _cost(numbers, latest * margin, spent)
        bound = max(bound, parent_bound)
        if bound < best * (1 - TOLERANCE):
            at = number
            while at > 0 and search.bounds[depth, at - 1] > bound:
                search.bounds[depth, at] = search.bounds[depth, at - 1]
                search.sites[depth, at] = search.sites[depth, at - 1]
                at -= 1
            search.bounds[depth, at], search.sites[depth, at] = bound, site
            number += 1
    search.counts[depth, 0], search.counts[depth, 1] = number, 0


@compiled
def prove(
    problem: Problem, trail: Trail, bounds: Bounds, search: Depths, actions: np.ndarray, best: float, most: int
) -> tuple[float, int]:
    """Expands up to `most` nodes, each time the most promising child of the deepest node that has one left.

    Args:
        problem: n tasks on K + 1 sites.
        trail: room for a plan in progress, which no other search uses.
        bounds: data of the bounds.
        search: from the last call, or with an empty plan that is not expanded (all of `counts` 0).
        actions: int[n], the best known plan; ends as a better one if one was found.
        best: its cost.
        most: limit of the nodes.

    Returns:
        The cost of `actions`, and the number of nodes that were expanded.
    """
    n = len(problem.times)
    depth, expanded = search.counts[n, 0], 0
    if search.counts[n, 1] == 0:
        search.counts[n, 1] = 1
        _expand(problem, trail, bounds, search, 0, 0.0, best)
        expanded = 1
    while depth >= 0 and expanded < most:
        child = search.counts[depth, 1]
        if child == search.counts[depth, 0] or search.bounds[depth, child] >= best * (1 - TOLERANCE):
            depth -= 1
            continue
        search.counts[depth, 1] = child + 1
        bound = search.bounds[depth, child]
        search.actions[depth] = search.sites[depth, child]
        if depth + 1 == n:
            best = bound
            actions[:] = search.actions
            continue
        run(problem, trail, search.actions, depth, depth + 1, True, np.inf)
        depth += 1
        _expand(problem, trail, bounds, search, depth, bound, best)
        expanded += 1
    search.counts[n, 0] = depth
    return best, expanded


class Workspace:
    """One DAG, the best plan of it so far, and room for plans in progress.

    Attributes:
        dag: one DAG in float64, backed by NumPy, without padding.
        actions: int64[n], sites of the best plan so far, in scheduling order; at first every task on the UE.
        cost: its cost; infinite before the first plan.
        evaluations: number of complete plans compared so far.
        most: limit of evaluations.
    """

    def __init__(self, dag: DagArrays, most: int = UNLIMITED, seed: int = 0) -> None:
        self.dag = trimmed(dag, int(dag.mask.sum()))
        self.problem = problem_of(self.dag)
        self.trail = empty_trail(self.problem)
        self._other: Trail | None = None
        self._rng = np.random.default_rng(seed)
        self.actions, self.cost = np.zeros(len(self.dag.ue), np.int64), np.inf
        self.evaluations, self.most = 0, most
        self._kicked: np.ndarray | None = None
        self._kicked_cost = self._kicked_best = np.inf

    def unpadded(self, actions: np.ndarray) -> np.ndarray:
        """Copies sites [N] of a padded DAG to int64[n]; numba compiles anew for arrays that are read-only."""
        return np.array(actions[: len(self.dag.ue)], np.int64)

    def cost_of(self, actions: np.ndarray) -> float:
        """Returns the cost of a plan, int64[n]."""
        return float(run(self.problem, self.trail, actions, 0, len(actions), True, np.inf))

    def at_one_site(self, site: int) -> np.ndarray:
        """Returns int64[n] sites: this one, and for tasks whose pins forbid this site the first one that they allow."""
        allowed = self.problem.allowed[:, :-1]
        return np.where(allowed[:, site], site, allowed.argmax(axis=1))

    def random(self) -> np.ndarray:
        """Draws sites int64[n] that pins allow, all of them equally likely."""
        allowed = self.problem.allowed[:, :-1]
        return np.where(allowed, self._rng.random(allowed.shape), -1).argmax(axis=1)

    def earliest_finish(self) -> np.ndarray:
        """Returns the sites int64[n] of `greedy.earliest_finish`."""
        actions = np.zeros(len(self.dag.ue), np.int64)
        earliest_finish(self.problem, self.trail, actions)
        return actions

    def improve(self, actions: np.ndarray) -> float:
        """Runs `descend` from int64[n] while evaluations are left, keeps the best plan and returns the cost reached."""
        if self.evaluations >= self.most:
            return self.cost
        end = actions.copy()
        self._other = empty_trail(self.problem) if self._other is None else self._other
        cost, count = descend(self.problem, self.trail, self._other, end, self.most - self.evaluations)
        self.evaluations += count
        self.keep(end, cost)
        return float(cost)

    def settle(self, actions: np.ndarray, most: int = UNLIMITED) -> None:
        """Runs `settle` from int64[n], for at most so many plans, and keeps the best plan."""
        end = actions.copy()
        cost, count = settle(self.problem, self.trail, end, most)
        self.evaluations += count
        self.keep(end, cost)

    def kick(self, most: int) -> None:
        """Runs `kick` for so many plans from where the last call ended, or from the best plan if that is new."""
        if self._kicked is None or self._kicked_best != self.cost:
            self._kicked, self._kicked_cost = self.actions.copy(), self.cost
        self._kicked_cost, self.cost, count = kick(
            self.problem, self.trail, self._kicked, self._kicked_cost, self.actions, self.cost, most, self._rng
        )
        self._kicked_best = self.cost
        self.evaluations += count

    def keep(self, actions: np.ndarray, cost: float) -> None:
        """Keeps a plan if it is the best so far."""
        if cost < self.cost:
            self.actions, self.cost = actions.copy(), cost


class Proof:
    """A branch and bound that can be continued, from the best plan of a workspace.

    Attributes:
        actions: int64[n], the best known plan.
        cost: its cost.
        nodes: number of nodes expanded so far.
    """

    @staticmethod
    def fits(num_tasks: int) -> bool:
        """Whether the data for the bounds fit into `MOST_BYTES`."""
        return 48 * num_tasks**2 <= MOST_BYTES

    def __init__(self, work: Workspace) -> None:
        n, sites = len(work.actions), work.dag.num_sites
        self._search = Depths(
            np.zeros((n, sites)), np.zeros((n, sites), np.int64), np.zeros((n + 1, 2), np.int64), np.zeros(n, np.int64)
        )
        self._data = work.problem, empty_trail(work.problem), _bounds(work.dag), self._search
        self.actions, self.cost, self.nodes = work.actions.copy(), work.cost, 0
        self._nodes = 1  # to be expanded before the next look at the clock
        self.advance(1)

    def learn(self, actions: np.ndarray, cost: float) -> None:
        """Takes over a plan that another search found, if it is better."""
        if cost < self.cost:
            self.actions, self.cost = actions.copy(), cost

    @property
    def over(self) -> bool:
        """Whether no other plan costs less by more than `TOLERANCE`."""
        return bool(self._search.counts[-1, 0] < 0)

    @property
    def bound(self) -> float:
        """A lower bound of the cost of every plan, within `TOLERANCE`."""
        counts, bounds = self._search.counts, self._search.bounds
        waiting = [bounds[d, counts[d, 1] : counts[d, 0]] for d in range(counts[-1, 0] + 1)]
        return min([self.cost, *(float(each[0]) for each in waiting if each.size)])

    def advance(self, nodes: int) -> None:
        """Expands up to `nodes` further nodes."""
        self.cost, expanded = prove(*self._data, self.actions, self.cost, nodes)
        self.nodes += expanded

    def run(self, time_limit_s: float) -> None:
        """Expands nodes until the search is over or the time has passed."""
        deadline = time.monotonic() + time_limit_s
        while not self.over and (seconds := deadline - time.monotonic()) > 0:
            began = time.monotonic()
            self.advance(self._nodes)
            enough = self._nodes * min(CHUNK_S, seconds / 2) / max(time.monotonic() - began, 1e-6)
            self._nodes = int(np.clip(enough, 1, 4 * self._nodes))


def _bounds(dag: DagArrays) -> Bounds:
    left, (n, servers) = work_left(dag), dag.vm.shape
    bounds = Bounds(
        np.zeros((3, 2, n, n + 1)),
        np.zeros((3, n)),
        np.zeros((3, servers)),
        np.zeros(n + 1),
        np.zeros((n, servers + 1)),
    )
    for kind, shared in enumerate((left.uplink, left.downlink, left.servers)):
        if shared is not None:
            bounds.splits[kind], bounds.least[kind] = shared.split, shared.least
            bounds.weights[kind, : len(shared.weights)] = shared.weights
    if left.cheapest is not None:
        bounds.cheapest[:] = left.cheapest
    return bounds


def two_tasks() -> Workspace:
    """Returns the workspace of an application of two tasks, with a plan."""
    two, servers = np.ones(2), np.ones((2, 1))
    work = Workspace(DagArrays(two, servers, servers, servers, np.eye(2, k=-1, dtype=bool), two > 0, np.arange(2)))
    work.improve(work.earliest_finish())
    return work


def warm_up() -> None:
    """Compiles every function, or loads it from numba's cache, by one plan of an application of two tasks."""
    work = two_tasks()
    work.cost_of(work.actions)
    work.settle(work.actions)
    work.kick(1)
    Proof(work)
