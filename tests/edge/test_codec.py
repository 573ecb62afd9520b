"""What crosses a border: every value comes back, and nothing that anyone sends does harm."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import msgpack
import numpy as np
import pytest
from hypothesis import given, settings

from mrlato_jax.edge import codec
from mrlato_jax.edge.codec import packed, unpacked
from mrlato_jax.errors import InputError

scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
arrays = hnp.arrays(st.sampled_from(codec.DTYPES), hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
values = st.recursive(
    scalars | arrays, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return (
            isinstance(right, np.ndarray)
            and left.dtype == right.dtype
            and left.shape == right.shape
            and np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
        )
    if isinstance(left, list | tuple):
        return isinstance(right, list) and len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return type(left) is type(right) and left == right


@given(values)
def test_what_is_sent_is_what_arrives(value: Any) -> None:
    assert same(value, unpacked(packed(value)))


def test_tuples_numpy_numbers_and_arrays_of_other_layouts() -> None:
    assert unpacked(packed((1, (2.5, "x")))) == [1, [2.5, "x"]]
    assert unpacked(packed(np.float32(0.5))).dtype == np.float32
    for array in (np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(9)[::2], np.arange(3, dtype=">i4")):
        got = unpacked(packed(array))
        np.testing.assert_array_equal(got, array)
        assert not got.flags.writeable
    assert math.isnan(unpacked(packed(math.nan)))


@pytest.mark.parametrize(
    ("value", "phrase"),
    [
        (object(), "value cannot be sent"),
        (lambda: 0, "value cannot be sent"),
        ({1: 2}, "message|value"),
        (2**64, "value cannot be sent"),
        (np.array([object()]), "value cannot be sent"),
        (np.zeros((1,) * 9), "value cannot be sent"),
        (1j, "value cannot be sent"),
    ],
)
def test_what_is_no_data_is_not_sent(value: Any, phrase: str) -> None:
    with pytest.raises(InputError, match=phrase):
        unpacked(packed(value))


def nested(levels: int) -> bytes:
    return b"\x91" * levels + b"\xc0"


def array_of(*claims: Any) -> bytes:
    return msgpack.packb(msgpack.ExtType(codec.ARRAY, msgpack.packb(list(claims))))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",  # four billion entries, none of them there
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        nested(codec.MOST_DEPTH + 1),
        nested(100_000),
        packed(1) + packed(2),
        msgpack.packb(msgpack.ExtType(7, b"x")),
        array_of("float64", [2**62, 4], b""),
        array_of("float64", [-1], b""),
        array_of("float64", [True], b"\0" * 8),
        array_of("object", [1], b"\0" * 8),
        array_of("float64", [1] * 9, b"\0" * 8),
        array_of("float64", [1]),
        msgpack.packb({1: 2}),
        msgpack.packb(msgpack.Timestamp(1)),
    ],
    ids=range(17),
)
def test_hostile_messages_are_refused(message: bytes) -> None:
    with pytest.raises(InputError):
        unpacked(message)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_an_input_error(message: bytes) -> None:
    try:
        value = unpacked(message)
    except InputError:
        return
    assert same(value, unpacked(packed(value))) or "nan" in repr(value)


def test_a_message_beyond_the_bound_is_not_parsed() -> None:
    with pytest.raises(InputError, match="message has 102 bytes; accepted: at most 64"):
        unpacked(packed(b"\0" * 100), most_bytes=64)
