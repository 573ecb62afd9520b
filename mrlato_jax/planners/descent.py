"""Local search over placements in a given order: each step makes the best change of one or two tasks' sites."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import check_number, check_type
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.latency import check_placement
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import System
from mrlato_jax.planners import engine
from mrlato_jax.planners.greedy import earliest_finish
from mrlato_jax.planners.plan import Plan, SearchedPlan, actions_of, placement_of, simulated_plan

BETTER = 1 - 1e-12  # a smaller improvement counts as rounding
UNLIMITED = 2**62
AT_ONCE = 4096  # plans simulated in one batch
MOST_PAIRS = 2**22  # limit of the list of two-task changes
STARTS_AT_ONCE = 2048  # random plans improved between two checks for an interruption


class Descent(NamedTuple):
    """State of a descent."""

    actions: jax.Array  # int32[N], sites in scheduling order
    cost: jax.Array  # cost of `actions`: seconds, or joules with a deadline
    evaluations: jax.Array  # int64, plans simulated so far


@jax.jit
def descend(dag: DagArrays, start: jax.Array, evaluations: jax.Array | int, most: jax.Array | int) -> Descent:
    """Steepest descent over placements.

    Makes the best change of one task as long as one helps, otherwise the best change of two tasks. Ends when neither
    helps. A change moves a task to any other site that its pin allows. Changes of two tasks are skipped if there are
    more than `MOST_PAIRS`.

    Args:
        dag: one DAG, no leading axes.
        start: int32[N], sites in scheduling order.
        evaluations: plans simulated before.
        most: limit of evaluations; a neighbourhood that would exceed the limit is not searched.
    """
    size, sites = dag.mask.shape[0], dag.num_sites
    ways = sites - 1  # changes of one task
    singles = np.stack(np.divmod(np.arange(size * ways, dtype=np.int32), ways), axis=-1)  # rows (task, shift - 1)
    few = size * (size - 1) // 2 * ways**2 <= MOST_PAIRS
    pairs = np.stack(np.triu_indices(size if few else 2, 1), axis=-1)
    both = np.stack(np.divmod(np.arange(ways * ways), ways), axis=-1)
    doubles = np.concatenate([np.repeat(pairs, len(both), axis=0), np.tile(both, (len(pairs), 1))], axis=1)
    chunks = np.resize(
        doubles, (-(-len(doubles) // AT_ONCE), min(len(doubles), AT_ONCE), 4)
    )  # the last chunk is filled with the first rows
    num_tasks = dag.mask.sum()
    cost_of_singles = num_tasks * ways
    cost_of_pairs = num_tasks * (num_tasks - 1) // 2 * ways**2
    one_hot = jnp.eye(size, dtype=jnp.int32)

    def best_of(shifts: jax.Array, actions: jax.Array) -> tuple[jax.Array, jax.Array]:
        candidates = (actions[:, None] + shifts) % sites
        costs = latency.costs(dag, candidates)
        if dag.allowed is not None:
            fits = jnp.take_along_axis(dag.allowed, candidates, axis=1).all(axis=0)
            costs = jnp.where(fits, costs, jnp.inf)
        index = jnp.argmin(costs)
        return candidates[:, index], costs[index]

    def best_single(actions: jax.Array) -> tuple[jax.Array, jax.Array]:
        return best_of(one_hot[:, singles[:, 0]] * (1 + singles[None, :, 1]), actions)

    def best_pair(actions: jax.Array) -> tuple[jax.Array, jax.Array]:
        def of_chunk(chunk: jax.Array) -> tuple[jax.Array, jax.Array]:
            first, second, shift, other = chunk.T
            return best_of(one_hot[:, first] * (1 + shift)[None] + one_hot[:, second] * (1 + other)[None], actions)

        best, costs = jax.lax.map(of_chunk, jnp.asarray(chunks, jnp.int32))
        index = jnp.argmin(costs)
        return best[index], costs[index]

    def look(state: Descent, best: Any, cost: jax.Array) -> tuple[Descent, jax.Array]:
        actions, reached = best(state.actions)
        better = reached < state.cost * BETTER
        after = Descent(
            jnp.where(better, actions, state.actions),
            jnp.where(better, reached, state.cost),
            state.evaluations + cost,
        )
        return after, better

    def body(carry: tuple[Descent, jax.Array]) -> tuple[Descent, jax.Array]:
        state, wide = carry  # wide: no single change helps
        after, better = jax.lax.cond(
            wide, lambda s: look(s, best_pair, cost_of_pairs), lambda s: look(s, best_single, cost_of_singles), state
        )
        return after, jnp.where(better, 0, wide + 1)

    def unfinished(carry: tuple[Descent, jax.Array]) -> jax.Array:
        state, wide = carry
        cost = jnp.where(wide == 0, cost_of_singles, cost_of_pairs)
        return (wide < (2 if few else 1)) & (state.evaluations + cost <= most)

    begin = Descent(start, latency.costs(dag, start[:, None])[0], jnp.asarray(evaluations, jnp.int64) + 1)
    return jax.lax.while_loop(unfinished, body, (begin, jnp.zeros((), jnp.int32)))[0]


@jax.jit
def _search(dag: DagArrays, first: jax.Array | None, starts: jax.Array, most: jax.Array | int) -> Descent:
    """Runs `descend` from `first` (or from `earliest_finish`), then `_restart`."""
    first = earliest_finish(dag)[0] if first is None else first
    return _restart(dag, descend(dag, first, 0, most), starts, most)


@jax.jit
def _restart(dag: DagArrays, best: Descent, starts: jax.Array, most: jax.Array | int) -> Descent:
    """Runs `descend` from each of `starts` [S, N] while evaluations are left; returns the best result or `best`."""

    def body(best: Descent, start: jax.Array) -> tuple[Descent, None]:
        end = jax.lax.cond(best.evaluations < most, lambda: descend(dag, start, best.evaluations, most), lambda: best)
        better = end.cost < best.cost
        chosen = jax.tree.map(lambda new, old: jnp.where(better, new, old), end, best)
        return chosen._replace(evaluations=end.evaluations), None

    return jax.lax.scan(body, best, starts)[0]


def local_search(
    graph: TaskGraph,
    system: System,
    *,
    order: Any = None,
    start: Plan | None = None,
    restarts: int = 20,
    seed: int = 0,
    max_evaluations: int | None = None,
    objective: Objective | None = None,
) -> SearchedPlan:
    """Improves a plan, then random plans, until no change of one or two tasks helps; returns the best.

    Args:
        graph: the application.
        system: the system it runs on.
        order: scheduling order, task ids; by default the order of `start`, or without a start
            `priority_order(graph, system)`.
        start: plan of this application whose placement is improved first. The plan may be for another system or in
            another order. By default the plan of `earliest_finish`, which is the HEFT-based plan in the default order.
        restarts: number of random plans to improve as well.
        seed: seed of the random plans.
        max_evaluations: limit of simulated plans, at least 1; by default none.
        objective: the cost to minimise; by default the makespan.

    Returns:
        A `SearchedPlan` with the number of simulated plans.

    Raises:
        InputError: an argument has a wrong type or is out of range, or the order is not a linear extension.
    """
    check_type("graph", graph, TaskGraph)
    check_number("restarts", restarts, low=0, integer=True)
    check_number("seed", seed, low=0, high=2**32 - 1, integer=True)
    most = UNLIMITED if max_evaluations is None else max_evaluations
    check_number("max_evaluations", most, low=1, high=UNLIMITED, integer=True)
    if start is not None:
        check_type("start", start, Plan)
        order = start.order if order is None else order
    with latency.one_by_one():
        dag = latency.pack_float64(graph, system, order, objective)
        first = None
        if start is not None:
            first = actions_of(dag, check_placement(graph, start.placement, "start.placement", system.num_sites))
        rng, left = np.random.default_rng(seed), restarts

        def starts() -> np.ndarray:
            return random_sites(dag, rng.random((min(left, STARTS_AT_ONCE), dag.mask.size)))

        if (code := engine.machine_code()) is None:
            best = jax.device_get(_search(dag, first, starts(), most))
            while (left := left - STARTS_AT_ONCE) > 0 and best.evaluations < most:
                best = jax.device_get(_restart(dag, best, starts(), most))
        else:
            best = code.Workspace(dag, most)
            best.improve(best.earliest_finish() if first is None else best.unpadded(first))
            while left > 0 and best.evaluations < most:
                for start in starts():
                    best.improve(best.unpadded(start))
                left -= STARTS_AT_ONCE
    ids = dag.order[: graph.num_tasks]
    plan = simulated_plan(graph, system, placement_of(ids, best.actions), ids)
    return SearchedPlan.of(plan, evaluations=int(best.evaluations))


def random_sites(dag: DagArrays, uniform: np.ndarray) -> np.ndarray:
    """Maps numbers in [0, 1) to equally likely allowed sites, int32[..., N], in the scheduling order of one DAG."""
    servers = dag.num_sites - 1
    sites = servers - np.floor(uniform * dag.num_sites).astype(np.int32)
    if dag.allowed is not None:
        sites = np.where(dag.allowed[:, 1], sites, latency.LOCAL)
        sites = np.where(dag.allowed[:, 0], sites, servers - np.floor(uniform * servers).astype(np.int32))
    return sites
