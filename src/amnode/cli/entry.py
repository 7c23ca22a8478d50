"""The program `amnode`: runs one command, and turns whatever it raises into an exit code.

1. What a user can mend is one message on the standard error, never a traceback; with `--json`
   it is one JSON object there.
2. A reader of the output that goes away (`| head`) ends the command without a word.
3. What no user can mend, a fault of this package, shows its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from amnode.cli.exits import Exit, exit_of
from amnode.errors import AmnodeError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code (see `Exit`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        from amnode.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("cyclopts", "rich"):
            raise
        print(
            "The command line needs more packages: pip install 'amnode[cli]'", file=sys.stderr
        )
        return Exit.USAGE
    try:
        code = run(words)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _hush()
        return Exit.BROKEN_PIPE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except (AmnodeError, TimeoutError, OSError) as error:
        return _fail(error, words)


def console() -> None:
    """The entry point of the installed program."""
    sys.exit(main())


def _fail(error: Exception, words: list[str]) -> int:
    """Rule 1."""
    code = exit_of(error)
    try:
        sys.stdout.flush()
        print(_told(error, code, as_json=_wants_json(words)), file=sys.stderr)
    except BrokenPipeError:
        _hush()
    return code


def _told(error: Exception, code: Exit, *, as_json: bool) -> str:
    message = str(error) or type(error).__name__
    notes = [str(note) for note in getattr(error, "__notes__", ())]
    if not as_json:
        return "\n".join([f"amnode: {message}", *notes])
    import msgspec

    said = {"error": type(error).__name__, "message": message, "notes": notes, "exit": code}
    return msgspec.json.encode(said).decode()


def _wants_json(words: list[str]) -> bool:
    before = words[: words.index("--")] if "--" in words else words
    return "--json" in before


def _hush() -> None:
    """Rule 2: what is still in the buffers goes nowhere, and raises nothing at exit."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
