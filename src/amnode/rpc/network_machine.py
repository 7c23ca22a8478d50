"""NetworkMachine: a replica of a machine on the other side of a connection.

Reads and waits are local, from the clock that the differences move. Mutations go to the source:

    result = door.add1("Open")    # is on its way already
    await result                  # EXECUTED or CANCELED, or the error that the source gave

1. When a result is done, the replica already reflects the mutation.
2. What is seen here is a state that the source was in, or a merge of consecutive ones.
3. Once the connection is lost the replica keeps its last values; waits and contexts end, and
   everything that is not answered fails with `ConnectionLost`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator, Sequence
from functools import lru_cache
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec

from amnode.errors import DeliveryError, NotSyncedError, RefusedError, RpcError
from amnode.machine.api import MachineApi
from amnode.machine.queue import CANCELED, EXECUTED, MutationType, Result
from amnode.machine.resolve import bits, each
from amnode.machine.schema import EXCEPTION, Schema
from amnode.rpc.exposure import ErrorReport
from amnode.rpc.protocol.wire import DECODE_ERRORS, NIL, Outcome

T = TypeVar("T")

_EXECUTED = Outcome.EXECUTED


class Calls(Protocol):
    """The connection of a replica."""

    @property
    def queue_tick(self) -> int:
        """Of the source."""
        ...

    @property
    def machine_tick(self) -> int:
        """Of the source."""
        ...

    def call(self, type_: MutationType, states: list[int], args: object) -> RemoteResult:
        """Sends a mutation."""
        ...

    def cancel(self, seq: int) -> None:
        """Tells the source that nobody waits for the answer any more."""
        ...


class RemoteResult:
    """The answer to a remote mutation: an awaitable that need not be awaited.

    Awaiting it gives `EXECUTED` or `CANCELED`, or raises the error that the answer carries. If
    the last task that awaits it is cancelled, the source is told, and may stop the work.
    """

    __slots__ = ("_calls", "_error", "_outcome", "_seq", "_value", "_waiters")

    def __init__(self, calls: Calls, seq: int) -> None:
        self._calls = calls
        self._seq = seq
        self._outcome: Outcome | None = None
        self._value = NIL
        self._error: Exception | None = None
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def done(self) -> bool:
        """Whether the answer is here."""
        return self._outcome is not None

    @property
    def value(self) -> msgspec.Raw:
        """What the answer carried, as msgpack; nil before, and if it carried nothing."""
        return self._value

    def __bool__(self) -> bool:
        """False only if the mutation was canceled, or failed.

        Raises:
            RpcError: it is not answered yet.
        """
        if self._outcome is None:
            raise RpcError("This mutation is not answered yet; await it first.")
        return self._outcome is _EXECUTED

    def __await__(self) -> Generator[Any, None, Result]:
        if self._outcome is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                yield from waiter
            except asyncio.CancelledError:
                self._forget(waiter)
                raise
        if self._error is not None:
            raise self._error
        return EXECUTED if self._outcome is _EXECUTED else CANCELED

    def __repr__(self) -> str:
        return f"<RemoteResult {self._seq} {self._outcome.name if self._outcome else 'open'}>"

    def _forget(self, waiter: asyncio.Future[None]) -> None:
        """A task that waited was cancelled; if it was the last, nobody waits any more."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            if not self._waiters:
                self._calls.cancel(self._seq)

    def settle(self, outcome: Outcome, value: msgspec.Raw, error: Exception | None) -> None:
        """The answer is here, or never will be."""
        self._outcome = outcome
        self._value = value
        self._error = error
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()


class RemoteCall(Generic[T]):
    """A remote mutation that is awaited for the value of its answer.

    Attributes:
        result: the answer, without its value.
    """

    __slots__ = ("_decoder", "result")

    def __init__(self, result: RemoteResult, type_: type[T]) -> None:
        self.result = result
        self._decoder = _decoder_of(type_)

    def __await__(self) -> Generator[Any, None, T]:
        outcome = yield from self.result.__await__()
        if outcome is CANCELED:
            raise RefusedError("The source canceled the mutation.")
        try:
            return cast("T", self._decoder.decode(self.result.value))
        except DECODE_ERRORS as error:
            raise DeliveryError(f"The answer is not what was expected: {error}.") from error


class RemoteTransition:
    """What a replica's tracers are told: one update of its source, maybe several transitions.

    Attributes:
        machine: the replica.
        changed: the states whose tick moved, by index.
    """

    __slots__ = ("changed", "machine")

    def __init__(self, machine: NetworkMachine, changed: tuple[int, ...]) -> None:
        self.machine = machine
        self.changed = changed


class NetworkMachine(MachineApi):
    """A replica of all states of a source; made by an `RpcClient`.

    Args:
        schema: of the source.
        id: of the replica itself.
        source_id: of the machine that it follows.
        calls: the connection.
    """

    def __init__(self, schema: Schema, *, id: str, source_id: str, calls: Calls) -> None:
        super().__init__(schema, id=id)
        self.source_id = source_id
        self._calls = calls

    def __repr__(self) -> str:
        return f"<NetworkMachine {self.id} of {self.source_id} {self}>"

    @property
    def queue_tick(self) -> int:
        """Of the source, as far as it is known here."""
        return self._calls.queue_tick

    @property
    def machine_tick(self) -> int:
        """Of the source."""
        return self._calls.machine_tick

    @property
    def lost(self) -> Exception | None:
        """Why the replica follows its source no more; None while it does."""
        return self._waits.closed

    # -- changing --------------------------------------------------------------------------

    def add(self, states: Sequence[str], args: object = None) -> RemoteResult:
        """Asks the source for states to become active.

        Args:
            states: the names.
            args: the struct that the source declares for the state; anything msgspec encodes.

        Returns:
            An awaitable for `EXECUTED` or `CANCELED`; the mutation is on its way already.

        Raises:
            StateUnknownError: the source has no such state.
            DeliveryError: the arguments cannot be encoded, or are too large; nothing was sent.
            RefusedError: (awaiting) it is not open to this client.
            ConnectionLost: (awaiting) nobody knows whether it was run.
        """
        return self._call(MutationType.ADD, states, args)

    def add1(self, state: str, args: object = None) -> RemoteResult:
        """Asks the source for one state; see `add`."""
        return self._calls.call(MutationType.ADD, [self.schema.index(state)], args)

    def remove(self, states: Sequence[str], args: object = None) -> RemoteResult:
        """Asks the source for states to become inactive; see `add`."""
        return self._call(MutationType.REMOVE, states, args)

    def remove1(self, state: str, args: object = None) -> RemoteResult:
        """Asks the source for one state to become inactive; see `add`."""
        return self._calls.call(MutationType.REMOVE, [self.schema.index(state)], args)

    def set(self, states: Sequence[str], args: object = None) -> RemoteResult:
        """Asks the source for exactly these states; see `add`."""
        return self._call(MutationType.SET, states, args)

    def set1(self, state: str, args: object = None) -> RemoteResult:
        """Asks the source for this state alone; see `add`."""
        return self._call(MutationType.SET, (state,), args)

    def toggle(self, states: Sequence[str], args: object = None) -> RemoteResult:
        """Has the source remove the states if all are active there, else add them."""
        return self._call(MutationType.TOGGLE, states, args)

    def toggle1(self, state: str, args: object = None) -> RemoteResult:
        """Has the source toggle one state; see `toggle`."""
        return self._call(MutationType.TOGGLE, (state,), args)

    def add_err(self, error: BaseException | None) -> Awaitable[Result]:
        """Records an error at the source: Exception, and `ErrOnClient` where it has that.

        The source must have opened these states, with `ErrorReport` as their arguments. No
        error, or a cancellation, adds nothing.
        """
        if error is None or isinstance(error, asyncio.CancelledError):
            return EXECUTED
        states = [s for s in ("ErrOnClient", EXCEPTION) if s in self.schema]
        return self._call(MutationType.ADD, states, ErrorReport.of(error))

    def request(
        self, states: Sequence[str], args: object = None, *, result_type: type[T] = msgspec.Raw
    ) -> RemoteCall[T]:
        """Asks the source for states, and for the value that its answer carries.

        Args:
            states: the names.
            args: see `add`.
            result_type: what the value must be; `msgspec.Raw` takes it undecoded.

        Returns:
            An awaitable for the value; the mutation is on its way already. Cancelling the task
            that awaits it tells the source.

        Raises:
            RefusedError: (awaiting) the source canceled the mutation, or it is not open.
            DeliveryError: (awaiting) the value is of another type; see also `add`.
            ConnectionLost: (awaiting) nobody knows whether it was run.
        """
        return RemoteCall(self._call(MutationType.ADD, states, args), result_type)

    def _call(self, type_: MutationType, states: Sequence[str], args: object) -> RemoteResult:
        if isinstance(states, str):
            states = (states,)
        index = self.schema.index
        return self._calls.call(type_, [*dict.fromkeys(map(index, states))], args)

    # -- following: called by the client ---------------------------------------------------

    def load(self, pairs: Sequence[int]) -> None:
        """Takes over the first snapshot, before anybody looks."""
        self._move(pairs)

    def advance(self, pairs: Sequence[int]) -> None:
        """Follows the source: contexts end, waits resolve, tracers are told."""
        changed = self._move(pairs)
        waits = self._waits
        waits.expire(changed)
        waits.changed(changed)
        if self._tracers:
            self._tracers.tell("transition_end", RemoteTransition(self, changed))

    def lose(self, error: Exception) -> None:
        """The connection is gone: every wait ends with `error`, every context ends."""
        if self._waits.closed is None:
            self._waits.close(error)

    def _move(self, pairs: Sequence[int]) -> tuple[int, ...]:
        advance = self._clock.advance
        flat = iter(pairs)
        for index, step in zip(flat, flat, strict=True):
            advance(index, step)
        return tuple(pairs[::2])


class SelectedMachine(NetworkMachine):
    """A replica of some states of its source.

    A state that is not followed, but that an active followed one requires (at any distance),
    reads as active. Anything else about such a state raises `NotSyncedError`. What speaks of
    all states (`time`, `clock`, `inspect`) speaks of the followed ones.

    Args:
        selected: indexes of the followed states, ascending.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        id: str,
        source_id: str,
        calls: Calls,
        selected: Sequence[int],
    ) -> None:
        super().__init__(schema, id=id, source_id=source_id, calls=calls)
        self.followed: tuple[str, ...] = tuple(schema.names[i] for i in selected)
        self._selected = bits(selected)
        self._required = {i: _requirements(schema, i) for i in selected}

    def index(self, state: str) -> int:
        """The position of a followed state in machine time.

        Raises:
            StateUnknownError: the source has no such state.
            NotSyncedError: it is not followed.
        """
        index = super().index(state)
        if not self._selected >> index & 1:
            raise _not_synced(state)
        return index

    def is1(self, state: str) -> bool:
        """Whether this state is active."""
        return self.is_((state,))

    def is_(self, states: Sequence[str]) -> bool:
        """Whether all of these states are active."""
        mask = self._known_mask(states)
        return self._active() & mask == mask

    def not_(self, states: Sequence[str]) -> bool:
        """Whether none of these states is active."""
        return not self._active() & self._known_mask(states)

    def any1(self, *states: str) -> bool:
        """Whether at least one of these states is active."""
        return bool(self._active() & self._known_mask(states))

    def time(self, states: Sequence[str] | None = None) -> tuple[int, ...]:
        """The ticks of these states, or of the followed ones in schema order."""
        return super().time(self.followed if states is None else states)

    def clock(self, states: Sequence[str] | None = None) -> dict[str, int]:
        """The ticks of these states, or of the followed ones, by name."""
        return super().clock(self.followed if states is None else states)

    def inspect(self) -> str:
        """Every followed state on a line of its own, with its tick; active ones are marked."""
        return "\n".join(
            f"{'|' if self.is1(name) else ' '} {name} {self.tick(name)}"
            for name in self.followed
        )

    def _active(self) -> int:
        mask = self._clock.mask
        for index in each(mask):
            mask |= self._required[index]
        return mask

    def _known_mask(self, states: Sequence[str]) -> int:
        """The mask of states of which it is known here whether they are active."""
        if isinstance(states, str):
            states = (states,)
        mask = bits(self.schema.index(state) for state in states)
        unknown = mask & ~(self._selected | self._active())
        if unknown:
            raise _not_synced(self.schema.names[next(each(unknown))])
        return mask

    def _mask(self, states: Sequence[str]) -> int:
        """The mask of states to wait for; only followed ones move."""
        if isinstance(states, str):
            states = (states,)
        return bits(self.index(state) for state in states)


def _requirements(schema: Schema, index: int) -> int:
    """What a state requires, at any distance, as a mask."""
    found: dict[str, None] = {}
    left = [schema.names[index]]
    while left:
        for name in schema[left.pop()].require:
            if name not in found:
                found[name] = None
                left.append(name)
    return bits(schema.index(name) for name in found)


def _not_synced(state: str) -> NotSyncedError:
    return NotSyncedError(
        f"State {state} is not followed by this replica; name it in the client's `states`."
    )


@lru_cache(maxsize=256)
def _decoder_of(type_: Any) -> msgspec.msgpack.Decoder[Any]:
    return msgspec.msgpack.Decoder(type_)
