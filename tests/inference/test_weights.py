"""Weights as files: what comes with the package scores what it says, and nothing else is taken for weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
import time
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny_run
from flax.traverse_util import flatten_dict
from helpers import quickly
from wider import allowed

import mrlato_jax as mj
from mrlato_jax.config import NetworkConfig
from mrlato_jax.dag import dataset as datasets
from mrlato_jax.errors import InputError
from mrlato_jax.inference import trained_run, weights
from mrlato_jax.learning import rollout
from mrlato_jax.learning.outer import init_state
from mrlato_jax.learning.ranges import ASSUMED, ranges_of
from mrlato_jax.results import kinds
from mrlato_jax.training import checkpoint
from mrlato_jax.training.experiments import TestSet, training_examples, unseen_sets
from mrlato_jax.training.run_folder import RunFolder, checkpoint_meta

CONFIG = tiny_run.CONFIG
ARRAYS = {"b/kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.float32([-1.5]), "none": np.zeros(0)}


LABELS = {"general": "mrlato_plus+any_servers+warm_start_iterations=2000"}


@pytest.mark.parametrize("sets", [1, pytest.param(None, marks=pytest.mark.slow)], ids=["first set", "all sets"])
@pytest.mark.parametrize("name", quickly(sorted(weights.shipped()), "exp2", "general"))
def test_shipped_weights_score_what_they_say(name: str, sets: int | None) -> None:
    """On the unseen sets of their experiment; and what trained them is on record."""
    policy, data = mj.load_offloader(name), datasets.load(name)
    described = json.loads(weights.shipped()[name].with_suffix(".json").read_text())
    assert (described["config"]["experiment"], described["method"]) == (name, LABELS.get(name, "mrlato_plus"))
    assert described["data_hash"] == data.content_hash
    assert policy.iteration == described["iteration"] == described["config"]["iterations"]
    test_sets = unseen_sets(data, "paper")
    assert list(described["makespan_ms"]) == [test_set.name for test_set in test_sets]
    scores = trained_run.score(policy, test_sets[:sets])
    want = {name: described["makespan_ms"][name] for name in scores}
    assert scores == pytest.approx(want, rel=5e-4)  # a near tie may fall the other way elsewhere
    for row in (tiny_run.ROOT / "data" / "results" / "cpu").glob(f"{name}-mrlato_plus-seed0.json"):
        recorded = json.loads(row.read_text())["rows"]
        for test_set, parts in recorded.items():
            if test_set in scores:
                assert scores[test_set] == pytest.approx(parts["all"]["latency_ms"][0], rel=5e-4)


def test_there_are_shipped_weights() -> None:
    assert sorted(weights.shipped()) == ["exp1", "exp2", "exp3", "general"]


@pytest.mark.parametrize("name", quickly(["exp2", "general"], "exp2"))
def test_shipped_weights_say_what_they_were_trained_on(name: str) -> None:
    found = {name: ends for name, *ends in ranges_of(training_examples(datasets.load(name), "paper"))}
    policy = mj.load_offloader(name)
    assert policy.ranges is not None
    known = ASSUMED | {name: ends for name, *ends in policy.ranges}
    for kept, ends in known.items():
        assert found.pop(kept) == pytest.approx(ends)
    assert not found or (set(found) == {"pinned tasks / tasks"} and name == "exp2")


def test_the_general_policy_is_what_one_gets_who_asks_for_none() -> None:
    assert mj.load_offloader().label == LABELS["general"]


@pytest.mark.slow
def test_the_general_policy_is_near_the_optimum() -> None:
    """Of DAGs and systems like those of its training it is far nearer to the best plans known than HEFT-based."""
    policy, system = mj.load_offloader(), mj.System()
    graphs = unseen_sets(datasets.load("general"), "paper")[0].graphs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spans = [plan.makespan for plan in policy.plan(list(graphs), system)]
    best = np.mean([mj.optimum(graph, system).makespan for graph in graphs])
    heft = np.mean([mj.heft(graph, system).makespan for graph in graphs])
    assert np.mean(spans) / best - 1 < 0.5 * (heft / best - 1)


def test_a_run_becomes_files_that_plan_as_it_does(tmp_path: Path) -> None:
    state, data = init_state(CONFIG.network, CONFIG.learning, seed=4), tiny_run.dataset()
    with RunFolder.create(tmp_path / "run", CONFIG, "ab") as run:
        checkpoint.save(run.checkpoints, 2, state._asdict(), checkpoint_meta(CONFIG, "ab"))
        test_sets = [TestSet("six tasks", tuple(data.graphs(0)), mj.System())]
        described = trained_run.save_weights(tmp_path, "mine", run, test_sets)
    policy = mj.load_offloader(tmp_path / "mine.safetensors")
    jax.tree.map(np.testing.assert_array_equal, policy.params, state.params)
    assert (policy.network, policy.learning, policy.iteration) == (CONFIG.network, CONFIG.learning, 2)
    assert trained_run.score(policy, test_sets) == described["makespan_ms"]
    assert json.loads((tmp_path / "mine.json").read_text()) == described


def test_the_format_is_safetensors() -> None:
    """Its own library reads what is written here, and what it writes is read here."""
    arrays = {name: np.asarray(value, np.float32) for name, value in ARRAYS.items()}
    for read, data in (
        (safetensors.numpy.load, weights.to_bytes(arrays)),
        (weights.from_bytes, safetensors.numpy.save(arrays, metadata={"kind": "test"})),
    ):
        found = read(data)
        assert found.keys() == arrays.keys()
        for name, value in arrays.items():
            assert found[name].dtype == np.float32
            np.testing.assert_array_equal(found[name], value)


def header(entries: Any, body: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        struct.pack("<Q", 2**62),
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 3) + b"{}x",
        struct.pack("<Q", 4) + b"\xff\xfe{}",
        header({"a": 3}),
        header({"a": {"dtype": "F32", "shape": [2]}}),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 8),
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}}, b"\0" * 8),
        header({"a": {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}}, b"\0" * 8),
        header({"a": {"dtype": "F16", "shape": [4], "data_offsets": [0, 8]}}, b"\0" * 8),
        header({"a": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 8]}}, b"\0" * 8),
        header({"a": {"dtype": "F32", "shape": [0, 10**30], "data_offsets": [0, 0]}}),
        header({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}, b"\0" * 4),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, b"\0" * 4),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 8),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"\0" * 8),
        header({name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in "ab"}, b"\0" * 4),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, struct.pack("<f", float("nan"))),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, struct.pack("<f", float("-inf"))),
        struct.pack("<Q", 100_000) + b"[" * 100_000,
        struct.pack("<Q", 14) + b'{"a":1,"a":{}}',
    ],
    ids=lambda data: hashlib.sha256(data).hexdigest()[:8],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"weights cannot be read .*accepted: a safetensors file"):
        weights.from_bytes(data)


def copied(folder: Path) -> tuple[Path, Path]:
    stem = weights.shipped()["exp1"]
    paths = folder / "x.safetensors", folder / "x.json"
    for path in paths:
        path.write_bytes(stem.with_suffix(path.suffix).read_bytes())
    return paths


def described(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of shipped weights whose description is changed, the hash as it was."""
    tensors, description = copied(folder)
    text = json.loads(description.read_text())
    change(text)
    description.write_text(json.dumps(text))
    return tensors


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda text: text.update(ranges=5), "ranges is 5; accepted: a JSON object"),
        (lambda text: text["ranges"].update(task=[1, 2]), "ranges has 'task'; accepted: tasks, "),
        (lambda text: text.update(iteration=float("inf")), "iteration is inf; accepted: an integer"),
        (lambda text: text.pop("iteration"), "iteration is None; accepted: an integer"),
        (lambda text: text.update(config=[]), "config is "),
        (lambda text: text["config"].update(policy=[]), "policy is .*; accepted: a JSON object"),
        (lambda text: text["config"].update(learning=None), "learning is None; accepted: a JSON object"),
        (lambda text: text.update(sha256=None), "sha256 is None"),
        (lambda text: text.update(method=["x" * 10**6]), "method is "),
        (lambda text: text.update(method=nested(100)), "nests more than 64 levels"),
    ],
)
def test_a_description_that_is_none_is_refused(tmp_path: Path, change: Callable[[Any], Any], phrase: str) -> None:
    with pytest.raises(InputError, match=phrase) as caught:
        mj.load_offloader(described(tmp_path, change))
    assert "x.json" in str(caught.value)
    assert len(str(caught.value)) < 1000


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("number", [1_000, 10**9])
@pytest.mark.parametrize("name", ["layers", "units", "neighbour_width"])
def test_nothing_is_built_of_a_size_that_a_description_claims(tmp_path: Path, name: str, number: int) -> None:
    def change(text: dict[str, Any]) -> None:
        text["config"]["policy"] |= {"neighbours": "listed", name: number}

    started = time.monotonic()
    with pytest.raises(InputError, match="arrays of another network"):
        mj.load_offloader(described(tmp_path, change))
    assert time.monotonic() - started < 10  # a thousand layers take a minute and a half to build


def rewritten(stem: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """The arrays changed, and the hash with them."""
    tensors, description = stem.with_suffix(".safetensors"), stem.with_suffix(".json")
    arrays = weights.from_bytes(tensors.read_bytes())
    change(arrays)
    tensors.write_bytes(weights.to_bytes(arrays))
    text = {**json.loads(description.read_text()), "sha256": hashlib.sha256(tensors.read_bytes()).hexdigest()}
    description.write_text(json.dumps(text))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    tensors, _ = copied(tmp_path)

    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["params/embedding/bias"][3] = value

    rewritten(tensors, change)
    with pytest.raises(InputError, match="embedding/bias' holds NaN or infinite numbers"):
        mj.load_offloader(tensors)


@pytest.mark.parametrize("layers", quickly([1, 2, 3], 2))
def test_every_depth_is_known(tmp_path: Path, layers: int) -> None:
    network = NetworkConfig(units=8, heads=2, layers=layers, encoder="bidirectional")
    params = rollout.init_params(network, jax.random.key(0))
    arrays = {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()}
    weights.check_arrays(tmp_path, network, arrays)
    for name in arrays:
        with pytest.raises(InputError, match="arrays of another network"):
            weights.check_arrays(tmp_path, network, {key: array for key, array in arrays.items() if key != name})


def test_a_run_with_parameters_of_another_network_is_refused(tmp_path: Path) -> None:
    """Its checkpoint is whole, and says of itself that it is of these settings."""
    params = init_state(CONFIG.network, CONFIG.learning, seed=4).params
    other = dataclasses.replace(CONFIG.network, units=32)
    with RunFolder.create(tmp_path, CONFIG, "ab") as run:
        run.save(1, {"params": rollout.init_params(other, jax.random.key(0))}, checkpoint_meta(CONFIG, "ab"))
        with pytest.raises(InputError, match="arrays of another network"):
            trained_run.trained_policy(run)
        spoilt = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), params)
        run.save(2, {"params": spoilt}, checkpoint_meta(CONFIG, "ab"))
        with pytest.raises(InputError, match="NaN or infinite numbers"):
            trained_run.trained_policy(run)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    tensors, description = copied(tmp_path)
    mj.load_offloader(tensors)
    whole, text = tensors.read_bytes(), json.loads(description.read_text())
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=r"x\.safetensors is not what .*x\.json describes"):
        mj.load_offloader(tensors)
    tensors.write_bytes(whole)
    text["config"]["policy"]["units"] = 64
    description.write_text(json.dumps(text))
    with pytest.raises(InputError, match="arrays of another network"):
        mj.load_offloader(tensors)
    description.write_text("{}")
    with pytest.raises(InputError, match=r"x\.json cannot be read"):
        mj.load_offloader(tensors)
    description.unlink()
    with pytest.raises(InputError, match=r"x\.json: No such file"):
        mj.load_offloader(tensors)


@pytest.mark.slow
def test_the_general_policy_on_three_servers_where_results_stay() -> None:
    """With pins and a weight of energy: no forbidden site, and nearer to the best than HEFT-based."""
    kind = next(kind for kind in kinds.KINDS if kind.servers == 3 and kind.pinned and kind.channel == "resident")
    asked = [one for one in islice(kinds.drawn(kind, seed=2), 60) if one.graph.num_tasks > 16][:16]
    policy, weight = mj.load_offloader(), mj.Objective(energy_weight=0.5)
    graphs, systems = [one.graph for one in asked], [one.system for one in asked]
    plans = policy.plan(graphs, systems, objective=weight)
    quick = [mj.heft(graph, system, objective=weight) for graph, system in zip(graphs, systems, strict=True)]
    ratio = [
        weight.cost(ours.makespan, ours.energy) / weight.cost(theirs.makespan, theirs.energy)
        for ours, theirs in zip(plans, quick, strict=True)
    ]
    assert np.mean(ratio) < 0.95
    assert all(allowed(plan, graph.pins) for plan, graph in zip(plans, graphs, strict=True))
