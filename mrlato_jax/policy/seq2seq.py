"""The seq2seq policy with multi-head attention, (16)-(22). The network does not use the simulator.

`encode` runs once per DAG, and all R rollouts of the DAG share its `Memory`. The G x R trajectories of a decoder step
form one flat axis B wherever weights are applied: a weight gradient that contracts over two axes would cost XLA's CPU
backend a transposed copy of both operands at every step.

`NetworkConfig.decoder_input` is the decoder's input; each entry adds to the one above:
    paper      previous action and attention context (17)
    task       the encoder output of the task being decided
    task_sim   the simulator's quantities for that task, from the caller
    lookahead  the outcome of each decision if a rule decided the rest, from the caller

`NetworkConfig.decides` is the scope of an action:
    placement  The site of the next task in scheduling order.
    order      The next task and its site (`environment.actions`). The decoder sees the task placed last, not the task
               being decided. Every task is a candidate. The score of a candidate depends on its encoding, the decoder's
               output and the simulator's quantities for it (as in the pointer networks of Vinyals et al., 2015).

`NetworkConfig.servers` is the set of choices:
    one_server   Two sites: a head of two logits.
    any_servers  Options: a site, or a ready task and a site. One small network scores each option from the task's
                 encoding, the decoder's output and the option's own quantities. In the given order, the decoder's input
                 includes the mean over all options.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrlato_jax.config import NetworkConfig
from mrlato_jax.environment.actions import NUM_SIDES, position_of, site_of
from mrlato_jax.policy.cells import GATES, CellState, LayerNormLSTMCell, zero_state
from mrlato_jax.policy.products import dense_product, product

START = -1  # a_0, the start symbol


class Memory(NamedTuple):
    """The encoder's output for each of G DAGs."""

    keys: jax.Array  # [G, heads, units / heads, N], in the layout of the decoder's products
    values: jax.Array  # [G, heads, N, units / heads]
    mask: jax.Array  # bool[G, N]
    tasks: jax.Array  # [G, N, 4 units], each task's share of the decoder's input; [G, N, 0] if tasks are no input
    candidates: jax.Array  # [G, N, units], each task's share of its scores; [G, N, 0] with two sites in order
    state: tuple[CellState, ...]  # state of each layer after the last task, each [G, units]


class DecoderState(NamedTuple):
    """State of the decoder between two tasks, B = G x R trajectories."""

    layers: tuple[CellState, ...]  # each [B, units]
    output: jax.Array  # d_{j-1} [B, units], d_0 = 0
    action: jax.Array  # int32[B], a_{j-1}


class Seq2SeqPolicy(nn.Module):
    """Encoder (16), decoder (17), attention (18)-(22), and two linear heads on a shared trunk."""

    config: NetworkConfig

    def setup(self) -> None:
        units, layers = self.config.units, self.config.layers
        dense = partial(nn.Dense, dot_general=dense_product(self.config.matmul))
        self.embedding = dense(units)
        both_ways = self.config.encoder == "bidirectional"
        width = units // 2 if both_ways else units
        self.encoder = [LayerNormLSTMCell(width, self.config.matmul) for _ in range(layers)]
        self.backward_encoder = [
            LayerNormLSTMCell(width, self.config.matmul) for _ in range(layers if both_ways else 0)
        ]
        self.decoder = [LayerNormLSTMCell(units, self.config.matmul) for _ in range(layers)]
        self.query = dense(units, use_bias=False)
        self.key = dense(units, use_bias=False)
        self.value = dense(units, use_bias=False)
        self.context = dense(units, use_bias=False)
        if self.config.decoder_input != "paper":
            self.task_input = dense(GATES * units, use_bias=False)
        if not self.config.in_order or self.config.any_servers:
            self.candidate = dense(units)
            self.judge = dense(units, use_bias=False)
            if self.config.sees_simulator:
                self.outcome = dense(units, use_bias=False)
        self.logits_head = dense(self.config.logits, kernel_init=nn.initializers.orthogonal(0.01))
        self.value_head = dense(1, kernel_init=nn.initializers.orthogonal(1.0))

    def encode(self, features: jax.Array, mask: jax.Array) -> Memory:
        """Encodes G DAGs.

        Args:
            features: [G, N, F] task embeddings in scheduling order.
            mask: bool[G, N]; padding comes last and does not change the state.
        """
        outputs = jnp.tanh(self.embedding(features))
        states = []
        for layer, cell in enumerate(self.encoder):
            after, state = _scan_layer(cell, outputs, mask)
            if self.backward_encoder:
                before, other = _scan_layer(self.backward_encoder[layer], outputs, mask, reverse=True)
                after = jnp.concatenate([after, before], axis=-1)
                state = jax.tree.map(lambda *halves: jnp.concatenate(halves, axis=-1), state, other)
            outputs = after
            states.append(state)
        heads = self.config.heads
        shape = (*mask.shape, heads, self.config.units // max(heads, 1))
        keys, values = (project(outputs) if heads else outputs[..., :0] for project in (self.key, self.value))
        shown = self.config.decoder_input != "paper"
        tasks = self.task_input(outputs) if shown else outputs[..., :0]
        two_sides = self.config.in_order and not self.config.any_servers
        return Memory(
            keys=keys.reshape(shape).transpose(0, 2, 3, 1),
            values=values.reshape(shape).transpose(0, 2, 1, 3),
            mask=mask,
            tasks=tasks,
            candidates=outputs[..., :0] if two_sides else self.candidate(outputs),
            state=tuple(states),
        )

    def decode_step(
        self, state: DecoderState, memory: Memory, task: tuple[jax.Array, jax.Array], observations: jax.Array
    ) -> tuple[tuple[CellState, ...], jax.Array, jax.Array]:
        """Makes one decision in each of G x R trajectories.

        Args:
            state: the decoder after the previous decision.
            memory: the encoder's output; its `tasks` and `candidates` are used here only with a free order.
            task: [G, ...], the entries of `tasks` and `candidates` for the next task; unused with a free order.
            observations: the simulator's quantities: [B, O], or [B, N, O] with a free order; with `any_servers`
                [B, K + 1, O], or [B, N, K + 1, O]. O = 0 unless the decoder sees the simulator.

        Returns:
            The layers' new states, logits [B, A], and values [B]. A is K + 1, or N (K + 1) with a free order.
        """
        any_servers, in_order = self.config.any_servers, self.config.in_order
        shown, candidate = (jnp.repeat(share, state.output.shape[0] // share.shape[0], axis=0) for share in task)
        context = self.attend(state.output, memory)
        sites = observations.shape[-2] if any_servers else NUM_SIDES
        # The symbol only distinguishes UE and server; with several servers, the queues show which one.
        side = jnp.where(state.action == START, NUM_SIDES, jnp.minimum(site_of(state.action, sites), 1))
        seen = [jax.nn.one_hot(side, NUM_SIDES + 1, dtype=context.dtype), context]
        options = self.outcome(observations) if any_servers else observations
        if in_order:
            seen.append(jnp.tanh(options).mean(axis=-2) if any_servers else observations)
        projected = self.decoder[0].project(jnp.concatenate(seen, axis=-1))
        if self.config.decoder_input != "paper":
            projected = projected + (shown if in_order else self.placed_last(state.action, memory, sites))
        layers = [self.decoder[0](state.layers[0], projected)]
        for cell, before in zip(self.decoder[1:], state.layers[1:], strict=True):
            layers.append(cell(before, cell.project(layers[-1].hidden)))
        output = layers[-1].hidden
        if any_servers and in_order:
            judged = jnp.tanh(options + (candidate + self.judge(output))[:, None])
        elif any_servers:
            judged = jnp.tanh(options + self.candidates(output, memory)[:, :, None])
        else:
            judged = output if in_order else self.compare(output, memory, observations)
        logits = self.logits_head(judged).reshape(output.shape[0], -1)
        return tuple(layers), logits, self.value_head(output)[..., 0]

    def placed_last(self, actions: jax.Array, memory: Memory, sites: int) -> jax.Array:
        """Returns the decoder's input for the tasks that `actions` [B] placed: [B, 4 units]; 0 before the first."""
        graphs, _, width = memory.tasks.shape
        position = position_of(actions, sites).reshape(graphs, -1, 1)
        shown = jnp.take_along_axis(memory.tasks, jnp.maximum(position, 0), axis=1)
        return jnp.where(position < 0, 0, shown).reshape(-1, width)

    def candidates(self, outputs: jax.Array, memory: Memory) -> jax.Array:
        """Computes every task's pre-activation as a candidate without its quantities, from `outputs` [B, units].

        Returns:
            [B, N, units].
        """
        graphs, size, units = memory.candidates.shape
        each = memory.candidates[:, None] + self.judge(outputs).reshape(graphs, -1, 1, units)
        return each.reshape(-1, size, units)

    def compare(self, outputs: jax.Array, memory: Memory, observations: jax.Array) -> jax.Array:
        """Computes the hidden units of every task as a candidate: [B, N, units]."""
        each = self.candidates(outputs, memory)
        if self.config.sees_simulator:
            each = each + self.outcome(observations)
        return jnp.tanh(each)

    def attend(self, outputs: jax.Array, memory: Memory) -> jax.Array:
        """Computes the context vectors [B, units] of (18)-(22) for queries `outputs` [B, units]; 0 without heads."""
        if not self.config.heads:
            return jnp.zeros_like(outputs)
        graphs, heads, width, _ = memory.keys.shape
        query = self.query(outputs).reshape(graphs, -1, heads, width).swapaxes(1, 2)
        scores = product(self.config.matmul, query, memory.keys) * width**-0.5
        weights = nn.softmax(scores, axis=-1, where=memory.mask[:, None, None, :])
        context = product(self.config.matmul, weights, memory.values).swapaxes(1, 2)
        return self.context(context.reshape(outputs.shape))

    def __call__(self, features: jax.Array, mask: jax.Array, observations: jax.Array) -> jax.Array:
        """Uses every parameter once; only for `init`."""
        memory = self.encode(features, mask)
        task = memory.tasks[:, 0], memory.candidates[:, 0]
        return self.decode_step(start_state(memory, 1), memory, task, observations)[1]


def start_state(memory: Memory, rollouts: int) -> DecoderState:
    """Returns the decoder before its first decision: the encoder's last valid state, d_0 = 0 and the start symbol.

    Args:
        memory: the encoder's output for G DAGs.
        rollouts: R, trajectories of each DAG.
    """
    layers = jax.tree.map(lambda leaf: jnp.repeat(leaf, rollouts, axis=0), memory.state)
    output = jnp.zeros_like(layers[-1].hidden)
    return DecoderState(layers, output, jnp.full(output.shape[0], START, jnp.int32))


def _scan_layer(
    cell: LayerNormLSTMCell, inputs: jax.Array, mask: jax.Array, reverse: bool = False
) -> tuple[jax.Array, CellState]:
    """Runs one encoder layer over all positions.

    Returns:
        Outputs [G, N, units], and the state after the last valid position in reading order.
    """

    def body(cell: LayerNormLSTMCell, state: CellState, step: Any) -> tuple[CellState, jax.Array]:
        projected, valid = step
        after = jax.tree.map(lambda new, old: jnp.where(valid[:, None], new, old), cell(state, projected), state)
        return after, after.hidden

    along = {"in_axes": 1, "out_axes": 1, "reverse": reverse}
    scan = nn.scan(body, variable_broadcast="params", split_rngs={"params": False}, **along)
    projected = cell.project(inputs)
    state, outputs = scan(cell, zero_state(mask.shape[0], cell.units, projected.dtype), (projected, mask))
    return outputs, state
