"""The settings shared by the server and all UEs of a federation, and the learning tasks that follow from them."""

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
    """An injected fault: a UE misbehaves once, for a test."""

    round: int
    ue: int
    what: str  # a name in FAULTS


@dataclasses.dataclass(frozen=True)
class Federation:
    """The settings shared by the server and all UEs.

    Attributes:
        config: the settings of the training; `iterations` is the number of rounds, `meta_batch` the number of UEs per
            round.
        ues: number of UEs; they have the first training sets of the data.
        data: folder of the data set; None for the packaged one.
        norm_bound: largest accepted norm of an update; 0 derives the bound from the settings.
        patience_s: seconds before a UE is asked again.
        poll_s: seconds between two polls for messages.
        faults: injected faults of UEs.
        aggregation: the aggregation of the UEs' updates in (29): mean, or elementwise median or trimmed mean.
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
        """Builds the record from `to_json`'s output; raises InputError for anything else."""
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names:
            raise InputError(f"federation has {shorten(sorted(values))}; accepted: {sorted(names)}")
        config = TrainConfig.from_json(values["config"])
        return cls(**{**values, "config": config, "faults": tuple(Fault(*fault) for fault in values["faults"])})

    @classmethod
    def read(cls, path: Path) -> Federation:
        """Reads the record from a JSON file; raises InputError as in `from_json` and `load_json`."""
        return cls.from_json(load_json(path, "what launch/federated.py wrote"))

    def dataset(self) -> DagDataset:
        """Loads the data set and checks that a federation can use it.

        Raises:
            InputError: there are fewer training sets than UEs, or several kinds of systems; or as in `check_room`.
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
    """Shared facts about the learning tasks, known without their DAGs."""

    sets: tuple[int, ...]  # index of each UE's training set in the data set
    sizes: tuple[int, ...]  # size of each UE's largest DAG
    positions: int  # padded size of all training sets in `meta_iteration`
    variants: int  # number of systems of a set


def setting_of(federation: Federation, dataset: DagDataset) -> Setting:
    """Returns the training set of each UE and its size."""
    config = federation.config
    every = sets_by_kind(dataset, config.channel)[0]
    largest = tuple(int(dataset.task_mask[index].sum(axis=-1).max()) for index in every)
    sets, sizes = tuple(every[: federation.ues]), largest[: federation.ues]
    return Setting(sets, sizes, max(largest), len(systems_of(dataset, sets[0], config.channel)))


def draw_round(federation: Federation, setting: Setting, done: int) -> MetaBatch:
    """Draws the learning tasks of the round after `done` rounds, as `meta_iteration` does; `set` is the UE's index.

    The draw depends only on the seed and the round, so server and UEs get the same result.
    """
    run_key = jax.random.split(jax.random.key(federation.config.seed))[1]  # as in `init_state`
    shape = (federation.ues, setting.variants)
    nothing = LearningTask(None, np.zeros((*shape, 0, 0, 0)), None)  # type: ignore[arg-type]
    keys = jax.random.fold_in(run_key, done)[None]
    return _draw(federation.config.learning, TaskPool(nothing, setting.sizes), keys)


@partial(jax.jit, static_argnames="learning")
def _draw(learning: LearningConfig, pool: TaskPool, keys: jax.Array) -> MetaBatch:
    return meta_batches(pool, learning, keys)
