"""ONNX networks in parts: equal to the whole network, whatever the parts; and what is refused."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import measured

from mrlato_jax.edge.application import Application
from mrlato_jax.edge.onnx_parts import application_at, application_of, application_of_model
from mrlato_jax.edge.parser import Measured
from mrlato_jax.errors import InputError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
helper, FLOAT, INT64 = onnx.helper, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def tensor(name: str, shape: list[Any], kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def weight(name: str, *shape: int) -> Any:
    values = np.random.default_rng(len(name)).random(shape, np.float32) - 0.5
    return onnx.numpy_helper.from_array(values.astype(np.float32), name)


def network(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any] | None = None, ir: int = 8
) -> Any:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=ir)


def whole(model: Any, inputs: dict[str, Any]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def run(app: Application) -> Measured:
    return measured(app, app.example_arguments(), machine_hz=1e9)


def assert_as_whole(app: Application, model: Any) -> Measured:
    """The parts give what the network gives, whose inputs have names that Python takes."""
    found = run(app)
    expected = whole(model, app.example_arguments())
    assert len(found.returned) == len(expected)
    for one, other in zip(found.returned, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    return found


def branching() -> Any:
    """x -> relu -> {exp, product} -> sum -> y, which has the shape of x; weights are made of constants in the graph."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Shape", ["r"], ["s"]),
        helper.make_node("ConstantOfShape", ["ws"], ["ones"], value=helper.make_tensor("v", FLOAT, [1], [0.25])),
        helper.make_node("Mul", ["ones", "w"], ["scaled"]),
        helper.make_node("Exp", ["r"], ["e"]),
        helper.make_node("MatMul", ["r", "scaled"], ["m"]),
        helper.make_node("Add", ["e", "m"], ["a"]),
        helper.make_node("Mul", ["a", "scaled"], ["b"]),
        helper.make_node("Reshape", ["b", "s"], ["y"]),
        helper.make_node("Tanh", ["r"], ["unused"]),
    ]
    shape = onnx.numpy_helper.from_array(np.array([4, 4], np.int64), "ws")
    return network(nodes, [tensor("x", ["batch", 4])], [tensor("y", ["batch", 4])], [shape, weight("w", 4, 4)])


@pytest.mark.parametrize("num_tasks", [1, 3, 100])
def test_any_number_of_parts_gives_the_same(num_tasks: int) -> None:
    model = branching()
    before = model.SerializeToString()
    found = assert_as_whole(application_of_model(model, num_tasks, "branching", {"batch": 4}), model)
    assert model.SerializeToString() == before
    assert [call.name for call in found.program.calls[:2]] == ["x", "part_0"]
    assert len(found.program.calls) - 1 == min(num_tasks, 6)  # constants and what is not used are no tasks
    assert [call.pin for call in found.program.calls] == ["ue"] + ["any"] * (len(found.program.calls) - 1)


def test_bytes_are_those_of_the_tensors_that_cross() -> None:
    graph = run(application_of_model(branching(), 100, "branching", {"batch": 4})).graph
    overhead = 40
    assert ((graph.download_bytes >= 64) & (graph.download_bytes < 64 + overhead)).all()
    assert sorted(zip(*np.array(graph.edges).T, strict=True)) == [
        (0, 1),
        (1, 2),
        (1, 3),
        (2, 4),
        (3, 4),
        (4, 5),
        (5, 6),
    ]


def random_network(seed: int) -> Any:
    """Some operators that take what came before, among them ones with two results; the caller gets several."""
    random = np.random.default_rng(seed)
    names, nodes = ["x", "z"], []
    for number in range(14):
        kind = ["Add", "Mul", "Relu", "Tanh", "MatMul", "Split"][random.integers(6)]
        first, second = (names[random.integers(max(0, len(names) - 4), len(names))] for _ in range(2))
        if kind == "Split":
            halves = [f"h{number}", f"i{number}"]
            nodes.append(helper.make_node("Split", [first], halves))
            nodes.append(helper.make_node("Concat", halves[::-1], [f"t{number}"], axis=0))
        elif kind == "MatMul":
            nodes.append(helper.make_node("MatMul", [first, f"w{random.integers(2)}"], [f"t{number}"]))
        else:
            inputs = [first, second] if kind in ("Add", "Mul") else [first]
            nodes.append(helper.make_node(kind, inputs, [f"t{number}"]))
        names.append(f"t{number}")
    outputs = [f"t{number}" for number in sorted(random.choice(14, 3, replace=False))] + ["t13"]
    weights = [weight("w0", 4, 4), weight("w1", 4, 4)]
    inputs = [tensor("x", [4, 4]), tensor("z", [4, 4])]
    return network(nodes, inputs, [tensor(name, [4, 4]) for name in dict.fromkeys(outputs)], weights)


@pytest.mark.parametrize("seed", range(5))
def test_parts_of_random_networks(seed: int) -> None:
    model = random_network(seed)
    num_tasks = 2 + seed
    app = application_of_model(model, num_tasks, "random")
    calls = app.program.calls
    assert len([call for call in calls if call.function and call.function.startswith("part_")]) <= num_tasks
    example = app.example_arguments()
    found = run(app)
    expected = whole(model, {"x": example.get("x", np.zeros((4, 4), np.float32))} | {
        "z": example.get("z", np.zeros((4, 4), np.float32))})  # fmt: skip
    for one, other in zip(found.returned, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_outputs_of_several_parts_are_gathered_in_order() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Exp", ["r"], ["e"]),
        helper.make_node("Tanh", ["r"], ["t"]),
    ]
    model = network(nodes, [tensor("x", [2, 3])], [tensor(name, [2, 3]) for name in ("t", "r", "e")])
    for num_tasks in (1, 2, 3):
        found = assert_as_whole(application_of_model(model, num_tasks, "several"), model)
        names = [call.name for call in found.program.calls]
        assert names == ["x", *(f"part_{number}" for number in range(num_tasks)), *["outputs"] * (num_tasks > 1)]


def test_weights_that_are_listed_as_inputs_are_no_arguments() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Clip", ["m", "", "w0"], ["y"])]
    weights = [weight("w", 3, 3), onnx.numpy_helper.from_array(np.float32(0.1), "w0")]
    inputs = [tensor("w", [3, 3]), tensor("x", [2, 3]), tensor("w0", [])]
    model = network(nodes, inputs, [tensor("y", [2, 3])], weights, ir=3)
    app = application_of_model(model, 2, "old")
    assert app.program.arguments == ("x",)
    assert_as_whole(app, model)


def test_shapes_of_what_arrives_are_constants() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Shape", ["r"], ["tail"], start=-2),
        helper.make_node("Size", ["r"], ["size"]),
        helper.make_node("Concat", ["tail", "one"], ["shape"], axis=0),
        helper.make_node("Tanh", ["r"], ["t"]),
        helper.make_node("Reshape", ["t", "shape"], ["p"]),
        helper.make_node("Cast", ["size"], ["number"], to=FLOAT),
        helper.make_node("Div", ["p", "number"], ["y"]),
    ]
    one = onnx.numpy_helper.from_array(np.array([2], np.int64), "one")
    model = network(nodes, [tensor("x", [2, 3, 4])], [tensor("y", [3, 4, 2])], [one])
    found = assert_as_whole(application_of_model(model, 10, "shapes"), model)
    assert found.program.edges == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_names_and_types_that_python_and_arrays_do_not_have() -> None:
    nodes = [
        helper.make_node("Gather", ["table", "input.1"], ["g"]),
        helper.make_node("Add", ["g", "1/x"], ["s"]),
        helper.make_node("Where", ["class", "s", "g"], ["y:0"]),
    ]
    inputs = [tensor("input.1", [3], INT64), tensor("1/x", [3, 2]), tensor("class", [3, 2], onnx.TensorProto.BOOL)]
    model = network(nodes, inputs, [tensor("y:0", [3, 2])], [weight("table", 5, 2)])
    app = application_of_model(model, 3, "names")
    assert app.program.arguments == ("input_1", "_1_x", "_class")
    given = {
        "input_1": np.array([4, 0, 2]),
        "_1_x": np.ones((3, 2), np.float32),
        "_class": np.array([[True, False], [False, True], [True, True]]),
    }
    found = measured(app, given, machine_hz=1e9).returned
    expected = whole(model, dict(zip(("input.1", "1/x", "class"), given.values(), strict=True)))
    np.testing.assert_array_equal(found[0], expected[0])
    types = {name: array.dtype for name, array in app.example_arguments().items()}
    assert types == {"input_1": np.int64, "_1_x": np.float32, "_class": np.bool_}


def test_a_file_and_weights_beside_it(tmp_path: Path) -> None:
    model = network([helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Exp", ["m"], ["y"])],
                    [tensor("x", [2, 40])], [tensor("y", [2, 40])], [weight("w", 40, 40)])  # fmt: skip
    inside, beside = tmp_path / "7 layers.onnx", tmp_path / "apart.onnx"
    onnx.save(model, str(inside))
    expected = whole(model, application_of(inside, 2).example_arguments())
    onnx.save(model, str(beside), save_as_external_data=True, location="apart.bin", size_threshold=0)
    for path in (inside, beside):
        np.testing.assert_allclose(run(application_of(path, 2)).returned[0], expected[0], rtol=1e-5)
    (tmp_path / "apart.bin").unlink()
    with pytest.raises(InputError, match=r"apart.onnx: cannot be read \(.*\); accepted: an ONNX model"):
        application_of(beside, 2)


def test_the_name_tells_networks_and_parts_apart(tmp_path: Path) -> None:
    def name_of(path: Path, seed: int, num_tasks: int) -> str:
        nodes = [helper.make_node("MatMul", ["x", "w" * seed], ["m"]), helper.make_node("Exp", ["m"], ["y"])]
        onnx.save(network(nodes, [tensor("x", [1, 3])], [tensor("y", [1, 3])], [weight("w" * seed, 3, 3)]), str(path))
        return application_of(path, num_tasks).name

    path = tmp_path / "my-net.onnx"
    first = name_of(path, 1, 2)
    assert first.startswith("my_net_")
    assert name_of(path, 1, 2) == first
    assert len({first, name_of(path, 2, 2), name_of(path, 1, 1)}) == 3


@pytest.mark.parametrize("batch", [1, 3])
def test_an_if_of_sizes_runs_its_branch(batch: int) -> None:
    """Its branches have weights of one name."""
    flat = onnx.numpy_helper.from_array(np.array([-1]), "extra")
    then = helper.make_graph(
        [helper.make_node("Reshape", ["r", "extra"], ["t"])], "then", [], [tensor("t", None)], [flat]
    )
    product = helper.make_node("MatMul", ["r", "extra"], ["t"])
    other = helper.make_graph([product], "else", [], [tensor("t", None)], [weight("extra", 2, 2)])
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Shape", ["r"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["d"]),
        helper.make_node("Equal", ["d", "one"], ["c"]),
        helper.make_node("If", ["c"], ["q"], then_branch=then, else_branch=other),
        helper.make_node("Exp", ["q"], ["y"]),
    ]
    numbers = [onnx.numpy_helper.from_array(np.int64(value), name) for name, value in (("zero", 0), ("one", 1))]
    result = [2] if batch == 1 else [batch, 2]
    model = network(nodes, [tensor("x", [batch, 2])], [tensor("y", result)], numbers)
    for num_tasks in (1, 3):
        assert_as_whole(application_of_model(model, num_tasks, "ifs"), model)


def test_options_of_a_command_line(tmp_path: Path) -> None:
    path = tmp_path / "b.onnx"
    onnx.save(branching(), str(path))
    assert len(application_at(str(path), "2:batch=4").program.calls) == 3
    assert len(application_at(str(path), "batch=4").program.calls) == 7
    assert len(application_at(str(path), "x:0=4:2").program.calls) == 3
    with pytest.raises(InputError, match=r"without a size: x \[batch, 4\]; accepted: batch=SIZE$"):
        application_at(str(path))
    for options in ("x", "2:batch", "batch=", "-1", "1e3", "2:"):
        with pytest.raises(InputError, match=r"app is .*; accepted: FILE.onnx:PARTS:DIMENSION=SIZE"):
            application_at(str(path), options)
    with pytest.raises(InputError, match=r"num_tasks is 0; accepted: an integer in \[1, inf\)"):
        application_at(str(path), "0:batch=4")


X, Y = tensor("x", [2, 2]), tensor("y", [2, 2])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (network([helper.make_node("RandomNormalLike", ["x"], ["n"]), helper.make_node("Add", ["x", "n"], ["y"])],
                 [X], [Y]), "node 0 is a RandomNormalLike, whose results are random; accepted"),
        (network([helper.make_node("Exp", ["x"], ["y"]), helper.make_node("Exp", ["w"], ["c"])], [X],
                 [Y, tensor("c", [2, 2])], [weight("w", 2, 2)]), "output 'c' is computed from no input; accepted"),
        (network([helper.make_node("Exp", ["x"], ["y"])], [X], [Y, X]), "output 'x' is computed from no input"),
        (network([helper.make_node("Fancy", ["x"], ["y"])], [X], [Y]), "accepted: an ONNX model"),
        (network([helper.make_node("Mod", ["x", "x"], ["y"], fmod=1)],
                 [tensor("x", [2], onnx.TensorProto.BFLOAT16)], [tensor("y", [2], onnx.TensorProto.BFLOAT16)]),
         "part 0 is not run by onnxruntime"),
        ("model", "model is 'model'; accepted: a ModelProto"),
    ],
)  # fmt: skip
def test_what_is_refused(model: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        application_of_model(model, 2, "refused")


def test_a_file_that_is_no_network(tmp_path: Path) -> None:
    path = tmp_path / "n.onnx"
    with pytest.raises(InputError, match="accepted: an ONNX model that can be read"):
        application_of(path, 2)
    path.write_bytes(b"no network")
    with pytest.raises(InputError, match=r"n.onnx: .*; accepted: an ONNX model"):
        application_of(path, 2)


def test_other_arrays_than_the_network_takes_fail_in_the_task() -> None:
    app = application_of_model(branching(), 2, "branching", {"batch": 4})
    with pytest.raises(Exception, match="Got invalid dimensions for input: x"):
        measured(app, {"x": np.zeros((3, 4), np.float32)}, machine_hz=1e9)


def test_the_packages_are_named_where_they_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'")
        return found(name, *args, **kwargs)

    model = branching()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        ImportError, match=r"needs the packages onnx and onnxruntime \(pip install 'mrlato-jax\[edge,onnx\]'"
    ):
        application_of_model(model, 2, "branching")
