"""The network against an independent plain-numpy implementation of (16)-(22), written for one DAG without padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrlato_jax.config import DECODER_INPUTS, NetworkConfig
from mrlato_jax.environment.interface import Surroundings
from mrlato_jax.policy import decode
from mrlato_jax.policy.decode import Decisions
from mrlato_jax.policy.seq2seq import Memory, Seq2SeqPolicy, start_state

FEATURES, UNITS, HEADS, LAYERS, SEEN = 9, 16, 2, 2, 3
ROLLOUTS, POSITIONS = 3, 7
SIZES = (7, 4, 1)  # tasks of each DAG

Weights = Mapping[str, Any]


class Record(NamedTuple):
    """Per position."""

    logits: list[np.ndarray]
    values: list[float]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def layer_norm(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def lstm(weights: Weights, c: np.ndarray, h: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each gate's pre-activation and the cell state are normalised; the forget gate is biased by 1."""
    total = x @ weights["input_kernel"]["kernel"] + h @ weights["recurrent_kernel"]["kernel"]
    units = len(h)
    i, g, f, o = (
        layer_norm(total[k * units : (k + 1) * units]) * weights["gate_scale"][k] + weights["gate_bias"][k]
        for k in range(4)
    )
    c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
    c = layer_norm(c) * weights["cell_scale"] + weights["cell_bias"]
    return c, sigmoid(o) * np.tanh(c)


def attention(weights: Weights, query: np.ndarray, encoded: np.ndarray) -> np.ndarray:
    """(18)-(22): two heads of 8 units each, one query over the n encoder outputs; 0 where there is no attention."""
    if "query" not in weights:
        return np.zeros(UNITS)
    q, k, v = (x @ weights[name]["kernel"] for x, name in ((query, "query"), (encoded, "key"), (encoded, "value")))
    heads = []
    for columns in (slice(0, 8), slice(8, 16)):
        score = np.exp(k[:, columns] @ q[columns] / np.sqrt(8.0))
        heads.append((score / score.sum()) @ v[:, columns])
    return np.concatenate(heads) @ weights["context"]["kernel"]


def encode_plainly(weights: Weights, features: np.ndarray) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """(16) for one DAG of n tasks [n, F]: the outputs, and each layer's last state.

    With two directions each has half of the units, and both halves stand side by side everywhere.
    """
    outputs = np.tanh(features @ weights["embedding"]["kernel"] + weights["embedding"]["bias"])
    states = []
    for layer in range(LAYERS):
        halves = [read_plainly(weights[f"encoder_{layer}"], outputs)]
        if f"backward_encoder_{layer}" in weights:
            rows, *last = read_plainly(weights[f"backward_encoder_{layer}"], outputs[::-1])
            halves.append((rows[::-1], *last))
        outputs, c, h = (np.concatenate(parts, axis=-1) for parts in zip(*halves, strict=True))
        states.append((c, h))
    return outputs, states


def read_plainly(cell: Weights, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs of one layer and direction, and its last state."""
    c = h = np.zeros(len(cell["cell_scale"]))
    rows = []
    for x in inputs:
        c, h = lstm(cell, c, h, x)
        rows.append(h)
    return np.array(rows), c, h


def run_plainly(
    weights: Weights,
    decoder_input: str,
    features: np.ndarray,
    actions: np.ndarray,
    seen: Callable[[list[int], int], np.ndarray],
) -> Record:
    """Scores one trajectory of one DAG; `seen(actions so far, position)` is what the simulator shows."""
    outputs, states = encode_plainly(weights, features)
    record = Record([], [])
    previous, output = 2, np.zeros(UNITS)  # the start symbol, and d_0
    for position, action in enumerate(actions):
        context = attention(weights, output, outputs)
        x = np.concatenate([np.eye(3)[previous], context])
        if decoder_input in ("task_sim", "lookahead"):
            x = np.concatenate([x, seen([int(a) for a in actions[:position]], position)])
        first = dict(weights["decoder_0"])
        if decoder_input != "paper":
            # The task's encoder output is one more part of the input, with its own rows of the kernel.
            x = np.concatenate([x, outputs[position]])
            rows = [first["input_kernel"]["kernel"], weights["task_input"]["kernel"]]
            first["input_kernel"] = {"kernel": np.concatenate(rows)}
        for layer in range(LAYERS):
            cell = first if layer == 0 else weights[f"decoder_{layer}"]
            states[layer] = lstm(cell, *states[layer], x)
            x = states[layer][1]
        record.logits.append(x @ weights["logits_head"]["kernel"] + weights["logits_head"]["bias"])
        record.values.append(float((x @ weights["value_head"]["kernel"] + weights["value_head"]["bias"])[0]))
        previous, output = int(action), x
    return record


def config(decoder_input: str, encoder: str = "forward", heads: int = HEADS) -> NetworkConfig:
    return NetworkConfig(
        decoder_input=decoder_input, encoder=encoder, units=UNITS, heads=heads, layers=LAYERS, neighbour_width=2
    )


def random_params(policy: NetworkConfig, seed: int = 0) -> Any:
    """Every parameter far from its initial value, so that none can be left out unnoticed."""
    seen = jnp.zeros((1, SEEN if policy.sees_simulator else 0))
    like = jax.eval_shape(
        Seq2SeqPolicy(policy).init, jax.random.key(0), jnp.zeros((1, 1, FEATURES)), jnp.ones((1, 1), bool), seen
    )
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.3, 0.4, leaf.shape), jnp.float32), like)


def in_float64(params: Any) -> Weights:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)["params"]


def inputs(seed: int = 1) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Features, mask and actions of three DAGs; what stands on padding is rubbish."""
    rng = np.random.default_rng(seed)
    mask = np.array([[position < n for position in range(POSITIONS)] for n in SIZES])
    features = np.where(mask[..., None], rng.normal(size=(3, POSITIONS, FEATURES)), 1e3)
    actions = rng.integers(0, 2, (3, ROLLOUTS, POSITIONS))
    return jnp.asarray(features, jnp.float32), jnp.asarray(mask), jnp.asarray(actions, jnp.int32)


def counter(policy: NetworkConfig) -> Surroundings:
    """A toy simulator: it shows how many tasks were offloaded, the position, and a number of the task."""
    zeros = jnp.zeros((len(SIZES), ROLLOUTS))
    numbers = jnp.sin(jnp.arange(3.0 * POSITIONS)).reshape(3, POSITIONS)
    positions = jnp.broadcast_to(jnp.arange(POSITIONS), (3, POSITIONS))
    shown = policy.sees_simulator

    def observe(count: jax.Array, entry: Any) -> jax.Array:
        number, position = (jnp.broadcast_to(x[:, None], count.shape) for x in entry)
        return jnp.stack([count, position.astype(float), number], axis=-1) if shown else zeros[..., None][..., :0]

    return Surroundings(zeros, (numbers, positions), observe, lambda count, _, action: (count + action, -count))


def seen_plainly(graph: int) -> Callable[[list[int], int], np.ndarray]:
    return lambda before, position: np.array([sum(before), position, np.sin(graph * POSITIONS + position)])


@pytest.mark.parametrize(
    ("decoder_input", "encoder", "heads"),
    [
        *((shown, "forward", HEADS) for shown in DECODER_INPUTS),
        ("task_sim", "bidirectional", HEADS),
        ("task", "forward", 0),
    ],
)
def test_network_equals_the_equations(decoder_input: str, encoder: str, heads: int) -> None:
    """Log-probability, value and entropy of every decision of 9 trajectories, and what the environment returns."""
    policy = config(decoder_input, encoder, heads)
    params, (features, mask, actions) = random_params(policy), inputs()
    network = Seq2SeqPolicy(policy)

    @jax.jit
    def score(params: Any) -> tuple[Decisions, jax.Array]:
        memory = network.apply(params, features, mask, method="encode")
        return decode.decode(policy, params, memory, counter(policy), decode.given(actions))

    decisions, outcomes = score(params)
    np.testing.assert_array_equal(decisions.actions, actions)
    np.testing.assert_array_equal(outcomes, -(np.cumsum(actions, axis=-1) - actions))
    weights = in_float64(params)
    for g, n in enumerate(SIZES):
        for r in range(ROLLOUTS):
            taken = np.asarray(actions[g, r, :n])
            want = run_plainly(weights, decoder_input, np.asarray(features[g, :n], np.float64), taken, seen_plainly(g))
            log_p = np.array([logits - np.log(np.exp(logits).sum()) for logits in want.logits])
            where = (g, r, slice(n))
            tight = {"rtol": 2e-5, "atol": 2e-5}
            np.testing.assert_allclose(decisions.log_probs[where], log_p[np.arange(n), taken], **tight)
            np.testing.assert_allclose(decisions.values[where], want.values, **tight)
            np.testing.assert_allclose(decisions.entropies[where], -(np.exp(log_p) * log_p).sum(axis=1), **tight)


@pytest.fixture(scope="module")
def encoded() -> tuple[NetworkConfig, Any, Memory]:
    policy = config("task")
    params, (features, mask, _) = random_params(policy), inputs()
    return (
        policy,
        params,
        jax.jit(Seq2SeqPolicy(policy).apply, static_argnames="method")(params, features, mask, method="encode"),
    )


def test_attention_sees_no_padding(encoded: tuple[NetworkConfig, Any, Memory]) -> None:
    """Rubbish in the keys and values of padding changes nothing; in those of a task it does."""
    policy, params, memory = encoded
    queries = jax.random.normal(jax.random.key(0), (3 * ROLLOUTS, UNITS))
    attend = jax.jit(lambda memory: Seq2SeqPolicy(policy).apply(params, queries, memory, method="attend"))
    want = attend(memory)
    padded = memory._replace(
        keys=jnp.where(memory.mask[:, None, None, :], memory.keys, 1e4),
        values=jnp.where(memory.mask[:, None, :, None], memory.values, -1e4),
    )
    np.testing.assert_array_equal(attend(padded), want)
    third = jnp.arange(POSITIONS)[None, None, :, None] == 2  # a task of the first two DAGs, padding of the last
    moved = attend(memory._replace(values=jnp.where(third, memory.values + 1, memory.values)))
    changed = (moved != want).any(axis=1)
    assert changed.tolist() == [True] * (2 * ROLLOUTS) + [False] * ROLLOUTS
    # One task has nothing to choose from: its value, whatever the query.
    only = memory.values[2, :, 0].reshape(-1) @ params["params"]["context"]["kernel"]
    np.testing.assert_allclose(want[-ROLLOUTS:], jnp.stack([only] * ROLLOUTS), rtol=1e-5, atol=1e-5)


def test_every_rollout_of_a_dag_starts_from_its_encoders_last_valid_state(
    encoded: tuple[NetworkConfig, Any, Memory],
) -> None:
    _, params, memory = encoded
    state = start_state(memory, ROLLOUTS)
    assert not state.output.any()
    assert (state.action == -1).all()  # neither of the two actions
    weights, features = in_float64(params), np.asarray(inputs()[0], np.float64)
    for g, n in enumerate(SIZES):
        _, states = encode_plainly(weights, features[g, :n])
        for layer, want in zip(state.layers, states, strict=True):
            for got_leaf, want_leaf in zip(layer, want, strict=True):
                rows = got_leaf[g * ROLLOUTS : (g + 1) * ROLLOUTS]
                np.testing.assert_allclose(rows, np.stack([want_leaf] * ROLLOUTS), rtol=2e-5, atol=2e-5)
