"""Values as they cross: whatever goes out comes in, large buffers beside the message."""

from __future__ import annotations

import array
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode.node.values import (
    DECODE_ERRORS,
    ENCODE_ERRORS,
    LARGE,
    Codec,
    Packed,
    beside,
    from_wire,
    to_wire,
)
from amnode.rpc.protocol.wire import Large

BIG = LARGE + 3


@dataclass
class Pair:
    a: npt.NDArray[np.float64]
    b: bytes


def cross(packed: Packed) -> tuple[Packed, int]:
    """What arrives, and how many buffers went beside it."""
    sent = to_wire(packed)
    if not isinstance(sent, Large):
        return from_wire(msgspec.Raw(msgspec.msgpack.encode(sent))), 0
    data = b"".join(bytes(part) for part in sent.parts)
    assert len(data) == sent.size
    arrived = from_wire(msgspec.Raw(data))
    for view in arrived.buffers:  # where its elements are aligned, counted from the start
        assert data.index(bytes(view[:64])) % 16 == 0 or view.nbytes < 64
    return arrived, len(arrived.buffers)


def there(kind: Any, value: Any) -> tuple[Any, int]:
    """The value as it comes out, alone and among others alike."""
    alone, count = cross(Codec((kind,), single=True).encode((value,)))
    found = Codec((kind,), single=True).decode(alone)
    codec = Codec((int, kind, str))
    among, again = cross(codec.encode((7, value, "x")))
    seven, other, text = codec.decode(among)
    assert (seven, text, count) == (7, "x", again)
    assert type(other) is type(found)
    return found, count


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("sent", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, LARGE - 1, LARGE, BIG])
def test_a_buffer_is_what_the_annotation_says(kind: Any, sent: Any, size: int) -> None:
    data = bytes(n % 251 for n in range(size))
    found, beside_it = there(kind, sent(data))
    assert type(found) is kind
    assert bytes(found) == data
    assert beside_it == (size >= LARGE)
    assert bytes(there(kind | None, sent(data))[0]) == data


@pytest.mark.parametrize("sent", [bytes, bytearray, memoryview])
def test_where_anything_may_stand_a_large_buffer_is_what_it_was(sent: Any) -> None:
    found, beside_it = there(Any, sent(bytes(BIG)))
    assert (type(found), len(found), beside_it) == (sent, BIG, 1)


def test_what_else_has_the_buffer_protocol_goes_where_bytes_go() -> None:
    numbers = array.array("i", range(BIG))
    assert there(bytes, numbers) == (numbers.tobytes(), 1)
    assert there(bytes, array.array("i", [1]))[0] == array.array("i", [1]).tobytes()
    strided = memoryview(bytes(range(10)))[::2]
    assert there(bytes, strided)[0] == strided.tobytes()
    matrix = np.arange(BIG)
    assert not isinstance(there(Any, matrix)[0], bytes)


def test_without_a_buffer_nothing_is_beside() -> None:
    packed = Codec((int, dict[str, bytes])).encode((1, {"a": bytes(BIG)}))
    assert isinstance(packed.data, bytes) and not packed.buffers
    assert isinstance(to_wire(packed), bytes)
    assert Codec((), single=False).decode(Codec(()).encode(())) == ()


def test_a_missing_optional_buffer_among_large_ones() -> None:
    codec = Codec((bytes | None, bytes | None, memoryview))
    packed, count = cross(codec.encode((None, bytes(BIG), bytes(BIG))))
    first, second, third = codec.decode(packed)
    assert (first, len(second), len(third), count) == (None, BIG, BIG, 2)


arrays = st.sampled_from(
    ["<f8", ">f8", "<f4", "<i2", "|u1", "|b1", "<c16", "<M8[s]", "<U3", "|S4"]
).flatmap(
    lambda dtype: st.tuples(
        st.just(dtype),
        st.lists(st.integers(0, 4), max_size=3),
        st.booleans(),
        st.integers(1, 2),
    )
)


@given(arrays)
def test_an_array_keeps_dtype_shape_and_order(drawn: tuple[str, list[int], bool, int]) -> None:
    dtype, shape, fortran, step = drawn
    size = int(np.prod(shape)) if shape else 1
    made = np.arange(size).astype("i4").astype(np.dtype(dtype) if dtype != "<M8[s]" else "i8")
    array_ = made.astype(dtype).reshape(shape)
    if fortran:
        array_ = np.asfortranarray(array_)
    if array_.ndim:
        array_ = array_[::step]
    found, _ = there(np.ndarray, array_)
    assert (found.dtype, found.shape) == (array_.dtype, array_.shape)
    np.testing.assert_array_equal(found, array_)
    assert not found.flags.writeable


def test_large_arrays_go_beside_wherever_they_are() -> None:
    big = np.arange(float(BIG)).reshape(-1, 1)
    found, count = there(list[np.ndarray], [big, big.T, big[::2], np.zeros(1)])
    assert count == 3
    for got, sent in zip(found, [big, big.T, big[::2], np.zeros(1)], strict=True):
        np.testing.assert_array_equal(got, sent)
        assert got.flags.aligned
    pair, count = there(Pair, Pair(big[:, 0], b"x"))
    assert (count, pair.b) == (1, b"x")
    np.testing.assert_array_equal(pair.a, big[:, 0])
    numbers, count = there(array.array, array.array("d", range(BIG)))
    assert (count, numbers[-1], numbers.typecode) == (1, BIG - 1, "d")


def test_structured_arrays_and_scalars() -> None:
    dtype = np.dtype([("a", "<i4"), ("b", "<f8", (2,)), ("c", [("x", "u1")])])
    found, _ = there(np.ndarray, np.zeros(3, dtype))
    assert found.dtype == dtype
    titled = np.dtype([(("title", "a"), "<i4")])
    assert there(np.ndarray, np.zeros(3, titled))[0].dtype == titled
    assert there(float, np.float64(0.5)) == (0.5, 0)
    assert there(int, np.int16(3)) == (3, 0)
    assert there(Any, [np.bool_(True)]) == ([True], 0)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([object()]), "Python objects"),
        (np.zeros(1, [("a", "O")]), "Python objects"),
        (np.ma.masked_array([1], [True]), "mask"),
        (object(), "object"),
        (memoryview(np.array([object()])), "pointers"),
    ],
)
def test_what_cannot_be_sent(value: Any, said: str) -> None:
    for kind in (Any, bytes):
        with pytest.raises(ENCODE_ERRORS, match=said):
            Codec((kind,)).encode((value,))


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (np.ndarray, [1], r"Expected `ndarray`, got `list` - at `\$\[0\]`"),
        (
            npt.NDArray[np.float64],
            np.zeros(1, "f4"),
            "array of `float64`, got one of `float32`",
        ),
        (bytes, "text", "Expected `bytes`"),
        (int, bytes(BIG), "Expected `int`"),
        (Pair, Pair(np.zeros(1, "i4"), b""), r"float64.*\$\[0\]\.a"),
        (array.array, np.zeros(1), "array"),
    ],
)
def test_what_does_not_fit(kind: Any, value: Any, said: str) -> None:
    packed, _ = cross(Codec((Any,)).encode((value,)))
    with pytest.raises(DECODE_ERRORS, match=said):
        Codec((kind,)).decode(packed)
    # Likewise where a large buffer is beside it.
    packed, _ = cross(Codec((Any, bytes)).encode((value, bytes(BIG))))
    with pytest.raises(DECODE_ERRORS, match=said):
        Codec((kind, bytes)).decode(packed)


def test_a_large_buffer_in_the_place_of_something_else() -> None:
    packed, _ = cross(Codec((bytes,)).encode((bytes(BIG),)))
    for kind in (int, str, np.ndarray, list[int]):
        with pytest.raises(DECODE_ERRORS):
            Codec((kind,)).decode(packed)


@given(st.integers(0, 127), st.binary(max_size=30))
def test_whatever_a_peer_sends_is_one_kind_of_error(code: int, data: bytes) -> None:
    raw = msgspec.msgpack.encode((msgspec.msgpack.Ext(code, data),))
    for kind in (Any, bytes, np.ndarray, array.array):
        for buffers in ((), (memoryview(b"x"),)):
            with suppress(*DECODE_ERRORS):
                Codec((kind,)).decode(Packed(raw, buffers))
    with pytest.raises(DECODE_ERRORS):
        from_wire(msgspec.Raw(b"\x01"))


def test_a_buffer_that_did_not_come() -> None:
    packed = Codec((bytes,)).encode((bytes(BIG),))
    with pytest.raises(DECODE_ERRORS):
        Codec((bytes,)).decode(Packed(packed.data))


def test_an_extension_of_nobody_is_left_as_it_is() -> None:
    ext = msgspec.msgpack.Ext(99, b"x")
    assert there(Any, ext) == (ext, 0)


def test_beside_replaces_the_last_empty_array() -> None:
    head = msgspec.msgpack.encode(("a", ()))
    sent = beside(head, [memoryview(b"xyz"), memoryview(b"")])
    whole = b"".join(bytes(part) for part in sent.parts)
    found = msgspec.msgpack.decode(whole)
    assert found[0] == "a"
    assert found[1][1::2] == [b"xyz", b""]
