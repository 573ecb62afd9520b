"""MRLCO's own simulator, imported from a checkout of its public code; nothing of it is part of this project."""

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

MODULE = "env.mec_offloaing_envs.offloading_env"  # as it is spelt there
MEBI = 2.0**20
# Its units: a task computes one cycle a byte, the UE 2^20 of them a second, the MEC host ten times that.
PEER_SYSTEM = System(MEBI, 10 * MEBI, 7 * MEBI, 7 * MEBI, channel="mrlco_code")
_CHECKED = 20  # DAGs on which its makespans must be ours


class Peer(NamedTuple):
    """What the peer's simulator is called with."""

    cost: Callable[[list[tuple[int, int]], Any], tuple[list[float], float]]
    """`(plan, graph) -> (growth of the makespan at each task, makespan)`; a plan is (task, action) in order."""

    @staticmethod
    def graph(graph: TaskGraph) -> SimpleNamespace:
        """Those attributes of its task graphs that `cost` reads; it has one size for uploading and computing."""
        sizes = zip(graph.upload_bytes.tolist(), graph.download_bytes.tolist(), strict=True)
        parents: list[set[int]] = [set() for _ in range(graph.num_tasks)]
        for parent, child in graph.edges.tolist():
            parents[child].add(parent)
        tasks = [SimpleNamespace(processing_data_size=up, transmission_data_size=down) for up, down in sizes]
        return SimpleNamespace(task_number=graph.num_tasks, task_list=tasks, pre_task_sets=parents)


def load_peer(folder: Path) -> Peer:
    """Imports MRLCO's simulator from `folder`.

    What else its module imports, and its step-by-step cost does not use, is stood in for where it is not installed:
    pydotplus, graphviz, gym, and the sampler's processes.

    Args:
        folder: a checkout of github.com/linkpark/metarl-offloading.

    Raises:
        InputError: no such module there, one that does not import, or one whose makespans are not those of
            the channel rules `mrlco_code`.
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
    except Exception as error:  # another's code may raise anything
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
    """`folder` leads the import path, and what the peer imports but does not need is empty; undone afterwards."""
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
