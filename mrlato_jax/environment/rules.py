"""Quick rules that complete a plan, and the outcome of each decision about a task when a rule decides the later tasks.

This is parallel rollout (Chang, Givan and Chong, 2004). The HEFT-based rule considers only the task that it places. So
the rule runs with several tolls, and the best result is the outcome of the decision. The look-ahead planner decides by
these outcomes, and a policy may see them.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrlato_jax.environment.features import time_scale
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.objective import Prices
from mrlato_jax.mec.system import CHANNELS

# Each rule charges for offloading: the first factor times the DAG's mean T_ue plus the second times the task's T_ul.
# The first rule is the HEFT-based rule. Each later rule added most to the rules before it, on fresh DAGs of the
# training families of Experiments 1 and 3.
TOLLS = ((0.0, 0.0), (-0.4, -0.5), (0.0, -0.5), (0.0, 1.0), (-1.0, -0.25))
# Where results stay, the later cost of a site depends on the site. Further rules charge these factors times `onward`.
# The first is PEFT's rule. Chosen among a dozen sets on 110 applications that `results.kinds` draws with seed 7.
ONWARD_TOLLS = (1.0, 0.5, 2.0)


def tried(rules: int, channel: str) -> int:
    """Returns the number of rules that `outcomes` tries; where results stay, with those of `ONWARD_TOLLS`."""
    return rules + len(ONWARD_TOLLS) * CHANNELS[channel].results_stay


def onward(dag: DagArrays) -> jax.Array | None:
    """Returns the least cost after each task from each site if nothing waits; None where results return.

    This is the optimistic cost table of PEFT (Arabnejad and Barbosa, IEEE TPDS 2014). Each child takes the site with
    the least cost of moving, computing and the tasks after it. The child of greatest cost counts.

    Args:
        dag: one DAG, no leading axes.

    Returns:
        [N, K + 1], costs by `DagArrays.prices`: seconds where the makespan alone counts. 0 without children.
    """
    if not CHANNELS[dag.channel].results_stay:
        return None
    size, servers = dag.vm.shape
    prices = Prices(1.0, 0.0, 0.0, 0.0) if dag.prices is None else dag.prices
    sending, receiving = prices.makespan + prices.send, prices.makespan + prices.receive
    computing = jnp.concatenate(
        [(prices.makespan + prices.compute) * dag.ue[:, None], prices.makespan * dag.vm], axis=1
    )
    if dag.allowed is not None:
        computing = jnp.where(dag.allowed, computing, jnp.inf)
    without_children = ~dag.parents.any(axis=0)
    returning = jnp.pad(jnp.where(without_children[:, None], receiving * dag.downlink, 0), ((0, 0), (1, 0)))
    stays = jnp.eye(servers + 1, dtype=bool)

    def body(table: jax.Array, position: jax.Array) -> tuple[jax.Array, None]:
        moving = jnp.full((servers + 1, servers + 1), prices.makespan * dag.backhaul[position])
        moving = moving.at[0, 1:].set(sending * dag.forward[position])
        moving = moving.at[1:, 0].set(receiving * dag.downlink[position])
        after = (table + computing + returning)[:, None] + jnp.where(stays, 0, moving)[None]  # [N, from, to]
        children = dag.parents[:, position][:, None]
        most = jnp.where(children, after.min(axis=-1), 0).max(axis=0)
        return table.at[position].set(most), None

    empty = jnp.zeros((size, servers + 1), dag.ue.dtype)
    return jax.lax.scan(body, empty, jnp.arange(size), reverse=True)[0]


class Basis(NamedTuple):
    """Values of one DAG that the rules use at each decision, computed once.

    Attributes:
        dag: one DAG, no leading axes.
        tasks: its `latency.tasks`.
        scale: its `features.time_scale`, seconds.
        onward: its `onward`, [N, K + 1]; None where results return, and for a decoder that does not look ahead.
    """

    dag: DagArrays
    tasks: latency.Task
    scale: jax.Array
    onward: jax.Array | None


def basis_of(dag: DagArrays) -> Basis:
    """Returns the `Basis` of one DAG without leading axes."""
    return Basis(dag, latency.tasks(dag), time_scale(dag), onward(dag))


def place_sooner(
    dag: DagArrays,
    queues: latency.Queues,
    task: latency.Task,
    toll: jax.Array | float = 0.0,
    later: jax.Array | None = None,
) -> tuple[latency.Queues, jax.Array]:
    """Places one task where its own result costs least, ties at a server.

    The cost is the time at which the result is at the UE (or where the result stays). With `DagArrays.prices`, the cost
    is the price of this time, of computing and of transfers. `toll` seconds are added to the time of a server's result,
    and `later` [K + 1] to the cost of each site.

    Returns:
        The queues after the task, and its site.
    """
    ends = latency.candidate_ends(dag, queues, task)
    local, offloaded = ends.ue, ends.download + toll
    if dag.prices is not None:
        paid = latency.site_costs(dag, task, ends)
        second = jnp.asarray(dag.prices.makespan)
        local, offloaded = second * local + paid[0], second[None] * offloaded + paid[1]
    if later is not None:
        local, offloaded = local + later[0], offloaded + later[1:]
    local, offloaded = where_allowed(task, local, offloaded)
    server = jnp.argmin(offloaded, axis=0).astype(jnp.int32) + latency.OFFLOAD
    action = jnp.where(offloaded.min(axis=0) <= local, server, latency.LOCAL)
    return latency.place(dag, queues, task, ends, action)[0], action


def where_allowed(task: latency.Task, local: jax.Array, offloaded: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the costs or times of the UE and of each server, infinite where a pin forbids the site."""
    if task.allowed is None:
        return local, offloaded
    return jnp.where(task.allowed[0], local, jnp.inf), jnp.where(task.allowed[1:], offloaded, jnp.inf)


def outcomes(
    basis: Basis,
    rules: int,
    queues: latency.Queues,
    left: jax.Array,
    task: latency.Task,
    steps: tuple[jax.Array | int, jax.Array | int] | None = None,
) -> jax.Array:
    """Returns the least cost, mostly the makespan, that any of the rules reaches from each decision about one task.

    Args:
        basis: `Basis` of one DAG.
        rules: number of `TOLLS` to try.
        queues: state after the placed tasks.
        left: bool[N], the unplaced tasks, with `task`; all parents of placed tasks are placed. The rules place them in
            order of position.
        task: the task to decide.
        steps: (first, last + 1), a range of positions that holds all unplaced tasks but `task`; by default all
            positions.

    Returns:
        float[K + 1], seconds, for each site; infinite where a pin forbids the site.
    """
    dag, tasks = basis.dag, basis.tasks
    ends = latency.candidate_ends(dag, queues, task)
    others = left & tasks.valid & (tasks.position != task.position)
    tolls = [(*toll, 0.0) for toll in TOLLS[:rules]]
    if basis.onward is not None:
        tolls += [(0.0, 0.0, toll) for toll in ONWARD_TOLLS]
    charged = jnp.asarray(tolls, basis.scale.dtype)
    first, end = (0, others.shape[0]) if steps is None else steps

    def completed(queues: latency.Queues, toll: jax.Array) -> jax.Array:
        def body(position: jax.Array, queues: latency.Queues) -> latency.Queues:
            next_task = jax.tree.map(lambda leaf: leaf[position], tasks)._replace(valid=others[position])
            later = None if basis.onward is None else toll[2] * basis.onward[position]
            return place_sooner(dag, queues, next_task, toll[0] * basis.scale + toll[1] * next_task.uplink, later)[0]

        return latency.cost(dag, jax.lax.fori_loop(first, end, body, queues))

    def outcome(action: jax.Array) -> jax.Array:
        after, _ = latency.place(dag, queues, task, ends, action)
        return jax.vmap(completed, in_axes=(None, 0))(after, charged).min()

    reached = jax.vmap(outcome)(jnp.arange(dag.num_sites))
    return reached if task.allowed is None else jnp.where(task.allowed, reached, jnp.inf)


@cache
def evaluations(rules: int, num_tasks: int, candidates: int = 1, num_sites: int = 2) -> int:
    """Returns the number of plans that `outcomes` simulates along one DAG: its simulated steps / `num_tasks`.

    In the priority order, each rule places n - 1, then n - 2, ... further tasks for each site. With two sites, these
    are the steps of n - 1 plans.

    Args:
        rules: number of rules (`tried`).
        num_tasks: n.
        candidates: most tasks compared at each step. All unplaced tasks are assumed to be ready.
        num_sites: K + 1.
    """
    steps = sum(min(candidates, left) * num_sites * rules * (left - 1) for left in range(1, num_tasks + 1))
    return math.ceil(steps / num_tasks)
