"""The matrix products of the policy in the precision `NetworkConfig.matmul`, in the forward and the backward pass.

    float32   float32 everywhere
    tf32      on NVIDIA GPUs since Ampere, operands rounded to TF32 (10 bits of mantissa); on CPUs float32
    bfloat16  operands rounded to bfloat16 (7 bits of mantissa), sums in float32

The precision is explicit because JAX's default depends on the device: TF32 on GPUs that have it, float32 on CPUs.
All else (parameters, layer normalisation, softmax, losses, the optimiser) is float32.
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
    """Returns `lhs @ rhs` in float32: [..., m, k] with [k, n], or with [..., k, n] of the same leading axes.

    Supports reverse-mode derivatives of any order, but not `jax.jvp`.
    """
    return _multiply(matmul, lhs, rhs)


def _multiply(matmul: str, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    if matmul == "bfloat16":
        return jnp.matmul(lhs.astype(jnp.bfloat16), rhs.astype(jnp.bfloat16), preferred_element_type=jnp.float32)
    return jnp.matmul(lhs, rhs, precision=PRECISIONS[matmul])


def _forward(matmul: str, lhs: jax.Array, rhs: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _multiply(matmul, lhs, rhs), (lhs, rhs)


def _backward(matmul: str, operands: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Uses the same products as the forward pass. JAX's own derivative would mix float32 and bfloat16 operands."""
    lhs, rhs = operands
    to_lhs = product(matmul, gradient, rhs.swapaxes(-1, -2))
    if rhs.ndim == 2:  # all rows share the kernel
        lhs, gradient = lhs.reshape(-1, lhs.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
    columns = lhs.swapaxes(-1, -2)
    if rhs.ndim == 2 and jax.default_backend() == "cpu":
        # There XLA has no fast product with a transposed left operand. Elsewhere XLA fuses the transposition.
        columns = jax.lax.optimization_barrier(columns)
    return to_lhs, product(matmul, columns, gradient)


product.defvjp(_forward, _backward)


@cache  # one function for each setting, since flax compares layers by the identity of their functions
def dense_product(matmul: str) -> Callable[..., jax.Array]:
    """Returns `product` as the argument `dot_general` of `nn.Dense`."""

    def dot_general(inputs: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
        return product(matmul, inputs, kernel)  # a dense layer contracts the same axes as a product

    return dot_general
