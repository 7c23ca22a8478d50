"""A schema drawn, a run told: `python -m amnode.machine`.

    python -m amnode.machine amnode.node.states:WorkerStates        diagram, relations, problems
    python -m amnode.machine my.module:Door --dot | dot -Tsvg       the diagram, for Graphviz
    python -m amnode.machine my.module:Door --svg > door.svg        an outline, as a picture
    python -m amnode.machine my.module:Door --of Open --of Locked   what relates to one, to two
    python -m amnode.machine --story run.jsonl                      what happened, step by step

Ends with 1 if the schema has problems, with 2 if the question makes no sense.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from amnode.errors import AmnodeError, OptionError
from amnode.machine.clock import is_active_tick
from amnode.machine.diagram import dot, mermaid
from amnode.machine.picture import svg
from amnode.machine.related import between, inbound, outbound, problems, relations
from amnode.machine.schema import Schema, States
from amnode.machine.story import read, render, replay


def main(argv: Sequence[str] | None = None) -> int:
    """Answers one question; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        if options.story is not None:
            return _tell(Path(options.story))
        if options.schema is None:
            raise OptionError("Name a schema, as module:Class, or a story, with --story.")
        schema = schema_of(options.schema)
        for asked, draw in (options.dot, dot), (options.mermaid, mermaid), (options.svg, svg):
            if asked:
                print(draw(schema), end="")
                return 0
        return _relate(schema, options.of) if options.of else _describe(schema)
    except (AmnodeError, OSError) as error:
        print(error, file=sys.stderr)
        return 2


def schema_of(name: str) -> Schema:
    """The schema that `module:attribute` names: a `States` class, or a `Schema`.

    Raises:
        OptionError: there is no such module or attribute, or it is something else.
    """
    module, _, attribute = name.partition(":")
    try:
        found: object = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise OptionError(f"There is no {name!r} (module:Class): {error}.") from None
    if isinstance(found, Schema):
        return found
    if isinstance(found, type) and issubclass(found, States):
        return found.schema()
    raise OptionError(f"{name} is {found!r}; it must be a States class or a Schema.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m amnode.machine",
        description="Draws a schema and tells its relations and problems, or tells a story.",
    )
    parser.add_argument("schema", nargs="?", help="module:Class of a States class or Schema")
    parser.add_argument("--mermaid", action="store_true", help="only the diagram, as Mermaid")
    parser.add_argument("--dot", action="store_true", help="only the diagram, for Graphviz")
    parser.add_argument("--svg", action="store_true", help="only an outline, as a picture")
    parser.add_argument(
        "--of",
        action="append",
        default=[],
        metavar="STATE",
        help="what relates to this state; given twice, the relations between the two",
    )
    parser.add_argument("--story", metavar="FILE", help="a story, as JSON lines, to be told")
    return parser


def _describe(schema: Schema) -> int:
    print(mermaid(schema))
    for name in schema:
        kinds = [kind for kind in ("auto", "multi") if getattr(schema[name], kind)]
        tags = [f"#{tag}" for tag in schema[name].tags]
        print(" ".join([name, *kinds, *tags]))
    print()
    for edge in relations(schema):
        print(edge)
    for group, members in schema.groups.items():
        print(f"{group} = {' '.join(members)}")
    found = problems(schema)
    print()
    print("\n".join(found) if found else "No problems.")
    return 1 if found else 0


def _relate(schema: Schema, states: Sequence[str]) -> int:
    if len(states) > 2:
        raise OptionError(f"--of takes one state or two, not {len(states)}.")
    if len(states) == 2:
        found = list(between(schema, *states))
    else:
        found = [*outbound(schema, states[0]), *inbound(schema, states[0])]
    print("\n".join(map(str, found)) if found else "No relations.")
    return 0


def _tell(path: Path) -> int:
    with path.open(encoding="utf-8") as file:
        entries = read(file)
    lines = render(entries).splitlines()
    for line, (_entry, clock) in zip(lines, replay(entries), strict=True):
        active = (f"{name}:{tick}" for name, tick in clock.items() if is_active_tick(tick))
        indent = len(line) - len(line.lstrip())
        print(f"{line}\n{' ' * indent}   ({' '.join(active)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
