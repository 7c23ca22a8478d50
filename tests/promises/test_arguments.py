"""What a call sends is checked before the job runs, and what goes wrong with it is a clear
error at whoever sent it: arguments that do not fit, or that cannot be sent, results
likewise, exceptions of any kind. The lease is as usable as before, and nobody else is
disturbed.
"""

from __future__ import annotations

import pytest

from amnode import (
    DeliveryError,
    JobArgumentsError,
    JobError,
    JobFailed,
    JobUnknownError,
    job,
)
from amnode.rpc.options import RpcOptions
from tests.promises.pools import client_of, pool
from tests.promises.workers import Plain, Point


async def test_arguments_that_do_not_fit_are_refused_before_the_job_runs() -> None:
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        with pytest.raises(JobArgumentsError, match="argument `n`"):
            await worker.call(Plain.square, "seven")
        with pytest.raises(JobArgumentsError, match="argument `b`"):
            await worker.call(Plain.add, 1, b=1.5)
        with pytest.raises(JobArgumentsError, match="argument `point`"):
            await worker.call(Plain.norm, {"y": 1})
        for args, kwargs in (((), {}), ((1, 2), {}), ((1,), {"n": 1}), ((), {"m": 1})):
            with pytest.raises(JobArgumentsError, match="square"):
                await worker.call(Plain.square, *args, **kwargs)
        with pytest.raises(JobArgumentsError, match="square"):
            await worker.call(Plain.square, 2**70)
        assert await worker.call(Plain.count_of_runs) == 0
        assert await worker.call(Plain.add, 1) == 2
        assert await worker.call(Plain.add, b=3, a=1) == 4
        assert await worker.call(Plain.norm, Point(-3, 4)) == 7


async def test_an_argument_that_cannot_be_sent_is_named() -> None:
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        with pytest.raises(JobArgumentsError, match="Argument n of square"):
            await worker.call(Plain.square, object())
        loop: list[object] = []
        loop.append(loop)
        with pytest.raises(JobArgumentsError, match="square"):
            await worker.call(Plain.square, loop)
        assert await worker.call(Plain.square, 7) == 49


async def test_a_result_that_cannot_be_sent_is_the_jobs_failure() -> None:
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        with pytest.raises(JobFailed, match="result of unencodable"):
            await worker.call(Plain.unencodable)
        assert await worker.call(Plain.square, 7) == 49


async def test_an_exception_of_the_job_comes_with_its_traceback() -> None:
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        with pytest.raises(JobFailed, match="OddError: no luck") as caught:
            await worker.call(Plain.fail, "no luck")
        error = caught.value
        assert error.error_type == "OddError"
        assert "raise OddError(text)" in error.traceback
        assert "workers.py" in error.__notes__[0]
        await worker.machine.when1("ErrWork")
        assert await worker.call(Plain.square, 7) == 49
        assert worker.machine.not1("ErrWork")


async def test_an_unknown_job_is_refused_with_those_that_there_are() -> None:
    @job
    async def cube(self: object, n: int) -> int:
        return n**3

    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        with pytest.raises(JobUnknownError, match=r"no job 'cube'.*square"):
            await worker.call(cube, 3)
        assert await worker.call(Plain.square, 7) == 49


async def test_what_is_too_large_is_refused_and_the_lease_goes_on() -> None:
    limit = RpcOptions().frame_limit
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        assert await worker.call(Plain.length, bytes(limit // 2)) == limit // 2
        with pytest.raises((DeliveryError, JobArgumentsError), match=f"{limit}|too large"):
            await worker.call(Plain.length, bytes(limit + 1))
        assert await worker.call(Plain.count_of_runs) == 1
        assert len(await worker.call(Plain.zeros, limit // 2)) == limit // 2
        with pytest.raises((DeliveryError, JobError), match=f"{limit}|too large"):
            await worker.call(Plain.zeros, limit + 1)
        assert await worker.call(Plain.square, 7) == 49
