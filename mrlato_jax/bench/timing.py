"""The clock, the machine's own matmul rate, memory, and the DAGs that are measured on."""

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
"""Told before each step of a section: steps done, steps in all, and what comes now."""


def quiet(done: int, total: int, now: str) -> None:
    """A `Tick` that shows nothing."""


def best(call: Callable[[], Any], repeats: int, calls: int = 1) -> float:
    """Seconds a call, its result awaited, compilation apart: the fastest of `repeats` means over `calls`.

    The fastest, since whatever else a machine does only ever adds.
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
    """Rates of float32 matrix products.

    Returns:
        `gflop_per_second` of 1000 x 256 by 256 x 512, the shape of a decoder step, by which runs are compared; and
        `peak_gflop_per_second`, the best of that and of large squares, which is what nothing here can exceed.
    """
    tick(0, 2, "a decoder step's product")
    decoder_step = matmul_rate(1000, 256, 512, repeats=30, calls=20)
    tick(1, 2, "large squares")
    return {"gflop_per_second": decoder_step, "peak_gflop_per_second": max(decoder_step, _square_rate())}


def matmul_peak() -> float:
    """`peak_gflop_per_second` of `matmul`, measured now."""
    return matmul()["peak_gflop_per_second"]


def matmul_rate(rows: int, inner: int, columns: int, repeats: int, calls: int) -> float:
    """GFLOP/s of float32 products of [rows, inner] by [inner, columns]."""
    left, right = jnp.ones((rows, inner)), jnp.ones((inner, columns))
    multiply = jax.jit(partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST))  # not TF32, as GPUs would have it
    return 2e-9 * rows * inner * columns / best(lambda: multiply(left, right), repeats, calls)


def _square_rate() -> float:
    sizes = (512, 1024) if jax.default_backend() == "cpu" else (2048, 8192)
    return max(matmul_rate(size, size, size, repeats=10, calls=5) for size in sizes)


def environment() -> dict[str, Any]:
    """The device, the cores that this process may use, and the versions that a figure may depend on."""
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
    """The largest resident memory so far of this process or of one that it started (`getrusage`).

    An accelerator's own memory is no part of it.
    """
    in_bytes = 1 if sys.platform == "darwin" else 1024
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return 1e-9 * in_bytes * max(peaks)


def random_graphs(count: int, num_tasks: int, seed: int) -> list[TaskGraph]:
    """DAGs from the middle of the paper's families, all of `num_tasks`."""
    rng = np.random.default_rng(seed)
    return [daggen(num_tasks=num_tasks, fat=0.6, density=0.6, rng=rng) for _ in range(count)]
