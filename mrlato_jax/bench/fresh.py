"""Measurements that need a Python process of their own."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path

from mrlato_jax.bench.iteration import Workload
from mrlato_jax.config import NetworkConfig
from mrlato_jax.processes import run_python

IMPORTS = """
import json, sys, time
marks = {"started": time.time()}
import jax
marks["jax"] = time.time()
import mrlato_jax
marks["package"] = time.time()
"""  # how the programs begin that say when what was imported


def run_fresh(program: str, argument: str, environment: Mapping[str, str]) -> dict[str, float]:
    """Runs a program in a fresh interpreter.

    Args:
        program: its text; finds `argument` in `sys.argv[1]`, and prints a JSON object at last.
        argument: what it is to measure.
        environment: variables beside this process's.

    Returns:
        The JSON object.
    """
    package = str(Path(__file__).resolve().parents[2])  # the same code, however this process came to find it
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    ran = run_python(program, argument, environment={"PYTHONPATH": path, **environment})
    ran.check_returncode()
    return json.loads(ran.stdout.splitlines()[-1])


def caching(folder: str) -> dict[str, str]:
    """Variables by which a process keeps all that it compiles in `folder`."""
    return {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def written_workload(workload: Workload) -> str:
    """A workload as `run_fresh`'s argument."""
    return json.dumps(dataclasses.asdict(workload))


def read_workload(argument: str) -> Workload:
    """In the fresh process: what `written_workload` gave."""
    values = json.loads(argument)
    return Workload(**{**values, "network": NetworkConfig.from_json(values["network"])})
