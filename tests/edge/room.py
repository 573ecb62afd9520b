"""An application whose task needs storage, for the tests."""

import errno
import os
import tempfile
from pathlib import Path

from mrlato_jax.edge.application import Application

app = Application("room")


@app.task
def fill(folder, mebibytes):
    """Writes a file in the temporary folder; in a given folder there is no room the first time."""
    if folder and not (Path(folder) / "seen").exists():
        (Path(folder) / "seen").touch()
        raise OSError(errno.ENOSPC, "No space left on device")
    with tempfile.TemporaryFile() as file:
        for _ in range(mebibytes):
            file.write(os.urandom(2**20))
        return file.tell()


@app.flow
def filled(folder, mebibytes):
    return fill(folder, mebibytes)
