"""Which schema, which states: what a client asks to follow, and whether it can.

1. A client that has a schema accepts a source only if every state that it names exists there
   identically; tags are not compared.
2. A client follows all states, those that it names, or all but those; of a replica, only what
   that follows itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from amnode.errors import NotSyncedError, ProtocolError, SchemaError
from amnode.machine.schema import Relations, Schema, State
from amnode.rpc.protocol import wire
from amnode.rpc.protocol.wire import Follow


class Subscription(msgspec.Struct, frozen=True):
    """How a client wants to follow its source.

    Attributes:
        states: which states; None for all.
        all_but: whether `states` are those which it does not want.
        shallow: whether only activity is of interest: a tick then counts the changes seen.
        every: whether each mutation is to be told on its own, with its type and called states.
        push_interval: the least time between two updates, in seconds; 0 sends each at once.
    """

    states: tuple[str, ...] | None = None
    all_but: bool = False
    shallow: bool = False
    every: bool = False
    push_interval: float = 0.0

    def to_wire(self, schema_hash: bytes) -> wire.Subscribe:
        """As it crosses."""
        flags = (
            Follow.ALL_BUT * self.all_but
            | Follow.SHALLOW * self.shallow
            | Follow.EVERY * self.every
        )
        states = None if self.states is None else [*self.states]
        return wire.Subscribe(schema_hash, states, flags, round(self.push_interval * 1000))


def schema_to_wire(schema: Schema) -> list[wire.SchemaState]:
    """A schema as it crosses."""
    return [
        wire.SchemaState(
            name,
            state.auto | state.multi << 1,
            list(state.require),
            list(state.add),
            list(state.remove),
            list(state.after),
            list(state.tags),
        )
        for name, state in schema.items()
    ]


def schema_from_wire(states: Sequence[wire.SchemaState]) -> Schema:
    """The schema that crossed.

    Raises:
        ProtocolError: it is none.
    """
    names = [state.name for state in states]
    try:
        return Schema(
            {
                s.name: State(
                    bool(s.flags & 1),
                    bool(s.flags & 2),
                    s.require,
                    s.add,
                    s.remove,
                    s.after,
                    s.tags,
                )
                for s in states
            },
            names,
        )
    except SchemaError as error:
        raise ProtocolError(f"The schema that the source sent is none: {error}") from None


def schema_hash(schema: Schema) -> bytes:
    """32 bytes that two schemas share only if they are the same, order included, tags not."""

    def made() -> bytes:
        rows = [
            (name, s.auto, s.multi, s.require, s.add, s.remove, s.after)
            for name, s in schema.items()
        ]
        return hashlib.sha256(msgspec.msgpack.encode(rows)).digest()

    return schema.compile(schema_hash, made)


def check_schema(wanted: Schema, source: Schema) -> None:
    """Checks that all of `wanted` exists in `source`, identically (rule 1).

    Raises:
        SchemaError: with the states that are missing or differ, and in what.
    """
    faults = [
        fault for name, mine in wanted.items() if (fault := _schema_fault(name, mine, source))
    ]
    if faults:
        shown = "; ".join(faults[:5]) + ("; and more" if len(faults) > 5 else "")
        raise SchemaError(
            f"The source does not have the states that this client names: {shown}."
        )


def _schema_fault(name: str, mine: Relations, source: Schema) -> str:
    if name not in source.names:
        return f"{name} is missing"
    theirs = source[name]
    kinds = ("auto", "multi", "require", "add", "remove", "after")
    differing = [kind for kind in kinds if getattr(mine, kind) != getattr(theirs, kind)]
    return f"{name} differs in {', '.join(differing)}" if differing else ""


def followed(source: Schema, known: Sequence[int], message: wire.Subscribe) -> list[int] | None:
    """The indexes that a client follows, ascending; None for all (rule 2).

    Args:
        source: the schema.
        known: what the server itself follows, ascending; all, unless it is a replica.
        message: what the client wants.

    Raises:
        StateUnknownError: the source has no such state.
        NotSyncedError: the server does not follow it itself.
    """
    if message.states is None:
        return None if len(known) == len(source) else [*known]
    named = sorted({source.index(name): None for name in message.states})
    if message.flags & Follow.ALL_BUT:
        left = dict.fromkeys(named)
        return [index for index in known if index not in left]
    here = dict.fromkeys(known)
    for index in named:
        if index not in here:
            raise NotSyncedError(f"The server itself does not follow {source.names[index]}.")
    return named
