"""Several calls of one job in one message: what `Pool.map` sends where calls are small.

    (job, stop, [arguments, ...])  ->  worker  ->  ([result, ...], {index: error})

1. To the worker a chunk is one job, `CHUNK`, which every worker has: one cancel, one answer.
   Its calls run one after the other.
2. The arguments of a call are checked when its turn comes. One that fails, ends the chunk if
   `stop` says so; the results of those before it cross with its error.
3. Results and errors cross as those of single calls do, and are the same at the caller.
4. Large buffers are copied into a chunk, so arguments that have some go alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec

from amnode.errors import AmnodeError, ErrorData, JobFailed, from_data
from amnode.node import progress
from amnode.node.failures import Known, as_raised, failed
from amnode.node.jobs import Job, job
from amnode.node.values import Packed
from amnode.node.work import Driver

#: Of the job that runs a chunk; no method can have this name.
CHUNK = "amnode.chunk"
#: Seconds that calls which never wait may keep the worker's loop; checks have to be answered.
TURN = 0.005


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """The calls of a chunk."""

    job: str
    stop: bool
    calls: list[bytes]


class Answered(msgspec.Struct, array_like=True):
    """Their results in order, empty for one that failed, and those errors by their index."""

    results: list[bytes] = []
    errors: dict[int, ErrorData] = {}
    buffers: dict[int, list[bytes]] = {}


class Host(Protocol):
    """The worker, as a chunk needs it."""

    def chunk_of(self, name: str, calls: int) -> tuple[Job[..., Any], Driver]:
        """The job of so many calls that are about to run, and what they need."""
        ...


@job
async def chunk(worker: Any, asked: Asked) -> Answered:
    """Runs the calls of a chunk; a job of every worker."""
    host: Host = worker
    called, driver = host.chunk_of(asked.job, len(asked.calls))
    answered = Answered()
    if called.thread:
        await _run_on_thread(worker, called, asked, driver, answered)
    else:
        await _run_on_loop(worker, called, asked, driver.known, answered)
    return answered


chunk.name = CHUNK


async def _run_on_loop(
    worker: object, called: Job[..., Any], asked: Asked, known: Known, answered: Answered
) -> None:
    now = asyncio.get_running_loop().time
    turn = now()
    for arguments in asked.calls:
        if now() - turn > TURN:
            await asyncio.sleep(0)
            turn = now()
        try:
            call = called.bind(worker, called.decode(Packed(arguments)))
            try:
                value = await call()
            except (asyncio.CancelledError, SystemExit, KeyboardInterrupt):
                raise  # they end the chunk, or the process
            except BaseException as error:
                raise failed(called.name, error, known) from None
            _put(answered, called.encode_result(value))
        except AmnodeError as error:
            if _put_error(answered, error, stop=asked.stop):
                return


async def _run_on_thread(
    worker: object, called: Job[..., Any], asked: Asked, driver: Driver, answered: Answered
) -> None:
    came = driver.thread.run(
        partial(_run_in_thread, worker, called, asked, driver.known, answered)
    )
    while not came.done():
        try:
            await asyncio.wait((came,))
        except asyncio.CancelledError:  # nothing but its own end ends a function
            continue
    _, error = came.result()
    if error is not None:
        raise error


def _run_in_thread(
    worker: object, called: Job[..., Any], asked: Asked, known: Known, answered: Answered
) -> None:
    for arguments in asked.calls:
        if progress.running("a chunk").cancelled:
            raise asyncio.CancelledError
        try:
            call = called.bind(worker, called.decode(Packed(arguments)))
            _put(answered, called.encode_result(_value_of(call, called.name, known)))
        except AmnodeError as error:
            if _put_error(answered, error, stop=asked.stop):
                return


def _value_of(call: Callable[[], Any], name: str, known: Known) -> Any:
    try:
        return call()
    except (asyncio.CancelledError, SystemExit, KeyboardInterrupt):
        raise  # they end the chunk, or the process
    except BaseException as error:
        raise failed(name, error, known) from None


def _put(answered: Answered, result: Packed) -> None:
    if result.buffers:
        answered.buffers[len(answered.results)] = [bytes(part) for part in result.buffers]
    answered.results.append(bytes(result.data))


def _put_error(answered: Answered, error: AmnodeError, *, stop: bool) -> bool:
    """Rule 2; returns whether the chunk ends."""
    answered.errors[len(answered.results)] = error.to_data()
    if not stop:
        answered.results.append(b"")
    return stop


# -- the caller's side ---------------------------------------------------------------------


def ask(called: Job[..., Any], calls: Sequence[tuple[Any, ...]], *, stop: bool) -> Asked | None:
    """A chunk of these calls; None if one of them has to go alone (rule 4).

    Raises:
        JobArgumentsError: arguments that cannot be encoded, or too few or too many.
    """
    found: list[bytes] = []
    for arguments in calls:
        packed = called.encode(arguments, {})
        if packed.buffers:
            return None
        found.append(bytes(packed.data))
    return Asked(called.name, stop, found)


class Failed:
    """Stands among the results for a call that failed."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


def results(called: Job[..., Any], answered: Answered, known: Known) -> list[Any]:
    """What came of the calls, in order; `Failed` for one that failed.

    After a chunk that was to stop, the last one is the failure, if there is one.
    """
    decode, errors, buffers = called.decode_result, answered.errors, answered.buffers
    if not errors:
        return [
            decode(Packed(data, buffers.get(at, ()) if buffers else ()))
            for at, data in enumerate(answered.results)
        ]
    found: list[Any] = []
    for at in range(max(len(answered.results), max(errors) + 1)):
        if at in errors:
            error = from_data(errors[at])
            if isinstance(error, JobFailed):
                found.append(Failed(as_raised(error, {**called.known, **known})))
            else:
                found.append(Failed(error))
        else:
            found.append(decode(Packed(answered.results[at], buffers.get(at, ()))))
    return found
