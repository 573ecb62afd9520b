"""Applications drawn in JAX: what must hold of each, and that they are distributed as those that numpy draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

import mrlato_jax as mj
from mrlato_jax.dag.families import FAMILIES, DaggenFamily, Family, StagedFamily, WideFamily
from mrlato_jax.environment.generator import Applications, draw, numbers

PADDED = 24
SYSTEM = {"ue_hz": 2e9, "vm_hz": 10e9, "uplink_bps": 5e6, "downlink_bps": 9e6}


def family(kind: type[Family], num_tasks: int, **more: Any) -> Family:
    shape = {} if kind is StagedFamily else {"fat": (0.3, 0.8), "density": (0.2, 0.9)}
    system = {} if kind is DaggenFamily else {"system": SYSTEM, "pinned": True}
    return kind(set_name="", split="train", num_tasks=num_tasks, **shape, **system, **more)


def drawn(kinds: list[Applications], count: int, seed: int, **options: Any) -> Iterator[mj.GraphArrays]:
    """`count` applications, each of the kinds in turn, on the host."""
    rows = numbers(kinds)
    turns = np.arange(count) % len(kinds)
    each = jax.tree.map(lambda leaf: leaf[turns], rows)
    options = {"num_positions": PADDED, "most_jump": 3, "pins": True} | options
    keys = jax.random.split(jax.random.key(seed), count)
    graphs = jax.device_get(jax.jit(jax.vmap(partial(draw, **options)))(each, keys))
    return (jax.tree.map(lambda leaf, i=i: leaf[i], graphs) for i in range(count))


def levels(parents: np.ndarray) -> np.ndarray:
    """Of each task the longest way to it, in edges; parents come first."""
    found = np.zeros(len(parents), int)
    for task, row in enumerate(parents):
        found[task] = 1 + found[row].max() if row.any() else 0
    return found


def measured(parents: np.ndarray, cycles: Any, upload: Any, download: Any, ue: Any, server: Any) -> list[float]:
    """Numbers of one application whose means are compared; of its ids, every parent first."""
    n, level = len(parents), levels(parents)
    computing = cycles[cycles > 0]
    spans = (level[:, None] - level[None, :])[parents]
    sent, got = upload.sum(), download.sum()
    return [
        level.max(),
        np.bincount(level).max(),
        (level == 0).sum(),
        parents.sum(),
        parents.sum(axis=1).max(),
        parents.sum(axis=0).max(),
        (spans > 1).mean() if spans.size else 0,
        np.log(cycles.sum() / n),
        np.log(1 + sent),
        np.log(1 + got),
        np.log(computing).std() if len(computing) > 1 else 0,
        np.log(1 + upload).std(),
        (cycles == 0).mean(),
        (upload == 0).mean(),
        abs(np.corrcoef(cycles, upload)[0, 1]) > 0.999 if upload.std() > 0 and cycles.std() > 0 else 0,
        (upload == download).all(),
        (~server).mean(),
        (~ue).mean(),
    ]


@pytest.mark.parametrize("kind", [DaggenFamily, WideFamily, StagedFamily])
def test_distributed_as_numpy_draws(kind: type[Family]) -> None:
    """Means of two samples of 400 differ by less than four standard errors, and so do spreads of the widths."""
    source, count, rng = family(kind, 17), 400, np.random.default_rng(5)
    ours = [
        measured(
            g.parents[:17, :17],
            g.cycles[:17],
            g.upload_bytes[:17],
            g.download_bytes[:17],
            g.at_ue[:17],
            g.at_server[:17],
        )
        for g in drawn([Applications.of_family(source)], count, seed=2)
    ]
    theirs = []
    for graph in (source.sample(rng) for _ in range(count)):
        pins = np.array(graph.pins)
        theirs.append(
            measured(
                graph.adjacency.T,
                graph.cycles,
                graph.upload_bytes,
                graph.download_bytes,
                pins != "server",
                pins != "ue",
            )
        )
    a, b = np.array(ours, float), np.array(theirs, float)
    error = np.sqrt((a.var(axis=0) + b.var(axis=0)) / count)
    assert (abs(a.mean(axis=0) - b.mean(axis=0)) <= 4 * error + 1e-6).all(), (a.mean(axis=0), b.mean(axis=0), error)
    np.testing.assert_allclose(a[:, :6].std(axis=0), b[:, :6].std(axis=0), rtol=0.25, atol=0.05)


def test_each_is_a_padded_dag_of_its_kind() -> None:
    """Several kinds of different sizes in one program; shapes by the rules of `daggen`."""
    kinds = [
        Applications(num_tasks=(1, 9), fat=(0.5, 0.5), density=(0.0, 0.0), ccr=(0.5,)),
        Applications(num_tasks=(24, 24), fat=(0.5, 0.5), density=(1.0, 1.0), regularity=0.0),
        Applications(num_tasks=(2, 20), shape="stages", cycles=(10, 20), upload_bytes=(3, 5), download_bytes=(7, 7)),
        Applications(num_tasks=(12, 12), fat=(0.4, 0.7), jump=(3, 3), regularity=0.0, pinned=True),
    ]
    sizes: list[set[int]] = [set() for _ in kinds]
    for number, graph in enumerate(drawn(kinds, 400, seed=0)):
        kind, n = kinds[number % 4], int(graph.mask.sum())
        sizes[number % 4].add(n)
        assert kind.num_tasks[0] <= n <= kind.num_tasks[1]
        assert graph.mask.tolist() == [i < n for i in range(PADDED)]
        assert not np.triu(graph.parents).any()
        assert not graph.parents[n:].any()
        assert not graph.parents[:, n:].any()
        for values in (graph.cycles, graph.upload_bytes, graph.download_bytes):
            assert (values[n:] == 0).all()
            assert (values == np.rint(values)).all()
        level = levels(graph.parents[:n, :n])
        if not kind.pinned:
            assert graph.at_ue.all()
            assert graph.at_server.all()
        if number % 4 == 0:  # one parent each, of the level above
            assert (graph.parents[:n].sum(axis=1) == (level > 0)).all()
            np.testing.assert_allclose(graph.cycles[:n], 2000 * graph.upload_bytes[:n], rtol=1e-6)
            assert (graph.upload_bytes[:n] >= 5e3).all()
            assert (graph.upload_bytes == graph.download_bytes).all()
        elif number % 4 == 1:  # width 4 = int(24**0.5), of which a task may need all
            assert (np.bincount(level) == 4).all()
            counts = graph.parents[:, :].sum(axis=1)[4:]
            assert (counts >= 1).all()
            assert (counts <= 4).all()
        elif number % 4 == 2:
            assert set(np.unique(graph.cycles[:n])) <= set(range(10, 21))
            assert set(np.unique(graph.upload_bytes[:n])) <= {3, 4, 5}
            assert (graph.download_bytes[:n] == 7).all()
        else:
            assert graph.at_ue[n:].all()
            assert (graph.at_ue | graph.at_server).all()
    assert sizes[0] == set(range(1, 10))
    assert sizes[1] == {24}
    assert len(sizes[2]) > 12


def test_a_key_gives_one_application() -> None:
    kinds = [Applications(num_tasks=(5, 9))]
    first, again, other = (next(drawn(kinds, 1, seed, pins=False)) for seed in (1, 1, 2))
    assert first.at_ue is None
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.cycles, other.cycles)


def test_every_family_has_applications() -> None:
    for families in FAMILIES.values():
        for one in families:
            kind = Applications.of_family(one)
            assert kind.num_tasks == (one.num_tasks, one.num_tasks)
            assert (kind.costs is not None) == (one.system is not None)
            assert kind.pinned == one.pinned
    rows = numbers([Applications.of_family(one) for one in FAMILIES["general"]])
    assert {leaf.shape[0] for leaf in jax.tree.leaves(rows)} == {len(FAMILIES["general"])}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_tasks", (0, 5)), ("num_tasks", (5, 4)), ("num_tasks", 5), ("num_tasks", (5, 1000)),
        ("num_tasks", (2.0, 5)),
        ("shape", "chain"), ("fat", (0.5, 1.5)), ("density", (-0.1, 1)), ("density", "ab"), ("regularity", 2.0),
        ("jump", (0, 1)), ("upload_bytes", None), ("upload_bytes", (-1, 1)), ("cycles", (1, np.inf)), ("ccr", ()),
        ("ccr", (0.0,)), ("cycles_per_byte", -1), ("costs", 3), ("meant_for", None), ("pinned", 1),
    ],
)  # fmt: skip
def test_refuses(field: str, value: Any) -> None:
    with pytest.raises(mj.InputError, match=rf"^{field}.* is .*accepted: "):
        dataclasses.replace(Applications(), **{field: value})


def test_unknown_family() -> None:
    class Mine(Family):
        def sample(self, rng: np.random.Generator, data_unit: str = "KB") -> mj.TaskGraph:
            raise NotImplementedError

    with pytest.raises(mj.InputError, match="accepted: DaggenFamily, WideFamily, StagedFamily"):
        Applications.of_family(Mine(set_name="", split="train", num_tasks=3))
