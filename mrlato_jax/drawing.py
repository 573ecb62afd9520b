"""Common parts of the figures: styles of planners and methods, and conversion to PNG.

Grey: plans without planning, greedy and local search. Black and brown: HEFT-based and look-ahead. Green: the optimum
and order search. `COLOURS` are for learned methods. Matplotlib is an extra, which the figures import.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES: Mapping[str, tuple[str, Any]] = {  # colour and line style of planners
    "random": ("0.7", ":"),
    "all-offload": ("0.45", (0, (5, 1, 1, 1, 1, 1))),
    "all-local": ("0.45", "-."),
    "greedy": ("0.55", (0, (1, 1))),
    "HEFT-based": ("black", "-"),
    "look-ahead": ("tab:brown", ":"),
    "look-ahead, order too": ("tab:brown", (0, (4, 2))),
    "local search": ("0.35", (0, (4, 2))),
    "optimum": ("tab:green", "-"),
    "order search": ("tab:green", (0, (4, 2))),
}
COLOURS = ("C0", "C1", "C3", "C4", "C6", "C9", "C8")  # colours of learned methods, in order


def png(figure: Figure) -> bytes:
    """Renders a figure as the contents of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
