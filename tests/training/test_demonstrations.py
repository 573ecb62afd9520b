"""Demonstrations: which DAGs, what a file says of them, and what is refused."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import by_hand
import jax
import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.config import NetworkConfig
from mrlato_jax.dag.families import FAMILIES
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
    met, follow = [], jax.jit(partial(by_hand.follow, free))
    for number in range(len(pool.sizes)):
        task = jax.tree.map(lambda leaf, number=number: leaf[number, 0], pool.learning_tasks)
        followed = follow(params, task, task.optimum[:, None])
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


@pytest.mark.slow
def test_several_servers_pins_and_energy(tmp_path: Path) -> None:
    """Of families of two kinds: the sites are kept, and each kind has a pool of its own."""
    chosen = [of_kind((3, "resident", "shared"), 5), of_kind((2, "paper", "shared"), 8)]
    places = [place for place in demonstrations.wanted("general", 3) if place[0] in chosen]
    entries = [demonstrations.demonstrate("general", *place, time_limit_s=5.0) for place in places]
    assert {site for entry in entries for site in entry.placement} > {2}
    path = demonstrations.find("general", tmp_path)
    demonstrations.save(path, "general", entries)
    assert demonstrations.load(path, "general") == entries
    network = dataclasses.replace(POLICY, servers="any_servers")
    pools = demonstrations.demonstration_pools("general", entries, network, 1)
    assert [pool.learning_tasks.dags.num_sites for pool in pools] == [3, 4]
    assert all(pool.learning_tasks.dags.prices is not None for pool in pools)
    with pytest.raises(InputError, match="the systems have 2 servers; accepted: 1"):
        demonstrations.demonstration_pools("general", entries, POLICY, 1)


def test_each_dag_of_a_kind_has_a_system_of_its_own() -> None:
    """With pins and a weight of its own, always the same; other families' DAGs share their family's system."""
    shared, own = 0, of_kind((3, "resident", "shared"), 14)
    places = [place for place in demonstrations.wanted("general", 40) if place[0] in (shared, own)]
    entries = [Demonstration(*place, placement=(), cost=0.0, proven=False) for place in places]
    of_shared, of_own = ([entry for entry in entries if entry.set_index == number] for number in (shared, own))
    assert len({entry.system("general") for entry in of_shared}) == 1
    assert len({entry.objective("general") for entry in of_shared}) == 1
    assert len({entry.system("general") for entry in of_own}) == len(of_own) == 40
    assert {entry.system("general").num_servers for entry in of_own} == {3}
    assert {entry.system("general").channel for entry in of_own} == {"resident"}
    assert {entry.graph("general").num_tasks for entry in of_own} == {14}
    for entry in of_own:
        uplinks = entry.system("general").uplink_bps
        assert isinstance(uplinks, tuple)
        assert entry.rate_bps == uplinks[0]
    weights = {entry.objective("general").energy_weight for entry in of_own}
    assert 0.0 in weights
    assert len(weights) > 10
    pinned = [entry.graph("general").is_pinned for entry in of_own]
    assert 5 < sum(pinned) < 35
    demonstrations._family.cache_clear()
    demonstrations._made.cache_clear()
    again = [entry.system("general") for entry in of_own]
    demonstrations._family.cache_clear()
    assert again == [entry.system("general") for entry in of_own]


def of_kind(kind: tuple[int, str, str], num_tasks: int) -> int:
    """The place of a family of `general`."""
    families = FAMILIES["general"]
    return next(i for i, family in enumerate(families) if (family.kind, family.num_tasks) == (kind, num_tasks))
