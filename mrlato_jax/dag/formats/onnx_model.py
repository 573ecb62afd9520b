"""Neural networks from ONNX files: a task for each operator, with cycles from its multiply-accumulates.

Needs the extra `onnx`. Multiply-accumulates of an operator are counted as follows:

- convolutions, matrix products, recurrent layers: by their definition;
- pooling and local normalisation: the window for each output element;
- operators that only move or rename data: none;
- all other operators of ONNX: one for each output element;
- operators of other domains: the caller must give the number.

Where the condition of an If follows from shapes and constants, the taken branch is read in place of the If. Tensors
have the sizes of shape inference. Weights, and results that depend only on weights and shapes, are at both ends before
the run: they are no tasks and are not sent. Reading runs nothing in a file and opens no other file. A process of its
own (`onnx_inference`) infers shapes, in at most 2 s of processor time and 1 GiB. A file adds 1 s for each 100 MB, and
eight times its size.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mrlato_jax.dag.dataflow import OUTSIDE, Dataflow, Item, distinct
from mrlato_jax.dag.formats.onnx_inference import DOMAINS, inferred_apart, used_by
from mrlato_jax.dag.formats.reading import MAX_TASKS, MissingValuesError, in_tasks, listed, read_bytes
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.errors import InputError, check_number, shorten

KIND = "an ONNX model"
MAX_FILE_BYTES = 2**30
MAX_SIZE = 2**63 - 1  # greatest size of a dimension
MAX_RANK = 64  # most dimensions of a tensor
MAX_LINKS = 500_000  # most inputs of all operators together
LONGEST_NAME = 60  # letters of a dimension's name in a message
LONGEST_LIST = 200  # letters of a list of inputs or operators in a message
MOVING = frozenset((
    "Cast", "Compress", "Concat", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GatherElements",
    "GatherND", "Identity", "NonZero", "Pad", "Reshape", "ScatterElements", "ScatterND", "Slice", "SpaceToDepth",
    "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
))  # fmt: skip
CONSTANT = frozenset(("Constant", "Shape", "Size"))  # operators whose results do not depend on the input data
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
    operator_costs: Mapping[str, float] | None = None,
) -> TaskGraph:
    """Reads one network.

    Args:
        path: the file, at most 1 GiB.
        cycles_per_mac: CPU cycles per multiply-accumulate, > 0: the clock divided by the multiply-accumulates per
            second that the code on your machine reaches.
        num_tasks: merge into at most this number of tasks (`Dataflow.coarsened`); by default a task for each operator.
        dimensions: sizes that the file leaves open, by the name of a dimension or by input and axis, such as
            {"batch": 1, "images:2": 224}. A size that the file fixes cannot be changed.
        operator_costs: multiply-accumulates for each element of an operator's first result, >= 0, by DOMAIN.OPERATOR,
            by OPERATOR (of ONNX's own domain) or by the name of a node, such as {"com.microsoft.FusedConv": 27}. An
            operator of unknown work needs a cost; for other operators, the cost replaces that of the definition.

    Raises:
        InputError: there is no such file, the file is no ONNX model, an operator's work or a tensor's shape is unknown,
            shape inference takes too much time or memory, or an argument is out of range. Where sizes or costs are
            missing, one error names all of them.
        ImportError: the package `onnx` is not installed.
    """
    flow = onnx_dataflow(path, cycles_per_mac=cycles_per_mac, dimensions=dimensions, operator_costs=operator_costs)
    return in_tasks(flow, num_tasks, path)


def onnx_dataflow(
    path: str | os.PathLike[str],
    *,
    cycles_per_mac: float,
    dimensions: Mapping[str, int] | None = None,
    operator_costs: Mapping[str, float] | None = None,
) -> Dataflow:
    """Returns the tasks and data that `read_onnx` reads."""
    check_number("cycles_per_mac", cycles_per_mac, low=0.0, open_low=True)
    sizes, costs = _checked_sizes(dimensions), _checked_costs(operator_costs)
    data = read_bytes(path, KIND, MAX_FILE_BYTES)
    try:
        return _dataflow(_inferred(data, sizes), cycles_per_mac, costs)
    except MissingValuesError as error:
        raise error.in_file(path) from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (ArithmeticError, LookupError, ValueError) as error:  # operators without required inputs or attributes
        raise InputError(f"{path}: an operator's work is unknown ({shorten(error)}); accepted: {KIND}") from None


def _checked_sizes(dimensions: Any) -> dict[str, int]:
    """Checks the argument `dimensions` of `read_onnx`."""
    if dimensions is None:
        return {}
    if not isinstance(dimensions, Mapping):
        raise InputError(f"dimensions is {shorten(dimensions)}; accepted: sizes by name, such as {{'batch': 1}}")
    sizes = {}
    for name, size in dimensions.items():
        if not isinstance(name, str) or not name:
            raise InputError(f"dimensions has {shorten(name)}; accepted: names of dimensions, strings")
        check_number(f"dimensions[{name!r}]", size, low=1, high=MAX_SIZE, integer=True)
        sizes[name] = int(size)
    return sizes


def _checked_costs(operator_costs: Any) -> dict[str, float]:
    """Checks the argument `operator_costs` of `read_onnx`."""
    if operator_costs is None:
        return {}
    if not isinstance(operator_costs, Mapping) or not all(isinstance(name, str) for name in operator_costs):
        raise InputError(f"operator_costs is {shorten(operator_costs)}; accepted: numbers by DOMAIN.OPERATOR")
    for name, cost in operator_costs.items():
        check_number(f"operator_costs[{name!r}]", cost, low=0.0)
    return {name: float(cost) for name, cost in operator_costs.items()}


class _Network(NamedTuple):
    """A model with the shapes of its tensors.

    Attributes:
        model: onnx.ModelProto, without its large weights.
        elsewhere: names of the weights in other files.
        lacking: shapes of the inputs that have a dimension without a size, in the form of `onnx_inference`.
        branches: the branches of each call of `onnx_inference.take_branches`.
    """

    model: Any
    elsewhere: set[str]
    lacking: dict[str, list[int | str | None] | None]
    branches: list[dict[str, str]]


def _inferred(data: bytes, dimensions: Mapping[str, int]) -> _Network:
    try:
        import onnx
    except ImportError:
        raise ImportError("reading ONNX needs the package onnx (pip install 'mrlato-jax[onnx]')") from None
    answer, model = inferred_apart(data, dimensions, MAX_TASKS)
    if "refused" in answer:
        raise InputError(answer["refused"])
    if "failed" in answer:
        failure = re.sub(r"\bunk__\d+", "?", answer["failed"])  # names made by shape inference
        raise InputError(f"{shorten(failure, 200)}; accepted: {KIND}")
    network = _Network(
        onnx.load_model_from_string(model), set(answer["elsewhere"]), answer["lacking"], answer["branches"]
    )
    if None in network.lacking.values():
        raise _sizes_missing(network.lacking)
    return network


def _sizes_missing(lacking: Mapping[str, list[int | str | None] | None]) -> MissingValuesError:
    """Returns the error that names all missing sizes of inputs."""
    keys: dict[str, None] = {}
    inputs = []
    for name, shape in lacking.items():
        for axis, size in enumerate(shape or [None]):
            by_name = isinstance(size, str) and size.isprintable() and len(size) <= LONGEST_NAME
            if not isinstance(size, int):
                keys[str(size) if by_name else f"{name}:{axis}"] = None
        sizes = (
            "..." if shape is None else ", ".join("?" if size is None else str(size)[:LONGEST_NAME] for size in shape)
        )
        inputs.append(f"{name[:LONGEST_NAME]} [{sizes}]")
    found = listed(inputs, longest=LONGEST_LIST)
    return MissingValuesError(f"inputs have dimensions without a size: {found}", "dimensions", list(keys), "SIZE")


def _dataflow(network: _Network, cycles_per_mac: float, costs: Mapping[str, float]) -> Dataflow:
    graph = network.model.graph
    known = (
        network.elsewhere
        | {tensor.name for tensor in graph.initializer}
        | {tensor.values.name for tensor in graph.sparse_initializer}
    )
    _check_costs(network, costs)
    nodes = []
    for node in graph.node:
        fixed = all(name in known for name in used_by(node) if name) and node.op_type not in RANDOM
        if fixed or node.op_type in CONSTANT:
            known.update(node.output)
        else:
            nodes.append(node)
    if not nodes:
        raise InputError(f"no operator depends on an input; accepted: {KIND} with such an operator")
    uses = [[name for name in used_by(node) if name and name not in known] for node in nodes]
    links = sum(map(len, uses))
    if links > MAX_LINKS:
        raise InputError(f"operators have {links} inputs; accepted: at most {MAX_LINKS}")
    shapes = _Shapes(network)
    maker = {name: number for number, node in enumerate(nodes) for name in node.output if name}
    users: dict[str, set[int]] = {}
    for number, names in enumerate(uses):
        for name in names:
            users.setdefault(name, set()).add(number)
    wanted = {value.name for value in graph.output}
    items = [
        Item(shapes.size_bytes(name), maker.get(name, OUTSIDE), frozenset(users.get(name, ())), name in wanted)
        for name in sorted({*users, *(name for name in wanted if name in maker)})
    ]
    return Dataflow(
        names=distinct(node.name or f"{node.op_type} {number}" for number, node in enumerate(nodes)),
        cycles=tuple(cycles_per_mac * float(_macs(node, shapes, costs)) for node in nodes),
        items=tuple(items),
    )


def _check_costs(network: _Network, costs: Mapping[str, float]) -> None:
    """Raises InputError where an operator's work is unknown, or a cost belongs to no operator."""
    nodes = network.model.graph.node
    unknown = {
        _operator(node): node
        for node in reversed(nodes)
        if (node.domain not in DOMAINS or node.op_type in REFUSED) and not costs.keys() & {node.name, _operator(node)}
    }
    if network.lacking and any(node.op_type == "If" for node in unknown.values()):
        raise _sizes_missing(network.lacking)  # the condition may follow from these sizes
    if unknown:
        operator, node = list(unknown.items())[-1]
        meaning = ", multiply-accumulates for each element of the result"
        if any(f"{function.domain}.{function.name}" in unknown for function in network.model.functions):
            meaning += "; or a model whose functions onnx.inliner.inline_local_functions has inlined"
        raise MissingValuesError(
            f"node {shorten(node.name)} is a {operator[:LONGEST_NAME]}, whose work is unknown",
            "operator_costs",
            list(unknown)[::-1],
            "MACS",
            meaning,
        )
    for name in costs.keys() - {name for node in nodes for name in (node.name, _operator(node))}:
        operators = listed(sorted({_operator(node) for node in nodes}), longest=LONGEST_LIST)
        raise InputError(
            f"a cost is given for {shorten(name)}, which is no operator; accepted: {operators}, or the name of a node"
        )


def _operator(node: Any) -> str:
    """Returns the name of a node's operator, with its domain unless it is ONNX's."""
    return node.op_type if node.domain in DOMAINS else f"{node.domain}.{node.op_type}"


class _Shapes:
    """The known shapes and types of tensors."""

    def __init__(self, network: _Network) -> None:
        graph = network.model.graph
        self._lacking = network.lacking
        self._types = {value.name: value.type for value in (*graph.output, *graph.value_info, *graph.input)}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._foreign = sorted({_operator(node) for node in graph.node if node.domain not in DOMAINS})

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of a tensor; raises InputError where a dimension is unknown."""
        if name in self._weights:
            return tuple(self._weights[name].dims)
        kind = self._types.get(name)
        tensor = None if kind is None or not kind.HasField("tensor_type") else kind.tensor_type
        is_known = tensor is not None and tensor.HasField("shape")
        dimensions = () if tensor is None else tensor.shape.dim
        if len(dimensions) > MAX_RANK:
            raise InputError(f"tensor {shorten(name)} has {len(dimensions)} dimensions; accepted: at most {MAX_RANK}")
        unsized = [axis for axis, size in enumerate(dimensions) if not size.HasField("dim_value") or size.dim_value < 0]
        if is_known and not unsized:
            return tuple(dimension.dim_value for dimension in dimensions)
        if self._lacking:
            raise _sizes_missing(self._lacking)
        accepted = "a model that shape inference settles"
        if self._foreign:
            operators = listed(self._foreign, longest=LONGEST_LIST)
            accepted = (
                f"a model with the shapes of the results of {operators}, which python -m "
                "onnxruntime.tools.symbolic_shape_infer can add"
            )
        fault = f"has an axis, {unsized[0]}, whose size depends on the data" if unsized else "has no known shape"
        raise InputError(f"tensor {shorten(name)} {fault}; accepted: {accepted}")

    def size_bytes(self, name: str) -> float:
        """Returns the bytes of a tensor."""
        import onnx

        count = float(math.prod(self.shape(name)))
        kind = self._types.get(name)
        code = kind.tensor_type.elem_type if kind is not None else self._weights[name].data_type
        label = onnx.TensorProto.DataType.Name(code)
        if label in ("UNDEFINED", "STRING"):
            raise InputError(f"tensor {shorten(name)} has elements of type {label}; accepted: numbers")
        element_bytes = (
            0.5
            if label.endswith("INT4") or label == "FLOAT4E2M1"
            else onnx.helper.tensor_dtype_to_np_dtype(code).itemsize
        )
        return element_bytes * count


def _macs(node: Any, shapes: _Shapes, costs: Mapping[str, float]) -> float:
    """Returns the multiply-accumulates of one operator."""
    kind = node.op_type
    cost = costs.get(node.name, costs.get(_operator(node)))
    if kind in MOVING and cost is None:
        return 0
    outputs = math.prod(shapes.shape(node.output[0])) if node.output[0] else 0
    if cost is not None:
        return outputs * cost
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
