"""The part that training and evaluation share: adapt to every unseen set, show it, write it down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mrlato_jax.config import TrainConfig
from mrlato_jax.dag.dataset import DagDataset
from mrlato_jax.experiments import reporting
from mrlato_jax.experiments.evaluation import evaluate_setting
from mrlato_jax.experiments.progress import Progress
from mrlato_jax.experiments.run_folder import GracefulStop
from mrlato_jax.experiments.settings import test_settings


def evaluate_run(
    folder: Path,
    config: TrainConfig,
    params: Any,
    dataset: DagDataset,
    updates: int,
    *,
    name: str,
    held_out: bool,
    stop: GracefulStop,
) -> bool:
    """Evaluates every setting, writes `name`.json, .md and .png into `folder`; False where stopped before the end."""
    results = []
    for index, setting in enumerate(test_settings(dataset, config.channel)):
        with Progress(max(updates * (1 + held_out), 1), f"adapting to {setting.name}") as progress:

            def on_round(update: int, latency_ms: float, entropy: float, progress: Progress = progress) -> None:
                progress.update(update, latency_ms=latency_ms, entropy=entropy)
                if stop.requested:
                    raise KeyboardInterrupt

            try:
                result = evaluate_setting(config, params, setting, index, updates, held_out=held_out, on_round=on_round)
            except KeyboardInterrupt:
                progress.print("stopped while adapting; nothing of the evaluation was written")
                return False
        results.append(result)
    provenance = {"config": config.to_json(), "data_hash": dataset.content_hash, "updates": updates}
    print("\n" + reporting.write(folder, name, config.label, results, provenance), flush=True)
    return True
