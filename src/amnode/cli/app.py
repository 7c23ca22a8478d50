"""The commands of `amnode`: what each is called, and where it is.

A command is a function in a file of its own (or of its family), imported when it is called, so
that one does not pay for another. Its docstring is its help. It returns an exit code, or None
for 0, and raises whatever goes wrong; `entry` does the rest.
"""

from __future__ import annotations

from typing import Any

from cyclopts import App, CycloptsError

from amnode.cli.exits import Exit
from amnode.errors import OptionError

#: Name, function, and the line in the list of commands; grouped as they are shown.
COMMANDS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "Run": (("up", "amnode.cli.up:up", "Run a supervisor and its pool, in the foreground."),),
    "Work": (
        ("call", "amnode.cli.call:call", "Lease a worker, call a job, print its result."),
    ),
    "Operate": (
        ("set-pool", "amnode.cli.operate:set_pool", "Give the pool another size."),
        ("restart", "amnode.cli.operate:restart", "Replace every worker, a few at a time."),
        ("drain", "amnode.cli.operate:drain", "Grant no more leases, and wait for the last."),
        ("resume", "amnode.cli.operate:resume", "Grant leases again, after a drain."),
        ("stop", "amnode.cli.operate:stop", "Stop a supervisor and its workers."),
        ("add", "amnode.cli.change:add", "Add states to a machine."),
        ("remove", "amnode.cli.change:remove", "Remove states from a machine."),
    ),
    "Look": (
        ("ps", "amnode.cli.ps:ps", "The workers: who holds which, since when, and who waits."),
        ("top", "amnode.cli.top:top", "The same, live."),
        ("logs", "amnode.cli.logs:logs", "What workers write, also those that are gone."),
        ("crashes", "amnode.cli.crashes:crashes", "Which workers died, and of what."),
        ("inspect", "amnode.cli.inspect:inspect", "A machine: states, clocks, errors, story."),
        ("wait", "amnode.cli.wait:wait", "Wait until a machine is in some states."),
    ),
    "Set up": (
        ("new", "amnode.cli.new:new", "Write a project: a typed worker, its test, its pool."),
        ("doctor", "amnode.cli.doctor:doctor", "What this machine offers, and what it lacks."),
        ("diagram", "amnode.cli.diagram:diagram", "A schema, as Mermaid or for Graphviz."),
        ("completion", "amnode.cli.completion:completion", "For bash, zsh and fish."),
        ("version", "amnode.cli.version:version", "What is installed."),
    ),
}


def make_app(called: str = "") -> App:
    """The whole command line.

    Args:
        called: the command that is to be run; its help is its docstring. The others need not be
            imported, as their lines in the list are known.
    """
    app = App(
        name="amnode",
        help="Runs, watches and operates supervised pools of worker processes.",
        help_epilogue="`amnode COMMAND --help` says more of one. Exit codes: 0 done, 1 failed, "
        "2 usage, 3 nobody there, 4 refused, 5 too late, 130 interrupted.",
        version=_version,
        version_flags=["--version"],
        help_format="plaintext",
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for group, commands in COMMANDS.items():
        for name, function, line in commands:
            own = None if name == called else line
            app.command(function, name=name, help=own, group=group)
    return app


def run(words: list[str]) -> int:
    """Runs one command.

    Raises:
        OptionError: the words make no command.
        Exception: whatever the command raises.
    """
    try:
        result: Any = make_app(words[0] if words else "")(words)
    except CycloptsError as error:
        name = words[0] if words and not words[0].startswith("-") else "COMMAND"
        raise OptionError(f"{str(error).rstrip()}\nSee `amnode {name} --help`.") from None
    return Exit.OK if result is None else int(result)


def _version() -> str:
    from importlib.metadata import version

    return f"amnode {version('amnode')}"
