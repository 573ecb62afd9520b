"""Sampling, scoring and greedy decoding on real DAGs: consistent with each other, and with the simulator."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import (
    LOOKING_AHEAD,
    SOME_DECODER_INPUTS,
    placement_of,
    quickly,
    random_dag,
    random_mec,
    to_graph,
    to_system,
)

import mrlato_jax as mj
from mrlato_jax.config import DECODER_INPUTS, LearningConfig, NetworkConfig
from mrlato_jax.environment import features
from mrlato_jax.environment.observation import num_observed
from mrlato_jax.environment.rules import TOLLS
from mrlato_jax.environment.surroundings import surroundings as surroundings_of
from mrlato_jax.learning import rollout
from mrlato_jax.learning.learning_task import LearningTask, learning_task
from mrlato_jax.learning.losses import Batch, inner_loss
from mrlato_jax.learning.rollout import Trajectories
from mrlato_jax.mec.latency import LOCAL, OFFLOAD
from mrlato_jax.policy import decode
from mrlato_jax.policy.decode import Decisions

ROLLOUTS = 5
SIZES = (6, 3, 1, 6, 4)
CHANNEL_OF = {"paper": "mrlco", "task": "paper", "task_sim": "paper", "lookahead": "mrlco"}
TIGHT = {"rtol": 1e-5, "atol": 1e-5}


looking_ahead = pytest.mark.parametrize("case", LOOKING_AHEAD, indirect=True)


class Case(NamedTuple):
    """A policy far from its initial one, a few DAGs, and what it samples on them."""

    network: NetworkConfig
    params: Any
    graphs: list[mj.TaskGraph]
    system: mj.System
    task: LearningTask
    trajectories: Trajectories
    sample: Callable[[LearningTask], Trajectories]
    score: Callable[[LearningTask, jax.Array], Decisions]
    greedy: Callable[[LearningTask], tuple[jax.Array, jax.Array]]

    @property
    def valid(self) -> np.ndarray:
        """bool[G, R, N]."""
        mask = np.asarray(self.task.dags.mask)[:, None, :]
        return np.broadcast_to(mask, (len(SIZES), ROLLOUTS, max(SIZES)))


def random_params(policy: NetworkConfig, seed: int = 0) -> Any:
    """Every parameter far from its initial value, so that decisions differ and nothing is zero."""
    like = jax.eval_shape(partial(rollout.init_params, policy), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0.1, 0.5, leaf.shape).astype(np.float32), like)


@pytest.fixture(scope="module", params=SOME_DECODER_INPUTS)
def case(request: pytest.FixtureRequest) -> Case:
    policy = NetworkConfig(decoder_input=request.param, units=16, heads=2, layers=1, neighbour_width=8)
    params, rng = random_params(policy), np.random.default_rng(1)
    graphs = [to_graph(random_dag(rng, n, free=0.0)) for n in SIZES]
    system = to_system(random_mec(rng, CHANNEL_OF[request.param]))
    task = learning_task(graphs, system, policy)
    sample = jax.jit(lambda task: rollout.sample(policy, params, task, jax.random.key(2), ROLLOUTS))
    score = jax.jit(lambda task, actions: by_hand.score(policy, params, task, actions))
    greedy = jax.jit(lambda task: rollout.decode_greedily(policy, params, task))
    return Case(policy, params, graphs, system, task, sample(task), sample, score, greedy)


def assert_close(got: Decisions, want: Decisions, valid: np.ndarray) -> None:
    np.testing.assert_array_equal(got.actions[valid], want.actions[valid])
    for name in ("log_probs", "values", "entropies"):
        np.testing.assert_allclose(getattr(got, name)[valid], getattr(want, name)[valid], **TIGHT, err_msg=name)


def test_scoring_a_sampled_trajectory_gives_what_sampling_gave(case: Case) -> None:
    sampled = case.trajectories.decisions
    assert 0.1 < sampled.actions[case.valid].mean() < 0.9  # both actions occur
    assert_close(case.score(case.task, sampled.actions), sampled, case.valid)


def test_probabilities_of_the_two_actions_sum_to_one(case: Case) -> None:
    """The last decision of a DAG, flipped: nothing else about the trajectory changes."""
    sampled, last = case.trajectories.decisions, (slice(None), slice(None), -1)
    full = np.array([n == max(SIZES) for n in SIZES])
    flipped = case.score(case.task, sampled.actions.at[last].add(1) % 2)
    log_p, log_q = (np.asarray(d.log_probs[last], np.float64)[full] for d in (sampled, flipped))
    p, q = np.exp(log_p), np.exp(log_q)
    np.testing.assert_allclose(p + q, 1.0, rtol=1e-5)
    np.testing.assert_allclose(sampled.entropies[last][full], -p * log_p - q * log_q, **TIGHT)


def test_a_shorter_recurrence_decides_the_first_positions(case: Case) -> None:
    want = np.asarray(case.greedy(case.task)[0])
    first = jax.jit(lambda length: rollout.decode_greedily(case.network, case.params, case.task, length)[0])
    assert want[:, 3:].any()
    for length in (0, 3, max(SIZES)):
        got = np.asarray(first(length))
        np.testing.assert_array_equal(got[:, :length], want[:, :length])
        assert not got[:, length:].any()


def test_rewards_sum_to_minus_the_makespan(case: Case) -> None:
    decisions, rewards, makespans = case.trajectories
    for r in range(ROLLOUTS):
        want = mj.makespan(case.task.dags, decisions.actions[:, r])
        np.testing.assert_allclose(makespans[:, r], want, rtol=1e-5)
        np.testing.assert_allclose(rewards[:, r].sum(axis=-1), -want, rtol=1e-5)
    assert not rewards[~case.valid].any()
    assert (rewards[case.valid] <= 0).all()


def test_greedy_decoding_takes_the_likeliest_action_every_time(case: Case) -> None:
    actions, makespans = case.greedy(case.task)
    scored = case.score(case.task, jnp.repeat(actions[:, None], ROLLOUTS, axis=1))
    assert (scored.log_probs[case.valid] >= math.log(0.5)).all()
    assert set(actions[case.valid[:, 0]].tolist()) == {0, 1}
    np.testing.assert_allclose(makespans, mj.makespan(case.task.dags, actions), rtol=1e-5)


@looking_ahead
def test_cold_samples_are_the_likeliest_plan_and_hot_ones_are_not(case: Case) -> None:
    spans = case.greedy(case.task)[1]
    heat = jnp.array([1e-6, 1e-6, 1.0, 50.0, 1.0])
    drawn = jax.jit(
        lambda task, heat: rollout.sample(case.network, case.params, task, jax.random.key(2), ROLLOUTS, heat)
    )(case.task, heat)
    np.testing.assert_allclose(drawn.costs[:, 0], spans, rtol=1e-5)
    np.testing.assert_allclose(drawn.costs[:, 1], spans, rtol=1e-5)
    plainly = case.trajectories
    np.testing.assert_array_equal(drawn.decisions.actions[:, 2], plainly.decisions.actions[:, 2])
    np.testing.assert_array_equal(drawn.decisions.actions[:, 4], plainly.decisions.actions[:, 4])
    assert (drawn.decisions.actions[:, 3] != drawn.decisions.actions[:, 0]).any()


@looking_ahead
@pytest.mark.parametrize("deviations", [3, pytest.param(99, marks=pytest.mark.slow)])
def test_deviations_take_one_decision_of_the_own_plan_the_other_way(case: Case, deviations: int) -> None:
    """Before it they follow the plan, after it they are the policy's likeliest actions again."""
    count = min(deviations, max(SIZES))
    tried = jax.jit(lambda task: rollout.deviate(case.network, case.params, task, jax.random.key(8), deviations))(
        case.task
    )
    own, spans = case.greedy(case.task)
    actions, mask = np.asarray(tried.others.decisions.actions), np.asarray(case.task.dags.mask)
    assert actions.shape == (len(SIZES), count, max(SIZES))
    plan = np.asarray(tried.own.decisions.actions)[:, 0]
    np.testing.assert_array_equal(plan[mask], np.asarray(own)[mask])
    np.testing.assert_allclose(tried.own.costs[:, 0], spans, rtol=1e-6)
    likeliest = np.asarray(case.score(case.task, tried.others.decisions.actions).log_probs) >= math.log(0.5)
    for graph, positions in enumerate(np.asarray(tried.positions)):
        assert len(set(positions.tolist())) == count
        assert (np.sort(positions)[: SIZES[graph]] < SIZES[graph]).all()  # of padding only where nothing else is left
        for d, j in enumerate(positions):
            if j < SIZES[graph]:
                np.testing.assert_array_equal(actions[graph, d, :j], plan[graph, :j])
                assert actions[graph, d, j] == 1 - plan[graph, j]
                assert likeliest[graph, d, j + 1 : SIZES[graph]].all()
    for d in range(count):
        want = mj.makespan(case.task.dags, jnp.asarray(actions[:, d]))
        np.testing.assert_allclose(tried.others.costs[:, d], want, rtol=1e-5)


@looking_ahead
def test_deviations_are_drawn_where_the_policy_is_least_sure(case: Case) -> None:
    """A sure decision is tried now and then; over many draws, as often as `DOUBT` says."""
    draw = jax.jit(lambda key: rollout.deviate(case.network, case.params, case.task, key, 1))
    drawn = [draw(jax.random.key(seed)) for seed in range(300)]
    taken = np.stack([np.asarray(each.positions)[:, 0] for each in drawn])
    chance = rollout.DOUBT - np.expm1(np.asarray(drawn[0].own.decisions.log_probs, np.float64)[:, 0])
    for graph, size in enumerate(SIZES):
        want = chance[graph, :size] / chance[graph, :size].sum()
        got = np.bincount(taken[:, graph], minlength=size)[:size] / len(drawn)
        np.testing.assert_allclose(got, want, atol=0.12)


@looking_ahead
def test_an_action_may_be_judged_without_being_taken(case: Case) -> None:
    """Its probability is what is left of that of the action taken, and the trajectory stays as it was."""
    taken = case.trajectories.decisions
    judged = jax.jit(lambda task, a, b: by_hand.score(case.network, case.params, task, a, b))(
        case.task, taken.actions, 1 - taken.actions
    )
    total = np.exp(np.asarray(judged.log_probs, np.float64)) + np.exp(np.asarray(taken.log_probs, np.float64))
    np.testing.assert_allclose(total[case.valid], 1.0, rtol=1e-5)
    assert_close(judged._replace(log_probs=taken.log_probs), taken, case.valid)


@pytest.mark.parametrize(
    ("channel", "rules"),
    [
        ("paper", 5),
        ("mrlco_code", 3),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("paper", 1), ("mrlco", 3))),
    ],
)
def test_the_look_ahead_completes_both_ways_as_the_oracle_does(channel: str, rules: int) -> None:
    """After random prefixes of 8 tasks of graphs of 8 and of 5, padded."""
    policy = NetworkConfig(
        decoder_input="lookahead", lookahead_rules=rules, units=16, heads=2, layers=1, neighbour_width=8
    )
    rng = np.random.default_rng(11)
    dags, mec = [random_dag(rng, n, free=0.0) for n in (8, 5, 8)], random_mec(rng, channel)
    arrays = learning_task([to_graph(dag) for dag in dags], to_system(mec), policy).dags
    actions = rng.integers(0, 2, (3, 1, 8)).astype(np.int32)
    surroundings = surroundings_of(policy, arrays, 1)
    observe, advance, state = jax.jit(surroundings.observe), jax.jit(surroundings.advance), surroundings.state
    for position in range(8):
        entry = jax.tree.map(lambda leaf, k=position: leaf[:, k], surroundings.inputs)
        seen = np.asarray(observe(state, entry))[:, 0]
        assert seen.shape == (3, 9)
        for dag, ids, row, ahead in zip(dags, np.asarray(arrays.order), actions[:, 0], seen[:, 7:], strict=True):
            if position >= dag.num_tasks:
                continue
            order, before = ids[: dag.num_tasks].tolist(), row[:position].tolist()
            local, remote = (
                min(oracle.own_finish_rule(dag, mec, order, [*before, side], toll).makespan for toll in TOLLS[:rules])
                for side in (LOCAL, OFFLOAD)
            )
            now = oracle.simulate(dag, mec, placement_of(order, row[: dag.num_tasks]), order[:position]).makespan
            mean = sum(oracle.task_times(dag, mec).ue) / dag.num_tasks
            want = np.array([min(local, remote) - now, 10 * (remote - local)]) / mean
            np.testing.assert_allclose(ahead, want, atol=1e-4)
        state, _ = advance(state, entry, jnp.asarray(actions[:, :, position]))


def test_padding_changes_no_decision(case: Case) -> None:
    wide = learning_task(case.graphs, case.system, case.network, num_positions=11)
    sampled = case.sample(wide)
    cut = jax.tree.map(lambda leaf: leaf[..., : max(SIZES)], sampled.decisions)
    assert_close(cut, case.trajectories.decisions, case.valid)
    np.testing.assert_allclose(sampled.costs, case.trajectories.costs, rtol=1e-5)
    if case.network.decoder_input != "lookahead":
        return  # one of the modes is enough for greedy decoding, the same recurrence
    (actions, makespans), (wide_actions, wide_makespans) = case.greedy(case.task), case.greedy(wide)
    mask = case.valid[:, 0]
    np.testing.assert_array_equal(wide_actions[:, : max(SIZES)][mask], actions[mask])
    np.testing.assert_allclose(wide_makespans, makespans, rtol=1e-5)


def test_a_dag_does_not_see_the_others_of_its_batch(case: Case) -> None:
    """Two of five DAGs change, and their actions with them: nothing changes for the other three."""
    rng = np.random.default_rng(3)
    graphs = list(case.graphs)
    graphs[0], graphs[2] = (to_graph(random_dag(rng, n, free=0.0)) for n in (5, 6))
    other = learning_task(graphs, case.system, case.network)
    kept = case.valid & np.array([False, True, False, True, True])[:, None, None]
    sampled = case.sample(other)
    assert_close(sampled.decisions, case.trajectories.decisions, kept)
    assert_close(case.score(other, sampled.decisions.actions), case.trajectories.decisions, kept)
    assert abs(sampled.decisions.values[0, :, 0] - case.trajectories.decisions.values[0, :, 0]).max() > 1e-3
    (actions, _), (other_actions, _) = case.greedy(case.task), case.greedy(other)
    np.testing.assert_array_equal(actions[kept[:, 0]], other_actions[kept[:, 0]])
    # In another place of the batch, scored again.
    turned = learning_task(case.graphs[::-1], case.system, case.network)
    want = case.trajectories.decisions
    again = jax.tree.map(lambda leaf: leaf[::-1], case.score(turned, want.actions[::-1]))
    assert_close(again, want, case.valid)


@pytest.mark.parametrize("position", [0, 2, 4])
def test_a_decision_reaches_only_later_ones(case: Case, position: int) -> None:
    """In all three modes: what the decoder is shown depends on the DAG and on the decisions so far."""
    actions = case.trajectories.decisions.actions
    before = case.score(case.task, actions)
    after = case.score(case.task, actions.at[:, :, position].add(1) % 2)
    for name in ("log_probs", "values", "entropies"):
        changed = abs(getattr(after, name) - getattr(before, name)) > 1e-5
        upto = position if name == "log_probs" else position + 1
        assert not changed[..., :upto].any(), name
        assert changed[[0, 3], :, position + 1].any(axis=1).all(), name  # the two DAGs of six tasks


def test_rollouts_do_not_see_each_other(case: Case) -> None:
    actions = case.trajectories.decisions.actions
    turned = case.score(case.task, actions[:, ::-1])
    assert_close(jax.tree.map(lambda leaf: leaf[:, ::-1], turned), case.trajectories.decisions, case.valid)


def test_only_some_inputs_see_the_simulator(case: Case) -> None:
    """Slower uplink, same embedding: without the simulator's quantities nothing can change."""
    dags = case.task.dags
    slower = mj.DagArrays(
        dags.ue, 3 * dags.uplink, dags.vm, dags.downlink, dags.parents, dags.mask, dags.order, dags.channel
    )
    want = case.trajectories.decisions
    got = case.score(case.task._replace(dags=slower), want.actions)
    if case.network.sees_simulator:
        assert (abs(got.log_probs - want.log_probs)[case.valid] > 1e-4).mean() > 0.5
    else:
        assert_close(got, want, case.valid)


def test_scaling_all_times_alike_changes_no_decision(case: Case) -> None:
    """By a power of two, so that not a bit differs."""
    system = case.system
    rates = {name: getattr(system, name) / 4 for name in ("ue_hz", "vm_hz", "uplink_bps", "downlink_bps")}
    slower = dataclasses.replace(system, **rates)
    task = learning_task(case.graphs, slower, case.network, case.task.num_positions)
    np.testing.assert_array_equal(task.dags.uplink, 4 * case.task.dags.uplink)
    got = case.sample(task)
    jax.tree.map(np.testing.assert_array_equal, got.decisions, case.trajectories.decisions)
    np.testing.assert_array_equal(got.costs, 4 * case.trajectories.costs)
    np.testing.assert_array_equal(case.greedy(task)[0], case.greedy(case.task)[0])


def test_paper_mode_does_not_see_which_task_it_decides(case: Case) -> None:
    """Attention is over a set: with the encoder's outputs in another order, `paper` decides alike; others do not."""
    policy, params = case.network, case.params
    if policy.sees_simulator:
        pytest.skip("the simulator walks the positions as well")
    actions = case.trajectories.decisions.actions
    memory = rollout.encode(policy, params, case.task)
    surroundings = by_hand.blind(len(SIZES), ROLLOUTS, max(SIZES))
    score = jax.jit(lambda memory: decode.decode(policy, params, memory, surroundings, decode.given(actions))[0])
    turn = np.stack([[*reversed(range(n)), *range(n, max(SIZES))] for n in SIZES])
    moved = {
        "keys": np.take_along_axis(memory.keys, turn[:, None, None, :], axis=3),
        "values": np.take_along_axis(memory.values, turn[:, None, :, None], axis=2),
        "tasks": np.take_along_axis(memory.tasks, turn[:, :, None], axis=1),
    }
    got, want = score(memory._replace(**moved)), score(memory)
    assert_close(want, case.trajectories.decisions, case.valid)
    if policy.decoder_input == "paper":
        assert_close(got, want, case.valid)
    else:
        assert (abs(got.log_probs - want.log_probs)[case.valid] > 1e-4).mean() > 0.5


def multiplications(jaxpr: Any) -> int:
    """Scalar multiplications of all matrix products, those in loops as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += depth * equation.outvars[0].aval.size
        repeats = equation.params["length"] if equation.primitive.name == "scan" else 1
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += repeats * multiplications(inner)
    return total


@pytest.mark.parametrize("case", quickly(DECODER_INPUTS, "paper"), indirect=True)
@pytest.mark.parametrize("differentiate", [False, True], ids=["forward", "gradient"])
def test_all_rollouts_of_a_dag_share_one_encoder_pass(case: Case, differentiate: bool) -> None:
    """The work that does not grow with R is exactly one encoder pass, and in the gradient exactly its gradient."""
    policy, params, task = case.network, case.params, case.task

    def total(tree: Any) -> jax.Array:
        return sum((leaf.sum() for leaf in jax.tree.leaves(tree) if leaf.dtype == jnp.float32), jnp.zeros(()))

    def work(function: Callable[..., Any], *args: Any) -> int:
        wrapped = jax.grad(lambda params: total(function(params, *args))) if differentiate else function
        traced = jax.make_jaxpr(wrapped)(params, *([] if differentiate else args))
        return multiplications(traced.jaxpr)

    def score(params: Any, actions: jax.Array) -> Decisions:
        return by_hand.score(policy, params, task, actions)

    encoder = work(lambda params: rollout.encode(policy, params, task))
    cells = len(SIZES) * max(SIZES)
    own = 2 * 4 * 16 * 16 + (16 * 16 * 2) + 21 * 16  # two gate kernels, keys and values, the embedding
    shown = 4 * 16 * 16 if policy.decoder_input != "paper" else 0
    if not differentiate:
        assert encoder == cells * (own + shown)
    works = [work(score, jnp.zeros((len(SIZES), rollouts, max(SIZES)), jnp.int32)) for rollouts in (1, 2, 9)]
    per_rollout = works[1] - works[0]
    assert works[0] - per_rollout == encoder
    assert works[2] == encoder + 9 * per_rollout


@looking_ahead
def test_no_gradient_keeps_the_simulators_state_of_every_step(case: Case) -> None:
    """It holds N numbers for each step of each trajectory; what the decoder was shown of it has 7 or 9."""
    actions = case.trajectories.decisions.actions
    graphs, rollouts, size = actions.shape

    def loss(params: Any) -> jax.Array:
        return by_hand.score(case.network, params, case.task, actions).log_probs.sum()

    program = str(jax.make_jaxpr(jax.grad(loss))(case.params))
    assert f"f32[{size},{graphs},{rollouts},{size}]" not in program
    shown = num_observed(case.network)
    assert shown == {"task_sim": 7, "lookahead": 9}.get(case.network.decoder_input, 0)
    for width in (7, 9):
        assert (f"f32[{size},{graphs * rollouts},{width}]" in program) == (width == shown)


def test_gradient_of_the_loss_equals_finite_differences() -> None:
    """(27) through the decoder, the attention and the encoder, in float64, one direction for each parameter array."""
    policy = NetworkConfig(decoder_input="task_sim", units=8, heads=2, layers=1, neighbour_width=4)
    learning = LearningConfig(entropy_coef=0.05)
    rng = np.random.default_rng(5)
    graphs = [to_graph(random_dag(rng, n, free=0.0)) for n in (4, 2)]
    arrays = mj.pack(graphs, to_system(random_mec(rng, "paper")), dtype=np.float64)
    with jax.enable_x64(True):
        encoded = jax.vmap(lambda dag: features.encode(dag, features.FeatureSettings(policy.neighbour_width)))(arrays)
        task = LearningTask(jax.tree.map(jnp.asarray, arrays), encoded, arrays.ue.sum(axis=-1))
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), random_params(policy, 6))
        actions = jnp.asarray(rng.integers(0, 2, (2, 3, 4)), jnp.int32)
        old_log_probs = -rng.uniform(0.3, 1.5, (2, 3, 4))
        advantages, returns = rng.normal(size=(2, 2, 3, 4))
        mask = task.dags.mask[:, None, :]
        batch = Batch(actions, actions, *map(jnp.asarray, (old_log_probs, advantages, returns)), mask)

        @jax.jit
        @partial(jax.value_and_grad, has_aux=True)
        def loss(params: Any) -> tuple[jax.Array, Any]:
            return inner_loss(learning, batch, by_hand.score(policy, params, task, actions))

        (_, metrics), gradient = loss(params)
        assert 0 < metrics.clip_fraction < 1  # some decisions are clipped, some are not
        leaves, structure = jax.tree.flatten(params)
        step = 1e-5
        for i, (leaf, slope) in enumerate(zip(leaves, jax.tree.leaves(gradient), strict=True)):
            assert slope.dtype == np.float64
            direction = rng.normal(size=leaf.shape)

            def moved(by: float, i: int = i, direction: np.ndarray = direction) -> float:
                changed = [x + by * direction if i == j else x for j, x in enumerate(leaves)]
                return float(loss(jax.tree.unflatten(structure, changed))[0][0])

            numeric = (moved(step) - moved(-step)) / (2 * step)
            assert np.vdot(slope, direction) == pytest.approx(numeric, rel=1e-6, abs=1e-8)
            assert abs(numeric) > 1e-6  # every parameter matters
