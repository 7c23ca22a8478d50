"""How a supervisor that was started again takes over the workers that it finds."""

from __future__ import annotations

from typing import Any

import pytest

from amnode.errors import Cause
from amnode.node.policy import events as ev
from amnode.node.policy.options import PoolSize
from amnode.node.policy.roster import Condition
from tests.unit.node.pool_driver import Driver, rest
from tests.unit.node.pool_world import Facts


def _found(*ids: str, size: PoolSize | None = None, **more: Any) -> Driver:
    driver = Driver(size or PoolSize(len(ids), 3, 0, 2), **more)
    driver.feed(ev.Found(tuple((worker_id, f"unix:{worker_id}") for worker_id in ids)))
    return driver


def test_those_that_are_found_are_connected_to_and_none_is_started_for_them() -> None:
    driver = _found("a", "b")
    assert driver.done == [ev.Connect("a", "unix:a"), ev.Connect("b", "unix:b")]
    assert not driver.core.view(0.0).pool_ready
    driver.link("a")
    driver.link("b")
    view = driver.core.view(0.0)
    assert view.pool_ready and view.counts.idle == 2 and driver.none(ev.Spawn)


def test_those_that_are_missing_are_started() -> None:
    driver = _found("a", size=PoolSize(3, 3, 0))
    assert [a.worker_id for a in driver.done if isinstance(a, ev.Spawn)] == ["w1", "w2"]


def test_nothing_is_granted_before_each_has_told() -> None:
    driver = _found("a", "b")
    driver.link("a")
    driver.ask()
    assert driver.none(ev.Serve)
    assert "1 workers of before" in driver.core.view(0.0).why_not_growing
    driver.link("b", 7, "rc-nc-worker-c.1", taken=True)
    assert driver.one(ev.Serve).worker_id == "a"
    assert driver.condition("b") is Condition.LEASED
    assert driver.core.roster.held_by("c") == 2  # its quota counts what it has


@pytest.mark.parametrize("end", ["stale", "dead", "silent"])
def test_nobody_waits_for_one_that_is(end: str) -> None:
    driver = _found("a", "b")
    driver.link("a")
    driver.ask()
    if end == "stale":
        driver.feed(ev.Stale("b", "stale"))
    elif end == "dead":
        driver.feed(ev.Exited("b", Facts(2, known=False)))
        assert not driver.one(ev.Forget).failed_start
    else:
        rest(driver, 4.9)
        assert driver.none(ev.Serve)
        rest(driver, 0.1)
    assert driver.one(ev.Serve).worker_id == "a"


def test_one_that_never_answers_is_disowned_and_sent_no_signal() -> None:
    driver = _found("a")
    for _ in range(3):
        driver.feed(ev.ConnectFailed("a", "refused"))
        assert driver.none(ev.Kill) and driver.none(ev.Terminate)
        if driver.none(ev.Disown):
            driver.wait(0.5)
    assert driver.one(ev.Disown).worker_id == "a"
    assert driver.one(ev.Spawn).worker_id == "w1"
    assert len(driver.core.roster) == 1


def test_one_that_was_proven_is_ended_like_any_other() -> None:
    driver = _found("a")
    driver.link("a")
    driver.wait(1.0 + 5.0 + 0.5 + 5.0 + 0.5 + 5.0)
    assert driver.one(ev.Kill).worker_id == "a"


def test_another_worker_at_its_address_is_not_taken_for_it() -> None:
    driver = _found("a")
    driver.feed(ev.Connected("a"), ev.ReadyChanged("a", True))
    other = driver.info("b", 0).info
    driver.feed(ev.InfoReceived("a", other))
    assert "there is b" in driver.one(ev.Disown).reason


def test_one_of_another_program_is_replaced_when_it_is_idle() -> None:
    driver = _found("a")
    driver.link("a", 3, "rc-nc-worker-c.1", taken=True, schema_hash="z")
    assert driver.condition("a") is Condition.LEASED
    driver.feed(driver.info("a", 4, schema_hash="z"))
    assert "another program" in driver.one(ev.Retire).reason


def test_its_age_is_that_of_the_worker() -> None:
    driver = _found("a", max_age=100.0, renew_jitter=0.0)
    driver.link("a", age=90.0)
    rest(driver, 10.0)
    assert driver.one(ev.Spawn).worker_id == "w1"


def test_a_stale_supervisor_lets_go_of_a_worker_in_a_lease() -> None:
    driver = _found("a", "b")
    driver.link("a")
    driver.link("b")
    driver.ask()
    served = driver.one(ev.Serve).worker_id
    driver.feed(ev.Stale(served, "stale"))
    assert driver.one(ev.Disown) == ev.Disown(served, "stale")
    assert driver.core.roster.get(served) is None
    assert driver.one(ev.Serve).waiter.request_id == "r1"  # it was put back
    driver.feed(ev.Stale(served, "stale"))
    assert driver.done == []


def test_more_than_may_be_go_when_they_are_idle() -> None:
    driver = _found("a", "b", "c", size=PoolSize(1, 2, 0))
    driver.link("a")
    driver.link("b", 3, "rc-nc-worker-c.1", taken=True)
    driver.link("c", 3, "rc-nc-worker-c.1", taken=True)
    assert driver.condition("a") is Condition.DRAINING


def test_the_client_of_a_lease_that_was_found_is_told_of_a_death() -> None:
    driver = _found("a")
    driver.link("a", 3, "rc-nc-worker-c.1", taken=True)
    driver.feed(ev.Exited("a", Facts(1, known=False)))
    crash = driver.one(ev.SendCrash)
    assert (crash.client_id, crash.epoch) == ("rc-nc-super-c.1", 3)
    assert crash.report.cause == Cause.LOST
