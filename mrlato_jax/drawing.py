"""What the figures share: what planners look like in them, and the way to a PNG file.

Grey are plans that nothing planned, greedy and local search; black and brown HEFT-based and the look-ahead; green the
optimum and order search. `COLOURS` are of learned methods. Matplotlib is an extra and is loaded by the figures.
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
COLOURS = ("C0", "C1", "C3", "C4", "C6", "C9", "C8")  # of learned methods, in order


def png(figure: Figure) -> bytes:
    """The contents of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
