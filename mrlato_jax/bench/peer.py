"""MRLCO's own simulator, imported from a checkout of its public code. This project contains none of that code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from mrlato_jax.bench.timing import random_graphs
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, shorten
from mrlato_jax.mec.latency import simulate
from mrlato_jax.mec.priority import priority_order
from mrlato_jax.mec.system import System

MODULE = "env.mec_offloaing_envs.offloading_env"  # sic
MEBI = 2.0**20
# The peer's units: one cycle per byte, 2^20 cycles per second on the UE, ten times that on the MEC host.
PEER_SYSTEM = System(MEBI, 10 * MEBI, 7 * MEBI, 7 * MEBI, channel="mrlco_code")
_CHECKED = 20  # number of DAGs on which its makespans must equal ours


class Peer(NamedTuple):
    """The peer's simulator, with the conversion of its arguments."""

    cost: Callable[[list[tuple[int, int]], Any], tuple[list[float], float]]
    """`(plan, graph) -> (growth of the makespan at each task, makespan)`; a plan is (task, action) in order."""

    @staticmethod
    def graph(graph: TaskGraph) -> SimpleNamespace:
        """Returns a graph with the attributes that `cost` reads; the peer has one size for upload and computing."""
        sizes = zip(graph.upload_bytes.tolist(), graph.download_bytes.tolist(), strict=True)
        parents: list[set[int]] = [set() for _ in range(graph.num_tasks)]
        for parent, child in graph.edges.tolist():
            parents[child].add(parent)
        tasks = [SimpleNamespace(processing_data_size=up, transmission_data_size=down) for up, down in sizes]
        return SimpleNamespace(task_number=graph.num_tasks, task_list=tasks, pre_task_sets=parents)


def load_peer(folder: Path) -> Peer:
    """Imports MRLCO's simulator from `folder`.

    The module imports further packages that its step-by-step cost does not use: pydotplus, graphviz, gym, and the
    sampler's processes. Stand-ins replace them.

    Args:
        folder: a checkout of github.com/linkpark/metarl-offloading.

    Raises:
        InputError: the module is missing, it cannot be imported, or its makespans differ from those of the channel
            rules `mrlco_code`.
    """
    accepted = "accepted: a checkout of MRLCO's public code (github.com/linkpark/metarl-offloading)"
    path = folder / f"{MODULE.replace('.', '/')}.py"
    if not path.is_file():
        raise InputError(f"peer is {str(folder)!r}, which has no {path.relative_to(folder)}; {accepted}")
    try:
        with _importing_from(folder):
            module = importlib.import_module(MODULE)
        environment = module.OffloadingEnvironment.__new__(module.OffloadingEnvironment)  # its __init__ reads files
        environment.resource_cluster = module.Resources(10 * MEBI, MEBI, 7.0, 7.0)
        peer = Peer(environment.get_scheduling_cost_step_by_step)
    except Exception as error:  # external code may raise anything
        raise InputError(f"peer is {str(folder)!r}, whose {path.name} fails ({shorten(error)}); {accepted}") from error
    if not _agrees(peer):
        raise InputError(f"peer is {str(folder)!r}, whose makespans are not those of the mrlco_code rules; {accepted}")
    return peer


def _agrees(peer: Peer) -> bool:
    rng = np.random.default_rng(2)
    for graph in random_graphs(_CHECKED, 20, seed=2):
        same = TaskGraph.from_edges(
            cycles=graph.upload_bytes,
            upload_bytes=graph.upload_bytes,
            download_bytes=graph.download_bytes,
            edges=graph.edges,
        )
        order = priority_order(same, PEER_SYSTEM)
        placement = rng.integers(0, 2, same.num_tasks)
        ours = simulate(same, PEER_SYSTEM, placement, order).makespan
        theirs = peer.cost([(int(task), int(placement[task])) for task in order], peer.graph(same))[1]
        if not np.isclose(ours, theirs, rtol=1e-9, atol=0):
            return False
    return True


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Context with `folder` first on the import path and empty stand-ins for modules that the peer does not need."""
    before, path = dict(sys.modules), list(sys.path)
    sys.path.insert(0, str(folder.resolve()))
    core, executor = ModuleType("gym.core"), ModuleType("samplers.vectorized_env_executor")
    core.Env = object  # type: ignore[attr-defined]
    executor.MetaIterativeEnvExecutor = object  # type: ignore[attr-defined]
    graphviz = ModuleType("graphviz")
    graphviz.Digraph = object  # type: ignore[attr-defined]
    named = {"gym.core": core, "samplers.vectorized_env_executor": executor, "graphviz": graphviz}
    named |= {name: ModuleType(name) for name in ("gym", "samplers", "pydotplus")}
    sys.modules.update(named)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = path
        for name in [*named, *(name for name in sys.modules if name.partition(".")[0] == "env")]:
            sys.modules.pop(name, None)
        sys.modules.update({name: module for name, module in before.items() if name in named})
