"""The policy without JAX: it plans as the JAX one does, and needs neither JAX nor this package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import mrlato_jax as mj
from mrlato_jax.config import NetworkConfig
from mrlato_jax.dag.dataset import data_folder
from mrlato_jax.inference import portable
from mrlato_jax.learning import rollout
from mrlato_jax.planners.lookahead import TOLLS

WEIGHTS = data_folder() / "weights"


def graphs(*sizes: int, seed: int = 0) -> list[mj.TaskGraph]:
    rng = np.random.default_rng(seed)
    return [mj.daggen(size, 0.6, 0.6, rng) for size in sizes]


def portable_plan(policy: portable.Portable, graph: mj.TaskGraph, system: mj.System) -> Any:
    rates = {name: getattr(system, name) for name in ("ue_hz", "vm_hz", "uplink_bps", "downlink_bps")}
    times = portable.task_times(graph.cycles, graph.upload_bytes, graph.download_bytes, **rates)
    return policy.plan(times, graph.edges, system.channel)


def test_rules_are_those_of_the_look_ahead() -> None:
    assert portable.TOLLS == TOLLS
    assert list(portable.CHANNELS) == ["paper", "mrlco", "mrlco_code"]


@pytest.mark.parametrize(
    ("channel", "sizes"),
    [
        ("paper", (1, 2, 10, 20, 30, 50)),
        ("mrlco", (10, 9, 8)),  # other rules: sizes that share one program do
        ("mrlco_code", (10, 9, 8)),
        pytest.param("mrlco", (1, 2, 20, 30, 50), marks=pytest.mark.slow),
        pytest.param("mrlco_code", (1, 2, 20, 30, 50), marks=pytest.mark.slow),
    ],
)
def test_the_weights_that_come_with_the_package_plan_the_same(channel: str, sizes: tuple[int, ...]) -> None:
    policy, system = portable.load(WEIGHTS / "exp2"), mj.System(channel=channel)
    several = graphs(*sizes)
    for graph, plan in zip(several, mj.load_offloader("exp2").plan(several, system), strict=True):
        placement, order, makespan = portable_plan(policy, graph, system)
        assert order == plan.order.tolist()
        assert makespan == pytest.approx(mj.simulate(graph, system, placement).makespan, rel=1e-12)
        assert makespan == pytest.approx(plan.makespan, rel=1e-5)  # a near tie may turn out otherwise in float32
        assert np.mean(placement != plan.placement) < 0.1


SETTINGS = [
    {"decoder_input": shown, "neighbours": near, "task_features": features, "encoder": encoder, "heads": heads}
    for shown, near, features, encoder, heads in (
        ("paper", "listed", "paper", "forward", 2),
        ("task", "pooled", "outlook", "bidirectional", 0),
        ("task_sim", "listed", "outlook", "bidirectional", 2),
        ("lookahead", "pooled", "paper", "forward", 1),
    )
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings["decoder_input"])
def test_every_setting_of_the_network(settings: dict[str, Any]) -> None:
    """Parameters far from their first values, so that none can be left out unnoticed."""
    config = NetworkConfig(**settings, units=16, layers=2, lookahead_rules=3)
    like = jax.eval_shape(lambda key: rollout.init_params(config, key), jax.random.key(0))
    system, several, mixed = mj.System(uplink_bps=9e6, downlink_bps=5e6), graphs(1, 5, 9, 14, 14, 14, seed=1), 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        params = jax.tree.map(lambda leaf: rng.normal(0.0, 0.6, leaf.shape).astype(np.float32), like)  # noqa: B023
        weights = {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()}
        policy = portable.Portable(config.to_json(), weights)
        plans = mj.Offloader(config, params, "random").plan(several, system)
        placements = [portable_plan(policy, graph, system)[0] for graph in several]
        assert placements == [plan.placement.tolist() for plan in plans]
        mixed += sum(len(set(placement)) == 2 for placement in placements)
    assert mixed >= 4  # else what decides is the bias alone


def test_nothing_computes_or_nothing_is_sent() -> None:
    policy, zeros = portable.load(WEIGHTS / "exp2"), np.zeros(3)
    for times in (portable.Times(zeros, zeros, zeros, zeros), portable.Times(zeros, zeros + 1, zeros, zeros)):
        placement, order, makespan = policy.plan(times, [(0, 1)])
        assert sorted(order) == [0, 1, 2]
        assert np.isfinite(makespan)
        assert set(placement) <= {0, 1}


@pytest.mark.parametrize(
    ("edges", "channel", "message"),
    [
        ([(0, 1), (1, 0)], "paper", "edges hold a cycle"),
        ([(0, 3)], "paper", r"edge \(0, 3\) names a task that there is not; accepted: 0 to 2"),
        ([(0, 1), (0, 1)], "paper", "edges hold one twice"),
        ([], "ether", "channel is 'ether'; accepted: paper, mrlco"),
    ],
)
def test_what_it_refuses(edges: Any, channel: str, message: str) -> None:
    times = portable.Times(*(np.ones(3) for _ in range(4)))
    with pytest.raises(ValueError, match=message):
        portable.load(WEIGHTS / "exp2").plan(times, edges, channel)


def test_a_policy_that_chooses_the_order_is_refused() -> None:
    with pytest.raises(ValueError, match="decides is 'order'; accepted"):
        portable.Portable({"decides": "order"}, {})


def copied(folder: Path) -> Path:
    stem = folder / "x"
    for suffix in (".json", ".safetensors"):
        stem.with_suffix(suffix).write_bytes((WEIGHTS / f"exp1{suffix}").read_bytes())
    return stem


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    stem = copied(tmp_path)
    whole, rng = stem.with_suffix(".safetensors").read_bytes(), np.random.default_rng(0)
    for place in [0, 9, len(whole) - 1, *rng.integers(0, len(whole), 20)]:
        spoilt = whole[:place] + bytes([whole[place] ^ 1 << int(rng.integers(8))]) + whole[place + 1 :]
        stem.with_suffix(".safetensors").write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"x\.safetensors is not what x\.json describes"):
            portable.load(stem)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("{", "Expecting property name"),
        ("\xff", "can't decode"),
        ("[]", r"x\.json is \[\]; accepted: a JSON object"),
        ("{}", "is not what .* describes"),
        ("[" * 100_000, "nests too deeply"),
        ('{"a": 1, "a": 2}', "has a name twice"),
    ],
    ids=lambda value: value[:20],
)
def test_a_description_that_is_none(tmp_path: Path, text: str, phrase: str) -> None:
    stem = copied(tmp_path)
    stem.with_suffix(".json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=phrase):
        portable.load(stem)
    stem.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError):
        portable.load(stem)


@pytest.mark.parametrize("config", [None, [], {}, {"policy": 3}])
def test_a_description_without_settings(tmp_path: Path, config: Any) -> None:
    stem = copied(tmp_path)
    text = json.loads(stem.with_suffix(".json").read_text())
    stem.with_suffix(".json").write_text(json.dumps({**text, "config": config}))
    with pytest.raises(ValueError, match=r"config\.policy of x\.json is .*; accepted: a JSON object"):
        portable.load(stem)


WRONG_SETTINGS = {
    "layers": (0, 1, 1_000, 10**9, None, True, 2.0),
    "units": (64, 10**9, 0, -1, "128", None),
    "heads": (7, -1, 10**9, None),
    "neighbour_width": (10**9, 33, 0, None),
    "neighbours": ("none", None, []),
    "encoder": ("backward", {}),
    "decoder_input": ("paper", "none", None, []),
    "lookahead_rules": (0, 6, None),
    "task_features": ("none", None),
}


@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_settings_that_the_weights_do_not_fit(name: str) -> None:
    config = NetworkConfig(decoder_input="lookahead", units=16, heads=4)
    params = rollout.init_params(config, jax.random.key(0))
    arrays = {key: np.asarray(leaf) for key, leaf in flatten_dict(params, sep="/").items()}
    settings = config.to_json()
    portable.Portable(settings, arrays)
    for value in WRONG_SETTINGS[name]:
        with pytest.raises(ValueError, match="; accepted: "):
            portable.Portable({**settings, name: value}, arrays)
    for key in arrays:
        if not key.startswith("params/value_head/"):  # which planning does not need
            with pytest.raises(ValueError, match=r"; accepted: (shape|as many)"):
                portable.Portable(settings, {other: array for other, array in arrays.items() if other != key})


def test_a_copy_of_the_file_needs_numpy_alone(tmp_path: Path) -> None:
    """In a process that can import neither JAX nor flax nor this package."""
    (tmp_path / "portable.py").write_bytes(Path(portable.__file__).read_bytes())
    for suffix in (".json", ".safetensors"):
        (tmp_path / f"exp1{suffix}").write_bytes((WEIGHTS / f"exp1{suffix}").read_bytes())
    (graph,) = graphs(25)
    program = """
import json, sys
for name in ("jax", "jaxlib", "flax", "optax", "chex", "networkx", "absl", "mrlato_jax"):
    sys.modules[name] = None
import portable
cycles, up, down, edges = json.loads(sys.argv[1])
times = portable.task_times(cycles, up, down, ue_hz=1e9, vm_hz=10e9, uplink_bps=7e6, downlink_bps=7e6)
print(json.dumps(portable.load("exp1").plan(times, edges)))
"""
    costs = [values.tolist() for values in (graph.cycles, graph.upload_bytes, graph.download_bytes, graph.edges)]
    ran = subprocess.run(
        [sys.executable, "-c", program, json.dumps(costs)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    placement, _, makespan = json.loads(ran.stdout)
    plan = mj.load_offloader("exp1").plan(graph, mj.System())
    assert placement == plan.placement.tolist()
    assert makespan == pytest.approx(plan.makespan)


def test_measured_times_may_be_lists() -> None:
    lists = portable.Times([1.0, 1, 1], [1.0, 1, 5], [9.0, 1, 1], [1.0, 1, 1])
    arrays = portable.Times(*map(np.array, lists))
    assert portable.priority_order(lists, []) == portable.priority_order(arrays, []) == [0, 2, 1]
    for wrong in (lists._replace(vm=[1.0, 1]), lists._replace(ue=[1.0, -1, 1]), lists._replace(ue=[1.0, np.nan, 1])):
        with pytest.raises(ValueError, match=r"times\.(vm|ue) is .*; accepted: finite seconds >= 0, one for each task"):
            portable.priority_order(wrong, [])
