"""Federated meta-training (Fig. 3): what a UE computes, what the server accepts, and the outer step over all of them.

A round is one iteration of Algorithm 1. Each learning task of its meta-batch belongs to one UE, which alone has the
DAGs: UE i has training set i. The server sends theta (a), each UE of the meta-batch runs the inner loop (b) and sends
theta' (c), and the server takes the outer step once all of them have answered (d). Every key derives from the seed, the
round and the learning task, as in `learning.outer`, so that a round that is asked for again has the same answers, and
the parameters are those of `meta_iteration` in one process.

Nothing here knows how messages travel: `federated_server` and `federated_client` are the two ends of that. A message
is what `codec` packs; a UE signs its answers with the key that it shares with the server.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mrlato_jax.config import ExecutionConfig, LearningConfig, NetworkConfig, TrainConfig
from mrlato_jax.dag import dataset as datasets
from mrlato_jax.dag.dataset import DagDataset
from mrlato_jax.edge import codec
from mrlato_jax.errors import InputError, check_number, check_type, shorten
from mrlato_jax.files import load_json, parse_json
from mrlato_jax.learning.flat import flat, unflat
from mrlato_jax.learning.inner import InnerMetrics
from mrlato_jax.learning.learning_task import LearningTask, learning_task, stack, stack_alike, take, trim
from mrlato_jax.learning.losses import LossMetrics
from mrlato_jax.learning.meta_batch import MetaBatch, TaskPool, check_meta_batch, meta_batches, padded_sizes
from mrlato_jax.learning.outer import (
    REPTILE,
    LearnerState,
    MetaMetrics,
    adapt_tasks,
    init_state,
    iteration_program,
    outer_update,
)
from mrlato_jax.learning.rollout import init_params
from mrlato_jax.training import checkpoint
from mrlato_jax.training.experiments import check_room, objective_of, sets_by_kind, systems_of, training_pools
from mrlato_jax.training.loop import flatten
from mrlato_jax.training.run_folder import checkpoint_meta

TASK_AXIS = "map"  # a UE has one learning task at a time
MOST_REFUSED = 10  # answers of one UE in one round, after which the round cannot end
MOST_SLOPE = 10.0  # root mean square of a gradient that is still believed
ROOM = 1.01  # of the bound of the norm: rounding
KEY_BYTES = 32
ACCEPTED_UPDATES = (*REPTILE, "fomaml", "maml")

REFUSALS = {
    "unreadable": "no answer that `packed` made",
    "unknown_node": "no UE of the federation, or a signature that is not that UE's",
    "stale_round": "of another round, or begun from another theta",
    "doubled": "of a UE that has answered in this round",
    "not_asked": "of a UE that has no learning task in this round, or that says so wrongly",
    "tree": "arrays of other names",
    "shape": "an array of another shape",
    "dtype": "an array of another type",
    "not_finite": "NaN or infinity among the numbers",
    "norm": "an update larger than its bound",
    "failed": "an error of the UE's program in place of an answer",
}

FAULTS = ("nan", "infinity", "tree", "shape", "dtype", "norm", "stale", "stranger", "late", "poison")

AGGREGATIONS = {"mean": 1, "median": 3, "trimmed_mean": 5}  # and the UEs of a round from which each makes a difference
TRIMMED = 0.2  # of the UEs, at either end: as Flower's `FedTrimmedAvg`

Arrays = Mapping[str, np.ndarray]
METRICS = (
    *("latency_ms", "heft_ms", "value_explained"),
    *LossMetrics._fields,
)  # of a round, as `loop.flatten` names them


class Fault(NamedTuple):
    """What a UE does wrong, once, to see what comes of it."""

    round: int
    ue: int
    what: str  # of FAULTS


@dataclasses.dataclass(frozen=True)
class Federation:
    """What the server and every UE know.

    Attributes:
        config: the settings; `iterations` are the rounds, `meta_batch` how many UEs take part in one.
        ues: how many UEs there are; they have the first training sets of the data.
        data: folder of the data set; None for the one that comes with the package.
        norm_bound: largest norm of an update; 0 for the one that follows from the settings.
        patience_s: seconds that a UE may take before it is asked again.
        poll_s: seconds from one look for messages to the next.
        faults: what UEs do wrong.
        aggregation: what (29) is over: the UEs' updates, or number by number their median or trimmed mean.
    """

    config: TrainConfig
    ues: int
    data: str | None = None
    norm_bound: float = 0.0
    patience_s: float = 60.0
    poll_s: float = 0.2
    faults: tuple[Fault, ...] = ()
    aggregation: str = "mean"

    def __post_init__(self) -> None:
        check_type("config", self.config, TrainConfig)
        check_number("ues", self.ues, low=1, integer=True)
        check_number("norm_bound", self.norm_bound, low=0.0)
        check_number("patience_s", self.patience_s, low=0.0, open_low=True)
        check_number("poll_s", self.poll_s, low=0.01)
        learning, config = self.config.learning, self.config
        if learning.meta_update not in ACCEPTED_UPDATES:
            raise InputError(
                f"meta_update is {learning.meta_update}, whose UEs would meet after every gradient step; accepted: "
                f"{', '.join(ACCEPTED_UPDATES)}"
            )
        if learning.learn_from == "optimum":
            raise InputError("learn_from is optimum, and UEs have no demonstrations; accepted: samples, deviations")
        if config.warm_start_config is not None:
            raise InputError(
                f"warm_start_iterations is {config.warm_start_iterations}, and UEs have no demonstrations; accepted: 0"
            )
        check_meta_batch(learning.meta_batch, self.ues)
        if self.aggregation not in AGGREGATIONS:
            raise InputError(f"aggregation is {shorten(self.aggregation)}; accepted: {', '.join(AGGREGATIONS)}")
        if learning.meta_batch < AGGREGATIONS[self.aggregation]:
            raise InputError(
                f"aggregation is {self.aggregation} over {learning.meta_batch} UEs; accepted: "
                f"{', '.join(name for name, least in AGGREGATIONS.items() if learning.meta_batch >= least)}, or a "
                f"meta_batch of at least {AGGREGATIONS[self.aggregation]}"
            )
        for fault in self.faults:
            if fault.what not in FAULTS or not 0 <= fault.ue < self.ues or fault.round < 1:
                raise InputError(
                    f"fault is {fault.round}:{fault.ue}:{shorten(fault.what)}; accepted: a round from 1, a UE from 0 "
                    f"to {self.ues - 1}, and one of {', '.join(FAULTS)}"
                )

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**values, "config": self.config.to_json(), "faults": [list(fault) for fault in self.faults]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Federation:
        """Builds the record from `to_json`'s output; raises InputError where it is something else."""
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names:
            raise InputError(f"federation has {shorten(sorted(values))}; accepted: {sorted(names)}")
        config = TrainConfig.from_json(values["config"])
        return cls(**{**values, "config": config, "faults": tuple(Fault(*fault) for fault in values["faults"])})

    @classmethod
    def read(cls, path: Path) -> Federation:
        """The record that is in a file as JSON; raises InputError as `from_json` and `load_json`."""
        return cls.from_json(load_json(path, "what launch/federated.py wrote"))

    def dataset(self) -> DagDataset:
        """The data set, checked for what a federation needs.

        Raises:
            InputError: fewer training sets than UEs, several kinds of systems, or as `check_room`.
        """
        dataset = datasets.load(self.config.experiment, self.data and Path(self.data))
        learning = self.config.learning
        kinds = sets_by_kind(dataset, self.config.channel)
        if len(kinds) > 1:
            raise InputError(
                f"experiment is {dataset.name}, which has {len(kinds)} kinds of systems; accepted: one kind, as in "
                "exp1, exp2 and exp3"
            )
        if self.ues > len(kinds[0]):
            raise InputError(f"ues is {self.ues}; accepted: at most {len(kinds[0])}, one for each training set")
        check_number("graphs_per_task", learning.graphs_per_task, low=1, high=dataset.graphs_per_set, integer=True)
        check_room(dataset, self.config.network)
        return dataset


class Setting(NamedTuple):
    """What the server and the UEs know of the learning tasks without having them."""

    sets: tuple[int, ...]  # of each UE, in the data set
    sizes: tuple[int, ...]  # of each UE's largest DAG
    positions: int  # that `meta_iteration` pads all training sets to
    variants: int  # systems that a set may be met under


def setting_of(federation: Federation, dataset: DagDataset) -> Setting:
    """Which training set each UE has, and how large it is."""
    config = federation.config
    every = sets_by_kind(dataset, config.channel)[0]
    largest = tuple(int(dataset.task_mask[index].sum(axis=-1).max()) for index in every)
    sets, sizes = tuple(every[: federation.ues]), largest[: federation.ues]
    return Setting(sets, sizes, max(largest), len(systems_of(dataset, sets[0], config.channel)))


def draw_round(federation: Federation, setting: Setting, done: int) -> MetaBatch:
    """The learning tasks of the round after `done` rounds, as `meta_iteration` draws them; `set` says whose they are.

    Server and UEs draw them alike: they follow from the seed and the round.
    """
    run_key = jax.random.split(jax.random.key(federation.config.seed))[1]  # as in `init_state`
    shape = (federation.ues, setting.variants)
    nothing = LearningTask(None, np.zeros((*shape, 0, 0, 0)), None)  # type: ignore[arg-type]
    keys = jax.random.fold_in(run_key, done)[None]
    return _draw(federation.config.learning, TaskPool(nothing, setting.sizes), keys)


@partial(jax.jit, static_argnames="learning")
def _draw(learning: LearningConfig, pool: TaskPool, keys: jax.Array) -> MetaBatch:
    return meta_batches(pool, learning, keys)


def named(tree: Any) -> dict[str, np.ndarray]:
    """A network's arrays by name, on the host."""
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(tree, sep="/").items()}


def params_sha256(arrays: Arrays) -> str:
    """One text for equal arrays: of their names, types, shapes and bits."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def check_arrays(arrays: Any, like: Arrays) -> str | None:
    """Why arrays cannot be those of the network, as a name in REFUSALS; None where they can.

    Args:
        arrays: what somebody sent in their place.
        like: the network's.
    """
    if not isinstance(arrays, dict) or arrays.keys() != like.keys():
        return "tree"
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        return "tree"
    if any(arrays[name].shape != array.shape for name, array in like.items()):
        return "shape"
    if any(arrays[name].dtype != array.dtype for name, array in like.items()):
        return "dtype"
    if not all(np.isfinite(array).all() for array in arrays.values()):
        return "not_finite"
    return None


def update_norm(arrays: Arrays, start: Arrays | None) -> float:
    """The norm of arrays, or of what they are beyond `start`."""
    total = 0.0
    for name, array in arrays.items():
        moved = array.astype(np.float64) - (0.0 if start is None else start[name].astype(np.float64))
        total += float(np.square(moved).sum())
    return math.sqrt(total)


def norm_bound(learning: LearningConfig, numbers: int) -> float:
    """The largest norm of an honest UE's update.

    Of theta' - theta it is proven: a step of Adam moves a number by alpha times a quotient of two weighted means of the
    gradients so far, which Cauchy and Schwarz bound. Of a gradient it is `MOST_SLOPE` a number.

    Args:
        learning: alpha, m, and what a UE sends.
        numbers: of the network.
    """
    if learning.meta_update not in REPTILE:
        return MOST_SLOPE * math.sqrt(numbers)
    steps = 0.0
    for step in range(1, learning.inner_steps + 1):
        first, second = (
            [(1 - beta) * beta ** (step - 1 - i) / (1 - beta**step) for i in range(step)] for beta in (0.9, 0.999)
        )
        steps += math.sqrt(sum(a * a / b for a, b in zip(first, second, strict=True)))
    return ROOM * learning.inner_lr * steps * math.sqrt(numbers)


def bound_of(federation: Federation, like: Arrays) -> float:
    """The largest norm of an update that the server accepts.

    Args:
        federation: whose settings say it.
        like: the network's arrays.
    """
    numbers = sum(array.size for array in like.values())
    return federation.norm_bound or norm_bound(federation.config.learning, numbers)


def robust(aggregation: str, visited: np.ndarray) -> np.ndarray:
    """What UEs sent, with each row replaced by the middle of all, number by number; `mean` leaves it as it is.

    (29) is then over equal rows. A UE whose numbers are far off moves a median or a trimmed mean little.

    Args:
        aggregation: a name in AGGREGATIONS.
        visited: a row for each UE.
    """
    if aggregation == "mean":
        return visited
    if aggregation == "median":
        middle = np.median(visited, axis=0)
    else:
        from flwr.serverapp.strategy.fedtrimmedavg import trim_mean

        middle = trim_mean(visited, TRIMMED)
    return np.broadcast_to(middle.astype(visited.dtype), visited.shape)


# ---- keys and signatures


def new_keys(ues: int) -> list[bytes]:
    """A secret key for each UE."""
    return [secrets.token_bytes(KEY_BYTES) for _ in range(ues)]


def signed(ue: int, key: bytes, body: Mapping[str, Any]) -> bytes:
    """An answer of a UE."""
    data = codec.packed(dict(body))
    return codec.packed({"ue": ue, "body": data, "signature": _signature(key, ue, data)})


def _signature(key: bytes, ue: int, data: bytes) -> bytes:
    return hmac.digest(key, b"%d:" % ue + data, "sha256")


def opened(data: bytes, keys: Sequence[bytes], most_bytes: int) -> tuple[int | None, Any, str | None]:
    """Who answered, what, and why that is refused; the body is read only once the signature is the UE's.

    Args:
        data: from anyone.
        keys: of the UEs.
        most_bytes: that an answer may have.
    """
    try:
        outer = codec.unpacked(data, most_bytes)
        ue, body, signature = outer["ue"], outer["body"], outer["signature"]
    except (InputError, TypeError, KeyError, ValueError):
        return None, None, "unreadable"
    if not (type(ue) is int and isinstance(body, bytes) and isinstance(signature, bytes)):
        return None, None, "unreadable"
    if not 0 <= ue < len(keys) or not hmac.compare_digest(signature, _signature(keys[ue], ue, body)):
        return None, None, "unknown_node"
    try:
        return ue, codec.unpacked(body, most_bytes), None
    except InputError:
        return ue, None, "unreadable"


# ---- the UE


class LocalTrainer:
    """The paper's local trainer: the inner loop on the learning task of one UE, from the theta that it was sent."""

    def __init__(self, federation: Federation, ue: int, key: bytes) -> None:
        """Reads the UE's training set, and no other.

        Raises:
            InputError: as `Federation.dataset`; or no such UE.
        """
        check_number("ue", ue, low=0, high=federation.ues - 1, integer=True)
        self._federation, self._ue, self._key = federation, ue, key
        dataset = federation.dataset()
        self._setting = setting_of(federation, dataset)
        self._pool = own_pool(federation.config, dataset, self._setting, ue)
        self._like = network_arrays(federation.config.network)
        self._done_wrong: set[Fault] = set()

    def answer(self, data: bytes) -> bytes:
        """What the UE sends for a message of the server.

        Raises:
            InputError: the message is none of this federation's server.
        """
        message = codec.unpacked(data)
        if not isinstance(message, dict) or set(message) != {"round", "arrays"}:
            raise InputError(f"message has {shorten(message)}; accepted: round and arrays")
        check_number("round", message["round"], low=1, integer=True)
        number, arrays = message["round"], message["arrays"]
        if wrong := check_arrays(arrays, self._like):
            raise InputError(f"theta of round {number} has {REFUSALS[wrong]}; accepted: finite arrays of the network")
        body: dict[str, Any] = {"round": number, "start": params_sha256(arrays), "arrays": None, "metrics": None}
        batch = draw_round(self._federation, self._setting, number - 1)
        own = np.flatnonzero(np.asarray(batch.set) == self._ue)
        if own.size:
            body |= self._trained(arrays, jax.tree.map(lambda leaf: leaf[own], batch))
        for fault in self._federation.faults:
            if fault[:2] == (number, self._ue) and fault not in self._done_wrong:
                self._done_wrong.add(fault)
                return self._wrong(fault.what, body, arrays)
        return signed(self._ue, self._key, body)

    def _trained(self, arrays: Arrays, batch: MetaBatch) -> dict[str, Any]:
        """The inner loop on the one learning task of `batch`."""
        config = self._federation.config
        theta = unflatten_dict({name: jnp.asarray(array)[None] for name, array in arrays.items()}, sep="/")
        batch = batch._replace(set=jnp.zeros_like(batch.set))  # the pool has this set alone
        visited, metrics = _adapt(config.network, config.learning, theta, self._pool, batch)
        values = flatten(MetaMetrics(InnerMetrics(*take(metrics, 0)), jnp.zeros(())))
        del values["update_norm"]  # of the outer step
        return {"arrays": named(unflat(visited[0], take(theta, 0))), "metrics": values}

    def _wrong(self, what: str, body: dict[str, Any], theta: Arrays) -> bytes:
        """An answer that the server must refuse, or a late one, or one that it cannot tell from an honest one."""
        ue, key = self._ue, self._key
        if what == "late":
            time.sleep(2 * self._federation.patience_s)
        elif what == "stale":
            body["round"] -= 1
        elif what == "stranger":
            key = secrets.token_bytes(KEY_BYTES)
        elif what == "poison":
            body["arrays"] = self._poisoned(body["arrays"], theta)
        else:
            arrays = dict(body["arrays"])
            name = next(iter(arrays))
            if what == "tree":
                arrays[name + "s"] = arrays.pop(name)
            else:
                arrays[name] = {
                    "nan": lambda array: np.full_like(array, np.nan),
                    "infinity": lambda array: np.full_like(array, np.inf),
                    "shape": lambda array: array[None],
                    "dtype": lambda array: array.astype(np.float64),
                    "norm": lambda array: array + 1e6,
                }[what](arrays[name])
            body["arrays"] = arrays
        return signed(ue, key, body)

    def _poisoned(self, arrays: Arrays, theta: Arrays) -> Arrays:
        """What the UE learned, but the smallest array is as far off as the server accepts."""
        start = theta if self._federation.config.learning.meta_update in REPTILE else None
        name = min(arrays, key=lambda name: arrays[name].size)
        honest = dict(arrays, **{name: np.zeros_like(arrays[name]) if start is None else start[name]})
        bound = bound_of(self._federation, self._like) / ROOM
        room = math.sqrt(max(bound**2 - update_norm(honest, start) ** 2, 0.0))
        return {**honest, name: honest[name] + np.float32(room / math.sqrt(honest[name].size))}


def own_pool(config: TrainConfig, dataset: DagDataset, setting: Setting, ue: int) -> TaskPool:
    """The learning task of one UE under each of its systems.

    It is encoded at the size of the largest training set and then trimmed, as for `meta_iteration`: the encoding's last
    bits follow from that size, and Adam makes much of a gradient's last bits where it is nearly 0.
    """
    sizes, size_of_set = padded_sizes(setting.sizes)
    size, index = sizes[size_of_set[ue]], setting.sets[ue]
    graphs, goal = dataset.graphs(index), objective_of(dataset, index)
    systems = systems_of(dataset, index, config.channel)
    variants = [learning_task(graphs, system, config.network, setting.positions, goal) for system in systems]
    return TaskPool(jax.block_until_ready(trim(stack_alike([stack(variants)]), size)), (size,))


def network_arrays(network: NetworkConfig) -> dict[str, np.ndarray]:
    """The names, shapes and types of a network's arrays; all zero."""
    shapes = jax.eval_shape(partial(init_params, network), jax.random.key(0))
    return {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in flatten_dict(shapes, sep="/").items()}


@partial(jax.jit, static_argnames=("network", "learning"))
def _adapt(
    network: NetworkConfig, learning: LearningConfig, params: Any, pool: TaskPool, batch: MetaBatch
) -> tuple[jax.Array, InnerMetrics]:
    return adapt_tasks(network, learning, TASK_AXIS, params, pool, batch)


# ---- the server


class Verdict(NamedTuple):
    """What the server makes of an answer."""

    ue: int | None  # whose it is; None where nobody knows
    refused: str | None  # a name in REFUSALS; None where it is accepted, or where a UE rightly has nothing to send


class GlobalTrainer:
    """The paper's global trainer: what it accepts of an answer, the outer step (29), and the state between rounds.

    The state is one file, written whole after each round: parameters, the optimiser's state, the round, and the record
    of all rounds. A server that is killed goes on with the round that it was in.
    """

    def __init__(self, federation: Federation, folder: Path, keys: Sequence[bytes]) -> None:
        """Begins, or goes on with what is in `folder`.

        Args:
            federation: what all know.
            folder: of the state; made if missing.
            keys: of the UEs.

        Raises:
            InputError: as `Federation.dataset`; or the folder holds the state of another federation.
        """
        if len(keys) != federation.ues:
            raise InputError(f"keys are {len(keys)}; accepted: {federation.ues}, one for each UE")
        config = federation.config
        dataset = federation.dataset()
        self.federation, self._folder, self._keys = federation, Path(folder), list(keys)
        self._setting = setting_of(federation, dataset)
        self._meta = {**checkpoint_meta(config, dataset.content_hash), "ues": federation.ues}
        self._meta["aggregation"] = federation.aggregation
        self.state = init_state(config.network, config.learning, config.seed)
        self.rounds: list[dict[str, Any]] = []
        self.refused = dict.fromkeys(REFUSALS, 0)
        restored = checkpoint.restore(self._folder, self.state._asdict(), self._meta)
        if restored is not None:
            self.state = LearnerState(**restored.tree)
            self.rounds, self.refused = restored.meta["rounds"], restored.meta["refused"]
        self._like = network_arrays(config.network)
        self._bound = bound_of(federation, self._like)
        # Names, numbers and as much again for what is around them; a message is refused by its size before it is read.
        self.most_bytes = 2 * sum(array.nbytes + len(name) + 64 for name, array in self._like.items()) + 2**16
        self._begin()

    def _begin(self) -> None:
        """Draws the next round."""
        self._batch = draw_round(self.federation, self._setting, self.done)
        self.asked = [int(ue) for ue in self._batch.set]  # the UEs of this round, in the order of the meta-batch
        self._answers: dict[int, tuple[Arrays, dict[str, float]]] = {}
        self._bad: dict[int, int] = {}
        self._theta = named(self.state.params)
        self._start = params_sha256(self._theta)

    @property
    def done(self) -> int:
        """Rounds that are done."""
        return int(self.state.iteration)

    @property
    def round(self) -> int:
        """The round that is under way, from 1."""
        return self.done + 1

    @property
    def finished(self) -> bool:
        """Whether all rounds are done."""
        return self.done >= self.federation.config.iterations

    @property
    def missing(self) -> set[int]:
        """UEs that have yet to answer in this round."""
        return set(self.asked) - self._answers.keys()

    @property
    def params(self) -> dict[str, np.ndarray]:
        """Theta by name."""
        return dict(self._theta)

    def message(self) -> bytes:
        """What every UE is sent in this round."""
        return codec.packed({"round": self.round, "arrays": self._theta})

    def offer(self, data: bytes) -> Verdict:
        """Looks at an answer, and keeps it where it is accepted; else counts why not.

        Raises:
            InputError: a UE's answers to this round were refused `MOST_REFUSED` times, so that it cannot end.
        """
        ue, body, wrong = opened(data, self._keys, self.most_bytes)
        wrong = wrong or self._judge(ue, body)
        if wrong is not None:
            self.count(wrong, ue)
            return Verdict(ue, wrong)
        if ue is not None and body["arrays"] is not None:
            self._answers[ue] = body["arrays"], body["metrics"]
        return Verdict(ue, None)

    def count(self, wrong: str, ue: int | None = None) -> None:
        """Counts an answer that was refused.

        Raises:
            InputError: as `offer`.
        """
        self.refused[wrong] += 1
        if ue is None or wrong in ("stale_round", "doubled") or ue not in self.missing:
            return
        self._bad[ue] = self._bad.get(ue, 0) + 1
        if self._bad[ue] >= MOST_REFUSED:
            raise InputError(
                f"UE {ue} sent {self._bad[ue]} answers in round {self.round} that cannot be used, the last one with "
                f"{REFUSALS[wrong]}; accepted: finite arrays of the network within the bound {self._bound:g} (where "
                "training diverged, try a lower inner_lr or outer_lr)"
            )

    def _judge(self, ue: int | None, body: Any) -> str | None:
        if not isinstance(body, dict) or set(body) != {"round", "start", "arrays", "metrics"}:
            return "unreadable"
        if body["round"] != self.round or body["start"] != self._start:
            return "stale_round"
        if body["arrays"] is None:  # the UE says that it has no learning task in this round
            return "not_asked" if ue in self.asked else None
        if ue not in self.asked:
            return "not_asked"
        if ue in self._answers:
            return "doubled"
        wrong = check_arrays(body["arrays"], self._like)
        if wrong is not None:
            return wrong
        metrics = body["metrics"]
        if not isinstance(metrics, dict) or set(metrics) != set(METRICS):
            return "unreadable"
        if not all(isinstance(value, float) and math.isfinite(value) for value in metrics.values()):
            return "not_finite"
        start = self._theta if self.federation.config.learning.meta_update in REPTILE else None
        return "norm" if update_norm(body["arrays"], start) > self._bound else None

    def finish(self, seconds: float, sent: int) -> dict[str, Any]:
        """The outer step over all answers of the round; the state afterwards is on the disk.

        Args:
            seconds: that the round took.
            sent: messages that it took.

        Returns:
            The record of the round.

        Raises:
            InputError: a UE has yet to answer.
        """
        if self.missing:
            raise InputError(
                f"UEs {sorted(self.missing)} have not answered; accepted: answers of all, (29) is over all"
            )
        learning = self.federation.config.learning
        answers = [self._answers[ue] for ue in self.asked]
        # Flat in the order of the tree's leaves, which is not that of the names.
        trees = [unflatten_dict(dict(arrays), sep="/") for arrays, _ in answers]
        visited = robust(self.federation.aggregation, np.stack([flat(tree) for tree in trees]))
        self.state, norm = aggregate(learning, self.state, jnp.asarray(visited), self._batch)
        means = {name: math.fsum(values[name] for _, values in answers) / len(answers) for name in METRICS}
        record = {"round": self.done, "ues": sorted(self.asked), "seconds": seconds, "sent": sent}
        record |= means | {"update_norm": float(norm)}
        self.rounds.append(record)
        self.save()
        self._begin()
        return record

    def save(self) -> None:
        """Writes the state whole, or not at all."""
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        meta = {**self._meta, "rounds": self.rounds, "refused": self.refused}
        checkpoint.save(self._folder, self.done, self.state._asdict(), meta)

    def report(self) -> dict[str, Any]:
        """What a run ends with."""
        return {"rounds": self.rounds, "refused": self.refused, "params_sha256": params_sha256(self._theta)}


def aggregate(
    learning: LearningConfig, state: LearnerState, visited: jax.Array, batch: MetaBatch
) -> tuple[LearnerState, jax.Array]:
    """Algorithm 1, line 9, over what the UEs of a round sent, `flat` and in the order of the meta-batch.

    Returns:
        The state after the round, and the norm of the step.
    """
    params, opt_state, norm = _aggregate(learning, stack([state]), visited, batch)
    after = LearnerState(take(params, 0), take(opt_state, 0), state.iteration + 1, state.key)
    return jax.block_until_ready(after), norm[0]


@partial(jax.jit, static_argnames="learning")
def _aggregate(
    learning: LearningConfig, states: LearnerState, visited: jax.Array, batch: MetaBatch
) -> tuple[Any, Any, jax.Array]:
    params, opt_states = outer_update(learning, states, visited, batch)
    moved = flat(params, 1) - flat(states.params, 1)
    return params, opt_states, jnp.linalg.norm(moved, axis=-1)


def to_ask(
    online: Collection[int],
    known: Mapping[int, int],
    missing: Collection[int],
    asked: Mapping[int, float],
    now: float,
    patience_s: float,
) -> list[int]:
    """Which nodes are sent the round's message now.

    A node says which UE it is only in its answers. So nodes that have not answered yet are asked, too.

    Args:
        online: nodes that are there.
        known: of a node that has answered, which UE it is.
        missing: UEs that have yet to answer.
        asked: of a node that was asked in this round, when that was.
        now: on the same clock.
        patience_s: after which a node that has not answered is asked again.
    """
    wanted = [node for node in online if node not in known or known[node] in missing]
    return [node for node in wanted if node not in asked or now - asked[node] >= patience_s]


# ---- the same in one process


def in_one_process(federation: Federation, rounds: int | None = None) -> LearnerState:
    """The learner after all rounds, or after so many, by `meta_iteration` on one device."""
    config = federation.config
    pool = training_pools(federation.dataset(), config.network, config.channel)[0]
    own = jax.tree.map(lambda leaf: leaf[: federation.ues], pool.learning_tasks)
    pool = TaskPool(own, pool.sizes[: federation.ues])
    execution = ExecutionConfig(parallel="single", num_devices=1, task_axis=TASK_AXIS, metrics_every=1)
    program = iteration_program(config.network, config.learning, execution)
    states = stack([init_state(config.network, config.learning, config.seed)])
    for _ in range(config.iterations if rounds is None else rounds):
        states, _ = program(states, pool)
    return take(jax.block_until_ready(states), 0)


def largest_difference(arrays: Arrays, others: Arrays) -> float:
    """The largest difference of any number of two networks of the same shape."""
    return max(float(np.abs(array - others[name]).max()) for name, array in arrays.items())


def read_keys(path: Path, ues: int) -> list[bytes]:
    """The keys of the UEs, as `write_keys` has them; raises InputError where it is something else."""
    try:
        values = parse_json(path.read_bytes(), str(path), "keys of the UEs", list)
        keys = [bytes.fromhex(value) for value in values]
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{path} has no usable keys ({shorten(str(error))}); accepted: a list of {ues}") from None
    if len(keys) != ues or any(len(key) != KEY_BYTES for key in keys):
        raise InputError(f"{path} has {len(keys)} keys; accepted: {ues}, each of {KEY_BYTES} bytes")
    return keys
