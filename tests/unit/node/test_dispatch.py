from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from amnode.node.policy.dispatch import Dispatch
from amnode.node.policy.options import DispatchOptions

OPTIONS = DispatchOptions(keep=1.0, hold=5.0, ahead=4)


def _with(count: int, now: float = 0.0) -> Dispatch:
    dispatch = Dispatch(OPTIONS)
    for key in range(count):
        dispatch.came(key, now)
    return dispatch


def test_a_call_goes_to_the_worker_with_the_fewest_calls() -> None:
    dispatch = _with(2)
    given: list[int] = []
    for _ in range(4):
        key = dispatch.place(2)
        assert key is not None
        dispatch.sent(key, alone=False)
        given.append(key)
    assert sorted(given[:2]) == sorted(given[2:]) == [0, 1]
    assert dispatch.place(2) is None
    assert dispatch.place(3) is not None
    assert dispatch.ahead == 2


def test_of_idle_workers_the_one_that_rested_last_gets_it() -> None:
    dispatch = _with(3)
    dispatch.sent(0, alone=False)
    assert not dispatch.ended(0, 0.5)
    assert dispatch.place(1) == 0


def test_no_worker_gets_more_than_the_option_allows() -> None:
    dispatch = _with(1)
    for _ in range(OPTIONS.ahead):
        assert dispatch.place(99) == 0
        dispatch.sent(0, alone=False)
    assert dispatch.place(99) is None


def test_nothing_is_sent_behind_a_call_that_is_not_short() -> None:
    dispatch = _with(2)
    dispatch.sent(1, alone=True)
    dispatch.sent(0, alone=False)
    assert dispatch.place(9) == 0
    dispatch.late(0)
    assert dispatch.place(9) is None
    assert dispatch.open == 2
    assert dispatch.to_return(0.0, others=True, limit=9) == []
    assert dispatch.open == 1
    assert not dispatch.ended(1, 1.0)
    assert dispatch.place(9) == 1
    assert dispatch.ended(0, 1.0)
    dispatch.late(0)
    assert dispatch.place(9) == 1


def test_so_many_are_asked_for_as_have_something_to_do_and_no_more_than_may_be() -> None:
    dispatch = _with(1)
    assert dispatch.to_ask(waiting=1, asked=0, limit=4) == 0  # the idle one takes it
    assert dispatch.to_ask(waiting=3, asked=1, limit=4) == 1
    assert dispatch.to_ask(waiting=99, asked=1, limit=4) == 2
    dispatch.sent(0, alone=False)
    assert dispatch.to_ask(waiting=1, asked=0, limit=1) == 0
    assert dispatch.to_ask(waiting=1, asked=0, limit=0) == 0


def test_an_idle_lease_goes_back_after_a_moment() -> None:
    dispatch = _with(2)
    dispatch.sent(1, alone=False)
    assert dispatch.next_look(0.0) == 1.0
    assert dispatch.to_return(0.9, others=False, limit=9) == []
    assert dispatch.to_return(1.0, others=False, limit=9) == [0]
    dispatch.gone(0)
    assert (len(dispatch), dispatch.open, dispatch.load(0), dispatch.load(1)) == (1, 1, 0, 1)
    dispatch.gone(0)  # again changes nothing
    assert not dispatch.ended(0, 2.0)
    assert dispatch.next_look(1.0) == 5.0


def test_a_busy_lease_goes_back_between_two_calls_one_after_the_other() -> None:
    dispatch = _with(2)
    for key in (0, 1):
        dispatch.sent(key, alone=False)
    assert dispatch.to_return(4.9, others=False, limit=9) == []
    assert dispatch.to_return(5.0, others=False, limit=9) == []  # it has a call
    assert dispatch.open == 1
    assert dispatch.place(2) == 1  # the one that is going gets no more
    assert dispatch.to_return(5.5, others=False, limit=9) == []
    assert dispatch.open == 1  # the other one stays until the first is gone
    assert dispatch.next_look(5.5) == 5.75  # and is not asked for at once
    assert dispatch.ended(0, 6.0)
    dispatch.gone(0)
    dispatch.came(2, 6.0)
    assert dispatch.to_return(6.0, others=False, limit=9) == []
    assert dispatch.ended(1, 6.5)
    dispatch.gone(1)
    assert dispatch.next_look(6.5) == 7.0


def test_others_that_wait_get_the_one_with_the_least_to_do() -> None:
    dispatch = _with(2)
    for key in (0, 0, 1):
        dispatch.sent(key, alone=False)
    assert dispatch.to_return(0.1, others=True, limit=9) == []
    assert dispatch.to_return(0.2, others=True, limit=9) == []  # one after the other
    assert dispatch.place(9) == 0
    assert dispatch.ended(1, 0.3)
    dispatch.gone(1)
    assert dispatch.to_return(0.4, others=False, limit=9) == []
    assert dispatch.place(9) == 0


def test_what_is_more_than_may_be_goes() -> None:
    dispatch = _with(3)
    dispatch.sent(0, alone=False)
    assert sorted(dispatch.to_return(0.1, others=False, limit=1)) == [1, 2]
    assert dispatch.open == 1
    assert sorted(dispatch.to_return(0.1, others=False, limit=0)) == [1, 2]
    assert dispatch.open == 0
    dispatch.gone(0)
    assert dispatch.ahead == 0
    assert dispatch.to_return(0.1, others=True, limit=0) == [1, 2]


def test_without_workers_there_is_nothing_to_look_at() -> None:
    assert Dispatch(OPTIONS).next_look(0.0) is None
    assert Dispatch(OPTIONS).place(1) is None


class Model(RuleBasedStateMachine):
    """Any sequence of what may happen: each slot stays where its data says."""

    def __init__(self) -> None:
        super().__init__()
        self.dispatch = Dispatch(OPTIONS)
        self.load: dict[int, int] = {}
        self.shut: set[int] = set()
        self.next = 0
        self.now = 0.0

    @rule(step=st.floats(0.0, 3.0))
    def time_passes(self, step: float) -> None:
        self.now += step

    @rule()
    def one_comes(self) -> None:
        self.dispatch.came(self.next, self.now)
        self.load[self.next] = 0
        self.next += 1

    @rule(depth=st.integers(1, 9), alone=st.booleans())
    def a_call(self, depth: int, alone: bool) -> None:
        key = self.dispatch.place(depth)
        if key is not None:
            assert self.load[key] < min(depth, OPTIONS.ahead)
            assert key not in self.shut
            self.dispatch.sent(key, alone=alone)
            self.load[key] += 1
            self.shut |= {key} if alone else set()

    @precondition(lambda self: any(self.load.values()))
    @rule(data=st.data())
    def one_is_late(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([key for key, load in self.load.items() if load]))
        self.dispatch.late(key)
        self.shut |= {key}

    @precondition(lambda self: any(self.load.values()))
    @rule(data=st.data())
    def an_answer(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([key for key, load in self.load.items() if load]))
        self.load[key] -= 1
        self.shut -= {key}
        if self.dispatch.ended(key, self.now):
            assert not self.load.pop(key)
            self.dispatch.gone(key)

    @precondition(lambda self: self.load)
    @rule(data=st.data())
    def one_dies(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(list(self.load)))
        del self.load[key]
        self.dispatch.gone(key)

    @rule(others=st.booleans(), limit=st.integers(0, 5))
    def a_look(self, others: bool, limit: int) -> None:
        for key in self.dispatch.to_return(self.now, others=others, limit=limit):
            assert not self.load.pop(key)
            self.dispatch.gone(key)
        assert self.dispatch.open <= limit

    @invariant()
    def holds(self) -> None:
        self.dispatch.check()
        assert len(self.dispatch) == len(self.load)
        at = self.dispatch.next_look(self.now)
        assert (at is None) == (not self.load)
        assert at is None or at > self.now


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
