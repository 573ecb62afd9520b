"""The interface of every method in a table, learned or not: prepare, adapt, plan.

This interface is for programs that take any method. `results.reproduction` trains several seeds in one program and
measures after every update, so it calls the implementations directly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, Self

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.mec.system import System
from mrlato_jax.planners import Plan


class Prepared(Protocol):
    """A method that is ready to plan."""

    def adapt(self, graphs: Sequence[TaskGraph], system: System, updates: int) -> Self:
        """Returns the method after `updates` gradient steps on these applications; a planner returns itself."""

    def plan(self, graphs: Sequence[TaskGraph], system: System) -> list[Plan]:
        """Returns a plan for each application."""


class Method(Protocol):
    """One row of a table."""

    @property
    def name(self) -> str:
        """Name in tables."""

    def prepare(self, train: Train) -> Prepared:
        """Prepares the method: a learned method is trained by `train`; a planner ignores `train`."""


Train = Callable[[Method], Prepared]
"""Meta-trains a learned method; the caller chooses the data and the length of the training."""
