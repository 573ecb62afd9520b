"""A trained policy in two files that outlive its run: safetensors, and JSON that says what it is and what it scores.

The format (https://github.com/huggingface/safetensors) is a length, a JSON header and plain bytes: nothing in a file is
run, and any program can read it.
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
        return read_tensors(data)
    except ValueError as error:
        raise InputError(f"weights cannot be read ({error}); accepted: a safetensors file of float32 arrays") from None


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


def save(
    stem: Path,
    policy: StoredPolicy,
    *,
    config: Mapping[str, Any] | None = None,
    trained: Mapping[str, Any] = MappingProxyType({}),
    scored: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Writes a policy as two files that `load` reads; files of that name that are there are replaced.

    Args:
        stem: path without the endings; its folder is made if it is missing.
        policy: its parameters are written as float32.
        config: all settings of its training as JSON; by default those that the policy itself has.
        trained: more of the description: on what and by what it was trained.
        scored: more of the description: how good its plans are.

    Returns:
        The description that was written.

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
    """The policy that `save` or `export_weights.py` wrote.

    Args:
        stem: path without the endings.

    Raises:
        InputError: a file is missing or is not what `save` writes, or the two are not of one policy.
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
        config, stored = TrainConfig.from_json(description["config"]), description.get("ranges")
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
    """Raises InputError unless these are a network's parameters, all finite.

    What the settings say is first compared with what is stored: nothing is built of a size that only they claim.

    Args:
        path: of the arrays, for messages.
        network: the settings.
        arrays: parameters by name, the parts of a name joined by slashes.
    """
    shapes = {name: tuple(array.shape) for name, array in arrays.items()}
    layers = sum(name.startswith("params/decoder_") and name.endswith("/cell_scale") for name in shapes)
    alike = layers == network.layers and shapes.get("params/logits_head/kernel") == (network.units, network.logits)
    if not alike or shapes != _shapes(network):
        raise InputError(f"{path} has arrays of another network; accepted: those of {network}")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InputError(f"{path} has NaN or infinite numbers in {name}; accepted: finite ones")


def _shapes(network: NetworkConfig) -> dict[str, tuple[int, ...]]:
    """Of every parameter by name. Layers from the second on are alike, so that no more than two are built."""
    built = dataclasses.replace(network, layers=min(network.layers, 2))
    params = jax.eval_shape(partial(rollout.init_params, built), jax.random.key(0))
    shapes = {name: tuple(leaf.shape) for name, leaf in flatten_dict(params, sep="/").items()}
    for name in [name for name in shapes if name.split("/")[1].endswith("coder_1")]:
        for layer in range(2, network.layers):
            shapes[name.replace("coder_1/", f"coder_{layer}/", 1)] = shapes[name]
    return shapes
