"""`amnode diagram`: the states of a schema and how they relate, for Mermaid or Graphviz."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import Parameter

from amnode.cli.machines import machine
from amnode.cli.shared import NOWHERE, PLAIN, Output, Where, run_async
from amnode.cli.show import write_json
from amnode.errors import OptionError
from amnode.machine.diagram import dot, mermaid
from amnode.machine.related import relations
from amnode.machine.schema import Schema, States
from amnode.node.states import BootstrapStates, ClientStates, SupervisorStates, WorkerStates
from amnode.node.worker import Worker

#: The schemas of the pool itself.
OWN: Mapping[str, type[States]] = {
    "supervisor": SupervisorStates,
    "worker": WorkerStates,
    "client": ClientStates,
    "bootstrap": BootstrapStates,
}

_DRAW = {"mermaid": mermaid, "dot": dot}


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """A schema as data.

    Attributes:
        states: the names, in order.
        relations: each as `Source kind Target`.
        active: names of the states that are active, of a live machine.
        diagram: the text.
    """

    states: tuple[str, ...]
    relations: tuple[str, ...]
    active: tuple[str, ...]
    diagram: str


def diagram(
    schema: Annotated[
        str,
        Parameter(
            name="SCHEMA",
            help="supervisor, worker, client or bootstrap; or MODULE:CLASS, a Worker class, a "
            "States class or a Schema of your own, looked for from this directory too.",
        ),
    ] = "worker",
    /,
    *,
    format: Annotated[
        Literal["mermaid", "dot"], Parameter(name=["--format", "-o"], help="The language.")
    ] = "mermaid",
    live: Annotated[
        str,
        Parameter(
            help="Draw a running machine instead, its active states filled: `supervisor`, or a "
            "worker as in `amnode inspect`.",
            show_default=False,
        ),
    ] = "",
    where: Where = NOWHERE,
    output: Output = PLAIN,
) -> None:
    """Draws the states of a schema, and their relations.

    Mermaid is what many pages and editors draw; for Graphviz:
    `amnode diagram mine.worker:Mine --format dot | dot -Tsvg > states.svg`.
    """
    found, active = run_async(_living(live, where)) if live else (schema_of(schema), ())
    text = _DRAW[format](found, active)
    if output.json:
        told = tuple(map(str, relations(found)))
        names = tuple(found.names)
        write_json(Drawn(states=names, relations=told, active=active, diagram=text))
    else:
        print(text, end="")


async def _living(named: str, where: Where) -> tuple[Schema, tuple[str, ...]]:
    async with machine(where, named) as drawn:
        names = drawn.source.clock()
        return drawn.source.schema, tuple(name for name in names if drawn.source.is1(name))


def schema_of(named: str) -> Schema:
    """The schema of that name; see the command's help.

    Raises:
        OptionError: there is none, or it is something else.
    """
    if named in OWN:
        return OWN[named].schema()
    module, colon, attribute = named.partition(":")
    if not colon:
        raise OptionError(f"{named!r} is no schema; use {', '.join(OWN)} or MODULE:CLASS.")
    found = _imported(module, attribute)
    if isinstance(found, type) and issubclass(found, Worker):
        found = found.schema
    if isinstance(found, Schema):
        return found
    if isinstance(found, type) and issubclass(found, States):
        return found.schema()
    raise OptionError(
        f"{named} is {found!r}; it must be a Worker or States class, or a Schema."
    )


def _imported(module: str, attribute: str) -> object:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(
            f"There is no {module}:{attribute} (MODULE:CLASS): {error}."
        ) from None
    return found
