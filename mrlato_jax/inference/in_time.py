"""The best plan in a given time: quick rules, a policy's proposals, local search and proof together.

The HEFT-based plan comes first, improved by local search. Then kicks (`machine_code.kick`) and the proof take turns
until the time or the proof is over. The policy has its turn once the others have had as much time as the policy takes,
if twice as much is left. Without numba, the parts follow each other once, in coarser steps.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.mec import latency
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.latency import in_joules, padded_size
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import System
from mrlato_jax.planners import Plan, SearchedPlan, engine, heft, local_search, optimum, plans_of_arrays

FIRST_TURN_S = 2e-4  # of the kicks, and of the proof
LEAST_PROOF_S = 5e-4  # time left for which the proof is begun or continued
GROWTH = 1.5  # of the next turn
MOST_KICKS = 4096  # between two looks at the clock
PROVABLE = 40  # tasks, up to which the proof has turns as long as the kicks; beyond, a quarter of that

PLANS_A_SECOND = 5e6  # that local search in JAX compares on one core, times their tasks and servers

Result = TypeVar("Result")

SOURCES = ("heft", "local_search", "policy", "proof")

_seconds: dict[Any, float] = {}  # least wall time of each part so far, by what shapes its program


@dataclasses.dataclass(frozen=True, eq=False)
class TimedPlan(SearchedPlan):
    """The best plan found in a given time. A pytree of all its fields.

    Attributes:
        source: the part that found it: "heft", "local_search", "policy" or "proof".
        proven: whether no placement in this order costs less.
        lower_bound: lower bound of the cost of every placement in this order: seconds, or joules with a deadline that
            can be met; 0 if the proof did not begin.
        seconds: wall time of planning.
    """

    source: str
    proven: bool
    lower_bound: float
    seconds: float


jax.tree_util.register_dataclass(
    TimedPlan, data_fields=[field.name for field in dataclasses.fields(TimedPlan)], meta_fields=[]
)


def plan_in_time(
    graph: TaskGraph,
    system: System,
    goal: Objective,
    time_limit_s: float,
    propose: Callable[[], SearchedPlan],
    program: Any,
    seed: int,
) -> TimedPlan:
    """Finds the best plan in a time.

    Args:
        graph: the application.
        system: the system it runs on.
        goal: what is to be minimised.
        time_limit_s: seconds. The first call for a `program` runs `propose` twice before the time begins, so that its
            compilation does not count.
        propose: returns the policy's plan.
        program: what shapes the policy's program; hashable.
        seed: of the kicks.
    """
    code, proposing = engine.machine_code(), ("policy", program)
    finishing = ("simulate", padded_size(graph.num_tasks), system.channel, system.radio, system.num_servers)
    began = time.monotonic()
    dag = latency.pack_float64(graph, system, None, goal)
    if proposing not in _seconds:
        propose()
        _timed(proposing, propose)
        for _ in range(2):
            _timed(finishing, lambda: _simulated(dag, np.zeros(graph.num_tasks, np.int64), system))
        began = time.monotonic()
    if code is None:
        return _by_jax(graph, system, goal, began, time_limit_s, propose, _seconds[proposing])
    end = began + time_limit_s - _seconds[finishing]
    work, source, before, proposed, proof = code.Workspace(dag), "heft", np.inf, None, None

    def by(part: str) -> None:
        nonlocal source, before
        if work.cost < before:
            source, before = part, work.cost

    start = work.earliest_finish()
    work.keep(start, work.cost_of(start))
    by("heft")
    work.settle(start)
    by("local_search")
    turn, kicks, number = FIRST_TURN_S, 1, 0
    share = 1.0 if graph.num_tasks <= PROVABLE else 0.25
    while (left := end - (now := time.monotonic())) > 0 and not (proof is not None and proof.over):
        if proposed is None and now - began > _seconds[proposing] and left > 2 * _seconds[proposing]:
            proposed = _timed(proposing, propose)
            if proposed.order.tolist() == dag.order[: graph.num_tasks].tolist():
                sites = proposed.placement[proposed.order].astype(np.int64)
                work.keep(sites, work.cost_of(sites))
                work.settle(sites)
                by("policy")
        until = time.monotonic() + min(turn, left)
        while (now := time.monotonic()) < until:
            work.kick(kicks, seed + number)
            number += 1
            took = max(time.monotonic() - now, 1e-7)
            kicks = int(np.clip(kicks * (until - now) / 2 / took, 1, min(2 * kicks, MOST_KICKS)))
        by("local_search")
        if (left := end - time.monotonic()) > LEAST_PROOF_S:
            proof = code.Proof(work) if proof is None else proof
            proof.learn(work.actions, work.cost)
            proof.run(min(share * turn, left))
            work.keep(proof.actions.copy(), proof.cost)
            by("proof")
        turn *= GROWTH
    plan = _timed(finishing, lambda: _simulated(dag, work.actions, system))
    proven, bound = proof is not None and proof.over, 0.0 if proof is None else proof.bound
    if proposed is not None and goal.key(proposed.makespan, proposed.energy) < goal.key(plan.makespan, plan.energy):
        plan, source, proven, bound = proposed, "policy", False, 0.0  # in an order of its own
    if dag.deadline is not None and not goal.meets_deadline(plan.makespan):
        bound = max(0.0, bound - float(dag.deadline.dearest))  # seconds, as the plan's makespan counts
    return TimedPlan.of(
        plan,
        evaluations=work.evaluations + (0 if proposed is None else proposed.evaluations),
        source=source,
        proven=proven,
        lower_bound=min(bound, _cost(goal, plan)),
        seconds=time.monotonic() - began,
    )


def _by_jax(
    graph: TaskGraph,
    system: System,
    goal: Objective,
    began: float,
    time_limit_s: float,
    propose: Callable[[], SearchedPlan],
    proposing_s: float,
) -> TimedPlan:
    """`plan_in_time` without numba."""
    end = began + time_limit_s
    found = {"heft": SearchedPlan.of(heft(graph, system, objective=goal), evaluations=1)}
    if proposing_s < end - time.monotonic():
        found["policy"] = propose()
    proven, bound = False, 0.0

    def best() -> str:
        return min(found, key=lambda part: goal.key(found[part].makespan, found[part].energy))

    if (left := end - time.monotonic()) > 0:
        start, work = found[best()], graph.num_tasks * system.num_servers
        most = max(1, int(left * PLANS_A_SECOND / work))
        found["local_search"] = local_search(
            graph, system, start=start, restarts=0, max_evaluations=most, objective=goal
        )
    if (left := end - time.monotonic()) > 0:
        proof = optimum(graph, system, time_limit_s=left, objective=goal)
        found["proof"] = SearchedPlan.of(proof, evaluations=0)
        proven, bound = proof.proven, proof.lower_bound
    source = best()
    plan = found[source]
    return TimedPlan.of(
        plan,
        evaluations=sum(part.evaluations for part in found.values()),
        source=source,
        proven=proven and "proof" in found and plan.order.tolist() == found["proof"].order.tolist(),
        lower_bound=min(bound, _cost(goal, plan)),
        seconds=time.monotonic() - began,
    )


def _simulated(dag: DagArrays, actions: np.ndarray, system: System) -> Plan:
    """Returns the plan of sites int[n] in the scheduling order of one DAG, simulated as every plan is."""
    batch = in_joules(jax.tree.map(lambda leaf: np.asarray(leaf)[None], dag), [system])
    padded = np.zeros((1, 1, dag.mask.size), np.int32)
    padded[0, 0, : len(actions)] = actions
    return plans_of_arrays(batch, padded)[0][0]


def _timed(part: Any, call: Callable[[], Result]) -> Result:
    """Calls, and notes the least time that the part took so far."""
    began = time.monotonic()
    result = call()
    _seconds[part] = min(_seconds.get(part, np.inf), time.monotonic() - began)
    return result


def _cost(goal: Objective, plan: Plan) -> float:
    return goal.cost(plan.makespan, plan.energy) if goal.meets_deadline(plan.makespan) else plan.makespan
