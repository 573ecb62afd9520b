"""The comparison of adaptation with calibration: what is executed, counted and scored, at tiny sizes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.drawing import png
from mrlato_jax.edge.calibrate import calibrate
from mrlato_jax.edge.simulated import simulated_run
from mrlato_jax.edge.ue import Run
from mrlato_jax.inference.offloader import Offloader
from mrlato_jax.learning.rollout import init_params
from mrlato_jax.results import measured, realities
from mrlato_jax.results.measured import (
    CHOSEN,
    DRL,
    FLOOR,
    HEFT,
    META,
    SEARCH,
    SEARCH_CALIBRATED,
    SHIPPED,
    SHIPPED_CALIBRATED,
    Sizes,
)

TINY = Sizes(
    seeds=2, executed=4, held_out=3, draws=2, floor_draws=1, choice_draws=2, calibrations=(1, 4), updates=(1, 4),
    graphs=2, rollouts=2, iterations=1, worlds=8,
)  # fmt: skip
CLOCKS = "unknown clocks"


def test_a_simulated_run_calibrates_the_model() -> None:
    """With clocks and rates off, one simulated run shows both; and its spans are the execution's."""
    graph = mj.daggen(15, 0.6, 0.6, np.random.default_rng(0))
    disturbance, sites = mj.Disturbance(clocks_within=3.0, rates_within=3.0, seed=5), np.arange(15) % 2
    run = simulated_run(graph, mj.System(), sites, disturbance)
    assert run.makespan == mj.execute(graph, mj.System(), sites, disturbance).makespan
    assert max(span.end for span in run.spans) == run.makespan
    assert len(run.spans) == (sites == 0).sum() + 3 * (sites == 1).sum()
    found = calibrate([run], graph, mj.System())
    expected = mj.simulate(found.graph, found.system, sites, mj.priority_order(graph, mj.System()))
    assert expected.makespan == pytest.approx(run.makespan, rel=1e-6)
    known = realities.calibrated([graph], [run], mj.System())
    assert known.ue_hz != mj.System().ue_hz
    assert mj.simulate(graph, known, sites).makespan == pytest.approx(
        mj.execute(graph, mj.System(), sites, disturbance, order=mj.priority_order(graph, known)).makespan, rel=1e-6
    )


def test_calibration_finds_the_world_and_its_plans_are_better() -> None:
    """In a world of other clocks, plans by the calibrated model are those by the real one: the floor."""
    sizes = dataclasses.replace(TINY, held_out=6, draws=1)
    reality = measured.simulated(CLOCKS, 2)
    on = measured.bench(2, sizes, reality)
    known = measured.calibration(on.executed, reality)
    assert known.ue_hz * float(reality.world.ue) == pytest.approx(1e9, rel=1e-4)
    assert known.vm_hz * float(reality.world.vm[0]) == pytest.approx(1e10, rel=1e-4)
    plans = [[mj.local_search(graph, one) for graph in on.held_out] for one in (reality.system, known)]
    nominal, calibrated = reality.makespans(on.held_out, plans, 1)
    assert calibrated < nominal
    assert measured.floor(reality, on.held_out, plans, sizes) <= calibrated
    assert {graph.cycles.tobytes() for graph in on.executed}.isdisjoint(graph.cycles.tobytes() for graph in on.held_out)


def test_search_on_the_real_system_ends_where_no_site_is_better() -> None:
    reality = measured.simulated("half-duplex link", 1)
    on = measured.bench(1, TINY, reality)
    plans = [mj.heft(graph, reality.system) for graph in on.held_out]
    dags, begin, worlds = reality.packed(on.held_out, plans)
    keys = jax.random.split(reality.key, 1)
    ended = np.asarray(realities.descend(dags, begin, worlds, keys))
    for graph, order, sites in zip(on.held_out, np.asarray(dags.order), ended, strict=True):
        placed = np.zeros(graph.num_tasks, int)
        placed[order] = sites

        def seconds(placement: np.ndarray, graph: mj.TaskGraph = graph, order: np.ndarray = order) -> float:
            return mj.execute(graph, reality.system, placement, reality.disturbance, order=order).makespan

        best = seconds(placed)
        for task in range(graph.num_tasks):
            other = placed.copy()
            other[task] = 1 - other[task]
            assert seconds(other) >= best * (1 - 1e-5)


@pytest.mark.slow
def test_a_program_that_executes_plans_gives_the_curves_of_the_simulation() -> None:
    """Where nothing is random, methods that meet the executions as a testbed would are where they are in simulation."""
    network = NetworkConfig(units=8, heads=2, layers=1, neighbour_width=32, decoder_input="task_sim")
    policy = Offloader(network, init_params(network, jax.random.key(0)), "tiny", 0, LearningConfig())
    reality = measured.simulated("half-duplex link", 3)

    def execute(graph: mj.TaskGraph, placement: np.ndarray, order: np.ndarray) -> Run:
        return simulated_run(graph, reality.system, placement, reality.disturbance, 0, order)

    methods = [name for name in measured.METHOD_NAMES if name not in (*measured.NOT_TESTED, *measured.TRAINED)]
    found, expected = (
        measured.curves_of(measured.bench(3, TINY, one), policy, {}, TINY, 3, methods)
        for one in (realities.Tested(reality.system, execute), reality)
    )
    assert list(found) == list(expected) == methods
    for name in methods:
        assert [spent for spent, _ in found[name]] == [spent for spent, _ in expected[name]]
        values = [[value for _, value in curves[name]] for curves in (found, expected)]
        np.testing.assert_allclose(*values, rtol=1e-4)
    shown = measured.tables({"half-duplex link": {"seed 3": found}})
    assert [row[0] for row in shown[0][1]] == methods[1:]
    assert png(measured.figure({"half-duplex link": {"seed 3": found}})).startswith(b"\x89PNG")


def test_a_run_in_which_something_failed_is_run_again() -> None:
    graph = mj.daggen(6, 0.6, 0.6, np.random.default_rng(0))
    plan, left = mj.heft(graph, mj.System()), 2

    def execute(graph: mj.TaskGraph, placement: np.ndarray, order: np.ndarray) -> Run:
        nonlocal left
        left -= 1
        run = simulated_run(graph, mj.System(), placement, mj.Disturbance(), 0, order)
        return dataclasses.replace(run, events=((0.1, "host is lost"),) if left >= 0 else ())

    real = realities.Tested(mj.System(), execute)
    assert real.run(graph, plan, 0).makespan == pytest.approx(plan.makespan)
    assert left == -1
    left = 3
    with pytest.raises(mj.InputError, match=r"host is lost.*for the 3\. time; accepted: none"):
        real.run(graph, plan, 0)


def rows(lead: float) -> measured.Rows:
    """Made-up curves: in each seed the policy ends `lead` below calibrated search, and not before 40 executions."""
    of_seed = {
        f"seed {seed}": {
            name: [(20, 0.9 + 0.01 * seed)] for name in measured.METHOD_NAMES
        } | {SHIPPED: [(20, 0.95), (40, 0.9 + 0.01 * seed - lead), (80, 0.9 + 0.0101 * seed - lead)]}
        for seed in range(3)
    }  # fmt: skip
    return {CLOCKS: of_seed, "jitter": of_seed}


def test_ahead_means_the_whole_interval_from_there_on() -> None:
    assert measured.beats_after(rows(0.02)[CLOCKS], SHIPPED, SEARCH_CALIBRATED)[0] == 40
    after, last = measured.beats_after(rows(-0.02)[CLOCKS], SHIPPED, SEARCH_CALIBRATED)
    assert after is None
    assert last.mean == pytest.approx(
        100 * np.mean([(0.9 + 0.0101 * s + 0.02) / (0.9 + 0.01 * s) - 1 for s in range(3)])
    )
    values, leads = measured.tables(rows(0.02))
    assert len(values[1]) == len(measured.METHOD_NAMES) - 1
    assert leads[1][0][1].startswith("40 (-2.2 ± ")
    assert leads[1][2][1].startswith("never (+0.0")
    assert png(measured.figure(rows(0.02))).startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_whole_experiment_is_one_command(tmp_path: Path) -> None:
    """A tiny policy through training, adaptation, record, table and figure; a second call computes nothing."""
    network = NetworkConfig(units=8, heads=2, layers=1, neighbour_width=32, decoder_input="task_sim")
    policy = Offloader(network, init_params(network, jax.random.key(0)), "tiny", 0, LearningConfig(meta_batch=2))
    trained = {
        name: measured.trained_on_disturbances(policy, method, TINY, 0) for name, method in measured.TRAINED.items()
    }
    assert any(
        not np.array_equal(*pair)
        for pair in zip(jax.tree.leaves(trained[META]), jax.tree.leaves(trained[DRL]), strict=True)
    )
    on = measured.bench(0, TINY, measured.simulated("all of these", 0))
    curves = measured.curves_of(on, policy, trained, TINY, 0)
    assert curves == measured.curves_of(on, policy, trained, TINY, 0)
    assert list(curves) == list(measured.METHOD_NAMES)
    assert curves[HEFT] == [(0, 1.0)]
    assert [spent for spent, _ in curves[SEARCH_CALIBRATED]] == [1, 4]
    assert [spent for spent, _ in curves[SHIPPED]] == [0, 4, 8]  # 2 plans of 2 applications in a collection
    assert [spent for spent, _ in curves[META]] == [4, 8, 12]
    assert [spent for spent, _ in curves[CHOSEN]] == [20, 24, 28]  # and 2 plans of 4 applications, twice
    for choice, policy_or_search in zip(curves[CHOSEN], curves[SHIPPED_CALIBRATED], strict=True):
        assert choice[1] in (policy_or_search[1], curves[SEARCH_CALIBRATED][-1][1])
    assert curves[FLOOR][0][1] <= curves[SEARCH][0][1]
