"""ONNX models: the work of each operator by hand, real networks' known totals, and what is refused."""

from __future__ import annotations

import builtins
import dataclasses
import pickle
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrlato_jax.dag.formats.any_format import Unsaid, read_any
from mrlato_jax.dag.formats.onnx_inference import inferred_apart
from mrlato_jax.dag.formats.onnx_model import read_onnx
from mrlato_jax.dag.formats.reading import MissingValuesError
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
    with pytest.raises(
        InputError, match=r"no input has a dimension 'nope'; accepted: those that have a name \(batch\)"
    ):
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


@pytest.mark.parametrize("make", [lambda: nested_functions(40), endless_range], ids=["functions", "range"])
def test_a_small_file_takes_neither_long_nor_much(make: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "bomb.onnx"
    path.write_bytes(make())
    assert path.stat().st_size < 10_000
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    with pytest.raises(InputError, match=r"bomb\.onnx: .*accepted: an ONNX model"):
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


# Sizes that a file leaves open.

PLUS = helper.make_node("Add", ["x", "y"], ["z"])


@pytest.mark.parametrize(
    ("shapes", "dimensions", "keys"),
    [
        ((["batch", 3], ["batch", "width"]), {"batch": 2, "width": 3}, ["batch", "width"]),
        (([None, 3], [None, 3]), {"x:0": 2, "y:0": 2}, ["x:0", "y:0"]),
        (([-1, 3], [0, "w"]), {"x:0": 2, "y:0": 2, "w": 3}, ["x:0", "y:0", "w"]),
        ((["batch", 3], [2, "batch of images, by the tens of thousands " * 2]), {"x:0": 2, "y:1": 3}, ["batch", "y:1"]),
    ],
)
def test_all_sizes_that_are_missing_are_named(
    tmp_path: Path, shapes: Any, dimensions: dict[str, int], keys: list[str]
) -> None:
    given = [tensor(name, shape) for name, shape in zip("xy", shapes, strict=True)]
    path = save(tmp_path / "m.onnx", [PLUS], given, [tensor("z", [None, -1])])
    with pytest.raises(MissingValuesError, match=r"m\.onnx: inputs have dimensions without a size: x \[") as raised:
        read_onnx(path, cycles_per_mac=1.0)
    assert list(raised.value.keys) == keys
    assert str(raised.value).endswith(f"accepted: dimensions={{{', '.join(f'{key!r}: SIZE' for key in keys)}}}")
    assert read_onnx(path, cycles_per_mac=1.0, dimensions=dimensions).cycles.tolist() == [6]
    assert pickle.loads(pickle.dumps(raised.value)).keys == raised.value.keys
    # What is given already is not asked for again.
    first, *others = dimensions
    with pytest.raises(MissingValuesError) as raised:
        read_onnx(path, cycles_per_mac=1.0, dimensions={first: dimensions[first]})
    assert len(raised.value.keys) == len(others)


def test_a_command_is_told_its_options(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [PLUS], [tensor("x", [None, "a b"]), tensor("y", [1, 1])], [tensor("z", [1, 1])])
    with pytest.raises(InputError, match=r"; accepted: --dimension=x:0=SIZE --dimension='a b'=SIZE$"):
        read_any(path, Unsaid(cycles_per_mac=1.0))
    given = Unsaid(cycles_per_mac=1.0, dimension=("x:0=1", "a b=1"))
    assert read_any(path, given).cycles.tolist() == [1]
    for wrong in ("x:0", "x:0=", "=3", "x:0=0", "x:0=" + "9" * 5000):
        with pytest.raises(InputError, match=r"--dimension.*; accepted: "):
            read_any(path, Unsaid(cycles_per_mac=1.0, dimension=(wrong,)))


def test_an_input_without_a_shape(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [PLUS], [tensor("x", None), tensor("y", [1, 3])], [tensor("z", None)])
    with pytest.raises(InputError, match=r"without a size: x \[\.\.\.\]; accepted: dimensions={'x:0': SIZE}"):
        read_onnx(path, cycles_per_mac=1.0)
    graph = read_onnx(path, cycles_per_mac=1.0, dimensions={"x:0": 2, "x:1": 3})
    assert (graph.cycles.tolist(), graph.upload_bytes.tolist()) == ([6], [36])


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        ({"batch": 2, "x:1": 5}, "dimension 'x:1' is 5, and the model fixes it; accepted: 4"),
        ({"batch": 2, "x:0": 3}, "dimension 'x:0' is 3, and 2 elsewhere; accepted: one size"),
        (
            {"batch": 2, "x:2": 3},
            r"no input has a dimension 'x:2'; accepted: .*INPUT:AXIS with an axis from 0 of .*\(x\)",
        ),
        ({"batch": 2, "r:0": 3}, "no input has a dimension 'r:0'; accepted: those that have a name"),
    ],
)
def test_sizes_that_contradict_the_model(branching: Path, dimensions: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_onnx(branching, cycles_per_mac=1.0, dimensions=dimensions)
    assert read_onnx(branching, cycles_per_mac=1.0, dimensions={"x:0": 3, "x:1": 4}).num_tasks == 5


def test_a_size_that_the_model_fixes_elsewhere_stays(tmp_path: Path) -> None:
    """A result that is declared for one image is none for two."""
    node = helper.make_node("Relu", ["x"], ["y"])
    path = save(tmp_path / "m.onnx", [node], [tensor("x", ["n", 4])], [tensor("y", [1, 4])])
    with pytest.raises(InputError, match=r"differ in dimension 0: \(2\) vs \(1\)"):
        read_onnx(path, cycles_per_mac=1.0, dimensions={"n": 2})
    assert read_onnx(path, cycles_per_mac=1.0, dimensions={"n": 1}).cycles.tolist() == [4]


def test_sizes_that_depend_on_the_data_are_no_dimensions_to_give(tmp_path: Path) -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Relu", ["x"], ["r"])]
    path = save(tmp_path / "m.onnx", nodes, [tensor("x", [3, 4])], [tensor("i", [2, None], onnx.TensorProto.INT64)])
    with pytest.raises(InputError, match=r"tensor 'i' has an axis, 1, whose size depends on the data; .*settles$"):
        read_onnx(path, cycles_per_mac=1.0)


# Weights that are inputs, too, or should be.


@pytest.mark.parametrize("ir_version", [3, 4, 8])
@pytest.mark.parametrize("listed", [[], ["w"], ["w", "v"]])
def test_weights_may_be_listed_as_inputs(tmp_path: Path, ir_version: int, listed: list[str]) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("MatMul", ["m", "v"], ["y"])]
    given = [tensor("x", [2, 4]), *(tensor(name, [4, "n"] if name == "w" else [0, 0]) for name in listed)]
    stored = [weight("w", (4, 4)), weight("v", (4, 3))]
    path = save(tmp_path / "m.onnx", nodes, given, [tensor("y", [2, 3])], stored, ir_version=ir_version)
    graph = read_onnx(path, cycles_per_mac=1.0)
    assert graph.cycles.tolist() == [32, 24]
    assert graph.upload_bytes.tolist() == [32, 32]


# Ifs.


def squeezed(path: Path, batch: int | str) -> Path:
    """x.squeeze(0), as exporters write it, then a product: of either branch one is impossible, whatever the batch."""
    squeeze = helper.make_graph(
        [helper.make_node("Squeeze", ["x", "axes"], ["t"], name="squeeze")], "then", [], [tensor("t", None)],
        [onnx.numpy_helper.from_array(np.array([0]), "axes")],
    )  # fmt: skip
    stay = helper.make_graph(
        [helper.make_node("MatMul", ["x", "axes"], ["t"], name="product")], "else", [], [tensor("t", None)],
        [weight("axes", (4, 4))],
    )  # fmt: skip
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["d"]),
        helper.make_node("Equal", ["d", "one"], ["c"]),
        helper.make_node("If", ["c"], ["q"], then_branch=squeeze, else_branch=stay),
        helper.make_node("Relu", ["q"], ["z"], name="relu"),
    ]
    numbers = [onnx.numpy_helper.from_array(np.int64(value), name) for name, value in (("zero", 0), ("one", 1))]
    return save(path, nodes, [tensor("x", [batch, 4])], [tensor("z", None)], numbers)


def test_an_if_of_sizes_takes_its_branch(tmp_path: Path) -> None:
    one = read_onnx(squeezed(tmp_path / "1.onnx", 1), cycles_per_mac=1.0)
    assert (one.names, one.cycles.tolist()) == (("squeeze", "relu"), [0, 4])
    two = read_onnx(squeezed(tmp_path / "2.onnx", 2), cycles_per_mac=1.0)
    assert (two.names, two.cycles.tolist()) == (("product", "relu"), [32, 8])
    assert two.edges.tolist() == [[0, 1]]
    named = squeezed(tmp_path / "n.onnx", "batch")
    with pytest.raises(InputError, match=r"accepted: dimensions={'batch': SIZE}"):
        read_onnx(named, cycles_per_mac=1.0)
    assert read_onnx(named, cycles_per_mac=1.0, dimensions={"batch": 2}) == two


def test_ifs_in_ifs(tmp_path: Path) -> None:
    """The inner one's condition follows from a size within the outer one's branch; names are used in both branches."""

    def branch(name: str, nodes: list[Any], outputs: list[str], weights: list[Any] = ()) -> Any:  # type: ignore[assignment]
        return helper.make_graph(nodes, name, [], [tensor(output, None) for output in outputs], list(weights))

    inner = helper.make_node(
        "If", ["c"], ["i"],
        then_branch=branch("a", [helper.make_node("Exp", ["b"], ["e"], name="exp")], ["e"]),
        else_branch=branch("b", [helper.make_node("Relu", ["b"], ["e"])], ["e"]),
    )  # fmt: skip
    size = onnx.numpy_helper.from_array(np.int64(12), "w")
    outer = helper.make_node(
        "If", ["yes"], ["q", "same"],
        then_branch=branch(
            "c",
            [
                helper.make_node("Relu", ["x"], ["b"], name="relu"),
                helper.make_node("Size", ["b"], ["n"]),
                helper.make_node("Equal", ["n", "w"], ["c"]),
                inner,
            ],
            ["i", "i"], [size],
        ),
        else_branch=branch("d", [helper.make_node("Identity", ["x"], ["b"])], ["b", "b"]),
    )  # fmt: skip
    nodes = [helper.make_node("Relu", ["x"], ["r"], name="first"), outer,
             helper.make_node("Sum", ["q", "same", "r"], ["z"], name="sum")]  # fmt: skip
    yes = onnx.numpy_helper.from_array(np.array(True), "yes")
    graph = read_onnx(
        save(tmp_path / "m.onnx", nodes, [tensor("x", [3, 4])], [tensor("z", [3, 4])], [yes]), cycles_per_mac=1.0
    )
    assert graph.names == ("first", "relu", "exp", "Identity 3", "sum")
    assert graph.edges.tolist() == [[0, 4], [1, 2], [2, 3], [2, 4], [3, 4]]
    assert graph.cycles.tolist() == [12, 12, 12, 0, 12]


def test_an_if_of_data_needs_a_cost(tmp_path: Path) -> None:
    """What its branches use of outside comes from there."""
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(kind, [used], [f"{name}_y"])], name, [], [tensor(f"{name}_y", [3, 4])]
        )
        for name, kind, used in (("then", "Exp", "r"), ("else", "Abs", "x"))
    }
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["c"], to=onnx.TensorProto.BOOL),
        helper.make_node("If", ["c"], ["y"], name="if", **branches),
    ]
    path = save(tmp_path / "m.onnx", nodes, [tensor("x", [3, 4])], [tensor("y", [3, 4])])
    with pytest.raises(InputError, match=r"node 'if' is a If, whose work is not known; .*operator_costs={'If': MACS}"):
        read_onnx(path, cycles_per_mac=1.0)
    graph = read_onnx(path, cycles_per_mac=1.0, operator_costs={"If": 5})
    assert graph.cycles.tolist() == [12, 12, 0, 60]
    assert graph.edges.tolist() == [[0, 3], [1, 2], [2, 3]]
    assert graph.upload_bytes.tolist() == [48, 48, 4, 97]  # the picture, what relu makes, a bool


# Operators of other domains.


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Two kinds of operators of which nothing is known but the shapes of what they make."""
    nodes = [
        helper.make_node("FusedConv", ["x", "w"], ["c"], domain="com.microsoft", name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Gelu", ["r"], ["g"], domain="com.microsoft", name="gelu"),
        helper.make_node("Fancy", ["g"], ["y"], domain="my.own", name="fancy"),
    ]
    inner = [tensor("c", ["n", 6, 2, 2]), tensor("g", ["n", 6, 2, 2])]
    ends = [tensor("x", ["n", 3, 4, 4])], [tensor("y", ["n", 10])]
    return save(tmp_path / "f.onnx", nodes, *ends, [weight("w", (6, 3, 3, 3))], inner=inner)


COSTS = {"com.microsoft.FusedConv": 27, "gelu": 2.5, "my.own.Fancy": 0}


def test_operators_of_other_domains_have_the_costs_that_are_given(foreign: Path) -> None:
    graph = read_onnx(foreign, cycles_per_mac=2.0, dimensions={"x:0": 2}, operator_costs=COSTS)
    assert graph.cycles.tolist() == [2 * 48 * 27, 2 * 48, 2 * 48 * 2.5, 0]
    assert graph.upload_bytes.tolist() == [4 * 96, 4 * 48, 4 * 48, 4 * 48]
    assert graph.download_bytes.tolist() == [4 * 48, 4 * 48, 4 * 48, 4 * 20]
    other = read_onnx(foreign, cycles_per_mac=2.0, dimensions={"n": 2}, operator_costs={**COSTS, "Relu": 3})
    assert other.cycles.tolist() == [2 * 48 * 27, 2 * 48 * 3, 2 * 48 * 2.5, 0]


def test_all_costs_that_are_missing_are_named(foreign: Path) -> None:
    kinds = ("com.microsoft.FusedConv", "com.microsoft.Gelu", "my.own.Fancy")
    with pytest.raises(MissingValuesError, match=r"f.onnx: node 'conv' is a com.microsoft.FusedConv, whose") as raised:
        read_onnx(foreign, cycles_per_mac=1.0, dimensions={"n": 2})
    assert raised.value.keys == kinds
    unsaid = Unsaid(cycles_per_mac=1.0, dimension=("n=2",))
    with pytest.raises(InputError, match=" ".join(rf"--operator_cost={kind}=MACS" for kind in kinds)):
        read_any(foreign, unsaid)
    given = tuple(f"{kind}=1" for kind in kinds)
    assert read_any(foreign, dataclasses.replace(unsaid, operator_cost=given)).cycles.tolist() == [48, 48, 48, 20]


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        (
            {"com.microsoft.FusedConv": -1},
            r"operator_costs\['com.microsoft.FusedConv'\] is -1; accepted: a finite number",
        ),
        (
            {**COSTS, "Conv": 2},
            "a cost is given of 'Conv', which is no operator; accepted: Relu, com.microsoft.FusedConv",
        ),
        ([1], r"operator_costs is \[1\]; accepted: numbers by DOMAIN.OPERATOR"),
    ],
)
def test_costs_that_there_are_not(foreign: Path, costs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_onnx(foreign, cycles_per_mac=1.0, dimensions={"n": 2}, operator_costs=costs)


def test_shapes_that_only_another_program_knows(tmp_path: Path) -> None:
    nodes = [helper.make_node("Fancy", ["x"], ["f"], domain="my.own"), helper.make_node("Relu", ["f"], ["y"])]
    path = save(tmp_path / "m.onnx", nodes, [tensor("x", [2])], [tensor("y", [2])])
    with pytest.raises(InputError, match=r"tensor 'f' has no known shape; accepted: .*of what my.own.Fancy makes"):
        read_onnx(path, cycles_per_mac=1.0, operator_costs={"my.own.Fancy": 1})
