"""Demonstrations: the best known plans of fresh DAGs of the training families, which a policy can imitate first.

The data sets' generator draws the DAGs, at indices beyond the data sets and the validation sets. So a file stores only
the indices and the plans. Loading draws the DAGs again and simulates every plan.

If a family's system was drawn from a kind of systems, each of its DAGs has its own system of that kind, its own energy
weight and its own pins, since the policy must later plan for systems that it has not seen.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.config import NetworkConfig
from mrlato_jax.dag.daggen import GENERATOR_VERSION
from mrlato_jax.dag.dataset import SEED, data_folder, generator_of
from mrlato_jax.dag.families import FAMILIES, Family, redrawn
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.environment.actions import pack as pack_actions
from mrlato_jax.errors import InputError, check_choice, check_number, shorten
from mrlato_jax.files import ArrayHeader, read_npz, read_regular, write_atomically
from mrlato_jax.learning.learning_task import LearningTask, learning_task
from mrlato_jax.learning.meta_batch import TaskPool
from mrlato_jax.mec.arrays import DagArrays
from mrlato_jax.mec.latency import cost, run
from mrlato_jax.mec.objective import Objective
from mrlato_jax.mec.system import System, of_servers
from mrlato_jax.planners import optimum
from mrlato_jax.planners.lookahead import best_outcome_of_ready
from mrlato_jax.training.experiments import by_kind, training_systems

FIRST_FRESH = 1000  # index of the first DAG of each family with a demonstration
CHANNEL = "paper"
OWN_SYSTEM = 20  # separates the random numbers of systems from those of graphs
PLANNED_AT_ONCE = 256  # DAGs in one batch of the look-ahead; each takes N^2 simulations
MIXES = 20  # largest number of sets for the demonstrations of one number of tasks
MOST_BYTES = 2**25  # size limit of all arrays of a file: some 700,000 plans
_DIMENSIONS = {
    "set_index": 1, "graph_index": 1, "rate_bps": 1, "num_tasks": 1, "offloaded": 2, "makespan": 1, "proven": 1,
}  # fmt: skip
SAME = 1e-4  # relative: larger differences of a stored cost from the simulator's (in float32) are errors


@dataclasses.dataclass(frozen=True)
class Demonstration:
    """The index of a DAG in the generator's sequence, the uplink rate of its system, and the best known plan.

    Attributes:
        set_index: index of the family.
        graph_index: index of the DAG in its family, at least `FIRST_FRESH`.
        rate_bps: rate of the (first) uplink, bit/s; in Experiments 1 to 3, of both links.
        placement: the site of each task id.
        cost: cost of the plan by the family's objective, seconds: the makespan if energy has no weight.
        proven: whether no placement in the priority order is better.
    """

    set_index: int
    graph_index: int
    rate_bps: float
    placement: tuple[int, ...]
    cost: float
    proven: bool

    def graph(self, experiment: str) -> TaskGraph:
        """Draws the DAG again."""
        return _graph(experiment, self.set_index, self.graph_index)

    def system(self, experiment: str) -> System:
        """Returns the system of the plan."""
        return _system(experiment, self.set_index, self.graph_index, self.rate_bps)

    def objective(self, experiment: str) -> Objective:
        """Returns the objective of the plan."""
        return Objective(energy_weight=_family(experiment, self.set_index, self.graph_index).energy_weight)


@cache  # a run uses each of thousands several times
def _family(experiment: str, set_index: int, graph_index: int) -> Family:
    """Returns the family that a DAG is drawn from; for a kind of systems, a redrawn one."""
    rng = np.random.default_rng([SEED, OWN_SYSTEM, set_index, graph_index])
    return redrawn(FAMILIES[experiment][set_index], rng)


def _graph(experiment: str, set_index: int, graph_index: int) -> TaskGraph:
    return _family(experiment, set_index, graph_index).sample(generator_of(experiment, set_index, graph_index))


def _system(experiment: str, set_index: int, graph_index: int, rate_bps: float) -> System:
    own = FAMILIES[experiment][set_index].kind is not None
    return _made(experiment, set_index, graph_index if own else FIRST_FRESH, rate_bps)


@cache
def _made(experiment: str, set_index: int, graph_index: int, rate_bps: float) -> System:
    fields = _family(experiment, set_index, graph_index).system
    if fields is not None:
        return System(**{"channel": CHANNEL, **fields})
    return System(uplink_bps=rate_bps, downlink_bps=rate_bps, channel=CHANNEL)


def wanted(experiment: str, graphs_per_family: int) -> Iterator[tuple[int, int, float]]:
    """Yields (set index, graph index, rate) of each wanted demonstration, in a fixed order.

    These are `graphs_per_family` DAGs of every training family under every training system; no DAG occurs twice.
    """
    check_choice("experiment", experiment, tuple(FAMILIES))
    check_number("graphs_per_family", graphs_per_family, low=1, integer=True)
    for number in range(graphs_per_family):
        for set_index, family in enumerate(FAMILIES[experiment]):
            if family.split == "train":
                own = family.system is not None
                rates = [0.0] if own else [system.uplink_bps for system in training_systems(experiment, CHANNEL)]
                for variant, rate in enumerate(rates):
                    graph_index = FIRST_FRESH + number * len(rates) + variant
                    system = _system(experiment, set_index, graph_index, rate)
                    yield set_index, graph_index, float(of_servers(system, "uplink_bps")[0])


def demonstrate(
    experiment: str, set_index: int, graph_index: int, rate_bps: float, time_limit_s: float
) -> Demonstration:
    """Searches for the best plan of one DAG for at most `time_limit_s` seconds."""
    system = _system(experiment, set_index, graph_index, rate_bps)
    objective = Objective(energy_weight=_family(experiment, set_index, graph_index).energy_weight)
    graph = _graph(experiment, set_index, graph_index)
    plan = optimum(graph, system, time_limit_s=time_limit_s, objective=objective)
    placement = tuple(plan.placement.tolist())
    cost = objective.cost(plan.makespan, plan.energy)
    return Demonstration(set_index, graph_index, rate_bps, placement, cost, plan.proven)


def save(path: Path, experiment: str, demonstrations: Sequence[Demonstration]) -> None:
    """Writes demonstrations as a compressed `.npz`; equal contents give equal bytes."""
    longest = max(len(entry.placement) for entry in demonstrations)
    sites = np.zeros((len(demonstrations), longest), np.uint8)
    for row, entry in zip(sites, demonstrations, strict=True):
        row[: len(entry.placement)] = entry.placement
    members: dict[str, np.ndarray] = {
        "set_index": np.array([entry.set_index for entry in demonstrations], np.int16),
        "graph_index": np.array([entry.graph_index for entry in demonstrations], np.int32),
        "rate_bps": np.array([entry.rate_bps for entry in demonstrations], np.float64),
        "num_tasks": np.array([len(entry.placement) for entry in demonstrations], np.int16),
        "offloaded": np.packbits(sites > 0, axis=1),
        "makespan": np.array([entry.cost for entry in demonstrations], np.float64),
        "proven": np.array([entry.proven for entry in demonstrations], bool),
    }
    if sites.max() > 1:
        members["site"] = sites  # with several servers
    members["metadata"] = np.frombuffer(json.dumps(_metadata(experiment), sort_keys=True).encode(), np.uint8)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in members.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(info, content.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    write_atomically(path, buffer.getvalue())


def _metadata(experiment: str) -> dict[str, Any]:
    return {"experiment": experiment, "seed": SEED, "generator_version": GENERATOR_VERSION, "channel": CHANNEL}


def find(experiment: str, folder: Path | None = None) -> Path:
    """Returns the path of an experiment's demonstrations; by default of the packaged ones."""
    return (data_folder() if folder is None else folder) / f"demonstrations-{experiment}.npz"


def content_hash(path: Path) -> str:
    """Returns the SHA-256 of the file.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return hashlib.sha256(read_regular(path, MOST_BYTES, "a file of make_demonstrations.py")).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; accepted: a file of make_demonstrations.py") from None


def load(path: Path, experiment: str) -> list[Demonstration]:
    """Reads a file that `save` wrote. Whether the plans fit the DAGs is checked by `demonstration_pools`.

    Raises:
        InputError: the file is damaged or of other data; the message names the file and the fault.
    """
    try:
        members = read_npz(path, _check_headers, MOST_BYTES)
        metadata = json.loads(members["metadata"].tobytes())
        sites = members.get("site", np.unpackbits(members["offloaded"], axis=1))
        demonstrations = [
            Demonstration(
                set_index=int(members["set_index"][i]),
                graph_index=int(members["graph_index"][i]),
                rate_bps=float(members["rate_bps"][i]),
                placement=tuple(sites[i, : members["num_tasks"][i]].tolist()),
                cost=float(members["makespan"][i]),
                proven=bool(members["proven"][i]),
            )
            for i in range(len(sites))
        ]
    except Exception as error:  # a damaged file makes zipfile, zlib, numpy and json raise nearly anything
        raise InputError(
            f"{path} cannot be read ({shorten(error, 200)}); accepted: one of make_demonstrations.py"
        ) from None
    if metadata != _metadata(experiment) or not demonstrations:
        raise InputError(f"{path} is of {shorten(metadata, 200)}; accepted: {_metadata(experiment)}")
    families = FAMILIES[experiment]
    for entry in demonstrations:
        known = 0 <= entry.set_index < len(families) and families[entry.set_index].split == "train"
        if not known or entry.graph_index < FIRST_FRESH:
            raise InputError(
                f"{path} has a plan of graph {entry.graph_index} of set {entry.set_index}; accepted: graphs from "
                f"{FIRST_FRESH} on, of training sets"
            )
    return demonstrations


def _check_headers(headers: Mapping[str, ArrayHeader]) -> None:
    """Raises InputError unless a file has the arrays that `save` writes; runs before they are unpacked."""
    if sorted(set(headers) - {"site"}) != sorted((*_DIMENSIONS, "metadata")):
        known = ", ".join((*_DIMENSIONS, "metadata", "and site with several servers"))
        raise InputError(f"holds {shorten(sorted(headers))}; accepted: {known}")
    rows = headers["set_index"].shape[:1]
    dimensions_of = {**_DIMENSIONS, **({"site": 2} if "site" in headers else {})}
    for name, dimensions in dimensions_of.items():
        shape = headers[name].shape
        if len(shape) != dimensions or shape[:1] != rows:
            raise InputError(f"{name} has shape {shape}; accepted: {dimensions} dimensions, as long as set_index")


def demonstration_pools(
    experiment: str, demonstrations: Sequence[Demonstration], network: NetworkConfig, graphs_per_task: int
) -> list[TaskPool]:
    """Builds learning tasks with the plans as `optimum`. All DAGs of a set have the same number of tasks.

    The sets of one number of tasks are of equal size. More plans give more sets, at most `MIXES` for each number of
    tasks. Each kind of system has its own pool; the paper's experiments have one kind.

    A set mixes families and rates in a fixed order, so that an iteration needs only a few sets.

    Args:
        experiment: the experiment of the DAGs.
        demonstrations: the plans. A policy that chooses the order gets the look-ahead's plans of the same DAGs instead.
        network: defines how DAGs are encoded, and what an action is.
        graphs_per_task: least number of DAGs in a set.

    Raises:
        InputError: a plan's cost differs from the simulator's, or there are too few plans of some number of tasks for a
            set.
    """
    kinds = by_kind(demonstrations, lambda entry: entry.system(experiment))
    return [_pool_of_kind(experiment, entries, network, graphs_per_task) for entries in kinds]


def _pool_of_kind(
    experiment: str, demonstrations: Sequence[Demonstration], network: NetworkConfig, graphs_per_task: int
) -> TaskPool:
    rates = {rate: place for place, rate in enumerate(dict.fromkeys(entry.rate_bps for entry in demonstrations))}
    by_rate = sorted(demonstrations, key=lambda entry: rates[entry.rate_bps])
    everything = jax.tree.map(np.asarray, _task(experiment, by_rate, network))
    sizes = np.array([len(entry.placement) for entry in by_rate])
    kinds, counts = np.unique(sizes, return_counts=True)
    if counts.min() < graphs_per_task:
        raise InputError(
            f"demonstrations of {experiment} have {counts.min()} plans of {kinds[counts.argmin()]} tasks; accepted: at "
            f"least graphs_per_task = {graphs_per_task}"
        )
    each = int(counts.min()) // min(MIXES, int(counts.min()) // graphs_per_task)
    mixes = [min(MIXES, int(count) // each) for count in counts]
    shuffled = np.random.default_rng(0).permutation(len(sizes))
    chosen = [
        shuffled[sizes[shuffled] == kind][: count * each].reshape(count, 1, each)
        for kind, count in zip(kinds, mixes, strict=True)
    ]
    tasks = jax.tree.map(lambda leaf: jnp.asarray(leaf[np.concatenate(chosen)]), everything)
    sizes_of_sets = tuple(int(kind) for kind, count in zip(kinds, mixes, strict=True) for _ in range(count))
    return jax.block_until_ready(TaskPool(tasks, sizes_of_sets))


def _task(experiment: str, demonstrations: Sequence[Demonstration], network: NetworkConfig) -> LearningTask:
    graphs = [entry.graph(experiment) for entry in demonstrations]
    systems = [entry.system(experiment) for entry in demonstrations]
    objectives = [entry.objective(experiment) for entry in demonstrations]
    task = learning_task(graphs, systems, network, objective=objectives)
    actions = np.zeros(task.dags.mask.shape, np.int32)
    for row, order, entry in zip(actions, np.asarray(task.dags.order), demonstrations, strict=True):
        placement = np.array(entry.placement, np.int32)
        row[: len(placement)] = placement[order[: len(placement)]]
    costs = np.asarray(_costs(task.dags, actions))
    for entry, found in zip(demonstrations, costs, strict=True):
        if not abs(found - entry.cost) <= SAME * entry.cost:
            raise InputError(
                f"the plan of graph {entry.graph_index} of set {entry.set_index} takes {found} s by the simulator, and "
                f"{entry.cost} s as it is stored; accepted: demonstrations of this version of the package"
            )
    if network.in_order:
        return task._replace(optimum=jnp.asarray(actions))
    return task._replace(optimum=_in_own_order(task.dags))


@jax.jit
def _costs(dags: DagArrays, actions: jax.Array) -> jax.Array:
    return jax.vmap(lambda dag, sites: cost(dag, run(dag, sites)[0]))(dags, actions)


@jax.jit
def _in_own_order(dags: DagArrays) -> jax.Array:
    """Returns the look-ahead's plans as actions of a policy that chooses the order.

    Every DAG gets such a plan. A mixture with optima of the priority order would teach the policy two ways to order.
    """
    free = jax.lax.map(best_outcome_of_ready, dags, batch_size=PLANNED_AT_ONCE)
    return pack_actions(free.positions, free.actions, dags.num_sites)
