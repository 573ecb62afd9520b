"""The matrix products of the policy, as precise as `NetworkConfig.matmul` says, in the backward pass as well.

    float32   float32 everywhere
    tf32      on NVIDIA GPUs since Ampere, operands rounded to TF32 (10 bits of mantissa); on CPUs float32
    bfloat16  operands rounded to bfloat16 (7 bits of mantissa), sums in float32

Named outright, since what JAX does by default depends on the device: TF32 on GPUs that have it, float32 on CPUs.
Whatever is no product (parameters, layer normalisation, softmax, losses, the optimiser) is float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp

PRECISIONS = {"float32": jax.lax.Precision.HIGHEST, "tf32": jax.lax.Precision.HIGH}


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def product(matmul: str, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """`lhs @ rhs` in float32: [..., m, k] with [k, n], or with [..., k, n] of the same leading axes.

    For reverse-mode derivatives of any order; `jax.jvp` refuses it.
    """
    return _multiply(matmul, lhs, rhs)


def _multiply(matmul: str, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    if matmul == "bfloat16":
        return jnp.matmul(lhs.astype(jnp.bfloat16), rhs.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
    return jnp.matmul(lhs, rhs, precision=PRECISIONS[matmul])


def _forward(matmul: str, lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _multiply(matmul, lhs, rhs), (lhs, rhs)


def _backward(matmul: str, operands: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Products like the forward one: JAX's own derivative would multiply float32 with bfloat16, and round too early."""
    lhs, rhs = operands
    to_lhs = product(matmul, gradient, rhs.swapaxes(-1, -2))
    if rhs.ndim == 2:  # a kernel that all rows share
        lhs, gradient = lhs.reshape(-1, lhs.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    columns = lhs.swapaxes(-1, -2)
    if rhs.ndim == 2 and jax.default_backend() == "cpu":
        # XLA has no fast product there that transposes its left side; elsewhere it has, and merges both.
        columns = jax.lax.optimization_barrier(columns)
    return to_lhs, product(matmul, columns, gradient)


product.defvjp(_forward, _backward)


@cache  # one function for each setting: flax takes layers for equal only if theirs are the same
def dense_product(matmul: str) -> Callable[..., jax.Array]:
    """`product` in the form of `nn.Dense`'s argument `dot_general`."""

    def dot_general(inputs: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
        return product(matmul, inputs, kernel)  # a dense layer contracts no other axes than a product does

    return dot_general
