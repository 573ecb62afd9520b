"""Policies that judge options one by one: any number of servers, results that stay, pins and energy."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import quickly
from oracle import outcome
from wider import Case, Kind, random_case

import mrlato_jax as mj
from mrlato_jax.config import NetworkConfig
from mrlato_jax.environment import features
from mrlato_jax.errors import InputError
from mrlato_jax.learning import rollout
from mrlato_jax.learning.learning_task import LearningTask, learning_task
from mrlato_jax.learning.rollout import Trajectories
from mrlato_jax.mec import latency

SIZES, ROLLOUTS, WEIGHT = (6, 3, 1, 5), 8, 0.5
TINY: dict[str, Any] = {"servers": "any_servers", "units": 16, "heads": 2, "layers": 1, "neighbours": "pooled"}


class Setting(NamedTuple):
    """A kind of system, and what the policy is like."""

    kind: Kind
    energy: bool
    decides: str = "placement"
    decoder_input: str = "lookahead"


SETTINGS = [
    Setting(Kind(3, "resident", pinned=True), True),
    Setting(Kind(2, "resident", pinned=True), False, "order"),
    Setting(Kind(2, "paper", "separate", pinned=True), False, decoder_input="task_sim"),
    Setting(Kind(1, "resident"), True),
    Setting(Kind(3, "paper", pinned=True), True, "order"),
    Setting(Kind(2, "mrlco"), False, "order", "task_sim"),
]


def named(setting: Setting) -> str:
    return "-".join(map(str, (*setting.kind, *setting[1:])))


without_looking_ahead = pytest.mark.parametrize("met", quickly(SETTINGS, SETTINGS[2]), indirect=True, ids=named)


class Met(NamedTuple):
    """A policy far from its initial one, a few applications on systems of one kind, and what it samples on them."""

    setting: Setting
    network: NetworkConfig
    params: Any
    cases: list[Case]
    objective: mj.Objective
    task: LearningTask
    trajectories: Trajectories

    def followed(self, graph: int, actions: np.ndarray) -> tuple[list[int], list[int]]:
        """Order and sites, by task id, that actions [N] of a DAG mean."""
        n, sites = SIZES[graph], self.setting.kind.servers + 1
        ids = np.asarray(self.task.dags.order)[graph]
        positions, chosen = np.arange(n), actions[:n]
        if self.setting.decides == "order":
            positions, chosen = np.divmod(chosen, sites)
        order = ids[positions].tolist()
        placement = [0] * n
        for task, site in zip(order, chosen.tolist(), strict=True):
            placement[task] = site
        return order, placement


def packed(cases: list[Case], network: NetworkConfig, objective: mj.Objective, size: int | None = None) -> LearningTask:
    graphs, systems = [case.graph for case in cases], [case.system for case in cases]
    return learning_task(graphs, systems, network, size, objective)


def random_params(network: NetworkConfig, seed: int = 1) -> Any:
    like = jax.eval_shape(partial(rollout.init_params, network), jax.random.key(0))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0.1, 0.5, leaf.shape), jnp.float32), like)


@pytest.fixture(scope="module", params=quickly(SETTINGS, *SETTINGS[:3]), ids=named)
def met(request: pytest.FixtureRequest) -> Met:
    setting: Setting = request.param
    network = NetworkConfig(**TINY, decides=setting.decides, decoder_input=setting.decoder_input)
    rng, params = np.random.default_rng(1), random_params(network)
    cases = [random_case(rng, setting.kind, n) for n in SIZES]
    objective = mj.Objective(energy_weight=WEIGHT if setting.energy else 0.0)
    task = packed(cases, network, objective)
    sampled = jax.jit(lambda: rollout.sample(network, params, task, jax.random.key(2), ROLLOUTS))()
    return Met(setting, network, params, cases, objective, task, sampled)


def test_trajectories_cost_what_the_oracle_says_and_keep_to_the_pins(met: Met) -> None:
    met_sites = set()
    for graph, case in enumerate(met.cases):
        for row, cost in zip(
            np.asarray(met.trajectories.decisions.actions)[graph],
            np.asarray(met.trajectories.costs)[graph],
            strict=True,
        ):
            order, sites = met.followed(graph, row)
            found = outcome(case.dag, case.edge, sites, order)
            assert cost == pytest.approx(met.objective.cost(found.makespan, found.energy), rel=1e-5)
            for pin, site in zip(case.pins, sites, strict=True):
                assert pin == "any" or (site > 0) == (pin == "server")
            met_sites.update(sites)
    assert met_sites == set(range(met.setting.kind.servers + 1))


@without_looking_ahead
def test_deviations_keep_to_the_pins(met: Met) -> None:
    """A task that has one site left deviates nowhere."""
    tried = jax.jit(lambda: rollout.deviate(met.network, met.params, met.task, jax.random.key(1), max(SIZES)))()
    different = 0
    for graph, case in enumerate(met.cases):
        own = met.followed(graph, np.asarray(tried.own.decisions.actions)[graph, 0])
        for row in np.asarray(tried.others.decisions.actions)[graph]:
            order, sites = met.followed(graph, row)
            different += (order, sites) != own
            for pin, site in zip(case.pins, sites, strict=True):
                assert pin == "any" or (site > 0) == (pin == "server")
    assert different


@without_looking_ahead
def test_padding_changes_no_decision(met: Met) -> None:
    wide = packed(met.cases, met.network, met.objective, 9)
    sampled = jax.jit(lambda: rollout.sample(met.network, met.params, wide, jax.random.key(2), ROLLOUTS))()
    mask = np.asarray(met.task.dags.mask)[:, None]
    cut = np.asarray(sampled.decisions.actions)[..., : max(SIZES)]
    np.testing.assert_array_equal(np.where(mask, cut, 0), np.where(mask, met.trajectories.decisions.actions, 0))
    np.testing.assert_allclose(sampled.costs, met.trajectories.costs, rtol=1e-5)


@without_looking_ahead
def test_servers_in_another_order_are_the_same_servers(met: Met) -> None:
    """The plan of the permuted system is the permuted plan: an option is judged by what it is, not by its number."""
    if met.setting.kind.servers == 1:
        pytest.skip("one server has one order")
    turned = [
        case._replace(
            edge=case.edge._replace(
                vm_hz=case.edge.vm_hz[::-1],
                uplink_bps=case.edge.uplink_bps[::-1],
                downlink_bps=case.edge.downlink_bps[::-1],
            )
        )
        for case in met.cases
    ]
    decode = jax.jit(lambda task: rollout.decode_greedily(met.network, met.params, task))
    actions, costs = decode(met.task)
    turned_actions, turned_costs = decode(packed(turned, met.network, met.objective))
    np.testing.assert_allclose(turned_costs, costs, rtol=1e-5)
    servers = met.setting.kind.servers
    for graph in range(len(SIZES)):
        order, sites = met.followed(graph, np.asarray(actions)[graph])
        turned_order, turned_sites = met.followed(graph, np.asarray(turned_actions)[graph])
        assert turned_order == order
        assert turned_sites == [site and servers + 1 - site for site in sites]


def test_options_are_told_what_the_oracle_says() -> None:
    """Ends and costs of the last task at each site, after a prefix; and the best outcome is the least of all."""
    rng = np.random.default_rng(7)
    for kind in (Kind(3, "resident", pinned=True), Kind(2, "paper", "separate")):
        case = random_case(rng, kind, 6)
        arrays = mj.pack([case.graph], case.system, orders=[case.order], objective=mj.Objective(energy_weight=WEIGHT))
        dag = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), arrays)
        sites = np.array(case.sites)[case.order]
        tasks, scale = jax.jit(lambda dag: (latency.tasks(dag), features.time_scale(dag)))(dag)

        def of(position: int, dag: mj.DagArrays = dag, tasks: latency.Task = tasks) -> latency.Task:
            return jax.tree.map(lambda leaf: leaf[position], tasks)

        queues, step = jax.jit(latency.empty_queues)(dag), jax.jit(latency.step)
        for position in range(5):
            queues, _ = step(dag, queues, of(position), jnp.asarray(sites[position]))
        task = of(5)
        tell = jax.jit(
            lambda dag, queues, task, scale=scale: features.option_features(
                dag, scale, queues, task, latency.candidate_ends(dag, queues, task)
            )
        )
        told = np.asarray(tell(dag, queues, task))
        so_far = float(queues.makespan)
        assert told.shape == (kind.servers + 1, features.OPTION_FEATURES)
        assert told[:, 0].tolist() == [1.0] + [0.0] * kind.servers
        last = case.order[5]
        spent_before = float(queues.spent)
        for site in range(kind.servers + 1):
            pin = case.pins[last]
            assert told[site, 1] == (pin == "any" or (site > 0) == (pin == "server"))
            moved = [*case.sites]
            moved[last] = site
            found = outcome(case.dag, case.edge, moved, case.order)
            assert told[site, 7] * float(scale) + so_far == pytest.approx(found.result_end[last], rel=1e-4)
            spent = WEIGHT * (found.energy - case.edge.power[3] * found.makespan)
            paid = told[site, 8] * float(features.cost_scale(dag, scale))
            assert paid == pytest.approx(spent - spent_before, rel=1e-3, abs=1e-5)


def test_the_worse_outcome_is_told_in_hundredths() -> None:
    told = features.option_lookahead_features(
        jnp.float32(2.0), jnp.float32(1.0), jnp.float32(4.0), jnp.asarray([4.0, 4.02, jnp.inf], jnp.float32)
    )
    np.testing.assert_allclose(told, [[0, 1.5], [np.log(2.0), 1.5], [0, 1.5]], rtol=1e-3)


def test_a_network_that_sees_no_simulator_cannot_judge_options() -> None:
    with pytest.raises(
        InputError, match=r"decoder_input is task with servers=any_servers, .*; accepted: task_sim, loo"
    ):
        NetworkConfig(servers="any_servers", decoder_input="task")


def test_several_servers_are_refused_by_a_network_of_one() -> None:
    with pytest.raises(InputError, match=r"the systems have 2 servers; accepted: 1 \('general'"):
        learning_task([mj.daggen(3, 0.5, 0.5, np.random.default_rng(0))], mj.System(vm_hz=[1e9, 2e9]), NetworkConfig())
