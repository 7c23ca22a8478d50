"""From a user's object, or from functions, to handlers by name.

What a handler is called says when it runs:

    XExit, XEnter       X is about to be deactivated, activated: may refuse (return False)
    XX                  X stays active, or is a Multi state called again: may refuse
    XY                  X was active, Y will be: may refuse
    AnyEnter            any mutation: may refuse
    XEnd, XState        X was deactivated, activated
    AnyState            any transition that was not canceled

A method that looks like one of these but names no state is an error at binding, with the
nearest name, and so is one that could mean two things. `XEnd`, `XState` and `AnyState` may be
`async`; those that may refuse may not.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar, cast

import msgspec

from amnode.errors import BindingError
from amnode.machine.schema import Schema, did_you_mean

#: A handler; methods take the object that they are bound on first.
Handler: TypeAlias = Callable[..., Any]
F = TypeVar("F", bound=Handler)

_ANY = ("AnyEnter", "AnyState")
_SUFFIXES = ("Enter", "Exit", "State", "End")
_FINALS = ("State", "End")
_LOOKS_LIKE_ONE = re.compile(r"[A-Z]\w*(?:Enter|Exit|State|End)")


class HandlerTable(msgspec.Struct, frozen=True, eq=False):
    """The handlers of one class, or of one mapping of functions, for one schema.

    Attributes:
        functions: handler name to function, in no order that matters.
        methods: whether the functions take the bound object first.
        pairs: the two states of each bound `XY` and `XX`, by index.
    """

    functions: Mapping[str, Handler]
    methods: bool
    pairs: tuple[tuple[int, int], ...]


class Binding:
    """One set of handlers on one machine; what `bind` returns and `detach` takes.

    Attributes:
        table: the handlers.
        owner: the object or mapping that they came from.
        id: its number on the machine.
    """

    __slots__ = ("id", "owner", "table")

    def __init__(self, table: HandlerTable, owner: object, id: int = 0) -> None:
        self.table = table
        self.owner = owner
        self.id = id

    def __repr__(self) -> str:
        return f"<Binding {self.id} of {', '.join(sorted(self.table.functions))}>"


class Handlers(Mapping[str, Handler]):
    """Handlers from plain functions, by decorator:

    handlers = Handlers()

    @handlers
    def OpenState(event): ...

    @handlers.on("OpenEnter", "LockedExit")
    def has_key(event): ...

    machine.bind(handlers)
    """

    __slots__ = ("_functions",)

    def __init__(self) -> None:
        self._functions: dict[str, Handler] = {}

    def __call__(self, function: F) -> F:
        """Takes a function that has the name of its handler."""
        return self.on(function.__name__)(function)

    def on(self, *names: str) -> Callable[[F], F]:
        """Takes a function for handlers of these names.

        Raises:
            BindingError: there is a function for one of them already.
        """

        def take(function: F) -> F:
            for name in names:
                if name in self._functions:
                    raise BindingError(f"There is a function for handler {name} already.")
                self._functions[name] = function
            return function

        return take

    def __getitem__(self, name: str) -> Handler:
        return self._functions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._functions)

    def __len__(self) -> int:
        return len(self._functions)


def table_of(schema: Schema, handlers: object) -> HandlerTable:
    """The handlers that an object or a mapping has for a schema.

    Args:
        schema: the states that names may refer to.
        handlers: an object whose methods are handlers, or a mapping of names to functions of
            one argument, the event.

    Raises:
        BindingError: a name that looks like a handler fits no state, or more than one, or is
            no plain function where it must be.
    """
    if isinstance(handlers, Mapping):
        functions = cast("Mapping[str, Handler]", handlers)
        return _make_table(schema, dict(functions), methods=False)
    kind = type(handlers)

    def make() -> HandlerTable:
        return _make_table(schema, _methods(schema, kind), methods=True)

    return schema.compile(kind, make)


def _make_table(
    schema: Schema, functions: Mapping[str, Handler], *, methods: bool
) -> HandlerTable:
    pairs: list[tuple[int, int]] = []
    for name, function in functions.items():
        meanings = _meanings(schema, name)
        if not meanings:
            near = did_you_mean(name, _possible(schema))
            raise BindingError(f"Handler {name} names no state of the schema{near}.")
        if len(meanings) > 1:
            raise BindingError(
                f"Handler {name} could mean {' or '.join(meanings)}; rename a state."
            )
        pair = next(iter(meanings.values()))
        if pair is not None:
            pairs.append(pair)
        if (pair or not name.endswith(_FINALS)) and inspect.iscoroutinefunction(function):
            raise BindingError(f"Handler {name} decides, so it must be a plain function.")
    return HandlerTable(functions, methods, tuple(pairs))


def _methods(schema: Schema, kind: type) -> dict[str, Handler]:
    """The methods of a class that are handlers, or look like one."""
    found: dict[str, Handler] = {}
    for name in dir(kind):
        if not (_LOOKS_LIKE_ONE.fullmatch(name) or _meanings(schema, name)):
            continue
        value = inspect.getattr_static(kind, name)
        if inspect.isfunction(value):
            found[name] = value
        elif callable(value) or isinstance(value, (classmethod, staticmethod)):
            raise BindingError(f"Handler {name} of {kind.__name__} must be a plain method.")
    return found


def _meanings(schema: Schema, name: str) -> dict[str, tuple[int, int] | None]:
    """What a name can mean, in words, with the two states where it is a pair."""
    found: dict[str, tuple[int, int] | None] = {}
    if name in _ANY:
        found["any transition"] = None
    for suffix in _SUFFIXES:
        state = name.removesuffix(suffix)
        if state != name and state in schema:
            found[f"{suffix} of {state}"] = None
    for cut in range(1, len(name)):
        first, second = name[:cut], name[cut:]
        if first in schema and second in schema:
            found[f"{first} to {second}"] = (schema.index(first), schema.index(second))
    return found


def _possible(schema: Schema) -> Iterator[str]:
    yield from _ANY
    for state in schema:
        for suffix in _SUFFIXES:
            yield state + suffix
