"""Numbers and answers of mutations, and what is remembered so that none runs twice.

1. A client numbers its mutations 1, 2, 3 …, and sends them in that order, also once it is back
   after a cut.
2. The server runs a number only if it is above all that it has seen (promises S5, S6). A number
   that it has seen is not run: it gets the answer that is remembered, or, if that was evicted,
   the answer that it is not remembered, and whether the number is known to have run.
3. Each number is answered once on a connection. An answer to any other is a `ProtocolError`.
4. Answers may pass each other: one is deferred while later ones are sent.
5. A cancel of a number that is answered already is no fault: it crossed the answer. One that
   comes before its mutation takes its place: the number is used up, nothing runs, and the
   answer is that it was canceled.
6. An answer is remembered until the client has acknowledged it; past the limits, the oldest is
   evicted first.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto

import msgspec

from amnode.errors import ProtocolError, RefusedError
from amnode.rpc.protocol.wire import NIL, Large, Mutate, Outcome, Value

#: Answers after which a client acknowledges what has arrived.
_ACK_COUNT = 64
#: Numbers of evicted answers that are kept; a client has not so many open.
_EVICTED = 64 * 1024
#: Bytes of answers after which it does.
_ACK_BYTES = 64 * 1024


class Unanswered(msgspec.Struct, gc=False):
    """A mutation that waits for its answer.

    Attributes:
        message: the mutation; its `args` stand in for `value`, if that is large.
        value: its arguments.
        sent: whether it ever was given to a connection.
        cancelled: whether nobody waits for the answer any more.
    """

    message: Mutate
    value: Value
    sent: bool = False
    cancelled: bool = False


class Asked:
    """The client's side: what was asked and not answered yet; it outlives a connection.

    Args:
        limit: how many may wait for an answer.
    """

    __slots__ = ("_bytes", "_count", "_last", "_limit", "_open")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._last = 0
        self._open: dict[int, Unanswered] = {}
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        """How many are not answered."""
        return len(self._open)

    def __contains__(self, seq: int) -> bool:
        return seq in self._open

    def __iter__(self) -> Iterator[Unanswered]:
        """Those that are not answered, in order."""
        return iter([*self._open.values()])

    def __getitem__(self, seq: int) -> Unanswered:
        return self._open[seq]

    def ask(self, type_: int, states: list[int], value: Value) -> Unanswered:
        """A new mutation, with the next number (rule 1).

        Raises:
            RefusedError: too many wait for their answer already.
        """
        if len(self._open) >= self._limit:
            raise RefusedError(
                f"{self._limit} mutations wait for their answer; call_limit allows no more."
            )
        self._last = seq = self._last + 1
        args = value if isinstance(value, msgspec.Raw) else msgspec.Raw()
        asked = self._open[seq] = Unanswered(Mutate(seq, type_, states, args), value)
        return asked

    def answered(self, seq: int, size: int) -> bool:
        """An answer came, with a value of so many bytes; True if `ack_due`.

        Raises:
            ProtocolError: nothing of that number waits for one (rule 3).
        """
        try:
            del self._open[seq]
        except KeyError:
            raise ProtocolError(f"An answer to mutation {seq}, which waits for none.") from None
        self._count += 1
        self._bytes += size
        return self._count >= _ACK_COUNT or self._bytes >= _ACK_BYTES

    def forget(self, seq: int) -> None:
        """A mutation was taken back before it left."""
        del self._open[seq]

    @property
    def ack_due(self) -> bool:
        """Whether so much was answered that the server should hear of it (rule 6)."""
        return self._count >= _ACK_COUNT or self._bytes >= _ACK_BYTES

    def ack(self) -> int:
        """The number up to which everything is answered."""
        self._count = self._bytes = 0
        return next(iter(self._open), self._last + 1) - 1


class Known(Enum):
    """What a server knows of a number."""

    NEW = auto()
    OPEN = auto()
    ANSWERED = auto()
    FORGOTTEN = auto()


_NEW = Known.NEW


class Answering:
    """The server's side: what was asked here, and what was answered; it outlives a connection.

    Args:
        entries: how many answers are remembered at most; 0 remembers none.
        size: how many bytes of values they may have together.
    """

    __slots__ = ("_answers", "_bytes", "_entries", "_evicted", "_last", "_size", "waiting")

    def __init__(self, entries: int, size: int) -> None:
        self._entries = entries
        self._size = size
        self._last = 0
        #: The numbers that are not answered.
        self.waiting: dict[int, None] = {}
        self._answers: dict[int, tuple[Outcome, Value]] = {}
        #: Those evicted that were executed, until they are acknowledged.
        self._evicted: dict[int, None] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """How many are not answered."""
        return len(self.waiting)

    @property
    def remembered(self) -> tuple[int, int]:
        """How many answers are remembered, and the bytes of their values."""
        return len(self._answers), self._bytes

    def asked(self, seq: int) -> Known:
        """A mutation came; it is to be run only if it is new (rule 2)."""
        if seq > self._last:
            self._last = seq
            self.waiting[seq] = None
            return _NEW
        return self._known(seq)

    def cancelled(self, seq: int) -> Known:
        """A cancel came; a new number is used up and answered by it (rule 5)."""
        if seq > self._last:
            self._last = seq
            self.waiting[seq] = None
            self.answer(seq, Outcome.CANCELED, NIL)
            return Known.NEW
        return self._known(seq)

    def _known(self, seq: int) -> Known:
        if seq in self.waiting:
            return Known.OPEN
        return Known.ANSWERED if seq in self._answers else Known.FORGOTTEN

    def answer(self, seq: int, outcome: Outcome, value: Value) -> bool:
        """Marks a mutation as answered; False if it was already (rule 3)."""
        if self.waiting.pop(seq, self) is self:
            return False
        if self._entries:
            self._answers[seq] = (outcome, value)
            self._bytes += len(value) if type(value) is msgspec.Raw else size_of(value)
            if self._bytes > self._size or len(self._answers) > self._entries:
                self._evict()
        return True

    def is_open(self, seq: int) -> bool:
        """Whether a number waits for its answer."""
        return seq in self.waiting

    def is_new(self, seq: int) -> bool:
        """Whether a number was not seen yet."""
        return seq > self._last

    def is_answered(self, seq: int) -> bool:
        """Whether the answer to a number is remembered."""
        return seq in self._answers

    def has_run(self, seq: int) -> bool:
        """Whether a number which is `Known.FORGOTTEN` is known to have been executed."""
        return seq in self._evicted

    def remember(self, seq: int) -> tuple[Outcome, Value]:
        """The answer that was given to a number which is `Known.ANSWERED`."""
        return self._answers[seq]

    def acknowledged(self, seq: int) -> None:
        """The client has all answers up to this number (rule 6)."""
        for number in [number for number in self._answers if number <= seq]:
            self._bytes -= size_of(self._answers.pop(number)[1])
        for number in [number for number in self._evicted if number <= seq]:
            del self._evicted[number]

    def _evict(self) -> None:
        while self._bytes > self._size or len(self._answers) > self._entries:
            oldest = next(iter(self._answers))
            outcome, value = self._answers.pop(oldest)
            self._bytes -= size_of(value)
            if outcome is Outcome.EXECUTED:
                self._evicted[oldest] = None
                if len(self._evicted) > _EVICTED:
                    del self._evicted[next(iter(self._evicted))]


def size_of(value: Value) -> int:
    """The bytes of a value."""
    return value.size if isinstance(value, Large) else len(value)
