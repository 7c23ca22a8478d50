"""A worker is a machine: what its author adds as states, its client sees live, and may
change where the class opens it. Work may be asked for by the plain states, without a job,
and be answered by a payload.
"""

from __future__ import annotations

import msgspec
import pytest

from amnode import RefusedError
from amnode.rpc.client import PayloadArgs
from tests.promises.pools import client_of, pool
from tests.promises.workers import Ticker, TickerStates, Told

S = TickerStates


async def test_work_by_the_plain_states_and_a_payload_as_its_answer() -> None:
    async with (
        pool(kind=Ticker) as supervisor,
        client_of(supervisor, kind=Ticker) as client,
        client.lease() as worker,
    ):
        heard: list[PayloadArgs] = []

        class Listener:
            def ServerPayloadState(self, event: object) -> None:
                heard.append(event.args)  # type: ignore[attr-defined]

        client.machine.bind(Listener())
        payload = client.machine.when_time(
            ("ServerPayload",), (client.machine.tick("ServerPayload") + 2,)
        )
        ready = worker.machine.when_time((S.WorkReady,), (1,))
        assert await worker.machine.add1(S.WorkRequested)
        await ready
        await payload
        told = [args for args in heard if args.name == "Told"]
        assert msgspec.msgpack.decode(told[0].data, type=Told) == Told(text="ticked")
        await worker.machine.when1(S.Idle)
        assert await worker.call(Ticker.ticks) == 1


async def test_what_the_class_opens_its_client_may_change() -> None:
    async with (
        pool(kind=Ticker) as supervisor,
        client_of(supervisor, kind=Ticker) as client,
        client.lease() as worker,
    ):
        assert await worker.machine.add1(S.Paused)
        assert worker.machine.is1(S.Paused)
        assert await worker.machine.remove1(S.Paused)
        with pytest.raises(RefusedError, match="closed"):
            await worker.machine.add1(S.Closed)
