"""The client's side of one connection (see `session.py`), on the memory of its session."""

from __future__ import annotations

from typing import ClassVar

import msgspec

from amnode.errors import AmnodeError, ProtocolError
from amnode.machine.schema import Schema
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.calls import Unanswered
from amnode.rpc.protocol.flow import Outgoing
from amnode.rpc.protocol.handshake import ClientHandshake
from amnode.rpc.protocol.memory import ClientMemory, Upload
from amnode.rpc.protocol.session import (
    Advanced,
    Answered,
    Delivered,
    Event,
    Events,
    Handlers,
    Opened,
    Phase,
    Resynced,
    Session,
    Stepped,
    StreamEnded,
)
from amnode.rpc.protocol.streams import Receiver, Sender
from amnode.rpc.protocol.subscription import (
    Subscription,
    check_schema,
    schema_from_wire,
    schema_hash,
)
from amnode.rpc.protocol.sync import Follower
from amnode.rpc.protocol.wire import NIL, Value

#: The lane of mutations, which keep their order; items have their mutation's number.
_MUTATIONS = 0
#: Payloads, and bytes of them, whose acknowledgement is not kept back any more.
_MOST_LATE, _MOST_LATE_BYTES = 16, 64 * 1024


class ClientSession(Session):
    """The client's side of one connection; says hello when it is made.

    Args:
        handshake: who this is, and which session it resumes.
        memory: of that session; a new one begins with a memory of its own.
        schema: what the source must have; None takes what it has.
        subscription: what to follow, and how.
        options: the limits.

    Attributes:
        memory: what outlives this connection.
        follower: the clocks of the source.
        is_late: whether an acknowledgement is kept back, for `ack_delay` at most.
    """

    def __init__(
        self,
        handshake: ClientHandshake,
        memory: ClientMemory,
        schema: Schema | None,
        subscription: Subscription,
        options: RpcOptions,
    ) -> None:
        super().__init__(Phase.CHALLENGE, options)
        self._handshake = handshake
        self._schema = schema
        self._subscription = subscription
        self._acked = memory.payloads
        self._late_bytes = 0
        self.is_late = False
        self.memory = memory
        self.follower = Follower(0, None)
        self._send(handshake.hello())

    @property
    def keepalive(self) -> float:
        """The interval that was agreed, in seconds; 0 is none."""
        return self._handshake.keepalive / 1000

    # -- what the driver says --------------------------------------------------------------

    def ask(
        self,
        type_: int,
        states: list[int],
        value: Value = NIL,
        *,
        upload: bool = False,
        download: bool = False,
    ) -> int:
        """Sends a mutation; returns the number that its answer will have.

        On a connection that is cut, it is kept until the session is resumed.

        Args:
            type_: of `MutationType`, or of `wire.Request`.
            states: the indexes.
            value: the arguments.
            upload: whether a stream comes with it.
            download: whether a stream comes before the answer.

        Raises:
            DeliveryError: the arguments are too large; nothing was sent.
            RefusedError: too many mutations wait for their answer.
        """
        if value is not NIL:
            self._check_size(value, "The mutation")
        memory = self.memory
        asked = memory.asked.ask(type_, states, value)
        seq = asked.message.seq
        if upload:
            memory.uploads[seq] = Upload()
        if download:  # the server is to know it before the mutation
            receiver = memory.downloads[seq] = Receiver(
                self._options.stream_credit, self._options.stream_items
            )
            self._allow(seq, receiver)
        if self._open:
            self._send_mutation(asked)
        return seq

    def to_send(self) -> Outgoing:
        """See `Session`; what is kept back goes with whatever there is."""
        if self.is_late and self._outbox.ready:
            self._ack()
        return super().to_send()

    def ack_late(self) -> None:
        """What was kept back is to be said now."""
        if self.is_late and self._open:
            self._ack()

    def goodbye(self, reason: str) -> None:
        """See `Session`."""
        self.ack_late()
        super().goodbye(reason)

    def cancel(self, seq: int) -> bool:
        """Nobody waits for the answer any more; True if the mutation had not left at all."""
        memory = self.memory
        if seq not in memory.asked:
            return False
        asked = memory.asked[seq]
        if not asked.sent and (self._outbox.drop(seq) or not self._open):
            memory.forget(seq)
            return True
        if not asked.cancelled:
            asked.cancelled = True
            if self._open and not self._outbox.replace(seq, wire.to_frame(wire.Cancel(seq))):
                self._send(wire.Cancel(seq))
        return False

    def end_upload(self, seq: int, error: AmnodeError | None) -> None:
        """The stream that comes with a mutation has ended, well or not."""
        upload = self.memory.uploads.get(seq)
        if upload is not None and not upload.ended:
            upload.ended = True
            upload.error = None if error is None else wire.error_to_wire(error)
            if self._open and seq not in self._doubtful:
                self._send_end(seq, upload)

    # -- inside ----------------------------------------------------------------------------

    def _sender(self, seq: int) -> Sender | None:
        upload = self.memory.uploads.get(seq)
        return None if upload is None else upload.sender

    def _receiver(self, seq: int) -> Receiver | None:
        return self.memory.downloads.get(seq)

    def _send_mutation(self, asked: Unanswered) -> None:
        message = asked.message
        outbox = self._outbox
        if outbox.passes(asked.value, _MUTATIONS):
            asked.sent = True
            outbox.put(wire.to_frame(message))
            return

        def finish(raw: msgspec.Raw) -> bytes:
            asked.sent = True
            if raw is not message.args:
                return wire.to_frame(
                    wire.Mutate(message.seq, message.type, message.states, raw)
                )
            return wire.to_frame(message)

        outbox.put_value(_MUTATIONS, message.seq, asked.value, finish)

    def _send_end(self, seq: int, upload: Upload) -> None:
        # In the lane of the items, which may be large.
        self._outbox.put_value(
            seq, None, NIL, lambda _raw: wire.to_frame(wire.End(seq, upload.error))
        )

    def _challenge(self, message: wire.Challenge) -> Events:
        self._send(self._handshake.challenged(message))
        # With the proof, not after the server's: a round trip less. It holds nothing secret,
        # and a server that does not accept the proof never looks at it.
        known = b"" if self._schema is None else schema_hash(self._schema)
        self._send_limited(self._subscription.to_wire(known), "The subscription")
        self._enter(Phase.WELCOME)
        return ()

    def _welcome(self, message: wire.Welcome) -> Events:
        handshake = self._handshake
        handshake.welcomed(message)
        if not handshake.resumed and self.memory.ticket is not None:
            self.memory = ClientMemory(self._options)  # the old session is gone
            self._acked = 0
        self.memory.ticket = handshake.ticket
        self._trust()
        self._enter(Phase.SYNCED)
        return ()

    def _synced(self, message: wire.Synced) -> Events:
        schema = self._source_schema(message)
        selected = None if message.selected is None else tuple(message.selected)
        if selected is not None and max(selected, default=0) >= len(schema):
            raise ProtocolError("The source follows states that its schema does not have.")
        self.follower = Follower(len(schema), selected)
        pairs = self.follower.load(message.clock)
        self._enter(Phase.OPEN)
        if self._handshake.resumed:
            self._resume()
        resumed = self._handshake.resumed
        opened = Opened(
            message.machine_id, message.incarnation, schema, selected, pairs, resumed
        )
        return (opened, *self._released())

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

    def _resume(self) -> None:
        """Says what has come, and asks again for what has not (rules of `calls.py`)."""
        memory = self.memory
        self._ack()
        self._doubtful = dict.fromkeys(memory.uploads)
        for seq, receiver in memory.downloads.items():
            self._allow(seq, receiver)
        for asked in memory.asked:
            if asked.cancelled:
                self._send_cancel_in_order(asked.message.seq)
            else:
                self._send_mutation(asked)

    def _send_cancel_in_order(self, seq: int) -> None:
        self._outbox.put_value(
            _MUTATIONS, None, NIL, lambda _raw: wire.to_frame(wire.Cancel(seq))
        )

    def _ack(self) -> None:
        memory = self.memory
        self._acked = memory.payloads
        self._late_bytes = 0
        self.is_late = False
        self._send(wire.Ack(memory.asked.ack(), memory.payloads))

    def _received(self) -> None:
        super()._received()
        memory = self.memory
        taken = memory.payloads - self._acked
        if memory.asked.ack_due or (taken and not self._may_wait(taken)):
            self._ack()
        else:
            self.is_late = taken > 0

    def _may_wait(self, taken: int) -> bool:
        few = taken < _MOST_LATE and self._late_bytes < _MOST_LATE_BYTES
        return few and self._options.ack_delay > 0

    def _answer(self, message: wire.Answer) -> Events:
        value = message.value
        if len(value) == wire.REFERENCE_SIZE:
            value = self._inbox.claim(value)
        memory = self.memory
        seq = message.seq
        if memory.answered(seq, len(value)):
            self._owes = True
        answered = Answered(seq, message.outcome, value)
        if message.difference is None:
            return self._after((), answered)
        events = self._advance(message.difference)
        return self._after(events, answered)

    def _after(self, events: Events, event: Event) -> Events:
        """An event that is to be seen after an update, which may have been wrong."""
        if self.follower.resyncing:
            self._hold(event)
            return events
        return (events[0], event) if events else (event,)

    def _hold(self, event: Event) -> None:
        """Keeps an event until the snapshot is here, which the server has been asked for."""
        memory, limit = self.memory, self._options.payload_limit
        if isinstance(event, Delivered):
            memory.held_size += len(event.data)
            if memory.held and memory.held_size > limit:
                raise ProtocolError(
                    f"Payloads of {memory.held_size} bytes came before the snapshot that was "
                    f"asked for; payload_limit allows {limit}."
                )
        memory.held.append(event)

    def _released(self) -> list[Event]:
        held, self.memory.held, self.memory.held_size = self.memory.held, [], 0
        return held

    def _update(self, message: wire.Update) -> Events:
        return self._advance(message.difference)

    def _step(self, message: wire.Step) -> Events:
        events = self._advance(message.difference)
        if events and isinstance(events[0], Advanced):
            return (Stepped(message.difference.pairs, message.type, message.called),)
        return events

    def _payload(self, message: wire.Payload) -> Events:
        data = self._inbox.claim(message.data)
        memory = self.memory
        if message.number <= memory.payloads:
            return ()  # it came before the reconnect
        if message.number != memory.payloads + 1:
            raise ProtocolError(f"Payload {message.number} after payload {memory.payloads}.")
        memory.payloads = message.number
        self._late_bytes += len(data)
        self._owes = True
        return self._after((), Delivered(message.name, data))

    def _on_item(self, message: wire.Item) -> Events:
        events = super()._on_item(message)
        return self._after((), *events) if events else ()  # type: ignore[arg-type]

    def _stop(self, message: wire.Stop) -> Events:
        upload = self.memory.uploads.pop(message.seq, None)
        return () if upload is None else (StreamEnded(message.seq, None),)

    def _went_on(self, seq: int) -> None:
        upload = self.memory.uploads[seq]
        if upload.ended:
            self._send_end(seq, upload)

    def _snapshot(self, message: wire.Snapshot) -> Events:
        if not self.follower.resyncing:
            raise ProtocolError("A snapshot that nobody asked for.")
        return [Advanced(self.follower.load(message.clock)), *self._released()]

    def _advance(self, difference: wire.Difference) -> Events:
        follower = self.follower
        if follower.resyncing:
            return ()
        if follower.apply(difference):
            return (Advanced(difference.pairs),)
        self._send(wire.Resync())
        return (Resynced(),)

    _phases: ClassVar[dict[Phase, Handlers]] = {
        Phase.CHALLENGE: {wire.Challenge: _challenge},
        Phase.WELCOME: {wire.Welcome: _welcome},
        Phase.SYNCED: {wire.Synced: _synced},
        Phase.OPEN: {
            **Session._shared,
            wire.Answer: _answer,
            wire.Update: _update,
            wire.Step: _step,
            wire.Payload: _payload,
            wire.Snapshot: _snapshot,
            wire.Item: _on_item,
            wire.Stop: _stop,
        },
    }
