"""Every limit and time-out of a connection: unit, default, least value, reason.

The defaults stand here and nowhere else.
"""

from __future__ import annotations

import msgspec

from amnode.errors import OptionError

#: What a peer may make the other side hold before it has said who it is.
HANDSHAKE_FRAME_LIMIT = 4 * 1024
#: The largest frame that the 4-byte length of the protocol is used for.
MAX_FRAME_LIMIT = 1 << 31


class RpcOptions(msgspec.Struct, frozen=True):
    """Limits of one end of a connection. Both ends should agree on `frame_limit`.

    Attributes:
        connect_timeout: seconds for a client to get a connection. Default 5, more than 0: on
            one host a connection that takes longer comes from a listener that is stuck.
        handshake_timeout: seconds from the connection to the end of the handshake, at either
            end. Default 5, more than 0: half-open connections cost memory, so they end.
        pending_limit: connections of one listener that have not shaken hands yet. Default 64,
            at least 1: past it the oldest one is closed, so that strangers cost bounded memory.
        handshake_frame_limit: bytes of a frame from a peer that has not proved itself. Default
            and least value 4096: a handshake needs no more.
        frame_limit: bytes of any other frame. Default 4 MiB, at least `handshake_frame_limit`:
            the schema, the snapshot, arguments and payloads have to fit.
        close_timeout: seconds that a closing connection may take to write what is left.
            Default 1, at least 0: a peer that does not read is cut after it.

    Raises:
        OptionError: a value is out of its range.
    """

    connect_timeout: float = 5.0
    handshake_timeout: float = 5.0
    pending_limit: int = 64
    handshake_frame_limit: int = HANDSHAKE_FRAME_LIMIT
    frame_limit: int = 4 * 1024 * 1024
    close_timeout: float = 1.0

    def __post_init__(self) -> None:
        for name in ("connect_timeout", "handshake_timeout"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} is {getattr(self, name)}; it must be more than 0 s.")
        if not self.close_timeout >= 0:
            raise OptionError(
                f"close_timeout is {self.close_timeout}; it must be at least 0 s."
            )
        if self.pending_limit < 1:
            raise OptionError(f"pending_limit is {self.pending_limit}; it must be at least 1.")
        if self.handshake_frame_limit < HANDSHAKE_FRAME_LIMIT:
            raise OptionError(
                f"handshake_frame_limit is {self.handshake_frame_limit}; "
                f"it must be at least {HANDSHAKE_FRAME_LIMIT} bytes."
            )
        if not self.handshake_frame_limit <= self.frame_limit <= MAX_FRAME_LIMIT:
            raise OptionError(
                f"frame_limit is {self.frame_limit}; it must be between "
                f"handshake_frame_limit ({self.handshake_frame_limit}) and {MAX_FRAME_LIMIT}."
            )
