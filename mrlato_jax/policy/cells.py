"""The recurrent cell of encoder and decoder."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from mrlato_jax.policy.products import dense_product

GATES = 4  # input, candidate, forget, output
FORGET_BIAS = 1.0
EPSILON = 1e-5
LANES = 8  # float32 numbers in a CPU's vector register
PRE_ACTIVATIONS = "pre_activations"  # name for `jax.checkpoint`, which keeps them: they cost two matrix products


class CellState(NamedTuple):
    """State of an LSTM layer between two steps; each [B, units]."""

    cell: jax.Array
    hidden: jax.Array


def zero_state(batch: int, units: int, dtype: DTypeLike) -> CellState:
    """Returns the state before the first step."""
    zeros = jnp.zeros((batch, units), dtype)
    return CellState(zeros, zeros)


class LayerNormLSTMCell(nn.Module):
    """LSTM cell with layer normalisation (Ba et al., 2016) of each gate's pre-activation and of the cell state.

    The next step starts from the normalised cell state, as in TensorFlow 1's LayerNormBasicLSTMCell, the cell of
    MRLCO's public code. Ba et al. normalise the cell state only for the output.

    `project` computes the input's share of the pre-activations, so one matrix product can serve many steps. `__call__`
    adds the recurrent share and advances the state.
    """

    units: int
    matmul: str = "float32"

    def setup(self) -> None:
        width = GATES * self.units
        dense = partial(nn.Dense, use_bias=False, dot_general=dense_product(self.matmul))
        self.input_kernel = dense(width, kernel_init=nn.initializers.glorot_uniform())
        self.recurrent_kernel = dense(width, kernel_init=nn.initializers.orthogonal())
        self.gate_scale = self.param("gate_scale", nn.initializers.ones, (GATES, self.units), jnp.float32)
        self.gate_bias = self.param("gate_bias", nn.initializers.zeros, (GATES, self.units), jnp.float32)
        self.cell_scale = self.param("cell_scale", nn.initializers.ones, (self.units,), jnp.float32)
        self.cell_bias = self.param("cell_bias", nn.initializers.zeros, (self.units,), jnp.float32)

    def project(self, inputs: jax.Array) -> jax.Array:
        """Computes the input's share of the gates' pre-activations: [..., inputs] -> [..., 4 units]."""
        return self.input_kernel(inputs)

    def __call__(self, state: CellState, projected: jax.Array) -> CellState:
        """Advances the state by one step, given `projected` [B, 4 units]."""
        gates = checkpoint_name(projected + self.recurrent_kernel(state.hidden), PRE_ACTIVATIONS)
        gates = gates.reshape(-1, GATES, self.units)
        gates = normalise(gates) * self.gate_scale[None] + self.gate_bias[None]
        write, candidate, forget, read = (gates[:, i] for i in range(GATES))
        cell = state.cell * nn.sigmoid(forget + FORGET_BIAS) + nn.sigmoid(write) * jnp.tanh(candidate)
        cell = normalise(cell) * self.cell_scale[None] + self.cell_bias[None]
        return CellState(cell, jnp.tanh(cell) * nn.sigmoid(read))


def normalise(values: jax.Array) -> jax.Array:
    """Normalises to zero mean and unit variance along the last axis."""
    centred = values - _mean(values)
    return centred * jax.lax.rsqrt(_mean(jnp.square(centred)) + EPSILON)


def _mean(values: jax.Array) -> jax.Array:
    """Averages along the last axis, which stays with length 1."""
    width = values.shape[-1]
    if jax.default_backend() == "cpu" and width % LANES == 0:
        # XLA's CPU backend would add a row number by number, and the whole cell would take twice as long.
        values = values.reshape(*values.shape[:-1], -1, LANES).sum(axis=-2)
    return values.sum(axis=-1, keepdims=True) / width
