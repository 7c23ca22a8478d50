"""The two queues between a `PoolExecutor` and its workers: packets, and what fits in none.

All workers read one queue of calls and write one queue of results. Whoever is free takes the
next call, so no call waits behind another while a worker is idle.

    program --calls--> one socket pair, which every worker reads
    program <-results-- one socket pair, which every worker writes

Rules:

1. A packet arrives whole, or not at all, and one reader has it (SOCK_SEQPACKET), so a worker
   that is killed at any moment breaks nothing for the others.
2. The number of the call that a worker has taken stands in its slot of a shared page before
   anything else is done with it. It is still there when the worker is dead.
3. What is larger than `INLINE` goes through a file in memory, whose descriptor is in the
   packet: written once, and mapped by the reader, who closes the descriptor at once.
4. Pickles that come with a packet are those of the other side of this one program: the sockets
   are made here, and are handed only to a worker that knew its one-time secret.
"""

from __future__ import annotations

import array
import mmap
import os
import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from amnode.rpc.transport.unix import short_path

#: What has a packet read or sent now or not at all.
NOW = socket.MSG_DONTWAIT

#: Bytes of a pickle that goes into a packet.
INLINE = 64 * 1024

#: Bytes of a buffer (of an array, say) from which it is not copied into the pickle.
OWN_BUFFER = 16 * 1024

#: Kinds of packets.
CALL, STOP = 0, 1
RESULT, ERROR, WORN, WAKE = 2, 3, 4, 5

#: The number in a packet that is about no call, but stops a worker.
NO_CALL = (1 << 64) - 1

#: What the kind of a large one has besides.
LARGE = 0x80

#: Number of the call, kind, slot of the worker (or bytes of the pickled function), and seconds
#: that the call took.
HEAD = struct.Struct("<QBIf")

_SIZES = struct.Struct("<QQ")
_SLOT = struct.Struct("<Q")
_NOTHING = bytes(_SLOT.size)
_PACKET = HEAD.size + INLINE
_SPACE = socket.CMSG_SPACE(array.array("i").itemsize)
_KIND = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_DGRAM)
_ALIGNED = 64

#: Bytes that may wait in a queue: whoever writes is not held up by a reader that is busy.
_WAITING = 1024 * 1024

#: Seconds that the program has to give a worker its queues; and what it gives at most.
_DOOR_TIMEOUT = 30.0
_MOST_GIVEN = 16

#: Pieces that one `writev` takes.
_PIECES = 512


class Packed(msgspec.Struct):
    """A pickle, as the pieces that were written.

    Attributes:
        pieces: of the pickle; a large one is the object's own memory.
        buffers: what the pickle only refers to.
        first: bytes of a first pickle, that of a function, before the other one.
    """

    pieces: list[Any]
    buffers: list[pickle.PickleBuffer]
    first: int = 0


def pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a queue, the reader's first."""
    reader, writer = socket.socketpair(socket.AF_UNIX, _KIND)
    writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _WAITING)
    return reader, writer


class Slots:
    """The shared page (rule 2).

    Args:
        descriptor: of its file; None makes one.
        count: of slots.
    """

    def __init__(self, count: int, descriptor: int | None = None) -> None:
        self.descriptor = _file_in_memory() if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self.descriptor, count * _SLOT.size)
        self.page = mmap.mmap(self.descriptor, count * _SLOT.size)

    def __getitem__(self, slot: int) -> int:
        return _SLOT.unpack_from(self.page, slot * _SLOT.size)[0]

    def __setitem__(self, slot: int, number: int) -> None:
        _SLOT.pack_into(self.page, slot * _SLOT.size, number)

    def close(self) -> None:
        """Gives the page back."""
        self.page.close()
        os.close(self.descriptor)


class Reader:
    """Takes packets from a queue; one for each thread that reads.

    Attributes:
        number: of the call of the packet that was read last.
        kind: of it, without `LARGE`.
        extra: the third field of its head.
        seconds: the fourth.
    """

    def __init__(self, queue: socket.socket) -> None:
        self._queue = queue
        self._buffer = bytearray(_PACKET)
        self._into = [self._buffer]
        self._view = memoryview(self._buffer)
        self._length = 0
        self._descriptor = -1
        self.number = self.kind = self.extra = 0
        self.seconds = 0.0

    def read(self, flags: int = 0) -> bool:
        """Waits for a packet; False if there will be none.

        Raises:
            BlockingIOError: with MSG_DONTWAIT in the flags, there is none now.
        """
        self._buffer[:8] = _NOTHING
        flags |= socket.MSG_CMSG_CLOEXEC if hasattr(socket, "MSG_CMSG_CLOEXEC") else 0
        length, extra, _, _ = self._queue.recvmsg_into(self._into, _SPACE, flags)
        if length < HEAD.size:
            return False
        self._length = length
        self.number, kind, self.extra, self.seconds = HEAD.unpack_from(self._buffer)
        self.kind = kind & ~LARGE
        self._descriptor = -1
        if kind & LARGE:
            self._take(extra)
        return True

    def _take(self, extra: list[Any]) -> None:
        for _, _, data in extra:
            descriptors = array.array("i")
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
            self._descriptor = descriptors[0] if descriptors else -1

    @property
    def begun(self) -> int:
        """The number of the packet that came, even if a signal ended `read` just then; or 0."""
        return _SLOT.unpack_from(self._buffer)[0]

    def packet(self) -> tuple[bytes, int]:
        """The packet itself and its descriptor, or -1: for one that is put back."""
        return bytes(self._view[: self._length]), self._descriptor

    def load(self) -> Any:
        """What is pickled in the packet.

        Raises:
            Exception: whatever unpickling it raises.
        """
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            return _load_file(descriptor, self._split)
        if self._length == HEAD.size:
            raise OSError(
                "What was sent has not arrived: this process may not open another file; see "
                "`ulimit -n`."
            )
        return _load(self._view[HEAD.size : self._length], self._split, ())

    def drop(self) -> None:
        """Closes what was not loaded."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def _split(self) -> int:
        """Bytes of the first of two pickles, in a call."""
        return self.extra if self.kind == CALL else 0


def _load(data: memoryview, first: int, buffers: Sequence[memoryview]) -> Any:
    if not first:
        return load(data, buffers)
    return pickle.loads(data[:first]), *load(data[first:], buffers)  # noqa: S301 - see rule 4


def load(data: bytes | memoryview, buffers: Sequence[memoryview] = ()) -> Any:
    """What is pickled in data of this program's own making (rule 4).

    Raises:
        Exception: whatever unpickling it raises.
    """
    if not buffers:
        return pickle.loads(data)  # noqa: S301 - see rule 4
    return pickle.loads(data, buffers=buffers)  # noqa: S301 - see rule 4


def dump(value: object) -> bytes:
    """A plain pickle.

    Raises:
        Exception: whatever pickling it raises.
    """
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def _load_file(descriptor: int, first: int) -> Any:
    """Maps a file (rule 3): private, so that arrays in it may be changed."""
    try:
        page = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    finally:
        os.close(descriptor)
    view = memoryview(page)
    length, count = _SIZES.unpack_from(view)
    table = view[_SIZES.size : _SIZES.size + count * _SLOT.size]
    start = _SIZES.size + len(table)
    data, at = view[start : start + length], start + length
    buffers: list[memoryview] = []
    for (size,) in _SLOT.iter_unpack(table):
        at += -at % _ALIGNED
        buffers.append(view[at : at + size])
        at += size
    return _load(data, first, buffers)


def send(
    queue: socket.socket,
    number: int,
    kind: int,
    packed: Packed | None = None,
    *,
    extra: int = 0,
    seconds: float = 0.0,
    flags: int = 0,
) -> None:
    """Sends one packet.

    Raises:
        BlockingIOError: with MSG_DONTWAIT in the flags, the queue is full.
        OSError: it cannot be sent.
    """
    if packed is None:
        queue.send(HEAD.pack(number, kind, extra, seconds), flags)
        return
    size = sum(map(len, packed.pieces))
    if size <= INLINE and not packed.buffers:
        head = HEAD.pack(number, kind, packed.first or extra, seconds)
        queue.send(b"".join((head, *packed.pieces)), flags)
        return
    descriptor = _written(packed, size)
    try:
        head = HEAD.pack(number, kind | LARGE, packed.first or extra, seconds)
        _send_with(queue, head, descriptor, flags)
    finally:
        os.close(descriptor)


def send_again(queue: socket.socket, packet: bytes, descriptor: int, flags: int) -> None:
    """Puts a packet back that was taken out; its descriptor is closed here.

    Raises:
        BlockingIOError: the queue is full.
    """
    if descriptor < 0:
        queue.send(packet, flags)
        return
    try:
        _send_with(queue, packet, descriptor, flags)
    finally:
        os.close(descriptor)


def _send_with(queue: socket.socket, packet: bytes, descriptor: int, flags: int) -> None:
    rights = array.array("i", [descriptor])
    queue.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], flags)


def _written(packed: Packed, size: int) -> int:
    """A file in memory with a pickle and its buffers: sizes, pickle, buffers (rule 3)."""
    raws = [buffer.raw() for buffer in packed.buffers]
    head = _SIZES.pack(size, len(raws)) + b"".join(_SLOT.pack(raw.nbytes) for raw in raws)
    pieces: list[Any] = [head, *packed.pieces]
    at = len(head) + size
    for raw in raws:
        if gap := -at % _ALIGNED:
            pieces.append(bytes(gap))
        pieces.append(raw)
        at += gap + raw.nbytes
    descriptor = _file_in_memory()
    try:
        _write(descriptor, pieces)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _write(descriptor: int, pieces: list[Any]) -> None:
    left = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
    left.reverse()
    while left:
        written = os.writev(descriptor, left[: -_PIECES - 1 : -1])
        while written:
            piece = left.pop()
            if written < len(piece):
                left.append(piece[written:])
                break
            written -= len(piece)


def _file_in_memory() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("call", os.MFD_CLOEXEC)
    import tempfile  # where there are none, such as on macOS
    from pathlib import Path

    descriptor, path = tempfile.mkstemp(prefix="amnode-call-")
    Path(path).unlink()
    return descriptor


# -- how a worker gets its queues ------------------------------------------------------------


def listen(path: str) -> socket.socket:
    """The door of a program: a socket that only its owner may connect to.

    Raises:
        OSError: it cannot be listened on.
    """
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(door.fileno(), 0o600)
        with short_path(path) as short:
            door.bind(short)
        door.listen(128)
        door.setblocking(False)
    except BaseException:
        door.close()
        raise
    return door


def give(visitor: socket.socket, given: dict[str, int]) -> None:
    """Gives descriptors to a worker that has shown its secret.

    Raises:
        OSError: it is gone.
    """
    socket.send_fds(visitor, ["".join(given).encode()], [*given.values()])


def take_all(path: str, secret: bytes) -> dict[str, int]:
    """What the program gives to a worker that knows its secret, by the letter of each.

    Raises:
        OSError: nothing, or less than was sent.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.settimeout(_DOOR_TIMEOUT)
        with short_path(path) as short:
            door.connect(short)
        door.sendall(secret)
        data, descriptors, flags, _ = socket.recv_fds(door, _MOST_GIVEN, _MOST_GIVEN)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    if len(data) != len(descriptors) or not data or flags & socket.MSG_CTRUNC:
        for descriptor in descriptors:
            os.close(descriptor)
        raise OSError("the program gave no queues; too many files may be open")
    return dict(zip(data.decode(), descriptors, strict=True))


def queue_of(descriptor: int) -> socket.socket:
    """A queue by the descriptor of its end."""
    return socket.socket(fileno=descriptor)
