"""Writing files so that no reader ever meets half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mrlato_jax.errors import InputError


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
