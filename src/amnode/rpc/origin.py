"""Origin and Deferred: who asked for a mutation from outside, and when it is answered."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from amnode.errors import AmnodeError, DeliveryError, RpcError
from amnode.machine.queue import CANCELED, Result
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.wire import NIL, Outcome, Value
from amnode.rpc.streams import Outlet, Pump

if TYPE_CHECKING:
    from amnode.rpc.server import RpcServer
    from amnode.rpc.service import Service

T = TypeVar("T")


class Origin:
    """Who asked for a mutation from outside: `event.mutation.origin`."""

    __slots__ = ("_deferred", "_ran", "_refusal", "_seq", "_service")

    def __init__(self, service: Service, seq: int) -> None:
        self._service = service
        self._seq = seq
        self._ran = False
        self._deferred: Deferred | None = None
        self._refusal: AmnodeError | None = None

    @property
    def connection(self) -> RpcServer:
        """The server through which it came."""
        return self._service.server

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
            self._deferred = Deferred(self._service, self._seq)
        return self._deferred

    def take_over(self) -> Deferred:
        """The same for who makes the mutation himself (`Taker`): the answer need not wait for
        it.
        """
        deferred = self._deferred = Deferred(self._service, self._seq)
        deferred.released = True
        return deferred

    def items(self, item_type: type[T]) -> AsyncIterator[T]:
        """The stream that comes with the mutation, which the client gave as `upload`.

        It ends when the client's iterator has, with the error that this raised, or when the
        mutation is answered; so a handler that reads it has to `defer` the answer. Closing it
        (`aclose`) closes the client's iterator.

        Args:
            item_type: what each item must be.
        """
        return self._service.start_upload(self._seq, item_type)

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
                self._service.answer_plainly(self._seq)
            else:
                deferred.release()
            return
        if deferred is not None:
            self._refusal = self._refusal or deferred.failure
            deferred.cancel()
        if self._refusal is None:
            self._service.answer(self._seq, Outcome.CANCELED, NIL)
        else:
            self._service.answer(self._seq, Outcome.ERROR, wire.error_to_raw(self._refusal))


class Deferred:
    """An answer that is sent later.

    Attributes:
        done: whether it was given, or nobody waits for it any more.
        cancelled: whether nobody waits for it any more: the client took it back, the connection
            is gone, or the mutation was canceled after all.
        released: whether the answer may leave, since the mutation has run.
    """

    __slots__ = (
        "_callbacks",
        "_kept",
        "_pump",
        "_seq",
        "_service",
        "cancelled",
        "done",
        "released",
    )

    def __init__(self, service: Service, seq: int) -> None:
        self._service = service
        self._seq = seq
        self._callbacks: list[Callable[[], object]] = []
        self._kept: tuple[Outcome, Value] | None = None
        self._pump: Pump | None = None
        self.released = False
        self.done = False
        self.cancelled = False
        service.keep(seq, self)

    @property
    def failure(self) -> AmnodeError | None:
        """The error that it was failed with before the mutation had run."""
        if self._kept is None or self._kept[0] is not Outcome.ERROR:
            return None
        raw = self._kept[1]
        return wire.error_from_raw(raw) if isinstance(raw, msgspec.Raw) else None

    @property
    def wants_stream(self) -> bool:
        """Whether the client reads a stream before the answer."""
        return self._service.session.wants_stream(self._seq)

    def answer(self, value: object = None) -> None:
        """Answers with a value, which anything that msgspec encodes may be.

        Does nothing if it is done. Inside the mutation itself the answer waits for its end.

        Raises:
            DeliveryError: the value cannot be encoded, or fits no frame; the client is told so,
                and it is `ErrProviding` on a source that has this state.
        """
        if self.done:
            return
        try:
            raw = value if type(value) is msgspec.Raw else wire.encode(value, "The answer")
        except DeliveryError as error:
            self._service.not_provided(error)
            self.fail(error)
            raise
        self._settle(Outcome.EXECUTED, raw)

    def fail(self, error: AmnodeError) -> None:
        """Answers with an error, which the client's await raises; see `answer`."""
        if not self.done:
            self._settle(Outcome.ERROR, wire.error_to_raw(error))

    def stream(self, items: AsyncIterator[Any]) -> None:
        """Answers with a stream: each item that `items` gives, then the end.

        The client reads it with `NetworkMachine.stream`. A slow reader makes `items` wait; one
        that stops, or is gone, closes it. What it raises is raised at the client.

        Raises:
            RpcError: the client asked for one answer, not for a stream; it is told so.
        """
        if self.done:
            return
        try:
            self._pump = self._service.start_download(self._seq, items, self._streamed)
        except RpcError as error:
            self.fail(error)
            raise

    def outlet(self) -> Outlet:
        """Where to send the items of a stream, before the answer; see `stream`.

        Raises:
            RpcError: the client asked for one answer, or nobody waits any more.
        """
        if self.done:
            raise RpcError("Nobody waits for this stream any more.")
        return self._service.open_download(self._seq)

    def _streamed(self, error: AmnodeError | None) -> None:
        self._pump = None
        if error is None:
            self.answer()
        else:
            self.fail(error)

    def on_cancel(self, callback: Callable[[], object]) -> None:
        """Has `callback` called once when nobody waits any more; at once if that is so."""
        if self.cancelled:
            callback()
        elif not self.done:
            self._callbacks.append(callback)

    def release(self) -> None:
        """The mutation has run: the answer may leave."""
        self.released = True
        if self._kept is not None:
            self._service.answer(self._seq, *self._kept)

    def cancel(self) -> None:
        """Nobody waits any more."""
        if self.cancelled or (self.done and self.released):
            return
        self.done = self.cancelled = True
        if self._pump is not None:
            self._pump.cancel()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._service.server.guard(callback)

    def _settle(self, outcome: Outcome, value: Value) -> None:
        self.done = True
        self._callbacks.clear()
        if self._pump is not None:
            self._pump.cancel()
        if self.released:
            self._service.answer(self._seq, outcome, value)
        else:
            self._kept = (outcome, value)
