"""Typed arguments: what comes with a mutation is what the called states declare.

    class OpenArgs(msgspec.Struct):
        key: str

    class Door(States):
        Open = State(args=OpenArgs)

    door.add1(Door.Open, OpenArgs("k1"))
    door.add1(Door.Open, {"key": "k1"})     # converted: handlers see an OpenArgs
    door.add1(Door.Open)                    # StateArgsError: `args=OpenArgs | None` allows it

An instance of the declared type is taken as it is; its own constructor checks its fields. A
mapping is converted, field by field and strictly. If several states are called, the arguments
must be what each of them declares. Whoever removes a state needs no arguments, and a state that
came by a relation or by itself sees those of the mutation that brought it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec

from amnode.errors import StateArgsError


def checked(declared: Mapping[str, Any], states: Iterable[str], args: object) -> object:
    """The arguments as the handlers of these states expect them.

    Args:
        declared: the type by state, of those that declare one.
        states: the states that are called.
        args: what came with the mutation.

    Raises:
        StateArgsError: they are of another type, or a field is; it names state and field.
    """
    for state in states:
        type_ = declared.get(state)
        if type_ is not None:
            args = _converted(state, type_, args)
    return args


def _converted(state: str, type_: Any, args: object) -> object:
    if isinstance(type_, type) and isinstance(args, cast("type[object]", type_)):
        return args
    try:
        return cast("object", msgspec.convert(args, type_))
    except msgspec.ValidationError as error:
        given = "none" if args is None else f"{args!r}"
        raise StateArgsError(
            f"State {state} takes {_name(type_)} as arguments, not {given}: {error}."
        ) from None


def _name(type_: Any) -> str:
    return str(getattr(type_, "__name__", type_))
