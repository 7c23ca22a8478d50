from __future__ import annotations

import contextlib
import ctypes
from array import array

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from amnode.errors import DeliveryError, ErrorData, JobFailed, ProtocolError, RpcError
from amnode.rpc.protocol import wire


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "little") + body


def drain(framer: wire.Framer) -> list[bytes]:
    found: list[bytes] = []
    while (body := framer.next()) is not None:
        found.append(body)
    return found


bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


@given(bodies, st.data())
def test_any_split_gives_the_same_frames(sent: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(frame, sent))
    framer, got, at = wire.Framer(40), list[bytes](), 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        framer.feed(stream[at : at + size])
        got += drain(framer)
        at += size
    assert got == sent
    assert framer.kept == 0


def test_bytes_fed_before_the_last_ones_were_taken_are_not_lost() -> None:
    framer = wire.Framer(10)
    framer.feed(frame(b"a") + frame(b"b"))
    assert framer.next() == b"a"
    framer.feed(frame(b"c"))
    assert drain(framer) == [b"b", b"c"]


@pytest.mark.parametrize("size", [0, 11, 2**32 - 1])
def test_a_length_is_refused_before_anything_is_kept(size: int) -> None:
    framer = wire.Framer(10)
    framer.feed(size.to_bytes(4, "little"))
    with pytest.raises(ProtocolError, match=str(size)):
        framer.next()
    assert framer.kept <= 4


def test_the_limit_itself_is_allowed_and_a_changed_limit_applies_to_the_next_frame() -> None:
    framer = wire.Framer(10)
    framer.feed(frame(b"x" * 10) + frame(b"y" * 11))
    assert framer.next() == b"x" * 10
    framer.limit = 11
    assert framer.next() == b"y" * 11


def test_an_unfinished_frame_keeps_only_what_came() -> None:
    framer = wire.Framer(1 << 20)
    framer.feed((1 << 20).to_bytes(4, "little") + b"x")
    assert framer.next() is None
    assert framer.kept == 5


def test_every_message_has_a_tag_of_its_own_and_survives_the_wire() -> None:
    difference = wire.Difference([0, 1, 3, 2], 1, 99)
    clock = wire.ClockData(0, 5, [1, 2], 7)
    state = wire.SchemaState("A", 3, ["B"], ["C"], ["D"], ["E"], ["t"])
    samples: list[wire.Message] = [
        wire.Hello(wire.VERSION, "c", wire.Role.OBSERVER, b"n" * 32, b"", 0),
        wire.Challenge(wire.VERSION, "s", b"n" * 32, False, 0),
        wire.Proof(b"p" * 32),
        wire.Welcome(b"p" * 32),
        wire.Subscribe(b"", ["A"], 0, 0),
        wire.Synced("m", b"i" * 16, ["A"], [state], [0], clock),
        wire.Failure(wire.WireError("RpcError", "no", {})),
        wire.Goodbye("why"),
        wire.Mutate(1, 2, [0], msgspec.Raw(b"\x01")),
        wire.Answer(1, wire.Outcome.CANCELED, difference, wire.NIL),
        wire.Cancel(1),
        wire.Update(difference),
        wire.Resync(),
        wire.Snapshot(clock),
        wire.Payload(1, "p", msgspec.Raw(b"\x90")),
        wire.Alive(),
        wire.Step(difference, 3, [0, 1]),
        wire.Ack(4, 5),
        wire.Body(1, 10),
        wire.Chunk(1, b"abc"),
        wire.Drop(1),
        wire.Credit(10),
        wire.Item(1, 2, msgspec.Raw(b"\x91\x01")),
        wire.Allow(1, 2, 3),
        wire.End(1, wire.WireError("RpcError", "no", {"a": "b"})),
        wire.Stop(1),
    ]
    tags = {wire.to_frame(sample)[5] for sample in samples}
    assert len(tags) == len(samples) == len(wire.Message.__subclasses__())
    for sample in samples:
        assert wire.from_frame(wire.to_frame(sample)[4:]) == sample
        assert type(wire.from_frame(wire.to_frame(sample)[4:])) is type(sample)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\x80",  # a map
        b"\x90",  # no tag
        b"\x91\x63",  # an unknown tag
        b"\x92\x14\x01",  # Resync with a surplus field
        b"\x91\x12",  # Cancel without a number
        b"\x92\x12\x00",  # Cancel of number 0
        b"\x92\x12\xff",  # of a negative number
        b"\x92\x12\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",  # of NaN
        b"\x92\x12\xcf\xff\xff\xff\xff\xff\xff\xff\xff",  # beyond 63 bits
        b"\x92\x08\xa2\xff\xfe",  # bad UTF-8
        b"\x92\x08\xdb\xff\xff\xff\xff",  # a text of 4 GiB that is not there
        b"\x95\x10\x01\x00\xdd\xff\xff\xff\xff\xc0",  # 4 Gi states
        b"\x95\x10\x01\x07\x91\x00\xc0",  # an unknown mutation type
        b"\x95\x10\x01\x00\x91\xcd\x40\x00\xc0",  # a state that no schema can have
        b"\x95\x10\x01\x00\x91\x00\xc1",  # a byte that is no msgpack
        b"\x91\x14\x00",  # a trailing byte
    ],
)
def test_what_is_no_message_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        wire.from_frame(body)


def test_a_million_deep_and_a_million_wide_values_end_in_an_error() -> None:
    start = b"\x95\x10\x01\x00"
    with pytest.raises(ProtocolError):
        wire.from_frame(start + b"\x91\x00" + b"\x91" * 10**6 + b"\xc0")
    with pytest.raises(ProtocolError):
        wire.from_frame(start + b"\xdd\x00\x0f\x42\x40" + b"\x00" * 10**6 + b"\xc0")


@given(st.binary(max_size=60))
def test_random_bytes_raise_nothing_but_protocol_errors(body: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        wire.from_frame(body)


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "a\x00b", "\x1b[31m"])
def test_an_id_with_control_characters_or_a_wrong_length_is_refused(name: str) -> None:
    hello = wire.to_frame(wire.Hello(wire.VERSION, name, wire.Role.OBSERVER, b"n" * 32, b"", 0))
    with pytest.raises(ProtocolError):
        wire.from_frame(hello[4:])


def test_an_error_crosses_by_name_with_its_fields() -> None:
    error = JobFailed("it broke", error_type="KeyError", traceback="here")
    again = wire.error_from_raw(wire.error_to_raw(error))
    assert isinstance(again, JobFailed)
    assert (str(again), again.error_type, again.traceback) == ("it broke", "KeyError", "here")


def test_an_error_of_a_class_that_this_side_lacks_arrives_as_the_root_of_its_layer() -> None:
    data = ErrorData("os.system", "rm", {"x": "y"})
    error = wire.error_from_wire(wire.WireError(data.name, data.message, data.detail))
    assert type(error) is RpcError
    with pytest.raises(ProtocolError):
        wire.error_from_raw(msgspec.Raw(b"\x91\x01"))


# -- values ------------------------------------------------------------------------------

LARGE = 64 * 1024


def joined(value: wire.Value) -> bytes:
    return b"".join(value.parts) if isinstance(value, wire.Large) else bytes(value)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 5, LARGE - 1, LARGE, LARGE + 7])
def test_bytes_cross_as_bytes_and_large_ones_are_not_copied(
    kind: type[bytes], size: int
) -> None:
    data = kind(bytes(size))
    value = wire.encode(data, "It")
    assert isinstance(value, wire.Large) == (size >= LARGE)
    assert msgspec.msgpack.decode(joined(value)) == bytes(data)
    if isinstance(value, wire.Large):
        view = value.parts[1]
        assert isinstance(view, memoryview)
        assert view.obj is (data.obj if isinstance(data, memoryview) else data)
        assert value.size == size + 5


@pytest.mark.parametrize("size", [3, 20_000])
def test_whatever_has_a_buffer_in_one_piece_crosses_as_its_bytes(size: int) -> None:
    numbers = array("d", range(size))  # as a NumPy array would
    value = wire.encode(numbers, "It")
    assert isinstance(value, wire.Large) == (numbers.itemsize * size >= LARGE)
    assert msgspec.msgpack.decode(joined(value)) == numbers.tobytes()
    shaped = memoryview(bytes(12)).cast("B", (3, 4))
    assert msgspec.msgpack.decode(joined(wire.encode(shaped, "It"))) == bytes(12)


@pytest.mark.parametrize("size", [10, 2 * LARGE])
def test_a_buffer_with_gaps_is_refused(size: int) -> None:
    numbers = array("i", range(size))
    with pytest.raises(DeliveryError, match=r"It cannot be .* in one piece; copy it first"):
        wire.encode(memoryview(numbers)[::2], "It")


def test_an_empty_buffer_of_any_shape_crosses() -> None:
    empty = memoryview(bytes(12)).cast("B", (3, 4))[:0]
    assert msgspec.msgpack.decode(joined(wire.encode(empty, "It"))) == b""


def test_a_released_view_is_refused() -> None:
    view = memoryview(b"gone")
    view.release()
    with pytest.raises(DeliveryError, match="It cannot be encoded"):
        wire.encode(view, "It")


def test_pointers_do_not_cross() -> None:
    pointers = (ctypes.py_object * 3)(1, 2, 3)
    with pytest.raises(DeliveryError, match="its elements are pointers"):
        wire.encode(pointers, "It")


def test_text_that_is_no_unicode_is_written_out_in_errors() -> None:
    told = wire.error_to_wire(RpcError("a file named \udcff"))
    assert told.message == "a file named \\udcff"
    assert str(wire.error_from_raw(wire.error_to_raw(RpcError("\udcff")))) == "\\udcff"


def test_a_buffer_over_4_gib_is_refused() -> None:
    class Huge:
        nbytes = 1 << 32
        format = "B"

        def cast(self, _format: str) -> Huge:
            return self

    with pytest.raises(DeliveryError, match="4294967296 bytes; a value may have 4 GiB"):
        wire._buffer_value(Huge(), "It")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [object(), 1 << 64, {1: object()}])
def test_what_cannot_be_encoded_is_refused_with_its_name_and_why(value: object) -> None:
    with pytest.raises(DeliveryError, match="It cannot be encoded"):
        wire.encode(value, "It")


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(DeliveryError, match="It cannot be encoded"):
        wire.encode(value, "It")


def test_nil_and_raw_values_are_as_they_are() -> None:
    raw = msgspec.Raw(b"\x2a")
    assert wire.encode(None, "It") is wire.NIL
    assert wire.encode(raw, "It") is raw
    assert joined(wire.Large(b"\xc4\x02", b"ab")) == b"\xc4\x02ab"


def test_the_extension_that_stands_for_a_body_is_the_protocols_own() -> None:
    for value in (wire.body_reference(7), msgspec.msgpack.Ext(1, b"abcd")):
        with pytest.raises(DeliveryError, match="extension 1"):
            wire.encode(value, "It")
    for fine in (msgspec.msgpack.Ext(1, b"abc"), msgspec.msgpack.Ext(2, b"abcd")):
        assert wire.body_number(msgspec.Raw(joined(wire.encode(fine, "It")))) is None


# -- bodies ------------------------------------------------------------------------------


@given(st.integers(1, 0xFFFF_FFFF))
def test_a_reference_says_the_number_of_its_body(number: int) -> None:
    assert wire.body_number(wire.body_reference(number)) == number
    again = msgspec.msgpack.decode(bytes(wire.body_reference(number)))
    assert again == msgspec.msgpack.Ext(1, number.to_bytes(4, "little"))


def test_other_values_stand_for_themselves() -> None:
    for value in (b"\xc0", b"\xd6\x02abcd", b"\xa5hello"):
        assert wire.body_number(msgspec.Raw(value)) is None


@given(st.integers(1, 0xFFFF_FFFF), st.binary(max_size=300))
def test_the_header_of_a_chunk_makes_a_frame_like_any_other(number: int, data: bytes) -> None:
    whole = wire.chunk_header(number, len(data)) + data
    assert int.from_bytes(whole[:4], "little") == len(whole) - 4
    assert wire.from_frame(whole[4:]) == wire.Chunk(number, data)
    size = len(whole) - 4
    assert wire.chunk_of(whole[4:16], size) == (number, len(data))
    assert wire.chunk_of(whole[4:15], size) is None
    assert wire.chunk_of(whole[4:], size + 1) is None


def test_a_chunk_that_is_written_otherwise_goes_the_usual_way() -> None:
    short = wire.to_frame(wire.Chunk(1, b"x" * 20))[4:]
    assert wire.chunk_of(short, len(short)) is None
    other = bytearray(wire.chunk_header(1, 20)[4:])
    other[7] = 0xC5  # 16 bits of length
    assert wire.chunk_of(other, 32) is None


def test_the_rest_of_a_chunk_can_be_taken_before_it_is_whole() -> None:
    framer = wire.Framer(1000)
    whole = wire.chunk_header(5, 100) + bytes(range(100))
    framer.feed(frame(b"a") + whole[:40])
    assert framer.next() == b"a" and framer.lacking == 0
    assert framer.next() is None
    assert framer.lacking == len(whole) - 40
    assert framer.chunk() == (5, 100)
    assert framer.take_chunk() == bytes(range(24))
    assert framer.kept == framer.lacking == 0
    framer.feed(frame(b"b"))  # what follows, once the rest went elsewhere
    assert framer.next() == b"b"


def test_the_start_of_a_large_frame_is_kept_as_it_came() -> None:
    data = bytes(range(256)) * 400
    whole = wire.chunk_header(5, len(data)) + data
    framer = wire.Framer(1 << 20)
    start = frame(b"a") + whole[:50_000]
    framer.feed(start)
    assert framer.next() == b"a" and framer.next() is None
    assert framer.kept == 50_000 and framer.unfinished
    taken = framer.take_chunk()
    assert isinstance(taken, memoryview) and taken.obj is start
    assert taken == data[: 50_000 - 16] and not framer.unfinished
    framer.feed(whole[:50_000])
    assert framer.next() is None
    framer.feed(whole[50_000:])
    assert framer.next() == whole[4:]
    assert framer.kept == 0


@given(st.binary(min_size=1, max_size=30), st.binary(max_size=40))
def test_a_frame_that_comes_alone_needs_no_cutting(body: bytes, other: bytes) -> None:
    framer = wire.Framer(30)
    assert framer.single(frame(body)) == body
    assert framer.single(frame(body)[:-1]) is None
    assert framer.single(frame(body) + frame(body)) is None
    assert framer.single(frame(body + bytes(30))) is None  # too large: `next` says so
    if int.from_bytes(other[:4], "little") != len(other) - 4:
        assert framer.single(other) is None
    framer.feed(frame(body)[:3])
    assert framer.next() is None and framer.single(frame(body)) is None
    framer.feed(frame(body)[3:])
    assert framer.single(frame(body)) is None  # another is before it
    assert framer.next() == body


def test_a_frame_that_is_no_chunk_is_not_taken_for_one() -> None:
    framer = wire.Framer(1000)
    framer.feed(frame(b"x" * 100)[:50])
    assert framer.next() is None and framer.chunk() is None


def test_an_error_frame_names_no_class_of_ours_by_accident() -> None:
    error = wire.error_to_wire(RpcError("no"))
    assert wire.error_from_wire(error).args == ("no",)
    assert wire.describe(wire.Alive()) == "Alive"
