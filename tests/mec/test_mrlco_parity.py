"""Parity with MRLCO's public code: values computed by it, kept beside (never in) this repository."""

from __future__ import annotations

import itertools

import numpy as np
import oracle
import pytest
from helpers import PEER, PEER_MEC, actions_of, peer_records, read_peer_dag, to_graph, to_system

import mrlato_jax as mj

PRESET_OF = {"makespan_code": "mrlco_code", "makespan_mrlco": "mrlco", "makespan_paper": "paper"}


@pytest.fixture(scope="module")
def records():
    return peer_records()


@pytest.fixture(scope="module")
def peer_dags(records):
    paths = {(r["set"], r["file"]): PEER / "dot" / r["set"] / r["file"] for r in records}
    return {key: read_peer_dag(path) for key, path in paths.items()}


def test_the_records_are_all_there(records) -> None:
    assert len(records) == 300
    assert len({tuple(r["placement"]) for r in records}) > 50


@pytest.mark.parametrize("field", PRESET_OF)
def test_simulate_in_the_recorded_order(records, peer_dags, field: str) -> None:
    """Public float64 simulation, all 300 records."""
    mec = PEER_MEC._replace(channel=PRESET_OF[field])
    system = to_system(mec)
    for record in records:
        dag = peer_dags[record["set"], record["file"]]
        assert oracle.is_linear_extension(dag, record["order"])
        assert oracle.simulate(dag, mec, record["placement"], record["order"]).makespan == pytest.approx(
            record[field], rel=1e-12, abs=0
        )
        schedule = mj.simulate(to_graph(dag), system, record["placement"], order=record["order"])
        assert schedule.makespan == pytest.approx(record[field], rel=1e-12, abs=0)


def test_presets_differ_on_these_records(records) -> None:
    for a, b in itertools.combinations(PRESET_OF, 2):
        assert sum(abs(r[a] - r[b]) > 1e-6 * r[b] for r in records) > 100


def test_priority_order_by_mrlcos_rank(records, peer_dags) -> None:
    """Its order is ours wherever ranks are distinct; it leaves the order of equal ranks to an unstable sort."""
    compared = 0
    for (name, file), dag in peer_dags.items():
        recorded = next(r["order"] for r in records if (r["set"], r["file"]) == (name, file))
        ranks = np.array(oracle.ranks(dag, PEER_MEC, "min"))
        assert (np.diff(ranks[recorded]) <= 0).all()
        ours = mj.priority_order(to_graph(dag), to_system(PEER_MEC), rank="min").tolist()
        assert oracle.is_linear_extension(dag, ours)
        np.testing.assert_array_equal(ranks[ours], ranks[recorded])
        if len(set(ranks)) == len(ranks):
            assert ours == recorded
            compared += 1
    assert compared > 30


@pytest.mark.parametrize("field", PRESET_OF)
def test_batched_core(records, peer_dags, field: str) -> None:
    """Float32, in our priority order, wherever that is the recorded one."""
    system = to_system(PEER_MEC._replace(channel=PRESET_OF[field]))
    chosen = []
    for record in records:
        graph = to_graph(peer_dags[record["set"], record["file"]])
        if mj.priority_order(graph, system).tolist() == record["order"]:
            chosen.append((graph, record))
    assert len(chosen) > 150
    width = max(len(record["order"]) for _, record in chosen)
    arrays = mj.pack([graph for graph, _ in chosen], system)
    actions = np.array([actions_of(r["order"], r["placement"], width) for _, r in chosen], np.int32)
    np.testing.assert_allclose(mj.makespan(arrays, actions), [r[field] for _, r in chosen], rtol=1e-5)


def test_read_dot_reads_its_files(peer_dags) -> None:
    """Sizes, edges (some files repeat one) and 1-based names; a byte costs one of MRLCO's cycles."""
    for (name, file), dag in itertools.islice(peer_dags.items(), 0, None, 6):
        graph = mj.read_dot(PEER / "dot" / name / file, cycles_per_byte=1.0)
        got = mj.simulate(graph, to_system(PEER_MEC), np.arange(dag.num_tasks) % 2)
        order = oracle.priority_order(dag, PEER_MEC)
        want = oracle.simulate(dag, PEER_MEC, [t % 2 for t in range(dag.num_tasks)], order)
        assert got.makespan == pytest.approx(want.makespan, rel=1e-12)
        assert list(graph.names) == [str(task + 1) for task in range(dag.num_tasks)]
