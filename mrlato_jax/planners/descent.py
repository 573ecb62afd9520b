"""Local search over placements in a given order: one or two tasks change sides, the best change first."""

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
from mrlato_jax.mec.system import System
from mrlato_jax.planners.greedy import earliest_finish
from mrlato_jax.planners.plan import Plan, SearchedPlan, actions_of, placement_of, simulated_plan

BETTER = 1 - 1e-12  # what is less of an improvement is rounding
UNLIMITED = 2**62
AT_ONCE = 4096  # plans that are simulated side by side
STARTS_AT_ONCE = 2048  # random plans that are improved between two looks at an interruption


class Descent(NamedTuple):
    """Where a descent stands."""

    actions: jax.Array  # bool[N] in scheduling order
    makespan: jax.Array  # of `actions`, seconds
    evaluations: jax.Array  # int64, plans simulated so far


@jax.jit
def descend(dag: DagArrays, start: jax.Array, evaluations: jax.Array | int, most: jax.Array | int) -> Descent:
    """Steepest descent: the best change of one task while one helps, else of two; ends where neither does.

    Args:
        dag: one DAG, no leading axes.
        start: bool[N] in scheduling order.
        evaluations: spent before.
        most: no neighbourhood is looked at that would take `evaluations` beyond it.
    """
    size = dag.mask.shape[0]
    singles = jnp.eye(size, dtype=bool)
    pairs = np.stack(np.triu_indices(size, 1), axis=-1)
    chunks = np.resize(pairs, (-(-len(pairs) // AT_ONCE), min(len(pairs), AT_ONCE), 2))  # the last repeats the first
    num_tasks = dag.mask.sum()
    cost_of_singles, cost_of_pairs = num_tasks, num_tasks * (num_tasks - 1) // 2

    def best_of(changes: jax.Array, actions: jax.Array) -> tuple[jax.Array, jax.Array]:
        candidates = actions[:, None] ^ changes
        spans = latency.makespans(dag, candidates)
        index = jnp.argmin(spans)
        return candidates[:, index], spans[index]

    def best_single(actions: jax.Array) -> tuple[jax.Array, jax.Array]:
        return best_of(singles, actions)

    def best_pair(actions: jax.Array) -> tuple[jax.Array, jax.Array]:
        found, spans = jax.lax.map(
            lambda chunk: best_of(singles[:, chunk[:, 0]] | singles[:, chunk[:, 1]], actions), jnp.asarray(chunks)
        )
        index = jnp.argmin(spans)
        return found[index], spans[index]

    def look(state: Descent, best: Any, cost: jax.Array) -> tuple[Descent, jax.Array]:
        actions, span = best(state.actions)
        better = span < state.makespan * BETTER
        after = Descent(
            jnp.where(better, actions, state.actions),
            jnp.where(better, span, state.makespan),
            state.evaluations + cost,
        )
        return after, better

    def body(carry: tuple[Descent, jax.Array]) -> tuple[Descent, jax.Array]:
        state, wide = carry  # whether no single change helps
        after, better = jax.lax.cond(
            wide, lambda s: look(s, best_pair, cost_of_pairs), lambda s: look(s, best_single, cost_of_singles), state
        )
        return after, jnp.where(better, 0, wide + 1)

    def unfinished(carry: tuple[Descent, jax.Array]) -> jax.Array:
        state, wide = carry
        cost = jnp.where(wide == 0, cost_of_singles, cost_of_pairs)
        return (wide < 2) & (state.evaluations + cost <= most)

    span = latency.makespans(dag, start[:, None])[0]
    begin = Descent(start, span, jnp.asarray(evaluations, jnp.int64) + 1)
    return jax.lax.while_loop(unfinished, body, (begin, jnp.zeros((), jnp.int32)))[0]


@jax.jit
def _search(dag: DagArrays, first: jax.Array | None, starts: jax.Array, most: jax.Array | int) -> Descent:
    """`descend` from `first` (or `earliest_finish`), then `_restart`."""
    first = earliest_finish(dag)[0] == latency.OFFLOAD if first is None else first
    return _restart(dag, descend(dag, first, 0, most), starts, most)


@jax.jit
def _restart(dag: DagArrays, best: Descent, starts: jax.Array, most: jax.Array | int) -> Descent:
    """The best of `best` and of what `descend` makes of each of `starts` [S, N] while evaluations are left."""

    def body(best: Descent, start: jax.Array) -> tuple[Descent, None]:
        found = jax.lax.cond(best.evaluations < most, lambda: descend(dag, start, best.evaluations, most), lambda: best)
        better = found.makespan < best.makespan
        chosen = jax.tree.map(lambda new, old: jnp.where(better, new, old), found, best)
        return chosen._replace(evaluations=found.evaluations), None

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
) -> SearchedPlan:
    """Improves a plan, and then random ones, until no change of one or two tasks helps; the best of them.

    Args:
        graph: the application.
        system: the system it runs on.
        order: scheduling order, task ids; by default the start's, and without a start `priority_order(graph, system)`.
        start: plan of this application, perhaps on another system or in another order, whose placement is improved
            first; by default `earliest_finish`'s, which in the default order is HEFT-based's.
        restarts: random plans that are improved as well.
        seed: of those.
        max_evaluations: plans that may be simulated, at least 1; by default any number.

    Returns:
        A `SearchedPlan`, with how many plans were simulated.

    Raises:
        InputError: an argument of another type or out of its range, or an order that is no linear extension.
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
        dag = latency.pack_float64(graph, system, order)
        first = None if start is None else actions_of(dag, check_placement(graph, start.placement, "start.placement"))
        rng, left = np.random.default_rng(seed), restarts

        def starts() -> np.ndarray:
            return rng.random((min(left, STARTS_AT_ONCE), dag.mask.size)) < 0.5

        best = jax.device_get(_search(dag, first, starts(), most))
        while (left := left - STARTS_AT_ONCE) > 0 and best.evaluations < most:
            best = jax.device_get(_restart(dag, best, starts(), most))
    ids = dag.order[: graph.num_tasks]
    plan = simulated_plan(graph, system, placement_of(ids, best.actions), ids)
    return SearchedPlan.of(plan, evaluations=int(best.evaluations))
