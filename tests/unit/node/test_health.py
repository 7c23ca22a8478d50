from __future__ import annotations

import pytest

from amnode.node.policy.health import ErrorLog, Health, Verdict


def test_three_misses_are_a_hang_and_the_third_is_over_a_new_connection() -> None:
    health = Health()
    assert health.ask() == (1, 1, False)
    assert health.missed(1) is Verdict.AGAIN
    assert health.ask() == (2, 2, False)
    assert health.missed(2) is Verdict.AGAIN
    assert health.ask() == (3, 3, True)
    assert health.missed(3) is Verdict.HANG


def test_any_answer_clears_the_slate() -> None:
    health = Health()
    health.ask()
    health.missed(1)
    health.ask()
    health.answered()
    assert health.misses == 0 and not health.outstanding
    assert health.ask() == (3, 1, False)


def test_a_miss_of_another_check_is_ignored() -> None:
    health = Health()
    health.ask()
    assert health.missed(7) is Verdict.IGNORED
    assert health.missed(1) is Verdict.AGAIN
    assert health.missed(1) is Verdict.IGNORED
    assert health.missed(0) is Verdict.AGAIN  # an attempt to connect


def test_one_check_at_a_time() -> None:
    health = Health()
    health.ask()
    with pytest.raises(AssertionError, match="outstanding"):
        health.ask()
    health.suspend()
    assert health.ask() == (2, 1, False)


def test_errors_count_for_their_time() -> None:
    log = ErrorLog(ttl=10.0, recent=2.0, kill=3)
    assert log.clean_at == 0.0 and not log.is_unfit(0.0)
    log.add(1.0, "a")
    log.add(2.0, "b")
    assert log.clean_at == 4.0 and not log.is_unfit(2.0)
    log.add(3.0, "c")
    assert log.is_unfit(3.0) and log.last == "c"
    assert not log.is_unfit(11.5)
    log.add(20.0, "d")
    assert not log.is_unfit(20.0)


def test_a_flood_of_errors_takes_no_memory() -> None:
    log = ErrorLog(ttl=10.0, recent=2.0, kill=3)
    for _ in range(100):
        log.add(1.0, "a")
    assert len(log._times) == 3
