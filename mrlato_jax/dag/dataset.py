"""The paper's DAG sets (section V-A) as padded arrays: definition, drawing, storage and verification.

A data set is one experiment: S sets (learning tasks) of G graphs each, padded to N tasks. A data set is independent of
the system; clocks and rates enter when a set is used. Every graph has its own generator, seeded by (seed, experiment,
set, graph), so any part can be drawn again and compared.

Each experiment is stored as one compressed `.npz`, which describes itself. `manifest.json` holds the hash of the
contents of each. `load` checks all contents, and checks the stated size of each array before it unpacks the array.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mrlato_jax.dag.daggen import CCR_CHOICES, DATA_UNITS, GENERATOR_VERSION, SEND_KB
from mrlato_jax.dag.families import FAMILIES
from mrlato_jax.dag.task_graph import PINS, TaskGraph, check_index
from mrlato_jax.errors import InputError, check_choice, check_number, shorten
from mrlato_jax.files import MOST_JSON_BYTES, ArrayHeader, read_npz, read_regular, write_atomically

SEED = 2025
SPLITS = ("train", "test")
MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1

# The data folder is inside the package in a wheel, beside the package in a checkout.
_FOLDERS = (Path(__file__).resolve().parents[1] / "data", Path(__file__).resolve().parents[2] / "data")
_DTYPES = {
    "cycles": np.dtype("<f8"),
    "upload_bytes": np.dtype("<f8"),
    "download_bytes": np.dtype("<f8"),
    "adjacency": np.dtype("bool"),
    "task_mask": np.dtype("bool"),
}
_PINS = "pins"
_ALL_DTYPES = {**_DTYPES, _PINS: np.dtype("|u1")}  # pins are stored only where a task is pinned
_COSTS = ("cycles", "upload_bytes", "download_bytes")
MOST_BYTES = 2**30  # limit of all arrays together
_MOST_METADATA = 2**24  # limit of the description, bytes
_METADATA = "metadata"  # uint8 array in the file: UTF-8 JSON of the fields that are no arrays
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DagDataset:
    """S sets of G graphs padded to N tasks. Compared by identity; compare contents by `content_hash`.

    Tasks have the order of their ids, which is topological. The valid tasks of a graph come first; padding is zero and
    has no edges. Every graph has a task with cycles, since latencies are compared with the latency of all tasks on the
    UE. The arrays have at most 1 GiB together. The constructor checks all these rules. The arrays are read-only; arrays
    that others could change are copied.

    Attributes:
        name: name of the file: letters, digits, _ and -.
        set_names: S distinct strings.
        splits: S strings "train" or "test".
        settings: JSON object of the settings of drawing. Where each set is for one system, `systems` has the systems'
            fields, named as in `System`, and `energy_weights` the weights of the sets' objectives if any is not 0.
        cycles: float64[S, G, N], CPU cycles.
        upload_bytes: float64[S, G, N], bytes.
        download_bytes: float64[S, G, N], bytes.
        adjacency: bool[S, G, N, N], true at [..., parent, child].
        task_mask: bool[S, G, N], true where there is a task.
        pins: uint8[S, G, N], index of each task's pin in `task_graph.PINS`; None where no task is pinned.

    Raises:
        InputError: a field breaks a rule; the message names the array, and the set, graph and task if there is one.
    """

    name: str
    set_names: tuple[str, ...]
    splits: tuple[str, ...]
    settings: Mapping[str, Any]
    cycles: NDArray[np.float64]
    upload_bytes: NDArray[np.float64]
    download_bytes: NDArray[np.float64]
    adjacency: NDArray[np.bool_]
    task_mask: NDArray[np.bool_]
    pins: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        self._check_description()
        self._check_arrays()
        self._check_graphs()

    def __repr__(self) -> str:
        return f"DagDataset({self.name!r}, sets={self.num_sets}, graphs_per_set={self.graphs_per_set})"

    @classmethod
    def from_graphs(
        cls,
        name: str,
        sets: Mapping[str, list[TaskGraph]],
        splits: tuple[str, ...],
        settings: Mapping[str, Any],
    ) -> Self:
        """Pads graphs, equally many in each set, to the number of tasks of the largest graph; drops names of tasks.

        Raises:
            InputError: sets are empty or have different numbers of graphs, ids are not in topological order, a graph
                has no cycles, or the arrays would be too large.
        """
        counts = {set_name: len(graphs) for set_name, graphs in sets.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise InputError(
                f"sets have {shorten(counts)} graphs; accepted: equally many in each set, at least 1 (split large sets "
                "into several, or leave graphs out)"
            )
        width = max(graph.num_tasks for graphs in sets.values() for graph in graphs)
        shape = (len(sets), next(iter(counts.values())), width)
        _check_size(shape)
        arrays: dict[str, NDArray[Any]] = {
            field: np.zeros((*shape, width) if field == "adjacency" else shape, dtype)
            for field, dtype in _ALL_DTYPES.items()
        }
        for set_index, graphs in enumerate(sets.values()):
            for graph_index, graph in enumerate(graphs):
                if graph.is_pinned:
                    places = [PINS.index(pin) for pin in graph.pins]
                    arrays[_PINS][set_index, graph_index, : graph.num_tasks] = places
                for field in _COSTS:
                    arrays[field][set_index, graph_index, : graph.num_tasks] = getattr(graph, field)
                parents, children = graph.edges.T
                arrays["adjacency"][set_index, graph_index, parents, children] = True
                arrays["task_mask"][set_index, graph_index, : graph.num_tasks] = True
        return cls(name, tuple(sets), splits, settings, **arrays)

    @property
    def num_sets(self) -> int:
        """S."""
        return self.task_mask.shape[0]

    @property
    def graphs_per_set(self) -> int:
        """G."""
        return self.task_mask.shape[1]

    @property
    def max_tasks(self) -> int:
        """N."""
        return self.task_mask.shape[2]

    @property
    def train_sets(self) -> tuple[int, ...]:
        """Indices of the training sets."""
        return tuple(i for i, split in enumerate(self.splits) if split == "train")

    @property
    def test_sets(self) -> tuple[int, ...]:
        """Indices of the test sets; no setting may be chosen on them."""
        return tuple(i for i, split in enumerate(self.splits) if split == "test")

    def graph(self, set_index: int, graph_index: int) -> TaskGraph:
        """Returns one graph without its padding."""
        here = (
            check_index("set_index", set_index, self.num_sets),
            check_index("graph_index", graph_index, self.graphs_per_set),
        )
        tasks = slice(int(self.task_mask[here].sum()))
        return TaskGraph.from_edges(
            **{field: getattr(self, field)[here][tasks] for field in _COSTS},
            edges=np.argwhere(self.adjacency[here]),
            pins=() if self.pins is None else [PINS[place] for place in self.pins[here][tasks]],
        )

    def graphs(self, set_name_or_index: str | int) -> list[TaskGraph]:
        """Returns all graphs of one set."""
        set_index = set_name_or_index
        if isinstance(set_index, str):
            check_choice("set_name", set_index, self.set_names)
            set_index = self.set_names.index(set_index)
        return [self.graph(set_index, graph_index) for graph_index in range(self.graphs_per_set)]

    @cached_property
    def content_hash(self) -> str:
        """SHA-256, hexadecimal, of the arrays and their description; the same on every platform."""
        digest = hashlib.sha256()
        for field, array in sorted(self._arrays.items()):
            array = np.ascontiguousarray(array, dtype=_ALL_DTYPES[field])
            digest.update(_canonical_json([field, _ALL_DTYPES[field].str, array.shape]))
            digest.update(array.data)
        digest.update(_canonical_json([self.set_names, self.splits, self.settings]))
        return digest.hexdigest()

    @property
    def _arrays(self) -> dict[str, NDArray[Any]]:
        """All arrays by name, without missing pins."""
        return {field: getattr(self, field) for field in _ALL_DTYPES if getattr(self, field) is not None}

    @cached_property
    def counts(self) -> dict[str, int]:
        """Numbers of sets, graphs, tasks and edges."""
        return {
            "sets": self.num_sets,
            "graphs": self.num_sets * self.graphs_per_set,
            "tasks": int(self.task_mask.sum()),
            "edges": int(self.adjacency.sum()),
        }

    def summary(self) -> str:
        """Returns a line about the data set for a log."""
        return (
            f"{self.name} verified, {len(self.train_sets)} training, {len(self.test_sets)} test sets of "
            f"{self.graphs_per_set} DAGs, sha256 {self.content_hash[:12]}"
        )

    def _check_description(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InputError(f"name is {shorten(self.name)}; accepted: up to 64 letters, digits, _ and -")
        for field in ("set_names", "splits"):
            values = getattr(self, field)
            if not isinstance(values, tuple) or not all(isinstance(value, str) for value in values):
                raise InputError(f"{field} is {shorten(values)}; accepted: a tuple of strings")
        if len(set(self.set_names)) != len(self.set_names):
            raise InputError(f"set_names is {shorten(self.set_names)}; accepted: distinct names")
        if len(self.splits) != len(self.set_names):
            raise InputError(f"splits has {len(self.splits)} values; accepted: one per set ({len(self.set_names)})")
        for split in self.splits:
            check_choice("splits", split, SPLITS)
        if not isinstance(self.settings, Mapping):
            raise InputError(f"settings is {shorten(self.settings)}; accepted: a JSON object")
        try:
            # A copy in the form that a file gives back.
            object.__setattr__(self, "settings", json.loads(_canonical_json(self.settings)))
        except (TypeError, ValueError) as error:
            raise InputError(f"settings is {shorten(self.settings)} ({error}); accepted: a JSON object") from None

    def _check_arrays(self) -> None:
        for field, dtype in _ALL_DTYPES.items():
            absent = field == _PINS and self.pins is None
            if not absent and not isinstance(getattr(self, field), np.ndarray):
                type_name = type(getattr(self, field)).__name__
                raise InputError(f"{field} is of type {type_name}; accepted: an array of {dtype.name}")
        _check_headers(self._arrays, len(self.set_names))
        if self.pins is not None and not self.pins.any():
            object.__setattr__(self, _PINS, None)
        for field, array in self._arrays.items():
            object.__setattr__(self, field, _own(array, _ALL_DTYPES[field].newbyteorder("=")))

    def _check_graphs(self) -> None:
        mask, adjacency = self.task_mask, self.adjacency
        front = np.less(np.arange(self.max_tasks), mask.sum(axis=-1, keepdims=True))
        self._refuse("task_mask", mask ^ front, "valid tasks first, then padding")
        self._refuse("task_mask", ~mask[..., :1], "at least one task in every graph")
        for field in _COSTS:
            values = getattr(self, field)
            self._refuse(field, ~(np.isfinite(values) & (values >= 0)), "finite numbers >= 0")
            self._refuse(field, (values != 0) & ~mask, "0 where there is no task")
        self._refuse("cycles", ~np.asarray(self.cycles.any(axis=-1)), "a task with cycles > 0 in every graph")
        if self.pins is not None:
            self._refuse(_PINS, self.pins >= len(PINS), f"0 to {len(PINS) - 1}")
            self._refuse(_PINS, (self.pins != 0) & ~mask, "0 where there is no task")
        downwards = np.tri(self.max_tasks, dtype=bool)
        for index, (edges, tasks) in enumerate(
            zip(adjacency, mask, strict=True)
        ):  # set by set, since all sets at once would take several times 100 MB
            padding = ~(tasks[:, :, None] & tasks[:, None, :])
            self._refuse("adjacency", edges & padding, "no edges of padding", index)
            self._refuse(
                "adjacency", edges & downwards, "edges from a lower to a higher id only (topological order)", index
            )

    def _refuse(self, field: str, wrong: NDArray[np.bool_], accepted: str, set_index: int | None = None) -> None:
        """Raises InputError where any entry is wrong; `set_index` names the set of an array without that axis."""
        if wrong.any():
            place = [int(i) for i in np.unravel_index(np.argmax(wrong), wrong.shape)]
            set_index = place.pop(0) if set_index is None else set_index
            graph_index = place.pop(0)
            raise InputError(
                f"{field} is wrong in set {self.set_names[set_index]}, graph {graph_index}, at {place};"
                f" accepted: {accepted}"
            )


def _own(array: NDArray[Any], dtype: np.dtype) -> NDArray[Any]:
    """Returns a read-only copy, or the array itself where its data are immutable bytes."""
    flags = array.flags
    fixed = type(array) is np.ndarray and isinstance(array.base, bytes) and not flags.writeable  # unpickled: writable
    if fixed and flags.c_contiguous and flags.aligned and array.dtype == dtype:
        return array
    copy = np.array(array, dtype=dtype, order="C")
    copy.setflags(write=False)
    return copy


def _check_headers(arrays: Mapping[str, NDArray[Any] | ArrayHeader], num_sets: int) -> None:
    """Raises InputError unless all arrays have the types and shapes of a data set of `num_sets` sets."""
    shape: tuple[int, ...] | None = None
    for field, dtype in _ALL_DTYPES.items():
        if field == _PINS and field not in arrays:
            continue
        array = arrays[field]
        if array.dtype != dtype:
            raise InputError(f"{field} is of type {array.dtype}; accepted: an array of {dtype.name}")
        if shape is None:
            shape = array.shape
            if len(shape) != 3 or not all(shape) or shape[0] != num_sets:
                raise InputError(f"{field} has shape {shape}; accepted: ({num_sets} sets, graphs, tasks), none 0")
            _check_size(shape)
        expected = (*shape, shape[-1]) if field == "adjacency" else shape
        if array.shape != expected:
            raise InputError(f"{field} has shape {array.shape}; accepted: {expected}")


def _check_size(shape: tuple[int, ...]) -> None:
    """Raises InputError where arrays of (sets, graphs, tasks) have more than `MOST_BYTES`."""
    values = math.prod(shape)
    size = sum(
        dtype.itemsize * values * (shape[-1] if field == "adjacency" else 1) for field, dtype in _ALL_DTYPES.items()
    )
    if size > MOST_BYTES:
        raise InputError(f"(sets, graphs, tasks) are {shape}, {size} bytes; accepted: at most {MOST_BYTES} bytes")


def in_topological_order(graph: TaskGraph) -> TaskGraph:
    """Returns the application with its tasks numbered in topological order, as in data sets."""
    order = graph.topological_order()
    place = np.empty(graph.num_tasks, np.int64)
    place[order] = np.arange(graph.num_tasks)
    return TaskGraph.from_edges(
        **{field: getattr(graph, field)[order] for field in _COSTS},
        edges=place[graph.edges],
        names=[graph.names[task] for task in order],
        pins=[graph.pins[task] for task in order] if graph.is_pinned else (),
    )


def build_graph(experiment: str, set_index: int, graph_index: int, data_unit: str = "KB") -> TaskGraph:
    """Draws the graph of an experiment that `build` puts at [set_index, graph_index].

    Raises:
        InputError: the experiment, set or unit is unknown.
    """
    check_choice("experiment", experiment, tuple(FAMILIES))
    families = FAMILIES[experiment]
    set_index = check_index("set_index", set_index, len(families))
    check_choice("data_unit", data_unit, tuple(DATA_UNITS))
    return families[set_index].sample(generator_of(experiment, set_index, graph_index), data_unit)


def generator_of(experiment: str, set_index: int, graph_index: int) -> np.random.Generator:
    """Returns the random generator of one graph of an experiment.

    Raises:
        InputError: the graph index is below 0.
    """
    check_number("graph_index", graph_index, low=0, integer=True)
    number = list(FAMILIES).index(experiment) + 1
    return np.random.default_rng([SEED, number, set_index, graph_index])


def build(
    experiment: str,
    data_unit: str = "KB",
    graphs_per_set: int = 100,
    progress: Callable[[int, int], None] | None = None,
) -> DagDataset:
    """Draws all sets of an experiment; they are the same in every call and on every platform.

    Args:
        experiment: "exp1", "exp2" or "exp3".
        data_unit: "KB", or "MB" for the paper's literal text (see `daggen`).
        graphs_per_set: G.
        progress: called with (sets drawn, sets in all) after each set.

    Raises:
        InputError: the experiment or unit is unknown, or the number of graphs is below 1.
    """
    check_choice("experiment", experiment, tuple(FAMILIES))
    check_choice("data_unit", data_unit, tuple(DATA_UNITS))
    check_number("graphs_per_set", graphs_per_set, low=1, integer=True)
    families = FAMILIES[experiment]
    sets = {}
    for set_index, family in enumerate(families):
        sets[family.set_name] = [build_graph(experiment, set_index, i, data_unit) for i in range(graphs_per_set)]
        if progress:
            progress(set_index + 1, len(families))
    settings: dict[str, Any] = {
        "experiment": experiment,
        "seed": SEED,
        "generator_version": GENERATOR_VERSION,
        "data_unit": data_unit,
        "graphs_per_set": graphs_per_set,
        "send": SEND_KB,
        "ccr": CCR_CHOICES,
        "families": [family.described() for family in families],
    }
    systems = [family.system for family in families if family.system is not None]
    if systems:
        settings["systems"] = systems
    if any(family.energy_weight for family in families):
        settings["energy_weights"] = [family.energy_weight for family in families]
    return DagDataset.from_graphs(experiment, sets, tuple(family.split for family in families), settings)


def save(dataset: DagDataset, folder: str | os.PathLike[str]) -> Path:
    """Writes `<name>.npz` and the data set's entry in `manifest.json`; other entries stay.

    Each file is written beside its place and then moved there, so no file is ever half written.

    Returns:
        The path of the `.npz`.

    Raises:
        InputError: the folder cannot be written to, or its manifest cannot be read.
    """
    folder = Path(folder)
    target = folder / _file_name(dataset.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        manifest: dict[str, Any] = {"format": MANIFEST_FORMAT, "experiments": {}}
        if (folder / MANIFEST).exists():
            manifest = _read_manifest(folder)
        entries = {**manifest["experiments"], dataset.name: _manifest_entry(dataset)}
        manifest["experiments"] = dict(sorted(entries.items()))
        write_atomically(target, _npz_bytes(dataset))
        write_atomically(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    except OSError as error:
        accepted = "accepted: a folder to write in"
        raise InputError(f"folder is {shorten(str(folder))}: {error.strerror}; {accepted}") from None
    return target


def load(experiment: str, folder: str | os.PathLike[str] | None = None) -> DagDataset:
    """Reads a stored data set and checks it against its own rules and the manifest.

    Args:
        experiment: name of the data set in the manifest.
        folder: folder of the manifest; None: the data that comes with the package.

    Raises:
        InputError: a file is missing or breaks a rule; the message names the file and the fault.
    """
    folder = data_folder() if folder is None else Path(folder)
    entries = _read_manifest(folder)["experiments"]
    check_choice("experiment", experiment, tuple(entries))
    path = folder / _file_name(experiment)
    try:
        dataset = _read_npz(path, experiment, entries[experiment])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    expected, actual = entries[experiment], _manifest_entry(dataset)
    if not isinstance(expected, dict) or sorted(expected) != sorted(actual):
        accepted = f"accepted: {sorted(actual)}"
        raise InputError(f"{folder / MANIFEST}: entry {experiment} is {shorten(expected)}; {accepted}")
    for field, value in actual.items():
        if expected[field] != value:
            raise InputError(
                f"{path}: {field} is {shorten(value)}, not as in {MANIFEST} ({shorten(expected[field])});"
                " accepted: the file that belongs to the manifest"
            )
    return dataset


def _canonical_json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _file_name(name: str) -> str:
    return f"{name}.npz"


def data_folder() -> Path:
    """Returns the folder of the data that comes with the package; raises InputError where there is none."""
    for folder in _FOLDERS:
        if (folder / MANIFEST).is_file():
            return folder
    sought = ", ".join(str(folder / MANIFEST) for folder in _FOLDERS)
    raise InputError(f"folder is not given, and there is no stored data (sought: {sought}); make it with make_data.py")


def _manifest_entry(dataset: DagDataset) -> dict[str, Any]:
    entry = {
        "file": _file_name(dataset.name),
        "content_hash": dataset.content_hash,
        "set_names": dataset.set_names,
        "splits": dataset.splits,
        "settings": dataset.settings,
        "counts": dataset.counts,
    }
    return json.loads(_canonical_json(entry))  # in the form that a file gives back


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest; its member `experiments` has the entries of the data sets by name."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(read_regular(path, MOST_JSON_BYTES, "a manifest of stored data"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; accepted: a folder with stored data") from None
    except (ValueError, RecursionError):
        raise InputError(f"{path}: is not JSON; accepted: a manifest of stored data") from None
    entries = manifest.get("experiments") if isinstance(manifest, dict) else None
    if not isinstance(entries, dict) or manifest.get("format") != MANIFEST_FORMAT:
        raise InputError(
            f"{path}: is no manifest of format {MANIFEST_FORMAT}; accepted: a manifest that make_data.py wrote"
        )
    return manifest


def _npz_bytes(dataset: DagDataset) -> bytes:
    """Returns a compressed `.npz` with fixed time stamps: equal contents give equal bytes (with the same zlib)."""
    description = {"set_names": dataset.set_names, "splits": dataset.splits, "settings": dataset.settings}
    members = {field: np.asarray(array, _ALL_DTYPES[field]) for field, array in dataset._arrays.items()}
    members[_METADATA] = np.frombuffer(_canonical_json(description), np.uint8)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in members.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            archive.writestr(_member(name), content.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue()


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))


def _read_npz(path: Path, name: str, entry: Any) -> DagDataset:
    """Reads one file; `entry` is its entry in the manifest."""
    set_names = entry.get("set_names") if isinstance(entry, dict) else None

    def check(headers: Mapping[str, ArrayHeader]) -> None:
        expected = sorted([*_DTYPES, _METADATA])
        if sorted(set(headers) - {_PINS}) != expected:
            raise InputError(f"holds {shorten(sorted(headers))}; accepted: {', '.join(expected)}")
        # Without a list in the manifest, the arrays give the number here, and `load` refuses the entry.
        num_sets = len(set_names) if isinstance(set_names, list) else max(1, *headers["cycles"].shape[:1])
        _check_headers(headers, num_sets)

    try:
        members = read_npz(path, check, MOST_BYTES + _MOST_METADATA)
        description = json.loads(members.pop(_METADATA).tobytes())
        set_names, splits = (tuple(description.get(field, ())) for field in ("set_names", "splits"))
    except InputError:
        raise
    except Exception as error:  # for a damaged file, zipfile, zlib, numpy and json raise many types of errors
        raise InputError(f"cannot be read ({shorten(str(error))}); accepted: a file that make_data.py wrote") from error
    return DagDataset(name, set_names, splits, description.get("settings"), **members)
