"""How long a program that calls the shipped policy waits: for one plan, for many, and for its first."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mrlato_jax.experiments.bench.fresh import caching, run_fresh
from mrlato_jax.experiments.bench.timing import Tick, best, quiet, random_graphs

LoadPlanner = Callable[[], Callable[..., Any]]
"""Gives a function that plans a list of graphs by the shipped policy, in a `mode` or by argmax."""

STARTS = 5  # of processes that only import

_IMPORTS = """
import json, time
marks = {"started": time.time()}
import jax
marks["jax"] = time.time()
import mrlato_jax
marks["package"] = time.time()
"""

_FIRST_PLAN = (
    _IMPORTS
    + """
import sys
from mrlato_jax.experiments.bench.timing import random_graphs
policy = mrlato_jax.load_offloader()
(graph,) = random_graphs(1, int(sys.argv[1]), seed=0)
marks["loaded"] = time.time()
policy.plan(graph, mrlato_jax.System())
marks["planned"] = time.time()
"""
)

_SAID = "print(json.dumps(marks))"


def offloading(
    load: LoadPlanner,
    num_tasks: int = 20,
    many: int = 1000,
    large: Mapping[str, int] | None = None,
    tick: Tick = quiet,
) -> dict[str, Any]:
    """Times the shipped policy's argmax plans, from `TaskGraph` to timed plan, warm and in fresh processes.

    Args:
        load: gives the planner.
        num_tasks: of each DAG.
        many: DAGs of the large batch.
        large: modes in which one large DAG is planned, and its number of tasks.
        tick: shows progress.

    Returns:
        `one_dag_seconds`, a call with one DAG; `many_seconds_per_dag`, one with `many`; `import_jax_seconds` and
        `import_mrlato_jax_seconds`, the latter on top (each the least of `STARTS` processes); and of a process with an
        empty compilation cache (`cold`) and of one that finds it filled (`cached`) `first_plan_seconds`, the first call
        with one DAG, and `until_first_plan_seconds`, from the start of the process to its end. For each mode of `large`
        `large_MODE_seconds`.
    """
    large = large or {}
    steps = STARTS + 4 + len(large)
    imports = []
    for i in range(STARTS):
        tick(i, steps, "imports")
        imports.append(run_fresh(_IMPORTS + _SAID, "", {}))
    figures: dict[str, Any] = {
        "num_tasks": num_tasks,
        "many": many,
        "import_jax_seconds": min(at["jax"] - at["started"] for at in imports),
        "import_mrlato_jax_seconds": min(at["package"] - at["jax"] for at in imports),
    }
    with tempfile.TemporaryDirectory() as cache:
        for i, name in enumerate(("cold", "cached")):
            tick(STARTS + i, steps, f"first plan, {name}")
            launched = time.time()
            at = run_fresh(_FIRST_PLAN + _SAID, str(num_tasks), caching(cache))
            figures[name] = {
                "first_plan_seconds": at["planned"] - at["loaded"],
                "until_first_plan_seconds": at["planned"] - launched,
            }
    plan, graphs = load(), random_graphs(many, num_tasks, seed=0)
    tick(STARTS + 2, steps, "one DAG")
    figures["one_dag_seconds"] = best(partial(plan, graphs[:1]), repeats=10, calls=20)
    tick(STARTS + 3, steps, f"{many} DAGs")
    figures["many_seconds_per_dag"] = best(partial(plan, graphs), repeats=5) / many
    for i, (mode, size) in enumerate(large.items()):
        tick(STARTS + 4 + i, steps, f"one DAG of {size}, {mode}")
        figures["large_num_tasks"] = size
        figures[f"large_{mode}_seconds"] = best(partial(plan, random_graphs(1, size, seed=0), mode=mode), repeats=1)
    return figures
