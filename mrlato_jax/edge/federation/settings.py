"""What the server and every UE of a federation know, and the learning tasks that follow from that."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mrlato_jax.config import LearningConfig, TrainConfig
from mrlato_jax.dag import dataset as datasets
from mrlato_jax.dag.dataset import DagDataset
from mrlato_jax.edge.federation.aggregation import AGGREGATIONS
from mrlato_jax.errors import InputError, check_number, check_type, shorten
from mrlato_jax.files import load_json
from mrlato_jax.learning.learning_task import LearningTask
from mrlato_jax.learning.meta_batch import MetaBatch, TaskPool, check_meta_batch, meta_batches
from mrlato_jax.learning.outer import REPTILE
from mrlato_jax.training.experiments import check_room, sets_by_kind, systems_of

ACCEPTED_UPDATES = (*REPTILE, "fomaml", "maml")
FAULTS = ("nan", "infinity", "tree", "shape", "dtype", "norm", "stale", "stranger", "late", "poison")


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
        if learning.meta_batch < AGGREGATIONS[self.aggregation].least:
            raise InputError(
                f"aggregation is {self.aggregation} over {learning.meta_batch} UEs; accepted: "
                f"{', '.join(name for name, (least, _) in AGGREGATIONS.items() if learning.meta_batch >= least)}, or a "
                f"meta_batch of at least {AGGREGATIONS[self.aggregation].least}"
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
