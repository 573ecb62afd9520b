"""Evaluation of a whole experiment, and its output: a record, a table and a figure."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mrlato_jax.config import TrainConfig
from mrlato_jax.dag.dataset import DagDataset
from mrlato_jax.drawing import LINES, legend_below, png
from mrlato_jax.errors import InputError
from mrlato_jax.files import load_json, write_atomically
from mrlato_jax.learning.adaptation import OnRound, marks
from mrlato_jax.methods import QUICK_PLANNERS
from mrlato_jax.progress import Progress, format_table, percent
from mrlato_jax.results.evaluation import SetResult, evaluate_set, optimum_latency
from mrlato_jax.results.record import AS_WRITTEN
from mrlato_jax.training.experiments import TestSet
from mrlato_jax.training.run_folder import session
from mrlato_jax.training.stopping import GracefulStop, StoppedError

FAR = 1.15  # limit of the vertical axis, relative to the curve's highest point
_REFERENCE = "HEFT-based"


def evaluate(
    config: TrainConfig,
    params: Any,
    test_sets: Sequence[TestSet],
    updates: int,
    stop: GracefulStop,
    *,
    held_out: bool = False,
    time_limit_s: float | None = None,
    optima: Mapping[str, tuple[float, int]] | None = None,
) -> list[SetResult] | None:
    """Evaluates every test set; shows progress.

    Args:
        config: settings of the run that trained `params`.
        params: the meta-policy.
        test_sets: the test sets to adapt to.
        updates: number of Adam steps on each.
        stop: after a request, the evaluation ends with the current collection or proof.
        held_out: also adapt to half of each test set's DAGs and measure on the other half.
        time_limit_s: time limit of each DAG's proof, seconds; None computes no optima.
        optima: known optima by test set: their mean in milliseconds, and the number of unproven ones.

    Returns:
        One result for each test set, or None after a stop.

    Raises:
        InputError: as in `evaluate_set`.
    """

    @contextmanager
    def watch(name: str, heft_ms: float) -> Iterator[OnRound]:
        with Progress(max(updates, 1), f"adapting to {name}") as progress:
            progress.print(f"measuring {name} before any update; a new shape compiles first ...")

            def on_round(update: int, latency_ms: float, entropy: float) -> None:
                gap = percent(latency_ms / heft_ms - 1)
                progress.update(update, latency_ms=latency_ms, vs_heft=gap, entropy=entropy)
                if stop.requested:
                    raise StoppedError

            try:
                yield on_round
            except StoppedError:
                progress.print("stopped while adapting; nothing of the evaluation was written")
                raise

    def with_optimum(result: SetResult, test_set: TestSet, time_limit_s: float) -> SetResult:
        with Progress(len(test_set.graphs), f"optima of {test_set.name}") as progress:

            def on_proof(done: int) -> None:
                progress.update(done)
                if stop.requested and not (done == len(test_set.graphs) and test_set is test_sets[-1]):
                    progress.print("stopped while proving; nothing of the evaluation was written")
                    raise StoppedError

            optimum_ms, unproven = optimum_latency(test_set.graphs, test_set.system, time_limit_s, on_proof)
        return dataclasses.replace(result, optimum_ms=optimum_ms, unproven=unproven)

    results = []
    try:
        with stop.unburdened("stopped; nothing of the evaluation was written"):
            for index, test_set in enumerate(test_sets):
                result = evaluate_set(config, params, test_set, index, updates, held_out=held_out, watch=watch)
                if optima is not None and test_set.name in optima:
                    optimum_ms, unproven = optima[test_set.name]
                    result = dataclasses.replace(result, optimum_ms=optimum_ms, unproven=unproven)
                elif time_limit_s is not None:
                    result = with_optimum(result, test_set, time_limit_s)
                results.append(result)
    except StoppedError:
        return None
    return results


def evaluation_table(label: str, results: Sequence[SetResult]) -> str:
    """Formats the mean latency of each method on each test set, and its differences to references on the same DAGs.

    The references are HEFT-based and, where all optima are known, the optimum of the priority order. A difference is
    the mean of those of the test sets.

    Args:
        label: name of the learned method.
        results: one entry for each test set.
    """
    rows = {name: [result.baselines_ms[name] for result in results] for name in QUICK_PLANNERS}
    optima = [result.optimum_ms for result in results if result.optimum_ms is not None]
    references = [rows[_REFERENCE]]
    if len(optima) == len(results):
        unproven = sum(result.unproven for result in results)
        rows[f"optimum ({unproven} unproven)" if unproven else "optimum"] = optima
        references.append(optima)
    updates = len(results[0].adaptation.latency_ms) - 1
    for mark in marks(updates):
        rows[f"{label}, {_when(mark)}"] = [result.adaptation.latency_ms[mark] for result in results]
    cells = [_row(name, values, references) for name, values in rows.items()]
    halves = [(result.held_out, result.held_out_baselines_ms) for result in results]
    measured = [(half, baselines) for half, baselines in halves if half is not None and baselines is not None]
    if len(measured) == len(results):
        heft = [baselines[_REFERENCE] for _, baselines in measured]
        rows = {_REFERENCE: heft}
        rows |= {_when(mark): [half.latency_ms[mark] for half, _ in measured] for mark in sorted({0, updates})}
        unknown = [""] * (len(references) - 1)  # the optimum of the half
        cells += [[*_row(f"  the other half: {name}", values, [heft]), *unknown] for name, values in rows.items()]
    against = [f"vs {_REFERENCE}", "vs optimum"][: len(references)]
    return format_table(["mean latency, ms", *(result.setting for result in results), *against], cells)


def _when(updates: int) -> str:
    return f"after {updates}" if updates else "before any update"


def _row(name: str, values: Sequence[float], references: Sequence[Sequence[float]]) -> list[str]:
    """A row of latencies, with the mean difference to each reference but to itself."""
    ratios = [np.divide(values, reference).mean() for reference in references]
    changes = [
        "" if values is reference else f"{100 * (ratio - 1):+.1f} %"
        for reference, ratio in zip(references, ratios, strict=True)
    ]
    return [name, *(f"{value:.1f}" for value in values), *changes]


def provenance(
    config: TrainConfig, dataset: DagDataset, iteration: int, updates: int, held_out: bool
) -> dict[str, Any]:
    """Returns the origin of a record: the measurement, the policy, and this session's software."""
    return {
        "config": config.to_json(),
        "iteration": iteration,
        "data_hash": dataset.content_hash,
        "updates": updates,
        "held_out": held_out,
        **session(),
    }


def record(label: str, results: Sequence[SetResult], provenance: dict[str, Any]) -> dict[str, Any]:
    """Converts the evaluation to JSON values: its provenance, and all results of each test set."""
    return {"method": label, **provenance, "settings": [dataclasses.asdict(result) for result in results]}


def write(folder: Path, name: str, label: str, results: Sequence[SetResult], provenance: dict[str, Any]) -> str:
    """Writes `name`.json and `name`.md into `folder`, and `name`.png if matplotlib is installed.

    An existing record of another evaluation is kept; then `name`-2 is written, or `name`-3 and so on.

    Returns:
        A line of text with the names of the files.
    """
    name = _free_name(folder, name, results, provenance)
    contents = json.dumps(record(label, results, provenance), allow_nan=False) + "\n"
    write_atomically(folder / f"{name}.json", contents.encode())
    write_atomically(folder / f"{name}.md", (evaluation_table(label, results) + "\n").encode())
    files = [f"{name}.json", f"{name}.md"]
    try:
        image = adaptation_figure(label, results)
    except ImportError:
        note = "; no figure: matplotlib is not installed (pip install 'mrlato-jax[plots]')"
    else:
        write_atomically(folder / f"{name}.png", image)
        files.append(f"{name}.png")
        note = ""
    return f"in {folder}: {', '.join(files)}{note}"


def find(folder: Path, name: str, test_sets: Sequence[TestSet], provenance: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record that `write` left in `folder` of the same measurement; None where there is none.

    What else was measured, as on held-out DAGs, does not count. A record of another version of this package does not
    count either.

    Args:
        folder: of the run.
        name: that the names of its records begin with.
        test_sets: what was measured on.
        provenance: as `write` takes it.
    """
    names = [test_set.name for test_set in test_sets]

    def measured(values: Mapping[str, Any]) -> dict[str, Any]:
        return _measured({**values, "held_out": None})

    for path in sorted(folder.glob(f"{name}*.json")):
        try:
            stored = load_json(path, AS_WRITTEN)
        except InputError:
            continue
        versions = stored.get("versions")
        same = isinstance(versions, dict) and versions.get("mrlato_jax") == provenance["versions"]["mrlato_jax"]
        if same and measured(stored) == measured(provenance) and _settings_of(stored) == names:
            return stored
    return None


def _free_name(folder: Path, name: str, results: Sequence[SetResult], provenance: dict[str, Any]) -> str:
    """Returns `name`, if necessary with a number, such that no record of another measurement is overwritten."""
    names = [result.setting for result in results]
    candidate, number = name, 1
    while (folder / f"{candidate}.json").exists():
        try:
            stored = load_json(folder / f"{candidate}.json", AS_WRITTEN)
        except InputError:
            stored = {}
        if _measured(stored) == _measured(provenance) and _settings_of(stored) == names:
            break
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def _measured(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured of which policy."""
    return {key: provenance.get(key) for key in ("config", "iteration", "data_hash", "updates", "held_out")}


def _settings_of(stored: dict[str, Any]) -> list[Any]:
    """Returns the names of a record's test sets."""
    entries = stored.get("settings")
    if not isinstance(entries, list):
        return []
    return [entry.get("setting") if isinstance(entry, dict) else None for entry in entries]


def adaptation_figure(label: str, results: Sequence[SetResult]) -> bytes:
    """Draws one panel for each test set: the latency after each update, with planners and the optimum as lines.

    The title of a panel compares the curve's last point with HEFT-based. Planners far above the curve are listed in a
    corner of the panel, since lines for them would flatten the curve.

    Returns:
        A PNG file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # pyplot would change the caller's backend and open figures

    figure = Figure(figsize=(4.2 * len(results), 3.8), layout="constrained")
    axes = figure.subplots(1, len(results), squeeze=False)
    for axis, result in zip(axes[0], results, strict=True):
        curve = result.adaptation.latency_ms
        marker = "o" if len(curve) == 1 else None  # a line of one point would be invisible
        axis.plot(range(len(curve)), curve, "C0", label=label, linewidth=2, zorder=3, marker=marker)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if len(curve) == 1:
            axis.set_xticks([0])
        if result.optimum_ms is not None:
            colour, style = LINES["optimum"]
            axis.axhline(result.optimum_ms, color=colour, linestyle=style, linewidth=1.6, label="optimum")
        beyond = []
        for name, value in result.baselines_ms.items():
            if value <= FAR * max(curve):
                colour, style = LINES[name]
                axis.axhline(value, color=colour, linestyle=style, linewidth=1.3, label=name)
            else:
                beyond.append(f"{name} {value:.0f}")
        heft = result.baselines_ms[_REFERENCE]
        axis.set_title(f"{result.setting}: {100 * (curve[-1] / heft - 1):+.1f} % vs {_REFERENCE}")
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
    axes[0][0].set_ylabel("mean latency, ms (lower is better)")
    legend_below(figure, axes[0])
    return png(figure)
