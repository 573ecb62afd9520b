"""Pictures of a plan: the application with its placements, and the schedule as a Gantt chart (extra `plots`)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph, levels
from mrlato_jax.errors import escaped
from mrlato_jax.mec.latency import OFFLOAD
from mrlato_jax.mec.system import System, task_times
from mrlato_jax.planners import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOCAL_COLOUR, OFFLOAD_COLOUR = "#4C78A8", "#F58518"
RESOURCES = ("UE", "uplink", "VM", "downlink")
MOST_NAMED = 60  # tasks; of more, names would cover one another
MOST_ARROWS = 500  # edges; heads of more are too small to be seen, and take seconds to draw
LONGEST_NAME = 14


def dag_figure(graph: TaskGraph, plan: Plan, title: str = "") -> Figure:
    """The application from left to right, a column a level, each task coloured by where it runs.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib import figure as plots
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    level = levels(graph)
    widths = np.bincount(level)
    across = np.zeros(graph.num_tasks)
    for column in range(len(widths)):
        members = np.flatnonzero(level == column)
        if column:  # under the mean of its parents, so that edges cross less
            wanted = [across[graph.parents(int(task))].mean() for task in members]
            members = members[np.argsort(wanted, kind="stable")]
        across[members] = np.arange(len(members)) - (len(members) - 1) / 2
    named = graph.num_tasks <= MOST_NAMED
    size = (min(16.0, 2 + 1.1 * len(widths)), min(10.0, 1.6 + 0.55 * widths.max()))
    figure = plots.Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    gap = 7 if named else 3  # points between an edge and the middle of a task
    thin = max(0.2, min(1.0, 60 / max(1, len(graph.edges))))
    if len(graph.edges) > MOST_ARROWS:
        ends = np.stack([level, -across], axis=-1)
        axes.add_collection(LineCollection(list(ends[graph.edges]), colors="0.55", linewidths=thin, zorder=1))
    for parent, child in graph.edges.tolist() if len(graph.edges) <= MOST_ARROWS else ():
        axes.annotate(
            "",
            (level[child], -across[child]),
            (level[parent], -across[parent]),
            arrowprops={"arrowstyle": "-|>", "color": "0.55", "linewidth": thin, "shrinkA": gap, "shrinkB": gap},
        )
    colours = [OFFLOAD_COLOUR if side == OFFLOAD else LOCAL_COLOUR for side in plan.placement]
    axes.scatter(level, -across, s=150 if named else 24, c=colours, zorder=3, edgecolors="white", linewidths=0.8)
    if named:
        for task, name in enumerate(graph.names):
            axes.annotate(
                shortened(name), (level[task], -across[task]), (0, -12), textcoords="offset points", ha="center",
                va="center", fontsize=6.5, zorder=4, parse_math=False,
            )  # fmt: skip
    axes.margins(0.08, 0.12)
    axes.set_axis_off()
    sides = (("local", LOCAL_COLOUR), ("offloaded", OFFLOAD_COLOUR))
    handles = [Line2D([], [], marker="o", linestyle="", color=colour, label=name) for name, colour in sides]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def schedule_figure(graph: TaskGraph, system: System, plan: Plan, title: str = "") -> Figure:
    """When each task is on the UE, the uplink, the VM and the downlink, milliseconds.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib import figure as plots

    times, schedule = task_times(graph, system), plan.schedule
    ends = (schedule.ue_end, schedule.upload_end, schedule.vm_end, schedule.download_end)
    spans = (times.ue, times.uplink, times.vm, times.downlink)
    offloaded = plan.placement == OFFLOAD
    figure = plots.Figure(figsize=(min(16.0, 7 + 0.12 * graph.num_tasks), 3.2), layout="constrained")
    axes = figure.subplots()
    narrow = 0.012 * plan.makespan  # of a bar that still holds a number
    for row, (resource, end, span) in enumerate(zip(RESOURCES, ends, spans, strict=True)):
        used = np.flatnonzero(offloaded if resource != "UE" else ~offloaded)
        starts = 1e3 * (end[used] - span[used])
        colour = LOCAL_COLOUR if resource == "UE" else OFFLOAD_COLOUR
        axes.barh(
            np.full(len(used), row), 1e3 * span[used], left=starts, height=0.7, color=colour, edgecolor="white",
            linewidth=0.6,
        )  # fmt: skip
        for task, start in zip(used, starts, strict=True):
            if graph.num_tasks <= MOST_NAMED and span[task] > narrow:
                middle = start + 500 * span[task]
                axes.text(middle, row, str(task), ha="center", va="center", fontsize=6.5, color="white")
    axes.axvline(1e3 * plan.makespan, color="0.3", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(RESOURCES)), RESOURCES)
    axes.set_ylim(len(RESOURCES) - 0.5, -0.5)
    axes.set_xlim(0, 1e3 * plan.makespan * 1.02 or 1)
    axes.set_xlabel("ms" + ("; numbers are tasks by their place in the file" if graph.num_tasks <= MOST_NAMED else ""))
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def shortened(name: str) -> str:
    """A task's name as a picture has room for it."""
    name = escaped(name)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def png(figure: Figure) -> bytes:
    """The file's contents."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
