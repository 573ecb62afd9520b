"""The transfers of a plan take what the simulator says, share a link as it says, and cost the energy that it says."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from wider import KINDS, Case, Kind, random_case

import mrlato_jax as mj
from mrlato_jax.mec.transfers import Transfer, link_of, transfers

FIVE = Kind(5, "resident", "separate", pinned=True)
EXACT = {"rel": 1e-9, "abs": 1e-12}


def of(case: Case) -> tuple[mj.Schedule, list[Transfer]]:
    schedule = mj.simulate(case.graph, case.system, case.sites, case.order)
    return schedule, transfers(case.graph, case.system, np.array(case.sites), np.array(case.order), schedule)


@pytest.mark.parametrize("kind", [*KINDS, FIVE], ids=str)
def test_transfers_explain_the_schedule(kind: Kind) -> None:
    """With the ends of transfers, and one queue a site, each task ends when the simulator says."""
    rng = np.random.default_rng(9)
    for number in range(20):
        case = random_case(rng, kind, int(rng.integers(1, 9)), exact=number % 2 == 0)
        schedule, sent = of(case)
        parents, edge = case.dag.parents(), case.edge
        home = {one.task: one.end for one in sent if one.target == 0}
        free, ends = [0.0] * (kind.servers + 1), [0.0] * case.dag.num_tasks
        for task in case.order:
            site = case.sites[task]
            came = [one.end for one in sent if one.needed_by == task and one.target == site]
            if kind.channel == "resident" and site:
                assert max(came, default=0.0) == pytest.approx(schedule.upload_end[task], **EXACT)
            if kind.channel != "resident":  # all results are at the UE
                came += [ends[parent] if site else home.get(parent, ends[parent]) for parent in parents[task]]
            seconds = case.dag.cycles[task] / (edge.vm_hz[site - 1] if site else edge.ue_hz)
            free[site] = ends[task] = max(free[site], *came, 0.0) + seconds
            assert ends[task] == pytest.approx((schedule.vm_end if site else schedule.ue_end)[task], **EXACT)
        last = [home.get(task, end) for task, end in enumerate(ends)]
        if kind.channel == "resident":
            last = [last[task] for task, children in enumerate(case.dag.children()) if not children]
        assert schedule.makespan == pytest.approx(max(last), **EXACT)
        busy = {way: sum(one.end - one.start for one in sent if way(one)) for way in (goes_up, comes_down)}
        compute_w, send_w, receive_w, idle_w = edge.power
        computing = sum(case.dag.cycles[task] / edge.ue_hz for task, site in enumerate(case.sites) if site == 0)
        joules = compute_w * computing + send_w * busy[goes_up] + receive_w * busy[comes_down]
        assert joules + idle_w * schedule.makespan == pytest.approx(schedule.energy, **EXACT)


def goes_up(one: Transfer) -> bool:
    return one.source == 0


def comes_down(one: Transfer) -> bool:
    return one.target == 0


@pytest.mark.parametrize("kind", [*KINDS, FIVE], ids=str)
def test_what_is_sent_exists_and_is_needed(kind: Kind) -> None:
    rng = np.random.default_rng(10)
    for _ in range(20):
        case = random_case(rng, kind, 8)
        schedule, sent = of(case)
        parents = case.dag.parents()
        for one in sent:
            is_input = one.task == one.needed_by and one.source == 0
            assert case.sites[one.task] == (one.target if is_input else one.source)
            computed = (schedule.vm_end if case.sites[one.task] else schedule.ue_end)[one.task]
            assert is_input or one.start >= computed * (1 - 1e-12)
            assert one.needed_by == one.task or (
                one.task in parents[one.needed_by] and case.sites[one.needed_by] == one.target
            )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.channel == "paper"], ids=str)
def test_a_link_serves_one_after_the_other(kind: Kind) -> None:
    rng = np.random.default_rng(10)
    for _ in range(20):
        case = random_case(rng, kind, 8)
        links: dict[str, list[Transfer]] = {}
        for one in of(case)[1]:
            links.setdefault(link_of(case.system, one.source, one.target), []).append(one)
        for served in links.values():
            assert all(before.end <= after.start * (1 + 1e-12) for before, after in pairwise(served))


def test_a_result_goes_once_to_each_site() -> None:
    """Task 0 on the UE; 1 and 2 on server 1 need its result, 3 on server 2 as well, 4 on the UE that of 1."""
    graph = mj.TaskGraph.from_edges(
        cycles=[1.0] * 5, upload_bytes=[9.0] * 5, download_bytes=[1.0, 2.0, 3.0, 4.0, 5.0],
        edges=[(0, 1), (0, 2), (0, 3), (1, 4)],
    )  # fmt: skip
    system = mj.System(1.0, [1.0, 1.0], [8.0, 16.0], [8.0, 16.0], "resident", backhaul_bps=8.0)
    sites, order = np.array([0, 1, 1, 2, 0]), np.arange(5)
    assert transfers(graph, system, sites, order, mj.simulate(graph, system, sites, order)) == [
        Transfer(0, 1, 0, 1, 1.0, 2.0),  # one byte at one byte a second, once 0 is computed
        Transfer(2, 2, 1, 0, 4.0, 7.0),  # 2 is computed after 1, from 3 to 4, and nothing needs its result
        Transfer(0, 3, 0, 2, 2.0, 2.5),
        Transfer(3, 3, 2, 0, 7.0, 9.0),  # behind it on the one downlink
        Transfer(1, 4, 1, 0, 9.0, 11.0),
    ]


def test_servers_share_one_backhaul() -> None:
    """Results of servers 1 and 2 are ready at 2 and both go to server 3, at half a byte a second, one after the other.

    The radios are separate, so that the inputs do not wait for each other.
    """
    graph = mj.TaskGraph.from_edges(
        cycles=[1.0, 1.0, 1.0], upload_bytes=[1.0, 1.0, 1.0], download_bytes=[1.0, 2.0, 1.0], edges=[(0, 2), (1, 2)]
    )
    system = mj.System(1.0, [1.0] * 3, [8.0] * 3, [8.0] * 3, "resident", "separate", 4.0)
    sites, order = np.array([1, 2, 3]), np.arange(3)
    assert transfers(graph, system, sites, order, mj.simulate(graph, system, sites, order)) == [
        Transfer(0, 0, 0, 1, 0.0, 1.0),
        Transfer(1, 1, 0, 2, 0.0, 1.0),
        Transfer(0, 2, 1, 3, 2.0, 4.0),
        Transfer(1, 2, 2, 3, 4.0, 8.0),
        Transfer(2, 2, 3, 0, 9.0, 10.0),
    ]


def test_where_results_return_each_task_has_its_own() -> None:
    graph = mj.TaskGraph.from_edges(
        cycles=[1.0, 1.0], upload_bytes=[1.0, 1.0], download_bytes=[2.0, 1.0], edges=[(0, 1)]
    )
    system, sites, order = mj.System(1.0, 1.0, 8.0, 8.0), np.array([1, 1]), np.arange(2)
    assert transfers(graph, system, sites, order, mj.simulate(graph, system, sites, order)) == [
        Transfer(0, 0, 0, 1, 0.0, 1.0),
        Transfer(0, 0, 1, 0, 2.0, 4.0),
        Transfer(1, 1, 0, 1, 4.0, 5.0),
        Transfer(1, 1, 1, 0, 6.0, 7.0),
    ]
