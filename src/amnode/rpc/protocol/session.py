"""A connection as two values: bytes in, events out. Composes the other files, and adds no rule
but which message may come when.

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
    OPEN                Mutate, Cancel,  OPEN                Answer, Update, Payload,
                        Resync                               Snapshot (after a Resync)
    CLOSED              nothing          CLOSED              nothing

Failure and Goodbye may come in every phase. Anything else ends the session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from typing import Any, ClassVar, Protocol, TypeAlias

import msgspec

from amnode.errors import (
    AmnodeError,
    ConnectionLost,
    DeliveryError,
    ProtocolError,
)
from amnode.machine.schema import Schema
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.calls import Answering, Asked
from amnode.rpc.protocol.handshake import (
    ClientHandshake,
    ServerHandshake,
    check_schema,
    schema_from_wire,
    schema_hash,
    schema_to_wire,
    selection,
)
from amnode.rpc.protocol.sync import Follower, Leader, mixes
from amnode.rpc.protocol.wire import NIL, Outcome, Role


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


class Opened(Event, frozen=True):
    """The handshake is done. At a client, the source and its time come with it."""

    machine_id: str
    schema: Schema
    selected: tuple[int, ...] | None
    pairs: list[int]


class Cancelled(Event, frozen=True):
    """Server: nobody waits for the answer any more, which is still due."""

    seq: int


class Resynced(Event, frozen=True):
    """A checksum was wrong. At a client: everything was asked for; at a server: it was sent."""


class Advanced(Event, frozen=True):
    """Client: the source moved: flat pairs of a state's index and its step."""

    pairs: list[int]


class Answered(Event, frozen=True):
    """Client: a mutation ended. `value` is nil, its value, or with ERROR the error."""

    seq: int
    outcome: Outcome
    value: msgspec.Raw


class Delivered(Event, frozen=True):
    """Client: a payload came."""

    name: str
    data: msgspec.Raw


class Closed(Event, frozen=True):
    """The session is over: by the peer, or because of what it sent.

    `ConnectionLost` is an orderly end.
    """

    error: AmnodeError
    by_peer: bool


#: Server: a mutation to run, to be answered by `ServerSession.answer`. The message says it all.
Called: TypeAlias = wire.Mutate


class Source(Protocol):
    """What a server session reads of the machine that it serves."""

    id: str
    schema: Schema

    @property
    def queue_tick(self) -> int:
        """See `MachineApi.queue_tick`."""
        ...

    @property
    def machine_tick(self) -> int:
        """See `MachineApi.machine_tick`."""
        ...

    def time(self) -> Sequence[int]:
        """The ticks of all states, in schema order."""
        ...


#: What one message means; nothing, or a few events.
_Events: TypeAlias = "Sequence[Event | Called]"
_Handlers: TypeAlias = dict[type[wire.Message], Callable[[Any, Any], _Events]]


class Session:
    """What both sides share: frames, phases, the end."""

    #: What may come in each phase, and who takes it.
    _phases: ClassVar[dict[Phase, _Handlers]]

    def __init__(self, phase: Phase, options: RpcOptions) -> None:
        self._options = options
        self._framer = wire.Framer(options.handshake_frame_limit)
        self._out: list[bytes] = []
        self._open = False
        self._closed = False
        self._enter(phase)

    @property
    def phase(self) -> Phase:
        """What the session waits for."""
        return self._phase

    def receive(self, data: bytes) -> Iterator[Event | Called]:
        """Takes bytes from the peer; yields what they mean (see the top of the file)."""
        framer = self._framer
        framer.feed(data)
        try:
            while not self._closed and (body := framer.next()) is not None:
                message = wire.from_frame(body)
                handler = self._expected.get(type(message))
                events = self._end(message) if handler is None else handler(self, message)
                yield from events
        except AmnodeError as error:
            self.fail(error)
            yield Closed(error, by_peer=False)

    def to_send(self) -> bytes:
        """What the peer is to get, in order; empty if there is nothing."""
        out = self._out
        if len(out) == 1:
            return out.pop()
        data = b"".join(out)
        out.clear()
        return data

    def fail(self, error: AmnodeError) -> None:
        """Ends the session with an error that the peer is told."""
        self._leave(wire.Failure(wire.error_to_wire(error)))

    def goodbye(self, reason: str) -> None:
        """Ends the session in good order."""
        self._leave(wire.Goodbye(reason))

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
        self._out.append(wire.to_frame(message))

    def _send_limited(self, message: wire.Message, what: str) -> None:
        frame = wire.to_frame(message)
        size, limit = len(frame) - wire.HEADER, self._options.frame_limit
        if size > limit:
            raise DeliveryError(
                f"{what} takes a frame of {size} bytes; frame_limit allows {limit}."
            )
        self._out.append(frame)

    def _trust(self) -> None:
        """The peer has proved itself: its frames may be larger."""
        self._framer.limit = self._options.frame_limit

    def _end(self, message: wire.AnyMessage) -> _Events:
        """A message that no handler takes: the end, wanted or not."""
        if isinstance(message, wire.Failure):
            error = wire.error_from_wire(message.error)
        elif isinstance(message, wire.Goodbye):
            error = ConnectionLost(f"The peer closed the connection: {message.reason}.")
        else:
            raise ProtocolError(
                f"{wire.describe(message)} came while {type(self).__name__} was in phase "
                f"{self._phase.name}."
            )
        self._enter(Phase.CLOSED)
        return (Closed(error, by_peer=True),)


class ServerSession(Session):
    """The server's side of one connection.

    Args:
        source: the machine that the client follows.
        factors: of its states, from `sync.mixes`.
        handshake: who may come in.
        options: the limits.
    """

    def __init__(
        self,
        source: Source,
        factors: Sequence[int],
        handshake: ServerHandshake,
        options: RpcOptions,
    ) -> None:
        super().__init__(Phase.HELLO, options)
        self._source = source
        self._factors = factors
        self._handshake = handshake
        self._leader = Leader(factors, ())
        self._answering = Answering()

    def mark(self, moved: Sequence[tuple[int, int]]) -> bool:
        """The source moved; see `Leader.mark`. True if there is something to send for it."""
        return self._open and self._leader.mark(moved)

    def source_grew(self) -> None:
        """The source has states that the peer does not know; see `Leader.confine`."""
        if self._open:
            self._leader.confine()

    def answer(self, seq: int, outcome: Outcome, value: msgspec.Raw = NIL) -> bool:
        """Answers a mutation, with the difference up to now; False if it was answered already.

        Raises:
            DeliveryError: the value does not fit a frame; the client is told so, too.
        """
        if not self._open or not self._answering.answer(seq):
            return False
        difference = self._leader.difference(self._source.queue_tick)
        try:
            self._send_limited(wire.Answer(seq, outcome, difference, value), "The answer")
        except DeliveryError as error:
            told = wire.error_to_raw(error)
            self._send(wire.Answer(seq, Outcome.ERROR, difference, told))
            raise
        return True

    def send_payload(self, name: str, data: msgspec.Raw) -> None:
        """Sends data to the client, after the updates up to now.

        Raises:
            ConnectionLost: the session is not open.
            DeliveryError: it does not fit a frame.
        """
        if not self._open:
            raise ConnectionLost(f"Payload {name!r} has no client to go to.")
        self._push()
        self._send_limited(wire.Payload(name, data), f"Payload {name!r}")

    def to_send(self) -> bytes:
        """What the client is to get; pending updates included."""
        if self._open and self._leader.pending:
            self._push()
        return super().to_send()

    def goodbye(self, reason: str) -> None:
        """Ends the session in good order, after the updates up to now."""
        self._push()
        super().goodbye(reason)

    def _push(self) -> None:
        if self._open and self._leader.pending:
            difference = self._leader.difference(self._source.queue_tick)
            if difference is not None:
                self._send(wire.Update(difference))

    def _hello(self, message: wire.Hello) -> _Events:
        self._send(self._handshake.greeted(message))
        self._enter(Phase.PROOF)
        return (Greeted(message.client_id, message.role),)

    def _proof(self, message: wire.Proof) -> _Events:
        self._send(self._handshake.proved(message))
        self._trust()
        self._enter(Phase.SUBSCRIBE)
        return ()

    def _subscribe(self, message: wire.Subscribe) -> _Events:
        source = self._source
        schema = source.schema
        selected = selection(schema, message.states)
        if len(self._factors) != len(schema):  # it has grown since the server was made
            self._factors = mixes(len(schema))
        self._leader = Leader(self._factors, selected)
        known = message.schema_hash == schema_hash(schema)
        self._send_limited(
            wire.Synced(
                source.id,
                list(schema.names),
                None if known else schema_to_wire(schema),
                self._snapshot(),
            ),
            "The schema",
        )
        self._enter(Phase.OPEN)
        return (Opened(source.id, schema, selected, []),)

    def _mutate(self, message: wire.Mutate) -> _Events:
        size = len(self._factors)
        if max(message.states, default=0) >= size:
            raise ProtocolError(f"Mutation of states {message.states}; the source has {size}.")
        self._answering.asked(message.seq)
        return (message,)

    def _cancel(self, message: wire.Cancel) -> _Events:
        return (Cancelled(message.seq),) if self._answering.is_open(message.seq) else ()

    def _resync(self, _message: wire.Resync) -> _Events:
        self._send(wire.Snapshot(self._snapshot()))
        return (Resynced(),)

    def _snapshot(self) -> wire.ClockData:
        source = self._source
        return self._leader.snapshot(source.time(), source.queue_tick, source.machine_tick)

    _phases: ClassVar[dict[Phase, _Handlers]] = {
        Phase.HELLO: {wire.Hello: _hello},
        Phase.PROOF: {wire.Proof: _proof},
        Phase.SUBSCRIBE: {wire.Subscribe: _subscribe},
        Phase.OPEN: {wire.Mutate: _mutate, wire.Cancel: _cancel, wire.Resync: _resync},
    }


class ClientSession(Session):
    """The client's side of one connection; says hello when it is made.

    Args:
        handshake: who this is.
        schema: what the source must have; None takes what it has.
        states: what to subscribe to; None for all.
        options: the limits.
    """

    def __init__(
        self,
        handshake: ClientHandshake,
        schema: Schema | None,
        states: Sequence[str] | None,
        options: RpcOptions,
    ) -> None:
        super().__init__(Phase.CHALLENGE, options)
        self._handshake = handshake
        self._schema = schema
        self._states = None if states is None else list(states)
        self._asked = Asked()
        self._held: list[wire.Answer | wire.Payload] = []
        self.follower = Follower(0, None)
        self._send(handshake.hello())

    def mutate(self, type_: int, states: list[int], args: msgspec.Raw = NIL) -> int:
        """Sends a mutation; returns the number that its answer will have.

        Raises:
            ConnectionLost: the session is not open.
            DeliveryError: the arguments do not fit a frame; nothing was sent.
        """
        if not self._open:
            raise ConnectionLost("There is no connection to the source.")
        seq = self._asked.ask()
        try:
            self._send_limited(wire.Mutate(seq, type_, states, args), "The mutation")
        except DeliveryError:
            self._asked.answered(seq)
            raise
        return seq

    def cancel(self, seq: int) -> None:
        """Tells the source that nobody waits for this answer any more."""
        if self._open and seq in self._asked:
            self._send(wire.Cancel(seq))

    def _challenge(self, message: wire.Challenge) -> _Events:
        self._send(self._handshake.challenged(message))
        self._enter(Phase.WELCOME)
        return ()

    def _welcome(self, message: wire.Welcome) -> _Events:
        self._handshake.welcomed(message)
        self._trust()
        known = b"" if self._schema is None else schema_hash(self._schema)
        self._send_limited(wire.Subscribe(known, self._states), "The subscription")
        self._enter(Phase.SYNCED)
        return ()

    def _synced(self, message: wire.Synced) -> _Events:
        schema = self._source_schema(message)
        selected = selection(schema, self._states)
        self.follower = Follower(len(schema), selected)
        pairs = self.follower.load(message.clock)
        self._enter(Phase.OPEN)
        return (Opened(message.machine_id, schema, selected, pairs),)

    def _source_schema(self, message: wire.Synced) -> Schema:
        if message.schema is not None:
            schema = schema_from_wire(message.schema)
            if self._schema is not None:
                check_schema(self._schema, schema)
        elif self._schema is not None:
            schema = self._schema
        else:
            raise ProtocolError("The source sent no schema to a client that has none.")
        if schema.names != tuple(message.names):
            raise ProtocolError("The names that the source sent are not those of its schema.")
        return schema

    def _answer(self, message: wire.Answer) -> _Events:
        self._asked.answered(message.seq)
        events: _Events = ()
        if message.difference is not None:
            events = self._advance(message.difference)
        if self.follower.resyncing:
            self._held.append(message)
            return events
        return (*events, Answered(message.seq, message.outcome, message.value))

    def _update(self, message: wire.Update) -> _Events:
        return self._advance(message.difference)

    def _payload(self, message: wire.Payload) -> _Events:
        if self.follower.resyncing:
            self._held.append(message)
            return ()
        return (Delivered(message.name, message.data),)

    def _snapshot(self, message: wire.Snapshot) -> _Events:
        if not self.follower.resyncing:
            raise ProtocolError("A snapshot that nobody asked for.")
        events: list[Event] = [Advanced(self.follower.load(message.clock))]
        for late in self._held:
            if isinstance(late, wire.Answer):
                events.append(Answered(late.seq, late.outcome, late.value))
            else:
                events.append(Delivered(late.name, late.data))
        self._held.clear()
        return events

    def _advance(self, difference: wire.Difference) -> _Events:
        if self.follower.resyncing:
            return ()
        if self.follower.apply(difference):
            return (Advanced(difference.pairs),)
        self._send(wire.Resync())
        return (Resynced(),)

    _phases: ClassVar[dict[Phase, _Handlers]] = {
        Phase.CHALLENGE: {wire.Challenge: _challenge},
        Phase.WELCOME: {wire.Welcome: _welcome},
        Phase.SYNCED: {wire.Synced: _synced},
        Phase.OPEN: {
            wire.Answer: _answer,
            wire.Update: _update,
            wire.Payload: _payload,
            wire.Snapshot: _snapshot,
        },
    }
