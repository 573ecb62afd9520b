"""Parameters as one vector.

An elementwise update or an average is one operation on a vector, but about thirty on a network's arrays. So programs on
vectors are shorter and compile faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def flat(tree: Any, leading: int = 0) -> jax.Array:
    """Concatenates all numbers of a tree in the order of its leaves: [*leading axes, P].

    Args:
        tree: arrays with the same first `leading` axes.
        leading: number of leading axes to keep.
    """
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([leaf.reshape(*leaf.shape[:leading], -1) for leaf in leaves], axis=-1)


def unflat(vector: jax.Array, like: Any, leading: int = 0) -> Any:
    """Inverse of `flat`: returns a tree of the structure and shapes of `like`."""
    leaves, structure = jax.tree.flatten(like)
    sizes = [int(np.prod(leaf.shape[leading:])) for leaf in leaves]
    parts = jnp.split(vector, np.cumsum(sizes)[:-1], axis=-1)
    return jax.tree.unflatten(structure, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


def flat_state(state: Any, params: Any, leading: int = 0) -> Any:
    """Flattens each part of an optimiser's state that has the structure of `params` to one vector."""
    is_shaped = _shaped_as(params)
    return jax.tree.map(lambda part: flat(part, leading) if is_shaped(part) else part, state, is_leaf=is_shaped)


def unflat_state(state: Any, like: Any, params: Any, leading: int = 0) -> Any:
    """Inverse of `flat_state`: returns a state of the structure of `like`."""
    is_shaped = _shaped_as(params)

    def restore(part: Any, new: Any) -> Any:
        return unflat(new, part, leading) if is_shaped(part) else new

    return jax.tree.map(restore, like, state, is_leaf=is_shaped)


def _shaped_as(params: Any) -> Callable[[Any], bool]:
    structure: Any = jax.tree.structure(params)
    return lambda part: bool(jax.tree.structure(part) == structure)
