"""The environment for Gymnasium, alone and as a vector."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.dag.families import FAMILIES
from mrlato_jax.environment import Applications

gymnasium = pytest.importorskip("gymnasium")
check_env = pytest.importorskip("gymnasium.utils.env_checker").check_env
gym = pytest.importorskip("mrlato_jax.environment.gym")

GRAPHS = [mj.daggen(n, 0.5, 0.5, np.random.default_rng(n)) for n in (3, 6)]
TWO = mj.System(vm_hz=[10e9, 30e9], uplink_bps=[7e6, 3e6], downlink_bps=[7e6, 3e6], channel="resident")


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"observation": "graph", "applications": Applications(num_tasks=(2, 5)), "render_mode": "ansi"},
        {"applications": Applications(num_tasks=(2, 5), pinned=True), "system": TWO, "in_order": False},
    ],
)
def test_passes_the_checker(settings: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(gym.ID, **settings)
        check_env(env.unwrapped)
        observation, info = env.reset(seed=1)  # the passive checker watches whole episodes
        for _ in range(12):
            action = env.action_space.sample(info["action_mask"])
            observation, _, terminated, truncated, info = env.step(action)
            assert observation in env.observation_space
            assert not truncated
            if terminated:
                observation, info = env.reset()
    again = gymnasium.make(gym.ID, **settings).unwrapped
    assert again._episodes is env.unwrapped._episodes  # compiled once for all that are alike


@pytest.mark.parametrize("in_order", [True, False])
def test_an_episode_is_a_plan(in_order: bool) -> None:
    """Own graphs: rewards sum to minus the makespan of the placement in the order of the decisions."""
    env = gymnasium.make(gym.ID, applications=GRAPHS, in_order=in_order)
    rng = np.random.default_rng(0)
    for index, graph in enumerate(GRAPHS):
        _, info = env.reset(options={"index": index})
        priority, placement, order, earned, done = mj.priority_order(graph, mj.System()), [0] * 6, [], 0.0, False
        while not done:
            assert (info["action_mask"] == env.unwrapped.action_masks()).all()
            action = rng.choice(np.flatnonzero(info["action_mask"]))
            task = priority[len(order) if in_order else action // 2]
            order.append(task)
            placement[task] = action % 2
            _, reward, done, truncated, info = env.step(action)
            earned += reward
            assert not truncated
        want = mj.simulate(graph, mj.System(), placement[: graph.num_tasks], order=order).makespan
        assert len(order) == graph.num_tasks
        assert -earned == pytest.approx(want, rel=1e-5)
        assert info["makespan"] == pytest.approx(want, rel=1e-5)


def test_cost_and_energy() -> None:
    """A family's energy weight counts by default; the energy is the cost beyond the makespan, per weight."""
    family = next(f for f in FAMILIES["general"] if f.energy_weight and not f.pinned and f.num_tasks <= 8)
    for objective, weight in ((None, family.energy_weight), (mj.Objective(), 0.0)):
        env = gymnasium.make(gym.ID, applications=family, objective=objective)
        env.reset(seed=0)
        earned, done = 0.0, False
        while not done:
            _, reward, done, _, info = env.step(0)
            earned += reward
        assert info["cost"] == pytest.approx(-earned, rel=1e-5)
        # All tasks on the UE: it computes for the whole of the makespan.
        power = mj.System(**family.system).power
        energy = info["makespan"] * (power.compute_w + power.idle_w)
        assert info["cost"] - info["makespan"] == pytest.approx(weight * energy, rel=1e-5)


@pytest.mark.parametrize(("system", "size"), [(mj.System(), 75), (TWO, 84)])
def test_size_of_a_decision(system: mj.System, size: int) -> None:
    """The size does not depend on the number of tasks."""
    for most in (4, 9):
        env = gym.OffloadingEnv(applications=Applications(num_tasks=(2, most)), system=system)
        assert env.observation_space.shape == (size,)


def test_a_forbidden_action_truncates() -> None:
    pinned = mj.TaskGraph.from_edges(
        cycles=[1e8] * 2, upload_bytes=[1e4] * 2, download_bytes=[1e4] * 2, edges=[(0, 1)], pins=["ue", "any"]
    )
    env = gymnasium.make(gym.ID, applications=[pinned], render_mode="ansi")
    first, info = env.reset()
    assert info["action_mask"].tolist() == [1, 0]
    observation, reward, terminated, truncated, info = env.step(1)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert info["forbidden"] is True
    np.testing.assert_array_equal(observation, first)
    assert env.unwrapped.render() == "0 of 2 tasks placed; latency so far 0.0 ms"
    for over in (1, 0):
        with pytest.raises(mj.InputError, match="step was called after the end of the episode; accepted: reset"):
            env.step(over)
    env.reset()
    assert env.step(0)[-1]["forbidden"] is False
    assert env.unwrapped.render() == "1 of 2 tasks placed; latency so far 100.0 ms"
    env.step(0)
    with pytest.raises(mj.InputError, match="step was called after the end of the episode"):
        env.step(0)
    envs = gymnasium.make_vec(gym.ID, num_envs=2, applications=[pinned])
    envs.reset()
    _, _, _, truncated, info = envs.step([1, 0])
    assert info["forbidden"].tolist() == truncated.tolist() == [True, False]


def test_vector_of_episodes() -> None:
    """Episodes of different lengths: each ends on its own, and begins again with the step after; as one alone would."""
    envs = gymnasium.make_vec(gym.ID, num_envs=2, applications=GRAPHS)
    assert isinstance(envs.unwrapped, gym.OffloadingVectorEnv)
    assert envs.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.NEXT_STEP
    short, long = [], []
    for kept, index in ((short, 0), (long, 1)):
        alone = gymnasium.make(gym.ID, applications=GRAPHS)
        kept.append((alone.reset(options={"index": index})[0], 0.0, False))
        while not kept[-1][2]:
            kept.append(alone.step(1)[:3])
    for index, kept in ((0, short), (1, long)):
        observations, info = envs.reset(seed=0, options={"index": index})
        assert observations in envs.observation_space
        assert info["action_mask"].tolist() == [[1, 1]] * 2
        for observation, reward, done in kept[1:]:
            observations, rewards, terminated, truncated, info = envs.step(np.ones(2, int))
            np.testing.assert_allclose(observations, [observation] * 2, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(rewards, [reward] * 2, rtol=1e-5, atol=1e-9)
            assert terminated.tolist() == [done] * 2
            assert not truncated.any()
        observations, rewards, terminated, _, info = envs.step(np.ones(2, int))
        assert not terminated.any()
        assert rewards.tolist() == [0.0, 0.0]
        assert info["makespan"].tolist() == info["cost"].tolist() == [0.0, 0.0]
    ends = np.zeros(2, int)
    envs.reset(seed=3)
    for _ in range(40):
        _, _, terminated, _, _ = envs.step(envs.action_space.sample())
        ends += terminated
    assert (ends >= 40 // 7).all()
    for index in ([1, 0], np.array([1, 0])):
        observations, _ = envs.reset(options={"index": index})
        np.testing.assert_allclose(observations, [long[0][0], short[0][0]], rtol=1e-5, atol=1e-6)
    with pytest.raises(mj.InputError, match=r"options\['index'\] has 3 entries; accepted: an integer, or 2 integers"):
        envs.reset(options={"index": [0, 1, 0]})
    np.testing.assert_array_equal(envs.reset(seed=5)[0], envs.reset(seed=5)[0])


def test_graph_observations_of_a_vector() -> None:
    envs = gymnasium.make_vec(gym.ID, num_envs=3, applications=Applications(num_tasks=(2, 4)), observation="graph")
    observations, _ = envs.reset(seed=0)
    assert observations in envs.observation_space
    assert len({row.tobytes() for row in observations["tasks"]}) == 3


@pytest.mark.parametrize(
    ("call", "phrase"),
    [
        (lambda env: env.step(0), "step was called before reset"),
        (lambda env: (env.reset(), env.step(9)), r"action is 9; accepted: an integer in \[0, 1\]"),
        (lambda env: (env.reset(), env.step(0.0)), r"action is 0.0; accepted: an integer in \[0, 1\]"),
        (lambda env: env.reset(options={"graph": 1}), r"options has \['graph'\]; accepted: index"),
        (lambda env: env.reset(options={"index": 2}), r"options\['index'\] is 2"),
        (lambda env: gym.OffloadingEnv("all"), "observation is 'all'"),
        (lambda env: gym.OffloadingVectorEnv(0), "num_envs is 0"),
        (lambda env: gym.OffloadingVectorEnv(2, render_mode="ansi"), "render_mode is 'ansi'"),
        (lambda env: gym.OffloadingVectorEnv(2).step([0, 0]), "step was called before reset"),
    ],
)
def test_refuses(call: Any, phrase: str) -> None:
    with pytest.raises(mj.InputError, match=phrase):
        call(gym.OffloadingEnv(applications=GRAPHS))


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("gymnasium.make('mrlato_jax:mrlato_jax/Offloading-v0')", marks=pytest.mark.slow),
        "import mrlato_jax; gymnasium.make('mrlato_jax/Offloading-v0')",
    ],
)
def test_is_registered(program: str) -> None:
    ran = subprocess.run([sys.executable, "-c", f"import gymnasium; {program}"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "Error" not in ran.stderr
