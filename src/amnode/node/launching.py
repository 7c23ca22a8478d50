"""How a supervisor starts its workers: by fork, from a server that has imported what they need.

1. What a fork server imports is what each worker would import by itself: this package, the
   module of the worker class, and what that asks for by `preload`. Then it makes what all
   workers of the class would make by themselves (`warm`).
2. A program of the user's own, and a class where nothing can be forked, start by command.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from amnode.errors import OptionError
from amnode.launch.command import CommandLauncher
from amnode.launch.forkserver import choose
from amnode.launch.process import Launcher

#: How workers start: "auto" is by fork where that can be, "command" never is.
LaunchBy: TypeAlias = Literal["auto", "command"]

#: The file in a supervisor's directory that its fork server writes to; no worker's, whose
#: names end in ".log".
SERVER_OUTPUT = "forkserver.out"


def checked_launcher(launcher: Launcher | str) -> Launcher | str:
    """The launcher that was given, or the name of a way to start.

    Raises:
        OptionError: it is neither.
    """
    if isinstance(launcher, str) and launcher not in ("auto", "command"):
        raise OptionError(
            f'launcher is {launcher!r}; it must be "auto", "command", or a launcher object.'
        )
    return launcher


def absolute_path() -> list[str]:
    """Where this program looks for modules, for a process that runs elsewhere."""
    return [str(Path(entry or ".").resolve()) for entry in sys.path]


def launcher_of(
    by: str,
    target: tuple[str, str],
    preload: tuple[str, ...],
    *,
    directory: Path,
    start_timeout: float,
) -> Launcher:
    """What starts the workers of one class.

    Args:
        by: see `LaunchBy`.
        target: the class and its script, as `class_name.name_of` says; empty for a program.
        preload: what the class wants to be imported before.
        directory: of the supervisor.
        start_timeout: seconds that the imports may take.
    """
    name, script = target
    if by == "command" or not name:
        return CommandLauncher()
    loop = ["uvloop"] if find_spec("uvloop") is not None else []
    own = [] if script else [name.partition(":")[0]]
    return choose(
        output=directory / SERVER_OUTPUT,
        modules=["amnode.node.worker", *loop, *preload, *own],
        run="amnode.node.warm:prepare",
        payload=msgspec.msgpack.encode({"name": name, "script": os.fsencode(script)}),
        path=absolute_path(),
        start_timeout=start_timeout,
    )
