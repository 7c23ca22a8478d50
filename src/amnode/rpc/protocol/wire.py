"""Frames and messages: how every byte between two machines is laid out.

A *frame* is a 4-byte little-endian length (of what follows; never 0) and one msgpack array: the
tag of the message, then its fields in order, every one present.

    tag  message    from    fields
    ---  ---------  ------  -----------------------------------------------------------------
     1   Hello      client  version int, client_id text, role text, nonce 32 bytes,
                            session 0 or 16 bytes, keepalive int
     2   Challenge  server  version int, server_id text, nonce 32 bytes, resumed bool,
                            keepalive int
     3   Proof      client  proof 32 bytes (auth.py)
     4   Welcome    server  proof 32 bytes
     5   Subscribe  client  schema_hash 0 or 32 bytes, states [text ...] or nil for all,
                            flags int (1 all but these states, 2 shallow clocks, 4 a step for
                            every mutation), interval int
     6   Synced     server  machine_id text, incarnation 16 bytes, names [text ...],
                            schema nil or [state ...], selected nil or [index ...],
                            clock (state, clock: below)
     7   Failure    both    error (below); the sender closes after it
     8   Goodbye    both    reason text; the sender closes after it
     9   Alive      both    (no field): nothing else was to be said for a while
    16   Mutate     client  seq int, type int (0 add, 1 remove, 2 set, 3 toggle, 4 can add,
                            5 can remove, 6 when args), states [index ...], args any or nil
    17   Answer     server  seq int, outcome int (0 executed, 1 canceled, 2 error, 3 unknown),
                            difference or nil, value any or nil (outcome 2: an error; 3: true if
                            it is known to have been executed)
    18   Cancel     client  seq int
    19   Update     server  difference
    20   Resync     client
    21   Snapshot   server  clock
    22   Payload    server  number int, name text, data any
    23   Step       server  difference, type int, called [index ...]
    24   Ack        client  answers int, payloads int
    25   Body       both    number int, size int
    26   Chunk      both    number int, data bytes
    27   Drop       both    number int
    28   Credit     both    size int
    29   Item       both    seq int, number int, data any
    30   Allow      both    seq int, items int, size int
    31   End        client  seq int, error or nil
    32   Stop       server  seq int

    state       [name, flags, [require ...], [add ...], [remove ...], [after ...], [tag ...]]
    difference  [[index, increment, index, increment ...], queue increment, checksum]
    clock       [machine tick, queue tick, [tick ...], checksum]
    error       [class name, message, {attribute: text}]

Flags of a state: 1 auto, 2 multi. An index is a position in the ordered names of the *source*,
whatever the client subscribed to; the ticks of a clock are those of the subscribed states, in
that order. `sync.py` defines the checksum. Times (keepalive, interval) are milliseconds, and 0
means none. "any" is one msgpack value that only its reader decodes, against the type that it
expects; if it is the extension of type 1, whose 4 bytes are a number (little-endian), then the
value is the body of that number, which came before in chunks (`flow.py`).

The rules of this file:

1. A length is checked against the limit before a byte of the frame is kept.
2. A frame is decoded against the table: an unknown tag, a missing, surplus or mistyped field,
   an integer out of range, bad UTF-8 or too deep a nesting is a `ProtocolError` that says so.
3. Tags 10 to 15 and from 33 on are free; a change of what is in the table needs a new version.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag, StrEnum
from struct import Struct
from typing import Annotated, Any, Final, TypeAlias, cast

import msgspec

from amnode.errors import AmnodeError, DeliveryError, ErrorData, ProtocolError, from_data

#: The version of the protocol; covered by the proofs of the handshake.
VERSION: Final = 2

#: Bytes of the length in front of every frame.
HEADER: Final = 4

_LENGTH: Final = Struct("<I")

#: States of one machine, and so indexes on the wire, are fewer than this.
MAX_STATES: Final = 1 << 14

#: Bytes of an unfinished frame from which they are kept where they are.
_VIEWED: Final = 32 * 1024
#: Bytes from which a value is not copied to be sent.
_LARGE: Final = 64 * 1024
_BYTES: Final = (bytes, bytearray, memoryview)
#: How the frame of a chunk starts: an array of three, the tag, a number of 4 bytes.
_CHUNK_TAG: Final = b"\x93\x1a\xce"
#: The tag, the number, and how many bytes follow.
_CHUNK_PREFIX: Final = 12
#: An extension of type 1 with 4 bytes.
_REFERENCE: Final = b"\xd6\x01"
#: Bytes of a value that may stand for a body.
REFERENCE_SIZE: Final = 6

#: What absent arguments and values look like.
NIL: Final = msgspec.Raw(b"\xc0")
TRUE: Final = msgspec.Raw(b"\xc3")


class Role(StrEnum):
    """What a client is there for; the proof of the handshake covers it."""

    OBSERVER = "observer"
    CONTROLLER = "controller"


class Outcome(IntEnum):
    """How a mutation ended; UNKNOWN if the server does not remember.

    The value of an UNKNOWN answer is true if the mutation is known to have been executed.
    """

    EXECUTED = 0
    CANCELED = 1
    ERROR = 2
    UNKNOWN = 3


class Request(IntEnum):
    """What a client may ask of a source beside mutations; the types after `MutationType`."""

    CAN_ADD = 4
    CAN_REMOVE = 5
    WHEN_ARGS = 6


class Follow(IntFlag):
    """How a client wants to follow; the flags of `Subscribe`."""

    ALL_BUT = 1
    SHALLOW = 2
    EVERY = 4


Nonce: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Proof32: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=4096)]
Identity: TypeAlias = Annotated[
    str, msgspec.Meta(min_length=1, max_length=200, pattern=r"\A[^\x00-\x1f\x7f-\x9f]+\Z")
]
Natural: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Index: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=MAX_STATES)]
Sequence63: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]
Sum32: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]
MutationCode: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=3)]
RequestCode: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=6)]
BodyNumber: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=0xFFFF_FFFF)]
Incarnation: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
SessionId: TypeAlias = Annotated[bytes, msgspec.Meta(max_length=16)]
Milliseconds: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]
Indexes: TypeAlias = Annotated[list[Index], msgspec.Meta(max_length=MAX_STATES)]
Names: TypeAlias = Annotated[list[Text], msgspec.Meta(max_length=MAX_STATES)]


class Record(
    msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False
):
    """A part of messages; an array without a tag."""


class SchemaState(Record, frozen=True):
    """One state of a schema."""

    name: Text
    flags: Annotated[int, msgspec.Meta(ge=0, le=3)]
    require: Names
    add: Names
    remove: Names
    after: Names
    tags: Names


class Difference(Record, frozen=True):
    """What happened to the subscribed states since the last one; `pairs` is flat."""

    pairs: Annotated[list[Natural], msgspec.Meta(max_length=2 * MAX_STATES)]
    queue: Natural
    checksum: Sum32


class ClockData(Record, frozen=True):
    """The whole time of the subscribed states."""

    machine_tick: Natural
    queue_tick: Natural
    ticks: Annotated[list[Natural], msgspec.Meta(max_length=MAX_STATES)]
    checksum: Sum32


class WireError(Record, frozen=True):
    """An error as data."""

    name: Text
    message: str
    detail: dict[str, str]


class Message(
    msgspec.Struct,
    array_like=True,
    forbid_unknown_fields=True,
    frozen=True,
    gc=False,
    tag_field="tag",
    tag=0,
):
    """Base of what a frame can hold; see the table at the top of the file."""


class Hello(Message, tag=1, frozen=True):
    """A client says who it is, and gives the server something fresh to prove itself on."""

    version: Natural
    client_id: Identity
    role: Role
    nonce: Nonce
    session: SessionId
    keepalive: Milliseconds


class Challenge(Message, tag=2, frozen=True):
    """A server says who it is, and gives the client something fresh to prove itself on."""

    version: Natural
    server_id: Identity
    nonce: Nonce
    resumed: bool
    keepalive: Milliseconds


class Proof(Message, tag=3, frozen=True):
    """The client knows the secret."""

    proof: Proof32


class Welcome(Message, tag=4, frozen=True):
    """So does the server."""

    proof: Proof32


class Subscribe(Message, tag=5, frozen=True):
    """What the client knows of the schema (its hash, or nothing); which states it wants."""

    schema_hash: Annotated[bytes, msgspec.Meta(max_length=32)]
    states: Names | None
    flags: Annotated[int, msgspec.Meta(ge=0, le=7)]
    interval: Milliseconds


class Synced(Message, tag=6, frozen=True):
    """The source as it is; the schema only if the client's hash was another."""

    machine_id: Identity
    incarnation: Incarnation
    names: Names
    schema: Annotated[list[SchemaState], msgspec.Meta(max_length=MAX_STATES)] | None
    selected: Indexes | None
    clock: ClockData


class Failure(Message, tag=7, frozen=True):
    """What the receiver did wrong, or was refused; the sender closes."""

    error: WireError


class Goodbye(Message, tag=8, frozen=True):
    """An orderly end."""

    reason: str


class Alive(Message, tag=9, frozen=True):
    """The sender is there, and has nothing else to say."""


class Mutate(Message, tag=16, frozen=True):
    """A mutation for the source, or another request to it."""

    seq: Sequence63
    type: RequestCode
    states: Indexes
    args: msgspec.Raw


class Answer(Message, tag=17, frozen=True):
    """How a mutation ended, and what else happened up to then."""

    seq: Sequence63
    outcome: Outcome
    difference: Difference | None
    value: msgspec.Raw


class Cancel(Message, tag=18, frozen=True):
    """Nobody waits for the answer to this mutation any more."""

    seq: Sequence63


class Update(Message, tag=19, frozen=True):
    """The source moved on."""

    difference: Difference


class Resync(Message, tag=20, frozen=True):
    """A checksum was wrong; send everything once more."""


class Snapshot(Message, tag=21, frozen=True):
    """The answer to `Resync`."""

    clock: ClockData


class Payload(Message, tag=22, frozen=True):
    """Named data for the client, in order with the state updates unless it is large."""

    number: Sequence63
    name: Text
    data: msgspec.Raw


class Step(Message, tag=23, frozen=True):
    """The source moved on by one mutation, for a client that wants to see each."""

    difference: Difference
    type: MutationCode
    called: Indexes


class Ack(Message, tag=24, frozen=True):
    """All answers, and all payloads, up to these numbers have arrived."""

    answers: Natural
    payloads: Natural


class Body(Message, tag=25, frozen=True):
    """A value that no frame takes follows in chunks; `size` bytes altogether."""

    number: BodyNumber
    size: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]


class Chunk(Message, tag=26, frozen=True):
    """The next bytes of a body."""

    number: BodyNumber
    data: bytes


class Drop(Message, tag=27, frozen=True):
    """The rest of a body does not follow, and nothing will refer to it."""

    number: BodyNumber


class Credit(Message, tag=28, frozen=True):
    """So many bytes of chunks were taken; as many more may be sent."""

    size: Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]


class Item(Message, tag=29, frozen=True):
    """The next item of the stream that belongs to a mutation."""

    seq: Sequence63
    number: Sequence63
    data: msgspec.Raw


class Allow(Message, tag=30, frozen=True):
    """So many items of a stream have arrived; so many bytes of all its items may be sent."""

    seq: Sequence63
    items: Natural
    size: Natural


class End(Message, tag=31, frozen=True):
    """The stream that a client sends has ended; with an error, or well."""

    seq: Sequence63
    error: WireError | None


class Stop(Message, tag=32, frozen=True):
    """Nobody reads the stream that the client sends any more."""

    seq: Sequence63


AnyMessage: TypeAlias = (
    Hello
    | Challenge
    | Proof
    | Welcome
    | Subscribe
    | Synced
    | Failure
    | Goodbye
    | Mutate
    | Answer
    | Cancel
    | Update
    | Resync
    | Snapshot
    | Payload
    | Alive
    | Step
    | Ack
    | Body
    | Chunk
    | Drop
    | Credit
    | Item
    | Allow
    | End
    | Stop
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[AnyMessage] = msgspec.msgpack.Decoder(AnyMessage)
_error_decoder = msgspec.msgpack.Decoder(WireError)

#: What decoding bytes of a stranger may raise; all of it becomes `ProtocolError`.
DECODE_ERRORS: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def to_frame(message: Message) -> bytes:
    """A message as the bytes that cross."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


def from_frame(body: bytes) -> AnyMessage:
    """The message in a frame, without its length.

    Raises:
        ProtocolError: it is none (rule 2).
    """
    try:
        return _decoder.decode(body)
    except DECODE_ERRORS as error:
        raise ProtocolError(f"Not a message of this protocol: {error}.") from None


def to_raw(value: object) -> msgspec.Raw:
    """Any value as msgpack.

    Raises:
        BufferError, TypeError, ValueError, OverflowError, RecursionError: it cannot be encoded.
    """
    return NIL if value is None else msgspec.Raw(_encoder.encode(value))


class Large:
    """A value that is not copied to be sent: the pieces of its msgpack.

    Attributes:
        parts: the buffers, in order.
        size: bytes altogether.
    """

    __slots__ = ("parts", "size")

    def __init__(self, *parts: bytes | memoryview) -> None:
        self.parts = parts
        self.size = sum(memoryview(part).nbytes for part in parts)


#: What the "any" of the table is made of on its way out.
Value: TypeAlias = "msgspec.Raw | Large"


def encode(value: object, what: str) -> Value:
    """A value as msgpack, for the wire.

    Bytes, and whatever else has the buffer protocol and lies in one piece, such as a NumPy
    array, cross as bytes. From 64 KiB on they are not copied, and must not change before they
    are sent.

    Raises:
        DeliveryError: it cannot be encoded; the message says what and why.
    """
    if type(value) is Large:
        return value  # made by who knows where its pieces are
    if type(value) is bytes and REFERENCE_SIZE < len(value) < _LARGE:
        return msgspec.Raw(_encoder.encode(value))
    try:
        if isinstance(value, _BYTES):
            view = memoryview(cast("bytes", value))
            if view.nbytes >= _LARGE:
                return _buffer_value(view, what)
        if value is None:
            return NIL
        raw = value if isinstance(value, msgspec.Raw) else msgspec.Raw(_encoder.encode(value))
    except (BufferError, TypeError, ValueError, OverflowError, RecursionError) as error:
        try:
            view = memoryview(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise DeliveryError(f"{what} cannot be encoded: {error}.") from error
        return _buffer_value(view, what)
    if len(raw) == REFERENCE_SIZE and body_number(raw) is not None:
        raise DeliveryError(f"{what} cannot be encoded: extension 1 is the protocol's own.")
    return raw


def _buffer_value(value: memoryview, what: str) -> Value:
    if any(code in value.format for code in "OP"):
        raise DeliveryError(f"{what} cannot be encoded: its elements are pointers.")
    if not value.nbytes:
        return to_raw(b"")
    try:
        view = value.cast("B")
    except TypeError:
        raise DeliveryError(
            f"{what} cannot be encoded: its bytes do not lie in one piece; copy it first."
        ) from None
    if view.nbytes < _LARGE:
        return to_raw(view)
    if view.nbytes > 0xFFFF_FFFF:
        raise DeliveryError(
            f"{what} cannot be encoded: {view.nbytes} bytes; a value may have 4 GiB."
        )
    return Large(b"\xc6" + view.nbytes.to_bytes(4, "big"), view)


# -- bodies: values in chunks (flow.py) ------------------------------------------------


def chunk_header(number: int, size: int) -> bytes:
    """What stands in front of the bytes of a `Chunk` in its frame; always as long."""
    return (
        _LENGTH.pack(_CHUNK_PREFIX + size)
        + _CHUNK_TAG
        + number.to_bytes(4, "big")
        + b"\xc6"
        + size.to_bytes(4, "big")
    )


def chunk_of(start: bytes | bytearray, size: int) -> tuple[int, int] | None:
    """The body and the bytes of a chunk, from the start of its frame; None if it is none.

    Args:
        start: the frame as far as it is here, without its length.
        size: what its length says.
    """
    if len(start) < _CHUNK_PREFIX or not start.startswith(_CHUNK_TAG):
        return None
    count = int.from_bytes(start[_CHUNK_PREFIX - 4 : _CHUNK_PREFIX], "big")
    if start[_CHUNK_PREFIX - 5] != 0xC6 or count != size - _CHUNK_PREFIX:
        return None
    return int.from_bytes(start[3:7], "big"), count


def body_reference(number: int) -> msgspec.Raw:
    """The value that stands for a body."""
    return msgspec.Raw(_REFERENCE + number.to_bytes(4, "little"))


def body_number(value: msgspec.Raw) -> int | None:
    """The body that a value stands for; None if it stands for itself."""
    if len(value) != REFERENCE_SIZE:
        return None
    data = bytes(value)
    return int.from_bytes(data[2:], "little") if data.startswith(_REFERENCE) else None


def error_to_raw(error: AmnodeError) -> msgspec.Raw:
    """An error as the value of an answer."""
    return msgspec.Raw(_encoder.encode(error_to_wire(error)))


def error_from_raw(value: msgspec.Raw) -> AmnodeError:
    """The error that is the value of an answer.

    Raises:
        ProtocolError: it is none.
    """
    try:
        return error_from_wire(_error_decoder.decode(value))
    except DECODE_ERRORS as error:
        raise ProtocolError(f"Not an error of this protocol: {error}.") from None


def error_to_wire(error: AmnodeError) -> WireError:
    """An error as data; its class crosses by name."""
    data = error.to_data()
    detail = {name: sendable(text) for name, text in data.detail.items()}
    return WireError(data.name, sendable(data.message), detail)


def sendable(text: str) -> str:
    """A text as it may cross: what is no Unicode, as in names of files, is written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def error_from_wire(data: WireError) -> AmnodeError:
    """The exception that the data describes."""
    return from_data(ErrorData(data.name, data.message, data.detail))


class Framer:
    """Cuts a stream of bytes into frames, however the stream was split or joined.

    Feed it what arrived, then call `next` until it returns None. Between two calls `limit` may
    change: it applies to the frames that have not been returned yet.

    Args:
        limit: the most bytes that a frame may have, its length field not counted.
    """

    __slots__ = ("_at", "_buffer", "_needed", "_rest", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = b""  # bytes from `_at` on are not cut yet
        self._at = 0
        # An unfinished frame, header included; a view if that saves a copy worth saving.
        self._rest: bytearray | memoryview = bytearray()
        self._needed = 0  # bytes in `_rest` that are worth another look

    @property
    def kept(self) -> int:
        """Bytes that are kept because their frame is not complete."""
        return len(self._rest) + len(self._buffer) - self._at

    @property
    def unfinished(self) -> bool:
        """Whether the start of a frame is kept."""
        return bool(self._rest)

    def single(self, data: bytes) -> bytes | None:
        """The frame without its length, if these bytes are one frame and none is kept.

        Most of what arrives is that; anything else is for `feed`.
        """
        size = len(data) - HEADER
        if not 0 < size <= self.limit or self._rest or self._at < len(self._buffer):
            return None
        return data[HEADER:] if _LENGTH.unpack_from(data)[0] == size else None

    def feed(self, data: bytes) -> None:
        """Takes bytes as they arrived."""
        if self._at < len(self._buffer):
            self._set_aside(HEADER)
        if not self._rest:
            self._buffer, self._at = data, 0
            return
        rest = self._rest
        if isinstance(rest, memoryview):
            rest = bytearray(rest)
        rest += data
        self._rest = rest
        if len(rest) >= self._needed:
            self._buffer, self._at = bytes(rest), 0
            self._rest = bytearray()

    def next(self) -> bytes | None:
        """The next whole frame without its length, or None if it has not arrived yet.

        Raises:
            ProtocolError: its length is 0 or over the limit (rule 1).
        """
        buffer, at = self._buffer, self._at
        have = len(buffer) - at
        if have < HEADER:
            if have:
                self._set_aside(HEADER)
            return None
        (size,) = _LENGTH.unpack_from(buffer, at)
        if not 0 < size <= self.limit:
            raise ProtocolError(f"A frame of {size} bytes; 1 to {self.limit} are allowed here.")
        if have < HEADER + size:
            self._set_aside(HEADER + size)
            return None
        at += HEADER
        self._at = at + size
        return buffer[at : at + size]

    @property
    def lacking(self) -> int:
        """Bytes that the frame which is not whole yet waits for, as far as is known."""
        return self._needed - len(self._rest) if self._rest else 0

    def chunk(self) -> tuple[int, int] | None:
        """The body and the bytes of the frame that is not whole yet, if it is a chunk.

        To be asked only when `next` has returned None and much is `lacking`.
        """
        (size,) = _LENGTH.unpack_from(self._rest, 0)
        return chunk_of(bytes(self._rest[HEADER : HEADER + _CHUNK_PREFIX]), size)

    def take_chunk(self) -> bytes | bytearray | memoryview:
        """What is here of that chunk's bytes; the rest of its frame goes elsewhere."""
        data = self._rest[HEADER + _CHUNK_PREFIX :]
        self._rest = bytearray()
        return data

    def _set_aside(self, needed: int) -> None:
        rest = memoryview(self._buffer)[self._at :]
        self._rest = rest if rest.nbytes >= _VIEWED else bytearray(rest)
        self._buffer, self._at = b"", 0
        self._needed = needed


def describe(message: Any) -> str:
    """The name of a message, for errors."""
    return type(message).__name__
