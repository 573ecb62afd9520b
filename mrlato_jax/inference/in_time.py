"""The best plan in a given time: quick rules, a policy's proposals, local search and proof together.

The better of the HEFT-based plan and of all tasks at one site comes first, improved by local search. Then kicks
(`machine_code.kick`) and the proof take turns until the time or the proof is over. The policy has its turn once the
others have had as much time as the policy takes, if twice as much is left. Where results stay, local search also
improves random plans. Where orders are searched too, these parts have a quarter of the time, and annealing the rest;
then the policy is not asked, since annealing finds as good plans without it.
With a deadline the makespan is minimised until a plan meets the deadline, then the energy.

Without numba, the parts follow each other once, in coarser steps.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.mec import latency
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import CHANNELS, System
from mrlato_jax.planners import (
    Plan,
    SearchedPlan,
    all_local,
    all_offload,
    engine,
    heft,
    local_search,
    optimum,
    order_search,
    placement_of,
)

# Where results stay, changes of one or two tasks reach a local optimum early. So local search also improves this number
# of random plans. It misses the optimum from the look-ahead plans of 12 applications of `results.kinds`. With five
# random plans more it finds 9 of these optima, with twenty all.
RESTARTS = 5
RESTARTING = 0.25  # of the time at most: where it does not suffice, better plans come from kicks
FIRST_TURN_S = 2e-4  # of the kicks, and of the proof
GROWTH = 1.5  # of the next turn
LEAST_PROOF_S = 1.5e-3  # time left for which the proof is begun or continued; in less, kicks find better plans
BEGIN_PROOF_S = 1.5e-7  # time to begin the proof, for each pair of tasks
PASSES = 8  # over all tasks and servers: the least number of plans for which kicks are worth a turn
PROVABLE = 40  # tasks, up to which the proof has turns as long as the kicks; beyond, a quarter of that
PLANS_A_SECOND = 5e6  # that local search in JAX compares on one core, times their tasks and servers
IN_ORDER = 0.25  # of the time, for plans in the priority order where other orders are searched too
STEPS_A_SECOND = 2.5e5  # of order search in JAX on one core, for DAGs of `STEPS_SIZE` tasks
STEPS_SIZE, CHAINS = 20, 32
SOURCES = ("heft", "one_site", "local_search", "policy", "proof", "order_search")

Result = TypeVar("Result")

_seconds: dict[Any, float] = {}  # least wall time of each part so far, by what shapes its program
_loaded: Any = jax.jit(lambda number: number)  # compiled as long as no one drops compiled programs


@dataclasses.dataclass(frozen=True, eq=False)
class TimedPlan(SearchedPlan):
    """The best plan found in a given time. A pytree; `source` is static.

    Attributes:
        source: the part that found it: "heft", "one_site" (all tasks at one site), "local_search", "policy", "proof" or
            "order_search".
        proven: whether no placement in this order costs less (by more than `bounds.TOLERANCE`, relative).
        lower_bound: lower bound of the cost of every placement in this order: seconds, or joules if the plan meets a
            deadline. 0 if the proof did not begin in this order.
        seconds: wall time of planning.
        meets_deadline: whether the plan meets the deadline of the objective; True without a deadline.
    """

    source: str
    proven: bool
    lower_bound: float
    seconds: float
    meets_deadline: bool


jax.tree_util.register_dataclass(
    TimedPlan,
    data_fields=[field.name for field in dataclasses.fields(TimedPlan) if field.name != "source"],
    meta_fields=["source"],
)


class _Found(NamedTuple):
    """What the parts found together.

    Attributes:
        actions: int64[n], sites in scheduling order.
        order: int64[n], this order, task ids.
        problem: the tasks in this order.
        source: the part that found the plan.
        proven, bound: of its cost.
        evaluations: number of plans compared.
        proposed: the policy's plan, if the policy had its turn.
    """

    actions: np.ndarray
    order: np.ndarray
    problem: Any
    source: str
    proven: bool
    bound: float
    evaluations: int
    proposed: SearchedPlan | None


def shape_of(graph: TaskGraph, system: System, goal: Objective) -> tuple[Any, ...]:
    """Returns what shapes the compiled programs for a problem; equal for problems that share them."""
    rules = system.channel, system.radio, system.num_servers
    priced = goal.deadline_s is None, goal.prices(system.power) is None
    return latency.padded_size(graph.num_tasks), graph.is_pinned, *rules, *priced


def plan_in_time(
    graph: TaskGraph,
    system: System,
    goal: Objective,
    time_limit_s: float,
    propose: Callable[[], SearchedPlan] | None,
    program: Any,
    seed: int,
    began: float | None = None,
    orders: bool = False,
) -> TimedPlan:
    """Finds the best plan in a time.

    Args:
        graph: the application.
        system: the system it runs on.
        goal: the objective to minimise.
        time_limit_s: seconds. The first call for a `program` compiles, before the time begins.
        propose: returns the policy's plan; None to plan without a policy.
        program: what shapes the compiled programs; hashable.
        seed: seed of the kicks and of order search.
        began: when the time began, on the monotonic clock; by default now.
        orders: whether other orders than the priority order are searched too.
    """
    began = time.monotonic() if began is None else began
    if not _loaded._cache_size():  # at first, and after `jax.clear_caches`
        _seconds.clear()
        _loaded(0)
    code, proposing, finishing = engine.machine_code(), ("policy", program), ("schedule", program)
    orders_code = engine.machine_orders() if orders else None
    if proposing not in _seconds:
        if code is None:
            _by_jax(graph, system, goal, 0.1, propose, 0.0, orders, seed, compiling=True)
        else:
            latency.pack_float64(graph, system, None, goal)
        if propose is not None:
            propose()
            _timed(proposing, propose)
        _seconds.setdefault(proposing, np.inf)
        began = time.monotonic()
    proposing_s = _seconds.get(proposing, np.inf)  # unless another thread has just dropped it
    if code is None:
        return _by_jax(graph, system, goal, time_limit_s, propose, proposing_s, orders, seed)
    end = began + time_limit_s - _seconds.get(finishing, 0.0)
    aims = [goal] if goal.deadline_s is None else [Objective(), goal]
    found: _Found | None = None
    plan: Plan
    for aim in aims:
        dag = latency.pack_float64(graph, system, None if found is None else found.order, aim)
        work = code.Workspace(dag, seed=seed)
        enough = goal.latest_s if aim is not goal else 0.0
        now = time.monotonic()
        until = now + IN_ORDER * (end - now) if orders else end
        asked = None if propose is None else partial(_timed, proposing, propose)
        found = _take_turns(code, work, found, until, enough, asked, proposing_s)
        if orders:
            found = _search_orders(orders_code, work, found, end, enough, seed)
        plan = _timed(finishing, partial(_simulated, code, found, system))
        if not goal.meets_deadline(plan.makespan):
            break
    assert found is not None
    source, proven, bound = found.source, found.proven, found.bound
    other = found.proposed
    if other is not None and goal.key(other.makespan, other.energy) < goal.key(plan.makespan, plan.energy):
        plan, source, proven, bound = other, "policy", False, 0.0
    return TimedPlan.of(
        plan,
        evaluations=found.evaluations,
        source=source,
        proven=proven,
        lower_bound=min(bound, _cost(goal, plan)),
        seconds=time.monotonic() - began,
        meets_deadline=goal.meets_deadline(plan.makespan),
    )


def _take_turns(
    code: Any,
    work: Any,
    known: _Found | None,
    end: float,
    enough: float,
    propose: Callable[[], SearchedPlan] | None,
    proposing_s: float,
) -> _Found:
    """Lets the parts take turns on one `machine_code.Workspace`.

    Args:
        code: the module `machine_code`.
        work: the workspace.
        known: what was found for another objective.
        end: time on the monotonic clock.
        enough: cost at which the search is over.
        propose: returns the policy's plan; None without a policy.
        proposing_s: seconds that it takes.
    """
    n, source, least, proof = len(work.actions), "heft", np.inf, None
    proposed = None if known is None else known.proposed

    def credit(part: str) -> None:
        nonlocal source, least
        if work.cost < least:
            source, least = part, work.cost

    def use(plan: SearchedPlan) -> None:
        if plan.order.tolist() == work.dag.order.tolist():
            sites = plan.placement[plan.order].astype(np.int64)
            work.keep(sites, work.cost_of(sites))
            work.settle(sites, max(1, int((end - time.monotonic()) / one)))
            credit("policy")

    began = time.monotonic()
    start = work.earliest_finish() if known is None else known.actions
    now = time.monotonic()
    cost = work.cost_of(start)
    one = max((time.monotonic() - now) / 2, 1e-6)  # seconds to compare a plan: a change simulates the later tasks alone
    work.keep(start, cost)
    credit("heft" if known is None else known.source)
    for site in range(work.dag.num_sites):
        sites = work.at_one_site(site)
        work.keep(sites, work.cost_of(sites))
    credit("one_site")
    work.settle(work.actions, max(1, int((end - time.monotonic()) / one)))
    credit("local_search")
    if proposed is not None:
        use(proposed)
    if CHANNELS[work.dag.channel].results_stay and work.cost > enough:
        until = time.monotonic() + RESTARTING * (end - time.monotonic())
        for _ in range(RESTARTS):
            if (most := int((until - time.monotonic()) / one)) > 0:
                work.settle(work.random(), most)
        credit("local_search")
    turn, share = FIRST_TURN_S, 1.0 if n <= PROVABLE else 0.25
    while (left := end - time.monotonic()) > 0 and work.cost > enough and not (proof is not None and proof.over):
        has_turn = time.monotonic() - began > proposing_s and left > 2 * proposing_s
        if propose is not None and proposed is None and has_turn:
            proposed = propose()
            work.evaluations += proposed.evaluations
            use(proposed)
        until = time.monotonic() + min(turn, end - time.monotonic())
        while (now := time.monotonic()) < until:
            before = work.evaluations
            some = min(max((until - now) / 2 / one, PASSES * n * (work.dag.num_sites - 1)), (end - now) / one)
            work.kick(max(1, int(some)))
            one = max(time.monotonic() - now, 1e-7) / max(work.evaluations - before, 1)
        credit("local_search")
        left = end - time.monotonic()
        if left > LEAST_PROOF_S and (proof is not None or (code.Proof.fits(n) and left > 4 * BEGIN_PROOF_S * n * n)):
            proof = code.Proof(work) if proof is None else proof
            proof.learn(work.actions, work.cost)
            proof.run(min(share * turn, end - time.monotonic()))
            work.keep(proof.actions, proof.cost)
            credit("proof")
        turn *= GROWTH
    proven, bound = (False, 0.0) if proof is None else (proof.over, proof.bound)
    evaluations = work.evaluations + (0 if known is None else known.evaluations)
    order = work.dag.order.astype(np.int64)
    return _Found(work.actions, order, work.problem, source, proven, bound, evaluations, proposed)


def _search_orders(code: Any, work: Any, found: _Found, end: float, enough: float, seed: int) -> _Found:
    """Anneals the best plan of a `machine_code.Workspace` over all orders, by the module `machine_orders`."""
    search = code.OrderSearch(work, seed)
    search.run(end, enough)
    found = found._replace(evaluations=found.evaluations + search.evaluations)
    if not search.cost < work.cost:
        return found
    return found._replace(
        actions=search.actions,
        order=found.order[search.order],
        problem=search.problem,
        source="order_search",
        proven=False,
        bound=0.0,
    )


def _simulated(code: Any, found: _Found, system: System) -> Plan:
    schedule = code.schedule(found.problem, found.actions, found.order, system)
    return Plan(placement_of(found.order, found.actions), found.order, schedule.makespan, schedule)


def _by_jax(
    graph: TaskGraph,
    system: System,
    goal: Objective,
    time_limit_s: float,
    propose: Callable[[], SearchedPlan] | None,
    proposing_s: float,
    orders: bool,
    seed: int,
    compiling: bool = False,
) -> TimedPlan:
    """`plan_in_time` without numba; with `compiling`, each part has the whole time, so that every part compiles."""
    began = time.monotonic()
    end = began + time_limit_s

    def remaining() -> float:
        return time_limit_s if compiling else end - time.monotonic()

    found = {"heft": SearchedPlan.of(heft(graph, system, objective=goal), evaluations=1)}
    at_one_site = min(
        all_local(graph, system), all_offload(graph, system), key=lambda p: goal.key(p.makespan, p.energy)
    )
    found["one_site"] = SearchedPlan.of(at_one_site, evaluations=2)
    if propose is not None and proposing_s < remaining():
        found["policy"] = propose()
    proof = None

    def best() -> str:
        return min(found, key=lambda part: goal.key(found[part].makespan, found[part].energy))

    if (left := remaining()) > 0:
        most = max(1, int(left * PLANS_A_SECOND / (graph.num_tasks * system.num_servers)))
        found["local_search"] = local_search(
            graph, system, start=found[best()], restarts=0, max_evaluations=most, objective=goal
        )
    if (left := remaining()) > 0:
        left *= IN_ORDER if orders else 1.0
        share = left if goal.deadline_s is None else left / 2  # `optimum` then proves two things
        proof = optimum(graph, system, time_limit_s=share, objective=goal)
        found["proof"] = SearchedPlan.of(proof, evaluations=0)
    if orders and (left := remaining()) > 0:
        steps = max(1, int(left * STEPS_A_SECOND * STEPS_SIZE / graph.num_tasks / CHAINS))
        found["order_search"] = order_search(
            graph, system, start=found[best()], steps=steps, chains=CHAINS, seed=seed, objective=goal
        )
    source = best()
    plan = found[source]
    covered = proof is not None and plan.order.tolist() == proof.order.tolist()
    return TimedPlan.of(
        plan,
        evaluations=sum(part.evaluations for part in found.values()),
        source=source,
        proven=covered and proof is not None and proof.proven,
        lower_bound=min(proof.lower_bound, _cost(goal, plan)) if covered and proof is not None else 0.0,
        seconds=time.monotonic() - began,
        meets_deadline=goal.meets_deadline(plan.makespan),
    )


def _timed(part: Any, call: Callable[[], Result]) -> Result:
    """Calls, and notes the least time that the part took so far."""
    began = time.monotonic()
    result = call()
    _seconds[part] = min(_seconds.get(part, np.inf), time.monotonic() - began)
    return result


def _cost(goal: Objective, plan: Plan) -> float:
    return goal.cost(plan.makespan, plan.energy) if goal.meets_deadline(plan.makespan) else plan.makespan
