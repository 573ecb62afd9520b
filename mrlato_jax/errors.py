"""One exception for every rejected input, so that a caller can tell bad input from a fault of ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


class InputError(ValueError):
    """A value from outside (argument, file, flag) that cannot be used.

    The message names the field, the offending value and what is accepted.
    """


def shorten(value: Any, limit: int = 60) -> str:
    """`repr(value)`, cut so that a message stays one readable line."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= limit else text[: limit - 3] + "..."


def check_choice(field: str, value: Any, choices: Sequence[str]) -> None:
    """Raises InputError unless `value` is one of `choices`."""
    if value not in choices:
        raise InputError(f"{field} is {shorten(value)}; accepted: {', '.join(choices)}")


def check_number(
    field: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    integer: bool = False,
) -> None:
    """Raises InputError unless `value` is a finite number in [low, high] (or (low, high])."""
    kind = "an integer" if integer else "a finite number"
    left = "(" if open_low or low == -math.inf else "["
    right = ")" if high == math.inf else "]"
    accepted = f"{kind} in {left}{low:g}, {high:g}{right}"
    is_number = isinstance(value, int if integer else (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not low <= value <= high or (open_low and value == low):
        raise InputError(f"{field} is {shorten(value)}; accepted: {accepted}")
