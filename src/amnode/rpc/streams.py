"""Streams between tasks: what was said of one in `protocol/streams.py`, with waiting.

    async for frame in worker.stream(["Film"], args, item_type=bytes):   # at the client
        ...

    def FilmState(self, event):                                          # at the source
        event.mutation.origin.defer().stream(self.frames())

Rules:

1. A slow reader makes the writer wait: the iterator that gives the items is asked for the next
   one only when the one before could be sent.
2. The end comes once, from either side, and closes the iterator that gives the items.
3. What that iterator raises is raised where the items are read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextvars import Context
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from amnode.errors import AmnodeError, DeliveryError, RpcError
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.wire import DECODE_ERRORS, Value

T = TypeVar("T")


class Port(Protocol):
    """The end of the session that a stream is sent through."""

    def has_room(self, seq: int) -> bool:
        """See `Session.has_room`."""
        ...

    def send_item(self, seq: int, value: Value) -> None:
        """See `Session.send_item`."""
        ...

    def consumed(self, seq: int, size: int) -> None:
        """See `Session.consumed`."""
        ...


class Outlet:
    """Where a task of the program sends the items of a stream, one after the other.

    Args:
        port: the end of the session.
        seq: of the mutation.
    """

    def __init__(self, port: Port, seq: int) -> None:
        self._port = port
        self._seq = seq
        self._allowed = asyncio.Event()

    def allowed(self) -> None:
        """More may be sent."""
        self._allowed.set()

    def cancel(self) -> None:
        """Nobody reads it any more; who sends is told by its `Deferred`."""

    async def send(self, item: object) -> None:
        """Sends an item, once there is room for it (rule 1).

        Args:
            item: anything that msgspec encodes. Large bytes (and other buffers) are not copied,
                and must not change before they are sent.

        Raises:
            DeliveryError: it cannot be encoded.
        """
        value = wire.encode(item, "An item of a stream")
        while not self._port.has_room(self._seq):
            self._allowed.clear()
            await self._allowed.wait()
        self._port.send_item(self._seq, value)


class Pump:
    """Sends what an async iterator gives (rule 1).

    Args:
        port: the end of the session.
        seq: of the mutation.
        items: anything that msgspec encodes; it is closed at the end, if it can be.
        done: called once with how it ended: None, or the error (rule 2); not after `cancel`.
    """

    def __init__(
        self,
        port: Port,
        seq: int,
        items: AsyncIterator[Any],
        done: Callable[[AmnodeError | None], object],
    ) -> None:
        self._items = items
        self._done = done
        self._outlet = Outlet(port, seq)
        self._begun = self._cancelled = False
        loop = asyncio.get_running_loop()
        self.task = loop.create_task(self._run(), context=Context())

    def allowed(self) -> None:
        """More may be sent."""
        self._outlet.allowed()

    def cancel(self) -> None:
        """Nobody reads it any more."""
        self._cancelled = True
        if self._begun:  # else it begins with closing the iterator
            self.task.cancel()

    async def _run(self) -> None:
        self._begun = True
        error: AmnodeError | None = None
        try:
            await self._send_all()
        except (Exception, asyncio.CancelledError) as raised:
            if self._cancelled:
                raise
            # The program's own crosses as text (rule 3), a cancellation of its own too.
            error = (
                raised
                if isinstance(raised, AmnodeError)
                else RpcError(f"{type(raised).__name__}: {raised}")
            )
        if not self._cancelled:
            self._done(error)

    async def _send_all(self) -> None:
        try:
            if not self._cancelled:
                async for item in self._items:
                    await self._outlet.send(item)
        finally:
            aclose = getattr(self._items, "aclose", None)
            if aclose is not None:
                await aclose()


class Incoming(Generic[T]):
    """An async iterator over the items that come; made where they are read.

    The other side stops when it is closed, by `aclose` or the end of `async with`, and when
    nobody has it any more, as after a `break`.

    Args:
        port: the end of the session.
        seq: of the mutation.
        item_type: what each item must be.
        closed: called once when nobody reads any more, unless the end had come.
        decode: makes the item, where `item_type` alone does not say how; what it raises is
            raised where the item is read.
    """

    def __init__(
        self,
        port: Port,
        seq: int,
        item_type: type[T],
        closed: Callable[[], object],
        decode: Callable[[msgspec.Raw], T] | None = None,
    ) -> None:
        self._port = port
        self._seq = seq
        self._decode = decode or msgspec.msgpack.Decoder(item_type).decode
        self._closed = closed
        self._items: deque[msgspec.Raw] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._ended = False
        self._error: Exception | None = None

    def __aiter__(self) -> Incoming[T]:
        return self

    async def __aenter__(self) -> Incoming[T]:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # A loop that was left by `break` has let go of it. That may be on any thread.
        if not self._ended and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._closed)

    async def __anext__(self) -> T:
        while not self._items:
            if self._ended:
                error, self._error = self._error, None
                if error is not None:
                    raise error
                raise StopAsyncIteration
            if self._waiter is not None:
                raise RpcError("This stream is being read already; one task at a time.")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        raw = self._items.popleft()
        self._port.consumed(self._seq, len(raw))
        try:
            return self._decode(raw)
        except DECODE_ERRORS as error:
            self.close()
            raise DeliveryError(f"An item of a stream is not expected: {error}.") from error

    async def aclose(self) -> None:
        """Reads no more: the other side is told, and stops. Again changes nothing."""
        self.close()

    def close(self) -> None:
        """See `aclose`."""
        if not self._ended:
            self.end(None)
            self._closed()
        self._items.clear()

    def put(self, data: msgspec.Raw) -> None:
        """An item came."""
        if not self._ended:
            self._items.append(data)
            self._wake()

    def end(self, error: Exception | None) -> None:
        """No more items come; `error` is raised where they are read, after the last."""
        if not self._ended:
            self._ended = True
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
