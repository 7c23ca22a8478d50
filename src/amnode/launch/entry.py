"""The first lines inside a worker's process: `python -m amnode.launch.entry`.

It takes what it is to do from the inherited descriptor, closes it, removes every trace of it
from the environment, and calls the function that it was told to call. What is printed from
then on is in the output at the end of each line, however the process ends.
"""

from __future__ import annotations

import importlib
import io
import os
import sys

import msgspec

#: The environment variable with the number of the descriptor.
BOOT_FD = "AM_NODE_BOOT_FD"


class Boot(msgspec.Struct, forbid_unknown_fields=True):
    """What a process is to do.

    Attributes:
        run: `module:attribute` of the function to call.
        path: entries of `sys.path` that must be there.
        payload: its one argument; holds secrets and is never shown.
    """

    run: str
    path: list[str]
    payload: bytes

    def __repr__(self) -> str:
        return f"Boot(run={self.run!r}, path={self.path!r})"


def take_boot() -> Boot:
    """Reads the boot record, once; the descriptor and the variable are gone afterwards.

    Raises:
        SystemExit: the process was not started by a launcher; says what is wrong.
    """
    number = os.environ.pop(BOOT_FD, "")
    if not number.isdecimal():
        raise SystemExit(f"{BOOT_FD} is not set: this program is started by a supervisor.")
    try:
        with open(int(number), "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            data = file.read()
        boot = msgspec.msgpack.decode(data, type=Boot)
    except (OSError, OverflowError, msgspec.DecodeError) as error:
        raise SystemExit(
            f"{BOOT_FD} is {number}, but no boot record is there ({error}): "
            "this program is started by a supervisor."
        ) from None
    if isinstance(sys.stdout, io.TextIOWrapper):
        # To a file it would be kept back in blocks, and lost when the process is killed.
        sys.stdout.reconfigure(line_buffering=True)
    return boot


def main() -> int:
    """Does what the boot record says; returns the exit code."""
    boot = take_boot()
    sys.path.extend(entry for entry in boot.path if entry not in sys.path)
    module, _, attribute = boot.run.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    return int(function(boot.payload) or 0)


if __name__ == "__main__":
    sys.exit(main())
