"""Time until the first meta-iteration: imports, and compilation with an empty and with a filled persistent cache."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import jax

from mrlato_jax.bench.fresh import IMPORTS, caching, run_fresh, written_workload
from mrlato_jax.bench.iteration import Workload, compile_iteration, prepare
from mrlato_jax.bench.timing import Tick, quiet

# A small workload, since the compilation time hardly depends on the size.
SMALL = Workload(meta_batch=2, graphs=4, rollouts=2, num_tasks=20, inner_steps=3)

_PROGRAM = (
    IMPORTS
    + """
from mrlato_jax.bench import fresh, startup
print(json.dumps(marks | startup.first_iteration(fresh.read_workload(sys.argv[1]))))
"""
)


def startup(workload: Workload = SMALL, tick: Tick = quiet) -> dict[str, Any]:
    """Starts two fresh processes with one new compilation cache: `cold` fills the cache, `cached` reads it.

    Args:
        workload: the workload of the first iteration.
        tick: shows progress.

    Returns:
        For both, `compile_seconds` of tracing and compiling the meta-iteration, and `first_iteration_seconds` from the
        start of the process to the end of its first iteration. Also the seconds of `import jax` and, after it, of
        `import mrlato_jax` (each the faster of both processes).
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
    """Returns, in the fresh process, when data and parameters were ready, the program compiled, an iteration done."""
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
