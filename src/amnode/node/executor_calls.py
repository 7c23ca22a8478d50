"""The calls of a `PoolExecutor`: from `submit` to the result in a future.

Whoever submits a call sends it, in its own thread, if the workers can do with it; if not, it
waits. One thread receives results, and sends what waits. No other thread has a part in a call.

Rules:

1. A call ends exactly once, with its result, what it raised, or an error that says why not.
2. One thread sends at a time. One that finds another at it leaves its call to that, which looks
   again before it stops; so calls leave in the order in which they came.
3. When a worker dies, the call in its slot fails, with no other. What was sent and is neither
   in the queue nor in the slot of a living worker is looked for again, and fails if it stays
   away.
4. What the control thread has to say comes through the queue of results, so it is heard after
   the results that were sent before.
5. After a fork, the child has nothing of this: no thread, and no call that would ever end.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import Any, Protocol
from weakref import WeakSet

from amnode.errors import JobFailed, Outcome
from amnode.node import executor_wire as wire
from amnode.node.call_book import CallBook
from amnode.node.executor_errors import CallLostError, ExecutorBrokenError, RemoteTraceback
from amnode.node.executor_pickle import Pickler

#: Seconds between two looks for a call that nobody has, and how many looks it is given.
_LOOK_INTERVAL = 0.1
_LOOKS = 5


class Control(Protocol):
    """What the calls need of the thread that looks after the workers."""

    def start(self) -> None:
        """Begins."""
        ...

    def want_worker(self) -> None:
        """One more worker is needed; from any thread."""
        ...

    def finish(self) -> None:
        """No call is left and none will come: ends all workers; from any thread."""
        ...

    def worn(self, slot: int) -> None:
        """A worker takes no more calls; from any thread."""
        ...

    def later(self, seconds: float, function: Callable[[], None]) -> None:
        """Calls a function in the control thread, after some seconds; from any thread."""
        ...

    def soon(self, function: Callable[[], None]) -> None:
        """Calls a function in the control thread; from any thread, a finalizer too."""
        ...

    def join(self) -> None:
        """Waits for its end."""
        ...


class Call:
    """One call.

    Attributes:
        future: of its result.
        what: the callable and its arguments, until they are packed.
        packed: what is sent, if it could not be sent yet.
    """

    __slots__ = ("future", "packed", "what")

    def __init__(
        self, future: Future[Any], fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.future = future
        self.what: tuple[Any, tuple[Any, ...], dict[str, Any]] | None = fn, args, kwargs
        self.packed: wire.Packed | None = None


class Calls:
    """The calls of one executor.

    Args:
        workers: that there may be.

    Attributes:
        control: looks after the workers.
        pickler: of what is sent.
        slots: which call each worker runs.
        broken: why no call can be made any more, or None.
        forked: this is a child of the process that has the executor (rule 5).
    """

    def __init__(self, workers: int, control: Callable[[Calls], Control]) -> None:
        self.pickler = Pickler()
        self.broken: ExecutorBrokenError | None = None
        self.forked = False
        self._for_good = False
        self._book: CallBook[Call] = CallBook(workers)
        self._lock = threading.RLock()
        self._sending = threading.Lock()
        self._closing = False
        self._finishing = False
        self._started = False
        self._posted: deque[Callable[[], None]] = deque()
        self._killed: set[int] = set()
        self._worn: set[int] = set()
        self.control = control(self)
        _ALL.add(self)

    def _start(self) -> None:
        self.calls_end, self.calls_out = wire.pair()
        self._results, self.results_end = wire.pair()
        self.slots = wire.Slots(self._book.most)
        self._drain = wire.Reader(self.calls_end)
        self._thread = threading.Thread(
            target=self._receive, name="amnode-results", daemon=True
        )
        try:
            self._thread.start()
        except BaseException:  # such as at the end of the interpreter
            self._close()
            raise
        try:
            self.control.start()
        except BaseException:
            self.post(None)
            raise
        self._started = True

    # -- from any thread ---------------------------------------------------------------------

    def submit(self, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        """Makes a call; see `Executor.submit`.

        Raises:
            RuntimeError: the executor was shut down, or made before a fork.
            ExecutorBrokenError: it has no workers, and will have none.
        """
        self._refuse_forked()
        future: Future[Any] = Future()
        call = Call(future, fn, args, kwargs)
        with self._lock:
            if self.broken is not None:
                raise self._refusal(self.broken)
            if self._closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            if not self._started:
                self._start()
            self._book.add(call)
            wanted = self._book.wants_worker()
        if wanted:
            self.control.want_worker()
        self._pump()
        return future

    def _refuse_forked(self) -> None:
        if self.forked:
            raise RuntimeError(
                "This executor belongs to the process that this one was forked from; make "
                "another one here."
            )

    def recall(self) -> None:
        """Takes back what was sent and no worker has begun; it counts as cancelled."""
        if not self._started or self.forked:
            return
        with self._sending:
            numbers: list[int] = []
            with suppress(BlockingIOError):
                while self._drain.read(wire.NOW):
                    numbers.append(self._drain.number)
                    self._drain.drop()
        for number in numbers:
            call = self._ended(number)
            if call is not None:
                _fail(call.future, CancelledError())

    def close(self, *, cancel: bool, wait: bool) -> None:
        """No more calls; see `Executor.shutdown`."""
        if self.forked:
            return
        with self._lock:
            self._closing = True
            cancelled = self._book.clear(sent=False) if cancel else []
            started = self._started
        for call in cancelled:
            if call.future.cancel():
                call.future.set_running_or_notify_cancel()  # tells those who wait for it
        self._finish_if_done()
        if wait and started:
            self.control.join()
            self._thread.join()

    def abandon(self) -> None:
        """Nobody has the executor any more. Called by a finalizer, so it takes no lock."""
        if not self.forked:
            self._closing = True
            if self._started:
                self.control.soon(self._finish_if_done)

    def slot_of(self, future: Future[Any]) -> tuple[int, int] | None:
        """The number of a call, and the slot of the worker that runs it; None if none does."""
        if not self._started:
            return None
        with self._lock:
            for number, call in self._book.sent.items():
                if call.future is future:
                    for slot in self._book.attached:
                        if self.slots[slot] == number:
                            self._killed.add(number)
                            return number, slot
        return None

    def _finish_if_done(self) -> None:
        with self._lock:
            done = self._started and self._closing and not self._book.outstanding
            if not done or self._finishing:
                return
            self._finishing = True
        self.control.finish()

    # -- sending (rule 2) --------------------------------------------------------------------

    def _pump(self) -> None:
        failed: list[tuple[Call, BaseException]] = []
        while self._book.may_send and self._sending.acquire(blocking=False):
            try:
                while (taken := self._take()) is not None:
                    if not self._send(*taken, failed):
                        break
            finally:
                full = self._book.may_send
                self._sending.release()
            if full:
                break  # the next result makes room
        for call, error in failed:  # what is called back then may take its time
            _fail(call.future, error)
            if not isinstance(error, Exception):
                raise error

    def _take(self) -> tuple[int, Call] | None:
        with self._lock:
            return self._book.take()

    def _send(self, number: int, call: Call, failed: list[tuple[Call, BaseException]]) -> bool:
        """Sends a call, or ends it; False if the queue is full."""
        if call.what is not None and not call.future.set_running_or_notify_cancel():
            self._ended(number)
            return True
        try:
            if call.what is not None:
                call.packed = self.pickler.call(*call.what)
                call.what = None
            wire.send(self.calls_out, number, wire.CALL, call.packed, flags=wire.NOW)
        except BlockingIOError:
            with self._lock:
                self._book.put_back(number)
            return False
        except BaseException as error:
            self._ended(number)
            failed.append((call, error))
            return isinstance(error, Exception)
        call.packed = None
        return True

    def _ended(self, number: int, seconds: float | None = None) -> Call | None:
        """A call is over; the caller tells its future."""
        with self._lock:
            call = self._book.ended(number, seconds)
        if self._closing:
            self._finish_if_done()
        return call

    # -- receiving ---------------------------------------------------------------------------

    def _receive(self) -> None:
        reader = wire.Reader(self._results)
        while reader.read():
            if reader.kind == wire.WAKE:
                if not self._hear():
                    break
            elif reader.kind == wire.WORN:
                self._is_worn(reader.extra)
            else:
                self._take_result(reader)
        self._close()

    def _close(self) -> None:
        for queue in (self.calls_end, self.calls_out, self._results, self.results_end):
            queue.close()
        self.slots.close()

    def _take_result(self, reader: wire.Reader) -> None:
        with self._lock:
            call = self._book.ended(reader.number, reader.seconds)
        if call is None:
            reader.drop()
            return
        self._pump()
        kind = reader.kind
        try:
            value = reader.load()
            if kind == wire.ERROR:
                value = _exception(*value)
        except BaseException as error:
            error.add_note("The result came, and could not be unpickled here.")
            kind, value = wire.ERROR, error
        if kind == wire.ERROR:
            _fail(call.future, value)
        else:
            with suppress(Exception):  # somebody else has ended this future
                call.future.set_result(value)
        if self._closing:
            self._finish_if_done()

    # -- what the control thread says (rule 4) -----------------------------------------------

    def post(self, function: Callable[[], None] | None) -> None:
        """Has the receiving thread call a function, or end; from the control thread."""
        self._posted.append(function or _end)
        self._wake()

    def _wake(self) -> None:
        try:
            wire.send(self.results_end, 0, wire.WAKE, flags=wire.NOW)
        except BlockingIOError:  # it has enough to do; this is tried again
            self.control.later(_LOOK_INTERVAL, self._wake)

    def _hear(self) -> bool:
        function = self._posted.popleft()
        if function is _end:
            return False
        function()
        return True

    def attach(self, slot: int, main: list[str]) -> None:
        """A worker takes calls from now on."""
        with self._lock:
            self.pickler.main = frozenset(main)
            if slot not in self._worn:  # it may have done all that it may before this was heard
                self._book.attach(slot)
        self._pump()

    def _is_worn(self, slot: int) -> None:
        """A worker takes no more calls; its slot is not free yet."""
        with self._lock:
            self._worn.add(slot)
            self._book.detach(slot)
        self.control.worn(slot)

    def gone(self, slot: int, error: CallLostError | None) -> None:
        """A worker is gone, and its slot is free (rule 3).

        Args:
            slot: of the worker.
            error: what the call that it ran fails with.
        """
        number = self.slots[slot]
        self.slots[slot] = 0
        with self._lock:
            self._worn.discard(slot)
            self._book.detach(slot)
        lost = self._ended(number)
        if lost is not None:
            why = error or CallLostError("Its worker ended before the call had.")
            _fail(lost.future, _explained(why, killed=number in self._killed))
        self._killed.discard(number)
        if error is not None:
            self._look(error, self._missing(), _LOOKS)

    def freed(self) -> None:
        """A slot may be used again."""
        with self._lock:
            self._book.used -= 1
        self.want()

    def want(self) -> None:
        """Asks for the workers that the calls need."""
        while True:
            with self._lock:
                if not self._book.wants_worker():
                    return
            self.control.want_worker()

    def _missing(self) -> list[int]:
        """Takes out what is in the queue, puts it back, and says what nobody has."""
        with self._sending:  # nobody else sends meanwhile
            queued: list[int] = []
            packets: list[tuple[bytes, int]] = []
            with suppress(BlockingIOError):
                while self._drain.read(wire.NOW):
                    queued.append(self._drain.number)
                    packets.append(self._drain.packet())
            for packet, descriptor in packets:
                wire.send_again(self.calls_out, packet, descriptor, 0)
            with self._lock:
                held = [self.slots[slot] for slot in self._book.attached]
                return self._book.missing(queued, held)

    def _look(self, error: CallLostError, missing: list[int], looks: int) -> None:
        if not missing:
            return
        if looks:
            again = partial(self._look_again, error, missing, looks)
            self.control.later(_LOOK_INTERVAL, partial(self.post, again))
            return
        for number in missing:
            call = self._ended(number)
            if call is not None:
                _fail(call.future, _explained(error, killed=False))

    def _look_again(self, error: CallLostError, before: list[int], looks: int) -> None:
        now = {*self._missing()}
        self._look(error, [number for number in before if number in now], looks - 1)

    def fail_all(self, error: ExecutorBrokenError, *, for_good: bool = False) -> None:
        """No workers can be had, now or `for_good`: nothing that was submitted can be done."""
        with self._lock:
            self.broken = error
            self._for_good = self._for_good or for_good
            left = self._book.clear(sent=not self._book.attached)
        for call in left:
            _fail(call.future, self._refusal(error))
        self._finish_if_done()

    @staticmethod
    def _refusal(error: ExecutorBrokenError) -> ExecutorBrokenError:
        """One of its own for each call: a traceback must not grow from one to the next."""
        refusal = ExecutorBrokenError(str(error))
        refusal.__cause__ = error.__cause__
        return refusal

    def mended(self) -> None:
        """Workers can be had again."""
        with self._lock:
            if not self._for_good:
                self.broken = None


def _end() -> None:
    """Stands for the end in what is posted."""


def _exception(kind: str, said: str, trace: str, data: bytes) -> BaseException:
    """What a call raised, made again, with its traceback as the cause."""
    error: BaseException
    try:
        error = wire.load(data) if data else _substitute(kind, said, trace)
    except Exception:  # its class is not here, or is another one
        error = _substitute(kind, said, trace)
    error.__cause__ = RemoteTraceback(trace)
    return error


def _substitute(kind: str, said: str, trace: str) -> JobFailed:
    """For an exception that cannot be sent, or not be made here."""
    text = f"The call raised {kind}, which cannot be sent as it is: {said}"
    return JobFailed(text, error_type=kind, traceback=trace)


def _explained(error: CallLostError, *, killed: bool) -> CallLostError:
    """One of its own for each call: a traceback must not grow from one to the next."""
    text = "The call was killed, and its worker with it." if killed else str(error)
    return CallLostError(
        text,
        cause=error.cause,
        outcome=Outcome.UNKNOWN,
        worker_id=error.worker_id,
        exit_code=error.exit_code,
        signal=error.signal,
        output=error.output,
    )


def _fail(future: Future[Any], error: BaseException) -> None:
    with suppress(Exception):  # it was ended by somebody else, or cancelled
        if not future.done():
            future.set_exception(error)


# -- forks (rule 5) --------------------------------------------------------------------------

_ALL: WeakSet[Calls] = WeakSet()
#: What a child of this process inherited: kept as it is, since to end it would touch what both
#: processes have.
_INHERITED: list[Calls] = []


def _after_fork() -> None:
    for calls in [*_ALL]:
        calls.forked = True
        _INHERITED.append(calls)
    _ALL.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def living() -> list[Calls]:
    """The calls of each executor that was not shut down."""
    return [*_ALL]
