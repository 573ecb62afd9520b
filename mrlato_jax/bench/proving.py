"""Time of the proof of the optimum on systems of every kind, and the gap of HEFT-based to the optimum."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from mrlato_jax.bench.timing import Tick, quiet, random_graphs
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import System
from mrlato_jax.planners import heft, optimum

NEAR_AND_FAR: Mapping[str, Any] = {
    "vm_hz": (10e9, 20e9, 40e9),
    "uplink_bps": (8e6, 6e6, 4e6),
    "downlink_bps": (8e6, 6e6, 4e6),
}  # faster servers are farther away
WEIGHT = Objective(energy_weight=0.5)
KINDS: Mapping[str, tuple[int, System, Objective]] = {
    "n=25, K=1, return": (25, System(), Objective()),
    "n=25, K=1, return, energy": (25, System(), WEIGHT),
    "n=25, K=1, resident": (25, System(channel="resident"), Objective()),
    "n=25, K=1, resident, energy": (25, System(channel="resident"), WEIGHT),
    "n=15, K=3, return": (15, System(**NEAR_AND_FAR), Objective()),
    "n=15, K=3, return, energy": (15, System(**NEAR_AND_FAR), WEIGHT),
    "n=15, K=3, return, separate radios": (15, System(radio="separate", **NEAR_AND_FAR), Objective()),
    "n=15, K=3, resident": (15, System(channel="resident", **NEAR_AND_FAR), Objective()),
    "n=15, K=3, resident, energy": (15, System(channel="resident", **NEAR_AND_FAR), WEIGHT),
    "n=15, K=3, resident, separate radios": (
        15,
        System(channel="resident", radio="separate", **NEAR_AND_FAR),
        Objective(),
    ),
}


def proving(graphs: int = 20, time_limit_s: float = 10.0, tick: Tick = quiet) -> dict[str, Any]:
    """Measures the seconds of `mj.optimum` on random DAGs, with its first local search, without compilation.

    Args:
        graphs: number of DAGs of each kind.
        time_limit_s: time limit of each proof, seconds.
        tick: shows progress.

    Returns:
        For each kind, the median and the longest time, the fraction proven, and the mean relative excess of the
        HEFT-based plan's cost over the optimum.
    """
    rows: dict[str, Any] = {}
    for done, (name, (num_tasks, system, goal)) in enumerate(KINDS.items()):
        tick(done, len(KINDS), name)
        drawn = random_graphs(graphs, num_tasks, seed=0)
        optimum(drawn[0], system, time_limit_s=0, objective=goal)
        seconds, proven, above = [], [], []
        for graph in drawn:
            began = time.perf_counter()
            best = optimum(graph, system, time_limit_s=time_limit_s, objective=goal)
            seconds.append(time.perf_counter() - began)
            proven.append(best.proven)
            quick = heft(graph, system, objective=goal)
            above.append(goal.cost(quick.makespan, quick.energy) / goal.cost(best.makespan, best.energy) - 1)
        rows[name] = {
            "median_seconds": float(np.median(seconds)),
            "longest_seconds": float(np.max(seconds)),
            "proven_fraction": float(np.mean(proven)),
            "heft_above_fraction": float(np.mean(above)),
        }
    return {"graphs": graphs, "kind": rows}
