"""The decoder's interface to the decision process. The policy uses nothing else of the simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


class Surroundings(NamedTuple):
    """The decision processes of R trajectories of each of G DAGs.

    Attributes:
        state: state before the first decision; pytree with leading axes [G, R].
        inputs: pytree with leading axes [G, N], one entry per position.
        observe: `(state, input [G, ...]) -> [G, R, O]`, the decoder's observation before a decision. With a free order,
            [G, R, N, O], one for each task. With any_servers, also one for each site: [G, R, K + 1, O] and
            [G, R, N, K + 1, O].
        advance: `(state, input [G, ...], actions [G, R]) -> (state, outcome [G, R])`.
        allowed: `(state, input [G, ...]) -> bool[G, R, A]`, at least one true; None where all actions are always
            allowed.
    """

    state: Any
    inputs: Any
    observe: Callable[[Any, Any], jax.Array]
    advance: Callable[[Any, Any, jax.Array], tuple[Any, Any]]
    allowed: Callable[[Any, Any], jax.Array] | None = None
