"""Service: what one client asks of a source is run there, and answered.

It lets `Gate` decide whether the client may, has the source run it, and answers with the
difference. It works on whatever connection the client's `RpcServer` has; while there is none,
what is answered is kept. Rules:

1. Mutations run in the order sent, each before the next is read.
2. Each is answered once: when it ran, or, if a handler deferred it, when the handler says so.
3. While more than `outgoing_limit` waits for the client, what it asks for is not run, but kept,
   at most `body_limit` bytes of it; credits are still read, since they are what it goes on
   with.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from amnode.errors import AmnodeError, ConnectionLost, DeliveryError, RefusedError, RpcError
from amnode.machine.machine import Machine
from amnode.machine.queue import CANCELED, EXECUTED, MutationType, Result
from amnode.rpc.exposure import Gate
from amnode.rpc.network_machine import NetworkMachine, RemoteResult
from amnode.rpc.options import RpcOptions
from amnode.rpc.origin import Deferred, Origin
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.server_session import ServerSession
from amnode.rpc.protocol.session import Allowed, Called, Streamed, StreamEnded
from amnode.rpc.protocol.wire import NIL, Outcome, Request, Value
from amnode.rpc.streams import Incoming, Outlet, Pump
from amnode.rpc.transport.port import Connection

if TYPE_CHECKING:
    from amnode.rpc.server import RpcServer

T = TypeVar("T")

_EXECUTED = Outcome.EXECUTED
_ADD, _REMOVE = int(MutationType.ADD), int(MutationType.REMOVE)
_FIRST_REQUEST = int(Request.CAN_ADD)


class Service:
    """Runs and answers what the client of a server asks for.

    Args:
        server: whose client it is.
        source: the machine that it asks.
        gate: what it may do.
        session: of the connection that there is now.
        options: the limits.

    Attributes:
        server: whose client it is.
        session: of the connection that there is now, or was last.
        connection: None while there is none.
    """

    def __init__(
        self,
        server: RpcServer,
        source: Machine | NetworkMachine,
        gate: Gate,
        session: ServerSession,
        options: RpcOptions,
    ) -> None:
        self.server = server
        self.session = session
        self.connection: Connection | None = None
        self._source = source
        self._gate = gate
        self._options = options
        self._deferred: dict[int, Deferred] = {}
        self._pumps: dict[int, Pump | Outlet] = {}
        self._uploads: dict[int, Incoming[Any]] = {}
        self._queued: dict[asyncio.Task[None], None] = {}
        #: Mutations that wait in the source's queue, and for which nobody waits any more.
        self._forsaken: dict[int, None] = {}
        self._awaited: dict[int, asyncio.Task[None]] = {}
        #: Mutations that wait until the client has taken some of what it asked for (rule 3).
        self._waiting: deque[Called] = deque()
        self._waiting_size = 0
        self._serving: asyncio.Handle | None = None

    # -- what the client says --------------------------------------------------------------

    def called(self, event: Called) -> None:
        """It asks for something (rules 1 and 3)."""
        if self._waiting or self.session.is_behind:
            self._keep_waiting(event)
        else:
            self._run(event)

    def cancelled(self, seq: int) -> None:
        """Nobody waits for an answer any more, which is still due."""
        deferred = self._deferred.get(seq)
        task = self._awaited.get(seq)
        if deferred is None and task is None and not self._take_back(seq):
            self._forsaken[seq] = None  # it waits for its turn in the queue, and will run
            return
        self.session.answer(seq, Outcome.CANCELED)
        self._deferred.pop(seq, None)
        self._forget(seq)
        if deferred is not None:
            deferred.cancel()
        if task is not None:
            task.cancel()

    def streamed(self, event: Allowed | Streamed | StreamEnded) -> None:
        """Something about a stream."""
        if isinstance(event, Allowed):
            if (pump := self._pumps.get(event.seq)) is not None:
                pump.allowed()
        elif (incoming := self._uploads.get(event.seq)) is None:
            return
        elif isinstance(event, Streamed):
            incoming.put(event.data)
        else:
            incoming.end(event.error)

    @property
    def waits(self) -> bool:
        """Whether something is not run because the client has much to take."""
        return bool(self._waiting)

    def look(self) -> None:
        """The client may have taken some of what waits for it (rule 3)."""
        if self._serving is not None:
            return
        if self.session.backlog <= self._options.outgoing_limit:
            loop = asyncio.get_running_loop()
            self._serving = loop.call_soon(self._serve_waiting, context=Context())

    def end(self, reason: str) -> None:
        """Nobody waits for anything any more."""
        for task in (*self._queued, *self._awaited.values()):
            task.cancel()
        self._waiting.clear()
        if self._serving is not None:
            self._serving.cancel()
        deferred, self._deferred = self._deferred, {}
        for left in deferred.values():
            left.cancel()
        uploads, self._uploads = self._uploads, {}
        for incoming in uploads.values():
            incoming.end(ConnectionLost(f"The stream was cut: {reason}"))

    # -- for origins -----------------------------------------------------------------------

    def answer(self, seq: int, outcome: Outcome, value: Value) -> None:
        """Answers a mutation, with the difference up to now.

        Raises:
            DeliveryError: the value is too large; the client is told so.
        """
        self._deferred.pop(seq, None)
        if self._pumps or self._uploads or self._forsaken:
            self._forget(seq)
        if (
            outcome is _EXECUTED
            and type(value) is msgspec.Raw
            and self.session.answer_small(seq, value)
        ):
            if self.connection is not None:
                self.connection.wake()
            return
        try:
            self.session.answer(seq, outcome, value)
        except DeliveryError as error:
            self.server.machine.add_err_state("ErrSendPayload", error)
            self.not_provided(error)
            raise
        finally:
            self._wake()

    def not_provided(self, error: DeliveryError) -> None:
        """The source made something for a client that cannot cross."""
        source = self._source
        if isinstance(source, Machine) and "ErrProviding" in source.schema:
            source.add_err_state("ErrProviding", error)

    def answer_plainly(self, seq: int) -> None:
        """Answers a mutation that was executed, has no value, and was not deferred."""
        if self._forsaken:
            self._forsaken.pop(seq, None)
        self.session.answer(seq, _EXECUTED)
        if self.connection is not None:
            self.connection.wake()

    def keep(self, seq: int, deferred: Deferred) -> None:
        """Remembers an answer that is to come, to be told if nobody waits for it any more."""
        self._deferred[seq] = deferred
        if self._forsaken and self._forsaken.pop(seq, self) is not self:
            self.cancelled(seq)
            self._wake()

    def start_download(
        self,
        seq: int,
        items: AsyncIterator[Any],
        done: Callable[[AmnodeError | None], object],
    ) -> Pump:
        """Sends items to the client, before the answer to a mutation.

        Raises:
            RpcError: the client asked for one answer, not for a stream.
        """
        self._check_stream(seq)
        pump = self._pumps[seq] = Pump(self, seq, items, done)
        return pump

    def open_download(self, seq: int) -> Outlet:
        """The same for items that somebody sends by himself, who then answers.

        Raises:
            RpcError: see `start_download`.
        """
        self._check_stream(seq)
        outlet = self._pumps[seq] = Outlet(self, seq)
        return outlet

    def _check_stream(self, seq: int) -> None:
        if not self.session.wants_stream(seq):
            raise RpcError("The client asked for one answer; it reads a stream with `stream`.")

    def start_upload(self, seq: int, item_type: type[T]) -> Incoming[T]:
        """Reads the items that come with a mutation."""
        if seq in self._uploads:
            raise RpcError("The stream of this mutation is being read already.")
        incoming = self._uploads[seq] = Incoming(
            self, seq, item_type, lambda: self._close_upload(seq)
        )
        self.session.open_upload(seq)
        self._wake()
        return incoming

    # -- the port of streams ---------------------------------------------------------------

    def has_room(self, seq: int) -> bool:
        """See `Port`."""
        return self.session.has_room(seq)

    def send_item(self, seq: int, value: Value) -> None:
        """See `Port`."""
        self.session.send_item(seq, value)
        self._wake()

    def consumed(self, seq: int, size: int) -> None:
        """See `Port`."""
        self.session.consumed(seq, size)
        self._wake()

    # -- inside -----------------------------------------------------------------

    def _serve_waiting(self) -> None:
        self._serving = None
        limit = self._options.outgoing_limit
        try:
            while self._waiting and self.session.backlog <= limit:
                event = self._waiting.popleft()
                self._waiting_size -= len(event.args)
                self._run(event)
        except Exception as error:  # a callback of the program, or a fault here
            self.server.broke(error)
        self._wake()

    def _keep_waiting(self, event: Called) -> None:
        size = len(event.args)
        if self._waiting_size + size > self._options.body_limit:
            error = RefusedError(
                f"Arguments of {size} bytes came while {self._waiting_size} wait for this "
                f"client to take its answers; body_limit allows {self._options.body_limit}."
            )
            self.session.answer(event.seq, Outcome.ERROR, wire.error_to_raw(error))
            return
        self._waiting_size += size
        self._waiting.append(event)

    def _take_back(self, seq: int) -> bool:
        """Takes a mutation back that waits (rule 3); False if it does not."""
        for event in self._waiting:
            if event.seq == seq:
                self._waiting.remove(event)
                self._waiting_size -= len(event.args)
                return True
        return False

    def _run(self, event: Called) -> None:
        if event.type >= _FIRST_REQUEST:
            self._requested(event)
            return
        origin = Origin(self, event.seq)
        try:
            args = self._gate.check(self.server.role, event.type, event.states, event.args)
            takers = self._gate.takers
            if takers and event.type == _ADD and len(event.states) == 1:
                taker = takers.get(event.states[0])
                if taker is not None and taker(args, origin):
                    return
            if isinstance(self._source, NetworkMachine):
                self._forward(self._source, event, args, origin)
                return
            result = self._mutate(self._source, event.type, event.states, args, origin)
        except AmnodeError as error:  # refused before anything was changed
            self.session.answer(event.seq, Outcome.ERROR, wire.error_to_raw(error))
            return
        if result is EXECUTED or result is CANCELED:
            origin.ran(result)
        else:
            loop = asyncio.get_running_loop()
            task = loop.create_task(self._ran_later(origin, result), context=Context())
            self._queued[task] = None
            task.add_done_callback(lambda done: self._queued.pop(done, None))

    def _mutate(
        self, source: Machine, type_: int, states: Sequence[int], args: object, origin: Origin
    ) -> Result:
        names = self._gate.names
        if len(states) == 1:
            if type_ == _ADD:
                return source.add1(names[states[0]], args, origin)
            if type_ == _REMOVE:
                return source.remove1(names[states[0]], args, origin)
        mutate = (source.add, source.remove, source.set, source.toggle)[type_]
        return mutate([names[i] for i in states], args, origin=origin)

    def _forward(
        self, source: NetworkMachine, event: Called, args: object, origin: Origin
    ) -> None:
        """Asks a source that is a replica, which asks its own; streams both ways included."""
        type_, seq = MutationType(event.type), event.seq
        upload = self.start_upload(seq, msgspec.Raw)
        if self.session.wants_stream(seq):
            answer = origin.defer()
            answer.release()
            answer.stream(source.forward_stream(type_, event.states, args, upload))
        else:
            self._await(seq, source.forward(type_, event.states, args, upload))

    async def _ran_later(self, origin: Origin, result: Result) -> None:
        origin.ran(await result)

    def _requested(self, event: Called) -> None:
        """What reads the source, and changes nothing."""
        try:
            answer = self._ask_source(event)
        except AmnodeError as error:
            self.session.answer(event.seq, Outcome.ERROR, wire.error_to_raw(error))
            return
        if isinstance(answer, bool):
            outcome = Outcome.EXECUTED if answer else Outcome.CANCELED
            self.session.answer(event.seq, outcome)
        else:
            self._await(event.seq, answer)

    def _ask_source(self, event: Called) -> bool | Awaitable[object]:
        gate, source = self._gate, self._source
        if event.type == Request.WHEN_ARGS:
            return source.when_args(
                *gate.check_match(self.server.role, event.states, event.args)
            )
        adds = event.type == Request.CAN_ADD
        try:
            type_ = MutationType.ADD if adds else MutationType.REMOVE
            args = gate.check(self.server.role, type_, event.states, event.args)
        except RefusedError:
            return False
        names = [gate.names[i] for i in event.states]
        return source.can_add(names, args) if adds else source.can_remove(names, args)

    def _await(self, seq: int, result: Awaitable[object]) -> None:
        """Answers a mutation with what something else will say."""
        loop = asyncio.get_running_loop()
        task = loop.create_task(self._answer_later(seq, result), context=Context())
        self._awaited[seq] = task
        task.add_done_callback(lambda _done: self._awaited.pop(seq, None))

    async def _answer_later(self, seq: int, result: Awaitable[object]) -> None:
        try:
            outcome = await result
        except AmnodeError as error:
            self.answer(seq, Outcome.ERROR, wire.error_to_raw(error))
            return
        said_no = outcome is CANCELED or outcome is False
        value = result.value if isinstance(result, RemoteResult) else NIL
        self.answer(seq, Outcome.CANCELED if said_no else _EXECUTED, value)

    def _forget(self, seq: int) -> None:
        """A mutation is answered: its streams are over."""
        self._forsaken.pop(seq, None)
        self._pumps.pop(seq, None)
        incoming = self._uploads.pop(seq, None)
        if incoming is not None:
            incoming.end(RpcError("The mutation of this stream is answered."))

    def _close_upload(self, seq: int) -> None:
        self.session.close_upload(seq)
        self._wake()

    def _wake(self) -> None:
        if self.connection is not None:
            self.connection.wake()
