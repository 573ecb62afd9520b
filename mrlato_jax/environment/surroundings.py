"""The decision process for a decoder: R trajectories of each of G DAGs, side by side."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from mrlato_jax.config import CANDIDATES, NetworkConfig
from mrlato_jax.environment import actions as coding
from mrlato_jax.environment import features, rules
from mrlato_jax.environment.interface import Surroundings
from mrlato_jax.environment.observation import num_observed, quantities
from mrlato_jax.environment.process import State, allowed_tasks, most_urgent, place_at, place_next, ready, reset
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays


def surroundings(network: NetworkConfig, dags: DagArrays, rollouts: int) -> Surroundings:
    """Returns the decision processes of R trajectories of each DAG; outcomes are rewards (14).

    Args:
        network: settings of the network: whether actions choose the order, and the decoder's view of the simulator.
        dags: DAGs with leading axis G.
        rollouts: R.
    """
    return (_in_priority_order if network.in_order else _in_free_order)(network, dags, rollouts)


def _in_priority_order(network: NetworkConfig, dags: DagArrays, rollouts: int) -> Surroundings:
    """Returns processes in the priority order; all DAGs are at the same position, whose task is the step's input."""
    bases = _bases(network, dags)
    last = dags.mask.sum(axis=-1, dtype=jnp.int32).max()

    def seen(
        basis: rules.Basis, queues: latency.Queues, task: latency.Task, steps: tuple[jax.Array, jax.Array] | None
    ) -> jax.Array:
        left = basis.tasks.position >= task.position
        simulated, outcomes = quantities(network, basis, queues, left, task, steps)
        if network.decoder_input == "task_sim":
            return simulated
        if network.any_servers:
            ahead = _ahead_of_options(basis, queues, outcomes, outcomes.min())
        else:
            ahead = features.lookahead_features(basis.scale, queues, *outcomes)
        return jnp.concatenate([simulated, ahead], axis=-1)

    def observe(queues: latency.Queues, tasks: latency.Task) -> jax.Array:
        if not network.sees_simulator:
            return jnp.zeros((*queues.makespan.shape, 0), bases.scale.dtype)
        # Observations are piecewise functions of the times, as plans are. So no gradient passes through them.
        state = jax.lax.stop_gradient((bases, queues, tasks))
        all_seen = jax.vmap(jax.vmap(seen, in_axes=(None, 0, None, None)), in_axes=(0, 0, 0, None))
        return jax.lax.platform_dependent(
            # The position is the same for all DAGs, so it can bound a loop.
            cpu=lambda: all_seen(*state, (tasks.position[0] + 1, last)),
            # On an accelerator, a loop of a length unknown at compile time waits for the host at each step.
            default=lambda: all_seen(*state, None),
        )

    empty = jax.vmap(latency.empty_queues)(dags)
    advance_all = jax.vmap(jax.vmap(place_next, in_axes=(None, 0, None, 0)))
    return Surroundings(
        state=jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], rollouts, axis=1), empty),
        inputs=bases.tasks,
        observe=observe,
        advance=lambda state, task, actions: advance_all(dags, state, task, actions),
        allowed=None if dags.allowed is None else lambda state, task: jnp.repeat(task.allowed[:, None], rollouts, 1),
    )


def _bases(network: NetworkConfig, dags: DagArrays) -> rules.Basis:
    """Returns `rules.basis_of` of each DAG, without `onward` where the decoder does not look ahead."""
    bases = jax.vmap(rules.basis_of)(dags)
    return bases if network.decoder_input == "lookahead" else bases._replace(onward=None)


def _ahead_of_options(basis: rules.Basis, queues: latency.Queues, outcomes: jax.Array, best: jax.Array) -> jax.Array:
    scale, cost = features.cost_scale(basis.dag, basis.scale), latency.cost(basis.dag, queues)
    return features.option_lookahead_features(scale, cost, best, outcomes)


def _in_free_order(network: NetworkConfig, dags: DagArrays, rollouts: int) -> Surroundings:
    """Returns processes whose actions choose the order too, among `CANDIDATES` ready tasks."""
    bases = _bases(network, dags)
    graphs, size = dags.mask.shape

    def observe(basis: rules.Basis, state: State) -> jax.Array:
        tasks, scale = basis.tasks, basis.scale
        of_sites = (basis.dag.num_sites,) if network.any_servers else ()
        nothing = jnp.zeros((size, *of_sites, num_observed(network)), scale.dtype)
        if not network.sees_simulator:
            return nothing
        can_be_next = ready(tasks, state.placed)
        positions = most_urgent(can_be_next, CANDIDATES)
        compared = jax.tree.map(lambda leaf: leaf[positions], tasks)
        left = ~state.placed & tasks.valid
        of_task = partial(quantities, network, basis, state.queues, left)
        seen, outcomes = jax.vmap(of_task)(compared)
        candidates = can_be_next[positions]
        if network.decoder_input == "lookahead" and network.any_servers:
            reached = jnp.where(candidates[:, None], outcomes, jnp.inf)
            best = jnp.where(candidates.any(), reached.min(), 0)
            ahead = jax.vmap(partial(_ahead_of_options, basis, state.queues), in_axes=(0, None))(reached, best)
            seen = jnp.concatenate([seen, ahead], axis=-1)
        elif network.decoder_input == "lookahead":
            seen = jnp.concatenate([seen, features.candidate_features(scale, outcomes, candidates)], axis=1)
        return nothing.at[positions].set(seen)

    def advance(dag: DagArrays, tasks: latency.Task, state: State, action: jax.Array) -> tuple[State, jax.Array]:
        position, site = coding.position_of(action, dag.num_sites), coding.site_of(action, dag.num_sites)
        return place_at(dag, tasks, state, position, site)

    def allowed(tasks: latency.Task, state: State) -> jax.Array:
        return allowed_tasks(tasks, state, CANDIDATES)

    start = jax.vmap(reset)(dags)
    observe_all = jax.vmap(jax.vmap(observe, in_axes=(None, 0)))
    advance_all = jax.vmap(jax.vmap(advance, in_axes=(None, None, 0, 0)))
    allowed_all = jax.vmap(jax.vmap(allowed, in_axes=(None, 0)))
    return Surroundings(
        state=jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], rollouts, axis=1), start),
        inputs=jnp.zeros((graphs, size, 0)),
        observe=lambda state, _: observe_all(bases, state),
        advance=lambda state, _, actions: advance_all(dags, bases.tasks, state, actions),
        allowed=lambda state, _: allowed_all(bases.tasks, state),
    )
