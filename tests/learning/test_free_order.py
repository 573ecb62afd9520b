"""Policies that choose the order too: whole trajectories, their probabilities, and the plans that come of them."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import LOOKING_AHEAD, SOME_DECODER_INPUTS, quickly, random_dag, random_mec, to_graph, to_system
from oracle import Dag, Mec

import mrlato_jax as mj
from mrlato_jax import planners
from mrlato_jax.config import DECODER_INPUTS, LearningConfig, NetworkConfig
from mrlato_jax.environment.rules import TOLLS
from mrlato_jax.environment.surroundings import surroundings as surroundings_of
from mrlato_jax.learning import rollout
from mrlato_jax.learning.adaptation import adapt
from mrlato_jax.learning.learning_task import LearningTask, learning_task
from mrlato_jax.learning.rollout import Trajectories
from mrlato_jax.mec.latency import LOCAL, OFFLOAD
from mrlato_jax.planners.lookahead import best_outcome_of_ready
from mrlato_jax.policy.decode import Decisions
from mrlato_jax.policy.seq2seq import NUM_SIDES

SIZES, ROLLOUTS = (6, 3, 1, 5), 8
CHANNEL_OF = {"paper": "mrlco", "task": "paper", "task_sim": "mrlco_code", "lookahead": "paper"}


looking_ahead = pytest.mark.parametrize("case", LOOKING_AHEAD, indirect=True)


class Case(NamedTuple):
    """A policy far from its initial one, a few DAGs, and what it samples on them."""

    network: NetworkConfig
    params: Any
    dags: list[Dag]
    mec: Mec
    task: LearningTask
    trajectories: Trajectories

    def plan(self, graph: int, actions: np.ndarray) -> tuple[list[int], list[int]]:
        """Order and placement, by task id, that actions [N] of a DAG mean."""
        n = SIZES[graph]
        ids = np.asarray(self.task.dags.order)[graph]
        order = ids[actions[:n] // NUM_SIDES].tolist()
        placement = [0] * n
        for task, action in zip(order, actions[:n].tolist(), strict=True):
            placement[task] = action % NUM_SIDES
        return order, placement


@pytest.fixture(scope="module", params=SOME_DECODER_INPUTS)
def case(request: pytest.FixtureRequest) -> Case:
    policy = NetworkConfig(decides="order", decoder_input=request.param, units=16, heads=2, layers=1, neighbour_width=8)
    like = jax.eval_shape(partial(rollout.init_params, policy), jax.random.key(0))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.5, leaf.shape), jnp.float32), like)
    dags, mec = [random_dag(rng, n, free=0.0) for n in SIZES], random_mec(rng, CHANNEL_OF[request.param])
    task = learning_task([to_graph(dag) for dag in dags], to_system(mec), policy)
    sampled = jax.jit(lambda: rollout.sample(policy, params, task, jax.random.key(2), ROLLOUTS))()
    return Case(policy, params, dags, mec, task, sampled)


def score(case: Case, actions: jax.Array) -> Decisions:
    return jax.jit(partial(by_hand.score, case.network))(case.params, case.task, actions)


def test_trajectories_place_each_task_once_after_its_parents(case: Case) -> None:
    """And take as long as the oracle says of that order and placement."""
    orders = set()
    for graph, dag in enumerate(case.dags):
        for r in range(ROLLOUTS):
            order, placement = case.plan(graph, np.asarray(case.trajectories.decisions.actions)[graph, r])
            assert oracle.is_linear_extension(dag, order)
            want = oracle.simulate(dag, case.mec, placement, order).makespan
            assert case.trajectories.costs[graph, r] == pytest.approx(want, rel=1e-5)
            orders.add((graph, *order))
    assert len(orders) > len(SIZES)  # not the priority order alone


@looking_ahead
def test_probabilities_of_all_first_actions_sum_to_one(case: Case) -> None:
    """Those of tasks that wait for a parent are 0, the others' are not."""
    size = max(SIZES)
    first = jnp.arange(NUM_SIDES * size)
    actions = jnp.zeros((len(SIZES), first.size, size), jnp.int32).at[:, :, 0].set(first)
    found = np.exp(np.asarray(score(case, actions).log_probs[:, :, 0], np.float64))
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-5)
    entries = np.asarray(case.task.dags.mask & ~case.task.dags.parents.any(axis=-1))
    np.testing.assert_array_equal(found > 1e-12, np.repeat(entries, NUM_SIDES, axis=1))


def test_scoring_a_sampled_trajectory_gives_what_sampling_gave(case: Case) -> None:
    want, mask = case.trajectories.decisions, np.asarray(case.task.dags.mask)[:, None]
    got = score(case, want.actions)
    for name in ("log_probs", "values", "entropies"):
        found, wanted = (np.where(mask, getattr(each, name), 0) for each in (got, want))
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5, err_msg=name)
    assert (want.entropies >= 0).all()


@looking_ahead
def test_padding_changes_no_decision(case: Case) -> None:
    graphs = [to_graph(dag) for dag in case.dags]
    wide = learning_task(graphs, to_system(case.mec), case.network, num_positions=9)
    sampled = jax.jit(lambda: rollout.sample(case.network, case.params, wide, jax.random.key(2), ROLLOUTS))()
    mask = np.asarray(case.task.dags.mask)[:, None]
    cut = np.asarray(sampled.decisions.actions)[..., : max(SIZES)]
    np.testing.assert_array_equal(np.where(mask, cut, 0), np.where(mask, case.trajectories.decisions.actions, 0))
    np.testing.assert_allclose(sampled.costs, case.trajectories.costs, rtol=1e-5)


@pytest.mark.parametrize("case", quickly(DECODER_INPUTS, "paper"), indirect=True)
def test_deviations_try_the_next_likeliest_action(case: Case) -> None:
    """Of the first position every action's probability is known: the one tried is second in them."""
    size = max(SIZES)
    tried = jax.jit(lambda: rollout.deviate(case.network, case.params, case.task, jax.random.key(1), size))()
    own, spans = jax.jit(lambda: rollout.decode_greedily(case.network, case.params, case.task))()
    mask = np.asarray(case.task.dags.mask)
    plan, actions = np.asarray(tried.own.decisions.actions)[:, 0], np.asarray(tried.others.decisions.actions)
    np.testing.assert_array_equal(plan[mask], np.asarray(own)[mask])
    np.testing.assert_allclose(tried.own.costs[:, 0], spans, rtol=1e-6)
    first = jnp.arange(NUM_SIDES * size)
    every = jnp.zeros((len(SIZES), first.size, size), jnp.int32).at[:, :, 0].set(first)
    ranked = np.argsort(-np.asarray(score(case, every).log_probs[:, :, 0]), axis=1)
    np.testing.assert_array_equal(plan[:, 0], ranked[:, 0])
    for graph, dag in enumerate(case.dags):
        positions = np.asarray(tried.positions)[graph].tolist()
        assert sorted(positions) == list(range(size))
        assert actions[graph, positions.index(0), 0] == ranked[graph, 1]
        for row, span in zip(actions[graph], np.asarray(tried.others.costs)[graph], strict=True):
            order, placement = case.plan(graph, row)
            assert oracle.is_linear_extension(dag, order)
            assert span == pytest.approx(oracle.simulate(dag, case.mec, placement, order).makespan, rel=1e-5)


def test_every_candidate_is_shown_what_both_sides_lead_to() -> None:
    """With the look-ahead, against the oracle: the task first, then the rest in the priority order by each rule.

    Told is how much worse that ends than the best of all candidates does.
    """
    policy = NetworkConfig(decides="order", decoder_input="lookahead", units=16, heads=2, layers=1, neighbour_width=8)
    rng = np.random.default_rng(4)
    dag, mec = random_dag(rng, 6, free=0.0), random_mec(rng, "paper")
    task = learning_task([to_graph(dag)], to_system(mec), policy)
    surroundings = surroundings_of(policy, task.dags, 1)
    seen = np.asarray(jax.jit(surroundings.observe)(surroundings.state, surroundings.inputs[:, 0]))[0, 0]
    assert seen.shape == (6, 9)
    ids = np.asarray(task.dags.order)[0].tolist()
    mean = sum(oracle.task_times(dag, mec).ue) / 6
    entries = [position for position, node in enumerate(ids) if not dag.parents()[node]]
    assert entries
    ways = {}
    for position in entries:
        order = [ids[position], *(node for node in ids if node != ids[position])]
        local, remote = (
            min(oracle.own_finish_rule(dag, mec, order, [side], toll).makespan for toll in TOLLS)
            for side in (LOCAL, OFFLOAD)
        )
        ways[position] = np.array([local, remote])
    best = min(way.min() for way in ways.values())
    for position in range(6):
        want = np.log1p(100 * (ways[position] - best) / mean) if position in ways else np.zeros(2)
        np.testing.assert_allclose(seen[position, 7:], want, atol=1e-4)


@pytest.mark.slow
def test_plans_are_in_the_order_that_the_policy_chose() -> None:
    """With `Offloader.plan` as in the record of an adaptation, which makes them shorter."""
    rng = np.random.default_rng(7)
    system = mj.System()
    graphs = [to_graph(random_dag(rng, n, free=0.0)) for n in (6, 7)]
    policy = NetworkConfig(decides="order", decoder_input="task_sim", units=16, heads=2, layers=1, neighbour_width=8)
    params = rollout.init_params(policy, jax.random.key(0))
    task = learning_task(graphs, system, policy)
    learning = LearningConfig(inner_lr=5e-3, rollouts=16, learn_from="deviations", value_coef=0.0)
    adapted, record = adapt(policy, learning, params, task, task, 60, jax.random.key(1))
    plans = mj.Offloader(policy, adapted, "order").plan(graphs, system)
    assert record.latency_s[-1] < 0.95 * record.latency_s[0]
    for graph, plan in zip(graphs, plans, strict=True):
        assert sorted(plan.order.tolist()) == list(range(graph.num_tasks))
        assert plan.makespan == mj.simulate(graph, system, plan.placement, plan.order).makespan
    assert np.mean([plan.makespan for plan in plans]) == pytest.approx(record.latency_s[-1], rel=1e-5)


@looking_ahead
@pytest.mark.parametrize("learn_from", ["deviations", pytest.param("samples", marks=pytest.mark.slow)])
def test_every_parameter_is_learned(learn_from: str, case: Case) -> None:
    learning = LearningConfig(learn_from=learn_from, rollouts=4, entropy_coef=0.01)
    gradient, *_ = jax.jit(partial(by_hand.sampling_gradient, case.network, learning))(
        case.params, case.task, jax.random.key(3)
    )
    for name, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all()
        assert abs(leaf).max() > 0, name


def test_no_more_tasks_are_compared_than_there_are_candidates() -> None:
    """Of eight that are ready, the six of the highest priority; another one once one of them is placed."""
    rng = np.random.default_rng(5)
    costs = rng.uniform(1e4, 5e4, 8)
    graph = mj.TaskGraph.from_edges(cycles=1e3 * costs, upload_bytes=costs, download_bytes=costs, edges=[])
    policy = NetworkConfig(decides="order", decoder_input="lookahead", units=16, heads=2, layers=1, neighbour_width=8)
    task = learning_task([graph], mj.System(), policy)
    surroundings = surroundings_of(policy, task.dags, 1)
    assert surroundings.allowed is not None
    observe, advance, allows = map(jax.jit, (surroundings.observe, surroundings.advance, surroundings.allowed))
    state, step = surroundings.state, surroundings.inputs[:, 0]
    for placed, want in (([], [0, 1, 2, 3, 4, 5]), ([1], [0, 2, 3, 4, 5, 6]), ([1, 6], [0, 2, 3, 4, 5, 7])):
        for position in placed[-1:]:
            state, _ = advance(state, step, jnp.array([[NUM_SIDES * position + OFFLOAD]]))
        allowed = np.asarray(allows(state, step))[0, 0].reshape(-1, NUM_SIDES)
        assert np.flatnonzero(allowed.all(axis=1)).tolist() == np.flatnonzero(allowed.any(axis=1)).tolist() == want
        told = np.asarray(observe(state, step))[0, 0]
        assert np.flatnonzero(told.any(axis=1)).tolist() == want
    params = rollout.init_params(policy, jax.random.key(0))
    drawn = jax.jit(lambda: rollout.sample(policy, params, task, jax.random.key(2), 16))()
    for order in np.asarray(drawn.decisions.actions)[0] // NUM_SIDES:
        for number, chosen in enumerate(order.tolist()):
            left = sorted(set(range(8)) - set(order[:number].tolist()))
            assert chosen in left[:6]


def test_the_look_ahead_compares_as_many_candidates_as_it_is_told() -> None:
    """With one it keeps the priority order, as the look-ahead that only places does."""
    rng = np.random.default_rng(6)
    graphs = [to_graph(random_dag(rng, 9, free=0.0)) for _ in range(6)]
    task = learning_task(graphs, mj.System(), NetworkConfig(neighbour_width=9))
    one, all_of_them = (jax.vmap(partial(best_outcome_of_ready, candidates=most))(task.dags) for most in (1, 9))
    np.testing.assert_array_equal(one.positions, np.broadcast_to(np.arange(9), (6, 9)))
    placed = [planners.look_ahead(graph, mj.System()).makespan for graph in graphs]
    np.testing.assert_allclose(one.makespan, placed, rtol=1e-5)
    assert (all_of_them.makespan < one.makespan * (1 - 1e-6)).any()
