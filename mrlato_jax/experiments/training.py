"""The loop around the jitted meta-iteration: progress, metrics, checkpoints, stopping and resuming."""

from __future__ import annotations

import math
import time

import jax

from mrlato_jax.config import TrainConfig
from mrlato_jax.errors import InputError
from mrlato_jax.experiments import checkpoint
from mrlato_jax.experiments.progress import Progress, percent
from mrlato_jax.experiments.run_folder import GracefulStop, RunFolder, checkpoint_meta, session
from mrlato_jax.learning.outer import LearnerState, MetaMetrics, TaskPool, init_state, meta_iteration


def train(
    run: RunFolder, config: TrainConfig, data_hash: str, pool: TaskPool, stop: GracefulStop, checkpoint_every: int = 25
) -> LearnerState | None:
    """Meta-trains from the run's last whole checkpoint, or from the start, to `config.iterations`.

    Args:
        run: opened for writing.
        config: the run's settings.
        data_hash: of the data set that `pool` holds.
        pool: the training tasks.
        stop: when it is requested, the loop saves and ends at the next step boundary.
        checkpoint_every: iterations from one checkpoint to the next.

    Returns:
        The learner after the last iteration, or None where a stop was requested before it.

    Raises:
        InputError: the run's checkpoint belongs to other settings, network or data, or its checkpoints are gone; or
            training diverged, where what was saved before stays.
    """
    state = init_state(config.policy, config.learning, config.seed)
    meta = checkpoint_meta(config, data_hash)
    restored = checkpoint.restore(run.checkpoints, state._asdict(), meta)
    versions = {"versions": session(config)["versions"]}
    done = 0
    if restored is not None:
        state, done = LearnerState(**restored.tree), restored.step
    if done >= config.iterations:
        return state
    with (
        run.metrics_log(done) as log,
        Progress(config.iterations, "meta-training", start=done) as progress,
    ):
        if stop.requested:
            progress.print(f"stopped before iteration {done + 1}")
            return None
        if done:
            progress.print(f"continuing after iteration {done}, the last whole checkpoint")
        progress.print(f"compiling the meta-iteration for {jax.devices()[0].device_kind} ...")
        saved = done
        for iteration in range(done + 1, config.iterations + 1):
            started = time.monotonic()
            state, metrics = meta_iteration(config.policy, config.learning, state, pool)
            values = flatten(jax.device_get(metrics))
            for name, value in values.items():
                if not math.isfinite(value):
                    raise InputError(
                        f"training diverged: {name} is {value} at iteration {iteration}; accepted: finite values "
                        "(try a lower inner_lr or outer_lr)"
                    )
            log.append(iteration, values, time.monotonic() - started, saved)
            gap = percent(values["latency_ms"] / values["heft_ms"] - 1)
            progress.update(iteration, latency_ms=values["latency_ms"], vs_heft=gap, entropy=values["entropy"])
            last = iteration == config.iterations
            if iteration % checkpoint_every == 0 or last or stop.requested:
                log.sync()
                checkpoint.save(run.checkpoints, iteration, state._asdict(), meta | versions)
                saved = iteration
            if stop.requested and not last:
                progress.print(f"stopped after iteration {iteration}; checkpoint saved")
                return None
    return state


def flatten(metrics: MetaMetrics) -> dict[str, float]:
    """The metrics of an iteration as they are written: plain names, milliseconds where the name says so.

    Means over the meta-batch. Of the collection: `latency_ms` (sampled), `heft_ms` (HEFT-based plans of the same DAGs),
    `entropy` (nats a decision) and `value_explained` (variance of the returns that the values explained). Of the last
    inner step, before it was taken: `LossMetrics`. Of the outer step: its norm.
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
