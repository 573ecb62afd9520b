"""Order search: optimises placement and scheduling order together by simulated annealing.

The order matters as much as the placement. Many chains anneal in parallel. Each step of a chain either changes the site
of one task or moves the task to another place between its last parent and its first child.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import check_number, check_type
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.latency import check_placement
from mrlato_jax.mec.objective import Objective, goal_of
from mrlato_jax.mec.system import System
from mrlato_jax.planners.branch_and_bound import optimum
from mrlato_jax.planners.descent import local_search
from mrlato_jax.planners.plan import Plan, ProvenPlan, SearchedPlan, actions_of, placement_of, simulated_plan

POLISHING_WORK = 2**29  # work of each order's local search; one simulation costs positions squared
POLISHED, WORTH_POLISHING = 8, 1.03  # polish at most this many orders, of a cost within this factor of the least
MOST_STEPS = 2**31 - 1  # largest step number that a random key takes
CHAINS_BYTES = 2**27  # memory limit of the chains' parents
AT_ONCE = 2**28  # work of all chains, in positions squared, between two checks for an interruption
HOT, COLD = 0.02, 1e-4  # first and last temperature, relative to the cost of the first plan


class Chains(NamedTuple):
    """Plans of C chains; tasks are named by their position in the order of the `DagArrays`."""

    order: jax.Array  # int32[N, C], the task at each position
    position: jax.Array  # int32[N, C], its inverse
    actions: jax.Array  # int32[N, C], the site of each task
    cost: jax.Array  # [C], seconds, or joules with a deadline


def in_order(dag: DagArrays, order: jax.Array) -> DagArrays:
    """Returns the DAG with its tasks in C other orders, for `latency.run`; all leaves get a trailing axis C.

    Args:
        dag: one DAG, no leading axes.
        order: int32[N, C], the task at each position, padding last.
    """
    of_tasks = ("ue", "uplink", "vm", "downlink", "mask", "order", "allowed", "forward", "backhaul")
    moved = {
        name: jnp.moveaxis(jnp.asarray(leaf)[order], 1, -1)
        for name in of_tasks
        if (leaf := getattr(dag, name)) is not None
    }
    parents = jnp.take_along_axis(dag.parents[order], order.T[None], axis=-1)  # [position, C, position]
    whole = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], (dag.prices, dag.deadline))
    moved["parents"] = jnp.moveaxis(parents, 1, -1)
    return dataclasses.replace(dag, prices=whole[0], deadline=whole[1], **moved)  # type: ignore[arg-type]


def order_search(
    graph: TaskGraph,
    system: System,
    *,
    start: Plan | None = None,
    steps: int = 10_000,
    chains: int = 32,
    time_limit_s: float = 1.0,
    seed: int = 0,
    objective: Objective | None = None,
) -> SearchedPlan:
    """Searches for the best plan over all linear extensions; proves nothing.

    Without `start`, annealing begins with the optimum of the priority order, and the best orders found are then solved
    by `optimum`. With `start`, annealing begins with that plan, and local search improves the best orders, which takes
    less time.

    Args:
        graph: the application.
        system: the system it runs on.
        start: first plan, of this application, perhaps for another system; by default the priority order's optimum.
        steps: number of changes that each chain tries, at most `MOST_STEPS`.
        chains: number of parallel chains. Memory sets the limit: 131,072 for 32 tasks, 32 from 2,048 tasks on.
        time_limit_s: time limit of each call of `optimum`, seconds; unused with a `start`.
        seed: seed of all random draws. The result is reproducible if each optimum is proven within its time limit.
        objective: the cost to minimise; by default the makespan.

    Returns:
        A `SearchedPlan` in the best order found, no worse than the first plan. Its `evaluations` count the chains and
        local search, but not the nodes of `optimum`.

    Raises:
        InputError: an argument has a wrong type or is out of range.
    """
    check_type("graph", graph, TaskGraph)
    check_number("steps", steps, low=1, high=MOST_STEPS, integer=True)
    work = latency.padded_size(graph.num_tasks) ** 2
    check_number("chains", chains, low=1, high=max(32, CHAINS_BYTES // work), integer=True)
    check_number("seed", seed, low=0, high=2**32 - 1, integer=True)
    check_number("time_limit_s", time_limit_s, low=0.0)
    goal = goal_of(objective)
    if start is None:
        begin: Plan = optimum(graph, system, time_limit_s=time_limit_s, objective=objective)
    else:
        check_type("start", start, Plan)
        check_type("system", system, System)
        placement = check_placement(graph, start.placement, "start.placement", system.num_sites)
        begin = simulated_plan(graph, system, placement, start.order)  # `start` may be for another system
    n = graph.num_tasks
    with latency.one_by_one():
        dag = latency.pack_float64(graph, system, begin.order, objective)
        actions = actions_of(dag, begin.placement)
        first_cost = latency.costs(dag, jnp.asarray(actions)[:, None])[0]
        state, key = _begin(dag, actions, first_cost, chains), jax.random.key(seed)
        stride = max(1, AT_ONCE // (work * chains))
        for first in range(0, steps, stride):
            last = min(first + stride, steps)
            state = jax.block_until_ready(_anneal(dag, state, first_cost, key, first, last, steps))
        met = jax.device_get(state[1])
    best, spent = begin, steps * chains
    orders = [begin.order] if isinstance(begin, ProvenPlan) and begin.proven else []
    for chain in np.argsort(met.cost):
        order = begin.order[met.order[:n, chain]]
        if len(orders) > POLISHED or met.cost[chain] > met.cost.min() * WORTH_POLISHING:
            break
        if any(np.array_equal(order, other) for other in orders):
            continue
        orders.append(order)
        annealed = simulated_plan(graph, system, placement_of(begin.order, met.actions[:, chain]), order)
        if start is None:
            polished: Plan = optimum(graph, system, order=order, time_limit_s=time_limit_s, objective=objective)
        else:
            most = max(1, POLISHING_WORK // dag.mask.size**2)
            improved = local_search(
                graph, system, order=order, start=annealed, restarts=0, max_evaluations=most, objective=objective
            )
            polished, spent = improved, spent + improved.evaluations
        best = min(best, annealed, polished, key=lambda plan: goal.key(plan.makespan, plan.energy))
    return SearchedPlan.of(best, evaluations=spent)


@partial(jax.jit, static_argnames=("chains",))
def _begin(dag: DagArrays, actions: jax.Array, cost: jax.Array, chains: int) -> tuple[Chains, Chains]:
    """Returns the current and the best plan of each chain; all chains begin with one plan."""

    def repeat(leaf: jax.Array) -> jax.Array:
        return jnp.repeat(leaf[..., None], chains, axis=-1)

    positions = jnp.arange(dag.mask.shape[0], dtype=jnp.int32)
    begin = Chains(repeat(positions), repeat(positions), repeat(actions), jnp.full(chains, cost))
    return begin, begin


@jax.jit
def _anneal(
    dag: DagArrays,
    state: tuple[Chains, Chains],
    first_cost: jax.Array,
    key: jax.Array,
    first: jax.Array | int,
    last: jax.Array | int,
    steps: jax.Array | int,
) -> tuple[Chains, Chains]:
    """Runs the steps from `first` up to `last` of all `steps`; returns the chains and the best plan of each."""

    def body(step: jax.Array, carry: tuple[Chains, Chains]) -> tuple[Chains, Chains]:
        current, best = carry
        temperature = first_cost * HOT * (COLD / HOT) ** (step / steps)
        current = _change(dag, current, jax.random.fold_in(key, step), temperature)
        better = current.cost < best.cost
        return current, jax.tree.map(lambda new, old: jnp.where(better, new, old), current, best)

    return jax.lax.fori_loop(first, last, body, state)


def _change(dag: DagArrays, chains: Chains, key: jax.Array, temperature: jax.Array) -> Chains:
    """Makes one Metropolis step of each chain."""
    size, count = chains.order.shape
    num_tasks = dag.mask.sum()
    which, where, what, luck = jax.random.uniform(key, (4, count))
    task = (which * num_tasks).astype(jnp.int32)
    index = jnp.arange(size, dtype=jnp.int32)[:, None]
    chosen = index == task[None, :]

    # Draw a place between the task's last parent and its first child.
    at = jnp.take_along_axis(chains.position, task[None, :], axis=0)
    low = jnp.max(jnp.where(dag.parents[task].T, chains.position, -1), axis=0) + 1
    high = jnp.min(jnp.where(dag.parents[:, task], chains.position, num_tasks), axis=0) - 1
    to = (low + (where * (high - low + 1)).astype(jnp.int32))[None, :]
    stays = (what < 0.5)[None, :]
    to = jnp.where(stays, at, to).astype(jnp.int32)
    position = chains.position - ((chains.position > at) & (chains.position <= to))
    position = position + ((chains.position < at) & (chains.position >= to))
    position = jnp.where(chosen, to, position).astype(jnp.int32)
    source = index + ((index >= at) & (index < to)) - ((index <= at) & (index > to))
    order = jnp.where(index == to, task[None, :], jnp.take_along_axis(chains.order, source, axis=0))

    shift = 1 + (where * (dag.num_sites - 1)).astype(jnp.int32)[None, :]
    other = (chains.actions + shift) % dag.num_sites
    if dag.allowed is not None:
        fits = jnp.take_along_axis(jnp.asarray(dag.allowed), other, axis=1)
        other = jnp.where(fits, other, chains.actions)
    actions = jnp.where(chosen & stays, other, chains.actions)
    ordered = in_order(dag, order)
    costs = latency.cost(ordered, latency.run(ordered, jnp.take_along_axis(actions, order, axis=0))[0])
    accepted = (costs <= chains.cost) | (luck < jnp.exp((chains.cost - costs) / temperature))
    changed = Chains(order, position, actions, costs)
    return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), changed, chains)
