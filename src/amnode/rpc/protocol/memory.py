"""What outlives a connection: the memory of one session, on each side.

A session begins with a handshake and goes on over any number of connections, until it is ended
in good order, or its server has waited in vain for its client to come back. Each connection has
an object of its own (`client_session.py`, `server_session.py`) that works on this memory.
"""

from __future__ import annotations

from collections import deque

from amnode.errors import DeliveryError
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol.auth import Ticket
from amnode.rpc.protocol.calls import Answering, Asked, size_of
from amnode.rpc.protocol.session import Event
from amnode.rpc.protocol.streams import Receiver, Sender
from amnode.rpc.protocol.wire import Value, WireError


class Upload:
    """A stream from the client, at the client.

    Attributes:
        sender: its items.
        ended: whether `End` was said.
        error: what it ended with.
    """

    __slots__ = ("ended", "error", "sender")

    def __init__(self) -> None:
        self.sender = Sender()
        self.ended = False
        self.error: WireError | None = None


class ClientMemory:
    """The client's side of a session.

    Attributes:
        ticket: what resumes it; None before the first handshake.
        asked: what waits for an answer.
        payloads: the number of the last payload that came.
        uploads: the streams that go to the source, by mutation.
        downloads: the streams that come from it.
        held: what has come, and is to be told after the next snapshot.
        held_size: the bytes of the payloads among it.
    """

    __slots__ = (
        "asked",
        "downloads",
        "held",
        "held_size",
        "payloads",
        "ticket",
        "uploads",
    )

    def __init__(self, options: RpcOptions) -> None:
        self.ticket: Ticket | None = None
        self.asked = Asked(options.call_limit)
        self.payloads = 0
        self.uploads: dict[int, Upload] = {}
        self.downloads: dict[int, Receiver] = {}
        self.held: list[Event] = []
        self.held_size = 0

    def answered(self, seq: int, size: int) -> bool:
        """An answer came, with a value of so many bytes; the streams of its mutation are over.

        Returns:
            Whether answers are to be acknowledged.

        Raises:
            ProtocolError: nothing of that number waits for one.
        """
        ack_due = self.asked.answered(seq, size)
        if self.uploads or self.downloads:
            self.uploads.pop(seq, None)
            self.downloads.pop(seq, None)
        return ack_due

    def forget(self, seq: int) -> None:
        """A mutation was taken back before it left."""
        self.asked.forget(seq)
        self.uploads.pop(seq, None)
        self.downloads.pop(seq, None)


class ServerMemory:
    """The server's side of a session.

    Attributes:
        ticket: what resumes it; None before the first handshake.
        answering: what was asked and answered.
        uploads: the streams that come from the client, by mutation.
        downloads: the streams that go to it.
    """

    __slots__ = (
        "_acknowledged",
        "_limit",
        "_payloads",
        "_size",
        "answering",
        "downloads",
        "number",
        "ticket",
        "uploads",
    )

    def __init__(self, options: RpcOptions) -> None:
        self.ticket: Ticket | None = None
        entries = options.answers_kept if options.session_ttl > 0 else 0
        self.answering = Answering(entries, options.answers_kept_bytes)
        self.uploads: dict[int, Receiver] = {}
        self.downloads: dict[int, Sender] = {}
        #: Of the last payload.
        self.number = 0
        self._acknowledged = 0
        self._limit = options.payload_limit
        self._payloads: deque[tuple[int, str, Value]] = deque()
        self._size = 0

    @property
    def unacknowledged(self) -> int:
        """Bytes of payloads that are not known to have arrived."""
        return self._size

    @property
    def arrived(self) -> int:
        """The number of the last payload that the client has taken."""
        return self._payloads[0][0] - 1 if self._payloads else self.number

    def has_room(self, value: Value) -> bool:
        """Whether a payload fits beside those that are kept."""
        return not self._payloads or self._size + size_of(value) <= self._limit

    def add_payload(self, name: str, value: Value) -> int:
        """The number of a new payload, which is kept until the client has it.

        Raises:
            DeliveryError: too much is kept already. One that is alone may be of any size.
        """
        size = size_of(value)
        if not self.has_room(value):
            raise DeliveryError(
                f"Payload {name!r} of {size} bytes does not fit beside {self._size} that the "
                f"client has not taken; payload_limit allows {self._limit}."
            )
        self.number += 1
        self._payloads.append((self.number, name, value))
        self._size += size
        return self.number

    def acknowledged(self, answers: int, payloads: int) -> None:
        """The client has all answers and all payloads up to these."""
        if answers > self._acknowledged:
            self._acknowledged = answers
            self.answering.acknowledged(answers)
            self._forget_downloads(answers)
        while self._payloads and self._payloads[0][0] <= payloads:
            self._size -= size_of(self._payloads.popleft()[2])

    def _forget_downloads(self, answers: int) -> None:
        for seq in [*self.downloads]:
            if seq <= answers and not self.answering.is_open(seq):
                del self.downloads[seq]

    def payloads(self) -> list[tuple[int, str, Value]]:
        """Those that are not known to have arrived: number, name, value."""
        return list(self._payloads)
