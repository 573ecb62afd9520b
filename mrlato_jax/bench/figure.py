"""Figure of the growth section: one log-log panel per axis."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mrlato_jax.drawing import png

_SERIES = {  # name of the measured number: (label, colour, marker)
    "training_seconds": ("one meta-iteration", "C0", "o"),
    "planning_seconds": ("argmax decoding", "C1", "s"),
    "simulator_seconds": ("simulation", "C2", "^"),
}
_COLUMNS = 3  # columns of panels
_AXES = {
    "num_tasks": "tasks a DAG, n",
    "graphs": "DAGs",
    "rollouts": "rollouts a DAG",
    "meta_batch": "learning tasks",
    "devices": "devices",
}


def growth_figure(growth: Mapping[str, Any], subtitle: str) -> bytes:
    """Draws seconds over each axis, with a line of slope 1 from each curve's start and the slope of its last step.

    Over devices, which share a fixed amount of work, the line has slope -1.

    Args:
        growth: the section's record.
        subtitle: description of the machine.

    Returns:
        A PNG file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # pyplot would change the caller's backend and open figures

    axes_of = {name: rows for name, rows in growth.items() if name in _AXES}
    columns = min(len(axes_of), _COLUMNS)
    rows_of_panels = -(-len(axes_of) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.4 * rows_of_panels + 0.8), layout="constrained")
    panels = list(figure.subplots(rows_of_panels, columns, sharey=True, squeeze=False).flat)
    for unused in panels[len(axes_of) :]:
        unused.remove()
    handles: dict[str, Any] = {}
    for i, (panel, (axis, rows)) in enumerate(zip(panels, axes_of.items(), strict=False)):
        ideal = -1 if axis == "devices" else 1
        for name, (label, colour, marker) in _SERIES.items():
            points = [(int(value), row[name]) for value, row in rows.items() if name in row]
            if points:
                x, y = zip(*points, strict=True)
                (handles[label],) = panel.loglog(x, y, colour, marker=marker, label=label, linewidth=1.8, markersize=5)
            if len(points) > 1:
                linear = [y[0] * (value / x[0]) ** ideal for value in x]
                (handles["slope 1 (devices: -1)"],) = panel.plot(
                    x, linear, "0.6", linestyle="--", linewidth=1, zorder=1
                )
                slope = math.log(y[-1] / y[-2]) / math.log(x[-1] / x[-2])
                panel.annotate(
                    f"{slope:.1f}", (x[-1], y[-1]), (6, 0), textcoords="offset points", va="center", fontsize=8
                )
        shared = f" ({growth['base']['meta_batch_on_devices']} learning tasks)" if axis == "devices" else ""
        if i % columns == 0:
            panel.set_ylabel("seconds")
        panel.set_xlabel(_AXES[axis] + shared)
        panel.set_xticks(
            [int(value) for value in rows], labels=list(rows)
        )  # powers of ten would label few of the values
        panel.minorticks_off()
        panel.margins(x=0.16)
        panel.grid(alpha=0.3, linewidth=0.5)
    base = growth["base"]
    at = ", ".join(f"{label.split(',')[0]}: {base[name]}" for name, label in _AXES.items() if name in base)
    figure.suptitle(
        f"Seconds as one size is changed ({at}); numbers are slopes over the last step\n{subtitle}", fontsize=10
    )
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    return png(figure)
