"""Every limit and time-out of a connection: unit, default, least value, reason.

The defaults stand here and nowhere else. What a peer may cost before it has shaken hands is
bounded by `handshake_timeout`, `pending_limit` and `handshake_frame_limit`; what it may cost
after that by `frame_limit`, `call_limit`, `body_limit`, `stream_credit`, `outgoing_limit`,
`payload_limit`, `answers_kept` and `answers_kept_bytes`.
"""

from __future__ import annotations

import msgspec

from amnode.errors import OptionError

#: What a peer may make the other side hold before it has said who it is.
HANDSHAKE_FRAME_LIMIT = 4 * 1024
#: The largest frame that the 4-byte length of the protocol is used for.
MAX_FRAME_LIMIT = 1 << 31
#: The longest time that crosses.
MOST_SECONDS = 24 * 3600
#: Below this, a keep-alive would be most of what crosses.
LEAST_KEEPALIVE = 0.05


class RpcOptions(msgspec.Struct, frozen=True):
    """Limits of one end of a connection. Both ends should agree on the sizes.

    Attributes:
        connect_timeout: seconds for a client to get a connection. Default 5, more than 0: on
            one host a connection that takes longer comes from a listener that is stuck.
        handshake_timeout: seconds from the connection to the end of the handshake, at either
            end. Default 5, more than 0: half-open connections cost memory, so they end. Over
            TLS it begins when that is agreed, which may take 5 more.
        pending_limit: connections of one listener that have not shaken hands yet. Default 64,
            at least 1: past it the oldest one is closed, so that strangers cost bounded memory.
            Those that have not agreed on TLS yet are not counted.
        handshake_frame_limit: bytes of a frame from a peer that has not proved itself. Default
            and least value 4096: a handshake needs no more.
        frame_limit: bytes of any other frame. Default 4 MiB, at least `handshake_frame_limit`:
            the schema and the snapshot have to fit; values that do not go in chunks.
        close_timeout: seconds that a closing connection may take to write what is left.
            Default 1, at least 0: a peer that does not read is cut after it.
        keepalive: seconds after which a silent peer is asked for a sign of life, twice which
            it is taken for dead. Default 10, at least 0.05, or 0 for none: the shorter one of
            both ends counts. Only connections of a network (TCP and TLS) need it and use it.
        session_ttl: seconds for which a server keeps the session of a client that was cut off.
            Default 30, at least 0: 0 keeps none, and a client that comes back begins anew.
        answers_kept: answers that a server remembers, until the client has acknowledged them,
            so that what it asks for again does not run again. Default 1024, at least 1: a
            client acknowledges every 64.
        answers_kept_bytes: bytes of values in them. Default 64 MiB, at least 0: an answer
            that is not remembered is unknown to a client which was cut off before it came.
        call_limit: mutations of one client that wait for their answers. Default 4096, at least
            1: more are refused, at either end.
        chunk_size: bytes of a value from which it goes in chunks, and of a chunk. Default
            512 KiB, at least 1024: larger ones are faster, and delay what is urgent more. At
            most half of `frame_limit` is used.
        credit: bytes of chunks that are on their way and not taken by the peer. Default 4 MiB,
            at least 1024: less than the connection holds makes large values slow.
        body_limit: bytes of one value in chunks, and of all that a peer has under way at once.
            Default 1 GiB, at least 1024: they are kept in memory.
        ack_delay: seconds for which a client may keep back that it has taken a small payload,
            to say so with something else. Default 0: it says so at once. At least 0.
        stream_credit: bytes of items of a stream that have come and not been read. Default
            256 KiB, at least 1: a reader that is slow makes the writer wait.
        stream_items: items of a stream that have come and not been read, about; for writers to
            whom an item is more than its bytes. Default 0: as many as `stream_credit` allows.
        payload_limit: bytes of payloads that the client has not taken. Default 64 MiB, at
            least 1: one that is alone may be larger, another is refused.
        outgoing_limit: bytes that wait to be written, values in chunks not counted, from which
            nothing more is taken from the peer. Default 16 MiB, at least 1: a peer that does
            not read is not served.
        stall_timeout: seconds that a peer may read nothing while something waits for it; it is
            cut off within two of them. Default 30, more than 0.
        reconnect_tries: attempts of a client to come back, in a row. Default 20, at least 0: 0
            makes the first loss of its connection the last.
        reconnect_timeout: seconds that they may take together. Default 30, at least 0. A
            connection that is lost again before it has lived for `reconnect_cap` goes on with
            the attempts before it.
        reconnect_base: seconds of the back-off before the first attempt, which doubles with
            each and is drawn from 0 to that (full jitter). Default 0.05, more than 0.
        reconnect_cap: seconds that it is never above. Default 5, at least `reconnect_base`.

    Raises:
        OptionError: a value is out of its range.
    """

    connect_timeout: float = 5.0
    handshake_timeout: float = 5.0
    pending_limit: int = 64
    handshake_frame_limit: int = HANDSHAKE_FRAME_LIMIT
    frame_limit: int = 4 * 1024 * 1024
    close_timeout: float = 1.0
    keepalive: float = 10.0
    session_ttl: float = 30.0
    answers_kept: int = 1024
    answers_kept_bytes: int = 64 * 1024 * 1024
    call_limit: int = 4096
    chunk_size: int = 512 * 1024
    credit: int = 4 * 1024 * 1024
    body_limit: int = 1024 * 1024 * 1024
    ack_delay: float = 0.0
    stream_credit: int = 256 * 1024
    stream_items: int = 0
    payload_limit: int = 64 * 1024 * 1024
    outgoing_limit: int = 16 * 1024 * 1024
    stall_timeout: float = 30.0
    reconnect_tries: int = 20
    reconnect_timeout: float = 30.0
    reconnect_base: float = 0.05
    reconnect_cap: float = 5.0

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be more than 0 s.")
        for name, least in _LEAST.items():
            if not getattr(self, name) >= least:
                raise OptionError(
                    f"{name} is {getattr(self, name)}; it must be at least {least}."
                )
        if self.keepalive and not LEAST_KEEPALIVE <= self.keepalive <= MOST_SECONDS:
            raise OptionError(
                f"keepalive is {self.keepalive}; it must be 0, or from {LEAST_KEEPALIVE} to "
                f"{MOST_SECONDS} s."
            )
        if not self.reconnect_cap >= self.reconnect_base:
            raise OptionError(
                f"reconnect_cap is {self.reconnect_cap}; it must be at least reconnect_base "
                f"({self.reconnect_base})."
            )
        if not self.handshake_frame_limit <= self.frame_limit <= MAX_FRAME_LIMIT:
            raise OptionError(
                f"frame_limit is {self.frame_limit}; it must be between "
                f"handshake_frame_limit ({self.handshake_frame_limit}) and {MAX_FRAME_LIMIT}."
            )

    @property
    def chunk(self) -> int:
        """Bytes of the largest value that goes in one frame, and of a chunk."""
        return min(self.chunk_size, self.frame_limit // 2)


_POSITIVE = ("connect_timeout", "handshake_timeout", "stall_timeout", "reconnect_base")
_LEAST = {
    "close_timeout": 0,
    "pending_limit": 1,
    "handshake_frame_limit": HANDSHAKE_FRAME_LIMIT,
    "keepalive": 0,
    "session_ttl": 0,
    "answers_kept": 1,
    "answers_kept_bytes": 0,
    "call_limit": 1,
    "chunk_size": 1024,
    "credit": 1024,
    "body_limit": 1024,
    "ack_delay": 0,
    "stream_credit": 1,
    "stream_items": 0,
    "payload_limit": 1,
    "outgoing_limit": 1,
    "reconnect_tries": 0,
    "reconnect_timeout": 0,
}

#: For connections whose loss is the end of everything: who uses them comes back in its own way.
#: Nothing is kept for a next one, so nobody is in a hurry to hear what was taken.
ONE_CONNECTION = RpcOptions(session_ttl=0, reconnect_tries=0, ack_delay=0.05)
