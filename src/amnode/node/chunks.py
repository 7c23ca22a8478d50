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
from collections.abc import Sequence
from typing import Any

import msgspec

from amnode.errors import AmnodeError, ErrorData, from_data
from amnode.node.jobs import Job, job
from amnode.node.work import failed

#: Of the job that runs a chunk; no method can have this name.
CHUNK = "amnode.chunk"
#: Seconds that calls which never wait may keep the worker's loop; checks have to be answered.
TURN = 0.005


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """The calls of a chunk."""

    job: str
    stop: bool
    calls: list[bytes]


class Answered(msgspec.Struct, frozen=True, array_like=True):
    """Their results in order, nil for one that failed, and those errors by their index."""

    results: list[bytes]
    errors: dict[int, ErrorData]


@job
async def chunk(worker: Any, asked: Asked) -> Answered:
    """Runs the calls of a chunk; a job of every worker."""
    called = worker.job_named(asked.job)
    results: list[bytes] = []
    errors: dict[int, ErrorData] = {}
    now = asyncio.get_running_loop().time
    turn = now()
    for arguments in asked.calls:
        if now() - turn > TURN:
            await asyncio.sleep(0)
            turn = now()
        try:
            results.append(await _result(worker, called, arguments))
        except AmnodeError as error:
            errors[len(results)] = error.to_data()
            if asked.stop:
                break
            results.append(b"")
    return Answered(results, errors)


chunk.name = CHUNK


async def _result(worker: Any, called: Job[..., Any], arguments: bytes) -> bytes:
    call = called.bind(worker, called.decode(arguments))
    try:
        value = await call()
    except (asyncio.CancelledError, SystemExit, KeyboardInterrupt):
        raise  # they end the chunk, or the process
    except BaseException as error:
        raise failed(called.name, error) from None
    return called.encode_result(value)


# -- the caller's side ---------------------------------------------------------------------


def ask(called: Job[..., Any], calls: Sequence[tuple[Any, ...]], *, stop: bool) -> Asked:
    """A chunk of these calls.

    Raises:
        JobArgumentsError: arguments that cannot be encoded, or too few or too many.
    """
    return Asked(called.name, stop, [called.encode(arguments, {}) for arguments in calls])


class Failed:
    """Stands among the results for a call that failed."""

    __slots__ = ("error",)

    def __init__(self, error: AmnodeError) -> None:
        self.error = error


def results(called: Job[..., Any], answered: Answered) -> list[Any]:
    """What came of the calls, in order; `Failed` for one that failed.

    After a chunk that was to stop, the last one is the failure, if there is one.
    """
    decode, errors = called.decode_result, answered.errors
    if not errors:
        return [decode(data) for data in answered.results]
    count = max(len(answered.results), max(errors) + 1)
    return [
        Failed(from_data(errors[at])) if at in errors else decode(answered.results[at])
        for at in range(count)
    ]
