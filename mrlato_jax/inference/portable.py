"""A trained policy without JAX: NumPy and the standard library, nothing of this package.

For machines where JAX is not to be had, and to hold the JAX policy to. The file may be copied and stands alone:

    policy = load("general")                       # general.safetensors and general.json
    times = task_times(cycles, upload_bytes, download_bytes, ue_hz=1e9, vm_hz=10e9, uplink_bps=7e6, downlink_bps=7e6)
    placement, order, makespan = policy.plan(times, edges=[(0, 1), (0, 2)])

Written for one application at a time and for being read beside the paper; `mrlato_jax.Offloader` is the fast one.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Array = Any  # numpy.ndarray of floats
LOCAL, OFFLOAD = 0, 1
FLOAT32 = "F32"
SIZE_BYTES = 8  # of a safetensors header's length, little-endian
MOST_HEADER_BYTES = 2**20
DECODER_INPUTS = {
    "paper": 0,
    "task": 0,
    "task_sim": 7,
    "lookahead": 9,
}  # and how much the decoder sees of the simulator
TOLLS = ((0.0, 0.0), (-0.4, -0.5), (0.0, -0.5), (0.0, 1.0), (-1.0, -0.25))  # of the look-ahead's rules
# Whether an upload waits for the parents' downloads, downloads queue, and uploads of entry tasks queue.
CHANNELS = {"paper": (True, True, True), "mrlco": (False, False, True), "mrlco_code": (False, False, False)}


class Times(NamedTuple):
    """Seconds that each task takes on each resource; [n] each."""

    ue: Array
    uplink: Array
    vm: Array
    downlink: Array


def task_times(
    cycles: Sequence[float],
    upload_bytes: Sequence[float],
    download_bytes: Sequence[float],
    *,
    ue_hz: float,
    vm_hz: float,
    uplink_bps: float,
    downlink_bps: float,
) -> Times:
    """The four times of every task under a system; measured times may stand in their place."""
    work, up, down = (np.asarray(values, float) for values in (cycles, upload_bytes, download_bytes))
    return Times(work / ue_hz, 8 * up / uplink_bps, work / vm_hz, 8 * down / downlink_bps)


def checked(times: Times) -> Times:
    """The times as arrays; raises ValueError where they are not finite numbers >= 0, equally many of each."""
    arrays = [np.asarray(values, float) for values in times]
    for name, array in zip(Times._fields, arrays, strict=True):
        if array.shape != (len(arrays[0]),) or not len(array) or not (np.isfinite(array) & (array >= 0)).all():
            raise ValueError(f"times.{name} is {array}; accepted: finite seconds >= 0, one for each task")
    return Times(*arrays)


def priority_order(times: Times, edges: Iterable[tuple[int, int]]) -> list[int]:
    """(13): of the tasks whose parents are placed, the one with the longest offloaded way to the end, then lowest id.

    Raises:
        ValueError: the edges hold a cycle, or a task that there is not.
    """
    times, edges = checked(times), list(edges)
    n = len(times.ue)
    if len(set(edges)) < len(edges):
        raise ValueError("edges hold one twice; accepted: each once")
    children: list[list[int]] = [[] for _ in range(n)]
    waiting = [0] * n
    for parent, child in edges:
        if not (0 <= parent < n and 0 <= child < n):
            raise ValueError(f"edge ({parent}, {child}) names a task that there is not; accepted: 0 to {n - 1}")
        children[parent].append(child)
        waiting[child] += 1

    def kahn(keys: Sequence[float]) -> list[int]:
        left = list(waiting)
        ready = [(keys[task], task) for task in range(n) if not left[task]]
        heapq.heapify(ready)
        found = []
        while ready:
            _, task = heapq.heappop(ready)
            found.append(task)
            for child in children[task]:
                left[child] -= 1
                if not left[child]:
                    heapq.heappush(ready, (keys[child], child))
        return found

    topological = kahn([0.0] * n)
    if len(topological) < n:
        raise ValueError("edges hold a cycle; accepted: an application without cycles")
    rank = [0.0] * n
    own = times.uplink + times.vm + times.downlink
    for task in reversed(topological):
        rank[task] = own[task] + max((rank[child] for child in children[task]), default=0.0)
    return kahn([-value for value in rank])


class Queues:
    """What the placed tasks leave behind, of M plans side by side: (7)-(11)."""

    def __init__(self, times: Times, parents: list[list[int]], channel: str, plans: int = 1) -> None:
        """All resources free; `times` and `parents` by position in the scheduling order."""
        self.times, self.parents, self.channel = times, parents, channel
        self.uplink, self.vm, self.downlink, self.ue, self.makespan = (np.zeros(plans) for _ in range(5))
        self.result, self.sent = (np.zeros((len(parents), plans)) for _ in range(2))

    def repeated(self, plans: int) -> Queues:
        """The one plan here, so many times."""
        other = Queues(self.times, self.parents, self.channel, plans)
        for name in ("uplink", "vm", "downlink", "ue", "makespan", "result", "sent"):
            setattr(other, name, np.repeat(getattr(self, name), plans, axis=-1))
        return other

    def ends(self, k: int) -> tuple[Array, Array, Array, Array]:
        """When task k would leave uplink, VM and downlink if it were offloaded, and the UE if it were local."""
        waits_for_download, downloads_queue, _ = CHANNELS[self.channel]
        ready = self.result[self.parents[k]].max(axis=0, initial=0)
        sendable = ready if waits_for_download else self.sent[self.parents[k]].max(axis=0, initial=0)
        upload = np.maximum(self.uplink, sendable) + self.times.uplink[k]
        vm = np.maximum(self.vm, upload) + self.times.vm[k]
        download = (np.maximum(self.downlink, vm) if downloads_queue else vm) + self.times.downlink[k]
        return upload, vm, download, np.maximum(self.ue, ready) + self.times.ue[k]

    def place(self, k: int, offloaded: Array) -> None:
        """Commits task k of each plan."""
        upload, vm, download, ue = self.ends(k)
        upload, vm, download = (np.where(offloaded, end, 0) for end in (upload, vm, download))
        ue = np.where(offloaded, 0, ue)
        if CHANNELS[self.channel][2] or self.parents[k]:
            self.uplink = np.maximum(self.uplink, upload)
        self.vm, self.downlink = np.maximum(self.vm, vm), np.maximum(self.downlink, download)
        self.ue = np.maximum(self.ue, ue)
        self.result[k], self.sent[k] = np.maximum(ue, download), np.maximum(ue, upload)
        self.makespan = np.maximum(self.makespan, self.result[k])


class Portable:
    """A policy that places tasks in the priority order.

    Attributes:
        settings: the network's, as NAME.json has them under config.policy.
        weights: arrays by their names in NAME.safetensors.
    """

    def __init__(self, settings: Mapping[str, Any], weights: Mapping[str, Array]) -> None:
        """Keeps float64 copies of the weights.

        Raises:
            ValueError: a policy that chooses the order, which is not written here; or settings that cannot be read, or
                that the weights do not fit.
        """
        decides = settings.get("decides", "placement")
        if decides != "placement":
            raise ValueError(
                f"decides is {_short(decides)}; accepted: 'placement', of a policy that decides that alone"
            )
        self.settings = settings
        self.weights = {name.removeprefix("params/"): np.asarray(array, float) for name, array in weights.items()}
        layers = sum(name.startswith("decoder_") and name.endswith("/cell_scale") for name in self.weights)
        stated = settings.get("layers")
        if type(stated) is not int or stated != layers or not layers:  # before anything of that size is made
            raise ValueError(f"layers is {_short(stated)} and the weights have {layers}; accepted: as many, at least 1")
        for name, shape in _shapes(settings).items():
            array = self.weights.get(name)
            if array is None or array.shape != shape:
                has = "missing" if array is None else f"of shape {array.shape}"
                raise ValueError(f"{name} is {has}; accepted: shape {shape}, as the settings have it")

    def plan(
        self, times: Times, edges: Iterable[tuple[int, int]], channel: str = "paper"
    ) -> tuple[list[int], list[int], float]:
        """The likeliest decisions.

        Args:
            times: of each task, by its id.
            edges: (parent, child).
            channel: a name of `CHANNELS`.

        Returns:
            Placement by task id (0 local, 1 offload), the scheduling order, and the makespan in seconds.

        Raises:
            ValueError: times that are no numbers, edges that hold a cycle or name no task, an unknown channel, or more
                neighbours of a task than the policy has room for.
        """
        if channel not in CHANNELS:
            raise ValueError(f"channel is {channel!r}; accepted: {', '.join(CHANNELS)}")
        edges, times = [(int(parent), int(child)) for parent, child in edges], checked(times)
        order = priority_order(times, edges)
        n, place = len(order), {task: k for k, task in enumerate(order)}
        parents: list[list[int]] = [[] for _ in range(n)]
        for parent, child in edges:
            parents[place[child]].append(place[parent])
        ordered = Times(*(values[order] for values in times))
        outputs, states = self._encode(self._features(ordered, parents))
        queues, placement = Queues(ordered, parents, channel), [LOCAL] * n
        scale = _scale(ordered)
        previous, hidden = 2, np.zeros(self.settings["units"])  # the start symbol, and d_0
        for k in range(n):
            told = self._told(queues, k, scale)
            entry = np.concatenate([np.eye(3)[previous], self._attend(hidden, outputs), told])
            given = entry @ self.weights["decoder_0/input_kernel/kernel"]
            if self.settings["decoder_input"] != "paper":
                given = given + outputs[k] @ self.weights["task_input/kernel"]
            for layer in range(self.settings["layers"]):
                name = f"decoder_{layer}"
                if layer:
                    given = hidden @ self.weights[f"{name}/input_kernel/kernel"]
                states[layer] = self._cell(name, *states[layer], given)
                hidden = states[layer][1]
            logits = hidden @ self.weights["logits_head/kernel"] + self.weights["logits_head/bias"]
            previous = int(np.argmax(logits))
            queues.place(k, np.array([previous == OFFLOAD]))
            placement[order[k]] = previous
        return placement, order, float(queues.makespan[0])

    def _features(self, times: Times, parents: list[list[int]]) -> Array:
        n = len(parents)
        position = np.arange(1, n + 1) / n
        each = np.stack(times, axis=1) / _scale(times)
        children: list[list[int]] = [[] for _ in range(n)]
        for child, found in enumerate(parents):
            for parent in found:
                children[parent].append(child)
        rows = []
        for k in range(n):
            row = [position[k], *each[k]]
            for near, kind in ((parents[k], max), (children[k], min)):
                if self.settings.get("neighbours", "listed") == "pooled":
                    row += _pooled(near, position, each, kind)
                else:
                    width = self.settings["neighbour_width"]
                    if len(near) > width:
                        raise ValueError(f"a task has {len(near)} neighbours; accepted: at most {width}")
                    row += [*position[sorted(near)], *[0.0] * (width - len(near))]
            rows.append(row)
        told = np.array(rows)
        if self.settings.get("task_features", "paper") == "outlook":
            told = np.concatenate([told, _outlook(times, children)], axis=1)
        return told

    def _encode(self, features: Array) -> tuple[Array, list[tuple[Array, Array]]]:
        outputs = np.tanh(features @ self.weights["embedding/kernel"] + self.weights["embedding/bias"])
        states = []
        for layer in range(self.settings["layers"]):
            halves = [self._read(f"encoder_{layer}", outputs)]
            if self.settings.get("encoder", "forward") == "bidirectional":
                rows, cell, hidden = self._read(f"backward_encoder_{layer}", outputs[::-1])
                halves.append((rows[::-1], cell, hidden))
            outputs, cell, hidden = (np.concatenate(parts, axis=-1) for parts in zip(*halves, strict=True))
            states.append((cell, hidden))
        return outputs, states

    def _read(self, name: str, inputs: Array) -> tuple[Array, Array, Array]:
        cell = hidden = np.zeros(len(self.weights[f"{name}/cell_scale"]))
        rows = []
        for given in inputs @ self.weights[f"{name}/input_kernel/kernel"]:
            cell, hidden = self._cell(name, cell, hidden, given)
            rows.append(hidden)
        return np.array(rows), cell, hidden

    def _cell(self, name: str, cell: Array, hidden: Array, given: Array) -> tuple[Array, Array]:
        gates = (given + hidden @ self.weights[f"{name}/recurrent_kernel/kernel"]).reshape(4, -1)
        gates = _normalised(gates) * self.weights[f"{name}/gate_scale"] + self.weights[f"{name}/gate_bias"]
        write, candidate, forget, read = gates
        cell = cell * _sigmoid(forget + 1) + _sigmoid(write) * np.tanh(candidate)
        cell = _normalised(cell) * self.weights[f"{name}/cell_scale"] + self.weights[f"{name}/cell_bias"]
        return cell, np.tanh(cell) * _sigmoid(read)

    def _attend(self, query: Array, outputs: Array) -> Array:
        heads = self.settings["heads"]
        if not heads:
            return np.zeros_like(query)
        q, k, v = (
            (x @ self.weights[f"{name}/kernel"]).reshape(-1, heads, len(query) // heads)
            for x, name in ((query, "query"), (outputs, "key"), (outputs, "value"))
        )
        scores = np.einsum("hw,nhw->hn", q[0], k) / np.sqrt(len(query) // heads)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return np.einsum("hn,nhw->hw", shares, v).reshape(-1) @ self.weights["context/kernel"]

    def _told(self, queues: Queues, k: int, scale: float) -> Array:
        shown = self.settings["decoder_input"]
        if shown not in ("task_sim", "lookahead"):
            return np.zeros(0)
        upload, _, download, ue = queues.ends(k)
        now = [queues.uplink, queues.vm, queues.downlink, queues.ue, upload, download, ue]
        told = (np.concatenate(now) - queues.makespan) / scale
        if shown == "task_sim":
            return told
        local, offloaded = _outcomes(queues, k, scale, self.settings["lookahead_rules"])
        best = min(local, offloaded) - queues.makespan[0]
        return np.concatenate([told, np.array([best, 10 * (offloaded - local)]) / scale])


def _outcomes(queues: Queues, k: int, scale: float, rules: int) -> tuple[float, float]:
    """The best makespan that any rule reaches if task k is local, and if it is offloaded."""
    tolls = np.array(TOLLS[:rules])
    tried = queues.repeated(2 * rules)
    tried.place(k, np.arange(2 * rules) >= rules)
    share, own = np.tile(tolls, (2, 1)).T
    for later in range(k + 1, len(queues.parents)):
        _, _, download, ue = tried.ends(later)
        tried.place(later, download + share * scale + own * queues.times.uplink[later] <= ue)
    return float(tried.makespan[:rules].min()), float(tried.makespan[rules:].min())


def _scale(times: Times) -> float:
    """What times are divided by: the mean local one; of all four where nothing computes."""
    total = times.ue.sum() or sum(values.sum() for values in times)
    return float(total) / len(times.ue) or 1.0


def _pooled(near: list[int], position: Array, each: Array, nearest: Any) -> list[float]:
    """log(1 + count); mean, nearest and farthest position; mean and maximum of each time."""
    if not near:
        return [0.0] * 12
    places = position[near]
    farthest = min if nearest is max else max
    own = [np.log1p(len(near)), places.mean(), nearest(places), farthest(places)]
    return [*own, *each[near].mean(axis=0), *each[near].max(axis=0)]


def _outlook(times: Times, children: list[list[int]]) -> Array:
    """The longest ways from each task's result to the end, and the work of later tasks, in shares of all local work."""
    n = len(children)
    offloaded = times.uplink + times.vm + times.downlink
    own = np.stack([times.ue, offloaded, np.minimum(times.ue, offloaded)], axis=1)
    after, ways = np.zeros((n, 3)), np.zeros((n, 3))
    for k in reversed(range(n)):
        after[k] = ways[children[k]].max(axis=0, initial=0)
        ways[k] = after[k] + own[k]
    each = np.stack(times, axis=1)
    left = np.cumsum(each[::-1], axis=0)[::-1] - each
    return np.concatenate([after, left], axis=1) / (_scale(times) * n)


def _normalised(values: Array) -> Array:
    centred = values - values.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)


def _sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-values))


def _setting(settings: Mapping[str, Any], name: str, accepted: range | Sequence[str], default: Any = None) -> Any:
    value = settings.get(name, default)
    if type(value) is not (int if isinstance(accepted, range) else str) or value not in accepted:
        choices = f"{accepted[0]} to {accepted[-1]}" if isinstance(accepted, range) else ", ".join(accepted)
        raise ValueError(f"{name} is {_short(value)}; accepted: {choices}")
    return value


def _shapes(settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The arrays that planning reads, by name. Raises ValueError for settings that cannot be read."""
    counts = range(1, 2**20)
    units = _setting(settings, "units", counts)
    seen = DECODER_INPUTS[_setting(settings, "decoder_input", list(DECODER_INPUTS))]
    encoder = _setting(settings, "encoder", ["forward", "bidirectional"], "forward")
    heads = _setting(settings, "heads", range(units + 1))
    if seen == DECODER_INPUTS["lookahead"]:
        _setting(settings, "lookahead_rules", range(1, len(TOLLS) + 1))
    if (heads and units % heads) or (encoder == "bidirectional" and units % 2):
        raise ValueError(f"units is {units}; accepted: a multiple of heads ({heads}), even where encoder=bidirectional")
    neighbours = 12
    if _setting(settings, "neighbours", ["listed", "pooled"], "listed") == "listed":
        neighbours = _setting(settings, "neighbour_width", counts)
    outlook = 7 if _setting(settings, "task_features", ["paper", "outlook"], "paper") == "outlook" else 0
    shapes: dict[str, tuple[int, ...]] = {
        "embedding/kernel": (5 + 2 * neighbours + outlook, units),
        "embedding/bias": (units,),
        "logits_head/kernel": (units, 2),
        "logits_head/bias": (2,),
    }
    if settings["decoder_input"] != "paper":
        shapes["task_input/kernel"] = (units, 4 * units)
    for name in ("query", "key", "value", "context") if heads else ():
        shapes[f"{name}/kernel"] = (units, units)
    half = units // 2 if encoder == "bidirectional" else units
    for layer in range(settings["layers"]):
        cells = {"encoder": (units, half), "decoder": (units if layer else 3 + units + seen, units)}
        if encoder == "bidirectional":
            cells["backward_encoder"] = cells["encoder"]
        for cell, (inputs, width) in cells.items():
            shapes[f"{cell}_{layer}/input_kernel/kernel"] = (inputs, 4 * width)
            shapes[f"{cell}_{layer}/recurrent_kernel/kernel"] = (width, 4 * width)
            for kind in ("scale", "bias"):
                shapes[f"{cell}_{layer}/gate_{kind}"] = (4, width)
                shapes[f"{cell}_{layer}/cell_{kind}"] = (width,)
    return shapes


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _json_object(data: bytes, what: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            raise ValueError(f"{what} has a name twice in one object; accepted: each once")
        return values

    try:
        value = json.loads(data, object_pairs_hook=unique)
    except RecursionError:
        raise ValueError(f"{what} nests too deeply; accepted: what export_weights.py writes") from None
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {_short(value)}; accepted: a JSON object")
    return value


def _sizes(name: str, numbers: Any) -> list[int]:
    """`numbers` as a list that NumPy can take for a shape."""
    usable = isinstance(numbers, list) and len(numbers) <= 64
    if not usable or not all(type(number) is int and 0 <= number < 2**62 for number in numbers):
        raise ValueError(f"{_short(name)} has {_short(numbers)}; accepted: up to 64 whole numbers >= 0")
    return list(numbers)


def read_tensors(data: bytes) -> dict[str, Array]:
    """The arrays of a safetensors file, by name.

    The format (https://github.com/huggingface/safetensors) is a length, a JSON header and plain bytes.

    Args:
        data: the file's contents.

    Returns:
        float32 arrays.

    Raises:
        ValueError: anything but float32 arrays of finite numbers that fill the file without gap or overlap.
    """
    size = int.from_bytes(data[:SIZE_BYTES], "little")
    if len(data) < SIZE_BYTES + size or size > MOST_HEADER_BYTES:
        raise ValueError(f"header has {size} bytes in a file of {len(data)}; accepted: at most {MOST_HEADER_BYTES}")
    header = _json_object(data[SIZE_BYTES : SIZE_BYTES + size], "header")
    header.pop("__metadata__", None)
    body, tensors = data[SIZE_BYTES + size :], {}
    places: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.get("dtype") != FLOAT32:
            raise ValueError(f"{_short(name)} is {_short(entry)}; accepted: an array of type {FLOAT32}")
        shape, offsets = (_sizes(name, entry.get(field)) for field in ("shape", "data_offsets"))
        if len(offsets) != 2 or not offsets[0] <= offsets[1] <= len(body):
            raise ValueError(f"{_short(name)} has offsets {_short(offsets)}; accepted: within {len(body)} bytes")
        if offsets[1] - offsets[0] != 4 * math.prod(shape):
            raise ValueError(
                f"{_short(name)} of shape {_short(shape)} has {offsets[1] - offsets[0]} bytes; accepted: 4 each"
            )
        places.append((offsets[0], offsets[1], name))
        tensors[name] = np.frombuffer(body[offsets[0] : offsets[1]], "<f4").reshape(shape).astype(np.float32)
        if not np.isfinite(tensors[name]).all():
            raise ValueError(f"{_short(name)} holds NaN or infinite numbers; accepted: finite ones")
    end = 0
    for begin, after, name in sorted(places):
        if begin != end:
            raise ValueError(f"{_short(name)} begins at byte {begin}; accepted: {end}, where the one before it ends")
        end = after
    if end != len(body):
        raise ValueError(f"arrays end at byte {end} of {len(body)}; accepted: arrays that fill the file")
    return tensors


def load(stem: str | Path) -> Portable:
    """The policy in STEM.safetensors and STEM.json, as `launch/export_weights.py` writes them.

    Raises:
        OSError: one of the two is missing.
        ValueError: they are something else, were not written together, or are of a policy that chooses the order.
    """
    stem = Path(stem)
    paths = [stem.with_name(stem.name + ending) for ending in (".json", ".safetensors")]
    for path in paths:
        if path.exists() and not path.is_file():  # reading a pipe or a device may never end
            raise ValueError(f"{path.name} is no regular file; accepted: files of export_weights.py")
    description, data = _json_object(paths[0].read_bytes(), paths[0].name), paths[1].read_bytes()
    if hashlib.sha256(data).hexdigest() != description.get("sha256"):
        raise ValueError(
            f"{stem.name}.safetensors is not what {stem.name}.json describes; accepted: both of one writing"
        )
    config = description.get("config")
    settings = config.get("policy") if isinstance(config, dict) else None
    if not isinstance(settings, dict):
        raise ValueError(f"config.policy of {stem.name}.json is {_short(settings)}; accepted: a JSON object")
    return Portable(settings, read_tensors(data))
