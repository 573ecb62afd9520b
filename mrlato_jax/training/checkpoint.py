"""Checkpoints: one file each, written atomically, and verified by a digest when read.

A checkpoint is an uncompressed `.npz` with one array per leaf of the pytree, named by its key path
(`params/params/encoder/kernel`). A further member, `header.json`, has the format version, the step, the kinds of the
typed PRNG keys and the caller's metadata. The archive's comment, its last 64 bytes, is the SHA-256 of all bytes before
it. So a truncated or changed file is detected, and a file named after another step as well. Equal contents give equal
files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import logging
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from mrlato_jax.errors import InputError, check_number, shorten
from mrlato_jax.files import parse_json, read_regular, write_atomically

FORMAT = 1
MOST_BYTES = 2**32

_HEADER = "header.json"
_HEADER_FIELDS = {"step": int, "keys": dict, "meta": dict}
_DIGEST_BYTES = 64  # hexadecimal SHA-256
_NAME = re.compile(r"step_(\d{8})\.npz")
_ABSENT = object()
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Restored:
    """The contents of a checkpoint, in the requested structure."""

    step: int
    tree: Any
    meta: dict[str, Any]


def save(folder: Path, step: int, tree: Any, meta: Mapping[str, Any], keep: int = 3) -> Path:
    """Writes `folder/step_<step>.npz`, then deletes all but the newest `keep` checkpoints up to `step`.

    The file gets its name only when it is complete and on the disk; until then no older file is deleted.

    Args:
        folder: folder of the run's checkpoints. It is created if missing; its parent must exist. Only one process may
            write to it at a time (see `run_folder`).
        step: meta-iterations done, in [0, 99999999]; an existing checkpoint of the same step is replaced.
        tree: pytree of jax or numpy arrays of booleans or numbers, and typed PRNG keys.
        meta: JSON values to store with the arrays.
        keep: number of checkpoints to keep, at least 1.

    Returns:
        The path written.

    Raises:
        InputError: a leaf, a key of the tree, `step`, `meta` or `keep` has a value that cannot be stored.
    """
    check_number("step", step, low=0, high=99_999_999, integer=True)
    check_number("keep", keep, low=1, integer=True)
    folder = Path(folder)
    folder.mkdir(exist_ok=True)
    for stale in folder.glob(".step_*.tmp"):  # left by a killed process
        stale.unlink()
    path = folder / f"step_{step:08d}.npz"
    write_atomically(path, _pack(step, tree, meta))
    older = [found for found_step, found in _list(folder) if found_step <= step]
    for found in older[:-keep]:
        found.unlink()
    return path


def restore(
    folder: Path,
    like: Any,
    expected: Mapping[str, Any],
    at_most: int | None = None,
    completed: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> Restored | None:
    """Reads the newest intact checkpoint of `folder`, in the structure of `like`; None if there is no checkpoint.

    A broken file causes one warning, and the checkpoint before it is used.

    Args:
        folder: folder given to `save`; need not exist.
        like: pytree of arrays or `jax.ShapeDtypeStruct`s with the wanted structure, shapes and dtypes. Where `like` has
            numpy arrays, the result has numpy arrays of full dtype; elsewhere it has jax arrays.
        expected: entries that the stored metadata must have, compared as JSON values.
        at_most: last step to consider.
        completed: adds entries to the stored metadata that earlier versions did not write.

    Raises:
        InputError: all files are broken, the metadata differ from `expected`, or the arrays differ from `like`.
    """
    newest = _newest(Path(folder), at_most=at_most)
    if newest is None:
        return None
    path, header, arrays = newest
    differences = differing_fields(completed(header["meta"]), expected)
    if differences:
        raise InputError(f"{path} was saved under other settings: {'; '.join(differences)}; accepted: the run's own")
    return Restored(header["step"], _fill(like, header, arrays, path), header["meta"])


def read_params(path: Path) -> Restored:
    """Reads the part `params` of a saved tree; the network need not be known.

    Args:
        path: a checkpoint, or a folder of checkpoints, of which the newest intact one is read.

    Returns:
        The step, the parameters as nested dicts of numpy arrays (flax's structure), and the metadata.

    Raises:
        InputError: the path does not exist, there is no intact checkpoint, or the checkpoint has no `params`.
    """
    path = Path(path)
    if path.is_dir():
        newest = _newest(path)
        if newest is None:
            raise InputError(f"checkpoint folder is {path}, which holds no checkpoint; accepted: one with step_*.npz")
        path, header, arrays = newest
    else:
        try:
            header, arrays = _read(path)
        except FileNotFoundError:
            raise InputError(f"{path} does not exist; accepted: a checkpoint, or a run that has saved one") from None
        except _BrokenError as error:
            raise InputError(f"checkpoint {path} is broken ({error}); accepted: a whole checkpoint") from None
    params = unflatten_dict(arrays, sep="/").get("params")
    if not isinstance(params, dict):
        raise InputError(f"checkpoint {path} has no params among its arrays {shorten(list(arrays))}")
    return Restored(header["step"], params, header["meta"])


def steps(folder: Path) -> list[int]:
    """Lists the iterations in the names of checkpoints, oldest first. The files are not read and may be broken."""
    return [step for step, _ in _list(Path(folder))]


def drop_after(folder: Path, step: int) -> None:
    """Deletes the checkpoints of later steps."""
    for later in [found for found in steps(folder) if found > step]:
        (Path(folder) / f"step_{later:08d}.npz").unlink()


def newest_meta(folder: Path) -> dict[str, Any] | None:
    """Returns the metadata of the checkpoint that `restore` would use; None if there is no checkpoint.

    Raises:
        InputError: all files are broken.
    """
    newest = _newest(Path(folder), warn=False)
    return None if newest is None else newest[1]["meta"]


def differing_fields(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Describes each entry of `wanted` that differs or is missing in `stored`; nested entries have dotted names."""
    return _compare(stored, json.loads(json.dumps(wanted)), "")


class _BrokenError(Exception):
    """The file is not intact; the message says why."""


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Lists each leaf with its key path, joined by slashes, in the tree's order."""
    named = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        parts = [jax.tree_util.keystr((part,), simple=True) for part in path]
        if not parts or any(not part or "/" in part for part in parts):
            raise InputError(f"tree has a leaf at {parts}; accepted: leaves below keys without a slash")
        named.append(("/".join(parts), leaf))
    return named


def _pack(step: int, tree: Any, meta: Mapping[str, Any]) -> bytes:
    arrays, keys = {}, {}
    for name, leaf in _named_leaves(tree):
        if _is_key(leaf):
            keys[name] = str(jax.random.key_impl(leaf))
            arrays[name] = np.asarray(jax.random.key_data(leaf))
        elif isinstance(leaf, (jax.Array, np.ndarray, np.generic)) and np.asarray(leaf).dtype.kind in "biufc":
            arrays[name] = np.asarray(leaf)
        else:
            raise InputError(f"tree leaf {name} is {shorten(leaf)}; accepted: arrays of booleans or numbers, PRNG keys")
    try:
        header = json.dumps({"format": FORMAT, "step": step, "keys": keys, "meta": dict(meta)}, indent=1)
    except (TypeError, ValueError) as error:
        raise InputError(f"meta is {shorten(meta)}; accepted: JSON values ({error})") from None
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = b" " * _DIGEST_BYTES
        archive.writestr(zipfile.ZipInfo(_HEADER), header)  # ZipInfo keeps the time of writing out of the file
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())
    contents = buffer.getvalue()[:-_DIGEST_BYTES]
    return contents + _digest(contents)


def _digest(contents: bytes) -> bytes:
    return hashlib.sha256(contents).hexdigest().encode()


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        data = read_regular(path, MOST_BYTES, "a checkpoint")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"checkpoint {path}: {error.strerror}; accepted: a file that can be read") from None
    if data[-_DIGEST_BYTES:] != _digest(data[:-_DIGEST_BYTES]):
        raise _BrokenError(f"its {len(data)} bytes do not end in their SHA-256")
    try:
        header, arrays = _unpack(data)
    except Exception as error:  # with a correct digest but wrong contents, zipfile and numpy raise nearly anything
        raise _BrokenError(f"it holds no checkpoint: {shorten(str(error))}") from None
    if header.get("format") != FORMAT:
        raise InputError(f"format of checkpoint {path} is {shorten(header.get('format'))}; accepted: {FORMAT}")
    named = _NAME.fullmatch(path.name)
    if named and int(named[1]) != header["step"]:
        raise _BrokenError(f"it holds step {header['step']}")
    return header, arrays


def _unpack(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the header and arrays of a file, no arrays for another format.

    Raises nearly any exception for a file that `_pack` did not write.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        packed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
        if packed:  # compressed members could unpack to any size
            raise ValueError(f"{packed} is compressed")
        header = parse_json(archive.read(_HEADER), _HEADER, "what save wrote")
    if header.get("format") != FORMAT:
        return header, {}
    for name, kind in _HEADER_FIELDS.items():
        if type(header.get(name)) is not kind:
            raise ValueError(f"{_HEADER} has {name} {shorten(header.get(name))}")
    with np.load(io.BytesIO(data), allow_pickle=False) as members:
        arrays = {name: members[name] for name in members.files if name != _HEADER}
    holders = {"/".join(parts[:i]) for parts in (name.split("/") for name in arrays) for i in range(1, len(parts))}
    if holders & arrays.keys():
        raise ValueError(f"{sorted(holders & arrays.keys())} are arrays and hold arrays")
    return header, arrays


def _list(folder: Path) -> list[tuple[int, Path]]:
    """Lists the step and path of each checkpoint, oldest first."""
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    return sorted((int(match[1]), path) for match, path in matches if match)


def _newest(
    folder: Path, warn: bool = True, at_most: int | None = None
) -> tuple[Path, dict[str, Any], dict[str, np.ndarray]] | None:
    checkpoints = [(step, path) for step, path in _list(folder) if at_most is None or step <= at_most]
    for _, path in reversed(checkpoints):
        try:
            return path, *_read(path)
        except FileNotFoundError:
            continue  # the running training has just deleted it
        except _BrokenError as error:
            if warn:
                _log.warning("checkpoint %s is broken (%s); using the one before it", path, error)
    if checkpoints:
        # Returning None would silently start the run again from the beginning.
        raise InputError(
            f"checkpoint folder is {folder}, where all {len(checkpoints)} are broken; accepted: a whole one"
        )
    return None


def _fill(like: Any, header: dict[str, Any], arrays: dict[str, np.ndarray], path: Path) -> Any:
    named = _named_leaves(like)
    wanted, stored = {name for name, _ in named}, set(arrays)
    if wanted != stored:
        raise InputError(
            f"arrays of {path} differ: stored but not wanted {shorten(sorted(stored - wanted))}, "
            f"wanted but not stored {shorten(sorted(wanted - stored))}"
        )
    leaves, problems = [], []
    for name, leaf in named:
        array: Any = arrays[name]
        if name in header["keys"]:
            array = _as_keys(array, header["keys"][name], f"{name} of {path}")
        if (array.shape, array.dtype) != (leaf.shape, leaf.dtype):
            problems.append(f"{name}: stored {array.dtype}{[*array.shape]}, wanted {leaf.dtype}{[*leaf.shape]}")
        is_numpy = isinstance(leaf, (np.ndarray, np.generic))
        leaves.append(array if is_numpy or _is_key(array) else jnp.asarray(array))
    if problems:
        raise InputError(f"arrays of {path} differ: {'; '.join(problems)}")
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), leaves)


def _as_keys(array: np.ndarray, kind: Any, what: str) -> jax.Array:
    try:
        return jax.random.wrap_key_data(jnp.asarray(array), impl=kind)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is no PRNG key of kind {shorten(kind)} ({shorten(str(error))})") from None


def _compare(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str) -> list[str]:
    differences = []
    for name, value in wanted.items():
        stored_value = stored.get(name, _ABSENT)
        if isinstance(stored_value, Mapping) and isinstance(value, Mapping):
            differences += _compare(stored_value, value, f"{prefix}{name}.")
        elif stored_value != value:
            was = "nothing" if stored_value is _ABSENT else shorten(stored_value)
            differences.append(f"{prefix}{name}: stored {was}, wanted {shorten(value)}")
    return differences
