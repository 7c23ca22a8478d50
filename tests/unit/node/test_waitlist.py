from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from amnode.node.policy.waitlist import Waiter, Waitlist


def _list(**room: int) -> tuple[Waitlist, dict[str, int]]:
    return Waitlist(lambda name: room.get(name, 1)), room


def _ids(waiters: list[Waiter]) -> list[str]:
    return [w.request_id for w in waiters]


def test_the_oldest_goes_first_and_a_key_waits_once() -> None:
    waits, _ = _list(a=9)
    assert waits.add("c", "a", "1", "w", 9.0)
    assert not waits.add("c", "a", "1", "w", 9.0)
    assert waits.add("c", "a", "2", "w", 9.0)
    assert ("c", "1") in waits and len(waits) == 2 and waits.eligible == 2
    assert _ids(list(waits)) == ["1", "2"]
    first = waits.take()
    assert first is not None and first.key == ("c", "1")
    waits.put_back(first)
    waits.put_back(first)
    assert waits.take() == first  # in its old place
    second = waits.take()
    assert second is not None and second.request_id == "2"
    assert waits.take() is None and waits.next_deadline() is None


def test_one_over_its_quota_holds_up_nobody_and_keeps_its_place() -> None:
    waits, room = _list(a=0, b=1)
    waits.add("c", "a", "1", "w", 9.0)
    waits.add("d", "b", "2", "w", 9.0)
    waits.add("d", "b", "3", "w", 9.0)
    assert waits.eligible == 1
    taken = waits.take()
    assert taken is not None and taken.request_id == "2"
    room["b"] = 0
    waits.refresh("b")
    assert waits.take() is None
    room["a"] = room["b"] = 1
    waits.refresh("a")
    waits.refresh("b")
    waits.refresh("nobody")
    taken = waits.take()
    assert taken is not None and taken.request_id == "1"
    waits.check()


def test_who_leaves_is_out() -> None:
    waits, _ = _list(a=9)
    for request in "1234":
        waits.add("c" if request < "3" else "d", "a", request, "w", float(request))
    assert waits.remove("c", "9") is None
    gone = waits.remove("c", "1")
    assert gone is not None
    assert _ids(waits.remove_client("c")) == ["2"]
    assert waits.remove_client("c") == []
    assert waits.next_deadline() == 3.0
    assert _ids(waits.expire(3.0)) == ["3"]
    assert _ids(waits.clear()) == ["4"]
    assert waits.eligible == 0
    waits.check()


def test_requests_that_come_and_go_leave_nothing_behind() -> None:
    waits, _ = _list(a=0, b=9)
    waits.add("c", "a", "first", "w", 9.0)
    for n in range(300):
        waits.add("c", "a", str(n), "w", 9.0)
        waits.remove("c", str(n))
        waits.add("d", "b", str(n), "w", 9.0)
        waits.refresh("b")
        waits.remove("d", str(n))
    assert sum(len(line.places) for line in waits._lines.values()) < 40
    assert len(waits._heads) < 40


class Walk(RuleBasedStateMachine):
    """Against a plain list."""

    names = st.sampled_from("ab")

    def __init__(self) -> None:
        super().__init__()
        self.room = {"a": 1, "b": 2}
        self.waits = Waitlist(self.room.__getitem__)
        self.model: list[Waiter] = []
        self.out: list[Waiter] = []
        self.number = 0
        self.now = 0.0

    @rule(name=names, wait=st.integers(1, 9))
    def add(self, name: str, wait: int) -> None:
        self.number += 1
        request = str(self.number)
        self.waits.add(name, name, request, "w", self.now + wait)
        waiter = Waiter(name, name, request, "w", self.now + wait, self.number - 1)
        self.model.append(waiter)

    @rule()
    def take(self) -> None:
        taken = self.waits.take()
        fit = [w for w in sorted(self.model, key=lambda w: w.place) if self.room[w.name] > 0]
        assert taken == (fit[0] if fit else None)
        if taken is not None:
            self.model.remove(taken)
            self.out.append(taken)
            self.room[taken.name] -= 1
            self.waits.refresh(taken.name)

    @precondition(lambda self: self.out)
    @rule(back=st.booleans(), data=st.data())
    def end(self, back: bool, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.out))
        self.out.remove(waiter)
        self.room[waiter.name] += 1
        self.waits.refresh(waiter.name)
        if back:
            self.waits.put_back(waiter)
            self.model.append(waiter)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.model))
        assert self.waits.remove(*waiter.key) == waiter
        self.model.remove(waiter)

    @rule(step=st.integers(0, 4))
    def expire(self, step: int) -> None:
        self.now += step
        gone = self.waits.expire(self.now)
        assert sorted(gone, key=lambda w: w.place) == sorted(
            (w for w in self.model if w.deadline <= self.now), key=lambda w: w.place
        )
        for waiter in gone:
            self.model.remove(waiter)

    @invariant()
    def whole(self) -> None:
        self.waits.check()
        assert len(self.waits) == len(self.model)


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
