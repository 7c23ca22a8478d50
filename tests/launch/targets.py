"""What processes are told to run: each takes a payload and returns an exit code, or None."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def nothing(payload: bytes) -> None:
    """Returns None, which is 0."""


def length(payload: bytes) -> int:
    """Prints the length of the payload and what it begins with."""
    print(len(payload), payload[:4])
    return 0


def code(payload: bytes) -> int:
    """Returns the code that the payload is."""
    return int(payload)


def fail(payload: bytes) -> int:
    """Raises."""
    raise ValueError("no such luck")


class Nested:
    """No function of its module."""

    @staticmethod
    def code(payload: bytes) -> int:
        """Is not found: an attribute is one name."""
        return 0


def surroundings(payload: bytes) -> int:
    """Prints what a process has of its start: variables, modules, descriptors, the path."""
    descriptors = {}
    for number in range(3, 64):
        try:
            descriptors[number] = str(Path(f"/proc/self/fd/{number}").readlink())
        except OSError:
            continue
    found = {
        "variables": sorted(os.environ),
        "modules": sorted(sys.modules),
        "descriptors": descriptors,
        "path": sys.path,
        "cwd": str(Path.cwd()),
    }
    print(json.dumps(found))
    return 0


def relatives(payload: bytes) -> None:
    """Starts programs that print which descriptors they have, and the variables of a start."""
    import subprocess  # here, as `surroundings` tells what a start imports

    subprocess.run(["ls", "/proc/self/fd"], close_fds=False, check=True)
    shell = 'echo "variables: $(env | grep -c AM_NODE_BOOT)"'
    subprocess.run(["/bin/sh", "-c", shell], close_fds=False, check=True)


def print_and_die(payload: bytes) -> None:
    """Prints a line, and is killed before anything can be flushed."""
    print("the last words")
    os.kill(os.getpid(), signal.SIGKILL)


def stay(payload: bytes) -> None:
    """Says so, and stays until it is ended, as the process that it was from the start."""
    Path(os.environ["FIFO"]).write_text("staying\n")
    signal.pause()
