"""`mj.train`: meta-training on given sets in one call."""

from __future__ import annotations

import inspect
import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax import methods
from mrlato_jax.config import ExecutionConfig, LearningConfig, NetworkConfig
from mrlato_jax.inference import meta_training
from mrlato_jax.learning import devices
from mrlato_jax.learning.learning_task import learning_task, stack, take
from mrlato_jax.learning.meta_batch import TaskPool
from mrlato_jax.learning.outer import init_states, iteration_program

NETWORK = {"units": 8, "heads": 2, "layers": 1, "neighbour_width": 8, "decoder_input": "task_sim"}
LEARNING = {"inner_steps": 1, "rollouts": 2, "graphs_per_task": 2, "inner_lr": 1e-2, "outer_lr": 1e-3}


def draw_set(num_tasks: int, seed: int) -> list[mj.TaskGraph]:
    rng = np.random.default_rng([num_tasks, seed])
    return [mj.daggen(num_tasks, 0.6, 0.6, rng) for _ in range(3)]


SETS = [draw_set(4, 0), draw_set(5, 0)]


def test_is_the_meta_iteration_again_and_again(tmp_path: Path) -> None:
    """Two seeds in one program: the same parameters as the loop written out; the policy plans and is kept."""
    shown = io.StringIO()
    trained = mj.train(
        SETS, method="mrlato", iterations=3, network=NETWORK, learning=LEARNING, seed=[0, 5], progress=shown
    )
    own = methods.learned_method("mrlato")
    network, learning = NetworkConfig(**NETWORK), LearningConfig(**LEARNING, meta_batch=2)
    tasks = [learning_task(graphs, mj.System(), network, 5) for graphs in SETS]
    pool = TaskPool(jax.tree.map(lambda leaf: leaf[:, None], stack(tasks)), (4, 5))
    states = init_states(network, learning, [0, 5])
    iterate = iteration_program(network, learning, devices.resolve(ExecutionConfig(), 4))
    curves = []
    for _ in range(3):
        states, metrics = iterate(states, pool)
        curves.append(np.asarray(metrics.inner.latency / metrics.inner.heft - 1))
    for index, (policy, curve) in enumerate(trained):
        for a, b in zip(jax.tree.leaves(policy.params), jax.tree.leaves(take(states.params, index)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(curve.above_heft, np.array(curves)[:, index], rtol=1e-4, atol=1e-6)
        assert len(curve.entropy) == len(curve.value_explained) == 3
        assert policy.network == network
        assert policy.learning == learning
        assert policy.iteration == 3
    assert shown.getvalue().splitlines()[-1].startswith("meta-training 3/3 100%")
    policy = trained[0].policy
    assert policy.label == own.label(own.config(iterations=3, network=network, learning=learning))
    (plan,) = policy.plan(SETS[0][:1], mj.System())
    loaded = mj.load_offloader(policy.save(tmp_path / "mine"))
    assert loaded.plan(SETS[0][0], mj.System()).placement.tolist() == plan.placement.tolist()
    assert loaded.ranges == policy.ranges
    assert dict((name, (low, high)) for name, low, high in policy.ranges)["tasks"] == (4, 5)


def test_imitates_first(capsys: pytest.CaptureFixture[str]) -> None:
    """Demonstrations all alike, all tasks local: enough imitation, and one small outer step after it, plans just so."""
    local = [[mj.all_local(graph, mj.System()) for graph in graphs] for graphs in SETS]
    trained = mj.train(
        SETS, method="mrlato", iterations=1, network=NETWORK, learning=LEARNING, imitation=40,
        imitation_learning={"inner_lr": 0.03, "graphs_per_task": 2}, plans=local, seed=[0, 5], progress=False,
    )  # fmt: skip
    for policy, curve in trained:  # of the seeds of the test above, so that their program serves again
        assert all(not plan.placement.any() for plan in policy.plan(SETS[1], mj.System()))
        assert len(curve.latency_s) == 1
        assert "warm_start_iterations=40" in policy.label
    assert capsys.readouterr().err == ""


def test_every_argument_is_known_to_type_checkers() -> None:
    names = inspect.signature(mj.train).parameters.keys()
    assert meta_training.TrainingOptions.__annotations__.keys() == names - {"sets", "system", "seed"}


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({"sets": []}, r"sets is \[\]; accepted: a sequence of sets"),
        ({"sets": [SETS[0], SETS[1][:2]]}, r"sets\[1\] has 2 graphs, sets\[0\] 3"),
        ({"sets": [[1]]}, r"sets\[0\]\[0\] is 1"),
        ({"system": [mj.System()]}, "system is .*accepted: a System, or 2 of them, one for each set"),
        ({"system": [mj.System(), mj.System(channel="mrlco")]}, r"system\[1\] has channel 'mrlco'"),
        ({"method": "mine"}, "method is 'mine'; accepted: mrlato, "),
        ({"iterations": 0}, "iterations is 0"),
        ({"network": {"unit": 8}}, r"unknown names \['unit'\]"),
        ({"network": NETWORK | {"units": 7}}, "heads is 2"),
        ({"learning": {"meta_batch": 3}}, "meta_batch is 3; accepted: at most 2"),
        ({"learning": {"graphs_per_task": 4}}, "graphs_per_task is 4"),
        ({"objective": mj.Objective(deadline_s=1.0)}, "objective is "),
        ({"objective": mj.Objective(energy_weight=1.0)}, "objective is .*any_servers"),
        ({"seed": []}, r"seed is \[\]"),
        ({"seed": -1}, "seed is -1"),
        ({"imitation": -1}, "imitation is -1"),
        ({"imitation": 1, "plans": [[], []]}, "plans has sets of .* accepted: 2 sets of 3"),
        ({"imitation": 1, "plans": [[mj.heft(SETS[0][0], mj.System())] * 3] * 2}, "plans"),
    ],
)
def test_refuses(changes: dict[str, Any], phrase: str) -> None:
    arguments = {"sets": SETS, "method": "mrlato", "iterations": 1, "network": NETWORK, "progress": False} | changes
    with pytest.raises(mj.InputError, match=phrase):
        mj.train(arguments.pop("sets"), **arguments)
