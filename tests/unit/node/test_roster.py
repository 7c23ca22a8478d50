from __future__ import annotations

import pytest

from amnode.node.policy.lease import Held
from amnode.node.policy.options import SupervisorOptions
from amnode.node.policy.roster import Condition, Doom, Member, Roster, Step
from amnode.node.policy.waitlist import Waiter
from tests.unit.node.pool_world import FakeWorker


def _member(worker_id: str) -> Member:
    return Member.start(worker_id, 0.0, SupervisorOptions())


def _idle(roster: Roster, worker_id: str, now: float = 0.0) -> Member:
    member = _member(worker_id)
    roster.add(member, now)
    member.has_process = member.linked = member.ready = True
    member.step = Step.GETTING_READY
    member.info = FakeWorker(None, worker_id, 1).info()  # type: ignore[arg-type]
    roster.move(member, Condition.IDLE, None, now)
    return member


def _held(name: str, client: str = "c") -> Held:
    return Held.ask(Waiter(client, name, "r", "rpc", 1.0, 0), 0)


def test_the_last_that_came_is_offered_and_the_first_goes() -> None:
    roster = Roster()
    assert roster.offered() is None and roster.most_idle() is None
    first, last = _idle(roster, "a", 1.0), _idle(roster, "b", 2.0)
    assert roster.offered() is last and roster.most_idle() is first
    assert first.idle_since == 1.0 and roster.available == 2
    roster.refresh(first, 9.0)
    assert first.idle_since == 1.0
    roster.check(9, 9)


@pytest.mark.parametrize("flag", ["blemished", "resting", "unfit"])
def test_what_is_held_against_a_worker_keeps_it_from_being_offered(flag: str) -> None:
    roster = Roster()
    member = _idle(roster, "a")
    setattr(member, flag, "x" if flag == "unfit" else True)
    roster.refresh(member, 1.0)
    assert roster.available == 0
    assert roster.ready == (0 if flag == "blemished" else 1)
    setattr(member, flag, "" if flag == "unfit" else False)
    roster.refresh(member, 5.0)
    assert roster.available == 1 and member.idle_since == 5.0


@pytest.mark.parametrize("flag", ["linked", "ready", "info"])
def test_what_is_not_known_to_be_ready_is_not_offered(flag: str) -> None:
    roster = Roster()
    member = _idle(roster, "a")
    setattr(member, flag, None if flag == "info" else False)
    if flag == "linked":
        member.ready = False
    roster.refresh(member, 1.0)
    assert roster.available == 0
    roster.check(9, 9)


def test_a_missed_check_keeps_it_from_being_offered() -> None:
    roster = Roster()
    member = _idle(roster, "a")
    member.health.missed(0)
    roster.refresh(member, 1.0)
    assert roster.available == 0


def test_quota_counts_by_name_and_the_holder_is_found() -> None:
    roster = Roster()
    members = [_idle(roster, worker_id) for worker_id in "abc"]
    roster.move(members[0], Condition.HANDED_OVER, _held("n"), 0.0)
    roster.move(members[1], Condition.LEASED, _held("n", "d"), 0.0)
    assert roster.held_by("n") == 2 and roster.held_by("m") == 0
    assert roster.in_use == 2 and roster.live == 3 and roster.available == 1
    assert roster.of_client("c") == [(members[0], members[0].held)]
    assert roster.of_client("d") == [(members[1], members[1].held)]
    assert roster.ready == 3
    members[1].doom = Doom("x")
    roster.refresh(members[1], 0.0)
    assert roster.ready == 2
    roster.check(9, 9)
    roster.move(members[0], Condition.IDLE, None, 0.0)
    roster.remove(members[1])
    assert roster.held_by("n") == 0 and roster.of_client("c") == [] and len(roster) == 2
    assert roster.get("b") is None and roster.count(Condition.IDLE) == 2
    roster.check(9, 9)


def test_two_workers_of_one_client() -> None:
    roster = Roster()
    members = [_idle(roster, worker_id) for worker_id in "ab"]
    for member in members:
        roster.move(member, Condition.LEASED, _held("n"), 0.0)
    roster.move(members[0], Condition.IDLE, None, 0.0)
    assert roster.of_client("c") == [(members[1], members[1].held)] and roster.held_by("n") == 1
    roster.check(9, 9)


def test_draining_and_dying_do_not_live() -> None:
    roster = Roster()
    member = _idle(roster, "a")
    for condition in (Condition.DRAINING, Condition.DYING):
        roster.move(member, condition, None, 0.0)
        assert roster.live == 0 and roster.ready == 0


def test_an_id_is_used_once() -> None:
    roster = Roster()
    roster.add(_member("a"), 0.0)
    with pytest.raises(AssertionError, match="S7"):
        roster.add(_member("a"), 0.0)


def test_check_names_the_promise() -> None:
    roster = Roster()
    member = _idle(roster, "a")
    with pytest.raises(AssertionError, match="S7"):
        roster.check(0, 9)
    roster.move(member, Condition.LEASED, _held("n"), 0.0)
    with pytest.raises(AssertionError, match="S9"):
        roster.check(9, 0)
    member.condition = Condition.IDLE
    with pytest.raises(AssertionError, match="S7"):
        roster.check(9, 9)
