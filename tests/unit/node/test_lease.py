from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from amnode.node.args import WorkerInfo
from amnode.node.policy.lease import (
    Answer,
    ClientLeases,
    End,
    Held,
    Phase,
    Stage,
    Told,
    WorkerLease,
)
from amnode.node.policy.options import LeaseTerms
from amnode.node.policy.waitlist import Waiter

WAITER = Waiter("super", "name", "r1", "rpc", 9.0, 0)


def _info(tick: int, client: str = "", *, taken: bool = False) -> WorkerInfo:
    return WorkerInfo(
        worker_id="w",
        kind="k",
        schema_hash="h",
        leased_tick=tick,
        client_id=client,
        taken=taken,
    )


# -- the supervisor's side -----------------------------------------------------------------


def test_the_epoch_is_the_expected_tick_plus_one() -> None:
    held = Held.ask(WAITER, 4)
    assert held.epoch == 5 and held.is_about(5) and not held.is_about(4)
    assert held.phase is Phase.ASKED and not held.to_withdraw


@pytest.mark.parametrize(
    ("accepted", "wanted", "answer", "phase"),
    [
        (True, True, Answer.GRANT, Phase.GRANTED),
        (True, False, Answer.WITHDRAW, Phase.GRANTED),
        (False, True, Answer.PUT_BACK, Phase.ASKED),
        (None, True, Answer.UNKNOWN, Phase.LOST),
    ],
)
def test_the_answer_to_serve(
    accepted: bool | None, wanted: bool, answer: Answer, phase: Phase
) -> None:
    held = Held.ask(WAITER, 4)
    held.wanted = wanted
    assert held.answered(accepted) is answer
    assert held.phase is phase


def test_a_late_answer_grants_nothing() -> None:
    held = Held.ask(WAITER, 4)
    held.answered(None)
    assert held.answered(None) is Answer.NOTHING
    assert held.to_withdraw
    assert held.answered(True) is Answer.WITHDRAW
    assert held.answered(True) is Answer.NOTHING
    other = Held.ask(WAITER, 4)
    other.answered(None)
    assert other.answered(False) is Answer.PUT_BACK


@pytest.mark.parametrize(
    ("info", "told", "phase"),
    [
        (_info(4), Told.CROSSED, Phase.GRANTED),
        (_info(3, "else"), Told.CROSSED, Phase.GRANTED),
        (_info(5, "rpc"), Told.SAME, Phase.GRANTED),
        (_info(5, "rpc", taken=True), Told.SAME, Phase.TAKEN),
        (_info(5, "else"), Told.OTHER, Phase.GRANTED),
        (_info(7, "rpc"), Told.OTHER, Phase.GRANTED),
        (_info(6), Told.ENDED, Phase.GRANTED),
    ],
)
def test_the_workers_word(info: WorkerInfo, told: Told, phase: Phase) -> None:
    held = Held.ask(WAITER, 4)
    held.answered(True)
    assert held.told(info) is told
    assert held.phase is phase


def test_a_question_that_was_lost_ended_only_by_a_word_on_a_new_connection() -> None:
    held = Held.ask(WAITER, 4)
    held.answered(None)
    assert held.told(_info(4)) is Told.CROSSED
    held.cut = True
    assert held.told(_info(4)) is Told.ENDED


def test_an_answer_is_not_about_a_lease_that_was_only_heard_of() -> None:
    """The worker serves another supervisor's client, and then says no to this one's (S8)."""
    heard = Held.heard(_info(5, "x"), "x")
    assert heard.answered(False) is Answer.NOTHING
    assert heard.phase is Phase.LOST


def test_a_lease_that_was_not_granted_is_withdrawn_unless_it_was_taken() -> None:
    assert Held.heard(_info(5, "x"), "x").to_withdraw
    taken = Held.heard(_info(5, "x", taken=True), "x")
    assert taken.phase is Phase.TAKEN and not taken.to_withdraw
    granted = Held.ask(WAITER, 4)
    granted.answered(True)
    assert not granted.to_withdraw
    granted.wanted = False
    assert granted.to_withdraw


# -- the worker's side ---------------------------------------------------------------------


def _offered(**terms: float) -> WorkerLease:
    lease = WorkerLease()
    assert lease.refusal_to_serve("c", b"s", 4, 4) == ""
    lease.serve("c", b"s", expected_tick=4, terms=LeaseTerms(**terms), now=10.0)
    return lease


def test_it_serves_by_compare_and_set() -> None:
    lease = WorkerLease()
    assert "tick 6, not at 4" in lease.refusal_to_serve("c", b"s", 4, 6)
    assert "needed" in lease.refusal_to_serve("", b"s", 4, 4)
    assert "needed" in lease.refusal_to_serve("c", b"", 4, 4)
    assert not lease.is_beginning
    lease = _offered()
    assert lease.epoch == 5 and lease.is_beginning
    assert "serves c in epoch 5" in lease.refusal_to_serve("d", b"s", 5, 5)
    with pytest.raises(AssertionError, match="S1"):
        lease.serve("d", b"s", expected_tick=5, terms=LeaseTerms(), now=0.0)


def test_a_secret_opens_one_session_of_its_client() -> None:
    lease = _offered()
    assert lease.secret_for("d") is None
    assert lease.secret_for("c") == b"s"
    assert not lease.opened("d")
    assert lease.opened("c") and lease.taken
    assert lease.secret_for("c") is None
    assert not lease.opened("c")


def test_work_counts_only_in_its_epoch_while_the_session_lasts() -> None:
    lease = _offered()
    assert not lease.allows(5)
    lease.opened("c")
    assert lease.allows(5) and not lease.allows(3)
    lease.connection_lost(11.0)
    assert not lease.allows(5)


def test_a_lease_that_is_not_taken_ends_and_is_clean() -> None:
    lease = _offered(delivery_timeout=5.0)
    assert lease.next_deadline() == 15.0
    assert lease.due(14.9) is None
    assert lease.due(15.0) is End.NOT_TAKEN
    assert lease.due(15.0) is None and lease.next_deadline() is None
    assert lease.stage is Stage.RELEASING and lease.clean
    lease.ended()
    assert lease.stage is Stage.FREE and lease.client_id == "" and lease.epoch == 5


def test_a_cut_client_has_its_grace() -> None:
    lease = _offered(grace=2.0)
    lease.connection_lost(10.5)
    assert lease.stage is Stage.OFFERED
    lease.opened("c")
    assert lease.next_deadline() is None
    lease.connection_lost(11.0)
    lease.connection_lost(12.0)
    assert lease.next_deadline() == 13.0
    assert lease.due(13.0) is End.CLIENT_GONE and not lease.clean


def test_the_maximum_ends_it_whatever_it_does() -> None:
    lease = _offered(grace=2.0, maximum=5.0)
    lease.opened("c")
    assert lease.next_deadline() == 15.0
    lease.connection_lost(14.0)
    assert lease.next_deadline() == 15.0
    assert lease.due(16.0) is End.MAXIMUM and not lease.clean


def test_release_and_withdrawal_need_the_epoch() -> None:
    lease = WorkerLease()
    assert "no lease" in lease.refusal_to_end(0, withdraw=False)
    assert not lease.begin_end(End.RELEASED) and not lease.stop()
    assert lease.clean
    lease = _offered()
    assert "no lease of epoch 3" in lease.refusal_to_end(3, withdraw=True)
    assert lease.refusal_to_end(5, withdraw=True) == ""
    lease.opened("c")
    assert "was taken" in lease.refusal_to_end(5, withdraw=True)
    assert lease.refusal_to_end(5, withdraw=False) == ""
    assert lease.begin_end(End.RELEASED) and lease.clean
    assert "ending already" in lease.refusal_to_end(5, withdraw=False)
    assert not lease.begin_end(End.RELEASED)


def test_it_retires_only_when_free_and_asked_by_one_who_knows() -> None:
    lease = _offered()
    assert "serves c" in lease.refusal_to_retire(5, 5)
    assert lease.stop() and lease.end is End.STOPPED and not lease.clean
    lease.ended()
    assert "tick 6" in lease.refusal_to_retire(4, 6)
    assert lease.refusal_to_retire(6, 6) == ""


class WorkerWalk(RuleBasedStateMachine):
    """The door: whatever is tried, one client, one use of a secret, epochs that grow."""

    clients = st.sampled_from("ab")

    def __init__(self) -> None:
        super().__init__()
        self.lease = WorkerLease()
        self.tick = 0
        self.now = 0.0
        self.epochs: list[int] = []
        self.opened: list[int] = []

    @rule(client=clients, off=st.sampled_from([0, 0, 0, -1, 1]))
    def serve(self, client: str, off: int) -> None:
        expected = self.tick + off
        if not self.lease.refusal_to_serve(client, b"s", expected, self.tick):
            terms = LeaseTerms(delivery_timeout=2, grace=1, maximum=5)
            self.lease.serve(client, b"s", expected_tick=expected, terms=terms, now=self.now)
            self.tick += 1
            self.epochs.append(self.lease.epoch)

    @rule(client=clients)
    def open(self, client: str) -> None:
        if self.lease.opened(client):
            assert client == self.lease.client_id
            self.opened.append(self.lease.epoch)

    @rule()
    def cut(self) -> None:
        self.lease.connection_lost(self.now)

    @rule(off=st.sampled_from([0, -2]), withdraw=st.booleans())
    def end(self, off: int, withdraw: bool) -> None:
        epoch = self.lease.epoch + off
        if not self.lease.refusal_to_end(epoch, withdraw):
            assert epoch == self.tick and not (withdraw and self.lease.taken)
            assert self.lease.begin_end(End.RELEASED)

    @rule(step=st.floats(0.0, 3.0))
    def wait(self, step: float) -> None:
        self.now += step
        self.lease.due(self.now)
        at = self.lease.next_deadline()
        assert at is None or at > self.now

    @rule()
    def finish(self) -> None:
        if self.lease.stage is Stage.RELEASING:
            self.lease.ended()
            self.tick += 1

    @invariant()
    def promises(self) -> None:
        assert self.epochs == sorted(set(self.epochs))
        assert len(self.opened) == len(set(self.opened))
        assert (self.tick % 2 == 0) == (self.lease.stage is Stage.FREE)
        if self.lease.stage is not Stage.FREE:
            assert self.now - self.lease.since < 5.0 or self.lease.end is not None


TestWorkerWalk = WorkerWalk.TestCase
TestWorkerWalk.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


# -- the client's side ---------------------------------------------------------------------


def test_a_request_becomes_a_lease() -> None:
    leases = ClientLeases()
    leases.ask("r1", 9.0)
    assert leases.is_asking and not leases.may_leave
    assert leases.pending(4.0) == [("r1", 5.0)] and leases.pending(9.0) == []
    assert leases.granted("r1", "w", 5)
    assert not leases.is_asking and not leases.may_leave
    assert leases.connected("w", 5)
    assert leases.is_holding and leases.may_leave
    assert leases.holds("w", 5) and not leases.holds("w", 3) and not leases.holds("x", 5)
    assert not leases.ended("w", 3)
    assert leases.ended("w", 5) and not leases.is_holding


def test_a_grant_that_nobody_wants_is_returned() -> None:
    leases = ClientLeases()
    assert not leases.granted("r1", "w", 5)
    leases.ask("r1", 9.0)
    assert leases.cancel("r1")
    assert not leases.granted("r1", "w", 5)
    leases.ask("r2", 9.0)
    assert leases.granted("r2", "w", 5)
    assert not leases.granted("r2", "x", 7)  # the second of one request
    assert not leases.cancel("other")
    assert not leases.cancel("r2")  # while connecting: nothing to tell, but the grant
    assert not leases.connected("w", 5)


def test_a_grant_that_cannot_be_used_is_asked_for_again_with_the_time_left() -> None:
    leases = ClientLeases()
    leases.ask("r1", 9.0)
    leases.granted("r1", "w", 5)
    assert leases.failed("w", 5, 4.0) == 5.0
    assert leases.pending(4.0) == [("r1", 5.0)]
    leases.granted("r1", "w", 7)
    assert leases.failed("w", 7, 9.0) is None
    assert leases.failed("w", 7, 9.0) is None
    assert leases.may_leave


def test_requests_end_at_their_deadline_or_by_a_denial() -> None:
    leases = ClientLeases()
    leases.ask("r1", 1.0)
    leases.ask("r2", 2.0)
    assert leases.denied("r2") and not leases.denied("r2")
