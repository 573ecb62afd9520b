"""Methods beside a reference, paired by DAG: differences with bootstrap intervals, and the tables that show them.

A method is its latencies: of a learned one those of several seeds, of a planner one row. So a planner of your own needs
no more than an array, and `recorded` reads the methods that this project has measured:

    mine = Measured("mine", {"n20": np.array([[521.0, 498.3]])})
    mrlato = recorded(load("exp2"), "mrlato", updates=100)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from mrlato_jax.dag.dataset import DagDataset, data_folder
from mrlato_jax.errors import InputError, check_choice
from mrlato_jax.files import load_json
from mrlato_jax.results.comparison import Table, estimate, shares, won
from mrlato_jax.results.record import AS_WRITTEN
from mrlato_jax.results.reproduction import ALL as ADAPTED_TO_ALL
from mrlato_jax.training.run_folder import session

RESAMPLES = 10_000
ALL = "all sets"


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """One row of a comparison.

    Attributes:
        name: of the row.
        latency_ms: by test set, float[seeds, DAGs]: of each seed's policy the latency of each DAG, milliseconds. A
            planner has one seed.
    """

    name: str
    latency_ms: Mapping[str, np.ndarray]

    @property
    def seeds(self) -> int:
        """How many policies were measured."""
        return len(next(iter(self.latency_ms.values())))

    @property
    def mean_ms(self) -> dict[str, float]:
        """Mean latency on each test set, milliseconds."""
        return {name: float(latencies.mean()) for name, latencies in self.latency_ms.items()}


def recorded(dataset: DagDataset, method: str, *, updates: int = 0, folder: Path | None = None) -> Measured:
    """Reads what `launch/reproduce.py` measured of a planner, or of every seed of a learned method.

    Args:
        dataset: the data set of the experiment.
        method: a planner by the name of its row, such as `HEFT-based` or `optimum`, or a learned method.
        updates: gradient steps of adapting to each test set; records have a few numbers of them. Planners do not adapt.
        folder: OUT/PRESET of `launch/reproduce.py`; by default the records that come with the project.

    Raises:
        InputError: there is no such record, or the record is of other data or another package version.
    """
    folder = data_folder() / "results" / "cpu" if folder is None else Path(folder)
    planned = _rows(folder.parent / f"references-{dataset.name}.json", dataset)
    planners = list(next(iter(planned.values())))
    if method in planners:
        return Measured(method, {on: np.array([rows[method]["makespan_ms"]]) for on, rows in planned.items()})
    paths: dict[str, list[Path]] = {}
    for path in sorted(folder.glob(f"{escape(dataset.name)}-*-seed*.json")):
        paths.setdefault(path.stem.removeprefix(f"{dataset.name}-").rpartition("-seed")[0], []).append(path)
    check_choice("method", method, (*paths, *planners))
    seeds = [_rows(path, dataset) for path in paths[method]]
    by_dag = {on: [rows[on][ADAPTED_TO_ALL]["latency_ms_by_dag"] for rows in seeds] for on in planned}
    check_choice("updates", str(updates), list(next(iter(by_dag.values()))[0]))
    name = f"{method}, {updates} updates" if updates else f"{method}, no update"
    return Measured(name, {on: np.array([latencies[str(updates)] for latencies in of]) for on, of in by_dag.items()})


def _rows(path: Path, dataset: DagDataset) -> dict[str, Any]:
    """The rows of a record of this data set and this version of the package, by test set."""
    try:
        record = load_json(path, AS_WRITTEN)
    except FileNotFoundError:
        raise InputError(f"record {path} is missing; accepted: a data set and a folder that have records") from None
    identity, wanted = record["identity"], (dataset.content_hash, session()["versions"]["mrlato_jax"])
    if (identity["data_hash"], identity["version"]) != wanted:
        raise InputError(f"record {path} is of other data or another package version; accepted: one of this data set")
    found: dict[str, Any] = record["rows"]
    return found


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a method is from the reference.

    Attributes:
        percent: by which its mean latency exceeds the reference's; of several sets the mean of theirs.
        low: of the 95 % interval.
        high: of the 95 % interval.
        won: share of DAGs on which it is lower, in means over seeds.
        lost: share of DAGs on which it is higher.
    """

    percent: float
    low: float
    high: float
    won: float
    lost: float

    def __str__(self) -> str:
        """`-1.2 % [-1.5, -0.9]`."""
        return f"{self.percent:+.2f} % [{self.low:+.2f}, {self.high:+.2f}]"


def difference(
    ours: Measured, reference: Measured, sets: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Compares two methods on the same DAGs.

    The interval is a percentile bootstrap: each resample draws DAGs of every set, the same for both methods, and seeds
    of each method. With few seeds it is too narrow, since so few say little of the others; with one seed it is of the
    DAGs alone.

    Args:
        ours: what is compared.
        reference: what it is compared with.
        sets: the test sets that count, each as much as another.
        resamples: of the bootstrap.
        seed: of its draws.

    Raises:
        InputError: the two have other numbers of DAGs on a set.
    """
    rng = np.random.default_rng(seed)
    seeds = [_draws(rng, method.seeds, resamples) for method in (ours, reference)]
    percents, drawn, means = [], np.zeros(resamples), []
    for name in sets:
        values = [method.latency_ms[name] for method in (ours, reference)]
        count = values[0].shape[1]
        if values[1].shape[1] != count:
            raise InputError(
                f"{ours.name} has {count} DAGs on {name} and {reference.name} has {values[1].shape[1]}; accepted: the "
                "same DAGs"
            )
        dags = _draws(rng, count, resamples)
        mine, theirs = (_means(weights, latencies, dags) for weights, latencies in zip(seeds, values, strict=True))
        drawn += 100 * (mine / theirs - 1) / len(sets)
        percents.append(100 * (values[0].mean() / values[1].mean() - 1))
        means.append([latencies.mean(axis=0) for latencies in values])
    low, high = np.quantile(drawn, (0.025, 0.975))
    mine, theirs = (np.concatenate(side) for side in zip(*means, strict=True))
    return Difference(float(np.mean(percents)), float(low), float(high), *won(mine, theirs))


def _draws(rng: np.random.Generator, count: int, resamples: int) -> np.ndarray:
    """float[resamples, count]: what share of a resample is each of `count` things."""
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples) / count


def _means(seeds: np.ndarray, latencies: np.ndarray, dags: np.ndarray) -> np.ndarray:
    """float[resamples]: the mean latency of each resample."""
    return ((seeds @ latencies) * dags).sum(axis=1)


def latency_table(methods: Sequence[Measured], optima_ms: Mapping[str, float] | None = None) -> Table:
    """Mean latency of each method on each set; with the optima also the mean gap to them.

    Args:
        methods: the rows.
        optima_ms: mean optimum of each set in the priority order, milliseconds; None where it is not known.
    """
    sets = list(methods[0].latency_ms)
    title = "Mean latency in ms; ± is a 95 % interval over seeds (Student's t)"
    header = ["method", "seeds", *sets]
    if optima_ms is not None:
        title += ", and the mean of the sets' gaps to the optimum of the priority order in %"
        header.append("gap")
    cells = []
    for method in methods:
        line = [method.name, str(method.seeds)]
        line += [str(estimate(method.latency_ms[name].mean(axis=1))) for name in sets]
        if optima_ms is not None:
            line.append(f"{_gap(method, optima_ms):+.1f}")
        cells.append(line)
    return f"{title}.", header, cells


def difference_table(methods: Sequence[Measured], reference: Measured) -> Table:
    """Each method against the reference: on each set, and over all of them."""
    sets = list(reference.latency_ms)
    title = (
        f"Latency against {reference.name}, paired by DAG, in % with a 95 % bootstrap interval over DAGs and seeds; "
        "and the DAGs on which the method is lower / higher, in means over seeds."
    )
    header = ["method", *sets, *([ALL] if len(sets) > 1 else []), "DAGs won / lost"]
    cells = []
    for method in methods:
        if method is not reference:
            whole = difference(method, reference, sets)
            each = [difference(method, reference, [name]) for name in sets] if len(sets) > 1 else []
            cells.append([method.name, *map(str, [*each, whole]), shares((whole.won, whole.lost))])
    return title, header, cells


def long_form(
    methods: Sequence[Measured], reference: Measured, optima_ms: Mapping[str, float] | None = None
) -> tuple[list[str], list[list[str]]]:
    """One line for each method and set, and one for all sets together, for programs to read.

    Returns:
        Header and cells. A field that does not apply is empty.
    """
    sets = list(reference.latency_ms)
    header = [
        "method", "setting", "seeds", "dags", "latency_ms", "latency_half_width_ms", "gap_percent", "reference",
        "percent", "percent_low", "percent_high", "dags_won", "dags_lost",
    ]  # fmt: skip
    cells = []
    for method in methods:
        for parts in (*([name] for name in sets), *([sets] if len(sets) > 1 else [])):
            one = len(parts) == 1
            latency = estimate(np.mean([method.latency_ms[name].mean(axis=1) for name in parts], axis=0))
            gap = None if optima_ms is None else _gap(method, {name: optima_ms[name] for name in parts})
            numbers = [latency.mean, None if np.isnan(latency.half_width) else latency.half_width, gap]
            line = [method.name, parts[0] if one else ALL, str(method.seeds)]
            line.append(str(sum(method.latency_ms[name].shape[1] for name in parts)))
            line += ["" if number is None else f"{number:.4f}" for number in numbers]
            if method is reference:
                cells.append([*line, *[""] * 6])
                continue
            found = difference(method, reference, parts)
            cells.append([*line, reference.name, *(f"{value:.4f}" for value in dataclasses.astuple(found))])
    return header, cells


def _gap(method: Measured, optima_ms: Mapping[str, float]) -> float:
    """Mean over sets of the % by which a method's mean latency exceeds the mean optimum."""
    return float(np.mean([100 * (method.latency_ms[name].mean() / best - 1) for name, best in optima_ms.items()]))
