"""Writes the pages of what the code says: options, states, errors and the wire format.

    python docs/generate.py

A test compares the pages with what this file would write, so they cannot go stale.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import partial
from itertools import pairwise
from pathlib import Path

import msgspec
from cyclopts.argument import Argument

import amnode
from amnode import errors
from amnode.cli import settings
from amnode.cli.app import COMMANDS, make_app
from amnode.cli.call import JobRow
from amnode.cli.change import Changed
from amnode.cli.diagram import Drawn
from amnode.cli.doctor import Report
from amnode.cli.exits import Exit
from amnode.cli.findings import Finding
from amnode.cli.inspect import Inspected
from amnode.cli.logs import Line
from amnode.cli.new import Written
from amnode.cli.operate import Done
from amnode.cli.settings import LogSettings, Settings
from amnode.cli.version import Versions
from amnode.cli.wait import Waited
from amnode.machine.picture import svg
from amnode.machine.schema import Relations, State, States
from amnode.node.args import CrashReport
from amnode.node.operator_args import PoolListing, WaiterRow, WorkerRow
from amnode.node.policy.crashes import CrashRecord
from amnode.node.policy.options import (
    ClientOptions,
    DispatchOptions,
    Option,
    PoolSize,
    SupervisorOptions,
    WorkerOptions,
    table,
)
from amnode.node.policy.view import Counts, PoolView
from amnode.node.states import BootstrapStates, ClientStates, SupervisorStates, WorkerStates
from amnode.node.telling import Inspection
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire
from amnode.rpc.tls_files import TlsFiles

HERE = Path(__file__).parent

OPTIONS = {
    PoolSize: "How many workers there may and should be; `size=` of `SupervisorOptions`. At "
    "rest there are `min + warm` workers, with `b` of them leased `max(min, b) + warm`, and "
    "never more than `max`.",
    SupervisorOptions: "`Supervisor(..., opts=SupervisorOptions(...))`.",
    WorkerOptions: "`super().__init__(opts=WorkerOptions(...))` in a worker class.",
    ClientOptions: "`Client(..., opts=ClientOptions(...))`.",
    DispatchOptions: "`Pool(..., dispatch=DispatchOptions(...))`.",
}

SCHEMAS = {
    SupervisorStates: "Supervisor",
    WorkerStates: "Worker",
    ClientStates: "Client",
    BootstrapStates: "Bootstrap",
}


# -- options -------------------------------------------------------------------------------


def options_page() -> str:
    """The text of reference/options.md."""
    return "\n".join(
        [
            "# Options",
            "",
            "Every option, as the code has it. Times are seconds. A value that cannot work is "
            "refused when the options are made, by an `OptionError` that names it.",
            *(line for cls, intro in OPTIONS.items() for line in _options(cls, intro)),
            *_rpc_options(),
            "",
        ]
    )


def _options(cls: type, intro: str) -> Iterator[str]:
    yield from ("", f"## {cls.__name__}", "", intro, "")
    yield "| option | default | least | why |"
    yield "|---|---|---|---|"
    for row in table(cls):
        default, why = _value(row, row.default), row.bounds.why
        yield f"| `{row.name}` | {default} | {_least(row)} | {why} |"


def _rpc_options() -> Iterator[str]:
    """The limits of a connection, whose docstring says all of each."""
    doc = inspect.getdoc(RpcOptions) or ""
    entries = doc.split("Attributes:\n")[1].split("\nRaises:")[0]
    yield from ("", "## RpcOptions", "", "`RpcClient(..., options=RpcOptions(...))`, `Mux`")
    yield from ("likewise; see [remote machines](../remote.md).", "")
    yield from ("| option | what it is |", "|---|---|")
    for entry in re.split(r"\n {4}(?=\w+: )", "\n" + textwrap.indent(entries.rstrip(), "")):
        name, _, text = entry.strip().partition(": ")
        if name:
            yield f"| `{name}` | {' '.join(text.split())} |"


def _value(row: Option, value: float | None) -> str:
    if value is None:
        return "off"
    return f"{value:g} s" if row.bounds.unit == "s" else f"{value:g}"


def _least(row: Option) -> str:
    least = _value(row, row.bounds.least)
    return (
        least if row.bounds.most is None else f"{least}, at most {_value(row, row.bounds.most)}"
    )


# -- states --------------------------------------------------------------------------------


def states_page() -> str:
    """The text of reference/states.md."""
    return "\n".join(
        [
            "# States",
            "",
            "The states of each machine, in the order of their ticks. *auto*: activated by "
            "itself as soon as it can be. *multi*: may be called again while it is active. "
            "What the relations mean is in [concepts](../concepts.md).",
            "",
            "In the pictures a state stands under the one that it requires; a second one is "
            "named in its box. Green arrows go to what it adds, red lines with a bar to what "
            "it removes. Auto states are dashed, multi ones doubled. `python -m amnode.machine "
            "my.module:MyStates --svg` draws yours.",
            *(line for cls, title in SCHEMAS.items() for line in _states(cls, title)),
            "",
        ]
    )


def _states(cls: type[States], title: str) -> Iterator[str]:
    said = _sentences(cls)
    yield from ("", f"## {title}", "", (cls.__doc__ or "").split("\n")[0], "")
    yield from (f"![What the states of a {title.lower()} require]({title.lower()}.svg)", "")
    yield "| state | what it says | how it relates |"
    yield "|---|---|---|"
    for name, relations in cls.schema().items():
        yield f"| `{name}` | {said[name]} | {_relations(relations)} |"


def _relations(state: Relations) -> str:
    kinds = [kind for kind in ("auto", "multi") if getattr(state, kind)]
    words = {
        "require": "requires",
        "add": "adds",
        "remove": "removes",
        "after": "after",
    }
    kinds += [
        f"{word} {', '.join(getattr(state, kind))}"
        for kind, word in words.items()
        if getattr(state, kind)
    ]
    return "; ".join(kinds)


def _sentences(cls: type[States]) -> dict[str, str]:
    """The text under each state, in the class or the base that has it."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not any(isinstance(value, State) for value in vars(base).values()):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for state, text in pairwise(body):
            match state, text:
                case (
                    ast.Assign(targets=[ast.Name(id=name)]),
                    ast.Expr(value=ast.Constant(value=str(sentence))),
                ):
                    found[name] = sentence
                case _:
                    pass
    return found


# -- errors --------------------------------------------------------------------------------


def errors_page() -> str:
    """The text of reference/errors.md: the tree of errors.py, then each class."""
    said = inspect.cleandoc(errors.__doc__ or "")
    _, _, tree = said.partition("\n\n")
    tree, _, rest = tree.partition("\n\nA message says")
    return "\n".join(
        [
            "# Errors",
            "",
            "Every error that this package raises on purpose is in one tree; catch "
            "`AmnodeError` to catch them all. Where an error is also one of Python's own, such "
            "as `TimeoutError`, that stands in brackets. When which of them comes is in "
            "[when something goes wrong](../failures.md).",
            "",
            "```text",
            textwrap.dedent(tree),
            "```",
            "",
            f"A message says{rest}".replace("``", "`"),
            *(line for name in _error_names() for line in _error(getattr(errors, name))),
            "",
        ]
    )


def _error_names() -> list[str]:
    """In the order of the file, which is that of the tree; the plain data first."""
    return [
        node.name
        for node in ast.parse(inspect.getsource(errors)).body
        if isinstance(node, ast.ClassDef) and node.name in amnode.__all__
    ]


def _error(cls: type) -> Iterator[str]:
    yield from ("", f"## {cls.__name__}", "")
    yield from ("```{eval-rst}", f".. autoclass:: amnode.{cls.__name__}", "```")
    if issubclass(cls, StrEnum):
        yield from ("", f"One of {', '.join(f'`{member.name}`' for member in cls)}.")


# -- the command line ----------------------------------------------------------------------

#: What each command prints with `--json`, and what is in that.
JSON: dict[str, tuple[str, tuple[type, ...]]] = {
    "new": ("one object", (Written,)),
    "doctor": ("one object", (Report, Finding)),
    "up": ("nothing; `[log] format` says how it logs", ()),
    "call": ("the result; without a job, a list of objects", (JobRow,)),
    "set-pool": ("one object", (PoolSize,)),
    "restart": ("one object", (Done,)),
    "drain": ("the same", ()),
    "resume": ("the same", ()),
    "stop": ("the same", ()),
    "add": ("one object", (Changed,)),
    "remove": ("the same", ()),
    "ps": ("one object", (PoolListing, PoolView, Counts, WorkerRow, WaiterRow)),
    "top": ("what `ps` does, one object a line", ()),
    "logs": ("one object a line", (Line,)),
    "crashes": ("a list of objects", (CrashRecord, CrashReport)),
    "inspect": ("one object; with `--follow`, then one a line", (Inspected, Inspection)),
    "wait": ("one object", (Waited,)),
    "diagram": ("one object", (Drawn,)),
    "completion": ("one object: `shell`, and `script`", ()),
    "version": ("one object", (Versions,)),
}

CLI_INTRO = """\
# Command line

    pip install 'amnode[cli]'
    amnode --help

The program `amnode` runs, watches and operates pools. `python -m amnode` is the same.

## Which supervisor

Commands find a supervisor by `--at`, or `AMNODE_AT`: its name, its directory, or the address of its local server. Without it they
take the only one that runs here as this user: first those of `amnode up`, then those that programs run themselves.

A supervisor leaves a file `operators.json`, which only its user can read, in its directory: its addresses, and the secret of its
operators. So on the same machine, as the same user (or root), nothing more is needed. From elsewhere, pass the address with
`--at`, and a file with the secret with `--operator-file`. `amnode call` is a client, and takes the clients' token from
`--token-file`. Neither is ever an argument, which others on the machine could read. The clients' token operates nothing.

What is in a file of secrets is the token alone, or all of `operators.json`. A file that is open to others is refused.

| variable | instead of |
|---|---|
| `AMNODE_AT` | `--at` |
| `AMNODE_OPERATOR_FILE`, or the secret itself in `AMNODE_OPERATOR_TOKEN` | `--operator-file` |
| `AMNODE_TOKEN_FILE`, or the token itself in `AMNODE_TOKEN` | `--token-file` |
| `AMNODE_AUTHORITY` | `--authority` |
| `AMNODE_WORKER` | `--worker` of `call` |
| `AMNODE_TIMEOUT` | `--timeout` |
| `AMNODE_RUN_DIR` | the directory of run files: `$XDG_RUNTIME_DIR/amnode`, or `amnode-run-UID` among the temporary files |
| `NO_COLOR` | colours, on a terminal |

## How it ends

Errors go to the standard error, in words; with `--json` as one object there: `error` (the class), `message`, `notes`, `exit`.
With `--json` the standard output has JSON only. Its fields stay what they are; there may be more of them.
"""


def cli_page() -> str:
    """The text of reference/cli.md."""
    return "\n".join(
        [
            CLI_INTRO,
            "| exit code | |",
            "|---|---|",
            *(f"| {code.value} | {said} |" for code, said in _exits()),
            *_settings_table(),
            *(line for group in COMMANDS.items() for line in _commands(*group)),
            "",
        ]
    )


def _exits() -> Iterator[tuple[Exit, str]]:
    (body,) = [n.body for n in ast.parse(inspect.getsource(Exit)).body if hasattr(n, "body")]
    texts = [n.value.value for n in body if isinstance(n, ast.Expr)][1:]
    yield from zip(Exit, texts, strict=True)


def _settings_table() -> Iterator[str]:
    yield from ("", "## The settings of `amnode up`", "")
    yield "A file in TOML, `amnode.toml` by default. Paths in it are taken from its directory."
    example = (settings.__doc__ or "").partition("\n\n")[2].partition("\n\n1. ")[0]
    yield from ("", "```toml", textwrap.dedent(example), "```")
    for kind, table_name in ((Settings, ""), (LogSettings, "log"), (TlsFiles, "tls")):
        if table_name:
            yield from ("", f"`[{table_name}]`:")
        yield from ("", "| key | default | what it is |", "|---|---|---|")
        fields = {field.name: field for field in msgspec.structs.fields(kind)}
        for name, text in _attributes(kind):
            yield f"| `{name}` | {_shown(fields[name])} | {text} |"


def _shown(field: msgspec.structs.FieldInfo) -> str:
    default: object = field.default
    if field.required:
        return "needed"
    if isinstance(default, str):
        return f'`"{default}"`' if default else ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{list(default)}`".replace("'", '"') if isinstance(default, tuple) else ""


def _attributes(kind: type) -> Iterator[tuple[str, str]]:
    """The fields that a docstring has, and what it says of each."""
    doc = inspect.getdoc(kind) or ""
    entries = doc.partition("Attributes:\n")[2].partition("\n\n")[0]
    for entry in re.split(r"\n {4}(?=\w[\w, ]*: )", "\n" + entries):
        names, _, text = entry.strip().partition(": ")
        for name in filter(None, names.split(", ")):
            yield name, " ".join(text.split())


def _commands(group: str, commands: tuple[tuple[str, str, str], ...]) -> Iterator[str]:
    yield from ("", f"## {group}")
    for name, _function, _line in commands:
        command = make_app(name)[name]
        shown = [a for a in command.assemble_argument_collection() if a.show]
        usage = " ".join(a.name for a in shown if not a.name.startswith("-"))
        yield from ("", f"### `amnode {name}{' ' + usage if usage else ''}`", "")
        said = inspect.cleandoc(command.help).split("\n\n")
        yield "\n\n".join(" ".join(paragraph.split()) for paragraph in said)
        own = [a for a in shown if a.name not in _EVERYWHERE]
        if own:
            yield from ("", "| | default | |", "|---|---|---|")
            yield from map(_argument, own)
        yield from ("", f"`--json`: {JSON[name][0]}.")
        for kind in JSON[name][1]:
            yield from ("", f"| `{kind.__name__}` | |", "|---|---|")
            yield from (f"| `{field}` | {text} |" for field, text in _attributes(kind))


_EVERYWHERE = (
    "--at",
    "--operator-file",
    "--token-file",
    "--authority",
    "--timeout",
    "--json",
)


def _argument(argument: Argument) -> str:
    names = ", ".join(f"`{name}`" for name in argument.names)
    default = argument.field_info.default
    plain = default not in (None, "", False, inspect.Parameter.empty)
    shown = f"`{default}`" if plain and isinstance(default, int | float | str) else ""
    choices = argument.get_choices()
    among = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    return f"| {names} | {shown} | {argument.parameter.help or ''}{among} |"


# -- the wire format -----------------------------------------------------------------------

_START, _END = "<!-- from wire.py -->\n", "<!-- to here -->\n"


def wire_page() -> str:
    """The text of reference/wire-format.md, whose table is that of wire.py."""
    page = (HERE / WIRE).read_text(encoding="utf-8")
    before, _, rest = page.partition(_START)
    _, _, after = rest.partition(_END)
    said = inspect.cleandoc(wire.__doc__ or "")
    _, _, table = said.partition("\n\n    tag  message")
    table, _, _ = table.partition("\n\nThe rules of this file")
    return f"{before}{_START}\n    tag  message{table}\n\n{_END}{after}"


WIRE = "reference/wire-format.md"
PICTURES = {
    f"reference/{title.lower()}.svg": partial(svg, cls.schema())
    for cls, title in SCHEMAS.items()
}
PAGES: dict[str, Callable[[], str]] = {
    "reference/options.md": options_page,
    "reference/states.md": states_page,
    "reference/errors.md": errors_page,
    "reference/cli.md": cli_page,
    WIRE: wire_page,
    **PICTURES,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
