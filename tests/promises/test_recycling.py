"""Workers that are replaced after so many jobs never bring the pool to a stand: each of many
callers who wait gets its turn, however small the pool is, and whichever workers go.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.promises.pools import client_of, pool
from tests.promises.workers import Cleaned, Plain

CALLERS = 24


@pytest.mark.parametrize(("size", "most"), [(1, 1), (2, 2), (1, 3)])
async def test_every_caller_gets_its_turn(size: int, most: int) -> None:
    async with (
        pool(size, Cleaned, most=most, max_jobs=1, renew_jitter=0.0) as supervisor,
        client_of(supervisor, kind=Cleaned) as client,
    ):

        async def call(n: int) -> tuple[int, str]:
            async with client.lease() as worker:
                return await worker.call(Plain.square, n), worker.id

        answers = await asyncio.gather(*(call(n) for n in range(CALLERS)))

        assert [square for square, _ in answers] == [n * n for n in range(CALLERS)]
        assert len({worker for _, worker in answers}) == CALLERS, "one job each"
        assert supervisor.machine.err is None


async def test_some_that_are_replaced_and_some_that_are_killed() -> None:
    async with (
        pool(2, Cleaned, max_jobs=2, renew_jitter=0.0, restart_intensity=100) as supervisor,
        client_of(supervisor, kind=Cleaned) as client,
    ):

        async def call(n: int) -> int:
            async with client.lease() as worker:
                if n % 3:
                    return await worker.call(Plain.square, n)
                with pytest.raises(Exception, match="SIGKILL"):
                    await worker.call(Plain.die, "SIGKILL")
                return n * n

        answers = await asyncio.gather(*(call(n) for n in range(CALLERS)))
        assert answers == [n * n for n in range(CALLERS)]
