"""When a worker has served long enough, and how another takes its place."""

from __future__ import annotations

from typing import Any

import pytest

from amnode.node.policy import events as ev
from amnode.node.policy.options import PoolSize
from amnode.node.policy.roster import Condition
from tests.unit.node.pool_driver import Driver, rest
from tests.unit.node.pool_world import Facts

ROLLING = "all workers are being restarted"


def _pool(size: PoolSize, **more: Any) -> Driver:
    """Started and idle, all of it."""
    driver = Driver(size, renew_jitter=0.0, **more)
    driver.feed(ev.Tick())
    for member in driver.core.roster:
        driver.up(member.worker_id)
    return driver


def _gone(driver: Driver, worker_id: str) -> None:
    driver.feed(ev.RetireAnswered(worker_id, True))
    driver.feed(ev.Exited(worker_id, Facts(1, exit_code=0)))


def _retiring(driver: Driver) -> list[str]:
    return [a.worker_id for a in driver.done if isinstance(a, ev.Retire)]


@pytest.mark.parametrize(
    ("limit", "told", "why"),
    [
        ({"max_jobs": 5}, {"jobs_done": 5}, "it has done 5 jobs"),
        ({"max_rss": 1000}, {"rss": 1000}, "it has 1000 resident bytes"),
    ],
)
def test_a_worn_worker_goes_when_another_has_taken_its_place(
    limit: dict[str, int], told: dict[str, int], why: str
) -> None:
    driver = _pool(PoolSize(1, 2, 0), **limit)
    almost = {key: value - 1 for key, value in told.items()}
    assert driver.feed(driver.info("w1", 0, **almost)) == []
    driver.feed(driver.info("w1", 0, **told))
    assert driver.done == [ev.Spawn("w2", 2)]
    assert driver.core.view(0.0).pool_ready
    driver.up("w2")
    assert driver.one(ev.Retire) == ev.Retire("w1", 0, why)
    _gone(driver, "w1")
    assert driver.none(ev.Spawn)
    assert driver.core.view(0.0).counts.total == 1


def test_an_old_worker_is_worn_by_its_age_alone() -> None:
    driver = _pool(PoolSize(1, 2, 0), max_age=100.0)
    rest(driver, 99.0)
    assert driver.none(ev.Spawn)
    rest(driver, 1.0)
    assert driver.one(ev.Spawn).worker_id == "w2"
    driver.up("w2")
    assert driver.one(ev.Retire).reason == "it is 100 s old"


def test_the_limits_of_each_worker_are_lower_by_its_own_chance() -> None:
    draws = iter([0.0, 1.0])
    driver = Driver(
        PoolSize(2, 4, 0), draw=lambda: next(draws), renew_jitter=0.5, max_age=100.0
    )
    driver.feed(ev.Tick())
    limits = [member.limits.age for member in driver.core.roster]
    assert limits == [100.0, 50.0]


def test_a_worker_is_not_replaced_while_it_serves() -> None:
    driver = _pool(PoolSize(1, 3, 0), max_age=10.0)
    driver.ask()
    driver.feed(ev.ServeAnswered("w1", 1, True), driver.info("w1", 1, "rpc-c", taken=True))
    rest(driver, 20.0)
    assert driver.none(ev.Spawn) and driver.condition("w1") is Condition.LEASED
    driver.feed(driver.info("w1", 2))
    assert driver.one(ev.Spawn).worker_id == "w2"  # now it is
    driver.ask("r2")
    assert driver.one(ev.Serve).worker_id == "w1"  # it is worn, not spent


def test_one_that_has_done_its_jobs_is_offered_to_nobody() -> None:
    driver = _pool(PoolSize(1, 3, 0), max_jobs=1)
    driver.feed(driver.info("w1", 0, jobs_done=1))
    driver.ask()
    assert driver.none(ev.Serve)
    driver.up("w2")
    assert driver.one(ev.Serve).worker_id == "w2"


def test_where_there_is_no_room_one_goes_first() -> None:
    driver = _pool(PoolSize(2, 3, 1), max_rss=10)
    for worker_id in ("w1", "w2"):
        driver.feed(driver.info(worker_id, 0, rss=10))
        assert _retiring(driver) == (["w1"] if worker_id == "w1" else [])
    _gone(driver, "w1")
    assert driver.one(ev.Spawn).worker_id == "w4"
    driver.up("w4")  # only now, so that never fewer than two are ready
    assert _retiring(driver) == ["w2"]


@pytest.mark.parametrize(("limit", "told"), [("max_rss", "rss"), ("max_jobs", "jobs_done")])
def test_where_min_is_max_they_go_one_after_another_unless_they_are_spent(
    limit: str, told: str
) -> None:
    driver = _pool(PoolSize(2, 2, 0), **{limit: 10})
    driver.feed(driver.info("w1", 0, **{told: 10}))
    assert _retiring(driver) == ["w1"]
    driver.feed(driver.info("w2", 0, **{told: 10}))
    assert _retiring(driver) == (["w2"] if limit == "max_jobs" else [])
    _gone(driver, "w1")
    driver.up("w3")
    assert driver.none(ev.Retire) == (limit == "max_jobs")


@pytest.mark.parametrize("at_once", [1, 2])
def test_where_there_is_no_room_so_many_go_side_by_side(at_once: int) -> None:
    driver = _pool(PoolSize(1, 4, 3), max_rss=10, renew_at_once=at_once)
    driver.feed(*(driver.info(f"w{n}", 0, rss=10) for n in range(1, 5)))
    assert _retiring(driver) == ["w1", "w2"][:at_once]
    _gone(driver, "w1")
    assert driver.one(ev.Spawn).worker_id == "w5" and driver.none(ev.Retire)


def test_one_that_cannot_be_asked_stays() -> None:
    driver = _pool(PoolSize(1, 2, 0), max_age=10.0)
    driver.now = 9.9
    driver.feed(ev.ConnectionLost("w1"))
    driver.wait(0.2)
    assert driver.one(ev.Spawn).worker_id == "w2"
    driver.up("w2")
    assert driver.none(ev.Retire)
    driver.link("w1", 0)
    driver.wait(0.5)
    driver.link("w1", 0)
    assert driver.condition("w1") is Condition.DRAINING


def test_a_rolling_restart_replaces_so_many_side_by_side() -> None:
    driver = _pool(PoolSize(3, 9, 0), renew_at_once=2)
    driver.feed(ev.RestartRequested())
    assert [a.worker_id for a in driver.done if isinstance(a, ev.Spawn)] == ["w4", "w5"]
    assert driver.core.view(0.0).to_restart == 3
    driver.up("w4")
    assert _retiring(driver) == ["w1"]
    driver.up("w5")
    assert _retiring(driver) == ["w2"]
    for worker_id in ("w1", "w2"):
        _gone(driver, worker_id)
    driver.up("w6")
    assert _retiring(driver) == ["w3"]
    _gone(driver, "w3")
    view = driver.core.view(0.0)
    assert view.to_restart == 0 and view.counts.idle == 3


def test_one_that_is_restarted_goes_whatever_its_limits_say_where_there_is_no_room() -> None:
    driver = _pool(PoolSize(1, 1, 0), max_jobs=1)
    driver.feed(ev.RestartRequested())
    assert driver.none(ev.Retire)
    driver.feed(driver.info("w1", 0, jobs_done=1))
    assert driver.one(ev.Retire).worker_id == "w1"


def test_a_rolling_restart_waits_where_there_is_no_room() -> None:
    driver = _pool(PoolSize(2, 2, 0))
    assert driver.feed(ev.RestartRequested()) == []
    driver.feed(ev.Resized(PoolSize(2, 3, 0)))
    assert driver.one(ev.Spawn).worker_id == "w3"
    driver.up("w3")
    assert driver.one(ev.Retire).reason == ROLLING


def test_those_that_start_are_restarted_too_and_those_that_end_are_awaited() -> None:
    driver = Driver(PoolSize(1, 3, 1))
    driver.feed(ev.Tick())
    driver.up("w1")
    driver.feed(*[ev.ErrorSeen("w1", "odd")] * 3, ev.RetireAnswered("w1", True))
    driver.feed(ev.RestartRequested())
    assert driver.core.view(0.0).to_restart == 3
    driver.feed(ev.Exited("w1", Facts(1, exit_code=0)))
    assert driver.core.view(0.0).to_restart == 2
    driver.up("w2")
    driver.up("w3")
    assert driver.core.roster.count(Condition.STARTING) == 1  # what is to replace them


def test_no_restart_is_begun_at_a_stop() -> None:
    driver = _pool(PoolSize(1, 2, 0))
    driver.feed(ev.RestartRequested(), ev.StopRequested())
    assert driver.core.view(0.0).to_restart == 0
    driver.feed(ev.RestartRequested())
    assert driver.core.view(0.0).to_restart == 0


def test_one_that_says_no_is_asked_again() -> None:
    driver = _pool(PoolSize(1, 2, 0), max_jobs=1)
    driver.feed(driver.info("w1", 0, jobs_done=1))
    driver.up("w2")
    driver.feed(ev.RetireAnswered("w1", False, "not now"))
    assert driver.none(ev.Retire)
    driver.wait(0.5)
    assert driver.one(ev.Retire).worker_id == "w1"
