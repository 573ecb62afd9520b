"""A trained policy in two files that outlive its run: safetensors, and JSON that says what it is and what it scores.

The format (https://github.com/huggingface/safetensors) is a length, a JSON header and plain bytes: nothing in a file is
run, and any program can read it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mrlato_jax.config import LearningConfig, NetworkConfig, TrainConfig
from mrlato_jax.dag.dataset import data_folder
from mrlato_jax.errors import InputError, shorten
from mrlato_jax.files import check_writable, write_atomically
from mrlato_jax.learning import ranges, rollout

SHIPPED = "weights"  # folder beside the data sets
TENSORS, DESCRIPTION = ".safetensors", ".json"
FLOAT32 = "F32"
SIZE_BYTES = 8  # of the header's length, little-endian
MOST_HEADER_BYTES = 2**20


def to_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Float32 arrays by name as a safetensors file: the same arrays give the same bytes."""
    header: dict[str, Any] = {}
    parts, position = [], 0
    for name in sorted(tensors):
        data = np.ascontiguousarray(tensors[name], "<f4").tobytes()
        offsets = [position, position + len(data)]
        header[name] = {"dtype": FLOAT32, "shape": list(tensors[name].shape), "data_offsets": offsets}
        parts.append(data)
        position += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % SIZE_BYTES)  # so that the arrays are aligned
    return len(text).to_bytes(SIZE_BYTES, "little") + text + b"".join(parts)


def from_bytes(data: bytes) -> dict[str, np.ndarray]:
    """What `to_bytes` wrote, or any safetensors file of float32 arrays.

    Raises:
        InputError: anything else.
    """
    try:
        size = int.from_bytes(data[:SIZE_BYTES], "little")
        if not len(data) >= SIZE_BYTES + size or size > MOST_HEADER_BYTES:
            raise ValueError(f"a header of {size} bytes in a file of {len(data)}")
        header = json.loads(data[SIZE_BYTES : SIZE_BYTES + size])
        header.pop("__metadata__", None)
        body, tensors = memoryview(data)[SIZE_BYTES + size :], {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            if entry["dtype"] != FLOAT32 or not 0 <= begin <= end <= len(body):
                raise ValueError(f"{name} is {entry}")
            if end - begin != 4 * math.prod(entry["shape"]):
                raise ValueError(f"{name} of shape {entry['shape']} in {end - begin} bytes")
            tensors[name] = np.frombuffer(body[begin:end], "<f4").reshape(entry["shape"]).astype(np.float32)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"weights cannot be read ({shorten(error)}); accepted: a safetensors file of float32 arrays"
        ) from None
    return tensors


def shipped() -> dict[str, Path]:
    """Where the weights are that come with the package, by name: paths without their endings."""
    found = sorted((data_folder() / SHIPPED).glob(f"*{TENSORS}"))
    return {path.stem: path.with_suffix("") for path in found}


class StoredPolicy(NamedTuple):
    """What the two files hold of a policy: the first fields of an `Offloader`, as it takes them."""

    network: NetworkConfig
    params: Any
    label: str
    iteration: int
    learning: LearningConfig
    ranges: ranges.Ranges | None


def save(stem: Path, policy: StoredPolicy) -> None:
    """Writes a policy as two files that `load` reads; files of that name that are there are replaced.

    Args:
        stem: path without the endings; its folder is made if it is missing.
        policy: its parameters are written as float32.

    Raises:
        InputError: a folder that cannot be written to, or parameters that are not finite.
    """
    tensors = {name: np.asarray(leaf) for name, leaf in flatten_dict(policy.params, sep="/").items()}
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise InputError(f"params has NaN or infinite numbers in {name}; accepted: finite ones")
    check_writable(stem.parent)
    data = to_bytes(tensors)
    description = {
        "method": policy.label,
        "config": {"policy": policy.network.to_json(), "learning": policy.learning.to_json()},
        "iteration": policy.iteration,
        "sha256": hashlib.sha256(data).hexdigest(),
        "ranges": None if policy.ranges is None else ranges.to_json(policy.ranges),
    }
    write_atomically(stem.with_name(stem.name + TENSORS), data)
    write_atomically(stem.with_name(stem.name + DESCRIPTION), json.dumps(description, indent=2).encode() + b"\n")


def load(stem: Path) -> StoredPolicy:
    """The policy that `save` or `export_weights.py` wrote.

    Args:
        stem: path without the endings.

    Raises:
        InputError: a file is missing or is not what `save` writes, or the two are not of one policy.
    """
    tensors_path, description_path = stem.with_name(stem.name + TENSORS), stem.with_name(stem.name + DESCRIPTION)
    try:
        data, text = tensors_path.read_bytes(), description_path.read_bytes()
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}; accepted: files of export_weights.py") from None
    try:
        description = json.loads(text)
        config, sha256 = TrainConfig.from_json(description["config"]), description["sha256"]
        label, iteration = str(description["method"]), int(description["iteration"])
        known = description.get("ranges") and ranges.from_json(description["ranges"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{description_path} cannot be read ({error!r}); accepted: one of export_weights.py") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"{tensors_path} is not what {description_path} describes; accepted: files written together")
    params = unflatten_dict(from_bytes(data), sep="/")
    _check_shapes(tensors_path, config.network, params)
    return StoredPolicy(
        config.network, jax.tree.map(jax.numpy.asarray, params), label, iteration, config.learning, known
    )


def _check_shapes(path: Path, network: NetworkConfig, params: Any) -> None:
    wanted = jax.eval_shape(partial(rollout.init_params, network), jax.random.key(0))
    shapes = [jax.tree.map(lambda leaf: tuple(leaf.shape), tree) for tree in (params, wanted)]
    if shapes[0] != shapes[1]:
        raise InputError(f"{path} has arrays of another network; accepted: those of {network}")
