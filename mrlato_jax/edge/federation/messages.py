"""Answers of a UE and their checks at the server: arrays and norms, reasons for refusal, keys and signatures."""

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
MOST_SLOPE = 10.0  # largest accepted root mean square of a gradient
ROOM = 1.01  # factor on the bound of the norm, for rounding
REFUSALS = {
    "unreadable": "an unreadable message",
    "unknown_node": "an unknown UE, or a signature that is not that UE's",
    "stale_round": "another round, or another theta at its start",
    "doubled": "a second answer in this round",
    "not_asked": "no learning task of this UE in this round, or a false report of that",
    "tree": "arrays of other names",
    "shape": "an array of another shape",
    "dtype": "an array of another type",
    "not_finite": "a number that is NaN, infinite or out of float32's range",
    "norm": "an update larger than its bound",
    "failed": "an error of the UE's program in place of an answer",
}
METRICS = (
    *("latency_ms", "heft_ms", "value_explained"),
    *LossMetrics._fields,
)  # metrics of a round, named as in `loop.flatten`

Arrays = Mapping[str, np.ndarray]


def named(tree: Any) -> dict[str, np.ndarray]:
    """Returns a network's arrays by name, on the host."""
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(tree, sep="/").items()}


def params_sha256(arrays: Arrays) -> str:
    """Returns the SHA-256 of arrays: of their names, types, shapes and bits."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def network_arrays(network: NetworkConfig) -> dict[str, np.ndarray]:
    """Returns zero arrays with the names, shapes and types of a network."""
    shapes = jax.eval_shape(partial(init_params, network), jax.random.key(0))
    return {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in flatten_dict(shapes, sep="/").items()}


def largest_difference(arrays: Arrays, others: Arrays) -> float:
    """Returns the largest absolute difference between the numbers of two networks of the same shape."""
    return max(float(np.abs(array - others[name]).max()) for name, array in arrays.items())


def check_arrays(arrays: Any, like: Arrays) -> str | None:
    """Checks whether received arrays fit the network; returns a name in REFUSALS, or None if they do.

    Args:
        arrays: the received value, of any kind.
        like: the network's arrays.
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
    """Returns the norm of arrays, or of their difference to `start`."""
    total = 0.0
    for name, array in arrays.items():
        moved = array.astype(np.float64) - (0.0 if start is None else start[name].astype(np.float64))
        total += float(np.square(moved).sum())
    return math.sqrt(total)


def norm_bound(learning: LearningConfig, numbers: int) -> float:
    """Returns the largest norm of an honest UE's update.

    For theta' - theta the bound is proven: a step of Adam changes a number by alpha times a quotient of two weighted
    means of the gradients so far, which the Cauchy-Schwarz inequality bounds. For a gradient the bound is `MOST_SLOPE`
    per number.

    Args:
        learning: alpha, m, and the kind of update.
        numbers: number of parameters of the network.
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
    """Returns the largest norm of an update that the server accepts.

    Args:
        federation: the shared settings.
        like: the network's arrays.
    """
    numbers = sum(array.size for array in like.values())
    return federation.norm_bound or norm_bound(federation.config.learning, numbers)


def new_keys(ues: int) -> list[bytes]:
    """Makes a secret key for each UE."""
    return [secrets.token_bytes(KEY_BYTES) for _ in range(ues)]


def read_keys(path: Path, ues: int) -> list[bytes]:
    """Reads the keys of the UEs.

    Args:
        path: a JSON list of keys in hexadecimal.
        ues: required number of keys.

    Raises:
        InputError: the file does not have these keys.
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
    """Returns a signed answer of a UE."""
    data = codec.packed(body)
    return codec.packed({"ue": ue, "body": data, "signature": _signature(key, ue, data)})


def _signature(key: bytes, ue: int, data: bytes) -> bytes:
    return hmac.digest(key, b"%d:" % ue + data, "sha256")


def opened(data: bytes, keys: Sequence[bytes], most_bytes: int) -> tuple[int | None, Any, str | None]:
    """Opens an answer; returns the UE, the body, and a reason for refusal. Checks the signature before the body.

    Args:
        data: bytes from any source, trusted or not.
        keys: keys of the UEs.
        most_bytes: size limit of an answer.
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
