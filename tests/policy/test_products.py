"""How precisely the network multiplies: `NetworkConfig.matmul`."""

from __future__ import annotations

import re
from functools import partial
from typing import Any, NamedTuple

import by_hand
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import mrlato_jax as mj
from mrlato_jax.config import MATMULS, LearningConfig, NetworkConfig
from mrlato_jax.learning import rollout
from mrlato_jax.learning.learning_task import LearningTask, learning_task
from mrlato_jax.learning.losses import inner_loss
from mrlato_jax.policy.decode import Decisions
from mrlato_jax.policy.products import product

LEARNING = LearningConfig(rollouts=3)
SHAPES = {"a dense layer": ((5, 7, 19), (19, 11)), "attention": ((2, 3, 5, 19), (2, 3, 19, 7))}
GRADIENTS = {  # to the left, to the right operand
    "a dense layer": ("abn,kn->abk", "abk,abn->kn"),
    "attention": ("ghmn,ghkn->ghmk", "ghmk,ghmn->ghkn"),
}


def policy_of(matmul: str) -> NetworkConfig:
    return NetworkConfig(decoder_input="task_sim", units=32, heads=2, layers=1, matmul=matmul)


def to_bfloat16(array: Any) -> np.ndarray:
    """Rounds float32 to nearest, ties to even, by its bits; then float64, in which every sum below is exact enough."""
    bits = np.asarray(array, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("kind", SHAPES)
def test_bfloat16_rounds_operands_and_nothing_else(kind: str) -> None:
    """Forward and backward: sums and gradients are as exact as float32 is."""
    rng = np.random.default_rng(0)
    lhs, rhs = (rng.normal(size=shape).astype(np.float32) for shape in SHAPES[kind])
    got, pull = jax.vjp(partial(product, "bfloat16"), lhs, rhs)
    near = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(got, to_bfloat16(lhs) @ to_bfloat16(rhs), **near)
    assert abs(got - lhs.astype(np.float64) @ rhs).max() > 1e-3  # rounding shows
    gradient = rng.normal(size=got.shape).astype(np.float32)
    to_lhs, to_rhs = pull(gradient)
    assert got.dtype == to_lhs.dtype == to_rhs.dtype == np.float32
    x, w, g = (to_bfloat16(array) for array in (lhs, rhs, gradient))
    np.testing.assert_allclose(to_lhs, np.einsum(GRADIENTS[kind][0], g, w), **near)
    np.testing.assert_allclose(to_rhs, np.einsum(GRADIENTS[kind][1], x, g), **near)


@pytest.mark.parametrize("matmul", ["float32", "tf32"])
def test_float32_on_this_machine(matmul: str) -> None:
    rng = np.random.default_rng(1)
    for kind, shapes in SHAPES.items():
        lhs, rhs = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
        got, pull = jax.vjp(partial(product, matmul), lhs, rhs)
        np.testing.assert_allclose(got, lhs.astype(np.float64) @ rhs, rtol=1e-5, atol=1e-5)
        gradient = rng.normal(size=got.shape).astype(np.float32)
        to_lhs, to_rhs = pull(gradient)
        np.testing.assert_allclose(to_lhs, np.einsum(GRADIENTS[kind][0], gradient, rhs), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(to_rhs, np.einsum(GRADIENTS[kind][1], lhs, gradient), rtol=1e-5, atol=1e-4)


class Case(NamedTuple):
    """What one setting makes of the same trajectories, whose actions float32 sampled."""

    decisions: Decisions
    gradient: Any  # of the loss (27)


@pytest.fixture(scope="module")
def task() -> LearningTask:
    rng = np.random.default_rng(2)
    return learning_task([mj.daggen(n, 0.6, 0.6, rng) for n in (20, 12, 5)], mj.System(), policy_of("float32"))


@pytest.fixture(scope="module")
def params() -> Any:
    """Far from their initial values, at which both actions are equally likely whatever is multiplied."""
    shapes = jax.eval_shape(partial(rollout.init_params, policy_of("float32")), jax.random.key(0))
    rng = np.random.default_rng(3)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        scale = 0.5 if leaf.ndim < 2 else 2 / np.sqrt(leaf.shape[0])
        return jnp.asarray(rng.normal(0, scale, leaf.shape), jnp.float32)

    return jax.tree.map(draw, shapes)


def loss_and_decisions(matmul: str, batch: Any, task: LearningTask, params: Any) -> tuple[jax.Array, Decisions]:
    decisions = by_hand.score(policy_of(matmul), params, task, batch.actions)
    return inner_loss(LEARNING, batch, decisions)[0], decisions


@pytest.fixture(scope="module")
def batch(task: LearningTask, params: Any) -> Any:
    return jax.jit(lambda p: by_hand.collect(policy_of("float32"), LEARNING, p, task, jax.random.key(4))[0])(params)


@pytest.fixture(scope="module")
def cases(task: LearningTask, params: Any, batch: Any) -> dict[str, Case]:
    found = {}
    for matmul in ("float32", "bfloat16"):
        gradient = jax.jit(jax.grad(partial(loss_and_decisions, matmul, batch, task), has_aux=True))
        found[matmul] = Case(*gradient(params)[::-1])
    return found


@pytest.mark.slow
def test_bfloat16_scores_agree_with_float32(task: LearningTask, cases: dict[str, Case]) -> None:
    """Within 0.02, and not exactly."""
    exact, rounded = cases["float32"].decisions, cases["bfloat16"].decisions
    valid = np.broadcast_to(task.dags.mask[:, None], exact.actions.shape)
    assert abs(exact.log_probs[valid] - np.log(0.5)).max() > 0.1  # the policy has opinions
    for name in ("log_probs", "values", "entropies"):
        got, want = (getattr(decisions, name)[valid] for decisions in (rounded, exact))
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, atol=0.02, rtol=0, err_msg=name)
        assert abs(got - want).max() > 1e-5


def test_bfloat16_gradients_point_the_same_way(cases: dict[str, Case]) -> None:
    """As a whole, and for each array of parameters."""
    exact, rounded = cases["float32"].gradient, cases["bfloat16"].gradient

    def cosine(a: Any, b: Any) -> float:
        a, b = ravel_pytree(a)[0], ravel_pytree(b)[0]
        return float(a @ b / (jnp.linalg.norm(a) * jnp.linalg.norm(b)))

    assert all(np.isfinite(leaf).all() and leaf.dtype == np.float32 for leaf in jax.tree.leaves(rounded))
    assert cosine(rounded, exact) > 0.999
    assert min(jax.tree.leaves(jax.tree.map(cosine, rounded, exact))) > 0.99


@pytest.mark.slow
def test_scoring_a_sampled_trajectory_in_bfloat16_gives_what_sampling_gave(task: LearningTask, params: Any) -> None:
    """So that the ratio (24) starts at one."""
    policy = policy_of("bfloat16")
    sampled = jax.jit(lambda p: rollout.sample(policy, p, task, jax.random.key(5), 3))(params).decisions
    scored = jax.jit(lambda p: by_hand.score(policy, p, task, sampled.actions))(params)
    valid = np.broadcast_to(task.dags.mask[:, None], sampled.actions.shape)
    # A sum that another program takes in another order may round an operand to its other neighbour.
    np.testing.assert_allclose(scored.log_probs[valid], sampled.log_probs[valid], atol=1e-3)
    np.testing.assert_allclose(scored.values[valid], sampled.values[valid], atol=1e-3)


@pytest.mark.parametrize("matmul", MATMULS)
def test_every_product_says_how_precise_it_is(matmul: str, task: LearningTask, params: Any, batch: Any) -> None:
    """In the program for an NVIDIA GPU, of the loss and its gradient, where float32 would else be TF32."""
    traced = jax.jit(jax.grad(partial(loss_and_decisions, matmul, batch, task), has_aux=True)).trace(params)
    program = traced.lower(lowering_platforms=("cuda",)).as_text()
    lines = [line for line in program.splitlines() if "stablehlo.dot_general" in line]
    assert len(lines) > 30
    types = {tuple(re.findall(r"x(f32|bf16)>", line.rpartition(" : ")[2])) for line in lines}
    precisions = set(re.findall(r"precision = \[(\w+, \w+)\]", "\n".join(lines)))
    if matmul == "bfloat16":
        assert types == {("bf16", "bf16", "f32")}
    else:
        assert types == {("f32", "f32", "f32")}
        assert precisions == {"HIGHEST, HIGHEST" if matmul == "float32" else "HIGH, HIGH"}
        assert all("precision = [" in line for line in lines)
