"""A lease that nobody releases is reported once, by the client with the place where it was
taken, and by the supervisor with the client's name. One that is released in time is not.
"""

from __future__ import annotations

import asyncio
import logging

import pytest

from amnode import Client, ClientOptions
from amnode.node.leased import LeasedWorker
from tests.promises.pools import PATIENCE, client_of, pool
from tests.promises.workers import Plain


class Reports(logging.Handler):
    """What the log is told, to be waited for."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.said.put_nowait(record.getMessage())

    async def next(self) -> str:
        async with asyncio.timeout(PATIENCE):
            return await self.said.get()

    def __enter__(self) -> Reports:
        logging.getLogger("amnode.node").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("amnode.node").removeHandler(self)


async def _forgetful(client: Client) -> LeasedWorker:
    return await client.req_worker()


@pytest.mark.parametrize("trace", [True, False])
async def test_the_client_says_where_it_was_taken(trace: bool) -> None:
    async with pool(1) as supervisor:
        opts = ClientOptions(leak_after=0.05)
        addrs, token = [supervisor.address], supervisor.token
        client = Client("me", Plain, addrs=addrs, token=token, opts=opts, trace_leases=trace)
        with Reports() as reports:
            async with client:
                worker = await _forgetful(client)
                said = await reports.next()
                assert f"Client me has held worker {worker.id}" in said
                assert ("test_leaks.py" in said and "_forgetful" in said) == trace
                assert ("trace_leases" in said) != trace
                await worker.release()
            assert reports.said.empty()


async def test_the_supervisor_says_who_has_it() -> None:
    async with pool(1, leak_after=0.05) as supervisor, client_of(supervisor) as client:
        with Reports() as reports:
            async with client.lease() as worker:
                said = await reports.next()
                assert f"Client me has had worker {worker.id}" in said
            assert reports.said.empty()


async def test_a_lease_that_ends_in_time_is_not_reported() -> None:
    async with pool(1, leak_after=PATIENCE) as supervisor:
        client = client_of(supervisor, leak_after=PATIENCE)
        with Reports() as reports:
            async with client, client.lease() as worker:
                await worker.call(Plain.square, 7)
            async with client_of(supervisor) as other, other.lease() as worker:
                await worker.call(Plain.square, 7)
            assert reports.said.empty()
            assert not client._watch._timers
