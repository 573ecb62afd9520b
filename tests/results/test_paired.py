"""Comparisons paired by DAG: values by hand, intervals beside scipy's and beside what they promise; LaTeX; records."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from mrlato_jax.dag.dataset import load
from mrlato_jax.errors import InputError
from mrlato_jax.results import paired
from mrlato_jax.results.latex import escaped, latex_tables
from mrlato_jax.results.paired import Measured, difference, recorded

RECORDS = Path(__file__).resolve().parents[2] / "data" / "results"
BASE = Measured("base", {"a": np.array([[100.0, 200.0], [100.0, 200.0]]), "b": np.array([[50.0, 50.0], [70.0, 30.0]])})
MINE = Measured("mine", {"a": np.array([[90.0, 210.0]]), "b": np.array([[40.0, 40.0]])})


def test_a_difference_by_hand() -> None:
    found = difference(MINE, BASE, ["a", "b"])
    assert found.percent == pytest.approx((0.0 - 20.0) / 2)  # 150 / 150 and 40 / 50
    assert (found.won, found.lost) == (0.5, 0.25)  # of four DAGs one is higher and one is level
    assert difference(MINE, BASE, ["b"]).percent == pytest.approx(-20.0)
    assert found.low < found.percent < found.high


def test_what_is_equal_on_every_dag_has_no_width() -> None:
    twice = Measured("twice", {name: 2 * values for name, values in MINE.latency_ms.items()})
    found = difference(twice, MINE, ["a", "b"])
    assert (found.percent, found.low, found.high) == pytest.approx((100.0, 100.0, 100.0))


def test_the_interval_is_that_of_another_bootstrap() -> None:
    """One seed each: resampling pairs of DAGs, as scipy does it."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    theirs = rng.uniform(500, 700, 60)
    ours = theirs * rng.normal(0.97, 0.05, 60)
    found = difference(Measured("m", {"s": ours[None]}), Measured("r", {"s": theirs[None]}), ["s"])
    other = stats.bootstrap(
        (ours, theirs), lambda x, y, axis=-1: 100 * (x.mean(axis=axis) / y.mean(axis=axis) - 1), paired=True,
        method="percentile", n_resamples=10_000, rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == pytest.approx((other.low, other.high), abs=0.06)


def test_seeds_that_differ_widen_it() -> None:
    rng = np.random.default_rng(0)
    dags = rng.uniform(400, 800, 50)
    reference = Measured("r", {"s": dags[None]})
    alike = Measured("m", {"s": np.stack([dags * 0.98] * 5)})
    apart = Measured("m", {"s": np.stack([dags * factor for factor in (0.94, 0.96, 0.98, 1.0, 1.02)])})
    near, far = (difference(method, reference, ["s"]) for method in (alike, apart))
    assert near.percent == pytest.approx(far.percent)
    assert far.high - far.low > 2.0 > 0.01 > near.high - near.low


def test_the_interval_holds_as_often_as_it_says() -> None:
    """Twelve seeds and 40 DAGs drawn from a known truth: about 95 % of the intervals have it."""
    rng, held = np.random.default_rng(3), 0
    for _ in range(200):
        theirs = rng.uniform(500, 700, 40)
        ours = theirs * (1 + rng.normal(-0.02, 0.01, (12, 1))) * rng.normal(1, 0.03, (12, 40))
        found = difference(
            Measured("m", {"s": ours}),
            Measured("r", {"s": theirs[None]}),
            ["s"],
            resamples=500,
            seed=int(rng.integers(9**9)),
        )
        held += found.low <= -2.0 <= found.high
    assert 0.87 <= held / 200 <= 0.99


def test_other_dags_are_refused() -> None:
    with pytest.raises(InputError, match="mine has 2 DAGs on a and three has 3; accepted: the same DAGs"):
        difference(MINE, Measured("three", {"a": np.ones((1, 3))}), ["a"])


def test_tables() -> None:
    title, header, cells = paired.latency_table([MINE, BASE], {"a": 100.0, "b": 40.0})
    assert "gaps to the optimum" in title
    assert header == ["method", "seeds", "a", "b", "gap"]
    assert cells == [["mine", "1", "150.0", "40.0", "+25.0"], ["base", "2", "150.0 ± 0.0", "50.0 ± 0.0", "+37.5"]]
    title, header, cells = paired.difference_table([MINE, BASE], BASE)
    assert "against base" in title
    assert header == ["method", "a", "b", "all sets", "DAGs won / lost"]
    assert [line[0] for line in cells] == ["mine"]
    assert cells[0][2].startswith("-20.00 % [")
    assert cells[0][-1] == "50 % / 25 %"
    one = Measured("base", {"a": BASE.latency_ms["a"]})
    assert paired.difference_table([MINE, one], one)[1] == ["method", "a", "DAGs won / lost"]


def test_the_long_form_has_all_numbers() -> None:
    header, cells = paired.long_form([MINE, BASE], BASE)
    rows = [dict(zip(header, line, strict=True)) for line in cells]
    assert [(row["method"], row["setting"]) for row in rows] == [
        (name, where) for name in ("mine", "base") for where in ("a", "b", "all sets")
    ]
    assert rows[2]["dags"] == "4"
    assert rows[2]["latency_ms"] == "95.0000"
    assert rows[1]["percent"] == "-20.0000"
    assert rows[1]["gap_percent"] == ""
    assert rows[4]["percent"] == rows[4]["reference"] == ""  # the reference itself
    assert all(len(line) == len(header) for line in csv.reader(io.StringIO("\n".join(map(",".join, cells)))))


def test_latex_is_the_same_table() -> None:
    title, header, cells = paired.difference_table([MINE, BASE], BASE)
    text = latex_tables([(title, header, cells), paired.latency_table([MINE, BASE])])
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\toprule") == 2
    assert r"\begin{tabular}{lrrrr}" in text
    rows = re.findall(r"^    (.*) \\\\$", text, re.MULTILINE)
    assert rows[0] == r"method & a & b & all sets & DAGs won / lost"
    assert rows[1].startswith("mine & +0.00 \\% [")
    assert "& $-$20.00 \\% [" in rows[1]
    assert {row.count("&") for row in rows[:2]} == {4}
    assert text.count("{") == text.count("}")


def test_what_latex_takes_for_commands_is_escaped() -> None:
    assert escaped("mrlato_plus & 5 % ± 0.3, -1.2 {a}^#$~\\") == (
        r"mrlato\_plus \& 5 \% $\pm$ 0.3, $-$1.2 \{a\}\textasciicircum{}\#\$\textasciitilde{}\textbackslash{}"
    )
    assert escaped("HEFT-based, seed-0") == "HEFT-based, seed-0"


def test_the_projects_records_are_rows() -> None:
    """As the tables of `launch/reproduce.py` have them."""
    dataset = load("exp2")
    with (RECORDS / "cpu" / "exp2.csv").open(encoding="utf-8", newline="") as file:
        lines = {(line["method"], line["updates"], line["setting"]): line for line in csv.DictReader(file)}
    for method, updates, seeds in (("HEFT-based", "", 1), ("optimum", "", 1), ("mrlato", "100", 3), ("mrlato", "0", 3)):
        found = recorded(dataset, method, updates=int(updates or 0))
        assert list(found.latency_ms) == [dataset.set_names[i] for i in dataset.test_sets]
        for name, latencies in found.latency_ms.items():
            assert latencies.shape == (seeds, dataset.graphs_per_set)
            assert found.mean_ms[name] == pytest.approx(float(lines[method, updates, name]["latency_ms"]), abs=1e-3)
    assert recorded(dataset, "mrlato", updates=100).name == "mrlato, 100 updates"
    assert recorded(dataset, "mrlato").name == "mrlato, no update"


def test_records_that_are_not_there(tmp_path: Path) -> None:
    dataset = load("exp2")
    with pytest.raises(InputError, match=r"method is 'mrlata'; accepted: 'drl', 'mrlato', .*'HEFT-based'"):
        recorded(dataset, "mrlata")
    with pytest.raises(InputError, match="updates is '50'; accepted: 0, 1, 10, 30, 100"):
        recorded(dataset, "mrlato", updates=50)
    with pytest.raises(InputError, match=r"references-exp2\.json is missing"):
        recorded(dataset, "mrlato", folder=tmp_path / "cpu")
    shutil.copy(RECORDS / "references-exp2.json", tmp_path)
    with pytest.raises(InputError, match="of other data or another package version"):
        recorded(
            dataclasses.replace(dataset, upload_bytes=dataset.upload_bytes * 2), "HEFT-based", folder=tmp_path / "cpu"
        )
