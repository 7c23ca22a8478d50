"""What clients may do to a source: which states they may change, and with what arguments.

1. What is not opened is closed, for every role but to the program itself.
2. An observer changes nothing, not even a tick.
3. Arguments cross only as the struct that the state declares; they are decoded and checked
   before the source hears of the mutation.
4. `set` ends every state that it does not name, so it needs every state to be open both ways.
5. Relations open nothing: what is opened must not be able to bring or end a closed state by
   them, unless the exposure says that it may (`implied`). What may happen is judged from the
   schema alone, once, whatever is active: `add`, `remove`, `require` and auto states count;
   what handlers do is the program's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from amnode.errors import (
    AmnodeError,
    ErrorData,
    OptionError,
    ProtocolError,
    RefusedError,
    from_data,
)
from amnode.machine.queue import MutationType
from amnode.machine.schema import Schema
from amnode.rpc.protocol.wire import DECODE_ERRORS, NIL, Role

#: Asked before the source is, with the checked arguments and the `Origin`. True takes the
#: mutation over: it is made and answered by the taker, when its turn comes.
Taker: TypeAlias = Callable[[Any, Any], bool]

#: State to the wire struct of its arguments, or to two, of which one is `array_like`; None if
#: it takes none.
Opened: TypeAlias = Mapping[str, type[msgspec.Struct] | tuple[type[msgspec.Struct], ...] | None]

_MATCH: msgspec.msgpack.Decoder[dict[str, object]] = msgspec.msgpack.Decoder(dict[str, object])
_CONTROLLER = Role.CONTROLLER
_ADD, _REMOVE, _SET, _TOGGLE = (
    int(MutationType.ADD),
    int(MutationType.REMOVE),
    int(MutationType.SET),
    int(MutationType.TOGGLE),
)

#: The types that most mutations of one state have.
_SIMPLE = (_ADD, _REMOVE)

_Decoders: TypeAlias = dict[int, "_Decoder | None"]


def _closed() -> Opened:
    return {}


class Exposure(msgspec.Struct, frozen=True):
    """What controllers may do through a server; nothing by default.

    Attributes:
        mutable: the states that may be added, each with the struct of its arguments (None: it
            takes none). A struct all of whose fields have defaults need not be sent; of
            several, the first.
        removable: the states that may be removed, likewise.
        implied: closed states that the relations of opened ones may bring and end (rule 5).
    """

    mutable: Opened = msgspec.field(default_factory=_closed)
    removable: Opened = msgspec.field(default_factory=_closed)
    implied: Sequence[str] = ()


class ErrorReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An error that a client adds: the struct of `Exception` and `ErrOnClient`."""

    name: str
    message: str
    detail: dict[str, str] = {}

    @classmethod
    def of(cls, error: BaseException) -> ErrorReport:
        """The error as data; one that is not of this package crosses as its text."""
        if not isinstance(error, AmnodeError):
            return cls(name=type(error).__name__, message=str(error))
        data = error.to_data()
        return cls(name=data.name, message=data.message, detail=data.detail)

    @property
    def error(self) -> AmnodeError:
        """The exception, made anew on this side."""
        return from_data(ErrorData(self.name, self.message, self.detail))


class Gate:
    """An exposure, compiled for one schema.

    Args:
        schema: of the source.
        exposure: what is open.
        takers: who takes mutations over that add one state alone.

    Raises:
        StateUnknownError: the exposure names a state that the source does not have.
        OptionError: what it opens can change closed states by relations (rule 5).
    """

    def __init__(
        self, schema: Schema, exposure: Exposure, takers: Mapping[str, Taker] | None = None
    ) -> None:
        self.names = schema.names
        self.takers = {schema.index(name): taker for name, taker in (takers or {}).items()}
        self._mutable = _compile(schema, exposure.mutable)
        self._removable = _compile(schema, exposure.removable)
        self._implied = {schema.index(name) for name in exposure.implied}
        size = len(schema)
        self._all_open = len(self._mutable) == size == len(self._removable)
        for type_, index, reached, verb in self._leaks(schema):
            raise OptionError(
                f"The exposure opens {MutationType(type_).name.lower()} of "
                f"{self.names[index]}, whose relations may {verb} {self.names[reached]}, which "
                f"is closed; open that too, or name it in Exposure.implied."
            )

    def grow(self, schema: Schema) -> None:
        """The source has more states; they are closed, and so is what would change them."""
        self.names = schema.names
        self._all_open = False
        for type_, index, _reached, _verb in [*self._leaks(schema)]:
            (self._removable if type_ == _REMOVE else self._mutable).pop(index, None)

    def _leaks(self, schema: Schema) -> Iterator[tuple[int, int, int, str]]:
        """What breaks rule 5: the type, its state, and which closed state it may change how."""
        reach = _Reach(schema)
        for type_, opened in ((_ADD, self._mutable), (_REMOVE, self._removable)):
            for index in opened:
                starts, ends = reach.of(index, removed=type_ == _REMOVE)
                for verb, found, free in (
                    ("bring", starts, self._mutable),
                    ("end", ends, self._removable),
                ):
                    for reached in sorted(found):
                        if not (
                            reached == index or reached in free or reached in self._implied
                        ):
                            yield type_, index, reached, verb

    def check(
        self, role: Role, type_: int, states: Sequence[int], args: msgspec.Raw
    ) -> msgspec.Struct | None:
        """The arguments of a mutation that may be made.

        Raises:
            RefusedError: the client may not make it (rules 1, 2 and 4).
            ProtocolError: its arguments are not the struct that the state takes (rule 3).
        """
        if type_ in _SIMPLE and len(states) == 1 and role is _CONTROLLER:
            opened = self._removable if type_ == _REMOVE else self._mutable
            decoder = opened.get(states[0])
            if decoder is None:
                if args == NIL and states[0] in opened:
                    return None  # as most are: open, and without arguments
            elif args != NIL:
                return self._decode(decoder, states, args)
        return self._check(role, type_, states, args)

    def _check(
        self, role: Role, type_: int, states: Sequence[int], args: msgspec.Raw
    ) -> msgspec.Struct | None:
        """The same for what is not as most are."""
        if role is not _CONTROLLER:
            raise RefusedError("An observer may not change states; connect as a controller.")
        opened = self._removable if type_ == _REMOVE else self._mutable
        if type_ == _SET and not self._all_open:
            raise RefusedError(
                "set is refused: not every state is open here; use add and remove."
            )
        if not states and type_ != _SET:
            raise RefusedError("The mutation names no state.")
        for index in states:
            if index not in opened or (type_ == _TOGGLE and index not in self._removable):
                name, verb = self.names[index], MutationType(type_).name.lower()
                raise RefusedError(f"State {name} is closed to {verb} from outside.")
        decoder = opened[states[0]] if len(states) == 1 else self._only_decoder(opened, states)
        return self._decode(decoder, states, args)

    def check_match(
        self, role: Role, states: Sequence[int], args: msgspec.Raw
    ) -> tuple[str, dict[str, object]]:
        """The state and the arguments that a client waits for.

        Raises:
            RefusedError: the state is not open to it with arguments, which are its business.
            ProtocolError: these are not fields of the struct that the state takes.
        """
        if role is not _CONTROLLER:
            raise RefusedError(
                "An observer may not ask for arguments; connect as a controller."
            )
        if len(states) != 1:
            raise ProtocolError(
                f"A wait for the arguments of {len(states)} states; one is due."
            )
        name, decoder = self.names[states[0]], self._mutable.get(states[0])
        if decoder is None:
            raise RefusedError(f"State {name} takes no arguments from outside.")
        try:
            match = _MATCH.decode(args)
        except DECODE_ERRORS as error:
            raise ProtocolError(f"A wait for the arguments of {name}: {error}.") from None
        fields = dict.fromkeys(f for kind in _kinds(decoder) for f in kind.__struct_fields__)
        unknown = [field for field in match if field not in fields]
        if unknown:
            raise ProtocolError(
                f"{_names_of(decoder)} has no field {unknown[0]!r}; it has {', '.join(fields)}."
            )
        return name, match

    def _only_decoder(self, opened: _Decoders, states: Sequence[int]) -> _Decoder | None:
        """The decoder of several states; all that take arguments must take the same."""
        found = {d.type: d for i in states if (d := opened[i]) is not None}
        if len(found) > 1:
            names = ", ".join(self.names[i] for i in states)
            raise RefusedError(f"States {names} take different arguments; call them apart.")
        return next(iter(found.values()), None)

    def _decode(
        self,
        decoder: _Decoder | None,
        states: Sequence[int],
        args: msgspec.Raw,
    ) -> msgspec.Struct | None:
        absent = args == NIL
        if decoder is None:
            if absent:
                return None
            raise ProtocolError(f"{self._named(states)} takes no arguments; some were sent.")
        try:
            return decoder.type() if absent else decoder.decode(args)
        except TypeError:
            raise ProtocolError(
                f"{self._named(states)} needs {_names_of(decoder)}; none was sent."
            ) from None
        except DECODE_ERRORS as error:
            raise ProtocolError(
                f"{self._named(states)} needs {_names_of(decoder)}: {error}."
            ) from None

    def _named(self, states: Sequence[int]) -> str:
        return ", ".join(self.names[i] for i in states)


def _compile(schema: Schema, opened: Opened) -> _Decoders:
    return {
        schema.index(name): None if structs is None else _decoder(name, structs)
        for name, structs in opened.items()
    }


def _decoder(
    name: str, structs: type[msgspec.Struct] | tuple[type[msgspec.Struct], ...]
) -> _Decoder:
    if not isinstance(structs, tuple):
        return msgspec.msgpack.Decoder(structs)
    by_form = {struct.__struct_config__.array_like: struct for struct in structs}
    if len(by_form) < len(structs):
        raise OptionError(
            f"The arguments of {name} cannot be told apart: of {len(structs)} structs, one may "
            "be array_like and one not."
        )
    return _Either(structs[0], {f: msgspec.msgpack.Decoder(s) for f, s in by_form.items()})


class _Either:
    """Decodes a struct that crosses as an array, or another that crosses as a map.

    Args:
        type: the first of them.
        by_form: the decoders, by whether what they take is an array.
    """

    def __init__(
        self,
        type: type[msgspec.Struct],
        by_form: Mapping[bool, msgspec.msgpack.Decoder[msgspec.Struct]],
    ) -> None:
        self.type = type
        self.by_form = by_form

    def decode(self, data: msgspec.Raw) -> msgspec.Struct:
        """See `msgspec.msgpack.Decoder`."""
        first = bytes(memoryview(data)[:1])
        is_array = b"\x90" <= first <= b"\x9f" or first in (b"\xdc", b"\xdd")
        return self.by_form.get(is_array, self.by_form[not is_array]).decode(data)


_Decoder: TypeAlias = "msgspec.msgpack.Decoder[Any] | _Either"


def _kinds(decoder: _Decoder) -> tuple[type[msgspec.Struct], ...]:
    """The structs that a decoder takes."""
    if isinstance(decoder, _Either):
        return tuple(one.type for one in decoder.by_form.values())
    return (decoder.type,)


def _names_of(decoder: _Decoder) -> str:
    return " or ".join(kind.__name__ for kind in _kinds(decoder))


class _Reach:
    """What a mutation may bring and end by relations, at most, whatever is active."""

    def __init__(self, schema: Schema) -> None:
        size = range(len(schema))
        rows = [schema[name] for name in schema.names]
        self._add = [[schema.index(name) for name in row.add] for row in rows]
        self._remove = [[schema.index(name) for name in row.remove] for row in rows]
        #: States that end with one, and auto states that it may bring by coming or by going.
        self._needed_by: list[list[int]] = [[] for _ in size]
        self._lets_in: list[list[int]] = [[] for _ in size]
        self._kept_out: list[list[int]] = [[] for _ in size]
        for index, row in enumerate(rows):
            for name in row.require:
                self._needed_by[schema.index(name)].append(index)
                if row.auto:
                    self._lets_in[schema.index(name)].append(index)
            for removed in self._remove[index]:
                if rows[removed].auto:
                    self._kept_out[index].append(removed)

    def of(self, index: int, *, removed: bool) -> tuple[set[int], set[int]]:
        """The states that may come and those that may end if this one does, itself included."""
        starts, ends = set[int](), set[int]()
        todo = [(index, removed)]
        while todo:
            state, gone = todo.pop()
            found = ends if gone else starts
            if state in found:
                continue
            found.add(state)
            if gone:
                todo += [(i, True) for i in self._needed_by[state]]
                todo += [(i, False) for i in self._kept_out[state]]
            else:
                todo += [(i, False) for i in (*self._add[state], *self._lets_in[state])]
                todo += [(i, True) for i in self._remove[state]]
        return starts, ends
