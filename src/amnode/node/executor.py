"""PoolExecutor: a `concurrent.futures.Executor` whose workers are supervised.

    with PoolExecutor(max_workers=4) as executor:
        print(executor.submit(pow, 2, 10).result())
        print(list(executor.map(math.sqrt, range(1000), chunksize=50)))

It takes the place of `concurrent.futures.ProcessPoolExecutor`, with the same arguments. Better
is that a worker that dies costs the one call that it ran, and says of what it died; that a call
that runs can be killed; that what cannot be pickled fails alone; that lambdas and what was
typed in can be sent; and that a call costs less. `docs/executor.md` has what is different.

The parts: `executor_calls` (calls and futures), `executor_control` (the thread with supervisor
and client), `executor_worker` (the other side), `executor_wire` and `executor_pickle` (what is
between them), `call_book` (which call goes when).
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing.context
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from itertools import islice
from typing import Any, Generic, ParamSpec, TypeVar
from weakref import finalize

from amnode.errors import OptionError
from amnode.node.executor_calls import Calls, living
from amnode.node.executor_control import ControlThread, Settings
from amnode.node.executor_worker import run_chunk
from amnode.node.launching import LaunchBy

P = ParamSpec("P")
T = TypeVar("T")

#: How workers start, by the start method of multiprocessing that means it.
_LAUNCH_BY: dict[str, LaunchBy] = {"forkserver": "auto", "spawn": "command"}


class PoolExecutor(Executor):
    """Runs callables in worker processes; see `concurrent.futures.ProcessPoolExecutor`.

    Args:
        max_workers: processes that there may be; as many as there are processors by default.
            Each is started when it is needed first.
        mp_context: a context of multiprocessing, or its name, which says how they start:
            "forkserver", the default, from a process that has imported what they need, and
            "spawn", each as a program of its own. "fork" would give them what the program has
            in memory, which these do not have: use an initializer.
        initializer: called in each worker before its first call. If it raises, the executor
            is broken.
        initargs: its arguments.
        max_tasks_per_child: calls that a worker does; then another takes its place. No limit by
            default. With `chunksize` a chunk counts as one.

    Raises:
        ValueError: a number that cannot work, or such a context.
        TypeError: an initializer that cannot be called, a number that is none.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: multiprocessing.context.BaseContext | str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
    ) -> None:
        if max_workers is None:
            max_workers = _processors()
        elif max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        settings = Settings(
            max_workers,
            None if initializer is None else (initializer, tuple(initargs)),
            max_tasks_per_child or 0,
            _launch_by(mp_context),
        )
        # Dask and others look here for how many calls there may be at once.
        self._max_workers = max_workers
        self._calls = Calls(max_workers, partial(ControlThread, settings))
        finalize(self, self._calls.abandon).atexit = False
        logging.getLogger("amnode").addHandler(_SILENT)

    def __reduce__(self) -> Any:
        raise TypeError("An executor cannot be sent to another process; make one there.")

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Has a worker call `fn(*args, **kwargs)`, and returns a future of the result.

        What the call raises the future raises, `SystemExit` too. It raises `CallLostError`, a
        `WorkerError` and a `BrokenProcessPool`, if the worker died of the call.

        Raises:
            RuntimeError: the executor was shut down, or made before a fork.
            BrokenProcessPool: no worker can be had.
        """
        return self._calls.submit(fn, args, kwargs)

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Results of `fn` for the items of some iterables, in their order.

        Args:
            fn: takes one item of each iterable.
            iterables: read at once, unless there is a `buffersize`.
            timeout: seconds from now by which the last result is there; None is no limit.
            chunksize: items that are sent, and done, as one call: more are faster for short
                calls.
            buffersize: calls that are made ahead of the results that were taken; None makes
                all at once.

        Raises:
            TimeoutError: from the iterator, if the result is not there in time.
            ValueError: a number that cannot work.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and not isinstance(buffersize, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("buffersize must be an integer or None")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        end = None if timeout is None else time.monotonic() + timeout
        items = zip(*iterables)  # noqa: B905 - like map(), it ends with the shortest
        if chunksize == 1:
            return _Results((self.submit(fn, *args) for args in items), end, buffersize)
        chunks = iter(lambda: list(islice(items, chunksize)), [])
        calls = (self.submit(run_chunk, fn, chunk) for chunk in chunks)
        return _flat(_Results(calls, end, buffersize))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more calls, and ends the workers when those that were made are done.

        Args:
            wait: returns when that is so. If the wait is interrupted (Ctrl-C), the workers are
                killed, with what they run.
            cancel_futures: calls that have not begun are cancelled.
        """
        self._calls.close(cancel=cancel_futures, wait=wait)

    def kill(self, future: Future[Any]) -> bool:
        """Ends a call that runs, whatever it does, and its worker with it.

        The future then raises `CallLostError`; another worker takes the place. A call that
        has not begun is for `future.cancel()`.

        Returns:
            Whether the call was running.
        """
        found = self._calls.slot_of(future)
        control = self._calls.control
        if found is None or not isinstance(control, ControlThread):
            return False
        number, slot = found
        control.kill(slot, number)
        return True

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool | None:
        if isinstance(error, KeyboardInterrupt):
            # As Ctrl-C in a terminal would do to workers of the program's own session.
            self.shutdown(wait=False, cancel_futures=True)
            self._calls.recall()
            control = self._calls.control
            if isinstance(control, ControlThread):
                control.interrupt()
        return super().__exit__(kind, error, trace)


class _Results(Iterator[T], Generic[T]):
    """The results of `map`, in order; what is not taken any more is cancelled."""

    def __init__(
        self, calls: Iterator[Future[T]], end: float | None, ahead: int | None
    ) -> None:
        self._calls = calls
        self._end = end
        self._futures = deque(islice(calls, ahead))
        self._bounded = ahead is not None

    def __next__(self) -> T:
        if not self._futures:
            raise StopIteration
        future = self._futures.popleft()
        try:
            if self._bounded:
                self._futures.extend(islice(self._calls, 1))
            if self._end is None:
                return future.result()
            return future.result(max(0.0, self._end - time.monotonic()))
        except BaseException:
            future.cancel()
            self.close()
            raise
        finally:
            del future

    def close(self) -> None:
        """Cancels what has not begun."""
        while self._futures:
            self._futures.pop().cancel()

    def __del__(self) -> None:
        if hasattr(self, "_futures"):
            self.close()


def _flat(chunks: Iterator[list[T]]) -> Iterator[T]:
    for chunk in chunks:
        chunk.reverse()
        while chunk:  # keeps no result that was given
            yield chunk.pop()


def _processors() -> int:
    """As many as the standard executor takes."""
    count = getattr(os, "process_cpu_count", os.cpu_count)()
    return count or 1


def _launch_by(context: multiprocessing.context.BaseContext | str | None) -> LaunchBy:
    """How workers start, by what multiprocessing calls it."""
    if context is None or isinstance(context, multiprocessing.context.DefaultContext):
        return "auto"
    name = context if isinstance(context, str) else getattr(context, "_name", "")
    if name in _LAUNCH_BY:
        return _LAUNCH_BY[name]
    if name == "fork":
        raise OptionError(
            "mp_context is 'fork': these workers do not have what the program has in memory. "
            "Use 'forkserver', and an initializer for what they need."
        )
    raise OptionError(
        f"mp_context is {context!r}; it must be a context of multiprocessing, 'forkserver' or "
        "'spawn'."
    )


# -- the end of the program ----------------------------------------------------------------

#: Without a handler, what is worth a warning would go to the program's standard error.
_SILENT = logging.NullHandler()


def _finish_all() -> None:
    """At exit, what was submitted is done, as with the standard executor."""
    for calls in living():
        calls.close(cancel=False, wait=True)


atexit.register(_finish_all)
