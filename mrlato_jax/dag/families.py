"""Families of graphs, from which the data sets are drawn: the paper's, and those of the policy `general`."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mrlato_jax.dag.daggen import daggen
from mrlato_jax.dag.task_graph import TaskGraph

TASK_SECONDS = 0.05  # mean time of a task on the UE, in the families of the policy `general`
MOST_JUMP = 3  # most levels that an edge spans, drawn for each DAG
LEAST_STAGES, MOST_STAGES = 2, 8
IN_FULL = 0.3  # share of the stages in which each task needs all tasks of the stage before
MOST_IN_FULL = 64  # most edges between two such stages
FURTHER = 0.3  # share of the stages that also take data from the stage before the previous stage
UNUSUAL = 0.1  # in DAGs with unusual tasks: share of tasks that compute nothing, and again that transfer nothing
MOST_PINNED = 0.3  # greatest share of pinned tasks, in DAGs whose pins are not at their ends


class Costs(NamedTuple):
    """Costs of the tasks of a family. The mean task computes for `TASK_SECONDS` on the UE.

    Attributes:
        upload: least and greatest time of all uploads of a DAG, relative to computing locally; log-uniform.
        download: least and greatest time of all downloads, in the same way.
        of_stages: greatest sigma of the log-normal factors between stages; each DAG draws its sigma.
        of_tasks: greatest sigma of the log-normal factors between tasks (of a stage); each DAG draws its sigma.
        alike: share of the DAGs whose tasks upload and download equal bytes, in proportion to their cycles.
        unusual: share of the DAGs in which a share `UNUSUAL` of the tasks computes nothing, and again transfers
            nothing.
    """

    upload: tuple[float, float]
    download: tuple[float, float]
    of_stages: float
    of_tasks: float
    alike: float
    unusual: float


WIDE_COSTS = Costs((1 / 30, 10), (1 / 100, 10), of_stages=0.0, of_tasks=1.5, alike=0.3, unusual=0.2)
STAGED_COSTS = Costs((1 / 1000, 3), (1 / 1000, 3), of_stages=2.5, of_tasks=0.4, alike=0.0, unusual=0.0)

# Further kinds of systems that the policy `general` is trained on: servers, channel rules and radio.
KINDS = (
    (1, "paper", "shared"),
    (1, "resident", "shared"),
    (2, "paper", "shared"),
    (2, "resident", "shared"),
    (3, "paper", "shared"),
    (3, "resident", "shared"),
    (3, "paper", "separate"),
    (2, "resident", "separate"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family(abc.ABC):
    """A distribution of graphs, from which one set is drawn.

    Attributes:
        set_name: name of the set.
        split: "train" or "test".
        num_tasks: number of tasks of every graph.
        system: the system of the graphs, with fields named as in `System`; None where the experiment has the system.
        energy_weight: energy weight of the objective, seconds per joule.
        pinned: whether graphs have pins.
        kind: entry of `KINDS` that the system was drawn from, if any.
    """

    set_name: str
    split: str
    num_tasks: int
    system: Mapping[str, Any] | None = None
    energy_weight: float = 0.0
    pinned: bool = False
    kind: tuple[int, str, str] | None = None

    @abc.abstractmethod
    def sample(self, rng: np.random.Generator, data_unit: str = "KB") -> TaskGraph:
        """Draws one graph with `rng.random` only, whose stream is the same in every numpy."""

    def number(self, name: str) -> float:
        """Returns a clock or rate of the system; with several servers, that of the first."""
        assert self.system is not None
        value = self.system[name]
        return float(value[0] if isinstance(value, list | tuple) else value)

    def described(self) -> dict[str, Any]:
        """Returns the family's entry in a data set's settings."""
        return {"num_tasks": self.num_tasks}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DaggenFamily(Family):
    """The paper's families: uniform ranges of fat and density."""

    fat: tuple[float, float]
    density: tuple[float, float]

    def sample(self, rng: np.random.Generator, data_unit: str = "KB") -> TaskGraph:
        """Draws one graph: its fat, its density, then `daggen`, which also draws the ccr."""
        fat, density = (low + (high - low) * rng.random() for low, high in (self.fat, self.density))
        return daggen(self.num_tasks, fat, density, rng, data_unit=data_unit)

    def described(self) -> dict[str, Any]:
        """Returns the family's entry in a data set's settings."""
        return {**super().described(), "fat": self.fat, "density": self.density}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WideFamily(DaggenFamily):
    """Applications with one number of tasks and widely different costs, for one system."""

    system: Mapping[str, Any] = dataclasses.field()  # required here

    def sample(self, rng: np.random.Generator, data_unit: str = "KB") -> TaskGraph:
        """Draws one graph: its shape, the ratio of transfers to computing, and the spread of its tasks.

        Computing locally takes 50 ms per task in the mean. All uploads of the DAG take 1/30 to 10 times as long as
        computing locally, all downloads 1/100 to 10 times. Single tasks deviate by log-normal factors, whose sigma each
        DAG draws from 0 to 1.5. Three in ten DAGs are like the paper's: tasks download as many bytes as they upload, in
        proportion to the cycles. In two of ten DAGs, one task in ten computes nothing, and one in ten sends and gets
        nothing.
        """
        costs = WIDE_COSTS
        fat, density = (low + (high - low) * rng.random() for low, high in (self.fat, self.density))
        jump = 1 + int(MOST_JUMP * rng.random())
        shape = daggen(self.num_tasks, fat, density, rng, jump=jump, data_unit=data_unit)
        cycles = TASK_SECONDS * self.number("ue_hz") * _spread(rng, self.num_tasks, costs.of_tasks)
        seconds = cycles.sum() / self.number("ue_hz") / self.num_tasks
        alike = rng.random() < costs.alike
        upload = seconds * _log_uniform(rng, *costs.upload) * self.number("uplink_bps") / 8
        upload = upload * _spread(rng, self.num_tasks, costs.of_tasks)
        download = seconds * _log_uniform(rng, *costs.download) * self.number("downlink_bps") / 8
        download = download * _spread(rng, self.num_tasks, costs.of_tasks)
        if alike:
            upload = upload.mean() * cycles / cycles.mean()
            download = upload
        idle, silent = rng.random(self.num_tasks) < UNUSUAL, rng.random(self.num_tasks) < UNUSUAL
        idle &= ~silent
        if rng.random() < costs.unusual and not idle.all():
            cycles = np.where(idle, 0, cycles)
            upload, download = np.where(silent, 0, upload), np.where(silent, 0, download)
        return _in_whole_units(cycles, upload, download, shape.edges, _pins(rng, shape) if self.pinned else ())


@dataclasses.dataclass(frozen=True, kw_only=True)
class StagedFamily(Family):
    """Workflows of stages, for one system: the tasks of a stage do the same work on different data."""

    system: Mapping[str, Any] = dataclasses.field()  # required here

    def sample(self, rng: np.random.Generator, data_unit: str = "KB") -> TaskGraph:
        """Draws one graph: its stages, the edges between stages, and the costs of its tasks.

        There are 2 to `MOST_STAGES` stages, of widths in proportion to the squares of exponential draws. A stage takes
        its data from the stage before, piece by piece: each task of the wider stage has one partner in the narrower
        stage. In three of ten stages, if the edges are at most `MOST_IN_FULL`, every task needs all tasks of the stage
        before. Three of ten stages also take data from the stage before the previous stage. Computing locally takes
        50 ms per task in the mean. All uploads of the DAG, and all downloads, take 1/1000 to 3 times as long. Stages
        deviate by log-normal factors, whose sigma each DAG draws from 0 to 2.5, and the tasks of a stage by factors
        with a sigma from 0 to 0.4.
        """
        n, costs = self.num_tasks, STAGED_COSTS
        most = min(MOST_STAGES, n)
        count = min(n, LEAST_STAGES + int((most - 1) * rng.random()))
        weights = np.square(np.log(1 - rng.random(count)))
        widths = 1 + np.floor((n - count) * weights / max(weights.sum(), 1e-300)).astype(np.int64)
        widths[np.argmax(weights)] += n - widths.sum()
        starts = np.concatenate([[0], np.cumsum(widths)])
        edges: set[tuple[int, int]] = set()
        for stage in range(1, count):
            full = rng.random() < IN_FULL and widths[stage - 1] * widths[stage] <= MOST_IN_FULL
            further = rng.random() < FURTHER and stage > 1
            for source in (stage - 1, stage - 2)[: 1 + further]:
                pairs = max(widths[source], widths[stage])
                for pair in range(pairs):
                    edges.add(
                        (
                            int(starts[source] + pair * widths[source] // pairs),
                            int(starts[stage] + pair * widths[stage] // pairs),
                        )
                    )
            if full:
                parents, children = (range(starts[place], starts[place + 1]) for place in (stage - 1, stage))
                edges.update((parent, child) for parent in parents for child in children)
        stage_of = np.repeat(np.arange(count), widths)

        def by_stage() -> NDArray[np.float64]:
            factors = _spread(rng, count, costs.of_stages)[stage_of] * _spread(rng, n, costs.of_tasks)
            return factors / factors.mean()

        cycles = TASK_SECONDS * self.number("ue_hz") * by_stage()
        upload = TASK_SECONDS * _log_uniform(rng, *costs.upload) * self.number("uplink_bps") / 8 * by_stage()
        download = TASK_SECONDS * _log_uniform(rng, *costs.download) * self.number("downlink_bps") / 8 * by_stage()
        graph = _in_whole_units(cycles, upload, download, sorted(edges))
        return dataclasses.replace(graph, pins=tuple(_pins(rng, graph))) if self.pinned else graph


def family_of_kind(
    kind: tuple[int, str, str], num_tasks: int, rng: np.random.Generator, *, staged: bool, energy: bool, pinned: bool
) -> Family:
    """Returns a training family of a kind of `KINDS`: draws its system, and with `energy` its weight of energy."""
    servers, channel, radio = kind
    system = draw_system(rng, *kind)
    return (StagedFamily if staged else WideFamily)(
        set_name=f"n{num_tasks}_servers{servers}_{channel}_{radio}",
        split="train",
        num_tasks=num_tasks,
        system=system,
        energy_weight=draw_weight(rng) if energy else 0.0,
        pinned=pinned,
        kind=kind,
        **({} if staged else {"fat": (0.2, 0.9), "density": (0.1, 0.9)}),
    )


def redrawn(family: Family, rng: np.random.Generator) -> Family:
    """Returns another family of the same kind and size, or `family` itself where it has no kind.

    The system, weight of energy, pins and shape are drawn anew. One in three families is of stages, one in two has
    pins, and one in two has a weight.
    """
    if family.kind is None:
        return family
    staged, energy, pinned = rng.random() < 1 / 3, rng.random() < 0.5, rng.random() < 0.5
    return family_of_kind(family.kind, family.num_tasks, rng, staged=staged, energy=energy, pinned=pinned)


def draw_system(rng: np.random.Generator, servers: int, channel: str, radio: str) -> dict[str, Any]:
    """Draws the fields of a `System`; servers differ by factors of up to 20 in clock, 10 and 20 in the rates."""
    return {
        "ue_hz": 1e9,
        "vm_hz": [_log_uniform(rng, 3e9, 60e9) for _ in range(servers)],
        "uplink_bps": [_log_uniform(rng, 3e6, 30e6) for _ in range(servers)],
        "downlink_bps": [_log_uniform(rng, 3e6, 60e6) for _ in range(servers)],
        "channel": channel,
        "radio": radio,
        "backhaul_bps": _log_uniform(rng, 3e7, 3e9),
    }


def draw_weight(rng: np.random.Generator) -> float:
    """Draws a weight of energy, seconds per joule. With the default `Power`, energy counts a little to nearly alone."""
    return _log_uniform(rng, 0.05, 20)


def _spread(rng: np.random.Generator, count: int, most: float) -> NDArray[np.float64]:
    """Draws log-normal factors of mean 1; their sigma is uniform up to `most`."""
    # The method of Box and Muller: only `rng.random` gives the same stream in every numpy.
    radius = np.sqrt(-2 * np.log(1 - rng.random(count)))
    normal = radius * np.cos(2 * np.pi * rng.random(count))
    factors = np.exp(most * rng.random() * normal)
    return factors / factors.mean()


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(low * (high / low) ** rng.random())


def _in_whole_units(cycles: Any, upload: Any, download: Any, edges: Any, pins: Any = ()) -> TaskGraph:
    return TaskGraph.from_edges(
        cycles=np.rint(cycles), upload_bytes=np.rint(upload), download_bytes=np.rint(download), edges=edges, pins=pins
    )


def _pins(rng: np.random.Generator, graph: TaskGraph) -> list[str]:
    """Draws pins.

    In half of the graphs, about half of the tasks without parents or without children run on the UE, as cameras and
    screens do. In the other half, up to three in ten of all tasks run on the UE or on a server.
    """
    ends, share = rng.random() < 0.5, MOST_PINNED * rng.random()
    drawn, on_ue = rng.random(graph.num_tasks), rng.random(graph.num_tasks) < 0.5
    if not ends:
        return ["any" if draw >= share else "ue" if ue else "server" for draw, ue in zip(drawn, on_ue, strict=True)]
    parents, children = (np.bincount(graph.edges[:, side], minlength=graph.num_tasks) for side in (1, 0))
    return ["ue" if (parents[i] == 0 or children[i] == 0) and on_ue[i] else "any" for i in range(graph.num_tasks)]


def _topology_families() -> tuple[Family, ...]:
    """Experiment 1: a grid of shapes."""
    grid = (0.4, 0.5, 0.6, 0.7, 0.8)
    test = ((0.7, 0.4), (0.7, 0.7), (0.8, 0.6))
    return tuple(
        DaggenFamily(
            set_name=f"fat{fat}_density{density}",
            split="test" if (fat, density) in test else "train",
            num_tasks=25,
            fat=(fat, fat),
            density=(density, density),
        )
        for fat in grid
        for density in grid
    )


def _size_families() -> tuple[Family, ...]:
    """Experiment 2: a grid of numbers of tasks."""
    return tuple(
        DaggenFamily(
            set_name=f"n{n}",
            split="test" if n in (20, 30, 40) else "train",
            num_tasks=n,
            fat=(0.4, 0.8),
            density=(0.4, 0.8),
        )
        for n in (10, 15, 20, 25, 30, 35, 40, 45, 50)
    )


def _rate_families() -> tuple[Family, ...]:
    """Experiment 3: the same family in every set; the sets differ in the rate, which belongs to the system."""
    names = [*(f"train{i:02d}" for i in range(24)), "test"]
    return tuple(
        DaggenFamily(
            set_name=name,
            split="test" if name == "test" else "train",
            num_tasks=25,
            fat=(0.4, 0.8),
            density=(0.4, 0.8),
        )
        for name in names
    )


def _general_families() -> tuple[Family, ...]:
    """The policy `general`: many sizes, on systems whose links and servers differ."""
    names = ("ue_hz", "vm_hz", "uplink_bps", "downlink_bps")
    numbers = ((1e9, 10e9, 7e6, 7e6), (1.5e9, 4e9, 20e6, 60e6), (2e9, 80e9, 100e6, 300e6))
    systems = [dict(zip(names, row, strict=True)) for row in numbers]

    def wide(n: int, number: int, split: str) -> Family:
        return WideFamily(
            set_name=f"n{n}_system{number}",
            split=split,
            num_tasks=n,
            fat=(0.2, 0.9),
            density=(0.1, 0.9),
            system=systems[number],
        )

    def staged(n: int, number: int, split: str) -> Family:
        return StagedFamily(set_name=f"staged_n{n}_system{number}", split=split, num_tasks=n, system=systems[number])

    def of_kind(kind: int, place: int, n: int) -> Family:
        """Returns a family; shapes, weights and pins alternate over the sizes, shifted in each kind."""
        turn = place + kind
        staged, energy, pinned = place % 3 == 2, turn % 2 == 1, turn // 2 % 2 == 1
        rng = np.random.default_rng([kind, place])
        return family_of_kind(KINDS[kind], n, rng, staged=staged, energy=energy, pinned=pinned)

    sizes = (5, 8, 10, 12, 14, 16, 19, 22, 25, 30)
    # New families come last, since the place of a family seeds its DAGs.
    return (
        *(wide(n, i, "train") for n in (2, 3, 5, 8, 12, 16, 20, 25, 30, 36, 42, 50, 60) for i in range(3)),
        *(wide(n, i, "test") for n, i in ((10, 0), (22, 1), (28, 2), (46, 0))),
        *(staged(n, i, "train") for n in (5, 12, 20, 30, 42, 60) for i in range(3)),
        *(staged(n, i, "test") for n, i in ((16, 1), (36, 2))),
        *(kind(90, i, "train") for kind in (wide, staged) for i in range(3)),
        wide(75, 1, "test"),
        *(of_kind(kind, place, n) for kind in range(len(KINDS)) for place, n in enumerate(sizes)),
    )


FAMILIES: Mapping[str, tuple[Family, ...]] = {
    "exp1": _topology_families(),
    "exp2": _size_families(),
    "exp3": _rate_families(),
    "general": _general_families(),
}
