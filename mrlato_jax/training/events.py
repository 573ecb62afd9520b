"""The curves of a run for TensorBoard: an event file in the run's folder, beside its metrics."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from mrlato_jax.config import ExecutionConfig
from mrlato_jax.errors import InputError

_FLUSH_S = 10  # a reader sees what is older


def check_events(execution: ExecutionConfig | None) -> None:
    """Raises InputError where event files are asked for and cannot be written."""
    if execution is not None and execution.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise InputError(
            "tensorboard is True, and tensorboardX is not installed; accepted: False, or the extra "
            "(pip install 'mrlato-jax[tensorboard]')"
        )


class EventLog:
    """Writes scalars by iteration. Of iterations that are done again TensorBoard forgets what was written before."""

    def __init__(self, folder: Path, first: int) -> None:
        """Begins a file.

        Args:
            folder: of the run; TensorBoard shows the run under its name.
            first: iteration that this session begins with.
        """
        from tensorboardX import SummaryWriter  # an extra

        # Names have the second: without the suffix a session that begins in the same one would replace the last.
        suffix = f".from{first}"
        self._writer = SummaryWriter(str(folder), purge_step=first, flush_secs=_FLUSH_S, filename_suffix=suffix)

    def add(self, iteration: int, values: Mapping[str, float]) -> None:
        """Writes the values of an iteration, by the names that they have in the run's metrics."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Writes what waits, and closes the file."""
        self._writer.close()
