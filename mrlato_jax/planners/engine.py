"""Access to the planners in machine code, which need numba (extra `fast`)."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any


@cache
def machine_code() -> Any:
    """Returns the module `machine_code`, ready to run, or None if numba is not installed.

    The first call of an installation compiles for some 20 s of processor time; numba keeps the result beside the module
    or in the user's cache folder. The first call of a later process takes half a second.
    """
    return _ready("machine_code")


@cache
def machine_orders() -> Any:
    """Returns the module `machine_orders`, which searches orders, ready to run; or None, like `machine_code`."""
    return machine_code() and _ready("machine_orders")


def _ready(name: str) -> Any:
    try:
        code = import_module(f"mrlato_jax.planners.{name}")
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        return None
    code.warm_up()
    return code
