"""Pictures of a plan: the application with its placements, and the schedule as a Gantt chart (extra `plots`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph, levels
from mrlato_jax.drawing import COLOURS, LINES
from mrlato_jax.errors import escaped
from mrlato_jax.mec.latency import LOCAL
from mrlato_jax.mec.system import CHANNELS, System, task_times
from mrlato_jax.mec.transfers import link_of, transfers
from mrlato_jax.planners import Plan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOCAL_COLOUR, OFFLOAD_COLOUR = "#4C78A8", "#F58518"
SERVER_COLOURS = (OFFLOAD_COLOUR, "#54A24B", "#B279A2", "#E45756", "#72B7B2")  # again from the first for more servers
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
    colours = [colour_of(site) for site in plan.placement.tolist()]
    axes.scatter(level, -across, s=150 if named else 24, c=colours, zorder=3, edgecolors="white", linewidths=0.8)
    if named:
        for task, name in enumerate(graph.names):
            axes.annotate(
                shortened(name), (level[task], -across[task]), (0, -12), textcoords="offset points", ha="center",
                va="center", fontsize=6.5, zorder=4, parse_math=False,
            )  # fmt: skip
    axes.margins(0.08, 0.12)
    axes.set_axis_off()
    sites = range(max(2, int(plan.placement.max()) + 1))
    handles = [
        Line2D([], [], marker="o", linestyle="", color=colour_of(site), label=name_of(site, len(sites) > 2))
        for site in sites
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(sites), frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def colour_of(site: int) -> str:
    """The UE's, or a server's."""
    return LOCAL_COLOUR if site == LOCAL else SERVER_COLOURS[(site - 1) % len(SERVER_COLOURS)]


def name_of(site: int, several: bool) -> str:
    """A site in a legend."""
    return "local" if site == LOCAL else f"server {site}" if several else "offloaded"


def front_figure(plans: Sequence[Plan], others: Mapping[str, Plan], title: str = "") -> Figure:
    """Energy against makespan: the front as a line, other plans as points with their names.

    Args:
        plans: `mj.front`'s, by ascending makespan.
        others: plans to compare, by name.
        title: of the figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib import figure as plots

    figure = plots.Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    spans, joules = [1e3 * plan.makespan for plan in plans], [plan.energy for plan in plans]
    axes.plot(spans, joules, "o-", color="0.2", markersize=5, linewidth=1.6, drawstyle="steps-post", label="front")
    places: dict[tuple[float, float], list[str]] = {}
    for name, plan in others.items():
        places.setdefault((round(1e3 * plan.makespan, 6), round(plan.energy, 9)), []).append(name)
    for (span, energy), names in places.items():
        axes.plot(span, energy, "s", color=LINES.get(names[0], (COLOURS[0], "-"))[0], markersize=7)
        axes.annotate(
            ", ".join(names), (span, energy), (6, 6), textcoords="offset points", fontsize=8, parse_math=False
        )
    axes.set_xlabel("makespan, ms")
    axes.set_ylabel("energy of the UE, J")
    axes.set_xlim(0)
    axes.set_ylim(0)
    axes.margins(0.12)
    axes.set_title(title or "no plan on the line is beaten in both", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


class _Bar(NamedTuple):
    """A task on a resource; seconds."""

    task: int
    end: float
    seconds: float
    site: int  # that colours it


def schedule_figure(graph: TaskGraph, system: System, plan: Plan, title: str = "") -> Figure:
    """When each task is on the UE and the servers, and its input or result on the links, milliseconds.

    A bar has the colour of its server, on the backhaul of the one that is sent to.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib import figure as plots

    times, schedule = task_times(graph, system), plan.schedule
    servers = range(1, system.num_sites)
    computing = ["UE", *(f"server {k}" if system.num_servers > 1 else "VM" for k in servers)]  # by site
    rows: dict[str, list[_Bar]] = {name: [] for name in ("UE", *(link_of(system, LOCAL, k) for k in servers))}
    rows |= {name: [] for name in computing[1:]}
    if system.num_servers > 1 and CHANNELS[system.channel].results_stay:
        rows[link_of(system, 1, 2)] = []
    rows |= {link_of(system, k, LOCAL): [] for k in servers}
    for task, site in enumerate(plan.placement.tolist()):
        end, seconds = (
            (schedule.ue_end[task], times.ue[task])
            if site == LOCAL
            else (schedule.vm_end[task], times.vm[task, site - 1])
        )
        rows[computing[site]].append(_Bar(task, end, seconds, site))
    for sent in transfers(graph, system, plan.placement, plan.order, schedule):
        row = rows[link_of(system, sent.source, sent.target)]
        row.append(_Bar(sent.task, sent.end, sent.end - sent.start, sent.server))
    figure = plots.Figure(figsize=(min(16.0, 7 + 0.12 * graph.num_tasks), 1.2 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    narrow = 0.012 * plan.makespan  # of a bar that still holds a number
    for line, bars in enumerate(rows.values()):
        axes.barh(
            np.full(len(bars), line), [1e3 * bar.seconds for bar in bars],
            left=[1e3 * (bar.end - bar.seconds) for bar in bars], height=0.7,
            color=[colour_of(bar.site) for bar in bars], edgecolor="white", linewidth=0.6,
        )  # fmt: skip
        for bar in bars:
            if graph.num_tasks <= MOST_NAMED and bar.seconds > narrow:
                middle = 1e3 * bar.end - 500 * bar.seconds
                axes.text(middle, line, str(bar.task), ha="center", va="center", fontsize=6.5, color="white")
    axes.axvline(1e3 * plan.makespan, color="0.3", linewidth=1, linestyle=":")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1e3 * plan.makespan * 1.02 or 1)
    axes.set_xlabel("ms" + ("; numbers are tasks by their place in the file" if graph.num_tasks <= MOST_NAMED else ""))
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def shortened(name: str) -> str:
    """A task's name as a picture has room for it."""
    name = escaped(name)
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
