"""Plans that a program outside JAX executes, such as a testbed, and the rewards that a collection gets for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.mec.execution import Executor, rewards_of
from mrlato_jax.planners.plan import placement_of


class Recorded(NamedTuple):
    """Executed plans of G DAGs, P of each, and their measured rewards."""

    actions: jax.Array  # int32[G, P, N], sites in scheduling order
    rewards: jax.Array  # [G, P, N], as `mec.execution.measured_rewards`

    def of(self, actions: jax.Array) -> jax.Array:
        """Returns the rewards [G, R, N] of plans int32[G, R, N]: those of the executed plan with most equal decisions.

        All of these plans were executed. Yet another program may decide otherwise between two equally likely sites.
        """
        equal = (actions[:, :, None] == self.actions[:, None]).sum(axis=-1)  # [G, R, P]
        return jnp.take_along_axis(self.rewards, jnp.argmax(equal, axis=-1)[..., None], axis=1)


class Executions:
    """Executes plans of some applications.

    Args:
        graphs: the applications.
        orders: the scheduling order of each, task ids.
        execute: executes a plan once.

    Attributes:
        count: number of executions so far.
    """

    def __init__(self, graphs: Sequence[TaskGraph], orders: Sequence[np.ndarray], execute: Executor) -> None:
        self._graphs, self._orders, self._execute = list(graphs), list(orders), execute
        self.count = 0

    def record(self, actions: np.ndarray, numbers: Sequence[int] | None = None) -> Recorded:
        """Executes plans of some of the applications, each distinct plan once.

        Args:
            actions: int32[G, P, N], sites in scheduling order.
            numbers: the applications; by default all.

        Raises:
            InputError: what `execute` returned is not a `Schedule` that `mec.execution.rewards_of` accepts.
            Exception: what `execute` raised.
        """
        rewards = np.zeros(actions.shape, np.float32)
        for row, number in enumerate(range(len(self._graphs)) if numbers is None else numbers):
            graph, order = self._graphs[number], self._orders[number]
            known: dict[bytes, np.ndarray] = {}
            for plan, sites in enumerate(actions[row]):
                name = sites[: len(order)].tobytes()
                if name not in known:
                    measured = self._execute(graph, placement_of(order, sites), order.copy())
                    self.count += 1
                    known[name] = rewards_of(measured, order)
                rewards[row, plan, : len(order)] = known[name]
        return Recorded(jnp.asarray(actions), jnp.asarray(rewards))
