"""One exception for every rejected input, so that a caller can tell bad input from a bug in this package."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection
from typing import Any

import numpy as np


class InputError(ValueError):
    """A value from outside (argument, file, flag) is not accepted.

    The message names the field, the value and what is accepted. It is one printable line, even with unusual file names.
    """

    def __str__(self) -> str:
        return escaped(super().__str__())


def escaped(text: str) -> str:
    """Escapes, with backslashes, each character that a terminal may interpret as a command or cannot encode."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def shorten(value: Any, limit: int = 60) -> str:
    """Returns `repr(value)`, truncated so that a message stays one readable line."""
    text = repr(value).replace("\n", " ")
    return text if len(text) <= limit else text[: limit - 3] + "..."


def check_choice(field: str, value: Any, choices: Collection[str]) -> None:
    """Raises InputError unless `value` is one of `choices`; the message quotes choices that contain commas."""
    if not isinstance(value, str) or value not in choices:
        listed = map(repr, choices) if any("," in choice for choice in choices) else choices
        raise InputError(f"{field} is {shorten(value)}; accepted: {', '.join(listed)}")


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
    is_number = isinstance(value, numbers.Integral if integer else numbers.Real) and not isinstance(value, bool)
    try:
        usable = is_number and math.isfinite(value) and low <= value <= high and not (open_low and value == low)
    except OverflowError:  # an integer beyond float's range
        usable = False
    if not usable:
        raise InputError(f"{field} is {shorten(value)}; accepted: {accepted_numbers(low, high, open_low, integer)}")


def accepted_numbers(low: float, high: float, open_low: bool = False, integer: bool = False) -> str:
    """Returns the numbers that `check_number` accepts, in words: "an integer in [1, inf)"."""
    kind = "an integer" if integer else "a finite number"
    left = "(" if open_low or low == -math.inf else "["
    right = ")" if high == math.inf else "]"
    bounds = [str(bound) if isinstance(bound, int) else f"{bound:g}" for bound in (low, high)]
    return f"{kind} in {left}{bounds[0]}, {bounds[1]}{right}"


def check_type(field: str, value: Any, kind: type) -> None:
    """Raises InputError unless `value` is a `kind`."""
    if not isinstance(value, kind):
        raise InputError(f"{field} is {shorten(value)}; accepted: a {kind.__name__}")


def as_array(field: str, value: Any, accepted: str) -> np.ndarray:
    """Converts `value` to a numpy array; raises InputError if it is ragged."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise InputError(f"{field} is {shorten(value)}; accepted: {accepted}") from error
