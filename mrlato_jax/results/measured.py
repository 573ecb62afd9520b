"""Adaptation from measured makespans, where the real system differs from the model, against calibration.

For each disturbance and seed, methods plan applications that nobody has executed before. Before that, they may execute
other applications of the same family: to calibrate the model, or to adapt a policy. The result of a method is the mean
measured makespan relative to the HEFT-based plans of the nominal model, over the number of executions spent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.dag import dataset as datasets
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.drawing import COLOURS, LINES, legend_below
from mrlato_jax.edge.calibrate import calibrate
from mrlato_jax.edge.simulated import simulated_run
from mrlato_jax.edge.ue import Run
from mrlato_jax.inference.meta_training import run_stage
from mrlato_jax.inference.offloader import Offloader
from mrlato_jax.learning import rollout
from mrlato_jax.learning.inner import InnerState, draw_graphs, inner_optimizer, update
from mrlato_jax.learning.learning_task import LearningTask, executed_under, learning_task, stack, take
from mrlato_jax.learning.meta_batch import TaskPool
from mrlato_jax.mec.arrays import DagArrays, pack
from mrlato_jax.mec.disturbance import DISTURBANCES, Disturbance, World, seen_from, world_of
from mrlato_jax.mec.execution import execution, result_at_ue
from mrlato_jax.mec.system import QUANTITIES, System
from mrlato_jax.methods import METHODS
from mrlato_jax.planners import Plan, heft, local_search
from mrlato_jax.results.comparison import Estimate, estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPERIMENT, SET = "exp2", "n20"
TRAINED_ON = ("n15", "n25")  # sets of the simulated meta-training
TRAINING_SEEDS = 10_000  # seeds of disturbances from here on are those of training

HEFT, HEFT_CALIBRATED = "HEFT-based", "HEFT-based, calibrated"
SEARCH, SEARCH_CALIBRATED = "local search", "local search, calibrated"
SHIPPED, SHIPPED_CALIBRATED = "policy, adapted", "policy, calibrated and adapted"
META, DRL = "meta-trained on disturbances, calibrated and adapted", "DRL on disturbances, calibrated and adapted"
CHOSEN = "adapted policy or local search, whichever measures better"
FLOOR = "search that knows the disturbance"
TRAINED = {META: "mrlato_plus", DRL: "drl"}  # how these are trained
METHOD_NAMES = (HEFT, HEFT_CALIBRATED, SEARCH, SEARCH_CALIBRATED, SHIPPED, SHIPPED_CALIBRATED, META, DRL, CHOSEN, FLOOR)
LEARNED = (SHIPPED, SHIPPED_CALIBRATED, META, DRL, CHOSEN)

Curve = list[tuple[int, float]]  # executions spent, makespan relative to the HEFT-based plans


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the experiment.

    Attributes:
        seeds: number of worlds of each disturbance; each has its own applications, training and draws.
        executed: applications that may be executed before planning.
        held_out: applications to plan.
        draws: executions of each plan that is scored.
        floor_draws: executions of each plan that the search for the floor compares.
        choice_draws: executions of each executed application by which `CHOSEN` compares its two plans.
        calibrations: numbers of executions after which the model is calibrated; the last is that of the policies.
        updates: numbers of updates after which an adapted policy is scored.
        graphs: applications of a collection, each executed with `rollouts` plans.
        rollouts: plans of each application in a collection; the policy's own, and plans with one other decision.
        inner_lr: learning rate of the adaptation.
        iterations: meta-iterations on disturbances in simulation, from the packaged policy.
        worlds: learning tasks of this training, each in a world of its own.
    """

    seeds: int = 5
    executed: int = 20
    held_out: int = 20
    draws: int = 16
    floor_draws: int = 8
    choice_draws: int = 2
    calibrations: tuple[int, ...] = (1, 5, 20)
    updates: tuple[int, ...] = (1, 3, 10, 30)
    graphs: int = 10
    rollouts: int = 5
    inner_lr: float = 5e-4
    iterations: int = 60
    worlds: int = 40


class Bench(NamedTuple):
    """One world, with the applications to execute and those to plan."""

    system: System  # as the planners know it
    disturbance: Disturbance
    executed: Sequence[TaskGraph]
    held_out: Sequence[TaskGraph]
    world: World  # of one DAG
    key: jax.Array  # of the executions that score
    heft_s: float  # mean makespan of the HEFT-based plans of the nominal model


def bench(name: str, seed: int, sizes: Sizes) -> Bench:
    """Returns the bench of a disturbance and a seed."""
    dataset = datasets.load(EXPERIMENT)
    graphs = dataset.graphs(dataset.set_names.index(SET))
    chosen = np.random.default_rng(seed).permutation(len(graphs))[: sizes.executed + sizes.held_out]
    executed, held_out = np.split(chosen, [sizes.executed])
    disturbance = dataclasses.replace(DISTURBANCES[name], seed=seed)
    empty = Bench(
        System(),
        disturbance,
        [graphs[i] for i in executed],
        [graphs[i] for i in held_out],
        world_of(disturbance, 1),
        jax.random.fold_in(jax.random.key(seed), 1),
        1.0,
    )
    plans = [heft(graph, empty.system) for graph in empty.held_out]
    return empty._replace(heft_s=score_plans(empty, plans, sizes.draws))


@partial(jax.jit, static_argnames="draws")
def measured_s(dags: DagArrays, actions: jax.Array, worlds: World, key: jax.Array, draws: int) -> jax.Array:
    """Executes one plan of each DAG `draws` times; returns the mean makespans [G], seconds.

    Args:
        dags: leading axis G.
        actions: int32[G, N], sites in scheduling order.
        worlds: leading axis G.
        key: consumed.
        draws: number of executions of each DAG.
    """
    keys = jax.random.split(key, (actions.shape[0], draws))

    def once(dag: DagArrays, sites: jax.Array, world: World, key: jax.Array) -> jax.Array:
        return result_at_ue(execution(dag, sites, world, key)).max()

    of_dag = jax.vmap(once, in_axes=(None, None, None, 0))
    return jax.vmap(of_dag)(dags, actions, worlds, keys).mean(axis=1)


def score_plans(on: Bench, plans: Sequence[Plan], draws: int) -> float:
    """Returns the mean measured makespan of one plan for each held-out application, relative to `heft_s`."""
    dags, actions, worlds = planned(on, on.held_out, plans)
    return float(measured_s(dags, actions, worlds, on.key, draws).mean()) / on.heft_s


def planned(on: Bench, graphs: Sequence[TaskGraph], plans: Sequence[Plan]) -> tuple[DagArrays, jax.Array, World]:
    """Returns applications in the orders of their plans, the plans' actions, and the worlds."""
    dags = pack(graphs, on.system, orders=[plan.order for plan in plans])
    sites = [plan.placement[plan.order] for plan in plans]
    actions = np.zeros(dags.mask.shape, np.int32)
    for row, of_plan in zip(actions, sites, strict=True):
        row[: len(of_plan)] = of_plan
    return jax.tree.map(jnp.asarray, dags), jnp.asarray(actions), stack([on.world] * len(plans))


@jax.jit
def descend(dags: DagArrays, actions: jax.Array, worlds: World, keys: jax.Array) -> jax.Array:
    """Improves plans on the real system until no other site of one task is better; returns the actions.

    Args:
        dags: leading axis G.
        actions: int32[G, N], where the search begins.
        worlds: leading axis G.
        keys: [E], of the executions with which every plan is measured.
    """

    def of_dag(dag: DagArrays, begin: jax.Array, world: World) -> jax.Array:
        def seconds(sites: jax.Array) -> jax.Array:
            times = jax.vmap(lambda key: result_at_ue(execution(dag, sites, world, key)).max())(keys)
            return times.mean()

        def improve(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            sites, best, _ = state
            others = jnp.where(jnp.eye(sites.shape[0], dtype=bool), 1 - sites[None], sites[None])
            reached = jax.vmap(seconds)(others)
            least = jnp.argmin(reached)
            better = reached[least] < best * (1 - 1e-6)
            return jnp.where(better, others[least], sites), jnp.minimum(best, reached[least]), better

        begin_s = seconds(begin)
        return jax.lax.while_loop(lambda state: state[2], improve, (begin, begin_s, begin_s > 0))[0]

    return jax.vmap(of_dag)(dags, actions, worlds)


def floor(on: Bench, starts: Sequence[Sequence[Plan]], sizes: Sizes) -> float:
    """Returns the score of a search that knows the disturbance: the best of the starts, and of the plans from there."""
    keys = jax.random.split(jax.random.fold_in(on.key, 1), sizes.floor_draws)
    scores = []
    for dags, actions, worlds in (planned(on, on.held_out, plans) for plans in starts):
        for tried in (actions, descend(dags, actions, worlds, keys)):
            scores.append(float(measured_s(dags, tried, worlds, on.key, sizes.draws).mean()) / on.heft_s)
    return min(scores)


def calibrated(graphs: Sequence[TaskGraph], runs: Sequence[Run], system: System) -> System:
    """Returns the system that runs of several applications show: the median of their `calibrate`d clocks and rates."""
    estimates = [calibrate([run], graph, system).system for graph, run in zip(graphs, runs, strict=True)]
    changes: dict[str, Any] = {}
    for name in QUANTITIES:
        nominal = getattr(system, name)
        seen = [value for one in estimates if (value := getattr(one, name)) != nominal]
        changes[name] = float(np.median(seen)) if seen else nominal
    return dataclasses.replace(system, **changes)


def calibration(graphs: Sequence[TaskGraph], system: System, disturbance: Disturbance, seed: int) -> System:
    """Executes the HEFT-based plan of each application once and returns the `calibrated` system."""
    plans = [heft(graph, system) for graph in graphs]
    runs = [
        simulated_run(graph, system, plan.placement, disturbance, 1000 * seed + number, plan.order)
        for number, (graph, plan) in enumerate(zip(graphs, plans, strict=True))
    ]
    return calibrated(graphs, runs, system)


def real_task(
    graphs: Sequence[TaskGraph],
    known: System,
    system: System,
    world: World,
    network: NetworkConfig,
    num_positions: int | None = None,
) -> LearningTask:
    """Returns applications whose policy sees the system `known`, and whose plans are executed in `world`."""
    task = learning_task(graphs, known, network, num_positions)
    return executed_under(task, network, seen_from(world, system, known))


@partial(jax.jit, static_argnames=("network", "draws"))
def _score(network: NetworkConfig, params: Any, task: LearningTask, key: jax.Array, draws: int) -> jax.Array:
    assert task.real is not None
    actions, _ = rollout.decode_greedily(network, params, task._replace(real=None))
    return measured_s(task.dags, actions, task.real.world, key, draws).mean()


_update = jax.jit(update, static_argnames=("network", "learning"))


def adapted(
    network: NetworkConfig, learning: LearningConfig, params: Any, task: LearningTask, updates: Sequence[int], seed: int
) -> Iterator[tuple[int, Any]]:
    """Adapts parameters from measured makespans; yields executions spent and parameters after each of `updates`.

    Args:
        network: the network's settings.
        learning: `graphs_per_task` applications are drawn for a collection, and `rollouts` plans of each are executed.
        params: where the adaptation begins.
        task: the applications to execute, with `real`.
        updates: ascending numbers of updates.
        seed: seed of the draws.
    """
    state = InnerState(params, inner_optimizer(learning).init(params))
    graphs, m, marks = min(learning.graphs_per_task, task.num_graphs), learning.inner_steps, set(updates)
    for collection in range(-(-max(updates) // m)):
        key, draw_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), collection))
        drawn = draw_graphs(task, draw_key, graphs)
        state, steps, _ = _update(network, learning, state, drawn, key)
        for step in range(m):
            if collection * m + step + 1 in marks:
                yield (collection + 1) * graphs * learning.rollouts, take(steps.params, step)


def trained_on_disturbances(policy: Offloader, method: str, sizes: Sizes, seed: int) -> Any:
    """Trains the packaged policy further, on calibrated models of simulated worlds; returns its parameters.

    Args:
        policy: where training begins.
        method: "mrlato_plus", with an inner loop, or "drl", without.
        sizes: sizes of the training.
        seed: seed of applications, worlds and draws.
    """
    dataset, rng = datasets.load(EXPERIMENT), np.random.default_rng([seed, 1])
    sets = [dataset.graphs(dataset.set_names.index(name)) for name in TRAINED_ON]
    size = max(graph.num_tasks for graphs in sets for graph in graphs)
    kinds, system, tasks = list(DISTURBANCES.values()), System(), []
    for number in range(sizes.worlds):
        graphs = sets[number // len(kinds) % len(sets)]
        chosen = [graphs[i] for i in rng.permutation(len(graphs))[: sizes.graphs]]
        world_seed = TRAINING_SEEDS * (seed + 1) + number
        disturbance = dataclasses.replace(kinds[number % len(kinds)], seed=world_seed)
        known = calibration(chosen, system, disturbance, world_seed)
        tasks.append(real_task(chosen, known, system, world_of(disturbance, 1), policy.network, size))
    pool = TaskPool(jax.tree.map(lambda leaf: leaf[:, None], stack(tasks)), (size,) * sizes.worlds)
    changes: dict[str, Any] = {
        "graphs_per_task": sizes.graphs,
        "rollouts": sizes.rollouts,
        "outer_lr_decay": sizes.iterations,
    }
    if method == "drl":
        changes |= {"meta_update": "joint", "inner_lr_decay": policy.learning.inner_steps * sizes.iterations}
    learning = dataclasses.replace(policy.learning, **changes)
    config = METHODS["mrlato_plus"].config(
        iterations=sizes.iterations, network=policy.network, learning=learning, warm_start_iterations=0
    )
    thetas, _ = run_stage(config, [seed], [policy.params], pool, None, False)
    return thetas[0]


def curves_of(on: Bench, policy: Offloader, trained: Mapping[str, Any], sizes: Sizes, seed: int) -> dict[str, Curve]:
    """Returns the curves of all methods on one bench.

    Args:
        on: the bench.
        policy: the packaged policy.
        trained: parameters of `META` and of `DRL`.
        sizes: sizes of the experiment.
        seed: seed of the draws.
    """
    network = policy.network
    learning = dataclasses.replace(
        policy.learning, graphs_per_task=sizes.graphs, rollouts=sizes.rollouts, inner_lr=sizes.inner_lr
    )

    def searched(system: System, graphs: Sequence[TaskGraph] = on.held_out) -> list[Plan]:
        return [local_search(graph, system, seed=seed) for graph in graphs]

    def scored(known: System) -> tuple[float, float]:
        plans = [heft(graph, known) for graph in on.held_out]
        return score_plans(on, plans, sizes.draws), score_plans(on, searched(known), sizes.draws)

    def learned(params: Any, known: System, spent: int) -> tuple[Curve, list[float]]:
        """Returns the curve, and the mean makespan on the executed applications at each point, seconds."""
        task, held_out = (
            real_task(graphs, known, on.system, on.world, network) for graphs in (on.executed, on.held_out)
        )
        curve, executed_s = [], []
        points = [(0, params), *adapted(network, learning, params, task, sizes.updates, seed)]
        for executions, one in points:
            score = float(_score(network, one, held_out, on.key, sizes.draws)) / on.heft_s
            curve.append((spent + executions, score))
            key = jax.random.fold_in(on.key, 2 + executions)
            executed_s.append(float(_score(network, one, task, key, sizes.choice_draws)))
        return curve, executed_s

    def chosen(known: System, curve: Curve, executed_s: Sequence[float], search: float) -> Curve:
        """Returns the curve of a choice between policy and local search, with the executions that decide it."""
        dags, actions, worlds = planned(on, on.executed, searched(known, on.executed))
        key, draws = jax.random.fold_in(on.key, 1), sizes.choice_draws
        rival_s = float(measured_s(dags, actions, worlds, key, draws).mean())
        more = 2 * draws * len(on.executed)
        return [
            (spent + more, score if own_s < rival_s else search)
            for (spent, score), own_s in zip(curve, executed_s, strict=True)
        ]

    systems = {k: calibration(on.executed[:k], on.system, on.disturbance, seed) for k in sizes.calibrations}
    last, known = list(systems.items())[-1]
    of_heft, of_search = zip(*(scored(system) for system in (on.system, *systems.values())), strict=True)
    spent = (0, *systems)
    after_calibration = learned(policy.params, known, last)
    return {
        HEFT: [(0, of_heft[0])],
        HEFT_CALIBRATED: list(zip(spent, of_heft, strict=True))[1:],
        SEARCH: [(0, of_search[0])],
        SEARCH_CALIBRATED: list(zip(spent, of_search, strict=True))[1:],
        SHIPPED: learned(policy.params, on.system, 0)[0],
        SHIPPED_CALIBRATED: after_calibration[0],
        META: learned(trained[META], known, last)[0],
        DRL: learned(trained[DRL], known, last)[0],
        CHOSEN: chosen(known, *after_calibration, of_search[-1]),
        FLOOR: [(0, floor(on, [searched(on.system), searched(known)], sizes))],
    }


AHEAD = "executions until ahead of calibrated search (% above it in the end)"
Rows = Mapping[str, Mapping[str, Mapping[str, Curve]]]  # by disturbance, seed and method


def curve_over_seeds(rows: Mapping[str, Mapping[str, Curve]], method: str) -> tuple[list[int], np.ndarray]:
    """Returns the executions of a method's curve and its values, [seeds, points]."""
    curves = [of_seed[method] for of_seed in rows.values()]
    return [int(spent) for spent, _ in curves[0]], np.array([[value for _, value in curve] for curve in curves])


def leads(rows: Mapping[str, Mapping[str, Curve]], method: str, rival: str) -> np.ndarray:
    """Returns how many percent a method's makespans are above the rival's at its last point, [seeds, points]."""
    return 100 * (curve_over_seeds(rows, method)[1] / curve_over_seeds(rows, rival)[1][:, -1:] - 1)


def beats_after(rows: Mapping[str, Mapping[str, Curve]], method: str, rival: str) -> tuple[int | None, Estimate]:
    """Returns the executions after which a method stays ahead of a rival's last point, and its last lead.

    A method is ahead where the whole 95 % interval of `leads` over seeds is below zero.

    Returns:
        The executions, None if the method is not ahead in the end; and the last of its leads.
    """
    spent = curve_over_seeds(rows, method)[0]
    estimates = [estimate(of_point) for of_point in leads(rows, method, rival).T]
    after = None
    for executions, lead in reversed(list(zip(spent, estimates, strict=True))):
        if not lead.mean + lead.half_width < 0:
            break
        after = executions
    return after, estimates[-1]


def tables(rows: Rows) -> list[tuple[list[str], list[list[str]]]]:
    """Returns header and cells of two tables: the last point of each method, and when learning beats calibration."""
    kinds = list(rows)
    values = [
        [name, *(_percent(estimate(100 * (curve_over_seeds(rows[kind], name)[1][:, -1] - 1))) for kind in kinds)]
        for name in METHOD_NAMES[1:]
    ]
    ahead = []
    for name in LEARNED:
        found = [beats_after(rows[kind], name, SEARCH_CALIBRATED) for kind in kinds]
        cells = [f"{'never' if after is None else after} ({_percent(lead)})" for after, lead in found]
        ahead.append([name, *cells])
    return [(["% above the HEFT-based plans", *kinds], values), ([AHEAD, *kinds], ahead)]


def _percent(one: Estimate) -> str:
    return f"{one.mean:+.1f}" if np.isnan(one.half_width) else f"{one.mean:+.1f} ± {one.half_width:.1f}"


LOOKS: Mapping[str, tuple[str, Any, str]] = {  # colour, line style and marker
    SHIPPED: (COLOURS[0], ":", "o"),
    SHIPPED_CALIBRATED: (COLOURS[0], "-", "o"),
    META: (COLOURS[2], "-", "s"),
    DRL: (COLOURS[1], "-", "^"),
    CHOSEN: (COLOURS[3], "-", "D"),
}
LIMIT = 20.0  # percent: the edge of a panel


def figure(rows: Rows) -> Figure:
    """Draws the makespans of learned methods relative to calibrated search, over executions; a panel a disturbance.

    Thin vertical lines are 95 % intervals of the paired difference over seeds. The title says when a method is ahead.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib import figure as plots
    from matplotlib import ticker

    across = min(4, len(rows))
    down = -(-len(rows) // across)
    drawn = plots.Figure(figsize=(3.4 * across, 3.1 * down + 0.9), layout="constrained")
    axes = drawn.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axis, (kind, of_kind) in zip(axes.flat, rows.items(), strict=False):
        axis.axhline(0, color=LINES["local search"][0], linewidth=2, label=SEARCH_CALIBRATED)
        knows = estimate(leads(of_kind, FLOOR, SEARCH_CALIBRATED)[:, -1]).mean
        axis.axhline(knows, color=LINES["optimum"][0], linewidth=1.6, label=FLOOR)
        for name, (colour, style, marker) in LOOKS.items():
            spent, values = curve_over_seeds(of_kind, name)[0], leads(of_kind, name, SEARCH_CALIBRATED)
            last = {executions: estimate(values[:, point]) for point, executions in enumerate(spent) if executions}
            mean = np.array([one.mean for one in last.values()])
            width = np.nan_to_num([one.half_width for one in last.values()])
            look = {"color": colour, "linestyle": style, "marker": marker, "markersize": 4, "linewidth": 1.8}
            axis.plot(list(last), mean, label=name, **look)
            axis.vlines(list(last), mean - width, mean + width, color=colour, alpha=0.35, linewidth=1.2)
        first = _first_ahead(of_kind)
        verdict = "learning is not ahead" if first is None else f"learning is ahead after {first} executions"
        axis.set_title(kind, fontsize=12)
        axis.text(
            0.5, 0.97, verdict, transform=axis.transAxes, ha="center", va="top", fontsize=9,
            color="0.3" if first is None else LINES["optimum"][0],
        )  # fmt: skip
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.set_ylim(-LIMIT, LIMIT)
        axis.grid(alpha=0.25)
    for axis in axes[-1]:
        axis.set_xlabel("executions")
    for axis in axes[:, 0]:
        axis.set_ylabel("% above calibrated search")
    for axis in axes.flat[len(rows) :]:
        axis.set_axis_off()
    legend_below(drawn, axes.flat[:1])
    return drawn


def _first_ahead(rows: Mapping[str, Mapping[str, Curve]]) -> int | None:
    """Returns the least executions after which a learned method stays ahead of calibrated search; None if none does."""
    found = [beats_after(rows, name, SEARCH_CALIBRATED)[0] for name in LEARNED]
    return min((after for after in found if after is not None), default=None)
