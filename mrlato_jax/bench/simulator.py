"""The simulator's rate, compared with plain Python and, if its checkout is given, with MRLCO's own simulator."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.bench.peer import PEER_SYSTEM, Peer
from mrlato_jax.bench.timing import Tick, best, quiet, random_graphs
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.mec.arrays import DagArrays, pack
from mrlato_jax.mec.latency import makespan
from mrlato_jax.mec.priority import priority_order
from mrlato_jax.mec.system import System

IN_PYTHON = 100  # number of DAGs for the plain-Python simulators, which take the same time for each


def simulator(
    batch: int = 1000, num_tasks: int = 20, oracle: Path | None = None, peer: Peer | None = None, tick: Tick = quiet
) -> dict[str, float]:
    """Measures the rate of `makespan` in tasks per second, without padding; each call has new placements.

    Args:
        batch: number of DAGs in a call.
        num_tasks: number of tasks of each DAG.
        oracle: file of the tests' plain-Python simulator; None to skip it.
        peer: MRLCO's simulator; None to skip it.
        tick: shows progress.
    """
    total = 1 + (oracle is not None) + (peer is not None)
    tick(0, total, "makespan")
    graphs = random_graphs(batch, num_tasks, seed=0)
    rate = batch * num_tasks / makespan_seconds(graphs, repeats=10, calls=50)
    figures = {"batch": batch, "num_tasks": num_tasks, "task_steps_per_second": rate}
    some = graphs[:IN_PYTHON]
    if oracle is not None:
        tick(1, total, "plain Python")
        figures |= _beside("oracle", rate, len(some) * num_tasks / _oracle_seconds(oracle, some))
    if peer is not None:
        tick(total - 1, total, "the peer")
        figures |= _beside("peer", rate, len(some) * num_tasks / _peer_seconds(peer, some))
    return figures


def _beside(name: str, ours: float, theirs: float) -> dict[str, float]:
    return {f"{name}_task_steps_per_second": theirs, f"speedup_over_{name}": ours / theirs}


def makespan_seconds(graphs: list[TaskGraph], repeats: int, calls: int) -> float:
    """Measures the seconds of one `makespan` call for all `graphs` (of equal size), each call with new placements."""
    arrays: DagArrays = jax.tree.map(jnp.asarray, pack(graphs, System()))
    shape = (len(graphs), graphs[0].num_tasks)
    placements = iter(random_placements(shape, repeats * calls + 1))
    return best(lambda: makespan(arrays, next(placements)), repeats, calls)


def random_placements(shape: tuple[int, int], count: int) -> list[np.ndarray]:
    """Returns `count` random arrays [B, N] of 0 and 1."""
    rng = np.random.default_rng(1)
    return [rng.integers(0, 2, shape, np.int32) for _ in range(count)]


def _oracle_seconds(path: Path, graphs: list[TaskGraph]) -> float:
    oracle = load_module(path)
    mec = oracle.Mec()
    orders = [priority_order(graph, System()).tolist() for graph in graphs]
    dags = [
        oracle.Dag(g.cycles.tolist(), g.upload_bytes.tolist(), g.download_bytes.tolist(), g.edges.tolist())
        for g in graphs
    ]
    return _python_seconds(graphs, lambda i, row: partial(oracle.simulate, dags[i], mec, row, orders[i]))


def _peer_seconds(peer: Peer, graphs: list[TaskGraph]) -> float:
    orders = [priority_order(graph, PEER_SYSTEM).tolist() for graph in graphs]
    theirs = [peer.graph(graph) for graph in graphs]
    return _python_seconds(
        graphs, lambda i, row: partial(peer.cost, [(task, row[task]) for task in orders[i]], theirs[i])
    )


def _python_seconds(graphs: list[TaskGraph], prepare: Callable[[int, list[int]], Callable[[], Any]]) -> float:
    """Measures the seconds of one sweep over all graphs; `prepare(i, placement)` returns the timed call of graph i."""
    repeats = 3
    placements = random_placements((len(graphs), graphs[0].num_tasks), 1 + repeats)
    sweeps = iter([[prepare(i, row) for i, row in enumerate(rows.tolist())] for rows in placements])

    def sweep() -> None:
        for call in next(sweeps):
            call()

    return best(sweep, repeats)


def load_module(path: Path) -> ModuleType:
    """Loads a module from outside the package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
