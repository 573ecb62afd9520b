"""Tables, figure and script of the benchmark, on some of its instances."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import tiny_run

import mrlato_jax as mj
from mrlato_jax.results import benchmark

ROOT = Path(__file__).resolve().parents[2]
INSTANCES = {
    name: mj.load_benchmark()[name] for name in ("facebook-3g-near", "facebook-wifi-both", "antivirus-3g-near")
}
RECORD = json.loads((ROOT / "data" / "results" / "benchmark.json").read_text())["rows"]["methods"]


@pytest.fixture(scope="module")
def rows() -> dict[str, benchmark.Row]:
    ways = benchmark.ways(None, None)  # type: ignore[arg-type]  # what is measured here has no policy
    return {name: benchmark.measured(name, ways[name], INSTANCES)[0] for name in ("all-local", "HEFT-based")}


def test_measured(rows: dict[str, benchmark.Row]) -> None:
    one = INSTANCES["facebook-3g-near"]
    assert rows["all-local"][one.name] == pytest.approx(2.4)
    assert rows["HEFT-based"][one.name] == mj.heft(one.graph, one.system).makespan
    assert benchmark.gaps(rows["all-local"], INSTANCES)[one.name] == pytest.approx(100 * (2.4 / one.best_known - 1))


def test_tables(rows: dict[str, benchmark.Row]) -> None:
    header, cells = benchmark.methods_table({**rows, "none": {}}, INSTANCES)
    assert header[:3] == ["% above the best known", "mobile", "all"]
    assert all(len(line) == len(header) for line in cells)
    gaps = list(benchmark.gaps(rows["all-local"], INSTANCES).values())
    assert cells[0][:4] == ["all-local", f"{np.mean(gaps):.2f}", f"{np.mean(gaps):.2f}", f"{np.median(gaps):.2f}"]
    assert cells[-1][1] == benchmark.NOT_PLANNED
    header, cells = benchmark.instances_table(rows, INSTANCES, ["HEFT-based"])
    assert [line[0] for line in cells] == list(INSTANCES)
    assert cells[0][4] == "proven"


def test_plans_of_others(tmp_path: Path) -> None:
    found = benchmark.entered({"antivirus-3g-near": [0] * 5}, INSTANCES)
    assert found == {"antivirus-3g-near": pytest.approx(1.2)}
    with pytest.raises(mj.InputError, match="instance is 'chess'; accepted"):
        benchmark.entered({"chess": [0]}, INSTANCES)
    file = tmp_path / "mine.json"
    for plans, said in (({"chess": [0]}, "instance is 'chess'"), ({"antivirus-3g-near": [0]}, "placement")):
        file.write_text(json.dumps({"method": "mine", "plans": plans}))
        ran = tiny_run.run_here("benchmark.py", f"--plans={file}", f"--out={tmp_path}", cwd=tmp_path)
        assert ran.returncode == 2
        assert said in ran.stderr


def test_names_of_methods_are_not_taken_twice(tmp_path: Path) -> None:
    for number, name in enumerate(("optimum", "mine", "mine")):
        (tmp_path / f"{number}.json").write_text(json.dumps({"method": name, "plans": {}}))
    for files in (["0.json"], ["1.json", "2.json"]):
        words = [f"--plans={tmp_path / file}" for file in files]
        ran = tiny_run.run_here("benchmark.py", *words, f"--out={tmp_path}", cwd=tmp_path)
        assert ran.returncode == 2
        assert "accepted: a name that no other row has" in ran.stderr


def test_better_plans_are_kept() -> None:
    worse = {name: dataclasses.replace(one, best_known=2 * one.best_known) for name, one in INSTANCES.items()}
    row, better = benchmark.measured("HEFT-based", benchmark.ways(None, None)["HEFT-based"], worse)  # type: ignore[arg-type]
    assert better
    for name, plan in better.items():
        assert mj.verify(INSTANCES[name], plan).cost == row[name] < worse[name].best_known


def test_the_papers_weights_plan_where_they_were_trained() -> None:
    instances = mj.load_benchmark()
    assert benchmark.plans_for("exp2: search", instances["phone-wifi-return"].problem)
    assert not benchmark.plans_for("exp2: search", instances["phone-wifi-near"].problem)
    assert benchmark.plans_for("learned: search", instances["phone-wifi-near"].problem)


def test_the_record_has_no_plan_below_a_bound() -> None:
    instances = mj.load_benchmark()
    assert {"HEFT-based", "optimum"} <= set(RECORD) <= set(benchmark.ways(None, None))  # type: ignore[arg-type]
    for name, row in RECORD.items():
        assert name.startswith("exp") or row.keys() == instances.keys()
        for key, cost in row.items():
            assert cost >= instances[key].lower_bound * (1 - 1e-9), (name, key)


def test_figure_and_flexdo() -> None:
    instances = mj.load_benchmark()
    header, cells = benchmark.beside_flexdo(RECORD, instances)
    assert header == ["% above the best known", "3g-near", "wifi-near", "wifi-busy", "5g-near", "all jobs"]
    assert cells[-1][-1] == "3.9 to 8.9"
    pytest.importorskip("matplotlib")
    drawn = benchmark.figure(RECORD, instances)
    names = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert names == [name for name in benchmark.PROFILED if name in RECORD]


def test_the_page_has_the_records_numbers() -> None:
    instances = mj.load_benchmark()
    page = (ROOT / "docs" / "benchmark.md").read_text().replace("**", "")
    proven = sum(one.proven for one in instances.values())
    assert f"{proven} of the {len(instances)} plans are proven optimal" in page.replace("\n", " ")
    for line in page_lines(RECORD, instances):
        assert line in page.splitlines()


def page_lines(rows: dict[str, benchmark.Row], instances: Mapping[str, mj.Instance]) -> list[str]:
    """The rows of the page's two tables."""
    every = f" of {len(instances)}"
    lines = [
        [name, *means, f"{worst} ({on})", best.removesuffix(every)]
        for name, *means, worst, on, best in benchmark.methods_table(rows, instances)[1]
    ]
    return [f"| {' | '.join(cells)} |" for cells in [*lines, *benchmark.beside_flexdo(rows, instances)[1]]]
