"""Every learned method on the unseen settings of an experiment: trained where that is missing, adapted, recorded.

Whatever a record says already is not computed again; whatever a run folder holds already is not trained again.
"""

from __future__ import annotations

import dataclasses
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrlato_jax.config import TrainConfig
from mrlato_jax.dag.dataset import DagDataset
from mrlato_jax.errors import InputError
from mrlato_jax.experiments import checkpoint
from mrlato_jax.experiments.evaluation import adapt_to_all, adapt_to_half
from mrlato_jax.experiments.progress import Progress, percent
from mrlato_jax.experiments.record import GrowingRecord
from mrlato_jax.experiments.run_folder import GracefulStop, RunFolder, StoppedError, read_metrics, seed_path, session
from mrlato_jax.experiments.settings import TestSetting, training_pool
from mrlato_jax.experiments.training import train
from mrlato_jax.learning.adaptation import Adaptation
from mrlato_jax.methods import Offloader, label

TRAINING = "training"  # the row of a record that is of no setting
CURVE_POINTS = 100
ALL, HALF, PLANNING = "all", "half", "planning"
PARTS = (ALL, HALF, PLANNING)
"""What is recorded on each setting: adapting to all of its DAGs and measuring on them, as the paper does; adapting to
half of them and measuring on the other half (of more than one); and the seconds of planning one DAG at a time."""


def learned_record(
    path: Path, config: TrainConfig, dataset: DagDataset, settings: Sequence[TestSetting], updates: int
) -> GrowingRecord:
    """The record of one method and seed, begun or continued.

    Raises:
        InputError: a record of other settings, data or code.
    """
    identity = {
        "method": label(config),
        "config": config.to_json(),
        "data_hash": dataset.content_hash,
        "settings": [setting.name for setting in settings],
        "updates": updates,
        "version": session()["versions"]["mrlato_jax"],
    }
    return GrowingRecord(path, identity)


def missing(record: GrowingRecord, settings: Sequence[TestSetting]) -> list[tuple[int, str]]:
    """What is still to be measured: indices of settings, and the part."""
    return [
        (index, part)
        for index, setting in enumerate(settings)
        for part in PARTS
        if part not in record.rows.get(setting.name, {}) and not (part == HALF and len(setting.graphs) < 2)
    ]


def trained(
    root: Path, configs: Sequence[TrainConfig], dataset: DagDataset, stop: GracefulStop, checkpoint_every: int = 25
) -> list[Offloader] | None:
    """The trained policy of each seed, from its run folder `root`/seed<number>; what is missing there is trained.

    Seeds that were begun go on together, and those that were not begin together.

    Returns:
        None where a stop was requested before the end.

    Raises:
        InputError: a run of other settings or data.
    """
    paths = {config.seed: seed_path(root, config.seed) for config in configs}
    begun = [config for config in configs if RunFolder.begun(paths[config.seed])]
    unfinished = []
    for config in begun:
        run = RunFolder.open(paths[config.seed])
        run.check_resumable(config, dataset.content_hash)
        if checkpoint.newest_step(run.checkpoints) != config.iterations:
            unfinished.append(config)
    groups = [unfinished, [config for config in configs if config not in begun]]
    for group in filter(None, groups):
        pool = training_pool(dataset, group[0].policy, group[0].channel)
        with ExitStack() as folders:
            runs = []
            for config in group:
                begin = RunFolder.resume if config in begun else RunFolder.create
                runs.append(folders.enter_context(begin(paths[config.seed], config, dataset.content_hash)))
            if train(runs, group, dataset.content_hash, pool, stop, checkpoint_every) is None:
                return None
    return [_policy(paths[config.seed], config) for config in configs]


def _policy(path: Path, config: TrainConfig) -> Offloader:
    found = checkpoint.read_params(RunFolder.open(path).checkpoints)
    if found.step != config.iterations:
        raise InputError(f"run {path} ends after {found.step} iterations; accepted: {config.iterations}")
    params = jax.tree.map(jax.numpy.asarray, found.tree)
    return Offloader(config.policy, params, label(config), found.step, config.learning)


def training_summary(run: RunFolder, config: TrainConfig) -> dict[str, Any]:
    """What a record keeps of a training: its cost, and its curves in at most `CURVE_POINTS` means of stretches."""
    lines = read_metrics(run.metrics)
    learning = config.learning
    collections = 2 if learning.meta_update in ("fomaml", "maml") else 1
    per_iteration = learning.meta_batch * learning.graphs_per_task * learning.rollouts * collections
    stretches = np.array_split(np.arange(len(lines)), min(CURVE_POINTS, len(lines)))
    curve = {
        name: [float(f"{np.mean([lines[i][name] for i in stretch]):.5g}") for stretch in stretches] for name in lines[0]
    }
    curve["iteration"] = [lines[stretch[-1]]["iteration"] for stretch in stretches]
    seconds = statistics.median(line["seconds"] for line in read_metrics(run.timing))
    return {
        "trajectories": len(lines) * per_iteration,
        "median_seconds_an_iteration": round(seconds, 4),
        "sessions": run.record["sessions"],
        "curve": curve,
    }


def adapt_missing(
    records: Sequence[GrowingRecord],
    policies: Sequence[Offloader],
    configs: Sequence[TrainConfig],
    settings: Sequence[TestSetting],
    heft_ms: Mapping[str, float],
    updates: int,
    stop: GracefulStop,
) -> bool:
    """Measures what the records lack, on as many devices as there are, with progress; each part is written when done.

    Args:
        records: of each seed.
        policies: of each seed, trained.
        configs: of each seed.
        settings: what to adapt to.
        heft_ms: by the names of settings: mean latency of the HEFT-based plans, to compare with on the way.
        updates: Adam steps.
        stop: when it is requested, what is unfinished is given up.

    Returns:
        False where a stop was requested before the end.

    Raises:
        InputError: a policy became NaN.
    """
    jobs = [
        (record, policy, config, index, part)
        for record, policy, config in zip(records, policies, configs, strict=True)
        for index, part in missing(record, settings)
    ]
    if not jobs:
        return True
    lock, done = threading.Lock(), [0] * len(jobs)
    with Progress(max(updates, 1) * len(jobs), f"adapting {policies[0].label}") as progress:
        progress.print("where a shape is new this compiles ...")

        def run(number: int, device: jax.Device) -> None:
            record, policy, config, index, part = jobs[number]
            setting = settings[index]

            def on_round(update: int, latency_ms: float, entropy: float) -> None:
                if stop.requested:
                    raise StoppedError
                with lock:
                    done[number] = update
                    progress.update(
                        sum(done),
                        setting=setting.name,
                        seed=str(config.seed),
                        latency_ms=latency_ms,
                        vs_heft=percent(latency_ms / heft_ms[setting.name] - 1),
                    )

            if stop.requested:
                raise StoppedError
            with jax.default_device(device):
                row = measure(policy, config, setting, index, part, updates, on_round)
            with lock:
                record.add(setting.name, part, row)
                done[number] = max(updates, 1)
                progress.update(sum(done), setting=setting.name, seed=str(config.seed))

        try:
            spread(run, len(jobs))
        except StoppedError:
            progress.print("stopped; what was being measured is given up, the rest is written")
            return False
    return True


def spread(run: Callable[[int, jax.Device], None], count: int) -> None:
    """Calls `run(number, device)` for each of `count` numbers, one at a time on each of this host's devices.

    The first error is raised when all that had begun have ended; nothing is begun after it.
    """
    waiting, lock = list(range(count)), threading.Lock()

    def work(device: jax.Device) -> None:
        while True:
            with lock:
                if not waiting:
                    return
                number = waiting.pop(0)
            try:
                run(number, device)
            except BaseException:
                with lock:
                    waiting.clear()
                raise

    found = jax.local_devices()[:count]
    with ThreadPoolExecutor(len(found)) as workers:
        for future in [workers.submit(work, device) for device in found]:
            future.result()


def measure(
    policy: Offloader,
    config: TrainConfig,
    setting: TestSetting,
    index: int,
    part: str,
    updates: int,
    on_round: Callable[[int, float, float], None],
) -> dict[str, Any]:
    """One part of one setting, as `PARTS` says."""
    if part == PLANNING:
        return {"seconds": planning_seconds(policy, setting)}
    began = time.perf_counter()
    adapt = adapt_to_all if part == ALL else adapt_to_half
    adaptation: Adaptation = adapt(config, policy.params, setting, index, updates, on_round)
    row = dataclasses.asdict(adaptation)
    row["latency_ms"] = [round(value, 4) for value in row["latency_ms"]]
    for name in ("sampled_ms", "entropy", "value_explained"):
        row[name] = [float(f"{value:.5g}") for value in row[name]]
    return {**row, "seconds": round(time.perf_counter() - began, 2)}


def planning_seconds(policy: Offloader, setting: TestSetting, most: int = 30) -> list[float]:
    """Seconds to plan each of up to `most` DAGs of a setting, one at a time; compiling apart."""
    policy.plan(setting.graphs[0], setting.system)
    seconds = []
    for graph in setting.graphs[:most]:
        began = time.perf_counter()
        policy.plan(graph, setting.system)
        seconds.append(round(time.perf_counter() - began, 6))
    return seconds
