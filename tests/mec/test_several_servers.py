"""Several servers, pins, results that stay and energy, against the oracle and by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import oracle
import pytest
from helpers import quickly, random_dag, random_mec, random_order, random_placement, to_graph, to_system
from wider import KINDS, Kind, random_case

import mrlato_jax as mj


@pytest.mark.parametrize("kind", [*KINDS, Kind(5, "resident", "separate", pinned=True)], ids=str)
def test_makespan_and_energy_are_the_oracles(kind: Kind) -> None:
    rng = np.random.default_rng(1)
    for number in range(60):
        case = random_case(rng, kind, int(rng.integers(1, 9)), exact=number % 2 == 0)
        got, want = (
            mj.simulate(case.graph, case.system, case.sites, case.order),
            oracle.outcome(case.dag, case.edge, case.sites, case.order),
        )
        assert got.makespan == pytest.approx(want.makespan, rel=1e-12, abs=1e-300)
        assert got.energy == pytest.approx(want.energy, rel=1e-12, abs=1e-300)
        placed = np.array(case.sites)
        computed = np.where(placed > 0, got.vm_end, got.ue_end)
        children = case.dag.children()
        home = [placed[task] > 0 and not children[task] for task in range(case.dag.num_tasks)]
        ends = np.where(home if kind.channel == "resident" else placed > 0, got.download_end, computed)
        np.testing.assert_allclose(ends, want.result_end, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("channel", oracle.CHANNELS)
def test_both_oracles_agree_on_one_server(channel: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(60):
        dag, mec = random_dag(rng, int(rng.integers(1, 12))), random_mec(rng, channel)
        order, sites = random_order(rng, dag), random_placement(rng, dag.num_tasks)
        edge = oracle.Edge(mec.ue_hz, (mec.vm_hz,), (mec.uplink_bps,), (mec.downlink_bps,), channel)
        want = oracle.simulate(dag, mec, sites, order).makespan
        assert oracle.outcome(dag, edge, sites, order).makespan == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("kind", quickly(KINDS[:4], KINDS[0], KINDS[3]), ids=str)
def test_many_plans_on_a_device(kind: Kind) -> None:
    rng = np.random.default_rng(3)
    cases = [random_case(rng, kind, n) for n in (3, 8, 5)]
    arrays = mj.pack(
        [case.graph for case in cases], [case.system for case in cases], orders=[case.order for case in cases]
    )
    actions = np.zeros(arrays.mask.shape, int)
    for row, case in zip(actions, cases, strict=True):
        row[: len(case.order)] = np.array(case.sites)[case.order]
    want = [oracle.outcome(case.dag, case.edge, case.sites, case.order).makespan for case in cases]
    np.testing.assert_allclose(mj.makespan(arrays, actions), want, rtol=1e-5)


@pytest.mark.parametrize("planner", [mj.heft, mj.look_ahead, mj.optimum])
def test_one_server_in_a_list_is_one_server(planner: Callable[..., mj.Plan]) -> None:
    rng = np.random.default_rng(4)
    dag, mec = random_dag(rng, 8), random_mec(rng, "paper")
    one = to_system(mec)
    listed = mj.System(mec.ue_hz, [mec.vm_hz], [mec.uplink_bps], [mec.downlink_bps], radio="separate")
    assert planner(to_graph(dag), one).makespan == planner(to_graph(dag), listed).makespan


def test_a_resident_result_by_hand() -> None:
    """A chain of three: the input goes up once, the results stay, one result comes back."""
    graph = mj.TaskGraph.from_edges(
        cycles=[4.0, 8.0, 4.0], upload_bytes=[2.0, 9.0, 9.0], download_bytes=[3.0, 3.0, 1.0], edges=[(0, 1), (1, 2)]
    )
    power = mj.Power(compute_w=1.0, send_w=10.0, receive_w=100.0, idle_w=1000.0)
    given: dict[str, Any] = {"ue_hz": 1.0, "vm_hz": 4.0, "uplink_bps": 8.0, "downlink_bps": 4.0, "power": power}
    stays, returns = mj.System(channel="resident", **given), mj.System(channel="paper", **given)
    # Up 2, then 1 + 2 + 1 on the VM, down 2.
    away = mj.simulate(graph, stays, [1, 1, 1])
    assert away.makespan == 2 + 4 + 2
    assert away.energy == 10 * 2 + 100 * 2 + 1000 * 8
    assert away.upload_end.tolist() == [2, 0, 0]
    assert away.download_end.tolist() == [0, 0, 8]
    # The middle one on the UE: its parent's result comes down for 6, its own goes up for 3.
    back = mj.simulate(graph, stays, [1, 0, 1])
    assert back.makespan == 2 + 1 + 6 + 8 + 3 + 1 + 2
    assert back.energy == 8 + 10 * (2 + 3) + 100 * (6 + 2) + 1000 * back.makespan
    assert mj.simulate(graph, returns, [1, 1, 1]).makespan == (2 + 1 + 6) + (9 + 2 + 6) + (9 + 1 + 2)


def test_what_two_servers_need_is_moved_once_each() -> None:
    """Task 0 runs on server 1; three others need it: on server 2 twice, and on the UE."""
    graph = mj.TaskGraph.from_edges(
        cycles=[1.0, 1.0, 1.0, 1.0],
        upload_bytes=[1.0] * 4,
        download_bytes=[2.0, 0, 0, 0],
        edges=[(0, 1), (0, 2), (0, 3)],
    )
    system = mj.System(
        1.0, [1.0, 1.0], [8.0, 8.0], [4.0, 4.0], "resident", backhaul_bps=2.0, power=mj.Power(0, 1.0, 1.0, 0)
    )
    got = mj.simulate(graph, system, [1, 2, 2, 0], order=[0, 3, 1, 2])
    # Up 1, VM 1: at 2. Over the backhaul for 8: at 10; then 1 and 1 on server 2. Down for 4: at 6, and 1 on the UE.
    assert got.vm_end.tolist() == [2, 11, 12, 0]
    assert got.ue_end[3] == 7
    assert got.makespan == 12
    assert got.energy == 1 + 4  # the input up, one result down


@pytest.mark.parametrize("channel", ["mrlco", "mrlco_code"])
def test_a_server_waits_for_what_another_computes(channel: str) -> None:
    """(8): uploads take no time, each VM 10 s, and the child is on the other server."""
    graph = mj.TaskGraph.from_edges(
        cycles=[10.0, 10.0], upload_bytes=[0.0, 0.0], download_bytes=[0.0, 0.0], edges=[(0, 1)]
    )
    system = mj.System(1.0, [1.0, 1.0], 8.0, 8.0, channel)
    assert mj.simulate(graph, system, [1, 2]).makespan == 20


def test_priorities_are_of_the_fastest_server() -> None:
    rng = np.random.default_rng(5)
    graph = to_graph(random_dag(rng, 9))
    fast = mj.System(vm_hz=20e9, uplink_bps=20e6, downlink_bps=20e6)
    both = mj.System(vm_hz=[1e9, 20e9], uplink_bps=[1e6, 20e6], downlink_bps=[1e6, 20e6])
    assert mj.priority_order(graph, fast).tolist() == mj.priority_order(graph, both).tolist()


def test_packed_under_a_traced_system() -> None:
    rng = np.random.default_rng(6)
    for kind in (Kind(2, "resident", pinned=True), Kind(3, "paper")):
        case = random_case(rng, kind, 7)
        want = jax.tree.map(lambda leaf: leaf[0], mj.pack([case.graph], case.system))
        got = jax.jit(mj.arrays)(mj.pack_graph(case.graph), case.system)
        assert jax.tree.structure(got) == jax.tree.structure(want)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, want)


def test_a_gradient_by_a_servers_rate() -> None:
    graph = mj.TaskGraph.from_edges(cycles=[1e7], upload_bytes=[1e5], download_bytes=[0.0], edges=[])
    packed = mj.pack_graph(graph)
    for channel in ("paper", "resident"):
        system = mj.System(vm_hz=[1e9, 2e9], uplink_bps=[7e6, 14e6], downlink_bps=[7e6, 7e6], channel=channel)
        slope = jax.jit(jax.grad(lambda system: mj.makespan(mj.arrays(packed, system), np.array([2]))))(system)
        assert [float(part) for part in slope.uplink_bps] == pytest.approx([0, -8e5 / 14e6**2], rel=1e-5)


CHAIN = mj.TaskGraph.from_edges(
    cycles=[1.0] * 2, upload_bytes=[1.0] * 2, download_bytes=[1.0] * 2, edges=[(0, 1)], pins=["ue", "server"]
)
TWO = mj.System(vm_hz=[1e9, 2e9])


@pytest.mark.parametrize(
    ("call", "phrase"),
    [
        (lambda: mj.System(vm_hz=[]), r"System.vm_hz has 0 values; accepted: a number, or 1 to 64"),
        (lambda: mj.System(vm_hz=[1e9, -1.0]), r"System.vm_hz\[1\] is -1.0; accepted: a finite number in \(0, inf\)"),
        (lambda: mj.System(uplink_bps=[1.0, float("nan")]), r"System.uplink_bps\[1\] is nan"),
        (
            lambda: mj.System(vm_hz=[1e9, 2e9], uplink_bps=[1.0] * 3),
            "different numbers of servers: vm_hz has 2, uplink_bps has 3; accepted: equally many",
        ),
        (lambda: mj.System(radio="both"), "System.radio is 'both'; accepted: shared, separate"),
        (lambda: mj.System(backhaul_bps=0), "System.backhaul_bps is 0; accepted"),
        (lambda: mj.System(power=5), "System.power is 5; accepted: a Power"),  # type: ignore[arg-type]
        (lambda: mj.Power(send_w=-1), r"Power.send_w is -1; accepted: a finite number in \[0, inf\)"),
        (lambda: mj.Power(idle_w=float("inf")), "Power.idle_w is inf"),
        (lambda: mj.Objective(energy_weight=-0.5), "Objective.energy_weight is -0.5; accepted"),
        (lambda: mj.Objective(deadline_s=0), "Objective.deadline_s is 0; accepted"),
        (lambda: mj.Objective(0.5, 1.0), "energy_weight is 0.5 with a deadline; accepted: 0"),
        (lambda: mj.simulate(CHAIN, TWO, [1, 1]), r"placement\[0\] is 1, but pins\[0\] is 'ue'; accepted: 0, the UE"),
        (
            lambda: mj.simulate(CHAIN, TWO, [0, 0]),
            r"placement\[1\] is 0, but pins\[1\] is 'server'; accepted: a ser",
        ),
        (lambda: mj.simulate(CHAIN, TWO, [0, 3]), r"placement\[1\] is 3; accepted: 2 integers 0 \(local\) to 2"),
        (
            lambda: mj.makespan(mj.pack([CHAIN], TWO), np.array([[1, 1]])),
            r"actions\[0, 0\] is 1, against the task's pin",
        ),
        (lambda: mj.pack([CHAIN, CHAIN], [TWO, mj.System()]), r"system\[1\] has num_servers 1; accepted: 2"),
        (
            lambda: mj.TaskGraph.from_edges(cycles=[1], upload_bytes=[1], download_bytes=[1], edges=[], pins=["phone"]),
            r"pins\[0\] is 'phone'; accepted: any, ue, server",
        ),
        (
            lambda: mj.TaskGraph.from_edges(
                cycles=[1], upload_bytes=[1], download_bytes=[1], edges=[], pins=["ue", "ue"]
            ),
            "accepted: 1 of any, ue, server, one per task",
        ),
    ],
)
def test_what_is_wrong_is_named(call: Any, phrase: str) -> None:
    with pytest.raises(mj.InputError, match=phrase):
        call()


def test_default_powers() -> None:
    """Computing is kappa f^3, with 10^-27 and not 1^-27."""
    power = mj.Power()
    assert power.compute_w == pytest.approx(1e-27 * 1e9**3)
    assert (power.send_w, power.receive_w, power.idle_w) == (1.3, 1.2, 0.0)
