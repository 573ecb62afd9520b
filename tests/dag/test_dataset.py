"""Stored data: the committed sets are what the generator gives, and nothing damaged is loaded."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrlato_jax import config
from mrlato_jax.dag import dataset as dataset_module
from mrlato_jax.dag.dataset import DagDataset, build, build_graph, load, save
from mrlato_jax.dag.families import FAMILIES, KINDS, StagedFamily
from mrlato_jax.dag.task_graph import TaskGraph, levels
from mrlato_jax.errors import InputError

ARRAYS = ("cycles", "upload_bytes", "download_bytes", "adjacency", "task_mask")
COMMITTED = Path(__file__).resolve().parents[2] / "data"


@pytest.fixture(scope="module", params=list(FAMILIES))
def committed(request: pytest.FixtureRequest) -> DagDataset:
    return load(request.param, COMMITTED)


@pytest.fixture(scope="module")
def small() -> DagDataset:
    return build("exp2", graphs_per_set=2)


@pytest.fixture
def stored(small: DagDataset, tmp_path: Path) -> Path:
    save(small, tmp_path)
    return tmp_path


def fields(dataset: DagDataset) -> dict[str, Any]:
    """Constructor arguments, the arrays writable."""
    description = {field: getattr(dataset, field) for field in ("name", "set_names", "splits", "settings")}
    return description | {field: getattr(dataset, field).copy() for field in ARRAYS}


# The paper's experiments


def test_experiments_are_those_of_the_configuration() -> None:
    assert tuple(FAMILIES) == (*config.EXPERIMENTS, "general")


def test_splits() -> None:
    names = {
        name: {split: [f.set_name for f in families if f.split == split] for split in ("train", "test")}
        for name, families in FAMILIES.items()
    }
    assert {name: (len(sets["train"]), len(sets["test"])) for name, sets in names.items()} == {
        "exp1": (22, 3),
        "exp2": (6, 3),
        "exp3": (24, 1),
        "general": (143, 7),
    }
    assert names["exp1"]["test"] == ["fat0.7_density0.4", "fat0.7_density0.7", "fat0.8_density0.6"]
    assert names["exp2"] == {"train": ["n10", "n15", "n25", "n35", "n45", "n50"], "test": ["n20", "n30", "n40"]}
    assert names["exp3"]["test"] == ["test"]


def test_committed_counts(committed: DagDataset) -> None:
    families = FAMILIES[committed.name]
    assert committed.graphs_per_set == 100
    assert committed.set_names == tuple(family.set_name for family in families)
    assert committed.splits == tuple(family.split for family in families)
    assert [committed.splits[i] for i in committed.test_sets] == ["test"] * len(committed.test_sets)
    assert sorted(committed.train_sets + committed.test_sets) == list(range(len(families)))
    expected = np.array([family.num_tasks for family in families])[:, None]
    assert (committed.task_mask.sum(axis=-1) == expected).all()
    assert committed.settings["data_unit"] == "KB"


def test_committed_files_are_the_checkouts_data() -> None:
    for name in FAMILIES:
        assert load(name).content_hash == load(name, COMMITTED).content_hash
    files = [path for path in COMMITTED.iterdir() if path.is_file()]  # results have a folder of their own
    files = [path for path in files if not path.name.startswith("demonstrations-")]
    assert {path.name for path in files} == {"manifest.json", *(f"{name}.npz" for name in FAMILIES)}
    assert sum(path.stat().st_size for path in files) < 7 * 2**20


def test_drawn_anew_it_is_the_committed_data_bit_for_bit(committed: DagDataset) -> None:
    for set_index in range(committed.num_sets):
        for graph_index in (0, 41, 99):
            drawn = build_graph(committed.name, set_index, graph_index)
            here = (set_index, graph_index)
            n = drawn.num_tasks
            for field in ("cycles", "upload_bytes", "download_bytes"):
                assert getattr(committed, field)[here][:n].tobytes() == getattr(drawn, field).tobytes()
                assert not getattr(committed, field)[here][n:].any()
            assert (committed.adjacency[here][:n, :n] == drawn.adjacency).all()
            assert committed.graph(*here) == drawn


def test_no_graph_is_stored_twice(committed: DagDataset) -> None:
    graphs = [graph for set_index in range(committed.num_sets) for graph in committed.graphs(set_index)]
    assert len(set(graphs)) == len(graphs)


def test_the_general_familys_applications_have_little_in_common() -> None:
    """Among them are tasks that compute nothing or send nothing, but no DAG in which nothing computes."""
    data = load("general", COMMITTED)
    staged = np.array([isinstance(family, StagedFamily) for family in FAMILIES["general"]])
    idle = (data.cycles == 0) & data.task_mask
    silent = (data.upload_bytes == 0) & data.task_mask
    first = [np.ravel(system["uplink_bps"])[0] for system in data.settings["systems"]]  # of several servers
    seconds = 8 / np.array(first)[:, None]
    local = data.cycles.sum(axis=-1) / np.array([system["ue_hz"] for system in data.settings["systems"]])[:, None]
    ratio = data.upload_bytes.sum(axis=-1) * seconds / local
    alike = (data.upload_bytes == data.download_bytes).all(axis=-1)
    each = local / data.task_mask.sum(axis=-1)
    assert (local > 0).all()
    wide = ~staged
    assert 0 < idle[wide].any(axis=-1).mean() < 0.2
    assert silent[wide].any()
    assert np.quantile(ratio[wide], 0.02) < 0.06
    assert np.quantile(ratio[wide], 0.98) > 6
    assert 0.25 < alike[wide].mean() < 0.35
    assert np.quantile(ratio[staged], 0.05) < 0.002
    assert np.quantile(ratio[staged], 0.95) > 1.5
    assert np.quantile(each[wide], 0.5) == pytest.approx(0.05, rel=0.1)
    assert np.quantile(each[staged], 0.5) == pytest.approx(0.05, rel=0.1)


def test_the_general_families_have_systems_of_every_kind() -> None:
    """Each kind has ten sizes, half of them with a weight of energy, and pins in half."""
    data = load("general", COMMITTED)
    families = FAMILIES["general"][70:]
    systems, weights = data.settings["systems"][70:], data.settings["energy_weights"]
    assert not any(weights[:70])
    found = [(len(system["vm_hz"]), system["channel"], system["radio"]) for system in systems]
    assert collections.Counter(found) == dict.fromkeys(KINDS, 10)
    for kind in KINDS:
        of_kind = [i for i, other in enumerate(found) if other == kind]
        assert sum(weights[70 + i] > 0 for i in of_kind) == 5
        assert sum(families[i].pinned for i in of_kind) in (4, 5, 6)
    pinned = [any(graph.is_pinned for graph in data.graphs(i)) for i in range(data.num_sets)]
    assert pinned == [family.pinned for family in FAMILIES["general"]]


def test_the_tasks_of_a_stage_are_alike_and_each_has_a_partner() -> None:
    data = load("general", COMMITTED)
    (index,) = [i for i, name in enumerate(data.set_names) if name == "staged_n36_system2"]
    within, overall = [], []
    for graph in data.graphs(index):
        level = levels(graph)
        assert level.max() <= 7
        has_parent = np.isin(np.arange(36), graph.edges[:, 1])
        assert (has_parent == (level > 0)).all()
        assert np.isin(np.flatnonzero(level < level.max()), graph.edges[:, 0]).all()
        costs = np.log(np.maximum(graph.cycles, 1))
        within.append(np.mean([costs[level == i].std() for i in range(level.max() + 1)]))
        overall.append(costs.std())
    assert np.mean(within) < 0.2 < 2 * np.mean(within) < np.mean(overall)


def test_families_differ_in_what_they_should() -> None:
    exp1 = load("exp1", COMMITTED)
    edges = exp1.adjacency.sum(axis=(1, 2, 3)).reshape(5, 5)  # fat by density
    assert (np.diff(edges, axis=1) > 0).all(), "denser sets have more edges"
    layers = np.array([_num_levels(graph) for i in range(25) for graph in exp1.graphs(i)]).reshape(5, -1)
    assert (np.diff(layers.mean(axis=1)) < 0).all(), "fatter sets have fewer levels"


def _num_levels(graph: TaskGraph) -> int:
    level = np.zeros(graph.num_tasks, dtype=int)
    for task in range(graph.num_tasks):
        level[task] = max((level[parent] + 1 for parent in graph.parents(task)), default=0)
    return int(level.max()) + 1


# Building


def test_build_is_repeatable_and_made_of_build_graph(small: DagDataset) -> None:
    calls = []
    again = build("exp2", graphs_per_set=2, progress=lambda done, total: calls.append((done, total)))
    assert again.content_hash == small.content_hash
    assert calls == [(i + 1, 9) for i in range(9)]
    for set_index, name in enumerate(small.set_names):
        assert small.graphs(name) == [build_graph("exp2", set_index, i) for i in range(2)]
        assert small.graphs(set_index) == small.graphs(np.int64(set_index)) == small.graphs(name)


def test_megabytes_differ_in_data_only(small: DagDataset) -> None:
    mega = build("exp2", "MB", graphs_per_set=2)
    assert (mega.upload_bytes == 1000 * small.upload_bytes).all()
    assert (mega.cycles == small.cycles).all()
    assert (mega.adjacency == small.adjacency).all()
    assert mega.settings["data_unit"] == "MB"
    assert mega.content_hash != small.content_hash


@pytest.mark.parametrize(
    ("call", "found"),
    [
        (lambda: build("exp4"), "experiment is 'exp4'; accepted: exp1, exp2, exp3"),
        (lambda: build("exp1", "GB"), "data_unit is 'GB'; accepted: KB, MB"),
        (lambda: build("exp1", graphs_per_set=0), "graphs_per_set is 0"),
        (lambda: build_graph("exp4", 0, 0), "experiment is"),
        (lambda: build_graph("exp2", 9, 0), r"set_index is 9; accepted: an integer in \[0, 8\]"),
        (lambda: build_graph("exp2", 0, -1), "graph_index is -1"),
    ],
)
def test_build_refuses(call: Callable[[], Any], found: str) -> None:
    with pytest.raises(InputError, match=found):
        call()


def test_from_graphs_refuses() -> None:
    task = {"cycles": [1, 1], "upload_bytes": [1, 1], "download_bytes": [1, 1]}
    down, up = (TaskGraph.from_edges(**task, edges=edges) for edges in ([(1, 0)], [(0, 1)]))
    with pytest.raises(InputError, match=r"adjacency is wrong in set b, graph 0, at \[1, 0\].*topological"):
        DagDataset.from_graphs("x", {"a": [up], "b": [down]}, ("train", "test"), {})
    for sets in ({}, {"a": []}, {"a": [up], "b": [up, up]}):
        with pytest.raises(InputError, match=r"equally many in each set, at least 1 \(split large sets into several"):
            DagDataset.from_graphs("x", sets, ("train",) * len(sets), {})


@pytest.fixture(scope="module")
def pinned() -> DagDataset:
    task = {"cycles": [1, 1], "upload_bytes": [1, 1], "download_bytes": [1, 1], "edges": [(0, 1)]}
    graphs = [TaskGraph.from_edges(**task, pins=pins) for pins in ((), ["ue", "any"], ["any", "server"])]
    return DagDataset.from_graphs("x", {"a": graphs}, ("train",), {})


def test_pins_are_kept_and_counted_in_the_hash(pinned: DagDataset, tmp_path: Path) -> None:
    save(pinned, tmp_path)
    again = load("x", tmp_path)
    assert [graph.pins for graph in again.graphs("a")] == [("any", "any"), ("ue", "any"), ("any", "server")]
    plain = DagDataset(**fields(pinned))
    assert plain.pins is None
    assert plain.content_hash != again.content_hash == pinned.content_hash


@pytest.mark.parametrize(
    ("pins", "found"),
    [
        (np.full((1, 3, 2), 3, np.uint8), r"pins is wrong in set a, graph 0, at \[0\]; accepted: 0 to 2"),
        (np.zeros((1, 3, 2), np.int64), "pins is of type int64; accepted: an array of uint8"),
        (np.zeros((1, 3), np.uint8), r"pins has shape \(1, 3\); accepted: \(1, 3, 2\)"),
        ([0], "pins is of type list"),
    ],
)
def test_pins_that_are_none(pinned: DagDataset, pins: Any, found: str) -> None:
    with pytest.raises(InputError, match=found):
        DagDataset(**fields(pinned), pins=pins)


def test_graph_refuses(small: DagDataset) -> None:
    for set_index, graph_index in ((9, 0), (-1, 0), (0, 2), (0, -1), (0.0, 0)):
        with pytest.raises(InputError, match=r"_index is .*accepted: an integer"):
            small.graph(set_index, graph_index)
    with pytest.raises(InputError, match="set_name is 'n11'; accepted: n10, n15"):
        small.graphs("n11")


def test_arrays_are_read_only(small: DagDataset) -> None:
    for field in ARRAYS:
        with pytest.raises(ValueError, match="read-only"):
            getattr(small, field)[0] = 0


# The record


def set_at(field: str, place: tuple[int, ...], value: Any) -> Callable[[dict[str, Any]], None]:
    def damage(values: dict[str, Any]) -> None:
        values[field][place] = value

    return damage


def replace(field: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def damage(values: dict[str, Any]) -> None:
        values[field] = change(values[field])

    return damage


# Set 0 of exp2 has 10 tasks of 50.
ARRAY_DAMAGES = [
    (set_at("cycles", (0, 1, 3), np.nan), r"cycles is wrong in set n10, graph 1, at \[3\].*finite"),
    (set_at("upload_bytes", (2, 0, 0), -1.0), "upload_bytes is wrong in set n20, graph 0"),
    (set_at("download_bytes", (0, 0, 0), np.inf), "download_bytes is wrong"),
    (set_at("cycles", (0, 1, 10), 1.0), r"cycles is wrong in set n10, graph 1, at \[10\]; accepted: 0"),
    (set_at("task_mask", (0, 1, 3), False), r"task_mask is wrong in set n10, graph 1, at \[3\].*valid tasks first"),
    (set_at("task_mask", (0, 1, 9), False), r"cycles is wrong.*at \[9\]; accepted: 0 where there is no task"),
    (set_at("task_mask", (0, 1), False), r"task_mask is wrong.*at least one task"),
    (set_at("adjacency", (0, 0, 4, 12), True), r"adjacency is wrong.*at \[4, 12\]; accepted: no edges of padding"),
    (set_at("adjacency", (0, 0, 4, 3), True), r"adjacency is wrong.*at \[4, 3\].*topological order"),
    (set_at("adjacency", (0, 0, 4, 4), True), r"adjacency is wrong.*at \[4, 4\].*topological order"),
    (replace("cycles", lambda array: array.astype(np.float32)), "cycles is of type float32; accepted: .*float64"),
    (replace("task_mask", lambda array: array.astype(np.uint8)), "task_mask is of type uint8"),
    (replace("cycles", lambda array: array[0]), r"cycles has shape \(2, 50\)"),
    (replace("cycles", lambda array: array[:, :0]), r"cycles has shape \(9, 0, 50\)"),
    (replace("cycles", lambda array: array[:3]), r"cycles has shape \(3, 2, 50\); accepted: \(9 sets"),
    (replace("upload_bytes", lambda array: array[..., :-1]), r"upload_bytes has shape \(9, 2, 49\); accepted: \(9, 2,"),
    (replace("adjacency", lambda array: array[..., 0]), r"adjacency has shape .*accepted: \(9, 2, 50, 50\)"),
]
OTHER_DAMAGES = [
    (replace("cycles", lambda array: array.tolist()), "cycles is of type list"),
    (replace("name", lambda name: "../" + name), "name is"),
    (replace("set_names", lambda names: (*names[:-1], names[0])), "set_names is .*distinct"),
    (replace("set_names", list), "set_names is .*tuple"),
    (replace("splits", lambda splits: splits[:-1]), "splits has 8 values"),
    (replace("splits", lambda splits: ("dev", *splits[1:])), "splits is 'dev'; accepted: train, test"),
    (replace("settings", lambda _: None), "settings is None; accepted: a JSON object"),
    (replace("settings", lambda _: {"low": np.nan}), "settings is"),
]


@pytest.mark.parametrize(("damage", "found"), ARRAY_DAMAGES + OTHER_DAMAGES)
def test_record_refuses(small: DagDataset, damage: Callable[[dict[str, Any]], None], found: str) -> None:
    values = fields(small)
    DagDataset(**values)
    damage(values)
    with pytest.raises(InputError, match=found):
        DagDataset(**values)


@pytest.mark.parametrize("field", [*ARRAYS, "set_names", "splits", "settings"])
def test_hash_sees_every_field(small: DagDataset, field: str) -> None:
    values = fields(small)
    edge = tuple(np.argwhere(values["adjacency"])[0])
    if field in ("cycles", "upload_bytes", "download_bytes"):
        values[field][0, 0, 0] = np.nextafter(values[field][0, 0, 0], np.inf)
    elif field == "adjacency":
        values[field][edge] = False
    elif field == "task_mask":  # one more task that costs nothing
        values[field][0, 0, 10] = True
    elif field == "settings":
        values[field] = {**values[field], "seed": 0}
    else:
        values[field] = (*values[field][:-1], "test" if field == "splits" else "other")
    assert DagDataset(**values).content_hash != small.content_hash


def test_hash_is_of_values_not_of_memory_layout(small: DagDataset) -> None:
    values = fields(small)
    values["cycles"] = np.asfortranarray(values["cycles"])
    values["settings"] = dict(reversed(values["settings"].items()))
    assert DagDataset(**values).content_hash == small.content_hash


# Files


def test_round_trip(small: DagDataset, stored: Path) -> None:
    loaded = load("exp2", stored)
    assert loaded.content_hash == small.content_hash
    for field, value in fields(small).items():
        assert np.array_equal(getattr(loaded, field), value)
        if field in ARRAYS:
            assert getattr(loaded, field).dtype == value.dtype
            assert not getattr(loaded, field).flags.writeable


def test_an_unpickled_array_is_copied(small: DagDataset) -> None:
    """It may lie in bytes and be writable all the same."""
    cycles = pickle.loads(pickle.dumps(small.cycles, protocol=4))
    kept = dataclasses.replace(small, cycles=cycles)
    assert not np.shares_memory(kept.cycles, cycles)
    assert not kept.cycles.flags.writeable


def test_saving_again_gives_the_same_bytes_and_keeps_other_entries(small: DagDataset, stored: Path) -> None:
    before = {path.name: path.read_bytes() for path in stored.iterdir()}
    save(build("exp1", graphs_per_set=1), stored)
    save(small, stored)
    assert (stored / "exp2.npz").read_bytes() == before["exp2.npz"]
    assert load("exp1", stored).graphs_per_set == 1
    assert load("exp2", stored).content_hash == small.content_hash
    assert sorted(path.name for path in stored.iterdir()) == ["exp1.npz", "exp2.npz", "manifest.json"]


def test_load_refuses_a_folder_without_data(tmp_path: Path, stored: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json: No such file"):
        load("exp1", tmp_path / "nowhere")
    with pytest.raises(InputError, match="experiment is 'exp1'; accepted: exp2"):
        load("exp1", stored)
    (stored / "exp2.npz").unlink()
    with pytest.raises(InputError, match=r"exp2\.npz: cannot be read .*No such file"):
        load("exp2", stored)


def test_load_without_data_names_where_it_sought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "_FOLDERS", (tmp_path / "a", tmp_path / "b"))
    with pytest.raises(InputError, match=r"sought: .*a.manifest\.json, .*b.manifest\.json"):
        load("exp1")


def test_installed_data_comes_first(stored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_module, "_FOLDERS", (stored, COMMITTED))
    assert load("exp2").graphs_per_set == 2
    monkeypatch.setattr(dataset_module, "_FOLDERS", (tmp_path / "nowhere", COMMITTED))
    assert load("exp2").graphs_per_set == 100


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("\xff", "is not JSON"),
        ("[]", "is no manifest of format 1"),
        ('{"format": 2, "experiments": {}}', "is no manifest of format 1"),
        ('{"format": 1, "experiments": []}', "is no manifest of format 1"),
        ('{"format": 1, "experiments": {"exp2": []}}', "entry exp2 is"),
        ('{"format": 1, "experiments": {"exp2": {"file": "exp2.npz"}}}', "entry exp2 is"),
    ],
)
def test_load_refuses_manifests(stored: Path, text: str, found: str) -> None:
    (stored / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=rf"manifest\.json: {found}"):
        load("exp2", stored)


@pytest.mark.parametrize("field", ["content_hash", "set_names", "splits", "settings", "counts", "file"])
def test_load_refuses_what_the_manifest_does_not_describe(stored: Path, field: str) -> None:
    path = stored / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    entry = manifest["experiments"]["exp2"]
    value = entry[field]
    entry[field] = value[1:] + value[:1] if isinstance(value, (str, list)) else {**value, "sets": 8}
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(InputError, match=rf"exp2\.npz: {field} is .*not as in manifest\.json"):
        load("exp2", stored)


def rewrite(path: Path, **changes: Any) -> None:
    """The archive with members replaced (or, for None, left out), as a program would that knows the format."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name in {*members, *(f"{field}.npy" for field in changes)}:
            field = name.removesuffix(".npy")
            if changes.get(field, name) is not None:
                content = io.BytesIO(members.get(name, b""))
                if field in changes:
                    content = io.BytesIO()
                    np.save(content, changes[field], allow_pickle=True)
                archive.writestr(name, content.getvalue())


@pytest.mark.parametrize(("damage", "found"), ARRAY_DAMAGES)
def test_load_refuses_damaged_arrays(
    small: DagDataset, stored: Path, damage: Callable[[dict[str, Any]], None], found: str
) -> None:
    values = fields(small)
    damage(values)
    rewrite(stored / "exp2.npz", **{field: values[field] for field in ARRAYS})
    with pytest.raises(InputError, match=rf"exp2\.npz: {found}"):
        load("exp2", stored)


def test_load_refuses_valid_but_other_contents(small: DagDataset, stored: Path) -> None:
    cycles = small.cycles.copy()
    cycles[0, 0, 0] = np.nextafter(cycles[0, 0, 0], np.inf)
    rewrite(stored / "exp2.npz", cycles=cycles)
    with pytest.raises(InputError, match=r"exp2\.npz: content_hash is '[0-9a-f]{50}.*not as in manifest"):
        load("exp2", stored)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"cycles": None}, r"holds \['adjacency', 'download_bytes'"),
        ({"metadata": None}, r"holds \['adjacency', 'cycles'"),
        ({"extra": np.zeros(3)}, r"holds .*'extra'"),
        ({"cycles": np.array([{"a": 1}], dtype=object)}, "cannot be read .*Object arrays"),
        ({"metadata": np.frombuffer(b"[]", np.uint8)}, "cannot be read"),
        ({"metadata": np.frombuffer(b"{}", np.uint8)}, "splits|cycles|settings"),
        ({"metadata": np.zeros(3)}, "cannot be read"),
    ],
)
def test_load_refuses_other_members(stored: Path, changes: dict[str, Any], found: str) -> None:
    rewrite(stored / "exp2.npz", **changes)
    with pytest.raises(InputError, match=rf"exp2\.npz: {found}"):
        load("exp2", stored)


def test_load_refuses_corrupt_files(small: DagDataset, stored: Path) -> None:
    path = stored / "exp2.npz"
    raw = path.read_bytes()
    rng = np.random.default_rng(0)
    for trial in range(300):
        damaged = bytearray(raw)
        if trial % 2:
            damaged = damaged[: rng.integers(len(raw))]
        else:
            damaged[rng.integers(len(raw))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):  # a byte that means nothing, such as a time stamp, does no harm
            assert load("exp2", stored).content_hash == small.content_hash
    path.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read"):
        load("exp2", stored)


@pytest.mark.parametrize("fails_at", [0, 1], ids=["arrays", "manifest"])
def test_a_failed_save_leaves_nothing_half_written(
    small: DagDataset, stored: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    before = {path.name: path.read_bytes() for path in stored.iterdir()}
    calls = []
    real = os.fsync

    def full_disk(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > fails_at:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match=r"folder is .*No space left on device"):
        save(build("exp2", "MB", graphs_per_set=1), stored)
    after = {path.name: path.read_bytes() for path in stored.iterdir()}
    assert after.keys() == before.keys()
    assert after["manifest.json"] == before["manifest.json"]
    if fails_at == 0:
        assert after == before
        assert load("exp2", stored).content_hash == small.content_hash
    else:  # two files cannot change in one step: a mixture is whole files, and is noticed
        with pytest.raises(InputError, match="not as in manifest"):
            load("exp2", stored)


def test_save_refuses(small: DagDataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match=r"folder is .*accepted: a folder to write in"):
        save(small, tmp_path / "file")
    (tmp_path / "manifest.json").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match=r"manifest\.json: is not JSON"):
        save(small, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "manifest.json"}, "nothing is written beside it"
