"""The autoregressive recurrence, used for sampling, for scoring given actions and for greedy decoding.

The three differ only in how an action is chosen. `Surroundings` supplies the decoder's observations and the effect of
each action, so the policy needs no simulator.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mrlato_jax.config import NetworkConfig
from mrlato_jax.environment.actions import NUM_SIDES
from mrlato_jax.environment.interface import Surroundings
from mrlato_jax.policy.cells import PRE_ACTIVATIONS
from mrlato_jax.policy.seq2seq import DecoderState, Memory, Seq2SeqPolicy, start_state

ACTIONS = "actions"  # name for `jax.checkpoint`, which keeps them: recomputed, a near tie could end differently
FORBIDDEN = -1e9  # logit of an action that is not allowed; finite, since 0 times infinity is NaN
OBSERVATIONS = "observations"  # name for `jax.checkpoint`


class Decisions(NamedTuple):
    """The policy's decisions with their log-probabilities, values and entropies; each [G, R, N]."""

    actions: jax.Array  # int32, actions taken
    log_probs: jax.Array  # of the actions taken, or of `judged` in `decode`
    values: jax.Array
    entropies: jax.Array  # nats


class Choice(NamedTuple):
    """A rule that chooses the actions of R trajectories of each of G DAGs: `sampled`, `likeliest`, `given`, ....

    Attributes:
        choose: `(logits [G, R, A], entry of inputs) -> actions [G, R]`.
        inputs: pytree with leading axes [G, R, N], one entry for each decision.
    """

    choose: Callable[[jax.Array, Any], jax.Array]
    inputs: Any

    @property
    def rollouts(self) -> int:
        """R."""
        return int(jax.tree.leaves(self.inputs)[0].shape[1])


def decode(
    config: NetworkConfig,
    params: Any,
    memory: Memory,
    surroundings: Surroundings,
    choice: Choice,
    judged: jax.Array | None = None,
    length: jax.Array | None = None,
) -> tuple[Decisions, Any]:
    """Decides the tasks of G DAGs one after the other, in R trajectories of each DAG.

    Args:
        config: the network's settings.
        params: the network's parameters.
        memory: result of `encode` for these DAGs.
        surroundings: supplies the observations and the effects of actions.
        choice: rule that chooses the actions.
        judged: int32[G, R, N], actions whose log-probabilities to return. Each is evaluated in the state after the
            actions taken before it. By default the actions taken.
        length: number of positions to decide; the results beyond are 0. By default all N. A shorter recurrence is a
            faster one, and has no gradient.

    Returns:
        `Decisions`, and the outcomes of the surroundings, [G, R, N].
    """
    rollouts = choice.rollouts
    network = Seq2SeqPolicy(config)
    graphs, num_positions = memory.mask.shape
    chex.assert_tree_shape_prefix(surroundings.inputs, (graphs, num_positions))
    chex.assert_tree_shape_prefix(surroundings.state, (graphs, rollouts))
    chex.assert_tree_shape_prefix(choice.inputs, (graphs, rollouts, num_positions))

    def body(carry: tuple[DecoderState, Any], entry: Any) -> tuple[Any, Any]:
        state, around = carry
        task, step_input, choice_input, asked = entry
        observations = surroundings.observe(around, step_input)
        observations = observations.reshape(graphs * rollouts, *observations.shape[2:])
        observations = checkpoint_name(observations, OBSERVATIONS)
        layers, logits, values = network.apply(params, state, memory, task, observations, method="decode_step")
        logits, values = logits.reshape(graphs, rollouts, -1), values.reshape(graphs, rollouts)
        if surroundings.allowed is not None:
            logits = jnp.where(surroundings.allowed(around, step_input), logits, FORBIDDEN)
        actions = choice.choose(jax.lax.stop_gradient(logits), choice_input).astype(jnp.int32)
        actions = checkpoint_name(actions, ACTIONS)
        log_p = jax.nn.log_softmax(logits)
        asked = actions if asked is None else asked
        log_probs = jnp.sum(log_p * jax.nn.one_hot(asked, log_p.shape[-1], dtype=log_p.dtype), axis=-1)
        entropies = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)
        around, outcomes = surroundings.advance(around, step_input, actions)
        after = DecoderState(layers, layers[-1].hidden, actions.reshape(-1))
        return (after, around), (Decisions(actions, log_probs, values, entropies), outcomes)

    # The backward pass recomputes elementwise results: stored, they would take 20 times the memory of a step's carry,
    # and writing them costs more time than the arithmetic. Observations are stored so that the state of the
    # surroundings need not be; for the simulator that state has N numbers per step and trajectory.
    keep = jax.checkpoint_policies.save_only_these_names(PRE_ACTIVATIONS, ACTIONS, OBSERVATIONS)
    body = jax.checkpoint(body, prevent_cse=False, policy=keep)
    entries = (
        jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), ((memory.tasks, memory.candidates), surroundings.inputs)),
        jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 2, 0), (choice.inputs, judged)),
    )
    start = (start_state(memory, rollouts), surroundings.state)
    walk = jax.lax.scan if length is None else partial(_scan_first, length)
    _, results = walk(lambda carry, e: body(carry, (*e[0], *e[1])), start, entries)
    return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 2), results)


def _scan_first(length: jax.Array, body: Callable[[Any, Any], tuple[Any, Any]], start: Any, entries: Any) -> Any:
    """Runs `jax.lax.scan` over the first `length` entries; the results of the others are 0."""
    most = jax.tree.leaves(entries)[0].shape[0]
    _, result = jax.eval_shape(body, start, jax.tree.map(lambda leaf: leaf[0], entries))
    results = jax.tree.map(lambda leaf: jnp.zeros((most, *leaf.shape), leaf.dtype), result)

    def step(place: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        state, results = carry
        state, result = body(state, jax.tree.map(lambda leaf: leaf[place], entries))
        return state, jax.tree.map(lambda whole, one: whole.at[place].set(one), results, result)

    return jax.lax.fori_loop(0, length, step, (start, results))


def likeliest(graphs: int, num_positions: int) -> Choice:
    """Chooses the likeliest action, in one trajectory of each DAG (inference)."""
    return Choice(lambda logits, _: jnp.argmax(logits, axis=-1), jnp.zeros((graphs, 1, num_positions, 0)))


def given(actions: jax.Array) -> Choice:
    """Chooses the given actions, int32[G, R, N] (teacher forcing)."""
    return Choice(lambda _, actions: actions, actions)


def deviating(elsewhere: jax.Array) -> Choice:
    """Chooses the likeliest action, or where bool[G, R, N] `elsewhere` is true, the second likeliest if allowed."""

    def choose(logits: jax.Array, elsewhere: jax.Array) -> jax.Array:
        first = jnp.argmax(logits, axis=-1)
        others = jnp.where(jax.nn.one_hot(first, logits.shape[-1], dtype=bool), -jnp.inf, logits)
        return jnp.where(elsewhere & (others.max(axis=-1) > FORBIDDEN), jnp.argmax(others, axis=-1), first)

    return Choice(choose, elsewhere)


def sampled(noise: jax.Array) -> Choice:
    """Draws actions from the policy, given `sampling_noise` [G, R, N, A]."""
    return Choice(lambda logits, noise: jnp.argmax(logits + noise, axis=-1), noise)


def sampled_at_first(noise: jax.Array, actions: jax.Array, first: jax.Array | bool) -> Choice:
    """Draws actions as `sampled` if `first` is true, otherwise chooses the given actions, int32[G, R, N]."""

    def choose(logits: jax.Array, entry: tuple[jax.Array, jax.Array]) -> jax.Array:
        noise, actions = entry
        return jnp.where(first, jnp.argmax(logits + noise, axis=-1), actions)

    return Choice(choose, (noise, actions))


def sampling_noise(
    key: jax.Array,
    trajectories: tuple[int, ...],
    num_positions: int,
    in_order: bool = True,
    num_sites: int = NUM_SIDES,
) -> jax.Array:
    """Draws Gumbel noise [*trajectories, N, A] for `sampled`; consumes `key`.

    A is K + 1, or N (K + 1) with a free order. Each position (and each candidate at a position) has its own key, so
    padding a DAG does not change the draws for its tasks.
    """

    def each(key: jax.Array) -> jax.Array:
        return jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(num_positions))

    def noise(key: jax.Array) -> jax.Array:
        return jax.random.gumbel(key, (*trajectories, num_sites), jnp.float32)

    keys = each(key)
    if in_order:
        return jnp.moveaxis(jax.vmap(noise)(keys), 0, -2)
    drawn = jnp.moveaxis(jax.vmap(jax.vmap(noise))(jax.vmap(each)(keys)), (0, 1), (-3, -2))
    return drawn.reshape(*trajectories, num_positions, -1)
