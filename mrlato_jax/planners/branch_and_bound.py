"""The proven optimum of a given order by branch and bound; nodes are expanded in batches.

A node is a partial plan: the first tasks in scheduling order are placed (`latency.place`). The deepest nodes are
expanded first, up to `WIDTH` children at once, so memory stays small and complete plans are found early. A node is
pruned if one of these lower bounds shows that no completion beats the best known plan:

    precedence   Each remaining task finishes no sooner than at its best site, with the queues as they are now and its
                 parents' results as early as possible. Where results stay, the bound is kept for each site.
    workload     The UE and one other kind of resource share all remaining work, split into fractions in the best way.
                 The other resource is one of three. Uplink: after the last upload, a task is still computed and
                 downloaded. Downlink, where downloads queue: before the first download, a task is uploaded and
                 computed. Servers, where results stay. Several resources of a kind count as one of their joint speed.
    prices       Each remaining task costs at least as much as at its cheapest site.

All are valid under all channel rules, since the recurrence is monotone in the queues and in the parents' end times.
"""

from __future__ import annotations

import dataclasses
import time
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.environment.rules import where_allowed
from mrlato_jax.errors import InputError, check_choice, check_number, check_type
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.latency import LOCAL, Queues
from mrlato_jax.mec.objective import Objective, goal_of
from mrlato_jax.mec.system import CHANNELS, System
from mrlato_jax.planners import engine
from mrlato_jax.planners.bounds import ROUNDING, TOLERANCE, Left, Shared, Split, work_left
from mrlato_jax.planners.descent import local_search
from mrlato_jax.planners.plan import ProvenPlan, SearchedPlan, actions_of, placement_of, simulated_plan

SOLVERS = ("branch_and_bound", "cp_sat")
WIDTH = 256  # children made at once
START_WORK = 2**28  # work limit of the first local search in (task, parent) pairs; 40 tasks stay below
STACK_BYTES = 2**28  # memory limit of all waiting nodes
CHUNK_S = 0.1  # seconds between two checks of the time limit


class Nodes(NamedTuple):
    """K partial plans of one depth; stacked along a leading axis, of every depth."""

    queues: Queues  # after the placed tasks, trailing axis K
    actions: jax.Array  # int8[N, K], sites in scheduling order
    bound: jax.Array  # [K], lower bound of the cost of every completion


class Search(NamedTuple):
    """State of the search between two chunks."""

    waiting: Nodes  # leading axis N + 1: nodes at each depth, the most promising last
    filled: jax.Array  # int32[N + 1], number of nodes at each depth
    best: jax.Array  # cost of the best known plan
    best_actions: jax.Array  # int8[N]
    expanded: jax.Array  # int64, nodes expanded so far


def optimum(
    graph: TaskGraph,
    system: System,
    order: Any = None,
    time_limit_s: float = 60.0,
    solver: str = "branch_and_bound",
    *,
    objective: Objective | None = None,
) -> ProvenPlan:
    """Finds the best placement in a given order and proves it optimal if the time limit allows.

    Args:
        graph: the application.
        system: the system it runs on.
        order: scheduling order, task ids; by default `priority_order(graph, system)`.
        time_limit_s: time limit of the proof, seconds, without compilation and without the local search before it. 0
            returns the plan of local search with a lower bound.
        solver: "branch_and_bound", or "cp_sat" (OR-Tools, extra `exact`). CP-SAT is an independent check; it takes
            makespans on one server, without pins and without results that stay.
        objective: the cost to minimise; by default the makespan.

    Returns:
        A `ProvenPlan`. If `proven`, no placement in this order costs less by more than `TOLERANCE` (with CP-SAT,
        `cp_sat.TOLERANCE`) times its cost. Otherwise `lower_bound` bounds the least cost. `nodes` is 0 with CP-SAT.
        If no plan meets a deadline, the plan of least makespan, with `meets_deadline` false.

    Raises:
        InputError: an argument has a wrong type, the order is not a linear extension, the time limit is negative or not
            finite, or the solver is unknown, not installed or unable to take the system.
    """
    check_type("graph", graph, TaskGraph)
    check_type("system", system, System)
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
    if solver == "cp_sat" and not cp_sat.can(graph, system, objective):
        raise InputError(f"solver is 'cp_sat' with {objective} and {system}; accepted: {cp_sat.ACCEPTED}")
    goal = goal_of(objective)
    if goal.deadline_s is not None:
        fastest = optimum(graph, system, order, time_limit_s)
        return cheapest_in_time(graph, system, fastest, goal, time_limit_s)
    start = _start(graph, system, order, goal)
    with latency.one_by_one():
        dag = latency.pack_float64(graph, system, start.order, goal)
        actions = actions_of(dag, start.placement)
        if solver == "cp_sat":
            actions, bound = cp_sat.solve(dag, start.makespan, actions, time_limit_s)
            nodes = 0
        else:
            actions, bound, proven, nodes = _search(dag, actions, time_limit_s)
    plan = simulated_plan(graph, system, placement_of(start.order, actions), start.order)
    plan = min(start, plan, key=lambda one: goal.key(one.makespan, one.energy))  # CP-SAT rounds
    reached = goal.cost(plan.makespan, plan.energy)
    if solver == "cp_sat":
        proven = reached - bound <= cp_sat.TOLERANCE * reached
    return ProvenPlan.of(plan, proven=proven, lower_bound=min(bound, reached), nodes=nodes)


def cheapest_in_time(
    graph: TaskGraph, system: System, fastest: ProvenPlan, goal: Objective, time_limit_s: float
) -> ProvenPlan:
    """Finds the plan of least energy that meets the deadline of `goal`; proves it if the time limit allows.

    Args:
        graph: the application.
        system: the system it runs on.
        fastest: the `optimum` of the makespan; its order is searched.
        goal: an objective with a deadline.
        time_limit_s: time limit of the proof, seconds, as in `optimum`.

    Returns:
        A plan as from `optimum`; if `fastest` misses the deadline, `fastest` with `meets_deadline` false.
    """
    if not goal.meets_deadline(fastest.makespan):
        return dataclasses.replace(fastest, meets_deadline=False)
    searched = _start(graph, system, fastest.order, goal)
    start = min(fastest, searched, key=lambda one: goal.key(one.makespan, one.energy))
    with latency.one_by_one():
        dag = latency.pack_float64(graph, system, start.order, goal)
        actions, bound, proven, nodes = _search(dag, actions_of(dag, start.placement), time_limit_s)
    plan = simulated_plan(graph, system, placement_of(start.order, actions), start.order)
    plan = min(start, plan, key=lambda one: goal.key(one.makespan, one.energy))
    return ProvenPlan.of(plan, proven=proven, lower_bound=min(bound, plan.energy), nodes=nodes)


def _start(graph: TaskGraph, system: System, order: Any, goal: Objective) -> SearchedPlan:
    n = graph.num_tasks
    one = n * system.num_servers  # work of simulating one task
    if CHANNELS[system.channel].results_stay:
        one *= -(-n // 8)
    most = max(1, START_WORK // (n * one))
    return local_search(graph, system, order=order, max_evaluations=most, objective=goal)


def _search(dag: DagArrays, actions: np.ndarray, time_limit_s: float) -> tuple[np.ndarray, float, bool, int]:
    """Runs branch and bound from a known plan.

    Returns:
        The best sites, a lower bound of the cost, whether the plan is proven optimal, and the number of nodes expanded.
    """
    if (code := engine.machine_code()) is not None:
        work = code.Workspace(dag)
        known = work.unpadded(actions)
        work.keep(known, work.cost_of(known))
        proof = code.Proof(work)
        proof.run(time_limit_s)
        return proof.actions, proof.bound, proof.over, proof.nodes
    left, search = work_left(dag), _begin(dag, actions, _width(dag))
    search = _advance(dag, left, search, 1)  # compiles, and gives a first bound
    deadline, batches = time.monotonic() + time_limit_s, 16
    while search.filled.any() and (seconds := deadline - time.monotonic()) > 0:
        began = time.monotonic()
        search = jax.block_until_ready(_advance(dag, left, search, batches))
        took = max(time.monotonic() - began, 1e-6)
        batches = max(1, int(batches * min(CHUNK_S, seconds) / took))
    bound, best_actions, expanded = jax.device_get((_bound(search), search.best_actions, search.expanded))
    return best_actions, float(bound), not search.filled.any(), int(expanded)


def _width(dag: DagArrays) -> int:
    """Returns K, the number of children that fit into the stack at once."""
    size, servers = dag.mask.size, dag.num_sites - 1
    node = size * 17 + 48  # bytes: results and data at the sender (float64), actions; then the queues
    if CHANNELS[dag.channel].results_stay:
        node += size * (8 * servers + 12)
    return int(np.clip(2 ** int(np.log2(max(STACK_BYTES // (size * node), 1))), 4 * dag.num_sites, WIDTH))


@partial(jax.jit, static_argnames="width")
def _begin(dag: DagArrays, actions: jax.Array, width: int) -> Search:
    """Returns a search whose only node is the empty plan."""
    size = dag.mask.shape[0]
    levels = size + 1
    queues = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf[..., None], (levels, *leaf.shape, width)), latency.empty_queues(dag)
    )
    waiting = Nodes(queues, jnp.zeros((levels, size, width), jnp.int8), jnp.zeros((levels, width), dag.ue.dtype))
    filled = jnp.zeros(levels, jnp.int32).at[0].set(1)
    known = latency.costs(dag, actions[:, None])[0]
    return Search(waiting, filled, known, actions.astype(jnp.int8), jnp.zeros((), jnp.int64))


@partial(jax.jit, donate_argnames="search")
def _advance(dag: DagArrays, left: Left, search: Search, batches: jax.Array | int) -> Search:
    """Expands up to `batches` batches of nodes."""

    def unfinished(carry: tuple[Search, jax.Array]) -> jax.Array:
        return (carry[1] < batches) & jnp.any(carry[0].filled > 0)

    def body(carry: tuple[Search, jax.Array]) -> tuple[Search, jax.Array]:
        return _expand(dag, left, carry[0]), carry[1] + 1

    return jax.lax.while_loop(unfinished, body, (search, jnp.zeros((), jnp.int32)))[0]


def _expand(dag: DagArrays, left: Left, search: Search) -> Search:
    """Expands up to K / (number of sites) of the deepest nodes and keeps the promising children, one level deeper."""
    num_tasks = dag.mask.sum().astype(jnp.int32)
    sites, width = dag.num_sites, search.waiting.bound.shape[-1]
    depth = jnp.max(jnp.where(search.filled > 0, jnp.arange(search.filled.size), 0))
    number = width // sites
    first = jnp.maximum(search.filled[depth] - number, 0)
    nodes = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf[depth], first, number, axis=-1), search.waiting)
    alive = (first + jnp.arange(number) < search.filled[depth]) & _promising(nodes.bound, search.best)
    filled = search.filled.at[depth].set(first)

    shared = latency.wide(dag)
    task = _at(latency.tasks(shared), depth)
    ends = latency.candidate_ends(shared, nodes.queues, task)

    def children(site: int) -> Nodes:
        queues, _ = latency.place(shared, nodes.queues, task, ends, jnp.full(number, site))
        return Nodes(queues, nodes.actions.at[depth].set(site), nodes.bound)

    every = jax.tree.map(lambda *of_sites: jnp.concatenate(of_sites, axis=-1), *map(children, range(sites)))
    bound = jnp.maximum(every.bound, _lower_bound(dag, left, depth + 1, every.queues))
    wanted = jnp.tile(alive, sites)
    if task.allowed is not None:
        wanted &= jnp.repeat(task.allowed[:, 0], number)
    bound = jnp.where(wanted, bound, jnp.inf)

    whole = depth + 1 == num_tasks
    index = jnp.argmin(bound)
    better = whole & (bound[index] < search.best)
    best = jnp.where(better, bound[index], search.best)
    best_actions = jnp.where(better, every.actions[:, index], search.best_actions)

    keep = _promising(bound, best) & ~whole
    by = jnp.argsort(jnp.where(keep, -bound, jnp.inf))  # kept children first, the most promising last among them
    room = width - by.shape[0]
    kept = jax.tree.map(
        lambda leaf: jnp.pad(leaf[..., by], [(0, 0)] * (leaf.ndim - 1) + [(0, room)]), every._replace(bound=bound)
    )
    waiting = jax.tree.map(  # this depth was empty, since the deepest nodes are expanded first
        lambda stack, leaf: jax.lax.dynamic_update_index_in_dim(stack, leaf, depth + 1, axis=0), search.waiting, kept
    )
    filled = filled.at[depth + 1].set(keep.sum().astype(jnp.int32))
    return Search(waiting, filled, best, best_actions, search.expanded + alive.sum())


def _promising(bound: jax.Array, best: jax.Array) -> jax.Array:
    return bound < best * (1 - TOLERANCE)


def _at(tasks: latency.Task, position: jax.Array) -> latency.Task:
    """Returns the task at one position."""
    return jax.tree.map(lambda leaf: leaf[position], tasks)


def _lower_bound(dag: DagArrays, left: Left, depth: jax.Array, queues: Queues) -> jax.Array:
    """Lower bounds [K] of the cost of every completion of nodes with `depth` placed tasks; exact for whole plans."""
    num_tasks, shared = dag.mask.sum(), latency.wide(dag)
    stays = CHANNELS[dag.channel].results_stay
    latest = (_by_precedence_at_sites if stays else _by_precedence)(shared, depth, num_tasks, queues)
    place = jnp.minimum(depth, dag.mask.shape[0] - 1)

    # Unless results stay, every offloaded task uses a shared link. In the other cases a task may avoid a link. An
    # unused link delays nothing, so its free time counts only up to the makespan so far.
    sure = not stays and dag.radio == "shared"

    def free(resource: jax.Array, of: Shared) -> jax.Array:
        begin = resource if sure else jnp.minimum(resource, queues.makespan[None])
        return (begin * of.weights[:, None]).sum(axis=0)

    def both_end(of: Shared, begin: jax.Array) -> jax.Array:
        return _both_end(jax.tree.map(lambda leaf: leaf[place], of.split), queues.ue, begin)

    latest = jnp.maximum(latest, both_end(left.uplink, free(queues.uplink + left.uplink.least[place], left.uplink)))
    if left.downlink is not None:
        begin = queues.downlink
        if not stays:
            begin = jnp.maximum(begin, queues.uplink + left.downlink.least[place])
        latest = jnp.maximum(latest, both_end(left.downlink, free(begin, left.downlink)))
    if left.servers is not None:
        latest = jnp.maximum(latest, both_end(left.servers, free(queues.vm, left.servers)))
    latest = jnp.where(depth < num_tasks, latest * (1 - ROUNDING), queues.makespan)
    if left.cheapest is None or queues.spent is None:
        return latest
    spent = queues.spent + left.cheapest[jnp.minimum(depth, left.cheapest.shape[0] - 1)] * (1 - ROUNDING)
    return latency.cost(shared, queues._replace(makespan=latest, spent=spent))


def _by_precedence(dag: DagArrays, depth: jax.Array, num_tasks: jax.Array, queues: Queues) -> jax.Array:
    """Lower bound of the makespan of every completion, from the parents' earliest results and the queues as now."""
    tasks = latency.tasks(dag)

    def body(position: jax.Array, carry: tuple[Queues, jax.Array]) -> tuple[Queues, jax.Array]:
        queues, latest = carry
        task = _at(tasks, position)
        ends = latency.candidate_ends(dag, queues, task)
        ue, upload = where_allowed(task, ends.ue, ends.upload)
        download = where_allowed(task, ends.ue, ends.download)[1]
        result, sent = jnp.minimum(ue, download.min(axis=0)), jnp.minimum(ue, upload.min(axis=0))
        return latency.with_results(queues, position, result, sent), jnp.maximum(latest, result)

    return jax.lax.fori_loop(depth, num_tasks, body, (queues, queues.makespan))[1]


def _by_precedence_at_sites(dag: DagArrays, depth: jax.Array, num_tasks: jax.Array, queues: Queues) -> jax.Array:
    """`_by_precedence` where results stay: tracks the earliest arrival of each result at each site, [N, K + 1, ...]."""
    tasks, results = latency.tasks(dag), queues.results
    assert results is not None

    def spread(ue: jax.Array, vm: jax.Array, forward: jax.Array, passed: jax.Array, down: jax.Array) -> jax.Array:
        """Earliest arrival of a result at each site [K + 1, ...], given when each site can have computed it."""
        home = (jnp.maximum(queues.downlink, vm) + down).min(axis=0)
        over = jnp.maximum(results.backhaul, vm.min(axis=0)) + passed
        up = jnp.maximum(queues.uplink, ue[None]) + forward
        return jnp.concatenate([jnp.minimum(ue, home)[None], jnp.minimum(vm, jnp.minimum(up, over[None]))])

    # Placed tasks: where their results are, and when they can arrive elsewhere.
    count = dag.vm.shape[1]
    servers = jnp.arange(1, count + 1)[None, :, None]
    site, ended = results.site[:, None], results.ended[:, None]
    on_ue = jnp.where(results.site == LOCAL, results.ended, jnp.inf)
    on_servers = jnp.where(site == servers, ended, jnp.inf)
    can = jax.vmap(spread)(on_ue, on_servers, dag.forward, dag.backhaul, dag.downlink)
    there = jnp.concatenate([results.at_ue[:, None], results.at_server], axis=1)
    arrival = jnp.where(there, 0, can)  # a result already there delays a task no more than the queues do

    def body(position: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        arrival, latest = carry
        task = _at(tasks, position)
        assert task.comes_home is not None
        ready = jnp.max(jnp.where(task.parents[:, None], arrival, 0), axis=0)
        ue = jnp.maximum(queues.ue, ready[0]) + task.ue
        entry = ~task.parents.any(axis=0)
        given = jnp.where(entry[None], queues.uplink + task.uplink, ready[1:])
        ue, vm = where_allowed(task, ue, jnp.maximum(queues.vm, given) + task.vm)
        there = spread(ue, vm, dag.forward[position], dag.backhaul[position], task.downlink)
        ended = jnp.where(task.comes_home, there[0], jnp.minimum(ue, vm.min(axis=0)))
        return jax.lax.dynamic_update_index_in_dim(arrival, there, position, axis=0), jnp.maximum(latest, ended)

    return jax.lax.fori_loop(depth, num_tasks, body, (arrival, queues.makespan))[1]


def _both_end(split: Split, ue: jax.Array, link: jax.Array) -> jax.Array:
    """Time at which UE and link end together under the best split, given when each is free.

    If the link is free so late or so early that one of them takes all work, the time at which that one ends.
    """
    lead = link - ue
    together = ue + jnp.interp(lead, split.ahead, split.kept)
    return jnp.where(lead < split.ahead[0], link - split.ahead[0], together)


@jax.jit
def _bound(search: Search) -> jax.Array:
    """Returns the least bound of all waiting nodes, or the best known cost if that is less."""
    waits = jnp.arange(search.waiting.bound.shape[-1])[None, :] < search.filled[:, None]
    return jnp.minimum(jnp.where(waits, search.waiting.bound, jnp.inf).min(), search.best)
