"""How long a trained policy takes to plan one application."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax

from mrlato_jax.bench.timing import Tick, best, quiet, random_graphs
from mrlato_jax.config import NetworkConfig
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.learning import rollout
from mrlato_jax.learning.learning_task import learning_task
from mrlato_jax.mec.system import System

MakePlanner = Callable[[NetworkConfig, Any], Callable[[list[TaskGraph]], Any]]
"""`(policy, params)` -> a function that plans a list of graphs, as `Offloader.plan` does."""

_DISTINCT = 1000  # DAGs that are drawn; larger batches repeat them, since drawing is no part of planning


def planning(
    make_planner: MakePlanner,
    batches: Sequence[int] = (1, 100, 10_000),
    planned: int = 100,
    num_tasks: int = 25,
    network: NetworkConfig | None = None,
    tick: Tick = quiet,
) -> dict[str, Any]:
    """Seconds a DAG of the argmax policy; its parameters are random, which costs the same.

    Args:
        make_planner: gives the whole way from a graph to its `Plan`.
        batches: DAGs in a call.
        planned: the largest batch that `make_planner`'s function is timed on.
        num_tasks: of each DAG.
        network: of Table I size by default.
        tick: shows progress.

    Returns:
        For each batch `decode_seconds_per_dag`, the jitted call alone on packed arrays, and `plan_seconds_per_dag`,
        from `TaskGraph`s to timed plans.
    """
    distinct = random_graphs(min(max(batches), _DISTINCT), num_tasks, seed=0)
    network = network or NetworkConfig()
    params = rollout.init_params(network, jax.random.key(0))
    plan = make_planner(network, params)
    figures: dict[str, Any] = {"num_tasks": num_tasks, "batch": {}}
    for i, batch in enumerate(batches):
        tick(i, len(batches), f"{batch} DAGs")
        graphs = [distinct[k % len(distinct)] for k in range(batch)]
        repeats, calls = (10, 20) if batch < 10 else (3, 1)
        row = {"decode_seconds_per_dag": decode_seconds(network, params, graphs, repeats, calls) / batch}
        if batch <= planned:
            row["plan_seconds_per_dag"] = best(partial(plan, graphs), 3) / batch
        figures["batch"][str(batch)] = row
    return figures


def decode_seconds(network: NetworkConfig, params: Any, graphs: list[TaskGraph], repeats: int, calls: int = 1) -> float:
    """Seconds of one jitted argmax decoding of all `graphs`, packed before."""
    task = learning_task(graphs, System(), network)
    decode = jax.jit(partial(rollout.decode_greedily, network))
    return best(lambda: decode(params, task), repeats, calls)
