"""How workers are brought to their end."""

from __future__ import annotations

import pytest

from amnode.node.policy import events as ev
from amnode.node.policy.roster import Condition
from tests.unit.node.pool_driver import Driver, rest
from tests.unit.node.pool_world import Facts


def _surplus(idle: Driver) -> None:
    idle.ask("r1")
    idle.ask("r2")
    idle.up("w2")
    for worker_id in ("w1", "w2"):
        idle.feed(ev.ServeAnswered(worker_id, 1, True), idle.info(worker_id, 2))


def test_a_surplus_is_retired_after_its_linger_by_its_own_word(idle: Driver) -> None:
    _surplus(idle)
    rest(idle, 59.0)
    assert idle.none(ev.Retire)
    rest(idle, 1.0)
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


def test_an_end_that_is_seen_before_the_yes_is_no_surprise(idle: Driver) -> None:
    idle.feed(*[ev.ErrorSeen("w1", "odd")] * 3)
    idle.feed(ev.Exited("w1", Facts(1, exit_code=0)))
    assert idle.one(ev.Forget).expected
