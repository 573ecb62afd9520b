"""Files of this project: written so that no reader ever meets half of one, and read as what may be damaged."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from mrlato_jax.errors import InputError, shorten

MOST_JSON_BYTES = 2**28  # of a stored file
MOST_JSON_LEVELS = 64  # of objects and arrays within one another: none of ours has ten


def check_writable(folder: Path) -> None:
    """Makes `folder` if it is missing; raises InputError where no file can be made in it, before long work is lost."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"folder is {folder}: {error.strerror}; accepted: a folder to write in") from None


def write_atomically(path: Path, data: bytes) -> None:
    """Writes `data` so that a reader, also after a power cut, finds the old file or the new one, both whole.

    Raises:
        OSError: as writing does; what was at `path` is then still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)  # the new name lives in the folder: it too must reach the disk
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is no regular file; accepted: {accepted}")
        if status.st_size > MOST_JSON_BYTES:
            raise InputError(f"{path} has {status.st_size} bytes; accepted: {accepted}, at most {MOST_JSON_BYTES}")
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; accepted: {accepted}") from None
    return parse_json(data, str(path), accepted, kind)


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
