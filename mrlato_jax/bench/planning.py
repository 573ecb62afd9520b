"""Time of a trained policy to plan one application."""

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
"""`(policy, params)` -> a function that plans a list of graphs, like `Offloader.plan`."""

_DISTINCT = 1000  # number of drawn DAGs; larger batches repeat them, since drawing is not part of planning


def planning(
    make_planner: MakePlanner,
    batches: Sequence[int] = (1, 100, 10_000),
    planned: int = 100,
    num_tasks: int = 25,
    network: NetworkConfig | None = None,
    tick: Tick = quiet,
) -> dict[str, Any]:
    """Measures the seconds per DAG of argmax planning; the parameters are random, which costs the same.

    Args:
        make_planner: returns a function from graphs to their `Plan`s.
        batches: numbers of DAGs in a call.
        planned: largest batch with which that function is timed.
        num_tasks: number of tasks of each DAG.
        network: the network's settings; by default of Table I size.
        tick: shows progress.

    Returns:
        For each batch `decode_seconds_per_dag` of the jitted call on packed arrays, and `plan_seconds_per_dag` from
        `TaskGraph`s to timed plans.
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
    """Measures the seconds of one jitted argmax decoding of all `graphs`, without packing."""
    task = learning_task(graphs, System(), network)
    decode = jax.jit(partial(rollout.decode_greedily, network))
    return best(lambda: decode(params, task), repeats, calls)
