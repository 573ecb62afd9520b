"""Applications by their names: files of DAGs."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.edge import cases

GRAPH = mj.daggen(6, 0.6, 0.6, np.random.default_rng(1))


@pytest.mark.parametrize(
    ("ending", "write"),
    [
        (".json", lambda path: mj.write_json(GRAPH, path)),
        (".GraphML", lambda path: nx.write_graphml(GRAPH.to_networkx(), path)),
        (".xml", lambda path: nx.write_graphml(GRAPH.to_networkx(), path)),
        (".gml", lambda path: nx.write_gml(GRAPH.to_networkx(), path)),
    ],
)
def test_a_file_of_a_dag_is_an_application(ending: str, write, tmp_path: Path) -> None:
    path = tmp_path / f"mine{ending}"
    write(path)
    case = cases.case(str(path), mj.System())
    assert (case.name, case.app) == ("mine", cases.DAGS)
    np.testing.assert_allclose(case.graph.cycles, GRAPH.cycles)
    assert case.graph.edges.tolist() == GRAPH.edges.tolist()


def test_a_file_that_leaves_units_open_is_refused_by_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "mine.stg"
    path.write_text("1\n0 0 0\n1 4 1 0\n2 0 1 1\n")
    with pytest.raises(
        mj.InputError, match=r"mine\.stg, STG, which does not say cycles_per_unit; accepted: a file that"
    ):
        cases.deployed(str(path))
