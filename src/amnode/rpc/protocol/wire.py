"""Frames and messages: how every byte between two machines is laid out.

A *frame* is a 4-byte little-endian length (of what follows; never 0) and one msgpack array: the
tag of the message, then its fields in order, every one present.

    tag  message    from    fields
    ---  ---------  ------  -----------------------------------------------------------------
     1   Hello      client  version int, client_id text, role text, nonce 32 bytes
     2   Challenge  server  version int, server_id text, nonce 32 bytes
     3   Proof      client  proof 32 bytes (auth.py)
     4   Welcome    server  proof 32 bytes
     5   Subscribe  client  schema_hash 0 or 32 bytes, states [text ...] or nil for all
     6   Synced     server  machine_id text, names [text ...],
                            schema nil or [state ...], clock (state, clock: below)
     7   Failure    both    error (below); the sender closes after it
     8   Goodbye    both    reason text; the sender closes after it
    16   Mutate     client  seq int, type int (0 add, 1 remove, 2 set, 3 toggle),
                            states [index ...], args any or nil
    17   Answer     server  seq int, outcome int (0 executed, 1 canceled, 2 error),
                            difference or nil, value any or nil (outcome 2: an error)
    18   Cancel     client  seq int
    19   Update     server  difference
    20   Resync     client
    21   Snapshot   server  clock
    22   Payload    server  name text, data any

    state       [name, flags, [require ...], [add ...], [remove ...], [after ...], [tag ...]]
    difference  [[index, increment, index, increment ...], queue increment, checksum]
    clock       [machine tick, queue tick, [tick ...], checksum]
    error       [class name, message, {attribute: text}]

Flags of a state: 1 auto, 2 multi. An index is a position in the ordered names of the *source*,
whatever the client subscribed to; the ticks of a clock are those of the subscribed states, in
that order. `sync.py` defines the checksum. "any" is one msgpack value that only its reader
decodes, against the type that it expects.

The rules of this file:

1. A length is checked against the limit before a byte of the frame is kept.
2. A frame is decoded against the table: an unknown tag, a missing, surplus or mistyped field,
   an integer out of range, bad UTF-8 or too deep a nesting is a `ProtocolError` that says so.
3. Tags 9 to 15 and from 23 on are free; a change of what is in the table needs a new version.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from struct import Struct
from typing import Annotated, Any, Final, TypeAlias

import msgspec

from amnode.errors import AmnodeError, DeliveryError, ErrorData, ProtocolError, from_data

#: The version of the protocol; covered by the proofs of the handshake.
VERSION: Final = 1

#: Bytes of the length in front of every frame.
HEADER: Final = 4

_LENGTH: Final = Struct("<I")

#: States of one machine, and so indexes on the wire, are fewer than this.
MAX_STATES: Final = 1 << 14

#: What absent arguments and values look like.
NIL: Final = msgspec.Raw(b"\xc0")


class Role(StrEnum):
    """What a client is there for; the proof of the handshake covers it."""

    OBSERVER = "observer"
    CONTROLLER = "controller"


class Outcome(IntEnum):
    """How a mutation ended."""

    EXECUTED = 0
    CANCELED = 1
    ERROR = 2


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


class Challenge(Message, tag=2, frozen=True):
    """A server says who it is, and gives the client something fresh to prove itself on."""

    version: Natural
    server_id: Identity
    nonce: Nonce


class Proof(Message, tag=3, frozen=True):
    """The client knows the secret."""

    proof: Proof32


class Welcome(Message, tag=4, frozen=True):
    """So does the server."""

    proof: Proof32


class Subscribe(Message, tag=5, frozen=True):
    """What the client knows of the schema (its hash, or nothing) and which states it wants."""

    schema_hash: Annotated[bytes, msgspec.Meta(max_length=32)]
    states: Names | None


class Synced(Message, tag=6, frozen=True):
    """The source as it is; the schema only if the client's hash was another."""

    machine_id: Identity
    names: Names
    schema: Annotated[list[SchemaState], msgspec.Meta(max_length=MAX_STATES)] | None
    clock: ClockData


class Failure(Message, tag=7, frozen=True):
    """What the receiver did wrong, or was refused; the sender closes."""

    error: WireError


class Goodbye(Message, tag=8, frozen=True):
    """An orderly end."""

    reason: str


class Mutate(Message, tag=16, frozen=True):
    """A mutation for the source."""

    seq: Sequence63
    type: MutationCode
    states: Annotated[list[Index], msgspec.Meta(max_length=MAX_STATES)]
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
    """Named data for the client, in order with the state updates."""

    name: Text
    data: msgspec.Raw


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
        TypeError, ValueError, OverflowError, RecursionError: it cannot be encoded.
    """
    return NIL if value is None else msgspec.Raw(_encoder.encode(value))


def encode(value: object, what: str) -> msgspec.Raw:
    """A value as msgpack, for the wire.

    Raises:
        DeliveryError: it cannot be encoded; the message says what and why.
    """
    if isinstance(value, msgspec.Raw):
        return value
    try:
        return to_raw(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise DeliveryError(f"{what} cannot be encoded: {error}.") from error


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
    return WireError(data.name, data.message, data.detail)


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
        self._rest = bytearray()  # an unfinished frame, header included
        self._needed = 0  # bytes in `_rest` that are worth another look

    @property
    def kept(self) -> int:
        """Bytes that are kept because their frame is not complete."""
        return len(self._rest) + len(self._buffer) - self._at

    def feed(self, data: bytes) -> None:
        """Takes bytes as they arrived."""
        if self._at < len(self._buffer):
            self._set_aside(HEADER)
        if not self._rest:
            self._buffer, self._at = data, 0
            return
        self._rest += data
        if len(self._rest) >= self._needed:
            self._buffer, self._at = bytes(self._rest), 0
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

    def _set_aside(self, needed: int) -> None:
        self._rest += self._buffer[self._at :]
        self._buffer, self._at = b"", 0
        self._needed = needed


def describe(message: Any) -> str:
    """The name of a message, for errors."""
    return type(message).__name__
