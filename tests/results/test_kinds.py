"""How good plans are on every kind of system: what is drawn, what is measured, and a plan that breaks a pin."""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run

import mrlato_jax as mj
from mrlato_jax.dag.families import FAMILIES
from mrlato_jax.drawing import png
from mrlato_jax.results import kinds
from mrlato_jax.results.kinds import KINDS, Kind

RESIDENT = Kind(3, "resident", "shared", True, True)


class AsHeft:
    """Plans as HEFT-based does, but offloads a pinned task where `breaks` says so."""

    def __init__(self, breaks: bool = False) -> None:
        self.breaks = breaks

    def plan(self, graph: Any, system: Any, mode: str = "argmax", *, objective: mj.Objective | None = None) -> Any:
        if isinstance(graph, mj.TaskGraph):
            return mj.heft(graph, system, objective=objective)
        plans = [self.plan(*pair) for pair in zip(graph, system, strict=True)]
        if self.breaks:
            plans = [dataclasses.replace(plan, placement=1 - np.minimum(plan.placement, 1)) for plan in plans]
        return plans


def test_every_kind_is_drawn_as_it_is_named() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert {kind.servers for kind in KINDS} == {1, 2, 3}
    known = {tuple(family.system["vm_hz"]) for family in FAMILIES["general"] if family.system and family.pinned}
    for kind in KINDS:
        asked = list(islice(kinds.drawn(kind), 12))
        assert {one.system.num_servers for one in asked} == {kind.servers}
        assert {(one.system.channel, one.system.radio) for one in asked} == {(kind.channel, kind.radio)}
        assert any(one.graph.is_pinned for one in asked) == kind.pinned
        assert all((one.objective.energy_weight > 0) == kind.energy for one in asked)
        assert len({one.system for one in asked}) == 12
        assert not known & {one.system.vm_hz for one in asked}
    again = list(islice(kinds.drawn(RESIDENT), 3))
    assert again == list(islice(kinds.drawn(RESIDENT), 3)) != list(islice(kinds.drawn(RESIDENT, seed=1), 3))


@pytest.mark.slow
def test_plans_are_measured_above_the_proven_optimum() -> None:
    asked = [one for one in islice(kinds.drawn(RESIDENT), 8) if one.graph.num_tasks == 10]
    row = kinds.measured(AsHeft(), asked, 10.0)  # type: ignore[arg-type]
    assert (row["asked"], row["proven"]) == (2, 2)
    above = row["above_optimum"]
    assert above["HEFT-based"] == above["argmax"] == above["search"]
    assert min(above["look-ahead"]) >= -1e-9
    assert np.mean(above["HEFT-based"]) > np.mean(above["look-ahead"])
    rows = {RESIDENT.name: row}
    header, (cells, total) = kinds.table(rows)
    assert (header[:3], cells[:2]) == (["kind", "proven", "HEFT-based"], ["K=3, results stay, pins, energy", "2 / 2"])
    assert cells[2] == f"{100 * np.mean(above['HEFT-based']):.1f}" == total[2]
    pytest.importorskip("matplotlib")
    assert png(kinds.figure(rows)).startswith(b"\x89PNG")


def test_the_table_and_figure_of_a_row() -> None:
    above = {"HEFT-based": [0.2, 0.1], "look-ahead": [0.0, 0.04], "argmax": [0.01] * 2, "sample": [0.0] * 2}
    row = {"asked": 3, "proven": 2, "above_optimum": {**above, "search": [-0.02, 0.0]}}
    rows = {RESIDENT.name: row}
    header, (cells, total) = kinds.table(rows)
    assert (header[:3], cells[:2]) == (["kind", "proven", "HEFT-based"], ["K=3, results stay, pins, energy", "2 / 3"])
    assert cells[2:] == total[2:] == ["15.0", "2.0", "1.0", "0.0", "-1.0"]
    pytest.importorskip("matplotlib")
    assert png(kinds.figure(rows)).startswith(b"\x89PNG")


def test_a_forbidden_site_is_counted() -> None:
    """In two batches; where plans are turned round, those of all applications with a pin break it."""
    kind = Kind(1, "paper", "shared", True, False)
    pinned = sum(one.graph.is_pinned for one in islice(kinds.drawn(kind, seed=1), 12))
    for breaks, count in ((False, 0), (True, pinned)):
        assert kinds.forbidden(AsHeft(breaks), kind, 12, batch=6) == count  # type: ignore[arg-type]
    assert pinned


def test_an_unknown_kind_is_told_the_known_ones(tmp_path: Path) -> None:
    ran = tiny_run.run_here("kinds.py", "--kind=K=9", f"--out={tmp_path}", cwd=tmp_path)
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: kind is 'K=9'; accepted: 'K=1, results return', ")
    assert not list(tmp_path.iterdir())
