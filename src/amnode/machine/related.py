"""What relates to what in a schema: for questions of people and tools, and for diagrams.

The kernel itself reads relations as masks, in `resolve.py`. Here they are a list of edges:

    outbound(schema, "Open")         what Open says of others
    inbound(schema, "Open")          what others say of Open
    between(schema, "Open", "Shut")  what each says of the other
    problems(schema)                 what is allowed, and surely not meant
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias, get_args

import msgspec

from amnode.machine.schema import Schema

Kind: TypeAlias = Literal["require", "add", "remove", "after"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Relation(msgspec.Struct, frozen=True):
    """One state says something of another."""

    source: str
    kind: Kind
    target: str

    def __str__(self) -> str:
        return f"{self.source} {self.kind} {self.target}"


def relations(schema: Schema) -> Iterator[Relation]:
    """All of them, in the order of the schema."""
    for name in schema:
        yield from outbound(schema, name)


def outbound(schema: Schema, state: str) -> Iterator[Relation]:
    """What a state says of others.

    Raises:
        StateUnknownError: there is no such state.
    """
    row = schema[state]
    for kind in KINDS:
        targets: Sequence[str] = getattr(row, kind)
        for target in targets:
            yield Relation(state, kind, target)


def inbound(schema: Schema, state: str) -> Iterator[Relation]:
    """What others say of a state.

    Raises:
        StateUnknownError: there is no such state.
    """
    schema.index(state)
    return (found for found in relations(schema) if found.target == state)


def between(schema: Schema, one: str, other: str) -> Iterator[Relation]:
    """What two states say of each other; first what the one says.

    Raises:
        StateUnknownError: there is no such state.
    """
    for source, target in dict.fromkeys(((one, other), (other, one))):
        schema.index(target)
        yield from (found for found in outbound(schema, source) if found.target == target)


def required(schema: Schema, state: str) -> tuple[str, ...]:
    """What a state requires, at any distance, nearest first; itself only in a cycle."""
    found: dict[str, None] = {}
    walk = [state]
    for name in walk:  # grows while it is walked
        for needed in schema[name].require:
            if needed not in found:
                found[needed] = None
                walk.append(needed)
    return tuple(found)


# -- problems ------------------------------------------------------------------------------


def problems(schema: Schema) -> list[str]:
    """What the rules allow but nobody can mean, a sentence each; empty for a good schema."""
    found: list[str] = []
    for name in schema:
        found += _impossible(schema, name)
        found += _lost_additions(schema, name)
    found += _restless_autos(schema)
    return found


def _impossible(schema: Schema, name: str) -> Iterator[str]:
    """A state whose requirements end each other, or end it, can never be active."""
    together = tuple(dict.fromkeys((name, *required(schema, name))))
    for one in together:
        for other in schema[one].remove:
            if other in together:
                yield (
                    f"{name} can never be active: it needs {_both(name, one, other)}, "
                    f"but {one} removes {other}."
                )


def _both(name: str, one: str, other: str) -> str:
    return " and ".join(dict.fromkeys(n for n in (one, other) if n != name)) or name


def _lost_additions(schema: Schema, name: str) -> Iterator[str]:
    """A state that comes with another but cannot stay beside it, or beside what it needs."""
    kept = (name, *required(schema, name))
    for added in schema[name].add:
        for keeper in kept:
            if added in schema[keeper].remove and keeper != added:
                yield f"{name} adds {added}, which {keeper} removes."


def _restless_autos(schema: Schema) -> Iterator[str]:
    """Automatic states of which each removes the other: the second never begins by itself."""
    autos = [name for name in schema if schema[name].auto]
    for k, one in enumerate(autos):
        for other in autos[k + 1 :]:
            if other in schema[one].remove and one in schema[other].remove:
                shared = [n for n in schema[one].require if n in schema[other].require]
                if shared or not (schema[one].require or schema[other].require):
                    yield f"{one} and {other} are both auto, and each removes the other."
