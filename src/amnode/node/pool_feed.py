"""Feed: brings the calls of a `Pool` to the workers that it leases for them.

    calls, maps  ->  fill()  ->  a worker each, as `policy.dispatch` says  ->  answers

Rules:

1. Single calls go in the order made; they and the maps take turns.
2. A call that its worker never began goes to another, in its old place; one that may have run
   goes again only if it may (`retries`), else it fails with why its worker was lost.
3. A worker that is stopping a cancelled job has its call until the job has ended.
4. Whoever waits for a worker that nobody gets in time is told so; it is not left to wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from amnode.errors import (
    AmnodeError,
    Cause,
    ConnectionLost,
    LeaseLost,
    Outcome,
    PoolError,
    WorkerError,
)
from amnode.node.client import Client
from amnode.node.failures import Known
from amnode.node.leased import LeasedWorker
from amnode.node.pending_call import PendingCall
from amnode.node.policy.dispatch import Dispatch
from amnode.node.policy.options import DispatchOptions
from amnode.node.policy.pace import Pace
from amnode.node.pool_calls import Hold, Piece
from amnode.node.states import WorkerStates

logger = logging.getLogger("amnode.node")

S = WorkerStates

#: A message that has lasted so many times the options' `slice` is not small after all.
_LATE = 5
#: Jobs whose pace is remembered; a pool has a handful.
_PACES = 1024


class Source(Protocol):
    """Something that has calls to make whenever there is room: a map.

    Attributes:
        paced: the name of its job.
        chunk: calls in one message; None is as many as make up the options' `slice`.
    """

    paced: str
    chunk: int | None

    @property
    def left(self) -> int | None:
        """How many calls are to come; None where nobody knows."""
        ...

    def next_piece(self, calls: int) -> Piece | None:
        """The next message, of so many calls at most; None if there is none now."""
        ...

    def fail(self, error: AmnodeError) -> None:
        """There will be no more workers."""
        ...


class Feed:
    """The calls and the leased workers of one pool.

    Args:
        client: by which workers are leased.
        options: see `DispatchOptions`.
        limit: how many workers there may be; 0 while none are granted.
        others: whether somebody else waits for a worker.
    """

    def __init__(
        self,
        client: Client,
        options: DispatchOptions,
        *,
        limit: Callable[[], int],
        others: Callable[[], bool],
    ) -> None:
        self._client = client
        self._options = options
        self._limit_of = limit
        #: As it was when it was last looked at.
        self._limit = 0
        self._others = others
        self._dispatch = Dispatch(options)
        self._workers: dict[int, LeasedWorker] = {}
        self._busy_since: dict[int, float] = {}
        self._next_key = 0
        self._queue: deque[Piece] = deque()
        self._returned = 0  # those at its front that are there again (rule 2)
        self._sources: deque[Source] = deque()
        self._running: dict[Piece, PendingCall[Any]] = {}
        self._paces: dict[str, Pace] = {}
        self._asked = 0
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._look_at = 0.0
        self._closed = ""
        self._rest: asyncio.Future[None] | None = None
        self._filling = False

    @property
    def known(self) -> Known:
        """The exceptions of the worker class."""
        return self._client.known

    @property
    def asked(self) -> int:
        """How many requests for workers are under way."""
        return self._asked

    @property
    def workers(self) -> int:
        """How many workers it has."""
        return len(self._dispatch)

    @property
    def leased(self) -> list[LeasedWorker]:
        """Those workers."""
        return [*self._workers.values()]

    # -- what there is to do -----------------------------------------------------------------

    def call(self, piece: Piece) -> None:
        """Has a call made.

        Raises:
            PoolError: the pool makes no more.
        """
        if self._closed:
            raise PoolError(self._closed)
        self._queue.append(piece)
        self.fill()

    def open(self, source: Source) -> None:
        """Has the calls of a source made, now and whenever there is room."""
        if self._closed:
            source.fail(PoolError(self._closed))
            return
        if source not in self._sources:
            self._sources.append(source)
        self.fill()

    def shut(self, source: Source) -> None:
        """The source has nothing for now, or never will have."""
        if source in self._sources:
            self._sources.remove(source)

    def cancel(self, piece: Piece) -> None:
        """Nobody waits for it any more: it never starts, or is cancelled at its worker."""
        running = self._running.get(piece)
        if running is not None:
            running.cancel()
        elif piece in self._queue:
            self._queue.remove(piece)

    def pace(self, name: str) -> Pace:
        """What is known of the calls of a job."""
        found = self._paces.get(name)
        if found is None:
            if len(self._paces) >= _PACES:
                self._paces.clear()
            found = self._paces[name] = Pace(self._options.slice)
        return found

    def at_once(self, paced: str, calls: int | None) -> tuple[int, int]:
        """How many calls a message has, by itself or as told, and how many a worker has."""
        pace = self.pace(paced)
        calls = calls or pace.chunk(None, self.capacity)
        return calls, pace.depth(calls, self._options.ahead)

    @property
    def capacity(self) -> int:
        """How many workers there are or may soon be."""
        workers = self._dispatch.open
        return max(workers, min(self._limit, workers + self._asked), 1)

    # -- giving it to the workers ------------------------------------------------------------

    def fill(self) -> None:
        """Gives the workers what they have room for, and asks for more of them."""
        if self._filling:
            return
        self._filling = True
        try:
            while self._fill_from_queue() | self._fill_from_sources():
                pass
            self._ask()
        finally:
            self._filling = False
        self._tell_idle()

    def _fill_from_queue(self) -> bool:
        """The next single call to a worker that has room for it (rule 1)."""
        while self._queue:
            piece = self._queue[0]
            if piece.over:
                self._pop()
                continue
            depth = 1 if piece.alone else self._depth(piece.paced, piece.calls)
            key = self._place(depth)
            if key is None:
                return False
            self._pop()
            self._send(piece, key, alone=depth == 1)
            return True
        return False

    def _fill_from_sources(self) -> bool:
        """The next message of the map whose turn it is."""
        for _ in range(len(self._sources)):
            source = self._sources[0]
            pace = self.pace(source.paced)
            calls = source.chunk or pace.chunk(source.left, self.capacity)
            depth = pace.depth(calls, self._options.ahead)
            key = self._place(depth)
            self._sources.rotate(-1)
            if key is None:
                continue
            try:
                piece = source.next_piece(calls)
            except AmnodeError as error:  # such as annotations that cannot be read
                self.shut(source)
                source.fail(error)
                return True
            if piece is None:
                self.shut(source)
                return True
            self._send(piece, key, alone=depth == 1)
            return True
        return False

    def _depth(self, paced: str, calls: int) -> int:
        return self.pace(paced).depth(calls, self._options.ahead)

    def _place(self, depth: int) -> int | None:
        """A worker that is there and has room; those that are lost are found here."""
        while True:
            key = self._dispatch.place(depth)
            if key is None:
                return None
            since = self._busy_since.get(key)
            if self._workers[key].machine.lost is not None:
                self._lose(key)
            elif since is None or self._now() - since <= _LATE * self._options.slice:
                return key
            else:
                self._dispatch.late(key)

    def let_go(self, key: int, *, lost: bool) -> None:
        """A worker is free again that one call had to itself (rule 3)."""
        if lost:
            self._lose(key)
        else:
            self._cancelled(key)
        self.fill()

    def _pop(self) -> None:
        self._queue.popleft()
        self._returned = max(0, self._returned - 1)

    def _send(self, piece: Piece, key: int, *, alone: bool) -> None:
        if isinstance(piece, Hold):
            self._dispatch.sent(key, alone=True)
            self._busy_since[key] = self._now()
            piece.future.set_result((key, self._workers[key]))
            return
        self._dispatch.sent(key, alone=alone)
        if key not in self._busy_since:
            self._busy_since[key] = self._now()
        worker = self._workers[key]
        try:
            call = worker.begin(piece.options, piece.job, piece.args, piece.kwargs)
        except AmnodeError as error:
            self._ended(key, self._now())
            piece.ended(error, None)
            return
        self._running[piece] = call
        if call.done():
            self._answered(piece, key, call)
        else:
            call.on_over = partial(self._answered, piece, key)

    def _answered(self, piece: Piece, key: int, call: PendingCall[Any]) -> None:
        """A worker has nothing more to do with a call (rule 3)."""
        del self._running[piece]
        if call.cancelled():
            piece.ended(PoolError(self._closed or "The call was cancelled."), None)
            self._cancelled(key)
        elif isinstance(error := call.exception(), WorkerError | LeaseLost | ConnectionLost):
            self._lose(key)
            self._lost(piece, error, behind=call.behind)
        else:
            now = self._now()
            self._note_pace(piece, key, now)
            self._ended(key, now)
            piece.ended(error, None if error is not None else call.result())
        self.fill()

    def _lost(
        self, piece: Piece, error: WorkerError | LeaseLost | ConnectionLost, *, behind: bool
    ) -> None:
        """Rule 2. What was behind another call is not what its worker died of, most likely."""
        if piece.over or self._closed:
            piece.ended(error, None)
        elif error.outcome is Outcome.NOT_RUN:
            self._put_back(piece)
        elif piece.retries > 0 and not _was_told_to_end(error):
            piece.retries -= not behind
            piece.alone = True  # what it runs beside next would be lost with it
            self._put_back(piece)
        else:
            piece.ended(error, None)

    def _put_back(self, piece: Piece) -> None:
        self._queue.insert(self._returned, piece)
        self._returned += 1

    def _note_pace(self, piece: Piece, key: int, now: float) -> None:
        """From its turn to its answer: not the time that it waited behind another one."""
        since = self._busy_since.get(key, now)
        self.pace(piece.paced).took(now - since, piece.calls)
        self._busy_since[key] = now

    def _ended(self, key: int, now: float) -> None:
        if self._dispatch.ended(key, now):
            self._give_back([key])
        if not self._dispatch.load(key):
            self._busy_since.pop(key, None)
            if self._timer is None or self._look_at > now + self._options.keep:
                self._arm()

    def _cancelled(self, key: int) -> None:
        """Rule 3: a call was taken back; its job may be stopping still."""
        worker = self._workers.get(key)
        if worker is not None and worker.machine.any1(S.WorkRequested, S.Working):
            self._dispatch.late(key)
            self._spawn(self._rests(worker, key))
        else:
            self._ended(key, self._now())

    async def _rests(self, worker: LeasedWorker, key: int) -> None:
        with suppress(AmnodeError):  # it is lost, and found to be when it is to be used
            await worker.machine.when_not((S.WorkRequested, S.Working))
        self._ended(key, self._now())
        self.fill()

    # -- leasing -----------------------------------------------------------------------------

    def _ask(self) -> None:
        limit = self._limit = self._limit or self._limit_of()
        if len(self._dispatch) + self._asked >= limit:
            return
        waiting = len(self._queue) + self._dispatch.ahead
        for source in self._sources:
            left = source.left
            waiting += limit if left is None else left
        for _ in range(self._dispatch.to_ask(waiting, self._asked, limit)):
            self._asked += 1
            self._spawn(self._lease())

    async def _lease(self) -> None:
        try:
            worker = await self._client.req_worker()
        except AmnodeError as error:
            self._asked -= 1
            if not self._workers and not self._asked:
                self._fail(error)
            return
        except BaseException:
            self._asked -= 1
            raise
        self._asked -= 1
        key = self._next_key
        self._next_key += 1
        self._workers[key] = worker
        self._dispatch.came(key, self._now())
        if self._closed:
            self._give_back([key])
        else:
            self.look()

    def _fail(self, error: AmnodeError) -> None:
        """Rule 4."""
        queue, self._queue = self._queue, deque()
        self._returned = 0
        sources, self._sources = self._sources, deque()
        for piece in queue:
            piece.ended(error, None)
        for source in sources:
            source.fail(error)

    def broken(self, why: str) -> None:
        """The pool stopped trying to start workers: what has none fails."""
        if not self._workers:
            self._fail(PoolError(why))

    def look(self) -> None:
        """Gives back what is not needed, or needed elsewhere."""
        limit, now = self._limit_of(), self._now()
        self._limit = limit
        self._give_back(self._dispatch.to_return(now, others=self._others(), limit=limit))
        if not self._closed:
            self.fill()
            self._arm()

    def _give_back(self, keys: list[int]) -> None:
        for key in keys:
            self._dispatch.gone(key)
            self._busy_since.pop(key, None)
            self._spawn(self._release(self._workers.pop(key)))

    def _lose(self, key: int) -> None:
        """The worker is lost; whatever else it had says so by itself."""
        if key in self._workers:
            self._give_back([key])

    async def _release(self, worker: LeasedWorker) -> None:
        await worker.release()
        if not self._closed:
            self.look()  # more than one may wait

    def _arm(self) -> None:
        """Has `look` called when a lease may have to go back."""
        at = self._dispatch.next_look(self._now())
        if at is None or self._closed or (self._timer is not None and self._look_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._look_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._due)

    def _due(self) -> None:
        self._timer = None
        self.look()

    # -- the end -----------------------------------------------------------------------------

    async def idle(self) -> None:
        """Waits until every call that was made has ended; a stream is for its reader to end."""
        while self._running or self._queue:
            if self._rest is None:
                self._rest = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._rest)

    def _tell_idle(self) -> None:
        if self._rest is not None and not self._running and not self._queue:
            rest, self._rest = self._rest, None
            rest.set_result(None)

    async def close(self, why: str) -> None:
        """Fails what has not ended, and gives every worker back."""
        self._closed = why
        if self._timer is not None:
            self._timer.cancel()
        self._fail(PoolError(why))
        for call in [*self._running.values()]:
            call.cancel()
        for task in [*self._tasks]:
            task.cancel()
        self._give_back([*self._workers])
        while self._tasks:
            await asyncio.wait([*self._tasks])

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._tasks.pop)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def _was_told_to_end(error: Exception) -> bool:
    """Whether the call itself said when its worker was to end."""
    return isinstance(error, WorkerError) and error.cause is Cause.HARD_DEADLINE
