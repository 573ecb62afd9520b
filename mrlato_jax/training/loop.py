"""The loop around the jitted meta-iteration: progress, metrics, checkpoints, stopping and resuming."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrlato_jax.config import ExecutionConfig, TrainConfig
from mrlato_jax.errors import InputError
from mrlato_jax.learning import devices
from mrlato_jax.learning.learning_task import stack, take
from mrlato_jax.learning.meta_batch import TaskPool
from mrlato_jax.learning.outer import LearnerState, MetaMetrics, init_state, iteration_program
from mrlato_jax.progress import Progress, percent
from mrlato_jax.training import checkpoint, hosts
from mrlato_jax.training.run_folder import RunFolder, checkpoint_meta, completed_meta, read_metrics, session
from mrlato_jax.training.stopping import GracefulStop
from mrlato_jax.training.validation import Validation

MAP_LIMIT = Path("/proc/sys/vm/max_map_count")
MAPS_A_KIND = 10_000  # memory maps of XLA's CPU programs of one kind of systems: `general` took 78,424 for eight


def train(
    runs: Sequence[RunFolder],
    configs: Sequence[TrainConfig],
    data_hash: str,
    pools: Sequence[TaskPool],
    stop: GracefulStop,
    checkpoint_every: int = 25,
    execution: ExecutionConfig | None = None,
    initial: Sequence[Any] | None = None,
    validation: Validation | None = None,
) -> list[LearnerState] | None:
    """Meta-trains up to `iterations`, from the runs' last intact checkpoint or from the start.

    One program trains all seeds that have a checkpoint of the same iteration. Several such groups are trained in turn.

    Args:
        runs: one for each of `configs`, opened for writing; empty in all processes but the first.
        configs: the settings of each run; they differ only in the seed.
        data_hash: hash of the data set in `pools`.
        pools: the training tasks, one pool for each kind of system; iterations use the pools in turn.
        stop: after a request (in any process), the loop saves and ends when it next fetches metrics. Before the end of
            this session's first iteration there is nothing to save, and the process may end at once.
        checkpoint_every: iterations between checkpoints.
        execution: distribution of the work over devices.
        initial: initial theta of each seed; by default random.
        validation: measures the policies at each checkpoint; needed only in the first process.

    Returns:
        The learners after the last iteration, or None after a stop.

    Raises:
        InputError: a run's checkpoint belongs to other settings, network or data; its checkpoints are missing; or
            training diverged. Earlier checkpoints are kept.
    """
    execution = devices.resolve(execution or ExecutionConfig(), len(configs) * configs[0].learning.meta_batch)
    states: list[LearnerState | None] = [None] * len(configs)
    for group in _groups(runs, configs):
        of_runs, of_configs = [runs[i] for i in group if runs], [configs[i] for i in group]
        first_states = [
            init_state(configs[i].network, configs[i].learning, configs[i].seed, initial and initial[i]) for i in group
        ]
        reached = _train_together(
            of_runs, of_configs, first_states, data_hash, pools, stop, checkpoint_every, execution, validation
        )
        if reached is None:
            return None
        for index, state in zip(group, reached, strict=True):
            states[index] = state
    return [state for state in states if state is not None]


def _groups(runs: Sequence[RunFolder], configs: Sequence[TrainConfig]) -> list[list[int]]:
    """Returns groups of indices of the seeds to train in one program, by the first process's run folders."""
    group_of = np.zeros(len(configs), int)
    with hosts.agreed():
        if runs:
            steps = {index: checkpoint.steps(run.checkpoints) for index, run in enumerate(runs)}
            ended = [index for index, have in steps.items() if configs[index].iterations in have]
            begun = begun_together({index: have for index, have in steps.items() if index not in ended})
            for number, group in enumerate([*([index] for index in ended), *begun]):
                group_of[group] = number
    group_of = hosts.from_first(group_of)
    return [np.flatnonzero(group_of == number).tolist() for number in range(group_of.max() + 1)]


def begun_together(steps: Mapping[int, Sequence[int]]) -> list[list[int]]:
    """Groups the seeds that can continue in one program: those with a checkpoint of the same iteration.

    Args:
        steps: for each seed, the iterations of its checkpoints; empty for an untrained seed.

    Returns:
        Groups of seeds; all seeds without a checkpoint form one group.
    """
    groups: list[tuple[set[int], list[int]]] = []
    for seed in sorted(steps, key=lambda seed: (max(steps[seed], default=0), seed)):
        have = set(steps[seed])
        fits = next((group for group in groups if group[0] & have or not (group[0] or have)), None)
        if fits is None:
            groups.append((have, [seed]))
        else:
            fits[0].intersection_update(have)
            fits[1].append(seed)
    return [sorted(seeds) for _, seeds in groups]


def _train_together(
    runs: Sequence[RunFolder],
    configs: Sequence[TrainConfig],
    states: list[LearnerState],
    data_hash: str,
    pools: Sequence[TaskPool],
    stop: GracefulStop,
    checkpoint_every: int,
    execution: ExecutionConfig,
    validation: Validation | None,
) -> list[LearnerState] | None:
    """Runs `train` for seeds that have a checkpoint in common, or that all have none; `execution` is resolved."""
    first = configs[0]
    metas = [checkpoint_meta(config, data_hash) for config in configs]
    versions = {"versions": session()["versions"]}
    done = 0
    with hosts.agreed():
        if runs:
            states, done = _restore(runs, states, metas)
            for (
                run
            ) in runs:  # otherwise a run that was ahead, resumed alone later, would lack the metrics dropped below
                checkpoint.drop_after(run.checkpoints, done)
            if validation is not None and done:
                validation.go_on_from(_clock_at(runs, done))
    done = int(hosts.from_first(np.asarray(done)))
    stacked = hosts.from_first(stack(states))
    if done >= first.iterations:
        return _unstack(stacked)
    with ExitStack() as opened:
        with hosts.agreed():
            logs = [opened.enter_context(run.metrics_log(done, execution.tensorboard)) for run in runs]
        stream = None if hosts.is_first() else opened.enter_context(open(os.devnull, "w"))
        stage = "imitating good plans" if first.learning.learn_from == "optimum" else "meta-training"
        progress = opened.enter_context(Progress(first.iterations, stage, start=done, stream=stream))
        if hosts.any_of_all(stop.requested):
            progress.print(f"stopped before iteration {done + 1}")
            return None
        if done:
            progress.print(f"continuing after iteration {done}, the last whole checkpoint")
        if said := _too_few_maps(len(pools)):
            progress.print(said)
        progress.print(f"compiling the meta-iteration for {_describe(execution)} ...")
        before_first = f"stopped before iteration {done + 1}"
        with stop.unburdened(before_first):
            program = iteration_program(first.network, first.learning, execution)
            placed = devices.place(stacked, execution)
            placed_pools = [devices.place(pool, execution) for pool in pools]
        saved, pending, started = done, [], time.monotonic()
        gaps: dict[str, str] = {}
        for iteration in range(done + 1, first.iterations + 1):
            first_one = iteration == done + 1
            with stop.unburdened(before_first) if first_one else nullcontext():
                placed, metrics = program(placed, placed_pools[(iteration - 1) % len(pools)])
                if first_one:  # compilation and this iteration take longest, and before their end nothing is unsaved
                    jax.block_until_ready(metrics)
            pending.append(devices.fetch(metrics, execution))
            last, due = iteration == first.iterations, iteration % checkpoint_every == 0
            if not (last or due or len(pending) == execution.metrics_every):
                continue  # without waiting for metrics, so that the devices never wait for the host
            values = [[flatten(take(m, s)) for s in range(len(configs))] for m in jax.device_get(pending)]
            seconds = (time.monotonic() - started) / len(pending)
            clock_s = None if validation is None else validation.seconds
            numbers = range(iteration - len(pending) + 1, iteration + 1)
            for number, by_seed in zip(numbers, values, strict=True):
                for config, of_seed in zip(configs, by_seed, strict=True):
                    _check_finite(of_seed, number, config.seed, alone=len(configs) == 1)
                for log, of_seed in zip(logs, by_seed, strict=False):
                    log.append(number, of_seed, seconds, saved, clock_s)
            latency, heft, entropy = (
                math.fsum(of_seed[name] for of_seed in values[-1]) / len(configs)
                for name in ("latency_ms", "heft_ms", "entropy")
            )
            stopping = hosts.any_of_all(stop.requested)
            saving = last or due or stopping
            if saving:
                states = _unstack(devices.unbound(devices.fetch(placed, execution)))
                if validation is not None and runs and (last or due):  # not at an iteration where a stop was requested
                    gaps = _validate(validation, runs, states, iteration)
            progress.update(iteration, latency_ms=latency, vs_heft=percent(latency / heft - 1), **gaps, entropy=entropy)
            if saving:
                for run, log, state, meta in zip(runs, logs, states, metas, strict=False):
                    log.sync()
                    run.save(iteration, state._asdict(), meta | versions)
                saved = iteration
            if stopping and not last:
                progress.print(f"stopped after iteration {iteration}; checkpoint saved")
                return None
            pending, started = [], time.monotonic()
    return states


def _too_few_maps(kinds: int, limit: Path = MAP_LIMIT) -> str | None:
    """Returns advice if the programs of `kinds` kinds of systems may need more memory maps than this host allows."""
    if jax.default_backend() != "cpu" or not limit.exists():
        return None
    needed, allowed = kinds * MAPS_A_KIND, int(limit.read_text())
    if needed <= allowed:
        return None
    return (
        f"the programs of {kinds} kinds of systems may take {needed} memory maps; this host allows {allowed}. If the "
        f"run ends for want of memory, raise the limit: sysctl -w vm.max_map_count={2 * needed}"
    )


def _clock_at(runs: Sequence[RunFolder], iteration: int) -> float:
    """Returns the seconds of training until the end of an iteration; 0 if no session measured them."""
    lines = [line for run in runs for line in read_metrics(run.timing) if line["iteration"] == iteration]
    return max((line.get("clock_s", 0.0) for line in lines), default=0.0)


def _validate(
    validation: Validation, runs: Sequence[RunFolder], states: Sequence[LearnerState], iteration: int
) -> dict[str, str]:
    """Logs each seed's gap and returns their mean for the progress line."""
    seconds = validation.seconds
    gaps = [validation.gap(state.params) for state in states]
    for run, gap in zip(runs, gaps, strict=True):
        run.log_validation(iteration, gap, seconds)
    return {"gap": percent(math.fsum(gaps) / len(gaps))}


def _restore(
    runs: Sequence[RunFolder], states: Sequence[LearnerState], metas: Sequence[dict[str, Any]]
) -> tuple[list[LearnerState], int]:
    """Restores the newest iteration of which every run has an intact checkpoint.

    Without any checkpoint, the given states are returned.

    Raises:
        InputError: the runs have intact checkpoints, but no iteration in common.
    """
    newest: int | None = None
    while True:
        stored = [
            checkpoint.restore(run.checkpoints, state._asdict(), meta, newest, completed_meta)
            for run, state, meta in zip(runs, states, metas, strict=True)
        ]
        steps = [0 if restored is None else restored.step for restored in stored]
        if len(set(steps)) == 1:
            return [
                state if restored is None else LearnerState(**restored.tree)
                for state, restored in zip(states, stored, strict=True)
            ], steps[0]
        newest = min(steps)  # steps differ after a kill between the checkpoints of two runs
        if not newest:
            raise InputError(
                f"runs {', '.join(str(run.path) for run in runs)} have no whole checkpoint in common; accepted: each "
                "continued alone, by meta_train.py --resume with its own folder as --run"
            )


def _unstack(states: LearnerState) -> list[LearnerState]:
    return [take(states, index) for index in range(states.iteration.shape[0])]


def _check_finite(values: dict[str, float], iteration: int, seed: int, alone: bool) -> None:
    others = "" if alone else "; the other seeds can continue, each by meta_train.py --resume with its folder as --run"
    for name, value in values.items():
        if not math.isfinite(value):
            raise InputError(
                f"training diverged: {name} is {value} at iteration {iteration} of seed {seed}; accepted: finite "
                f"values (try a lower inner_lr or outer_lr){others}"
            )


def _describe(execution: ExecutionConfig) -> str:
    """Describes the devices of a run for a message."""
    count, kind = execution.num_devices, jax.devices()[0].device_kind
    if count == 1:
        return kind
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{count} x {kind}{processes} ({execution.parallel})"


def flatten(metrics: MetaMetrics) -> dict[str, float]:
    """Flattens the metrics of an iteration for `metrics.jsonl`: plain names, with units in the names of times.

    All are means over the meta-batch. Of the collection: `latency_ms` (sampled plans), `heft_ms` (HEFT-based plans of
    the same DAGs), `entropy` (nats per decision) and `value_explained` (share of the returns' variance that the values
    explain). Of the last inner step, before the step: `LossMetrics`. Of the outer step: its norm.
    """
    inner = metrics.inner
    return {
        "latency_ms": 1e3 * float(inner.latency),
        "heft_ms": 1e3 * float(inner.heft),
        "entropy": float(inner.entropy),
        "value_explained": float(inner.value_explained),
        **{name: float(value) for name, value in inner.loss._asdict().items() if name != "entropy"},
        "update_norm": float(metrics.update_norm),
    }
