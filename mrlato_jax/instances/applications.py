"""Applications of the benchmark from published facts: mobile applications, data streams, and jobs of a cluster.

What is published stands in the tables below as it is. What is not published follows from a stated rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mrlato_jax.dag.task_graph import TaskGraph

INSTRUCTION_CYCLES = 1e6  # cycles of a million instructions


class Part(NamedTuple):
    """A task of a mobile application: millions of instructions, bytes in and out, whether it must stay on the UE."""

    mi: float
    bytes_in: float
    bytes_out: float
    parents: tuple[str, ...] = ()
    stays: bool = False


# SLEIPNIR's applications. Its sizes are means of exponential distributions: 1 KB a virus scan, 25 MB of maps.
_FILE, _MAPS, _FACE, _PHOTO = 1000.0, 25e6, 10e6, 20e3
SLEIPNIR: Mapping[str, Mapping[str, Part]] = {
    "antivirus": {
        "ui": Part(400, 500, 500, stays=True),
        "load_definitions": Part(200, 500, 1000, ("ui",)),
        "scan_file": Part(200, _FILE, 500, ("ui",)),
        "compare": Part(200, _FILE, 500, ("load_definitions", "scan_file")),
        "output": Part(200, 100, 500, ("compare",), stays=True),
    },
    "facerecognizer": {
        "ui": Part(500, 500, 500, stays=True),
        "find_match": Part(800, 500, _FACE, ("ui",)),
        "find_match_init": Part(800, 500, 500, ("find_match",)),
        "detect_face": Part(1600, _FACE, _FACE, ("find_match", "find_match_init")),
        "output": Part(800, _FACE, _FACE, ("detect_face",), stays=True),
    },
    "facebook": {
        "gui": Part(200, 500, 1000, stays=True),
        "get_token": Part(300, 100, 100, ("gui",)),
        "post_request": Part(200, 100, 500, ("gui", "get_token")),
        "process_response": Part(200, 100, 100, ("post_request",)),
        "file_upload": Part(500, _PHOTO, _PHOTO, ("process_response",), stays=True),
        "apply_filter": Part(800, _PHOTO, _PHOTO, ("file_upload",)),
        "post": Part(200, _PHOTO, 500, ("apply_filter",), stays=True),
    },
    "navigator": {
        "conf_panel": Part(200, 500, 500, stays=True),
        "gps": Part(200, 500, 500, ("conf_panel",), stays=True),
        "control": Part(500, 500, 500, ("conf_panel", "gps")),
        "maps": Part(1000, 500, _MAPS, ("control",)),
        "traffic": Part(1000, _MAPS, 2000, ("control",)),
        "path_calc": Part(1500, _MAPS, _MAPS, ("control", "maps", "traffic")),
        "voice_synth": Part(1500, 100, 200, ("path_calc",), stays=True),
        "speed_trap": Part(200, 1000, 100, ("path_calc",), stays=True),
        "gui": Part(200, 1000, 100, ("path_calc", "voice_synth", "speed_trap"), stays=True),
    },
}
CHESS_MOVES = 5


def chess(moves: int) -> dict[str, Part]:
    """Returns SLEIPNIR's chess game of so many moves, one after the other."""
    parts: dict[str, Part] = {}
    for move in range(1, moves + 1):
        before = (f"output{move - 1}",) if move > 1 else ()
        parts[f"ui{move}"] = Part(400, 500, 500, before, stays=True)
        parts[f"update{move}"] = Part(200, 500, 500, (f"ui{move}",))
        parts[f"compute_move{move}"] = Part(1000, 500, 500, (f"update{move}",))
        parts[f"output{move}"] = Part(200, 500, 500, (f"compute_move{move}",), stays=True)
    return parts


def mobile(parts: Mapping[str, Part]) -> TaskGraph:
    """Returns a mobile application; an instruction takes a cycle."""
    ids = {name: task for task, name in enumerate(parts)}
    return TaskGraph.from_edges(
        cycles=[INSTRUCTION_CYCLES * part.mi for part in parts.values()],
        upload_bytes=[part.bytes_in for part in parts.values()],
        download_bytes=[part.bytes_out for part in parts.values()],
        edges=[(ids[parent], ids[name]) for name, part in parts.items() for parent in part.parents],
        names=list(ids),
        pins=["ue" if part.stays else "any" for part in parts.values()],
    )


def side_by_side(graphs: Mapping[str, TaskGraph]) -> TaskGraph:
    """Returns several applications that run at the same time as one; their names come before the tasks'."""
    starts = np.cumsum([0, *(graph.num_tasks for graph in graphs.values())])
    return TaskGraph.from_edges(
        cycles=np.concatenate([graph.cycles for graph in graphs.values()]),
        upload_bytes=np.concatenate([graph.upload_bytes for graph in graphs.values()]),
        download_bytes=np.concatenate([graph.download_bytes for graph in graphs.values()]),
        edges=np.concatenate([graph.edges + start for graph, start in zip(graphs.values(), starts, strict=False)]),
        names=[f"{name}.{task}" for name, graph in graphs.items() for task in graph.names],
        pins=[pin for graph in graphs.values() for pin in graph.pins],
    )


class Stage(NamedTuple):
    """A stage of a data stream: its category, its parents, and bytes of its result for each byte of the messages."""

    category: str
    parents: tuple[str, ...]
    share: float
    pin: str = "any"


# Cycles for each byte that a stage reads, by RIoTBench's categories. RIoTBench does not publish cycles: these are ours.
STREAM_CYCLES = {
    "source": 10.0, "parse": 400.0, "filter": 40.0, "statistical": 150.0, "predictive": 300.0, "training": 3000.0,
    "visualization": 3000.0, "io": 20.0,
}  # fmt: skip
WINDOW = 1000  # messages of a window; a task is a stage's work on a window
MESSAGE_BYTES = {"SYS": 381.8, "TAXI": 871.5, "FIT": 1230.7}  # means of RIoTBench's sample files in SenML
# Stages and edges of RIoTBench's dataflows. The shares of bytes are ours.
STREAMS: Mapping[str, Mapping[str, Stage]] = {
    "etl": {
        "source": Stage("source", (), 1.0, "ue"),
        "senml_parse": Stage("parse", ("source",), 0.4),
        "range_filter": Stage("filter", ("senml_parse",), 0.38),
        "bloom_filter": Stage("filter", ("range_filter",), 0.36),
        "interpolation": Stage("predictive", ("bloom_filter",), 0.36),
        "join": Stage("statistical", ("interpolation",), 0.3),
        "annotation": Stage("parse", ("join",), 0.45),
        "azure_table_insert": Stage("io", ("annotation",), 0.001, "server"),
        "csv_to_senml": Stage("parse", ("annotation",), 1.1),
        "mqtt_publish": Stage("io", ("csv_to_senml",), 0.001, "server"),
    },
    "stats": {
        "source": Stage("source", (), 1.0, "ue"),
        "senml_parse": Stage("parse", ("source",), 0.4),
        "block_window_average": Stage("statistical", ("senml_parse",), 0.02),
        "kalman_filter": Stage("statistical", ("senml_parse",), 0.4),
        "sliding_linear_regression": Stage("predictive", ("kalman_filter",), 0.2),
        "distinct_approx_count": Stage("statistical", ("senml_parse",), 0.001),
        "plot": Stage(
            "visualization", ("block_window_average", "sliding_linear_regression", "distinct_approx_count"), 0.1
        ),
        "azure_blob_upload": Stage("io", ("plot",), 0.001, "server"),
    },
    "pred": {
        "source": Stage("source", (), 1.0, "ue"),
        "senml_parse": Stage("parse", ("source",), 0.4),
        "mqtt_subscribe": Stage("source", (), 0.001, "server"),
        "azure_blob_download": Stage("io", ("mqtt_subscribe",), 0.2, "server"),
        "decision_tree_classify": Stage("predictive", ("senml_parse", "azure_blob_download"), 0.05),
        "linear_regression_predict": Stage("predictive", ("senml_parse", "azure_blob_download"), 0.05),
        "block_window_average": Stage("statistical", ("senml_parse",), 0.02),
        "error_estimation": Stage("statistical", ("block_window_average", "linear_regression_predict"), 0.02),
        "mqtt_publish": Stage("io", ("error_estimation", "decision_tree_classify"), 0.07, "ue"),
    },
    "train": {
        "timer": Stage("source", (), 0.001, "ue"),
        "azure_table_range_query": Stage("io", ("timer",), 1.0, "server"),
        "linear_regression_train": Stage("training", ("azure_table_range_query",), 0.2),
        "annotate": Stage("parse", ("azure_table_range_query",), 1.1),
        "decision_tree_train": Stage("training", ("annotate",), 0.2),
        "azure_blob_upload": Stage("io", ("linear_regression_train", "decision_tree_train"), 0.001, "server"),
        "mqtt_publish": Stage("io", ("azure_blob_upload",), 0.001, "ue"),
    },
}


def stream(stages: Mapping[str, Stage], messages: str) -> TaskGraph:
    """Returns the work of a dataflow on one window of `WINDOW` messages of a kind in `MESSAGE_BYTES`."""
    ids = {name: task for task, name in enumerate(stages)}
    window = WINDOW * MESSAGE_BYTES[messages]
    read = [
        window * (sum(stages[parent].share for parent in stage.parents) or stage.share) for stage in stages.values()
    ]
    cycles = [STREAM_CYCLES[stage.category] * size for stage, size in zip(stages.values(), read, strict=True)]
    return TaskGraph.from_edges(
        cycles=np.round(cycles),
        upload_bytes=np.round(read),
        download_bytes=np.round([window * stage.share for stage in stages.values()]),
        edges=[(ids[parent], ids[name]) for name, stage in stages.items() for parent in stage.parents],
        names=list(ids),
        pins=[stage.pin for stage in stages.values()],
    )


# Jobs of Alibaba's cluster trace of 2018, by the shape that Tian et al. (SoCC 2019) publish: 81.68 % of the tasks of
# complex jobs belong to trees that gather or scatter, of bounded depth. Times and bytes are drawn by our rule.
IN_TREES = 0.8168
LEAST_LEVELS, MOST_LEVELS = 3, 6
SCATTERED = 0.36  # share of jobs whose trees scatter: 36.03 % of all jobs
JOB_SECONDS, JOB_SPREAD = 0.5, 1.0  # mean time of a task at `JOB_HZ`, and the sigma of its log-normal factors
JOB_HZ = 1e9
JOB_TRANSFER = (0.1, 3.0)  # time to move all results at `JOB_BPS`, relative to computing; log-uniform for each job
JOB_BPS = 32e6


def cluster_job(num_tasks: int, seed: int) -> TaskGraph:
    """Draws a job of a cluster: a tree of levels that gathers or scatters, and further edges.

    The job has `LEAST_LEVELS` to `MOST_LEVELS` levels, whose widths fall by a common factor to one task. In a job that
    gathers, each task has one child in the next level. A share 1 - `IN_TREES` of the tasks has a further child. A job
    that scatters has all edges turned round.
    """
    rng = np.random.default_rng([num_tasks, seed])
    count = LEAST_LEVELS + int((MOST_LEVELS - LEAST_LEVELS + 1) * rng.random())
    weights = 0.7 ** np.arange(count)
    widths = np.maximum(1, np.floor(num_tasks * weights / weights.sum())).astype(np.int64)
    widths[-1] = 1
    widths[0] += num_tasks - widths.sum()
    starts = np.concatenate([[0], np.cumsum(widths)])
    edges: set[tuple[int, int]] = set()
    for level in range(count - 1):
        for place in range(widths[level]):
            task = int(starts[level] + place)
            edges.add((task, int(starts[level + 1] + place * widths[level + 1] // widths[level])))
            if rng.random() > IN_TREES:
                later = int(starts[level + 1] + (num_tasks - starts[level + 1]) * rng.random())
                edges.add((task, later))
    if rng.random() < SCATTERED:
        edges = {(num_tasks - 1 - child, num_tasks - 1 - parent) for parent, child in edges}
    normal = np.sqrt(-2 * np.log1p(-rng.random((2, num_tasks)))) * np.cos(2 * np.pi * rng.random((2, num_tasks)))
    factors = np.exp(JOB_SPREAD * normal - JOB_SPREAD**2 / 2)
    cycles = np.round(JOB_HZ * JOB_SECONDS * factors[0])
    low, high = np.log(JOB_TRANSFER)
    share = float(np.exp(low + (high - low) * rng.random()))
    result = np.round(share * JOB_SECONDS * JOB_BPS / 8 * factors[1])
    upload = np.zeros(num_tasks)
    for parent, child in edges:
        upload[child] += result[parent]
    return TaskGraph.from_edges(
        cycles=cycles, upload_bytes=np.where(upload > 0, upload, result), download_bytes=result, edges=sorted(edges)
    )


def mobile_applications() -> dict[str, TaskGraph]:
    """Returns SLEIPNIR's five applications, and all five at the same time on one phone."""
    parts: Sequence[tuple[str, Mapping[str, Part]]] = (*SLEIPNIR.items(), ("chess", chess(CHESS_MOVES)))
    graphs = {name: mobile(rows) for name, rows in parts}
    return {**graphs, "phone": side_by_side(graphs)}


def streams() -> dict[str, TaskGraph]:
    """Returns RIoTBench's dataflows on the messages of taxis or sensors, and all four at one gateway."""
    graphs = {
        "etl": stream(STREAMS["etl"], "TAXI"),
        "stats": stream(STREAMS["stats"], "SYS"),
        "pred": stream(STREAMS["pred"], "FIT"),
        "train": stream(STREAMS["train"], "TAXI"),
    }
    return {**graphs, "gateway": side_by_side(graphs)}
