"""The plain state interface beside the jobs: a client adds `WorkRequested` with arguments of
the author's own, the worker's handler works and sends a payload, the client's handler has it;
and the same worker has jobs.
"""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from amnode import Client, Event, OptionError, ProtocolError, RefusedError, Worker
from amnode.rpc.client import PayloadArgs
from tests.promises.job_workers import Kitchen, Meal, Order
from tests.promises.pools import PATIENCE, client_of, pool


class Guest(Client):
    """A client with a handler of its own for what comes."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.served: asyncio.Queue[PayloadArgs] = asyncio.Queue()

    def ServerPayloadState(self, event: Event) -> None:
        super().ServerPayloadState(event)
        if event.args.name == "Meal":  # the supervisor's come here too
            self.served.put_nowait(event.args)


async def test_both_views_of_work_are_there_on_one_worker() -> None:
    async with (
        pool(kind=Kitchen) as supervisor,
        Guest("guest", Kitchen, addrs=[supervisor.address], token=supervisor.token) as client,
        client.lease() as worker,
    ):
        for count in (1, 2):
            assert await worker.call(Kitchen.square, 7) == 49
            await worker.machine.when1("Idle")
            assert await worker.machine.add1("WorkRequested", Order("soup", count))
            async with asyncio.timeout(PATIENCE):
                payload = await client.served.get()
            assert payload.name == "Meal"
            meal = msgspec.msgpack.decode(payload.data, type=Meal)
            assert meal.dishes == ["soup"] * count
        assert await worker.call(Kitchen.square, 3) == 9
        assert client.served.empty()


async def test_a_call_and_plain_work_wait_for_each_other() -> None:
    async with (
        pool(kind=Kitchen) as supervisor,
        Guest("guest", Kitchen, addrs=[supervisor.address], token=supervisor.token) as client,
        client.lease() as worker,
    ):
        orders = [worker.machine.add1("WorkRequested", Order(str(n))) for n in range(3)]
        calls = [asyncio.ensure_future(worker.call(Kitchen.square, n)) for n in range(3)]
        assert [await call for call in calls] == [0, 1, 4]
        ran = 0
        for order in orders:
            try:
                ran += bool(await order)
            except RefusedError as error:
                assert "busy" in str(error) or "being started" in str(error)
        assert ran >= 1
        async with asyncio.timeout(PATIENCE):
            for _ in range(ran):
                assert (await client.served.get()).name == "Meal"


async def test_what_is_neither_is_refused_with_what_would_be() -> None:
    class Other(msgspec.Struct):
        plate: int

    async with (
        pool(kind=Kitchen) as supervisor,
        client_of(supervisor, kind=Kitchen) as client,
        client.lease() as worker,
    ):
        with pytest.raises(ProtocolError, match="WorkArgs or Order"):
            await worker.machine.add1("WorkRequested", Other(7))
        assert await worker.call(Kitchen.square, 3) == 9


def test_arguments_that_cannot_be_told_from_those_of_a_call_are_refused() -> None:
    class Row(msgspec.Struct, array_like=True):
        dish: str

    for wrong in (Row, dict, 7):
        with pytest.raises(OptionError, match="not array_like"):
            type("Confusing", (Worker,), {"work_args": wrong})
