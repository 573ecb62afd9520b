"""Adversarial search: for each method, an instance on which its plan is far above the optimum.

As in PISA (Coleman and Krishnamachari, arXiv 2403.07120), simulated annealing changes an instance and keeps what makes
the method worse. An instance is an application of `NUM_TASKS` tasks on one server where results stay. A change draws
one task's cycles or bytes anew by a log-normal factor, adds or removes an edge, or changes a clock or rate. All numbers
stay within `RANGES`, those of the benchmark. The optimum is over all orders (`any_order`), so the gap is true.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError
from mrlato_jax.instances.applications import cluster_job
from mrlato_jax.instances.references import Problem
from mrlato_jax.learning.ranges import OutsideTrainingWarning
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import System
from mrlato_jax.planners import Plan, optimum
from mrlato_jax.planners.any_order import Bounded, bounded

NUM_TASKS = 10
STEPS, RESTARTS = 100, 1
HOT, COLD = 0.1, 0.005  # first and last temperature, of the logarithm of cost over optimum
LONGEST_PROOF_S = 1.0  # of each instance in the search
RANGES = {  # as in the benchmark
    "cycles": (1e7, 2e9),
    "bytes": (1e3, 25e6),
    "vm_hz": (2.5e9, 40e9),
    "uplink_bps": (3.6e6, 50e6),
    "downlink_bps": (3.6e6, 100e6),
}
COSTS_CHANGE, SYSTEM_CHANGE = 1.0, 0.5  # sigma of the log-normal factors
MOST_EDGES = 2 * NUM_TASKS


@dataclasses.dataclass(frozen=True)
class Case:
    """An instance that the search changes; edges go from smaller to larger ids.

    Attributes:
        cycles: float64[n].
        results: float64[n], bytes of each task's result.
        inputs: float64[n], bytes that a task without parents needs from the UE.
        edges: pairs (parent, child).
        system: clock and rates by their names in `System`.
    """

    cycles: np.ndarray
    results: np.ndarray
    inputs: np.ndarray
    edges: frozenset[tuple[int, int]]
    system: dict[str, Any]

    @property
    def problem(self) -> Problem:
        """The instance as planners take it."""
        upload = self.inputs.copy()
        parents: dict[int, float] = {}
        for parent, child in self.edges:
            parents[child] = parents.get(child, 0.0) + self.results[parent]
        for child, size in parents.items():
            upload[child] = size
        graph = TaskGraph.from_edges(
            cycles=self.cycles, upload_bytes=upload, download_bytes=self.results, edges=sorted(self.edges)
        )
        return Problem(graph, System(ue_hz=1e9, channel="resident", **self.system), Objective())


class Worst(NamedTuple):
    """The worst instance found for a method.

    Attributes:
        case: the instance.
        cost: seconds, of the method's plan.
        best: the best plan and the bound for all orders.
        tried: number of instances that were compared.
    """

    case: Case
    cost: float
    best: Bounded
    tried: int

    @property
    def gap(self) -> float:
        """Relative excess over the best plan."""
        return self.cost / self.best.plan.makespan - 1


def begun(rng: np.random.Generator, number: int) -> Case:
    """Draws a first instance: a job of a cluster on a system between the least and the greatest numbers."""
    graph = cluster_job(NUM_TASKS, number)
    system = {
        name: float(np.exp(np.mean(np.log(RANGES[name])))) for name in ("vm_hz", "uplink_bps", "downlink_bps")
    }  # fmt: skip
    low, high = np.log(RANGES["bytes"])
    inputs = np.exp(rng.uniform(low, high, NUM_TASKS))
    return Case(
        _clipped("cycles", graph.cycles),
        _clipped("bytes", graph.download_bytes),
        inputs,
        frozenset(map(tuple, graph.edges.tolist())),
        system,
    )


def _clipped(name: str, values: Any) -> Any:
    return np.clip(values, *RANGES[name])


def changed(case: Case, rng: np.random.Generator) -> Case:
    """Changes one number or one edge of an instance."""
    kind = rng.choice(["cycles", "results", "inputs", "edge", "system"], p=[0.25, 0.25, 0.1, 0.2, 0.2])
    if kind == "edge":
        parent, child = sorted(rng.choice(NUM_TASKS, 2, replace=False).tolist())
        edges = case.edges ^ {(parent, child)}
        return dataclasses.replace(case, edges=edges if len(edges) <= MOST_EDGES else case.edges)
    if kind == "system":
        name = str(rng.choice(list(case.system)))
        factor = np.exp(SYSTEM_CHANGE * rng.standard_normal())
        return dataclasses.replace(
            case, system={**case.system, name: float(_clipped(name, case.system[name] * factor))}
        )  # fmt: skip
    values = getattr(case, kind).copy()
    task = rng.integers(NUM_TASKS)
    factor = np.exp(COSTS_CHANGE * rng.standard_normal())
    values[task] = _clipped("cycles" if kind == "cycles" else "bytes", values[task] * factor)
    return dataclasses.replace(case, **{kind: values})


def compared(case: Case, way: Callable[[Problem], Plan], proof_s: float = LONGEST_PROOF_S) -> tuple[float, Bounded]:
    """Returns the cost of the method's plan, and the best plan with its bound."""
    problem = case.problem
    plan = way(problem)
    known = min(plan, optimum(*problem[:2], time_limit_s=1.0), key=problem.cost)
    return problem.cost(plan), bounded(problem.graph, problem.system, known, time_limit_s=proof_s)


def worst(
    way: Callable[[Problem], Plan],
    seed: int,
    steps: int = STEPS,
    restarts: int = RESTARTS,
    show: Callable[[int, float], None] = lambda tried, gap: None,
) -> Worst:
    """Searches for the instance with the largest gap of a method.

    Args:
        way: plans an instance.
        seed: seed of the search.
        steps: number of changes of each restart.
        restarts: number of first instances.
        show: called after each instance with their number and the largest gap so far.
    """
    best: Worst | None = None
    tried = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideTrainingWarning)
        for restart in range(restarts):
            rng = np.random.default_rng([seed, restart])
            current = begun(rng, restart)
            value = -np.inf
            for step in range(steps):
                case = current if step == 0 else changed(current, rng)
                cost, bound = compared(case, way)
                tried += 1
                new = float(np.log(cost / bound.plan.makespan))
                if bound.proven and (best is None or cost / bound.plan.makespan - 1 > best.gap):
                    best = Worst(case, cost, bound, tried)
                temperature = HOT * (COLD / HOT) ** (step / steps)
                if new >= value or rng.random() < np.exp((new - value) / temperature):
                    current, value = case, new
                show(tried, 0.0 if best is None else best.gap)
    if best is None:
        raise InputError(
            f"steps is {steps} with {restarts} restarts, and no optimum was proven; accepted: more of them"
        )
    return best._replace(tried=tried)
