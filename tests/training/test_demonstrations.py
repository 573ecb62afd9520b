"""Demonstrations: which DAGs, what a file says of them, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import by_hand
import jax
import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.config import NetworkConfig
from mrlato_jax.dag.families import FAMILIES, Family
from mrlato_jax.errors import InputError
from mrlato_jax.learning import rollout
from mrlato_jax.planners import look_ahead_order
from mrlato_jax.training import demonstrations
from mrlato_jax.training.demonstrations import Demonstration

POLICY = NetworkConfig(decoder_input="task_sim", units=16, heads=2, layers=1, neighbours="pooled")


@pytest.fixture(scope="module")
def found() -> list[Demonstration]:
    """Two DAGs of each of Experiment 2's two smallest families, of 10 and of 15 tasks."""
    places = [place for place in demonstrations.wanted("exp2", 2) if place[0] < 2]
    return [demonstrations.demonstrate("exp2", *place, time_limit_s=5.0) for place in places]


def test_fresh_dags_of_training_families_under_training_rates() -> None:
    for experiment, rates in (("exp1", 1), ("exp2", 1), ("exp3", 7)):
        places = list(demonstrations.wanted(experiment, 3))
        families = [index for index, family in enumerate(FAMILIES[experiment]) if family.split == "train"]
        assert len(places) == 3 * rates * len(families)
        assert {set_index for set_index, _, _ in places} == set(families)
        assert len({(set_index, graph) for set_index, graph, _ in places}) == len(places)  # no DAG twice
        assert min(graph for _, graph, _ in places) == demonstrations.FIRST_FRESH > 200  # beyond data and validation
        assert len({rate for _, _, rate in places}) == rates
        assert list(demonstrations.wanted(experiment, 2)) == places[: len(places) * 2 // 3]  # more are more of the same


def test_the_plans_are_optima(found: list[Demonstration]) -> None:
    assert [len(entry.placement) for entry in found] == [10, 15, 10, 15]
    for entry in found:
        plan = mj.optimum(entry.graph("exp2"), entry.system("exp2"))
        assert entry.proven
        assert entry.cost == pytest.approx(plan.makespan, rel=1e-9)
        again = mj.simulate(entry.graph("exp2"), entry.system("exp2"), [int(side) for side in entry.placement])
        assert again.makespan == pytest.approx(entry.cost, rel=1e-12)


def test_what_is_written_is_read(found: list[Demonstration], tmp_path: Path) -> None:
    path = demonstrations.find("exp2", tmp_path)
    demonstrations.save(path, "exp2", found)
    assert demonstrations.load(path, "exp2") == found
    first = path.read_bytes()
    demonstrations.save(path, "exp2", found)
    assert path.read_bytes() == first
    assert len(demonstrations.content_hash(path)) == 64


def test_a_pool_has_the_plans_in_scheduling_order(found: list[Demonstration]) -> None:
    """Of two rates: a DAG of each number of tasks in each set."""
    slower = [demonstrations.demonstrate("exp2", i, 1002, 4e6, 5.0) for i in (0, 1)]
    everything = [*found, *slower]
    (pool,) = demonstrations.demonstration_pools("exp2", everything, POLICY, 1)
    assert pool.sizes == (10, 10, 10, 15, 15, 15)
    assert pool.learning_tasks.features.shape[:4] == (6, 1, 1, 15)
    assert pool.learning_tasks.optimum is not None
    met = []
    for number, size in enumerate(pool.sizes):
        task = jax.tree.map(lambda leaf, number=number: leaf[number, 0], pool.learning_tasks)
        np.testing.assert_array_equal(task.dags.mask.sum(axis=-1), size)
        np.testing.assert_array_equal(np.asarray(task.optimum)[:, size:], 0)
        met += mj.makespan(task.dags, task.optimum).tolist()
    np.testing.assert_allclose(sorted(met), sorted(entry.cost for entry in everything), rtol=1e-5)


def test_a_policy_that_chooses_the_order_is_shown_the_look_aheads_plans(found: list[Demonstration]) -> None:
    free = dataclasses.replace(POLICY, decides="order")
    params = rollout.init_params(free, jax.random.key(0))
    (pool,) = demonstrations.demonstration_pools("exp2", found, free, 1)
    assert pool.learning_tasks.optimum is not None
    met = []
    for number in range(len(pool.sizes)):
        task = jax.tree.map(lambda leaf, number=number: leaf[number, 0], pool.learning_tasks)
        followed = by_hand.follow(free, params, task, task.optimum[:, None])
        met += np.asarray(followed.costs)[:, 0].tolist()
    ahead = [look_ahead_order(entry.graph("exp2"), entry.system("exp2")).makespan for entry in found]
    np.testing.assert_allclose(sorted(met), sorted(ahead), rtol=1e-5)


def test_a_pool_deals_equally_many_into_each_set(found: list[Demonstration], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demonstrations, "MIXES", 1)
    (pool,) = demonstrations.demonstration_pools("exp2", found[:3], POLICY, 1)  # two of ten tasks, one of fifteen
    assert pool.sizes == (10, 15)
    assert pool.learning_tasks.features.shape[:3] == (2, 1, 1)


def test_plans_of_other_dags_are_refused(found: list[Demonstration]) -> None:
    flipped = dataclasses.replace(found[0], placement=tuple(1 - site for site in found[0].placement))
    with pytest.raises(InputError, match=r"plan of graph 1000 of set 0 takes .* by the simulator, and"):
        demonstrations.demonstration_pools("exp2", [flipped, *found[1:]], POLICY, 1)
    with pytest.raises(InputError, match=r"have 1 plans of 15 tasks; accepted: at least graphs_per_task = 2"):
        demonstrations.demonstration_pools("exp2", found[:3], POLICY, 2)


@pytest.mark.parametrize("experiment", ["exp1", "exp3"])
def test_those_that_come_with_the_package_are_of_every_family_and_rate(experiment: str) -> None:
    """And a sample of their plans takes as long as they say."""
    everything = demonstrations.load(demonstrations.find(experiment), experiment)
    assert len(everything) > 20_000
    assert sum(entry.proven for entry in everything) >= len(everything) - 1
    kinds = {(entry.set_index, entry.rate_bps) for entry in everything}
    assert kinds == {(set_index, rate) for set_index, _, rate in demonstrations.wanted(experiment, 1)}
    for entry in everything[:: len(everything) // 8]:
        again = mj.simulate(entry.graph(experiment), entry.system(experiment), [int(side) for side in entry.placement])
        assert again.makespan == pytest.approx(entry.cost, rel=1e-12)


def test_several_servers_pins_and_energy(tmp_path: Path) -> None:
    """Of families of two kinds: the sites are kept, and each kind has a pool of its own."""
    families = FAMILIES["general"]
    chosen = [
        next(i for i, family in enumerate(families) if kind(family) == wanted)
        for wanted in ((3, "resident", True, 5), (2, "paper", True, 8))
    ]
    entries = [demonstrations.demonstrate("general", i, 1000 + k, 1e6, 5.0) for i in chosen for k in (0, 1)]
    assert {site for entry in entries for site in entry.placement} > {2}
    path = demonstrations.find("general", tmp_path)
    demonstrations.save(path, "general", entries)
    assert demonstrations.load(path, "general") == entries
    network = dataclasses.replace(POLICY, servers="any_servers")
    pools = demonstrations.demonstration_pools("general", entries, network, 1)
    assert [pool.learning_tasks.dags.num_sites for pool in pools] == [4, 3]
    assert all(pool.learning_tasks.dags.prices is not None for pool in pools)
    with pytest.raises(InputError, match="the systems have 3 servers; accepted: 1"):
        demonstrations.demonstration_pools("general", entries, POLICY, 1)


def kind(family: Family) -> tuple[int, str, bool, int]:
    """Servers, channel, whether energy counts, and tasks."""
    system = family.system or {}
    servers = system.get("vm_hz", [0.0])
    count = len(servers) if isinstance(servers, list) else 1
    return count, system.get("channel", "paper"), family.energy_weight > 0, family.num_tasks


def test_files_of_something_else_are_refused(found: list[Demonstration], tmp_path: Path) -> None:
    path = tmp_path / "demonstrations.npz"
    with pytest.raises(InputError, match="No such file"):
        demonstrations.content_hash(path)
    demonstrations.save(path, "exp2", found)
    with pytest.raises(InputError, match=r"is of .*'exp2'.*; accepted: .*'exp1'"):
        demonstrations.load(path, "exp1")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        demonstrations.load(path, "exp2")
    for changes, phrase in (({"graph_index": 150}, "graph 150 of set 0"), ({"set_index": 2}, "of set 2")):
        demonstrations.save(path, "exp2", [dataclasses.replace(found[0], **changes)])  # set 2 is a test set
        with pytest.raises(InputError, match=phrase):
            demonstrations.load(path, "exp2")
