"""A lower bound of the cost of every plan in every order, by OR-Tools CP-SAT; needs ortools (extra `exact`).

`branch_and_bound` proves a placement in one order. Here each processor and each link is a machine that serves its tasks
and transfers in an order of its own. Every plan in every scheduling order is such a schedule, so the least cost of a
schedule bounds the cost of all plans. Where a plan reaches the bound, the plan is optimal over all orders. Times are
rounded down to ticks, so that the bound also holds for the exact times.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import CHANNELS, System, move_times, task_times
from mrlato_jax.planners.plan import Plan, simulated_plan

ACCEPTED = "channel 'paper' or 'resident', an objective without a deadline, and a UE without idle power"
TICKS = 10**7  # ticks in the cost of the known plan
TOLERANCE = 1e-5  # relative: a plan within it of the bound counts as optimal; rounding to ticks costs less


class Bounded(NamedTuple):
    """The best plan that is known, and a bound for all orders.

    Attributes:
        plan: the known plan, or a better one that CP-SAT found.
        lower_bound: lower bound of the cost of every plan in every order, seconds.
        proven: whether the plan's cost is within `TOLERANCE` of the bound.
    """

    plan: Plan
    lower_bound: float
    proven: bool


def bounded(
    graph: TaskGraph,
    system: System,
    known: Plan,
    objective: Objective | None = None,
    time_limit_s: float = 10.0,
    workers: int = 1,
) -> Bounded:
    """Bounds the cost of every plan in every order, and looks for a better plan.

    Args:
        graph: the application.
        system: the system it runs on.
        known: a good plan.
        objective: the cost to minimise; by default the makespan.
        time_limit_s: time limit of CP-SAT, seconds.
        workers: number of threads of CP-SAT.

    Raises:
        InputError: the system or the objective is none of `ACCEPTED`, or OR-Tools is not installed.
    """
    goal = Objective() if objective is None else objective
    check_number("time_limit_s", time_limit_s, low=0.0, open_low=True)
    rules = CHANNELS[system.channel]
    if (system.channel not in ("paper", "resident")) or goal.deadline_s is not None or system.power.idle_w:
        raise InputError(f"a bound for all orders was asked for {goal} and {system}; accepted: {ACCEPTED}")
    try:
        cp_model = import_module("ortools.sat.python.cp_model")
    except ImportError:
        raise InputError(
            "OR-Tools is not installed; accepted for a bound for all orders: after pip install 'mrlato-jax[exact]'"
        ) from None
    reached = goal.cost(known.makespan, known.energy)
    model = _Model(cp_model, graph, system, goal, reached / TICKS, known)
    (model.results_stay if rules.results_stay else model.results_return)()
    model.close()
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = time_limit_s
    solver.parameters.num_workers = workers
    solver.parameters.random_seed = 0
    status = solver.solve(model.model)
    bound = max(0.0, solver.best_objective_bound) * model.tick
    plan = known
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        other = simulated_plan(graph, system, *model.placed(solver))
        plan = min(known, other, key=lambda one: goal.cost(one.makespan, one.energy))
    reached = goal.cost(plan.makespan, plan.energy)
    bound = min(bound, reached)
    return Bounded(plan, bound, bound >= reached * (1 - TOLERANCE))


class _Model:
    """The constraints; times are in ticks.

    Attributes:
        model: CP-SAT's.
        tick: seconds of a tick.
    """

    def __init__(
        self, cp_model: Any, graph: TaskGraph, system: System, goal: Objective, tick: float, known: Plan
    ) -> None:
        self.model, self.tick, self._graph, self._system = cp_model.CpModel(), tick, graph, system
        n, servers = graph.num_tasks, system.num_servers
        times = task_times(graph, system)
        self._compute = self._ticks(np.concatenate([times.ue[:, None], times.vm], axis=1))
        self._upload, self._download = self._ticks(times.uplink), self._ticks(times.downlink)
        moves = move_times(graph, system)
        self._forward, self._backhaul = self._ticks(moves.forward), self._ticks(moves.backhaul[:, None])[:, 0]
        self._horizon = TICKS
        prices = goal.prices(system.power)
        self._prices = (0.0, 0.0, 0.0) if prices is None else tuple(prices[1:])
        self._span = self.model.new_int_var(0, self._horizon, "makespan")
        self._costs: list[Any] = [self._span]
        self._served: dict[tuple[str, int], list[Any]] = {}  # intervals of each processor and link
        self._loads: dict[tuple[str, int], list[Any]] = {}
        self._at: list[dict[int, Any]] = []  # whether each task is at each site that its pin allows
        self._start = [self._moment() for _ in range(n)]
        self._end = [self._moment() for _ in range(n)]
        for task, pin in enumerate(graph.pins):
            sites = {"any": range(servers + 1), "ue": range(1), "server": range(1, servers + 1)}[pin]
            at = {site: self.model.new_bool_var(f"at{task},{site}") for site in sites}
            self.model.add_exactly_one(at.values())
            for site, chosen in at.items():
                size = int(self._compute[task, site])
                self._use(("processor", site), self._start[task], size, chosen, 0 if site == 0 else None)
                self.model.add(self._end[task] >= self._start[task] + size).only_enforce_if(chosen)
                self.model.add_hint(chosen, int(known.placement[task] == site))
            self._at.append(at)
        self._parents = [graph.parents(task).tolist() for task in range(n)]
        self._children = [graph.children(task).tolist() for task in range(n)]

    def _ticks(self, seconds: np.ndarray) -> np.ndarray:
        # A time beyond the known plan rules its site out, so its ticks need not be exact.
        return np.floor(np.minimum(seconds / self.tick, TICKS + 1)).astype(np.int64)

    def _moment(self) -> Any:
        return self.model.new_int_var(0, self._horizon, "")

    def _use(self, machine: tuple[str, int], start: Any, size: int, present: Any, price: int | None) -> None:
        """Lets a machine serve something from `start` on, if `present`; `price` names the UE's power for it."""
        interval = self.model.new_optional_fixed_size_interval_var(start, size, present, "")
        self._served.setdefault(machine, []).append(interval)
        self._loads.setdefault(machine, []).append(size * present)
        if price is not None and self._prices[price]:
            self._costs.append(int(self._prices[price] * size) * present)

    def _radio(self, name: str, site: int) -> tuple[str, int]:
        return name, 0 if self._system.radio == "shared" else site

    def _transfer(self, machine: tuple[str, int], after: Any, size: int, present: Any, price: int | None) -> Any:
        """Adds a transfer after a moment and returns when it ends."""
        start = self._moment()
        self._use(machine, start, size, present, price)
        self.model.add(start >= after).only_enforce_if(present)
        return start + size

    def results_return(self) -> None:
        """Adds the rules of channel "paper": every task sends its input, and its result comes back to the UE."""
        home = [self._moment() for _ in self._at]
        for task, at in enumerate(self._at):
            for site, chosen in at.items():
                if site == 0:
                    for parent in self._parents[task]:
                        self.model.add(self._start[task] >= home[parent]).only_enforce_if(chosen)
                    self.model.add(home[task] >= self._end[task]).only_enforce_if(chosen)
                    continue
                sent = self._moment()
                size = int(self._upload[task, site - 1])
                self._use(self._radio("uplink", site), sent, size, chosen, 1)
                for parent in self._parents[task]:
                    self.model.add(sent >= home[parent]).only_enforce_if(chosen)
                self.model.add(self._start[task] >= sent + size).only_enforce_if(chosen)
                size = int(self._download[task, site - 1])
                back = self._transfer(self._radio("downlink", site), self._end[task], size, chosen, 2)
                self.model.add(home[task] >= back).only_enforce_if(chosen)
            self.model.add(self._span >= home[task])

    def results_stay(self) -> None:
        """Adds the rules of channel "resident": a result goes once to each other site where a task needs it."""
        for task, at in enumerate(self._at):
            for site, chosen in at.items():
                if site and not self._parents[task]:
                    size = int(self._upload[task, site - 1])
                    there = self._transfer(self._radio("uplink", site), 0, size, chosen, 1)
                    self.model.add(self._start[task] >= there).only_enforce_if(chosen)
            for child in self._children[task]:
                self.model.add(self._start[child] >= self._end[task])
            self._send_result(task)
            self.model.add(self._span >= self._end[task])

    def _send_result(self, task: int) -> None:
        for source, here in self._at[task].items():
            goals = sorted({site for child in self._children[task] for site in self._at[child]} - {source})
            if source and not self._children[task]:
                size = int(self._download[task, source - 1])
                back = self._transfer(self._radio("downlink", source), self._end[task], size, here, 2)
                self.model.add(self._span >= back).only_enforce_if(here)
            for goal in goals:
                if source == 0:
                    machine, size, price = self._radio("uplink", goal), int(self._forward[task, goal - 1]), 1
                elif goal == 0:
                    machine, size, price = self._radio("downlink", source), int(self._download[task, source - 1]), 2
                else:
                    machine, size, price = ("backhaul", 0), int(self._backhaul[task]), None
                moved = self.model.new_bool_var("")
                self.model.add_implication(moved, here)
                arrival = self._transfer(machine, self._end[task], size, moved, price)
                for child in self._children[task]:
                    if goal in self._at[child]:
                        needed = self._at[child][goal]
                        self.model.add_bool_or([here.negated(), needed.negated(), moved])
                        self.model.add(self._start[child] >= arrival).only_enforce_if([here, needed])

    def close(self) -> None:
        """Adds that machines serve one at a time, and what is minimised."""
        for machine, intervals in self._served.items():
            self.model.add_no_overlap(intervals)
            self.model.add(self._span >= sum(self._loads[machine]))
        cost: Any = sum(self._costs)
        self.model.add(cost <= TICKS)
        self.model.minimize(cost)

    def placed(self, solver: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns the placement of a solution, and an order in which its tasks start."""
        depth = np.empty(len(self._at), np.int64)
        depth[self._graph.topological_order()] = np.arange(len(self._at))
        starts = [solver.value(start) for start in self._start]
        order = sorted(range(len(starts)), key=lambda task: (starts[task], depth[task]))
        sites = [next(site for site, chosen in at.items() if solver.boolean_value(chosen)) for at in self._at]
        return np.array(sites, np.int32), np.array(order, np.int64)
