"""The pool as a whole, case by case; the walks have what follows from many events."""

from __future__ import annotations

import sys
from typing import Any

from amnode.node.policy import events as ev
from amnode.node.policy.options import PoolSize
from amnode.node.policy.roster import Condition
from tests.unit.node.pool_driver import Driver
from tests.unit.node.pool_world import Facts


def test_a_stop_retires_the_idle_and_gives_leases_their_grace() -> None:
    driver = Driver(PoolSize(2, 4, 1, 1))
    driver.feed(ev.Tick())
    driver.up("w1")
    driver.up("w2")
    driver.ask("r1")
    served = driver.one(ev.Serve).worker_id
    driver.ask("r2")
    driver.feed(ev.ServeAnswered(served, 1, True))
    idle = "w1" if served == "w2" else "w2"
    driver.feed(ev.StopRequested())
    assert driver.one(ev.SendDenied).request_id == "r2"
    assert driver.one(ev.Retire).worker_id == idle
    assert driver.one(ev.Terminate).worker_id == "w3" if not driver.none(ev.Terminate) else True
    view = driver.core.view(0.0)
    assert view.stopping and view.normalized and not view.pool_ready and not view.pool_starting
    assert view.why_not_growing == "the pool is stopping"
    driver.ask("r3")
    assert "stopping" in driver.one(ev.SendDenied).reason
    driver.feed(ev.RetireAnswered(idle, True), ev.Exited(idle, Facts(1, exit_code=0)))
    driver.feed(ev.Started("w3", 3))
    assert driver.one(ev.Kill).worker_id == "w3"
    driver.feed(ev.Exited("w3", Facts(3, signal="SIGKILL")))
    driver.wait(5.0)
    assert driver.one(ev.Terminate).worker_id == served
    driver.feed(driver.info(served, 2))  # being ended: what it says counts no more
    driver.feed(ev.Exited(served, Facts(2, signal="SIGTERM")))
    assert driver.one(ev.SendCrash).report.signal == "SIGTERM"
    assert driver.one(ev.Stopped) == ev.Stopped()
    assert driver.core.view(driver.now).stopped
    assert driver.core.next_deadline() is None
    assert driver.feed(ev.Tick()) == []


def test_a_lease_that_ends_in_the_grace_is_retired(granted: Driver) -> None:
    granted.feed(ev.StopRequested())
    assert granted.done == []
    granted.feed(granted.info("w1", 2))
    assert granted.one(ev.Retire).reason == "the pool is stopping"


def test_a_second_stop_shortens_the_grace(granted: Driver) -> None:
    granted.feed(ev.StopRequested(9.0), ev.StopRequested(99.0))
    assert granted.none(ev.Terminate)
    granted.feed(ev.StopRequested(0.0))
    assert granted.one(ev.Terminate).worker_id == "w1"
    assert granted.feed(ev.StopRequested(0.0)) == []


def test_a_request_that_is_being_served_is_denied_at_a_stop(idle: Driver) -> None:
    idle.ask()
    idle.feed(ev.StopRequested())
    assert idle.one(ev.SendDenied).request_id == "r1"
    assert idle.feed(ev.ServeAnswered("w1", 1, True)) == [ev.Withdraw("w1", 1)]


def test_a_refusal_after_the_grace_of_a_stop(idle: Driver) -> None:
    idle.ask()
    idle.feed(ev.StopRequested(0.0))
    idle.feed(ev.ServeAnswered("w1", 1, False))
    assert idle.condition("w1") is Condition.DYING


def test_a_stop_before_the_first_process(pool: Driver) -> None:
    pool.feed(ev.StopRequested())
    assert pool.done == []
    pool.feed(ev.SpawnFailed("w1", "EAGAIN"))
    assert pool.one(ev.Stopped) == ev.Stopped()


def test_a_stop_leaves_alone_what_is_ending_already() -> None:
    driver = Driver(PoolSize(2, 2, 0))
    driver.feed(ev.Tick())
    driver.up("w1")
    driver.up("w2")
    driver.feed(*[ev.ErrorSeen("w1", "odd")] * 3, ev.RetireAnswered("w1", True))
    driver.feed(ev.StopRequested(1.0))
    assert driver.one(ev.Retire).worker_id == "w2"
    driver.wait(1.0)
    assert driver.one(ev.Terminate).worker_id == "w2"


def test_an_empty_pool_stops_at_once() -> None:
    driver = Driver(PoolSize(0, 1, 0))
    driver.feed(ev.Tick())
    assert driver.core.view(0.0).pool_ready
    assert driver.feed(ev.StopRequested()) == [ev.Stopped()]


def test_time_never_falls(idle: Driver) -> None:
    idle.now = 5.0
    idle.feed(ev.ErrorSeen("w1", "odd"))
    idle.now = 1.0
    idle.ask(time_left=1.0)
    assert idle.core.next_deadline() is not None
    idle.now = 5.9
    assert idle.feed(ev.Tick()) == []
    idle.now = 6.0
    assert not [a for a in idle.feed(ev.Tick()) if not isinstance(a, ev.SendDenied)]
    assert idle.one(ev.SendDenied).timed_out


def test_before_the_first_event_nothing_was_started() -> None:
    driver = Driver()
    assert driver.core.next_deadline() is None
    assert driver.core.view(0.0).why_not_growing == "no worker has been started yet"


def test_a_breaker_closes_when_nothing_is_missing_any_more() -> None:
    driver = Driver(PoolSize(1, 9, 0, 9), restart_intensity=2)
    driver.feed(ev.Tick())
    driver.up("w1")
    for n in range(3):
        driver.ask(f"r{n}", time_left=0.5)
    driver.feed(ev.Exited("w2", Facts(2, exit_code=1)), ev.Exited("w3", Facts(3, exit_code=1)))
    assert driver.core.view(0.0).broken
    driver.wait(0.5)  # nobody waits any more
    assert not driver.core.view(0.5).broken and driver.core.view(0.5).normalized


def test_a_start_that_failed_is_replaced_when_its_process_is_gone(pool: Driver) -> None:
    pool.feed(ev.Started("w1", 1))
    pool.wait(5.0)
    assert not pool.none(ev.Kill) and pool.none(ev.Spawn)
    pool.feed(ev.Exited("w1", Facts(1, signal="SIGKILL")))
    assert not pool.none(ev.Spawn)


def test_a_request_costs_the_same_in_a_large_pool() -> None:
    def steps(workers: int) -> int:
        driver = Driver(PoolSize(workers, workers, 0))
        driver.core.handle(ev.Tick(), 0.0)
        for n in range(1, workers + 1):
            for event in (
                ev.Started(f"w{n}", n),
                ev.CalledBack(f"w{n}", "x"),
                ev.Connected(f"w{n}"),
                ev.ReadyChanged(f"w{n}", True),
                driver.info(f"w{n}", 0),
            ):
                driver.core.handle(event, 0.0)
        looked = 0

        def trace(*_: Any) -> Any:
            nonlocal looked
            looked += 1
            return trace

        request = ev.Requested(
            client_id="c",
            name="c",
            request_id="r",
            time_left=9.0,
            kind="k",
            schema_hash="h",
            worker_rpc_id="rpc",
        )
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            driver.core.handle(request, 0.0)
            driver.core.view(0.0)
        finally:
            sys.settrace(before)
        return looked

    assert steps(300) <= 1.5 * steps(10)


# -- another size --------------------------------------------------------------------------


def _of(size: PoolSize, **more: Any) -> Driver:
    driver = Driver(size, **more)
    driver.feed(ev.Tick())
    for member in driver.core.roster:
        driver.up(member.worker_id)
    return driver


def test_a_larger_size_starts_workers_at_once() -> None:
    driver = _of(PoolSize(1, 1, 0))
    driver.feed(ev.Resized(PoolSize(2, 9, 1)))
    assert [a.worker_id for a in driver.done if isinstance(a, ev.Spawn)] == ["w2", "w3"]
    assert not driver.core.view(0.0).pool_ready
    assert driver.core.view(0.0).size == driver.core.size == PoolSize(2, 9, 1)


def test_a_smaller_size_retires_the_most_idle_at_once() -> None:
    driver = _of(PoolSize(4, 4, 0))
    driver.feed(ev.Resized(PoolSize(1, 9, 1)))
    assert [a.worker_id for a in driver.done if isinstance(a, ev.Retire)] == ["w1", "w2"]
    assert driver.core.view(0.0).pool_ready


def test_one_over_the_maximum_goes_when_its_lease_ends_whoever_waits() -> None:
    driver = _of(PoolSize(2, 2, 0))
    for request in ("r1", "r2"):
        driver.ask(request)
        worker = driver.one(ev.Serve).worker_id
        driver.feed(ev.ServeAnswered(worker, 1, True))
        driver.feed(driver.info(worker, 1, "rpc-c", taken=True))
    driver.feed(ev.Resized(PoolSize(1, 1, 0)))
    assert driver.none(ev.Retire)
    driver.ask("r3", client="d")
    driver.feed(driver.info("w1", 2))
    assert driver.one(ev.Retire).worker_id == "w1" and driver.none(ev.Serve)
    driver.feed(driver.info("w2", 2))
    assert driver.one(ev.Serve).worker_id == "w2"


def test_those_that_start_count_and_are_waited_for() -> None:
    driver = Driver(PoolSize(4, 4, 0))
    driver.feed(ev.Tick())
    driver.up("w1")
    driver.feed(ev.Resized(PoolSize(1, 1, 0)))
    assert driver.none(ev.Retire)  # the only one that is ready
    for worker_id in ("w2", "w3", "w4"):
        driver.up(worker_id)
    assert driver.core.roster.count(Condition.DRAINING) == 3
    assert driver.core.view(0.0).counts.idle == 1
    driver.feed(ev.Resized(PoolSize(1, 9, 0)))
    assert driver.none(ev.Spawn)


def test_another_quota_lets_who_waits_go_on_and_takes_nothing_away(idle: Driver) -> None:
    idle.ask("r1")
    idle.ask("r2")
    idle.up("w2")
    idle.feed(ev.Resized(PoolSize(1, 3, 1, 1)))  # it has two by now
    assert idle.core.roster.held_by("c") == 2
    idle.ask("r3")
    idle.up("w3")
    assert idle.none(ev.Serve)
    idle.feed(ev.ServeAnswered("w1", 1, True), idle.info("w1", 2))
    assert idle.none(ev.Serve)  # it still has one
    idle.feed(ev.Resized(PoolSize(1, 3, 1, 2)))
    assert idle.one(ev.Serve).waiter.request_id == "r3"


def test_a_surplus_is_not_retired_below_the_minimum() -> None:
    driver = Driver(PoolSize(2, 4, 2), linger=1.0)
    driver.feed(ev.Tick())
    driver.up("w1")
    driver.up("w2")
    driver.feed(ev.Resized(PoolSize(2, 4, 0)))
    assert driver.none(ev.Retire)  # the surplus is still starting
    driver.up("w3")
    assert driver.one(ev.Retire).worker_id == "w1"
