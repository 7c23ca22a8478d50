from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from amnode.node.policy.deadlines import Deadlines


def test_what_is_due_comes_in_the_order_of_time() -> None:
    due: Deadlines[str] = Deadlines()
    due.set("b", 2.0)
    due.set("a", 1.0)
    due.set("c", 1.0)
    assert due.next() == 1.0
    assert [due.pop(1.5), due.pop(1.5), due.pop(1.5)] == ["a", "c", None]
    assert due.pop(2.0) == "b"
    assert due.pop(9.0) is None and due.next() is None


def test_a_deadline_is_replaced_cleared_and_never() -> None:
    due: Deadlines[str] = Deadlines()
    due.set("a", 1.0)
    due.set("a", 5.0)
    assert due.get("a") == 5.0 and due.next() == 5.0
    due.set("a", math.inf)
    assert due.get("a") is None and due.next() is None
    due.clear("a")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 100) | st.none()), max_size=400))
def test_it_behaves_as_a_dict(steps: list[tuple[int, int | None]]) -> None:
    due: Deadlines[int] = Deadlines()
    model: dict[int, int] = {}
    for key, at in steps:
        if at is None:
            due.clear(key)
            model.pop(key, None)
        else:
            due.set(key, at)
            model[key] = at
        assert due.next() == min(model.values(), default=None)
        assert len(due) == len(model)
        assert len(due._heap) <= 2 * len(model) + 64
    taken = []
    while (key := due.pop(100)) is not None:
        taken.append(model.pop(key))
    assert taken == sorted(taken) and not model
