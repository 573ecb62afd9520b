"""The gap of plans in a given time to the optimum, on the unseen sets of the three experiments."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrlato_jax.bench.timing import Tick, quiet
from mrlato_jax.dag import dataset
from mrlato_jax.inference.in_time import SOURCES
from mrlato_jax.inference.load import load_offloader
from mrlato_jax.learning.ranges import OutsideTrainingWarning
from mrlato_jax.planners import local_search, optimum
from mrlato_jax.training.experiments import unseen_sets

EXPERIMENTS = ("exp1", "exp2", "exp3")
LIMITS_S = (0.001, 0.003, 0.01, 0.03, 0.1)
BEST_S = 30.0  # time limit of the plan that all are compared with


def in_time(graphs: int = 10, limits_s: Sequence[float] = LIMITS_S, tick: Tick = quiet) -> dict[str, Any]:
    """Measures `Offloader.plan(time_limit_s=)`, and the policy and local search alone, on the first DAGs of each set.

    Args:
        graphs: number of DAGs of each unseen set.
        limits_s: time limits, seconds.
        tick: shows progress.

    Returns:
        For each way of planning on each set: the mean relative excess over the best plan known in the priority order,
        the mean and the longest wall time, the fraction of these plans that is proven, and the fractions of the plans
        that each part found. The way "optimum" is the plan that the others are compared with.
    """
    rows: dict[str, Any] = {}
    sets = [
        (experiment, test_set)
        for experiment in EXPERIMENTS
        for test_set in unseen_sets(dataset.load(experiment), "paper")
    ]
    for done, (experiment, test_set) in enumerate(sets):
        tick(done, len(sets), test_set.name)
        policy, system, apps = load_offloader(experiment), test_set.system, test_set.graphs[:graphs]
        ways: dict[str, Any] = {
            "argmax": lambda app, policy=policy, system=system: policy.plan(app, system),
            "local search": lambda app, system=system: local_search(app, system, restarts=0),
        }
        for limit in limits_s:
            ways[f"{1e3 * limit:g} ms"] = lambda app, policy=policy, system=system, limit=limit: policy.plan(
                app, system, time_limit_s=limit
            )
        ways = {"optimum": lambda app, system=system: optimum(app, system, time_limit_s=BEST_S), **ways}
        best = None
        for name, way in ways.items():
            plans, figures = _timed(way, apps)
            best = plans if best is None else best
            above = [plan.makespan / other.makespan - 1 for plan, other in zip(plans, best, strict=True)]
            rows[f"{experiment} {test_set.name}: {name}"] = {"above_fraction": float(np.mean(above)), **figures}
    return {"graphs": graphs, "way": rows}


def _timed(way: Any, apps: Sequence[Any]) -> tuple[list[Any], dict[str, float]]:
    seconds, plans = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OutsideTrainingWarning)
        way(apps[0])
        for app in apps:
            began = time.perf_counter()
            plans.append(way(app))
            seconds.append(time.perf_counter() - began)
    figures = {"mean_seconds": float(np.mean(seconds)), "longest_seconds": max(seconds)}
    if hasattr(plans[0], "proven"):
        figures["proven_fraction"] = float(np.mean([plan.proven for plan in plans]))
    if hasattr(plans[0], "source"):
        for source in SOURCES:
            figures[f"by_{source}_fraction"] = float(np.mean([plan.source == source for plan in plans]))
    return plans, figures
