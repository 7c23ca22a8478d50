"""What clients may do to a source: which states they may change, and with what arguments.

1. What is not opened is closed, for every role but to the program itself.
2. An observer changes nothing, not even a tick.
3. Arguments cross only as the struct that the state declares; they are decoded and checked
   before the source hears of the mutation.
4. `set` ends every state that it does not name, so it needs every state to be open both ways.

These are decisions about a mutation as it is called. That a state which is opened may bring or
end closed ones by its relations is for the author of the schema to judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from amnode.errors import AmnodeError, ErrorData, ProtocolError, RefusedError, from_data
from amnode.machine.queue import MutationType
from amnode.machine.schema import Schema
from amnode.rpc.protocol.wire import DECODE_ERRORS, NIL, Role

#: State to the wire struct of its arguments; None if it takes none.
Opened: TypeAlias = Mapping[str, type[msgspec.Struct] | None]

_MATCH: msgspec.msgpack.Decoder[dict[str, object]] = msgspec.msgpack.Decoder(dict[str, object])
_CONTROLLER = Role.CONTROLLER
_REMOVE, _SET, _TOGGLE = (
    int(MutationType.REMOVE),
    int(MutationType.SET),
    int(MutationType.TOGGLE),
)

_Decoders: TypeAlias = dict[int, "msgspec.msgpack.Decoder[msgspec.Struct] | None"]


def _closed() -> Opened:
    return {}


class Exposure(msgspec.Struct, frozen=True):
    """What controllers may do through a server; nothing by default.

    Attributes:
        mutable: the states that may be added, each with the struct of its arguments (None: it
            takes none). A struct all of whose fields have defaults need not be sent.
        removable: the states that may be removed, likewise.
    """

    mutable: Opened = msgspec.field(default_factory=_closed)
    removable: Opened = msgspec.field(default_factory=_closed)


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

    Raises:
        StateUnknownError: the exposure names a state that the source does not have.
    """

    def __init__(self, schema: Schema, exposure: Exposure) -> None:
        self.names = schema.names
        self._mutable = _compile(schema, exposure.mutable)
        self._removable = _compile(schema, exposure.removable)
        size = len(schema)
        self._all_open = len(self._mutable) == size == len(self._removable)

    def grow(self, schema: Schema) -> None:
        """The source has more states; they are closed."""
        self.names = schema.names
        self._all_open = False

    def check(
        self, role: Role, type_: int, states: Sequence[int], args: msgspec.Raw
    ) -> msgspec.Struct | None:
        """The arguments of a mutation that may be made.

        Raises:
            RefusedError: the client may not make it (rules 1, 2 and 4).
            ProtocolError: its arguments are not the struct that the state takes (rule 3).
        """
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
        if len(states) == 1:
            decoder = opened[states[0]]
            if decoder is None and args == NIL:
                return None
        else:
            decoder = self._only_decoder(opened, states)
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
        fields = decoder.type.__struct_fields__
        unknown = [field for field in match if field not in fields]
        if unknown:
            raise ProtocolError(
                f"{decoder.type.__name__} has no field {unknown[0]!r}; it has "
                f"{', '.join(fields)}."
            )
        return name, match

    def _only_decoder(
        self, opened: _Decoders, states: Sequence[int]
    ) -> msgspec.msgpack.Decoder[msgspec.Struct] | None:
        """The decoder of several states; all that take arguments must take the same."""
        found = {d.type: d for i in states if (d := opened[i]) is not None}
        if len(found) > 1:
            names = ", ".join(self.names[i] for i in states)
            raise RefusedError(f"States {names} take different arguments; call them apart.")
        return next(iter(found.values()), None)

    def _decode(
        self,
        decoder: msgspec.msgpack.Decoder[msgspec.Struct] | None,
        states: Sequence[int],
        args: msgspec.Raw,
    ) -> msgspec.Struct | None:
        names = ", ".join(self.names[i] for i in states)
        absent = args == NIL
        if decoder is None:
            if absent:
                return None
            raise ProtocolError(f"{names} takes no arguments; some were sent.")
        try:
            return decoder.type() if absent else decoder.decode(args)
        except TypeError:
            raise ProtocolError(
                f"{names} needs {decoder.type.__name__}; none was sent."
            ) from None
        except DECODE_ERRORS as error:
            expected = decoder.type.__name__
            raise ProtocolError(f"{names} needs {expected}: {error}.") from None


def _compile(schema: Schema, opened: Opened) -> _Decoders:
    return {
        schema.index(name): None if struct is None else msgspec.msgpack.Decoder(struct)
        for name, struct in opened.items()
    }
