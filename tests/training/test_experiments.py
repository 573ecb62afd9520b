"""What is trained on and what is evaluated, and never one in the other."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from helpers import quickly

import mrlato_jax as mj
from mrlato_jax.config import NetworkConfig
from mrlato_jax.dag.dataset import DagDataset, build_graph, load
from mrlato_jax.dag.families import FAMILIES
from mrlato_jax.learning.meta_batch import TaskPool
from mrlato_jax.training import experiments
from mrlato_jax.training.experiments import training_pools, training_systems

POLICY = NetworkConfig(units=16, heads=2)
TRAIN_MBPS = (4, 7, 10, 13, 16, 19, 22)
TEST_MBPS = (5.5, 8.5, 11.5)


def part(experiment: str, graphs: int = 2, most: int = 3) -> DagDataset:
    """The first sets of each split, the first graphs of each."""
    chosen: dict[str, list[mj.TaskGraph]] = {}
    splits = []
    for index, family in enumerate(FAMILIES[experiment]):
        if splits.count(family.split) < most:
            chosen[family.set_name] = [build_graph(experiment, index, i) for i in range(graphs)]
            splits.append(family.split)
    return DagDataset.from_graphs(experiment, chosen, tuple(splits), {})


@pytest.fixture(scope="module", params=["exp1", "exp2", "exp3"])
def data(request: pytest.FixtureRequest) -> DagDataset:
    return part(request.param)


@pytest.fixture(scope="module")
def pool(data: DagDataset) -> TaskPool:
    return training_pools(data, POLICY, "paper")[0]


# What the data sets are.


def test_experiment_1_is_unseen_topologies() -> None:
    data = load("exp1")
    tests = experiments.unseen_sets(data, "paper")
    assert [test_set.name for test_set in tests] == ["fat0.7_density0.4", "fat0.7_density0.7", "fat0.8_density0.6"]
    grid = {f"fat{fat}_density{density}" for fat in (0.4, 0.5, 0.6, 0.7, 0.8) for density in (0.4, 0.5, 0.6, 0.7, 0.8)}
    train = [data.set_names[i] for i in data.train_sets]
    assert len(train) == 22
    assert set(train) == grid - {test_set.name for test_set in tests}
    assert (data.task_mask.sum(-1) == 25).all()
    assert all(len(test_set.graphs) == data.graphs_per_set == 100 for test_set in tests)
    assert {test_set.system for test_set in tests} == {mj.System(uplink_bps=7e6, downlink_bps=7e6)}


def test_experiment_2_is_unseen_sizes() -> None:
    data = load("exp2")
    tests = experiments.unseen_sets(data, "paper")
    assert [{graph.num_tasks for graph in test_set.graphs} for test_set in tests] == [{20}, {30}, {40}]
    assert [test_set.name for test_set in tests] == ["n20", "n30", "n40"]
    sizes = [set(data.task_mask[i].sum(-1)) for i in data.train_sets]
    assert sizes == [{10}, {15}, {25}, {35}, {45}, {50}]
    assert all(len(test_set.graphs) == data.graphs_per_set == 100 for test_set in tests)
    assert {test_set.system for test_set in tests} == {mj.System(uplink_bps=7e6, downlink_bps=7e6)}


def test_experiment_3_is_unseen_rates() -> None:
    data = load("exp3")
    tests = experiments.unseen_sets(data, "paper")
    assert [test_set.system for test_set in tests] == [
        mj.System(uplink_bps=1e6 * rate, downlink_bps=1e6 * rate) for rate in TEST_MBPS
    ]
    assert [test_set.name for test_set in tests] == ["5.5 Mbit/s", "8.5 Mbit/s", "11.5 Mbit/s"]
    assert tests[0].graphs == tests[1].graphs == tests[2].graphs  # one set under three rates
    assert len(tests[0].graphs) == 100
    assert len(data.train_sets) == 24
    assert (data.task_mask.sum(-1) == 25).all()


def test_training_systems() -> None:
    for experiment in ("exp1", "exp2"):
        assert training_systems(experiment, "mrlco") == [mj.System(uplink_bps=7e6, downlink_bps=7e6, channel="mrlco")]
    assert training_systems("exp3", "paper") == [
        mj.System(uplink_bps=1e6 * rate, downlink_bps=1e6 * rate) for rate in TRAIN_MBPS
    ]
    assert not set(TRAIN_MBPS) & set(TEST_MBPS)


def test_a_set_may_have_a_system_of_its_own() -> None:
    data = load("general")
    for place, name in enumerate(("n2_system0", "n2_system1", "n2_system2")):
        (system,) = experiments.systems_of(data, place, "mrlco")
        assert data.set_names[place] == name
        numbers = data.settings["systems"][place]
        assert system == mj.System(**numbers, channel="mrlco")
    found = {test_set.name: test_set for test_set in experiments.unseen_sets(data, "paper")}
    families = FAMILIES["general"]
    assert list(found) == [family.set_name for family in families if family.split == "test"]
    assert {"n10_system0", "staged_n16_system1", "n75_system1"} < found.keys()
    assert found["n22_system1"].system == mj.System(1.5e9, 4e9, 20e6, 60e6)
    examples = list(experiments.training_examples(data, "paper"))
    assert len(examples) == 100 * sum(family.split == "train" for family in families)
    assert {system.vm_hz for _, system, _ in examples if system.num_servers == 1} > {10e9, 4e9, 80e9}
    kinds = experiments.sets_by_kind(data, "paper")
    assert sorted(index for kind in kinds for index in kind) == list(data.train_sets)
    assert [len(kind) for kind in kinds] == [73, *[10] * 7]
    with pytest.raises(mj.InputError, match=r"servers is one_server for data set general.*; accepted: any_servers"):
        experiments.check_room(data, NetworkConfig())
    heavy = {**data.settings, "energy_weights": [1.0] * data.num_sets}
    with pytest.raises(mj.InputError, match=r"energy_weights has 1 for test set .*; accepted: 0"):
        experiments.unseen_sets(DagDataset(**{**fields(data), "settings": heavy}), "paper")
    wrong = DagDataset(**{**fields(data), "settings": {"systems": [{"ue_ghz": 1}] * data.num_sets}})
    with pytest.raises(mj.InputError, match="systems of data set general cannot be used"):
        experiments.systems_of(wrong, 0, "paper")


def fields(data: DagDataset) -> dict[str, Any]:
    return {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}


# The pool, by its contents.


def costs(graph: mj.TaskGraph) -> tuple[float, ...]:
    """Time on the UE of each task, sorted: what tells graphs apart whatever their order, padding and system."""
    return tuple(np.sort((graph.cycles / 1e9).astype(np.float32)).tolist())


def test_the_pool_has_every_training_graph_and_no_test_graph(data: DagDataset, pool: TaskPool) -> None:
    ue, mask = np.asarray(pool.learning_tasks.dags.ue), np.asarray(pool.learning_tasks.dags.mask)
    assert ue.shape[:3] == (len(data.train_sets), len(training_systems(data.name, "paper")), data.graphs_per_set)
    for place, index in enumerate(data.train_sets):
        for variant in range(ue.shape[1]):
            found = [
                tuple(np.sort(row[valid]).tolist())
                for row, valid in zip(ue[place, variant], mask[place, variant], strict=True)
            ]
            assert found == [costs(graph) for graph in data.graphs(index)]
    packed = {tuple(np.sort(row[valid]).tolist()) for row, valid in zip(_rows(ue), _rows(mask), strict=True)}
    tests = [graph for test_set in experiments.unseen_sets(data, "paper") for graph in test_set.graphs]
    assert tests
    assert not packed & {costs(graph) for graph in tests}


def _rows(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, array.shape[-1])


def test_the_pool_is_padded_to_its_own_largest(data: DagDataset, pool: TaskPool) -> None:
    largest = [max(graph.num_tasks for graph in data.graphs(index)) for index in data.train_sets]
    assert pool.sizes == tuple(largest)
    # The sizes of unseen sets leave no trace, and no position is wasted.
    assert pool.learning_tasks.features.shape[-2] == max(largest)
    assert (np.asarray(pool.learning_tasks.dags.mask).sum(-1) == np.array(largest)[:, None, None]).all()


def test_variants_are_the_rates(data: DagDataset, pool: TaskPool) -> None:
    rates = 1e6 * np.array(TRAIN_MBPS if data.name == "exp3" else [7])
    graph = data.graph(data.train_sets[0], 0)
    for variant, rate in enumerate(rates):
        order = np.asarray(pool.learning_tasks.dags.order[0, variant, 0])
        order = order[order >= 0]
        np.testing.assert_array_equal(order, mj.priority_order(graph, mj.System(uplink_bps=rate, downlink_bps=rate)))
        for field, sent in (("uplink", graph.upload_bytes), ("downlink", graph.download_bytes)):
            times = np.asarray(getattr(pool.learning_tasks.dags, field)[0, variant, 0, :, 0])[: graph.num_tasks]
            np.testing.assert_allclose(times, 8 * sent[order] / rate, rtol=1e-6)


def test_the_channel_reaches_the_pool_and_the_settings(data: DagDataset) -> None:
    small = part(data.name, graphs=1, most=1)
    assert training_pools(small, POLICY, "mrlco")[0].learning_tasks.dags.channel == "mrlco"
    assert {test_set.system.channel for test_set in experiments.unseen_sets(small, "mrlco_code")} == {"mrlco_code"}


def test_experiment_3_at_other_rates() -> None:
    data = part("exp3")
    tests = experiments.unseen_sets(data, "paper", [5.5e6, 13.5e6])
    assert [test_set.name for test_set in tests] == ["5.5 Mbit/s", "13.5 Mbit/s"]
    assert tests[1].system == mj.System(uplink_bps=13.5e6, downlink_bps=13.5e6)


@pytest.mark.parametrize(
    ("experiment", "rates", "phrase"),
    [
        ("exp1", [7e6], "for exp1; accepted: none, except for exp3"),
        ("exp3", [], "accepted: at least one, each once"),
        ("exp3", [7e6, 7e6], "accepted: at least one, each once"),
        ("exp3", [-1.0], r"uplink_bps is -1.0; accepted: a finite number in \(0, inf\)"),
    ],
)
def test_rates_that_are_refused(experiment: str, rates: list[float], phrase: str) -> None:
    with pytest.raises(mj.InputError, match=phrase):
        experiments.unseen_sets(part(experiment, graphs=1, most=1), "paper", rates)


def test_no_test_sets() -> None:
    graphs = {"a": [build_graph("exp2", 0, 0)]}
    with pytest.raises(mj.InputError, match="has no test sets"):
        experiments.unseen_sets(DagDataset.from_graphs("exp2", graphs, ("train",), {}), "paper")


def test_a_graph_beyond_the_policys_width(data: DagDataset) -> None:
    with pytest.raises(mj.InputError, match="neighbour_width = 1"):
        training_pools(data, NetworkConfig(neighbour_width=1), "paper")


# What settings may be chosen by.


@pytest.mark.parametrize(
    ("experiment", "names"),
    [
        pytest.param(
            "exp1", [family.set_name for family in FAMILIES["exp1"] if family.split == "train"], marks=pytest.mark.slow
        ),
        ("exp2", ["n10", "n15", "n25", "n35", "n45", "n50"]),
        pytest.param("exp3", [f"{rate:g} Mbit/s" for rate in TRAIN_MBPS], marks=pytest.mark.slow),
    ],
)
def test_validation_is_fresh_graphs_of_the_training_families(experiment: str, names: list[str]) -> None:
    data = load(experiment)
    found = experiments.validation_sets(data, "mrlco")
    assert [test_set.name for test_set in found] == names
    assert all(test_set.system in training_systems(experiment, "mrlco") for test_set in found)
    assert all(len(test_set.graphs) == data.graphs_per_set for test_set in found)
    stored = {graph for index in range(data.num_sets) for graph in data.graphs(index)[:5]}
    fresh = {graph for test_set in found for graph in test_set.graphs}
    assert len(fresh) == len(names) * data.graphs_per_set
    assert not fresh & stored
    for test_set, index in zip(found, data.train_sets, strict=False):
        assert test_set.graphs[0] == build_graph(experiment, index, data.graphs_per_set)
        assert {graph.num_tasks for graph in test_set.graphs} == {FAMILIES[experiment][index].num_tasks}


@pytest.mark.parametrize("experiment", quickly(["exp1", "exp2", "exp3"], "exp3"))
def test_fresh_settings_are_the_unseen_ones_with_other_dags(experiment: str) -> None:
    data = load(experiment)
    fresh, unseen = experiments.fresh_sets(data, "mrlco"), experiments.unseen_sets(data, "mrlco")
    assert [(test_set.name, test_set.system) for test_set in fresh] == [
        (test_set.name, test_set.system) for test_set in unseen
    ]
    stored = {graph for index in range(data.num_sets) for graph in data.graphs(index)}
    for ours, index in zip(fresh, (data.test_sets * 3)[:3], strict=True):
        assert ours.graphs == tuple(build_graph(experiment, index, data.graphs_per_set + i) for i in range(100))
        assert not stored & set(ours.graphs)


def test_validation_needs_data_of_known_families() -> None:
    with pytest.raises(mj.InputError, match="was not drawn by"):
        experiments.validation_sets(part("exp2"), "paper")
