"""Meta-training on given applications in one call, in memory.

`training.loop` is the loop with run folders, checkpoints and several processes. Both loops run the same meta-iteration,
`learning.outer.iteration_program`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, TextIO, TypedDict, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.config import ExecutionConfig, LearningConfig, NetworkConfig, TrainConfig
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.environment import actions as coding
from mrlato_jax.errors import InputError, check_number, check_type, shorten
from mrlato_jax.inference.offloader import Offloader
from mrlato_jax.learning import devices
from mrlato_jax.learning.learning_task import LearningTask, executed_under, learning_task, stack, stack_alike, take
from mrlato_jax.learning.meta_batch import TaskPool, check_meta_batch
from mrlato_jax.learning.outer import MetaMetrics, init_state, iteration_program
from mrlato_jax.learning.ranges import ranges_of
from mrlato_jax.mec.disturbance import Disturbance, world_of
from mrlato_jax.mec.objective import Objective, goal_of
from mrlato_jax.mec.system import System
from mrlato_jax.methods import learned_method
from mrlato_jax.planners import Plan, look_ahead_order, optimum
from mrlato_jax.processes import about_to_compute
from mrlato_jax.progress import Progress, percent

Sets = Sequence[Sequence[TaskGraph]]

IMITATION = LearningConfig(learn_from="optimum", meta_update="joint", inner_steps=1, inner_lr=1e-3, value_coef=0.0)
PROOF_S = 2.0  # time limit of a proof, seconds; without a proof, the policy imitates the best plan found


class TrainingCurve(NamedTuple):
    """Measurements of each meta-iteration: float64[iterations] each, means over the meta-batch.

    Attributes:
        latency_s: latency of the plans sampled at the start of the inner loops, seconds; their cost where energy has a
            weight.
        heft_s: latency of the HEFT-based plans of the same applications, seconds.
        entropy: entropy of the sampling policy, nats per decision.
        value_explained: share of the variance of the returns that the learned value explains: 1 is perfect, 0 no better
            than a constant.
    """

    latency_s: np.ndarray
    heft_s: np.ndarray
    entropy: np.ndarray
    value_explained: np.ndarray

    @property
    def above_heft(self) -> np.ndarray:
        """`latency_s / heft_s - 1`."""
        return self.latency_s / self.heft_s - 1


class Trained(NamedTuple):
    """Result of `train`.

    Attributes:
        policy: the trained policy.
        curve: measurements of its meta-iterations, without imitation.
    """

    policy: Offloader
    curve: TrainingCurve


class TrainingOptions(TypedDict, total=False):
    """The arguments of `train` other than `sets`, `system` and `seed`."""

    method: str
    iterations: int
    network: Mapping[str, Any] | None
    learning: Mapping[str, Any] | None
    imitation: int | None
    imitation_learning: Mapping[str, Any] | None
    plans: Sequence[Sequence[Plan]] | None
    objective: Objective | None
    disturbance: Disturbance | Sequence[Disturbance] | None
    execution: ExecutionConfig | None
    progress: bool | TextIO


@overload
def train(
    sets: Sets, system: System | Sequence[System] = ..., *, seed: int = ..., **options: Unpack[TrainingOptions]
) -> Trained: ...


@overload
def train(
    sets: Sets, system: System | Sequence[System] = ..., *, seed: Sequence[int], **options: Unpack[TrainingOptions]
) -> list[Trained]: ...


def train(
    sets: Sets,
    system: System | Sequence[System] = System(),  # noqa: B008 (frozen)
    *,
    method: str = "mrlato_plus",
    iterations: int = 200,
    network: Mapping[str, Any] | None = None,
    learning: Mapping[str, Any] | None = None,
    imitation: int | None = None,
    imitation_learning: Mapping[str, Any] | None = None,
    plans: Sequence[Sequence[Plan]] | None = None,
    objective: Objective | None = None,
    disturbance: Disturbance | Sequence[Disturbance] | None = None,
    seed: int | Sequence[int] = 0,
    execution: ExecutionConfig | None = None,
    progress: bool | TextIO = True,
) -> Trained | list[Trained]:
    """Meta-trains a policy on sets of applications (Algorithm 1): each set is a learning task.

    Args:
        sets: sets of applications. All sets have the same number of applications; the sizes of the applications may
            differ.
        system: the system of all sets, or one system for each set; all have the same channel, radio and number of
            servers.
        method: a name in `mj.METHODS`. Where the method has a warm start, the policy first imitates plans.
        iterations: meta-iterations (the paper: 2,000).
        network: settings of the network that differ from the method's, by the names of `config.NetworkConfig`.
        learning: settings of learning that differ from the method's, by the names of `config.LearningConfig`. Where
            there are fewer sets, or fewer applications in a set, than the method draws, all are drawn.
        imitation: iterations of imitation before the first meta-iteration; by default the method's, mostly 0.
        imitation_learning: settings of imitation that differ from the method's, or from `IMITATION` where the method
            does not imitate.
        plans: plans to imitate, one for each application; by default proven optima (`mj.optimum`, at most `PROOF_S`
            each), or the look-ahead's plans where the policy chooses the order.
        objective: the objective to minimise, without a deadline; by default the makespan.
        disturbance: how the real systems differ from `system`: one disturbance for all sets, or one for each. The
            policy then decides by `system`, and learns from the measured makespans of simulated executions.
        seed: seed of every draw. Several seeds give one policy each; one program trains all of them.
        execution: distribution of the work over devices; by default over all devices.
        progress: whether to show a line of progress on standard error, or the stream to write the line to.

    Returns:
        The trained policy and its curve; one for each seed, where `seed` is a sequence.

    Raises:
        RuntimeError: the process was forked after its parent had computed; JAX would hang.
        InputError: there are no sets, sets have different lengths, the network has no room for an application, settings
            are unknown, a meta-batch has more learning tasks than there are sets, or training diverged.
    """
    about_to_compute()
    chosen = learned_method(method)
    graph_sets = [list(graphs) for graphs in _check_sets(sets)]
    systems = _one_for_each_set(system, len(graph_sets))
    goal = goal_of(objective)
    if goal.deadline_s is not None:
        raise InputError(f"objective is {goal}; accepted: the makespan, or an energy weight")
    single_seed = isinstance(seed, int | np.integer)
    seeds: Sequence[int] = [seed] if isinstance(seed, int | np.integer) else seed
    if not isinstance(seeds, Sequence) or not seeds:
        raise InputError(f"seed is {shorten(seed)}; accepted: an integer, or a sequence of at least one")
    for one in seeds:
        check_number("seed", one, low=0, high=2**32 - 1, integer=True)
    if imitation is not None:
        check_number("imitation", imitation, low=0, integer=True)
    config = chosen.config(
        iterations=iterations,
        network=_changed(chosen.network, network),
        learning=_fitted(chosen.learning, learning, graph_sets),
        warm_start=_fitted(chosen.warm_start or IMITATION, imitation_learning, graph_sets),
        warm_start_iterations=chosen.warm_start_iterations if imitation is None else imitation,
    )
    stages = [stage for stage in (config.warm_start_config, config) if stage is not None]
    tasks = _learning_tasks(graph_sets, systems, config.network, goal)
    if any(stage.learning.learn_from == "optimum" for stage in stages):
        to_imitate = _plans(graph_sets, systems, config.network, goal, progress) if plans is None else plans
        tasks = _with_plans(tasks, to_imitate, config.network)
    if disturbance is not None:
        tasks = _executed(tasks, config.network, systems, disturbance)
    sizes = tuple(max(graph.num_tasks for graph in graphs) for graphs in graph_sets)
    pool = TaskPool(jax.tree.map(lambda leaf: leaf[:, None], stack_alike(tasks)), sizes)  # axes [set, system]
    thetas: Sequence[Any] = [None] * len(seeds)
    for stage in stages:
        thetas, curves = run_stage(stage, seeds, thetas, pool, execution, progress)
    ranges = ranges_of((graph, one, goal) for graphs, one in zip(graph_sets, systems, strict=True) for graph in graphs)
    label = chosen.label(config)
    trained = [
        Trained(Offloader(config.network, theta, label, iterations, config.learning, ranges), curve)
        for theta, curve in zip(thetas, curves, strict=True)
    ]
    return trained[0] if single_seed else trained


def _check_sets(sets: Any) -> Sets:
    accepted = "accepted: a sequence of sets, each with the same number of TaskGraph"
    if not isinstance(sets, Sequence) or not sets:
        raise InputError(f"sets is {shorten(sets)}; {accepted}")
    for i, graphs in enumerate(sets):
        if not isinstance(graphs, Sequence) or not graphs:
            raise InputError(f"sets[{i}] is {shorten(graphs)}; {accepted}")
        if len(graphs) != len(sets[0]):
            raise InputError(f"sets[{i}] has {len(graphs)} graphs, sets[0] {len(sets[0])}; {accepted}")
        for j, graph in enumerate(graphs):
            check_type(f"sets[{i}][{j}]", graph, TaskGraph)
    return sets


def _one_for_each_set(system: Any, count: int) -> list[System]:
    if isinstance(system, System):
        return [system] * count
    if not isinstance(system, Sequence) or len(system) != count:
        raise InputError(f"system is {shorten(system)}; accepted: a System, or {count} of them, one for each set")
    for i, one in enumerate(system):
        check_type(f"system[{i}]", one, System)
        for name in ("channel", "radio", "num_servers"):
            value, first = getattr(one, name), getattr(system[0], name)
            if value != first:
                raise InputError(f"system[{i}] has {name} {value!r}; accepted: {first!r}, as system[0]")
    return list(system)


def _changed(settings: Any, changes: Mapping[str, Any] | None) -> Any:
    """Returns the record of settings with the changes; raises InputError for unknown names."""
    return type(settings).from_json(settings.to_json() | dict(changes or {}))


def _fitted(settings: LearningConfig, changes: Mapping[str, Any] | None, sets: Sets) -> LearningConfig:
    """Returns `_changed` settings that by default draw no more sets and applications than there are."""
    available = {"meta_batch": len(sets), "graphs_per_task": len(sets[0])}
    fit = {name: min(getattr(settings, name), value) for name, value in available.items()}
    fitted: LearningConfig = _changed(settings, fit | dict(changes or {}))
    check_meta_batch(fitted.meta_batch, len(sets))
    check_number("graphs_per_task", fitted.graphs_per_task, low=1, high=len(sets[0]), integer=True)
    return fitted


def _learning_tasks(
    sets: Sets, systems: Sequence[System], network: NetworkConfig, goal: Objective
) -> list[LearningTask]:
    if not network.any_servers and goal != Objective():
        raise InputError(f"objective is {goal}; accepted: the makespan, or network={{'servers': 'any_servers', ...}}")
    size = max(graph.num_tasks for graphs in sets for graph in graphs)
    return [learning_task(graphs, one, network, size, goal) for graphs, one in zip(sets, systems, strict=True)]


def _executed(
    tasks: Sequence[LearningTask], network: NetworkConfig, systems: Sequence[System], disturbance: Any
) -> list[LearningTask]:
    """Returns the learning tasks with rewards from executions; a disturbance for all of them, or one for each."""
    each = [disturbance] * len(tasks) if isinstance(disturbance, Disturbance) else disturbance
    if not isinstance(each, Sequence) or len(each) != len(tasks):
        accepted = f"accepted: a Disturbance, or {len(tasks)} of them, one for each set"
        raise InputError(f"disturbance is {shorten(disturbance)}; {accepted}")
    for i, one in enumerate(each):
        check_type(f"disturbance[{i}]", one, Disturbance)
    return [
        executed_under(task, network, world_of(one, system.num_servers))
        for task, system, one in zip(tasks, systems, each, strict=True)
    ]


def _plans(
    sets: Sets, systems: Sequence[System], network: NetworkConfig, goal: Objective, progress: bool | TextIO
) -> list[list[Plan]]:
    """Returns the default plans to imitate, for each application of each set."""

    def best(graph: TaskGraph, system: System) -> Plan:
        if network.in_order:
            return optimum(graph, system, time_limit_s=PROOF_S, objective=goal)
        return look_ahead_order(graph, system, objective=goal)

    plans: list[list[Plan]] = []
    with _shown(len(sets) * len(sets[0]), "plans to imitate", progress) as line:
        for graphs, system in zip(sets, systems, strict=True):
            plans.append([])
            for graph in graphs:
                plans[-1].append(best(graph, system))
                line.update(sum(map(len, plans)))
    return plans


def _with_plans(
    tasks: Sequence[LearningTask], plans: Sequence[Sequence[Plan]], network: NetworkConfig
) -> list[LearningTask]:
    """Returns the learning tasks with the plans as actions.

    Raises:
        InputError: the number of plans differs from the number of applications, or a plan has another order than the
            policy decides in.
    """
    shape = (len(tasks), tasks[0].num_graphs)
    if len(plans) != shape[0] or any(len(of_set) != shape[1] for of_set in plans):
        lengths = shorten([len(of_set) for of_set in plans])
        raise InputError(f"plans has sets of {lengths} plans; accepted: {shape[0]} sets of {shape[1]}")
    imitating = []
    for task, of_set in zip(tasks, plans, strict=True):
        orders, rows = np.asarray(task.dags.order), np.zeros(task.dags.mask.shape, np.int32)
        for i, (row, order, plan) in enumerate(zip(rows, orders, of_set, strict=True)):
            n = int((order >= 0).sum())
            if len(plan.placement) != n or (network.in_order and not np.array_equal(plan.order, order[:n])):
                raise InputError(
                    f"plans[...][{i}] has {len(plan.placement)} tasks in the order {shorten(plan.order)}; accepted: "
                    f"{n}, in the priority order unless the policy chooses the order"
                )
            sites = np.asarray(plan.placement)[plan.order]
            position = np.argsort(order[:n])[plan.order]
            row[:n] = sites if network.in_order else coding.pack(position, sites, task.dags.num_sites)
        imitating.append(task._replace(optimum=jnp.asarray(rows)))
    return imitating


def run_stage(
    stage: TrainConfig,
    seeds: Sequence[int],
    thetas: Sequence[Any],
    pool: TaskPool,
    execution: ExecutionConfig | None,
    progress: bool | TextIO,
) -> tuple[list[Any], list[TrainingCurve]]:
    """Trains one stage and returns theta and the curve of each seed; a theta of None begins at random parameters."""
    layout = devices.resolve(execution or ExecutionConfig(), len(seeds) * stage.learning.meta_batch)
    first = stack([init_state(stage.network, stage.learning, s, theta) for s, theta in zip(seeds, thetas, strict=True)])
    states, placed = devices.place(first, layout), devices.place(pool, layout)
    program = iteration_program(stage.network, stage.learning, layout)
    measured: list[np.ndarray] = []  # [4, S] each
    pending: list[MetaMetrics] = []
    label = "imitation" if stage.learning.learn_from == "optimum" else "meta-training"
    with _shown(stage.iterations, label, progress) as line:
        for iteration in range(1, stage.iterations + 1):
            states, metrics = program(states, placed)
            pending.append(devices.fetch(metrics, layout))
            if len(pending) < layout.metrics_every and iteration < stage.iterations:
                continue  # the host fetches no metrics yet, so that the devices never wait for the host
            for inner in (one.inner for one in jax.device_get(pending)):
                measured.append(np.array([inner.latency, inner.heft, inner.entropy, inner.value_explained], np.float64))
            pending = []
            latency, heft, entropy, _ = measured[-1].mean(axis=1)
            if not math.isfinite(latency + entropy):
                raise InputError(
                    f"training diverged: latency is {latency} s, entropy {entropy} at iteration {iteration}; accepted: "
                    "finite values (try a lower inner_lr or outer_lr)"
                )
            line.update(iteration, latency_ms=1e3 * latency, vs_heft=percent(latency / heft - 1), entropy=entropy)
    params = devices.unbound(devices.fetch(states, layout)).params
    by_seed = np.array(measured).transpose(2, 1, 0)
    return [take(params, i) for i in range(len(seeds))], [TrainingCurve(*rows) for rows in by_seed]


@contextmanager
def _shown(total: int, label: str, progress: bool | TextIO) -> Iterator[Progress]:
    """Yields the line of progress; it goes to `progress`, standard error or nowhere."""
    with ExitStack() as opened:
        stream = None if isinstance(progress, bool) else progress
        if progress is False:
            stream = opened.enter_context(open(os.devnull, "w"))
        yield opened.enter_context(Progress(total, label, stream=stream))
