"""JobStream: what a streamed job gives, item by item, at its caller.

    async for frame in worker.stream(Films.frames, "a.mp4"):
        ...
    async with worker.stream(Films.frames, "a.mp4") as frames:
        async for frame in frames:
            ...

Rules:

1. The job begins when the stream is first read, or entered. It is one of the calls of its
   worker, has its turn among them, and lasts until the stream is over.
2. A stream that is left (`aclose`, the end of `async with`, a `break` after which nobody has
   it) stops its job at the `yield` where it is. A task that is cancelled while it reads leaves
   the stream as it is: whoever has it goes on, or closes it.
3. It fails as a call does: with what the job raised, or with what its worker died of, after all
   items that had come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from amnode.errors import ConnectionLost, RpcError
from amnode.rpc.protocol.wire import Outcome
from amnode.rpc.streams import Incoming

if TYPE_CHECKING:
    from amnode.node.args import WorkArgs
    from amnode.node.jobs import StreamJob
    from amnode.node.pending_call import Caller

T = TypeVar("T")


class StreamCall:
    """The call of a streamed job; what its worker's caller knows of it.

    It does not have the stream, which ends when nobody else has it any more.

    Args:
        caller: who made it.
        job: which job.
        work: what is sent.
        buffers: what goes with it, beside it (see `values.py`).

    Attributes:
        job: which job.
        work: what is sent.
        buffers: what goes with it.
        seq: the number of its mutation; 0 while it was not sent.
        left: done when it was sent, or cannot be.
        incoming: what came of it, until the stream takes it.
        error: why it cannot be sent.
        behind: whether the connection was lost with another call before it.
    """

    def __init__(
        self,
        caller: Caller,
        job: StreamJob[..., Any],
        work: WorkArgs,
        buffers: Sequence[memoryview],
    ) -> None:
        self.job = job
        self.work = work
        self.buffers = buffers
        self.seq = 0
        self.behind = False
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.incoming: Incoming[Any] | None = None
        self.error: Exception | None = None
        self._caller = caller

    def done(self) -> bool:
        """True: nobody but the stream has to be told how it ends."""
        return True

    def sent(self, incoming: Incoming[Any]) -> None:
        """It was sent."""
        self.incoming = incoming
        self.left.set_result(None)

    def fail(self, error: Exception) -> None:
        """It cannot be sent."""
        self.error = error
        if not self.left.done():
            self.left.set_result(None)

    def take(self) -> Incoming[Any] | None:
        """What came of it, once."""
        incoming, self.incoming = self.incoming, None
        return incoming

    def settle(self, outcome: Outcome, value: msgspec.Raw, error: Exception | None) -> None:
        """The stream is over at the worker; see `rpc.remote.Settled`."""
        self._caller.call_over(self)
        if isinstance(error, ConnectionLost):
            self._caller.call_lost(self, error)


class JobStream(Generic[T]):
    """An async iterator over the items of one streamed job; for one task at a time.

    Args:
        begin: makes the call, which is sent in its turn.
        leave: called when the call is to be taken back before it was sent.
        failed: what is raised for an error that ended the stream.
    """

    def __init__(
        self,
        begin: Callable[[], StreamCall],
        leave: Callable[[StreamCall], None],
        failed: Callable[[StreamCall, Exception], Awaitable[Exception]],
    ) -> None:
        self._begin = begin
        self._leave = leave
        self._failed = failed
        self._call: StreamCall | None = None
        self._incoming: Incoming[T] | None = None
        self._over = False

    def __aiter__(self) -> JobStream[T]:
        return self

    async def __aenter__(self) -> JobStream[T]:
        if not self._over and self._call is None:
            self._call = self._begin()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # `Incoming` closes itself; this is for one that never was read. That may be anywhere.
        call = self._call
        if call is not None and not self._over and self._incoming is None:
            loop = call.left.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(_close, call, self._leave)

    async def __anext__(self) -> T:
        if self._over:
            raise StopAsyncIteration
        if self._call is None:
            self._call = self._begin()
        try:
            if self._incoming is None:
                self._incoming = await self._sent(self._call)
            return await self._incoming.__anext__()
        except StopAsyncIteration:
            self._over = True
            raise
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._over = True
            raised = await self._failed(self._call, error)
            raise raised from raised.__cause__

    async def _sent(self, call: StreamCall) -> Incoming[T]:
        if not call.left.done():
            await asyncio.shield(call.left)
        incoming = call.take()
        if incoming is None:
            raise call.error or RpcError("This stream is being read already.")
        return incoming

    async def aclose(self) -> None:
        """Reads no more: the job is stopped. Again changes nothing."""
        self._over = True
        if self._incoming is not None:
            self._incoming.close()
        elif self._call is not None:
            _close(self._call, self._leave)


def _close(call: StreamCall, leave: Callable[[StreamCall], None]) -> None:
    """Ends a call whose stream was not read yet."""
    incoming = call.take()
    if incoming is not None:
        incoming.close()
    elif not call.left.done():
        leave(call)
