"""The exit codes of `amnode`, and which error ends it with which.

A script can tell a pool that is not there from one that says no, and both from work that
failed. The codes stay what they are.
"""

from __future__ import annotations

from enum import IntEnum

from amnode.errors import (
    AuthError,
    ConnectionLost,
    OptionError,
    RefusedError,
    StateUnknownError,
)


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    "What was asked for is done."
    FAILED = 1
    "It could not be done; the message says why."
    USAGE = 2
    "The command, an option or a file of settings makes no sense; nothing was asked for."
    UNREACHABLE = 3
    "There is no supervisor at that address, or the connection to it was lost."
    REFUSED = 4
    "The other side said no: another token, or something that it does not open."
    TIMEOUT = 5
    "It was not done in time."
    INTERRUPTED = 130
    "Ended by Ctrl-C (SIGINT)."
    BROKEN_PIPE = 141
    "Nobody reads the output any more, as with `| head`."


#: In this order: a class before those that it is a kind of.
_OF_ERRORS: tuple[tuple[type[BaseException], Exit], ...] = (
    (BrokenPipeError, Exit.BROKEN_PIPE),
    (OptionError, Exit.USAGE),
    (StateUnknownError, Exit.USAGE),
    (ConnectionLost, Exit.UNREACHABLE),
    (AuthError, Exit.REFUSED),
    (RefusedError, Exit.REFUSED),
    (TimeoutError, Exit.TIMEOUT),
    (KeyboardInterrupt, Exit.INTERRUPTED),
)


def exit_of(error: BaseException) -> Exit:
    """The exit code of a command that ends with this error."""
    for kind, code in _OF_ERRORS:
        if isinstance(error, kind):
            return code
    return Exit.FAILED
