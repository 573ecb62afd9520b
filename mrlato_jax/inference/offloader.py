"""A trained policy for other programs: planning, adapting and saving."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, overload

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.environment import features
from mrlato_jax.environment.actions import position_of, site_of
from mrlato_jax.environment.observation import lookahead_evaluations
from mrlato_jax.environment.process import makespan_of
from mrlato_jax.errors import InputError, check_choice, check_number, check_type, shorten
from mrlato_jax.inference import weights
from mrlato_jax.inference.in_time import RESTARTS, TimedPlan, plan_in_time, shape_of
from mrlato_jax.learning import rollout
from mrlato_jax.learning.adaptation import Adaptation, adapt
from mrlato_jax.learning.learning_task import (
    ONE_SERVER,
    check_servers,
    check_times,
    encoded,
    executed_under,
    executions_of,
    learning_task,
)
from mrlato_jax.learning.ranges import OutsideTrainingWarning, Ranges, outside
from mrlato_jax.mec.arrays import DagArrays, one_for_each, pack, priced
from mrlato_jax.mec.disturbance import Disturbance, world_of
from mrlato_jax.mec.execution import Executor
from mrlato_jax.mec.latency import LOCAL, in_joules, padded_size, power_of_two
from mrlato_jax.mec.objective import Objective, goal_of
from mrlato_jax.mec.system import CHANNELS, Power, System
from mrlato_jax.planners import (
    Plan,
    SearchedPlan,
    all_local,
    all_offload,
    greedy,
    heft,
    local_search,
    look_ahead,
    order_search,
    plans_of_arrays,
    random_placement,
)
from mrlato_jax.processes import about_to_compute

MODES = ("argmax", "sample", "search", "search_order")
TIMED_MODES = MODES[0], MODES[3]  # in a given time
MOST_AT_ONCE = 256  # DAGs decoded side by side
MOST_PAIRS = 2**22  # pairs of positions in all DAGs decoded side by side
SAMPLES = 64
SAMPLED_WORK = 2**26  # memory limit: positions squared times samples of one DAG
MOST_UPDATES = 2**31 - 1
TEMPERATURES = (0.7, 2.0)  # of the first and of the last sample: best of several ranges on the training families
IMPROVED = 16  # samples that `search` improves, beside the best candidate
# Limits of the simulated plans times positions squared, the cost of simulating a plan. Both limits bind from some
# hundred tasks on, and plan 500 tasks in seconds.
IMPROVING_WORK = 2**32
ORDER_WORK = 2**27  # for each chain
# Weights of energy for a policy that decides under a deadline: costs of the energy of a second of computing, sending
# and receiving together, relative to the cost of the second. They are ratios, since with a deadline the plan does not
# depend on the unit of power.
DEADLINE_PRICES = (0.0, 0.3, 1.0, 3.0, 10.0, 30.0)
ORDER_STEPS = 3000  # changes that each chain of `search_order` tries


class Decision(NamedTuple):
    """Result of `Offloader.decide` for B DAGs: where each task runs, and in which order. A pytree.

    Attributes:
        placement: int32[B, N], the site (0 the UE, 1 to K the servers) of the task at each place of `order`; 0 on
            padding.
        order: int32[B, N], task ids in scheduling order, -1 on padding. The order of the arrays, or the order that the
            policy chose.
        makespan: float[B], seconds, of this placement in this order.
    """

    placement: jax.Array
    order: jax.Array
    makespan: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Offloader:
    """A trained policy. A pytree whose leaves are the parameters, so it can be an argument of jitted functions.

    A policy is immutable: any number of threads may plan with it.

    A jitted function is traced once for all policies of the same `network` and `learning`. Other parameters, labels,
    iterations, ranges and curves do not trace it again. So a policy that a jitted function *returns* has the label,
    iteration, ranges and curve of the policy that the function was traced with.

    Attributes:
        network: settings of the network.
        params: parameters of the network.
        label: the method that trained the policy.
        iteration: number of meta-iterations of training.
        learning: learning settings; `adapt` uses them.
        ranges: ranges of the training applications and systems (`ranges.measure`); None where they are unknown.
        curve: the effect of each update of `adapt`, measured on the applications that the policy adapted to; None
            without `adapt`.
    """

    network: NetworkConfig
    params: Any = dataclasses.field(repr=False)
    label: str
    iteration: int = 0
    learning: LearningConfig = dataclasses.field(default_factory=LearningConfig)
    ranges: Ranges | None = dataclasses.field(default=None, repr=False)
    curve: Adaptation | None = dataclasses.field(default=None, repr=False)

    @overload
    def plan(
        self,
        graph: TaskGraph,
        system: System,
        mode: str = "argmax",
        *,
        time_limit_s: float,
        seed: int = 0,
        objective: Objective | None = None,
    ) -> TimedPlan: ...

    @overload
    def plan(
        self,
        graph: Sequence[TaskGraph],
        system: System | Sequence[System],
        mode: str = "argmax",
        *,
        time_limit_s: float,
        seed: int = 0,
        objective: Objective | None = None,
    ) -> list[TimedPlan]: ...

    @overload
    def plan(
        self,
        graph: TaskGraph,
        system: System,
        mode: str = "argmax",
        *,
        samples: int = SAMPLES,
        seed: int = 0,
        objective: Objective | None = None,
    ) -> SearchedPlan: ...

    @overload
    def plan(
        self,
        graph: Sequence[TaskGraph],
        system: System | Sequence[System],
        mode: str = "argmax",
        *,
        samples: int = SAMPLES,
        seed: int = 0,
        objective: Objective | None = None,
    ) -> list[SearchedPlan]: ...

    def plan(
        self,
        graph: TaskGraph | Sequence[TaskGraph],
        system: System | Sequence[System],
        mode: str = "argmax",
        *,
        samples: int = SAMPLES,
        seed: int = 0,
        objective: Objective | None = None,
        time_limit_s: float | None = None,
    ) -> SearchedPlan | Sequence[SearchedPlan]:
        """Decides every task of one application, or of each of several applications.

        The network is compiled once for each padded size, channel, batch size (a power of two) and number of samples.
        So a program that plans similar applications repeatedly compiles once. The decisions for a graph do not depend
        on the other graphs.

        Args:
            graph: one graph or a sequence of graphs, of any sizes.
            system: the system of all graphs, or a sequence with one system for each graph.
            mode: the effort for a plan:
                argmax        the likeliest decision for each task
                sample        the best, by the simulator, of the argmax plan, of `samples` plans drawn from the policy,
                              and of the greedy, HEFT-based, all-local, all-offload and look-ahead plans
                search        the best of these plans and the best of the drawn plans, improved by local search; where
                              results stay, also five random plans
                search_order  the plan of search, improved by order search
            samples: plans drawn for each application; argmax draws none. Accepted: up to 64, or more where they fit
                into memory: 65,536 for 32 tasks, 256 for 512.
            seed: seed of the draws, of the random plans, and of order search.
            objective: the objective to minimise; by default the makespan. A policy that knows energy (`general`, and
                policies trained with servers=any_servers) decides by the objective. With a deadline, such a policy
                decides under several weights of energy, and the best plan within the deadline counts. Other policies
                decide by the makespan, and the objective chooses among their plans.
            time_limit_s: wall time for each graph, seconds. The policy's plan, local search and the proof of the
                optimum share this time (see `docs/offloader.md`). With the mode "search_order", a search for other
                orders has most of the time, and the policy has none: the result is no better with its plan. The other
                modes have no time limit. Needs numba (extra `fast`) to keep to a few milliseconds. The time begins
                after the first call for a padded size has compiled.

        Returns:
            A `SearchedPlan` for each graph, timed in float64 by the simulator, with the number of plans simulated in
            the search. With `time_limit_s`, a `TimedPlan`: it names the part that found the plan, and says whether the
            plan is proven optimal in its order.

        Warns:
            OutsideTrainingWarning: an application or system is outside the training range; the warning names the
                quantities.

        Raises:
            RuntimeError: the process was forked after its parent had computed; JAX would hang.
            InputError: there is no graph, the number of systems differs from that of graphs, the mode is unknown, or a
                task has more parents or children than the policy has room for. For a policy that knows one server and
                only the makespan: there are several servers, or another objective with argmax.
        """
        began: float | None = time.monotonic()
        about_to_compute()
        check_choice("mode", mode, MODES)
        goal = goal_of(objective)
        check_decides(self, mode, goal)
        check_number("samples", samples, low=1, integer=True)
        check_number("seed", seed, low=0, high=2**32 - 1, integer=True)
        if time_limit_s is not None:
            check_number("time_limit_s", time_limit_s, low=0.0, open_low=True)
            if mode not in TIMED_MODES:
                raise InputError(f"mode is {mode!r} with time_limit_s; accepted: {', '.join(TIMED_MODES)}")
        if isinstance(graph, TaskGraph):
            check_type("system", system, System)
            assert isinstance(system, System)
            graphs, systems = [graph], [system]
        else:
            graphs, began = _graphs("graph", graph), None
            systems = one_for_each(system, len(graphs))
        plans: Sequence[SearchedPlan]
        if time_limit_s is not None and mode == TIMED_MODES[-1]:
            plans = [
                plan_in_time(*each, goal, time_limit_s, None, shape_of(*each, goal), seed, began, orders=True)
                for each in zip(graphs, systems, strict=True)
            ]
        else:
            decided_by = self._checked(graphs, systems, mode, samples, goal)
            if time_limit_s is None:
                plans = self._plan(graphs, systems, decided_by, mode, samples, seed, goal)
            else:
                plans = [
                    self._plan_in_time(*each, [[one[i]] for one in decided_by], seed, goal, time_limit_s, began)
                    for i, each in enumerate(zip(graphs, systems, strict=True))
                ]
        return plans[0] if isinstance(graph, TaskGraph) else plans

    def propose(
        self,
        graph: TaskGraph,
        system: System,
        *,
        samples: int = SAMPLES,
        seed: int = 0,
        objective: Objective | None = None,
    ) -> list[SearchedPlan]:
        """Returns the policy's own plans for an application: no search improves them, and no other planner adds one.

        One pass of the encoder serves all plans. They are drawn and simulated side by side.

        Args:
            graph: the application.
            system: the system it runs on.
            samples: plans drawn beside the likeliest one, or a few more with a deadline; accepted as in `plan`.
            seed: seed of the draws.
            objective: as in `plan`.

        Returns:
            At most 17 different plans, the best first: the likeliest one and the best drawn ones (of these, the
            simulator chooses 16 for each objective that the policy decides by: the makespan, if it knows only this).
            Each has the number of plans simulated for all of them.

        Warns:
            OutsideTrainingWarning: as `plan`.

        Raises:
            RuntimeError, InputError: as `plan`.
        """
        about_to_compute()
        goal = goal_of(objective)
        check_type("graph", graph, TaskGraph)
        check_type("system", system, System)
        check_number("samples", samples, low=1, integer=True)
        check_number("seed", seed, low=0, high=2**32 - 1, integer=True)
        check_decides(self, MODES[1], goal)
        decided_by = self._checked([graph], [system], MODES[1], samples, goal)
        size = padded_size(graph.num_tasks)
        (found,) = self._decoded([graph], [system], decided_by, size, -(-samples // len(decided_by)), seed)
        best = sorted(_distinct(found), key=lambda plan: goal.key(plan.makespan, plan.energy))[: 1 + IMPROVED]
        spent = found[0].evaluations + len(decided_by)  # the likeliest plans count, too
        return [SearchedPlan.of(plan, evaluations=spent) for plan in best]

    def _plan_in_time(
        self,
        graph: TaskGraph,
        system: System,
        decided_by: list[list[Objective]],
        seed: int,
        goal: Objective,
        time_limit_s: float,
        began: float | None,
    ) -> TimedPlan:
        program = (self.network, *shape_of(graph, system, goal))

        def propose() -> SearchedPlan:
            return self._plan([graph], [system], decided_by, MODES[0], SAMPLES, seed, goal)[0]

        return plan_in_time(graph, system, goal, time_limit_s, propose, program, seed, began)

    def _checked(
        self, graphs: list[TaskGraph], systems: list[System], mode: str, samples: int, goal: Objective
    ) -> list[list[Objective]]:
        """Checks values of arguments of checked types; returns `_decided_by`."""
        largest = max(graph.num_tasks for graph in graphs)
        if mode != "argmax" and samples > (most := max(SAMPLES, SAMPLED_WORK // padded_size(largest) ** 2)):
            raise InputError(f"samples is {samples} for a graph of {largest} tasks; accepted: at most {most}")
        if not self.network.any_servers:
            _check_one_server(systems)
        features.check_neighbour_width(graphs, self.network.neighbour_limit)
        decided_by = self._decided_by(goal, systems)
        if self.ranges is not None:
            examples = [list(zip(graphs, systems, objectives, strict=True)) for objectives in decided_by]
            if unlike := next(filter(None, (outside(self.ranges, example) for example in examples)), None):
                warnings.warn(OutsideTrainingWarning(unlike), stacklevel=3)
        return decided_by

    def _plan(
        self,
        graphs: list[TaskGraph],
        systems: list[System],
        decided_by: list[list[Objective]],
        mode: str,
        samples: int,
        seed: int,
        goal: Objective,
    ) -> list[SearchedPlan]:
        """Does the work of `plan` with checked arguments."""
        plans: dict[int, SearchedPlan] = {}
        drawn = 0 if mode == "argmax" else samples
        for indices, size in _batches(graphs, systems, drawn):
            batch = [graphs[i] for i in indices], [systems[i] for i in indices]
            goals = [[objectives[i] for i in indices] for objectives in decided_by]
            found = self._decoded(*batch, goals, size, -(-drawn // len(goals)), seed)
            for i, decoded in zip(indices, found, strict=True):
                plans[i] = (
                    min(decoded, key=lambda plan: goal.key(plan.makespan, plan.energy))
                    if mode == "argmax"
                    else _best_of(graphs[i], systems[i], decoded, mode, seed, goal)
                )
        return [plans[i] for i in range(len(graphs))]

    def _decided_by(self, goal: Objective, systems: Sequence[System]) -> list[list[Objective]]:
        """Returns lists of the objectives, one for each system, to decide by; several lists for a deadline."""
        if not self.network.any_servers:
            return [[Objective()] * len(systems)]
        if goal.deadline_s is None:
            return [[goal] * len(systems)]

        def weighing(price: float, power: Power) -> Objective:
            watts = power.compute_w + power.send_w + power.receive_w
            return Objective(energy_weight=price / watts if watts else 0.0)

        return [[weighing(price, system.power) for system in systems] for price in DEADLINE_PRICES]

    def decide(self, arrays: DagArrays) -> Decision:
        """Returns the likeliest decisions as a function of arrays, for use inside `jax.jit`, `vmap` over systems, ...

        Args:
            arrays: arrays of `mj.pack`, or of `mj.arrays` with a leading axis B. A task with more neighbours than the
                policy has room for gives NaN. A policy that knows energy decides by the prices (of
                `mj.pack(..., objective=)`); other policies ignore the prices.

        Returns:
            A `Decision`, also for a policy that chooses the order.

        Raises:
            InputError: the argument is no such `DagArrays`; float32 does not hold the times on the host; there are
                several servers and the policy knows one; or a policy that knows energy gets a deadline.
        """
        about_to_compute()
        check_type("arrays", arrays, DagArrays)
        check_servers(arrays, self.network)
        if len(arrays.mask.shape) != 2:
            raise InputError(f"arrays has a mask of shape {arrays.mask.shape}; accepted: [B, N], with one leading axis")
        if not self.network.any_servers:
            arrays = dataclasses.replace(arrays, prices=None, deadline=None)
        if arrays.deadline is not None:
            raise InputError("arrays have a deadline; accepted: an energy weight (`plan` takes deadlines)")
        sites, in_order = arrays.num_sites, self.network.in_order
        learning_task = encoded(arrays, self.network)
        actions, makespan = rollout.decode_greedily(self.network, self.params, learning_task)
        if arrays.prices is not None:
            makespan = jax.vmap(partial(makespan_of, in_order=in_order))(learning_task.dags, actions)
        order = jnp.asarray(arrays.order)
        if not in_order:
            order = jnp.take_along_axis(order, jnp.where(arrays.mask, position_of(actions, sites), 0), axis=-1)
        return Decision(
            placement=jnp.where(arrays.mask, site_of(actions, sites), LOCAL),
            order=jnp.where(arrays.mask, order, -1),
            makespan=makespan,
        )

    def adapt(
        self,
        graphs: TaskGraph | Sequence[TaskGraph],
        system: System,
        updates: int = 30,
        seed: int = 0,
        *,
        objective: Objective | None = None,
        disturbance: Disturbance | None = None,
        execute: Executor | None = None,
    ) -> Offloader:
        """Returns the policy after gradient steps on applications like those to plan.

        Args:
            graphs: one application or several, of any sizes.
            system: the system of all applications.
            updates: Adam steps, from a fresh optimiser, at most `MOST_UPDATES`. After each `learning.inner_steps`
                steps, new trajectories of every graph are drawn. 0 changes nothing.
            seed: seed of the draws.
            objective: the objective to minimise; by default the makespan.
            disturbance: how the real system differs from `system`. The policy then decides by `system`, and learns from
                the measured makespans of simulated executions.
            execute: executes a plan once on the real system: `execute(graph, placement, order)` gets int32[n], the site
                of each task id, and int64[n], the task ids in scheduling order; it returns the measured `Schedule`.
                The policy then decides by `system`, and learns from these makespans. For each graph and every
                `learning.inner_steps` updates there are at most `learning.rollouts` executions. `curve` has the
                makespans of the model, and in `sampled_s` those of the executions.

        Returns:
            The adapted policy, with its `curve`. This policy does not change.

        Raises:
            RuntimeError: as `plan`.
            InputError: there is no graph, the policy has no room for a graph, the policy became NaN, the objective has
                a deadline, the objective is not the makespan and the policy knows only the makespan, there are both
                `disturbance` and `execute`, or there is one of them and the policy chooses the order, energy has a
                weight or the channel rules are not "paper"; or `execute` returned something else.
            Exception: what `execute` raised.
        """
        about_to_compute()
        check_number("updates", updates, low=0, high=MOST_UPDATES, integer=True)
        check_number("seed", seed, low=0, high=2**32 - 1, integer=True)
        check_type("system", system, System)
        goal = goal_of(objective)
        if goal.deadline_s is not None or (goal != Objective() and not self.network.any_servers):
            known = (
                "an energy weight, no deadline" if self.network.any_servers else "the makespan, which this policy knows"
            )
            raise InputError(f"objective is {goal}; accepted: {known}")
        if not self.network.any_servers:
            _check_one_server([system])
        if disturbance is not None and execute is not None:
            raise InputError("disturbance and execute are both given; accepted: one of them, simulated or real")
        if execute is not None and not callable(execute):
            raise InputError(f"execute is {shorten(execute)}; accepted: a function of graph, placement and order")
        graphs = _graphs("graphs", [graphs] if isinstance(graphs, TaskGraph) else graphs)
        task = learning_task(graphs, system, self.network, objective=goal)
        executions = None
        if disturbance is not None:
            check_type("disturbance", disturbance, Disturbance)
            task = executed_under(task, self.network, world_of(disturbance, system.num_servers))
        if execute is not None:
            executions = executions_of(task, self.network, graphs, execute)
        key = jax.random.key(seed)
        params, curve = adapt(self.network, self.learning, self.params, task, task, updates, key, executions=executions)
        return dataclasses.replace(self, params=params, curve=curve)

    @property
    def stored(self) -> weights.StoredPolicy:
        """The fields of the policy that files keep."""
        return weights.StoredPolicy(self.network, self.params, self.label, self.iteration, self.learning, self.ranges)

    def save(self, stem: str | Path) -> Path:
        """Writes the policy, without its `curve`, as two files that `mj.load_offloader` loads.

        Args:
            stem: path without an ending: NAME gives NAME.safetensors and NAME.json. Existing files of these names are
                replaced; a missing folder is made.

        Returns:
            The path of NAME.safetensors, which `mj.load_offloader` takes.

        Raises:
            InputError: the path names no file, the folder cannot be written to, or parameters are not finite.
        """
        if not isinstance(stem, str | Path) or not Path(stem).name:
            raise InputError(f"stem is {shorten(stem)}; accepted: a path without an ending, NAME or FOLDER/NAME")
        path = Path(stem)
        path = path.with_suffix("") if path.suffix == weights.TENSORS else path
        weights.save(path, self.stored)
        return path.with_name(path.name + weights.TENSORS)

    def _decoded(
        self,
        graphs: Sequence[TaskGraph],
        systems: Sequence[System],
        decided_by: Sequence[Sequence[Objective]],
        size: int,
        samples: int,
        seed: int,
    ) -> list[list[SearchedPlan]]:
        """Returns for each graph, under each of its objectives, the likeliest plan and the best of the drawn plans."""
        count = len(graphs)
        short = power_of_two(count) - count
        graphs, systems = ([*sequence, *[sequence[-1]] * short] for sequence in (graphs, systems))
        arrays, actions = pack(graphs, systems, num_positions=size, dtype=np.float64), []
        check_times(arrays)
        for objectives in decided_by:
            goals = [*objectives, *[objectives[-1]] * short]
            prices = [goal.prices(system.power) for goal, system in zip(goals, systems, strict=True)]
            deciding = priced(arrays, prices)
            actions.append(np.asarray(_decode(self.network, self.params, deciding))[:, None])
            if samples:
                kept = min(IMPROVED, samples)
                best = _sampled(self.network, self.params, deciding, jax.random.key(seed), samples, kept)
                actions.append(np.asarray(best))
        plans = self._timed(graphs, systems, arrays, np.concatenate(actions, axis=1))
        sites = arrays.num_sites
        of_one = [lookahead_evaluations(self.network, graph.num_tasks, sites, arrays.channel) for graph in graphs]
        spent = [len(decided_by) * ((1 + samples) * ahead + samples) for ahead in of_one]
        return [[SearchedPlan.of(plan, evaluations=spent[i]) for plan in plans[i]] for i in range(count)]

    def _timed(
        self, graphs: Sequence[TaskGraph], systems: Sequence[System], arrays: DagArrays, actions: np.ndarray
    ) -> list[list[Plan]]:
        """Returns the plans of the rows of actions [B, K, N] of each graph, in float64, each in its own order."""
        if self.network.in_order:
            return plans_of_arrays(in_joules(arrays, systems), actions)
        (_, count, size), sites = actions.shape, arrays.num_sites
        orders = [
            order[position_of(row[: graph.num_tasks], sites)].astype(np.int64)
            for graph, order, rows in zip(graphs, arrays.order, actions, strict=True)
            for row in rows
        ]
        graphs = [graph for graph in graphs for _ in range(count)]
        systems = [system for system in systems for _ in range(count)]
        in_order = pack(graphs, systems, orders=orders, num_positions=size, dtype=np.float64)
        rows_of_one = site_of(actions, sites).reshape(-1, 1, size)
        plans = [plan for (plan,) in plans_of_arrays(in_joules(in_order, systems), rows_of_one)]
        return [plans[i : i + count] for i in range(0, len(plans), count)]


def check_decides(policy: Offloader, mode: str, goal: Objective) -> None:
    """Raises InputError for argmax with an energy weight or a deadline where the policy knows only the makespan."""
    if mode == "argmax" and goal != Objective() and not policy.network.any_servers:
        accepted = "accepted: the makespan, which this policy decides by ('general' knows energy), or another mode"
        raise InputError(f"objective is {goal} with mode 'argmax'; {accepted}")


class _About:
    """The fields of a policy that shape no program. Any two are equal, so that no function is traced again."""

    def __init__(self, policy: Offloader) -> None:
        self.fields = {name: getattr(policy, name) for name in ("label", "iteration", "ranges", "curve")}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _About)

    def __hash__(self) -> int:
        return hash(_About)


_Structure = tuple[NetworkConfig, LearningConfig, _About]


def _flatten(policy: Offloader) -> tuple[tuple[Any], _Structure]:
    return (policy.params,), (policy.network, policy.learning, _About(policy))


def _flatten_with_keys(policy: Offloader) -> tuple[tuple[tuple[jax.tree_util.GetAttrKey, Any]], _Structure]:
    (params,), structure = _flatten(policy)
    return ((jax.tree_util.GetAttrKey("params"), params),), structure


def _unflatten(structure: _Structure, leaves: Iterable[Any]) -> Offloader:
    network, learning, about = structure
    (params,) = leaves
    return Offloader(network=network, params=params, learning=learning, **about.fields)


jax.tree_util.register_pytree_with_keys(Offloader, _flatten_with_keys, _unflatten, _flatten)


class _Improved(NamedTuple):
    """The best plan so far, and the evaluations so far."""

    plan: SearchedPlan
    evaluations: int

    def or_else(self, other: SearchedPlan, goal: Objective) -> _Improved:
        """Returns the better of both plans, with the sum of the evaluations."""
        best = min(self.plan, other, key=lambda plan: goal.key(plan.makespan, plan.energy))
        return _Improved(best, self.evaluations + other.evaluations)


def _best_of(
    graph: TaskGraph, system: System, decoded: Sequence[SearchedPlan], mode: str, seed: int, goal: Objective
) -> SearchedPlan:
    """Returns the best of the policy's plans and of the simple plans, improved as `mode` says."""
    simple = [heft(graph, system, objective=goal), greedy(graph, system, objective=goal)]
    simple += [all_local(graph, system), all_offload(graph, system)]
    ahead = look_ahead(graph, system, objective=goal)
    best = min([*decoded, *simple, ahead], key=lambda plan: goal.key(plan.makespan, plan.energy))
    spent = decoded[0].evaluations + len(simple) + ahead.evaluations
    improved = _Improved(SearchedPlan.of(best, evaluations=0), spent)
    if mode != "sample":
        plans = [best, *decoded]
        if CHANNELS[system.channel].results_stay:
            rng = np.random.default_rng(seed)
            plans += [random_placement(graph, system, rng) for _ in range(RESTARTS)]
        starts = _distinct(plans)
        most = max(1, IMPROVING_WORK // padded_size(graph.num_tasks) ** 2 // len(starts))
        search = partial(local_search, graph, system, restarts=0, seed=seed, max_evaluations=most, objective=goal)
        for start in starts:
            improved = improved.or_else(search(start=start), goal)
    if mode == "search_order":
        steps = max(1, min(ORDER_STEPS, ORDER_WORK // padded_size(graph.num_tasks) ** 2))
        found = order_search(graph, system, start=improved.plan, steps=steps, seed=seed, objective=goal)
        improved = improved.or_else(found, goal)
    return SearchedPlan.of(improved.plan, evaluations=improved.evaluations)


def _distinct(plans: Iterable[Plan]) -> list[Plan]:
    return list({(*plan.placement.tolist(), *plan.order.tolist()): plan for plan in plans}.values())


def _check_one_server(systems: Sequence[System]) -> None:
    """Raises InputError for a system with several servers."""
    for i, system in enumerate(systems):
        if system.num_servers > 1:
            raise InputError(f"system[{i}] has {system.num_servers} servers; accepted: {ONE_SERVER}")


def _batches(graphs: Sequence[TaskGraph], systems: Sequence[System], samples: int) -> Iterator[tuple[list[int], int]]:
    """Yields the indices of graphs that are decoded side by side, and the size that they are padded to."""
    alike: Mapping[tuple[int, str, str, int], list[int]] = defaultdict(list)
    for i, (graph, system) in enumerate(zip(graphs, systems, strict=True)):
        alike[padded_size(graph.num_tasks), system.channel, system.radio, system.num_servers].append(i)
    for (size, *_), indices in alike.items():
        most = MOST_PAIRS // (size * size * max(1, samples // 4))
        most = 1 << (max(1, min(most, MOST_AT_ONCE)).bit_length() - 1)
        for begin in range(0, len(indices), most):
            yield indices[begin : begin + most], size


def _graphs(name: str, graphs: Any) -> list[TaskGraph]:
    if not isinstance(graphs, Sequence) or isinstance(graphs, str) or not graphs:
        kind = (
            "a TaskGraph or a sequence of at least one" if name == "graph" else "a sequence of at least one TaskGraph"
        )
        raise InputError(f"{name} is {shorten(graphs)}; accepted: {kind}")
    for i, entry in enumerate(graphs):
        check_type(f"{name}[{i}]", entry, TaskGraph)
    return list(graphs)


@partial(jax.jit, static_argnames="network")
def _decode(network: NetworkConfig, params: Any, arrays: DagArrays) -> jax.Array:
    longest = arrays.mask.sum(axis=-1).max()
    return rollout.decode_greedily(network, params, encoded(arrays, network), longest)[0]


@partial(jax.jit, static_argnames=("network", "samples", "kept"))
def _sampled(
    network: NetworkConfig, params: Any, arrays: DagArrays, key: jax.Array, samples: int, kept: int
) -> jax.Array:
    """Returns the actions int32[G, kept, N] of the best drawn plans of each DAG, the best first."""
    temperatures = jnp.linspace(*TEMPERATURES, samples) if samples > 1 else jnp.ones(1)
    drawn = rollout.sample(network, params, encoded(arrays, network), key, samples, temperatures, alike=True)
    _, best = jax.lax.top_k(-drawn.costs, kept)
    return jax.vmap(lambda actions, indices: actions[indices])(drawn.decisions.actions, best)
