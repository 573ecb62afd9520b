"""The paper's Figures 4 to 6 with further methods, and the training curves behind them, as PNG files."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mrlato_jax.drawing import COLOURS, LINES, legend_below
from mrlato_jax.results.comparison import Curves, Panel, labels_of
from mrlato_jax.results.studies import BASE, UNLEARNED, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWN = ("greedy", "HEFT-based", "look-ahead", "look-ahead, order too", "local search", "optimum", "order search")
LETTERS_A_NOTE = 48
GAP_TICKS = (1, 2, 5, 10, 20, 50, 100)  # percent
EXPLAINED, EXPLAINED_METRIC = "explained variance of the returns (not below -0.2)", "value_explained"
CURVES = {
    "latency / HEFT-based": lambda curve: np.asarray(curve["latency_ms"]) / np.asarray(curve["heft_ms"]),
    "entropy, nats a decision": lambda curve: np.asarray(curve["entropy"]),
    EXPLAINED: lambda curve: np.clip(np.asarray(curve[EXPLAINED_METRIC]), -0.2, 1),
    "KL of the last inner step, nats": lambda curve: np.asarray(curve["approx_kl"]),
}


def adaptation_panels(panels: Sequence[Panel], near: float | None = None) -> Figure:
    """Draws mean latency over updates, one panel for each test set.

    Learned methods are curves with bands over seeds; planners are lines.

    Args:
        panels: the test sets.
        near: draw only methods below `near` times the optimum, and list the others in a note; None draws all.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = _figure(len(panels), 4.6)
    for axis, panel in zip(axes, panels, strict=True):
        limit = math.inf if near is None else near * panel.optimum_ms
        highest = max(min(learned.latency_ms.max(), limit) for learned in panel.learned.values())
        beyond = []
        for colour, label in zip(COLOURS, labels_of(panels), strict=False):
            if label not in panel.learned:
                continue
            curves = panel.learned[label].latency_ms
            if curves.min() > limit:
                beyond.append(f"{label} {curves.min():.0f} ms")
                continue
            updates, seeds = np.arange(curves.shape[1]), len(curves)
            shown = f"{label} ({seeds} seeds)" if seeds > 1 else label
            alone = "o" if len(updates) == 1 else None
            axis.plot(updates, curves.mean(axis=0), colour, label=shown, linewidth=2, zorder=3, marker=alone)
            axis.fill_between(updates, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.2, linewidth=0)
        for name in DRAWN:
            (colour, style), value = LINES[name], panel.planned_ms(name)
            if value <= (1.05 * highest if near is None else limit):
                axis.axhline(value, color=colour, linestyle=style, linewidth=1.3, label=name)
            else:
                beyond.append(f"{name} {value:.0f} ms")
        if beyond:
            axis.annotate(
                textwrap.fill(f"above: {', '.join(beyond)}", LETTERS_A_NOTE),
                (0.98, 0.92),  # below a possible line along the upper edge
                xycoords="axes fraction",
                ha="right",
                va="top",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )
        axis.set_title(panel.name)
        axis.set_xlabel("updates (gradient steps on the set)")
        axis.xaxis.get_major_locator().set_params(integer=True)
        if not panel.updates:
            axis.set_xticks([0])
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("mean latency, ms (argmax-decoded)")
    legend_below(figure, axes)
    return figure


def training_panels(curves: Curves) -> Figure:
    """Draws metrics for the diagnosis of a training, one line per seed.

    Args:
        curves: each seed's training curve by label, from `comparison.training_curves`; methods that learn no values
            lack `value_explained`.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure, axes = _figure(len(CURVES), 4.0)
    for axis, (title, values) in zip(axes, CURVES.items(), strict=True):
        for colour, (label, seeds) in zip(COLOURS, curves.items(), strict=False):
            for number, curve in enumerate(seeds):
                if title == EXPLAINED and EXPLAINED_METRIC not in curve:
                    continue
                shown = label if number == 0 else None
                axis.plot(curve["iteration"], values(curve), colour, label=shown, linewidth=1, alpha=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("iterations")
        axis.grid(alpha=0.25)
    axes[0].axhline(1.0, color="black", linewidth=1)
    axes[3].set_yscale("log")
    legend_below(figure, axes)
    return figure


def study_panels(study: Study, rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws the gap to the optimum over iterations, one panel per group: the base and the group's variants.

    Curves are means over seeds. Horizontal lines are planners, named in the first panel's legend. Groups without a
    trained variant are left out.

    Args:
        study: the study.
        rows: rows of its record, by variant and seed.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib import figure as plots

    groups = {group: names for group, names in study.groups.items() if any(name in rows for name in names)}
    columns = max(1, min(4, len(groups)))
    lines = max(1, -(-len(groups) // columns))
    figure = plots.Figure(figsize=(4.2 * columns, 3.4 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axis, (group, variants) in zip(axes, groups.items(), strict=False):
        for colour, name in zip(COLOURS, (BASE, *variants), strict=False):
            seeds = [row["curve"] for row in rows.get(name, {}).values()]
            if not seeds:
                continue
            gaps = np.array([curve["gap_percent"] for curve in seeds])
            axis.plot(seeds[0]["iteration"], gaps.mean(axis=0), colour, label=name, linewidth=1.6)
            axis.fill_between(
                seeds[0]["iteration"], gaps.min(axis=0), gaps.max(axis=0), color=colour, alpha=0.2, linewidth=0
            )
        for name in UNLEARNED:
            if name in rows:
                (colour, style), label = LINES[name], name if axis is axes[0] else None
                axis.axhline(rows[name]["all"]["gap_percent"], color=colour, linestyle=style, linewidth=1, label=label)
        axis.set_title(group, fontsize=10)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, framealpha=0.9, edgecolor="none")
    for axis in axes[len(groups) :]:
        axis.set_visible(False)
    for axis in axes[::columns]:
        axis.set_ylabel("% above the optimum")
    axes[0].set_yscale("log")
    axes[0].set_yticks(GAP_TICKS, labels=[f"{tick}" for tick in GAP_TICKS])
    axes[0].minorticks_off()
    figure.supxlabel("iterations", fontsize=10)
    figure.suptitle(f"{study.question} Fresh DAGs of the training families", fontsize=12)
    return figure


def _figure(panels: int, width: float) -> tuple[Figure, Any]:
    from matplotlib import figure as plots  # pyplot would change the caller's backend and open figures

    figure = plots.Figure(figsize=(width * panels, 4.2), layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]
