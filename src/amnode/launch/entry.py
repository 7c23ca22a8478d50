"""The first lines inside a process that was launched: `python -m amnode.launch.entry`.

It reads its boot record from an inherited descriptor and calls the function that it names.

1. The record is read once: afterwards the descriptor is closed, the variable that named it is
   gone, and the bytes that were read are overwritten. Only the payload is left, with whom it
   is for.
2. Whatever goes wrong here ends the process with a code other than 0, and with its reason on
   the standard error, which is the output file of the process.
3. Every start waits for this file, so it imports no event loop and no other layer.
4. What is printed after the record was taken is in the output at the end of each line,
   however the process ends.
"""

from __future__ import annotations

import importlib
import os
import sys

import msgspec

#: The environment variable with the number of the descriptor.
BOOT_FD = "AM_NODE_BOOT_FD"

#: Bytes of a record that may come through a pipe, which has no size to ask for.
PIPE_LIMIT = 64 * 1024


class Boot(msgspec.Struct, forbid_unknown_fields=True):
    """What a process is to do.

    Attributes:
        run: `module:attribute` of the function to call; it takes the payload, and returns the
            exit code, or None for 0.
        path: where to look for modules, in this order and before anywhere else.
        payload: the one argument of the function.
    """

    run: str
    path: list[str]
    payload: bytes

    def __repr__(self) -> str:  # the payload holds secrets
        return f"Boot(run={self.run!r})"


def take_boot() -> Boot:
    """Takes the boot record (rule 1).

    Raises:
        SystemExit: there is none; the process was not started by a launcher.
        msgspec.DecodeError: it is not one.
    """
    number = os.environ.pop(BOOT_FD, "")
    if not number.isdecimal():
        raise SystemExit(f"{BOOT_FD} is not set: this program is started by a supervisor.")
    data = _read(int(number))
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(line_buffering=True)  # rule 4: to a file it would be kept back in blocks
    try:
        return msgspec.msgpack.decode(data, type=Boot)
    finally:
        data[:] = bytes(len(data))


def _read(descriptor: int) -> bytearray:
    """Reads to the end into one buffer that leaves no copies, and closes the descriptor."""
    try:
        size = os.fstat(descriptor).st_size
        file = open(descriptor, "rb", buffering=0)  # noqa: SIM115 - closed by the `with` below
    except (OSError, OverflowError) as error:
        raise SystemExit(
            f"{BOOT_FD} is {descriptor}: {error}. This program is started by a supervisor."
        ) from error
    with file:
        data = bytearray(size or PIPE_LIMIT)
        length = 0
        with memoryview(data) as view:
            while count := file.readinto(view[length:]):
                length += count
    del data[length:]
    return data


def main() -> int:
    """Does what the boot record says; returns the exit code."""
    boot = take_boot()
    sys.path[:] = dict.fromkeys([*boot.path, *sys.path])
    module, _, attribute = boot.run.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    return int(function(boot.payload) or 0)


if __name__ == "__main__":
    sys.exit(main())
