"""How long a program waits for its first meta-iteration: imports, compilation cold and with a persistent cache."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import jax

from mrlato_jax.bench.fresh import IMPORTS, caching, run_fresh, written_workload
from mrlato_jax.bench.iteration import Workload, compile_iteration, prepare
from mrlato_jax.bench.timing import Tick, quiet

# Programs of any size compile in about the same time, so little is run.
SMALL = Workload(meta_batch=2, graphs=4, rollouts=2, num_tasks=20, inner_steps=3)

_PROGRAM = (
    IMPORTS
    + """
from mrlato_jax.bench import fresh, startup
print(json.dumps(marks | startup.first_iteration(fresh.read_workload(sys.argv[1]))))
"""
)


def startup(workload: Workload = SMALL, tick: Tick = quiet) -> dict[str, Any]:
    """Starts a fresh process twice on one empty compilation cache of its own: `cold` fills it, `cached` reads it.

    Args:
        workload: what the first iteration does.
        tick: shows progress.

    Returns:
        For both: `compile_seconds` of tracing and compiling the meta-iteration, and `first_iteration_seconds` from the
        start of the process to the end of its first iteration. And how long `import jax` takes, and then
        `import mrlato_jax` (the faster of both times each).
    """
    with tempfile.TemporaryDirectory() as cache:
        marks = {}
        for i, name in enumerate(("cold", "cached")):
            tick(i, 2, name)
            marks[name] = _start(workload, cache)
    figures: dict[str, Any] = workload.sizes()
    figures["import_jax_seconds"] = min(at["jax"] - at["started"] for at in marks.values())
    figures["import_mrlato_jax_seconds"] = min(at["package"] - at["jax"] for at in marks.values())
    for name, at in marks.items():
        figures[name] = {
            "compile_seconds": at["compiled"] - at["prepared"],
            "first_iteration_seconds": at["done"] - at["launched"],
        }
    return figures


def first_iteration(workload: Workload) -> dict[str, float]:
    """In the fresh process: when data and parameters were ready, the program compiled, and an iteration done."""
    prepared = prepare(workload)
    jax.block_until_ready(prepared.states.params)
    marks = {"prepared": time.time()}
    run = compile_iteration(prepared)
    marks["compiled"] = time.time()
    jax.block_until_ready(run(prepared.states))
    return {**marks, "done": time.time()}


def _start(workload: Workload, cache: str) -> dict[str, float]:
    launched = time.time()
    return {"launched": launched, **run_fresh(_PROGRAM, written_workload(workload), caching(cache))}
