"""A connection as two values, bytes in and events out: what both sides share.

    for event in session.receive(data):   # what arrived, however it was split
        ...                               # calls methods of the session
    transport.write(session.to_send())    # what it has to say

Events come one at a time: a frame is read only once the event before it was taken, so that what
a driver does about one (run a mutation, close) is done before the next is looked at. After
`Closed`, nothing more comes, and what is to send is the last.

    phase of a server   expects          phase of a client   expects
    -----------------   --------------   -----------------   -------------------------------
    HELLO               Hello            CHALLENGE           Challenge
    PROOF               Proof            WELCOME             Welcome
    SUBSCRIBE           Subscribe        SYNCED              Synced
    OPEN                Mutate, Cancel,  OPEN                Answer, Update, Step, Payload,
                        Resync, Ack, End                     Snapshot (after a Resync), Stop
    CLOSED              nothing          CLOSED              nothing

In OPEN, both expect Alive, Body, Chunk, Drop, Credit, Item and Allow too. Failure and Goodbye
may come in every phase. Anything else ends the session. This file composes the others of the
package with `client_session.py` and `server_session.py`, and adds no rule but this table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum, auto
from typing import Any, ClassVar, Final, TypeAlias

import msgspec

from amnode.errors import AmnodeError, ConnectionLost, DeliveryError, ProtocolError
from amnode.machine.schema import Schema
from amnode.rpc.address import plain
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.calls import size_of
from amnode.rpc.protocol.flow import Inbox, Outbox, Outgoing
from amnode.rpc.protocol.streams import Receiver, Sender
from amnode.rpc.protocol.wire import Outcome, Role, Value

#: Bytes of bodies that are given to a connection at once.
BURST: Final = 512 * 1024
#: Bytes of a chunk from which it is worth to have it received where it belongs, and not more
#: of the connection with it, however few of them lack.
_SINK_FROM: Final = 32 * 1024


#: Characters of the last words: they have to fit the frame of a peer that proved nothing yet.
_LAST_WORDS: Final = 500


class Phase(Enum):
    """What a session waits for."""

    HELLO = auto()
    PROOF = auto()
    SUBSCRIBE = auto()
    CHALLENGE = auto()
    WELCOME = auto()
    SYNCED = auto()
    OPEN = auto()
    CLOSED = auto()


class Event(msgspec.Struct, frozen=True):
    """Something that a session has to tell its driver."""


class Greeted(Event, frozen=True):
    """Server: a client said hello; nothing is proved yet."""

    client_id: str
    role: Role


class Admitted(Event, frozen=True):
    """Server: the client has proved itself. If it resumes a session, the driver is to give the
    memory of that to `ServerSession.memory` before it goes on.
    """

    session: bytes
    resumed: bool


class Opened(Event, frozen=True):
    """The handshake is done. At a client, the source and its time come with it.

    Attributes:
        machine_id: of the source.
        incarnation: tells that very machine from others of its id.
        schema: of the source.
        selected: the indexes that are followed; None for all.
        pairs: flat pairs of a state's index and its tick; those that are 0 left out.
        resumed: whether the session went on.
    """

    machine_id: str
    incarnation: bytes
    schema: Schema
    selected: tuple[int, ...] | None
    pairs: list[int]
    resumed: bool


class Cancelled(Event, frozen=True):
    """Server: nobody waits for the answer any more, which is still due."""

    seq: int


class Resynced(Event, frozen=True):
    """A checksum was wrong. At a client: everything was asked for; at a server: it was sent."""


class Advanced(Event, frozen=True, gc=False):
    """Client: the source moved: flat pairs of a state's index and its step."""

    pairs: list[int]


class Stepped(Event, frozen=True):
    """Client: the source moved by one mutation of this type, which called these states."""

    pairs: list[int]
    type: int
    called: list[int]


class Answered(Event, frozen=True, gc=False):
    """Client: a mutation ended. `value` is nil, its value, or with ERROR the error."""

    seq: int
    outcome: Outcome
    value: msgspec.Raw


class Delivered(Event, frozen=True):
    """Client: a payload came."""

    name: str
    data: msgspec.Raw


class Announced(Event, frozen=True):
    """A large value is on its way, with so many bytes."""

    size: int


class Streamed(Event, frozen=True):
    """The next item of the stream of a mutation came."""

    seq: int
    data: msgspec.Raw


class Allowed(Event, frozen=True):
    """More items of the stream of a mutation may be sent."""

    seq: int


class StreamEnded(Event, frozen=True):
    """The stream of a mutation is over: at a server, its client has said all (`error` is what
    that ended with); at a client, its server does not read any more.
    """

    seq: int
    error: AmnodeError | None


class Taken(Event, frozen=True):
    """Server: the client has taken payloads."""


class Closed(Event, frozen=True):
    """The connection is over: by the peer, or because of what it sent.

    `ConnectionLost` is an orderly end, after which no session is resumed.
    """

    error: AmnodeError
    by_peer: bool


#: Server: a mutation to run, to be answered by `ServerSession.answer`. The message says it all.
Called: TypeAlias = wire.Mutate
#: What one message means; nothing, or a few events.
Events: TypeAlias = "Sequence[Event | Called]"
Handlers: TypeAlias = dict[type[wire.Message], Callable[[Any, Any], Events]]


class Session:
    """What both sides share: frames, phases, bodies, streams, the end."""

    #: What may come in each phase, and who takes it.
    _phases: ClassVar[dict[Phase, Handlers]]

    def __init__(self, phase: Phase, options: RpcOptions) -> None:
        self._options = options
        self._framer = wire.Framer(options.handshake_frame_limit)
        self._outbox = Outbox(options.chunk, options.credit)
        self._inbox = Inbox(options.body_limit)
        #: Where the rest of a chunk goes: the view, the body and the bytes of the chunk.
        self._sink: tuple[memoryview, int, int] | None = None
        #: Streams whose items may have been lost with the last connection.
        self._doubtful: dict[int, None] = {}
        #: Bytes to be written from which no more frames are looked at.
        self._most_urgent = float("inf")
        #: Whether there may be something to say about what has arrived: see `_received`.
        self._owes = False
        self._open = False
        self._closed = False
        self._enter(phase)

    @property
    def phase(self) -> Phase:
        """What the session waits for."""
        return self._phase

    @property
    def queued(self) -> int:
        """Bytes that wait to be sent."""
        return self._outbox.queued

    @property
    def nothing_queued(self) -> bool:
        """Whether nothing waits to be sent."""
        outbox = self._outbox
        return not (outbox.urgent or outbox.later)

    @property
    def choked(self) -> bool:
        """Whether the peer has to take what it asked for before it is heard again.

        Frames that have arrived are kept; once this is False, `receive` goes on with them.
        """
        return self._outbox.urgent > self._most_urgent

    @property
    def ready(self) -> bool:
        """Whether `to_send` would give something."""
        return self._outbox.ready

    @property
    def has_more(self) -> bool:
        """Whether `to_send` or `sink` would give something."""
        return self._sink is not None or self._outbox.ready

    @property
    def received_bytes_kept(self) -> int:
        """Bytes of what has arrived and could not be told yet."""
        return self._framer.kept + self._inbox.held

    def receive(self, data: bytes) -> Iterable[Event | Called]:
        """Takes bytes from the peer; gives what they mean (see the top of the file)."""
        body = self._framer.single(data)
        if (
            body is None
            or self._sink is not None
            or self._closed
            or self._outbox.urgent > self._most_urgent
        ):
            return self._receive(data)
        try:
            message = wire.from_frame(body)
            handler = self._expected.get(type(message))
            events = self._end(message) if handler is None else handler(self, message)
            if self._owes and self._open:
                self._received()
        except AmnodeError as error:
            self.fail(error)
            return (Closed(error, by_peer=False),)
        return events

    def _receive(self, data: bytes) -> Iterator[Event | Called]:
        """The same for any number of frames, in pieces."""
        framer, outbox = self._framer, self._outbox
        if self._sink is not None:
            data = self._pour(data)
        framer.feed(data)
        try:
            while not self._closed and outbox.urgent <= self._most_urgent:
                body = framer.next()
                if body is None:
                    break
                message = wire.from_frame(body)
                handler = self._expected.get(type(message))
                events = self._end(message) if handler is None else handler(self, message)
                yield from events
            if self._open and (self._owes or framer.unfinished):
                self._received()
        except AmnodeError as error:
            self.fail(error)
            yield Closed(error, by_peer=False)

    def sink(self) -> memoryview | None:
        """Where the next bytes of the connection belong; None if they are for `receive`."""
        return None if self._sink is None or self._closed else self._sink[0]

    def sunk(self, count: int) -> None:
        """So many bytes were put into `sink`."""
        if self._sink is None:
            return
        view, number, size = self._sink
        if count < view.nbytes:
            self._sink = (view[count:], number, size)
            return
        self._sink = None
        self._inbox.placed(number, size)
        self._give_credit()

    def _pour(self, data: bytes) -> bytes:
        """Fills the sink by hand; returns what is left."""
        view = self.sink()
        count = 0 if view is None else min(view.nbytes, len(data))
        if view is not None and count:
            view[:count] = data[:count]
            self.sunk(count)
        return data[count:]

    def to_send(self) -> Outgoing:
        """What the peer is to get now, in order; empty if there is nothing."""
        return self._outbox.take(BURST)

    def say_alive(self) -> None:
        """Lets the peer know that this side is there."""
        if self._open:
            self._send(wire.Alive())

    def fail(self, error: AmnodeError) -> None:
        """Ends the session with an error that the peer is told."""
        told = wire.error_to_wire(error)
        if len(told.message) > _LAST_WORDS:
            told = msgspec.structs.replace(told, message=told.message[:_LAST_WORDS] + " ...")
        self._leave(wire.Failure(told))

    def goodbye(self, reason: str) -> None:
        """Ends the session in good order."""
        self._leave(wire.Goodbye(wire.sendable(reason)[:_LAST_WORDS]))

    def cut(self) -> None:
        """The connection is gone; what is said from now on is kept for the next."""
        self._enter(Phase.CLOSED)

    # -- streams ---------------------------------------------------------------------------

    def has_room(self, seq: int) -> bool:
        """Whether an item of the stream of a mutation may be sent now."""
        sender = self._sender(seq)
        return sender is not None and sender.has_room

    def send_item(self, seq: int, value: Value) -> None:
        """Sends the next item of a stream; on a connection that is cut it is kept."""
        sender = self._sender(seq)
        if sender is not None:
            self._put_item(seq, sender.send(value), value)

    def consumed(self, seq: int, size: int) -> None:
        """An item of a stream of so many bytes was read."""
        receiver = self._receiver(seq)
        if receiver is not None and receiver.consumed(size):
            self._allow(seq, receiver)

    def _sender(self, seq: int) -> Sender | None:
        raise NotImplementedError

    def _receiver(self, seq: int) -> Receiver | None:
        raise NotImplementedError

    def _allow(self, seq: int, receiver: Receiver) -> None:
        items, size = receiver.allowance()
        if self._open:
            self._send(wire.Allow(seq, items, size))

    def _put_item(self, seq: int, number: int, value: Value) -> None:
        if self._open and seq not in self._doubtful:
            self._outbox.put_value(
                seq, None, value, lambda raw: wire.to_frame(wire.Item(seq, number, raw))
            )

    def _check_size(self, value: Value, what: str) -> None:
        """Raises `DeliveryError` for a value that the peer would not take."""
        size = len(value) if type(value) is msgspec.Raw else size_of(value)
        limit = self._options.body_limit
        if size > limit:
            raise DeliveryError(f"{what} has {size} bytes; body_limit allows {limit}.")

    # -- inside ----------------------------------------------------------------------------

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        self._expected = self._phases.get(phase, {})
        self._open = phase is Phase.OPEN
        self._closed = phase is Phase.CLOSED

    def _leave(self, message: wire.Message) -> None:
        if not self._closed:
            self._enter(Phase.CLOSED)
            self._send(message)

    def _send(self, message: wire.Message) -> None:
        self._outbox.put(wire.to_frame(message))

    def _send_limited(self, message: wire.Message, what: str) -> None:
        frame = wire.to_frame(message)
        size, limit = len(frame) - wire.HEADER, self._options.frame_limit
        if size > limit:
            raise DeliveryError(
                f"{what} takes a frame of {size} bytes; frame_limit allows {limit}."
            )
        self._outbox.put(frame)

    def _trust(self) -> None:
        """The peer has proved itself: its frames may be larger."""
        self._framer.limit = self._options.frame_limit

    def _received(self) -> None:
        """All whole frames of what arrived were taken, in phase OPEN.

        Called if one of them left something to be said (`_owes`), or a frame is not whole.
        """
        self._owes = False
        self._give_credit()
        framer = self._framer
        if framer.kept + framer.lacking < _SINK_FROM:
            return
        chunk = framer.chunk()
        if chunk is None:
            return
        number, size = chunk
        view = self._inbox.place(number, size)
        here = framer.take_chunk()
        view[: len(here)] = here
        self._sink = (view[len(here) :], number, size)

    def _give_credit(self) -> None:
        credit = self._inbox.due()
        if credit and self._open:
            self._send(wire.Credit(credit))

    def _end(self, message: wire.AnyMessage) -> Events:
        """A message that no handler takes: the end, wanted or not."""
        if isinstance(message, wire.Failure):
            told = msgspec.structs.replace(message.error, message=plain(message.error.message))
            error = wire.error_from_wire(told)
        elif isinstance(message, wire.Goodbye):
            error = ConnectionLost(f"The peer closed the connection: {plain(message.reason)}.")
        else:
            raise ProtocolError(
                f"{wire.describe(message)} came while {type(self).__name__} was in phase "
                f"{self._phase.name}."
            )
        self._enter(Phase.CLOSED)
        return (Closed(error, by_peer=True),)

    def _on_alive(self, _message: wire.Alive) -> Events:
        return ()

    def _on_body(self, message: wire.Body) -> Events:
        self._inbox.begin(message.number, message.size)
        return (Announced(message.size),)

    def _on_chunk(self, message: wire.Chunk) -> Events:
        self._inbox.chunk(message.number, message.data)
        self._owes = True
        return ()

    def _on_drop(self, message: wire.Drop) -> Events:
        self._inbox.drop(message.number)
        return ()

    def _on_credit(self, message: wire.Credit) -> Events:
        self._outbox.credit(message.size)
        return ()

    def _on_item(self, message: wire.Item) -> Events:
        data = self._inbox.claim(message.data)
        receiver = self._receiver(message.seq)
        if receiver is None or not receiver.came(message.number, len(data)):
            return ()  # nobody reads it any more, or it had arrived before
        return (Streamed(message.seq, data),)

    def _on_allow(self, message: wire.Allow) -> Events:
        seq, sender = message.seq, self._sender(message.seq)
        if sender is None:
            return ()  # the stream has ended
        sender.allow(message.items, message.size)
        if self._doubtful.pop(seq, self) is not self:
            for number, value in sender.unarrived():
                self._put_item(seq, number, value)
            self._went_on(seq)
        return (Allowed(seq),)

    def _went_on(self, seq: int) -> None:
        """The items of a stream that might have been lost were sent again."""

    #: What both sides take in phase OPEN.
    _shared: ClassVar[Handlers] = {
        wire.Alive: _on_alive,
        wire.Body: _on_body,
        wire.Chunk: _on_chunk,
        wire.Drop: _on_drop,
        wire.Credit: _on_credit,
        wire.Item: _on_item,
        wire.Allow: _on_allow,
    }
