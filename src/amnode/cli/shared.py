"""What commands have in common: the options that say which supervisor, and `--json`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from cyclopts import Group, Parameter

T = TypeVar("T")

_WHERE = Group("Where", sort_key=10)
_HOW = Group("Output", sort_key=11)


@Parameter(name="*", group=_HOW)
@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """How a command shows what it has.

    Attributes:
        json: as JSON, whose fields stay what they are.
    """

    json: Annotated[
        bool, Parameter(negative="", help="Print JSON, one value (a live view: one a line).")
    ] = False


#: The option by which commands are told whom to trust at an address with TLS.
Authority = Annotated[
    Path | None,
    Parameter(
        env_var="AMNODE_AUTHORITY",
        help="For a tls: address: the certificates of who has signed for it (PEM); by default "
        "those of the supervisor's directory, or those that the system trusts.",
    ),
]


@Parameter(name="*", group=_WHERE)
@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """Which supervisor a command is for, and by which secret; see `places.find`.

    Attributes:
        at: a name, a directory or an address; the only one that runs here by default.
        operator_file: the file with the operators' secret.
        authority: the certificates of who signs for the supervisor.
    """

    at: Annotated[
        str,
        Parameter(
            env_var="AMNODE_AT",
            show_default=False,
            help="The supervisor: its name, its directory, or its address (such as "
            "unix:/run/squares/local). By default the only one that runs here.",
        ),
    ] = ""
    operator_file: Annotated[
        Path | None,
        Parameter(
            env_var="AMNODE_OPERATOR_FILE",
            help="The file with the operators' secret, where --at is an address: operators.json"
            " of the supervisor's directory, or the token alone.",
        ),
    ] = None
    authority: Authority = None


@Parameter(name="*", group=_WHERE)
@dataclass(frozen=True, slots=True, kw_only=True)
class Where(At):
    """That, and how long to wait for answers.

    Attributes:
        timeout: seconds that the supervisor has for each answer.
    """

    timeout: Annotated[
        float, Parameter(env_var="AMNODE_TIMEOUT", help="Seconds to wait for an answer.")
    ] = 10.0


NOWHERE = Where()
PLAIN = Output()


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Runs a command's coroutine to its end; Ctrl-C cancels it, and is raised again."""
    try:
        import uvloop
    except ImportError:  # no uvloop for this platform
        factory = None
    else:
        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
