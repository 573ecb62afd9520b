"""The bound for all orders, beside every order and every placement of the oracle."""

from __future__ import annotations

import itertools

import numpy as np
import oracle
import pytest
from wider import Case, Kind, random_case

import mrlato_jax as mj
from mrlato_jax.planners.any_order import TOLERANCE, bounded

KINDS = (
    Kind(1, "paper"),
    Kind(1, "resident"),
    Kind(2, "resident", pinned=True),
    Kind(2, "resident", "separate"),
    Kind(2, "paper", "separate", pinned=True),
)


def least(case: Case, weight: float) -> float:
    """The least cost of all placements in all orders."""
    dag, edge = case.dag, case.edge
    sites = [list(oracle.allowed_sites(edge, pin)) for pin in case.pins]
    return min(
        result.makespan + weight * result.energy
        for order in itertools.permutations(range(dag.num_tasks))
        if oracle.is_linear_extension(dag, order)
        for placement in itertools.product(*sites)
        for result in [oracle.outcome(dag, edge, placement, order)]
    )


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_beside_all_plans(kind: Kind) -> None:
    pytest.importorskip("ortools")
    rng, reached = np.random.default_rng(3), 0
    for number in range(4):
        case = random_case(rng, kind, 4)
        case = case._replace(edge=case.edge._replace(power=(*case.edge.power[:3], 0.0)))
        weight = 0.4 * (number % 2)
        goal, want = mj.Objective(energy_weight=weight), least(case, weight)
        known = mj.all_local(case.graph, case.system) if not kind.pinned else mj.heft(case.graph, case.system)
        found = bounded(case.graph, case.system, known, goal)
        cost = goal.cost(found.plan.makespan, found.plan.energy)
        assert found.lower_bound <= want * (1 + 1e-9)
        assert cost >= want * (1 - 1e-9)
        assert found.proven == (found.lower_bound >= cost * (1 - TOLERANCE))
        assert found.lower_bound >= want * 0.8  # the relaxation is no empty bound
        reached += found.proven
    assert reached >= 3


def test_a_system_that_it_cannot_take() -> None:
    graph = mj.TaskGraph.from_edges(cycles=[1e8, 1e8], upload_bytes=[1, 1], download_bytes=[1, 1], edges=[(0, 1)])
    for system, goal in (
        (mj.System(channel="mrlco"), None),
        (mj.System(), mj.Objective(deadline_s=1.0)),
        (mj.System(power=mj.Power(idle_w=0.1)), None),
    ):
        known = mj.simulate(graph, system, [0, 0])
        with pytest.raises(mj.InputError, match="accepted: channel 'paper' or 'resident'"):
            bounded(graph, system, known, goal)  # type: ignore[arg-type]
