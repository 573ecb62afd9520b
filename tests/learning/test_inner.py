"""The inner loop: one collection, m Adam steps from a fresh state, and adaptation rounds whose state is kept."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import random_dag, to_graph

import mrlato_jax as mj
from mrlato_jax.config import DECODER_INPUTS, LearningConfig, NetworkConfig
from mrlato_jax.errors import InputError
from mrlato_jax.learning import inner, rollout
from mrlato_jax.learning.learning_task import LearningTask, learning_task, take
from mrlato_jax.learning.losses import Batch, inner_loss
from mrlato_jax.policy.decode import Decisions

POLICY = NetworkConfig(decoder_input="task", units=16, heads=2, layers=1, neighbour_width=8)
LEARNING = LearningConfig(inner_lr=3e-3, inner_steps=3, graphs_per_task=4, rollouts=3, entropy_coef=0.01)
SIZES = (5, 3, 4, 5, 2, 5)
CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture(scope="module")
def task() -> LearningTask:
    rng = np.random.default_rng(1)
    return learning_task([to_graph(random_dag(rng, n, free=0.0)) for n in SIZES], mj.System(), POLICY)


@pytest.fixture(scope="module")
def params() -> Any:
    like = jax.eval_shape(partial(rollout.init_params, POLICY), jax.random.key(0))
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.5, leaf.shape), jnp.float32), like)


DEVIATIONS = dataclasses.replace(
    LEARNING, learn_from="deviations", rollouts=max(SIZES) + 1, value_coef=0.0, entropy_coef=0.0
)
collect = jax.jit(partial(by_hand.collect, POLICY, LEARNING))
deviating = jax.jit(partial(by_hand.sampling_gradient, POLICY, DEVIATIONS))
greedy = jax.jit(partial(rollout.decode_greedily, POLICY))


@jax.jit
def gradient(params: Any, task: LearningTask, batch: Batch) -> Any:
    def loss(params: Any) -> Any:
        return inner_loss(LEARNING, batch, by_hand.score(POLICY, params, task, batch.actions))

    return jax.grad(loss, has_aux=True)(params)


def adam_by_hand(params: Any, task: LearningTask, batch: Batch, opt_state: Any, steps: int = 3) -> Any:
    """`steps` updates on one batch: parameters after each, the optimiser's state, and each step's metrics."""
    optimizer, history, metrics = optax.adam(LEARNING.inner_lr), [], []
    opt_state = optimizer.init(params) if opt_state is None else opt_state
    update = jax.jit(optimizer.update)
    for _ in range(steps):
        slope, measured = gradient(params, task, batch)
        updates, opt_state = update(slope, opt_state)
        params = optax.apply_updates(params, updates)
        history.append(params)
        metrics.append(measured)
    return history, opt_state, metrics


def assert_trees_close(got: Any, want: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), got, want)


def test_inner_loop_is_m_adam_steps_from_a_fresh_state(task: LearningTask, params: Any) -> None:
    adapt = partial(inner.inner_adapt, POLICY, LEARNING)
    key = jax.random.key(3)
    adapted, metrics = adapt(params, task, key)
    again, _ = adapt(params, task, key)
    jax.tree.map(np.testing.assert_array_equal, adapted, again)
    graphs_key, rollout_key = jax.random.split(key)
    drawn = inner.draw_graphs(task, graphs_key, 4)
    batch, _, latency = collect(params, drawn, rollout_key)
    history, _, steps = adam_by_hand(params, drawn, batch, None)
    assert_trees_close(adapted, history[-1])
    assert metrics.latency == pytest.approx(float(latency), rel=1e-5)
    assert_trees_close(metrics.loss, steps[-1])
    assert metrics.value_explained == pytest.approx(float(steps[0].explained_variance), rel=1e-4)
    assert metrics.entropy == pytest.approx(float(steps[0].entropy), rel=1e-4)
    # The first step is taken where the current policy is the one that sampled.
    assert steps[0].approx_kl == pytest.approx(0, abs=1e-7)
    assert steps[0].clip_fraction == 0
    assert steps[-1].approx_kl > 1e-5
    other, _ = adapt(params, task, jax.random.key(4))
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: float(abs(a - b).max()), adapted, other))) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decoder_input", "learn_from"),
    [*((shown, "samples") for shown in DECODER_INPUTS), ("task", "deviations"), ("lookahead", "deviations")],
)
def test_gradient_at_the_sampling_parameters_is_that_of_the_scored_batch(decoder_input: str, learn_from: str) -> None:
    policy = dataclasses.replace(POLICY, decoder_input=decoder_input)
    learning = dataclasses.replace(LEARNING, learn_from=learn_from)
    like = jax.eval_shape(partial(rollout.init_params, policy), jax.random.key(0))
    rng = np.random.default_rng(4)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.5, leaf.shape), jnp.float32), like)
    task = learning_task([to_graph(random_dag(rng, n, free=0.0)) for n in SIZES], mj.System(), policy)
    sampling = jax.jit(partial(by_hand.sampling_gradient, policy, learning))
    gradient, metrics, batch, _ = sampling(params, task, jax.random.key(5))
    want = jax.jit(partial(by_hand.scoring_gradient, policy, learning))(params, task, batch)
    assert_trees_close((gradient, metrics), want)


def test_adaptation_rounds_keep_the_optimisers_state(task: LearningTask, params: Any) -> None:
    """Two rounds of three updates on all DAGs; the latency of the measured DAGs after each update."""
    measured = take(task, np.array([0, 1, 2, 3, 4, 5])[::-1])
    opt_state = inner.inner_optimizer(LEARNING).init(params)
    by_hand, hand_state = params, None
    for number in range(2):
        key = jax.random.key(10 + number)
        batch, _, latency = collect(by_hand, task, key)
        history, hand_state, steps = adam_by_hand(by_hand, task, batch, hand_state)
        params, opt_state, metrics = inner.adaptation_round(POLICY, LEARNING, params, opt_state, task, measured, key)
        by_hand = history[-1]
        assert_trees_close(params, by_hand)
        assert metrics.latencies.shape == (3, 6)
        want = np.stack([greedy(p, measured)[1] for p in history])
        np.testing.assert_allclose(metrics.latencies, want, rtol=1e-5)
        assert metrics.sampled_latency == pytest.approx(float(latency), rel=1e-5)
        assert_trees_close(metrics.loss, steps[-1])
    assert opt_state[0].count == 6


def test_collection_is_what_its_parts_say(task: LearningTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewards in units of the all-local makespan, GAE and returns of each trajectory, advantages normalised."""
    rng = np.random.default_rng(5)
    valid = np.broadcast_to(np.asarray(task.dags.mask)[:, None, :], (6, 3, 5))
    numbers = rng.normal(size=(4, 6, 3, 5)).astype(np.float32)
    rewards, values, log_probs, entropies = (jnp.asarray(x) for x in np.where(valid, numbers, 1e3))
    rewards = jnp.where(valid, rewards, 0)
    decisions = Decisions(jnp.ones((6, 3, 5), jnp.int32), log_probs, values, entropies)
    sampled = rollout.Trajectories(decisions, rewards, -rewards.sum(axis=-1))
    monkeypatch.setattr(rollout, "rollout", lambda *_: sampled)
    noise = inner.Noise(jnp.zeros((6, 3, 5, 2)))
    batch, differentiable, latency = inner.collect(POLICY, LEARNING, None, task, noise)
    assert differentiable is decisions
    np.testing.assert_array_equal(batch.actions, decisions.actions)
    np.testing.assert_array_equal(batch.log_probs, decisions.log_probs)
    np.testing.assert_array_equal(batch.mask[:, 0], task.dags.mask)
    assert latency == pytest.approx(float(-rewards.sum(axis=-1).mean()), rel=1e-5)
    local = mj.makespan(task.dags, jnp.zeros((6, 5), jnp.int32))
    raw, returns = np.zeros((6, 3, 5)), np.zeros((6, 3, 5))
    for g, n in enumerate(SIZES):
        for r in range(3):
            ahead, advantage, value = 0.0, 0.0, 0.0
            for k in reversed(range(n)):
                reward = float(rewards[g, r, k]) / float(local[g])
                ahead = reward + 0.99 * ahead
                advantage = reward + 0.99 * value - float(values[g, r, k]) + 0.99 * 0.95 * advantage
                value = float(values[g, r, k])
                returns[g, r, k], raw[g, r, k] = ahead, advantage
    np.testing.assert_allclose(batch.returns, returns, rtol=1e-4, atol=1e-4)
    want = np.where(valid, (raw - raw[valid].mean()) / raw[valid].std(), 0)
    np.testing.assert_allclose(batch.advantages, want, rtol=1e-4, atol=1e-4)
    plain = LearningConfig(reward_scale="none", normalise_advantages=False, gamma=1.0, gae_lambda=1.0)
    seconds, *_ = inner.collect(POLICY, plain, None, task, noise)
    np.testing.assert_allclose(seconds.returns[..., 0], rewards.sum(axis=-1), rtol=1e-5, atol=1e-5)
    want = np.where(valid, seconds.returns - values, 0)
    np.testing.assert_allclose(seconds.advantages, want, rtol=1e-4, atol=1e-5)


def test_progress_is_measured_by_the_heft_based_plans() -> None:
    rng = np.random.default_rng(1)
    graphs = [to_graph(random_dag(rng, n, free=0.0)) for n in SIZES]
    task = learning_task(graphs, mj.System(), POLICY, num_positions=9)
    want = [mj.heft(graph, mj.System()).makespan for graph in graphs]
    np.testing.assert_allclose(task.heft, want, rtol=1e-6)
    slower = learning_task(graphs, mj.System(uplink_bps=1e6), POLICY)
    assert (np.asarray(slower.heft) > want).all()


@pytest.mark.slow
@pytest.mark.parametrize("decoder_input", DECODER_INPUTS)
def test_adapts_in_a_program_of_64_bits(decoder_input: str) -> None:
    policy = dataclasses.replace(POLICY, decoder_input=decoder_input)
    rng = np.random.default_rng(3)
    graphs = [to_graph(random_dag(rng, n, free=0.0)) for n in (4, 3)]

    def adapted() -> Any:
        params = rollout.init_params(policy, jax.random.key(0))
        task = learning_task(graphs, mj.System(), policy)
        return inner.inner_adapt(policy, LEARNING, params, task, jax.random.key(1))[0]

    want = jax.device_get(adapted())
    with jax.enable_x64(True):
        jax.clear_caches()
        jax.tree.map(lambda leaf, like: np.testing.assert_allclose(leaf, like, rtol=1e-3, atol=1e-4), adapted(), want)


def test_graphs_are_drawn_without_replacement() -> None:
    marks = jnp.arange(6.0)
    dags = mj.DagArrays(
        marks[:, None],
        *[marks[:, None, None]] * 3,
        parents=marks[:, None, None] > 0,
        mask=marks[:, None] >= 0,
        order=marks,
    )
    task = LearningTask(dags, marks[:, None, None], marks)
    seen = set()
    for seed in range(30):
        drawn = inner.draw_graphs(task, jax.random.key(seed), 4)
        chosen = drawn.features[:, 0, 0].tolist()
        assert len(set(chosen)) == 4
        assert drawn.dags.ue[:, 0].tolist() == drawn.heft.tolist() == chosen  # what belongs to a DAG stays with it
        seen.add(tuple(chosen))
    assert len(seen) > 20
    assert set().union(*seen) == set(range(6))
    for count in (6, 100):
        whole = inner.draw_graphs(task, jax.random.key(0), count)
        assert whole.features[:, 0, 0].tolist() == marks.tolist()


def advantages_and_batch(task: LearningTask, params: Any, **changes: Any) -> tuple[Any, Batch]:
    learning = dataclasses.replace(LEARNING, **changes)
    batch, decisions, latency = jax.jit(partial(by_hand.collect, POLICY, learning))(params, task, jax.random.key(6))
    return (decisions, latency), batch


def test_leave_one_out_is_measured_from_the_other_trajectories(task: LearningTask, params: Any) -> None:
    _, batch = advantages_and_batch(task, params, baseline="leave_one_out", normalise_advantages=False)
    returns = np.asarray(batch.returns, np.float64)
    for g, n in enumerate(SIZES):
        for r in range(3):
            others = [returns[g, other] for other in range(3) if other != r]
            np.testing.assert_allclose(batch.advantages[g, r, :n], (returns[g, r] - sum(others) / 2)[:n], atol=1e-6)
    assert np.abs(batch.advantages).max() > 1e-2
    _, values = advantages_and_batch(task, params, normalise_advantages=False)
    np.testing.assert_array_equal(values.returns, batch.returns)
    assert np.abs(values.advantages - batch.advantages).max() > 1e-2


def test_imitation_raises_the_likelihood_of_one_plan(task: LearningTask, params: Any) -> None:
    """The gradient is that of minus the plan's log-likelihood (with the value loss left out)."""
    learning = dataclasses.replace(LEARNING, learn_from="optimum", value_coef=0.0, entropy_coef=0.0)
    rng = np.random.default_rng(8)
    task = task._replace(optimum=jnp.asarray(rng.integers(0, 2, (len(SIZES), max(SIZES))), jnp.int32))
    key = jax.random.key(6)
    slope, _, batch, latency = jax.jit(partial(by_hand.sampling_gradient, POLICY, learning))(params, task, key)
    assert batch.actions.shape == (len(SIZES), 1, max(SIZES))
    plans = task.optimum
    assert latency == pytest.approx(float(mj.makespan(task.dags, plans).mean()), rel=1e-5)
    mask = np.asarray(task.dags.mask)
    np.testing.assert_array_equal(np.where(mask, batch.actions[:, 0], 0), np.where(mask, plans, 0))

    @jax.jit
    @jax.grad
    def unlikeliness(params: Any) -> jax.Array:
        log_probs = by_hand.score(POLICY, params, task, plans[:, None]).log_probs[:, 0]
        each = jnp.where(mask, log_probs, 0).sum(axis=1) / mask.sum(axis=1)
        return -each.mean() * mask.sum(axis=1).mean()

    assert_trees_close(slope, unlikeliness(params))


def test_deviations_teach_the_better_of_both_actions_by_what_it_saves(task: LearningTask, params: Any) -> None:
    """Against both plans of each decision, simulated, and the weighted log-likelihood of the better action."""
    every, key = max(SIZES) + 1, jax.random.key(6)
    slope, _, batch, latency = deviating(params, task, key)
    own, spans = greedy(params, task)
    deviations = jax.jit(lambda params, task: rollout.deviate(POLICY, params, task, key, every - 1))(params, task)
    at = np.argsort(np.asarray(deviations.positions), axis=1)
    tried = jnp.take_along_axis(deviations.others.decisions.actions, at[..., None], axis=1)
    mask = np.asarray(task.dags.mask)
    assert latency == pytest.approx(float(spans.mean()), rel=1e-5)
    np.testing.assert_array_equal(batch.actions[:, 0][mask], own[mask])
    loses = np.stack([mj.makespan(task.dags, tried[:, j]) for j in range(max(SIZES))], axis=1) - spans[:, None]
    want = np.where(loses < 0, 1 - own, own)
    assert 0.05 < (loses < 0)[mask].mean() < 0.95  # some decisions are to change
    np.testing.assert_array_equal(batch.judged[:, 0][mask], want[mask])
    weights = np.minimum(abs(loses) / np.asarray(spans)[:, None], 0.1)
    assert (weights == 0.1).any()  # the most that a decision counts
    weights = np.where(mask, weights / weights[mask].mean(), 0)
    np.testing.assert_allclose(batch.advantages[:, 0], weights, rtol=1e-3, atol=1e-3)

    @jax.jit
    @jax.grad
    def unlikeliness(params: Any) -> jax.Array:
        log_probs = by_hand.score(POLICY, params, task, own[:, None], jnp.asarray(want)[:, None]).log_probs[:, 0]
        each = (log_probs * weights).sum(axis=1) / mask.sum(axis=1)
        return -each.mean() * mask.sum(axis=1).mean()

    for got, expected in zip(jax.tree.leaves(slope), jax.tree.leaves(unlikeliness(params)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(("learn_from", "plans"), [("samples", 3), ("deviations", 3), ("optimum", 1)])
def test_evaluations_count_what_a_collection_simulates(learn_from: str, plans: int) -> None:
    """Of six tasks; each rule of a look-ahead completes both sides of the first with five, then with four, ..."""
    learning = dataclasses.replace(LEARNING, learn_from=learn_from)
    assert inner.evaluations(POLICY, learning, 6, 2, "paper") == plans
    for rules in (1, 5):
        ahead = dataclasses.replace(POLICY, decoder_input="lookahead", lookahead_rules=rules)
        steps = 6 + rules * 2 * (5 + 4 + 3 + 2 + 1)
        assert inner.evaluations(ahead, learning, 6, 2, "paper") == plans * steps / 6


def test_no_more_deviations_are_counted_than_there_are_tasks() -> None:
    learning = dataclasses.replace(LEARNING, learn_from="deviations", rollouts=10)
    assert [inner.evaluations(POLICY, learning, n, 2, "paper") for n in (1, 6, 9, 40)] == [2, 7, 10, 10]


def test_deviations_of_dags_that_take_no_time_teach_nothing(params: Any) -> None:
    nothing = mj.TaskGraph.from_edges(cycles=[0, 0], upload_bytes=[0, 0], download_bytes=[0, 0], edges=[(0, 1)])
    idle = learning_task([nothing] * len(SIZES), mj.System(), POLICY, num_positions=max(SIZES))
    slope, *_ = deviating(params, idle, jax.random.key(6))
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slope))


def test_demonstrations_are_asked_for_where_there_are_none(task: LearningTask, params: Any) -> None:
    learning = dataclasses.replace(LEARNING, learn_from="optimum")
    with pytest.raises(InputError, match="learn_from is 'optimum' on learning tasks without plans"):
        by_hand.collect(POLICY, learning, params, task, jax.random.key(0))


def test_the_learning_rate_falls_along_half_a_cosine() -> None:
    optimizer = inner.inner_optimizer(dataclasses.replace(LEARNING, inner_lr=0.1, inner_lr_decay=4))
    state = optimizer.init(jnp.zeros(()))
    steps = []
    for _ in range(5):
        updates, state = optimizer.update(jnp.ones(()), state)
        steps.append(-float(updates))
    np.testing.assert_allclose(steps, 0.05 * (1 + np.cos(np.pi * np.arange(5) / 4)), atol=1e-6)
