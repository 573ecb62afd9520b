"""The transfers of a plan take what the simulator says, never overlap on a link, and cost its energy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from wider import KINDS, Kind, random_case

import mrlato_jax as mj
from mrlato_jax.mec.transfers import Transfer, transfers

EXACT = {"rel": 1e-9, "abs": 1e-12}


@pytest.mark.parametrize("kind", [*KINDS, Kind(5, "resident", "separate", pinned=True)], ids=str)
def test_transfers_explain_the_schedule(kind: Kind) -> None:
    """Replayed from them alone, each task ends when the simulator says, at the energy that it says."""
    rng = np.random.default_rng(9)
    for number in range(20):
        case = random_case(rng, kind, int(rng.integers(1, 9)), exact=number % 2 == 0)
        graph, system, edge = case.graph, case.system, case.edge
        schedule = mj.simulate(graph, system, case.sites, case.order)
        found = transfers(graph, system, np.array(case.sites), np.array(case.order), schedule)
        free, ends = [0.0] * system.num_sites, [0.0] * graph.num_tasks
        for task in case.order:
            site = case.sites[task]
            ready = max((one.end for one in found if one.needed_by == task and one.target == site), default=0.0)
            if kind.channel != "resident":  # what is at the UE is sent from there
                back = {one.task: one.end for one in found if one.target == 0}
                results = [back.get(parent, ends[parent]) for parent in case.dag.parents()[task]]
                ready = max([ready, *(results if site == 0 else [ends[p] for p in case.dag.parents()[task]])])
            seconds = case.dag.cycles[task] / (edge.vm_hz[site - 1] if site else edge.ue_hz)
            free[site] = ends[task] = max(free[site], ready) + seconds
            assert ends[task] == pytest.approx((schedule.vm_end if site else schedule.ue_end)[task], **EXACT)
        busy = {link: sum(one.end - one.start for one in found if one.link == link) for link in ("uplink", "downlink")}
        compute_w, send_w, receive_w, idle_w = edge.power
        computing = sum(case.dag.cycles[task] / edge.ue_hz for task, site in enumerate(case.sites) if site == 0)
        joules = compute_w * computing + send_w * busy["uplink"] + receive_w * busy["downlink"]
        assert joules + idle_w * schedule.makespan == pytest.approx(schedule.energy, **EXACT)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.channel in ("paper", "resident")], ids=str)
def test_a_link_serves_one_after_the_other(kind: Kind) -> None:
    rng = np.random.default_rng(10)
    met = set()
    for _ in range(20):
        case = random_case(rng, kind, 8)
        schedule = mj.simulate(case.graph, case.system, case.sites, case.order)
        found = transfers(case.graph, case.system, np.array(case.sites), np.array(case.order), schedule)
        links: dict[tuple[str, int], list[Transfer]] = {}
        for one in found:
            server = max(one.source, one.target) if kind.radio == "separate" and one.link != "backhaul" else 0
            links.setdefault((one.link, server), []).append(one)
        for served in links.values():
            assert all(before.end <= after.start * (1 + 1e-12) for before, after in pairwise(served))
        met |= {link for link, _ in links}
    assert met == {"uplink", "downlink"} | ({"backhaul"} if kind.channel == "resident" and kind.servers > 1 else set())


def test_a_result_goes_once_to_each_site() -> None:
    """Task 0 on the UE; 1 and 2 on server 1 need its result, 3 on server 2 as well, 4 on the UE that of 1."""
    graph = mj.TaskGraph.from_edges(
        cycles=[1.0] * 5, upload_bytes=[9.0] * 5, download_bytes=[1.0, 2.0, 3.0, 4.0, 5.0],
        edges=[(0, 1), (0, 2), (0, 3), (1, 4)],
    )  # fmt: skip
    system = mj.System(1.0, [1.0, 1.0], [8.0, 16.0], [8.0, 16.0], "resident", backhaul_bps=8.0)
    sites, order = np.array([0, 1, 1, 2, 0]), np.arange(5)
    found = transfers(graph, system, sites, order, mj.simulate(graph, system, sites, order))
    assert found == [
        Transfer(0, 1, 0, 1, 1.0, 2.0),  # one byte at one byte a second, once 0 is computed
        Transfer(2, 2, 1, 0, 4.0, 7.0),  # 2 is computed after 1, from 3 to 4, and nothing needs its result
        Transfer(0, 3, 0, 2, 2.0, 2.5),
        Transfer(3, 3, 2, 0, 7.0, 9.0),  # behind it on the one downlink
        Transfer(1, 4, 1, 0, 9.0, 11.0),
    ]
