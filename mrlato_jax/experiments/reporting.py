"""Evaluating a whole experiment, and what that leaves behind: a record, a table and a figure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mrlato_jax.config import TrainConfig
from mrlato_jax.dag.dataset import DagDataset
from mrlato_jax.experiments.evaluation import BASELINES, SettingResult, evaluate_setting, marks
from mrlato_jax.experiments.progress import Progress, format_table
from mrlato_jax.experiments.run_folder import GracefulStop, session
from mrlato_jax.experiments.settings import TestSetting
from mrlato_jax.files import write_atomically

FAR = 1.15  # times the curve


class _StoppedError(Exception):
    """A stop was requested between two collections."""


def evaluate(
    folder: Path,
    name: str,
    config: TrainConfig,
    params: Any,
    settings: Sequence[TestSetting],
    updates: int,
    provenance: dict[str, Any],
    stop: GracefulStop,
    *,
    held_out: bool = False,
) -> str | None:
    """Evaluates every setting, with progress, and writes `name`.json, .md and .png into `folder`.

    Args:
        folder: where to write; exists.
        name: of the files.
        config: of the run that trained `params`.
        params: the meta-policy.
        settings: what to adapt to.
        updates: Adam steps on each.
        provenance: JSON values that the record begins with.
        stop: when it is requested, the evaluation ends after the collection at hand.
        held_out: also adapt to half of each setting's DAGs and measure on the other half.

    Returns:
        What `write` does, or None where a stop was requested: then nothing is written.

    Raises:
        InputError: as `evaluate_setting`.
    """
    results = []
    for index, setting in enumerate(settings):
        with Progress(max(updates * (1 + held_out), 1), f"adapting to {setting.name}") as progress:

            def on_round(update: int, latency_ms: float, entropy: float, progress: Progress = progress) -> None:
                progress.update(update, latency_ms=latency_ms, entropy=entropy)
                if stop.requested:
                    raise _StoppedError

            try:
                result = evaluate_setting(config, params, setting, index, updates, held_out=held_out, on_round=on_round)
            except _StoppedError:
                progress.print("stopped while adapting; nothing of the evaluation was written")
                return None
        results.append(result)
    return write(folder, name, config.label, results, provenance)


def table(label: str, results: Sequence[SettingResult]) -> str:
    """Mean latency of each plan on each setting, and its distance from HEFT-based.

    Args:
        label: the learned method's name.
        results: one entry a setting.
    """
    header = ["mean latency, ms", *(result.setting for result in results), "vs HEFT-based"]
    rows = [_row(name, [result.baselines_ms[name] for result in results], results) for name in BASELINES]
    updates = len(results[0].adaptation.latency_ms) - 1
    for mark in marks(updates):
        name = f"{label}, {'before any update' if mark == 0 else f'after {mark}'}"
        rows.append(_row(name, [result.adaptation.latency_ms[mark] for result in results], results))
    if all(result.held_out is not None for result in results):
        for mark in sorted({0, updates}):
            values = [result.held_out.latency_ms[mark] for result in results if result.held_out]
            rows.append([f"  on the other half, after {mark}", *(f"{value:.1f}" for value in values), ""])
    return format_table(header, rows)


def _row(name: str, values: Sequence[float], results: Sequence[SettingResult]) -> list[str]:
    ratios = [value / result.baselines_ms["HEFT-based"] for value, result in zip(values, results, strict=True)]
    change = 100 * (sum(ratios) / len(ratios) - 1)
    return [name, *(f"{value:.1f}" for value in values), "" if name == "HEFT-based" else f"{change:+.1f} %"]


def provenance(config: TrainConfig, dataset: DagDataset, iteration: int, updates: int) -> dict[str, Any]:
    """What a record says of its origin: settings, meta-iterations done, data, updates, and this session's software."""
    return {
        "config": config.to_json(),
        "iteration": iteration,
        "data_hash": dataset.content_hash,
        "updates": updates,
        **session(config),
    }


def record(label: str, results: Sequence[SettingResult], provenance: dict[str, Any]) -> dict[str, Any]:
    """The evaluation as JSON values: provenance, and for each setting all that was measured."""
    return {"method": label, **provenance, "settings": [dataclasses.asdict(result) for result in results]}


def write(folder: Path, name: str, label: str, results: Sequence[SettingResult], provenance: dict[str, Any]) -> str:
    """Writes `name`.json and `name`.md into `folder`, and `name`.png where matplotlib is installed.

    Returns:
        The table, with a line on where the files are.
    """
    text = table(label, results)
    contents = json.dumps(record(label, results, provenance)) + "\n"
    write_atomically(folder / f"{name}.json", contents.encode())
    write_atomically(folder / f"{name}.md", (text + "\n").encode())
    files = [f"{name}.json", f"{name}.md"]
    try:
        image = adaptation_figure(label, results)
    except ImportError:
        note = "no figure: matplotlib is not installed (pip install 'mrlato-jax[plots]')"
    else:
        write_atomically(folder / f"{name}.png", image)
        files.append(f"{name}.png")
        note = ""
    return "\n".join(filter(None, [text, "", f"in {folder}: {', '.join(files)}", note]))


def adaptation_figure(label: str, results: Sequence[SettingResult]) -> bytes:
    """One panel a setting: the learned policy's latency after each update, the unlearned plans as lines.

    Plans far above the curve are named in the panel's corner rather than drawn, which would flatten it.

    Returns:
        A PNG file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import io

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    styles = {"HEFT-based": ("C1", "-"), "greedy": ("C2", "-."), "all-offload": ("C3", "--"), "random": ("C4", ":")}
    figure, axes = plt.subplots(1, len(results), figsize=(4.2 * len(results), 3.8), squeeze=False, layout="constrained")
    for axis, result in zip(axes[0], results, strict=True):
        curve = result.adaptation.latency_ms
        axis.plot(range(len(curve)), curve, "C0", label=label, linewidth=2, zorder=3)
        beyond = []
        for name, value in result.baselines_ms.items():
            if name in styles and value <= FAR * max(curve):
                axis.axhline(value, color=styles[name][0], linestyle=styles[name][1], linewidth=1.3, label=name)
            else:
                beyond.append(f"{name} {value:.0f}")
        axis.set_title(result.setting)
        axis.set_xlabel("updates (gradient steps on the set)")
        axis.grid(alpha=0.25)
        if beyond:
            axis.annotate(
                f"above: {', '.join(beyond)} ms",
                (0.98, 0.98),
                xycoords="axes fraction",
                ha="right",
                va="top",
                fontsize=8,
            )
        axis.margins(y=0.15)
    axes[0][0].set_ylabel("mean latency, ms (argmax-decoded)")
    handles: dict[str, Any] = {}
    for axis in axes[0]:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    plt.close(figure)
    return buffer.getvalue()
