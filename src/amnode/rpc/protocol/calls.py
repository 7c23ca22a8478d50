"""Numbers and answers of mutations.

1. A client numbers its mutations 1, 2, 3 …; the server accepts only a number above the last.
2. Each number is answered exactly once. An answer to any other is a `ProtocolError`.
3. Answers may pass each other: one is deferred while later ones are sent.
4. A cancel of a number that is answered already is no fault (it crossed the answer); one that
   was never used is.
"""

from __future__ import annotations

from amnode.errors import ProtocolError


class Asked:
    """The client's side: what was asked and not answered yet."""

    __slots__ = ("_last", "_open")

    def __init__(self) -> None:
        self._last = 0
        self._open: dict[int, None] = {}

    def __len__(self) -> int:
        """How many are not answered."""
        return len(self._open)

    def __contains__(self, seq: int) -> bool:
        return seq in self._open

    def ask(self) -> int:
        """The number of a new mutation."""
        self._last += 1
        self._open[self._last] = None
        return self._last

    def answered(self, seq: int) -> None:
        """An answer came.

        Raises:
            ProtocolError: nothing of that number waits for one (rule 2).
        """
        try:
            del self._open[seq]
        except KeyError:
            raise ProtocolError(f"An answer to mutation {seq}, which waits for none.") from None


class Answering:
    """The server's side: what was asked here and not answered yet."""

    __slots__ = ("_last", "_open")

    def __init__(self) -> None:
        self._last = 0
        self._open: dict[int, None] = {}

    def __len__(self) -> int:
        """How many are not answered."""
        return len(self._open)

    def asked(self, seq: int) -> None:
        """A mutation came.

        Raises:
            ProtocolError: its number is not above the last (rule 1).
        """
        if seq <= self._last:
            raise ProtocolError(
                f"Mutation {seq} after mutation {self._last}; numbers must rise."
            )
        self._last = seq
        self._open[seq] = None

    def answer(self, seq: int) -> bool:
        """Marks a mutation as answered; False if it was already (rule 2)."""
        if seq not in self._open:
            return False
        del self._open[seq]
        return True

    def is_open(self, seq: int) -> bool:
        """Whether a mutation waits for its answer; asked when a cancel came.

        Raises:
            ProtocolError: the number was never used (rule 4).
        """
        if seq > self._last:
            raise ProtocolError(f"A cancel of mutation {seq}; the last one was {self._last}.")
        return seq in self._open
