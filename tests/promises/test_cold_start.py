"""A client does not wait for a process to start: a warm one is there before it asks, and
another is started in its place. What takes long to import is imported once, for all workers.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.promises.pools import client_of, pool
from tests.promises.slow_import import IMPORTED, Heavy
from tests.promises.workers import Plain


async def test_who_asks_gets_one_that_was_there_before() -> None:
    async with pool(2, warm=2, most=6) as supervisor, client_of(supervisor) as client:
        for _ in range(3):
            waiting = {row.id for row in await supervisor.workers() if row.condition == "idle"}
            worker = await client.req_worker()
            assert worker.id in waiting
            await supervisor.until(
                lambda view: view.counts.total == max(2, view.counts.leased) + 2
            )
            await supervisor.until(lambda view: view.counts.idle >= 2)  # for whoever comes next


async def test_what_is_slow_to_import_is_imported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "imports"
    monkeypatch.setenv(IMPORTED, str(journal))
    async with pool(3, Heavy) as supervisor, client_of(supervisor, kind=Heavy) as client:
        supervisor.set_pool(6, 6, 0)
        await supervisor.all_idle(6)
        pids: set[int] = set()
        for _ in range(6):
            worker = await client.req_worker()
            pids.add(await worker.call(Plain.pid))
        assert len(pids) == 6
        (importer,) = journal.read_text().split()
        assert int(importer) not in pids
