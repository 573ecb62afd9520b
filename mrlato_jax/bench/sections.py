"""The sections of the benchmark, and the common entries of their records."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mrlato_jax.bench import growth as growing
from mrlato_jax.bench.episodes import episodes
from mrlato_jax.bench.iteration import iteration
from mrlato_jax.bench.offloading import LoadPlanner, offloading
from mrlato_jax.bench.peer import Peer
from mrlato_jax.bench.planning import MakePlanner, planning
from mrlato_jax.bench.proving import proving
from mrlato_jax.bench.simulator import simulator
from mrlato_jax.bench.startup import startup
from mrlato_jax.bench.timing import Tick, environment, matmul, peak_memory_gb
from mrlato_jax.inference.offloader import MODES
from mrlato_jax.progress import Progress


@dataclasses.dataclass(frozen=True)
class Options:
    """External inputs of the sections.

    Attributes:
        make_planner: returns a function from graphs to plans.
        load_planner: returns the same for the shipped policy.
        full: also run long measurements.
        oracle: file of the plain-Python simulator, if there is one.
        peer: MRLCO's simulator, if its checkout is given.
    """

    make_planner: MakePlanner
    load_planner: LoadPlanner
    full: bool = False
    oracle: Path | None = None
    peer: Peer | None = None


SECTIONS: dict[str, Callable[[Options, Tick], dict[str, Any]]] = {
    "matmul": lambda options, tick: matmul(tick),
    "simulator": lambda options, tick: simulator(oracle=options.oracle, peer=options.peer, tick=tick),
    "episodes": lambda options, tick: episodes(tick=tick),
    "meta_iteration": lambda options, tick: iteration(tick=tick),
    "compile": lambda options, tick: startup(tick=tick),
    "planning": lambda options, tick: planning(
        options.make_planner, planned=10_000 if options.full else 100, tick=tick
    ),
    "offloader": lambda options, tick: offloading(
        options.load_planner, large=500 if options.full else None, modes=MODES, tick=tick
    ),
    "optimum": lambda options, tick: proving(tick=tick),
    "growth": lambda options, tick: growing.growth(growing.axes(options.full), tick=tick),
}


def run_section(name: str, options: Options) -> dict[str, Any]:
    """Runs one section; shows progress.

    Returns:
        A record: the section's numbers with `matmul_gflop_per_second`, the machine's rate right after them, and
        `peak_memory_gb`; and the `environment`.
    """
    progress: Progress | None = None

    def tick(done: int, total: int, now: str) -> None:
        nonlocal progress
        progress = progress or Progress(total, name)
        progress.update(done, now=now)

    try:
        figures = SECTIONS[name](options, tick)
    finally:
        if progress is not None:
            progress.close()
    memory = peak_memory_gb()
    rate = figures["gflop_per_second"] if name == "matmul" else matmul()["gflop_per_second"]
    return {
        name: {**figures, "matmul_gflop_per_second": rate, "peak_memory_gb": memory},
        "environment": environment(),
    }
