"""What all pictures share: what planners look like, and the way to a PNG file.

Unlearned plans are grey, the heuristics black and brown, what is proven or searched for green; colours are for what is
learned. Matplotlib is an extra and is loaded by the figures that need it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES: Mapping[str, tuple[str, Any]] = {  # of planners: colour and style
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
COLOURS = ("C0", "C1", "C3", "C4", "C5", "C6")  # of learned methods, in order


def png(figure: Figure, dpi: int = 120) -> bytes:
    """The contents of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()
