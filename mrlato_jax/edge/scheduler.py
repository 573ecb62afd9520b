"""The paper's offload scheduler: plans an application with a policy or a planner."""

from __future__ import annotations

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import check_choice
from mrlato_jax.inference.load import GENERAL, load_offloader
from mrlato_jax.inference.offloader import MODES, Offloader
from mrlato_jax.mec.system import System
from mrlato_jax.planners import PLANNERS, Plan

HOW = (*MODES, *PLANNERS)  # methods of planning


class Scheduler:
    """Plans with a method given by name. The policy is loaded at its first use.

    Args:
        policy: as in `load_offloader`.
    """

    def __init__(self, policy: str = GENERAL) -> None:
        self._source = policy
        self._policy: Offloader | None = None

    def plan(self, graph: TaskGraph, system: System, how: str) -> Plan:
        """Plans one application.

        Args:
            graph: its DAG.
            system: the system that it runs on.
            how: a mode of the policy, or a planner: one of `HOW`.

        Raises:
            InputError: `how` is unknown, or the policy cannot be loaded.
        """
        check_choice("mode", how, HOW)
        if how in PLANNERS:
            return PLANNERS[how](graph, system)
        return self._loaded().plan(graph, system, how)

    def _loaded(self) -> Offloader:
        if self._policy is None:
            self._policy = load_offloader(self._source)
        return self._policy
