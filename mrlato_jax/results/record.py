"""A JSON file that grows by one result at a time and belongs to one set of data, settings and code."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mrlato_jax.errors import InputError, check_type, shorten
from mrlato_jax.files import load_json, write_atomically
from mrlato_jax.training.run_folder import session

AS_WRITTEN = "a record as it was written"
_FIELDS = {"identity": dict, "sessions": list, "rows": dict}


class GrowingRecord:
    """Results by setting and name. Each result is written at once, so an interrupted program can continue.

    Several processes may add to one file: each addition first reads the current file.

    Attributes:
        path: the file.
        rows: results by setting and name.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Opens the record, or starts a new one.

        Args:
            path: the file, in an existing folder.
            identity: everything that determines the results: data hash, settings, the package's version, ...

        Raises:
            InputError: the file is malformed or has another identity.
        """
        self.path, self._identity = path, json.loads(json.dumps(dict(identity)))
        self.rows: dict[str, dict[str, Any]] = {}
        self._sessions: list[Any] = []
        if path.exists():
            self._read()

    def _read(self) -> None:
        record = load_json(self.path, AS_WRITTEN)
        try:
            for name, kind in _FIELDS.items():
                check_type(name, record.get(name), kind)
            for name, entries in record["rows"].items():
                check_type(f"rows.{name}", entries, dict)
            stored, sessions, rows = self._settled(record["identity"]), record["sessions"], record["rows"]
        except InputError as error:
            raise InputError(f"record {self.path} cannot be read ({error}); accepted: {AS_WRITTEN}") from None
        for name in sorted({*self._identity, *stored}):
            ours, theirs = self._identity.get(name), stored.get(name)
            if isinstance(ours, dict) and isinstance(theirs, dict):
                differing = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
                name, ours, theirs = f"{name}: {', '.join(differing)}", *_those(differing, ours, theirs)
            if ours != theirs:
                raise InputError(
                    f"record {self.path} has {name} {shorten(theirs)}; accepted: {shorten(ours)}, or another file"
                )
        self.rows, self._sessions = rows, sessions

    def _settled(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Converts a stored identity to the form of this version of the package."""
        return identity

    def add(self, setting: str, name: str, row: Any) -> None:
        """Adds one result and writes the file."""
        row = json.loads(json.dumps(row, allow_nan=False))  # the same values as when read back
        with _locked(self.path.parent):
            if self.path.exists():
                self._read()  # includes additions of other processes
            if not self._sessions or self._sessions[-1] != session():
                self._sessions.append(session())
            self.rows.setdefault(setting, {})[name] = row
            record = {"identity": self._identity, "sessions": self._sessions, "rows": self.rows}
            write_atomically(self.path, json.dumps(record, separators=(",", ":")).encode() + b"\n")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Context that only one process at a time can enter for a folder."""
    import fcntl  # not available on every system; without it, records can still be read

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _those(names: list[str], *mappings: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{name: mapping.get(name) for name in names} for mapping in mappings]
