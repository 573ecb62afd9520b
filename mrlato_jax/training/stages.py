"""The stages of a run: theta may first be learned from demonstrations, then it is meta-trained."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from mrlato_jax.config import ExecutionConfig, TrainConfig
from mrlato_jax.dag.dataset import DagDataset
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

WARM_START = "warm_start"  # in a run's folder: the run that its first theta is the end of

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
    """Trains all seeds through all stages, from their last whole checkpoints; resumed, it goes on in whichever it was.

    Args:
        runs: one for each of `configs`, opened for writing; none in a process that is not the first.
        configs: the settings of each run, alike but for the seed.
        dataset: whose training sets are learned from.
        stop: as `train` takes it.
        checkpoint_every: iterations from one checkpoint to the next.
        execution: how the work is laid out on devices.
        data_folder: where demonstrations are; by default those that come with the package.
        validation: as `train` takes it.

    Returns:
        The learners after the last iteration, or None where a stop was requested before it.

    Raises:
        InputError: as `train`; or demonstrations that are missing or not this package's.
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
        drop_programs()  # the warm start's
    return train(runs, configs, dataset.content_hash, pools, stop, checkpoint_every, execution, initial, validation)


def check_demonstrations(config: TrainConfig, data_folder: Path | None = None) -> None:
    """Raises InputError where a run is to imitate demonstrations, from the start or throughout, and there are none."""
    if config.warm_start_config is not None or config.learning.learn_from == "optimum":
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
    """The first theta of each seed; None where a stop was requested before."""
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
    """Of demonstrations that a warm start could meet only a fraction of, such a fraction.

    A run that imitates throughout keeps all, since more iterations may be asked of it when it is resumed. All are kept
    also where there are several kinds of systems, each of which is met in a part of the iterations alone.
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
