"""Files that are nearly right, many of them: each must give a valid graph or our own error, soon and in little memory.

    python tests/dag/formats/fuzzing.py FORMAT,FORMAT COUNT SEED

runs in a process of its own, whose memory is bounded, and prints of each format how many were read and refused. A
crash, another exception, or an input that takes longer than `MOST_SECONDS` ends it with the input's number, seed and
bytes.
"""

from __future__ import annotations

import copy
import json
import os
import random
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import mrlato_jax as mj
from mrlato_jax.dag.formats import onnx_inference, onnx_model

MOST_SECONDS = 2.0  # of processor time
MOST_BYTES = 6 * 2**30  # of address space, of which importing takes most
ONE_APART = 20  # of so many models one has its shapes inferred in a process of its own, as all have elsewhere
FORMATS = ("dot", "json", "wfformat", "onnx", "graphml", "gml", "node_link", "saga", "stg", "dax")
ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, -0.0, 10**9, 10**400, "", "x", "NaN", "\x00", [], {}, [[]], {"name": "x"},
)  # fmt: skip
TOKENS = [
    b"1e999", b"-1", b"999999999999", b"->", b"{", b"}", b"[", b"]", b'"', b"\\", b"/*", b"#", b"\x00", b"\xff", b"\n",
    b",", b"null", b"NaN", b"size=", b"0 -> 0", b"digraph", b":", b"{" * 2000, b"[" * 2000, b"9" * 5000,
]  # fmt: skip


def graphs() -> list[mj.TaskGraph]:
    """A few small ones."""
    return [mj.daggen(n, 0.6, 0.5, np.random.default_rng(n)) for n in (1, 3, 8)]


def dot_seeds() -> list[bytes]:
    """As daggen writes them."""
    found = []
    for graph in graphs():
        lines = [
            f'  {task} [size="{sent:.0f}", alpha="0.1", expect_size="{got:.0f}"]'
            for task, (sent, got) in enumerate(zip(graph.upload_bytes, graph.download_bytes, strict=True))
        ]
        lines += [f'  {parent} -> {child} [size ="7"]' for parent, child in graph.edges.tolist()]
        found.append("\n".join(["// made here", "digraph G {", *lines, "}"]).encode())
    return found


def dot_language_seeds() -> list[bytes]:
    """As daggen writes them, and others that use what else the language has."""
    language = """strict digraph "g" { node [size=1, expect_size=2; pin=ue] edge [size=3]; rankdir=LR
      subgraph cluster_a { label=<<b>x</b>>; node [size=4] a:n -> "b c":p:s; { d e } -> { f; subgraph cluster_a { } } }
      a [color=red] /* again */ ; -1.5 -> "x" + "y" [label="a \\" b"][size=5] // end
      # a line
 }"""
    upstream = 'digraph { 1 [size="2e9", alpha="0.1"] 2 [size="3e9"] 3 [size=1] 1 -> {2 3} [size ="40000"] 2 -> 3 }'
    return [*dot_seeds(), language.encode(), upstream.encode()]


def graphml_seeds() -> list[bytes]:
    """As networkx writes them, and with defaults and a group."""
    import networkx as nx

    group = """<?xml version="1.0"?><graphml xmlns="u">
      <key id="c" for="node" attr.name="cycles"><default>3</default></key><key id="b" for="edge" attr.name="bytes"/>
      <graph edgedefault="directed">
      <node id="g"><graph edgedefault="directed"><node id="a"><data key="c">4e7</data></node></graph></node>
      <node id="n1"/><edge source="a" target="n1"><data key="b">20000</data></edge></graph></graphml>"""
    return [*("\n".join(nx.generate_graphml(graph.to_networkx())).encode() for graph in graphs()), group.encode()]


def gml_seeds() -> list[bytes]:
    """As networkx writes them."""
    import networkx as nx

    return ["\n".join(nx.generate_gml(graph.to_networkx())).encode() for graph in graphs()]


def node_link_seeds() -> list[bytes]:
    """As networkx writes them."""
    import networkx as nx

    found = [nx.node_link_data(graph.to_networkx(), edges=edges) for graph in graphs() for edges in ("links", "edges")]
    return [json.dumps(value).encode() for value in found]


def saga_seeds() -> list[bytes]:
    """A problem, and a task graph alone."""
    from test_stg import SAGA

    return [json.dumps(top).encode() for top in (SAGA, SAGA["task_graph"])]


def stg_seeds() -> list[bytes]:
    """Without communication costs and with them."""
    from test_stg import COSTS, STG

    return [STG.encode(), COSTS.encode()]


def dax_seeds() -> list[bytes]:
    """Files with one writer and with two."""
    from test_dax import DAX, TWO

    return [DAX.encode(), TWO.encode()]


def json_seeds() -> list[bytes]:
    """Of our own format."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for graph in graphs():
            mj.write_json(graph, Path(folder) / "g.json")
            found.append((Path(folder) / "g.json").read_bytes())
    return found


def wfformat_seeds() -> list[bytes]:
    """Of three versions, and one in which tasks rewrite each other's files."""
    from test_wfformat import V15, of_files, older, v14

    rewritten = of_files(("a", "", "z", "x"), ("b", "a", "x", "x"), ("c", "a", "xz", "x"), ("d", "bc", "x", ""))
    return [json.dumps(value).encode() for value in (V15, v14(), older("1.3"), rewritten)]


def onnx_seeds() -> list[bytes]:
    """Operators whose work is counted apart, an If of sizes, and the smallest networks that come with the package."""
    import onnx
    from test_onnx_left_open import squeezed
    from test_onnx_model import BUNDLED, helper, tensor, weight

    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "g"], ["o"], transB=1),
        helper.make_node("Shape", ["o"], ["s"]),
        helper.make_node("Reshape", ["o", "s"], ["y"]),
    ]
    weights = [weight("w", (2, 3, 3, 3)), weight("g", (5, 18))]
    graph = helper.make_graph(nodes, "g", [tensor("x", [1, 3, 4, 4])], [tensor("y", [1, 5])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    bundled = [path.read_bytes() for path in sorted(BUNDLED.glob("light_*.onnx")) if path.stat().st_size < 5000]
    assert onnx.checker.check_model(model) is None
    with tempfile.TemporaryDirectory() as folder:
        ifs = [squeezed(Path(folder) / "if.onnx", batch).read_bytes() for batch in (1, 2)]
    return [model.SerializeToString()] * 3 + ifs + bundled


def bytes_changed(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """A few bytes, stretches or tokens other than they were."""
    value = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        place, end = sorted(rng.randrange(len(value) + 1) for _ in range(2)) if value else (0, 0)
        end = min(end, place + rng.choice((1, 4, 64)))
        match rng.randrange(6):
            case 0 if value and place < len(value):
                value[place] = rng.randrange(256)
            case 1:
                del value[place:end]
            case 2:
                value[place:place] = value[place:end] * rng.choice((1, 2, 50))
            case 3:
                value[place:place] = rng.choice(TOKENS)
            case 4:
                other = rng.choice(others)
                start = rng.randrange(len(other))
                value[place:end] = other[start : start + 40]
            case 5:
                del value[rng.choice((place, len(value) // 2)) :]
    return bytes(value)


def json_changed(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    """Values within other than they were, or gone, or of another place."""
    top = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        spots = list(places(top))
        if not spots:
            break
        holder, key = rng.choice(spots)
        match rng.randrange(4):
            case 0:
                del holder[key]
            case 1:
                holder[key] = copy.deepcopy(rng.choice(ODD_VALUES))
            case 2:
                other, theirs = rng.choice(spots)
                holder[key] = json.loads(json.dumps(other[theirs])) if theirs in range_of(other) else None
            case 3:
                holder[key] = [holder[key]] * rng.choice((0, 1, 3))
    return json.dumps(top).encode()


def places(value: Any) -> Any:
    """All (container, key) within."""
    for key in list(range_of(value)):
        yield value, key
        yield from places(value[key])


def range_of(value: Any) -> Any:
    """The keys of a container; none of anything else."""
    return value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()


def onnx_changed(data: bytes, rng: random.Random, _: list[bytes]) -> bytes:
    """Dimensions, names, operators and attributes other than they were."""
    import onnx

    model = onnx.load_model_from_string(data)
    graph = model.graph
    kinds = sorted({schema.name for schema in onnx.defs.get_all_schemas()})
    for _ in range(rng.choice((1, 1, 2, 4))):
        node = rng.choice(graph.node)
        match rng.randrange(7):
            case 0:
                node.op_type = rng.choice(kinds)
            case 1 if node.input:
                node.input[rng.randrange(len(node.input))] = rng.choice([other.output[0] for other in graph.node])
            case 2:
                dimensions = rng.choice(graph.input).type.tensor_type.shape.dim
                if dimensions:
                    rng.choice(dimensions).dim_value = rng.choice((0, -1, 1, 7, 10**9, 2**62))
            case 3 if node.attribute:
                attribute = rng.choice(node.attribute)
                attribute.i = rng.choice((0, -1, 10**9, 2**62))
                attribute.ints.extend([rng.choice((0, -1, 3, 2**40))] * rng.randrange(3))
            case 4 if graph.initializer:
                weight = rng.choice(graph.initializer)
                weight.dims.extend([rng.choice((0, 1, 10**9, 2**62))])
            case 5:
                graph.node.append(node)
            case 6:
                model.opset_import[0].version = rng.choice((0, 1, 7, 13, 21, 10**6))
    return model.SerializeToString()


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "dot": dot_language_seeds, "json": json_seeds, "wfformat": wfformat_seeds, "onnx": onnx_seeds,
    "graphml": graphml_seeds, "gml": gml_seeds, "node_link": node_link_seeds, "saga": saga_seeds, "stg": stg_seeds,
    "dax": dax_seeds,
}  # fmt: skip
CHANGES = {
    **dict.fromkeys(SEEDS, (bytes_changed,)),
    **dict.fromkeys(("json", "wfformat", "node_link", "saga"), (bytes_changed, json_changed)),
    "onnx": (bytes_changed, onnx_changed),
}


def read_stg(path: Path) -> mj.TaskGraph:
    """With what a file of either kind leaves to be said."""
    given = {"bytes_per_unit" if path.read_bytes().startswith(b"2") else "result_bytes": 3.0}
    return mj.read_stg(path, cycles_per_unit=1e6, num_tasks=4, **given)


READERS: dict[str, Callable[[Path], mj.TaskGraph]] = {
    "dot": mj.read_dot,
    "json": mj.read_json,
    "wfformat": lambda path: mj.read_wfformat(path, machine_hz=1e9, num_tasks=4),
    "onnx": lambda path: mj.read_onnx(path, cycles_per_mac=1.0, num_tasks=4),
    "graphml": mj.read_graphml,
    "gml": mj.read_gml,
    "node_link": mj.read_node_link,
    "saga": lambda path: mj.read_saga(path, cycles_per_unit=1e6, bytes_per_unit=1.0, num_tasks=4),
    "stg": read_stg,
    "dax": lambda path: mj.read_dax(path, machine_hz=1e9, num_tasks=4),
}


def fuzz(kind: str, count: int, seed: int, folder: Path) -> dict[str, int]:
    """Reads so many changed files of a format; raises where one is neither read nor refused as it should be."""
    seeds, path = SEEDS[kind](), folder / f"file.{kind}"
    found = {"read": 0, "refused": 0}
    for number in range(count):
        rng = random.Random(f"{kind} {seed} {number}")
        data = rng.choice(CHANGES[kind])(rng.choice(seeds), rng, seeds)
        path.write_bytes(data)
        apart = number % ONE_APART == 0
        onnx_model.inferred_apart = onnx_inference.inferred_apart if apart else onnx_inference.inferred
        began = sum(os.times()[:4])
        message = None
        try:
            graph = READERS[kind](path)
            assert isinstance(graph, mj.TaskGraph)
        except mj.InputError as error:
            message = str(error)
        except BaseException as error:
            raise AssertionError(f"number {number} of seed {seed}: {error!r} of {data[:2000]!r}") from error
        took = sum(os.times()[:4]) - began  # of processor time, with that of child processes
        assert took < MOST_SECONDS, f"number {number} of seed {seed} took {took:.1f} s: {data[:2000]!r}"
        if message is not None:
            assert str(path) in message, f"number {number} of seed {seed}: {message} names no file"
            assert len(message) < 1000, f"number {number} of seed {seed}: a message of {len(message)} letters"
        found["read" if message is None else "refused"] += 1
    return found


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    with tempfile.TemporaryDirectory() as place:
        kinds, count, seed = sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3])
        print(json.dumps({kind: fuzz(kind, count, seed, Path(place)) for kind in kinds}))
