"""The optimum of a given order by OR-Tools CP-SAT, an independent check of `branch_and_bound`.

The two solvers share no code. Here (7)-(11) are constraints on integer end times: a task ends no sooner than the
events that it waits for at its site allow. Times are rounded down to ticks, so CP-SAT's lower bound also holds for the
real problem. The simulator times the plan that CP-SAT finds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ortools.sat.python import cp_model

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import CHANNELS, System

ACCEPTED = "the makespan, one server, channel rules without results that stay, no pins (branch_and_bound takes all)"
TICKS = 10**9  # ticks in the known makespan
TOLERANCE = 1e-6  # relative: largest error of rounding to ticks, up to 250 tasks


def can(graph: TaskGraph, system: System, objective: Objective | None) -> bool:
    """Returns whether the constraints below cover this problem (`ACCEPTED`)."""
    alone = system.num_servers == 1 and not CHANNELS[system.channel].results_stay
    return alone and not graph.is_pinned and (objective is None or objective == Objective())


def solve(dag: DagArrays, makespan: float, start: np.ndarray, time_limit_s: float) -> tuple[np.ndarray, float]:
    """Searches for the best placement of one DAG in its order.

    Args:
        dag: one DAG in float64 on the host, no leading axes.
        makespan: makespan of a known plan, seconds.
        start: int32[N], sites of the known plan.
        time_limit_s: time limit, seconds.

    Returns:
        int32[N] sites in scheduling order, and a lower bound of the makespan in seconds.
    """
    num_tasks = int(dag.mask.sum())
    rules = CHANNELS[dag.channel]
    tick = makespan / TICKS if makespan > 0 else 1.0
    # A time longer than the known plan rules its site out, so its ticks need not be exact.
    ue, uplink, vm, downlink = (
        np.floor(np.minimum(times[:num_tasks] / tick, TICKS + 1)).astype(int).tolist()
        for times in (dag.ue, dag.uplink[:, 0], dag.vm[:, 0], dag.downlink[:, 0])
    )
    model = cp_model.CpModel()

    def moment(name: str) -> cp_model.IntVar:
        return model.new_int_var(0, 5 * TICKS, name)

    latest = model.new_int_var(0, TICKS, "makespan")
    # When each queue is free after the tasks so far, and the variables of each task.
    free: dict[str, Any] = dict.fromkeys(("ue", "uplink", "vm", "downlink"), 0)
    offload: list[cp_model.IntVar] = []
    result: list[cp_model.IntVar] = []
    sent: list[cp_model.IntVar] = []
    for i in range(num_tasks):
        offloaded = model.new_bool_var(f"offload{i}")
        local = offloaded.negated()
        parents = np.flatnonzero(dag.parents[i, :num_tasks]).tolist()
        ready = [result[j] for j in parents]
        sendable = ready if rules.upload_waits_for_download else [sent[j] for j in parents]
        ends = {name: moment(f"{name}{i}") for name in free}

        for before in (free["ue"], *ready):
            model.add(ends["ue"] >= before + ue[i]).only_enforce_if(local)
        for before in (free["uplink"], *sendable):
            model.add(ends["uplink"] >= before + uplink[i]).only_enforce_if(offloaded)
        for before in (free["vm"], ends["uplink"]):
            model.add(ends["vm"] >= before + vm[i]).only_enforce_if(offloaded)
        for before in (ends["vm"], *([free["downlink"]] if rules.downloads_queue else [])):
            model.add(ends["downlink"] >= before + downlink[i]).only_enforce_if(offloaded)

        after = {name: moment(f"free_{name}{i}") for name in free}
        for name, end in ends.items():
            model.add(after[name] >= free[name])
            if name != "uplink" or parents or rules.entry_uploads_queue:
                model.add(after[name] >= end).only_enforce_if(local if name == "ue" else offloaded)
        free = after
        offload.append(offloaded)
        result.append(moment(f"result{i}"))
        model.add(result[i] >= ends["ue"]).only_enforce_if(local)
        model.add(result[i] >= ends["downlink"]).only_enforce_if(offloaded)
        sent.append(moment(f"sent{i}"))
        model.add(sent[i] >= ends["ue"]).only_enforce_if(local)
        model.add(sent[i] >= ends["uplink"]).only_enforce_if(offloaded)
        model.add(latest >= result[i])
        model.add_hint(offloaded, int(start[i]))
    model.minimize(latest)

    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(time_limit_s, 1e-3)
    status = solver.solve(model)
    actions = np.asarray(start).copy()
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        actions[:num_tasks] = [solver.boolean_value(variable) for variable in offload]
    return actions, max(0.0, solver.best_objective_bound * tick)
