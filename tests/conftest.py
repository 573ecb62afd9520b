"""Set before any test module imports the package, in this process and in those that tests start."""

import gc
import importlib.metadata
import os
from collections.abc import Iterator
from pathlib import Path

# What is compiled here is small, and compiling it is most of the suite's time. Every process keeps its programs in one
# cache, which outlives the session; the settings are part of a program's name there, so all processes have the same.
CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache" / "xla"
CACHE_BYTES = 2_000_000_000  # at most, when a session begins
MAPS = Path("/proc/self/maps")  # a line for each memory map; each compiled program has some
MOST_MAPS = 10_000
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # an unknown flag would end the process
    fewer = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {fewer}".strip()

# The tests start a hundred processes, and each would compile the package's sources anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Tracing makes millions of objects that live on: looking through them for cycles took a twelfth of the suite's time.
gc.set_threshold(200_000, 50, 100)

import hypothesis
import jax
import pytest

from mrlato_jax.planners import engine

# An array that silently gains an axis is a mixed-up batch: make it an error everywhere.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Examples are not timed: the first one of a shape compiles.
hypothesis.settings.register_profile("mrlato_jax", deadline=None)
hypothesis.settings.load_profile("mrlato_jax")

# The files that take longest, longest first: begun last, one of them would keep one worker busy while the other waits.
# `test_meta_train.py` is not beside `test_reproduce.py`, which makes the run that both use: it would wait for that run.
# The second worker begins with a file that needs no machine code, which the first worker compiles meanwhile.
LONGEST = (
    "launch/test_reproduce.py", "learning/test_inner.py", "planners/test_objectives.py", "inference/test_command.py",
    "launch/test_meta_train.py", "inference/test_offloader.py", "edge/test_run.py", "inference/test_portable.py",
    "planners/test_branch_and_bound.py", "learning/test_outer.py", "learning/test_rollout.py",
    "learning/test_free_order.py", "learning/test_meta_updates.py", "learning/test_any_servers.py",
    "learning/test_devices.py", "inference/test_wider_offloader.py", "learning/test_it_learns.py",
    "edge/test_federation.py", "notebooks/test_notebooks.py", "launch/test_distributed.py",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _programs_of_a_file() -> Iterator[None]:
    """Drops the programs of a file behind it: with 45,000 memory maps a quarter of a worker's time went astray."""
    yield
    jax.clear_caches()
    if not MAPS.exists() or MAPS.read_bytes().count(b"\n") > MOST_MAPS:  # collecting takes up to three seconds
        gc.collect()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the files by `LONGEST`; the others keep their places behind them."""
    place = {name: rank for rank, name in enumerate(LONGEST)}
    tests = Path(__file__).parent
    items.sort(key=lambda item: place.get(item.path.relative_to(tests).as_posix(), len(LONGEST)))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Forgets the programs that were not used for longest, where there are too many."""
    if "PYTEST_XDIST_WORKER" in os.environ or not CACHE.is_dir():
        return
    stats = sorted(((path.stat(), path) for path in CACHE.iterdir()), key=lambda pair: pair[0].st_atime, reverse=True)
    kept = 0
    for stat, path in stats:
        kept += stat.st_size
        if kept > CACHE_BYTES:
            path.unlink()


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is loaded stays: the collector need not look through it again after each file.

    The first worker also compiles the planners' machine code, unless numba has kept that. Else both workers, and the
    processes that they start, would do so at once.
    """
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw0" and any("planners" in item.path.parts for item in session.items):
        engine.machine_code()
    gc.collect()
    gc.freeze()
