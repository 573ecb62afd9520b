"""What every row of a table can do, be it learned or not: prepare, adapt, plan.

For programs that take any method as it comes. `results.reproduction`, which trains several seeds in one program and
measures after every update, calls what stands behind this face.
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
        """The method after `updates` gradient steps on these applications; itself where nothing is learned."""

    def plan(self, graphs: Sequence[TaskGraph], system: System) -> list[Plan]:
        """A plan for each application."""


class Method(Protocol):
    """One row of a table."""

    @property
    def name(self) -> str:
        """As the table has it."""

    def prepare(self, train: Train) -> Prepared:
        """Makes it ready: what is learned is learned by `train`, what is not ignores it."""


Train = Callable[[Method], Prepared]
"""Meta-trains a learned method on whatever the caller has, for as long as the caller wants."""
