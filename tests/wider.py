"""Random systems of several servers, pins and powers, and the way from the oracle's records to the package's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from helpers import random_dag, random_order
from numpy.random import Generator
from oracle import Dag, Edge

import mrlato_jax as mj


class Kind(NamedTuple):
    """What is compiled apart."""

    servers: int
    channel: str
    radio: str = "shared"
    pinned: bool = False


KINDS = (
    Kind(1, "resident"),
    Kind(3, "resident", pinned=True),
    Kind(2, "resident", "separate"),
    Kind(3, "paper", pinned=True),
    Kind(2, "paper", "separate"),
    Kind(2, "mrlco"),
    Kind(2, "mrlco_code", "separate"),
)


class Case(NamedTuple):
    """An application on a system, with an order and sites that its pins allow."""

    dag: Dag
    edge: Edge
    pins: list[str]
    order: list[int]
    sites: list[int]

    @property
    def graph(self) -> mj.TaskGraph:
        return mj.TaskGraph.from_edges(
            cycles=self.dag.cycles,
            upload_bytes=self.dag.upload_bytes,
            download_bytes=self.dag.download_bytes,
            edges=self.dag.edges,
            pins=self.pins,
        )

    @property
    def system(self) -> mj.System:
        edge = self.edge
        return mj.System(
            edge.ue_hz, list(edge.vm_hz), list(edge.uplink_bps), list(edge.downlink_bps), edge.channel, edge.radio,
            edge.backhaul_bps, mj.Power(*edge.power),
        )  # fmt: skip


def random_case(rng: Generator, kind: Kind, num_tasks: int, *, exact: bool = False) -> Case:
    """With `exact`, all times are few-bit numbers, zero among them, so that ties are frequent."""
    dag, count = random_dag(rng, num_tasks, free=0.2), kind.servers
    if exact:
        columns = [rng.integers(0, 4, num_tasks).astype(float).tolist() for _ in range(3)]
        dag = Dag(*columns, edges=dag.edges)
        numbers = [rng.choice(choices, count).tolist() for choices in ([1.0, 2.0, 4.0], [8.0, 16.0], [8.0, 32.0])]
        ue_hz, backhaul = float(rng.choice([0.5, 1.0])), float(rng.choice([16.0, 64.0]))
        power = (1.0, 0.5, 0.25, float(rng.choice([0.0, 0.125])))
    else:
        numbers = [rng.uniform(low, high, count).tolist() for low, high in ((4e9, 2e10), (2e6, 22e6), (2e6, 22e6))]
        ue_hz, backhaul = float(rng.uniform(5e8, 2e9)), float(10 ** rng.uniform(7, 9))
        power = tuple(rng.uniform(0, 2, 4).tolist())
    edge = Edge(ue_hz, *map(tuple, numbers), kind.channel, kind.radio, backhaul, power)
    pins = ["any"] * num_tasks
    if kind.pinned:
        pins = ["ue", *rng.choice(["any", "ue", "server"], num_tasks - 1, p=[0.7, 0.15, 0.15]).tolist()]
    return Case(dag, edge, pins, random_order(rng, dag), random_sites(rng, pins, count))


def random_sites(rng: Generator, pins: Sequence[str], servers: int) -> list[int]:
    low = {"any": 0, "ue": 0, "server": 1}
    high = {"any": servers, "ue": 0, "server": servers}
    return [int(rng.integers(low[pin], high[pin] + 1)) for pin in pins]


def allowed(plan: mj.Plan, pins: Sequence[str]) -> bool:
    """Whether a plan is at sites that the pins allow."""
    return all(pin == "any" or (site > 0) == (pin == "server") for site, pin in zip(plan.placement, pins, strict=True))


def seconds_and_joules(plan: mj.Plan) -> np.ndarray:
    return np.array([plan.makespan, plan.energy])
