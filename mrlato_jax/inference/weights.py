"""A trained policy in two files that outlive its run: parameters as safetensors, and a description as JSON.

A safetensors file (https://github.com/huggingface/safetensors) is a length, a JSON header and plain bytes. Any program
can read it, and reading executes no code from it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from mrlato_jax.config import LearningConfig, NetworkConfig, TrainConfig
from mrlato_jax.dag.dataset import data_folder
from mrlato_jax.errors import InputError, check_number, check_type
from mrlato_jax.files import check_writable, load_json, read_regular, write_atomically
from mrlato_jax.inference.portable import FLOAT32, SIZE_BYTES, read_tensors
from mrlato_jax.learning import ranges, rollout

SHIPPED = "weights"  # folder beside the data sets
MOST_BYTES = 2**30
WRITTEN = "files of Offloader.save or export_weights.py"
TENSORS, DESCRIPTION = ".safetensors", ".json"
_FIELDS = {"config": dict, "sha256": str, "method": str}


def to_bytes(tensors: Mapping[str, np.ndarray]) -> bytes:
    """Returns the bytes of a safetensors file with float32 arrays by name; the same arrays give the same bytes."""
    header: dict[str, Any] = {}
    parts, position = [], 0
    for name in sorted(tensors):
        data = np.ascontiguousarray(tensors[name], "<f4").tobytes()
        offsets = [position, position + len(data)]
        header[name] = {"dtype": FLOAT32, "shape": list(tensors[name].shape), "data_offsets": offsets}
        parts.append(data)
        position += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % SIZE_BYTES)  # aligns the arrays
    return len(text).to_bytes(SIZE_BYTES, "little") + text + b"".join(parts)


def from_bytes(data: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays, by name, of a safetensors file of float32 arrays.

    Raises:
        InputError: the bytes are no such file.
    """
    try:
        return read_tensors(data)
    except ValueError as error:
        raise InputError(f"weights cannot be read ({error}); accepted: a safetensors file of float32 arrays") from None


def shipped() -> dict[str, Path]:
    """Returns the paths, without endings, of the weights that come with the package, by name."""
    found = sorted((data_folder() / SHIPPED).glob(f"*{TENSORS}"))
    return {path.stem: path.with_suffix("") for path in found}


class StoredPolicy(NamedTuple):
    """A policy as the two files hold it: the first fields of an `Offloader`, in the same order."""

    network: NetworkConfig
    params: Any
    label: str
    iteration: int
    learning: LearningConfig
    ranges: ranges.Ranges | None


def save(
    stem: Path,
    policy: StoredPolicy,
    *,
    config: Mapping[str, Any] | None = None,
    trained: Mapping[str, Any] = MappingProxyType({}),
    scored: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Writes a policy as two files that `load` reads; replaces existing files of the same names.

    Args:
        stem: path without the endings; a missing folder is made.
        policy: the policy; its parameters are written as float32.
        config: all settings of its training as JSON; by default the policy's own settings.
        trained: further fields of the description on the training data and the training programs.
        scored: further fields of the description on the policy's scores.

    Returns:
        The description in the JSON file.

    Raises:
        InputError: the folder cannot be written to, or parameters are not finite.
    """
    tensors = {name: np.asarray(leaf) for name, leaf in flatten_dict(policy.params, sep="/").items()}
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise InputError(f"params has NaN or infinite numbers in {name}; accepted: finite numbers")
    check_writable(stem.parent)
    data = to_bytes(tensors)
    description = {
        "method": policy.label,
        "config": config or {"policy": policy.network.to_json(), "learning": policy.learning.to_json()},
        "iteration": policy.iteration,
        **trained,
        "sha256": hashlib.sha256(data).hexdigest(),
        **scored,
        "ranges": None if policy.ranges is None else ranges.to_json(policy.ranges),
    }
    write_atomically(stem.with_name(stem.name + TENSORS), data)
    write_atomically(stem.with_name(stem.name + DESCRIPTION), json.dumps(description, indent=2).encode() + b"\n")
    return description


def load(stem: Path) -> StoredPolicy:
    """Loads a policy that `save` or `export_weights.py` wrote.

    Args:
        stem: path without the endings.

    Raises:
        InputError: a file is missing or has another form than `save` writes, or the two files belong to different
            policies.
    """
    tensors_path, description_path = stem.with_name(stem.name + TENSORS), stem.with_name(stem.name + DESCRIPTION)
    try:
        data = read_regular(tensors_path, MOST_BYTES, WRITTEN)
        description = load_json(description_path, WRITTEN)
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}; accepted: {WRITTEN}") from None
    try:
        for name, kind in _FIELDS.items():
            check_type(name, description.get(name), kind)
        check_number("iteration", description.get("iteration"), low=0, integer=True)
        # A file without iterations is one of `Offloader.save`: its policy may be trained for any number.
        config = TrainConfig.from_json({"iterations": 1, **description["config"]})
        stored = description.get("ranges")
        known = None if stored is None else ranges.from_json(stored)
    except InputError as error:
        raise InputError(f"{description_path} cannot be read: {error}") from None
    if hashlib.sha256(data).hexdigest() != description["sha256"]:
        raise InputError(f"{tensors_path} is not what {description_path} describes; accepted: files written together")
    tensors = from_bytes(data)
    check_arrays(tensors_path, config.network, tensors)
    params = jax.tree.map(jax.numpy.asarray, unflatten_dict(tensors, sep="/"))
    label, iteration = description["method"], description["iteration"]
    return StoredPolicy(config.network, params, label, iteration, config.learning, known)


def check_arrays(path: Path, network: NetworkConfig, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises InputError unless the arrays are the network's parameters, all finite.

    The numbers of layers and units in the settings are first compared with the arrays. So nothing is built of a size
    that only the settings state.

    Args:
        path: path of the arrays, for messages.
        network: the settings.
        arrays: parameters by name, the parts of a name joined by slashes.
    """
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    layers = sum(name.startswith("params/decoder_") and name.endswith("/cell_scale") for name in shapes)
    alike = layers == network.layers and shapes.get("params/logits_head/kernel") == (network.units, network.logits)
    if not alike or shapes != _shapes(network):
        raise InputError(f"{path} has arrays of another network; accepted: arrays of {network}")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InputError(f"{path} has NaN or infinite numbers in {name}; accepted: finite numbers")


def _shapes(network: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every parameter by name. Layers from the second on are alike, so only two are built."""
    built = dataclasses.replace(network, layers=min(network.layers, 2))
    params = jax.eval_shape(partial(rollout.init_params, built), jax.random.key(0))
    shapes = {name: tuple(leaf.shape) for name, leaf in flatten_dict(params, sep="/").items()}
    for name in [name for name in shapes if name.split("/")[1].endswith("coder_1")]:
        for layer in range(2, network.layers):
            shapes[name.replace("coder_1/", f"coder_{layer}/", 1)] = shapes[name]
    return shapes
