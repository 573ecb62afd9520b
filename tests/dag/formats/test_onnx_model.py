"""ONNX models: the work of each operator by hand, real networks' known totals, and what is refused."""

from __future__ import annotations

import builtins
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrlato_jax.dag.formats.onnx_inference import inferred_apart
from mrlato_jax.dag.formats.onnx_model import read_onnx
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError

onnx = pytest.importorskip("onnx")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT
BUNDLED = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def tensor(name: str, shape: list[Any], kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str, shape: tuple[int, ...]) -> Any:
    return onnx.numpy_helper.from_array(np.zeros(shape, np.float32), name)


def save(
    path: Path,
    nodes: list[Any],
    inputs: list[Any],
    outputs: list[Any],
    weights: list[Any] = (),  # type: ignore[assignment]
    *,
    inner: list[Any] = (),  # type: ignore[assignment]
    ir_version: int = 8,
) -> Path:
    """A model; `inner` are the types of tensors within."""
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights), value_info=list(inner))
    opsets = [helper.make_opsetid(domain, 1 if domain else 17) for domain in {"": 0, **{n.domain: 0 for n in nodes}}]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=ir_version), str(path))
    return path


def work(path: Path, node: Any, inputs: dict[str, list[int]], weights: dict[str, tuple[int, ...]], rank: int) -> float:
    """Multiply-accumulates of one operator, whose result has so many dimensions."""
    given = [tensor(name, shape) for name, shape in inputs.items()]
    stored = [weight(name, shape) for name, shape in weights.items()]
    result = tensor(node.output[0], [f"d{number}" for number in range(rank)])
    graph = read_onnx(save(path / "m.onnx", [node], given, [result], stored), cycles_per_mac=1.0)
    assert graph.num_tasks == 1
    return float(graph.cycles[0])


@pytest.mark.parametrize(
    ("node", "inputs", "weights", "rank", "macs"),
    [
        # 6 x 4 x 4 outputs, each of 3 channels x 3 x 3
        (helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4), {"x": [1, 3, 4, 4]}, {"w": (6, 3, 3, 3)}, 4, 2592),
        (helper.make_node("Conv", ["x", "w"], ["y"], group=3), {"x": [2, 3, 4, 4]}, {"w": (6, 1, 3, 3)}, 4, 432),
        (helper.make_node("ConvTranspose", ["x", "w"], ["y"]), {"x": [1, 3, 4, 4]}, {"w": (3, 5, 2, 2)}, 4, 48 * 20),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), {"x": [7, 5, 4]}, {"w": (4, 3)}, 3, 7 * 5 * 3 * 4),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transA=1), {"x": [4, 5]}, {"w": (4, 3)}, 2, 60),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), {"x": [5, 4]}, {"w": (3, 4)}, 2, 60),
        # 10 steps of a batch of 2, 4 gates of 6 units, which see 3 inputs and 6 units
        (
            helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=6),
            {"x": [10, 2, 3]}, {"w": (1, 24, 3), "r": (1, 24, 6)}, 4, 10 * 2 * 24 * 9,
        ),
        (helper.make_node("Einsum", ["x", "w"], ["y"], equation="bij,jk->k"), {"x": [2, 3, 4]}, {"w": (4, 5)}, 1, 120),
        (helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 3]), {"x": [1, 3, 5, 8]}, {}, 4, 432),
        (helper.make_node("GlobalAveragePool", ["x"], ["y"]), {"x": [1, 3, 4, 6]}, {}, 4, 72),
        (helper.make_node("ReduceMean", ["x"], ["y"], axes=[1]), {"x": [5, 6]}, {}, 2, 30),
        (helper.make_node("LRN", ["x"], ["y"], size=5), {"x": [1, 8, 2, 2]}, {}, 4, 160),
        (helper.make_node("Relu", ["x"], ["y"]), {"x": [5, 6]}, {}, 2, 30),
        (helper.make_node("Flatten", ["x"], ["y"]), {"x": [5, 6]}, {}, 2, 0),
    ],
    ids=lambda value: f"{value.op_type}" if hasattr(value, "op_type") else "",
)  # fmt: skip
def test_work_by_hand(tmp_path: Path, node: Any, inputs: Any, weights: Any, rank: int, macs: int) -> None:
    assert work(tmp_path, node, inputs, weights, rank) == macs


@pytest.fixture
def branching(tmp_path: Path) -> Path:
    """x -> relu -> {exp, matmul} -> add -> y, whose weights are made of shapes and constants within the graph."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Shape", ["r"], ["s"]),
        helper.make_node("ConstantOfShape", ["ws"], ["w"]),
        helper.make_node("Exp", ["r"], ["e"], name="relu"),
        helper.make_node("MatMul", ["r", "w"], ["m"]),
        helper.make_node("Add", ["e", "m"], ["a"]),
        helper.make_node("Reshape", ["a", "s"], ["y"]),
    ]
    shape = onnx.numpy_helper.from_array(np.array([4, 4], np.int64), "ws")
    return save(tmp_path / "b.onnx", nodes, [tensor("x", ["batch", 4])], [tensor("y", ["batch", 4])], [shape])


def test_tensors_and_constants(branching: Path) -> None:
    graph = read_onnx(branching, cycles_per_mac=2.0, dimensions={"batch": 3})
    assert graph == TaskGraph.from_edges(
        cycles=[24, 24, 96, 24, 0],
        upload_bytes=[48, 48, 48, 96, 48],
        download_bytes=[48, 48, 48, 48, 48],
        edges=[(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)],
        names=["relu", "relu #2", "MatMul 2", "Add 3", "Reshape 4"],
    )


def test_a_dimension_must_be_given(branching: Path) -> None:
    with pytest.raises(InputError, match=r"without a size: x \[batch, 4\]; accepted: dimensions={'batch': SIZE}$"):
        read_onnx(branching, cycles_per_mac=1.0)
    with pytest.raises(InputError, match=r"dimensions\['batch'\] is 0; accepted: an integer in"):
        read_onnx(branching, cycles_per_mac=1.0, dimensions={"batch": 0})


@pytest.mark.skipif(not BUNDLED.exists(), reason="this onnx has no networks with it")
@pytest.mark.parametrize(
    ("name", "tasks", "billions"),
    # As published for these networks at 224 x 224, rounded; AlexNet with its groups, SqueezeNet 1.1.
    [("bvlc_alexnet", 24, 0.66), ("vgg19", 46, 19.6), ("resnet50", 176, 4.1), ("squeezenet", 66, 0.35),
     ("densenet121", 668, 2.9)],
)  # fmt: skip
def test_real_networks(name: str, tasks: int, billions: float) -> None:
    graph = read_onnx(BUNDLED / f"light_{name}.onnx", cycles_per_mac=1.0)
    assert graph.num_tasks == tasks
    assert graph.cycles.sum() / 1e9 == pytest.approx(billions, rel=0.03)
    coarse = read_onnx(BUNDLED / f"light_{name}.onnx", cycles_per_mac=1.0, num_tasks=20)
    assert coarse.num_tasks == 20
    assert coarse.cycles.sum() == pytest.approx(graph.cycles.sum())
    picture = 4 * 3 * 224 * 224
    assert coarse.upload_bytes.min() >= 4 * 1000
    assert coarse.upload_bytes.max() >= picture


@pytest.mark.parametrize("rate", [0, -2.0, "1", float("nan")])
def test_cycles_that_there_are_not(branching: Path, rate: Any) -> None:
    with pytest.raises(InputError, match=r"cycles_per_mac is .*; accepted: a finite number in"):
        read_onnx(branching, cycles_per_mac=rate)


@pytest.mark.parametrize("data", [b"\x00\x01", b"not a model", b"\xff" * 1000])
def test_files_that_are_no_models(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(InputError, match=r"m.onnx: .*; accepted: an ONNX model"):
        read_onnx(tmp_path / "m.onnx", cycles_per_mac=1.0)


def test_weights_elsewhere_are_not_opened(tmp_path: Path) -> None:
    """A model may name files beside it; none is looked for."""
    kernel = weight("w", (4, 4))
    kernel.ClearField("raw_data")
    kernel.data_location = onnx.TensorProto.EXTERNAL
    entry = kernel.external_data.add()
    entry.key, entry.value = "location", "elsewhere.bin"
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    path = save(tmp_path / "m.onnx", [node], [tensor("x", [2, 4])], [tensor("y", [2, 4])], [kernel])
    assert read_onnx(path, cycles_per_mac=1.0).cycles.tolist() == [32]


def test_without_the_package_it_says_what_to_install(branching: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "onnx":
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match=r"pip install 'mrlato-jax\[onnx\]'"):
        read_onnx(branching, cycles_per_mac=1.0)


def test_what_cannot_be_told_is_refused(tmp_path: Path, branching: Path) -> None:
    """A tensor without an inferred type, sizes beyond all numbers, dimensions that there are not."""
    up, relu = (helper.make_node("Upsample", ["x"], ["u"], width_scale=2.0, height_scale=2.0), helper.make_node)
    nodes = [up, relu("Relu", ["u"], ["y"])]
    graph = helper.make_graph(nodes, "g", [tensor("x", [1, 1, 2, 2])], [tensor("y", [1, 1, 4, 4])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 1)], ir_version=3)
    onnx.save(model, str(tmp_path / "u.onnx"))
    with pytest.raises(InputError, match=r"u.onnx: .*accepted"):
        read_onnx(tmp_path / "u.onnx", cycles_per_mac=1.0)
    inputs, outputs = ([tensor(name, [2**62] * 17)] for name in "xy")
    huge = save(tmp_path / "h.onnx", [relu("Relu", ["x"], ["y"])], inputs, outputs)
    with pytest.raises(InputError, match=r"h.onnx: .*accepted"):
        read_onnx(huge, cycles_per_mac=1.0)
    with pytest.raises(InputError, match=r"no input has a dimension 'nope'; accepted: named dimensions \(batch\)"):
        read_onnx(branching, cycles_per_mac=1.0, dimensions={"batch": 2, "nope": 3})


def nested_functions(depth: int) -> bytes:
    """A kilobyte whose operators double with each function: 2^depth of them once all are written out."""
    functions = []
    for level in range(depth):
        name, inner = f"f{level}", (f"f{level - 1}", "mine") if level else ("Relu", "")
        calls = [
            onnx.helper.make_node(inner[0], ["x"], ["y"], domain=inner[1]),
            onnx.helper.make_node(inner[0], ["y"], ["z"], domain=inner[1]),
        ]
        opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("mine", 1)]
        functions.append(onnx.helper.make_function("mine", name, ["x"], ["z"], calls, opsets))
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4]) for name in ("a", "b")]
    node = onnx.helper.make_node(f"f{depth - 1}", ["a"], ["b"], domain="mine")
    graph = onnx.helper.make_graph([node], "bomb", ends[:1], ends[1:])
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("mine", 1)]
    model = onnx.helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=9)
    return model.SerializeToString()


def endless_range() -> bytes:
    """A hundred bytes that ask for 2^62 numbers."""
    limits = [onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [], [value]) for name, value in LIMITS.items()]
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.INT64, None)
    graph = onnx.helper.make_graph([onnx.helper.make_node("Range", list(LIMITS), ["out"])], "range", [], [out], limits)
    opsets = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


LIMITS = {"start": 0, "limit": 2**62, "delta": 1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nested_functions(40),
            "takes more than 2 s of processor time; accepted: a model that takes less, such as",
        ),
        (endless_range, "no operator depends on an input; accepted: an ONNX model"),
    ],
    ids=["functions", "range"],
)
def test_a_small_file_takes_neither_long_nor_much(make: Callable[[], bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb.onnx"
    path.write_bytes(make())
    assert path.stat().st_size < 10_000
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(InputError, match=rf"bomb\.onnx: .*{message}"):
        read_onnx(path, cycles_per_mac=1.0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - began.ru_utime - began.ru_stime < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20  # kB


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        (["batch"], r"dimensions is \['batch'\]; accepted: sizes by name"),
        ("batch", "dimensions is 'batch'; accepted: sizes by name"),
        ({3: 1}, "dimensions has 3; accepted: names of dimensions, strings"),
        ({"": 1}, r"dimensions has ''; accepted: names of dimensions, strings"),
        ({"batch": 2**63}, r"dimensions\['batch'\] is 9223372036854775808; accepted: an integer in"),
        ({"batch": "3"}, r"dimensions\['batch'\] is '3'; accepted: an integer in"),
    ],
)
def test_dimensions_of_other_types(branching: Path, dimensions: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_onnx(branching, cycles_per_mac=1.0, dimensions=dimensions)


def test_names_in_a_model_are_escaped(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    path = save(tmp_path / "m.onnx", [node], [tensor("x", ["\x1b[2J", 4])], [tensor("y", [None, 4])])
    for options in ({}, {"dimensions": {"other": 1}}):
        with pytest.raises(InputError) as raised:
            read_onnx(path, cycles_per_mac=1.0, **options)
        assert "\\x1b[2J" in str(raised.value)
        assert str(raised.value).isprintable()


def test_tensors_of_very_many_dimensions_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    path = save(tmp_path / "m.onnx", [node], [tensor("x", [2] * 100_000)], [tensor("y", [2] * 100_000)])
    with pytest.raises(InputError, match=r"m.onnx: tensor 'x' has 100000 dimensions; accepted: at most 64"):
        read_onnx(path, cycles_per_mac=1.0)


def test_large_weights_are_not_handed_on(tmp_path: Path) -> None:
    """Shapes follow from lists of integers alone, however long; of other weights their own shape is enough."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Reshape", ["m", "s"], ["y"])]
    shape = onnx.numpy_helper.from_array(np.array([2, 50, 20], np.int64), "s")
    path = save(
        tmp_path / "m.onnx",
        nodes,
        [tensor("x", [2, 500])],
        [tensor("y", [2, 50, 20])],
        [weight("w", (500, 1000)), shape],
    )
    answer, model = inferred_apart(path.read_bytes(), {}, 10)
    assert answer == {"elsewhere": [], "lacking": {}, "branches": []}
    assert len(model) < 2000 < 2_000_000 < path.stat().st_size
    assert read_onnx(path, cycles_per_mac=1.0).cycles.tolist() == [1_000_000, 0]
