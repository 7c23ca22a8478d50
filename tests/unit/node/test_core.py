"""What one event means, case by case; the walks beside it have what follows from many."""

from __future__ import annotations

import sys
from typing import Any, TypeVar

import pytest

from amnode.errors import Cause
from amnode.node.args import WorkerInfo
from amnode.node.policy import events as ev
from amnode.node.policy.core import PoolCore
from amnode.node.policy.options import PoolSize, SupervisorOptions
from amnode.node.policy.roster import Condition
from tests.unit.node.pool_world import Facts

A = TypeVar("A")


class Driver:
    """Feeds the core and keeps what it asked for; a worker is whatever the test says."""

    def __init__(self, size: PoolSize | None = None, **more: Any) -> None:
        given = {"start_timeout": 5.0, "check_timeout": 5.0, **more}
        self.options = SupervisorOptions(size=size or PoolSize(1, 3, 0, 2), **given)
        self.core = PoolCore(
            self.options,
            kind="k",
            schema_hash="h",
            name_worker=lambda n: f"w{n}",
            draw=lambda: 0.0,
        )
        self.now = 0.0
        self.done: list[ev.Action] = []

    def feed(self, *events: ev.Event) -> list[ev.Action]:
        done: list[ev.Action] = []
        for event in events:
            done += self.core.handle(event, self.now)
            self.core.check()
        self.done = done
        return done

    def wait(self, seconds: float) -> list[ev.Action]:
        """Let time pass, with a tick at each deadline."""
        end, done = self.now + seconds, list[ev.Action]()
        while (at := self.core.next_deadline()) is not None and at <= end:
            self.now = at
            done += self.feed(ev.Tick())
        self.now = end
        self.done = done
        return done

    def one(self, kind: type[A]) -> A:
        (found,) = [a for a in self.done if isinstance(a, kind)]
        return found

    def none(self, kind: type[Any]) -> bool:
        return not [a for a in self.done if isinstance(a, kind)]

    def condition(self, worker_id: str) -> Condition:
        member = self.core.roster.get(worker_id)
        assert member is not None
        return member.condition

    def info(self, worker_id: str, tick: int, client: str = "", **more: Any) -> ev.InfoReceived:
        given = {"kind": "k", "schema_hash": "h", **more}
        info = WorkerInfo(worker_id=worker_id, leased_tick=tick, client_id=client, **given)
        return ev.InfoReceived(worker_id, info)

    def up(self, worker_id: str = "w1") -> None:
        """A worker starts well."""
        self.feed(ev.Started(worker_id, 1), ev.CalledBack(worker_id, "unix:x"))
        self.link(worker_id)

    def link(self, worker_id: str, tick: int = 0, client: str = "", **more: Any) -> None:
        self.feed(
            ev.Connected(worker_id),
            ev.ReadyChanged(worker_id, True),
            self.info(worker_id, tick, client, **more),
        )

    def ask(self, request: str = "r1", client: str = "c", **more: Any) -> list[ev.Action]:
        given = {
            "name": client,
            "time_left": 9.0,
            "kind": "k",
            "schema_hash": "h",
            "worker_rpc_id": f"rpc-{client}",
            **more,
        }
        return self.feed(ev.Requested(client_id=client, request_id=request, **given))


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


# -- starting ------------------------------------------------------------------------------


def test_workers_are_started_side_by_side() -> None:
    driver = Driver(PoolSize(2, 9, 3))
    assert driver.feed(ev.Tick()) == [ev.Spawn(f"w{n}", n) for n in range(1, 6)]
    view = driver.core.view(0.0)
    assert view.pool_starting and view.normalizing and not view.pool_ready
    assert view.why_not_growing == "5 workers are starting"
    assert view.counts.total == 5 and view.counts.target == 5


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


# -- requests ------------------------------------------------------------------------------


def test_a_request_is_served_granted_and_ends(idle: Driver) -> None:
    idle.ask()
    serve = idle.one(ev.Serve)
    assert (serve.worker_id, serve.expected_tick, serve.epoch) == ("w1", 0, 1)
    assert serve.waiter.worker_rpc_id == "rpc-c"
    assert idle.condition("w1") is Condition.HANDED_OVER
    idle.feed(ev.ServeAnswered("w1", 1, True))
    assert idle.done == [ev.SendGrant("c", "r1", "w1", 1)]
    idle.feed(idle.info("w1", 1, "rpc-c"))
    assert idle.condition("w1") is Condition.HANDED_OVER
    idle.feed(idle.info("w1", 1, "rpc-c", taken=True))
    assert idle.condition("w1") is Condition.LEASED
    idle.feed(idle.info("w1", 2))
    assert idle.condition("w1") is Condition.IDLE


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"kind": "z"}, ["'k'", "'z'"]),
        ({"schema_hash": "z"}, ["'h'", "'z'"]),
        ({"time_left": 0.0}, ["no time left"]),
        ({"time_left": float("nan")}, ["no time left"]),
    ],
)
def test_a_request_that_cannot_be_is_denied(
    idle: Driver, more: dict[str, Any], words: list[str]
) -> None:
    idle.ask(**more)
    denied = idle.one(ev.SendDenied)
    assert all(word in denied.reason for word in words)
    assert denied.timed_out == ("time_left" in more)


def test_a_request_is_had_once(idle: Driver) -> None:
    idle.ask()
    assert idle.ask() == []  # a worker is being asked
    idle.ask("r2")
    idle.ask("r3")
    assert idle.ask("r3") == []  # it waits
    assert idle.core.view(0.0).counts.waiting == 2


def test_who_waits_makes_the_pool_grow_up_to_its_quota(idle: Driver) -> None:
    idle.ask("r1")
    idle.ask("r2")
    assert idle.one(ev.Spawn).worker_id == "w2"
    idle.ask("r3")  # over its quota of two
    assert idle.none(ev.Spawn)
    idle.up("w2")
    assert "has 2 workers already" in idle.core.view(0.0).why_not_growing
    idle.ask("r4", client="d")
    assert idle.one(ev.Spawn).worker_id == "w3"
    idle.up("w3")
    idle.ask("r5", client="d")
    assert idle.core.view(0.0).why_not_growing == "there are 3 workers, of at most 3"


def test_a_request_times_out_while_it_waits_and_while_it_is_served(idle: Driver) -> None:
    idle.ask("r1", time_left=1.0)
    idle.ask("r2", time_left=1.0)
    idle.wait(1.0)
    denied = [a for a in idle.done if isinstance(a, ev.SendDenied)]
    assert {d.request_id for d in denied} == {"r1", "r2"} and all(d.timed_out for d in denied)
    assert idle.feed(ev.ServeAnswered("w1", 1, True)) == [ev.Withdraw("w1", 1)]


def test_a_refusal_puts_the_request_back_in_its_place(idle: Driver) -> None:
    idle.ask("r1")
    idle.ask("r2")
    idle.feed(ev.ServeAnswered("w1", 1, False, "busy"))
    assert idle.condition("w1") is Condition.IDLE
    assert idle.none(ev.Serve)  # it rests
    idle.wait(0.5)
    assert idle.one(ev.Serve).waiter.request_id == "r1"


def test_a_cancelled_request_costs_no_worker(idle: Driver) -> None:
    idle.ask("r1")
    idle.ask("r2")
    idle.feed(ev.Cancelled("c", "r2"), ev.Cancelled("c", "r9"), ev.Cancelled("c", "r1"))
    assert idle.feed(ev.ServeAnswered("w1", 1, True)) == [ev.Withdraw("w1", 1)]
    assert idle.feed(ev.ServeAnswered("w1", 1, True)) == []
    idle.feed(ev.WithdrawAnswered("w1", 1, True), idle.info("w1", 2))
    assert idle.condition("w1") is Condition.IDLE


def test_a_cancelled_request_that_is_refused_is_gone(idle: Driver) -> None:
    idle.ask("r1")
    idle.feed(ev.Cancelled("c", "r1"), ev.ServeAnswered("w1", 1, False))
    assert idle.core.view(0.0).counts.waiting == 0


def test_a_returned_grant_is_withdrawn_and_asked_again(granted: Driver) -> None:
    back = ev.Returned(client_id="c", request_id="r1", worker_id="w1", epoch=1, again=True)
    granted.feed(back)
    assert granted.one(ev.Withdraw) == ev.Withdraw("w1", 1)
    assert granted.core.view(0.0).counts.waiting == 1
    assert granted.ask() == []  # it waits already
    granted.feed(granted.info("w1", 2))
    assert granted.one(ev.Serve).expected_tick == 2


@pytest.mark.parametrize(
    ("worker_id", "epoch", "client"), [("w9", 1, "c"), ("w1", 3, "c"), ("w1", 1, "thief")]
)
def test_only_its_holder_returns_a_grant(
    granted: Driver, worker_id: str, epoch: int, client: str
) -> None:
    back = ev.Returned(client_id=client, request_id="r1", worker_id=worker_id, epoch=epoch)
    assert granted.feed(back) == []


def test_a_grant_is_returned_after_it_was_taken(granted: Driver) -> None:
    granted.feed(granted.info("w1", 1, "rpc-c", taken=True))
    back = ev.Returned(client_id="c", request_id="r1", worker_id="w1", epoch=1)
    assert granted.feed(back) == []  # the worker's grace ends it
    assert granted.condition("w1") is Condition.LEASED


def test_a_refused_withdrawal_shows_that_it_was_taken(granted: Driver) -> None:
    granted.feed(ev.ClientGone("c"))
    assert granted.done == [ev.Withdraw("w1", 1)]
    granted.feed(ev.WithdrawAnswered("w9", 1, False), ev.WithdrawAnswered("w1", 3, False))
    assert granted.condition("w1") is Condition.HANDED_OVER
    granted.feed(ev.WithdrawAnswered("w1", 1, False))
    assert granted.condition("w1") is Condition.LEASED
    assert granted.feed(ev.ClientGone("c")) == []  # a lease outlives that connection


def test_what_cannot_be_withdrawn_now_is_withdrawn_on_the_next_connection(
    granted: Driver,
) -> None:
    granted.feed(ev.ConnectionLost("w1"), ev.ClientGone("c"))
    assert granted.none(ev.Withdraw)
    granted.wait(0.5)
    granted.link("w1", 1, "rpc-c")
    granted.feed(granted.info("w1", 1, "rpc-c"))
    assert granted.one(ev.Withdraw).epoch == 1


def test_a_client_that_goes_leaves_the_queue(idle: Driver) -> None:
    idle.ask("r1")
    idle.ask("r2")
    idle.feed(ev.ClientGone("c"))
    assert idle.core.view(0.0).counts.waiting == 0
    assert idle.feed(ev.ServeAnswered("w1", 1, True)) == [ev.Withdraw("w1", 1)]


def test_answers_about_what_is_over_are_ignored(idle: Driver) -> None:
    assert idle.feed(ev.ServeAnswered("w1", 1, True)) == []
    assert idle.feed(ev.ServeAnswered("w9", 1, True)) == []
    assert idle.feed(ev.RetireAnswered("w1", True)) == []
    assert idle.feed(ev.WithdrawAnswered("w1", 1, False)) == []


# -- a connection that is lost -------------------------------------------------------------


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


# -- checks and errors ---------------------------------------------------------------------


def test_a_worker_is_checked_and_found_well(idle: Driver) -> None:
    idle.wait(1.0)
    probe = idle.one(ev.Probe)
    assert (probe.attempt, probe.fresh) == (1, False)
    idle.feed(ev.CheckAnswered("w1", probe.check))
    idle.wait(1.0)
    assert idle.one(ev.Probe).check == probe.check + 1


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
    _rest(idle, 5.0)
    assert "not been ready" in idle.one(ev.Retire).reason


# -- ending --------------------------------------------------------------------------------


def _surplus(idle: Driver) -> None:
    idle.ask("r1")
    idle.ask("r2")
    idle.up("w2")
    for worker_id in ("w1", "w2"):
        idle.feed(ev.ServeAnswered(worker_id, 1, True), idle.info(worker_id, 2))


def _rest(driver: Driver, seconds: float) -> list[ev.Action]:
    """Time passes and all workers answer their checks."""
    end, done = driver.now + seconds, list[ev.Action]()
    while (at := driver.core.next_deadline()) is not None and at <= end:
        driver.now = at
        actions = driver.feed(ev.Tick())
        while actions:
            done += actions
            checks = [a for a in actions if isinstance(a, ev.Probe)]
            actions = driver.feed(*(ev.CheckAnswered(a.worker_id, a.check) for a in checks))
    driver.now = end
    driver.done = done
    return done


def test_a_surplus_is_retired_after_its_linger_by_its_own_word(idle: Driver) -> None:
    _surplus(idle)
    _rest(idle, 59.0)
    assert idle.none(ev.Retire)
    _rest(idle, 1.0)
    assert idle.one(ev.Retire) == ev.Retire("w1", 2, "it is one too many")
    idle.feed(ev.RetireAnswered("w1", False, "it serves"))
    assert idle.condition("w1") is Condition.IDLE
    retired = idle.one(ev.Retire).worker_id  # then it is the other's turn
    assert retired == "w2"
    idle.feed(ev.RetireAnswered(retired, True))
    assert idle.condition(retired) is Condition.DYING
    idle.now += 0.1
    idle.feed(ev.Exited(retired, Facts(1, exit_code=0)))
    forgotten = idle.one(ev.Forget)
    assert forgotten.expected and not forgotten.failed_start
    assert idle.none(ev.Spawn)


def test_one_that_agreed_but_does_not_end_is_ended(idle: Driver) -> None:
    idle.feed(*[ev.ErrorSeen("w1", "odd")] * 3, ev.RetireAnswered("w1", True))
    idle.wait(2.0)
    assert idle.one(ev.Terminate).worker_id == "w1"
    idle.wait(2.0)
    assert idle.one(ev.Kill).attempt == 1


def test_no_answer_to_a_retirement_is_asked_again(idle: Driver) -> None:
    idle.feed(*[ev.ErrorSeen("w1", "odd")] * 3, ev.RetireAnswered("w1", None))
    assert idle.condition("w1") is Condition.DRAINING
    idle.wait(0.5)
    assert idle.one(ev.Retire).worker_id == "w1"
    idle.feed(ev.ConnectionLost("w1"))
    idle.wait(0.5)
    idle.link("w1", 0)
    assert idle.one(ev.Retire).worker_id == "w1"


def test_a_draining_worker_that_turns_out_to_serve_is_left_alone(idle: Driver) -> None:
    idle.feed(*[ev.ErrorSeen("w1", "odd")] * 3)
    idle.feed(idle.info("w1", 1, "x", taken=True))
    assert idle.condition("w1") is Condition.LEASED
    assert idle.feed(ev.RetireAnswered("w1", False)) == []
    idle.feed(idle.info("w1", 2))
    assert idle.one(ev.Retire).expected_tick == 2


def test_a_worker_left_unclean_is_replaced(granted: Driver) -> None:
    granted.feed(granted.info("w1", 1, "rpc-c", taken=True))
    granted.feed(granted.info("w1", 2, clean=False))
    assert "uncleanly" in granted.one(ev.Retire).reason
    assert granted.one(ev.Spawn).worker_id == "w2"


@pytest.mark.parametrize("phase", ["asked", "granted", "taken", "unwanted"])
def test_a_death_in_each_phase_of_a_lease(idle: Driver, phase: str) -> None:
    idle.ask()
    if phase != "asked":
        idle.feed(ev.ServeAnswered("w1", 1, True))
    if phase == "taken":
        idle.feed(idle.info("w1", 1, "rpc-c", taken=True))
    if phase == "unwanted":
        back = ev.Returned(client_id="c", request_id="r1", worker_id="w1", epoch=1)
        idle.feed(back)
    idle.now = 10.0 if phase != "asked" else 0.0
    idle.core.next_deadline()
    idle.feed(ev.Exited("w1", Facts(1, signal="SIGKILL"), ("bye",)))
    told = [a for a in idle.done if isinstance(a, ev.SendCrash)]
    assert bool(told) == (phase in ("granted", "taken"))
    if told:
        assert told[0].report.signal == "SIGKILL" and told[0].report.output == ("bye",)
    assert idle.core.view(idle.now).counts.waiting == (1 if phase == "asked" else 0)
    assert idle.one(ev.Spawn).worker_id == "w2"  # replaced at once
    assert idle.core.roster.held_by("c") == 0


def test_news_of_workers_that_are_gone_or_going_change_nothing(pool: Driver) -> None:
    news: list[ev.Event] = [
        ev.Started("w9", 1),
        ev.SpawnFailed("w9", ""),
        ev.Exited("w9", Facts(1)),
        ev.CalledBack("w9", ""),
        ev.Connected("w9"),
        ev.ConnectFailed("w9", ""),
        ev.ConnectionLost("w9"),
        pool.info("w9", 0),
        ev.ReadyChanged("w9", True),
        ev.ErrorSeen("w9", ""),
        ev.CheckAnswered("w9", 1),
        ev.CheckMissed("w9", 1),
        ev.RetireAnswered("w9", True),
        ev.Cancelled("c", "r"),
        ev.ClientGone("c"),
        # not connected yet
        ev.ReadyChanged("w1", True),
        ev.CheckAnswered("w1", 1),
        ev.ConnectionLost("w1"),
        pool.info("w1", 0),
    ]
    assert pool.feed(*news) == []


# -- stopping ------------------------------------------------------------------------------


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


# -- the core's own ------------------------------------------------------------------------


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
