"""Pictures of a plan: the application with its placements, and the schedule as a Gantt chart (extra `plots`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from mrlato_jax.dag.arrangement import DOTS, NAMED, Arrangement, arranged
from mrlato_jax.dag.task_graph import TaskGraph, levels
from mrlato_jax.drawing import (
    COLOURS,
    FAMILY,
    LABEL_POINTS,
    LINES,
    LINK_COLOURS,
    LONGEST_LABEL,
    POINTS,
    SERVER_COLOURS,
    SMALL_POINTS,
    UE_COLOUR,
    Bar,
    Labels,
    Strip,
    check_matplotlib,
    common_beginning,
    families_for,
    gantt,
    ink_on,
    labels_of,
    widths_of,
)
from mrlato_jax.errors import escaped
from mrlato_jax.mec.latency import LOCAL
from mrlato_jax.mec.system import CHANNELS, System, task_times
from mrlato_jax.mec.transfers import link_of, transfers
from mrlato_jax.planners import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FOOT = "the line along the foot of a transfer has the colour of its server"
ROOMY = "the bars have the tasks' names where there is room"
UNNAMED = "too many tasks for names; the command's table, or --json, has the names"
NOTE_POINTS = 7  # size of letters
AROUND_LABEL = 0.14  # inches, on both sides together
MOST_NAMED = 60  # tasks; with more tasks the names would be too small to read
NARROWEST = 6.2  # inches: room for the legend
ABOVE, BESIDE, BELOW, NOTED = 0.45, 0.2, 0.55, 0.15  # inches around an application; the last for a line of text
EDGE_COLOUR, MANY_EDGES = "#8A8A8A", "#C4C4C4"  # the second for more than `MOST_DARK` edges
MOST_DARK = 1500
GANTT_LEFT, GANTT_RIGHT, GANTT_BELOW, GANTT_ABOVE = 1.05, 0.98, 0.75, 0.42  # inches around the bars

LOW_ROW, HIGH_ROW = 0.55, 1.3  # least and greatest height of a resource's row, inches
MARKERS = "sD^vP*Xp"  # markers of the plans beside a front
NARROW_FRONT = 0.1  # a narrower front, as a share of its greatest value, counts as this wide
ROW_NAMES = {"UE": "device (UE)", "VM": "server (VM)"}  # printed names of resources, where they differ


def dag_figure(graph: TaskGraph, plan: Plan, title: str = "") -> Figure:
    """Draws the application from left to right, with a column for each level and a colour for each site.

    Columns without room continue in a row below; dotted lines lead from the row above to the row below. An edge that
    skips columns passes beside their tasks. More than `MOST_NAMED` tasks are dots without names.

    Raises:
        ImportError: matplotlib is not installed.
    """
    check_matplotlib()
    from matplotlib import figure as plots

    figure = plots.Figure()
    named = graph.num_tasks <= MOST_NAMED
    labels = labels_of(graph.names) if named else Labels(("",) * graph.num_tasks, (FAMILY,), UNNAMED)
    sizes, widths = DOTS, [DOTS.height] * graph.num_tasks
    if named:
        room = widths_of(figure, labels.texts, labels.families, LABEL_POINTS)
        sizes, widths = NAMED, [max(NAMED.height, room[text] / POINTS + AROUND_LABEL) for text in labels.texts]
    drawing = arranged(graph, widths, sizes)
    below = BELOW + NOTED * (bool(labels.note) + (not named))
    spare = max(0.0, NARROWEST - drawing.width) / 2 + BESIDE
    figure.set_size_inches(drawing.width + 2 * spare, drawing.height + below + ABOVE)
    axes = figure.add_axes((0, 0, 1, 1))  # in inches
    axes.set_xlim(-spare, drawing.width + spare)
    axes.set_ylim(drawing.height + below, -ABOVE)
    axes.set_axis_off()
    _draw_edges(axes, drawing, np.unique(graph.edges[:, 1]).tolist(), sizes.head)
    sites = plan.placement.tolist()
    if named:
        _draw_boxes(axes, drawing, sites, labels)
    else:
        axes.scatter(
            [box.left + box.width / 2 for box in drawing.boxes], [box.middle for box in drawing.boxes],
            s=(sizes.height * POINTS) ** 2, c=[colour_of(site) for site in sites], linewidths=0, zorder=3,
        )  # fmt: skip
        _caption_columns(axes, graph, drawing)
    _draw_legend(figure, sites)
    _note(figure, 0.5, 0.45, labels, labels.note, ha="center")
    _head(figure, title)
    return figure


def _draw_edges(axes: Axes, drawing: Arrangement, children: Sequence[int], head: float) -> None:
    """Draws the lines, and at each child an arrowhead of `head` inches."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    grey = EDGE_COLOUR if len(drawing.lines) <= MOST_DARK else MANY_EDGES
    thin = float(np.clip(60 / max(1, len(drawing.lines)), 0.35, 1.0))
    codes = (Path.MOVETO, Path.LINETO, Path.CURVE4, Path.CURVE4, Path.CURVE4, Path.LINETO)
    for lines, style in ((drawing.lines, "-"), (drawing.breaks, ":")):
        path = Path(np.reshape(lines, (-1, 2)), codes * len(lines))
        axes.add_patch(PathPatch(path, fill=False, edgecolor=grey, linewidth=thin, linestyle=style, zorder=1))
    boxes = [drawing.boxes[child] for child in children]
    axes.scatter(
        [box.left - head / 2 for box in boxes], [box.middle for box in boxes], marker=">", s=(head * POINTS) ** 2,
        c=EDGE_COLOUR, linewidths=0, zorder=2,
    )  # fmt: skip


def _draw_boxes(axes: Axes, drawing: Arrangement, sites: Sequence[int], labels: Labels) -> None:
    """Draws a box with a name for each task, in the colour of its site."""
    from matplotlib.patches import FancyBboxPatch

    look: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.06", "edgecolor": "none", "zorder": 3}
    for box, site, text in zip(drawing.boxes, sites, labels.texts, strict=True):
        colour = colour_of(site)
        axes.add_patch(FancyBboxPatch((box.left, box.top), box.width, box.height, facecolor=colour, **look))
        axes.text(
            box.left + box.width / 2, box.middle, text, ha="center", va="center", zorder=4, fontsize=LABEL_POINTS,
            color=ink_on(colour), family=list(labels.families), parse_math=False,
        )  # fmt: skip


def _caption_columns(axes: Axes, graph: TaskGraph, drawing: Arrangement) -> None:
    """Writes below each column, where there is room, the common beginning of its names and its number of tasks."""
    level = levels(graph)
    free = -axes.get_xlim()[1]
    for column in range(0 if drawing.breaks else int(level.max()) + 1):
        tasks = np.flatnonzero(level == column).tolist()
        boxes = [drawing.boxes[task] for task in tasks]
        stem = common_beginning([escaped(graph.names[task]) for task in tasks]).rstrip("0123456789_-. ([")
        common = len(tasks) > 1 and len(stem) > 1
        text = f"{stem[:LONGEST_LABEL]}: {len(tasks)}" if common else f"{len(tasks)} task{'s' * (len(tasks) > 1)}"
        middle = (boxes[0].left + max(box.left + box.width for box in boxes)) / 2
        half = widths_of(axes.figure, [text], (FAMILY,), SMALL_POINTS)[text] / POINTS / 2
        if middle - half > free:
            axes.text(
                middle, drawing.height + 0.05, text, ha="center", va="top", fontsize=SMALL_POINTS, color="0.35",
                parse_math=False,
            )  # fmt: skip
            free = middle + half + 0.05


def _draw_legend(figure: Figure, sites: Sequence[int]) -> None:
    """Draws the legend: the number of tasks at each site, and the meaning of an arrow."""
    from matplotlib.lines import Line2D

    counts = np.bincount(sites, minlength=2).tolist()
    handles = [
        Line2D([], [], marker="s", linestyle="", color=colour_of(site), label=counted(site, count, len(counts) > 2))
        for site, count in enumerate(counts)
    ]
    handles.append(Line2D([], [], color=EDGE_COLOUR, marker=">", markersize=4, label="result goes to"))
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=8, columnspacing=1.2)


def _note(figure: Figure, x: float, inches: float, labels: Labels, text: str, **alignment: Any) -> None:
    """Writes a line of small text, `inches` above the lower end."""
    if text:
        figure.text(
            x, inches / figure.get_figheight(), text, fontsize=NOTE_POINTS, color="0.35", family=list(labels.families),
            parse_math=False, **alignment,
        )  # fmt: skip


def _head(figure: Figure, title: str) -> None:
    """Writes the title at the top."""
    if title:
        families, missing = families_for(title)
        shown = "".join("?" if letter in missing else letter for letter in title)
        text = figure.suptitle(shown, fontsize=11, y=1 - 0.12 / figure.get_figheight(), va="top", family=families)
        text.set_parse_math(False)


def colour_of(site: int) -> str:
    """Returns the colour of a site."""
    return UE_COLOUR if site == LOCAL else SERVER_COLOURS[(site - 1) % len(SERVER_COLOURS)]


def counted(site: int, tasks: int, several: bool) -> str:
    """Returns the legend's text for a site."""
    where = "on the device" if site == LOCAL else f"on server {site}" if several else "on the server"
    return f"{where}: {tasks} task{'s' * (tasks != 1)}"


def front_figure(plans: Sequence[Plan], others: Mapping[str, Plan], title: str = "") -> Figure:
    """Draws energy against makespan: the front as a line, other plans as points that a legend names.

    The axes fit the front. A plan that is further from the front than the front is wide is a line of text.

    Args:
        plans: plans of `mj.front`, by ascending makespan.
        others: plans to compare, by name.
        title: title of the figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    check_matplotlib()
    from matplotlib import figure as plots

    figure = plots.Figure(figsize=(7.4, 4.4), layout="constrained")
    axes = figure.subplots()
    spans, joules = [1e3 * plan.makespan for plan in plans], [plan.energy for plan in plans]
    window = [_around(spans), _around(joules)]
    front = "no other plan is better in both"
    axes.plot(spans, joules, "o-", color="0.2", markersize=3, linewidth=1.2, drawstyle="steps-post", label=front)
    places: dict[tuple[float, float], list[str]] = {}
    for name, plan in others.items():
        places.setdefault((round(1e3 * plan.makespan, 6), round(plan.energy, 9)), []).append(name)
    shown = {
        place: names for place, names in places.items()
        if all(low <= value <= high for value, (low, high) in zip(place, window, strict=True))
    }  # fmt: skip
    for ((span, energy), names), marker in zip(shown.items(), cycle(MARKERS), strict=False):
        colour = LINES.get(names[0], (COLOURS[0], "-"))[0]
        axes.plot(
            span, energy, marker, color=colour, markersize=6.5, markerfacecolor="none", markeredgewidth=1.3,
            label=",\n".join(names),
        )  # fmt: skip
    axes.set_xlabel("makespan, ms")
    axes.set_ylabel("energy of the device, J")
    axes.ticklabel_format(useOffset=False)
    for limits, (low, high), values in (
        (axes.set_xlim, window[0], [*spans, *(span for span, _ in shown)]),
        (axes.set_ylim, window[1], [*joules, *(energy for _, energy in shown)]),
    ):
        edge = 0.1 * max(max(values) - min(values), (high - low) / 3)
        limits(min(values) - edge, max(values) + edge)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    axes.set_title(title or "makespan against energy", fontsize=11, pad=12).set_parse_math(False)
    far = [
        f"outside the picture: {', '.join(names)} ({span:.1f} ms, {energy:.3g} J)"
        for (span, energy), names in places.items() if (span, energy) not in shown
    ]  # fmt: skip
    if far:
        figure.supxlabel("\n".join(far), fontsize=8, color="0.35").set_parse_math(False)
    return figure


def _around(values: Sequence[float]) -> tuple[float, float]:
    """Returns the range of values, on each side as much wider as the range is wide."""
    low, high = min(values), max(values)
    width = max(high - low, NARROW_FRONT * high) or 1.0
    return low - width, high + width


def schedule_figure(graph: TaskGraph, system: System, plan: Plan, title: str = "") -> Figure:
    """Draws when each task is on the UE or a server, and its input or result on the links, in milliseconds.

    Each resource has a row and a colour. To the right of a row are the number of its uses and the share of the makespan
    in which the resource is busy. With several servers, a line along the foot of a transfer has the colour of its
    server, on the backhaul that of the receiving server.

    Raises:
        ImportError: matplotlib is not installed.
    """
    check_matplotlib()
    times, schedule = task_times(graph, system), plan.schedule
    labels = labels_of(graph.names)
    servers = range(1, system.num_sites)
    several = system.num_servers > 1
    computing = ["UE", *(f"server {k}" if several else "VM" for k in servers)]  # by site
    rows: dict[str, list[Bar]] = {name: [] for name in ("UE", *(link_of(system, LOCAL, k) for k in servers))}
    rows |= {name: [] for name in computing[1:]}
    if several and CHANNELS[system.channel].results_stay:
        rows[link_of(system, 1, 2)] = []
    rows |= {link_of(system, k, LOCAL): [] for k in servers}
    for task, site in enumerate(plan.placement.tolist()):
        end, seconds = (
            (schedule.ue_end[task], times.ue[task])
            if site == LOCAL
            else (schedule.vm_end[task], times.vm[task, site - 1])
        )
        rows[computing[site]].append(Bar(end - seconds, end, labels.texts[task], colour_of(site)))
    for sent in transfers(graph, system, plan.placement, plan.order, schedule):
        link = link_of(system, sent.source, sent.target)
        stripe = colour_of(sent.server) if several else None
        rows[link].append(Bar(sent.start, sent.end, labels.texts[sent.task], LINK_COLOURS[link.split()[0]], stripe))
    strips = [
        Strip(line, 0.72, bars, "tasks" if name in computing else "transfers")
        for line, (name, bars) in enumerate(rows.items())
    ]
    if several:
        labels = labels._replace(note="; ".join(filter(None, [labels.note, FOOT])))
    figure = gantt_figure(list(rows), strips, plan.makespan, labels, title)
    for line, strip in enumerate(strips):
        count = len(strip.bars)
        used = f"{count} {strip.noun if count != 1 else strip.noun[:-1]}"
        busy = sum(bar.end - bar.start for bar in strip.bars) / (plan.makespan or 1)
        figure.axes[0].annotate(
            f"{used},\nbusy {100 * busy:.0f} %", (1.0, line), (6, 0), ("axes fraction", "data"), "offset points",
            va="center", fontsize=8, color="0.35",
        )  # fmt: skip
    figure.axes[0].axvline(1e3 * plan.makespan, color="0.3", linewidth=1, linestyle=":")
    return figure


def gantt_figure(
    rows: Sequence[str], strips: Sequence[Strip], latest: float, labels: Labels, title: str = ""
) -> Figure:
    """Draws bars against milliseconds, with a row for each resource.

    Args:
        rows: names of the rows, from the top.
        strips: the bars of the rows.
        latest: end of the last bar, seconds.
        labels: labels of the tasks.
        title: title of the figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib import figure as plots

    most = max(len(strip.bars) for strip in strips)
    width, tall = float(np.clip(6 + 0.3 * most, 7.5, 15)), LOW_ROW
    figure = plots.Figure()
    if len(labels.texts) <= MOST_NAMED:  # the longest name has room upright in the lowest strip
        longest = max(widths_of(figure, labels.texts, labels.families, SMALL_POINTS).values()) + 3
        tall = float(np.clip(longest / POINTS / min(strip.height for strip in strips), LOW_ROW, HIGH_ROW))
    height = GANTT_ABOVE + GANTT_BELOW + tall * len(rows)
    figure.set_size_inches(width, height)
    axes = figure.add_axes(
        (GANTT_LEFT / width, GANTT_BELOW / height, 1 - (GANTT_LEFT + GANTT_RIGHT) / width,
         1 - (GANTT_ABOVE + GANTT_BELOW) / height)
    )  # fmt: skip
    axes.set_ylim(len(rows) - 0.5, -0.5)
    left_out = gantt(axes, strips, 1.01 * latest, labels.families)
    shown_rows = [ROW_NAMES.get(name, name) for name in rows]
    axes.set_yticks(range(len(rows)), shown_rows)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("milliseconds from the start")
    axes.spines[["top", "right", "left"]].set_visible(False)
    for line in range(1, len(rows)):
        axes.axhline(line - 0.5, color="0.9", linewidth=0.8, zorder=0)
    unnamed: dict[str, list[str]] = {}
    for strip, bar in left_out:
        unnamed.setdefault(shown_rows[round(strip.middle)], []).append(bar.label)
    short = "; ".join(f"{row}: {', '.join(dict.fromkeys(texts))}" for row, texts in unnamed.items())
    note = "; ".join(filter(None, [labels.note, short and f"too short for a name: {short}"]))
    if widths_of(figure, [note], labels.families, NOTE_POINTS)[note] > POINTS * (width - GANTT_LEFT):
        note = "; ".join(filter(None, [labels.note, ROOMY]))
    _note(figure, GANTT_LEFT / width, 0.08, labels, note)
    _head(figure, title)
    return figure
