"""The paper's three experiments: their training sets and their nine test sets (V-C)."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import jax

from mrlato_jax.config import NetworkConfig
from mrlato_jax.dag.dataset import SEED, DagDataset, build_graph
from mrlato_jax.dag.families import FAMILIES
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, shorten
from mrlato_jax.learning.learning_task import LearningTask, learning_task, stack, stack_alike
from mrlato_jax.learning.meta_batch import TaskPool
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import System

DEFAULT_RATE_BPS = 7e6
TRAIN_RATES_BPS = {"exp3": tuple(1e6 * rate for rate in range(4, 23, 3))}
MAKESPAN = Objective()
Thing = TypeVar("Thing")
TEST_RATES_BPS = {"exp3": (5.5e6, 8.5e6, 11.5e6)}


@dataclasses.dataclass(frozen=True)
class TestSet:
    """One panel of the paper's figures: a set of unseen DAGs under one system."""

    name: str
    graphs: tuple[TaskGraph, ...]
    system: System
    objective: Objective = MAKESPAN

    __test__ = False  # pytest must not collect this class


def training_systems(experiment: str, channel: str) -> list[System]:
    """Returns the systems of the paper's training sets: one system, or Experiment 3's seven rates (U_r = D_r)."""
    rates = TRAIN_RATES_BPS.get(experiment, (DEFAULT_RATE_BPS,))
    return [System(uplink_bps=rate, downlink_bps=rate, channel=channel) for rate in rates]


def systems_of(dataset: DagDataset, index: int, channel: str) -> list[System]:
    """Returns the systems of set `index`: the one in the data set, or by default `training_systems`.

    A channel in the data set's system takes precedence over `channel`.

    Raises:
        InputError: the data set's `systems` cannot be used.
    """
    own = dataset.settings.get("systems")
    if own is None:
        return training_systems(dataset.name, channel)
    try:
        return [System(**{"channel": channel, **own[index]})]
    except (TypeError, IndexError, KeyError) as error:
        wrong = f"systems of data set {dataset.name} cannot be used ({error})"
        raise InputError(f"{wrong}; accepted: one system for each set") from None


def objective_of(dataset: DagDataset, index: int) -> Objective:
    """Returns the objective of set `index`; by default the makespan.

    Raises:
        InputError: the data set's `energy_weights` cannot be used.
    """
    weights = dataset.settings.get("energy_weights")
    if weights is None:
        return Objective()
    if not isinstance(weights, list) or len(weights) != dataset.num_sets:
        raise InputError(
            f"energy_weights of data set {dataset.name} is {shorten(weights)}; accepted: one number for each set"
        )
    return Objective(energy_weight=weights[index])


def training_examples(dataset: DagDataset, channel: str) -> Iterator[tuple[TaskGraph, System, Objective]]:
    """Yields every training DAG with each of its systems and its objective."""
    for index in dataset.train_sets:
        objective = objective_of(dataset, index)
        for system in systems_of(dataset, index, channel):
            yield from ((graph, system, objective) for graph in dataset.graphs(index))


def check_room(dataset: DagDataset, network: NetworkConfig) -> None:
    """Raises InputError if the policy cannot take a data set.

    This is the case if a task has more parents or children than `neighbour_width`, or if a set has several servers or
    an energy weight and the policy is for one server and the makespan.
    """
    limit = network.neighbour_limit
    if not network.any_servers:
        for index, name in enumerate(dataset.set_names):
            own = dataset.settings.get("systems")
            servers = 1 if own is None else System(**own[index]).num_servers
            if servers > 1 or objective_of(dataset, index) != MAKESPAN:
                raise InputError(
                    f"servers is {network.servers} for data set {dataset.name}, whose set {name} has {servers} servers "
                    f"and energy weight {objective_of(dataset, index).energy_weight:g}; accepted: any_servers"
                )
    for kind, axis in (("children", -1), ("parents", -2)):
        most = int(dataset.adjacency.sum(axis=axis).max())
        if limit is not None and most > limit:
            raise InputError(
                f"neighbour_width is {limit}; accepted: at least {most}, the most {kind} of a task in data set "
                f"{dataset.name}"
            )


def kind_of(system: System) -> tuple[str, str, int]:
    """Returns the static part of a system, which has its own programs: channel rules, radio, number of servers."""
    return system.channel, system.radio, system.num_servers


def by_kind(things: Iterable[Thing], system_of: Callable[[Thing], System]) -> list[list[Thing]]:
    """Groups things by their kind of system, in order."""
    kinds: dict[tuple[str, str, int], list[Thing]] = defaultdict(list)
    for thing in things:
        kinds[kind_of(system_of(thing))].append(thing)
    return list(kinds.values())


def sets_by_kind(dataset: DagDataset, channel: str) -> list[list[int]]:
    """Groups the indices of the training sets by kind of system, in order."""
    return by_kind(dataset.train_sets, lambda index: systems_of(dataset, index, channel)[0])


def training_pools(dataset: DagDataset, network: NetworkConfig, channel: str) -> list[TaskPool]:
    """Packs and encodes every training set under every training system and puts it on the device.

    There is one pool for each kind of system. The paper's experiments have one kind.

    Raises:
        InputError: the network cannot take several servers, or tasks with this many neighbours.
    """
    return [_training_pool(dataset, network, channel, indices) for indices in sets_by_kind(dataset, channel)]


def _training_pool(dataset: DagDataset, network: NetworkConfig, channel: str, indices: Sequence[int]) -> TaskPool:
    sets = {index: dataset.graphs(index) for index in indices}
    sizes = tuple(max(graph.num_tasks for graph in graphs) for graphs in sets.values())

    def variants(index: int) -> LearningTask:
        goal, systems = objective_of(dataset, index), systems_of(dataset, index, channel)
        return stack([learning_task(sets[index], system, network, max(sizes), goal) for system in systems])

    return jax.block_until_ready(TaskPool(stack_alike([variants(index) for index in sets]), sizes))


def unseen_sets(dataset: DagDataset, channel: str, rates_bps: Sequence[float] | None = None) -> list[TestSet]:
    """Returns the three test sets of an experiment, in the paper's order.

    Args:
        dataset: data set of the experiment.
        channel: channel rules.
        rates_bps: other test rates for Experiment 3 (the paper's text has 13.5 Mbit/s as the third), bit/s.

    Raises:
        InputError: the data set has no test sets; or `rates_bps` is given for another experiment, is empty or repeats a
            rate.
    """
    if rates_bps is not None and dataset.name not in TEST_RATES_BPS:
        raise InputError(f"test rates are {list(rates_bps)} bit/s for {dataset.name}; accepted: none, except for exp3")
    rates = TEST_RATES_BPS.get(dataset.name) if rates_bps is None else tuple(rates_bps)
    if rates is not None and (not rates or len(set(rates)) < len(rates)):
        raise InputError(f"test rates are {list(rates)} bit/s; accepted: at least one, each once")
    test_sets = []
    for index in dataset.test_sets:
        if (weight := objective_of(dataset, index).energy_weight) > 0:
            raise InputError(
                f"energy_weights has {weight:g} for test set {dataset.set_names[index]}; accepted: 0, since test sets "
                "are measured by the makespan"
            )
        graphs = tuple(dataset.graphs(index))
        if rates is not None:
            for rate in rates:
                system = System(uplink_bps=rate, downlink_bps=rate, channel=channel)
                test_sets.append(TestSet(f"{rate / 1e6:g} Mbit/s", graphs, system))
        else:
            (system,) = systems_of(dataset, index, channel)
            test_sets.append(TestSet(dataset.set_names[index], graphs, system))
    if not test_sets:
        raise InputError(f"data set {dataset.name!r} has no test sets; accepted: one that has")
    return test_sets


def validation_sets(dataset: DagDataset, channel: str) -> list[TestSet]:
    """Returns fresh DAGs of the training families under training systems, for the choice of models and settings.

    The DAGs of a family are the next ones of its generator, as many as the data set has. In Experiment 3, whose
    families are all the same, there is one set for each training rate.

    Raises:
        InputError: the data set was not drawn by this package's generator and seed.
    """
    _check_drawn_here(dataset)
    several = len(systems_of(dataset, dataset.train_sets[0], channel)) > 1
    test_sets = []
    for place, index in enumerate(dataset.train_sets):
        systems = systems_of(dataset, index, channel)
        if place >= len(systems) > 1:
            break
        system = systems[place] if several else systems[0]
        name = f"{system.uplink_bps / 1e6:g} Mbit/s" if several else dataset.set_names[index]
        test_sets.append(TestSet(name, _drawn_next(dataset, index), system, objective_of(dataset, index)))
    return test_sets


def fresh_sets(dataset: DagDataset, channel: str, rates_bps: Sequence[float] | None = None) -> list[TestSet]:
    """Returns `unseen_sets` with the next DAGs of the same generators, as many as the data set has.

    These DAGs are never used for training, adaptation or the choice of settings. Arguments are those of `unseen_sets`.

    Raises:
        InputError: as in `unseen_sets`; or the data set was not drawn by this package's generator and seed.
    """
    _check_drawn_here(dataset)
    drawn = {tuple(dataset.graphs(index)): _drawn_next(dataset, index) for index in dataset.test_sets}
    return [
        dataclasses.replace(test_set, graphs=drawn[test_set.graphs])
        for test_set in unseen_sets(dataset, channel, rates_bps)
    ]


def _check_drawn_here(dataset: DagDataset) -> None:
    drawn_here = tuple(family.set_name for family in FAMILIES.get(dataset.name, ())) == dataset.set_names
    if not drawn_here or dataset.settings.get("seed") != SEED:
        raise InputError(f"data set {dataset.name!r} was not drawn by make_data.py; accepted: exp1, exp2, exp3")


def _drawn_next(dataset: DagDataset, index: int) -> tuple[TaskGraph, ...]:
    """Draws the DAGs of a family that follow those in the data set, as many as the data set has."""
    first, unit = dataset.graphs_per_set, dataset.settings["data_unit"]
    return tuple(build_graph(dataset.name, index, first + i, unit) for i in range(first))
