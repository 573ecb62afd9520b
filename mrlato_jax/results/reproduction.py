"""Reproduction: trains, adapts and records every learned method on the unseen sets of an experiment.

Existing parts of a record are not computed again, and existing runs are not trained again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from mrlato_jax.config import ExecutionConfig, TrainConfig, completed
from mrlato_jax.dag.dataset import DagDataset
from mrlato_jax.environment.observation import lookahead_evaluations
from mrlato_jax.errors import InputError, check_type, shorten
from mrlato_jax.inference.offloader import Offloader
from mrlato_jax.inference.trained_run import trained_policy
from mrlato_jax.learning.adaptation import marks
from mrlato_jax.learning.devices import resolve
from mrlato_jax.learning.inner import plans
from mrlato_jax.methods import label
from mrlato_jax.progress import Progress, percent
from mrlato_jax.results.evaluation import adapt_to_all, adapt_to_half
from mrlato_jax.results.record import AS_WRITTEN, GrowingRecord
from mrlato_jax.training import checkpoint
from mrlato_jax.training.experiments import TestSet
from mrlato_jax.training.run_folder import RunFolder, read_metrics, seed_path, session
from mrlato_jax.training.stages import WARM_START, train_stages
from mrlato_jax.training.stopping import GracefulStop, StoppedError

Value = TypeVar("Value")

TRAINING = "training"  # name of the row about the training, which belongs to no test set
MEANS_AGREE = 1e-3  # milliseconds: latencies of DAGs are rounded to this
CURVE_POINTS = 100
STOPPED = "stopped; the unfinished measurement is dropped, all finished ones are written"
ALL, HALF, PLANNING = "all", "half", "planning"
PARTS = (ALL, HALF, PLANNING)
"""Parts of the record on each test set: adaptation to all DAGs and measurement on them, as in the paper; adaptation to
half of the DAGs and measurement on the other half (with more than one DAG); and the seconds to plan one DAG at a time.
"""


class LearnedRecord(GrowingRecord):
    """The record of one method and seed on the test sets of its experiment."""

    def __init__(
        self, path: Path, config: TrainConfig, dataset: DagDataset, test_sets: Sequence[TestSet], updates: int
    ) -> None:
        """Opens the record, or starts a new one.

        Raises:
            InputError: the record is of other settings, data or code, or a part is malformed.
        """
        identity = {
            "method": label(config),
            "config": config.to_json(),
            "data_hash": dataset.content_hash,
            "settings": [test_set.name for test_set in test_sets],
            "updates": updates,
            "version": session()["versions"]["mrlato_jax"],
        }
        super().__init__(path, identity)
        self.config, self._settings, self._updates = config, test_sets, updates
        if TRAINING in self.rows:
            try:
                _check_training(self.rows[TRAINING])
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                raise InputError(f"record {path}, training: {shorten(error, 300)}; accepted: {AS_WRITTEN}") from None
        for test_set in test_sets:
            for part, row in self.rows.get(test_set.name, {}).items():
                try:
                    _check_part(part, row, len(test_set.graphs), updates)
                except (KeyError, ValueError, TypeError) as error:
                    raise InputError(
                        f"record {path}, {part} of {test_set.name}: {shorten(error, 300)}; accepted: {AS_WRITTEN}"
                    ) from None

    def _settled(self, identity: dict[str, Any]) -> dict[str, Any]:
        check_type("identity.config", identity.get("config"), dict)
        return {**identity, "config": completed(identity["config"])}

    def missing(self) -> list[tuple[int, str]]:
        """Lists what is still to measure: index of the test set, and the part."""
        return [
            (index, part)
            for index, test_set in enumerate(self._settings)
            for part in PARTS
            if part not in self.rows.get(test_set.name, {}) and not (part == HALF and len(test_set.graphs) < 2)
        ]

    @property
    def complete(self) -> bool:
        """Returns whether all parts and the training's summary exist."""
        return not self.missing() and TRAINING in self.rows

    def add_training(self, summary: dict[str, Any]) -> None:
        """Adds the summary of the training; checks that all parts belong to the same policy.

        Raises:
            InputError: the record's parts are of other parameters than the summary's.
        """
        stored = self.rows.get(TRAINING, {}).get("summary", {}).get("params_sha256")
        if stored not in (None, summary["params_sha256"]):
            raise InputError(
                f"record {self.path} is of a policy with parameters {stored[:12]}, and the run folder has "
                f"{summary['params_sha256'][:12]}; accepted: the run that the record was begun with, or another file"
            )
        if stored is None:
            self.add(TRAINING, "summary", summary)


def measured_of(part: str, values: Sequence[Value]) -> Sequence[Value]:
    """Selects, from one value per DAG, the values of the DAGs that a part measures: all, or the held-out half."""
    return values[len(values) // 2 :] if part == HALF else values


def _check_part(part: str, row: Mapping[str, Any], num_graphs: int, updates: int) -> None:
    if part == PLANNING:
        values = row["seconds"]
    elif part in (ALL, HALF):
        measured = len(measured_of(part, range(num_graphs)))
        values = row["latency_ms"]
        by_dag = {mark: row["latency_ms_by_dag"][str(mark)] for mark in marks(updates)}
        if len(values) != updates + 1 or any(len(latencies) != measured for latencies in by_dag.values()):
            raise ValueError(f"{len(values)} latencies of {len(by_dag[0])} DAGs")
        for mark, latencies in by_dag.items():
            if not abs(np.mean(latencies) - values[mark]) < MEANS_AGREE:
                raise ValueError(f"a mean of {values[mark]} ms after {mark} updates of DAGs whose mean is another")
        values = [row["simulator_evaluations"], *values]
    else:
        raise KeyError(part)
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite")


def _check_training(row: Mapping[str, Any]) -> None:
    summary = row["summary"]
    if not isinstance(summary["params_sha256"], str) or not np.isfinite(list(summary["curve"].values())).all():
        raise ValueError("a summary without the hash of its parameters, or with a curve that is not finite")


def check_run(path: Path, record: LearnedRecord, dataset: DagDataset) -> None:
    """Checks that an incomplete record can be completed with the run at `path`, which need not exist yet.

    Raises:
        InputError: that run has other settings, data or code; or the record has parts of a policy whose run is missing,
            and a new training might not give bit-identical parameters.
    """
    if not RunFolder.begun(path):
        if TRAINING in record.rows:
            raise InputError(
                f"record {record.path} lacks parts, and the run {path} whose policy they are to be of is gone; "
                "accepted: that run, or another file"
            )
        return
    run = RunFolder.open(path)
    run.check_resumable(record.config, dataset.content_hash)


def trained(
    root: Path,
    configs: Sequence[TrainConfig],
    dataset: DagDataset,
    stop: GracefulStop,
    execution: ExecutionConfig,
    checkpoint_every: int = 25,
    data_folder: Path | None = None,
) -> list[Offloader] | None:
    """Returns the trained policy of each seed, from its run folder `root`/seed<number>; trains missing runs.

    Args:
        root: parent of the run folders, which `check_run` must accept.
        configs: settings of each seed.
        dataset: the data set with the training sets.
        stop: after a request, training saves and ends.
        execution: distribution of the work over devices.
        checkpoint_every: iterations between checkpoints.
        data_folder: folder of the demonstrations; by default the packaged ones.

    Returns:
        The policies, or None after a stop.
    """
    paths = {config.seed: seed_path(root, config.seed) for config in configs}
    unfinished = [config for config in configs if not _ended(paths[config.seed], config)]
    if unfinished:
        layout = resolve(execution, len(unfinished) * unfinished[0].learning.meta_batch)
        with ExitStack() as folders:
            runs = []
            for config in unfinished:
                run = RunFolder.begin(paths[config.seed], config, dataset.content_hash, layout, data_folder)
                runs.append(folders.enter_context(run))
            if train_stages(runs, unfinished, dataset, stop, checkpoint_every, layout, data_folder) is None:
                return None
    return [_policy(paths[config.seed], config) for config in configs]


def _ended(path: Path, config: TrainConfig) -> bool:
    """Returns whether the run has an intact checkpoint of its last iteration."""
    if not RunFolder.begun(path):
        return False
    run = RunFolder.open(path)
    return config.iterations in checkpoint.steps(run.checkpoints) and trained_policy(run).iteration == config.iterations


def _policy(path: Path, config: TrainConfig) -> Offloader:
    policy = trained_policy(RunFolder.open(path))
    if policy.iteration != config.iterations:
        raise InputError(f"run {path} ends after {policy.iteration} iterations; accepted: {config.iterations}")
    return policy


def training_summary(run: RunFolder, config: TrainConfig, policy: Offloader, dataset: DagDataset) -> dict[str, Any]:
    """Summarises a training: its cost, its curves as at most `CURVE_POINTS` means, and a hash of its parameters.

    The seconds of an iteration are for all seeds trained in one program.
    """
    lines = read_metrics(run.metrics, None)
    learning = config.learning
    collections = 2 if learning.meta_update in ("fomaml", "maml") else 1
    sizes = dataset.task_mask[list(dataset.train_sets)].sum(axis=-1)
    each = np.mean([plans(learning, int(size)) for size in sizes.ravel()])
    per_iteration = learning.meta_batch * learning.graphs_per_task * float(each) * collections
    stretches = np.array_split(np.arange(len(lines)), min(CURVE_POINTS, len(lines)))
    curve = {
        name: [float(f"{np.mean([lines[i][name] for i in stretch]):.5g}") for stretch in stretches] for name in lines[0]
    }
    curve["iteration"] = [lines[stretch[-1]]["iteration"] for stretch in stretches]
    seconds = statistics.median(line["seconds"] for line in read_metrics(run.timing, ["seconds"]))
    return {
        "params_sha256": params_hash(policy.params),
        "trajectories": round(len(lines) * per_iteration),
        "program_seconds_an_iteration": round(seconds, 4),
        "sessions": run.record["sessions"],
        "curve": curve,
        **({"warm_start": _warm_start_summary(run)} if config.warm_start_config else {}),
    }


def _warm_start_summary(run: RunFolder) -> dict[str, Any]:
    """Summarises the warm start."""
    warm = RunFolder.open(run.path / WARM_START)
    learning, seconds = warm.config.learning, [line["seconds"] for line in read_metrics(warm.timing, ["seconds"])]
    return {
        "demonstrations_sha256": warm.record["data_hash"],
        "imitated": len(seconds) * learning.meta_batch * learning.graphs_per_task,
        "program_seconds_an_iteration": round(statistics.median(seconds), 4),
        "sessions": warm.record["sessions"],
    }


def params_hash(params: Any) -> str:
    """Returns the SHA-256 of parameters: of their names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, leaf in jax.tree_util.tree_leaves_with_path(params):
        values = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(name)} {values.dtype.str} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def adapt_missing(
    records: Sequence[LearnedRecord],
    policies: Sequence[Offloader],
    test_sets: Sequence[TestSet],
    heft_ms: Mapping[str, Sequence[float]],
    updates: int,
    stop: GracefulStop,
    num_devices: int = 0,
) -> bool:
    """Measures the missing parts of the records on several devices; shows progress. Each part is written at once.

    Args:
        records: record of each seed.
        policies: trained policy of each seed.
        test_sets: the test sets to adapt to.
        heft_ms: latencies of the HEFT-based plans of all DAGs, by test set, for the progress line.
        updates: number of Adam steps.
        stop: after a request, unfinished parts are dropped.
        num_devices: largest number of devices, with one adaptation each; 0 uses all of this host.

    Returns:
        False after a stop.

    Raises:
        InputError: a policy became NaN.
    """
    lacking = [
        (record, policy, index, part)
        for record, policy in zip(records, policies, strict=True)
        for index, part in record.missing()
    ]
    jobs = [job for job in lacking if job[3] != PLANNING]
    lock, done, each = threading.Lock(), [0] * len(jobs), max(updates, 1)
    with Progress(max(each * len(jobs), 1), f"adapting {policies[0].label}") as progress:

        def run(number: int, device: jax.Device) -> None:
            record, policy, index, part = jobs[number]
            test_set, seed = test_sets[index], str(record.config.seed)
            heft = float(np.mean(measured_of(part, heft_ms[test_set.name])))

            def on_round(update: int, latency_ms: float, entropy: float) -> None:
                with lock:
                    done[number] = update
                    gap = percent(latency_ms / heft - 1)
                    progress.update(sum(done), set=test_set.name, seed=seed, latency_ms=latency_ms, vs_heft=gap)
                if stop.requested and update < updates:
                    raise StoppedError

            if stop.requested:
                raise StoppedError
            with jax.default_device(device):
                row = adapt_part(policy, record.config, test_set, index, part, updates, on_round)
            with stop.writing(), lock:
                record.add(test_set.name, part, row)
                done[number] = each
                progress.update(sum(done), set=test_set.name, seed=seed)

        if jobs:
            progress.print("a new shape compiles first ...")
        try:
            with stop.unburdened(STOPPED):
                spread(run, len(jobs), num_devices)
        except StoppedError:
            progress.print(STOPPED)
            return False
    for record, policy, index, part in lacking:  # timed alone, after all other work
        if part == PLANNING:
            record.add(test_sets[index].name, part, planning_row(policy, test_sets[index]))
    return True


def spread(run: Callable[[int, jax.Device], None], count: int, num_devices: int = 0) -> None:
    """Calls `run(number, device)` for each of `count` numbers, one at a time on each of this host's devices.

    After an error no further call starts. The first error is raised when all running calls have ended.

    Args:
        run: function to call, in threads.
        count: number of calls.
        num_devices: largest number of devices; 0 for all.
    """
    waiting, errors, lock = list(range(count)), [], threading.Lock()

    def work(device: jax.Device) -> None:
        while True:
            with lock:
                if not waiting:
                    return
                number = waiting.pop(0)
            try:
                run(number, device)
            except BaseException as error:
                with lock:
                    waiting.clear()
                    errors.append(error)

    found = jax.local_devices()[: min(count, num_devices or count)]
    if found:
        with ThreadPoolExecutor(len(found)) as workers:
            for future in [workers.submit(work, device) for device in found]:
                future.result()
    if errors:
        raise errors[0]


def adapt_part(
    policy: Offloader,
    config: TrainConfig,
    test_set: TestSet,
    index: int,
    part: str,
    updates: int,
    on_round: Callable[[int, float, float], None],
) -> dict[str, Any]:
    """Runs one adaptation, to all DAGs of a test set or to half of them."""
    began = time.perf_counter()
    adapt = adapt_to_all if part == ALL else adapt_to_half
    row = dataclasses.asdict(adapt(config, policy.params, test_set, index, updates, on_round))
    row["latency_ms"] = [round(value, 4) for value in row["latency_ms"]]
    for name in ("sampled_ms", "entropy", "value_explained"):
        row[name] = [float(f"{value:.5g}") for value in row[name]]
    return {**row, "seconds": round(time.perf_counter() - began, 2)}


def planning_row(policy: Offloader, test_set: TestSet) -> dict[str, Any]:
    """Returns the cost of planning: `planning_seconds`, and the mean number of simulated plans per DAG."""
    sites, channel = test_set.system.num_sites, test_set.system.channel
    spent = [lookahead_evaluations(policy.network, graph.num_tasks, sites, channel) for graph in test_set.graphs]
    return {"seconds": planning_seconds(policy, test_set), "evaluations": float(np.mean(spent))}


def planning_seconds(policy: Offloader, test_set: TestSet, most: int = 30) -> list[float]:
    """Measures the seconds to plan each of up to `most` DAGs of a test set, one at a time, without compilation."""
    policy.plan(test_set.graphs[0], test_set.system)
    seconds = []
    for graph in test_set.graphs[:most]:
        began = time.perf_counter()
        policy.plan(graph, test_set.system)
        seconds.append(round(time.perf_counter() - began, 6))
    return seconds
