"""The clock, the machine's matmul rate, memory, and the DAGs for measurements."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrlato_jax.dag.daggen import daggen
from mrlato_jax.dag.task_graph import TaskGraph
from mrlato_jax.learning import devices

Tick = Callable[[int, int, str], None]
"""Called before each step of a section, with the steps done, the total number of steps, and the name of the step."""


def quiet(done: int, total: int, now: str) -> None:
    """Shows nothing; the default `Tick`."""


def best(call: Callable[[], Any], repeats: int, calls: int = 1) -> float:
    """Measures the seconds per call without compilation: the least of `repeats` means over `calls`.

    Each call waits for its result. The least counts, since other work on the machine only adds time.
    """
    jax.block_until_ready(call())
    means = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(calls):
            jax.block_until_ready(call())
        means.append((time.perf_counter() - started) / calls)
    return min(means)


def matmul(tick: Tick = quiet) -> dict[str, float]:
    """Measures rates of float32 matrix products.

    Returns:
        `gflop_per_second` of 1000 x 256 by 256 x 512, the shape of a decoder step, used to compare runs; and
        `peak_gflop_per_second`, the best of that and of large squares, used as the machine's peak.
    """
    tick(0, 2, "a decoder step's product")
    decoder_step = matmul_rate(1000, 256, 512, repeats=30, calls=20)
    tick(1, 2, "large squares")
    return {"gflop_per_second": decoder_step, "peak_gflop_per_second": max(decoder_step, _square_rate())}


def matmul_peak() -> float:
    """Measures `peak_gflop_per_second` of `matmul`."""
    return matmul()["peak_gflop_per_second"]


def matmul_rate(rows: int, inner: int, columns: int, repeats: int, calls: int) -> float:
    """Measures the GFLOP/s of float32 products of [rows, inner] by [inner, columns]."""
    left, right = jnp.ones((rows, inner)), jnp.ones((inner, columns))
    multiply = jax.jit(partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST))  # GPUs would use TF32 by default
    return 2e-9 * rows * inner * columns / best(lambda: multiply(left, right), repeats, calls)


def _square_rate() -> float:
    sizes = (512, 1024) if jax.default_backend() == "cpu" else (2048, 8192)
    return max(matmul_rate(size, size, size, repeats=10, calls=5) for size in sizes)


def environment() -> dict[str, Any]:
    """Returns the device, the cores that this process may use, and the software versions."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "cores": devices.cores(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "mrlato_jax": sys.modules["mrlato_jax"].__version__,
        "peak_memory_gb": peak_memory_gb(),
    }


def peak_memory_gb() -> float:
    """Returns the peak resident memory of this process or of a child process (`getrusage`).

    The memory of an accelerator is not included.
    """
    in_bytes = 1 if sys.platform == "darwin" else 1024
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return 1e-9 * in_bytes * max(peaks)


def random_graphs(count: int, num_tasks: int, seed: int) -> list[TaskGraph]:
    """Draws DAGs from the middle of the paper's families, all of `num_tasks`."""
    rng = np.random.default_rng(seed)
    return [daggen(num_tasks=num_tasks, fat=0.6, density=0.6, rng=rng) for _ in range(count)]
