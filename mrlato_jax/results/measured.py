"""Adaptation from measured makespans, where the real system differs from the model, against calibration.

For each disturbance and seed, methods plan applications that nobody has executed before. Before that, they may execute
other applications of the same family: to calibrate the model, or to adapt a policy. The result of a method is the mean
measured makespan relative to the HEFT-based plans of the nominal model, over the number of executions spent.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.dag import dataset as datasets
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.drawing import COLOURS, LINES, legend_below
from mrlato_jax.edge.testbed import Bed
from mrlato_jax.inference.meta_training import run_stage
from mrlato_jax.inference.offloader import Offloader
from mrlato_jax.learning import rollout
from mrlato_jax.learning.executions import Executions
from mrlato_jax.learning.inner import (
    InnerState,
    collected_plans,
    draw_graphs,
    draw_numbers,
    inner_optimizer,
    update,
)
from mrlato_jax.learning.learning_task import LearningTask, learning_task, orders_of, stack, take
from mrlato_jax.learning.meta_batch import TaskPool
from mrlato_jax.mec.disturbance import DISTURBANCES
from mrlato_jax.mec.system import QUANTITIES, System
from mrlato_jax.methods import METHODS
from mrlato_jax.planners import Plan, heft, local_search
from mrlato_jax.planners.plan import placement_of
from mrlato_jax.results.comparison import Estimate, estimate
from mrlato_jax.results.realities import Chosen, Placed, Reality, Simulated, Tested, calibrated, descend, measured_s

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPERIMENT, SET = "exp2", "n20"
APPLICATION = f"{EXPERIMENT}:{SET}:0"  # of the testbed, which then runs any DAG
TRAINED_ON = ("n15", "n25")  # sets of the simulated meta-training
SPEED = 2.0  # of the testbed's clocks and rates, so that runs take half the time; the policy's plans are the same
TRAINING_SEEDS = 10_000  # seeds of disturbances from here on are those of training

HEFT, HEFT_CALIBRATED = "HEFT-based", "HEFT-based, calibrated"
SEARCH, SEARCH_CALIBRATED = "local search", "local search, calibrated"
SHIPPED, SHIPPED_CALIBRATED = "policy, adapted", "policy, calibrated and adapted"
META, DRL = "meta-trained on disturbances, calibrated and adapted", "DRL on disturbances, calibrated and adapted"
CHOSEN = "adapted policy or local search, whichever measures better"
FLOOR = "search that knows the disturbance"
NOT_TESTED = (SHIPPED, FLOOR)  # left out on the testbed, where 500 executions take minutes and the floor needs far more
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


TESTBED_SIZES = Sizes(seeds=3, draws=2, choice_draws=1, updates=(3, 10, 30))


class Bench(NamedTuple):
    """What executes plans, with the applications to execute and those to plan."""

    reality: Reality
    executed: Sequence[TaskGraph]
    held_out: Sequence[TaskGraph]


def bench(seed: int, sizes: Sizes, reality: Reality) -> Bench:
    """Returns a reality with the applications of a seed."""
    dataset = datasets.load(EXPERIMENT)
    graphs = dataset.graphs(dataset.set_names.index(SET))
    chosen = np.random.default_rng(seed).permutation(len(graphs))[: sizes.executed + sizes.held_out]
    executed, held_out = np.split(chosen, [sizes.executed])
    return Bench(reality, [graphs[i] for i in executed], [graphs[i] for i in held_out])


def simulated(name: str, seed: int) -> Simulated:
    """Returns the simulated reality of a disturbance and a seed."""
    return Simulated(System(), dataclasses.replace(DISTURBANCES[name], seed=seed), seed)


@contextlib.contextmanager
def tested(name: str, seed: int) -> Iterator[Tested]:
    """Context of a testbed with a disturbance and a seed, `SPEED` times as fast as the paper's system.

    Raises:
        InputError: the testbed cannot make the disturbance.
    """
    system = System()
    system = dataclasses.replace(system, **{quantity: SPEED * getattr(system, quantity) for quantity in QUANTITIES})
    one = DISTURBANCES[name]
    disturbance = dataclasses.replace(
        one, seed=seed, share_s=one.share_s / SPEED, rate_period_s=one.rate_period_s / SPEED
    )
    bed = Bed(system, [APPLICATION], disturbance=disturbance)
    with bed, bed.executing() as execute:
        graph = datasets.load(EXPERIMENT).graphs(SET)[0]
        plan = heft(graph, system)
        execute(graph, plan.placement, plan.order)  # the first run is slower
        yield Tested(system, execute)


def floor(reality: Simulated, graphs: Sequence[TaskGraph], starts: Sequence[Sequence[Plan]], sizes: Sizes) -> float:
    """Returns the mean makespan of a search that knows the disturbance, seconds.

    The result is the best mean of the starts, and of the plans that `descend` finds from them.
    """
    keys = jax.random.split(jax.random.fold_in(reality.key, 1), sizes.floor_draws)
    makespans = []
    for dags, actions, worlds in (reality.packed(graphs, plans) for plans in starts):
        for tried in (actions, descend(dags, actions, worlds, keys)):
            makespans.append(float(measured_s(dags, tried, worlds, reality.key, sizes.draws).mean()))
    return min(makespans)


def calibration(graphs: Sequence[TaskGraph], reality: Reality) -> System:
    """Executes the HEFT-based plan of each application once and returns the `calibrated` system."""
    plans = [heft(graph, reality.system) for graph in graphs]
    runs = [reality.run(*pair, number) for number, pair in enumerate(zip(graphs, plans, strict=True))]
    return calibrated(graphs, runs, reality.system)


@partial(jax.jit, static_argnames="network")
def _decided(network: NetworkConfig, params: Any, task: LearningTask) -> jax.Array:
    return rollout.decode_greedily(network, params, task)[0]


def decided(network: NetworkConfig, params: Any, task: LearningTask) -> list[Placed]:
    """Returns the policy's own plan of each application."""
    actions = np.asarray(_decided(network, params, task._replace(real=None)))
    return [Placed(placement_of(order, sites), order) for order, sites in zip(orders_of(task), actions, strict=True)]


_update = jax.jit(update, static_argnames=("network", "learning"))


def adapted(
    network: NetworkConfig,
    learning: LearningConfig,
    params: Any,
    task: LearningTask,
    updates: Sequence[int],
    seed: int,
    executions: Executions | None = None,
) -> Iterator[tuple[int, Any]]:
    """Adapts parameters from measured makespans; yields executions spent and parameters after each of `updates`.

    Args:
        network: the network's settings.
        learning: `graphs_per_task` applications are drawn for a collection, and `rollouts` plans of each are executed.
        params: where the adaptation begins.
        task: the applications to execute; with `real`, if they are executed in simulation.
        updates: ascending numbers of updates.
        seed: seed of the draws.
        executions: executes the plans, if they are not executed in simulation.
    """
    state = InnerState(params, inner_optimizer(learning).init(params))
    graphs, m, marks = min(learning.graphs_per_task, task.num_graphs), learning.inner_steps, set(updates)
    for collection in range(-(-max(updates) // m)):
        key, draw_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), collection))
        drawn = draw_graphs(task, draw_key, graphs)
        if executions is not None:
            wanted = np.asarray(collected_plans(network, learning, state.params, drawn, key))
            numbers = np.asarray(draw_numbers(task.num_graphs, draw_key, graphs))
            drawn = drawn._replace(real=executions.record(wanted, numbers.tolist()))
        state, steps, _ = _update(network, learning, state, drawn, key)
        for step in range(m):
            if collection * m + step + 1 in marks:
                spent = (collection + 1) * graphs * learning.rollouts if executions is None else executions.count
                yield spent, take(steps.params, step)


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
    kinds, tasks = list(DISTURBANCES.values()), []
    for number in range(sizes.worlds):
        graphs = sets[number // len(kinds) % len(sets)]
        chosen = [graphs[i] for i in rng.permutation(len(graphs))[: sizes.graphs]]
        world_seed = TRAINING_SEEDS * (seed + 1) + number
        disturbance = dataclasses.replace(kinds[number % len(kinds)], seed=world_seed)
        reality = Simulated(System(), disturbance, world_seed)
        known = calibration(chosen, reality)
        tasks.append(reality.learning_task(chosen, known, policy.network, size)[0])
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


class _Point(NamedTuple):
    """A method's plans of the held-out applications, after some executions."""

    method: str
    spent: int
    plans: Sequence[Chosen]


def curves_of(
    on: Bench,
    policy: Offloader,
    trained: Mapping[str, Any],
    sizes: Sizes,
    seed: int,
    methods: Sequence[str] = METHOD_NAMES,
) -> dict[str, Curve]:
    """Returns the curves of methods on one bench. All plans are scored at the end, by executions of their own.

    Args:
        on: the bench.
        policy: the packaged policy.
        trained: parameters of `META` and of `DRL`.
        sizes: sizes of the experiment.
        seed: seed of the draws.
        methods: of `METHOD_NAMES`, `HEFT` among them; `FLOOR` needs a simulated reality, `CHOSEN` needs
            `SHIPPED_CALIBRATED` and `SEARCH_CALIBRATED`.
    """
    network, reality = policy.network, on.reality
    learning = dataclasses.replace(
        policy.learning, graphs_per_task=sizes.graphs, rollouts=sizes.rollouts, inner_lr=sizes.inner_lr
    )
    points: list[_Point] = []
    own_s: list[float] = []  # of the calibrated and adapted policy on the executed applications, at each point

    def searched(system: System, graphs: Sequence[TaskGraph] = on.held_out) -> list[Plan]:
        return [local_search(graph, system, seed=seed) for graph in graphs]

    def learned(method: str, params: Any, known: System, spent: int) -> None:
        if method not in methods:
            return
        task, executions = reality.learning_task(on.executed, known, network)
        held_out = learning_task(on.held_out, known, network)
        adapting = adapted(network, learning, params, task, sizes.updates, seed, executions)
        for executed, one in itertools.chain([(0, params)], adapting):
            points.append(_Point(method, spent + executed, decided(network, one, held_out)))
            if method == SHIPPED_CALIBRATED and CHOSEN in methods:
                own = [decided(network, one, task)]
                own_s.extend(reality.makespans(on.executed, own, sizes.choice_draws, 2 + executed))

    systems = {k: calibration(on.executed[:k], reality) for k in sizes.calibrations}
    last, known = list(systems.items())[-1]
    for spent, system in {0: reality.system, **systems}.items():
        by_heft, by_search = (HEFT_CALIBRATED, SEARCH_CALIBRATED) if spent else (HEFT, SEARCH)
        points.append(_Point(by_heft, spent, [heft(graph, system) for graph in on.held_out]))
        points.append(_Point(by_search, spent, searched(system)))
    learned(SHIPPED, policy.params, reality.system, 0)
    learned(SHIPPED_CALIBRATED, policy.params, known, last)
    for method in TRAINED:
        learned(method, trained.get(method), known, last)
    makespans = reality.makespans(on.held_out, [point.plans for point in points], sizes.draws)
    heft_s = makespans[0]
    curves: dict[str, Curve] = {}
    for point, makespan in zip(points, makespans, strict=True):
        curves.setdefault(point.method, []).append((point.spent, makespan / heft_s))
    if CHOSEN in methods:
        rival = [searched(known, on.executed)]
        (rival_s,) = reality.makespans(on.executed, rival, sizes.choice_draws, 1)
        more, search = 2 * sizes.choice_draws * len(on.executed), curves[SEARCH_CALIBRATED][-1][1]
        curves[CHOSEN] = [
            (spent + more, score if own < rival_s else search)
            for (spent, score), own in zip(curves[SHIPPED_CALIBRATED], own_s, strict=True)
        ]
    if FLOOR in methods:
        assert isinstance(reality, Simulated)
        starts = [searched(reality.system), searched(known)]
        curves[FLOOR] = [(0, floor(reality, on.held_out, starts, sizes) / heft_s)]
    return {name: curves[name] for name in METHOD_NAMES if name in methods}


AHEAD = "executions until ahead of calibrated search (% above it in the end)"
Rows = Mapping[str, Mapping[str, Mapping[str, Curve]]]  # by disturbance, seed and method


def curve_over_seeds(rows: Mapping[str, Mapping[str, Curve]], method: str) -> tuple[list[int], np.ndarray]:
    """Returns the executions of a method's curve and its values, [seeds, points]."""
    curves = [of_seed[method] for of_seed in rows.values()]
    return [int(spent) for spent, _ in curves[0]], np.array([[value for _, value in curve] for curve in curves])


def methods_of(rows: Mapping[str, Mapping[str, Curve]]) -> list[str]:
    """Returns the methods that have a curve for every seed."""
    return [name for name in METHOD_NAMES if all(name in of_seed for of_seed in rows.values())]


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

    def last(of_kind: Mapping[str, Mapping[str, Curve]], name: str) -> str:
        return _percent(estimate(100 * (curve_over_seeds(of_kind, name)[1][:, -1] - 1)))

    def ahead(of_kind: Mapping[str, Mapping[str, Curve]], name: str) -> str:
        after, lead = beats_after(of_kind, name, SEARCH_CALIBRATED)
        return f"{'never' if after is None else after} ({_percent(lead)})"

    found = []
    for title, names, cell in (("% above the HEFT-based plans", METHOD_NAMES[1:], last), (AHEAD, LEARNED, ahead)):
        cells = [
            [name, *(cell(one, name) if name in methods_of(one) else "-" for one in rows.values())] for name in names
        ]
        found.append(([title, *rows], [row for row in cells if set(row[1:]) != {"-"}]))
    return found


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
        methods = methods_of(of_kind)
        if FLOOR in methods:
            knows = estimate(leads(of_kind, FLOOR, SEARCH_CALIBRATED)[:, -1]).mean
            axis.axhline(knows, color=LINES["optimum"][0], linewidth=1.6, label=FLOOR)
        for name, (colour, style, marker) in ((name, look) for name, look in LOOKS.items() if name in methods):
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
    legend_below(drawn, axes.flat)
    return drawn


def _first_ahead(rows: Mapping[str, Mapping[str, Curve]]) -> int | None:
    """Returns the least executions after which a learned method stays ahead of calibrated search; None if none does."""
    found = [beats_after(rows, name, SEARCH_CALIBRATED)[0] for name in LEARNED if name in methods_of(rows)]
    return min((after for after in found if after is not None), default=None)
