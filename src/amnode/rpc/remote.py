"""What a client asked of a source, and waits for: results, streams, and who keeps them.

`Conversation` is the client's end of a session: it sends what is asked over whatever connection
there is, keeps it while there is none, and hands out what comes back. Rules:

1. What is asked leaves in that order, each once (see `protocol/calls.py`).
2. Everything that was asked ends: with its answer, or with why there will be none, which says
   whether it may have run.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar, cast
from weakref import WeakValueDictionary

import msgspec

from amnode.errors import (
    AmnodeError,
    ConnectionLost,
    DeliveryError,
    RefusedError,
    RpcError,
)
from amnode.errors import Outcome as Known
from amnode.machine.queue import CANCELED, EXECUTED, Result
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.client_session import ClientSession
from amnode.rpc.protocol.memory import ClientMemory
from amnode.rpc.protocol.session import Allowed, Answered, Event, Streamed, StreamEnded
from amnode.rpc.protocol.wire import DECODE_ERRORS, NIL, Outcome, Value
from amnode.rpc.streams import Incoming, Pump
from amnode.rpc.transport.port import Connection

T = TypeVar("T")

_EXECUTED = Outcome.EXECUTED


class Settled(Protocol):
    """What an answer goes to."""

    seq: int

    def settle(self, outcome: Outcome, value: msgspec.Raw, error: Exception | None) -> None:
        """The answer is here, or never will be."""
        ...


class RemoteResult:
    """The answer to a remote mutation: an awaitable that need not be awaited.

    Awaiting it gives `EXECUTED` or `CANCELED`, or raises the error that the answer carries. If
    the last task that awaits it is cancelled, the source is told, and may stop the work.
    """

    __slots__ = ("_calls", "_error", "_outcome", "_value", "_waiters", "seq")

    def __init__(self, calls: Conversation, seq: int) -> None:
        self._calls = calls
        #: The number of the mutation in its session.
        self.seq = seq
        self._outcome: Outcome | None = None
        self._value = NIL
        self._error: Exception | None = None
        #: None while nobody waits, as for most that are sent together.
        self._waiters: list[asyncio.Future[None] | _Then] | None = None

    @property
    def done(self) -> bool:
        """Whether the answer is here."""
        return self._outcome is not None

    @property
    def value(self) -> msgspec.Raw:
        """What the answer carried, as msgpack; nil before, and if it carried nothing."""
        return self._value

    @property
    def error(self) -> Exception | None:
        """What awaiting it raises, once it is done."""
        return self._error

    def __bool__(self) -> bool:
        """False only if the mutation was canceled, or failed.

        Raises:
            RpcError: it is not answered yet.
        """
        if self._outcome is None:
            raise RpcError("This mutation is not answered yet; await it first.")
        return self._outcome is _EXECUTED

    def __await__(self) -> Generator[Any, None, Result]:
        if self._outcome is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = [waiter]
            else:
                self._waiters.append(waiter)
            try:
                yield from waiter
            except asyncio.CancelledError:
                self._forget(waiter)
                raise
        if self._error is not None:
            raise self._error
        return EXECUTED if self._outcome is _EXECUTED else CANCELED

    def __repr__(self) -> str:
        return f"<RemoteResult {self.seq} {self._outcome.name if self._outcome else 'open'}>"

    def then(self, callback: Callable[[RemoteResult], None]) -> None:
        """Calls back with this once it is done; for who has no task to wait in.

        Args:
            callback: called as soon as the answer is here, at once if it is; must not raise.
        """
        if self._outcome is not None:
            callback(self)
        elif self._waiters is None:
            self._waiters = [_Then(self, callback)]
        else:
            self._waiters.append(_Then(self, callback))

    def _forget(self, waiter: asyncio.Future[None]) -> None:
        """A task that waited was cancelled; if it was the last, nobody waits any more."""
        if self._waiters and waiter in self._waiters:
            self._waiters.remove(waiter)
            if not self._waiters:
                self._calls.cancel(self.seq)

    def settle(self, outcome: Outcome, value: msgspec.Raw, error: Exception | None) -> None:
        """The answer is here, or never will be."""
        self._outcome = outcome
        self._value = value
        self._error = error
        if self._waiters:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters = None


class _Then:
    """Among those who wait for a result, one that is called back."""

    __slots__ = ("_callback", "_result")

    def __init__(self, result: RemoteResult, callback: Callable[[RemoteResult], None]) -> None:
        self._result = result
        self._callback = callback

    def done(self) -> bool:
        """Like a future that nobody has cancelled."""
        return False

    def set_result(self, _result: None) -> None:
        """The answer is here."""
        self._callback(self._result)


class RemoteCall(Generic[T]):
    """A remote mutation that is awaited for the value of its answer.

    Attributes:
        result: the answer, without its value.
    """

    __slots__ = ("_decoder", "result")

    def __init__(self, result: RemoteResult, type_: type[T]) -> None:
        self.result = result
        self._decoder = _decoder_of(type_)

    def __await__(self) -> Generator[Any, None, T]:
        outcome = yield from self.result.__await__()
        if outcome is CANCELED:
            raise RefusedError("The source canceled the mutation.")
        try:
            return cast("T", self._decoder.decode(self.result.value))
        except DECODE_ERRORS as error:
            raise DeliveryError(f"The answer is not what was expected: {error}.") from error


class RemoteCheck:
    """A question to the source that is awaited for yes or no."""

    __slots__ = ("_result",)

    def __init__(self, result: RemoteResult) -> None:
        self._result = result

    def __await__(self) -> Generator[Any, None, bool]:
        outcome = yield from self._result.__await__()
        return outcome is EXECUTED


class Conversation:
    """The client's end of a session, over any number of connections.

    Args:
        session: of its first connection.
        connection: that connection.
    """

    def __init__(self, session: ClientSession, connection: Connection) -> None:
        self._session = session
        self._memory = session.memory
        self._connection: Connection | None = connection
        self._results: dict[int, Settled] = {}
        self._pumps: dict[int, Pump] = {}
        #: Weak, so that one which nobody reads any more is closed.
        self._streams: WeakValueDictionary[int, Incoming[Any]] = WeakValueDictionary()
        #: Whether there ever was one: an empty weak dictionary is slow to say that it is.
        self._has_streams = False
        self._over: ConnectionLost | None = None

    @property
    def memory(self) -> ClientMemory:
        """What resumes the session."""
        return self._memory

    def __len__(self) -> int:
        """How many mutations wait for their answer."""
        return len(self._results)

    # -- for the replica -------------------------------------------------------------------

    @property
    def queue_tick(self) -> int:
        """Of the source."""
        return self._session.follower.queue_tick

    @property
    def machine_tick(self) -> int:
        """Of the source."""
        return self._session.follower.machine_tick

    def call(
        self,
        type_: int,
        states: list[int],
        args: object,
        upload: AsyncIterator[Any] | None = None,
    ) -> RemoteResult:
        """Sends a mutation; when the session is over, the result fails.

        Raises:
            DeliveryError: the arguments cannot be encoded, or are too large; nothing was sent.
            RefusedError: too many mutations wait for their answer.
        """
        if self._over is not None:
            return self._failed()
        value = NIL if args is None else wire.encode(args, "The arguments")
        if upload is not None:
            return self._ask(type_, states, value, upload)
        seq = self._session.ask(type_, states, value)
        result = self._results[seq] = RemoteResult(self, seq)
        connection = self._connection
        if connection is not None:
            if len(self._results) == 1:
                connection.hurry()
            else:  # who does not wait for each answer may have more to say in this turn
                connection.wake()
        return result

    def begin(self, type_: int, states: list[int], value: Value, result: Settled) -> None:
        """Sends a mutation whose answer settles `result`; see `call`.

        Its answer may be there before this returns, if the session is over.
        """
        if self._over is not None:
            result.settle(Outcome.UNKNOWN, NIL, self._over_as(Known.NOT_RUN))
            return
        seq = result.seq = self._session.ask(type_, states, value)
        self._results[seq] = result
        connection = self._connection
        if connection is not None:
            if len(self._results) == 1:
                connection.hurry()
            else:
                connection.wake()

    def stream(
        self,
        type_: int,
        states: list[int],
        args: object,
        item_type: type[T],
        upload: AsyncIterator[Any] | None = None,
    ) -> Incoming[T]:
        """Sends a mutation whose answer is a stream; see `call`."""
        if self._over is not None:
            stream = Incoming(self, 0, item_type, lambda: None)
            stream.end(self._over_as(Known.NOT_RUN))
            return stream
        value = NIL if args is None else wire.encode(args, "The arguments")
        result = self._ask(type_, states, value, upload, download=True)
        seq = result.seq
        self._has_streams = True
        stream = self._streams[seq] = Incoming(self, seq, item_type, lambda: self.cancel(seq))
        return stream

    def begin_stream(
        self,
        type_: int,
        states: list[int],
        value: Value,
        result: Settled,
        decode: Callable[[msgspec.Raw], T],
    ) -> Incoming[T]:
        """Sends a mutation whose answer is a stream, and settles `result` after it."""
        if self._over is not None:
            stream: Incoming[Any] = Incoming(self, 0, object, lambda: None)
            stream.end(self._over_as(Known.NOT_RUN))
            result.settle(Outcome.UNKNOWN, NIL, self._over_as(Known.NOT_RUN))
            return stream
        seq = result.seq = self._session.ask(type_, states, value, download=True)
        self._results[seq] = result
        self._hurry()
        stream = Incoming(self, seq, object, lambda: self.cancel(seq), decode)
        self._has_streams = True
        self._streams[seq] = stream
        return stream

    def cancel(self, seq: int) -> None:
        """Nobody waits for an answer any more."""
        if self._session.cancel(seq):  # it had not even left
            self._settle(seq, Outcome.CANCELED, NIL, None)
        self._hurry()

    # -- the port of streams ---------------------------------------------------------------

    def has_room(self, seq: int) -> bool:
        """See `Port`."""
        return self._session.has_room(seq)

    def send_item(self, seq: int, value: Value) -> None:
        """See `Port`."""
        self._session.send_item(seq, value)
        self._hurry()

    def consumed(self, seq: int, size: int) -> None:
        """See `Port`."""
        self._session.consumed(seq, size)
        self._hurry()

    # -- for the link ----------------------------------------------------------------------

    def answered(self, event: Answered) -> None:
        """An answer came."""
        outcome = event.outcome
        if outcome is _EXECUTED and not (self._pumps or self._has_streams):
            self._results.pop(event.seq).settle(outcome, event.value, None)
        elif outcome is _EXECUTED or outcome is Outcome.CANCELED:
            self._settle(event.seq, outcome, event.value, None)
        elif outcome is Outcome.ERROR:
            self._settle(event.seq, outcome, NIL, wire.error_from_raw(event.value))
        else:
            self._settle(event.seq, outcome, NIL, _not_remembered(ran=event.value == wire.TRUE))

    def happened(self, event: Event) -> None:
        """Something about a stream."""
        if isinstance(event, Streamed):
            if (stream := self._streams.get(event.seq)) is not None:
                stream.put(event.data)
        elif isinstance(event, Allowed):
            if (pump := self._pumps.get(event.seq)) is not None:
                pump.allowed()
        elif isinstance(event, StreamEnded) and (pump := self._pumps.get(event.seq)):
            pump.cancel()

    def cut(self) -> None:
        """The connection is gone; what is asked from now on is kept for the next."""
        self._session.cut()
        self._connection = None

    def go_on(self, session: ClientSession, connection: Connection) -> bool:
        """There is a new connection; False if its session is a new one (rule 2)."""
        self._session, self._connection = session, connection
        resumed = session.memory is self._memory
        if not resumed:
            left = bool(self._results)
            self._fail("The session was lost: the server was restarted, or waited too long.")
            self._memory = session.memory
            return not left
        return True

    def end(self, error: ConnectionLost) -> None:
        """The session is over: everything that is pending fails, once."""
        if self._over is None:
            self._over = error
            self._session.cut()
            self._connection = None
            self._fail(str(error), error.__cause__)

    # -- inside ----------------------------------------------------------------------------

    def _ask(
        self,
        type_: int,
        states: list[int],
        value: Value,
        upload: AsyncIterator[Any] | None,
        *,
        download: bool = False,
    ) -> RemoteResult:
        seq = self._session.ask(
            type_, states, value, upload=upload is not None, download=download
        )
        result = self._results[seq] = RemoteResult(self, seq)
        if upload is not None:
            self._pumps[seq] = Pump(self, seq, upload, lambda error: self._uploaded(seq, error))
        self._hurry()
        return result

    def _uploaded(self, seq: int, error: AmnodeError | None) -> None:
        self._session.end_upload(seq, error)
        self._hurry()

    def _settle(
        self, seq: int, outcome: Outcome, value: msgspec.Raw, error: Exception | None
    ) -> None:
        result = self._results.pop(seq)
        result.settle(outcome, value, error)
        if self._pumps and (pump := self._pumps.pop(seq, None)) is not None:
            pump.cancel()
        if self._streams and (stream := self._streams.pop(seq, None)) is not None:
            if error is None and outcome is Outcome.CANCELED:
                error = RefusedError("The source canceled the mutation.")
            stream.end(error)

    def _fail(self, why: str, cause: BaseException | None = None) -> None:
        """All that is pending will have no answer (rule 2)."""
        memory = self._memory
        for seq in [*self._results]:
            sent = seq not in memory.asked or memory.asked[seq].sent
            error = ConnectionLost(why, outcome=Known.UNKNOWN if sent else Known.NOT_RUN)
            error.__cause__ = cause
            self._settle(seq, Outcome.UNKNOWN, NIL, error)

    def _failed(self) -> RemoteResult:
        result = RemoteResult(self, 0)
        result.settle(Outcome.UNKNOWN, NIL, self._over_as(Known.NOT_RUN))
        return result

    def _over_as(self, outcome: Known) -> ConnectionLost:
        return ConnectionLost(str(self._over), outcome=outcome)

    def _hurry(self) -> None:
        if self._connection is not None:
            self._connection.hurry()


def _not_remembered(*, ran: bool) -> ConnectionLost:
    known = "it has run, and its answer is lost" if ran else "whether it ran is unknown"
    return ConnectionLost(
        "The connection was cut before the answer to the mutation came, and the server does "
        f"not remember that: {known}.",
        outcome=Known.RUN if ran else Known.UNKNOWN,
    )


@lru_cache(maxsize=256)
def _decoder_of(type_: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(type_)
