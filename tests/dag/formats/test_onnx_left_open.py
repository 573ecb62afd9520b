"""ONNX models that leave something open: sizes, settled Ifs, costs of operators of other domains."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_onnx_model import branching, helper, onnx, save, tensor, weight

from mrlato_jax.dag.formats import onnx_inference, onnx_model
from mrlato_jax.dag.formats.any_format import Unsaid, read_any
from mrlato_jax.dag.formats.onnx_model import read_onnx
from mrlato_jax.dag.formats.reading import MissingValuesError
from mrlato_jax.errors import InputError

__all__ = ["branching"]  # a fixture


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a process for each model: the models here are harmless."""
    monkeypatch.setattr(onnx_model, "inferred_apart", onnx_inference.inferred)


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
        ({"batch": 2, "r:0": 3}, "no input has a dimension 'r:0'; accepted: named dimensions"),
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
        helper.make_node("MatMul", ["q", "large"], ["z"], name="last"),
    ]
    numbers = [weight("large", (4, 500))]
    numbers += [onnx.numpy_helper.from_array(np.int64(value), name) for name, value in (("zero", 0), ("one", 1))]
    return save(path, nodes, [tensor("x", [batch, 4])], [tensor("z", None)], numbers)


def test_an_if_of_sizes_takes_its_branch(tmp_path: Path) -> None:
    one = read_onnx(squeezed(tmp_path / "1.onnx", 1), cycles_per_mac=1.0)
    assert (one.names, one.cycles.tolist()) == (("squeeze", "last"), [0, 2000])
    two = read_onnx(squeezed(tmp_path / "2.onnx", 2), cycles_per_mac=1.0)
    assert (two.names, two.cycles.tolist()) == (("product", "last"), [32, 4000])
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
    with pytest.raises(InputError, match=r"node 'if' is a If, whose work is unknown; .*operator_costs={'If': MACS}"):
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


def test_functions_of_a_model_may_be_written_out(tmp_path: Path) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    double = helper.make_function(
        "mine", "Double", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], opsets[:1]
    )
    node = helper.make_node("Double", ["x"], ["y"], domain="mine", name="d")
    graph = helper.make_graph([node], "g", [tensor("x", [3])], [tensor("y", [3])])
    model = helper.make_model(graph, functions=[double], opset_imports=opsets, ir_version=9)
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path))
    with pytest.raises(
        InputError, match=r"MACS}.*; or a model whose functions onnx.inliner.inline_local_functions has"
    ):
        read_onnx(path, cycles_per_mac=1.0)
    assert read_onnx(path, cycles_per_mac=1.0, operator_costs={"mine.Double": 2}).cycles.tolist() == [6]
    inliner = pytest.importorskip("onnx.inliner")
    onnx.save(inliner.inline_local_functions(model), str(path))
    assert read_onnx(path, cycles_per_mac=1.0).cycles.tolist() == [3]


@pytest.mark.parametrize(
    ("costs", "message"),
    [
        (
            {"com.microsoft.FusedConv": -1},
            r"operator_costs\['com.microsoft.FusedConv'\] is -1; accepted: a finite number",
        ),
        (
            {**COSTS, "Conv": 2},
            "a cost is given for 'Conv', which is no operator; accepted: Relu, com.microsoft.FusedConv",
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
    with pytest.raises(InputError, match=r"tensor 'f' has no known shape; accepted: .*of the results of my.own.Fancy"):
        read_onnx(path, cycles_per_mac=1.0, operator_costs={"my.own.Fancy": 1})
