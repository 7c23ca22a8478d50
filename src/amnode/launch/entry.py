"""The first lines inside a process that was launched: `python -m amnode.launch.entry`.

It reads its boot record from an inherited descriptor and calls the function that it names. What
a fork server forks comes to `run` with its record.

1. The record is read once: afterwards the descriptor is closed, the variable that named it is
   gone, and the bytes that were read are overwritten. Only the payload is left, with whom it
   is for.
2. Whatever goes wrong here ends the process with a code other than 0, and with its reason on
   the standard error, which is the output file of the process.
3. Every start waits for this file, so it imports no event loop and no other layer.
4. What is printed after the record was taken is in the output at the end of each line,
   however the process ends. One that crashes leaves its stack there, and so does one that
   is sent `DUMP_SIGNAL`, even while it holds the interpreter.
5. Where the system has subreapers the process is one: what it starts stays below it, in
   sessions of their own too, and at its orderly end is ended with it.
"""

from __future__ import annotations

import atexit
import faulthandler
import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO

import msgspec

from amnode.launch.reaper import become_subreaper, end_descendants

#: The environment variable with the number of the descriptor.
BOOT_FD = "AM_NODE_BOOT_FD"

#: Has a process write the stacks of its threads to its output. One that hardly any program
#: uses; where there are no such signals, one that few do.
DUMP_SIGNAL = signal.SIGRTMAX - 1 if sys.platform == "linux" else signal.SIGUSR2

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
    """Takes the boot record that the environment names (rule 1).

    Raises:
        SystemExit: there is none, as the process was not started by a launcher; or it is none.
    """
    number = os.environ.pop(BOOT_FD, "")
    if not number.isdecimal():
        raise SystemExit(f"{BOOT_FD} is not set: this program is started by a supervisor.")
    return read_boot(int(number))


def read_boot(descriptor: int) -> Boot:
    """Takes the boot record from a descriptor, and closes that (rule 1).

    Raises:
        SystemExit: it is none.
    """
    data = _read(descriptor)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(line_buffering=True)  # rule 4: to a file it would be kept back in blocks
    try:
        return msgspec.msgpack.decode(data, type=Boot)
    except msgspec.MsgspecError as error:
        raise SystemExit(
            f"The boot record of {len(data)} bytes is none: {error}. Start this program by the "
            "same version of amnode that it has."
        ) from None
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
    return run(take_boot())


def run(boot: Boot) -> int:
    """Does what a boot record says; returns the exit code."""
    prepare()
    sys.path[:] = dict.fromkeys([*boot.path, *sys.path])
    return int(find(boot.run)(boot.payload) or 0)


def prepare() -> None:
    """What a process of a pool does first (rules 4 and 5); a program of its own, too."""
    show_stacks()
    if become_subreaper():
        # Registered first, it runs last: what others registered may still need the children.
        atexit.register(_end_own, os.getpid())


def find(name: str) -> Callable[[bytes], Any]:
    """The function that `module:attribute` names, imported."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def show_stacks(file: TextIO | None = None) -> None:
    """Has a crash, and `DUMP_SIGNAL`, write stacks (rule 4).

    Args:
        file: where to; the standard error by default.
    """
    to = sys.stderr if file is None else file
    faulthandler.enable(to)
    faulthandler.register(DUMP_SIGNAL, to, all_threads=True, chain=False)


def _end_own(owner: int) -> None:
    """Rule 5, for the process that registered it and not for one that this has forked."""
    if os.getpid() == owner:
        end_descendants(owner)


if __name__ == "__main__":
    sys.exit(main())
