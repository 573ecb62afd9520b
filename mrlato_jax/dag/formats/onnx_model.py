"""Neural networks from ONNX files: a task for each operator, its cycles from the multiply-accumulates that it takes.

Needs the extra `onnx`. Counted are: of convolutions, matrix products and recurrent layers what their definition says;
of pooling and local normalisation the window for each output; of operators that only move or rename data nothing; of
all others one an output element. Tensors have the sizes of shape inference. Weights, and what follows from them and
from shapes alone, are at both ends before anything runs: they are neither tasks nor sent. Nothing in a file is run, and
no other file is opened. Shapes are inferred in a process of its own (`onnx_inference`), in at most 2 s of processor
time and 1 GiB; 1 s more for each 100 MB of the file, and eight times its size.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from mrlato_jax.dag.coarsening import OUTSIDE, distinct
from mrlato_jax.dag.dataflow import Dataflow, Item
from mrlato_jax.dag.formats.onnx_inference import inferred_apart
from mrlato_jax.dag.formats.reading import MAX_TASKS, check_count, read_bytes
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number, shorten

KIND = "an ONNX model"
MAX_FILE_BYTES = 2**30
MAX_SIZE = 2**63 - 1  # of a dimension
MAX_RANK = 64  # dimensions of a tensor
MAX_LINKS = 500_000  # inputs of all operators together
DOMAINS = ("", "ai.onnx")
MOVING = frozenset((
    "Cast", "Compress", "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements",
    "GatherND", "Identity", "NonZero", "Pad", "Reshape", "ScatterElements", "ScatterND", "Slice", "SpaceToDepth",
    "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
))  # fmt: skip
CONSTANT = frozenset(("Constant", "Shape", "Size"))  # operators whose results do not depend on what data arrives
RANDOM = frozenset(
    ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
)
REFUSED = frozenset(("Attention", "DFT", "DeformConv", "If", "Loop", "STFT", "Scan", "SequenceMap"))
RECURRENT = ("LSTM", "GRU", "RNN")


def read_onnx(
    path: str | os.PathLike[str],
    *,
    cycles_per_mac: float,
    num_tasks: int | None = None,
    dimensions: Mapping[str, int] | None = None,
) -> TaskGraph:
    """Reads one network.

    Args:
        path: the file, at most 1 GiB.
        cycles_per_mac: CPU cycles for a multiply-accumulate, > 0: the clock over the multiply-accumulates a second that
            the code on your machine reaches.
        num_tasks: coarsen to at most so many (`Dataflow.coarsened`); by default a task for each operator.
        dimensions: sizes of the dimensions that the file has by name alone, such as {"batch": 1}.

    Raises:
        InputError: no such file, no ONNX model, an operator whose work is not known, a tensor whose shape is not, a
            model whose shapes take too much time or memory; or an argument out of range.
        ImportError: the package `onnx` is not installed.
    """
    check_number("cycles_per_mac", cycles_per_mac, low=0.0, open_low=True)
    sizes = _checked_sizes(dimensions)
    data = read_bytes(path, KIND, MAX_FILE_BYTES)
    try:
        flow = _dataflow(*_inferred(data, sizes), cycles_per_mac)
        return (flow if num_tasks is None else flow.coarsened(num_tasks)).to_task_graph()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ArithmeticError, LookupError, ValueError) as error:  # operators without what their definition asks for
        raise InputError(f"{path}: an operator's work cannot be told ({shorten(error)}); accepted: {KIND}") from None


def _checked_sizes(dimensions: Any) -> dict[str, int]:
    """`dimensions` as `read_onnx` takes it."""
    if dimensions is None:
        return {}
    if not isinstance(dimensions, Mapping):
        raise InputError(f"dimensions is {shorten(dimensions)}; accepted: sizes by name, such as {{'batch': 1}}")
    sizes = {}
    for name, size in dimensions.items():
        if not isinstance(name, str):
            raise InputError(f"dimensions has {shorten(name)}; accepted: names of dimensions, strings")
        check_number(f"dimensions[{name!r}]", size, low=1, high=MAX_SIZE, integer=True)
        sizes[name] = int(size)
    return sizes


def _inferred(data: bytes, dimensions: Mapping[str, int]) -> tuple[set[str], Any]:
    """Names of the weights that are in other files, and the model with the shapes of its tensors."""
    try:
        import onnx
    except ImportError:
        raise ImportError("reading ONNX needs the package onnx (pip install 'mrlato-jax[onnx]')") from None
    answer, model = inferred_apart(data, dimensions, MAX_TASKS)
    if "refused" in answer:
        raise InputError(answer["refused"])
    if "failed" in answer:
        raise InputError(f"{shorten(answer['failed'], 200)}; accepted: {KIND}")
    return set(answer["elsewhere"]), onnx.load_model_from_string(model)


def _dataflow(elsewhere: set[str], model: Any, cycles_per_mac: float) -> Dataflow:
    graph = model.graph
    known = (
        elsewhere
        | {tensor.name for tensor in graph.initializer}
        | {tensor.values.name for tensor in graph.sparse_initializer}
    )
    nodes = []
    for node in graph.node:
        if node.domain not in DOMAINS or node.op_type in REFUSED:
            name = f"{node.domain}.{node.op_type}" if node.domain not in DOMAINS else node.op_type
            name = f"{name[:60]}, whose work is not known"
            raise InputError(f"node {shorten(node.name)} is a {name}; accepted: other operators")
        fixed = all(name in known for name in node.input if name) and node.op_type not in RANDOM
        if fixed or node.op_type in CONSTANT:
            known.update(node.output)
        else:
            nodes.append(node)
    check_count("graph, its constants apart,", len(nodes))
    links = sum(len(node.input) for node in nodes)
    if links > MAX_LINKS:
        raise InputError(f"operators have {links} inputs; accepted: at most {MAX_LINKS}")
    shapes = _Shapes(graph)
    maker = {name: number for number, node in enumerate(nodes) for name in node.output if name}
    users: dict[str, set[int]] = {}
    for number, node in enumerate(nodes):
        for name in node.input:
            if name and name not in known:
                users.setdefault(name, set()).add(number)
    wanted = {value.name for value in graph.output}
    items = [
        Item(shapes.size_bytes(name), maker.get(name, OUTSIDE), frozenset(users.get(name, ())), name in wanted)
        for name in sorted({*users, *(name for name in wanted if name in maker)})
    ]
    return Dataflow(
        names=distinct(node.name or f"{node.op_type} {number}" for number, node in enumerate(nodes)),
        cycles=tuple(cycles_per_mac * float(_macs(node, shapes)) for node in nodes),
        items=tuple(items),
    )


class _Shapes:
    """What is known of each tensor."""

    def __init__(self, graph: Any) -> None:
        self._types = {value.name: value.type for value in (*graph.input, *graph.value_info, *graph.output)}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises InputError where a dimension is not known."""
        if name in self._weights:
            return tuple(self._weights[name].dims)
        kind = self._types.get(name)
        if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
            raise InputError(
                f"tensor {shorten(name)} has no known shape; accepted: a model that shape inference settles"
            )
        dimensions = kind.tensor_type.shape.dim
        if len(dimensions) > MAX_RANK:
            raise InputError(f"tensor {shorten(name)} has {len(dimensions)} dimensions; accepted: at most {MAX_RANK}")
        for dimension in dimensions:
            if not dimension.HasField("dim_value") or dimension.dim_value < 0:
                given = dimension.dim_param or "?"
                raise InputError(
                    f"tensor {shorten(name)} has a dimension {shorten(given)}; accepted: dimensions={{{given!r}: size}}"
                )
        return tuple(dimension.dim_value for dimension in dimensions)

    def size_bytes(self, name: str) -> float:
        """Of a tensor."""
        import onnx

        count = float(math.prod(self.shape(name)))
        kind = self._types.get(name)
        code = kind.tensor_type.elem_type if kind is not None else self._weights[name].data_type
        label = onnx.TensorProto.DataType.Name(code)
        if label in ("UNDEFINED", "STRING"):
            raise InputError(f"tensor {shorten(name)} has elements of type {label}; accepted: numbers")
        each = (
            0.5
            if label.endswith("INT4") or label == "FLOAT4E2M1"
            else onnx.helper.tensor_dtype_to_np_dtype(code).itemsize
        )
        return each * count


def _macs(node: Any, shapes: _Shapes) -> int:
    """Multiply-accumulates of one operator."""
    kind = node.op_type
    if kind in MOVING:
        return 0
    outputs = math.prod(shapes.shape(node.output[0])) if node.output[0] else 0
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if kind in ("Conv", "ConvInteger"):
        return outputs * math.prod(shapes.shape(node.input[1])[1:])
    if kind == "QLinearConv":
        return outputs * math.prod(shapes.shape(node.input[3])[1:])
    if kind == "ConvTranspose":
        return math.prod(shapes.shape(node.input[0])) * math.prod(shapes.shape(node.input[1])[1:])
    if kind in ("MatMul", "MatMulInteger", "QLinearMatMul"):
        return outputs * (shapes.shape(node.input[0]) or (1,))[-1]
    if kind == "Gemm":
        transposed = "transA" in attributes and attributes["transA"].i
        return outputs * shapes.shape(node.input[0])[0 if transposed else 1]
    if kind in RECURRENT:
        weights, recurrent = (math.prod(shapes.shape(name)) for name in node.input[1:3])
        length, batch = shapes.shape(node.input[0])[:2]
        return length * batch * (weights + recurrent)
    if kind == "Einsum":
        return _einsum_macs(attributes["equation"].s.decode(), [shapes.shape(name) for name in node.input])
    if kind in ("MaxPool", "AveragePool", "LpPool"):
        return outputs * math.prod(attributes["kernel_shape"].ints)
    if kind == "LRN":
        return outputs * attributes["size"].i
    if kind.startswith(("Global", "Reduce", "Arg")):
        return math.prod(shapes.shape(node.input[0]))
    return outputs


def _einsum_macs(equation: str, operands: list[tuple[int, ...]]) -> int:
    labels = equation.replace(" ", "").split("->")[0].split(",")
    if "..." in equation or [len(label) for label in labels] != [len(shape) for shape in operands]:
        raise InputError(f"an Einsum has equation {shorten(equation)}; accepted: a label for each dimension")
    sizes = {
        name: size
        for label, shape in zip(labels, operands, strict=True)
        for name, size in zip(label, shape, strict=True)
    }
    return math.prod(sizes.values())
