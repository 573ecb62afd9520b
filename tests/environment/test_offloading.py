"""The environment: `mj.environment.Offloading`, one application an episode."""

from __future__ import annotations

import dataclasses
import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import random_dag, random_mec, to_graph, to_system
from wider import Kind, random_case

import mrlato_jax as mj
from mrlato_jax.dag.families import FAMILIES
from mrlato_jax.environment import Applications, EpisodeState, Offloading
from mrlato_jax.environment.process import makespan_of

Episode = tuple[EpisodeState, jax.Array, jax.Array, jax.Array]


def episode(env: Offloading, key: jax.Array, index: jax.Array | None = None) -> Episode:
    """A random one until the padding ends: the last state, actions [N], rewards [N], and whether it is done [N]."""
    reset_key, key = jax.random.split(key)

    def body(carry: Any, key: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array, jax.Array]]:
        state, seen = carry
        action = jax.random.categorical(key, jnp.where(seen.action_mask, 0.0, -jnp.inf))
        state, seen, reward, done = env.step(state, action)
        return (state, seen), (action, reward, done)

    (state, _), told = jax.lax.scan(body, env.reset(reset_key, index), jax.random.split(key, env.num_tasks))
    return state, *told


@pytest.mark.parametrize("in_order", [True, False])
def test_rewards_sum_to_minus_the_makespan(in_order: bool) -> None:
    """Of given graphs on two systems, side by side, by the oracle."""
    rng = np.random.default_rng(3)
    sources = [random_dag(rng, n) for n in (1, 4, 9)]
    mecs = [random_mec(rng, "paper") for _ in range(2)]
    env = Offloading([to_graph(dag) for dag in sources], [to_system(mec) for mec in mecs], in_order=in_order)
    assert (env.num_episodes, env.num_tasks, env.num_actions) == (6, 9, 2 if in_order else 18)
    indices = jnp.arange(12) % 6
    keys = jax.random.split(jax.random.key(1), 12)
    state, actions, rewards, done = jax.device_get(jax.jit(jax.vmap(partial(episode, env)))(keys, indices))
    for i, index in enumerate(indices.tolist()):
        dag, mec = sources[index // 2], mecs[index % 2]
        n = dag.num_tasks
        assert done[i].tolist() == [step + 1 >= n for step in range(9)]
        assert (rewards[i, n:] == 0).all()
        positions, sites = (np.arange(n), actions[i, :n]) if in_order else np.divmod(actions[i, :n], 2)
        order = state.dag.order[i][positions].tolist()
        placement = np.empty(n, int)
        placement[order] = sites
        want = oracle.simulate(dag, mec, placement.tolist(), order).makespan
        assert -rewards[i].sum() == pytest.approx(want, rel=1e-5)
        assert state.decisions.queues.makespan[i] == pytest.approx(want, rel=1e-5)


def test_a_new_application_each_reset() -> None:
    """Drawn families, one program: no two alike, on the system that was said; the reward is the one recurrence's."""
    systems = [mj.System(uplink_bps=rate, downlink_bps=2 * rate) for rate in (4e6, 16e6)]
    kinds = [Applications(num_tasks=(3, 8)), Applications(num_tasks=(6, 12), shape="stages", jump=(1, 2))]
    env = Offloading([*kinds, *FAMILIES["exp2"][:1]], systems, reward_scale="all_local")
    assert (env.num_episodes, env.num_tasks) == (6, 12)
    run = jax.jit(jax.vmap(partial(episode, env)))
    state, actions, rewards, done = run(jax.random.split(jax.random.key(0), 64))
    assert len(np.unique(np.asarray(state.dag.ue).sum(axis=1))) == 64
    sizes = np.asarray(state.dag.mask).sum(axis=1)
    assert sizes.min() < 6 < 8 < sizes.max()
    assert np.asarray(done)[np.arange(64), sizes - 1].all()
    ratio = np.asarray(state.dag.uplink)[:, 0, 0] / np.asarray(state.dag.downlink)[:, 0, 0]
    assert ratio == pytest.approx(2, rel=1e-5)  # as many bytes back as sent
    spans = jax.jit(jax.vmap(makespan_of))(state.dag, actions)
    local = np.asarray(state.dag.ue).sum(axis=1)
    np.testing.assert_allclose(-np.asarray(rewards).sum(axis=1) * local, spans, rtol=1e-5)
    again = run(jax.random.split(jax.random.key(0), 64))
    np.testing.assert_array_equal(again[2], rewards)


def test_of_many_kinds_of_systems() -> None:
    """Families with servers, pins, energy and results that stay: allowed actions alone; the cost is what is paid."""
    kind = (2, "resident", "shared")
    families = [family for family in FAMILIES["general"] if family.kind == kind and family.num_tasks <= 12]
    assert {family.pinned for family in families} == {True, False}
    assert any(family.energy_weight for family in families)
    env = Offloading(families)
    assert (env.num_sites, env.num_actions) == (3, 3)
    run = jax.jit(jax.vmap(partial(episode, env)))
    indices = jnp.arange(40) % env.num_episodes
    state, actions, rewards, done = run(jax.random.split(jax.random.key(4), 40), indices)
    assert np.asarray(done)[:, -1].all()
    mask = np.asarray(state.dag.mask)
    assert not np.asarray(state.dag.allowed)[mask].all()
    may = np.take_along_axis(np.asarray(state.dag.allowed), np.asarray(actions)[..., None], axis=-1)[..., 0]
    assert may[mask].all()
    costs = jax.jit(jax.vmap(env.cost))(state)
    np.testing.assert_allclose(-np.asarray(rewards).sum(axis=1), costs, rtol=2e-5)
    paid = np.asarray(state.dag.prices.compute) > 0
    assert paid.tolist() == [families[int(index)].energy_weight > 0 for index in indices]
    assert (np.asarray(costs)[~paid] == np.asarray(state.decisions.queues.makespan)[~paid]).all()
    bits = [
        np.asarray(state.dag.backhaul)[i].sum() * families[int(index)].system["backhaul_bps"]
        for i, index in enumerate(indices)
    ]
    sent = [
        np.asarray(state.dag.downlink)[i, :, 0].sum() * families[int(index)].system["downlink_bps"][0]
        for i, index in enumerate(indices)
    ]
    np.testing.assert_allclose(bits, sent, rtol=1e-4)  # the backhaul is each family's own


def test_a_forbidden_action_changes_and_earns_nothing() -> None:
    rng = np.random.default_rng(0)
    case = random_case(rng, Kind(3, "paper", pinned=True), 5)
    graph = dataclasses.replace(case.graph, pins=("ue", "server", "any", "server", "ue"))
    env = Offloading([graph], case.system)
    reset, step, allowed = map(jax.jit, (env.reset, env.step, env.allowed))
    state, seen = reset(jax.random.key(0))
    for _ in range(5):
        mask = np.asarray(allowed(state))
        assert (mask == np.asarray(seen.action_mask)).all()
        for wrong in np.flatnonzero(~mask):
            after, _, reward, done = step(state, int(wrong))
            assert float(reward) == 0
            assert not done
            assert jax.tree.all(jax.tree.map(np.array_equal, after, state))
        state, seen, reward, done = step(state, int(np.flatnonzero(mask)[-1]))
    assert done
    after, seen, reward, done = step(state, 0)
    assert done
    assert float(reward) == 0
    assert float(abs(seen.options).max()) == 0


def test_one_graph_needs_no_sequence() -> None:
    graph = to_graph(random_dag(np.random.default_rng(0), 3))
    assert Offloading(graph) == Offloading([graph])
    assert Offloading(graph).num_tasks == 3


def test_what_is_observed() -> None:
    """A fork: task 0, then 2 before 1. Of the UE and the server: when they are free, and when the task would end."""
    graph = mj.TaskGraph.from_edges(
        cycles=[1e9, 2e9, 3e9], upload_bytes=[7e5 / 8] * 3, download_bytes=[7e5 / 8] * 3, edges=[(0, 1), (0, 2)]
    )
    env = Offloading([graph], num_positions=4)
    state, seen = jax.jit(env.reset)(jax.random.key(0))
    assert seen.tasks.shape == (4, env.num_features[0])
    assert seen.options.shape == (2, env.num_features[1])
    assert np.asarray(seen.parents).astype(int).tolist() == [[0] * 4, [1, 0, 0, 0], [1, 0, 0, 0], [0] * 4]
    assert int(seen.position) == 0
    # Columns of docs/environment.md: place, times, log of 2 children, path and sum of later times on the UE, makespan.
    of_first = np.asarray(seen.tasks)[0, [0, 1, 2, 3, 4, 7, 23, 24, 39, 42, 52, 53]]
    want = [1 / 3, 0.5, 0.05, 0.05, 0.05, 0, np.log(3), 5 / 6, 0.5, 5 / 6, 1, 1]
    np.testing.assert_allclose(of_first, want, rtol=1e-6)
    # In mean local times of 2 s: the UE is free at 0, the task would end at 1 s; at the server at 0.1 + 0.1 + 0.1 s.
    on_ue, on_server = np.asarray(seen.options)
    np.testing.assert_allclose(on_ue[[3, 6, 7]], [0, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(on_server[2:8], [0, 0, 0, 0.05, 0.1, 0.15], rtol=1e-6)
    state, seen, _, _ = jax.jit(env.step)(state, 0)
    assert np.asarray(seen.placed).tolist() == [True, False, False, False]
    assert int(seen.position) == 1
    np.testing.assert_allclose(np.asarray(seen.options)[0, [3, 6]], [0, 1.5], rtol=1e-6)  # task 2, of 3 s, after 1 s

    free = Offloading([graph], in_order=False)
    state, seen = jax.jit(free.reset)(jax.random.key(0))
    assert seen.options.shape == (6, free.num_features[1])
    assert (np.asarray(seen.options)[2:] == 0).all()
    state, seen, _, _ = jax.jit(free.step)(state, 0)
    assert np.asarray(seen.action_mask).tolist() == [False, False, True, True, True, True]
    np.testing.assert_allclose(np.asarray(seen.options)[[2, 4], 6], [1.5, 1.0], rtol=1e-6)


def test_the_page_names_all_columns() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "environment.md").read_text(encoding="utf-8")
    first_cells = re.findall(
        r"^\| (\d[\d, to]*) \|", page.split("## What is observed")[1].split("\n## ")[0], re.MULTILINE
    )
    columns = []
    for cell in first_cells:
        for part in cell.split(", "):
            ends = list(map(int, part.split(" to ")))
            columns += range(ends[0], ends[-1] + 1)
    tasks, options = Offloading().num_features
    assert columns == [*range(tasks), *range(options)]


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        ({"applications": []}, "applications is .*accepted: Applications, a Family"),
        ({"applications": [Applications(), 3]}, r"applications\[1\] is 3"),
        ({"applications": "exp9"}, r"applications is 'exp9'; .*FAMILIES\['exp1'\], .*FAMILIES\['general'\]"),
        ({"system": []}, "system is "),
        ({"system": [mj.System(), mj.System(channel="resident")]}, "system has channel 'resident' for some episodes"),
        ({"system": 7}, "system is 7"),
        ({"objective": mj.Objective(deadline_s=1.0)}, r"objective has deadline_s 1.0; .*give applications as graphs"),
        ({"objective": 1}, "objective is 1"),
        ({"in_order": 1}, "in_order is 1"),
        ({"candidates": 0}, "candidates is 0"),
        ({"reward_scale": "ms"}, "reward_scale is 'ms'"),
        ({"num_positions": 3}, "num_positions is 3; accepted: an integer in "),
    ],
)
def test_refuses(settings: dict[str, Any], phrase: str) -> None:
    with pytest.raises(mj.InputError, match=phrase):
        Offloading(**settings)


@pytest.mark.parametrize("field", ["index", "action"])
@pytest.mark.parametrize(
    ("value", "phrase"),
    [
        (2, r" is 2; accepted: an integer in \[0, 1\]"),
        (np.int64(-1), " is .*-1"),
        (np.array(2), " is .*2"),
        (1.0, " is 1.0"),
        ("1", " is '1'"),
        (True, " is True"),
        (np.array([0]), r" is array\(\[0\]\)"),
        (jnp.arange(2), r" is int32\[2\]; accepted: one integer in \[0, 1\] \(jax.vmap takes many\)"),
        (jnp.ones(()), r" is float32\[\]"),
    ],
)
def test_refuses_what_is_no_index_or_action(field: str, value: Any, phrase: str) -> None:
    env = Offloading([to_graph(random_dag(np.random.default_rng(0), n)) for n in (1, 2)])
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))  # compiles nothing
    call = partial(env.reset, jax.random.key(0)) if field == "index" else partial(env.step, state)
    with pytest.raises(mj.InputError, match=field + phrase):
        call(value)


def test_refuses_a_seed_as_key() -> None:
    with pytest.raises(mj.InputError, match=r"key is 0; accepted: a random key, such as jax\.random\.key"):
        Offloading().reset(0)


@pytest.mark.parametrize("in_order", [True, False])
def test_an_action_out_of_range_is_not_allowed(in_order: bool) -> None:
    """In a jitted program the range cannot be checked."""
    env = Offloading([to_graph(random_dag(np.random.default_rng(0), 3))], in_order=in_order)
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    for action in (env.num_actions, -1, -env.num_actions):
        after, _, reward, _ = step(state, action)
        assert float(reward) == 0
        assert jax.tree.all(jax.tree.map(np.array_equal, after, state))
    assert float(step(state, 0)[2]) < 0


def test_a_deadline_of_given_graphs() -> None:
    """The cost is in joules where the deadline is met: here of all on the UE, 1 W for 6 s."""
    graph = mj.TaskGraph.from_edges(
        cycles=[1e9, 2e9, 3e9], upload_bytes=[1e3] * 3, download_bytes=[1e3] * 3, edges=[(0, 1), (0, 2)]
    )
    env = Offloading([graph], objective=mj.Objective(deadline_s=10.0))
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    state, _ = reset(jax.random.key(0))
    total = 0.0
    for _ in range(3):
        state, _, reward, done = step(state, 0)
        total += float(reward)
    assert done
    assert total == pytest.approx(-6.0)
