"""Measurements in a fresh Python process."""

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
"""  # beginning of programs that report the times of their imports


def run_fresh(program: str, argument: str, environment: Mapping[str, str]) -> dict[str, float]:
    """Runs a program in a fresh interpreter.

    Args:
        program: source text of the program. It finds `argument` in `sys.argv[1]` and ends by printing a JSON object.
        argument: argument of the program.
        environment: environment variables in addition to this process's.

    Returns:
        The JSON object.
    """
    package = str(Path(__file__).resolve().parents[2])  # runs the same code as this process
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    ran = run_python(program, argument, environment={"PYTHONPATH": path, **environment})
    ran.check_returncode()
    return json.loads(ran.stdout.splitlines()[-1])


def caching(folder: str) -> dict[str, str]:
    """Returns environment variables that make a process cache all compiled programs in `folder`."""
    return {
        "JAX_COMPILATION_CACHE_DIR": folder,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def written_workload(workload: Workload) -> str:
    """Encodes a workload as an argument for `run_fresh`."""
    return json.dumps(dataclasses.asdict(workload))


def read_workload(argument: str) -> Workload:
    """Decodes, in the fresh process, the argument from `written_workload`."""
    values = json.loads(argument)
    return Workload(**{**values, "network": NetworkConfig.from_json(values["network"])})
