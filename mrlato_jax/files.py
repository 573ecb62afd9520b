"""Files: written so that no reader ever meets half of one, and read as what may be damaged or hostile."""

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

MOST_JSON_BYTES = 2**28  # of a stored file
MOST_JSON_LEVELS = 64  # of objects and arrays within one another: none of ours has ten

_MOST_ARRAYS = 64  # in one file: more would have their headers read for long
_LONGEST_HEADER = 16 * 2**10  # bytes; numpy itself reads no longer one


class ArrayHeader(NamedTuple):
    """What a stored array says of itself."""

    shape: tuple[int, ...]
    dtype: np.dtype
    order: Literal["C", "F"]


def check_writable(folder: Path) -> None:
    """Makes `folder` if it is missing; raises InputError where no file can be made in it, before long work is lost."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"folder is {folder}: {error.strerror}; accepted: a folder to write in") from None


def check_replaceable(path: Path) -> None:
    """Raises InputError where `path` names something that is no regular file, such as a device or a folder.

    A link counts as what it leads to.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError:  # nothing is there, or what is wrong shows when it is written
        return
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
        raise InputError(f"path is {path}, {kind}; accepted: a regular file, which is replaced, or a new name")


def write_atomically(path: Path, data: bytes, *, mode: int | None = None) -> None:
    """Writes `data` so that a reader, also after a power cut, finds the old file or the new one, both whole.

    Args:
        path: of the file.
        data: its contents.
        mode: its permissions, from the first moment on; None: those of the process.

    Raises:
        InputError: `path` names something that is no regular file.
        OSError: as writing does; what was at `path` is then still there.
    """
    check_replaceable(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        # A new file: through a link, another one would be written.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
        with open(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)  # the process's mask may have taken away more
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_secret(path: Path, data: bytes) -> None:
    """As `write_atomically`, and never readable by others, also not for a moment."""
    write_atomically(path, data, mode=0o600)


def _sync_folder(folder: Path) -> None:
    """A new name lives in its folder: it too must reach the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_npz(
    source: Path | IO[bytes], check: Callable[[Mapping[str, ArrayHeader]], None], most_bytes: int
) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` by their names, read-only, unpacked only after `check` has seen what they are.

    Args:
        source: the file.
        check: given what each array says of itself; raises where that is not wanted.
        most_bytes: that all members may have together when they are unpacked.

    Raises:
        InputError: members that are too many or too large.
        Exception: what `check` raises; and of any kind, where the file is damaged or holds anything but arrays.
    """
    if isinstance(source, Path):  # opening a pipe or a device may never end
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
        # Whole members, so that their checksums are looked at before an array is made.
        contents = {member.filename.removesuffix(".npy"): archive.read(member) for member in archive.infolist()}
    return {name: _array_of(headers[name], content, starts[name]) for name, content in contents.items()}


def _array_of(header: ArrayHeader, content: bytes, start: int) -> np.ndarray:
    """The array whose values begin there; it lies in the bytes themselves, so nothing is copied."""
    if 0 in header.shape:
        return np.empty(header.shape, header.dtype)
    return np.ndarray(header.shape, header.dtype, content, start, order=header.order)


def check_unpacked(archive: zipfile.ZipFile, most_bytes: int) -> None:
    """Raises InputError where an archive's members together have more bytes than that when they are unpacked.

    `zipfile` unpacks no more of a member than its header states.
    """
    size = sum(member.file_size for member in archive.infolist())
    if size > most_bytes:
        raise InputError(f"members have {size} bytes when they are unpacked; accepted: at most {most_bytes}")


def _array_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[ArrayHeader, int]:
    """What an array says of itself, and at which byte its values begin; of the member, no more is unpacked."""
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
    """The bytes of a file, once it is known to be a regular one of bounded size.

    Args:
        path: the file.
        most_bytes: that it may have.
        accepted: what is accepted in its place, for messages.

    Raises:
        FileNotFoundError: there is none.
        InputError: no regular file, one that is too large, or one that cannot be read.
    """
    try:
        check_regular(path, most_bytes, accepted)
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; accepted: {accepted}") from None


def check_regular(path: Path, most_bytes: int, accepted: str) -> None:
    """Raises InputError where `path` names no regular file of at most so many bytes, and OSError as `os.stat` does."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is no regular file; accepted: {accepted}")
    if status.st_size > most_bytes:
        raise InputError(f"{path} has {status.st_size} bytes; accepted: {accepted}, at most {most_bytes}")


def load_json(path: Path, accepted: str, kind: type = dict) -> Any:
    """Reads a JSON file that this project wrote.

    Args:
        path: the file.
        accepted: what is accepted in its place, for messages.
        kind: of the value at the top, dict or list.

    Raises:
        FileNotFoundError: there is none.
        InputError: no regular file, one that cannot be read, or one that `parse_json` refuses.
    """
    return parse_json(read_regular(path, MOST_JSON_BYTES, accepted), str(path), accepted, kind)


def parse_json(data: bytes, name: str, accepted: str, kind: type = dict) -> Any:
    """The value that `data` holds as JSON.

    Args:
        data: UTF-8 text.
        name: of the data, for messages.
        accepted: as `load_json` takes it.
        kind: as `load_json` takes it.

    Raises:
        InputError: no JSON, more than `MOST_JSON_LEVELS` within one another, or another value at the top.
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
