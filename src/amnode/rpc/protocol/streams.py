"""Streams: an async iterator on one side that is one on the other.

A stream belongs to a mutation, and has its number. Items go from the server to the client until
the mutation is answered, or from the client to the server until it says `End`. Rules:

1. Items are numbered 1, 2, 3 …; each arrives once, also over a reconnect: the sender keeps an
   item until the receiver has said that it came.
2. The receiver allows bytes, counted from the start of the stream: what was consumed, and a
   window more. The sender begins no item once it has sent as many, so that an item of any size
   can cross. So a reader that is slow costs its window and one item, and makes the writer wait.
3. Until the receiver has allowed something nothing is sent: who does not read is sent nothing.
"""

from __future__ import annotations

from collections import deque

from amnode.errors import ProtocolError
from amnode.rpc.protocol.calls import size_of
from amnode.rpc.protocol.wire import Value

#: Bytes that an item is taken to have before one has come.
_FIRST_ITEM = 8


class Sender:
    """The side that has the items."""

    __slots__ = ("_allowed", "_kept", "_sent", "number")

    def __init__(self) -> None:
        #: Of the last item.
        self.number = 0
        self._sent = 0
        self._allowed = 0
        self._kept: deque[tuple[int, Value]] = deque()

    @property
    def unacknowledged(self) -> int:
        """Bytes of items that are not known to have arrived."""
        return sum(size_of(value) for _, value in self._kept)

    @property
    def has_room(self) -> bool:
        """Whether an item may be sent (rules 2 and 3)."""
        return self._sent < self._allowed

    def send(self, value: Value) -> int:
        """The number of a new item, which is kept (rule 1)."""
        self.number += 1
        self._sent += size_of(value)
        self._kept.append((self.number, value))
        return self.number

    def allow(self, items: int, size: int) -> None:
        """The receiver has so many items, and allows so many bytes.

        Raises:
            ProtocolError: it has more than were sent.
        """
        if items > self.number:
            raise ProtocolError(f"{items} items have arrived of {self.number} that were sent.")
        self._allowed = max(size, self._allowed)
        while self._kept and self._kept[0][0] <= items:
            self._kept.popleft()

    def unarrived(self) -> list[tuple[int, Value]]:
        """The items to be sent once more after a reconnect, with their numbers."""
        return list(self._kept)


class Receiver:
    """The side that reads.

    Args:
        window: bytes that may have arrived and not been consumed.
        items: how many items may, about: it allows as many bytes as so many took so far. 0 is
            as many as fit.
    """

    __slots__ = (
        "_came",
        "_consumed",
        "_items",
        "_told",
        "_window",
        "ended",
        "number",
        "stopped",
    )

    def __init__(self, window: int, items: int = 0) -> None:
        #: Of the last item that arrived.
        self.number = 0
        #: Whether it was said that no more items come.
        self.ended = False
        #: Whether nobody reads it any more.
        self.stopped = False
        self._window = window
        self._items = items
        self._came = 0
        self._consumed = 0
        self._told = 0

    def came(self, number: int, size: int) -> bool:
        """An item came; False if it had arrived before (rule 1).

        Raises:
            ProtocolError: one is missing before it, or it was not allowed.
        """
        if number <= self.number:
            return False
        if number != self.number + 1:
            raise ProtocolError(f"Item {number} of a stream after item {self.number}.")
        if self._came >= self._told:
            raise ProtocolError(f"Item {number} of a stream, for which there was no credit.")
        self.number = number
        self._came += size
        return True

    def consumed(self, size: int) -> bool:
        """An item was read; True if `allowance` is worth a message."""
        self._consumed += size
        ahead = self._ahead()
        return self._consumed + ahead - self._told >= max(1, ahead // 4)

    def allowance(self) -> tuple[int, int]:
        """What the sender is told: items that came, and bytes that are allowed."""
        self._told = max(self._told, self._consumed + self._ahead())
        return self.number, self._told

    def _ahead(self) -> int:
        """Bytes that may have arrived and not been consumed, as far as is known."""
        if not self._items:
            return self._window
        each = self._came // self.number if self.number else _FIRST_ITEM
        return min(self._window, self._items * max(1, each))
