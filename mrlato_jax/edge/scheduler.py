"""The paper's offload scheduler: a plan for an application, by a policy or by a planner."""

from __future__ import annotations

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import check_choice
from mrlato_jax.inference.load import GENERAL, load_offloader
from mrlato_jax.inference.offloader import MODES, Offloader
from mrlato_jax.mec.system import System
from mrlato_jax.planners import PLANNERS, Plan

HOW = (*MODES, *PLANNERS)  # ways to plan


class Scheduler:
    """Plans by name; the policy is loaded when it is first asked for.

    Args:
        policy: as `load_offloader` takes it.
    """

    def __init__(self, policy: str = GENERAL) -> None:
        self._source = policy
        self._policy: Offloader | None = None

    def plan(self, graph: TaskGraph, system: System, how: str) -> Plan:
        """A plan for one application.

        Args:
            graph: its DAG.
            system: the system that it is to run on.
            how: a mode of the policy, or a planner: one of `HOW`.

        Raises:
            InputError: no such way to plan, or a policy that cannot be loaded.
        """
        check_choice("mode", how, HOW)
        if how in PLANNERS:
            return PLANNERS[how](graph, system)
        return self._loaded().plan(graph, system, how)

    def _loaded(self) -> Offloader:
        if self._policy is None:
            self._policy = load_offloader(self._source)
        return self._policy
