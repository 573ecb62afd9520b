"""The decision process as other programs step through it: `mj.reset`, `mj.step`, `mj.allowed`, `mj.is_done`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import random_dag, random_mec, to_graph, to_system
from wider import KINDS, Kind, random_case

import mrlato_jax as mj
from mrlato_jax.mec.latency import one_by_one

ROLLOUTS = 16


def rollout(dag: mj.DagArrays, key: jax.Array, in_order: bool) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A random one to the end of the padding: actions [N], rewards [N], and whether it is done after each, [N]."""

    def body(state: mj.State, key: jax.Array) -> tuple[mj.State, tuple[jax.Array, jax.Array, jax.Array]]:
        may = mj.allowed(dag, state, in_order=in_order, candidates=3)
        action = jax.random.categorical(key, jnp.where(may, 0.0, -jnp.inf))
        after, reward = mj.step(dag, state, action, in_order=in_order)
        return after, (action, reward, mj.is_done(dag, after))

    return jax.lax.scan(body, mj.reset(dag), jax.random.split(key, dag.mask.shape[0]))[1]


@pytest.mark.parametrize("channel", oracle.CHANNELS)
@pytest.mark.parametrize("in_order", [True, False])
def test_rewards_sum_to_minus_the_makespan(channel: str, in_order: bool) -> None:
    """Of random rollouts of several DAGs side by side, by the oracle; padding earns nothing."""
    rng = np.random.default_rng(3)
    sizes = [1, 4, 9]
    sources = [random_dag(rng, n) for n in sizes]
    mec = random_mec(rng, channel)
    arrays = mj.pack([to_graph(dag) for dag in sources], to_system(mec), num_positions=10)
    keys = jax.random.split(jax.random.key(1), (len(sizes), ROLLOUTS))
    many = jax.vmap(jax.vmap(lambda dag, key: rollout(dag, key, in_order), in_axes=(None, 0)))
    actions, rewards, done = (np.asarray(leaf) for leaf in jax.jit(many)(arrays, keys))
    orders = set()
    for i, (n, dag) in enumerate(zip(sizes, sources, strict=True)):
        assert done[i].tolist() == [[step + 1 >= n for step in range(10)]] * ROLLOUTS
        assert (rewards[i, :, n:] == 0).all()
        for row, earned in zip(actions[i], rewards[i], strict=True):
            if in_order:
                positions, sides = np.arange(n), row[:n]
            else:
                positions, sides = np.divmod(row[:n], 2)
            order = arrays.order[i][positions].tolist()
            placement = np.empty(n, int)
            placement[order] = sides
            want = oracle.simulate(dag, mec, placement.tolist(), order).makespan
            assert -earned.sum() == pytest.approx(want, rel=1e-5)
            orders.add(tuple(order))
    assert (len(orders) == len(sizes)) == in_order


def test_step_by_step_on_one_packed_graph() -> None:
    """A fork: task 0, then 1 and 2; outside of jit, on what `mj.arrays` gives and on the host's arrays."""
    graph = mj.TaskGraph.from_edges(
        cycles=[1e9, 2e9, 3e9], upload_bytes=[1.0] * 3, download_bytes=[1.0] * 3, edges=[(0, 1), (0, 2)]
    )
    device = mj.arrays(mj.pack_graph(graph), mj.System())
    host = jax.tree.map(np.asarray, device)
    assert device.order.tolist() == [0, 2, 1]
    for dag in (device, host):
        state = mj.reset(dag)
        assert mj.allowed(dag, state).tolist() == [True, True]
        assert mj.allowed(dag, state, in_order=False).tolist() == [True, True, False, False, False, False]
        state, reward = jax.jit(lambda state, action, dag=dag: mj.step(dag, state, action))(state, 0)
        assert float(reward) == pytest.approx(-1.0)
        assert mj.allowed(dag, state, in_order=False).tolist() == [False, False, True, True, True, True]
        one = mj.allowed(dag, state, in_order=False, candidates=1)
        assert one.tolist() == [False, False, True, True, False, False]
        state, reward = mj.step(dag, state, 4, in_order=False)  # the task at position 2, which is task 1, local
        assert float(reward) == pytest.approx(-2.0)
        assert not mj.is_done(dag, state)
        state, reward = mj.step(dag, state, 0)  # the one that is left
        assert float(reward) == pytest.approx(-3.0)
        assert mj.is_done(dag, state)
        after, reward = mj.step(dag, state, 1)
        assert float(reward) == 0
        assert float(after.queues.makespan) == pytest.approx(6.0)


def test_one_dag_at_a_time() -> None:
    graph = mj.daggen(3, 0.5, 0.5, np.random.default_rng(0))
    arrays = mj.pack([graph, graph], mj.System())
    with pytest.raises(
        mj.InputError, match=r"dag has leading axes \(2,\); accepted: none \(jax.vmap takes many DAGs\)"
    ):
        mj.reset(arrays)
    state = mj.reset(jax.tree.map(lambda leaf: leaf[0], arrays))
    for call in (
        lambda: mj.step(arrays, state, 0),
        lambda: mj.allowed(arrays, state),
        lambda: mj.is_done(arrays, state),
    ):
        with pytest.raises(mj.InputError, match="dag has leading axes"):
            call()
    with pytest.raises(mj.InputError, match=r"dag is TaskGraph\(.*; accepted: a DagArrays"):
        mj.reset(graph)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS[1:4], ids=str)
def test_steps_of_several_servers_earn_minus_the_growth_of_the_cost(kind: Kind) -> None:
    """A random walk among the allowed sites, in the priority order and in a free one, against the oracle."""
    rng, goal = np.random.default_rng(7), mj.Objective(0.5)
    allowed, step = (jax.jit(call, static_argnames="in_order") for call in (mj.allowed, mj.step))
    for number in range(6):
        case = random_case(rng, kind, 5)
        with one_by_one():
            packed = mj.pack([case.graph], case.system, dtype=np.float64, objective=goal)
            dag = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), packed)
            state, earned, order, sites = mj.reset(dag), 0.0, [], [0] * 5
            in_order = number % 2 == 0
            while not mj.is_done(dag, state):
                mask = np.asarray(allowed(dag, state, in_order=in_order))
                assert mask.shape == ((kind.servers + 1) * (1 if in_order else 5),)
                action = int(rng.choice(np.flatnonzero(mask)))
                position = int(np.argmin(state.placed)) if in_order else action // (kind.servers + 1)
                task = int(dag.order[position])
                order.append(task)
                sites[task] = action % (kind.servers + 1)
                state, reward = step(dag, state, action, in_order=in_order)
                earned += float(reward)
        assert all(pin == "any" or (site > 0) == (pin == "server") for site, pin in zip(sites, case.pins, strict=True))
        want = oracle.outcome(case.dag, case.edge, sites, order)
        assert float(state.queues.makespan) == pytest.approx(want.makespan, rel=1e-12)
        assert -earned == pytest.approx(goal.cost(want.makespan, want.energy), rel=1e-12)
