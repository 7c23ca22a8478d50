"""What a call sends is checked before the job runs, and what goes wrong with it is a clear
error at whoever sent it: arguments that do not fit, or that cannot be sent, results
likewise, exceptions of any kind. The lease is as usable as before, and nobody else is
disturbed.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from amnode import (
    JobArgumentsError,
    JobFailed,
    JobUnknownError,
    OptionError,
    job,
)
from amnode.rpc.options import RpcOptions
from tests.promises.pools import PATIENCE, client_of, pool
from tests.promises.workers import ODD, Plain, Point, nested


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


async def test_whatever_a_job_raises_is_its_failure_and_its_worker_goes_on() -> None:
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        for how, made in ODD.items():
            with pytest.raises(JobFailed) as caught:
                async with asyncio.timeout(PATIENCE):
                    await worker.call(Plain.fail_oddly, how)
            assert caught.value.error_type == type(made()).__name__, how
            assert "fail_oddly" in str(caught.value), how
            assert await worker.call(Plain.square, 7) == 49
        assert len(str(caught.value)) < RpcOptions().frame_limit // 2


@pytest.mark.parametrize(
    "name", ["ConnectionLost", "LeaseLost", "WorkerError", "RefusedError", "JobTimeoutError"]
)
async def test_an_error_of_amnode_out_of_a_job_is_the_jobs_failure(name: str) -> None:
    # Who took it for the loss of the worker would wait for the supervisor's word on that.
    async with (
        pool() as supervisor,
        client_of(supervisor, delivery_timeout=1000.0) as client,
        client.lease() as worker,
    ):
        with pytest.raises(JobFailed, match="made by the job") as caught:
            async with asyncio.timeout(PATIENCE):
                await worker.call(Plain.fail_as_amnode_does, name)
        assert caught.value.error_type == name
        assert await worker.call(Plain.square, 7) == 49


async def test_what_is_nested_too_deep_is_an_error_of_whoever_sent_it() -> None:
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        with pytest.raises(JobArgumentsError, match="echo"):
            await worker.call(Plain.echo, nested(100_000))
        assert await worker.call(Plain.count_of_runs) == 0
        with pytest.raises(JobFailed, match="nested"):
            await worker.call(Plain.nested, 100_000)
        assert await worker.call(Plain.echo, nested(50)) == nested(50)
        assert await worker.call(Plain.nested, 50) == nested(50)


def deepest() -> int:
    """How deep a list may be nested that can still be encoded here."""
    least, most = 50, 100_000
    while most - least > 1:
        middle = (least + most) // 2
        try:
            msgspec.msgpack.encode(nested(middle))
            least = middle
        except RecursionError:
            most = middle
    return least


async def test_what_one_end_encodes_and_the_other_cannot_decode_costs_no_lease() -> None:
    """How deep is too deep depends on the stack of whoever encodes or decodes."""
    limit = deepest()
    async with (
        pool() as supervisor,
        client_of(supervisor, delivery_timeout=0.1) as client,
        client.lease() as worker,
    ):
        for depth in range(limit - 60, limit + 10):
            for call in (
                lambda depth: worker.call(Plain.echo, nested(depth)),
                lambda depth: worker.call(Plain.nested, depth),
            ):
                with suppress(JobArgumentsError, JobFailed):
                    await call(depth)
            assert await worker.call(Plain.square, 7) == 49, depth


async def test_what_is_no_job_is_refused_by_a_message_that_says_what_is() -> None:
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        wrong: Any
        for wrong in ("square", None, worker.call, Plain.square.function):
            with pytest.raises(OptionError, match=r"pass the job itself, such as \w+\.\w+"):
                await worker.call(wrong, 7)
            with pytest.raises(OptionError, match=r"pass the job itself, such as \w+\.\w+"):
                await worker.options(deadline=60.0).call(wrong, 7)
        assert await worker.call(Plain.square, 7) == 49


@pytest.mark.parametrize("wrong", ["1", math.nan, -1, -0.5, True, b"1", math.inf])
async def test_a_time_that_is_none_is_refused(wrong: Any) -> None:
    async with pool() as supervisor, client_of(supervisor) as client:
        with pytest.raises(OptionError, match=r"timeout is .*a number of seconds"):
            async with client.lease(timeout=wrong):
                pass
        with pytest.raises(OptionError, match=r"timeout is .*a number of seconds"):
            await client.req_worker(timeout=wrong)
        assert client.machine.not1("WorkerRequested")
        async with client.lease() as worker:
            for deadline in (wrong, 0, 0.0):
                with pytest.raises(OptionError, match=r"deadline is .*a number of seconds"):
                    worker.options(deadline=deadline)
            assert await worker.options(deadline=None).call(Plain.square, 7) == 49


async def test_an_unknown_job_is_refused_with_those_that_there_are() -> None:
    @job
    async def cube(self: object, n: int) -> int:
        return n**3

    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        with pytest.raises(JobUnknownError, match=r"no job 'cube'.*square"):
            await worker.call(cube, 3)
        assert await worker.call(Plain.square, 7) == 49


async def test_what_no_frame_takes_crosses_in_pieces() -> None:
    large = 2 * RpcOptions().frame_limit
    async with pool() as supervisor, client_of(supervisor) as client, client.lease() as worker:
        assert await worker.call(Plain.length, bytes(large)) == large
        assert await worker.call(Plain.zeros, large) == bytes(large)
        assert await worker.call(Plain.square, 7) == 49
