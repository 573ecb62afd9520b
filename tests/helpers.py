"""Random applications and systems, hypothesis strategies, and the way from the oracle's records to the package's."""

from __future__ import annotations

import _thread
import json
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import oracle
import pytest
from numpy.random import Generator
from oracle import CHANNELS, Dag, Mec

import mrlato_jax as mj
from mrlato_jax.config import DECODER_INPUTS

SHARED = Path(__file__).resolve().parents[2] / "shared"
PEER = SHARED / "peer" / "mrlco"


def quickly(several: Iterable[Any], *quick: Any) -> list[Any]:
    """Parameters of a test: all of `several`, of which those that are not in `quick` are for `make test-slow`."""
    return [pytest.param(each, marks=[] if each in quick else pytest.mark.slow) for each in several]


# One that sees no simulator and one that looks ahead, or the latter alone.
SOME_DECODER_INPUTS = quickly(DECODER_INPUTS, "paper", "lookahead")
LOOKING_AHEAD = quickly(DECODER_INPUTS, "lookahead")
SOME_CHANNELS = quickly(CHANNELS, "paper")
SCHEDULE_FIELDS = ("upload_end", "vm_end", "download_end", "ue_end")

# The units of MRLCO's files (one cycle a byte), and its rank.
PEER_MEC = Mec(ue_hz=2.0**20, vm_hz=10 * 2.0**20, uplink_bps=7 * 2.0**20, downlink_bps=7 * 2.0**20)


def to_graph(dag: Dag) -> mj.TaskGraph:
    return mj.TaskGraph.from_edges(
        cycles=dag.cycles, upload_bytes=dag.upload_bytes, download_bytes=dag.download_bytes, edges=dag.edges
    )


def to_system(mec: Mec) -> mj.System:
    return mj.System(**mec._asdict())


def relabel(dag: Dag, new_id: Sequence[int]) -> Dag:
    """Task `t` becomes `new_id[t]`."""
    old_id = np.argsort(new_id)
    return Dag(
        *([values[old] for old in old_id] for values in dag[:3]),
        edges=[(int(new_id[p]), int(new_id[c])) for p, c in dag.edges],
    )


def random_dag(rng: Generator, num_tasks: int, *, free: float = 0.1) -> Dag:
    """Layered or arbitrary edges, sparse to dense, ids in any order; about `free` of all costs are zero."""
    position = rng.permutation(num_tasks)
    chance = rng.choice([0.0, 0.1, 0.3, 0.6])
    span = int(rng.choice([1, 3, num_tasks]))
    pairs = [(int(p), int(c)) for p in range(num_tasks) for c in range(num_tasks) if position[p] < position[c]]
    edges = [(p, c) for p, c in pairs if position[c] - position[p] <= span and rng.random() < chance]
    costs = [rng.uniform(low, high, num_tasks) * (rng.random(num_tasks) >= free) for low, high in COST_RANGES]
    return Dag(*(values.tolist() for values in costs), edges=edges)


COST_RANGES = ((1e7, 1.67e8), (5e3, 5e4), (2e3, 7e4))  # cycles, upload bytes, download bytes


def random_mec(rng: Generator, channel: str) -> Mec:
    """Up and down rates differ."""
    up, down = rng.uniform(2e6, 22e6, 2)
    return Mec(float(rng.uniform(5e8, 2e9)), float(rng.uniform(4e9, 2e10)), float(up), float(down), channel)


def random_order(rng: Generator, dag: Dag) -> list[int]:
    """A random linear extension."""
    return oracle.take_ready(dag, rng.random(dag.num_tasks).tolist())


def random_placement(rng: Generator, num_tasks: int) -> list[int]:
    return (rng.random(num_tasks) < rng.choice([0.2, 0.5, 0.8, 1.0])).astype(int).tolist()


def placement_of(order: Sequence[int], actions: Sequence[int]) -> list[int]:
    """Actions in scheduling order (perhaps padded) -> placement by task id."""
    placement = [0] * len(order)
    for task, action in zip(order, actions, strict=False):
        placement[int(task)] = int(action)
    return placement


def actions_of(order: Sequence[int], placement: Sequence[int], width: int) -> list[int]:
    """Placement by task id -> actions in scheduling order, padded with zeros to `width`."""
    return [int(placement[task]) for task in order] + [0] * (width - len(order))


@st.composite
def dags(draw: st.DrawFn, max_tasks: int = 6) -> Dag:
    """Small DAGs whose costs are few-bit numbers, zero among them: every time is exact, and ties are frequent."""
    num_tasks = draw(st.integers(1, max_tasks))
    position = draw(st.permutations(range(num_tasks)))
    pairs = [(p, c) for p in range(num_tasks) for c in range(num_tasks) if position[p] < position[c]]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    costs = st.lists(st.integers(0, 3).map(float), min_size=num_tasks, max_size=num_tasks)
    return Dag(draw(costs), draw(costs), draw(costs), edges)


# Powers of two, so that the times of `dags` are exact.
mecs = st.builds(
    Mec,
    ue_hz=st.sampled_from([0.5, 1.0]),
    vm_hz=st.sampled_from([1.0, 4.0]),
    uplink_bps=st.sampled_from([8.0, 16.0]),
    downlink_bps=st.sampled_from([8.0, 32.0]),
    channel=st.sampled_from(CHANNELS),
)


def assert_schedule(got: Any, want: oracle.Result, *, rtol: float = 1e-12) -> None:
    """Every end time and the makespan agree; unused servers are exactly zero."""
    for field in SCHEDULE_FIELDS:
        values = np.asarray(getattr(got, field))
        assert values.dtype == np.float64, f"{field} is {values.dtype}"
        np.testing.assert_allclose(values, getattr(want, field), rtol=rtol, atol=0, err_msg=field)
    assert isinstance(got.makespan, float)
    assert got.makespan == pytest.approx(want.makespan, rel=rtol, abs=0)


def assert_consistent(dag: Dag, mec: Mec, plan: mj.Plan) -> None:
    """What a plan says about itself is what the one simulator and the oracle say about it."""
    graph, system = to_graph(dag), to_system(mec)
    assert np.shape(plan.placement) == np.shape(plan.order) == (dag.num_tasks,)
    assert set(np.asarray(plan.placement).tolist()) <= {0, 1}
    assert oracle.is_linear_extension(dag, plan.order)
    assert isinstance(plan.makespan, float)
    assert plan.makespan == plan.schedule.makespan
    again = mj.simulate(graph, system, plan.placement, order=plan.order)
    for field in SCHEDULE_FIELDS:
        np.testing.assert_array_equal(getattr(plan.schedule, field), getattr(again, field))
    placement, order = np.asarray(plan.placement).tolist(), np.asarray(plan.order).tolist()
    assert_schedule(plan.schedule, oracle.simulate(dag, mec, placement, order))


@contextmanager
def interrupted_soon(seconds: float = 0.5) -> Iterator[None]:
    """Ctrl-C after so long, and again every five seconds; what is done within must end in at most a minute.

    Again, since Python drops the exception where it meets a destructor or a callback of the garbage collector.
    """
    done, began = threading.Event(), time.monotonic()

    def press() -> None:
        wait = seconds
        while not done.wait(wait):
            _thread.interrupt_main()
            wait = 5.0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    keyboard = threading.Thread(target=press, daemon=True)
    keyboard.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
        assert time.monotonic() - began < 60
    finally:
        done.set()
        keyboard.join()
        signal.signal(signal.SIGINT, before)


def read_peer_dag(path: Path) -> Dag:
    """A daggen DOT file by two regular expressions; ids 1..n become 0..n-1, repeated edges are one edge."""
    text = path.read_text()
    nodes = re.findall(r'^\s*(\d+) \[size="(\d+)", alpha="[^"]*", expect_size="(\d+)"\]', text, re.MULTILINE)
    edges = re.findall(r"^\s*(\d+) -> (\d+) ", text, re.MULTILINE)
    assert [int(node) for node, _, _ in nodes] == list(range(1, len(nodes) + 1))
    size = [float(size) for _, size, _ in nodes]
    return Dag(size, size, [float(e) for _, _, e in nodes], sorted({(int(p) - 1, int(c) - 1) for p, c in edges}))


def peer_records() -> list[dict[str, Any]]:
    """The 300 records of MRLCO's public code, or a skip where they are not present."""
    path = PEER / "golden.json"
    if not path.exists():
        pytest.skip(f"needs ../shared/{path.relative_to(SHARED)}, which is not part of the repository")
    return json.loads(path.read_text())
