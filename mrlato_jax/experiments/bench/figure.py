"""Growth, drawn: one log-log panel an axis."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

_SERIES = {  # name of the figure: (label, colour, marker)
    "training_seconds": ("one meta-iteration", "C0", "o"),
    "planning_seconds": ("argmax decoding", "C1", "s"),
    "simulator_seconds": ("simulation", "C2", "^"),
}
_AXES = {"num_tasks": "tasks a DAG, n", "graphs": "DAGs", "rollouts": "rollouts a DAG", "meta_batch": "learning tasks"}


def growth_figure(growth: Mapping[str, Any], subtitle: str) -> bytes:
    """Seconds against each axis, with a line of slope 1, and beside each curve's end its slope over the last step.

    Args:
        growth: the section's record.
        subtitle: where it was measured.

    Returns:
        A PNG file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure  # not pyplot: a caller's backend and open figures are theirs

    axes_of = {name: rows for name, rows in growth.items() if name in _AXES}
    figure = Figure(figsize=(3.6 * len(axes_of), 4.2), layout="constrained")
    panels = figure.subplots(1, len(axes_of), sharey=True, squeeze=False)[0]
    handles: dict[str, Any] = {}
    for panel, (axis, rows) in zip(panels, axes_of.items(), strict=True):
        for name, (label, colour, marker) in _SERIES.items():
            points = [(int(value), row[name]) for value, row in rows.items() if name in row]
            if points:
                x, y = zip(*points, strict=True)
                (handles[label],) = panel.loglog(x, y, colour, marker=marker, label=label, linewidth=1.8, markersize=5)
        _reference(panel, handles)
        panel.set_xlabel(_AXES[axis])
        panel.grid(alpha=0.25, which="both", linewidth=0.5)
    panels[0].set_ylabel("seconds")
    base = growth["base"]
    at = ", ".join(f"{int(base[name])} {label.split(',')[0]}" for name, label in _AXES.items())
    figure.suptitle(f"Growth of cost about {at}\n{subtitle}", fontsize=10)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _reference(panel: Any, handles: dict[str, Any]) -> None:
    """A line of slope 1 through the geometric middle of the panel's data."""
    x = sorted({value for line in panel.lines for value in line.get_xdata()})
    middle = [value for line in panel.lines for value in line.get_ydata()]
    if len(x) < 2:
        return
    centre_y = (min(middle) * max(middle)) ** 0.5
    centre_x = (x[0] * x[-1]) ** 0.5
    ends = [x[0], x[-1]]
    (handles["slope 1"],) = panel.plot(ends, [centre_y * end / centre_x for end in ends], color="0.6", linestyle="--")
