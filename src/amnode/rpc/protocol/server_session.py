"""The server's side of one connection (see `session.py`), on the memory of its session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import msgspec

from amnode.errors import ConnectionLost, DeliveryError, ProtocolError, RefusedError
from amnode.machine.schema import Schema
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.calls import Known, size_of
from amnode.rpc.protocol.flow import Outgoing
from amnode.rpc.protocol.handshake import ServerHandshake
from amnode.rpc.protocol.memory import ServerMemory
from amnode.rpc.protocol.session import (
    BURST,
    Admitted,
    Cancelled,
    Events,
    Greeted,
    Handlers,
    Opened,
    Phase,
    Resynced,
    Session,
    StreamEnded,
    Taken,
)
from amnode.rpc.protocol.streams import Receiver, Sender
from amnode.rpc.protocol.subscription import followed, schema_hash, schema_to_wire
from amnode.rpc.protocol.sync import Leader, mixes
from amnode.rpc.protocol.wire import NIL, Follow, Outcome, Value

_NEW = Known.NEW
#: The lane of payloads; answers and items have their mutation's number.
_PAYLOADS = 0


class Source(Protocol):
    """What a server session reads of the machine that it serves."""

    schema: Schema
    incarnation: bytes

    @property
    def root_id(self) -> str:
        """See `MachineApi.root_id`."""
        ...

    @property
    def followed_states(self) -> Sequence[int]:
        """See `MachineApi.followed_states`."""
        ...

    @property
    def queue_tick(self) -> int:
        """See `MachineApi.queue_tick`."""
        ...

    @property
    def machine_tick(self) -> int:
        """See `MachineApi.machine_tick`."""
        ...

    def ticks(self) -> Sequence[int]:
        """The ticks of all states, in schema order."""
        ...


def _check_name(name: str) -> None:
    """Raises `DeliveryError` for what cannot be the name of a payload."""
    try:
        msgspec.convert(name, wire.Text)
        name.encode()
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise DeliveryError(
            f"{name!r:.100} cannot be the name of a payload: {error}."
        ) from None


class ServerSession(Session):
    """The server's side of one connection.

    Args:
        source: the machine that the client follows.
        factors: of its states, from `sync.mixes`.
        handshake: who may come in.
        options: the limits.

    Attributes:
        memory: what outlives this connection; see `Admitted`.
        push_interval: the least time between two updates, in seconds.
        held: whether updates wait until `release`, since the last one is not that old.
        every: whether the client is told of each mutation on its own.
    """

    def __init__(
        self,
        source: Source,
        factors: Sequence[int],
        handshake: ServerHandshake,
        options: RpcOptions,
    ) -> None:
        super().__init__(Phase.HELLO, options)
        self._most_urgent = options.outgoing_limit
        #: Bytes of a value that surely has a place in its frame.
        self._small = min(options.chunk, options.body_limit)
        self._source = source
        self._factors = factors
        self._handshake = handshake
        self._leader = Leader(factors, ())
        self.memory = ServerMemory(options)
        self.push_interval = 0.0
        self.held = False
        self.every = False
        #: Bytes of answers that wait to leave in chunks.
        self._answers_later = 0
        #: Payloads wait until the client has said which of them it has.
        self._payloads_wait = False
        #: The last number that the client asked for on this connection.
        self._asked_here = 0
        #: What was answered on it before the client has asked for it again.
        self._given: dict[int, None] = {}

    @property
    def keepalive(self) -> float:
        """The interval that was agreed, in seconds; 0 is none."""
        return self._handshake.keepalive / 1000

    def forgo_keepalive(self) -> None:
        """See `ServerHandshake.forgo_keepalive`."""
        self._handshake.forgo_keepalive()

    @property
    def resumes(self) -> bool:
        """Whether the client wants to resume a session that is here."""
        return self._handshake.resumed

    @property
    def is_behind(self) -> bool:
        """Whether the client is to take some of that before it is served again."""
        return self._outbox.urgent + self._answers_later > self._options.outgoing_limit

    @property
    def backlog(self) -> int:
        """Bytes that wait for the client because it asked for them: answers, and what is small.

        Payloads and the items of streams have limits of their own.
        """
        return self._outbox.urgent + self._answers_later

    # -- the source moves ------------------------------------------------------------------

    def mark(self, changed: Sequence[int], ticks: Sequence[int]) -> bool:
        """The source moved; see `Leader.mark`. True if there is something to send now."""
        if not self._open:
            return False
        leader = self._leader
        moved, selected = leader.moved, leader.selected
        for index in changed:
            if selected is None or index in selected:
                moved[index] = ticks[index]
        return bool(moved) and not self.held

    def step(
        self, changed: Sequence[int], ticks: Sequence[int], type_: int, called: Sequence[int]
    ) -> None:
        """The source moved by one mutation, of which a client of `every` is told."""
        if not self._open:
            return
        self._leader.mark(changed, ticks)
        if self._outbox.urgent <= self._options.outgoing_limit:  # else it becomes an update
            difference = self._leader.difference(self._source.queue_tick)
            if difference is not None:
                self._send(wire.Step(difference, type_, [*called]))

    def source_grew(self) -> None:
        """The source has states that the peer does not know; see `Leader.confine`."""
        if self._open:
            self._leader.confine()

    def release(self) -> bool:
        """Updates may be sent again; True if there is one."""
        self.held = False
        return self._open and self._leader.pending

    # -- what the driver says --------------------------------------------------------------

    def answer(self, seq: int, outcome: Outcome, value: Value = NIL) -> bool:
        """Answers a mutation, with the difference up to now; False if it was answered already.

        On a connection that is cut, the answer is remembered.

        Raises:
            DeliveryError: the value is too large; the client is told so, too.
        """
        memory = self.memory
        if seq in memory.uploads:
            del memory.uploads[seq]
        if value is not NIL:
            try:
                self._check_size(value, "The answer")
            except DeliveryError as error:
                self.answer(seq, Outcome.ERROR, wire.error_to_raw(error))
                raise
        if not memory.answering.answer(seq, outcome, value):
            return False
        if self._open and seq not in self._doubtful:
            self._send_answer(seq, outcome, value)
        return True

    def answer_small(self, seq: int, value: msgspec.Raw) -> bool:
        """Answers a mutation that was executed, as `answer` does, with a value in its frame.

        Returns:
            False if that cannot be done: the value is not small, or something goes before it.
        """
        outbox, memory = self._outbox, self.memory
        if not self._open or outbox.later or len(value) > self._small:
            return False
        if self._doubtful or memory.uploads or seq > self._asked_here:
            return False
        if memory.answering.answer(seq, Outcome.EXECUTED, value):
            difference = self._leader.difference(self._source.queue_tick)
            message = wire.Answer(seq, Outcome.EXECUTED, difference, value)
            outbox.put(wire.to_frame(message))
        return True

    def send_payload(self, name: str, value: Value) -> int:
        """Sends data to the client, after the updates up to now; returns its number.

        On a connection that is cut, it is kept.

        Raises:
            ConnectionLost: the client was never there.
            DeliveryError: it is too large, or too much waits for the client already.
        """
        if self.memory.ticket is None:
            raise ConnectionLost(f"Payload {name!r} has no client to go to.")
        _check_name(name)
        self._check_size(value, f"Payload {name!r}")
        number = self.memory.add_payload(name, value)
        if self._open and not self._payloads_wait:
            self._push()
            self._send_payload(number, name, value)
        return number

    def open_upload(self, seq: int) -> None:
        """Reads the stream that comes with a mutation."""
        receiver = self.memory.uploads[seq] = Receiver(
            self._options.stream_credit, self._options.stream_items
        )
        self._allow(seq, receiver)

    def close_upload(self, seq: int) -> None:
        """Reads it no more."""
        receiver = self._receiver(seq)
        if receiver is not None:
            receiver.stopped = True
            if self._open:
                self._send(wire.Stop(seq))

    def wants_stream(self, seq: int) -> bool:
        """Whether the client reads a stream before the answer to this mutation."""
        return seq in self.memory.downloads

    def to_send(self) -> Outgoing:
        """What the client is to get; pending updates included."""
        if self._open and self._leader.moved and not self.held:
            self._push()
            self.held = self.push_interval > 0
        return self._outbox.take(BURST)

    def goodbye(self, reason: str) -> None:
        """Ends the session in good order, after the updates up to now."""
        self._push()
        super().goodbye(reason)

    # -- inside ----------------------------------------------------------------------------

    def _sender(self, seq: int) -> Sender | None:
        return self.memory.downloads.get(seq)

    def _receiver(self, seq: int) -> Receiver | None:
        receiver = self.memory.uploads.get(seq)
        return None if receiver is None or receiver.stopped else receiver

    def _push(self) -> None:
        if self._open and self._leader.moved:
            difference = self._leader.difference(self._source.queue_tick)
            if difference is not None:
                self._send(wire.Update(difference))

    def _send_answer(self, seq: int, outcome: Outcome, value: Value) -> None:
        if seq > self._asked_here:
            self._given[seq] = None
        outbox = self._outbox
        if outbox.passes(value, seq):
            difference = self._leader.difference(self._source.queue_tick)
            outbox.put(wire.to_frame(wire.Answer(seq, outcome, difference, value)))
        else:  # by its key, it is told from the items of its stream, which share the lane
            size = size_of(value)
            self._answers_later += size
            outbox.put_value(
                seq, seq, value, lambda raw: self._answer_frame(seq, outcome, raw, size)
            )

    def _answer_frame(self, seq: int, outcome: Outcome, value: msgspec.Raw, size: int) -> bytes:
        self._answers_later -= size
        difference = self._leader.difference(self._source.queue_tick)
        return wire.to_frame(wire.Answer(seq, outcome, difference, value))

    def _send_payload(self, number: int, name: str, value: Value) -> None:
        self._outbox.put_value(
            _PAYLOADS, None, value, lambda raw: wire.to_frame(wire.Payload(number, name, raw))
        )

    def _hello(self, message: wire.Hello) -> Events:
        self._send(self._handshake.greeted(message))
        self._enter(Phase.PROOF)
        return (Greeted(message.client_id, message.role),)

    def _proof(self, message: wire.Proof) -> Events:
        handshake = self._handshake
        self._send(handshake.proved(message))
        self._trust()
        self._enter(Phase.SUBSCRIBE)
        assert handshake.ticket is not None  # it was proved
        self.memory.ticket = handshake.ticket
        return (Admitted(handshake.ticket.session, handshake.resumed),)

    def _subscribe(self, message: wire.Subscribe) -> Events:
        source = self._source
        schema = source.schema
        selected = followed(schema, source.followed_states, message)
        if len(self._factors) != len(schema):  # it has grown since the server was made
            self._factors = mixes(len(schema))
        self._leader = Leader(self._factors, selected, bool(message.flags & Follow.SHALLOW))
        self.every = bool(message.flags & Follow.EVERY)
        self.push_interval = message.interval / 1000
        known = message.schema_hash == schema_hash(schema)
        self._send_limited(
            wire.Synced(
                source.root_id,
                source.incarnation,
                list(schema.names),
                None if known else schema_to_wire(schema),
                selected,
                self._snapshot(),
            ),
            "The schema",
        )
        self._enter(Phase.OPEN)
        if self._handshake.resumed:
            self._payloads_wait = True
            self._doubtful = dict.fromkeys(self.memory.downloads)
        chosen = None if selected is None else tuple(selected)
        resumed = self._handshake.resumed
        return (Opened(source.root_id, source.incarnation, schema, chosen, [], resumed),)

    def _mutate(self, message: wire.Mutate) -> Events:
        size = len(self._factors)
        for index in message.states:
            if index >= size:
                raise ProtocolError(
                    f"Mutation of states {message.states}; the source has {size}."
                )
        args = message.args
        if len(args) == wire.REFERENCE_SIZE:
            args = self._inbox.claim(args)
        seq, answering = message.seq, self.memory.answering
        known = answering.asked(seq)
        if known is _NEW:
            self._asked_here = seq
            if len(answering.waiting) > self._options.call_limit:
                error = RefusedError(
                    f"{self._options.call_limit} mutations of this client wait for their "
                    "answer; call_limit allows no more."
                )
                self.answer(seq, Outcome.ERROR, wire.error_to_raw(error))
                return ()
            if args is not message.args:
                message = msgspec.structs.replace(message, args=args)
            return (message,)
        self._asked_again(seq, known)
        return ()

    def _asked_again(self, seq: int, known: Known) -> None:
        self._asked_here = max(seq, self._asked_here)
        if known is Known.OPEN:
            receiver = self.memory.uploads.get(seq)
            if receiver is not None and receiver.stopped:
                self._send(wire.Stop(seq))
            elif receiver is not None:
                self._allow(seq, receiver)
        elif self._given.pop(seq, self) is self and seq not in self._doubtful:
            self._answer_again(seq, known)

    def _answer_again(self, seq: int, known: Known) -> None:
        if self._outbox.waits(seq):
            return  # it is on its way
        if known is Known.ANSWERED:
            self._send_answer(seq, *self.memory.answering.remember(seq))
        else:
            ran = self.memory.answering.has_run(seq)
            self._send_answer(seq, Outcome.UNKNOWN, wire.TRUE if ran else NIL)

    def _cancel(self, message: wire.Cancel) -> Events:
        seq = message.seq
        known = self.memory.answering.cancelled(seq)
        crossed = seq <= self._asked_here  # its answer, which was given on this connection
        self._asked_here = max(seq, self._asked_here)
        self._doubtful.pop(seq, None)
        if known is Known.OPEN:
            return (Cancelled(seq),)
        if known is Known.NEW:
            self._send_answer(seq, Outcome.CANCELED, NIL)
        elif not crossed and self._given.pop(seq, self) is self:
            self._answer_again(seq, known)
        return ()

    def _resync(self, _message: wire.Resync) -> Events:
        self._send(wire.Snapshot(self._snapshot()))
        return (Resynced(),)

    def _ack(self, message: wire.Ack) -> Events:
        memory = self.memory
        if message.payloads > memory.number:
            raise ProtocolError(
                f"Payload {message.payloads} is acknowledged; {memory.number} were sent."
            )
        memory.acknowledged(message.answers, message.payloads)
        if self._payloads_wait:
            self._payloads_wait = False
            for number, name, value in memory.payloads():
                self._send_payload(number, name, value)
        return (Taken(),)

    def _on_allow(self, message: wire.Allow) -> Events:
        """A client that reads a stream says so before the mutation."""
        memory, seq = self.memory, message.seq
        if seq not in memory.downloads and memory.answering.is_new(seq):
            if len(memory.downloads) >= self._options.call_limit:
                raise ProtocolError(f"More than {self._options.call_limit} streams at once.")
            memory.downloads[seq] = Sender()
        return super()._on_allow(message)

    def _stream_end(self, message: wire.End) -> Events:
        receiver = self._receiver(message.seq)
        if receiver is None or receiver.ended:
            return ()  # nobody reads it any more, or it was said before the reconnect
        receiver.ended = True
        error = None if message.error is None else wire.error_from_wire(message.error)
        return (StreamEnded(message.seq, error),)

    def _went_on(self, seq: int) -> None:
        answering = self.memory.answering
        if answering.is_answered(seq):
            self._answer_again(seq, Known.ANSWERED)

    def _snapshot(self) -> wire.ClockData:
        source = self._source
        return self._leader.snapshot(source.ticks(), source.queue_tick, source.machine_tick)

    _phases: ClassVar[dict[Phase, Handlers]] = {
        Phase.HELLO: {wire.Hello: _hello},
        Phase.PROOF: {wire.Proof: _proof},
        Phase.SUBSCRIBE: {wire.Subscribe: _subscribe},
        Phase.OPEN: {
            wire.Mutate: _mutate,
            wire.Cancel: _cancel,
            wire.Resync: _resync,
            wire.Ack: _ack,
            wire.End: _stream_end,
            **Session._shared,
            wire.Allow: _on_allow,
        },
    }
