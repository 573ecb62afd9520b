"""Common parts of the figures: colours, short names for tasks, bars against time, and conversion to PNG.

Grey: plans without planning, greedy and local search. Black and brown: HEFT-based and look-ahead. Green: the optimum
and order search. `COLOURS` are for learned methods. Matplotlib is an extra, which the figures import.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mrlato_jax.errors import escaped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
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

UE_COLOUR, LIGHT = "#4C78A8", 0.45  # the second: how far narrow bars are mixed with white, every other one
SERVER_COLOURS = ("#F58518", "#54A24B", "#B279A2", "#E45756", "#9D755D")  # again from the first for more servers
LINK_COLOURS = {"uplink": "#EECA3B", "backhaul": "#BAB0AC", "downlink": "#72B7B2"}
LONGEST_LABEL = 16  # letters
LEGEND_POINTS, LABEL_POINTS, SMALL_POINTS = 10.0, 7.5, 6.5  # sizes of letters
SHORTEST_COMMON = 4  # letters that all names begin with, to be left out
POINTS = 72  # in an inch
MOST_COUNTED = 6  # runs of narrow bars that have their count above; of more, counts would be all that is seen
NARROW = 2.5  # points: bars below it cannot be told apart by a line between them
FAMILY = "DejaVu Sans"  # comes with matplotlib
LAST_RESORT = "Last Resort"  # in the name of fonts that draw a box for every letter


def check_matplotlib() -> None:
    """Raises ImportError, which names the extra to install, unless matplotlib is installed."""
    if find_spec("matplotlib") is None:
        raise ImportError("pictures need the package matplotlib (pip install 'mrlato-jax[plots]')")


def png(figure: Figure) -> bytes:
    """Renders a figure as the contents of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


class Labels(NamedTuple):
    """What tasks are called in a picture.

    Attributes:
        texts: of each task.
        families: of fonts, which together have all letters.
        note: what a reader must know of the texts, a line; empty where there is nothing.
    """

    texts: tuple[str, ...]
    families: tuple[str, ...]
    note: str = ""


def labels_of(names: Sequence[str]) -> Labels:
    """Short texts for names, in letters that a font of this machine has; a task without such a text has its number.

    Warns:
        UserWarning: letters that no font here has; the message has them.
    """
    texts, common = short_names(names)
    families, missing = families_for("".join(texts))
    if missing:
        letters = "".join(sorted(missing)[:LONGEST_LABEL])
        warnings.warn(
            f"no font on this machine has the letters {letters}; pictures call such tasks by their number (install a "
            "font that has them, such as Noto Sans CJK)",
            stacklevel=1,  # here, so that the second picture does not say it again
        )
        texts = tuple(f"task {i}" if missing & set(text) else text for i, text in enumerate(texts))
    return Labels(texts, families, f"names without what all begin with, {common}" if common else "")


def short_names(names: Sequence[str], most: int = LONGEST_LABEL) -> tuple[tuple[str, ...], str]:
    """Names of at most `most` letters that stay different, and what all of them began with where that is left out.

    A long name loses its middle, all of them at the same place. What is still alike shows where the names differ, or
    ends in the number of its task.
    """
    shown = [escaped(name) for name in names]
    common = ""
    if max(map(len, shown)) > most and len(shown) > 1:
        common = re.sub(r"[^\W_]*$", "", common_beginning(shown))  # whole words
        common = common if len(common) >= SHORTEST_COMMON and common not in shown else ""
        shown = [name[len(common) :] for name in shown]

    def cut(head: int) -> list[str]:
        tail = most - 1 - head
        return [name if len(name) <= most else f"{name[:head]}…{name[len(name) - tail :]}" for name in shown]

    heads = sorted(range(most), key=lambda head: abs(2 * head - most + 1))  # the most even first
    texts = max(map(cut, heads), key=lambda candidates: len(set(candidates)))
    for text in [text for text, uses in Counter(texts).items() if uses > 1]:
        alike = [i for i, other in enumerate(texts) if other == text]
        differ = len(common_beginning([shown[i] for i in alike]))
        windows = [f"…{shown[i][max(0, differ - 3) :][: most - 2]}…" for i in alike]
        distinct = len({*windows, *texts}) == len(set(texts)) + len(alike)
        for i, window in zip(alike, windows, strict=True):
            texts[i] = window if distinct else f"{shown[i][: most - 2 - len(str(i))]}…#{i}"
    return tuple(texts), common


def common_beginning(texts: Sequence[str]) -> str:
    """The letters that all texts begin with."""
    first, last = min(texts), max(texts)
    return first[: sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))]


def families_for(text: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """Families of fonts that have the letters of `text`, matplotlib's own first, and letters that none here has."""
    from matplotlib import font_manager

    missing = frozenset(text) - {" "}
    families: list[str] = []
    fonts = sorted(
        {(font.name != FAMILY, font.name, font.fname) for font in font_manager.fontManager.ttflist
         if font.style == "normal" and font.weight in (400, "normal", "regular") and LAST_RESORT not in font.name}
    )  # fmt: skip
    for _, family, file in fonts:
        if families and not missing:
            break
        try:
            there = font_manager.get_font(file).get_charmap()
        except (OSError, RuntimeError):  # listed, and gone or damaged
            continue
        has = {letter for letter in missing if ord(letter) in there}
        if has or family == FAMILY:
            families.append(family)
            missing -= has
    return tuple(dict.fromkeys(families)), missing


def widths_of(figure: Any, texts: Iterable[str], families: Sequence[str], size: float) -> dict[str, float]:
    """Points that each text is wide.

    Args:
        figure: matplotlib's, that they are for.
        texts: on one line each.
        families: of fonts.
        size: points of the letters.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()
    widths = {}
    for text in set(texts):
        artist = Text(0, 0, text, family=list(families), fontsize=size, parse_math=False)
        artist.set_figure(figure)
        widths[text] = artist.get_window_extent(renderer).width * POINTS / figure.dpi
    return widths


def legend_below(figure: Figure, axes: Iterable[Axes]) -> None:
    """Adds one legend for all axes below them, each name once, in as few rows as the figure is wide enough for.

    A name that is wider than the figure is broken before a `+` or after a space. The figure gets as much higher as the
    legend is higher than one row.
    """
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    line, gap, border = 2.8 * LEGEND_POINTS, 2 * LEGEND_POINTS, 2 * LEGEND_POINTS  # as matplotlib has them

    def width(texts: Iterable[str]) -> float:
        return line + max(widths_of(figure, texts, (FAMILY,), LEGEND_POINTS).values())

    room = POINTS * figure.get_figwidth() - border
    names = [_broken(name, lambda text: width([text]) <= room) for name in handles]
    layouts = [np.array_split(names, columns) for columns in range(1, len(names) + 1)]  # as matplotlib splits them
    fitting = [layout for layout in layouts if sum(map(width, layout)) + gap * (len(layout) - 1) <= room]
    layout = min(fitting, key=lambda columns: (len(columns[0]), len(columns)), default=layouts[0])
    lines = max(sum(name.count("\n") + 1 for name in column) for column in layout)
    figure.set_figheight(figure.get_figheight() + 1.65 * LEGEND_POINTS / POINTS * (lines - 1))
    figure.legend(
        handles.values(), names, loc="outside lower center", ncols=len(layout), frameon=False, fontsize=LEGEND_POINTS
    )


def _broken(text: str, fits: Callable[[str], bool]) -> str:
    """Lines of a text that fit, broken before a `+` or after a space."""
    lines = [""]
    for piece in re.split(r"(?=\+)|(?<= )", text):
        if lines[-1] and not fits(lines[-1] + piece):
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


class Bar(NamedTuple):
    """A use of a resource; seconds."""

    start: float
    end: float
    label: str
    colour: str
    stripe: str | None = None  # colour of a line along its foot


class Strip(NamedTuple):
    """Bars side by side.

    Attributes:
        middle: in rows from the top.
        height: in rows.
        bars: in any order.
        noun: what a bar is, in the plural: "tasks".
        pale: whether it is what something else is compared with.
    """

    middle: float
    height: float
    bars: Sequence[Bar]
    noun: str
    pale: bool = False


def gantt(axes: Axes, strips: Sequence[Strip], seconds: float, families: Sequence[str]) -> list[tuple[Strip, Bar]]:
    """Draws strips against milliseconds; a label is along its bar, or upright in it, or left out where it has no room.

    Bars too narrow for a line between them alternate in shade; a run of such bars without a gap has its count above,
    where there are few such runs.

    Args:
        axes: whose place in the figure, and whose limits across, are set.
        strips: what is drawn.
        seconds: that the axis is long.
        families: of fonts for the labels.

    Returns:
        The bars without room for their label, each with its strip.
    """
    left_out = []
    axes.set_xlim(0, 1e3 * seconds or 1)
    points = POINTS / axes.figure.dpi
    wide = axes.get_window_extent().width * points / (seconds or 1)  # points of a second
    tall = axes.get_window_extent().height * points / abs(np.subtract(*axes.get_ylim()))  # points of a row
    room = widths_of(axes.figure, (bar.label for strip in strips for bar in strip.bars), families, SMALL_POINTS)
    for strip in strips:
        bars = sorted(strip.bars, key=lambda bar: (bar.start, bar.end))
        narrow = [wide * (bar.end - bar.start) < NARROW for bar in bars]
        crowds = list(crowded(bars, narrow, NARROW / wide))
        crowd = {i for first, last in crowds for i in range(first, last)}
        every_other = {i for first, last in crowds for i in range(first + 1, last, 2)}
        colours = [mixed(bar.colour, LIGHT * (strip.pale or i in every_other)) for i, bar in enumerate(bars)]
        axes.barh(
            [strip.middle] * len(bars), [1e3 * (bar.end - bar.start) for bar in bars],
            left=[1e3 * bar.start for bar in bars], height=strip.height, color=colours,
            edgecolor=[colour if thin else "white" for colour, thin in zip(colours, narrow, strict=True)],
            linewidth=[0.3 if i in crowd else 0.5 if thin else 0.6 for i, thin in enumerate(narrow)],
        )  # fmt: skip
        striped = [bar for bar in bars if bar.stripe]
        if striped:
            axes.hlines(
                [strip.middle + 0.46 * strip.height] * len(striped), [1e3 * bar.start for bar in striped],
                [1e3 * bar.end for bar in striped], colors=[bar.stripe for bar in striped], linewidth=2.5,
            )  # fmt: skip
        for bar, colour in zip(bars, colours, strict=True):
            along, need = wide * (bar.end - bar.start), room[bar.label] + 2
            if bar.label and (need <= along or (along >= 1.2 * SMALL_POINTS and need <= tall * strip.height)):
                axes.text(
                    500 * (bar.start + bar.end), strip.middle, bar.label, ha="center", va="center",
                    rotation=0 if need <= along else 90, rotation_mode="anchor", color=ink_on(colour),
                    fontsize=SMALL_POINTS, family=list(families), parse_math=False,
                )  # fmt: skip
            elif bar.label:
                left_out.append((strip, bar))
        _count(axes, strip, [(bars[first].start, bars[last - 1].end, last - first) for first, last in crowds], wide)
    return left_out


def _count(axes: Axes, strip: Strip, crowds: Sequence[tuple[float, float, int]], wide: float) -> None:
    """Above a strip, how many bars are from the first to the second number of seconds, unless these are too many texts.

    Args:
        axes: of the strip.
        strip: whose bars they are.
        crowds: seconds, seconds, and the number of bars between.
        wide: points of a second.
    """
    if len(crowds) > MOST_COUNTED:
        return
    free = 0.0  # points from the left, behind the text before
    for first, last, count in crowds:
        text = f"{count} {strip.noun}"
        half = widths_of(axes.figure, [text], (FAMILY,), SMALL_POINTS)[text] / 2
        middle = max(wide * (first + last) / 2, half)
        if middle - half >= free:
            axes.text(
                1e3 * middle / wide, strip.middle - strip.height / 2, text, ha="center", va="bottom",
                fontsize=SMALL_POINTS, color="0.25", bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            )  # fmt: skip
            free = middle + half + SMALL_POINTS


def crowded(bars: Sequence[Bar], narrow: Sequence[bool], near: float) -> Iterator[tuple[int, int]]:
    """Where two narrow bars or more stand with no gap of `near` seconds: the first, and the one behind the last.

    Args:
        bars: by their starts.
        narrow: which of them are.
        near: seconds.
    """
    first = 0
    for i in range(1, len(bars) + 1):
        joined = i < len(bars) and narrow[i - 1] and narrow[i] and bars[i].start - bars[i - 1].end <= near
        if not joined:
            if i - first > 1:
                yield first, i
            first = i


def mixed(colour: str, white: float) -> str:
    """A colour #rrggbb with a share of white."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + white * (255 - part)):02x}" for part in parts)


def ink_on(colour: str) -> str:
    """White or nearly black: what is read more easily on a colour #rrggbb."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 140 else "#202020"
