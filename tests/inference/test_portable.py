"""The policy without JAX: it plans as the JAX one does, and needs neither JAX nor this package."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from oracle import outcome
from wider import KINDS, Kind, allowed, random_case, random_sites

import mrlato_jax as mj
from mrlato_jax.config import NetworkConfig
from mrlato_jax.dag.dataset import data_folder
from mrlato_jax.environment.rules import ONWARD_TOLLS, TOLLS
from mrlato_jax.inference import portable
from mrlato_jax.learning import rollout
from mrlato_jax.mec.system import CHANNELS, RADIOS

WEIGHTS = data_folder() / "weights"


def graphs(*sizes: int, seed: int = 0) -> list[mj.TaskGraph]:
    rng = np.random.default_rng(seed)
    return [mj.daggen(size, 0.6, 0.6, rng) for size in sizes]


def times_of(graph: mj.TaskGraph, system: mj.System) -> portable.Times:
    rates = {name: getattr(system, name) for name in ("ue_hz", "vm_hz", "uplink_bps", "downlink_bps", "backhaul_bps")}
    return portable.task_times(graph.cycles, graph.upload_bytes, graph.download_bytes, **rates)


def portable_plan(policy: portable.Portable, graph: mj.TaskGraph, system: mj.System, energy_weight: float = 0.0) -> Any:
    return policy.plan(
        times_of(graph, system),
        graph.edges,
        system.channel,
        pins=graph.pins,
        radio=system.radio,
        prices=portable.prices(energy_weight, *dataclasses.astuple(system.power)),
    )


def random_policies(config: NetworkConfig, count: int) -> Iterator[tuple[portable.Portable, mj.Offloader]]:
    """The same policies in both forms, with parameters far from their first values: none can be left out unnoticed."""
    like = jax.eval_shape(partial(rollout.init_params, config), jax.random.key(0))
    for seed in range(count):
        rng = np.random.default_rng(seed)
        params = jax.tree.map(lambda leaf: rng.normal(0.0, 0.6, leaf.shape).astype(np.float32), like)  # noqa: B023
        weights = {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()}
        yield portable.Portable(config.to_json(), weights), mj.Offloader(config, params, "random")


def test_rules_are_those_of_the_package() -> None:
    assert portable.TOLLS == TOLLS
    assert portable.ONWARD_TOLLS == ONWARD_TOLLS
    assert portable.RADIOS == RADIOS
    assert {name: tuple(rules) for name, rules in portable.CHANNELS.items()} == {
        name: tuple(rules) for name, rules in CHANNELS.items()
    }


@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("power", [(), (0.0, 0.0, 0.0, 0.0), (0.7, 1.1, 0.3, 0.2)])
def test_prices_are_those_of_an_objective(weight: float, power: tuple[float, ...]) -> None:
    assert portable.prices(weight, *power) == mj.Objective(weight).prices(mj.Power(*power))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_plans_side_by_side_end_when_the_oracle_says(kind: Kind) -> None:
    """Of any placement, without a network: makespans and joules."""
    rng, count = np.random.default_rng(3), 4
    for number in range(30):
        case = random_case(rng, kind, int(rng.integers(1, 9)), exact=number % 2 == 0)
        placements = np.array([random_sites(rng, case.pins, kind.servers) for _ in range(count)])
        compute_w, send_w, receive_w, idle_w = case.edge.power
        given = portable.problem(
            times_of(case.graph, case.system),
            case.dag.edges,
            kind.channel,
            pins=case.pins,
            radio=kind.radio,
            prices=(idle_w, compute_w, send_w, receive_w),
        )
        assert given.order == mj.priority_order(case.graph, case.system).tolist()
        queues = portable.Queues(given).take([0] * count)
        ends = [queues.place(k, placements[:, task]).result for k, task in enumerate(given.order)]
        for plan, placement in enumerate(placements.tolist()):
            want = outcome(case.dag, case.edge, placement, given.order)
            assert queues.makespan[plan] == pytest.approx(want.makespan, rel=1e-12, abs=1e-300)
            assert queues.cost[plan] == pytest.approx(want.energy, rel=1e-12, abs=1e-300)
            found = [end[plan] for end in ends]
            np.testing.assert_allclose(found, np.array(want.result_end)[given.order], rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize(
    ("channel", "sizes"),
    [
        ("paper", (1, 8, 7, 5)),  # one program
        pytest.param("paper", (2, 9, 10, 20, 30, 50), marks=pytest.mark.slow),
        *(
            pytest.param(other, (1, 2, 8, 9, 10, 20, 30, 50), marks=pytest.mark.slow)
            for other in ("mrlco", "mrlco_code")
        ),
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
    config = NetworkConfig(**settings, units=16, layers=2, lookahead_rules=3)
    system, several, mixed = mj.System(uplink_bps=9e6, downlink_bps=5e6), graphs(1, 5, 8, 8, 8, 8, seed=1), 0
    for policy, offloader in random_policies(config, 8):
        plans = offloader.plan(several, system)
        placements = [portable_plan(policy, graph, system)[0] for graph in several]
        assert placements == [plan.placement.tolist() for plan in plans]
        mixed += sum(len(set(placement)) == 2 for placement in placements)
    assert mixed >= 4  # else what decides is the bias alone


ENERGY_WEIGHT = 3.0
WIDE = [
    (Kind(1, "resident"), False),
    (Kind(3, "paper", pinned=True), False),
    (Kind(3, "resident", pinned=True), True),
    (Kind(2, "resident", "separate"), False),
    (Kind(2, "mrlco"), False),
    (Kind(2, "paper", "separate"), True),
]
TOLD: dict[str, dict[str, Any]] = {
    "lookahead": {"neighbours": "pooled", "task_features": "outlook", "encoder": "bidirectional", "heads": 2},
    "task_sim": {"neighbours": "listed", "task_features": "outlook", "encoder": "forward", "heads": 0},
}
QUICK = ((WIDE[2], "lookahead"), (WIDE[3], "task_sim"))  # each compiles a program of seconds


@pytest.mark.parametrize(
    ("kind", "energy", "shown"),
    [
        pytest.param(*wide, shown, marks=[] if (wide, shown) in QUICK else pytest.mark.slow)
        for shown in TOLD
        for wide in WIDE
    ],
    ids=str,
)
def test_any_number_of_servers(kind: Kind, energy: bool, shown: str) -> None:
    config = NetworkConfig(
        **TOLD[shown], servers="any_servers", decoder_input=shown, lookahead_rules=3, units=16, layers=1
    )
    compare(config, kind, ENERGY_WEIGHT if energy else 0.0)


def test_one_server_with_pins_and_results_that_stay() -> None:
    config = NetworkConfig(**TOLD["lookahead"], decoder_input="lookahead", units=16, layers=1)
    compare(config, Kind(1, "resident", pinned=True), 0.0)


def compare(config: NetworkConfig, kind: Kind, weight: float) -> None:
    """Random policies plan the same in both forms, on applications of one padded size.

    Everything takes time there: two servers on which a free task ends at once are alike but for rounding.
    """
    rng, mixed = np.random.default_rng(2), 0
    cases = [random_case(rng, kind, n) for n in (1, 4, 7, 8, 8, 8, 8, 8)]
    for case in cases:
        for costs, least in zip(case.dag[:3], (3e7, 1e4, 1e4), strict=True):
            costs[:] = [max(cost, least) for cost in costs]
    several, systems = [case.graph for case in cases], [case.system for case in cases]
    for policy, offloader in random_policies(config, 6):
        plans = offloader.plan(several, systems, objective=mj.Objective(energy_weight=weight))
        for case, graph, system, plan in zip(cases, several, systems, plans, strict=True):
            placement, order, makespan = portable_plan(policy, graph, system, weight)
            assert order == plan.order.tolist()
            assert placement == plan.placement.tolist()
            assert makespan == pytest.approx(plan.makespan, rel=1e-12)
            assert allowed(plan, case.pins)
            mixed += len(set(placement)) > 1
    assert mixed >= 8


def test_shipped_policies_keep_pins() -> None:
    policy, rng = portable.load(WEIGHTS / "exp2"), np.random.default_rng(4)
    for channel in ("paper", "resident"):
        case = random_case(rng, Kind(1, channel, pinned=True), 12)
        placement, _, makespan = portable_plan(policy, case.graph, case.system)
        assert len(set(placement)) == 2
        assert makespan == pytest.approx(mj.simulate(case.graph, case.system, placement).makespan, rel=1e-12)


def test_nothing_computes_or_nothing_is_sent() -> None:
    policy, zeros = portable.load(WEIGHTS / "exp2"), np.zeros(3)
    for times in (portable.Times(zeros, zeros, zeros, zeros), portable.Times(zeros, zeros + 1, zeros, zeros)):
        placement, order, makespan = policy.plan(times, [(0, 1)])
        assert sorted(order) == [0, 1, 2]
        assert np.isfinite(makespan)
        assert set(placement) <= {0, 1}


@pytest.mark.parametrize(
    ("edges", "options", "message"),
    [
        ([(0, 1), (1, 0)], {}, "edges hold a cycle"),
        ([(0, 3)], {}, r"edge \(0, 3\) names an unknown task; accepted: 0 to 2"),
        ([(0, 1), (0, 1)], {}, "edges hold an edge twice; accepted: each edge once"),
        ([], {"channel": "ether"}, "channel is 'ether'; accepted: paper, mrlco, mrlco_code, resident"),
        ([], {"channel": "resident"}, r"times\.forward is None; accepted: finite seconds"),
        ([], {"radio": "two"}, "radio is 'two'; accepted: shared, separate"),
        ([], {"pins": ["any"]}, "pins has 1 entries; accepted: 3, one for each task"),
        ([], {"pins": ["any", "ue", "phone"]}, r"pins\[2\] is 'phone'; accepted: any, ue, server"),
        ([], {"prices": (1, 1, 1)}, r"prices is \(1, 1, 1\); accepted: None, or four finite numbers >= 0"),
        ([], {"prices": (1, 1, -1, 1)}, r"prices is \(1, 1, -1, 1\); accepted: None, or four"),
        (
            [],
            {"prices": portable.prices(0.5)},
            "prices is .*; accepted: None, since this policy knows only the makespan",
        ),
    ],
)
def test_what_it_refuses(edges: Any, options: dict[str, Any], message: str) -> None:
    times = portable.Times(*(np.ones(3) for _ in range(4)))
    with pytest.raises(ValueError, match=message):
        portable.load(WEIGHTS / "exp2").plan(times, edges, **options)


def test_several_servers_are_refused_by_a_policy_of_one() -> None:
    times = portable.task_times([1e8], [1e4], [1e4], ue_hz=1e9, vm_hz=[1e10, 3e10], uplink_bps=7e6, downlink_bps=7e6)
    with pytest.raises(ValueError, match="times has 2 servers; accepted: 1, which this policy knows"):
        portable.load(WEIGHTS / "exp2").plan(times, [])


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf, "1", None])
def test_prices_of_what_is_no_weight(weight: Any) -> None:
    with pytest.raises(ValueError, match=r"energy_weight is .*; accepted: a finite number >= 0"):
        portable.prices(weight)


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
    "servers": ("any_servers", "none", None, []),
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


def test_arrays_of_a_policy_for_any_servers() -> None:
    config = NetworkConfig(servers="any_servers", decoder_input="task_sim", units=16, heads=2, layers=1)
    ((policy, _),) = random_policies(config, 1)
    settings, arrays = config.to_json(), policy.weights
    for key, array in arrays.items():
        if not key.startswith("value_head/"):
            with pytest.raises(ValueError, match=r"is missing; accepted: shape|layers is 1 and the weights have 0"):
                portable.Portable(settings, {other: kept for other, kept in arrays.items() if other != key})
            with pytest.raises(ValueError, match=r"is of shape .*; accepted: shape"):
                portable.Portable(settings, {**arrays, key: array[..., :-1]})
    with pytest.raises(ValueError, match="decoder_input is 'task'; accepted: task_sim, lookahead"):
        portable.Portable({**settings, "decoder_input": "task"}, arrays)


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
    for_two = lists._replace(vm=[[9.0, 8], [1, 1], [1, 1]])  # what has no entry for each server holds for both
    assert portable.priority_order(for_two, []) == [0, 2, 1]
    with pytest.raises(ValueError, match=r"times has different numbers of servers, \{'uplink': 1, 'vm': 2\}; accepted"):
        portable.priority_order(for_two._replace(uplink=[[1.0], [1], [5]]), [])
