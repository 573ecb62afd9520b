"""Times of the shipped policy for a calling program: one plan, many plans, and the first plan."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mrlato_jax.bench.fresh import IMPORTS, caching, run_fresh
from mrlato_jax.bench.timing import Tick, best, quiet, random_graphs

LoadPlanner = Callable[[], Callable[..., Any]]
"""Returns a function that plans a list of graphs with the shipped policy, in a `mode`, by default argmax."""

STARTS = 5  # number of processes that only import

_FIRST_PLAN = (
    IMPORTS
    + """
from mrlato_jax.bench.timing import random_graphs
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
    large: int | None = None,
    modes: Sequence[str] = (),
    tick: Tick = quiet,
) -> dict[str, Any]:
    """Times the shipped policy's argmax plans, from `TaskGraph` to timed plan, warm and in fresh processes.

    Args:
        load: returns the planner.
        num_tasks: number of tasks of each DAG.
        many: number of DAGs in the large batch.
        large: number of tasks of a large DAG.
        modes: modes in which the large DAG is planned.
        tick: shows progress.

    Returns:
        `one_dag_seconds` of a call with one DAG, and `many_seconds_per_dag` of a call with `many`.
        `import_jax_seconds`, and `import_mrlato_jax_seconds` in addition (each the least of `STARTS` processes).
        For a process with an empty compilation cache (`cold`) and for one with a filled cache (`cached`):
        `first_plan_seconds` of the first call with one DAG, and `until_first_plan_seconds` from the start of the
        process to the end of that call. For the large DAG `large_num_tasks`, and for each mode `large_MODE_seconds`.
    """
    steps = STARTS + 4 + (0 if large is None else len(modes))
    imports = []
    for i in range(STARTS):
        tick(i, steps, "imports")
        imports.append(run_fresh(IMPORTS + _SAID, "", {}))
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
    if large is not None:
        figures["large_num_tasks"] = large
        graphs = random_graphs(1, large, seed=0)
        for i, mode in enumerate(modes):
            tick(STARTS + 4 + i, steps, f"one DAG of {large}, {mode}")
            figures[f"large_{mode}_seconds"] = best(partial(plan, graphs, mode=mode), repeats=1)
    return figures
