"""Trajectories of the current policy on a learning task: sampled, scored again, or decoded greedily."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mrlato_jax.config import PolicyConfig
from mrlato_jax.learning.tasks import LearningTask
from mrlato_jax.mec import latency, mdp
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.planners import lookahead
from mrlato_jax.policy import decode
from mrlato_jax.policy.decode import Decisions, Environment
from mrlato_jax.policy.seq2seq import NUM_SIDES, Memory, Seq2SeqPolicy

DOUBT = 0.01  # chance of doing otherwise that `deviate` adds to the policy's own, so that every decision is tried


class Trajectories(NamedTuple):
    """R rollouts of each of G DAGs."""

    decisions: Decisions  # each [G, R, N], under the policy that sampled them
    rewards: jax.Array  # [G, R, N], (14), seconds
    makespans: jax.Array  # [G, R], seconds

    @classmethod
    def of(cls, decoded: tuple[Decisions, jax.Array]) -> Trajectories:
        """From what `decode.decode` gives in an `environment`."""
        decisions, rewards = decoded
        return cls(decisions, rewards, -rewards.sum(axis=-1))


@partial(jax.jit, static_argnames="policy")
def init_params(policy: PolicyConfig, key: jax.Array) -> Any:
    """Random parameters of the policy."""
    features = jnp.zeros((1, 1, mdp.num_features(policy.neighbour_limit, policy.outlook)))
    width = observed(policy)
    observations = jnp.zeros((1, width) if policy.in_order else (1, 1, width))
    return Seq2SeqPolicy(policy).init(key, features, jnp.ones((1, 1), bool), observations)


def observed(policy: PolicyConfig) -> int:
    """How many numbers the decoder is told by the simulator."""
    ahead = mdp.LOOKAHEAD_FEATURES if policy.decoder_input == "lookahead" else 0
    return (mdp.SIMULATOR_FEATURES if policy.sees_simulator else 0) + ahead


def lookahead_evaluations(policy: PolicyConfig, num_tasks: int) -> int:
    """Plans that are simulated to tell the decoder of one trajectory what its decisions lead to."""
    if policy.decoder_input != "lookahead":
        return 0
    return lookahead.evaluations(policy.lookahead_rules, num_tasks, 1 if policy.in_order else policy.candidates)


def encode(policy: PolicyConfig, params: Any, task: LearningTask) -> Memory:
    """Runs the encoder once for each DAG; what it returns serves all rollouts of that DAG."""
    return Seq2SeqPolicy(policy).apply(params, task.features, task.dags.mask, method="encode")


def environment(policy: PolicyConfig, dags: DagArrays, rollouts: int) -> Environment:
    """The decision process of R trajectories of each DAG, as the decoder meets it; outcomes are rewards (14).

    Args:
        policy: says whether the decoder sees the simulator, and whether it looks ahead.
        dags: leading axis G.
        rollouts: R.
    """
    if not policy.in_order:
        return _free_environment(policy, dags, rollouts)
    channel, tasks = dags.channel, jax.vmap(latency.tasks)(dags)
    last = dags.mask.sum(axis=-1, dtype=jnp.int32).max()

    def observe(
        tasks: latency.Task, queues: latency.Queues, step: tuple[latency.Task, jax.Array], position: jax.Array
    ) -> jax.Array:
        task, scale = step
        if not policy.sees_simulator:
            return jnp.zeros(0, scale.dtype)
        left = tasks.position >= task.position
        # What is seen depends on the times piecewise, as plans do: nothing is to be differentiated.
        seen = jax.lax.stop_gradient((tasks, left, scale, queues, task))
        told, outcomes = jax.lax.platform_dependent(
            cpu=lambda: _told(policy, channel, *seen, steps=(position + 1, last)),
            # An accelerator waits for the host at each step of a loop whose length is not known when it is compiled.
            default=lambda: _told(policy, channel, *seen),
        )
        if policy.decoder_input == "task_sim":
            return told
        return jnp.concatenate([told, mdp.lookahead_features(scale, queues, *outcomes)])

    def advance(
        queues: latency.Queues, step: tuple[latency.Task, jax.Array], action: jax.Array
    ) -> tuple[latency.Queues, jax.Array]:
        after, _ = latency.step(channel, queues, step[0], action)
        return after, mdp.reward(queues, after)

    graphs, size = dags.mask.shape
    scales = jnp.broadcast_to(jax.vmap(mdp.time_scale)(dags)[:, None], (graphs, size))
    empty = jax.vmap(latency.empty_queues)(dags)
    each = jax.vmap(jax.vmap(observe, in_axes=(None, 0, None, None)), in_axes=(0, 0, 0, None))
    return Environment(
        state=jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], rollouts, axis=1), empty),
        inputs=(tasks, scales),
        # All DAGs are at the same position: a number for all, it can bound a loop.
        observe=lambda state, step: each(tasks, state, step, step[0].position[0]),
        advance=jax.vmap(jax.vmap(advance, in_axes=(0, None, 0))),
    )


def _told(
    policy: PolicyConfig,
    channel: str,
    tasks: latency.Task,
    left: jax.Array,
    scale: jax.Array,
    queues: latency.Queues,
    task: latency.Task,
    steps: tuple[jax.Array, jax.Array] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """What a decoder that sees the simulator may be told of `task`, where bool[N] `left` of all are not placed yet.

    `steps` is as `lookahead.outcomes` takes it.

    Returns:
        `mdp.simulator_features`, and what either decision leads to, float[2]; 0 for a decoder that does not look ahead.
    """
    told = mdp.simulator_features(scale, queues, latency.candidate_ends(channel, queues, task))
    if policy.decoder_input == "task_sim":
        return told, jnp.zeros(NUM_SIDES, scale.dtype)
    return told, lookahead.outcomes(channel, policy.lookahead_rules, tasks, scale, queues, left, task, steps)


def _free_environment(policy: PolicyConfig, dags: DagArrays, rollouts: int) -> Environment:
    """`environment` where actions choose the order too, among `candidates` tasks whose parents are placed."""
    channel, tasks = dags.channel, jax.vmap(latency.tasks)(dags)
    scales = jax.vmap(mdp.time_scale)(dags)
    graphs, size = dags.mask.shape

    def observe(tasks: latency.Task, scale: jax.Array, state: tuple[latency.Queues, jax.Array]) -> jax.Array:
        told = jnp.zeros((size, observed(policy)), scale.dtype)
        if not policy.sees_simulator:
            return told
        queues, placed = state
        ready = mdp.ready(tasks, placed)
        positions = mdp.candidates(ready, policy.candidates)
        compared = jax.tree.map(lambda leaf: leaf[positions], tasks)
        left = ~placed & tasks.valid
        seen, outcomes = jax.vmap(partial(_told, policy, channel, tasks, left, scale, queues))(compared)
        if policy.decoder_input == "lookahead":
            seen = jnp.concatenate([seen, mdp.candidate_features(scale, outcomes, ready[positions])], axis=1)
        return told.at[positions].set(seen)

    def allowed(tasks: latency.Task, state: tuple[latency.Queues, jax.Array]) -> jax.Array:
        ready = mdp.ready(tasks, state[1])
        positions = mdp.candidates(ready, policy.candidates)
        compared = jnp.zeros(size, bool).at[positions].set(ready[positions])
        return jnp.repeat(compared | ~ready.any(), NUM_SIDES)  # once all are placed, padding is met

    def advance(
        tasks: latency.Task, state: tuple[latency.Queues, jax.Array], action: jax.Array
    ) -> tuple[tuple[latency.Queues, jax.Array], jax.Array]:
        queues, placed = state
        position = action // NUM_SIDES
        task = jax.tree.map(lambda leaf: leaf[position], tasks)
        task = task._replace(valid=task.valid & ~placed[position])
        after, _ = latency.step(channel, queues, task, action % NUM_SIDES)
        return (after, placed.at[position].set(True)), mdp.reward(queues, after)

    empty = jax.vmap(latency.empty_queues)(dags)
    state = jax.tree.map(
        lambda leaf: jnp.repeat(leaf[:, None], rollouts, axis=1), (empty, jnp.zeros((graphs, size), bool))
    )
    each = jax.vmap(jax.vmap(observe, in_axes=(None, None, 0)))
    return Environment(
        state=state,
        inputs=jnp.zeros((graphs, size, 0)),
        observe=lambda state, _: each(tasks, scales, state),
        advance=lambda state, _, actions: jax.vmap(jax.vmap(advance, in_axes=(None, 0, 0)))(tasks, state, actions),
        allowed=lambda state, _: jax.vmap(jax.vmap(allowed, in_axes=(None, 0)))(tasks, state),
    )


def sample(
    policy: PolicyConfig,
    params: Any,
    task: LearningTask,
    key: jax.Array,
    rollouts: int,
    temperatures: jax.Array | None = None,
    alike: bool = False,
) -> Trajectories:
    """Samples trajectories of each DAG (Algorithm 1, line 5).

    Args:
        policy: the network's settings.
        params: of the policy that samples.
        task: G DAGs padded to N positions.
        key: consumed.
        rollouts: R, trajectories of each DAG.
        temperatures: [R], what each trajectory's logits are divided by; 1 by default, the policy itself.
        alike: whether all DAGs share their draws, so that those of one do not depend on how many there are.
    """
    graphs = 1 if alike else task.num_graphs
    noise = decode.sampling_noise(key, (graphs, rollouts), task.num_positions, policy.in_order)
    noise = jnp.broadcast_to(noise, (task.num_graphs, *noise.shape[1:]))
    if temperatures is not None:
        noise = temperatures[None, :, None, None] * noise
    surroundings = environment(policy, task.dags, rollouts)
    memory = encode(policy, params, task)
    return Trajectories.of(decode.decode(policy, params, memory, rollouts, surroundings, decode.sample, noise))


class Deviations(NamedTuple):
    """The policy's own plan of each of G DAGs, and D others that each leave it at a position of their own."""

    own: Trajectories  # [G, 1, N]
    others: Trajectories  # [G, D, N]
    positions: jax.Array  # int32[G, D]


def deviate(policy: PolicyConfig, params: Any, task: LearningTask, key: jax.Array, deviations: int) -> Deviations:
    """The policy's own plan of each DAG, and plans that take the next likeliest action in place of one of it.

    After that the policy's likeliest actions follow again, as it then sees things. Where is drawn, without replacement,
    in proportion to how likely the policy is to do otherwise; a decision that it is sure of counts `DOUBT`.

    Args:
        policy: the network's settings.
        params: of the policy that decides.
        task: G DAGs padded to N positions.
        key: consumed.
        deviations: D; N where there are fewer positions.
    """
    size, count = task.num_positions, min(deviations, task.num_positions)
    surroundings = environment(policy, task.dags, 1)
    memory = encode(policy, params, task)
    nothing = jnp.zeros((task.num_graphs, 1, size), bool)
    own = Trajectories.of(decode.decode(policy, params, memory, 1, surroundings, decode.deviate, nothing))
    otherwise = jnp.log(DOUBT - jnp.expm1(own.decisions.log_probs[:, 0]))
    drawn = otherwise + decode.sampling_noise(key, (task.num_graphs,), size)[..., 0]
    _, positions = jax.lax.top_k(jnp.where(task.dags.mask, drawn, -jnp.inf), count)
    elsewhere = jax.nn.one_hot(positions, size, dtype=bool)
    surroundings = environment(policy, task.dags, count)
    others = Trajectories.of(decode.decode(policy, params, memory, count, surroundings, decode.deviate, elsewhere))
    return Deviations(own, others, positions)


def score(
    policy: PolicyConfig, params: Any, task: LearningTask, actions: jax.Array, judged: jax.Array | None = None
) -> Decisions:
    """What the policy thinks of given actions: the log-probabilities, entropies and values of (23)-(27).

    Args:
        policy: the network's settings.
        params: of the policy that is asked.
        task: G DAGs padded to N positions.
        actions: int32[G, R, N] in scheduling order, which are taken.
        judged: int32[G, R, N], those whose log-probabilities are asked for, if others.
    """
    if policy.sees_simulator or not policy.in_order:
        return follow(policy, params, task, actions, judged).decisions
    rollouts = actions.shape[1]
    surroundings = decode.blind(task.num_graphs, rollouts, task.num_positions)
    memory = encode(policy, params, task)
    return decode.decode(policy, params, memory, rollouts, surroundings, decode.given, actions, judged)[0]


def follow(
    policy: PolicyConfig, params: Any, task: LearningTask, actions: jax.Array, judged: jax.Array | None = None
) -> Trajectories:
    """The trajectories of given actions; arguments as `score`."""
    rollouts = actions.shape[1]
    surroundings = environment(policy, task.dags, rollouts)
    memory = encode(policy, params, task)
    return Trajectories.of(decode.decode(policy, params, memory, rollouts, surroundings, decode.given, actions, judged))


def decode_greedily(policy: PolicyConfig, params: Any, task: LearningTask) -> tuple[jax.Array, jax.Array]:
    """Argmax decoding of each DAG.

    Args:
        policy: the network's settings.
        params: of the policy that decides.
        task: G DAGs padded to N positions.

    Returns:
        Actions int32[G, N] in scheduling order and makespans [G], seconds.
    """
    nothing = jnp.zeros((task.num_graphs, 1, task.num_positions, 0))
    surroundings = environment(policy, task.dags, 1)
    memory = encode(policy, params, task)
    decisions, rewards = decode.decode(policy, params, memory, 1, surroundings, decode.argmax, nothing)
    return decisions.actions[:, 0], -rewards[:, 0].sum(axis=-1)
