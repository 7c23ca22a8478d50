"""What a launcher and its fork server say to each other, over a pair of sockets of their own.

1. A message is one packet, so it arrives whole, and its descriptors with it. It is msgpack of
   one of the structures here: nothing is pickled.
2. Secrets are in no message: a process is told them by a descriptor that only passes through.
3. Nobody waits to send, but a new process that says that it is there.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

import msgspec

from amnode.launch.reaper import Ended

#: Bytes of a packet at most. What may be longer is in a file that comes with it.
_LONGEST = 16 * 1024

#: Descriptors that come with one packet at most.
_MOST = 3


class Preload(msgspec.Struct):
    """What a fork server is told at its start.

    Attributes:
        channel: the descriptor of its end.
        launcher: a descriptor of the process that it serves.
        modules: what it imports, in this order.
        run: `module:attribute` of a function to call afterwards; "" for none.
        payload: the one argument of the function.
    """

    channel: int
    launcher: int
    modules: list[str]
    run: str
    payload: bytes


class Surroundings(msgspec.Struct, array_like=True):
    """Where a process runs; bytes, since the system has no text.

    Attributes:
        cwd: its directory; empty for that of the fork server.
        env: its environment.
    """

    cwd: bytes
    env: dict[bytes, bytes]


class Fork(msgspec.Struct, tag="fork", array_like=True):
    """Make a process. With it come surroundings, boot record and output, as descriptors."""

    number: int


class SignalGroup(msgspec.Struct, tag="signal", array_like=True):
    """Signal the group of the process that a request made."""

    number: int
    signum: int


class Loaded(msgspec.Struct, tag="loaded", array_like=True):
    """The fork server has imported what it was told to.

    Attributes:
        threads: those that the imports started; with any it does not fork.
    """

    threads: list[str]


class NotLoaded(msgspec.Struct, tag="not loaded", array_like=True):
    """The fork server could not import; the last lines say why."""

    lines: list[str]


class Started(msgspec.Struct, tag="started", array_like=True):
    """A process is there. With it comes a descriptor of it."""

    number: int
    pid: int


class Refused(msgspec.Struct, tag="refused", array_like=True):
    """A process could not be made; an error of the system says why."""

    number: int
    error: int
    filename: str


Message = Fork | SignalGroup | Loaded | NotLoaded | Started | Refused | Ended


class Channel:
    """One end. Its owner waits until it is readable; it does not wait by itself."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Both ends."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    @classmethod
    def inherited(cls, descriptor: int) -> Channel:
        """The end that was inherited as a descriptor."""
        end = cls(socket.socket(fileno=descriptor))
        end._socket.set_inheritable(False)
        return end

    def fileno(self) -> int:
        """Its descriptor; -1 when it is closed."""
        return self._socket.fileno()

    def close(self) -> None:
        """Closes it; calling it again changes nothing."""
        self._socket.close()

    def send(
        self, message: Message, descriptors: Sequence[int] = (), *, wait: bool = False
    ) -> None:
        """Sends a message; the descriptors stay open here.

        Raises:
            BlockingIOError: the other end is behind, and `wait` is not set.
            OSError: there is no other end.
        """
        data = msgspec.msgpack.encode(message)
        rights = array.array("i", descriptors)
        extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        self._socket.sendmsg([data], extra, 0 if wait else socket.MSG_DONTWAIT)

    def receive(self) -> tuple[Message, list[int]] | None:
        """A message and its descriptors, or None where the other end is gone.

        Fewer descriptors come than were sent where this process may not have more.

        Raises:
            BlockingIOError: there is none now.
            OSError: the other end is gone.
            msgspec.MsgspecError: what came is no message.
        """
        space = socket.CMSG_SPACE(_MOST * array.array("i").itemsize)
        flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        data, extra, _, _ = self._socket.recvmsg(_LONGEST, space, flags)
        rights = array.array("i")
        for _, _, content in extra:
            rights.frombytes(content[: len(content) - len(content) % rights.itemsize])
        descriptors = list(rights)
        if not data:
            return None
        try:
            return msgspec.msgpack.decode(data, type=Message), descriptors
        except msgspec.MsgspecError:
            for descriptor in descriptors:
                os.close(descriptor)
            raise
