"""Ways of planning compared: the settings, the rows, what is kept of them, and what the table and the figure say."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.config import NetworkConfig
from mrlato_jax.errors import InputError
from mrlato_jax.instances.references import Problem
from mrlato_jax.learning import rollout
from mrlato_jax.mec.latency import padded_size
from mrlato_jax.results import modes
from mrlato_jax.results.record import GrowingRecord
from mrlato_jax.training.stopping import GracefulStop

POLICY = NetworkConfig(decoder_input="task_sim", units=16, heads=2, layers=1, neighbours="pooled")
ARGMAX = {"cost": [1.01, 2.02], "evaluations": [3, 5], "seconds": [0.01, 0.03]}
OPTIMUM = {"cost": [1.0, 2.0], "lower_bound": [1.0, 2.0], "proven": [True, True], "seconds": [0.1, 0.3]}
LOOSE = {"cost": [4.0, 4.0], "lower_bound": [2.0, 4.0], "proven": [False, True], "seconds": [1.0, 1.0]}
HEFT = {"cost": [5.0, 4.0], "seconds": [0.002, 0.002]}
ROWS = {
    "n20": {"optimum": OPTIMUM, "learned: argmax": ARGMAX, "HEFT-based": {**HEFT, "cost": [1.1, 2.2]}},
    "n30": {"optimum": LOOSE, "learned: argmax": {**ARGMAX, "cost": [4.0, 5.0]}, "HEFT-based": HEFT},
}


@pytest.fixture(scope="module")
def policy() -> mj.Offloader:
    return mj.Offloader(POLICY, rollout.init_params(POLICY, jax.random.key(0)), "random")


def asked(num_tasks: int, seed: int = 0, **of_system: Any) -> Problem:
    graph = mj.daggen(num_tasks, 0.6, 0.6, np.random.default_rng(seed))
    return Problem(graph, mj.System(**of_system), mj.Objective())


def test_points_by_hand() -> None:
    found = modes.points(ROWS, modes.BOUND)
    point = found["learned: argmax"]
    assert point.gaps == pytest.approx({"n20": 1.0, "n30": 62.5})  # above the lower bounds
    assert (point.gap, point.evaluations, point.mean_ms, point.proven) == (pytest.approx(31.75), 4.0, 20.0, None)
    assert found["optimum"].proven == 0.75
    header, cells = modes.table(found, modes.BOUND)
    assert header == ["% above the optimum", "n20", "n30", "proven", "plans simulated", "ms each"]
    assert cells[1] == ["learned: argmax", "+1.00", "+62.50", "", "4", "20.0"]
    against = modes.points(ROWS, modes.FIRST)
    assert against["learned: argmax"].gaps == pytest.approx({"n20": -8.18182, "n30": 2.5})
    header, cells = modes.table(against, modes.FIRST)
    assert header[0] == "% against HEFT-based"
    assert cells[1][1:3] == ["-8.18 (20 ms)", "+2.50 (20 ms)"]
    assert modes.bounds(ROWS, modes.FIRST)[1:3] == ["-9.09", "-30.00"]


def test_a_row_that_a_setting_lacks_is_no_point() -> None:
    assert modes.points({**ROWS, "n40": {}}, modes.BOUND) == {}
    fewer = {name: row for name, row in ROWS["n30"].items() if name != "learned: argmax"}
    assert list(modes.points({**ROWS, "n30": fewer}, modes.BOUND)) == ["optimum", "HEFT-based"]


@pytest.mark.parametrize("row", [5, {}, {**ARGMAX, "seconds": ["x"]}, {**ARGMAX, "cost": []}])
def test_a_damaged_row_is_refused(row: Any) -> None:
    with pytest.raises(InputError, match=r"record has .* as learned: argmax on n20; accepted: a record as it was"):
        modes.points({**ROWS, "n20": {"learned: argmax": row}}, modes.BOUND)


def test_no_size_is_compiled_within_its_time() -> None:
    compiled = set()

    def plan(one: Problem, seed: int) -> mj.Plan:
        if (size := padded_size(one.graph.num_tasks)) not in compiled:
            time.sleep(0.3)
            compiled.add(size)
        return mj.all_local(one.graph, one.system)

    row = modes.measured(modes.Way("slow at first", plan), [asked(5), asked(20), asked(6), asked(21)])
    assert len(compiled) == 2
    assert max(row["seconds"]) < 0.3


def test_settings_are_the_same_each_time() -> None:
    for study in modes.STUDIES:
        some = modes.settings(study, 1)
        assert len({setting.name for setting in some}) == len(some) >= 3
        for setting, more in zip(some, modes.settings(study, 2), strict=True):
            assert setting.name == more.name
            assert len(more.asked) == 2
            first, again = setting.asked[0], more.asked[0]
            assert first.graph.cycles.tolist() == again.graph.cycles.tolist()
            assert (str(first.system), first.objective) == (str(again.system), again.objective)
    sizes = [setting.asked[0].graph.num_tasks for setting in modes.settings(modes.LARGE, 1)]
    assert sizes == [50, 50, 100, 100, 200, 200, 500]
    with pytest.raises(InputError, match="graphs is 101; accepted: 1 to 100"):
        modes.settings("exp1", 101)


def test_searches_spend_what_they_may(policy: mj.Offloader) -> None:
    one = asked(7)
    for name, way in modes.ways(policy, "exp1").items():
        if name.endswith((" 300", " 1,000")):
            assert way.plan(one, 0).evaluations <= int(name.rsplit(" ", 1)[1].replace(",", ""))
    starts = {modes._searched(1, random, one, 0).makespan for random in (True, False)}
    assert starts == {mj.heft(one.graph, one.system).makespan, max(starts)}
    assert len(starts) == 2


def test_ways_take_what_they_can(policy: mj.Offloader) -> None:
    pytest.importorskip("ortools")
    ways, stay, saving = modes.ways(policy, "exp1"), asked(5, channel="resident"), asked(5)
    saving = saving._replace(objective=mj.Objective(energy_weight=0.5))
    assert ways["CP-SAT, 100 ms"].takes(asked(5))
    assert not ways["CP-SAT, 100 ms"].takes(stay)
    assert ways["learned: argmax"].takes(stay)
    assert not ways["learned: argmax"].takes(saving)
    assert ways["proof, 1 ms"].takes(saving)


def test_what_is_recorded_is_not_planned_again(policy: mj.Offloader, tmp_path: Path) -> None:
    one = asked(5, seed=1)
    chosen = ("optimum", "learned: argmax", "HEFT-based and local search, 300", "in a given time, order too, 30 ms")
    ways, study = modes.ways(policy, "exp1"), [modes.Setting("five", (one,))]
    ways = {name: ways[name] for name in chosen}
    record = GrowingRecord(tmp_path / "modes.json", {"a": 1})
    assert modes.complete(record, study, ways, GracefulStop())
    assert list(record.rows["five"]) == list(chosen)
    assert record.rows["five"][chosen[1]]["cost"] == [policy.plan(one.graph, one.system).makespan]
    assert record.rows["five"][chosen[0]]["proven"] == [True]
    assert record.rows["five"][chosen[3]]["source"][0] in mj.inference.in_time.SOURCES
    before = (tmp_path / "modes.json").read_bytes()
    assert modes.complete(GrowingRecord(tmp_path / "modes.json", {"a": 1}), study, ways, GracefulStop())
    assert (tmp_path / "modes.json").read_bytes() == before


def test_the_figure_has_a_line_for_each_way_of_searching() -> None:
    pytest.importorskip("matplotlib")
    names = ("learned: argmax", "learned: sample, 4", "learned: search, 4", "in a given time, 1 ms", "proof, 1 ms")
    found = {
        name: modes.Point({"n20": 1.0 + i, "n30": 3.0 + i}, {"n20": 1.0 + i, "n30": 2.0}, None if i > 3 else 10.0, None)
        for i, name in enumerate(names)
    }
    left, right = modes.figure(found, "title", modes.BOUND).axes
    lines = {line.get_label(): line for line in left.lines}
    assert list(lines["learned: sample"].get_ydata()) == [2.0, 3.0]
    assert list(lines["learned: search"].get_xdata()) == [2.5]
    assert "proof" in lines
    assert "proof" not in {line.get_label() for line in right.lines}
    panels = modes.figure(found, "title", modes.FIRST).axes
    assert [axis.get_xlabel() for axis in panels] == ["ms for a plan, n20", "ms for a plan, n30"]
    assert list({line.get_label(): line for line in panels[0].lines}["proof"].get_xdata()) == [5.0]
