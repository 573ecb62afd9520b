"""What a UE sends and how the server looks at that: arrays and their norms, refusals by name, keys and signatures."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from mrlato_jax.config import LearningConfig, NetworkConfig
from mrlato_jax.edge import codec
from mrlato_jax.edge.federation.settings import Federation
from mrlato_jax.errors import InputError, shorten
from mrlato_jax.files import parse_json
from mrlato_jax.learning.losses import LossMetrics
from mrlato_jax.learning.outer import REPTILE
from mrlato_jax.learning.rollout import init_params

KEY_BYTES = 32
MOST_SLOPE = 10.0  # root mean square of a gradient that is still believed
ROOM = 1.01  # of the bound of the norm: rounding
REFUSALS = {
    "unreadable": "no answer that `packed` made",
    "unknown_node": "no UE of the federation, or a signature that is not that UE's",
    "stale_round": "of another round, or begun from another theta",
    "doubled": "of a UE that has answered in this round",
    "not_asked": "of a UE that has no learning task in this round, or that says so wrongly",
    "tree": "arrays of other names",
    "shape": "an array of another shape",
    "dtype": "an array of another type",
    "not_finite": "a number that is NaN, infinite or none of float32",
    "norm": "an update larger than its bound",
    "failed": "an error of the UE's program in place of an answer",
}
METRICS = (
    *("latency_ms", "heft_ms", "value_explained"),
    *LossMetrics._fields,
)  # of a round, as `loop.flatten` names them

Arrays = Mapping[str, np.ndarray]


def named(tree: Any) -> dict[str, np.ndarray]:
    """A network's arrays by name, on the host."""
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(tree, sep="/").items()}


def params_sha256(arrays: Arrays) -> str:
    """One text for equal arrays: of their names, types, shapes and bits."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def network_arrays(network: NetworkConfig) -> dict[str, np.ndarray]:
    """The names, shapes and types of a network's arrays; all zero."""
    shapes = jax.eval_shape(partial(init_params, network), jax.random.key(0))
    return {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in flatten_dict(shapes, sep="/").items()}


def largest_difference(arrays: Arrays, others: Arrays) -> float:
    """The largest difference of any number of two networks of the same shape."""
    return max(float(np.abs(array - others[name]).max()) for name, array in arrays.items())


def check_arrays(arrays: Any, like: Arrays) -> str | None:
    """Why arrays cannot be those of the network, as a name in REFUSALS; None where they can.

    Args:
        arrays: what somebody sent in their place.
        like: the network's.
    """
    if not isinstance(arrays, dict) or arrays.keys() != like.keys():
        return "tree"
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        return "tree"
    if any(arrays[name].shape != array.shape for name, array in like.items()):
        return "shape"
    if any(arrays[name].dtype != array.dtype for name, array in like.items()):
        return "dtype"
    if not all(np.isfinite(array).all() for array in arrays.values()):
        return "not_finite"
    return None


def update_norm(arrays: Arrays, start: Arrays | None) -> float:
    """The norm of arrays, or of what they are beyond `start`."""
    total = 0.0
    for name, array in arrays.items():
        moved = array.astype(np.float64) - (0.0 if start is None else start[name].astype(np.float64))
        total += float(np.square(moved).sum())
    return math.sqrt(total)


def norm_bound(learning: LearningConfig, numbers: int) -> float:
    """The largest norm of an honest UE's update.

    Of theta' - theta it is proven: a step of Adam moves a number by alpha times a quotient of two weighted means of the
    gradients so far, which Cauchy and Schwarz bound. Of a gradient it is `MOST_SLOPE` a number.

    Args:
        learning: alpha, m, and what a UE sends.
        numbers: of the network.
    """
    if learning.meta_update not in REPTILE:
        return MOST_SLOPE * math.sqrt(numbers)
    steps = 0.0
    for step in range(1, learning.inner_steps + 1):
        first, second = (
            [(1 - beta) * beta ** (step - 1 - i) / (1 - beta**step) for i in range(step)] for beta in (0.9, 0.999)
        )
        steps += math.sqrt(sum(a * a / b for a, b in zip(first, second, strict=True)))
    return ROOM * learning.inner_lr * steps * math.sqrt(numbers)


def bound_of(federation: Federation, like: Arrays) -> float:
    """The largest norm of an update that the server accepts.

    Args:
        federation: whose settings say it.
        like: the network's arrays.
    """
    numbers = sum(array.size for array in like.values())
    return federation.norm_bound or norm_bound(federation.config.learning, numbers)


def new_keys(ues: int) -> list[bytes]:
    """A secret key for each UE."""
    return [secrets.token_bytes(KEY_BYTES) for _ in range(ues)]


def read_keys(path: Path, ues: int) -> list[bytes]:
    """The keys of the UEs.

    Args:
        path: a JSON list of keys in hexadecimal.
        ues: how many keys there must be.

    Raises:
        InputError: the file has something else.
    """
    try:
        values = parse_json(path.read_bytes(), str(path), "keys of the UEs", list)
        keys = [bytes.fromhex(value) for value in values]
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"{path} has no usable keys ({shorten(str(error))}); accepted: a list of {ues}") from None
    if len(keys) != ues or any(len(key) != KEY_BYTES for key in keys):
        raise InputError(f"{path} has {len(keys)} keys; accepted: {ues}, each of {KEY_BYTES} bytes")
    return keys


def signed(ue: int, key: bytes, body: Any) -> bytes:
    """An answer of a UE."""
    data = codec.packed(body)
    return codec.packed({"ue": ue, "body": data, "signature": _signature(key, ue, data)})


def _signature(key: bytes, ue: int, data: bytes) -> bytes:
    return hmac.digest(key, b"%d:" % ue + data, "sha256")


def opened(data: bytes, keys: Sequence[bytes], most_bytes: int) -> tuple[int | None, Any, str | None]:
    """Who answered, what, and why that is refused; the body is read only once the signature is the UE's.

    Args:
        data: from anyone.
        keys: of the UEs.
        most_bytes: that an answer may have.
    """
    try:
        outer = codec.unpacked(data, most_bytes)
    except InputError:
        return None, None, "unreadable"
    if not isinstance(outer, dict):
        return None, None, "unreadable"
    ue, body, signature = (outer.get(name) for name in ("ue", "body", "signature"))
    if not (type(ue) is int and isinstance(body, bytes) and isinstance(signature, bytes)):
        return None, None, "unreadable"
    if not 0 <= ue < len(keys) or not hmac.compare_digest(signature, _signature(keys[ue], ue, body)):
        return None, None, "unknown_node"
    try:
        return ue, codec.unpacked(body, most_bytes), None
    except InputError:
        return ue, None, "unreadable"
