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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import msgspec

from amnode.errors import AmnodeError, ErrorData, JobArgumentsError, JobFailed, from_data
from amnode.node import progress
from amnode.node.failures import Known, as_raised, failed
from amnode.node.jobs import Job, job
from amnode.node.values import DECODE_ERRORS, ENCODE_ERRORS, Packed
from amnode.node.work import Driver

#: Of the job that runs a chunk; no method can have this name.
CHUNK = "amnode.chunk"
#: Seconds that calls which never wait may keep the worker's loop; checks have to be answered.
TURN = 0.005

_raws = msgspec.msgpack.Decoder(list[msgspec.Raw])


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """The calls of a chunk: encoded each by itself, or all at once."""

    job: str
    stop: bool
    count: int
    calls: list[bytes] = []
    many: bytes = b""


class Answered(msgspec.Struct, array_like=True):
    """Their results in order, empty for one that failed, and those errors by their index.

    Or all results at once, where none failed.
    """

    results: list[bytes] = []
    errors: dict[int, ErrorData] = {}
    buffers: dict[int, list[bytes]] = {}
    many: bytes = b""


class Host(Protocol):
    """The worker, as a chunk needs it."""

    def chunk_of(self, name: str, calls: int) -> tuple[Job[..., Any], Driver]:
        """The job of so many calls that are about to run, and what they need."""
        ...


class Outcomes:
    """What the calls of a chunk came to, so far.

    Args:
        called: their job.
        asked: the calls.
        known: the exceptions of the worker's class.
    """

    def __init__(self, called: Job[..., Any], asked: Asked, known: Known) -> None:
        self.values: list[Any] = []
        self.errors: dict[int, AmnodeError] = {}
        self._called = called
        self._asked = asked
        self._known = known

    def calls(self, worker: object) -> Iterator[Callable[[], Any] | None]:
        """Each call, ready to be made; None for one whose arguments do not fit (rule 2)."""
        called, asked = self._called, self._asked
        codecs = called.many
        encoded: Sequence[Any] = asked.calls
        if asked.many and codecs is not None:
            try:
                many = codecs[0].decode(Packed(asked.many))
            except DECODE_ERRORS:  # which of them it is shows when each is looked at
                encoded = _raws.decode(asked.many)
            else:
                for arguments in many:
                    yield partial(called.function, worker, *arguments)
                return
        for data in encoded:
            try:
                yield called.bind(worker, called.decode(Packed(data)))
            except JobArgumentsError as error:
                self.errors[len(self.values)] = error
                self.values.append(None)
                yield None

    def failed(self, error: BaseException) -> None:
        """The last call raised."""
        self.errors[len(self.values)] = failed(self._called.name, error, self._known)
        self.values.append(None)

    @property
    def are_over(self) -> bool:
        """Whether the chunk ends here (rule 2)."""
        return bool(self.errors) and self._asked.stop

    def answer(self) -> Answered:
        """All of it, as it crosses."""
        codecs = self._called.many
        if codecs is not None and not self.errors:
            with suppress(*ENCODE_ERRORS):  # which of them it is shows when each goes alone
                packed = codecs[1].encode((self.values,))
                if not packed.buffers:
                    return Answered(many=bytes(packed.data))
        answered = Answered()
        for at, value in enumerate(self.values):
            error = self.errors.get(at)
            if error is None:
                try:
                    result = self._called.encode_result(value)
                except JobFailed as unfit:
                    error = unfit
                else:
                    answered.results.append(bytes(result.data))
                    if result.buffers:
                        answered.buffers[at] = [bytes(part) for part in result.buffers]
                    continue
            answered.errors[at] = error.to_data()
            if self._asked.stop:
                break
            answered.results.append(b"")
        return answered


@job
async def chunk(worker: Any, asked: Asked) -> Answered:
    """Runs the calls of a chunk; a job of every worker."""
    host: Host = worker
    called, driver = host.chunk_of(asked.job, asked.count)
    outcomes = Outcomes(called, asked, driver.known)
    if called.thread:
        await _run_on_thread(worker, outcomes, driver)
    else:
        await _run_on_loop(worker, outcomes)
    return outcomes.answer()


chunk.name = CHUNK


async def _run_on_loop(worker: object, outcomes: Outcomes) -> None:
    values, now = outcomes.values, asyncio.get_running_loop().time
    turn = now()
    for call in outcomes.calls(worker):
        if call is not None:
            try:
                values.append(await call())
            except (asyncio.CancelledError, SystemExit, KeyboardInterrupt):
                raise  # they end the chunk, or the process
            except BaseException as error:
                outcomes.failed(error)
        if outcomes.errors and outcomes.are_over:
            return
        if now() - turn > TURN:
            await asyncio.sleep(0)
            turn = now()


async def _run_on_thread(worker: object, outcomes: Outcomes, driver: Driver) -> None:
    came = driver.thread.run(partial(_run_in_thread, worker, outcomes))
    while not came.done():
        try:
            await asyncio.wait((came,))
        except asyncio.CancelledError:  # nothing but its own end ends a function
            continue
    _, error = came.result()
    if error is not None:
        raise error


def _run_in_thread(worker: object, outcomes: Outcomes) -> None:
    running = progress.running("a chunk")
    for call in outcomes.calls(worker):
        if running.cancelled:
            raise asyncio.CancelledError
        if call is not None:
            try:
                outcomes.values.append(call())
            except (asyncio.CancelledError, SystemExit, KeyboardInterrupt):
                raise  # they end the chunk, or the process
            except BaseException as error:
                outcomes.failed(error)
        if outcomes.are_over:
            return


# -- the caller's side ---------------------------------------------------------------------


def ask(called: Job[..., Any], calls: Sequence[tuple[Any, ...]], *, stop: bool) -> Asked | None:
    """A chunk of these calls, of equal length; None if one of them has to go alone (rule 4).

    Raises:
        JobArgumentsError: arguments that cannot be encoded, or too few or too many.
    """
    codecs = called.many
    if codecs is not None and called.takes(len(calls[0])):
        with suppress(*ENCODE_ERRORS):  # whose fault it is shows below
            packed = codecs[0].encode((calls,))
            if not packed.buffers:
                return Asked(called.name, stop, len(calls), many=bytes(packed.data))
    found: list[bytes] = []
    for arguments in calls:
        packed = called.encode(arguments, {})
        if packed.buffers:
            return None
        found.append(bytes(packed.data))
    return Asked(called.name, stop, len(calls), found)


class Failed:
    """Stands among the results for a call that failed."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


def results(called: Job[..., Any], answered: Answered, known: Known) -> list[Any]:
    """What came of the calls, in order; `Failed` for one that failed.

    After a chunk that was to stop, the last one is the failure, if there is one.

    Raises:
        JobFailed: the worker sent something else.
    """
    decode, errors, buffers = called.decode_result, answered.errors, answered.buffers
    if answered.many and called.many is not None:
        try:
            return called.many[1].decode(Packed(answered.many))
        except DECODE_ERRORS as error:
            raise JobFailed(f"The results of {called.name} do not fit: {error}.") from None
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
