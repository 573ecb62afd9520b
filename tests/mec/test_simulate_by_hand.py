"""Small applications worked out by hand, with a different rate for each of the four servers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from helpers import assert_schedule, to_graph, to_system
from oracle import CHANNELS, Dag, Mec

import mrlato_jax as mj
from mrlato_jax.mec import latency

# Times in seconds by task id:   T_ue        T_m         T_ul        T_dl
#                             8 12 4 16    2 3 1 4     3 5 2 4     1 2 3 1
COSTS = ([8.0, 12.0, 4.0, 16.0], [3.0, 5.0, 2.0, 4.0], [2.0, 4.0, 6.0, 2.0])
MEC = Mec(ue_hz=1.0, vm_hz=4.0, uplink_bps=8.0, downlink_bps=16.0)
CHAIN = Dag(*COSTS, edges=[(0, 1), (1, 2), (2, 3)])
FORK = Dag(*COSTS, edges=[(0, 1), (0, 2), (0, 3)])
DIAMOND = Dag(*COSTS, edges=[(0, 1), (0, 2), (1, 3), (2, 3)])
IN_ORDER = [0, 1, 2, 3]

# (name, dag, channel, placement): upload_end, vm_end, download_end, ue_end
BY_HAND = [
    # An upload waits for the link and for the parent's result to be back: 6 + 5 = 11, 16 + 2 = 18, 22 + 4 = 26.
    ("chain", CHAIN, "paper", [1, 1, 1, 1], [3, 11, 18, 26], [5, 14, 19, 30], [6, 16, 22, 31], [0, 0, 0, 0]),
    # Parent 0 is back at 6. Uploads queue: 11, 13, 17. VM: 14; max(14, 13) + 1 = 15; max(15, 17) + 4 = 21.
    # Downloads queue: 16; max(16, 15) + 3 = 19; max(19, 21) + 1 = 22.
    ("fork", FORK, "paper", [1, 1, 1, 1], [3, 11, 13, 17], [5, 14, 15, 21], [6, 16, 19, 22], [0, 0, 0, 0]),
    # As the fork up to task 3, which waits for both parents to be back: 19 + 4 = 23, + 4 = 27, + 1 = 28.
    ("diamond", DIAMOND, "paper", [1, 1, 1, 1], [3, 11, 13, 23], [5, 14, 15, 27], [6, 16, 19, 28], [0, 0, 0, 0]),
    # Task 1 on the device: 6 + 12 = 18. Task 2 uploads at 18: 20, 21, 24. Task 3 at 24: 28, 32, 33.
    ("chain", CHAIN, "paper", [1, 0, 1, 1], [3, 0, 20, 28], [5, 0, 21, 32], [6, 0, 24, 33], [0, 18, 0, 0]),
    # Task 2 uploads at 6: 8, 9, 12. Task 3 uploads after it: 12, 16, 17. Task 1 on the device until 18.
    ("fork", FORK, "paper", [1, 0, 1, 1], [3, 0, 8, 12], [5, 0, 9, 16], [6, 0, 12, 17], [0, 18, 0, 0]),
    # Task 3 waits for task 1 on the device: 18 + 4 = 22, + 4 = 26, + 1 = 27.
    ("diamond", DIAMOND, "paper", [1, 0, 1, 1], [3, 0, 8, 22], [5, 0, 9, 26], [6, 0, 12, 27], [0, 18, 0, 0]),
    # MRLCO: an upload waits for the link and the parent's upload only: 3, 8, 10, 14.
    # VM: 5; max(5, 8) + 3 = 11; max(11, 10) + 1 = 12; max(12, 14) + 4 = 18. Each download starts at once.
    ("chain", CHAIN, "mrlco", [1, 1, 1, 1], [3, 8, 10, 14], [5, 11, 12, 18], [6, 13, 15, 19], [0, 0, 0, 0]),
    # Task 2 uploads at 18: 20, 21, 24. Task 3 uploads at 20, not at 24: 24, 28, 29.
    ("chain", CHAIN, "mrlco", [1, 0, 1, 1], [3, 0, 20, 24], [5, 0, 21, 28], [6, 0, 24, 29], [0, 18, 0, 0]),
    # Task 2 uploads at 3: 5, 6, 9. Task 3: 9, max(6, 9) + 4 = 13, 14.
    ("fork", FORK, "mrlco", [1, 0, 1, 1], [3, 0, 5, 9], [5, 0, 6, 13], [6, 0, 9, 14], [0, 18, 0, 0]),
    ("diamond", DIAMOND, "mrlco", [1, 0, 1, 1], [3, 0, 5, 22], [5, 0, 6, 26], [6, 0, 9, 27], [0, 18, 0, 0]),
    # A task on the device does wait for an offloaded parent's download, in every channel: 6 + 12 = 18, + 4, + 16.
    ("chain", CHAIN, "paper", [1, 0, 0, 0], [3, 0, 0, 0], [5, 0, 0, 0], [6, 0, 0, 0], [0, 18, 22, 38]),
    ("chain", CHAIN, "mrlco", [1, 0, 0, 0], [3, 0, 0, 0], [5, 0, 0, 0], [6, 0, 0, 0], [0, 18, 22, 38]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "dag", "channel", "placement", "upload", "vm", "download", "ue"),
    BY_HAND,
    ids=[f"{name}-{channel}-{''.join(map(str, placement))}" for name, _, channel, placement, *_ in BY_HAND],
)
def test_hand_drawn(name, dag, channel, placement, upload, vm, download, ue) -> None:
    want = oracle.Result(*([float(v) for v in ends] for ends in (upload, vm, download, ue)), max(*download, *ue))
    mec = MEC._replace(channel=channel)
    assert oracle.simulate(dag, mec, placement, IN_ORDER) == want
    assert_schedule(mj.simulate(to_graph(dag), to_system(mec), placement, order=IN_ORDER), want)


def test_hand_drawn_in_priority_order() -> None:
    """The batched core, each graph in its own order: the fork's is 0, 1, 3, 2 since rank 3 (9 s) > rank 2 (6 s)."""
    graphs, system = [to_graph(dag) for dag in (CHAIN, FORK, DIAMOND)], to_system(MEC)
    assert [mj.priority_order(graph, system).tolist() for graph in graphs] == [IN_ORDER, [0, 1, 3, 2], IN_ORDER]
    arrays = mj.pack(graphs, system)
    # Fork, all offloaded: uploads 3, 11, 15, 17; VM 5, 14, 19, 20; downloads 6, 16, 20, 23.
    np.testing.assert_array_equal(mj.makespan(arrays, np.ones((3, 4), np.int32)), [31.0, 23.0, 28.0])
    np.testing.assert_array_equal(mj.makespan(arrays, np.zeros((3, 4), np.int32)), [40.0, 40.0, 40.0])
    for graph, want in zip(graphs, (31.0, 23.0, 28.0), strict=True):
        assert mj.simulate(graph, system, [1, 1, 1, 1]).makespan == want


def test_ranks_by_hand() -> None:
    # total: t = 6, 10, 6, 9. min(T_ue, t) = 6, 10, 4, 9. Fork: 0, then by own rank.
    graph, system = to_graph(FORK), to_system(MEC)
    assert mj.priority_order(graph, system, rank="total").tolist() == [0, 1, 3, 2]
    # A fast device: T_ue = 1, 1.5, 0.5, 2 s turns tasks 1 and 3 round in MRLCO's rank only.
    fast = to_system(MEC._replace(ue_hz=8.0))
    assert mj.priority_order(graph, fast, rank="total").tolist() == [0, 1, 3, 2]
    assert mj.priority_order(graph, fast, rank="min").tolist() == [0, 3, 1, 2]


@pytest.mark.parametrize(("channel", "want"), [("paper", 14.0), ("mrlco", 13.0), ("mrlco_code", 10.0)])
def test_two_entry_tasks_tell_the_channels_apart(channel: str, want: float) -> None:
    # T_ul = 3, 5; T_m = 1, 1; T_dl = 6, 4. Task 0: upload 3, VM 4, download 10, in every channel.
    # paper: upload 8, VM 9, the downlink is free at 10: 14.    mrlco: no downlink queue: 9 + 4 = 13.
    # mrlco_code: task 0 did not occupy the uplink: upload 5, VM 6, 6 + 4 = 10. (The fault in MRLCO's code.)
    dag = Dag([4.0, 4.0], [3.0, 5.0], [12.0, 8.0], edges=[])
    mec = MEC._replace(channel=channel)
    assert oracle.simulate(dag, mec, [1, 1], [0, 1]).makespan == want
    schedule = mj.simulate(to_graph(dag), to_system(mec), [1, 1], order=[0, 1])
    assert schedule.makespan == want
    assert schedule.upload_end.tolist() == ([3.0, 5.0] if channel == "mrlco_code" else [3.0, 8.0])


def test_code_fault_concerns_only_what_entry_tasks_leave_behind() -> None:
    # Entry tasks 0 and 2, task 1 a child of 0. T_ul = 3, 5, 2. Task 1 uploads 3..8 and does occupy the link: 10.
    dag = Dag([4.0, 4.0, 4.0], [3.0, 5.0, 2.0], [0.0, 0.0, 0.0], edges=[(0, 1)])
    mec = MEC._replace(channel="mrlco_code")
    schedule = mj.simulate(to_graph(dag), to_system(mec), [1, 1, 1], order=[0, 1, 2])
    assert schedule.upload_end.tolist() == [3.0, 8.0, 10.0]


def test_all_local_and_all_offload_of_a_single_task() -> None:
    dag = Dag([8.0], [3.0], [2.0], edges=[])
    for channel in CHANNELS:
        graph, system = to_graph(dag), to_system(MEC._replace(channel=channel))
        assert mj.simulate(graph, system, [0]).makespan == 8.0
        assert mj.simulate(graph, system, [1]).makespan == 6.0  # 3 + 2 + 1


@pytest.mark.parametrize(
    ("field", "rate"), [("uplink_bps", 4.0), ("downlink_bps", 4.0), ("vm_hz", 2.0), ("ue_hz", 0.5)]
)
def test_each_rate_acts_on_its_own_server_only(field: str, rate: float) -> None:
    """A single offloaded and a single local task: slowing one server lengthens exactly its term."""
    dag = Dag([8.0, 8.0], [3.0, 3.0], [2.0, 2.0], edges=[])
    schedule = mj.simulate(to_graph(dag), to_system(MEC._replace(**{field: rate})), [1, 0])
    got = (schedule.upload_end[0], schedule.vm_end[0], schedule.download_end[0], schedule.ue_end[1])
    want = {
        "uplink_bps": (6.0, 8.0, 9.0, 8.0),
        "vm_hz": (3.0, 7.0, 8.0, 8.0),
        "downlink_bps": (3.0, 5.0, 9.0, 8.0),
        "ue_hz": (3.0, 5.0, 6.0, 16.0),
    }
    assert got == want[field]


def test_single_dags_are_computed_in_float64_in_their_own_thread() -> None:
    def dtype() -> str:
        return str(jnp.zeros(1).dtype)

    with ThreadPoolExecutor(1) as other:
        with latency.one_by_one():
            assert dtype() == "float64"
            assert other.submit(dtype).result() == "float32"
        assert dtype() == "float32"
        with pytest.raises(ValueError, match="within"), latency.one_by_one():
            raise ValueError("within")
        assert dtype() == "float32"
