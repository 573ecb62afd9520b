"""The same numbers however many devices share the tasks of a meta-iteration.

The devices are pretended ones, which JAX makes only as it starts: the runs below are made by this file, as a program.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mrlato_jax.config import ExecutionConfig, LearningConfig
from mrlato_jax.errors import InputError
from mrlato_jax.learning import devices

HERE = Path(__file__).resolve()
NUM_DEVICES = 8
SEEDS = (3, 4)
TASKS = 5  # a seed, as in Experiment 2: no number of devices but one divides it

# (devices, parallel, task_axis) of each run; with the real inner loop, and with one that costs nothing to compile.
REAL = [(1, "single", "map"), (4, "shard_map", "map"), (4, "pmap", "map"), (1, "single", "vmap")]
REAL += [(8, "shard_map", "vmap"), (3, "pmap", "vmap")]
JOINT = [(1, "single", "map"), (4, "shard_map", "map")]  # no inner loop: gradients are summed at every step
CHEAP = [(1, "single", "map"), (4, "shard_map", "map"), (8, "pmap", "map"), (3, "shard_map", "vmap")]
SLOW_CHEAP = [(n, parallel, "map") for n in (1, 2, 4, 8) for parallel in ("shard_map", "pmap")]
SLOW_CHEAP += [(1, "single", "vmap"), (8, "pmap", "vmap")]


def name(case: tuple[int, str, str]) -> str:
    return "-".join(map(str, case))


def run_program(folder: Path, cases: str) -> dict[str, Any]:
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={NUM_DEVICES}",
        "PYTHONPATH": os.pathsep.join(map(str, (HERE.parents[2], HERE.parents[1], HERE.parent))),
    }
    out = folder / f"{cases}.npz"
    subprocess.run([sys.executable, str(HERE), cases, str(out)], env=environment, check=True, timeout=900)
    with np.load(out) as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_program(tmp_path_factory.mktemp("devices"), "quick")


def assert_alike(results: dict[str, Any], cases: list[tuple[int, str, str]], prefix: str, atol: float) -> None:
    reference = results[f"{prefix}/{name(cases[0])}/theta"], results[f"{prefix}/{name(cases[0])}/metrics"]
    assert reference[0].shape[0] == len(SEEDS)
    assert np.abs(reference[0] - results[f"{prefix}/start"]).max() > 100 * atol  # it moved
    assert np.abs(reference[0][0] - reference[0][1]).max() > 100 * atol  # the seeds differ
    for case in cases[1:]:
        found = results[f"{prefix}/{name(case)}/theta"], results[f"{prefix}/{name(case)}/metrics"]
        for ours, theirs in zip(found, reference, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=atol, err_msg=f"{prefix}, {name(case)}")


def test_every_layout_gives_the_same_theta(results: dict[str, Any]) -> None:
    """Nothing of the uneven case is dropped, nothing counted twice."""
    assert_alike(results, CHEAP, "cheap", atol=5e-7)


@pytest.mark.slow
def test_every_other_layout_gives_the_same_theta(slow_results: dict[str, Any]) -> None:
    assert_alike(slow_results, [CHEAP[0], *SLOW_CHEAP], "cheap", atol=5e-7)


@pytest.fixture(scope="module")
def slow_results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return run_program(tmp_path_factory.mktemp("slow"), "slow")


@pytest.mark.slow
def test_ppo_gives_the_same_theta_on_any_number_of_devices(slow_results: dict[str, Any]) -> None:
    """Each device takes gradients of its own tasks at parameters that all devices share."""
    assert_alike(slow_results, REAL, "real", atol=1e-5)


@pytest.mark.slow
def test_joint_training_gives_the_same_theta_on_any_number_of_devices(slow_results: dict[str, Any]) -> None:
    """Between gradient steps the devices meet; what rounds differently, Adam's first steps amplify."""
    assert_alike(slow_results, JOINT, "joint", atol=2e-4)


# What the defaults stand for.


def test_one_cpu_is_one_device() -> None:
    assert devices.resolve(ExecutionConfig(), 5) == ExecutionConfig("single", 1, "map", 1)
    assert devices.resolve(ExecutionConfig("shard_map", 0, "vmap", 5), 5) == ExecutionConfig("shard_map", 1, "vmap", 5)


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        (ExecutionConfig(), ExecutionConfig("shard_map", 3, "vmap", 10)),  # 2, 2 and 1 of the five tasks
        (ExecutionConfig(num_devices=1), ExecutionConfig("single", 1, "vmap", 10)),
        (ExecutionConfig("pmap", 2), ExecutionConfig("pmap", 2, "vmap", 10)),
        (ExecutionConfig("single"), ExecutionConfig("single", 1, "vmap", 10)),
    ],
)
def test_four_gpus(given: ExecutionConfig, resolved: ExecutionConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    assert devices.resolve(given, 5) == resolved


def test_devices_without_work_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 64)
    assert devices.resolve(ExecutionConfig(), 10).num_devices == 10
    assert devices.resolve(ExecutionConfig(num_devices=16), 10).num_devices == 16
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert devices.resolve(ExecutionConfig(), 10).num_devices == 5  # two each; the other three would have none
    assert devices.resolve(ExecutionConfig(), 16).num_devices == 8
    monkeypatch.setattr(jax, "device_count", lambda: 64)
    assert devices.resolve(ExecutionConfig(), 1) == ExecutionConfig("single", 1, "map", 1)
    monkeypatch.setattr(jax, "process_count", lambda: 4)  # which all take part
    assert devices.resolve(ExecutionConfig(), 10).num_devices == 64


CORES = """
import jax
from mrlato_jax.learning import devices
devices.use_cores()
print(devices.cores(), jax.device_count())
"""


@pytest.mark.parametrize(
    ("environment", "devices_of"),
    [
        ({}, lambda cores: cores),
        pytest.param({"JAX_NUM_CPU_DEVICES": "3"}, lambda _: 3, marks=pytest.mark.slow),
        pytest.param({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, lambda _: 5, marks=pytest.mark.slow),
    ],
)
def test_each_core_is_a_device_unless_the_environment_names_a_number(
    environment: dict[str, str], devices_of: Callable[[int], int]
) -> None:
    bare = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    paths = {"PYTHONPATH": str(HERE.parents[2]), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", CORES]
    ran = subprocess.run(command, env=bare | paths | environment, capture_output=True, text=True, check=True)
    cores, count = map(int, ran.stdout.split())
    assert cores == len(os.sched_getaffinity(0))
    assert count == devices_of(cores)


UNEVEN = """
import os, sys
from mrlato_jax.learning import devices
if int(sys.argv[1]):
    devices._PATIENCE = dict.fromkeys(devices._PATIENCE, int(sys.argv[1]))
devices.use_cores()
import jax, jax.numpy as jnp
from jax.sharding import PartitionSpec
def share(x):
    steps = jnp.where(jax.lax.axis_index(devices.AXIS) == 0, int(sys.argv[2]), 1)
    return jax.lax.psum(jax.lax.fori_loop(0, steps, lambda _, x: jnp.sin(x), x).sum(), devices.AXIS)
run = jax.shard_map(share, mesh=devices.mesh(2), in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)
jax.jit(run)(jnp.ones(2**20)).block_until_ready()
"""


@pytest.mark.slow
def test_devices_of_a_host_wait_for_each_other() -> None:
    """XLA ends the process where one waits longer than its patience; ours outlasts any task."""

    def ended(patience: int, steps: int) -> int:
        environment = {**os.environ, "PYTHONPATH": str(HERE.parents[2]), "JAX_PLATFORMS": "cpu"}
        environment |= {"JAX_NUM_CPU_DEVICES": "2", "XLA_FLAGS": ""}
        command = [sys.executable, "-c", UNEVEN, str(patience), str(steps)]
        return subprocess.run(command, env=environment, capture_output=True, check=False, timeout=300).returncode

    assert ended(1, 10) == 0
    assert ended(1, 10_000) != 0  # what the flags are for
    assert ended(0, 10_000) == 0


def test_what_training_leaves_is_bound_to_no_device() -> None:
    """Else adapting would compile twice: its optimiser's first state is bound to none."""
    execution = ExecutionConfig("shard_map", 1, "map", 1)
    placed = devices.place({"w": jax.numpy.ones(3), "key": jax.random.key(0)}, execution)
    fetched = devices.fetch(placed, execution)
    assert fetched["w"].committed
    free = devices.unbound(fetched)
    assert not jax.numpy.asarray(free["w"]).committed
    assert jax.random.key_data(free["key"]).tolist() == jax.random.key_data(jax.random.key(0)).tolist()


def test_more_devices_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="num_devices is 99; accepted: at most 1"):
        devices.resolve(ExecutionConfig(num_devices=99), 5)
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match="num_devices is 4; accepted: 0 or, with several processes, all 8"):
        devices.resolve(ExecutionConfig(num_devices=4), 5)


def main(cases: str, out: str) -> None:
    """Two iterations of two seeds in each layout, to an archive."""
    import jax.numpy as jnp
    import tiny_run
    from test_outer import step_of_task_and_key

    from mrlato_jax.learning import outer
    from mrlato_jax.training.experiments import training_pools

    assert jax.device_count() == NUM_DEVICES
    policy = dataclasses.replace(tiny_run.POLICY, units=8)
    learning = dataclasses.replace(tiny_run.LEARNING, meta_batch=TASKS, inner_steps=2)
    (pool,) = training_pools(tiny_run.dataset(train=TASKS + 1), policy, "paper")
    found: dict[str, Any] = {}

    def flat(tree: Any) -> np.ndarray:
        return np.concatenate([np.asarray(leaf).reshape(len(SEEDS), -1) for leaf in jax.tree.leaves(tree)], axis=1)

    def run(
        prefix: str, case: tuple[int, str, str], start: outer.LearnerState, learning: LearningConfig = learning
    ) -> None:
        execution = devices.resolve(ExecutionConfig(case[1], case[0], case[2]), len(SEEDS) * TASKS)
        start = jax.tree.map(jnp.copy, start)
        found[f"{prefix}/start"] = flat(start.params)
        program = outer.iteration_program(policy, learning, execution)
        states, placed = devices.place(start, execution), devices.place(pool, execution)
        for _ in range(2):
            states, metrics = program(states, placed)
        for what, tree in (("theta", states.params), ("metrics", metrics)):
            found[f"{prefix}/{name(case)}/{what}"] = flat(jax.device_get(devices.fetch(tree, execution)))

    for case in REAL if cases == "slow" else []:
        run("real", case, outer.init_states(policy, learning, SEEDS))
    joint = dataclasses.replace(learning, meta_update="joint")
    for case in JOINT if cases == "slow" else []:
        run("joint", case, outer.init_states(policy, joint, SEEDS), joint)
    jax.clear_caches()
    outer.pmapped_iteration.cache_clear()
    outer.inner_adapt = step_of_task_and_key
    theta = {"w": jnp.array([[0.3, -0.2, 1.0], [0.1, 0.5, 0.4]]), "b": jnp.array([[0.1], [0.2]])}
    optimizer = jax.vmap(outer.outer_optimizer(learning).init)(theta)
    states = outer.LearnerState(theta, optimizer, jnp.zeros(2, jnp.int32), jax.random.split(jax.random.key(0)))
    for case in {"quick": CHEAP, "slow": [CHEAP[0], *SLOW_CHEAP]}[cases]:
        run("cheap", case, states)
    np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
