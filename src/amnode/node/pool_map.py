"""PoolMap: what `Pool.map` returns, a job over many arguments.

    arguments  ->  messages of one or more calls  ->  results, kept until they are asked for

Rules:

1. Nothing is read before somebody awaits or iterates. From then on no more is read than there
   is room for: arguments whose results were not taken yet.
2. The first call that fails ends it: nothing more is read, and what still runs is cancelled.
   Where results are given in order, those before it come first. With `return_exceptions` a
   failure is a result.
3. Each result is given once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
    Sequence,
    Sized,
)
from typing import Any, Generic, Self, TypeVar

import msgspec

from amnode.errors import AmnodeError, JobArgumentsError, OptionError
from amnode.node import chunks
from amnode.node.failures import Known
from amnode.node.jobs import Job
from amnode.node.leased import CallOptions
from amnode.node.pool_feed import Feed

R = TypeVar("R")

#: Rule 1: so many times what the workers have at once, and at least so many.
_ROOM_FACTOR, _ROOM_LEAST = 2, 16


class MapOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a map is made; see `Pool.map`.

    Raises:
        OptionError: a number that cannot work.
    """

    ordered: bool = True
    chunk: int | None = None
    buffer: int | None = None
    return_exceptions: bool = False
    packed: bool = False  # an asynchronous iterable gives the arguments of each call as a tuple

    def __post_init__(self) -> None:
        for name, value in (("chunk", self.chunk), ("buffer", self.buffer)):
            if value is not None and (type(value) is not int or value < 1):
                raise OptionError(
                    f"{name} is {value!r}; it must be a whole number, at least 1."
                )


class _Message:
    """Some calls of a map in one message; a `Piece`."""

    __slots__ = (
        *(
            "alone",
            "args",
            "calls",
            "first",
            "job",
            "kwargs",
            "options",
            "over",
            "owner",
            "paced",
        ),
        "retries",
    )

    def __init__(
        self,
        owner: PoolMap[Any],
        first: int,
        calls: int,
        job: Job[..., Any],
        args: tuple[Any, ...],
    ) -> None:
        self.owner = owner
        self.first = first
        self.calls = calls
        self.job = job
        self.args = args
        self.kwargs: dict[str, Any] = {}
        self.options = owner.options
        self.paced = owner.paced
        self.retries = owner.retries
        self.over = False
        self.alone = False

    def ended(self, error: BaseException | None, value: Any) -> None:
        """It has its answer."""
        if not self.over:
            self.over = True
            self.owner.took(self, error, value)


class PoolMap(Generic[R]):
    """A job over many arguments: `await` it for a list, or iterate over it with `async for`.

    Iterating reads and computes a little ahead of who takes the results, so the arguments may
    be without end. One who stops early closes it: `async with pool.map(...) as results`, or
    `await results.aclose()`; else what is under way ends by itself, and no more is read.
    """

    def __init__(
        self,
        feed: Feed,
        job: Job[..., R],
        arguments: Iterator[tuple[Any, ...]] | AsyncIterator[Any],
        total: int | None,
        options: CallOptions,
        how: MapOptions,
        known: Known,
    ) -> None:
        #: As one message is made; the pool itself makes it again.
        self.options = msgspec.structs.replace(options, retry=0)
        self.retries = options.retry
        self._known = known
        self._feed = feed
        self._job = job
        self._source = arguments
        self._total = total
        self._how = how
        self._started = False
        self._collects = False
        self._closed = False
        #: Arguments read; results taken; whether there are no more to read.
        self._read = self._taken = 0
        self._exhausted = self._is_full = False
        self._read_ahead: deque[tuple[Any, ...]] = deque()
        self._one_by_one: deque[tuple[int, tuple[Any, ...]]] = deque()
        self._out: dict[_Message, None] = {}
        #: Results by their place; with `ordered=False` as they came.
        self._found: dict[int, Any] = {}
        self._ready: deque[Any] = deque()
        self._failed: tuple[int, BaseException] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self.paced = job.name
        self.chunk = how.chunk

    def __repr__(self) -> str:
        return f"<PoolMap {self._job.name} read={self._read} taken={self._taken}>"

    # -- for who wants the results -----------------------------------------------------------

    def __await__(self) -> Generator[Any, None, list[R]]:
        return self._collect().__await__()

    async def _collect(self) -> list[R]:
        if self._started:
            raise OptionError("A map that was begun cannot be awaited; make another one.")
        self._collects = True
        self._begin()
        try:
            while self._failed is None and not self._is_complete:
                await self._wait()
            if self._failed is not None:
                raise self._failed[1]
            if self._how.ordered:
                found = self._found
                return [found[at] for at in range(self._read)]
            return [*self._ready]
        finally:
            await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> R:
        if not self._started:
            self._begin()
        while True:
            if self._closed:
                raise StopAsyncIteration
            if self.has_more:
                return self._take()
            if self._failed is not None and (
                not self._how.ordered or self._failed[0] <= self._taken
            ):
                error = self._failed[1]
                await self.aclose()
                raise error
            if self._is_complete:
                await self.aclose()
                raise StopAsyncIteration
            await self._wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Reads no more, and cancels what still runs; again changes nothing."""
        if self._closed:
            return
        self._closed = True
        self._stop(-1)
        self._found.clear()
        self._ready.clear()
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()

    def _begin(self) -> None:
        self._started = True
        self._feed.open(self)

    def _take(self) -> R:
        value = self._ready.popleft() if self._ready else self._found.pop(self._taken)
        self._taken += 1
        self._reopen()
        return value

    def _reopen(self) -> None:
        """Goes on reading, where there was no room and half of it is free again."""
        if self._is_full and 2 * self._untaken <= self.room:
            self._is_full = False
            self._feed.open(self)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def _is_complete(self) -> bool:
        return self._exhausted and not (self._out or self._one_by_one or self._read_ahead)

    # -- for the pool: a `Source` --------------------------------------------------------------

    @property
    def left(self) -> int | None:
        """How many calls are to come; None where nobody knows."""
        if self._exhausted:
            return len(self._one_by_one) + len(self._read_ahead)
        return None if self._total is None else max(1, self._total - self._read)

    @property
    def _untaken(self) -> int:
        """Arguments read whose results nobody has; a list that is awaited takes all."""
        have = len(self._found) + len(self._ready) if self._collects else 0
        return self._read - self._taken - have

    @property
    def has_more(self) -> bool:
        """Whether there is a result that nobody needs to wait for."""
        return bool(self._ready) or self._taken in self._found

    @property
    def room(self) -> int:
        """How many arguments may be read whose results nobody has taken (rule 1)."""
        if self._how.buffer is not None:
            return self._how.buffer
        calls, depth = self._feed.at_once(self.paced, self.chunk)
        return max(_ROOM_LEAST, _ROOM_FACTOR * calls * depth * self._feed.capacity)

    def next_piece(self, calls: int) -> _Message | None:
        """The next message; None if there is none now."""
        if self._closed:
            return None
        if self._one_by_one:
            at, items = self._one_by_one.popleft()
            return self._message(at, [items])
        calls = min(calls, self.room - self._untaken)
        if calls < 1:
            self._is_full = True
            return None
        first = self._read
        items = self._next_items(calls)
        if not items:
            if self._exhausted:
                self._wake()
            return None
        return self._message(first, items)

    def _next_items(self, calls: int) -> list[tuple[Any, ...]]:
        items: list[tuple[Any, ...]] = []
        if isinstance(self._source, AsyncIterator):
            items = [
                self._read_ahead.popleft() for _ in range(min(calls, len(self._read_ahead)))
            ]
            if not items and not self._exhausted and self._reader is None:
                reading = self._read_some(self._source, calls)
                self._reader = asyncio.get_running_loop().create_task(reading)
        elif not self._exhausted:
            try:
                for _ in range(calls):
                    items.append(next(self._source))
            except StopIteration:
                self._exhausted = True
            except Exception as error:  # of the caller's own iterable, and for the caller
                self._fail(self._read + len(items), error)
        self._read += len(items)
        return items

    async def _read_some(self, source: AsyncIterator[Any], calls: int) -> None:
        """Reads a few arguments of an asynchronous iterable, and has them sent."""
        try:
            for _ in range(calls):
                item = await anext(source)
                self._read_ahead.append(item if self._how.packed else (item,))
                if len(self._read_ahead) == 1:  # with what comes in this turn of the loop
                    asyncio.get_running_loop().call_soon(self._have_read)
        except StopAsyncIteration:
            self._exhausted = True
        except Exception as error:  # see `_next_items`
            self._fail(self._read + len(self._read_ahead), error)
        self._reader = None
        self._have_read()

    def _have_read(self) -> None:
        if not self._closed:
            self._feed.open(self)
            self._wake()

    def _message(self, first: int, items: Sequence[tuple[Any, ...]]) -> _Message:
        job, args = self._job, items[0]
        if len(items) > 1:
            try:
                stop = not self._how.return_exceptions
                asked = chunks.ask(self._job, items, stop=stop)
            except JobArgumentsError:  # which of them it is shows when each goes alone
                asked = None
            if asked is None:
                self._one_by_one.extend(enumerate(items[1:], first + 1))
                items = items[:1]
            else:
                job, args = chunks.chunk, (asked,)
        message = _Message(self, first, len(items), job, args)
        self._out[message] = None
        return message

    def took(self, message: _Message, error: BaseException | None, value: Any) -> None:
        """A message has its answer."""
        self._out.pop(message, None)
        first = message.first
        if error is not None:
            for at in range(first, first + message.calls):
                self._store_failure(at, error)
        elif message.calls == 1:
            self._store(first, value)
        else:
            for at, result in enumerate(chunks.results(self._job, value, self._known), first):
                if isinstance(result, chunks.Failed):
                    self._store_failure(at, result.error)
                else:
                    self._store(at, result)
        self._wake()
        if self._collects:
            self._reopen()

    def _store(self, at: int, value: Any) -> None:
        if self._how.ordered:
            self._found[at] = value
        else:
            self._ready.append(value)

    def _store_failure(self, at: int, error: BaseException) -> None:
        if self._how.return_exceptions and not isinstance(error, asyncio.CancelledError):
            self._store(at, error)
        else:
            self._fail(at, error)

    def fail(self, error: AmnodeError) -> None:
        """There will be no more workers."""
        self._fail(self._read, error)
        self._wake()

    def _fail(self, at: int, error: BaseException) -> None:
        """Rule 2."""
        if self._failed is None or at < self._failed[0]:
            self._failed = at, error
        first_only = self._how.ordered and not self._collects
        self._stop(self._failed[0] if first_only else -1)

    def _stop(self, after: int) -> None:
        """Reads no more; cancels what comes after this place."""
        self._exhausted = True
        if after < self._read:
            self._read_ahead.clear()
        self._feed.shut(self)
        for message in [*self._out]:
            if message.first > after:
                message.over = True
                del self._out[message]
                self._feed.cancel(message)
        left = [entry for entry in self._one_by_one if entry[0] <= after]
        self._one_by_one = deque(left)


def arguments_of(
    iterables: Sequence[Iterable[Any] | AsyncIterable[Any]],
) -> tuple[Iterator[tuple[Any, ...]] | AsyncIterator[Any], int | None]:
    """What to read the arguments of the calls from, and how many there are, if that is known.

    Raises:
        OptionError: there is nothing to read from.
    """
    if len(iterables) == 1 and isinstance(iterables[0], AsyncIterable):
        return aiter(iterables[0]), None
    for each in iterables:
        if not isinstance(each, Iterable):
            raise OptionError(
                f"{each!r} cannot be iterated; pass iterables, or one asynchronous iterable."
            )
    if not iterables:
        raise OptionError("Pass what to map over, such as pool.map(Squares.square, range(9)).")
    sizes = [len(each) if isinstance(each, Sized) else None for each in iterables]
    known = [size for size in sizes if size is not None]
    return zip(*iterables), min(known) if len(known) == len(sizes) else None  # noqa: B905 - as map
