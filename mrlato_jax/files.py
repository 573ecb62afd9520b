"""Files: atomic writing, and reading that is safe with damaged or hostile files."""

from __future__ import annotations

import io
import json
import os
import stat
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from mrlato_jax.errors import InputError, shorten

MOST_JSON_BYTES = 2**28  # size limit of a stored file
MOST_JSON_LEVELS = 64  # limit of nested objects and arrays; none of our files has ten

_MOST_ARRAYS = 64  # in one file; reading the headers of more would take long
_LONGEST_HEADER = 16 * 2**10  # bytes; numpy's own limit


class ArrayHeader(NamedTuple):
    """The header of a stored array."""

    shape: tuple[int, ...]
    dtype: np.dtype
    order: Literal["C", "F"]


def check_writable(folder: Path) -> None:
    """Makes `folder` if it is missing; raises InputError if no file can be made in it. Call this before long work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"folder is {folder}: {error.strerror}; accepted: a folder to write in") from None


def check_replaceable(path: Path) -> None:
    """Raises InputError if `path` exists and is not a regular file, but for example a device or a folder.

    Links are followed.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:  # the path does not exist, or writing will report the error
        return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise InputError(f"path is {path}, {kind}; accepted: a regular file, which is replaced, or a new name")


def write_atomically(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Writes a file atomically: a reader finds the complete old or new file, even after a power cut.

    Args:
        path: path of the file.
        data: contents of the file.
        mode: permissions of the file, from its creation on; by default those of the process.

    Raises:
        InputError: `path` exists and is not a regular file.
        OSError: writing failed; the old file is then unchanged.
    """
    check_replaceable(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        # O_EXCL: writing through a link would change another file.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
        with open(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)  # the process's umask may have removed permissions
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_secret(path: Path, data: bytes) -> None:
    """Writes a file atomically that other users can never read; see `write_atomically`."""
    write_atomically(path, data, mode=0o600)


def _sync_folder(folder: Path) -> None:
    """Writes the folder to the disk, since a new file name is stored in its folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_npz(
    source: Path | IO[bytes], check: Callable[[Mapping[str, ArrayHeader]], None], most_bytes: int
) -> dict[str, np.ndarray]:
    """Reads the arrays of a `.npz` by name, read-only; unpacks them only after `check` has seen their headers.

    Args:
        source: the file.
        check: called with the headers of all arrays; raises an exception to refuse them.
        most_bytes: limit of the total size of all members when unpacked.

    Raises:
        InputError: there are too many members, or they are too large.
        Exception: any exception of `check`; any kind of exception for a damaged file or members that are not arrays.
    """
    if isinstance(source, Path):  # opening a pipe or a device could block
        check_regular(source, most_bytes, "an archive of arrays")
    with zipfile.ZipFile(source) as archive:
        check_unpacked(archive, most_bytes)
        if len(archive.infolist()) > _MOST_ARRAYS:
            raise InputError(f"has {len(archive.infolist())} members; accepted: at most {_MOST_ARRAYS}")
        headers, starts = {}, {}
        for member in archive.infolist():
            header, start = _array_header(archive, member)
            count = 1
            for size in header.shape:
                count *= size
            if start + count * header.dtype.itemsize != member.file_size:
                raise ValueError(f"{member.filename} has {member.file_size} bytes, another number than its header says")
            name = member.filename.removesuffix(".npy")
            headers[name], starts[name] = header, start
        check(headers)
        # Reads whole members, so that their checksums are verified before an array is made.
        contents = {member.filename.removesuffix(".npy"): archive.read(member) for member in archive.infolist()}
    return {name: _array_of(headers[name], content, starts[name]) for name, content in contents.items()}


def _array_of(header: ArrayHeader, content: bytes, start: int) -> np.ndarray:
    """Returns the array whose values begin at `start`, as a view of the bytes, without a copy."""
    if 0 in header.shape:
        return np.empty(header.shape, header.dtype)
    return np.ndarray(header.shape, header.dtype, content, start, order=header.order)


def check_unpacked(archive: zipfile.ZipFile, most_bytes: int) -> None:
    """Raises InputError if the members of an archive together unpack to more than `most_bytes`.

    `zipfile` unpacks at most the size in a member's header.
    """
    size = sum(member.file_size for member in archive.infolist())
    if size > most_bytes:
        raise InputError(f"members have {size} bytes when they are unpacked; accepted: at most {most_bytes}")


def _array_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[ArrayHeader, int]:
    """Reads the header of an array and the offset of its values; unpacks no more of the member."""
    with archive.open(member) as stream:
        beginning = io.BytesIO(stream.read(_LONGEST_HEADER))
    version = np.lib.format.read_magic(beginning)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(beginning)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(beginning)
    else:
        raise ValueError(f"{member.filename} is an array of format {version}")
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Object arrays")
    return ArrayHeader(shape, dtype, "F" if fortran else "C"), beginning.tell()


def read_regular(path: Path, most_bytes: int, accepted: str) -> bytes:
    """Reads a file after checking that it is a regular file of limited size.

    Args:
        path: the file.
        most_bytes: size limit.
        accepted: description of an accepted file, for messages.

    Raises:
        FileNotFoundError: the file does not exist.
        InputError: the file is not regular, is too large, or cannot be read.
    """
    try:
        check_regular(path, most_bytes, accepted)
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; accepted: {accepted}") from None


def check_regular(path: Path, most_bytes: int, accepted: str) -> None:
    """Raises InputError unless `path` is a regular file of at most `most_bytes`; raises OSError like `os.stat`."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is no regular file; accepted: {accepted}")
    if status.st_size > most_bytes:
        raise InputError(f"{path} has {status.st_size} bytes; accepted: {accepted}, at most {most_bytes}")


def load_json(path: Path, accepted: str, kind: type = dict) -> Any:
    """Reads a JSON file that this project wrote.

    Args:
        path: the file.
        accepted: description of an accepted file, for messages.
        kind: type of the top-level value, dict or list.

    Raises:
        FileNotFoundError: the file does not exist.
        InputError: the file is not regular, cannot be read, or `parse_json` refuses it.
    """
    return parse_json(read_regular(path, MOST_JSON_BYTES, accepted), str(path), accepted, kind)


def parse_json(data: bytes, name: str, accepted: str, kind: type = dict) -> Any:
    """Parses JSON data.

    Args:
        data: UTF-8 text.
        name: name of the data, for messages.
        accepted: as in `load_json`.
        kind: as in `load_json`.

    Raises:
        InputError: the data are not JSON, nest more than `MOST_JSON_LEVELS` levels, or have another top-level type.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise InputError(f"{name} nests too deeply; accepted: {accepted}") from None
    except ValueError as error:
        raise InputError(f"{name} is not JSON ({shorten(str(error), 120)}); accepted: {accepted}") from None
    if not isinstance(value, kind):
        wanted = "object" if kind is dict else "array"
        raise InputError(f"{name} holds {shorten(value)}, no JSON {wanted}; accepted: {accepted}")
    level: list[Any] = [value]
    for _ in range(MOST_JSON_LEVELS):
        level = [
            child
            for holder in level
            for child in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return value
    raise InputError(f"{name} nests more than {MOST_JSON_LEVELS} levels; accepted: {accepted}")
