"""Quick rules that complete a plan, and what either decision about a task leads to if they decide the rest.

Parallel rollout (Chang, Givan and Chong, 2004): the HEFT-based rule looks only at the task it decides, so it is run
with different tolls on offloading, and the best result speaks for a decision. The look-ahead planner decides by these
outcomes; a policy may be shown them.
"""

from __future__ import annotations

import math
from functools import cache

import jax
import jax.numpy as jnp

from mrlato_jax.mec import latency

# What a rule charges for offloading: so many times the DAG's mean T_ue, and so many times the task's T_ul. The first is
# the HEFT-based rule; each one after it did most beside those before it, on fresh DAGs of Experiment 1's and 3's
# training families.
TOLLS = ((0.0, 0.0), (-0.4, -0.5), (0.0, -0.5), (0.0, 1.0), (-1.0, -0.25))


def place_sooner(
    channel: str, queues: latency.Queues, task: latency.Task, toll: jax.Array | float = 0.0
) -> tuple[latency.Queues, jax.Array]:
    """Places one task where its own result is at the UE first; an offloaded one counts `toll` seconds later."""
    ends = latency.candidate_ends(channel, queues, task)
    action = jnp.where(ends.download + toll <= ends.ue, latency.OFFLOAD, latency.LOCAL)
    return latency.place(channel, queues, task, ends, action)[0], action


def outcomes(
    channel: str,
    rules: int,
    tasks: latency.Task,
    scale: jax.Array,
    queues: latency.Queues,
    left: jax.Array,
    task: latency.Task,
    steps: tuple[jax.Array | int, jax.Array | int] | None = None,
) -> jax.Array:
    """The best makespan that any of the rules reaches from either decision about one task.

    Args:
        channel: the channel rules.
        rules: how many of `TOLLS` are tried.
        tasks: `latency.tasks` of the DAG.
        scale: `features.time_scale` of the DAG.
        queues: what the placed tasks left behind.
        left: bool[N], what is not placed, `task` among it; no parent of a placed one is. Decided by position.
        task: the one to be decided.
        steps: (first, last + 1), positions between which all lies that is left beside `task`; by default any.

    Returns:
        float[2], seconds: run locally, offloaded.
    """
    ends = latency.candidate_ends(channel, queues, task)
    others = left & tasks.valid & (tasks.position != task.position)
    tolls = jnp.asarray(TOLLS[:rules], scale.dtype)
    first, end = (0, others.shape[0]) if steps is None else steps

    def completed(queues: latency.Queues, toll: jax.Array) -> jax.Array:
        def body(position: jax.Array, queues: latency.Queues) -> latency.Queues:
            task = jax.tree.map(lambda leaf: leaf[position], tasks)._replace(valid=others[position])
            return place_sooner(channel, queues, task, toll[0] * scale + toll[1] * task.uplink)[0]

        return jax.lax.fori_loop(first, end, body, queues).makespan

    def outcome(action: jax.Array) -> jax.Array:
        after, _ = latency.place(channel, queues, task, ends, action)
        return jax.vmap(completed, in_axes=(None, 0))(after, tolls).min()

    return jax.vmap(outcome)(jnp.array([latency.LOCAL, latency.OFFLOAD]))


@cache
def evaluations(rules: int, num_tasks: int, candidates: int = 1) -> int:
    """Plans that `outcomes` simulates along one DAG, by their steps.

    In the given order each rule completes 2 (n - 1), then 2 (n - 2), ... further tasks: as many as n - 1 plans have.

    Args:
        rules: that are tried.
        num_tasks: n.
        candidates: the most tasks that are compared at each step; as many as are left are taken to be.
    """
    steps = sum(min(candidates, left) * 2 * rules * (left - 1) for left in range(1, num_tasks + 1))
    return math.ceil(steps / num_tasks)
