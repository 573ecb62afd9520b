"""The planners without learning or search, by their names in tables."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.mec.system import System
from mrlato_jax.planners.fixed import all_local, all_offload, random_placement
from mrlato_jax.planners.greedy import greedy, heft
from mrlato_jax.planners.plan import Plan

Planner = Callable[[TaskGraph, System], Plan]


def baselines(rng: np.random.Generator) -> dict[str, Planner]:
    """Returns the planners by name; `random` draws from `rng`."""
    return {
        "all-local": all_local,
        "all-offload": all_offload,
        "random": partial(random_placement, rng=rng),
        "greedy": greedy,
        "HEFT-based": heft,
    }
