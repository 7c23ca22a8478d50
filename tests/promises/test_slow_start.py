"""A start has a time of its own: a worker whose program needs long to come up does come up,
however soon a hang is found.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from amnode import PoolError
from tests.promises.pools import WatchedSupervisor, client_of, short
from tests.promises.workers import Gated

QUICK = {"conn_timeout": 0.3, "check_timeout": 0.3, "heartbeat": 0.05}


async def test_a_slow_start_comes_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    monkeypatch.setenv("AMNODE_TEST_GATE", str(fifo))
    gate = os.open(fifo, os.O_RDWR)
    try:
        async with WatchedSupervisor(Gated, opts=short(1, **QUICK)) as supervisor:
            await supervisor.machine.when_time(("Heartbeat",), (40,))  # 20 beats are a second
            assert supervisor.view().counts.starting == 1
            os.write(gate, b"x")
            await supervisor.all_idle(1)
            async with client_of(supervisor, kind=Gated) as client, client.lease() as worker:
                assert await worker.call(Gated.square, 7) == 49
            assert supervisor.machine.err is None
    finally:
        os.close(gate)


async def test_a_start_that_never_ends_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    monkeypatch.setenv("AMNODE_TEST_GATE", str(fifo))
    # By command: the imports before a fork have to be done in that time, too.
    opts = short(1, restart_intensity=1, start_timeout=0.5)
    async with WatchedSupervisor(Gated, opts=opts, launcher="command") as supervisor:
        with pytest.raises(PoolError, match=r"did not call back within 0\.5 s"):
            await supervisor.when_ready()
