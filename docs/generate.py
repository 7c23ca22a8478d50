"""Writes the pages of what the code says: options, states, errors and the wire format.

    python docs/generate.py

A test compares the pages with what this file would write, so they cannot go stale.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

import amnode
from amnode import errors
from amnode.machine.schema import Relations, State, States
from amnode.node.policy.options import (
    ClientOptions,
    Option,
    PoolSize,
    SupervisorOptions,
    WorkerOptions,
    table,
)
from amnode.node.states import BootstrapStates, ClientStates, SupervisorStates, WorkerStates
from amnode.rpc.options import RpcOptions
from amnode.rpc.protocol import wire

HERE = Path(__file__).parent

OPTIONS = {
    PoolSize: "How many workers there may and should be; `size=` of `SupervisorOptions`. At "
    "rest there are `min + warm` workers, with `b` of them leased `max(min, b) + warm`, and "
    "never more than `max`.",
    SupervisorOptions: "`Supervisor(..., opts=SupervisorOptions(...))`.",
    WorkerOptions: "`super().__init__(opts=WorkerOptions(...))` in a worker class.",
    ClientOptions: "`Client(..., opts=ClientOptions(...))`.",
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
            *(line for cls, title in SCHEMAS.items() for line in _states(cls, title)),
            "",
        ]
    )


def _states(cls: type[States], title: str) -> Iterator[str]:
    said = _sentences(cls)
    yield from ("", f"## {title}", "", (cls.__doc__ or "").split("\n")[0], "")
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
PAGES = {
    "reference/options.md": options_page,
    "reference/states.md": states_page,
    "reference/errors.md": errors_page,
    WIRE: wire_page,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page(), encoding="utf-8")
