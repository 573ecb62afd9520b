"""Comparison of measured and predicted runs: the predictions, tables, and a figure of both schedules on one axis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.drawing import (
    LIGHT,
    LINK_COLOURS,
    SERVER_COLOURS,
    UE_COLOUR,
    Bar,
    Strip,
    check_matplotlib,
    labels_of,
    mixed,
)
from mrlato_jax.edge.calibrate import size_of, took
from mrlato_jax.edge.cases import Case, one
from mrlato_jax.edge.ue import RESOURCES, Run, Span
from mrlato_jax.inference.pictures import gantt_figure
from mrlato_jax.mec.latency import LOCAL, simulate
from mrlato_jax.mec.system import BITS_PER_BYTE, System, task_times
from mrlato_jax.mec.transfers import transfers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLEARLY = 0.05  # share of the makespan: least advantage in the model for which measurements are compared


class Predicted(NamedTuple):
    """The model's prediction of a run."""

    makespan: float
    spans: tuple[Span, ...]


def predicted(run: Run, graph: TaskGraph, system: System) -> Predicted:
    """Predicts a run's placement and order with the model.

    Args:
        run: the measured run.
        graph: the graph used for its plan.
        system: the system used for its plan, with the run's channel rules.
    """
    schedule = simulate(graph, system, run.placement, order=run.order)
    times, spans = task_times(graph, system), []
    for task, site in enumerate(run.placement.tolist()):
        end, seconds = (
            (schedule.ue_end[task], times.ue[task])
            if site == LOCAL
            else (schedule.vm_end[task], times.vm[task, site - 1])
        )
        spans.append(Span(task, "UE" if site == LOCAL else "VM", float(end - seconds), float(end), task))
    for sent in transfers(graph, system, run.placement, run.order, schedule):
        link = "uplink" if sent.source == LOCAL else "downlink"
        spans.append(Span(sent.task, link, sent.start, sent.end, sent.needed_by))
    return Predicted(schedule.makespan, tuple(sorted(spans, key=lambda span: span.start)))


def lateness(runs: Sequence[Run], graph: TaskGraph, system: System) -> dict[str, dict[str, float]]:
    """Computes for each resource how much longer a task or transfer took than in the model.

    Returns:
        For each resource, over runs without a failure: `count`, the median and the 95th percentile of the difference in
        milliseconds, and the median of the difference relative to the model's time, in percent.
    """
    times = task_times(graph, system)
    rates = {"uplink": system.uplink_bps, "downlink": system.downlink_bps}
    late: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for run in runs:
        for entry in took(run, graph) if not run.events else ():
            if entry.resource in rates:
                model = BITS_PER_BYTE * size_of(graph, entry) / one(rates[entry.resource])
            else:
                model = float(times.ue[entry.task] if entry.resource == "UE" else times.vm[entry.task, 0])
            late[entry.resource].append((entry.seconds - model, model))
    table = {}
    for resource in RESOURCES:
        if resource in late:
            more, model = np.array(late[resource]).T
            some = model > 0
            table[resource] = {
                "count": len(more),
                "median_ms": 1e3 * float(np.median(more)),
                "p95_ms": 1e3 * float(np.percentile(more, 95)),
                "median_percent": 100 * float(np.median(more[some] / model[some])) if some.any() else 0.0,
            }
    return table


def as_row(case: Case, system: System, mode: str, number: int, run: Run) -> dict[str, Any]:
    """Returns a run as a row of a table, with predicted and measured seconds.

    Args:
        case: the application, with the graph used for the plan.
        system: the system used for the plan.
        mode: name of the plan.
        number: number of the run.
        run: the measured run.
    """
    return {
        "app": case.name,
        "channel": system.channel,
        "mode": mode,
        "run": number,
        "predicted_s": predicted(run, case.graph, system).makespan,
        "measured_s": run.makespan,
        "setup_s": run.setup_s,
        "offloaded": int(np.count_nonzero(run.placement)),
        "tasks": len(run.placement),
        "events": [list(event) for event in run.events],
    }


def errors(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Computes the median and the 95th percentile of the absolute error of predicted makespans, in percent."""
    whole = [row for row in rows if not row["events"] and row["predicted_s"] > 0]
    off = [100 * abs(row["measured_s"] / row["predicted_s"] - 1) for row in whole]
    return {"runs": len(off), "median": float(np.median(off)), "p95": float(np.percentile(off, 95))} if off else {}


def promises_kept(rows: Sequence[Mapping[str, Any]], planned: str, others: Sequence[str]) -> tuple[int, int]:
    """Counts the runs in which a clearly better plan of the model was also faster when measured.

    Args:
        rows: rows with `app`, `channel`, `run`, `mode`, `predicted_s` and `measured_s`.
        planned: mode of the plan.
        others: modes to compare with.

    Returns:
        (number of measured wins, number of clear wins in the model).
    """
    by = {(row["app"], row["channel"], row["run"], row["mode"]): row for row in rows}
    kept = asked = 0
    for (app, channel, number, mode), row in by.items():
        beside = [by.get((app, channel, number, other)) for other in others]
        if mode != planned or None in beside or any(one["events"] for one in (row, *beside) if one):
            continue
        if all(row["predicted_s"] <= (1 - CLEARLY) * other["predicted_s"] for other in beside if other):
            asked += 1
            kept += all(row["measured_s"] < other["measured_s"] for other in beside if other)
    return kept, asked


def both_schedules(run: Run, model: Predicted, names: Sequence[str], title: str = "") -> Figure:
    """Draws one row for each resource: the prediction above, pale, and the measurement below.

    Args:
        run: as it was.
        model: what the model says of the run.
        names: of the tasks.
        title: of the figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    check_matplotlib()
    from matplotlib.patches import Patch

    labels = labels_of(names)
    colours = {"UE": UE_COLOUR, "VM": SERVER_COLOURS[0], **LINK_COLOURS}
    strips = []
    for line, resource in enumerate(RESOURCES):
        for spans, place, pale in ((model.spans, line - 0.22, True), (run.spans, line + 0.22, False)):
            bars = [
                Bar(span.start, span.end, labels.texts[span.task], colours[resource])
                for span in spans
                if span.resource == resource and span.end > span.start
            ]
            strips.append(Strip(place, 0.4, bars, "tasks" if resource in ("UE", "VM") else "transfers", pale))
    off = 100 * (run.makespan / model.makespan - 1) if model.makespan else 0.0
    says = f"predicted {1e3 * model.makespan:.0f} ms (pale), measured {1e3 * run.makespan:.0f} ms ({off:+.1f} %)"
    title = f"{title}: {says}" if title else says
    figure = gantt_figure(RESOURCES, strips, max(run.makespan, model.makespan), labels, title)
    axes = figure.axes[0]
    axes.axvline(1e3 * model.makespan, color="0.45", linewidth=1.2, linestyle=":")
    axes.axvline(1e3 * run.makespan, color="0.1", linewidth=1.2)
    handles = [Patch(color=mixed(UE_COLOUR, LIGHT), label="predicted"), Patch(color=UE_COLOUR, label="measured")]
    figure.legend(handles=handles, loc="lower right", ncols=2, frameon=False, fontsize=8)
    return figure
