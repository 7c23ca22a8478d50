"""What a state directory says of each worker, as the text of a file.

A record is written before the process starts, and again when more is known. It is JSON, so that
an operator can read it; the secret in it opens the worker, so the file is for its owner alone.

1. What is not exactly a record of this version is refused by an error that names the file, and
   says what to do: nothing is guessed, nobody is signalled by it.
2. A worker that has no address was not adopted by anybody yet: it has its bootstrap only, and
   ends by itself without that.
"""

from __future__ import annotations

import re

import msgspec

from amnode.errors import StateDirectoryError

VERSION = 1

#: A record is far smaller; more is none.
MOST_BYTES = 64 * 1024

_ID = re.compile(r"nw-[A-Za-z0-9_.-]{1,150}\Z")
_LEAST_SECRET = 16


class WorkerRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One worker, as a supervisor that comes later has to know it.

    Attributes:
        version: of this format.
        worker_id: its machine id.
        kind: of the worker.
        secret: opens its local server.
        pid: of its process; 0 until it is known.
        pid_start: when that process started; with the pid it names a process, as a pid alone
            does not.
        address: where it listens for its supervisor; "" until it is known.
        public_addr: where it listens for its client.
    """

    version: int = VERSION
    worker_id: str
    kind: str
    secret: bytes
    pid: int = 0
    pid_start: float = 0.0
    address: str = ""
    public_addr: str = ""

    def __repr__(self) -> str:
        return f"WorkerRecord({self.worker_id}, pid={self.pid}, address={self.address!r})"

    @property
    def can_be_found(self) -> bool:
        """Whether somebody may connect to it (invariant 2)."""
        return bool(self.address)


def encode_record(record: WorkerRecord) -> bytes:
    """The text of its file."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def decode_record(data: bytes, path: str) -> WorkerRecord:
    """A record out of its file.

    Raises:
        StateDirectoryError: it is none; names the file.
    """
    try:
        record = msgspec.json.decode(data, type=WorkerRecord)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _garbage(path, f"it is no record of a worker ({error})") from None
    if record.version != VERSION:
        raise _garbage(path, f"its version is {record.version}, this program's {VERSION}")
    if not _ID.match(record.worker_id):
        raise _garbage(path, f"{record.worker_id!r} is no id of a worker")
    if len(record.secret) < _LEAST_SECRET:
        raise _garbage(path, "its secret is too short")
    if record.pid < 0 or record.pid_start < 0:
        raise _garbage(path, f"there is no process {record.pid} of {record.pid_start}")
    if record.address and not record.address.startswith("unix:/"):
        raise _garbage(path, f"{record.address!r} is no address on this host")
    return record


def encode_generation(generation: int) -> bytes:
    """The text of the file that counts the starts."""
    return b"%d\n" % generation


def decode_generation(data: bytes, path: str) -> int:
    """How often a supervisor was started here.

    Raises:
        StateDirectoryError: it is no number; names the file.
    """
    text = data.strip()
    if not text.isdigit() or len(text) > 15:
        shown = data[:20].decode("ascii", "backslashreplace")
        raise _garbage(path, f"{shown!r} is no number of starts")
    return int(text)


def file_name(worker_id: str) -> str:
    """Of the record of that worker, in its directory."""
    return f"{worker_id}.worker"


def _garbage(path: str, why: str) -> StateDirectoryError:
    return StateDirectoryError(
        f"{path} cannot be used: {why}. If no worker of this directory lives any more, remove "
        "the directory; else restore the file."
    )
