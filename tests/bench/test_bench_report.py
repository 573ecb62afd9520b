"""A bench record as tables, as ratios to a stored one, and as a figure."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from mrlato_jax.bench import figure, report
from mrlato_jax.errors import InputError

RECORD: dict[str, Any] = {
    "simulator": {
        "batch": 1000,
        "task_steps_per_second": 2e7,
        "speedup_over_oracle": 100.0,
        "matmul_gflop_per_second": 100.0,
        "peak_memory_gb": 0.4,
    },
    "compile": {"cold": {"compile_seconds": 8.0}, "matmul_gflop_per_second": 100.0},
    "growth": {
        "base": {
            "meta_batch": 1,
            "graphs": 10,
            "rollouts": 10,
            "num_tasks": 20,
            "inner_steps": 1,
            "meta_batch_on_devices": 8,
        },
        "num_tasks": {"10": {"simulator_seconds": 1e-4, "training_seconds": 0.2}, "20": {"training_seconds": 0.4}},
        "graphs": {"1": {"training_seconds": 0.05}, "10": {"training_seconds": 0.4}},
        "devices": {"1": {"training_seconds": 3.2}, "2": {"training_seconds": 1.7}},
        "matmul_gflop_per_second": 100.0,
    },
    "environment": {"device": "cpu", "cores": 2, "jax": "0.10.2", "peak_memory_gb": 0.5},
}


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line]


def test_table_has_every_figure_once_and_axes_as_grids() -> None:
    rows = cells(report.bench_table(RECORD))
    assert ["simulator", "task_steps_per_second", "2e+07"] in rows
    assert ["compile", "cold.compile_seconds", "8"] in rows
    assert ["environment", "device", "cpu"] in rows
    at = rows.index(["growth: num_tasks", "simulator_seconds", "training_seconds"])
    assert rows[at + 2 : at + 4] == [["10", "0.0001", "0.2"], ["20", "", "0.4"]]


def test_ratios_as_they_are_and_at_equal_matmul_rate() -> None:
    now = copy.deepcopy(RECORD)
    for section in ("simulator", "compile", "growth"):
        now[section]["matmul_gflop_per_second"] = 50.0  # a machine of half the speed
    now["simulator"] |= {"task_steps_per_second": 1.5e7, "peak_memory_gb": 0.8}
    now["compile"]["cold"]["compile_seconds"] = 16.0
    now["growth"]["graphs"]["100"] = {"training_seconds": 4.0}  # not in the stored one
    text, warnings = report.compare(RECORD, now)
    assert warnings == []
    rows = {row[0]: row[1:] for row in cells(text)}
    assert rows["simulator.task_steps_per_second"] == ["2e+07", "1.5e+07", "0.75", "1.50"]
    assert rows["compile.cold.compile_seconds"] == ["8", "16", "2.00", "1.00"]
    assert rows["simulator.matmul_gflop_per_second"] == ["100", "50", "0.50", "1.00"]
    assert rows["simulator.peak_memory_gb"] == ["0.4", "0.8", "2.00", ""]
    assert rows["simulator.speedup_over_oracle"] == ["100", "100", "1.00", ""]
    assert "simulator.batch" not in rows
    assert "growth.graphs.100.training_seconds" not in rows
    assert "growth.graphs.10.training_seconds" in rows


def test_whatever_else_differs_is_a_warning() -> None:
    now = copy.deepcopy(RECORD)
    now["environment"] |= {"cores": 8, "jax": "0.11.0", "peak_memory_gb": 0.6}
    now["simulator"]["batch"] = 10
    text, warnings = report.compare(RECORD, now)
    assert warnings == [
        "cores differs: 2 in the stored record, 8 now",
        "jax differs: 0.10.2 in the stored record, 0.11.0 now",
        "simulator is left out, since its sizes differ (batch 1000 -> 10)",
    ]
    assert "simulator." not in text
    assert "compile.cold.compile_seconds" in text


@pytest.mark.parametrize("content", [None, "not JSON", "[]", '{"simulator": 3}', '{"simulator": {}}', "\xff\xfe"])
def test_unreadable_record(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "bench.json"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match="accepted: a record that bench") as caught:
        report.read_record(path)
    assert str(path) in str(caught.value)


def test_figure_has_a_panel_an_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = pytest.importorskip("matplotlib.figure")
    drawn: list[Any] = []
    savefig = figures.Figure.savefig

    def spy(self: Any, *args: Any, **options: Any) -> None:
        drawn.append(self)
        savefig(self, *args, **options)

    monkeypatch.setattr(figures.Figure, "savefig", spy)
    assert figure.growth_figure(RECORD["growth"], "cpu").startswith(b"\x89PNG")
    tasks, graphs, shared = drawn[0].axes
    assert shared.get_xlabel() == "devices (8 learning tasks)"
    assert (tasks.get_xscale(), tasks.get_yscale()) == ("log", "log")
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in tasks.lines}
    assert lines["one meta-iteration"] == ([10, 20], [0.2, 0.4])
    assert lines["simulation"] == ([10], [1e-4])
    (reference,) = [line for line in graphs.lines if line.get_linestyle() == "--"]
    (x0, x1), (y0, y1) = reference.get_xdata(), reference.get_ydata()
    assert (x0, y0) == (1, 0.05)
    assert y1 / y0 == pytest.approx(x1 / x0)  # slope 1
    (reference,) = [line for line in shared.lines if line.get_linestyle() == "--"]
    (x0, x1), (y0, y1) = reference.get_xdata(), reference.get_ydata()
    assert y0 / y1 == pytest.approx(x1 / x0)  # slope -1
    assert [text.get_text() for text in graphs.texts] == ["0.9"]  # log10(0.4 / 0.05)
    assert "DAGs: 10" in drawn[0].get_suptitle()
