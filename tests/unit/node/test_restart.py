from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from amnode.node.policy.options import SupervisorOptions
from amnode.node.policy.restart import Restart

OPTIONS = SupervisorOptions(restart_intensity=3, restart_period=10.0, back_off_cap=8.0)


def _broken(at: float = 0.0) -> Restart:
    restart = Restart(OPTIONS)
    for number in range(3):
        restart.failed(f"w{number}", at, f"why {number}", 0.0)
    return restart


def test_nothing_is_held_back_until_a_start_fails() -> None:
    restart = Restart(OPTIONS)
    for number in range(99):
        assert restart.may_start(0.0)
        restart.started(f"w{number}", 0.0)
    assert not restart.is_open and restart.next_start(3.0) == 3.0


def test_too_many_failures_open_the_breaker_and_say_why() -> None:
    restart = Restart(OPTIONS)
    restart.failed("w1", 0.0, "why 1", 0.0)
    restart.failed("w2", 0.5, "why 2", 0.0)
    assert restart.may_start(0.5) and not restart.reason
    restart.failed("w3", 1.0, "why 3", 0.0)
    assert restart.is_open
    assert restart.reason == "3 starts failed within 10 s; the last one: why 3"
    assert not restart.may_start(1.9)
    assert restart.next_start(1.5) == 2.0
    assert restart.may_start(2.0)


def test_failures_that_are_long_past_do_not_count() -> None:
    restart = Restart(OPTIONS)
    for at in (0.0, 6.0, 12.0, 18.0):
        restart.failed("w", at, "why", 0.0)
    assert not restart.is_open
    assert restart.may_start(28.0)


def test_one_trial_at_a_time_whose_failure_doubles_the_wait() -> None:
    restart = _broken()
    assert restart.may_start(1.0)
    restart.started("t1", 1.0)
    assert restart.next_start(5.0) is None and not restart.may_start(5.0)
    restart.failed("w9", 1.5, "another", 0.0)  # not the trial: nothing new
    restart.failed("t1", 2.0, "again", 0.0)
    assert restart.next_start(2.0) == 4.0
    restart.started("t2", 4.0)
    restart.failed("t2", 4.0, "again", 0.5)
    assert restart.next_start(4.0) == 4.0 + 4.0 * 0.9
    restart.started("t3", 7.6)
    restart.failed("t3", 7.6, "again", 0.0)
    assert restart.next_start(7.6) == 15.6  # the cap


def test_a_trial_that_is_ready_closes_it_and_a_relapse_opens_it_at_once() -> None:
    restart = _broken()
    restart.started("t", 1.0)
    restart.ready("other")
    assert restart.is_open
    restart.ready("t")
    assert not restart.is_open and restart.may_start(1.1)
    restart.started("x", 1.1)
    restart.failed("x", 1.2, "again", 0.0)
    assert restart.is_open and restart.next_start(1.2) == 3.2


def test_it_is_forgotten_when_a_later_start_has_settled() -> None:
    restart = _broken(at=1.0)
    restart.settled(0.5)  # was started before the failures: says nothing
    assert restart.is_open
    restart.started("t", 2.0)
    restart.ready("t")
    restart.settled(2.0)
    for number in range(9):
        assert restart.may_start(7.0)
        restart.started(f"x{number}", 7.0)
    restart.failed("y", 7.1, "why", 0.0)
    assert not restart.is_open


def test_a_whole_pool_has_no_breaker() -> None:
    restart = _broken()
    restart.whole()
    assert not restart.is_open
    restart.failed("w", 0.1, "again", 0.0)
    assert restart.is_open


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.floats(0.0, 1.0)), min_size=1, max_size=80))
def test_a_start_failure_loop_never_passes_the_intensity(
    steps: list[tuple[float, float]],
) -> None:
    restart = Restart(OPTIONS)
    restart.failed("w0", 0.0, "why", 0.0)
    now, started = 0.0, list[float]()
    for number, (wait, draw) in enumerate(steps):
        now += wait
        while restart.may_start(now):  # as many as it lets us
            restart.started(f"w{number}", now)
            started.append(now)
            restart.failed(f"w{number}", now, "why", draw)
        at = restart.next_start(now)
        assert at is not None and at - now <= max(OPTIONS.back_off_cap, OPTIONS.restart_period)
    for at in started:
        window = [t for t in started if at - OPTIONS.restart_period + 1e-9 < t <= at]
        assert len(window) <= OPTIONS.restart_intensity
