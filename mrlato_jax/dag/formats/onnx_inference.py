"""Checks an ONNX model and infers the shapes of its tensors, as a program of its own that ends at its limits.

    python onnx_inference.py < REQUEST > ANSWER

What a model asks of the package `onnx` has no bound: a kilobyte of functions that call one another twice keeps shape
inference busy for ever, and a range of 2^62 numbers fills the memory. `inferred_apart` starts the program and asks it.
A request is a line of JSON and the model; an answer is a line of JSON and, unless that holds a refusal, the model with
the types of its tensors and without its large weights. The program imports nothing of this package: it starts in a
tenth of a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

SECONDS = 2.0  # of processor time for a model
BYTES_A_SECOND = 100e6  # of weights, for which there is more time
MEMORY = 2**30  # bytes for a model
COPIES = 8  # of its weights, for which there is more memory
MAX_STRUCTURE_BYTES = 2**24  # of a model without its large weights
SMALL = 4096  # bytes: a tensor of at most so many stays as it is
PATIENCE = 120.0  # seconds: a program that has got no processor for so long is given up


def inferred_apart(data: bytes, dimensions: Mapping[str, int], max_nodes: int) -> tuple[dict[str, Any], bytes]:
    """The answer to one request, of a process that lives no longer than this call.

    Args:
        data: the model's file.
        dimensions: sizes of dimensions that have names.
        max_nodes: that the graph may have.

    Returns:
        {"refused": what is wrong and what is accepted}, {"failed": what `onnx` says}, or {"elsewhere": names of the
        weights that are in other files}; and with the last the model.
    """
    header = {"path": sys.path, "dimensions": dict(dimensions), "max_nodes": max_nodes}
    request = json.dumps(header).encode() + b"\n" + data
    try:
        ran = subprocess.run(
            [sys.executable, "-I", __file__], input=request, capture_output=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"shape inference has not ended after {PATIENCE:g} s"}, b""
    if ran.returncode < 0 and -ran.returncode == getattr(signal, "SIGPROF", None):
        return {"failed": f"shape inference takes more than {_seconds(len(data)):.3g} s of processor time"}, b""
    first, _, model = ran.stdout.partition(b"\n")
    try:
        return json.loads(first), model
    except ValueError:  # out of memory in C++, or a fault there
        return {"failed": f"shape inference breaks, or takes more than {_memory(len(data)) >> 20} MiB"}, b""


def inferred(data: bytes, dimensions: Mapping[str, int], max_nodes: int) -> tuple[dict[str, Any], bytes]:
    """What `inferred_apart` returns, computed in this process: without limits."""
    import onnx

    try:
        model = onnx.load_model_from_string(data)
        if not 1 <= len(model.graph.node) <= max_nodes:
            return {"refused": f"graph.node has {len(model.graph.node)} tasks; accepted: 1 to {max_nodes}"}, b""
        named = set()
        for value in model.graph.input:
            for dimension in value.type.tensor_type.shape.dim:
                named.add(dimension.dim_param)
                if dimension.dim_param in dimensions:
                    dimension.dim_value = dimensions[dimension.dim_param]
        for name in dimensions:
            if name not in named:
                has = ", ".join(sorted(named - {""})[:20]) or "none"
                accepted = f"accepted: those that have a name ({has})"
                return {"refused": f"no input has a dimension {name[:60]!r}; {accepted}"}, b""
        elsewhere = _declare_external(model.graph)
        onnx.checker.check_model(model)
        for tensor in _stored(model.graph):
            _drop_values(tensor)
        if model.ByteSize() <= MAX_STRUCTURE_BYTES:
            model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        if model.ByteSize() > MAX_STRUCTURE_BYTES:
            accepted = f"accepted: at most {MAX_STRUCTURE_BYTES}"
            return {"refused": f"has {model.ByteSize()} bytes without its weights; {accepted}"}, b""
    except MemoryError:
        raise
    except Exception as error:  # protobuf, the checker and shape inference each have errors of their own
        return {"failed": str(error)[:1000]}, b""
    return {"elsewhere": sorted(elsewhere)}, model.SerializeToString()


def _declare_external(graph: Any) -> set[str]:
    """Makes inputs of the weights that are in other files, which the checker would look for; their names."""
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
    """Weights, and constants among the operators."""
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant":
            yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _drop_values(tensor: Any) -> None:
    """Leaves a large tensor its type and shape; what shapes may follow from, lists of integers, keeps its values."""
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
    """Ends this process by SIGPROF when its time is over, and has memory refused beyond its limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, _seconds(size))
    with contextlib.suppress(ImportError, OSError, ValueError):  # systems without, or with lower limits
        import resource

        with open("/proc/self/statm") as file:
            have = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (have + _memory(size), have + _memory(size)))


def main() -> None:
    """Answers the request on standard input."""
    header = json.loads(sys.stdin.buffer.readline())
    sys.path[:] = header["path"]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    import onnx  # noqa: F401 - before there are limits: what an import takes depends on the machine

    data = sys.stdin.buffer.read()
    _limit(len(data))
    answer, model = inferred(data, header["dimensions"], header["max_nodes"])
    with answers:
        answers.write(json.dumps(answer).encode() + b"\n" + model)


if __name__ == "__main__":
    main()
