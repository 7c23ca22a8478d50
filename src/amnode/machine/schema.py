"""What states a machine has, and how they relate: `State`, `Schema`, typed names.

A schema is declared as a class whose attributes are the states, so that an editor completes
the names and a type checker knows them:

    class Door(States):
        Open = State(remove=("Closed",))
        "The door can be walked through."
        Closed = State(auto=True, remove=("Open",))
        "It cannot."

    Door.Open          # "Open", a str
    Door.schema()      # the Schema

        Shut = Group(Closed, "Locked")   # names of states that belong together
    Door.Shut          # ("Closed", "Locked"), a tuple of str

Classes inherit: a subclass has the states of its bases, and a state that it defines again
replaces the inherited one whole. `_order_` gives the order of the ticks in machine time;
without it the inherited states come first. A schema can also be made from a plain mapping.

Invariants of a parsed schema:

1. `Exception` is a state, multi, last unless placed.
2. Every name in a relation is a state of the schema.
3. No state is in its own `remove` or `after`; none is in both `add` and `remove` of another.
4. No state requires what it removes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, TypeVar, overload

import msgspec
from msgspec.structs import force_setattr, replace

from amnode.errors import SchemaError, StateUnknownError

EXCEPTION = "Exception"

T = TypeVar("T")

Names: TypeAlias = "Iterable[str | State | Group]"


class State(msgspec.Struct, frozen=True):
    """One state: what kind it is and how it relates to others.

    Read from a `States` class, an attribute of this type is the state's name, a `str`.

    Args:
        auto: tried after every transition that changed something, while it is inactive.
        multi: can be called again while active, which counts as a new instance (tick + 2).
        require: states that must be active for this one to be.
        add: states that come with this one when it is activated.
        remove: states that this one ends, and keeps out while it is active.
        after: states whose handlers run before this one's in the same transition.
        tags: free text for people and tools; the machine does not read them.
        name: set by the `States` class that declares it.
        args: the type of the arguments that come with an add or set of this state, such as a
            msgspec struct or a dataclass; `X | None` where they may be left out. None, the
            default, takes anything. See `amnode.machine.arguments`.
        tasks: how many tasks of its async handlers run at once, the others wait for their
            turn; 0, the default, is no limit.
    """

    auto: bool = False
    multi: bool = False
    require: Names = ()
    add: Names = ()
    remove: Names = ()
    after: Names = ()
    tags: Iterable[str] = ()
    name: str = ""
    args: Any = None
    tasks: int = 0

    def __set_name__(self, owner: type, name: str) -> None:
        force_setattr(self, "name", name)

    @overload
    def __get__(self, instance: None, owner: type) -> str: ...
    @overload
    def __get__(self, instance: object, owner: type) -> str: ...
    def __get__(self, instance: object, owner: type) -> str:
        return self.name


class Group(Iterable["str | State"]):
    """States that belong together, by any name that a `States` class gives the group.

    Read from the class it is a tuple of names. In a relation it stands for its states; a state
    that is itself in a group that it removes is left out, as always.

    Args:
        states: declared before, or names.
    """

    __slots__ = ("_states",)

    def __init__(self, *states: str | State | Group) -> None:
        self._states = states

    def __iter__(self) -> Iterator[str | State]:
        for state in self._states:
            if isinstance(state, Group):
                yield from state
            else:
                yield state

    def __get__(self, instance: object, owner: type) -> tuple[str, ...]:
        return _names(self)


class Relations(msgspec.Struct, frozen=True):
    """One state as the kernel reads it: every relation a tuple of names."""

    auto: bool
    multi: bool
    require: tuple[str, ...]
    add: tuple[str, ...]
    remove: tuple[str, ...]
    after: tuple[str, ...]
    tags: tuple[str, ...]


class Schema(Mapping[str, Relations]):
    """An ordered, parsed and verified set of states; immutable.

    Args:
        states: name to `State`, in the order of the ticks in machine time.
        order: another order, of all names or of the first ones.
        groups: names of states that belong together, by the name of the group.

    Attributes:
        names: of the states, in the order of machine time.
        groups: as given.
        args: the types of arguments that states declare, by state.
        task_limits: how many tasks of a state run at once, where there is a limit.

    Raises:
        SchemaError: the states contradict each other, or name one that does not exist.
    """

    __slots__ = (
        "_compiled",
        "_index",
        "_states",
        "args",
        "groups",
        "names",
        "task_limits",
    )

    def __init__(
        self,
        states: Mapping[str, State],
        order: Sequence[str] = (),
        groups: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        self._states = _parse(states, order)
        self.args: dict[str, Any] = {n: s.args for n, s in states.items() if s.args is not None}
        self.task_limits: dict[str, int] = {n: s.tasks for n, s in states.items() if s.tasks}
        self.groups: dict[str, tuple[str, ...]] = {
            group: tuple(members) for group, members in (groups or {}).items()
        }
        _verify_groups(self.groups, self._states)
        self.names: tuple[str, ...] = tuple(self._states)
        self._index = {name: i for i, name in enumerate(self.names)}
        self._compiled: dict[object, Any] = {}

    @property
    def version(self) -> int:
        """The number of states: a schema only grows."""
        return len(self.names)

    def __getitem__(self, name: str) -> Relations:
        try:
            return self._states[name]
        except KeyError:
            raise unknown_state(name, self.names) from None

    def __contains__(self, name: object) -> bool:
        # Inherited, it would have `__getitem__` look for what somebody may have meant.
        return name in self._states

    def __iter__(self) -> Iterator[str]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def __repr__(self) -> str:
        return f"Schema({', '.join(self.names)})"

    def index(self, name: str) -> int:
        """The position of a state in machine time.

        Raises:
            StateUnknownError: there is no such state.
        """
        try:
            return self._index[name]
        except KeyError:
            raise unknown_state(name, self.names) from None

    def extend(self, states: Mapping[str, State], order: Sequence[str] = ()) -> Schema:
        """A schema with `states` added; one of the same name is replaced, in its old place."""
        return Schema({**self.to_states(), **states}, order, self.groups)

    def merge(self, other: Schema, order: Sequence[str] = ()) -> Schema:
        """A schema with the states and groups of both; of one name, those of `other` count."""
        return Schema(
            {**self.to_states(), **other.to_states()}, order, {**self.groups, **other.groups}
        )

    def grown(self, states: Mapping[str, State]) -> Schema:
        """A schema with `states` behind the others, all of which keep their places.

        Raises:
            SchemaError: one of them exists; a schema only grows.
        """
        known = [name for name in states if name in self._states]
        if known:
            raise SchemaError(
                f"State {', '.join(known)} exists; a schema only grows by states that are new."
            )
        return self.extend(states, (*self.names, *states))

    def compile(self, key: object, make: Callable[[], T]) -> T:
        """What was made of this schema for `key`, or is made now; all its machines share it.

        Past 256 keys it starts anew, since classes of handlers may come and go.
        """
        found: T | None = self._compiled.get(key)
        if found is None:
            found = make()
            if len(self._compiled) >= 256:
                self._compiled.clear()
            self._compiled[key] = found
        return found

    def to_states(self) -> dict[str, State]:
        """The schema as the mapping that makes it again."""
        return {
            name: State(
                s.auto,
                s.multi,
                s.require,
                s.add,
                s.remove,
                s.after,
                s.tags,
                args=self.args.get(name),
                tasks=self.task_limits.get(name, 0),
            )
            for name, s in self._states.items()
        }


class States:
    """Base of classes that declare a schema; see the module's first lines."""

    _order_: ClassVar[Sequence[str]] = ()
    _schema_: ClassVar[Schema | None] = None

    Exception = State(multi=True)
    "An error has not been handled."

    @classmethod
    def schema(cls) -> Schema:
        """The states and groups of the class and its bases, parsed once a class.

        Raises:
            SchemaError: see `Schema`.
        """
        cached = cls.__dict__.get("_schema_")
        if isinstance(cached, Schema):
            return cached
        found: dict[str, State] = {}
        groups: dict[str, tuple[str, ...]] = {}
        for base in reversed(cls.__mro__):
            for name, value in vars(base).items():
                if isinstance(value, State):
                    found[name] = value
                elif isinstance(value, Group):
                    groups[name] = _names(value)
        if EXCEPTION not in cls._order_:
            found[EXCEPTION] = found.pop(EXCEPTION)  # last unless placed
        cls._schema_ = Schema(found, cls._order_, groups)
        return cls._schema_


def unknown_state(name: object, names: Sequence[str]) -> StateUnknownError:
    """The error for a state that does not exist, with the nearest names that do."""
    return StateUnknownError(f"There is no state {name!r}{did_you_mean(str(name), names)}.")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A clause with the nearest of `names`, or an empty text."""
    import difflib  # late: only errors need it

    near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


# -- parsing ---------------------------------------------------------------------------


def _parse(states: Mapping[str, State], order: Sequence[str]) -> dict[str, Relations]:
    for name, state in states.items():
        if not isinstance(state, State):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SchemaError(f"State {name} is {state!r}; it must be a State.")
        if state.tasks < 0:
            raise SchemaError(f"State {name} has {state.tasks} tasks; at least 0 (no limit).")
        if not name.isidentifier():
            raise SchemaError(f"{name!r} is no name for a state; use an identifier.")
    # Invariant 1.
    exception = replace(states.get(EXCEPTION, State()), multi=True)
    complete = {**states, EXCEPTION: exception}
    for name in order:
        if name not in complete:
            raise SchemaError(f"The order names {name!r}{did_you_mean(name, complete)}.")
    ordered = [*dict.fromkeys(order), *(name for name in complete if name not in order)]
    parsed = {name: _relations(name, complete[name]) for name in ordered}
    for name, relations in parsed.items():
        _verify(name, relations, parsed)
    return parsed


def _relations(name: str, state: State) -> Relations:
    add = _names(state.add)
    # Invariant 3.
    remove = tuple(n for n in _names(state.remove) if n != name and n not in add)
    after = tuple(n for n in _names(state.after) if n != name)
    return Relations(
        state.auto, state.multi, _names(state.require), add, remove, after, tuple(state.tags)
    )


def _names(given: Names) -> tuple[str, ...]:
    if isinstance(given, (str, State)):
        given = (given,)
    names: list[str] = []
    for item in given:
        if isinstance(item, Group):
            names += _names(item)
        else:
            names.append(item.name if isinstance(item, State) else item)
    return tuple(dict.fromkeys(names))


def _verify_groups(
    groups: Mapping[str, tuple[str, ...]], parsed: Mapping[str, Relations]
) -> None:
    for group, members in groups.items():
        for name in members:
            if name not in parsed:
                near = did_you_mean(name, parsed)
                raise SchemaError(f"Group {group} has {name!r}, which is unknown{near}.")


def _verify(name: str, relations: Relations, parsed: Mapping[str, Relations]) -> None:
    for kind in ("require", "add", "remove", "after"):
        for other in getattr(relations, kind):
            if other not in parsed:  # invariant 2
                near = did_you_mean(other, parsed)
                raise SchemaError(
                    f"State {name} has {other!r} in {kind}, which is unknown{near}."
                )
    both = [n for n in relations.require if n in relations.remove]
    if both:  # invariant 4
        raise SchemaError(
            f"State {name} requires and removes {', '.join(both)}; it could never be active."
        )
