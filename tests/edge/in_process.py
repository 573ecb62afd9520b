"""What `parser.measure` measures at a machine, in this process: for applications that are in no file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from mrlato_jax.edge import parser
from mrlato_jax.edge.application import Application, resolved
from mrlato_jax.edge.codec import packed, unpacked


def measured(app: Application, arguments: Mapping[str, Any], *, machine_hz: float, runs: int = 1) -> parser.Measured:
    """Runs the tasks one after the other; the first run is not counted."""
    program, given = parser._checked(app, arguments, machine_hz, runs)
    seconds, results = np.zeros((runs + 1, len(program.calls))), dict(given)
    for run in range(runs + 1):
        for task, call in enumerate(program.calls):
            if call.function is None:
                continue
            begin = time.process_time()
            known = {parent: unpacked(results[parent]) for parent in call.parents}
            inputs = [resolved(source, known) for source in call.inputs]
            results[task] = packed(app.functions[call.function].function(*inputs))
            seconds[run, task] = time.process_time() - begin
    return parser._measured(program, seconds[1:], results, machine_hz)
