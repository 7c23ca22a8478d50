"""A worker has one client at a time. Many clients, each with many tasks, take hundreds of
leases of few workers; what the workers themselves wrote down shows that no two of them ever
overlapped, that epochs grow, and that who asked first was served first.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests.promises.pools import client_of, pool
from tests.promises.workers import Plain

CLIENTS, TASKS, LEASES = 4, 5, 26  # 520 leases


@dataclass(frozen=True)
class Record:
    worker: str
    epoch: int
    client: str
    start: int
    end: int


def read(journal: Path) -> dict[str, list[Record]]:
    by_worker: dict[str, list[Record]] = defaultdict(list)
    for line in journal.read_text().splitlines():
        worker, epoch, client, start, end = line.split()
        by_worker[worker].append(Record(worker, int(epoch), client, int(start), int(end)))
    return by_worker


async def test_two_clients_are_never_on_one_worker(tmp_path: Path) -> None:
    journal = tmp_path / "journal"

    async def use(name: str, client) -> None:
        for _ in range(LEASES):
            async with client.lease() as worker:
                for _ in range(2):
                    epoch = await worker.call(Plain.stamp, str(journal), name)
                    assert epoch == worker.epoch

    async with pool(3) as supervisor:
        clients = [client_of(supervisor, f"c{n}") for n in range(CLIENTS)]
        for client in clients:
            client.start()
        await asyncio.gather(
            *(
                use(f"{client.name}-{task}", client)
                for client in clients
                for task in range(TASKS)
            )
        )
        for client in clients:
            await client.dispose()
        await supervisor.all_idle(3)

    records = read(journal)
    assert sum(map(len, records.values())) == 2 * CLIENTS * TASKS * LEASES
    assert len(records) == 3
    for served in records.values():
        for one, next_ in itertools.pairwise(served):
            assert one.end <= next_.start, "two jobs at once (S2)"
            if one.epoch == next_.epoch:
                assert one.client == next_.client, "two clients in one epoch (S1)"
            else:
                assert one.epoch < next_.epoch, "an epoch fell (S3)"
                assert next_.epoch % 2 == 1


async def test_who_asks_first_is_served_first() -> None:
    async with pool() as supervisor, client_of(supervisor) as client:
        served: list[int] = []

        async def ask(number: int) -> None:
            async with client.lease() as worker:
                served.append(number)
                await worker.call(Plain.square, number)

        async with client.lease():
            tasks: list[asyncio.Task[None]] = []
            for number in range(20):
                tasks.append(asyncio.create_task(ask(number)))
                await supervisor.until(lambda view: view.counts.waiting == len(tasks))
        await asyncio.gather(*tasks)
        assert served == list(range(20))
