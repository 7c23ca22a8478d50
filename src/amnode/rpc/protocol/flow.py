"""Large values in pieces: so that they delay nothing else, and nobody is flooded.

A value that is too large for a frame of its own is a *body*. It is announced with its size,
sent in chunks, and then referred to by the message that it belongs to:

    Body(7, 33554437)   Chunk(7, ...) Chunk(7, ...) ...   Answer(12, executed, ..., body 7)
                              ▲ updates, other answers and so on go in between
                              ▼
                        Credit(1048576)                     from the receiver, as it takes them

Rules:

1. What is urgent (everything but bodies) leaves first, whatever waits behind it.
2. At most `window` bytes of chunks are on their way: sent, and not yet credited (promise S17).
3. Messages of one *lane* keep their order: one that follows a body in its lane waits for it.
4. A body is in memory once on each side: it is sent as slices of the value that was given, and
   received into the one buffer that its announcement made.
5. Bodies that are not complete, or not claimed, have at most `limit` bytes together, and are
   few. One that is announced costs nothing before its bytes come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from io import BytesIO
from typing import Final, TypeAlias, TypeGuard

import msgspec

from amnode.errors import ProtocolError
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.wire import Large, Value

Buffer: TypeAlias = "bytes | memoryview"
#: What a connection is to write: one piece, or several in order.
Outgoing: TypeAlias = "bytes | Sequence[Buffer]"
#: Makes the frame of a message from its value.
Finish: TypeAlias = Callable[[msgspec.Raw], bytes]

#: A part of the window that is not worth a chunk, unless nothing is on its way.
_SMALLEST_SHARE: Final = 4
#: Bodies that a peer may have under way at once; an `Outbox` has one.
_MOST_BODIES: Final = 64


class _Entry:
    """One message that leaves after its body, or after what is before it in its lane."""

    __slots__ = ("begun", "finish", "key", "lane", "number", "parts", "size", "value")

    def __init__(self, lane: Hashable, key: Hashable, value: Value, finish: Finish) -> None:
        self.lane = lane
        self.key = key
        self.value = value
        self.finish = finish
        self.parts: list[memoryview] = []
        self.size = value.size if isinstance(value, Large) else memoryview(value).nbytes
        self.number = 0
        self.begun = False

    def next(self, most: int) -> memoryview:
        """At most so many bytes of what is left."""
        part = self.parts[0]
        if part.nbytes <= most:
            return self.parts.pop(0)
        self.parts[0] = part[most:]
        return part[:most]


class Outbox:
    """What one side of a connection has to say, in the order in which it is to leave.

    Args:
        chunk: the most bytes of a chunk; a larger value becomes a body.
        window: the most bytes of chunks on their way (rule 2).

    Attributes:
        urgent: bytes that leave with the next `take`, whatever the peer credits.
        later: bytes of bodies, and of what waits for them, that have not left.
    """

    def __init__(self, chunk: int, window: int) -> None:
        self._chunk = chunk
        self._window = window
        self._urgent: list[bytes] = []
        self.urgent = 0
        self._later: deque[_Entry] = deque()
        self._lanes: dict[Hashable, int] = {}
        self.later = 0
        self._numbers = 0
        self._on_the_way = 0

    @property
    def queued(self) -> int:
        """Bytes that wait to leave, bodies included."""
        return self.urgent + self.later

    @property
    def on_the_way(self) -> int:
        """Bytes of chunks that were sent and not credited."""
        return self._on_the_way

    @property
    def ready(self) -> bool:
        """Whether `take` would give something."""
        if not self._later:
            return bool(self._urgent)
        return bool(self._urgent) or self._room() > 0

    def put(self, frame: bytes) -> None:
        """A frame that leaves with the next `take`."""
        self._urgent.append(frame)
        self.urgent += len(frame)

    def passes(self, value: Value, lane: Hashable) -> TypeGuard[msgspec.Raw]:
        """Whether a message with this value may be `put` at once, without `put_value`."""
        return (
            type(value) is msgspec.Raw and len(value) <= self._chunk and lane not in self._lanes
        )

    def put_value(self, lane: Hashable, key: Hashable, value: Value, finish: Finish) -> None:
        """A message with a value, which goes in chunks if it is large.

        Args:
            lane: messages of one lane keep their order (rule 3).
            key: what `drop` and `waits` know it by.
            value: the value.
            finish: makes the frame, once it is known how the value goes.
        """
        small = self._small(value)
        if small is not None and lane not in self._lanes:
            self.put(finish(small))
            return
        entry = _Entry(lane, key, value if small is None else small, finish)
        if small is None:
            entry.parts = _parts(value)
        self._later.append(entry)
        self._lanes[lane] = self._lanes.get(lane, 0) + 1
        self.later += entry.size

    def waits(self, key: Hashable) -> bool:
        """Whether a message has not left."""
        return any(entry.key == key for entry in self._later)

    def drop(self, key: Hashable) -> bool:
        """Takes a message back that has not left; False if it has, or there is none."""
        for entry in self._later:
            if entry.key == key:
                self._remove(entry)
                self._drop_body(entry)
                return True
        return False

    def replace(self, key: Hashable, frame: bytes) -> bool:
        """Puts a frame in the place of a message that has not left; False as for `drop`."""

        def finish(_raw: msgspec.Raw) -> bytes:
            return frame

        for entry in self._later:
            if entry.key == key:
                self._drop_body(entry)
                self.later -= entry.size
                entry.key, entry.value, entry.parts, entry.size = None, wire.NIL, [], 0
                entry.finish = finish
                return True
        return False

    def _drop_body(self, entry: _Entry) -> None:
        if entry.begun:
            self.put(wire.to_frame(wire.Drop(entry.number)))

    def credit(self, size: int) -> None:
        """The peer took so many bytes of chunks.

        Raises:
            ProtocolError: more than are on their way.
        """
        if size > self._on_the_way:
            raise ProtocolError(
                f"A credit of {size} bytes; {self._on_the_way} are on their way."
            )
        self._on_the_way -= size

    def take(self, most: int) -> Outgoing:
        """What is to be written now: all that is urgent, and at most `most` bytes of bodies."""
        urgent, self.urgent = self._urgent, 0
        frames = urgent[0] if len(urgent) == 1 else b"".join(urgent)
        urgent.clear()
        if not self._later:
            return frames
        pieces: list[Buffer] = [frames] if frames else []
        while self._later and most > 0:
            sent = self._advance(self._later[0], most, pieces)
            if sent < 0:
                break
            most -= sent
        return pieces

    def _advance(self, entry: _Entry, most: int, pieces: list[Buffer]) -> int:
        """Sends the next piece of a message; returns its size, or -1 if it has to wait."""
        reference = None
        size = 0
        if entry.parts:
            room = min(self._room(), most)
            if room <= 0:
                return -1
            if not entry.begun:
                entry.begun = True
                self._numbers += 1
                entry.number = self._numbers
                pieces.append(wire.to_frame(wire.Body(entry.number, entry.size)))
            piece = entry.next(min(room, self._chunk))
            size = piece.nbytes
            pieces += (wire.chunk_header(entry.number, size), piece)
            self._on_the_way += size
            entry.size -= size
            self.later -= size
            if entry.parts:
                return size
            reference = wire.body_reference(entry.number)
        self._remove(entry)
        value = entry.value
        if reference is None:
            reference = value if isinstance(value, msgspec.Raw) else wire.NIL
        pieces.append(entry.finish(reference))
        return size

    def _remove(self, entry: _Entry) -> None:
        self._later.remove(entry)
        self.later -= entry.size
        left = self._lanes.pop(entry.lane) - 1
        if left:
            self._lanes[entry.lane] = left

    def _room(self) -> int:
        """Bytes of chunks that may leave; a sliver of the window waits for more (rule 2)."""
        room = self._window - self._on_the_way
        return room if room * _SMALLEST_SHARE >= self._window else 0

    def _small(self, value: Value) -> msgspec.Raw | None:
        """The value, if it fits into its frame."""
        if isinstance(value, Large):  # to join it would be to copy it
            return None
        return value if memoryview(value).nbytes <= self._chunk else None


def _parts(value: Value) -> list[memoryview]:
    parts = value.parts if isinstance(value, Large) else (value,)
    return [memoryview(part) for part in parts]


class _Body:
    """A body that comes in."""

    __slots__ = ("at", "data", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        # Pages that the system gives when they are written to, where bytearray writes zeros.
        self.data = BytesIO(bytes(size)).getbuffer()
        self.at = 0


class Inbox:
    """The bodies that come in on one side of a connection.

    Args:
        limit: the most bytes of bodies that are not claimed (rule 5).
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bodies: dict[int, _Body] = {}
        self._last = 0
        self._held = 0
        self._taken = 0

    @property
    def held(self) -> int:
        """Bytes of all bodies that are not claimed."""
        return self._held

    def begin(self, number: int, size: int) -> None:
        """A body was announced.

        Raises:
            ProtocolError: its number is not above the last, or the bodies are too many or too
                large.
        """
        if number <= self._last:
            raise ProtocolError(f"Body {number} after body {self._last}; numbers must rise.")
        if len(self._bodies) >= _MOST_BODIES:
            raise ProtocolError(f"More than {_MOST_BODIES} bodies are under way at once.")
        if self._held + size > self._limit:
            raise ProtocolError(
                f"A body of {size} bytes beside {self._held} more; body_limit allows "
                f"{self._limit}."
            )
        self._last = number
        self._held += size
        self._bodies[number] = _Body(size)

    def place(self, number: int, size: int) -> memoryview:
        """Where the next `size` bytes of a body belong.

        Raises:
            ProtocolError: there is no such body, or it has no room for them.
        """
        body = self._bodies.get(number)
        if body is None:
            raise ProtocolError(f"A chunk of body {number}, which was not announced.")
        if body.at + size > body.size:
            raise ProtocolError(
                f"A chunk of {size} bytes for body {number}, of which "
                f"{body.size - body.at} are left."
            )
        return body.data[body.at : body.at + size]

    def placed(self, number: int, size: int) -> None:
        """So many bytes are where `place` said."""
        self._bodies[number].at += size
        self._taken += size

    def chunk(self, number: int, data: bytes) -> None:
        """A chunk that came with the rest of the bytes.

        Raises:
            ProtocolError: see `place`.
        """
        self.place(number, len(data))[:] = data
        self.placed(number, len(data))

    def drop(self, number: int) -> None:
        """The rest of a body will not come.

        Raises:
            ProtocolError: there is no such body.
        """
        body = self._bodies.pop(number, None)
        if body is None:
            raise ProtocolError(f"A drop of body {number}, which was not announced.")
        self._held -= body.size

    def claim(self, value: msgspec.Raw) -> msgspec.Raw:
        """The value itself, or the body that it refers to.

        Raises:
            ProtocolError: there is no such body, or it is not complete.
        """
        if len(value) != wire.REFERENCE_SIZE or (number := wire.body_number(value)) is None:
            return value
        body = self._bodies.pop(number, None)
        if body is None:
            raise ProtocolError(f"A message with body {number}, which was not announced.")
        if body.at < body.size:
            raise ProtocolError(
                f"A message with body {number}, of which {body.size - body.at} bytes lack."
            )
        self._held -= body.size
        return msgspec.Raw(body.data)

    def due(self) -> int:
        """The credit that is to be given back now: all, for the peer's window may be small."""
        taken, self._taken = self._taken, 0
        return taken
