"""Connections in one event loop, without a socket: `memory:NAME`.

What one end writes, the other gets a turn later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from amnode.rpc.address import Address
from amnode.rpc.transport.port import Accept, Buffer, Connection, Handler, Listener


class _MemoryConnection(Connection):
    """One of two ends in one loop; what one writes, the other gets a turn later."""

    def __init__(self, name: str, close_timeout: float) -> None:
        super().__init__("memory", name, close_timeout)
        self.other: _MemoryConnection | None = None
        self._reads = True
        #: What came while nothing was read, and what came after that.
        self._unread: deque[bytes | Sequence[Buffer]] = deque()

    def join(self, other: _MemoryConnection) -> None:
        """Makes two ends one connection."""
        self.other, other.other = other, self

    def begin(self, handler: Handler) -> None:
        """Gives it its handler."""
        self._begin(handler)

    def _write(self, data: bytes | Sequence[Buffer]) -> None:
        if self.other is not None:
            self._loop.call_soon(self.other._arrive, data, context=self.other._context)

    def pause_reading(self) -> None:
        self._reads = False

    def resume_reading(self) -> None:
        self._reads = True
        self._loop.call_soon(self._catch_up, context=self._context)

    def _catch_up(self) -> None:
        while self._reads and self._unread:
            self._read(self._unread.popleft())

    def _arrive(self, data: bytes | Sequence[Buffer]) -> None:
        if self._reads and not self._unread:
            self._read(data)
        else:
            self._unread.append(data)

    def _read(self, data: bytes | Sequence[Buffer]) -> None:
        if self._view is None and isinstance(data, bytes):
            self._take(data)
        else:
            for buffer in (data,) if isinstance(data, bytes) else data:
                self._pour(memoryview(buffer))

    def _pour(self, rest: memoryview) -> None:
        """Fills the views that there are; what is left is taken."""
        while rest and (view := self._view) is not None:
            count = min(len(rest), len(view))
            view[:count] = rest[:count]
            rest = rest[count:]
            self._filled(count)
        if rest:
            self._take(bytes(rest))

    def _close(self) -> None:
        other, self.other = self.other, None
        self._loop.call_soon(self._end, None, context=self._context)
        if other is not None:
            self._loop.call_soon(other._close_end, context=other._context)

    def _close_end(self) -> None:
        self.other = None
        self._end(None)

    def _abort(self) -> None:
        self._close()


class MemoryListener(Listener):
    """Accepts connections from its own loop."""

    def __init__(self, at: Address, accept: Accept, close_timeout: float) -> None:
        self.address = str(at)
        self._name = at.name
        self._accept = accept
        self._close_timeout = close_timeout
        self._loop = asyncio.get_running_loop()
        self._open = True

    def open_here(self) -> bool:
        """Whether it accepts, in the running loop."""
        return self._open and self._loop is asyncio.get_running_loop()

    def connect(self, handler: Handler, close_timeout: float) -> Connection:
        """Makes both ends; the far one hears of it first."""
        theirs = _MemoryConnection(self._name, self._close_timeout)
        ours = _MemoryConnection(self._name, close_timeout)
        ours.join(theirs)
        theirs.begin(self._accept())
        ours.begin(handler)
        return ours

    def close(self) -> None:
        """See `Listener.close`."""
        self._open = False
