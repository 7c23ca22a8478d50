"""Ctrl-C ends a program that runs a pool, and everything that the pool started: once, by an
orderly stop; twice, at once. Nothing remains, no process and no file.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.promises.pools import gone, program


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("lease", [False, True])
async def test_nothing_remains(times: int, lease: bool) -> None:
    async with program("supervisor", size=2, lease=lease) as victim:
        told = await victim.said()
        for _ in range(times):
            os.kill(victim.pid, signal.SIGINT)
        code = await victim.ended()
        errors = await victim.errors()
        assert code != 0 and "KeyboardInterrupt" in errors
        assert "never awaited" not in errors
        assert "was destroyed but it is pending" not in errors
        for pid in told["pids"]:
            await gone(pid)
    if times == 1:
        assert not Path(told["address"].removeprefix("unix:")).parent.exists()
