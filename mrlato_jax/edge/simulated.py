"""Runs of a simulated machine, in the type of measured ones: for `calibrate` without processes, and at scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.edge.ue import RESOURCES, Run, Span
from mrlato_jax.errors import InputError, check_type
from mrlato_jax.mec.disturbance import Disturbance
from mrlato_jax.mec.execution import Execution, executed, measured_schedule
from mrlato_jax.mec.latency import LOCAL, check_placement
from mrlato_jax.mec.priority import check_order, priority_order
from mrlato_jax.mec.system import System


def simulated_run(
    graph: TaskGraph, system: System, placement: Any, disturbance: Disturbance, seed: int = 0, order: Any = None
) -> Run:
    """Executes a plan once in simulation and returns what a device would have measured.

    Args:
        graph: the application.
        system: the system as the planner knows it, with one server and the channel rules "paper".
        placement: the site of each task by its id.
        disturbance: how the real system differs.
        seed: seed of the execution.
        order: scheduling order, task ids; by default `priority_order(graph, system)`.

    Raises:
        InputError: as `mj.execute`, or there are several servers.
    """
    check_type("system", system, System)
    if system.num_servers > 1:
        raise InputError(f"system has {system.num_servers} servers; accepted: one, as a device measures")
    times = executed(graph, system, placement, disturbance, seed, order)
    sites = check_placement(graph, placement, num_sites=system.num_sites)
    sequence = priority_order(graph, system) if order is None else check_order(graph, order)
    return run_of(times, sites, sequence, system)


def run_of(times: Execution, sites: np.ndarray, sequence: np.ndarray, system: System) -> Run:
    """Returns an execution as a run of a plan.

    Args:
        times: the execution, seconds by task id, with one server.
        sites: int[n], the site of each task id.
        sequence: int[n], task ids in scheduling order.
        system: the system as the planner knows it.
    """
    spans = [
        Span(task, resource, float(times.start[kind, task]), float(times.end[kind, task]), task)
        for kind, resource in enumerate(RESOURCES)
        for task in np.flatnonzero((sites == LOCAL) == (resource == "UE")).tolist()
    ]
    return Run(
        returned=None,
        measured=measured_schedule(times, system.power),
        spans=tuple(sorted(spans, key=lambda span: span.start)),
        placement=sites,
        order=sequence,
        channel=system.channel,
        events=(),
        setup_s=0.0,
    )
