"""The proven optimum of a given order: branch and bound, a batch of nodes at a time.

A node is a partial plan: the first so many tasks in scheduling order are placed, by the project's one recurrence
(`latency.place`). The deepest nodes are expanded first, up to `WIDTH` children at once, so that memory stays small and
whole plans are met early. A node is given up where no completion of it can be better than the best plan known:

    by precedence   each task that is left finishes no sooner than on the better of both sides with every queue as it
                    is now, given its parents' own earliest results
    by workload     the UE and a link share all work that is left, split in fractions as suits best: the uplink, after
                    which a task still is computed and downloaded; and the downlink, where downloads queue, before
                    which the first is uploaded and computed

Both are lower bounds under all channel rules, since (7)-(10) are monotone in the queues and in the parents' end times.
"""

from __future__ import annotations

import time
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_choice, check_number, check_type
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.latency import LOCAL, OFFLOAD, Queues
from mrlato_jax.mec.system import CHANNELS, System
from mrlato_jax.planners.descent import local_search
from mrlato_jax.planners.plan import ProvenPlan, actions_of, placement_of, simulated_plan

SOLVERS = ("branch_and_bound", "cp_sat")
WIDTH = 256  # children made at once
TOLERANCE = 1e-10  # relative: a plan that is better by less may be missed
ROUNDING = 1e-12  # relative: bounds are lowered by so much, since their sums round
START_WORK = 2**28  # looks at a parent that local search may spend before; up to 40 tasks it ends by itself
STACK_BYTES = 2**28  # of all nodes that wait
CHUNK_S = 0.1  # between two looks at the clock


class Nodes(NamedTuple):
    """K partial plans of one depth, or stacked: of each depth."""

    queues: Queues  # what the placed tasks leave behind, trailing axis K
    actions: jax.Array  # bool[N, K] in scheduling order
    bound: jax.Array  # [K], no completion is better, seconds


class Search(NamedTuple):
    """Everything a chunk hands to the next."""

    waiting: Nodes  # leading axis N + 1: nodes at each depth, the most promising last
    filled: jax.Array  # int32[N + 1], how many of them are nodes
    best: jax.Array  # makespan of the best plan known, seconds
    best_actions: jax.Array  # bool[N]
    expanded: jax.Array  # int64, nodes so far


class Split(NamedTuple):
    """For each depth, the ways to split what is left between the UE and a link; leading axis N."""

    kept: jax.Array  # [N, N + 1], seconds of the UE where the first so many of those best kept stay
    ahead: jax.Array  # [N, N + 1], that, less the link's seconds for the others; ascending


class Workload(NamedTuple):
    """What the bound by workload needs of the tasks that are left, at each depth."""

    uplink: Split
    tail: jax.Array  # [N], least time from the end of an upload to its result
    downlink: Split | None  # where downloads queue
    head: jax.Array  # [N], least time from the start of an upload to its download


def optimum(
    graph: TaskGraph, system: System, order: Any = None, time_limit_s: float = 60.0, solver: str = "branch_and_bound"
) -> ProvenPlan:
    """The best placement in a given order, proven where the time suffices.

    Args:
        graph: the application.
        system: the system it runs on.
        order: scheduling order, task ids; by default `priority_order(graph, system)`.
        time_limit_s: seconds of the proof, without compiling and without the local search that begins it; 0 takes
            that one's plan and bounds it.
        solver: "branch_and_bound"; or "cp_sat", OR-Tools, which needs the extra `exact` and is an independent check.

    Returns:
        A `ProvenPlan`: where `proven`, no placement in this order is better by more than `TOLERANCE` (with CP-SAT,
        `cp_sat.TOLERANCE`) times its makespan; else `lower_bound` says how good one could be. `nodes` is 0 with CP-SAT.

    Raises:
        InputError: an argument of another type, an order that is no linear extension, a time that is negative or not
            finite, or an unknown solver or one that is not installed.
    """
    check_type("graph", graph, TaskGraph)
    check_number("time_limit_s", time_limit_s, low=0.0)
    check_choice("solver", solver, SOLVERS)
    if solver == "cp_sat":
        try:
            cp_sat = import_module("mrlato_jax.planners.cp_sat")
        except ImportError:
            raise InputError(
                "solver is 'cp_sat', but OR-Tools is not installed; accepted: branch_and_bound, or after "
                "pip install 'mrlato-jax[exact]'"
            ) from None
    most = max(1, START_WORK // graph.num_tasks**2)
    start = local_search(graph, system, order=order, max_evaluations=most)
    with latency.one_by_one():
        dag = latency.pack_float64(graph, system, start.order)
        actions = actions_of(dag, start.placement)
        if solver == "cp_sat":
            actions, bound = cp_sat.solve(dag, start.makespan, actions, time_limit_s)
            nodes = 0
        else:
            actions, bound, proven, nodes = _search(dag, start.makespan, actions, time_limit_s)
    plan = simulated_plan(graph, system, placement_of(start.order, actions), start.order)
    if start.makespan < plan.makespan:  # CP-SAT rounds
        plan = start
    if solver == "cp_sat":
        proven = plan.makespan - bound <= cp_sat.TOLERANCE * plan.makespan
    return ProvenPlan.of(plan, proven=proven, lower_bound=min(bound, plan.makespan), nodes=nodes)


def _search(
    dag: DagArrays, makespan: float, actions: np.ndarray, time_limit_s: float
) -> tuple[np.ndarray, float, bool, int]:
    """Branch and bound from a plan that is known.

    Returns:
        The best actions, a lower bound in seconds, whether that is proven, and the nodes looked at.
    """
    workload, search = _begin(dag, np.float64(makespan), actions, _width(dag.mask.size))
    search = _advance(dag, workload, search, 1)  # compiles, and gives a bound
    deadline, batches = time.monotonic() + time_limit_s, 16
    while search.filled.any() and (left := deadline - time.monotonic()) > 0:
        began = time.monotonic()
        search = jax.block_until_ready(_advance(dag, workload, search, batches))
        took = max(time.monotonic() - began, 1e-6)
        batches = max(1, int(batches * min(CHUNK_S, left) / took))
    bound, best_actions, expanded = jax.device_get((_bound(search), search.best_actions, search.expanded))
    return best_actions, float(bound), not search.filled.any(), int(expanded)


def _width(size: int) -> int:
    """K: as many children at once as the stack has room for."""
    node = size * 17 + 48  # bytes: results and senders' data in float64, and actions; the queues
    return int(np.clip(2 ** int(np.log2(max(STACK_BYTES // (size * node), 1))), 8, WIDTH))


@partial(jax.jit, static_argnames="width")
def _begin(dag: DagArrays, makespan: jax.Array, actions: jax.Array, width: int) -> tuple[Workload, Search]:
    """Nothing decided, and what is known before."""
    size = dag.mask.shape[0]
    levels = size + 1
    queues = jax.tree.map(lambda leaf: jnp.zeros((levels, *leaf.shape, width), leaf.dtype), latency.empty_queues(dag))
    waiting = Nodes(queues, jnp.zeros((levels, size, width), bool), jnp.zeros((levels, width), dag.ue.dtype))
    filled = jnp.zeros(levels, jnp.int32).at[0].set(1)
    return _workload(dag), Search(waiting, filled, makespan, actions, jnp.zeros((), jnp.int64))


def _workload(dag: DagArrays) -> Workload:
    rules, uplink = CHANNELS[dag.channel], dag.uplink
    if not rules.entry_uploads_queue:
        uplink = jnp.where(dag.parents.any(axis=-1), uplink, 0)

    def least_left(times: jax.Array) -> jax.Array:
        return jax.lax.cummin(jnp.where(dag.mask, times, jnp.inf), reverse=True)

    return Workload(
        uplink=_split(dag.ue, uplink),
        tail=least_left(dag.vm + dag.downlink),
        downlink=_split(dag.ue, dag.downlink) if rules.downloads_queue else None,
        head=least_left(dag.uplink + dag.vm),
    )


def _split(ue: jax.Array, link: jax.Array) -> Split:
    size = ue.shape[0]
    both = ue + link
    by = jnp.argsort(jnp.where(both > 0, ue / jnp.where(both > 0, both, 1), 0))  # best kept first
    left = by[None, :] >= jnp.arange(size)[:, None]  # [depth, rank]; padding costs nothing
    none = jnp.zeros((size, 1), ue.dtype)
    kept = jnp.concatenate([none, jnp.cumsum(jnp.where(left, ue[by], 0), axis=1)], axis=1)
    # Summed from the other end: as a difference of sums it would take the rounding of the largest entry.
    sent = jnp.flip(jnp.cumsum(jnp.flip(jnp.where(left, link[by], 0), axis=1), axis=1), axis=1)
    return Split(kept, kept - jnp.concatenate([sent, none], axis=1))


@partial(jax.jit, donate_argnames="search")
def _advance(dag: DagArrays, workload: Workload, search: Search, batches: jax.Array | int) -> Search:
    """Expands up to so many batches of nodes."""

    def unfinished(carry: tuple[Search, jax.Array]) -> jax.Array:
        return (carry[1] < batches) & jnp.any(carry[0].filled > 0)

    def body(carry: tuple[Search, jax.Array]) -> tuple[Search, jax.Array]:
        return _expand(dag, workload, carry[0]), carry[1] + 1

    return jax.lax.while_loop(unfinished, body, (search, jnp.zeros((), jnp.int32)))[0]


def _expand(dag: DagArrays, workload: Workload, search: Search) -> Search:
    """Takes up to K / 2 of the deepest nodes, and puts what is worth it of their children one deeper."""
    num_tasks = dag.mask.sum().astype(jnp.int32)
    depth = jnp.max(jnp.where(search.filled > 0, jnp.arange(search.filled.size), 0))
    number = search.waiting.bound.shape[-1] // 2
    first = jnp.maximum(search.filled[depth] - number, 0)
    nodes = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf[depth], first, number, axis=-1), search.waiting)
    alive = (first + jnp.arange(number) < search.filled[depth]) & _promising(nodes.bound, search.best)
    filled = search.filled.at[depth].set(first)

    task = _at(latency.tasks(dag), depth)
    ends = latency.candidate_ends(dag.channel, nodes.queues, task)

    def children(action: int) -> Nodes:
        queues, _ = latency.place(dag.channel, nodes.queues, task, ends, jnp.full(number, action))
        return Nodes(queues, nodes.actions.at[depth].set(action == OFFLOAD), nodes.bound)

    both = jax.tree.map(lambda *sides: jnp.concatenate(sides, axis=-1), children(LOCAL), children(OFFLOAD))
    bound = jnp.maximum(both.bound, _lower_bound(dag, workload, depth + 1, both.queues))
    bound = jnp.where(jnp.concatenate([alive, alive]), bound, jnp.inf)

    whole = depth + 1 == num_tasks
    index = jnp.argmin(bound)
    better = whole & (bound[index] < search.best)
    best = jnp.where(better, bound[index], search.best)
    best_actions = jnp.where(better, both.actions[:, index], search.best_actions)

    keep = _promising(bound, best) & ~whole
    by = jnp.argsort(jnp.where(keep, -bound, jnp.inf))  # the most promising last of those that are kept
    kept = jax.tree.map(lambda leaf: leaf[..., by], both._replace(bound=bound))
    waiting = jax.tree.map(  # nothing was there, since the deepest are taken first
        lambda stack, leaf: jax.lax.dynamic_update_index_in_dim(stack, leaf, depth + 1, axis=0), search.waiting, kept
    )
    filled = filled.at[depth + 1].set(keep.sum().astype(jnp.int32))
    return Search(waiting, filled, best, best_actions, search.expanded + alive.sum())


def _promising(bound: jax.Array, best: jax.Array) -> jax.Array:
    return bound < best * (1 - TOLERANCE)


def _at(tasks: latency.Task, position: jax.Array) -> latency.Task:
    """The task at one position, for queues with a trailing axis."""
    task = jax.tree.map(lambda leaf: leaf[position], tasks)
    return task._replace(parents=task.parents[:, None])


def _lower_bound(dag: DagArrays, workload: Workload, depth: jax.Array, queues: Queues) -> jax.Array:
    """What no completion of nodes with `depth` placed tasks is below, [K]; of whole plans, their makespan."""
    num_tasks, tasks = dag.mask.sum(), latency.tasks(dag)

    def body(position: jax.Array, carry: tuple[Queues, jax.Array]) -> tuple[Queues, jax.Array]:
        queues, latest = carry
        ends = latency.candidate_ends(dag.channel, queues, _at(tasks, position))
        result, sent = jnp.minimum(ends.ue, ends.download), jnp.minimum(ends.ue, ends.upload)
        return latency.with_results(queues, position, result, sent), jnp.maximum(latest, result)

    _, by_precedence = jax.lax.fori_loop(depth, num_tasks, body, (queues, queues.makespan))
    left = jax.tree.map(lambda leaf: leaf[jnp.minimum(depth, leaf.shape[0] - 1)], workload)
    latest = jnp.maximum(by_precedence, _both_end(left.uplink, queues.ue, queues.uplink + left.tail))
    if left.downlink is not None:
        first = jnp.maximum(queues.downlink, queues.uplink + left.head)
        latest = jnp.maximum(latest, _both_end(left.downlink, queues.ue, first))
    return jnp.where(depth < num_tasks, latest * (1 - ROUNDING), queues.makespan)


def _both_end(split: Split, ue: jax.Array, link: jax.Array) -> jax.Array:
    """When UE and link end together that are free from then on; where one has all of the work, when that one ends."""
    lead = link - ue
    together = ue + jnp.interp(lead, split.ahead, split.kept)
    return jnp.where(lead < split.ahead[0], link - split.ahead[0], together)


@jax.jit
def _bound(search: Search) -> jax.Array:
    """The least bound of all nodes that wait, or the best makespan where it is less."""
    waits = jnp.arange(search.waiting.bound.shape[-1])[None, :] < search.filled[:, None]
    return jnp.minimum(jnp.where(waits, search.waiting.bound, jnp.inf).min(), search.best)
