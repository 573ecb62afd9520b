"""Rewards from executions: what a policy learns from where the real system differs from the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.inference.offloader import Offloader
from mrlato_jax.learning import rollout
from mrlato_jax.learning.executions import Recorded
from mrlato_jax.learning.learning_task import LearningTask, drawn_anew, executed_under, learning_task
from mrlato_jax.mec.disturbance import world_of

NETWORK = NetworkConfig(units=8, heads=2, layers=1, neighbour_width=8, decoder_input="task_sim")
RNG = np.random.default_rng(0)
GRAPHS = [mj.daggen(size, 0.6, 0.6, RNG) for size in (4, 6, 6)]
PARAMS = rollout.init_params(NETWORK, jax.random.key(0))
SLOW_VM = mj.Disturbance(vm_burst_s=0.0, vm_slowdown=200.0)


def task_under(disturbance: mj.Disturbance) -> LearningTask:
    return executed_under(learning_task(GRAPHS, mj.System(), NETWORK), NETWORK, world_of(disturbance, 1))


def sampled(task: LearningTask) -> rollout.Trajectories:
    return jax.jit(rollout.sample, static_argnums=(0, 4))(NETWORK, PARAMS, task, jax.random.key(1), 3)


def test_undisturbed_rewards_are_those_of_the_model() -> None:
    model, measured = sampled(learning_task(GRAPHS, mj.System(), NETWORK)), sampled(task_under(mj.Disturbance()))
    np.testing.assert_array_equal(model.decisions.actions, measured.decisions.actions)
    np.testing.assert_allclose(model.rewards, measured.rewards, rtol=1e-4, atol=1e-6)


def test_costs_are_measured_makespans() -> None:
    """The policy decides by the model, and the rewards of a plan sum to minus its measured makespan."""
    task = task_under(SLOW_VM)
    measured, model = sampled(task), sampled(learning_task(GRAPHS, mj.System(), NETWORK))
    np.testing.assert_array_equal(model.decisions.actions, measured.decisions.actions)
    for index, graph in enumerate(GRAPHS):
        order = np.asarray(task.dags.order[index])[: graph.num_tasks]
        for number in range(3):
            sites = np.zeros(graph.num_tasks, int)
            sites[order] = np.asarray(measured.decisions.actions[index, number])[: graph.num_tasks]
            expected = mj.execute(graph, mj.System(), sites, SLOW_VM).makespan
            assert float(measured.costs[index, number]) == pytest.approx(expected, rel=1e-4)


def test_every_plan_is_an_execution_of_its_own() -> None:
    task = drawn_anew(task_under(mj.Disturbance(jitter=0.5)), jax.random.key(2))
    actions = np.zeros((3, 2, 6), np.int32)  # the same plan twice
    first = rollout.measured(task, actions).sum(axis=-1)
    again = rollout.measured(drawn_anew(task, jax.random.key(3)), actions).sum(axis=-1)
    assert len({*np.asarray(first).ravel().tolist(), *np.asarray(again).ravel().tolist()}) == 12
    np.testing.assert_array_equal(first, rollout.measured(task, actions).sum(axis=-1))


@pytest.mark.slow
def test_a_policy_learns_to_avoid_a_slow_server() -> None:
    """A policy trained in simulation with a disturbance, and one adapted with it, offload less."""
    quick = {"inner_steps": 3, "rollouts": 8, "graphs_per_task": 3, "inner_lr": 3e-2, "learn_from": "samples"}
    network = {"units": 8, "heads": 2, "layers": 1, "neighbour_width": 8, "decoder_input": "task_sim"}
    learning = quick | {"meta_update": "joint"}
    policy, curve = mj.train(
        [GRAPHS], method="drl", iterations=8, network=network, learning=learning, disturbance=SLOW_VM, progress=False
    )
    assert curve.latency_s[-1] < curve.latency_s[0]
    start = dataclasses.replace(policy, params=PARAMS, learning=dataclasses.replace(policy.learning, **quick))
    adapted = start.adapt(GRAPHS, mj.System(), updates=24, disturbance=SLOW_VM)
    assert adapted.curve.latency_s[-1] < adapted.curve.latency_s[0]
    for one in (policy, adapted):
        assert sum(plan.placement.sum() for plan in one.plan(GRAPHS, mj.System())) == 0


def test_what_cannot_be_executed_is_refused() -> None:
    order = dataclasses.replace(NETWORK, decides="order")
    with pytest.raises(mj.InputError, match="the policy chooses the order"):
        executed_under(learning_task(GRAPHS, mj.System(), order), order, world_of(SLOW_VM, 1))
    with pytest.raises(mj.InputError, match="channel 'mrlco'"):
        executed_under(learning_task(GRAPHS, mj.System(channel="mrlco"), NETWORK), NETWORK, world_of(SLOW_VM, 1))
    with pytest.raises(mj.InputError, match="worlds has 2 entries; accepted: one, or 3, one for each"):
        executed_under(learning_task(GRAPHS, mj.System(), NETWORK), NETWORK, [world_of(SLOW_VM, 1)] * 2)
    with pytest.raises(mj.InputError, match=r"disturbance is 0\.3; accepted: a Disturbance, or 1 of them"):
        mj.train([GRAPHS], iterations=1, imitation=0, disturbance=0.3, progress=False)  # type: ignore[call-overload]


class Device:
    """A real system, simulated: executes plans where the link is half-duplex, and lists them."""

    disturbance = mj.Disturbance(half_duplex=True, vm_slowdown=3.0)

    def __init__(self) -> None:
        self.ran: list[tuple[int, bytes]] = []

    def __call__(self, graph: mj.TaskGraph, placement: np.ndarray, order: np.ndarray) -> mj.Schedule:
        assert mj.priority_order(graph, mj.System()).tolist() == order.tolist()
        self.ran.append((GRAPHS.index(graph), placement.tobytes()))
        return mj.execute(graph, mj.System(), placement, self.disturbance, order=order)


@pytest.mark.parametrize("learn_from", [pytest.param("samples", marks=pytest.mark.slow), "deviations"])
def test_a_policy_learns_the_same_from_a_program_that_executes_plans(learn_from: str) -> None:
    """Where nothing is random, an outside program and the simulated disturbance give the same policy."""
    settings = {"inner_steps": 2, "rollouts": 3, "learn_from": learn_from, "inner_lr": 1e-2}
    policy = Offloader(NETWORK, PARAMS, "tiny", 0, LearningConfig(**settings))
    device = Device()
    outside = policy.adapt(GRAPHS, mj.System(), updates=3, seed=4, execute=device)
    inside = policy.adapt(GRAPHS, mj.System(), updates=3, seed=4, disturbance=device.disturbance)
    assert outside.curve is not None
    assert inside.curve is not None
    for found, expected in zip(jax.tree.leaves(outside.params), jax.tree.leaves(inside.params), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert any(
        abs(new - old).max() > 5e-3
        for new, old in zip(jax.tree.leaves(outside.params), jax.tree.leaves(PARAMS), strict=True)
    )
    np.testing.assert_allclose(outside.curve.sampled_s, inside.curve.sampled_s, rtol=1e-5)
    assert outside.curve.executions == len(device.ran) <= inside.curve.executions == 2 * 3 * 3
    model = learning_task(GRAPHS, mj.System(), NETWORK)
    np.testing.assert_allclose(  # the curve is that of the model
        outside.curve.latency_s_by_dag[0], rollout.decode_greedily(NETWORK, PARAMS, model)[1], rtol=1e-6
    )
    if learn_from == "deviations":
        assert len(device.ran) == 2 * 3 * 3
        assert all(len(set(device.ran[begin : begin + 3])) == 3 for begin in range(0, 18, 3))


def test_the_rewards_of_executed_plans_are_found_again() -> None:
    recorded = Recorded(np.array([[[0, 1, 1], [1, 1, 0]]]), np.array([[[-1.0, 0, 0], [-2.0, 0, 0]]]))
    asked = np.array([[[1, 1, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1]]])  # the last two are next to an executed one
    assert recorded.of(asked)[0, :, 0].tolist() == [-2, -1, -2, -1]


def test_a_failed_execution_ends_the_adaptation() -> None:
    policy = Offloader(NETWORK, PARAMS, "tiny", 0, LearningConfig(inner_steps=1, rollouts=2))
    schedule = mj.simulate(GRAPHS[0], mj.System(), np.zeros(4, int))

    def lost(*_: object) -> mj.Schedule:
        raise ConnectionError("the link is down")

    def wrong(what: object) -> Callable[..., Any]:
        return lambda *_: what

    with pytest.raises(ConnectionError, match="the link is down"):
        policy.adapt(GRAPHS, mj.System(), updates=1, execute=lost)
    with pytest.raises(mj.InputError, match=r"measured schedule is 0\.5; accepted: a Schedule"):
        policy.adapt(GRAPHS, mj.System(), updates=1, execute=wrong(0.5))
    with pytest.raises(mj.InputError, match="accepted: 6 finite times from 0 on, one for each task"):
        policy.adapt(GRAPHS[1:], mj.System(), updates=1, execute=wrong(schedule))
    never = dataclasses.replace(schedule, ue_end=np.full(4, np.inf))
    with pytest.raises(mj.InputError, match="accepted: 4 finite times from 0 on"):
        policy.adapt(GRAPHS[:1], mj.System(), updates=1, execute=wrong(never))
    late = dataclasses.replace(schedule, makespan=9.5)
    with pytest.raises(mj.InputError, match=r"measured schedule has the makespan 9\.5 s; accepted: "):
        policy.adapt(GRAPHS[:1], mj.System(), updates=1, execute=wrong(late))
    with pytest.raises(mj.InputError, match="disturbance and execute are both given"):
        policy.adapt(GRAPHS, mj.System(), updates=1, execute=lost, disturbance=SLOW_VM)
    with pytest.raises(mj.InputError, match="execute is 3; accepted: a function of graph, placement and order"):
        policy.adapt(GRAPHS, mj.System(), updates=1, execute=3)  # type: ignore[arg-type]
    with pytest.raises(mj.InputError, match="channel 'resident'"):
        policy.adapt(GRAPHS, mj.System(channel="resident"), updates=1, execute=lost)
