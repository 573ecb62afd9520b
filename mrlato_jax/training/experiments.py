"""The paper's three experiments: what is trained on, and the nine test sets that are evaluated (V-C)."""

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

    __test__ = False  # a record, whatever its name suggests to pytest


def training_systems(experiment: str, channel: str) -> list[System]:
    """The systems a training set of the paper's may be met under: one, or Experiment 3's seven rates (U_r = D_r)."""
    rates = TRAIN_RATES_BPS.get(experiment, (DEFAULT_RATE_BPS,))
    return [System(uplink_bps=rate, downlink_bps=rate, channel=channel) for rate in rates]


def systems_of(dataset: DagDataset, index: int, channel: str) -> list[System]:
    """The systems that set `index` may be met under: its own where the data set says one, else `training_systems`.

    A system of the data set that says a channel has that one, whatever `channel` is.

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
    """What is minimised in set `index`: the makespan where the data set says nothing.

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
    """Every DAG that is trained on, with every system that it may be met under, and what is minimised."""
    for index in dataset.train_sets:
        objective = objective_of(dataset, index)
        for system in systems_of(dataset, index, channel):
            yield from ((graph, system, objective) for graph in dataset.graphs(index))


def check_room(dataset: DagDataset, network: NetworkConfig) -> None:
    """Raises InputError where the policy has no room for a data set.

    That is where a task of any set has more parents or children than it is told of; or where a set has several servers,
    or a weight of energy, and the policy knows one server and the makespan.
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
    """What is compiled apart of a system: channel rules, radio and number of servers."""
    return system.channel, system.radio, system.num_servers


def by_kind(things: Iterable[Thing], system_of: Callable[[Thing], System]) -> list[list[Thing]]:
    """What is of each kind of system, in order."""
    kinds: dict[tuple[str, str, int], list[Thing]] = defaultdict(list)
    for thing in things:
        kinds[kind_of(system_of(thing))].append(thing)
    return list(kinds.values())


def sets_by_kind(dataset: DagDataset, channel: str) -> list[list[int]]:
    """The training sets of each kind of system, in order."""
    return by_kind(dataset.train_sets, lambda index: systems_of(dataset, index, channel)[0])


def training_pools(dataset: DagDataset, network: NetworkConfig, channel: str) -> list[TaskPool]:
    """Every training set of an experiment under every training system, packed, encoded and on the device.

    One pool for each kind of system. The paper's experiments have one kind.

    Raises:
        InputError: several servers, or tasks with more neighbours than the network has room for.
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
    """The three test sets of an experiment, in the paper's order.

    Args:
        dataset: of the experiment.
        channel: channel rules.
        rates_bps: Experiment 3's test rates if they are to be others (the paper's text has 13.5 Mbit/s as the third).

    Raises:
        InputError: a data set without test sets, rates for one that is not tested by rates, none, or one twice.
    """
    if rates_bps is not None and dataset.name not in TEST_RATES_BPS:
        raise InputError(f"test rates are {list(rates_bps)} bit/s for {dataset.name}; accepted: none, but for exp3")
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
    """Fresh DAGs of the training families under training systems: what models and settings may be chosen by.

    Each family's graphs are the ones that its generator draws next after those in the data set, equally many. In
    Experiment 3, where all families are alike, there is one test set for each training rate.

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
    """`unseen_sets` with other DAGs of the same families: those that the generator draws next, equally many.

    Nothing is trained on them or adapted to them, and nothing was chosen by them. Arguments as `unseen_sets`.

    Raises:
        InputError: as `unseen_sets`; or the data set was not drawn by this package's generator and seed.
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
    """Of a family, the DAGs after those in the data set, equally many."""
    first, unit = dataset.graphs_per_set, dataset.settings["data_unit"]
    return tuple(build_graph(dataset.name, index, first + i, unit) for i in range(first))
