"""Checks an ONNX model and infers the shapes of its tensors, as a program with limits on time and memory.

    python onnx_inference.py < REQUEST > ANSWER

The package `onnx` has no such limits: a kilobyte of functions that call one another twice keeps shape inference busy
for ever, and a range of 2^62 numbers fills the memory. `inferred_apart` starts the program and sends a request. A
request is a line of JSON and the model. An answer is a line of JSON and, unless the line has a refusal, the model with
the types of its tensors and without its large weights. The program imports nothing of this package, so it starts in a
tenth of a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

SECONDS = 2.0  # processor time for a model
BYTES_A_SECOND = 100e6  # bytes of the file that add a second of processor time
MEMORY = 2**30  # bytes of memory for a model
COPIES = 8  # bytes of memory added for each byte of the file
MAX_STRUCTURE_BYTES = 2**24  # most bytes of a model without its large weights
SMALL = 4096  # bytes; tensors of at most this size keep their values
DOMAINS = ("", "ai.onnx")
LEFT_OUT = "left.out"  # domain of operators that inference skips
LISTED_IR = 3  # version of the format in which weights are also inputs
EVALUATED = frozenset((
    "Add", "And", "Cast", "Concat", "Constant", "Div", "Equal", "Gather", "Greater", "GreaterOrEqual", "Identity",
    "Less", "LessOrEqual", "Mod", "Mul", "Neg", "Not", "Or", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceSum",
    "Reshape", "Shape", "Size", "Slice", "Squeeze", "Sub", "Unsqueeze", "Where", "Xor",
))  # fmt: skip
PATIENCE = 120.0  # seconds of real time after which the program is stopped
SMALLER = (
    "a model that takes less, such as a part that onnx.utils.extract_model cuts out, or its tasks with their cycles "
    "and bytes in JSON (mj.write_json)"
)


def inferred_apart(data: bytes, dimensions: Mapping[str, int], max_nodes: int) -> tuple[dict[str, Any], bytes]:
    """Answers one request in a process that ends with this call.

    Args:
        data: the model's file.
        dimensions: sizes of dimensions, by name or as INPUT:AXIS.
        max_nodes: most nodes of the graph.

    Returns:
        {"refused": the fault and the accepted values}, {"failed": message of `onnx`}, or an answer with the model:
        {"elsewhere": names of the weights in other files, "lacking": shapes, by name, of the inputs that have a
        dimension without a size, "branches": the branches of each call of `take_branches`}. Such a shape has a number,
        a name or None for each dimension, or is None as a whole.
    """
    header = {"path": sys.path, "dimensions": dict(dimensions), "max_nodes": max_nodes}
    request = json.dumps(header).encode() + b"\n" + data
    try:
        ran = subprocess.run(
            [sys.executable, "-I", __file__], input=request, capture_output=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        accepted = "the same model when the machine has less to do"
        return {"refused": f"shape inference has not ended after {PATIENCE:g} s; accepted: {accepted}"}, b""
    if ran.returncode < 0 and -ran.returncode == getattr(signal, "SIGPROF", None):
        limit = f"{_seconds(len(data)):.3g} s of processor time"
        return {"refused": f"shape inference takes more than {limit}; accepted: {SMALLER}"}, b""
    first, _, model = ran.stdout.partition(b"\n")
    try:
        return json.loads(first), model
    except ValueError:  # C++ code ran out of memory or crashed
        limit = f"{_memory(len(data)) >> 20} MiB"
        return {"refused": f"shape inference breaks, or takes more than {limit}; accepted: {SMALLER}"}, b""


def inferred(data: bytes, dimensions: Mapping[str, int], max_nodes: int) -> tuple[dict[str, Any], bytes]:
    """Returns the answer of `inferred_apart`, computed in this process without limits."""
    import onnx

    try:
        model = onnx.load_model_from_string(data)
        graph = model.graph
        _check_nodes(graph, max_nodes)
        listed = {value.name for value in graph.input}
        if model.ir_version == LISTED_IR and not listed.issuperset(weight.name for weight in graph.initializer):
            model.ir_version = LISTED_IR + 1  # from this version on, weights need not be inputs
        _forget_absent_sizes(graph)
        _size_weights(graph)
        sizes = _set_sizes(graph, dimensions)
        lacking = _lacking(graph)
        if any(shape is None for shape in lacking.values()):  # the checker would refuse these inputs
            return {"elsewhere": [], "lacking": lacking, "branches": []}, model.SerializeToString()
        elsewhere = _declare_external(graph)
        _check(model)
        for tensor in _stored(graph):
            _drop_values(tensor)
        foreign = {name for node in graph.node if node.domain not in DOMAINS for name in node.output}
        _set_named_sizes(graph, sizes, foreign)  # inference does not set these
        model, branches = _typed(model, max_nodes, bool(lacking))
        _set_named_sizes(model.graph, sizes)
    except _RefusedError as refused:
        return {"refused": str(refused)}, b""
    except MemoryError:
        raise
    except Exception as error:  # protobuf, the checker and shape inference have their own types of errors
        return {"failed": str(error)[:1000]}, b""
    answer = {"elsewhere": sorted(elsewhere), "lacking": lacking, "branches": branches}
    return answer, model.SerializeToString()


class _RefusedError(Exception):
    """A model is refused; the message has the fault and the accepted values."""


def _check_nodes(graph: Any, max_nodes: int) -> None:
    if not 1 <= len(graph.node) <= max_nodes:
        raise _RefusedError(f"graph.node has {len(graph.node)} tasks; accepted: 1 to {max_nodes}")


def _check_size(model: Any) -> None:
    if model.ByteSize() > MAX_STRUCTURE_BYTES:
        accepted = f"accepted: at most {MAX_STRUCTURE_BYTES}"
        raise _RefusedError(f"has {model.ByteSize()} bytes without its weights; {accepted}")


def _check(model: Any) -> None:
    """Raises the errors of the checker, which sees no outputs without a shape."""
    import onnx

    outputs = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend(value for value in outputs if not _is_shapeless(value))
    onnx.checker.check_model(model)
    del model.graph.output[:]
    model.graph.output.extend(outputs)


def _is_shapeless(value: Any) -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def _forget_absent_sizes(graph: Any) -> None:
    """Removes sizes of 0 or less, with which some programs write unknown sizes."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.HasField("dim_value") and dimension.dim_value <= 0:
                dimension.ClearField("dim_value")


def _size_weights(graph: Any) -> None:
    """Sets the open sizes of inputs that are also weights to the sizes of the weights."""
    dims = {weight.name: weight.dims for weight in graph.initializer}
    for value in graph.input:
        shape = value.type.tensor_type.shape
        if len(shape.dim) == len(dims.get(value.name, ())):
            for dimension, size in zip(shape.dim, dims.get(value.name, ()), strict=True):
                if not dimension.HasField("dim_value"):
                    dimension.dim_value = size


def _set_sizes(graph: Any, dimensions: Mapping[str, int]) -> dict[str, int]:
    """Sets the sizes of inputs that are given by the name of a dimension or as INPUT:AXIS; returns sizes by name."""
    inputs = {value.name: value.type.tensor_type for value in graph.input if value.type.HasField("tensor_type")}
    named = {dimension.dim_param for kind in inputs.values() for dimension in kind.shape.dim} - {""}
    sizes: dict[str, int] = {}  # by name
    shapes: dict[str, dict[int, int]] = {}  # of inputs without a shape

    def set_named(key: str, name: str, size: int) -> None:
        if sizes.setdefault(name, size) != size:
            raise _RefusedError(f"dimension {key[:60]!r} is {size}, and {sizes[name]} elsewhere; accepted: one size")

    for key, size in dimensions.items():
        name, _, axis = key.rpartition(":")
        place = int(axis) if axis.isdecimal() and len(axis) < 4 else -1
        kind = inputs.get(name)
        if key in named:
            set_named(key, key, size)
        elif kind is None or place < 0 or (kind.HasField("shape") and place >= len(kind.shape.dim)):
            names = ", ".join(sorted(named)[:20]) or "none"
            axes = ", ".join(sorted(inputs)[:20])
            raise _RefusedError(
                f"no input has a dimension {key[:60]!r}; accepted: named dimensions ({names}), or INPUT:AXIS "
                f"with an axis from 0 of an input ({axes})"[:600]
            )
        elif not kind.HasField("shape"):
            shapes.setdefault(name, {})[place] = size
        elif (dimension := kind.shape.dim[place]).dim_param:
            set_named(key, dimension.dim_param, size)
        elif dimension.HasField("dim_value") and dimension.dim_value != size:
            raise _RefusedError(
                f"dimension {key[:60]!r} is {size}, and the model fixes it; accepted: {dimension.dim_value}"
            )
        else:
            dimension.dim_value = size
    for kind in inputs.values():
        for dimension in kind.shape.dim:
            if dimension.dim_param in sizes:
                dimension.dim_value = sizes[dimension.dim_param]
    for name, shape in shapes.items():
        if sorted(shape) == list(range(len(shape))):
            for place in range(len(shape)):
                inputs[name].shape.dim.add().dim_value = shape[place]
    return sizes


def _set_named_sizes(graph: Any, sizes: Mapping[str, int], only: Collection[str] | None = None) -> None:
    """Sets the named dimensions of results to the given sizes; `only` restricts this to some results."""
    for value in (*graph.value_info, *graph.output):
        for dimension in value.type.tensor_type.shape.dim if only is None or value.name in only else ():
            if dimension.dim_param in sizes:
                dimension.dim_value = sizes[dimension.dim_param]


def _lacking(graph: Any) -> dict[str, list[int | str | None] | None]:
    """Returns the shapes, by name, of used inputs with a dimension without a size.

    A shape has a number, a name or None for each dimension; an input without a shape has None.
    """
    weights = {weight.name for weight in graph.initializer}
    weights |= {weight.values.name for weight in graph.sparse_initializer}
    used = {name for node in graph.node for name in used_by(node)}
    lacking: dict[str, list[int | str | None] | None] = {}
    for value in graph.input:
        if value.name in weights or value.name not in used or not value.type.HasField("tensor_type"):
            continue
        shape = [
            dimension.dim_value if dimension.HasField("dim_value") else dimension.dim_param or None
            for dimension in value.type.tensor_type.shape.dim
        ]
        if _is_shapeless(value):
            lacking[value.name] = None
        elif not all(isinstance(size, int) for size in shape):
            lacking[value.name] = shape
    return lacking


def used_by(node: Any) -> list[str]:
    """Returns the names of the tensors that an operator and its graphs use."""
    names = list(node.input)
    for graph in graphs_of(node):
        own = {value.name for value in (*graph.input, *graph.initializer)}
        own |= {tensor.values.name for tensor in graph.sparse_initializer}
        own |= {name for inner in graph.node for name in inner.output}
        names += [name for inner in graph.node for name in used_by(inner) if name not in own]
        names += [value.name for value in graph.output if value.name not in own]
    return names


def graphs_of(node: Any) -> Iterator[Any]:
    """Yields the graphs in an operator's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _typed(model: Any, max_nodes: int, is_lacking: bool) -> tuple[Any, list[dict[str, str]]]:
    """Returns the model with the types of its tensors and without Ifs of known condition, and the branches taken.

    A branch that is not taken may be invalid. So inference skips Ifs while their conditions may become known.
    """
    import onnx

    branches: list[dict[str, str]] = []
    while True:
        waiting = [number for number, node in enumerate(model.graph.node) if _is_if(node)]
        typed = _inferred_without(model, waiting)
        taken = _settled(typed, [model.graph.node[number] for number in waiting])
        if not taken:
            break
        take_branches(model, taken)
        branches.append(taken)
        _check_nodes(model.graph, max_nodes)
    for number in waiting:
        typed.graph.node[number].CopyFrom(model.graph.node[number])
    if waiting and not is_lacking:
        typed = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        _check_size(typed)
    return typed, branches


def _is_if(node: Any) -> bool:
    return node.op_type == "If" and node.domain in DOMAINS


def _inferred_without(model: Any, numbers: Sequence[int]) -> Any:
    """Returns the model with the types of its tensors, without some operators."""
    import onnx

    _check_size(model)
    outline = onnx.ModelProto()
    outline.CopyFrom(model)
    for number in numbers:
        node = outline.graph.node[number]
        node.CopyFrom(onnx.helper.make_node(node.op_type, [], node.output, domain=LEFT_OUT))
    if numbers:
        outline.opset_import.append(onnx.helper.make_opsetid(LEFT_OUT, 1))
    typed = onnx.shape_inference.infer_shapes(outline, strict_mode=True, data_prop=True)
    _check_size(typed)
    return typed


def _settled(model: Any, ifs: Sequence[Any]) -> dict[str, str]:
    """Returns the taken branch, by an If's first output, where its condition follows from shapes and constants."""
    import onnx

    graph = model.graph
    maker = {name: place for place, node in enumerate(graph.node) for name in node.output if name}
    needed: set[int] = set()
    names: set[str] = set()
    waiting = [node.input[0] for node in ifs]
    while waiting:
        names.add(name := waiting.pop())
        place = maker.get(name)
        if place is None or place in needed:
            continue
        if graph.node[place].op_type in EVALUATED and graph.node[place].domain in DOMAINS:
            needed.add(place)
            waiting += graph.node[place].input
    values = {}
    for tensor in graph.initializer:
        if tensor.name in names and tensor.ByteSize() <= SMALL:
            with contextlib.suppress(Exception):  # a tensor without its values
                values[tensor.name] = onnx.numpy_helper.to_array(tensor)
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info)
        if value.type.tensor_type.HasField("shape")
        and all(dimension.HasField("dim_value") for dimension in value.type.tensor_type.shape.dim)
    }
    for place in sorted(needed):
        node = graph.node[place]
        with contextlib.suppress(Exception):  # a condition that cannot be computed stays unknown
            result = _evaluated(node, model.opset_import, values, shapes)
            if result.nbytes <= SMALL:
                values[node.output[0]] = result
    conditions = {node.output[0]: values.get(node.input[0]) for node in ifs}
    return {
        name: "then_branch" if condition.item() else "else_branch"
        for name, condition in conditions.items()
        if condition is not None and condition.size == 1
    }


def _evaluated(node: Any, opsets: Any, values: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> Any:
    """Returns the result of an operator on small arrays; raises KeyError where an operand is unknown."""
    import numpy as np
    import onnx.reference

    ends = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "Shape":
        return np.array(shapes[node.input[0]][ends.get("start") : ends.get("end")], np.int64)
    if node.op_type == "Size":
        return np.prod(np.array(shapes[node.input[0]], np.int64))
    given = {name: values[name] for name in node.input if name}
    ends_of = [[onnx.helper.make_tensor_value_info(name, 0, None) for name in names] for names in (given, node.output)]
    graph = onnx.helper.make_graph([node], "one", *ends_of)
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    return onnx.reference.ReferenceEvaluator(model).run(None, given)[0]


def take_branches(model: Any, taken: Mapping[str, str]) -> None:
    """Replaces Ifs by the operators of their taken branches.

    Args:
        model: the model; changed in place.
        taken: attribute names of the taken branches, by the first outputs of the Ifs.
    """
    graph = model.graph
    used = {name for node in graph.node for name in (*used_by(node), *node.output)}
    used |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    nodes = list(graph.node)
    replaced: list[Any] = []
    gone: set[str] = set()  # outputs of the Ifs, whose types were common to both branches
    for node in nodes:
        if _is_if(node) and node.output[0] in taken:
            gone |= set(node.output)
            replaced += _inlined(node, taken[node.output[0]], graph, used)
        else:
            replaced.append(node)
    types = [value for value in graph.value_info if value.name not in gone]
    _refill(graph.node, replaced)
    _refill(graph.value_info, types)


def _refill(field: Any, entries: Sequence[Any]) -> None:
    """Sets a field of a protobuf to these entries; some may be in the field already."""
    kept = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    del field[:]
    field.extend(kept)


def _inlined(node: Any, attribute: str, graph: Any, used: set[str]) -> list[Any]:
    """Returns the operators of an If's branch, with the If's outputs; adds its weights and types to the graph."""
    import onnx

    branch = next(entry.g for entry in node.attribute if entry.name == attribute)
    made = {name for inner in branch.node for name in inner.output if name}
    renamed: dict[str, str] = {}
    copied = []  # outputs that are an outer tensor, a weight, or equal to another output
    for result, output in zip(branch.output, node.output, strict=True):
        if output and result.name in made and result.name not in renamed:
            renamed[result.name] = output
        elif output:
            copied.append((result.name, output))
    weights = (*branch.initializer, *(tensor.values for tensor in branch.sparse_initializer))
    for name in sorted(made | {weight.name for weight in weights}):
        if name not in renamed:
            renamed[name] = f"{node.output[0]}/{name}"
            while renamed[name] in used:
                renamed[name] += "'"
            used.add(renamed[name])
    nodes = [*branch.node, *(onnx.helper.make_node("Identity", [name], [output]) for name, output in copied)]
    for inner in nodes:
        _rename(inner, renamed)
    for value in (*weights, *branch.value_info):
        value.name = renamed.get(value.name, value.name)
    _forget_absent_sizes(branch)
    graph.initializer.extend(branch.initializer)
    graph.sparse_initializer.extend(branch.sparse_initializer)
    graph.value_info.extend(branch.value_info)
    return nodes


def _rename(node: Any, names: Mapping[str, str]) -> None:
    """Renames the tensors of an operator and of its graphs."""
    for field in (node.input, node.output):
        for place, name in enumerate(field):
            field[place] = names.get(name, name)
    for graph in graphs_of(node):
        for inner in graph.node:
            _rename(inner, names)
        for value in graph.output:
            value.name = names.get(value.name, value.name)


def _declare_external(graph: Any) -> set[str]:
    """Declares weights in other files as inputs, since the checker would open the files; returns their names."""
    import onnx

    outside = [tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    inside = [tensor for tensor in graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
    declared = {value.name for value in graph.input}
    for weight in outside:
        if weight.name not in declared:
            graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    if outside:
        del graph.initializer[:]
        graph.initializer.extend(inside)
    return {weight.name for weight in outside}


def _stored(graph: Any) -> Iterator[Any]:
    """Yields the weights and constants of a graph and of the graphs within its operators."""
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant":
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))
        for inner in graphs_of(node):
            yield from _stored(inner)


def _drop_values(tensor: Any) -> None:
    """Removes the values of a large tensor, except lists of integers, since shapes may depend on them."""
    import onnx

    integers = tensor.data_type in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    if tensor.ByteSize() > SMALL and not (integers and len(tensor.dims) <= 1):
        for field in (
            "raw_data",
            "float_data",
            "int32_data",
            "string_data",
            "int64_data",
            "double_data",
            "uint64_data",
        ):
            tensor.ClearField(field)


def _seconds(size: int) -> float:
    return SECONDS + size / BYTES_A_SECOND


def _memory(size: int) -> int:
    return MEMORY + COPIES * size


def _limit(size: int) -> None:
    """Sets limits: SIGPROF ends this process when its time is over, and memory beyond its limit is refused."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, _seconds(size))
    with contextlib.suppress(ImportError, OSError, ValueError):  # systems without such limits, or with lower limits
        import resource

        with open("/proc/self/statm") as file:
            have = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (have + _memory(size), have + _memory(size)))


def main() -> None:
    """Answers the request on standard input."""
    header = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = header["path"]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries must not mix with the answer
    import onnx  # noqa: F401 - before the limits, since the cost of an import depends on the machine

    data = sys.stdin.buffer.read()
    _limit(len(data))
    answer, model = inferred(data, header["dimensions"], header["max_nodes"])
    with answers:
        answers.write(json.dumps(answer).encode() + b"\n" + model)


if __name__ == "__main__":
    main()
