"""What is seen of a worker, and what follows."""

from __future__ import annotations

import pytest

from amnode.errors import Cause
from amnode.node.names import EXIT_HARD_DEADLINE, EXIT_STUCK
from amnode.node.policy import events as ev
from amnode.node.policy.crash import Hang
from amnode.node.policy.options import PoolSize
from amnode.node.policy.roster import Condition
from tests.unit.node.pool_driver import Driver, rest
from tests.unit.node.pool_world import Facts


def test_no_answer_puts_the_request_back_and_counts_the_worker(idle: Driver) -> None:
    idle.ask()
    idle.feed(ev.ConnectionLost("w1"), ev.ServeAnswered("w1", 1, None))
    assert idle.condition("w1") is Condition.HANDED_OVER
    assert idle.core.roster.held_by("c") == 1 and idle.core.view(0.0).counts.waiting == 1
    idle.wait(0.5)
    assert idle.one(ev.Connect) == ev.Connect("w1", "unix:x")
    idle.link("w1", 1, "rpc-c")
    idle.feed(idle.info("w1", 1, "rpc-c"))
    assert idle.done == [ev.Withdraw("w1", 1)]
    idle.feed(idle.info("w1", 2))
    assert idle.one(ev.Serve).expected_tick == 2


def test_a_question_that_never_arrived_frees_the_worker(idle: Driver) -> None:
    idle.ask()
    idle.feed(ev.ServeAnswered("w1", 1, None), idle.info("w1", 0))
    assert idle.condition("w1") is Condition.HANDED_OVER  # it may have crossed
    idle.feed(ev.ConnectionLost("w1"))
    idle.wait(0.5)
    idle.link("w1", 0)
    assert idle.one(ev.Serve).expected_tick == 0


def test_a_word_that_crossed_changes_nothing(idle: Driver) -> None:
    idle.ask()
    idle.feed(idle.info("w1", 0))
    assert idle.condition("w1") is Condition.HANDED_OVER
    idle.feed(ev.ServeAnswered("w1", 1, True), idle.info("w1", 0))
    assert idle.condition("w1") is Condition.HANDED_OVER


def test_an_older_word_is_ignored(idle: Driver) -> None:
    idle.feed(idle.info("w1", 4))
    idle.feed(idle.info("w1", 3, "ghost", taken=True))
    assert idle.condition("w1") is Condition.IDLE
    idle.ask()
    assert idle.one(ev.Serve).expected_tick == 4


def test_a_lease_that_ended_before_the_answer_frees_both(idle: Driver) -> None:
    idle.ask()
    idle.feed(idle.info("w1", 2))
    assert idle.one(ev.Serve).expected_tick == 2
    assert idle.feed(ev.ServeAnswered("w1", 1, True)) == []


def test_a_lease_unknown_to_the_supervisor_is_withdrawn_unless_taken(idle: Driver) -> None:
    idle.feed(idle.info("w1", 1, "stranger"))
    assert idle.done == [ev.Withdraw("w1", 1)]
    idle.feed(idle.info("w1", 1, "stranger", taken=True))
    assert idle.condition("w1") is Condition.LEASED
    idle.feed(idle.info("w1", 3, "other", taken=True))
    assert idle.done == []
    assert idle.core.roster.held_by("other") == 1


def test_a_worker_may_start_with_a_lease(pool: Driver) -> None:
    pool.feed(ev.Started("w1", 1), ev.CalledBack("w1", "x"))
    pool.link("w1", 1, "rpc-c", taken=True)
    assert pool.condition("w1") is Condition.LEASED
    pool.wait(1.0)
    assert not pool.none(ev.Probe)


def test_a_worker_that_cannot_be_reached_again_is_a_hang(idle: Driver) -> None:
    idle.feed(ev.ConnectionLost("w1"), ev.ConnectionLost("w1"))
    assert idle.core.view(0.0).pool_ready is False
    idle.wait(0.5)
    idle.feed(ev.ConnectFailed("w1", "refused"), ev.ConnectFailed("w1", "stale"))
    idle.wait(0.5 + 5.0)  # the second attempt is not answered
    assert idle.none(ev.Kill)
    idle.wait(0.5)
    idle.feed(ev.Connected("w1"))  # but it says nothing
    idle.wait(5.0)
    assert "missed 3 checks" in idle.one(ev.Kill).reason


def test_a_worker_is_checked_and_found_well(idle: Driver) -> None:
    idle.wait(1.0)
    probe = idle.one(ev.Probe)
    assert (probe.attempt, probe.fresh) == (1, False)
    idle.feed(ev.CheckAnswered("w1", probe.check))
    idle.wait(1.0)
    assert idle.one(ev.Probe).check == probe.check + 1


def test_workers_that_answered_at_different_times_are_checked_together() -> None:
    pool = Driver(PoolSize(3, 3))
    pool.feed(ev.Tick())
    for worker_id, pause in (("w1", 0.02), ("w2", 0.03), ("w3", 0.04)):
        pool.up(worker_id)
        pool.wait(pause)
    rest(pool, 20.0)
    found: list[list[str]] = []
    end = pool.now + 3.0
    while (at := pool.core.next_deadline()) is not None and at <= end:
        pool.now = at
        actions = pool.feed(ev.Tick())
        found.append([a.worker_id for a in actions if isinstance(a, ev.Probe)])
        for do in actions:
            if isinstance(do, ev.Probe):
                pool.now += 0.005  # each answer takes its time
                pool.feed(ev.CheckAnswered(do.worker_id, do.check))
    checked = [sorted(names) for names in found if names]
    assert checked == [["w1", "w2", "w3"]] * 3


def test_from_an_answer_as_always_nothing_follows_but_the_next_check(idle: Driver) -> None:
    idle.wait(1.0)
    before = idle.core.decided
    idle.feed(ev.CheckAnswered("w1", 1), ev.CheckAnswered("gone", 1))
    assert idle.core.decided == before + 1  # of one that is unknown it is not known
    idle.wait(1.0)
    idle.feed(ev.CheckMissed("w1", 2))
    before = idle.core.decided
    idle.feed(ev.CheckAnswered("w1", 2))  # late, and it makes the worker leasable again
    assert idle.core.decided == before + 1 and idle.core.shown().workers_available


def test_three_misses_end_it_even_while_it_serves(granted: Driver) -> None:
    granted.wait(1.0 + 5.0 + 0.5 + 5.0 + 0.5)
    probes = [a for a in granted.done if isinstance(a, ev.Probe)]
    assert [p.fresh for p in probes] == [False, False, True]
    granted.wait(5.0)
    assert granted.one(ev.Kill).attempt == 1
    assert granted.condition("w1") is Condition.HANDED_OVER  # until its exit
    granted.wait(2.0)
    assert granted.one(ev.Kill).attempt == 2
    granted.feed(ev.Exited("w1", Facts(1, signal="SIGKILL")))
    crash = granted.one(ev.SendCrash)
    assert (crash.client_id, crash.epoch, crash.report.cause) == ("c", 1, Cause.HANG)
    assert not granted.one(ev.Forget).failed_start
    assert granted.one(ev.Spawn).worker_id == "w2"


@pytest.mark.parametrize("code", [EXIT_HARD_DEADLINE, EXIT_STUCK])
def test_one_that_ends_itself_for_its_job_is_no_failed_start(
    granted: Driver, code: int
) -> None:
    granted.feed(ev.Exited("w1", Facts(1, exit_code=code)))
    assert not granted.one(ev.Forget).failed_start


@pytest.mark.parametrize("code", [EXIT_HARD_DEADLINE, EXIT_STUCK])
def test_one_that_serves_nobody_has_no_such_excuse(idle: Driver, code: int) -> None:
    idle.feed(ev.Exited("w1", Facts(1, exit_code=code)))
    assert idle.one(ev.Forget).failed_start


def test_a_check_that_cannot_be_is_a_miss_once(idle: Driver) -> None:
    idle.wait(1.0)
    check = idle.one(ev.Probe).check
    idle.feed(ev.CheckMissed("w1", check), ev.CheckMissed("w1", check))
    assert not idle.core.view(idle.now).workers_available
    idle.wait(0.5)
    assert idle.one(ev.Probe).attempt == 2


def test_a_supervisor_that_was_held_up_blames_nobody(idle: Driver) -> None:
    idle.wait(1.0)
    idle.now += 60.0
    idle.feed(ev.Tick())
    member = idle.core.roster.get("w1")
    assert member is not None and member.health.misses == 0
    idle.wait(5.0)
    assert member.health.misses == 1


def test_a_worker_with_a_recent_error_is_not_leased(idle: Driver) -> None:
    idle.feed(ev.ErrorSeen("w1", "odd"))
    idle.ask(time_left=100.0)
    assert idle.none(ev.Serve)
    idle.feed(ev.Exited("w2", Facts(2)), ev.SpawnFailed("w2", "x"))
    idle.now = 60.0
    idle.feed(ev.Tick())
    assert idle.one(ev.Serve).worker_id == "w1"


def test_three_errors_retire_it(idle: Driver) -> None:
    idle.feed(*[ev.ErrorSeen("w1", "odd")] * 3)
    retire = idle.one(ev.Retire)
    assert "3 errors within 600 s, the last one: odd" in retire.reason
    assert idle.one(ev.Spawn).worker_id == "w2"  # replaced at once


def test_an_idle_worker_that_stays_unready_is_replaced(idle: Driver) -> None:
    idle.feed(ev.ReadyChanged("w1", False))
    idle.feed(ev.ReadyChanged("w1", True), ev.ReadyChanged("w1", False))
    for _ in range(6):
        idle.wait(1.0)
        member = idle.core.roster.get("w1")
        assert member is not None
        idle.feed(ev.CheckAnswered("w1", member.health.outstanding))
    assert idle.condition("w1") is Condition.DRAINING


def test_one_that_is_not_ready_when_it_is_reached_again_is_replaced(idle: Driver) -> None:
    idle.feed(ev.ConnectionLost("w1"))
    idle.wait(0.5)
    idle.feed(ev.Connected("w1"), idle.info("w1", 0))
    rest(idle, 5.0)
    assert "not been ready" in idle.one(ev.Retire).reason


def test_one_that_hangs_is_looked_at_before_it_is_killed_and_not_again(idle: Driver) -> None:
    while not (kills := [a for a in idle.done if isinstance(a, ev.Kill)]):
        assert idle.core.next_deadline() is not None
        idle.wait(1.0)
    assert [(kill.attempt, kill.hung) for kill in kills] == [(1, True)]
    idle.wait(idle.core.options.term_timeout)
    assert [(a.attempt, a.hung) for a in idle.done if isinstance(a, ev.Kill)] == [(2, False)]
    hang = Hang(stack=("here",))
    idle.feed(ev.Exited("w1", Facts(1, signal="SIGKILL"), ("bye",), hang))
    report = idle.one(ev.Forget).report
    assert report is not None and report.stack == ("here",) and report.cause == Cause.HANG
