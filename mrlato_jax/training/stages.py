"""The stages of a run: an optional warm start, which learns theta from demonstrations, then meta-training."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from mrlato_jax.config import ExecutionConfig, TrainConfig
from mrlato_jax.dag.dataset import DagDataset
from mrlato_jax.dag.families import FAMILIES
from mrlato_jax.errors import InputError
from mrlato_jax.learning.devices import drop_programs
from mrlato_jax.learning.meta_batch import TaskPool
from mrlato_jax.learning.outer import LearnerState
from mrlato_jax.learning.ranges import ranges_of
from mrlato_jax.training import checkpoint, demonstrations, hosts
from mrlato_jax.training.demonstrations import Demonstration
from mrlato_jax.training.experiments import kind_of, training_examples, training_pools
from mrlato_jax.training.loop import train
from mrlato_jax.training.run_folder import RunFolder
from mrlato_jax.training.stopping import GracefulStop
from mrlato_jax.training.validation import Validation

WARM_START = "warm_start"  # subfolder of a run: the run whose last theta is this run's first

BEFORE_TRAINING = "stopped before training goes on"


def train_stages(
    runs: Sequence[RunFolder],
    configs: Sequence[TrainConfig],
    dataset: DagDataset,
    stop: GracefulStop,
    checkpoint_every: int = 25,
    execution: ExecutionConfig | None = None,
    data_folder: Path | None = None,
    validation: Validation | None = None,
) -> list[LearnerState] | None:
    """Trains all seeds through all stages, from their last intact checkpoints; a resumed run continues its stage.

    Args:
        runs: one for each of `configs`, opened for writing; empty in all processes but the first.
        configs: the settings of each run; they differ only in the seed.
        dataset: the data set with the training sets.
        stop: as in `train`.
        checkpoint_every: iterations between checkpoints.
        execution: distribution of the work over devices.
        data_folder: folder of the demonstrations; by default the packaged ones.
        validation: as in `train`.

    Returns:
        The learners after the last iteration, or None after a stop.

    Raises:
        InputError: as in `train`; or demonstrations are missing or not of this package version.
    """
    first = configs[0]
    with stop.unburdened(BEFORE_TRAINING), hosts.agreed():
        known = ranges_of(training_examples(dataset, first.channel)) if runs else ()
        for run in runs:
            with stop.writing():
                run.store_ranges(known)
    begun = hosts.from_first(np.asarray(bool(runs) and all(checkpoint.steps(run.checkpoints) for run in runs)))
    initial: list[Any] | None = None
    if first.warm_start_config is not None and not begun:
        initial = _warm_start(runs, configs, dataset.name, stop, checkpoint_every, execution, data_folder, validation)
        if initial is None:
            return None
    if first.learning.learn_from == "optimum":
        with stop.unburdened(BEFORE_TRAINING), hosts.agreed():
            plans = demonstrations.load(demonstrations.find(dataset.name, data_folder), first.experiment)
            pools = _pools(first, plans)
    else:
        with stop.unburdened(BEFORE_TRAINING):
            pools = training_pools(dataset, first.network, first.channel)
    if initial is not None and len(pools) > 1:
        drop_programs()  # of the warm start
    return train(runs, configs, dataset.content_hash, pools, stop, checkpoint_every, execution, initial, validation)


def check_demonstrations(config: TrainConfig, data_folder: Path | None = None) -> None:
    """Raises InputError if a run needs demonstrations, for its warm start or throughout, and there are none."""
    if config.warm_start_config is None and config.learning.learn_from != "optimum":
        return
    if config.experiment not in FAMILIES:  # demonstrations are of fresh DAGs of the training families
        raise InputError(
            f"experiment is {config.experiment}, which has no demonstrations for method {config.method}; accepted: "
            f"{', '.join(FAMILIES)}, or mj.train(sets, system, method={config.method!r}) in Python, which makes "
            "the plans to imitate itself (docs/data.md)"
        )
    demonstrations.content_hash(demonstrations.find(config.experiment, data_folder))


def _warm_start(
    runs: Sequence[RunFolder],
    configs: Sequence[TrainConfig],
    experiment: str,
    stop: GracefulStop,
    checkpoint_every: int,
    execution: ExecutionConfig | None,
    data_folder: Path | None,
    validation: Validation | None,
) -> list[Any] | None:
    """Runs the warm start and returns the initial theta of each seed; None after a stop."""
    warm = [config.warm_start_config for config in configs]
    settings = [config for config in warm if config is not None]
    with stop.unburdened(BEFORE_TRAINING), hosts.agreed():
        path = demonstrations.find(experiment, data_folder)
        content_hash = demonstrations.content_hash(path)
        pools = _pools(settings[0], _as_many_as_met(settings[0], demonstrations.load(path, settings[0].experiment)))
    with ExitStack() as folders:
        opened = []
        with hosts.agreed():
            for run, config in zip(runs, settings, strict=False):
                place = run.path / WARM_START
                opened.append(folders.enter_context(RunFolder.begin(place, config, content_hash, execution)))
        states = train(opened, settings, content_hash, pools, stop, checkpoint_every, execution, None, validation)
    return None if states is None else [state.params for state in states]


def _as_many_as_met(config: TrainConfig, plans: list[Demonstration]) -> list[Demonstration]:
    """Reduces the demonstrations to a random fraction if the warm start is too short to use all of them.

    A run that imitates throughout keeps all, since a resumed run may have more iterations. With several kinds of
    systems, all are kept as well, since each kind is used in only some of the iterations.
    """
    if len({kind_of(plan.system(config.experiment)) for plan in plans}) > 1:
        return plans
    met = config.iterations * config.learning.meta_batch * config.learning.graphs_per_task
    fraction = len(plans) // met
    if fraction <= 1:
        return plans
    return [plans[i] for i in np.random.default_rng(0).permutation(len(plans))[: len(plans) // fraction]]


def _pools(config: TrainConfig, plans: list[Demonstration]) -> list[TaskPool]:
    per_task = config.learning.graphs_per_task
    return demonstrations.demonstration_pools(config.experiment, plans, config.network, per_task)
