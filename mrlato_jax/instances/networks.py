"""Neural networks as applications, one task a layer, computed from their architectures.

A layer's work follows from its shapes: a convolution or a dense layer has its multiply-accumulates, any other layer has
one operation for each value that it reads. Every operation takes `CYCLES_PER_MAC` cycles. A value has `VALUE_BYTES`
bytes; a camera's image has one byte for each value. Activations and normalisation are part of the layer before.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

from mrlato_jax.dag.task_graph import TaskGraph

CYCLES_PER_MAC = 0.5  # two multiply-accumulates a cycle
VALUE_BYTES = 4


class Layer(NamedTuple):
    """A layer and its result of `side` x `side` x `channels` values."""

    operations: float
    side: int
    channels: int
    parents: tuple[str, ...]

    @property
    def values(self) -> int:
        """Number of values of the result."""
        return self.side**2 * self.channels


@dataclasses.dataclass
class Network:
    """Layers by name, in the order in which they were added.

    Attributes:
        side: the input has `side` x `side` x `channels` values.
        channels: see `side`.
        input_bytes: bytes of the input.
        layers: the layers so far.
    """

    side: int
    channels: int
    input_bytes: float
    layers: dict[str, Layer] = dataclasses.field(default_factory=dict)

    def _shape(self, source: str | None) -> tuple[int, int]:
        return (self.side, self.channels) if source is None else self.layers[source][1:3]

    def add(self, name: str, operations: float, side: int, channels: int, *sources: str | None) -> str:
        """Adds a layer and returns its name; None is the input as a source."""
        self.layers[name] = Layer(operations, side, channels, tuple(source for source in sources if source))
        return name

    def conv(
        self, name: str, source: str | None, channels: int, kernel: int, stride: int = 1, *, groups: int = 1,
        same: bool = True,
    ) -> str:  # fmt: skip
        """Adds a convolution, padded to keep the size (`same`) or not padded."""
        side, before = self._shape(source)
        side = _size(side, kernel, stride, same)
        return self.add(name, side**2 * channels * kernel**2 * before / groups, side, channels, source)

    def pool(self, name: str, source: str, kernel: int = 3, stride: int = 2, *, same: bool = False) -> str:
        """Adds a pooling layer."""
        side, channels = self._shape(source)
        side = _size(side, kernel, stride, same)
        return self.add(name, side**2 * channels * kernel**2, side, channels, source)

    def average(self, name: str, source: str) -> str:
        """Adds the mean over all positions."""
        side, channels = self._shape(source)
        return self.add(name, side**2 * channels, 1, channels, source)

    def dense(self, name: str, source: str, units: int) -> str:
        """Adds a dense layer."""
        return self.add(name, self.layers[source].values * units, 1, units, source)

    def joined(self, name: str, *sources: str, summed: bool = False) -> str:
        """Adds the sum of several results, or their concatenation along the channels."""
        side, channels = self._shape(sources[0])
        if not summed:
            channels = sum(self.layers[source].channels for source in sources)
        return self.add(name, sum(self.layers[source].values for source in sources), side, channels, *sources)

    @property
    def macs(self) -> float:
        """All operations of the layers."""
        return sum(layer.operations for layer in self.layers.values())

    def graph(self) -> TaskGraph:
        """Returns the application; layers without parents upload the input."""
        ids = {name: task for task, name in enumerate(self.layers)}
        rows = list(self.layers.values())
        size = {name: VALUE_BYTES * layer.values for name, layer in self.layers.items()}
        return TaskGraph.from_edges(
            cycles=[CYCLES_PER_MAC * layer.operations for layer in rows],
            upload_bytes=[sum(map(size.__getitem__, layer.parents)) or self.input_bytes for layer in rows],
            download_bytes=list(size.values()),
            edges=[(ids[parent], ids[name]) for name, layer in self.layers.items() for parent in layer.parents],
            names=list(ids),
        )


def _size(side: int, kernel: int, stride: int, same: bool) -> int:
    return math.ceil(side / stride) if same else (side - kernel) // stride + 1


def image_network(side: int) -> Network:
    """Returns a network without layers for square colour images."""
    return Network(side, 3, 3.0 * side**2)


def alexnet() -> Network:
    """Krizhevsky, Sutskever and Hinton, NeurIPS 2012: five convolutions, three of them in two groups."""
    net = image_network(227)
    last = net.pool("pool1", net.conv("conv1", None, 96, 11, 4, same=False))
    last = net.pool("pool2", net.conv("conv2", last, 256, 5, groups=2))
    last = net.conv("conv4", net.conv("conv3", last, 384, 3), 384, 3, groups=2)
    last = net.pool("pool5", net.conv("conv5", last, 256, 3, groups=2))
    net.dense("fc8", net.dense("fc7", net.dense("fc6", last, 4096), 4096), 1000)
    return net


def vgg16() -> Network:
    """Simonyan and Zisserman, ICLR 2015, configuration D."""
    net = image_network(224)
    last: str | None = None
    for stage, (channels, count) in enumerate(((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), start=1):
        for number in range(1, count + 1):
            last = net.conv(f"conv{stage}_{number}", last, channels, 3)
        assert last is not None
        last = net.pool(f"pool{stage}", last, 2)
    assert last is not None
    net.dense("fc8", net.dense("fc7", net.dense("fc6", last, 4096), 4096), 1000)
    return net


def mobilenet() -> Network:
    """Howard et al., arXiv 1704.04861, width 1: depthwise and pointwise convolutions by turns."""
    net = image_network(224)
    last, before = net.conv("conv1", None, 32, 3, 2), 32
    rows = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
    for number, (channels, stride) in enumerate(rows, start=1):
        last = net.conv(f"depth{number}", last, before, 3, stride, groups=before)
        last, before = net.conv(f"point{number}", last, channels, 1), channels
    net.dense("fc", net.average("pool", last), 1000)
    return net


def resnet18() -> Network:
    """He et al., CVPR 2016, 18 layers; a shortcut that changes its shape is a convolution."""
    net = image_network(224)
    last = net.pool("pool1", net.conv("conv1", None, 64, 7, 2), same=True)
    for stage, channels in enumerate((64, 128, 256, 512), start=2):
        for block in (1, 2):
            name, stride = f"res{stage}_{block}", 2 if stage > 2 and block == 1 else 1
            inner = net.conv(f"{name}_conv2", net.conv(f"{name}_conv1", last, channels, 3, stride), channels, 3)
            shortcut = net.conv(f"{name}_down", last, channels, 1, 2) if stride == 2 else last
            last = net.joined(f"{name}_sum", inner, shortcut, summed=True)
    net.dense("fc", net.average("pool5", last), 1000)
    return net


def squeezenet() -> Network:
    """Iandola et al., arXiv 1602.07360, version 1.1: each fire module has two parallel convolutions."""
    net = image_network(224)
    last = net.pool("pool1", net.conv("conv1", None, 64, 3, 2, same=False))
    for number, (squeeze, expand) in enumerate(
        ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)), start=2
    ):
        name = f"fire{number}"
        base = net.conv(f"{name}_squeeze", last, squeeze, 1)
        sides = net.conv(f"{name}_1x1", base, expand, 1), net.conv(f"{name}_3x3", base, expand, 3)
        last = net.joined(f"{name}_concat", *sides)
        if number in (3, 5):
            last = net.pool(f"pool{number}", last)
    net.average("pool10", net.conv("conv10", last, 1000, 1))
    return net


def googlenet() -> Network:
    """Szegedy et al., CVPR 2015, without the classifiers for training: nine modules of four branches."""
    net = image_network(224)
    last = net.pool("pool1", net.conv("conv1", None, 64, 7, 2), same=True)
    last = net.pool("pool2", net.conv("conv2", net.conv("reduce2", last, 64, 1), 192, 3), same=True)
    rows = {
        "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64), "4a": (192, 96, 208, 16, 48, 64),
        "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64), "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128), "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
    }  # fmt: skip
    for name, (one, before3, three, before5, five, project) in rows.items():
        branches = (
            net.conv(f"{name}_1x1", last, one, 1),
            net.conv(f"{name}_3x3", net.conv(f"{name}_3x3_reduce", last, before3, 1), three, 3),
            net.conv(f"{name}_5x5", net.conv(f"{name}_5x5_reduce", last, before5, 1), five, 5),
            net.conv(f"{name}_project", net.pool(f"{name}_pool", last, 3, 1, same=True), project, 1),
        )
        last = net.joined(f"{name}_concat", *branches)
        if name in ("3b", "4e"):
            last = net.pool(f"pool_{name}", last, same=True)
    net.dense("fc", net.average("pool5", last), 1000)
    return net


def bert_mini(tokens: int = 128) -> Network:
    """BERT with 4 layers of width 256 and 4 heads (Turc et al., arXiv 1908.08962); each head is a task."""
    width, heads, layers = 256, 4, 4
    net = Network(1, tokens, 8.0 * tokens)  # a token is an integer of 8 bytes
    last = net.add("embed", tokens * width, 1, tokens * width, None)
    for layer in range(1, layers + 1):
        head = tokens * width * 3 * width // heads + 2 * tokens**2 * width // heads
        attended = [
            net.add(f"layer{layer}_head{number}", head, 1, tokens * width // heads, last)
            for number in range(1, heads + 1)
        ]
        mixed = net.add(f"layer{layer}_output", tokens * width**2, 1, tokens * width, *attended, last)
        last = net.add(f"layer{layer}_feed_forward", 8 * tokens * width**2, 1, tokens * width, mixed)
    net.add("classify", width**2 + 2 * width, 1, 2, last)
    return net


NETWORKS = {
    network.__name__: network for network in (alexnet, vgg16, mobilenet, resnet18, squeezenet, googlenet, bert_mini)
}
