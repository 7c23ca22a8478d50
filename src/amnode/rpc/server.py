"""RpcServer: one source, one client, one connection.

It takes what the client asks for, lets `Gate` decide whether it may, has the source run it, and
answers with the difference. What its machine says (`ServerStates`) follows what it does; the
machine has no part in a call.

Rules:

1. Mutations run in the order sent, each before the next is read.
2. Each is answered once: when it ran, or, if a handler deferred it, when the handler says so.
3. Nothing reaches the source before the handshake is done.
4. The end comes once: deferred answers are cancelled, the host is told, the machine ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Protocol

import msgspec

from amnode.errors import (
    AmnodeError,
    ConnectionLost,
    DeliveryError,
    RpcError,
    RpcTimeoutError,
)
from amnode.machine.machine import Machine
from amnode.machine.queue import CANCELED, EXECUTED, MutationType, Result
from amnode.rpc.exposure import Gate
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.handshake import SecretOf, ServerHandshake
from amnode.rpc.protocol.session import (
    Called,
    Cancelled,
    Closed,
    Event,
    Greeted,
    Opened,
    Resynced,
    ServerSession,
)
from amnode.rpc.protocol.wire import NIL, Outcome, Role
from amnode.rpc.states import ServerStates
from amnode.rpc.transport import Connection

_EXECUTED = Outcome.EXECUTED
_ADD = int(MutationType.ADD)
#: The types of which there is a quick form for one state.
_SINGLE = (_ADD, int(MutationType.REMOVE))


class Origin:
    """Who asked for a mutation from outside: `event.mutation.origin`."""

    __slots__ = ("_deferred", "_ran", "_refusal", "_seq", "connection")

    def __init__(self, connection: RpcServer, seq: int) -> None:
        #: The server through which it came.
        self.connection = connection
        self._seq = seq
        self._ran = False
        self._deferred: Deferred | None = None
        self._refusal: AmnodeError | None = None

    @property
    def client_id(self) -> str:
        """The id that the client proved to have."""
        return self.connection.client_id

    def defer(self) -> Deferred:
        """Keeps the answer back until `Deferred.answer` or `fail`; others pass it.

        To be called by a handler of the mutation that is no coroutine: those start when it has
        run. Calling it again returns the same.

        Raises:
            RpcError: the mutation has run, and is answered.
        """
        if self._deferred is None:
            if self._ran:
                raise RpcError("Too late to defer: the mutation has run and is answered.")
            self._deferred = Deferred(self.connection, self._seq)
        return self._deferred

    def refuse(self, error: AmnodeError) -> None:
        """Has the answer carry this error, if the mutation is canceled.

        To be called by a negotiation handler that returns False.
        """
        self._refusal = error

    def ran(self, result: Result) -> None:
        """Answers, now that the mutation has run (rule 2)."""
        self._ran = True
        deferred = self._deferred
        if result is not CANCELED:
            if deferred is None:
                self.connection.answer_plainly(self._seq)
            else:
                deferred.release()
            return
        if deferred is not None:
            self._refusal = self._refusal or deferred.failure
            deferred.cancel()
        if self._refusal is None:
            self.connection.answer(self._seq, Outcome.CANCELED, NIL)
        else:
            self.connection.answer(self._seq, Outcome.ERROR, wire.error_to_raw(self._refusal))


class Deferred:
    """An answer that is sent later.

    Attributes:
        done: whether it was given, or nobody waits for it any more.
        cancelled: whether nobody waits for it any more: the client took it back, the connection
            is gone, or the mutation was canceled after all.
    """

    __slots__ = ("_callbacks", "_connection", "_kept", "_released", "_seq", "cancelled", "done")

    def __init__(self, connection: RpcServer, seq: int) -> None:
        self._connection = connection
        self._seq = seq
        self._callbacks: list[Callable[[], object]] = []
        self._kept: tuple[Outcome, msgspec.Raw] | None = None
        self._released = False
        self.done = False
        self.cancelled = False
        connection.keep(seq, self)

    @property
    def failure(self) -> AmnodeError | None:
        """The error that it was failed with before the mutation had run."""
        if self._kept is None or self._kept[0] is not Outcome.ERROR:
            return None
        return wire.error_from_raw(self._kept[1])

    def answer(self, value: object = None) -> None:
        """Answers with a value, which anything that msgspec encodes may be.

        Does nothing if it is done. Inside the mutation itself the answer waits for its end.

        Raises:
            DeliveryError: the value cannot be encoded, or fits no frame; the client is told so.
        """
        if self.done:
            return
        try:
            raw = wire.encode(value, "The answer")
        except DeliveryError as error:
            self.fail(error)
            raise
        self._settle(Outcome.EXECUTED, raw)

    def fail(self, error: AmnodeError) -> None:
        """Answers with an error, which the client's await raises; see `answer`."""
        if not self.done:
            self._settle(Outcome.ERROR, wire.error_to_raw(error))

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Has `callback` called once when nobody waits any more; at once if that is so."""
        if self.cancelled:
            callback()
        elif not self.done:
            self._callbacks.append(callback)

    def release(self) -> None:
        """The mutation has run: the answer may leave."""
        self._released = True
        if self._kept is not None:
            self._connection.answer(self._seq, *self._kept)

    def cancel(self) -> None:
        """Nobody waits any more."""
        if self.cancelled or (self.done and self._released):
            return
        self.done = self.cancelled = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._connection.guard(callback)

    def _settle(self, outcome: Outcome, value: msgspec.Raw) -> None:
        self.done = True
        self._callbacks.clear()
        if self._released:
            self._connection.answer(self._seq, outcome, value)
        else:
            self._kept = (outcome, value)


class Host(Protocol):
    """Who made a server, and is told of its life."""

    def admit(self, server: RpcServer) -> str | None:
        """The client has proved itself; a text is why it is not admitted."""
        ...

    def opened(self, server: RpcServer) -> None:
        """The handshake is done."""
        ...

    def ended(self, server: RpcServer, reason: str) -> None:
        """The server serves no more."""
        ...

    def disconnected(self, server: RpcServer) -> None:
        """Its connection is no more."""
        ...


class RpcServer:
    """One source, one client; made by a `Mux`. The handler of one connection.

    Args:
        source: the machine that the client follows.
        id: of the server's own machine.
        server_id: what the client is told in the handshake.
        gate: what the client may do.
        factors: of the source's states, from `sync.mixes`.
        host: who made it.
        secret_of: the secrets of clients.
        nonce: 32 fresh bytes.
        decoy: 32 bytes that nobody knows.
        options: the limits.

    Attributes:
        source: the machine that the client follows.
        machine: what the server says of itself (`ServerStates`).
        client_id: the id in the client's hello; proved from the moment it is admitted.
        role: what the client is there for.
    """

    def __init__(
        self,
        source: Machine,
        *,
        id: str,
        server_id: str,
        gate: Gate,
        factors: Sequence[int],
        host: Host,
        secret_of: SecretOf,
        nonce: bytes,
        decoy: bytes,
        options: RpcOptions,
    ) -> None:
        self.source = source
        self.machine = Machine(ServerStates, id=id)
        self.client_id = ""
        self.role = Role.OBSERVER
        self._gate = gate
        self._host = host
        self._options = options
        handshake = ServerHandshake(server_id, nonce, decoy, secret_of, self._admit)
        self._session = ServerSession(source, factors, handshake, options)
        self._connection: Connection | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._deferred: dict[int, Deferred] = {}
        self._queued: dict[asyncio.Task[None], None] = {}
        self._open = False
        self._ended = False

    def __repr__(self) -> str:
        return f"<RpcServer {self.machine.id} client={self.client_id!r}>"

    @property
    def is_open(self) -> bool:
        """Whether the handshake is done and the client is there."""
        return self._open and not self._ended

    def send_payload(self, name: str, data: object = None) -> None:
        """Sends named data to the client, after all states that the source has had so far.

        Args:
            name: what it is; the client's `ServerPayload` carries it.
            data: anything that msgspec encodes, or a `msgspec.Raw` that is sent as it is.

        Raises:
            DeliveryError: it cannot be encoded, or is over the frame limit.
            ConnectionLost: there is no client any more.
        """
        try:
            self._session.send_payload(name, wire.encode(data, f"Payload {name!r}"))
        except DeliveryError as error:
            self.machine.add_err_state("ErrSendPayload", error)
            raise
        if self._connection is not None:
            self._connection.wake()

    def close(self, reason: str) -> None:
        """Ends the connection in good order; the client is told why."""
        self._session.goodbye(reason)
        self._finish(reason)

    def abort(self) -> None:
        """Cuts the connection; what was not written is dropped."""
        if self._connection is not None:
            self._connection.abort()

    def refuse(self, error: AmnodeError) -> None:
        """Ends the connection with an error, which the client is told."""
        self._session.fail(error)
        self._finish(str(error))

    # -- the connection's handler ----------------------------------------------------------

    def connected(self, connection: Connection) -> None:
        """See `Handler`."""
        self._connection = connection
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(
            self._options.handshake_timeout, self._too_slow, context=Context()
        )
        for state in ("Start", "RpcAccepting", "RpcReady", "ClientConnected"):
            self.machine.add1(state)

    def received(self, data: bytes) -> None:
        """See `Handler`."""
        try:
            for event in self._session.receive(data):
                if type(event) is Called:
                    self._called(event)
                else:
                    self._other(event)
        except Exception as error:  # a callback of the program, or a fault here
            self._broke(error)

    def sink(self) -> None:
        """See `Handler`: nothing is bulk."""

    def sunk(self, count: int) -> None:
        """See `Handler`."""

    def outgoing(self) -> bytes:
        """See `Handler`."""
        return self._session.to_send()

    def lost(self, error: Exception | None) -> None:
        """See `Handler`."""
        if not self._ended:
            lost = ConnectionLost(f"Client {self.client_id!r} is gone{_because(error)}.")
            self.machine.add_err_state("ErrNetwork", lost)
            self._finish(str(lost))
        self._host.disconnected(self)

    # -- for the host and for origins ------------------------------------------------------

    def moved(self, states: Sequence[tuple[int, int]]) -> None:
        """The source moved: pairs of a state's index and its tick."""
        if self._session.mark(states) and self._connection is not None:
            self._connection.wake()

    def source_grew(self) -> None:
        """The source has more states, which this connection does not know."""
        self._session.source_grew()

    def answer(self, seq: int, outcome: Outcome, value: msgspec.Raw) -> None:
        """Answers a mutation, with the difference up to now.

        Raises:
            DeliveryError: the value is over the frame limit; the client is told so.
        """
        self._deferred.pop(seq, None)
        try:
            self._session.answer(seq, outcome, value)
        except DeliveryError as error:
            self.machine.add_err_state("ErrSendPayload", error)
            raise
        finally:
            if self._connection is not None:
                self._connection.wake()

    def answer_plainly(self, seq: int) -> None:
        """Answers a mutation that was executed, has no value, and was not deferred."""
        self._session.answer(seq, _EXECUTED)
        if self._connection is not None:
            self._connection.wake()

    def keep(self, seq: int, deferred: Deferred) -> None:
        """Remembers an answer that is to come, to be told if nobody waits for it any more."""
        self._deferred[seq] = deferred

    def guard(self, callback: Callable[[], object]) -> None:
        """Calls back into the program; what it raises is recorded, and stops nothing."""
        try:
            callback()
        except Exception as error:
            self.machine.add_err(error)

    # -- inside ----------------------------------------------------------------------------

    def _called(self, event: Called) -> None:
        gate = self._gate
        origin = Origin(self, event.seq)
        try:
            args = gate.check(self.role, event.type, event.states, event.args)
            result = self._mutate(event.type, event.states, args, origin)
        except AmnodeError as error:  # refused before anything was changed
            self._session.answer(event.seq, Outcome.ERROR, wire.error_to_raw(error))
            return
        if result is EXECUTED or result is CANCELED:
            origin.ran(result)
        else:
            task = asyncio.get_running_loop().create_task(self._ran_later(origin, result))
            self._queued[task] = None
            task.add_done_callback(lambda done: self._queued.pop(done, None))

    def _mutate(
        self, type_: int, states: Sequence[int], args: object, origin: Origin
    ) -> Result:
        names, source = self._gate.names, self.source
        if len(states) == 1 and type_ in _SINGLE:
            mutate1 = source.add1 if type_ == _ADD else source.remove1
            return mutate1(names[states[0]], args, origin=origin)
        mutate = (source.add, source.remove, source.set, source.toggle)[type_]
        return mutate([names[i] for i in states], args, origin=origin)

    async def _ran_later(self, origin: Origin, result: Result) -> None:
        origin.ran(await result)

    def _other(self, event: Event | Called) -> None:
        if isinstance(event, Cancelled):
            deferred = self._deferred.pop(event.seq, None)
            if deferred is not None:
                self._session.answer(event.seq, Outcome.CANCELED)
                deferred.cancel()
        elif isinstance(event, Greeted):
            self.client_id, self.role = event.client_id, event.role
            self.machine.add1("Handshaking")
        elif isinstance(event, Opened):
            self._opened()
        elif isinstance(event, Resynced):
            self.machine.add1("MetricSync")
        elif isinstance(event, Closed):
            self._closed(event)

    def _admit(self, _client_id: str, _role: Role) -> str | None:
        return self._host.admit(self)

    def _opened(self) -> None:
        self._stop_deadline()
        self._open = True
        self.machine.add1("HandshakeDone")
        self.machine.remove1("Exception")
        self._host.opened(self)

    def _closed(self, event: Closed) -> None:
        orderly = event.by_peer and isinstance(event.error, ConnectionLost)
        if not orderly:
            self.machine.add_err_state("ErrRpc", event.error)
        self._finish(str(event.error))

    def _too_slow(self) -> None:
        seconds = self._options.handshake_timeout
        error = RpcTimeoutError(f"The handshake was not done within {seconds} s.")
        self.machine.add_err_state("ErrNetworkTimeout", error)
        self.refuse(error)

    def _broke(self, error: Exception) -> None:
        """A fault on this side: recorded here, hidden from the peer."""
        self.machine.add_err(error)
        self._session.fail(RpcError("The server failed; its own log says why."))
        self._finish(f"{type(error).__name__}: {error}")

    def _finish(self, reason: str) -> None:
        """The end (rule 4)."""
        if self._ended:
            return
        self._ended = True
        self._stop_deadline()
        if self._connection is not None:
            self._connection.close()
        for task in self._queued:
            task.cancel()
        deferred, self._deferred = self._deferred, {}
        for left in deferred.values():
            left.cancel()
        self.machine.remove(("ClientConnected", "Start"))
        self._host.ended(self, reason)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _because(error: Exception | None) -> str:
    return "" if error is None else f": {error}"
