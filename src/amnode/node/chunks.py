"""Several calls of one job in one message: what `Pool.map` sends where calls are small.

    (job, stop, [arguments, ...])  ->  worker  ->  ([result, ...], {index: error})

1. To the worker a chunk is one job, `CHUNK`, which every worker has: one deadline, one cancel,
   one answer. Its calls run one after the other.
2. The arguments of a call are checked when its turn comes. One that fails, ends the chunk if
   `stop` says so; the results of those before it cross with its error.
3. Results and errors cross as those of single calls do, and are the same at the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from amnode.errors import AmnodeError, ErrorData, JobFailed, from_data
from amnode.node.failures import Known, as_raised
from amnode.node.jobs import Job, job
from amnode.node.progress import RUNNING
from amnode.node.values import Packed
from amnode.node.work import Work

#: Of the job that runs a chunk; no method can have this name.
CHUNK = "amnode.chunk"
#: Seconds that calls which never wait may keep the worker's loop; checks have to be answered.
TURN = 0.005


#: What stands beside the values of some calls, by their index; see `Packed`.
_Beside: TypeAlias = "dict[int, list[memoryview]]"


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """The calls of a chunk."""

    job: str
    stop: bool
    calls: list[bytes]
    beside: _Beside = {}


class Answered(msgspec.Struct, frozen=True, array_like=True):
    """Their results in order, nil for one that failed, and those errors by their index."""

    results: list[bytes]
    errors: dict[int, ErrorData]
    beside: _Beside = {}


@job
async def chunk(worker: Any, asked: Asked) -> Answered:
    """Runs the calls of a chunk; a job of every worker."""
    called, running = worker.job_named(asked.job), RUNNING.get()
    assert isinstance(running, Work)
    results: list[bytes] = []
    beside: _Beside = {}
    errors: dict[int, ErrorData] = {}
    now = asyncio.get_running_loop().time
    turn = now()
    for at, arguments in enumerate(asked.calls):
        if now() - turn > TURN:
            await asyncio.sleep(0)
            turn = now()
        try:
            given = Packed(arguments, asked.beside.get(at, ()))
            came = await _result(running, called, called.bind(worker, called.decode(given)))
            results.append(_noted(at, came, beside))
        except AmnodeError as error:
            errors[at] = error.to_data()
            if asked.stop:
                break
            results.append(b"")
    return Answered(results, errors, beside)


chunk.name = CHUNK


async def _result(running: Work, called: Job[..., Any], call: Callable[[], Any]) -> Packed:
    try:
        value = await running.come_to(called, call)
    except (asyncio.CancelledError, SystemExit, KeyboardInterrupt):
        raise  # they end the chunk, or the process
    except BaseException as error:
        raise running.failed(called, error) from None
    return called.encode_result(value)


def _noted(at: int, packed: Packed, beside: _Beside) -> bytes:
    """The value of a call itself; what stands beside it is noted."""
    if packed.buffers:
        beside[at] = [*packed.buffers]
    return bytes(packed.data)


# -- the caller's side ---------------------------------------------------------------------


def ask(called: Job[..., Any], calls: Sequence[tuple[Any, ...]], *, stop: bool) -> Asked:
    """A chunk of these calls.

    Raises:
        JobArgumentsError: arguments that cannot be encoded, or too few or too many.
    """
    beside: _Beside = {}
    values = [_noted(n, called.encode(args, {}), beside) for n, args in enumerate(calls)]
    return Asked(called.name, stop, values, beside)


class Failed:
    """Stands among the results for a call that failed."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error = error


def results(called: Job[..., Any], answered: Answered, known: Known) -> list[Any]:
    """What came of the calls, in order; `Failed` for one that failed.

    After a chunk that was to stop, the last one is the failure, if there is one.
    """
    errors, beside = answered.errors, answered.beside

    def result(at: int) -> Any:
        if at in errors:
            return Failed(_raised(from_data(errors[at]), known))
        return called.decode_result(Packed(answered.results[at], beside.get(at, ())))

    return [result(at) for at in range(max([len(answered.results), *(n + 1 for n in errors)]))]


def _raised(error: AmnodeError, known: Known) -> Exception:
    return as_raised(error, known) if isinstance(error, JobFailed) else error
