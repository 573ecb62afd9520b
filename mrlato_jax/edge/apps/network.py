"""A network that classifies pictures, as an ONNX model: two blocks of four branches, as in Inception, and a head.

The weights are random, from a fixed seed, so the predicted classes have no meaning. This module needs the packages onnx
and onnxruntime.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mrlato_jax.edge.onnx_parts import application_of_model

PARTS = 11  # stem, four branches, neck, four branches, head
SEED = 20
SIDE = 64  # pixels of the picture
CLASSES = 10
OPSET, IR = 17, 8


class _Builder:
    """Builds a network: collects its operators and weights. `data` is the name of a tensor."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self._random = np.random.default_rng(seed)

    def weight(self, name: str, *shape: int) -> str:
        """Adds random weights that preserve the scale of their input; returns their name."""
        from onnx import numpy_helper

        spread = np.sqrt(6.0 / np.prod(shape[1:]))
        values = spread * (2.0 * self._random.random(shape, np.float32) - 1.0)
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def add(self, kind: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Adds an operator; returns the name of its result."""
        from onnx import helper

        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"

    def convolved(self, name: str, data: str, channels: tuple[int, int], *kernel: int, stride: int = 1) -> str:
        """Adds a convolution, which divides the numbers of rows and columns by `stride`, and a rectifier."""
        weights = self.weight(f"{name}_weights", channels[1], channels[0], *kernel)
        pads = [size // 2 for size in kernel] * 2
        result = self.add("Conv", name, data, weights, pads=pads, strides=[stride] * 2)
        return self.add("Relu", f"{name}_relu", result)

    def chain(
        self,
        name: str,
        data: str,
        channels: tuple[int, int, int],
        kernels: list[tuple[int, int]],
        *,
        strides: tuple[int, int] = (1, 1),
        pooled: bool = False,
    ) -> str:
        """Adds convolutions between two that change the number of channels; with `pooled`, pooling before them."""
        given, width, end = channels
        data = self.convolved(f"{name}_in", data, (given, width), 1, 1, stride=strides[0])
        if pooled:
            data = self.add("MaxPool", f"{name}_pool", data, kernel_shape=[3, 3], pads=[1] * 4)
        for number, kernel in enumerate(kernels):
            data = self.convolved(f"{name}_{number}", data, (width, width), *kernel)
        return self.convolved(f"{name}_end", data, (width, end), 1, 1, stride=strides[1])

    def block(self, name: str, data: str, channels: tuple[int, int, int], stride: int) -> str:
        """Adds four parallel branches of about equal work."""
        branches = (
            self.chain(f"{name}_small", data, channels, [(3, 3)] * 3, strides=(1, stride)),
            self.chain(f"{name}_large", data, channels, [(5, 5)], strides=(1, stride)),
            self.chain(f"{name}_flat", data, channels, [(1, 7), (7, 1)] * 2, strides=(1, stride)),
            self.chain(f"{name}_pooled", data, channels, [(3, 3)] * 3, strides=(1, stride), pooled=True),
        )
        return self.add("Concat", f"{name}_join", *branches, axis=1)


def model() -> Any:
    """Returns the network, an `onnx.ModelProto`: maps a picture, float32[1, 3, 64, 64], to class probabilities."""
    from onnx import TensorProto, helper

    built = _Builder(SEED)
    data = built.chain("stem", "picture", (3, 64, 16), [(5, 5)], strides=(2, 1))
    data = built.block("a", data, (16, 96, 16), 2)
    data = built.chain("neck", data, (64, 128, 32), [(5, 5)])
    data = built.block("b", data, (32, 192, 16), 1)
    data = built.chain("head", data, (64, 128, 64), [(5, 5)])
    data = built.add("GlobalAveragePool", "mean", data)
    data = built.add("Flatten", "flat", data)
    data = built.add("Gemm", "classes", data, built.weight("classes_weights", CLASSES, 64), transB=1)
    data = built.add("Softmax", "shares", data, axis=1)
    picture = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    shares = helper.make_tensor_value_info(data, TensorProto.FLOAT, [1, CLASSES])
    graph = helper.make_graph(built.nodes, "network", [picture], [shares], built.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)


app = application_of_model(model(), PARTS, "network")


@app.example
def example() -> dict[str, Any]:
    """Returns a picture."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    waves = [np.sin(2 * np.pi * (x * rows + y * columns)) for x, y in ((1, 3), (4, 2), (5, 7))]
    return {"picture": (0.5 + 0.5 * np.array([waves])).astype(np.float32)}
