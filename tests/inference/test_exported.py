"""The exported program decides as the policy does, in a process that has JAX and nothing else of ours."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from wider import Kind, random_case

import mrlato_jax as mj
from mrlato_jax.config import NetworkConfig
from mrlato_jax.inference import exported
from mrlato_jax.learning import rollout

pytest.importorskip("flatbuffers")

SIZE = 8
POLICY = NetworkConfig(decoder_input="lookahead", lookahead_rules=2, units=16, heads=2, layers=1, neighbours="pooled")


@pytest.fixture(scope="module")
def policy() -> mj.Offloader:
    return mj.Offloader(POLICY, rollout.init_params(POLICY, jax.random.key(3)), "random")


@pytest.fixture(scope="module")
def program(policy: mj.Offloader) -> bytes:
    return exported.to_program(policy, SIZE, platforms=("cpu",))


def inputs_of(arrays: mj.DagArrays) -> tuple[np.ndarray, ...]:
    """What a program takes: times of the one server."""
    of_server = (arrays.uplink, arrays.vm, arrays.downlink)
    return arrays.ue, *(times[..., 0] for times in of_server), arrays.parents, arrays.mask


def test_in_a_process_with_jax_alone(policy: mj.Offloader, program: bytes, tmp_path: Path) -> None:
    """One file for any number of DAGs."""
    rng = np.random.default_rng(1)
    names, batches = ("ue", "uplink", "vm", "downlink", "parents", "mask"), {}
    for count in (1, 3):
        graphs = [mj.daggen(int(n), 0.6, 0.6, rng) for n in rng.integers(2, SIZE + 1, count)]
        batches[count] = mj.pack(graphs, mj.System(), num_positions=SIZE)
        np.savez(tmp_path / f"inputs{count}.npz", **dict(zip(names, inputs_of(batches[count]), strict=True)))
    (tmp_path / "policy.jax").write_bytes(program)
    text = f"""
import sys
for name in ("flax", "optax", "chex", "networkx", "absl", "mrlato_jax"):
    sys.modules[name] = None
import jax.export, numpy as np
program = jax.export.deserialize(open("policy.jax", "rb").read())
for count in (1, 3):
    inputs = np.load(f"inputs{{count}}.npz")
    placement, order, spans = program.call(*(inputs[name] for name in {names}))
    np.savez(f"outputs{{count}}.npz", placement=placement, order=order, spans=spans)
"""
    ran = subprocess.run([sys.executable, "-c", text], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    for count, arrays in batches.items():
        outputs = np.load(tmp_path / f"outputs{count}.npz")
        decision = jax.jit(policy.decide)(arrays)
        np.testing.assert_array_equal(outputs["placement"], decision.placement)
        np.testing.assert_array_equal(outputs["order"], np.where(arrays.mask, np.arange(SIZE), -1))
        np.testing.assert_allclose(outputs["spans"], decision.makespan, rtol=1e-5)


def test_one_program_for_several_platforms(policy: mj.Offloader) -> None:
    """On each its own loop: the one whose length is known only on the way is for CPUs."""
    program = jax.export.deserialize(bytearray(exported.to_program(policy, SIZE, platforms=("cpu", "cuda"))))
    assert program.platforms == ("cpu", "cuda")
    arrays = mj.pack([mj.daggen(6, 0.6, 0.6, np.random.default_rng(5))], mj.System(), num_positions=SIZE)
    placement, _, spans = program.call(*inputs_of(arrays))
    ours = jax.jit(policy.decide)(arrays)
    np.testing.assert_array_equal(placement, ours.placement)
    np.testing.assert_allclose(spans, ours.makespan, rtol=1e-5)


@pytest.mark.slow
def test_several_servers_pins_and_energy() -> None:
    """What a program of a wide kind takes comes in the stated order; its pins and prices count."""
    network = dataclasses.replace(POLICY, servers="any_servers")
    like = jax.eval_shape(partial(rollout.init_params, network), jax.random.key(0))
    rng = np.random.default_rng(5)
    params = jax.tree.map(lambda leaf: rng.normal(0.0, 0.5, leaf.shape).astype(np.float32), like)
    policy = mj.Offloader(network, params, "random")
    kind = Kind(2, "resident", pinned=True)
    cases = [random_case(rng, kind, n) for n in (SIZE, 6, SIZE)]
    arrays = mj.pack(
        [case.graph for case in cases],
        [case.system for case in cases],
        num_positions=SIZE,
        objective=mj.Objective(energy_weight=0.5),
    )
    assert arrays.prices is not None
    options: dict[str, Any] = {"num_servers": 2, "pins": True, "energy": True}
    data = exported.to_program(policy, SIZE, "resident", ("cpu",), **options)
    inputs = [arrays.ue, arrays.uplink, arrays.vm, arrays.downlink, arrays.parents, arrays.mask]
    inputs += [arrays.forward, arrays.backhaul, arrays.allowed, np.stack(arrays.prices, axis=1)]
    program = jax.export.deserialize(bytearray(data))
    placement, _, spans = program.call(*inputs)
    ours = policy.decide(arrays)
    np.testing.assert_array_equal(placement, ours.placement)
    np.testing.assert_allclose(spans, ours.makespan, rtol=1e-5)
    assert set(np.unique(placement)) == {0, 1, 2}
    assert np.take_along_axis(arrays.allowed, np.asarray(placement)[..., None], axis=2).all()
    free = np.tile(np.float32([1, 0, 0, 0]), (len(cases), 1))
    assert not np.array_equal(placement, program.call(*inputs[:-1], free)[0])


def test_one_server_with_pins_and_results_that_stay() -> None:
    """Of one server the times have no axis of servers."""
    network = dataclasses.replace(POLICY, decoder_input="task_sim")
    policy = mj.Offloader(network, rollout.init_params(network, jax.random.key(3)), "random")
    data = exported.to_program(policy, SIZE, "resident", ("cpu",), pins=True)
    shapes = [aval.shape[1:] for aval in jax.export.deserialize(bytearray(data)).in_avals]
    assert shapes == [*[(SIZE,)] * 4, (SIZE, SIZE), *[(SIZE,)] * 3, (SIZE, 2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_positions": 0}, "num_positions is 0; accepted: an integer in"),
        ({"num_positions": 4, "channel": "ether"}, "channel is 'ether'; accepted: paper, mrlco, mrlco_code, resident"),
        ({"num_positions": 4, "radio": "two"}, "radio is 'two'; accepted: shared, separate"),
        ({"num_positions": 4, "num_servers": 0}, "num_servers is 0; accepted: an integer in"),
        ({"num_positions": 4, "num_servers": 2}, "num_servers is 2; accepted: 1, which this policy knows"),
        ({"num_positions": 4, "energy": True}, "energy is True; accepted: False, since this policy knows"),
        ({"num_positions": 4, "pins": 1}, "pins is 1; accepted: a bool"),
        ({"num_positions": 4, "platforms": ("abacus",)}, "platforms is 'abacus'; accepted: cpu, cuda, rocm, tpu"),
    ],
)
def test_what_it_refuses(policy: mj.Offloader, options: Any, message: str) -> None:
    with pytest.raises(mj.InputError, match=message):
        exported.to_program(policy, **options)
