"""How a worker comes up, step by step, and how it fails to."""

from __future__ import annotations

import pytest

from amnode.errors import Cause
from amnode.node.policy import events as ev
from amnode.node.policy.options import PoolSize
from amnode.node.policy.roster import Condition
from tests.unit.node.pool_driver import Driver
from tests.unit.node.pool_world import Facts


def test_workers_are_started_side_by_side() -> None:
    driver = Driver(PoolSize(2, 9, 3))
    assert driver.feed(ev.Tick()) == [ev.Spawn(f"w{n}", n) for n in range(1, 6)]
    view = driver.core.view(0.0)
    assert view.pool_starting and view.normalizing and not view.pool_ready
    assert view.why_not_growing == "5 workers are starting"
    assert view.counts.total == 5 and view.counts.target == 5


def test_starts_in_a_slower_way_say_why(pool: Driver) -> None:
    assert pool.core.view(0.0).fallback == ""
    pool.feed(ev.Started("w1", 1, "there are threads"))
    view = pool.core.view(0.0)
    assert view.fallback == "there are threads"
    assert view.why_not_growing.endswith("starting, by command, because there are threads")


def test_a_start_step_by_step(pool: Driver) -> None:
    assert pool.feed(ev.Started("w1", 1)) == []
    assert pool.feed(ev.CalledBack("w1", "unix:x")) == [ev.Connect("w1", "unix:x")]
    assert pool.feed(ev.CalledBack("w1", "unix:evil")) == []
    pool.feed(ev.Connected("w1"), ev.ReadyChanged("w1", True))
    assert pool.condition("w1") is Condition.STARTING  # it has not told about itself
    pool.feed(pool.info("w1", 0))
    assert pool.condition("w1") is Condition.IDLE
    view = pool.core.view(pool.now)
    assert view.pool_ready and view.workers_available and view.normalized
    assert not view.pool_starting and view.why_not_growing == ""


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([ev.Started("w1", 1)], "call back"),
        ([ev.Started("w1", 1), ev.CalledBack("w1", "x")], "accept a connection"),
        (
            [ev.Started("w1", 1), ev.CalledBack("w1", "x"), ev.Connected("w1")],
            "become ready",
        ),
    ],
)
def test_a_start_that_takes_too_long_is_ended(
    pool: Driver, events: list[ev.Event], why: str
) -> None:
    pool.feed(*events)
    pool.wait(5.0)
    assert pool.one(ev.Kill) == ev.Kill("w1", f"it did not {why} within 5 s")
    pool.feed(ev.Exited("w1", Facts(1, signal="SIGKILL")))
    forgotten = pool.one(ev.Forget)
    assert forgotten.failed_start and forgotten.report is not None
    assert forgotten.report.cause == Cause.START_TIMEOUT
    assert pool.one(ev.Spawn).worker_id == "w2"


def test_a_worker_that_refuses_its_supervisor_is_ended(pool: Driver) -> None:
    pool.feed(ev.Started("w1", 1), ev.CalledBack("w1", "x"))
    pool.feed(ev.ConnectFailed("w1", "wrong secret"))
    assert "wrong secret" in pool.one(ev.Kill).reason


def test_a_connection_lost_at_start_is_a_failed_start(pool: Driver) -> None:
    pool.feed(ev.Started("w1", 1), ev.CalledBack("w1", "x"), ev.Connected("w1"))
    pool.feed(ev.ConnectionLost("w1"))
    assert "closed" in pool.one(ev.Kill).reason


@pytest.mark.parametrize("wrong", [{"kind": "z"}, {"schema_hash": "z"}])
def test_a_worker_of_another_kind_or_schema_is_ended(
    pool: Driver, wrong: dict[str, str]
) -> None:
    pool.feed(ev.Started("w1", 1), ev.CalledBack("w1", "x"), ev.Connected("w1"))
    pool.feed(pool.info("w1", 0, **wrong))
    assert "'z'" in pool.one(ev.Kill).reason


def test_a_process_that_cannot_be_started_is_tried_again_after_a_pause(pool: Driver) -> None:
    pool.feed(ev.SpawnFailed("w1", "EAGAIN"))
    assert pool.one(ev.Forget) == ev.Forget("w1", None, False, True)
    assert "no start for 5.0 s, because EAGAIN" in pool.core.view(0.0).why_not_growing
    assert pool.none(ev.Spawn)
    pool.wait(5.0)
    assert pool.one(ev.Spawn).worker_id == "w2"


def test_a_crash_loop_opens_the_breaker_which_says_why() -> None:
    driver = Driver(restart_intensity=2, restart_period=3.0)
    driver.feed(ev.Tick())
    for n in (1, 2):
        driver.feed(ev.Started(f"w{n}", n))
        driver.feed(ev.Exited(f"w{n}", Facts(n, exit_code=1), ("ImportError: x",)))
    view = driver.core.view(0.0)
    assert driver.none(ev.Spawn)
    assert view.normalizing and "ImportError: x" in view.broken
    assert view.why_not_growing.startswith("no start for 1.0 s, because 2 starts failed")
    driver.ask(time_left=0.5)
    driver.wait(0.5)
    assert "ImportError: x" in driver.one(ev.SendDenied).reason
    driver.wait(0.5)
    assert driver.one(ev.Spawn).worker_id == "w3"
    assert "one start is being tried" in driver.core.view(1.0).why_not_growing
    driver.up("w3")
    assert not driver.core.view(1.0).broken


@pytest.mark.parametrize("settle", [0.0, 5.0])
def test_one_that_is_ready_and_never_tells_of_itself_is_a_failed_start(settle: float) -> None:
    driver = Driver(restart_intensity=2, restart_period=100.0, restart_settle=settle)
    driver.feed(ev.Tick())
    for n in (1, 2):
        worker = f"w{n}"
        driver.feed(ev.Started(worker, n), ev.CalledBack(worker, "x"))
        driver.feed(ev.Connected(worker), ev.ReadyChanged(worker, True))
        assert not driver.core.view(driver.now).pool_ready
        driver.wait(5.0)
        assert driver.one(ev.Kill).worker_id == worker
        driver.feed(ev.Exited(worker, Facts(n, signal="SIGKILL")))
        assert driver.one(ev.Forget).failed_start
    assert driver.none(ev.Spawn)
    assert driver.core.view(driver.now).broken


def test_restarts_within_the_period_are_bounded_without_a_breaker() -> None:
    driver = Driver(PoolSize(1, 9, 0, 9), restart_intensity=2, restart_period=3.0)
    driver.feed(ev.Tick())
    driver.feed(ev.Started("w1", 1), ev.Exited("w1", Facts(1, exit_code=1)))
    driver.up("w2")
    for n in range(4):
        driver.ask(f"r{n}")
    driver.up("w3")
    assert (
        driver.core.view(0.0).why_not_growing == "no start for 3.0 s, as too many have failed"
    )
    driver.wait(3.0)
    assert not driver.none(ev.Spawn)


def test_a_start_has_a_time_of_its_own(pool: Driver) -> None:
    driver = Driver(start_timeout=30.0, conn_timeout=1.0, check_timeout=1.0)
    driver.feed(ev.Tick(), ev.Started("w1", 1))
    driver.wait(29.0)
    assert driver.none(ev.Kill)
    driver.feed(ev.CalledBack("w1", "x"))  # the time is for all of the start
    driver.wait(1.0)
    assert driver.one(ev.Kill).reason == "it did not accept a connection within 30 s"
