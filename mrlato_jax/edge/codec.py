"""The encoding of messages between machines: msgpack of numbers, text, bytes and NumPy arrays; never code.

Decoding checks each message: its size, its nesting depth, its number of entries, and the header of each array.
"""

from __future__ import annotations

import math
import struct
from typing import Any

import msgpack
import numpy as np

from mrlato_jax.errors import InputError, check_number, shorten

MOST_BYTES = 2**28  # size limit of a message
MOST_DEPTH = 32
MOST_DIMENSIONS = 8
MOST_HEADER_BYTES = 2**16  # size limit of a frame's header
ARRAY = 1  # msgpack's extension code for arrays
LENGTH = struct.Struct(">I")  # before a frame, and before its header
_PLAIN = frozenset((type(None), bool, int, float, str, bytes))  # types without nested values
DTYPES = (
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
)

ACCEPTED = (
    "None, bool, int of 64 bits, float, str, bytes, lists and dicts with str keys of these, and arrays of numbers"
)


def packed(value: Any) -> bytes:
    """Encodes a value as bytes. Tuples are decoded as lists.

    Raises:
        InputError: the value has an unsupported type, is nested too deep, or is too large.
    """
    _check_depth(value, MOST_DEPTH)
    try:
        data = msgpack.packb(value, default=_extension, use_bin_type=True, strict_types=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"value cannot be sent ({shorten(str(error))}); accepted: {ACCEPTED}") from None
    if len(data) > MOST_BYTES:
        raise InputError(f"value has {len(data)} bytes; accepted: at most {MOST_BYTES}")
    return data


def unpacked(data: bytes, most_bytes: int = MOST_BYTES) -> Any:
    """Inverse of `packed`. Arrays are read-only.

    Args:
        data: bytes from any source, trusted or not.
        most_bytes: size limit.

    Raises:
        InputError: there are too many bytes, or they are not a message of `packed`.
    """
    check_number("most_bytes", most_bytes, low=1, integer=True)
    if len(data) > most_bytes:
        raise InputError(f"message has {len(data)} bytes; accepted: at most {most_bytes}")
    try:
        value = msgpack.unpackb(data, ext_hook=_array, raw=False, strict_map_key=True, use_list=True)
    except InputError:
        raise
    except Exception as error:  # damaged bytes cause several kinds of errors in msgpack and numpy
        raise InputError(f"message cannot be read ({shorten(str(error))}); accepted: {ACCEPTED}") from None
    _check_depth(value, MOST_DEPTH)
    return value


def _check_depth(value: Any, left: int) -> None:
    if isinstance(value, list | tuple | dict):
        if left == 0:
            raise InputError(f"value is nested deeper than {MOST_DEPTH} levels; accepted: at most this depth")
        entries = value.values() if isinstance(value, dict) else value
        if not _PLAIN.issuperset(map(type, entries)):
            for entry in entries:
                _check_depth(entry, left - 1)
    elif isinstance(value, msgpack.Timestamp):  # msgpack decodes this extension by itself
        raise InputError(f"value is {shorten(value)}; accepted: {ACCEPTED}")


def _extension(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = np.asarray(value)
    if not isinstance(value, np.ndarray) or value.dtype.name not in DTYPES or value.ndim > MOST_DIMENSIONS:
        raise TypeError(f"a {type(value).__name__}")
    little = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).reshape(value.shape)
    return msgpack.ExtType(ARRAY, msgpack.packb([value.dtype.name, list(value.shape), little.tobytes()]))


def _array(code: int, data: bytes) -> np.ndarray:
    if code != ARRAY:
        raise InputError(f"message has an extension {code}; accepted: {ARRAY}, an array")
    name, shape, content = msgpack.unpackb(data)
    if name not in DTYPES or not isinstance(shape, list) or len(shape) > MOST_DIMENSIONS:
        raise InputError(f"message has an array of {shorten(name)}, {shorten(shape)}; accepted: {', '.join(DTYPES)}")
    dtype = np.dtype(name).newbyteorder("<")
    if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(content):
        raise InputError(
            f"message has an array of shape {shorten(shape)} in {len(content)} bytes; accepted: its own size"
        )
    return np.frombuffer(content, dtype).reshape(shape)


def framed(header: list[Any], body: bytes = b"") -> bytes:
    """Encodes a frame: four bytes with the header's length, the header, and the body, which relays need not decode."""
    head = msgpack.packb(header)
    return LENGTH.pack(len(head)) + head + body


def unframed(frame: bytes, most_header_bytes: int = MOST_HEADER_BYTES) -> tuple[list[Any], bytes]:
    """Inverse of `framed`: returns header and body; the body is not decoded.

    Raises:
        InputError: the bytes are not a frame, the header is not a list of plain values, or the header is too long.
    """
    accepted = f"accepted: a frame with a header of at most {most_header_bytes} bytes"
    if len(frame) < LENGTH.size:
        raise InputError(f"frame has {len(frame)} bytes; {accepted}")
    (length,) = LENGTH.unpack_from(frame)
    end = LENGTH.size + length
    if length > most_header_bytes or end > len(frame):
        raise InputError(f"frame has a header of {length} bytes; {accepted}")
    header = unpacked(frame[LENGTH.size : end])
    if not isinstance(header, list):
        raise InputError(f"frame has a header {shorten(header)}; accepted: a list")
    return header, frame[end:]
