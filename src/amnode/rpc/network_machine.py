"""NetworkMachine: a replica of a machine on the other side of a connection.

Reads and waits are local, from the clock that the differences move. Mutations go to the source:

    result = door.add1("Open")    # is on its way already
    await result                  # EXECUTED or CANCELED, or the error that the source gave

1. When a result is done, the replica already reflects the mutation.
2. What is seen here is a state that the source was in, or a merge of consecutive ones.
3. While the connection is cut, and the client tries to come back, the replica keeps its last
   values, waits go on, and mutations are kept. Once it is lost for good, waits and contexts
   end, and everything that is not answered fails with `ConnectionLost`.
4. If the source was restarted, it is another machine, with other clocks: contexts end, and
   waits for ticks fail; waits for states go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from amnode.errors import ConnectionLost, NotSyncedError
from amnode.machine.api import MachineApi
from amnode.machine.clock import is_active_tick
from amnode.machine.queue import EXECUTED, MutationType, Result
from amnode.machine.resolve import bits, each
from amnode.machine.schema import EXCEPTION, Schema
from amnode.machine.tracing import Follower
from amnode.rpc.exposure import ErrorReport
from amnode.rpc.protocol.wire import Request, Value
from amnode.rpc.remote import Conversation, RemoteCall, RemoteCheck, RemoteResult, Settled
from amnode.rpc.streams import Incoming

T = TypeVar("T")

_ADD = MutationType.ADD


class RemoteTransition:
    """What a replica's tracers are told: one update of its source.

    It may be the sum of several transitions, unless the client asked for each (`every`).

    Attributes:
        machine: the replica.
        changed: the states whose tick moved, by index.
        type: of the mutation, if it was one; None for a sum.
        called: the states that it called, by index.
        accepted: True; what was refused is not told.
    """

    __slots__ = ("called", "changed", "machine", "type")

    accepted = True

    def __init__(
        self,
        machine: NetworkMachine,
        changed: tuple[int, ...],
        type_: MutationType | None = None,
        called: tuple[int, ...] = (),
    ) -> None:
        self.machine = machine
        self.changed = changed
        self.type = type_
        self.called = called


class SourceFollower(Follower, Protocol):
    """What `NetworkMachine.follow` takes."""

    def source_restarted(self) -> None:
        """The source is another machine, with clocks of its own."""
        ...

    def source_lost(self, error: Exception) -> None:
        """The replica follows its source no more."""
        ...


class NetworkMachine(MachineApi):
    """A replica of all states of a source; made by an `RpcClient`.

    Args:
        schema: of the source.
        id: of the replica itself.
        source_id: of the machine that it follows.
        incarnation: tells that very machine from others of its id.
        calls: the client's end of the session.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        id: str,
        source_id: str,
        incarnation: bytes,
        calls: Conversation,
    ) -> None:
        super().__init__(schema, id=id)
        self.source_id = source_id
        self.incarnation = incarnation
        self._calls = calls
        self._followers: tuple[SourceFollower, ...] = ()

    def __repr__(self) -> str:
        return f"<NetworkMachine {self.id} of {self.source_id} {self}>"

    @property
    def root_id(self) -> str:
        """The id of the source."""
        return self.source_id

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
            ConnectionLost: (awaiting) there will be no answer; `outcome` says what is known.
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
        self,
        states: Sequence[str],
        args: object = None,
        *,
        result_type: type[T] = msgspec.Raw,
        upload: AsyncIterator[Any] | None = None,
    ) -> RemoteCall[T]:
        """Asks the source for states, and for the value that its answer carries.

        Args:
            states: the names.
            args: see `add`.
            result_type: what the value must be; `msgspec.Raw` takes it undecoded, `memoryview`
                takes bytes without a copy.
            upload: items that the handler at the source reads (`Origin.items`) while it works.

        Returns:
            An awaitable for the value; the mutation is on its way already. Cancelling the task
            that awaits it tells the source.

        Raises:
            RefusedError: (awaiting) the source canceled the mutation, or it is not open.
            DeliveryError: (awaiting) the value is of another type; see also `add`.
            ConnectionLost: (awaiting) there will be no answer; `outcome` says what is known.
        """
        result = self._calls.call(_ADD, self._indexes(states), args, upload)
        return RemoteCall(result, result_type)

    @property
    def is_lost(self) -> bool:
        """Whether the connection is gone for good; `lost` says why."""
        waits = self._made_waits
        return waits is not None and waits.closed is not None

    def begin(self, state: int, args: Value, result: Settled) -> None:
        """Asks the source for a state, as `request` does; the answer settles `result`.

        Args:
            state: its index.
            args: encoded.
            result: what the answer goes to; it has to take back itself what nobody waits for,
                with `take_back`.

        Raises:
            RefusedError: too many mutations wait for their answer.
            DeliveryError: the arguments are too large; nothing was sent.
        """
        self._calls.begin(_ADD, [state], args, result)

    def begin_stream(
        self, state: int, args: Value, result: Settled, decode: Callable[[msgspec.Raw], T]
    ) -> Incoming[T]:
        """The same for a state that is answered with a stream; `decode` makes each item."""
        return self._calls.begin_stream(_ADD, [state], args, result, decode)

    def take_back(self, result: Settled) -> None:
        """Tells the source that nobody waits for the answer any more, which is still due."""
        self._calls.cancel(result.seq)

    def stream(
        self,
        states: Sequence[str],
        args: object = None,
        *,
        item_type: type[T] = msgspec.Raw,
        upload: AsyncIterator[Any] | None = None,
    ) -> Incoming[T]:
        """Asks the source for states, and for the stream that it answers with.

        The handler at the source gives it with `Deferred.stream`. A reader that is slow makes
        the source wait; one that stops (`aclose`, or the end of `async with aclosing(...)`)
        tells it to.

        Args:
            states: the names.
            args: see `add`.
            item_type: what each item must be.
            upload: items that the handler reads while it works.

        Returns:
            An async iterator, for one task; the mutation is on its way already. It raises what
            the iterator at the source raised, and what `request` raises.
        """
        indexes = self._indexes(states)
        return self._calls.stream(_ADD, indexes, args, item_type, upload)

    # -- asking the source -----------------------------------------------------------------

    def can_add(self, states: Sequence[str], args: object = None) -> RemoteCheck:
        """Whether states could become active now; decided at the source, where nothing changes.

        Returns:
            An awaitable for the answer; False too if the states are not open to this client.
        """
        return RemoteCheck(self._calls.call(Request.CAN_ADD, self._indexes(states), args))

    def can_add1(self, state: str, args: object = None) -> RemoteCheck:
        """Whether one state could become active now; see `can_add`."""
        return self.can_add((state,), args)

    def can_remove(self, states: Sequence[str], args: object = None) -> RemoteCheck:
        """Whether states could become inactive now; see `can_add`."""
        return RemoteCheck(self._calls.call(Request.CAN_REMOVE, self._indexes(states), args))

    def can_remove1(self, state: str, args: object = None) -> RemoteCheck:
        """Whether one state could become inactive now; see `can_add`."""
        return self.can_remove((state,), args)

    def when_args(self, state: str, match: Mapping[str, object]) -> RemoteResult:
        """Waits for a call of this state with arguments that match; decided at the source.

        Args:
            state: the name; it has to be open to this client, with a struct of arguments.
            match: fields with the values expected.

        Returns:
            An awaitable; cancelling the task that awaits it ends the wait at the source.
        """
        return self._calls.call(Request.WHEN_ARGS, [self.schema.index(state)], dict(match))

    def when_queue(self, result: RemoteResult | int) -> Awaitable[Result | None]:
        """Waits until a mutation has run at the source, and the replica shows it.

        Args:
            result: what a mutation returned here, or a queue tick of the source. Transitions
                that change nothing are told with the next one that does, or with an answer.

        Returns:
            An awaitable of `EXECUTED` or `CANCELED`; of None for a tick, whose outcome is not
            known here.
        """
        if isinstance(result, RemoteResult):
            return result
        goal = result
        return self._waits.add_query(lambda _ticks: self.queue_tick >= goal)

    def forward(
        self,
        type_: MutationType,
        states: Sequence[int],
        args: object,
        upload: AsyncIterator[Any] | None = None,
    ) -> RemoteResult:
        """Asks the source for what a client of this replica asked for, states by index."""
        return self._calls.call(type_, [*states], args, upload)

    def forward_stream(
        self,
        type_: MutationType,
        states: Sequence[int],
        args: object,
        upload: AsyncIterator[Any] | None = None,
    ) -> Incoming[msgspec.Raw]:
        """Asks the source for the stream that a client of this replica asked for."""
        return self._calls.stream(type_, [*states], args, msgspec.Raw, upload)

    def _call(self, type_: MutationType, states: Sequence[str], args: object) -> RemoteResult:
        return self._calls.call(type_, self._indexes(states), args)

    def _indexes(self, states: Sequence[str]) -> list[int]:
        if isinstance(states, str):
            states = (states,)
        return [*dict.fromkeys(map(self.schema.index, states))]

    # -- being followed ----------------------------------------------------------------------

    def follow(self, follower: SourceFollower) -> None:
        """Has a follower told of what moves here; again changes nothing."""
        if not any(known is follower for known in self._followers):
            self._followers = (*self._followers, follower)

    def unfollow(self, follower: SourceFollower) -> None:
        """Removes a follower, if it is there."""
        self._followers = tuple(known for known in self._followers if known is not follower)

    # -- following: called by the client ---------------------------------------------------

    def load(self, pairs: Sequence[int]) -> None:
        """Takes over the first snapshot, before anybody looks."""
        self._clock.advance_all(pairs)

    def reload(
        self,
        source_id: str,
        incarnation: bytes,
        pairs: Sequence[int],
        *,
        shallow: bool = False,
    ) -> None:
        """Takes over the snapshot of a new connection, maybe of another machine (rule 4).

        Args:
            source_id: of the source.
            incarnation: tells that very machine from others of its id.
            pairs: flat pairs of a state's index and its tick; those that are 0 left out.
            shallow: whether the ticks are counted anew on each connection, so that only their
                activity says what changed.
        """
        now = dict(zip(pairs[::2], pairs[1::2], strict=True))
        same = (source_id, incarnation) == (self.source_id, self.incarnation)
        step_of = _shallow_step if shallow and same else int.__sub__
        steps = {i: step_of(now.get(i, 0), tick) for i, tick in enumerate(self._clock.ticks)}
        flat = [part for i, step in steps.items() if step for part in (i, step)]
        if same:
            self.advance(flat)
            return
        self.source_id, self.incarnation = source_id, incarnation
        changed = self._clock.advance_all(flat)
        self._waits.restart(ConnectionLost("The source was restarted: its clocks begin anew."))
        self._waits.changed(changed)
        for follower in self._followers:
            follower.source_restarted()
        self._tracers.tell("transition_end", RemoteTransition(self, changed))

    def advance(
        self,
        pairs: Sequence[int],
        type_: MutationType | None = None,
        called: Sequence[int] = (),
    ) -> None:
        """Follows the source: contexts end, waits resolve, tracers are told."""
        if len(pairs) == 2:
            self._clock.advance(pairs[0], pairs[1])
            changed = (pairs[0],)
        else:
            changed = self._clock.advance_all(pairs)
        waits = self._made_waits
        if waits is not None:
            waits.expire(changed)
            if changed:
                waits.changed(changed)
            else:  # the queue alone has moved
                waits.ask()
        for follower in self._followers:
            follower.moved(changed, self._clock.ticks)
        if self._tracers.all:
            told = RemoteTransition(self, changed, type_, tuple(called))
            self._tracers.tell("transition_end", told)

    def lose(self, error: Exception) -> None:
        """The connection is gone for good: every wait ends with `error`, every context ends."""
        if self._waits.closed is None:
            self._waits.close(error)
            for follower in self._followers:
                follower.source_lost(error)


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
        incarnation: bytes,
        calls: Conversation,
        selected: Sequence[int],
    ) -> None:
        super().__init__(
            schema, id=id, source_id=source_id, incarnation=incarnation, calls=calls
        )
        self.followed: tuple[str, ...] = tuple(schema.names[i] for i in selected)
        self._selected = bits(selected)
        self._required = {i: _requirements(schema, i) for i in selected}

    @property
    def followed_states(self) -> Sequence[int]:
        """The indexes of the states that are followed, ascending."""
        return tuple(each(self._selected))

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


def _shallow_step(now: int, before: int) -> int:
    return int(is_active_tick(now) != is_active_tick(before))


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
