"""What a pool does can be seen, at any moment: which workers there are, who holds which since
when, who waits, why the pool is not growing, and what each worker is doing.
"""

from __future__ import annotations

import asyncio

from tests.promises.pools import client_of, is_alive, pool
from tests.promises.workers import BusyStates, Plain


async def test_who_has_which_worker_and_who_waits() -> None:
    async with (
        pool(2, max_per_client=1) as supervisor,
        client_of(supervisor, "ann") as ann,
        client_of(supervisor, "bob") as bob,
        client_of(supervisor, "cy") as cy,
    ):
        hers, his = await ann.req_worker(), await bob.req_worker()
        rows = {row.id: row for row in await supervisor.workers()}
        assert {row.client: row.id for row in rows.values()} == {"ann": hers.id, "bob": his.id}
        assert rows[hers.id].epoch == hers.epoch and rows[hers.id].condition == "leased"
        assert all(row.age >= row.leased_for >= 0.0 for row in rows.values())
        assert all(is_alive(row.pid) and row.memory > 0 for row in rows.values())

        asked = asyncio.create_task(cy.req_worker())
        await supervisor.until(lambda view: view.counts.waiting == 1)
        assert supervisor.view().why_not_growing == "there are 2 workers, of at most 2"
        again = asyncio.create_task(bob.req_worker())
        await supervisor.until(lambda view: view.counts.waiting == 2)

        await hers.release()
        worker = await asked
        assert worker.id == hers.id
        why = supervisor.view().why_not_growing
        assert why == "who waits has 1 workers already, as many as one may"
        await his.release()
        assert await (await again).call(Plain.square, 7) == 49


async def test_what_a_worker_does_is_followed_from_its_supervisor_and_its_client() -> None:
    async with pool(1) as supervisor, client_of(supervisor) as client:
        available = supervisor.machine.is1("WorkersAvailable")
        async with client.lease() as worker:
            assert available and supervisor.machine.not1("WorkersAvailable")
            call = asyncio.create_task(worker.call(Plain.last))
            await worker.machine.when(("Working", BusyStates.Begun))
            assert worker.machine.is1("Leased") and worker.machine.not1("Idle")
            call.cancel()
            await worker.machine.when1("Idle")
        await supervisor.machine.when1("WorkersAvailable")
