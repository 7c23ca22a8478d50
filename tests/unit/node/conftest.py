"""Pools at the point where most tests begin."""

from __future__ import annotations

import pytest

from amnode.node.policy import events as ev
from tests.unit.node.pool_driver import Driver


@pytest.fixture
def pool() -> Driver:
    driver = Driver()
    driver.feed(ev.Tick())
    return driver


@pytest.fixture
def idle(pool: Driver) -> Driver:
    pool.up()
    return pool


@pytest.fixture
def granted(idle: Driver) -> Driver:
    idle.ask()
    idle.feed(ev.ServeAnswered("w1", 1, True))
    return idle
