"""What an evaluation leaves behind says what was measured, and is written whole or not at all."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

import mrlato_jax as mj
from mrlato_jax.config import TrainConfig
from mrlato_jax.learning.adaptation import marks
from mrlato_jax.mec.system import System
from mrlato_jax.methods import QUICK_PLANNERS
from mrlato_jax.results import reporting
from mrlato_jax.results.evaluation import AdaptationRecord, SetResult
from mrlato_jax.training.experiments import TestSet
from mrlato_jax.training.stopping import GracefulStop

LABEL = "mrlato+a|b"
# HEFT-based is 100 ms on one setting and 400 ms on the other.
FIRST = dict(zip(QUICK_PLANNERS, (300.0, 200.0, 150.04, 110.0, 100.0), strict=True))
SECOND = dict(zip(QUICK_PLANNERS, (800.0, 600.0, 500.0, 380.0, 400.0), strict=True))


def adaptation(curve: list[float]) -> AdaptationRecord:
    by_dag = {mark: [curve[mark] - 1, curve[mark] + 1] for mark in marks(len(curve) - 1)}
    return AdaptationRecord(curve, by_dag, [1.5], [0.6], [0.1], 80)


def results(updates: int, *, held_out: bool = False) -> list[SetResult]:
    curves = [[start - 0.5 * k for k in range(updates + 1)] for start in (140.0, 480.0)]
    others = [adaptation([value + 1000 for value in curve]) if held_out else None for curve in curves]
    return [
        SetResult(name, baselines, adaptation(curve), other, other and {**baselines, "HEFT-based": 1000.0})
        for name, baselines, curve, other in zip(("n20", "n30"), (FIRST, SECOND), curves, others, strict=True)
    ]


def table(updates: int, **options: Any) -> list[list[str]]:
    return cells_of(reporting.evaluation_table("mrlato", results(updates, **options)))


def cells_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_rows_and_columns() -> None:
    header, _, *body = table(30)
    assert header == ["mean latency, ms", "n20", "n30", "vs HEFT-based"]
    names = [*QUICK_PLANNERS, "mrlato, before any update", "mrlato, after 1", "mrlato, after 10", "mrlato, after 30"]
    assert [row[0] for row in body] == names
    assert QUICK_PLANNERS == ("all-local", "all-offload", "random", "greedy", "HEFT-based")


def test_values_by_hand() -> None:
    body = {row[0]: row[1:] for row in table(30)[2:]}
    assert body["all-local"] == ["300.0", "800.0", "+150.0 %"]  # 3 and 2 times HEFT-based: 2.5 in the mean
    assert body["random"] == ["150.0", "500.0", "+37.5 %"]
    assert body["greedy"] == ["110.0", "380.0", "+2.5 %"]  # 1.10 and 0.95
    assert body["HEFT-based"] == ["100.0", "400.0", ""]
    assert body["mrlato, before any update"] == ["140.0", "480.0", "+30.0 %"]
    assert body["mrlato, after 1"] == ["139.5", "479.5", "+29.7 %"]  # 1.395 and 1.19875
    assert body["mrlato, after 10"] == ["135.0", "475.0", "+26.9 %"]  # 1.35 and 1.1875
    assert body["mrlato, after 30"] == ["125.0", "465.0", "+20.6 %"]  # 1.25 and 1.1625


def test_gaps_have_a_column_where_optima_are_known() -> None:
    known = [
        dataclasses.replace(each, optimum_ms=best)
        for each, best in zip(results(1, held_out=True), (100.0, 320.0), strict=True)
    ]
    header, _, *body = cells_of(reporting.evaluation_table("mrlato", known))
    assert header[-2:] == ["vs HEFT-based", "vs optimum"]
    rows = {row[0]: row[1:] for row in body}
    assert rows["optimum"] == ["100.0", "320.0", "-10.0 %", ""]  # as long as HEFT-based, and a fifth shorter
    assert rows["HEFT-based"] == ["100.0", "400.0", "", "+12.5 %"]  # 1 and 1.25 times the optimum
    assert rows["mrlato, before any update"] == ["140.0", "480.0", "+30.0 %", "+45.0 %"]  # 1.4 and 1.5
    assert rows["the other half: after 1"][-1] == ""  # whose optimum nobody asked for
    unproven = [dataclasses.replace(known[0], unproven=2), known[1]]
    assert "optimum (2 unproven)" in reporting.evaluation_table("mrlato", unproven)


def test_better_than_heft_is_negative() -> None:
    better = SetResult("n20", FIRST, adaptation([90.0]), None)
    assert reporting.evaluation_table("mrlato", [better]).splitlines()[-1].split("|")[-2].strip() == "-10.0 %"


@pytest.mark.parametrize(
    ("updates", "shown"), [(0, [0]), (1, [0, 1]), (4, [0, 1, 4]), (30, [0, 1, 10, 30]), (100, [0, 1, 10, 30, 100])]
)
def test_marks_that_were_reached_and_the_last(updates: int, shown: list[int]) -> None:
    learned = [row for row in table(updates)[2:] if row[0].startswith("mrlato")]
    names = [f"mrlato, {'before any update' if mark == 0 else f'after {mark}'}" for mark in shown]
    assert [row[0] for row in learned] == names
    assert [row[1] for row in learned] == [f"{140 - 0.5 * mark:.1f}" for mark in shown]


def test_the_other_half_has_rows_of_its_own() -> None:
    plain, both = table(4), table(4, held_out=True)
    assert both[: len(plain)] == [row for row in both[: len(plain)] if "other half" not in row[0]]
    heft, before, after = both[len(plain) :]
    assert heft == ["the other half: HEFT-based", "1000.0", "1000.0", ""]
    assert before == ["the other half: before any update", "1140.0", "1480.0", "+31.0 %"]  # against HEFT-based there
    assert after == ["the other half: after 4", "1138.0", "1478.0", "+30.8 %"]


def test_the_other_half_is_not_repeated_without_updates() -> None:
    assert [row[1] for row in table(0, held_out=True) if "other half" in row[0]] == ["1000.0", "1140.0"]


def test_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    text = reporting.write(tmp_path, "evaluation-4", LABEL, results(4), {"updates": 4, "data_hash": "ab"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"evaluation-4.{end}" for end in ("json", "md", "png")]
    markdown = (tmp_path / "evaluation-4.md").read_text()
    assert markdown == reporting.evaluation_table(LABEL, results(4)) + "\n"
    assert text == f"in {tmp_path}: evaluation-4.json, evaluation-4.md, evaluation-4.png"
    assert "mrlato+a\\|b, after 4" in markdown  # a bar in a label is no column
    record = json.loads((tmp_path / "evaluation-4.json").read_text())
    assert (record["method"], record["updates"], record["data_hash"]) == (LABEL, 4, "ab")
    assert [test_set["setting"] for test_set in record["settings"]] == ["n20", "n30"]
    assert record["settings"][1]["baselines_ms"] == SECOND
    assert record["settings"][0]["adaptation"]["latency_ms"] == [140.0, 139.5, 139.0, 138.5, 138.0]
    assert record["settings"][0]["adaptation"]["latency_ms_by_dag"]["4"] == [137.0, 139.0]
    assert record["settings"][0]["held_out"] is None


def figure_of(monkeypatch: pytest.MonkeyPatch, label: str, results: list[SetResult]) -> Any:
    """Matplotlib's figure behind the picture."""
    figure_type = pytest.importorskip("matplotlib.figure").Figure
    saved: list[Any] = []
    save = figure_type.savefig
    monkeypatch.setattr(figure_type, "savefig", lambda figure, *a, **k: saved.append(figure) or save(figure, *a, **k))
    assert reporting.adaptation_figure(label, results).startswith(b"\x89PNG\r\n\x1a\n")
    (figure,) = saved
    return figure


def drawn(monkeypatch: pytest.MonkeyPatch, results: list[SetResult]) -> tuple[list[dict[str, list]], list[str]]:
    """The lines of each panel by their names, and what its corner says."""
    figure = figure_of(monkeypatch, "mrlato", results)
    for axis, result in zip(figure.axes, results, strict=True):
        change = 100 * (result.adaptation.latency_ms[-1] / result.baselines_ms["HEFT-based"] - 1)
        assert axis.get_title() == f"{result.setting}: {change:+.1f} % vs HEFT-based"
    lines = [{line.get_label(): list(line.get_ydata()) for line in axis.get_lines()} for axis in figure.axes]
    return lines, ["".join(text.get_text() for text in axis.texts) for axis in figure.axes]


def test_figure_has_a_panel_for_each_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves from 140 and from 480 ms: what is up to 15 % above them is drawn, what is beyond is named."""
    lines, corners = drawn(monkeypatch, results(4))
    for panel, result in zip(lines, results(4), strict=True):
        assert panel.pop("mrlato") == result.adaptation.latency_ms
        assert panel == {name: [result.baselines_ms[name]] * 2 for name in panel}
    assert lines[0].keys() == {"random", "greedy", "HEFT-based"}
    assert lines[1].keys() == {"random", "greedy", "HEFT-based"}
    assert corners == ["above: all-local 300, all-offload 200 ms", "above: all-local 800, all-offload 600 ms"]


def test_figure_draws_whatever_is_below_the_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where data is heavy, all-local is the plan to beat."""
    heavy = dict(zip(QUICK_PLANNERS, (100.0, 900.0, 162.0, 100.0, 100.0), strict=True))
    lines, corners = drawn(monkeypatch, [SetResult("n20", heavy, adaptation([140.0, 139.0]))])
    assert lines[0].keys() == {"mrlato", "all-local", "greedy", "HEFT-based"}
    assert corners == ["above: all-offload 900, random 162 ms"]


@pytest.mark.parametrize("label", ["mrlato", "mrlato+task_sim+outer_lr=0.0015+units=64+encoder_layers=1+heads=0+tf32"])
@pytest.mark.parametrize("sets", [1, 2])
def test_the_legend_is_within_the_figure(monkeypatch: pytest.MonkeyPatch, sets: int, label: str) -> None:
    known = [dataclasses.replace(each, optimum_ms=95.0) for each in results(4)[:sets]]
    figure = figure_of(monkeypatch, label, known)
    (legend,) = figure.legends
    names = [text.get_text().replace("\n", "") for text in legend.get_texts()]
    assert names == [label, "optimum", "random", "greedy", "HEFT-based"]
    box = legend.get_window_extent(figure.canvas.get_renderer())
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert box.y1 < min(axis.get_window_extent().y0 for axis in figure.axes)  # below the panels
    said = figure.axes[0].yaxis.label.get_window_extent()
    assert figure.bbox.y0 <= said.y0 < said.y1 <= figure.bbox.y1


def test_without_updates_the_axis_has_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = figure_of(monkeypatch, "mrlato", results(0))
    assert [list(axis.get_xticks()) for axis in figure.axes] == [[0], [0]]


def test_a_record_of_another_measurement_stays(tmp_path: Path) -> None:
    first, second = ({"updates": updates, "iteration": 5} for updates in (1, 4))
    reporting.write(tmp_path, "adaptation", "mrlato", results(1), first)
    kept = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "adaptation-2.json" in reporting.write(tmp_path, "adaptation", "mrlato", results(4), second)
    assert {name: (tmp_path / name).read_bytes() for name in kept} == kept
    # The same measurement again takes its own place.
    assert "adaptation-2.json" in reporting.write(tmp_path, "adaptation", "mrlato", results(4), second)
    assert len(list(tmp_path.glob("*.json"))) == 2
    for torn in (
        "{torn",
        "[" * 100_000,
        json.dumps({**second, "settings": 5}),
        json.dumps({**second, "settings": [5]}),
    ):
        (tmp_path / "adaptation.json").write_text(torn)
        assert "adaptation-2.json" in reporting.write(tmp_path, "adaptation", "mrlato", results(4), second)
        assert (tmp_path / "adaptation.json").read_text() == torn


def test_no_record_of_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        reporting.write(tmp_path, "adaptation", "mrlato", [SetResult("n20", FIRST, adaptation([float("nan")]))], {})
    assert list(tmp_path.iterdir()) == []


def test_a_stop_ends_the_evaluation_after_the_collection_at_hand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stop, rounds = GracefulStop(), []

    def evaluate_set(*arguments: Any, watch: Any, **options: Any) -> SetResult:
        with watch("n20", 80.0) as on_round:
            for update in (3, 6, 9):
                rounds.append(update)
                stop.requested = update == 6
                on_round(update, 100.0, 0.5)
        return results(1)[0]

    monkeypatch.setattr(reporting, "evaluate_set", evaluate_set)
    test_sets = [TestSet("n20", (), System())] * 2
    assert reporting.evaluate(TrainConfig(), None, test_sets, 9, stop) is None
    assert rounds == [3, 6]
    shown = capsys.readouterr().err
    assert "adapting to n20 3/9 33%  ETA ?  latency_ms 100  vs_heft +25.0%  entropy 0.5" in shown
    assert "stopped while adapting; nothing of the evaluation was written" in shown


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # the import fails as if it were not installed
    text = reporting.write(tmp_path, "adaptation", "mrlato", results(1), {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adaptation.json", "adaptation.md"]
    files, note = text.split("; ")
    assert files.endswith("adaptation.json, adaptation.md")
    assert "matplotlib is not installed" in note
    assert "mrlato-jax[plots]" in note


@pytest.mark.parametrize("dies_at", [0, 1, 2])
def test_a_file_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int) -> None:
    pytest.importorskip("matplotlib")
    names = [f"adaptation.{end}" for end in ("json", "md", "png")]
    reporting.write(tmp_path, "adaptation", "mrlato", results(4), {})
    old = {name: (tmp_path / name).read_bytes() for name in names}
    replaced: list[str] = []
    replace = os.replace

    def dying(source: Any, target: Any) -> None:
        if len(replaced) == dies_at:
            raise KeyboardInterrupt
        replaced.append(Path(target).name)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(KeyboardInterrupt):
            reporting.write(tmp_path, "adaptation", "mrlato", results(1), {})
    assert replaced == names[:dies_at]
    contents = {name: (tmp_path / name).read_bytes() for name in names}
    assert all((contents[name] == old[name]) == (name not in replaced) for name in names)
    assert json.loads(contents["adaptation.json"])["method"] == "mrlato"


def proved(monkeypatch: pytest.MonkeyPatch, proofs_before_the_stop: int) -> list[SetResult] | None:
    """An evaluation of two settings of two DAGs each, a stop requested after some proofs."""
    graph = mj.TaskGraph.from_edges(cycles=[1e7], upload_bytes=[1e4], download_bytes=[1e4], edges=[])
    test_sets = [TestSet(name, (graph, graph), System()) for name in ("n20", "n30")]
    stop, measured, proofs = GracefulStop(), iter(results(0)), []

    def optimum(graph: mj.TaskGraph, system: System, time_limit_s: float) -> mj.ProvenPlan:
        proofs.append(time_limit_s)
        stop.requested = len(proofs) >= proofs_before_the_stop
        return mj.optimum(graph, system, time_limit_s=time_limit_s)

    monkeypatch.setattr(reporting, "evaluate_set", lambda *_, **__: next(measured))
    monkeypatch.setattr("mrlato_jax.results.evaluation.optimum", optimum)
    return reporting.evaluate(TrainConfig(), None, test_sets, 0, stop, time_limit_s=1.0)


@pytest.mark.parametrize("proofs", [1, 2, 3])
def test_a_stop_while_proving_ends_the_evaluation(
    proofs: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert proved(monkeypatch, proofs) is None
    shown = capsys.readouterr().err
    assert "optima of n20 1/2" in shown
    assert ("optima of n30" in shown) == (proofs > 2)
    assert "nothing of the evaluation was written" in shown


def test_a_stop_at_the_last_proof_comes_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    found = proved(monkeypatch, 4)
    assert found is not None
    assert [(result.optimum_ms, result.unproven) for result in found] == [(pytest.approx(10.0), 0)] * 2
